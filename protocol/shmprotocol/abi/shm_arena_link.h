/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_link.h - what the owner of an arena hears from the host: which ledgers there are. See shm_arena.h.
 *
 * A message about a ledger is taken off the control socket only when it was heeded. Where descriptors or memory are
 * short, it stays there: nothing is used again until they are not, and nothing is lost.
 */
#ifndef SHM_ARENA_LINK_H
#define SHM_ARENA_LINK_H

#include "shm_arena_copy.h"
#include "shm_arena_heap.h"
#include "shm_arena_read.h"

#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define SHM_CATCH_UP_MS 20 /* for the host to send what it has queued: it needs some us, if it is not stopped */

/* A ledger as an owner knows it: what is in it can be a lie. */
struct shm_known_ledger {
        uint64_t number;
        const struct shm_ledger *ledger;
        uint64_t size; /* of the mapping */
        int32_t pid;   /* of its client, as the host sees it; 0: not known */
        int32_t event; /* a socket, by which it is woken */
        uint64_t held; /* blocks of this arena that it kept from being used, when it was last looked at */
};

struct shm_description;

/* The state of an owner; private, and of one process. One thread at a time may use it. */
struct shm_arena_owner {
        struct shm_arena arena; /* as a reader sees it; its `base` can be written here */
        struct shm_arena_control *control;
        uint32_t *slots;
        struct shm_arena_entry *entries;
        int socket;   /* the control socket; -1: closed */
        int is_alone; /* the host has closed it */
        int is_populated; /* so is what it grows by */
        int is_quiet; /* shm_arena_loan() does not ask for more memory */
        struct shm_heap heap;
        size_t pages_room; /* bytes of heap.pages */

        struct shm_known_ledger *ledgers;
        size_t ledgers_room;
        uint32_t ledger_count;
        uint32_t heard;      /* messages about ledgers */
        uint32_t waited_for; /* as many as the word told of when they did not come */

        uint64_t *retired; /* blocks */
        size_t retired_room;
        uint64_t retired_count;
        uint64_t retired_bytes;
        uint64_t kept_count; /* of the retired ones, those that were held when the ledgers were last looked at */
        uint64_t kept_bytes;
        uint64_t looked_at; /* holds, that time */

        uint32_t *absent; /* a ring of entries whose name went; each once */
        uint8_t *is_listed;
        uint64_t absent_first;
        uint64_t absent_count;

        struct shm_description *descriptions;
        struct shm_description *described; /* that of the last value; NULL: none */
        uint32_t description_count;
        struct shm_copying copying;
        void *board; /* that a host handed over to, mapped here; NULL: the line is the caller's */
        uint64_t board_size;
        const struct shm_board_line *asked; /* the line that has moved, and whose place was asked for */

        struct shm_holds own; /* a ledger in private memory, for readers in this process */
        struct shm_arena_message answer; /* the last one to READY or GROW */
};

/* Private memory of zeros; NULL: there is none. */
static inline void *shm_private(size_t size)
{
        void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        return memory == MAP_FAILED ? NULL : memory;
}

/* Let private memory have at least `size` bytes. Returns where it is now, or NULL: it is as it was. */
static inline void *shm_private_grow(void *memory, size_t *room, size_t size)
{
        size_t wanted = *room ? *room : SHM_HEAP_PAGE;
        void *grown;

        while (wanted < size)
                wanted *= 2;
        if (memory != NULL && wanted == *room)
                return memory;
        grown = memory == NULL ? shm_private(wanted) : mremap(memory, *room, wanted, MREMAP_MAYMOVE);
        if (grown == NULL || grown == MAP_FAILED)
                return NULL;
        *room = wanted;
        return grown;
}

/*
 * Raise the event of a client: a socket, because that must not wait, whatever the client does to its end. An eventfd
 * has its flags where the client can change them, and so could stop the owner.
 */
static inline void shm_event_raise(int event)
{
        uint64_t one = 1;

        (void)send(event, &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL); /* if it is full, it can be read anyway */
}

static inline void shm_wake_word(const struct shm_arena *arena, uint64_t at)
{
        (void)syscall(SYS_futex, arena->base + at, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* The offset in the arena of the word on which a client sleeps. */
static inline uint64_t shm_wake_offset(const struct shm_arena *arena, uint64_t wait)
{
        return (wait & ~(uint64_t)3) - arena->home;
}

#define SHM_ANY_CHANGE (SHM_HEADER_SIZE + offsetof(struct shm_arena_control, changes))

/*
 * Look who of a ledger sleeps on the word at this offset, or on any change, and raise its event if that is asked for.
 * Returns 1: somebody sleeps on the word; + 2: on any change.
 */
static inline int shm_wake_ledger(const struct shm_arena *arena, const struct shm_ledger *ledger, int event,
                                  uint64_t word)
{
        uint64_t count = __atomic_load_n(&ledger->waits_high, __ATOMIC_SEQ_CST), i;
        int is_event = 0, futexes = 0;

        for (i = 0; i < count && i < SHM_LEDGER_WAITS; i++) {
                uint64_t wait = __atomic_load_n(&ledger->waits[i], __ATOMIC_SEQ_CST);
                uint64_t at = shm_wake_offset(arena, wait);

                if (wait == 0 || (at != word && at != SHM_ANY_CHANGE))
                        continue;
                if (wait & 1)
                        is_event = 1;
                else
                        futexes |= at == word ? 1 : 2;
        }
        if (is_event)
                shm_event_raise(event);
        return futexes;
}

/* Wake all of a ledger: they can have slept before the owner knew of it. */
static inline void shm_wake_all(const struct shm_arena *arena, const struct shm_ledger *ledger, int event)
{
        uint64_t count = __atomic_load_n(&ledger->waits_high, __ATOMIC_SEQ_CST), i;

        for (i = 0; i < count && i < SHM_LEDGER_WAITS; i++) {
                uint64_t wait = __atomic_load_n(&ledger->waits[i], __ATOMIC_SEQ_CST);

                if (wait & 1)
                        shm_event_raise(event);
                else if (wait != 0 && shm_wake_offset(arena, wait) < arena->size)
                        shm_wake_word(arena, shm_wake_offset(arena, wait));
        }
}

/* Take the ledger of a message. Returns 0 or -errno; the descriptor of its event is the owner's then, and no other. */
static inline int shm_owner_join(struct shm_arena_owner *owner, const struct shm_arena_message *message,
                                 const int *descriptors)
{
        struct shm_known_ledger *known;
        struct stat status;
        void *grown = shm_private_grow(owner->ledgers, &owner->ledgers_room,
                                       (owner->ledger_count + 1) * sizeof(*owner->ledgers));
        void *mapped = MAP_FAILED;

        if (grown == NULL)
                return -ENOMEM;
        owner->ledgers = (struct shm_known_ledger *)grown;
        /* It must not shrink under us; how large it is, its client cannot choose. */
        if (fstat(descriptors[0], &status) < 0 || (shm_seals_get(descriptors[0]) & SHM_F_SEAL_SHRINK) == 0 ||
            status.st_size < (off_t)sizeof(struct shm_ledger))
                return -EBADMSG;
        mapped = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, descriptors[0], 0);
        if (mapped == MAP_FAILED)
                return -errno;
        known = &owner->ledgers[owner->ledger_count++];
        known->number = message->number;
        known->ledger = (const struct shm_ledger *)mapped;
        known->size = (uint64_t)status.st_size;
        known->pid = message->code;
        known->event = descriptors[1];
        known->held = 0;
        shm_wake_all(&owner->arena, known->ledger, known->event);
        return 0;
}

static inline void shm_owner_drop(struct shm_arena_owner *owner, uint32_t i)
{
        munmap((void *)(uintptr_t)owner->ledgers[i].ledger, (size_t)owner->ledgers[i].size);
        close(owner->ledgers[i].event);
        owner->ledgers[i] = owner->ledgers[--owner->ledger_count];
}

static inline void shm_owner_forget(struct shm_arena_owner *owner, uint64_t number)
{
        uint32_t i;

        for (i = 0; i < owner->ledger_count; i++)
                if (owner->ledgers[i].number == number) {
                        shm_owner_drop(owner, i);
                        return;
                }
}

/* The line of a board that came with a message, mapped for reading. Returns 0 or -errno. */
static inline int shm_owner_take_board(struct shm_arena_owner *owner, const struct shm_arena_message *message,
                                       int descriptor)
{
        const struct shm_board *board;
        struct stat status;
        void *mapped;

        /* It must not shrink under us. */
        if (message->code != 0 || fstat(descriptor, &status) < 0 ||
            (shm_seals_get(descriptor) & SHM_F_SEAL_SHRINK) == 0 || (uint64_t)status.st_size < message->size ||
            message->size < SHM_HEADER_SIZE + sizeof(*board))
                return -EBADMSG;
        mapped = mmap(NULL, (size_t)message->size, PROT_READ, MAP_SHARED, descriptor, 0);
        if (mapped == MAP_FAILED)
                return -errno;
        board = shm_board_of((const struct shm_region_header *)mapped);
        if (board == NULL || message->number == 0 || message->number >= board->lines ||
            (uint64_t)((const uint8_t *)(shm_board_line(board, message->number) + 1) - (const uint8_t *)mapped) >
                    message->size) {
                munmap(mapped, (size_t)message->size);
                return -EBADMSG;
        }
        owner->arena.line = shm_board_line(board, message->number);
        if (owner->board != NULL) /* one that came in the same way before */
                munmap(owner->board, (size_t)owner->board_size);
        owner->board = mapped;
        owner->board_size = message->size;
        return 0;
}

/* Look at the next message on the control socket, which stays there. Returns 1; 0 there is none; or -errno. */
static inline int shm_owner_peek(struct shm_arena_owner *owner, struct shm_arena_message *message_out,
                                 int *descriptors_out, size_t *count_out)
{
        struct iovec vector = {message_out, sizeof(*message_out)};
        struct msghdr head;
        struct cmsghdr *control;
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(2 * sizeof(int))];
        } space;
        ssize_t size;

        memset(&head, 0, sizeof(head));
        head.msg_iov = &vector;
        head.msg_iovlen = 1;
        head.msg_control = space.bytes;
        head.msg_controllen = sizeof(space.bytes);
        size = recvmsg(owner->socket, &head, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (size < 0)
                return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
        *count_out = 0;
        control = CMSG_FIRSTHDR(&head);
        if (control != NULL && control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS) {
                *count_out = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(descriptors_out, CMSG_DATA(control), *count_out * sizeof(int));
        }
        if (size == 0)
                owner->is_alone = 1;
        return size == (ssize_t)sizeof(*message_out) ? 1 : size == 0 ? -EPIPE : -EBADMSG;
}

/*
 * Take one message off the control socket. Returns 1; 0 there is none; or -errno: -EPIPE the host has closed it;
 * -EMFILE, -ENOMEM there is no room for a ledger, whose message stays there.
 */
static inline int shm_owner_receive(struct shm_arena_owner *owner)
{
        struct shm_arena_message message;
        int descriptors[2] = {-1, -1}, is_ledger, is_board, error;
        size_t count = 0, kept;

        error = owner->socket < 0 ? -EPIPE : shm_owner_peek(owner, &message, descriptors, &count);
        if (error == 0)
                return 0;
        is_ledger = error > 0 && message.kind == SHM_ARENA_LEDGER;
        if (is_ledger) /* fewer descriptors came than were sent: there is no room for them */
                error = count < 2 ? -EMFILE : shm_owner_join(owner, &message, descriptors);
        is_board = error > 0 && message.kind == SHM_ARENA_BOARD;
        if (is_board && count == 1) /* if it is not one, the line stays where it is, and nothing is reused */
                (void)shm_owner_take_board(owner, &message, descriptors[0]);
        for (kept = is_ledger && error == 0 ? 1 : 2; count > 0; count--)
                if (count - 1 != kept)
                        close(descriptors[count - 1]);
        if (error < 0)
                return error;
        if (message.kind == SHM_ARENA_FORGET)
                shm_owner_forget(owner, message.number);
        if (is_ledger || message.kind == SHM_ARENA_FORGET)
                owner->heard++;
        else if (!is_board)
                owner->answer = message;
        (void)recv(owner->socket, &message, sizeof(message), MSG_DONTWAIT); /* and its descriptors go */
        return 1;
}

/* Take all messages that are there. */
static inline void shm_owner_listen(struct shm_arena_owner *owner)
{
        while (shm_owner_receive(owner) > 0)
                ;
}

/*
 * Wait a moment for messages that the host had no room for in the socket until now: one of those clients can sleep. Not
 * twice for the same ones: they wake when the message comes.
 */
static inline void shm_owner_catch_up(struct shm_arena_owner *owner, uint32_t told)
{
        struct pollfd wait = {owner->socket, POLLIN, 0};

        while ((int32_t)(owner->heard - told) < 0 && owner->waited_for != told) {
                if (poll(&wait, 1, SHM_CATCH_UP_MS) <= 0)
                        owner->waited_for = told;
                else if (shm_owner_receive(owner) <= 0)
                        return;
        }
}

/*
 * The line of the arena, where the host writes it: if that has moved to another board, ask for it once, and wait a
 * moment. Until it is known, the old one keeps everything from being reused.
 */
static inline const struct shm_board_line *shm_owner_line(struct shm_arena_owner *owner)
{
        const struct shm_board_line *line = owner->arena.line;
        struct shm_arena_message message = {SHM_ARENA_BOARD, 0, owner->arena.region, 0};
        struct pollfd wait = {owner->socket, POLLIN, 0};

        if (line == NULL || __atomic_load_n(&line->moved, __ATOMIC_ACQUIRE) == 0 || owner->socket < 0)
                return line;
        if (owner->asked != line &&
            send(owner->socket, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(message)) {
                owner->asked = line;
                while (owner->arena.line == line && poll(&wait, 1, SHM_CATCH_UP_MS) > 0)
                        if (shm_owner_receive(owner) <= 0)
                                break;
        }
        shm_owner_listen(owner); /* also to an answer that comes late */
        return owner->arena.line;
}

/* Whether the owner knows every ledger that can name a block which was retired before. */
static inline int shm_owner_knows(struct shm_arena_owner *owner)
{
        const struct shm_board_line *line = shm_owner_line(owner);
        uint64_t region;
        uint32_t told;

        if (line == NULL)
                return 1;
        /*
         * Loaded after the flips. If the host raises the word later, then the reader for whom it does so looks at the
         * entry's word later still, and finds that its value is not current any more.
         */
        told = __atomic_load_n(&line->ledgers, __ATOMIC_SEQ_CST);
        if (owner->heard != told)
                shm_owner_listen(owner);
        /*
         * The line is this arena's as long as anybody can have it mapped, also when its name has another one, or none.
         */
        region = __atomic_load_n(&line->region, __ATOMIC_ACQUIRE);
        return (int32_t)(owner->heard - told) >= 0 && (region == owner->arena.region || region == 0);
}

#endif /* SHM_ARENA_LINK_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_link.h - what the owner of an arena hears from the host: which ledgers there are. See shm_arena.h.
 *
 * A message about a ledger is taken off the control socket only when it was heeded. Where descriptors or memory are
 * short, it stays there: nothing is used again until they are not, and nothing is lost.
 */
#ifndef SHM_ARENA_LINK_H
#define SHM_ARENA_LINK_H

#include "shm_arena_known.h"

#include <poll.h>

#define SHM_CATCH_UP_MS 20 /* for the host to send what it has queued: it needs some us, if it is not stopped */

/* The line of a board that came with a message, mapped for reading. Returns 0 or -errno. */
static inline int shm_owner_take_board(struct shm_arena_owner *owner, const struct shm_arena_message *message,
                                       int descriptor)
{
        const struct shm_board *board;
        struct stat status;
        void *mapped;

        /* It must not shrink under us. */
        if (fstat(descriptor, &status) < 0 ||
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

/*
 * Heed the first message of the host that came after one that was killed. Returns 1, or: -ENOMEM, -EMFILE it must come
 * again. With nonsense in place of a board, nothing is ever reused.
 */
static inline int shm_owner_begin(struct shm_arena_owner *owner, const struct shm_arena_message *message, int descriptor)
{
        int error = shm_owner_take_board(owner, message, descriptor);

        if (!error)
                owner->heard = (uint32_t)message->code; /* so many count as heard: those of the host before are void */
        return error == -ENOMEM || error == -EMFILE ? error : 1;
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
        if (error > 0 && message.kind == SHM_ARENA_KEEP && shm_owner_keep(owner, message.number) < 0)
                error = -ENOMEM;
        is_board = error > 0 && message.kind == SHM_ARENA_BOARD;
        if (is_board && owner->arena.line == &owner->nowhere)
                error = count == 0 ? -EMFILE : shm_owner_begin(owner, &message, descriptors[0]);
        else if (is_board && count == 1) /* if it is not one, the line stays where it is, and nothing is reused */
                (void)shm_owner_take_board(owner, &message, descriptors[0]);
        for (kept = is_ledger && error == 0 ? 1 : 2; count > 0; count--)
                if (count - 1 != kept)
                        close(descriptors[count - 1]);
        if (error < 0)
                return error;
        if (message.kind == SHM_ARENA_FORGET)
                shm_owner_forget(owner, message.number);
        if (message.kind == SHM_ARENA_REST)
                shm_owner_drop_rest(owner);
        if (is_ledger || message.kind == SHM_ARENA_FORGET)
                shm_owner_heard(owner, message.number);
        else if (message.kind == SHM_ARENA_REST)
                owner->heard++;
        else if (!is_board && message.kind != SHM_ARENA_KEEP)
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
 * Listen to the host that came after one that was killed, if the arena was handed back to it. Its first message says where
 * the line is; until that is heeded, nothing is reused.
 */
static inline void shm_owner_move_on(struct shm_arena_owner *owner)
{
        uint32_t next = __atomic_exchange_n(&owner->next, 0, __ATOMIC_SEQ_CST), i;

        if (next == 0)
                return;
        if (owner->socket < 0) { /* the owner writes no more */
                close((int)next - 1);
                return;
        }
        shm_owner_listen(owner); /* to what the host before has still said, which may come after -ECONNRESET */
        shm_owner_listen(owner);
        close(owner->socket);
        owner->socket = (int)next - 1;
        owner->is_alone = 0;
        owner->asked = NULL;
        owner->waited_for = 0;
        owner->missing_count = 0;
        for (i = 0; i < owner->ledger_count; i++)
                owner->ledgers[i].is_stale = 1;
        owner->nowhere.region = owner->arena.region;
        owner->nowhere.ledgers = 1u << 30;
        owner->nowhere.waiters = 1;
        owner->heard = 0;
        owner->arena.line = &owner->nowhere;
        shm_owner_listen(owner);
}

/* Let the owner listen to another control socket from now on, which is its own then. For any thread. */
static inline void shm_owner_offer(struct shm_arena_owner *owner, int socket)
{
        uint32_t before = __atomic_exchange_n(&owner->next, (uint32_t)socket + 1, __ATOMIC_SEQ_CST);

        if (before != 0)
                close((int)before - 1);
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
        const struct shm_board_line *line;
        struct shm_arena_message message = {SHM_ARENA_BOARD, 0, owner->arena.region, 0};
        struct pollfd wait = {-1, POLLIN, 0};

        if (__atomic_load_n(&owner->next, __ATOMIC_SEQ_CST) != 0)
                shm_owner_move_on(owner);
        line = owner->arena.line;
        wait.fd = owner->socket;
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
        if (owner->arena.line != line) /* it has just moved, and the board that had it can be gone */
                return 0;
        /*
         * The line is this arena's as long as anybody can have it mapped, also when its name has another one, or none.
         */
        region = __atomic_load_n(&line->region, __ATOMIC_ACQUIRE);
        return (int32_t)(owner->heard - told) >= 0 && (region == owner->arena.region || region == 0);
}

#endif /* SHM_ARENA_LINK_H */

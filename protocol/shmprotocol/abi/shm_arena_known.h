/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_known.h - the state of an arena's owner, and the ledgers that it knows. See shm_arena.h.
 */
#ifndef SHM_ARENA_KNOWN_H
#define SHM_ARENA_KNOWN_H

#include "shm_arena_copy.h"
#include "shm_arena_heap.h"
#include "shm_arena_read.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* A ledger as an owner knows it: what is in it can be a lie. */
struct shm_known_ledger {
        uint64_t number;
        const struct shm_ledger *ledger;
        uint64_t size; /* of the mapping */
        int32_t pid;   /* of its client, as the host sees it; 0: not known */
        int32_t event; /* a socket, by which it is woken */
        uint64_t held; /* blocks of this arena that it kept from being used, when it was last looked at */
        int32_t is_stale; /* the next host has not told of it yet */
        int32_t reserved;
};

struct shm_description;

/* The state of an owner; private, and of one process. One thread at a time may use it. */
struct shm_arena_owner {
        struct shm_arena arena; /* as a reader sees it; its `base` can be written here */
        struct shm_arena_control *control;
        uint32_t *slots;
        struct shm_arena_entry *entries;
        int socket;   /* the control socket; -1: closed */
        /*
         * 1 + the control socket that the next host has given, after this one's was killed; 0: none. Writer: whoever hands
         * the arena back, any thread: it exchanges it (seq), and tells the host only then that others may join. Reader: the
         * owner, with seq, after its flips. If it sees an old 0, those who join look at the entry later, and find the new word.
         */
        uint32_t next;
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
        struct shm_board_line nowhere; /* the line until the next host has said where it is: nothing is reused */
        uint64_t *missing; /* numbers of ledgers that the next host has told of, and that are not known here */
        size_t missing_room;
        uint32_t missing_count;

        int memory; /* 1 + its read-write descriptor, for the next host; 0: none is kept. See shm_arena_rejoin() */
        int link;   /* 1 + the connection to that; 0: none */

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

/* The ledger with a number, or NULL. */
static inline struct shm_known_ledger *shm_owner_known(const struct shm_arena_owner *owner, uint64_t number)
{
        uint32_t i;

        for (i = 0; i < owner->ledger_count; i++)
                if (owner->ledgers[i].number == number)
                        return &owner->ledgers[i];
        return NULL;
}

/* Take the ledger of a message. Returns 0 or -errno; the descriptor of its event is the owner's then, and no other. */
static inline int shm_owner_join(struct shm_arena_owner *owner, const struct shm_arena_message *message,
                                 const int *descriptors)
{
        struct shm_known_ledger *known = shm_owner_known(owner, message->number);
        struct stat status;
        void *grown, *mapped = MAP_FAILED;

        if (known != NULL) { /* the next host tells of it again: its client has another event */
                close(known->event);
                known->event = descriptors[1];
                known->pid = message->code;
                known->is_stale = 0;
                shm_wake_all(&owner->arena, known->ledger, known->event);
                return 0;
        }
        grown = shm_private_grow(owner->ledgers, &owner->ledgers_room,
                                 (owner->ledger_count + 1) * sizeof(*owner->ledgers));
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
        known->is_stale = 0;
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
        const struct shm_known_ledger *known = shm_owner_known(owner, number);

        if (known != NULL)
                shm_owner_drop(owner, (uint32_t)(known - owner->ledgers));
}

/* Drop the ledgers of which the next host has not told. */
static inline void shm_owner_drop_rest(struct shm_arena_owner *owner)
{
        uint32_t i = 0;

        while (i < owner->ledger_count)
                if (owner->ledgers[i].is_stale)
                        shm_owner_drop(owner, i);
                else
                        i++;
}

/*
 * Heed that a ledger from before may hold values. A ledger that is not known here comes by LEDGER, or goes by FORGET: until
 * then this message does not count as heard, so that nothing is reused. Returns 0 or -ENOMEM.
 */
static inline int shm_owner_keep(struct shm_arena_owner *owner, uint64_t number)
{
        struct shm_known_ledger *known = shm_owner_known(owner, number);
        void *grown;

        if (known != NULL) {
                known->is_stale = 0;
                owner->heard++;
                return 0;
        }
        grown = shm_private_grow(owner->missing, &owner->missing_room,
                                 (owner->missing_count + 1) * sizeof(*owner->missing));
        if (grown == NULL)
                return -ENOMEM;
        owner->missing = (uint64_t *)grown;
        owner->missing[owner->missing_count++] = number;
        return 0;
}

/* Count a message about a ledger, and with it those that have waited for it. */
static inline void shm_owner_heard(struct shm_arena_owner *owner, uint64_t number)
{
        uint32_t i = 0;

        owner->heard++;
        while (i < owner->missing_count)
                if (owner->missing[i] == number) {
                        owner->missing[i] = owner->missing[--owner->missing_count];
                        owner->heard++;
                } else {
                        i++;
                }
}

#endif /* SHM_ARENA_KNOWN_H */

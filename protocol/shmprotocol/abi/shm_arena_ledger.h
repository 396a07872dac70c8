/* SPDX-License-Identifier: Apache-2.0 */
/* shm_arena_ledger.h - the ledger of a client, in which it notes the values that it uses. See shm_arena.h. */
#ifndef SHM_ARENA_LEDGER_H
#define SHM_ARENA_LEDGER_H

#include "shm_arena_layout.h"

#include <time.h>

#ifdef F_ADD_SEALS
#define SHM_F_ADD_SEALS F_ADD_SEALS
#else
#define SHM_F_ADD_SEALS 1033
#endif
#define SHM_F_SEAL_SEAL 0x1

/* A ledger as its client has mapped it. Any thread of the client may use it. */
struct shm_holds {
        struct shm_ledger *ledger;
        struct shm_ledger_hold *holds;
        uint64_t count;
        uint64_t next; /* where to look for a free one; relaxed: a wrong one costs a longer search */
};

static inline uint64_t shm_now_coarse_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Take a hold; NULL: all of them are taken. */
static inline struct shm_ledger_hold *shm_hold_take(struct shm_holds *holds)
{
        uint64_t start = __atomic_load_n(&holds->next, __ATOMIC_RELAXED), i;

        for (i = 0; i < holds->count; i++) {
                uint64_t at = (start + i) % holds->count, none = 0, high;
                struct shm_ledger_hold *hold = &holds->holds[at];

                if (__atomic_load_n(&hold->block, __ATOMIC_RELAXED) != 0 ||
                    !__atomic_compare_exchange_n(&hold->block, &none, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
                        continue;
                __atomic_store_n(&holds->next, at + 1, __ATOMIC_RELAXED);
                /* seq, also if another thread has raised it: the owner who sees our hold must see that. */
                high = __atomic_load_n(&holds->ledger->high, __ATOMIC_SEQ_CST);
                while (high <= at && !__atomic_compare_exchange_n(&holds->ledger->high, &high, at + 1, 0,
                                                                  __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                        ;
                return hold;
        }
        return NULL;
}

/* Let go of what a hold names. Takes no lock; any thread. */
static inline void shm_hold_release(struct shm_holds *holds, struct shm_ledger_hold *hold)
{
        uint64_t at = (uint64_t)(hold - holds->holds);

        __atomic_store_n(&hold->block, 0, __ATOMIC_RELEASE);
        if (at < __atomic_load_n(&holds->next, __ATOMIC_RELAXED))
                __atomic_store_n(&holds->next, at, __ATOMIC_RELAXED); /* low holds first: the owner looks at fewer */
}

/*
 * Map the ledger of descriptor `fd`, which the caller still owns, for writing, and seal it against all other writers.
 * A child does not inherit it. Returns 0 or -errno.
 */
static inline int shm_ledger_map(int fd, struct shm_holds *holds_out)
{
        struct stat status;
        void *mapped;

        if (fstat(fd, &status) < 0)
                return -errno;
        if (status.st_size < (off_t)(sizeof(struct shm_ledger) + sizeof(struct shm_ledger_hold)))
                return -EBADMSG;
        mapped = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED)
                return -errno;
        if (madvise(mapped, (size_t)status.st_size, MADV_DONTFORK) < 0 ||
            fcntl(fd, SHM_F_ADD_SEALS, SHM_F_SEAL_FUTURE_WRITE | SHM_F_SEAL_SEAL) < 0) {
                int error = -errno;

                munmap(mapped, (size_t)status.st_size);
                return error;
        }
        holds_out->ledger = (struct shm_ledger *)mapped;
        holds_out->holds = (struct shm_ledger_hold *)(void *)(holds_out->ledger + 1);
        holds_out->count = ((uint64_t)status.st_size - sizeof(struct shm_ledger)) / sizeof(struct shm_ledger_hold);
        holds_out->next = 0;
        return 0;
}

#endif /* SHM_ARENA_LEDGER_H */

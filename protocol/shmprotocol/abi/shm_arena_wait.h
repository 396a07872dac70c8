/* SPDX-License-Identifier: Apache-2.0 */
/* shm_arena_wait.h - sleep until a value of an arena changes. See shm_arena.h. */
#ifndef SHM_ARENA_WAIT_H
#define SHM_ARENA_WAIT_H

#include "shm_arena_read.h"

#include <linux/futex.h>
#include <sys/syscall.h>

/*
 * Find the entry of a name, and a word of it from while it had this name: a waiter for that word to change misses no
 * value, because an entry that gets another name is flipped right then. Returns as shm_arena_find().
 */
static inline int shm_arena_look(struct shm_arena *arena, const char *name, size_t size, uint32_t *entry_out,
                                 uint64_t *word_out)
{
        const struct shm_arena_entry *entry;
        int error, tries, is_it;

        for (tries = 0; tries < SHM_ARENA_TRIES; tries++) {
                error = shm_arena_find(arena, name, size, entry_out);
                if (error)
                        return error;
                entry = &arena->entries[*entry_out];
                *word_out = __atomic_load_n(&entry->word, __ATOMIC_SEQ_CST);
                is_it = shm_entry_is(arena, entry, name, size);
                if (is_it && __atomic_load_n(&entry->word, __ATOMIC_SEQ_CST) == *word_out)
                        return 0;
        }
        return -EBUSY;
}

/* Take a place in the ledger's list of sleepers; NULL: there is none. */
static inline uint64_t *shm_wait_take(struct shm_holds *holds, uint64_t wait)
{
        uint64_t i, high;

        for (i = 0; i < SHM_LEDGER_WAITS; i++) {
                uint64_t none = 0, *word = &holds->ledger->waits[i];

                high = __atomic_load_n(&holds->ledger->waits_high, __ATOMIC_SEQ_CST);
                while (high <= i && !__atomic_compare_exchange_n(&holds->ledger->waits_high, &high, i + 1, 0,
                                                                 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                        ;
                if (__atomic_load_n(word, __ATOMIC_RELAXED) == 0 &&
                    __atomic_compare_exchange_n(word, &none, wait, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
                        return word;
        }
        return NULL;
}

static inline void shm_wait_give(uint64_t *word)
{
        __atomic_store_n(word, 0, __ATOMIC_RELEASE);
}

/* The word of the arena on which one waits for an entry, or, with NULL, for any change: its low 32 bits are a futex. */
static inline const uint32_t *shm_wait_word(const struct shm_arena *arena, const struct shm_arena_entry *entry)
{
        return entry != NULL ? (const uint32_t *)(const void *)&entry->word : &shm_arena_control_of(arena)->changes;
}

/* What it says now. An entry's word is loaded whole, as it is stored. */
static inline uint32_t shm_wait_seen(const struct shm_arena *arena, const struct shm_arena_entry *entry)
{
        return entry != NULL ? (uint32_t)__atomic_load_n(&entry->word, __ATOMIC_SEQ_CST)
                             : __atomic_load_n(&shm_arena_control_of(arena)->changes, __ATOMIC_SEQ_CST);
}

/*
 * Sleep until the low half of an entry's word, or with NULL the count of all changes, is not `seen` any more. The
 * client has attended the arena before (protocol/README.md, section 18), or is its owner. `timeout_ns` < 0: without
 * end. Returns 0, also if it was woken for nothing; or -ETIMEDOUT, -EINTR, or -ENOLCK: 504 threads of this client sleep
 * already.
 */
static inline int shm_arena_wait(struct shm_arena *arena, struct shm_holds *holds,
                                 const struct shm_arena_entry *entry, uint32_t seen, int64_t timeout_ns)
{
        const uint32_t *word = shm_wait_word(arena, entry);
        uint64_t *place = shm_wait_take(holds, arena->home + (uint64_t)((const uint8_t *)word - arena->base));
        struct timespec timeout;
        int error = 0;

        if (place == NULL)
                return -ENOLCK;
        timeout.tv_sec = (time_t)(timeout_ns / 1000000000);
        timeout.tv_nsec = (long)(timeout_ns % 1000000000);
        if (shm_wait_seen(arena, entry) == seen &&
            syscall(SYS_futex, word, FUTEX_WAIT, seen, timeout_ns < 0 ? NULL : &timeout, NULL, 0) < 0 &&
            errno != EAGAIN)
                error = -errno;
        shm_wait_give(place);
        return error;
}

static inline int64_t shm_wait_left_ns(const struct timespec *start, int64_t timeout_ns)
{
        struct timespec now;
        int64_t left;

        clock_gettime(CLOCK_MONOTONIC, &now);
        left = timeout_ns - (int64_t)(now.tv_sec - start->tv_sec) * 1000000000 - (now.tv_nsec - start->tv_nsec);
        return left > 0 ? left : 0;
}

/*
 * Hold the value of a name when it has one that is newer than generation `after`; 0: any. Sleeps until then, at most
 * `timeout_ns`; < 0: without end, also if the owner is gone. Returns as shm_arena_hold() and shm_arena_wait() do.
 */
static inline int shm_arena_await(struct shm_arena *arena, struct shm_holds *holds, const char *name, size_t size,
                                  uint64_t after, int64_t timeout_ns, struct shm_arena_value *value_out)
{
        struct timespec start;

        clock_gettime(CLOCK_MONOTONIC, &start);
        for (;;) {
                /*
                 * Before the look: a name that has no entry comes with a change. An entry that gets another name is
                 * flipped.
                 */
                uint32_t seen = shm_wait_seen(arena, NULL);
                const struct shm_arena_entry *entry = NULL;
                int64_t left = timeout_ns < 0 ? -1 : shm_wait_left_ns(&start, timeout_ns);
                int error = shm_arena_hold(arena, holds, name, size, value_out);

                if (error == 0 && value_out->generation > after)
                        return 0;
                if (error == 0) {
                        seen = (uint32_t)value_out->word;
                        entry = &arena->entries[value_out->entry];
                        shm_arena_release(holds, value_out);
                } else if (error != -ENOENT && error != -EBUSY) {
                        return error;
                }
                error = left == 0 ? -ETIMEDOUT : shm_arena_wait(arena, holds, entry, seen, left);
                if (error)
                        return error;
        }
}

#endif /* SHM_ARENA_WAIT_H */

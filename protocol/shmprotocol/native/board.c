/* SPDX-License-Identifier: Apache-2.0 */
/*
 * board.c - the board (shm_board.h): the host's side, and readers that sleep on it.
 * Addresses are numbers; the callers have checked that they lie in a mapped board.
 */
#ifndef SHM_NATIVE_BOARD_H
#define SHM_NATIVE_BOARD_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shm_board.h"

/* cffi: begin */

const struct shm_board *shm_board_of(const struct shm_region_header *header);
int shm_board_lives(const struct shm_board *board);

int shm_board_own(uint64_t owner);
int shm_board_disown(uint64_t owner);
void shm_board_set(uint64_t line, uint64_t region, uint64_t generation);
void shm_board_set_rights(uint64_t line, uint32_t rights);
void shm_board_set_arena(uint64_t line, uint32_t ledgers, uint32_t waiters, uint64_t size);
void shm_board_move(uint64_t board, uint32_t moved);
void shm_board_move_arena(uint64_t line);
int shm_board_wait(uint64_t line, uint32_t changes, uint64_t owner, uint64_t waker, uint32_t wakes, int64_t wait_ns);
void shm_wake(uint64_t waker);
uint32_t shm_word_load(uint64_t word);

/* cffi: end */

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449 /* Linux 5.16; the same number on every architecture */
#endif
#define SHM_BOARD_MOVED 0x40000000u /* more than all messages about ledgers that an owner has not received */
#define SHM_BOARD_SPIN_NS 20000 /* about what a wake-up on another processor takes */
#define SHM_FUTEX_32 2 /* FUTEX_32, FUTEX2_SIZE_U32 of linux/futex.h */
#define SHM_FUTEX_PRIVATE 128

/* struct futex_waitv of linux/futex.h, which older headers lack. */
struct shm_futex_waiter {
        uint64_t value;
        uint64_t address;
        uint32_t flags;
        uint32_t unused;
};

static_assert(sizeof(pthread_mutex_t) <= 64, "the owner's mutex fits");

/*
 * Lock the robust mutex at `owner` (64 bytes of zero), so that this thread owns the board until it unlocks it or
 * dies. Returns the offset of the word that says so, or -errno. The C library does not say where its mutex has the
 * word, but the kernel must know it, so it is a plain word with the thread's number: it is looked for.
 */
int shm_board_own(uint64_t owner)
{
        pthread_mutex_t *mutex = (pthread_mutex_t *)(uintptr_t)owner;
        uint32_t thread = (uint32_t)syscall(SYS_gettid);
        pthread_mutexattr_t attributes;
        int error, at;

        if (pthread_mutexattr_init(&attributes))
                return -ENOMEM;
        error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        if (!error)
                error = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        if (!error)
                error = pthread_mutex_init(mutex, &attributes);
        pthread_mutexattr_destroy(&attributes);
        if (!error)
                error = pthread_mutex_lock(mutex);
        if (error)
                return -error;
        for (at = 0; at < (int)sizeof(*mutex); at += 4) {
                uint32_t *word = (uint32_t *)(uintptr_t)(owner + (uint64_t)at);

                if ((__atomic_load_n(word, __ATOMIC_RELAXED) & SHM_FUTEX_TID_MASK) == thread) {
                        /* Readers cannot say that they sleep here; without it the kernel wakes nobody at our death. */
                        __atomic_or_fetch(word, FUTEX_WAITERS, __ATOMIC_RELAXED);
                        return at;
                }
        }
        pthread_mutex_unlock(mutex);
        return -ENOTSUP;
}

/* Unlock what shm_board_own() locked, in the same thread. Returns 0 or -errno. */
int shm_board_disown(uint64_t owner)
{
        return -pthread_mutex_unlock((pthread_mutex_t *)(uintptr_t)owner);
}

/* Say what is current on a line, and wake those who sleep on it. Writer: the host, one thread at a time. */
void shm_board_set(uint64_t line, uint64_t region, uint64_t generation)
{
        struct shm_board_line *words = (struct shm_board_line *)(uintptr_t)line;

        __atomic_store_n(&words->cpu, (uint32_t)(sched_getcpu() + 1), __ATOMIC_RELAXED);
        __atomic_store_n(&words->generation, generation, __ATOMIC_RELAXED);
        __atomic_store_n(&words->region, region, __ATOMIC_RELEASE);
        __atomic_add_fetch(&words->changes, 1, __ATOMIC_RELEASE);
        (void)syscall(SYS_futex, &words->changes, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Note that the rights to the region of a line have changed. Writer: as for shm_board_set(). */
void shm_board_set_rights(uint64_t line, uint32_t rights)
{
        __atomic_store_n(&((struct shm_board_line *)(uintptr_t)line)->rights, rights, __ATOMIC_RELEASE);
}

/* Write the words of an arena. Writer: as for shm_board_set(). */
void shm_board_set_arena(uint64_t line, uint32_t ledgers, uint32_t waiters, uint64_t size)
{
        struct shm_board_line *words = (struct shm_board_line *)(uintptr_t)line;

        __atomic_store_n(&words->size, size, __ATOMIC_RELEASE);
        __atomic_store_n(&words->waiters, waiters, __ATOMIC_SEQ_CST);
        __atomic_store_n(&words->ledgers, ledgers, __ATOMIC_SEQ_CST);
        __atomic_store_n(&words->moved, 0, __ATOMIC_RELEASE);
}

/* Say that another process is the host, with another board; or, with 0, that it is not. */
void shm_board_move(uint64_t board, uint32_t moved)
{
        __atomic_store_n(&((struct shm_board *)(uintptr_t)board)->moved, moved, __ATOMIC_RELEASE);
}

/* Say that another board has the line of an arena, and wake those who sleep on it. */
void shm_board_move_arena(uint64_t line)
{
        struct shm_board_line *words = (struct shm_board_line *)(uintptr_t)line;

        __atomic_fetch_or(&words->waiters, SHM_BOARD_MOVED, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&words->ledgers, SHM_BOARD_MOVED, __ATOMIC_SEQ_CST);
        __atomic_store_n(&words->moved, 1, __ATOMIC_RELEASE);
        __atomic_add_fetch(&words->changes, 1, __ATOMIC_RELEASE);
        (void)syscall(SYS_futex, &words->changes, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Add 1 to a word of this process, and wake its threads that sleep on it. */
void shm_wake(uint64_t waker)
{
        uint32_t *word = (uint32_t *)(uintptr_t)waker;

        __atomic_add_fetch(word, 1, __ATOMIC_RELEASE);
        (void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

uint32_t shm_word_load(uint64_t word)
{
        return __atomic_load_n((uint32_t *)(uintptr_t)word, __ATOMIC_ACQUIRE);
}

static int64_t shm_board_now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Look at a line for a moment, if the host writes it on another processor: waking up costs more. */
static void shm_board_spin(const struct shm_board_line *line, uint32_t changes)
{
        uint32_t cpu = __atomic_load_n(&line->cpu, __ATOMIC_RELAXED);
        int64_t end_ns;

        if (cpu == 0 || (int)cpu == sched_getcpu() + 1)
                return;
        end_ns = shm_board_now_ns() + SHM_BOARD_SPIN_NS;
        while (__atomic_load_n(&line->changes, __ATOMIC_ACQUIRE) == changes && shm_board_now_ns() < end_ns)
                ;
}

/* Whoever ends the owner wakes one of those who sleep on it: that one wakes the others, by this. */
static void shm_board_pass_on(uint64_t owner)
{
        if (!shm_board_word_lives((const uint32_t *)(uintptr_t)owner))
                (void)syscall(SYS_futex, owner, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/*
 * Sleep until `changes` of a line is another, or the host goes, or another thread adds to the word at `waker`, which
 * had the value `wakes`. Returns 0, also if it was woken without a change; or -ETIMEDOUT, -EINTR (a signal), -ENOSYS
 * (before Linux 5.16) or -EPERM (a seccomp filter). `wait_ns` < 0: without end. Without the GIL, as all cffi calls.
 */
int shm_board_wait(uint64_t line, uint32_t changes, uint64_t owner, uint64_t waker, uint32_t wakes, int64_t wait_ns)
{
        struct shm_board_line *words = (struct shm_board_line *)(uintptr_t)line;
        uint32_t thread = __atomic_load_n((uint32_t *)(uintptr_t)owner, __ATOMIC_ACQUIRE);
        struct shm_futex_waiter waiters[3] = {
                {changes, (uint64_t)(uintptr_t)&words->changes, SHM_FUTEX_32, 0},
                {thread, owner, SHM_FUTEX_32, 0},
                {wakes, waker, SHM_FUTEX_32 | SHM_FUTEX_PRIVATE, 0},
        };
        struct timespec end;
        int64_t end_ns;
        int error;

        if ((thread & SHM_FUTEX_TID_MASK) == 0)
                return 0;
        end_ns = shm_board_now_ns() + (wait_ns < 0 ? 0 : wait_ns);
        end.tv_sec = (time_t)(end_ns / 1000000000);
        end.tv_nsec = (long)(end_ns % 1000000000);
        shm_board_spin(words, changes);
        error = syscall(SYS_futex_waitv, waiters, 3, 0, wait_ns >= 0 ? &end : NULL, CLOCK_MONOTONIC) < 0 ? -errno : 0;
        shm_board_pass_on(owner);
        return error == -EAGAIN ? 0 : error;
}

#endif /* SHM_NATIVE_BOARD_H */

/* SPDX-License-Identifier: Apache-2.0 */
/* threads.c - threads of C alone, which need no GIL and take no signal; and how they sleep until a word changes. */
#ifndef SHM_THREADS_H
#define SHM_THREADS_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SHM_THREAD_STACK 131072 /* bytes */

static uint64_t shm_now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Start a thread with a small stack, and with all signals blocked. -EAGAIN: there are too many. */
static int shm_thread_start(pthread_t *thread_out, void *(*run)(void *), void *argument)
{
        pthread_attr_t attributes;
        sigset_t all, before;
        int error;

        if (pthread_attr_init(&attributes))
                return -EAGAIN;
        (void)pthread_attr_setstacksize(&attributes, SHM_THREAD_STACK);
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before); /* which the new thread inherits */
        error = pthread_create(thread_out, &attributes, run, argument);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
        return error ? -EAGAIN : 0;
}

/* Sleep while a word of this process has a value, until a time (0: without end). It may also end before. */
static void shm_word_sleep(uint32_t *word, uint32_t value, uint64_t end_ns)
{
        uint64_t now_ns = end_ns ? shm_now_ns() : 0, left_ns = end_ns > now_ns ? end_ns - now_ns : 0;
        struct timespec left = {(time_t)(left_ns / 1000000000u), (long)(left_ns % 1000000000u)};

        (void)syscall(SYS_futex, word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, value, end_ns ? &left : NULL, NULL, 0);
}

static void shm_word_wake(uint32_t *word)
{
        (void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

#endif /* SHM_THREADS_H */

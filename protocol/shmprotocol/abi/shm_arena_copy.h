/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_copy.h - copy values into an arena, large ones by the way that is faster on this machine. See shm_arena.h.
 *
 * A store into memory that is not in a cache reads its line first, a non-temporal one does not; but readers then find
 * nothing in a cache either. So they are only for values that no cache holds as a whole. By which way those are copied
 * is measured on themselves, piece by piece, so that it costs neither time nor memory: for 64 MiB, memcpy took 6.0 ms
 * and non-temporal stores 4.2 on an AMD EPYC; on Intel it can be the reverse.
 */
#ifndef SHM_ARENA_COPY_H
#define SHM_ARENA_COPY_H

#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SHM_COPY_LARGE ((uint64_t)16 << 20) /* bytes: half of the cache that the CPUs of most servers share */
#define SHM_COPY_PIECE ((uint64_t)1 << 20)  /* bytes: 50 us or more, against 0.2 of getrusage(2) */
#define SHM_COPY_TRIES 16                   /* pieces that are measured, half of them by each way: one large value */

enum { SHM_COPY_PLAIN, SHM_COPY_STREAM, SHM_COPY_WAYS };

/* What is known of the ways; private. Zeros: nothing. A copy of it can be used, and the later one of two be kept. */
struct shm_copying {
        uint64_t best_ns[SHM_COPY_WAYS]; /* for a piece */
        uint32_t tries;
};

#if defined(__x86_64__)
static inline int shm_copy_can_stream(void)
{
        return __builtin_cpu_supports("avx") != 0;
}

__attribute__((target("avx"))) static inline void shm_copy_stream(uint8_t *to, const uint8_t *from, uint64_t size)
{
        uint64_t head = (0 - (uint64_t)(uintptr_t)to) % 32, i;

        head = head < size ? head : size;
        memcpy(to, from, head);
        for (i = head; size - i >= 64; i += 64) {
                __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(from + i));
                __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(from + i + 32));

                _mm_prefetch((const char *)from + i + 1024, _MM_HINT_NTA); /* never a fault */
                _mm256_stream_si256((__m256i *)(void *)(to + i), low);
                _mm256_stream_si256((__m256i *)(void *)(to + i + 32), high);
        }
        memcpy(to + i, from + i, size - i);
        _mm_sfence(); /* non-temporal stores obey no other order: the value is published after this */
}
#else
static inline int shm_copy_can_stream(void)
{
        return 0;
}

static inline void shm_copy_stream(uint8_t *to, const uint8_t *from, uint64_t size)
{
        memcpy(to, from, size);
}
#endif

static inline void shm_copy_by(int way, uint8_t *to, const uint8_t *from, uint64_t size)
{
        if (way == SHM_COPY_STREAM)
                shm_copy_stream(to, from, size);
        else
                memcpy(to, from, size);
}

/* Page faults of this thread until now. */
static inline long shm_copy_faults(void)
{
        struct rusage usage;

        return getrusage(RUSAGE_THREAD, &usage) < 0 ? 0 : usage.ru_minflt + usage.ru_majflt;
}

/* Copy a piece, and note how long it took; not if there were page faults, which take longer than a copy. */
static inline void shm_copy_try(struct shm_copying *copying, uint8_t *to, const uint8_t *from)
{
        int way = copying->tries % SHM_COPY_WAYS;
        long faults = shm_copy_faults();
        struct timespec began, ended;
        uint64_t ns;

        clock_gettime(CLOCK_MONOTONIC, &began);
        shm_copy_by(way, to, from, SHM_COPY_PIECE);
        clock_gettime(CLOCK_MONOTONIC, &ended);
        if (shm_copy_faults() != faults)
                return;
        ns = (uint64_t)(ended.tv_sec - began.tv_sec) * 1000000000u + (uint64_t)ended.tv_nsec - (uint64_t)began.tv_nsec;
        if (copying->best_ns[way] == 0 || ns < copying->best_ns[way])
                copying->best_ns[way] = ns;
        copying->tries++;
}

/* The way for large values: not memcpy only if another one was faster by a twentieth, which is more than noise. */
static inline int shm_copy_way(const struct shm_copying *copying)
{
        const uint64_t *ns = copying->best_ns;

        if (copying->tries < SHM_COPY_TRIES)
                return SHM_COPY_PLAIN;
        return ns[SHM_COPY_STREAM] + ns[SHM_COPY_PLAIN] / 20 < ns[SHM_COPY_PLAIN] ? SHM_COPY_STREAM : SHM_COPY_PLAIN;
}

/* Copy a value; no byte of it is both source and target. Other threads may be told of it after that. */
static inline void shm_copy(struct shm_copying *copying, void *to, const void *from, uint64_t size)
{
        uint8_t *target = (uint8_t *)to;
        const uint8_t *source = (const uint8_t *)from;

        if (size == 0) /* there may be no source */
                return;
        if (size >= SHM_COPY_LARGE && shm_copy_can_stream()) {
                while (copying->tries < SHM_COPY_TRIES && size >= SHM_COPY_PIECE) {
                        shm_copy_try(copying, target, source);
                        target += SHM_COPY_PIECE;
                        source += SHM_COPY_PIECE;
                        size -= SHM_COPY_PIECE;
                }
                shm_copy_by(shm_copy_way(copying), target, source, size);
                return;
        }
        memcpy(target, source, size);
}

#endif /* SHM_ARENA_COPY_H */

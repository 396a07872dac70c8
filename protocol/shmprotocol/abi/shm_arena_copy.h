/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_copy.h - copy values into an arena, larger ones by the way that is faster here and now. See shm_arena.h.
 *
 * A store into memory that this CPU does not have in its caches fetches the line first, perhaps from the cache of a
 * reader's CPU; a non-temporal store does not, but leaves nothing in a cache either. Which is faster depends on the
 * machine, the size, and the readers: on an AMD EPYC memcpy took 23 us for a MiB that nobody else read, and 102 for one
 * that was read on another CPU, where non-temporal stores took 38 and its reader half of the time. So it is measured on
 * the values themselves, again and again; that costs a hundredth of the copies.
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

#define SHM_COPY_LARGE ((uint64_t)1 << 18) /* bytes: what is smaller stays in the cache of a CPU */
#define SHM_COPY_PIECE ((uint64_t)1 << 20) /* bytes, at most, that are measured at once: 20 us or more */
#define SHM_COPY_TRIES 8                   /* pieces of a measurement, half of them by each way */
#define SHM_COPY_REST 256                  /* pieces until the next one */
#define SHM_COPY_KINDS 3                   /* of values: below 2 MiB, below 16, and others */

enum { SHM_COPY_PLAIN, SHM_COPY_STREAM, SHM_COPY_WAYS };

/* What is known of values of about one size. */
struct shm_copy_kind {
        uint64_t best_ns[SHM_COPY_WAYS]; /* for 64 KiB, in the measurement that goes on; 0: none yet */
        uint32_t tries;                  /* of it */
        uint32_t rest;
        int way; /* the last result */
};

/* Private; zeros: nothing is known. A copy of it can be used, and the later one of two be kept. */
struct shm_copying {
        struct shm_copy_kind kinds[SHM_COPY_KINDS];
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

/* End a measurement. Not memcpy only if another way is faster by a twentieth, which is more than noise. */
static inline void shm_copy_decide(struct shm_copy_kind *kind)
{
        uint64_t plain = kind->best_ns[SHM_COPY_PLAIN], stream = kind->best_ns[SHM_COPY_STREAM];

        kind->way = stream + plain / 20 < plain ? SHM_COPY_STREAM : SHM_COPY_PLAIN;
        kind->best_ns[SHM_COPY_PLAIN] = kind->best_ns[SHM_COPY_STREAM] = 0;
        kind->tries = 0;
        kind->rest = SHM_COPY_REST;
}

/* Copy a piece, and note how long it took; not if there were page faults, which take longer than a copy. */
static inline void shm_copy_try(struct shm_copy_kind *kind, uint8_t *to, const uint8_t *from, uint64_t size)
{
        int way = kind->tries % SHM_COPY_WAYS;
        long faults = shm_copy_faults();
        struct timespec began, ended;
        uint64_t ns;

        clock_gettime(CLOCK_MONOTONIC, &began);
        shm_copy_by(way, to, from, size);
        clock_gettime(CLOCK_MONOTONIC, &ended);
        if (shm_copy_faults() != faults)
                return;
        ns = (uint64_t)(ended.tv_sec - began.tv_sec) * 1000000000u + (uint64_t)ended.tv_nsec - (uint64_t)began.tv_nsec;
        ns = (ns << 16) / size + 1;
        if (kind->best_ns[way] == 0 || ns < kind->best_ns[way])
                kind->best_ns[way] = ns;
        if (++kind->tries == SHM_COPY_TRIES)
                shm_copy_decide(kind);
}

static inline struct shm_copy_kind *shm_copy_kind_of(struct shm_copying *copying, uint64_t size)
{
        return &copying->kinds[size < (uint64_t)2 << 20 ? 0 : size < (uint64_t)16 << 20 ? 1 : 2];
}

static inline void shm_copy_large(struct shm_copy_kind *kind, uint8_t *to, const uint8_t *from, uint64_t size)
{
        uint64_t piece = size < SHM_COPY_PIECE ? size : SHM_COPY_PIECE, pieces;

        while (kind->rest == 0 && size >= piece) {
                shm_copy_try(kind, to, from, piece);
                to += piece;
                from += piece;
                size -= piece;
                if (size == 0)
                        return;
        }
        shm_copy_by(kind->way, to, from, size);
        pieces = size / SHM_COPY_PIECE + 1;
        kind->rest -= pieces < kind->rest ? (uint32_t)pieces : kind->rest;
}

/* Copy a value; no byte of it is both source and target. Other threads may be told of it after that. */
static inline void shm_copy(struct shm_copying *copying, void *to, const void *from, uint64_t size)
{
        if (size >= SHM_COPY_LARGE && shm_copy_can_stream())
                shm_copy_large(shm_copy_kind_of(copying, size), (uint8_t *)to, (const uint8_t *)from, size);
        else if (size != 0) /* there may be no source */
                memcpy(to, from, size);
}

#endif /* SHM_ARENA_COPY_H */

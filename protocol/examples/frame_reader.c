/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame_reader.c - the reader in C of `shmhost demo live`: checks frames in an arena while their owner writes others.
 *
 *         shmclient exec --region live -- ./frame_reader live frame
 *
 *     frame_reader ARENA NAME             check each new frame, and report five times a second, a line of JSON, until
 *                                         the end of its standard input
 *     frame_reader ARENA NAME --write     report the address of a frame, and write to it: the kernel ends the process
 *
 * A frame is an array of uint64_t: its number, the sum of all words but this one, and any words. Ages are microseconds
 * from when a frame was published to when it is here. Exit codes: 0, 2 wrong usage, 3 the arena cannot be read.
 */
#include "shm_arena.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

#define REPORT_NS 200000000
#define AGES_MAX 65536 /* of a report; those above it are not counted among the ages */

static double ages[AGES_MAX];

static int is_whole(const struct shm_arena_value *value)
{
        const uint64_t *words = (const uint64_t *)value->data;
        uint64_t count = value->size / sizeof(*words), sum = 0;

        if (count < 2)
                return 0;
        for (uint64_t i = 2; i < count; i++)
                sum += words[i];
        return words[0] + sum == words[1];
}

static int compare(const void *first, const void *second)
{
        double a = *(const double *)first, b = *(const double *)second;

        return (a > b) - (a < b);
}

static double percentile(uint64_t count, double part)
{
        return count ? ages[(uint64_t)((double)(count - 1) * part)] : 0;
}

static void report(uint64_t values, uint64_t broken, uint64_t took_ns)
{
        uint64_t count = values < AGES_MAX ? values : AGES_MAX;

        qsort(ages, count, sizeof(*ages), compare);
        printf("{\"pid\": %d, \"values\": %" PRIu64 ", \"broken\": %" PRIu64 ", \"seconds\": %.6f, ", (int)getpid(), values,
               broken, (double)took_ns / 1e9);
        printf("\"p50_us\": %.3f, \"p99_us\": %.3f}\n", percentile(count, 0.5), percentile(count, 0.99));
        fflush(stdout);
}

static int is_input_at_end(void)
{
        struct pollfd input = {0, POLLIN, 0};
        char byte;

        return poll(&input, 1, 0) > 0 && read(0, &byte, 1) <= 0;
}

static int check_frames(struct shm_arena *arena, struct shm_holds *holds, const char *name)
{
        struct shm_arena_value value;
        uint64_t after = 0, values = 0, broken = 0, began = shm_arena_now_ns(), now;

        for (;;) {
                int error = shm_arena_await(arena, holds, name, strlen(name), after, REPORT_NS, &value);

                now = shm_arena_now_ns();
                if (error == 0) {
                        if (values < AGES_MAX)
                                ages[values] = (double)(now - value.published_ns) / 1e3;
                        values++;
                        broken += !is_whole(&value);
                        after = value.generation;
                        shm_arena_release(holds, &value);
                } else if (error != -ETIMEDOUT) {
                        return error;
                }
                if (now - began < REPORT_NS)
                        continue;
                if (is_input_at_end())
                        return 0;
                report(values, broken, now - began);
                values = broken = 0;
                began = now;
        }
}

static int write_to_a_frame(struct shm_arena *arena, struct shm_holds *holds, const char *name)
{
        struct shm_arena_value value;
        int error = shm_arena_await(arena, holds, name, strlen(name), 0, (int64_t)10 * 1000000000, &value);

        if (error)
                return error;
        printf("{\"address\": %" PRIu64 "}\n", (uint64_t)(uintptr_t)arena->base);
        fflush(stdout);
        *(volatile uint64_t *)(uintptr_t)value.data = 0;
        fprintf(stderr, "frame_reader: the frame was written to\n");
        return 0;
}

int main(int argc, char **argv)
{
        static struct shm_holds holds;
        struct shm_arena arena;
        int error;

        if (argc < 3) {
                fprintf(stderr, "usage: frame_reader ARENA NAME [--write]\n");
                return 2;
        }
        error = shm_arena_open_inherited(argv[1], &arena, &holds);
        if (error == 0)
                error = argc > 3 ? write_to_a_frame(&arena, &holds, argv[2]) : check_frames(&arena, &holds, argv[2]);
        if (error)
                fprintf(stderr, "frame_reader: %s: %s\n", argv[1], strerror(-error));
        return error ? 3 : 0;
}

/*
 * consumer.c - wait for each new value of a name in an arena, and read it where it lies.
 *
 *         cc -O2 -I$(python -m shmprotocol --include) consumer.c -o consumer
 *         shmclient exec --region camera -- ./consumer camera front
 *
 *     consumer ARENA NAME          print a line for each value, until none comes for 10 seconds
 *     consumer ARENA NAME COUNT    print so many, and end
 *
 * A line has the generation, the bytes, their sum, and how many us ago the value was published. Exit codes: 0, 1 no new
 * value came, 2 wrong usage, 3 the arena cannot be read.
 */
#include "shm_arena.h"

#include <inttypes.h>
#include <stdio.h>

static void print(const struct shm_arena_value *value)
{
        const uint8_t *bytes = (const uint8_t *)value->data;
        uint64_t sum = 0, age_ns = shm_arena_now_ns() - value->published_ns;

        for (uint64_t i = 0; i < value->size; i++)
                sum += bytes[i];
        printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", value->generation, value->size, sum, age_ns / 1000);
        fflush(stdout);
}

int main(int argc, char **argv)
{
        static struct shm_holds holds;
        struct shm_arena arena;
        struct shm_arena_value value;
        uint64_t count = argc > 3 ? strtoull(argv[3], NULL, 10) : UINT64_MAX, after = 0;
        int error;

        if (argc < 3) {
                fprintf(stderr, "usage: consumer ARENA NAME [COUNT]\n");
                return 2;
        }
        error = shm_arena_open_inherited(argv[1], &arena, &holds);
        for (uint64_t i = 0; error == 0 && i < count; i++) {
                error = shm_arena_await(&arena, &holds, argv[2], strlen(argv[2]), after, (int64_t)10 * 1000000000, &value);
                if (error)
                        break;
                print(&value);
                after = value.generation;
                shm_arena_release(&holds, &value);
        }
        if (error)
                fprintf(stderr, "consumer: %s: %s\n", argv[1], strerror(-error));
        return error == 0 ? 0 : error == -ETIMEDOUT ? 1 : 3;
}

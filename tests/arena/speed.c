/*
 * speed.c - what the calls of an owner and of a reader cost, ns of CPU each: the median of rounds that are interleaved
 * with memcpy into the same blocks. Run it pinned: taskset -c 0 speed
 */
#include "values.h"

#define ROUNDS 41
#define SMALL 20000
#define LARGE 200
#define LEDGERS 100

static struct world world;
static struct shm_arena_owner owner;
static struct shm_arena arena;
static struct shm_holds holds;
static uint8_t *source;

/* Of this thread's CPU: others run meanwhile. */
static uint64_t now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static double put(uint64_t size, int times)
{
        struct shm_arena_meaning meaning;
        uint64_t start, generation;
        int i;

        memset(&meaning, 0, sizeof(meaning));
        start = now_ns();
        for (i = 0; i < times; i++)
                if (shm_arena_put(&owner, "camera/front", 12, source, size, &meaning, &generation) != 0)
                        return -1;
        return (double)(now_ns() - start) / times;
}

/* The blocks that values of 1 MiB go around in, in their order. */
static uint8_t *blocks[LARGE];

static void note_blocks(void)
{
        struct shm_arena_value value;
        int i;

        for (i = 0; i < LARGE; i++) {
                put(1 << 20, 1);
                CHECK(shm_arena_hold(&arena, &holds, "camera/front", 12, &value) == 0);
                blocks[i] = (uint8_t *)(uintptr_t)owner.arena.base + ((const uint8_t *)value.data - arena.base);
                shm_arena_release(&holds, &value);
        }
}

static double copy(uint64_t size, int times)
{
        uint64_t start = now_ns();
        int i;

        for (i = 0; i < times; i++) {
                memcpy(blocks[i % LARGE], source, size);
                __asm__ volatile("" ::: "memory");
        }
        return (double)(now_ns() - start) / times;
}

static double hold(int times)
{
        struct shm_arena_value value;
        uint64_t start = now_ns();
        int i;

        for (i = 0; i < times; i++) {
                if (shm_arena_hold(&arena, &holds, "camera/front", 12, &value) != 0)
                        return -1;
                shm_arena_release(&holds, &value);
        }
        return (double)(now_ns() - start) / times;
}

static int compare(const void *left, const void *right)
{
        double difference = *(const double *)left - *(const double *)right;

        return difference < 0 ? -1 : difference > 0;
}

static void print(const char *what, double *samples)
{
        qsort(samples, ROUNDS, sizeof(*samples), compare);
        printf("%-28s %10.1f   (fastest %.1f)\n", what, samples[ROUNDS / 2], samples[0]);
}

static int count_blocks(void)
{
        int count = 0, i, j;

        for (i = 0; i < LARGE; i++) {
                for (j = 0; blocks[j] != blocks[i]; j++)
                        ;
                count += i == j;
        }
        return count;
}

static void measure(const char *with)
{
        static double small[ROUNDS], large[ROUNDS], copies[ROUNDS], copied[ROUNDS], held[ROUNDS];
        int i;

        note_blocks();
        for (i = 0; i < ROUNDS; i++) {
                small[i] = put(1024, SMALL);
                copied[i] = copy(1024, SMALL);
                held[i] = hold(SMALL);
                large[i] = put(1 << 20, LARGE);
                copies[i] = copy(1 << 20, LARGE);
        }
        printf("%s; 1 MiB goes around in %d blocks\n", with, count_blocks());
        print("put 1 KiB", small);
        print("memcpy 1 KiB", copied);
        print("hold and release", held);
        print("put 1 MiB", large);
        print("memcpy 1 MiB", copies);
}

int main(void)
{
        struct world_ledger ledger;
        struct shm_holds others;
        uint64_t i;

        source = (uint8_t *)malloc(1 << 20);
        CHECK(source != NULL);
        memset(source, 7, 1 << 20);
        world_make(&world, 64 << 20, 64 << 20);
        world_own(&world, &owner, 65536);
        CHECK(put(1024, 1) > 0);
        world_reader(&world, 1, &arena, &holds);
        measure("1 ledger");
        for (i = 2; i <= LEDGERS; i++) {
                CHECK(world_join(&world, i, &ledger) == 0 && shm_owner_knows(&owner));
                memset(&others, 0, sizeof(others));
                CHECK(shm_ledger_map(ledger.memory, &others) == 0);
                shm_hold_release(&others, shm_hold_take(&others));
                world_close(&ledger);
        }
        measure("100 ledgers");
        world.line->waiters = 1;
        measure("100 ledgers, and somebody may sleep");
        return 0;
}

/*
 * chains.c MS - names that are there are found, while others of the same chain of the index come and go, and move them.
 */
#include "values.h"

#include <pthread.h>

#define NAMES 24
#define ENTRIES 14 /* fewer than there are names, so that each name which comes takes another one out of the index */
#define PERMANENT 4
#define READERS 3

static struct world world;
static struct shm_arena_owner owner;
static char names[NAMES][24];
static int stop;

void arena_step(void);

/* Called between two slots, of a reader and of the owner, by the tests. */
void arena_step(void)
{
        static __thread uint64_t random;

        if (world_random(&random) % 16 == 0)
                usleep(1 + (useconds_t)(world_random(&random) % 100));
}

/* Names whose chains begin at one of two slots. */
static void find_names(void)
{
        int count = 0, i;

        for (i = 0; count < NAMES; i++) {
                sprintf(names[count], "%d", i);
                if ((shm_name_hash(names[count], strlen(names[count])) & 63) <= 1)
                        count++;
        }
}

static void *look(void *argument)
{
        struct shm_arena arena;
        uint64_t state = (uint64_t)(uintptr_t)argument, looks = 0;
        uint32_t entry;

        world_map(&world, &arena);
        while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
                const char *name = names[world_random(&state) % PERMANENT];
                int error = shm_arena_find(&arena, name, strlen(name), &entry);

                CHECK(error == 0 && shm_word_present(arena.entries[entry].word));
                looks++;
        }
        CHECK(looks > 10);
        return NULL;
}

/* Have some names that stay far down the chain: others come first, and go later. */
static void fill(void)
{
        uint64_t i;

        for (i = NAMES - 1; i >= NAMES - 9; i--)
                CHECK(value_put(&owner, names[i], i, 1) == 0);
        for (i = 0; i < PERMANENT; i++)
                CHECK(value_put(&owner, names[i], i, 1) == 0);
}

int main(int argc, char **argv)
{
        pthread_t readers[READERS];
        uint64_t state = 5, end, i;

        CHECK(argc == 2);
        find_names();
        world_make(&world, 1 << 20, 1 << 20);
        world_own(&world, &owner, ENTRIES);
        CHECK(owner.arena.index_mask == 63);
        fill();
        for (i = 0; i < READERS; i++)
                CHECK(pthread_create(&readers[i], NULL, look, (void *)(uintptr_t)(i + 1)) == 0);
        end = shm_arena_now_ns() + strtoull(argv[1], NULL, 10) * 1000000;
        while (shm_arena_now_ns() < end) {
                i = PERMANENT + world_random(&state) % (NAMES - PERMANENT);
                if (value_put(&owner, names[i], i, 1) == -ENFILE || world_random(&state) % 2)
                        (void)shm_arena_remove(&owner, names[i], strlen(names[i]));
                i = PERMANENT + world_random(&state) % (NAMES - PERMANENT);
                (void)shm_arena_remove(&owner, names[i], strlen(names[i]));
        }
        __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
        for (i = 0; i < READERS; i++)
                CHECK(pthread_join(readers[i], NULL) == 0);
        CHECK(owner.control->moves > 100);
        printf("%" PRIu64 " moves\n", owner.control->moves);
        return 0;
}

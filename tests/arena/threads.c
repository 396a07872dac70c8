/*
 * threads.c one|two SECONDS_MS - an owner and readers as threads of one process.
 *
 * one: all use one mapping and the same memory of the ledgers, so that ThreadSanitizer sees the same addresses, and
 * says so where the order of the accesses is not certain. two: each reader has its own mappings, elsewhere than the
 * owner.
 */
#include "values.h"

#include <pthread.h>

#define READERS 3
#define NAMES 6

static struct world world;
static struct shm_arena_owner owner;
static int stop;
static uint8_t whose[1 << 22]; /* the name of each generation */

struct reader {
        pthread_t thread;
        struct shm_arena arena;
        struct shm_holds holds;
        uint64_t number, gets, missing;
};

static const char *name_of(uint64_t number)
{
        static const char *names[NAMES] = {"a", "bb", "a name that has more than thirty-two bytes", "d", "e", "f"};

        return names[number];
}

/*
 * A word that is found with a name is of a value of that name, though entries get other names all the time. An absent
 * one can be from before: its entry has another name already, and the flip that comes next is that one's.
 */
static void look_at(struct reader *reader, uint64_t name)
{
        uint64_t word;
        uint32_t entry;

        if (shm_arena_look(&reader->arena, name_of(name), strlen(name_of(name)), &entry, &word) == 0 &&
            shm_word_present(word))
                CHECK(__atomic_load_n(&whose[shm_word_generation(word)], __ATOMIC_RELAXED) == name);
}

/* Two threads of a reader use its ledger; each holds two values at a time. */
static void *read_on(void *argument)
{
        struct reader *reader = (struct reader *)argument;
        uint64_t state = reader->number, last[NAMES] = {0}, gets = 0, missing = 0;

        while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
                struct shm_arena_value values[2];
                uint64_t numbers[2];
                int i, errors[2];

                for (i = 0; i < 2; i++) {
                        numbers[i] = world_random(&state) % NAMES;
                        errors[i] = shm_arena_hold(&reader->arena, &reader->holds, name_of(numbers[i]),
                                                   strlen(name_of(numbers[i])), &values[i]);
                        CHECK(errors[i] == 0 || errors[i] == -ENOENT);
                }
                look_at(reader, numbers[0]);
                for (i = 0; i < 2; i++) {
                        if (errors[i]) {
                                missing++;
                                continue;
                        }
                        CHECK(values[i].generation >= last[numbers[i]]);
                        last[numbers[i]] = values[i].generation;
                        CHECK(value_is(&values[i], numbers[i]));
                        shm_arena_release(&reader->holds, &values[i]);
                        gets++;
                }
        }
        __atomic_fetch_add(&reader->gets, gets, __ATOMIC_RELAXED);
        __atomic_fetch_add(&reader->missing, missing, __ATOMIC_RELAXED);
        return NULL;
}

/* Let a reader have the very memory that the owner has. */
static void share(struct reader *reader)
{
        struct shm_known_ledger *known;

        CHECK(shm_owner_knows(&owner));
        known = &owner.ledgers[owner.ledger_count - 1];
        munmap((void *)(uintptr_t)known->ledger, known->size);
        known->ledger = (struct shm_ledger *)mmap(NULL, known->size, PROT_READ | PROT_WRITE,
                                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(known->ledger != MAP_FAILED);
        munmap((void *)(uintptr_t)reader->arena.base, reader->arena.span);
        reader->arena = owner.arena;
        reader->holds.ledger = (struct shm_ledger *)(uintptr_t)known->ledger;
        reader->holds.holds = (struct shm_ledger_hold *)(reader->holds.ledger + 1);
}

static uint64_t write_on(uint64_t end_ns)
{
        uint64_t state = 99, puts = 0;

        while (shm_arena_now_ns() < end_ns) {
                uint64_t name = world_random(&state) % NAMES;
                int error;

                CHECK(owner.control->generation + 1 < sizeof(whose));
                __atomic_store_n(&whose[owner.control->generation + 1], name, __ATOMIC_RELAXED);
                if (world_random(&state) % 16 == 0) {
                        error = shm_arena_remove(&owner, name_of(name), strlen(name_of(name)));
                        CHECK(error == 0 || error == -ENOENT);
                        continue;
                }
                error = value_put(&owner, name_of(name), name, world_random(&state) % 300);
                CHECK(error == 0 || error == -ENFILE);
                puts += error == 0;
        }
        return puts;
}

int main(int argc, char **argv)
{
        static struct reader readers[READERS];
        pthread_t seconds[READERS];
        uint64_t i, puts, gets = 0;

        CHECK(argc == 3);
        world_make(&world, 1 << 20, 1 << 20);
        world_own(&world, &owner, NAMES - 1); /* one less than there are: entries get other names */
        for (i = 0; i < NAMES - 1; i++) {
                whose[i + 1] = (uint8_t)i;
                CHECK(value_put(&owner, name_of(i), i, 10) == 0);
        }
        CHECK(value_put(&owner, name_of(i), i, 10) == -ENFILE);
        CHECK(shm_arena_remove(&owner, "a", 1) == 0 && whose[i + 1] == 0);
        for (i = 0; i < READERS; i++) {
                readers[i].number = i + 1;
                world_reader(&world, i + 1, &readers[i].arena, &readers[i].holds);
                if (strcmp(argv[1], "one") == 0)
                        share(&readers[i]);
                CHECK(pthread_create(&readers[i].thread, NULL, read_on, &readers[i]) == 0);
                CHECK(pthread_create(&seconds[i], NULL, read_on, &readers[i]) == 0);
        }
        puts = write_on(shm_arena_now_ns() + strtoull(argv[2], NULL, 10) * 1000000);
        __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
        for (i = 0; i < READERS; i++) {
                CHECK(pthread_join(readers[i].thread, NULL) == 0 && pthread_join(seconds[i], NULL) == 0);
                gets += readers[i].gets;
        }
        CHECK(shm_collect(&owner) == 0 && owner.retired_count == 0);
        CHECK(puts > 100 && gets > 100);
        printf("%" PRIu64 " puts, %" PRIu64 " gets\n", puts, gets);
        return 0;
}

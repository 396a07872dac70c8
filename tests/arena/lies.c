/*
 * lies.c still|moving|ledger SEED ROUNDS - readers of an arena whose owner lies, and an owner among readers who lie.
 *
 * still: some words of an arena are wrong. moving: another thread writes them meanwhile. ledger: a thread writes every
 * word of a ledger. Nobody may fault: behind the object's end and around the mapping nothing can be read.
 */
#include "values.h"

#include <pthread.h>

#define NAMES 40
#define SIZE (64u * 4096)
#define SPAN (256u * 4096)

static struct world world;
static struct shm_arena_owner owner;
static uint64_t state;
static int stop;

static uint64_t lie(uint64_t *random, uint64_t truth)
{
        static const uint64_t edges[] = {0, 1, 2, 3, 4096, SIZE - 64, SIZE, SIZE + 1, SPAN - 64, SPAN, SPAN + 64,
                                         WORLD_HOME, WORLD_HOME + SIZE, (uint64_t)1 << 63, UINT64_MAX, UINT64_MAX - 63,
                                         UINT32_MAX, (uint64_t)0xffffffff << 32, 0x8000, 524288, 524289};
        uint64_t kind = world_random(random) % 4, pick = world_random(random);

        if (kind == 0)
                return edges[pick % (sizeof(edges) / sizeof(edges[0]))];
        if (kind == 1)
                return truth ^ (uint64_t)1 << pick % 64;
        if (kind == 2)
                return truth + pick % 8192 - 4096;
        return pick % 5 == 0 ? pick : pick % (SPAN / 64) * 64;
}

static void name_of(uint64_t number, char *name)
{
        if (number % 3 == 0)
                sprintf(name, "a name that is longer than what fits into its entry: %" PRIu64, number);
        else
                sprintf(name, "%" PRIu64, number);
}

static void fill(void)
{
        char name[80], description[6000];
        struct shm_arena_meaning meaning;
        uint64_t i, generation;

        memset(description, 'd', sizeof(description));
        for (i = 0; i < NAMES; i++) {
                memset(&meaning, 0, sizeof(meaning));
                meaning.description = description;
                meaning.description_size = i % 2 ? 10 + i : i == 8 ? sizeof(description) : 0;
                meaning.root = 8;
                meaning.root_size = i % 5 ? 16 : 0;
                name_of(i, name);
                CHECK(shm_arena_put(&owner, name, strlen(name), description, 40 + i * 10, &meaning, &generation) == 0);
        }
        for (i = 0; i < NAMES; i += 7) {
                name_of(i, name);
                CHECK(shm_arena_remove(&owner, name, strlen(name)) == 0);
        }
}

static volatile uint8_t sink;

static void touch(const void *data, uint64_t size)
{
        uint64_t i;

        for (i = 0; i < size; i++)
                sink ^= ((const uint8_t *)data)[i];
}

/* Read all that a reader can; returns how many values there were. */
static int read_all(const void *base, struct shm_holds *holds)
{
        struct shm_arena arena;
        struct shm_arena_value value;
        uint64_t i;
        char name[80];
        int count = 0, error = shm_arena_open(base, WORLD_HOME, SPAN, SIZE, &arena);

        CHECK(error == 0 || error == -EBADMSG || error == -EPROTONOSUPPORT);
        if (error)
                return 0;
        arena.line = world.line;
        arena.region = WORLD_REGION;
        for (i = 0; i < NAMES; i++) {
                name_of(i, name);
                error = shm_arena_hold(&arena, holds, name, strlen(name), &value);
                CHECK(error == 0 || error == -ENOENT || error == -EBADMSG || error == -EBUSY);
                if (error)
                        continue;
                touch(value.data, value.size);
                touch(value.description, value.description_size);
                CHECK(value.root_size == 0 || value.root - WORLD_HOME + value.root_size <= SPAN);
                touch((const uint8_t *)base + (value.root - WORLD_HOME), value.root_size);
                shm_arena_release(holds, &value);
                count++;
        }
        return count;
}

/* The words that can be wrong: control page, index, entries, and the heap with the long names. */
static uint64_t *word_at(uint64_t *random)
{
        uint64_t end = owner.arena.heap + 8192, at = SHM_HEADER_SIZE, kind = world_random(random) % 8;

        if (kind == 0)
                end = SHM_HEADER_SIZE + sizeof(struct shm_arena_control);
        else if (kind < 6)
                at = SHM_ARENA_HEAD;
        return (uint64_t *)(uintptr_t)(WORLD_HOME + at + world_random(random) % ((end - at) / 8) * 8);
}

/* At each time some words are wrong, and others are not any more. */
static void *scribble(void *image)
{
        uint64_t random = state ^ 0x5555, *words[4] = {NULL}, truth, i;

        for (i = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); i++) {
                uint64_t *word = words[i % 4];

                if (word != NULL) {
                        memcpy(&truth, (uint8_t *)image + ((uintptr_t)word - WORLD_HOME), 8);
                        __atomic_store_n(word, truth, __ATOMIC_RELAXED);
                }
                words[i % 4] = word = word_at(&random);
                __atomic_store_n(word, lie(&random, *word), __ATOMIC_RELAXED);
        }
        return NULL;
}

/* A mapping of the arena with nothing around it. */
static const void *guarded(void)
{
        uint8_t *around = (uint8_t *)mmap(NULL, SPAN + 2 * SPAN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        CHECK(around != MAP_FAILED);
        CHECK(mmap(around + SPAN, SPAN, PROT_READ, MAP_SHARED | MAP_FIXED, world.memory, 0) == around + SPAN);
        return around + SPAN;
}

static int lie_to_readers(int is_moving, uint64_t rounds)
{
        struct shm_holds holds;
        struct shm_arena arena;
        pthread_t thread;
        void *image = malloc(SIZE);
        const void *base = guarded();
        uint64_t round, i, total = 0;

        fill();
        world_reader(&world, 1, &arena, &holds);
        CHECK(image != NULL && read_all(base, &holds) == NAMES - 6);
        memcpy(image, owner.arena.base, SIZE);
        if (is_moving)
                CHECK(pthread_create(&thread, NULL, scribble, image) == 0);
        for (round = 0; round < rounds || total <= rounds; round++) {
                for (i = 0; !is_moving && i <= round % 6; i++) {
                        uint64_t *word = word_at(&state);

                        *word = lie(&state, *word);
                }
                total += (uint64_t)read_all(base, &holds);
                if (!is_moving)
                        memcpy((uint8_t *)(uintptr_t)owner.arena.base + 4096, (uint8_t *)image + 4096, SIZE - 4096);
        }
        __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
        if (is_moving)
                CHECK(pthread_join(thread, NULL) == 0);
        for (i = 0; i < holds.ledger->high; i++)
                CHECK(holds.holds[i].block == 0);
        free(image);
        printf("%" PRIu64 " values\n", total);
        return 0;
}

static void *spoil_ledger(void *memory)
{
        uint64_t random = state ^ 0x7777, *words = (uint64_t *)memory, at;

        while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
                at = world_random(&random) % (world_random(&random) % 4 ? 700 : sizeof(struct shm_ledger) / 8 + 2 * WORLD_HOLDS);
                __atomic_store_n(&words[at], WORLD_HOME + lie(&random, words[at] - WORLD_HOME), __ATOMIC_RELAXED);
                __atomic_store_n(&words[at % 2], at % 3 ? UINT64_MAX : WORLD_HOLDS, __ATOMIC_RELAXED);
        }
        return NULL;
}

static int lie_to_owner(uint64_t rounds)
{
        struct world_ledger liar;
        struct shm_arena arena;
        struct shm_holds holds;
        pthread_t thread;
        uint64_t i, full = 0, number;
        char name[80];
        void *memory;

        CHECK(world_join(&world, 1, &liar) == 0);
        memory = mmap(NULL, WORLD_LEDGER, PROT_READ | PROT_WRITE, MAP_SHARED,
                      liar.memory, 0);
        CHECK(memory != MAP_FAILED);
        world_reader(&world, 2, &arena, &holds);
        world.line->waiters = 1; /* so that the owner looks at who sleeps */
        CHECK(pthread_create(&thread, NULL, spoil_ledger, memory) == 0);
        for (i = 0; i < rounds; i++) {
                struct shm_arena_value value;
                int error;

                number = world_random(&state) % NAMES;
                name_of(number, name);
                error = value_put(&owner, name, number, world_random(&state) % 500);
                CHECK(error == 0 || error == -ENOSPC);
                full += error != 0;
                CHECK(error != 0 || shm_arena_hold(&arena, &holds, name, strlen(name), &value) == 0);
                if (error)
                        continue;
                CHECK(value_is(&value, number));
                shm_arena_release(&holds, &value);
        }
        __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
        CHECK(pthread_join(thread, NULL) == 0);
        world_forget(&world, 1);
        CHECK(shm_collect(&owner) == 0 && owner.retired_count == 0);
        printf("%" PRIu64 " puts, %" PRIu64 " found no room\n", rounds, full);
        return 0;
}

int main(int argc, char **argv)
{
        uint64_t rounds;

        CHECK(argc == 4);
        state = strtoull(argv[2], NULL, 10);
        rounds = strtoull(argv[3], NULL, 10);
        world_make(&world, SIZE, strcmp(argv[1], "ledger") == 0 ? SIZE : SPAN);
        world_own(&world, &owner, NAMES);
        if (strcmp(argv[1], "ledger") == 0)
                return lie_to_owner(rounds);
        return lie_to_readers(strcmp(argv[1], "moving") == 0, rounds);
}

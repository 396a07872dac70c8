/* limits.c CASE - what an owner and a reader do where something is at its end. */
#include "values.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

static struct world world;
static struct shm_arena_owner owner;
static struct shm_arena arena;
static struct shm_holds holds;

static void start(uint64_t size, uint64_t span, uint64_t names)
{
        world_make(&world, size, span);
        world_own(&world, &owner, names);
        world_reader(&world, 1, &arena, &holds);
}

static int put(const char *name, uint64_t words)
{
        return value_put(&owner, name, 1, words);
}

static int get(const char *name, struct shm_arena_value *value)
{
        return shm_arena_hold(&arena, &holds, name, strlen(name), value);
}

/* Whether a name has a right value now. */
static int has(const char *name)
{
        struct shm_arena_value value;
        int is_right;

        if (get(name, &value) != 0)
                return 0;
        is_right = value_is(&value, 1);
        shm_arena_release(&holds, &value);
        return is_right;
}

/* --- memory */

static uint64_t granted; /* bytes, by the host */

static void *serve(void *none)
{
        while (world_serve(&world, &granted) != 0)
                ;
        return none;
}

static int growth(void)
{
        struct shm_arena_value value;
        pthread_t thread;
        uint64_t i;
        char name[32];

        __atomic_store_n(&granted, 3 << 20, __ATOMIC_SEQ_CST);
        start(64 << 10, 4 << 20, 100);
        CHECK(pthread_create(&thread, NULL, serve, NULL) == 0);
        for (i = 0; i < 100; i++) {
                sprintf(name, "%" PRIu64, i);
                if (put(name, 8192) != 0)
                        break;
                CHECK(has(name));
        }
        CHECK(i > 30 && i < 48 && put(name, 8192) == -ENOSPC && owner.arena.size <= granted);
        __atomic_store_n(&granted, 4 << 20, __ATOMIC_SEQ_CST);
        CHECK(put(name, 8192) == 0 && owner.arena.size == 4 << 20);
        CHECK(put("too large", 1 << 20) == -ENOSPC && shm_arena_grow(&owner, (4 << 20) + 1) == -EINVAL);
        /* A reader whose line says nothing any more knows that it does not know. */
        arena.size = 64 << 10;
        world.line->region = 0;
        CHECK(get(name, &value) == -ESTALE && get("0", &value) != -EBADMSG);
        close(owner.socket);
        owner.socket = -1;
        CHECK(shm_arena_grow(&owner, 4 << 20) == 0 && pthread_join(thread, NULL) == 0);
        return 0;
}

static int full(void)
{
        struct shm_arena_value value;
        uint64_t i, rounds;
        char name[32];

        start(1 << 20, 1 << 20, 100);
        for (rounds = 0; rounds < 3; rounds++) {
                for (i = 0; i < 100; i++) {
                        sprintf(name, "%" PRIu64, i);
                        if (put(name, 5000) != 0)
                                break;
                }
                CHECK(i > 15 && i < 30 && put(name, 5000) == -ENOSPC);
                CHECK(get("3", &value) == 0 && shm_arena_remove(&owner, "3", 1) == 0);
                CHECK(put(name, 5000) == -ENOSPC && owner.ledgers[0].held == 1 && value_is(&value, 1));
                shm_arena_release(&holds, &value);
                CHECK(put(name, 5000) == 0);
                while (i-- > 0) {
                        sprintf(name, "%" PRIu64, i);
                        CHECK(shm_arena_remove(&owner, name, strlen(name)) == (i == 3 ? -ENOENT : 0));
                }
                for (i = 0; i < 100; i++) {
                        sprintf(name, "%" PRIu64, i);
                        (void)shm_arena_remove(&owner, name, strlen(name));
                }
                CHECK(owner.control->names == 0 && owner.control->value_bytes == 0);
        }
        return 0;
}

/* --- names */

static uint64_t longest_chain(void)
{
        uint64_t i, run = 0, longest = 0;

        for (i = 0; i < 2 * (arena.index_mask + 1); i++) {
                run = owner.slots[i & arena.index_mask] != 0 ? run + 1 : 0;
                longest = run > longest ? run : longest;
        }
        return longest;
}

static int names(void)
{
        char text[300];
        uint64_t i;

        start(8 << 20, 8 << 20, 1000);
        memset(text, 'n', sizeof(text));
        text[255] = 0;
        CHECK(put(text, 3) == 0 && has(text));
        text[254] = 0;
        CHECK(!has(text) && put(text, 3) == 0 && has(text));
        text[254] = text[255] = 'n';
        text[256] = 0;
        CHECK(put(text, 3) == -EINVAL && put("", 3) == -EINVAL && !has(text) && !has(""));
        for (i = 0; i < 998; i++) {
                sprintf(text, "%" PRIu64, i);
                CHECK(put(text, 2) == 0);
        }
        CHECK(put("one too many", 2) == -ENFILE && owner.control->names == 1000);
        /* Names that come and go for ever do not spoil the index. */
        for (i = 0; i < 100000; i++) {
                sprintf(text, "%" PRIu64, i);
                CHECK(shm_arena_remove(&owner, text, strlen(text)) == 0);
                sprintf(text, i % 10 ? "%" PRIu64 : "%" PRIu64 " and what makes it longer than 32 bytes", i + 998);
                CHECK(i % 10 ? put(text, 2) == 0 : 1);
                sprintf(text, "%" PRIu64, i + 998);
                CHECK(put(text, 2) == 0 && has(text));
        }
        CHECK(longest_chain() < 150 && owner.control->moves > 1000);
        return 0;
}

static int descriptions(void)
{
        static char description[SHM_METADATA_MAX + 1];
        struct shm_arena_meaning meaning;
        struct shm_arena_value value;
        uint64_t i, generation, sizes[] = {1, 4096, 4097, SHM_METADATA_MAX};

        start(8 << 20, 8 << 20, 10);
        memset(&meaning, 0, sizeof(meaning));
        meaning.description = description;
        for (i = 0; i < 2000; i++) {
                meaning.description_size = i < 1000 ? 16 : sizes[i % 4];
                sprintf(description, "%" PRIu64, i);
                CHECK(shm_arena_put(&owner, "a", 1, "data", 4, &meaning, &generation) == 0 && get("a", &value) == 0);
                CHECK(value.description_size == meaning.description_size && value.size == 4);
                CHECK(memcmp(value.description, description, value.description_size) == 0);
                CHECK(memcmp(value.data, "data", 4) == 0 && value.generation == generation);
                shm_arena_release(&holds, &value);
        }
        meaning.description_size = SHM_METADATA_MAX + 1;
        CHECK(shm_arena_put(&owner, "a", 1, "data", 4, &meaning, &generation) == -EINVAL);
        meaning.description_size = 0;
        meaning.root = 2;
        meaning.root_size = 3; /* not in the value */
        CHECK(shm_arena_put(&owner, "a", 1, "data", 4, &meaning, &generation) == -EINVAL);
        meaning.root_size = 2;
        CHECK(shm_arena_put(&owner, "a", 1, "data", 4, &meaning, &generation) == 0 && get("a", &value) == 0);
        CHECK(value.root == (uint64_t)(uintptr_t)value.data - (uint64_t)(uintptr_t)arena.base + arena.home + 2);
        return 0;
}

/* --- ledgers */

static int hold_all(void)
{
        static struct shm_arena_value values[WORLD_HOLDS];
        struct shm_arena_value more;
        uint64_t i;

        start(1 << 20, 1 << 20, 10);
        CHECK(put("a", 4) == 0);
        for (i = 0; i < WORLD_HOLDS; i++)
                CHECK(get("a", &values[i]) == 0);
        CHECK(get("a", &more) == -ENOLCK && put("a", 5) == 0);
        shm_arena_release(&holds, &values[77777]);
        CHECK(get("a", &more) == 0 && more.size == 40 && get("a", &values[77777]) == -ENOLCK);
        CHECK(shm_collect(&owner) == 0 && owner.retired_count == 1 && owner.ledgers[0].held == WORLD_HOLDS - 1);
        for (i = 0; i < WORLD_HOLDS; i++)
                if (i != 77777)
                        shm_arena_release(&holds, &values[i]);
        CHECK(shm_collect(&owner) == 0 && owner.retired_count == 0);
        return 0;
}

/* The word says that there is a ledger whose message did not come yet: nothing may be used again. */
static int late_message(void)
{
        struct shm_arena_value value;
        uint64_t i;

        start(1 << 20, 1 << 20, 10);
        world.line->ledgers++;
        for (i = 0; put("a", 1000) == 0; i++)
                CHECK(i < 200);
        CHECK(i > 100 && has("a") && put("a", 1000) == -ENOSPC && get("a", &value) == 0);
        CHECK(world_tell(&world, SHM_ARENA_FORGET, 0, 99, 0, NULL) == 0);
        CHECK(put("a", 1000) == 0 && value_is(&value, 1));
        /* The host goes, and had nothing more to say; or it had, and the owner can never know what. */
        close(world.host);
        for (i = 0; i < 1000; i++)
                CHECK(put("a", 1000) == 0 && value_is(&value, 1));
        world.line->ledgers++;
        for (i = 0; put("a", 1000) == 0; i++)
                CHECK(i < 200);
        CHECK(put("a", 1000) == -EPIPE && value_is(&value, 1) && shm_arena_grow(&owner, 1 << 20) == 0);
        return 0;
}

static void *introduce_late(void *ledger)
{
        usleep(2000);
        CHECK(world_introduce(&world, (const struct world_ledger *)ledger) == 0);
        return NULL;
}

static int is_raised(const struct world_ledger *ledger)
{
        struct pollfd event = {ledger->event, POLLIN, 0};

        return poll(&event, 1, 0) == 1;
}

/* Give a client that sleeps until the arena's next change. */
static void sleeping_client(uint64_t number, struct world_ledger *ledger)
{
        uint64_t word = WORLD_HOME + SHM_HEADER_SIZE + offsetof(struct shm_arena_control, changes);
        struct shm_holds sleeper;

        memset(&sleeper, 0, sizeof(sleeper));
        world_ledger(number, ledger);
        CHECK(shm_ledger_map(ledger->memory, &sleeper) == 0);
        CHECK(shm_wait_take(&sleeper, word | 1) != NULL);
        world.line->ledgers++;
}

/* Put while the message about a client is on its way; return whether it came in SHM_CATCH_UP_MS: the put woke it then. */
static int is_woken_by_put(uint64_t number)
{
        struct world_ledger ledger;
        pthread_t thread;
        int is_woken;

        sleeping_client(number, &ledger);
        CHECK(pthread_create(&thread, NULL, introduce_late, &ledger) == 0);
        CHECK(put("a", 10) == 0);
        is_woken = is_raised(&ledger);
        CHECK(pthread_join(thread, NULL) == 0 && shm_collect(&owner) == 0 && is_raised(&ledger));
        CHECK(is_woken || owner.waited_for == world.line->ledgers);
        return is_woken;
}

/* A client sleeps, and the host had to queue the message about it: the put that it waits for wakes it all the same. */
static int late_sleeper(void)
{
        struct world_ledger ledger;
        uint64_t i = 2;

        start(1 << 20, 1 << 20, 10);
        world.line->waiters = 1;
        while (!is_woken_by_put(i++)) /* on a machine that has better to do than run the other thread */
                CHECK(i < 50);
        /* A host that is stopped: the put does not wait for long, and the client wakes when the message comes. */
        sleeping_client(i, &ledger);
        CHECK(put("a", 10) == 0 && put("a", 10) == 0 && !is_raised(&ledger));
        CHECK(owner.waited_for == world.line->ledgers);
        CHECK(world_introduce(&world, &ledger) == 0 && shm_collect(&owner) == 0 && is_raised(&ledger));
        return 0;
}

/* No descriptor is free for a ledger: nothing may be used again, until one is. */
static int descriptors(void)
{
        struct rlimit all, few;
        struct world_ledger ledgers[2];
        struct shm_arena_value value;
        uint64_t i;
        int room;

        start(1 << 20, 1 << 20, 10);
        CHECK(put("a", 1000) == 0 && getrlimit(RLIMIT_NOFILE, &all) == 0);
        for (room = 0; room < 2; room++) {
                CHECK(world_join(&world, (uint64_t)room + 2, &ledgers[room]) == 0);
                few = all;
                few.rlim_cur = (rlim_t)dup(0);
                close((int)few.rlim_cur);
                few.rlim_cur += (rlim_t)room;
                CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0 && get("a", &value) == 0);
                for (i = 0; put("a", 1000) == 0; i++)
                        CHECK(i < 200);
                CHECK(put("a", 1000) == -ENOSPC && value_is(&value, 1) && shm_owner_receive(&owner) == -EMFILE);
                CHECK(dup(0) == (room ? (int)few.rlim_cur - 1 : -1)); /* none was left open */
                if (room)
                        close((int)few.rlim_cur - 1);
                CHECK(setrlimit(RLIMIT_NOFILE, &all) == 0 && put("a", 1000) == 0 && value_is(&value, 1));
                CHECK(owner.ledger_count == (uint32_t)room + 2);
                shm_arena_release(&holds, &value);
        }
        world_forget(&world, 2);
        world_forget(&world, 3);
        CHECK(shm_collect(&owner) == 0 && owner.ledger_count == 1 && owner.retired_count == 0);
        return 0;
}

/* The counts go around. */
static int wraps(void)
{
        struct shm_arena_value value;
        struct world_ledger ledger;
        uint64_t i;

        start(1 << 20, 1 << 20, 10);
        CHECK(shm_owner_knows(&owner));
        owner.heard = world.line->ledgers = UINT32_MAX - 2;
        owner.control->changes = UINT32_MAX - 5;
        owner.control->generation = ((uint64_t)1 << 62) - 50;
        CHECK(put("a", 100) == 0 && get("a", &value) == 0);
        for (i = 2; i < 10; i++) {
                CHECK(world_join(&world, i, &ledger) == 0);
                world_close(&ledger);
                CHECK(put("a", 100) == 0 && value_is(&value, 1) && has("a") && owner.heard == world.line->ledgers);
                world_forget(&world, i);
        }
        CHECK(shm_collect(&owner) == 0 && owner.retired_count == 1 && owner.heard == 13);
        return 0;
}

/* A child of the owner's process has none of it. */
static int children(void)
{
        int status;
        pid_t pid;

        start(1 << 20, 1 << 20, 10);
        pid = fork();
        if (pid == 0)
                _exit(put("a", 10) == 0 ? 0 : 1);
        CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && put("a", 10) == 0 && has("a"));
        return 0;
}

int main(int argc, char **argv)
{
        static const struct {
                const char *name;
                int (*run)(void);
        } cases[] = {{"growth", growth}, {"full", full}, {"names", names}, {"descriptions", descriptions},
                     {"holds", hold_all}, {"late_message", late_message}, {"late_sleeper", late_sleeper}, {"descriptors", descriptors},
                     {"wraps", wraps}, {"children", children}};
        size_t i;

        for (i = 0; argc == 2 && i < sizeof(cases) / sizeof(cases[0]); i++)
                if (strcmp(argv[1], cases[i].name) == 0)
                        return cases[i].run();
        return 2;
}

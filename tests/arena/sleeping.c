/*
 * sleeping.c ROUNDS futex|any|event - no wake is lost: a reader process and an owner take turns, each value
 * being put when the reader is about to sleep, or sleeps. A lost one ends in the test's time limit.
 */
#include "values.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static struct world world;

/* Sleep by the event of the ledger: arm it, look, and poll. */
static int await_by_event(struct shm_arena *arena, struct shm_holds *holds, int event, const char *name, uint64_t after,
                          struct shm_arena_value *value)
{
        struct pollfd wait = {event, POLLIN, 0};
        const uint32_t *word = shm_wait_word(arena, NULL);
        uint64_t *place, bytes;
        int error;

        for (;;) {
                place = shm_wait_take(holds, (arena->home + (uint64_t)((const uint8_t *)word - arena->base)) | 1);
                CHECK(place != NULL);
                error = shm_arena_hold(arena, holds, name, strlen(name), value);
                if (error == 0 && value->generation > after) {
                        shm_wait_give(place);
                        return 0;
                }
                if (error == 0)
                        shm_arena_release(holds, value);
                CHECK(poll(&wait, 1, 20000) == 1 && read(event, &bytes, 8) == 8);
                shm_wait_give(place);
        }
}

static void answer(int memory, int ledger, int event, const char *how, int out, uint64_t rounds)
{
        struct shm_holds holds;
        struct shm_arena arena;
        struct shm_arena_value value;
        uint64_t i, after = 0;
        char names[2][8] = {"a", "b"};
        int error;

        memset(&holds, 0, sizeof(holds));
        CHECK(shm_ledger_map(ledger, &holds) == 0 && shm_arena_map(memory, world.line, WORLD_REGION, &arena) == 0);
        for (i = 0; i < rounds; i++) {
                const char *name = names[strcmp(how, "any") == 0 ? i % 2 : 0];

                error = event >= 0 ? await_by_event(&arena, &holds, event, name, after, &value)
                                   : shm_arena_await(&arena, &holds, name, 1, after, (int64_t)20 * 1000000000, &value);
                CHECK(error == 0 && value_is(&value, i));
                after = value.generation;
                shm_arena_release(&holds, &value);
                CHECK(write(out, "", 1) == 1);
        }
        CHECK(shm_arena_await(&arena, &holds, "none", 4, 0, 1000000, &value) == -ETIMEDOUT);
        for (i = 0; i < SHM_LEDGER_WAITS; i++)
                CHECK(holds.ledger->waits[i] == 0);
        _exit(0);
}

/* With "any", a name goes when the other one comes: a name without a value is waited for by all changes. */
static void call(struct shm_arena_owner *owner, const char *how, int in, uint64_t rounds)
{
        uint64_t i, seed = 1, pause;
        char names[2][8] = {"a", "b"}, byte;
        int is_any = strcmp(how, "any") == 0;

        for (i = 0; i < rounds; i++) {
                for (pause = world_random(&seed) % 16 ? world_random(&seed) % 2000 : 0; pause > 0; pause--)
                        __asm__ volatile("" ::: "memory");
                CHECK(value_put(owner, names[is_any ? i % 2 : 0], i, 5) == 0);
                CHECK(read(in, &byte, 1) == 1);
                if (is_any)
                        CHECK(shm_arena_remove(owner, names[i % 2], 1) == 0);
        }
}

/* A client that never reads its event, and fills it, does not stop the owner. */
static void fill(struct shm_arena_owner *owner, struct shm_holds *holds, struct world_ledger *ledger)
{
        uint64_t i, *place;

        CHECK(shm_ledger_map(ledger->memory, holds) == 0);
        place = shm_wait_take(holds, (WORLD_HOME + SHM_HEADER_SIZE + offsetof(struct shm_arena_control, changes)) | 1);
        CHECK(place != NULL && fcntl(ledger->event, F_SETFL, 0) == 0);
        alarm(20);
        for (i = 0; i < 3000; i++)
                CHECK(value_put(owner, "a", 1, 5) == 0);
}

int main(int argc, char **argv)
{
        static struct shm_arena_owner owner;
        struct shm_holds holds;
        struct world_ledger ledger;
        int out[2], status, is_event;
        uint64_t rounds;
        pid_t pid;

        CHECK(argc == 3 && pipe(out) == 0);
        rounds = strtoull(argv[1], NULL, 10);
        is_event = strcmp(argv[2], "event") == 0;
        world_make(&world, 1 << 20, 1 << 20);
        world_own(&world, &owner, 10);
        CHECK(world_join(&world, 1, &ledger) == 0);
        world.line->waiters = 1;
        if (is_event && rounds == 0) {
                fill(&owner, &holds, &ledger);
                return 0;
        }
        pid = fork();
        if (pid == 0) {
                CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
                answer(world.memory, ledger.memory, is_event ? ledger.event : -1, argv[2], out[1], rounds);
        }
        close(out[1]);
        call(&owner, argv[2], out[0], rounds);
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        printf("ok\n");
        return 0;
}

/*
 * steps.c - an owner is stopped after each instruction, and a reader looks at all names: each has the value from
 * before, or the next one, or none where it may have none. What a reader sees then is what it would see if the owner
 * were killed there.
 */
#include "values.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define NAMES 9
#define ENTRIES 6

struct action {
        int name;
        int words; /* of the value; -1: the name goes */
};

/*
 * With 6 entries, the names that come at the end take those that went; all are in one chain of the index, which moves.
 */
static const struct action actions[] = {
        {0, 5}, {1, 9}, {2, 3}, {3, 0}, {4, 7}, {0, 6}, {1, 1}, {5, 2}, {1, -1}, {1, 4}, {0, -1}, {2, -1}, {6, 8},
        {7, 5}, {3, -1}, {8, 2}, {8, 12}, {6, -1}, {0, 3}, {4, -1}, {2, 2}, {0, 6}, {5, -1}, {3, 4}, {0, 600},
};
#define ACTIONS (sizeof(actions) / sizeof(actions[0]))

static char names[NAMES][80];
static struct world world;

/* Names that begin at the same slot, or at the next one; every second one is long. */
static void find_names(void)
{
        int count = 0, i;

        for (i = 0; count < NAMES; i++) {
                sprintf(names[count], count % 2 ? "%d" : "%d is the name, and it does not fit into an entry", i);
                if ((shm_name_hash(names[count], strlen(names[count])) & 63) - 62 <= (uint64_t)(count % 2))
                        count++;
        }
}

static void own(void)
{
        struct shm_arena_owner owner;
        uint64_t i;

        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        world_own(&world, &owner, ENTRIES);
        for (i = 0; i < ACTIONS; i++) {
                const struct action *action = &actions[i];

                raise(SIGSTOP);
                if (action->words < 0)
                        CHECK(shm_arena_remove(&owner, names[action->name], strlen(names[action->name])) == 0);
                else
                        CHECK(value_put(&owner, names[action->name], (uint64_t)action->name, (uint64_t)action->words) == 0);
        }
        raise(SIGSTOP);
        _exit(0);
}

/* A name has so many words now (-1: no value), or, if it is the action's, may have those of the action. */
static int look(struct shm_arena *arena, struct shm_holds *holds, int name, int words, const struct action *action,
                int *is_done)
{
        struct shm_arena_value value;
        int error = shm_arena_hold(arena, holds, names[name], strlen(names[name]), &value), now;

        CHECK(error == 0 || error == -ENOENT);
        now = error ? -1 : (int)(value.size / 8);
        if (!error) {
                CHECK(value_is(&value, (uint64_t)name));
                shm_arena_release(holds, &value);
        }
        if (action->name == name && now == action->words && now != words)
                return *is_done = 1;
        CHECK(now == words && (action->name != name || !*is_done));
        return 0;
}

static void wait_for(pid_t pid, int *signal_out)
{
        int status;

        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFSTOPPED(status) && (WSTOPSIG(status) == SIGSTOP || WSTOPSIG(status) == SIGTRAP));
        *signal_out = WSTOPSIG(status);
}

/* Step through one action. Returns the instructions. */
static uint64_t step_through(pid_t pid, struct shm_arena *arena, struct shm_holds *holds, int *words,
                             const struct action *action)
{
        uint64_t steps = 0;
        int is_done = 0, signal, i;

        do {
                CHECK(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0);
                wait_for(pid, &signal);
                for (i = 0; i < NAMES; i++)
                        (void)look(arena, holds, i, words[i], action, &is_done);
                steps++;
        } while (signal == SIGTRAP);
        CHECK(is_done || words[action->name] == action->words);
        words[action->name] = action->words;
        return steps;
}

int main(void)
{
        static struct shm_ledger_hold hold[8];
        static struct shm_ledger ledger;
        struct shm_holds holds = {&ledger, hold, 8, 0};
        struct shm_arena arena;
        int words[NAMES], signal;
        uint64_t i, steps = 0;
        pid_t pid;

        find_names();
        memset(words, -1, sizeof(words));
        world_make(&world, 1 << 20, 1 << 20);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0)
                own();
        wait_for(pid, &signal);
        world_map(&world, &arena);
        for (i = 0; i < ACTIONS; i++)
                steps += step_through(pid, &arena, &holds, words, &actions[i]);
        CHECK(shm_arena_control_of(&arena)->moves > 3);
        kill(pid, SIGKILL);
        CHECK(waitpid(pid, &signal, 0) == pid);
        printf("%" PRIu64 " instructions\n", steps);
        return 0;
}

/*
 * torture.c SEED SECONDS - a host, an owner and eight readers as processes, which are stopped and killed at
 * random.
 *
 * Each value says of each of its words whether it is of its name and generation. Readers look at what they hold when
 * they get it and again before they let it go. Names come and go. The host is torture_host.h. Exit codes: 0 all was
 * well, 7 a reader saw what it must not see, 9 something else.
 */
#include "values.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define READERS 8
#define NAMES 24
#define ENTRIES 20 /* fewer than there are names */
#define HELD 6     /* at most, by a reader */
#define WORDS 3000 /* at most, of a value */
#define SIZE (6u << 20)
#define HOME_OF(region) (WORLD_HOME + (region) * ((uint64_t)64 << 20))

/* What the processes tell the host; each word has one writer. */
struct report {
        uint64_t gets, missing, joined; /* of all readers: added up */
        uint64_t torn;
        uint64_t puts, full, names_out, generation;
        uint32_t finish, is_clean;
};

static struct report *report;

static const char *name_of(uint64_t number, char *name)
{
        sprintf(name, number % 3 == 0 ? "%" PRIu64 " has a name that does not fit into its entry" : "%" PRIu64, number);
        return name;
}

static void torn(const char *what, uint64_t name, const struct shm_arena_value *value)
{
        fprintf(stderr, "%s: name %" PRIu64 " generation %" PRIu64 " size %" PRIu64 "\n", what, name, value->generation,
                value->size);
        __atomic_fetch_add(&report->torn, 1, __ATOMIC_SEQ_CST);
}

/* --- a reader */

void arena_step(void);

/* The tests have readers call this between the steps of getting a value: the others go on meanwhile, for long. */
void arena_step(void)
{
        static uint64_t random;

        if (world_random(&random) % 50 == 0)
                usleep((useconds_t)(world_random(&random) % 300));
}

struct held {
        struct shm_arena_value value;
        uint64_t name;
        int is_held;
};

static void let_go(struct shm_holds *holds, struct held *held)
{
        if (!held->is_held)
                return;
        if (!value_is(&held->value, held->name))
                torn("changed while it was held", held->name, &held->value);
        shm_arena_release(holds, &held->value);
        held->is_held = 0;
}

static void look(struct shm_arena *arena, struct shm_holds *holds, struct held *held, uint64_t name, uint64_t *last)
{
        char text[80];
        int error;

        let_go(holds, held);
        name_of(name, text);
        error = shm_arena_hold(arena, holds, text, strlen(text), &held->value);
        if (error == -ENOENT) {
                __atomic_fetch_add(&report->missing, 1, __ATOMIC_RELAXED);
                return;
        }
        if (error) {
                memset(&held->value, 0, sizeof(held->value));
                torn(strerror(-error), name, &held->value);
                return;
        }
        held->name = name;
        held->is_held = 1;
        __atomic_fetch_add(&report->gets, 1, __ATOMIC_RELAXED);
        if (held->value.generation < last[name])
                torn("older than the last one", name, &held->value);
        if (!value_is(&held->value, name))
                torn("torn, or another's", name, &held->value);
        last[name] = held->value.generation;
}

static void read_on(int memory, int ledger, uint64_t region, const struct shm_board_line *line, uint64_t seed)
{
        struct shm_arena arena;
        struct shm_holds holds;
        struct held held[HELD];
        uint64_t last[NAMES] = {0}, i;

        memset(held, 0, sizeof(held));
        memset(&holds, 0, sizeof(holds));
        CHECK(shm_ledger_map(ledger, &holds) == 0);
        CHECK(shm_arena_map(memory, line, region, &arena) == 0);
        __atomic_fetch_add(&report->joined, 1, __ATOMIC_RELAXED);
        for (i = 0;; i++) {
                look(&arena, &holds, &held[world_random(&seed) % HELD], world_random(&seed) % NAMES, last);
                if (world_random(&seed) % 64 == 0)
                        sched_yield();
        }
}

/* --- an owner */

static void write_some(struct shm_arena_owner *owner, uint64_t *seed)
{
        uint64_t name = world_random(seed) % NAMES;
        char text[80];
        int error;

        name_of(name, text);
        if (world_random(seed) % 20 == 0) {
                error = shm_arena_remove(owner, text, strlen(text));
                CHECK(error == 0 || error == -ENOENT);
                return;
        }
        error = value_put(owner, text, name, world_random(seed) % 8 ? world_random(seed) % 200 : world_random(seed) % WORDS);
        CHECK(error == 0 || error == -ENOSPC || error == -ENFILE);
        report->puts += error == 0;
        report->full += error == -ENOSPC;
        report->names_out += error == -ENFILE;
}

/* When it is told to finish, all readers have gone: every retired block must be free soon. */
static void write_on(int memory, int control, uint64_t region, const struct shm_board_line *line, uint64_t seed)
{
        struct shm_arena_owner *owner = (struct shm_arena_owner *)calloc(1, sizeof(*owner));
        void *home = (void *)(uintptr_t)HOME_OF(region), *mapped;
        uint64_t i;

        mapped = mmap(home, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | SHM_MAP_FIXED_NOREPLACE, memory, 0);
        CHECK(owner != NULL && mapped == home && madvise(home, SIZE, MADV_DONTFORK) == 0);
        CHECK(shm_owner_make(owner, home, (uint64_t)(uintptr_t)home, SIZE, SIZE, ENTRIES, region, line, control) == 0);
        CHECK(shm_arena_ready(owner) == 0);
        while (!__atomic_load_n(&report->finish, __ATOMIC_SEQ_CST))
                write_some(owner, &seed);
        for (i = 0; i < 1000; i++) {
                if (shm_collect(owner) == 0 && owner->retired_count == 0 && owner->ledger_count == 0)
                        report->is_clean = 1;
                else if (i > 0)
                        usleep(2000);
        }
        _exit(0);
}

#include "torture_host.h"

int main(int argc, char **argv)
{
        CHECK(argc >= 3);
        report = (struct report *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(report != MAP_FAILED);
        return host_run(strtoull(argv[1], NULL, 10), strtod(argv[2], NULL));
}

/* players.h - owners and readers that are tortured: what they do to each other, and how they notice what must not be. */
#ifndef PLAYERS_H
#define PLAYERS_H

#include "values.h"

#include <sched.h>

#define NAMES 24
#define ENTRIES 20 /* fewer than there are names */
#define HELD 6     /* at most, by a reader */
#define WORDS 3000 /* at most, of a value */

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

/* Get values at random and look at them, for so many rounds. */
static void read_values(struct shm_arena *arena, struct shm_holds *holds, uint64_t *seed, uint64_t rounds)
{
        struct held held[HELD];
        uint64_t last[NAMES] = {0}, i;

        memset(held, 0, sizeof(held));
        for (i = 0; i < rounds; i++) {
                look(arena, holds, &held[world_random(seed) % HELD], world_random(seed) % NAMES, last);
                if (world_random(seed) % 64 == 0)
                        sched_yield();
        }
        for (i = 0; i < HELD; i++)
                let_go(holds, &held[i]);
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
        CHECK(error == 0 || error == -ENOSPC || error == -EPIPE || error == -ENFILE);
        report->puts += error == 0;
        report->full += error == -ENOSPC || error == -EPIPE;
        report->names_out += error == -ENFILE;
}

/* When all readers have gone: whether every retired block is free soon. */
static int becomes_clean(struct shm_arena_owner *owner)
{
        int i;

        for (i = 0; i < 1000; i++) {
                if (shm_collect(owner) == 0 && owner->retired_count == 0 && owner->ledger_count == 0)
                        return 1;
                usleep(5000);
        }
        return 0;
}

#endif /* PLAYERS_H */

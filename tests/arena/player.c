/*
 * player.c own|read ARENA REPORT SEED [ROUNDS] - an owner or a reader of an arena that it inherits from a host, as torture.c
 * has them. REPORT is a descriptor of the memory in which all say how it goes. An owner ends when that says `finish`, or its
 * host takes the arena from it: with 0 if every block is free then.
 */
#include "players.h"

static int own(const char *name, uint64_t seed)
{
        struct shm_arena_owner *owner = (struct shm_arena_owner *)calloc(1, sizeof(*owner));

        CHECK(owner != NULL && shm_arena_own_inherited(name, ENTRIES, owner) == 0);
        while (!__atomic_load_n(&report->finish, __ATOMIC_SEQ_CST))
                write_some(owner, &seed);
        return becomes_clean(owner) ? 0 : 8;
}

static int read_all(const char *name, uint64_t seed, uint64_t rounds)
{
        struct shm_arena arena;
        struct shm_holds holds;

        memset(&holds, 0, sizeof(holds));
        CHECK(shm_arena_open_inherited(name, &arena, &holds) == 0);
        __atomic_fetch_add(&report->joined, 1, __ATOMIC_RELAXED);
        read_values(&arena, &holds, &seed, rounds);
        return 0;
}

int main(int argc, char **argv)
{
        CHECK(argc >= 5);
        report = (struct report *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[3]), 0);
        CHECK(report != MAP_FAILED);
        if (strcmp(argv[1], "own") == 0)
                return own(argv[2], strtoull(argv[4], NULL, 10));
        return read_all(argv[2], strtoull(argv[4], NULL, 10), argc > 5 ? strtoull(argv[5], NULL, 10) : UINT64_MAX);
}

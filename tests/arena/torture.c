/*
 * torture.c SEED SECONDS - a host, an owner and eight readers as processes, which are stopped and killed at
 * random.
 *
 * Each value says of each of its words whether it is of its name and generation. Readers look at what they hold when
 * they get it and again before they let it go. Names come and go. The host is torture_host.h. Exit codes: 0 all was
 * well, 7 a reader saw what it must not see, 9 something else.
 */
#include "players.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define READERS 8
#define SIZE (6u << 20)
#define HOME_OF(region) (WORLD_HOME + (region) * ((uint64_t)64 << 20))

static void read_on(int memory, int ledger, uint64_t region, const struct shm_board_line *line, uint64_t seed)
{
        struct shm_arena arena;
        struct shm_holds holds;

        memset(&holds, 0, sizeof(holds));
        CHECK(shm_ledger_map(ledger, &holds) == 0);
        CHECK(shm_arena_map(memory, line, region, &arena) == 0);
        __atomic_fetch_add(&report->joined, 1, __ATOMIC_RELAXED);
        read_values(&arena, &holds, &seed, UINT64_MAX);
}

/* When it is told to finish, all readers have gone: every retired block must be free soon. */
static void write_on(int memory, int control, uint64_t region, const struct shm_board_line *line, uint64_t seed)
{
        struct shm_arena_owner *owner = (struct shm_arena_owner *)calloc(1, sizeof(*owner));
        void *home = (void *)(uintptr_t)HOME_OF(region), *mapped;

        mapped = mmap(home, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | SHM_MAP_FIXED_NOREPLACE, memory, 0);
        CHECK(owner != NULL && mapped == home && madvise(home, SIZE, MADV_DONTFORK) == 0);
        CHECK(shm_owner_make(owner, home, (uint64_t)(uintptr_t)home, SIZE, SIZE, ENTRIES, region, line, control) == 0);
        CHECK(shm_arena_ready(owner) == 0);
        while (!__atomic_load_n(&report->finish, __ATOMIC_SEQ_CST))
                write_some(owner, &seed);
        report->is_clean = (uint32_t)becomes_clean(owner);
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

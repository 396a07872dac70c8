/* inheriting.c CASE - what a program makes of $SHM_ARENAS, right or wrong, and what it leaves open. */
#include "values.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

static struct world world;
static struct shm_arena_owner owner;
static struct shm_arena arena;
static struct shm_holds holds;

static int count_descriptors(void)
{
        DIR *folder = opendir("/proc/self/fd");
        int count = 0;

        CHECK(folder != NULL);
        while (readdir(folder) != NULL)
                count++;
        closedir(folder);
        return count;
}

static int is_mapped(uint64_t address)
{
        unsigned char resident;

        return mincore((void *)(uintptr_t)address, 4096, &resident) == 0;
}

static void set_line(int memory, int control, int board, int line, int ledger, int event)
{
        char text[400];

        snprintf(text, sizeof(text), "%d %d %d %d %d %" PRIu64 " %" PRIu64 " %" PRIu64 " %d %d a/b c\n", memory, control,
                 board, line, WORLD_REGION, world.size, world.span, world.home, ledger, event);
        CHECK(setenv("SHM_ARENAS", text, 1) == 0);
}

static int own(uint64_t names)
{
        return shm_arena_own_inherited("a/b c", names, &owner);
}

/* After an error nothing is mapped, and the two descriptors that were the owner's are closed. */
static int errors(void)
{
        static const struct {
                int board, line, is_taken;
                uint64_t names;
                int error;
        } cases[] = {{-1, 1, 0, 10, -EBADF},  {1, 0, 0, 10, -EBADMSG}, {1, 2, 0, 10, -EBADMSG}, {1, 1, 0, 0, -EINVAL},
                     {1, 1, 0, 9000, -ENOSPC}, {1, 1, 1, 10, -EEXIST},  {1, 1, 0, 10, -EPIPE}};
        size_t i;

        world_make(&world, 1 << 20, 1 << 20);
        for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                int memory = dup(world.memory), pair[2], before, error;

                CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 && shutdown(pair[1], SHUT_RDWR) == 0);
                set_line(memory, pair[0], cases[i].board < 0 ? 999 : world.board, cases[i].line, -1, -1);
                if (cases[i].is_taken)
                        CHECK(mmap((void *)(uintptr_t)world.home, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                                   -1, 0) != MAP_FAILED);
                before = count_descriptors();
                error = own(cases[i].names);
                if (error != cases[i].error)
                        fprintf(stderr, "case %zu: %d, not %d\n", i, error, cases[i].error);
                CHECK(error == cases[i].error && count_descriptors() == before - 2);
                CHECK(is_mapped(world.home) == cases[i].is_taken);
                munmap((void *)(uintptr_t)world.home, world.span);
                close(pair[1]);
        }
        return 0;
}

static int lines(void)
{
        static const char *const wrong[] = {
                "", "\n", "a/b c", "1 2 3 4 5 6 7 8 9 a/b c", "1 2 3 4 5 6 7 8 -1 a/b c", "1 2  3 4 5 6 7 8 -1 -1 a/b c",
                "+1 2 3 4 5 6 7 8 -1 -1 a/b c", " 1 2 3 4 5 6 7 8 -1 -1 a/b c", "1 2 3 4 5 6 7 8 -1 -1 a/b", "1 2 3\n4 5 6 7 8 -1 -1 a/b c",
                "1 2 3 4 5 6 7 8 -1 -1 a/b cd", "1 2 3 4 5 6 7 8 -1 -1 a/b c\r\n", "-2 2 3 4 5 6 7 8 -1 -1 a/b c",
                "1 -1 3 4 5 6 7 8 9 9 a/b c", "1 2 3 4 5 6 7 8 -1 -1  a/b c", "1 2 3 4 5 6 7 8 -1 -1", "1 2 3 4 5 6 7 8 -1 -1 ",
        };
        struct shm_inherited inherited;
        size_t i;

        CHECK(unsetenv("SHM_ARENAS") == 0 && own(10) == -ENOENT);
        for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
                CHECK(setenv("SHM_ARENAS", wrong[i], 1) == 0);
                CHECK(shm_inherited_find("a/b c", 1, &inherited) == -ENOENT);
        }
        CHECK(setenv("SHM_ARENAS", "x\n1 -1 3 4 5 6 7 8 9 9 a/b c\n\n1 2 3 4 5 6 7 8 -1 -1 a/b c", 1) == 0);
        CHECK(shm_inherited_find("a/b c", 1, &inherited) == 0 && inherited.socket == 2 && inherited.event == -1);
        CHECK(inherited.memory == 1 && inherited.board == 3 && inherited.line == 4 && inherited.region == 5);
        CHECK(inherited.size == 6 && inherited.span == 7 && inherited.home == 8);
        CHECK(shm_inherited_find("a/b c", 0, &inherited) == 0 && inherited.ledger == 9 && inherited.socket == -1);
        return 0;
}

/* An owner: its children have no memory of the arena, and nobody writes the header page. */
static int owners(void)
{
        uint64_t limit = 0;
        int status, code;
        pid_t pid;

        world_make(&world, 1 << 20, 1 << 20);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                set_line(world.memory, world.owner, world.board, 1, -1, -1);
                CHECK(own(10) == 0 && value_put(&owner, "a", 1, 10) == 0);
                pid = fork();
                if (pid == 0)
                        _exit(is_mapped(world.home));
                CHECK(waitpid(pid, &status, 0) == pid && status == 0 && fcntl(owner.socket, F_GETFD) == FD_CLOEXEC);
                *(volatile char *)(uintptr_t)world.home = 'x';
                _exit(1);
        }
        CHECK(world_serve(&world, &limit) == SHM_ARENA_READY && waitpid(pid, &status, 0) == pid);
        code = WIFSIGNALED(status) ? WTERMSIG(status) : -1;
        CHECK(code == SIGSEGV);
        return 0;
}

/* A reader of two arenas has one ledger for both. */
static int readers(void)
{
        struct world_ledger ledger;
        struct shm_arena_value value;
        struct shm_arena again;

        world_make(&world, 1 << 20, 1 << 20);
        world_own(&world, &owner, 10);
        CHECK(value_put(&owner, "a", 1, 10) == 0 && world_join(&world, 1, &ledger) == 0);
        set_line(world.memory, -1, world.board, 1, ledger.memory, ledger.event);
        CHECK(shm_arena_open_inherited("a/b c", &arena, &holds) == -EEXIST); /* its owner is this process */
        CHECK(munmap((void *)(uintptr_t)world.home, world.span) == 0 && holds.count == WORLD_HOLDS);
        CHECK(shm_arena_open_inherited("a/b c", &arena, &holds) == 0);
        CHECK(shm_arena_hold(&arena, &holds, "a", 1, &value) == 0 && value_is(&value, 1) && value.hold == holds.holds);
        CHECK(shm_arena_open_inherited("a/b c", &again, &holds) == -EEXIST && shm_arena_unmap(&arena) == 0);
        CHECK(shm_arena_open_inherited("a/b c", &again, &holds) == 0);
        return 0;
}

int main(int argc, char **argv)
{
        static const struct {
                const char *name;
                int (*run)(void);
        } cases[] = {{"errors", errors}, {"lines", lines}, {"owners", owners}, {"readers", readers}};
        size_t i;

        for (i = 0; argc == 2 && i < sizeof(cases) / sizeof(cases[0]); i++)
                if (strcmp(argv[1], cases[i].name) == 0)
                        return cases[i].run();
        return 2;
}

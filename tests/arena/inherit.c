/*
 * inherit.c PRODUCER CONSUMER COUNT - start both examples as `shmclient exec` does, with a host in this process; kill
 * the producer when the consumer has what it wants, and see that the next one can read on.
 */
#include "values.h"

#include <signal.h>
#include <sys/wait.h>

static struct world world;

static void keep_open(int descriptor)
{
        CHECK(fcntl(descriptor, F_SETFD, 0) == 0);
}

static void set_line(int memory, int control, int ledger, int event, const char *name)
{
        char text[600];

        snprintf(text, sizeof(text), "not a line\n-1 2\n1 2 3 4 5 6 7 8 -1 -1 nobody's\n%d %d %d 1 %d %" PRIu64 " %" PRIu64
                 " %" PRIu64 " %d %d %s\n", memory, control, world.board, WORLD_REGION, world.size, world.span, world.home,
                 ledger, event, name);
        CHECK(setenv("SHM_ARENAS", text, 1) == 0);
}

static pid_t start_owner(const char *program)
{
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid > 0)
                return pid;
        keep_open(world.memory);
        keep_open(world.owner);
        keep_open(world.board);
        set_line(world.memory, world.owner, -1, -1, "a camera");
        CHECK(execl(program, program, "a camera", NULL) == 0);
        return 0;
}

static pid_t start_reader(const char *program, const char *name, const char *count, uint64_t number)
{
        struct world_ledger ledger;
        pid_t pid;

        CHECK(world_join(&world, number, &ledger) == 0);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                keep_open(world.memory);
                keep_open(ledger.memory);
                keep_open(ledger.event);
                keep_open(world.board);
                set_line(world.memory, -1, ledger.memory, ledger.event, "a camera");
                CHECK(execl(program, program, name, "front", count, NULL) == 0);
        }
        world_close(&ledger);
        return pid;
}

static int code_of(pid_t pid)
{
        int status;

        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
        return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
        uint64_t limit = 1 << 20;
        pid_t producer;
        int status;

        CHECK(argc == 4);
        world_make(&world, 4 << 20, 4 << 20);
        world.line->waiters = 1;
        producer = start_owner(argv[1]);
        close(world.owner);
        CHECK(world_serve(&world, &limit) == SHM_ARENA_READY);
        world_publish(&world);
        CHECK(code_of(start_reader(argv[2], "camera", argv[3], 1)) == 3);
        CHECK(code_of(start_reader(argv[2], "a camera", argv[3], 2)) == 0);
        CHECK(kill(producer, SIGKILL) == 0 && waitpid(producer, &status, 0) == producer && WIFSIGNALED(status));
        CHECK(recv(world.host, &status, sizeof(status), 0) <= 0);
        return 0;
}

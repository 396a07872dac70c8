/* torture_host.h - the host of torture.c: it starts all others, and stops and kills them. */
#ifndef TORTURE_HOST_H
#define TORTURE_HOST_H

#define QUEUE 4096

struct message {
        uint32_t kind;
        uint64_t number;
        int ledger; /* its memory; -1 */
};

struct player {
        pid_t pid; /* 0: none */
        uint64_t number;
        int is_stopped;
};

struct host {
        struct shm_board_line *line;
        uint64_t region, random, number;
        int memory, control;
        struct player owner, readers[READERS];
        struct message queue[QUEUE]; /* what the socket had no room for */
        uint32_t first, count;
        uint64_t kills, stops, owners;
};

static void host_send(struct host *host, const struct message *message)
{
        struct world world;
        int given[2], error;

        memset(&world, 0, sizeof(world));
        world.host = host->control;
        if (message->kind == SHM_ARENA_LEDGER) {
                given[0] = world_reopen(message->ledger);
                given[1] = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* nobody sleeps */
        }
        error = world_tell(&world, message->kind, 0, message->number, 0, message->ledger >= 0 ? given : NULL);
        if (message->kind == SHM_ARENA_LEDGER) {
                close(given[0]);
                close(given[1]);
        }
        if (error == -EAGAIN)
                return;
        CHECK(error == 0 || error == -EPIPE || error == -ECONNRESET);
        if (message->ledger >= 0)
                close(message->ledger);
        host->first = (host->first + 1) % QUEUE;
        host->count--;
}

static void host_flush(struct host *host)
{
        uint32_t before = 0;

        while (host->count > 0 && host->count != before) {
                before = host->count;
                host_send(host, &host->queue[host->first]);
        }
}

/* Send or queue a message, then raise the word. */
static void host_tell(struct host *host, uint32_t kind, uint64_t number, int ledger)
{
        struct message *message = &host->queue[(host->first + host->count) % QUEUE];

        CHECK(host->count < QUEUE);
        message->kind = kind;
        message->number = number;
        message->ledger = ledger;
        host->count++;
        if (world_random(&host->random) % 2)
                host_flush(host); /* or later: the socket could be full */
        __atomic_fetch_add(&host->line->ledgers, 1, __ATOMIC_SEQ_CST);
}

static pid_t host_fork(void)
{
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid == 0)
                CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
        return pid;
}

static void host_start_reader(struct host *host, struct player *reader)
{
        int ledger = world_object("ledger", WORLD_LEDGER,
                                  F_SEAL_SHRINK | F_SEAL_GROW);

        reader->number = ++host->number;
        reader->is_stopped = 0;
        host_tell(host, SHM_ARENA_LEDGER, reader->number, dup(ledger));
        reader->pid = host_fork();
        if (reader->pid == 0)
                read_on(world_reopen(host->memory), ledger, host->region, host->line, reader->number * 7919);
        close(ledger);
}

/* Start an owner with a new arena, and publish that when it is ready. */
static void host_start_owner(struct host *host)
{
        struct shm_arena_message message;
        struct world world;
        int pair[2];

        memset(&world, 0, sizeof(world));
        host->region++;
        host->owners++;
        world.size = world.span = SIZE;
        world.home = HOME_OF(host->region);
        host->memory = world.memory = world_object("arena", SIZE, F_SEAL_SHRINK | F_SEAL_GROW);
        world_header(world.memory, SHM_KIND_ARENA, world.home, SIZE, SIZE);
        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
        host->control = world.host = pair[0];
        __atomic_store_n(&host->line->ledgers, 0, __ATOMIC_SEQ_CST);
        host->line->size = SIZE;
        host->owner.pid = host_fork();
        if (host->owner.pid == 0)
                write_on(host->memory, pair[1], host->region, host->line, host->region);
        host->owner.is_stopped = 0;
        close(pair[1]);
        CHECK(recv(host->control, &message, sizeof(message), 0) == (ssize_t)sizeof(message));
        CHECK(message.kind == SHM_ARENA_READY);
        CHECK(fcntl(host->memory, F_ADD_SEALS, SHM_F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0);
        __atomic_store_n(&host->line->region, host->region, __ATOMIC_SEQ_CST);
        CHECK(world_tell(&world, SHM_ARENA_READY, 0, 0, SIZE, NULL) == 0);
}

/* End a process, and see that it ended for no reason of its own. */
static void host_kill(struct host *host, struct player *player)
{
        int status;

        CHECK(kill(player->pid, SIGKILL) == 0 && waitpid(player->pid, &status, 0) == player->pid);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        player->pid = 0;
        host->kills++;
}

static void host_kill_reader(struct host *host, struct player *reader)
{
        host_kill(host, reader);
        host_tell(host, SHM_ARENA_FORGET, reader->number, -1);
}

static void host_toggle(struct host *host, struct player *player)
{
        CHECK(kill(player->pid, player->is_stopped ? SIGCONT : SIGSTOP) == 0);
        player->is_stopped = !player->is_stopped;
        host->stops += player->is_stopped;
}

static void host_drop_arena(struct host *host)
{
        uint32_t i;

        for (i = 0; i < READERS; i++)
                if (host->readers[i].pid != 0)
                        host_kill(host, &host->readers[i]);
        for (; host->count > 0; host->count--, host->first = (host->first + 1) % QUEUE)
                if (host->queue[host->first].ledger >= 0)
                        close(host->queue[host->first].ledger);
        close(host->control);
        close(host->memory);
}

/* The owner is killed wherever it is: its readers go on, and another arena takes the name. */
static void host_next_owner(struct host *host)
{
        struct report before;
        uint32_t i;

        host_kill(host, &host->owner);
        before = *report;
        for (i = 0; i < READERS; i++)
                if (host->readers[i].is_stopped)
                        host_toggle(host, &host->readers[i]);
        for (i = 0; i < 2000 && report->gets + report->missing < before.gets + before.missing + 1000; i++)
                usleep(1000);
        CHECK(i < 2000);
        host_drop_arena(host);
        host_start_owner(host);
        for (i = 0; i < READERS; i++)
                host_start_reader(host, &host->readers[i]);
}

static void host_step(struct host *host)
{
        uint64_t random = world_random(&host->random) % 100;
        struct player *reader = &host->readers[world_random(&host->random) % READERS];

        if (world_random(&host->random) % 4 == 0)
                host_flush(host);
        if (random < 30) {
                host_toggle(host, reader);
        } else if (random < 60) {
                host_kill_reader(host, reader);
                host_start_reader(host, reader);
        } else if (random < 70) {
                host_toggle(host, &host->owner);
        } else if (random < 73 && !host->owner.is_stopped) {
                host_next_owner(host);
        }
        usleep((useconds_t)(world_random(&host->random) % 4000));
        if (host->owner.is_stopped)
                host_toggle(host, &host->owner);
}

/* After something was torn: nobody stays. */
static void host_abandon(struct host *host)
{
        uint32_t i;

        for (i = 0; i < READERS; i++)
                if (host->readers[i].pid != 0)
                        kill(host->readers[i].pid, SIGKILL);
        if (host->owner.pid != 0)
                kill(host->owner.pid, SIGKILL);
        while (wait(NULL) > 0)
                ;
}

/* All readers go. The owner must be able to use everything again. */
static void host_finish(struct host *host)
{
        int status = 0;
        uint32_t i;

        for (i = 0; i < READERS; i++)
                host_kill_reader(host, &host->readers[i]);
        __atomic_store_n(&report->finish, 1, __ATOMIC_SEQ_CST);
        for (i = 0; i < 20000 && waitpid(host->owner.pid, &status, WNOHANG) == 0; i++) {
                host_flush(host);
                usleep(1000);
        }
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0 && report->is_clean);
}

static int host_run(uint64_t seed, double seconds)
{
        static struct host host;
        uint64_t end = shm_arena_now_ns() + (uint64_t)(seconds * 1e9);
        uint32_t i;
        int board;

        host.random = seed;
        host.line = world_board(&board);
        host_start_owner(&host);
        for (i = 0; i < READERS; i++)
                host_start_reader(&host, &host.readers[i]);
        while (shm_arena_now_ns() < end && report->torn == 0)
                host_step(&host);
        if (report->torn == 0)
                host_finish(&host);
        else
                host_abandon(&host);
        printf("%" PRIu64 " puts, %" PRIu64 " full, %" PRIu64 " out of names, %" PRIu64 " gets, %" PRIu64 " missing, %" PRIu64
               " joined, %" PRIu64 " kills, %" PRIu64 " stops, %" PRIu64 " owners, %" PRIu64 " torn\n",
               report->puts, report->full, report->names_out, report->gets, report->missing, report->joined, host.kills,
               host.stops, host.owners, report->torn);
        return report->torn == 0 ? 0 : 7;
}

#endif /* TORTURE_HOST_H */

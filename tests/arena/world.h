/*
 * world.h - a host for one arena, in the test's own process: memory, board line, control socket and ledgers.
 *
 * It does what protocol/README.md, section 18, says of hosts, and no more.
 */
#ifndef WORLD_H
#define WORLD_H

#include "shm_arena.h"

#include <inttypes.h>
#include <stdio.h>

#define WORLD_HOME 0x550000000000u
#define WORLD_REGION 77
#define WORLD_HOLDS 131072u
#define WORLD_LEDGER (sizeof(struct shm_ledger) + WORLD_HOLDS * sizeof(struct shm_ledger_hold))

#define CHECK(condition)                                                                                     \
        do {                                                                                                 \
                if (!(condition)) {                                                                          \
                        fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
                        _exit(9);                                                                            \
                }                                                                                            \
        } while (0)

struct world {
        int memory, board;
        int host, owner; /* the two ends of the control socket */
        uint64_t size, span, home;
        struct shm_board_line *line;
};

struct world_ledger {
        uint64_t number;
        int memory, reader;
        int event, raiser; /* the client's end, and that of owners */
};

static inline uint64_t world_random(uint64_t *state)
{
        *state += 0x9e3779b97f4a7c15u;
        uint64_t mixed = *state;
        mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
        mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
        return mixed ^ mixed >> 31;
}

static inline int world_object(const char *name, uint64_t size, int seals)
{
        int object = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

        CHECK(object >= 0 && ftruncate(object, (off_t)size) == 0 && fchmod(object, 0444) == 0);
        CHECK(fcntl(object, F_ADD_SEALS, seals) == 0);
        return object;
}

static inline int world_reopen(int object)
{
        char path[64];
        int again;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", object);
        again = open(path, O_RDONLY | O_CLOEXEC);
        CHECK(again >= 0);
        return again;
}

static inline void world_header(int object, uint32_t kind, uint64_t base, uint64_t size, uint64_t span)
{
        struct shm_region_header header;

        memset(&header, 0, sizeof(header));
        memcpy(header.magic, SHM_MAGIC, sizeof(header.magic));
        header.abi_major = SHM_ABI_MAJOR;
        header.header_size = SHM_HEADER_SIZE;
        header.kind = kind;
        header.flags = SHM_FLAG_SEAL_WRITER;
        header.base = (const void *)(uintptr_t)base;
        header.size = size;
        header.capacity = span;
        header.data = (const void *)(uintptr_t)(base + SHM_HEADER_SIZE);
        header.data_size = size - SHM_HEADER_SIZE;
        header.root = kind == SHM_KIND_BOARD ? header.data : NULL;
        header.root_size = kind == SHM_KIND_BOARD ? header.data_size : 0;
        header.generation = 1;
        header.window_base = (const void *)(uintptr_t)base;
        header.window_size = span;
        header.name_size = 1;
        header.name[0] = 'a';
        CHECK(pwrite(object, &header, sizeof(header), 0) == (ssize_t)sizeof(header));
}

/* Make a board of two lines; the second one is the arena's. */
static inline struct shm_board_line *world_board(int *object_out)
{
        struct shm_board *board;
        uint8_t *mapped;

        *object_out = world_object("board", 8192, F_SEAL_SHRINK | F_SEAL_GROW);
        world_header(*object_out, SHM_KIND_BOARD, 0x560000000000u, 8192, 8192);
        mapped = (uint8_t *)mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, *object_out, 0);
        CHECK(mapped != MAP_FAILED && fcntl(*object_out, F_ADD_SEALS, SHM_F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0);
        board = (struct shm_board *)(void *)(mapped + SHM_HEADER_SIZE);
        board->lines = 2;
        return (struct shm_board_line *)(board + 1) + 1;
}

static inline void world_make(struct world *world, uint64_t size, uint64_t span)
{
        int pair[2];

        memset(world, 0, sizeof(*world));
        world->size = size;
        world->span = span;
        world->home = WORLD_HOME;
        world->memory = world_object("arena", size, F_SEAL_SHRINK | (span > size ? 0 : F_SEAL_GROW));
        world_header(world->memory, SHM_KIND_ARENA, world->home, size, span);
        world->line = world_board(&world->board);
        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
        world->host = pair[0];
        world->owner = pair[1];
        world->line->size = size;
}

/* What a host does at READY. */
static inline void world_publish(struct world *world)
{
        CHECK(fcntl(world->memory, F_ADD_SEALS, SHM_F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0);
        __atomic_store_n(&world->line->region, WORLD_REGION, __ATOMIC_RELEASE);
}

/* Make an owner in this process, at the arena's home, and publish. */
static inline void world_own(struct world *world, struct shm_arena_owner *owner, uint64_t names)
{
        void *memory = mmap((void *)(uintptr_t)world->home, world->span, PROT_READ | PROT_WRITE,
                            MAP_SHARED | SHM_MAP_FIXED_NOREPLACE, world->memory, 0);

        CHECK(memory == (void *)(uintptr_t)world->home && madvise(memory, world->span, MADV_DONTFORK) == 0);
        CHECK(shm_owner_make(owner, memory, world->home, world->span, world->size, names, WORLD_REGION, world->line,
                             world->owner) == 0);
        world_publish(world);
}

/* Map the arena for reading, anywhere: in the process that owns it, its home is taken. */
static inline void world_map(struct world *world, struct shm_arena *arena)
{
        void *memory = mmap(NULL, world->span, PROT_READ, MAP_SHARED, world->memory, 0);

        CHECK(memory != MAP_FAILED);
        CHECK(shm_arena_open(memory, world->home, world->span, world->size, arena) == 0);
        arena->region = WORLD_REGION;
        arena->line = world->line;
}

/* Returns 0 or -errno. */
static inline int world_tell(struct world *world, uint32_t kind, int code, uint64_t number, uint64_t size,
                             const int *descriptors)
{
        struct shm_arena_message message = {kind, code, number, size};
        struct iovec vector = {&message, sizeof(message)};
        struct msghdr head;
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(2 * sizeof(int))];
        } space;

        memset(&head, 0, sizeof(head));
        head.msg_iov = &vector;
        head.msg_iovlen = 1;
        if (descriptors != NULL) {
                memset(&space, 0, sizeof(space));
                head.msg_control = space.bytes;
                head.msg_controllen = sizeof(space.bytes);
                CMSG_FIRSTHDR(&head)->cmsg_level = SOL_SOCKET;
                CMSG_FIRSTHDR(&head)->cmsg_type = SCM_RIGHTS;
                CMSG_FIRSTHDR(&head)->cmsg_len = CMSG_LEN(2 * sizeof(int));
                memcpy(CMSG_DATA(CMSG_FIRSTHDR(&head)), descriptors, 2 * sizeof(int));
        }
        return sendmsg(world->host, &head, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* Make a ledger, with a socket for its event. */
static inline void world_ledger(uint64_t number, struct world_ledger *ledger)
{
        int pair[2];

        ledger->number = number;
        ledger->memory = world_object("ledger", WORLD_LEDGER, F_SEAL_SHRINK | F_SEAL_GROW);
        ledger->reader = world_reopen(ledger->memory);
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) == 0);
        ledger->event = pair[0];
        ledger->raiser = pair[1];
}

/* Tell the owner of a ledger. Returns 0 or -errno. */
static inline int world_introduce(struct world *world, const struct world_ledger *ledger)
{
        int given[2] = {ledger->reader, ledger->raiser};

        return world_tell(world, SHM_ARENA_LEDGER, 0, ledger->number, WORLD_LEDGER, given);
}

/* Make a ledger, and tell the owner of it. Returns 0 or -errno. */
static inline int world_join(struct world *world, uint64_t number, struct world_ledger *ledger)
{
        int error;

        world_ledger(number, ledger);
        error = world_introduce(world, ledger);
        if (!error)
                __atomic_fetch_add(&world->line->ledgers, 1, __ATOMIC_SEQ_CST);
        return error;
}

static inline void world_close(struct world_ledger *ledger)
{
        close(ledger->memory);
        close(ledger->reader);
        close(ledger->event);
        close(ledger->raiser);
}

static inline void world_forget(struct world *world, uint64_t number)
{
        CHECK(world_tell(world, SHM_ARENA_FORGET, 0, number, 0, NULL) == 0);
        __atomic_fetch_add(&world->line->ledgers, 1, __ATOMIC_SEQ_CST);
}

/* Let a reader in this process have a ledger. */
static inline void world_reader(struct world *world, uint64_t number, struct shm_arena *arena, struct shm_holds *holds)
{
        struct world_ledger ledger;

        CHECK(world_join(world, number, &ledger) == 0);
        memset(holds, 0, sizeof(*holds));
        CHECK(shm_ledger_map(ledger.memory, holds) == 0);
        world_map(world, arena);
        world_close(&ledger);
}

/* Answer one message of the owner's, waiting for it. Returns its kind; 0: the owner is gone. */
static inline uint32_t world_serve(struct world *world, const uint64_t *limit)
{
        struct shm_arena_message message;
        int code = 0;

        if (recv(world->host, &message, sizeof(message), 0) != (ssize_t)sizeof(message))
                return 0;
        if (message.kind == SHM_ARENA_GROW) {
                if (message.size > __atomic_load_n(limit, __ATOMIC_SEQ_CST))
                        code = EDQUOT;
                else if (message.size > world->size && ftruncate(world->memory, (off_t)message.size) == 0)
                        __atomic_store_n(&world->line->size, world->size = message.size, __ATOMIC_RELEASE);
        }
        (void)world_tell(world, message.kind, code, 0, world->size, NULL);
        return message.kind;
}

#endif /* WORLD_H */

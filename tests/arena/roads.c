/*
 * roads.c - every road by which one process could write what another one owns, an arena or a ledger, is closed: with a
 * read-only descriptor, with the very read-write one, as the same uid and as another. Prints what was tried.
 */
#include "values.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define OTHER_UID 54321

static struct world world;
static struct shm_arena_owner owner;
static uint64_t size; /* of the object that is attacked */
static pid_t victim;
static void *there; /* where the victim has it mapped for writing */

/* Each returns 1 if the road is closed. */

static int by_mapping(int fd)
{
        return mmap(NULL, size, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED &&
               mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE, fd, 0) == MAP_FAILED;
}

static void *read_only(int fd)
{
        void *mapped = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

        CHECK(mapped != MAP_FAILED);
        return mapped;
}

static int by_protection(int fd)
{
        return mprotect(read_only(fd), size, PROT_READ | PROT_WRITE) < 0;
}

static int by_remapping(int fd)
{
        void *mapped = read_only(fd), *again = mremap(mapped, 0, size, MREMAP_MAYMOVE), *larger;

        CHECK(again != MAP_FAILED); /* a second mapping, and no more than the first */
        larger = mremap(again, size, 2 * size, MREMAP_MAYMOVE);
        return mprotect(again, size, PROT_WRITE) < 0 && (larger == MAP_FAILED || mprotect(larger, size, PROT_WRITE) < 0);
}

static int by_reopening(int fd)
{
        char path[64];
        int again;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        again = open(path, O_RDWR);
        return again < 0 || (by_mapping(again) && by_protection(again) && pwrite(again, "x", 1, 8192) < 0);
}

static int by_writing(int fd)
{
        struct iovec vector = {(void *)(uintptr_t)"x", 1};

        return pwrite(fd, "x", 1, 8192) < 0 && write(fd, "x", 1) < 0 && pwritev2(fd, &vector, 1, 8192, 0) < 0;
}

static int by_copying(int fd)
{
        int from = open("/proc/self/exe", O_RDONLY), ends[2];

        CHECK(from >= 0 && pipe(ends) == 0 && write(ends[1], "xxxx", 4) == 4);
        return sendfile(fd, from, NULL, 100) < 0 && splice(ends[0], NULL, fd, NULL, 4, 0) < 0 &&
               copy_file_range(from, NULL, fd, NULL, 100, 0) < 0;
}

static int by_truncation(int fd)
{
        return ftruncate(fd, (off_t)size / 2) < 0 && ftruncate(fd, (off_t)size * 2) < 0 && ftruncate(fd, 0) < 0;
}

static int by_holes(int fd)
{
        static const int modes[] = {0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                    FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE};
        size_t i;

        for (i = 1; i < sizeof(modes) / sizeof(modes[0]); i++)
                if (fallocate(fd, modes[i], 8192, 4096) == 0)
                        return 0;
        return fallocate(fd, 0, (off_t)size, 4096) < 0;
}

static int by_removal(int fd)
{
        return madvise(read_only(fd), size, MADV_REMOVE) < 0;
}

static int by_seals(int fd)
{
        return fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0;
}

static int by_private_mapping(int fd)
{
        uint8_t *mapped = (uint8_t *)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

        CHECK(mapped != MAP_FAILED);
        memset(mapped + 8192, 'x', 4096); /* its own copy */
        return 1;
}

/* With the uid of the victim, these are the rights of a debugger. */
static int by_the_victim(int fd)
{
        char path[64];
        struct iovec local = {(void *)(uintptr_t)"x", 1}, remote = {(uint8_t *)there + 8192, 1};
        int memory;

        (void)fd;
        if (getuid() != OTHER_UID)
                return 1; /* not tried */
        snprintf(path, sizeof(path), "/proc/%d/mem", victim);
        memory = open(path, O_RDWR);
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", victim, world.memory);
        return memory < 0 && open(path, O_RDWR) < 0 && process_vm_writev(victim, &local, 1, &remote, 1, 0) < 0 &&
               ptrace(PTRACE_ATTACH, victim, NULL, NULL) < 0;
}

static const struct {
        const char *name;
        int (*try_it)(int fd);
} roads[] = {
        {"mapping", by_mapping},       {"mprotect", by_protection}, {"mremap", by_remapping},
        {"reopening", by_reopening},   {"pwrite", by_writing},      {"copying", by_copying},
        {"truncation", by_truncation}, {"holes", by_holes},         {"MADV_REMOVE", by_removal},
        {"seals", by_seals},           {"a private mapping", by_private_mapping},
        {"the victim's process", by_the_victim},
};

/* In a child, as this uid. */
static void attack(const char *what, int fd, const char *kind, uid_t uid)
{
        size_t i;
        int status, is_closed = 1;
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid == 0) {
                signal(SIGXFSZ, SIG_IGN);
                CHECK(uid == getuid() || (setgid(uid) == 0 && setuid(uid) == 0));
                for (i = 0; i < sizeof(roads) / sizeof(roads[0]); i++) {
                        int is_this_closed = roads[i].try_it(fd);

                        printf("%s of %s, %s descriptor, %s: %s\n", roads[i].name, what, kind,
                               uid == OTHER_UID ? "another uid" : "same uid", is_this_closed ? "closed" : "OPEN");
                        is_closed &= is_this_closed;
                }
                fflush(stdout);
                _exit(is_closed ? 0 : 1);
        }
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void attack_all(const char *what, int writer, int reader)
{
        attack(what, reader, "read-only", getuid());
        attack(what, writer, "read-write", getuid());
        if (getuid() == 0) {
                attack(what, reader, "read-only", OTHER_UID);
                attack(what, writer, "read-write", OTHER_UID);
        }
}

int main(void)
{
        struct world_ledger ledger;
        struct shm_holds holds;
        void *before;

        memset(&holds, 0, sizeof(holds));
        victim = getpid();
        world_make(&world, 1 << 20, 1 << 20);
        world_own(&world, &owner, 100);
        CHECK(value_put(&owner, "a", 1, 1000) == 0 && world_join(&world, 1, &ledger) == 0);
        CHECK(shm_ledger_map(ledger.memory, &holds) == 0 && shm_hold_take(&holds) != NULL);
        setvbuf(stdout, NULL, _IOLBF, 0);

        size = world.size;
        there = (void *)(uintptr_t)owner.arena.base;
        before = malloc(size);
        CHECK(before != NULL && memcpy(before, there, size) == before);
        attack_all("an arena", world.memory, world_reopen(world.memory));
        CHECK(memcmp(before, there, size) == 0);

        size = WORLD_LEDGER;
        there = holds.ledger;
        free(before);
        before = malloc(size);
        CHECK(before != NULL && memcpy(before, there, size) == before);
        attack_all("a ledger", ledger.memory, ledger.reader);
        CHECK(memcmp(before, there, size) == 0);
        CHECK(value_put(&owner, "a", 1, 1000) == 0 && holds.holds[0].block == 1);
        return 0;
}

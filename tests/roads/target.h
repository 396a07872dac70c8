/*
 * target.h - the object that is attacked, and what its roads have in common.
 *
 * A road returns 0 if it was open, -errno if it was refused, or one of the two words below. It is tried in a
 * process of its own, so it need not clean up, but for what the object keeps: its mode and its owner.
 */
#ifndef TARGET_H
#define TARGET_H

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PRIVATE 1 /* it went through, and reached a copy of its own at most */
#define UNTRIED 2 /* there is nothing to try it on */
#define HOLE 0    /* the page that is to vanish; it is not all zeros */
#define SPOT 8192 /* the byte that is to change */

/* A process that has the object: the one that writes it, or the host. */
struct holder {
        pid_t pid;
        int fd;            /* its descriptor of the object, or -1 */
        uint64_t address; /* where it has the object mapped, or 0 */
};

static struct {
        int fd; /* of the attacker */
        struct holder owner, host;
        const char *path; /* in /dev/shm, or empty */
        size_t size;
        char byte[4]; /* what is to be in its place, and a few more */
} target;

#define NEED(condition)                                                                                \
        do {                                                                                           \
                if (!(condition)) {                                                                    \
                        fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
                        _exit(9);                                                                      \
                }                                                                                      \
        } while (0)

static inline int outcome(long result)
{
        return result < 0 ? -errno : 0;
}

/* The first refusal of two, or 0 if one was none. */
static inline int both(int first, int second)
{
        return first < 0 && second < 0 ? first : 0;
}

/* Map the object for writing or, where that is refused, for reading; NULL: neither. */
static inline char *mapped(int fd)
{
        void *memory = mmap(NULL, target.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (memory == MAP_FAILED)
                memory = mmap(NULL, target.size, PROT_READ, MAP_SHARED, fd, 0);
        return memory == MAP_FAILED ? NULL : (char *)memory;
}

static inline int write_spot(int fd)
{
        return outcome(pwrite(fd, target.byte, 1, SPOT));
}

static inline int map_and_write(int fd)
{
        char *memory = (char *)mmap(NULL, target.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (memory == MAP_FAILED)
                return -errno;
        memory[SPOT] = *target.byte;
        return 0;
}

/* Whatever a descriptor can do that was got in a roundabout way. */
static inline int use(int fd)
{
        return fd < 0 ? -errno : both(write_spot(fd), map_and_write(fd));
}

static inline void path_of(char *path, size_t size, pid_t pid, int fd)
{
        if (pid)
                snprintf(path, size, "/proc/%d/fd/%d", pid, fd);
        else
                snprintf(path, size, "/proc/self/fd/%d", fd);
}

static inline int reopen(pid_t pid, int fd, int flags)
{
        char path[64];

        path_of(path, sizeof(path), pid, fd);
        return open(path, flags);
}

/* A pipe with the byte in it. */
static inline void pipe_of_it(int ends[2])
{
        NEED(pipe(ends) == 0 && write(ends[1], target.byte, 1) == 1);
}

static inline struct iovec vector_of_it(void)
{
        struct iovec vector = {target.byte, 1};

        return vector;
}

#endif /* TARGET_H */

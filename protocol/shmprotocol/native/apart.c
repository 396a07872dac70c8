/* SPDX-License-Identifier: Apache-2.0 */
/*
 * apart.c - threads that have nothing open but the object they work on. A client can make a call on its object wait as
 * long as it likes, by the object's lock, and the kernel ends no thread that waits for that: not even after SIGKILL. What
 * such a thread has open then stays open. So it has a table of its own, and takes a copy of one descriptor for each job:
 * the listener, the lock and the connections of a process that is killed are closed, whatever its threads wait for.
 *
 * pidfd_getfd(2) copies from the table of the process's first thread. Between threads of a process ptrace(2) always allows
 * it; a seccomp filter may not, and the first thread may have ended: then this one shares its table, as others do.
 */
#ifndef SHM_APART_H
#define SHM_APART_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open /* the same on all machines */
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#define SHM_CLOSE_RANGE_UNSHARE 2u /* linux/close_range.h */

enum { SHM_APART_IDLE, SHM_APART_GIVEN, SHM_APART_DONE, SHM_APART_LAST, SHM_APART_ENDS };

/* Shared by a thread and its owner; who is the last to leave frees it, with what it is the first member of. */
struct shm_apart {
        uint32_t word; /* the above. The owner: IDLE to GIVEN, DONE to IDLE, GIVEN to LAST; the thread: GIVEN to DONE */
        uint32_t users;
        void (*job)(struct shm_apart *apart); /* what it does with the rest, which is the owner's while IDLE or DONE */
        int has_table; /* of its own; this and the next are the thread's */
        int process;   /* a pidfd in that table; -1: none yet */
};

static int shm_apart_open_process(void)
{
        return (int)syscall(SYS_pidfd_open, getpid(), 0u);
}

static int shm_apart_can_copy(void)
{
        int process = shm_apart_open_process(), copy = -1;

        if (process < 0)
                return 0;
        copy = (int)syscall(SYS_pidfd_getfd, process, process, 0u);
        if (copy >= 0)
                (void)close(copy);
        (void)close(process);
        return copy >= 0;
}

/* Give this thread an empty table, if it can copy from the one that it has; return whether it did. */
static int shm_apart_leave_table(void)
{
        return shm_apart_can_copy() && !syscall(SYS_close_range, 0u, ~0u, SHM_CLOSE_RANGE_UNSHARE);
}

/* Return a descriptor for this thread, of what is open under a number in the process; -1 and errno. */
static int shm_apart_take(struct shm_apart *apart, int fd)
{
        if (!apart->has_table)
                return fd;
        if (apart->process < 0)
                apart->process = shm_apart_open_process();
        return apart->process < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, apart->process, fd, 0u);
}

/* Close what was taken, if it is a copy. */
static void shm_apart_give_back(const struct shm_apart *apart, int fd)
{
        if (apart->has_table && fd >= 0)
                (void)close(fd);
}

static void shm_apart_leave(struct shm_apart *apart)
{
        if (__atomic_sub_fetch(&apart->users, 1, __ATOMIC_ACQ_REL) == 0)
                free(apart);
}

static void *shm_apart_run(void *argument)
{
        struct shm_apart *apart = (struct shm_apart *)argument;
        uint32_t word = SHM_APART_IDLE;

        pthread_detach(pthread_self());
        (void)prctl(PR_SET_NAME, "shm apart");
        apart->has_table = shm_apart_leave_table();
        apart->process = -1;
        while (word != SHM_APART_LAST && word != SHM_APART_ENDS) {
                if (word == SHM_APART_GIVEN) {
                        apart->job(apart);
                        if (!__atomic_compare_exchange_n(&apart->word, &word, SHM_APART_DONE, 0, __ATOMIC_ACQ_REL,
                                                         __ATOMIC_ACQUIRE))
                                break; /* nobody is there any more */
                        shm_word_wake(&apart->word);
                } else {
                        shm_word_sleep(&apart->word, word, 0);
                }
                word = __atomic_load_n(&apart->word, __ATOMIC_ACQUIRE);
        }
        shm_apart_leave(apart);
        return NULL;
}

/* Return a new thread with `size` bytes of state, zero but for the first member; NULL: an exception is set. */
static struct shm_apart *shm_apart_start(size_t size, void (*job)(struct shm_apart *apart))
{
        struct shm_apart *apart = (struct shm_apart *)calloc(1, size);
        pthread_t thread;

        if (apart == NULL) {
                (void)PyErr_NoMemory();
                return NULL;
        }
        apart->users = 2;
        apart->job = job;
        if (!shm_thread_start(&thread, shm_apart_run, apart))
                return apart;
        free(apart);
        errno = EAGAIN;
        return (struct shm_apart *)PyErr_SetFromErrno(PyExc_OSError);
}

static void shm_apart_give(struct shm_apart *apart)
{
        __atomic_store_n(&apart->word, SHM_APART_GIVEN, __ATOMIC_RELEASE);
        shm_word_wake(&apart->word);
}

/* Wait for a job until a time (0: without end); return whether there was one and it is done. Without the GIL. */
static int shm_apart_wait(struct shm_apart *apart, uint64_t end_ns)
{
        uint32_t word;

        while ((word = __atomic_load_n(&apart->word, __ATOMIC_ACQUIRE)) == SHM_APART_GIVEN &&
               (!end_ns || shm_now_ns() < end_ns))
                shm_word_sleep(&apart->word, word, end_ns);
        if (word != SHM_APART_DONE)
                return 0;
        __atomic_store_n(&apart->word, SHM_APART_IDLE, __ATOMIC_RELAXED);
        return 1;
}

/* Leave the thread, which ends at once or after its job. */
static void shm_apart_end(struct shm_apart *apart)
{
        uint32_t given = SHM_APART_GIVEN;

        if (!__atomic_compare_exchange_n(&apart->word, &given, SHM_APART_LAST, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
                __atomic_store_n(&apart->word, SHM_APART_ENDS, __ATOMIC_RELEASE);
        shm_word_wake(&apart->word);
        shm_apart_leave(apart);
}

/* can_work_apart(): see builtins.pyi. */
static PyObject *shm_can_work_apart(PyObject *self, PyObject *none)
{
        (void)self;
        (void)none;
        return PyBool_FromLong(shm_apart_can_copy());
}

#endif /* SHM_APART_H */

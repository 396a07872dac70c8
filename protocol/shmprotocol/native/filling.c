/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filling.c - a thread that gives memory objects their pages ahead of need, behind whatever else wants the CPU. It
 * needs no GIL: a thread that took it between two puts would have each of them wait to get it back, on another CPU.
 */
#ifndef SHM_FILLING_H
#define SHM_FILLING_H

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define SHM_FILLER_ROOM 256         /* objects: more than a client has spares */
#define SHM_FILLER_PIECE (4u << 20) /* bytes at a time: so long, 1 ms, a put that needs the object now has to wait */
#define SHM_FILLER_NICE 10          /* setpriority(2), which Linux has for each thread: a put that waits costs more */

struct shm_filling {
        int fd; /* the thread's own */
        uint64_t capacity;
        int is_over; /* it is not to be filled any more */
};

struct shm_filler {
        PyObject_HEAD
        pthread_t thread;
        pthread_mutex_t mutex;
        pid_t pid; /* of the process that has the thread; 0: there is none */
        uint64_t first; /* the tickets of those that wait, and of the one that is being filled, are [first, next) */
        uint64_t next;
        uint32_t turns; /* goes up when there is something new for a thread that `sleeps` */
        int sleeps;
        int ends;
        struct shm_filling ring[SHM_FILLER_ROOM]; /* by ticket */
};

/* Fill an object, piece by piece. With the mutex held, which it gives up for each. */
static void shm_filler_fill(struct shm_filler *filler, const struct shm_filling *filling)
{
        uint64_t start, size;
        int error = 0;

        for (start = 0; start < filling->capacity && !error && !filling->is_over && !filler->ends; start += size) {
                size = filling->capacity - start;
                if (size > SHM_FILLER_PIECE)
                        size = SHM_FILLER_PIECE;
                pthread_mutex_unlock(&filler->mutex);
                /* An error: it was taken back or sealed meanwhile, or there is no memory. */
                error = fallocate(filling->fd, 0, (off_t)start, (off_t)size);
                pthread_mutex_lock(&filler->mutex);
        }
}

static void shm_filler_sleep(struct shm_filler *filler)
{
        uint32_t turns = filler->turns;

        filler->sleeps = 1;
        pthread_mutex_unlock(&filler->mutex);
        shm_word_sleep(&filler->turns, turns, 0);
        pthread_mutex_lock(&filler->mutex);
        filler->sleeps = 0;
}

/* Give the mutex up, and wake the thread. */
static void shm_filler_tell(struct shm_filler *filler)
{
        int sleeps = filler->sleeps;

        filler->sleeps = 0;
        if (sleeps)
                __atomic_add_fetch(&filler->turns, 1, __ATOMIC_RELEASE);
        pthread_mutex_unlock(&filler->mutex);
        if (sleeps)
                shm_word_wake(&filler->turns);
}

static void *shm_filler_run(void *argument)
{
        struct shm_filler *filler = (struct shm_filler *)argument;

        (void)prctl(PR_SET_NAME, "shm filler");
        (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), SHM_FILLER_NICE);
        pthread_mutex_lock(&filler->mutex);
        while (!filler->ends || filler->first != filler->next) {
                struct shm_filling *filling = &filler->ring[filler->first % SHM_FILLER_ROOM];

                if (filler->first == filler->next) {
                        shm_filler_sleep(filler);
                        continue;
                }
                shm_filler_fill(filler, filling);
                (void)close(filling->fd);
                filler->first++;
        }
        pthread_mutex_unlock(&filler->mutex);
        return NULL;
}

/* Whether this is in a child of a fork, which has no thread; that may have had the mutex. */
static int shm_filler_is_copy(const struct shm_filler *filler)
{
        return filler->pid && filler->pid != getpid();
}

/* add(descriptor, capacity): have an object filled, which stays the caller's; return a ticket, 0 if it cannot be. */
static PyObject *shm_filler_add(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_filler *filler = (struct shm_filler *)self;
        struct shm_filling filling = {.is_over = 0};
        uint64_t ticket = 0;
        int fd;

        if (shm_arguments_check("add", count, 2) < 0 || shm_argument_descriptor(arguments[0], &fd) < 0 ||
            shm_argument(arguments, 1, &filling.capacity) < 0)
                return NULL;
        if (filling.capacity > INT64_MAX) {
                PyErr_SetString(PyExc_ValueError, "a capacity is too large");
                return NULL;
        }
        if (shm_filler_is_copy(filler))
                return PyLong_FromLong(0);
        pthread_mutex_lock(&filler->mutex);
        if (!filler->pid && !filler->ends && !shm_thread_start(&filler->thread, shm_filler_run, filler))
                filler->pid = getpid();
        if (filler->pid && !filler->ends && filler->next - filler->first < SHM_FILLER_ROOM) {
                filling.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
                if (filling.fd >= 0) {
                        ticket = filler->next++;
                        filler->ring[ticket % SHM_FILLER_ROOM] = filling;
                }
        }
        shm_filler_tell(filler);
        return PyLong_FromUnsignedLongLong(ticket);
}

/* skip(ticket): have an object filled no further. */
static PyObject *shm_filler_skip(PyObject *self, PyObject *number)
{
        struct shm_filler *filler = (struct shm_filler *)self;
        uint64_t ticket;

        if (shm_argument(&number, 0, &ticket) < 0)
                return NULL;
        if (shm_filler_is_copy(filler))
                Py_RETURN_NONE;
        pthread_mutex_lock(&filler->mutex);
        if (ticket >= filler->first && ticket < filler->next)
                filler->ring[ticket % SHM_FILLER_ROOM].is_over = 1;
        pthread_mutex_unlock(&filler->mutex);
        Py_RETURN_NONE;
}

/* End the thread, after the piece that it is at; its descriptors are closed. */
static void shm_filler_finish(struct shm_filler *filler)
{
        if (!filler->pid)
                return;
        if (shm_filler_is_copy(filler)) { /* with descriptors, unless the thread was at them */
                if (pthread_mutex_trylock(&filler->mutex))
                        return;
                for (; filler->first != filler->next; filler->first++)
                        (void)close(filler->ring[filler->first % SHM_FILLER_ROOM].fd);
                pthread_mutex_unlock(&filler->mutex);
                filler->pid = 0;
                filler->ends = 1;
                return;
        }
        pthread_mutex_lock(&filler->mutex);
        filler->ends = 1;
        shm_filler_tell(filler);
}

/* close(): fill no more. Never waits; may be called again. */
static PyObject *shm_filler_close(PyObject *self, PyObject *none)
{
        (void)none;
        shm_filler_finish((struct shm_filler *)self);
        Py_RETURN_NONE;
}

static PyObject *shm_filler_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
        struct shm_filler *filler = (struct shm_filler *)PyType_GenericAlloc(type, 0); /* all zero */

        if (filler == NULL)
                return NULL;
        filler->first = filler->next = 1;
        pthread_mutex_init(&filler->mutex, NULL);
        return (PyObject *)filler;
}

/* The thread uses the object: wait for it, for the time of a piece. */
static void shm_filler_dealloc(PyObject *self)
{
        struct shm_filler *filler = (struct shm_filler *)self;
        PyTypeObject *type = Py_TYPE(self);
        int is_here = filler->pid && !shm_filler_is_copy(filler);

        shm_filler_finish(filler);
        if (is_here)
                pthread_join(filler->thread, NULL);
        ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
        Py_DECREF((PyObject *)type);
}

static PyMethodDef shm_filler_methods[] = {
        {"add", (PyCFunction)(void (*)(void))shm_filler_add, METH_FASTCALL, NULL},
        {"skip", shm_filler_skip, METH_O, NULL},
        {"close", shm_filler_close, METH_NOARGS, NULL},
        {NULL, NULL, 0, NULL},
};

static PyType_Slot shm_filler_slots[] = {
        {Py_tp_new, (void *)shm_filler_new},
        {Py_tp_dealloc, (void *)shm_filler_dealloc},
        {Py_tp_methods, (void *)shm_filler_methods},
        {0, NULL},
};

static PyType_Spec shm_filler_spec = {"shmprotocol.Filler", sizeof(struct shm_filler), 0, Py_TPFLAGS_DEFAULT,
                                      shm_filler_slots};

#endif /* SHM_FILLING_H */

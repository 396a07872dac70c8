/* SPDX-License-Identifier: Apache-2.0 */
/*
 * closing.c - a thread that closes descriptors, as the last close of a large memory object frees its pages: 130 us a
 * MiB (2026-11). It needs no GIL and reports nothing, so that whoever hands one over pays for a wake-up at most. For
 * objects whose close waits for nobody, as a memfd's.
 */
#ifndef SHM_CLOSING_H
#define SHM_CLOSING_H

#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

#define SHM_CLOSER_ROOM 1024 /* descriptors that wait: as many as a process usually has */

struct shm_closer {
        PyObject_HEAD
        pthread_t thread;
        pthread_mutex_t mutex;
        pid_t pid; /* of the process that has the thread; 0: there is none */
        uint32_t first;
        uint32_t count;
        uint32_t turns; /* goes up when there is something new for a thread that `sleeps` */
        int sleeps;
        int ends;
        int fds[SHM_CLOSER_ROOM]; /* a ring: `count` of them from `first` on */
};

/* Sleep until there is something new. With the mutex held. */
static void shm_closer_sleep(struct shm_closer *closer)
{
        uint32_t turns = closer->turns;

        closer->sleeps = 1;
        pthread_mutex_unlock(&closer->mutex);
        shm_word_sleep(&closer->turns, turns, 0);
        pthread_mutex_lock(&closer->mutex);
        closer->sleeps = 0;
}

/* Give the mutex up, and wake the thread: not before, or it would wake on this CPU only to wait for the mutex. */
static void shm_closer_tell(struct shm_closer *closer)
{
        int sleeps = closer->sleeps;

        closer->sleeps = 0;
        if (sleeps)
                __atomic_add_fetch(&closer->turns, 1, __ATOMIC_RELEASE);
        pthread_mutex_unlock(&closer->mutex);
        if (sleeps)
                shm_word_wake(&closer->turns);
}

static void *shm_closer_run(void *argument)
{
        struct shm_closer *closer = (struct shm_closer *)argument;

        pthread_mutex_lock(&closer->mutex);
        while (closer->count || !closer->ends) {
                int fd;

                if (!closer->count) {
                        shm_closer_sleep(closer);
                        continue;
                }
                fd = closer->fds[closer->first];
                closer->first = (closer->first + 1) % SHM_CLOSER_ROOM;
                closer->count--;
                pthread_mutex_unlock(&closer->mutex);
                (void)close(fd);
                pthread_mutex_lock(&closer->mutex);
        }
        pthread_mutex_unlock(&closer->mutex);
        return NULL;
}

/* close_later(*descriptors): take them over, and close them in the thread; False: it cannot, and they are not taken. */
static PyObject *shm_closer_close_later(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_closer *closer = (struct shm_closer *)self;
        int fds[2], is_taken;
        Py_ssize_t i;

        if (count > 2) {
                PyErr_SetString(PyExc_TypeError, "an object has at most two descriptors");
                return NULL;
        }
        for (i = 0; i < count; i++)
                if (shm_argument_descriptor(arguments[i], &fds[i]) < 0)
                        return NULL;
        pthread_mutex_lock(&closer->mutex);
        if (!closer->pid && !closer->ends && !shm_thread_start(&closer->thread, shm_closer_run, closer))
                closer->pid = getpid();
        is_taken = closer->pid && !closer->ends && closer->count + (uint32_t)count <= SHM_CLOSER_ROOM;
        for (i = 0; i < count && is_taken; i++)
                closer->fds[(closer->first + closer->count++) % SHM_CLOSER_ROOM] = fds[i];
        shm_closer_tell(closer);
        return PyBool_FromLong(is_taken);
}

/* Close what waits, and end the thread. A forked child has no thread, and what waits is its parent's. */
static void shm_closer_finish(struct shm_closer *closer)
{
        if (!closer->pid || closer->pid != getpid())
                return;
        pthread_mutex_lock(&closer->mutex);
        closer->ends = 1;
        shm_closer_tell(closer);
        pthread_join(closer->thread, NULL);
        closer->pid = 0;
}

/* end(): close what waits, and end the thread. */
static PyObject *shm_closer_end(PyObject *self, PyObject *none)
{
        (void)none;
        Py_BEGIN_ALLOW_THREADS
        shm_closer_finish((struct shm_closer *)self);
        Py_END_ALLOW_THREADS
        Py_RETURN_NONE;
}

static PyObject *shm_closer_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
        struct shm_closer *closer = (struct shm_closer *)PyType_GenericAlloc(type, 0); /* all zero */

        if (closer == NULL)
                return NULL;
        pthread_mutex_init(&closer->mutex, NULL);
        return (PyObject *)closer;
}

static void shm_closer_dealloc(PyObject *self)
{
        PyTypeObject *type = Py_TYPE(self);

        shm_closer_finish((struct shm_closer *)self);
        ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
        Py_DECREF((PyObject *)type);
}

static PyMethodDef shm_closer_methods[] = {
        {"close_later", (PyCFunction)(void (*)(void))shm_closer_close_later, METH_FASTCALL, NULL},
        {"end", shm_closer_end, METH_NOARGS, NULL},
        {NULL, NULL, 0, NULL},
};

static PyType_Slot shm_closer_slots[] = {
        {Py_tp_new, (void *)shm_closer_new},
        {Py_tp_dealloc, (void *)shm_closer_dealloc},
        {Py_tp_methods, (void *)shm_closer_methods},
        {0, NULL},
};

static PyType_Spec shm_closer_spec = {"shmprotocol.Closer", sizeof(struct shm_closer), 0, Py_TPFLAGS_DEFAULT,
                                      shm_closer_slots};

#endif /* SHM_CLOSING_H */

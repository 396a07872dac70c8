/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sealing.c - what makes a filled spare a published object: its header and its seals. Its client can make each of
 * these calls wait, for as long as it likes, by the object's lock. So a thread of C makes them, and who asked for it
 * waits for a bounded time, and then elsewhere. On one CPU that costs two switches of the kernel's between threads;
 * a hop to a thread of Python and back costs the GIL's and the event loop's besides.
 */
#ifndef SHM_SEALING_H
#define SHM_SEALING_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Return both descriptors of a new object, which cannot grow; -errno, and nothing is left. */
static int shm_spare_make(const char *label, off_t capacity, int *reader_out)
{
        int fd = shm_sealed_create(label);

        if (fd < 0)
                return fd;
        /* As for any other object: see Memfd. */
        *reader_out = ftruncate(fd, capacity) || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) || fchmod(fd, 0444)
                              ? -errno
                              : shm_sealed_reopen(fd);
        if (*reader_out >= 0)
                return fd;
        (void)close(fd);
        return *reader_out;
}

/* make_spare(label, capacity): see builtins.pyi. */
static PyObject *shm_make_spare(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        uint64_t capacity;
        int fd, reader;
        char *label;

        (void)self;
        if (shm_arguments_check("make_spare", count, 2) < 0 ||
            PyBytes_AsStringAndSize(arguments[0], &label, NULL) < 0 || shm_argument(arguments, 1, &capacity) < 0)
                return NULL;
        if (capacity > INT64_MAX) {
                PyErr_SetString(PyExc_ValueError, "a capacity is too large");
                return NULL;
        }
        fd = shm_spare_make(label, (off_t)capacity, &reader);
        if (fd >= 0)
                return Py_BuildValue("(ii)", fd, reader);
        errno = -fd;
        return PyErr_SetFromErrno(PyExc_OSError);
}

/* add_seals(descriptor, seals): see builtins.pyi. */
static PyObject *shm_add_seals(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        uint64_t seals;
        int fd, result;

        (void)self;
        if (shm_arguments_check("add_seals", count, 2) < 0 || shm_argument_descriptor(arguments[0], &fd) < 0 ||
            shm_argument(arguments, 1, &seals) < 0)
                return NULL;
        Py_BEGIN_ALLOW_THREADS
        result = shm_sealed_seal(fd, (int)seals);
        Py_END_ALLOW_THREADS
        if (result)
                return PyErr_SetFromErrno(PyExc_OSError);
        Py_RETURN_NONE;
}

/* What was done when a step failed. */
enum { SHM_SEALED, SHM_SEAL_SYSTEM, SHM_SEAL_SIZE, SHM_SEAL_HEADER };

struct shm_sealing {
        int writer; /* both stay the caller's */
        int reader;
        int cut; /* whether the object is longer than its capacity */
        int seals;
        uint64_t capacity;
        size_t header_size;
        struct shm_region_header header;
        int failed; /* what of the above */
        int error;  /* of the system */
};

/* Cut an object, write its header, seal it; return what failed, with errno for SHM_SEAL_SYSTEM. */
static int shm_sealing_do(const struct shm_sealing *sealing)
{
        uint8_t header[SHM_HEADER_SIZE];
        struct stat status;
        ssize_t size;

        if (sealing->cut && ftruncate(sealing->writer, (off_t)sealing->capacity))
                return SHM_SEAL_SYSTEM;
        size = pwrite(sealing->writer, &sealing->header, sealing->header_size, 0);
        if (size >= 0 && size != (ssize_t)sealing->header_size)
                errno = ENOMEM;
        if (size != (ssize_t)sealing->header_size || shm_sealed_seal(sealing->writer, sealing->seals) ||
            fstat(sealing->reader, &status))
                return SHM_SEAL_SYSTEM;
        /* Nothing changes from here on; until here the creator could write, and O_APPEND, which it can set on the
         * description that the host writes through, moves a pwrite to the end. */
        if ((uint64_t)status.st_size != sealing->capacity)
                return SHM_SEAL_SIZE;
        if (pread(sealing->reader, header, sealing->header_size, 0) != (ssize_t)sealing->header_size ||
            memcmp(header, &sealing->header, sealing->header_size) != 0)
                return SHM_SEAL_HEADER;
        return SHM_SEALED;
}

enum { SHM_SEALER_IDLE, SHM_SEALER_GIVEN, SHM_SEALER_DONE, SHM_SEALER_LAST, SHM_SEALER_ENDS };

/* Shared by the object and its thread; who is the last to leave frees it. */
struct shm_sealer_state {
        uint32_t word; /* the above. The owner: IDLE to GIVEN, DONE to IDLE, GIVEN to LAST; the thread: GIVEN to DONE */
        uint32_t users;
        struct shm_sealing sealing; /* the owner's while IDLE or DONE, else the thread's */
};

struct shm_sealer {
        PyObject_HEAD
        struct shm_sealer_state *state;
        pid_t pid; /* of the process that has the thread */
};

static void shm_sealer_leave(struct shm_sealer_state *state)
{
        if (__atomic_sub_fetch(&state->users, 1, __ATOMIC_ACQ_REL) == 0)
                free(state);
}

static void *shm_sealer_run(void *argument)
{
        struct shm_sealer_state *state = (struct shm_sealer_state *)argument;
        uint32_t word = SHM_SEALER_IDLE;

        pthread_detach(pthread_self());
        while (word != SHM_SEALER_LAST && word != SHM_SEALER_ENDS) {
                if (word == SHM_SEALER_GIVEN) {
                        state->sealing.failed = shm_sealing_do(&state->sealing);
                        state->sealing.error = state->sealing.failed == SHM_SEAL_SYSTEM ? errno : 0;
                        if (!__atomic_compare_exchange_n(&state->word, &word, SHM_SEALER_DONE, 0, __ATOMIC_ACQ_REL,
                                                         __ATOMIC_ACQUIRE))
                                break; /* nobody is there any more */
                        shm_word_wake(&state->word);
                } else {
                        shm_word_sleep(&state->word, word, 0);
                }
                word = __atomic_load_n(&state->word, __ATOMIC_ACQUIRE);
        }
        shm_sealer_leave(state);
        return NULL;
}

/* Wait for the thread, until a time (0: without end), and take what came of it; None if it is not done. */
static PyObject *shm_sealer_wait(struct shm_sealer_state *state, uint64_t end_ns)
{
        uint32_t word;

        Py_BEGIN_ALLOW_THREADS
        while ((word = __atomic_load_n(&state->word, __ATOMIC_ACQUIRE)) == SHM_SEALER_GIVEN &&
               (!end_ns || shm_now_ns() < end_ns))
                shm_word_sleep(&state->word, word, end_ns);
        Py_END_ALLOW_THREADS
        if (word != SHM_SEALER_DONE)
                Py_RETURN_NONE;
        __atomic_store_n(&state->word, SHM_SEALER_IDLE, __ATOMIC_RELAXED);
        return Py_BuildValue("(ii)", state->sealing.failed, state->sealing.error);
}

/* Have the thread seal what was put into the state, and wait for it, as shm_sealer_wait() does. */
static PyObject *shm_sealer_go(struct shm_sealer_state *state, uint64_t wait_ns)
{
        wait_ns += shm_now_ns();
        __atomic_store_n(&state->word, SHM_SEALER_GIVEN, __ATOMIC_RELEASE);
        shm_word_wake(&state->word);
        return shm_sealer_wait(state, wait_ns);
}

static int shm_sealer_check(struct shm_sealer_state *state)
{
        if (__atomic_load_n(&state->word, __ATOMIC_ACQUIRE) == SHM_SEALER_IDLE)
                return 0;
        PyErr_SetString(PyExc_RuntimeError, "an object is being sealed");
        return -1;
}

static int shm_sealing_parse(PyObject *const *arguments, struct shm_sealing *sealing_out)
{
        Py_ssize_t header_size;
        uint64_t seals;
        char *header;

        if (shm_argument_descriptor(arguments[0], &sealing_out->writer) < 0 ||
            shm_argument_descriptor(arguments[1], &sealing_out->reader) < 0 ||
            shm_argument(arguments, 3, &sealing_out->capacity) < 0 ||
            PyBytes_AsStringAndSize(arguments[4], &header, &header_size) < 0 || shm_argument(arguments, 5, &seals) < 0)
                return -1;
        if (header_size > SHM_HEADER_SIZE || sealing_out->capacity > INT64_MAX || seals > INT_MAX) {
                PyErr_SetString(PyExc_ValueError, "a header, a capacity or the seals are too large");
                return -1;
        }
        sealing_out->cut = arguments[2] == Py_True;
        sealing_out->seals = (int)seals;
        sealing_out->header_size = (size_t)header_size;
        memcpy(&sealing_out->header, header, (size_t)header_size);
        return 0;
}

/* seal(writer, reader, cut, capacity, header, seals, wait_ns): see builtins.pyi. */
static PyObject *shm_sealer_seal(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_sealer_state *state = ((struct shm_sealer *)self)->state;
        uint64_t wait_ns;

        if (shm_arguments_check("seal", count, 7) < 0)
                return NULL;
        if (shm_sealer_check(state) < 0 || shm_sealing_parse(arguments, &state->sealing) < 0 ||
            shm_argument(arguments, 6, &wait_ns) < 0)
                return NULL;
        return shm_sealer_go(state, wait_ns);
}

/* Seal an object with the header of a publication; the results of `publish`. NULL: an exception is set. */
static PyObject *shm_sealer_publication(struct shm_sealer_state *state, const struct shm_publication *publication,
                                        PyObject *spares, uint64_t wait_ns)
{
        PyObject *grant = shm_publication_grant(publication), *said = NULL, *frame;

        frame = grant == NULL ? NULL : shm_assign_frame(publication, grant, spares);
        if (frame != NULL) {
                state->sealing.capacity = shm_publication_capacity(publication);
                state->sealing.seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
                state->sealing.header_size = sizeof(struct shm_region_header);
                shm_publication_header(publication, &state->sealing.header);
                said = shm_sealer_go(state, wait_ns);
        }
        if (said == NULL || said == Py_None || state->sealing.failed != SHM_SEALED) {
                Py_XDECREF(frame);
                Py_XDECREF(grant);
                return said;
        }
        Py_DECREF(said);
        if (publication->word)
                shm_board_set(publication->word, publication->region, publication->generation);
        return Py_BuildValue("(NN)", frame, grant);
}

/*
 * publish(parsed, writer, reader, cut, owner, window, spares, address, generation, created_ns, lease, line, rights,
 * word, wait_ns): see builtins.pyi.
 */
static PyObject *shm_sealer_publish(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_sealer_state *state = ((struct shm_sealer *)self)->state;
        struct shm_publication publication;
        uint64_t *numbers[] = {&publication.span[0], &publication.generation, &publication.created_ns,
                               &publication.lease, &publication.line, &publication.rights, &publication.word};
        uint64_t wait_ns;
        int i;

        if (shm_arguments_check("publish", count, 15) < 0 || shm_sealer_check(state) < 0 ||
            shm_assign_read(arguments[0], &publication) < 0 ||
            shm_argument_descriptor(arguments[1], &state->sealing.writer) < 0 ||
            shm_argument_descriptor(arguments[2], &state->sealing.reader) < 0 ||
            shm_numbers(arguments[4], 0, publication.owner, 3) < 0 ||
            shm_numbers(arguments[5], 0, publication.window, 2) < 0 || shm_argument(arguments, 14, &wait_ns) < 0)
                return NULL;
        for (i = 0; i < 7; i++)
                if (shm_argument(arguments, 7 + i, numbers[i]) < 0)
                        return NULL;
        state->sealing.cut = arguments[3] == Py_True;
        return shm_sealer_publication(state, &publication, arguments[6], wait_ns);
}

/* take(): see builtins.pyi. */
static PyObject *shm_sealer_take(PyObject *self, PyObject *none)
{
        (void)none;
        return shm_sealer_wait(((struct shm_sealer *)self)->state, 0);
}

static PyObject *shm_sealer_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
        struct shm_sealer *sealer = (struct shm_sealer *)PyType_GenericAlloc(type, 0); /* all zero */
        pthread_t thread;

        if (sealer == NULL)
                return NULL;
        sealer->state = (struct shm_sealer_state *)calloc(1, sizeof(*sealer->state));
        if (sealer->state == NULL) {
                Py_DECREF(sealer);
                return PyErr_NoMemory();
        }
        sealer->pid = getpid();
        sealer->state->users = 2;
        if (!shm_thread_start(&thread, shm_sealer_run, sealer->state))
                return (PyObject *)sealer;
        free(sealer->state);
        sealer->state = NULL;
        Py_DECREF(sealer);
        errno = EAGAIN;
        return PyErr_SetFromErrno(PyExc_OSError);
}

/* The thread ends by itself, at once or when it has sealed; a forked child has none. */
static void shm_sealer_dealloc(PyObject *self)
{
        struct shm_sealer_state *state = ((struct shm_sealer *)self)->state;
        PyTypeObject *type = Py_TYPE(self);
        uint32_t given = SHM_SEALER_GIVEN;

        if (state != NULL && ((struct shm_sealer *)self)->pid == getpid()) {
                if (!__atomic_compare_exchange_n(&state->word, &given, SHM_SEALER_LAST, 0, __ATOMIC_ACQ_REL,
                                                 __ATOMIC_ACQUIRE))
                        __atomic_store_n(&state->word, SHM_SEALER_ENDS, __ATOMIC_RELEASE);
                shm_word_wake(&state->word);
                shm_sealer_leave(state);
        }
        ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
        Py_DECREF((PyObject *)type);
}

static PyMethodDef shm_sealer_methods[] = {
        {"seal", (PyCFunction)(void (*)(void))shm_sealer_seal, METH_FASTCALL, NULL},
        {"publish", (PyCFunction)(void (*)(void))shm_sealer_publish, METH_FASTCALL, NULL},
        {"take", shm_sealer_take, METH_NOARGS, NULL},
        {NULL, NULL, 0, NULL},
};

static PyType_Slot shm_sealer_slots[] = {
        {Py_tp_new, (void *)shm_sealer_new},
        {Py_tp_dealloc, (void *)shm_sealer_dealloc},
        {Py_tp_methods, (void *)shm_sealer_methods},
        {0, NULL},
};

static PyType_Spec shm_sealer_spec = {"shmprotocol.Sealer", sizeof(struct shm_sealer), 0, Py_TPFLAGS_DEFAULT,
                                      shm_sealer_slots};

#endif /* SHM_SEALING_H */

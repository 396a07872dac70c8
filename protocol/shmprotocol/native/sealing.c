/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sealing.c - what makes an object a published one: its size, its header and its seals. Its client can make each of
 * these calls wait, for as long as it likes, by the object's lock. So a thread apart makes them, and who asked for it
 * waits for a bounded time, and then elsewhere. On one CPU that costs two switches of the kernel's between threads;
 * a hop to a thread of Python and back costs the GIL's and the event loop's besides.
 */
#ifndef SHM_SEALING_H
#define SHM_SEALING_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
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

/* What was done when a step failed. */
enum { SHM_SEALED, SHM_SEAL_SYSTEM, SHM_SEAL_SIZE, SHM_SEAL_HEADER };

struct shm_sealing {
        int writer; /* both stay the caller's */
        int reader;
        int cut; /* whether the object has another size than its capacity */
        int seals;
        uint64_t capacity;
        size_t header_size;
        struct shm_region_header header;
        int failed; /* what of the above */
        int error;  /* of the system */
};

struct shm_sealer_state {
        struct shm_apart apart;
        struct shm_sealing sealing;
};

struct shm_sealer {
        PyObject_HEAD
        struct shm_sealer_state *state;
        pid_t pid; /* of the process that has the thread */
};

/* Make the calls that take the object's lock; return 0 or an errno. */
static int shm_sealing_change(const struct shm_sealing *sealing, int fd)
{
        ssize_t size;

        if (sealing->cut && ftruncate(fd, (off_t)sealing->capacity))
                return errno;
        size = sealing->header_size ? pwrite(fd, &sealing->header, sealing->header_size, 0) : 0;
        if (size != (ssize_t)sealing->header_size)
                return size < 0 ? errno : ENOMEM;
        return sealing->seals && shm_sealed_seal(fd, sealing->seals) ? errno : 0;
}

static void shm_sealing_run(struct shm_apart *apart)
{
        struct shm_sealing *sealing = &((struct shm_sealer_state *)apart)->sealing;
        int fd = shm_apart_take(apart, sealing->writer);

        sealing->error = fd < 0 ? errno : shm_sealing_change(sealing, fd);
        shm_apart_give_back(apart, fd);
}

/*
 * Look at what came of it, by calls that wait for nobody; return what failed. Nothing changes from here on, if it was
 * sealed; until then the creator could write, and O_APPEND, which it can set on the description that the host writes
 * through, moves a pwrite to the end.
 */
static int shm_sealing_check(struct shm_sealing *sealing)
{
        uint8_t header[SHM_HEADER_SIZE];
        struct stat status;

        if (!sealing->error && fstat(sealing->reader, &status))
                sealing->error = errno;
        if (sealing->error)
                return SHM_SEAL_SYSTEM;
        if ((uint64_t)status.st_size != sealing->capacity)
                return SHM_SEAL_SIZE;
        if (sealing->header_size &&
            (pread(sealing->reader, header, sealing->header_size, 0) != (ssize_t)sealing->header_size ||
             memcmp(header, &sealing->header, sealing->header_size) != 0))
                return SHM_SEAL_HEADER;
        return SHM_SEALED;
}

/* Wait for the thread, until a time (0: without end), and take what came of it; None if it is not done. */
static PyObject *shm_sealer_wait(struct shm_sealer_state *state, uint64_t end_ns)
{
        int is_done;

        Py_BEGIN_ALLOW_THREADS
        is_done = shm_apart_wait(&state->apart, end_ns);
        if (is_done)
                state->sealing.failed = shm_sealing_check(&state->sealing);
        Py_END_ALLOW_THREADS
        if (!is_done)
                Py_RETURN_NONE;
        return Py_BuildValue("(ii)", state->sealing.failed, state->sealing.error);
}

/* Have the thread seal what was put into the state, and wait for it, as shm_sealer_wait() does. */
static PyObject *shm_sealer_go(struct shm_sealer_state *state, uint64_t wait_ns)
{
        wait_ns += shm_now_ns();
        shm_apart_give(&state->apart);
        return shm_sealer_wait(state, wait_ns);
}

static int shm_sealer_check(struct shm_sealer_state *state)
{
        if (__atomic_load_n(&state->apart.word, __ATOMIC_ACQUIRE) == SHM_APART_IDLE)
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

        if (sealer == NULL)
                return NULL;
        sealer->pid = getpid();
        sealer->state = (struct shm_sealer_state *)shm_apart_start(sizeof(*sealer->state), shm_sealing_run);
        if (sealer->state != NULL)
                return (PyObject *)sealer;
        Py_DECREF(sealer);
        return NULL;
}

/* The thread ends by itself, at once or when it has sealed; a forked child has none. */
static void shm_sealer_dealloc(PyObject *self)
{
        struct shm_sealer *sealer = (struct shm_sealer *)self;
        PyTypeObject *type = Py_TYPE(self);

        if (sealer->state != NULL && sealer->pid == getpid())
                shm_apart_end(&sealer->state->apart);
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

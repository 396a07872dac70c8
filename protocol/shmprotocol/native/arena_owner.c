/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_owner.c - an arena as its owner writes it from Python: see shm_arena.h; arena_put.c has the type's methods.
 *
 * The owner's state changes with the GIL held, and never across a call that may run code of Python. A thread that talks to
 * the host lets the GIL go meanwhile, with `asking` locked; all others wait for that. A copy of more than 64 KiB lets the
 * GIL go as well: its block belongs to nobody else.
 */
#ifndef SHM_ARENA_OWNER_H
#define SHM_ARENA_OWNER_H

#include <pythread.h>
#include <stdint.h>

#include "shm_arena.h"

#define SHM_COPY_ALONE 65536 /* bytes that are copied with the GIL held: they take 5 us, and letting it go 0.2 */

#define SHM_KIND_DIMENSIONS 8 /* of arrays whose kind is remembered; others are looked up each time */

/* The kind of the array that was put last. */
struct shm_owner_kind {
        const void *dtype; /* one of NumPy's own, which live on: only its address is looked at */
        PyObject *description; /* NULL: there was none */
        int dimensions;
        Py_ssize_t shape[SHM_KIND_DIMENSIONS];
};

static PyObject *shm_dtype_text, *shm_shape_text; /* names of attributes; set once, at the import of the module */

struct shm_owner_object {
        struct shm_reader reader; /* of the same arena, with the owner's own ledger; values keep the owner */
        struct shm_arena_owner *owner;
        PyObject *memory; /* keeps the writable mapping */
        PyObject *kinds;  /* a dict from (id(dtype), shape) to a description */
        struct shm_owner_kind kind;
        Py_ssize_t name_length; /* characters of the arena's name; 0: not asked yet */
        PyObject *array;  /* numpy.ndarray; NULL as long as it is not loaded */
        PyThread_type_lock asking;
        int is_asking;
        int mapped_socket; /* 1 + that of an owner that writes no more, open as long as the arena is mapped; 0: none */
        struct shm_kept kept;
};

/* Give back what an owner has, its mapping first: the socket tells the host that nothing is mapped any more. */
static void shm_owner_end(PyObject *object)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;

        shm_close(shm_unkeep(&self->kept));
        Py_CLEAR(self->memory);
        shm_owner_close(self->owner);
        if (self->mapped_socket)
                close(self->mapped_socket - 1);
        self->mapped_socket = 0;
}

/* _keep(home, number, descriptor): have the next host get a copy of the read-write descriptor; nothing if that cannot be. */
static PyObject *shm_owner_keep_call(PyObject *object, PyObject *arguments)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;

        self->kept.arena = self->owner;
        return shm_keep_for(object, &self->kept, SHM_KEPT_ARENA, arguments);
}

static PyObject *shm_owner_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
        struct shm_owner_object *self = (struct shm_owner_object *)shm_reader_new(type, arguments, names);

        if (self == NULL)
                return NULL;
        self->kinds = PyDict_New();
        self->asking = PyThread_allocate_lock();
        self->owner = (struct shm_arena_owner *)PyMem_Calloc(1, sizeof(*self->owner));
        if (self->owner != NULL)
                self->owner->socket = -1;
        if (self->kinds == NULL || self->owner == NULL || self->asking == NULL) {
                Py_DECREF((PyObject *)self);
                return PyErr_NoMemory();
        }
        return (PyObject *)self;
}

static void shm_owner_dealloc(PyObject *object)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;

        self->reader.on_idle = NULL;
        if (self->owner != NULL)
                shm_owner_end(object);
        PyMem_Free(self->owner);
        if (self->asking != NULL)
                PyThread_free_lock(self->asking);
        Py_XDECREF(self->kinds);
        Py_XDECREF(self->kind.description);
        Py_XDECREF(self->array);
        shm_reader_dealloc(object);
}

/* Return when no thread talks to the host. In a forked child no other thread does: it has none. */
static void shm_owner_settle(struct shm_owner_object *self)
{
        while (self->is_asking && self->reader.forks == shm_forks) {
                Py_BEGIN_ALLOW_THREADS
                PyThread_acquire_lock(self->asking, WAIT_LOCK);
                PyThread_release_lock(self->asking);
                Py_END_ALLOW_THREADS
        }
}

/* Whether this process may write; sets an exception otherwise. */
static int shm_owner_enter(struct shm_owner_object *self)
{
        shm_owner_settle(self);
        if (self->reader.arena != NULL && self->reader.forks == shm_forks)
                return 1;
        (void)shm_reader_fail((PyObject *)self, self->reader.arena == NULL ? -EBADF : -ECHILD, Py_None);
        return 0;
}

enum { SHM_ASK_READY, SHM_ASK_GROW, SHM_ASK_ROOM };

/* Talk to the host, after shm_owner_enter(). Returns 0 or -errno. */
static int shm_owner_talk(struct shm_owner_object *self, int what, uint64_t size)
{
        int error;

        self->is_asking = 1;
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(self->asking, WAIT_LOCK);
        self->owner->is_quiet = 0;
        error = what == SHM_ASK_READY  ? shm_arena_ready(self->owner)
                : what == SHM_ASK_GROW ? shm_arena_grow(self->owner, size)
                                       : shm_owner_make_room(self->owner, size);
        self->owner->is_quiet = 1;
        PyThread_release_lock(self->asking);
        Py_END_ALLOW_THREADS
        self->is_asking = 0;
        return error;
}

/*
 * _make(address, home, span, size, names, region, line, socket, memory): become the owner of the arena that is mapped at
 * `address` for writing; `memory` keeps the mapping. The owner has a copy of `socket`, which stays the caller's: an
 * exception in between loses none. Returns 0 or an errno.
 */
static PyObject *shm_owner_make_call(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;
        uint64_t numbers[8];
        int socket, error, i;

        if (shm_arguments_check("_make", count, 9) < 0)
                return NULL;
        for (i = 0; i < 8; i++)
                if (shm_argument(arguments, i, &numbers[i]) < 0)
                        return NULL;
        if (self->reader.arena != NULL) {
                PyErr_SetString(PyExc_TypeError, "_make is called once");
                return NULL;
        }
        socket = fcntl((int)numbers[7], F_DUPFD_CLOEXEC, 0);
        if (socket < 0)
                return PyLong_FromLong(errno);
        error = shm_owner_make(self->owner, (void *)(uintptr_t)numbers[0], numbers[1], numbers[2], numbers[3],
                               numbers[4], numbers[5], (const struct shm_board_line *)(uintptr_t)numbers[6], socket);
        if (error)
                return PyLong_FromLong(-error);
        self->owner->is_quiet = 1;
        self->memory = Py_NewRef(arguments[8]);
        self->reader.arena = &self->owner->arena;
        self->reader.holds = &self->owner->own;
        self->reader.forks = shm_forks;
        return PyLong_FromLong(0);
}

/*
 * _populate(from, to): let these bytes exist, and what the arena grows by as well. Before _ready(): nobody else has the
 * object yet. Returns 0 or an errno.
 */
static PyObject *shm_owner_populate_call(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;
        uint64_t from, to;
        int error;

        if (shm_arguments_check("_populate", count, 2) < 0 || shm_argument(arguments, 0, &from) < 0 ||
            shm_argument(arguments, 1, &to) < 0 || !shm_owner_enter(self))
                return NULL;
        if (from % SHM_HEAP_PAGE != 0 || from >= to || to > self->owner->arena.size)
                return PyLong_FromLong(ERANGE);
        self->reader.users++; /* it may be closed meanwhile, by a destructor */
        self->owner->is_populated = 1;
        Py_BEGIN_ALLOW_THREADS
        error = shm_owner_populate(self->owner, from, to);
        Py_END_ALLOW_THREADS
        shm_reader_unused(object);
        return PyLong_FromLong(-error);
}

static PyObject *shm_owner_ready_call(PyObject *object, PyObject *none)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;

        (void)none;
        return shm_owner_enter(self) ? PyLong_FromLong(-shm_owner_talk(self, SHM_ASK_READY, 0)) : NULL;
}

static PyObject *shm_owner_grow_call(PyObject *object, PyObject *size)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;
        uint64_t wanted;

        if (shm_argument(&size, 0, &wanted) < 0 || !shm_owner_enter(self))
                return NULL;
        return PyLong_FromLong(-shm_owner_talk(self, SHM_ASK_GROW, wanted));
}

/* Stop being the owner. Values and loans live on, and so does the socket: the arena is mapped here still. */
static PyObject *shm_owner_close_call(PyObject *object, PyObject *none)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;
        struct shm_arena_message message = {SHM_ARENA_LEAVE, 0, 0, 0};

        (void)none;
        shm_owner_settle(self);
        shm_close(shm_unkeep(&self->kept));
        shm_owner_move_on(self->owner);
        if (self->owner->socket >= 0 && self->reader.forks == shm_forks) {
                /* A full socket, or a host that is gone, leaves it to the socket's end. */
                (void)!send(self->owner->socket, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT);
                self->mapped_socket = self->owner->socket + 1;
                self->owner->socket = -1;
        }
        self->reader.arena = NULL;
        if (self->reader.users == 0)
                shm_owner_end(object);
        else
                self->reader.on_idle = shm_owner_end;
        Py_RETURN_NONE;
}

/* _holders(): [(ledger, pid, blocks)] that kept blocks from being used again when they were last needed. */
static PyObject *shm_owner_holders_call(PyObject *object, PyObject *none)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;
        const struct shm_arena_owner *owner = self->owner;
        PyObject *holders = PyList_New(0), *holder;
        uint32_t i;
        int error = 0;

        (void)none;
        self->reader.users++; /* the collector can run, and a destructor close the arena */
        for (i = 0; holders != NULL && !error; i++) {
                shm_owner_settle(self);
                if (i >= owner->ledger_count)
                        break;
                if (owner->ledgers[i].held == 0)
                        continue;
                holder = Py_BuildValue("(KiK)", (unsigned long long)owner->ledgers[i].number, owner->ledgers[i].pid,
                                       (unsigned long long)owner->ledgers[i].held);
                error = holder == NULL || PyList_Append(holders, holder) < 0;
                Py_XDECREF(holder);
        }
        shm_reader_unused(object);
        if (error)
                Py_CLEAR(holders);
        return holders;
}

/* _state(): bytes of the object, of its heap in use, retired blocks, ledgers. */
static PyObject *shm_owner_state_call(PyObject *object, PyObject *none)
{
        const struct shm_arena_owner *owner = ((struct shm_owner_object *)object)->owner;

        (void)none;
        return Py_BuildValue("(KKKI)", (unsigned long long)owner->arena.size, (unsigned long long)owner->heap.used,
                             (unsigned long long)owner->retired_count, (unsigned int)owner->ledger_count);
}

/* _room(): bytes of the longest free run of the heap. */
static PyObject *shm_owner_room_call(PyObject *object, PyObject *none)
{
        const struct shm_owner_object *self = (struct shm_owner_object *)object;

        (void)none;
        if (self->reader.arena == NULL) /* closed: the heap has no pages */
                return PyLong_FromLong(0);
        return PyLong_FromUnsignedLongLong(shm_heap_largest(&self->owner->heap));
}

#endif /* SHM_ARENA_OWNER_H */

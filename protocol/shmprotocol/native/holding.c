/* SPDX-License-Identifier: Apache-2.0 */
/*
 * holding.c - a region that the fast road of a client has mapped, with its lease: what Python's books of the address
 * space hold for it, what its memory calls at its end, and the part of a handle. See lane.c.
 */
#ifndef SHM_HOLDING_H
#define SHM_HOLDING_H

#include <fcntl.h>
#include <stdint.h>
#include <structmember.h>
#include <unistd.h>

struct shm_lane;
static void shm_lane_give_back(struct shm_lane *lane, uint64_t lease);
static PyObject *shm_held_map(PyObject *self, PyObject *grant);
static PyObject *shm_held_give(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
static PyObject *shm_kept_move_lease(struct shm_kept *kept, int is_live, struct shm_lane **lane, uint64_t *lease,
                                     PyObject *const *arguments);
static void shm_close(int fd);

/* A mapped region with its lease. The books own it until it is unmapped, its memory until that goes. */
struct shm_holding {
        PyObject_HEAD
        struct shm_space *space;
        struct shm_lane *lane;
        PyObject *grant;
        PyObject *plain; /* what its end submits to the gate, once Python's part has taken it over; NULL before */
        uint64_t address;
        uint64_t capacity;
        uint64_t lease;
        struct shm_kept kept; /* the descriptor, for the next host */
        int is_live; /* mapped, and in the books */
};

/* The part of a handle: its descriptor, and the memory that its mapping lives by, or the lease before it is mapped. */
struct shm_held {
        PyObject_HEAD
        PyObject *memory; /* NULL: closed, taken, or not mapped yet */
        struct shm_lane *lane; /* whose lease it has; NULL: it has none */
        uint64_t lease;
        struct shm_kept kept; /* the descriptor, before it is mapped */
        struct shm_kept *shared; /* the holding's, which keeps it; as long as there is the memory */
        int fd;
        char is_kept; /* the descriptor is kept, here or by the holding of the memory: whoever keeps it closes it */
        char is_taken;
};

static PyObject *shm_holding_type, *shm_held_type, *shm_lane_type; /* set when they are installed */

/* --- a holding */

/* Map the object of a descriptor where a holding stands in the books. -1: nothing is mapped. Inside of the gate. */
static int shm_holding_map(struct shm_holding *holding, int fd)
{
        return shm_loose_map(holding->space->loose, fd, holding->address, holding->capacity);
}

static int shm_holding_unmap(struct shm_holding *holding)
{
        return shm_loose_unmap(holding->space->loose, holding->address, holding->capacity);
}

/* Unmap it and give its lease back. Inside of the gate. */
static void shm_holding_finish(struct shm_holding *holding)
{
        int error;

        if (holding->plain != NULL) { /* taken over while it was in the queue */
                shm_submit(holding->space->items, holding->plain);
                return;
        }
        if (!holding->is_live)
                return;
        Py_BEGIN_ALLOW_THREADS
        error = shm_holding_unmap(holding);
        Py_END_ALLOW_THREADS
        if (error) { /* at vm.max_map_count */
                shm_tell(holding->space->stuck, (PyObject *)holding);
                return;
        }
        holding->is_live = 0;
        Py_INCREF((PyObject *)holding); /* the books may have the last reference */
        shm_space_discard(holding->space, holding->address, (PyObject *)holding);
        shm_close(shm_unkeep(&holding->kept));
        shm_lane_give_back(holding->lane, holding->lease);
        Py_DECREF((PyObject *)holding);
}

/*
 * Called when the last view of the memory is gone: on any thread, in the garbage collector, or in the middle of a
 * section of this very thread. So it never waits: if the gate is not free, whoever is inside finishes this, as for
 * everything that dies then (see Gate in Python).
 */
static PyObject *shm_holding_call(PyObject *self, PyObject *arguments, PyObject *keywords)
{
        struct shm_holding *holding = (struct shm_holding *)self;
        struct shm_space *space = holding->space;

        (void)arguments;
        (void)keywords;
        if (holding->plain != NULL) {
                shm_submit(space->items, holding->plain);
                return shm_call(space->drain, NULL);
        }
        if (!holding->is_live)
                Py_RETURN_NONE;
        if (shm_asks(space->is_owned, NULL) || !shm_asks(space->acquire, Py_False)) {
                shm_submit(space->items, self);
                return shm_call(space->drain, NULL);
        }
        shm_holding_finish(holding);
        shm_tell(space->release, NULL);
        return PyObject_Size(space->items) > 0 ? shm_call(space->drain, NULL) : (Py_INCREF(Py_None), Py_None);
}

static PyObject *shm_holding_finish_method(PyObject *self, PyObject *none)
{
        (void)none;
        shm_holding_finish((struct shm_holding *)self);
        Py_RETURN_NONE;
}

/* give_back(): for Python's part, once it has unmapped the region. */
static PyObject *shm_holding_give_back(PyObject *self, PyObject *none)
{
        struct shm_holding *holding = (struct shm_holding *)self;

        (void)none;
        shm_close(shm_unkeep(&holding->kept));
        shm_lane_give_back(holding->lane, holding->lease);
        holding->is_live = 0;
        Py_CLEAR(holding->plain); /* which leads back here: nothing would collect that cycle */
        Py_RETURN_NONE;
}

/*
 * become(mapping, hold): have the books hold `mapping` in its place, and the end of its memory submit `hold`.
 * Inside of the gate. False: it has ended.
 */
static PyObject *shm_holding_become(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_holding *holding = (struct shm_holding *)self;
        PyObject *interval;
        int error = 1; /* it has ended */

        if (shm_arguments_check("become", count, 2) < 0)
                return NULL;
        interval = shm_space_make(holding->space, holding->address, holding->capacity, arguments[0]);
        if (interval == NULL)
                return NULL;
        if (holding->is_live && holding->plain == NULL) { /* also if the garbage collector ran just now */
                error = shm_space_put(holding->space, holding->address, interval, 0);
                if (!error)
                        holding->plain = Py_NewRef(arguments[1]);
        }
        Py_DECREF(interval);
        return error < 0 ? NULL : PyBool_FromLong(!error);
}

static void shm_holding_dealloc(PyObject *self)
{
        struct shm_holding *holding = (struct shm_holding *)self;

        shm_close(shm_unkeep(&holding->kept));
        Py_XDECREF((PyObject *)holding->space);
        Py_XDECREF((PyObject *)holding->lane);
        Py_XDECREF(holding->grant);
        Py_XDECREF(holding->plain);
        shm_free(self);
}

/* lend(descriptors): see Kept. */
static PyObject *shm_holding_lend(PyObject *self, PyObject *descriptors)
{
        return shm_kept_lend(&((struct shm_holding *)self)->kept, descriptors);
}

/* move(lane, lease): it has this lease of that connection from now on, whose client gives it back at the end. */
static PyObject *shm_holding_move(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_holding *holding = (struct shm_holding *)self;

        if (shm_arguments_check("move", count, 2) < 0)
                return NULL;
        return shm_kept_move_lease(&holding->kept, holding->is_live, &holding->lane, &holding->lease, arguments);
}

static PyMethodDef shm_holding_methods[] = {
        {"lend", shm_holding_lend, METH_O, NULL},
        {"move", (PyCFunction)(void (*)(void))shm_holding_move, METH_FASTCALL, NULL},
        {"finish", shm_holding_finish_method, METH_NOARGS, NULL},
        {"give_back", shm_holding_give_back, METH_NOARGS, NULL},
        {"become", (PyCFunction)(void (*)(void))shm_holding_become, METH_FASTCALL, NULL},
        {NULL, NULL, 0, NULL},
};

static PyMemberDef shm_holding_members[] = {
        {"address", T_ULONGLONG, offsetof(struct shm_holding, address), READONLY, NULL},
        {"capacity", T_ULONGLONG, offsetof(struct shm_holding, capacity), READONLY, NULL},
        {"grant", T_OBJECT, offsetof(struct shm_holding, grant), READONLY, NULL},
        {"lane", T_OBJECT, offsetof(struct shm_holding, lane), READONLY, NULL},
        {NULL, 0, 0, 0, NULL},
};

static PyType_Slot shm_holding_slots[] = {
        {Py_tp_dealloc, (void *)shm_holding_dealloc},
        {Py_tp_call, (void *)shm_holding_call},
        {Py_tp_methods, (void *)shm_holding_methods},
        {Py_tp_members, (void *)shm_holding_members},
        {0, NULL},
};

static PyType_Spec shm_holding_spec = {"shmprotocol.Holding", sizeof(struct shm_holding), 0,
                                       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, shm_holding_slots};

/* --- the part of a handle */

/* Close a descriptor that this process owns; the object may go with it, which takes time. */
static void shm_close(int fd)
{
        if (fd < 0)
                return;
        Py_BEGIN_ALLOW_THREADS
        (void)close(fd);
        Py_END_ALLOW_THREADS
}

/* Note that the handle does not use the descriptor any more that a holding keeps. */
static void shm_held_unshare(struct shm_held *held)
{
        if (held->shared != NULL)
                held->shared->is_shared = 0;
        held->shared = NULL;
}

static void shm_held_share(struct shm_held *held, struct shm_kept *kept)
{
        held->is_kept = 1;
        held->shared = kept;
        kept->is_shared = 1;
}

static void shm_held_drop(struct shm_held *held)
{
        PyObject *memory = held->memory;
        struct shm_lane *lane = held->lane;
        int fd = held->is_kept ? shm_unkeep(&held->kept) : held->fd;

        shm_held_unshare(held);
        held->memory = NULL; /* before any of it goes: that runs code of others */
        held->lane = NULL;
        held->fd = -1;
        shm_close(fd);
        Py_XDECREF(memory);
        if (lane != NULL)
                shm_lane_give_back(lane, held->lease);
        Py_XDECREF((PyObject *)lane);
}

/* close(): whether it is closed now; False: its parts were taken. */
static PyObject *shm_held_close(PyObject *self, PyObject *none)
{
        struct shm_held *held = (struct shm_held *)self;

        (void)none;
        if (held->is_taken)
                Py_RETURN_FALSE;
        shm_held_drop(held);
        Py_RETURN_TRUE;
}

/* Add the descriptor to a list that owns it from now on, or a copy of one that is kept. -1: an exception is set. */
static int shm_held_append(const struct shm_held *held, PyObject *descriptors)
{
        int fd = held->is_kept ? fcntl(held->fd, F_DUPFD_CLOEXEC, 0) : held->fd;
        PyObject *number = fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
        int error = number == NULL || PyList_Append(descriptors, number) < 0;

        Py_XDECREF(number);
        if (error && held->is_kept && fd >= 0)
                (void)close(fd);
        return error ? -1 : 0;
}

/* take(descriptors): add the descriptor to a list that owns it from now on, and return the memory, None if closed. */
static PyObject *shm_held_take(PyObject *self, PyObject *descriptors)
{
        struct shm_held *held = (struct shm_held *)self;
        PyObject *memory = held->memory;

        if (memory == NULL)
                Py_RETURN_NONE;
        if (shm_held_append(held, descriptors) < 0)
                return NULL;
        shm_held_unshare(held);
        held->memory = NULL;
        held->fd = -1;
        held->is_taken = 1;
        return memory;
}

static void shm_held_dealloc(PyObject *self)
{
        PyObject *kind, *value, *trace;

        PyErr_Fetch(&kind, &value, &trace);
        shm_held_drop((struct shm_held *)self);
        PyErr_Restore(kind, value, trace);
        shm_free(self);
}

/* lend(descriptors): see Kept. */
static PyObject *shm_held_lend(PyObject *self, PyObject *descriptors)
{
        return shm_kept_lend(&((struct shm_held *)self)->kept, descriptors);
}

/* move(lane, lease): as that of a Holding. */
static PyObject *shm_held_move(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_held *held = (struct shm_held *)self;

        if (shm_arguments_check("move", count, 2) < 0)
                return NULL;
        return shm_kept_move_lease(&held->kept, held->lane != NULL, &held->lane, &held->lease, arguments);
}

static PyMethodDef shm_held_methods[] = {
        {"lend", shm_held_lend, METH_O, NULL},
        {"move", (PyCFunction)(void (*)(void))shm_held_move, METH_FASTCALL, NULL},
        {"close", shm_held_close, METH_NOARGS, NULL},
        {"take", shm_held_take, METH_O, NULL},
        {"map", shm_held_map, METH_O, NULL},
        {"give", (PyCFunction)(void (*)(void))shm_held_give, METH_FASTCALL, NULL},
        {NULL, NULL, 0, NULL},
};

static PyMemberDef shm_held_members[] = {
        {"memory", T_OBJECT, offsetof(struct shm_held, memory), READONLY, NULL},
        {"is_taken", T_BOOL, offsetof(struct shm_held, is_taken), READONLY, NULL},
        {"lane", T_OBJECT, offsetof(struct shm_held, lane), READONLY, NULL},
        {"lease", T_ULONGLONG, offsetof(struct shm_held, lease), READONLY, NULL},
        {NULL, 0, 0, 0, NULL},
};

static PyType_Slot shm_held_slots[] = {
        {Py_tp_dealloc, (void *)shm_held_dealloc},
        {Py_tp_methods, (void *)shm_held_methods},
        {Py_tp_members, (void *)shm_held_members},
        {0, NULL},
};

static PyType_Spec shm_held_spec = {"shmprotocol.Held", sizeof(struct shm_held), 0,
                                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, shm_held_slots};

#endif /* SHM_HOLDING_H */

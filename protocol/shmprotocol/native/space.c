/* SPDX-License-Identifier: Apache-2.0 */
/*
 * space.c - Python's books of the address space, for the fast road: see holding.c and lane.c.
 *
 * The books are the `Intervals` of Python's AddressSpace, a sorted list of starts and a dict from start to interval.
 * They change with the gate's lock held, here as there, so that nothing is ever mapped over another mapping of ours;
 * and here in one go with the GIL, which no signal's handler interrupts.
 */
#ifndef SHM_SPACE_H
#define SHM_SPACE_H

#include <errno.h>
#include <stdint.h>

struct shm_space {
        PyObject_HEAD
        PyObject *starts;   /* list of int */
        PyObject *found;    /* dict from int to interval(start, size, value) */
        PyObject *interval; /* a named tuple */
        PyObject *reserved; /* list of (base, size) */
        PyObject *acquire;  /* of the gate's lock, which is reentrant */
        PyObject *release;
        PyObject *is_owned;
        PyObject *items; /* the gate's queue */
        PyObject *drain; /* handles the queue, if the gate is free */
        PyObject *stuck; /* called with a holding that cannot be unmapped, inside of the gate */
        struct shm_loose loose[SHM_LOOSE_SLOTS];
};

static PyObject *shm_space_type; /* set when it is installed */

static PyObject *shm_call(PyObject *function, PyObject *argument)
{
        return PyObject_CallFunctionObjArgs(function, argument, NULL);
}

/* Call a function that returns a bool; an error is none. Returns 1 or 0. */
static int shm_asks(PyObject *function, PyObject *argument)
{
        PyObject *answer = shm_call(function, argument);
        int is_true = answer != NULL && PyObject_IsTrue(answer) == 1;

        PyErr_Clear();
        Py_XDECREF(answer);
        return is_true;
}

/* Call what has no result. An error, as Ctrl-C meanwhile, is raised later. */
static void shm_tell(PyObject *function, PyObject *argument)
{
        PyObject *result = shm_call(function, argument);

        if (result == NULL)
                shm_raise_later(function);
        Py_XDECREF(result);
}

/* Have a gate handle its queue. It is called again if Ctrl-C comes meanwhile: perhaps nobody enters the gate later. */
static void shm_tell_drain(PyObject *drain)
{
        PyObject *result = shm_call(drain, NULL), *kind, *error, *trace;

        if (result == NULL) {
                PyErr_Fetch(&kind, &error, &trace);
                result = shm_call(drain, NULL);
                PyErr_Restore(kind, error, trace);
                shm_raise_later(drain);
        }
        Py_XDECREF(result);
}

/* Put an item into the queue of a gate. */
static void shm_submit(PyObject *items, PyObject *item)
{
        PyObject *result = PyObject_CallMethod(items, "append", "(O)", item);

        if (result == NULL)
                PyErr_WriteUnraisable(items);
        Py_XDECREF(result);
}

static void shm_free(PyObject *self)
{
        PyTypeObject *type = Py_TYPE(self);

        ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
        Py_DECREF((PyObject *)type);
}

/* Return the index behind the last start that is not above an address; -1 is an error. */
static Py_ssize_t shm_space_index(const struct shm_space *space, uint64_t address)
{
        Py_ssize_t low = 0, high = PyList_Size(space->starts);

        while (low < high) {
                Py_ssize_t middle = low + (high - low) / 2;
                uint64_t start = (uint64_t)PyLong_AsUnsignedLongLong(PyList_GetItem(space->starts, middle));

                if (PyErr_Occurred())
                        return -1;
                if (start <= address)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

/* The interval that begins at an index of the starts, borrowed; NULL is an error. */
static PyObject *shm_space_interval(const struct shm_space *space, Py_ssize_t index)
{
        PyObject *start = PyList_GetItem(space->starts, index);
        PyObject *interval = start == NULL ? NULL : PyDict_GetItemWithError(space->found, start);

        return interval != NULL && PyTuple_Check(interval) ? interval : NULL;
}

/* Whether nothing of ours lies in a range of addresses. Any error says no: the plain road finds out what is wrong. */
static int shm_space_is_free(const struct shm_space *space, uint64_t address, uint64_t size)
{
        Py_ssize_t index = shm_space_index(space, address);
        PyObject *interval;
        uint64_t start, length;

        if (index > 0) {
                interval = shm_space_interval(space, index - 1);
                if (interval == NULL)
                        return 0;
                start = (uint64_t)PyLong_AsUnsignedLongLong(PyTuple_GetItem(interval, 0));
                length = (uint64_t)PyLong_AsUnsignedLongLong(PyTuple_GetItem(interval, 1));
                if (PyErr_Occurred() || address - start < length)
                        return 0;
        }
        if (index < 0 || index == PyList_Size(space->starts))
                return index >= 0;
        start = (uint64_t)PyLong_AsUnsignedLongLong(PyList_GetItem(space->starts, index));
        return !PyErr_Occurred() && start - address >= size;
}

/* Whether a range lies in a reservation. */
static int shm_space_is_reserved(const struct shm_space *space, uint64_t address, uint64_t size)
{
        Py_ssize_t i;

        for (i = 0; i < PyList_Size(space->reserved); i++) {
                PyObject *pair = PyList_GetItem(space->reserved, i);
                uint64_t base = (uint64_t)PyLong_AsUnsignedLongLong(PyTuple_GetItem(pair, 0));
                uint64_t length = (uint64_t)PyLong_AsUnsignedLongLong(PyTuple_GetItem(pair, 1));

                if (PyErr_Occurred())
                        return 0;
                if (address >= base && address - base <= length && size <= length - (address - base))
                        return 1;
        }
        return 0;
}

/* Make an interval, for the books. The garbage collector can run any code in here. */
static PyObject *shm_space_make(const struct shm_space *space, uint64_t address, uint64_t size, PyObject *value)
{
        newfunc make = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
        PyObject *arguments = Py_BuildValue("((KKO))", (unsigned long long)address, (unsigned long long)size, value);
        PyObject *interval = arguments == NULL ? NULL : make((PyTypeObject *)space->interval, arguments, NULL);

        Py_XDECREF(arguments);
        return interval;
}

/*
 * Put an interval into the books, or in the place of the one that has its start. -1: an error. As a look at the books
 * before it, this makes no object that the garbage collector counts: no code runs in between that could change them.
 */
static int shm_space_put(struct shm_space *space, uint64_t address, PyObject *interval, int is_new)
{
        PyObject *start = PyTuple_GetItem(interval, 0);
        Py_ssize_t index = shm_space_index(space, address);
        int error;

        if (start == NULL || index < 0 || PyDict_SetItem(space->found, start, interval) < 0)
                return -1;
        error = is_new ? PyList_Insert(space->starts, index, start) : 0;
        if (error)
                (void)PyDict_DelItem(space->found, start);
        return error;
}

/* Take the range that begins at an address out of the books, if it stands for this value. */
static void shm_space_discard(struct shm_space *space, uint64_t address, PyObject *value)
{
        Py_ssize_t index = shm_space_index(space, address) - 1;
        PyObject *interval = index < 0 ? NULL : shm_space_interval(space, index);
        PyObject *start;

        if (interval != NULL && PyTuple_GetItem(interval, 2) == value) {
                start = PyList_GetItem(space->starts, index);
                Py_INCREF(start);
                (void)PyList_SetSlice(space->starts, index, index + 1, NULL);
                (void)PyDict_DelItem(space->found, start);
                Py_DECREF(start);
        }
        PyErr_Clear();
}

/*
 * map(interval, descriptor, flags): note a range, and map it as shm_map() does if it is SHM_MAP_WRITABLE alone, else as
 * shm_attach(); or do neither. Inside of the gate. Returns the address, or -errno; -EALREADY: a range of ours is in the
 * way. One call, so that no destructor and no signal's handler comes between the look at the books and the mapping.
 */
static PyObject *shm_space_map(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_space *space = (struct shm_space *)self;
        uint64_t address, capacity, fd, flags;
        int64_t mapped;

        if (shm_arguments_check("map", count, 3) < 0 || shm_argument(arguments, 1, &fd) < 0 ||
            shm_argument(arguments, 2, &flags) < 0)
                return NULL;
        if (!PyArg_ParseTuple(arguments[0], "KKO", &address, &capacity, &self))
                return NULL;
        if (!shm_space_is_free(space, address, capacity))
                return PyErr_Occurred() ? NULL : PyLong_FromLong(-EALREADY);
        if (shm_space_put(space, address, arguments[0], 1) < 0)
                return NULL;
        Py_BEGIN_ALLOW_THREADS
        if (flags & SHM_MAP_RESERVED)
                shm_loose_claim(space->loose, address, capacity);
        mapped = ((flags & (SHM_MAP_WRITABLE | SHM_MAP_SHARED)) == SHM_MAP_WRITABLE ? shm_map : shm_attach)((int)fd, address, capacity, (int)flags);
        if (mapped < 0 && flags & SHM_MAP_RESERVED)
                (void)shm_unmap(address, capacity, SHM_MAP_RESERVED); /* not loose any more */
        Py_END_ALLOW_THREADS
        if (mapped < 0)
                shm_space_discard(space, address, self);
        return PyLong_FromLongLong(mapped);
}

static PyMethodDef shm_space_methods[] = {
        {"map", (PyCFunction)(void (*)(void))shm_space_map, METH_FASTCALL, NULL},
        {NULL, NULL, 0, NULL},
};

static int shm_space_init(PyObject *self, PyObject *arguments, PyObject *keywords)
{
        struct shm_space *space = (struct shm_space *)self;
        PyObject **parts[] = {&space->starts,  &space->found,    &space->interval, &space->reserved, &space->acquire,
                              &space->release, &space->is_owned, &space->items,    &space->drain,    &space->stuck};
        size_t i;

        (void)keywords;
        if (space->starts != NULL || !PyArg_ParseTuple(arguments, "O!O!O!O!OOOOOO", &PyList_Type, parts[0], &PyDict_Type,
                                                       parts[1], &PyType_Type, parts[2], &PyList_Type, parts[3], parts[4],
                                                       parts[5], parts[6], parts[7], parts[8], parts[9])) {
                if (!PyErr_Occurred())
                        PyErr_SetString(PyExc_TypeError, "a Space is made once");
                return -1;
        }
        for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
                Py_INCREF(*parts[i]);
        return 0;
}

/* A Space lives as long as the process: there is one, in a module. */
static PyType_Slot shm_space_slots[] = {
        {Py_tp_init, (void *)shm_space_init},
        {Py_tp_methods, (void *)shm_space_methods},
        {0, NULL},
};

static PyType_Spec shm_space_spec = {"shmprotocol.Space", sizeof(struct shm_space), 0, Py_TPFLAGS_DEFAULT,
                                     shm_space_slots};

#endif /* SHM_SPACE_H */

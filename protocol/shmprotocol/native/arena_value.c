/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_value.c - a ledger, and a value of an arena that is held: objects of Python. See shm_arena.h.
 *
 * Letting go of a value is one store, in its deallocation: on any thread, in a destructor, at the interpreter's end. A
 * value keeps its ledger and the mapping of its arena. Neither type is tracked by the garbage collector, for the
 * reason that memory_object.c gives.
 */
#ifndef SHM_ARENA_VALUE_H
#define SHM_ARENA_VALUE_H

#include <stddef.h>
#include <stdint.h>
#include <structmember.h>

#include "shm_arena.h"

/* The ledger of a client. `holds` is that of a mapping of its own, which a forked child does not have. */
struct shm_ledger_object {
        PyObject_HEAD
        struct shm_holds holds;
        uint32_t forks; /* shm_forks when it was made */
        struct shm_kept kept;
};

/* How many forks lie between the first process and this one: getpid(2) would be a system call for each value. */
static uint32_t shm_forks;

static PyObject *shm_ledger_type; /* this and the next are set once, at the import of the module */
static PyObject *shm_held_value_type;

static void shm_note_fork(void)
{
        shm_forks++;
}

static PyObject *shm_ledger_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
        struct shm_ledger_object *ledger;
        int descriptor, error;

        if (names != NULL && PyDict_Size(names) != 0) {
                PyErr_SetString(PyExc_TypeError, "Ledger takes no names of arguments");
                return NULL;
        }
        if (!PyArg_ParseTuple(arguments, "i", &descriptor))
                return NULL;
        ledger = (struct shm_ledger_object *)PyType_GenericAlloc(type, 0);
        if (ledger == NULL)
                return NULL;
        error = shm_ledger_map(descriptor, &ledger->holds);
        if (error) {
                Py_DECREF((PyObject *)ledger);
                errno = -error;
                return PyErr_SetFromErrno(PyExc_OSError);
        }
        ledger->forks = shm_forks;
        return (PyObject *)ledger;
}

static void shm_ledger_dealloc(PyObject *self)
{
        struct shm_ledger_object *ledger = (struct shm_ledger_object *)self;
        size_t size = sizeof(struct shm_ledger) + ledger->holds.count * sizeof(struct shm_ledger_hold);

        shm_close(shm_unkeep(&ledger->kept));
        if (ledger->holds.ledger != NULL && ledger->forks == shm_forks)
                munmap(ledger->holds.ledger, size);
        shm_free(self);
}

/* _keep(home, number, descriptor): keep a copy of its descriptor for the next host; nothing if that cannot be. */
static PyObject *shm_ledger_keep(PyObject *self, PyObject *arguments)
{
        struct shm_ledger_object *ledger = (struct shm_ledger_object *)self;

        return shm_keep_for(self, &ledger->kept, SHM_KEPT_LEDGER, arguments);
}

static PyObject *shm_ledger_lend(PyObject *self, PyObject *descriptors)
{
        return shm_kept_lend(&((struct shm_ledger_object *)self)->kept, descriptors);
}

static PyObject *shm_ledger_move(PyObject *self, PyObject *home)
{
        return shm_kept_move_to(&((struct shm_ledger_object *)self)->kept, home);
}

static PyMethodDef shm_ledger_methods[] = {
        {"_keep", shm_ledger_keep, METH_VARARGS, NULL},
        {"lend", shm_ledger_lend, METH_O, NULL},
        {"move", shm_ledger_move, METH_O, NULL},
        {NULL, NULL, 0, NULL},
};

static PyType_Slot shm_ledger_slots[] = {
        {Py_tp_new, (void *)shm_ledger_new},
        {Py_tp_dealloc, (void *)shm_ledger_dealloc},
        {Py_tp_methods, (void *)shm_ledger_methods},
        {0, NULL},
};

static PyType_Spec shm_ledger_spec = {"shmprotocol.Ledger", sizeof(struct shm_ledger_object), 0, Py_TPFLAGS_DEFAULT,
                                      shm_ledger_slots};

/* A value that is held: its buffer is its bytes, read-only, which do not change while it or a view of it lives. */
struct shm_held_value {
        PyObject_HEAD
        PyObject *weak;
        PyObject *keeper; /* keeps the mapping, and the ledger of `holds` */
        void (*on_end)(PyObject *keeper); /* called in the end, before the keeper is let go; or NULL */
        struct shm_holds *holds;
        struct shm_arena_value value;
        uint32_t forks; /* shm_forks when it was made */
};

/* Make an object of a value that is held, which it owns from now on, also after an error. */
static PyObject *shm_held_value_make(PyObject *keeper, void (*on_end)(PyObject *), struct shm_holds *holds,
                                     const struct shm_arena_value *value, uint32_t forks)
{
        struct shm_held_value *held =
                (struct shm_held_value *)PyType_GenericAlloc((PyTypeObject *)shm_held_value_type, 0);

        if (held == NULL) {
                shm_arena_release(holds, value);
                return NULL;
        }
        held->keeper = Py_NewRef(keeper);
        held->on_end = on_end;
        held->holds = holds;
        held->value = *value;
        held->forks = forks;
        return (PyObject *)held;
}

static void shm_held_value_dealloc(PyObject *self)
{
        struct shm_held_value *held = (struct shm_held_value *)self;

        if (held->weak != NULL)
                PyObject_ClearWeakRefs(self);
        /* A child of a fork has no ledger: its parent holds the value, or does not any more. */
        if (held->keeper != NULL && held->forks == shm_forks)
                shm_arena_release(held->holds, &held->value);
        if (held->keeper != NULL && held->on_end != NULL)
                held->on_end(held->keeper);
        Py_XDECREF(held->keeper);
        shm_free(self);
}

static int shm_held_value_buffer(PyObject *self, Py_buffer *view, int flags)
{
        const struct shm_arena_value *value = &((struct shm_held_value *)self)->value;

        return PyBuffer_FillInfo(view, self, (void *)(uintptr_t)value->data, (Py_ssize_t)value->size, 1, flags);
}

static PyObject *shm_held_value_description(PyObject *self, void *none)
{
        const struct shm_arena_value *value = &((struct shm_held_value *)self)->value;

        (void)none;
        return PyBytes_FromStringAndSize((const char *)value->description, (Py_ssize_t)value->description_size);
}

#define SHM_VALUE_AT(field) (offsetof(struct shm_held_value, value) + offsetof(struct shm_arena_value, field))

static PyMemberDef shm_held_value_members[] = {
        {"__weaklistoffset__", T_PYSSIZET, offsetof(struct shm_held_value, weak), READONLY, NULL},
        {"address", T_ULONGLONG, SHM_VALUE_AT(data), READONLY, NULL},
        {"description_address", T_ULONGLONG, SHM_VALUE_AT(description), READONLY, NULL},
        {"size", T_ULONGLONG, SHM_VALUE_AT(size), READONLY, NULL},
        {"root", T_ULONGLONG, SHM_VALUE_AT(root), READONLY, NULL},
        {"root_size", T_ULONGLONG, SHM_VALUE_AT(root_size), READONLY, NULL},
        {"generation", T_ULONGLONG, SHM_VALUE_AT(generation), READONLY, NULL},
        {"word", T_ULONGLONG, SHM_VALUE_AT(word), READONLY, NULL},
        {"entry", T_UINT, SHM_VALUE_AT(entry), READONLY, NULL},
        {"published_ns", T_ULONGLONG, SHM_VALUE_AT(published_ns), READONLY, NULL},
        {"flags", T_UINT, SHM_VALUE_AT(flags), READONLY, NULL},
        {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef shm_held_value_getset[] = {
        {"description", shm_held_value_description, NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot shm_held_value_slots[] = {
        {Py_tp_dealloc, (void *)shm_held_value_dealloc},
        {Py_tp_members, (void *)shm_held_value_members},
        {Py_tp_getset, (void *)shm_held_value_getset},
        {Py_bf_getbuffer, (void *)shm_held_value_buffer},
        {0, NULL},
};

static PyType_Spec shm_held_value_spec = {"shmprotocol.HeldValue", sizeof(struct shm_held_value), 0,
                                          Py_TPFLAGS_DEFAULT, shm_held_value_slots};

#endif /* SHM_ARENA_VALUE_H */

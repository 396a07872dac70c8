/* SPDX-License-Identifier: Apache-2.0 */
/* arena_loan.c - a block of an arena that its owner fills in place, from Python; see arena_put.c. */
#ifndef SHM_ARENA_LOAN_H
#define SHM_ARENA_LOAN_H

#include <stdint.h>

#include "shm_arena.h"

/* A block that the owner fills in place. Its buffer can be written; it keeps the mapping. */
struct shm_loan {
        PyObject_HEAD
        PyObject *owner;
        struct shm_arena_record record;
        int is_open; /* neither published nor given up */
};

static PyObject *shm_loan_type; /* set once, at the import of the module */

/* _loan(size, description, flags, name): a block to be filled. */
static PyObject *shm_owner_loan_call(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;
        struct shm_arena_meaning meaning = {NULL, 0, 0, 0, 0};
        struct shm_loan *loan;
        uint64_t size, flags;
        Py_ssize_t length;
        char *text;

        if (shm_arguments_check("_loan", count, 4) < 0 || shm_argument(arguments, 0, &size) < 0 ||
            PyBytes_AsStringAndSize(arguments[1], &text, &length) < 0 || shm_argument(arguments, 2, &flags) < 0)
                return NULL;
        meaning.description = text;
        meaning.description_size = (uint64_t)length;
        meaning.flags = (uint32_t)flags;
        loan = (struct shm_loan *)PyType_GenericAlloc((PyTypeObject *)shm_loan_type, 0);
        if (loan == NULL)
                return NULL;
        if (!shm_owner_enter(self) || shm_owner_prepare(self, size, &meaning, arguments[3], &loan->record) != 0) {
                Py_DECREF((PyObject *)loan);
                return NULL;
        }
        loan->owner = Py_NewRef(object);
        self->reader.users++;
        loan->is_open = 1;
        return (PyObject *)loan;
}

static struct shm_owner_object *shm_loan_owner(const struct shm_loan *loan)
{
        return (struct shm_owner_object *)loan->owner;
}

/* Let a loan have `size` bytes of data, and a description behind them. Returns 0, or -1 with an exception. */
static int shm_loan_cut(struct shm_loan *loan, uint64_t size, PyObject *description)
{
        struct shm_arena_record *record = &loan->record;
        uint64_t at = (size + 7) / 8 * 8;
        Py_ssize_t length;
        char *text;

        if (PyBytes_AsStringAndSize(description, &text, &length) < 0)
                return -1;
        if (size > record->size || at > record->size || (uint64_t)length > record->size - at) {
                PyErr_SetString(PyExc_ValueError, "the description does not fit into the block");
                return -1;
        }
        memcpy((char *)shm_arena_block(shm_loan_owner(loan)->owner, record->block) + at, text, (size_t)length);
        record->size = size;
        record->description = record->block + at;
        record->description_size = (uint32_t)length;
        record->flags &= ~(uint32_t)SHM_VALUE_SHARED_DESCRIPTION;
        return 0;
}

/*
 * publish(name[, root, root_size, size, description]): the generation. With a size, only so many bytes are the data,
 * the description comes behind them, and what is left is given back. RuntimeError: it is over already.
 */
static PyObject *shm_loan_publish(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_loan *loan = (struct shm_loan *)object;
        const struct shm_arena_record before = loan->record;
        uint64_t generation, size;

        if (count != 1 && shm_arguments_check("publish", count, 5) < 0)
                return NULL;
        if (!loan->is_open) {
                PyErr_SetString(PyExc_RuntimeError, "the loan is published or given up already");
                return NULL;
        }
        if (count == 5 && (shm_argument(arguments, 1, &loan->record.root) < 0 ||
                           shm_argument(arguments, 2, &loan->record.root_size) < 0 ||
                           shm_argument(arguments, 3, &size) < 0 || shm_loan_cut(loan, size, arguments[4]) < 0)) {
                loan->record = before;
                return NULL;
        }
        loan->is_open = 0; /* also for what other threads do while the name is checked */
        generation = shm_owner_publish(shm_loan_owner(loan), arguments[0], &loan->record);
        if (generation == 0) {
                loan->record = before;
                loan->is_open = 1;
                return NULL;
        }
        if (count == 5)
                shm_heap_shrink(&shm_loan_owner(loan)->owner->heap, before.block,
                                loan->record.description + loan->record.description_size - before.block);
        return PyLong_FromUnsignedLongLong(generation);
}

/* Give the block up, unless it is published. In a child of a fork it is the parent's. */
static void shm_loan_end(struct shm_loan *loan)
{
        if (loan->is_open)
                shm_owner_settle(shm_loan_owner(loan));
        if (loan->is_open && shm_loan_owner(loan)->reader.forks == shm_forks)
                shm_arena_discard(shm_loan_owner(loan)->owner, loan->record.block);
        loan->is_open = 0;
}

static PyObject *shm_loan_discard(PyObject *object, PyObject *none)
{
        (void)none;
        shm_loan_end((struct shm_loan *)object);
        Py_RETURN_NONE;
}

static int shm_loan_buffer(PyObject *object, Py_buffer *view, int flags)
{
        const struct shm_loan *loan = (struct shm_loan *)object;

        if (shm_loan_owner(loan)->reader.forks != shm_forks) { /* it is not mapped here */
                (void)shm_reader_fail(loan->owner, -ECHILD, Py_None);
                return -1;
        }
        return PyBuffer_FillInfo(view, object, shm_arena_block(shm_loan_owner(loan)->owner, loan->record.block),
                                 (Py_ssize_t)loan->record.size, 0, flags);
}

static PyObject *shm_loan_address(PyObject *object, void *none)
{
        const struct shm_loan *loan = (struct shm_loan *)object;

        (void)none;
        return PyLong_FromVoidPtr(shm_arena_block(shm_loan_owner(loan)->owner, loan->record.block));
}

/* An arena refers to the loan in which new() places objects. Nothing to clear: the arena has a dict that is. */
static int shm_loan_traverse(PyObject *object, visitproc visit, void *arg)
{
        Py_VISIT(Py_TYPE(object));
        Py_VISIT(((struct shm_loan *)object)->owner);
        return 0;
}

static void shm_loan_dealloc(PyObject *object)
{
        struct shm_loan *loan = (struct shm_loan *)object;

        PyObject_GC_UnTrack(object);
        shm_loan_end(loan);
        if (loan->owner != NULL)
                shm_reader_unused(loan->owner);
        Py_XDECREF(loan->owner);
        shm_free(object);
}

static PyMethodDef shm_loan_methods[] = {
        {"publish", SHM_FAST(shm_loan_publish), METH_FASTCALL, NULL},
        {"discard", shm_loan_discard, METH_NOARGS, NULL},
        {NULL, NULL, 0, NULL},
};

static PyGetSetDef shm_loan_getset[] = {
        {"address", shm_loan_address, NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot shm_loan_slots[] = {
        {Py_tp_dealloc, (void *)shm_loan_dealloc},
        {Py_tp_traverse, (void *)shm_loan_traverse},
        {Py_tp_methods, (void *)shm_loan_methods},
        {Py_tp_getset, (void *)shm_loan_getset},
        {Py_bf_getbuffer, (void *)shm_loan_buffer},
        {0, NULL},
};

static PyType_Spec shm_loan_spec = {"shmprotocol.Loan", sizeof(struct shm_loan), 0,
                                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, shm_loan_slots};

#endif /* SHM_ARENA_LOAN_H */

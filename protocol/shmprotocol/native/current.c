/* SPDX-License-Identifier: Apache-2.0 */
/*
 * current.c - the base of Python's handles of regions: whether a region is current, by its line of the board. A call
 * of its methods costs 30 ns, where a method in Python and a call of a builtin cost 80.
 */
#ifndef SHM_CURRENT_H
#define SHM_CURRENT_H

#include <stdint.h>

#include "shm_board.h"

struct shm_current {
        PyObject_HEAD
        PyObject *board;       /* keeps the board mapped; NULL: there is no line to look at */
        const uint32_t *owner; /* of the board */
        const uint32_t *open;  /* not 0 as long as the client that looks is open; in memory of the board's object */
        const struct shm_board_line *line;
        uint64_t region;
        uint64_t rights;
        PyObject *memory; /* a weak reference to its mapping; this and the next are NULL or set together */
        PyObject *make;   /* makes the value again: see _make_by() */
        PyObject *before;
        PyObject *after;
};

static PyObject *shm_current_type; /* set once, at the import of the module */

/* True or False, or None: nobody knows but the host. Borrowed. */
static PyObject *shm_current_answer(const struct shm_current *current)
{
        uint64_t region;

        if (current->board == NULL || !*current->open)
                return Py_None;
        region = __atomic_load_n(&current->line->region, __ATOMIC_ACQUIRE);
        /* Looked at last: the number was loaded while the host lived. */
        if (!shm_board_word_lives(current->owner))
                return Py_None;
        return region == current->region ? Py_True : Py_False;
}

static int shm_current_has_rights(const struct shm_current *current)
{
        return __atomic_load_n(&current->line->rights, __ATOMIC_ACQUIRE) == current->rights;
}

static int shm_current_grants(const struct shm_current *current)
{
        return shm_current_answer(current) == Py_True && shm_current_has_rights(current);
}

static PyObject *shm_current_is_granted(PyObject *self, PyObject *none)
{
        const struct shm_current *current = (const struct shm_current *)self;
        PyObject *answer = shm_current_answer(current);

        (void)none;
        if (answer == Py_True && !shm_current_has_rights(current))
                answer = Py_False;
        Py_INCREF(answer);
        return answer;
}

static PyObject *shm_current_was_current(PyObject *self, PyObject *none)
{
        const struct shm_current *current = (const struct shm_current *)self;

        (void)none;
        return PyBool_FromLong(current->board != NULL &&
                               __atomic_load_n(&current->line->region, __ATOMIC_ACQUIRE) == current->region);
}

static PyObject *shm_current_is_current(PyObject *self, PyObject *none)
{
        PyObject *answer = shm_current_answer((const struct shm_current *)self);

        (void)none;
        if (answer == Py_None)
                return PyObject_CallMethod(self, "_ask_current", NULL);
        Py_INCREF(answer);
        return answer;
}

/* _follow_line(board, open, owner, line, region, rights): look at this line from now on; the addresses are in the board. */
static PyObject *shm_current_follow_line(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_current *current = (struct shm_current *)self;
        PyObject *before = current->board;
        uint64_t open, owner, line, region, rights;

        if (shm_arguments_check("_follow_line", count, 6) < 0 || shm_argument(arguments, 1, &open) < 0 ||
            shm_argument(arguments, 2, &owner) < 0 || shm_argument(arguments, 3, &line) < 0 ||
            shm_argument(arguments, 4, &region) < 0 || shm_argument(arguments, 5, &rights) < 0)
                return NULL;
        current->open = (const uint32_t *)(uintptr_t)open;
        current->owner = (const uint32_t *)(uintptr_t)owner;
        current->line = (const struct shm_board_line *)(uintptr_t)line;
        current->region = region;
        current->rights = rights;
        current->board = arguments[0];
        Py_INCREF(current->board);
        Py_XDECREF(before);
        Py_RETURN_NONE;
}

static void shm_current_forget(struct shm_current *current)
{
        Py_CLEAR(current->memory);
        Py_CLEAR(current->make);
        Py_CLEAR(current->before);
        Py_CLEAR(current->after);
}

/*
 * _make_by(memory, make, before, after): the value is make(*before, memory, *after) from now on, or, where `make` is
 * None, the slice `before` of a memoryview of the memory. `memory` is a weak reference.
 */
static PyObject *shm_current_make_by(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_current *current = (struct shm_current *)self;

        if (shm_arguments_check("_make_by", count, 4) < 0)
                return NULL;
        if (arguments[1] != Py_None && (!PyTuple_Check(arguments[2]) || !PyTuple_Check(arguments[3]))) {
                PyErr_SetString(PyExc_TypeError, "_make_by takes two tuples");
                return NULL;
        }
        shm_current_forget(current);
        current->memory = Py_NewRef(arguments[0]);
        current->make = Py_NewRef(arguments[1]);
        current->before = Py_NewRef(arguments[2]);
        current->after = Py_NewRef(arguments[3]);
        Py_RETURN_NONE;
}

/* Return (*before, memory, *after). */
static PyObject *shm_current_arguments(PyObject *before, PyObject *memory, PyObject *after)
{
        Py_ssize_t middle = PyTuple_Size(before), rest = PyTuple_Size(after), i;
        PyObject *arguments = PyTuple_New(middle + 1 + rest);

        if (arguments == NULL)
                return NULL;
        for (i = 0; i < middle; i++)
                PyTuple_SetItem(arguments, i, Py_NewRef(PyTuple_GetItem(before, i)));
        PyTuple_SetItem(arguments, middle, Py_NewRef(memory));
        for (i = 0; i < rest; i++)
                PyTuple_SetItem(arguments, middle + 1 + i, Py_NewRef(PyTuple_GetItem(after, i)));
        return arguments;
}

/* Make the value over a memory. Any Python code can run in here, also one that says another way to make it. */
static PyObject *shm_current_value(const struct shm_current *current, PyObject *memory)
{
        PyObject *make = Py_NewRef(current->make), *before = Py_NewRef(current->before);
        PyObject *after = Py_NewRef(current->after), *input, *value = NULL;

        input = make == Py_None ? PyMemoryView_FromObject(memory) : shm_current_arguments(before, memory, after);
        if (input != NULL)
                value = make == Py_None ? PyObject_GetItem(input, before) : PyObject_CallObject(make, input);
        Py_XDECREF(input);
        Py_DECREF(make);
        Py_DECREF(before);
        Py_DECREF(after);
        return value;
}

/*
 * The value of a name that is mapped and current, from a dict of the mapped ones by name. None: it is not, or not known
 * how to make it, or not certain without the host.
 */
static PyObject *shm_value_mapped(PyObject *table, PyObject *name)
{
        const struct shm_current *current;
        PyObject *found, *memory, *value;

        found = PyDict_GetItemWithError(table, name);
        if (found == NULL) {
                PyErr_Clear(); /* of a name that is not even hashable: it is refused elsewhere */
                Py_RETURN_NONE;
        }
        if (!PyObject_TypeCheck(found, (PyTypeObject *)shm_current_type))
                Py_RETURN_NONE;
        current = (const struct shm_current *)found;
        if (current->make == NULL || !shm_current_grants(current))
                Py_RETURN_NONE;
        Py_INCREF(found); /* what runs below may take it out of the table */
        memory = PyObject_CallObject(current->memory, NULL);
        value = memory == NULL || memory == Py_None ? Py_XNewRef(memory) : shm_current_value(current, memory);
        Py_XDECREF(memory);
        Py_DECREF(found);
        return value;
}

static void shm_current_dealloc(PyObject *self)
{
        PyTypeObject *type = Py_TYPE(self);
        struct shm_current *current = (struct shm_current *)self;

        shm_current_forget(current);
        Py_CLEAR(current->board);
        ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
        Py_DECREF((PyObject *)type);
}

static PyMethodDef shm_current_methods[] = {
        {"_is_granted", shm_current_is_granted, METH_NOARGS, NULL},
        {"_was_current", shm_current_was_current, METH_NOARGS, NULL},
        {"is_current", shm_current_is_current, METH_NOARGS,
         "is_current($self, /)\n--\n\n"
         "Whether this generation is still the current one of its name.\n\n"
         "Costs no round trip and no system call while the host serves: the host notes it in shared memory before it\n"
         "answers the request that changes it. Once the host is gone, the next one is asked."},
        {"_make_by", (PyCFunction)(void (*)(void))shm_current_make_by, METH_FASTCALL, NULL},
        {"_follow_line", (PyCFunction)(void (*)(void))shm_current_follow_line, METH_FASTCALL, NULL},
        {NULL, NULL, 0, NULL},
};

static PyType_Slot shm_current_slots[] = {
        {Py_tp_dealloc, (void *)shm_current_dealloc},
        {Py_tp_methods, (void *)shm_current_methods},
        {0, NULL},
};

static PyType_Spec shm_current_spec = {"shmprotocol.Current", sizeof(struct shm_current), 0,
                                       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, shm_current_slots};

#endif /* SHM_CURRENT_H */

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
        const struct shm_board_line *line;
        uint64_t region;
        uint64_t rights;
};

/* True or False, or None: nobody knows but the host. Borrowed. */
static PyObject *shm_current_answer(const struct shm_current *current)
{
        uint64_t region;

        if (current->board == NULL)
                return Py_None;
        region = __atomic_load_n(&current->line->region, __ATOMIC_ACQUIRE);
        /* Looked at last: the number was loaded while the host lived. */
        if (!shm_board_word_lives(current->owner))
                return Py_None;
        return region == current->region ? Py_True : Py_False;
}

static PyObject *shm_current_is_granted(PyObject *self, PyObject *none)
{
        const struct shm_current *current = (const struct shm_current *)self;
        PyObject *answer = shm_current_answer(current);

        (void)none;
        if (answer == Py_True && __atomic_load_n(&current->line->rights, __ATOMIC_ACQUIRE) != current->rights)
                answer = Py_False;
        Py_INCREF(answer);
        return answer;
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

/* _follow_line(board, owner, line, region, rights): look at this line from now on; the addresses are in the board. */
static PyObject *shm_current_follow_line(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_current *current = (struct shm_current *)self;
        PyObject *before = current->board;
        uint64_t owner, line, region, rights;

        if (shm_arguments_check("_follow_line", count, 5) < 0 || shm_argument(arguments, 1, &owner) < 0 ||
            shm_argument(arguments, 2, &line) < 0 || shm_argument(arguments, 3, &region) < 0 ||
            shm_argument(arguments, 4, &rights) < 0)
                return NULL;
        current->owner = (const uint32_t *)(uintptr_t)owner;
        current->line = (const struct shm_board_line *)(uintptr_t)line;
        current->region = region;
        current->rights = rights;
        current->board = arguments[0];
        Py_INCREF(current->board);
        Py_XDECREF(before);
        Py_RETURN_NONE;
}

static void shm_current_dealloc(PyObject *self)
{
        PyTypeObject *type = Py_TYPE(self);

        Py_CLEAR(((struct shm_current *)self)->board);
        ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
        Py_DECREF((PyObject *)type);
}

static PyMethodDef shm_current_methods[] = {
        {"_is_granted", shm_current_is_granted, METH_NOARGS, NULL},
        {"is_current", shm_current_is_current, METH_NOARGS,
         "is_current($self, /)\n--\n\n"
         "Whether this generation is still the current one of its name.\n\n"
         "Costs no round trip and no system call while the host serves: the host notes it in shared memory before it\n"
         "answers the request that changes it. Once the host is gone, the next one is asked."},
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

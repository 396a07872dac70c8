/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_sleep.c - a reader of Python that sleeps until a value of its arena changes; and the reader's type.
 *
 * A thread sleeps by futex_waitv on the entry's word, the arena's line of the board, the word that says whether the host
 * lives, and a word of its process. An event loop has the ledger's eventfd written instead. See shm_arena_wait.h.
 */
#ifndef SHM_ARENA_SLEEP_H
#define SHM_ARENA_SLEEP_H

#include <stdint.h>

#include "shm_arena.h"

/*
 * _start(address, home, span, size, line, region, ledger, keeper, current): read the arena that is mapped there. `line`
 * is an address on the board, or 0; `ledger` a Ledger; `keeper` what keeps all of it. Returns an errno, or 0.
 */
static PyObject *shm_reader_start(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        uint64_t numbers[6];
        int error, i;

        if (shm_arguments_check("_start", count, 9) < 0)
                return NULL;
        for (i = 0; i < 6; i++)
                if (shm_argument(arguments, i, &numbers[i]) < 0)
                        return NULL;
        if (reader->arena != NULL || !PyObject_TypeCheck(arguments[6], (PyTypeObject *)shm_ledger_type)) {
                PyErr_SetString(PyExc_TypeError, "_start takes a Ledger, once");
                return NULL;
        }
        error = shm_arena_open((const void *)(uintptr_t)numbers[0], numbers[1], numbers[2], numbers[3], &reader->own);
        if (error)
                return PyLong_FromLong(-error);
        reader->own.line = (const struct shm_board_line *)(uintptr_t)numbers[4];
        reader->own.region = numbers[5];
        reader->arena = &reader->own;
        reader->holds = &((struct shm_ledger_object *)arguments[6])->holds;
        reader->forks = ((struct shm_ledger_object *)arguments[6])->forks;
        reader->keeper = PyTuple_Pack(2, arguments[6], arguments[7]);
        reader->current = arguments[8] == Py_None ? NULL : Py_NewRef(arguments[8]);
        return reader->keeper == NULL ? NULL : PyLong_FromLong(0);
}

/* _move(line, keeper): look at another line from now on; `keeper` is as in _start(). Others may look at the one before. */
static PyObject *shm_reader_move(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        PyObject *keeper, *before = reader->keeper;
        uint64_t line;

        if (shm_arguments_check("_move", count, 2) < 0 || shm_argument(arguments, 0, &line) < 0)
                return NULL;
        if (before == NULL) {
                PyErr_SetString(PyExc_TypeError, "_move comes after _start");
                return NULL;
        }
        keeper = PyTuple_Pack(2, PyTuple_GetItem(before, 0), arguments[1]);
        if (keeper == NULL)
                return NULL;
        reader->own.line = (const struct shm_board_line *)(uintptr_t)line;
        reader->keeper = keeper;
        Py_DECREF(before);
        Py_RETURN_NONE;
}

static PyObject *shm_reader_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
        struct shm_reader *reader = (struct shm_reader *)PyType_GenericAlloc(type, 0);

        (void)arguments;
        (void)names;
        if (reader == NULL)
                return NULL;
        reader->plans = PyDict_New();
        if (reader->plans == NULL) {
                Py_DECREF((PyObject *)reader);
                return NULL;
        }
        return (PyObject *)reader;
}

/* The word for an entry, or for any change. Returns NULL with an exception: there is no such entry. */
static const uint32_t *shm_reader_word(const struct shm_reader *reader, PyObject *entry)
{
        uint64_t number;

        if (shm_reader_arena((PyObject *)(uintptr_t)reader) == NULL ||
            !shm_reader_is_here((PyObject *)(uintptr_t)reader, Py_None))
                return NULL;
        if (entry == Py_None)
                return shm_wait_word(reader->arena, NULL);
        if (shm_argument(&entry, 0, &number) < 0)
                return NULL;
        if (number >= reader->arena->entry_count) {
                PyErr_SetString(PyExc_IndexError, "there is no such entry");
                return NULL;
        }
        return shm_wait_word(reader->arena, &reader->arena->entries[number]);
}

/*
 * _sleep(entry, seen, line, changes, owner, waker, wakes, wait_ns): sleep until the low half of the entry's word, or the
 * count of all changes, is not `seen`, or the line at this address changes, or the host goes whose word `owner` is, or the
 * waker is used. `line` and `owner` may be 0. Returns 0 or an errno, as shm_board_wait() does; ENOLCK: 504 threads sleep
 * already. Other threads run meanwhile.
 */
static PyObject *shm_reader_sleep(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        struct shm_alarms alarms;
        const uint32_t *word;
        uint64_t seen, owner;

        if (shm_arguments_check("_sleep", count, 8) < 0 || shm_argument(arguments, 1, &seen) < 0 ||
            shm_argument(arguments, 2, &alarms.line) < 0 || shm_argument(arguments, 3, &alarms.line_changes) < 0 ||
            shm_argument(arguments, 4, &owner) < 0 || shm_argument(arguments, 5, &alarms.waker) < 0 ||
            shm_argument(arguments, 6, &alarms.wakes) < 0 || shm_argument(arguments, 7, &alarms.wait_ns) < 0)
                return NULL;
        word = shm_reader_word(reader, arguments[0]);
        if (word == NULL)
                return NULL;
        alarms.owner = 0;
        if (owner != 0 && !shm_alarms_hear(&alarms, (const uint32_t *)(uintptr_t)owner))
                return PyLong_FromLong(0);
        return PyLong_FromLong(shm_reader_rest(reader, word, seen, &alarms));
}

/* _arm(entry): have the ledger's eventfd written when the entry, or with None anything, changes. Returns what _disarm() takes; 0: too many are. */
static PyObject *shm_reader_arm(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        const struct shm_reader *reader = (struct shm_reader *)self;
        const uint32_t *word;

        if (shm_arguments_check("_arm", count, 1) < 0)
                return NULL;
        word = shm_reader_word(reader, arguments[0]);
        return word == NULL ? NULL
                            : PyLong_FromUnsignedLongLong((uint64_t)(uintptr_t)shm_reader_note(reader, word, 1));
}

static PyObject *shm_reader_disarm(PyObject *self, PyObject *place)
{
        const struct shm_reader *reader = (struct shm_reader *)self;
        uint64_t address, first;

        if (shm_reader_arena(self) == NULL || shm_argument(&place, 0, &address) < 0)
                return NULL;
        first = (uint64_t)(uintptr_t)reader->holds->ledger->waits;
        if (address < first || address >= first + sizeof(reader->holds->ledger->waits) || address % 8 != 0) {
                PyErr_SetString(PyExc_ValueError, "_arm() has not returned this");
                return NULL;
        }
        shm_wait_give((uint64_t *)(uintptr_t)address);
        Py_RETURN_NONE;
}

static PyMethodDef shm_reader_methods[] = {
        {"_get", SHM_FAST(shm_reader_get_call), METH_FASTCALL, NULL},
        {"_hold", shm_reader_hold_call, METH_O, NULL},
        {"_plan", SHM_FAST(shm_reader_plan), METH_FASTCALL, NULL},
        {"_entry", shm_reader_entry, METH_O, NULL},
        {"_names", shm_reader_names, METH_O, NULL},
        {"_changed", shm_reader_changed, METH_O, NULL},
        {"_counts", shm_reader_counts, METH_NOARGS, NULL},
        {"_remember_values", shm_reader_remember_call, METH_NOARGS, NULL},
        {"_start", SHM_FAST(shm_reader_start), METH_FASTCALL, NULL},
        {"_move", SHM_FAST(shm_reader_move), METH_FASTCALL, NULL},
        {"_newer", SHM_FAST(shm_reader_newer), METH_FASTCALL, NULL},
        {"_await", SHM_FAST(shm_reader_await), METH_FASTCALL, NULL},
        {"_arm_for", SHM_FAST(shm_reader_arm_for), METH_FASTCALL, NULL},
        {"_value", shm_reader_value_call, METH_O, NULL},
        {"_sleep", SHM_FAST(shm_reader_sleep), METH_FASTCALL, NULL},
        {"_arm", SHM_FAST(shm_reader_arm), METH_FASTCALL, NULL},
        {"_disarm", shm_reader_disarm, METH_O, NULL},
        {NULL, NULL, 0, NULL},
};

static PyType_Slot shm_reader_slots[] = {
        {Py_tp_new, (void *)shm_reader_new},
        {Py_tp_dealloc, (void *)shm_reader_dealloc},
        {Py_tp_methods, (void *)shm_reader_methods},
        {Py_mp_subscript, (void *)shm_reader_subscript},
        {0, NULL},
};

static PyType_Spec shm_reader_spec = {"shmprotocol.ArenaReader", sizeof(struct shm_reader), 0,
                                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, shm_reader_slots};

#endif /* SHM_ARENA_SLEEP_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_reader.c - an arena as Python reads it: names to values, without a lock or a system call. See shm_arena.h.
 *
 * A value is decoded by Python when a description comes for the first time; from then on a plan makes it: see
 * _plan(). All of it runs with the GIL but _wait().
 */
#ifndef SHM_ARENA_READER_H
#define SHM_ARENA_READER_H

#include <stdint.h>

#include "shm_arena.h"

/* The last value of an entry that was handed out. */
struct shm_value_cached {
        uint64_t word;
        PyObject *value; /* a weak reference */
        PyObject *again; /* makes the value that the caller gets, of the one that is referred to; NULL: that itself */
};

struct shm_reader {
        PyObject_HEAD
        struct shm_arena *arena; /* `own`, or the one of the arena's owner */
        struct shm_holds *holds;
        struct shm_arena own;
        PyObject *keeper; /* what keeps the mapping and the ledger: each value keeps it; NULL: the reader itself */
        PyObject *plans;  /* a dict from the address of a description to what _plan() was given */
        PyObject *current; /* a Current of the arena's region: whether it may still be read; or NULL */
        struct shm_value_cached *cached; /* an array of entry_count */
        uint64_t cached_count;
        uint32_t cached_last; /* the entry whose value was remembered last */
        uint32_t forks; /* shm_forks when it was made */
        uint64_t users; /* of an owner: values and loans that keep it */
        void (*on_idle)(PyObject *self); /* of an owner: called when the last of them has gone */
};

static PyObject *shm_reader_type;

/* Raise the error of a value by Python's part of the reader. */
static PyObject *shm_reader_fail(PyObject *self, int error, PyObject *name)
{
        PyObject *result = PyObject_CallMethod(self, "_fail", "(iO)", -error, name);

        Py_XDECREF(result);
        if (result != NULL)
                PyErr_SetString(PyExc_SystemError, "_fail() has not raised an error");
        return NULL;
}

/* The arena of a reader that was started; NULL, with an exception, of another one. */
static struct shm_arena *shm_reader_arena(PyObject *self)
{
        struct shm_arena *arena = ((struct shm_reader *)self)->arena;

        if (arena == NULL)
                (void)shm_reader_fail(self, -EBADF, Py_None);
        return arena;
}

/* One user less of an owner. */
static void shm_reader_unused(PyObject *self)
{
        struct shm_reader *reader = (struct shm_reader *)self;

        if (--reader->users == 0 && reader->on_idle != NULL)
                reader->on_idle(self);
}

static void shm_reader_forget(struct shm_value_cached *cached)
{
        Py_CLEAR(cached->value);
        Py_CLEAR(cached->again);
}

/*
 * Remember a value until the word changes, if there is memory for that. If nobody has the last one any more, it is
 * forgotten: else a reader of many names would leave a weak reference for each, and the collector would look at them.
 */
static void shm_reader_remember(struct shm_reader *reader, uint32_t entry, uint64_t word, PyObject *value,
                                PyObject *again)
{
        struct shm_value_cached *cached, *last;
        PyObject *reference;

        if (entry >= reader->cached_count)
                return;
        last = &reader->cached[reader->cached_last];
        if (last->value != NULL && PyWeakref_GetObject(last->value) == Py_None)
                shm_reader_forget(last);
        reference = PyWeakref_NewRef(value, NULL);
        if (reference == NULL) {
                PyErr_Clear();
                return;
        }
        cached = &reader->cached[entry];
        shm_reader_forget(cached);
        cached->word = word;
        cached->value = reference;
        cached->again = Py_XNewRef(again);
        reader->cached_last = entry;
}

/* The value that was handed out last for an entry, if its word is the same and it still lives; or NULL. */
static PyObject *shm_reader_again(struct shm_reader *reader, uint32_t entry)
{
        const struct shm_value_cached *cached;
        PyObject *value;

        if (entry >= reader->cached_count)
                return NULL;
        cached = &reader->cached[entry];
        if (cached->value == NULL ||
            cached->word != __atomic_load_n(&reader->arena->entries[entry].word, __ATOMIC_ACQUIRE))
                return NULL;
        value = PyWeakref_GetObject(cached->value);
        if (value == NULL || value == Py_None)
                return NULL;
        Py_INCREF(value);
        if (cached->again != NULL) {
                PyObject *again = Py_NewRef(cached->again), *other;

                other = PyObject_CallFunctionObjArgs(again, value, NULL);
                Py_DECREF(again);
                Py_DECREF(value);
                return other;
        }
        return value;
}

/* Return the value over a held one by a plan: (make, before, after, size, again). */
static PyObject *shm_reader_make(struct shm_reader *reader, PyObject *plan, struct shm_held_value *held)
{
        PyObject *make = PyTuple_GetItem(plan, 0), *again = PyTuple_GetItem(plan, 4), *input, *value, *other;

        input = shm_current_arguments(PyTuple_GetItem(plan, 1), (PyObject *)held, PyTuple_GetItem(plan, 2));
        value = input == NULL ? NULL : PyObject_CallObject(make, input);
        Py_XDECREF(input);
        if (value == NULL)
                return NULL;
        shm_reader_remember(reader, held->value.entry, held->value.word, value, again == Py_None ? NULL : again);
        if (again == Py_None)
                return value;
        other = PyObject_CallFunctionObjArgs(again, value, NULL);
        Py_DECREF(value);
        return other;
}

/* Return the value over a held one by the plan for its description; NULL without an exception: there is none. */
static PyObject *shm_reader_planned(struct shm_reader *reader, struct shm_held_value *held)
{
        PyObject *key, *plan, *value;

        if (held->value.flags != SHM_VALUE_SHARED_DESCRIPTION)
                return NULL;
        key = PyLong_FromVoidPtr((void *)(uintptr_t)held->value.description);
        plan = key == NULL ? NULL : PyDict_GetItemWithError(reader->plans, key);
        Py_XDECREF(key);
        if (plan == NULL || PyLong_AsUnsignedLongLong(PyTuple_GetItem(plan, 3)) != held->value.size)
                return NULL;
        Py_INCREF(plan);
        value = shm_reader_make(reader, plan, held);
        Py_DECREF(plan);
        return value;
}

/* Return the value over a held one. */
static PyObject *shm_reader_value(PyObject *self, struct shm_held_value *held)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        PyObject *planned, *value;

        if (held->value.description == NULL && held->value.flags == SHM_VALUE_SHARED_DESCRIPTION) {
                value = PyMemoryView_FromObject((PyObject *)held);
                if (value != NULL)
                        shm_reader_remember(reader, held->value.entry, held->value.word, value, NULL);
                return value;
        }
        value = shm_reader_planned(reader, held);
        if (value != NULL || PyErr_Occurred())
                return value;
        value = PyObject_CallMethod(self, "_decode", "(O)", (PyObject *)held);
        if (value == NULL)
                return NULL;
        planned = shm_reader_planned(reader, held); /* there may be a plan now: what it makes is remembered */
        if (planned == NULL && !PyErr_Occurred())
                return value;
        Py_DECREF(value);
        return planned;
}

/* Hold the value of an entry, found by `text`, the end of a name; NULL with no exception: it has none. */
static struct shm_held_value *shm_reader_hold_entry(PyObject *self, PyObject *name, uint32_t entry, const char *text,
                                                    Py_ssize_t size)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        struct shm_arena_value value;
        PyObject *held;
        int error;

        error = shm_arena_hold_entry(reader->arena, reader->holds, entry, text, (size_t)size, &value);
        if (error) {
                if (error != -ENOENT)
                        (void)shm_reader_fail(self, error, name);
                return NULL;
        }
        if (reader->keeper != NULL)
                return (struct shm_held_value *)shm_held_value_make(reader->keeper, NULL, reader->holds, &value,
                                                                    reader->forks);
        held = shm_held_value_make(self, shm_reader_unused, reader->holds, &value, reader->forks);
        reader->users += held != NULL;
        return (struct shm_held_value *)held;
}

/* Hold the value of a name, of which `text` is the end; NULL with no exception: there is none. */
static struct shm_held_value *shm_reader_hold(PyObject *self, PyObject *name, const char *text, Py_ssize_t size)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        uint32_t entry;
        int error = shm_arena_find(reader->arena, text, (size_t)size, &entry);

        if (!error)
                return shm_reader_hold_entry(self, name, entry, text, size);
        if (error != -ENOENT)
                (void)shm_reader_fail(self, error, name);
        return NULL;
}

/* Whether this process may use the ledger; sets an exception otherwise. */
static int shm_reader_is_here(PyObject *self, PyObject *name)
{
        if (((struct shm_reader *)self)->forks == shm_forks)
                return 1;
        (void)shm_reader_fail(self, -ECHILD, name);
        return 0;
}

/* The value of a name, of which `text` is the end; NULL with no exception: there is none. */
static PyObject *shm_reader_get(PyObject *self, PyObject *name, const char *text, Py_ssize_t size)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        struct shm_held_value *held;
        PyObject *value;
        uint32_t entry;

        if (shm_reader_arena(self) == NULL || !shm_reader_is_here(self, name) ||
            shm_arena_find(reader->arena, text, (size_t)size, &entry) != 0)
                return NULL;
        value = shm_reader_again(reader, entry);
        if (value != NULL || PyErr_Occurred())
                return value;
        held = shm_reader_hold_entry(self, name, entry, text, size);
        if (held == NULL)
                return NULL;
        value = shm_reader_value(self, held);
        Py_DECREF((PyObject *)held);
        return value;
}

/* _get(name, missing) */
static PyObject *shm_reader_get_call(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        Py_ssize_t size;
        const char *text;
        PyObject *value;

        if (shm_arguments_check("_get", count, 2) < 0)
                return NULL;
        text = PyUnicode_AsUTF8AndSize(arguments[0], &size);
        if (text == NULL)
                return NULL;
        value = shm_reader_get(self, arguments[0], text, size);
        return value != NULL || PyErr_Occurred() ? value : Py_NewRef(arguments[1]);
}

static PyObject *shm_reader_subscript(PyObject *self, PyObject *name)
{
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(name, &size);
        PyObject *value = text == NULL ? NULL : shm_reader_get(self, name, text, size);

        if (value == NULL && !PyErr_Occurred())
                PyErr_SetObject(PyExc_KeyError, name);
        return value;
}

/* _hold(name): a held value, or None. */
static PyObject *shm_reader_hold_call(PyObject *self, PyObject *name)
{
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(name, &size);
        PyObject *held;

        if (text == NULL || shm_reader_arena(self) == NULL || !shm_reader_is_here(self, name))
                return NULL;
        held = (PyObject *)shm_reader_hold(self, name, text, size);
        return held != NULL || PyErr_Occurred() ? held : Py_NewRef(Py_None);
}

/* _plan(address, plan): values with the description at this address are made by (make, before, after, size, again). */
static PyObject *shm_reader_plan(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        if (shm_arguments_check("_plan", count, 2) < 0 ||
            PyDict_SetItem(((struct shm_reader *)self)->plans, arguments[0], arguments[1]) < 0)
                return NULL;
        Py_RETURN_NONE;
}

/* _entry(name): the number of the entry of a name, and its word; None: the name never had a value. */
static PyObject *shm_reader_entry(PyObject *self, PyObject *name)
{
        struct shm_arena *arena = shm_reader_arena(self);
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(name, &size);
        uint64_t word;
        uint32_t entry;

        if (text == NULL || arena == NULL)
                return NULL;
        if (shm_arena_look(arena, text, (size_t)size, &entry, &word) != 0)
                Py_RETURN_NONE;
        return Py_BuildValue("(IK)", (unsigned int)entry, (unsigned long long)word);
}

/* _remember_values(): let the reader keep what it handed out last for each entry; after _make() or _start(). */
static PyObject *shm_reader_remember_call(PyObject *self, PyObject *none)
{
        struct shm_reader *reader = (struct shm_reader *)self;

        (void)none;
        if (reader->arena != NULL && reader->cached == NULL) {
                reader->cached = (struct shm_value_cached *)PyMem_Calloc(reader->arena->entry_count,
                                                                            sizeof(*reader->cached));
                reader->cached_count = reader->cached == NULL ? 0 : reader->arena->entry_count;
        }
        Py_RETURN_NONE;
}

static void shm_reader_dealloc(PyObject *self)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        uint64_t i;

        for (i = 0; i < reader->cached_count; i++) {
                Py_XDECREF(reader->cached[i].value);
                Py_XDECREF(reader->cached[i].again);
        }
        PyMem_Free(reader->cached);
        Py_XDECREF(reader->plans);
        Py_XDECREF(reader->current);
        Py_XDECREF(reader->keeper);
        shm_free(self);
}

#endif /* SHM_ARENA_READER_H */

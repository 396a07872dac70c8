/* SPDX-License-Identifier: Apache-2.0 */
/* arena_names.c - the names of an arena, and which of them have changed, as a reader of Python lists them. */
#ifndef SHM_ARENA_NAMES_H
#define SHM_ARENA_NAMES_H

#include <stdint.h>

#include "shm_arena.h"

/* Read the name that an entry has with this word; NULL with no exception: it changed meanwhile. */
static PyObject *shm_reader_name(struct shm_arena *arena, const struct shm_arena_entry *entry, uint64_t word)
{
        uint64_t words[SHM_NAME_ROOM / 8], at, size, i;
        const uint64_t *source = entry->inline_name;
        PyObject *name;

        at = __atomic_load_n(&entry->name, __ATOMIC_ACQUIRE);
        size = __atomic_load_n(&entry->name_size, __ATOMIC_ACQUIRE);
        if (size > (at == 0 ? sizeof(entry->inline_name) : SHM_NAME_ROOM))
                return NULL;
        if (at != 0 && (at % 8 != 0 || !shm_arena_has(arena, at, SHM_NAME_ROOM, arena->heap)))
                return NULL;
        if (at != 0)
                source = (const uint64_t *)(const void *)(arena->base + at);
        for (i = 0; i < (size + 7) / 8; i++)
                words[i] = __atomic_load_n(&source[i], __ATOMIC_ACQUIRE);
        if (__atomic_load_n(&entry->word, __ATOMIC_SEQ_CST) != word)
                return NULL;
        name = PyUnicode_DecodeUTF8((const char *)words, (Py_ssize_t)size, NULL);
        if (name == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
                PyErr_Clear(); /* nobody can have asked for it */
        return name;
}

/* _names(start): up to 1000 names from entry `start` on, and the entry to go on with; 0: there are no more. */
static PyObject *shm_reader_names(PyObject *self, PyObject *start)
{
        struct shm_arena *arena = shm_reader_arena(self);
        PyObject *names, *name;
        uint64_t used, next;
        int error = 0;

        if (arena == NULL || shm_argument(&start, 0, &next) < 0)
                return NULL;
        ((struct shm_reader *)self)->users++; /* the collector can run, and a destructor close the arena */
        names = PyList_New(0);
        used = __atomic_load_n(&shm_arena_control_of(arena)->used, __ATOMIC_ACQUIRE);
        for (; names != NULL && !error && next < used && next < arena->entry_count && PyList_Size(names) < 1000; next++) {
                uint64_t word = __atomic_load_n(&arena->entries[next].word, __ATOMIC_ACQUIRE);

                name = shm_word_present(word) ? shm_reader_name(arena, &arena->entries[next], word) : NULL;
                if (name != NULL)
                        error = PyList_Append(names, name) < 0;
                else
                        error = PyErr_Occurred() != NULL;
                Py_XDECREF(name);
        }
        if (next >= used || next >= arena->entry_count)
                next = 0;
        shm_reader_unused(self);
        if (error)
                Py_CLEAR(names);
        if (names == NULL)
                return NULL;
        return Py_BuildValue("(NK)", names, (unsigned long long)next);
}

/* Append (name, generation, is present) of an entry that changed after a generation. Returns -1 with an exception. */
static int shm_reader_note_change(struct shm_arena *arena, const struct shm_arena_entry *entry, uint64_t since,
                                  PyObject *changes)
{
        uint64_t word = __atomic_load_n(&entry->word, __ATOMIC_ACQUIRE);
        PyObject *name, *change;
        int error;

        if (word == 0 || shm_word_generation(word) <= since)
                return 0;
        name = shm_reader_name(arena, entry, word);
        if (name == NULL)
                return PyErr_Occurred() ? -1 : 0; /* it changes again, which is seen later */
        change = Py_BuildValue("(NKO)", name, (unsigned long long)shm_word_generation(word),
                               shm_word_present(word) ? Py_True : Py_False);
        error = change == NULL || PyList_Append(changes, change) < 0;
        Py_XDECREF(change);
        return error ? -1 : 0;
}

/* _changed(since): [(name, generation, is present)] of the names that changed after a generation, in no order. */
static PyObject *shm_reader_changed(PyObject *self, PyObject *since)
{
        struct shm_arena *arena = shm_reader_arena(self);
        uint64_t used, i, after;
        PyObject *changes;

        if (arena == NULL || shm_argument(&since, 0, &after) < 0)
                return NULL;
        ((struct shm_reader *)self)->users++; /* as above */
        changes = PyList_New(0);
        used = __atomic_load_n(&shm_arena_control_of(arena)->used, __ATOMIC_ACQUIRE);
        for (i = 0; changes != NULL && i < used && i < arena->entry_count; i++)
                if (shm_reader_note_change(arena, &arena->entries[i], after, changes) < 0)
                        Py_CLEAR(changes);
        shm_reader_unused(self);
        return changes;
}

/* _counts(): names, bytes of the current values, the last generation, and the count of changes. */
static PyObject *shm_reader_counts(PyObject *self, PyObject *none)
{
        const struct shm_arena *arena = shm_reader_arena(self);
        const struct shm_arena_control *control;

        (void)none;
        if (arena == NULL)
                return NULL;
        control = shm_arena_control_of(arena);
        return Py_BuildValue("(KKKI)", (unsigned long long)__atomic_load_n(&control->names, __ATOMIC_RELAXED),
                             (unsigned long long)__atomic_load_n(&control->value_bytes, __ATOMIC_RELAXED),
                             (unsigned long long)__atomic_load_n(&control->generation, __ATOMIC_RELAXED),
                             (unsigned int)__atomic_load_n(&control->changes, __ATOMIC_SEQ_CST));
}

#endif /* SHM_ARENA_NAMES_H */

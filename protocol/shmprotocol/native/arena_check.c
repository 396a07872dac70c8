/* SPDX-License-Identifier: Apache-2.0 */
/* arena_check.c - the entry of a name that the owner of an arena puts, and whether it may be a name; see arena_put.c. */
#ifndef SHM_ARENA_CHECK_H
#define SHM_ARENA_CHECK_H

#include <stdint.h>

#include "shm_arena.h"

/* Is a part of a name empty, `.` or `..`? */
static int shm_part_is_empty(const char *part, size_t size)
{
        return size == 0 || (part[0] == '.' && (size == 1 || (size == 2 && part[1] == '.')));
}

/* Is it a name for certain: printable ASCII, and no part is empty? Python judges all others. */
static int shm_name_is_plain(const char *name, size_t size)
{
        size_t start = 0;

        for (size_t i = 0; i <= size; i++) {
                if (i == size || name[i] == '/') {
                        if (shm_part_is_empty(name + start, i - start))
                                return 0;
                        start = i + 1;
                } else if (name[i] < ' ' || name[i] > '~') {
                        return 0;
                }
        }
        return 1;
}

/* Have Python check a name, which takes 5 us. Returns 0 or -1, with an exception. */
static int shm_owner_judge(struct shm_owner_object *self, PyObject *name)
{
        PyObject *checked = PyObject_CallMethod((PyObject *)self, "_check", "(O)", name);

        Py_XDECREF(checked);
        return checked == NULL ? -1 : 0;
}

/* Ask for the length of the arena's name, once. */
static void shm_owner_measure(struct shm_owner_object *self)
{
        PyObject *name = PyObject_GetAttrString((PyObject *)self, "name");

        self->name_length = name == NULL ? -1 : PyUnicode_GetLength(name);
        Py_XDECREF(name);
        if (self->name_length >= 0)
                return;
        PyErr_Clear();
        self->name_length = SHM_NAME_MAX; /* Python judges all names */
}

/* Whether a new name is one for certain, also behind that of the arena. A character has at most 4 bytes. */
static int shm_owner_accepts(const struct shm_owner_object *self, const char *text, size_t size)
{
        return (size_t)self->name_length * 4 + 1 + size <= SHM_NAME_MAX && shm_name_is_plain(text, size);
}

/* Find the entry of a name, and check a name that has none. Returns 0 or -1, with an exception. */
static int shm_owner_find(struct shm_owner_object *self, PyObject *name, const char *text, size_t size,
                          uint32_t *entry_out)
{
        if (self->name_length == 0)
                shm_owner_measure(self);
        if (!shm_owner_enter(self)) /* from here on no code of Python runs */
                return -1;
        if (shm_arena_find(&self->owner->arena, text, size, entry_out) == 0)
                return 0;
        *entry_out = SHM_ENTRY_NEW;
        if (shm_owner_accepts(self, text, size))
                return 0;
        /* But here: other threads may have published meanwhile, or closed it. */
        if (shm_owner_judge(self, name) < 0 || !shm_owner_enter(self))
                return -1;
        if (shm_arena_find(&self->owner->arena, text, size, entry_out) != 0)
                *entry_out = SHM_ENTRY_NEW;
        return 0;
}

#endif /* SHM_ARENA_CHECK_H */

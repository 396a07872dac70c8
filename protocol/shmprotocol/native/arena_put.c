/* SPDX-License-Identifier: Apache-2.0 */
/* arena_put.c - values that the owner of an arena puts from Python, and the owner's type; see arena_owner.c. */
#ifndef SHM_ARENA_PUT_H
#define SHM_ARENA_PUT_H

#include <stdint.h>

#include "shm_arena.h"

/* Take a block for a value, growing the arena if it must. Returns 0 or -errno, with an exception in the end. */
static int shm_owner_prepare(struct shm_owner_object *self, uint64_t size, const struct shm_arena_meaning *meaning,
                             PyObject *name, struct shm_arena_record *record_out)
{
        int error = shm_arena_prepare(self->owner, size, meaning, record_out);

        if (error == -ENOSPC && self->owner->arena.size < self->owner->arena.span &&
            shm_owner_talk(self, SHM_ASK_ROOM, size + meaning->description_size) == 0)
                error = shm_arena_prepare(self->owner, size, meaning, record_out);
        if (error)
                (void)shm_reader_fail((PyObject *)self, error, name);
        return error;
}

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

/* Check a name that is new in the arena. Returns 0 or -1, with an exception. Python's check takes 5 us: few need it. */
static int shm_owner_check(struct shm_owner_object *self, PyObject *name, const char *text, size_t size)
{
        PyObject *arena = PyObject_GetAttrString((PyObject *)self, "name"), *checked;
        Py_ssize_t length = arena == NULL ? -1 : PyUnicode_GetLength(arena);

        Py_XDECREF(arena);
        if (length < 0)
                return -1;
        if ((size_t)length * 4 + 1 + size <= SHM_NAME_MAX && shm_name_is_plain(text, size))
                return 0; /* a character has at most 4 bytes */
        checked = PyObject_CallMethod((PyObject *)self, "_check", "(O)", name);
        Py_XDECREF(checked);
        return checked == NULL ? -1 : 0;
}

/* Publish a record under a name. Returns the generation; 0: an exception is set, and the block is still the caller's. */
static uint64_t shm_owner_publish(struct shm_owner_object *self, PyObject *name, struct shm_arena_record *record)
{
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(name, &size);
        uint64_t generation = 0;
        uint32_t entry;
        int error;

        if (text == NULL)
                return 0;
        if (shm_arena_find(&self->owner->arena, text, (size_t)size, &entry) != 0 &&
            shm_owner_check(self, name, text, (size_t)size) < 0)
                return 0;
        if (!shm_owner_enter(self))
                return 0;
        error = shm_arena_publish(self->owner, text, (size_t)size, record, &generation);
        if (error)
                (void)shm_reader_fail((PyObject *)self, error, name);
        return generation;
}

/* Copy bytes into a block. */
static void shm_owner_copy(struct shm_arena_owner *owner, const struct shm_arena_record *record, const void *data,
                           uint64_t size)
{
        struct shm_copying copying = owner->copying; /* other threads copy as well; one of them is remembered */
        void *block = shm_arena_block(owner, record->block);

        if (size <= SHM_COPY_ALONE) {
                memcpy(block, data, size);
                return;
        }
        Py_BEGIN_ALLOW_THREADS
        shm_copy(&copying, block, data, size);
        Py_END_ALLOW_THREADS
        owner->copying = copying;
}

/* Copy bytes and publish them. Returns the generation; 0: an exception is set. */
static uint64_t shm_owner_put(struct shm_owner_object *self, PyObject *name, const void *data, uint64_t size,
                              PyObject *description)
{
        struct shm_arena_meaning meaning = {NULL, 0, 0, 0, 0};
        struct shm_arena_record record;
        uint64_t generation;
        Py_ssize_t length;
        char *text;

        if (description != NULL) {
                if (PyBytes_AsStringAndSize(description, &text, &length) < 0)
                        return 0;
                meaning.description = text;
                meaning.description_size = (uint64_t)length;
        }
        if (!shm_owner_enter(self) || shm_owner_prepare(self, size, &meaning, name, &record) != 0)
                return 0;
        self->reader.users++; /* it may be closed meanwhile, by another thread or a destructor */
        shm_owner_copy(self->owner, &record, data, size);
        generation = shm_owner_publish(self, name, &record);
        if (generation == 0) {
                shm_owner_settle(self);
                shm_arena_discard(self->owner, record.block);
        }
        shm_reader_unused((PyObject *)self);
        return generation;
}

/* Copy the bytes of an object, which is one run in memory, and publish them. */
static uint64_t shm_owner_put_buffer(struct shm_owner_object *self, PyObject *name, PyObject *object,
                                     PyObject *description)
{
        uint64_t generation;
        Py_buffer view;

        if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0)
                return 0;
        generation = shm_owner_put(self, name, view.buf, (uint64_t)view.len, description);
        PyBuffer_Release(&view);
        return generation;
}

/* The description of an array of a kind that was put before, borrowed; NULL, perhaps with an exception: there is none. */
static PyObject *shm_owner_kind(struct shm_owner_object *self, PyObject *array)
{
        PyObject *dtype = PyObject_GetAttrString(array, "dtype"), *shape, *number, *key, *description = NULL;

        if (dtype == NULL)
                return NULL;
        shape = PyObject_GetAttrString(array, "shape");
        number = shape == NULL ? NULL : PyLong_FromVoidPtr(dtype);
        key = number == NULL ? NULL : PyTuple_Pack(2, number, shape);
        if (key != NULL)
                description = PyDict_GetItemWithError(self->kinds, key);
        Py_XDECREF(key);
        Py_XDECREF(number);
        Py_XDECREF(shape);
        Py_DECREF(dtype);
        return description;
}

/* Put any value. Returns the generation; 0: an exception is set. */
static uint64_t shm_owner_put_value(struct shm_owner_object *self, PyObject *name, PyObject *value)
{
        PyObject *kind = (PyObject *)Py_TYPE(value), *description, *result;
        uint64_t generation;

        if (kind == (PyObject *)&PyBytes_Type || kind == (PyObject *)&PyByteArray_Type)
                return shm_owner_put_buffer(self, name, value, NULL);
        if (kind == self->array) {
                description = shm_owner_kind(self, value);
                if (description != NULL) {
                        Py_INCREF(description);
                        generation = shm_owner_put_buffer(self, name, value, description);
                        Py_DECREF(description);
                        /* Of the same kind, but not one run in memory. */
                        if (generation != 0 || !PyErr_ExceptionMatches(PyExc_ValueError))
                                return generation;
                        PyErr_Clear();
                } else if (PyErr_Occurred()) {
                        return 0;
                }
        }
        result = PyObject_CallMethod((PyObject *)self, "_put_other", "(OO)", name, value);
        generation = result == NULL ? 0 : (uint64_t)PyLong_AsUnsignedLongLong(result);
        Py_XDECREF(result);
        return PyErr_Occurred() ? 0 : generation;
}

static int shm_owner_remove(struct shm_owner_object *self, PyObject *name)
{
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(name, &size);

        if (text == NULL || !shm_owner_enter(self))
                return -1;
        if (shm_arena_remove(self->owner, text, (size_t)size) == 0)
                return 0;
        PyErr_SetObject(PyExc_KeyError, name);
        return -1;
}

static int shm_owner_assign(PyObject *object, PyObject *name, PyObject *value)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;

        if (value == NULL)
                return shm_owner_remove(self, name);
        return shm_owner_put_value(self, name, value) == 0 ? -1 : 0;
}

/* put(name, value): the generation. */
static PyObject *shm_owner_put_call(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
        uint64_t generation;

        if (shm_arguments_check("put", count, 2) < 0)
                return NULL;
        generation = shm_owner_put_value((struct shm_owner_object *)object, arguments[0], arguments[1]);
        return generation == 0 ? NULL : PyLong_FromUnsignedLongLong(generation);
}

/* _put_many(names, values): two lists of one length. */
static PyObject *shm_owner_put_many_call(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
        Py_ssize_t i;

        if (shm_arguments_check("_put_many", count, 2) < 0)
                return NULL;
        for (i = 0; i < PyList_Size(arguments[0]) && i < PyList_Size(arguments[1]); i++) {
                PyObject *name = Py_NewRef(PyList_GetItem(arguments[0], i));
                PyObject *value = Py_NewRef(PyList_GetItem(arguments[1], i));
                uint64_t generation = shm_owner_put_value((struct shm_owner_object *)object, name, value);

                Py_DECREF(name);
                Py_DECREF(value);
                if (generation == 0)
                        return NULL;
        }
        Py_RETURN_NONE;
}

/* _kind(key, description): arrays of this kind have this description. */
static PyObject *shm_owner_kind_call(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;

        if (shm_arguments_check("_kind", count, 3) < 0 || PyDict_SetItem(self->kinds, arguments[0], arguments[1]) < 0)
                return NULL;
        if (self->array == NULL)
                self->array = Py_NewRef(arguments[2]);
        Py_RETURN_NONE;
}

/* In arena_loan.c. */
static PyObject *shm_owner_loan_call(PyObject *object, PyObject *const *arguments, Py_ssize_t count);

static PyMethodDef shm_owner_methods[] = {
        {"_make", SHM_FAST(shm_owner_make_call), METH_FASTCALL, NULL},
        {"_ready", shm_owner_ready_call, METH_NOARGS, NULL},
        {"_grow", shm_owner_grow_call, METH_O, NULL},
        {"_close", shm_owner_close_call, METH_NOARGS, NULL},
        {"_holders", shm_owner_holders_call, METH_NOARGS, NULL},
        {"_state", shm_owner_state_call, METH_NOARGS, NULL},
        {"_put", SHM_FAST(shm_owner_put_call), METH_FASTCALL, NULL},
        {"_put_many", SHM_FAST(shm_owner_put_many_call), METH_FASTCALL, NULL},
        {"_kind", SHM_FAST(shm_owner_kind_call), METH_FASTCALL, NULL},
        {"_loan", SHM_FAST(shm_owner_loan_call), METH_FASTCALL, NULL},
        {NULL, NULL, 0, NULL},
};

static PyType_Slot shm_owner_slots[] = {
        {Py_tp_new, (void *)shm_owner_new},
        {Py_tp_dealloc, (void *)shm_owner_dealloc},
        {Py_tp_methods, (void *)shm_owner_methods},
        {Py_mp_subscript, (void *)shm_reader_subscript},
        {Py_mp_ass_subscript, (void *)shm_owner_assign},
        {0, NULL},
};

static PyType_Spec shm_owner_spec = {"shmprotocol.ArenaOwner", sizeof(struct shm_owner_object), 0,
                                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, shm_owner_slots};

#endif /* SHM_ARENA_PUT_H */

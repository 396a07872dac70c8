/* SPDX-License-Identifier: Apache-2.0 */
/* arena_put.c - values that the owner of an arena puts from Python, and the owner's type; see arena_owner.c. */
#ifndef SHM_ARENA_PUT_H
#define SHM_ARENA_PUT_H

#include <stdint.h>

#include "shm_arena.h"

/* Raise the error of a value for which there is no block of so many bytes. */
static void shm_owner_fail(struct shm_owner_object *self, int error, PyObject *name, uint64_t size)
{
        PyObject *result =
            PyObject_CallMethod((PyObject *)self, "_fail", "(iOK)", -error, name, (unsigned long long)size);

        Py_XDECREF(result);
        if (result != NULL)
                PyErr_SetString(PyExc_SystemError, "_fail() has not raised an error");
}

/* Take a block for a value, growing the arena if it must. Returns 0 or -errno, with an exception in the end. */
static int shm_owner_prepare(struct shm_owner_object *self, uint64_t size, const struct shm_arena_meaning *meaning,
                             PyObject *name, struct shm_arena_record *record_out)
{
        int error = shm_arena_prepare(self->owner, size, meaning, record_out), tries;

        for (tries = shm_owner_is_behind(self->owner) ? 2 : 1; error == -ENOSPC && tries > 0; tries--) {
                if ((self->owner->arena.size >= self->owner->arena.span && !shm_owner_is_behind(self->owner)) ||
                    shm_owner_talk(self, SHM_ASK_ROOM, size + meaning->description_size) != 0)
                        break;
                error = shm_arena_prepare(self->owner, size, meaning, record_out);
        }
        if (error)
                shm_owner_fail(self, error, name, size + meaning->description_size);
        return error;
}

/* Publish a record under a name. Returns the generation; 0: an exception is set, and the block is still the caller's. */
static uint64_t shm_owner_publish(struct shm_owner_object *self, PyObject *name, struct shm_arena_record *record)
{
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(name, &size);
        uint64_t generation = 0;
        uint32_t entry;
        int error;

        if (text == NULL || shm_owner_find(self, name, text, (size_t)size, &entry) < 0)
                return 0;
        error = shm_arena_publish_at(self->owner, entry, text, (size_t)size, record, &generation);
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

/* Whether an array is of the kind of the last one, but perhaps for its dtype. */
static int shm_kind_fits(const struct shm_owner_kind *kind, const Py_buffer *view)
{
        return kind->description != NULL && view->ndim == kind->dimensions &&
               (view->ndim == 0 || memcmp(view->shape, kind->shape, (size_t)view->ndim * sizeof(*view->shape)) == 0);
}

/* Note the kind of the last array. */
static void shm_kind_note(struct shm_owner_kind *kind, PyObject *dtype, const Py_buffer *view, PyObject *description)
{
        if (view->ndim > SHM_KIND_DIMENSIONS)
                return;
        Py_XDECREF(kind->description);
        kind->description = Py_NewRef(description);
        kind->dtype = dtype;
        kind->dimensions = view->ndim;
        if (view->ndim > 0)
                memcpy(kind->shape, view->shape, (size_t)view->ndim * sizeof(*view->shape));
}

/* The description that arrays of a dtype and a shape have, as a new reference; NULL, perhaps with an exception. */
static PyObject *shm_owner_look_up(struct shm_owner_object *self, PyObject *array, PyObject *dtype)
{
        PyObject *shape = PyObject_GetAttr(array, shm_shape_text), *number, *key, *description = NULL;

        number = shape == NULL ? NULL : PyLong_FromVoidPtr(dtype);
        key = number == NULL ? NULL : PyTuple_Pack(2, number, shape);
        if (key != NULL)
                description = Py_XNewRef(PyDict_GetItemWithError(self->kinds, key));
        Py_XDECREF(key);
        Py_XDECREF(number);
        Py_XDECREF(shape);
        return description;
}

/* The description of an array of a kind that was put before, as a new reference; NULL, perhaps with an exception. */
static PyObject *shm_owner_kind(struct shm_owner_object *self, PyObject *array, const Py_buffer *view)
{
        PyObject *dtype = PyObject_GetAttr(array, shm_dtype_text), *description;

        if (dtype == NULL)
                return NULL;
        if (dtype == self->kind.dtype && shm_kind_fits(&self->kind, view)) {
                description = Py_NewRef(self->kind.description);
        } else {
                description = shm_owner_look_up(self, array, dtype);
                if (description != NULL)
                        shm_kind_note(&self->kind, dtype, view, description);
        }
        Py_DECREF(dtype);
        return description;
}

/* Put an array of a kind that was put before. Returns the generation; 0: an exception is set, or Python must put it. */
static uint64_t shm_owner_put_array(struct shm_owner_object *self, PyObject *name, PyObject *array)
{
        PyObject *description;
        uint64_t generation = 0;
        Py_buffer view;

        if (PyObject_GetBuffer(array, &view, PyBUF_ND) < 0) {
                if (PyErr_ExceptionMatches(PyExc_ValueError)) /* it is not one run in memory, or has no such buffer */
                        PyErr_Clear();
                return 0;
        }
        description = shm_owner_kind(self, array, &view);
        if (description != NULL)
                generation = shm_owner_put(self, name, view.buf, (uint64_t)view.len, description);
        Py_XDECREF(description);
        PyBuffer_Release(&view);
        return generation;
}

/* Put any value. Returns the generation; 0: an exception is set. */
static uint64_t shm_owner_put_value(struct shm_owner_object *self, PyObject *name, PyObject *value)
{
        PyObject *kind = (PyObject *)Py_TYPE(value), *result;
        uint64_t generation;

        if (kind == (PyObject *)&PyBytes_Type || kind == (PyObject *)&PyByteArray_Type)
                return shm_owner_put_buffer(self, name, value, NULL);
        if (kind == self->array) {
                generation = shm_owner_put_array(self, name, value);
                if (generation != 0 || PyErr_Occurred())
                        return generation;
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

/* Have the caches load the entry in the first slot for a hash. */
static void shm_entry_expect(const struct shm_arena *arena, uint64_t hash)
{
        uint32_t slot = __atomic_load_n(&arena->index[hash & arena->index_mask], __ATOMIC_RELAXED), i;
        const uint8_t *entry;

        if (slot == 0 || slot > arena->entry_count)
                return;
        entry = (const uint8_t *)&arena->entries[slot - 1];
        for (i = 0; i < sizeof(arena->entries[0]); i += 64)
                __builtin_prefetch(entry + i);
}

#define SHM_MANY_AHEAD 16 /* names whose slots are on the way to the caches; a power of two */

/* Have the caches load what the index says of the names after the i-th one, which may be anything, or have gone. */
static void shm_owner_expect(const struct shm_owner_object *self, PyObject *names, Py_ssize_t i, uint64_t *hashes)
{
        const struct shm_arena *arena = self->reader.arena;
        Py_ssize_t first = i == 0 ? 1 : i + SHM_MANY_AHEAD - 1, size, at;

        if (arena == NULL || self->reader.forks != shm_forks)
                return;
        for (at = first; at < i + SHM_MANY_AHEAD && at < PyList_Size(names); at++) {
                PyObject *name = PyList_GetItem(names, at);
                const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, &size) : NULL;

                if (text == NULL)
                        PyErr_Clear(); /* refused when its turn comes */
                hashes[at % SHM_MANY_AHEAD] = text == NULL ? 0 : shm_name_hash(text, (size_t)size);
                __builtin_prefetch(&arena->index[hashes[at % SHM_MANY_AHEAD] & arena->index_mask]);
        }
        shm_entry_expect(arena, hashes[(i + SHM_MANY_AHEAD / 2) % SHM_MANY_AHEAD]);
}

/* _put_many(names, values): two lists of one length. */
static PyObject *shm_owner_put_many_call(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_owner_object *self = (struct shm_owner_object *)object;
        uint64_t hashes[SHM_MANY_AHEAD] = {0};
        Py_ssize_t i;

        if (shm_arguments_check("_put_many", count, 2) < 0)
                return NULL;
        for (i = 0; i < PyList_Size(arguments[0]) && i < PyList_Size(arguments[1]); i++) {
                PyObject *name = Py_NewRef(PyList_GetItem(arguments[0], i));
                PyObject *value = Py_NewRef(PyList_GetItem(arguments[1], i));
                uint64_t generation;

                shm_owner_expect(self, arguments[0], i, hashes);
                generation = shm_owner_put_value(self, name, value);
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
        {"_populate", SHM_FAST(shm_owner_populate_call), METH_FASTCALL, NULL},
        {"_ready", shm_owner_ready_call, METH_NOARGS, NULL},
        {"_grow", shm_owner_grow_call, METH_O, NULL},
        {"_close", shm_owner_close_call, METH_NOARGS, NULL},
        {"_keep", shm_owner_keep_call, METH_VARARGS, NULL},
        {"_holders", shm_owner_holders_call, METH_NOARGS, NULL},
        {"_state", shm_owner_state_call, METH_NOARGS, NULL},
        {"_room", shm_owner_room_call, METH_NOARGS, NULL},
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

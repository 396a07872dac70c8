/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dict_index.c - the index of a dict, for Python: builtins that check one, look a key up, and list its
 * records. An index that breaks the rules of shm_dict.h is a ValueError.
 */
#ifndef SHM_DICT_INDEX_H
#define SHM_DICT_INDEX_H

#include <stdint.h>

#include "shm_dict.h"

/* The index in a buffer, for one call. */
struct shm_dict_use {
        Py_buffer buffer;
        struct shm_dict dict;
};

static int shm_dict_error(int error)
{
        const char *text = error == -EPROTONOSUPPORT ?
                                   "the index of the dict has another version: install a later shmhost" :
                                   "the index of the dict is corrupt";

        PyErr_SetString(PyExc_ValueError, text);
        return -1;
}

/* Take the first two arguments: a buffer, and the bytes of the data. Returns -1, with an exception set, or 0. */
static int shm_dict_take(PyObject *const *arguments, struct shm_dict_use *use)
{
        uint64_t data_size;
        int error;

        if (shm_argument(arguments, 1, &data_size) < 0 ||
            PyObject_GetBuffer(arguments[0], &use->buffer, PyBUF_SIMPLE) < 0)
                return -1;
        /* There is no data here, but places in it: the caller has it. */
        error = shm_dict_check(use->buffer.buf, (uint64_t)use->buffer.len, NULL, data_size, &use->dict);
        if (!error)
                return 0;
        PyBuffer_Release(&use->buffer);
        return shm_dict_error(error);
}

static uint64_t shm_dict_offset(const struct shm_dict_value *value)
{
        return (uint64_t)(uintptr_t)value->data;
}

static PyObject *shm_dict_description(const struct shm_dict_value *value)
{
        return PyBytes_FromStringAndSize((const char *)value->description, (Py_ssize_t)value->description_size);
}

/* dict_count(index, data_size): check the index; return the number of its keys. */
static PyObject *shm_dict_count(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_dict_use use;

        (void)self;
        if (shm_arguments_check("dict_count", count, 2) < 0 || shm_dict_take(arguments, &use) < 0)
                return NULL;
        PyBuffer_Release(&use.buffer);
        return PyLong_FromUnsignedLongLong(use.dict.count);
}

/* dict_find(index, data_size, key): return offset, size and description of the value, or None. */
static PyObject *shm_dict_find_call(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_dict_use use;
        struct shm_dict_value value;
        PyObject *result = NULL;
        const char *key;
        Py_ssize_t size;
        int error;

        (void)self;
        if (shm_arguments_check("dict_find", count, 3) < 0)
                return NULL;
        key = PyUnicode_AsUTF8AndSize(arguments[2], &size);
        if (key == NULL || shm_dict_take(arguments, &use) < 0)
                return NULL;
        error = shm_dict_find(&use.dict, key, (uint64_t)size, &value);
        if (error == -ENOENT) {
                Py_INCREF(Py_None);
                result = Py_None;
        } else if (error) {
                shm_dict_error(error);
        } else {
                result = Py_BuildValue("(KKN)", shm_dict_offset(&value), value.size,
                                       shm_dict_description(&value));
        }
        PyBuffer_Release(&use.buffer);
        return result;
}

/* Append key, offset, size and description of a record; a description that `last` has is not made again. */
static int shm_dict_append(PyObject *list, const struct shm_dict_value *value, struct shm_dict_value *last,
                           PyObject **description)
{
        PyObject *key = PyUnicode_DecodeUTF8(value->key, (Py_ssize_t)value->key_size, NULL);
        PyObject *record;
        int error;

        if (*description == NULL || value->description != last->description ||
            value->description_size != last->description_size) {
                Py_XDECREF(*description);
                *description = shm_dict_description(value);
                *last = *value;
        }
        if (key == NULL || *description == NULL) {
                Py_XDECREF(key);
                return -1;
        }
        record = Py_BuildValue("(NKKO)", key, shm_dict_offset(value), value->size, *description);
        error = record == NULL ? -1 : PyList_Append(list, record);
        Py_XDECREF(record);
        return error;
}

/* dict_records(index, data_size, start, stop): return (key, offset, size, description) of these records. */
static PyObject *shm_dict_records(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_dict_value value, last = {NULL, 0, NULL, 0, NULL, 0};
        PyObject *list, *description = NULL;
        struct shm_dict_use use;
        uint64_t number, stop;
        int error = 0;

        (void)self;
        if (shm_arguments_check("dict_records", count, 4) < 0 || shm_argument(arguments, 2, &number) < 0 ||
            shm_argument(arguments, 3, &stop) < 0 || shm_dict_take(arguments, &use) < 0)
                return NULL;
        list = PyList_New(0);
        for (; list != NULL && number < stop && number < use.dict.count && !error; number++) {
                error = shm_dict_at(&use.dict, number, &value);
                if (error)
                        shm_dict_error(error);
                else
                        error = shm_dict_append(list, &value, &last, &description);
        }
        Py_XDECREF(description);
        PyBuffer_Release(&use.buffer);
        if (error)
                Py_CLEAR(list);
        return list;
}

#endif /* SHM_DICT_INDEX_H */

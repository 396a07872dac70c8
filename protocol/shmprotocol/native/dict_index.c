/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dict_index.c - the index of a dict, for Python: builtins that check one, look a key up, list its records,
 * and make one. An index that breaks the rules of shm_dict.h is a ValueError.
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

/* An index in the making: the lists with the keys and their values, and where the next text goes. */
struct shm_dict_making {
        PyObject *keys, *offsets, *sizes, *kinds, *descriptions;
        Py_ssize_t count, kind_count;
        uint64_t seed;
        uint64_t slot_count;
        uint8_t *index;
        uint64_t next;
};

/* Add up the bytes of the index. Returns -1, with an exception set, if a text has too many or is not UTF-8. */
static int shm_dict_measure(const struct shm_dict_making *making, uint64_t *size_out)
{
        uint64_t size = shm_dict_texts(making->slot_count, (uint64_t)making->count);
        Py_ssize_t i, length;

        for (i = 0; i < making->kind_count; i++) {
                length = PyBytes_Size(PyList_GetItem(making->descriptions, i));
                if (length < 0)
                        return -1;
                size += (uint64_t)length;
        }
        for (i = 0; i < making->count; i++) {
                if (PyUnicode_AsUTF8AndSize(PyList_GetItem(making->keys, i), &length) == NULL)
                        return -1;
                if (length > UINT32_MAX) {
                        PyErr_SetString(PyExc_OverflowError, "a key has 4 GiB or more");
                        return -1;
                }
                size += (uint64_t)length;
        }
        *size_out = size;
        return 0;
}

/* Append a text to the index; return its offset there. */
static uint64_t shm_dict_add_text(struct shm_dict_making *making, const char *text, Py_ssize_t size)
{
        uint64_t offset = making->next;

        memcpy(making->index + offset, text, (size_t)size);
        making->next += (uint64_t)size;
        return offset;
}

/* Put the number of a record into the first free slot. -EAGAIN: that is too far; -EEXIST: the key is there. */
static int shm_dict_add_slot(struct shm_dict_making *making, const struct shm_dict_record *record, uint32_t slot)
{
        uint8_t *slots = making->index + SHM_DICT_HEADER_SIZE;
        const uint8_t *records = making->index + shm_dict_texts(making->slot_count, 0);
        uint64_t probe;

        for (probe = 0; probe < SHM_DICT_PROBES; probe++) {
                uint64_t place = (record->hash + probe) & (making->slot_count - 1);
                struct shm_dict_record other;
                uint32_t taken;

                memcpy(&taken, slots + sizeof(taken) * place, sizeof(taken));
                if (taken == 0) {
                        memcpy(slots + sizeof(slot) * place, &slot, sizeof(slot));
                        return 0;
                }
                memcpy(&other, records + SHM_DICT_RECORD_SIZE * (uint64_t)(taken - 1), sizeof(other));
                if (other.hash == record->hash && other.key_size == record->key_size &&
                    memcmp(making->index + other.key, making->index + record->key, record->key_size) == 0)
                        return -EEXIST;
        }
        return -EAGAIN;
}

/* Write record `i`. Returns 0, -EAGAIN or -EEXIST, or -EINVAL with an exception set. */
static int shm_dict_add(struct shm_dict_making *making, Py_ssize_t i, const struct shm_dict_record *kinds)
{
        uint8_t *records = making->index + shm_dict_texts(making->slot_count, 0);
        uint64_t kind = PyLong_AsUnsignedLongLong(PyList_GetItem(making->kinds, i));
        struct shm_dict_record record;
        const char *key;
        Py_ssize_t size;

        if (kind >= (uint64_t)making->kind_count) {
                if (!PyErr_Occurred())
                        PyErr_SetString(PyExc_IndexError, "there is no such description");
                return -EINVAL;
        }
        record = kinds[kind];
        record.offset = PyLong_AsUnsignedLongLong(PyList_GetItem(making->offsets, i));
        record.size = PyLong_AsUnsignedLongLong(PyList_GetItem(making->sizes, i));
        key = PyUnicode_AsUTF8AndSize(PyList_GetItem(making->keys, i), &size);
        if (PyErr_Occurred() || key == NULL)
                return -EINVAL;
        record.hash = shm_dict_hash(making->seed, key, (uint64_t)size);
        record.key_size = (uint32_t)size;
        record.key = shm_dict_add_text(making, key, size);
        memcpy(records + SHM_DICT_RECORD_SIZE * (uint64_t)i, &record, sizeof(record));
        return shm_dict_add_slot(making, &record, (uint32_t)i + 1);
}

/* Write the index. Returns 0, -EAGAIN or -EEXIST, or -EINVAL with an exception set. */
static int shm_dict_write(struct shm_dict_making *making, uint64_t size)
{
        struct shm_dict_header header = {"SHMDICT", SHM_DICT_VERSION, 0, size, (uint64_t)making->count,
                                         making->slot_count, making->seed, {0, 0}};
        size_t kinds_size = ((size_t)making->kind_count + 1) * sizeof(struct shm_dict_record);
        struct shm_dict_record *kinds = (struct shm_dict_record *)PyMem_Malloc(kinds_size);
        Py_ssize_t i;
        int error = 0;

        if (kinds == NULL) {
                PyErr_NoMemory();
                return -EINVAL;
        }
        memset(kinds, 0, kinds_size);
        memcpy(making->index, &header, sizeof(header));
        memset(making->index + sizeof(header), 0, sizeof(uint32_t) * making->slot_count);
        making->next = shm_dict_texts(making->slot_count, (uint64_t)making->count);
        for (i = 0; i < making->kind_count; i++) {
                PyObject *description = PyList_GetItem(making->descriptions, i);

                kinds[i].description_size = (uint32_t)PyBytes_Size(description);
                kinds[i].description = shm_dict_add_text(making, PyBytes_AsString(description),
                                                         PyBytes_Size(description));
        }
        for (i = 0; i < making->count && !error; i++)
                error = shm_dict_add(making, i, kinds);
        PyMem_Free(kinds);
        return error;
}

static int shm_dict_making_start(struct shm_dict_making *making, PyObject *const *arguments)
{
        Py_ssize_t i;

        for (i = 0; i < 5; i++)
                if (!PyList_CheckExact(arguments[i])) {
                        PyErr_SetString(PyExc_TypeError, "dict_make takes five lists and a seed");
                        return -1;
                }
        making->keys = arguments[0];
        making->offsets = arguments[1];
        making->sizes = arguments[2];
        making->kinds = arguments[3];
        making->descriptions = arguments[4];
        making->count = PyList_Size(making->keys);
        making->kind_count = PyList_Size(making->descriptions);
        if (PyList_Size(making->offsets) != making->count || PyList_Size(making->sizes) != making->count ||
            PyList_Size(making->kinds) != making->count || making->count > SHM_DICT_MAX) {
                PyErr_SetString(PyExc_ValueError, "the lists of a dict have one length");
                return -1;
        }
        making->slot_count = shm_dict_slots((uint64_t)making->count);
        return shm_argument(arguments, 5, &making->seed);
}

/*
 * dict_make(keys, offsets, sizes, kinds, descriptions, seed): return an index. Lists of one length, but for the
 * descriptions, in which `kinds` are positions. None: too many keys share slots, so take another seed. KeyError:
 * two keys are the same text. UnicodeEncodeError: a key is not Unicode. No Python code runs in here.
 */
static PyObject *shm_dict_make(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_dict_making making;
        PyObject *bytes;
        uint64_t size;
        int error;

        (void)self;
        if (shm_arguments_check("dict_make", count, 6) < 0 || shm_dict_making_start(&making, arguments) < 0 ||
            shm_dict_measure(&making, &size) < 0)
                return NULL;
        bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        if (bytes == NULL)
                return NULL;
        making.index = (uint8_t *)PyBytes_AsString(bytes);
        error = shm_dict_write(&making, size);
        if (!error)
                return bytes;
        Py_DECREF(bytes);
        if (error == -EEXIST)
                PyErr_SetString(PyExc_KeyError, "two keys of the dict are the same text");
        if (error != -EAGAIN)
                return NULL;
        Py_INCREF(Py_None);
        return Py_None;
}

#endif /* SHM_DICT_INDEX_H */

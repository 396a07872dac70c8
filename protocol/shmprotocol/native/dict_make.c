/* SPDX-License-Identifier: Apache-2.0 */
/* dict_make.c - the index of a dict (shm_dict.h), made from the keys and the places of its values: see dict_index.c. */
#ifndef SHM_DICT_MAKE_H
#define SHM_DICT_MAKE_H

#include <stdint.h>

#include "shm_dict.h"

/* An index in the making: the lists with the keys and their values, and the parts of the index. */
struct shm_dict_making {
        PyObject *keys, *offsets, *sizes, *kinds, *descriptions;
        Py_ssize_t count, kind_count;
        struct shm_dict_header header;
        uint64_t lead; /* bytes of the payload before the index, if the values follow it */
        uint64_t shift; /* where the first value can be */
        uint64_t descriptions_at;
        uint64_t records_at;
        uint64_t *hashes;               /* of the keys, in their order */
        uint32_t *next;                 /* for each bucket: the unit where its next record goes */
        struct shm_dict_record *kinds_of; /* for each description: a record that has it */
        uint8_t *index;
};

static uint64_t shm_dict_round(uint64_t size)
{
        return (size + SHM_DICT_UNIT - 1) / SHM_DICT_UNIT * SHM_DICT_UNIT;
}

/* Add up the bytes of the records. Returns -1, with an exception set, if a key is not UTF-8, or too long. */
static int shm_dict_measure_keys(const struct shm_dict_making *making, uint64_t *size_out)
{
        uint64_t size = 0;
        Py_ssize_t i, length;

        for (i = 0; i < making->count; i++) {
                if (PyUnicode_AsUTF8AndSize(PyList_GetItem(making->keys, i), &length) == NULL)
                        return -1;
                if (length > UINT32_MAX) {
                        PyErr_SetString(PyExc_OverflowError, "a key has 4 GiB or more");
                        return -1;
                }
                size += shm_dict_record_size((uint64_t)length);
        }
        *size_out = size;
        return 0;
}

static int shm_dict_measure_descriptions(const struct shm_dict_making *making, uint64_t *size_out)
{
        uint64_t size = 0;
        Py_ssize_t i, length;

        for (i = 0; i < making->kind_count; i++) {
                length = PyBytes_Size(PyList_GetItem(making->descriptions, i));
                if (length < 0)
                        return -1;
                size += (uint64_t)length;
        }
        *size_out = size;
        return 0;
}

/*
 * Decide where the parts lie: descriptions that fit into a page go to the front, where each look-up comes by.
 * Returns -1, with an exception set, if a key or a description cannot be stored, or all are too many.
 */
static int shm_dict_plan(struct shm_dict_making *making)
{
        struct shm_dict_header *header = &making->header;
        uint64_t records, descriptions, end = SHM_DICT_HEADER_SIZE;

        if (shm_dict_measure_keys(making, &records) < 0 || shm_dict_measure_descriptions(making, &descriptions) < 0)
                return -1;
        header->bucket_count = 1;
        while (header->bucket_count * SHM_DICT_BUCKET < header->count)
                header->bucket_count *= 2;
        making->descriptions_at = end;
        if (descriptions <= 4096)
                end = shm_dict_round(end + descriptions);
        header->buckets = end;
        header->order = end + sizeof(uint32_t) * (header->bucket_count + 1);
        making->records_at = shm_dict_round(header->order + sizeof(uint32_t) * header->count);
        header->size = making->records_at + records;
        if (header->size / SHM_DICT_UNIT > UINT32_MAX) {
                PyErr_SetString(PyExc_OverflowError, "the index of all keys has over 32 GiB");
                return -1;
        }
        if (descriptions > 4096) {
                making->descriptions_at = header->size;
                header->size += descriptions;
        }
        if (making->lead)
                making->shift = (making->lead + header->size + 63) / 64 * 64;
        return 0;
}

/* Hash the keys, and find out where the records of each bucket start: the words of the buckets, and `next`. */
static void shm_dict_divide(struct shm_dict_making *making)
{
        uint32_t *buckets = (uint32_t *)(void *)(making->index + making->header.buckets);
        uint64_t mask = making->header.bucket_count - 1, bucket;
        Py_ssize_t i, size;

        memset(buckets, 0, sizeof(uint32_t) * (size_t)(mask + 2));
        for (i = 0; i < making->count; i++) {
                const char *key = PyUnicode_AsUTF8AndSize(PyList_GetItem(making->keys, i), &size);

                making->hashes[i] = shm_dict_hash(making->header.seed, key, (uint64_t)size);
                buckets[(making->hashes[i] & mask) + 1] +=
                        (uint32_t)(shm_dict_record_size((uint64_t)size) / SHM_DICT_UNIT);
        }
        buckets[0] = (uint32_t)(making->records_at / SHM_DICT_UNIT);
        for (bucket = 0; bucket <= mask; bucket++) {
                making->next[bucket] = buckets[bucket];
                buckets[bucket + 1] += buckets[bucket];
        }
}

/* Is there room for a record in its bucket? 0, or: -EAGAIN it has too many; -EEXIST it has this key. */
static int shm_dict_examine(const struct shm_dict_making *making, const struct shm_dict_record *record,
                            const char *key, uint64_t bucket)
{
        const uint32_t *buckets = (const uint32_t *)(const void *)(making->index + making->header.buckets);
        uint64_t place = (uint64_t)buckets[bucket] * SHM_DICT_UNIT;
        const uint64_t end = (uint64_t)making->next[bucket] * SHM_DICT_UNIT;
        int count = 0;

        for (; place < end; count++) {
                const struct shm_dict_record *other = (const struct shm_dict_record *)(const void *)(making->index + place);

                if (other->hash == record->hash && other->key_size == record->key_size &&
                    memcmp(other + 1, key, record->key_size) == 0)
                        return -EEXIST;
                place += shm_dict_record_size(other->key_size);
        }
        return count < SHM_DICT_BUCKET_MAX ? 0 : -EAGAIN;
}

/* Write record `i` into its bucket. Returns 0, -EAGAIN or -EEXIST, or -EINVAL with an exception set. */
static int shm_dict_add(struct shm_dict_making *making, Py_ssize_t i)
{
        uint32_t *order = (uint32_t *)(void *)(making->index + making->header.order);
        uint64_t kind = PyLong_AsUnsignedLongLong(PyList_GetItem(making->kinds, i));
        uint64_t bucket = making->hashes[i] & (making->header.bucket_count - 1);
        struct shm_dict_record record;
        const char *key;
        Py_ssize_t size;
        uint8_t *place;
        int error;

        if (kind >= (uint64_t)making->kind_count) {
                if (!PyErr_Occurred())
                        PyErr_SetString(PyExc_IndexError, "there is no such description");
                return -EINVAL;
        }
        key = PyUnicode_AsUTF8AndSize(PyList_GetItem(making->keys, i), &size);
        record = making->kinds_of[kind];
        record.hash = making->hashes[i];
        record.offset = PyLong_AsUnsignedLongLong(PyList_GetItem(making->offsets, i)) + making->shift;
        record.size = PyLong_AsUnsignedLongLong(PyList_GetItem(making->sizes, i));
        record.key_size = (uint32_t)size;
        if (PyErr_Occurred())
                return -EINVAL;
        error = shm_dict_examine(making, &record, key, bucket);
        if (error)
                return error;
        order[i] = making->next[bucket];
        place = making->index + (uint64_t)order[i] * SHM_DICT_UNIT;
        making->next[bucket] += (uint32_t)(shm_dict_record_size((uint64_t)size) / SHM_DICT_UNIT);
        memset(place + shm_dict_record_size((uint64_t)size) - SHM_DICT_UNIT, 0, SHM_DICT_UNIT);
        memcpy(place, &record, sizeof(record));
        memcpy(place + sizeof(record), key, (size_t)size);
        return 0;
}

static void shm_dict_write_descriptions(struct shm_dict_making *making)
{
        uint64_t end = making->descriptions_at;
        Py_ssize_t i;

        for (i = 0; i < making->kind_count; i++) {
                PyObject *description = PyList_GetItem(making->descriptions, i);
                struct shm_dict_record *record = &making->kinds_of[i];

                memset(record, 0, sizeof(*record));
                record->description = end;
                record->description_size = (uint32_t)PyBytes_Size(description);
                memcpy(making->index + end, PyBytes_AsString(description), record->description_size);
                end += record->description_size;
        }
}

/* Write the index. Returns 0, -EAGAIN or -EEXIST, or -EINVAL with an exception set. */
static int shm_dict_write(struct shm_dict_making *making)
{
        const struct shm_dict_header *header = &making->header;
        Py_ssize_t i;
        int error = 0;

        memset(making->index, 0, making->records_at); /* the gaps between the parts */
        memcpy(making->index, header, sizeof(*header));
        shm_dict_write_descriptions(making);
        shm_dict_divide(making);
        for (i = 0; i < making->count && !error; i++)
                error = shm_dict_add(making, i);
        return error;
}

/* Take the arguments. Returns -1, with an exception set, if they are not those of dict_make, below. */
static int shm_dict_making_start(struct shm_dict_making *making, PyObject *const *arguments)
{
        Py_ssize_t i;

        for (i = 0; i < 5; i++)
                if (!PyList_CheckExact(arguments[i])) {
                        PyErr_SetString(PyExc_TypeError, "dict_make takes five lists and two numbers");
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
        memcpy(making->header.magic, "SHMDICT", sizeof(making->header.magic));
        making->header.version = SHM_DICT_VERSION;
        making->header.count = (uint64_t)making->count;
        return shm_argument(arguments, 5, &making->lead) < 0 || shm_argument(arguments, 6, &making->header.seed) < 0
                       ? -1
                       : 0;
}

/* Make the index in new bytes; NULL: -EAGAIN or -EEXIST in `error_out`, or an exception. */
static PyObject *shm_dict_make_bytes(struct shm_dict_making *making, int *error_out)
{
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)making->header.size);

        making->hashes = (uint64_t *)PyMem_Malloc(sizeof(uint64_t) * ((size_t)making->count + 1));
        making->next = (uint32_t *)PyMem_Malloc(sizeof(uint32_t) * (size_t)making->header.bucket_count);
        making->kinds_of = (struct shm_dict_record *)PyMem_Malloc(sizeof(struct shm_dict_record) *
                                                                  ((size_t)making->kind_count + 1));
        if (bytes == NULL || making->hashes == NULL || making->next == NULL || making->kinds_of == NULL) {
                PyErr_NoMemory();
                *error_out = -EINVAL;
        } else {
                making->index = (uint8_t *)PyBytes_AsString(bytes);
                *error_out = shm_dict_write(making);
        }
        PyMem_Free(making->hashes);
        PyMem_Free(making->next);
        PyMem_Free(making->kinds_of);
        if (*error_out)
                Py_CLEAR(bytes);
        return bytes;
}

/*
 * dict_make(keys, offsets, sizes, kinds, descriptions, lead, seed): return an index. Lists of one length, but for the
 * descriptions, in which `kinds` are positions. With a `lead`, the bytes before the index, the data follows it at the
 * next multiple of 64, and offsets count from there. None: a bucket has too many keys, so take another seed. KeyError:
 * two keys are the same text. UnicodeEncodeError: a key is not Unicode. No Python code runs in here.
 */
static PyObject *shm_dict_make(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_dict_making making;
        PyObject *bytes;
        int error;

        (void)self;
        memset(&making, 0, sizeof(making));
        if (shm_arguments_check("dict_make", count, 7) < 0 || shm_dict_making_start(&making, arguments) < 0 ||
            shm_dict_plan(&making) < 0)
                return NULL;
        bytes = shm_dict_make_bytes(&making, &error);
        if (error == -EEXIST)
                PyErr_SetString(PyExc_KeyError, "two keys of the dict are the same text");
        if (error != -EAGAIN)
                return bytes;
        Py_INCREF(Py_None);
        return Py_None;
}

#endif /* SHM_DICT_MAKE_H */

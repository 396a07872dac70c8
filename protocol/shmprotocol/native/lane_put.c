/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane_put.c - the calls of the fast road that publish: a small value with its request, and a spare by its name. What
 * is published is mapped at its first use, see leased.c. See attach.c, which makes the trip, and lane.c.
 */
#ifndef SHM_LANE_PUT_H
#define SHM_LANE_PUT_H

#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define SHM_PUT_MAX 12288 /* bytes of a payload: SENT_MAX of putting.py, which says why */

static_assert(SHM_TRIP_SIZE >= SHM_LATE_SIZE + SHM_PUT_HEAD_MAX + SHM_PUT_MAX, "the longest put fits");

/* Write arguments as numbers, but for the one at `flag`, which is True or False; NULL: an exception is set. */
static uint8_t *shm_put_fields(uint8_t *at, PyObject *const *arguments, int count, int flag)
{
        uint64_t number;
        int i;

        for (i = 0; i < count; i++) {
                if (i == flag) {
                        *at++ = arguments[i] == Py_True ? 0xc3 : 0xc2;
                } else {
                        if (shm_argument(arguments, i, &number) < 0)
                                return NULL;
                        at = shm_put_integer(at, number);
                }
        }
        return at;
}

/* The description of plain bytes, as Python's codec packs it; returns the end. */
static uint8_t *shm_put_description(uint8_t *at, uint64_t size)
{
        static const char text[] = "\x83\xa6" "format" "\xa5" "bytes" "\xa6" "offset" "\x00\xa4" "size";

        memcpy(at, text, sizeof(text) - 1);
        return shm_put_integer(at + sizeof(text) - 1, size);
}

/* A small value as it lies in a region: data, zeros up to a multiple of 8, its description. */
struct shm_value {
        Py_buffer data;
        const uint8_t *metadata;
        size_t metadata_size;
        uint8_t description[64]; /* of bytes */
};

/* Take a value; 0: it is not one for this road; -1: an exception is set. The caller releases `data` after 1. */
static int shm_value_take(struct shm_value *value, PyObject *data, PyObject *metadata)
{
        Py_ssize_t size;
        char *text;

        if (metadata != Py_None && PyBytes_AsStringAndSize(metadata, &text, &size) < 0)
                return -1;
        if (PyObject_GetBuffer(data, &value->data, PyBUF_SIMPLE) < 0) {
                PyErr_Clear();
                return 0;
        }
        if (metadata == Py_None) {
                value->metadata = value->description;
                value->metadata_size =
                        (size_t)(shm_put_description(value->description, (uint64_t)value->data.len) - value->description);
        } else {
                value->metadata = (const uint8_t *)text;
                value->metadata_size = (size_t)size;
        }
        if (value->metadata_size <= SHM_PUT_MAX && (size_t)value->data.len <= SHM_PUT_MAX - 8 - value->metadata_size)
                return 1;
        PyBuffer_Release(&value->data);
        return 0;
}

/* Write a Put of a value behind the room for Releases; NULL: an exception is set. */
static uint8_t *shm_lane_write_put(const struct shm_lane *lane, struct shm_trip *trip, PyObject *const *arguments,
                                   const struct shm_value *value)
{
        uint8_t *start = trip->bytes + SHM_LATE_SIZE, *at;
        size_t data_size = (size_t)value->data.len, metadata = (data_size + 7) / 8 * 8;
        size_t size = metadata + value->metadata_size;
        Py_ssize_t name_size;
        const char *name = shm_name_bytes(arguments[0], &name_size);

        if (name == NULL)
                return NULL;
        at = shm_put_fields(shm_put_put(start, lane->id, name, (size_t)name_size), arguments + 1, 2, 1);
        if (at == NULL)
                return NULL;
        at = shm_put_integer(shm_put_integer(shm_put_integer(at, data_size), metadata), value->metadata_size);
        at = shm_put_bytes_head(at, size);
        memcpy(at, value->data.buf, data_size);
        memset(at + data_size, 0, metadata - data_size);
        memcpy(at + metadata, value->metadata, value->metadata_size);
        return shm_put_length(start, at + size);
}

/* Whether the arguments name, mode and replace need no word from Python's checks. */
static int shm_put_is_plain(PyObject *const *arguments)
{
        unsigned long mode = PyLong_CheckExact(arguments[1]) ? PyLong_AsUnsignedLong(arguments[1]) : 01000;

        PyErr_Clear(); /* of a negative number */
        return mode <= 0777 && (arguments[2] == Py_True || arguments[2] == Py_False);
}

/*
 * put(kind, client, name, mode, replace, data, metadata): publish a small value in one trip. `data` is bytes, or an
 * array, whose buffer runs no code of others; `metadata` describes it, None: plain bytes. Returns a handle, or False or None as `attach` does; False also for a
 * value that is too long, and for arguments that Python must check.
 */
static PyObject *shm_lane_put(PyObject *self, PyObject *const *arguments, Py_ssize_t argument_count)
{
        struct shm_lane *lane = (struct shm_lane *)self;
        struct shm_value value;
        struct shm_trip trip;
        PyObject *key, *result = NULL;
        uint8_t *end = NULL;
        int is_right;

        if (shm_arguments_check("put", argument_count, 7) < 0)
                return NULL;
        if (!PyType_Check(arguments[0])) {
                PyErr_SetString(PyExc_TypeError, "a kind is a class");
                return NULL;
        }
        if (shm_lane_check_name(lane, arguments[2]) < 0)
                return NULL;
        if (!shm_put_is_plain(arguments + 2))
                Py_RETURN_FALSE;
        is_right = shm_value_take(&value, arguments[5], arguments[6]);
        if (is_right <= 0)
                return is_right < 0 ? NULL : Py_NewRef(Py_False);
        if (!shm_lane_is_free(lane)) { /* and nothing from here to the trip lets go of the GIL */
                PyBuffer_Release(&value.data);
                Py_RETURN_FALSE;
        }
        key = shm_lane_next_id(lane);
        shm_trip_prepare(&trip, 1, 0);
        if (key != NULL)
                end = shm_lane_write_put(lane, &trip, arguments + 2, &value);
        PyBuffer_Release(&value.data);
        if (end != NULL)
                result = shm_lane_go(lane, &trip, end, arguments[0], arguments[1], arguments + 2, 1, key);
        Py_XDECREF(key);
        return result;
}

/* Write an Assign behind the room for Releases; NULL: an exception is set. From the region to the spares. */
static uint8_t *shm_lane_write_assign(const struct shm_lane *lane, struct shm_trip *trip, PyObject *const *arguments)
{
        uint8_t *start = trip->bytes + SHM_LATE_SIZE, *at;
        Py_ssize_t name_size, count = PyTuple_Size(arguments[8]), i;
        const char *name = shm_name_bytes(arguments[1], &name_size);
        uint64_t number;

        if (name == NULL || count < 0 || shm_argument(arguments, 0, &number) < 0)
                return NULL;
        at = shm_put_fields(shm_put_assign(start, lane->id, number, name, (size_t)name_size), arguments + 2, 6, 1);
        if (at == NULL)
                return NULL;
        at = shm_put_array(at, (uint32_t)count);
        for (i = 0; i < count; i++) {
                PyObject *size = PyTuple_GetItem(arguments[8], i);

                if (size == NULL || shm_argument(&size, 0, &number) < 0)
                        return NULL;
                at = shm_put_integer(at, number);
        }
        return shm_put_length(start, at);
}

/* Pass the descriptors of the spares on to a list; return what they are. NULL: the rest of them are closed. */
static PyObject *shm_trip_spares(struct shm_trip *trip, PyObject *owned)
{
        PyObject *spares = PyList_New(0);
        uint32_t i;

        for (i = 0; i < trip->opened.spare_count; i++) {
                const struct shm_spare *spare = &trip->opened.spares[i];
                int fd = trip->fds[trip->opened.count + i];
                PyObject *number = PyLong_FromLong(fd), *item;

                item = Py_BuildValue("(KKK)", (unsigned long long)spare->region, (unsigned long long)spare->address,
                                     (unsigned long long)spare->capacity);
                if (spares == NULL || number == NULL || item == NULL || PyList_Append(owned, number) < 0) {
                        (void)close(fd);
                        Py_CLEAR(spares);
                } else if (PyList_Append(spares, item) < 0) {
                        Py_CLEAR(spares);
                }
                Py_XDECREF(number);
                Py_XDECREF(item);
        }
        return spares;
}

/*
 * assign(kind, client, owned, region, name, mode, replace, size, data_size, metadata, metadata_size, spares): name and
 * publish a spare in one trip. Returns a handle and a list of the spares that came, whose descriptors are
 * in the list `owned`; or False or None as `attach` does.
 */
static PyObject *shm_lane_assign(PyObject *self, PyObject *const *arguments, Py_ssize_t argument_count)
{
        struct shm_lane *lane = (struct shm_lane *)self;
        struct shm_trip trip;
        PyObject *key, *result = NULL, *spares;
        uint8_t *end;

        if (shm_arguments_check("assign", argument_count, 12) < 0)
                return NULL;
        if (!PyType_Check(arguments[0]) || !PyList_Check(arguments[2]) || !PyTuple_CheckExact(arguments[11])) {
                PyErr_SetString(PyExc_TypeError, "a kind is a class, `owned` a list, and `spares` a tuple");
                return NULL;
        }
        if (shm_lane_check_name(lane, arguments[4]) < 0)
                return NULL;
        if (PyTuple_Size(arguments[11]) > SHM_FRAME_NAMES_MAX ||
            !shm_lane_is_free(lane)) /* and nothing from here to the trip lets go of the GIL */
                Py_RETURN_FALSE;
        key = shm_lane_next_id(lane);
        if (key == NULL)
                return NULL;
        shm_trip_prepare(&trip, 1, SHM_FRAME_NAMES_MAX - 1);
        end = shm_lane_write_assign(lane, &trip, arguments + 3);
        if (end != NULL)
                result = shm_lane_go(lane, &trip, end, arguments[0], arguments[1], arguments + 4, 1, key);
        Py_DECREF(key);
        while (result == NULL && trip.descriptors > 1) /* no memory for the handle, which had the first one */
                (void)close(trip.fds[--trip.descriptors]);
        if (result == NULL || result == Py_False || result == Py_None)
                return result;
        spares = shm_trip_spares(&trip, arguments[2]);
        if (spares != NULL)
                return Py_BuildValue("(NN)", result, spares);
        Py_DECREF(result);
        return NULL;
}

#endif /* SHM_LANE_PUT_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane_put.c - the calls of the fast road that publish: a small value with its request, and a spare by its name. What
 * is published comes back mapped, as an attach would have it. See attach.c, which makes the trip, and lane.c.
 */
#ifndef SHM_LANE_PUT_H
#define SHM_LANE_PUT_H

#include <stdint.h>
#include <unistd.h>

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

/* Write a Put behind the room for Releases; NULL: an exception is set. The payload fits. */
static uint8_t *shm_lane_write_put(const struct shm_lane *lane, struct shm_trip *trip, PyObject *const *arguments)
{
        uint8_t *start = trip->bytes + SHM_LATE_SIZE, *at;
        Py_ssize_t name_size, size;
        const char *name = shm_name_bytes(arguments[0], &name_size);
        char *payload;

        if (name == NULL || PyBytes_AsStringAndSize(arguments[6], &payload, &size) < 0)
                return NULL;
        at = shm_put_fields(shm_put_put(start, lane->id, name, (size_t)name_size), arguments + 1, 5, 1);
        return at == NULL ? NULL : shm_put_length(start, shm_put_bytes(at, payload, (size_t)size));
}

/*
 * put(kind, client, name, mode, replace, data_size, metadata, metadata_size, payload): publish a small value in one
 * trip, and map it. Returns a handle, or False or None as `attach` does; False also for a payload that is too long.
 */
static PyObject *shm_lane_put(PyObject *self, PyObject *const *arguments, Py_ssize_t argument_count)
{
        struct shm_lane *lane = (struct shm_lane *)self;
        struct shm_trip trip;
        PyObject *key, *result = NULL;
        uint8_t *end;

        if (shm_arguments_check("put", argument_count, 9) < 0)
                return NULL;
        if (!PyType_Check(arguments[0]) || !PyBytes_Check(arguments[8])) {
                PyErr_SetString(PyExc_TypeError, "a kind is a class, and a payload is bytes");
                return NULL;
        }
        if (shm_lane_check_name(lane, arguments[2]) < 0)
                return NULL;
        if (PyBytes_Size(arguments[8]) > SHM_TRIP_SIZE - SHM_LATE_SIZE - SHM_PUT_HEAD_MAX ||
            !shm_lane_is_free(lane)) /* and nothing from here to the trip lets go of the GIL */
                Py_RETURN_FALSE;
        key = shm_lane_next_id(lane);
        if (key == NULL)
                return NULL;
        shm_trip_prepare(&trip, 1, 0);
        end = shm_lane_write_put(lane, &trip, arguments + 2);
        if (end != NULL)
                result = shm_lane_go(lane, &trip, end, arguments[0], arguments[1], arguments + 2, 1, key);
        Py_DECREF(key);
        return shm_lane_first(result);
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
 * publish a spare in one trip, and map it. Returns a handle and a list of the spares that came, whose descriptors are
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
        if (result == NULL || !PyList_Check(result))
                return result;
        result = shm_lane_first(result);
        spares = shm_trip_spares(&trip, arguments[2]);
        if (result != NULL && spares != NULL)
                return Py_BuildValue("(NN)", result, spares);
        Py_XDECREF(result);
        Py_XDECREF(spares);
        return NULL;
}

#endif /* SHM_LANE_PUT_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach.c - the call of the fast road, from names to handles: what it does with Python's objects around a trip. It
 * gives the GIL up for the trip and for mapping alone. See lane.c.
 */
#ifndef SHM_ATTACH_H
#define SHM_ATTACH_H

#include <errno.h>
#include <stdint.h>

#define SHM_NAMES_KNOWN 4096 /* names that were checked, of one connection: as many as Python's own cache has */

/* Put what was received into the reading, in the form of socket.recvmsg(), so that it owns the descriptors. */
static int shm_lane_hand_over(struct shm_lane *lane, struct shm_trip *trip)
{
        Py_ssize_t size = trip->size > 0 ? (Py_ssize_t)trip->size : 0; /* an error is the end, as no bytes are */
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)trip->bytes, size), *fds = NULL, *received;
        int error;

        if (trip->descriptors)
                fds = PyBytes_FromStringAndSize((const char *)trip->fds, (Py_ssize_t)(trip->descriptors * sizeof(int)));
        if (trip->descriptors) /* NULL is an error to it */
                received = Py_BuildValue("(N[(iiN)]iO)", bytes, SOL_SOCKET, SCM_RIGHTS, fds, trip->flags, Py_None);
        else
                received = Py_BuildValue("(N[]iO)", bytes, trip->flags, Py_None);
        error = received == NULL || PyList_Append(lane->reading, received) < 0;
        Py_XDECREF(received);
        if (!error)
                trip->descriptors = 0;
        return error ? -1 : 0;
}

/* Whether a request may go now, on this road. */
static int shm_lane_is_free(const struct shm_lane *lane)
{
        return lane->is_open && lane->is_ready && lane->unfinished == 0 && lane->reader == 0 && lane->pending != NULL &&
               lane->reading != NULL && PyList_Check(lane->reading) && PyList_Size(lane->reading) == 0 &&
               lane->host_id != NULL && PyObject_Size(lane->unsent) == 0;
}

/* Check a name, which is then known; -1, with an exception set, if it is none. */
static int shm_lane_check_name(const struct shm_lane *lane, PyObject *name)
{
        PyObject *result;

        if (PyUnicode_CheckExact(name) && PyDict_GetItemWithError(lane->names, name) != NULL)
                return 0;
        if (PyErr_Occurred())
                return -1;
        result = shm_call(lane->check_name, name);
        if (result == NULL)
                return -1;
        Py_DECREF(result);
        if (PyDict_Size(lane->names) >= SHM_NAMES_KNOWN)
                PyDict_Clear(lane->names);
        return PyDict_SetItem(lane->names, name, Py_None);
}

/* The bytes of a name that was checked, 1 to 255; NULL: an exception is set. */
static const char *shm_name_bytes(PyObject *name, Py_ssize_t *size_out)
{
        const char *text = PyUnicode_AsUTF8AndSize(name, size_out);

        if (text != NULL && *size_out > SHM_NAME_MAX) {
                PyErr_SetString(PyExc_ValueError, "a name is longer than was checked");
                return NULL;
        }
        return text;
}

/* Take the id of the next request; return it as an object, or NULL with an exception set. */
static PyObject *shm_lane_next_id(struct shm_lane *lane)
{
        PyObject *key = PyIter_Next(lane->ids);

        if (key == NULL)
                return NULL;
        lane->id = PyLong_AsUnsignedLongLong(key);
        if (PyErr_Occurred())
                Py_CLEAR(key);
        return key;
}

/* Write the names; return the end, or NULL with an exception set. */
static uint8_t *shm_lane_write_names(PyObject *const *names, uint32_t count, uint8_t *at)
{
        uint32_t i;

        for (i = 0; i < count; i++) {
                Py_ssize_t size;
                const char *text = shm_name_bytes(names[i], &size);

                if (text == NULL)
                        return NULL;
                at = shm_put_string(at, text, (size_t)size);
        }
        return at;
}

/* Have Python send bytes that could not go by this road. */
static void shm_lane_queue(struct shm_lane *lane, const uint8_t *bytes, size_t size)
{
        PyObject *frames, *result;

        frames = lane->unsent != NULL ? PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size) : NULL;
        result = frames == NULL ? NULL : PyObject_CallMethod(lane->unsent, "append", "(O)", frames);
        Py_XDECREF(frames);
        Py_XDECREF(result);
        PyErr_Clear();
}

/* Leave the system call; the last one to leave closes a socket that had to wait for that. */
static void shm_lane_leave(struct shm_lane *lane)
{
        if (!lane->is_open)
                shm_tell(lane->leave, Py_True);
        else if (PySet_Discard(lane->users, Py_True) < 0)
                PyErr_Clear();
}

/*
 * Make the trip with the request noted as pending, the turn to read taken, and the socket kept open. The request lies
 * behind the room for Releases, up to its end.
 */
static int shm_lane_travel(struct shm_lane *lane, struct shm_trip *trip, uint8_t *end, uint32_t count, PyObject *key)
{
        uint8_t *request = trip->bytes + SHM_LATE_SIZE, *start;

        if (PySet_Add(lane->users, Py_True) < 0)
                return -1;
        if (PyDict_SetItem(lane->pendings, key, lane->pending) < 0) {
                shm_lane_leave(lane);
                return -1;
        }
        start = shm_late_take(&lane->late, request);
        trip->fd = lane->late.fd;
        lane->reader = PyThread_get_thread_ident();
        Py_BEGIN_ALLOW_THREADS
        lane->began_ns = shm_now_ns();
        shm_trip_make(trip, start, (size_t)(end - start), lane->id, count, lane->fields);
        Py_END_ALLOW_THREADS
        if (!trip->is_sent && start != request)
                shm_lane_queue(lane, start, (size_t)(request - start));
        shm_lane_leave(lane);
        return 0;
}

/* Take the request back that was noted, and give the turn up. */
static void shm_lane_arrive(struct shm_lane *lane, PyObject *key)
{
        if (PyDict_GetItemWithError(lane->pendings, key) == lane->pending)
                (void)PyDict_DelItem(lane->pendings, key);
        PyErr_Clear();
        lane->reader = 0;
}

static void shm_trip_prepare(struct shm_trip *trip, int is_put, uint32_t spares_max)
{
        trip->error = trip->is_sent = trip->is_good = trip->flags = 0;
        trip->is_put = is_put;
        trip->spares_max = spares_max;
        trip->descriptors = 0;
        trip->size = 0;
}

/* Whether the grants have the names that were asked for: that of an arena has not, if a name in it was. */
static int shm_trip_is_of(const struct shm_trip *trip, PyObject *const *names)
{
        uint32_t i;

        for (i = 0; i < trip->opened.count; i++) {
                const struct shm_granted *granted = &trip->opened.grants[i];
                Py_ssize_t size;
                const char *text = shm_name_bytes(names[i], &size);

                if (text == NULL || (uint64_t)size != granted->name_size || memcmp(text, granted->name, (size_t)size) != 0)
                        return 0;
        }
        return 1;
}

/* Make a trip for these names, and its regions into handles; `key` is the request's id. See the methods. */
static PyObject *shm_lane_go(struct shm_lane *lane, struct shm_trip *trip, uint8_t *end, PyObject *kind,
                             PyObject *client, PyObject *const *names, uint32_t count, PyObject *key)
{
        struct shm_haul haul;
        PyObject *result = NULL;
        int is_taken = 0;

        if (shm_lane_travel(lane, trip, end, count, key) < 0)
                return NULL;
        if (!trip->is_sent) {
                shm_lane_arrive(lane, key);
                Py_RETURN_FALSE;
        }
        if (trip->is_good && shm_trip_is_of(trip, names)) {
                if (trip->is_put)
                        result = shm_leased_handle(lane, trip, kind, client, key);
                is_taken = result != NULL || (!trip->is_put && !shm_haul_take(&haul, lane, trip, key));
        }
        if (is_taken) {
                shm_lane_arrive(lane, key);
                return trip->is_put ? result : shm_lane_results(lane, kind, client, &haul);
        }
        PyErr_Clear();
        lane->unfinished = PyThread_get_thread_ident();
        if (trip->error == -EINTR || trip->error == -EAGAIN || !shm_lane_hand_over(lane, trip))
                Py_RETURN_NONE;
        lane->is_lost = 1;
        shm_trip_close(trip);
        return NULL;
}

/* Attach regions in one trip. */
static PyObject *shm_lane_open(struct shm_lane *lane, PyObject *kind, PyObject *client, PyObject *const *names,
                               uint32_t count, PyObject *key)
{
        struct shm_trip trip;
        uint8_t *start = trip.bytes + SHM_LATE_SIZE, *end;

        shm_trip_prepare(&trip, 0, 0);
        end = shm_lane_write_names(names, count, shm_put_open(start, lane->id, count));
        if (end == NULL)
                return NULL;
        return shm_lane_go(lane, &trip, shm_put_open_end(start, end), kind, client, names, count, key);
}

/* The first result of a list, which is given up for it; anything else as it is. */
static PyObject *shm_lane_first(PyObject *result)
{
        PyObject *first;

        if (result == NULL || !PyList_Check(result))
                return result;
        first = PyList_GetItem(result, 0);
        Py_XINCREF(first);
        Py_DECREF(result);
        return first;
}

/*
 * attach(kind, client, names): open the regions of a tuple of 1 to 64 names, and map them. Returns a list with a handle
 * of class `kind` for each, or with (grant, memory) if that is None; a name alone gives no list.
 * False: nothing was sent. None: the request `id` was sent and is in `pendings` as `pending`, and what was received is
 * in `reading`; this thread still has the turn to read, and `renew` comes when both have an owner.
 */
static PyObject *shm_lane_attach(PyObject *self, PyObject *const *arguments, Py_ssize_t argument_count)
{
        struct shm_lane *lane = (struct shm_lane *)self;
        PyObject *names[SHM_FRAME_NAMES_MAX], *key, *result;
        Py_ssize_t count = 1, i;
        int is_many;

        if (shm_arguments_check("attach", argument_count, 3) < 0)
                return NULL;
        if (arguments[0] != Py_None && !PyType_Check(arguments[0])) {
                PyErr_SetString(PyExc_TypeError, "a kind is a class or None");
                return NULL;
        }
        is_many = PyTuple_CheckExact(arguments[2]);
        if (is_many)
                count = PyTuple_Size(arguments[2]);
        if (count < 1 || count > SHM_FRAME_NAMES_MAX)
                Py_RETURN_FALSE;
        for (i = 0; i < count; i++) {
                names[i] = is_many ? PyTuple_GetItem(arguments[2], i) : arguments[2];
                if (shm_lane_check_name(lane, names[i]) < 0)
                        return NULL;
        }
        if (!shm_lane_is_free(lane)) /* and nothing from here to the trip lets go of the GIL */
                Py_RETURN_FALSE;
        key = shm_lane_next_id(lane);
        if (key == NULL)
                return NULL;
        result = shm_lane_open(lane, arguments[0], arguments[1], names, (uint32_t)count, key);
        Py_DECREF(key);
        return is_many ? result : shm_lane_first(result);
}

#endif /* SHM_ATTACH_H */

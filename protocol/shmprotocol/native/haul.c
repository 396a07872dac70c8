/* SPDX-License-Identifier: Apache-2.0 */
/*
 * haul.c - the regions that a good answer grants: entered into the books, mapped, and made into what the caller gets;
 * and the state of the connection that they belong to, which takes their leases back. See lane.c.
 */
#ifndef SHM_HAUL_H
#define SHM_HAUL_H

#include <stdint.h>
#include <unistd.h>

struct shm_lane {
        PyObject_HEAD
        struct shm_late late;
        struct shm_space *space;
        PyObject *pendings;   /* dict: requests in flight by id */
        PyObject *users;      /* set: callers in a system call, which keep the socket open */
        PyObject *unsent;     /* deque of frames */
        PyObject *ids;        /* iterator of request ids */
        PyObject *holds;      /* dict: leases that keep the connection */
        PyObject *items;      /* deque: the queue of the outbox's gate, the plain road for a lease */
        PyObject *drain;      /* handles it, if the gate is free */
        PyObject *leave;      /* takes a user out of `users` and closes what had to wait for it */
        PyObject *grant;      /* class of grants, a named tuple */
        PyObject *check_name; /* raises for a wrong name */
        PyObject *names;      /* dict: names that are right */
        PyObject *host_id;
        struct shm_home *home; /* which keeps the descriptors of regions; NULL: none does */
        PyObject *outbox;  /* of Python: for what goes back to its road */
        PyObject *pending; /* of the next request; when a call returns None, of that one */
        PyObject *reading; /* list that owns what was received; empty but when a call has returned None */
        unsigned long reader; /* the thread that reads the socket, 0 for none; changes with the GIL */
        /* The thread whose request was sent, and whose answer has no owner but this; 0 for none. */
        unsigned long unfinished;
        unsigned long long id;
        unsigned long long began_ns; /* of the last request, CLOCK_MONOTONIC */
        uint32_t fields;             /* of a grant */
        char is_open;                /* false: the connection takes no more requests */
        char is_ready;               /* false: the exchange has half a frame, or has failed */
        char is_lost;                /* what was received: nobody could make sense of what follows */
        char is_detached;            /* this is the child of a fork, the connection its parent's */
};

static PyObject *shm_text_grant, *shm_text_held, *shm_text_host_id, *shm_text_client, *shm_no_arguments; /* see install */

/* --- the release of a lease */

/* Have the outbox give a lease back: it can keep what the socket does not take, and close that after the last. */
static void shm_lane_submit(struct shm_lane *lane, PyObject *key)
{
        PyObject *item = PyTuple_Pack(2, key, Py_True);

        if (item == NULL) {
                PyErr_Clear();
                return;
        }
        shm_submit(lane->items, item);
        Py_DECREF(item);
        shm_tell_drain(lane->drain);
}

static void shm_lane_give_back(struct shm_lane *lane, uint64_t lease)
{
        uint8_t frame[SHM_RELEASE_MAX];
        PyObject *key;

        if (lane->is_detached)
                return;
        key = PyLong_FromUnsignedLongLong(lease);
        if (key == NULL) {
                PyErr_Clear(); /* no memory: the lease ends with the connection */
                return;
        }
        if (!lane->is_open) {
                shm_lane_submit(lane, key);
        } else if (PyDict_DelItem(lane->holds, key) < 0) {
                PyErr_Clear(); /* given back before */
        } else if (shm_late_release(&lane->late, frame, (size_t)(shm_put_release(frame, lease) - frame))) {
                if (PyDict_SetItem(lane->holds, key, Py_None) < 0)
                        PyErr_Clear();
                shm_lane_submit(lane, key); /* the socket is full: it has a queue */
        }
        Py_DECREF(key);
}

/* The grant as Python's named tuple. */
static PyObject *shm_lane_grant(const struct shm_lane *lane, const struct shm_granted *granted)
{
        newfunc make = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
        PyObject *fields = PyTuple_New((Py_ssize_t)lane->fields), *arguments, *item, *result = NULL;
        uint32_t field, number = 0;

        if (fields == NULL)
                return NULL;
        for (field = 0; field < lane->fields; field++) {
                if (field == SHM_GRANT_NAME)
                        item = PyUnicode_DecodeUTF8(granted->name, (Py_ssize_t)granted->name_size, NULL);
                else
                        item = PyLong_FromUnsignedLongLong(granted->numbers[number++]);
                if (item == NULL || PyTuple_SetItem(fields, (Py_ssize_t)field, item) < 0) {
                        Py_DECREF(fields);
                        return NULL;
                }
        }
        arguments = PyTuple_Pack(1, fields);
        Py_DECREF(fields);
        if (arguments != NULL)
                result = make((PyTypeObject *)lane->grant, arguments, NULL);
        Py_XDECREF(arguments);
        return result;
}

/* A holding that is not mapped yet, of a grant in both its forms. */
static struct shm_holding *shm_holding_new(struct shm_lane *lane, const struct shm_granted *granted, PyObject *grant)
{
        struct shm_holding *holding =
                (struct shm_holding *)PyType_GenericAlloc((PyTypeObject *)shm_holding_type, 0);

        if (holding == NULL)
                return NULL;
        Py_INCREF((PyObject *)lane->space);
        Py_INCREF((PyObject *)lane);
        holding->space = lane->space;
        holding->lane = lane;
        holding->address = granted->numbers[SHM_ADDRESS];
        holding->capacity = granted->numbers[SHM_CAPACITY];
        holding->lease = granted->numbers[SHM_LEASE];
        holding->grant = Py_NewRef(grant);
        return holding;
}

static struct shm_holding *shm_lane_holding(struct shm_lane *lane, const struct shm_granted *granted)
{
        PyObject *grant = shm_lane_grant(lane, granted);
        struct shm_holding *holding = grant == NULL ? NULL : shm_holding_new(lane, granted, grant);

        Py_XDECREF(grant);
        return holding;
}

/* Enter a holding into the books, if its addresses are free and reserved. -1: they are not, or an error. */
static int shm_holding_enter(struct shm_holding *holding, PyObject *interval)
{
        struct shm_space *space = holding->space;

        if (!holding->address || !holding->capacity || !shm_space_is_reserved(space, holding->address, holding->capacity) ||
            !shm_space_is_free(space, holding->address, holding->capacity))
                return -1;
        return shm_space_put(space, holding->address, interval, 1);
}

/* Keep the descriptor of a holding that is live; whether it is kept. */
static int shm_holding_keep(struct shm_holding *holding, int fd)
{
        PyObject *number = PyTuple_GetItem(holding->grant, 1);

        return holding->is_live && holding->lane->home != NULL &&
               shm_keep(holding->lane->home, &holding->kept, (PyObject *)holding,
                        (uint64_t)PyLong_AsUnsignedLongLong(number), fd);
}

/* The memory of a holding as an object, which owns it from then on. */
static PyObject *shm_holding_memory(const struct shm_holding *holding)
{
        return shm_memory_make(holding->address, holding->capacity, 0, (uint64_t)(uintptr_t)holding);
}

/* The regions of a trip so far. `memories` own the holdings. */
struct shm_haul {
        uint32_t count;
        uint32_t entered;
        uint32_t mapped;
        struct shm_holding *holdings[SHM_FRAME_NAMES_MAX]; /* borrowed */
        PyObject *intervals[SHM_FRAME_NAMES_MAX];
        PyObject *memories[SHM_FRAME_NAMES_MAX];
        int fds[SHM_FRAME_NAMES_MAX]; /* the trip's */
        const struct shm_granted *grants; /* likewise */
};

/* Make the objects of all regions of an answer; -1: an error. The garbage collector can run any code in here. */
static int shm_haul_make(struct shm_haul *haul, struct shm_lane *lane, const struct shm_trip *trip)
{
        struct shm_holding *holding;
        uint32_t i;

        haul->count = haul->entered = haul->mapped = 0;
        haul->grants = trip->opened.grants;
        for (i = 0; i < trip->opened.count; i++) {
                holding = shm_lane_holding(lane, &trip->opened.grants[i]);
                if (holding == NULL)
                        return -1;
                haul->fds[i] = trip->fds[i];
                haul->holdings[i] = holding;
                haul->intervals[i] =
                        shm_space_make(lane->space, holding->address, holding->capacity, (PyObject *)holding);
                haul->memories[i] = haul->intervals[i] == NULL ? NULL : shm_holding_memory(holding);
                Py_DECREF((PyObject *)holding); /* the memory has it */
                if (haul->memories[i] == NULL) {
                        Py_XDECREF(haul->intervals[i]);
                        return -1;
                }
                haul->count++;
        }
        return 0;
}

/* Enter all into the books; -1: something is in the way. Inside of the gate. */
static int shm_haul_enter(struct shm_haul *haul)
{
        for (; haul->entered < haul->count; haul->entered++)
                if (shm_holding_enter(haul->holdings[haul->entered], haul->intervals[haul->entered]) < 0)
                        return -1;
        return 0;
}

/* Without the GIL: others find the books right, and wait for the gate. */
static int shm_haul_map(struct shm_haul *haul)
{
        for (; haul->mapped < haul->count; haul->mapped++)
                if (shm_holding_map(haul->holdings[haul->mapped], haul->fds[haul->mapped]) < 0)
                        return -1;
        return 0;
}

/* Unmap what is mapped, and take it out of the books. Inside of the gate. */
static void shm_haul_undo(struct shm_haul *haul)
{
        while (haul->entered) {
                struct shm_holding *holding = haul->holdings[--haul->entered];

                if (haul->entered < haul->mapped && shm_holding_unmap(holding)) {
                        holding->is_live = 1; /* at vm.max_map_count: it ends as any other, */
                        holding->lease = 0;   /* but the plain road has its lease */
                } else {
                        shm_space_discard(holding->space, holding->address, (PyObject *)holding);
                }
        }
}

/*
 * Note the leases: from now on the memories give them back. Not if the connection is closing: whoever closes it says so
 * before looking whether anything is held, and the plain road waits for the end of that.
 */
static int shm_haul_own(struct shm_haul *haul, struct shm_lane *lane)
{
        uint32_t i;

        if (!lane->is_open)
                return -1;
        for (i = 0; i < haul->count; i++) {
                PyObject *key = PyLong_FromUnsignedLongLong(haul->holdings[i]->lease);
                int error = key == NULL || PyDict_SetItem(lane->holds, key, Py_None) < 0;

                Py_XDECREF(key);
                if (error)
                        return -1;
        }
        for (i = 0; i < haul->count; i++)
                haul->holdings[i]->is_live = 1;
        return 0;
}

/* Map all regions, whose objects are made; -1: not one is, and the plain road has to see why. */
static int shm_haul_map_all(struct shm_haul *haul, struct shm_lane *lane)
{
        int error;

        if (!shm_asks(lane->space->acquire, Py_False))
                return -1;
        error = shm_haul_enter(haul);
        if (!error) {
                Py_BEGIN_ALLOW_THREADS
                error = shm_haul_map(haul);
                Py_END_ALLOW_THREADS
        }
        if (!error)
                error = shm_haul_own(haul, lane);
        PyErr_Clear();
        if (error)
                shm_haul_undo(haul);
        shm_tell(lane->space->release, NULL);
        if (PyObject_Size(lane->space->items) > 0)
                shm_tell_drain(lane->space->drain);
        return error;
}

/* Take the regions of a good answer; -1: not one of them. Not if somebody has failed the request `key` meanwhile: then
 * the exchange is to decide what its answer is. */
static int shm_haul_take(struct shm_haul *haul, struct shm_lane *lane, const struct shm_trip *trip, PyObject *key)
{
        int error = shm_haul_make(haul, lane, trip);
        uint32_t i;

        if (!error && PyDict_GetItemWithError(lane->pendings, key) != lane->pending)
                error = -1;
        if (!error)
                error = shm_haul_map_all(haul, lane);
        PyErr_Clear();
        for (i = 0; i < haul->count; i++) {
                Py_DECREF(haul->intervals[i]);
                if (error)
                        Py_DECREF(haul->memories[i]);
        }
        return error;
}

/* A handle of a class, whose part, borrowed, owns nothing yet; NULL: there is none. */
static PyObject *shm_lane_handle(struct shm_lane *lane, PyObject *kind, PyObject *client, PyObject *grant,
                                 struct shm_held **held_out)
{
        newfunc make = (newfunc)PyType_GetSlot((PyTypeObject *)kind, Py_tp_new);
        struct shm_held *held = (struct shm_held *)PyType_GenericAlloc((PyTypeObject *)shm_held_type, 0);
        PyObject *handle;

        if (held == NULL)
                return NULL;
        held->fd = -1;
        *held_out = held;
        handle = make((PyTypeObject *)kind, shm_no_arguments, NULL);
        if (handle != NULL && (PyObject_SetAttr(handle, shm_text_grant, grant) < 0 ||
                               PyObject_SetAttr(handle, shm_text_host_id, lane->host_id) < 0 ||
                               PyObject_SetAttr(handle, shm_text_client, client) < 0 ||
                               PyObject_SetAttr(handle, shm_text_held, (PyObject *)held) < 0))
                Py_CLEAR(handle);
        Py_DECREF((PyObject *)held);
        return handle;
}

/* The caller's result for one region: a handle, or (grant, memory, (end, metadata, metadata_size)). */
static PyObject *shm_lane_result(struct shm_lane *lane, PyObject *kind, PyObject *client, struct shm_haul *haul,
                                 uint32_t index)
{
        PyObject *grant = haul->holdings[index]->grant, *memory = haul->memories[index], *result;
        const struct shm_granted *granted = &haul->grants[index];
        struct shm_held *held;

        if (kind != Py_None) {
                result = shm_lane_handle(lane, kind, client, grant, &held);
                if (result != NULL) {
                        held->memory = memory;
                        held->fd = haul->fds[index];
                        if (shm_holding_keep(haul->holdings[index], haul->fds[index]))
                                shm_held_share(held, &haul->holdings[index]->kept);
                        return result;
                }
        }
        if (kind != Py_None || !shm_holding_keep(haul->holdings[index], haul->fds[index]))
                (void)close(haul->fds[index]);
        if (kind != Py_None) {
                Py_DECREF(memory);
                return NULL;
        }
        result = Py_BuildValue("(OO(KKK))", grant, memory, (unsigned long long)granted->end,
                               (unsigned long long)granted->metadata, (unsigned long long)granted->metadata_size);
        Py_DECREF(memory);
        return result;
}

/* A list of the results. All that the trip has is theirs, or closed. */
static PyObject *shm_lane_results(struct shm_lane *lane, PyObject *kind, PyObject *client, struct shm_haul *haul)
{
        PyObject *list = PyList_New(0), *result;
        uint32_t i;
        int error = list == NULL;

        for (i = 0; i < haul->count; i++) {
                result = shm_lane_result(lane, kind, client, haul, i);
                error |= result == NULL || (list != NULL && PyList_Append(list, result) < 0);
                Py_XDECREF(result);
        }
        if (error)
                Py_CLEAR(list);
        return list;
}

#endif /* SHM_HAUL_H */

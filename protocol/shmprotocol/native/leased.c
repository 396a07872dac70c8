/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leased.c - a handle whose region is not mapped yet, as that of a put is: most are closed without a look at what was
 * just written. It has the descriptor and the lease, and maps when somebody needs the memory. See lane.c.
 */
#ifndef SHM_LEASED_H
#define SHM_LEASED_H

#include <stdint.h>
#include <unistd.h>

/* Note a lease, which is the caller's to give back. -1: the connection is closing, or an error. As shm_haul_own(). */
static int shm_lane_hold(struct shm_lane *lane, uint64_t lease)
{
        PyObject *key = lane->is_open ? PyLong_FromUnsignedLongLong(lease) : NULL;
        int error = key == NULL || PyDict_SetItem(lane->holds, key, Py_None) < 0;

        Py_XDECREF(key);
        return error ? -1 : 0;
}

/* A handle of a class for the region of a good answer to a put; NULL: nothing is taken, and the plain road has it. */
static PyObject *shm_leased_handle(struct shm_lane *lane, const struct shm_trip *trip, PyObject *kind, PyObject *client,
                                   PyObject *key)
{
        const struct shm_granted *granted = &trip->opened.grants[0];
        PyObject *grant = shm_lane_grant(lane, granted), *handle = NULL;
        struct shm_held *held = NULL;

        if (grant != NULL)
                handle = shm_lane_handle(lane, kind, client, grant, &held);
        Py_XDECREF(grant);
        /* Nothing from here on runs code of others, who could fail the request or close the connection. */
        if (handle == NULL || PyDict_GetItemWithError(lane->pendings, key) != lane->pending ||
            shm_lane_hold(lane, granted->numbers[SHM_LEASE]) < 0) {
                Py_XDECREF(handle);
                PyErr_Clear();
                return NULL;
        }
        Py_INCREF((PyObject *)lane);
        held->lane = lane;
        held->lease = granted->numbers[SHM_LEASE];
        held->fd = trip->fds[0];
        held->is_kept =
                (char)shm_keep(lane->home, &held->kept, (PyObject *)held, granted->numbers[SHM_REGION], held->fd);
        held->kept.is_shared = held->is_kept;
        return handle;
}

/* Let go of the lease without giving it back: somebody else has it. */
static void shm_held_pass(struct shm_held *held)
{
        struct shm_lane *lane = held->lane;

        held->lane = NULL;
        held->lease = 0;
        Py_DECREF((PyObject *)lane);
}

/* Read a grant, as far as a mapping needs it, without its name. -1: it is not one. */
static int shm_granted_of(PyObject *grant, struct shm_granted *granted)
{
        Py_ssize_t field;
        int number = 0;

        if (!PyTuple_Check(grant) || PyTuple_Size(grant) < SHM_GRANT_FIELDS_MIN)
                return -1;
        for (field = 0; field < SHM_GRANT_FIELDS_MIN; field++) {
                PyObject *item = PyTuple_GetItem(grant, field);

                if (field != SHM_GRANT_NAME && shm_argument(&item, 0, &granted->numbers[number++]) < 0)
                        return -1;
        }
        return 0;
}

/*
 * Map it in the place that a holding, not live yet, stands for. -1: something is wrong, and nothing is mapped. Inside of
 * the gate, and with the GIL all the time: a handle can be closed by another thread, and its descriptor be another's.
 */
static int shm_held_map_at(struct shm_held *held, struct shm_holding *holding, struct shm_granted *granted,
                           PyObject *interval)
{
        if (held->lane != holding->lane || shm_grant_check(granted, held->fd) || shm_holding_enter(holding, interval) < 0)
                return -1;
        if (shm_holding_map(holding, held->fd) < 0) {
                shm_space_discard(holding->space, holding->address, (PyObject *)holding);
                return -1;
        }
        holding->is_live = 1;
        return 0;
}

/* map(grant): have it mapped. Whether it is; if not, the plain road says why. Inside of the gate. */
static PyObject *shm_held_map(PyObject *self, PyObject *grant)
{
        struct shm_held *held = (struct shm_held *)self;
        struct shm_lane *lane = held->lane;
        struct shm_holding *holding;
        struct shm_granted granted;
        PyObject *interval, *memory = NULL;
        int error;

        if (lane == NULL || shm_granted_of(grant, &granted) < 0) {
                PyErr_Clear();
                Py_RETURN_FALSE;
        }
        granted.numbers[SHM_LEASE] = held->lease;
        holding = shm_holding_new(lane, &granted, grant);
        interval = holding == NULL ? NULL : shm_space_make(lane->space, holding->address, holding->capacity, (PyObject *)holding);
        if (interval != NULL)
                memory = shm_holding_memory(holding);
        error = memory == NULL || shm_held_map_at(held, holding, &granted, interval) < 0;
        PyErr_Clear();
        Py_XDECREF(interval);
        Py_XDECREF((PyObject *)holding); /* the memory has it */
        if (error) {
                Py_XDECREF(memory);
                Py_RETURN_FALSE;
        }
        held->memory = memory;
        shm_kept_pass(&held->kept, &holding->kept, (PyObject *)holding);
        if (held->is_kept)
                shm_held_share(held, &holding->kept);
        shm_held_pass(held);
        Py_RETURN_TRUE;
}

/* give(descriptors, lease): pass the descriptor on to a list that owns it, and the lease to an object that says by its
 * `_is_over` whether it gives one back. Nothing, if it is closed or mapped. */
static PyObject *shm_held_give(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_held *held = (struct shm_held *)self;
        int fd;

        if (shm_arguments_check("give", count, 2) < 0)
                return NULL;
        if (held->lane == NULL)
                Py_RETURN_NONE;
        if (PyObject_SetAttrString(arguments[1], "_is_over", Py_False) < 0 || shm_held_append(held, arguments[0]) < 0)
                return NULL;
        fd = shm_unkeep(&held->kept); /* -1, unless a copy was given */
        held->is_kept = 0;
        held->fd = -1;
        held->is_taken = 1;
        shm_held_pass(held);
        shm_close(fd); /* last: other threads run meanwhile, and may close the handle */
        Py_RETURN_NONE;
}

#endif /* SHM_LEASED_H */

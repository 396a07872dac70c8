/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane.c - the fast road of one connection of a client: attach as one call, and the Release of what it attached.
 *
 * It takes no decision: whatever is not the plainest case goes back to Python, before anything was sent, or as the
 * bytes and descriptors that were received. The plainest case: nobody reads the socket and nothing waits to be sent;
 * the answer is one whole Opened with a descriptor for each name, of regions that are fully sealed, whose header is
 * right, and whose addresses are free and reserved here.
 *
 * Signals: nothing changes its owner between two steps of Python. All that a call receives is in its result, in the
 * connection's `reading`, or closed; a request that was sent and not answered is in `pendings`.
 */
#ifndef SHM_LANE_H
#define SHM_LANE_H

#include <stddef.h>
#include <stdint.h>
#include <structmember.h>

/* queue_late(): have Python send the Releases that wait; whether there are any. */
static PyObject *shm_lane_queue_late(PyObject *self, PyObject *none)
{
        struct shm_lane *lane = (struct shm_lane *)self;
        uint8_t bytes[SHM_LATE_SIZE], *end = bytes + sizeof(bytes), *start;

        (void)none;
        if (!lane->late.used) /* read without the mutex: at worst another thread gives something back just now */
                Py_RETURN_FALSE;
        start = shm_late_take(&lane->late, end);
        if (start != end)
                shm_lane_queue(lane, start, (size_t)(end - start));
        return PyBool_FromLong(start != end);
}

/* take_turn(me): become the one that reads, unless another one does. A thread, or a greenlet of gevent. */
static PyObject *shm_lane_take_turn(PyObject *self, PyObject *number)
{
        struct shm_lane *lane = (struct shm_lane *)self;
        unsigned long me = PyLong_AsUnsignedLong(number);

        if (PyErr_Occurred())
                return NULL;
        if (lane->reader != 0 && lane->reader != me)
                Py_RETURN_FALSE;
        lane->reader = me;
        Py_RETURN_TRUE;
}

/* renew(pending, reading): for the next request. */
static PyObject *shm_lane_renew(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_lane *lane = (struct shm_lane *)self;
        PyObject *pending = lane->pending, *reading = lane->reading;

        if (shm_arguments_check("renew", count, 2) < 0)
                return NULL;
        Py_INCREF(arguments[0]);
        Py_INCREF(arguments[1]);
        lane->pending = arguments[0];
        lane->reading = arguments[1];
        lane->unfinished = 0;
        Py_XDECREF(pending);
        Py_XDECREF(reading);
        Py_RETURN_NONE;
}

/* close(): take no more requests; what is given back goes by the plain road. */
static PyObject *shm_lane_close(PyObject *self, PyObject *none)
{
        (void)none;
        ((struct shm_lane *)self)->is_open = 0;
        Py_RETURN_NONE;
}

/* shut(): the socket is about to be closed. */
static PyObject *shm_lane_shut(PyObject *self, PyObject *none)
{
        struct shm_lane *lane = (struct shm_lane *)self;

        (void)none;
        lane->is_open = 0;
        shm_late_end(&lane->late);
        Py_RETURN_NONE;
}

/* detach(): in the child of a fork, whose connection is the parent's. */
static PyObject *shm_lane_detach(PyObject *self, PyObject *none)
{
        struct shm_lane *lane = (struct shm_lane *)self;

        lane->is_detached = 1;
        lane->reader = 0;
        return shm_lane_shut(self, none);
}

static int shm_lane_init(PyObject *self, PyObject *arguments, PyObject *keywords)
{
        struct shm_lane *lane = (struct shm_lane *)self;
        PyObject **parts[] = {(PyObject **)&lane->space, &lane->pendings, &lane->users, &lane->unsent, &lane->ids,
                              &lane->holds, &lane->items, &lane->drain, &lane->leave, &lane->grant, &lane->check_name};
        PyObject *values[sizeof(parts) / sizeof(parts[0])];
        int fd, fields;
        size_t i;

        (void)keywords;
        if (lane->names != NULL) {
                PyErr_SetString(PyExc_TypeError, "a Lane is made once");
                return -1;
        }
        if (!PyArg_ParseTuple(arguments, "iiO!O!O!OOO!OOOO!O", &fd, &fields, shm_space_type, &values[0], &PyDict_Type,
                              &values[1], &PySet_Type, &values[2], &values[3], &values[4], &PyDict_Type, &values[5],
                              &values[6], &values[7], &values[8], &PyType_Type, &values[9], &values[10]))
                return -1;
        if (!PyIter_Check(values[4]) || fields < SHM_GRANT_FIELDS_MIN || fields > SHM_GRANT_NUMBERS + 1) {
                PyErr_SetString(PyExc_TypeError, "ids is an iterator, and a grant has 8 to 12 fields");
                return -1;
        }
        lane->names = PyDict_New();
        if (lane->names == NULL)
                return -1;
        for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
                Py_INCREF(values[i]);
                *parts[i] = values[i];
        }
        lane->late.fd = fd;
        lane->fields = (uint32_t)fields;
        lane->is_open = 1;
        shm_late_prepare();
        return 0;
}

static int shm_lane_traverse(PyObject *self, visitproc visit, void *arg)
{
        struct shm_lane *lane = (struct shm_lane *)self;

        Py_VISIT(Py_TYPE(self));
        Py_VISIT(lane->pendings);
        Py_VISIT(lane->users);
        Py_VISIT(lane->unsent);
        Py_VISIT(lane->ids);
        Py_VISIT(lane->holds);
        Py_VISIT(lane->items);
        Py_VISIT(lane->drain);
        Py_VISIT(lane->leave);
        Py_VISIT(lane->pending);
        Py_VISIT(lane->reading);
        Py_VISIT(lane->outbox);
        return 0;
}

/* The parts that can lead back here; without them it takes no requests, and gives nothing back. */
static int shm_lane_clear(PyObject *self)
{
        struct shm_lane *lane = (struct shm_lane *)self;

        lane->is_open = 0;
        lane->is_detached = 1;
        shm_late_end(&lane->late);
        Py_CLEAR(lane->pendings);
        Py_CLEAR(lane->users);
        Py_CLEAR(lane->unsent);
        Py_CLEAR(lane->ids);
        Py_CLEAR(lane->holds);
        Py_CLEAR(lane->items);
        Py_CLEAR(lane->drain);
        Py_CLEAR(lane->leave);
        Py_CLEAR(lane->pending);
        Py_CLEAR(lane->reading);
        Py_CLEAR(lane->outbox);
        return 0;
}

static void shm_lane_dealloc(PyObject *self)
{
        struct shm_lane *lane = (struct shm_lane *)self;

        PyObject_GC_UnTrack(self);
        (void)shm_lane_clear(self);
        Py_XDECREF((PyObject *)lane->space);
        Py_XDECREF(lane->grant);
        Py_XDECREF(lane->check_name);
        Py_XDECREF(lane->names);
        Py_XDECREF(lane->host_id);
        Py_XDECREF((PyObject *)lane->home);
        shm_free(self);
}

#define SHM_FAST(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef shm_lane_methods[] = {
        {"attach", SHM_FAST(shm_lane_attach), METH_FASTCALL, NULL},
        {"put", SHM_FAST(shm_lane_put), METH_FASTCALL, NULL},
        {"assign", SHM_FAST(shm_lane_assign), METH_FASTCALL, NULL},
        {"renew", SHM_FAST(shm_lane_renew), METH_FASTCALL, NULL},
        {"queue_late", shm_lane_queue_late, METH_NOARGS, NULL},
        {"take_turn", shm_lane_take_turn, METH_O, NULL},
        {"close", shm_lane_close, METH_NOARGS, NULL},
        {"shut", shm_lane_shut, METH_NOARGS, NULL},
        {"detach", shm_lane_detach, METH_NOARGS, NULL},
        {NULL, NULL, 0, NULL},
};

static PyMemberDef shm_lane_members[] = {
        {"reader", T_ULONG, offsetof(struct shm_lane, reader), 0, NULL},
        {"is_ready", T_BOOL, offsetof(struct shm_lane, is_ready), 0, NULL},
        {"is_lost", T_BOOL, offsetof(struct shm_lane, is_lost), READONLY, NULL},
        {"unfinished", T_ULONG, offsetof(struct shm_lane, unfinished), READONLY, NULL},
        {"id", T_ULONGLONG, offsetof(struct shm_lane, id), READONLY, NULL},
        {"began_ns", T_ULONGLONG, offsetof(struct shm_lane, began_ns), READONLY, NULL},
        {"pending", T_OBJECT, offsetof(struct shm_lane, pending), READONLY, NULL},
        {"reading", T_OBJECT, offsetof(struct shm_lane, reading), READONLY, NULL},
        {"host_id", T_OBJECT, offsetof(struct shm_lane, host_id), 0, NULL},
        {"home", T_OBJECT, offsetof(struct shm_lane, home), 0, NULL},
        {"outbox", T_OBJECT, offsetof(struct shm_lane, outbox), 0, NULL},
        {NULL, 0, 0, 0, NULL},
};

static PyType_Slot shm_lane_slots[] = {
        {Py_tp_init, (void *)shm_lane_init},
        {Py_tp_dealloc, (void *)shm_lane_dealloc},
        {Py_tp_traverse, (void *)shm_lane_traverse},
        {Py_tp_clear, (void *)shm_lane_clear},
        {Py_tp_methods, (void *)shm_lane_methods},
        {Py_tp_members, (void *)shm_lane_members},
        {0, NULL},
};

static PyType_Spec shm_lane_spec = {"shmprotocol.Lane", sizeof(struct shm_lane), 0,
                                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, shm_lane_slots};

static PyObject *shm_installed(PyObject *dict, const char *name)
{
        PyObject *type = PyDict_GetItemString(dict, name);

        Py_XINCREF(type);
        return type;
}

/* Note the types that are made here, from the dict that they were put into, and the names of attributes. */
static int shm_lane_install(PyObject *dict)
{
        shm_space_type = shm_installed(dict, "Space");
        shm_holding_type = shm_installed(dict, "Holding");
        shm_held_type = shm_installed(dict, "Held");
        shm_lane_type = shm_installed(dict, "Lane");
        shm_home_type = shm_installed(dict, "Home");
        shm_text_grant = PyUnicode_InternFromString("_grant");
        shm_text_held = PyUnicode_InternFromString("_held");
        shm_text_host_id = PyUnicode_InternFromString("_host_id");
        shm_text_client = PyUnicode_InternFromString("_client");
        shm_no_arguments = PyTuple_New(0);
        return shm_space_type == NULL || shm_holding_type == NULL || shm_held_type == NULL || shm_lane_type == NULL ||
                               shm_home_type == NULL || shm_text_grant == NULL ||
                               shm_text_held == NULL || shm_text_host_id == NULL || shm_text_client == NULL ||
                               shm_no_arguments == NULL
                       ? -ENOMEM
                       : 0;
}

/* flush_late(): have every Release on its way that waits for a request: for tests. */
static PyObject *shm_builtin_flush_late(PyObject *self, PyObject *none)
{
        (void)self;
        (void)none;
        pthread_mutex_lock(&shm_lates.mutex);
        shm_late_flush_all();
        pthread_mutex_unlock(&shm_lates.mutex);
        Py_RETURN_NONE;
}

/* opened_read(data, fields): what the fast road reads in bytes, as (id, (grant, ...)), or None: for tests. A Published
 * is read as well. */
static PyObject *shm_builtin_opened_read(PyObject *none, PyObject *const *arguments, Py_ssize_t count)
{
        static struct shm_opened opened; /* with the GIL */
        struct shm_lane lane = {.grant = (PyObject *)&PyTuple_Type};
        const char *data;
        Py_ssize_t size;
        uint64_t fields;
        PyObject *grants, *grant;
        uint32_t i;

        (void)none;
        if (shm_arguments_check("opened_read", count, 2) < 0 || shm_argument(arguments, 1, &fields) < 0 ||
            PyBytes_AsStringAndSize(arguments[0], (char **)&data, &size) < 0)
                return NULL;
        if (!shm_opened_read((const uint8_t *)data, (size_t)size, (uint32_t)fields, &opened) &&
            !shm_published_read((const uint8_t *)data, (size_t)size, (uint32_t)fields, &opened))
                Py_RETURN_NONE;
        lane.fields = (uint32_t)fields;
        grants = PyList_New(0);
        for (i = 0; i < opened.count && grants != NULL; i++) {
                grant = shm_lane_grant(&lane, &opened.grants[i]);
                if (grant == NULL || PyList_Append(grants, grant) < 0)
                        Py_CLEAR(grants);
                Py_XDECREF(grant);
        }
        if (grants == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
                PyErr_Clear(); /* as for an attach, which leaves such a name to the codec */
                Py_RETURN_NONE;
        }
        return grants == NULL ? NULL : Py_BuildValue("(KN)", (unsigned long long)opened.id, grants);
}

#endif /* SHM_LANE_H */

/* SPDX-License-Identifier: Apache-2.0 */
/* kept_object.c - what Python does with nodes: Kept, one for a lease of the plain road; and moves. See kept.c. */
#ifndef SHM_KEPT_OBJECT_H
#define SHM_KEPT_OBJECT_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <structmember.h>

struct shm_kept_object {
        PyObject_HEAD
        struct shm_kept kept;
        PyObject *lease; /* a weak reference */
};

static PyObject *shm_home_type; /* set when it is installed */

/*
 * Have the owner of a node have another lease, of the next host, and give the one before up: that ended with its
 * connection. False: it is not live any more, or that connection is closing; the caller gives the lease back.
 */
static PyObject *shm_kept_move_lease(struct shm_kept *kept, int is_live, struct shm_lane **lane, uint64_t *lease,
                                     PyObject *const *arguments)
{
        struct shm_lane *next = (struct shm_lane *)arguments[0], *before = *lane;
        uint64_t number;

        if ((PyObject *)Py_TYPE(arguments[0]) != shm_lane_type || shm_argument(arguments, 1, &number) < 0) {
                if (!PyErr_Occurred())
                        PyErr_SetString(PyExc_TypeError, "the connection is a Lane");
                return NULL;
        }
        if (!is_live || kept->home == NULL || next->home == NULL || !next->is_open ||
            PyDict_SetItem(next->holds, arguments[1], Py_None) < 0) {
                PyErr_Clear();
                Py_RETURN_FALSE;
        }
        Py_INCREF((PyObject *)next);
        *lane = next;
        *lease = number;
        shm_kept_move(kept, next->home);
        Py_DECREF((PyObject *)before);
        Py_RETURN_TRUE;
}

/* Keep a copy of a descriptor of a ledger or an arena: (home, number, descriptor). Nothing if that cannot be. */
static PyObject *shm_keep_for(PyObject *owner, struct shm_kept *kept, char kind, PyObject *arguments)
{
        unsigned long long number;
        PyObject *home;
        int fd;

        if (!PyArg_ParseTuple(arguments, "O!Ki", shm_home_type, &home, &number, &fd))
                return NULL;
        if (kept->home == NULL) {
                kept->kind = kind;
                fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
                if (!shm_keep((struct shm_home *)home, kept, owner, number, fd))
                        shm_close(fd);
        }
        Py_RETURN_NONE;
}

static PyObject *shm_kept_move_to(struct shm_kept *kept, PyObject *home)
{
        if ((PyObject *)Py_TYPE(home) != shm_home_type) {
                PyErr_SetString(PyExc_TypeError, "it moves to a Home");
                return NULL;
        }
        shm_kept_move(kept, (struct shm_home *)home);
        Py_RETURN_NONE;
}

/* Kept(home, number, descriptor, lease): keep a copy of a descriptor for a lease; nothing if that cannot be. */
static int shm_kept_object_init(PyObject *self, PyObject *arguments, PyObject *keywords)
{
        struct shm_kept_object *object = (struct shm_kept_object *)self;
        unsigned long long number;
        PyObject *home, *lease;
        int fd;

        (void)keywords;
        if (object->lease != NULL || !PyArg_ParseTuple(arguments, "O!KiO", shm_home_type, &home, &number, &fd, &lease)) {
                if (!PyErr_Occurred())
                        PyErr_SetString(PyExc_TypeError, "a Kept is made once");
                return -1;
        }
        object->lease = Py_NewRef(lease);
        fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (!shm_keep((struct shm_home *)home, &object->kept, self, number, fd))
                shm_close(fd);
        return 0;
}

static PyObject *shm_kept_object_lend(PyObject *self, PyObject *descriptors)
{
        return shm_kept_lend(&((struct shm_kept_object *)self)->kept, descriptors);
}

/* move(home): it is handed back, and kept for the next time. */
static PyObject *shm_kept_object_move(PyObject *self, PyObject *home)
{
        return shm_kept_move_to(&((struct shm_kept_object *)self)->kept, home);
}

static PyObject *shm_kept_object_close(PyObject *self, PyObject *none)
{
        (void)none;
        shm_close(shm_unkeep(&((struct shm_kept_object *)self)->kept));
        Py_RETURN_NONE;
}

static void shm_kept_object_dealloc(PyObject *self)
{
        struct shm_kept_object *object = (struct shm_kept_object *)self;

        shm_close(shm_unkeep(&object->kept));
        Py_XDECREF(object->lease);
        shm_free(self);
}

static PyMethodDef shm_kept_object_methods[] = {
        {"lend", shm_kept_object_lend, METH_O, NULL},
        {"move", shm_kept_object_move, METH_O, NULL},
        {"close", shm_kept_object_close, METH_NOARGS, NULL},
        {NULL, NULL, 0, NULL},
};

static PyMemberDef shm_kept_object_members[] = {
        {"lease", T_OBJECT, offsetof(struct shm_kept_object, lease), READONLY, NULL},
        {NULL, 0, 0, 0, NULL},
};

static PyType_Slot shm_kept_object_slots[] = {
        {Py_tp_init, (void *)shm_kept_object_init},
        {Py_tp_dealloc, (void *)shm_kept_object_dealloc},
        {Py_tp_methods, (void *)shm_kept_object_methods},
        {Py_tp_members, (void *)shm_kept_object_members},
        {0, NULL},
};

static PyType_Spec shm_kept_object_spec = {"shmprotocol.Kept", sizeof(struct shm_kept_object), 0, Py_TPFLAGS_DEFAULT,
                                           shm_kept_object_slots};

#endif /* SHM_KEPT_OBJECT_H */

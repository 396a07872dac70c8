/* SPDX-License-Identifier: Apache-2.0 */
/*
 * home.c - a home for Python: what one connection leads to, and the objects that keep something there. See kept.c.
 */
#ifndef SHM_HOME_H
#define SHM_HOME_H

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Have nobody hand anything back from now on. With the mutex held. */
static void shm_home_end(struct shm_home *home)
{
        struct shm_home **link;

        home->state = SHM_HOME_OVER;
        home->socket = -1;
        shm_home_close_link(home);
        shm_home_close_watched(home);
        if (!home->is_listed)
                return;
        for (link = &shm_keeper.first; *link != home; link = &(*link)->next)
                ;
        *link = home->next;
        home->is_listed = 0;
}

static PyObject *shm_home_end_method(PyObject *self, PyObject *none)
{
        (void)none;
        pthread_mutex_lock(&shm_keeper.mutex);
        shm_home_end((struct shm_home *)self);
        pthread_mutex_unlock(&shm_keeper.mutex);
        Py_RETURN_NONE;
}

/* unplug(): the socket is about to be closed: no copy of it is made from now on. */
static PyObject *shm_home_unplug(PyObject *self, PyObject *none)
{
        (void)none;
        pthread_mutex_lock(&shm_keeper.mutex);
        ((struct shm_home *)self)->socket = -1;
        pthread_mutex_unlock(&shm_keeper.mutex);
        Py_RETURN_NONE;
}

/* The uid of the process that listened at the other end of a socket; -1: unknown. */
static uid_t shm_peer_uid(int fd)
{
        struct ucred peer;
        socklen_t size = sizeof(peer);

        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) ? (uid_t)-1 : peer.uid;
}

/* is_host_of(socket): whether the host at the other end is one of the same user. */
static PyObject *shm_home_is_host_of(PyObject *self, PyObject *number)
{
        int fd = (int)PyLong_AsLong(number);

        if (PyErr_Occurred())
                return NULL;
        return PyBool_FromLong(((struct shm_home *)self)->uid == shm_peer_uid(fd));
}

static PyObject *shm_home_hasten(PyObject *self, PyObject *none);

/* owners(): the objects that keep something here. */
static PyObject *shm_home_owners(PyObject *self, PyObject *none)
{
        struct shm_home *home = (struct shm_home *)self;
        PyObject *owners = PyList_New(0);
        struct shm_kept *kept;

        (void)none;
        /* Lists of nodes change with the GIL held, as here, whatever else holds the mutex. Appending runs no code. */
        for (kept = home->first; kept != NULL && owners != NULL; kept = kept->next)
                if (PyList_Append(owners, kept->owner) < 0)
                        Py_CLEAR(owners);
        return owners;
}

static int shm_home_init(PyObject *self, PyObject *arguments, PyObject *keywords)
{
        struct shm_home *home = (struct shm_home *)self;
        PyObject *file_name = NULL; /* the bytes of the path, which need not be UTF-8 */
        const char *path = NULL, *host;

        (void)keywords;
        if (home->path[0] || !PyArg_ParseTuple(arguments, "O&si", PyUnicode_FSConverter, &file_name, &host, &home->socket) ||
            (path = PyBytes_AsString(file_name)) == NULL ||
            strlen(path) >= SHM_HOME_PATH || strlen(host) >= SHM_HOME_HOST || !path[0]) {
                if (!PyErr_Occurred())
                        PyErr_SetString(PyExc_ValueError, "a Home is made once, of a path and a name that are not too long");
                Py_XDECREF(file_name);
                return -1;
        }
        strcpy(home->path, path);
        strcpy(home->host, host);
        Py_DECREF(file_name);
        home->watched = home->link = -1;
        home->uid = (uid_t)-1;
        shm_keeper_prepare();
        return 0;
}

static void shm_home_dealloc(PyObject *self)
{
        struct shm_home *home = (struct shm_home *)self;

        if (home->path[0]) {
                pthread_mutex_lock(&shm_keeper.mutex);
                shm_home_end(home);
                pthread_mutex_unlock(&shm_keeper.mutex);
        }
        free(home->buffer);
        shm_free(self);
}

static PyMethodDef shm_home_methods[] = {
        {"owners", shm_home_owners, METH_NOARGS, NULL},
        {"hasten", shm_home_hasten, METH_NOARGS, NULL},
        {"is_host_of", shm_home_is_host_of, METH_O, NULL},
        {"unplug", shm_home_unplug, METH_NOARGS, NULL},
        {"end", shm_home_end_method, METH_NOARGS, NULL},
        {NULL, NULL, 0, NULL},
};

static PyType_Slot shm_home_slots[] = {
        {Py_tp_init, (void *)shm_home_init},
        {Py_tp_dealloc, (void *)shm_home_dealloc},
        {Py_tp_methods, (void *)shm_home_methods},
        {0, NULL},
};

static PyType_Spec shm_home_spec = {"shmprotocol.Home", sizeof(struct shm_home), 0, Py_TPFLAGS_DEFAULT, shm_home_slots};

#endif /* SHM_HOME_H */

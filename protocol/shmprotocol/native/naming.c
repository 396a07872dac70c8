/* SPDX-License-Identifier: Apache-2.0 */
/*
 * naming.c - names of files where others have names, too: each call takes the lock of the folder or that of the file,
 * which others can hold as long as they like. So a thread apart makes it.
 */
#ifndef SHM_NAMING_H
#define SHM_NAMING_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { SHM_NAME_MAKE, SHM_NAME_LINK, SHM_NAME_RENAME, SHM_NAME_UNLINK, SHM_NAME_CALLS };

struct shm_naming {
        struct shm_apart apart;
        int call;  /* of the above */
        int error; /* of the system */
        char path[PATH_MAX];
        char other[PATH_MAX]; /* the new name, for LINK and RENAME */
};

static int shm_naming_make(const char *path)
{
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

        return fd < 0 ? -1 : close(fd);
}

static void shm_naming_run(struct shm_apart *apart)
{
        struct shm_naming *naming = (struct shm_naming *)apart;
        int result = -1;

        switch (naming->call) {
        case SHM_NAME_MAKE:
                result = shm_naming_make(naming->path);
                break;
        case SHM_NAME_LINK:
                result = link(naming->path, naming->other);
                break;
        case SHM_NAME_RENAME:
                result = rename(naming->path, naming->other);
                break;
        case SHM_NAME_UNLINK:
                result = unlink(naming->path);
                break;
        }
        naming->error = result ? errno : 0;
}

/* Copy a path; -1: an exception is set. */
static int shm_naming_path(PyObject *text, char path_out[PATH_MAX])
{
        char *path;

        if (PyBytes_AsStringAndSize(text, &path, NULL) < 0)
                return -1;
        if (strlen(path) < PATH_MAX) {
                memcpy(path_out, path, strlen(path) + 1);
                return 0;
        }
        errno = ENAMETOOLONG;
        (void)PyErr_SetFromErrno(PyExc_OSError);
        return -1;
}

static int shm_naming_parse(PyObject *const *arguments, struct shm_naming *naming)
{
        uint64_t call;

        if (shm_argument(arguments, 0, &call) < 0 || shm_naming_path(arguments[1], naming->path) < 0 ||
            shm_naming_path(arguments[2], naming->other) < 0)
                return -1;
        naming->call = (int)call;
        if (call < SHM_NAME_CALLS)
                return 0;
        PyErr_SetString(PyExc_ValueError, "there is no such call");
        return -1;
}

/* change_name(call, path, other): see builtins.pyi. */
static PyObject *shm_change_name(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_naming *naming;
        PyObject *result = NULL;

        (void)self;
        if (shm_arguments_check("change_name", count, 3) < 0)
                return NULL;
        naming = (struct shm_naming *)shm_apart_start(sizeof(*naming), shm_naming_run);
        if (naming == NULL)
                return NULL;
        if (shm_naming_parse(arguments, naming) == 0) {
                Py_BEGIN_ALLOW_THREADS
                shm_apart_give(&naming->apart);
                (void)shm_apart_wait(&naming->apart, 0);
                Py_END_ALLOW_THREADS
                result = PyLong_FromLong(naming->error);
        }
        shm_apart_end(&naming->apart);
        return result;
}

#endif /* SHM_NAMING_H */

/* SPDX-License-Identifier: Apache-2.0 */
/* arguments.c - the arguments of a builtin of Python: see builtins.c. */
#ifndef SHM_ARGUMENTS_H
#define SHM_ARGUMENTS_H

#include <stdint.h>

/* Read an argument that is an unsigned number. Returns -1, with an exception set, if it is not one. */
static int shm_argument(PyObject *const *arguments, Py_ssize_t index, uint64_t *value)
{
        *value = (uint64_t)PyLong_AsUnsignedLongLong(arguments[index]);
        return *value == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

/* Read numbers that are in a tuple from an index on; -1: an exception is set. */
static int shm_numbers(PyObject *tuple, Py_ssize_t index, uint64_t *numbers, int count)
{
        PyObject *item;

        while (count-- > 0) {
                item = PyTuple_GetItem(tuple, index++);
                if (item == NULL || shm_argument(&item, 0, numbers++) < 0)
                        return -1;
        }
        return 0;
}

/* Check the number of arguments. Returns -1, with an exception set, if it is another. */
static int shm_arguments_check(const char *name, Py_ssize_t count, Py_ssize_t expected)
{
        if (count == expected)
                return 0;
        PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, not %zd", name, expected, count);
        return -1;
}

#endif /* SHM_ARGUMENTS_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dlpack.c - tensors of other libraries, as capsules of DLPack's Python protocol. Nothing is taken over: a capsule that
 * nobody has consumed gives its tensor back when it is collected, so that keeping the capsule keeps the memory.
 */
#ifndef SHM_DLPACK_BUILTINS_H
#define SHM_DLPACK_BUILTINS_H

/* dlpack_address(capsule): the address of the struct in a capsule, and whether it is the one with a version. TypeError. */
static PyObject *shm_dlpack_address(PyObject *self, PyObject *object)
{
        const char *name = PyCapsule_CheckExact(object) ? PyCapsule_GetName(object) : NULL;
        int is_versioned = name != NULL && strcmp(name, "dltensor_versioned") == 0;

        (void)self;
        if (!is_versioned && (name == NULL || strcmp(name, "dltensor") != 0)) {
                PyErr_Format(PyExc_TypeError, "%.40s is not a capsule with a tensor of DLPack's, or was used already",
                             name == NULL ? "this" : name);
                return NULL;
        }
        return Py_BuildValue("(NO)", PyLong_FromVoidPtr(PyCapsule_GetPointer(object, name)),
                             is_versioned ? Py_True : Py_False);
}

#endif /* SHM_DLPACK_BUILTINS_H */

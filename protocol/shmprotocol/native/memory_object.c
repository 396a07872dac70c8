/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_object.c - raw memory as a Python object: views and arrays use its buffer, and it is deallocated when
 * the last of them is gone. The garbage collector finalizes cffi's own buffers, and then a __del__ of an object in
 * the same cycle, which runs later, would read unmapped memory. This type has no finalizer and is not tracked: it
 * is deallocated with its last reference, as a bytes object is.
 */
#ifndef SHM_MEMORY_H
#define SHM_MEMORY_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <structmember.h>
#include <sys/syscall.h>
#include <unistd.h>

/* cffi: begin */

/* Python objects are passed by their id(); the caller holds a reference during the call. */
int shm_memory_new(uint64_t list, uint64_t address, uint64_t size, int is_writable, uint64_t on_release);
int64_t shm_memory_exports(uint64_t memory);
void shm_memory_disown(uint64_t memory);

/* cffi: end */

struct shm_memory {
        PyObject_HEAD
        PyObject *weak;       /* list of weak references, owned by the interpreter */
        PyObject *on_release; /* called on deallocation; NULL when disowned */
        void *address;
        Py_ssize_t size;
        int is_writable;
        int64_t exports; /* buffers taken and not yet released: changes with the GIL held */
};

/* A pending call of Python: raise what was put off. */
static int shm_raise_now(void *argument)
{
        PyObject *error = (PyObject *)argument;

        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
        return -1;
}

/*
 * Put an exception off that cannot be raised here, as in a destructor. In the main thread it is what a signal's handler
 * has raised, such as Ctrl-C, because what is called from here raises nothing by itself; and so it is raised where
 * Python goes on, as if the signal had come then. Anywhere else it is printed.
 */
static void shm_raise_later(PyObject *where)
{
        PyObject *kind, *error, *trace;

        if (syscall(SYS_gettid) == getpid()) {
                PyErr_Fetch(&kind, &error, &trace);
                PyErr_NormalizeException(&kind, &error, &trace);
                if (!Py_AddPendingCall(shm_raise_now, error)) { /* which owns it now */
                        Py_XDECREF(kind);
                        Py_XDECREF(trace);
                        return;
                }
                PyErr_Restore(kind, error, trace);
        }
        PyErr_WriteUnraisable(where);
}

static PyObject *shm_memory_type; /* set at first use, with the GIL held, and never changed again */

static int shm_memory_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
        struct shm_memory *memory = (struct shm_memory *)self;
        int error;

        if (memory->on_release == NULL) {
                view->obj = NULL;
                PyErr_SetString(PyExc_BufferError, "the memory is unmapped");
                return -1;
        }
        error = PyBuffer_FillInfo(view, self, memory->address, memory->size, !memory->is_writable, flags);
        if (!error)
                memory->exports++;
        return error;
}

static void shm_memory_releasebuffer(PyObject *self, Py_buffer *view)
{
        (void)view;
        ((struct shm_memory *)self)->exports--;
}

static void shm_memory_dealloc(PyObject *self)
{
        struct shm_memory *memory = (struct shm_memory *)self;
        PyTypeObject *type = Py_TYPE(self);
        PyObject *kind, *value, *trace, *result;

        PyErr_Fetch(&kind, &value, &trace); /* deallocation can happen while an exception is being raised */
        if (memory->weak != NULL)
                PyObject_ClearWeakRefs(self);
        if (memory->on_release != NULL) {
                result = PyObject_CallObject(memory->on_release, NULL);
                if (result == NULL)
                        shm_raise_later(memory->on_release);
                Py_XDECREF(result);
                Py_DECREF(memory->on_release);
        }
        PyErr_Restore(kind, value, trace);
        ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
        Py_DECREF((PyObject *)type);
}

static PyMemberDef shm_memory_members[] = {
        {"__weaklistoffset__", T_PYSSIZET, offsetof(struct shm_memory, weak), READONLY, NULL},
        {NULL, 0, 0, 0, NULL},
};

static PyType_Slot shm_memory_slots[] = {
        {Py_tp_dealloc, (void *)shm_memory_dealloc},
        {Py_tp_members, (void *)shm_memory_members},
        {Py_bf_getbuffer, (void *)shm_memory_getbuffer},
        {Py_bf_releasebuffer, (void *)shm_memory_releasebuffer},
        {0, NULL},
};

static PyType_Spec shm_memory_spec = {"shmprotocol.Memory", sizeof(struct shm_memory), 0, Py_TPFLAGS_DEFAULT,
                                      shm_memory_slots};

static PyObject *shm_memory_make(uint64_t address, uint64_t size, int is_writable, uint64_t on_release)
{
        struct shm_memory *memory;

        if (shm_memory_type == NULL)
                shm_memory_type = PyType_FromSpec(&shm_memory_spec);
        if (shm_memory_type == NULL)
                return NULL;
        memory = (struct shm_memory *)PyType_GenericAlloc((PyTypeObject *)shm_memory_type, 0);
        if (memory == NULL)
                return NULL;
        memory->address = (void *)(uintptr_t)address;
        memory->size = (Py_ssize_t)size;
        memory->is_writable = is_writable;
        memory->on_release = (PyObject *)(uintptr_t)on_release;
        Py_INCREF(memory->on_release);
        return (PyObject *)memory;
}

/* Append to a list an object whose buffer is raw memory. -ENOMEM: no memory for the object. */
int shm_memory_new(uint64_t list, uint64_t address, uint64_t size, int is_writable, uint64_t on_release)
{
        PyGILState_STATE state = PyGILState_Ensure();
        PyObject *memory = shm_memory_make(address, size, is_writable, on_release);
        int error = memory == NULL || PyList_Append((PyObject *)(uintptr_t)list, memory) < 0 ? -ENOMEM : 0;

        if (error)
                PyErr_Clear();
        if (error && memory != NULL)
                Py_CLEAR(((struct shm_memory *)memory)->on_release); /* the caller does the cleanup itself */
        Py_XDECREF(memory);
        PyGILState_Release(state);
        return error;
}

/* Return the number of its buffers in use: views, arrays, pins. */
int64_t shm_memory_exports(uint64_t memory)
{
        return ((struct shm_memory *)(uintptr_t)memory)->exports;
}

/* Disown the object: it never calls on_release. It must have no exports, and gives none from now on. */
void shm_memory_disown(uint64_t memory)
{
        PyGILState_STATE state = PyGILState_Ensure();

        Py_CLEAR(((struct shm_memory *)(uintptr_t)memory)->on_release);
        PyGILState_Release(state);
}

#endif /* SHM_MEMORY_H */

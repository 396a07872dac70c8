/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exporter.c - the base of handles that have a buffer, as memoryview() asks for it: that of what their method
 * _exported() returns. Python has __buffer__ for that from 3.12 on.
 */
#ifndef SHM_EXPORTER_H
#define SHM_EXPORTER_H

/* The view is one of the other object, which keeps the memory: it is released there. */
static int shm_exporter_get(PyObject *self, Py_buffer *view, int flags)
{
        PyObject *exported = PyObject_CallMethod(self, "_exported", NULL);
        int error;

        view->obj = NULL;
        if (exported == NULL)
                return -1;
        error = PyObject_GetBuffer(exported, view, flags);
        Py_DECREF(exported);
        return error;
}

/* Whether a view that was taken of an object is that of a handle: pins hold all of a region, with its header page. */
static int shm_exporter_is(const Py_buffer *view, PyObject *object)
{
        return view->obj != object && PyType_GetSlot(Py_TYPE(object), Py_bf_getbuffer) == (void *)shm_exporter_get;
}

static PyType_Slot shm_exporter_slots[] = {
        {Py_bf_getbuffer, (void *)shm_exporter_get},
        {0, NULL},
};

static PyType_Spec shm_exporter_spec = {"shmprotocol.Exporter", sizeof(PyObject), 0,
                                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, shm_exporter_slots};

#endif /* SHM_EXPORTER_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * assign.c - the request that names a filled spare: the frame read, and what the host decides put to it. See
 * wire/shortcut.py, which says what is recognised. As in shortcut.c, no length of a peer is used unchecked.
 */
#ifndef SHM_ASSIGN_H
#define SHM_ASSIGN_H

#include <stdint.h>

#define SHM_ASSIGN_SPARES_MAX 15 /* spares of a request on this road: their number is one byte */

/* Read the sizes of an array; NULL: an exception is set, or (without one) something else is there. */
static PyObject *shm_frame_sizes(struct shm_frame *frame)
{
        uint64_t count, size, i;
        PyObject *sizes, *item;

        if (!shm_frame_array(frame, SHM_ASSIGN_SPARES_MAX, &count))
                return NULL;
        sizes = PyTuple_New((Py_ssize_t)count);
        for (i = 0; i < count && sizes != NULL; i++) {
                item = shm_frame_integer(frame, &size) ? PyLong_FromUnsignedLongLong(size) : NULL;
                if (item == NULL || PyTuple_SetItem(sizes, (Py_ssize_t)i, item) < 0)
                        Py_CLEAR(sizes);
        }
        return sizes;
}

/* Read what is left of an Assign, as `parse_assign` has it; NULL: as for shm_frame_sizes(). */
static PyObject *shm_frame_assign(struct shm_frame *frame, uint64_t releases, PyObject *leases)
{
        uint64_t id, region, name_size, mode, size, data_size, metadata, metadata_size;
        PyObject *text, *sizes;
        const char *name;
        int replace;

        if (!shm_frame_integer(frame, &id) || !shm_frame_integer(frame, &region) ||
            !shm_frame_string(frame, &name, &name_size) || !shm_frame_integer(frame, &mode) ||
            !shm_frame_bool(frame, &replace) || !shm_frame_integer(frame, &size) ||
            !shm_frame_integer(frame, &data_size) || !shm_frame_integer(frame, &metadata) ||
            !shm_frame_integer(frame, &metadata_size))
                return NULL;
        sizes = shm_frame_sizes(frame);
        text = sizes != NULL && frame->at == frame->end
                       ? PyUnicode_DecodeUTF8(name, (Py_ssize_t)name_size, NULL)
                       : NULL;
        if (text == NULL) {
                Py_XDECREF(sizes);
                return NULL;
        }
        return Py_BuildValue("(KOKKNKOKKKKN)", (unsigned long long)releases, leases, (unsigned long long)id,
                             (unsigned long long)region, text, (unsigned long long)mode, replace ? Py_True : Py_False,
                             (unsigned long long)size, (unsigned long long)data_size, (unsigned long long)metadata,
                             (unsigned long long)metadata_size, sizes);
}

/* parse_assign(data): see wire/shortcut.py. */
static PyObject *shm_parse_assign(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        PyObject *leases, *answer = NULL;
        struct shm_frame data, frame;
        uint64_t releases;
        Py_ssize_t size;
        char *bytes;

        (void)self;
        if (shm_arguments_check("parse_assign", count, 1) < 0 ||
            PyBytes_AsStringAndSize(arguments[0], &bytes, &size) < 0)
                return NULL;
        data.at = (const uint8_t *)bytes;
        data.end = data.at + size;
        leases = PyList_New(0);
        if (leases == NULL)
                return NULL;
        if (shm_frames_read_last(data, "\x9c\x10\x00", leases, &releases, &frame) > 0) /* an array of 12: Assign */
                answer = shm_frame_assign(&frame, releases, leases);
        Py_DECREF(leases);
        if (answer == NULL && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
                PyErr_Clear();
        return answer == NULL && !PyErr_Occurred() ? Py_NewRef(Py_None) : answer;
}

/* parse_request(data, current): see wire/shortcut.py. */
static PyObject *shm_parse_request(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        PyObject *answer = shm_parse_attach(self, arguments, count);

        if (answer == Py_None) {
                Py_DECREF(answer);
                answer = shm_parse_put(self, arguments, 1);
        }
        if (answer == Py_None) {
                Py_DECREF(answer);
                answer = shm_parse_assign(self, arguments, 1);
        }
        return answer;
}

/* Read the answer of parse_assign; -1: an exception is set. */
static int shm_assign_read(PyObject *parsed, struct shm_publication *out)
{
        PyObject *name = PyTuple_GetItem(parsed, 4);

        if (name == NULL || (out->name = PyUnicode_AsUTF8AndSize(name, &out->name_size)) == NULL ||
            shm_numbers(parsed, 2, &out->request, 1) < 0 || shm_numbers(parsed, 3, &out->region, 1) < 0 ||
            shm_numbers(parsed, 7, &out->size, 1) < 0 || shm_numbers(parsed, 8, &out->data_size, 1) < 0 ||
            shm_numbers(parsed, 9, &out->metadata, 1) < 0 || shm_numbers(parsed, 10, &out->metadata_size, 1) < 0)
                return -1;
        if (out->name_size < 1 || out->name_size > SHM_NAME_MAX || out->size > INT64_MAX / 2 ||
            out->data_size > out->size || out->metadata > out->size ||
            out->metadata_size > out->size - out->metadata) {
                PyErr_SetString(PyExc_ValueError, "the name is empty or too long, or a part is not in the payload");
                return -1;
        }
        return 0;
}

/* The frame that answers an Assign, with spares of (region, address, capacity); NULL: an exception is set. */
static PyObject *shm_assign_frame(const struct shm_publication *publication, PyObject *grant, PyObject *spares)
{
        uint8_t bytes[SHM_ASSIGN_SPARES_MAX * (1 + 3 * 9)], *at = bytes;
        Py_ssize_t count = PyTuple_Size(spares), i;
        uint64_t numbers[3];
        int j;

        if (count < 0 || count > SHM_ASSIGN_SPARES_MAX) {
                PyErr_SetString(PyExc_ValueError, "there are too many spares");
                return NULL;
        }
        for (i = 0; i < count; i++) {
                if (shm_numbers(PyTuple_GetItem(spares, i), 0, numbers, 3) < 0)
                        return NULL;
                *at++ = 0x93; /* an array of 3 */
                for (j = 0; j < 3; j++)
                        at = shm_put_integer(at, numbers[j]);
        }
        return shm_published_frame_of(publication->request, publication->lease, grant, bytes, (size_t)(at - bytes),
                                      (uint8_t)count);
}

#endif /* SHM_ASSIGN_H */

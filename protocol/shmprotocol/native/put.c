/* SPDX-License-Identifier: Apache-2.0 */
/*
 * put.c - a small value that comes with its request: the frame read, the answer written. See wire/shortcut.py, which says
 * what is recognised, and sealed.c for the object. As in shortcut.c, no length of a peer is used unchecked.
 */
#ifndef SHM_PUT_H
#define SHM_PUT_H

#include <stdint.h>

/* What a Put says. The pointers are into its frame. */
struct shm_put {
        uint64_t id;
        uint64_t mode;
        uint64_t data_size;
        uint64_t metadata;
        uint64_t metadata_size;
        const char *name;
        uint64_t name_size;
        const uint8_t *payload;
        uint64_t size;
        int replace;
};

/* Read true or false; 0: something else is there. */
static int shm_frame_bool(struct shm_frame *frame, int *value_out)
{
        if (frame->at == frame->end || (*frame->at != 0xc2 && *frame->at != 0xc3))
                return 0;
        *value_out = *frame->at++ == 0xc3;
        return 1;
}

/* Read a byte string; 0: something else is there. */
static int shm_frame_bytes(struct shm_frame *frame, const uint8_t **bytes_out, uint64_t *size_out)
{
        uint8_t first;

        if (frame->at == frame->end)
                return 0;
        first = *frame->at++;
        if (first < 0xc4 || first > 0xc6 || !shm_frame_number(frame, 1 << (first - 0xc4), size_out) ||
            (uint64_t)(frame->end - frame->at) < *size_out)
                return 0;
        *bytes_out = frame->at;
        frame->at += *size_out;
        return 1;
}

/* Read what is left of a Put behind its number of descriptors; 0: it is something else. */
static int shm_frame_put(struct shm_frame *frame, struct shm_put *put_out)
{
        return shm_frame_integer(frame, &put_out->id) &&
               shm_frame_string(frame, &put_out->name, &put_out->name_size) &&
               shm_frame_integer(frame, &put_out->mode) && shm_frame_bool(frame, &put_out->replace) &&
               shm_frame_integer(frame, &put_out->data_size) && shm_frame_integer(frame, &put_out->metadata) &&
               shm_frame_integer(frame, &put_out->metadata_size) &&
               shm_frame_bytes(frame, &put_out->payload, &put_out->size) && frame->at == frame->end;
}

/*
 * Read Releases, and then a last frame that begins with these three bytes; give what follows them. 0: the data is
 * something else; -1: an exception is set.
 */
static int shm_frames_read_last(struct shm_frame data, const char *begin, PyObject *leases, uint64_t *releases_out,
                                struct shm_frame *frame_out)
{
        int result = 1;

        *releases_out = 0;
        while (result > 0 && shm_frame_next(&data, frame_out)) {
                if (shm_frame_skip(frame_out, begin, 3))
                        return data.at == data.end;
                if (!shm_frame_skip(frame_out, "\x94\x06\x00\x00", 4)) /* an array of 4: Release, none, id 0 */
                        return 0;
                result = shm_frame_release(frame_out, leases);
                ++*releases_out;
        }
        return result < 0 ? -1 : 0;
}

/* Read Releases, and then a Put. 0: the data is something else; -1: an exception is set. */
static int shm_frames_read_put(struct shm_frame data, PyObject *leases, uint64_t *releases_out,
                               struct shm_put *put_out)
{
        struct shm_frame frame;
        int result = shm_frames_read_last(data, "\x9a\x0f\x00", leases, releases_out, &frame); /* of 10: Put */

        return result > 0 ? shm_frame_put(&frame, put_out) : result;
}

/* The answer of parse_put; NULL: no memory, or (without an exception) the name is not UTF-8. */
static PyObject *shm_put_parsed(const struct shm_put *put, const char *bytes, uint64_t releases, PyObject *leases)
{
        PyObject *name = PyUnicode_DecodeUTF8(put->name, (Py_ssize_t)put->name_size, NULL), *answer = NULL;

        if (name != NULL)
                answer = Py_BuildValue("(KOKOKOKKKnn)", (unsigned long long)releases, leases,
                                       (unsigned long long)put->id, name, (unsigned long long)put->mode,
                                       put->replace ? Py_True : Py_False, (unsigned long long)put->data_size,
                                       (unsigned long long)put->metadata, (unsigned long long)put->metadata_size,
                                       (Py_ssize_t)(put->payload - (const uint8_t *)bytes), (Py_ssize_t)put->size);
        else if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
                PyErr_Clear();
        Py_XDECREF(name);
        return answer;
}

/* parse_put(data): see wire/shortcut.py. */
static PyObject *shm_parse_put(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        PyObject *leases, *answer = NULL;
        struct shm_frame data;
        struct shm_put put;
        uint64_t releases;
        Py_ssize_t size;
        char *bytes;
        int result;

        (void)self;
        if (shm_arguments_check("parse_put", count, 1) < 0 || PyBytes_AsStringAndSize(arguments[0], &bytes, &size) < 0)
                return NULL;
        data.at = (const uint8_t *)bytes;
        data.end = data.at + size;
        leases = PyList_New(0);
        if (leases == NULL)
                return NULL;
        result = shm_frames_read_put(data, leases, &releases, &put);
        if (result > 0)
                answer = shm_put_parsed(&put, bytes, releases, leases);
        Py_DECREF(leases);
        return answer == NULL && !PyErr_Occurred() ? Py_NewRef(Py_None) : answer;
}

/*
 * The frame of a Published, of a grant that is packed but for its lease, and of spares that are packed but for their
 * number, which is below 16; NULL: an exception is set.
 */
static PyObject *shm_published_frame_of(uint64_t id, uint64_t lease, PyObject *packed, const uint8_t *spares,
                                        size_t spares_size, uint8_t spare_count)
{
        struct shm_grant grant = {.lease = lease};
        Py_ssize_t packed_size;
        PyObject *frame;
        char *text;
        uint8_t *at;
        size_t size, i;

        if (PyBytes_AsStringAndSize(packed, &text, &packed_size) < 0)
                return NULL;
        if (packed_size == 0) {
                PyErr_SetString(PyExc_ValueError, "a packed grant is empty");
                return NULL;
        }
        grant.packed = text;
        grant.size = (size_t)packed_size;
        size = 4 + (size_t)shm_integer_size(id) + grant.size + (size_t)shm_integer_size(lease) + 1 + spares_size;
        frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(SHM_FRAME_PREFIX + size));
        if (frame == NULL)
                return NULL;
        at = (uint8_t *)PyBytes_AsString(frame);
        for (i = 0; i < SHM_FRAME_PREFIX; i++)
                *at++ = (uint8_t)(size >> 8 * i);
        memcpy(at, "\x95\xcc\x83", 3); /* an array of 5: Published, its descriptors, the id, the grant, the spares */
        at[3] = (uint8_t)(1 + spare_count);
        at = shm_put_grant(shm_put_integer(at + 4, id), &grant);
        *at++ = (uint8_t)(0x90 + spare_count);
        memcpy(at, spares, spares_size);
        return frame;
}

static PyObject *shm_published_frame(uint64_t id, uint64_t lease, PyObject *packed)
{
        return shm_published_frame_of(id, lease, packed, (const uint8_t *)"", 0, 0);
}

/* pack_published(id, lease, grant): see wire/shortcut.py. */
static PyObject *shm_pack_published(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        uint64_t id, lease;

        (void)self;
        if (shm_arguments_check("pack_published", count, 3) < 0 || shm_argument(arguments, 0, &id) < 0 ||
            shm_argument(arguments, 1, &lease) < 0)
                return NULL;
        return shm_published_frame(id, lease, arguments[2]);
}

#endif /* SHM_PUT_H */

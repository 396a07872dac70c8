/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shortcut.c - the frames of an attach, read and written without msgpack: see wire/shortcut.py, which says what is
 * recognised. Every length comes from a peer, and is compared with what is left before it is used.
 */
#ifndef SHM_SHORTCUT_H
#define SHM_SHORTCUT_H

#include <stdint.h>
#include <string.h>

#define SHM_FRAME_PREFIX 4       /* bytes: the length, little-endian */
#define SHM_FRAME_NAMES_MAX 64   /* MAX_DESCRIPTORS of wire/names.py */
#define SHM_FRAME_ARRAY_MAX 4096 /* MAX_ARRAY, likewise */

/* What is left of a frame. */
struct shm_frame {
        const uint8_t *at;
        const uint8_t *end;
};

/* Whether the frame goes on with these bytes, which are then behind us. */
static int shm_frame_skip(struct shm_frame *frame, const char *bytes, size_t size)
{
        if ((size_t)(frame->end - frame->at) < size || memcmp(frame->at, bytes, size) != 0)
                return 0;
        frame->at += size;
        return 1;
}

/* Read a big-endian number of 1 to 8 bytes; 0: the frame is shorter. */
static int shm_frame_number(struct shm_frame *frame, int size, uint64_t *value_out)
{
        uint64_t value = 0;

        if (frame->end - frame->at < size)
                return 0;
        while (size-- > 0)
                value = value << 8 | *frame->at++;
        *value_out = value;
        return 1;
}

/* Read an unsigned integer; 0: something else is there. */
static int shm_frame_integer(struct shm_frame *frame, uint64_t *value_out)
{
        uint8_t first;

        if (frame->at == frame->end)
                return 0;
        first = *frame->at++;
        if (first < 0x80) {
                *value_out = first;
                return 1;
        }
        return first >= 0xcc && first <= 0xcf && shm_frame_number(frame, 1 << (first - 0xcc), value_out);
}

/* Read the header of an array of at most `max` items; 0: something else is there. */
static int shm_frame_array(struct shm_frame *frame, uint64_t max, uint64_t *count_out)
{
        uint8_t first;

        if (frame->at == frame->end)
                return 0;
        first = *frame->at++;
        *count_out = first & 0x0f;
        return (first >> 4 == 0x9 || (first == 0xdc && shm_frame_number(frame, 2, count_out))) && *count_out <= max;
}

/* Read a string of up to 255 bytes; 0: something else is there. */
static int shm_frame_string(struct shm_frame *frame, const char **text_out, uint64_t *size_out)
{
        uint8_t first;

        if (frame->at == frame->end)
                return 0;
        first = *frame->at++;
        *size_out = first & 0x1f;
        if (first >> 5 != 0x5 && !(first == 0xd9 && shm_frame_number(frame, 1, size_out)))
                return 0;
        if ((uint64_t)(frame->end - frame->at) < *size_out)
                return 0;
        *text_out = (const char *)frame->at;
        frame->at += *size_out;
        return 1;
}

/* Append the leases of a Release to a list. 0: it is something else; -1: an exception is set. */
static int shm_frame_release(struct shm_frame *frame, PyObject *leases)
{
        uint64_t count, lease;
        PyObject *number;
        int error;

        if (!shm_frame_array(frame, SHM_FRAME_ARRAY_MAX, &count))
                return 0;
        while (count-- > 0) {
                if (!shm_frame_integer(frame, &lease))
                        return 0;
                number = PyLong_FromUnsignedLongLong(lease);
                error = number == NULL || PyList_Append(leases, number) < 0;
                Py_XDECREF(number);
                if (error)
                        return -1;
        }
        return frame->at == frame->end;
}

/* Return what a dict has for the name that comes next, borrowed; NULL, perhaps with an exception set, if it has none. */
static PyObject *shm_frame_find(struct shm_frame *frame, PyObject *current)
{
        const char *text;
        uint64_t size;
        PyObject *name, *value;

        if (!shm_frame_string(frame, &text, &size))
                return NULL;
        name = PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, NULL);
        if (name == NULL) {
                if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
                        PyErr_Clear();
                return NULL;
        }
        value = PyDict_GetItemWithError(current, name);
        Py_DECREF(name);
        return value;
}

/* Append what an Open opens to a list, and note its id. 0: it is something else; -1: an exception is set. */
static int shm_frame_open(struct shm_frame *frame, PyObject *current, PyObject *opened, uint64_t *id_out)
{
        uint64_t count;
        PyObject *value;

        if (!shm_frame_integer(frame, id_out) || !shm_frame_array(frame, SHM_FRAME_NAMES_MAX, &count) || count == 0)
                return 0;
        while (count-- > 0) {
                value = shm_frame_find(frame, current);
                if (value == NULL)
                        return PyErr_Occurred() ? -1 : 0;
                if (PyList_Append(opened, value) < 0)
                        return -1;
        }
        return shm_frame_skip(frame, "\x90\xc2", 2) && frame->at == frame->end; /* nothing held, no wait */
}

/* Take the next whole frame off the data; 0: it is not whole. */
static int shm_frame_next(struct shm_frame *data, struct shm_frame *frame_out)
{
        uint64_t length;

        if (data->end - data->at < SHM_FRAME_PREFIX)
                return 0;
        length = data->at[0] | data->at[1] << 8 | data->at[2] << 16 | (uint64_t)data->at[3] << 24;
        if ((uint64_t)(data->end - data->at - SHM_FRAME_PREFIX) < length)
                return 0;
        frame_out->at = data->at + SHM_FRAME_PREFIX;
        frame_out->end = data->at = frame_out->at + length;
        return 1;
}

/* Read Releases, and then an Open or nothing. 0: the data is something else; -1: an exception is set. */
static int shm_frames_read(struct shm_frame data, PyObject *current, PyObject *leases, PyObject *opened,
                           uint64_t *releases_out, uint64_t *id_out)
{
        struct shm_frame frame;
        int result;

        *releases_out = *id_out = 0;
        do {
                if (!shm_frame_next(&data, &frame))
                        return 0;
                if (shm_frame_skip(&frame, "\x96\x05\x00", 3)) /* an array of 6: Open, no descriptors */
                        return data.at == data.end ? shm_frame_open(&frame, current, opened, id_out) : 0;
                if (!shm_frame_skip(&frame, "\x94\x06\x00\x00", 4)) /* an array of 4: Release, none, id 0 */
                        return 0;
                result = shm_frame_release(&frame, leases);
                ++*releases_out;
        } while (result > 0 && data.at != data.end);
        return result;
}

/* parse_attach(data, current): see wire/shortcut.py. */
static PyObject *shm_parse_attach(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        PyObject *leases, *opened, *answer = NULL;
        struct shm_frame data;
        uint64_t releases, id;
        Py_ssize_t size;
        char *bytes;
        int result;

        (void)self;
        if (shm_arguments_check("parse_attach", count, 2) < 0 ||
            PyBytes_AsStringAndSize(arguments[0], &bytes, &size) < 0)
                return NULL;
        data.at = (const uint8_t *)bytes;
        data.end = data.at + size;
        leases = PyList_New(0);
        opened = PyList_New(0);
        result = leases == NULL || opened == NULL ? -1
                 : shm_frames_read(data, arguments[1], leases, opened, &releases, &id);
        if (result > 0)
                answer = Py_BuildValue("(KOKO)", (unsigned long long)releases, leases, (unsigned long long)id, opened);
        else if (result == 0)
                answer = Py_NewRef(Py_None);
        Py_XDECREF(leases);
        Py_XDECREF(opened);
        return answer;
}

static int shm_integer_size(uint64_t value)
{
        return value < 0x80 ? 1 : value <= UINT8_MAX ? 2 : value <= UINT16_MAX ? 3 : value <= UINT32_MAX ? 5 : 9;
}

static uint8_t *shm_put_integer(uint8_t *at, uint64_t value)
{
        int size = shm_integer_size(value) - 1;

        if (size == 0) {
                *at++ = (uint8_t)value;
                return at;
        }
        *at++ = size == 1 ? 0xcc : size == 2 ? 0xcd : size == 4 ? 0xce : 0xcf;
        while (size-- > 0)
                *at++ = (uint8_t)(value >> 8 * size);
        return at;
}

/* A grant is packed but for its lease: that goes behind the first byte, the header of its array. */
struct shm_grant {
        uint64_t lease;
        const char *packed;
        size_t size;
};

/* Read a grant from the lists of leases and of packed grants. -1: an exception is set. */
static int shm_grant_read(PyObject *leases, PyObject *packed, Py_ssize_t index, struct shm_grant *grant_out)
{
        PyObject *lease = PyList_GetItem(leases, index), *bytes = PyList_GetItem(packed, index);
        Py_ssize_t size;
        char *text;

        if (lease == NULL || bytes == NULL || PyBytes_AsStringAndSize(bytes, &text, &size) < 0)
                return -1;
        if (size == 0) {
                PyErr_SetString(PyExc_ValueError, "a packed grant is empty");
                return -1;
        }
        grant_out->packed = text;
        grant_out->size = (size_t)size;
        return shm_argument(&lease, 0, &grant_out->lease);
}

static uint8_t *shm_put_grant(uint8_t *at, const struct shm_grant *grant)
{
        *at++ = (uint8_t)grant->packed[0];
        at = shm_put_integer(at, grant->lease);
        memcpy(at, grant->packed + 1, grant->size - 1);
        return at + grant->size - 1;
}

/* Return the frame of an Opened with these grants, each of which has a descriptor. */
static PyObject *shm_opened_frame(uint64_t id, const struct shm_grant *grants, size_t count)
{
        size_t size = 4 + (size_t)shm_integer_size(id) + (count < 16 ? 1 : 3), i;
        PyObject *frame;
        uint8_t *at;

        for (i = 0; i < count; i++)
                size += grants[i].size + (size_t)shm_integer_size(grants[i].lease);
        frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(SHM_FRAME_PREFIX + size));
        if (frame == NULL)
                return NULL;
        at = (uint8_t *)PyBytes_AsString(frame);
        for (i = 0; i < SHM_FRAME_PREFIX; i++)
                *at++ = (uint8_t)(size >> 8 * i);
        memcpy(at, "\x94\xcc\x84", 3); /* an array of 4: Opened, the number of descriptors, the id, the grants */
        at[3] = (uint8_t)count;
        at = shm_put_integer(at + 4, id);
        if (count >= 16) {
                *at++ = 0xdc;
                *at++ = 0;
        }
        *at++ = (uint8_t)(count < 16 ? 0x90 | count : count);
        for (i = 0; i < count; i++)
                at = shm_put_grant(at, &grants[i]);
        return frame;
}

/* pack_opened(id, leases, grants): see wire/shortcut.py. */
static PyObject *shm_pack_opened(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_grant grants[SHM_FRAME_NAMES_MAX];
        Py_ssize_t length, i;
        uint64_t id;

        (void)self;
        if (shm_arguments_check("pack_opened", count, 3) < 0 || shm_argument(arguments, 0, &id) < 0)
                return NULL;
        length = PyList_Size(arguments[2]);
        if (length > SHM_FRAME_NAMES_MAX) {
                PyErr_Format(PyExc_ValueError, "%zd grants are over the %d of a frame", length, SHM_FRAME_NAMES_MAX);
                return NULL;
        }
        for (i = 0; i < length; i++)
                if (shm_grant_read(arguments[1], arguments[2], i, &grants[i]) < 0)
                        return NULL;
        return length < 0 ? NULL : shm_opened_frame(id, grants, (size_t)length);
}

#endif /* SHM_SHORTCUT_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * put.c - a small value that comes with its request: the frame read, the object made, the answer written. See
 * wire/shortcut.py, which says what is recognised. As in shortcut.c, no length of a peer is used unchecked.
 */
#ifndef SHM_PUT_H
#define SHM_PUT_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x8U /* linux/memfd.h, Linux 6.3 */
#endif

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

/* Read Releases, and then a Put. 0: the data is something else; -1: an exception is set. */
static int shm_frames_read_put(struct shm_frame data, PyObject *leases, uint64_t *releases_out,
                               struct shm_put *put_out)
{
        struct shm_frame frame;
        int result = 1;

        *releases_out = 0;
        while (result > 0 && shm_frame_next(&data, &frame)) {
                if (shm_frame_skip(&frame, "\x9a\x0f\x00", 3)) /* an array of 10: Put, no descriptors */
                        return data.at == data.end ? shm_frame_put(&frame, put_out) : 0;
                if (!shm_frame_skip(&frame, "\x94\x06\x00\x00", 4)) /* an array of 4: Release, none, id 0 */
                        return 0;
                result = shm_frame_release(&frame, leases);
                ++*releases_out;
        }
        return result < 0 ? -1 : 0;
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

/* Return a new memory object, not executable where the kernel knows that; -errno. */
static int shm_put_create(const char *label)
{
        int fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

        if (fd < 0 && errno == EINVAL) /* Linux before 6.3 */
                fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        return fd < 0 ? -errno : fd;
}

/* Size, fill and seal an object, which nobody else has; -errno. */
static int shm_put_fill(int fd, const struct iovec *parts, off_t capacity)
{
        ssize_t written;

        /* As for any other object: see Memfd. */
        if (ftruncate(fd, capacity) || fchmod(fd, 0444))
                return -errno;
        written = pwritev(fd, parts, 2, 0);
        if (written != (ssize_t)(parts[0].iov_len + parts[1].iov_len))
                return written < 0 ? -errno : -ENOMEM;
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
                return -errno;
        return 0;
}

/* Return a read-only descriptor of a new object with this content, which nobody can write any more; -errno. */
static int shm_put_make(const char *label, const struct iovec *parts, off_t capacity)
{
        int fd = shm_put_create(label), reader;
        char path[32];

        if (fd < 0)
                return fd;
        reader = shm_put_fill(fd, parts, capacity);
        if (!reader) {
                (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
                reader = open(path, O_RDONLY | O_CLOEXEC);
                if (reader < 0)
                        reader = -errno;
        }
        (void)close(fd);
        return reader;
}

/* make_sealed(label, capacity, header, data, start, size): see builtins.pyi. */
static PyObject *shm_make_sealed(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        uint64_t capacity, start, size;
        Py_ssize_t header_size, data_size;
        char *label, *header, *data;
        struct iovec parts[2];
        int fd;

        (void)self;
        if (shm_arguments_check("make_sealed", count, 6) < 0 ||
            PyBytes_AsStringAndSize(arguments[0], &label, NULL) < 0 || shm_argument(arguments, 1, &capacity) < 0 ||
            PyBytes_AsStringAndSize(arguments[2], &header, &header_size) < 0 ||
            PyBytes_AsStringAndSize(arguments[3], &data, &data_size) < 0 || shm_argument(arguments, 4, &start) < 0 ||
            shm_argument(arguments, 5, &size) < 0)
                return NULL;
        if (start > (uint64_t)data_size || size > (uint64_t)data_size - start || capacity > INT64_MAX) {
                PyErr_SetString(PyExc_ValueError, "this part is not in the data");
                return NULL;
        }
        parts[0].iov_base = header;
        parts[0].iov_len = (size_t)header_size;
        parts[1].iov_base = data + start;
        parts[1].iov_len = (size_t)size;
        fd = shm_put_make(label, parts, (off_t)capacity);
        if (fd >= 0)
                return PyLong_FromLong(fd);
        errno = -fd;
        return PyErr_SetFromErrno(PyExc_OSError);
}

/* pack_published(id, lease, grant): see wire/shortcut.py. */
static PyObject *shm_pack_published(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_grant grant;
        Py_ssize_t packed_size;
        PyObject *frame;
        char *packed;
        uint8_t *at;
        uint64_t id;
        size_t size, i;

        (void)self;
        if (shm_arguments_check("pack_published", count, 3) < 0 || shm_argument(arguments, 0, &id) < 0 ||
            shm_argument(arguments, 1, &grant.lease) < 0 ||
            PyBytes_AsStringAndSize(arguments[2], &packed, &packed_size) < 0)
                return NULL;
        if (packed_size == 0) {
                PyErr_SetString(PyExc_ValueError, "a packed grant is empty");
                return NULL;
        }
        grant.packed = packed;
        grant.size = (size_t)packed_size;
        size = 4 + (size_t)shm_integer_size(id) + grant.size + (size_t)shm_integer_size(grant.lease) + 1;
        frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(SHM_FRAME_PREFIX + size));
        if (frame == NULL)
                return NULL;
        at = (uint8_t *)PyBytes_AsString(frame);
        for (i = 0; i < SHM_FRAME_PREFIX; i++)
                *at++ = (uint8_t)(size >> 8 * i);
        memcpy(at, "\x95\xcc\x83\x01", 4); /* an array of 5: Published, one descriptor, the id, the grant, no spares */
        at = shm_put_integer(at + 4, id);
        *shm_put_grant(at, &grant) = 0x90;
        return frame;
}

#endif /* SHM_PUT_H */

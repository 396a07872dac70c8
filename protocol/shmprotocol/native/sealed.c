/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sealed.c - the object of a small value: made, written and sealed in one call, with the answer that says so. Nobody
 * but the host ever has a descriptor of it that can write, so that nothing makes these calls wait. See put.c.
 */
#ifndef SHM_SEALED_H
#define SHM_SEALED_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shm_board.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x8U /* linux/memfd.h, Linux 6.3 */
#endif

#define SHM_LABEL "shmhost:"
#define SHM_LABEL_MAX 200    /* bytes of a name that an object says in /proc, as Memfd does */
#define SHM_SEALED_MAX 65536 /* bytes of a payload: it is a part of a request */
#define SHM_SEALED_WAITED_NS 50000000u /* an attempt that took longer has waited for pages in use */

static const uint8_t shm_zeros[SHM_HEADER_SIZE];

/* Return a new memory object, not executable where the kernel knows that; -errno. */
static int shm_sealed_create(const char *label)
{
        int fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

        if (fd < 0 && errno == EINVAL) /* Linux before 6.3 */
                fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        return fd < 0 ? -errno : fd;
}

/*
 * Write an object's whole content: header, payload, and zeros up to its capacity. -errno. Zeros to the end of the last
 * page cost nothing, because the kernel would write them there, and save an ftruncate.
 */
static int shm_sealed_write(int fd, const struct iovec *content, size_t capacity)
{
        size_t used = content[0].iov_len + content[1].iov_len, rest = capacity - used;
        struct iovec parts[3] = {content[0], content[1], {(void *)(uintptr_t)shm_zeros, rest}};
        ssize_t written;

        if (rest > sizeof(shm_zeros))
                parts[2].iov_len = 0;
        written = pwritev(fd, parts, 3, 0);
        if (written == (ssize_t)capacity)
                return 0;
        if (written < 0)
                return -errno;
        /* What stops a write in its middle says why here: a limit of file sizes. Else it was memory. */
        if (ftruncate(fd, (off_t)capacity))
                return -errno;
        return written == (ssize_t)used && rest > sizeof(shm_zeros) ? 0 : -ENOMEM;
}

/*
 * Add seals; -1 and errno. Nobody needs to have done anything for the kernel to find a page in use: it then waits for
 * 0.16 s, and gives up; in 1 of 30,000 puts of 1 MiB (Linux 6.18, 2026-11). So that is tried again, once. With a
 * writable mapping it gives up at once, and so does this.
 */
static int shm_sealed_seal(int fd, int seals)
{
        uint64_t began_ns = shm_now_ns();

        if (!fcntl(fd, F_ADD_SEALS, seals))
                return 0;
        if (errno != EBUSY || shm_now_ns() - began_ns < SHM_SEALED_WAITED_NS)
                return -1;
        return fcntl(fd, F_ADD_SEALS, seals);
}

/* Fill and seal an object, which nobody else has; -errno. */
static int shm_sealed_fill(int fd, const struct iovec *content, size_t capacity)
{
        int error;

        if (fchmod(fd, 0444)) /* as for any other object: see Memfd */
                return -errno;
        error = shm_sealed_write(fd, content, capacity);
        if (!error && shm_sealed_seal(fd, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
                error = -errno;
        return error;
}

/* Return a read-only descriptor of an object; -errno. */
static int shm_sealed_reopen(int fd)
{
        char path[32];
        int reader;

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        reader = open(path, O_RDONLY | O_CLOEXEC);
        return reader < 0 ? -errno : reader;
}

/* Return a read-only descriptor of a new object with this content, which nobody can write any more; -errno. */
static int shm_sealed_make(const char *label, const struct iovec *content, size_t capacity)
{
        int fd = shm_sealed_create(label), reader;

        if (fd < 0)
                return fd;
        reader = shm_sealed_fill(fd, content, capacity);
        if (!reader)
                reader = shm_sealed_reopen(fd);
        (void)close(fd);
        return reader;
}

/* A Put that is published: what it says, and what the host decides. */
struct shm_publication {
        uint64_t request;
        uint64_t mode;
        const char *name;
        Py_ssize_t name_size;
        uint64_t data_size;
        uint64_t metadata;
        uint64_t metadata_size;
        uint64_t start;
        uint64_t size;
        uint64_t owner[3]; /* uid, gid, pid */
        uint64_t window[2]; /* base, size */
        uint64_t span[2];  /* address, and the bytes up to the next region's */
        uint64_t region;
        uint64_t generation;
        uint64_t created_ns;
        uint64_t lease;
        uint64_t line;
        uint64_t rights;
        uint64_t word; /* the address of the board's line; 0: there is none */
};

static uint64_t shm_publication_capacity(const struct shm_publication *publication)
{
        return (SHM_HEADER_SIZE + publication->size + SHM_HEADER_SIZE - 1) / SHM_HEADER_SIZE * SHM_HEADER_SIZE;
}

/* Read the answer of parse_put; -1: an exception is set. */
static int shm_publication_read(PyObject *parsed, size_t data_size, struct shm_publication *out)
{
        PyObject *name = PyTuple_GetItem(parsed, 3);

        if (name == NULL || (out->name = PyUnicode_AsUTF8AndSize(name, &out->name_size)) == NULL ||
            shm_numbers(parsed, 2, &out->request, 1) < 0 || shm_numbers(parsed, 4, &out->mode, 1) < 0 ||
            shm_numbers(parsed, 6, &out->data_size, 1) < 0 ||
            shm_numbers(parsed, 7, &out->metadata, 1) < 0 || shm_numbers(parsed, 8, &out->metadata_size, 1) < 0 ||
            shm_numbers(parsed, 9, &out->start, 1) < 0 || shm_numbers(parsed, 10, &out->size, 1) < 0)
                return -1;
        if (out->name_size < 1 || out->name_size > SHM_NAME_MAX || out->start > data_size ||
            out->size > data_size - out->start || out->size > SHM_SEALED_MAX || out->data_size > out->size ||
            out->metadata > out->size || out->metadata_size > out->size - out->metadata) {
                PyErr_SetString(PyExc_ValueError, "the name is empty or too long, or a part is not in the payload");
                return -1;
        }
        return 0;
}

static void shm_publication_header(const struct shm_publication *publication, struct shm_region_header *header)
{
        uint64_t data = publication->span[0] + SHM_HEADER_SIZE;

        memset(header, 0, sizeof(*header));
        memcpy(header->magic, SHM_MAGIC, sizeof(header->magic));
        header->abi_major = SHM_ABI_MAJOR;
        header->abi_minor = SHM_ABI_MINOR;
        header->header_size = SHM_HEADER_SIZE;
        header->kind = SHM_KIND_DATA;
        header->flags = SHM_FLAG_SEAL_FULL;
        header->base = (const void *)(uintptr_t)publication->span[0];
        header->size = SHM_HEADER_SIZE + publication->size;
        header->capacity = shm_publication_capacity(publication);
        header->data = (const void *)(uintptr_t)data;
        header->data_size = publication->data_size;
        header->generation = publication->generation;
        header->created_ns = publication->created_ns;
        header->creator_uid = (uint32_t)publication->owner[0];
        header->creator_gid = (uint32_t)publication->owner[1];
        header->creator_pid = (int32_t)publication->owner[2];
        header->name_size = (uint32_t)publication->name_size;
        header->window_base = (const void *)(uintptr_t)publication->window[0];
        header->window_size = publication->window[1];
        if (publication->metadata_size)
                header->metadata = (const void *)(uintptr_t)(data + publication->metadata);
        header->metadata_size = publication->metadata_size;
        memcpy(header->name, publication->name, (size_t)publication->name_size);
}

/* Make the object of a Put; return its read-only descriptor, or -errno. */
static int shm_publication_make(const struct shm_publication *publication, const char *data)
{
        struct shm_region_header header;
        char label[sizeof(SHM_LABEL) + SHM_LABEL_MAX] = SHM_LABEL;
        size_t size = (size_t)publication->name_size;
        struct iovec content[2] = {{&header, sizeof(header)},
                                   {(void *)(uintptr_t)(data + publication->start), (size_t)publication->size}};

        if (size > SHM_LABEL_MAX)
                size = SHM_LABEL_MAX;
        memcpy(label + sizeof(SHM_LABEL) - 1, publication->name, size);
        label[sizeof(SHM_LABEL) - 1 + size] = '\0';
        shm_publication_header(publication, &header);
        return shm_sealed_make(label, content, shm_publication_capacity(publication));
}

/* The grant of a published region but for its lease, as pack_grant() in Python has it. */
static PyObject *shm_publication_grant(const struct shm_publication *publication)
{
        uint8_t bytes[1 + 2 + SHM_NAME_MAX + 8 * 9], *at = bytes;

        *at++ = 0x9a; /* an array of 10, of which the first is the lease */
        at = shm_put_integer(at, publication->region);
        at = shm_put_integer(at, publication->generation);
        at = shm_put_string(at, publication->name, (size_t)publication->name_size);
        at = shm_put_integer(at, publication->span[0]);
        at = shm_put_integer(at, publication->data_size);
        at = shm_put_integer(at, shm_publication_capacity(publication));
        at = shm_put_integer(at, SHM_FLAG_SEAL_FULL);
        at = shm_put_integer(at, publication->line);
        at = shm_put_integer(at, publication->rights);
        return PyBytes_FromStringAndSize((const char *)bytes, at - bytes);
}

/*
 * Note an object for a successor of this host, as StateFile.enter() does; return 0, or -errno and there is no record.
 * The capacity, the kind and the seal are those of every Put.
 */
static int shm_publication_note(const struct shm_publication *publication, int fd, struct shm_record *record)
{
        const uint64_t numbers[SHM_RECORD_NUMBERS] = {
                publication->region,    publication->generation, publication->created_ns,
                publication->span[0],   publication->span[1],    publication->data_size,
                publication->size,      shm_publication_capacity(publication),
                SHM_KIND_DATA,          0 /* sealed whole, a memfd */
        };
        int error = shm_record_describe(record, fd, publication->name, (size_t)publication->name_size);

        if (error)
                return error;
        memcpy(record->numbers, numbers, sizeof(numbers));
        memcpy(record->owner, publication->owner, sizeof(record->owner));
        shm_record_set(record, SHM_RECORD_CURRENT | (publication->mode & 0xffffff) << 8 | publication->rights << 32);
        return 0;
}

/*
 * Return (descriptor, frame, grant, error of the note), once the record, if there is one, and then the board say that
 * it is current; NULL: nothing is left, nor said.
 */
static PyObject *shm_publication_publish(const struct shm_publication *publication, const char *data,
                                         struct shm_record *record)
{
        PyObject *grant = shm_publication_grant(publication), *frame, *result = NULL;
        int fd, error = 0;

        if (grant == NULL)
                return NULL;
        frame = shm_published_frame(publication->request, publication->lease, grant);
        fd = frame == NULL ? -ENOMEM : shm_publication_make(publication, data);
        if (fd < 0) {
                Py_XDECREF(frame);
                Py_DECREF(grant);
                if (PyErr_Occurred())
                        return NULL;
                errno = -fd;
                return PyErr_SetFromErrno(PyExc_OSError);
        }
        if (record != NULL)
                error = -shm_publication_note(publication, fd, record);
        result = Py_BuildValue("(iNNi)", fd, frame, grant, error);
        if (result == NULL) { /* no memory; frame and grant are given up */
                if (record != NULL)
                        shm_record_set(record, 0);
                (void)close(fd);
                return NULL;
        }
        if (publication->word)
                shm_board_set(publication->word, publication->region, publication->generation);
        return result;
}

/* Publish, and note that in a record of a state file; without one if its offset is 0. */
static PyObject *shm_publication_enter(const struct shm_publication *publication, const char *data, PyObject *memory,
                                       PyObject *offset)
{
        struct shm_record *record;
        PyObject *result;
        Py_buffer buffer;
        uint64_t start;

        if (shm_argument(&offset, 0, &start) < 0)
                return NULL;
        if (!start)
                return shm_publication_publish(publication, data, NULL);
        record = shm_record_at(memory, offset, &buffer);
        if (record == NULL)
                return NULL;
        result = shm_publication_publish(publication, data, record);
        PyBuffer_Release(&buffer);
        return result;
}

/*
 * publish_put(data, parsed, owner, window, span, region, generation, created_ns, lease, line, rights, word, memory,
 * offset): see builtins.pyi.
 */
static PyObject *shm_publish_put(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_publication publication;
        uint64_t *numbers[] = {&publication.region, &publication.generation, &publication.created_ns,
                               &publication.lease,  &publication.line,       &publication.rights,
                               &publication.word};
        Py_ssize_t size;
        char *data;
        int i;

        (void)self;
        if (shm_arguments_check("publish_put", count, 14) < 0 ||
            PyBytes_AsStringAndSize(arguments[0], &data, &size) < 0 ||
            shm_publication_read(arguments[1], (size_t)size, &publication) < 0 ||
            shm_numbers(arguments[2], 0, publication.owner, 3) < 0 ||
            shm_numbers(arguments[3], 0, publication.window, 2) < 0 ||
            shm_numbers(arguments[4], 0, publication.span, 2) < 0)
                return NULL;
        for (i = 0; i < 7; i++)
                if (shm_argument(arguments, 5 + i, numbers[i]) < 0)
                        return NULL;
        return shm_publication_enter(&publication, data, arguments[12], arguments[13]);
}

/* make_sealed(label, capacity, header, data, start, size): see builtins.pyi. */
static PyObject *shm_make_sealed(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        uint64_t capacity, start, size;
        Py_ssize_t header_size, data_size;
        char *label, *header, *data;
        struct iovec content[2];
        int fd;

        (void)self;
        if (shm_arguments_check("make_sealed", count, 6) < 0 ||
            PyBytes_AsStringAndSize(arguments[0], &label, NULL) < 0 || shm_argument(arguments, 1, &capacity) < 0 ||
            PyBytes_AsStringAndSize(arguments[2], &header, &header_size) < 0 ||
            PyBytes_AsStringAndSize(arguments[3], &data, &data_size) < 0 || shm_argument(arguments, 4, &start) < 0 ||
            shm_argument(arguments, 5, &size) < 0)
                return NULL;
        if (start > (uint64_t)data_size || size > (uint64_t)data_size - start || capacity > INT64_MAX ||
            (uint64_t)header_size + size > capacity) {
                PyErr_SetString(PyExc_ValueError, "this part is not in the data, or over the capacity");
                return NULL;
        }
        content[0].iov_base = header;
        content[0].iov_len = (size_t)header_size;
        content[1].iov_base = data + start;
        content[1].iov_len = (size_t)size;
        fd = shm_sealed_make(label, content, (size_t)capacity);
        if (fd >= 0)
                return PyLong_FromLong(fd);
        errno = -fd;
        return PyErr_SetFromErrno(PyExc_OSError);
}

#endif /* SHM_SEALED_H */

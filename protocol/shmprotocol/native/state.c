/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.c - the records of a host's state file: a region's fields and the identity of its object, which a successor
 * compares with what clients hand back. Written in one call, as one is made for each publish.
 *
 * The file is mapped by its host alone. A word says last whether a record counts, so that a host that is killed at any
 * instruction leaves a whole record or none.
 */
#ifndef SHM_STATE_H
#define SHM_STATE_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#ifndef STATX_BTIME /* musl before 1.2.4 */
#include <linux/stat.h>
#endif

#define SHM_RECORD_SIZE 512
#define SHM_RECORD_NUMBERS 10
#define SHM_RECORD_CURRENT 1 /* the state in a word: WORD_OF_CURRENT of `records` in Python */

/* The identity of an object: no two objects of a boot share it, and only the kernel gives it. */
struct shm_identity {
        uint64_t device;
        uint64_t inode;
        uint64_t born_ns; /* 0: the kernel does not say, which Linux does for memfds since 5.19 */
        uint64_t uid;     /* of whoever made it */
};

struct shm_record {
        uint64_t word; /* 0: no record; written last, and alone when it changes. See `records` in Python */
        uint64_t numbers[SHM_RECORD_NUMBERS];
        uint64_t owner[3]; /* uid, gid, pid */
        struct shm_identity identity;
        uint64_t name_size;
        uint8_t reserved[104]; /* zero */
        uint8_t name[256];
};

static_assert(sizeof(struct shm_record) == SHM_RECORD_SIZE, "as `records` in Python has it");
static_assert(offsetof(struct shm_record, name) == 256, "likewise");

/*
 * The latest reply by which a region took the name of another, in the first page of the file. The kernel notes in `sent`
 * that it has left, by the same system call that sends it, and a kill never comes in between: so a successor knows whether
 * the older region has lost its name, before this host can note that anywhere else.
 */
struct shm_reply {
        uint64_t older;      /* the number of the older region; which is never used again, so that a stale one means nothing */
        struct mmsghdr sent; /* msg_len: bytes that were sent; the pointers are those of the call */
};

#define SHM_REPLY_AT 2048
static_assert(offsetof(struct shm_reply, sent) + offsetof(struct mmsghdr, msg_len) == 64, "as `StateFile` has it");

/* Return 0 or -errno. Asks no server and waits for nobody if the object is of memfd_create(2) or tmpfs. */
static int shm_identify(int fd, struct shm_identity *identity_out)
{
        struct statx status;

        /* Not by the library's function, which musl has from 1.2.4 on: a wheel is for older ones, too. */
        if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO | STATX_UID | STATX_BTIME, &status))
                return -errno;
        identity_out->device = (uint64_t)makedev(status.stx_dev_major, status.stx_dev_minor);
        identity_out->inode = status.stx_ino;
        identity_out->uid = status.stx_uid;
        identity_out->born_ns = 0;
        if (status.stx_mask & STATX_BTIME)
                identity_out->born_ns = (uint64_t)status.stx_btime.tv_sec * 1000000000u + status.stx_btime.tv_nsec;
        return 0;
}

/* identify(descriptor): see builtins.pyi. */
static PyObject *shm_identify_call(PyObject *self, PyObject *descriptor)
{
        struct shm_identity identity;
        int fd = (int)PyLong_AsLong(descriptor), error;

        (void)self;
        if (PyErr_Occurred())
                return NULL;
        error = shm_identify(fd, &identity);
        if (error) {
                errno = -error;
                return PyErr_SetFromErrno(PyExc_OSError);
        }
        return Py_BuildValue("(KKKK)", (unsigned long long)identity.device, (unsigned long long)identity.inode,
                             (unsigned long long)identity.born_ns, (unsigned long long)identity.uid);
}

/*
 * Send a message, as sendmsg(2), and note that it has left. sendmmsg(2) writes to `sent` before any signal is looked at
 * (__sys_sendmmsg: put_user behind ___sys_sendmsg). By its number: that of musl is a loop of its own.
 */
static ssize_t shm_reply_send(struct shm_reply *reply, uint64_t older, int socket, const struct msghdr *message)
{
        __atomic_store_n(&reply->sent.msg_len, 0, __ATOMIC_RELEASE); /* first: that of before was about another region */
        __atomic_store_n(&reply->older, older, __ATOMIC_RELEASE);
        reply->sent.msg_hdr = *message;
        if (syscall(SYS_sendmmsg, socket, &reply->sent, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                return -1;
        return (ssize_t)reply->sent.msg_len;
}

/* The record at an offset of a buffer, which the caller releases; NULL: an exception is set, and there is no buffer. */
static struct shm_record *shm_record_at(PyObject *memory, PyObject *offset, Py_buffer *buffer)
{
        uint64_t start;

        if (shm_argument(&offset, 0, &start) < 0 || PyObject_GetBuffer(memory, buffer, PyBUF_WRITABLE) < 0)
                return NULL;
        if (start % SHM_RECORD_SIZE == 0 && (uint64_t)buffer->len >= SHM_RECORD_SIZE &&
            start <= (uint64_t)buffer->len - SHM_RECORD_SIZE)
                return (struct shm_record *)(void *)((uint8_t *)buffer->buf + start);
        PyBuffer_Release(buffer);
        PyErr_SetString(PyExc_ValueError, "no record is there");
        return NULL;
}

/* Fill in a name, which is not too long, and the identity of an object; return 0 or -errno. */
static int shm_record_describe(struct shm_record *record, int fd, const char *name, size_t size)
{
        int error = shm_identify(fd, &record->identity);

        if (error)
                return error;
        memset(record->reserved, 0, sizeof(record->reserved));
        memcpy(record->name, name, size);
        memset(record->name + size, 0, sizeof(record->name) - size);
        record->name_size = size;
        return 0;
}

/* Have a record count, or no more, by one store; whatever else was written there is there before. */
static void shm_record_set(struct shm_record *record, uint64_t word)
{
        __atomic_store_n(&record->word, word, __ATOMIC_RELEASE);
}

/* Fill a record but for its word. -1: an exception is set. */
static int shm_record_fill(struct shm_record *record, PyObject *const *arguments)
{
        Py_ssize_t size;
        const char *name = PyUnicode_AsUTF8AndSize(arguments[4], &size);
        int fd = (int)PyLong_AsLong(arguments[3]), error;

        if (name == NULL || PyErr_Occurred())
                return -1;
        if (size > SHM_NAME_MAX) {
                PyErr_SetString(PyExc_ValueError, "a name is longer than was checked");
                return -1;
        }
        error = shm_record_describe(record, fd, name, (size_t)size);
        if (error) {
                errno = -error;
                (void)PyErr_SetFromErrno(PyExc_OSError);
                return -1;
        }
        return shm_numbers(arguments[5], 0, record->owner, 3) < 0 ||
                               shm_numbers(arguments[6], 0, record->numbers, SHM_RECORD_NUMBERS) < 0
                       ? -1
                       : 0;
}

/* write_record(memory, offset, word, descriptor, name, owner, numbers): see builtins.pyi. */
static PyObject *shm_write_record(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_record *record;
        Py_buffer buffer;
        uint64_t word;
        int error;

        (void)self;
        if (shm_arguments_check("write_record", count, 7) < 0 || shm_argument(arguments, 2, &word) < 0)
                return NULL;
        record = shm_record_at(arguments[0], arguments[1], &buffer);
        if (record == NULL)
                return NULL;
        error = shm_record_fill(record, arguments);
        if (!error)
                shm_record_set(record, word);
        PyBuffer_Release(&buffer);
        return error ? NULL : Py_NewRef(Py_None);
}

/* set_record(memory, offset, word): see builtins.pyi. */
static PyObject *shm_set_record(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_record *record;
        Py_buffer buffer;
        uint64_t word;

        (void)self;
        if (shm_arguments_check("set_record", count, 3) < 0 || shm_argument(arguments, 2, &word) < 0)
                return NULL;
        record = shm_record_at(arguments[0], arguments[1], &buffer);
        if (record == NULL)
                return NULL;
        shm_record_set(record, word);
        PyBuffer_Release(&buffer);
        Py_RETURN_NONE;
}

#endif /* SHM_STATE_H */

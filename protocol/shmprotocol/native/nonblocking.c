/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nonblocking.c - one read, one write and one accept of a socket that never wait, as builtins: without the conversions
 * and the large buffer of Python's own, which take as long as the kernel does. Since they never wait, they hold the
 * GIL: a thread that computes does not get it in between.
 */
#ifndef SHM_NONBLOCKING_H
#define SHM_NONBLOCKING_H

#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define SHM_READ_MAX 16384      /* bytes of a read: nearly every request fits */
#define SHM_DESCRIPTORS_MAX 64  /* of a frame */

/* Read an argument that is a descriptor. Returns -1, with an exception set, if it is not one. */
static int shm_argument_descriptor(PyObject *argument, int *descriptor_out)
{
        long value = PyLong_AsLong(argument);

        if (value == -1 && PyErr_Occurred())
                return -1;
        if (value < INT_MIN || value > INT_MAX) {
                PyErr_Format(PyExc_OverflowError, "%ld is not a descriptor", value);
                return -1;
        }
        *descriptor_out = (int)value;
        return 0;
}

/* receive_now(descriptor): read once, as bytes; none are EOF. Descriptors that come along are dropped by the kernel. */
static PyObject *shm_receive_now(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        char buffer[SHM_READ_MAX];
        ssize_t size;
        int descriptor;

        (void)self;
        if (shm_arguments_check("receive_now", count, 1) < 0 || shm_argument_descriptor(arguments[0], &descriptor) < 0)
                return NULL;
        do {
                size = recv(descriptor, buffer, sizeof(buffer), MSG_DONTWAIT);
        } while (size < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
        if (size < 0)
                return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
        return PyBytes_FromStringAndSize(buffer, size);
}

/* accept_now(descriptor): accept a connection, as a descriptor that never waits and is closed by exec. */
static PyObject *shm_accept_now(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        int descriptor, accepted;

        (void)self;
        if (shm_arguments_check("accept_now", count, 1) < 0 || shm_argument_descriptor(arguments[0], &descriptor) < 0)
                return NULL;
        do {
                accepted = accept4(descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        } while (accepted < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
        if (accepted < 0)
                return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
        return PyLong_FromLong(accepted);
}

/*
 * Send bytes with descriptors on the first of them; return how many were sent. With a reply of a state file it is noted
 * there that the older region has lost its name. NULL: an exception is set.
 */
static PyObject *shm_send_with(int socket, const char *data, size_t size, const Py_buffer *rights, struct shm_reply *reply,
                               uint64_t older)
{
        size_t rights_size = (size_t)rights->len;
        union {
                char bytes[CMSG_SPACE(SHM_DESCRIPTORS_MAX * sizeof(int))];
                struct cmsghdr align;
        } control;
        struct iovec part = {(void *)(uintptr_t)data, size};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        struct cmsghdr *header;
        ssize_t sent;

        if (rights_size > 0) {
                message.msg_control = control.bytes;
                message.msg_controllen = CMSG_SPACE(rights_size);
                header = CMSG_FIRSTHDR(&message);
                /* All of it: musl has 32 bits beside the length, which is one of 64 to the kernel. */
                *header = (struct cmsghdr){
                        .cmsg_len = CMSG_LEN(rights_size), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
                memcpy(CMSG_DATA(header), rights->buf, rights_size);
        }
        do {
                sent = reply == NULL ? sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
                                     : shm_reply_send(reply, older, socket, &message);
        } while (sent < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
        if (sent < 0)
                return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
        return PyLong_FromSsize_t(sent);
}

/* The reply in a state file, by its memory, whose buffer the caller releases. NULL: an exception is set, and no buffer. */
static struct shm_reply *shm_reply_in(PyObject *memory, Py_buffer *buffer)
{
        if (PyObject_GetBuffer(memory, buffer, PyBUF_WRITABLE) < 0)
                return NULL;
        if ((uint64_t)buffer->len >= SHM_REPLY_AT + sizeof(struct shm_reply))
                return (struct shm_reply *)(void *)((uint8_t *)buffer->buf + SHM_REPLY_AT);
        PyBuffer_Release(buffer);
        PyErr_SetString(PyExc_ValueError, "this is not a state file");
        return NULL;
}

/* Send, and note that in a state file unless there is none. */
static PyObject *shm_send_noting(int socket, PyObject *bytes, const Py_buffer *rights, PyObject *const *note)
{
        struct shm_reply *reply = NULL;
        PyObject *answer = NULL;
        Py_buffer memory;
        Py_ssize_t size;
        uint64_t older = 0;
        char *data;

        if (PyBytes_AsStringAndSize(bytes, &data, &size) < 0 || (note != NULL && shm_argument(note, 1, &older) < 0))
                return NULL;
        if (rights->len % (Py_ssize_t)sizeof(int) || rights->len > SHM_DESCRIPTORS_MAX * (Py_ssize_t)sizeof(int))
                return PyErr_Format(PyExc_ValueError, "%zd bytes are not up to %d descriptors", rights->len,
                                    SHM_DESCRIPTORS_MAX);
        if (note != NULL && (reply = shm_reply_in(note[0], &memory)) == NULL)
                return NULL;
        answer = shm_send_with(socket, data, (size_t)size, rights, reply, older);
        if (reply != NULL)
                PyBuffer_Release(&memory);
        return answer;
}

/* send_now(descriptor, data, rights[, memory, older]): see builtins.pyi. */
static PyObject *shm_send_now(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        PyObject *answer;
        Py_buffer rights;
        int descriptor;

        (void)self;
        if (shm_arguments_check("send_now", count, count == 5 ? 5 : 3) < 0 ||
            shm_argument_descriptor(arguments[0], &descriptor) < 0 ||
            PyObject_GetBuffer(arguments[2], &rights, PyBUF_SIMPLE) < 0)
                return NULL;
        answer = shm_send_noting(descriptor, arguments[1], &rights, count == 5 ? arguments + 3 : NULL);
        PyBuffer_Release(&rights);
        return answer;
}

#endif /* SHM_NONBLOCKING_H */

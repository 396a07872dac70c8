"""Builds the yardsticks: attach and detach as one C call, with no checks and no messages; a bare futex."""

from __future__ import annotations

import cffi

SOURCE = r"""
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_SIZE 32
#define REPLY_SIZE 96

/* Ask for an object by its size, receive its descriptor, map it, read a header word, unmap, say so. */
static int attach_detach(int sock, unsigned long address, unsigned long size)
{
        char request[REQUEST_SIZE] = "o", release[REQUEST_SIZE] = "r", reply[REPLY_SIZE];
        char control[CMSG_SPACE(sizeof(int))];
        struct iovec data = {reply, sizeof(reply)};
        struct msghdr message = {NULL, 0, &data, 1, control, sizeof(control), 0};
        volatile char *mapped;
        int fd;

        memcpy(request + 8, &size, sizeof(size));
        if (send(sock, request, sizeof(request), MSG_NOSIGNAL) != sizeof(request))
                return -errno;
        if (recvmsg(sock, &message, MSG_CMSG_CLOEXEC) != sizeof(reply))
                return -EPROTO;
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
        mapped = mmap((void *)address, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
        close(fd);
        if (mapped == MAP_FAILED || mapped[0] != 'S')
                return -errno;
        if (mmap((void *)address, size, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
                return -errno;
        return send(sock, release, sizeof(release), MSG_NOSIGNAL) == sizeof(release) ? 0 : -errno;
}

static int reserve(unsigned long address, unsigned long size)
{
        return mmap((void *)address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                    -1, 0) == MAP_FAILED;
}

static int futex_wait(unsigned int *word, unsigned int value)
{
        return syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0) == 0 ? 0 : -errno;
}

static int futex_raise(unsigned int *word)
{
        __atomic_add_fetch(word, 1, __ATOMIC_SEQ_CST);
        return syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0) < 0 ? -errno : 0;
}
"""

ffibuilder = cffi.FFI()
ffibuilder.cdef(
    """
    int attach_detach(int sock, unsigned long address, unsigned long size);
    int reserve(unsigned long address, unsigned long size);
    int futex_wait(unsigned int *word, unsigned int value);
    int futex_raise(unsigned int *word);
    """
)
ffibuilder.set_source("_shm_bench_baseline", SOURCE, extra_compile_args=["-O2"])

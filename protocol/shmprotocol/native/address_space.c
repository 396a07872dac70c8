/* SPDX-License-Identifier: Apache-2.0 */
/*
 * address_space.c - the operations on the address space, one C call for each. Addresses are numbers
 * here, so that Python never builds a pointer it does not need.
 * Every function returns 0 (or the address of the mapping) or -errno, allocates no memory and keeps no state.
 */
#ifndef SHM_NATIVE_H
#define SHM_NATIVE_H

#include "shm_arena.h"

/* cffi: begin */

#define SHM_MAP_WRITABLE 1 /* read-write, but for the header page */
#define SHM_MAP_RESERVED 2 /* the range lies in our own reservation: map over it */
#define SHM_MAP_UNSEALED 4 /* the object is known to have no seals */
#define SHM_MAP_ANYWHERE 8 /* the kernel chooses the address */
#define SHM_MAP_ARENA 16   /* the object is an arena, which may be shorter than its mapping */
#define SHM_MAP_SHARED 32  /* the object is known to be one that several may write */

int shm_reserve(uint64_t address, uint64_t size);
int64_t shm_map(int fd, uint64_t address, uint64_t capacity, int flags);
int64_t shm_attach(int fd, uint64_t address, uint64_t capacity, int flags);
int shm_freeze(int fd, uint64_t address, uint64_t capacity);
int shm_unmap(uint64_t address, uint64_t capacity, int flags);
int shm_header_check(const struct shm_region_header *header, uint64_t object_size);

/* cffi: end */

/* A reservation is only address space: no memory, no swap, one mapping (mmap(2)). */
static void *shm_reserve_at(uint64_t address, uint64_t size, int how)
{
        return mmap((void *)(uintptr_t)address, (size_t)size, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | how, -1, 0);
}

/* Reserve a range. -EEXIST: it has a mapping. -ENOMEM, -EAGAIN: RLIMIT_AS or mlockall(). */
int shm_reserve(uint64_t address, uint64_t size)
{
        /* A hint, as in shm_region_map_as(): a taken one is replaced by another address, and not by an error. */
        void *mapped = shm_reserve_at(address, size, 0);

        if (mapped == MAP_FAILED)
                return -errno;
        if ((uint64_t)(uintptr_t)mapped != address) {
                munmap(mapped, (size_t)size);
                return -EEXIST;
        }
        return 0;
}

/*
 * Map an object shared: over our reservation (where MAP_FIXED cannot replace any other mapping), at a free
 * address, or anywhere. A writer gets the header page read-only: only the host writes it.
 */
int64_t shm_map(int fd, uint64_t address, uint64_t capacity, int flags)
{
        int writable = flags & SHM_MAP_WRITABLE;
        int how = (flags & SHM_MAP_RESERVED) ? MAP_FIXED : 0; /* without it a hint: see shm_region_map_as() */
        void *wanted = (void *)(uintptr_t)address;
        void *mapped;
        int error;

        if (flags & SHM_MAP_ANYWHERE) {
                wanted = NULL;
                how = 0;
        } else if (wanted == NULL) {
                return -EINVAL; /* the kernel would let root map page 0 */
        }
        mapped = mmap(wanted, (size_t)capacity, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                      MAP_SHARED | how, fd, 0);
        if (mapped == MAP_FAILED) {
                error = -errno;
                /* Before Linux 6.12 a failed MAP_FIXED can leave its range unmapped. */
                if (how == MAP_FIXED)
                        (void)shm_reserve(address, capacity);
                return error;
        }
        if (wanted != NULL && mapped != wanted) {
                munmap(mapped, (size_t)capacity);
                return -EEXIST;
        }
        if (writable && mprotect(mapped, SHM_HEADER_SIZE, PROT_READ) < 0) {
                error = -errno;
                (void)shm_unmap((uint64_t)(uintptr_t)mapped, capacity, flags);
                return error;
        }
        (void)madvise(mapped, (size_t)capacity, SHM_MADV_DONTDUMP);
        return (int64_t)(intptr_t)mapped;
}

/*
 * Map a published region, after checking its seals, its size and its header: for reading, or else a shared one
 * for writing, too. -EPERM: not sealed. -EBADMSG: not the announced object, or a corrupt header. A failure leaves the range
 * unchanged.
 */
int64_t shm_attach(int fd, uint64_t address, uint64_t capacity, int flags)
{
        struct shm_region_header header;
        int64_t mapped;
        int error = 0;

        if (flags & SHM_MAP_SHARED)
                error = shm_shape_check(fd);
        else if (!(flags & SHM_MAP_UNSEALED))
                error = shm_seals_check(fd);
        if (!error)
                error = (flags & SHM_MAP_ARENA) ? shm_arena_header_read(fd, &header) : shm_header_read(fd, &header);
        if (error)
                return error;
        if (header.capacity != capacity)
                return -EBADMSG;
        if (!(flags & SHM_MAP_SHARED))
                flags &= ~SHM_MAP_WRITABLE;
        if (!(flags & SHM_MAP_ANYWHERE) && (uint64_t)(uintptr_t)header.base != address)
                return -EBADMSG;
        mapped = shm_map(fd, address, capacity, flags);
        if (mapped < 0)
                return mapped;
        error = shm_header_freeze(fd, (void *)(uintptr_t)mapped, &header);
        if (error)
                (void)shm_unmap((uint64_t)mapped, capacity, flags);
        return error ? error : mapped;
}

/*
 * Map an object read-only over our own writable mapping of it: views stay, and a write through one is SIGSEGV.
 * mprotect() is not enough: F_SEAL_WRITE is refused while a shared mapping *may* be made writable, and a mapping
 * of a read-write descriptor may (VM_MAYWRITE). So `fd` must refer to a description that was opened O_RDONLY. The
 * kernel replaces the range with its lock held: another thread reads the old mapping or the new one.
 */
int shm_freeze(int fd, uint64_t address, uint64_t capacity)
{
        void *start = (void *)(uintptr_t)address;
        int error;

        if (mmap(start, (size_t)capacity, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
                error = -errno;
                (void)shm_reserve(address, capacity); /* as in shm_map(); does not touch a mapping that stayed */
                return error;
        }
        (void)madvise(start, (size_t)capacity, SHM_MADV_DONTDUMP);
        return 0;
}

/*
 * Give a range back. In our reservation PROT_NONE goes over it: between an munmap() and a new
 * reservation another thread's mmap() could take the range (4,042 of 20,000 races were lost, Linux 6.18).
 */
int shm_unmap(uint64_t address, uint64_t capacity, int flags)
{
        if ((flags & SHM_MAP_RESERVED) && !(flags & SHM_MAP_ANYWHERE))
                return shm_reserve_at(address, capacity, MAP_FIXED) == MAP_FAILED ? -errno : 0;
        return munmap((void *)(uintptr_t)address, (size_t)capacity) < 0 ? -errno : 0;
}

#endif /* SHM_NATIVE_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_abi.h - the memory of a shmhost region: everything that a native reader needs.
 *
 * A region is one shared memory object: a header page, then the payload. Every process maps it at the
 * same address, `base`, so that each pointer inside it is valid without translation, in every process and in
 * every language. A minimal reader:
 *
 *         const struct shm_region_header *header;
 *         int error = shm_region_map(shm_region_fd("words"), &header);
 *         const struct node *root = (const struct node *)header->root;
 *
 * This file is C11 and C++17, needs a 64-bit little-endian Linux, and no library. The text
 * between the two cffi marks is also the cffi declaration of the Python packages.
 */
#ifndef SHM_ABI_H
#define SHM_ABI_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if !defined(__cplusplus) && !defined(__USE_MISC)
/*
 * With -std=c11, a libc header that was included before this one already hides these two declarations,
 * and _GNU_SOURCE above comes too late (feature_test_macros(7)). The library has both functions anyway.
 */
int madvise(void *address, size_t length, int advice);
ssize_t pread(int fd, void *buffer, size_t count, off_t offset);
#endif

/* cffi: begin */

#define SHM_ABI_MAJOR 1
#define SHM_ABI_MINOR 0
#define SHM_HEADER_SIZE 4096
#define SHM_NAME_MAX 255
#define SHM_METADATA_MAX 524288 /* bytes: descriptions are small, and readers unpack all of it */

/* The kind of the payload. */
#define SHM_KIND_DATA 1    /* buffers and arrays, described by the metadata */
#define SHM_KIND_OBJECTS 2 /* a pointer-linked structure, reached from `root` */

/* The protection of the region; exactly one flag is set. (8 is SHM_FLAG_ARENA.) */
#define SHM_FLAG_SEAL_FULL 1   /* F_SEAL_WRITE: no byte changes ever again */
#define SHM_FLAG_SEAL_WRITER 2 /* F_SEAL_FUTURE_WRITE: only the creator's mapping can write */
#define SHM_FLAG_UNSEALED 4    /* a named POSIX object: protected only by file permissions */
#define SHM_FLAG_SEAL_SHARED 16 /* its size cannot change; its content can, by all who may write it */
/* Beside SHM_FLAG_SEAL_WRITER or SHM_FLAG_SEAL_SHARED: the object can grow, up to `capacity`. See shm_region_size(). */
#define SHM_FLAG_GROWS 32

/*
 * The first page of every region.
 *
 * Writer: only the host, once, at publish, before it adds the seals and before any reader has the
 * descriptor. Readers: all processes, without synchronisation: the descriptor reaches a reader over a socket
 * after the last write, which orders the two. With SHM_FLAG_SEAL_WRITER the creator's process can
 * still overwrite this page, and with SHM_FLAG_UNSEALED or SHM_FLAG_SEAL_SHARED any process with write permission can: a reader copies
 * the page once, checks the copy and reads only the copy. shm_region_map() does so.
 */
struct shm_region_header {
        uint8_t magic[8]; /* "SHMHOST" and a zero byte */
        uint16_t abi_major;
        uint16_t abi_minor;
        uint32_t header_size; /* bytes, SHM_HEADER_SIZE */
        uint32_t kind;        /* SHM_KIND_* */
        uint32_t flags;       /* SHM_FLAG_* */

        const void *base;  /* the address of this header, in every process */
        uint64_t size;     /* bytes in use, from base: this page, data, metadata */
        uint64_t capacity; /* bytes of the mapping, and of the memory object unless it grows; whole pages */

        const void *data; /* the start of the payload: base + header_size, always */
        uint64_t data_size; /* bytes of the data: the `size` of a region on the wire and in Python */
        const void *root;   /* inside the payload; NULL, with size 0, when there is none */
        uint64_t root_size; /* size of the object at root: compare with the type before following `root` */

        uint64_t generation; /* at least 1; higher than those of all earlier versions of the name */
        uint64_t created_ns; /* CLOCK_REALTIME at publish */
        uint32_t creator_uid;
        uint32_t creator_gid;
        int32_t creator_pid; /* as the host sees it; 0 across pid namespaces */
        uint32_t name_size;  /* bytes of name, without its terminating zero */

        const void *window_base; /* the range of addresses that base was taken from */
        uint64_t window_size;
        const void *metadata; /* a msgpack map inside the payload; NULL, with size 0, when there is none */
        uint64_t metadata_size;

        char name[256]; /* UTF-8, zero-terminated */
        uint8_t reserved[3696]; /* zero */
};

/* cffi: end */

#define SHM_MAGIC "SHMHOST" /* with its terminating zero: 8 bytes */

static_assert(sizeof(void *) == 8, "shmhost regions hold 64-bit pointers");
static_assert(sizeof(struct shm_region_header) == SHM_HEADER_SIZE, "the header is one page");
static_assert(offsetof(struct shm_region_header, abi_major) == 8, "ABI 1");
static_assert(offsetof(struct shm_region_header, kind) == 16, "ABI 1");
static_assert(offsetof(struct shm_region_header, base) == 24, "ABI 1");
static_assert(offsetof(struct shm_region_header, data) == 48, "ABI 1");
static_assert(offsetof(struct shm_region_header, root) == 64, "ABI 1");
static_assert(offsetof(struct shm_region_header, generation) == 80, "ABI 1");
static_assert(offsetof(struct shm_region_header, creator_uid) == 96, "ABI 1");
static_assert(offsetof(struct shm_region_header, window_base) == 112, "ABI 1");
static_assert(offsetof(struct shm_region_header, metadata) == 128, "ABI 1");
static_assert(offsetof(struct shm_region_header, name) == 144, "ABI 1");
static_assert(offsetof(struct shm_region_header, reserved) == 400, "ABI 1");

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "shmhost regions are little-endian"
#endif

/* Kernel constants that older libc headers lack; the values are the kernel's, linux/fcntl.h and mman.h. */
#define SHM_F_GET_SEALS 1034
#define SHM_F_SEAL_SHRINK 0x2
#define SHM_F_SEAL_WRITE 0x8
#define SHM_F_SEAL_FUTURE_WRITE 0x10
#define SHM_MAP_FIXED_NOREPLACE 0x100000
#define SHM_MADV_DONTDUMP 16

/* Is [address, address + size) inside the `capacity` bytes at `base`? Written so that nothing overflows. */
static inline int shm_range_inside(uint64_t base, uint64_t capacity, const void *address, uint64_t size)
{
        uint64_t offset = (uint64_t)(uintptr_t)address - base;

        return (uint64_t)(uintptr_t)address >= base && offset <= capacity && size <= capacity - offset;
}

/* Does `address` lead to `size` bytes of the payload, or is it NULL with size 0? */
static inline int shm_payload_holds(const struct shm_region_header *header, const void *address,
                                    uint64_t size)
{
        uint64_t payload = (uint64_t)(uintptr_t)header->base + SHM_HEADER_SIZE;

        if (address == NULL)
                return size == 0;
        return shm_range_inside(payload, header->size - SHM_HEADER_SIZE, address, size);
}

/*
 * Check a header that was read from a memory object of `object_size` bytes. Returns 0 or:
 * -EBADMSG it is not a region, or a field contradicts another; -EPROTONOSUPPORT another ABI version.
 * Unknown flags and kinds, which a later minor version may add, are not an error. An object that grows has from `size`
 * to `capacity` bytes.
 */
static inline int shm_header_check(const struct shm_region_header *header, uint64_t object_size)
{
        uint64_t base = (uint64_t)(uintptr_t)header->base;
        uint32_t protection =
                header->flags & (SHM_FLAG_SEAL_FULL | SHM_FLAG_SEAL_WRITER | SHM_FLAG_UNSEALED | SHM_FLAG_SEAL_SHARED);

        if (memcmp(header->magic, SHM_MAGIC, sizeof(header->magic)) != 0)
                return -EBADMSG;
        if (header->abi_major != SHM_ABI_MAJOR || header->header_size != SHM_HEADER_SIZE)
                return -EPROTONOSUPPORT;
        if (header->kind == 0 || protection == 0 || (protection & (protection - 1)) != 0)
                return -EBADMSG;
        if (base == 0 || base % SHM_HEADER_SIZE != 0 || base + header->capacity < base)
                return -EBADMSG;
        if (header->size < SHM_HEADER_SIZE || header->size > object_size || object_size > header->capacity)
                return -EBADMSG;
        if (header->capacity != object_size && !(header->flags & SHM_FLAG_GROWS))
                return -EBADMSG;
        if (!shm_range_inside((uint64_t)(uintptr_t)header->window_base, header->window_size, header->base,
                              header->capacity))
                return -EBADMSG;
        if ((uint64_t)(uintptr_t)header->data != base + SHM_HEADER_SIZE ||
            !shm_payload_holds(header, header->data, header->data_size) ||
            !shm_payload_holds(header, header->root, header->root_size) ||
            !shm_payload_holds(header, header->metadata, header->metadata_size) ||
            header->metadata_size > SHM_METADATA_MAX)
                return -EBADMSG;
        if (header->generation == 0 || header->name_size == 0 || header->name_size > SHM_NAME_MAX ||
            memchr(header->name, 0, sizeof(header->name)) != header->name + header->name_size)
                return -EBADMSG;
        return 0;
}

/* The seals of an object, 0 if its kind has none; or -EBADF. */
static inline int shm_seals_get(int fd)
{
        int seals = fcntl(fd, SHM_F_GET_SEALS);

        if (seals < 0)
                return errno == EBADF ? -EBADF : 0;
        return seals;
}

/* 0 if the object can neither shrink under a reader nor get new writable mappings; or -EPERM, -EBADF. */
static inline int shm_seals_check(int fd)
{
        int seals = shm_seals_get(fd);

        if (seals < 0)
                return seals;
        if (!(seals & SHM_F_SEAL_SHRINK) || !(seals & (SHM_F_SEAL_WRITE | SHM_F_SEAL_FUTURE_WRITE)))
                return -EPERM;
        return 0;
}

/* 0 if the object cannot change its size under its users, whoever can write it; or -EPERM, -EBADF. */
static inline int shm_shape_check(int fd)
{
        int seals = shm_seals_get(fd);

        if (seals < 0)
                return seals;
        return seals & SHM_F_SEAL_SHRINK ? 0 : -EPERM;
}

/* shm_header_read() for a caller that has the object's seals. */
static inline int shm_header_read_sealed(int fd, int seals, struct shm_region_header *header_out)
{
        struct stat status;
        int error;

        if (fstat(fd, &status) < 0)
                return -errno;
        if (pread(fd, header_out, sizeof(*header_out), 0) != (ssize_t)sizeof(*header_out))
                return -EBADMSG;
        error = shm_header_check(header_out, (uint64_t)status.st_size);
        if (error)
                return error;
        return (header_out->flags & SHM_FLAG_SEAL_FULL) && !(seals & SHM_F_SEAL_WRITE) ? -EPERM : 0;
}

/*
 * Copy the header out of an object and check it, and check that the object's seals match its flags:
 * -EPERM if they do not. Reads the object once; the copy belongs to the caller.
 */
static inline int shm_header_read(int fd, struct shm_region_header *header_out)
{
        int seals = shm_seals_get(fd);

        return seals < 0 ? seals : shm_header_read_sealed(fd, seals, header_out);
}

/*
 * If other processes can still write the header page, map a private copy of `header` over it, so
 * that later reads see the checked values. Does nothing under SHM_FLAG_SEAL_FULL, because
 * shm_header_read() has checked the seal. Writing to a private mapping copies the page (mmap(2)).
 */
static inline int shm_header_freeze(int fd, void *mapped, const struct shm_region_header *header)
{
        if (header->flags & SHM_FLAG_SEAL_FULL)
                return 0;
        if (mmap(mapped, SHM_HEADER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) ==
            MAP_FAILED)
                return -errno;
        memcpy(mapped, header, sizeof(*header));
        return mprotect(mapped, SHM_HEADER_SIZE, PROT_READ) < 0 ? -errno : 0;
}

/* Map an object whose seals the caller has checked. The header page stays read-only, and is a private copy. */
static inline int shm_region_map_as(int fd, int protection, const struct shm_region_header **header_out)
{
        struct shm_region_header header;
        void *mapped;
        int error = shm_header_read(fd, &header);

        if (error)
                return error;
        /*
         * The address is a hint: if it is taken, the kernel maps elsewhere and replaces nothing. ThreadSanitizer turns a
         * hint that it wants for itself into 0, which MAP_FIXED_NOREPLACE would make a demand; then it ends the process.
         */
        mapped = mmap((void *)(uintptr_t)header.base, (size_t)header.capacity, protection, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED)
                return -errno;
        error = mapped == header.base ? shm_header_freeze(fd, mapped, &header) : -EEXIST;
        if (error) {
                munmap(mapped, (size_t)header.capacity);
                return error;
        }
        (void)madvise(mapped, (size_t)header.capacity, SHM_MADV_DONTDUMP);
        *header_out = (const struct shm_region_header *)mapped;
        return 0;
}

/* shm_region_map() for an object without seals (SHM_FLAG_UNSEALED): its writers can kill this process. */
static inline int shm_region_map_unsealed(int fd, const struct shm_region_header **header_out)
{
        return shm_region_map_as(fd, PROT_READ, header_out);
}

/*
 * shm_region_map() for a region that several write (SHM_FLAG_SEAL_SHARED), which that one refuses: its content can change
 * at any time, so copy what you check. Nobody can change its size. `writable` takes a read-write descriptor: -EACCES.
 */
static inline int shm_region_map_shared(int fd, int writable, const struct shm_region_header **header_out)
{
        int error = shm_shape_check(fd);

        return error ? error : shm_region_map_as(fd, writable ? PROT_READ | PROT_WRITE : PROT_READ, header_out);
}

/*
 * Map the region of descriptor `fd` read-only at its own address. The caller still owns the descriptor, and
 * may close it at once. Returns 0 and the header, which no process can change any more, or:
 * -EBADF not a descriptor; -EPERM not sealed; -EBADMSG not a region, or a corrupt one; -EPROTONOSUPPORT
 * another ABI version; -EEXIST another mapping of this process occupies the address; -ENOMEM a limit.
 */
static inline int shm_region_map(int fd, const struct shm_region_header **header_out)
{
        int error = shm_seals_check(fd);

        return error ? error : shm_region_map_unsealed(fd, header_out);
}

/*
 * The bytes of data that a mapped region has now, by its descriptor; or -errno. They are header->data_size, but for a
 * region that can grow (SHM_FLAG_GROWS): shm_region_map() has mapped all that it can grow to, and what lies behind its
 * present end is SIGBUS. No process can shrink it (F_SEAL_SHRINK), so a size stays right for good, and the kernel's is
 * that of the memory that is there: no word in shared memory is needed, which a writer could set wrongly. Call it again
 * to follow the region; a fstat(2) is all that it does.
 */
static inline int64_t shm_region_size(int fd, const struct shm_region_header *header)
{
        struct stat status;
        uint64_t size;

        if (!(header->flags & SHM_FLAG_GROWS))
                return (int64_t)header->data_size;
        if (fstat(fd, &status) < 0)
                return -errno;
        size = (uint64_t)status.st_size < header->capacity ? (uint64_t)status.st_size : header->capacity;
        return size < header->size ? -EBADMSG : (int64_t)(size - SHM_HEADER_SIZE);
}

/* Undo shm_region_map(). Returns 0 or -errno. */
static inline int shm_region_unmap(const struct shm_region_header *header)
{
        return munmap((void *)(uintptr_t)header, (size_t)header->capacity) < 0 ? -errno : 0;
}

/*
 * The descriptor of region `name`, by $SHM_REGIONS, which `shmclient exec` sets: one line for each region,
 * with the descriptor's number, a space, and the name. Returns the descriptor, or -ENOENT.
 */
static inline int shm_region_fd(const char *name)
{
        const char *line = getenv("SHM_REGIONS");
        size_t length = strlen(name);

        while (line != NULL && *line != 0) {
                char *after;
                long fd = strtol(line, &after, 10);

                /* strtol() also takes blanks, signs and the line's end: the first byte must be a digit. */
                if (*line >= '0' && *line <= '9' && *after == ' ' && fd <= INT32_MAX &&
                    strncmp(after + 1, name, length) == 0 &&
                    (after[1 + length] == '\n' || after[1 + length] == 0))
                        return (int)fd;
                line = strchr(line, '\n');
                if (line != NULL)
                        line++;
        }
        return -ENOENT;
}

#endif /* SHM_ABI_H */

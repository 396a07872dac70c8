/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_snapshot.h - map a snapshot, a file that `shmclient save` wrote, with no host. See shm_abi.h.
 *
 *         const struct shm_region_header *header;
 *         int error = shm_snapshot_map(fd, &header);
 *         const struct node *root = (const struct node *)header->root;
 *
 * It lies where the region was, so that pointers in it are valid. The file is not hashed here: `shmclient load` does that.
 */
#ifndef SHM_SNAPSHOT_H
#define SHM_SNAPSHOT_H

#include "shm_abi.h"

#define SHM_SNAPSHOT_MAGIC "SHMSNAP" /* with its terminating zero: 8 bytes */
#define SHM_SNAPSHOT_VERSION 1
#define SHM_SNAPSHOT_IMAGE 4096 /* where the image of the region begins in the file */

/* The start of the file. All that follows, up to the image, is zero. */
struct shm_snapshot {
        uint8_t magic[8];
        uint32_t version;
        uint32_t image;      /* SHM_SNAPSHOT_IMAGE */
        uint64_t image_size; /* bytes, whole pages: all of the file behind its first page */
        uint64_t saved_ns;   /* CLOCK_REALTIME */
        uint32_t mode;       /* of the region */
        uint32_t reserved;
        uint8_t hash[32];  /* BLAKE2b of the file, with the personalization shmhost-snapshot; zeros in place of itself */
        uint64_t max_size; /* bytes of payload that the region may grow to; 0: none */
};

static_assert(sizeof(struct shm_snapshot) == 80, "version 1");
static_assert(offsetof(struct shm_snapshot, hash) == 40, "version 1");

/*
 * Read and check the start of a file, and the header page of the region in it. Returns 0 or: -EBADMSG it is not a
 * snapshot, or not whole; -EPROTONOSUPPORT another version; -errno.
 */
static inline int shm_snapshot_read(int fd, struct shm_snapshot *snapshot_out, struct shm_region_header *header_out)
{
        struct stat status;

        if (fstat(fd, &status) < 0)
                return -errno;
        if (pread(fd, snapshot_out, sizeof(*snapshot_out), 0) != (ssize_t)sizeof(*snapshot_out) ||
            memcmp(snapshot_out->magic, SHM_SNAPSHOT_MAGIC, sizeof(snapshot_out->magic)) != 0)
                return -EBADMSG;
        if (snapshot_out->version != SHM_SNAPSHOT_VERSION || snapshot_out->image != SHM_SNAPSHOT_IMAGE)
                return -EPROTONOSUPPORT;
        if (status.st_size < SHM_SNAPSHOT_IMAGE || snapshot_out->image_size % SHM_HEADER_SIZE ||
            snapshot_out->image_size != (uint64_t)status.st_size - SHM_SNAPSHOT_IMAGE ||
            pread(fd, header_out, sizeof(*header_out), SHM_SNAPSHOT_IMAGE) != (ssize_t)sizeof(*header_out))
                return -EBADMSG;
        return header_out->flags & SHM_FLAG_GROWS ? -EBADMSG : shm_header_check(header_out, snapshot_out->image_size);
}

/*
 * Map a snapshot read-only at the address of its region. The caller still owns the descriptor, and may close it at once.
 * Returns 0 and the header, of which shm_region_unmap() undoes it, or an error of shm_snapshot_read(); -EEXIST another
 * mapping of this process occupies the address; -ENOMEM a limit. A process that can write the file can change what is
 * mapped, and kill its readers by SIGBUS when it cuts the file: map files of users whom you trust.
 */
static inline int shm_snapshot_map(int fd, const struct shm_region_header **header_out)
{
        struct shm_snapshot snapshot;
        struct shm_region_header header;
        int error = shm_snapshot_read(fd, &snapshot, &header);
        void *mapped;

        if (error)
                return error;
        mapped = mmap((void *)(uintptr_t)header.base, (size_t)header.capacity, PROT_READ,
                      MAP_PRIVATE, fd, SHM_SNAPSHOT_IMAGE);
        if (mapped == MAP_FAILED)
                return -errno;
        if (mapped != header.base) { /* it was taken */
                munmap(mapped, (size_t)header.capacity);
                return -EEXIST;
        }
        *header_out = (const struct shm_region_header *)mapped;
        return 0;
}

#endif /* SHM_SNAPSHOT_H */

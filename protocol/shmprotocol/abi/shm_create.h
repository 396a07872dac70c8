/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_create.h - fill a region whose descriptor this program has inherited. See shm_abi.h.
 *
 *         struct shm_creation creation;
 *         int error = shm_create_inherited("table", &creation);
 *         struct table *table = (struct table *)shm_create_alloc(&creation, sizeof(*table), 64);
 *         shm_create_set_root(&creation, table, sizeof(*table));
 *
 * `shmclient exec --create table:1M -- ./program` publishes the region when the program ends with 0, and gives it up
 * otherwise. $SHM_CREATES has a line for each: the descriptor, the address, the bytes of the object and the bytes of
 * data as decimal numbers, then the name, all parted by single spaces. Until it is published the header page is a
 * draft: of all its fields, kind, data_size, root, root_size, metadata and metadata_size count.
 */
#ifndef SHM_CREATE_H
#define SHM_CREATE_H

#include "shm_abi.h"

#define SHM_CREATE_ROOM 4096 /* bytes behind the data, for metadata */

/* A region that is being filled, mapped at its address. Pointers to what is in it may be stored in it. */
struct shm_creation {
        struct shm_region_header *draft;
        uint8_t *data;
        uint64_t size; /* bytes of data */
        uint64_t used; /* of these, by shm_create_alloc() */
        uint64_t capacity;
};

/* Read a line of $SHM_CREATES for `name`. Returns the descriptor, or -ENOENT: it is not such a line. */
static inline int shm_create_line(const char *line, const char *name, uint64_t numbers_out[4])
{
        size_t length = strlen(name);
        char *after;
        int i;

        for (i = 0; i < 4; i++) {
                if (*line < '0' || *line > '9')
                        return -ENOENT;
                numbers_out[i] = strtoull(line, &after, 10);
                if (*after != ' ')
                        return -ENOENT;
                line = after + 1;
        }
        if (strncmp(line, name, length) != 0 || (line[length] != '\n' && line[length] != 0))
                return -ENOENT;
        return numbers_out[0] <= INT32_MAX ? (int)numbers_out[0] : -ENOENT;
}

/*
 * Map a region that this program is to fill, zeros at first, at its address. Its descriptor is closed: the mapping is
 * enough. Returns 0 or: -ENOENT $SHM_CREATES does not have it; -EEXIST its address is taken in this process; -errno.
 */
static inline int shm_create_inherited(const char *name, struct shm_creation *creation_out)
{
        const char *line = getenv("SHM_CREATES");
        uint64_t numbers[4] = {0, 0, 0, 0};
        int fd = -ENOENT;
        void *home, *mapped;

        memset(creation_out, 0, sizeof(*creation_out));
        for (; line != NULL && *line != 0 && fd < 0; line += *line == '\n') {
                fd = shm_create_line(line, name, numbers);
                line += strcspn(line, "\n");
        }
        if (fd < 0)
                return fd;
        if (numbers[2] < SHM_HEADER_SIZE || numbers[3] > numbers[2] - SHM_HEADER_SIZE)
                return -EBADMSG;
        home = (void *)(uintptr_t)numbers[1];
        mapped = mmap(home, (size_t)numbers[2], PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED)
                return -errno;
        if (mapped != home) {
                munmap(mapped, (size_t)numbers[2]);
                return -EEXIST;
        }
        close(fd);
        creation_out->draft = (struct shm_region_header *)mapped;
        creation_out->data = (uint8_t *)mapped + SHM_HEADER_SIZE;
        creation_out->size = numbers[3];
        creation_out->used = 0;
        creation_out->capacity = numbers[2];
        creation_out->draft->data_size = numbers[3];
        return 0;
}

/* So many bytes of the region, zeros, at a multiple of `align`, a power of two up to 4096. NULL: it is full. */
static inline void *shm_create_alloc(struct shm_creation *creation, uint64_t size, uint64_t align)
{
        uint64_t start = (creation->used + align - 1) & ~(align - 1);

        if (start > creation->size || size > creation->size - start)
                return NULL;
        creation->used = start + size;
        return creation->data + start;
}

/* Say which object readers start from. */
static inline void shm_create_set_root(struct shm_creation *creation, const void *root, uint64_t size)
{
        creation->draft->root = root;
        creation->draft->root_size = size;
        creation->draft->kind = SHM_KIND_OBJECTS;
}

/* Say what the data is: a msgpack map, which is copied behind it. Returns 0, or -ENOSPC: there is no room for so much. */
static inline int shm_create_describe(struct shm_creation *creation, const void *metadata, uint64_t size)
{
        uint8_t *place = creation->data + creation->size;

        if (size > creation->capacity - SHM_HEADER_SIZE - creation->size || size > SHM_METADATA_MAX)
                return -ENOSPC;
        memcpy(place, metadata, (size_t)size);
        creation->draft->metadata = place;
        creation->draft->metadata_size = size;
        return 0;
}

#endif /* SHM_CREATE_H */

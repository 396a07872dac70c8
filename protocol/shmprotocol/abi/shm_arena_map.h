/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_map.h - map an arena, and see how far it goes: what a reader does before it reads. See shm_arena.h.
 *
 * All that an arena says of itself is checked, as its owner may be hostile; and an arena that can grow gets larger while it
 * is mapped.
 */
#ifndef SHM_ARENA_MAP_H
#define SHM_ARENA_MAP_H

#include "shm_arena_layout.h"

/* An arena as its reader has checked it. `base` is where it is mapped here; in a ledger it is at `home`. */
struct shm_arena {
        const uint8_t *base;
        uint64_t home;
        uint64_t span; /* bytes of the mapping */
        uint64_t size; /* bytes of the object, as far as they are known: it never shrinks */
        uint64_t region;
        const struct shm_board_line *line; /* says how far it has grown; NULL: it does not grow */
        const uint32_t *index;
        uint64_t index_mask;
        const struct shm_arena_entry *entries;
        uint64_t entry_count;
        uint64_t heap;
};

/* Is there room for `size` bytes at offset `at`, between `from` and `end`? */
static inline int shm_arena_inside(uint64_t at, uint64_t size, uint64_t from, uint64_t end)
{
        return at >= from && at <= end && size <= end - at;
}

static inline const struct shm_arena_control *shm_arena_control_of(const struct shm_arena *arena)
{
        return (const struct shm_arena_control *)(const void *)(arena->base + SHM_HEADER_SIZE);
}

/*
 * Check the control page of an arena that is mapped at `base` with `span` bytes, of which the object has `size`.
 * `home` is the base in its header. Returns 0, -EBADMSG (not an arena, or it contradicts itself) or -EPROTONOSUPPORT.
 */
static inline int shm_arena_open(const void *base, uint64_t home, uint64_t span, uint64_t size,
                                 struct shm_arena *arena_out)
{
        struct shm_arena_control control;

        if (size < SHM_ARENA_HEAD || size > span)
                return -EBADMSG;
        memcpy(&control, (const uint8_t *)base + SHM_HEADER_SIZE, 64); /* the constant part */
        if (memcmp(control.magic, SHM_ARENA_MAGIC, sizeof(control.magic)) != 0)
                return -EBADMSG;
        if (control.version != SHM_ARENA_VERSION)
                return -EPROTONOSUPPORT;
        /* No more slots than an owner makes: a hostile one makes its readers walk along all of them. */
        if (control.index_slots == 0 || (control.index_slots & (control.index_slots - 1)) != 0 ||
            control.entry_count > SHM_ARENA_NAMES_MAX || control.index_slots > 64 + 4 * control.entry_count)
                return -EBADMSG;
        if (control.index % 64 != 0 || control.entries % 64 != 0 ||
            !shm_arena_inside(control.index, control.index_slots * 4, SHM_ARENA_HEAD, size) ||
            !shm_arena_inside(control.entries, control.entry_count * sizeof(struct shm_arena_entry),
                              SHM_ARENA_HEAD, size) ||
            !shm_arena_inside(control.heap, 0, SHM_ARENA_HEAD, size))
                return -EBADMSG;
        memset(arena_out, 0, sizeof(*arena_out));
        arena_out->base = (const uint8_t *)base;
        arena_out->home = home;
        arena_out->span = span;
        arena_out->size = size;
        arena_out->index = (const uint32_t *)(const void *)(arena_out->base + control.index);
        arena_out->index_mask = control.index_slots - 1;
        arena_out->entries = (const struct shm_arena_entry *)(const void *)(arena_out->base + control.entries);
        arena_out->entry_count = control.entry_count;
        arena_out->heap = control.heap;
        return 0;
}

/*
 * Map the arena of descriptor `fd`, which the caller still owns, read-only at `home`, with `span` bytes: as in its
 * grant. `line` and `region` say how far it grows; or NULL and 0. Returns 0 or: -EPERM it is not sealed against other
 * writers; -EBADMSG it is not an arena; -EPROTONOSUPPORT another version; -EEXIST the address is taken in this process.
 */
static inline int shm_arena_map_at(int fd, uint64_t home, uint64_t span, const struct shm_board_line *line,
                                   uint64_t region, struct shm_arena *arena_out)
{
        struct stat status;
        void *mapped;
        uint64_t size;
        int error = shm_seals_check(fd);

        if (!error && fstat(fd, &status) < 0)
                error = -errno;
        if (error)
                return error;
        mapped = mmap((void *)(uintptr_t)home, (size_t)span, PROT_READ, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED)
                return -errno;
        /* The owner of an arena that can grow may have made it larger than it should be. */
        size = (uint64_t)status.st_size < span ? (uint64_t)status.st_size : span;
        error = mapped == (void *)(uintptr_t)home ? shm_arena_open(mapped, home, span, size, arena_out) : -EEXIST;
        if (error) {
                munmap(mapped, (size_t)span);
                return error;
        }
        (void)madvise(mapped, (size_t)span, SHM_MADV_DONTDUMP);
        arena_out->line = line;
        arena_out->region = region;
        return 0;
}

/*
 * Copy the header of an arena out of an object, and check it. The object is as long as the arena has grown, which is at
 * most the header's capacity. Returns as shm_header_read().
 */
static inline int shm_arena_header_read(int fd, struct shm_region_header *header_out)
{
        struct stat status;
        int error;

        if (fstat(fd, &status) < 0)
                return -errno;
        if (pread(fd, header_out, sizeof(*header_out), 0) != (ssize_t)sizeof(*header_out))
                return -EBADMSG;
        error = shm_header_check(header_out, header_out->capacity);
        if (error)
                return error;
        if (header_out->kind != SHM_KIND_ARENA || (header_out->flags & SHM_FLAG_SEAL_WRITER) == 0 ||
            status.st_size < SHM_ARENA_HEAD || (uint64_t)status.st_size > header_out->capacity)
                return -EBADMSG;
        return 0;
}

/* shm_arena_map_at() without a grant: the owner could have changed the header, which then says where it is mapped. */
static inline int shm_arena_map(int fd, const struct shm_board_line *line, uint64_t region,
                                struct shm_arena *arena_out)
{
        struct shm_region_header header;
        int error = shm_arena_header_read(fd, &header);

        return error ? error
                     : shm_arena_map_at(fd, (uint64_t)(uintptr_t)header.base, header.capacity, line, region, arena_out);
}

/* Undo shm_arena_map(). Nothing of it may be held. */
static inline int shm_arena_unmap(const struct shm_arena *arena)
{
        return munmap((void *)(uintptr_t)arena->base, (size_t)arena->span) < 0 ? -errno : 0;
}

#define SHM_MADV_POPULATE_READ 22 /* MADV_POPULATE_READ, of Linux 5.14 */

/*
 * Learn from the kernel whether the object has grown up to `end`: a page that it does not have is EFAULT here, and not
 * SIGBUS. For a line that has moved, to a board that this process does not have. Returns 0 or -ESTALE: it has not, or the
 * kernel cannot say.
 */
static inline int shm_arena_reach(struct shm_arena *arena, uint64_t end)
{
        uint64_t known = __atomic_load_n(&arena->size, __ATOMIC_RELAXED);

        end = (end + SHM_HEADER_SIZE - 1) / SHM_HEADER_SIZE * SHM_HEADER_SIZE;
        if (end > arena->span || end <= known ||
            madvise((void *)(uintptr_t)(arena->base + known), (size_t)(end - known), SHM_MADV_POPULATE_READ) < 0)
                return -ESTALE;
        while (known < end && !__atomic_compare_exchange_n(&arena->size, &known, end, 0, __ATOMIC_RELAXED,
                                                           __ATOMIC_RELAXED))
                ;
        return 0;
}

/*
 * Learn from the board, which only the host writes, how far the object has grown. Returns 0 or -ESTALE: it is not said.
 */
static inline int shm_arena_measure(struct shm_arena *arena, uint64_t end)
{
        uint64_t known = __atomic_load_n(&arena->size, __ATOMIC_RELAXED), now;

        if (arena->line == NULL)
                return 0; /* it does not grow */
        if (__atomic_load_n(&arena->line->moved, __ATOMIC_ACQUIRE))
                return shm_arena_reach(arena, end);
        /* The line speaks of this arena as long as it has its region's number, before and after. */
        if (__atomic_load_n(&arena->line->region, __ATOMIC_ACQUIRE) != arena->region)
                return -ESTALE;
        now = __atomic_load_n(&arena->line->size, __ATOMIC_ACQUIRE);
        if (__atomic_load_n(&arena->line->region, __ATOMIC_ACQUIRE) != arena->region || now > arena->span)
                return -ESTALE;
        while (known < now && !__atomic_compare_exchange_n(&arena->size, &known, now, 0, __ATOMIC_RELAXED,
                                                           __ATOMIC_RELAXED))
                ;
        return 0;
}

/* Whether `size` bytes at `at`, which is not below `from`, are in the object. */
static inline int shm_arena_has(struct shm_arena *arena, uint64_t at, uint64_t size, uint64_t from)
{
        if (shm_arena_inside(at, size, from, __atomic_load_n(&arena->size, __ATOMIC_RELAXED)))
                return 1;
        return shm_arena_inside(at, size, from, arena->span) && shm_arena_measure(arena, at + size) == 0 &&
               shm_arena_inside(at, size, from, __atomic_load_n(&arena->size, __ATOMIC_RELAXED));
}

#endif /* SHM_ARENA_MAP_H */

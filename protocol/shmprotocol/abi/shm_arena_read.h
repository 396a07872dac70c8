/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_read.h - find a value in an arena, and hold it while it is used: no lock, no system call. See shm_arena.h.
 *
 * The scheme is that of hazard pointers (Michael, 2004), across processes: docs/arenas.md has the proof.
 */
#ifndef SHM_ARENA_READ_H
#define SHM_ARENA_READ_H

#include "shm_arena_ledger.h"

#define SHM_NAME_ROOM 256 /* bytes for a name that is not in its entry */
#define SHM_ARENA_TRIES 1000000 /* of a reader whose value is replaced each time: the owner does nothing else */
#define SHM_ARENA_STEPS 1000000 /* along chains, of a reader while names move; and twice the index, at least */

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

/* A value that is held: its bytes do not change until shm_arena_release(). */
struct shm_arena_value {
        const void *data;
        uint64_t size;
        const void *description; /* NULL: bytes */
        uint64_t description_size;
        uint64_t root; /* an address at the arena's home */
        uint64_t root_size;
        uint64_t generation;
        uint64_t published_ns; /* CLOCK_MONOTONIC */
        uint64_t word;
        uint32_t entry;
        uint32_t flags;
        struct shm_ledger_hold *hold;
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

/* Whether an entry has this name, if its word does not change meanwhile. */
static inline int shm_entry_is(struct shm_arena *arena, const struct shm_arena_entry *entry, const char *name,
                               size_t size)
{
        uint64_t at = __atomic_load_n(&entry->name, __ATOMIC_ACQUIRE);
        const uint64_t *words = entry->inline_name;
        size_t i;

        if (__atomic_load_n(&entry->name_size, __ATOMIC_ACQUIRE) != size)
                return 0;
        if (size > (at == 0 ? sizeof(entry->inline_name) : SHM_NAME_ROOM))
                return 0;
        if (at != 0) {
                if (at % 8 != 0 || !shm_arena_has(arena, at, SHM_NAME_ROOM, arena->heap))
                        return 0;
                words = (const uint64_t *)(const void *)(arena->base + at);
        }
        for (i = 0; i < size; i += 8)
                if (__atomic_load_n(&words[i / 8], __ATOMIC_ACQUIRE) != shm_name_word(name, size, i))
                        return 0;
        return 1;
}

/*
 * Walk along the chain of a name once, with so many steps left. Returns 0, -ENOENT, or -EBADMSG: the index is corrupt.
 */
static inline int shm_arena_probe(struct shm_arena *arena, uint64_t hash, const char *name, size_t size,
                                  uint64_t *steps, uint32_t *entry_out)
{
        uint64_t probe;

        for (probe = 0; probe <= arena->index_mask && *steps > 0; probe++, --*steps) {
                uint32_t slot =
                        __atomic_load_n(&arena->index[(hash + probe) & arena->index_mask], __ATOMIC_ACQUIRE);
                const struct shm_arena_entry *entry;

                if (slot == 0)
                        return -ENOENT;
                if (slot > arena->entry_count)
                        return -EBADMSG;
                entry = &arena->entries[slot - 1];
                __builtin_prefetch(&entry->record[0]); /* while the name is compared: one of them comes next */
                __builtin_prefetch(&entry->record[1]);
                if (__atomic_load_n(&entry->hash, __ATOMIC_RELAXED) == hash &&
                    shm_entry_is(arena, entry, name, size)) {
                        *entry_out = slot - 1;
                        return 0;
                }
        }
        return -ENOENT;
}

/*
 * Find the entry of a name. Returns 0; -ENOENT; -EBADMSG the index is corrupt; -EBUSY its names move all the time. A
 * name that was not there is looked for again between two looks at `moves`: names that are there need not touch
 * that line, which the owner writes with each value.
 */
static inline int shm_arena_find(struct shm_arena *arena, const char *name, size_t size, uint32_t *entry_out)
{
        const uint64_t *moves = &shm_arena_control_of(arena)->moves;
        uint64_t hash = shm_name_hash(name, size), steps = SHM_ARENA_STEPS + 2 * arena->index_mask, before;
        int error = shm_arena_probe(arena, hash, name, size, &steps, entry_out);

        while (error == -ENOENT && steps-- > 0) {
                before = __atomic_load_n(moves, __ATOMIC_ACQUIRE);
                error = shm_arena_probe(arena, hash, name, size, &steps, entry_out);
                if (error != -ENOENT || (steps > 0 && __atomic_load_n(moves, __ATOMIC_ACQUIRE) == before))
                        return error;
        }
        return error == -ENOENT ? -EBUSY : error;
}

static inline void shm_record_copy(const struct shm_arena_record *record, struct shm_arena_record *copy_out)
{
        copy_out->block = __atomic_load_n(&record->block, __ATOMIC_ACQUIRE);
        copy_out->size = __atomic_load_n(&record->size, __ATOMIC_ACQUIRE);
        copy_out->description = __atomic_load_n(&record->description, __ATOMIC_ACQUIRE);
        copy_out->description_size = __atomic_load_n(&record->description_size, __ATOMIC_ACQUIRE);
        copy_out->flags = __atomic_load_n(&record->flags, __ATOMIC_ACQUIRE);
        copy_out->root = __atomic_load_n(&record->root, __ATOMIC_ACQUIRE);
        copy_out->root_size = __atomic_load_n(&record->root_size, __ATOMIC_ACQUIRE);
        copy_out->generation = __atomic_load_n(&record->generation, __ATOMIC_ACQUIRE);
        copy_out->published_ns = __atomic_load_n(&record->published_ns, __ATOMIC_ACQUIRE);
}

/* Whether all that a copied record says lies in the heap. */
static inline int shm_record_fits(struct shm_arena *arena, const struct shm_arena_record *record)
{
        uint64_t root = record->root - arena->home;

        return record->block % SHM_ARENA_UNIT == 0 && shm_arena_has(arena, record->block, record->size, arena->heap) &&
               (record->description == 0
                        ? record->description_size == 0
                        : record->description_size <= SHM_METADATA_MAX &&
                                  shm_arena_has(arena, record->description, record->description_size, arena->heap)) &&
               (record->root == 0 ? record->root_size == 0
                                  : shm_arena_inside(root, record->root_size, record->block,
                                                     record->block + record->size));
}

static inline void shm_value_fill(const struct shm_arena *arena, const struct shm_arena_record *record, uint64_t word,
                                  struct shm_arena_value *value_out)
{
        value_out->data = arena->base + record->block;
        value_out->size = record->size;
        value_out->description = record->description ? arena->base + record->description : NULL;
        value_out->description_size = record->description_size;
        value_out->root = record->root;
        value_out->root_size = record->root_size;
        value_out->generation = shm_word_generation(word);
        value_out->published_ns = record->published_ns;
        value_out->word = word;
        value_out->flags = record->flags;
}

/*
 * Hold the current value of an entry that was found by this name, with a hold that was taken. Returns 0 and fills all
 * of the value but `hold` and `entry`, or lets the hold stay taken: -ENOENT the name has no value; -EBADMSG the
 * owner lies; -ESTALE; -EBUSY it was replaced a million times meanwhile.
 */
static inline int shm_arena_try(struct shm_arena *arena, const struct shm_arena_entry *entry, const char *name,
                                size_t size, struct shm_ledger_hold *hold, struct shm_arena_value *value_out)
{
        struct shm_arena_record record;
        uint64_t word, again;
        int tries, fits;

        word = __atomic_load_n(&entry->word, __ATOMIC_ACQUIRE);
        for (tries = 0; tries < SHM_ARENA_TRIES; tries++, word = again) {
                if (!shm_word_present(word) || !shm_entry_is(arena, entry, name, size))
                        return -ENOENT;
                shm_record_copy(&entry->record[word & 1], &record);
                fits = record.generation == shm_word_generation(word) && shm_record_fits(arena, &record);
                if (fits)
                        __atomic_store_n(&hold->block, arena->home + record.block, __ATOMIC_SEQ_CST);
                again = __atomic_load_n(&entry->word, __ATOMIC_SEQ_CST);
                if (again != word)
                        continue;
                if (!fits)
                        return shm_arena_measure(arena, record.block + record.size) < 0 ? -ESTALE : -EBADMSG;
                shm_value_fill(arena, &record, word, value_out);
                return 0;
        }
        return -EBUSY;
}

/*
 * Hold the current value of an entry that was found by this name. Returns as shm_arena_hold(); -ENOENT also if the
 * entry has another name since.
 */
static inline int shm_arena_hold_entry(struct shm_arena *arena, struct shm_holds *holds, uint32_t entry,
                                       const char *name, size_t size, struct shm_arena_value *value_out)
{
        struct shm_ledger_hold *hold = shm_hold_take(holds);
        int error = -ENOLCK;

        if (hold != NULL) {
                __atomic_store_n(&hold->since_ns, shm_now_coarse_ns(), __ATOMIC_RELAXED);
                error = shm_arena_try(arena, &arena->entries[entry], name, size, hold, value_out);
                if (error)
                        shm_hold_release(holds, hold);
        }
        if (error)
                memset(value_out, 0, sizeof(*value_out));
        value_out->hold = error ? NULL : hold;
        value_out->entry = error ? 0 : entry;
        return error;
}

/*
 * Hold the current value of a name: what `value_out` leads to does not change until shm_arena_release(). Returns 0 or:
 * -ENOENT the name has no value; -ENOLCK this client holds as much as its ledger takes; -EBADMSG the arena is corrupt;
 * -EBUSY the owner replaces the value faster than it can be read; -ESTALE the name of the arena has another one, or
 * none, and this one has grown since.
 */
static inline int shm_arena_hold(struct shm_arena *arena, struct shm_holds *holds, const char *name, size_t size,
                                 struct shm_arena_value *value_out)
{
        uint32_t entry = 0;
        int error = shm_arena_find(arena, name, size, &entry);

        if (!error)
                return shm_arena_hold_entry(arena, holds, entry, name, size, value_out);
        memset(value_out, 0, sizeof(*value_out));
        return error;
}

/* Let go of a value. */
static inline void shm_arena_release(struct shm_holds *holds, const struct shm_arena_value *value)
{
        shm_hold_release(holds, value->hold);
}

#endif /* SHM_ARENA_READ_H */

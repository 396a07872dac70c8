/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_read.h - find a value in an arena, and hold it while it is used: no lock, no system call. See shm_arena.h.
 *
 * The scheme is that of hazard pointers (Michael, 2004), across processes: docs/arenas.md has the proof.
 */
#ifndef SHM_ARENA_READ_H
#define SHM_ARENA_READ_H

#include "shm_arena_ledger.h"
#include "shm_arena_map.h"

#define SHM_NAME_ROOM 256 /* bytes for a name that is not in its entry */
#define SHM_ARENA_TRIES 1000000 /* of a reader whose value is replaced each time: the owner does nothing else */
#define SHM_ARENA_STEPS 1000000 /* along chains, of a reader while names move; and twice the index, at least */

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

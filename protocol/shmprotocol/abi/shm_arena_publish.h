/* SPDX-License-Identifier: Apache-2.0 */
/* shm_arena_publish.h - names and values of an arena, as its owner writes them. See shm_arena.h. */
#ifndef SHM_ARENA_PUBLISH_H
#define SHM_ARENA_PUBLISH_H

#include "shm_arena_own.h"

/*
 * Let an entry have a name; nobody looks at it, or its word says that it is absent. Returns 0 or as shm_arena_loan().
 */
static inline int shm_entry_rename(struct shm_arena_owner *owner, struct shm_arena_entry *entry, const char *name,
                                   size_t size)
{
        uint64_t *words = entry->inline_name;
        size_t i;

        if (size > sizeof(entry->inline_name) && entry->name == 0) {
                uint64_t block = 0;
                int error = shm_arena_loan(owner, SHM_NAME_ROOM, &block);

                if (error)
                        return error;
                /* It stays the entry's for ever: a late reader compares words there, and nothing else is ever there. */
                __atomic_store_n(&entry->name, block, __ATOMIC_RELEASE);
        }
        if (entry->name != 0)
                words = (uint64_t *)shm_arena_block(owner, entry->name);
        for (i = 0; i < size; i += 8)
                __atomic_store_n(&words[i / 8], shm_name_word(name, size, i), __ATOMIC_RELEASE);
        __atomic_store_n(&entry->name_size, size, __ATOMIC_RELEASE);
        __atomic_store_n(&entry->hash, shm_name_hash(name, size), __ATOMIC_RELEASE);
        return 0;
}

/*
 * Take the name of an absent entry out of the index. Later slots of its chain move up: without that, names that
 * come and go would make all chains as long as the index.
 */
static inline void shm_index_remove(struct shm_arena_owner *owner, uint32_t entry)
{
        uint64_t mask = owner->arena.index_mask, hole = owner->entries[entry].hash & mask, at;
        uint64_t *moves = &owner->control->moves;

        while (owner->slots[hole] != entry + 1)
                hole = (hole + 1) & mask;
        for (at = (hole + 1) & mask; owner->slots[at] != 0; at = (at + 1) & mask) {
                uint64_t first = owner->entries[owner->slots[at] - 1].hash & mask;

                /* Not if its chain begins behind the hole. */
                if (((at - first) & mask) < ((at - hole) & mask))
                        continue;
                __atomic_store_n(&owner->slots[hole], owner->slots[at], __ATOMIC_RELEASE);
                __atomic_store_n(moves, *moves + 1, __ATOMIC_RELEASE);
                hole = at;
        }
        __atomic_store_n(&owner->slots[hole], 0, __ATOMIC_RELEASE);
}

static inline void shm_index_insert(struct shm_arena_owner *owner, uint32_t entry)
{
        uint64_t mask = owner->arena.index_mask, at = owner->entries[entry].hash & mask;

        while (owner->slots[at] != 0)
                at = (at + 1) & mask;
        __atomic_store_n(&owner->slots[at], entry + 1, __ATOMIC_RELEASE);
}

/* An entry for another name: one that was never used, or the one that is absent longest. -ENFILE: all have values. */
static inline int shm_entry_take(struct shm_arena_owner *owner, uint32_t *entry_out)
{
        if (owner->control->used < owner->arena.entry_count) {
                *entry_out = (uint32_t)owner->control->used;
                return 0;
        }
        while (owner->absent_count > 0) {
                uint32_t entry = owner->absent[owner->absent_first];

                owner->absent_first = (owner->absent_first + 1) % owner->arena.entry_count;
                owner->absent_count--;
                owner->is_listed[entry] = 0;
                if (shm_word_present(owner->entries[entry].word))
                        continue; /* its name came back */
                shm_index_remove(owner, entry);
                *entry_out = entry;
                return 0;
        }
        return -ENFILE;
}

/* Note an absent entry, which may get another name. */
static inline void shm_absent_list(struct shm_arena_owner *owner, uint32_t entry)
{
        if (owner->is_listed[entry])
                return;
        owner->is_listed[entry] = 1;
        owner->absent[(owner->absent_first + owner->absent_count++) % owner->arena.entry_count] = entry;
}

/*
 * Let a name have an entry, which has no value yet. Returns 0; -EINVAL the name is empty or has more than 255 bytes;
 * -ENFILE; or as shm_arena_loan().
 */
static inline int shm_entry_make(struct shm_arena_owner *owner, const char *name, size_t size, uint32_t *entry_out)
{
        int error = size == 0 || size > SHM_NAME_MAX ? -EINVAL : shm_entry_take(owner, entry_out);

        if (error)
                return error;
        error = shm_entry_rename(owner, &owner->entries[*entry_out], name, size);
        if (*entry_out == owner->control->used) {
                if (error)
                        return error;
                __atomic_store_n(&owner->control->used, owner->control->used + 1, __ATOMIC_RELEASE);
        }
        shm_index_insert(owner, *entry_out);
        if (error) /* it keeps its old name */
                shm_absent_list(owner, *entry_out);
        return error;
}

/* Give a word another generation: this makes a value current, or absent. Returns what it was. */
static inline uint64_t shm_entry_flip(struct shm_arena_owner *owner, struct shm_arena_entry *entry, uint64_t low)
{
        uint64_t generation = owner->control->generation + 1;

        __atomic_store_n(&owner->control->generation, generation, __ATOMIC_RELAXED);
        return __atomic_exchange_n(&entry->word, generation << 2 | low, __ATOMIC_SEQ_CST);
}

static inline void shm_record_write(struct shm_arena_record *record, const struct shm_arena_record *value)
{
        __atomic_store_n(&record->block, value->block, __ATOMIC_RELEASE);
        __atomic_store_n(&record->size, value->size, __ATOMIC_RELEASE);
        __atomic_store_n(&record->description, value->description, __ATOMIC_RELEASE);
        __atomic_store_n(&record->description_size, value->description_size, __ATOMIC_RELEASE);
        __atomic_store_n(&record->flags, value->flags, __ATOMIC_RELEASE);
        __atomic_store_n(&record->root, value->root, __ATOMIC_RELEASE);
        __atomic_store_n(&record->root_size, value->root_size, __ATOMIC_RELEASE);
        __atomic_store_n(&record->generation, value->generation, __ATOMIC_RELEASE);
        __atomic_store_n(&record->published_ns, value->published_ns, __ATOMIC_RELEASE);
}

static inline void shm_count(uint64_t *word, uint64_t more)
{
        __atomic_store_n(word, *word + more, __ATOMIC_RELAXED);
}

/* Publish a record, whose block is the arena's from now on, in an entry, and retire the one that was current. */
static inline uint64_t shm_entry_publish(struct shm_arena_owner *owner, struct shm_arena_entry *entry,
                                         struct shm_arena_record *value)
{
        uint64_t which = ~entry->word & 1, word;
        struct shm_arena_record *before = &entry->record[!which];

        value->generation = owner->control->generation + 1;
        value->published_ns = shm_arena_now_ns();
        shm_record_write(&entry->record[which], value);
        word = shm_entry_flip(owner, entry, which);
        if (shm_word_present(word)) {
                shm_count(&owner->control->value_bytes, value->size - before->size);
                shm_retire(owner, before->block);
        } else {
                shm_count(&owner->control->value_bytes, value->size);
                shm_count(&owner->control->names, 1);
        }
        shm_owner_wake(owner, (uint64_t)((uint8_t *)&entry->word - owner->arena.base));
        return value->generation;
}

/*
 * The same in the entry that shm_arena_find() gave for the name; or SHM_ENTRY_NEW: it gave none. No other call of this
 * owner may lie between.
 */
#define SHM_ENTRY_NEW UINT32_MAX
static inline int shm_arena_publish_at(struct shm_arena_owner *owner, uint32_t number, const char *name, size_t size,
                                       struct shm_arena_record *value, uint64_t *generation_out)
{
        int error = 0;

        if (!shm_record_fits(&owner->arena, value)) /* readers would refuse it */
                return -EINVAL;
        if (number == SHM_ENTRY_NEW)
                error = shm_entry_make(owner, name, size, &number);
        if (!error)
                *generation_out = shm_entry_publish(owner, &owner->entries[number], value);
        return error;
}

/*
 * Publish a block under a name, and retire the one that was current. The block is the arena's from now on; after an
 * error it is still the caller's: -EINVAL the name, or the record leads elsewhere; -ENFILE all names are in use; or as
 * shm_arena_loan(). `value` has what the record is to say but for generation and time; its offsets are those of the
 * arena.
 */
static inline int shm_arena_publish(struct shm_arena_owner *owner, const char *name, size_t size,
                                    struct shm_arena_record *value, uint64_t *generation_out)
{
        uint32_t number = SHM_ENTRY_NEW;

        if (shm_arena_find(&owner->arena, name, size, &number) != 0)
                number = SHM_ENTRY_NEW;
        return shm_arena_publish_at(owner, number, name, size, value, generation_out);
}

/* Remove a name and its value. Returns 0 or -ENOENT. */
static inline int shm_arena_remove(struct shm_arena_owner *owner, const char *name, size_t size)
{
        struct shm_arena_entry *entry;
        struct shm_arena_record *before;
        uint64_t word;
        uint32_t number = 0;

        if (shm_arena_find(&owner->arena, name, size, &number) != 0)
                return -ENOENT;
        entry = &owner->entries[number];
        if (!shm_word_present(entry->word))
                return -ENOENT;
        word = shm_entry_flip(owner, entry, (entry->word & 1) | SHM_WORD_ABSENT);
        before = &entry->record[word & 1];
        shm_count(&owner->control->value_bytes, (uint64_t)0 - before->size);
        shm_count(&owner->control->names, (uint64_t)0 - 1);
        shm_retire(owner, before->block);
        shm_absent_list(owner, number);
        shm_owner_wake(owner, (uint64_t)((uint8_t *)&entry->word - owner->arena.base));
        return 0;
}

/*
 * Return where in the arena a description is that is kept for all values which have it; 0: it is too long, or there are
 * too many, so it goes with its value. A kept one never changes, so a reader needs no hold for it.
 */
static inline uint64_t shm_arena_describe(struct shm_arena_owner *owner, const void *description, uint64_t size)
{
        struct shm_description *known = owner->described;
        uint64_t hash, block = 0;
        uint32_t probe;

        if (size > SHM_DESCRIPTION_MAX)
                return 0;
        if (known != NULL && known->size == size &&
            memcmp(shm_arena_block(owner, known->offset), description, size) == 0)
                return known->offset; /* as that of the last value */
        hash = shm_name_hash((const char *)description, size);
        for (probe = 0; probe < SHM_DESCRIPTIONS; probe++) {
                known = &owner->descriptions[(hash + probe) % SHM_DESCRIPTIONS];
                if (known->offset == 0)
                        break;
                if (known->hash == hash && known->size == size &&
                    memcmp(shm_arena_block(owner, known->offset), description, size) == 0) {
                        owner->described = known;
                        return known->offset;
                }
        }
        if (owner->description_count >= SHM_DESCRIPTIONS / 2 || shm_arena_loan(owner, size, &block) != 0)
                return 0;
        memcpy(shm_arena_block(owner, block), description, size);
        known->hash = hash;
        known->size = size;
        known->offset = block;
        owner->described = known;
        owner->description_count++;
        return block;
}

/*
 * Take a block for a value of `size` bytes that has this meaning; its description is written already. Returns 0 and
 * the record to publish it with, or: -EINVAL the description is longer than readers take; or as shm_arena_loan().
 */
static inline int shm_arena_prepare(struct shm_arena_owner *owner, uint64_t size,
                                    const struct shm_arena_meaning *meaning, struct shm_arena_record *record_out)
{
        uint64_t room = size, aligned = (size + 7) / 8 * 8;
        int error;

        memset(record_out, 0, sizeof(*record_out));
        record_out->size = size;
        if (size > owner->arena.span || meaning->description_size > SHM_METADATA_MAX)
                return size > owner->arena.span ? -ENOSPC : -EINVAL;
        if (meaning->description_size != 0) {
                record_out->description =
                        shm_arena_describe(owner, meaning->description, meaning->description_size);
                record_out->description_size = (uint32_t)meaning->description_size;
                if (record_out->description == 0)
                        room = aligned + meaning->description_size;
        }
        record_out->flags = meaning->flags | (room == size ? SHM_VALUE_SHARED_DESCRIPTION : 0);
        error = shm_arena_loan(owner, room, &record_out->block);
        if (error)
                return error;
        if (meaning->root_size != 0) {
                record_out->root = owner->arena.home + record_out->block + meaning->root;
                record_out->root_size = meaning->root_size;
        }
        if (room != size) {
                record_out->description = record_out->block + aligned;
                memcpy(shm_arena_block(owner, record_out->description), meaning->description,
                       meaning->description_size);
        }
        return 0;
}

/* Copy a value and publish it. Returns 0 and its generation, or as shm_arena_prepare() and shm_arena_publish(). */
static inline int shm_arena_put(struct shm_arena_owner *owner, const char *name, size_t name_size, const void *data,
                                uint64_t size, const struct shm_arena_meaning *meaning, uint64_t *generation_out)
{
        struct shm_arena_record record;
        int error = shm_arena_prepare(owner, size, meaning, &record);

        if (error)
                return error;
        shm_copy(&owner->copying, shm_arena_block(owner, record.block), data, size);
        error = shm_arena_publish(owner, name, name_size, &record, generation_out);
        if (error)
                shm_arena_discard(owner, record.block);
        return error;
}

#endif /* SHM_ARENA_PUBLISH_H */

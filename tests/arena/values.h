/* values.h - values that say of each of their words whether it is theirs: of which name, and of which generation. */
#ifndef VALUES_H
#define VALUES_H

#include "world.h"

static inline uint64_t value_word(uint64_t name, uint64_t generation, uint64_t i)
{
        uint64_t mixed = (name << 48) ^ generation * 0x9e3779b97f4a7c15u ^ i * 0xff51afd7ed558ccdu;

        return mixed ^ mixed >> 29;
}

/* Publish a value of so many words. Returns 0 or -errno. */
static inline int value_put(struct shm_arena_owner *owner, const char *text, uint64_t name, uint64_t words)
{
        struct shm_arena_meaning meaning;
        struct shm_arena_record record;
        uint64_t generation, i, *data;
        int error;

        memset(&meaning, 0, sizeof(meaning));
        error = shm_arena_prepare(owner, words * 8, &meaning, &record);
        if (error)
                return error;
        data = (uint64_t *)shm_arena_block(owner, record.block);
        for (i = 0; i < words; i++)
                data[i] = value_word(name, owner->control->generation + 1, i);
        error = shm_arena_publish(owner, text, strlen(text), &record, &generation);
        if (error)
                shm_arena_discard(owner, record.block);
        return error;
}

/* Whether each word of a value is that of this name and of its generation. */
static inline int value_is(const struct shm_arena_value *value, uint64_t name)
{
        const uint64_t *data = (const uint64_t *)value->data;
        uint64_t i;

        if (value->size % 8 != 0)
                return 0;
        for (i = 0; i < value->size / 8; i++)
                if (data[i] != value_word(name, value->generation, i))
                        return 0;
        return 1;
}

#endif /* VALUES_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_collect.h - which blocks the owner of an arena may use again: those that no ledger names. See shm_arena.h.
 *
 * A block whose value was replaced is retired. It becomes free when the owner, after the flip, knows all ledgers and
 * finds it in none. The host raises a word on the board before a ledger can name anything; see shm_collect().
 */
#ifndef SHM_ARENA_COLLECT_H
#define SHM_ARENA_COLLECT_H

#include "shm_arena_link.h"

/* Note a retired block that is named by a hold. Any number may stand there. */
static inline uint64_t shm_collect_note(struct shm_heap *heap, uint64_t block)
{
        struct shm_heap_place place;
        struct shm_heap_page *info;

        if (block - heap->start >= (uint64_t)heap->count * SHM_HEAP_PAGE)
                return 0;
        /* Of a page that is free, or inside of a run, this can be what was true once: a page that exists, and a bit. */
        place = shm_heap_place_of(heap, block);
        info = &heap->pages[place.first + place.bit / 64];
        if ((info->retired >> place.bit % 64 & 1) == 0)
                return 0;
        info->held |= (uint64_t)1 << place.bit % 64;
        return 1;
}

/* Note the retired blocks that a ledger names. Returns how many. */
static inline uint64_t shm_collect_mark(struct shm_arena_owner *owner, const struct shm_ledger *ledger, uint64_t size)
{
        const struct shm_ledger_hold *holds = (const struct shm_ledger_hold *)(const void *)(ledger + 1);
        uint64_t count = (size - sizeof(*ledger)) / sizeof(*holds), i, held = 0;
        uint64_t high = __atomic_load_n(&ledger->high, __ATOMIC_SEQ_CST);

        if (high > count)
                high = count;
        for (i = 0; i < high; i++) {
                uint64_t block = __atomic_load_n(&holds[i].block, __ATOMIC_SEQ_CST);

                if (block > 1)
                        held += shm_collect_note(&owner->heap, block - owner->arena.home);
        }
        owner->looked_at += high;
        return held;
}

/* Note the retired blocks that any ledger names. */
static inline void shm_collect_mark_all(struct shm_arena_owner *owner)
{
        uint32_t i;

        owner->looked_at = 0;
        shm_collect_mark(owner, owner->own.ledger,
                         sizeof(struct shm_ledger) + owner->own.count * sizeof(struct shm_ledger_hold));
        for (i = 0; i < owner->ledger_count; i++) {
                const struct shm_ledger *soon = owner->ledgers[i + 8 < owner->ledger_count ? i + 8 : i].ledger;

                __builtin_prefetch(soon); /* its client has written there: that comes from another cache */
                __builtin_prefetch(soon + 1);
                owner->ledgers[i].held = shm_collect_mark(owner, owner->ledgers[i].ledger, owner->ledgers[i].size);
        }
}

/*
 * Free the retired blocks that no ledger names. Returns 0, or -EAGAIN: not all ledgers are known, because the
 * messages about them did not come yet.
 */
static inline int shm_collect(struct shm_arena_owner *owner)
{
        uint64_t i, kept = 0, kept_bytes = 0;

        if (!shm_owner_knows(owner))
                return -EAGAIN;
        shm_collect_mark_all(owner);
        for (i = 0; i < owner->retired_count; i++) {
                uint64_t block = owner->retired[i];
                struct shm_heap_place place = shm_heap_place_of(&owner->heap, block);
                struct shm_heap_page *info = &owner->heap.pages[place.first + place.bit / 64];
                uint64_t bit = (uint64_t)1 << place.bit % 64;

                if ((info->held & bit) != 0) {
                        info->held &= ~bit;
                        owner->retired[kept++] = block;
                        kept_bytes += shm_heap_block_size(&owner->heap, place);
                        continue;
                }
                info->retired &= ~bit;
                shm_heap_give(&owner->heap, block);
        }
        owner->retired_count = owner->kept_count = kept;
        owner->retired_bytes = owner->kept_bytes = kept_bytes;
        return 0;
}

/*
 * Collect when it is worth it. To look at a ledger costs a cache line or two, which its client writes; to look at many
 * holds costs some ns each. 64 blocks, or a MiB and one more for each 64 ledgers, are far more work than that; and so
 * are a block for 8 holds, and a KiB for each.
 */
static inline void shm_collect_in_turn(struct shm_arena_owner *owner)
{
        uint64_t enough = 64 + owner->kept_count + owner->looked_at / 8;
        uint64_t bytes = ((1 + (uint64_t)owner->ledger_count / 64) << 20) + (owner->looked_at << 10);

        if (owner->retired_count - owner->kept_count >= enough ||
            owner->retired_bytes - owner->kept_bytes >= bytes)
                (void)shm_collect(owner);
}

/* Retire a block. Without private memory to note it in, it is lost until the arena goes. */
static inline void shm_retire(struct shm_arena_owner *owner, uint64_t block)
{
        struct shm_heap_place place = shm_heap_place_of(&owner->heap, block);
        void *grown = shm_private_grow(owner->retired, &owner->retired_room,
                                       (owner->retired_count + 1) * sizeof(*owner->retired));

        if (grown == NULL)
                return;
        owner->retired = (uint64_t *)grown;
        owner->heap.pages[place.first + place.bit / 64].retired |= (uint64_t)1 << place.bit % 64;
        owner->retired[owner->retired_count++] = block;
        owner->retired_bytes += shm_heap_block_size(&owner->heap, place);
}

#endif /* SHM_ARENA_COLLECT_H */

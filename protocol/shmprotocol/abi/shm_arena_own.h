/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_own.h - publish values in an arena: a copy and an exchange of a word, no system call. See shm_arena.h.
 *
 * The functions are for one thread at a time, of the process that made the owner.
 */
#ifndef SHM_ARENA_OWN_H
#define SHM_ARENA_OWN_H

#include "shm_arena_collect.h"

#define SHM_MADV_POPULATE_WRITE 23 /* MADV_POPULATE_WRITE, of Linux 5.14 */
#define SHM_ARENA_BEHIND_MS 2000  /* for messages that are on their way: a takeover takes some ms */
#define SHM_ARENA_ANSWER_MS 10000 /* for the host to answer: it needs a ms, and machines swap */
#define SHM_DESCRIPTIONS 1024     /* that are kept once for all values; a power of two */
#define SHM_DESCRIPTION_MAX 4096  /* bytes; a longer one goes with its value */
#define SHM_OWN_HOLDS 131072      /* as in the ledgers that a host makes */

/* A description that many values have: found by its bytes, at its place in the heap. */
struct shm_description {
        uint64_t hash;
        uint64_t offset; /* 0: none */
        uint64_t size;
};

/* The meaning of the bytes of a value. Zeros: plain bytes. */
struct shm_arena_meaning {
        const void *description; /* a msgpack map (protocol/README.md, section 15) */
        uint64_t description_size;
        uint64_t root; /* where in the value its root is, if `root_size` is not 0 */
        uint64_t root_size;
        uint32_t flags; /* SHM_VALUE_OBJECTS */
};

static inline uint64_t shm_arena_now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The slots of an index for so many names: at most half of them are in use. */
static inline uint64_t shm_arena_slots(uint64_t names)
{
        uint64_t slots = 64;

        while (slots < 2 * names)
                slots *= 2;
        return slots;
}

/* Where the values of an arena for so many names begin. */
static inline uint64_t shm_arena_heap_offset(uint64_t names)
{
        uint64_t end = SHM_ARENA_HEAD + shm_arena_slots(names) * 4 + names * sizeof(struct shm_arena_entry);

        return (end + SHM_HEAP_PAGE - 1) / SHM_HEAP_PAGE * SHM_HEAP_PAGE;
}

/* Give everything back that an owner has, but for the mapping of the arena, which is the caller's. */
static inline void shm_owner_close(struct shm_arena_owner *owner)
{
        while (owner->ledger_count > 0)
                shm_owner_drop(owner, 0);
        if (owner->socket >= 0)
                close(owner->socket);
        owner->socket = -1;
        shm_owner_move_on(owner);
        if (owner->memory)
                close(owner->memory - 1);
        if (owner->link)
                close(owner->link - 1);
        owner->memory = owner->link = 0;
        if (owner->missing != NULL)
                munmap(owner->missing, owner->missing_room);
        owner->missing = NULL;
        if (owner->heap.pages != NULL)
                munmap(owner->heap.pages, owner->pages_room);
        if (owner->ledgers != NULL)
                munmap(owner->ledgers, owner->ledgers_room);
        if (owner->retired != NULL)
                munmap(owner->retired, owner->retired_room);
        if (owner->absent != NULL)
                munmap(owner->absent, owner->arena.entry_count * 5);
        if (owner->descriptions != NULL)
                munmap(owner->descriptions, SHM_DESCRIPTIONS * sizeof(*owner->descriptions));
        if (owner->own.ledger != NULL)
                munmap(owner->own.ledger, sizeof(struct shm_ledger) + SHM_OWN_HOLDS * sizeof(struct shm_ledger_hold));
        if (owner->board != NULL)
                munmap(owner->board, (size_t)owner->board_size);
        owner->board = NULL;
        owner->heap.pages = NULL;
        owner->ledgers = NULL;
        owner->retired = NULL;
        owner->absent = NULL;
        owner->descriptions = owner->described = NULL;
        owner->own.ledger = NULL;
}

/* Let the heap go to the end of the object. Returns 0 or -ENOMEM. */
static inline int shm_owner_extend(struct shm_arena_owner *owner, uint64_t size)
{
        uint64_t count = (size - owner->heap.start) / SHM_HEAP_PAGE;
        void *grown = count > UINT32_MAX / 2 ? NULL
                                             : shm_private_grow(owner->heap.pages, &owner->pages_room,
                                                                count * sizeof(*owner->heap.pages));

        if (grown == NULL)
                return -ENOMEM;
        owner->heap.pages = (struct shm_heap_page *)grown;
        owner->heap.limit = (uint32_t)count;
        shm_heap_extend(&owner->heap, (uint32_t)count);
        __atomic_store_n(&owner->arena.size, size, __ATOMIC_RELAXED); /* threads of this process may read values */
        return 0;
}

/*
 * Let the pages of the object from `from` to `to` exist, and be mapped here: what does not is made by the first write to
 * it, which takes 3 us for a page, or ends the process if there is no memory then. Returns 0; -ENOMEM; -EINVAL: Linux is
 * older than 5.14.
 */
static inline int shm_owner_populate(struct shm_arena_owner *owner, uint64_t from, uint64_t to)
{
        uint8_t *base = (uint8_t *)(uintptr_t)owner->arena.base;

        while (madvise(base + from, (size_t)(to - from), SHM_MADV_POPULATE_WRITE) < 0)
                if (errno != EINTR && errno != EAGAIN)
                        return errno == EINVAL ? -EINVAL : -ENOMEM;
        return 0;
}

static inline void shm_control_write(struct shm_arena_control *control, uint64_t names)
{
        memcpy(control->magic, SHM_ARENA_MAGIC, sizeof(control->magic));
        control->version = SHM_ARENA_VERSION;
        control->index = SHM_ARENA_HEAD;
        control->index_slots = shm_arena_slots(names);
        control->entries = SHM_ARENA_HEAD + control->index_slots * 4;
        control->entry_count = names;
        control->heap = shm_arena_heap_offset(names);
}

/* Take private memory for so many names, and for readers in this process. Returns 0 or -ENOMEM. */
static inline int shm_owner_remember(struct shm_arena_owner *owner, uint64_t names)
{
        owner->absent = (uint32_t *)shm_private(names * 5);
        owner->descriptions =
                (struct shm_description *)shm_private(SHM_DESCRIPTIONS * sizeof(*owner->descriptions));
        owner->own.ledger = (struct shm_ledger *)shm_private(sizeof(struct shm_ledger) +
                                                             SHM_OWN_HOLDS * sizeof(struct shm_ledger_hold));
        if (owner->absent == NULL || owner->descriptions == NULL || owner->own.ledger == NULL)
                return -ENOMEM;
        owner->is_listed = (uint8_t *)(owner->absent + names);
        owner->own.holds = (struct shm_ledger_hold *)(void *)(owner->own.ledger + 1);
        owner->own.count = SHM_OWN_HOLDS;
        return 0;
}

/*
 * Become the owner of an arena of zeros, of which the object has `size` bytes, mapped at `memory` for writing. `home`,
 * `span`, `region` and `line` are those that the host gave; `socket` is the owner's from now on, also after an
 * error. Returns 0 or: -EINVAL the number of names; -ENOSPC there is no room for so many; -ENOMEM.
 */
static inline int shm_owner_make(struct shm_arena_owner *owner, void *memory, uint64_t home, uint64_t span,
                                 uint64_t size, uint64_t names, uint64_t region, const struct shm_board_line *line,
                                 int socket)
{
        int error;

        memset(owner, 0, sizeof(*owner));
        owner->socket = socket;
        error = names == 0 || names > SHM_ARENA_NAMES_MAX                        ? -EINVAL
                : shm_arena_heap_offset(names) + SHM_HEAP_PAGE > size || size > span ? -ENOSPC
                                                                                  : 0;
        if (error) {
                shm_owner_close(owner);
                return error;
        }
        owner->control = (struct shm_arena_control *)(void *)((uint8_t *)memory + SHM_HEADER_SIZE);
        shm_control_write(owner->control, names);
        error = shm_arena_open(memory, home, span, size, &owner->arena);
        owner->arena.region = region;
        owner->arena.line = line;
        owner->slots = (uint32_t *)(uintptr_t)owner->arena.index;
        owner->entries = (struct shm_arena_entry *)(uintptr_t)owner->arena.entries;
        shm_heap_make(&owner->heap, NULL, 0, owner->control->heap);
        if (!error)
                error = shm_owner_remember(owner, names);
        if (!error)
                error = shm_owner_extend(owner, size);
        if (error)
                shm_owner_close(owner);
        return error;
}

/*
 * Ask the host, and wait for its answer. Returns 0 or -errno: -EPIPE the host is gone; -ETIMEDOUT; -EMFILE, -ENOMEM
 * there is no room for a ledger that it told of before.
 */
static inline int shm_owner_ask(struct shm_arena_owner *owner, uint32_t kind, uint64_t size)
{
        struct shm_arena_message message = {kind, 0, owner->arena.region, size};
        uint64_t end_ms = shm_arena_now_ns() / 1000000 + SHM_ARENA_ANSWER_MS, now_ms;
        struct pollfd wait = {owner->socket, POLLIN, 0};
        int result;

        (void)shm_owner_line(owner); /* with the control socket of the host that serves */
        wait.fd = owner->socket;
        shm_owner_listen(owner); /* also to a late answer */
        owner->answer.kind = 0;
        if (owner->socket < 0 || send(owner->socket, &message, sizeof(message), MSG_NOSIGNAL) < 0)
                return owner->socket < 0 ? -EPIPE : -errno;
        while (owner->answer.kind != kind) {
                result = shm_owner_receive(owner);
                if (result < 0 && result != -ECONNRESET) /* that comes once, before what was sent */
                        return result;
                if (result != 0)
                        continue;
                now_ms = shm_arena_now_ns() / 1000000;
                if (now_ms >= end_ms)
                        return -ETIMEDOUT;
                (void)poll(&wait, 1, (int)(end_ms - now_ms)); /* also after a signal: the answer will come */
        }
        return -owner->answer.code;
}

/* Publish the arena itself: from now on it can be opened, and nobody else can ever write it. Returns 0 or -errno. */
static inline int shm_arena_ready(struct shm_arena_owner *owner)
{
        return shm_owner_ask(owner, SHM_ARENA_READY, owner->arena.size);
}

/* Let the arena have at least `size` bytes. Returns 0 or: -EINVAL over its span; -EDQUOT; -ENOMEM; -EPIPE. */
static inline int shm_arena_grow(struct shm_arena_owner *owner, uint64_t size)
{
        uint64_t asked = (size + SHM_HEAP_PAGE - 1) / SHM_HEAP_PAGE * SHM_HEAP_PAGE, end;
        int error;

        if (size <= owner->arena.size)
                return 0;
        if (size > owner->arena.span)
                return -EINVAL;
        error = shm_owner_ask(owner, SHM_ARENA_GROW, asked);
        if (error)
                return error;
        end = owner->answer.size;
        if (end < owner->arena.size || end > owner->arena.span)
                return -EBADMSG;
        if (!owner->is_populated)
                return shm_owner_extend(owner, end);
        end = end < asked ? end : asked; /* the object may have more since before, when that could not be populated */
        return shm_owner_populate(owner, owner->arena.size, end) < 0 ? -ENOMEM : shm_owner_extend(owner, end);
}

/* Take a block for `size` bytes without asking the host for more. Returns its offset, or 0. */
static inline uint64_t shm_owner_block(struct shm_arena_owner *owner, uint64_t size)
{
        uint64_t block;

        shm_collect_in_turn(owner);
        block = shm_heap_take(&owner->heap, size);
        if (block == 0 && owner->retired_count > 0 && shm_collect(owner) == 0)
                block = shm_heap_take(&owner->heap, size);
        return block;
}

/* Whether messages are on their way without which nothing can be used again. */
static inline int shm_owner_is_behind(const struct shm_arena_owner *owner)
{
        const struct shm_board_line *line = owner->arena.line;

        return line != NULL && owner->socket >= 0 && !owner->is_alone &&
               (int32_t)(owner->heard - __atomic_load_n(&line->ledgers, __ATOMIC_SEQ_CST)) < 0;
}

/*
 * Wait for those messages: a host that another one takes over from sends none for some ms. Returns 0, or -errno: -EPIPE
 * the host is gone; -ETIMEDOUT; -EMFILE, -ENOMEM there is no room for a ledger.
 */
static inline int shm_owner_await_messages(struct shm_arena_owner *owner)
{
        uint64_t end_ms = shm_arena_now_ns() / 1000000 + SHM_ARENA_BEHIND_MS, now_ms;
        struct pollfd wait = {owner->socket, POLLIN, 0};
        int result;

        while (shm_owner_is_behind(owner)) {
                (void)shm_owner_line(owner);
                result = shm_owner_receive(owner);
                if (result < 0 && result != -ECONNRESET)
                        return result;
                if (result != 0)
                        continue;
                now_ms = shm_arena_now_ns() / 1000000;
                if (now_ms >= end_ms)
                        return -ETIMEDOUT;
                if (shm_owner_is_behind(owner))
                        (void)poll(&wait, 1, (int)(end_ms - now_ms));
        }
        return 0;
}

/*
 * Let a block of `size` bytes fit: when all messages about ledgers have come, so that retired blocks are known to be free,
 * by letting the arena grow to twice its size, or enough. Returns as shm_arena_grow().
 */
static inline int shm_owner_make_room(struct shm_arena_owner *owner, uint64_t size)
{
        uint64_t needed = owner->arena.size + size + 65 * SHM_HEAP_PAGE, wanted = 2 * owner->arena.size;

        if (owner->is_quiet)
                return -EINVAL;
        if (shm_owner_is_behind(owner))
                return shm_owner_await_messages(owner);
        if (owner->arena.size >= owner->arena.span || size > owner->arena.span)
                return -EINVAL;
        if (wanted < needed)
                wanted = needed;
        if (wanted > owner->arena.span)
                wanted = owner->arena.span;
        return shm_arena_grow(owner, wanted) == 0 ? 0 : shm_arena_grow(owner, needed);
}

/*
 * Take a block for `size` bytes, to be written and then published or discarded. May ask the host for more memory, and
 * wait for that. Returns 0, or: -ENOSPC the arena is full of values that are current or held; -EPIPE it is full, and
 * the host went, or took the arena from this owner, before it could tell of all readers.
 */
static inline int shm_arena_loan(struct shm_arena_owner *owner, uint64_t size, uint64_t *block_out)
{
        int tries = shm_owner_is_behind(owner) ? 2 : 1; /* once for the messages, and once to grow */

        *block_out = shm_owner_block(owner, size);
        for (; *block_out == 0 && tries > 0 && shm_owner_make_room(owner, size) == 0; tries--)
                *block_out = shm_owner_block(owner, size);
        if (*block_out != 0)
                return 0;
        return owner->is_alone && !shm_owner_knows(owner) ? -EPIPE : -ENOSPC;
}

/* Give back a block that was not published. */
static inline void shm_arena_discard(struct shm_arena_owner *owner, uint64_t block)
{
        shm_heap_give(&owner->heap, block);
}

/* Where a block is for the owner: it can be written until it is published. */
static inline void *shm_arena_block(const struct shm_arena_owner *owner, uint64_t block)
{
        return (void *)(uintptr_t)(owner->arena.base + block);
}

/*
 * Look into the ledgers for clients that sleep, and raise their events. Returns as shm_wake_ledger(). Also without
 * sleepers it hears messages: so that the host need not keep them, and they are here if it dies.
 */
static inline int shm_owner_sleepers(struct shm_arena_owner *owner, uint64_t word)
{
        const struct shm_board_line *line = shm_owner_line(owner);
        uint32_t told = __atomic_load_n(&line->ledgers, __ATOMIC_SEQ_CST), i;
        int futexes = 0;

        if (told != owner->heard) {
                shm_owner_listen(owner);
                line = owner->arena.line; /* which may have moved just now */
                told = __atomic_load_n(&line->ledgers, __ATOMIC_SEQ_CST);
        }
        if (__atomic_load_n(&line->waiters, __ATOMIC_SEQ_CST) == 0)
                return 0;
        if (told != owner->heard)
                shm_owner_catch_up(owner, told);
        for (i = 0; i < owner->ledger_count; i++)
                futexes |= shm_wake_ledger(&owner->arena, owner->ledgers[i].ledger, owner->ledgers[i].event, word);
        return futexes;
}

/* After a flip: wake those who sleep on the entry, whose word is at this offset, or on any change. */
static inline void shm_owner_wake(struct shm_arena_owner *owner, uint64_t word)
{
        int futexes;

        __atomic_store_n(&owner->control->changes, owner->control->changes + 1, __ATOMIC_SEQ_CST);
        futexes = shm_wake_ledger(&owner->arena, owner->own.ledger, -1, word);
        if (owner->arena.line != NULL)
                futexes |= shm_owner_sleepers(owner, word);
        if (futexes & 1)
                shm_wake_word(&owner->arena, word);
        if (futexes & 2)
                shm_wake_word(&owner->arena, SHM_ANY_CHANGE);
}

#endif /* SHM_ARENA_OWN_H */

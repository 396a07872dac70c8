/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_board.h - the board: which region is the current one of a name, without asking the host.
 *
 * A host has one board. It is a region of kind SHM_KIND_BOARD, whose root is a struct shm_board, and its descriptor
 * comes with the host's Welcome. A grant of a region carries the number of a line of the board. The region is the
 * current one of its name as long as that line has the region's number.
 *
 * Only the host can write the board: it has the one writable mapping, made before F_SEAL_FUTURE_WRITE. Readers map it
 * read-only. This file is C11 and C++17, and needs no library; it does not declare the calls of the host.
 */
#ifndef SHM_BOARD_H
#define SHM_BOARD_H

#include "shm_abi.h"

/* cffi: begin */

#define SHM_KIND_BOARD 3 /* the board of a host: no publisher makes one */
#define SHM_BOARD_LINE_SIZE 64

/*
 * The line of a name.
 *
 * Writer: only the host. It stores `generation` (relaxed), then `region` (release), then adds 1 to `changes`
 * (release), and then wakes those who sleep on `changes`; all of it before it answers the request that made the
 * change. It stores `rights` (release) before it answers a change of the mode. Readers: all processes.
 *
 * Line 0 belongs to no name: a grant with line 0 says that the board had no room, so the host must be asked.
 * A line serves another name once its name is gone and every lease that was granted with it. The numbers of regions
 * are never used twice, so a reader that is late finds another number than the one it compares with, or 0.
 */
struct shm_board_line {
        uint64_t region;     /* the number of the current region; 0: none. Load with acquire */
        uint64_t generation; /* its generation, if `region` is the same before and after it is read */
        uint32_t changes;    /* a futex: sleep while it has the value that was loaded before `region` was */
        uint32_t rights;   /* changes with the mode of the region: what a mode allowed must be asked again */
        uint32_t cpu;      /* 1 + the processor that the host wrote this on last; 0: not known */
        uint32_t ledgers;  /* of an arena: messages about ledgers that its owner must have received */
        uint64_t size;     /* of an arena: bytes of its object */
        uint32_t waiters;  /* of an arena: clients that may sleep on its values */
        uint32_t moved;    /* of an arena: 1 when another board has this line, and nothing here holds any more */
        uint64_t reserved[2]; /* zero */
};

/*
 * The words of an arena (shm_arena.h). Writer: only the host. No two arenas share a line, nor an arena and a region of
 * another kind, not even one after the other under the same name: a line is the arena's until nobody can have it
 * mapped any more, its owner included. A region that takes the name gets another line, and `region` becomes 0 here.
 *
 * `ledgers` is the number of LEDGER and FORGET messages that the owner has got, or will get, on its control socket. It
 * is 0 when `region` becomes the arena's number. For a client that joins, the host sends or queues LEDGER, adds 1
 * (seq), and only then answers with the grant. It subtracts messages that it takes back unsent, about a client
 * that came and went, and never one of a client that is there. Reader: the owner, with seq, after it has
 * exchanged the word of an entry. As long as it has received fewer messages than this says, there may be a hold in a
 * ledger that it does not know: it reuses no block. If it loads an old number, the client joined later than that
 * exchange, and sees the new word when it looks at the entry again.
 *
 * `waiters` counts the clients that have sent Attend and are connected; the host stores it (seq) before it
 * answers. Reader: the owner, with seq, after the exchange: at 0 nobody sleeps. A client sleeps only after
 * that answer, and looks at the word once more before it does, so an old 0 costs nothing.
 *
 * `moved` is stored last (release) when the host has handed over to another process. `ledgers` is far more than all
 * messages then, and `waiters` not 0: an owner that does not know of `moved` reuses no block and wakes whoever may sleep.
 * An owner that does asks by BOARD on its control socket, and looks at the same line of the next board: as soon as it does,
 * all holds as above, because what it loaded here before the change was true, and what comes later keeps it from reuse.
 *
 * `size` only grows. It is stored (release) before `region`, and before the answer to each growth. Readers: all,
 * with acquire, and only while `region` is the arena's. Pages below it can be touched: the object has them and cannot
 * shrink. An old one is smaller: the reader looks again before it calls an offset wrong.
 */

/*
 * The root of the board.
 *
 * `lines` and `owner_at` are constant. `owner` holds a robust mutex of the host's C library, which the host's thread
 * has locked while it serves: the 32-bit word at `owner_at` has the number of that thread in its low 30 bits. The
 * host sets it to 0 when it ends; when it is killed, the kernel does (get_robust_list(2)), at the latest when the
 * last of its memory is given back. Writers: the host and the kernel. Readers: all processes, with acquire.
 *
 * `moved` is stored before the word is set to 0, when the host hands over to another process. Its lines say nothing then:
 * `region` is 0, but for lines of arenas. A client that is connected asks the host for its board (FindBoard).
 */
struct shm_board {
        uint64_t lines;    /* the number of lines, line 0 included */
        uint32_t owner_at; /* bytes from the start of `owner`: 0 to 60, a multiple of 4 */
        uint32_t moved;    /* 1 when another process serves in the place of this host, with a board of its own */
        uint64_t reserved[6];
        uint8_t owner[64];
        /* The lines follow. */
};

/* cffi: end */

#define SHM_FUTEX_TID_MASK 0x3fffffffu /* as in linux/futex.h */

static_assert(sizeof(struct shm_board_line) == SHM_BOARD_LINE_SIZE, "a line is a cache line");
static_assert(offsetof(struct shm_board_line, changes) == 16, "ABI 1");
static_assert(offsetof(struct shm_board_line, ledgers) == 28, "ABI 1");
static_assert(offsetof(struct shm_board_line, waiters) == 40, "ABI 1");
static_assert(offsetof(struct shm_board, owner) == 64, "ABI 1");
static_assert(sizeof(struct shm_board) == 128, "ABI 1");

/* Whether a host of which this is the word in `owner` serves. After that the board says what was true last. */
static inline int shm_board_word_lives(const uint32_t *owner)
{
        return (__atomic_load_n(owner, __ATOMIC_ACQUIRE) & SHM_FUTEX_TID_MASK) != 0;
}

/* The root of a mapped board, or NULL if it is not a board, or contradicts itself. */
static inline const struct shm_board *shm_board_of(const struct shm_region_header *header)
{
        const struct shm_board *board;

        if (header->kind != SHM_KIND_BOARD || header->root == NULL || header->root_size < sizeof(*board))
                return NULL;
        /* Also where it is mapped elsewhere: nothing points into it. */
        board = (const struct shm_board *)(const void *)((const char *)header + ((const char *)header->root -
                                                                                 (const char *)header->base));
        if ((uintptr_t)board % SHM_BOARD_LINE_SIZE != 0 || board->owner_at > sizeof(board->owner) - 4 ||
            board->owner_at % 4 != 0)
                return NULL;
        if (board->lines > (header->root_size - sizeof(*board)) / SHM_BOARD_LINE_SIZE)
                return NULL;
        return board;
}

/* Whether the host of a board serves. */
static inline int shm_board_lives(const struct shm_board *board)
{
        return shm_board_word_lives((const uint32_t *)(const void *)(board->owner + board->owner_at));
}

/* A line of a board; the caller has compared its number with `lines`. */
static inline const struct shm_board_line *shm_board_line(const struct shm_board *board, uint64_t line)
{
        return (const struct shm_board_line *)(const void *)(board + 1) + line;
}

/*
 * Whether the region with this number, which was granted with this line, is the current one of its name. If so, then
 * everything that happened before it was published is visible. No system call; needs no living host.
 */
static inline int shm_board_is_current(const struct shm_board *board, uint64_t line, uint64_t region)
{
        return line != 0 && line < board->lines &&
               __atomic_load_n(&shm_board_line(board, line)->region, __ATOMIC_ACQUIRE) == region;
}

#endif /* SHM_BOARD_H */

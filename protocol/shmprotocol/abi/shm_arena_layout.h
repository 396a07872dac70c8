/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_layout.h - the memory of an arena and of a ledger: who writes and who reads each word. See shm_arena.h.
 *
 * An arena is a region of kind SHM_KIND_ARENA: the header page, the control page, an index of names, entries, and the
 * heap with the values. Offsets count from its base. One process writes it, its owner, and the kernel lets nobody
 * else (F_SEAL_FUTURE_WRITE). A ledger is written by one client, who notes in it which values it uses.
 *
 * "seq" is sequentially consistent ordering (C11, 7.17.3): of two such accesses of two processes, all processes agree
 * which came first. Everything in an arena can be a lie, and change at any time, if its owner is hostile: a reader
 * copies a word, checks the copy, and uses the copy. The same is true of a ledger.
 */
#ifndef SHM_ARENA_LAYOUT_H
#define SHM_ARENA_LAYOUT_H

#include "shm_abi.h"
#include "shm_board.h"

#if !defined(__cplusplus) && defined(__GLIBC__) && !defined(__USE_MISC)
#error "With -std=c11, include shm_arena.h before the headers of the system, or define _GNU_SOURCE"
#endif

/* cffi: begin */

#define SHM_KIND_ARENA 4
#define SHM_FLAG_ARENA 8 /* in grants, so that a client knows it before it maps */
#define SHM_ARENA_VERSION 1
#define SHM_ARENA_UNIT 64 /* bytes; each block of the heap starts at a multiple */
#define SHM_ARENA_NAMES_MAX 16777216

/*
 * A value. Writer: the owner, while the word of the entry names the other record. Readers copy it between two loads of
 * the word: if the word is the same, no field of the copy is torn or of another value. Each field is stored with
 * release and loaded with acquire: a reader who sees a field of the next value also sees, at its second look, the
 * word that came before it.
 */
struct shm_arena_record {
        uint64_t block;       /* offset of the data; what a hold names */
        uint64_t size;        /* bytes of the data */
        uint64_t description; /* offset of a msgpack map (protocol/README.md, section 15); 0: bytes */
        uint32_t description_size;
        uint32_t flags;        /* SHM_VALUE_* */
        uint64_t root;         /* an address in the block, or 0 with size 0 */
        uint64_t root_size;
        uint64_t generation;   /* that of the word */
        uint64_t published_ns; /* CLOCK_MONOTONIC */
};

#define SHM_VALUE_SHARED_DESCRIPTION 1 /* the description is not in the block, and never changes */
#define SHM_VALUE_OBJECTS 2            /* a structure that is followed from `root`: kind SHM_KIND_OBJECTS */

/*
 * A name and its value. `word` is generation << 2 | absent << 1 | which: record[which] is current, or there is no
 * value. The generation counts in the whole arena, so that a word is never used twice. 0: not used yet.
 *
 * Writer: the owner. `word` is exchanged with seq; that publishes the record, and everything that was written before
 * it. The name, in whole words with zeros behind it, and `hash` are written only while the value is absent, as a record
 * is: what is read of them between two equal loads of the word is whole. A stale word costs a reader a second look, or
 * an older value, which was current when it began.
 */
struct shm_arena_entry {
        uint64_t word;
        uint64_t hash;
        uint64_t name_size;      /* bytes */
        uint64_t name;           /* offset of 256 bytes; 0: it is in inline_name */
        uint64_t inline_name[4];
        struct shm_arena_record record[2];
};

/*
 * The control page, behind the header page. Its first line is constant once the arena is published. Writer: the owner.
 *
 * The index is an array of 32-bit slots, with linear probing from hash & (index_slots - 1): 0 ends a chain, other
 * numbers are 1 + the number of an entry. A slot is stored with release when the entry is complete. Every name that has
 * a value can be found at any time. When a name goes, later ones move up: the owner stores such a slot in its new
 * place, adds 1 to `moves` (release), and only then overwrites the old place. A reader who did not find a name looks
 * again if `moves` (acquire) has changed since it began: it may have passed the new place too early and the old one too
 * late.
 *
 * `generation` is the last one given, and `used` the number of entries that were ever used (release). `changes` is a
 * futex, to which the owner adds 1 after each flip of a word (seq). The others are for people (relaxed).
 */
struct shm_arena_control {
        uint8_t magic[8]; /* "SHMAREN" and a zero byte */
        uint32_t version; /* SHM_ARENA_VERSION */
        uint32_t reserved;
        uint64_t index;
        uint64_t index_slots; /* a power of two */
        uint64_t entries;     /* offset of the entries */
        uint64_t entry_count;
        uint64_t heap;        /* offset where the values begin */
        uint64_t reserved_too;

        uint64_t generation;
        uint64_t used;
        uint64_t names;       /* present */
        uint64_t value_bytes; /* of the current values */
        uint64_t moves;       /* of slots of the index */
        uint32_t changes;
        uint32_t unused;
        uint64_t unused_too[2];
};

/*
 * The use of a value by a client. Writer: the client. It stores `block`, the address of the block where the arena has
 * its base, with seq, and then loads the entry's word with seq. If that has not changed, the owner, which exchanges the
 * word and then loads `block`, sees the hold: it does not use the block again until `block` is 0 (stored with release).
 * 1: the hold is taken, but names nothing yet. `since_ns` is for people. A lie here keeps a block from being used
 * again, and does nothing else.
 */
struct shm_ledger_hold {
        uint64_t block;
        uint64_t since_ns; /* CLOCK_MONOTONIC_COARSE; relaxed */
};

/*
 * The first page of a ledger; the holds follow it. Writer: the client; the owners of arenas and the host read it.
 *
 * `high` is above the index of every hold that was ever taken, and `waits_high` likewise (raised with seq before the
 * first use). Each of `waits` is 0 or says on which word the client sleeps: the word's address where the arena has
 * its base, in multiples of 4, + 1 to have the ledger's event raised instead of the futex woken. The
 * client stores it with seq, then loads the word with seq, and sleeps only if that has not changed; the owner
 * exchanges the word, and then looks here.
 */
#define SHM_LEDGER_WAITS 504
struct shm_ledger {
        uint64_t high;
        uint64_t waits_high;
        uint64_t reserved[6];
        uint64_t waits[504];
};

/* A message on the control socket of an arena, which is of type SOCK_SEQPACKET. protocol/README.md, section 18. */
struct shm_arena_message {
        uint32_t kind; /* SHM_ARENA_* */
        int32_t code;  /* of an answer: 0 or a positive errno; of a ledger: the pid of its client, 0 if not known */
        uint64_t number;
        uint64_t size;
};

#define SHM_ARENA_READY 1  /* the owner has written the control page: publish; and the answer */
#define SHM_ARENA_GROW 2   /* the object should have `size` bytes; and the answer */
#define SHM_ARENA_LEDGER 3 /* ledger `number` may hold values from now on; with descriptors of it and its event */
#define SHM_ARENA_FORGET 4 /* ledger `number` holds nothing any more */
#define SHM_ARENA_BOARD 6  /* where is the line by now? And the answer: `number` of the line, `size` of the board, its descriptor */
#define SHM_ARENA_LEAVE 5  /* the owner writes no more, and has the arena mapped as long as the socket is open */
#define SHM_ARENA_BACK 7   /* the owner looks at this socket before it uses memory again: it has handed the arena back */
#define SHM_ARENA_KEEP 8   /* ledger `number` may hold values: the owner has it from before, or will get it */
#define SHM_ARENA_REST 9   /* all other ledgers that the owner has from before hold nothing any more */

/* cffi: end */

#define SHM_ARENA_MAGIC "SHMAREN"
#define SHM_ARENA_HEAD (2 * SHM_HEADER_SIZE) /* the header page and the control page */

static_assert(sizeof(struct shm_arena_record) == 64, "a cache line");
static_assert(sizeof(struct shm_arena_entry) == 192, "version 1");
static_assert(sizeof(struct shm_arena_control) == 128, "version 1");
static_assert(offsetof(struct shm_arena_control, generation) == 64, "version 1");
static_assert(sizeof(struct shm_ledger_hold) == 16, "version 1");
static_assert(sizeof(struct shm_ledger) == SHM_HEADER_SIZE, "a page");
static_assert(sizeof(struct shm_arena_message) == 24, "version 1");

#define SHM_WORD_ABSENT 2u /* in the word of an entry */

static inline uint64_t shm_word_generation(uint64_t word)
{
        return word >> 2;
}

/* Whether the word says that there is a value. */
static inline int shm_word_present(uint64_t word)
{
        return word != 0 && (word & SHM_WORD_ABSENT) == 0;
}

/* FNV-1a, the upper half xored into the lower one. */
static inline uint64_t shm_name_hash(const char *name, size_t size)
{
        uint64_t hash = 0xcbf29ce484222325u;
        size_t i;

        for (i = 0; i < size; i++)
                hash = (hash ^ (uint8_t)name[i]) * 0x100000001b3u;
        return hash ^ hash >> 32;
}

/* The 8 bytes of a name that start at `at`, with zeros behind its end. */
static inline uint64_t shm_name_word(const char *name, size_t size, size_t at)
{
        uint64_t word = 0;

        memcpy(&word, name + at, size - at < 8 ? size - at : 8);
        return word;
}

#endif /* SHM_ARENA_LAYOUT_H */

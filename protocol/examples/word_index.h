/* SPDX-License-Identifier: Apache-2.0 */
/*
 * word_index.h - a pointer-linked word index in a region: hash table -> entries -> postings.
 *
 * Written once by `shmhost demo` (shmhost/commands/demo/index.py), before the region is published and sealed; read by
 * any process, without locks, because it never changes after that. The region's root is a struct word_index. The
 * text between the marks is also the cffi declaration of the Python side.
 */
#ifndef WORD_INDEX_H
#define WORD_INDEX_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* cffi: begin */

/* One line in which a word occurs: an index into `files`, and the line from 1. */
struct posting {
        uint32_t file;
        uint32_t line;
};

struct entry {
        const struct entry *next; /* with the same bucket; NULL ends the chain */
        const char *word;         /* zero-terminated ASCII */
        uint64_t hash;            /* FNV-1a of the word */
        uint32_t word_size;
        uint32_t posting_count;
        const struct posting *postings; /* by file, then by line */
};

struct word_index {
        uint64_t bucket_count; /* a power of two */
        const struct entry *const *buckets;
        const char *const *files; /* paths, relative to the folder that was read */
        uint32_t file_count;
        uint32_t entry_count;
        uint64_t posting_count;
};

/* cffi: end */

/* FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/ */
static inline uint64_t word_hash(const char *word, size_t size)
{
        uint64_t hash = 0xcbf29ce484222325u;

        for (size_t i = 0; i < size; i++)
                hash = (hash ^ (unsigned char)word[i]) * 0x100000001b3u;
        return hash;
}

/* The entry of a word, or NULL. */
static inline const struct entry *word_index_find(const struct word_index *index, const char *word)
{
        size_t size = strlen(word);
        uint64_t hash = word_hash(word, size);
        const struct entry *entry = index->buckets[hash & (index->bucket_count - 1)];

        while (entry != NULL && (entry->hash != hash || entry->word_size != size ||
                                 memcmp(entry->word, word, size) != 0))
                entry = entry->next;
        return entry;
}

#endif /* WORD_INDEX_H */

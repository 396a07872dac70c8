/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader.c - read a word index in C: map the region, follow its pointers. No library, no decoding.
 *
 *         cc -I$(python -m shmprotocol --include) reader.c -o reader
 *         shmclient exec --region words -- ./reader words import yield
 *
 *     reader NAME WORD...          print the address of the region, and where each word occurs
 *     reader NAME --bench SECONDS  look up every word in turn, for that long; then wait for EOF on stdin
 *     reader NAME --write          try to write to the region: the kernel ends this process
 *
 * The last two print a line of JSON. Exit codes: 0 all words found, 1 one is missing or the region could
 * be written to, 2 wrong usage, 3 the region cannot be read.
 */
#include "shm_abi.h"
#include "word_index.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

static int print_places(const struct word_index *index, const char *word)
{
        const struct entry *entry = word_index_find(index, word);

        if (entry == NULL) {
                fprintf(stderr, "reader: %s does not occur\n", word);
                return 1;
        }
        printf("%s: %" PRIu32 " places\n", entry->word, entry->posting_count);
        for (uint32_t i = 0; i < entry->posting_count; i++)
                printf("  %s:%" PRIu32 "\n", index->files[entry->postings[i].file], entry->postings[i].line);
        return 0;
}

static double now(void)
{
        struct timespec time;

        clock_gettime(CLOCK_MONOTONIC, &time);
        return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Look up each word of the index by its text, round after round. */
static int bench(const struct shm_region_header *header, const struct word_index *index, double seconds)
{
        double began = now(), elapsed = 0;
        uint64_t lookups = 0, found = 0;

        for (uint64_t bucket = 0; elapsed < seconds; bucket = (bucket + 1) & (index->bucket_count - 1)) {
                for (const struct entry *entry = index->buckets[bucket]; entry != NULL; entry = entry->next) {
                        found += word_index_find(index, entry->word) == entry &&
                                 entry->postings[entry->posting_count - 1].line > 0;
                        lookups++;
                }
                if ((bucket & 1023) == 0)
                        elapsed = now() - began;
        }
        printf("{\"pid\": %d, \"address\": %" PRIu64 ", \"lookups_per_s\": %.0f, \"missed\": %" PRIu64 "}\n",
               (int)getpid(), (uint64_t)(uintptr_t)header, elapsed > 0 ? (double)lookups / elapsed : 0,
               lookups - found);
        fflush(stdout);
        while (getchar() != EOF)
                ;
        return 0;
}

/* Write to the index. Returns only if the region is not protected. */
static int scribble(const struct shm_region_header *header)
{
        printf("{\"pid\": %d, \"address\": %" PRIu64 "}\n", (int)getpid(), (uint64_t)(uintptr_t)header);
        fflush(stdout);
        *(volatile unsigned char *)(uintptr_t)header->root = 0;
        fprintf(stderr, "reader: the region was written to\n");
        return 1;
}

int main(int argc, char **argv)
{
        const struct shm_region_header *header;
        const struct word_index *index;
        int error, missing = 0;

        if (argc < 3) {
                fprintf(stderr, "usage: reader NAME WORD... | NAME --bench SECONDS | NAME --write\n");
                return 2;
        }
        error = shm_region_map(shm_region_fd(argv[1]), &header);
        if (error) {
                fprintf(stderr, "reader: cannot map %s: %s (is it in $SHM_REGIONS? see shmclient exec)\n",
                        argv[1], strerror(-error));
                return 3;
        }
        if (header->root == NULL || header->root_size < sizeof(*index)) {
                fprintf(stderr, "reader: %s holds no word index\n", argv[1]);
                return 3;
        }
        index = (const struct word_index *)header->root;

        if (strcmp(argv[2], "--bench") == 0)
                return bench(header, index, argc > 3 ? strtod(argv[3], NULL) : 1.0);
        if (strcmp(argv[2], "--write") == 0)
                return scribble(header);
        printf("%s at %p: %" PRIu32 " words in %" PRIu32 " files\n", header->name, header->base,
               index->entry_count, index->file_count);
        for (int i = 2; i < argc; i++)
                missing |= print_places(index, argv[i]);
        return missing;
}

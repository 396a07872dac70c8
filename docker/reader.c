/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader.c - the reader in C of the containers' demo. No library, no protocol code: it inherits descriptors.
 *
 *         shmclient exec --region demo/words --region demo/array -- region-reader demo/words demo/array
 *
 * Maps a word index and an array, looks every word of the index up by its pointers, prints one line of JSON
 * (address, generation and CRC-32 of each region's data, lookups and misses), and waits for the end of its
 * standard input, so that its memory can be looked at. Exit codes: 0, 2 wrong usage, 3 a region cannot be read.
 */
#include "shm_abi.h"
#include "word_index.h"

#include <inttypes.h>
#include <stdio.h>

/* The CRC-32 of zlib, a byte at a time. */
static uint32_t crc32_of(const unsigned char *data, uint64_t size)
{
        static uint32_t table[256];
        uint32_t crc = 0xffffffffu;

        for (uint32_t i = 0; i < 256; i++) {
                table[i] = i;
                for (int bit = 0; bit < 8; bit++)
                        table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
        }
        for (uint64_t i = 0; i < size; i++)
                crc = crc >> 8 ^ table[(crc ^ data[i]) & 0xff];
        return crc ^ 0xffffffffu;
}

static const struct shm_region_header *map_or_exit(const char *name)
{
        const struct shm_region_header *header;
        int error = shm_region_map(shm_region_fd(name), &header);

        if (error) {
                fprintf(stderr, "region-reader: cannot map %s: %s (is it in $SHM_REGIONS? see shmclient exec)\n", name,
                        strerror(-error));
                exit(3);
        }
        return header;
}

static void print_region(const char *key, const struct shm_region_header *header)
{
        printf("\"%s\": {\"address\": %" PRIu64 ", \"generation\": %" PRIu64 ", \"crc32\": %" PRIu32 "}, ", key,
               (uint64_t)(uintptr_t)header, header->generation,
               crc32_of((const unsigned char *)header->data, header->data_size));
}

int main(int argc, char **argv)
{
        const struct shm_region_header *words, *array;
        const struct word_index *index;
        uint64_t lookups = 0, found = 0;

        if (argc != 3) {
                fprintf(stderr, "usage: region-reader WORDS ARRAY\n");
                return 2;
        }
        words = map_or_exit(argv[1]);
        array = map_or_exit(argv[2]);
        if (words->root == NULL || words->root_size < sizeof(*index)) {
                fprintf(stderr, "region-reader: %s does not hold a word index\n", argv[1]);
                return 3;
        }
        index = (const struct word_index *)words->root;
        for (uint64_t bucket = 0; bucket < index->bucket_count; bucket++)
                for (const struct entry *entry = index->buckets[bucket]; entry != NULL; entry = entry->next, lookups++)
                        found += word_index_find(index, entry->word) == entry;

        printf("{\"pid\": %d, ", (int)getpid());
        print_region("words", words);
        print_region("array", array);
        printf("\"lookups\": %" PRIu64 ", \"missed\": %" PRIu64 "}\n", lookups, lookups - found);
        fflush(stdout);
        while (getchar() != EOF)
                ;
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dict_reader.c - read a dict that Python has put: keys are looked up in the region, nothing is decoded.
 *
 *         cc -I$(python -m shmprotocol --include) dict_reader.c -o dict_reader
 *         shmclient exec --region frame -- ./dict_reader frame pixels
 *
 *     dict_reader NAME         list the keys, with the bytes of their values
 *     dict_reader NAME KEY...  print the bytes of each value as numbers
 *
 * Exit codes: 0 all keys found, 1 one is missing, 2 wrong usage, 3 the region cannot be read.
 */
#include "shm_dict.h"

#include <inttypes.h>
#include <stdio.h>

static int list_keys(const struct shm_dict *dict)
{
        for (uint64_t i = 0; i < dict->count; i++) {
                struct shm_dict_value value;

                if (shm_dict_at(dict, i, &value) != 0)
                        return 3;
                printf("%.*s %" PRIu64 "\n", (int)value.key_size, value.key, value.size);
        }
        return 0;
}

static int print_value(const struct shm_dict *dict, const char *key)
{
        struct shm_dict_value value;
        int error = shm_dict_find(dict, key, strlen(key), &value);

        if (error) {
                fprintf(stderr, "dict_reader: %s: %s\n", key, strerror(-error));
                return error == -ENOENT ? 1 : 3;
        }
        printf("%s:", key);
        for (uint64_t i = 0; i < value.size; i++)
                printf(" %d", ((const unsigned char *)value.data)[i]);
        printf("\n");
        return 0;
}

int main(int argc, char **argv)
{
        const struct shm_region_header *header;
        struct shm_dict dict;
        int error, worst = 0;

        if (argc < 2) {
                fprintf(stderr, "usage: dict_reader NAME [KEY...]\n");
                return 2;
        }
        error = shm_region_map(shm_region_fd(argv[1]), &header);
        if (!error)
                error = shm_dict_open(header, &dict);
        if (error) {
                fprintf(stderr, "dict_reader: cannot read %s: %s\n", argv[1], strerror(-error));
                return 3;
        }
        if (argc == 2)
                return list_keys(&dict);
        for (int i = 2; i < argc; i++) {
                error = print_value(&dict, argv[i]);
                worst = error > worst ? error : worst;
        }
        return worst;
}

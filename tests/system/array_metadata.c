/*
 * array_metadata.c - read metadata from standard input, each after its length (u16), as that of 4096 bytes of data.
 * With an argument, each array is described again, which must give the same bytes.
 */
#include "shm_array.h"

#include <stdio.h>

static int is_described(const struct shm_array *array, const uint8_t *data, const uint8_t *metadata, uint16_t size)
{
        uint8_t again[SHM_ARRAY_DESCRIPTION];
        int length = shm_array_describe(array, (uint64_t)((const uint8_t *)array->data - data), again);

        return length == size && memcmp(again, metadata, size) == 0;
}

int main(int argc, char **argv)
{
        static uint8_t data[4096];
        uint16_t size;

        (void)argv;
        while (fread(&size, sizeof(size), 1, stdin) == 1) {
                struct shm_region_header header;
                struct shm_array array;
                uint8_t *metadata = (uint8_t *)malloc(size ? size : 1); /* so that a sanitizer sees each byte too many */

                if (metadata == NULL || fread(metadata, 1, size, stdin) != size)
                        return 2;
                memset(&header, 0, sizeof(header));
                header.data = data;
                header.data_size = sizeof(data);
                header.metadata = metadata;
                header.metadata_size = size;
                int error = shm_array_read(&header, &array);
                if (error == 0 && ((const uint8_t *)array.data < data || array.size > sizeof(data) ||
                                   (const uint8_t *)array.data + array.size > data + sizeof(data)))
                        return 1;
                if (argc > 1 && error == 0 && !is_described(&array, data, metadata, size))
                        error = -EBADF;
                printf("%d\n", error);
                free(metadata);
        }
        return 0;
}

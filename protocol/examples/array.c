/*
 * array.c - exchange arrays with Python: publish one that `get` returns, and read one that `put` stored. No library.
 *
 *         cc -I$(python -m shmprotocol --include) array.c -o array
 *         shmclient exec --create table:1M -- ./array write table 3 4
 *         shmclient exec --region table -- ./array read table
 *
 *     array write NAME ROWS COLUMNS   an array of doubles: 0, 1, 2 and so on
 *     array read NAME                 its dtype, its shape, and the sum of its items, which are doubles
 *
 * Exit codes: 0, 2 wrong usage, 3 it cannot be written or read.
 */
#include "shm_array.h"
#include "shm_create.h"

#include <inttypes.h>
#include <stdio.h>

static int write_array(const char *name, uint64_t rows, uint64_t columns)
{
        struct shm_array array = {NULL, rows * columns * sizeof(double), {rows, columns}, 2, "<f8", 'C'};
        uint8_t description[SHM_ARRAY_DESCRIPTION];
        struct shm_creation creation;
        double *items;
        int size, error = shm_create_inherited(name, &creation);

        if (error)
                return error;
        items = (double *)shm_create_alloc(&creation, array.size, 64);
        if (items == NULL)
                return -ENOSPC;
        for (uint64_t i = 0; i < rows * columns; i++)
                items[i] = (double)i;
        size = shm_array_describe(&array, (uint64_t)((uint8_t *)items - creation.data), description);
        return size < 0 ? size : shm_create_describe(&creation, description, (uint64_t)size);
}

static int read_array(const char *name)
{
        const struct shm_region_header *header;
        struct shm_array array;
        double sum = 0;
        int error = shm_region_map(shm_region_fd(name), &header);

        error = error ? error : shm_array_read(header, &array);
        if (error)
                return error;
        if (strcmp(array.dtype, "<f8") != 0)
                return -ENOTSUP;
        printf("%s %c", array.dtype, array.order);
        for (uint32_t i = 0; i < array.dimensions; i++)
                printf(" %" PRIu64, array.shape[i]);
        for (uint64_t i = 0; i < array.size / sizeof(double); i++)
                sum += ((const double *)array.data)[i];
        printf(": %g\n", sum);
        return 0;
}

int main(int argc, char **argv)
{
        int error;

        if (argc == 5 && strcmp(argv[1], "write") == 0)
                error = write_array(argv[2], strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
        else if (argc == 3 && strcmp(argv[1], "read") == 0)
                error = read_array(argv[2]);
        else
                return fprintf(stderr, "usage: array write NAME ROWS COLUMNS | read NAME\n"), 2;
        if (error)
                fprintf(stderr, "array: %s: %s\n", argv[2], strerror(-error));
        return error ? 3 : 0;
}

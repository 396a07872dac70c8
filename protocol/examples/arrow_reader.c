/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arrow_reader.c - read a table that Python has put, with no library of Arrow's: its structs are followed as they lie, and
 * then once more as copies that are checked, as a library would take them.
 *
 *         cc -I$(python -m shmprotocol --include) arrow_reader.c -o arrow_reader
 *         shmclient exec --region trades -- ./arrow_reader trades
 *
 * Prints each column with its format, and the sum of each one of 64-bit numbers.
 * Exit codes: 0 read, 2 wrong usage, 3 the region cannot be read.
 */
#include "shm_arrow.h"

#include <inttypes.h>
#include <stdio.h>

/* The sum of a column of int64 without nulls, of all batches. */
static int64_t sum_of(const struct shm_arrow_table *table, int64_t column)
{
        int64_t sum = 0;

        for (int64_t i = 0; i < table->batch_count; i++) {
                const struct ArrowArray *array = table->batches[i].children[column];
                const int64_t *numbers = (const int64_t *)array->buffers[1];

                for (int64_t row = 0; row < array->length; row++)
                        sum += numbers[array->offset + row];
        }
        return sum;
}

static void unmap(void *header)
{
        shm_region_unmap((const struct shm_region_header *)header);
        printf("unmapped\n");
}

/* Read all batches as a library does, which owns what it is given. */
static int read_stream(const struct shm_arrow *arrow, const struct shm_region_header *header)
{
        struct ArrowArrayStream stream;
        struct ArrowArray batch, column = {0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL};
        int64_t rows = 0;
        int error = shm_arrow_stream(arrow, shm_arrow_keeper(unmap, (void *)(uintptr_t)header), &stream);

        if (error)
                return error;
        for (;;) {
                error = stream.get_next(&stream, &batch);
                if (error || batch.release == NULL)
                        break;
                rows += batch.length;
                if (column.release == NULL && batch.n_children > 0) { /* moved out: it outlives its batch */
                        column = *batch.children[0];
                        batch.children[0]->release = NULL;
                }
                batch.release(&batch);
        }
        stream.release(&stream);
        printf("%" PRId64 " rows\n", rows);
        if (column.release != NULL)
                column.release(&column);
        return -error;
}

int main(int argc, char **argv)
{
        const struct shm_region_header *header;
        const struct shm_arrow_table *table;
        struct shm_arrow arrow;
        int error;

        if (argc != 2) {
                fprintf(stderr, "usage: arrow_reader NAME\n");
                return 2;
        }
        error = shm_region_map(shm_region_fd(argv[1]), &header);
        if (!error)
                error = shm_arrow_open_region(header, &arrow);
        if (error) {
                fprintf(stderr, "arrow_reader: cannot read %s: %s\n", argv[1], strerror(-error));
                return 3;
        }
        table = (const struct shm_arrow_table *)header->root;
        for (int64_t i = 0; i < table->schema->n_children; i++) {
                const struct ArrowSchema *column = table->schema->children[i];

                printf("%s: %s\n", column->name, column->format);
                if (strcmp(column->format, "l") == 0)
                        printf("sum %" PRId64 "\n", sum_of(table, i));
        }
        fflush(stdout);
        error = read_stream(&arrow, header);
        if (error)
                fprintf(stderr, "arrow_reader: %s is corrupt: %s\n", argv[1], strerror(-error));
        return error ? 3 : 0;
}

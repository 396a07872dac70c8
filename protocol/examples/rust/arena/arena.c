/* SPDX-License-Identifier: Apache-2.0 */
/* arena.c - the functions of shm_arena.h that reader.rs calls: in the header they are inline, and have no symbols. */
#include "shm_arena.h"

#include <stdlib.h>

struct reader {
        struct shm_arena arena;
        struct shm_holds holds;
};

static_assert(sizeof(struct shm_arena_value) == 88, "reader.rs has the same");

/* Map an arena that this program inherited. Returns 0 or -errno. */
int reader_open(const char *name, struct reader **reader_out)
{
        struct reader *reader = calloc(1, sizeof(*reader));
        int error;

        if (reader == NULL)
                return -ENOMEM;
        error = shm_arena_open_inherited(name, &reader->arena, &reader->holds);
        if (error) {
                free(reader);
                return error;
        }
        *reader_out = reader;
        return 0;
}

int reader_await(struct reader *reader, const char *name, size_t size, uint64_t after, int64_t wait_ns,
                 struct shm_arena_value *value_out)
{
        return shm_arena_await(&reader->arena, &reader->holds, name, size, after, wait_ns, value_out);
}

void reader_release(struct reader *reader, const struct shm_arena_value *value)
{
        shm_arena_release(&reader->holds, value);
}

void reader_close(struct reader *reader)
{
        (void)shm_arena_unmap(&reader->arena);
        free(reader);
}

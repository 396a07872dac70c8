/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arrow.h - Arrow data in shared memory. Its structs can be followed as they lie:
 *
 *         const struct shm_arrow_table *table = (const struct shm_arrow_table *)header->root;
 *         const int64_t *column = (const int64_t *)table->batches[0].children[0]->buffers[1];
 *
 * A library of Arrow's takes structs that it owns, and a reader who does not trust the writer wants them checked:
 *
 *         struct shm_arrow arrow;
 *         struct ArrowArrayStream stream;
 *         int error = shm_arrow_open(header->root, size, &arrow);
 *         error = error ? error : shm_arrow_stream(&arrow, shm_arrow_keeper(unmap, header), &stream);
 *
 * `protocol/README.md`, section 19, specifies the layout. C11 and C++17, no library.
 *
 * The structs are as untrusted as their writer, who may even change them meanwhile: each is copied, the copy is checked,
 * and only the copy is used. Every buffer lies in the value, and is as long as length, offset and last string offset say.
 * Not checked, as it would cost a pass over the data: offsets, indices, views, type ids and text inside of the buffers.
 */
#ifndef SHM_ARROW_H
#define SHM_ARROW_H

#include "shm_arrow_layout.h"

/* A value that has been opened: a copy of its root, checked. `budget` bytes of structs may be copied by it. */
struct shm_arrow {
        const uint8_t *start; /* where it lies here */
        uint64_t size;        /* bytes in which all of it lies */
        uint64_t self;        /* where it lies for its pointers */
        const struct ArrowSchema *schema;
        const struct ArrowArray *batches;
        int64_t batch_count;
        int64_t length;
        uint32_t flags;
        uint64_t budget; /* honest structs do not overlap: they have fewer bytes than the value */
};

/* What is called once, by any thread, when all copies of structs that were given out are released. */
struct shm_arrow_keeper {
        int64_t references; /* atomic */
        void (*done)(void *);
        void *context;
};

/* The private data of a copied struct; what it points to lies behind it. */
struct shm_arrow_node {
        struct shm_arrow_keeper *keeper;
        uint64_t reserved;
};

/* Return a keeper, which the caller gives to one of the functions below, or drops; NULL: no memory. */
static inline struct shm_arrow_keeper *shm_arrow_keeper(void (*done)(void *), void *context)
{
        struct shm_arrow_keeper *keeper = (struct shm_arrow_keeper *)malloc(sizeof(*keeper));

        if (keeper != NULL) {
                keeper->references = 1;
                keeper->done = done;
                keeper->context = context;
        }
        return keeper;
}

static inline struct shm_arrow_keeper *shm_arrow_keeper_share(struct shm_arrow_keeper *keeper)
{
        if (keeper != NULL)
                __atomic_fetch_add(&keeper->references, 1, __ATOMIC_RELAXED);
        return keeper;
}

/* Acquire and release: who frees it comes after all that the other users did with the data. */
static inline void shm_arrow_keeper_drop(struct shm_arrow_keeper *keeper)
{
        if (keeper == NULL || __atomic_fetch_sub(&keeper->references, 1, __ATOMIC_ACQ_REL) != 1)
                return;
        if (keeper->done != NULL)
                keeper->done(keeper->context);
        free(keeper);
}

/* Where a pointer of the value leads here; NULL unless `size` bytes from there, at a multiple of 8, are inside. */
static inline const uint8_t *shm_arrow_at(const struct shm_arrow *arrow, const void *pointer, uint64_t size)
{
        if (!shm_range_inside(arrow->self, arrow->size, pointer, size) || (uintptr_t)pointer % 8 != 0)
                return NULL;
        return arrow->start + ((uint64_t)(uintptr_t)pointer - arrow->self);
}

/* Copy a struct out of the value. The fence keeps the compiler from loading it again instead of using the copy. */
static inline int shm_arrow_load(const struct shm_arrow *arrow, const void *pointer, uint64_t size, void *out)
{
        const uint8_t *here = shm_arrow_at(arrow, pointer, size);

        if (here == NULL)
                return -EBADMSG;
        memcpy(out, here, (size_t)size);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        return 0;
}

static inline int shm_arrow_spend(struct shm_arrow *arrow, uint64_t count, uint64_t size)
{
        if (count > arrow->budget / size)
                return -EBADMSG;
        arrow->budget -= count * size;
        return 0;
}

/*
 * Open the value at `root`, all of which lies in the `size` bytes from there; that must stay mapped. Returns 0 or
 * -EBADMSG: it is not Arrow data, or corrupt; -EPROTONOSUPPORT: another version.
 */
static inline int shm_arrow_open(const void *root, uint64_t size, struct shm_arrow *arrow_out)
{
        struct shm_arrow_table table;

        memset(arrow_out, 0, sizeof(*arrow_out));
        if (root == NULL || size < sizeof(table) || (uintptr_t)root % 8 != 0)
                return -EBADMSG;
        memcpy(&table, root, sizeof(table));
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        if (memcmp(table.magic, SHM_ARROW_MAGIC, sizeof(table.magic)) != 0)
                return -EBADMSG;
        if (table.version != SHM_ARROW_VERSION)
                return -EPROTONOSUPPORT;
        arrow_out->start = (const uint8_t *)root;
        arrow_out->size = arrow_out->budget = size;
        arrow_out->self = (uint64_t)(uintptr_t)table.self;
        arrow_out->schema = table.schema;
        arrow_out->batches = table.batches;
        arrow_out->batch_count = table.batch_count;
        arrow_out->length = table.length;
        arrow_out->flags = table.flags;
        if (arrow_out->self + size < size || table.batch_count < 0 || table.length < 0 ||
            (uint64_t)table.batch_count > size / sizeof(struct ArrowArray) ||
            ((table.flags & SHM_ARROW_ONE) && table.batch_count != 1))
                return -EBADMSG;
        return shm_arrow_at(arrow_out, table.batches, (uint64_t)table.batch_count * sizeof(struct ArrowArray)) ==
                               NULL ?
                       -EBADMSG :
                       0;
}

/* Open the Arrow value of a region, by its header. -EBADMSG: its root is none. */
static inline int shm_arrow_open_region(const struct shm_region_header *header, struct shm_arrow *arrow_out)
{
        uint64_t data = (uint64_t)(uintptr_t)header->data, root = (uint64_t)(uintptr_t)header->root;

        if (root < data || root - data > header->data_size)
                return -EBADMSG;
        return shm_arrow_open(header->root, header->data_size - (root - data), arrow_out);
}

#include "shm_arrow_schema.h"

#include "shm_arrow_array.h"

/* The stream of a value: its private data. */
struct shm_arrow_reader {
        struct shm_arrow arrow;
        struct ArrowSchema schema;
        struct shm_arrow_keeper *keeper;
        int64_t next;
        const char *error;
};

static inline int shm_arrow_stream_schema(struct ArrowArrayStream *stream, struct ArrowSchema *out)
{
        struct shm_arrow_reader *reader = (struct shm_arrow_reader *)stream->private_data;
        struct shm_arrow arrow = reader->arrow;
        int error;

        arrow.budget = arrow.size;
        error = shm_arrow_schema(&arrow, out);
        reader->error = error ? "the schema in shared memory is corrupt" : NULL;
        return -error;
}

static inline int shm_arrow_stream_next(struct ArrowArrayStream *stream, struct ArrowArray *out)
{
        struct shm_arrow_reader *reader = (struct shm_arrow_reader *)stream->private_data;
        int error = 0;

        memset(out, 0, sizeof(*out)); /* a released one says that there are no more */
        if (reader->next < reader->arrow.batch_count)
                error = shm_arrow_array(&reader->arrow, &reader->schema, reader->next,
                                        shm_arrow_keeper_share(reader->keeper), out);
        reader->error = error ? "a batch in shared memory is corrupt" : NULL;
        if (!error)
                reader->next++;
        return -error;
}

static inline const char *shm_arrow_stream_error(struct ArrowArrayStream *stream)
{
        return ((struct shm_arrow_reader *)stream->private_data)->error;
}

static inline void shm_arrow_stream_release(struct ArrowArrayStream *stream)
{
        struct shm_arrow_reader *reader = (struct shm_arrow_reader *)stream->private_data;

        reader->schema.release(&reader->schema);
        shm_arrow_keeper_drop(reader->keeper);
        free(reader);
        stream->release = NULL;
}

/*
 * Make a stream of all batches; its user releases it, and each array, by any thread. The keeper, which may be NULL, is
 * taken, and dropped with the last of them, or at once on an error: -EBADMSG: it is corrupt; -ENOMEM.
 */
static inline int shm_arrow_stream(const struct shm_arrow *arrow, struct shm_arrow_keeper *keeper,
                                   struct ArrowArrayStream *stream_out)
{
        struct shm_arrow_reader *reader = (struct shm_arrow_reader *)calloc(1, sizeof(*reader));
        int error = reader == NULL ? -ENOMEM : 0;

        memset(stream_out, 0, sizeof(*stream_out));
        if (!error) {
                reader->arrow = *arrow;
                reader->keeper = keeper;
                error = shm_arrow_schema(&reader->arrow, &reader->schema);
        }
        if (error) {
                shm_arrow_keeper_drop(keeper);
                free(reader);
                return error;
        }
        stream_out->get_schema = shm_arrow_stream_schema;
        stream_out->get_next = shm_arrow_stream_next;
        stream_out->get_last_error = shm_arrow_stream_error;
        stream_out->release = shm_arrow_stream_release;
        stream_out->private_data = reader;
        return 0;
}

#endif /* SHM_ARROW_H */

/* SPDX-License-Identifier: Apache-2.0 */
/* shm_arrow_schema.h - copies of an ArrowSchema that lies in shared memory, checked. Part of shm_arrow.h. */
#ifndef SHM_ARROW_SCHEMA_H
#define SHM_ARROW_SCHEMA_H

#include "shm_arrow.h"

/* The strings of a schema: their places in the value, and their bytes with terminators. */
struct shm_arrow_texts {
        const uint8_t *format, *name, *metadata;
        uint64_t format_size, name_size, metadata_size;
};

static inline void shm_arrow_schema_release(struct ArrowSchema *schema)
{
        int64_t i;

        for (i = 0; i < schema->n_children; i++)
                if (schema->children[i] != NULL && schema->children[i]->release != NULL)
                        schema->children[i]->release(schema->children[i]);
        if (schema->dictionary != NULL && schema->dictionary->release != NULL)
                schema->dictionary->release(schema->dictionary);
        free(schema->private_data);
        schema->release = NULL;
}

/* The bytes from a pointer of the value to the value's end; 0: it leads elsewhere. */
static inline uint64_t shm_arrow_rest(const struct shm_arrow *arrow, const void *pointer)
{
        return shm_arrow_at(arrow, pointer, 0) == NULL ? 0 :
                                                         arrow->self + arrow->size - (uint64_t)(uintptr_t)pointer;
}

/* Find a terminated string. */
static inline int shm_arrow_text(const struct shm_arrow *arrow, const char *pointer, const uint8_t **text_out,
                                 uint64_t *size_out)
{
        const uint8_t *text = shm_arrow_at(arrow, pointer, 1);
        const void *end = text == NULL ? NULL : memchr(text, 0, (size_t)shm_arrow_rest(arrow, pointer));

        if (end == NULL)
                return -EBADMSG;
        *text_out = text;
        *size_out = (uint64_t)((const uint8_t *)end - text) + 1;
        return 0;
}

/* Add one number of metadata to its size; -1: it does not fit into the limit. */
static inline int32_t shm_arrow_metadata_number(const uint8_t *metadata, uint64_t limit, uint64_t *size)
{
        int32_t number;

        if (limit - *size < sizeof(number))
                return -1;
        memcpy(&number, metadata + *size, sizeof(number));
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        *size += sizeof(number);
        return number < 0 ? -1 : number;
}

/* The bytes of Arrow's metadata: a count of pairs, each of two sized strings. 0: it does not fit into the limit. */
static inline uint64_t shm_arrow_metadata_size(const uint8_t *metadata, uint64_t limit)
{
        uint64_t size = 0;
        int64_t texts = 2 * (int64_t)shm_arrow_metadata_number(metadata, limit, &size);
        int32_t length;

        if (texts < 0)
                return 0;
        for (; texts > 0; texts--) {
                length = shm_arrow_metadata_number(metadata, limit, &size);
                if (length < 0 || (uint64_t)length > limit - size)
                        return 0;
                size += (uint64_t)length;
        }
        return size;
}

static inline int shm_arrow_find_texts(const struct shm_arrow *arrow, const struct ArrowSchema *schema,
                                       struct shm_arrow_texts *texts)
{
        int error = shm_arrow_text(arrow, schema->format, &texts->format, &texts->format_size);

        if (!error && schema->name != NULL)
                error = shm_arrow_text(arrow, schema->name, &texts->name, &texts->name_size);
        if (error || schema->metadata == NULL)
                return error;
        texts->metadata = shm_arrow_at(arrow, schema->metadata, 4);
        if (texts->metadata == NULL)
                return -EBADMSG;
        texts->metadata_size = shm_arrow_metadata_size(texts->metadata, shm_arrow_rest(arrow, schema->metadata));
        return texts->metadata_size == 0 ? -EBADMSG : 0;
}

/* Copy the strings behind each other; the copies are checked: what was measured may have changed. */
static inline int shm_arrow_copy_texts(const struct shm_arrow_texts *texts, char *to, struct ArrowSchema *schema)
{
        schema->format = to;
        memcpy(to, texts->format, (size_t)texts->format_size);
        to += texts->format_size;
        to[-1] = 0;
        schema->name = NULL;
        if (texts->name != NULL) {
                schema->name = to;
                memcpy(to, texts->name, (size_t)texts->name_size);
                to += texts->name_size;
                to[-1] = 0;
        }
        schema->metadata = NULL;
        if (texts->metadata == NULL)
                return 0;
        schema->metadata = to;
        memcpy(to, texts->metadata, (size_t)texts->metadata_size);
        return shm_arrow_metadata_size((const uint8_t *)to, texts->metadata_size) == 0 ? -EBADMSG : 0;
}

/* Lay out the memory behind the node: pointers to the children, the children, the dictionary, the strings. */
static inline int shm_arrow_schema_place(const struct ArrowSchema *image, const struct shm_arrow_texts *texts,
                                         struct ArrowSchema *out)
{
        uint64_t children = (uint64_t)image->n_children;
        uint64_t structs = children + (image->dictionary != NULL);
        uint64_t size = children * sizeof(struct ArrowSchema *) + structs * sizeof(struct ArrowSchema);
        char *node;
        uint64_t i;

        node = (char *)calloc(1, (size_t)(size + texts->format_size + texts->name_size + texts->metadata_size));
        if (node == NULL)
                return -ENOMEM;
        out->private_data = node;
        out->release = shm_arrow_schema_release;
        out->flags = image->flags;
        out->n_children = image->n_children;
        out->children = (struct ArrowSchema **)(void *)node;
        node += children * sizeof(struct ArrowSchema *);
        for (i = 0; i < children; i++)
                out->children[i] = (struct ArrowSchema *)(void *)node + i;
        if (image->dictionary != NULL)
                out->dictionary = (struct ArrowSchema *)(void *)node + children;
        return shm_arrow_copy_texts(texts, (char *)out->private_data + size, out);
}

static inline int shm_arrow_schema_check(const struct ArrowSchema *schema)
{
        struct shm_arrow_type type;
        int error = shm_arrow_type_of(schema->format, &type);

        if (error || (type.children >= 0 && schema->n_children != type.children))
                return -EBADMSG;
        if (schema->dictionary != NULL && (schema->n_children != 0 || strchr("cCsSiIlL", schema->format[0]) == NULL))
                return -EBADMSG;
        return 0;
}

static inline int shm_arrow_schema_copy(struct shm_arrow *arrow, const struct ArrowSchema *pointer, int depth,
                                        struct ArrowSchema *out)
{
        struct shm_arrow_texts texts = {NULL, NULL, NULL, 0, 0, 0};
        const struct ArrowSchema *const *children;
        struct ArrowSchema image;
        int64_t i;
        int error = depth > SHM_ARROW_DEPTH_MAX ? -EBADMSG : shm_arrow_load(arrow, pointer, sizeof(image), &image);

        memset(out, 0, sizeof(*out));
        error = error ? error : shm_arrow_find_texts(arrow, &image, &texts);
        if (error || image.n_children < 0 || shm_arrow_spend(arrow, (uint64_t)image.n_children, sizeof(image)) ||
            shm_arrow_spend(arrow, texts.format_size + texts.name_size + texts.metadata_size, 1))
                return -EBADMSG;
        children = (const struct ArrowSchema *const *)(const void *)shm_arrow_at(
                arrow, image.children, (uint64_t)image.n_children * sizeof(*children));
        if (image.n_children > 0 && children == NULL)
                return -EBADMSG;
        error = shm_arrow_schema_place(&image, &texts, out);
        error = error ? error : shm_arrow_schema_check(out);
        for (i = 0; i < image.n_children && !error; i++)
                error = shm_arrow_schema_copy(arrow, __atomic_load_n(&children[i], __ATOMIC_RELAXED), depth + 1,
                                              out->children[i]);
        if (!error && image.dictionary != NULL)
                error = shm_arrow_schema_copy(arrow, image.dictionary, depth + 1, out->dictionary);
        if (error && out->release != NULL)
                shm_arrow_schema_release(out);
        return error;
}

/* Copy the schema; the caller releases it. -EBADMSG: it is corrupt; -ENOMEM. */
static inline int shm_arrow_schema(struct shm_arrow *arrow, struct ArrowSchema *schema_out)
{
        return shm_arrow_schema_copy(arrow, arrow->schema, 0, schema_out);
}

#endif /* SHM_ARROW_SCHEMA_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arrow_array.h - copies of an ArrowArray that lies in shared memory, checked against its schema. Part of
 * shm_arrow.h.
 */
#ifndef SHM_ARROW_ARRAY_H
#define SHM_ARROW_ARRAY_H

#include "shm_arrow.h"

#define SHM_ARROW_LENGTH_MAX ((int64_t)1 << 56) /* items: so many bytes, or offsets, are far from an overflow */

static inline void shm_arrow_array_release(struct ArrowArray *array)
{
        struct shm_arrow_node *node = (struct shm_arrow_node *)array->private_data;
        int64_t i;

        for (i = 0; i < array->n_children; i++)
                if (array->children[i] != NULL && array->children[i]->release != NULL)
                        array->children[i]->release(array->children[i]);
        if (array->dictionary != NULL && array->dictionary->release != NULL)
                array->dictionary->release(array->dictionary);
        shm_arrow_keeper_drop(node->keeper);
        free(node);
        array->release = NULL;
}

/* Check that a buffer has `count` items of `width` bytes, and have its pointer lead to where it lies here. */
static inline int shm_arrow_take(const struct shm_arrow *arrow, struct ArrowArray *array, int64_t number,
                                 int64_t count, int64_t width)
{
        const void *pointer = array->buffers[number];

        if (width != 0 && count > INT64_MAX / width)
                return -EBADMSG;
        array->buffers[number] = shm_arrow_at(arrow, pointer, (uint64_t)(count * width));
        return array->buffers[number] == NULL && count * width != 0 ? -EBADMSG : 0;
}

/* Take the bits of a validity buffer, or of booleans. */
static inline int shm_arrow_take_bits(const struct shm_arrow *arrow, struct ArrowArray *array, int64_t number)
{
        return shm_arrow_take(arrow, array, number, (array->length + array->offset + 7) / 8, 1);
}

/* Item `index` of a buffer that was taken, of 2, 4 or 8 bytes. */
static inline int64_t shm_arrow_item(const struct ArrowArray *array, int64_t number, int64_t index, int64_t width)
{
        const void *buffer = array->buffers[number];

        if (width == 2)
                return __atomic_load_n((const int16_t *)buffer + index, __ATOMIC_RELAXED);
        if (width == 4)
                return __atomic_load_n((const int32_t *)buffer + index, __ATOMIC_RELAXED);
        return __atomic_load_n((const int64_t *)buffer + index, __ATOMIC_RELAXED);
}

/* Take the offsets, which are one more than the items; they may refer to `limit` items, of which that many are used. */
static inline int shm_arrow_take_offsets(const struct shm_arrow *arrow, struct ArrowArray *array, int64_t width,
                                         int64_t limit, int64_t *used_out)
{
        int64_t end = array->length + array->offset, first;

        if (shm_arrow_take(arrow, array, 1, end + 1, width))
                return -EBADMSG;
        first = shm_arrow_item(array, 1, array->offset, width);
        *used_out = shm_arrow_item(array, 1, end, width);
        return first < 0 || first > *used_out || *used_out > limit ? -EBADMSG : 0;
}

/* Take the buffers of views. The sizes of those with the text were copied: a reader believes them later. */
static inline int shm_arrow_take_views(const struct shm_arrow *arrow, struct ArrowArray *array, int64_t *sizes)
{
        int64_t last = array->n_buffers - 1, i;

        if (shm_arrow_take(arrow, array, 1, array->length + array->offset, 16) ||
            shm_arrow_take(arrow, array, last, last - 2, sizeof(*sizes)))
                return -EBADMSG;
        if (last > 2)
                memcpy(sizes, array->buffers[last], (size_t)(last - 2) * sizeof(*sizes));
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        array->buffers[last] = sizes;
        for (i = 2; i < last; i++)
                if (sizes[i - 2] < 0 || shm_arrow_take(arrow, array, i, sizes[i - 2], 1))
                        return -EBADMSG;
        return 0;
}

/* Check run ends: their type, and that the last one is not before the end. */
static inline int shm_arrow_check_runs(const struct ArrowSchema *schema, const struct ArrowArray *array)
{
        const struct ArrowArray *ends = array->children[0];
        const char *format = schema->children[0]->format;
        int64_t width = strcmp(format, "s") == 0 ? 2 : strcmp(format, "i") == 0 ? 4 : strcmp(format, "l") == 0 ? 8 : 0;

        if (width == 0 || schema->children[0]->dictionary != NULL || ends->null_count > 0 ||
            ends->length > array->children[1]->length)
                return -EBADMSG;
        if (array->length + array->offset == 0)
                return 0;
        if (ends->length == 0 || shm_arrow_item(ends, 1, ends->offset + ends->length - 1, width) <
                                         array->length + array->offset)
                return -EBADMSG;
        return 0;
}

/* Are all children as long as the items of this array? */
static inline int shm_arrow_check_children(const struct ArrowArray *array, int64_t length)
{
        int64_t i;

        for (i = 0; i < array->n_children; i++)
                if (array->children[i]->length < length)
                        return -EBADMSG;
        return 0;
}

/* Take all buffers but the validity; the children are there. */
static inline int shm_arrow_take_buffers(const struct shm_arrow *arrow, const struct ArrowSchema *schema,
                                         const struct shm_arrow_type *type, int64_t *sizes, struct ArrowArray *array)
{
        int64_t end = array->length + array->offset, used = 0;

        switch (type->kind) {
        case SHM_ARROW_KIND_NULL:
                return 0;
        case SHM_ARROW_KIND_BITS:
                return shm_arrow_take_bits(arrow, array, 1);
        case SHM_ARROW_KIND_FIXED:
                return shm_arrow_take(arrow, array, 1, end, type->width);
        case SHM_ARROW_KIND_BINARY:
                return shm_arrow_take_offsets(arrow, array, type->width, INT64_MAX, &used) ||
                                       shm_arrow_take(arrow, array, 2, used, 1) ?
                               -EBADMSG :
                               0;
        case SHM_ARROW_KIND_VIEW:
                return shm_arrow_take_views(arrow, array, sizes);
        case SHM_ARROW_KIND_LIST:
                return shm_arrow_take_offsets(arrow, array, type->width, array->children[0]->length, &used);
        case SHM_ARROW_KIND_LIST_VIEW:
                return shm_arrow_take(arrow, array, 1, end, type->width) ||
                                       shm_arrow_take(arrow, array, 2, end, type->width) ?
                               -EBADMSG :
                               0;
        case SHM_ARROW_KIND_FIXED_LIST:
                if (type->width != 0 && end > SHM_ARROW_LENGTH_MAX / type->width)
                        return -EBADMSG;
                return shm_arrow_check_children(array, end * type->width);
        case SHM_ARROW_KIND_STRUCT:
                return shm_arrow_check_children(array, end);
        case SHM_ARROW_KIND_SPARSE:
                return shm_arrow_take(arrow, array, 0, end, 1) ? -EBADMSG : shm_arrow_check_children(array, end);
        case SHM_ARROW_KIND_DENSE:
                return shm_arrow_take(arrow, array, 0, end, 1) || shm_arrow_take(arrow, array, 1, end, 4) ? -EBADMSG :
                                                                                                           0;
        case SHM_ARROW_KIND_RUNS:
                return shm_arrow_check_runs(schema, array);
        }
        return -EBADMSG;
}

/* Check the numbers of a struct, which is a copy. */
static inline int shm_arrow_check_numbers(const struct ArrowSchema *schema, const struct shm_arrow_type *type,
                                          const struct ArrowArray *image)
{
        int64_t buffers = image->n_buffers;

        if (image->length < 0 || image->offset < 0 || image->length > SHM_ARROW_LENGTH_MAX ||
            image->offset > SHM_ARROW_LENGTH_MAX || image->null_count < -1 || image->null_count > image->length)
                return -EBADMSG;
        if (image->n_children != schema->n_children || (image->dictionary == NULL) != (schema->dictionary == NULL))
                return -EBADMSG;
        if (buffers < type->buffers || (buffers > type->buffers && type->kind != SHM_ARROW_KIND_VIEW))
                return -EBADMSG;
        return 0;
}

/* Allocate the node of a struct: pointers to buffers and children, the children, the dictionary, sizes of views. */
static inline int shm_arrow_array_place(struct shm_arrow *arrow, const struct ArrowArray *image,
                                        struct shm_arrow_keeper *keeper, struct ArrowArray *out, int64_t **sizes_out)
{
        uint64_t children = (uint64_t)image->n_children, buffers = (uint64_t)image->n_buffers, i;
        uint64_t structs = children + (image->dictionary != NULL);
        struct shm_arrow_node *node;
        char *next;

        if (shm_arrow_spend(arrow, structs, sizeof(*out)) || shm_arrow_spend(arrow, buffers, sizeof(void *)))
                return -EBADMSG;
        node = (struct shm_arrow_node *)calloc(1, (size_t)(sizeof(*node) + structs * sizeof(*out) +
                                                           (children + 2 * buffers) * sizeof(void *)));
        if (node == NULL)
                return -ENOMEM;
        node->keeper = shm_arrow_keeper_share(keeper);
        *out = *image;
        out->private_data = node;
        out->release = shm_arrow_array_release;
        next = (char *)(node + 1);
        out->dictionary = image->dictionary == NULL ? NULL : (struct ArrowArray *)(void *)next + children;
        out->children = (struct ArrowArray **)(void *)(next + structs * sizeof(*out));
        for (i = 0; i < children; i++)
                out->children[i] = (struct ArrowArray *)(void *)next + i;
        out->buffers = (const void **)(void *)(out->children + children);
        *sizes_out = (int64_t *)(void *)(out->buffers + buffers);
        return 0;
}

static inline int shm_arrow_array_copy(struct shm_arrow *arrow, const struct ArrowSchema *schema,
                                       const struct ArrowArray *pointer, struct shm_arrow_keeper *keeper,
                                       struct ArrowArray *out);

/* Copy the children and the dictionary of a struct into those of its copy. */
static inline int shm_arrow_copy_children(struct shm_arrow *arrow, const struct ArrowSchema *schema,
                                          const struct ArrowArray *image, struct shm_arrow_keeper *keeper,
                                          struct ArrowArray *out)
{
        const struct ArrowArray *const *children = (const struct ArrowArray *const *)(const void *)shm_arrow_at(
                arrow, image->children, (uint64_t)image->n_children * sizeof(*children));
        int64_t i;
        int error = image->n_children > 0 && children == NULL ? -EBADMSG : 0;

        for (i = 0; i < image->n_children && !error; i++)
                error = shm_arrow_array_copy(arrow, schema->children[i], __atomic_load_n(&children[i], __ATOMIC_RELAXED),
                                             keeper, out->children[i]);
        if (!error && image->dictionary != NULL)
                error = shm_arrow_array_copy(arrow, schema->dictionary, image->dictionary, keeper, out->dictionary);
        return error;
}

/* The schema is a copy as well, and so bounds the depth. */
static inline int shm_arrow_array_copy(struct shm_arrow *arrow, const struct ArrowSchema *schema,
                                       const struct ArrowArray *pointer, struct shm_arrow_keeper *keeper,
                                       struct ArrowArray *out)
{
        struct ArrowArray image;
        struct shm_arrow_type type;
        int64_t *sizes = NULL;
        int error = shm_arrow_load(arrow, pointer, sizeof(image), &image);

        memset(out, 0, sizeof(*out));
        if (error || shm_arrow_type_of(schema->format, &type) || shm_arrow_check_numbers(schema, &type, &image))
                return -EBADMSG;
        error = shm_arrow_array_place(arrow, &image, keeper, out, &sizes);
        if (error)
                return error;
        error = image.n_buffers > 0 ? shm_arrow_load(arrow, image.buffers, (uint64_t)image.n_buffers * sizeof(void *),
                                                     (void *)out->buffers) :
                                      0;
        error = error ? error : shm_arrow_copy_children(arrow, schema, &image, keeper, out);
        if (!error && type.has_validity && out->buffers[0] != NULL)
                error = shm_arrow_take_bits(arrow, out, 0);
        else if (!error && type.has_validity && out->null_count > 0)
                error = -EBADMSG;
        error = error ? error : shm_arrow_take_buffers(arrow, schema, &type, sizes, out);
        if (error)
                shm_arrow_array_release(out);
        return error;
}

/*
 * Copy batch `index`, below the batch_count, of which `schema` is a copied one; the caller releases it, by any thread. The
 * keeper, which may be NULL, is taken, and dropped with it, or at once on an error: -EBADMSG: it is corrupt; -ENOMEM.
 */
static inline int shm_arrow_array(struct shm_arrow *arrow, const struct ArrowSchema *schema, int64_t index,
                                  struct shm_arrow_keeper *keeper, struct ArrowArray *array_out)
{
        int error = shm_arrow_array_copy(arrow, schema, arrow->batches + index, keeper, array_out);

        shm_arrow_keeper_drop(keeper);
        return error;
}

#endif /* SHM_ARROW_ARRAY_H */

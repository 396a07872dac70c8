/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arrow_slices.c - what a slice of an Arrow array refers to, and the numbers that refer to it once only that is stored.
 * Builtins over a producer's buffers, given by address: they are believed, as each consumer of the C data interface does.
 * Where None stands for new numbers, the old ones can be stored as they are.
 */
#ifndef SHM_ARROW_SLICES_H
#define SHM_ARROW_SLICES_H

#include <stdint.h>

#include "shm_arrow.h"

/* arrow_type(format): kind, whether it has a validity, width, buffers and children, as struct shm_arrow_type has them. */
static PyObject *shm_arrow_type_call(PyObject *self, PyObject *object)
{
        struct shm_arrow_type type;
        Py_ssize_t size;
        char *format;

        (void)self;
        if (PyBytes_AsStringAndSize(object, &format, &size) < 0)
                return NULL;
        if (strlen(format) != (size_t)size || shm_arrow_type_of(format, &type)) {
                PyErr_Format(PyExc_ValueError, "Arrow's C data interface has no type %R", object);
                return NULL;
        }
        return Py_BuildValue("(iiLLL)", (int)type.kind, type.has_validity, (long long)type.width,
                             (long long)type.buffers, (long long)type.children);
}

static int64_t shm_slice_load(const void *items, uint64_t index, uint64_t width)
{
        if (width == 2)
                return ((const int16_t *)items)[index];
        return width == 4 ? ((const int32_t *)items)[index] : ((const int64_t *)items)[index];
}

static void shm_slice_store(void *items, uint64_t index, uint64_t width, int64_t value)
{
        if (width == 2)
                ((int16_t *)items)[index] = (int16_t)value;
        else if (width == 4)
                ((int32_t *)items)[index] = (int32_t)value;
        else
                ((int64_t *)items)[index] = value;
}

static int shm_slice_arguments(const char *name, PyObject *const *arguments, Py_ssize_t count, Py_ssize_t expected,
                               uint64_t *numbers)
{
        Py_ssize_t i;

        if (shm_arguments_check(name, count, expected) < 0)
                return -1;
        for (i = 0; i < expected; i++)
                if (shm_argument(arguments, i, &numbers[i]) < 0)
                        return -1;
        return 0;
}

static PyObject *shm_slice_invalid(const char *what)
{
        PyErr_Format(PyExc_ValueError, "the Arrow array is corrupt: its %s", what);
        return NULL;
}

/* New bytes, with their memory; NULL, with an exception set: no memory. */
static PyObject *shm_slice_bytes(uint64_t size, void **items_out)
{
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);

        *items_out = bytes == NULL ? NULL : PyBytes_AsString(bytes);
        return bytes;
}

/*
 * arrow_offsets(address, skip, total, width): of total + 1 offsets, return that of item `skip` and the last one, and the
 * offsets with the first of these as their zero; those before it are zero.
 */
static PyObject *shm_arrow_offsets(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        uint64_t numbers[4], skip, total, width, i;
        const void *items;
        PyObject *bytes;
        int64_t start, end;
        void *moved;

        (void)self;
        if (shm_slice_arguments("arrow_offsets", arguments, count, 4, numbers) < 0)
                return NULL;
        items = (const void *)(uintptr_t)numbers[0];
        skip = numbers[1];
        total = numbers[2];
        width = numbers[3];
        start = shm_slice_load(items, skip, width);
        end = shm_slice_load(items, total, width);
        if (start < 0 || end < start)
                return shm_slice_invalid("offsets do not rise");
        if (start == 0)
                return Py_BuildValue("(LLO)", start, end, Py_None);
        bytes = shm_slice_bytes((total + 1) * width, &moved);
        if (bytes == NULL)
                return NULL;
        for (i = 0; i <= total; i++)
                shm_slice_store(moved, i, width, i < skip ? 0 : shm_slice_load(items, i, width) - start);
        return Py_BuildValue("(LLN)", start, end, bytes);
}

/*
 * arrow_list_views(offsets, sizes, total, width): return the first item that a list refers to, and the one behind the
 * last, and the offsets with the first as their zero; those of empty lists are zero then.
 */
static PyObject *shm_arrow_list_views(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        uint64_t numbers[4], total, width, i;
        int64_t start = INT64_MAX, end = 0, offset, size;
        const void *offsets, *sizes;
        PyObject *bytes;
        void *moved;

        (void)self;
        if (shm_slice_arguments("arrow_list_views", arguments, count, 4, numbers) < 0)
                return NULL;
        offsets = (const void *)(uintptr_t)numbers[0];
        sizes = (const void *)(uintptr_t)numbers[1];
        total = numbers[2];
        width = numbers[3];
        for (i = 0; i < total; i++) {
                size = shm_slice_load(sizes, i, width);
                offset = shm_slice_load(offsets, i, width);
                if (size < 0 || offset < 0 || offset > INT64_MAX - size)
                        return shm_slice_invalid("list views are negative");
                if (size == 0)
                        continue;
                start = offset < start ? offset : start;
                end = offset + size > end ? offset + size : end;
        }
        if (end == 0)
                start = 0;
        bytes = shm_slice_bytes(total * width, &moved);
        if (bytes == NULL)
                return NULL;
        for (i = 0; i < total; i++) {
                size = shm_slice_load(sizes, i, width);
                shm_slice_store(moved, i, width, size == 0 ? 0 : shm_slice_load(offsets, i, width) - start);
        }
        return Py_BuildValue("(LLN)", start, end, bytes);
}

static PyObject *shm_slice_ranges(const int64_t *starts, const int64_t *ends, Py_ssize_t count)
{
        PyObject *list = PyList_New(count);
        Py_ssize_t i;

        for (i = 0; i < count && list != NULL; i++) {
                PyObject *range = Py_BuildValue("(LL)", ends[i] == 0 ? 0 : starts[i], ends[i]);

                if (range == NULL || PyList_SetItem(list, i, range) < 0)
                        Py_CLEAR(list);
        }
        return list;
}

/*
 * arrow_dense(types, offsets, total, ids): return for each child of a dense union, whose type ids these bytes are, the
 * first item in use and the one behind the last, and the offsets with these as their zeros.
 */
static PyObject *shm_arrow_dense(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        int64_t starts[128], ends[128] = {0}, child;
        int8_t children[128];
        uint64_t numbers[3], i;
        const int8_t *types;
        const int32_t *offsets;
        PyObject *bytes, *ranges;
        Py_ssize_t size;
        void *moved;
        char *ids;

        (void)self;
        if (shm_arguments_check("arrow_dense", count, 4) < 0 ||
            shm_slice_arguments("arrow_dense", arguments, 3, 3, numbers) < 0 ||
            PyBytes_AsStringAndSize(arguments[3], &ids, &size) < 0)
                return NULL;
        types = (const int8_t *)(uintptr_t)numbers[0];
        offsets = (const int32_t *)(uintptr_t)numbers[1];
        memset(children, -1, sizeof(children));
        for (i = 0; i < (uint64_t)size && i < 128; i++) {
                children[ids[i] & 127] = (int8_t)i;
                starts[i] = INT64_MAX;
        }
        for (i = 0; i < numbers[2]; i++) {
                child = types[i] < 0 ? -1 : children[types[i]];
                if (child < 0 || offsets[i] < 0)
                        return shm_slice_invalid("union has a type id of no child, or a negative offset");
                starts[child] = offsets[i] < starts[child] ? offsets[i] : starts[child];
                ends[child] = offsets[i] >= ends[child] ? offsets[i] + (int64_t)1 : ends[child];
        }
        bytes = shm_slice_bytes(numbers[2] * 4, &moved);
        ranges = bytes == NULL ? NULL : shm_slice_ranges(starts, ends, size < 128 ? size : 128);
        for (i = 0; i < numbers[2] && ranges != NULL; i++)
                ((int32_t *)moved)[i] = (int32_t)(offsets[i] - starts[children[types[i]]]);
        if (ranges != NULL)
                return Py_BuildValue("(NN)", ranges, bytes);
        Py_XDECREF(bytes);
        return NULL;
}

/*
 * arrow_runs(ends, number, width, first, count): return the first run of `count` items from `first` on, the one behind
 * the last, and their ends counted from `first`, the last of which is `count`.
 */
static PyObject *shm_arrow_runs(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        uint64_t numbers[5], width, start = 0, end, i;
        const void *ends;
        PyObject *bytes;
        void *moved;

        (void)self;
        if (shm_slice_arguments("arrow_runs", arguments, count, 5, numbers) < 0)
                return NULL;
        ends = (const void *)(uintptr_t)numbers[0];
        width = numbers[2];
        while (start < numbers[1] && shm_slice_load(ends, start, width) <= (int64_t)numbers[3])
                start++;
        end = start;
        while (end < numbers[1] && numbers[4] > 0 &&
               shm_slice_load(ends, end++, width) < (int64_t)(numbers[3] + numbers[4]))
                ;
        if (numbers[4] > 0 &&
            (end == start || shm_slice_load(ends, end - 1, width) < (int64_t)(numbers[3] + numbers[4])))
                return shm_slice_invalid("runs end before its items do");
        bytes = shm_slice_bytes((end - start) * width, &moved);
        if (bytes == NULL)
                return NULL;
        for (i = start; i < end; i++)
                shm_slice_store(moved, i - start, width,
                                i + 1 == end ? (int64_t)numbers[4] :
                                               shm_slice_load(ends, i, width) - (int64_t)numbers[3]);
        return Py_BuildValue("(KKN)", start, end, bytes);
}

/* A view of 16 bytes: a short text itself, or a long one's start and place. */
struct shm_slice_view {
        int32_t size, start, buffer, offset;
};

/* Is item `index` null, by a bitmap that may be absent? */
static int shm_slice_is_null(const uint8_t *validity, uint64_t index)
{
        return validity != NULL && !(validity[index / 8] >> index % 8 & 1);
}

/* Find the range of each buffer that is in use; 1: a null refers to something, 0, or -1: there is no such buffer. */
static int shm_slice_view_ranges(const struct shm_slice_view *views, const uint8_t *validity, uint64_t total,
                                 int64_t buffers, int64_t *starts, int64_t *ends)
{
        int has_garbage = 0;
        uint64_t i;

        for (i = 0; i < total; i++) {
                const struct shm_slice_view *view = &views[i];

                if (view->size <= 12 && view->size >= 0)
                        continue;
                if (shm_slice_is_null(validity, i)) {
                        has_garbage = 1;
                        continue;
                }
                if (view->size < 0 || view->buffer < 0 || view->buffer >= buffers || view->offset < 0)
                        return -1;
                if (ends[view->buffer] == 0 || view->offset < starts[view->buffer])
                        starts[view->buffer] = view->offset;
                if ((int64_t)view->offset + view->size > ends[view->buffer])
                        ends[view->buffer] = (int64_t)view->offset + view->size;
        }
        return has_garbage;
}

/* Copy views, with the ranges of their buffers as zeros, and nulls as empty texts. */
static void shm_slice_move_views(const struct shm_slice_view *views, const uint8_t *validity, uint64_t total,
                                 const int64_t *starts, struct shm_slice_view *moved)
{
        uint64_t i;

        for (i = 0; i < total; i++) {
                memset(&moved[i], 0, sizeof(moved[i]));
                if (shm_slice_is_null(validity, i))
                        continue;
                moved[i] = views[i];
                if (views[i].size > 12)
                        moved[i].offset -= (int32_t)starts[views[i].buffer];
        }
}

/*
 * arrow_views(views, validity, total, buffers): return the range of each buffer that is in use, and the views for these.
 * The validity is an address of bits, or 0.
 */
static PyObject *shm_arrow_views(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        const struct shm_slice_view *views;
        PyObject *bytes = Py_None, *ranges;
        const uint8_t *validity;
        uint64_t numbers[4], i;
        int64_t *starts;
        int must_move;
        void *moved;

        (void)self;
        if (shm_slice_arguments("arrow_views", arguments, count, 4, numbers) < 0)
                return NULL;
        views = (const struct shm_slice_view *)(uintptr_t)numbers[0];
        validity = (const uint8_t *)(uintptr_t)numbers[1];
        starts = (int64_t *)calloc((size_t)numbers[3] + 1, 2 * sizeof(*starts));
        if (starts == NULL)
                return PyErr_NoMemory();
        must_move = shm_slice_view_ranges(views, validity, numbers[2], (int64_t)numbers[3], starts, starts + numbers[3]);
        if (must_move < 0) {
                free(starts);
                return shm_slice_invalid("views refer to no buffer");
        }
        for (i = 0; i < numbers[3]; i++)
                must_move |= starts[i] != 0;
        ranges = shm_slice_ranges(starts, starts + numbers[3], (Py_ssize_t)numbers[3]);
        if (ranges != NULL && must_move) {
                bytes = shm_slice_bytes(numbers[2] * sizeof(*views), &moved);
                if (bytes != NULL)
                        shm_slice_move_views(views, validity, numbers[2], starts, (struct shm_slice_view *)moved);
                else
                        Py_CLEAR(ranges);
        }
        free(starts);
        if (ranges == NULL)
                return NULL;
        return must_move ? Py_BuildValue("(NN)", ranges, bytes) : Py_BuildValue("(NO)", ranges, Py_None);
}

/* Return a tuple of addresses. ValueError: they are nowhere. */
static PyObject *shm_arrow_pointers(const void *pointers, int64_t count)
{
        PyObject *addresses;
        int64_t i;

        if (count < 0 || (count > 0 && pointers == NULL)) {
                PyErr_Format(PyExc_ValueError, "the Arrow array is corrupt: %lld pointers of it are nowhere",
                             (long long)count);
                return NULL;
        }
        addresses = PyTuple_New((Py_ssize_t)count);
        for (i = 0; i < count && addresses != NULL; i++) {
                PyObject *address = PyLong_FromVoidPtr(((void *const *)pointers)[i]);

                if (address == NULL || PyTuple_SetItem(addresses, (Py_ssize_t)i, address) < 0)
                        Py_CLEAR(addresses);
        }
        return addresses;
}

/* arrow_struct(address): return what the struct there says, with addresses for pointers: see `Array` in Python. */
static PyObject *shm_arrow_struct_call(PyObject *self, PyObject *address)
{
        const struct ArrowArray *array = (const struct ArrowArray *)PyLong_AsVoidPtr(address);
        PyObject *buffers, *children;

        (void)self;
        if (array == NULL) {
                if (!PyErr_Occurred())
                        PyErr_SetString(PyExc_ValueError, "the Arrow array is corrupt: a struct of it is nowhere");
                return NULL;
        }
        buffers = shm_arrow_pointers(array->buffers, array->n_buffers);
        children = buffers == NULL ? NULL : shm_arrow_pointers(array->children, array->n_children);
        if (children == NULL) {
                Py_XDECREF(buffers);
                return NULL;
        }
        return Py_BuildValue("(LLLNNN)", (long long)array->length, (long long)array->null_count,
                             (long long)array->offset, buffers, children, PyLong_FromVoidPtr(array->dictionary));
}

#endif /* SHM_ARROW_SLICES_H */

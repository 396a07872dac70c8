/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arrow_layout.h - what an Arrow value in shared memory looks like, and which buffers and children each type has.
 * Used by shm_arrow.h. C11 and C++17, no library.
 *
 * The structs are those of the Arrow C data interface and C stream interface; their text is Arrow's, with its guards.
 */
#ifndef SHM_ARROW_LAYOUT_H
#define SHM_ARROW_LAYOUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shm_abi.h"

#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE

#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4

struct ArrowSchema {
        const char *format;
        const char *name;
        const char *metadata;
        int64_t flags;
        int64_t n_children;
        struct ArrowSchema **children;
        struct ArrowSchema *dictionary;
        void (*release)(struct ArrowSchema *);
        void *private_data;
};

struct ArrowArray {
        int64_t length;
        int64_t null_count;
        int64_t offset;
        int64_t n_buffers;
        int64_t n_children;
        const void **buffers;
        struct ArrowArray **children;
        struct ArrowArray *dictionary;
        void (*release)(struct ArrowArray *);
        void *private_data;
};

#endif /* ARROW_C_DATA_INTERFACE */

#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE

struct ArrowArrayStream {
        int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *out);
        int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *out);
        const char *(*get_last_error)(struct ArrowArrayStream *);
        void (*release)(struct ArrowArrayStream *);
        void *private_data;
};

#endif /* ARROW_C_STREAM_INTERFACE */

#define SHM_ARROW_MAGIC "SHMARRW" /* with its terminating zero: 8 bytes */
#define SHM_ARROW_VERSION 1
#define SHM_ARROW_ONE 1u       /* flag: it was one array, which `__arrow_c_array__` gives back */
#define SHM_ARROW_DEPTH_MAX 63 /* types inside of types; Arrow C++ imports no more */
#define SHM_ARROW_ALIGNMENT 64 /* of each buffer, as Arrow's columnar format recommends */

/*
 * The start of an Arrow value, and the root of a region that holds one. All pointers lead into the value, and are valid
 * in every process. In the structs `release` and `private_data` are NULL: nobody owns them. Writer: the creator, once.
 */
struct shm_arrow_table {
        uint8_t magic[8];
        uint32_t version; /* SHM_ARROW_VERSION */
        uint32_t flags;
        const struct shm_arrow_table *self; /* its own address, by which a relocated value is read */
        const struct ArrowSchema *schema;
        const struct ArrowArray *batches; /* side by side; each of the schema's type */
        int64_t batch_count;
        int64_t length; /* of all batches: rows, or items */
        uint64_t reserved;
};

static_assert(sizeof(struct ArrowSchema) == 72, "Arrow's, with 64-bit pointers");
static_assert(sizeof(struct ArrowArray) == 80, "Arrow's, with 64-bit pointers");
static_assert(sizeof(struct shm_arrow_table) == 64, "version 1");

enum shm_arrow_kind {
        SHM_ARROW_KIND_NULL = 1,
        SHM_ARROW_KIND_BITS,
        SHM_ARROW_KIND_FIXED,  /* `width` bytes */
        SHM_ARROW_KIND_BINARY, /* offsets of `width` bytes */
        SHM_ARROW_KIND_VIEW,
        SHM_ARROW_KIND_LIST,      /* offsets of `width` bytes; a map is one */
        SHM_ARROW_KIND_LIST_VIEW, /* offsets and sizes of `width` bytes */
        SHM_ARROW_KIND_FIXED_LIST, /* `width` items */
        SHM_ARROW_KIND_STRUCT,
        SHM_ARROW_KIND_SPARSE,
        SHM_ARROW_KIND_DENSE,
        SHM_ARROW_KIND_RUNS
};

/* What a type is laid out as. */
struct shm_arrow_type {
        enum shm_arrow_kind kind;
        int has_validity;    /* buffer 0 */
        int64_t width;       /* see the kinds */
        int64_t buffers;     /* at least, of views; else exactly */
        int64_t children;    /* -1: any number */
};

static inline int shm_arrow_make_type(enum shm_arrow_kind kind, int64_t width, int64_t buffers, int64_t children,
                                      struct shm_arrow_type *type_out)
{
        type_out->kind = kind;
        type_out->has_validity = kind != SHM_ARROW_KIND_NULL && kind < SHM_ARROW_KIND_SPARSE;
        type_out->width = width;
        type_out->buffers = buffers;
        type_out->children = children;
        return 0;
}

/* A decimal number of 1 to 9 digits, after which `end_out` points; or -1. */
static inline int64_t shm_arrow_number(const char *text, const char **end_out)
{
        int64_t number = 0;
        int digits = 0;

        for (; *text >= '0' && *text <= '9' && digits < 10; text++, digits++)
                number = number * 10 + (*text - '0');
        *end_out = text;
        return digits >= 1 && digits <= 9 ? number : -1;
}

/* A number that is all of a text; or -1. */
static inline int64_t shm_arrow_whole_number(const char *text)
{
        int64_t number = shm_arrow_number(text, &text);

        return *text == 0 ? number : -1;
}

/* The bytes of a decimal, by "d:precision,scale[,bits]"; 0: it is none. */
static inline int64_t shm_arrow_decimal_width(const char *format)
{
        const char *scale = strchr(format, ',');
        const char *bits = scale == NULL ? NULL : strchr(scale + 1, ',');
        int64_t number = bits == NULL ? 128 : shm_arrow_whole_number(bits + 1);

        if (scale == NULL || format[1] != ':')
                return 0;
        return number == 32 || number == 64 || number == 128 || number == 256 ? number / 8 : 0;
}

/* The bytes of a date, a time, a duration or an interval; 0: it is none. */
static inline int64_t shm_arrow_time_width(const char *format)
{
        static const struct {
                char text[4];
                int64_t width;
        } times[] = {{"tdD", 4}, {"tdm", 8}, {"tts", 4}, {"ttm", 4}, {"ttu", 8}, {"ttn", 8}, {"tDs", 8},
                     {"tDm", 8}, {"tDu", 8}, {"tDn", 8}, {"tiM", 4}, {"tiD", 8}, {"tin", 16}};
        size_t i;

        if (format[1] == 's' && format[2] != 0 && strchr("smun", format[2]) != NULL && format[3] == ':')
                return 8;
        for (i = 0; i < sizeof(times) / sizeof(times[0]); i++)
                if (strcmp(format, times[i].text) == 0)
                        return times[i].width;
        return 0;
}

/* The number of type ids in "0,1,5", each at most 127; or -1. */
static inline int64_t shm_arrow_union_children(const char *text)
{
        int64_t count = 0, number;

        if (*text == 0)
                return 0;
        for (;; text++) {
                number = shm_arrow_number(text, &text);
                if (number < 0 || number > 127 || ++count > 128)
                        return -1;
                if (*text == 0)
                        return count;
                if (*text != ',')
                        return -1;
        }
}

/* The layout of a nested type, whose format starts with a plus. */
static inline int shm_arrow_nested_type(const char *format, struct shm_arrow_type *type_out)
{
        int64_t number;

        if (strcmp(format, "+s") == 0)
                return shm_arrow_make_type(SHM_ARROW_KIND_STRUCT, 0, 1, -1, type_out);
        if (strcmp(format, "+l") == 0 || strcmp(format, "+m") == 0)
                return shm_arrow_make_type(SHM_ARROW_KIND_LIST, 4, 2, 1, type_out);
        if (strcmp(format, "+L") == 0)
                return shm_arrow_make_type(SHM_ARROW_KIND_LIST, 8, 2, 1, type_out);
        if (strcmp(format, "+vl") == 0 || strcmp(format, "+vL") == 0)
                return shm_arrow_make_type(SHM_ARROW_KIND_LIST_VIEW, format[2] == 'l' ? 4 : 8, 3, 1, type_out);
        if (strcmp(format, "+r") == 0)
                return shm_arrow_make_type(SHM_ARROW_KIND_RUNS, 0, 0, 2, type_out);
        if (strncmp(format, "+w:", 3) == 0) {
                number = shm_arrow_whole_number(format + 3);
                return number < 0 ? -EBADMSG :
                                    shm_arrow_make_type(SHM_ARROW_KIND_FIXED_LIST, number, 1, 1, type_out);
        }
        if (strncmp(format, "+ud:", 4) == 0 || strncmp(format, "+us:", 4) == 0) {
                number = shm_arrow_union_children(format + 4);
                if (number < 0)
                        return -EBADMSG;
                if (format[2] == 'd')
                        return shm_arrow_make_type(SHM_ARROW_KIND_DENSE, 4, 2, number, type_out);
                return shm_arrow_make_type(SHM_ARROW_KIND_SPARSE, 0, 1, number, type_out);
        }
        return -EBADMSG;
}

/* The layout of the type with a format, a terminated string. -EBADMSG: Arrow has none of this name (1.5 of the format). */
static inline int shm_arrow_type_of(const char *format, struct shm_arrow_type *type_out)
{
        static const char singles[] = "cCsSiIlLefg";
        static const char widths[] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8};
        const char *single = format[0] != 0 && format[1] == 0 ? strchr(singles, format[0]) : NULL;
        int64_t width = 0;

        if (single != NULL)
                return shm_arrow_make_type(SHM_ARROW_KIND_FIXED, widths[single - singles], 2, 0, type_out);
        if (strcmp(format, "n") == 0)
                return shm_arrow_make_type(SHM_ARROW_KIND_NULL, 0, 0, 0, type_out);
        if (strcmp(format, "b") == 0)
                return shm_arrow_make_type(SHM_ARROW_KIND_BITS, 0, 2, 0, type_out);
        if (strcmp(format, "u") == 0 || strcmp(format, "z") == 0)
                return shm_arrow_make_type(SHM_ARROW_KIND_BINARY, 4, 3, 0, type_out);
        if (strcmp(format, "U") == 0 || strcmp(format, "Z") == 0)
                return shm_arrow_make_type(SHM_ARROW_KIND_BINARY, 8, 3, 0, type_out);
        if (strcmp(format, "vu") == 0 || strcmp(format, "vz") == 0)
                return shm_arrow_make_type(SHM_ARROW_KIND_VIEW, 16, 3, 0, type_out);
        if (format[0] == '+')
                return shm_arrow_nested_type(format, type_out);
        if (strncmp(format, "w:", 2) == 0) {
                width = shm_arrow_whole_number(format + 2);
                return width < 0 ? -EBADMSG : shm_arrow_make_type(SHM_ARROW_KIND_FIXED, width, 2, 0, type_out);
        }
        if (format[0] == 'd')
                width = shm_arrow_decimal_width(format);
        else if (format[0] == 't' && format[1] != 0)
                width = shm_arrow_time_width(format);
        return width == 0 ? -EBADMSG : shm_arrow_make_type(SHM_ARROW_KIND_FIXED, width, 2, 0, type_out);
}

#endif /* SHM_ARROW_LAYOUT_H */

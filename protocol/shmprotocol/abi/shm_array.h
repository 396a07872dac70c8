/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_array.h - arrays of numbers as Python stores and reads them: their metadata, without a msgpack library.
 *
 *         struct shm_array array;
 *         int error = shm_array_read(header, &array);   // a region whose value is a NumPy array
 *
 * A region of another process is not believed: each length, offset and type is checked. Section 15 of the
 * specification has the bytes. Structures, text and times are not handled here: -ENOTSUP.
 */
#ifndef SHM_ARRAY_H
#define SHM_ARRAY_H

#include "shm_abi.h"

#define SHM_ARRAY_DIMENSIONS 8
#define SHM_ARRAY_DESCRIPTION 192 /* bytes that shm_array_describe() writes at most */

#define SHM_ARRAY_DTYPE 24 /* bytes of the name of a dtype, with a zero at the end */

/*
 * `dtype` is a byte order, a letter and the bytes of an item: "<f8", "|u1"; b bool, i u integers, f c floats, complex.
 * Or it is the name of a small number, such as "bfloat16", "float8_e4m3fn" or "int4": the specification has their bits.
 */
struct shm_array {
        const void *data;
        uint64_t size; /* bytes */
        uint64_t shape[SHM_ARRAY_DIMENSIONS];
        uint32_t dimensions;
        char dtype[SHM_ARRAY_DTYPE];
        char order; /* 'C': the last index varies fastest; 'F': the first does */
};

enum shm_msgpack_type { SHM_MSGPACK_UINT, SHM_MSGPACK_STR, SHM_MSGPACK_ARRAY, SHM_MSGPACK_MAP, SHM_MSGPACK_OTHER };

/* A place in metadata. A field that is not there, or another than is asked for, makes it an error for good. */
struct shm_msgpack {
        const uint8_t *at;
        const uint8_t *end;
        int error;
};

static inline uint64_t shm_msgpack_number(struct shm_msgpack *in, unsigned bytes)
{
        uint64_t number = 0;

        if ((uint64_t)(in->end - in->at) < bytes) {
                in->error = -EBADMSG;
                return 0;
        }
        while (bytes--)
                number = number << 8 | *in->at++;
        return number;
}

/* Read the head of a value: its type, and the number, the items, or the bytes that follow. */
static inline enum shm_msgpack_type shm_msgpack_head(struct shm_msgpack *in, uint64_t *value_out)
{
        unsigned head = (unsigned)shm_msgpack_number(in, 1);
        /* Of 0xc4 to 0xdf: bytes of the number behind the head, and what type it is. */
        static const uint8_t widths[] = {1, 2, 4, 1, 2, 4, 0, 0, 1, 2, 4, 8, 0, 0, 0, 0,
                                         0, 0, 0, 0, 0, 1, 2, 4, 2, 4, 2, 4};
        static const uint8_t fixed[] = {0, 0, 0, 1, 1, 1, 4, 8, 0, 0, 0, 0, 1, 2, 4, 8, 2, 3, 5, 9, 17};

        *value_out = head;
        if (head < 0x80)
                return SHM_MSGPACK_UINT;
        *value_out = head & (head < 0xa0 ? 0x0f : 0x1f);
        if (head < 0xc0)
                return head < 0x90 ? SHM_MSGPACK_MAP : head < 0xa0 ? SHM_MSGPACK_ARRAY : SHM_MSGPACK_STR;
        *value_out = 0;
        if (head < 0xc4 || head >= 0xe0) /* null, booleans, small negative numbers */
                return SHM_MSGPACK_OTHER;
        *value_out = shm_msgpack_number(in, widths[head - 0xc4]);
        if (head >= 0xcc && head <= 0xcf)
                return SHM_MSGPACK_UINT;
        if (head >= 0xd9)
                return head < 0xdc ? SHM_MSGPACK_STR : head < 0xde ? SHM_MSGPACK_ARRAY : SHM_MSGPACK_MAP;
        *value_out += fixed[head - 0xc4];
        return SHM_MSGPACK_OTHER;
}

/* Read a text of at most `room` - 1 bytes. Returns its length; a longer one, or another type, is an error. */
static inline uint64_t shm_msgpack_text(struct shm_msgpack *in, char *text_out, uint64_t room)
{
        uint64_t length = 0;

        if (shm_msgpack_head(in, &length) != SHM_MSGPACK_STR || length >= room)
                in->error = in->error ? in->error : -ENOTSUP;
        else if (length > (uint64_t)(in->end - in->at))
                in->error = -EBADMSG;
        text_out[0] = 0;
        if (in->error)
                return 0;
        memcpy(text_out, in->at, (size_t)length);
        text_out[length] = 0;
        in->at += length;
        return length;
}

static inline uint64_t shm_msgpack_typed(struct shm_msgpack *in, enum shm_msgpack_type type)
{
        uint64_t value = 0;

        if (shm_msgpack_head(in, &value) != type && !in->error)
                in->error = -EBADMSG;
        return in->error ? 0 : value;
}

/* Go over a value of any type. Each step reads a byte at least, so it ends. */
static inline void shm_msgpack_skip(struct shm_msgpack *in)
{
        uint64_t left = 1, value = 0;

        for (; left > 0 && !in->error; left--) {
                enum shm_msgpack_type type = shm_msgpack_head(in, &value);

                if (type == SHM_MSGPACK_ARRAY || type == SHM_MSGPACK_MAP)
                        left += type == SHM_MSGPACK_MAP ? 2 * value : value;
                else if (type != SHM_MSGPACK_UINT && value > (uint64_t)(in->end - in->at))
                        in->error = -EBADMSG;
                else if (type != SHM_MSGPACK_UINT)
                        in->at += value;
        }
}

/* The bytes of an item of a type with a name, or 0. */
static inline uint64_t shm_array_named(const char *dtype)
{
        static const struct {
                char name[SHM_ARRAY_DTYPE];
                uint8_t bytes;
        } named[] = {{"bfloat16", 2}, {"complex32", 4}, {"bcomplex32", 4},
                     {"float8_e3m4", 1}, {"float8_e4m3", 1}, {"float8_e4m3b11fnuz", 1}, {"float8_e4m3fn", 1},
                     {"float8_e4m3fnuz", 1}, {"float8_e5m2", 1}, {"float8_e5m2fnuz", 1}, {"float8_e8m0fnu", 1},
                     {"float6_e2m3fn", 1}, {"float6_e3m2fn", 1}, {"float4_e2m1fn", 1},
                     {"int1", 1}, {"int2", 1}, {"int4", 1}, {"uint1", 1}, {"uint2", 1}, {"uint4", 1}};

        for (size_t i = 0; i < sizeof(named) / sizeof(named[0]); i++)
                if (strcmp(dtype, named[i].name) == 0)
                        return named[i].bytes;
        return 0;
}

/* The value of a bfloat16: it is the upper half of a float. */
static inline float shm_array_bfloat16(uint16_t item)
{
        uint32_t bits = (uint32_t)item << 16;
        float value;

        memcpy(&value, &bits, sizeof(value));
        return value;
}

/* The bytes of an item, 0 if the dtype is not that of numbers. */
static inline uint64_t shm_array_itemsize(const char *dtype)
{
        char digit = dtype[0] != 0 && dtype[1] != 0 ? dtype[2] : 0;

        if (strchr("<>|", dtype[0]) == NULL || strchr("biufc", dtype[1]) == NULL || digit < '1' || digit > '9')
                return shm_array_named(dtype);
        if (dtype[3] == 0)
                return (uint64_t)(digit - '0');
        return digit == '1' && dtype[3] == '6' && dtype[4] == 0 ? 16 : digit == '3' && dtype[3] == '2' && dtype[4] == 0 ? 32 : 0;
}

/* Does its shape take exactly its size? */
static inline int shm_array_fits(const struct shm_array *array)
{
        uint64_t bytes = shm_array_itemsize(array->dtype);
        int is_empty = 0;

        for (uint32_t i = 0; i < array->dimensions; i++)
                is_empty |= array->shape[i] == 0;
        for (uint32_t i = 0; i < array->dimensions && !is_empty; i++) {
                if (array->shape[i] > UINT64_MAX / bytes)
                        return 0;
                bytes *= array->shape[i];
        }
        return array->size == (is_empty ? 0 : bytes);
}

static inline void shm_array_shape(struct shm_msgpack *in, struct shm_array *array)
{
        uint64_t count = shm_msgpack_typed(in, SHM_MSGPACK_ARRAY);

        if (count > SHM_ARRAY_DIMENSIONS)
                in->error = -ENOTSUP;
        for (array->dimensions = 0; array->dimensions < count && !in->error; array->dimensions++)
                array->shape[array->dimensions] = shm_msgpack_typed(in, SHM_MSGPACK_UINT);
}

/*
 * Find the array that the data of a mapped region is. Returns 0 or: -ENOTSUP it is something else, or an array that is
 * not of numbers, or has more than 8 dimensions; -EBADMSG the metadata contradicts itself or leads out of the data.
 */
static inline int shm_array_read(const struct shm_region_header *header, struct shm_array *array_out)
{
        const uint8_t *start = (const uint8_t *)header->metadata;
        struct shm_msgpack in = {start, start == NULL ? NULL : start + header->metadata_size, start == NULL ? -ENOTSUP : 0};
        char key[16], format[16] = "", order[2] = "";
        uint64_t fields, offset = 0;

        memset(array_out, 0, sizeof(*array_out));
        for (fields = in.error ? 0 : shm_msgpack_typed(&in, SHM_MSGPACK_MAP); fields > 0 && !in.error; fields--) {
                shm_msgpack_text(&in, key, sizeof(key));
                if (strcmp(key, "format") == 0)
                        shm_msgpack_text(&in, format, sizeof(format));
                else if (strcmp(key, "dtype") == 0)
                        shm_msgpack_text(&in, array_out->dtype, sizeof(array_out->dtype));
                else if (strcmp(key, "order") == 0)
                        shm_msgpack_text(&in, order, sizeof(order));
                else if (strcmp(key, "shape") == 0)
                        shm_array_shape(&in, array_out);
                else if (strcmp(key, "offset") == 0)
                        offset = shm_msgpack_typed(&in, SHM_MSGPACK_UINT);
                else if (strcmp(key, "size") == 0)
                        array_out->size = shm_msgpack_typed(&in, SHM_MSGPACK_UINT);
                else
                        shm_msgpack_skip(&in);
        }
        if (in.error)
                return in.error;
        if (strcmp(format, "ndarray") != 0 || shm_array_itemsize(array_out->dtype) == 0)
                return -ENOTSUP;
        if (order[0] != 'C' && order[0] != 'F')
                return -EBADMSG;
        if (offset > header->data_size || array_out->size > header->data_size - offset || !shm_array_fits(array_out))
                return -EBADMSG;
        array_out->order = order[0];
        array_out->data = (const uint8_t *)header->data + offset;
        return 0;
}

static inline uint8_t *shm_msgpack_put_text(uint8_t *at, const char *text)
{
        size_t length = strlen(text); /* less than 32 here */

        *at++ = (uint8_t)(0xa0 | length);
        memcpy(at, text, length);
        return at + length;
}

static inline uint8_t *shm_msgpack_put_uint(uint8_t *at, uint64_t number)
{
        unsigned width = number > UINT32_MAX ? 3 : number > UINT16_MAX ? 2 : number > UINT8_MAX ? 1 : 0;

        if (number < 0x80) {
                *at++ = (uint8_t)number;
                return at;
        }
        *at++ = (uint8_t)(0xcc + width);
        for (int shift = 8 << width; shift > 0; shift -= 8)
                *at++ = (uint8_t)(number >> (shift - 8));
        return at;
}

/*
 * Write the metadata of an array that starts `offset` bytes behind the start of the data, as Python does. Returns its
 * bytes, at most SHM_ARRAY_DESCRIPTION, or -EINVAL: the dtype is not that of numbers, or shape and size do not agree.
 */
static inline int shm_array_describe(const struct shm_array *array, uint64_t offset, uint8_t *metadata_out)
{
        const char order[2] = {array->order, 0};
        uint8_t *at = metadata_out;

        if (array->dimensions > SHM_ARRAY_DIMENSIONS || shm_array_itemsize(array->dtype) == 0 || !shm_array_fits(array) ||
            (order[0] != 'C' && order[0] != 'F'))
                return -EINVAL;
        *at++ = 0x86;
        at = shm_msgpack_put_text(shm_msgpack_put_text(at, "format"), "ndarray");
        at = shm_msgpack_put_text(shm_msgpack_put_text(at, "dtype"), array->dtype);
        at = shm_msgpack_put_text(at, "shape");
        *at++ = (uint8_t)(0x90 | array->dimensions);
        for (uint32_t i = 0; i < array->dimensions; i++)
                at = shm_msgpack_put_uint(at, array->shape[i]);
        at = shm_msgpack_put_text(shm_msgpack_put_text(at, "order"), order);
        at = shm_msgpack_put_uint(shm_msgpack_put_text(at, "offset"), offset);
        at = shm_msgpack_put_uint(shm_msgpack_put_text(at, "size"), array->size);
        return (int)(at - metadata_out);
}

#endif /* SHM_ARRAY_H */

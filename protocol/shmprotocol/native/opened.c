/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opened.c - the frames of an attach: an Open and a Release written, an Opened read. Pure: bytes in, values out, no
 * Python. The reader takes only the plainest form, and the codec in Python takes whatever this one refuses; every byte
 * comes from another process and is checked before use.
 */
#ifndef SHM_OPENED_H
#define SHM_OPENED_H

#include <errno.h>
#include <stdint.h>
#include <string.h>

#define SHM_TAG_OPEN 5
#define SHM_TAG_RELEASE 6
#define SHM_TAG_PUT 15
#define SHM_TAG_PUBLISHED 131
#define SHM_TAG_OPENED 132
#define SHM_GRANT_NUMBERS 11   /* numbers of a grant that are looked at: all fields but the name */
#define SHM_GRANT_FIELDS_MIN 8 /* of the first version */
#define SHM_GRANT_NAME 3       /* the index of the name among the fields */

enum { SHM_LEASE, SHM_REGION, SHM_GENERATION, SHM_ADDRESS, SHM_SIZE, SHM_CAPACITY, SHM_FLAGS };

struct shm_granted {
        uint64_t numbers[SHM_GRANT_NUMBERS]; /* in the order of the fields, without the name */
        const char *name; /* UTF-8 that was not checked, inside of the frame */
        uint64_t name_size;
        /* Of the region's header, once that was checked; offsets from its start. */
        uint64_t end;
        uint64_t metadata; /* 0: there is none */
        uint64_t metadata_size;
};

struct shm_spare {
        uint64_t region;
        uint64_t address;
        uint64_t capacity;
};

struct shm_opened {
        uint64_t id;
        uint32_t count;
        uint32_t spare_count; /* of a Published: their descriptors come behind those of the grants */
        struct shm_granted grants[SHM_FRAME_NAMES_MAX];
        struct shm_spare spares[SHM_FRAME_NAMES_MAX];
};

/* Pass over a field that a later version appends: a number, nil or a boolean. 0: it is something else. */
static int shm_frame_skip_field(struct shm_frame *frame)
{
        uint64_t value;

        if (frame->at != frame->end && (*frame->at == 0xc0 || *frame->at == 0xc2 || *frame->at == 0xc3)) {
                frame->at++;
                return 1;
        }
        return shm_frame_integer(frame, &value);
}

/* Read a grant, of which the caller knows `fields` fields: one for each number that it has, and the name. 0: another. */
static int shm_frame_granted(struct shm_frame *frame, uint32_t fields, struct shm_granted *granted)
{
        uint64_t count, field, number = 0;
        int is_right;

        if (!shm_frame_array(frame, SHM_FRAME_ARRAY_MAX, &count) || count < fields)
                return 0;
        for (field = 0; field < count; field++) {
                if (field == SHM_GRANT_NAME)
                        is_right = shm_frame_string(frame, &granted->name, &granted->name_size);
                else if (field < fields)
                        is_right = shm_frame_integer(frame, &granted->numbers[number++]);
                else
                        is_right = shm_frame_skip_field(frame);
                if (!is_right)
                        return 0;
        }
        return granted->numbers[SHM_LEASE] != 0;
}

/*
 * Read bytes that are one whole Opened, [tag, descriptors, id, grants], with a lease and a descriptor for each
 * grant. `fields` is the number of a grant's fields that the caller knows. 0: they are something else, or bring a ledger.
 */
static int shm_opened_read(const uint8_t *bytes, size_t size, uint32_t fields, struct shm_opened *opened)
{
        struct shm_frame data = {bytes, bytes + size}, frame;
        uint64_t tag, descriptors, items, count, i;

        if (fields < SHM_GRANT_FIELDS_MIN || fields > SHM_GRANT_NUMBERS + 1 || !shm_frame_next(&data, &frame) ||
            data.at != data.end)
                return 0;
        if (!shm_frame_array(&frame, SHM_FRAME_ARRAY_MAX, &items) || items != 4 || !shm_frame_integer(&frame, &tag) ||
            tag != SHM_TAG_OPENED || !shm_frame_integer(&frame, &descriptors) || !shm_frame_integer(&frame, &opened->id) ||
            !shm_frame_array(&frame, SHM_FRAME_NAMES_MAX, &count) || count == 0 || count != descriptors)
                return 0;
        for (i = 0; i < count; i++)
                if (!shm_frame_granted(&frame, fields, &opened->grants[i]))
                        return 0;
        opened->count = (uint32_t)count;
        opened->spare_count = 0;
        return frame.at == frame.end;
}

/* Read the spares of a Published; 0: they are something else. */
static int shm_frame_spares(struct shm_frame *frame, struct shm_opened *opened)
{
        uint64_t count, fields, i, field;

        if (!shm_frame_array(frame, SHM_FRAME_NAMES_MAX - 1, &count))
                return 0;
        for (i = 0; i < count; i++) {
                struct shm_spare *spare = &opened->spares[i];

                if (!shm_frame_array(frame, SHM_FRAME_ARRAY_MAX, &fields) || fields < 3 ||
                    !shm_frame_integer(frame, &spare->region) || !shm_frame_integer(frame, &spare->address) ||
                    !shm_frame_integer(frame, &spare->capacity))
                        return 0;
                for (field = 3; field < fields; field++)
                        if (!shm_frame_skip_field(frame))
                                return 0;
        }
        opened->spare_count = (uint32_t)count;
        return 1;
}

/*
 * Read bytes that are one whole Published, [tag, descriptors, id, grant, spares, ...], as if it were an Opened with one
 * grant. 0: they are something else.
 */
static int shm_published_read(const uint8_t *bytes, size_t size, uint32_t fields, struct shm_opened *opened)
{
        struct shm_frame data = {bytes, bytes + size}, frame;
        uint64_t tag, descriptors, items, i;

        if (fields < SHM_GRANT_FIELDS_MIN || fields > SHM_GRANT_NUMBERS + 1 || !shm_frame_next(&data, &frame) ||
            data.at != data.end)
                return 0;
        if (!shm_frame_array(&frame, SHM_FRAME_ARRAY_MAX, &items) || items < 4 || !shm_frame_integer(&frame, &tag) ||
            tag != SHM_TAG_PUBLISHED || !shm_frame_integer(&frame, &descriptors) ||
            !shm_frame_integer(&frame, &opened->id) || !shm_frame_granted(&frame, fields, &opened->grants[0]))
                return 0;
        opened->spare_count = 0;
        if (items > 4 && !shm_frame_spares(&frame, opened))
                return 0;
        for (i = 5; i < items; i++)
                if (!shm_frame_skip_field(&frame))
                        return 0;
        opened->count = 1;
        return descriptors == 1 + opened->spare_count && frame.at == frame.end;
}

/* --- writers: each returns the end, and has room */

static uint8_t *shm_put_array(uint8_t *at, uint32_t count)
{
        if (count > 15) {
                *at++ = 0xdc;
                *at++ = (uint8_t)(count >> 8);
        }
        *at++ = (uint8_t)(count > 15 ? count : 0x90 | count);
        return at;
}

/* A string of at most SHM_NAME_MAX bytes: at most 2 more. */
static uint8_t *shm_put_string(uint8_t *at, const char *string, size_t size)
{
        if (size > 31)
                *at++ = 0xd9;
        *at++ = size > 31 ? (uint8_t)size : (uint8_t)(0xa0 | size);
        memcpy(at, string, size);
        return at + size;
}

/* Write the length of a frame, between its start and its end, where it has left 4 bytes. */
static uint8_t *shm_put_length(uint8_t *start, uint8_t *end)
{
        uint32_t length = (uint32_t)(end - start - 4), i;

        for (i = 0; i < 4; i++)
                start[i] = (uint8_t)(length >> 8 * i);
        return end;
}

#define SHM_RELEASE_MAX 18 /* bytes of a Release of one lease */

static uint8_t *shm_put_release(uint8_t *start, uint64_t lease)
{
        static const uint8_t head[] = {0x94, SHM_TAG_RELEASE, 0, 0, 0x91}; /* no descriptors, id 0, one lease */

        memcpy(start + 4, head, sizeof(head));
        return shm_put_length(start, shm_put_integer(start + 4 + sizeof(head), lease));
}

/* The start of an Open, up to its names, and its end: nothing is held, no wait. */
static uint8_t *shm_put_open(uint8_t *start, uint64_t id, uint32_t count)
{
        static const uint8_t head[] = {0x96, SHM_TAG_OPEN, 0};

        memcpy(start + 4, head, sizeof(head));
        return shm_put_array(shm_put_integer(start + 4 + sizeof(head), id), count);
}

static uint8_t *shm_put_open_end(uint8_t *start, uint8_t *at)
{
        *at++ = 0x90;
        *at++ = 0xc2;
        return shm_put_length(start, at);
}

#define SHM_TAG_ASSIGN 16
#define SHM_PUT_HEAD_MAX (4 + 3 + 9 + 2 + SHM_NAME_MAX + 4 * 9 + 1 + 5) /* bytes of a Put, but for its payload */

/* The start of a Put, up to its mode. */
static uint8_t *shm_put_put(uint8_t *start, uint64_t id, const char *name, size_t name_size)
{
        static const uint8_t head[] = {0x9a, SHM_TAG_PUT, 0};

        memcpy(start + 4, head, sizeof(head));
        return shm_put_string(shm_put_integer(start + 4 + sizeof(head), id), name, name_size);
}

/* The start of an Assign, up to its mode. */
static uint8_t *shm_put_assign(uint8_t *start, uint64_t id, uint64_t region, const char *name, size_t name_size)
{
        static const uint8_t head[] = {0x9c, SHM_TAG_ASSIGN, 0};

        memcpy(start + 4, head, sizeof(head));
        return shm_put_string(shm_put_integer(shm_put_integer(start + 4 + sizeof(head), id), region), name, name_size);
}

/* The head of a byte string of less than 64 KiB: at most 3 bytes. */
static uint8_t *shm_put_bytes_head(uint8_t *at, size_t size)
{
        *at++ = size > UINT8_MAX ? 0xc5 : 0xc4;
        if (size > UINT8_MAX)
                *at++ = (uint8_t)(size >> 8);
        *at++ = (uint8_t)size;
        return at;
}

#endif /* SHM_OPENED_H */

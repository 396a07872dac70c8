/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_dict.h - look a key up in a region that holds a dict: one hash, one probe, no decoding.
 *
 *         struct shm_dict dict;
 *         struct shm_dict_value value;
 *         int error = shm_dict_open(header, &dict);
 *         error = error ? error : shm_dict_find(&dict, "pixels", 6, &value);
 *         use(value.data, value.size);
 *
 * `protocol/README.md`, section 15, specifies the layout. C11 and C++17, no library, as shm_abi.h.
 *
 * The index is as untrusted as its creator, who may even write to it under SHM_FLAG_SEAL_WRITER: each
 * word is loaded once, and checked before it is used. These functions read nothing outside of the payload, and
 * end after SHM_DICT_BUCKET_MAX records. All that they return lies in the payload.
 */
#ifndef SHM_DICT_H
#define SHM_DICT_H

#include "shm_abi.h"

#define SHM_DICT_VERSION 1
#define SHM_DICT_HEADER_SIZE 64
#define SHM_DICT_RECORD_SIZE 40 /* without its key */
#define SHM_DICT_UNIT 8         /* bytes; records start at multiples, so that 32 bits say where */
#define SHM_DICT_MAX 0x7fffffff /* keys */
/*
 * The records of a bucket lie side by side, each with its key, so that a look-up touches one page beside the
 * start of the index: pages that were not touched before cost more (2 us each) than reading 16 records.
 * With a good hash no bucket has over 60 of 2^31 keys. A writer that gets more than SHM_DICT_BUCKET_MAX starts anew with
 * another seed, so that no choice of keys makes a reader slow.
 */
#define SHM_DICT_BUCKET 16
#define SHM_DICT_BUCKET_MAX 256
#define SHM_DICT_SEED 0xcbf29ce484222325u /* of the FNV-1a hash */

/* The start of an index. Offsets in the index count from here. Writer: the creator of the region, once. */
struct shm_dict_header {
        uint8_t magic[8]; /* "SHMDICT" and a zero byte */
        uint32_t version; /* SHM_DICT_VERSION */
        uint32_t reserved;
        uint64_t size;         /* bytes of the index */
        uint64_t count;        /* keys, and records */
        uint64_t bucket_count; /* a power of two, at most 2^31 */
        uint64_t seed;         /* of the hash */
        uint64_t buckets;      /* offset of bucket_count + 1 words: the unit where the records of each start, and end */
        uint64_t order;        /* offset of count words: the units where the records start, in the order of the keys */
};

/* A key and its value, at a multiple of SHM_DICT_UNIT. The key follows, in UTF-8, then zero bytes to the next multiple. */
struct shm_dict_record {
        uint64_t hash;
        uint64_t offset; /* of the value, from the start of the data */
        uint64_t size;
        uint64_t description; /* offset in the index: a msgpack map, which several records may share */
        uint32_t description_size;
        uint32_t key_size;
};

static_assert(sizeof(struct shm_dict_header) == SHM_DICT_HEADER_SIZE, "version 1");
static_assert(sizeof(struct shm_dict_record) == SHM_DICT_RECORD_SIZE, "version 1");

/* An index whose header has been checked. */
struct shm_dict {
        const uint8_t *index;
        uint64_t size;
        uint64_t count;
        uint64_t bucket_count;
        uint64_t seed;
        uint64_t buckets;
        uint64_t order;
        const uint8_t *data;
        uint64_t data_size;
};

/* A value in the mapping, with its key. The description says what it is: see the specification. */
struct shm_dict_value {
        const char *key; /* not terminated */
        uint64_t key_size;
        const void *data;
        uint64_t size;
        const void *description;
        uint64_t description_size;
};

static inline uint32_t shm_dict_load32(const uint8_t *address)
{
        return __atomic_load_n((const uint32_t *)(const void *)address, __ATOMIC_RELAXED);
}

static inline uint64_t shm_dict_load64(const uint8_t *address)
{
        return __atomic_load_n((const uint64_t *)(const void *)address, __ATOMIC_RELAXED);
}

/* FNV-1a from `seed`, with its upper half folded into the lower one, which chooses the bucket. */
static inline uint64_t shm_dict_hash(uint64_t seed, const char *key, uint64_t size)
{
        uint64_t i;

        for (i = 0; i < size; i++)
                seed = (seed ^ (uint8_t)key[i]) * 0x100000001b3u;
        return seed ^ seed >> 32;
}

/* The bytes of a record with a key of so many bytes. */
static inline uint64_t shm_dict_record_size(uint64_t key_size)
{
        return SHM_DICT_RECORD_SIZE + (key_size + SHM_DICT_UNIT - 1) / SHM_DICT_UNIT * SHM_DICT_UNIT;
}

/* Do `count` words of 32 bits at `offset` lie inside `size` bytes, at a multiple of their size? */
static inline int shm_dict_words_inside(uint64_t offset, uint64_t count, uint64_t size)
{
        return offset % sizeof(uint32_t) == 0 && offset <= size && count <= (size - offset) / sizeof(uint32_t);
}

/*
 * Check an index of at most `available` bytes; its values lie in the `data_size` bytes at `data`. Returns 0 or
 * -EBADMSG: it is not an index, or a corrupt one; -EPROTONOSUPPORT: another version.
 */
static inline int shm_dict_check(const void *index, uint64_t available, const void *data, uint64_t data_size,
                                 struct shm_dict *dict_out)
{
        const uint8_t *bytes = (const uint8_t *)index;
        struct shm_dict dict;

        if (available < SHM_DICT_HEADER_SIZE || (uintptr_t)index % SHM_DICT_UNIT != 0 ||
            memcmp(bytes, "SHMDICT", 8) != 0)
                return -EBADMSG;
        if (shm_dict_load32(bytes + offsetof(struct shm_dict_header, version)) != SHM_DICT_VERSION)
                return -EPROTONOSUPPORT;
        dict.index = bytes;
        dict.size = shm_dict_load64(bytes + offsetof(struct shm_dict_header, size));
        dict.count = shm_dict_load64(bytes + offsetof(struct shm_dict_header, count));
        dict.bucket_count = shm_dict_load64(bytes + offsetof(struct shm_dict_header, bucket_count));
        dict.seed = shm_dict_load64(bytes + offsetof(struct shm_dict_header, seed));
        dict.buckets = shm_dict_load64(bytes + offsetof(struct shm_dict_header, buckets));
        dict.order = shm_dict_load64(bytes + offsetof(struct shm_dict_header, order));
        dict.data = (const uint8_t *)data;
        dict.data_size = data_size;
        if (dict.size > available || dict.count > SHM_DICT_MAX || dict.bucket_count == 0 ||
            dict.bucket_count > (uint64_t)1 << 31 || (dict.bucket_count & (dict.bucket_count - 1)) != 0 ||
            !shm_dict_words_inside(dict.buckets, dict.bucket_count + 1, dict.size) ||
            !shm_dict_words_inside(dict.order, dict.count, dict.size))
                return -EBADMSG;
        *dict_out = dict;
        return 0;
}

/*
 * Check the record at `start`, which ends at `end` at the latest. Returns 0, its key and value, and where the next
 * one starts; or -EBADMSG.
 */
static inline int shm_dict_read(const struct shm_dict *dict, uint64_t start, uint64_t end,
                                struct shm_dict_value *value_out, uint64_t *next_out)
{
        const uint8_t *record = dict->index + start;
        uint64_t description, offset;

        if (end > dict->size || start > end || end - start < SHM_DICT_RECORD_SIZE)
                return -EBADMSG;
        value_out->key_size = shm_dict_load32(record + offsetof(struct shm_dict_record, key_size));
        value_out->description_size =
                shm_dict_load32(record + offsetof(struct shm_dict_record, description_size));
        value_out->size = shm_dict_load64(record + offsetof(struct shm_dict_record, size));
        description = shm_dict_load64(record + offsetof(struct shm_dict_record, description));
        offset = shm_dict_load64(record + offsetof(struct shm_dict_record, offset));
        if (shm_dict_record_size(value_out->key_size) > end - start || description > dict->size ||
            value_out->description_size > dict->size - description ||
            value_out->description_size > SHM_METADATA_MAX || offset > dict->data_size ||
            value_out->size > dict->data_size - offset)
                return -EBADMSG;
        value_out->key = (const char *)record + SHM_DICT_RECORD_SIZE;
        value_out->description = dict->index + description;
        value_out->data = dict->data + offset;
        *next_out = start + shm_dict_record_size(value_out->key_size);
        return 0;
}

/* The key and value of record `number`, below the count, in the order of the keys. Returns 0 or -EBADMSG. */
static inline int shm_dict_at(const struct shm_dict *dict, uint64_t number, struct shm_dict_value *value_out)
{
        uint64_t start, next;

        if (number >= dict->count)
                return -EBADMSG;
        start = (uint64_t)shm_dict_load32(dict->index + dict->order + sizeof(uint32_t) * number) * SHM_DICT_UNIT;
        return shm_dict_read(dict, start, dict->size, value_out, &next);
}

/* Find a key of `size` bytes. Returns 0 and the value, or: -ENOENT there is none; -EBADMSG a corrupt index. */
static inline int shm_dict_find(const struct shm_dict *dict, const char *key, uint64_t size,
                                struct shm_dict_value *value_out)
{
        uint64_t hash = shm_dict_hash(dict->seed, key, size);
        uint64_t bucket = hash & (dict->bucket_count - 1);
        const uint8_t *word = dict->index + dict->buckets + sizeof(uint32_t) * bucket;
        uint64_t start = (uint64_t)shm_dict_load32(word) * SHM_DICT_UNIT;
        const uint64_t end = (uint64_t)shm_dict_load32(word + sizeof(uint32_t)) * SHM_DICT_UNIT;
        int i;

        for (i = 0; i < SHM_DICT_BUCKET_MAX; i++) {
                const uint8_t *record = dict->index + start;
                int error;

                if (start == end)
                        return -ENOENT;
                error = shm_dict_read(dict, start, end, value_out, &start);
                if (error)
                        return error;
                if (shm_dict_load64(record) == hash && value_out->key_size == size &&
                    (size == 0 || memcmp(value_out->key, key, (size_t)size) == 0))
                        return 0;
        }
        return -EBADMSG;
}

/*
 * Find the dict of a region that shm_region_map() has mapped. Returns 0, or: -ENOENT the region holds
 * no dict with an index; -EBADMSG a corrupt index; -EPROTONOSUPPORT another version of the index.
 *
 * The metadata of such a region starts with these bytes, so that no reader needs msgpack for them: a map of
 * two keys or more, the first two of which are "format": "dict" and "index", an integer of 8 bytes.
 */
static inline int shm_dict_open(const struct shm_region_header *header, struct shm_dict *dict_out)
{
        static const char start[] = "\xa6" "format" "\xa4" "dict" "\xa5" "index" "\xcf";
        const uint8_t *metadata = (const uint8_t *)header->metadata;
        const uint64_t payload_size = header->size - SHM_HEADER_SIZE;
        const size_t start_size = sizeof(start) - 1;
        uint64_t index = 0;
        int i;

        if (metadata == NULL || header->metadata_size < 1 + start_size + sizeof(index) ||
            (metadata[0] & 0xf0) != 0x80 || memcmp(metadata + 1, start, start_size) != 0)
                return -ENOENT;
        for (i = 0; i < 8; i++) /* msgpack is big-endian */
                index = index << 8 | metadata[1 + start_size + (size_t)i];
        if (index > payload_size)
                return -EBADMSG;
        return shm_dict_check((const uint8_t *)header->data + index, payload_size - index, header->data,
                              header->data_size, dict_out);
}

#endif /* SHM_DICT_H */

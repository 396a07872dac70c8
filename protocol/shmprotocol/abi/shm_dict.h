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
 * end after SHM_DICT_PROBES slots. All that they return lies in the payload.
 */
#ifndef SHM_DICT_H
#define SHM_DICT_H

#include "shm_abi.h"

#define SHM_DICT_VERSION 1
#define SHM_DICT_HEADER_SIZE 64
#define SHM_DICT_RECORD_SIZE 48
#define SHM_DICT_MAX 0x7fffffff /* keys: a slot has 32 bits, and there are two slots or more for each key */
/*
 * A key is in one of so many slots from its own on, or not in the dict. At a load of one half, runs of some
 * 40 slots occur with 100,000 keys, of 150 with 2^31. A writer that gets a longer one starts anew with another
 * seed, so that no choice of keys makes a reader slow.
 */
#define SHM_DICT_PROBES 1024
#define SHM_DICT_SEED 0xcbf29ce484222325u /* of the FNV-1a hash */

/* The start of an index. Offsets in the index count from here. Writer: the creator of the region, once. */
struct shm_dict_header {
        uint8_t magic[8]; /* "SHMDICT" and a zero byte */
        uint32_t version; /* SHM_DICT_VERSION */
        uint32_t reserved0;
        uint64_t size;       /* bytes of the index: header, slots, records, texts */
        uint64_t count;      /* keys, and records */
        uint64_t slot_count; /* a power of two, at least 2, and at least twice the count */
        uint64_t seed;       /* of the hash */
        uint64_t reserved[2];
};

/* A key and its value. The records come in the order of the keys, after the slots. */
struct shm_dict_record {
        uint64_t hash;
        uint64_t key; /* offset in the index: UTF-8, without a zero byte at its end */
        uint32_t key_size;
        uint32_t description_size;
        uint64_t description; /* offset in the index: a msgpack map, which several records may share */
        uint64_t offset;      /* of the value, from the start of the data */
        uint64_t size;
};

static_assert(sizeof(struct shm_dict_header) == SHM_DICT_HEADER_SIZE, "version 1");
static_assert(sizeof(struct shm_dict_record) == SHM_DICT_RECORD_SIZE, "version 1");

/* An index whose header has been checked. */
struct shm_dict {
        const uint8_t *index;
        uint64_t size;
        uint64_t count;
        uint64_t slot_count;
        uint64_t seed;
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

/* FNV-1a from `seed`, with its upper half folded into the lower one, which chooses the slot. */
static inline uint64_t shm_dict_hash(uint64_t seed, const char *key, uint64_t size)
{
        uint64_t i;

        for (i = 0; i < size; i++)
                seed = (seed ^ (uint8_t)key[i]) * 0x100000001b3u;
        return seed ^ seed >> 32;
}

/* The least number of slots for so many keys. */
static inline uint64_t shm_dict_slots(uint64_t count)
{
        uint64_t slots = 2;

        while (slots < 2 * count)
                slots *= 2;
        return slots;
}

/* The offset of the texts, behind the records. */
static inline uint64_t shm_dict_texts(uint64_t slot_count, uint64_t count)
{
        return SHM_DICT_HEADER_SIZE + sizeof(uint32_t) * slot_count + SHM_DICT_RECORD_SIZE * count;
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

        if (available < SHM_DICT_HEADER_SIZE || (uintptr_t)index % sizeof(uint64_t) != 0 ||
            memcmp(bytes, "SHMDICT", 8) != 0)
                return -EBADMSG;
        if (shm_dict_load32(bytes + offsetof(struct shm_dict_header, version)) != SHM_DICT_VERSION)
                return -EPROTONOSUPPORT;
        dict.index = bytes;
        dict.size = shm_dict_load64(bytes + offsetof(struct shm_dict_header, size));
        dict.count = shm_dict_load64(bytes + offsetof(struct shm_dict_header, count));
        dict.slot_count = shm_dict_load64(bytes + offsetof(struct shm_dict_header, slot_count));
        dict.seed = shm_dict_load64(bytes + offsetof(struct shm_dict_header, seed));
        dict.data = (const uint8_t *)data;
        dict.data_size = data_size;
        if (dict.size > available || dict.count > SHM_DICT_MAX || dict.slot_count > (uint64_t)1 << 32 ||
            dict.slot_count < 2 || dict.slot_count < 2 * dict.count ||
            (dict.slot_count & (dict.slot_count - 1)) != 0 ||
            dict.size < shm_dict_texts(dict.slot_count, dict.count))
                return -EBADMSG;
        *dict_out = dict;
        return 0;
}

/* The key and value of record `number`, below the count, in the order of the keys. Returns 0 or -EBADMSG. */
static inline int shm_dict_at(const struct shm_dict *dict, uint64_t number, struct shm_dict_value *value_out)
{
        const uint8_t *record = dict->index + shm_dict_texts(dict->slot_count, number);
        uint64_t key, description, offset;

        if (number >= dict->count)
                return -EBADMSG;
        key = shm_dict_load64(record + offsetof(struct shm_dict_record, key));
        description = shm_dict_load64(record + offsetof(struct shm_dict_record, description));
        offset = shm_dict_load64(record + offsetof(struct shm_dict_record, offset));
        value_out->key_size = shm_dict_load32(record + offsetof(struct shm_dict_record, key_size));
        value_out->description_size =
                shm_dict_load32(record + offsetof(struct shm_dict_record, description_size));
        value_out->size = shm_dict_load64(record + offsetof(struct shm_dict_record, size));
        if (key > dict->size || value_out->key_size > dict->size - key || description > dict->size ||
            value_out->description_size > dict->size - description ||
            value_out->description_size > SHM_METADATA_MAX || offset > dict->data_size ||
            value_out->size > dict->data_size - offset)
                return -EBADMSG;
        value_out->key = (const char *)dict->index + key;
        value_out->description = dict->index + description;
        value_out->data = dict->data + offset;
        return 0;
}

/* Find a key of `size` bytes. Returns 0 and the value, or: -ENOENT there is none; -EBADMSG a corrupt index. */
static inline int shm_dict_find(const struct shm_dict *dict, const char *key, uint64_t size,
                                struct shm_dict_value *value_out)
{
        uint64_t hash = shm_dict_hash(dict->seed, key, size);
        uint64_t probe;

        for (probe = 0; probe < SHM_DICT_PROBES; probe++) {
                uint64_t place = (hash + probe) & (dict->slot_count - 1);
                uint32_t slot = shm_dict_load32(dict->index + SHM_DICT_HEADER_SIZE + sizeof(slot) * place);
                int error;

                if (slot == 0)
                        return -ENOENT;
                if (slot > dict->count)
                        return -EBADMSG;
                if (shm_dict_load64(dict->index + shm_dict_texts(dict->slot_count, slot - 1)) != hash)
                        continue;
                error = shm_dict_at(dict, slot - 1, value_out);
                if (error)
                        return error;
                if (value_out->key_size == size &&
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

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pointers.c - walks all objects that can be reached from a root by the types of its pointers, and finds the first
 * pointer that leads out of the region. The memory may be hostile, and may change during the walk: every pointer
 * is read once and checked before it is followed.
 */
#ifndef SHM_POINTERS_H
#define SHM_POINTERS_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* cffi: begin */

/*
 * A member of a type that holds pointers (an array of them: count, stride), or parts that contain pointers.
 * `length` is the number of consecutive objects behind a pointer; with a length_size, it is the offset of the
 * field, of that many bytes, that holds the number.
 */
struct shm_member {
        uint64_t offset;
        uint64_t count;
        uint64_t stride;
        uint64_t length;
        uint32_t length_size;
        uint32_t type; /* of the target, or of the part */
        uint32_t is_pointer;
        uint32_t reserved;
};

struct shm_type {
        uint64_t size;
        uint64_t align;
        uint32_t first; /* of its members, which are consecutive */
        uint32_t members;
        uint32_t step; /* between its possible addresses: its alignment, or 1 as a part of packed structures */
        uint32_t reserved;
};

/* One step of a path from the root: which member, and which of its elements. */
struct shm_step {
        uint64_t index;
        uint32_t member;
        uint32_t reserved;
};

/* The first bad pointer: its slot, its value, and the number of steps that lead to it. */
struct shm_stray {
        uint64_t slot;
        uint64_t address;
        uint64_t depth;
        uint64_t root; /* from which of the roots */
};

/* The part of the address space that pointers may lead to, and where it is mapped. */
struct shm_range {
        uint64_t base;
        uint64_t size;
        uint64_t mapped;
};

int64_t shm_check_pointers(const struct shm_range *range, const struct shm_type *types, uint32_t type_count,
                           const struct shm_member *members, uint64_t root, uint64_t roots,
                           struct shm_stray *stray_out, struct shm_step *path_out, uint64_t path_max);

/* cffi: end */

/*
 * How often an object may be reached on average. Many pointers to one table are legitimate; without a limit, N
 * tables that overlap by all but one object would take N * N steps, and a hostile region could make its readers
 * walk for years.
 */
#define SHM_WALK_STEPS 64
#define SHM_WALK_TABLES 256

/* A reached object. The objects are also the queue of the walk, which is breadth first. */
struct shm_object {
        uint64_t address;
        uint64_t parent;
        uint64_t index;
        uint32_t type;
        uint32_t member;
};

struct shm_walk {
        const struct shm_range *range;
        const struct shm_type *types;
        const struct shm_member *members;
        uint8_t **seen; /* for each type, a bit for each possible address of an object; NULL until needed */
        struct shm_object *objects;
        uint64_t count;
        uint64_t room;
        uint64_t limit; /* of objects that do not overlap others of their type */
        uint64_t steps; /* left before the walk gives up */
        uint64_t stray; /* the bad pointer, as it was read */
        uint64_t roots; /* the first objects */
        struct {
                uint64_t address, elements;
                uint32_t type;
        } tables[SHM_WALK_TABLES]; /* the tables walked last, by address: many rows can share one */
};

/* Mark an object as seen. Returns 1 if it is new, 0 if not, or -ENOMEM. */
static int shm_walk_see(struct shm_walk *walk, const struct shm_object *object)
{
        uint64_t place = (object->address - walk->range->base) / walk->types[object->type].step;
        uint8_t *seen = walk->seen[object->type];
        uint8_t bit = (uint8_t)(1u << (place & 7));

        if (seen == NULL) /* pages of it that are never touched take no memory */
                seen = walk->seen[object->type] = (uint8_t *)calloc(
                        (size_t)(walk->range->size / walk->types[object->type].step / 8 + 1), 1);
        if (seen == NULL)
                return -ENOMEM;
        if (seen[place >> 3] & bit)
                return 0;
        seen[place >> 3] |= bit;
        return 1;
}

static int shm_walk_grow(struct shm_walk *walk)
{
        uint64_t room = walk->room ? walk->room * 2 : 1024;
        struct shm_object *objects =
                (struct shm_object *)realloc(walk->objects, (size_t)room * sizeof(*objects));

        if (objects == NULL)
                return -ENOMEM;
        walk->objects = objects;
        walk->room = room;
        return 0;
}

static int shm_walk_add(struct shm_walk *walk, const struct shm_object *object)
{
        int is_new;

        if (walk->steps-- == 0)
                return -E2BIG;
        is_new = shm_walk_see(walk, object);
        if (is_new <= 0)
                return is_new;
        if (walk->count == walk->limit)
                return -ELOOP;
        if (walk->count == walk->room && shm_walk_grow(walk) < 0)
                return -ENOMEM;
        walk->objects[walk->count++] = *object;
        return 0;
}

/* Write the steps to a slot: the first path_max / 2 of them, and as many last ones. */
static void shm_walk_path(const struct shm_walk *walk, const struct shm_object *slot,
                          struct shm_stray *stray_out, struct shm_step *path, uint64_t path_max)
{
        const struct shm_object *at;
        uint64_t depth = 1;
        uint64_t half = path_max / 2;
        uint64_t step;

        for (at = slot; at->parent >= walk->roots; at = &walk->objects[at->parent])
                depth++;
        stray_out->depth = depth;
        stray_out->root = at->parent;
        for (at = slot, step = depth; step; at = &walk->objects[at->parent]) {
                uint64_t place = --step;

                if (depth > path_max && place >= half) {
                        if (place < depth - half)
                                continue;
                        place -= depth - 2 * half;
                }
                path[place].index = at->index;
                path[place].member = at->member;
                path[place].reserved = 0;
        }
}

static int shm_is_inside(const struct shm_range *range, uint64_t address, const struct shm_type *type,
                         uint64_t elements)
{
        return address >= range->base && address - range->base <= range->size && address % type->align == 0 &&
               elements <= (range->size - (address - range->base)) / (type->size ? type->size : 1);
}

/* Read a word of 1, 2, 4 or 8 bytes at an address that was checked to be inside; it need not be aligned. */
static uint64_t shm_read(const struct shm_range *range, uint64_t address, uint32_t size)
{
        uint64_t value = 0; /* little-endian, as the whole ABI */

        memcpy(&value, (const char *)(uintptr_t)range->mapped + (address - range->base), size);
        return value;
}

/* Add consecutive objects; found says how the walk reached the first. */
static int shm_walk_table(struct shm_walk *walk, uint64_t address, uint64_t elements, struct shm_object *found)
{
        uint64_t size = walk->types[found->type].size;
        int error = 0;

        for (; elements && !error; elements--, found->index++, address += size) {
                found->address = address;
                error = shm_walk_add(walk, found);
        }
        return error;
}

/* Return whether a table of several objects is among those walked last, and add it to them. */
static int shm_walk_knows(struct shm_walk *walk, uint64_t address, uint64_t elements, uint32_t type)
{
        uint64_t place = (address * 0x9E3779B97F4A7C15u >> 32) % SHM_WALK_TABLES; /* Fibonacci hashing */
        int is_known;

        if (elements == 1)
                return 0;
        is_known = walk->tables[place].address == address && walk->tables[place].elements == elements &&
                   walk->tables[place].type == type;
        walk->tables[place].address = address;
        walk->tables[place].elements = elements;
        walk->tables[place].type = type;
        return is_known;
}

/* Follow one pointer. Returns 0, -errno, or 1 with its slot in *found when it leads out. */
static int shm_walk_follow(struct shm_walk *walk, uint64_t slot, uint64_t elements, struct shm_object *found)
{
        const struct shm_type *type = &walk->types[found->type];
        uint64_t address = shm_read(walk->range, slot, 8);
        int error = 0;

        if (address == 0 || elements == 0)
                return 0;
        if (!shm_is_inside(walk->range, address, type, elements)) {
                found->address = slot;
                walk->stray = address;
                return 1;
        }
        if (type->members && !shm_walk_knows(walk, address, elements, found->type))
                error = shm_walk_table(walk, address, elements, found);
        return error;
}

/* Look at each element of one member of an object; returns as shm_walk_follow. */
static int shm_walk_member(struct shm_walk *walk, const struct shm_member *member, struct shm_object *found)
{
        uint64_t owner = walk->objects[found->parent].address;
        uint64_t elements = member->length;
        uint64_t i;
        int outcome = 0;

        if (member->length_size)
                elements = shm_read(walk->range, owner + member->length, member->length_size);
        found->type = member->type;
        for (i = 0; i < member->count && !outcome; i++) {
                found->index = i;
                found->address = owner + member->offset + i * member->stride;
                outcome = member->is_pointer ? shm_walk_follow(walk, found->address, elements, found)
                                             : shm_walk_add(walk, found);
        }
        return outcome;
}

static int shm_walk_object(struct shm_walk *walk, struct shm_object *found)
{
        const struct shm_type *type = &walk->types[walk->objects[found->parent].type];
        uint32_t i;
        int outcome = 0;

        for (i = 0; i < type->members && !outcome; i++) {
                found->member = type->first + i;
                outcome = shm_walk_member(walk, &walk->members[found->member], found);
        }
        return outcome;
}

/* Prefetch an object that is visited soon: objects are scattered, and each would cost a cache miss. */
static void shm_walk_fetch(const struct shm_walk *walk, uint64_t ahead)
{
        if (ahead < walk->count)
                __builtin_prefetch((const char *)(uintptr_t)walk->range->mapped +
                                   (walk->objects[ahead].address - walk->range->base));
}

/* More objects than fit side by side must overlap: no program builds that, and it would take unbounded memory. */
static uint64_t shm_walk_limit(const struct shm_range *range, const struct shm_type *types, uint32_t count)
{
        uint64_t limit = 0;
        uint32_t i;

        for (i = 0; i < count; i++)
                if (types[i].members)
                        limit += range->size / types[i].size;
        return limit;
}

static void shm_walk_free(struct shm_walk *walk, uint32_t type_count)
{
        uint32_t i;

        for (i = 0; walk->seen != NULL && i < type_count; i++)
                free(walk->seen[i]);
        free(walk->seen);
        free(walk->objects);
}

/*
 * Check all pointers that can be reached from consecutive roots of type 0. Returns the number of visited objects;
 * or -EFAULT with the first bad pointer in *stray_out and its path; or -EINVAL: the root itself is outside; or
 * -ELOOP: objects of one type overlap; or -E2BIG: far too many pointers to the same objects; or -ENOMEM. Needs 32
 * to 64 bytes for each object during the walk, and a bit for each possible address of an object.
 */
int64_t shm_check_pointers(const struct shm_range *range, const struct shm_type *types, uint32_t type_count,
                           const struct shm_member *members, uint64_t root, uint64_t roots,
                           struct shm_stray *stray_out, struct shm_step *path_out, uint64_t path_max)
{
        struct shm_walk walk = {0};
        struct shm_object found = {0};
        int64_t outcome = -ENOMEM;

        if (!shm_is_inside(range, root, &types[0], roots))
                return -EINVAL;
        walk.range = range;
        walk.types = types;
        walk.members = members;
        walk.limit = shm_walk_limit(range, types, type_count) + roots;
        walk.steps = walk.limit > UINT64_MAX / SHM_WALK_STEPS ? UINT64_MAX : walk.limit * SHM_WALK_STEPS;
        walk.seen = (uint8_t **)calloc(type_count, sizeof(*walk.seen));
        walk.roots = roots;
        if (walk.seen != NULL)
                outcome = shm_walk_table(&walk, root, roots, &found);
        for (found.parent = 0; found.parent < walk.count && !outcome; found.parent++) {
                shm_walk_fetch(&walk, found.parent + 8);
                outcome = shm_walk_object(&walk, &found);
        }
        if (outcome == 1) {
                found.parent--; /* the loop has advanced by one */
                stray_out->slot = found.address;
                stray_out->address = walk.stray;
                shm_walk_path(&walk, &found, stray_out, path_out, path_max);
                outcome = -EFAULT;
        }
        shm_walk_free(&walk, type_count);
        return outcome ? outcome : (int64_t)walk.count;
}

#endif /* SHM_POINTERS_H */

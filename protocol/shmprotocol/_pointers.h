/* SPDX-License-Identifier: Apache-2.0 */
/*
 * _pointers.h - walks all that can be reached from a root by the types of its pointers, and finds the first
 * pointer that leads out of the region. What is walked may be hostile, and may change meanwhile: every pointer
 * is read once and checked before it is followed.
 */
#ifndef SHM_POINTERS_H
#define SHM_POINTERS_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* cffi: begin */

/* A place in a type that holds pointers (an array of them: count, stride), or parts that have some themselves. */
struct shm_member {
        uint64_t offset;
        uint64_t count;
        uint64_t stride;
        uint32_t type; /* of what is pointed to, or of the part */
        uint32_t is_pointer;
};

struct shm_type {
        uint64_t size;
        uint64_t align;
        uint32_t first; /* of its members, which follow each other */
        uint32_t members;
};

/* One step of a path from the root: which member, and which of its elements. */
struct shm_step {
        uint64_t index;
        uint32_t member;
        uint32_t reserved;
};

/* The first bad pointer: where it is, what it holds, and how many steps lead to it. */
struct shm_stray {
        uint64_t slot;
        uint64_t address;
        uint64_t depth;
};

/* The part of the address space that pointers may lead to, and where it is mapped. */
struct shm_range {
        uint64_t base;
        uint64_t size;
        uint64_t mapped;
};

int64_t shm_check_pointers(const struct shm_range *range, const struct shm_type *types, uint32_t type_count,
                           const struct shm_member *members, uint64_t root, struct shm_stray *stray_out,
                           struct shm_step *path_out, uint64_t path_max);

/* cffi: end */

/* An object that was reached. The objects are the queue of the walk, too: it is breadth first. */
struct shm_object {
        uint64_t address;
        uint64_t parent;
        uint64_t index;
        uint32_t type;
        uint32_t member;
};

struct shm_walk {
        struct shm_object *objects;
        uint64_t count;
        uint64_t room;
        uint64_t *table; /* open addressing; 0 is free, else the number of an object and 1 */
        uint64_t mask;
        uint64_t limit; /* of objects that do not overlap others of their type */
        uint64_t stray; /* the bad pointer, as it was read */
};

static uint64_t shm_walk_place(const struct shm_walk *walk, uint64_t address, uint32_t type)
{
        uint64_t hash = (address ^ ((uint64_t)type << 48)) * 0x9E3779B97F4A7C15u; /* Fibonacci hashing */
        uint64_t place = (hash >> 20) & walk->mask;

        while (walk->table[place]) {
                const struct shm_object *other = &walk->objects[walk->table[place] - 1];

                if (other->address == address && other->type == type)
                        break;
                place = (place + 1) & walk->mask;
        }
        return place;
}

/* Double the room for objects, and the table with it, which stays at most half full. */
static int shm_walk_grow(struct shm_walk *walk)
{
        uint64_t room = walk->room ? walk->room * 2 : 1024;
        struct shm_object *objects =
                (struct shm_object *)realloc(walk->objects, (size_t)room * sizeof(*objects));
        uint64_t *table;
        uint64_t i;

        if (objects == NULL)
                return -ENOMEM;
        walk->objects = objects;
        table = (uint64_t *)calloc((size_t)room * 2, sizeof(*table));
        if (table == NULL)
                return -ENOMEM;
        free(walk->table);
        walk->table = table;
        walk->room = room;
        walk->mask = room * 2 - 1;
        for (i = 0; i < walk->count; i++)
                table[shm_walk_place(walk, objects[i].address, objects[i].type)] = i + 1;
        return 0;
}

static int shm_walk_add(struct shm_walk *walk, const struct shm_object *object)
{
        uint64_t place;
        int error = walk->count == walk->room ? shm_walk_grow(walk) : 0;

        if (error)
                return error;
        place = shm_walk_place(walk, object->address, object->type);
        if (walk->table[place])
                return 0;
        if (walk->count == walk->limit)
                return -ELOOP;
        walk->objects[walk->count] = *object;
        walk->table[place] = ++walk->count;
        return 0;
}

/* Write the steps to a slot: the first path_max / 2 of them, and as many last ones. */
static void shm_walk_path(const struct shm_walk *walk, const struct shm_object *slot, uint64_t *depth_out,
                          struct shm_step *path, uint64_t path_max)
{
        const struct shm_object *at;
        uint64_t depth = 1;
        uint64_t half = path_max / 2;
        uint64_t step;

        for (at = slot; at->parent; at = &walk->objects[at->parent])
                depth++;
        *depth_out = depth;
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

static int shm_is_inside(const struct shm_range *range, uint64_t address, const struct shm_type *type)
{
        return address >= range->base && type->size <= range->size &&
               address - range->base <= range->size - type->size && address % type->align == 0;
}

/* Look at each element of one member of an object. Returns 0, -errno, or 1 with *found the bad pointer's slot. */
static int shm_walk_member(struct shm_walk *walk, const struct shm_range *range, const struct shm_type *types,
                           const struct shm_member *member, struct shm_object *found)
{
        const struct shm_type *type = &types[member->type];
        uint64_t owner = walk->objects[found->parent].address;
        int error = 0;

        found->type = member->type;
        for (found->index = 0; found->index < member->count && !error; found->index++) {
                uint64_t slot = owner + member->offset + found->index * member->stride;
                uint64_t address = slot;

                if (member->is_pointer) {
                        address = 0; /* memcpy: a packed structure has pointers at any address */
                        memcpy(&address, (const char *)(uintptr_t)range->mapped + (slot - range->base), 8);
                        if (address == 0)
                                continue;
                        if (!shm_is_inside(range, address, type)) {
                                found->address = slot;
                                walk->stray = address;
                                return 1;
                        }
                }
                found->address = address;
                if (type->members)
                        error = shm_walk_add(walk, found);
        }
        return error;
}

static int shm_walk_object(struct shm_walk *walk, const struct shm_range *range, const struct shm_type *types,
                           const struct shm_member *members, struct shm_object *found)
{
        const struct shm_type *type = &types[walk->objects[found->parent].type];
        uint32_t i;
        int outcome = 0;

        for (i = 0; i < type->members && !outcome; i++) {
                found->member = type->first + i;
                outcome = shm_walk_member(walk, range, types, &members[found->member], found);
        }
        return outcome;
}

/* More objects than fit side by side overlap: no program has built that, and it would take memory without end. */
static uint64_t shm_walk_limit(const struct shm_range *range, const struct shm_type *types, uint32_t count)
{
        uint64_t limit = 0;
        uint32_t i;

        for (i = 0; i < count; i++)
                if (types[i].members)
                        limit += range->size / types[i].size;
        return limit;
}

/*
 * Check all pointers that can be reached from a root of type 0, which the caller has found to lie inside.
 * Returns how many objects were looked at; or -EFAULT with the first bad pointer in *stray_out and its path; or
 * -ELOOP: objects of one type overlap; or -ENOMEM. Takes 48 to 96 bytes for each object meanwhile.
 */
int64_t shm_check_pointers(const struct shm_range *range, const struct shm_type *types, uint32_t type_count,
                           const struct shm_member *members, uint64_t root, struct shm_stray *stray_out,
                           struct shm_step *path_out, uint64_t path_max)
{
        struct shm_walk walk = {0};
        struct shm_object found = {0};
        int64_t outcome;
        uint64_t count;

        walk.limit = shm_walk_limit(range, types, type_count);
        found.address = root;
        outcome = shm_walk_add(&walk, &found);
        for (found.parent = 0; found.parent < walk.count && !outcome; found.parent++) {
                outcome = shm_walk_object(&walk, range, types, members, &found);
                if (outcome == 1) {
                        stray_out->slot = found.address;
                        stray_out->address = walk.stray;
                        shm_walk_path(&walk, &found, &stray_out->depth, path_out, path_max);
                        outcome = -EFAULT;
                }
        }
        count = walk.count;
        free(walk.objects);
        free(walk.table);
        return outcome ? outcome : (int64_t)count;
}

#endif /* SHM_POINTERS_H */

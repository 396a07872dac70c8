/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loose.c - ranges of a reservation that were given back lately, and that the kernel has not merged with it again.
 *
 * A mapping in the middle of a reservation has the kernel part it in three, and giving the range back has it join them.
 * But most ranges are mapped again soon, at the same place. Left apart, one is replaced in one piece: mmap takes 2.0 us
 * in place of 3.9, and its end 1.7 in place of 2.6 (Linux 6.18, 2026-11, 16 ranges in turn). They stay apart
 * because they lack MAP_NORESERVE, which means nothing for memory that nobody can write (accountable_mapping() in the
 * kernel's mm/vma.c).
 *
 * Each costs a mapping or two of vm.max_map_count, so they are few: one for each slot of a table, by the address. A
 * range has a slot only if it lies within one step of the addresses that hosts give out, from its start on. No range in
 * the table has a byte in common with a mapping of ours. No Python in here; the caller is inside of the gate.
 */
#ifndef SHM_LOOSE_H
#define SHM_LOOSE_H

#include <stdint.h>

#define SHM_LOOSE_STEP 0x200000 /* bytes: hosts give regions addresses at multiples of it */
#define SHM_LOOSE_SLOTS 256     /* at most 512 mappings, of the 65,530 that a process may have by default */

struct shm_loose {
        uint64_t address;
        uint64_t capacity; /* 0: the slot is empty */
};

static struct shm_loose *shm_loose_slot(struct shm_loose *table, uint64_t address)
{
        return &table[address / SHM_LOOSE_STEP % SHM_LOOSE_SLOTS];
}

/* Merge a range with the reservation again. If that fails, it stays a mapping of its own, as good as before. */
static void shm_loose_merge(struct shm_loose *slot)
{
        if (slot->capacity)
                (void)shm_reserve_at(slot->address, slot->capacity, MAP_FIXED);
        slot->capacity = 0;
}

/*
 * Forget what was loose in a range of the reservation, which is about to be mapped. A range that does not lie in it with
 * the same bounds is merged first: the rest of it would be apart for ever.
 */
static void shm_loose_claim(struct shm_loose *table, uint64_t address, uint64_t capacity)
{
        uint64_t start = address - address % SHM_LOOSE_STEP, count = 0;

        for (; start < address + capacity && count < SHM_LOOSE_SLOTS; start += SHM_LOOSE_STEP, count++) {
                struct shm_loose *slot = shm_loose_slot(table, start);

                if (slot->address == address && slot->capacity == capacity)
                        slot->capacity = 0;
                else if (slot->address < address + capacity && address < slot->address + slot->capacity)
                        shm_loose_merge(slot);
        }
}

/* Map an object for reading in the reservation, as shm_map() does. -1: nothing is mapped. */
static int shm_loose_map(struct shm_loose *table, int fd, uint64_t address, uint64_t capacity)
{
        shm_loose_claim(table, address, capacity);
        if (shm_map(fd, address, capacity, SHM_MAP_RESERVED) >= 0)
                return 0;
        (void)shm_unmap(address, capacity, SHM_MAP_RESERVED); /* it is not loose any more */
        return -1;
}

/* Give a range of the reservation back, as shm_unmap() does; it may be loose then. */
static int shm_loose_unmap(struct shm_loose *table, uint64_t address, uint64_t capacity)
{
        struct shm_loose *slot = shm_loose_slot(table, address);
        void *start = (void *)(uintptr_t)address;

        if (address % SHM_LOOSE_STEP || capacity > SHM_LOOSE_STEP)
                return shm_unmap(address, capacity, SHM_MAP_RESERVED);
        shm_loose_merge(slot);
        if (mmap(start, (size_t)capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
                return -errno;
        slot->address = address;
        slot->capacity = capacity;
        return 0;
}

#endif /* SHM_LOOSE_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_heap.h - where in an arena its owner puts values: private to the owner, and no reader depends on it.
 *
 * The heap is made of pages. A run of pages is free, or a block, or a slab: a run that is cut into blocks of one size.
 * The state of each page lies in private memory: a reader sees none of it, and a stray write into the arena cannot
 * spoil it. Offsets are those of the arena.
 */
#ifndef SHM_ARENA_HEAP_H
#define SHM_ARENA_HEAP_H

#include "shm_arena_layout.h"

#define SHM_HEAP_PAGE 4096u
#define SHM_HEAP_SMALL 32768u /* bytes: from here on a block is a run of pages, at most an eighth of it wasted */
#define SHM_HEAP_CLASSES 57
#define SHM_HEAP_BINS 128 /* of free runs: 4 to each power of two of pages */
#define SHM_HEAP_NONE 0xffffffffu

enum { SHM_PAGE_FREE, SHM_PAGE_BLOCK, SHM_PAGE_SLAB, SHM_PAGE_INSIDE };

/* The state of a page. `length` counts for the first page of a run; and for its last, if it is free. */
struct shm_heap_page {
        uint32_t length; /* pages of the run; inside of a slab: how far back its first page is */
        uint32_t next;   /* in a bin, or in the list of slabs that have room */
        uint32_t before;
        uint16_t free; /* blocks of a slab */
        uint8_t kind;
        uint8_t size_class;
        uint64_t taken;   /* a bit for each unit of a slab's page, or the block whose number is that of the bit */
        uint64_t retired; /* likewise: its value was replaced, and may be held; bit 0 for a run */
        uint64_t held;    /* while ledgers are looked at */
};

struct shm_heap {
        struct shm_heap_page *pages;
        uint32_t limit; /* pages that there is room for */
        uint32_t count; /* pages that the object has */
        uint64_t start; /* offset of the first */
        uint64_t used;  /* bytes in blocks */
        uint64_t bits[2]; /* which bins have runs */
        uint32_t bins[SHM_HEAP_BINS];
        uint32_t slabs[SHM_HEAP_CLASSES]; /* those with room */
};

/* The class of a size up to SHM_HEAP_SMALL: by 64 bytes up to 1 KiB, then 8 to each power of two. */
static inline uint32_t shm_heap_class(uint64_t size)
{
        uint32_t shift;

        if (size <= 1024)
                return size == 0 ? 0 : (uint32_t)((size - 1) / 64);
        shift = 63 - (uint32_t)__builtin_clzll(size - 1); /* 10 to 14 */
        return 16 + (shift - 10) * 8 + (uint32_t)((size - 1 - ((uint64_t)1 << shift)) >> (shift - 3));
}

static inline uint64_t shm_heap_class_size(uint32_t size_class)
{
        uint32_t shift, step;

        if (size_class < 16)
                return ((uint64_t)size_class + 1) * 64;
        shift = 10 + (size_class - 16) / 8;
        step = (size_class - 16) % 8 + 1;
        return ((uint64_t)1 << shift) + ((uint64_t)step << (shift - 3));
}

static inline uint32_t shm_heap_slab_blocks(uint32_t size_class, uint32_t pages)
{
        return (uint32_t)(pages * SHM_HEAP_PAGE / shm_heap_class_size(size_class));
}

/* Pages of a new slab: 16, or 64 for the larger classes; fewer in a small heap, but so many that 8 blocks fit. */
static inline uint32_t shm_heap_slab_pages(uint32_t size_class, uint32_t heap_pages)
{
        uint32_t pages = shm_heap_class_size(size_class) <= 8192 ? 16 : 64;

        while (pages > heap_pages / 64 && shm_heap_slab_blocks(size_class, pages / 2) >= 8)
                pages /= 2;
        return pages;
}

/* The bin whose runs have `pages` pages or more, up to a quarter more. */
static inline uint32_t shm_heap_bin(uint32_t pages)
{
        uint32_t shift;

        if (pages < 8)
                return pages;
        shift = 31 - (uint32_t)__builtin_clz(pages); /* 3 to 31 */
        return (shift - 1) * 4 + ((pages >> (shift - 2)) & 3);
}

static inline void shm_heap_unlink(struct shm_heap *heap, uint32_t *list, uint32_t page)
{
        struct shm_heap_page *info = &heap->pages[page];

        if (info->before == SHM_HEAP_NONE)
                *list = info->next;
        else
                heap->pages[info->before].next = info->next;
        if (info->next != SHM_HEAP_NONE)
                heap->pages[info->next].before = info->before;
}

static inline void shm_heap_link(struct shm_heap *heap, uint32_t *list, uint32_t page)
{
        heap->pages[page].before = SHM_HEAP_NONE;
        heap->pages[page].next = *list;
        if (*list != SHM_HEAP_NONE)
                heap->pages[*list].before = page;
        *list = page;
}

static inline void shm_heap_bin_out(struct shm_heap *heap, uint32_t page)
{
        uint32_t bin = shm_heap_bin(heap->pages[page].length);

        shm_heap_unlink(heap, &heap->bins[bin], page);
        if (heap->bins[bin] == SHM_HEAP_NONE)
                heap->bits[bin / 64] &= ~((uint64_t)1 << bin % 64);
}

/* Make a run of pages free, without looking at its neighbours. */
static inline void shm_heap_bin_in(struct shm_heap *heap, uint32_t page, uint32_t length)
{
        uint32_t bin = shm_heap_bin(length);

        heap->pages[page].kind = heap->pages[page + length - 1].kind = SHM_PAGE_FREE;
        heap->pages[page].length = heap->pages[page + length - 1].length = length;
        shm_heap_link(heap, &heap->bins[bin], page);
        heap->bits[bin / 64] |= (uint64_t)1 << bin % 64;
}

/* Make a run of pages free, as one with its neighbours. */
static inline void shm_heap_free_run(struct shm_heap *heap, uint32_t page, uint32_t length)
{
        if (page + length < heap->count && heap->pages[page + length].kind == SHM_PAGE_FREE) {
                shm_heap_bin_out(heap, page + length);
                length += heap->pages[page + length].length;
        }
        if (page > 0 && heap->pages[page - 1].kind == SHM_PAGE_FREE) {
                page -= heap->pages[page - 1].length;
                shm_heap_bin_out(heap, page);
                length += heap->pages[page].length;
        }
        shm_heap_bin_in(heap, page, length);
}

/* The first run in the bins from `bin` on; SHM_HEAP_NONE: there is none. */
static inline uint32_t shm_heap_first_run(const struct shm_heap *heap, uint32_t bin)
{
        uint64_t bits = bin < 64 ? heap->bits[0] >> bin : 0;

        if (bits != 0)
                return heap->bins[bin + (uint32_t)__builtin_ctzll(bits)];
        bits = bin < 64 ? heap->bits[1] : bin < 128 ? heap->bits[1] >> (bin - 64) : 0;
        if (bits == 0)
                return SHM_HEAP_NONE;
        return heap->bins[(bin < 64 ? 64 : bin) + (uint32_t)__builtin_ctzll(bits)];
}

/* Bytes of the longest free run. Not quick: for people. */
static inline uint64_t shm_heap_largest(const struct shm_heap *heap)
{
        uint32_t run = SHM_HEAP_NONE, bin = SHM_HEAP_BINS, pages = 0;

        while (run == SHM_HEAP_NONE && bin-- > 0)
                run = heap->bins[bin];
        for (; run != SHM_HEAP_NONE; run = heap->pages[run].next)
                if (heap->pages[run].length > pages)
                        pages = heap->pages[run].length;
        return (uint64_t)pages * SHM_HEAP_PAGE;
}

/* The first of at most `tries` runs of a bin that has so many pages, or SHM_HEAP_NONE. */
static inline uint32_t shm_heap_fitting_run(const struct shm_heap *heap, uint32_t bin, uint32_t pages, uint32_t tries)
{
        uint32_t run = heap->bins[bin];

        while (run != SHM_HEAP_NONE && heap->pages[run].length < pages)
                run = tries-- == 0 ? SHM_HEAP_NONE : heap->pages[run].next;
        return run;
}

/* Take a run of so many pages; SHM_HEAP_NONE: there is none. */
static inline uint32_t shm_heap_take_run(struct shm_heap *heap, uint32_t pages)
{
        uint32_t bin = shm_heap_bin(pages), page, length;

        /* Of its own bin only some are long enough, of the next one all. 8: a good fit is likely among the newest. */
        page = shm_heap_fitting_run(heap, bin, pages, 8);
        if (page == SHM_HEAP_NONE)
                page = shm_heap_first_run(heap, bin + 1);
        if (page == SHM_HEAP_NONE)
                page = shm_heap_fitting_run(heap, bin, pages, UINT32_MAX);
        if (page == SHM_HEAP_NONE)
                return page;
        shm_heap_bin_out(heap, page);
        length = heap->pages[page].length;
        if (length > pages)
                shm_heap_bin_in(heap, page + pages, length - pages);
        /* The last page is looked at by what is freed behind it. */
        heap->pages[page + pages - 1].kind = SHM_PAGE_INSIDE;
        heap->pages[page + pages - 1].length = pages - 1;
        heap->pages[page].kind = SHM_PAGE_BLOCK;
        heap->pages[page].length = pages;
        heap->pages[page].retired = heap->pages[page].held = 0;
        return page;
}

/* Cut a run into blocks of a class; SHM_HEAP_NONE: there is no run. */
static inline uint32_t shm_heap_new_slab(struct shm_heap *heap, uint32_t size_class)
{
        uint32_t pages = shm_heap_slab_pages(size_class, heap->count), first = shm_heap_take_run(heap, pages), i;

        if (first == SHM_HEAP_NONE)
                return first;
        for (i = 0; i < pages; i++) {
                struct shm_heap_page *info = &heap->pages[first + i];

                info->kind = i == 0 ? SHM_PAGE_SLAB : SHM_PAGE_INSIDE;
                if (i > 0)
                        info->length = i;
                info->taken = info->retired = info->held = 0;
        }
        heap->pages[first].size_class = (uint8_t)size_class;
        heap->pages[first].free = (uint16_t)shm_heap_slab_blocks(size_class, pages);
        shm_heap_link(heap, &heap->slabs[size_class], first);
        return first;
}

/* Take a block of a class from its slabs; 0: there is no room. */
static inline uint64_t shm_heap_take_small(struct shm_heap *heap, uint32_t size_class)
{
        uint32_t first = heap->slabs[size_class], word = 0, block;
        struct shm_heap_page *info;

        if (first == SHM_HEAP_NONE)
                first = shm_heap_new_slab(heap, size_class);
        if (first == SHM_HEAP_NONE)
                return 0;
        info = &heap->pages[first];
        while (info[word].taken == UINT64_MAX)
                word++;
        block = word * 64 + (uint32_t)__builtin_ctzll(~info[word].taken);
        info[word].taken |= (uint64_t)1 << block % 64;
        if (--info->free == 0)
                shm_heap_unlink(heap, &heap->slabs[size_class], first);
        heap->used += shm_heap_class_size(size_class);
        return heap->start + (uint64_t)first * SHM_HEAP_PAGE + block * shm_heap_class_size(size_class);
}

/* Free the slabs in which nothing is; see shm_heap_give(). */
static inline void shm_heap_trim(struct shm_heap *heap)
{
        uint32_t i, slab, next;

        for (i = 0; i < SHM_HEAP_CLASSES; i++)
                for (slab = heap->slabs[i]; slab != SHM_HEAP_NONE; slab = next) {
                        next = heap->pages[slab].next;
                        if (heap->pages[slab].free != shm_heap_slab_blocks(i, heap->pages[slab].length))
                                continue;
                        shm_heap_unlink(heap, &heap->slabs[i], slab);
                        shm_heap_free_run(heap, slab, heap->pages[slab].length);
                }
}

/* Take a block of at least `size` bytes; returns its offset, or 0: there is no room. */
static inline uint64_t shm_heap_take(struct shm_heap *heap, uint64_t size)
{
        uint64_t pages = (size + SHM_HEAP_PAGE - 1) / SHM_HEAP_PAGE, block = 0;
        uint32_t page;

        if (size <= SHM_HEAP_SMALL)
                block = shm_heap_take_small(heap, shm_heap_class(size));
        if (block != 0 || size > (uint64_t)heap->count * SHM_HEAP_PAGE)
                return block;
        page = shm_heap_take_run(heap, pages == 0 ? 1 : (uint32_t)pages);
        if (page == SHM_HEAP_NONE) {
                shm_heap_trim(heap);
                page = shm_heap_take_run(heap, pages == 0 ? 1 : (uint32_t)pages);
        }
        if (page == SHM_HEAP_NONE)
                return 0;
        heap->used += (uint64_t)heap->pages[page].length * SHM_HEAP_PAGE;
        return heap->start + (uint64_t)page * SHM_HEAP_PAGE;
}

/* A block that was taken, as its run or slab knows it. */
struct shm_heap_place {
        uint32_t first; /* page of the run */
        uint32_t bit;   /* block of the slab; 0 for a run */
};

static inline struct shm_heap_place shm_heap_place_of(const struct shm_heap *heap, uint64_t block)
{
        uint64_t at = block - heap->start;
        struct shm_heap_place place = {(uint32_t)(at / SHM_HEAP_PAGE), 0};

        if (heap->pages[place.first].kind == SHM_PAGE_INSIDE)
                place.first -= heap->pages[place.first].length;
        if (heap->pages[place.first].kind == SHM_PAGE_SLAB)
                place.bit = (uint32_t)((at - (uint64_t)place.first * SHM_HEAP_PAGE) /
                                       shm_heap_class_size(heap->pages[place.first].size_class));
        return place;
}

/* The bytes of a block that was taken. */
static inline uint64_t shm_heap_block_size(const struct shm_heap *heap, struct shm_heap_place place)
{
        const struct shm_heap_page *info = &heap->pages[place.first];

        return info->kind == SHM_PAGE_SLAB ? shm_heap_class_size(info->size_class)
                                           : (uint64_t)info->length * SHM_HEAP_PAGE;
}

/* Give a block back. */
static inline void shm_heap_give(struct shm_heap *heap, uint64_t block)
{
        struct shm_heap_place place = shm_heap_place_of(heap, block);
        struct shm_heap_page *info = &heap->pages[place.first];

        heap->used -= shm_heap_block_size(heap, place);
        if (info->kind == SHM_PAGE_BLOCK) {
                shm_heap_free_run(heap, place.first, info->length);
                return;
        }
        info[place.bit / 64].taken &= ~((uint64_t)1 << place.bit % 64);
        if (info->free++ == 0)
                shm_heap_link(heap, &heap->slabs[info->size_class], place.first);
        else if (info->free == shm_heap_slab_blocks(info->size_class, info->length)) {
                uint32_t size_class = info->size_class;

                /* The last slab of a class stays: a value that is replaced in turn would make one each time. */
                if (heap->slabs[size_class] == place.first && info->next == SHM_HEAP_NONE)
                        return;
                shm_heap_unlink(heap, &heap->slabs[size_class], place.first);
                shm_heap_free_run(heap, place.first, info->length);
        }
}

/* Let a block have only the pages for its first `size` bytes. A block of a slab stays as it is. */
static inline void shm_heap_shrink(struct shm_heap *heap, uint64_t block, uint64_t size)
{
        uint64_t wanted = size == 0 ? 1 : (size + SHM_HEAP_PAGE - 1) / SHM_HEAP_PAGE;
        uint32_t first = shm_heap_place_of(heap, block).first, before = heap->pages[first].length, pages;

        if (heap->pages[first].kind != SHM_PAGE_BLOCK || wanted >= before)
                return;
        pages = (uint32_t)wanted;
        if (pages > 1) { /* its last page, as shm_heap_take_run() leaves it */
                heap->pages[first + pages - 1].kind = SHM_PAGE_INSIDE;
                heap->pages[first + pages - 1].length = pages - 1;
        }
        heap->pages[first].length = pages;
        heap->used -= (uint64_t)(before - pages) * SHM_HEAP_PAGE;
        shm_heap_free_run(heap, first + pages, before - pages);
}

/* Let the heap have so many pages in all: those behind the old end are free. */
static inline void shm_heap_extend(struct shm_heap *heap, uint32_t count)
{
        uint32_t before = heap->count;

        if (count <= before)
                return;
        heap->count = count;
        shm_heap_free_run(heap, before, count - before);
}

/* Make an empty heap. `pages` is zeroed memory for `limit` of them. */
static inline void shm_heap_make(struct shm_heap *heap, struct shm_heap_page *pages, uint32_t limit, uint64_t start)
{
        memset(heap, 0, sizeof(*heap));
        memset(heap->bins, 0xff, sizeof(heap->bins));
        memset(heap->slabs, 0xff, sizeof(heap->slabs));
        heap->pages = pages;
        heap->limit = limit;
        heap->start = start;
}

#endif /* SHM_ARENA_HEAP_H */

/* heap.c SEED ROUNDS - take, shrink and give blocks at random, against a model that knows who has each unit. */
#include "world.h"

#define PAGES 2048u
#define BLOCKS 4096u
#define START 0x7000u
#define UNITS (PAGES * SHM_HEAP_PAGE / SHM_ARENA_UNIT)

static struct shm_heap heap;
static struct shm_heap_page pages[PAGES];
static uint16_t owners[UNITS]; /* 1 + the number of the block that has it */
static uint64_t places[BLOCKS], rooms[BLOCKS];
static uint32_t count;
static uint64_t state;

/* Sizes from 0 to more than the heap, most of them small. */
static uint64_t random_size(void)
{
        uint64_t kind = world_random(&state) % 100, random = world_random(&state);

        if (kind < 50)
                return random % 2000;
        if (kind < 80)
                return random % 40000;
        if (kind < 98)
                return random % 300000;
        return kind == 98 ? random % (2 * PAGES * SHM_HEAP_PAGE) : random;
}

static void mark(uint32_t block, uint16_t before, uint16_t after)
{
        uint64_t first = (places[block] - START) / SHM_ARENA_UNIT;
        uint64_t units = (rooms[block] + SHM_ARENA_UNIT - 1) / SHM_ARENA_UNIT, i;

        for (i = first; i < first + units; i++) {
                CHECK(i < (uint64_t)heap.count * SHM_HEAP_PAGE / SHM_ARENA_UNIT && owners[i] == before);
                owners[i] = after;
        }
}

static void take(void)
{
        uint64_t size = random_size(), used = heap.used, place = shm_heap_take(&heap, size), room;

        if (place == 0) {
                CHECK(heap.used == used);
                return;
        }
        room = shm_heap_block_size(&heap, shm_heap_place_of(&heap, place));
        CHECK(place % SHM_ARENA_UNIT == 0 && room >= size && heap.used == used + room);
        CHECK(size > SHM_HEAP_SMALL || room <= SHM_HEAP_PAGE || room <= size + size / 8 + SHM_HEAP_PAGE);
        places[count] = place;
        rooms[count] = room;
        mark(count, 0, (uint16_t)(count + 1));
        count++;
}

static void give(void)
{
        uint32_t block = (uint32_t)(world_random(&state) % count);

        mark(block, (uint16_t)(block + 1), 0);
        shm_heap_give(&heap, places[block]);
        count--;
        if (block == count)
                return;
        mark(count, (uint16_t)(count + 1), 0);
        places[block] = places[count];
        rooms[block] = rooms[count];
        mark(block, 0, (uint16_t)(block + 1));
}

static void shrink(void)
{
        uint32_t block = (uint32_t)(world_random(&state) % count);
        uint64_t size = world_random(&state) % (rooms[block] + 2 * SHM_HEAP_PAGE), used = heap.used, room;
        struct shm_heap_place place = shm_heap_place_of(&heap, places[block]);

        shm_heap_shrink(&heap, places[block], size);
        room = shm_heap_block_size(&heap, place);
        CHECK(room <= rooms[block] && heap.used == used - rooms[block] + room);
        if (heap.pages[place.first].kind == SHM_PAGE_BLOCK && size <= rooms[block])
                CHECK(room >= size && (room == SHM_HEAP_PAGE || room < size + SHM_HEAP_PAGE));
        else
                CHECK(room == rooms[block]);
        mark(block, (uint16_t)(block + 1), 0);
        rooms[block] = room;
        mark(block, 0, (uint16_t)(block + 1));
}

/* Every class: what it has room for, and that no size is in a smaller one. */
static void check_classes(void)
{
        uint64_t size;

        for (size = 0; size <= SHM_HEAP_SMALL; size++) {
                uint32_t of = shm_heap_class(size);

                CHECK(of < SHM_HEAP_CLASSES && shm_heap_class_size(of) >= size && shm_heap_class_size(of) % 64 == 0);
                CHECK(of == 0 || shm_heap_class_size(of - 1) < size);
                CHECK(shm_heap_slab_blocks(of, shm_heap_slab_pages(of, 1)) >= 8);
        }
        for (size = 1; size < (1u << 31); size += 1 + size / 64)
                CHECK(shm_heap_bin((uint32_t)size) < SHM_HEAP_BINS &&
                      shm_heap_bin((uint32_t)size) <= shm_heap_bin((uint32_t)size + 1));
}

int main(int argc, char **argv)
{
        uint64_t rounds = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000, i, target;

        state = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
        check_classes();
        shm_heap_make(&heap, pages, PAGES, START);
        shm_heap_extend(&heap, PAGES / 2);
        for (i = 0; i < rounds; i++) {
                /* Fill and drain in turn, so that it is seen full, empty, and full of holes. */
                target = i / 500 % 4 == 0 ? 20 : i / 500 % 4 == 2 ? BLOCKS : 200;
                if (i == rounds / 2)
                        shm_heap_extend(&heap, PAGES);
                if (count > 0 && world_random(&state) % 8 == 0)
                        shrink();
                if (count == 0 || (count < BLOCKS - 1 && world_random(&state) % (count + target) < target))
                        take();
                else
                        give();
        }
        while (count > 0)
                give();
        shm_heap_trim(&heap);
        CHECK(heap.used == 0 && pages[0].kind == SHM_PAGE_FREE && pages[0].length == PAGES);
        CHECK(shm_heap_take(&heap, (uint64_t)PAGES * SHM_HEAP_PAGE) == START);
        CHECK(shm_heap_take(&heap, 1) == 0);
        printf("ok\n");
        return 0;
}

/*
 * producer.c - publish 60 images a second in an arena, for any number of readers: no library, no system call but
 * sleeping.
 *
 *         cc -O2 -I$(python -m shmprotocol --include) producer.c -o producer
 *         shmclient exec --arena camera=64MiB -- ./producer camera
 *
 *     producer ARENA            publish until it is killed
 *     producer ARENA COUNT      publish so many, and end
 *
 * In Python, shm.get("camera/front") is then a NumPy array, and each is whole. Exit codes: 0, 2 wrong usage, 3 the
 * arena cannot be owned, 4 it is full. A host that is killed does not end it: the next one has the arena again.
 */
#include "shm_arena.h"

#include <inttypes.h>
#include <stdio.h>

#define WIDTH 640
#define HEIGHT 480

/* A msgpack map that says what the bytes are: an array of 480 x 640 bytes (protocol/README.md, section 15). */
static const char description[] = "\x86\xa6"
                                  "format\xa7ndarray\xa5"
                                  "dtype\xa3|u1\xa5"
                                  "shape\x92\xcd\x01\xe0\xcd\x02\x80\xa5"
                                  "order\xa1"
                                  "C\xa6"
                                  "offset\x00\xa4"
                                  "size\xce\x00\x04\xb0\x00";

static void render(uint8_t *pixels, uint64_t frame)
{
        for (uint64_t y = 0; y < HEIGHT; y++)
                for (uint64_t x = 0; x < WIDTH; x++)
                        pixels[y * WIDTH + x] = (uint8_t)(x + y + frame);
}

/* Fill a block in place, and publish it: nobody sees half of it. */
static int publish(struct shm_arena_owner *owner, uint64_t frame)
{
        struct shm_arena_meaning meaning = {description, sizeof(description) - 1, 0, 0, 0};
        struct shm_arena_record record;
        uint64_t generation;
        int error = shm_arena_prepare(owner, WIDTH * HEIGHT, &meaning, &record);

        if (error)
                return error;
        render((uint8_t *)shm_arena_block(owner, record.block), frame);
        error = shm_arena_publish(owner, "front", 5, &record, &generation);
        if (error)
                shm_arena_discard(owner, record.block);
        return error;
}

int main(int argc, char **argv)
{
        static struct shm_arena_owner owner;
        uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : UINT64_MAX, frame;
        struct timespec next;
        int error;

        if (argc < 2) {
                fprintf(stderr, "usage: producer ARENA [COUNT]\n");
                return 2;
        }
        error = shm_arena_own_inherited(argv[1], 1000, &owner);
        if (error) {
                fprintf(stderr, "producer: cannot own %s: %s\n", argv[1], strerror(-error));
                return 3;
        }
        clock_gettime(CLOCK_MONOTONIC, &next);
        for (frame = 0; frame < count; frame++) {
                error = publish(&owner, frame);
                if (error) {
                        fprintf(stderr, "producer: frame %" PRIu64 ": %s\n", frame, strerror(-error));
                        return 4;
                }
                next.tv_nsec += 1000000000 / 60;
                next.tv_sec += next.tv_nsec / 1000000000;
                next.tv_nsec %= 1000000000;
                clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
                (void)shm_arena_rejoin(&owner); /* nothing, unless the host was killed; after an error, it is tried again */
        }
        return 0;
}

/* copies.c - copies of many sizes, at many offsets, by each way: all bytes, and none beside them; and which way is chosen. */
#include "world.h"

#define ROOM (SHM_COPY_LARGE + 4 * SHM_COPY_PIECE)
#define GUARD 64u

static uint8_t *source, *target;

/* What is known when one way took so long, and the other so long. */
static struct shm_copying known(uint64_t plain_ns, uint64_t stream_ns)
{
        struct shm_copying copying = {{plain_ns, stream_ns}, SHM_COPY_TRIES};

        return copying;
}

static void check_copy(struct shm_copying *copying, uint64_t to, uint64_t from, uint64_t size)
{
        memset(target, 0xee, to + GUARD);
        memset(target + to + size, 0xee, GUARD);
        shm_copy(copying, target + to, source + from, size);
        CHECK(memcmp(target + to, source + from, size) == 0);
        CHECK(to == 0 || target[to - 1] == 0xee);
        CHECK(target[to + size] == 0xee && target[to + size + GUARD - 1] == 0xee);
}

static void check_sizes(void)
{
        struct shm_copying plain = known(100, 100), stream = known(100, 50), none = {{0, 0}, 0};
        uint64_t to, size;

        for (to = 0; to < 64; to += 7)
                for (size = 0; size < 200; size += 3) {
                        check_copy(&none, to, to / 2, size);
                        if (shm_copy_can_stream()) { /* in a place of its own: the size of a large one */
                                shm_copy_stream(target + to, source + 1, size);
                                CHECK(memcmp(target + to, source + 1, size) == 0);
                        }
                }
        CHECK(none.tries == 0);
        for (size = SHM_COPY_LARGE - 1; size <= SHM_COPY_LARGE + 1; size++) {
                check_copy(&plain, 64, 0, size);
                check_copy(&stream, 64, 0, size);
                check_copy(&stream, 33, 5, size);
        }
}

/* Both ways are tried on what is copied anyway, and no more often than that; pages that fault say nothing. */
static void check_tries(void)
{
        struct shm_copying fresh = {{0, 0}, 0}, copying = {{0, 0}, 0};
        uint8_t *untouched = (uint8_t *)shm_private(SHM_COPY_LARGE);

        CHECK(untouched != NULL);
        CHECK(madvise(untouched, SHM_COPY_LARGE, MADV_NOHUGEPAGE) == 0);
        shm_copy(&fresh, untouched, source, SHM_COPY_LARGE);
        CHECK(fresh.tries == 0 && memcmp(untouched, source, SHM_COPY_LARGE) == 0);
        munmap(untouched, SHM_COPY_LARGE);
        check_copy(&copying, 0, 3, SHM_COPY_LARGE + 5);
        check_copy(&copying, 0, 3, SHM_COPY_LARGE + 5);
        if (!shm_copy_can_stream()) {
                CHECK(copying.tries == 0);
                return;
        }
        CHECK(copying.tries == SHM_COPY_TRIES);
        CHECK(copying.best_ns[SHM_COPY_PLAIN] > 0 && copying.best_ns[SHM_COPY_STREAM] > 0);
}

static void check_choice(void)
{
        struct shm_copying slower = known(100, 101), little = known(100, 95), faster = known(100, 94);
        struct shm_copying early = faster;

        early.tries--;
        CHECK(shm_copy_way(&slower) == SHM_COPY_PLAIN && shm_copy_way(&little) == SHM_COPY_PLAIN);
        CHECK(shm_copy_way(&faster) == SHM_COPY_STREAM && shm_copy_way(&early) == SHM_COPY_PLAIN);
}

int main(void)
{
        uint64_t random = 1, i;

        source = (uint8_t *)malloc(ROOM);
        target = (uint8_t *)malloc(ROOM);
        CHECK(source != NULL && target != NULL);
        memset(target, 1, ROOM);
        for (i = 0; i < ROOM / 8; i++) {
                uint64_t word = world_random(&random);

                memcpy(source + i * 8, &word, 8);
        }
        check_sizes();
        check_tries();
        check_choice();
        free(source);
        free(target);
        printf("ok\n");
        return 0;
}

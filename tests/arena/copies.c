/* copies.c - copies of many sizes, at many offsets, by each way: all bytes, and none beside them; and which way is chosen. */
#include "world.h"

#define ROOM ((uint64_t)24 << 20)
#define GUARD 64u

static uint8_t *source, *target;

/* What is known when all values were faster by one way, for long. */
static struct shm_copying known(int way)
{
        struct shm_copying copying;
        int i;

        memset(&copying, 0, sizeof(copying));
        for (i = 0; i < SHM_COPY_KINDS; i++) {
                copying.kinds[i].way = way;
                copying.kinds[i].rest = 1000000;
        }
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
        struct shm_copying plain = known(SHM_COPY_PLAIN), stream = known(SHM_COPY_STREAM);
        uint64_t to, size;

        for (to = 0; to < 64; to += 7)
                for (size = 0; size < 200; size += 3) {
                        check_copy(&stream, to, to / 2, size);
                        if (shm_copy_can_stream()) { /* else of large values only */
                                shm_copy_stream(target + to, source + 1, size);
                                CHECK(memcmp(target + to, source + 1, size) == 0);
                        }
                }
        CHECK(stream.kinds[0].rest == 1000000);
        for (size = SHM_COPY_LARGE - 1; size <= SHM_COPY_LARGE + 1; size++) {
                check_copy(&plain, 64, 0, size);
                check_copy(&stream, 64, 0, size);
                check_copy(&stream, 33, 5, size);
        }
}

/* Both ways are tried on what is copied anyway, and no more often than that; each size has its own result. */
static void check_tries(uint64_t size, struct shm_copying *copying, struct shm_copy_kind *kind)
{
        uint64_t pieces = size / SHM_COPY_PIECE + 1, copied;

        memset(copying, 0, sizeof(*copying));
        for (copied = 0; kind->rest == 0; copied += pieces) {
                CHECK(copied <= SHM_COPY_TRIES + pieces);
                check_copy(copying, 0, 3, size);
        }
        CHECK(kind->tries == 0 && kind->rest <= SHM_COPY_REST && kind->rest + pieces >= SHM_COPY_REST);
        CHECK(copying->kinds[0].rest + copying->kinds[1].rest + copying->kinds[2].rest == kind->rest);
        for (; kind->rest > 0; copied += pieces) {
                CHECK(copied <= SHM_COPY_TRIES + SHM_COPY_REST + pieces);
                check_copy(copying, 0, 3, size);
                CHECK(kind->tries == 0);
        }
        CHECK(copied >= SHM_COPY_REST);
        check_copy(copying, 0, 3, size);
        CHECK(kind->tries > 0 || kind->rest > 0);
}

/* Pages that fault say nothing. */
static void check_faults(void)
{
        struct shm_copying fresh;
        uint8_t *untouched = (uint8_t *)shm_private(ROOM);

        CHECK(untouched != NULL && madvise(untouched, ROOM, MADV_NOHUGEPAGE) == 0);
        memset(&fresh, 0, sizeof(fresh));
        shm_copy(&fresh, untouched, source, ROOM);
        CHECK(fresh.kinds[2].tries == 0 && fresh.kinds[2].rest == 0);
        CHECK(memcmp(untouched, source, ROOM) == 0);
        munmap(untouched, ROOM);
}

static void check_choice(void)
{
        static const uint64_t stream_ns[] = {101, 95, 94};
        struct shm_copy_kind kind = {{0, 0}, 0, 0, 0};
        int i;

        for (i = 0; i < 3; i++) {
                kind.best_ns[SHM_COPY_PLAIN] = 100;
                kind.best_ns[SHM_COPY_STREAM] = stream_ns[i];
                shm_copy_decide(&kind);
                CHECK(kind.way == (i < 2 ? SHM_COPY_PLAIN : SHM_COPY_STREAM));
        }
}

int main(void)
{
        struct shm_copying copying;
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
        if (shm_copy_can_stream()) {
                check_tries(SHM_COPY_LARGE, &copying, &copying.kinds[0]);
                check_tries((uint64_t)2 << 20, &copying, &copying.kinds[1]);
                check_tries((uint64_t)16 << 20, &copying, &copying.kinds[2]);
                check_faults();
        }
        check_choice();
        free(source);
        free(target);
        printf("ok\n");
        return 0;
}

/*
 * engine.c - a loop that mutates inputs, and goes on with those that reach new edges of the code: see fuzz.h. Compiled
 * without coverage, as it counts that. All of it follows from the seed.
 */
#include "fuzz.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAP_SIZE 65536
#define INPUTS_MAX 4096

struct input {
        uint8_t *bytes;
        size_t size;
};

static uint8_t seen[MAP_SIZE];
static int is_new; /* an edge that no input had reached */
static struct input inputs[INPUTS_MAX];
static size_t input_count, given_count;
static uint64_t state;

/* Called by the code under test at each edge: gcc's -fsanitize-coverage=trace-pc. */
void __sanitizer_cov_trace_pc(void)
{
        uintptr_t place = (uintptr_t)__builtin_return_address(0) - (uintptr_t)&fuzz_target;
        uint8_t *slot = &seen[(place ^ place >> 16) % MAP_SIZE];

        is_new |= *slot == 0;
        *slot = 1;
}

static uint64_t draw(uint64_t below)
{
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state % below;
}

static void keep(const uint8_t *bytes, size_t size)
{
        struct input *input = &inputs[input_count];

        if (input_count == INPUTS_MAX)
                return;
        input->bytes = (uint8_t *)malloc(size + 1);
        if (input->bytes == NULL)
                abort();
        memcpy(input->bytes, bytes, size);
        input->size = size;
        input_count++;
}

/* Write a number that is at an edge, near another, or anything; of 1, 2, 4 or 8 bytes, in either order. */
static void write_number(uint8_t *at, size_t room)
{
        static const uint64_t edges[] = {0, 1, 2, 3, 15, 16, 31, 32, 63, 64, 65, 127, 128, 255, 256, 4095, 4096, 4097,
                                         8192, 65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
                                         (uint64_t)1 << 47, (uint64_t)1 << 63, UINT64_MAX, UINT64_MAX - 7,
                                         UINT64_MAX - 4095, FUZZ_BASE, FUZZ_BASE + 4096, FUZZ_BASE + 8192};
        size_t size = (size_t)1 << draw(4), i;
        uint64_t value = 0, kind = draw(4);

        if (size > room)
                return;
        for (i = 0; i < size; i++)
                value |= (uint64_t)at[i] << 8 * i;
        value = kind == 0 ? draw(UINT64_MAX) : kind == 1 ? value + draw(129) - 64 : edges[draw(sizeof(edges) / 8)];
        for (i = 0; i < size; i++)
                at[kind == 3 ? size - 1 - i : i] = (uint8_t)(value >> 8 * i);
}

/* Copy a piece of one input, or of the same, to a place: over what is there, or in between. */
static size_t splice(uint8_t *bytes, size_t size)
{
        const struct input *other = &inputs[draw(input_count)];
        size_t from = draw(other->size + 1), count = draw(other->size - from + 1), at = draw(size + 1);

        if (count > 64)
                count = draw(64);
        if (draw(2)) {
                if (size + count > FUZZ_SIZE_MAX)
                        return size;
                memmove(bytes + at + count, bytes + at, size - at);
                size += count;
        } else if (count > size - at) {
                count = size - at;
        }
        memcpy(bytes + at, other->bytes + from, count);
        return size;
}

static size_t cut(uint8_t *bytes, size_t size)
{
        size_t at = draw(size), count = draw(size - at) + 1;

        if (draw(3) == 0)
                return at;
        count = count > 32 ? draw(32) : count;
        memmove(bytes + at, bytes + at + count, size - at - count);
        return size - count;
}

static size_t mutate(uint8_t *bytes, size_t size)
{
        static const uint8_t marks[] = {0x00, 0x7f, 0x80, 0x90, 0x94, 0x9f, 0xa0, 0xa1, 0xbf, 0xc0, 0xc2, 0xc3, 0xc4,
                                        0xc5, 0xc6, 0xcc, 0xcd, 0xce, 0xcf, 0xd9, 0xda, 0xdc, 0xdd, 0xff, ' ', '-', '0'};
        uint64_t rounds = 1 + draw(4);

        while (rounds-- > 0 && size > 0) {
                uint64_t kind = draw(8);
                size_t at = draw(size);

                if (kind == 0)
                        bytes[at] ^= (uint8_t)(1 << draw(8));
                else if (kind == 1)
                        bytes[at] = marks[draw(sizeof(marks))];
                else if (kind == 2)
                        size = cut(bytes, size);
                else if (kind == 3)
                        size = splice(bytes, size);
                else
                        write_number(bytes + at / 4 * 4 + (kind == 4 ? draw(4) : 0), size - at / 4 * 4 - 3 * (kind == 4));
        }
        return size;
}

/* Run an input in memory of its very size, so that the sanitizer sees each byte too far. */
static void try(const uint8_t *bytes, size_t size)
{
        uint8_t *copy = (uint8_t *)malloc(size ? size : 1);

        if (copy == NULL)
                abort();
        memcpy(copy, bytes, size);
        is_new = 0;
        fuzz_target(copy, size);
        free(copy);
        if (is_new)
                keep(bytes, size);
}

/* Read inputs, one a line in hexadecimal. */
static void read_inputs(void)
{
        static char line[2 * FUZZ_SIZE_MAX + 2];
        static uint8_t bytes[FUZZ_SIZE_MAX];
        unsigned value;
        size_t size;

        while (fgets(line, sizeof(line), stdin) != NULL) {
                for (size = 0; size < FUZZ_SIZE_MAX && sscanf(line + 2 * size, "%2x", &value) == 1; size++)
                        bytes[size] = (uint8_t)value;
                keep(bytes, size);
                fuzz_target(inputs[input_count - 1].bytes, size);
        }
        given_count = input_count;
}

int fuzz_main(uint64_t seed, uint64_t count)
{
        static uint8_t bytes[FUZZ_SIZE_MAX + 8];
        uint64_t i;
        size_t at, edges = 0;

        state = seed * 2 + 1;
        read_inputs();
        for (i = 0; i < count && input_count > 0; i++) {
                const struct input *input = &inputs[draw(input_count)];

                memcpy(bytes, input->bytes, input->size);
                at = mutate(bytes, input->size);
                fuzz_repair(bytes, at, draw(4));
                try(bytes, at);
        }
        for (at = given_count; at < input_count; at++) {
                for (size_t j = 0; j < inputs[at].size; j++)
                        printf("%02x", inputs[at].bytes[j]);
                printf("\n");
        }
        for (at = 0; at < MAP_SIZE; at++)
                edges += seen[at];
        fprintf(stderr, "%" PRIu64 " inputs, %zu given, %zu that reach more, %zu edges, %" PRIu64 " taken\n", i, given_count,
                input_count - given_count, edges, fuzz_taken);
        return 0;
}

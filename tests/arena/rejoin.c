/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rejoin.c - own the arena of $SHM_ARENAS that the first argument names, and do what the lines of stdin say: `p` puts a
 * value, `r` rejoins the host. Each is answered by a line: 0 or an error, and how many values were put.
 */
#include "shm_arena.h"

#include <inttypes.h>
#include <stdio.h>

int main(int argc, char **argv)
{
        static struct shm_arena_owner owner;
        static uint8_t value[60000];
        struct shm_arena_meaning plain = {0, 0, 0, 0, 0};
        uint64_t generation, count = 0;
        int error = argc == 2 ? shm_arena_own_inherited(argv[1], 8, &owner) : -EINVAL, letter;

        while (error == 0 && (letter = getchar()) != EOF) {
                if (letter == '\n')
                        continue;
                if (letter == 'p')
                        memset(value, (int)(++count % 251), sizeof(value));
                printf("%d %" PRIu64 "\n",
                       letter == 'r' ? shm_arena_rejoin(&owner)
                                     : shm_arena_put(&owner, "x", 1, value, sizeof(value), &plain, &generation),
                       count);
                fflush(stdout);
        }
        shm_arena_unmap(&owner.arena);
        shm_owner_close(&owner);
        return -error;
}

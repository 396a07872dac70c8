/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena.h - arenas: memory that one process writes and everybody reads, at the speed of memory.
 *
 * An arena has named values. Its owner replaces them by a copy and an exchange of a word; readers find and hold them by
 * a few loads and a store. Neither makes a system call, and neither waits for the other. A value that a reader holds
 * does not change until it lets go. The kernel lets nobody but the owner write.
 *
 * A reader:
 *
 *         struct shm_arena_value value;
 *         if (shm_arena_hold(&arena, &holds, "front", 5, &value) == 0) {
 *                 use(value.data, value.size);
 *                 shm_arena_release(&holds, &value);
 *         }
 *
 * An owner:
 *
 *         uint64_t generation;
 *         struct shm_arena_meaning bytes = {0};
 *         int error = shm_arena_put(owner, "front", 5, frame, frame_size, &bytes, &generation);
 *
 * protocol/examples/ has both as programs, producer.c and consumer.c; `shmclient exec --arena NAME=SIZE` and `--region
 * NAME` start them. C11 and C++17, no library. Parts: the layout, the ledger, mapping, reading, the heap, copies, what the
 * host tells the owner, which blocks may be used again, publishing, waiting, what a program inherits, and the next host.
 */
#ifndef SHM_ARENA_H
#define SHM_ARENA_H

#include "shm_arena_layout.h"
#include "shm_arena_ledger.h"
#include "shm_arena_map.h"
#include "shm_arena_read.h"
#include "shm_arena_heap.h"
#include "shm_arena_copy.h"
#include "shm_arena_known.h"
#include "shm_arena_link.h"
#include "shm_arena_collect.h"
#include "shm_arena_own.h"
#include "shm_arena_publish.h"
#include "shm_arena_wait.h"
#include "shm_arena_inherit.h"
#include "shm_arena_rejoin.h"

#endif /* SHM_ARENA_H */

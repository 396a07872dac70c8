/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_collect.h - which blocks the owner of an arena may use again: those that no ledger names. See shm_arena.h.
 *
 * A block whose value was replaced is retired. It becomes free when the owner, after the flip, knows all ledgers and
 * finds it in none. The host raises a word on the board before a ledger can name anything; see shm_collect().
 */
#ifndef SHM_ARENA_COLLECT_H
#define SHM_ARENA_COLLECT_H

#include <poll.h>
#include <sys/socket.h>

#include "shm_arena_heap.h"
#include "shm_arena_read.h"

/* A ledger as an owner knows it: what is in it can be a lie. */
struct shm_known_ledger {
        uint64_t number;
        const struct shm_ledger *ledger;
        uint64_t size; /* of the mapping */
        int32_t pid;   /* of its client, as the host sees it; 0: not known */
        int32_t event; /* an eventfd of the client */
        uint64_t held; /* blocks of this arena that it kept from being used, when it was last looked at */
};

/* The state of an owner; private, and of one process. One thread at a time may use it. */
struct shm_arena_owner {
        struct shm_arena arena; /* as a reader sees it; its `base` can be written here */
        struct shm_arena_control *control;
        uint32_t *slots;
        struct shm_arena_entry *entries;
        int socket; /* the control socket; -1: closed */
        int is_alone; /* the host has closed it */
        struct shm_heap heap;
        size_t pages_room; /* bytes of heap.pages */

        struct shm_known_ledger *ledgers;
        size_t ledgers_room;
        uint32_t ledger_count;
        uint32_t heard; /* messages about ledgers */
        uint32_t ended; /* how many there were in all, once `is_ended` */
        int is_ended;   /* the name has another arena, or none */

        uint64_t *retired; /* blocks */
        size_t retired_room;
        uint64_t retired_count;
        uint64_t retired_bytes;
        uint64_t kept_count; /* of the retired ones, those that were held when the ledgers were last looked at */
        uint64_t kept_bytes;

        uint32_t *absent; /* a ring of entries whose name went; each once */
        uint8_t *is_listed;
        uint64_t absent_first;
        uint64_t absent_count;

        struct shm_description *descriptions;
        uint32_t description_count;
        struct shm_holds own; /* a ledger in private memory, for readers in this process */
        struct shm_arena_message answer; /* the last one to READY or GROW */
};

/* Private memory of zeros; NULL: there is none. */
static inline void *shm_private(size_t size)
{
        void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        return memory == MAP_FAILED ? NULL : memory;
}

/* Let private memory have at least `size` bytes. Returns where it is now, or NULL: it is as it was. */
static inline void *shm_private_grow(void *memory, size_t *room, size_t size)
{
        size_t wanted = *room ? *room : SHM_HEAP_PAGE;
        void *grown;

        while (wanted < size)
                wanted *= 2;
        if (memory != NULL && wanted == *room)
                return memory;
        grown = memory == NULL ? shm_private(wanted) : mremap(memory, *room, wanted, MREMAP_MAYMOVE);
        if (grown == NULL || grown == MAP_FAILED)
                return NULL;
        *room = wanted;
        return grown;
}

/* Take the ledger of a message. Returns 0 or -errno, and closes the descriptors that are not needed any more. */
static inline int shm_owner_join(struct shm_arena_owner *owner, const struct shm_arena_message *message,
                                 const int *descriptors)
{
        struct shm_known_ledger *known;
        struct stat status;
        void *grown = shm_private_grow(owner->ledgers, &owner->ledgers_room,
                                       (owner->ledger_count + 1) * sizeof(*owner->ledgers));
        void *mapped = MAP_FAILED;

        if (grown != NULL) {
                owner->ledgers = (struct shm_known_ledger *)grown;
                /* It must not shrink under us; how large it is, its client cannot choose. */
                if ((shm_seals_get(descriptors[0]) & SHM_F_SEAL_SHRINK) && fstat(descriptors[0], &status) == 0 &&
                    status.st_size >= (off_t)sizeof(struct shm_ledger))
                        mapped = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, descriptors[0], 0);
        }
        close(descriptors[0]);
        if (mapped == MAP_FAILED) {
                close(descriptors[1]);
                return -ENOMEM; /* and never heard of: nothing is used again from now on */
        }
        known = &owner->ledgers[owner->ledger_count++];
        known->number = message->number;
        known->ledger = (const struct shm_ledger *)mapped;
        known->size = (uint64_t)status.st_size;
        known->pid = message->code;
        known->event = descriptors[1];
        known->held = 0;
        return 0;
}

static inline void shm_owner_drop(struct shm_arena_owner *owner, uint32_t i)
{
        munmap((void *)(uintptr_t)owner->ledgers[i].ledger, (size_t)owner->ledgers[i].size);
        close(owner->ledgers[i].event);
        owner->ledgers[i] = owner->ledgers[--owner->ledger_count];
}

static inline int shm_owner_take(struct shm_arena_owner *owner, const struct shm_arena_message *message,
                                 const int *descriptors, size_t count)
{
        uint32_t i;
        int error = 0;

        if (message->kind == SHM_ARENA_LEDGER && count == 2) {
                error = shm_owner_join(owner, message, descriptors);
                count = 0;
        }
        for (i = 0; i < count; i++)
                close(descriptors[i]);
        if (message->kind == SHM_ARENA_FORGET)
                for (i = 0; i < owner->ledger_count; i++)
                        if (owner->ledgers[i].number == message->number) {
                                shm_owner_drop(owner, i);
                                break;
                        }
        if (message->kind == SHM_ARENA_ENDED) {
                owner->is_ended = 1;
                owner->ended = (uint32_t)message->number;
        }
        if (message->kind == SHM_ARENA_READY || message->kind == SHM_ARENA_GROW)
                owner->answer = *message;
        if (!error && (message->kind == SHM_ARENA_LEDGER || message->kind == SHM_ARENA_FORGET))
                owner->heard++;
        return error;
}

/* Take one message off the control socket. Returns 1, or 0: there is none; or -errno. */
static inline int shm_owner_receive(struct shm_arena_owner *owner, int flags)
{
        struct shm_arena_message message;
        struct iovec vector;
        struct msghdr head;
        struct cmsghdr *control;
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(8 * sizeof(int))];
        } space;
        int descriptors[8];
        size_t count = 0;
        ssize_t size;

        if (owner->socket < 0)
                return -EPIPE;
        vector.iov_base = &message;
        vector.iov_len = sizeof(message);
        memset(&head, 0, sizeof(head));
        head.msg_iov = &vector;
        head.msg_iovlen = 1;
        head.msg_control = space.bytes;
        head.msg_controllen = sizeof(space.bytes);
        size = recvmsg(owner->socket, &head, flags | MSG_CMSG_CLOEXEC);
        if (size < 0)
                return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
        if (size == 0)
                owner->is_alone = 1;
        if (size != (ssize_t)sizeof(message))
                return size == 0 ? -EPIPE : -EBADMSG;
        control = CMSG_FIRSTHDR(&head);
        if (control != NULL && control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS) {
                count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(descriptors, CMSG_DATA(control), count * sizeof(int));
        }
        if (message.kind == SHM_ARENA_LEDGER && count != 2)
                message.kind = 0; /* no room for its descriptors here: not heard of */
        size = shm_owner_take(owner, &message, descriptors, count);
        return size < 0 ? (int)size : 1;
}

/* Whether the owner knows every ledger that can name a block which was retired before. */
static inline int shm_owner_knows(struct shm_arena_owner *owner)
{
        const struct shm_board_line *line = owner->arena.line;
        uint32_t told;

        if (line == NULL)
                return 1;
        /*
         * Loaded after the flips. If the host raises the word later, then the reader for whom it does so looks at the
         * entry's word later still, and finds that its value is not current any more.
         */
        told = __atomic_load_n(&line->ledgers, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&line->region, __ATOMIC_ACQUIRE) == owner->arena.region) {
                while (owner->heard != told)
                        if (shm_owner_receive(owner, MSG_DONTWAIT) <= 0)
                                return 0;
                return 1;
        }
        /* The line speaks of another arena, so this one gets no more readers; a message says how many it got. */
        while (shm_owner_receive(owner, MSG_DONTWAIT) > 0)
                ;
        return owner->is_ended && (int32_t)(owner->heard - owner->ended) >= 0;
}

/* Note the retired blocks that a ledger names. */
static inline uint64_t shm_collect_mark(struct shm_arena_owner *owner, const struct shm_ledger *ledger, uint64_t size)
{
        const struct shm_ledger_hold *holds = (const struct shm_ledger_hold *)(const void *)(ledger + 1);
        uint64_t count = (size - sizeof(*ledger)) / sizeof(*holds), high, i, held = 0;
        uint64_t end = (uint64_t)owner->heap.count * SHM_HEAP_PAGE;

        high = __atomic_load_n(&ledger->high, __ATOMIC_SEQ_CST);
        for (i = 0; i < high && i < count; i++) {
                uint64_t block = __atomic_load_n(&holds[i].block, __ATOMIC_SEQ_CST), at;
                struct shm_heap_place place;
                struct shm_heap_page *info;

                at = block - owner->arena.home - owner->heap.start;
                if (block <= 1 || at >= end || at % SHM_ARENA_UNIT != 0)
                        continue;
                /* Any number may stand there: of a page that is free or inside of a run, too. */
                if (owner->heap.pages[at / SHM_HEAP_PAGE].kind == SHM_PAGE_FREE)
                        continue;
                place = shm_heap_place_of(&owner->heap, owner->heap.start + at);
                info = &owner->heap.pages[place.first + place.bit / 64];
                if ((info->retired >> place.bit % 64 & 1) != 0) {
                        info->held |= (uint64_t)1 << place.bit % 64;
                        held++;
                }
        }
        return held;
}

/*
 * Free the retired blocks that no ledger names. Returns 0, or -EAGAIN: not all ledgers are known, because the
 * messages about them did not come yet.
 */
static inline int shm_collect(struct shm_arena_owner *owner)
{
        uint64_t i, kept = 0, kept_bytes = 0;

        if (!shm_owner_knows(owner))
                return -EAGAIN;
        shm_collect_mark(owner, owner->own.ledger,
                         sizeof(struct shm_ledger) + owner->own.count * sizeof(struct shm_ledger_hold));
        for (i = 0; i < owner->ledger_count; i++)
                owner->ledgers[i].held = shm_collect_mark(owner, owner->ledgers[i].ledger, owner->ledgers[i].size);
        for (i = 0; i < owner->retired_count; i++) {
                uint64_t block = owner->retired[i];
                struct shm_heap_place place = shm_heap_place_of(&owner->heap, block);
                struct shm_heap_page *info = &owner->heap.pages[place.first + place.bit / 64];
                uint64_t bit = (uint64_t)1 << place.bit % 64;

                if ((info->held & bit) != 0) {
                        info->held &= ~bit;
                        owner->retired[kept++] = block;
                        kept_bytes += shm_heap_block_size(&owner->heap, place);
                        continue;
                }
                info->retired &= ~bit;
                shm_heap_give(&owner->heap, block);
        }
        owner->retired_count = owner->kept_count = kept;
        owner->retired_bytes = owner->kept_bytes = kept_bytes;
        return 0;
}

/*
 * Collect when it is worth it: to look at the ledgers costs a cache line or two of each, which its client writes. 64
 * blocks, or a MiB and one more for each 16 ledgers: far less than what it cost to write them.
 */
static inline void shm_collect_in_turn(struct shm_arena_owner *owner)
{
        uint64_t enough = 64 + owner->kept_count, bytes = (1 + (uint64_t)owner->ledger_count / 16) << 20;

        if (owner->retired_count - owner->kept_count >= enough ||
            owner->retired_bytes - owner->kept_bytes >= bytes)
                (void)shm_collect(owner);
}

/* Retire a block. Without private memory to note it in, it is lost until the arena goes. */
static inline void shm_retire(struct shm_arena_owner *owner, uint64_t block)
{
        struct shm_heap_place place = shm_heap_place_of(&owner->heap, block);
        void *grown = shm_private_grow(owner->retired, &owner->retired_room,
                                       (owner->retired_count + 1) * sizeof(*owner->retired));

        if (grown == NULL)
                return;
        owner->retired = (uint64_t *)grown;
        owner->heap.pages[place.first + place.bit / 64].retired |= (uint64_t)1 << place.bit % 64;
        owner->retired[owner->retired_count++] = block;
        owner->retired_bytes += shm_heap_block_size(&owner->heap, place);
}

#endif /* SHM_ARENA_COLLECT_H */

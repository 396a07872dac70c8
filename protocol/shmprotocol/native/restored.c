/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restored.c - what the next host says about what is handed back to it: see returning.c. Every byte of it is checked.
 */
#ifndef SHM_RESTORED_H
#define SHM_RESTORED_H

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shm_arena.h"

#define SHM_TAG_WELCOME 129
#define SHM_TAG_REFUSED 136
#define SHM_TAG_GOODBYE 138
#define SHM_TAG_RESTORED 144
#define SHM_TAG_LEDGER_RESTORED 146
#define SHM_TAG_ARENA_RESTORED 147
#define SHM_VERSION_RESTORE 4

/* All return 0 for something else than what is awaited. */

static int shm_frame_skip_any(struct shm_frame *frame)
{
        const char *text;
        uint64_t value;

        if (frame->at == frame->end)
                return 0;
        if (*frame->at >> 5 == 0x5 || *frame->at == 0xd9)
                return shm_frame_string(frame, &text, &value);
        return shm_frame_integer(frame, &value);
}

/* Whether a Welcome is that of another host of the same family, which takes regions back. */
static int shm_home_is_welcome(const struct shm_home *home, struct shm_frame frame)
{
        uint64_t items, tag, number, version, size;
        const char *host, *dot = strrchr(home->host, '.');
        size_t family = dot == NULL ? 0 : (size_t)(dot - home->host) + 1;

        if (!shm_frame_array(&frame, SHM_FRAME_ARRAY_MAX, &items) || items < 5 || !shm_frame_integer(&frame, &tag) ||
            tag != SHM_TAG_WELCOME || !shm_frame_integer(&frame, &number) || !shm_frame_integer(&frame, &number) ||
            !shm_frame_integer(&frame, &version) || version != SHM_VERSION_RESTORE ||
            !shm_frame_string(&frame, &host, &size))
                return 0;
        return family && size > family && memcmp(host, home->host, family) == 0 &&
               !(size == strlen(home->host) && memcmp(host, home->host, size) == 0);
}

/* The first request is answered. */
static void shm_home_be_answered(struct shm_home *home)
{
        uint32_t size = home->sizes[0];

        home->count -= size;
        home->requests--;
        memmove(home->batch, home->batch + size, home->count * sizeof(home->batch[0]));
        memmove(home->sizes, home->sizes + 1, home->requests);
}

/* Note the leases of a Restored. */
static int shm_home_take(struct shm_home *home, struct shm_frame frame)
{
        uint64_t items, tag, number, count, fields, lease, flags, i, field;

        if (!shm_frame_array(&frame, SHM_FRAME_ARRAY_MAX, &items) || items < 4 || !shm_frame_integer(&frame, &tag) ||
            tag != SHM_TAG_RESTORED || !shm_frame_integer(&frame, &number) || !shm_frame_integer(&frame, &number) ||
            !shm_frame_array(&frame, SHM_HOME_BATCH, &count) || count != home->sizes[0])
                return 0;
        for (i = 0; i < count; i++) {
                if (!shm_frame_array(&frame, SHM_FRAME_ARRAY_MAX, &fields) || fields < 1 ||
                    !shm_frame_integer(&frame, &lease))
                        return 0;
                for (field = 1, flags = 0; field < fields; field++)
                        if (!(field == 7 ? shm_frame_integer(&frame, &flags) : shm_frame_skip_any(&frame)))
                                return 0;
                if (lease == 0 && flags & SHM_AGAIN_NOT_NOW)
                        shm_again_note(home->batch[i]);
                if (home->batch[i] != NULL)
                        home->batch[i]->lease = lease;
                else
                        shm_kept_release(home, lease);
        }
        shm_home_be_answered(home);
        return 1;
}

/*
 * Let the owner of an arena listen to the control socket that came, and tell the host so. From the exchange on, the owner
 * finds the socket whenever it is about to use memory again, so others may join. A copy says it: the owner may be quicker to
 * close its own.
 */
static int shm_home_offer(struct shm_arena_owner *owner, int socket)
{
        struct shm_arena_message message = {SHM_ARENA_BACK, 0, 0, 0};
        int copy = fcntl(socket, F_DUPFD_CLOEXEC, 0), is_said;

        if (copy < 0) {
                (void)close(socket);
                return 0;
        }
        shm_owner_offer(owner, socket);
        is_said = send(copy, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(message);
        (void)close(copy);
        return is_said;
}

/* Whether a frame is a Goodbye: to Hello, from a host that has no room for a connection. */
static int shm_home_is_goodbye(struct shm_frame frame)
{
        uint64_t items, tag;

        return shm_frame_array(&frame, SHM_FRAME_ARRAY_MAX, &items) && shm_frame_integer(&frame, &tag) && tag == SHM_TAG_GOODBYE;
}

/* Heed the answer about a ledger, or an arena. Returns 1; 0 it is another answer. */
static int shm_home_take_one(struct shm_home *home, struct shm_frame frame)
{
        uint64_t items, tag, number;
        int is_arena = home->asked == SHM_KEPT_ARENA;

        if (!shm_frame_array(&frame, SHM_FRAME_ARRAY_MAX, &items) || items < 4 || !shm_frame_integer(&frame, &tag) ||
            !shm_frame_integer(&frame, &number) || !shm_frame_integer(&frame, &number) ||
            (tag != SHM_TAG_REFUSED && tag != (is_arena ? SHM_TAG_ARENA_RESTORED : SHM_TAG_LEDGER_RESTORED)))
                return 0;
        if (is_arena && tag != SHM_TAG_REFUSED && home->batch[0] != NULL) {
                if (home->fd_count != 1 || !shm_home_offer(home->batch[0]->arena, home->fds[0]))
                        shm_again_note(home->batch[0]); /* this process had no room for the control socket */
                home->fd_count = home->fd_count == 1 ? 0 : home->fd_count;
        }
        if (tag == SHM_TAG_REFUSED && shm_again_is_meant(frame))
                shm_again_note(home->batch[0]);
        shm_home_be_answered(home);
        return 1;
}

#endif /* SHM_RESTORED_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * returning.c - how what was kept comes back: a home's steps from the loss of its host to the leases that the next one
 * gives. Each step never waits; keeper.c has the thread that takes them, with the mutex held. Every byte from the host is
 * checked.
 */
#ifndef SHM_RETURNING_H
#define SHM_RETURNING_H

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "shm_arena.h"

#define SHM_KEEPER_SOON_NS 20000000u     /* between looks for a host: one that is restarted takes some 200 ms */
#define SHM_KEEPER_AWAKE_NS 10000000000u /* for so long; then it looks more and more seldom */
#define SHM_KEEPER_SELDOM_NS 5000000000u
#define SHM_KEEPER_ANSWER_NS 5000000000u /* a host that says nothing for so long is asked anew */
/*
 * Between looks for several answers. To be woken by each of them would take the CPU from the host, to which it comes back
 * when all others that want it have had it: a thousand names took 32 times 5 ms (2026-11, 10 busy processes on two CPUs).
 */
#define SHM_KEEPER_LOOK_NS 2000000u

#define SHM_TAG_HELLO 1
#define SHM_TAG_RESTORE 21
#define SHM_TAG_RESTORE_LEDGER 24
#define SHM_TAG_RESTORE_ARENA 25

/* --- what it says */

static int shm_home_say(const struct shm_home *home, const uint8_t *start, const uint8_t *end)
{
        ssize_t sent = send(home->link, start, (size_t)(end - start), MSG_DONTWAIT | MSG_NOSIGNAL);

        return sent == end - start ? 0 : -EAGAIN;
}

static int shm_home_greet(struct shm_home *home)
{
        static const uint8_t head[] = {0x96, SHM_TAG_HELLO, 0, 1, SHM_VERSION_RESTORE, SHM_VERSION_RESTORE};
        uint8_t frame[64];

        memcpy(frame + 4, head, sizeof(head));
        return shm_home_say(home, frame, shm_put_length(frame, shm_put_string(frame + 4 + sizeof(head), "keeper", 6)));
}

/* Gather behind the batch what was not handed back in this round: of a kind, and at most so many. Returns how many. */
static uint32_t shm_home_gather_some(struct shm_home *home, char kind, uint32_t most)
{
        struct shm_kept *kept;
        uint32_t size = 0;

        home->asked = kind;
        for (kept = home->first; kept != NULL && size < most; kept = kept->next)
                if (kept->kind == kind && kept->round != home->round) {
                        kept->round = home->round;
                        home->batch[home->count + size++] = kept;
                }
        return size;
}

/* Ledgers come first, so that owners hear of them at once, and arenas of ours last. Only regions go while others do. */
static uint32_t shm_home_gather(struct shm_home *home)
{
        uint32_t size;

        if (home->requests > 0)
                return home->asked == SHM_KEPT_REGION && home->requests < SHM_HOME_AHEAD
                               ? shm_home_gather_some(home, SHM_KEPT_REGION, SHM_HOME_BATCH)
                               : 0;
        size = shm_home_gather_some(home, SHM_KEPT_LEDGER, 1);
        if (size == 0)
                size = shm_home_gather_some(home, SHM_KEPT_REGION, SHM_HOME_BATCH);
        return size ? size : shm_home_gather_some(home, SHM_KEPT_ARENA, 1);
}

/* Gather them once more, later. */
static void shm_home_put_off(struct shm_home *home, uint32_t size)
{
        uint32_t i;

        for (i = 0; i < size; i++)
                home->batch[home->count + i]->round = home->round - 1;
}

/* Write a Restore of so many, or of a ledger, with no event, or of an arena; return its end. */
static uint8_t *shm_home_request(const struct shm_home *home, uint32_t size, uint8_t *at)
{
        uint32_t i;

        *at++ = home->asked == SHM_KEPT_LEDGER ? 0x95 : 0x94;
        *at++ = home->asked == SHM_KEPT_REGION   ? SHM_TAG_RESTORE
                : home->asked == SHM_KEPT_LEDGER ? SHM_TAG_RESTORE_LEDGER
                                                 : SHM_TAG_RESTORE_ARENA;
        *at++ = (uint8_t)size;
        *at++ = 1;
        if (home->asked == SHM_KEPT_REGION)
                at = shm_put_array(at, size);
        for (i = 0; i < size; i++)
                at = shm_put_integer(at, home->batch[home->count + i]->number);
        if (home->asked == SHM_KEPT_LEDGER)
                *at++ = 0xc2;
        return at;
}

/* Hand back so many that are gathered behind the batch, which they are a part of then; -errno. */
static int shm_home_hand_back(struct shm_home *home, uint32_t size)
{
        uint8_t frame[4 + 8 + 3 + 9 * SHM_HOME_BATCH], *at = frame + 4;
        char control[CMSG_SPACE(SHM_HOME_BATCH * sizeof(int))] = {0};
        struct iovec part = {frame, 0};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
        struct cmsghdr *rights;
        int fds[SHM_HOME_BATCH];
        uint32_t i;

        at = shm_home_request(home, size, at);
        for (i = 0; i < size; i++)
                fds[i] = home->batch[home->count + i]->fd;
        part.iov_len = (size_t)(shm_put_length(frame, at) - frame);
        message.msg_controllen = CMSG_SPACE(size * sizeof(int));
        rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(size * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, size * sizeof(int));
        if (sendmsg(home->link, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)part.iov_len)
                return -errno;
        home->sizes[home->requests++] = (uint8_t)size;
        home->count += size;
        return 0;
}

/* --- the steps of a home. With the mutex held */

static void shm_home_give_up(struct shm_home *home)
{
        shm_home_close_link(home);
        home->state = SHM_HOME_OVER;
}

/* Look for a host, or for the next one, at a time. */
static void shm_home_retry(struct shm_home *home, uint64_t now_ns)
{
        uint64_t lost_ns = now_ns - home->lost_ns, pause_ns = SHM_KEEPER_SOON_NS;
        struct shm_kept *kept;

        shm_home_close_link(home);
        for (kept = home->first; kept != NULL; kept = kept->next)
                kept->lease = kept->is_refused = 0;
        home->count = home->requests = home->used = 0;
        home->is_quiet = 0;
        home->again_ns = 0;
        home->state = home->first == NULL ? SHM_HOME_OVER : SHM_HOME_LOST;
        if (lost_ns > SHM_KEEPER_AWAKE_NS)
                pause_ns = lost_ns / 10 < SHM_KEEPER_SELDOM_NS ? lost_ns / 10 : SHM_KEEPER_SELDOM_NS;
        home->due_ns = now_ns + pause_ns;
}

static void shm_home_lose(struct shm_home *home, uint64_t now_ns)
{
        home->lost_ns = now_ns;
        shm_home_retry(home, now_ns);
}

/* Have answers wake the thread, or not. */
static void shm_home_set_quiet(struct shm_home *home, int is_quiet)
{
        struct epoll_event event = {.events = is_quiet ? EPOLLRDHUP : EPOLLIN | EPOLLRDHUP};

        if (home->is_quiet != is_quiet && !epoll_ctl(shm_keeper.epoll, EPOLL_CTL_MOD, home->link, &event))
                home->is_quiet = (char)is_quiet;
}

/* Hand the next ones back, or be done with that. */
static void shm_home_go_on(struct shm_home *home, uint64_t now_ns)
{
        uint32_t size = 0;
        int error = 0;

        while (!error && (size = shm_home_gather(home)) > 0)
                error = shm_home_hand_back(home, size);
        if (error == -ETOOMANYREFS || error == -EAGAIN) { /* too many descriptors of this user are in flight; a full socket */
                shm_home_put_off(home, size);
                if (home->requests == 0)
                        shm_again_note_all(home);
                error = 0;
        }
        home->state = home->requests ? SHM_HOME_RETURNING : SHM_HOME_BACK;
        home->due_ns = now_ns + SHM_KEEPER_ANSWER_NS;
        if (error == -EPERM) /* the host takes nothing back */
                shm_home_give_up(home);
        else if (error)
                shm_home_retry(home, now_ns);
        else
                shm_home_set_quiet(home, home->requests > 1);
        if (home->state == SHM_HOME_BACK)
                home->due_ns = shm_again_due_ns(home, now_ns);
}

static void shm_home_connect(struct shm_home *home, uint64_t now_ns)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP};

        home->link = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        memcpy(address.sun_path, home->path, sizeof(address.sun_path));
        if (home->buffer == NULL)
                home->buffer = malloc(SHM_HOME_BUFFER);
        home->state = SHM_HOME_GREETING;
        home->due_ns = now_ns + SHM_KEEPER_ANSWER_NS;
        home->round++;
        if (home->link < 0 || home->buffer == NULL ||
            connect(home->link, (const struct sockaddr *)&address, sizeof(address)) ||
            shm_peer_uid(home->link) != home->uid || epoll_ctl(shm_keeper.epoll, EPOLL_CTL_ADD, home->link, &event) ||
            shm_home_greet(home))
                shm_home_retry(home, now_ns);
}

/* Handle a whole frame. */
static void shm_home_hear(struct shm_home *home, struct shm_frame frame, uint64_t now_ns)
{
        int is_right = home->state == SHM_HOME_GREETING         ? shm_home_is_welcome(home, frame)
                       : home->state != SHM_HOME_RETURNING      ? 0
                       : home->asked == SHM_KEPT_REGION         ? shm_home_take(home, frame)
                                                                : shm_home_take_one(home, frame);

        shm_home_drop_fds(home);
        if (home->state == SHM_HOME_GREETING && shm_home_is_goodbye(frame) &&
            now_ns - home->lost_ns < SHM_AGAIN_PATIENCE_NS) {
                shm_home_retry(home, now_ns);
                home->due_ns = now_ns + shm_again_pause_ns(home);
        } else if (is_right) {
                shm_home_go_on(home, now_ns);
        } else { /* another host, or this one drops us */
                shm_home_give_up(home);
        }
}

/* Receive bytes, and the descriptors that come with them; as recv(2). */
static ssize_t shm_home_receive(struct shm_home *home)
{
        struct iovec part = {home->buffer + home->used, SHM_HOME_BUFFER - home->used};
        char control[CMSG_SPACE(SHM_HOME_FDS * sizeof(int))];
        struct msghdr message = {
                .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
        ssize_t size = recvmsg(home->link, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        struct cmsghdr *rights = size < 0 ? NULL : CMSG_FIRSTHDR(&message);
        int fds[SHM_HOME_FDS];
        size_t count, i;

        if (rights == NULL || rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS)
                return size;
        count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(rights), count * sizeof(int));
        for (i = 0; i < count; i++)
                if (home->fd_count < SHM_HOME_FDS)
                        home->fds[home->fd_count++] = fds[i];
                else
                        (void)close(fds[i]);
        return size;
}

/* Read what has come; return whether there may be more. */
static int shm_home_read(struct shm_home *home, uint64_t now_ns)
{
        ssize_t size = shm_home_receive(home);
        struct shm_frame data = {home->buffer, NULL}, frame;

        if (size < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (size <= 0) { /* a host that takes nothing, and never said so, is not lost anew each time */
                home->state == SHM_HOME_BACK ? shm_home_lose(home, now_ns) : shm_home_retry(home, now_ns);
                return 0;
        }
        home->used += (uint32_t)size;
        data.end = home->buffer + home->used;
        while (shm_frame_next(&data, &frame)) {
                shm_home_hear(home, frame, now_ns);
                if (home->link < 0)
                        return 0;
        }
        home->used = (uint32_t)(data.end - data.at);
        memmove(home->buffer, data.at, home->used);
        if (home->used == SHM_HOME_BUFFER) /* no answer is so long */
                shm_home_retry(home, now_ns);
        return 1;
}

static int shm_has_hung_up(int fd)
{
        struct pollfd watched = {fd, POLLRDHUP, 0};

        return poll(&watched, 1, 0) > 0;
}

/* Read all that has come. */
static void shm_home_read_all(struct shm_home *home, uint64_t now_ns)
{
        while (home->link >= 0 && shm_home_read(home, now_ns))
                ;
}

/* When to look again, at a home whose steps are done. */
static uint64_t shm_home_next_ns(const struct shm_home *home, uint64_t now_ns)
{
        if (home->state <= SHM_HOME_WATCHED || home->state > SHM_HOME_BACK)
                return UINT64_MAX;
        return home->is_quiet && now_ns + SHM_KEEPER_LOOK_NS < home->due_ns ? now_ns + SHM_KEEPER_LOOK_NS : home->due_ns;
}

/* Do what is due for a home; return when to look again. */
static uint64_t shm_home_step(struct shm_home *home, uint64_t now_ns)
{
        if (home->state == SHM_HOME_WATCHED && shm_has_hung_up(home->watched))
                shm_home_lose(home, now_ns);
        if (home->state != SHM_HOME_WATCHED)
                shm_home_close_watched(home);
        shm_home_read_all(home, now_ns);
        if (home->state == SHM_HOME_BACK && home->first != NULL && home->first->round != home->round)
                shm_home_go_on(home, now_ns); /* with what was kept after that */
        if (home->state == SHM_HOME_BACK && home->again_ns != 0 && home->again_ns <= now_ns) {
                shm_again_begin(home);
                shm_home_go_on(home, now_ns);
        }
        if (home->state == SHM_HOME_LOST && home->due_ns <= now_ns)
                shm_home_connect(home, now_ns);
        else if ((home->state == SHM_HOME_GREETING || home->state == SHM_HOME_RETURNING) && home->due_ns <= now_ns)
                shm_home_retry(home, now_ns);
        return shm_home_next_ns(home, now_ns);
}

/*
 * hasten(): look for the next host now; return whether arenas that this process owns are still to be handed back. Only the
 * thread does that: the connection that it has is the owner's then.
 */
static PyObject *shm_home_hasten(PyObject *self, PyObject *none)
{
        struct shm_home *home = (struct shm_home *)self;
        const struct shm_kept *kept;
        uint64_t now_ns = shm_now_ns();
        int is_pending = 0;

        (void)none;
        pthread_mutex_lock(&shm_keeper.mutex);
        for (kept = home->first; kept != NULL; kept = kept->next)
                is_pending |= kept->kind == SHM_KEPT_ARENA ? 1 + kept->is_refused : 0;
        if (is_pending && shm_keeper.epoll >= 0) {
                (void)shm_home_step(home, now_ns); /* it may not have noticed yet */
                if (home->state == SHM_HOME_LOST && home->pause_ns == 0) { /* nor does the next one say that it has no room */
                        home->due_ns = now_ns;
                        (void)shm_home_step(home, now_ns);
                }
        }
        is_pending = is_pending > 1 || (is_pending && home->state > SHM_HOME_WATCHED && home->state < SHM_HOME_BACK);
        pthread_mutex_unlock(&shm_keeper.mutex);
        return PyBool_FromLong(is_pending);
}

#endif /* SHM_RETURNING_H */

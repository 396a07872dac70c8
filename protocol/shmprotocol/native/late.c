/* SPDX-License-Identifier: Apache-2.0 */
/*
 * late.c - leases that are given back a moment later: with the next request, which saves a system call and a wake-up
 * of the host for each, or by a thread when none follows.
 *
 * A Release goes at once, unless another went within the millisecond before: only then does it wait in the buffer of
 * its connection, for at most SHM_LATE_NS unless the socket is full. The thread is started by the first that waits, ends
 * after a second without any, needs no GIL, and takes no signal. All state is behind one mutex, held for copies of a few bytes and for sends
 * that do not wait. fork(2): the thread is ended before, and the child's buffers are emptied (what is in them is the
 * parent's to say), all by pthread_atfork(3), so that no other code runs with the mutex held.
 */
#ifndef SHM_LATE_H
#define SHM_LATE_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#define SHM_LATE_SIZE 1152      /* bytes: 64 releases, as many as one request can have opened */
#define SHM_BURST_NS 1000000    /* two releases within this time are a burst */
#define SHM_LATE_NS 700000      /* with the timer's slack of 50 us and a wake-up it is less than a millisecond */
#define SHM_LATE_RESTS 16       /* passes of the thread without anything to send, before it sleeps */
#define SHM_FULL_NS 100000000   /* the longest pause, by doubling, while a socket is full: its host is stopped */
#define SHM_LATE_IDLE_NS 1000000000 /* after so long without a burst the thread ends */

/* The buffer of one connection. */
struct shm_late {
        int fd; /* the socket, which the caller owns; -1: nothing is sent any more */
        uint32_t used;
        uint64_t last_ns;  /* CLOCK_MONOTONIC of the last release */
        uint64_t since_ns; /* likewise of the oldest in the buffer, or of the last time that the socket was full */
        uint64_t pause_ns; /* after that time the buffer is sent */
        struct shm_late *next;
        int is_listed;
        uint8_t bytes[SHM_LATE_SIZE];
};

static struct {
        pthread_mutex_t mutex;
        pthread_cond_t wake; /* of the thread, while `sleeps` */
        pthread_t thread;
        struct shm_late *first; /* those that had something since the thread began */
        pthread_condattr_t clock;
        int is_ready;    /* `wake` has its clock, fork its handlers */
        int is_joinable; /* there is a thread, though it may have ended */
        int runs;
        int sleeps;
        int stops;
} shm_lates = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* Send without waiting. Returns 0, also when the peer is gone, or -EAGAIN: the socket is full. */
static int shm_late_send(int fd, const uint8_t *bytes, size_t size)
{
        ssize_t sent;

        do {
                sent = send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        } while (sent < 0 && errno == EINTR);
        return sent < 0 && (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM) ? -EAGAIN : 0;
}

/* Send what waits in a buffer. With the mutex held. */
static int shm_late_flush(struct shm_late *late)
{
        int error = late->used && late->fd >= 0 ? shm_late_send(late->fd, late->bytes, late->used) : 0;

        if (!error)
                late->used = 0;
        return error;
}

/* Wait until a time, or to be woken. With the mutex held. Returns -ETIMEDOUT after the time. */
static int shm_late_pause(uint64_t end_ns)
{
        struct timespec end = {(time_t)(end_ns / 1000000000u), (long)(end_ns % 1000000000u)};

        return -pthread_cond_timedwait(&shm_lates.wake, &shm_lates.mutex, &end);
}

/*
 * Send what has waited long enough; return when to look again, UINT64_MAX if nothing is left. With the mutex held. A
 * younger one is left to the next request, which may be a put's: it copies for hundreds of microseconds first, and the
 * host would be woken in the middle of that. A socket that is full is tried more and more seldom.
 */
static uint64_t shm_late_pass(int *rests)
{
        uint64_t now_ns = shm_now_ns(), next_ns = UINT64_MAX;
        struct shm_late *late;

        ++*rests;
        for (late = shm_lates.first; late != NULL; late = late->next) {
                if (!late->used)
                        continue;
                *rests = 0;
                if (now_ns - late->since_ns >= late->pause_ns && shm_late_flush(late)) {
                        late->since_ns = now_ns;
                        late->pause_ns = 2 * late->pause_ns < SHM_FULL_NS ? 2 * late->pause_ns : SHM_FULL_NS;
                }
                if (late->used && late->since_ns + late->pause_ns < next_ns)
                        next_ns = late->since_ns + late->pause_ns;
        }
        return next_ns;
}

/* Sleep until a time, or until something is kept. With the mutex held. Returns whether it was the time. */
static int shm_late_sleep(uint64_t end_ns)
{
        int is_over;

        shm_lates.sleeps = 1;
        is_over = shm_late_pause(end_ns) == -ETIMEDOUT && shm_lates.sleeps; /* nobody has woken it at the last moment */
        shm_lates.sleeps = 0;
        return is_over;
}

static void *shm_late_run(void *none)
{
        uint64_t next_ns = shm_now_ns() + SHM_LATE_NS, soon_ns;
        int rests = 0, is_idle;

        (void)prctl(PR_SET_NAME, "shm late");
        pthread_mutex_lock(&shm_lates.mutex);
        while (!shm_lates.stops) {
                (void)shm_late_pause(next_ns);
                next_ns = shm_late_pass(&rests);
                soon_ns = shm_now_ns() + SHM_LATE_NS; /* a release that comes meanwhile is not due before */
                is_idle = rests >= SHM_LATE_RESTS;
                /* Or all sockets are full, of those that something waits for. */
                if (!shm_lates.stops && (is_idle || (!rests && next_ns > soon_ns && next_ns < UINT64_MAX))) {
                        if (shm_late_sleep(is_idle ? soon_ns + SHM_LATE_IDLE_NS : next_ns) && is_idle)
                                break;
                        rests = 0;
                        soon_ns = shm_now_ns() + SHM_LATE_NS;
                }
                next_ns = next_ns < soon_ns ? next_ns : soon_ns;
        }
        shm_lates.runs = 0;
        pthread_mutex_unlock(&shm_lates.mutex);
        return none;
}

/* Have the thread run, or say no: -EAGAIN. With the mutex held. */
static int shm_late_start(void)
{
        int error;

        if (shm_lates.stops || !shm_lates.is_ready)
                return -EAGAIN;
        if (shm_lates.runs) {
                if (shm_lates.sleeps)
                        pthread_cond_signal(&shm_lates.wake);
                shm_lates.sleeps = 0;
                return 0;
        }
        if (shm_lates.is_joinable)
                pthread_join(shm_lates.thread, NULL); /* it has ended */
        shm_lates.is_joinable = 0;
        error = shm_thread_start(&shm_lates.thread, shm_late_run, NULL);
        shm_lates.runs = shm_lates.is_joinable = !error;
        return error;
}

/* Send what waits in all buffers. With the mutex held. */
static void shm_late_flush_all(void)
{
        struct shm_late *late;

        for (late = shm_lates.first; late != NULL; late = late->next)
                (void)shm_late_flush(late);
}

static void shm_late_before_fork(void)
{
        pthread_t thread;

        pthread_mutex_lock(&shm_lates.mutex);
        shm_late_flush_all();
        if (!shm_lates.is_joinable)
                return;
        thread = shm_lates.thread;
        shm_lates.is_joinable = 0; /* another thread that forks now joins nothing */
        shm_lates.stops = 1;
        pthread_cond_signal(&shm_lates.wake);
        pthread_mutex_unlock(&shm_lates.mutex);
        pthread_join(thread, NULL);
        pthread_mutex_lock(&shm_lates.mutex);
        shm_lates.stops = 0;
}

static void shm_late_after_fork(void)
{
        pthread_mutex_unlock(&shm_lates.mutex);
}

static void shm_late_after_fork_in_child(void)
{
        struct shm_late *late;

        for (late = shm_lates.first; late != NULL; late = late->next) {
                late->used = 0;
                late->is_listed = 0;
        }
        shm_lates.first = NULL;
        shm_lates.stops = shm_lates.runs = shm_lates.sleeps = shm_lates.is_joinable = 0;
        pthread_cond_init(&shm_lates.wake, &shm_lates.clock);
        pthread_mutex_unlock(&shm_lates.mutex); /* this thread locked it, before the fork */
}

/* Prepare the process, once. With the GIL held. Without success nothing is ever late. */
static void shm_late_prepare(void)
{
        if (shm_lates.is_ready)
                return;
        if (pthread_condattr_init(&shm_lates.clock) || pthread_condattr_setclock(&shm_lates.clock, CLOCK_MONOTONIC) ||
            pthread_cond_init(&shm_lates.wake, &shm_lates.clock) ||
            pthread_atfork(shm_late_before_fork, shm_late_after_fork, shm_late_after_fork_in_child))
                return;
        shm_lates.is_ready = 1;
}

/* Put a frame into a buffer; -EAGAIN: it has no room, or nobody would send it. With the mutex held. */
static int shm_late_keep(struct shm_late *late, const uint8_t *frame, size_t size)
{
        if (late->used + size > SHM_LATE_SIZE || shm_late_start())
                return -EAGAIN;
        if (!late->used) {
                late->since_ns = late->last_ns;
                late->pause_ns = SHM_LATE_NS;
        }
        memcpy(late->bytes + late->used, frame, size);
        late->used += (uint32_t)size;
        if (!late->is_listed) {
                late->is_listed = 1;
                late->next = shm_lates.first;
                shm_lates.first = late;
        }
        return 0;
}

/* Send a Release now, or in a burst soon. -EAGAIN: the socket is full, and the caller keeps the frame. */
static int shm_late_release(struct shm_late *late, const uint8_t *frame, size_t size)
{
        uint64_t now_ns = shm_now_ns();
        int error, is_burst;

        pthread_mutex_lock(&shm_lates.mutex);
        error = -EAGAIN;
        is_burst = now_ns - late->last_ns < SHM_BURST_NS;
        late->last_ns = now_ns;
        if (is_burst)
                error = shm_late_keep(late, frame, size);
        if (error)
                error = shm_late_flush(late);
        else
                size = 0; /* kept */
        if (!error && size && late->fd >= 0)
                error = shm_late_send(late->fd, frame, size);
        pthread_mutex_unlock(&shm_lates.mutex);
        return error;
}

/* Move what waits to before `end`, where there is room for SHM_LATE_SIZE; return its start. */
static uint8_t *shm_late_take(struct shm_late *late, uint8_t *end)
{
        uint8_t *start;

        pthread_mutex_lock(&shm_lates.mutex);
        start = end - late->used;
        memcpy(start, late->bytes, late->used);
        late->used = 0;
        pthread_mutex_unlock(&shm_lates.mutex);
        return start;
}

/* Send no more: the socket is about to be closed, or is another process's. */
static void shm_late_end(struct shm_late *late)
{
        struct shm_late **link;

        pthread_mutex_lock(&shm_lates.mutex);
        late->fd = -1;
        late->used = 0;
        for (link = &shm_lates.first; *link != NULL && *link != late; link = &(*link)->next)
                ;
        if (*link == late)
                *link = late->next;
        late->is_listed = 0;
        pthread_mutex_unlock(&shm_lates.mutex);
}

#endif /* SHM_LATE_H */

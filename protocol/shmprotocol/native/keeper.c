/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.c - a thread that notices that a host is gone, looks for the next one, and hands it what kept.c keeps. So the
 * names are back soon, also of a process that sleeps or computes. It needs no GIL, and takes part in no request.
 *
 * It has a connection of its own, which has leases of what it handed back, as long as the client has not connected by
 * itself and handed the same back: then the nodes move to that connection's home, and this one is closed.
 *
 * Everything changes with the mutex held; the thread waits without it, in epoll_wait(2), and looks at all homes after
 * each wait: they are as many as connections whose regions are in use.
 */
#ifndef SHM_KEEPER_H
#define SHM_KEEPER_H

#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

/* --- the thread */

/* Look at all homes; return when to look again, or 0: to end. With the mutex held. */
static uint64_t shm_keeper_pass(void)
{
        uint64_t now_ns = shm_now_ns(), next_ns = UINT64_MAX, due_ns;
        struct shm_home *home;

        if (shm_keeper.stops)
                return 0;
        for (home = shm_keeper.first; home != NULL; home = home->next) {
                due_ns = shm_home_step(home, now_ns);
                if (due_ns < next_ns)
                        next_ns = due_ns;
        }
        return next_ns;
}

static void *shm_keeper_run(void *none)
{
        struct epoll_event events[16];
        uint64_t next_ns, now_ns;
        int wait_ms;

        (void)prctl(PR_SET_NAME, "shm keeper");
        pthread_mutex_lock(&shm_keeper.mutex);
        while ((next_ns = shm_keeper_pass()) != 0) {
                pthread_mutex_unlock(&shm_keeper.mutex);
                now_ns = shm_now_ns();
                wait_ms = next_ns == UINT64_MAX ? -1 : next_ns <= now_ns ? 0 : (int)((next_ns - now_ns) / 1000000 + 1);
                (void)epoll_wait(shm_keeper.epoll, events, 16, wait_ms); /* the same as long as the thread runs */
                pthread_mutex_lock(&shm_keeper.mutex);
        }
        pthread_mutex_unlock(&shm_keeper.mutex);
        return none;
}

static void shm_keeper_close(void)
{
        shm_close_quickly(&shm_keeper.epoll);
        shm_close_quickly(&shm_keeper.wake);
}

/*
 * Make what the thread waits with, once: neither a wake-up nor a fork needs a descriptor then. -errno. With the mutex
 * held.
 */
static int shm_keeper_open(void)
{
        struct epoll_event event = {.events = EPOLLIN | EPOLLET};
        int error;

        if (shm_keeper.epoll >= 0)
                return 0;
        shm_keeper.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        shm_keeper.epoll = shm_keeper.wake < 0 ? -1 : epoll_create1(EPOLL_CLOEXEC);
        if (shm_keeper.epoll >= 0 && !epoll_ctl(shm_keeper.epoll, EPOLL_CTL_ADD, shm_keeper.wake, &event))
                return 0;
        error = -errno;
        shm_keeper_close();
        return error;
}

/* Have the thread run; another that stops it just now has it run again. -errno. With the mutex held. */
static int shm_keeper_start(void)
{
        int error;

        if (shm_keeper.is_joinable || shm_keeper.stops)
                return 0;
        error = shm_keeper.is_ready ? shm_keeper_open() : -EAGAIN;
        if (!error)
                error = shm_thread_start(&shm_keeper.thread, shm_keeper_run, NULL);
        shm_keeper.is_joinable = !error;
        return error;
}

/* Watch a connection from now on, for the first that is kept. -errno. With the mutex held. */
static int shm_keeper_begin(struct shm_home *home)
{
        struct epoll_event event = {.events = EPOLLRDHUP};
        int error = home->socket < 0 || home->state == SHM_HOME_OVER ? -EBADF : shm_keeper_start();

        if (error)
                return error;
        home->watched = fcntl(home->socket, F_DUPFD_CLOEXEC, 0);
        if (home->watched < 0 || epoll_ctl(shm_keeper.epoll, EPOLL_CTL_ADD, home->watched, &event)) {
                shm_home_close_watched(home);
                return -EMFILE;
        }
        home->uid = shm_peer_uid(home->watched);
        home->state = SHM_HOME_WATCHED;
        home->next = shm_keeper.first;
        home->is_listed = 1;
        shm_keeper.first = home;
        return 0;
}

/* Have the thread end, and wait for that. With the mutex held, which is given up meanwhile. */
static void shm_keeper_stop(void)
{
        pthread_t thread = shm_keeper.thread;

        if (!shm_keeper.is_joinable)
                return;
        shm_keeper.is_joinable = 0; /* another thread that forks now joins nothing */
        shm_keeper.stops = 1;
        shm_keeper_wake();
        pthread_mutex_unlock(&shm_keeper.mutex);
        pthread_join(thread, NULL);
        pthread_mutex_lock(&shm_keeper.mutex);
        shm_keeper.stops = 0;
}

static void shm_keeper_before_fork(void)
{
        pthread_mutex_lock(&shm_keeper.mutex);
        shm_keeper_stop();
}

static void shm_keeper_after_fork(void)
{
        if (shm_keeper.first != NULL)
                (void)shm_keeper_start(); /* if there can be no thread, the next that is kept tries again */
        pthread_mutex_unlock(&shm_keeper.mutex);
}

/*
 * The parent hands back what both have: the child lets go of the connections, and keeps nothing. It has no thread, also
 * if another thread of the parent was just ending that. First it closes its copy of the parent's epoll: to take a
 * socket out of that would take it from the parent.
 */
static void shm_keeper_after_fork_in_child(void)
{
        shm_keeper_close();
        shm_keeper.is_joinable = shm_keeper.stops = 0;
        while (shm_keeper.first != NULL)
                shm_home_end(shm_keeper.first);
        pthread_mutex_unlock(&shm_keeper.mutex);
}

/* Prepare the process, once. With the GIL held. Without success nothing is kept. */
static void shm_keeper_prepare(void)
{
        struct rlimit limit;

        if (shm_keeper.is_ready || getrlimit(RLIMIT_NOFILE, &limit))
                return;
        shm_keeper.max = limit.rlim_cur / SHM_KEPT_PART > UINT32_MAX ? UINT32_MAX : (uint32_t)(limit.rlim_cur / SHM_KEPT_PART);
        shm_keeper.is_ready =
                !pthread_atfork(shm_keeper_before_fork, shm_keeper_after_fork, shm_keeper_after_fork_in_child);
}

static long shm_home_count(const struct shm_home *home)
{
        const struct shm_kept *kept;
        long count = 0;

        for (kept = home->first; kept != NULL; kept = kept->next)
                count += !kept->is_shared;
        return count;
}

/*
 * rest_keeper(): end the thread if it has nothing to watch; return how many descriptors only this has, but for its
 * counter: for tests.
 */
static PyObject *shm_rest_keeper(PyObject *self, PyObject *none)
{
        const struct shm_home *home;
        long count = 0;

        (void)self;
        (void)none;
        pthread_mutex_lock(&shm_keeper.mutex);
        if (shm_keeper.first == NULL) {
                shm_keeper_stop();
                shm_keeper_close();
        }
        for (home = shm_keeper.first; home != NULL; home = home->next)
                count += (home->watched >= 0) + (home->link >= 0) + shm_home_count(home);
        count += shm_keeper.epoll >= 0;
        pthread_mutex_unlock(&shm_keeper.mutex);
        return PyLong_FromLong(count);
}

#endif /* SHM_KEEPER_H */

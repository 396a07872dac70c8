/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kept.c - the descriptors of regions that this process has mapped or has a handle of: a host that is killed loses
 * its own, and these bring its regions back. See keeper.c for the thread that hands them back, and Home in Python.
 *
 * A home is what one connection leads to. The objects that have its leases keep a descriptor of each region there:
 * holdings, handles, and Kept objects of the plain road. A node is part of such an object and lies in its home's list;
 * both change with the mutex held, and nodes with the GIL too.
 */
#ifndef SHM_KEPT_H
#define SHM_KEPT_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define SHM_HOME_PATH 108     /* of sockaddr_un */
#define SHM_HOME_HOST 128     /* bytes of a host's name, and a zero */
#define SHM_HOME_BATCH 32     /* MAX_RESTORED of wire/names.py */
#define SHM_HOME_AHEAD 8      /* requests under way: their answers fit in a socket, and with it all descriptors in flight */
#define SHM_HOME_BUFFER 16384 /* bytes: a Restored of 32 grants has at most 11,000 */
#define SHM_KEPT_PART 4       /* of the descriptors that this process may have, one in so many is kept at most */

#define SHM_HOME_FDS 4        /* descriptors that may wait for their frame: a reply has one */

struct shm_home;
struct shm_arena_owner;

enum { SHM_KEPT_REGION, SHM_KEPT_LEDGER, SHM_KEPT_ARENA };

struct shm_kept {
        struct shm_kept *next, **back;
        struct shm_home *home; /* NULL: it is in no list */
        PyObject *owner;       /* the object that it is part of */
        uint64_t number;
        uint64_t lease; /* at the keeper's connection; 0: none */
        uint32_t round; /* of the home's when it was handed back last */
        int fd;
        char is_shared; /* it is a handle's descriptor, too */
        char is_refused; /* for now, in this round */
        char kind;      /* of what it is handed back as */
        struct shm_arena_owner *arena; /* that its owner writes here; it outlives the node */
};

enum shm_home_state {
        SHM_HOME_NEW,       /* nothing was ever kept */
        SHM_HOME_WATCHED,   /* the connection lives, as far as is known */
        SHM_HOME_LOST,      /* the host is gone, and the next one is looked for */
        SHM_HOME_GREETING,  /* Hello was sent */
        SHM_HOME_RETURNING, /* a Restore was sent */
        SHM_HOME_BACK,      /* all was handed back: the link has the leases */
        SHM_HOME_OVER,      /* nobody is to hand anything back */
};

struct shm_home {
        PyObject_HEAD
        struct shm_home *next;
        struct shm_kept *first;
        struct shm_kept *batch[SHM_HOME_BATCH * SHM_HOME_AHEAD]; /* what is being handed back; NULL: given up meanwhile */
        uint8_t *buffer;
        uint64_t lost_ns; /* when the host was found gone */
        uint64_t due_ns;  /* when to try again */
        uint64_t again_ns; /* when to hand back once more what was refused for now; 0: nothing was */
        uint64_t pause_ns; /* the last one before that */
        uint32_t used;
        uint32_t count; /* of the batch */
        uint32_t requests; /* under way, and how much of the batch each has */
        uint8_t sizes[SHM_HOME_AHEAD];
        uint32_t round;
        uint32_t fd_count;
        int fds[SHM_HOME_FDS]; /* that came, and whose frame is not here yet */
        char asked;   /* the kind of the batch */
        uid_t uid;    /* of the host */
        int socket;   /* the connection's, which others own */
        int watched;  /* a copy of it; -1: none */
        int link;     /* the keeper's connection to the next host; -1: none */
        char state;
        char is_listed;
        char is_quiet; /* answers wake nobody: the thread looks for them now and then */
        char path[SHM_HOME_PATH];
        char host[SHM_HOME_HOST];
};

static struct {
        pthread_mutex_t mutex;
        pthread_t thread;
        struct shm_home *first; /* those that something was kept for */
        uint32_t kept, max;
        int epoll; /* that the thread waits on; -1: there is none yet */
        int wake;  /* an eventfd that wakes the thread; likewise */
        int is_ready;
        int is_joinable; /* the thread runs, and whoever stops it joins it */
        int stops;
} shm_keeper = {.mutex = PTHREAD_MUTEX_INITIALIZER, .epoll = -1, .wake = -1};

static int shm_keeper_start(void);
static int shm_keeper_begin(struct shm_home *home);
static void shm_keeper_prepare(void);

/* --- nodes */

/* Put a node into a list. With the mutex held. */
static void shm_kept_link(struct shm_home *home, struct shm_kept *kept)
{
        kept->home = home;
        kept->next = home->first;
        kept->back = &home->first;
        if (kept->next != NULL)
                kept->next->back = &kept->next;
        home->first = kept;
}

static void shm_close_quickly(int *fd)
{
        if (*fd >= 0)
                (void)close(*fd);
        *fd = -1;
}

static void shm_home_drop_fds(struct shm_home *home)
{
        while (home->fd_count > 0)
                (void)close(home->fds[--home->fd_count]);
}

static void shm_home_close_link(struct shm_home *home)
{
        shm_home_drop_fds(home);
        shm_close_quickly(&home->link);
}

/* Close the copy of a connection. As there is another, epoll(7) would go on to report it. */
static void shm_home_close_watched(struct shm_home *home)
{
        if (home->watched < 0)
                return;
        if (shm_keeper.epoll >= 0)
                (void)epoll_ctl(shm_keeper.epoll, EPOLL_CTL_DEL, home->watched, NULL);
        shm_close_quickly(&home->watched);
}

/* Have the thread look at all homes, if it runs. With the mutex held. */
static void shm_keeper_wake(void)
{
        static const uint64_t one = 1;

        if (shm_keeper.wake >= 0)
                (void)!write(shm_keeper.wake, &one, sizeof(one)); /* which fails after 2**64 of them */
}

/* Give the lease at the keeper's connection back: the region is somebody else's, or unmapped. With the mutex held. */
static void shm_kept_release(struct shm_home *home, uint64_t lease)
{
        uint8_t frame[SHM_RELEASE_MAX];

        if (lease && home->link >= 0)
                (void)shm_late_send(home->link, frame, (size_t)(shm_put_release(frame, lease) - frame));
}

/* Take a node out of its list. With the mutex held. */
static void shm_kept_unlink(struct shm_kept *kept)
{
        struct shm_home *home = kept->home;
        uint32_t i;

        *kept->back = kept->next;
        if (kept->next != NULL)
                kept->next->back = kept->back;
        for (i = 0; i < home->count; i++)
                if (home->batch[i] == kept)
                        home->batch[i] = NULL;
        shm_kept_release(home, kept->lease);
        kept->lease = 0;
        kept->home = NULL;
        if (home->first == NULL && home->state > SHM_HOME_WATCHED) {
                home->state = SHM_HOME_OVER;
                shm_home_close_link(home);
        }
}

/*
 * Keep the descriptor of a region for an object that has a lease of it. Returns whether it is kept: then the node owns
 * it. With the GIL held.
 */
static int shm_keep(struct shm_home *home, struct shm_kept *kept, PyObject *owner, uint64_t number, int fd)
{
        int is_kept;

        if (home == NULL || fd < 0)
                return 0;
        pthread_mutex_lock(&shm_keeper.mutex);
        if (home->is_listed)
                (void)shm_keeper_start(); /* runs already, unless it could not go on after a fork */
        is_kept = home->state != SHM_HOME_OVER && (home->is_listed || !shm_keeper_begin(home)) &&
                  shm_keeper.kept < shm_keeper.max;
        if (is_kept) {
                shm_keeper.kept++;
                kept->owner = owner;
                kept->number = number;
                kept->fd = fd;
                kept->lease = 0;
                kept->round = 0;
                kept->is_shared = kept->is_refused = 0;
                shm_kept_link(home, kept);
                if (home->state == SHM_HOME_BACK) /* its reply was read late */
                        shm_keeper_wake();
        }
        pthread_mutex_unlock(&shm_keeper.mutex);
        if (is_kept)
                Py_INCREF((PyObject *)home);
        return is_kept;
}

/* Keep it no more; return the descriptor, which the caller owns, or -1 if none was kept. With the GIL held. */
static int shm_unkeep(struct shm_kept *kept)
{
        struct shm_home *home = kept->home;

        if (home == NULL)
                return -1;
        pthread_mutex_lock(&shm_keeper.mutex);
        shm_keeper.kept--;
        shm_kept_unlink(kept);
        pthread_mutex_unlock(&shm_keeper.mutex);
        Py_DECREF((PyObject *)home);
        return kept->fd;
}

/* Have another object keep what one has kept. With the GIL held. */
static void shm_kept_pass(struct shm_kept *from, struct shm_kept *to, PyObject *owner)
{
        struct shm_home *home = from->home;
        uint32_t i;

        if (home == NULL)
                return;
        pthread_mutex_lock(&shm_keeper.mutex);
        to->owner = owner;
        to->number = from->number;
        to->fd = from->fd;
        to->round = from->round;
        to->lease = from->lease;
        to->is_shared = from->is_shared;
        to->is_refused = from->is_refused;
        from->lease = 0;
        for (i = 0; i < home->count; i++)
                if (home->batch[i] == from)
                        home->batch[i] = to;
        shm_kept_link(home, to); /* first, so that the home is not over */
        shm_kept_unlink(from);
        pthread_mutex_unlock(&shm_keeper.mutex);
}

/* Move what is kept to another home, where it has a lease now. With the GIL held. */
static void shm_kept_move(struct shm_kept *kept, struct shm_home *home)
{
        struct shm_home *before = kept->home;
        int is_listed;

        if (before == NULL || before == home)
                return;
        Py_INCREF((PyObject *)home);
        pthread_mutex_lock(&shm_keeper.mutex);
        is_listed = home->is_listed || !shm_keeper_begin(home);
        if (is_listed) {
                shm_kept_unlink(kept);
                kept->round = 0;
                kept->is_refused = 0;
                shm_kept_link(home, kept);
        }
        pthread_mutex_unlock(&shm_keeper.mutex);
        Py_DECREF((PyObject *)(is_listed ? before : home));
}

/* lend(descriptors): add a copy of what is kept to a list that owns it; return the number of the region, 0 for none. */
static PyObject *shm_kept_lend(struct shm_kept *kept, PyObject *descriptors)
{
        int fd = kept->home == NULL ? -1 : fcntl(kept->fd, F_DUPFD_CLOEXEC, 0);
        PyObject *number = fd < 0 ? NULL : PyLong_FromLong(fd);
        int error = number == NULL || PyList_Append(descriptors, number) < 0;

        Py_XDECREF(number);
        if (!error)
                return PyLong_FromUnsignedLongLong(kept->number);
        if (fd >= 0)
                (void)close(fd);
        return PyErr_Occurred() ? NULL : PyLong_FromLong(0);
}

#endif /* SHM_KEPT_H */

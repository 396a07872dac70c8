/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_rejoin.h - hand an arena that this program owns to the next host, when its host was killed. See shm_arena.h.
 *
 * $SHM_HOST, which `shmclient exec --arena` sets, has the descriptor of the connection to the host, the name of that host, and
 * the path of its socket, parted by single spaces. Every byte that comes from a host is checked.
 */
#ifndef SHM_ARENA_REJOIN_H
#define SHM_ARENA_REJOIN_H

#include "shm_arena_own.h"

#include <sys/un.h>

#define SHM_REJOIN_MS 2000   /* for a host to answer, in all: it takes a ms, and machines swap */
#define SHM_REJOIN_ROOM 4096 /* bytes of an answer: some 200 */
#define SHM_REJOIN_VERSION 4 /* of the protocol: RestoreArena and its answer */

struct shm_rejoin_host {
        int64_t connection;
        const char *name; /* with a `.`, behind which its number in its family is */
        size_t name_size;
        const char *path;
};

/* A connection to the next host. */
struct shm_rejoin {
        int socket;
        int descriptor; /* the last that came; -1: none */
        uint64_t end_ms;
        size_t used;
        uint8_t room[SHM_REJOIN_ROOM];
};

/* A part of a message, with room for a descriptor. */
struct shm_rejoin_part {
        struct iovec bytes;
        struct msghdr head;
        size_t control[CMSG_SPACE(sizeof(int)) / sizeof(size_t)]; /* which a cmsghdr is aligned as */
};

/* Let a part have these bytes. Returns its head, for sendmsg(2) or recvmsg(2). */
static inline struct msghdr *shm_rejoin_head(struct shm_rejoin_part *part, void *bytes, size_t size)
{
        memset(part, 0, sizeof(*part));
        part->bytes.iov_base = bytes;
        part->bytes.iov_len = size;
        part->head.msg_iov = &part->bytes;
        part->head.msg_iovlen = 1;
        part->head.msg_control = part->control;
        part->head.msg_controllen = sizeof(part->control);
        return &part->head;
}

/* Read $SHM_HOST. Returns 0, or -ENOTSUP: there is none. */
static inline int shm_rejoin_find(struct shm_rejoin_host *host_out)
{
        const char *text = getenv("SHM_HOST");
        char *after;

        if (text == NULL || *text < '0' || *text > '9')
                return -ENOTSUP;
        host_out->connection = strtoll(text, &after, 10);
        if (*after != ' ' || host_out->connection > INT_MAX)
                return -ENOTSUP;
        host_out->name = after + 1;
        host_out->name_size = strcspn(host_out->name, " ");
        if (host_out->name[host_out->name_size] == 0 || host_out->name[host_out->name_size + 1] == 0)
                return -ENOTSUP;
        host_out->path = host_out->name + host_out->name_size + 1;
        return strlen(host_out->path) < sizeof(((struct sockaddr_un *)0)->sun_path) ? 0 : -ENOTSUP;
}

/* The uid of the process that listened at the other end of a socket; -1: unknown. */
static inline uid_t shm_rejoin_uid(int socket)
{
        struct ucred peer;
        socklen_t size = sizeof(peer);

        return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ? (uid_t)-1 : peer.uid;
}

/* --- what the host says: msgpack, of which only what is needed is understood */

/* Take a whole number of a frame. Returns whether there is one. */
static inline int shm_rejoin_number(const uint8_t **at, const uint8_t *end, uint64_t *number_out)
{
        int size, i;

        if (*at >= end)
                return 0;
        if (**at < 0x80) {
                *number_out = *(*at)++;
                return 1;
        }
        if (**at < 0xcc || **at > 0xcf || end - *at < 1 + (size = 1 << (**at - 0xcc)))
                return 0;
        for (i = 1, *number_out = 0; i <= size; i++)
                *number_out = *number_out << 8 | (*at)[i];
        *at += 1 + size;
        return 1;
}

/* Take a string. Returns whether there is one. */
static inline int shm_rejoin_string(const uint8_t **at, const uint8_t *end, const char **text_out, size_t *size_out)
{
        size_t head = *at < end && **at == 0xd9 ? 2 : 1;

        if (*at >= end || (head == 1 && **at >> 5 != 5) || (size_t)(end - *at) < head)
                return 0;
        *size_out = head == 2 ? (*at)[1] : **at & 31u;
        if ((size_t)(end - *at) - head < *size_out)
                return 0;
        *text_out = (const char *)*at + head;
        *at += head + *size_out;
        return 1;
}

/* Take the beginning of a message: its tag and the numbers of its descriptors and its request. Returns the tag; 0: nonsense. */
static inline uint64_t shm_rejoin_tag(const uint8_t **at, const uint8_t *end)
{
        uint64_t tag, number;

        if (*at >= end || (**at & 0xf0) != 0x90 || (**at & 15) < 4)
                return 0;
        (*at)++;
        return shm_rejoin_number(at, end, &tag) && shm_rejoin_number(at, end, &number) &&
                               shm_rejoin_number(at, end, &number)
                       ? tag
                       : 0;
}

/* Whether a Welcome is that of another host of the same family. */
static inline int shm_rejoin_welcomes(const uint8_t *at, const uint8_t *end, const struct shm_rejoin_host *host)
{
        const char *name;
        size_t size, family = host->name_size;
        uint64_t version;

        while (family > 0 && host->name[family - 1] != '.')
                family--;
        if (shm_rejoin_tag(&at, end) != 129 || !shm_rejoin_number(&at, end, &version) || version != SHM_REJOIN_VERSION ||
            !shm_rejoin_string(&at, end, &name, &size))
                return 0;
        return family > 0 && size > family && memcmp(name, host->name, family) == 0;
}

/* Heed the answer to RestoreArena. Returns 1; 0 the arena is owned here by another connection already; or -errno. */
static inline int shm_rejoin_answer(const uint8_t *at, const uint8_t *end)
{
        static const char *const later[] = {"quota-exceeded", "out-of-memory", "busy"};
        uint64_t tag = shm_rejoin_tag(&at, end);
        const char *code;
        size_t size, i;

        if (tag == 147 && at < end && (*at == 0xc2 || *at == 0xc3))
                return *at == 0xc3;
        if (tag != 136 || !shm_rejoin_string(&at, end, &code, &size))
                return -EPROTO;
        for (i = 0; i < sizeof(later) / sizeof(later[0]); i++)
                if (strlen(later[i]) == size && memcmp(code, later[i], size) == 0)
                        return -EAGAIN;
        return -ENOENT;
}

/* --- the conversation */

static inline void shm_rejoin_drop(struct shm_rejoin *rejoin)
{
        if (rejoin->descriptor >= 0)
                close(rejoin->descriptor);
        rejoin->descriptor = -1;
}

/* Take the descriptors that came with a message: the last one of all is kept. The kernel has room for more than one. */
static inline void shm_rejoin_take(struct shm_rejoin *rejoin, struct msghdr *head)
{
        struct cmsghdr *control = CMSG_FIRSTHDR(head);
        size_t count, i;

        if (control == NULL || control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
                return;
        count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (i = 0; i < count; i++) {
                shm_rejoin_drop(rejoin);
                memcpy(&rejoin->descriptor, CMSG_DATA(control) + i * sizeof(int), sizeof(int));
        }
}

/* Receive some bytes, with their descriptors, once they are there. Returns 0 or -errno. */
static inline int shm_rejoin_receive(struct shm_rejoin *rejoin)
{
        struct pollfd wait = {rejoin->socket, POLLIN, 0};
        uint64_t now_ms = shm_arena_now_ns() / 1000000;
        size_t room = SHM_REJOIN_ROOM - rejoin->used;
        struct shm_rejoin_part part;
        struct msghdr *head = shm_rejoin_head(&part, rejoin->room + rejoin->used, room);
        ssize_t size;

        if (now_ms >= rejoin->end_ms || room == 0)
                return room == 0 ? -EPROTO : -EAGAIN;
        (void)poll(&wait, 1, (int)(rejoin->end_ms - now_ms));
        size = recvmsg(rejoin->socket, head, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (size <= 0) /* the end of this host: the next one is looked for */
                return size < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -EAGAIN;
        shm_rejoin_take(rejoin, head);
        rejoin->used += (size_t)size;
        return 0;
}

/* Wait for a frame, which begins behind its length, at room + 4. Returns its end, or NULL: *error_out says why. */
static inline const uint8_t *shm_rejoin_frame(struct shm_rejoin *rejoin, int *error_out)
{
        uint32_t size = 0;

        rejoin->used = 0;
        shm_rejoin_drop(rejoin);
        for (;;) {
                if (rejoin->used >= sizeof(size))
                        memcpy(&size, rejoin->room, sizeof(size)); /* little-endian, as this machine */
                if (rejoin->used >= sizeof(size) && rejoin->used >= sizeof(size) + size)
                        return rejoin->room + sizeof(size) + size;
                *error_out = size > SHM_REJOIN_ROOM - sizeof(size) ? -EPROTO : shm_rejoin_receive(rejoin);
                if (*error_out)
                        return NULL;
        }
}

/* Connect to the host of now, if it is of the user of the one before. Returns 0 or -errno; the socket is the caller's. */
static inline int shm_rejoin_connect(struct shm_rejoin *rejoin, const struct shm_rejoin_host *host, uid_t uid)
{
        static const uint8_t hello[] = {12, 0, 0, 0, 0x96, 1, 0, 1, SHM_REJOIN_VERSION, SHM_REJOIN_VERSION,
                                        0xa5, 'o', 'w', 'n', 'e', 'r'};
        struct sockaddr_un address;
        const uint8_t *at, *end;
        int error = 0;

        memset(&address, 0, sizeof(address));
        address.sun_family = AF_UNIX;
        memcpy(address.sun_path, host->path, strlen(host->path));
        rejoin->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (rejoin->socket < 0)
                return -errno;
        if (connect(rejoin->socket, (const struct sockaddr *)&address, sizeof(address)) < 0)
                return -EAGAIN;
        if (shm_rejoin_uid(rejoin->socket) != uid)
                return -EPERM;
        if (send(rejoin->socket, hello, sizeof(hello), MSG_NOSIGNAL) != (ssize_t)sizeof(hello))
                return -EAGAIN;
        end = shm_rejoin_frame(rejoin, &error);
        if (end == NULL)
                return error;
        at = rejoin->room + sizeof(uint32_t);
        if (shm_rejoin_welcomes(at, end, host))
                return 0;
        return shm_rejoin_tag(&at, end) == 138 ? -EAGAIN : -ENOENT; /* Goodbye: it has no room for a connection */
}

/* Hand the arena back. Returns as shm_rejoin_answer(). */
static inline int shm_rejoin_restore(struct shm_rejoin *rejoin, uint64_t region, int memory)
{
        uint8_t frame[4 + 13] = {13, 0, 0, 0, 0x94, 25, 1, 2, 0xcf};
        struct shm_rejoin_part part;
        struct msghdr *head = shm_rejoin_head(&part, frame, sizeof(frame));
        struct cmsghdr *control = CMSG_FIRSTHDR(head);
        const uint8_t *end;
        int i, error = 0;

        for (i = 0; i < 8; i++)
                frame[9 + i] = (uint8_t)(region >> (56 - 8 * i));
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(control), &memory, sizeof(int));
        if (sendmsg(rejoin->socket, head, MSG_NOSIGNAL) != (ssize_t)sizeof(frame))
                return errno == EPERM ? -ENOENT : -EAGAIN; /* EPERM: a host that expects nothing takes no descriptors */
        end = shm_rejoin_frame(rejoin, &error);
        return end == NULL ? error : shm_rejoin_answer(rejoin->room + 4, end);
}

/* Talk to the next host. Returns 0 or -errno; what was opened is closed then. */
static inline int shm_rejoin_talk(struct shm_arena_owner *owner, const struct shm_rejoin_host *host, uid_t uid)
{
        struct shm_arena_message back = {SHM_ARENA_BACK, 0, 0, 0};
        struct shm_rejoin rejoin;
        int error, copy = -1;

        memset(&rejoin, 0, sizeof(rejoin));
        rejoin.socket = rejoin.descriptor = -1;
        rejoin.end_ms = shm_arena_now_ns() / 1000000 + SHM_REJOIN_MS;
        error = shm_rejoin_connect(&rejoin, host, uid);
        if (!error)
                error = shm_rejoin_restore(&rejoin, owner->arena.region, owner->memory - 1);
        if (error > 0) { /* the control socket is kept twice: the owner may be quicker to close its own */
                copy = rejoin.descriptor < 0 ? -1 : fcntl(rejoin.descriptor, F_DUPFD_CLOEXEC, 0);
                error = copy < 0 ? -EMFILE : 0;
        }
        if (copy >= 0) { /* from here on the owner finds it before it uses memory again, so that others may join */
                shm_owner_offer(owner, rejoin.descriptor);
                rejoin.descriptor = -1;
                error = send(copy, &back, sizeof(back), MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -EAGAIN : 0;
                close(copy);
        }
        shm_rejoin_drop(&rejoin);
        if (error) {
                if (rejoin.socket >= 0)
                        close(rejoin.socket);
                return error;
        }
        if (owner->link)
                close(owner->link - 1);
        owner->link = rejoin.socket + 1;
        return 0;
}

/*
 * Be the owner of an arena at the next host, if the one before was killed or ended; nothing if it serves. Readers may join
 * then, and the arena can grow again; until then, it writes on with the memory that it has. Call it now and then: it costs a
 * system call, and when a host has gone, some milliseconds, SHM_REJOIN_MS at most. Also from another thread than that of the
 * owner's functions, but from one at a time, and not once shm_owner_close() is called.
 *
 * Returns 0, or: -EAGAIN there is no host yet, or it has no room just now, so call it again later; -EMFILE, -ENFILE likewise;
 * -ENOENT the host of now does not have the arena, and never will; -EPERM it is another user's; -ENOTSUP this program did
 * not inherit the arena, or $SHM_HOST is not set; -EPROTO it says nonsense.
 */
static inline int shm_arena_rejoin(struct shm_arena_owner *owner)
{
        struct shm_rejoin_host host;
        struct pollfd watched = {-1, 0, 0};
        int error = owner->memory ? shm_rejoin_find(&host) : -ENOTSUP;

        if (error)
                return error;
        watched.fd = owner->link ? owner->link - 1 : (int)host.connection;
        if (poll(&watched, 1, 0) == 0)
                return 0;
        return shm_rejoin_talk(owner, &host, shm_rejoin_uid(owner->link ? owner->link - 1 : (int)host.connection));
}

#endif /* SHM_ARENA_REJOIN_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trip.c - one round trip of an attach: sent, received, and compared with the plainest answer. No Python: it runs
 * without the GIL. See lane.c.
 */
#ifndef SHM_TRIP_H
#define SHM_TRIP_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

/* A request with the Releases before it, and 64 names with a byte count each; or a reply, as many bytes as Python
 * reads at once. */
#define SHM_TRIP_SIZE 20480

static_assert(SHM_TRIP_SIZE >= SHM_LATE_SIZE + 32 + SHM_FRAME_NAMES_MAX * (SHM_NAME_MAX + 2), "the longest request fits");

/* One round trip, without the GIL. */
struct shm_trip {
        int fd;
        int error;   /* of send or recvmsg, as -errno */
        int is_sent;
        int is_good; /* the answer is the plainest */
        int is_put;  /* that is a Published, else an Opened */
        uint32_t spares_max; /* of a Published */
        int flags;   /* of the message that was received */
        ssize_t size;
        uint32_t descriptors;
        int fds[SHM_FRAME_NAMES_MAX];
        union {
                uint8_t bytes[CMSG_SPACE(SHM_FRAME_NAMES_MAX * sizeof(int))];
                struct cmsghdr align;
        } control;
        struct shm_opened opened;
        uint8_t bytes[SHM_TRIP_SIZE];
};

/* Take the descriptors of a message that was received. */
static void shm_trip_take(struct shm_trip *trip, struct msghdr *message)
{
        struct cmsghdr *part;

        for (part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
                size_t size = part->cmsg_len - CMSG_LEN(0), count = size / sizeof(int);

                if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
                        continue;
                if (count > SHM_FRAME_NAMES_MAX - trip->descriptors)
                        count = SHM_FRAME_NAMES_MAX - trip->descriptors; /* the buffer has no room for more */
                memcpy(trip->fds + trip->descriptors, CMSG_DATA(part), count * sizeof(int));
                trip->descriptors += (uint32_t)count;
        }
}

static void shm_trip_receive(struct shm_trip *trip)
{
        struct iovec data = {trip->bytes, sizeof(trip->bytes)};
        struct msghdr message = {0};

        message.msg_iov = &data;
        message.msg_iovlen = 1;
        message.msg_control = trip->control.bytes;
        message.msg_controllen = sizeof(trip->control.bytes);
        trip->size = recvmsg(trip->fd, &message, MSG_CMSG_CLOEXEC);
        trip->error = trip->size < 0 ? -errno : 0;
        trip->flags = message.msg_flags;
        if (!trip->error)
                shm_trip_take(trip, &message);
}

/* Is this a published region that nobody can write any more, the one that the grant says? If so, note its bounds. */
static int shm_grant_check(struct shm_granted *granted, int fd)
{
        struct shm_region_header header;
        int seals;

        if (granted->numbers[SHM_FLAGS] != SHM_FLAG_SEAL_FULL) /* an arena's has more than one */
                return -EPERM;
        seals = shm_seals_get(fd);
        if (seals < 0 || !(seals & SHM_F_SEAL_SHRINK) || !(seals & SHM_F_SEAL_WRITE))
                return -EPERM;
        if (shm_header_read_sealed(fd, seals, &header) || !(header.flags & SHM_FLAG_SEAL_FULL))
                return -EBADMSG;
        if (header.capacity != granted->numbers[SHM_CAPACITY] ||
            (uint64_t)(uintptr_t)header.base != granted->numbers[SHM_ADDRESS])
                return -EBADMSG;
        granted->end = header.size;
        granted->metadata = header.metadata == NULL ? 0 : (uint64_t)((uintptr_t)header.metadata - (uintptr_t)header.base);
        granted->metadata_size = header.metadata_size;
        return 0;
}

/* Send bytes, receive the answer, and see whether it is the plainest one to a request of `count` names. */
static void shm_trip_make(struct shm_trip *trip, const uint8_t *bytes, size_t size, uint64_t id, uint32_t count,
                          uint32_t fields)
{
        int (*read)(const uint8_t *, size_t, uint32_t, struct shm_opened *) =
                trip->is_put ? shm_published_read : shm_opened_read;
        ssize_t sent = send(trip->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        uint32_t i;

        trip->is_sent = sent == (ssize_t)size;
        if (!trip->is_sent) {
                /* All or nothing, up to 32 KiB (see Outbox). A part would be the end of the connection. */
                trip->error = sent < 0 ? -errno : -EPIPE;
                if (sent > 0)
                        (void)shutdown(trip->fd, SHUT_RDWR);
                return;
        }
        shm_trip_receive(trip);
        if (trip->error || trip->flags & (MSG_CTRUNC | MSG_TRUNC) ||
            !read(trip->bytes, (size_t)trip->size, fields, &trip->opened) || trip->opened.id != id ||
            trip->opened.count != count || trip->opened.spare_count > trip->spares_max || trip->descriptors != count + trip->opened.spare_count)
                return;
        for (i = 0; i < count && !trip->is_put; i++) /* what was put is checked when it is mapped */
                if (shm_grant_check(&trip->opened.grants[i], trip->fds[i]))
                        return;
        trip->is_good = 1;
}

static void shm_trip_close(struct shm_trip *trip)
{
        while (trip->descriptors)
                (void)close(trip->fds[--trip->descriptors]);
}

#endif /* SHM_TRIP_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_arena_inherit.h - own and read arenas whose descriptors this program has inherited. See shm_arena.h.
 *
 * $SHM_ARENAS, which `shmclient exec` sets, has a line for each: ten decimal numbers, then the name, all parted by
 * single spaces. They are: the descriptors of the memory, of the control socket (an owner's; -1: a reader) and of the
 * board; the line on that, and the region's number; bytes of the object, bytes of its span, and the home address; the
 * descriptors of the ledger and of its event (a reader's; -1: an owner).
 */
#ifndef SHM_ARENA_INHERIT_H
#define SHM_ARENA_INHERIT_H

#include "shm_arena_own.h"
#include "shm_arena_wait.h"

struct shm_inherited {
        int64_t memory, socket, board;
        int64_t line, region, size, span, home;
        int64_t ledger, event;
};

/* Read the numbers of a line. Returns where its name starts, or NULL: it is not such a line. */
static inline const char *shm_inherited_read(const char *line, struct shm_inherited *inherited_out)
{
        int64_t numbers[10];
        char *after;
        int i;

        for (i = 0; i < 10; i++) {
                /* strtoll() also takes blanks, signs and the line's end: the first byte must be a digit, or of a -1. */
                if ((*line < '0' || *line > '9') && strncmp(line, "-1 ", 3) != 0)
                        return NULL;
                numbers[i] = strtoll(line, &after, 10);
                if (*after != ' ')
                        return NULL;
                line = after + 1;
        }
        memcpy(inherited_out, numbers, sizeof(numbers));
        return line;
}

static_assert(sizeof(struct shm_inherited) == 80, "ten numbers");

/* Find the line of an arena that this program owns, or reads. Returns 0 or -ENOENT. */
static inline int shm_inherited_find(const char *name, int is_owned, struct shm_inherited *inherited_out)
{
        const char *line = getenv("SHM_ARENAS"), *start;
        size_t length = strlen(name);

        for (; line != NULL && *line != 0; line += *line == '\n') {
                start = shm_inherited_read(line, inherited_out);
                if (start != NULL && strncmp(start, name, length) == 0 &&
                    (start[length] == '\n' || start[length] == 0) &&
                    (is_owned ? inherited_out->socket : inherited_out->ledger) >= 0)
                        return 0;
                line += strcspn(line, "\n");
        }
        return -ENOENT;
}

/* Map a board anywhere, for the rest of the program, and find a line. Returns 0 or -errno. */
static inline int shm_inherited_line(const struct shm_inherited *inherited, const struct shm_board_line **line_out)
{
        struct shm_region_header header;
        const struct shm_board *board;
        const void *mapped;
        int error = shm_header_read((int)inherited->board, &header);

        if (error)
                return error;
        mapped = mmap(NULL, (size_t)header.capacity, PROT_READ, MAP_SHARED, (int)inherited->board, 0);
        if (mapped == MAP_FAILED)
                return -errno;
        board = shm_board_of((const struct shm_region_header *)mapped);
        if (board == NULL || inherited->line <= 0 || (uint64_t)inherited->line >= board->lines) {
                munmap((void *)(uintptr_t)mapped, (size_t)header.capacity);
                return -EBADMSG;
        }
        *line_out = shm_board_line(board, (uint64_t)inherited->line);
        return 0;
}

/* Programs that this one starts get none of it. */
static inline void shm_inherited_keep(const struct shm_inherited *inherited)
{
        const int64_t descriptors[] = {inherited->memory, inherited->socket, inherited->board, inherited->ledger,
                                       inherited->event};
        size_t i;

        for (i = 0; i < sizeof(descriptors) / sizeof(descriptors[0]); i++)
                if (descriptors[i] >= 0)
                        (void)fcntl((int)descriptors[i], F_SETFD, FD_CLOEXEC);
}

/*
 * Map an arena for writing at its home: its header page, which is the host's, for reading only. A forked child does not
 * have it. Returns the mapping; NULL: see errno.
 */
static inline void *shm_inherited_map(const struct shm_inherited *inherited)
{
        void *home = (void *)(uintptr_t)inherited->home;
        size_t span = (size_t)inherited->span;
        void *mapped = mmap(home, span, PROT_READ | PROT_WRITE, MAP_SHARED, (int)inherited->memory, 0);

        if (mapped == MAP_FAILED)
                return NULL;
        if (mapped == home && madvise(mapped, span, MADV_DONTFORK) == 0 &&
            mprotect(mapped, SHM_HEADER_SIZE, PROT_READ) == 0) {
                (void)madvise(mapped, span, SHM_MADV_DONTDUMP);
                return mapped;
        }
        if (mapped != home)
                errno = EEXIST;
        munmap(mapped, span);
        return NULL;
}

/*
 * Become the owner of an arena that this program inherited, with room for so many names, and publish it. Its
 * descriptors are the owner's from now on, also after an error. Returns 0 or: -ENOENT $SHM_ARENAS does not have it;
 * -EEXIST its address is taken in this process, or its name by another arena; as shm_owner_make() and shm_arena_ready()
 * do. shm_arena_unmap(&owner->arena), then shm_owner_close() undo it; so does the end of the program.
 */
static inline int shm_arena_own_inherited(const char *name, uint64_t names, struct shm_arena_owner *owner_out)
{
        struct shm_inherited inherited;
        const struct shm_board_line *line = NULL;
        void *memory;
        int error = shm_inherited_find(name, 1, &inherited);

        if (error)
                return error;
        shm_inherited_keep(&inherited);
        error = shm_inherited_line(&inherited, &line);
        memory = error ? NULL : shm_inherited_map(&inherited);
        if (memory == NULL) {
                error = error ? error : -errno;
                close((int)inherited.socket);
                close((int)inherited.memory);
                return error;
        }
        error = shm_owner_make(owner_out, memory, (uint64_t)inherited.home, (uint64_t)inherited.span,
                               (uint64_t)inherited.size, names, (uint64_t)inherited.region, line,
                               (int)inherited.socket);
        if (error == 0 && getenv("SHM_HOST") != NULL)
                owner_out->memory = (int)inherited.memory + 1;
        else
                close((int)inherited.memory); /* the mapping is enough */
        if (error == 0 && (error = shm_arena_ready(owner_out)) != 0)
                shm_owner_close(owner_out);
        if (error)
                munmap(memory, (size_t)inherited.span);
        return error;
}

/*
 * Map an arena that this program inherited, for reading. `holds_out` is zeros before the first one, and the same for
 * all: the program has one ledger. Returns 0 or: -ENOENT $SHM_ARENAS does not have it; as shm_ledger_map() and
 * shm_arena_map_at() do. shm_arena_unmap() undoes it, but for the ledger.
 */
static inline int shm_arena_open_inherited(const char *name, struct shm_arena *arena_out, struct shm_holds *holds_out)
{
        struct shm_inherited inherited;
        const struct shm_board_line *line = NULL;
        int error = shm_inherited_find(name, 0, &inherited);

        if (error)
                return error;
        shm_inherited_keep(&inherited);
        error = shm_inherited_line(&inherited, &line);
        if (!error && holds_out->ledger == NULL)
                error = shm_ledger_map((int)inherited.ledger, holds_out);
        return error ? error
                     : shm_arena_map_at((int)inherited.memory, (uint64_t)inherited.home, (uint64_t)inherited.span, line,
                                        (uint64_t)inherited.region, arena_out);
}

#endif /* SHM_ARENA_INHERIT_H */

/*
 * by_process.h - roads by a process that has the object, the one that writes it or the host: those of debuggers, and those
 * that need no more than a look at its folder in /proc.
 */
#ifndef BY_PROCESS_H
#define BY_PROCESS_H

#include "by_mapping.h"

#include <sys/ptrace.h>

static int by_its_descriptor(const struct holder *holder)
{
        return holder->fd < 0 ? UNTRIED : use(reopen(holder->pid, holder->fd, O_RDWR));
}

static int by_getting_its_descriptor(const struct holder *holder)
{
        int process = (int)syscall(SYS_pidfd_open, holder->pid, 0);

        NEED(process >= 0);
        return holder->fd < 0 ? UNTRIED : use((int)syscall(SYS_pidfd_getfd, process, holder->fd, 0));
}

/* Its mapping as a file. The range is in its maps, which may be hidden, too. */
static int by_its_map_files(const struct holder *holder)
{
        uint64_t start, end;
        char path[64];
        FILE *maps;

        if (!holder->address)
                return UNTRIED;
        snprintf(path, sizeof(path), "/proc/%d/maps", holder->pid);
        maps = fopen(path, "r");
        if (maps == NULL)
                return -errno;
        while (fscanf(maps, "%" SCNx64 "-%" SCNx64 "%*[^\n]", &start, &end) == 2)
                if (start <= holder->address && holder->address < end) {
                        snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, holder->pid, start, end);
                        return use(open(path, O_RDWR));
                }
        return ferror(maps) ? -EACCES : UNTRIED;
}

static int by_its_memory(const struct holder *holder)
{
        return holder->address ? write_memory(holder->pid, holder->address) : UNTRIED;
}

static int by_writing_to_it(const struct holder *holder)
{
        struct iovec local = vector_of_it(), remote = {(char *)(uintptr_t)holder->address + SPOT, 1};

        return holder->address ? outcome(process_vm_writev(holder->pid, &local, 1, &remote, 1, 0)) : UNTRIED;
}

static int by_tracing_it(const struct holder *holder)
{
        return holder->address ? poke(holder->pid, holder->address) : UNTRIED;
}

#define OF_BOTH(name)                           \
        static int name##_of_owner(void)       \
        {                                       \
                return name(&target.owner);     \
        }                                       \
        static int name##_of_host(void)        \
        {                                       \
                return name(&target.host);      \
        }

OF_BOTH(by_its_descriptor)
OF_BOTH(by_getting_its_descriptor)
OF_BOTH(by_its_map_files)
OF_BOTH(by_its_memory)
OF_BOTH(by_writing_to_it)
OF_BOTH(by_tracing_it)

#endif /* BY_PROCESS_H */

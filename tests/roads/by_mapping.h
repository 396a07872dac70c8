/*
 * by_mapping.h - roads by a mapping of the object: to make it writable, or to have the kernel write into it.
 */
#ifndef BY_MAPPING_H
#define BY_MAPPING_H

#include "target.h"

#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define MAPPED(name)                     \
        char *name = mapped(target.fd); \
        if (name == NULL)                \
        return -errno

static int by_mapping(void)
{
        void *valid = mmap(NULL, target.size, PROT_WRITE, MAP_SHARED_VALIDATE, target.fd, 0);

        return both(map_and_write(target.fd), valid == MAP_FAILED ? -errno : 0);
}

static char *read_only(void)
{
        void *memory = mmap(NULL, target.size, PROT_READ, MAP_SHARED, target.fd, 0);

        return memory == MAP_FAILED ? NULL : (char *)memory;
}

static int protect_and_write(char *memory, size_t size)
{
        if (mprotect(memory, size, PROT_READ | PROT_WRITE) < 0)
                return -errno;
        memory[SPOT] = *target.byte;
        return 0;
}

static int by_mprotect(void)
{
        char *memory = read_only();

        return memory == NULL ? -errno : protect_and_write(memory, target.size);
}

/* Twice: a second mapping of the same pages, and that one made larger. */
static int by_mremap(void)
{
        char *memory = read_only(), *again, *larger;
        int first;

        if (memory == NULL)
                return -errno;
        again = (char *)mremap(memory, 0, target.size, MREMAP_MAYMOVE);
        NEED(again != MAP_FAILED);
        first = protect_and_write(again, target.size);
        larger = (char *)mremap(again, target.size, 2 * target.size, MREMAP_MAYMOVE);
        return larger == MAP_FAILED ? first : both(first, protect_and_write(larger, 2 * target.size));
}

static int by_forked_child(void)
{
        char *memory = read_only();
        int status, result;
        pid_t pid;

        if (memory == NULL)
                return -errno;
        pid = fork();
        NEED(pid >= 0);
        if (pid == 0) {
                result = both(protect_and_write(memory, target.size), use(target.fd));
                _exit(-result);
        }
        NEED(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
        return -WEXITSTATUS(status);
}

static int by_removal(void)
{
        MAPPED(memory);
        return outcome(madvise(memory + HOLE, 4096, MADV_REMOVE));
}

static int by_dropping(void)
{
        MAPPED(memory);
        NEED(madvise(memory, target.size, MADV_DONTNEED) == 0);
        return PRIVATE;
}

static int by_populating(void)
{
        MAPPED(memory);
        if (madvise(memory, 4096, MADV_POPULATE_WRITE) < 0)
                return -errno;
        memory[SPOT] = *target.byte;
        return 0;
}

static char *copy_of_it(void)
{
        void *memory = mmap(NULL, target.size, PROT_READ | PROT_WRITE, MAP_PRIVATE, target.fd, 0);

        NEED(memory != MAP_FAILED);
        return (char *)memory;
}

static int by_private_mapping(void)
{
        char *memory = copy_of_it();

        memset(memory, *target.byte, 3 * 4096);
        NEED(madvise(memory, target.size, MADV_DONTNEED) == 0);
        return PRIVATE;
}

static int write_memory(pid_t pid, uint64_t address)
{
        char path[64];
        int memory;

        snprintf(path, sizeof(path), "/proc/%d/mem", pid);
        memory = open(path, O_RDWR);
        return memory < 0 ? -errno : outcome(pwrite(memory, target.byte, 1, (off_t)address + SPOT));
}

/* The kernel writes there whatever the protection is, but not through to a shared object. */
static int by_own_memory(void)
{
        MAPPED(memory);
        return write_memory(getpid(), (uintptr_t)memory);
}

/* The same while the page is dropped again and again (CVE-2016-5195), in a private mapping. */
static int by_own_memory_of_a_copy(void)
{
        void *memory = mmap(NULL, target.size, PROT_READ, MAP_PRIVATE, target.fd, 0);
        int i, status;
        pid_t pid;

        NEED(memory != MAP_FAILED);
        pid = fork();
        NEED(pid >= 0);
        if (pid == 0) {
                for (i = 0; i < 200 && write_memory(getpid(), (uintptr_t)memory) == 0; i++)
                        NEED(madvise(memory, target.size, MADV_DONTNEED) == 0);
                _exit(i == 200 ? PRIVATE : UNTRIED); /* proc_mem.force_override=never */
        }
        NEED(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
        return WEXITSTATUS(status);
}

static int poke(pid_t pid, uint64_t address)
{
        long word = 0;
        int status, result;

        memset(&word, *target.byte, sizeof(word));
        if (ptrace(PTRACE_ATTACH, pid, NULL, NULL) < 0)
                return -errno;
        NEED(waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status));
        result = outcome(ptrace(PTRACE_POKEDATA, pid, (void *)(uintptr_t)(address + SPOT), (void *)word));
        NEED(ptrace(PTRACE_DETACH, pid, NULL, NULL) == 0);
        return result;
}

static int by_poking_a_child(void)
{
        MAPPED(memory);
        int result;
        pid_t pid = fork();

        NEED(pid >= 0);
        if (pid == 0)
                for (;;)
                        pause();
        result = poke(pid, (uintptr_t)memory);
        NEED(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
        return result;
}

static int by_reading_into_it(void)
{
        MAPPED(memory);
        struct iovec into = {memory + SPOT, 1}, from = vector_of_it();
        int ends[2], first;

        pipe_of_it(ends);
        first = outcome(read(ends[0], memory + SPOT, 1));
        return both(first, outcome(process_vm_readv(getpid(), &into, 1, &from, 1, 0)));
}

/* From a pipe into the mapping; and its page into a pipe, and bytes after it. */
static int by_vmsplice(void)
{
        MAPPED(memory);
        struct iovec vector = {memory + SPOT, 1};
        int into[2], from[2], result;

        pipe_of_it(into);
        result = outcome(vmsplice(into[0], &vector, 1, 0));
        NEED(pipe(from) == 0 && vmsplice(from[1], &vector, 1, SPLICE_F_GIFT) == 1 && write(from[1], target.byte, 1) == 1);
        return result;
}

static int by_futex(void)
{
        MAPPED(memory);
        uint32_t word = 0;
        int set = FUTEX_OP(FUTEX_OP_SET, *target.byte, FUTEX_OP_CMP_EQ, 0);

        return outcome(syscall(SYS_futex, &word, FUTEX_WAKE_OP, 1, (void *)1, memory + SPOT, set));
}

/* Fill pages that are not there. */
static int by_userfaultfd(void)
{
        MAPPED(memory);
        struct uffdio_api api = {.api = UFFD_API};
        struct uffdio_register range = {{(uintptr_t)memory, 4096}, UFFDIO_REGISTER_MODE_MISSING, 0};
        struct uffdio_copy copy = {(uintptr_t)memory, 0, 4096, 0, 0};
        char *page = (char *)aligned_alloc(4096, 4096);
        int fault = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

        if (fault < 0)
                return UNTRIED;
        NEED(page != NULL && ioctl(fault, UFFDIO_API, &api) == 0);
        memset(page, *target.byte, 4096);
        (void)!fallocate(target.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
        if (ioctl(fault, UFFDIO_REGISTER, &range) < 0)
                return -errno;
        copy.src = (uintptr_t)page;
        return outcome(ioctl(fault, UFFDIO_COPY, &copy));
}

#endif /* BY_MAPPING_H */

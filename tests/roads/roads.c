/*
 * roads.c - every road by which a process could change an object that is not its own, tried one by one: an attacker with a
 * descriptor of it, of whatever kind. Prints each road and what came of it, and waits for a byte before the next one.
 *
 * Arguments: the descriptor; pid, descriptor and address of the process that writes the object, and of the host; the uid
 * to attack as; the path in /dev/shm, or nothing; the roads, or none for all.
 */
#include "by_descriptor.h"
#include "by_process.h"

#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>

static const struct {
        const char *name;
        int (*go)(void);
} roads[] = {
        {"pwrite", by_pwrite},
        {"write", by_write},
        {"append", by_appending},
        {"aio", by_aio},
        {"splice", by_splice},
        {"sendfile", by_sendfile},
        {"copy_file_range", by_copy_file_range},
        {"page in a pipe", by_the_page_in_a_pipe},
        {"shrink", by_shrinking},
        {"grow", by_growing},
        {"holes", by_holes},
        {"seals", by_seals},
        {"reopen", by_reopening},
        {"O_TRUNC", by_opening_to_truncate},
        {"file handle", by_handle},
        {"fchmod", by_mode},
        {"fchown", by_owner},
        {"mmap", by_mapping},
        {"mprotect", by_mprotect},
        {"mremap", by_mremap},
        {"forked child", by_forked_child},
        {"MADV_REMOVE", by_removal},
        {"MADV_DONTNEED", by_dropping},
        {"MADV_POPULATE_WRITE", by_populating},
        {"private mapping", by_private_mapping},
        {"own /proc/mem", by_own_memory},
        {"own /proc/mem, private", by_own_memory_of_a_copy},
        {"poke a child", by_poking_a_child},
        {"read into it", by_reading_into_it},
        {"vmsplice", by_vmsplice},
        {"futex", by_futex},
        {"userfaultfd", by_userfaultfd},
        {"owner's fd", by_its_descriptor_of_owner},
        {"owner's pidfd_getfd", by_getting_its_descriptor_of_owner},
        {"owner's map_files", by_its_map_files_of_owner},
        {"owner's /proc/mem", by_its_memory_of_owner},
        {"owner's process_vm_writev", by_writing_to_it_of_owner},
        {"owner's ptrace", by_tracing_it_of_owner},
        {"host's fd", by_its_descriptor_of_host},
        {"host's pidfd_getfd", by_getting_its_descriptor_of_host},
        {"host's map_files", by_its_map_files_of_host},
        {"host's /proc/mem", by_its_memory_of_host},
        {"host's process_vm_writev", by_writing_to_it_of_host},
        {"host's ptrace", by_tracing_it_of_host},
        {"name", by_name},
};

static void become(uid_t uid)
{
        if (uid != getuid())
                NEED(setgroups(0, NULL) == 0 && setgid(uid) == 0 && setuid(uid) == 0);
        NEED(prctl(PR_SET_DUMPABLE, 1) == 0); /* as a program that was started by this user */
        signal(SIGXFSZ, SIG_IGN);
}

/* In a process of its own: what it leaves behind goes with it. */
static void attempt(const char *name, int (*go)(void), int *result)
{
        pid_t pid = fork();
        int status;

        NEED(pid >= 0);
        if (pid == 0) {
                if (pread(target.fd, target.byte, 1, SPOT) != 1 || *target.byte != 'X')
                        target.byte[0] = 'X';
                else
                        target.byte[0] = 'Y';
                alarm(20);
                *result = go();
                _exit(0);
        }
        NEED(waitpid(pid, &status, 0) == pid);
        if (!WIFEXITED(status) || WEXITSTATUS(status))
                printf("%s: died of %d\n", name, status);
        else if (*result < 0)
                printf("%s: %s\n", name, strerrorname_np(-*result));
        else
                printf("%s: %s\n", name, *result == 0 ? "open" : *result == PRIVATE ? "private" : "untried");
        fflush(stdout);
}

static int is_chosen(const char *name, char **names)
{
        int is_all = *names == NULL;

        for (; *names; names++)
                if (strcmp(name, *names) == 0)
                        return 1;
        return is_all;
}

static struct holder holder(char **words)
{
        struct holder holder = {atoi(words[0]), atoi(words[1]), strtoull(words[2], NULL, 0)};

        return holder;
}

int main(int count, char **words)
{
        int *result = (int *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        struct stat status;
        size_t i;

        NEED(count > 9 && result != MAP_FAILED);
        target.fd = atoi(words[1]);
        target.owner = holder(words + 2);
        target.host = holder(words + 5);
        target.path = words[9];
        NEED(fstat(target.fd, &status) == 0);
        target.size = (size_t)status.st_size;
        become((uid_t)atoi(words[8]));
        for (i = 0; i < sizeof(roads) / sizeof(roads[0]); i++)
                if (is_chosen(roads[i].name, words + 10)) {
                        attempt(roads[i].name, roads[i].go, result);
                        NEED(getchar() != EOF);
                }
        return 0;
}

/* chain.c ARENA NAME - print the words of a chain that Python has built in an arena, following its pointers. */
#include "world.h"

struct node {
        struct node *next;
        const char *word;
        int number;
};

int main(int argc, char **argv)
{
        static struct shm_holds holds;
        struct shm_arena arena;
        struct shm_arena_value value;
        const struct node *node;

        CHECK(argc == 3 && shm_arena_open_inherited(argv[1], &arena, &holds) == 0);
        CHECK(shm_arena_hold(&arena, &holds, argv[2], strlen(argv[2]), &value) == 0);
        CHECK(value.root_size == sizeof(struct node) && (value.flags & SHM_VALUE_OBJECTS) != 0);
        for (node = (const struct node *)(uintptr_t)value.root; node != NULL; node = node->next)
                printf("%s %d\n", node->word, node->number);
        shm_arena_release(&holds, &value);
        return 0;
}

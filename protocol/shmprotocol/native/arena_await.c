/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena_await.c - a reader of Python that waits for the next value of a name: a look, a sleep and the hold of the new
 * value in one call. See shm_arena_wait.h.
 *
 * It takes only the plainest case: the name has a value, the client is open, the host lives, and its last word is that the
 * arena is current and may be read. In every other case the calls return None, and nothing was done: Python decides.
 */
#ifndef SHM_ARENA_AWAIT_H
#define SHM_ARENA_AWAIT_H

#include <stdint.h>

#include "shm_arena.h"

/* What a look at a name came to. */
enum shm_look {
        SHM_LOOK_FAILED, /* with an exception */
        SHM_LOOK_OTHER,  /* Python decides */
        SHM_LOOK_SAME,   /* it has a value that is not newer */
        SHM_LOOK_NEWER,  /* and that is held */
};

/* A name, which is borrowed, and what is known of it. */
struct shm_looked {
        PyObject *name;
        uint64_t after; /* a generation: the value is to be a newer one */
        uint64_t word;  /* of its entry, while it had this name */
        uint32_t entry;
        PyObject *held; /* the newer value */
};

/* Whether a host that lives says that a region may be read, and the client is open. */
static int shm_current_granted(const struct shm_current *current)
{
        return current->board != NULL && *current->open && !__atomic_load_n(&current->line->moved, __ATOMIC_ACQUIRE) &&
               __atomic_load_n(&current->line->region, __ATOMIC_ACQUIRE) == current->region &&
               shm_current_has_rights(current) && shm_board_word_lives(current->owner);
}

static enum shm_look shm_reader_look(PyObject *self, struct shm_looked *looked)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        const struct shm_current *current = (const struct shm_current *)reader->current;
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(looked->name, &size);

        if (text == NULL || shm_reader_arena(self) == NULL || !shm_reader_is_here(self, looked->name))
                return SHM_LOOK_FAILED;
        if (current == NULL || !shm_current_granted(current) ||
            shm_arena_look(reader->arena, text, (size_t)size, &looked->entry, &looked->word) != 0 ||
            !shm_word_present(looked->word))
                return SHM_LOOK_OTHER;
        if (looked->word >> 2 <= looked->after)
                return SHM_LOOK_SAME;
        looked->held = (PyObject *)shm_reader_hold(self, looked->name, text, size);
        if (looked->held == NULL)
                return PyErr_Occurred() ? SHM_LOOK_FAILED : SHM_LOOK_OTHER;
        if (((struct shm_held_value *)looked->held)->value.generation > looked->after)
                return SHM_LOOK_NEWER;
        Py_CLEAR(looked->held); /* only a liar has one of these */
        return SHM_LOOK_OTHER;
}

/* What a call returns after a look, but for SHM_LOOK_SAME. */
static PyObject *shm_look_answer(enum shm_look look, const struct shm_looked *looked)
{
        if (look == SHM_LOOK_FAILED)
                return NULL;
        return look == SHM_LOOK_NEWER ? looked->held : Py_NewRef(Py_None);
}

/* Take the first two arguments of each call. Returns 0, or -1 with an exception. */
static int shm_looked_start(const char *call, PyObject *const *arguments, Py_ssize_t count, Py_ssize_t expected,
                            struct shm_looked *looked_out)
{
        memset(looked_out, 0, sizeof(*looked_out));
        if (shm_arguments_check(call, count, expected) < 0 || shm_argument(arguments, 1, &looked_out->after) < 0)
                return -1;
        looked_out->name = arguments[0];
        return 0;
}

/* _newer(name, after): the value after a generation, held; False: it is not there yet; None: see above. */
static PyObject *shm_reader_newer(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_looked looked;
        enum shm_look look;

        if (shm_looked_start("_newer", arguments, count, 2, &looked) < 0)
                return NULL;
        look = shm_reader_look(self, &looked);
        return look == SHM_LOOK_SAME ? Py_NewRef(Py_False) : shm_look_answer(look, &looked);
}

/* Note in the ledger that somebody sleeps on a word; NULL: too many do. */
static uint64_t *shm_reader_note(const struct shm_reader *reader, const uint32_t *word, uint64_t event)
{
        uint64_t at = reader->arena->home + (uint64_t)((const uint8_t *)word - reader->arena->base);

        return shm_wait_take(reader->holds, at | event);
}

/* What ends a sleep besides a word of the arena; a `line` or an `owner` of 0 is none. */
struct shm_alarms {
        uint64_t line, line_changes; /* the address of a line of the board, and the number that it had */
        uint64_t owner, thread;      /* the address of the board's word that says that its host lives, and what it said */
        uint64_t waker, wakes;       /* the address of a word of this process, and the number that it had */
        uint64_t wait_ns;
};

/* Have the end of a host be an alarm. Returns 0 if there was one by now. */
static int shm_alarms_hear(struct shm_alarms *alarms, const uint32_t *owner)
{
        alarms->owner = (uint64_t)(uintptr_t)owner;
        alarms->thread = __atomic_load_n(owner, __ATOMIC_ACQUIRE);
        return (alarms->thread & SHM_FUTEX_TID_MASK) != 0;
}

static long shm_futex_wait_any(struct shm_futex_waiter *waiters, unsigned int count, uint64_t wait_ns)
{
        int64_t end_ns = shm_board_now_ns() + (int64_t)wait_ns;
        struct timespec end;

        end.tv_sec = (time_t)(end_ns / 1000000000);
        end.tv_nsec = (long)(end_ns % 1000000000);
        return syscall(SYS_futex_waitv, waiters, count, 0, &end, CLOCK_MONOTONIC);
}

/* Sleep until a word is not `seen`, or an alarm. Returns 0 or an errno, as shm_board_wait() does. */
static int shm_alarms_sleep(const struct shm_alarms *alarms, const uint32_t *word, uint64_t seen)
{
        struct shm_futex_waiter waiters[4] = {
                {seen, (uint64_t)(uintptr_t)word, SHM_FUTEX_32, 0},
                {alarms->wakes, alarms->waker, SHM_FUTEX_32 | SHM_FUTEX_PRIVATE, 0},
        };
        unsigned int count = 2;
        int error = 0;

        if (alarms->line != 0)
                waiters[count++] = (struct shm_futex_waiter){
                        alarms->line_changes, alarms->line + offsetof(struct shm_board_line, changes), SHM_FUTEX_32, 0};
        if (alarms->owner != 0)
                waiters[count++] = (struct shm_futex_waiter){alarms->thread, alarms->owner, SHM_FUTEX_32, 0};
        if (shm_futex_wait_any(waiters, count, alarms->wait_ns) < 0)
                error = errno == EAGAIN ? 0 : errno;
        if (alarms->owner != 0)
                shm_board_pass_on(alarms->owner);
        return error;
}

/*
 * Sleep until a word of the arena is not `seen`, or an alarm. Other threads run meanwhile. Returns 0 or an errno, as
 * shm_board_wait() does; ENOLCK: 504 threads sleep already.
 */
static int shm_reader_rest(const struct shm_reader *reader, const uint32_t *word, uint64_t seen,
                           const struct shm_alarms *alarms)
{
        uint64_t *place = shm_reader_note(reader, word, 0);
        int error;

        if (place == NULL)
                return ENOLCK;
        Py_BEGIN_ALLOW_THREADS
        error = shm_alarms_sleep(alarms, word, seen);
        shm_wait_give(place);
        Py_END_ALLOW_THREADS
        return error;
}

/*
 * _await(name, after, waker, wakes, wait_ns): as _newer(), but sleep before it is False, once: until the value is
 * there, or the waker is used, or the board says something of the arena, or the host goes. Instead of False comes 0, or
 * an errno as from _sleep(). In the kernel only if it sleeps.
 */
static PyObject *shm_reader_await(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        const struct shm_board_line *line = reader->own.line;
        const struct shm_current *current = (const struct shm_current *)reader->current;
        struct shm_alarms alarms;
        struct shm_looked looked;
        enum shm_look look;
        int error;

        if (shm_looked_start("_await", arguments, count, 5, &looked) < 0 ||
            shm_argument(arguments, 2, &alarms.waker) < 0 || shm_argument(arguments, 3, &alarms.wakes) < 0 ||
            shm_argument(arguments, 4, &alarms.wait_ns) < 0)
                return NULL;
        if (line == NULL || current == NULL || current->board == NULL || !shm_alarms_hear(&alarms, current->owner))
                Py_RETURN_NONE;
        alarms.line = (uint64_t)(uintptr_t)line;
        /* Before the look: a change after it ends the sleep at once. */
        alarms.line_changes = __atomic_load_n(&line->changes, __ATOMIC_ACQUIRE);
        look = shm_reader_look(self, &looked);
        if (look != SHM_LOOK_SAME)
                return shm_look_answer(look, &looked);
        error = shm_reader_rest(reader, shm_wait_word(reader->arena, &reader->arena->entries[looked.entry]),
                                looked.word & UINT32_MAX, &alarms);
        look = error == 0 ? shm_reader_look(self, &looked) : SHM_LOOK_SAME;
        return look == SHM_LOOK_SAME ? PyLong_FromLong(error) : shm_look_answer(look, &looked);
}

/*
 * _arm_for(name, after): as _newer(), but have the ledger's event raised with the next value before it is False. Instead
 * of False comes what _disarm() takes; 0: too many are armed.
 */
static PyObject *shm_reader_arm_for(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_reader *reader = (struct shm_reader *)self;
        struct shm_looked looked;
        enum shm_look look;
        uint64_t *place;

        if (shm_looked_start("_arm_for", arguments, count, 2, &looked) < 0)
                return NULL;
        look = shm_reader_look(self, &looked);
        if (look != SHM_LOOK_SAME)
                return shm_look_answer(look, &looked);
        place = shm_reader_note(reader, shm_wait_word(reader->arena, &reader->arena->entries[looked.entry]), 1);
        if (place == NULL)
                return PyLong_FromLong(0);
        look = shm_reader_look(self, &looked); /* the owner could not know before that somebody waits */
        if (look == SHM_LOOK_SAME)
                return PyLong_FromUnsignedLongLong((uint64_t)(uintptr_t)place);
        shm_wait_give(place);
        return shm_look_answer(look, &looked);
}

/* _value(held): what _get() returns for a value that is held. */
static PyObject *shm_reader_value_call(PyObject *self, PyObject *held)
{
        if (!PyObject_TypeCheck(held, (PyTypeObject *)shm_held_value_type)) {
                PyErr_SetString(PyExc_TypeError, "_value takes a HeldValue");
                return NULL;
        }
        return shm_reader_value(self, (struct shm_held_value *)held);
}

#endif /* SHM_ARENA_AWAIT_H */

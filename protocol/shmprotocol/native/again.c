/* SPDX-License-Identifier: Apache-2.0 */
/*
 * again.c - what the next host refuses for now, for lack of room: it is handed back again after a pause, which gets longer
 * each time. A host gives up what is not back after ten minutes, and then all refusals are final. With the mutex held.
 */
#ifndef SHM_AGAIN_H
#define SHM_AGAIN_H

#include <stdint.h>
#include <string.h>

#define SHM_AGAIN_FIRST_NS 20000000u
#define SHM_AGAIN_MOST_NS 5000000000u
#define SHM_AGAIN_NOT_NOW 1               /* NOT_NOW of wire/names.py */
#define SHM_AGAIN_PATIENCE_NS 600000000000u /* for a host that takes no connection: as long as hosts wait */

/* Return the next pause. */
static uint64_t shm_again_pause_ns(struct shm_home *home)
{
        home->pause_ns = home->pause_ns == 0                       ? SHM_AGAIN_FIRST_NS
                         : home->pause_ns > SHM_AGAIN_MOST_NS / 2 ? SHM_AGAIN_MOST_NS
                                                                   : 2 * home->pause_ns;
        return home->pause_ns;
}

/* Note that one that was handed back is refused for now; NULL: it was given up meanwhile. */
static void shm_again_note(struct shm_kept *kept)
{
        if (kept != NULL)
                kept->is_refused = 1;
}

/* Note that of all that is left in this round, as there is no way to hand it over now. */
static void shm_again_note_all(struct shm_home *home)
{
        struct shm_kept *kept;
        uint32_t i;

        for (i = 0; i < home->count; i++)
                shm_again_note(home->batch[i]);
        home->count = 0;
        for (kept = home->first; kept != NULL; kept = kept->next)
                if (kept->round != home->round) {
                        kept->round = home->round;
                        kept->is_refused = 1;
                }
}

/* Return when to go on with what was refused, as everything else is back: UINT64_MAX if nothing was. */
static uint64_t shm_again_due_ns(struct shm_home *home, uint64_t now_ns)
{
        const struct shm_kept *kept = home->first;

        while (kept != NULL && !kept->is_refused)
                kept = kept->next;
        if (kept == NULL)
                home->pause_ns = home->again_ns = 0;
        else if (home->again_ns == 0) /* what is kept meanwhile does not put it off */
                home->again_ns = now_ns + shm_again_pause_ns(home);
        return kept == NULL ? UINT64_MAX : home->again_ns;
}

/* Let what was refused be handed back in this round once more. */
static void shm_again_begin(struct shm_home *home)
{
        struct shm_kept *kept;

        home->again_ns = 0;
        for (kept = home->first; kept != NULL; kept = kept->next)
                if (kept->is_refused) {
                        kept->is_refused = 0;
                        kept->round = home->round - 1;
                }
}

/* Whether a refusal, which begins with this code, is one for now: a missing descriptor, share, line or turn. */
static int shm_again_is_meant(struct shm_frame frame)
{
        static const char *const codes[] = {"quota-exceeded", "out-of-memory", "busy"};
        const char *code;
        uint64_t size;
        size_t i;

        if (!shm_frame_string(&frame, &code, &size))
                return 0;
        for (i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
                if (strlen(codes[i]) == size && memcmp(code, codes[i], size) == 0)
                        return 1;
        return 0;
}

#endif /* SHM_AGAIN_H */

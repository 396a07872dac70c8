/* fuzz.h - what the loop in engine.c and the targets in targets.c know of each other. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

#define FUZZ_SIZE_MAX 12288
#define FUZZ_BASE 0x550000000000 /* of regions in inputs */

extern uint64_t fuzz_taken; /* inputs that were not refused */

/* Run one input. Whatever is wrong ends the process. */
void fuzz_target(const uint8_t *bytes, size_t size);

/* Make an input right in what would end each attempt at once, such as its length; not always (`choice`, of 4). */
void fuzz_repair(uint8_t *bytes, size_t size, uint64_t choice);

/* Read inputs, try so many, and print those that reached more of the code. */
int fuzz_main(uint64_t seed, uint64_t count);

#endif /* FUZZ_H */

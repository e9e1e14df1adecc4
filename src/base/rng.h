/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers: a small seeded generator for decisions that must replay, and the system's for
 * secrets. */
#ifndef WEIR_BASE_RNG_H
#define WEIR_BASE_RNG_H
#include <stddef.h>
#include <stdint.h>

/* xoshiro256** (Blackman, Vigna 2018). Embedded by its owner; not thread-safe. */
struct rng {
    uint64_t s[4];
};

void rng_seed(struct rng *r, uint64_t seed);
uint64_t rng_u64(struct rng *r);
/* Uniform in [0, bound), without bias. @bound > 0. */
uint64_t rng_below(struct rng *r, uint64_t bound);
/* Uniform in [0, 1). */
double rng_unit(struct rng *r);

/* Fill @out from the system's source (getrandom). For keys, tokens, boot ids and seeds. Any thread.
 * */
void rng_system(void *out, size_t size);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* xoshiro256**: D. Blackman, S. Vigna, "Scrambled Linear Pseudorandom Number Generators", 2018. The
 * state is filled by splitmix64 from one word, as its authors advise, so that no seed gives the
 * forbidden state of zeroes. Bounded numbers: D. Lemire, "Fast Random Integer Generation in an
 * Interval", 2019. */
#include "base/rng.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/types.h>

#include "base/assert.h"

static uint64_t rotate_left(uint64_t x, unsigned k)
{
    return (x << k) | (x >> (64 - k));
}

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void rng_seed(struct rng *r, uint64_t seed)
{
    for (size_t i = 0; i < 4; i++)
        r->s[i] = splitmix64(&seed);
    weir_assert((r->s[0] | r->s[1] | r->s[2] | r->s[3]) != 0);
}

uint64_t rng_u64(struct rng *r)
{
    uint64_t result = rotate_left(r->s[1] * 5, 7) * 9;
    uint64_t t = r->s[1] << 17;
    r->s[2] ^= r->s[0];
    r->s[3] ^= r->s[1];
    r->s[1] ^= r->s[2];
    r->s[0] ^= r->s[3];
    r->s[2] ^= t;
    r->s[3] = rotate_left(r->s[3], 45);
    return result;
}

uint64_t rng_below(struct rng *r, uint64_t bound)
{
    weir_assert(bound > 0);
    unsigned __int128 m = (unsigned __int128)rng_u64(r) * bound;
    if ((uint64_t)m < bound) {
        /* Reject the few values that would make small results more likely. */
        uint64_t threshold = -bound % bound;
        while ((uint64_t)m < threshold)
            m = (unsigned __int128)rng_u64(r) * bound;
    }
    return (uint64_t)(m >> 64);
}

double rng_unit(struct rng *r)
{
    return (double)(rng_u64(r) >> 11) * 0x1.0p-53;
}

void rng_system(void *out, size_t size)
{
    unsigned char *p = out;
    while (size > 0) {
        ssize_t n = getrandom(p, size, 0);
        if (n < 0 && errno == EINTR)
            continue;
        /* Without a source of secrets nothing may go on: fails only on kernels we do not run on. */
        weir_assert(n > 0);
        p += n;
        size -= (size_t)n;
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Splitting.
 *
 * Problem: a limit of a group holds over all gateways, and each gateway must hold its part alone.
 * Parts that follow what is seen to arrive would freeze as they are, since a closed loop that is
 * held back shows only what it is let do.
 *
 * Model: everybody gets a stake. Gateways where nobody is held back get what arrives there, a tenth
 * more, and room for chance (or a small one would be held back now and then, and ask for all).
 * Those where somebody is share the rest by the number of streams that are held, and grow eightfold
 * at most from one division to the next, which forgives a mistake. What nobody asks for goes by
 * demand. Fractions are rounded along the running sum, so that nothing is lost or made.
 *
 * Invariants: (1) rates add up to the total, if it is at least n; (2) no rate is 0. */
#include "server/services/split.h"

#include "base/assert.h"

#define MARGIN 1.1 /* room to grow until the next split */
#define GROW 8.0 /* the most that one who is held back may ask for, against what was seen of it */
#define STEPS 64

/* What @p is given beyond its stake at level @x: what it needs, at most @x; or @x for each stream
 * that is held back. */
static double extra_at(const struct split_part *p, double x, double unit)
{
    double stake = unit * p->stake, seen = MARGIN * p->demand + p->room;
    if (p->wanting > 0) {
        double most = GROW * (seen > stake ? seen : stake);
        return x * p->wanting < most ? x * p->wanting : most;
    }
    double need = seen - stake;
    return need < 0 ? 0 : need < x ? need : x;
}

/* Shares beyond the stakes; what is left of @rest when all have what they need. */
static double fill(struct split_part *p, size_t n, double rest, double unit)
{
    double low = 0, high = rest, sum;
    for (int step = 0; step < STEPS; step++) {
        double x = (low + high) / 2;
        sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += extra_at(&p[i], x, unit);
        if (sum <= rest)
            low = x;
        else
            high = x;
    }
    sum = 0;
    for (size_t i = 0; i < n; i++) {
        p[i].share = extra_at(&p[i], low, unit);
        sum += p[i].share;
    }
    return sum < rest ? rest - sum : 0;
}

/* @total by shares, each at least @least. */
static void round_along(uint64_t total, struct split_part *p, size_t n, uint64_t least)
{
    double along = 0, sum = 0;
    uint64_t given = 0;
    for (size_t i = 0; i < n; i++)
        sum += p[i].share;
    for (size_t i = 0; i < n; i++) {
        along += p[i].share;
        double exact = sum > 0 ? along / sum * (double)total : 0;
        uint64_t upto = i + 1 == n || exact >= (double)total ? total : (uint64_t)exact;
        upto = upto < given ? given : upto;
        p[i].rate = upto - given + least;
        given = upto;
    }
}

void split_rate(uint64_t total, struct split_part *p, size_t n)
{
    weir_assert(n > 0 && total > 0);
    if (total <= n) {
        for (size_t i = 0; i < n; i++) {
            p[i].rate = 1;
            p[i].share = 1;
        }
        return;
    }
    /* One unit each first, so that rounding never leaves a zero. */
    double rest = (double)(total - n), unit = rest / (double)(n * SPLIT_STAKE);
    double stakes = 0, demand = 0;
    for (size_t i = 0; i < n; i++) {
        weir_assert(p[i].stake > 0 && p[i].stake <= 1);
        stakes += unit * p[i].stake;
        demand += p[i].demand;
    }
    double left = fill(p, n, rest - stakes, unit);
    for (size_t i = 0; i < n; i++) {
        double stake = unit * p[i].stake;
        p[i].share += stake + left * (p[i].demand + stake) / (demand + stakes);
    }
    round_along(total - n, p, n, 1);
}

void split_like(uint64_t total, struct split_part *p, size_t n)
{
    weir_assert(n > 0);
    round_along(total, p, n, 0);
}

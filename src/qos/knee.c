/* SPDX-License-Identifier: Apache-2.0 */
/* Finding the knee from pairs.
 *
 * Problem: as in window.c, over several gateways, where a step takes a period: there must be few
 * steps, and each is taken on a machine that may be busy with other things, so that any of them may
 * be wrong. A window that is wrong must not stay, above all not one that is too low: it starves all
 * to whom nothing is promised, and what is left, that which is reserved, looks alike at any window.
 *
 * Model: x(n) = min(n, k) / S. The window is 1.1 k and a slot, since not all gateways have
 * something to do at the same moment. The lower one is 0.77 k, or, while k may be far off, a
 * quarter of the window, so that wherever k lies between both, one pair tells it.
 *
 * With e = x / n, what one slot gets done:
 *
 *   e(high) / e(low) like 1        both below the knee: up by a fifth; while far off, by three
 *   like n(low) / n(high)          both above it: down to just below n(low)
 *   between                        k = n(high) e(high) / e(low)
 *
 * Only what went by weight is compared: a look holds nothing else, and so what is reserved is as
 * much at both windows. Where little is left beside what is reserved, that little tells nothing (a
 * handful of answers made a window three times too large): the next look holds what is reserved as
 * well, and then all is compared; so it is where reservations are more than the device can do.
 * Where enough is left at the window but little at the lower one, it is not the same mix: it went
 * at one gateway and not at another, in I/Os of another size. Then a pair that says up is followed
 * by half and not by three: a window three times too large gave the slots of a promise to whoever
 * is behind another gateway.
 *
 * What keeps a wrong k from staying:
 *  1. Up is what a pair says unless its answers are enough to say otherwise. Nothing is learnt from
 *     one whose lower side had as much in flight; if a look that held everything did not lower that
 *     although work waits, the window goes up by half: there pairs tell more.
 *  2. Less, once k is known, is believed when two pairs in a row say so; more at once.
 *  3. After a change the next pair is wanted at once (calm = 0), whichever way it went; so a
 *     window that was lowered in error is questioned in the next period. From there up k may be far
 *     off, and looks are of the deep kind, which noise seldom turns: by three a pair.
 *  4. A window that holds nothing back while a promise is missed goes down, step by step, until it
 *     does, but not below half of what a pair found, nor below what reservations have in flight:
 *     one promise that cannot be kept would take from all others.
 *
 * Invariants: MIN <= slots_milli <= MAX; low <= slots; k is positive. */
#include "qos/knee.h"

#include <math.h>

#include "base/assert.h"

#define MARGIN       1.1
#define MARGIN_SLOTS 1.0
/* The bound of the wait leaves a tenth more than k: some of it is on the way. */
#define BOUNDED   1.1
#define LOW       0.77 /* of k */
#define LOW_FAR   0.25 /* of the window, while k may be far off */
#define LOW_MILLI 500u
#define FLAT      0.96
/* Of so deep a look: were k just below it, the next one would tell. */
#define FLAT_FAR     0.85
#define LINEAR       0.95
#define LOWER        1.1 /* what is in flight must differ by, to be compared */
#define UP           1.2
#define UP_FAR       3.0
#define UP_UNSURE    1.5
#define SPREAD       0.7 /* of one answer: service times vary by less than their mean */
#define DOWN         0.9 /* of what was in flight at the lower window */
#define NEAR         2.5 /* in flight there: no more than this is not far */
#define MOVED        0.1
#define MOVED_SLOTS  0.6
#define IOS_WANTED   1000u
#define IOS_FAR      150u
#define WEIGHED_PART 0.25 /* of what is in flight: less is too little to compare alone */
#define WEIGHED_LOW  0.33 /* of that at the lower window: less says up, and not how far */
#define K_MIN        0.8
#define K_MAX        ((double)WINDOW_SLOTS_MILLI_MAX / 1000.0)

static uint64_t milli_of(double n, uint64_t least)
{
    double milli = n * 1000.0, min = (double)least, max = (double)WINDOW_SLOTS_MILLI_MAX;
    return (uint64_t)(milli < min ? min : milli > max ? max : milli);
}

static double slots(const struct knee *k)
{
    double n = k->k * MARGIN + MARGIN_SLOTS;
    return n * (double)k->bound_ppm / 1e6;
}

/* A k that was believed. */
static void k_set(struct knee *k, double v)
{
    k->k = v < K_MIN ? K_MIN : v > K_MAX ? K_MAX : v;
    k->parallelism_milli = (uint64_t)(k->k * 1000.0);
    k->slots_milli = milli_of(slots(k), WINDOW_SLOTS_MILLI_MIN);
}

void knee_init(struct knee *k, uint64_t parallelism_milli)
{
    *k = (struct knee){.far = true, .bound_ppm = 1000000};
    uint64_t guess = parallelism_milli > 0 ? parallelism_milli : WINDOW_START_MILLI;
    k_set(k, (double)guess / 1000.0);
}

uint64_t knee_low_milli(const struct knee *k)
{
    return milli_of(k->far ? LOW_FAR * slots(k) : LOW * k->k, LOW_MILLI);
}

uint64_t knee_ios_wanted(const struct knee *k)
{
    return k->far ? IOS_FAR : IOS_WANTED;
}

/* What is compared. */
struct side {
    double n, x, ios;
};

static struct side side_of(const struct knee_seen *s, bool all)
{
    return all ? (struct side){s->inflight, s->rate, s->ios}
               : (struct side){s->weighed_inflight, s->weighed_rate, s->weighed_ios};
}

/* Of what a pair says of one slot: its spread, of so few answers. */
static double spread(const struct side *h, const struct side *l)
{
    double ios = 1 / (h->ios > 1 ? h->ios : 1) + 1 / (l->ios > 1 ? l->ios : 1);
    return SPREAD * sqrt(ios);
}

struct verdict {
    double k;
    bool far, up;
};

/* What the pair says, by what one slot got done at the higher window and at the lower one. */
static struct verdict judge(const struct knee *k, const struct knee_seen *high,
                            const struct knee_seen *low)
{
    struct side h = side_of(high, k->all), l = side_of(low, k->all);
    double slot = h.x / h.n / (l.x / l.n), lower = low->inflight / high->inflight;
    if (slot > LINEAR - spread(&h, &l)) {
        double from = high->inflight > k->k ? high->inflight : k->k;
        bool sure = slot > LINEAR && l.n >= WEIGHED_LOW * low->inflight;
        double up = !k->far ? UP : sure ? UP_FAR : UP_UNSURE;
        return (struct verdict){.k = from * up, .far = true, .up = true};
    }
    if (slot * (k->far ? FLAT_FAR : FLAT) <= lower) {
        double down = low->inflight * DOWN;
        return (struct verdict){.k = down < k->k ? down : k->k, .far = low->inflight >= NEAR};
    }
    return (struct verdict){.k = slot * high->inflight};
}

static void k_found(struct knee *k, const struct verdict *v)
{
    double off = v->k > k->k ? v->k - k->k : k->k - v->k;
    bool moved = v->up || (off > MOVED * k->k && off > MOVED_SLOTS);
    if (moved && v->k < k->k && !k->far && !k->doubted) {
        k->doubted = true;
        k->calm = 0;
        return;
    }
    k->doubted = false;
    k->far = v->far;
    k->calm = moved ? 0 : k->calm + 1;
    k->known = v->far ? k->known : v->k;
    /* Small corrections by half, so that noise is evened out. */
    k_set(k, moved ? v->k : 0.5 * (k->k + v->k));
}

void knee_pair(struct knee *k, const struct knee_seen *high, const struct knee_seen *low)
{
    struct side h = side_of(high, k->all), l = side_of(low, k->all);
    bool lowered = high->inflight >= LOWER * low->inflight;
    bool told = lowered && l.n > 0 && l.x > 0 && h.n > 0;
    bool few = high->weighed_inflight < WEIGHED_PART * high->inflight;
    if (told && (k->all || !few)) {
        const struct verdict v = judge(k, high, low);
        k_found(k, &v);
    } else if (!told && k->all) {
        const struct verdict v = {.k = k->k * UP_UNSURE, .far = true, .up = true};
        k_found(k, &v);
    }
    k->all = few || (!told && !k->all);
}

void knee_too_wide(struct knee *k, double inflight, double reserved)
{
    double v = inflight * LOW, least = fmax(fmax(k->k * LOW, 0.5 * k->known), reserved);
    v = fmax(v, least); /* it may be that nobody asks for much */
    if (v >= k->k)
        return;
    k->far = true; /* a device that is just slow is found again by the next pair */
    k->doubted = false;
    k->calm = 0;
    k_set(k, v);
}

void knee_wait(struct knee *k, uint64_t bound_ns, uint64_t wait_p99_ns)
{
    /* With no more in flight than k nothing waits in the device: less would only cost throughput.
     */
    double floor = k->k > 1 ? BOUNDED * k->k : 1, least = floor / (k->k * MARGIN + MARGIN_SLOTS);
    k->bound_ppm =
        bound_ns == 0 ? 1000000 : window_bound_ppm(k->bound_ppm, least, bound_ns, wait_p99_ns);
    k_set(k, k->k);
}

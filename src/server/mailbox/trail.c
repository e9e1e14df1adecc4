/* SPDX-License-Identifier: Apache-2.0 */
#include "server/mailbox/trail.h"

#include <stdlib.h>

#include "base/assert.h"
#include "server/mailbox/gauge.h"

struct part {
    struct wait_hist hist;
    _Atomic uint64_t sum_ns, max_ns;
};

struct trail {
    struct part part[TRAIL_COUNT];
    size_t slots;
    _Atomic uint64_t *warned, *asked; /* by slot: when; 0: not, or it is over */
};

const char *trail_name(enum trail_part part)
{
    static const char *const names[] = {
#define X(name, label) [TRAIL_##name] = label,
        TRAIL_TABLE(X)
#undef X
    };
    weir_assert(part < TRAIL_COUNT);
    return names[part];
}

struct trail *trail_new(size_t slots)
{
    struct trail *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return NULL;
    t->slots = slots;
    t->warned = calloc(slots, sizeof(*t->warned));
    t->asked = calloc(slots, sizeof(*t->asked));
    if (t->warned != NULL && t->asked != NULL)
        return t;
    trail_free(t);
    return NULL;
}

void trail_free(struct trail *t)
{
    if (t == NULL)
        return;
    free(t->warned);
    free(t->asked);
    free(t);
}

void trail_add(struct trail *t, enum trail_part part, uint64_t from_ns, uint64_t to_ns)
{
    if (t == NULL)
        return;
    struct part *p = &t->part[part];
    uint64_t ns = to_ns > from_ns ? to_ns - from_ns : 0;
    gauge_add(&p->hist.bucket[wait_hist_index(ns)], 1);
    gauge_add(&p->sum_ns, ns);
    gauge_max(&p->max_ns, ns); /* of two at once the larger may be lost */
}

static uint64_t took(_Atomic uint64_t *at)
{
    return gauge_read(at) != 0 ? atomic_exchange_explicit(at, 0, memory_order_relaxed) : 0;
}

void trail_forget(struct trail *t, size_t slot)
{
    if (t == NULL)
        return;
    weir_assert(slot < t->slots);
    gauge_write(&t->warned[slot], 0);
    gauge_write(&t->asked[slot], 0);
}

void trail_warned(struct trail *t, size_t slot, uint64_t now_ns)
{
    if (t != NULL)
        gauge_write(&t->warned[slot], now_ns);
}

void trail_answered(struct trail *t, size_t slot, uint64_t now_ns)
{
    uint64_t since = t != NULL ? took(&t->warned[slot]) : 0;
    if (since != 0)
        trail_add(t, TRAIL_WHOLE, since, now_ns);
}

void trail_asked(struct trail *t, size_t slot, uint64_t now_ns)
{
    if (t != NULL)
        gauge_write(&t->asked[slot], now_ns);
}

void trail_heard(struct trail *t, size_t slot, uint64_t now_ns)
{
    uint64_t since = t != NULL ? took(&t->asked[slot]) : 0;
    if (since != 0)
        trail_add(t, TRAIL_GATEWAY, since, now_ns);
}

uint64_t trail_below(const struct trail *t, enum trail_part part, uint64_t edge_ns)
{
    uint64_t n = 0;
    for (uint32_t i = 0; t != NULL && i < WAIT_HIST_BUCKETS && wait_hist_bound(i) <= edge_ns; i++)
        n += gauge_read(&t->part[part].hist.bucket[i]);
    return n;
}

void trail_read(const struct trail *t, enum trail_part part, struct trail_stats *ret)
{
    *ret = (struct trail_stats){.count = trail_below(t, part, UINT64_MAX)};
    if (t == NULL)
        return;
    ret->sum_ns = gauge_read(&t->part[part].sum_ns);
    ret->max_ns = gauge_read(&t->part[part].max_ns);
    ret->p50_ns = wait_hist_quantile(&t->part[part].hist, 500000);
    ret->p99_ns = wait_hist_quantile(&t->part[part].hist, 990000);
}

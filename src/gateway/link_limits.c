/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/link_limits.h"

#include <stdint.h>

#include "base/assert.h"

_Static_assert(LINK_LIMITS_FRAME <= FRAME_LIMITS_MAX, "within the protocol's bound");
_Static_assert(LINK_LIMITS_FRAME * (2 * NAME_SIZE + GATE_KIND_COUNT * 48u + 16u) < FRAME_MAX / 2,
               "a frame of limits fits");

static void limit_build(struct link_limits *l, const struct control *c)
{
    size_t at = l->count++;
    Weir__Control__LimitInForce *out = &l->limit[at];
    weir__control__limit_in_force__init(out);
    out->id = (char *)(uintptr_t)c->id;
    out->rates = l->rate_ptr[at];
    for (uint32_t k = 0; k < GATE_KIND_COUNT; k++) {
        if (c->limits.rate[k].rate == 0)
            continue;
        Weir__Control__Rate *r = &l->rate[at][out->n_rates];
        weir__control__rate__init(r);
        r->kind = k;
        r->rate = c->limits.rate[k].rate;
        l->rate_ptr[at][out->n_rates++] = r;
    }
    l->limit_ptr[at] = out;
}

static void visit(void *arg, const struct control *c, const struct gate_rule *first_rule)
{
    struct link_limits *l = arg;
    (void)first_rule;
    if (!stream_control_agreed(c))
        return;
    if (l->seen++ >= l->first && l->count < LINK_LIMITS_FRAME)
        limit_build(l, c);
}

void link_limits_build(struct link_limits *l, struct stream_table *t, size_t first)
{
    l->first = first;
    l->count = l->seen = 0;
    stream_controls_visit(t, visit, l);
}

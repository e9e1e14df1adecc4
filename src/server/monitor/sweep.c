/* SPDX-License-Identifier: Apache-2.0 */
#include "server/monitor/sweep.h"

#include "base/assert.h"

void sweep_init(struct sweep *s, uint64_t due_ns)
{
    list_init(&s->members);
    s->count = 0;
    s->due_ns = due_ns;
}

void sweep_join(struct sweep *s, struct list *l)
{
    list_push_back(&s->members, l);
    s->count++;
}

void sweep_leave(struct sweep *s, struct list *l)
{
    weir_assert(s->count > 0);
    list_remove(l);
    s->count--;
}

static size_t turns(const struct sweep *s)
{
    return s->count > SWEEP_TURN ? (s->count + SWEEP_TURN - 1) / SWEEP_TURN : 1;
}

size_t sweep_turn(struct sweep *s, uint64_t every_ns, uint64_t now_ns)
{
    size_t of = turns(s), each = (s->count + of - 1) / of;
    uint64_t wait = every_ns / of, late = now_ns > s->due_ns ? (now_ns - s->due_ns) / wait : 0;
    size_t n = late < SWEEP_BEHIND ? (size_t)late + 1 : SWEEP_BEHIND;
    s->due_ns = late < SWEEP_BEHIND ? s->due_ns + n * wait : now_ns + wait;
    return n * each < s->count ? n * each : s->count;
}

struct list *sweep_next(struct sweep *s)
{
    struct list *l = list_pop_front(&s->members);
    if (l != NULL)
        list_push_back(&s->members, l);
    return l;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "server/monitor/sweep.h"

#include "base/assert.h"

void sweep_init(struct sweep *s)
{
    list_init(&s->members);
    s->count = 0;
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

size_t sweep_turn(const struct sweep *s)
{
    size_t n = turns(s);
    return (s->count + n - 1) / n;
}

struct list *sweep_next(struct sweep *s)
{
    struct list *l = list_pop_front(&s->members);
    if (l != NULL)
        list_push_back(&s->members, l);
    return l;
}

uint64_t sweep_wait_ns(const struct sweep *s, uint64_t every_ns)
{
    return every_ns / turns(s);
}

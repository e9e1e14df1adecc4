/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/share.h"

#include <stdlib.h>

#include "base/assert.h"

bool share_rather(const struct rule_group *g, const struct rule_group *other)
{
    if (g->control.share.weight == 0)
        return false;
    if (other == NULL)
        return true;
    return g->control.origin == RULE_PLANNED && other->control.origin != RULE_PLANNED;
}

static struct share *share_get(struct rule_group *g, struct target *target, uint64_t now_ns)
{
    list_for_each(l, &g->shares)
    {
        struct share *s = container_of(l, struct share, link);
        if (s->target == target)
            return s;
    }
    struct share *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->group = g;
    s->target = target;
    sched_share_init(target->sched, &s->sched, &g->control.share, now_ns);
    s->sched.owner = s;
    list_push_back(&g->shares, &s->link);
    target_share_add(target, now_ns);
    return s;
}

static void share_put(struct share *s, uint64_t now_ns)
{
    if (s->sched.flows > 0)
        return;
    sched_share_fini(&s->sched);
    target_share_remove(s->target, now_ns);
    list_remove(&s->link);
    free(s);
}

void share_move(struct share **at, struct rule_group *g, struct target *target,
                struct sched_flow *flow, uint64_t now_ns)
{
    struct share *old = *at;
    if (old != NULL && old->group == g) {
        weir_assert(old->target == target);
        return;
    }
    *at = g != NULL ? share_get(g, target, now_ns) : NULL;
    sched_flow_join(flow, *at != NULL ? &(*at)->sched : NULL, now_ns);
    if (old != NULL)
        share_put(old, now_ns);
}

void share_group_changed(struct rule_group *g, uint64_t now_ns)
{
    /* Without terms its flows leave it next; until then it is worth what it was. */
    if (g->control.share.weight == 0)
        return;
    list_for_each(l, &g->shares)
        sched_share_change(&container_of(l, struct share, link)->sched, &g->control.share, now_ns);
}

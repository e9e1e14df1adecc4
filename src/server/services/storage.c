/* SPDX-License-Identifier: Apache-2.0 */
/* Storages: one bottleneck, before however many gateways.
 *
 * Problem: a victim behind one gateway may be hurt by a bully behind another, when both lead to the
 * same storage. What is decided per bottleneck must see all of its streams.
 *
 * Model: targets of equal URI are one storage, be it that one gateway reaches it with TLS and
 * another without (which is also how one of an older version names a target that requires TLS, so
 * a rolling upgrade must not part them); a target whose URI is not known yet is one of its own.
 * Each gateway reports at its own phase of the period. A storage is looked at once a period,
 * with the last window of each gateway. When a report shows a promise that begins to fail, all its
 * gateways are asked at once, and it is looked at when they have answered: nobody waits for another
 * gateway's phase, and nothing is decided on what was before.
 *
 * Invariants: (1) each target belongs to one storage, each stream to that of its target; (2) a
 * storage has at least one target. */
#include <stdlib.h>
#include <string.h>

#include "base/addr.h"
#include "base/assert.h"
#include "server/services/state.h"

bool storage_named_elsewhere(const struct target *t)
{
    list_for_each(it, &t->storage->targets) {
        const struct target *other = container_of(it, struct target, in_storage);
        if (other != t && strcmp(other->e.name, t->e.name) == 0 &&
            strcmp(other->e.uri, t->e.uri) == 0 &&
            strcmp(other->gateway->e.hello.name, t->gateway->e.hello.name) != 0)
            return true;
    }
    return false;
}

bool storage_leads_to(const struct storage *st, const char *uri)
{
    return uri[0] != '\0' && strcmp(addr_uri_place(st->uri), addr_uri_place(uri)) == 0;
}

static struct storage *storage_get(struct services *s, const struct target *t)
{
    list_for_each(it, &s->storages) {
        struct storage *st = container_of(it, struct storage, link);
        if (storage_leads_to(st, t->e.uri))
            return st;
    }
    struct storage *st = calloc(1, sizeof(*st));
    if (st == NULL)
        return NULL;
    words(st->name, sizeof(st->name), "%s", t->e.name);
    words(st->uri, sizeof(st->uri), "%s", t->e.uri);
    list_init(&st->targets);
    list_init(&st->streams);
    list_push_back(&s->storages, &st->link);
    return st;
}

void storage_take(struct stream *st, struct target *t)
{
    struct storage *to = t != NULL ? t->storage : NULL;
    bool throttled = st->brake.rate > 0;
    if (st->storage != NULL && throttled) {
        weir_assert(st->storage->throttles > 0);
        st->storage->throttles--;
    }
    list_remove(&st->in_storage);
    st->storage = to;
    if (to == NULL)
        return;
    list_push_back(&to->streams, &st->in_storage);
    to->throttles += throttled;
}

static void storage_drop(struct services *s, struct storage *st)
{
    if (!list_empty(&st->targets))
        return;
    weir_assert(list_empty(&st->streams) && st->throttles == 0);
    period_leaves(s, &st->link);
    list_remove(&st->link);
    free(st);
}

bool storage_join(struct services *s, struct target *t)
{
    struct storage *to = storage_get(s, t), *from = t->storage;
    if (to == NULL || to == from)
        return to != NULL;
    period_broken(s);
    period_leaves(s, &t->in_storage);
    list_remove(&t->in_storage);
    t->storage = to;
    list_push_back(&to->targets, &t->in_storage);
    if (from == NULL)
        return true;
    list_for_each_safe(it, &from->streams) {
        struct stream *st = container_of(it, struct stream, in_storage);
        if (st->target == t)
            storage_take(st, t);
    }
    storage_drop(s, from);
    return true;
}

void storage_leave(struct services *s, struct target *t)
{
    period_broken(s);
    period_leaves(s, &t->in_storage);
    list_remove(&t->in_storage);
    storage_drop(s, t->storage);
    t->storage = NULL;
}

static bool begins_to_fail(const struct storage *t, const struct gateway *g)
{
    if (t->was_failing)
        return false;
    list_for_each(it, &g->streams) {
        const struct stream *st = container_of(it, struct stream, in_gateway);
        if (st->storage == t && st->e.verdict == VERDICT_FAILING)
            return true;
    }
    return false;
}

/* Ask all but the one that has just reported: what they said last is of before. */
static void ask_all(struct services *s, struct storage *t)
{
    t->asked_ns = s->now_ns;
    list_for_each(it, &t->targets) {
        struct gateway *g = container_of(it, struct target, in_storage)->gateway;
        if (g->whole_now_ns < s->now_ns)
            gateway_poll_now(s, g);
    }
}

static bool all_answered(const struct storage *t)
{
    list_for_each(it, &t->targets) {
        const struct gateway *g = container_of(it, struct target, in_storage)->gateway;
        if (g->e.live && g->whole_now_ns < t->asked_ns)
            return false;
    }
    return true;
}

bool storage_due(struct services *s, struct storage *t, const struct gateway *g)
{
    uint64_t period = s->config.period_ns;
    bool alone = t->targets.next == t->targets.prev;
    bool begins = t->asked_ns == 0 && begins_to_fail(t, g);
    if (!alone && begins)
        ask_all(s, t);
    bool asked = t->asked_ns != 0 && s->now_ns - t->asked_ns < period;
    bool over = s->now_ns - t->run_ns >= period - period / 10; /* warnings bring answers between */
    bool due = asked ? all_answered(t) : over || (alone && begins);
    if (!due)
        return false;
    t->asked_ns = 0;
    t->run_ns = s->now_ns;
    return true;
}

uint64_t services_parallelism_milli(const struct services *s, const char *target)
{
    list_for_each(it, &s->storages) {
        const struct storage *t = container_of(it, struct storage, link);
        if (strcmp(t->name, target) == 0)
            return t->slots_on ? t->knee.parallelism_milli : 0;
    }
    return 0;
}

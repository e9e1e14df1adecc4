/* SPDX-License-Identifier: Apache-2.0 */
/* Who shrinks before who grows.
 *
 * Problem: the parts that gateways have of one limit add up to it when they are divided. But each
 * gateway hears of its new part in its own time, some not for long, and a server that just started
 * knows nothing of what was divided before. What is in force must not exceed the limit meanwhile,
 * and nobody may wait without end.
 *
 * Model: of each gateway and kind there are three numbers:
 *
 *     aim      what was divided (claim.c)
 *     limits   what is ordered, that is sent or about to be
 *     most     what may be in force there: the largest that was ordered and is not known to be
 *              replaced, by an acknowledgement or by the epoch in a report
 *
 * One that is to shrink is ordered so at once; its `most` follows when it has. One that is to grow
 * is ordered what is free,
 *
 *     free = limit - sum of most - what lost and unheard gateways keep
 *
 * all that it shall have as soon as there is so much for all who grow, which is when the last has
 * followed; after a period of waiting also less, if that is a tenth of what is missing. Aims are
 * compared with aims, never with orders (claim.c), so that waiting divides nothing anew: a division
 * ends in one order for each who shrinks, and in most cases one for each who grows.
 *
 * One that comes anew has nothing in force, and its streams no limit at all: it is ordered what is
 * free at once, at least one unit.
 *
 * After a start of the server: a gateway says with its first answers which limits are in force
 * (`told`); these are its `most`. Gateways that were known before the start and have not been heard
 * since, here or at another process, and those that come meanwhile, may use what of a limit those
 * that were heard do not (`unheard`). It is reckoned once, and only becomes less: as more gateways
 * are heard. Of a limit that none of those who were heard has in force nothing is kept back, for it
 * may be new; nor where one of them does not say. Each process tells the first when it has heard
 * all of its own, and these keep within what it may use; the first tells all when all have
 * (quota.c).
 *
 * A gateway that moves to another process takes its `most` along in the same way, and the tokens
 * for it (quota.c).
 *
 * What ends waiting: an acknowledgement, the epoch in a report, the end of a part, and time: a
 * gateway that did not follow for MOST_NS, as long as a lost one keeps its part, is waited for no
 * longer; nor is one that was not heard for so long after the start.
 *
 * Invariants: (1) most is never below what is ordered; (2) as long as the limit is not lowered, the
 * sum of most and of what is kept does not exceed it, but by a unit for each gateway. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/state.h"

#define MOST_NS (UINT64_C(60) * 1000000000)
/* What is free is given out in parts when it is so much of what is missing. */
#define WORTH 10u
/* Of one gateway, whatever it says. */
#define TOLD_MAX 65536u

/* --- what may be in force ----------------------------------------------------------------- */

static bool follows(const struct part *p)
{
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        if (p->hold.most[k] > p->limits.rate[k].rate)
            return true;
    }
    return false;
}

bool settle_follows(const struct services *s, struct part *p)
{
    struct hold *h = &p->hold;
    if (!p->split || !follows(p))
        return false;
    if (h->epoch > p->gateway->e.epoch_applied && s->now_ns - h->since_ns < MOST_NS)
        return true;
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        h->most[k] = p->limits.rate[k].rate;
    return false;
}

void settle_sent(struct gateway *g)
{
    list_for_each(it, &g->parts) {
        struct part *p = container_of(it, struct part, in_gateway);
        if (p->first && p->split && p->hold.epoch == UINT64_MAX)
            p->hold.epoch = g->e.epoch_desired;
    }
}

void settle_refused(struct gateway *g)
{
    list_for_each(it, &g->parts) {
        struct part *p = container_of(it, struct part, in_gateway);
        if (p->first && p->split && follows(p))
            p->hold.epoch = UINT64_MAX;
    }
}

/* True: somebody may be told of more. */
static bool give_on(struct services *s, struct gateway *g)
{
    bool gave = false;
    g->follows = false;
    list_for_each(it, &g->parts) {
        struct part *p = container_of(it, struct part, in_gateway);
        if (!p->first || !follows(p))
            continue;
        if (settle_follows(s, p)) {
            g->follows = true;
        } else if (p->claim->short_of && p->claim->part_count <= PARTS_AT_ACK) {
            claim_go_on(s, p->claim);
            gave = true;
        }
    }
    return gave;
}

static void look_whether_heard(struct services *s);

bool settle_applied(struct services *s, struct gateway *g)
{
    bool gave = g->follows && give_on(s, g);
    look_whether_heard(s);
    return gave;
}

/* --- orders ------------------------------------------------------------------------------- */

static void order(struct part *first, int kind, struct bucket_rate rate)
{
    struct hold *h = &first->hold;
    struct bucket_rate *was = &first->limits.rate[kind];
    if (rate.rate == was->rate && rate.burst_rate == was->burst_rate &&
        rate.burst_ns == was->burst_ns)
        return;
    *was = rate;
    if (rate.rate < first->least[kind])
        first->least[kind] = rate.rate;
    if (rate.rate > h->most[kind] || rate.rate == 0)
        h->most[kind] = rate.rate;
    h->changed = true;
}

/* Less than its aim: of a burst no more than before. */
static struct bucket_rate cut_down(const struct part *first, int kind, uint64_t rate)
{
    struct bucket_rate aim = first->hold.aim.rate[kind];
    uint64_t burst = first->limits.rate[kind].burst_rate;
    if (burst > aim.burst_rate)
        burst = aim.burst_rate;
    if (burst <= rate)
        return (struct bucket_rate){.rate = rate};
    return (struct bucket_rate){.rate = rate, .burst_rate = burst, .burst_ns = aim.burst_ns};
}

static uint64_t missing(const struct part *p, int kind)
{
    const struct hold *h = &p->hold;
    return h->aim.rate[kind].rate > h->most[kind] ? h->aim.rate[kind].rate - h->most[kind] : 0;
}

/* True: somebody has less than was divided. */
static bool settle_kind(struct part *const *holder, size_t n, int kind, const struct usable *u,
                        bool waited)
{
    uint64_t sum = u->kept[kind], want = 0, total = u->limits.rate[kind].rate;
    bool short_of = false;
    for (size_t i = 0; i < n; i++) {
        sum += holder[i]->hold.most[kind];
        want += missing(holder[i], kind);
    }
    uint64_t free = total > sum ? total - sum : 0;
    bool in_parts = waited && free >= want / WORTH;
    for (size_t i = 0; i < n; i++) {
        struct hold *h = &holder[i]->hold;
        uint64_t lacks = missing(holder[i], kind), rate = h->most[kind];
        if (lacks == 0 || want <= free) {
            order(holder[i], kind, h->aim.rate[kind]);
            continue;
        }
        if (in_parts || rate == 0)
            rate += (uint64_t)((unsigned __int128)free * lacks / want);
        order(holder[i], kind, cut_down(holder[i], kind, rate > 0 ? rate : 1));
        short_of = true;
    }
    return short_of;
}

/* All parts of a holder carry the same limits. */
static void ring_set(struct part *first)
{
    struct part *p = first;
    do {
        p->split = true;
        if (p != first) {
            p->limits = first->limits;
            memcpy(p->least, first->least, sizeof(p->least));
        }
        p = container_of(p->twins.next, struct part, twins);
    } while (p != first);
}

void settle(struct services *s, struct claim *c, struct part *const *holder, size_t n,
            const struct usable *u)
{
    bool short_of = false;
    bool waited = c->short_of && s->now_ns - c->short_ns >= s->config.period_ns;
    for (size_t i = 0; i < n; i++) {
        if (!settle_follows(s, holder[i]) && holder[i]->split)
            holder[i]->hold.since_ns = s->now_ns;
        holder[i]->hold.changed = false;
    }
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        short_of |= settle_kind(holder, n, k, u, waited);
    for (size_t i = 0; i < n; i++) {
        struct part *p = holder[i];
        ring_set(p);
        if (!p->hold.changed)
            continue;
        p->hold.epoch = UINT64_MAX;
        p->gateway->follows = p->gateway->follows || follows(p);
        claim_mark(s, p->gateway);
    }
    if (!c->short_of || waited)
        c->short_ns = s->now_ns;
    c->short_of = short_of;
}

/* --- what gateways say -------------------------------------------------------------------- */

static uint64_t told_hash(const char *id)
{
    return hash_bytes(HASH_SEED, id, strlen(id));
}

static int told_order(const void *a, const void *b)
{
    const struct told *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

void settle_forget(struct gateway *g)
{
    free(g->told);
    g->told = NULL;
    g->told_count = g->told_cap = 0;
    g->told_sorted = false;
}

static struct told *told_new(struct gateway *g)
{
    if (g->told_count == TOLD_MAX)
        return NULL;
    if (g->told_count == g->told_cap) {
        size_t cap = g->told_cap == 0 ? 8 : 2 * g->told_cap;
        struct told *more = reallocarray(g->told, cap, sizeof(*more));
        if (more == NULL)
            return NULL;
        g->told = more;
        g->told_cap = cap;
    }
    g->told_sorted = false;
    return &g->told[g->told_count++];
}

static const struct told *told_find(struct gateway *g, const struct claim *c)
{
    struct told key = {.id = told_hash(c->id)};
    if (g->told_count == 0)
        return NULL;
    if (!g->told_sorted)
        qsort(g->told, g->told_count, sizeof(*g->told), told_order);
    g->told_sorted = true;
    return bsearch(&key, g->told, g->told_count, sizeof(key), told_order);
}

void settle_begin(struct services *s, struct part *p)
{
    const struct told *t = told_find(p->gateway, p->claim);
    weir_assert(p->first);
    p->hold.epoch = UINT64_MAX;
    p->hold.since_ns = s->now_ns;
    if (t != NULL)
        memcpy(p->hold.most, t->rate, sizeof(p->hold.most));
}

/* What is told may be older than what was ordered, and may be what an older life kept. */
static void told_take(struct services *s, struct part *p)
{
    const struct told *t = told_find(p->gateway, p->claim);
    if (t == NULL)
        return;
    if (!follows(p))
        p->hold.since_ns = s->now_ns;
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        uint64_t ordered = p->limits.rate[k].rate;
        p->hold.most[k] = t->rate[k] > ordered ? t->rate[k] : ordered;
    }
    p->gateway->follows = p->gateway->follows || (p->split && follows(p));
}

void settle_tell(struct services *s, struct gateway *g, const struct report *r)
{
    if (!r->limits_said || g->e.epoch_applied > 0)
        return; /* what was in force is replaced since this was said */
    if (r->seq != g->told_seq)
        settle_forget(g);
    g->told_seq = r->seq;
    g->tells = true;
    if (r->limit_count == 0)
        return;
    for (size_t i = 0; i < r->limit_count; i++) {
        struct told *t = told_new(g);
        if (t == NULL)
            return; /* as if it had none of these */
        t->id = told_hash(r->limit[i].id);
        memcpy(t->rate, r->limit[i].rate, sizeof(t->rate));
    }
    list_for_each(it, &g->parts) {
        struct part *p = container_of(it, struct part, in_gateway);
        if (p->first)
            told_take(s, p);
    }
}

void settle_export(struct gateway *g)
{
    struct told *said = g->told;
    size_t n = g->told_count;
    g->told = NULL;
    settle_forget(g);
    list_for_each(it, &g->parts) {
        const struct part *p = container_of(it, struct part, in_gateway);
        struct told *t = p->first ? told_new(g) : NULL;
        if (t == NULL)
            continue;
        t->id = told_hash(p->claim->id);
        memcpy(t->rate, p->hold.most, sizeof(t->rate));
    }
    size_t parts = g->told_count;
    if (parts > 0)
        qsort(g->told, parts, sizeof(*g->told), told_order);
    for (size_t i = 0; i < n; i++) { /* what is agreed may not be known here yet */
        bool known = parts > 0 && bsearch(&said[i], g->told, parts, sizeof(said[i]), told_order);
        struct told *t = known ? NULL : told_new(g);
        if (t != NULL)
            *t = said[i];
    }
    free(said);
    g->follows = false;
}

/* --- after a start ------------------------------------------------------------------------ */

static bool waits(const struct services *s)
{
    return !s->loaded || s->unheard > 0 || s->others_unheard;
}

void settle_unheard(struct services *s, struct claim *c, const struct gate_limits *whole,
                    struct usable *u)
{
    uint64_t sum[GATE_KIND_COUNT] = {0};
    bool tell = true;
    if (!waits(s))
        return;
    list_for_each(it, &c->parts) {
        const struct part *p = container_of(it, struct part, in_claim);
        if (!p->first || !entity_gateway_holds(p->gateway))
            continue;
        tell = tell && p->gateway->tells;
        for (int k = 0; k < GATE_KIND_COUNT; k++)
            sum[k] += p->hold.most[k];
    }
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        uint64_t rate = whole->rate[k].rate, here = u->limits.rate[k].rate;
        uint64_t others = tell && sum[k] > 0 && rate > sum[k] ? rate - sum[k] : 0;
        if (c->unheard[k] > others)
            c->unheard[k] = others;
        /* Of less than the whole, what those who were heard had comes first. */
        uint64_t heard = rate - c->unheard[k], rest = here > heard ? here - heard : 0;
        u->kept[k] += c->unheard[k] < rest ? c->unheard[k] : rest;
    }
}

static void nobody_is_waited_for(struct services *s)
{
    list_for_each(it, &s->claims) {
        struct claim *c = container_of(it, struct claim, link);
        bool kept = false;
        for (int k = 0; k < GATE_KIND_COUNT; k++) {
            kept = kept || c->unheard[k] > 0;
            c->unheard[k] = 0;
        }
        if (kept)
            claim_dirty(s, c);
    }
}

/* To be said: of its own gateways this process waits for none any more, and they keep within what
 * this process may use. */
static void look_whether_heard(struct services *s)
{
    if (!s->others_unheard || s->heard_said || !s->loaded || s->unheard > 0 ||
        !list_empty(&s->dirty))
        return;
    list_for_each(it, &s->e.gateways) {
        const struct gateway *g = container_of(it, struct gateway, e.link);
        if (g->follows && entity_gateway_holds(g))
            return;
    }
    s->heard_said = s->heard_owed = true;
}

static void own_heard(struct services *s)
{
    if (!waits(s))
        nobody_is_waited_for(s);
    look_whether_heard(s);
}

void settle_recalled(struct services *s, struct gateway *g)
{
    if (g->unheard || !waits(s))
        return;
    g->unheard = true;
    s->unheard++;
}

void settle_heard(struct services *s, struct gateway *g)
{
    if (!g->unheard)
        return;
    g->unheard = false;
    weir_assert(s->unheard > 0);
    if (--s->unheard == 0 && s->loaded)
        own_heard(s);
}

void settle_loaded(struct services *s)
{
    s->loaded_ns = s->now_ns;
    if (s->unheard == 0)
        own_heard(s);
}

void settle_others_heard(struct services *s)
{
    if (!s->others_unheard)
        return;
    s->others_unheard = false;
    if (!waits(s))
        nobody_is_waited_for(s);
}

/* Whoever dials and never gives a whole answer would be waited for as long as it does. */
static void wait_no_longer(struct services *s)
{
    list_for_each(it, &s->e.gateways)
        container_of(it, struct gateway, e.link)->unheard = false;
    s->unheard = 0;
    s->others_unheard = false;
    nobody_is_waited_for(s);
}

void settle_period(struct services *s)
{
    if (s->loaded && s->now_ns - s->loaded_ns >= MOST_NS && waits(s))
        wait_no_longer(s);
    look_whether_heard(s);
}

void settle_new(const struct services *s, struct claim *c)
{
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        c->unheard[k] = waits(s) ? UINT64_MAX : 0;
}

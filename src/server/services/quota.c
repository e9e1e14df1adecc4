/* SPDX-License-Identifier: Apache-2.0 */
/* Quotas: how much of a claim's limit this SLA process may use, when there are others.
 *
 * Problem: see coordinator.c; this is the member's side of it.
 *
 * Model: for each claim that has streams here, or of which something other than the default is
 * here, a quota says how many tokens are own. A limit is scaled by them before it is divided among
 * the gateways (claim.c). Tokens leave in two ways only: given back with a note, or carried by a
 * gateway that moves. What is ordered away is first taken from the gateways; only when
 * they have said that they follow is it given back, and until then it is held.
 *
 *   own --order--> held --all gateways follow--> back --note goes out--> (coordinator)
 *
 * What a lost gateway keeps (claim.c) cannot be ordered away. A gateway that moves takes the tokens
 * of what may be in force there (settle.c); the last one of a claim takes all.
 *
 * What may fail: memory for a quota: then the process uses the default part, which is its own
 * anyway; tokens that came for it are lost, so that less is used, never more.
 *
 * Invariants: (1) own + held + back changes by what is granted, returned or carried only; (2) an
 * absent quota is one of the default without streams; (3) an order that does not know of the last
 * change here is not followed: the coordinator hears of it and orders anew. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/services/state.h"

#define KEY_SEED_B UINT64_C(0x9e3779b97f4a7c15)
static bool none(const uint32_t t[GATE_KIND_COUNT])
{
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        if (t[k] != 0)
            return false;
    }
    return true;
}

static struct share_key key_of(const struct claim *c)
{
    size_t n = strlen(c->id);
    return (struct share_key){.a = hash_bytes(HASH_SEED, c->id, n),
                              .b = hash_bytes(KEY_SEED_B, c->id, n)};
}

int quota_init(struct services *s)
{
    const struct services_config *c = &s->config;
    list_init(&s->quota_unsent);
    list_init(&s->quota_releasing);
    if (c->processes_at_start == 0 || s->sink.share == NULL)
        return 0;
    if (table_init(&s->by_quota, c->max_streams) < 0)
        return WEIR_E_FULL;
    s->sharing = c->processes_at_start > 1 || c->process > 0;
    s->others_unheard = c->processes_at_start > 1 && c->process < c->processes_at_start;
    if (c->process > 0)
        return 0;
    s->coordinator = coordinator_new(c->processes_at_start, c->period_ns);
    return s->coordinator != NULL ? 0 : WEIR_E_FULL;
}

static void quota_free(struct quota *q)
{
    list_remove(&q->in_key);
    list_remove(&q->in_unsent);
    list_remove(&q->in_releasing);
    free(q);
}

void quota_fini(struct services *s)
{
    for (size_t i = 0; s->by_quota.slot != NULL && i <= s->by_quota.mask; i++) {
        list_for_each_safe(it, &s->by_quota.slot[i])
            quota_free(container_of(it, struct quota, in_key));
    }
    table_fini(&s->by_quota);
    coordinator_free(s->coordinator);
}

static uint32_t default_of(const struct services *s)
{
    return share_default(s->config.process, s->config.processes_at_start);
}

static struct quota *quota_get(struct services *s, struct share_key key)
{
    struct list *slot = table_slot(&s->by_quota, key.a);
    list_for_each(it, slot) {
        struct quota *q = container_of(it, struct quota, in_key);
        if (q->key.a == key.a && q->key.b == key.b)
            return q;
    }
    struct quota *q = calloc(1, sizeof(*q));
    if (q == NULL)
        return NULL;
    q->key = key;
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        q->own[k] = default_of(s);
    list_push_back(slot, &q->in_key);
    list_init(&q->in_unsent);
    list_init(&q->in_releasing);
    return q;
}

static void quota_unsent(struct services *s, struct quota *q)
{
    if (!list_linked(&q->in_unsent))
        list_push_back(&s->quota_unsent, &q->in_unsent);
}

static void quota_changed(struct services *s, struct quota *q)
{
    q->seq = ++s->quota_seq;
    quota_unsent(s, q);
}

void quota_join(struct services *s, struct claim *c)
{
    c->quota = s->sharing ? quota_get(s, key_of(c)) : NULL;
    if (c->quota == NULL)
        return;
    c->quota->claim = c;
    quota_changed(s, c->quota);
}

static void give_back(struct services *s, struct quota *q)
{
    list_remove(&q->in_releasing);
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        q->back[k] += q->held[k];
        q->held[k] = 0;
    }
    quota_unsent(s, q);
}

void quota_leave(struct services *s, struct claim *c)
{
    struct quota *q = c->quota;
    if (q == NULL)
        return;
    c->quota = NULL;
    q->claim = NULL;
    q->spans = false;
    give_back(s, q); /* no gateway here uses it */
    quota_changed(s, q);
}

/* --- what may be used ------------------------------------------------------------------ */

static uint64_t scaled(uint64_t rate, uint32_t tokens)
{
    if (rate == 0 || tokens >= SHARE_ONE)
        return rate;
    uint64_t part = (uint64_t)((unsigned __int128)rate * tokens / SHARE_ONE);
    return part > 0 ? part : 1; /* 0 would be no limit */
}

void quota_scale(const struct services *s, const struct claim *c, struct gate_limits *l)
{
    if (!s->sharing)
        return;
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        uint32_t own = c->quota != NULL ? c->quota->own[k] : default_of(s);
        l->rate[k].rate = scaled(l->rate[k].rate, own);
        l->rate[k].burst_rate = scaled(l->rate[k].burst_rate, own);
    }
}

void quota_limits(struct services *s, struct claim *c, const struct gate_limits *l)
{
    struct quota *q = c->quota;
    for (int k = 0; q != NULL && k < GATE_KIND_COUNT; k++) {
        if (q->limit[k] == l->rate[k].rate)
            continue;
        q->limit[k] = l->rate[k].rate;
        quota_unsent(s, q);
    }
}

double quota_others_iops(const struct claim *c)
{
    return c->quota != NULL ? c->quota->others_iops : 0;
}

/* Tokens, at most all, without which @rate of @limit cannot be used. */
static uint32_t tokens_for(uint64_t rate, uint64_t limit)
{
    if (limit == 0 || rate == 0)
        return 0;
    unsigned __int128 t = ((unsigned __int128)rate * SHARE_ONE + limit - 1) / limit;
    return t > SHARE_ONE ? SHARE_ONE : (uint32_t)t;
}

/* --- moves ----------------------------------------------------------------------------- */

static uint32_t take(uint32_t *from, uint32_t most)
{
    uint32_t t = most < *from ? most : *from;
    *from -= t;
    return t;
}

static void carry(struct services *s, struct part *p, struct carried *ret)
{
    struct quota *q = p->claim->quota;
    struct gate_limits limits;
    claim_limits(s, p->claim, &limits);
    size_t here = 1; /* parts of it at this gateway */
    list_for_each(it, &p->twins) here++;
    bool last = here == p->claim->part_count;
    ret->key = q->key;
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        uint64_t limit = limits.rate[k].rate;
        uint32_t needs = last ? SHARE_ONE : tokens_for(p->hold.most[k], limit);
        uint32_t for_order = last ? SHARE_ONE : tokens_for(p->limits.rate[k].rate, limit);
        ret->tokens[k] = take(&q->own[k], for_order);
        /* What it uses beyond its order, it may be the one that still uses of what is held. */
        ret->tokens[k] += take(&q->held[k], last ? SHARE_ONE : needs - ret->tokens[k]);
        if (ret->tokens[k] < needs)
            ret->tokens[k] += take(&q->own[k], needs - ret->tokens[k]);
    }
    if (none(q->held))
        list_remove(&q->in_releasing);
    quota_changed(s, q);
}

void quota_export(struct services *s, struct gateway *g)
{
    size_t n = 0;
    list_for_each(it, &g->parts) {
        const struct part *p = container_of(it, struct part, in_gateway);
        n += p->first && p->claim->quota != NULL;
    }
    g->carried = n > 0 ? calloc(n, sizeof(*g->carried)) : NULL;
    g->carried_count = 0;
    if (g->carried == NULL)
        return; /* without memory its part stays here, and it gets a new one there */
    list_for_each(it, &g->parts) {
        struct part *p = container_of(it, struct part, in_gateway);
        if (p->first && p->claim->quota != NULL)
            carry(s, p, &g->carried[g->carried_count++]);
    }
}

void quota_import(struct services *s, struct gateway *g)
{
    for (size_t i = 0; s->sharing && i < g->carried_count; i++) {
        struct quota *q = quota_get(s, g->carried[i].key);
        if (q == NULL)
            continue;
        for (int k = 0; k < GATE_KIND_COUNT; k++)
            q->own[k] += g->carried[i].tokens[k];
        quota_changed(s, q);
    }
    free(g->carried);
    g->carried = NULL;
    g->carried_count = 0;
}

/* --- grants ---------------------------------------------------------------------------- */

/* What lost gateways keep is not ordered away. */
static void keep_frozen(struct services *s, struct claim *c, uint32_t keep[GATE_KIND_COUNT])
{
    uint64_t frozen[GATE_KIND_COUNT];
    struct gate_limits limits;
    claim_limits(s, c, &limits);
    claim_frozen(c, frozen);
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        uint32_t least = tokens_for(frozen[k], limits.rate[k].rate);
        if (keep[k] < least)
            keep[k] = least;
    }
}

/* True: something was taken away. */
static bool obey(struct services *s, struct quota *q, const struct share_grant *g)
{
    bool less = false;
    uint32_t keep[GATE_KIND_COUNT];
    memcpy(keep, g->keep, sizeof(keep));
    if (g->seq < q->seq)
        return false;
    if (q->claim != NULL)
        keep_frozen(s, q->claim, keep);
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        if (q->own[k] <= keep[k])
            continue;
        q->held[k] += q->own[k] - keep[k];
        q->own[k] = keep[k];
        less = true;
    }
    return less;
}

static void granted(struct services *s, const struct share_grant *g)
{
    struct quota *q = quota_get(s, g->key);
    if (q == NULL)
        return;
    bool more = !none(g->granted), spans = g->spans && q->claim != NULL;
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        q->own[k] += g->granted[k];
    bool less = obey(s, q, g), bytes = q->others_bytes != g->others_bytes;
    q->others_iops = g->others_iops;
    q->others_bytes = g->others_bytes;
    if (q->claim == NULL)
        give_back(s, q);
    else if (less && !list_linked(&q->in_releasing))
        list_push_back(&s->quota_releasing, &q->in_releasing);
    if (q->claim != NULL && (more || less || bytes))
        claim_regive(s, q->claim);
    if (less || more || spans != q->spans)
        quota_unsent(s, q);
    q->spans = spans;
}

static void release(struct services *s, struct quota *q)
{
    if (claim_applied(s, q->claim))
        give_back(s, q);
}

void quota_applied(struct services *s, const struct gateway *g)
{
    if (list_empty(&s->quota_releasing))
        return;
    list_for_each(it, &g->parts) {
        const struct claim *c = container_of(it, struct part, in_gateway)->claim;
        if (c->quota != NULL && list_linked(&c->quota->in_releasing) &&
            c->part_count <= PARTS_AT_ACK)
            release(s, c->quota);
    }
}

static void heard(struct services *s, const struct share_batch *b)
{
    uint32_t all = (UINT32_C(1) << s->config.processes_at_start) - 1;
    if (b->to != 0 || s->heard_from == all) { /* the coordinator says it to itself as well */
        settle_others_heard(s);
        return;
    }
    s->heard_from |= UINT32_C(1) << b->from;
    if (s->heard_from == all)
        s->heard_to = all;
}

void services_share(struct services *s, const struct share_batch *b, uint64_t now_ns,
                    int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    if (b->heard)
        heard(s, b);
    for (size_t i = 0; s->coordinator != NULL && i < b->notes; i++)
        coordinator_note(s->coordinator, b->from, &b->note[i], s->now_ns);
    for (size_t i = 0; s->sharing && i < b->grants; i++)
        granted(s, &b->grant[i]);
    dispatch_changed(s, CHANGED_AT_ONCE);
    list_for_each_safe(it, &s->quota_releasing)
        release(s, container_of(it, struct quota, in_releasing));
}

void services_processes(struct services *s, uint32_t running)
{
    if (s->sharing || running < 2 || s->sink.share == NULL || s->by_quota.slot == NULL)
        return;
    s->sharing = true;
    list_for_each(it, &s->claims)
        quota_join(s, container_of(it, struct claim, link));
}

/* --- what goes out --------------------------------------------------------------------- */

static void note_fill(struct services *s, const struct quota *q, struct share_note *n)
{
    *n = (struct share_note){.key = q->key, .seq = q->seq, .member = q->claim != NULL};
    memcpy(n->own, q->own, sizeof(n->own));
    memcpy(n->returned, q->back, sizeof(n->returned));
    if (q->claim == NULL)
        return;
    struct gate_limits limits;
    claim_limits(s, q->claim, &limits);
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        struct split_part need;
        claim_need(q->claim, k, &need);
        n->limit[k] = limits.rate[k].rate;
        n->demand[k] = need.demand;
        n->room[k] = need.room;
        n->wanting[k] = (uint32_t)need.wanting;
        n->connected = n->connected || need.stake >= 1.0;
    }
    n->iops = n->demand[GATE_IOPS_TOTAL];
    n->bytes = claim_bytes(q->claim);
}

/* What differs in nothing from one that is absent. */
static bool idle(const struct services *s, const struct quota *q)
{
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        if (q->own[k] != default_of(s))
            return false;
    }
    return q->claim == NULL && none(q->held) && none(q->back);
}

static void notes_sent(struct services *s, size_t n)
{
    for (; n > 0; n--) {
        struct quota *q = container_of(list_pop_front(&s->quota_unsent), struct quota, in_unsent);
        memset(q->back, 0, sizeof(q->back));
        if (idle(s, q))
            quota_free(q);
    }
}

/* One message; false: nothing to say, or no room now. */
static bool notes_send(struct services *s)
{
    if (list_empty(&s->quota_unsent))
        return false;
    struct share_batch *b = malloc(sizeof(*b));
    if (b == NULL)
        return false;
    b->from = s->config.process;
    b->to = 0;
    b->heard = false;
    b->notes = b->grants = 0;
    for (struct list *it = s->quota_unsent.next;
         it != &s->quota_unsent && b->notes < SHARE_BATCH; it = it->next)
        note_fill(s, container_of(it, struct quota, in_unsent), &b->note[b->notes++]);
    size_t n = b->notes;
    if (s->sink.share(s->sink.ctx, b) < 0) {
        free(b);
        return false;
    }
    notes_sent(s, n);
    return true;
}

static bool grants_send(struct services *s, uint32_t to)
{
    struct share_batch *b = malloc(sizeof(*b));
    if (b == NULL)
        return false;
    b->from = s->config.process;
    b->to = to;
    b->heard = false;
    b->notes = 0;
    b->grants = coordinator_take(s->coordinator, to, b->grant, SHARE_BATCH);
    if (b->grants > 0 && s->sink.share(s->sink.ctx, b) == 0)
        return true;
    coordinator_put_back(s->coordinator, to, b->grant, b->grants);
    free(b);
    return false;
}

/* After a start; true: it was said. */
static bool heard_send(struct services *s, uint32_t to)
{
    struct share_batch *b = malloc(sizeof(*b));
    if (b == NULL)
        return false;
    b->from = s->config.process;
    b->to = to;
    b->heard = true;
    b->notes = b->grants = 0;
    if (s->sink.share(s->sink.ctx, b) == 0)
        return true;
    free(b);
    return false;
}

static void heard_flush(struct services *s)
{
    if (s->heard_owed && heard_send(s, 0))
        s->heard_owed = false;
    for (uint32_t to = 0; s->heard_to != 0 && to < SHARE_PEERS; to++) {
        uint32_t bit = UINT32_C(1) << to;
        if ((s->heard_to & bit) != 0 && heard_send(s, to))
            s->heard_to &= ~bit;
    }
}

void quota_flush(struct services *s)
{
    heard_flush(s);
    while (s->sharing && notes_send(s))
        continue;
    s->share_owed = !list_empty(&s->quota_unsent) || s->heard_owed || s->heard_to != 0;
    if (s->coordinator == NULL)
        return;
    coordinator_run(s->coordinator, s->now_ns);
    uint32_t owes = coordinator_owes(s->coordinator);
    for (uint32_t to = 0; owes != 0 && to < SHARE_PEERS; to++) {
        while ((owes >> to & 1) != 0 && grants_send(s, to))
            continue;
    }
    s->share_owed = s->share_owed || coordinator_owes(s->coordinator) != 0;
}

void quota_period(struct services *s)
{
    settle_period(s);
    list_for_each_safe(it, &s->quota_releasing)
        release(s, container_of(it, struct quota, in_releasing));
    if (!s->sharing)
        return;
    list_for_each(it, &s->claims) {
        const struct claim *c = container_of(it, struct claim, link);
        if (c->quota != NULL && c->quota->spans)
            quota_unsent(s, c->quota);
    }
}

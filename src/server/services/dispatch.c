/* SPDX-License-Identifier: Apache-2.0 */
/* Controls on their way to a gateway.
 *
 * Problem: a gateway must hold exactly the controls that agreements, tenants and throttles say,
 * although members come and go, the way there may be full, and an answer may be "refused" or never
 * come.
 *
 * Model: what a gateway shall have is computed whole (`wish`, ordered by id) and compared with what
 * it was sent last (`sent`, likewise): what differs is sent, what is gone is removed. On a new
 * session, after a refusal, an answer that does not come or a way that was full, everything is sent
 * (`full`). Any update carries every planned throttle, so that it renews their lease; without other
 * cause that happens before half of it is over. Updates are split so that none exceeds a frame of
 * the protocol.
 *
 *   agreement/NAME         limits of an agreement for the group: all its streams at the gateway
 *   agreement/NAME/STREAM  the same for each stream
 *   tenant/NAME            limits of a tenant: all its streams at the gateway
 *   share/NAME[/STREAM]@TARGET  what its members are owed at the target
 *   plan/NAME[/STREAM]@TARGET   planned: the same with what other gateways served, or scaled
 *   target/TARGET          planned: how the gateway shall use its target
 *   throttle/STREAM        planned
 *
 * What a gateway holds of limits over several is settled in claim.c.
 *
 * Invariants: (1) nothing is sent before services_loaded, nor to a gateway that is not admitted;
 * (2) epochs only grow; (3) what could not be sent is sent later, never forgotten. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/state.h"

/* Under FRAME_MAX (1 MiB) of the protocol with room for its tags. */
#define UPDATE_BYTES_MAX (700u * 1024u)
#define ACK_PERIODS      3u
/* Wishes that room is kept for between two gateways. */
#define WISHES_KEPT 1024u

struct wish {
    char id[2 * NAME_SIZE];
    uint64_t content;
    bool planned, remove;
    struct gate_limits limits;
    const struct claim *claim; /* members: its streams here */
    const struct stream *one;  /* or this stream */
    const struct part *part;   /* of a share: only those whose promise it is, at its target */
    struct sched_terms share;
    const struct target *target; /* of a plan */
    struct window_plan plan;
    size_t members, bytes;
};

/* Kept by the process from one gateway to the next, so that most take no memory. */
struct wishes {
    struct wish *w, **pick;
    size_t count, cap, pick_cap;
    bool failed;
};

static struct wish *wish_new(struct wishes *ws)
{
    if (ws->count == ws->cap) {
        size_t cap = ws->cap == 0 ? 16 : 2 * ws->cap;
        struct wish *w = reallocarray(ws->w, cap, sizeof(*w));
        if (w == NULL) {
            ws->failed = true;
            return NULL;
        }
        ws->w = w;
        ws->cap = cap;
    }
    struct wish *w = &ws->w[ws->count++];
    *w = (struct wish){.remove = false};
    return w;
}

static int wish_order(const void *a, const void *b)
{
    const struct wish *x = a, *y = b;
    return strcmp(x->id, y->id);
}

static int sent_order(const void *a, const void *b)
{
    const struct sent *x = a, *y = b;
    return strcmp(x->id, y->id);
}

/* An id that does not fit ends in a hash of the whole. */
static void wish_id(char out[2 * NAME_SIZE], const char *kind, const char *name, const char *at)
{
    size_t size = 2 * NAME_SIZE;
    words(out, size, at[0] != '\0' ? "%s/%s@%s" : "%s/%s%s", kind, name, at);
    if (strlen(kind) + 1 + strlen(name) + (at[0] != '\0') + strlen(at) < size)
        return;
    uint64_t h = hash_bytes(hash_bytes(HASH_SEED, name, strlen(name)), at, strlen(at));
    words(out + size - 18, 18, "~%016llx", (unsigned long long)h);
}

static bool limits_any(const struct gate_limits *l)
{
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        if (l->rate[k].rate != 0)
            return true;
    }
    return false;
}

static bool wish_covers(const struct wish *w, const struct stream *st)
{
    if (w->one != NULL)
        return w->one == st;
    if (w->target != NULL)
        return false;
    if (w->part != NULL)
        return st->agreed == w->claim->agreed && st->target == w->part->target &&
               claim_covers(w->claim, st);
    return claim_covers(w->claim, st);
}

_Static_assert(sizeof(struct gate_limits) == GATE_KIND_COUNT * 3 * sizeof(uint64_t),
               "nothing lies between the fields of limits, which are hashed whole");

/* By fields: what lies between them is whatever was there before, and no change. */
static uint64_t hash_share(uint64_t hash, const struct sched_terms *t)
{
    const uint64_t said[] = {t->reserve_iops,       t->reserve_bytes_s, t->weight,
                             (uint64_t)t->priority, t->latency_us,      t->percentile_ppm,
                             t->while_iops,         t->credit_us,       t->elsewhere_cost_ns,
                             t->elsewhere_ios,      t->elsewhere_bytes};
    hash = hash_bytes(hash, said, sizeof(said));
    hash = hash_bytes(hash, t->reserve_dir_iops, sizeof(t->reserve_dir_iops));
    hash = hash_bytes(hash, t->reserve_dir_bytes_s, sizeof(t->reserve_dir_bytes_s));
    hash = hash_bytes(hash, t->elsewhere_dir_ios, sizeof(t->elsewhere_dir_ios));
    return hash_bytes(hash, t->elsewhere_dir_bytes, sizeof(t->elsewhere_dir_bytes));
}

static uint64_t hash_plan(uint64_t hash, const struct window_plan *p)
{
    const uint64_t said[] = {p->slots_milli,     p->wait_us,         p->observe,
                             p->cost.base_ns[0], p->cost.base_ns[1], p->cost.page_ns[0],
                             p->cost.page_ns[1], p->look.id,         p->look.ms,
                             p->look.slots_milli, p->look.all,
                             p->look.after_ms};
    return hash_bytes(hash, said, sizeof(said));
}

/* Count its members, and make the hash by which a change is seen. */
static void wish_finish(struct wish *w, const struct gateway *g)
{
    uint64_t members_hash = HASH_SEED;
    w->bytes = strlen(w->id) + sizeof(((struct control_item *)NULL)->reason) + 512;
    list_for_each(it, &g->streams)
    {
        const struct stream *st = container_of(it, struct stream, in_gateway);
        if (!wish_covers(w, st))
            continue;
        size_t n = strlen(st->e.key) + 8;
        if (w->bytes + n > UPDATE_BYTES_MAX)
            break; /* gateways have fewer streams than that */
        w->bytes += n;
        w->members++;
        members_hash = hash_bytes(members_hash, st->e.key, strlen(st->e.key) + 1);
    }
    w->content = hash_bytes(members_hash, &w->limits, sizeof(w->limits));
    w->content = hash_share(w->content, &w->share);
    w->content = hash_plan(w->content, &w->plan);
}

static void wish_part(struct gateway *g, const struct part *p, struct wishes *ws)
{
    if (!p->split)
        ws->failed = true; /* for want of memory: later, never without its limits */
    if (!limits_any(&p->limits))
        return;
    struct wish *w = wish_new(ws);
    if (w == NULL)
        return;
    memcpy(w->id, p->claim->id, sizeof(w->id));
    w->limits = p->limits;
    w->claim = p->claim;
    wish_finish(w, g);
}

static void wish_share(struct gateway *g, const struct part *p, bool planned, struct wishes *ws)
{
    const struct sched_terms *t = planned ? &p->planned : &p->share;
    const char *name = strchr(p->claim->id, '/');
    if (t->weight == 0 || name == NULL)
        return;
    struct wish *w = wish_new(ws);
    if (w == NULL)
        return;
    wish_id(w->id, planned ? "plan" : "share", name + 1, p->target->e.name);
    w->planned = planned;
    w->claim = p->claim;
    w->part = p;
    w->share = *t;
    wish_finish(w, g);
}

static void wish_plan(struct gateway *g, const struct target *t, struct wishes *ws)
{
    static const struct window_plan none;
    if (window_plan_same(&t->plan, &none))
        return;
    struct wish *w = wish_new(ws);
    if (w == NULL)
        return;
    wish_id(w->id, "target", t->e.name, "");
    w->planned = true;
    w->target = t;
    w->plan = t->plan;
    wish_finish(w, g);
}

static void wish_throttle(struct gateway *g, struct stream *st, struct wishes *ws)
{
    struct wish *w = wish_new(ws);
    if (w == NULL)
        return;
    const struct entity_throttle *t = &st->e.throttle;
    weir_assert(t->active && t->iops > 0);
    wish_id(w->id, "throttle", st->e.key, "");
    w->planned = true;
    w->one = st;
    w->limits.rate[GATE_IOPS_TOTAL].rate = t->iops;
    if (t->bytes_s != UINT64_MAX && t->bytes_s > 0)
        w->limits.rate[GATE_BYTES_TOTAL].rate = t->bytes_s;
    wish_finish(w, g);
}

static void wishes_collect(struct services *s, struct gateway *g, struct wishes *ws)
{
    uint64_t walk = ++s->walk;
    list_for_each(it, &g->parts)
    {
        struct part *p = container_of(it, struct part, in_gateway);
        if (p->claim->walk != walk) /* one control, before how many targets ever */
            wish_part(g, p, ws);
        p->claim->walk = walk;
        wish_share(g, p, false, ws);
        wish_share(g, p, true, ws);
    }
    list_for_each(it, &g->targets) wish_plan(g, container_of(it, struct target, link), ws);
    list_for_each(it, &g->streams)
    {
        struct stream *st = container_of(it, struct stream, in_gateway);
        if (st->brake.rate > 0)
            wish_throttle(g, st, ws);
    }
    if (ws->count > 0)
        qsort(ws->w, ws->count, sizeof(*ws->w), wish_order);
}

/* --- from wishes to updates
 * --------------------------------------------------------------------------------- */

static const struct sent *sent_find(const struct gateway *g, const char *id)
{
    struct sent key;
    words(key.id, sizeof(key.id), "%s", id);
    if (g->sent_count == 0)
        return NULL;
    return bsearch(&key, g->sent, g->sent_count, sizeof(key), sent_order);
}

/* Removals of what was sent and is no longer wished. @n: wishes in order. */
static void wishes_removals(const struct gateway *g, struct wishes *ws, size_t n)
{
    size_t i = 0;
    for (size_t k = 0; k < g->sent_count; k++) {
        while (i < n && strcmp(ws->w[i].id, g->sent[k].id) < 0)
            i++;
        if (i < n && strcmp(ws->w[i].id, g->sent[k].id) == 0)
            continue;
        struct wish *w = wish_new(ws);
        if (w == NULL)
            return;
        memcpy(w->id, g->sent[k].id, sizeof(w->id));
        w->planned = g->sent[k].planned;
        w->remove = true;
        w->bytes = strlen(w->id) + 64;
    }
}

static void item_fill(struct control_update *u, size_t i, const struct wish *w,
                      const struct gateway *g)
{
    struct control_item *item = &u->item[i];
    memcpy(item->id, w->id, sizeof(item->id));
    item->planned = w->planned;
    item->remove = w->remove;
    item->limits = w->limits;
    item->share = w->share;
    item->plan = w->plan;
    if (w->target != NULL)
        memcpy(item->target, w->target->e.name, sizeof(item->target));
    if (w->planned && w->one != NULL)
        words(item->reason, sizeof(item->reason), "%s", w->one->e.throttle.reason);
    if (w->remove)
        return;
    control_update_members(u, i, w->members);
    size_t n = 0;
    for (struct list *it = g->streams.next; it != &g->streams && n < w->members; it = it->next) {
        const struct stream *st = container_of(it, struct stream, in_gateway);
        if (wish_covers(w, st))
            memcpy(item->member[n++], st->e.key, STREAM_KEY_SIZE);
    }
}

/* Room for @n wishes: as sink.update has it, else of the heap. */
static struct control_update *update_new(const struct services *s, struct wish *const *w, size_t n)
{
    size_t members = 0;
    for (size_t i = 0; i < n; i++)
        members += w[i]->members;
    struct control_update *u = NULL;
    if (s->sink.update != NULL)
        u = s->sink.update(s->sink.ctx, n, members);
    return u != NULL ? u : control_update_new(n, members);
}

/* One update of @n wishes. 0 or an error code (then nothing went). */
static int update_send(struct services *s, struct gateway *g, struct wish *const *w, size_t n,
                       bool full)
{
    struct control_update *u = update_new(s, w, n);
    if (u == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        item_fill(u, i, w[i], g);
    u->epoch = s->epoch + 1;
    u->lease_ms = (uint32_t)(s->config.lease_ns / 1000000);
    u->full = full;
    int err = s->sink.controls(s->sink.ctx, g->e.hello.session, g->e.hello.pair, u);
    if (err < 0) {
        control_update_free(u);
        return err;
    }
    s->epoch++;
    s->stats.controls_sent++;
    g->e.epoch_desired = s->epoch;
    return 0;
}

/* @pick: what is to go, in order. Split by size. */
static int updates_send(struct services *s, struct gateway *g, struct wish **pick, size_t n,
                        bool full)
{
    size_t from = 0;
    do {
        size_t to = from, bytes = 0;
        while (to < n && (to == from || bytes + pick[to]->bytes <= UPDATE_BYTES_MAX))
            bytes += pick[to++]->bytes;
        int err = update_send(s, g, n > 0 ? pick + from : NULL, to - from, full && from == 0);
        if (err < 0)
            return err;
        from = to;
    } while (from < n);
    return 0;
}

static int sent_replace(struct gateway *g, const struct wishes *ws, size_t n)
{
    if (n > g->sent_cap) {
        struct sent *sent = reallocarray(g->sent, n, sizeof(*sent));
        if (sent == NULL)
            return -ENOMEM;
        g->sent = sent;
        g->sent_cap = n;
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(g->sent[i].id, ws->w[i].id, sizeof(g->sent[i].id));
        g->sent[i].content = ws->w[i].content;
        g->sent[i].planned = ws->w[i].planned;
    }
    g->sent_count = n;
    return 0;
}

static void throttles_sent(struct gateway *g)
{
    list_for_each(it, &g->streams)
    {
        struct stream *st = container_of(it, struct stream, in_gateway);
        struct entity_throttle *t = &st->e.throttle;
        bool removed = !t->active && t->applied_iops != UINT64_MAX && t->epoch == 0;
        if (st->brake.changed || removed)
            t->epoch = g->e.epoch_desired;
        st->brake.changed = false;
    }
}

static bool pick_room(struct wishes *ws)
{
    if (ws->pick_cap >= ws->count)
        return true;
    struct wish **pick = reallocarray(ws->pick, ws->cap, sizeof(*pick));
    if (pick == NULL)
        return false;
    ws->pick = pick;
    ws->pick_cap = ws->cap;
    return true;
}

/* What of @ws goes: all when full, else what is new, differs or is planned. */
static size_t wishes_pick(const struct gateway *g, struct wishes *ws, bool full)
{
    struct wish **pick = ws->pick;
    size_t n = 0;
    for (size_t i = 0; i < ws->count; i++) {
        struct wish *w = &ws->w[i];
        const struct sent *was = w->remove ? NULL : sent_find(g, w->id);
        if (full || was == NULL || was->content != w->content || w->planned)
            pick[n++] = w;
    }
    return n;
}

static int dispatch_wishes(struct services *s, struct gateway *g, struct wishes *ws, bool full)
{
    wishes_collect(s, g, ws);
    size_t wished = ws->count;
    if (!full)
        wishes_removals(g, ws, wished);
    if (ws->failed || !pick_room(ws))
        return -ENOMEM;
    size_t n = wishes_pick(g, ws, full);
    int err = n > 0 || full ? updates_send(s, g, ws->pick, n, full) : 0;
    if (err == 0)
        err = sent_replace(g, ws, wished);
    if (err == 0 && (n > 0 || full)) {
        throttles_sent(g);
        g->sent_ns = g->renewed_ns = s->now_ns;
    }
    return err;
}

static bool renew_due(const struct services *s, const struct gateway *g)
{
    bool any = false;
    for (size_t i = 0; i < g->sent_count && !any; i++)
        any = g->sent[i].planned;
    uint64_t half = s->config.lease_ns / 2;
    uint64_t early = half > s->config.period_ns ? half - s->config.period_ns : 0;
    return any && s->now_ns - g->renewed_ns >= early;
}

void dispatch_fini(struct services *s)
{
    if (s->wishes == NULL)
        return;
    free(s->wishes->w);
    free(s->wishes->pick);
    free(s->wishes);
    s->wishes = NULL;
}

/* Those of the process, empty; NULL: no memory. */
static struct wishes *wishes_room(struct services *s)
{
    if (s->wishes != NULL && s->wishes->cap > WISHES_KEPT)
        dispatch_fini(s);
    if (s->wishes == NULL)
        s->wishes = calloc(1, sizeof(*s->wishes));
    if (s->wishes != NULL) {
        s->wishes->count = 0;
        s->wishes->failed = false;
    }
    return s->wishes;
}

void dispatch_gateway(struct services *s, struct gateway *g)
{
    if (!s->loaded || !g->e.live || g->e.state != GATEWAY_ADMITTED || s->now_ns < g->retry_ns)
        return;
    if (g->e.epoch_applied < g->e.epoch_desired &&
        s->now_ns - g->sent_ns > ACK_PERIODS * s->config.period_ns)
        g->send_full = true;
    claim_split_dirty(s, g);
    bool full = g->send_full;
    if (!full && !g->throttles_changed && !g->parts_changed && g->generation == s->generation &&
        !renew_due(s, g))
        return;
    uint64_t generation = s->generation;
    struct wishes *ws = wishes_room(s);
    int err = ws != NULL ? dispatch_wishes(s, g, ws, full) : -ENOMEM;
    if (err < 0) {
        s->stats.controls_kept++;
        g->send_full = true;
        g->retry_ns = s->now_ns + s->config.period_ns / 4;
        return;
    }
    settle_sent(g);
    if (full)
        settle_forget(g); /* all that was in force is replaced */
    g->generation = generation;
    g->throttles_changed = g->send_full = g->parts_changed = false;
    g->retry_ns = 0;
}

void dispatch_changed(struct services *s, size_t at_most)
{
    size_t n = 0;
    for (const struct list *it = s->changed.next; it != &s->changed; it = it->next) {
        if (++n > at_most)
            return;
    }
    while (!list_empty(&s->changed)) {
        struct gateway *g = container_of(s->changed.next, struct gateway, in_changed);
        period_leaves(s, &g->in_changed);
        list_remove(&g->in_changed);
        dispatch_gateway(s, g);
    }
}

void dispatch_forget(struct gateway *g)
{
    free(g->sent);
    g->sent = NULL;
    g->sent_count = g->sent_cap = 0;
    g->e.epoch_desired = 0;
    g->e.epoch_applied = 0;
}

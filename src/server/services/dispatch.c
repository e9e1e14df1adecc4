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
 *   throttle/STREAM        planned
 *
 * A limit whose members are at n gateways is divided by n, never to be exceeded in sum; gateways
 * without a connected member count only for themselves. One that was lost less than a minute ago
 * still counts: what agreements say goes on there without a server.
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
#define ACK_PERIODS 3u
#define HOLDERS_MAX 1000000u

struct wish {
    char id[2 * NAME_SIZE];
    uint64_t content;
    bool planned, remove;
    struct gate_limits limits;
    const struct agreed *group;  /* members: its streams here */
    int32_t tenant;              /* or those of this tenant, if >= 0 */
    const struct stream *one;    /* or this stream */
    size_t members, bytes;
};

struct wishes {
    struct wish *w;
    size_t count, cap;
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
    *w = (struct wish){.tenant = -1};
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
static void wish_id(char out[2 * NAME_SIZE], const char *kind, const char *name, const char *key)
{
    size_t size = 2 * NAME_SIZE;
    bool both = key[0] != '\0' && name[0] != '\0';
    if (both)
        words(out, size, "%s/%s/%s", kind, name, key);
    else
        words(out, size, "%s/%s", kind, name[0] != '\0' ? name : key);
    if (strlen(kind) + 1 + strlen(name) + (both ? 1 : 0) + strlen(key) < size)
        return;
    uint64_t h = hash_bytes(hash_bytes(HASH_SEED, name, strlen(name)), key, strlen(key));
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

static void limits_divide(struct gate_limits *l, uint64_t n)
{
    for (int k = 0; n > 1 && k < GATE_KIND_COUNT; k++) {
        struct bucket_rate *r = &l->rate[k];
        if (r->rate == 0)
            continue;
        r->rate = r->rate / n > 0 ? r->rate / n : 1;
        r->burst_rate /= n;
        if (r->burst_rate <= r->rate)
            r->burst_rate = r->burst_ns = 0;
    }
}

/* --- over how many gateways a limit is divided
 * ------------------------------------------------------------ */

static void holder_count(struct services *s, const struct stream *st, uint32_t *n)
{
    struct gateway *h = st->gateway;
    if (st->e.connections == 0 || h->mark == s->mark || !entity_gateway_holds(h))
        return;
    h->mark = s->mark;
    if (*n < HOLDERS_MAX)
        (*n)++;
}

struct volume_size {
    uint64_t hash, bytes;
};

static int volume_order(const void *a, const void *b)
{
    const struct volume_size *x = a, *y = b;
    return x->hash < y->hash ? -1 : x->hash > y->hash;
}

/* Size of the volumes that an agreement covers: one that several hosts or gateways use counts
 * once. */
static uint64_t volumes_bytes(const struct agreed *a)
{
    struct volume_size *v = calloc(a->e.streams + 1, sizeof(*v));
    uint64_t sum = 0;
    size_t n = 0;
    if (v == NULL)
        return 0;
    list_for_each(it, &a->covered) {
        const struct stream *st = container_of(it, struct cover, in_agreed)->stream;
        uint64_t h = hash_bytes(HASH_SEED, st->e.target_name, strlen(st->e.target_name) + 1);
        v[n].hash = hash_bytes(h, st->e.volume, strlen(st->e.volume));
        v[n++].bytes = st->e.size;
    }
    qsort(v, n, sizeof(*v), volume_order);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || v[i].hash != v[i - 1].hash)
            sum += v[i].bytes;
    }
    free(v);
    return sum;
}

/* The limit that is meant for @bytes, by so much for each GiB. */
static void rate_adapt(struct bucket_rate *r, uint64_t each, uint64_t least, uint64_t bytes)
{
    if (each == 0)
        return;
    unsigned __int128 rate = (unsigned __int128)each * bytes / (UINT64_C(1) << 30);
    if (rate < least)
        rate = least;
    if (rate < 1)
        rate = 1;
    if (r->rate == 0 || rate < r->rate)
        r->rate = rate > BUCKET_RATE_MAX ? BUCKET_RATE_MAX : (uint64_t)rate;
}

static void limits_adapt(struct gate_limits *l, const struct per_gib *p, uint64_t bytes)
{
    rate_adapt(&l->rate[GATE_IOPS_TOTAL], p->iops, p->least_iops, bytes);
    rate_adapt(&l->rate[GATE_BYTES_TOTAL], p->bytes_s, p->least_bytes_s, bytes);
}

static uint32_t group_holders(struct services *s, struct agreed *a)
{
    if (a->holders_generation != s->generation) {
        a->holders = 0;
        a->holders_generation = s->generation;
        s->mark++;
        list_for_each(it, &a->covered)
            holder_count(s, container_of(it, struct cover, in_agreed)->stream, &a->holders);
        a->covered_bytes = a->e.agreement.per_gib.iops + a->e.agreement.per_gib.bytes_s > 0
                               ? volumes_bytes(a)
                               : 0;
    }
    return a->holders;
}

static uint32_t tenant_holders(struct services *s, int32_t tenant)
{
    struct tenancy *t = &s->tenancies[tenant];
    if (t->holders_generation != s->generation) {
        t->holders = 0;
        t->holders_generation = s->generation;
        s->mark++;
        list_for_each(it, &s->e.streams) {
            const struct stream *st = container_of(it, struct stream, e.link);
            if (st->tenant == tenant)
                holder_count(s, st, &t->holders);
        }
    }
    return t->holders;
}

static bool wish_covers(const struct wish *w, const struct stream *st)
{
    if (w->one != NULL)
        return w->one == st;
    for (size_t i = 0; w->group != NULL && i < st->cover_count; i++) {
        if (st->cover[i].agreed == w->group)
            return true;
    }
    return w->tenant >= 0 && st->tenant == w->tenant;
}

/* Divide its limits, count its members, and make the hash by which a change is seen. */
static void wish_finish(struct wish *w, const struct gateway *g, uint32_t holders)
{
    bool here = false;
    uint64_t members_hash = HASH_SEED;
    w->bytes = strlen(w->id) + sizeof(((struct control_item *)NULL)->reason) + 256;
    list_for_each(it, &g->streams) {
        const struct stream *st = container_of(it, struct stream, in_gateway);
        if (!wish_covers(w, st))
            continue;
        size_t n = strlen(st->e.key) + 8;
        if (w->bytes + n > UPDATE_BYTES_MAX)
            break; /* gateways have fewer streams than that */
        w->bytes += n;
        w->members++;
        here = here || st->e.connections > 0;
        members_hash = hash_bytes(members_hash, st->e.key, strlen(st->e.key) + 1);
    }
    if (holders > 0)
        limits_divide(&w->limits, here ? holders : holders + 1);
    w->content = hash_bytes(members_hash, &w->limits, sizeof(w->limits));
}

static void wish_agreed(struct services *s, struct gateway *g, struct stream *st,
                        struct agreed *agreed, struct wishes *ws)
{
    const struct agreement *a = &agreed->e.agreement;
    if (!limits_any(&a->limits) && a->per_gib.iops + a->per_gib.bytes_s == 0)
        return;
    struct wish *w = wish_new(ws);
    if (w == NULL)
        return;
    w->limits = a->limits;
    if (a->per == AGREEMENT_PER_STREAM) {
        wish_id(w->id, "agreement", a->name, st->e.key);
        w->one = st;
        limits_adapt(&w->limits, &a->per_gib, st->e.size);
        wish_finish(w, g, 0);
    } else {
        uint32_t holders = group_holders(s, agreed);
        wish_id(w->id, "agreement", a->name, "");
        w->group = agreed;
        limits_adapt(&w->limits, &a->per_gib, agreed->covered_bytes);
        wish_finish(w, g, holders);
    }
}

static void wish_tenant(struct services *s, struct gateway *g, struct stream *st, struct wishes *ws)
{
    const struct tenant *t = &s->tenants[st->tenant];
    if (!limits_any(&t->limits))
        return;
    struct wish *w = wish_new(ws);
    if (w == NULL)
        return;
    w->limits = t->limits;
    w->tenant = st->tenant;
    wish_id(w->id, "tenant", t->name, "");
    wish_finish(w, g, tenant_holders(s, st->tenant));
}

static void wish_throttle(struct gateway *g, struct stream *st, struct wishes *ws)
{
    struct wish *w = wish_new(ws);
    if (w == NULL)
        return;
    const struct entity_throttle *t = &st->e.throttle;
    weir_assert(t->active && t->iops > 0);
    wish_id(w->id, "throttle", "", st->e.key);
    w->planned = true;
    w->one = st;
    w->limits.rate[GATE_IOPS_TOTAL].rate = t->iops;
    if (t->bytes_s != UINT64_MAX && t->bytes_s > 0)
        w->limits.rate[GATE_BYTES_TOTAL].rate = t->bytes_s;
    wish_finish(w, g, 0);
}

/* A mark of the walk apart from s->mark, which counting holders moves on. */
static bool first_time(uint64_t *mark, uint64_t walk)
{
    if (*mark == walk)
        return false;
    *mark = walk;
    return true;
}

static void wishes_collect(struct services *s, struct gateway *g, struct wishes *ws)
{
    uint64_t walk = ++s->walk;
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        for (size_t i = 0; i < st->cover_count; i++) {
            struct agreed *a = st->cover[i].agreed;
            if (a->e.agreement.per == AGREEMENT_PER_STREAM || first_time(&a->walk, walk))
                wish_agreed(s, g, st, a, ws);
        }
        if (st->tenant >= 0 && first_time(&s->tenancies[st->tenant].mark, walk))
            wish_tenant(s, g, st, ws);
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

static int item_fill(struct control_update *u, size_t i, const struct wish *w,
                     const struct gateway *g)
{
    struct control_item *item = &u->item[i];
    memcpy(item->id, w->id, sizeof(item->id));
    item->planned = w->planned;
    item->remove = w->remove;
    item->limits = w->limits;
    if (w->planned && w->one != NULL)
        words(item->reason, sizeof(item->reason), "%s", w->one->e.throttle.reason);
    if (w->remove)
        return 0;
    int err = control_update_members(u, i, w->members);
    size_t n = 0;
    for (struct list *it = g->streams.next; err == 0 && it != &g->streams && n < w->members;
         it = it->next) {
        const struct stream *st = container_of(it, struct stream, in_gateway);
        if (wish_covers(w, st))
            memcpy(item->member[n++], st->e.key, STREAM_KEY_SIZE);
    }
    return err;
}

/* One update of @n wishes. 0 or an error code (then nothing went). */
static int update_send(struct services *s, struct gateway *g, struct wish *const *w, size_t n,
                       bool full)
{
    struct control_update *u = control_update_new(n);
    int err = u == NULL ? -ENOMEM : 0;
    for (size_t i = 0; err == 0 && i < n; i++)
        err = item_fill(u, i, w[i], g);
    if (err == 0) {
        u->epoch = s->epoch + 1;
        u->lease_ms = (uint32_t)(s->config.lease_ns / 1000000);
        u->full = full;
        err = s->sink.controls(s->sink.ctx, g->e.hello.session, g->e.hello.pair, u);
    }
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
        int err = update_send(s, g, pick + from, to - from, full && from == 0);
        if (err < 0)
            return err;
        from = to;
    } while (from < n);
    return 0;
}

static int sent_replace(struct gateway *g, const struct wishes *ws, size_t n)
{
    struct sent *sent = NULL;
    if (n > 0) {
        sent = calloc(n, sizeof(*sent));
        if (sent == NULL)
            return -ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(sent[i].id, ws->w[i].id, sizeof(sent[i].id));
        sent[i].content = ws->w[i].content;
        sent[i].planned = ws->w[i].planned;
    }
    free(g->sent);
    g->sent = sent;
    g->sent_count = n;
    return 0;
}

static void throttles_sent(struct gateway *g)
{
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        struct entity_throttle *t = &st->e.throttle;
        bool removed = !t->active && t->applied_iops != UINT64_MAX && t->epoch == 0;
        if (st->brake.changed || removed)
            t->epoch = g->e.epoch_desired;
        st->brake.changed = false;
    }
}

/* What of @ws goes: all when full, else what is new, differs or is planned. */
static size_t wishes_pick(const struct gateway *g, struct wishes *ws, bool full, struct wish **pick)
{
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
    if (ws->failed)
        return -ENOMEM;
    struct wish **pick = calloc(ws->count + 1, sizeof(*pick));
    if (pick == NULL)
        return -ENOMEM;
    size_t n = wishes_pick(g, ws, full, pick);
    int err = n > 0 || full ? updates_send(s, g, pick, n, full) : 0;
    free(pick);
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

void dispatch_gateway(struct services *s, struct gateway *g)
{
    if (!s->loaded || !g->e.live || g->e.state != GATEWAY_ADMITTED || s->now_ns < g->retry_ns)
        return;
    if (g->e.epoch_applied < g->e.epoch_desired &&
        s->now_ns - g->sent_ns > ACK_PERIODS * s->config.period_ns)
        g->send_full = true;
    bool full = g->send_full;
    if (!full && !g->throttles_changed && g->generation == s->generation && !renew_due(s, g))
        return;
    uint64_t generation = s->generation;
    struct wishes ws = {.w = NULL};
    int err = dispatch_wishes(s, g, &ws, full);
    free(ws.w);
    if (err < 0) {
        s->stats.controls_kept++;
        g->send_full = true;
        g->retry_ns = s->now_ns + s->config.period_ns / 4;
        return;
    }
    g->generation = generation;
    g->throttles_changed = g->send_full = false;
    g->retry_ns = 0;
}

void dispatch_all(struct services *s)
{
    list_for_each(it, &s->e.gateways)
        dispatch_gateway(s, container_of(it, struct gateway, e.link));
}

void dispatch_forget(struct gateway *g)
{
    free(g->sent);
    g->sent = NULL;
    g->sent_count = 0;
    g->e.epoch_desired = 0;
    g->e.epoch_applied = 0;
}

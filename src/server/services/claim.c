/* SPDX-License-Identifier: Apache-2.0 */
/* Claims: numbers that hold over several gateways, and what each gateway holds of them.
 *
 * Problem: a limit of a group (or of one stream that a host uses through two gateways) holds in
 * sum, and each gateway can only hold its own part. Parts must follow where the demand is, add up
 * exactly, and not be sent anew each period for nothing: agreed limits are written to the
 * gateways' disks.
 *
 * Model: a stream belongs to one part of each claim that covers it; a part sums up its streams when
 * its gateway has reported. Once a period (and at once when members, limits or gateways change)
 * each limit is divided over the gateways by split_rate. A division is put in force when members
 * changed, or when some gateway whose demand comes near its part would get noticeably more.
 *
 * What is divided is put in force by settle.c: at once where it is less, and where it is more when
 * those who have less are known to follow. So what is worth a new division is judged by the last
 * division, not by what is in force.
 *
 * A gateway that was lost less than a minute ago goes on with what it has, so its part is kept for
 * it and the rest is divided among the others. A gateway with known but unconnected streams has
 * its stake. What other SLA processes may use of the limit is taken off first (quota.c), and what
 * gateways may use that were not heard since the server started (settle.c).
 *
 * Invariants: (1) the parts of one claim add up exactly to what of its limit may be used here, when
 * that is at least one unit for each gateway; (2) a part has at least one stream, a claim at least
 * one part; (3) all parts of one claim at one gateway carry the same limits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/state.h"

/* A division is sent when a gateway that uses so much of its part would get so much more. */
#define NEAR 0.8
#define MORE 1.1
#define CHANCE 3.0 /* standard deviations */
#define LATE_KEPT 0.5 /* of what was served before, in a mean of late, at each report */
/* A limit binds when so much of it is used; a paced one holds now and then long before. */
#define BINDS 0.9
/* Of the usual stake, where streams are known but nobody is connected. */
#define STAKE_UNCONNECTED 0.1

/* An id that does not fit ends in a hash of the whole. */
static void claim_id(char out[2 * NAME_SIZE], const char *kind, const char *name, const char *key)
{
    size_t size = 2 * NAME_SIZE;
    words(out, size, key[0] != '\0' ? "%s/%s/%s" : "%s/%s%s", kind, name, key);
    if (strlen(kind) + 1 + strlen(name) + (key[0] != '\0') + strlen(key) < size)
        return;
    uint64_t h = hash_bytes(hash_bytes(HASH_SEED, name, strlen(name)), key, strlen(key));
    words(out + size - 18, 18, "~%016llx", (unsigned long long)h);
}

void claim_dirty(struct services *s, struct claim *c)
{
    if (!list_linked(&c->in_dirty))
        list_push_back(&s->dirty, &c->in_dirty);
}

static void claim_clean(struct services *s, struct claim *c)
{
    period_leaves(s, &c->in_dirty);
    list_remove(&c->in_dirty);
}

static void claim_spans(struct services *s, struct claim *c)
{
    bool is = list_linked(&c->in_spanning), shall = c->part_count > 1;
    if (shall && !is)
        list_push_back(&s->spanning, &c->in_spanning);
    if (!shall && is) {
        period_leaves(s, &c->in_spanning);
        list_remove(&c->in_spanning);
    }
}

static struct claim *claim_get(struct services *s, const char *id)
{
    struct list *slot = table_slot(&s->by_claim, hash_bytes(HASH_SEED, id, strlen(id)));
    list_for_each(it, slot) {
        struct claim *c = container_of(it, struct claim, in_id);
        if (strcmp(c->id, id) == 0)
            return c;
    }
    struct claim *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return NULL;
    words(c->id, sizeof(c->id), "%s", id);
    c->tenant = -1;
    settle_new(s, c);
    list_init(&c->parts);
    list_init(&c->in_spanning);
    list_init(&c->in_dirty);
    list_push_back(slot, &c->in_id);
    list_push_back(&s->claims, &c->link);
    quota_join(s, c);
    return c;
}

static void claim_drop(struct services *s, struct claim *c)
{
    if (c->part_count > 0)
        return;
    quota_leave(s, c);
    list_remove(&c->in_id);
    list_remove(&c->link);
    weir_assert(!list_linked(&c->in_spanning));
    claim_clean(s, c);
    free(c);
}

static struct part *part_get(struct services *s, struct claim *c, struct gateway *g,
                             struct target *t)
{
    struct part *twin = NULL;
    list_for_each(it, &g->parts) {
        struct part *p = container_of(it, struct part, in_gateway);
        if (p->claim == c && p->target == t)
            return p;
        if (p->claim == c)
            twin = p;
    }
    struct part *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    p->claim = c;
    p->gateway = g;
    p->target = t;
    p->first = twin == NULL;
    p->factor = 1; /* until a plan that knows of it says otherwise */
    list_init(&p->twins);
    if (twin != NULL)
        list_push_back(&twin->twins, &p->twins);
    else
        settle_begin(s, p);
    list_push_back(&c->parts, &p->in_claim);
    list_push_back(&g->parts, &p->in_gateway);
    c->part_count++;
    claim_spans(s, c);
    return p;
}

static void part_leave(struct services *s, struct part *p)
{
    if (p == NULL)
        return;
    weir_assert(p->streams > 0);
    if (--p->streams > 0)
        return;
    if (p->first && !list_empty(&p->twins)) {
        struct part *next = container_of(p->twins.next, struct part, twins);
        next->first = true;
        next->hold = p->hold;
    }
    period_broken(s);
    list_remove(&p->twins);
    list_remove(&p->in_claim);
    list_remove(&p->in_gateway);
    p->claim->part_count--;
    claim_dirty(s, p->claim);
    claim_spans(s, p->claim);
    claim_drop(s, p->claim);
    free(p);
}

static struct part *part_join(struct services *s, struct stream *st, const char *id,
                              struct agreed *agreed, int32_t tenant)
{
    struct claim *c = claim_get(s, id);
    if (c == NULL)
        return NULL;
    c->agreed = agreed;
    c->tenant = tenant;
    claim_dirty(s, c); /* members changed */
    struct part *p = part_get(s, c, st->gateway, st->target);
    if (p == NULL)
        claim_drop(s, c);
    else
        p->streams++;
    return p;
}

static void say_no_memory(struct services *s, const struct stream *st)
{
    char subject[SUBJECT_SIZE];
    note_stream_subject(st, subject, sizeof(subject));
    note_event(s, EVENT_ERROR, "no-memory", subject,
               "no memory for the limits of %s: they do not hold until it is met anew",
               st->e.key);
}

void claim_parts_take(struct stream *st, struct part *ret[STREAM_PARTS])
{
    for (size_t i = 0; i < STREAM_COVERS; i++) {
        ret[i] = st->cover[i].part;
        st->cover[i].part = NULL;
    }
    ret[STREAM_COVERS] = st->tenant_part;
    st->tenant_part = NULL;
}

void claim_unlink(struct services *s, struct stream *st)
{
    struct part *was[STREAM_PARTS];
    claim_parts_take(st, was);
    for (size_t i = 0; i < STREAM_PARTS; i++)
        part_leave(s, was[i]);
}

void claim_link(struct services *s, struct stream *st)
{
    struct part *was[STREAM_PARTS];
    claim_parts_take(st, was);
    claim_relink(s, st, was);
}

void claim_relink(struct services *s, struct stream *st, struct part *const was[STREAM_PARTS])
{
    char id[2 * NAME_SIZE];
    bool all = true;
    for (size_t i = 0; i < st->cover_count; i++) {
        struct cover *c = &st->cover[i];
        const struct agreement *a = &c->agreed->e.agreement;
        claim_id(id, "agreement", a->name, a->per == AGREEMENT_PER_STREAM ? st->e.key : "");
        c->part = part_join(s, st, id, c->agreed, -1);
        all = all && c->part != NULL;
    }
    if (st->tenant >= 0) {
        claim_id(id, "tenant", s->tenants[st->tenant].name, "");
        st->tenant_part = part_join(s, st, id, NULL, st->tenant);
        all = all && st->tenant_part != NULL;
    }
    for (size_t i = 0; i < STREAM_PARTS; i++)
        part_leave(s, was[i]); /* after joining, so that parts that stay keep their sums */
    if (!all)
        say_no_memory(s, st);
    gateway_touch(s, st->gateway);
}

bool claim_covers(const struct claim *c, const struct stream *st)
{
    for (size_t i = 0; i < st->cover_count; i++) {
        if (st->cover[i].part != NULL && st->cover[i].part->claim == c)
            return true;
    }
    return st->tenant_part != NULL && st->tenant_part->claim == c;
}

void claim_fini(struct services *s)
{
    weir_assert(s->claims.next == NULL || list_empty(&s->claims));
    table_fini(&s->by_claim);
    free(s->split);
    free(s->holder);
}

/* --- sums ------------------------------------------------------------------------------ */

/* Whether the limits of @c hold the stream back, as far as its gateway says. */
static bool held_by_claim(const struct claim *c, const struct stream *st)
{
    return (st->e.held_now > 0 || st->e.window.held > 0) &&
           (st->e.held_by[0] == '\0' || strcmp(st->e.held_by, c->id) == 0);
}

static void part_add_served(struct part *p, const struct stream *st)
{
    const struct meter_op *r = &st->e.now.op[IO_READ], *w = &st->e.now.op[IO_WRITE];
    p->promised++;
    p->cost_ns += st->e.cost_served_ns;
    p->served[GATE_IOPS_READ] += r->completions;
    p->served[GATE_IOPS_WRITE] += w->completions;
    p->served[GATE_IOPS_TOTAL] += r->completions + w->completions;
    p->served[GATE_BYTES_READ] += r->bytes;
    p->served[GATE_BYTES_WRITE] += w->bytes;
    p->served[GATE_BYTES_TOTAL] += r->bytes + w->bytes;
}

static void part_add(struct part *p, const struct stream *st)
{
    const struct entity_window *w = &st->e.window;
    if (st->agreed != NULL && st->agreed == p->claim->agreed)
        part_add_served(p, st);
    p->connected += st->e.connections > 0;
    p->demand[GATE_IOPS_READ] += (double)w->read_iops;
    p->demand[GATE_IOPS_WRITE] += (double)w->write_iops;
    p->demand[GATE_IOPS_TOTAL] += (double)w->demand_iops;
    p->demand[GATE_BYTES_READ] += (double)w->read_bytes_s;
    p->demand[GATE_BYTES_WRITE] += (double)w->write_bytes_s;
    p->demand[GATE_BYTES_TOTAL] += (double)(w->read_bytes_s + w->write_bytes_s);
    if (!held_by_claim(p->claim, st))
        return;
    bool only_reads = w->write_iops == 0 && w->read_iops > 0;
    bool only_writes = w->read_iops == 0 && w->write_iops > 0;
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        bool reads = k == GATE_IOPS_READ || k == GATE_BYTES_READ;
        bool writes = k == GATE_IOPS_WRITE || k == GATE_BYTES_WRITE;
        p->held[k] += !(reads && only_writes) && !(writes && only_reads);
    }
}

/* What an I/O costs is a mean of late: after a stall a gateway may believe in 100 ms an I/O for
 * seconds, and a mean over all that was ever served would keep that for as long again. */
static void part_late(struct part *p)
{
    uint64_t ios = p->served[GATE_IOPS_TOTAL];
    if (ios <= p->ios_before || p->cost_ns <= p->cost_before_ns)
        return; /* nothing, or a stream left */
    p->late_cost_ns = LATE_KEPT * p->late_cost_ns + (double)(p->cost_ns - p->cost_before_ns);
    p->late_ios = LATE_KEPT * p->late_ios + (double)(ios - p->ios_before);
}

void claim_gather(struct services *s, struct gateway *g)
{
    (void)s;
    list_for_each(it, &g->parts) {
        struct part *p = container_of(it, struct part, in_gateway);
        p->cost_before_ns = p->cost_ns;
        p->ios_before = p->served[GATE_IOPS_TOTAL];
        p->connected = p->promised = 0;
        p->cost_ns = 0;
        memset(p->served, 0, sizeof(p->served));
        memset(p->demand, 0, sizeof(p->demand));
        memset(p->held, 0, sizeof(p->held));
        memcpy(p->bound, p->least, sizeof(p->bound));
        for (int k = 0; k < GATE_KIND_COUNT; k++)
            p->least[k] = p->limits.rate[k].rate;
    }
    list_for_each(it, &g->streams) {
        const struct stream *st = container_of(it, struct stream, in_gateway);
        for (size_t i = 0; i < st->cover_count; i++) {
            if (st->cover[i].part != NULL)
                part_add(st->cover[i].part, st);
        }
        if (st->tenant_part != NULL)
            part_add(st->tenant_part, st);
    }
    list_for_each(it, &g->parts)
        part_late(container_of(it, struct part, in_gateway));
}

/* --- limits as agreed ------------------------------------------------------------------ */

struct volume_size {
    uint64_t hash, bytes;
};

static int volume_order(const void *a, const void *b)
{
    const struct volume_size *x = a, *y = b;
    return x->hash < y->hash ? -1 : x->hash > y->hash;
}

/* Size of the volumes that a claim covers: one that several hosts or gateways use counts once. */
static uint64_t volumes_bytes(const struct claim *c)
{
    struct volume_size *v = calloc(c->agreed->e.streams + 1, sizeof(*v));
    uint64_t sum = 0;
    size_t n = 0;
    if (v == NULL)
        return 0;
    list_for_each(it, &c->agreed->covered) {
        const struct stream *st = container_of(it, struct cover, in_agreed)->stream;
        if (!claim_covers(c, st))
            continue;
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

uint64_t claim_bytes(const struct claim *c)
{
    const struct per_gib *each = c->agreed != NULL ? &c->agreed->e.agreement.per_gib : NULL;
    return each != NULL && each->iops + each->bytes_s > 0 ? volumes_bytes(c) : 0;
}

void claim_limits(const struct services *s, const struct claim *c, struct gate_limits *ret)
{
    if (c->agreed == NULL) {
        *ret = s->tenants[c->tenant].limits;
        return;
    }
    const struct agreement *a = &c->agreed->e.agreement;
    *ret = a->limits;
    uint64_t bytes = claim_bytes(c) + (c->quota != NULL ? c->quota->others_bytes : 0);
    if (a->per_gib.iops + a->per_gib.bytes_s == 0)
        return;
    rate_adapt(&ret->rate[GATE_IOPS_TOTAL], a->per_gib.iops, a->per_gib.least_iops, bytes);
    rate_adapt(&ret->rate[GATE_BYTES_TOTAL], a->per_gib.bytes_s, a->per_gib.least_bytes_s, bytes);
}

/* --- division -------------------------------------------------------------------------- */

/* A gateway may have several parts of a claim, before several targets: one holder, known by its
 * first part. */
static bool takes_part(const struct part *p)
{
    return entity_gateway_holds(p->gateway);
}

static bool is_frozen(const struct part *p)
{
    return p->gateway->e.state == GATEWAY_LOST && p->split;
}

static bool split_room(struct services *s, size_t n)
{
    if (n <= s->split_cap)
        return true;
    struct split_part *bigger = reallocarray(s->split, n, sizeof(*bigger));
    if (bigger != NULL)
        s->split = bigger;
    struct part **more = reallocarray(s->holder, n, sizeof(struct part *));
    if (more != NULL)
        s->holder = more;
    if (bigger == NULL || more == NULL)
        return false;
    s->split_cap = n;
    return true;
}

/* Sum of all parts of the claim at the gateway of @first. */
static void holder_sum(const struct part *first, int kind, struct split_part *ret)
{
    bool connected = false;
    double ios = 0;
    *ret = (struct split_part){.demand = 0};
    const struct part *p = first;
    do {
        ret->demand += p->demand[kind];
        ret->wanting += p->held[kind];
        connected = connected || p->connected > 0;
        ios += p->demand[GATE_IOPS_TOTAL];
        p = container_of(p->twins.next, const struct part, twins);
    } while (p != first);
    if (ret->demand < BINDS * (double)first->bound[kind])
        ret->wanting = 0; /* held for a moment only */
    /* Arrivals of many hosts are about as Poisson's. */
    ret->room = ios > 0 ? CHANCE * ret->demand / sqrt(ios) : 0;
    ret->stake = connected ? 1.0 : STAKE_UNCONNECTED;
}

void claim_need(const struct claim *c, int kind, struct split_part *ret)
{
    *ret = (struct split_part){.stake = STAKE_UNCONNECTED};
    list_for_each(it, &c->parts) {
        const struct part *p = container_of(it, struct part, in_claim);
        struct split_part one;
        if (!takes_part(p) || !p->first)
            continue;
        holder_sum(p, kind, &one);
        ret->demand += one.demand;
        ret->wanting += one.wanting;
        ret->room += one.room;
        ret->stake = fmax(ret->stake, one.stake);
    }
}

void claim_frozen(const struct claim *c, uint64_t ret[GATE_KIND_COUNT])
{
    memset(ret, 0, GATE_KIND_COUNT * sizeof(*ret));
    list_for_each(it, &c->parts) {
        const struct part *p = container_of(it, struct part, in_claim);
        for (int k = 0; takes_part(p) && p->first && is_frozen(p) && k < GATE_KIND_COUNT; k++)
            ret[k] += p->hold.most[k];
    }
}

bool claim_applied(struct services *s, struct claim *c)
{
    if (list_linked(&c->in_dirty))
        return false; /* for want of memory it is not even divided */
    list_for_each(it, &c->parts) {
        struct part *p = container_of(it, struct part, in_claim);
        if (takes_part(p) && p->first && settle_follows(s, p))
            return false;
    }
    return true;
}

/* The holders that are divided among. */
static size_t holders_of(struct claim *c, struct part **holder)
{
    size_t n = 0;
    list_for_each(it, &c->parts) {
        struct part *p = container_of(it, struct part, in_claim);
        if (takes_part(p) && p->first && !is_frozen(p))
            holder[n++] = p;
    }
    return n;
}

/* Divide one kind among @n holders into s->split; false: nothing to divide. */
static bool kind_divide(struct services *s, struct part *const *holder, size_t n, int kind,
                        const struct usable *u)
{
    uint64_t total = u->limits.rate[kind].rate, kept = u->kept[kind];
    if (total == 0)
        return false;
    for (size_t i = 0; i < n; i++)
        holder_sum(holder[i], kind, &s->split[i]);
    split_rate(total > kept ? total - kept : 1, s->split, n);
    return true;
}

/* Whether the division in s->split gives somebody who needs it noticeably more than the last. */
static bool worth_it(const struct services *s, struct part *const *holder, size_t n, int kind)
{
    for (size_t i = 0; i < n; i++) {
        double has = (double)holder[i]->hold.aim.rate[kind].rate;
        double gets = (double)s->split[i].rate;
        bool near = s->split[i].wanting > 0 || s->split[i].demand >= NEAR * has;
        if (near && gets > has * MORE + 1)
            return true;
    }
    return false;
}

static void burst_aim(struct services *s, struct part *const *holder, size_t n, int kind,
                      const struct bucket_rate *agreed)
{
    if (agreed->burst_rate == 0)
        return;
    split_like(agreed->burst_rate, s->split, n);
    for (size_t i = 0; i < n; i++) {
        struct bucket_rate *r = &holder[i]->hold.aim.rate[kind];
        if (s->split[i].rate <= r->rate)
            continue;
        r->burst_rate = s->split[i].rate;
        r->burst_ns = agreed->burst_ns;
    }
}

static void kind_aim(struct services *s, struct part *const *holder, size_t n, int kind,
                     const struct usable *u)
{
    bool limited = kind_divide(s, holder, n, kind, u);
    for (size_t i = 0; i < n; i++)
        holder[i]->hold.aim.rate[kind] =
            (struct bucket_rate){.rate = limited ? s->split[i].rate : 0};
    if (limited)
        burst_aim(s, holder, n, kind, &u->limits.rate[kind]);
}

void claim_mark(struct services *s, struct gateway *g)
{
    g->parts_changed = true;
    if (!list_linked(&g->in_changed))
        list_push_back(&s->changed, &g->in_changed);
}

static void usable(struct services *s, struct claim *c, struct usable *ret)
{
    struct gate_limits whole;
    claim_limits(s, c, &whole);
    quota_limits(s, c, &whole);
    ret->limits = whole;
    quota_scale(s, c, &ret->limits);
    claim_frozen(c, ret->kept);
    settle_unheard(s, c, &whole, ret);
}

/* @look: a new division may be worth it by demand. */
static void divide(struct services *s, struct claim *c, bool look)
{
    struct usable u;
    if (!split_room(s, c->part_count))
        return; /* as it was; the next period again */
    struct part *const *holder = s->holder;
    size_t n = holders_of(c, s->holder);
    if (n == 0) { /* each that returns has it divided anew */
        c->short_of = false;
        claim_clean(s, c);
        return;
    }
    usable(s, c, &u);
    bool dirty = list_linked(&c->in_dirty), changed = dirty;
    for (int k = 0; look && !changed && k < GATE_KIND_COUNT; k++)
        changed = kind_divide(s, holder, n, k, &u) && worth_it(s, holder, n, k);
    for (int k = 0; changed && k < GATE_KIND_COUNT; k++)
        kind_aim(s, holder, n, k, &u);
    if (changed || c->short_of)
        settle(s, c, holder, n, &u);
    for (size_t i = 0; dirty && i < n; i++)
        claim_mark(s, holder[i]->gateway); /* members changed */
    claim_clean(s, c);
}

void claim_split(struct services *s, struct claim *c)
{
    divide(s, c, true);
}

void claim_go_on(struct services *s, struct claim *c)
{
    divide(s, c, false);
}

void claim_regive(struct services *s, struct claim *c)
{
    claim_dirty(s, c);
    claim_split(s, c);
}

void claim_split_dirty(struct services *s, struct gateway *g)
{
    if (list_empty(&s->dirty))
        return;
    list_for_each(it, &g->parts) {
        struct claim *c = container_of(it, struct part, in_gateway)->claim;
        if (list_linked(&c->in_dirty))
            claim_split(s, c);
    }
}

void claim_resplit(struct services *s, struct gateway *g)
{
    list_for_each(it, &g->parts) {
        struct claim *c = container_of(it, struct part, in_gateway)->claim;
        if (c->part_count > 1)
            claim_split(s, c);
    }
}

void claim_gateway_changed(struct services *s, struct gateway *g)
{
    list_for_each(it, &g->parts)
        claim_dirty(s, container_of(it, struct part, in_gateway)->claim);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The coordinator of limits that span SLA processes.
 *
 * Problem: a limit of a group or tenant holds over all gateways, those of one SLA process divide
 * it among themselves (claim.c), and gateways before different storages are at different processes,
 * none of which may wait for another. The sum must never exceed the limit: not while the division
 * changes, nor while a gateway moves, nor when a process or the coordinator itself stands still.
 *
 * Model: a limit is SHARE_ONE tokens, of each kind (IOPS, bytes; read, write, total). A process
 * lets its gateways use that part of the limit of which it has the tokens. Tokens are never made or
 * copied: they are handed over, in messages, and with a gateway that moves. So at any moment
 *
 *     tokens of all processes + in messages + with gateways under way + the pool here = SHARE_ONE
 *
 * whatever is late, and a number that is wrong here costs fairness for a moment, never the sum.
 *
 * A claim that was never spoken of is divided evenly among the processes that the server began
 * with: each may use its part at once, without a word. When a process gets streams of a claim it
 * says so (a note); the coordinator has those who have none lend it theirs: it says what to keep,
 * they give back the rest. So some messages later a claim that is at one process only has its whole
 * limit there. One that is at several is divided by demand (split.c) and anew each period, when
 * somebody who needs it would get noticeably more: limits are written to gateways' disks. When
 * nobody has streams of it any more it goes back to even parts and is forgotten.
 *
 * What is given back goes at once to those who are short, but orders nobody: tokens that are still
 * on their way are missing in every sum, so a division by such sums differs each time a little, and
 * if each answer led to orders, and each order to answers, messages would breed.
 *
 *   member               coordinator             other
 *     | note: I have streams |                     |
 *     |--------------------->| grant: keep nothing |
 *     |                      |-------------------->| lowers its gateways, waits for their word
 *     |                      |   note: returned    |
 *     |  grant: tokens       |<--------------------|
 *     |<---------------------|                     |
 *
 * What may fail. A process that stands still gives nothing back: what it has stays its own, for its
 * gateways go on with it, and the others divide the rest. When the coordinator stands still
 * everybody goes on with what he has; a claim that is new to a process meanwhile has the even part.
 * A note or grant that finds no room is said later, added up. Memory: what cannot be noted stays as
 * it is.
 *
 * Invariants: (1) tokens are given from the pool only; (2) who is ordered to keep less has been
 * heard: an order that crosses a note of his counts for nothing (seq); (3) members are ordered to
 * keep less once in half a period, or when there is a cause (anew): a new or gone member, a change
 * of a limit, tokens that moved. */
#include "server/services/coordinator.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/list.h"
#include "server/services/split.h"

/* Bound of claims spoken of: 16 processes of 16,384 streams. Above, claims keep even parts. */
#define RECORDS_MAX 262144u
#define SLOTS 4096u
#define SILENT_PERIODS 3u
/* As in claim.c: when a new division is worth its messages. */
#define NEAR 0.8
#define MORE 1.1
#define OTHERS_CHANGED 0.05

struct peer {
    uint64_t seq, heard_ns;
    bool member, connected, spans_said, unsent, asked;
    uint32_t own[GATE_KIND_COUNT];      /* as last said, and what was granted since */
    uint32_t granted[GATE_KIND_COUNT];  /* out of the pool, not told yet */
    uint32_t keep[GATE_KIND_COUNT];
    double demand[GATE_KIND_COUNT], room[GATE_KIND_COUNT];
    uint32_t wanting[GATE_KIND_COUNT];
    double iops, others_iops;
    uint64_t bytes, others_bytes;
};

struct record {
    struct share_key key;
    struct list in_key, in_dirty;
    struct list in_unsent;
    uint64_t limit[GATE_KIND_COUNT];
    uint32_t pool[GATE_KIND_COUNT];
    bool anew;                          /* decide, worth it or not */
    uint64_t ordered_ns;                /* when members were last told to keep less */
    uint32_t peers;
    struct peer peer[];
};

struct coordinator {
    uint32_t base;
    uint64_t period_ns;
    size_t records;
    struct list slot[SLOTS], dirty, unsent;
};

struct coordinator *coordinator_new(uint32_t base, uint64_t period_ns)
{
    weir_assert(base > 0 && base <= SHARE_PEERS);
    struct coordinator *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->base = base;
    c->period_ns = period_ns;
    for (size_t i = 0; i < SLOTS; i++)
        list_init(&c->slot[i]);
    list_init(&c->dirty);
    list_init(&c->unsent);
    return c;
}

static void record_free(struct coordinator *c, struct record *r)
{
    list_remove(&r->in_key);
    list_remove(&r->in_dirty);
    list_remove(&r->in_unsent);
    free(r);
    c->records--;
}

void coordinator_free(struct coordinator *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < SLOTS; i++) {
        list_for_each_safe(it, &c->slot[i])
            record_free(c, container_of(it, struct record, in_key));
    }
    weir_assert(c->records == 0);
    free(c);
}

static struct record *record_find(const struct coordinator *c, struct share_key key)
{
    const struct list *slot = &c->slot[key.a % SLOTS];
    list_for_each(it, slot) {
        struct record *r = container_of(it, struct record, in_key);
        if (r->key.a == key.a && r->key.b == key.b)
            return r;
    }
    return NULL;
}

static void peer_init(struct peer *p, uint32_t own)
{
    *p = (struct peer){.seq = 0};
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        p->own[k] = own;
        p->keep[k] = SHARE_ONE;
    }
}

/* @was with room for @peers, or a new one. */
static struct record *record_make(struct coordinator *c, struct share_key key, struct record *was,
                                  uint32_t peers)
{
    if (was == NULL && c->records >= RECORDS_MAX)
        return NULL;
    struct record *r = calloc(1, sizeof(*r) + peers * sizeof(struct peer));
    if (r == NULL)
        return NULL;
    uint32_t have = 0;
    if (was != NULL) {
        have = was->peers;
        memcpy(r, was, sizeof(*r));
        memcpy(r->peer, was->peer, have * sizeof(struct peer));
        record_free(c, was);
    }
    r->key = key;
    r->peers = peers;
    for (uint32_t i = have; i < peers; i++)
        peer_init(&r->peer[i], share_default(i, c->base));
    list_init(&r->in_dirty);
    list_init(&r->in_unsent);
    list_push_back(&c->unsent, &r->in_unsent); /* looked at by the next take */
    list_push_back(&c->slot[key.a % SLOTS], &r->in_key);
    c->records++;
    return r;
}

static void peer_unsent(struct coordinator *c, struct record *r, struct peer *p)
{
    p->unsent = true;
    if (!list_linked(&r->in_unsent))
        list_push_back(&c->unsent, &r->in_unsent);
}

void coordinator_note(struct coordinator *c, uint32_t from, const struct share_note *n,
                      uint64_t now_ns)
{
    weir_assert(from < SHARE_PEERS);
    struct record *r = record_find(c, n->key);
    uint32_t least = from < c->base ? c->base : from + 1;
    if (r == NULL || r->peers < least)
        r = record_make(c, n->key, r, least);
    if (r == NULL)
        return; /* it stays as it is; what was returned is used by nobody */
    struct peer *p = &r->peer[from];
    r->anew = r->anew || p->member != n->member || p->seq != n->seq;
    p->member = n->member;
    p->connected = n->connected;
    p->seq = n->seq;
    p->heard_ns = now_ns;
    p->asked = false;
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        p->own[k] = n->own[k] + p->granted[k];
        r->pool[k] += n->returned[k];
        weir_assert(r->pool[k] <= SHARE_ONE);
        if (n->member && r->limit[k] != n->limit[k]) {
            r->limit[k] = n->limit[k];
            r->anew = true;
        }
        p->demand[k] = n->demand[k];
        p->room[k] = n->room[k];
        p->wanting[k] = n->wanting[k];
    }
    p->iops = n->iops;
    p->bytes = n->bytes;
    if (!list_linked(&r->in_dirty))
        list_push_back(&c->dirty, &r->in_dirty);
}

/* --- division -------------------------------------------------------------------------- */

/* One that is alone has no cause to say each period how it stands. */
static bool is_heard(const struct coordinator *c, const struct peer *p, size_t members,
                     uint64_t now_ns)
{
    return members == 1 || now_ns - p->heard_ns <= SILENT_PERIODS * c->period_ns;
}

/* Give until @p has @target, as far as the pool goes. */
static void peer_give(struct coordinator *c, struct record *r, struct peer *p, int kind,
                      uint32_t target)
{
    uint32_t own = p->own[kind];
    if (own >= target)
        return;
    uint32_t give = target - own < r->pool[kind] ? target - own : r->pool[kind];
    if (give == 0)
        return;
    r->pool[kind] -= give;
    p->granted[kind] += give;
    p->own[kind] += give;
    p->keep[kind] = SHARE_ONE;
    peer_unsent(c, r, p);
}

/* Take back or give until @p has @target, as far as the pool goes. True: it was ordered. */
static bool peer_aim(struct coordinator *c, struct record *r, struct peer *p, int kind,
                     uint32_t target)
{
    peer_give(c, r, p, kind, target);
    if (p->own[kind] <= target)
        return false;
    p->keep[kind] = target;
    peer_unsent(c, r, p);
    return true;
}

static bool worth_it(const struct record *r, struct peer *const *at, const struct split_part *part,
                     size_t n, int kind)
{
    for (size_t i = 0; i < n; i++) {
        double has = (double)at[i]->own[kind], gets = (double)part[i].rate;
        double used = at[i]->demand[kind] / (double)r->limit[kind] * SHARE_ONE;
        if ((at[i]->wanting[kind] > 0 || used >= NEAR * has) && gets > has * MORE + 1)
            return true;
    }
    return false;
}

/* Among @n members that are heard: all that they and the pool have. @due: it is time again to look
 * whether a new division is worth it. True: somebody was ordered to keep less. */
static bool kind_divide(struct coordinator *c, struct record *r, struct peer *const *at, size_t n,
                        int kind, bool due)
{
    bool ordered = false;
    struct split_part part[SHARE_PEERS];
    uint64_t tokens = r->pool[kind];
    for (size_t i = 0; i < n; i++) {
        tokens += at[i]->own[kind];
        part[i] = (struct split_part){
            .demand = at[i]->demand[kind],
            .room = at[i]->room[kind],
            .wanting = at[i]->wanting[kind],
            .stake = at[i]->connected ? 1.0 : 0.1,
        };
    }
    unsigned __int128 rate = (unsigned __int128)r->limit[kind] * tokens / SHARE_ONE;
    split_rate(rate > 0 ? (uint64_t)rate : 1, part, n);
    split_like(tokens, part, n);
    bool orders = r->anew || (due && worth_it(r, at, part, n, kind));
    for (size_t i = 0; i < n; i++) {
        if (orders)
            ordered |= peer_aim(c, r, at[i], kind, (uint32_t)part[i].rate);
        else
            peer_give(c, r, at[i], kind, (uint32_t)part[i].rate);
    }
    return ordered;
}

/* Those without streams lend what they have. Each is asked once, for all kinds that are limited;
 * one of whom nothing was wanted yet is not asked. */
static void borrow(struct coordinator *c, struct record *r, int kind)
{
    for (uint32_t i = 0; i < r->peers; i++) {
        struct peer *p = &r->peer[i];
        if (p->member || p->own[kind] == 0 || p->asked)
            continue;
        p->keep[kind] = 0;
        peer_unsent(c, r, p);
    }
}

static void tell_others(struct coordinator *c, struct record *r, bool spans)
{
    double iops = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < r->peers; i++) {
        iops += r->peer[i].member ? r->peer[i].iops : 0;
        bytes += r->peer[i].member ? r->peer[i].bytes : 0;
    }
    for (uint32_t i = 0; i < r->peers; i++) {
        struct peer *p = &r->peer[i];
        if (!p->member)
            continue;
        double others = iops - p->iops, off = others - p->others_iops;
        uint64_t theirs = bytes - p->bytes;
        if (off < 0)
            off = -off;
        if (off <= OTHERS_CHANGED * p->others_iops && theirs == p->others_bytes &&
            spans == p->spans_said)
            continue;
        p->others_iops = spans ? others : 0;
        p->others_bytes = theirs;
        p->spans_said = spans;
        peer_unsent(c, r, p);
    }
}

/* Nobody has streams of it: back to even parts. True: it is as if it had never been spoken of. */
static bool retire(struct coordinator *c, struct record *r)
{
    bool even = true;
    for (uint32_t i = 0; i < r->peers; i++) {
        struct peer *p = &r->peer[i];
        p->spans_said = false;
        for (int k = 0; k < GATE_KIND_COUNT; k++) {
            peer_aim(c, r, p, k, share_default(i, c->base));
            even = even && p->own[k] == share_default(i, c->base);
        }
        even = even && !p->unsent;
    }
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        even = even && r->pool[k] == 0;
    return even;
}

static void decide(struct coordinator *c, struct record *r, uint64_t now_ns)
{
    struct peer *at[SHARE_PEERS];
    size_t n = 0, members = 0;
    for (uint32_t i = 0; i < r->peers; i++)
        members += r->peer[i].member;
    for (uint32_t i = 0; i < r->peers; i++) {
        if (r->peer[i].member && is_heard(c, &r->peer[i], members, now_ns))
            at[n++] = &r->peer[i];
    }
    if (members == 0) {
        if (retire(c, r))
            record_free(c, r);
        return;
    }
    bool due = now_ns - r->ordered_ns >= c->period_ns / 2, ordered = false;
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        if (r->limit[k] == 0)
            continue;
        borrow(c, r, k);
        if (n > 0)
            ordered |= kind_divide(c, r, at, n, k, due);
    }
    if (ordered)
        r->ordered_ns = now_ns;
    for (uint32_t i = 0; i < r->peers; i++) {
        struct peer *p = &r->peer[i];
        for (int k = 0; k < GATE_KIND_COUNT; k++)
            p->asked = p->asked || (!p->member && p->keep[k] == 0);
    }
    r->anew = false;
    tell_others(c, r, members > 1);
}

void coordinator_run(struct coordinator *c, uint64_t now_ns)
{
    while (!list_empty(&c->dirty))
        decide(c, container_of(list_pop_front(&c->dirty), struct record, in_dirty), now_ns);
}

/* --- what goes out --------------------------------------------------------------------- */

static void grant_fill(struct share_grant *g, const struct record *r, struct peer *p)
{
    *g = (struct share_grant){.key = r->key, .seq = p->seq, .spans = p->spans_said,
                              .others_iops = p->others_iops, .others_bytes = p->others_bytes};
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        g->granted[k] = p->granted[k];
        g->keep[k] = p->keep[k];
        p->granted[k] = 0;
        p->keep[k] = SHARE_ONE; /* an order is given once */
    }
    p->unsent = false;
}

static void record_sent(struct coordinator *c, struct record *r)
{
    for (uint32_t i = 0; i < r->peers; i++) {
        if (r->peer[i].unsent)
            return;
    }
    list_remove(&r->in_unsent);
    bool members = false;
    for (uint32_t i = 0; i < r->peers; i++)
        members = members || r->peer[i].member;
    if (!members && !list_linked(&r->in_dirty))
        list_push_back(&c->dirty, &r->in_dirty); /* perhaps it can be forgotten now */
}

size_t coordinator_take(struct coordinator *c, uint32_t to, struct share_grant *ret, size_t max)
{
    size_t n = 0;
    list_for_each_safe(it, &c->unsent)
    {
        struct record *r = container_of(it, struct record, in_unsent);
        if (n == max)
            break;
        if (to < r->peers && r->peer[to].unsent)
            grant_fill(&ret[n++], r, &r->peer[to]);
        record_sent(c, r);
    }
    return n;
}

void coordinator_put_back(struct coordinator *c, uint32_t to, const struct share_grant *g, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct record *r = record_find(c, g[i].key);
        weir_assert(r != NULL && to < r->peers); /* nothing ran between */
        struct peer *p = &r->peer[to];
        for (int k = 0; k < GATE_KIND_COUNT; k++) {
            p->granted[k] += g[i].granted[k];
            p->keep[k] = g[i].keep[k];
        }
        peer_unsent(c, r, p);
    }
}

uint32_t coordinator_owes(const struct coordinator *c)
{
    uint32_t bits = 0;
    list_for_each(it, &c->unsent) {
        const struct record *r = container_of(it, struct record, in_unsent);
        for (uint32_t i = 0; i < r->peers; i++)
            bits |= r->peer[i].unsent ? UINT32_C(1) << i : 0;
    }
    return bits;
}

size_t coordinator_count(const struct coordinator *c)
{
    return c->records;
}

void coordinator_pool(const struct coordinator *c, struct share_key key,
                      uint32_t ret[GATE_KIND_COUNT])
{
    const struct record *r = record_find(c, key);
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        ret[k] = r != NULL ? r->pool[k] : 0;
        for (uint32_t i = 0; r != NULL && i < r->peers; i++)
            ret[k] += r->peer[i].granted[k];
    }
}

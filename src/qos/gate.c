/* SPDX-License-Identifier: Apache-2.0 */
/* The gate.
 *
 * Problem: an I/O may be covered by several limits at once (its stream's, its volume's, its
 * tenant's, its target's; agreed, planned, from the file), each shared with other streams. It must
 * go as soon as all of them allow and not before, in fair turns with the others, and the decision
 * must cost about as much as the buckets it looks at, with thousands of streams held.
 *
 * Model: each bucket of each rule is a *place* at which queues park. A queue is one direction of
 * one flow; only its head is ever judged. Judging a head looks at the buckets it would pay into, in
 * the order of cover; the first in debt is where its queue parks. All places with something parked
 * lie in a heap by the time their bucket is out of debt.
 *
 * States of a queue:
 *
 *       submit, refused            its turn, all buckets agree: head goes, next head parks
 *   EMPTY ------------> PARKED at a place --------------+
 *     ^                   |  ^  ^                       |
 *     |      last I/O     |  |  +-- its turn, refused by another bucket: moves there, nothing paid
 *     +-------------------+  |
 *                            +-- READY: FLUSH is at the head, or its cover changed; judged in
 *                            gate_poll
 *
 * Invariants:
 *   1. A queue with I/Os is parked at exactly one place or is in `ready`; an empty one is in
 *      neither.
 *   2. An I/O pays all of its buckets at the instant it goes and never before; one that is
 *      cancelled paid nothing. Each I/O submitted leaves once: by gate_submit's true, by gate_poll,
 *      or by gate_cancel.
 *   3. A newcomer goes past nobody: where a bucket it would pay into has queues parked, it parks
 *      behind them. A queue at its turn looks at buckets only, or two places could hand each
 *      other's queues back and forth.
 *   4. One turn is one I/O; then the queue goes to the end of the place. While a queue waits
 *      elsewhere for its own limit the shared one saves its credit (10 ms or a unit), so that going
 *      round loses no throughput.
 *   5. A place is in the heap exactly when something is parked there. Its wake_ns may be early (the
 *      bucket fell deeper meanwhile, then it is looked at once more) but never late.
 *   6. `ages` holds all held I/Os by the time they were submitted; of each queue the head comes
 *      first, so the first of `ages` is always the head of its queue, and max-hold needs to look
 *      nowhere else. A place that had its turn is due again now, behind all that were due before:
 *      after a late poll no place spends alone what others need as well.
 *   7. In one gate_poll a bucket gains nothing (the clock stands), hence a queue moves at most once
 *      for each bucket in debt and the loop ends.
 *
 * FLUSH waits for writes before it only; it is never refused by a bucket. Nothing here can fail but
 * gate_flow_cover, with too many rules. */
#include "qos/gate.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"

static_assert(GATE_MAX_COVER <= 16, "gate_io.parked_at has a bit for each");
static_assert(GATE_KIND_COUNT <= 8, "gate_rule.in_force has a bit for each");

struct gate_heap_entry {
    struct gate_rule *rule;
    enum gate_kind kind;
};

struct gate {
    uint64_t max_hold_ns;
    size_t max_rules, rule_count;
    struct list ages;  /* struct gate_io.age_link, longest held first */
    struct list ready; /* struct gate_queue.park_link: to be judged in gate_poll */
    size_t heap_size;  /* entries 1..heap_size are used */
    struct gate_heap_entry heap[];
};

/* Which bucket refused. */
struct gate_verdict {
    bool goes;
    uint32_t cover_index;
    enum gate_kind kind;
    uint64_t wait_ns;
};

const char *gate_kind_name(enum gate_kind k)
{
    switch (k) {
    case GATE_IOPS_READ:
        return "iops-read";
    case GATE_IOPS_WRITE:
        return "iops-write";
    case GATE_IOPS_TOTAL:
        return "iops";
    case GATE_BYTES_READ:
        return "bandwidth-read";
    case GATE_BYTES_WRITE:
        return "bandwidth-write";
    case GATE_BYTES_TOTAL:
        return "bandwidth";
    case GATE_KIND_COUNT:
        break;
    }
    weir_assert(!"a kind out of its enum");
    return "";
}

/* ---- heap of places -------------------------------------------------------------------------- */

static struct gate_place *gate_entry_place(struct gate_heap_entry e)
{
    return &e.rule->place[e.kind];
}

static void gate_heap_put(struct gate *g, size_t i, struct gate_heap_entry e)
{
    g->heap[i] = e;
    gate_entry_place(e)->heap_index = i;
}

static void gate_heap_up(struct gate *g, size_t i)
{
    struct gate_heap_entry e = g->heap[i];
    uint64_t wake = gate_entry_place(e)->wake_ns;
    while (i > 1 && gate_entry_place(g->heap[i / 2])->wake_ns > wake) {
        gate_heap_put(g, i, g->heap[i / 2]);
        i /= 2;
    }
    gate_heap_put(g, i, e);
}

static void gate_heap_down(struct gate *g, size_t i)
{
    struct gate_heap_entry e = g->heap[i];
    uint64_t wake = gate_entry_place(e)->wake_ns;
    for (;;) {
        size_t child = 2 * i;
        if (child > g->heap_size)
            break;
        if (child < g->heap_size && gate_entry_place(g->heap[child + 1])->wake_ns <
                                        gate_entry_place(g->heap[child])->wake_ns)
            child++;
        if (gate_entry_place(g->heap[child])->wake_ns >= wake)
            break;
        gate_heap_put(g, i, g->heap[child]);
        i = child;
    }
    gate_heap_put(g, i, e);
}

static void gate_place_insert(struct gate_rule *r, enum gate_kind k, uint64_t wake_ns)
{
    struct gate *g = r->gate;
    struct gate_place *p = &r->place[k];
    weir_assert(p->heap_index == 0);
    weir_assert(g->heap_size < g->max_rules * GATE_KIND_COUNT);
    p->wake_ns = wake_ns;
    g->heap_size++;
    gate_heap_put(g, g->heap_size, (struct gate_heap_entry){.rule = r, .kind = k});
    gate_heap_up(g, g->heap_size);
}

static void gate_place_remove(struct gate_rule *r, enum gate_kind k)
{
    struct gate *g = r->gate;
    struct gate_place *p = &r->place[k];
    size_t i = p->heap_index;
    weir_assert(i >= 1);
    weir_assert(i <= g->heap_size);
    struct gate_heap_entry last = g->heap[g->heap_size];
    g->heap_size--;
    p->heap_index = 0;
    if (gate_entry_place(last) == p)
        return;
    gate_heap_put(g, i, last);
    gate_heap_up(g, i);
    gate_heap_down(g, gate_entry_place(last)->heap_index);
}

static void gate_place_rekey(struct gate_rule *r, enum gate_kind k, uint64_t wake_ns)
{
    struct gate_place *p = &r->place[k];
    weir_assert(p->heap_index >= 1);
    uint64_t before = p->wake_ns;
    p->wake_ns = wake_ns;
    if (wake_ns < before)
        gate_heap_up(r->gate, p->heap_index);
    else
        gate_heap_down(r->gate, p->heap_index);
}

static uint64_t gate_after(uint64_t now_ns, uint64_t wait_ns)
{
    return wait_ns > UINT64_MAX - 1 - now_ns ? UINT64_MAX - 1 : now_ns + wait_ns;
}

/* ---- judging --------------------------------------------------------------------------------- */

static struct gate_io *gate_queue_head(const struct gate_queue *q)
{
    weir_assert(!list_empty(&q->ios));
    return container_of(q->ios.next, struct gate_io, link);
}

/* The kinds that an I/O pays into, as a mask. */
static uint8_t gate_kinds_of(enum io_op op)
{
    static const uint8_t kinds[] = {
        [IO_DIR_READ] = 1u << GATE_IOPS_READ | 1u << GATE_IOPS_TOTAL | 1u << GATE_BYTES_READ |
                        1u << GATE_BYTES_TOTAL,
        [IO_DIR_WRITE] = 1u << GATE_IOPS_WRITE | 1u << GATE_IOPS_TOTAL | 1u << GATE_BYTES_WRITE |
                         1u << GATE_BYTES_TOTAL,
        [IO_DIR_NONE] = 0,
    };
    return kinds[io_op_direction(op)];
}

static uint64_t gate_bytes_of(const struct gate_io *io)
{
    if (io->op == IO_TRIM)
        return GATE_TRIM_BYTES;
    if (io->op == IO_WRITE_ZEROES && io->bytes > GATE_WRITE_ZEROES_BYTES_MAX)
        return GATE_WRITE_ZEROES_BYTES_MAX;
    return io->bytes;
}

static bool gate_kind_is_iops(enum gate_kind k)
{
    return k == GATE_IOPS_READ || k == GATE_IOPS_WRITE || k == GATE_IOPS_TOTAL;
}

/* Take the lowest kind out of a mask that is not empty. */
static enum gate_kind gate_mask_pop(uint8_t *mask)
{
    enum gate_kind k = (enum gate_kind)__builtin_ctz(*mask);
    *mask &= (uint8_t)(*mask - 1u);
    return k;
}

/* May @io go? @newcomer: not past those who are parked already. */
static struct gate_verdict gate_judge(const struct gate_io *io, bool newcomer, uint64_t now_ns)
{
    const struct gate_flow *f = io->flow;
    uint8_t kinds = gate_kinds_of(io->op);
    for (uint32_t i = 0; i < f->cover_count; i++) {
        struct gate_rule *r = f->cover[i];
        for (uint8_t mask = r->in_force & kinds; mask != 0;) {
            enum gate_kind k = gate_mask_pop(&mask);
            uint64_t wait_ns = bucket_wait_ns(&r->bucket[k], now_ns);
            if (wait_ns > 0 || (newcomer && r->place[k].heap_index != 0))
                return (struct gate_verdict){.cover_index = i, .kind = k, .wait_ns = wait_ns};
        }
    }
    return (struct gate_verdict){.goes = true};
}

/* What a newcomer pays into, gathered while it is judged. */
struct gate_bill {
    uint32_t count;
    struct gate_item {
        struct bucket *bucket;
        bool iops;
    } item[GATE_MAX_COVER * GATE_KIND_COUNT];
};

/* As gate_judge of a newcomer; what it pays into when it goes is in @bill then. */
static struct gate_verdict gate_judge_newcomer(const struct gate_io *io, uint64_t now_ns,
                                               struct gate_bill *bill)
{
    const struct gate_flow *f = io->flow;
    uint8_t kinds = gate_kinds_of(io->op);
    bill->count = 0;
    for (uint32_t i = 0; i < f->cover_count; i++) {
        struct gate_rule *r = f->cover[i];
        for (uint8_t mask = r->in_force & kinds; mask != 0;) {
            enum gate_kind k = gate_mask_pop(&mask);
            struct bucket *b = &r->bucket[k];
            uint64_t wait_ns = bucket_ready(b, now_ns) ? 0 : bucket_wait_ns(b, now_ns);
            if (wait_ns > 0 || r->place[k].heap_index != 0)
                return (struct gate_verdict){.cover_index = i, .kind = k, .wait_ns = wait_ns};
            bill->item[bill->count++] = (struct gate_item){b, gate_kind_is_iops(k)};
        }
    }
    return (struct gate_verdict){.goes = true};
}

static void gate_pay_bill(const struct gate_io *io, const struct gate_bill *bill, uint64_t now_ns)
{
    uint64_t bytes = gate_bytes_of(io);
    for (uint32_t i = 0; i < bill->count; i++) {
        const struct gate_item *x = &bill->item[i];
        bucket_take(x->bucket, x->iops ? 1 : bytes, now_ns);
    }
}

static void gate_pay(const struct gate_io *io, uint64_t now_ns)
{
    const struct gate_flow *f = io->flow;
    uint8_t kinds = gate_kinds_of(io->op);
    uint64_t bytes = gate_bytes_of(io);
    for (uint32_t i = 0; i < f->cover_count; i++) {
        struct gate_rule *r = f->cover[i];
        for (uint8_t mask = r->in_force & kinds; mask != 0;) {
            enum gate_kind k = gate_mask_pop(&mask);
            bucket_take(&r->bucket[k], gate_kind_is_iops(k) ? 1 : bytes, now_ns);
        }
    }
}

/* ---- parking --------------------------------------------------------------------------------- */

/* Count the head at the rule where its queue stands, once a rule. */
static void gate_count_held(struct gate_queue *q)
{
    struct gate_io *io = gate_queue_head(q);
    for (uint32_t i = 0; i < q->flow->cover_count; i++) {
        uint16_t bit = (uint16_t)(1u << i);
        if (q->flow->cover[i] != q->at || (io->parked_at & bit) != 0)
            continue;
        io->parked_at |= bit;
        q->at->credit->held_total++;
    }
}

static void gate_park(struct gate_queue *q, struct gate_rule *r, enum gate_kind k, uint64_t wake_ns)
{
    weir_assert(q->at == NULL);
    weir_assert(!list_linked(&q->park_link));
    struct gate_place *p = &r->place[k];
    q->at = r;
    q->at_kind = k;
    list_push_back(&p->parked, &q->park_link);
    if (p->heap_index == 0)
        gate_place_insert(r, k, wake_ns);
    gate_count_held(q);
}

/* Out of its place, or out of the ready list. */
static void gate_unpark(struct gate_queue *q)
{
    list_remove(&q->park_link);
    if (q->at == NULL)
        return;
    if (list_empty(&q->at->place[q->at_kind].parked))
        gate_place_remove(q->at, q->at_kind);
    q->at = NULL;
}

static void gate_ready(struct gate *g, struct gate_queue *q)
{
    weir_assert(q->at == NULL);
    weir_assert(!list_linked(&q->park_link));
    weir_assert(q->length > 0);
    list_push_back(&g->ready, &q->park_link);
}

static void gate_queue_init(struct gate_queue *q, struct gate_flow *f)
{
    *q = (struct gate_queue){.flow = f};
    list_init(&q->ios);
    list_init(&q->park_link);
}

static void gate_queue_unlink(struct gate_queue *q, struct gate_io *io)
{
    weir_assert(io->queued);
    weir_assert(q->length > 0);
    list_remove(&io->link);
    list_remove(&io->age_link);
    q->length--;
    io->queued = false;
}

/* Let the head of an unparked queue go, and park or ready what comes behind it. @r and @k: the
 * place at whose turn it went, or NULL. */
static struct gate_io *gate_release(struct gate *g, struct gate_queue *q, struct gate_rule *r,
                                    enum gate_kind k, uint64_t now_ns)
{
    struct gate_io *io = gate_queue_head(q);
    weir_assert(q->at == NULL);
    gate_pay(io, now_ns);
    gate_queue_unlink(q, io);
    io->released_ns = now_ns;
    if (q->length == 0)
        return io;
    if (r == NULL || gate_queue_head(q)->op == IO_FLUSH)
        gate_ready(g, q);
    else
        gate_park(q, r, k, now_ns);
    return io;
}

/* ---- life ------------------------------------------------------------------------------------ */

struct gate *gate_new(size_t max_rules, uint64_t max_hold_ns)
{
    weir_assert(max_rules < SIZE_MAX / (GATE_KIND_COUNT * sizeof(struct gate_heap_entry)) - 2);
    size_t entries = max_rules * GATE_KIND_COUNT + 1; /* the heap counts from 1 */
    struct gate *g = calloc(1, sizeof *g + entries * sizeof g->heap[0]);
    if (g == NULL)
        return NULL;
    g->max_rules = max_rules;
    g->max_hold_ns = max_hold_ns;
    list_init(&g->ages);
    list_init(&g->ready);
    return g;
}

void gate_free(struct gate *g)
{
    free(g);
}

void gate_set_max_hold(struct gate *g, uint64_t max_hold_ns)
{
    g->max_hold_ns = max_hold_ns;
}

void gate_rule_adopt(struct gate *g, struct gate_rule *r, const struct gate_limits *l,
                     struct gate_credit *credit, uint64_t now_ns)
{
    weir_assert(g->rule_count < g->max_rules);
    g->rule_count++;
    *r = (struct gate_rule){.gate = g};
    r->credit = credit != NULL ? credit : &r->own;
    r->bucket = r->credit->bucket;
    for (uint32_t k = 0; k < GATE_KIND_COUNT; k++) {
        bucket_adopt(&r->bucket[k], &l->rate[k], now_ns);
        list_init(&r->place[k].parked);
        if (l->rate[k].rate > 0)
            r->in_force |= (uint8_t)(1u << k);
    }
}

void gate_rule_init(struct gate *g, struct gate_rule *r, const struct gate_limits *l,
                    uint64_t now_ns)
{
    gate_rule_adopt(g, r, l, NULL, now_ns);
}

void gate_rule_change(struct gate_rule *r, const struct gate_limits *l, uint64_t now_ns)
{
    weir_assert(r->gate != NULL);
    r->in_force = 0;
    for (uint32_t k = 0; k < GATE_KIND_COUNT; k++) {
        bucket_change(&r->bucket[k], &l->rate[k], now_ns);
        if (l->rate[k].rate > 0)
            r->in_force |= (uint8_t)(1u << k);
        if (r->place[k].heap_index != 0)
            gate_place_rekey(r, (enum gate_kind)k, now_ns);
    }
}

void gate_rule_fini(struct gate_rule *r)
{
    weir_assert(r->gate != NULL);
    for (uint32_t k = 0; k < GATE_KIND_COUNT; k++) {
        weir_assert(list_empty(&r->place[k].parked));
        weir_assert(r->place[k].heap_index == 0);
    }
    weir_assert(r->gate->rule_count > 0);
    r->gate->rule_count--;
    r->gate = NULL;
}

void gate_rule_refill(struct gate_rule *r, uint64_t now_ns)
{
    for (uint8_t mask = r->in_force; mask != 0;)
        bucket_refill(&r->bucket[gate_mask_pop(&mask)], now_ns);
}

void gate_flow_init(struct gate *g, struct gate_flow *f)
{
    weir_assert(g != NULL);
    *f = (struct gate_flow){.owner = NULL};
    gate_queue_init(&f->queue[IO_DIR_READ], f);
    gate_queue_init(&f->queue[IO_DIR_WRITE], f);
}

static bool gate_cover_has(const struct gate_flow *f, const struct gate_rule *r)
{
    for (uint32_t i = 0; i < f->cover_count; i++)
        if (f->cover[i] == r)
            return true;
    return false;
}

int gate_flow_cover(struct gate *g, struct gate_flow *f, struct gate_rule *const *rules,
                    size_t count, uint64_t now_ns)
{
    (void)now_ns;
    if (count > GATE_MAX_COVER)
        return WEIR_E_FULL;
    for (uint32_t d = 0; d < 2; d++)
        gate_unpark(&f->queue[d]);
    f->cover_count = 0;
    for (size_t i = 0; i < count; i++) {
        weir_assert(rules[i]->gate == g);
        if (!gate_cover_has(f, rules[i]))
            f->cover[f->cover_count++] = rules[i];
    }
    for (uint32_t d = 0; d < 2; d++) {
        struct gate_queue *q = &f->queue[d];
        list_for_each (l, &q->ios)
            container_of(l, struct gate_io, link)->parked_at = 0;
        if (q->length > 0)
            gate_ready(g, q);
    }
    return 0;
}

bool gate_flow_idle(const struct gate_flow *f)
{
    return f->queue[IO_DIR_READ].length == 0 && f->queue[IO_DIR_WRITE].length == 0;
}

/* ---- I/Os ------------------------------------------------------------------------------------ */

/* Most of an I/O's fields matter only from here on, and are left alone before. */
static void gate_enqueue(struct gate *g, struct gate_queue *q, struct gate_io *io, uint64_t now_ns)
{
    io->submitted_ns = now_ns;
    io->parked_at = 0;
    io->hit_max_hold = false;
    io->queued = true;
    io->was_held = true;
    list_push_back(&q->ios, &io->link);
    list_push_back(&g->ages, &io->age_link);
    q->length++;
}

/* As gate_submit, of an operation that no bucket holds. */
static bool gate_submit_free(struct gate *g, struct gate_flow *f, struct gate_io *io,
                             uint64_t now_ns)
{
    struct gate_queue *writes = &f->queue[IO_DIR_WRITE];
    if (io->op != IO_FLUSH || writes->length == 0)
        return true;
    gate_enqueue(g, writes, io, now_ns);
    return false;
}

bool gate_submit(struct gate *g, struct gate_flow *f, struct gate_io *io, uint64_t now_ns)
{
    io->flow = f;
    io->queued = io->was_held = false;
    io->released_ns = now_ns;
    enum io_direction dir = io_op_direction(io->op);
    if (dir == IO_DIR_NONE)
        return gate_submit_free(g, f, io, now_ns);
    struct gate_queue *q = &f->queue[dir];
    if (q->length > 0) {
        gate_enqueue(g, q, io, now_ns);
        return false;
    }
    struct gate_bill bill;
    struct gate_verdict v = gate_judge_newcomer(io, now_ns, &bill);
    if (v.goes) {
        gate_pay_bill(io, &bill, now_ns);
        return true;
    }
    gate_enqueue(g, q, io, now_ns);
    gate_park(q, f->cover[v.cover_index], v.kind, gate_after(now_ns, v.wait_ns));
    return false;
}

/* The I/O held longest, when it has reached max-hold. */
static struct gate_io *gate_poll_overdue(struct gate *g, uint64_t now_ns)
{
    if (list_empty(&g->ages))
        return NULL;
    struct gate_io *io = container_of(g->ages.next, struct gate_io, age_link);
    if (now_ns < gate_after(io->submitted_ns, g->max_hold_ns))
        return NULL;
    enum io_direction dir = io_op_direction(io->op);
    struct gate_queue *q = &io->flow->queue[dir == IO_DIR_NONE ? IO_DIR_WRITE : dir];
    weir_assert(gate_queue_head(q) == io);
    gate_unpark(q);
    io->hit_max_hold = true;
    return gate_release(g, q, NULL, GATE_IOPS_READ, now_ns);
}

/* The next of the ready queues that may go; those refused park. */
static struct gate_io *gate_poll_ready(struct gate *g, uint64_t now_ns)
{
    while (!list_empty(&g->ready)) {
        struct gate_queue *q = container_of(g->ready.next, struct gate_queue, park_link);
        gate_unpark(q);
        struct gate_verdict v = gate_judge(gate_queue_head(q), true, now_ns);
        if (v.goes)
            return gate_release(g, q, NULL, GATE_IOPS_READ, now_ns);
        gate_park(q, q->flow->cover[v.cover_index], v.kind, gate_after(now_ns, v.wait_ns));
    }
    return NULL;
}

struct gate_io *gate_poll(struct gate *g, uint64_t now_ns)
{
    struct gate_io *io = gate_poll_ready(g, now_ns);
    if (io == NULL)
        io = gate_poll_overdue(g, now_ns);
    while (io == NULL && g->heap_size > 0) {
        struct gate_heap_entry e = g->heap[1];
        struct gate_place *p = gate_entry_place(e);
        if (p->wake_ns > now_ns)
            return NULL;
        uint64_t wait_ns = bucket_wait_ns(&e.rule->bucket[e.kind], now_ns);
        if (wait_ns > 0) {
            gate_place_rekey(e.rule, e.kind, gate_after(now_ns, wait_ns));
            continue;
        }
        struct gate_queue *q = container_of(p->parked.next, struct gate_queue, park_link);
        gate_unpark(q);
        struct gate_verdict v = gate_judge(gate_queue_head(q), false, now_ns);
        if (v.goes) {
            io = gate_release(g, q, e.rule, e.kind, now_ns);
            if (p->heap_index != 0)
                gate_place_rekey(e.rule, e.kind, now_ns);
        } else {
            struct gate_rule *refused_by = q->flow->cover[v.cover_index];
            weir_assert(refused_by != e.rule || v.kind != e.kind);
            gate_park(q, refused_by, v.kind, gate_after(now_ns, v.wait_ns));
        }
    }
    return io;
}

uint64_t gate_next_ns(const struct gate *g)
{
    if (!list_empty(&g->ready))
        return 0;
    uint64_t next = UINT64_MAX;
    if (g->heap_size > 0)
        next = gate_entry_place(g->heap[1])->wake_ns;
    if (!list_empty(&g->ages)) {
        const struct gate_io *io = container_of(g->ages.next, struct gate_io, age_link);
        uint64_t overdue = gate_after(io->submitted_ns, g->max_hold_ns);
        if (overdue < next)
            next = overdue;
    }
    return next;
}

void gate_cancel(struct gate *g, struct gate_io *io, uint64_t now_ns)
{
    (void)now_ns;
    weir_assert(io->queued);
    enum io_direction dir = io_op_direction(io->op);
    struct gate_queue *q = &io->flow->queue[dir == IO_DIR_NONE ? IO_DIR_WRITE : dir];
    bool was_head = gate_queue_head(q) == io;
    gate_queue_unlink(q, io);
    if (!was_head)
        return;
    if (q->length == 0) {
        gate_unpark(q);
        return;
    }
    /* The next one takes over the turn, unless it is a FLUSH, which no place holds. */
    if (gate_queue_head(q)->op == IO_FLUSH && q->at != NULL) {
        gate_unpark(q);
        gate_ready(g, q);
    } else if (q->at != NULL) {
        gate_count_held(q);
    }
}

const struct gate_rule *gate_queue_blocked_by(const struct gate_queue *q, enum gate_kind *ret_kind)
{
    if (q->at != NULL && ret_kind != NULL)
        *ret_kind = q->at_kind;
    return q->at;
}

uint64_t gate_flow_oldest_ns(const struct gate_flow *f)
{
    uint64_t oldest = UINT64_MAX;
    for (uint32_t d = 0; d < 2; d++) {
        if (f->queue[d].length == 0)
            continue;
        uint64_t arrived = gate_queue_head(&f->queue[d])->arrived_ns;
        if (arrived < oldest)
            oldest = arrived;
    }
    return oldest;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics: cumulative readings of every stream, of which only what changed travels.
 *
 * Problem. A lost poll or answer must lose no counts, an answer must be small, and making it must
 * not keep I/O waiting. A meter holds six histograms of 1,601 buckets.
 *
 * Model. Counters only grow, so an answer says whole values, never differences, and the receiver
 * may take the same value twice. For each stream two generations of what was said are kept:
 * `acked`, what the server is known to have whole, and the other, what the newest answer said. A
 * bucket travels when it differs from `acked`. When a poll says that the newest answer arrived
 * whole, the generations of the streams in it change places. Buckets are remembered in 32 bits:
 * only a change by exactly 2^32 between two acknowledgements would go unseen.
 *
 *   poll(acked = sent_seq) : commit, build upon it          poll(acked = acked_seq): the answer was
 *   lost, build
 *   poll(acked = 0 or any other): forget all, send everything                        upon the same
 *   again
 *
 * A server that just started does not know which limits it divided before, and what it gives to
 * others depends on it. So until a session's first full set of controls is in force, each answer
 * begins with the agreed limits that are, in frames of their own.
 *
 * Invariants:
 *  1. generation[acked] of a valid shadow is what the server has of that stream; not valid means
 *     nothing.
 *  2. sent_seq != 0 only when the whole answer sent_seq was handed to the socket.
 *  3. A frame never exceeds FRAME_MAX: FRAME_POOL buckets of 12 bytes and FRAME_STREAMS streams
 *     (asserted).
 *  4. A round collects at most ROUND_STREAMS streams or looks at ROUND_SLOTS slots; packing one
 *     frame handles at most FRAME_POOL buckets (some 0.1 ms).
 *  5. While more than LINK_OUT_PAUSE bytes are unsent, nothing is packed.
 *  6. A slot that a new stream took (another index) starts with nothing acked. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "gateway/certs.h"
#include "gateway/ledger.h"
#include "gateway/link_limits.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"
#include "gateway/stream.h"
#include "qos/meter.h"

#define FRAME_STREAMS 32u
#define FRAME_POOL 16384u
#define ROUND_STREAMS 4u
#define ROUND_SLOTS 1024u
#define STREAM_BUCKETS (2u * METER_HIST_COUNT * HIST_BUCKETS)

/* On the wire a bucket takes at most 2 bytes of index and 10 of count; a stream beside them at most
 * 8 operations of 92 bytes, 6 histograms' heads of 40, and 8 strings and numbers below 2,048. */
_Static_assert(FRAME_POOL * 12u + FRAME_STREAMS * (8u * 92u + 6u * 40u + 2048u) +
                       CONFIG_MAX_TARGETS * 1024u <
                   FRAME_MAX,
               "a frame of statistics fits");
_Static_assert(STREAM_BUCKETS <= FRAME_POOL, "one stream always fits");
_Static_assert(HIST_BUCKETS == FRAME_HIST_BUCKETS, "the wire knows the same buckets");
_Static_assert(FRAME_STREAMS <= FRAME_STREAMS_MAX, "within the protocol's bound");
_Static_assert((int)WEIR__CONTROL__OP__OTHER == IO_OTHER, "operations are numbered alike");
_Static_assert((int)WEIR__CONTROL__HIST_KIND__TOTAL == METER_TOTAL,
               "histograms are numbered alike");

/* What was said of a stream. */
struct said {
    uint64_t size, max_hold_hits, burst_ppm;
    uint32_t connections, held_now, queued_now;
    struct meter_op op[IO_OP_COUNT];
    uint64_t hist_count[2][METER_HIST_COUNT];
    uint32_t bucket[2][METER_HIST_COUNT][HIST_BUCKETS];
};

struct shadow {
    struct said said[2];
    uint32_t index; /* of the stream this is about */
    uint8_t acked;  /* which of said[] */
    bool used, valid, sent;
};

/* The protobuf form of one frame, kept for the link's life. */
struct building {
    Weir__Control__StreamStats stream[FRAME_STREAMS], *stream_ptr[FRAME_STREAMS];
    Weir__Control__StreamInfo info[FRAME_STREAMS];
    Weir__Control__OpStats op[FRAME_STREAMS][IO_OP_COUNT], *op_ptr[FRAME_STREAMS][IO_OP_COUNT];
    Weir__Control__HistStats hist[FRAME_STREAMS][2 * METER_HIST_COUNT];
    Weir__Control__HistStats *hist_ptr[FRAME_STREAMS][2 * METER_HIST_COUNT];
    Weir__Control__TargetStats target[CONFIG_MAX_TARGETS], *target_ptr[CONFIG_MAX_TARGETS];
    Weir__Control__Look look[CONFIG_MAX_TARGETS];
    Weir__Control__LookSample look_sample[CONFIG_MAX_TARGETS][2];
    struct link_limits limits;
    char held_by[FRAME_STREAMS][2 * NAME_SIZE];
    uint32_t index[FRAME_POOL];
    uint64_t count[FRAME_POOL];
    size_t streams, targets, buckets;
};

struct link_stats {
    struct link *link;
    struct shadow *shadow; /* by slot */
    size_t shadow_count;
    struct said *nothing; /* all zero */
    struct meter *sum;    /* of both banks, where two were counted in */
    struct building *b;
    struct reactor_work work;
    uint64_t acked_seq, sent_seq;
    uint64_t seq; /* being answered; 0: none */
    size_t next_slot;
    bool tells, limits_left; /* limits are told in this answer; some still are to be */
    size_t next_limit;
    bool have_next;
    uint64_t waiting_seq, waiting_acked;
};

static void stats_work(struct reactor_work *w);

struct link_stats *link_stats_new(struct link *l)
{
    struct link_stats *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NULL;
    s->link = l;
    s->shadow_count = link_max_slots(l->config);
    s->shadow = calloc(s->shadow_count, sizeof(*s->shadow));
    s->nothing = calloc(1, sizeof(*s->nothing));
    s->b = calloc(1, sizeof(*s->b));
    s->sum = calloc(1, sizeof(*s->sum));
    reactor_work_init(&s->work, stats_work);
    if (s->shadow == NULL || s->nothing == NULL || s->b == NULL ||
        s->sum == NULL) {
        link_stats_free(s);
        return NULL;
    }
    return s;
}

void link_stats_free(struct link_stats *s)
{
    if (s == NULL)
        return;
    reactor_work_cancel(&s->work);
    free(s->shadow);
    free(s->nothing);
    free(s->sum);
    free(s->b);
    free(s);
}

void link_stats_abort(struct link_stats *s)
{
    reactor_work_cancel(&s->work);
    s->have_next = false;
    if (s->seq != 0)
        s->sent_seq = 0; /* invariant 2: it was overwritten in part */
    s->seq = 0;
}

/* The server has the newest answer whole. */
static void stats_commit(struct link_stats *s)
{
    for (size_t i = 0; i < s->shadow_count; i++) {
        struct shadow *sh = &s->shadow[i];
        if (!sh->sent)
            continue;
        sh->acked ^= 1;
        sh->valid = true;
    }
    s->acked_seq = s->sent_seq;
}

static void stats_forget(struct link_stats *s)
{
    for (size_t i = 0; i < s->shadow_count; i++)
        s->shadow[i].valid = false;
    s->acked_seq = 0;
}

static void building_clear(struct building *b)
{
    b->streams = b->targets = b->buckets = b->limits.count = 0;
}

static void stats_begin(struct link_stats *s, uint64_t seq, uint64_t acked)
{
    weir_assert(s->seq == 0);
    if (acked != 0 && acked == s->sent_seq)
        stats_commit(s);
    else if (acked == 0 || acked != s->acked_seq)
        stats_forget(s);
    for (size_t i = 0; i < s->shadow_count; i++)
        s->shadow[i].sent = false;
    s->sent_seq = 0;
    s->seq = seq;
    s->next_slot = s->next_limit = 0;
    s->tells = s->limits_left = link_controls_first(s->link->controls);
    building_clear(s->b);
    reactor_defer(s->link->reactor, &s->work);
}

void link_stats_poll(struct link_stats *s, const Weir__Control__Poll *p)
{
    if (s->seq == 0) {
        stats_begin(s, p->seq, p->acked);
        return;
    }
    s->have_next = true;
    s->waiting_seq = p->seq;
    s->waiting_acked = p->acked;
}

void link_stats_drained(struct link_stats *s)
{
    if (s->seq != 0)
        reactor_defer(s->link->reactor, &s->work);
}

static uint32_t stream_held(const struct stream *st)
{
    return st->flow.queue[IO_DIR_READ].length + st->flow.queue[IO_DIR_WRITE].length;
}

/* The control at which the older of the two heads waits. */
static void stream_held_by(const struct stream *st, char out[2 * NAME_SIZE])
{
    enum gate_kind kind;
    const struct gate_rule *r = gate_queue_blocked_by(&st->flow.queue[IO_DIR_READ], &kind);
    if (r == NULL)
        r = gate_queue_blocked_by(&st->flow.queue[IO_DIR_WRITE], &kind);
    out[0] = '\0';
    if (r != NULL)
        (void)text_copy(out, 2 * NAME_SIZE, stream_rule_control(r)->id);
}

static bool stream_changed(const struct said *was, const struct said *is)
{
    return was->connections != is->connections || is->held_now != 0 || was->held_now != 0 ||
           is->queued_now != 0 || was->queued_now != 0 ||
           was->burst_ppm != is->burst_ppm || was->max_hold_hits != is->max_hold_hits ||
           was->size != is->size || memcmp(was->op, is->op, sizeof(is->op)) != 0;
}

static void build_info(struct building *b, size_t at, const struct stream *st)
{
    Weir__Control__StreamInfo *i = &b->info[at];
    weir__control__stream_info__init(i);
    i->host = (char *)(uintptr_t)st->host;
    i->volume = (char *)(uintptr_t)st->volume;
    i->tenant = (char *)(uintptr_t)st->tenant;
    i->target = (char *)(uintptr_t)(st->target != NULL ? st->target->name : "");
    i->size = st->size;
    b->stream[at].info = i;
}

/* How it fares at its target. */
static void build_turn(Weir__Control__StreamStats *out, const struct stream *st, uint64_t now)
{
    uint64_t oldest = sched_flow_oldest_ns(&st->turn);
    out->cost_arrived_ns = st->turn.cost_arrived_ns;
    out->cost_served_ns = st->turn.cost_served_ns;
    out->reserved_ios = st->turn.reserved_ios;
    out->queued_now = st->turn.queued;
    out->oldest_queued_ns = oldest < now ? now - oldest : 0;
    out->queued_ns = st->turn.queued_ns;
    out->late = st->turn.late;
    out->share = (char *)(uintptr_t)stream_share_id(st);
}

/* Operations that ever came; whole values. */
static void build_ops(struct building *b, size_t at, const struct meter *m)
{
    Weir__Control__StreamStats *out = &b->stream[at];
    for (size_t op = 0; op < IO_OP_COUNT; op++) {
        const struct meter_op *c = &m->op[op];
        if (c->arrivals == 0)
            continue;
        Weir__Control__OpStats *o = &b->op[at][out->n_ops];
        weir__control__op_stats__init(o);
        o->op = (Weir__Control__Op)op;
        o->arrivals = c->arrivals;
        o->completions = c->completions;
        o->errors = c->errors;
        o->bytes = c->bytes;
        o->held = c->held;
        o->held_ns = c->held_ns;
        o->dropped = c->dropped;
        o->bytes_arrived = c->bytes_arrived;
        b->op_ptr[at][out->n_ops++] = o;
    }
    out->ops = b->op_ptr[at];
}

/* The buckets of one histogram that differ from @was; @is remembers what is said now. */
static void build_hist(struct building *b, size_t at, const struct hist *h, unsigned kind,
                       unsigned dir, const uint32_t *was, uint32_t *is)
{
    Weir__Control__StreamStats *out = &b->stream[at];
    size_t first = b->buckets;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        is[i] = (uint32_t)h->bucket[i];
        if (is[i] == was[i])
            continue;
        b->index[b->buckets] = i;
        b->count[b->buckets++] = h->bucket[i];
    }
    if (b->buckets == first)
        return;
    Weir__Control__HistStats *hs = &b->hist[at][out->n_hists];
    weir__control__hist_stats__init(hs);
    hs->kind = (Weir__Control__HistKind)kind;
    hs->write = dir == IO_DIR_WRITE;
    hs->n_index = hs->n_count = b->buckets - first;
    hs->index = b->index + first;
    hs->count = b->count + first;
    hs->sum_ns = h->sum_ns;
    hs->max_ns = h->max_ns;
    b->hist_ptr[at][out->n_hists++] = hs;
}

static void build_hists(struct building *b, size_t at, const struct meter *m,
                        const struct said *was, struct said *is)
{
    for (unsigned dir = 0; dir < 2; dir++) {
        for (unsigned kind = 0; kind < METER_HIST_COUNT; kind++) {
            const struct hist *h = &m->hist[dir][kind];
            is->hist_count[dir][kind] = h->count;
            if (h->count == was->hist_count[dir][kind])
                memcpy(is->bucket[dir][kind], was->bucket[dir][kind],
                       sizeof(is->bucket[dir][kind]));
            else
                build_hist(b, at, h, kind, dir, was->bucket[dir][kind], is->bucket[dir][kind]);
        }
    }
    b->stream[at].hists = b->hist_ptr[at];
}

/* Add the stream to the frame if there is something to say of it; true when added. */
static bool stats_collect(struct link_stats *s, struct shadow *sh, struct stream *st, uint64_t now)
{
    struct building *b = s->b;
    if (!sh->used || sh->index != st->index) {
        sh->used = true;
        sh->valid = false;
        sh->index = st->index;
    }
    const struct said *was = sh->valid ? &sh->said[sh->acked] : s->nothing;
    struct said *is = &sh->said[sh->acked ^ 1];
    const struct meter *m = stream_meter_total(s->link->streams, st, s->sum);
    is->connections = stream_connections_total(s->link->streams, st);
    is->held_now = stream_held(st);
    is->queued_now = st->turn.queued;
    is->size = st->size;
    is->max_hold_hits = m->max_hold_hits;
    uint32_t burst;
    is->burst_ppm = stream_burst_ppm(st, &burst) ? (uint64_t)burst + 1 : 0;
    memcpy(is->op, m->op, sizeof(is->op));
    if (sh->valid && !stream_changed(was, is))
        return false;

    size_t at = b->streams++;
    weir_assert(at < FRAME_STREAMS);
    Weir__Control__StreamStats *out = &b->stream[at];
    weir__control__stream_stats__init(out);
    b->stream_ptr[at] = out;
    uint64_t oldest = gate_flow_oldest_ns(&st->flow);
    out->index = st->index;
    out->connections = is->connections;
    out->held_now = is->held_now;
    out->oldest_held_ns = oldest < now ? now - oldest : 0;
    out->max_hold_hits = is->max_hold_hits;
    out->burst_ppm = is->burst_ppm;
    stream_held_by(st, b->held_by[at]);
    out->held_by = b->held_by[at];
    build_turn(out, st, now);
    if (!sh->valid || was->size != is->size)
        build_info(b, at, st);
    build_ops(b, at, m);
    build_hists(b, at, m, was, is);
    sh->sent = true;
    return true;
}

static void look_sample_to(Weir__Control__LookSample *out, const struct look_sample *in)
{
    weir__control__look_sample__init(out);
    out->ns = in->ns;
    out->busy_ns = in->busy_ns;
    out->full_ns = in->full_ns;
    out->ios = in->ios;
    out->bytes = in->bytes;
    out->weighed_busy_ns = in->weighed_busy_ns;
    out->weighed_ios = in->weighed_ios;
    out->weighed_bytes = in->weighed_bytes;
}

static void build_look(struct building *b, size_t i, struct target *port, uint64_t now)
{
    struct look_result r;
    look_result(&port->look, port->sched, now, &r);
    if (r.id == 0)
        return;
    weir__control__look__init(&b->look[i]);
    b->look[i].id = r.id;
    b->look[i].low = &b->look_sample[i][0];
    b->look[i].since = &b->look_sample[i][1];
    look_sample_to(b->look[i].low, &r.low);
    look_sample_to(b->look[i].since, &r.since);
    b->target[i].look = &b->look[i];
}

static void build_window(Weir__Control__TargetStats *t, struct target *port, uint64_t now)
{
    const struct sched_counts *c = sched_account(port->sched, now);
    const struct cost_model *m = sched_cost(port->sched);
    t->window_milli = target_window(port);
    t->parallelism_milli = port->window.parallelism_milli;
    t->wait_p99_us = port->wait_p99_ns / NS_PER_US;
    t->busy_ns = c->busy_ns;
    t->full_ns = c->full_ns;
    t->cost_served_ns = c->cost_served_ns;
    t->served_ios = c->served_ios;
    t->served_bytes = c->served_bytes;
    t->queued_now = sched_queued(port->sched);
    t->read_base_ns = m->base_ns[IO_DIR_READ];
    t->read_page_ns = m->page_ns[IO_DIR_READ];
    t->write_base_ns = m->base_ns[IO_DIR_WRITE];
    t->write_page_ns = m->page_ns[IO_DIR_WRITE];
}

static void build_targets(struct link_stats *s, uint64_t now)
{
    const struct gateway_config *c = s->link->config;
    struct building *b = s->b;
    for (size_t i = 0; i < c->target_count; i++) {
        struct target_stats total, *from = &total;
        ledger_target_total(stream_ledger(s->link->streams), i, &total);
        Weir__Control__TargetStats *t = &b->target[i];
        weir__control__target_stats__init(t);
        t->name = (char *)(uintptr_t)c->targets[i].name;
        t->uri = (char *)(uintptr_t)c->targets[i].uri;
        t->connections = from->connections;
        t->connects = from->connects;
        t->connect_failures = from->connect_failures;
        t->inflight = from->inflight;
        t->errors = from->errors;
        t->last_error =
            (char *)(uintptr_t)(from->last_error != 0 ? weir_strerror(from->last_error) : "");
        build_look(b, i, stream_port(s->link->streams, (uint32_t)i), now);
        build_window(t, stream_port(s->link->streams, (uint32_t)i), now);
        b->target_ptr[i] = t;
    }
    b->targets = c->target_count;
}

static void build_life(struct link_stats *s, Weir__Control__GatewayLife *out, uint64_t now)
{
    struct ledger_life *life = ledger_life(stream_ledger(s->link->streams));
    weir__control__gateway_life__init(out);
    out->deaths = life->deaths;
    out->hangs = life->hangs < life->deaths ? life->hangs : life->deaths; /* counted one by one */
    out->last_death = life->last_reason;
    if (life->last_death_ns != 0 && life->last_death_ns < now)
        out->last_death_ms = (now - life->last_death_ns) / NS_PER_MS;
    out->upgrades = life->upgrades;
    out->upgrades_failed = life->upgrades_failed;
    out->last_upgrade = life->last_upgrade;
    const struct certs_one *cert = certs_first(relay_certs(s->link->relay));
    if (cert == NULL)
        return;
    out->certificate = (char *)(uintptr_t)cert->where;
    out->certificate_from_s = cert->dates.from_s;
    out->certificate_until_s = cert->dates.until_s;
}

static void build_drain(struct link_stats *s, Weir__Control__DrainStats *out)
{
    struct ledger *ledger = stream_ledger(s->link->streams);
    struct relay_counts counts;
    uint64_t deadline;
    ledger_counts_total(ledger, &counts);
    weir__control__drain_stats__init(out);
    out->since = ledger_drain(ledger, &deadline);
    out->connections = counts.active;
    out->refused = counts.closed[RELAY_CLOSE_DRAINING];
    out->closed = counts.closed[RELAY_CLOSE_DRAINED];
}

/* Send what was collected. False: the link was dropped. */
static bool stats_send(struct link_stats *s, bool more, uint64_t now)
{
    struct building *b = s->b;
    Weir__Control__Statistics st = WEIR__CONTROL__STATISTICS__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    Weir__Control__GatewayLife life;
    Weir__Control__DrainStats drain;
    if (!more) {
        build_life(s, &life, now);
        build_drain(s, &drain);
        st.life = &life;
        st.drain = &drain;
    }
    st.seq = s->seq;
    st.base_seq = s->acked_seq;
    st.more = more;
    st.mono_ns = now;
    st.epoch = link_controls_epoch(s->link->controls);
    st.n_streams = b->streams;
    st.streams = b->stream_ptr;
    st.n_targets = b->targets;
    st.targets = b->target_ptr;
    st.limits_said = s->tells;
    st.n_limits = b->limits.count;
    st.limits = b->limits.limit_ptr;
    st.boot_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = s->link->boot_id};
    f.body_case = WEIR__CONTROL__FRAME__BODY_STATISTICS;
    f.statistics = &st;
    bool sent = link_send(s->link, &f);
    building_clear(b);
    return sent;
}

/* A frame of limits, unless none is left. False: the link was dropped. */
static bool stats_limits(struct link_stats *s, uint64_t now)
{
    link_limits_build(&s->b->limits, s->link->streams, s->next_limit);
    s->next_limit += s->b->limits.count;
    s->limits_left = s->next_limit < s->b->limits.seen;
    if (s->b->limits.count > 0 && !stats_send(s, true, now))
        return false;
    reactor_defer(s->link->reactor, &s->work);
    return true;
}

static bool frame_has_room(const struct building *b)
{
    return b->streams < FRAME_STREAMS && FRAME_POOL - b->buckets >= STREAM_BUCKETS;
}

static void stats_done(struct link_stats *s)
{
    s->sent_seq = s->seq;
    s->seq = 0;
    if (!s->have_next)
        return;
    s->have_next = false;
    stats_begin(s, s->waiting_seq, s->waiting_acked);
}

static void stats_work(struct reactor_work *w)
{
    struct link_stats *s = container_of(w, struct link_stats, work);
    struct link *l = s->link;
    weir_assert(s->seq != 0);
    if (link_unsent(l) > LINK_OUT_PAUSE)
        return; /* link_stats_drained goes on */
    uint64_t now = reactor_now_fresh(l->reactor);
    if (s->limits_left) {
        (void)stats_limits(s, now);
        return;
    }
    size_t slots = stream_slots(l->streams), looked = 0, added = 0;
    weir_assert(slots <= s->shadow_count);
    if (s->next_slot == 0) {
        stream_refresh(l->streams, now); /* burst credit is told as of now */
        build_targets(s, now);
    }
    while (s->next_slot < slots && looked < ROUND_SLOTS && added < ROUND_STREAMS &&
           frame_has_room(s->b)) {
        struct stream *st = stream_at(l->streams, s->next_slot);
        if (st != NULL && stats_collect(s, &s->shadow[s->next_slot], st, now))
            added++;
        s->next_slot++;
        looked++;
    }
    bool last = s->next_slot >= slots;
    if ((last || !frame_has_room(s->b)) && !stats_send(s, !last, now))
        return;
    if (last)
        stats_done(s);
    else
        reactor_defer(l->reactor, &s->work);
}

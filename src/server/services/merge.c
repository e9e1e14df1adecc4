/* SPDX-License-Identifier: Apache-2.0 */
/* Merging reports into the cache.
 *
 * Problem: a gateway answers each poll with cumulative counters and whole counts of the histogram
 * buckets that changed. Answers may be late, doubled, out of order, in several frames, cut off by a
 * lost session, or wrong. What happened between two whole answers must come out as one window,
 * exactly once.
 *
 * Model: each counter that comes in is compared with the one known and the difference is added to
 * the stream's `gather`; then it replaces the one known. When the last frame of a sequence is in,
 * every stream's gather becomes its window and is cleared. So a lost answer loses nothing: the next
 * one's differences span both. Frames of an answer that was cut off stay in gather and count in the
 * next window.
 *
 * Invariants: (1) an answer is merged at most once: its sequence is above the newest whole one and
 * not above the last asked; frames of older ones are ignored and counted; (2) an answer that builds
 * on a sequence we do not have whole is ignored: what it leaves out is not known here; (3)
 * differences are never negative: a counter that goes back within a boot is a fault of the gateway,
 * counted, and begins anew; (4) the first whole answer of a boot met in the middle (a server that
 * just started) says where counters stand, and makes no window; a stream that appears later began
 * at zero, unless streams of its gateway were once refused for want of room: it may be one of
 * those. */
#include <string.h>

#include "base/assert.h"
#include "server/services/state.h"

#define NS_PER_S UINT64_C(1000000000)
/* No rate is believed above this: it bounds all later arithmetic. */
#define RATE_MAX UINT64_C(1000000000000)

static void gather_clear_counts(struct gather *a)
{
    memset(a->arrived, 0, sizeof(a->arrived));
    memset(a->bytes_arrived, 0, sizeof(a->bytes_arrived));
    memset(a->total_ns, 0, sizeof(a->total_ns));
    a->arrivals = a->reads = a->writes = a->others = 0;
    a->read_bytes = a->write_bytes = a->errors = a->held = 0;
}

static void gather_clear(struct gather *a)
{
    for (int k = 0; k < METER_HIST_COUNT; k++)
        sparse_hist_clear(&a->hist[k]);
    gather_clear_counts(a);
}

static void window_clear(struct stream *st)
{
    struct entity_window *w = &st->e.window;
    for (int k = 0; k < METER_HIST_COUNT; k++) {
        sparse_hist_clear(&w->hist[k]);
        w->p50_us[k] = w->p99_us[k] = w->max_us[k] = w->mean_us[k] = 0;
    }
    w->duration_ns = 0;
    memset(w->demand_dir_iops, 0, sizeof(w->demand_dir_iops));
    memset(w->demand_dir_bytes_s, 0, sizeof(w->demand_dir_bytes_s));
    w->outstanding[0] = w->outstanding[1] = 0;
    w->demand_iops = w->read_iops = w->write_iops = w->iops = 0;
    w->read_bytes_s = w->write_bytes_s = 0;
    w->arrivals = w->reads = w->writes = w->others = 0;
    w->read_bytes = w->write_bytes = w->errors = w->held = 0;
}

void merge_window_end(struct stream *st)
{
    window_clear(st);
    st->was_active = false;
}

void merge_fini(struct stream *st)
{
    for (int k = 0; k < METER_HIST_COUNT; k++) {
        sparse_hist_fini(&st->e.now.hist[IO_DIR_READ][k]);
        sparse_hist_fini(&st->e.now.hist[IO_DIR_WRITE][k]);
        sparse_hist_fini(&st->gather.hist[k]);
        sparse_hist_fini(&st->e.window.hist[k]);
    }
}

void merge_forget(struct stream *st)
{
    memset(st->e.now.op, 0, sizeof(st->e.now.op));
    for (int k = 0; k < METER_HIST_COUNT; k++) {
        sparse_hist_fini(&st->e.now.hist[IO_DIR_READ][k]);
        sparse_hist_fini(&st->e.now.hist[IO_DIR_WRITE][k]);
    }
    gather_clear(&st->gather);
    window_clear(st);
    st->e.connections = st->e.held_now = 0;
    st->e.oldest_held_ns = st->e.max_hold_hits = 0;
    st->e.held_by[0] = '\0';
}

/* The difference, and @was becomes @now. */
static uint64_t counter_step(struct gateway *g, uint64_t *was, uint64_t now)
{
    uint64_t d = 0;
    if (now >= *was)
        d = now - *was;
    else
        g->e.counter_faults++;
    *was = now;
    return d;
}

static void merge_op(struct gateway *g, struct stream *st, const struct report_op *r)
{
    if ((unsigned)r->op >= IO_OP_COUNT)
        return;
    struct meter_op *m = &st->e.now.op[r->op];
    struct gather *a = &st->gather;
    uint64_t arrivals = counter_step(g, &m->arrivals, r->counts.arrivals);
    uint64_t completions = counter_step(g, &m->completions, r->counts.completions);
    uint64_t bytes = counter_step(g, &m->bytes, r->counts.bytes);
    uint64_t errors = counter_step(g, &m->errors, r->counts.errors);
    uint64_t held = counter_step(g, &m->held, r->counts.held);
    counter_step(g, &m->held_ns, r->counts.held_ns);
    counter_step(g, &m->dropped, r->counts.dropped);
    uint64_t bytes_arrived = counter_step(g, &m->bytes_arrived, r->counts.bytes_arrived);
    if (g->baseline || st->baseline)
        return;
    a->errors += errors;
    a->held += held;
    switch (io_op_direction(r->op)) {
    case IO_DIR_READ:
        a->arrivals += arrivals;
        a->arrived[IO_DIR_READ] += arrivals;
        a->bytes_arrived[IO_DIR_READ] += bytes_arrived;
        a->reads += completions;
        a->read_bytes += bytes;
        break;
    case IO_DIR_WRITE:
        a->arrivals += arrivals;
        a->arrived[IO_DIR_WRITE] += arrivals;
        a->bytes_arrived[IO_DIR_WRITE] += bytes_arrived;
        a->writes += completions;
        a->write_bytes += bytes;
        break;
    case IO_DIR_NONE:
        a->others += completions;
        break;
    }
}

/* Without memory it is as if the bucket had not been told: what it lacks comes with its next
 * count. */
static void merge_bucket(struct gateway *g, struct sparse_hist *now, struct sparse_hist *into,
                         const struct report_bucket *b, uint32_t hint[2])
{
    if (b->index >= HIST_BUCKETS) {
        g->e.counter_faults++;
        return;
    }
    uint64_t *known = sparse_hist_at(now, b->index, &hint[0]);
    if (known == NULL)
        return;
    uint64_t was = *known, d = counter_step(g, known, b->count);
    now->count += b->count - was; /* modulo 2^64: the sum of all buckets */
    uint64_t *gathered = d != 0 && into != NULL ? sparse_hist_at(into, b->index, &hint[1]) : NULL;
    if (gathered == NULL && d != 0 && into != NULL) {
        now->count -= *known - was;
        *known = was;
    }
    if (gathered == NULL)
        return;
    *gathered += d;
    into->count += d;
}

static void merge_hist(struct gateway *g, struct stream *st, const struct report_hist *r)
{
    if ((unsigned)r->kind >= METER_HIST_COUNT || (unsigned)r->direction > IO_DIR_WRITE)
        return;
    bool counts = !g->baseline && !st->baseline;
    struct sparse_hist *now = &st->e.now.hist[r->direction][r->kind];
    struct sparse_hist *into = counts ? &st->gather.hist[r->kind] : NULL;
    uint64_t sum = counter_step(g, &now->sum_ns, r->sum_ns);
    if (r->max_ns > now->max_ns)
        now->max_ns = r->max_ns;
    uint32_t hint[2] = {0, 0};
    for (size_t i = 0; i < r->bucket_count; i++)
        merge_bucket(g, now, into, &r->bucket[i], hint);
    if (into == NULL)
        return;
    into->sum_ns += sum;
    if (r->kind == METER_TOTAL)
        st->gather.total_ns[r->direction] += sum;
    if (into->used > 0) {
        uint64_t bound = hist_bucket_high(sparse_hist_index(into, into->used - 1u)) - 1;
        into->max_ns = bound < now->max_ns || now->max_ns == 0 ? bound : now->max_ns;
    }
}

static void merge_max_hold(struct services *s, struct stream *st, uint64_t hits)
{
    uint64_t was = st->e.max_hold_hits;
    st->e.max_hold_hits = hits;
    if (hits <= was || st->gateway->baseline || st->baseline)
        return;
    if (st->max_hold_said && s->now_ns - st->max_hold_said_ns < 60 * NS_PER_S)
        return;
    st->max_hold_said = true;
    st->max_hold_said_ns = s->now_ns;
    char subject[SUBJECT_SIZE];
    note_stream_subject(st, subject, sizeof(subject));
    note_event(s, EVENT_WARNING, "max-hold-reached", subject,
               "%llu I/Os of %s waited as long as a gateway may hold and were let go%s%s",
               (unsigned long long)(hits - was), st->e.key, st->e.held_by[0] ? "; held by " : "",
               st->e.held_by);
}

static void merge_stream(struct services *s, struct gateway *g, const struct report_stream *r)
{
    struct stream *st = entity_stream_find(s, g, r->index);
    if (r->has_info)
        st = entity_stream_map(s, g, r);
    if (st == NULL) {
        if (!r->has_info)
            g->ask_all = true; /* never told who this is */
        return;
    }
    for (size_t i = 0; i < r->op_count && i < IO_OP_COUNT; i++)
        merge_op(g, st, &r->op[i]);
    for (size_t i = 0; i < r->hist_count && i < 2 * METER_HIST_COUNT; i++)
        merge_hist(g, st, &r->hist[i]);
    if ((st->e.connections == 0) != (r->connections == 0))
        gateway_touch(s, g); /* who holds a part of a limit may have changed */
    st->e.connections = r->connections;
    st->e.held_now = r->held_now;
    st->e.oldest_held_ns = r->oldest_held_ns;
    words(st->e.held_by, sizeof(st->e.held_by), "%.*s", (int)sizeof(r->held_by) - 1, r->held_by);
    st->e.cost_served_ns = r->cost_served_ns;
    st->e.late = r->late;
    st->e.queued_now = r->queued_now;
    words(st->e.share, sizeof(st->e.share), "%.*s", (int)sizeof(r->share) - 1, r->share);
    st->e.has_burst = r->has_burst;
    st->e.burst_ppm = r->burst_ppm;
    merge_max_hold(s, st, r->max_hold_hits);
}

static void merge_target(struct services *s, struct gateway *g, const struct report_target *r)
{
    char name[NAME_SIZE];
    entity_name_take(name, r->name, false);
    struct target *t = entity_target_get(s, g, name);
    if (t == NULL)
        return;
    if (strncmp(t->e.uri, r->uri, sizeof(t->e.uri) - 1) != 0) {
        words(t->e.uri, sizeof(t->e.uri), "%.*s", (int)sizeof(r->uri) - 1, r->uri);
        storage_join(s, t);
        g->targets_changed = true;
        if (!storage_named_elsewhere(t))
            s->sink.target_seen(s->sink.ctx, g->e.hello.name, t->e.name, t->e.uri);
    }
    t->e.window_milli = r->window_milli;
    t->e.parallelism_milli = r->parallelism_milli;
    t->e.wait_p99_us = r->wait_p99_us;
    t->cost = r->cost;
    t->now = (struct target_counts){.busy_ns = r->busy_ns, .full_ns = r->full_ns,
                                    .ios = r->served_ios, .bytes = r->served_bytes};
    t->look = r->look;
    t->e.connections = r->connections;
    t->e.connects = r->connects;
    t->e.connect_failures = r->connect_failures;
    t->e.inflight = r->inflight;
    t->e.errors = r->errors;
    words(t->e.last_error, sizeof(t->e.last_error), "%.*s", (int)sizeof(r->last_error) - 1,
          r->last_error);
}

static uint64_t per_second(uint64_t n, uint64_t duration_ns)
{
    weir_assert(duration_ns > 0);
    unsigned __int128 rate = ((unsigned __int128)n * NS_PER_S + duration_ns / 2) / duration_ns;
    return rate > RATE_MAX ? RATE_MAX : (uint64_t)rate;
}

static void window_take(struct stream *st, uint64_t duration_ns)
{
    struct entity_window *w = &st->e.window;
    struct gather *a = &st->gather;
    window_clear(st);
    w->duration_ns = duration_ns;
    w->arrivals = a->arrivals;
    w->reads = a->reads;
    w->writes = a->writes;
    w->others = a->others;
    w->read_bytes = a->read_bytes;
    w->write_bytes = a->write_bytes;
    w->errors = a->errors;
    w->held = a->held;
    if (duration_ns > 0) {
        w->demand_iops = per_second(a->arrivals, duration_ns);
        for (int d = 0; d < 2; d++) {
            w->demand_dir_iops[d] = per_second(a->arrived[d], duration_ns);
            w->demand_dir_bytes_s[d] = per_second(a->bytes_arrived[d], duration_ns);
            w->outstanding[d] = (double)a->total_ns[d] / (double)duration_ns;
        }
        w->read_iops = per_second(a->reads, duration_ns);
        w->write_iops = per_second(a->writes, duration_ns);
        w->iops = per_second(a->reads + a->writes, duration_ns);
        w->read_bytes_s = per_second(a->read_bytes, duration_ns);
        w->write_bytes_s = per_second(a->write_bytes, duration_ns);
    }
    for (int k = 0; k < METER_HIST_COUNT; k++) {
        struct sparse_hist *h = &w->hist[k];
        if (a->hist[k].used == 0) {
            sparse_hist_clear(&a->hist[k]); /* idle for a whole window: its block may go */
            continue;
        }
        sparse_hist_swap(h, &a->hist[k]); /* what was there is empty: window_clear */
        w->p50_us[k] = sparse_hist_quantile(h, 0.50) / 1000;
        w->p99_us[k] = sparse_hist_quantile(h, 0.99) / 1000;
        w->max_us[k] = h->max_ns / 1000;
        w->mean_us[k] = sparse_hist_mean(h) / 1000;
    }
    gather_clear_counts(a); /* its histograms are empty, and have their blocks */
}

/* How long the window was: by the gateway's clock, unless that disagrees wildly with ours. */
static uint64_t window_duration(const struct services *s, const struct gateway *g, uint64_t mono_ns)
{
    uint64_t ours = s->now_ns > g->whole_now_ns ? s->now_ns - g->whole_now_ns : 0;
    uint64_t theirs = mono_ns > g->whole_mono_ns ? mono_ns - g->whole_mono_ns : 0;
    uint64_t slack = s->config.period_ns;
    bool sane = theirs > 0 && theirs <= 2 * ours + slack && ours <= 2 * theirs + slack;
    uint64_t d = sane ? theirs : ours;
    return d > 1000000 ? d : 1000000;
}

static void merge_finish(struct services *s, struct gateway *g, const struct report *r)
{
    bool window = g->whole_known && !g->baseline;
    uint64_t duration = window ? window_duration(s, g, r->mono_ns) : 0;
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        window_take(st, duration);
        st->baseline = false;
    }
    g->window_start_ns = g->whole_now_ns;
    g->whole_known = true;
    g->baseline = false;
    g->whole_seq = g->e.acked_seq = r->seq;
    g->whole_mono_ns = r->mono_ns;
    g->whole_now_ns = s->now_ns;
    g->gather_seq = 0;
    if (r->seq == g->e.poll_seq) {
        g->outstanding = false;
        g->e.round_trip_ns = s->now_ns - g->e.poll_sent_ns;
        hist_record(&s->e.round_trip, g->e.round_trip_ns);
    }
    g->unanswered = 0;
}

enum merge merge_report(struct services *s, struct gateway *g, const struct report *r)
{
    bool same_boot = memcmp(r->boot, g->e.hello.boot, GATEWAY_ID_SIZE) == 0;
    bool in_order = r->seq > g->whole_seq && r->seq <= g->e.poll_seq && r->seq >= g->gather_seq;
    bool known_base = r->base == 0 || r->base <= g->whole_seq;
    if (!same_boot || !in_order || !known_base || (r->base != 0 && !g->whole_known)) {
        s->e.stale_reports++;
        s->stats.stale_reports++;
        return MERGE_IGNORED;
    }
    s->stats.reports++;
    g->gather_seq = r->seq;
    uint64_t faults = g->e.counter_faults;
    settle_tell(s, g, r);
    for (size_t i = 0; i < r->stream_count; i++)
        merge_stream(s, g, &r->stream[i]);
    for (size_t i = 0; i < r->target_count; i++)
        merge_target(s, g, &r->target[i]);
    s->stats.counter_faults += g->e.counter_faults - faults;
    if (r->more)
        return MERGE_PART;
    merge_finish(s, g, r);
    return MERGE_WHOLE;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Rendering. All numbers are canonical: I/Os and bytes per second, microseconds; "no limit" is
 * null. */
#include "server/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/model/parts.h"
#include "server/monitor/session.h"
#include "server/services/explain.h"
#include "server/services/precedence.h"
#include "server/view_private.h"

/* Of the agreements that select a stream. */
#define RULES_SHOWN 32u

/* --- streams
 * ------------------------------------------------------------------------------------------- */

static json_t *window_latency(const struct entity_window *w)
{
    json_t *all = json_object();
    for (int k = 0; k < METER_HIST_COUNT; k++)
        json_object_set_new(all, meter_hist_name((enum meter_hist)k),
                            latency_part(w->mean_us[k], w->p50_us[k], w->p99_us[k], w->max_us[k]));
    return all;
}

static json_t *objective(const struct objective *o)
{
    if (o == NULL)
        return json_null();
    return json_pack("{s:o, s:o, s:o}", "percentile", percent(o->percentile_ppm), "latencyUs",
                     count(o->latency_us), "whileIops", count_or_null(o->while_iops));
}

static json_t *control(const struct entity_throttle *t)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "desired", rates(t->iops, t->bytes_s), "applied",
                     rates(t->applied_iops, t->applied_bytes_s), "since",
                     t->active ? instant(t->since_wall_us) : json_null(), "reason",
                     t->active ? text_or_null(t->reason) : json_null());
}

static json_t *counters(const struct meter_op ops[IO_OP_COUNT])
{
    json_t *all = json_object();
    for (int op = 0; op < IO_OP_COUNT; op++) {
        const struct meter_op *c = &ops[op];
        json_object_set_new(
            all, io_op_name((enum io_op)op),
            json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "arrivals", count(c->arrivals),
                      "completions", count(c->completions), "errors", count(c->errors), "bytes",
                      count(c->bytes), "held", count(c->held), "heldUs", count(c->held_ns / 1000),
                      "dropped", count(c->dropped)));
    }
    return all;
}

/* Cumulative, as [upper edge in us, count up to it]; only buckets in use. */
static json_t *histogram(const struct sparse_hist *h)
{
    json_t *buckets = json_array();
    uint64_t sum = 0;
    for (uint32_t i = 0; i < h->used; i++) {
        uint32_t index = sparse_hist_index(h, i);
        if (sparse_hist_count(h, i) == 0)
            continue;
        sum += sparse_hist_count(h, i);
        uint64_t high = index + 1 < HIST_BUCKETS ? hist_bucket_high(index) : h->max_ns + 1;
        json_array_append_new(buckets,
                              json_pack("[f, o]", (double)(high - 1) / 1e3, count(sum)));
    }
    return json_pack("{s:f, s:o, s:o}", "sumUs", (double)h->sum_ns / 1e3, "count", count(sum),
                     "buckets", buckets);
}

static json_t *histograms(const struct entity_stream *st)
{
    json_t *both = json_object();
    for (int d = IO_DIR_READ; d <= IO_DIR_WRITE; d++) {
        json_t *set = json_object();
        for (int k = 0; k < METER_HIST_COUNT; k++)
            json_object_set_new(set, meter_hist_name((enum meter_hist)k),
                                histogram(&st->now.hist[d][k]));
        json_object_set_new(both, d == IO_DIR_READ ? "read" : "write", set);
    }
    return both;
}

static uint64_t errors_per_second(const struct entity_window *w)
{
    if (w->duration_ns == 0)
        return 0;
    return (uint64_t)((double)w->errors * 1e9 / (double)w->duration_ns + 0.5);
}

static void stream_identity(json_t *j, const struct entity_stream *st)
{
    json_object_set_new(j, "key", text(st->key));
    json_object_set_new(j, "host", text(st->host));
    json_object_set_new(j, "volume", text(st->volume));
    json_object_set_new(j, "tenant", text_or_null(st->tenant));
    json_object_set_new(j, "target", text(st->target_name));
    json_object_set_new(j, "gateway", text(st->gateway->hello.name));
    json_object_set_new(j, "size", count(st->size));
    json_object_set_new(j, "connections", count(st->connections));
}

static void stream_rates(json_t *j, const struct entity_stream *st)
{
    const struct entity_window *w = &st->window;
    json_object_set_new(j, "demandIops", count(w->demand_iops));
    json_object_set_new(j, "iops", count(w->iops));
    json_object_set_new(j, "readIops", count(w->read_iops));
    json_object_set_new(j, "writeIops", count(w->write_iops));
    json_object_set_new(j, "readBytesPerSecond", count(w->read_bytes_s));
    json_object_set_new(j, "writeBytesPerSecond", count(w->write_bytes_s));
    json_object_set_new(j, "errorsPerSecond", count(errors_per_second(w)));
    json_object_set_new(j, "inflight", count(entity_stream_inflight(st)));
    json_object_set_new(j, "heldNow", count(st->held_now));
    json_object_set_new(j, "latency", window_latency(w));
    json_object_set_new(j, "heldBy", text_or_null(st->held_by));
    json_object_set_new(j, "oldestHeldUs", count(st->oldest_held_ns / 1000));
    json_object_set_new(j, "burstCreditPercent",
                        st->has_burst ? percent(st->burst_ppm > 1000000 ? 1000000 : st->burst_ppm)
                                      : json_null());
}

/* Which agreements select it, in their order, and what came of each. */
static json_t *rules(const struct entities *e, const struct entity_stream *st)
{
    struct precedence_row row[RULES_SHOWN];
    size_t n;
    precedence_of(&e->agreements, st, row, RULES_SHOWN, &n);
    json_t *all = json_array();
    for (size_t i = 0; i < n; i++) {
        const struct entity_agreement *a = row[i].agreement;
        json_array_append_new(
            all, json_pack("{s:s, s:o, s:s, s:s, s:b, s:b, s:o}", "agreement", a->agreement.name,
                           "version", count(a->agreement.version), "says",
                           precedence_name(row[i].says), "why", precedence_words(row[i].says),
                           "shared", a->agreement.per == AGREEMENT_PER_GROUP, "bySize",
                           a->agreement.per_gib.iops != 0 || a->agreement.per_gib.bytes_s != 0,
                           "limit", model_limits_render(&a->agreement.limits)));
    }
    return all;
}

static json_t *explanation(const struct entities *e, const struct entity_stream *st)
{
    char line[EXPLAIN_SENTENCES][EXPLAIN_SIZE];
    size_t n = explain_stream(e, st, line);
    json_t *all = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(all, text(line[i]));
    return all;
}

static json_t *stream(const struct entity_stream *st, bool with_histograms)
{
    json_t *j = json_object();
    stream_identity(j, st);
    stream_rates(j, st);
    json_object_set_new(j, "agreement",
                        st->agreement != NULL ? text(st->agreement->name) : json_null());
    json_object_set_new(j, "agreementVersion",
                        st->agreement != NULL ? count(st->agreement->version) : json_null());
    json_object_set_new(j, "objective", objective(st->objective));
    json_object_set_new(j, "judgedLatencyUs",
                        st->objective != NULL ? count(st->judged_latency_us) : json_null());
    json_object_set_new(j, "verdict", text(verdict_name(st->verdict)));
    json_object_set_new(j, "harmPercent", percent(st->harm_ppm));
    json_object_set_new(j, "control", control(&st->throttle));
    json_object_set_new(j, "counters", counters(st->now.op));
    if (with_histograms)
        json_object_set_new(j, "histograms", histograms(st));
    return j;
}

static bool render_streams(const struct entities *e, const struct view_request *r, size_t most,
                           const struct list **at, json_t *out)
{
    size_t end = json_array_size(out) + most;
    const struct list *it = *at != NULL ? *at : e->streams.next;
    for (; it != &e->streams && json_array_size(out) < end; it = it->next) {
        const struct entity_stream *st = container_of(it, const struct entity_stream, link);
        if (r->name[0] != '\0' && strcmp(r->name, st->key) != 0)
            continue;
        json_t *j = stream(st, r->histograms);
        if (r->name[0] != '\0') {
            json_object_set_new(j, "rules", rules(e, st));
            json_object_set_new(j, "explanation", explanation(e, st));
        }
        json_array_append_new(out, j);
    }
    *at = it;
    return it == &e->streams;
}

/* --- gateways
 * --------------------------------------------------------------------------------------------- */

/* Bytes that wait to be sent to it; null: it has no session, or nobody counts. */
static json_t *queue_of(const struct entity_gateway *g, const _Atomic uint32_t *queued)
{
    if (!g->live || queued == NULL)
        return json_null();
    return count(atomic_load_explicit(&queued[session_slot(g->hello.session)],
                                      memory_order_relaxed));
}

/* What people may want to do about it, as a command; null: nothing. */
static json_t *advice_of(const struct entity_gateway *g)
{
    char words[NAME_SIZE + 32];
    if (!g->waits)
        return json_null();
    snprintf(words, sizeof(words), "weir gateway admit %s", g->hello.name);
    return text(words);
}

static const char *drain_state(const struct entity_gateway *g)
{
    uint64_t in_force = g->has_upkeep ? g->drained.since : 0;
    if (g->drain_since != in_force)
        return g->drain_since == 0 ? "ending" : "asked";
    if (in_force == 0)
        return "none";
    return g->drained.connections > 0 ? "draining" : "drained";
}

/* How it shall be with its hosts, and how it is. */
static json_t *drain_of(const struct entity_gateway *g)
{
    bool wished = g->drain_since != 0;
    return json_pack("{s:s, s:o, s:o}", "state", drain_state(g), "since",
                     wished ? instant((int64_t)g->drain_since) : json_null(), "deadline",
                     wished && g->drain_deadline_us != 0 ? instant(g->drain_deadline_us)
                                                         : json_null());
}

static json_t *workers_of(const struct entity_gateway *g)
{
    const struct report_life *l = &g->life;
    if (!g->has_upkeep)
        return json_null();
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "deaths", count(l->deaths), "hangs",
                     count(l->hangs), "lastDeath", text_or_null(l->last_death), "lastDeathAt",
                     l->deaths > 0 ? instant(g->last_death_us) : json_null(), "upgrades",
                     count(l->upgrades), "upgradesFailed", count(l->upgrades_failed), "lastUpgrade",
                     text_or_null(l->last_upgrade));
}

static json_t *certificate_of(const struct entity_gateway *g)
{
    const struct report_life *l = &g->life;
    if (!g->has_upkeep || l->certificate[0] == '\0')
        return json_null();
    return json_pack("{s:o, s:o, s:o}", "of", text(l->certificate), "notBefore",
                     instant(l->certificate_from_s * 1000000), "notAfter",
                     instant(l->certificate_until_s * 1000000));
}

static json_t *connections_of(const struct entity_gateway *g)
{
    if (!g->has_upkeep)
        return json_null();
    return json_pack("{s:o, s:o, s:o}", "active", count(g->drained.connections), "refusedDraining",
                     count(g->drained.refused), "closedDrained", count(g->drained.closed));
}

static json_t *gateway(const struct entity_gateway *g, uint64_t process,
                       const _Atomic uint32_t *queued)
{
    json_t *epoch = json_pack("{s:o, s:o}", "desired", count(g->epoch_desired), "applied",
                              count(g->epoch_applied));
    json_t *j = json_object();
    json_object_set_new(j, "name", text(g->hello.name));
    json_object_set_new(j, "id", text(g->id_text));
    json_object_set_new(j, "state", text(gateway_state_name(g->state)));
    json_object_set_new(j, "advice", advice_of(g));
    json_object_set_new(j, "address", text_or_null(g->hello.address));
    json_object_set_new(j, "software", text(g->hello.software));
    json_object_set_new(j, "streams", count(g->stream_count));
    json_object_set_new(j, "firstSeen", instant(g->first_seen_us));
    json_object_set_new(j, "lastSeen", instant(g->last_seen_us));
    json_object_set_new(j, "polls", count(g->polls));
    json_object_set_new(j, "pollsLost", count(g->polls_lost));
    json_object_set_new(j, "roundTripUs", count(g->round_trip_ns / 1000));
    json_object_set_new(j, "epoch", epoch);
    json_object_set_new(j, "pair", count(g->hello.pair));
    json_object_set_new(j, "process", count(process));
    json_object_set_new(j, "subgroup", count(g->hello.subgroup));
    json_object_set_new(j, "queuedBytes", queue_of(g, queued));
    json_object_set_new(j, "drain", drain_of(g));
    json_object_set_new(j, "connections", connections_of(g));
    json_object_set_new(j, "workers", workers_of(g));
    json_object_set_new(j, "certificate", certificate_of(g));
    return j;
}

static bool render_gateways(const struct entities *e, const struct view_request *r,
                            uint64_t process, const _Atomic uint32_t *queued, size_t most,
                            const struct list **at, json_t *out)
{
    size_t end = json_array_size(out) + most;
    const struct list *it = *at != NULL ? *at : e->gateways.next;
    for (; it != &e->gateways && json_array_size(out) < end; it = it->next) {
        const struct entity_gateway *g = container_of(it, const struct entity_gateway, link);
        if (r->name[0] == '\0' || strcmp(r->name, g->hello.name) == 0 ||
            strcmp(r->name, g->id_text) == 0)
            json_array_append_new(out, gateway(g, process, queued));
    }
    *at = it;
    return it == &e->gateways;
}

/* --- agreements
 * ---------------------------------------------------------------------------------------------- */

static void render_agreements(const struct entities *e, const struct view_request *r, json_t *out)
{
    list_for_each(it, &e->agreements) {
        const struct entity_agreement *a = container_of(it, struct entity_agreement, link);
        if (r->name[0] != '\0' && strcmp(r->name, a->agreement.name) != 0)
            continue;
        json_t *status = json_object();
        enum verdict v = a->streams > 0 ? a->verdict : VERDICT_NONE;
        json_object_set_new(status, "version", count(a->agreement.version));
        json_object_set_new(status, "since", instant(a->since_wall_us));
        json_object_set_new(status, "asleep", json_boolean(a->asleep));
        json_object_set_new(status, "verdict", text(verdict_name(v)));
        json_object_set_new(status, "streams", count(a->streams));
        json_object_set_new(status, "iops", count(a->iops));
        json_object_set_new(status, "demandIops", count(a->demand_iops));
        json_object_set_new(status, "latencyUs", count(a->latency_us));
        json_object_set_new(status, "windows", count(a->windows));
        json_object_set_new(status, "windowsMet", count(a->windows_met));
        json_array_append_new(out, json_pack("{s:s, s:o}", "name", a->agreement.name, "status",
                                             status));
    }
}

/* --- sums of streams by host, volume or tenant
 * ---------------------------------------------------------------- */

struct sum_row {
    const char *name;
    const struct entity_stream *st;
};

static int sum_order(const void *a, const void *b)
{
    return strcmp(((const struct sum_row *)a)->name, ((const struct sum_row *)b)->name);
}

static const char *sum_name(enum view_kind kind, const struct entity_stream *st)
{
    if (kind == VIEW_HOSTS)
        return st->host;
    return kind == VIEW_VOLUMES ? st->volume : st->tenant;
}

static json_t *sum(const struct sum_row *rows, size_t n)
{
    uint64_t demand = 0, iops = 0, reads = 0, writes = 0, read_bytes = 0, write_bytes = 0;
    uint64_t errors = 0, inflight = 0, held = 0, throttled = 0;
    for (size_t i = 0; i < n; i++) {
        const struct entity_window *w = &rows[i].st->window;
        demand += w->demand_iops;
        iops += w->iops;
        reads += w->read_iops;
        writes += w->write_iops;
        read_bytes += w->read_bytes_s;
        write_bytes += w->write_bytes_s;
        errors += errors_per_second(w);
        inflight += entity_stream_inflight(rows[i].st);
        held += rows[i].st->held_now;
        throttled += rows[i].st->throttle.active;
    }
    json_t *j = json_object();
    json_object_set_new(j, "name", text(rows[0].name));
    json_object_set_new(j, "streams", count(n));
    json_object_set_new(j, "demandIops", count(demand));
    json_object_set_new(j, "iops", count(iops));
    json_object_set_new(j, "readIops", count(reads));
    json_object_set_new(j, "writeIops", count(writes));
    json_object_set_new(j, "readBytesPerSecond", count(read_bytes));
    json_object_set_new(j, "writeBytesPerSecond", count(write_bytes));
    json_object_set_new(j, "errorsPerSecond", count(errors));
    json_object_set_new(j, "inflight", count(inflight));
    json_object_set_new(j, "heldNow", count(held));
    json_object_set_new(j, "throttled", count(throttled));
    return j;
}

static void render_sums(const struct entities *e, const struct view_request *r, json_t *out)
{
    struct sum_row *rows = calloc(e->stream_count + 1, sizeof(*rows));
    if (rows == NULL)
        return;
    size_t n = 0;
    list_for_each(it, &e->streams) {
        const struct entity_stream *st = container_of(it, struct entity_stream, link);
        const char *name = sum_name(r->kind, st);
        if (name[0] != '\0' && (r->name[0] == '\0' || strcmp(r->name, name) == 0))
            rows[n++] = (struct sum_row){.name = name, .st = st};
    }
    qsort(rows, n, sizeof(*rows), sum_order);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && strcmp(rows[i].name, rows[end].name) == 0;)
            end++;
        json_array_append_new(out, sum(&rows[i], end - i));
    }
    free(rows);
}

/* --- status: what this process adds to the whole
 * ---------------------------------------------------------------- */

static void render_status(const struct entities *e, json_t *out)
{
    uint64_t admitted = 0, lost = 0, throttled = 0, failing = 0;
    list_for_each(it, &e->gateways) {
        const struct entity_gateway *g = container_of(it, struct entity_gateway, link);
        admitted += g->state == GATEWAY_ADMITTED || g->state == GATEWAY_UNREACHABLE;
        lost += g->state == GATEWAY_LOST;
    }
    list_for_each(it, &e->streams)
        throttled += container_of(it, struct entity_stream, link)->throttle.active;
    list_for_each(it, &e->agreements) {
        const struct entity_agreement *a = container_of(it, struct entity_agreement, link);
        failing += a->streams > 0 && a->verdict == VERDICT_FAILING;
    }
    json_t *j = json_object();
    json_object_set_new(j, "gateways", count(admitted));
    json_object_set_new(j, "gatewaysLost", count(lost));
    json_object_set_new(j, "targets", count(e->target_count));
    json_object_set_new(j, "streams", count(e->stream_count));
    json_object_set_new(j, "throttled", count(throttled));
    json_object_set_new(j, "agreements", count(e->agreement_count));
    json_object_set_new(j, "agreementsFailing", count(failing));
    json_object_set_new(j, "enforcement", json_pack("{s:b}", "on", e->enforcing ? 1 : 0));
    json_object_set_new(j, "observe", json_boolean(e->observe));
    json_object_set_new(j, "pollsLost", count(e->polls_lost));
    json_object_set_new(j, "staleReports", count(e->stale_reports));
    json_array_append_new(out, j);
}

/* How polls fare, all gateways of this process together: quantiles, and the distribution itself, so
 * that two readings can be subtracted. */
static void render_polls(const struct entities *e, uint64_t process, json_t *out)
{
    const struct hist *h = &e->round_trip;
    json_t *buckets = json_array(), *j = json_object();
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        json_t *b = h->bucket[i] > 0 ? json_object() : NULL;
        if (b == NULL)
            continue;
        json_object_set_new(b, "belowNs", count(hist_bucket_high(i)));
        json_object_set_new(b, "count", count(h->bucket[i]));
        json_array_append_new(buckets, b);
    }
    json_object_set_new(j, "process", count(process));
    json_object_set_new(j, "polls", count(e->polls));
    json_object_set_new(j, "pollsLost", count(e->polls_lost));
    json_object_set_new(j, "staleReports", count(e->stale_reports));
    json_object_set_new(j, "answered", count(h->count));
    json_object_set_new(j, "sumNs", count(h->sum_ns));
    json_object_set_new(j, "p50Us", count(hist_quantile(h, 0.5) / 1000));
    json_object_set_new(j, "p99Us", count(hist_quantile(h, 0.99) / 1000));
    json_object_set_new(j, "p999Us", count(hist_quantile(h, 0.999) / 1000));
    json_object_set_new(j, "maxUs", count(h->max_ns / 1000));
    json_object_set_new(j, "buckets", buckets);
    json_array_append_new(out, j);
}

bool view_render(const struct entities *e, const struct view_request *r, uint64_t process,
                 const _Atomic uint32_t *queued, size_t most, const struct list **at, json_t *out)
{
    switch (r->kind) {
    case VIEW_STREAMS:
        return render_streams(e, r, most, at, out);
    case VIEW_GATEWAYS:
        return render_gateways(e, r, process, queued, most, at, out);
    case VIEW_TARGETS:
        view_targets(e, r, out);
        break;
    case VIEW_AGREEMENTS:
        render_agreements(e, r, out);
        break;
    case VIEW_HOSTS:
    case VIEW_VOLUMES:
    case VIEW_TENANTS:
        render_sums(e, r, out);
        break;
    case VIEW_STATUS:
        render_status(e, out);
        break;
    case VIEW_POLLS:
        render_polls(e, process, out);
        break;
    }
    return true;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes are documented in docs/guide/local-socket.md; a name that the server's API has as well
 * means the same there. Latency is told twice: of the time since the client's last request, which
 * is what people watch, and since the stream began. */
#include "gateway/local_json.h"

#include <config.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "gateway/certs.h"

#define MEMBERS_SHOWN_MAX 1000u

static void put(json_t *o, const char *key, json_t *value)
{
    /* Out of memory leaves a key out; the answer is then shorter, not wrong. */
    json_object_set_new(o, key, value);
}

static json_t *number(uint64_t v)
{
    return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

static json_t *text_or_null(const char *s)
{
    return s && s[0] != '\0' ? json_string(s) : json_null();
}

static json_t *rate_or_null(uint64_t rate)
{
    return rate == 0 ? json_null() : number(rate);
}

static json_t *percent(uint32_t ppm)
{
    return json_real((double)ppm / 10000);
}

/* Events in @ns as events per second, to the nearest. */
static uint64_t per_second(uint64_t n, uint64_t ns)
{
    return (uint64_t)(((unsigned __int128)n * NS_PER_S + ns / 2) / ns);
}

void local_seen_fini(struct local_seen *seen)
{
    for (size_t i = 0; i < METER_HIST_COUNT; i++)
        free(seen->hist[i].buckets);
    *seen = (struct local_seen){0};
}

/* The upper edge of the highest bucket in use, but not beyond the largest value ever. */
static uint64_t highest(const struct hist *h)
{
    for (uint32_t i = HIST_BUCKETS; i-- > 0;) {
        if (h->bucket[i] == 0)
            continue;
        uint64_t edge = i == HIST_BUCKETS - 1 ? UINT64_MAX : hist_bucket_high(i) - 1;
        return edge < h->max_ns ? edge : h->max_ns;
    }
    return 0;
}

static json_t *latency(const struct hist *h)
{
    json_t *o = json_object();
    put(o, "meanUs", number(hist_mean(h) / NS_PER_US));
    put(o, "p50Us", number(hist_quantile(h, 0.50) / NS_PER_US));
    put(o, "p99Us", number(hist_quantile(h, 0.99) / NS_PER_US));
    put(o, "maxUs", number(highest(h) / NS_PER_US));
    return o;
}

/* @h less what was seen. */
static void subtract_seen(struct hist *h, const struct local_seen_hist *seen)
{
    weir_assert(h->count >= seen->count);
    h->count -= seen->count;
    h->sum_ns -= seen->sum_ns;
    for (uint32_t i = 0; i < seen->used; i++) {
        uint64_t *bucket = &h->bucket[seen->buckets[i].index];
        *bucket = (uint32_t)*bucket - seen->buckets[i].count;
    }
}

/* Remember @h. False: no memory; then what was seen before stays. */
static bool remember(struct local_seen_hist *seen, const struct hist *h)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        used += h->bucket[i] != 0;
    if (used != seen->used) {
        void *buckets = reallocarray(seen->buckets, used, sizeof(seen->buckets[0]));
        if (!buckets)
            return false;
        seen->buckets = buckets;
    }
    seen->used = 0;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        if (h->bucket[i] != 0)
            seen->buckets[seen->used++] =
                (struct local_seen_bucket){.index = i, .count = (uint32_t)h->bucket[i]};
    }
    seen->count = h->count;
    seen->sum_ns = h->sum_ns;
    return true;
}

/* [[upper edge in us, count up to it], ...], as the server's API has them. */
static json_t *histogram(const struct hist *h)
{
    json_t *o = json_object(), *buckets = json_array();
    uint64_t sum = 0;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        if (h->bucket[i] == 0)
            continue;
        sum += h->bucket[i];
        json_t *pair = json_array();
        json_array_append_new(pair, json_real((double)hist_bucket_high(i) / (double)NS_PER_US));
        json_array_append_new(pair, number(sum));
        json_array_append_new(buckets, pair);
    }
    put(o, "sumUs", json_real((double)h->sum_ns / (double)NS_PER_US));
    put(o, "count", number(h->count));
    put(o, "buckets", buckets);
    return o;
}

static json_t *histogram_set(const struct hist hist[METER_HIST_COUNT])
{
    json_t *o = json_object();
    for (int i = 0; i < METER_HIST_COUNT; i++)
        put(o, meter_hist_name((enum meter_hist)i), histogram(&hist[i]));
    return o;
}

/* Latency of the period and ever, and the period's taken over into @seen. */
static void put_latencies(json_t *o, const struct meter *m, struct local_seen *seen)
{
    json_t *period = json_object(), *ever = json_object();
    for (int i = 0; i < METER_HIST_COUNT; i++) {
        const char *name = meter_hist_name((enum meter_hist)i);
        struct hist both = m->hist[IO_DIR_READ][i];
        hist_merge(&both, &m->hist[IO_DIR_WRITE][i]);
        put(ever, name, latency(&both));
        struct hist since = both;
        subtract_seen(&since, &seen->hist[i]);
        put(period, name, latency(&since));
        if (!remember(&seen->hist[i], &both))
            weir_assert(seen->hist[i].count <= both.count);
    }
    put(o, "latency", period);
    put(o, "latencyEver", ever);
}

struct rates {
    uint64_t arrivals[2], completions[2], bytes[2], errors; /* by direction */
};

/* What changed since @seen, and the counters themselves. */
static json_t *counters(const struct meter *m, const struct local_seen *seen, struct rates *ret)
{
    json_t *all = json_object();
    for (int i = 0; i < IO_OP_COUNT; i++) {
        const struct meter_op *now = &m->op[i], *before = &seen->op[i];
        enum io_direction dir = io_op_direction((enum io_op)i);
        if (dir != IO_DIR_NONE) {
            ret->arrivals[dir] += now->arrivals - before->arrivals;
            ret->completions[dir] += now->completions - before->completions;
            ret->bytes[dir] += now->bytes - before->bytes;
        }
        ret->errors += now->errors - before->errors;
        json_t *o = json_object();
        put(o, "arrivals", number(now->arrivals));
        put(o, "completions", number(now->completions));
        put(o, "errors", number(now->errors));
        put(o, "bytes", number(now->bytes));
        put(o, "held", number(now->held));
        put(o, "heldUs", number(now->held_ns / NS_PER_US));
        put(o, "dropped", number(now->dropped));
        put(all, io_op_name((enum io_op)i), o);
    }
    return all;
}

static json_t *bucket_json(const struct gate_rule *r, enum gate_kind kind)
{
    const struct bucket *b = &r->bucket[kind];
    json_t *o = json_object();
    bool burst = b->cfg.burst_rate != 0;
    put(o, "kind", json_string(gate_kind_name(kind)));
    put(o, "perSecond", number(b->cfg.rate));
    put(o, "burstPerSecond", rate_or_null(b->cfg.burst_rate));
    put(o, "burstForMs", burst ? number(b->cfg.burst_ns / NS_PER_MS) : json_null());
    put(o, "creditPercent", burst ? percent(bucket_burst_ppm(b)) : json_null());
    put(o, "emptyInMs", burst ? number(bucket_burst_left_ns(b) / NS_PER_MS) : json_null());
    put(o, "fullInMs", burst ? number(bucket_burst_full_in_ns(b) / NS_PER_MS) : json_null());
    return o;
}

/* Every limit that covers @s, with where it comes from and how its credit stands. */
static json_t *limits_of(const struct stream *s)
{
    json_t *all = json_array();
    for (uint32_t i = 0; i < s->flow.cover_count; i++) {
        const struct gate_rule *r = s->flow.cover[i];
        const struct control *c = stream_rule_control(r);
        for (int k = 0; k < GATE_KIND_COUNT; k++) {
            if ((r->in_force & (1u << k)) == 0)
                continue;
            json_t *o = bucket_json(r, (enum gate_kind)k);
            put(o, "id", json_string(c->id));
            put(o, "origin", json_string(rule_origin_name(c->origin)));
            put(o, "reason", text_or_null(c->reason));
            json_array_append_new(all, o);
        }
    }
    return all;
}

static json_t *until(uint64_t at_ns, uint64_t now_ns)
{
    return number(at_ns > now_ns ? (at_ns - now_ns) / NS_PER_US : 0);
}

/* Why the I/O that has waited longest waits, when it may go (if those before it leave it credit)
 * and when it goes at last. */
static void put_held(json_t *o, const struct stream *s, uint64_t max_hold_hits,
                     uint64_t max_hold_ns, uint64_t now_ns)
{
    const struct gate_flow *f = &s->flow;
    const struct gate_rule *by = NULL;
    enum gate_kind kind = GATE_IOPS_TOTAL;
    uint64_t oldest = gate_flow_oldest_ns(f), first = UINT64_MAX, at_last = 0;
    for (int d = 0; d < 2; d++) {
        const struct gate_queue *q = &f->queue[d];
        enum gate_kind this_kind;
        const struct gate_rule *r = gate_queue_blocked_by(q, &this_kind);
        if (!r || list_empty(&q->ios))
            continue;
        const struct gate_io *head = container_of(q->ios.next, struct gate_io, link);
        if (head->arrived_ns < first) {
            first = head->arrived_ns;
            at_last = head->submitted_ns + max_hold_ns;
            by = r;
            kind = this_kind;
        }
    }
    put(o, "heldNow", number((uint64_t)f->queue[0].length + f->queue[1].length));
    put(o, "heldBy", by ? json_string(stream_rule_control(by)->id) : json_null());
    put(o, "heldKind", by ? json_string(gate_kind_name(kind)) : json_null());
    bool holds = oldest != UINT64_MAX && oldest < now_ns;
    put(o, "oldestHeldUs", number(holds ? (now_ns - oldest) / NS_PER_US : 0));
    uint64_t at_first = by ? by->place[kind].wake_ns : 0;
    put(o, "mayGoInUs", by ? until(at_first < at_last ? at_first : at_last, now_ns) : json_null());
    put(o, "goesInUs", by ? until(at_last, now_ns) : json_null());
    put(o, "maxHoldHits", number(max_hold_hits));
    put(o, "limitsLeftOut", number(s->limits_left_out));
    uint32_t ppm;
    put(o, "burstCreditPercent", stream_burst_ppm(s, &ppm) ? percent(ppm) : json_null());
}

static void put_rates(json_t *o, const struct rates *d, uint64_t period_ns)
{
    put(o, "periodMs", number(period_ns / NS_PER_MS));
    put(o, "demandIops", number(per_second(d->arrivals[0] + d->arrivals[1], period_ns)));
    put(o, "iops", number(per_second(d->completions[0] + d->completions[1], period_ns)));
    put(o, "readIops", number(per_second(d->completions[IO_DIR_READ], period_ns)));
    put(o, "writeIops", number(per_second(d->completions[IO_DIR_WRITE], period_ns)));
    put(o, "readBytesPerSecond", number(per_second(d->bytes[IO_DIR_READ], period_ns)));
    put(o, "writeBytesPerSecond", number(per_second(d->bytes[IO_DIR_WRITE], period_ns)));
    put(o, "errorsPerSecond", number(per_second(d->errors, period_ns)));
}

json_t *local_json_stream(const struct stream *s, const struct meter *m, uint32_t connections,
                          const struct gateway_config *config,
                          struct local_seen *seen, bool histograms, uint64_t now_ns)
{
    if (seen->valid && seen->stream_index != s->index)
        local_seen_fini(seen); /* the slot has a new stream */
    uint64_t from = seen->valid ? seen->at_ns : s->created_ns;
    uint64_t period = now_ns > from ? now_ns - from : 1;
    uint64_t inflight = 0, held = (uint64_t)s->flow.queue[0].length + s->flow.queue[1].length;
    for (int i = 0; i < IO_OP_COUNT; i++)
        inflight += meter_inflight(m, (enum io_op)i);

    json_t *o = json_object();
    put(o, "key", json_string(s->key));
    put(o, "host", json_string(s->host));
    put(o, "volume", json_string(s->volume));
    put(o, "tenant", text_or_null(s->tenant));
    put(o, "target", json_string(s->target->name));
    put(o, "gateway", json_string(config->name));
    put(o, "size", number(s->size));
    put(o, "connections", number(connections));
    struct rates rates = {0};
    json_t *all = counters(m, seen, &rates);
    put_rates(o, &rates, period);
    put(o, "inflight", number(inflight > held ? inflight - held : 0));
    put_held(o, s, m->max_hold_hits, config->max_hold_ns, now_ns);
    put_latencies(o, m, seen);
    put(o, "limits", limits_of(s));
    put(o, "counters", all);
    if (histograms) {
        json_t *set = json_object();
        put(set, "read", histogram_set(m->hist[IO_DIR_READ]));
        put(set, "write", histogram_set(m->hist[IO_DIR_WRITE]));
        put(o, "histograms", set);
    }

    seen->valid = true;
    seen->stream_index = s->index;
    seen->at_ns = now_ns;
    memcpy(seen->op, m->op, sizeof(seen->op));
    return o;
}

json_t *local_json_target(const struct target_config *target, const struct target_stats *stats,
                          const char *gateway)
{
    json_t *o = json_object(), *gateways = json_array();
    json_array_append_new(gateways, json_string(gateway));
    put(o, "name", json_string(target->name));
    put(o, "uri", json_string(target->uri));
    put(o, "gateways", gateways);
    put(o, "connections", number(stats->connections));
    put(o, "connects", number(stats->connects));
    put(o, "connectFailures", number(stats->connect_failures));
    put(o, "disconnects", number(stats->disconnects));
    put(o, "inflight", number(stats->inflight));
    put(o, "errors", number(stats->errors));
    put(o, "lastError",
        stats->last_error != 0 ? json_string(weir_strerror(stats->last_error)) : json_null());
    return o;
}

json_t *local_json_control(const struct control *c, const struct gate_rule *first_rule)
{
    static const char *const names[GATE_KIND_COUNT] = {
        [GATE_IOPS_READ] = "iopsRead",         [GATE_IOPS_WRITE] = "iopsWrite",
        [GATE_IOPS_TOTAL] = "iops",            [GATE_BYTES_READ] = "bandwidthRead",
        [GATE_BYTES_WRITE] = "bandwidthWrite", [GATE_BYTES_TOTAL] = "bandwidth",
    };
    json_t *o = json_object(), *members = json_array(), *limit = json_object();
    json_t *buckets = json_array();
    for (size_t i = 0; i < c->member_count && i < MEMBERS_SHOWN_MAX; i++)
        json_array_append_new(members, json_string(c->members[i]));
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        put(limit, names[k], rate_or_null(c->limits.rate[k].rate));
    for (int k = 0; first_rule && k < GATE_KIND_COUNT; k++) {
        if (first_rule->in_force & (1u << k))
            json_array_append_new(buckets, bucket_json(first_rule, (enum gate_kind)k));
    }
    put(o, "id", json_string(c->id));
    put(o, "origin", json_string(rule_origin_name(c->origin)));
    put(o, "reason", text_or_null(c->reason));
    put(o, "members", members);
    put(o, "memberCount", number(c->member_count));
    put(o, "limit", limit);
    put(o, "inForce", buckets);
    put(o, "heldEver", number(first_rule ? first_rule->credit->held_total : 0));
    return o;
}

static json_t *link_json(const struct link *link)
{
    struct link_status s = {0};
    json_t *o = json_object();
    if (link)
        link_status(link, &s);
    put(o, "configured", json_boolean(s.configured));
    put(o, "connected", json_boolean(s.connected));
    put(o, "server", text_or_null(s.server));
    put(o, "state", text_or_null(s.state));
    put(o, "lastError", text_or_null(s.last_error));
    put(o, "epoch", number(s.epoch));
    put(o, "leaseLeftMs", number(s.lease_left_ns / NS_PER_MS));
    put(o, "polls", number(s.polls));
    put(o, "reconnects", number(s.reconnects));
    return o;
}

/* How the manager and its workers fare. */
static json_t *life_json(const struct ledger_life *life, uint64_t now_ns)
{
    json_t *o = json_object();
    bool died = life->last_death_ns != 0;
    put(o, "pid", life->manager_pid ? number(life->manager_pid) : json_null());
    put(o, "workerPid", number(life->worker_pid));
    put(o, "workerUptimeMs", number((now_ns - life->worker_started_ns) / NS_PER_MS));
    put(o, "deaths", number(life->deaths));
    put(o, "hangs", number(life->hangs));
    put(o, "lastDeath", text_or_null(life->last_reason));
    put(o, "lastDeathAgoMs", died ? number((now_ns - life->last_death_ns) / NS_PER_MS)
                                  : json_null());
    put(o, "upgrades", number(life->upgrades));
    put(o, "upgradesFailed", number(life->upgrades_failed));
    put(o, "lastUpgrade", text_or_null(life->last_upgrade));
    return o;
}

/* Whether hosts are taken, and how far that is. */
static json_t *drain_json(const struct ledger *ledger, uint64_t connections, uint64_t now_ns)
{
    uint64_t deadline, since = ledger_drain(ledger, &deadline);
    json_t *o = json_object();
    put(o, "state", json_string(since == 0         ? "none"
                                : connections == 0 ? "drained"
                                                   : "draining"));
    put(o, "connectionsLeft", since != 0 ? number(connections) : json_null());
    put(o, "closesIdleInMs", deadline == 0 ? json_null()
                             : number(deadline > now_ns ? (deadline - now_ns) / NS_PER_MS : 0));
    return o;
}

/* Its own certificates in force. */
static json_t *certificates_json(const struct certs *certs)
{
    json_t *a = json_array();
    char text[32];
    for (size_t i = 0; i < certs->count; i++) {
        const struct certs_one *one = &certs->one[i];
        json_t *o = json_object();
        put(o, "of", json_string(one->where));
        put(o, "file", json_string(one->path));
        clock_format_wall(one->dates.from_s * 1000000, text, sizeof(text));
        put(o, "notBefore", json_string(text));
        clock_format_wall(one->dates.until_s * 1000000, text, sizeof(text));
        put(o, "notAfter", json_string(text));
        json_array_append_new(a, o);
    }
    return a;
}

json_t *local_json_status(const struct gateway_config *config, const struct relay *relay,
                          const struct link *link, struct ledger *ledger, uint64_t streams,
                          uint64_t now_ns)
{
    const struct ledger_life *life = ledger_life(ledger);
    char text[ADDR_TEXT_SIZE];
    json_t *o = json_object(), *listeners = json_array(), *connections = json_object();
    json_t *closed = json_object();
    for (size_t i = 0; i < config->listener_count; i++) {
        json_t *l = json_object();
        bool known = relay_listener_text(relay, i, text, sizeof(text)) == 0;
        put(l, "name", json_string(config->listeners[i].name));
        put(l, "address", json_string(known ? text : config->listeners[i].addr.text));
        put(l, "target", json_string(config->listeners[i].target->name));
        json_array_append_new(listeners, l);
    }
    struct relay_counts all, *counts = &all;
    ledger_counts_total(ledger, &all);
    for (int i = 0; i < RELAY_CLOSE_COUNT; i++)
        put(closed, relay_close_label((enum relay_close)i), number(counts->closed[i]));
    put(connections, "accepted", number(counts->accepted));
    put(connections, "active", number(counts->active));
    put(connections, "closed", closed);
    put(o, "name", json_string(config->name));
    put(o, "version", json_string(WEIR_VERSION));
    put(o, "uptimeMs", number((now_ns - life->started_ns) / NS_PER_MS));
    put(o, "streams", number(streams));
    put(o, "maxStreams", number(config->max_streams));
    put(o, "maxConnections", number(config->max_connections));
    put(o, "holdMemoryBytes", number(relay_hold_memory(relay)));
    put(o, "maxHoldMemoryBytes", number(config->hold_memory));
    put(o, "holdMemoryFull", number(counts->hold_full));
    put(o, "logLinesLost", number(log_dropped()));
    put(o, "maxHoldMs", number(config->max_hold_ns / NS_PER_MS));
    put(o, "listeners", listeners);
    put(o, "connections", connections);
    put(o, "link", link_json(link));
    put(o, "manager", life_json(life, now_ns));
    put(o, "drain", drain_json(ledger, counts->active, now_ns));
    put(o, "certificates", certificates_json(relay_certs(relay)));
    return o;
}

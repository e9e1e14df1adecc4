/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics: all views and the thread map in Prometheus' words (docs/guide/metrics.md).
 *
 * Bounds: the first METRICS_MAX_STREAMS streams by key are exported, the rest only counted
 * (weir_streams_not_exported); that is at most 2,000 x 2 x 3 histograms of 20 lines. Label values
 * are names that the gateway bounds and escapes. One series for one set of labels: items of the
 * same key are given once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "config.h"
#include "server/app/app_state.h"
#include "server/app/exposition.h"
#include "server/app/http.h"
#include "server/app/routes.h"
#include "server/app/views.h"

#define METRICS_MAX_STREAMS 2000u
#define METRICS_MAX_BYTES   (64u * 1024 * 1024)
#define TEXT_TYPE           "text/plain; version=0.0.4; charset=utf-8"

static const char *const ops[] = {"read",         "write", "flush",        "trim",
                                  "write_zeroes", "cache", "block_status", "other"};

static uint64_t count_of(const json_t *object, const char *field)
{
    json_int_t n = views_count(object, field);
    return n > 0 ? (uint64_t)n : 0;
}

static int compare_streams(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    int c = strcmp(views_text(x, "key"), views_text(y, "key"));
    return c != 0 ? c : strcmp(views_text(x, "gateway"), views_text(y, "gateway"));
}

/* The streams to export: sorted, each once, bounded. New reference, NULL: no memory. */
static json_t *choose_streams(const json_t *all)
{
    size_t n = json_array_size(all), i;
    json_t **sorted = calloc(n + 1, sizeof(json_t *)), *item, *chosen = json_array();
    if (!sorted) {
        json_decref(chosen);
        return NULL;
    }
    json_array_foreach(all, i, item) sorted[i] = item;
    qsort(sorted, n, sizeof(json_t *), compare_streams);
    for (i = 0; i < n && json_array_size(chosen) < METRICS_MAX_STREAMS; i++) {
        if (i == 0 || compare_streams(&sorted[i - 1], &sorted[i]) != 0)
            json_array_append(chosen, sorted[i]);
    }
    free(sorted);
    return chosen;
}

#define STREAM_LABELS(s)                                                                           \
    {"stream", views_text(s, "key")}, {"gateway", views_text(s, "gateway")},                       \
        {"tenant", views_text(s, "tenant")},                                                       \
    {                                                                                              \
        "target", views_text(s, "target")                                                          \
    }

/* A counter of each operation of each stream that was ever asked for. */
static void op_family(struct text *out, const json_t *streams, const char *family,
                      const char *field, const char *help)
{
    size_t i;
    json_t *s;
    exposition_family(out, family, "counter", help);
    json_array_foreach(streams, i, s)
    {
        const json_t *counters = json_object_get(s, "counters");
        for (size_t k = 0; k < sizeof(ops) / sizeof(ops[0]); k++) {
            const json_t *c = json_object_get(counters, ops[k]);
            if (!c || count_of(c, "arrivals") == 0)
                continue;
            const struct label labels[] = {STREAM_LABELS(s), {"op", ops[k]}, {NULL, NULL}};
            exposition_count(out, family, labels, count_of(c, field));
        }
    }
}

/* A gauge of each stream. */
static void stream_family(struct text *out, const json_t *streams, const char *family,
                          const char *field, const char *help)
{
    size_t i;
    json_t *s;
    exposition_family(out, family, "gauge", help);
    json_array_foreach(streams, i, s)
    {
        const struct label labels[] = {STREAM_LABELS(s), {NULL, NULL}};
        exposition_count(out, family, labels, count_of(s, field));
    }
}

/* Fold fine buckets [[edge us, cumulative], ...] into the exported ones. A fine bucket that
 * straddles an exported edge counts above it: at most 1.6 % beside the truth. */
static void fold(const json_t *buckets, uint64_t out[EXPOSITION_BUCKETS])
{
    size_t n = json_array_size(buckets), i = 0;
    uint64_t sum = 0;
    for (size_t edge = 0; edge < EXPOSITION_BUCKETS; edge++) {
        for (; i < n; i++) {
            const json_t *b = json_array_get(buckets, i);
            if (json_number_value(json_array_get(b, 0)) > (double)exposition_edges_us[edge])
                break;
            json_int_t upto = json_integer_value(json_array_get(b, 1));
            sum = upto > 0 && (uint64_t)upto > sum ? (uint64_t)upto : sum;
        }
        out[edge] = sum;
    }
}

static void histogram_family(struct text *out, const json_t *streams, const char *family,
                             const char *kind, const char *help)
{
    size_t i;
    json_t *s;
    exposition_family(out, family, "histogram", help);
    json_array_foreach(streams, i, s)
    {
        for (size_t k = 0; k < 2; k++) { /* read, write */
            const json_t *set = json_object_get(json_object_get(s, "histograms"), ops[k]);
            const json_t *h = json_object_get(set, kind);
            uint64_t cumulative[EXPOSITION_BUCKETS], count = h ? count_of(h, "count") : 0;
            if (count == 0)
                continue;
            fold(json_object_get(h, "buckets"), cumulative);
            const struct label labels[] = {STREAM_LABELS(s), {"op", ops[k]}, {NULL, NULL}};
            exposition_histogram(out, family, labels, cumulative, count,
                                 json_number_value(json_object_get(h, "sumUs")) / 1e6);
        }
    }
}

static void limit_family(struct text *out, const json_t *streams, const char *family,
                         const char *unit, const char *help)
{
    static const char *const kinds[] = {"desired", "applied"};
    size_t i;
    json_t *s;
    exposition_family(out, family, "gauge", help);
    json_array_foreach(streams, i, s)
    {
        for (size_t k = 0; k < 2; k++) {
            const json_t *control = json_object_get(s, "control");
            const json_t *rate = json_object_get(json_object_get(control, kinds[k]), unit);
            const struct label labels[] = {STREAM_LABELS(s), {"control", kinds[k]}, {NULL, NULL}};
            if (json_is_integer(rate) && json_integer_value(rate) >= 0)
                exposition_count(out, family, labels, (uint64_t)json_integer_value(rate));
        }
    }
}

static void burst_family(struct text *out, const json_t *streams)
{
    size_t i;
    json_t *s;
    exposition_family(out, "weir_burst_credit_ratio", "gauge",
                      "Burst credit left, of the least filled limit.");
    json_array_foreach(streams, i, s)
    {
        const json_t *credit = json_object_get(s, "burstCreditPercent");
        const struct label labels[] = {STREAM_LABELS(s), {NULL, NULL}};
        if (json_is_number(credit))
            exposition_value(out, "weir_burst_credit_ratio", labels,
                             json_number_value(credit) / 100);
    }
}

static void streams_part(struct text *out, const json_t *all)
{
    json_t *streams = choose_streams(all);
    size_t exported = json_array_size(streams), n = json_array_size(all);
    exposition_family(out, "weir_streams", "gauge", "Streams known.");
    exposition_count(out, "weir_streams", NULL, n);
    exposition_family(out, "weir_streams_not_exported", "gauge",
                      "Streams beyond the bound of this page.");
    exposition_count(out, "weir_streams_not_exported", NULL, n - exported);
    op_family(out, streams, "weir_io_operations_total", "completions",
              "Operations answered by the target.");
    op_family(out, streams, "weir_io_arrivals_total", "arrivals",
              "Operations that came from hosts.");
    op_family(out, streams, "weir_io_bytes_total", "bytes", "Bytes of answered operations.");
    op_family(out, streams, "weir_io_errors_total", "errors", "Operations answered with an error.");
    op_family(out, streams, "weir_io_dropped_total", "dropped",
              "Operations whose host vanished first.");
    op_family(out, streams, "weir_held_operations_total", "held",
              "Operations that had to wait for a limit.");
    histogram_family(out, streams, "weir_io_duration_seconds", "total",
                     "From arrival to answer: the host's view.");
    histogram_family(out, streams, "weir_target_duration_seconds", "target",
                     "Spent in the target.");
    histogram_family(out, streams, "weir_held_duration_seconds", "held", "Held by Weir.");
    stream_family(out, streams, "weir_inflight_operations", "inflight",
                  "Operations now at the target.");
    stream_family(out, streams, "weir_held_now_operations", "heldNow", "Operations held now.");
    limit_family(out, streams, "weir_limit_operations_per_second", "iops",
                 "Planned throttle in force or wanted.");
    limit_family(out, streams, "weir_limit_bytes_per_second", "bandwidth",
                 "Planned throttle in force or wanted.");
    burst_family(out, streams);
    json_decref(streams);
}

static void gateways_part(struct text *out, const json_t *gateways)
{
    static const char *const states[] = {"discovered",  "pending", "admitted",
                                         "unreachable", "lost",    "retired"};
    size_t i;
    json_t *g;
    exposition_family(out, "weir_gateways", "gauge", "Gateways by state.");
    for (size_t k = 0; k < sizeof(states) / sizeof(states[0]); k++) {
        uint64_t n = 0;
        json_array_foreach(gateways, i, g) n += strcmp(views_text(g, "state"), states[k]) == 0;
        const struct label labels[] = {{"state", states[k]}, {NULL, NULL}};
        exposition_count(out, "weir_gateways", labels, n);
    }
    static const struct {
        const char *family, *type, *field, *help;
    } rows[] = {
        {"weir_gateway_polls_total", "counter", "polls", "Polls sent."},
        {"weir_gateway_polls_lost_total", "counter", "pollsLost",
         "Polls that brought no whole answer."},
    };
    for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
        exposition_family(out, rows[k].family, rows[k].type, rows[k].help);
        json_array_foreach(gateways, i, g)
        {
            const struct label labels[] = {
                {"gateway", views_text(g, "name")}, {"id", views_text(g, "id")}, {NULL, NULL}};
            exposition_count(out, rows[k].family, labels, count_of(g, rows[k].field));
        }
    }
    static const struct {
        const char *family, *type, *part, *field, *help;
    } upkeep[] = {
        {"weir_gateway_connections", "gauge", "connections", "active", "Hosts' connections."},
        {"weir_gateway_refused_draining_total", "counter", "connections", "refusedDraining",
         "Hosts that came while it was drained, where they can be counted."},
        {"weir_gateway_closed_drained_total", "counter", "connections", "closedDrained",
         "Connections closed for a draining or an upgrade."},
        {"weir_gateway_worker_deaths_total", "counter", "workers", "deaths",
         "Deaths of its worker that nobody asked for, since it was started."},
        {"weir_gateway_worker_hangs_total", "counter", "workers", "hangs",
         "Of these, killed for silence."},
    };
    for (size_t k = 0; k < sizeof(upkeep) / sizeof(upkeep[0]); k++) {
        exposition_family(out, upkeep[k].family, upkeep[k].type, upkeep[k].help);
        json_array_foreach(gateways, i, g)
        {
            const json_t *part = json_object_get(g, upkeep[k].part);
            const struct label labels[] = {
                {"gateway", views_text(g, "name")}, {"id", views_text(g, "id")}, {NULL, NULL}};
            if (json_is_object(part))
                exposition_count(out, upkeep[k].family, labels, count_of(part, upkeep[k].field));
        }
    }
    exposition_family(out, "weir_gateway_drained", "gauge", "1: it takes no hosts, or shall not.");
    json_array_foreach(gateways, i, g)
    {
        const char *state = views_text(json_object_get(g, "drain"), "state");
        const struct label labels[] = {
            {"gateway", views_text(g, "name")}, {"id", views_text(g, "id")}, {NULL, NULL}};
        exposition_count(out, "weir_gateway_drained", labels, strcmp(state, "none") != 0);
    }
    exposition_family(out, "weir_gateway_certificate_expiry_timestamp_seconds", "gauge",
                      "When the first of its own certificates ends, since 1970.");
    json_array_foreach(gateways, i, g)
    {
        const json_t *certificate = json_object_get(g, "certificate");
        const struct label labels[] = {
            {"gateway", views_text(g, "name")}, {"id", views_text(g, "id")}, {NULL, NULL}};
        if (json_is_object(certificate))
            exposition_value(out, "weir_gateway_certificate_expiry_timestamp_seconds", labels,
                             (double)clock_parse_wall_s(views_text(certificate, "notAfter")));
    }
    exposition_family(out, "weir_gateway_round_trip_seconds", "gauge", "Of the last poll.");
    json_array_foreach(gateways, i, g)
    {
        const struct label labels[] = {
            {"gateway", views_text(g, "name")}, {"id", views_text(g, "id")}, {NULL, NULL}};
        exposition_value(out, "weir_gateway_round_trip_seconds", labels,
                         (double)count_of(g, "roundTripUs") / 1e6);
    }
}

static void targets_part(struct text *out, const json_t *targets)
{
    static const struct {
        const char *family, *type, *field, *help;
        bool probe;
        double scale;
    } rows[] = {
        {"weir_target_connections", "gauge", "connections", "Gateways' connections open now.",
         false, 1},
        {"weir_target_connect_failures_total", "counter", "connectFailures",
         "Connections that failed.", false, 1},
        {"weir_target_inflight_operations", "gauge", "inflight", "Gateways' operations in it now.",
         false, 1},
        {"weir_target_errors_total", "counter", "errors", "Operations it answered with an error.",
         false, 1},
        {"weir_target_probe_reachable", "gauge", "reachable", "1 when the last probe reached it.",
         true, 1},
        {"weir_target_probe_duration_seconds", "gauge", "latencyUs", "Of the last probe's read.",
         true, 1e-6},
        {"weir_target_probe_connect_seconds", "gauge", "connectUs", "Of the last probe's connect.",
         true, 1e-6},
        {"weir_target_probes_total", "counter", "probes", "Probes made.", true, 1},
        {"weir_target_probe_failures_total", "counter", "failures", "Probes that failed.", true, 1},
        {"weir_target_size_bytes", "gauge", "size", "As the probe saw it.", true, 1},
    };
    for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
        size_t i;
        json_t *t;
        exposition_family(out, rows[k].family, rows[k].type, rows[k].help);
        json_array_foreach(targets, i, t)
        {
            const json_t *from = rows[k].probe ? json_object_get(t, "probe") : t;
            const json_t *value = json_object_get(from, rows[k].field);
            const struct label labels[] = {{"target", views_text(t, "name")}, {NULL, NULL}};
            double number = json_is_true(value) ? 1 : json_number_value(value);
            if (value)
                exposition_value(out, rows[k].family, labels, number * rows[k].scale);
        }
    }
}

static void agreements_part(struct text *out, const json_t *agreements)
{
    size_t i;
    json_t *a;
    exposition_family(out, "weir_agreement_streams", "gauge", "Streams it selects now.");
    json_array_foreach(agreements, i, a)
    {
        const struct label labels[] = {{"agreement", views_text(a, "name")}, {NULL, NULL}};
        exposition_count(out, "weir_agreement_streams", labels,
                         count_of(json_object_get(a, "status"), "streams"));
    }
    exposition_family(out, "weir_agreement_failing", "gauge",
                      "1 while its promise is owed and not kept.");
    json_array_foreach(agreements, i, a)
    {
        const struct label labels[] = {{"agreement", views_text(a, "name")}, {NULL, NULL}};
        bool failing = strcmp(views_text(json_object_get(a, "status"), "verdict"), "failing") == 0;
        exposition_count(out, "weir_agreement_failing", labels, failing);
    }
    exposition_family(out, "weir_agreement_windows_total", "counter",
                      "Windows judged since the server started.");
    json_array_foreach(agreements, i, a)
    {
        const json_t *status = json_object_get(a, "status");
        uint64_t all = count_of(status, "windows"), met = count_of(status, "windowsMet");
        const struct label kept[] = {
            {"agreement", views_text(a, "name")}, {"result", "met"}, {NULL, NULL}};
        const struct label missed[] = {
            {"agreement", views_text(a, "name")}, {"result", "missed"}, {NULL, NULL}};
        exposition_count(out, "weir_agreement_windows_total", kept, met);
        exposition_count(out, "weir_agreement_windows_total", missed, all > met ? all - met : 0);
    }
    exposition_family(out, "weir_agreement_compliance_ratio", "gauge",
                      "Windows met, of those judged.");
    json_array_foreach(agreements, i, a)
    {
        const json_t *status = json_object_get(a, "status");
        const struct label labels[] = {
            {"agreement", views_text(a, "name")}, {"window", "since-start"}, {NULL, NULL}};
        if (count_of(status, "windows") > 0) /* nothing measured: no value, not a good one */
            exposition_value(out, "weir_agreement_compliance_ratio", labels,
                             (double)count_of(status, "windowsMet") /
                                 (double)count_of(status, "windows"));
    }
}

static double thread_number(const struct mailbox_stats *s, size_t row)
{
    switch (row) {
    case 0:
        return (double)s->depth;
    case 1:
        return (double)s->depth_max;
    case 2:
        return (double)s->capacity;
    case 3:
        return (double)s->posted;
    case 4:
        return (double)s->refused;
    case 5:
        return (double)s->expired;
    case 6:
        return (double)s->busy_ns_total / 1e9;
    case 7:
        return (double)s->busy_ns_max / 1e9;
    case 8:
        return (double)s->wait_p50_ns / 1e9;
    case 9:
        return (double)s->wait_p99_ns / 1e9;
    case 10:
        return (double)s->urgent;
    case 11:
        return (double)s->coalesced;
    case 12:
        return (double)s->wakes;
    default:
        return (double)s->latency_ns_max / 1e9;
    }
}

static void threads_part(struct text *out, const struct mailbox_set *set)
{
    static const struct {
        const char *family, *type, *help;
    } rows[] = {
        {"weir_mailbox_depth", "gauge", "Messages waiting."},
        {"weir_mailbox_depth_max", "gauge", "Most messages that ever waited."},
        {"weir_mailbox_capacity", "gauge", "Room for messages."},
        {"weir_mailbox_posted_total", "counter", "Messages posted."},
        {"weir_mailbox_refused_total", "counter", "Messages refused because it was full."},
        {"weir_mailbox_expired_total", "counter", "Replies that came too late."},
        {"weir_thread_busy_seconds_total", "counter", "Time spent on messages."},
        {"weir_thread_longest_message_seconds", "gauge", "Longest time on one message."},
        {"weir_mailbox_wait_p50_seconds", "gauge", "Median time a message waited, since start."},
        {"weir_mailbox_wait_p99_seconds", "gauge", "99th percentile of it."},
        {"weir_mailbox_urgent_total", "counter", "Messages posted as urgent."},
        {"weir_mailbox_coalesced_total", "counter", "Messages dropped because one waited."},
        {"weir_mailbox_wakes_total", "counter", "Times the owner had to be woken."},
        {"weir_mailbox_longest_wait_seconds", "gauge", "Longest time a message waited."},
    };
    for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
        exposition_family(out, rows[k].family, rows[k].type, rows[k].help);
        for (size_t i = 0; i < mailbox_set_count(set); i++) {
            struct mailbox_stats s;
            mailbox_stats(set, i, &s);
            if (!s.owned)
                continue;
            const struct label labels[] = {{"thread", s.name}, {NULL, NULL}};
            exposition_value(out, rows[k].family, labels, thread_number(&s, k));
        }
    }
}

/* The way of early warnings, part by part. */
static void warnings_part(struct text *out, const struct trail *t)
{
    static const char family[] = "weir_warning_seconds";
    exposition_family(out, family, "histogram",
                      "How long each part of the way from an early warning to its control took.");
    for (int part = 0; part < TRAIL_COUNT; part++) {
        uint64_t cumulative[EXPOSITION_BUCKETS];
        struct trail_stats s;
        trail_read(t, (enum trail_part)part, &s);
        for (size_t i = 0; i < EXPOSITION_BUCKETS; i++) {
            uint64_t below = trail_below(t, (enum trail_part)part, exposition_edges_us[i] * 1000);
            cumulative[i] = below < s.count ? below : s.count; /* more may come meanwhile */
        }
        const struct label labels[] = {{"part", trail_name((enum trail_part)part)}, {NULL, NULL}};
        exposition_histogram(out, family, labels, cumulative, s.count, (double)s.sum_ns / 1e9);
    }
}

static void store_part(struct text *out, const json_t *status)
{
    static const struct {
        const char *family, *type, *field, *help;
    } rows[] = {
        {"weir_store_available", "gauge", "ok", "1 while the database takes what is written."},
        {"weir_store_queued_records", "gauge", "queued", "Records waiting to be written."},
        {"weir_store_dropped_records_total", "counter", "dropped", "Records given up."},
        {"weir_store_state_bytes", "gauge", "stateBytes", "Of the database of documents."},
        {"weir_store_samples_bytes", "gauge", "samplesBytes", "Of the database of samples."},
    };
    for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
        const json_t *value = json_object_get(status, rows[k].field);
        exposition_family(out, rows[k].family, rows[k].type, rows[k].help);
        if (json_is_integer(value))
            exposition_count(out, rows[k].family, NULL, count_of(status, rows[k].field));
        else
            exposition_count(out, rows[k].family, NULL, json_is_true(value));
    }
}

static void server_part(struct text *out, const struct app *app)
{
    static const char *const codes[] = {"0xx", "1xx", "2xx", "3xx", "4xx", "5xx"};
    const struct label version[] = {{"version", WEIR_VERSION}, {NULL, NULL}};
    exposition_family(out, "weir_build_info", "gauge", "Always 1; the version is in the label.");
    exposition_count(out, "weir_build_info", version, 1);
    exposition_family(out, "weir_start_time_seconds", "gauge",
                      "When the server started, since 1970.");
    exposition_count(out, "weir_start_time_seconds", NULL,
                     (uint64_t)app->started_wall_us / 1000000);
    exposition_family(out, "weir_http_requests_total", "counter", "Answered, by class of status.");
    for (size_t i = 2; i < 6; i++) {
        const struct label labels[] = {{"code", codes[i]}, {NULL, NULL}};
        exposition_count(out, "weir_http_requests_total", labels, app->requests_total[i]);
    }
    exposition_family(out, "weir_live_clients", "gauge", "Clients that listen to live views.");
    exposition_count(out, "weir_live_clients", NULL, app->live.count);
    exposition_family(out, "weir_live_dropped_total", "counter",
                      "Clients cut off because they did not read.");
    exposition_count(out, "weir_live_dropped_total", NULL, app->live.dropped);
}

static void figures_part(struct text *out, const struct app *app)
{
    struct app_figure figure[APP_MAX_FIGURES];
    size_t n = app->figures_read ? app->figures_read(app->figures_ctx, figure) : 0;
    weir_assert(n <= APP_MAX_FIGURES);
    for (size_t i = 0; i < n; i++) {
        exposition_family(out, figure[i].name, figure[i].gauge ? "gauge" : "counter",
                          figure[i].help);
        exposition_count(out, figure[i].name, NULL, figure[i].value);
    }
}

static void metrics_ready(struct request *r)
{
    struct app *app = r->app;
    const struct exchange *x = &r->exchange;
    size_t n = x->processes, failed;
    json_t *streams = views_gather(x, app, 1, &failed),
           *gateways = views_gather(x, app, 1 + n, NULL);
    json_t *target_items = views_gather(x, app, 1 + 2 * n, NULL),
           *targets = views_join_targets(target_items);
    json_t *agreement_items = views_gather(x, app, 1 + 3 * n, NULL);
    json_t *agreements = views_join_agreements(agreement_items);
    struct text out;
    text_init(&out, METRICS_MAX_BYTES);
    server_part(&out, app);
    threads_part(&out, app->threads->set);
    warnings_part(&out, app->threads->trail);
    figures_part(&out, app);
    store_part(&out, x->answer[0].json);
    gateways_part(&out, gateways);
    targets_part(&out, targets);
    agreements_part(&out, agreements);
    streams_part(&out, streams);
    exposition_family(&out, "weir_processes_without_answer", "gauge",
                      "SLA processes missing on this page.");
    exposition_count(&out, "weir_processes_without_answer", NULL, failed);
    json_decref(streams);
    json_decref(gateways);
    json_decref(target_items);
    json_decref(targets);
    json_decref(agreement_items);
    json_decref(agreements);
    if (out.failed) {
        text_fini(&out);
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory for the page");
        return;
    }
    http_answer_bytes(r, MHD_HTTP_OK, TEXT_TYPE, out.data, out.len); /* takes the buffer */
}

void metrics_get(struct request *r)
{
    http_ask_store(r, store_query_new(STORE_STATUS));
    http_ask_view(r, VIEW_STREAMS, "", true);
    http_ask_view(r, VIEW_GATEWAYS, "", false);
    http_ask_view(r, VIEW_TARGETS, "", false);
    http_ask_view(r, VIEW_AGREEMENTS, "", false);
    http_wait(r, metrics_ready);
}

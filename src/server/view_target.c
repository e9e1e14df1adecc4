/* SPDX-License-Identifier: Apache-2.0 */
/* Targets: one object for a target, whatever the number of gateways before it. Gateways that name a
 * target alike and reach it at the same address mean the same one; their counts are added, their
 * histograms merged, and what the probe saw is told once. */
#include <stdlib.h>
#include <string.h>

#include "qos/hist.h"
#include "server/view_private.h"

struct target_row {
    const struct entity_target *t;
    size_t first;                /* of its rows */
    uint64_t iops;
    struct hist *hist;           /* METER_HIST_COUNT of them, at the first row only */
};

static int row_order(const void *a, const void *b)
{
    const struct entity_target *x = ((const struct target_row *)a)->t;
    const struct entity_target *y = ((const struct target_row *)b)->t;
    int names = strcmp(x->name, y->name);
    return names != 0 ? names : strcmp(x->uri, y->uri);
}

static struct target_row *row_of(struct target_row *rows, size_t n, const struct entity_target *t)
{
    struct target_row key = {.t = t};
    if (n == 0)
        return NULL;
    struct target_row *row = bsearch(&key, rows, n, sizeof(key), row_order);
    return row != NULL ? &rows[row->first] : NULL;
}

static void rows_add_streams(const struct entities *e, struct target_row *rows, size_t n)
{
    list_for_each(it, &e->streams) {
        const struct entity_stream *st = container_of(it, struct entity_stream, link);
        struct target_row *row = st->target != NULL ? row_of(rows, n, st->target) : NULL;
        if (row == NULL || st->window.duration_ns == 0)
            continue;
        row->iops += st->window.iops;
        if (row->hist == NULL)
            row->hist = calloc(METER_HIST_COUNT, sizeof(*row->hist));
        for (int k = 0; row->hist != NULL && k < METER_HIST_COUNT; k++)
            sparse_hist_merge(&row->hist[k], &st->window.hist[k]);
    }
}

static json_t *rows_latency(const struct target_row *row)
{
    json_t *all = json_object();
    for (int k = 0; k < METER_HIST_COUNT; k++) {
        const struct hist *h = row->hist != NULL ? &row->hist[k] : NULL;
        json_t *part = h == NULL ? latency_part(0, 0, 0, 0)
                                 : latency_part(hist_mean(h) / 1000, hist_quantile(h, 0.5) / 1000,
                                                hist_quantile(h, 0.99) / 1000, h->max_ns / 1000);
        json_object_set_new(all, meter_hist_name((enum meter_hist)k), part);
    }
    return all;
}

static json_t *probe(const struct entity_target *t)
{
    if (!t->has_health)
        return json_null();
    const struct target_health *h = &t->health;
    json_t *j = json_object();
    json_object_set_new(j, "reachable", json_boolean(h->reachable));
    json_object_set_new(j, "size", count(h->size));
    json_object_set_new(j, "blockMin", count(h->block_min));
    json_object_set_new(j, "blockPreferred", count(h->block_preferred));
    json_object_set_new(j, "blockMax", count(h->block_max));
    json_object_set_new(j, "latencyUs", count(h->probe_latency_us));
    json_object_set_new(j, "connectUs", count(h->connect_latency_us));
    json_object_set_new(j, "at", instant(h->wall_us));
    json_object_set_new(j, "probes", count(h->probes));
    json_object_set_new(j, "failures", count(h->failures));
    json_object_set_new(j, "error", text_or_null(h->error));
    return j;
}

static json_t *target(const struct target_row *rows, size_t n)
{
    const struct entity_target *t = rows[0].t;
    json_t *gateways = json_array();
    uint64_t connections = 0, connects = 0, failures = 0, inflight = 0, errors = 0;
    uint64_t window = 0, parallel = 0;
    const char *last_error = "";
    for (size_t i = 0; i < n; i++) {
        const struct entity_target *one = rows[i].t;
        json_array_append_new(gateways, text(one->gateway->hello.name));
        connections += one->connections;
        connects += one->connects;
        failures += one->connect_failures;
        inflight += one->inflight;
        errors += one->errors;
        window += one->window_milli;
        parallel = one->parallelism_milli > parallel ? one->parallelism_milli : parallel;
        if (one->last_error[0] != '\0')
            last_error = one->last_error;
    }
    json_t *j = json_object();
    json_object_set_new(j, "name", text(t->name));
    json_object_set_new(j, "uri", text(t->uri));
    json_object_set_new(j, "gateways", gateways);
    json_object_set_new(j, "connections", count(connections));
    json_object_set_new(j, "connects", count(connects));
    json_object_set_new(j, "connectFailures", count(failures));
    json_object_set_new(j, "inflight", count(inflight));
    json_object_set_new(j, "errors", count(errors));
    json_object_set_new(j, "lastError", text_or_null(last_error));
    json_object_set_new(j, "iops", count(rows[0].iops));
    json_object_set_new(j, "latency", rows_latency(&rows[0]));
    json_object_set_new(j, "slots", window > 0 ? json_real((double)window / 1e3) : json_null());
    json_object_set_new(j, "parallelism",
                        parallel > 0 ? json_real((double)parallel / 1e3) : json_null());
    json_object_set_new(j, "reservedPercent",
                        t->reserved_ppm > 0 ? percent(t->reserved_ppm) : json_null());
    json_object_set_new(j, "overcommitted", json_boolean(t->overcommitted));
    json_object_set_new(j, "probe", probe(t));
    return j;
}

void view_targets(const struct entities *e, const struct view_request *r, json_t *out)
{
    struct target_row *rows = calloc(e->target_count + 1, sizeof(*rows));
    if (rows == NULL)
        return;
    size_t n = 0;
    list_for_each(it, &e->targets) {
        const struct entity_target *t = container_of(it, struct entity_target, link);
        if (r->name[0] == '\0' || strcmp(r->name, t->name) == 0)
            rows[n++].t = t;
    }
    qsort(rows, n, sizeof(*rows), row_order);
    for (size_t i = 1; i < n; i++)
        rows[i].first = row_order(&rows[i - 1], &rows[i]) == 0 ? rows[i - 1].first : i;
    rows_add_streams(e, rows, n);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && rows[end].first == i;)
            end++;
        json_array_append_new(out, target(&rows[i], end - i));
    }
    for (size_t i = 0; i < n; i++)
        free(rows[i].hist);
    free(rows);
}

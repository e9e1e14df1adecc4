/* SPDX-License-Identifier: Apache-2.0 */
/* One block a report: the struct, its streams, its targets, its limits, then all buckets, in that
 * order. Sizes are bounded by FRAME_STREAMS_MAX, FRAME_TARGETS_MAX, FRAME_LIMITS_MAX and what fits
 * into a frame: below 16 MiB. */
#include "server/monitor/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/text.h"
#include "control/auth.h"
#include "server/mailbox/slab.h"

_Static_assert(HIST_BUCKETS == FRAME_HIST_BUCKETS, "the wire knows the same buckets");
_Static_assert((int)WEIR__CONTROL__OP__OTHER == IO_OTHER, "operations are numbered alike");
_Static_assert((int)WEIR__CONTROL__HIST_KIND__TOTAL == METER_TOTAL,
               "histograms are numbered alike");
_Static_assert(GATEWAY_ID_SIZE == AUTH_ID_SIZE, "one size of id");
_Static_assert(_Alignof(struct report_stream) <= 8, "laid out behind each other");
_Static_assert(sizeof(struct report) % 8 == 0 && sizeof(struct report_stream) % 8 == 0 &&
                   sizeof(struct report_target) % 8 == 0 && sizeof(struct report_limit) % 8 == 0,
               "laid out behind each other");

static bool is_upper_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F');
}

static bool name_is_escaped(const char *s)
{
    size_t n = strlen(s);
    if (n == 0 || n >= NAME_SIZE)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '%') {
            if (!is_upper_hex(s[i + 1]) || !is_upper_hex(s[i + 2]))
                return false;
            i += 2;
        } else if (s[i] <= ' ' || s[i] > '~' || strchr("/\"\\<>&", s[i]) != NULL) {
            return false;
        }
    }
    return true;
}

void report_name(const char *name, char out[NAME_SIZE])
{
    if (name_is_escaped(name))
        memcpy(out, name, strlen(name) + 1);
    else
        name_escape(name, strlen(name), out);
}

void report_words(char *out, size_t size, const char *s)
{
    size_t n = 0;
    weir_assert(size > 0);
    for (; s[n] != '\0' && n + 1 < size; n++)
        out[n] = s[n] >= ' ' && s[n] <= '~' ? s[n] : '?';
    out[n] = '\0';
}

static void info_from_wire(struct report_stream *out, const Weir__Control__StreamInfo *in)
{
    out->has_info = true;
    out->tenant[0] = '\0';
    out->size = in->size;
    report_name(in->host, out->host);
    report_name(in->volume, out->volume);
    report_name(in->target, out->target);
    if (in->tenant[0] != '\0')
        report_name(in->tenant, out->tenant);
}

static void ops_from_wire(struct report_stream *out, const Weir__Control__StreamStats *in)
{
    weir_assert(in->n_ops <= IO_OP_COUNT); /* frame_unpack: each at most once */
    for (size_t i = 0; i < in->n_ops; i++) {
        const Weir__Control__OpStats *o = in->ops[i];
        out->op[i] = (struct report_op){
            .op = (enum io_op)o->op,
            .counts =
                {
                    .arrivals = o->arrivals,
                    .completions = o->completions,
                    .errors = o->errors,
                    .bytes = o->bytes,
                    .bytes_arrived = o->bytes_arrived,
                    .held = o->held,
                    .held_ns = o->held_ns,
                    .dropped = o->dropped,
                },
        };
    }
    out->op_count = in->n_ops;
}

/* Returns the place behind the buckets used. */
static struct report_bucket *hists_from_wire(struct report_stream *out,
                                             const Weir__Control__StreamStats *in,
                                             struct report_bucket *at)
{
    weir_assert(in->n_hists <= 2 * METER_HIST_COUNT);
    for (size_t i = 0; i < in->n_hists; i++) {
        const Weir__Control__HistStats *h = in->hists[i];
        out->hist[i] = (struct report_hist){
            .kind = (enum meter_hist)h->kind,
            .direction = h->write ? IO_DIR_WRITE : IO_DIR_READ,
            .sum_ns = h->sum_ns,
            .max_ns = h->max_ns,
            .bucket = at,
            .bucket_count = h->n_index,
        };
        for (size_t b = 0; b < h->n_index; b++)
            *at++ = (struct report_bucket){.index = h->index[b], .count = h->count[b]};
    }
    out->hist_count = in->n_hists;
    return at;
}

static struct report_bucket *stream_from_wire(struct report_stream *out,
                                              const Weir__Control__StreamStats *in,
                                              struct report_bucket *at)
{
    memset(out, 0, offsetof(struct report_stream, host)); /* blocks come as they were left */
    out->index = in->index;
    out->connections = in->connections;
    out->held_now = in->held_now;
    out->oldest_held_ns = in->oldest_held_ns;
    out->max_hold_hits = in->max_hold_hits;
    out->has_burst = in->burst_ppm > 0;
    out->burst_ppm = in->burst_ppm > 0 ? (uint32_t)(in->burst_ppm - 1) : 0;
    report_words(out->held_by, sizeof(out->held_by), in->held_by);
    out->cost_arrived_ns = in->cost_arrived_ns;
    out->cost_served_ns = in->cost_served_ns;
    out->reserved_ios = in->reserved_ios;
    out->queued_ns = in->queued_ns;
    out->late = in->late;
    out->queued_now = in->queued_now;
    out->oldest_queued_ns = in->oldest_queued_ns;
    report_words(out->share, sizeof(out->share), in->share);
    if (in->info != NULL)
        info_from_wire(out, in->info);
    ops_from_wire(out, in);
    return hists_from_wire(out, in, at);
}

static struct look_sample look_from_wire(const Weir__Control__LookSample *in)
{
    return (struct look_sample){.ns = in->ns,
                                .busy_ns = in->busy_ns,
                                .full_ns = in->full_ns,
                                .ios = in->ios,
                                .bytes = in->bytes,
                                .weighed_busy_ns = in->weighed_busy_ns,
                                .weighed_ios = in->weighed_ios,
                                .weighed_bytes = in->weighed_bytes};
}

static void target_from_wire(struct report_target *out, const Weir__Control__TargetStats *in)
{
    memset(out, 0, sizeof(*out));
    out->connections = in->connections;
    out->connects = in->connects;
    out->connect_failures = in->connect_failures;
    out->inflight = in->inflight;
    out->errors = in->errors;
    report_name(in->name, out->name);
    report_words(out->uri, sizeof(out->uri), in->uri);
    report_words(out->last_error, sizeof(out->last_error), in->last_error);
    out->window_milli = in->window_milli;
    out->parallelism_milli = in->parallelism_milli;
    out->wait_p99_us = in->wait_p99_us;
    out->busy_ns = in->busy_ns;
    out->full_ns = in->full_ns;
    out->cost_served_ns = in->cost_served_ns;
    out->served_ios = in->served_ios;
    out->served_bytes = in->served_bytes;
    out->queued_now = in->queued_now;
    out->cost = (struct cost_model){
        .base_ns = {in->read_base_ns, in->write_base_ns},
        .page_ns = {in->read_page_ns, in->write_page_ns},
    };
    if (in->look != NULL && in->look->low != NULL && in->look->since != NULL)
        out->look = (struct look_result){.id = in->look->id,
                                         .low = look_from_wire(in->look->low),
                                         .since = look_from_wire(in->look->since)};
}

static void limit_from_wire(struct report_limit *out, const Weir__Control__LimitInForce *in)
{
    memset(out, 0, sizeof(*out));
    report_words(out->id, sizeof(out->id), in->id);
    for (size_t i = 0; i < in->n_rates; i++) {
        weir_assert(in->rates[i]->kind < GATE_KIND_COUNT); /* frame_unpack */
        out->rate[in->rates[i]->kind] = in->rates[i]->rate;
    }
}

static void upkeep_from_wire(struct report *out, const Weir__Control__GatewayLife *life,
                             const Weir__Control__DrainStats *drain)
{
    out->has_upkeep = true;
    out->life.deaths = life->deaths;
    out->life.hangs = life->hangs;
    out->life.last_death_ms = life->last_death_ms;
    out->life.upgrades = life->upgrades;
    out->life.upgrades_failed = life->upgrades_failed;
    report_words(out->life.last_death, sizeof(out->life.last_death), life->last_death);
    report_words(out->life.last_upgrade, sizeof(out->life.last_upgrade), life->last_upgrade);
    report_words(out->life.certificate, sizeof(out->life.certificate), life->certificate);
    out->life.certificate_from_s = life->certificate_from_s;
    out->life.certificate_until_s = life->certificate_until_s;
    out->drain.since = drain->since;
    out->drain.connections = drain->connections;
    out->drain.refused = drain->refused;
    out->drain.closed = drain->closed;
}

struct report *report_new(const Weir__Control__Statistics *s, uint64_t session, struct slab *slab)
{
    weir_assert(s->n_streams <= FRAME_STREAMS_MAX);
    weir_assert(s->n_targets <= FRAME_TARGETS_MAX);
    size_t buckets = 0;
    for (size_t i = 0; i < s->n_streams; i++) {
        for (size_t h = 0; h < s->streams[i]->n_hists; h++)
            buckets += s->streams[i]->hists[h]->n_index;
    }
    size_t streams_size = s->n_streams * sizeof(struct report_stream);
    size_t targets_size = s->n_targets * sizeof(struct report_target);
    size_t limits_size = s->n_limits * sizeof(struct report_limit);
    size_t size = sizeof(struct report) + streams_size + targets_size + limits_size +
                  buckets * sizeof(struct report_bucket);
    char *block = slab != NULL ? slab_take(slab, size) : malloc(size);
    if (block == NULL)
        return NULL;
    struct report *r = (struct report *)(void *)block;
    memset(r, 0, sizeof(*r));
    r->stream = (struct report_stream *)(void *)(block + sizeof(*r));
    r->target = (struct report_target *)(void *)(block + sizeof(*r) + streams_size);
    r->limit =
        (struct report_limit *)(void *)(block + sizeof(*r) + streams_size + targets_size);
    struct report_bucket *at = (struct report_bucket *)(void *)(block + sizeof(*r) + streams_size +
                                                                targets_size + limits_size);
    const struct report_bucket *end = at + buckets;
    r->session = session;
    memcpy(r->boot, s->boot_id.data, sizeof(r->boot));
    r->seq = s->seq;
    r->base = s->base_seq;
    r->mono_ns = s->mono_ns;
    r->epoch = s->epoch;
    r->more = s->more;
    if (s->life != NULL && s->drain != NULL && !s->more)
        upkeep_from_wire(r, s->life, s->drain);
    r->stream_count = s->n_streams;
    r->target_count = s->n_targets;
    r->limits_said = s->limits_said;
    r->limit_count = s->n_limits;
    for (size_t i = 0; i < s->n_streams; i++)
        at = stream_from_wire(&r->stream[i], s->streams[i], at);
    for (size_t i = 0; i < s->n_targets; i++)
        target_from_wire(&r->target[i], s->targets[i]);
    for (size_t i = 0; i < s->n_limits; i++)
        limit_from_wire(&r->limit[i], s->limits[i]);
    weir_assert(at == end);
    return r;
}

void report_free(void *report)
{
    slab_give(report);
}

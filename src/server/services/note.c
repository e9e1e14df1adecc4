/* SPDX-License-Identifier: Apache-2.0 */
/* What is written down: events, actions, and a sample of each active stream and period. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/text.h"
#include "server/services/state.h"

void vwords(char *out, size_t size, const char *format, va_list args)
{
    int n = vsnprintf(out, size, format, args);
    weir_assert(n >= 0);
}

void words(char *out, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vwords(out, size, format, args);
    va_end(args);
}

void note_stream_subject(const struct stream *st, char *out, size_t size)
{
    words(out, size, "stream/%s", st->e.key);
}

void note_event(struct services *s, enum event_severity severity, const char *kind,
                const char *subject, const char *format, ...)
{
    struct event_record e = {.wall_us = s->wall_us, .severity = severity};
    words(e.kind, sizeof(e.kind), "%s", kind);
    words(e.subject, sizeof(e.subject), "%s", subject);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(e.text, sizeof(e.text), format, args);
    va_end(args);
    weir_assert(n >= 0);
    s->stats.events++;
    s->sink.event(s->sink.ctx, &e);
}

void note_action(struct services *s, struct action_record *a)
{
    uint64_t id = s->wall_us > 0 ? (uint64_t)s->wall_us : 1;
    /* Processes share one store: each gives out its own residue. */
    uint64_t n = s->config.processes > 0 ? s->config.processes : 1;
    id = id / n * n + s->config.process % n;
    if (id <= s->action_id)
        id = s->action_id + n;
    s->action_id = id;
    a->id = id;
    a->wall_us = s->wall_us;
    if (a->enforced)
        s->stats.actions++;
    else
        s->stats.actions_suppressed++;
    s->sink.action(s->sink.ctx, a);
}

/* The histogram in at most SAMPLE_MAX_BUCKETS pairs. When it has more, neighbours are joined under
 * the highest index of each group: a quantile computed from a sample is never better than it was.
 */
static void sample_buckets(struct sample_record *r, const struct stream *st)
{
    const struct sparse_hist *h = &st->e.window.hist[METER_TOTAL];
    uint32_t used = 0;
    for (uint32_t i = 0; i < h->used; i++)
        used += sparse_hist_count(h, i) != 0;
    uint32_t join = (used + SAMPLE_MAX_BUCKETS - 1) / SAMPLE_MAX_BUCKETS, in_group = 0, n = 0;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < h->used; i++) {
        if (sparse_hist_count(h, i) == 0)
            continue;
        sum += sparse_hist_count(h, i);
        used--;
        if (++in_group < join && used > 0)
            continue;
        weir_assert(n < SAMPLE_MAX_BUCKETS);
        r->bucket[n].index = (uint16_t)sparse_hist_index(h, i);
        r->bucket[n++].count = sum > UINT32_MAX ? UINT32_MAX : (uint32_t)sum;
        sum = 0;
        in_group = 0;
    }
    r->bucket_count = n;
}

static void sample_make(struct services *s, const struct stream *st)
{
    struct sample_record *r = &s->sample;
    const struct entity_window *w = &st->e.window;
    *r = (struct sample_record){.wall_us = s->wall_us,
                                .interval_ms = (uint32_t)(w->duration_ns / 1000000 > UINT32_MAX
                                                              ? UINT32_MAX
                                                              : w->duration_ns / 1000000)};
    words(r->gateway, sizeof(r->gateway), "%s", st->gateway->e.hello.name);
    memcpy(r->host, st->e.host, sizeof(r->host));
    memcpy(r->volume, st->e.volume, sizeof(r->volume));
    memcpy(r->tenant, st->e.tenant, sizeof(r->tenant));
    memcpy(r->target, st->e.target_name, sizeof(r->target));
    r->read_ops = w->reads;
    r->write_ops = w->writes;
    r->other_ops = w->others;
    r->errors = w->errors;
    r->arrivals = w->arrivals;
    r->read_bytes = w->read_bytes;
    r->write_bytes = w->write_bytes;
    r->held_ops = w->held;
    r->held_us_sum = w->hist[METER_HELD].sum_ns / 1000;
    r->target_us_sum = w->hist[METER_TARGET].sum_ns / 1000;
    r->total_us_sum = w->hist[METER_TOTAL].sum_ns / 1000;
    r->p50_us = w->p50_us[METER_TOTAL];
    r->p99_us = w->p99_us[METER_TOTAL];
    r->max_us = w->max_us[METER_TOTAL];
    r->held_p99_us = w->p99_us[METER_HELD];
    r->target_p99_us = w->p99_us[METER_TARGET];
    uint64_t inflight = entity_stream_inflight(&st->e);
    r->inflight = inflight > UINT32_MAX ? UINT32_MAX : (uint32_t)inflight;
    r->held_now = st->e.held_now;
    sample_buckets(r, st);
}

void note_samples(struct services *s, struct gateway *g)
{
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        const struct entity_window *w = &st->e.window;
        if (w->duration_ns == 0)
            continue;
        bool active = w->arrivals > 0 || w->reads + w->writes + w->others > 0 ||
                      st->e.held_now > 0 || entity_stream_inflight(&st->e) > 0;
        /* One sample of zeros after the last busy period, so that graphs come down. */
        if (active || st->was_active) {
            sample_make(s, st);
            s->stats.samples++;
            s->sink.sample(s->sink.ctx, &s->sample);
        }
        st->was_active = active;
    }
}

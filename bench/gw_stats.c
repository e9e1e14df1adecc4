/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: load that is made of made-up bytes measures a server that never looks at them. These
 * answers go through every check of the real server: counters are cumulative, histograms say whole
 * counts of the buckets that changed, what did not change since the acknowledged answer is left
 * out.
 *
 * Model: at each poll `active` of the streams, in turn, complete IOS_PER_POLL I/Os of 4 KiB,
 * spread over GW_BUCKETS latencies by fixed weights. Even streams read, odd ones write. A stream is
 * said when it changed after the acknowledged sequence; then all its buckets are, for all of them
 * change together. */
#include "gw_stats.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/name.h"
#include "base/rng.h"

#define IOS_PER_POLL 100u
#define IO_BYTES 4096u
#define FIRST_BUCKET 300u /* about 40 us: an ordinary flash device */
#define BUCKET_STEP 3u
#define IO_NS 45000u
#define HISTS 3u
#define STORAGES 16u

static const uint32_t weights[GW_BUCKETS] = {20, 30, 25, 15, 8, 2};

struct gw_scratch {
    Weir__Control__StreamStats stream[GW_FRAME_STREAMS], *stream_ptr[GW_FRAME_STREAMS];
    Weir__Control__StreamInfo info[GW_FRAME_STREAMS];
    Weir__Control__OpStats op[GW_FRAME_STREAMS], *op_ptr[GW_FRAME_STREAMS];
    Weir__Control__HistStats hist[GW_FRAME_STREAMS][HISTS], *hist_ptr[GW_FRAME_STREAMS][HISTS];
    uint32_t index[HISTS][GW_BUCKETS];
    uint64_t count[GW_FRAME_STREAMS][HISTS][GW_BUCKETS];
    char host[GW_FRAME_STREAMS][32], volume[GW_FRAME_STREAMS][32];
};

struct gw_scratch *gw_scratch_new(void)
{
    struct gw_scratch *s = calloc(1, sizeof(*s));
    for (uint32_t i = 0; s != NULL && i < GW_BUCKETS; i++) {
        s->index[WEIR__CONTROL__HIST_KIND__HELD][i] = 0;
        s->index[WEIR__CONTROL__HIST_KIND__TARGET][i] = FIRST_BUCKET + i * BUCKET_STEP;
        s->index[WEIR__CONTROL__HIST_KIND__TOTAL][i] = FIRST_BUCKET + 1 + i * BUCKET_STEP;
    }
    return s;
}

void gw_scratch_free(struct gw_scratch *s)
{
    free(s);
}

int gw_stats_init(struct gw_stats *g, uint32_t number, uint32_t streams, uint32_t active,
                  uint32_t extra)
{
    weir_assert(streams + extra <= GW_FRAME_STREAMS);
    *g = (struct gw_stats){.number = number, .streams = streams, .base_streams = streams,
                           .room = streams + extra,
                           .active = active < streams ? active : streams};
    g->stream = calloc(g->room > 0 ? g->room : 1, sizeof(*g->stream));
    rng_system(g->boot, sizeof(g->boot));
    return g->stream != NULL ? 0 : -ENOMEM;
}

void gw_stats_fini(struct gw_stats *g)
{
    free(g->stream);
    g->stream = NULL;
}

void gw_stats_boot(struct gw_stats *g)
{
    rng_system(g->boot, sizeof(g->boot));
    memset(g->stream, 0, g->room * sizeof(*g->stream));
    g->streams = g->base_streams;
    g->sent_seq = g->acked_seq = 0;
}

bool gw_stats_surge(struct gw_stats *g)
{
    if (g->streams == g->room)
        return false;
    g->stream[g->streams++] = (struct gw_stream){.surging = true, .born_seq = UINT64_MAX};
    return true;
}

static void move_on(struct gw_stats *g, uint64_t seq)
{
    for (uint32_t i = 0; i < g->streams; i++) {
        struct gw_stream *st = &g->stream[i];
        if (st->born_seq == UINT64_MAX) /* came since the last answer */
            st->born_seq = st->changed_seq = seq;
    }
    for (uint32_t n = 0; n < g->active; n++) {
        struct gw_stream *st = &g->stream[g->cursor];
        g->cursor = g->cursor + 1 < g->base_streams ? g->cursor + 1 : 0;
        st->ios += IOS_PER_POLL;
        st->changed_seq = seq;
        for (uint32_t b = 0; b < GW_BUCKETS; b++)
            st->bucket[b] += weights[b];
    }
}

static void build_hists(struct gw_scratch *s, size_t at, const struct gw_stream *st, bool write)
{
    for (uint32_t k = 0; k < HISTS; k++) {
        Weir__Control__HistStats *h = &s->hist[at][k];
        weir__control__hist_stats__init(h);
        h->kind = (Weir__Control__HistKind)k;
        h->write = write;
        h->index = s->index[k];
        h->count = s->count[at][k];
        h->n_index = h->n_count = k == WEIR__CONTROL__HIST_KIND__HELD ? 1 : GW_BUCKETS;
        for (uint32_t b = 0; b < GW_BUCKETS; b++)
            h->count[b] = st->bucket[b];
        if (k == WEIR__CONTROL__HIST_KIND__HELD)
            h->count[0] = st->ios;
        h->sum_ns = k == WEIR__CONTROL__HIST_KIND__HELD ? 0 : st->ios * IO_NS;
        h->max_ns = k == WEIR__CONTROL__HIST_KIND__HELD ? 0 : 2 * IO_NS;
        s->hist_ptr[at][k] = h;
    }
}

static void build_stream(const struct gw_stats *g, struct gw_scratch *s, size_t at, uint32_t i,
                         bool info)
{
    const struct gw_stream *st = &g->stream[i];
    Weir__Control__StreamStats *out = &s->stream[at];
    weir__control__stream_stats__init(out);
    out->index = i;
    out->connections = 1;
    if (info) {
        Weir__Control__StreamInfo *n = &s->info[at];
        weir__control__stream_info__init(n);
        snprintf(s->host[at], sizeof(s->host[at]), st->surging ? "surge-%u" : "host-%u", g->number);
        snprintf(s->volume[at], sizeof(s->volume[at]), "volume-%u", i);
        n->host = s->host[at];
        n->volume = s->volume[at];
        n->target = (char *)(uintptr_t)"storage";
        n->size = UINT64_C(1) << 30;
        out->info = n;
    }
    if (st->ios > 0) {
        Weir__Control__OpStats *o = &s->op[at];
        weir__control__op_stats__init(o);
        o->op = i % 2 == 0 ? WEIR__CONTROL__OP__READ : WEIR__CONTROL__OP__WRITE;
        o->arrivals = o->completions = st->ios;
        o->bytes = o->bytes_arrived = st->ios * IO_BYTES;
        s->op_ptr[at] = o;
        out->n_ops = 1;
        out->ops = &s->op_ptr[at];
        build_hists(s, at, st, i % 2 != 0);
        out->n_hists = HISTS;
        out->hists = s->hist_ptr[at];
    }
    s->stream_ptr[at] = out;
}

/* docs/protocol.md, "Polls and statistics": on what an answer may build. */
static uint64_t base_of(struct gw_stats *g, uint64_t acked)
{
    if (acked != 0 && (acked == g->sent_seq || acked == g->acked_seq))
        g->acked_seq = acked;
    else
        g->acked_seq = 0;
    return g->acked_seq;
}

int gw_stats_answer(struct gw_stats *g, struct gw_scratch *s, uint64_t seq, uint64_t acked,
                    uint64_t mono_ns, struct text *out)
{
    Weir__Control__TargetStats target = WEIR__CONTROL__TARGET_STATS__INIT, *targets[1] = {&target};
    Weir__Control__Statistics a = WEIR__CONTROL__STATISTICS__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    uint64_t base = base_of(g, acked);
    move_on(g, seq);
    for (uint32_t i = 0; i < g->streams; i++) {
        const struct gw_stream *st = &g->stream[i];
        if (base == 0 || st->changed_seq > base)
            build_stream(g, s, a.n_streams++, i, base == 0 || st->born_seq > base);
    }
    a.seq = seq;
    a.base_seq = base;
    a.mono_ns = mono_ns;
    a.epoch = g->epoch;
    a.streams = s->stream_ptr;
    a.boot_id = (ProtobufCBinaryData){.len = sizeof(g->boot), .data = g->boot};
    target.name = (char *)(uintptr_t)"storage";
    char uri[64]; /* several storages, or all gateways were one subgroup at one process */
    snprintf(uri, sizeof(uri), "nbd://127.0.0.1:%u", 1 + g->number % STORAGES);
    target.uri = uri;
    target.connections = target.connects = g->streams;
    a.targets = targets;
    a.n_targets = 1;
    f.body_case = WEIR__CONTROL__FRAME__BODY_STATISTICS;
    f.statistics = &a;
    g->sent_seq = seq;
    return frame_append(out, &f);
}

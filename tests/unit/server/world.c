/* SPDX-License-Identifier: Apache-2.0 */
/* Discrete events: arrivals, releases by limits, completions, and messages between gateways and
 * services. Limits are real qos/bucket, counts real qos/meter; only the wire and the device are
 * made up. */
#include "world.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"

enum kind { ARRIVAL, RELEASE, DONE, POLLED, CONTROLLED };

struct world_event {
    uint64_t at, order;
    enum kind kind;
    int stream, gateway;
    uint64_t number;
    struct world_io *io;
    struct control_update *update;
    uint64_t session;
};

static bool before(const struct world_event *a, const struct world_event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void push(struct world *w, struct world_event e)
{
    if (w->heap_count == w->heap_cap) {
        w->heap_cap = w->heap_cap ? 2 * w->heap_cap : 1024;
        w->heap = reallocarray(w->heap, w->heap_cap, sizeof(*w->heap));
        weir_assert(w->heap != NULL);
    }
    e.order = ++w->order;
    size_t i = w->heap_count++;
    while (i > 0 && before(&e, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = e;
}

static struct world_event pop(struct world *w)
{
    struct world_event top = w->heap[0], last = w->heap[--w->heap_count];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= w->heap_count)
            break;
        if (c + 1 < w->heap_count && before(&w->heap[c + 1], &w->heap[c]))
            c++;
        if (!before(&w->heap[c], &last))
            break;
        w->heap[i] = w->heap[c];
        i = c;
    }
    w->heap[i] = last;
    return top;
}

int64_t world_wall(const struct world *w)
{
    return WORLD_WALL0 + (int64_t)(w->now / 1000);
}

static double exponential(struct world *w, double mean)
{
    return -mean * log(1.0 - rng_unit(&w->rng));
}

/* --- I/O ------------------------------------------------------------------------------- */

static void dispatch(struct world *w, struct world_io *io)
{
    struct world_device *d = &w->device[w->gateway[w->stream[io->stream].gateway].device];
    uint32_t first = 0;
    for (uint32_t i = 1; i < d->servers; i++) {
        if (d->free_at[i] < d->free_at[first])
            first = i;
    }
    uint64_t start = d->free_at[first] > w->now ? d->free_at[first] : w->now;
    io->released_ns = w->now;
    io->done_ns = start + (uint64_t)(d->fixed_ns + exponential(w, d->random_ns)) + 1;
    d->free_at[first] = io->done_ns;
    push(w, (struct world_event){.at = io->done_ns, .kind = DONE, .stream = io->stream, .io = io});
}

static uint64_t wait_ns(struct world *w, struct world_stream *s)
{
    uint64_t a = s->limited ? bucket_wait_ns(&s->bucket, w->now) : 0;
    uint64_t b = s->agreed ? bucket_wait_ns(&s->agreed_bucket, w->now) : 0;
    snprintf(s->held_by, sizeof(s->held_by), "%s", a >= b ? "throttle/x" : s->agreed_id);
    return a > b ? a : b;
}

static void pay(struct world *w, struct world_stream *s)
{
    if (s->limited)
        bucket_take(&s->bucket, 1, w->now);
    if (s->agreed)
        bucket_take(&s->agreed_bucket, 1, w->now);
}

static void release(struct world *w, int stream)
{
    struct world_stream *s = &w->stream[stream];
    s->release_set = false;
    while (s->waiting_count > 0) {
        uint64_t wait = wait_ns(w, s);
        if (wait > 0) {
            s->release_set = true;
            push(w, (struct world_event){.at = w->now + wait, .kind = RELEASE, .stream = stream});
            return;
        }
        pay(w, s);
        struct world_io *io = s->waiting[s->waiting_first];
        s->waiting_first = (s->waiting_first + 1) % 4096;
        s->waiting_count--;
        dispatch(w, io);
    }
    s->held_by[0] = '\0';
}

static void submit(struct world *w, int stream)
{
    struct world_stream *s = &w->stream[stream];
    struct world_io *io = calloc(1, sizeof(*io));
    weir_assert(io != NULL);
    io->arrived_ns = w->now;
    io->stream = stream;
    io->write = rng_below(&w->rng, 10) < 3;
    meter_arrive(&s->meter, io->write ? IO_WRITE : IO_READ, s->bytes);
    s->outstanding++;
    if (s->waiting_count == 0 && wait_ns(w, s) == 0) {
        s->held_by[0] = '\0';
        pay(w, s);
        dispatch(w, io);
        return;
    }
    io->held = true;
    weir_assert(s->waiting_count < 4096);
    s->waiting[(s->waiting_first + s->waiting_count++) % 4096] = io;
    if (!s->release_set)
        release(w, stream);
}

static void arrival(struct world *w, const struct world_event *e)
{
    struct world_stream *s = &w->stream[e->stream];
    if (!s->running || e->number != s->generation)
        return;
    submit(w, e->stream);
    push(w, (struct world_event){.at = w->now + (uint64_t)exponential(w, 1e9 / s->rate) + 1,
                                 .kind = ARRIVAL, .stream = e->stream, .number = e->number});
}

static void done(struct world *w, struct world_io *io)
{
    struct world_stream *s = &w->stream[io->stream];
    meter_complete(&s->meter, io->write ? IO_WRITE : IO_READ, s->bytes, false,
                   io->released_ns - io->arrived_ns, io->done_ns - io->released_ns,
                   io->done_ns - io->arrived_ns);
    hist_record(&s->truth, io->done_ns - io->arrived_ns);
    s->outstanding--;
    int stream = io->stream;
    free(io);
    if (s->running && s->depth > 0 && s->outstanding < s->depth)
        submit(w, stream);
}

/* --- reports
 * --------------------------------------------------------------------------------------------- */

static void report_hist(struct report_hist *r, const struct hist *h, enum meter_hist kind,
                        int direction)
{
    r->kind = kind;
    r->direction = (enum io_direction)direction;
    r->sum_ns = h->sum_ns;
    r->max_ns = h->max_ns;
    size_t used = 1; /* nothing that is not used: a world makes thousands of reports */
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        used += h->bucket[i] != 0;
    r->bucket = calloc(used, sizeof(*r->bucket));
    weir_assert(r->bucket != NULL);
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        if (h->bucket[i] != 0)
            r->bucket[r->bucket_count++] =
                (struct report_bucket){.index = i, .count = h->bucket[i]};
    }
}

static void report_stream(struct report_stream *r, const struct world_stream *s, uint32_t index)
{
    r->index = index;
    r->has_info = true;
    memcpy(r->host, s->host, NAME_SIZE);
    memcpy(r->volume, s->volume, NAME_SIZE);
    snprintf(r->target, sizeof(r->target), "array1");
    r->size = s->size;
    for (int op = 0; op < IO_OP_COUNT; op++)
        r->op[r->op_count++] = (struct report_op){.op = (enum io_op)op, .counts = s->meter.op[op]};
    for (int d = 0; d < 2; d++) {
        for (int k = 0; k < METER_HIST_COUNT; k++)
            report_hist(&r->hist[r->hist_count++], &s->meter.hist[d][k], (enum meter_hist)k, d);
    }
    r->connections = s->running ? 1 : 0;
    r->held_now = s->waiting_count;
    snprintf(r->held_by, sizeof(r->held_by), "%s", s->waiting_count > 0 ? s->held_by : "");
}

struct report *world_report(const struct world *w, int gateway, uint64_t seq)
{
    struct report *r = calloc(1, sizeof(*r));
    weir_assert(r != NULL);
    const struct world_gateway *g = &w->gateway[gateway];
    r->session = g->hello.session;
    memcpy(r->boot, g->hello.boot, GATEWAY_ID_SIZE);
    r->seq = seq;
    r->mono_ns = w->now;
    r->epoch = g->epoch;
    r->stream = calloc(WORLD_STREAMS, sizeof(*r->stream));
    r->target = calloc(1, sizeof(*r->target));
    weir_assert(r->stream != NULL && r->target != NULL);
    for (size_t i = 0; i < w->streams; i++) {
        if (w->stream[i].gateway == gateway)
            report_stream(&r->stream[r->stream_count++], &w->stream[i], (uint32_t)i);
    }
    r->target_count = 1;
    snprintf(r->target[0].name, NAME_SIZE, "array1");
    r->target[0].parallelism_milli = w->parallelism_milli;
    r->target[0].window_milli = w->window_milli;
    snprintf(r->target[0].uri, sizeof(r->target[0].uri), "nbd://127.0.0.1:%d", 10809 + g->device);
    return r;
}

void world_report_free(struct report *r)
{
    for (size_t i = 0; i < r->stream_count; i++) {
        for (size_t k = 0; k < r->stream[i].hist_count; k++)
            free(r->stream[i].hist[k].bucket);
    }
    free(r->stream);
    free(r->target);
    free(r);
}

static void polled(struct world *w, const struct world_event *e)
{
    struct world_gateway *g = &w->gateway[e->gateway];
    if (!g->up || g->mute || e->session != g->hello.session)
        return;
    g->polls++;
    struct report *r = world_report(w, e->gateway, e->number);
    services_report(w->services, r, w->now, world_wall(w));
    if (g->duplicate)
        services_report(w->services, r, w->now, world_wall(w));
    world_report_free(r);
}

/* --- controls
 * ---------------------------------------------------------------------------------------------- */

static void limit_set(struct world *w, struct world_stream *s, bool planned, uint64_t rate)
{
    bool *on = planned ? &s->limited : &s->agreed;
    struct bucket *b = planned ? &s->bucket : &s->agreed_bucket;
    struct bucket_rate r = {.rate = rate};
    if (rate == 0)
        *on = false;
    else if (*on)
        bucket_change(b, &r, w->now);
    else
        bucket_init(b, &r, w->now);
    *on = rate != 0;
    *(planned ? &s->limit_iops : &s->agreed_iops) = rate != 0 ? rate : UINT64_MAX;
}

/* In this world a group's limit is divided among its members, which is enough to see what is sent.
 */
static void item_apply(struct world *w, int gateway, const struct control_item *item)
{
    if (item->share.weight > 0 || item->target[0] != '\0')
        return; /* gateways of this world schedule nothing */
    for (size_t i = 0; i < w->streams; i++) {
        struct world_stream *s = &w->stream[i];
        if (s->gateway != gateway)
            continue;
        char mine[2 * NAME_SIZE + STREAM_KEY_SIZE];
        snprintf(mine, sizeof(mine), "throttle/%s", s->key);
        if (item->remove && item->planned && strcmp(item->id, mine) == 0)
            limit_set(w, s, true, 0);
        if (item->remove && !item->planned && strncmp(item->id, "share/", 6) != 0)
            limit_set(w, s, false, 0);
        for (size_t k = 0; k < item->member_count; k++) {
            if (strcmp(item->member[k], s->key) != 0)
                continue;
            if (!item->planned)
                memcpy(s->agreed_id, item->id, sizeof(s->agreed_id));
            limit_set(w, s, item->planned,
                      item->limits.rate[GATE_IOPS_TOTAL].rate / item->member_count);
        }
    }
}

static void controlled(struct world *w, const struct world_event *e)
{
    struct world_gateway *g = &w->gateway[e->gateway];
    struct control_update *u = e->update;
    int status = g->refuse;
    if (!g->up || e->session != g->hello.session) {
        control_update_free(u);
        return;
    }
    if (status == 0) {
        for (size_t i = 0; u->full && i < w->streams; i++) {
            if (w->stream[i].gateway == e->gateway) {
                limit_set(w, &w->stream[i], true, 0);
                limit_set(w, &w->stream[i], false, 0);
            }
        }
        for (size_t i = 0; i < u->item_count; i++)
            item_apply(w, e->gateway, &u->item[i]);
        g->epoch = u->epoch;
        for (size_t i = 0; i < w->streams; i++) {
            if (w->stream[i].gateway == e->gateway && !w->stream[i].release_set)
                release(w, (int)i);
        }
    }
    uint64_t epoch = u->epoch;
    control_update_free(u);
    services_ack(w->services, e->session, epoch, status, w->now, world_wall(w));
}

/* --- the sink -------------------------------------------------------------------------- */

static int by_session(const struct world *w, uint64_t session)
{
    for (size_t i = 0; i < w->gateways; i++) {
        if (w->gateway[i].hello.session == session)
            return (int)i;
    }
    return -1;
}

static int sink_poll(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *p)
{
    struct world *w = ctx;
    (void)pair;
    int g = by_session(w, session);
    if (g >= 0)
        push(w, (struct world_event){.at = w->now + 300000, .kind = POLLED, .gateway = g,
                                     .number = p->seq, .session = session});
    return 0;
}

static int sink_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    struct world *w = ctx;
    (void)pair;
    if (w->controls_full)
        return WEIR_E_FULL;
    for (size_t i = 0; i < u->item_count; i++)
        w->planned_controls += u->item[i].planned && !u->item[i].remove;
    w->full_updates += u->full;
    w->updates++;
    int g = by_session(w, session);
    if (g < 0)
        control_update_free(u);
    else
        push(w, (struct world_event){.at = w->now + 400000, .kind = CONTROLLED, .gateway = g,
                                     .update = u, .session = session});
    return 0;
}

static void sink_end(void *ctx, uint64_t session, uint16_t pair, const char *why)
{
    struct world *w = ctx;
    (void)session;
    (void)pair;
    (void)why;
    w->ended++;
}

static void sink_sample(void *ctx, const struct sample_record *s)
{
    struct world *w = ctx;
    w->samples++;
    w->sample_reads += s->read_ops;
}

static void sink_action(void *ctx, const struct action_record *a)
{
    struct world *w = ctx;
    weir_assert(w->actions < WORLD_RECORDS);
    w->action[w->actions++] = *a;
}

static void sink_event(void *ctx, const struct event_record *e)
{
    struct world *w = ctx;
    weir_assert(w->events < WORLD_RECORDS);
    w->event[w->events++] = *e;
}

/* --- the face -------------------------------------------------------------------------- */

struct services_sink world_sink(struct world *w)
{
    return (struct services_sink){.ctx = w, .poll = sink_poll, .controls = sink_controls,
                                  .session_end = sink_end, .sample = sink_sample,
                                  .action = sink_action, .event = sink_event};
}

static void init(struct world *w, uint64_t seed, bool observe, bool manual)
{
    memset(w, 0, sizeof(*w));
    rng_seed(&w->rng, seed);
    w->now = 100 * S;
    w->action = calloc(WORLD_RECORDS, sizeof(*w->action));
    w->event = calloc(WORLD_RECORDS, sizeof(*w->event));
    weir_assert(w->action != NULL && w->event != NULL);
    struct services_config c = {.period_ns = S, .lease_ns = 10 * S, .observe = observe,
                                .manual_admission = manual,
                                .max_gateways = 16, .max_streams = 64, .processes = 1,
                                .first_epoch = 1000};
    struct services_sink sink = world_sink(w);
    w->services = services_new(&c, &sink);
    weir_assert(w->services != NULL);
    services_loaded(w->services, w->now, world_wall(w));
    /* Eight at once, 1 ms on average: 8,000 I/Os a second. */
    for (int i = 0; i < 2; i++)
        w->device[i] = (struct world_device){.servers = 8, .fixed_ns = 500e3, .random_ns = 500e3};
}

void world_init(struct world *w, uint64_t seed, bool observe)
{
    init(w, seed, observe, false);
}

void world_init_manual(struct world *w, uint64_t seed)
{
    init(w, seed, false, true);
}

void world_fini(struct world *w)
{
    services_free(w->services);
    for (size_t i = 0; i < w->heap_count; i++) {
        free(w->heap[i].io);
        control_update_free(w->heap[i].update);
    }
    for (size_t i = 0; i < w->streams; i++) {
        struct world_stream *s = &w->stream[i];
        for (uint32_t k = 0; k < s->waiting_count; k++)
            free(s->waiting[(s->waiting_first + k) % 4096]);
    }
    free(w->heap);
    free(w->action);
    free(w->event);
}

int world_add_gateway(struct world *w, const char *name, int device)
{
    weir_assert(w->gateways < WORLD_GATEWAYS);
    int i = (int)w->gateways++;
    struct world_gateway *g = &w->gateway[i];
    g->device = device;
    g->hello.id[0] = (uint8_t)(i + 1);
    snprintf(g->hello.name, sizeof(g->hello.name), "%s", name);
    snprintf(g->hello.software, sizeof(g->hello.software), "weir-gateway test");
    snprintf(g->hello.address, sizeof(g->hello.address), "127.0.0.%d", i + 1);
    return i;
}

void world_gateway_up(struct world *w, int gateway, bool reboot)
{
    struct world_gateway *g = &w->gateway[gateway];
    g->hello.session = g->hello.session + 100 + (uint64_t)gateway * 1000 * (g->hello.session == 0);
    if (reboot) {
        g->hello.boot[0] = (uint8_t)(g->hello.boot[0] + 1);
        g->epoch = 0;
        for (size_t i = 0; i < w->streams; i++) {
            if (w->stream[i].gateway != gateway)
                continue;
            memset(&w->stream[i].meter, 0, sizeof(w->stream[i].meter));
            /* What was in flight is lost with the process, to the meter only. */
            w->stream[i].meter.op[IO_READ].arrivals = w->stream[i].outstanding;
            w->stream[i].meter.op[IO_WRITE].arrivals = w->stream[i].outstanding;
        }
    }
    g->up = true;
    services_gateway_up(w->services, &g->hello, w->now, world_wall(w));
}

void world_gateway_down(struct world *w, int gateway)
{
    w->gateway[gateway].up = false;
    services_gateway_down(w->services, w->gateway[gateway].hello.session, "closed by the peer",
                          w->now, world_wall(w));
}

int world_add_stream(struct world *w, int gateway, const char *host, const char *volume)
{
    weir_assert(w->streams < WORLD_STREAMS);
    int i = (int)w->streams++;
    struct world_stream *s = &w->stream[i];
    s->gateway = gateway;
    s->limit_iops = s->agreed_iops = UINT64_MAX;
    s->bytes = 4096;
    s->size = UINT64_C(1) << 30;
    snprintf(s->host, sizeof(s->host), "%s", host);
    snprintf(s->volume, sizeof(s->volume), "%s", volume);
    name_stream_key(s->host, s->volume, s->key);
    return i;
}

void world_open_loop(struct world *w, int stream, double rate)
{
    struct world_stream *s = &w->stream[stream];
    s->running = true;
    s->rate = rate;
    s->depth = 0;
    s->generation++;
    push(w, (struct world_event){.at = w->now + 1, .kind = ARRIVAL, .stream = stream,
                                 .number = s->generation});
}

void world_closed_loop(struct world *w, int stream, uint32_t depth, uint64_t bytes)
{
    struct world_stream *s = &w->stream[stream];
    s->running = true;
    s->depth = depth;
    s->bytes = bytes;
    s->generation++;
    while (s->outstanding < depth)
        submit(w, stream);
}

void world_stop(struct world *w, int stream)
{
    w->stream[stream].running = false;
    w->stream[stream].generation++;
}

static void happen(struct world *w, const struct world_event *e)
{
    switch (e->kind) {
    case ARRIVAL:
        arrival(w, e);
        break;
    case RELEASE:
        release(w, e->stream);
        break;
    case DONE:
        done(w, e->io);
        break;
    case POLLED:
        polled(w, e);
        break;
    case CONTROLLED:
        controlled(w, e);
        break;
    }
}

void world_run_ns(struct world *w, uint64_t ns)
{
    uint64_t end = w->now + ns;
    for (;;) {
        uint64_t due = services_next_ns(w->services);
        uint64_t next = w->heap_count > 0 ? w->heap[0].at : UINT64_MAX;
        uint64_t at = due < next ? due : next;
        if (at > end)
            break;
        if (at > w->now)
            w->now = at;
        if (next <= due) {
            struct world_event e = pop(w);
            happen(w, &e);
        } else {
            services_tick(w->services, w->now, world_wall(w));
        }
    }
    w->now = end;
}

void world_run(struct world *w, uint64_t seconds)
{
    world_run_ns(w, seconds * S);
}

void world_truth_clear(struct world *w)
{
    for (size_t i = 0; i < w->streams; i++)
        hist_clear(&w->stream[i].truth);
}

double world_p99_us(const struct world *w, int stream)
{
    return (double)hist_quantile(&w->stream[stream].truth, 0.99) / 1e3;
}

uint64_t world_ios(const struct world *w, int stream)
{
    return w->stream[stream].truth.count;
}

const struct entity_stream *world_entity(const struct world *w, int stream)
{
    const struct world_stream *s = &w->stream[stream];
    const struct entities *e = services_entities(w->services);
    list_for_each(it, &e->streams) {
        const struct entity_stream *st = container_of(it, struct entity_stream, link);
        if (strcmp(st->key, s->key) == 0 &&
            memcmp(st->gateway->hello.id, w->gateway[s->gateway].hello.id, GATEWAY_ID_SIZE) == 0)
            return st;
    }
    return NULL;
}

size_t world_count_actions(const struct world *w, const char *bully, const char *verb,
                           bool enforced)
{
    size_t n = 0;
    for (size_t i = 0; i < w->actions; i++) {
        const struct action_record *a = &w->action[i];
        n += strcmp(a->bully, bully) == 0 && (verb[0] == '\0' || strcmp(a->verb, verb) == 0) &&
             a->enforced == enforced;
    }
    return n;
}

size_t world_count_events(const struct world *w, const char *kind)
{
    size_t n = 0;
    for (size_t i = 0; i < w->events; i++)
        n += strcmp(w->event[i].kind, kind) == 0;
    return n;
}

void world_agree(struct world *w, const char *name, const char *volume, uint64_t latency_us,
                 uint64_t iops)
{
    struct agreement a = {.version = 1, .per = AGREEMENT_PER_GROUP, .weight = 100,
                          .compliance_window_ns = 10 * S, .compliance_over_ns = 30 * 86400 * S};
    snprintf(a.name, sizeof(a.name), "%s", name);
    snprintf(a.applies_to.volume, sizeof(a.applies_to.volume), "%s", volume);
    a.objective[0] = (struct objective){.percentile_ppm = 990000, .latency_us = latency_us,
                                        .while_iops = iops};
    a.objective_count = 1;
    char why[256];
    int err = services_agreement_put(w->services, &a, w->now, world_wall(w), why, sizeof(why));
    weir_assert(err == 0);
}

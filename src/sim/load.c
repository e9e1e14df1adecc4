/* SPDX-License-Identifier: Apache-2.0 */
/* Hosts that do I/O.
 *
 * Open loops arrive whatever is answered (Poisson, the rate possibly a sine of time), closed loops
 * keep so many outstanding, traces come at their own times. Each may go on and off. A host whose
 * gateway is gone connects again when it is back, or through the one it was moved to; an open
 * loop's I/O is lost meanwhile, a closed loop waits. No more than OUTSTANDING_MAX of a load wait at
 * once, as a host's own queue is bounded: further arrivals of an open loop are dropped by the host.
 */
#include <math.h>
#include <stdlib.h>

#include "base/assert.h"
#include "sim/private.h"

#define OUTSTANDING_MAX 4096u
#define WINDOW_LEAST    20u /* answers that a second needs to be judged */

void load_init(struct sim *s, struct sim_load *l, const struct sim_load_config *c, uint32_t index)
{
    *l = (struct sim_load){.sim = s, .config = c, .index = index, .scale = 1.0};
    list_init(&l->ios);
    l->node = &s->node[c->gateway];
    l->result.interval_ns = s->config->interval_ns > 0 ? s->config->interval_ns : S;
    l->result.seconds = (uint32_t)(s->config->duration_ns / l->result.interval_ns) + 1;
    l->result.iops = calloc(l->result.seconds, sizeof(uint32_t));
    l->result.p99_us = calloc(l->result.seconds, sizeof(uint32_t));
    weir_assert(l->result.iops != NULL);
    weir_assert(l->result.p99_us != NULL);
}

static bool load_wants(const struct sim_load *l)
{
    return l->on && l->stream != NULL && l->node->up;
}

static void load_submit(struct sim_load *l, bool write, uint64_t bytes)
{
    struct sim *s = l->sim;
    l->heard.arrived++; /* also where too many wait already: it asks for no less */
    if (l->outstanding >= OUTSTANDING_MAX)
        return;
    struct sim_io *io = sim_io_new(s);
    io->load = l;
    io->node = l->node;
    io->stream = l->stream;
    io->arrived_ns = s->now;
    io->device = &s->device[l->config->device];
    io->gate.op = write ? IO_WRITE : IO_READ;
    io->gate.bytes = bytes;
    list_push_back(&l->ios, &io->link);
    l->outstanding++;
    if (s->now >= s->config->warmup_ns)
        l->result.arrivals++;
    node_submit(l->node, io);
}

static void load_submit_any(struct sim_load *l)
{
    const struct sim_load_config *c = l->config;
    struct rng *r = &l->sim->rng;
    bool write = c->write_ppm > 0 && rng_below(r, 1000000) < c->write_ppm;
    bool large = c->large_ppm > 0 && rng_below(r, 1000000) < c->large_ppm;
    load_submit(l, write, large ? c->large_bytes : c->bytes);
}

static double load_rate(const struct sim_load *l)
{
    const struct sim_load_config *c = l->config;
    double rate = c->rate * l->scale;
    if (c->swing > 0 && c->swing_ns > 0)
        rate *= 1.0 + c->swing * sin(6.283185307179586 * (double)l->sim->now / (double)c->swing_ns);
    return rate > 0.001 ? rate : 0.001;
}

static void load_arrival(struct sim *s, const struct event *e)
{
    struct sim_load *l = e->what;
    if (e->number != l->generation || !l->on)
        return;
    if (load_wants(l))
        load_submit_any(l);
    events_add(&s->events, s->now + 1 + (uint64_t)sim_exponential(s, 1e9 / load_rate(l)),
               load_arrival, l, l->generation);
}

static void load_trace(struct sim *s, const struct event *e)
{
    struct sim_load *l = e->what;
    const struct sim_load_config *c = l->config;
    if (e->number != l->generation || !l->on)
        return;
    const struct sim_trace_io *t = &c->trace[l->trace_at];
    if (load_wants(l))
        load_submit(l, t->write, t->bytes);
    if (++l->trace_at == c->trace_count) {
        l->trace_at = 0;
        l->trace_base_ns = s->now + 1;
    }
    uint64_t at = l->trace_base_ns + (uint64_t)((double)c->trace[l->trace_at].at_ns / l->scale);
    events_add(&s->events, at > s->now ? at : s->now + 1, load_trace, l, l->generation);
}

void load_fill(struct sim_load *l)
{
    if (l->config->kind != SIM_CLOSED)
        return;
    uint32_t depth = (uint32_t)(l->config->depth * l->scale + 0.5);
    while (load_wants(l) && l->outstanding < depth)
        load_submit_any(l);
}

static void load_begin(struct sim_load *l)
{
    struct sim *s = l->sim;
    l->on = true;
    s->device[l->config->device].begun_ns = s->now;
    l->generation++;
    switch (l->config->kind) {
    case SIM_OPEN:
        events_add(&s->events, s->now + 1 + (uint64_t)sim_exponential(s, 1e9 / load_rate(l)),
                   load_arrival, l, l->generation);
        break;
    case SIM_CLOSED:
        load_fill(l);
        break;
    case SIM_TRACE:
        l->trace_base_ns = s->now;
        events_add(&s->events, s->now + 1 + l->config->trace[l->trace_at].at_ns, load_trace, l,
                   l->generation);
        break;
    }
}

static void load_toggle(struct sim *s, const struct event *e)
{
    struct sim_load *l = e->what;
    const struct sim_load_config *c = l->config;
    bool over = c->stop_ns > 0 && s->now >= c->stop_ns;
    if (l->on) {
        l->on = false;
        l->generation++;
    } else if (!over) {
        load_begin(l);
    }
    if (over || (c->on_ns == 0 && c->stop_ns == 0))
        return;
    uint64_t next = UINT64_MAX;
    if (c->on_ns > 0)
        next = s->now + (l->on ? c->on_ns : c->off_ns);
    if (c->stop_ns > 0 && c->stop_ns < next)
        next = c->stop_ns;
    if (next != UINT64_MAX)
        events_add(&s->events, next, load_toggle, l, 0);
}

void load_start(struct sim_load *l)
{
    load_connect(l);
    events_add(&l->sim->events, l->config->start_ns + 1, load_toggle, l, 0);
}

void load_connect(struct sim_load *l)
{
    const struct sim_load_config *c = l->config;
    if (!l->node->up || l->stream != NULL)
        return;
    const struct target_config *target = &l->sim->gateway_config->targets[c->device];
    l->node->before |= UINT64_C(1) << c->device;
    l->stream = stream_connect(l->node->table, target, c->host, c->volume, c->tenant,
                               UINT64_C(1) << 40, l->sim->now);
    load_fill(l);
    node_run(l->node);
}

void load_lost(struct sim_load *l)
{
    l->stream = NULL;
    while (!list_empty(&l->ios)) {
        struct sim_io *io = container_of(l->ios.next, struct sim_io, link);
        list_remove(&io->link);
        l->outstanding--;
        l->result.failed++;
        node_cancel(io);
        io->orphan = io->state == IO_AT_DEVICE;
        if (!io->orphan)
            sim_io_free(l->sim, io);
    }
    weir_assert(l->outstanding == 0);
}

/* A second, or what the scenario says instead, is over: what it was. */
void load_second(struct sim_load *l)
{
    struct sim *s = l->sim;
    struct sim_load_result *r = &l->result;
    uint64_t second = s->now / r->interval_ns;
    if (second == l->second_at)
        return;
    const struct sim_load_config *c = l->config;
    double q = c->percentile_ppm > 0 ? (double)c->percentile_ppm / 1e6 : 0.99;
    if (l->second_at < r->seconds) {
        uint64_t ns = l->second.count > 0 ? hist_quantile(&l->second, q) : 0;
        r->iops[l->second_at] = (uint32_t)(l->second.count * S / r->interval_ns);
        r->p99_us[l->second_at] = ns / US < UINT32_MAX ? (uint32_t)(ns / US) : UINT32_MAX;
        bool counts = l->second_at * r->interval_ns >= s->config->warmup_ns &&
                      l->second.count >= WINDOW_LEAST;
        if (c->objective_us > 0 && counts) {
            r->windows++;
            r->windows_met += ns <= c->objective_us * US;
        }
    }
    hist_clear(&l->second);
    l->second_at = second;
}

static void load_think(struct sim *s, const struct event *e)
{
    struct sim_load *l = e->what;
    (void)s;
    if (e->number == l->generation && load_wants(l) &&
        l->outstanding < (uint32_t)(l->config->depth * l->scale + 0.5))
        load_submit_any(l);
}

void load_done(struct sim_load *l, struct sim_io *io, uint64_t held_ns)
{
    struct sim *s = l->sim;
    uint64_t took = s->now - io->arrived_ns;
    load_second(l);
    list_remove(&io->link);
    weir_assert(l->outstanding > 0);
    l->outstanding--;
    l->heard.served++;
    l->heard.late += l->promise.late_ns > 0 && took - held_ns > l->promise.late_ns;
    hist_record(&l->second, took - held_ns);
    hist_record(&l->seen, took - held_ns);
    if (s->now >= s->config->warmup_ns) {
        l->result.served++;
        l->result.bytes += io->gate.bytes;
        hist_record(&l->result.latency, took);
        hist_record(&l->result.judged, took - held_ns);
    }
    if (l->config->kind != SIM_CLOSED || !l->on)
        return;
    if (l->config->think_ns == 0)
        load_fill(l);
    else
        events_add(&s->events,
                   s->now + 1 + (uint64_t)sim_exponential(s, (double)l->config->think_ns),
                   load_think, l, l->generation);
}

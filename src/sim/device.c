/* SPDX-License-Identifier: Apache-2.0 */
/* A target as a queue before k servers.
 *
 * Service of one I/O: (base + pages x page) of its direction, writes times their amplification, a
 * part of it exponential; reads that the cache has take cache_ns. All is divided by the speed,
 * which changes may lower. After gc_bytes written it stands still for gc_ns, as flash does that
 * collects garbage; what is in service then ends so much later. Servers may be lost: those busy
 * finish their I/O first. */
#include <math.h>
#include <stdlib.h>

#include "base/assert.h"
#include "sim/private.h"

void device_init(struct sim *s, struct sim_device *d, const struct sim_device_config *c,
                 uint32_t index)
{
    *d = (struct sim_device){
        .sim = s, .config = c, .index = index, .servers = c->servers, .speed = 1.0};
}

void device_account(struct sim_device *d)
{
    struct sim *s = d->sim;
    uint64_t from = d->accounted_ns > s->config->warmup_ns ? d->accounted_ns : s->config->warmup_ns;
    if (s->now > from)
        d->busy_ns += (double)(s->now - from) * d->busy;
    d->depth_ns += (double)(s->now - d->accounted_ns) * (d->busy + d->waiting);
    d->accounted_ns = s->now;
}

static uint64_t device_service_ns(struct sim_device *d, const struct sim_io *io)
{
    const struct sim_device_config *c = d->config;
    struct sim *s = d->sim;
    bool write = io->gate.op != IO_READ;
    double pages = ceil((double)io->gate.bytes / 4096.0);
    double mean = (double)c->base_ns[write] + pages * (double)c->page_ns[write];
    if (write && c->write_amplification > 0)
        mean *= c->write_amplification;
    if (!write && c->cache_ppm > 0 && rng_below(&s->rng, 1000000) < c->cache_ppm)
        mean = (double)c->cache_ns;
    double ns = mean * (1.0 - c->spread) + sim_exponential(s, mean * c->spread);
    return (uint64_t)(ns / d->speed) + 1;
}

static void device_answered(struct sim *s, const struct event *e)
{
    struct sim_io *io = e->what;
    if (io->orphan) {
        sim_io_free(s, io);
        return;
    }
    node_answer(io->node, io);
}

static void device_done(struct sim *s, const struct event *e)
{
    struct sim_io *io = e->what;
    struct sim_device *d = io->device;
    if (d->stalled_until_ns > s->now) {
        events_add(&s->events, d->stalled_until_ns + 1, device_done, io, 0);
        return;
    }
    device_account(d);
    weir_assert(d->busy > 0);
    d->busy--;
    if (s->now >= s->config->warmup_ns) {
        d->served++;
        d->bytes += io->gate.bytes;
    }
    events_add(&s->events, s->now + s->config->path_ns, device_answered, io, 0);
    device_kick(d);
}

static void device_begin(struct sim_device *d, struct sim_io *io)
{
    struct sim *s = d->sim;
    device_account(d);
    d->busy++;
    uint64_t ns = device_service_ns(d, io);
    if (io->gate.op == IO_WRITE && d->config->gc_bytes > 0) {
        d->written += io->gate.bytes;
        if (d->written >= d->config->gc_bytes) {
            d->written = 0;
            device_stall(d, d->config->gc_ns);
        }
    }
    events_add(&s->events, s->now + ns, device_done, io, 0);
}

static void device_kick_event(struct sim *s, const struct event *e)
{
    (void)s;
    device_kick(e->what);
}

static void queue_put(struct sim_queue *q, struct sim_io *io)
{
    io->next = NULL;
    if (q->last != NULL)
        q->last->next = io;
    else
        q->first = io;
    q->last = io;
}

static struct sim_io *queue_take(struct sim_queue *q)
{
    struct sim_io *io = q->first;
    if (io == NULL)
        return NULL;
    q->first = io->next;
    if (q->first == NULL)
        q->last = NULL;
    return io;
}

static struct sim_io *device_next(struct sim_device *d)
{
    struct sim_io *io = queue_take(&d->before);
    return io != NULL ? io : queue_take(&d->queue);
}

void device_kick(struct sim_device *d)
{
    while (d->waiting > 0 && d->busy < d->servers && d->stalled_until_ns <= d->sim->now) {
        struct sim_io *io = device_next(d);
        device_account(d);
        d->waiting--;
        device_begin(d, io);
    }
}

void device_stall(struct sim_device *d, uint64_t ns)
{
    struct sim *s = d->sim;
    uint64_t until = s->now + ns;
    if (until > d->stalled_until_ns)
        d->stalled_until_ns = until;
    events_add(&s->events, d->stalled_until_ns, device_kick_event, d, 0);
}

static void device_arrived(struct sim *s, const struct event *e)
{
    struct sim_io *io = e->what;
    struct sim_device *d = io->device;
    (void)s;
    device_account(d);
    d->waiting++;
    queue_put(io->load->goes_before ? &d->before : &d->queue, io);
    device_kick(d);
}

bool device_holds(const struct event *e)
{
    return e->fire == device_arrived || e->fire == device_done || e->fire == device_answered;
}

void device_free(struct sim_device *d)
{
    for (struct sim_io *io; (io = device_next(d)) != NULL;)
        free(io);
}

void device_take(struct sim_device *d, struct sim_io *io)
{
    struct sim *s = d->sim;
    io->device = d;
    io->state = IO_AT_DEVICE;
    events_add(&s->events, s->now + s->config->path_ns, device_arrived, io, 0);
}

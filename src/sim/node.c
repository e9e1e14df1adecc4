/* SPDX-License-Identifier: Apache-2.0 */
/* A gateway: the way of an I/O through limits, its turn, the target and back.
 *
 * What gateway/relay*.c does with bytes is done here with a pointer; streams, rules, shares, gate,
 * scheduler, window and meters are the gateway's own. One event is set for the time at which the
 * gate or a scheduler next has something, and ticks while a target is on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/private.h"

#define IOS_AT_ONCE 256u

struct sim_io *sim_io_new(struct sim *s)
{
    if (s->free_io == NULL) {
        for (uint32_t i = 0; i < IOS_AT_ONCE; i++) {
            struct sim_io *io = calloc(1, sizeof *io);
            weir_assert(io != NULL);
            io->next = s->free_io;
            s->free_io = io;
        }
    }
    struct sim_io *io = s->free_io;
    s->free_io = io->next;
    memset(io, 0, sizeof *io);
    list_init(&io->link);
    list_init(&io->gate.link);
    list_init(&io->gate.age_link);
    list_init(&io->turn.link);
    list_init(&io->turn.age_link);
    s->ios++;
    return io;
}

void sim_io_free(struct sim *s, struct sim_io *io)
{
    io->next = s->free_io;
    s->free_io = io;
}

/* ---- life ------------------------------------------------------------------------------------ */

int node_init(struct sim *s, struct sim_node *n, uint32_t index)
{
    *n = (struct sim_node){.sim = s, .index = index, .wake_ns = UINT64_MAX};
    wire_init(n);
    n->watch_count = s->gateway_config->max_streams + s->gateway_config->target_count;
    n->watch = calloc(n->watch_count, sizeof n->watch[0]);
    for (uint32_t i = 0; i < 4; i++)
        n->hello.id[i] = (uint8_t)((index + 1) >> 8 * i);
    snprintf(n->hello.name, sizeof n->hello.name, "gateway%u", index);
    snprintf(n->hello.software, sizeof n->hello.software, "weir-gateway simulated");
    snprintf(n->hello.address, sizeof n->hello.address, "127.0.0.1");
    size_t limits = s->config->agreement_count + s->config->tenant_count;
    if (s->config->gateways <= SIM_SMALL)
        n->in_force = calloc(limits + 1, sizeof n->in_force[0]);
    n->record = (struct sim_record){.known = s->config->manual_admission, .admitted = true};
    return n->watch == NULL ? -1 : 0;
}

void node_fini(struct sim_node *n)
{
    if (n->up)
        node_down(n);
    for (struct message *m; (m = message_take(&n->withheld)) != NULL;)
        message_free(m);
    wire_fini(n);
    free(n->watch);
    free(n->in_force);
}

int node_up(struct sim_node *n)
{
    struct sim *s = n->sim;
    if (n->up)
        return 0;
    n->table = stream_table_new(s->gateway_config, s->now);
    if (n->table == NULL)
        return -1;
    n->up = true;
    check_begins(n, true);
    n->boot++;
    n->epoch = n->lease_until_ns = n->before = 0;
    n->wake_ns = UINT64_MAX;
    n->parda_window = 8;
    memset(n->watch, 0, n->watch_count * sizeof n->watch[0]);
    for (uint32_t i = 0; i < 8; i++)
        n->hello.boot[i] = (uint8_t)(n->boot >> 8 * i);
    for (size_t i = 0; i < s->config->load_count; i++)
        if (s->load[i].node == n)
            load_connect(&s->load[i]);
    return 0;
}

/* A crash: nothing of it is left but what the target has. */
void node_down(struct sim_node *n)
{
    struct sim *s = n->sim;
    if (!n->up)
        return;
    for (size_t i = 0; i < s->config->load_count; i++) {
        struct sim_load *l = &s->load[i];
        if (l->stream == NULL || l->node != n)
            continue;
        struct stream *st = l->stream;
        load_lost(l);
        stream_disconnect(n->table, st, s->now);
    }
    n->up = false;
    node_session_down(n, true);
    stream_table_free(n->table);
    n->table = NULL;
}

/* ---- I/O ------------------------------------------------------------------------------------- */

static void node_go(struct sim_io *io)
{
    struct sim *s = io->node->sim;
    io->turn.dispatched_ns = s->now;
    check_go(s, io);
    device_take(io->device, io);
}

static void node_turn(struct sim_io *io)
{
    struct sim *s = io->node->sim;
    check_let_go(s, io);
    io->state = IO_AT_TURN;
    io->turn.op = io->gate.op;
    io->turn.bytes = io->gate.bytes;
    if (sched_submit(io->stream->port->sched, &io->stream->turn, &io->turn, s->now))
        node_go(io);
}

static void node_wake(struct sim *s, const struct event *e)
{
    struct sim_node *n = e->what;
    (void)s;
    if (!n->up || n->wake_ns != e->at_ns || n->boot != e->number)
        return;
    n->wake_ns = UINT64_MAX;
    node_run(n);
}

/* As the server found it, where it did for all gateways together: by that they are controlled. */
static uint64_t parallelism_milli(struct sim_node *n, const struct sim_device *d)
{
    const struct services *all = NULL;
    if (sim_scheme_is_ours(n->sim) && n->sim->server_is_up)
        all = moves_process(n)->services;
    uint64_t found = all != NULL ? services_parallelism_milli(all, d->config->name) : 0;
    return found > 0 ? found : stream_port(n->table, d->index)->window.parallelism_milli;
}

static void node_tick(struct sim *s, const struct event *e)
{
    struct sim_node *n = e->what;
    n->ticking = false;
    if (!n->up || n->boot != e->number)
        return;
    for (uint32_t i = 0; i < s->config->device_count; i++) {
        struct target *port = stream_port(n->table, i);
        if (!regulator_sets_window(s))
            target_tick(port, s->now);
        if (port->on && s->now >= s->config->warmup_ns) {
            s->device[i].slots_sum += (double)target_window(port) / 1000.0;
            s->device[i].k_sum += (double)parallelism_milli(n, &s->device[i]) / 1000.0;
            s->device[i].slots_samples++;
        }
    }
    node_run(n);
}

static bool node_is_on(struct sim_node *n)
{
    for (uint32_t i = 0; i < n->sim->config->device_count; i++)
        if (stream_port(n->table, i)->on)
            return true;
    return false;
}

void node_run(struct sim_node *n)
{
    struct sim *s = n->sim;
    for (struct gate_io *io; (io = gate_poll(stream_gate(n->table), s->now)) != NULL;)
        node_turn(container_of(io, struct sim_io, gate));
    uint64_t next = gate_next_ns(stream_gate(n->table));
    for (uint32_t i = 0; i < s->config->device_count; i++) {
        struct sched *sched = stream_port(n->table, i)->sched;
        if (!sched_pending(sched))
            continue;
        for (struct sched_io *io; (io = sched_poll(sched, s->now)) != NULL;)
            node_go(container_of(io, struct sim_io, turn));
        uint64_t at = sched_next_ns(sched);
        next = at < next ? at : next;
    }
    if (next != UINT64_MAX && next < n->wake_ns) {
        n->wake_ns = next > s->now ? next : s->now + 1;
        events_add(&s->events, n->wake_ns, node_wake, n, n->boot);
    }
    if (!n->ticking && node_is_on(n)) {
        n->ticking = true;
        events_add(&s->events, s->now + TARGET_TICK_NS, node_tick, n, n->boot);
    }
}

void node_submit(struct sim_node *n, struct sim_io *io)
{
    struct sim *s = n->sim;
    io->state = IO_AT_GATE;
    io->gate.arrived_ns = s->now;
    meter_arrive(io->stream->meter, io->gate.op, io->gate.bytes);
    if (gate_submit(stream_gate(n->table), &io->stream->flow, &io->gate, s->now))
        node_turn(io);
    node_run(n);
}

void node_cancel(struct sim_io *io)
{
    struct sim *s = io->node->sim;
    if (io->state == IO_AT_DEVICE)
        target_complete(io->stream->port, &io->turn, 0, s->now);
    else if (io->state == IO_AT_GATE)
        gate_cancel(stream_gate(io->node->table), &io->gate, s->now);
    else
        sched_cancel(io->stream->port->sched, &io->turn, s->now);
    meter_drop(io->stream->meter, io->gate.op);
}

void node_answer(struct sim_node *n, struct sim_io *io)
{
    struct sim *s = n->sim;
    struct stream *st = io->stream;
    struct sim_load *l = io->load;
    uint64_t total = s->now - io->arrived_ns;
    uint64_t held = io->gate.was_held ? io->gate.released_ns - io->gate.arrived_ns : 0;
    uint64_t target = s->now - io->turn.dispatched_ns;
    meter_complete(st->meter, io->gate.op, io->gate.bytes, false, held, target, total);
    target_complete(st->port, &io->turn, total - held, s->now);
    regulator_answer(n, target);
    load_done(l, io, held);
    sim_io_free(s, io);
    node_run(n);
}

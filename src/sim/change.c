/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to targets, loads, gateways, server and network while the simulation runs. */
#include <string.h>

#include "base/assert.h"
#include "sim/private.h"

#define LATE_NS_MAX (4 * S)

static void load_move(struct sim_load *l, struct sim_node *to)
{
    struct sim *s = l->sim;
    struct sim_node *from = l->node;
    if (from == to)
        return;
    if (l->stream != NULL) {
        struct stream *st = l->stream;
        load_lost(l);
        stream_disconnect(from->table, st, s->now);
        node_run(from);
    }
    l->node = to;
    load_connect(l);
}

static void gateway_up(struct sim_node *n)
{
    if (n->up)
        return;
    int r = node_up(n);
    weir_assert(r == 0);
    if (sim_scheme_is_ours(n->sim) && n->sim->server_is_up && !n->partitioned)
        node_session_up(n);
    else if (sim_scheme_is_ours(n->sim))
        node_reconnect(n);
}

static void change(struct sim *s, const struct event *e)
{
    const struct sim_change *c = e->what;
    s->last_fault_ns = s->now;
    promises_unsettled(s);
    switch (c->kind) {
    case SIM_DEVICE_SPEED:
        s->device[c->index].speed = (double)c->value / 1e6;
        break;
    case SIM_DEVICE_SERVERS:
        s->device[c->index].servers = (uint32_t)c->value;
        device_kick(&s->device[c->index]);
        break;
    case SIM_DEVICE_STALL:
        device_stall(&s->device[c->index], (uint64_t)c->value);
        break;
    case SIM_LOAD_MOVE:
        load_move(&s->load[c->index], &s->node[c->value]);
        break;
    case SIM_LOAD_RATE:
        s->load[c->index].scale = (double)c->value / 1e6;
        load_fill(&s->load[c->index]);
        break;
    case SIM_SERVER_DOWN:
        server_down(s);
        break;
    case SIM_SERVER_UP:
        if (sim_scheme_is_ours(s)) {
            int r = server_up(s, NULL);
            weir_assert(r == 0);
        }
        break;
    case SIM_GATEWAY_DOWN:
        node_down(&s->node[c->index]);
        break;
    case SIM_GATEWAY_UP:
        gateway_up(&s->node[c->index]);
        break;
    case SIM_PARTITION:
        s->node[c->index].partitioned = true;
        break;
    case SIM_HEAL:
        s->node[c->index].partitioned = false;
        break;
    case SIM_CLOCK_STEP:
        s->wall_step_us += c->value;
        break;
    case SIM_AGREEMENT_REMOVE:
        store_agreement_change(s, c->index, 0, true);
        break;
    case SIM_AGREEMENT_LIMIT:
        store_agreement_change(s, c->index, (uint64_t)c->value, false);
        break;
    case SIM_STORE:
        s->store_ns = c->value < 0 ? SIM_STORE_SILENT : (uint64_t)c->value;
        break;
    case SIM_PROCESS_STALL:
        process_stand_still(&s->process[c->index], (uint64_t)c->value);
        break;
    case SIM_PROCESSES:
        moves_processes(s, (uint32_t)c->value);
        break;
    case SIM_WITHHOLD:
        server_withhold(&s->node[c->index]);
        break;
    case SIM_LATE:
        server_late(&s->node[c->index], LATE_NS_MAX);
        break;
    case SIM_TEAR:
        s->node[c->index].tear[c->value == 0] = true;
        break;
    case SIM_DRIBBLE:
        s->node[c->index].dribble_ns = (uint64_t)c->value;
        break;
    }
}

void changes_start(struct sim *s)
{
    for (size_t i = 0; i < s->config->change_count; i++)
        events_add(&s->events, s->config->change[i].at_ns + 2, change,
                   (void *)(uintptr_t)&s->config->change[i], 0);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The acceptor's part: which SLA process has which gateway.
 *
 * The routing table is the server's own (server/monitor/route.c). A gateway that shall be elsewhere
 * moves as server/move.h says: what it sends meanwhile waits; the process that has it lets it go,
 * in one parcel; the other takes the parcel up; what waited goes there. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/threads.h"
#include "sim/private.h"

#define MOVES_MAX     8u
#define BALANCE_EVERY (5 * S)

static struct route_gateway *routed(const struct sim_node *n)
{
    return route_find(n->sim->route, n->hello.id);
}

static void move_begin(struct sim *s, struct route_gateway *g)
{
    struct sim_node *n = sim_node_of(s, g->id);
    struct message m = {.kind = PROCESS_EXPORT,
                        .node = n,
                        .process = g->place.process,
                        .number = route_wanted(g).process};
    route_move_begin(s->route, g);
    s->moving++;
    s->result->moves++;
    server_post(s, &m, server_hop_ns(&s->thread_rng));
}

static void pump(struct sim *s)
{
    struct route_gateway *g;
    while (s->moving < MOVES_MAX && (g = route_astray(s->route)) != NULL)
        move_begin(s, g);
}

static void balance(struct sim *s, const struct event *e)
{
    bool busy[THREADS_MAX_SERVICES] = {false};
    if (!s->server_is_up || s->life != e->number)
        return;
    for (uint32_t i = 0; i < s->processes; i++)
        busy[i] = s->now < s->process[i].still_until_ns;
    (void)route_balance(s->route, busy, MOVES_MAX, s->now);
    pump(s);
    events_add(&s->events, s->now + BALANCE_EVERY, balance, NULL, s->life);
}

void moves_start(struct sim *s)
{
    s->route = route_new(1, s->running, 2 * (size_t)s->config->gateways);
    weir_assert(s->route != NULL);
    if (s->processes > 1)
        events_add(&s->events, s->now + BALANCE_EVERY, balance, NULL, s->life);
}

void moves_session(struct sim_node *n, bool up)
{
    struct sim *s = n->sim;
    struct route_gateway *g = route_add(s->route, n->hello.id, n->hello.name, -1, NULL);
    weir_assert(g != NULL);
    g->sessions = up;
    g->session = n->hello.session;
}

bool moves_moving(const struct sim_node *n)
{
    const struct route_gateway *g = routed(n);
    return g != NULL && g->moving;
}

struct sim_process *moves_process(struct sim_node *n)
{
    const struct route_gateway *g = routed(n);
    return &n->sim->process[g != NULL ? g->place.process : 0];
}

void moves_landed(struct sim_node *n, uint32_t process)
{
    struct sim *s = n->sim;
    struct route_gateway *g = routed(n);
    weir_assert(g != NULL);
    weir_assert(s->moving > 0);
    s->moving--;
    promises_unsettled(s);
    route_move_end(s->route, g, true,
                   (struct route_place){.pair = 0, .process = (uint16_t)process});
    for (struct message *m; !g->moving && (m = message_take(&n->held)) != NULL;)
        process_take(&s->process[process], m);
    pump(s);
}

/* Of a storage's name the server takes a hash. */
static uint64_t target_number(const struct sim *s, const char *uri)
{
    size_t i = 0;
    while (i < s->gateway_config->target_count &&
           strcmp(s->gateway_config->targets[i].uri, uri) != 0)
        i++;
    weir_assert(i < s->gateway_config->target_count);
    return i;
}

void moves_targets(struct sim_node *n, const struct entity_gateway *g)
{
    const struct entity_target *target[ROUTE_TARGETS_MAX];
    uint64_t hash[ROUTE_TARGETS_MAX];
    struct sim *s = n->sim;
    if (s->route == NULL)
        return; /* the server ends: nobody asks where who is */
    size_t count = services_gateway_targets(g, target, ROUTE_TARGETS_MAX);
    for (size_t i = 0; i < count; i++)
        hash[i] = target_number(s, target[i]->uri);
    struct route_gateway *r = routed(n);
    if (r == NULL)
        return;
    uint32_t before = route_group_number(r);
    route_targets(s->route, r, hash, count);
    route_load(s->route, r, 1 + g->stream_count);
    if (route_group_number(r) != before) {
        struct message m = {.kind = PROCESS_SUBGROUP,
                            .node = n,
                            .process = r->place.process,
                            .number = route_group_number(r)};
        server_post(s, &m, server_hop_ns(&s->thread_rng));
    }
    pump(s);
}

void moves_known(struct sim_node *n, uint32_t process)
{
    struct sim *s = n->sim;
    const struct route_gateway *g =
        route_add(s->route, n->hello.id, n->hello.name, (int)process, NULL);
    if (g != NULL && (g->place.process == process || g->moving))
        return;
    struct message m = {.kind = PROCESS_FORGET, .node = n, .process = process};
    server_post(s, &m, server_hop_ns(&s->thread_rng));
}

void moves_processes(struct sim *s, uint32_t running)
{
    s->running = running;
    if (!s->server_is_up)
        return;
    route_resize(s->route, 1, running, s->now);
    pump(s);
}

void moves_check(struct sim *s)
{
    uint32_t at[SIM_DEVICES_MAX] = {0};
    if (!route_settled(s->route))
        check_broken(s, "gateways still move");
    for (uint32_t i = 0; i < s->config->gateways; i++) {
        const struct sim_node *n = &s->node[i];
        uint32_t process = moves_process(&s->node[i])->index + 1;
        if (!n->connected)
            continue;
        for (uint32_t k = 0; k < s->config->device_count; k++) {
            bool before = !s->config->own_targets || (n->before >> k & 1) != 0;
            if (before && at[k] != 0 && at[k] != process)
                check_broken(s, "%s is planned by two SLA processes", s->config->device[k].name);
            at[k] = before ? process : at[k];
        }
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The SLA process, and the network between it and the gateways.
 *
 * Messages of one direction of a session keep their order, as over TCP: each takes the path's time
 * and as much again at random, but none overtakes the one before. Reports, polls and surges may be
 * lost (what a full mailbox drops is lost); controls are not: where the network fails for long, the
 * session ends. A partition swallows everything. A message of a session that is over is void. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "sim/private.h"

enum message_kind { TO_POLL, TO_CONTROL, FROM_REPORT, FROM_ACK, FROM_SURGE, FROM_UP, FROM_DOWN };

struct message {
    enum message_kind kind;
    struct sim_node *node;
    uint64_t session, number;
    int status;
    void *body;
    struct gateway_hello hello;
};

void sim_report_free(struct report *r)
{
    for (size_t i = 0; i < r->stream_count; i++)
        for (size_t k = 0; k < r->stream[i].hist_count; k++)
            free(r->stream[i].hist[k].bucket);
    free(r->stream);
    free(r->target);
    free(r);
}

static void message_free(struct message *m)
{
    if (m->kind == FROM_REPORT)
        sim_report_free(m->body);
    else if (m->kind == TO_CONTROL)
        control_update_free(m->body);
    free(m);
}

static void deliver_to_node(struct message *m)
{
    struct sim_node *n = m->node;
    if (!n->up || !n->connected || n->hello.session != m->session || n->partitioned)
        return;
    if (m->kind == TO_POLL)
        node_polled(n, m->number);
    else
        node_controls(n, m->body);
}

static void deliver_to_server(struct message *m)
{
    struct sim *s = m->node->sim;
    struct services *v = s->services;
    int64_t wall = sim_wall_us(s);
    if (v == NULL || (m->node->partitioned && m->kind != FROM_DOWN))
        return;
    switch (m->kind) {
    case FROM_REPORT:
        services_report(v, m->body, s->now, wall);
        break;
    case FROM_ACK:
        services_ack(v, m->session, m->number, m->status, s->now, wall);
        break;
    case FROM_SURGE:
        services_surge(v, m->session, (uint32_t)m->number, s->now, wall);
        break;
    case FROM_UP:
        services_gateway_up(v, &m->hello, s->now, wall);
        break;
    case FROM_DOWN:
        services_gateway_down(v, m->session, "closed by the peer", s->now, wall);
        break;
    case TO_POLL:
    case TO_CONTROL:
        break;
    }
    services_tick(v, s->now, wall);
    server_tick_set(s);
}

static void arrived(struct sim *s, const struct event *e)
{
    struct message *m = e->what;
    (void)s;
    if (m->kind == TO_POLL || m->kind == TO_CONTROL)
        deliver_to_node(m);
    else
        deliver_to_server(m);
    message_free(m);
}

void sim_drop(const struct event *e)
{
    if (e->fire == arrived)
        message_free(e->what);
    else if (device_holds(e))
        free(e->what);
}

static void post(struct sim_node *n, struct message m)
{
    struct sim *s = n->sim;
    struct message *copy = malloc(sizeof *copy);
    weir_assert(copy != NULL);
    *copy = m;
    copy->node = n;
    copy->session = n->hello.session;
    uint64_t delay = s->config->control_ns + rng_below(&s->rng, s->config->control_ns + 1);
    bool to = m.kind == TO_POLL || m.kind == TO_CONTROL;
    bool may_be_lost = m.kind == TO_POLL || m.kind == FROM_REPORT || m.kind == FROM_SURGE;
    bool lost =
        may_be_lost && s->config->loss_ppm > 0 && rng_below(&s->rng, 1000000) < s->config->loss_ppm;
    uint64_t *last = to ? &n->last_to_ns : &n->last_from_ns;
    uint64_t at = s->now + delay;
    at = at > *last ? at : *last + 1;
    if (lost || (n->partitioned && m.kind != FROM_DOWN)) {
        if (lost && to && !n->partitioned)
            n->heard_ns = s->now; /* heartbeats go on */
        message_free(copy);
        return;
    }
    *last = at;
    events_add(&s->events, at, arrived, copy, 0);
}

void server_report(struct sim_node *n, struct report *r)
{
    post(n, (struct message){.kind = FROM_REPORT, .body = r});
}

void server_ack(struct sim_node *n, uint64_t epoch, int status)
{
    post(n, (struct message){.kind = FROM_ACK, .number = epoch, .status = status});
}

void server_surge(struct sim_node *n, uint32_t stream)
{
    n->sim->result->surges++;
    post(n, (struct message){.kind = FROM_SURGE, .number = stream});
}

void server_session(struct sim_node *n, bool up)
{
    post(n, (struct message){.kind = up ? FROM_UP : FROM_DOWN, .hello = n->hello});
}

/* ---- what the services say ------------------------------------------------------------------- */

static struct sim_node *node_of(struct sim *s, uint64_t session)
{
    for (uint32_t i = 0; i < s->config->gateways; i++)
        if (s->node[i].connected && s->node[i].hello.session == session)
            return &s->node[i];
    return NULL;
}

static int sink_poll(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *p)
{
    struct sim *s = ctx;
    struct sim_node *n = node_of(s, session);
    (void)pair;
    s->result->polls++;
    if (n != NULL)
        post(n, (struct message){.kind = TO_POLL, .number = p->seq});
    return 0;
}

static int sink_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    struct sim *s = ctx;
    struct sim_node *n = node_of(s, session);
    (void)pair;
    s->result->controls++;
    if (n != NULL)
        post(n, (struct message){.kind = TO_CONTROL, .body = u});
    else
        control_update_free(u);
    return 0;
}

static void sink_session_end(void *ctx, uint64_t session, uint16_t pair, const char *why)
{
    struct sim_node *n = node_of(ctx, session);
    (void)pair;
    (void)why;
    if (n != NULL)
        node_session_down(n, false);
}

static void sink_sample(void *ctx, const struct sample_record *r)
{
    (void)ctx;
    (void)r;
}

static void sink_action(void *ctx, const struct action_record *a)
{
    struct sim *s = ctx;
    struct sim_result *r = s->result;
    r->actions++;
    r->actions_enforced += a->enforced;
    if (r->action_count < SIM_ACTIONS_KEPT)
        r->action[r->action_count++] = *a;
}

static void sink_event(void *ctx, const struct event_record *e)
{
    (void)ctx;
    (void)e;
}

static void sink_target(void *ctx, const char *gateway, const char *target, const char *uri)
{
    (void)ctx;
    (void)gateway;
    (void)target;
    (void)uri;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void tick(struct sim *s, const struct event *e)
{
    if (s->services == NULL || s->tick_ns != e->at_ns)
        return;
    s->tick_ns = UINT64_MAX;
    services_tick(s->services, s->now, sim_wall_us(s));
    check_counts(s);
    server_tick_set(s);
}

void server_tick_set(struct sim *s)
{
    uint64_t next = services_next_ns(s->services);
    next = next > s->now ? next : s->now + 1;
    if (next == UINT64_MAX || next >= s->tick_ns)
        return;
    s->tick_ns = next;
    events_add(&s->events, next, tick, NULL, 0);
}

static int documents(struct sim *s, struct text *why)
{
    const struct sim_config *c = s->config;
    char words[512];
    int r = 0;
    for (size_t i = 0; r == 0 && i < c->tenant_count; i++)
        r = services_tenant_put(s->services, &c->tenant[i], s->now, sim_wall_us(s));
    for (size_t i = 0; r == 0 && i < c->policy_count; i++)
        r = services_policy_put(s->services, &c->policy[i], s->now, sim_wall_us(s));
    for (size_t i = 0; r == 0 && i < c->agreement_count; i++) {
        words[0] = '\0';
        if (s->agreement_removed[i])
            continue;
        r = services_agreement_put(s->services, &c->agreement[i], s->now, sim_wall_us(s), words,
                                   sizeof words);
        if (r != 0)
            text_printf(why, "agreement %s: %s\n", c->agreement[i].name,
                        words[0] != '\0' ? words : weir_strerror(r));
    }
    return r;
}

int server_up(struct sim *s, struct text *why)
{
    const struct sim_config *c = s->config;
    if (s->services != NULL)
        return 0;
    struct services_config config = {
        .period_ns = c->period_ns > 0 ? c->period_ns : S,
        .lease_ns = c->lease_ns > 0 ? c->lease_ns : 10 * S,
        .observe = c->observe,
        .max_gateways = c->gateways + 1,
        .max_streams = (uint32_t)c->load_count * 2 + 16,
        .processes = 1,
        .first_epoch = (uint64_t)sim_wall_us(s),
    };
    struct services_sink sink = {
        .ctx = s,
        .poll = sink_poll,
        .controls = sink_controls,
        .session_end = sink_session_end,
        .sample = sink_sample,
        .action = sink_action,
        .event = sink_event,
        .target_seen = sink_target,
    };
    s->services = services_new(&config, &sink);
    weir_assert(s->services != NULL);
    s->tick_ns = UINT64_MAX;
    int r = documents(s, why);
    services_loaded(s->services, s->now, sim_wall_us(s));
    server_tick_set(s);
    return r;
}

void server_down(struct sim *s)
{
    if (s->services == NULL)
        return;
    struct services *v = s->services;
    s->services = NULL;
    s->tick_ns = UINT64_MAX;
    services_free(v);
    for (uint32_t i = 0; i < s->config->gateways; i++)
        node_session_down(&s->node[i], false);
}

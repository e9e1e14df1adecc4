/* SPDX-License-Identifier: Apache-2.0 */
/* SLA processes: services/ as server/sla.c drives it, without thread and mailbox.
 *
 * A process takes a message, then does what is due. One that stands still takes nothing and does
 * nothing until it goes on; what came meanwhile is taken then, in order. What it sends to another
 * process, or lets go of or takes up of a gateway that moves, is a message as well. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "sim/private.h"

/* Of messages between processes: the mailbox is full, and it is tried again. */
#define FULL_PPM 5000u

struct sim_node *sim_node_of(struct sim *s, const uint8_t id[GATEWAY_ID_SIZE])
{
    uint32_t index = 0;
    for (uint32_t i = 0; i < 4; i++)
        index |= (uint32_t)id[i] << 8 * i;
    weir_assert(index > 0 && index <= s->config->gateways);
    return &s->node[index - 1];
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
    struct sim *s = ((struct sim_process *)ctx)->sim;
    struct sim_node *n = node_of(s, session);
    (void)pair;
    s->result->polls++;
    if (n != NULL)
        server_poll(n, p->seq);
    return 0;
}

static int sink_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    struct sim *s = ((struct sim_process *)ctx)->sim;
    struct sim_node *n = node_of(s, session);
    (void)pair;
    s->result->controls++;
    if (n != NULL)
        server_controls(n, u);
    else
        control_update_free(u);
    return 0;
}

static void sink_session_end(void *ctx, uint64_t session, uint16_t pair, const char *why)
{
    struct sim_node *n = node_of(((struct sim_process *)ctx)->sim, session);
    (void)pair;
    (void)why;
    if (n != NULL)
        node_session_down(n, false);
}

static void sink_action(void *ctx, const struct action_record *a)
{
    struct sim_result *r = ((struct sim_process *)ctx)->sim->result;
    r->actions++;
    r->actions_enforced += a->enforced;
    if (r->action_count < SIM_ACTIONS_KEPT)
        r->action[r->action_count++] = *a;
}

static void sink_targets(void *ctx, const struct entity_gateway *g)
{
    struct sim_process *p = ctx;
    moves_targets(sim_node_of(p->sim, g->hello.id), g);
}

static void sink_gateway(void *ctx, const struct entity_gateway *g)
{
    struct sim_process *p = ctx;
    store_record(sim_node_of(p->sim, g->hello.id), p, g);
}

static int sink_share(void *ctx, struct share_batch *b)
{
    struct sim_process *p = ctx;
    struct sim *s = p->sim;
    struct rng *rng = b->heard ? &s->start_rng : &s->thread_rng;
    if (rng_below(rng, 1000000) < FULL_PPM)
        return WEIR_E_FULL;
    check_talk(p);
    struct message m = {.kind = PROCESS_SHARE, .from = b->from, .process = b->to, .body = b};
    server_post(s, &m, server_hop_ns(rng));
    return 0;
}

/* ---- messages -------------------------------------------------------------------------------- */

static void go_on(struct sim_process *p);

static void tick(struct sim *s, const struct event *e)
{
    struct sim_process *p = e->what;
    if (p->services == NULL || p->tick_ns != e->at_ns)
        return;
    p->tick_ns = UINT64_MAX;
    if (s->now < p->still_until_ns)
        return; /* what is due then is done when it goes on */
    go_on(p);
    check_counts(s);
}

/* Do what is due, and say when something is next. */
static void go_on(struct sim_process *p)
{
    struct sim *s = p->sim;
    services_tick(p->services, s->now, sim_wall_us(s));
    obey_look(p);
    uint64_t next = services_next_ns(p->services);
    next = next > s->now ? next : s->now + 1;
    if (next == UINT64_MAX || next >= p->tick_ns)
        return;
    p->tick_ns = next;
    events_add(&s->events, next, tick, p, 0);
}

static void export(struct sim_process *p, struct sim_node *n, const struct message *m)
{
    struct sim *s = p->sim;
    struct gateway_parcel *parcel =
        services_gateway_export(p->services, n->hello.id, s->now, sim_wall_us(s));
    struct message on = {
        .kind = PROCESS_IMPORT, .node = n, .process = (uint32_t)m->number, .body = parcel};
    server_post(s, &on, server_hop_ns(&s->thread_rng) + server_hop_ns(&s->thread_rng));
}

static void import(struct sim_process *p, struct message *m)
{
    struct sim *s = p->sim;
    if (m->body != NULL)
        services_gateway_import(p->services, m->body, 0, 1, s->now, sim_wall_us(s));
    m->body = NULL;
    moves_landed(m->node, p->index);
}

static void handle(struct sim_process *p, struct message *m)
{
    struct sim *s = p->sim;
    struct services *v = p->services;
    int64_t wall = sim_wall_us(s);
    switch (m->kind) {
    case FROM_REPORT:
        services_report(v, m->body, s->now, wall);
        break;
    case FROM_ACK:
        services_ack(v, m->session, m->number, m->status, s->now, wall);
        break;
    case FROM_SURGE:
        services_surge(v, m->session, s->now, wall);
        break;
    case FROM_UP:
        services_gateway_up(v, &m->hello, s->now, wall);
        break;
    case FROM_DOWN:
        services_gateway_down(v, m->session, "closed by the peer", s->now, wall);
        break;
    case PROCESS_SHARE:
        services_share(v, m->body, s->now, wall);
        break;
    case PROCESS_EXPORT:
        export(p, m->node, m);
        break;
    case PROCESS_IMPORT:
        import(p, m);
        break;
    case PROCESS_FORGET:
        services_gateway_forget(v, m->node->hello.id);
        break;
    case PROCESS_SUBGROUP:
        services_subgroup(v, m->node->hello.id, (uint32_t)m->number);
        break;
    case PROCESS_LOADED:
        store_answered(p, m);
        break;
    case PROCESS_DOCUMENT:
        store_changed(p, m);
        break;
    case TO_POLL:
    case TO_CONTROL:
        break;
    }
}

static void take(struct sim_process *p, struct message *m)
{
    if (m->kind == PROCESS_IMPORT && !p->loaded) { /* what is agreed is not known yet */
        message_put(&p->arrived, m);
        return;
    }
    handle(p, m);
    message_free(m);
    while (p->loaded && (m = message_take(&p->arrived)) != NULL) {
        handle(p, m);
        message_free(m);
    }
    go_on(p);
}

void process_take(struct sim_process *p, struct message *m)
{
    if (p->sim->now < p->still_until_ns)
        message_put(&p->inbox, m);
    else
        take(p, m);
}

static void moved_on(struct sim *s, const struct event *e)
{
    struct sim_process *p = e->what;
    if (p->services == NULL || s->life != e->number || s->now < p->still_until_ns)
        return;
    promises_unsettled(s);
    for (struct message *m; (m = message_take(&p->inbox)) != NULL;)
        take(p, m);
    go_on(p);
}

void process_stand_still(struct sim_process *p, uint64_t ns)
{
    struct sim *s = p->sim;
    if (p->services == NULL)
        return;
    uint64_t until = s->now + ns;
    p->still_until_ns = until > p->still_until_ns ? until : p->still_until_ns;
    events_add(&s->events, p->still_until_ns, moved_on, p, s->life);
}

/* ---- life ------------------------------------------------------------------------------------ */

static int process_up(struct sim *s, struct sim_process *p, struct text *why)
{
    const struct sim_config *c = s->config;
    struct services_config config = {
        .period_ns = c->period_ns > 0 ? c->period_ns : S,
        .lease_ns = c->lease_ns > 0 ? c->lease_ns : 10 * S,
        .observe = c->observe,
        .manual_admission = c->manual_admission,
        .max_gateways = c->gateways + 1,
        .max_streams = (uint32_t)c->load_count * 2 + 16,
        .process = p->index,
        .processes = s->processes,
        .processes_at_start = s->processes > 1 ? s->processes : 0,
        .first_epoch = (uint64_t)sim_wall_us(s),
    };
    struct services_sink sink = {
        .ctx = p,
        .poll = sink_poll,
        .controls = sink_controls,
        .session_end = sink_session_end,
        .action = sink_action,
        .targets = sink_targets,
        .gateway = sink_gateway,
        .share = s->processes > 1 ? sink_share : NULL,
    };
    p->services = services_new(&config, &sink);
    weir_assert(p->services != NULL);
    p->tick_ns = UINT64_MAX;
    int r = 0;
    if (s->store_ns == 0) {
        r = store_read(p, why);
    } else {
        for (int what = 0; what < LOAD_COUNT; what++)
            store_ask(p, (enum sim_load_what)what);
    }
    go_on(p);
    return r;
}

int server_up(struct sim *s, struct text *why)
{
    int r = 0;
    if (s->server_is_up)
        return 0;
    s->server_is_up = true;
    for (uint32_t i = 0; s->node != NULL && i < s->config->gateways; i++)
        check_begins(&s->node[i], false);
    s->life++;
    moves_start(s);
    for (uint32_t i = 0; r == 0 && i < s->processes; i++) {
        s->process[i] = (struct sim_process){.sim = s, .index = i};
        r = process_up(s, &s->process[i], why);
    }
    return r;
}

void server_down(struct sim *s)
{
    if (!s->server_is_up)
        return;
    s->server_is_up = false;
    route_free(s->route);
    s->route = NULL;
    for (uint32_t i = 0; i < s->processes; i++) {
        struct sim_process *p = &s->process[i];
        services_free(p->services);
        p->services = NULL;
        for (struct message *m; (m = message_take(&p->inbox)) != NULL;)
            message_free(m);
        for (struct message *m; (m = message_take(&p->arrived)) != NULL;)
            message_free(m);
    }
    s->moving = 0;
    for (uint32_t i = 0; s->node != NULL && i < s->config->gateways; i++) {
        for (struct message *m; (m = message_take(&s->node[i].held)) != NULL;)
            message_free(m);
        node_session_down(&s->node[i], false);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The network between gateways and server, and messages within the server.
 *
 * Messages of one direction of a session keep their order, as over TCP: each takes the path's time
 * and as much again at random, but none overtakes the one before. Reports, polls and surges may be
 * lost (what a full mailbox drops is lost); controls are not: where the network fails for long, the
 * session ends. A partition swallows everything. A message of a session that is over is void. Each
 * is a frame of bytes, which may come in pieces or be torn: wire.c.
 *
 * Worse than any TCP: from its first set of controls on, what a session sends and gets may be
 * withheld until it is over, and come all the same, in any order: just as the next session begins,
 * before its own first set, or later. Whoever gets it must see that it is of another session. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/private.h"

#define HOP_NS_MAX (2 * MS) /* of a message from thread to thread */

static void report_drop(struct report *r)
{
    for (size_t i = 0; i < r->stream_count; i++)
        for (size_t k = 0; k < r->stream[i].hist_count; k++)
            free(r->stream[i].hist[k].bucket);
    free(r->stream);
    free(r->target);
    free(r->limit);
    free(r);
}

void message_free(struct message *m)
{
    if (m->kind == FROM_REPORT)
        report_drop(m->body);
    else if (m->kind == TO_CONTROL)
        control_update_free(m->body);
    else if (m->kind == PROCESS_IMPORT)
        services_parcel_free(m->body);
    else
        free(m->body);
    free(m);
}

void message_put(struct message_queue *q, struct message *m)
{
    m->next = NULL;
    if (q->last == NULL)
        q->first = m;
    else
        q->last->next = m;
    q->last = m;
}

struct message *message_take(struct message_queue *q)
{
    struct message *m = q->first;
    if (m == NULL)
        return NULL;
    q->first = m->next;
    if (q->first == NULL)
        q->last = NULL;
    return m;
}

/* ---- delivery -------------------------------------------------------------------------------- */

/* Takes @m. */
static void deliver_to_node(struct message *m)
{
    struct sim_node *n = m->node;
    bool hears = n->up && n->connected && !n->partitioned;
    if (hears && m->kind == TO_CONTROL)
        node_controls(n, m->body, m->session);
    else if (hears && n->hello.session == m->session)
        node_polled(n, m->number);
    message_free(m);
}

/* Takes @m. */
static void deliver_to_server(struct message *m)
{
    struct sim_node *n = m->node;
    struct sim *s = n->sim;
    if (!s->server_is_up || (n->partitioned && m->kind != FROM_DOWN)) {
        message_free(m);
        return;
    }
    if (m->kind == FROM_UP)
        moves_session(n, true);
    else if (m->kind == FROM_DOWN && m->session == n->hello.session)
        moves_session(n, false);
    if (moves_moving(n))
        message_put(&n->held, m);
    else
        process_take(moves_process(n), m);
}

void server_deliver(struct message *m)
{
    check_whole(m->node->sim, m);
    if (m->kind == TO_POLL || m->kind == TO_CONTROL)
        deliver_to_node(m);
    else
        deliver_to_server(m);
}

static void arrived(struct sim *s, const struct event *e)
{
    struct message *m = e->what;
    bool within = m->kind >= PROCESS_SHARE;
    s->result->late_frames += m->late;
    if (within && (!s->server_is_up || m->life != s->life))
        message_free(m);
    else if (within)
        process_take(&s->process[m->process], m);
    else
        server_deliver(m);
}

void sim_drop(const struct event *e)
{
    if (e->fire == arrived || wire_holds(e))
        message_free(e->what);
    else if (device_holds(e) || store_holds(e))
        free(e->what);
}

static struct message *message_copy(const struct message *m)
{
    struct message *copy = malloc(sizeof *copy);
    weir_assert(copy != NULL);
    *copy = *m;
    return copy;
}

/* ---- between gateways and server ------------------------------------------------------------- */

static void post(struct sim_node *n, struct message m)
{
    struct sim *s = n->sim;
    struct message *copy = message_copy(&m);
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
    if (n->withhold_next && m.kind == TO_CONTROL) {
        n->withhold_next = false;
        n->withheld_session = copy->session;
    }
    if (n->withheld_session == copy->session && m.kind != FROM_DOWN) {
        message_put(&n->withheld, copy);
        return;
    }
    if (m.kind == FROM_UP || m.kind == FROM_DOWN)
        events_add(&s->events, at, arrived, copy, 0);
    else
        at = wire_send(n, copy, at);
    *last = at;
}

void server_withhold(struct sim_node *n)
{
    if (!n->connected || n->withheld.first != NULL)
        return;
    n->withhold_next = true;
    node_session_down(n, true);
}

void server_late(struct sim_node *n, uint64_t within_ns)
{
    struct sim *s = n->sim;
    if (n->connected && n->withheld_session == n->hello.session)
        node_session_down(n, true); /* within a session nothing overtakes */
    n->withhold_next = false;
    n->withheld_session = 0;
    for (struct message *m; (m = message_take(&n->withheld)) != NULL;) {
        m->late = true;
        events_add(&s->events, s->now + rng_below(&s->thread_rng, within_ns), arrived, m, 0);
    }
}

void server_poll(struct sim_node *n, uint64_t seq)
{
    post(n, (struct message){.kind = TO_POLL, .number = seq});
}

void server_controls(struct sim_node *n, struct control_update *u)
{
    post(n, (struct message){.kind = TO_CONTROL, .body = u});
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

/* ---- within the server ----------------------------------------------------------------------- */

uint64_t server_hop_ns(struct rng *r)
{
    return 1 + rng_below(r, HOP_NS_MAX);
}

void server_post(struct sim *s, const struct message *m, uint64_t delay_ns)
{
    struct message *copy = message_copy(m);
    uint64_t at = s->now + delay_ns;
    copy->life = s->life;
    if (m->kind == PROCESS_SHARE) { /* a mailbox keeps the order of each sender */
        uint64_t *last = &s->thread_ns[m->from][m->process];
        at = at > *last ? at : *last + 1;
        *last = at;
    }
    events_add(&s->events, at, arrived, copy, 0);
}

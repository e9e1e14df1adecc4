/* SPDX-License-Identifier: Apache-2.0 */
/* A gateway's side of the control protocol: sessions, reports, controls, lease, surges.
 *
 * As gateway/link*.c has it (docs/protocol.md), over a network of events instead of a socket. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "sim/private.h"

static void lease_over(struct sim *s, const struct event *e)
{
    struct sim_node *n = e->what;
    (void)s;
    if (n->up && n->boot == e->number)
        node_lease(n);
}

void node_lease(struct sim_node *n)
{
    struct sim *s = n->sim;
    if (n->lease_until_ns == 0 || s->now < n->lease_until_ns)
        return;
    n->lease_until_ns = 0;
    (void)stream_controls_expire(n->table, s->now);
    node_run(n);
}

/* ---- session --------------------------------------------------------------------------------- */

static void retry(struct sim *s, const struct event *e)
{
    struct sim_node *n = e->what;
    if (!n->up || n->connected || n->boot != e->number)
        return;
    if (s->server_is_up && !n->partitioned)
        node_session_up(n);
    else
        events_add(&s->events, s->now + SIM_RETRY_NS, retry, n, n->boot);
}

static void silence(struct sim *s, const struct event *e)
{
    struct sim_node *n = e->what;
    if (!n->up || !n->connected || n->hello.session != e->number)
        return;
    if (s->now - n->heard_ns >= SIM_SILENCE_NS) {
        node_session_down(n, true);
        return;
    }
    events_add(&s->events, n->heard_ns + SIM_SILENCE_NS, silence, n, e->number);
}

static void look(struct sim *s, const struct event *e)
{
    struct sim_node *n = e->what;
    if (!n->up || !n->connected || n->hello.session != e->number)
        return;
    node_look(n);
    events_add(&s->events, s->now + SURGE_LOOK_NS, look, n, e->number);
}

/* Who is there is in the first answer: nobody of them is new. The seconds in which demand is
 * compared began somewhere: were they a run's own, all that changes at a whole second of it would
 * fall between two of them, at every gateway. */
static void watch_begin(struct sim_node *n)
{
    uint64_t began_ns = n->sim->now - (n->index * 370 + 410) % 1000 * MS;
    for (size_t i = 0; i < n->watch_count; i++) {
        const struct stream *st = i < stream_slots(n->table) ? stream_at(n->table, i) : NULL;
        n->watch[i].used = false;
        if (st != NULL)
            surge_known(&n->watch[i], st, began_ns);
    }
    n->cursor = 0;
}

void node_session_up(struct sim_node *n)
{
    struct sim *s = n->sim;
    n->connected = true;
    n->first_set = true;
    n->heard_ns = s->now;
    n->hello.session = ++s->next_session;
    server_session(n, true);
    if (n->withheld.first != NULL && rng_below(&s->thread_rng, 2) == 0)
        server_late(n, 1 + 2 * s->config->control_ns);
    events_add(&s->events, s->now + SIM_SILENCE_NS, silence, n, n->hello.session);
    if (s->config->scheme != SIM_OURS)
        return;
    watch_begin(n);
    events_add(&s->events, s->now + SURGE_LOOK_NS, look, n, n->hello.session);
}

void node_session_down(struct sim_node *n, bool tell)
{
    if (!n->connected)
        return;
    n->connected = false;
    if (tell)
        server_session(n, false);
    if (n->up)
        node_reconnect(n);
}

void node_reconnect(struct sim_node *n)
{
    events_add(&n->sim->events, n->sim->now + SIM_RETRY_NS, retry, n, n->boot);
}

/* ---- reports --------------------------------------------------------------------------------- */

static void hist_to(struct report_hist *r, const struct hist *h, enum meter_hist kind, unsigned dir)
{
    *r = (struct report_hist){.kind = kind,
                              .direction = (enum io_direction)dir,
                              .sum_ns = h->sum_ns,
                              .max_ns = h->max_ns};
    size_t n = 0;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        n += h->bucket[i] != 0;
    r->bucket = calloc(n + 1, sizeof *r->bucket);
    weir_assert(r->bucket != NULL);
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        if (h->bucket[i] != 0)
            r->bucket[r->bucket_count++] = (struct report_bucket){i, h->bucket[i]};
}

static void turn_to(struct report_stream *r, const struct stream *st, uint64_t now)
{
    uint64_t oldest = sched_flow_oldest_ns(&st->turn);
    r->cost_arrived_ns = st->turn.cost_arrived_ns;
    r->cost_served_ns = st->turn.cost_served_ns;
    r->reserved_ios = st->turn.reserved_ios;
    r->queued_ns = st->turn.queued_ns;
    r->late = st->turn.late;
    r->queued_now = st->turn.queued;
    r->oldest_queued_ns = oldest < now ? now - oldest : 0;
    (void)text_copy(r->share, sizeof r->share, stream_share_id(st));
}

static void stream_to(struct report_stream *r, const struct stream *st, uint64_t now)
{
    *r = (struct report_stream){.index = st->index,
                                .has_info = true,
                                .size = st->size,
                                .connections = st->connections,
                                .max_hold_hits = st->meter->max_hold_hits};
    memcpy(r->host, st->host, NAME_SIZE);
    memcpy(r->volume, st->volume, NAME_SIZE);
    memcpy(r->tenant, st->tenant, NAME_SIZE);
    memcpy(r->target, st->target->name, NAME_SIZE);
    for (unsigned op = 0; op < IO_OP_COUNT; op++)
        if (st->meter->op[op].arrivals > 0)
            r->op[r->op_count++] =
                (struct report_op){.op = (enum io_op)op, .counts = st->meter->op[op]};
    for (unsigned dir = 0; dir < 2; dir++)
        for (unsigned k = 0; k < METER_HIST_COUNT; k++)
            if (st->meter->hist[dir][k].count > 0)
                hist_to(&r->hist[r->hist_count++], &st->meter->hist[dir][k], (enum meter_hist)k,
                        dir);
    r->held_now = st->flow.queue[0].length + st->flow.queue[1].length;
    uint64_t oldest = gate_flow_oldest_ns(&st->flow);
    r->oldest_held_ns = oldest < now ? now - oldest : 0;
    enum gate_kind kind;
    const struct gate_rule *rule = gate_queue_blocked_by(&st->flow.queue[0], &kind);
    if (rule == NULL)
        rule = gate_queue_blocked_by(&st->flow.queue[1], &kind);
    if (rule != NULL)
        (void)text_copy(r->held_by, sizeof r->held_by, stream_rule_control(rule)->id);
    r->has_burst = stream_burst_ppm(st, &r->burst_ppm);
    turn_to(r, st, now);
}

static void target_to(struct report_target *r, struct sim_node *n, uint32_t i)
{
    struct sim *s = n->sim;
    struct target *port = stream_port(n->table, i);
    const struct sched_counts *c = sched_account(port->sched, s->now);
    *r = (struct report_target){
        .connections = 1,
        .connects = 1,
        .inflight = sched_inflight(port->sched),
        .window_milli = target_window(port),
        .parallelism_milli = port->window.parallelism_milli,
        .wait_p99_us = port->wait_p99_ns / US,
        .busy_ns = c->busy_ns,
        .full_ns = c->full_ns,
        .cost_served_ns = c->cost_served_ns,
        .served_ios = c->served_ios,
        .served_bytes = c->served_bytes,
        .queued_now = sched_queued(port->sched),
        .cost = *sched_cost(port->sched),
    };
    look_result(&port->look, port->sched, s->now, &r->look);
    memcpy(r->name, s->gateway_config->targets[i].name, NAME_SIZE);
    memcpy(r->uri, s->gateway_config->targets[i].uri, sizeof r->uri);
}

static void limit_to(void *arg, const struct control *c, const struct gate_rule *first_rule)
{
    struct report *r = arg;
    (void)first_rule;
    if (!stream_control_agreed(c))
        return;
    struct report_limit *more = reallocarray(r->limit, r->limit_count + 1, sizeof *more);
    weir_assert(more != NULL);
    r->limit = more;
    struct report_limit *out = &r->limit[r->limit_count++];
    (void)text_copy(out->id, sizeof out->id, c->id);
    for (uint32_t k = 0; k < GATE_KIND_COUNT; k++)
        out->rate[k] = c->limits.rate[k].rate;
}

void node_polled(struct sim_node *n, uint64_t seq)
{
    struct sim *s = n->sim;
    size_t slots = stream_slots(n->table), count = 0;
    n->heard_ns = s->now;
    check_there(n);
    for (size_t i = 0; i < slots; i++)
        count += stream_at(n->table, i) != NULL;
    struct report *r = calloc(1, sizeof *r);
    weir_assert(r != NULL);
    r->stream = calloc(count + 1, sizeof *r->stream);
    r->target = calloc(s->config->device_count, sizeof *r->target);
    weir_assert(r->stream != NULL);
    weir_assert(r->target != NULL);
    r->session = n->hello.session;
    memcpy(r->boot, n->hello.boot, sizeof r->boot);
    r->seq = seq;
    r->mono_ns = s->now;
    r->epoch = n->epoch;
    r->limits_said = n->first_set;
    if (n->first_set)
        stream_controls_visit(n->table, limit_to, r);
    stream_refresh(n->table, s->now);
    for (size_t i = 0; i < slots; i++) {
        const struct stream *st = stream_at(n->table, i);
        if (st != NULL)
            stream_to(&r->stream[r->stream_count++], st, s->now);
    }
    for (uint32_t i = 0; i < s->config->device_count; i++)
        if (!s->config->own_targets || (n->before >> i & 1) != 0)
            target_to(&r->target[r->target_count++], n, i);
    server_report(n, r);
}

/* ---- controls -------------------------------------------------------------------------------- */

static bool epoch_fits(const struct sim_node *n, const struct control_update *u)
{
    if (u->epoch > n->epoch || (u->full && n->first_set))
        return true;
    return u->epoch == n->epoch && (u->full || u->item_count == 0);
}

static int controls_apply(struct sim_node *n, const struct control_update *u)
{
    struct control *c = calloc(u->item_count + 1, sizeof *c);
    const char **members = NULL;
    size_t total = 0, at = 0;
    for (size_t i = 0; i < u->item_count; i++)
        total += u->item[i].member_count;
    members = calloc(total + 1, sizeof *members);
    weir_assert(c != NULL);
    weir_assert(members != NULL);
    for (size_t i = 0; i < u->item_count; i++) {
        const struct control_item *item = &u->item[i];
        c[i].origin = item->planned ? RULE_PLANNED : RULE_AGREED;
        (void)text_copy(c[i].id, sizeof c[i].id, item->id);
        (void)text_copy(c[i].reason, sizeof c[i].reason, item->reason);
        if (item->remove)
            continue;
        c[i].limits = item->limits;
        c[i].share = item->share;
        c[i].plan = item->plan;
        memcpy(c[i].target, item->target, sizeof c[i].target);
        c[i].members = members + at;
        c[i].member_count = item->member_count;
        for (size_t m = 0; m < item->member_count; m++)
            members[at++] = item->member[m];
    }
    int r = stream_controls_apply(n->table, c, u->item_count, u->full, n->sim->now);
    free(c);
    free(members);
    return r;
}

void node_controls(struct sim_node *n, struct control_update *u, uint64_t session)
{
    struct sim *s = n->sim;
    uint64_t before = n->epoch;
    int status = WEIR_E_CONFLICT;
    if (session != n->hello.session)
        return; /* of another session: not even answered */
    n->heard_ns = s->now;
    check_there(n);
    if (epoch_fits(n, u))
        status = u->item_count > 0 || u->full ? controls_apply(n, u) : 0;
    if (status == 0) {
        check_epoch(s, n, u, n->first_set ? 0 : before, session);
        for (size_t i = 0; i < u->item_count; i++)
            check_control(s, n, &u->item[i]);
        check_in_force(n, u);
        n->epoch = u->epoch;
        n->controls_applied++;
        if (n->first_set && u->full)
            promises_unsettled(s);
        n->first_set = n->first_set && !u->full;
        if (u->lease_ms > 0) {
            n->lease_until_ns = s->now + u->lease_ms * MS;
            events_add(&s->events, n->lease_until_ns, lease_over, n, n->boot);
        }
        node_run(n);
    }
    server_ack(n, u->epoch, status);
}

/* ---- surges ---------------------------------------------------------------------------------- */

void node_look(struct sim_node *n)
{
    struct sim *s = n->sim;
    size_t slots = stream_slots(n->table);
    for (size_t i = 0; i < slots; i++) {
        n->cursor = n->cursor + 1 < slots ? n->cursor + 1 : 0;
        const struct stream *st = stream_at(n->table, n->cursor);
        if (st == NULL || surge_why(&n->watch[n->cursor], st, s->now)[0] == '\0')
            continue;
        server_surge(n, st->index);
        return;
    }
}

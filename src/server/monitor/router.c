/* SPDX-License-Identifier: Apache-2.0 */
/* Problem. The table (route.c) says where gateways shall be; they must get there while they are
 * polled, throttled and perhaps about to end, and their sessions are other threads' business.
 *
 * Model. For each gateway that is astray one baton is sent round (server/move.h), ROUTER_MOVES_MAX
 * at once. While it is out the gateway counts as moving: a new session of it is held back until the
 * baton is here again, and words for its session wait. Each second loads are taken from what
 * inbound counted by session, and every MONITOR_BALANCE_NS the table may give subgroups other
 * places. A process that has been busy with one message for more than BUSY_NS, or has taken nothing
 * for so long although mail waits for it, stands still: it neither gets nor gives gateways for its
 * load, and a gateway that was never here goes to another. Batons that are on their way to it wait
 * there and hold up only their own gateways. It is looked for at each tick, and when a gateway
 * comes, every LOOK_NS at most.
 *
 *   gateway:  settled --astray, a baton is free--> moving --DONE--> settled at the new place
 *                 ^                                   \--REFUSED--> settled at the old one; again
 *                 +-------------------------------------------------- at the next tick
 *
 * Invariants.
 *  1. A gateway has at most one baton out, and none unless it has at most one session, which both
 *     halves were told of and neither has left.
 *  2. All sessions of a gateway are at its place, so the SLA process that knows it sees each
 *     newcomer that claims its identity.
 *  3. A session is told to its halves only while its gateway does not move. */
#include "server/monitor/router.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "server/mailbox/gauge.h"
#include "server/monitor/acceptor.h"

#define TICK_NS NS_PER_S
#define BUSY_NS (500 * NS_PER_MS)
#define LOOK_NS (100 * NS_PER_MS)
#define BOTH_HALVES (1u << SESSION_INBOUND | 1u << SESSION_OUTBOUND)

static struct monitor *monitor_of(const struct router *r)
{
    return r->a->m;
}

/* The few figures of the thread map that are this thread's to write. */
static struct threads *shared(const struct router *r)
{
    return (struct threads *)(uintptr_t)monitor_of(r)->threads;
}

static void id_args(const uint8_t id[GATEWAY_ID_SIZE], struct msg *m)
{
    memcpy(m->arg, id, GATEWAY_ID_SIZE);
}

/* A word that is not worth keeping: said again by whoever needs it. */
static void tell(struct router *r, uint16_t process, uint16_t kind,
                 const uint8_t id[GATEWAY_ID_SIZE], uint64_t arg)
{
    struct msg m = {.kind = kind, .arg = {0, 0, arg}};
    id_args(id, &m);
    (void)mailbox_post(r->a->me, monitor_of(r)->threads->services[process], &m);
}

/* ---- moves
 * --------------------------------------------------------------------------------------------- */

static void say_move(struct router *r, const struct route_gateway *g)
{
    char subject[NAME_SIZE + 16], text[384];
    struct route_place to = route_wanted(g);
    uint32_t group = route_group_number(g);
    if (group == r->said_group)
        return;
    r->said_group = group;
    snprintf(subject, sizeof(subject), "gateway/%s", g->name);
    snprintf(text, sizeof(text),
             "subgroup %u (%zu gateways, %s among them) goes from pair %u, SLA process %u to pair "
             "%u, SLA process %u",
             group, route_group_size(g), g->name, g->place.pair, g->place.process, to.pair,
             to.process);
    log_info("monitor: %s", text);
    acceptor_event(r->a, EVENT_WARNING, "subgroup-moved", subject, text);
}

static void unposted_later(struct router *r)
{
    reactor_timer_set(r->a->reactor, &r->a->post_retry,
                      reactor_now(r->a->reactor) + MONITOR_RETRY_NS);
}

/* The one session of @g, or NULL; false: it is not such that it can be moved now. */
static bool session_of(struct router *r, const struct route_gateway *g,
                       struct owned_session **ret)
{
    *ret = NULL;
    if (g->sessions == 0)
        return true;
    struct owned_session *o = monitor_of(r)->session[session_slot(g->session)];
    if (o == NULL || o->session.id != g->session || o->told != BOTH_HALVES || o->shut != 0)
        return false;
    *ret = o;
    return true;
}

static bool move_begin(struct router *r, struct route_gateway *g)
{
    struct owned_session *o;
    struct move *m = session_of(r, g, &o) ? calloc(1, sizeof(*m)) : NULL;
    route_move_begin(r->table, g);
    if (m == NULL) {
        route_move_end(r->table, g, false, g->place); /* to the end of the queue */
        return false;
    }
    struct route_place to = route_wanted(g);
    memcpy(m->gateway, g->id, sizeof(m->gateway));
    m->session = o != NULL ? o->session.id : 0;
    m->from_pair = g->place.pair;
    m->from_process = g->place.process;
    m->to_pair = to.pair;
    m->to_process = to.process;
    m->subgroup = route_group_number(g);
    m->began_ns = reactor_now(r->a->reactor);
    say_move(r, g);
    atomic_fetch_add(&shared(r)->moves_begun, 1);
    r->moves++;
    monitor_count_add(monitor_of(r), moving_now, 1);
    move_queue_put(&r->unposted, m);
    if (!move_queue_post(&r->unposted, r->a->me, monitor_of(r)->threads))
        unposted_later(r);
    return true;
}

static void settle_resize(struct router *r)
{
    if (!r->resizing || !route_settled(r->table) || r->held != NULL)
        return;
    r->resizing = false;
    mailbox_reply(r->a->me, &r->resize, 0, NULL, NULL);
}

/* Send batons out, as many as may be; those that cannot now are tried at the next tick. */
static void pump(struct router *r)
{
    struct route_gateway *g;
    for (size_t tries = 0; tries < ROUTER_MOVES_MAX && r->moves < ROUTER_MOVES_MAX &&
                           (g = route_astray(r->table)) != NULL;
         tries++)
        (void)move_begin(r, g);
    settle_resize(r);
}

/* Sessions that waited for @g. */
static void release_held(struct router *r, const struct route_gateway *g)
{
    struct owned_session **at = &r->held, *ready = NULL, **end = &ready;
    while (*at != NULL) {
        struct owned_session *o = *at;
        if (o->route != g) {
            at = &o->next_untold;
            continue;
        }
        *at = o->next_untold;
        o->next_untold = NULL;
        *end = o;
        end = &o->next_untold;
    }
    while (ready != NULL) {
        struct owned_session *o = ready;
        ready = o->next_untold;
        o->next_untold = NULL;
        acceptor_session_start(r->a, o);
    }
}

static void move_ended(struct router *r, struct move *m)
{
    struct route_gateway *g = route_find(r->table, m->gateway);
    bool arrived = m->step != MOVE_REFUSED;
    struct route_place at = {.pair = m->to_pair, .process = m->to_process};
    uint64_t took = reactor_now_fresh(r->a->reactor) - m->began_ns;
    weir_assert(r->moves > 0);
    weir_assert(g != NULL); /* one that moves is not removed */
    atomic_fetch_add(&shared(r)->moves_ended, 1);
    r->moves--;
    monitor_count_down(monitor_of(r), moving_now);
    log_debug("monitor: a move took %llu us", (unsigned long long)(took / NS_PER_US));
    if (arrived)
        monitor_count(monitor_of(r), moves);
    else
        monitor_count(monitor_of(r), moves_refused);
    route_move_end(r->table, g, arrived, at);
    release_held(r, g);
    move_free(m);
    if (arrived)
        pump(r); /* a refused one waits for the tick */
    else
        settle_resize(r);
}

/* ---- sessions
 * ------------------------------------------------------------------------------------------ */

static void look(struct router *r, uint64_t now_ns)
{
    const struct threads *t = monitor_of(r)->threads;
    if (r->looked_ns != 0 && now_ns - r->looked_ns < LOOK_NS)
        return;
    r->looked_ns = now_ns;
    for (size_t i = 0; i < THREADS_MAX_SERVICES && t->services[i] != NULL; i++)
        r->still[i] = mailbox_still_ns(t->services[i], &r->watch[i], now_ns) > BUSY_NS;
    route_still(r->table, r->still);
}

bool router_session_new(struct router *r, struct owned_session *o)
{
    struct route_evicted gone;
    look(r, reactor_now(r->a->reactor));
    struct route_gateway *g =
        route_add(r->table, o->session.hello.id, o->session.hello.name, -1, &gone);
    if (gone.any)
        tell(r, gone.process, MSG_GATEWAY_FORGET, gone.id, 0);
    o->route = g;
    if (g == NULL)
        return false;
    g->sessions++;
    g->session = o->session.id;
    r->work_seen[session_slot(o->session.id)] =
        gauge_read(&monitor_of(r)->work[session_slot(o->session.id)]);
    route_rename(g, o->session.hello.name);
    return true;
}

bool router_session_place(struct router *r, struct owned_session *o)
{
    struct route_gateway *g = o->route;
    if (g->moving) {
        struct owned_session **end = &r->held;
        while (*end != NULL)
            end = &(*end)->next_untold;
        *end = o;
        return false;
    }
    o->session.pair = o->session.hello.pair = g->place.pair;
    o->session.process = g->place.process;
    o->session.hello.subgroup = route_group_number(g);
    return true;
}

void router_session_over(struct router *r, struct owned_session *o)
{
    (void)r;
    if (o->route == NULL)
        return;
    weir_assert(o->route->sessions > 0);
    o->route->sessions--;
    o->route = NULL;
}

struct mailbox *router_outbound(struct router *r, const struct owned_session *o)
{
    if (o->route == NULL || o->route->moving)
        return NULL;
    return monitor_of(r)->threads->outbound[o->route->place.pair];
}

/* ---- what the services say
 * ------------------------------------------------------------------------------- */

static void got_targets(struct router *r, const struct gateway_targets *t)
{
    struct route_gateway *g = route_find(r->table, t->gateway);
    if (g == NULL)
        return;
    uint32_t before = route_group_number(g);
    route_targets(r->table, g, t->hash, t->count);
    if (route_group_number(g) != before)
        tell(r, g->place.process, MSG_GATEWAY_SUBGROUP, g->id, route_group_number(g));
    pump(r);
}

static void got_known(struct router *r, const uint8_t id[GATEWAY_ID_SIZE], uint16_t process)
{
    struct route_evicted gone;
    const struct route_gateway *g = route_add(r->table, id, "", process, &gone);
    if (gone.any)
        tell(r, gone.process, MSG_GATEWAY_FORGET, gone.id, 0);
    if (g == NULL || (g->place.process != process && !g->moving))
        tell(r, process, MSG_GATEWAY_FORGET, id, 0);
}

static void got_gone(struct router *r, const uint8_t id[GATEWAY_ID_SIZE])
{
    struct route_gateway *g = route_find(r->table, id);
    if (g != NULL)
        route_remove(r->table, g);
}

static uint16_t process_of(const struct router *r, uint16_t mailbox)
{
    const struct threads *t = monitor_of(r)->threads;
    for (uint16_t i = 0; i < THREADS_MAX_SERVICES; i++) {
        if (t->services[i] != NULL && mailbox_id(t->services[i]) == mailbox)
            return i;
    }
    weir_assert(!"a message of services that do not exist");
    return 0;
}

static void got_resize(struct router *r, const struct msg *m)
{
    weir_assert(!r->resizing);
    r->resizing = true;
    r->resize = *m;
    route_resize(r->table, m->arg[0], m->arg[1], reactor_now(r->a->reactor));
    pump(r);
}

bool router_message(struct router *r, struct msg *m)
{
    switch (m->kind) {
    case MSG_MOVE: {
        struct move *move = m->body;
        m->body = NULL;
        move_ended(r, move);
        return true;
    }
    case MSG_GATEWAY_TARGETS:
        got_targets(r, m->body);
        return true;
    case MSG_GATEWAY_KNOWN:
        got_known(r, (const uint8_t *)m->arg, process_of(r, m->from));
        return true;
    case MSG_GATEWAY_GONE:
        got_gone(r, (const uint8_t *)m->arg);
        return true;
    case MSG_ROUTE_RESIZE:
        got_resize(r, m);
        return true;
    default:
        return false;
    }
}

/* ---- the tick
 * ------------------------------------------------------------------------------------------ */

/* A tenth of the newest: one busy second does not send a gateway round. */
static void take_loads(struct router *r)
{
    struct monitor *m = monitor_of(r);
    for (size_t slot = 0; slot < m->max_sessions; slot++) {
        const struct owned_session *o = m->session[slot];
        if (o == NULL || o->route == NULL || o->route->session != o->session.id)
            continue;
        uint64_t work = gauge_read(&m->work[slot]), did = work - r->work_seen[slot];
        r->work_seen[slot] = work;
        uint64_t load = o->route->load;
        load = load < 16 && did > load ? did : (load * 9 + did + 5) / 10;
        route_load(r->table, o->route, load);
    }
}

static void show(struct router *r)
{
    struct threads *t = shared(r);
    uint32_t pair[THREADS_MAX_PAIRS] = {0}, process[THREADS_MAX_SERVICES] = {0};
    uint32_t groups[THREADS_MAX_SERVICES] = {0};
    route_counts(r->table, pair, process, groups);
    for (size_t i = 0; i < THREADS_MAX_PAIRS; i++)
        atomic_store_explicit(&t->of_pair[i].gateways, pair[i], memory_order_relaxed);
    for (size_t i = 0; i < THREADS_MAX_SERVICES; i++) {
        atomic_store_explicit(&t->of_services[i].gateways, process[i], memory_order_relaxed);
        atomic_store_explicit(&t->of_services[i].subgroups, groups[i], memory_order_relaxed);
    }
    gauge_write(&monitor_of(r)->counters.subgroups_now, route_group_count(r->table));
}

static void tick(struct reactor_timer *timer, uint64_t now)
{
    struct router *r = container_of(timer, struct router, tick);
    take_loads(r);
    look(r, now);
    if (now - r->balanced_ns >= monitor_of(r)->balance_ns) {
        r->balanced_ns = now;
        (void)route_balance(r->table, r->still, ROUTER_MOVES_MAX, now);
    }
    pump(r);
    show(r);
    uint64_t next = monitor_of(r)->balance_ns < TICK_NS ? monitor_of(r)->balance_ns : TICK_NS;
    reactor_timer_set(r->a->reactor, timer, now + next);
}

int router_open(struct router *r, struct acceptor *a)
{
    const struct threads *t = a->m->threads;
    *r = (struct router){.a = a, .tick = {.fire = tick}};
    r->table = route_new(t->pairs, t->services_count, 2 * a->m->max_sessions);
    r->work_seen = calloc(a->m->max_sessions, sizeof(*r->work_seen));
    if (r->table == NULL || r->work_seen == NULL)
        return -ENOMEM;
    reactor_timer_set(a->reactor, &r->tick, reactor_now(a->reactor) + TICK_NS);
    return 0;
}

void router_close(struct router *r)
{
    move_queue_free(&r->unposted);
    route_free(r->table);
    free(r->work_seen);
}

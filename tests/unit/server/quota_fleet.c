/* SPDX-License-Identifier: Apache-2.0 */
#include "quota_fleet.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"

int64_t fleet_wall(const struct quota_fleet *f)
{
    return INT64_C(1795413600000000) + (int64_t)(f->now / 1000);
}

static uint64_t late(struct quota_fleet *f)
{
    return f->now + rng_below(&f->rng, 30) * MS;
}

/* --- the sink -------------------------------------------------------------------------- */

static struct played *by_session(struct quota_fleet *f, uint64_t session)
{
    for (size_t i = 0; i < GATEWAYS; i++) {
        if (f->gateway[i].hello.session == session)
            return &f->gateway[i];
    }
    return NULL;
}

static int letter_put(struct process *p, uint64_t session, struct letter l)
{
    struct played *g = by_session(p->fleet, session);
    if (rng_below(&p->fleet->rng, 1000000) < p->fleet->full_ppm)
        return WEIR_E_FULL;
    if (g == NULL || !g->up) {
        control_update_free(l.update);
        return 0;
    }
    assert_true(g->letters < QUEUE);
    l.at_ns = late(p->fleet);
    l.session = session;
    g->letter[(g->head + g->letters++) % QUEUE] = l;
    return 0;
}

static int sink_poll(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *r)
{
    (void)pair;
    return letter_put(ctx, session, (struct letter){.seq = r->seq});
}

static int sink_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    (void)pair;
    return letter_put(ctx, session, (struct letter){.update = u});
}

static int sink_share(void *ctx, struct share_batch *b)
{
    struct process *p = ctx;
    struct quota_fleet *f = p->fleet;
    assert_true(b->from < PROCESSES && b->to < PROCESSES);
    if (rng_below(&f->rng, 1000000) < f->full_ppm)
        return WEIR_E_FULL;
    size_t *n = &f->posts[b->from][b->to];
    assert_true(*n < QUEUE);
    f->post[b->from][b->to][(f->first[b->from][b->to] + (*n)++) % QUEUE] =
        (struct post){.at_ns = late(f), .batch = b};
    return 0;
}

/* --- gateways -------------------------------------------------------------------------- */

static void answer(struct quota_fleet *f, struct played *g, uint64_t seq)
{
    struct report r = {.session = g->hello.session,
                       .seq = seq,
                       .mono_ns = f->now,
                       .epoch = g->epoch,
                       .stream_count = 1,
                       .target_count = 1};
    struct report_stream st = {.has_info = true, .op_count = 1, .connections = 1, .index = 1};
    struct report_target t = {.connections = 1};
    memcpy(r.boot, g->hello.boot, GATEWAY_ID_SIZE);
    snprintf(st.host, NAME_SIZE, "h-%u", g->hello.id[0]);
    snprintf(st.volume, NAME_SIZE, "v-%u", g->hello.id[0]);
    snprintf(st.target, NAME_SIZE, "t");
    snprintf(t.name, NAME_SIZE, "t");
    snprintf(t.uri, sizeof(t.uri), "nbd://%s", g->hello.name);
    /* A closed loop: what is in force bounds what is seen. */
    uint64_t rate = g->demand;
    g->held = false;
    if (g->cap != 0 && g->cap < rate) {
        rate = g->cap;
        g->held = true;
    }
    g->count += rate;
    st.op[0] = (struct report_op){.op = IO_READ,
                                  .counts = {.arrivals = g->count, .completions = g->count}};
    struct report_limit limit[2];
    memset(limit, 0, sizeof(limit));
    for (size_t i = 0; i < 2; i++) {
        snprintf(limit[i].id, sizeof(limit[i].id), "%s", i == 0 ? AGREEMENT : TENANT);
        memcpy(limit[i].rate, g->rate[i], sizeof(limit[i].rate));
    }
    r.limits_said = f->tell && g->first;
    r.limit = limit;
    r.limit_count = r.limits_said ? 2 : 0;
    st.held_now = g->held;
    if (g->held)
        snprintf(st.held_by, sizeof(st.held_by), AGREEMENT);
    r.stream = &st;
    r.target = &t;
    services_report(f->process[g->process].services, &r, f->now, fleet_wall(f));
}

static bool names_agreement(const struct control_update *u)
{
    for (size_t i = 0; i < u->item_count; i++) {
        if (strcmp(u->item[i].id, AGREEMENT) == 0)
            return true;
    }
    return false;
}

static void apply(struct quota_fleet *f, struct played *g, struct control_update *u)
{
    if (g->refuses && names_agreement(u)) {
        g->refuses = false;
        services_ack(f->process[g->process].services, g->hello.session, u->epoch, WEIR_E_INVALID,
                     f->now, fleet_wall(f));
        return;
    }
    if (u->full)
        memset(g->rate, 0, sizeof(g->rate));
    for (size_t i = 0; i < u->item_count; i++) {
        const struct control_item *it = &u->item[i];
        bool agreement = strcmp(it->id, AGREEMENT) == 0;
        if (!agreement && strcmp(it->id, TENANT) != 0)
            continue;
        g->orders += agreement;
        for (int k = 0; k < GATE_KIND_COUNT; k++)
            g->rate[!agreement][k] = it->remove ? 0 : it->limits.rate[k].rate;
    }
    g->cap = g->rate[0][GATE_IOPS_TOTAL];
    g->tenant = g->rate[1][GATE_IOPS_TOTAL];
    g->first = g->first && !u->full;
    g->epoch = u->epoch;
    if (rng_below(&f->rng, 1000000) < f->lost_ppm)
        return;
    services_ack(f->process[g->process].services, g->hello.session, u->epoch, 0, f->now,
                 fleet_wall(f));
}

static bool is_stalled(const struct quota_fleet *f, int process)
{
    return f->process[process].stalled_until_ns > f->now;
}

static void gateway_step(struct quota_fleet *f, struct played *g)
{
    if (g->process < 0) {
        if (f->now < g->land_ns || is_stalled(f, g->to))
            return;
        g->process = g->to;
        services_gateway_import(f->process[g->to].services, g->parcel, (uint16_t)g->to, 1, f->now,
                                fleet_wall(f));
        g->parcel = NULL;
    }
    while (g->letters > 0 && g->letter[g->head].at_ns <= f->now && !is_stalled(f, g->process)) {
        struct letter l = g->letter[g->head];
        g->head = (g->head + 1) % QUEUE;
        g->letters--;
        bool mine = g->up && l.session == g->hello.session && !(g->deaf && l.update != NULL);
        if (mine && l.update != NULL)
            apply(f, g, l.update);
        else if (mine && !g->mute)
            answer(f, g, l.seq);
        control_update_free(l.update);
    }
}

void fleet_gateway_up(struct quota_fleet *f, struct played *g)
{
    g->hello.session = ++f->sessions;
    g->up = g->first = true;
    services_gateway_up(f->process[g->process].services, &g->hello, f->now, fleet_wall(f));
}

void fleet_depart(struct quota_fleet *f, struct played *g, int to)
{
    if (g->process < 0 || g->process == to || is_stalled(f, g->process))
        return;
    g->parcel = services_gateway_export(f->process[g->process].services, g->hello.id, f->now,
                                        fleet_wall(f));
    assert_non_null(g->parcel);
    g->process = -1;
    g->to = to;
    g->land_ns = late(f);
}

/* --- what must hold -------------------------------------------------------------------- */

struct share_key fleet_key(const char *id)
{
    return (struct share_key){.a = hash_bytes(HASH_SEED, id, strlen(id)),
                              .b = hash_bytes(UINT64_C(0x9e3779b97f4a7c15), id, strlen(id))};
}

bool fleet_same_key(struct share_key a, struct share_key b)
{
    return a.a == b.a && a.b == b.b;
}

static uint64_t tokens_at(const struct process *p, struct share_key key, int kind)
{
    const struct list *slot = table_slot(&p->services->by_quota, key.a);
    list_for_each(it, slot)
    {
        const struct quota *q = container_of(it, struct quota, in_key);
        if (fleet_same_key(q->key, key))
            return (uint64_t)q->own[kind] + q->held[kind] + q->back[kind];
    }
    return share_default(p->index, PROCESSES);
}

static uint64_t tokens_in(const struct share_batch *b, struct share_key key, int kind)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < b->notes; i++)
        sum += fleet_same_key(b->note[i].key, key) ? b->note[i].returned[kind] : 0;
    for (size_t i = 0; i < b->grants; i++)
        sum += fleet_same_key(b->grant[i].key, key) ? b->grant[i].granted[kind] : 0;
    return sum;
}

void fleet_check_tokens(const struct quota_fleet *f, const char *id)
{
    struct share_key key = fleet_key(id);
    uint32_t pool[GATE_KIND_COUNT];
    coordinator_pool(f->process[0].services->coordinator, key, pool);
    for (int kind = 0; kind < GATE_KIND_COUNT; kind++) {
        uint64_t sum = pool[kind];
        for (size_t a = 0; a < PROCESSES; a++) {
            sum += tokens_at(&f->process[a], key, kind);
            for (size_t b = 0; b < PROCESSES; b++) {
                for (size_t i = 0; i < f->posts[a][b]; i++)
                    sum += tokens_in(f->post[a][b][(f->first[a][b] + i) % QUEUE].batch, key, kind);
            }
        }
        for (size_t i = 0; i < GATEWAYS; i++) {
            const struct gateway *g = (const struct gateway *)f->gateway[i].parcel;
            for (size_t k = 0; g != NULL && k < g->carried_count; k++)
                sum += fleet_same_key(g->carried[k].key, key) ? g->carried[k].tokens[kind] : 0;
        }
        if (sum != SHARE_ONE)
            fail_msg("%s, kind %d: %llu tokens instead of %u", id, kind, (unsigned long long)sum,
                     SHARE_ONE);
    }
}

uint64_t fleet_in_force(const struct quota_fleet *f, bool tenant)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < GATEWAYS; i++)
        sum += tenant ? f->gateway[i].tenant : f->gateway[i].cap;
    return sum;
}

/* --- the story ------------------------------------------------------------------------- */

static void put_limits(struct quota_fleet *f, uint64_t limit)
{
    f->limit = limit;
    for (size_t i = 0; i < PROCESSES; i++) {
        struct agreement a = {.version = limit,
                              .weight = AGREEMENT_WEIGHT,
                              .per = AGREEMENT_PER_GROUP,
                              .compliance_window_ns = 10 * S};
        struct tenant *t = calloc(1, sizeof(*t));
        char why[256];
        assert_non_null(t);
        snprintf(a.name, NAME_SIZE, "cap");
        snprintf(a.applies_to.volume, NAME_SIZE, "v-*");
        a.limits.rate[GATE_IOPS_TOTAL].rate = limit;
        a.limits.rate[GATE_BYTES_READ].rate = limit << 20;
        snprintf(t->name, NAME_SIZE, "acme");
        t->version = limit;
        t->member_count = 1;
        snprintf(t->member[0].host, NAME_SIZE, "h-*");
        t->limits.rate[GATE_IOPS_TOTAL].rate = 2 * limit;
        assert_int_equal(services_agreement_put(f->process[i].services, &a, f->now, fleet_wall(f),
                                                why, sizeof(why)),
                         0);
        assert_int_equal(services_tenant_put(f->process[i].services, t, f->now, fleet_wall(f)), 0);
        free(t);
    }
}

static void processes_start(struct quota_fleet *f)
{
    for (uint32_t i = 0; i < PROCESSES; i++) {
        struct process *p = &f->process[i];
        p->fleet = f;
        p->index = i;
        struct services_config c = {.period_ns = S,
                                    .lease_ns = 10 * S,
                                    .max_gateways = 16,
                                    .max_streams = 64,
                                    .process = i,
                                    .processes = PROCESSES,
                                    .processes_at_start = PROCESSES,
                                    .first_epoch = f->now};
        struct services_sink sink = {.ctx = p,
                                     .poll = sink_poll,
                                     .controls = sink_controls,
                                     .share = sink_share};
        p->services = services_new(&c, &sink);
        assert_non_null(p->services);
    }
}

struct quota_fleet *fleet_new(uint64_t seed, uint32_t full_ppm)
{
    struct quota_fleet *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_seed(&f->rng, seed);
    f->now = 100 * S;
    f->full_ppm = full_ppm;
    processes_start(f);
    for (uint32_t i = 0; i < PROCESSES; i++)
        services_loaded(f->process[i].services, f->now, fleet_wall(f));
    put_limits(f, LIMIT);
    for (size_t i = 0; i < GATEWAYS; i++) {
        struct played *g = &f->gateway[i];
        g->hello.id[0] = (uint8_t)(i + 1);
        g->hello.boot[0] = 1;
        g->process = (int)(i % PROCESSES);
        snprintf(g->hello.name, NAME_SIZE, "g%zu", i);
    }
    return f;
}

static void processes_end(struct quota_fleet *f)
{
    for (size_t i = 0; i < GATEWAYS; i++) {
        struct played *g = &f->gateway[i];
        services_parcel_free(g->parcel);
        for (size_t k = 0; k < g->letters; k++)
            control_update_free(g->letter[(g->head + k) % QUEUE].update);
        g->parcel = NULL;
        g->letters = 0;
    }
    for (size_t a = 0; a < PROCESSES; a++) {
        for (size_t b = 0; b < PROCESSES; b++) {
            for (size_t i = 0; i < f->posts[a][b]; i++)
                free(f->post[a][b][(f->first[a][b] + i) % QUEUE].batch);
            f->posts[a][b] = 0;
        }
    }
    for (size_t i = 0; i < PROCESSES; i++)
        services_free(f->process[i].services);
}

void fleet_free(struct quota_fleet *f)
{
    processes_end(f);
    free(f);
}

void fleet_restart(struct quota_fleet *f)
{
    processes_end(f);
    processes_start(f);
    put_limits(f, f->limit);
    for (size_t i = 0; i < GATEWAYS; i++) {
        struct played *g = &f->gateway[i];
        g->up = false;
        if (g->process < 0)
            g->process = g->to;
        if (g->rate[0][GATE_IOPS_TOTAL] != 0)
            assert_int_equal(services_gateway_recall(f->process[g->process].services, g->hello.id,
                                                     g->hello.name, "", "", 0, 0, true, f->now),
                             0);
    }
    for (size_t i = 0; i < PROCESSES; i++) {
        f->process[i].stalled_until_ns = 0;
        services_loaded(f->process[i].services, f->now, fleet_wall(f));
    }
}

static void deliver(struct quota_fleet *f, size_t from, size_t to)
{
    size_t *n = &f->posts[from][to], *first = &f->first[from][to];
    while (*n > 0 && f->post[from][to][*first].at_ns <= f->now && !is_stalled(f, (int)to)) {
        struct share_batch *b = f->post[from][to][*first].batch;
        *first = (*first + 1) % QUEUE;
        (*n)--;
        services_share(f->process[to].services, b, f->now, fleet_wall(f));
        free(b);
        fleet_check_tokens(f, AGREEMENT);
    }
}

void fleet_step(struct quota_fleet *f)
{
    f->now += 10 * MS;
    for (size_t a = 0; a < PROCESSES; a++) {
        for (size_t b = 0; b < PROCESSES; b++)
            deliver(f, a, b);
    }
    for (size_t i = 0; i < GATEWAYS; i++)
        gateway_step(f, &f->gateway[i]);
    for (size_t i = 0; i < PROCESSES; i++) {
        if (!is_stalled(f, (int)i))
            services_tick(f->process[i].services, f->now, fleet_wall(f));
    }
    fleet_check_tokens(f, AGREEMENT);
    fleet_check_tokens(f, TENANT);
}

void fleet_run(struct quota_fleet *f, uint64_t seconds)
{
    for (uint64_t end = f->now + seconds * S; f->now < end;)
        fleet_step(f);
}

void fleet_settle(struct quota_fleet *f)
{
    f->full_ppm = f->lost_ppm = 0;
    for (size_t i = 0; i < PROCESSES; i++)
        f->process[i].stalled_until_ns = 0;
    fleet_run(f, 1);
    for (size_t i = 0; i < GATEWAYS; i++) {
        if (!f->gateway[i].up)
            fleet_gateway_up(f, &f->gateway[i]);
    }
    fleet_run(f, 12);
}

void fleet_something(struct quota_fleet *f)
{
    struct played *g = &f->gateway[rng_below(&f->rng, GATEWAYS)];
    uint64_t n = rng_below(&f->rng, 100);
    if (n < 20) {
        g->demand = rng_below(&f->rng, 2) * rng_below(&f->rng, 2 * LIMIT);
    } else if (n < 60) {
        if (f->moves)
            fleet_depart(f, g, (int)rng_below(&f->rng, PROCESSES));
    } else if (n < 66) {
        f->process[rng_below(&f->rng, PROCESSES)].stalled_until_ns =
            f->now + rng_below(&f->rng, 6) * S;
    } else if (n < 72) {
        if (g->up && g->process >= 0) {
            services_gateway_down(f->process[g->process].services, g->hello.session, "cut", f->now,
                                  fleet_wall(f));
            g->up = false;
        }
    } else if (n < 90) {
        if (!g->up && g->process >= 0)
            fleet_gateway_up(f, g);
    } else if (n < 92 && f->moves) {
        put_limits(f, 1 + rng_below(&f->rng, 2 * LIMIT));
    }
}

const struct quota *fleet_quota(const struct process *p, const char *id)
{
    struct share_key key = fleet_key(id);
    const struct list *slot = table_slot(&p->services->by_quota, key.a);
    list_for_each(it, slot)
    {
        const struct quota *q = container_of(it, struct quota, in_key);
        if (fleet_same_key(q->key, key))
            return q;
    }
    return NULL;
}

void fleet_hold_posts(struct quota_fleet *f, size_t from, size_t to, bool hold)
{
    for (size_t i = 0; i < f->posts[from][to]; i++)
        f->post[from][to][(f->first[from][to] + i) % QUEUE].at_ns = hold ? UINT64_MAX : f->now;
}

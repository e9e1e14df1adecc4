/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a limit whose gateways are at several SLA processes holds as one sum, whatever is late,
 * stands still, moves or changes; and where the demand is there the limit goes.
 * Method: real services, three processes of them, on a virtual clock; messages between them and to
 * gateways wait in queues for random times, find no room at random, processes stand still. After
 * each step all tokens are counted wherever they are, and each gateway's limit in force is added
 * up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/rng.h"
#include "server/services/state.h"

#define S UINT64_C(1000000000)
#define MS UINT64_C(1000000)
#define PROCESSES 3u
#define GATEWAYS 6u
#define QUEUE 4096u
#define LIMIT 3000u
#define AGREEMENT "agreement/cap"
#define TENANT "tenant/acme"

struct letter { /* to a gateway */
    uint64_t at_ns, session, seq;
    struct control_update *update; /* NULL: a poll */
};

struct post { /* between processes */
    uint64_t at_ns;
    struct share_batch *batch;
};

struct played {
    struct gateway_hello hello;
    int process; /* -1: under way */
    int to;
    bool up;
    struct gateway_parcel *parcel;
    uint64_t land_ns, epoch, count, demand, cap, tenant; /* the last two in force; 0: none */
    bool held;
    struct letter letter[QUEUE];
    size_t first, letters;
};

struct process {
    struct fleet *fleet;
    uint32_t index;
    struct services *services;
    uint64_t stalled_until_ns;
};

struct fleet {
    struct rng rng;
    uint64_t now, limit, sessions;
    struct process process[PROCESSES];
    struct played gateway[GATEWAYS];
    struct post post[PROCESSES][PROCESSES][QUEUE];
    size_t first[PROCESSES][PROCESSES], posts[PROCESSES][PROCESSES];
    uint32_t full_ppm; /* how often there is no room */
    bool moves;
};

static int64_t wall(const struct fleet *f)
{
    return INT64_C(1795413600000000) + (int64_t)(f->now / 1000);
}

static uint64_t late(struct fleet *f)
{
    return f->now + rng_below(&f->rng, 30) * MS;
}

/* --- the sink -------------------------------------------------------------------------- */

static struct played *by_session(struct fleet *f, uint64_t session)
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
    g->letter[(g->first + g->letters++) % QUEUE] = l;
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
    struct fleet *f = p->fleet;
    assert_true(b->from < PROCESSES && b->to < PROCESSES);
    if (rng_below(&f->rng, 1000000) < f->full_ppm)
        return WEIR_E_FULL;
    size_t *n = &f->posts[b->from][b->to];
    assert_true(*n < QUEUE);
    f->post[b->from][b->to][(f->first[b->from][b->to] + (*n)++) % QUEUE] =
        (struct post){.at_ns = late(f), .batch = b};
    return 0;
}

static void sink_end(void *ctx, uint64_t session, uint16_t pair, const char *why)
{
    (void)ctx, (void)session, (void)pair, (void)why;
}

static void sink_sample(void *ctx, const struct sample_record *r)
{
    (void)ctx, (void)r;
}

static void sink_action(void *ctx, const struct action_record *r)
{
    (void)ctx, (void)r;
}

static void sink_event(void *ctx, const struct event_record *r)
{
    (void)ctx, (void)r;
}

static void sink_target(void *ctx, const char *gateway, const char *target, const char *uri)
{
    (void)ctx, (void)gateway, (void)target, (void)uri;
}

/* --- gateways -------------------------------------------------------------------------- */

static void answer(struct fleet *f, struct played *g, uint64_t seq)
{
    struct report r = {.session = g->hello.session, .seq = seq, .mono_ns = f->now,
                       .epoch = g->epoch, .stream_count = 1, .target_count = 1};
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
    st.op[0] = (struct report_op){.op = IO_READ, .counts = {.arrivals = g->count,
                                                            .completions = g->count}};
    st.held_now = g->held;
    if (g->held)
        snprintf(st.held_by, sizeof(st.held_by), AGREEMENT);
    r.stream = &st;
    r.target = &t;
    services_report(f->process[g->process].services, &r, f->now, wall(f));
}

static void apply(struct fleet *f, struct played *g, struct control_update *u)
{
    if (u->full)
        g->cap = g->tenant = 0;
    for (size_t i = 0; i < u->item_count; i++) {
        const struct control_item *it = &u->item[i];
        uint64_t rate = it->remove ? 0 : it->limits.rate[GATE_IOPS_TOTAL].rate;
        if (strcmp(it->id, AGREEMENT) == 0)
            g->cap = rate;
        if (strcmp(it->id, TENANT) == 0)
            g->tenant = rate;
    }
    g->epoch = u->epoch;
    services_ack(f->process[g->process].services, g->hello.session, u->epoch, 0, f->now, wall(f));
}

static bool is_stalled(const struct fleet *f, int process)
{
    return f->process[process].stalled_until_ns > f->now;
}

static void gateway_step(struct fleet *f, struct played *g)
{
    if (g->process < 0) {
        if (f->now < g->land_ns || is_stalled(f, g->to))
            return;
        g->process = g->to;
        services_gateway_import(f->process[g->to].services, g->parcel, (uint16_t)g->to, 1, f->now,
                                wall(f));
        g->parcel = NULL;
    }
    while (g->letters > 0 && g->letter[g->first].at_ns <= f->now && !is_stalled(f, g->process)) {
        struct letter l = g->letter[g->first];
        g->first = (g->first + 1) % QUEUE;
        g->letters--;
        bool mine = g->up && l.session == g->hello.session;
        if (mine && l.update != NULL)
            apply(f, g, l.update);
        else if (mine)
            answer(f, g, l.seq);
        control_update_free(l.update);
    }
}

static void gateway_up(struct fleet *f, struct played *g)
{
    g->hello.session = ++f->sessions;
    g->up = true;
    services_gateway_up(f->process[g->process].services, &g->hello, f->now, wall(f));
}

static void depart(struct fleet *f, struct played *g, int to)
{
    if (g->process < 0 || g->process == to || is_stalled(f, g->process))
        return;
    g->parcel = services_gateway_export(f->process[g->process].services, g->hello.id, f->now,
                                        wall(f));
    assert_non_null(g->parcel);
    g->process = -1;
    g->to = to;
    g->land_ns = late(f);
}

/* --- what must hold -------------------------------------------------------------------- */

static struct share_key key_named(const char *id)
{
    return (struct share_key){.a = hash_bytes(HASH_SEED, id, strlen(id)),
                              .b = hash_bytes(UINT64_C(0x9e3779b97f4a7c15), id, strlen(id))};
}

static bool same(struct share_key a, struct share_key b)
{
    return a.a == b.a && a.b == b.b;
}

static uint64_t tokens_at(const struct process *p, struct share_key key, int kind)
{
    const struct list *slot = table_slot(&p->services->by_quota, key.a);
    list_for_each(it, slot) {
        const struct quota *q = container_of(it, struct quota, in_key);
        if (same(q->key, key))
            return (uint64_t)q->own[kind] + q->held[kind] + q->back[kind];
    }
    return share_default(p->index, PROCESSES);
}

static uint64_t tokens_in(const struct share_batch *b, struct share_key key, int kind)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < b->notes; i++)
        sum += same(b->note[i].key, key) ? b->note[i].returned[kind] : 0;
    for (size_t i = 0; i < b->grants; i++)
        sum += same(b->grant[i].key, key) ? b->grant[i].granted[kind] : 0;
    return sum;
}

static void check_tokens(const struct fleet *f, const char *id)
{
    struct share_key key = key_named(id);
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
                sum += same(g->carried[k].key, key) ? g->carried[k].tokens[kind] : 0;
        }
        if (sum != SHARE_ONE)
            fail_msg("%s, kind %d: %llu tokens instead of %u", id, kind, (unsigned long long)sum,
                     SHARE_ONE);
    }
}

static uint64_t in_force(const struct fleet *f, bool tenant)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < GATEWAYS; i++)
        sum += tenant ? f->gateway[i].tenant : f->gateway[i].cap;
    return sum;
}

/* --- the story ------------------------------------------------------------------------- */

static void put_limits(struct fleet *f, uint64_t limit)
{
    f->limit = limit;
    for (size_t i = 0; i < PROCESSES; i++) {
        struct agreement a = {.version = limit, .weight = AGREEMENT_WEIGHT,
                              .per = AGREEMENT_PER_GROUP, .compliance_window_ns = 10 * S};
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
        assert_int_equal(services_agreement_put(f->process[i].services, &a, f->now, wall(f), why,
                                                sizeof(why)), 0);
        assert_int_equal(services_tenant_put(f->process[i].services, t, f->now, wall(f)), 0);
        free(t);
    }
}

static struct fleet *fleet_new(uint64_t seed, uint32_t full_ppm)
{
    struct fleet *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_seed(&f->rng, seed);
    f->now = 100 * S;
    f->full_ppm = full_ppm;
    for (uint32_t i = 0; i < PROCESSES; i++) {
        struct process *p = &f->process[i];
        p->fleet = f;
        p->index = i;
        struct services_config c = {.period_ns = S, .lease_ns = 10 * S, .max_gateways = 16,
                                    .max_streams = 64, .process = i, .processes = PROCESSES,
                                    .processes_at_start = PROCESSES, .first_epoch = 1000};
        struct services_sink sink = {.ctx = p, .poll = sink_poll, .controls = sink_controls,
                                     .session_end = sink_end, .sample = sink_sample,
                                     .action = sink_action, .event = sink_event,
                                     .target_seen = sink_target, .share = sink_share};
        p->services = services_new(&c, &sink);
        assert_non_null(p->services);
        services_loaded(p->services, f->now, wall(f));
    }
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

static void fleet_free(struct fleet *f)
{
    for (size_t i = 0; i < GATEWAYS; i++) {
        struct played *g = &f->gateway[i];
        services_parcel_free(g->parcel);
        for (size_t k = 0; k < g->letters; k++)
            control_update_free(g->letter[(g->first + k) % QUEUE].update);
    }
    for (size_t a = 0; a < PROCESSES; a++) {
        for (size_t b = 0; b < PROCESSES; b++) {
            for (size_t i = 0; i < f->posts[a][b]; i++)
                free(f->post[a][b][(f->first[a][b] + i) % QUEUE].batch);
        }
    }
    for (size_t i = 0; i < PROCESSES; i++)
        services_free(f->process[i].services);
    free(f);
}

static void deliver(struct fleet *f, size_t from, size_t to)
{
    size_t *n = &f->posts[from][to], *first = &f->first[from][to];
    while (*n > 0 && f->post[from][to][*first].at_ns <= f->now && !is_stalled(f, (int)to)) {
        struct share_batch *b = f->post[from][to][*first].batch;
        *first = (*first + 1) % QUEUE;
        (*n)--;
        services_share(f->process[to].services, b, f->now, wall(f));
        free(b);
        check_tokens(f, AGREEMENT);
    }
}

static void step(struct fleet *f)
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
            services_tick(f->process[i].services, f->now, wall(f));
    }
    check_tokens(f, AGREEMENT);
    check_tokens(f, TENANT);
}

static void run(struct fleet *f, uint64_t seconds)
{
    for (uint64_t end = f->now + seconds * S; f->now < end;)
        step(f);
}

static void settle(struct fleet *f)
{
    f->full_ppm = 0;
    for (size_t i = 0; i < PROCESSES; i++)
        f->process[i].stalled_until_ns = 0;
    run(f, 1);
    for (size_t i = 0; i < GATEWAYS; i++) {
        if (!f->gateway[i].up)
            gateway_up(f, &f->gateway[i]);
    }
    run(f, 12);
}

static void something(struct fleet *f)
{
    struct played *g = &f->gateway[rng_below(&f->rng, GATEWAYS)];
    uint64_t n = rng_below(&f->rng, 100);
    if (n < 20) {
        g->demand = rng_below(&f->rng, 2) * rng_below(&f->rng, 2 * LIMIT);
    } else if (n < 60) {
        if (f->moves)
            depart(f, g, (int)rng_below(&f->rng, PROCESSES));
    } else if (n < 66) {
        f->process[rng_below(&f->rng, PROCESSES)].stalled_until_ns =
            f->now + rng_below(&f->rng, 6) * S;
    } else if (n < 72) {
        if (g->up && g->process >= 0) {
            services_gateway_down(f->process[g->process].services, g->hello.session, "cut",
                                  f->now, wall(f));
            g->up = false;
        }
    } else if (n < 90) {
        if (!g->up && g->process >= 0)
            gateway_up(f, g);
    } else if (n < 92 && f->moves) {
        put_limits(f, 1 + rng_below(&f->rng, 2 * LIMIT));
    }
}

static void no_token_is_made_or_lost_whatever_happens(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct fleet *f = fleet_new(seed, seed % 2 * 200000);
        f->moves = true;
        for (size_t i = 0; i < GATEWAYS; i++)
            gateway_up(f, &f->gateway[i]);
        for (int i = 0; i < 3000; i++) {
            step(f);
            if (i % 3 == 0)
                something(f);
        }
        settle(f);
        assert_true(in_force(f, false) <= f->limit + GATEWAYS);
        assert_true(in_force(f, true) <= 2 * f->limit + GATEWAYS);
        if (f->limit > 10 * GATEWAYS)
            assert_true(in_force(f, false) + GATEWAYS >= f->limit);
        fleet_free(f);
    }
}

/* With one gateway at each process nothing is divided within one, where a part that grows may be
 * in force a moment before that which shrinks. */
static void the_sum_in_force_never_exceeds_the_limit(void **state)
{
    (void)state;
    for (uint64_t seed = 11; seed <= 16; seed++) {
        struct fleet *f = fleet_new(seed, seed % 2 * 200000);
        for (size_t i = 0; i < PROCESSES; i++) {
            gateway_up(f, &f->gateway[i]);
            f->gateway[i].demand = i * LIMIT;
        }
        for (int i = 0; i < 4000; i++) {
            step(f);
            uint64_t sum = in_force(f, false), tenant = in_force(f, true);
            if (sum > LIMIT + PROCESSES || tenant > 2 * LIMIT + PROCESSES)
                fail_msg("%llu and %llu are in force", (unsigned long long)sum,
                         (unsigned long long)tenant);
            if (i % 5 != 0)
                continue;
            struct played *g = &f->gateway[rng_below(&f->rng, PROCESSES)];
            uint64_t n = rng_below(&f->rng, 20);
            if (n < 5)
                g->demand = rng_below(&f->rng, 2) * rng_below(&f->rng, 2 * LIMIT);
            else if (n == 5)
                f->process[rng_below(&f->rng, PROCESSES)].stalled_until_ns =
                    f->now + rng_below(&f->rng, 6) * S;
        }
        fleet_free(f);
    }
}

static void the_limit_goes_where_the_demand_is(void **state)
{
    (void)state;
    struct fleet *f = fleet_new(21, 0);
    gateway_up(f, &f->gateway[0]);
    gateway_up(f, &f->gateway[1]);
    gateway_up(f, &f->gateway[2]);
    f->gateway[1].demand = 5 * LIMIT;
    run(f, 20);
    assert_true(f->gateway[1].cap > LIMIT * 9 / 10);
    f->gateway[1].demand = 0;
    f->gateway[2].demand = 5 * LIMIT;
    run(f, 20);
    assert_true(f->gateway[2].cap > LIMIT * 9 / 10);
    f->gateway[0].demand = 5 * LIMIT;
    run(f, 20);
    assert_true(f->gateway[0].cap > LIMIT * 4 / 10 && f->gateway[2].cap > LIMIT * 4 / 10);
    fleet_free(f);
}

static void one_that_is_alone_has_all_of_it_to_the_unit(void **state)
{
    (void)state;
    struct fleet *f = fleet_new(31, 0);
    gateway_up(f, &f->gateway[1]);
    run(f, 5);
    assert_int_equal(f->gateway[1].cap, LIMIT);
    /* And takes it along. */
    depart(f, &f->gateway[1], 2);
    for (int i = 0; i < 500; i++) {
        step(f);
        assert_int_equal(f->gateway[1].cap, LIMIT);
    }
    fleet_free(f);
}

static void one_that_stands_still_keeps_its_part_and_the_others_divide_the_rest(void **state)
{
    (void)state;
    struct fleet *f = fleet_new(41, 0);
    for (size_t i = 0; i < 2; i++) {
        gateway_up(f, &f->gateway[i]);
        f->gateway[i].demand = 5 * LIMIT;
    }
    run(f, 20);
    uint64_t kept = f->gateway[1].cap;
    assert_true(kept > LIMIT * 4 / 10);
    f->process[1].stalled_until_ns = f->now + 1000 * S;
    gateway_up(f, &f->gateway[2]);
    f->gateway[2].demand = 5 * LIMIT;
    run(f, 20);
    assert_int_equal(f->gateway[1].cap, kept);
    uint64_t rest = LIMIT - kept;
    assert_true(f->gateway[0].cap > rest * 4 / 10 && f->gateway[2].cap > rest * 4 / 10);
    assert_true(in_force(f, false) <= LIMIT + PROCESSES);
    /* A new claim while nobody coordinates: even parts at once. */
    f->process[0].stalled_until_ns = f->now + 1000 * S;
    fleet_free(f);
    f = fleet_new(42, 0);
    f->process[0].stalled_until_ns = f->now + 1000 * S;
    gateway_up(f, &f->gateway[1]);
    run(f, 5);
    assert_in_range(f->gateway[1].cap, LIMIT / 3 - 1, LIMIT / 3);
    f->process[0].stalled_until_ns = 0;
    run(f, 5);
    assert_int_equal(f->gateway[1].cap, LIMIT);
    fleet_free(f);
}

static void what_nobody_uses_is_forgotten(void **state)
{
    (void)state;
    struct fleet *f = fleet_new(51, 0);
    for (size_t i = 0; i < GATEWAYS; i++) {
        gateway_up(f, &f->gateway[i]);
        f->gateway[i].demand = 1000 * i;
    }
    run(f, 10);
    assert_int_equal(coordinator_count(f->process[0].services->coordinator), 2);
    for (size_t i = 0; i < PROCESSES; i++) {
        assert_int_equal(services_document_remove(f->process[i].services, "Agreement", "cap",
                                                  f->now, wall(f)), 0);
        assert_int_equal(services_document_remove(f->process[i].services, "Tenant", "acme",
                                                  f->now, wall(f)), 0);
    }
    run(f, 5);
    assert_int_equal(coordinator_count(f->process[0].services->coordinator), 0);
    for (size_t i = 0; i < PROCESSES; i++) {
        const struct table *t = &f->process[i].services->by_quota;
        for (size_t k = 0; k <= t->mask; k++)
            assert_true(list_empty(&t->slot[k]));
    }
    fleet_free(f);
}

static const struct quota *quota_of(const struct process *p, const char *id)
{
    struct share_key key = key_named(id);
    const struct list *slot = table_slot(&p->services->by_quota, key.a);
    list_for_each(it, slot) {
        const struct quota *q = container_of(it, struct quota, in_key);
        if (same(q->key, key))
            return q;
    }
    return NULL;
}

/* Hold back, or let go of, what is on its way between two processes. */
static void hold_posts(struct fleet *f, size_t from, size_t to, bool hold)
{
    for (size_t i = 0; i < f->posts[from][to]; i++)
        f->post[from][to][(f->first[from][to] + i) % QUEUE].at_ns = hold ? UINT64_MAX : f->now;
}

/* The coordinator orders a process that has no streams to lend all it has; before the order is
 * there, streams are. They were not known of, so the order counts for nothing. */
static void an_order_that_crosses_news_is_not_followed(void **state)
{
    (void)state;
    struct fleet *f = fleet_new(61, 0);
    gateway_up(f, &f->gateway[0]);
    f->gateway[0].demand = 5 * LIMIT;
    for (int i = 0; f->posts[0][1] == 0; i++) {
        assert_true(i < 1000);
        step(f);
    }
    hold_posts(f, 0, 1, true);
    gateway_up(f, &f->gateway[1]);
    for (int i = 0; f->gateway[1].cap == 0; i++) {
        assert_true(i < 1000);
        step(f);
        hold_posts(f, 0, 1, true);
    }
    uint32_t even = share_default(1, PROCESSES);
    const struct quota *q = quota_of(&f->process[1], AGREEMENT);
    assert_non_null(q);
    assert_int_equal(q->own[GATE_IOPS_TOTAL], even);
    /* The orders of before, and nothing else: the coordinator has not heard of the streams. */
    bool ordered = false;
    for (size_t i = 0; i < f->posts[0][1]; i++) {
        const struct share_batch *b = f->post[0][1][(f->first[0][1] + i) % QUEUE].batch;
        for (size_t k = 0; k < b->grants; k++)
            ordered |= same(b->grant[k].key, key_named(AGREEMENT)) &&
                       b->grant[k].keep[GATE_IOPS_TOTAL] == 0;
    }
    assert_true(ordered);
    struct post first = f->post[0][1][f->first[0][1]];
    assert_true(first.batch->grants > 0);
    f->first[0][1] = (f->first[0][1] + 1) % QUEUE;
    f->posts[0][1]--;
    services_share(f->process[1].services, first.batch, f->now, wall(f));
    free(first.batch);
    assert_int_equal(q->own[GATE_IOPS_TOTAL], even);
    assert_int_equal(q->held[GATE_IOPS_TOTAL], 0);
    assert_in_range(f->gateway[1].cap, LIMIT / 3 - 1, LIMIT / 3);
    hold_posts(f, 0, 1, false);
    settle(f);
    assert_true(in_force(f, false) <= LIMIT + GATEWAYS);
    assert_true(in_force(f, false) + GATEWAYS >= LIMIT);
    fleet_free(f);
}

/* What is ordered away is still in force at a gateway that has not followed yet; when it moves it
 * takes along what covers that, so that nobody else may use it. */
static void one_that_moves_while_tokens_are_given_back_takes_what_it_uses(void **state)
{
    (void)state;
    size_t seen = 0;
    for (uint64_t seed = 71; seed <= 90; seed++) {
        struct fleet *f = fleet_new(seed, 0);
        struct played *g = &f->gateway[1]; /* and 4, at the same process */
        gateway_up(f, g);
        gateway_up(f, &f->gateway[4]);
        g->demand = 5 * LIMIT;
        run(f, 20);
        assert_true(g->cap > LIMIT / 2);
        gateway_up(f, &f->gateway[0]);
        f->gateway[0].demand = 5 * LIMIT;
        const struct quota *q = quota_of(&f->process[1], AGREEMENT);
        assert_non_null(q);
        for (int i = 0; i < 3000 && q->held[GATE_IOPS_TOTAL] == 0; i++)
            step(f);
        if (q->held[GATE_IOPS_TOTAL] == 0) {
            fleet_free(f);
            continue;
        }
        seen++;
        uint64_t used = g->cap; /* it has not heard yet, or has just */
        uint64_t before = (uint64_t)q->own[GATE_IOPS_TOTAL] + q->held[GATE_IOPS_TOTAL];
        depart(f, g, 2);
        const struct gateway *moving = (const struct gateway *)g->parcel;
        uint64_t carried = 0;
        for (size_t k = 0; k < moving->carried_count; k++) {
            if (same(moving->carried[k].key, key_named(AGREEMENT)))
                carried += moving->carried[k].tokens[GATE_IOPS_TOTAL];
        }
        q = quota_of(&f->process[1], AGREEMENT);
        assert_non_null(q);
        assert_int_equal(carried + q->own[GATE_IOPS_TOTAL] + q->held[GATE_IOPS_TOTAL], before);
        assert_true(carried * LIMIT / SHARE_ONE + 1 >= used);
        check_tokens(f, AGREEMENT);
        check_tokens(f, TENANT);
        f->gateway[4].demand = LIMIT;
        settle(f);
        assert_int_equal(g->process, 2);
        assert_true(in_force(f, false) <= LIMIT + GATEWAYS);
        assert_true(in_force(f, false) + GATEWAYS >= LIMIT);
        fleet_free(f);
    }
    assert_true(seen > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_order_that_crosses_news_is_not_followed),
        cmocka_unit_test(one_that_moves_while_tokens_are_given_back_takes_what_it_uses),
        cmocka_unit_test(no_token_is_made_or_lost_whatever_happens),
        cmocka_unit_test(the_sum_in_force_never_exceeds_the_limit),
        cmocka_unit_test(the_limit_goes_where_the_demand_is),
        cmocka_unit_test(one_that_is_alone_has_all_of_it_to_the_unit),
        cmocka_unit_test(one_that_stands_still_keeps_its_part_and_the_others_divide_the_rest),
        cmocka_unit_test(what_nobody_uses_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

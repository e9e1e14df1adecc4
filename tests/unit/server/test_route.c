/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: gateways that share storage have one place, transitively and only they; places fit the
 * numbers of pairs and processes; loads add up; moves that are proposed lead to rest.
 * Method: random gateways that come, go, say other storage, get loads and move, against a model
 * that finds subgroups by brute force. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "server/monitor/route.h"
#include "server/threads.h"

#define GATEWAYS 24u
#define STORAGE 10u
#define S UINT64_C(1000000000)

struct model {
    struct rng rng;
    struct route *route;
    struct route_gateway *gateway[GATEWAYS]; /* NULL: not in the table */
    bool stands[GATEWAYS][STORAGE];
    size_t pairs, processes;
    uint64_t now;
};

static void id_of(size_t i, uint8_t id[GATEWAY_ID_SIZE])
{
    memset(id, 0, GATEWAY_ID_SIZE);
    id[0] = (uint8_t)(i + 1);
}

/* What can be reached from each gateway, by walking until nothing changes. */
static void components(const struct model *m, size_t part[GATEWAYS])
{
    for (size_t i = 0; i < GATEWAYS; i++)
        part[i] = i;
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t a = 0; a < GATEWAYS; a++) {
            for (size_t b = 0; b < GATEWAYS; b++) {
                bool shared = false;
                for (size_t t = 0; m->gateway[a] && m->gateway[b] && t < STORAGE; t++)
                    shared = shared || (m->stands[a][t] && m->stands[b][t]);
                if (shared && part[b] > part[a]) {
                    part[b] = part[a];
                    changed = true;
                }
            }
        }
    }
}

static void check(const struct model *m)
{
    size_t part[GATEWAYS], groups = 0, count = 0;
    uint64_t load[THREADS_MAX_SERVICES] = {0};
    components(m, part);
    for (size_t a = 0; a < GATEWAYS; a++) {
        const struct route_gateway *g = m->gateway[a];
        if (g == NULL)
            continue;
        size_t size = 0;
        for (size_t b = 0; b < GATEWAYS; b++) {
            if (m->gateway[b] == NULL)
                continue;
            bool together = route_group_number(g) == route_group_number(m->gateway[b]);
            assert_int_equal(together, part[a] == part[b]);
            size += together;
        }
        assert_int_equal(route_group_size(g), size);
        assert_true(route_fits(m->route, route_wanted(g)));
        load[route_wanted(g).process] += g->load;
        groups += part[a] == a;
        count++;
    }
    assert_int_equal(route_group_count(m->route), groups);
    assert_int_equal(route_gateway_count(m->route), count);
    for (uint16_t i = 0; i < THREADS_MAX_SERVICES; i++)
        assert_int_equal(route_process_load(m->route, i), load[i]);
}

static void say(struct model *m, size_t i)
{
    uint64_t target[STORAGE];
    size_t n = 0;
    for (size_t t = 0; t < STORAGE; t++) {
        m->stands[i][t] = rng_below(&m->rng, 12) == 0;
        if (m->stands[i][t])
            target[n++] = 1000 + t;
    }
    route_targets(m->route, m->gateway[i], target, n);
}

/* Carry out what is proposed, some of it in vain, until nothing is. */
static void come_to_rest(struct model *m)
{
    struct route_gateway *g;
    for (size_t i = 0; (g = route_astray(m->route)) != NULL; i++) {
        assert_true(i < 100 * GATEWAYS);
        struct route_place to = route_wanted(g);
        route_move_begin(m->route, g);
        assert_false(route_settled(m->route));
        route_move_end(m->route, g, rng_below(&m->rng, 4) > 0, to);
    }
    assert_true(route_settled(m->route));
    for (size_t i = 0; i < GATEWAYS; i++) {
        if (m->gateway[i] == NULL)
            continue;
        struct route_place at = m->gateway[i]->place, shall = route_wanted(m->gateway[i]);
        assert_int_equal(at.pair, shall.pair);
        assert_int_equal(at.process, shall.process);
    }
}

static void something(struct model *m)
{
    uint8_t id[GATEWAY_ID_SIZE];
    size_t i = rng_below(&m->rng, GATEWAYS);
    uint64_t n = rng_below(&m->rng, 100);
    m->now += S;
    id_of(i, id);
    if (m->gateway[i] == NULL) {
        m->gateway[i] = route_add(m->route, id, "g", (int)rng_below(&m->rng, 6) - 1, NULL);
        assert_non_null(m->gateway[i]);
        assert_ptr_equal(route_find(m->route, id), m->gateway[i]);
        assert_ptr_equal(route_add(m->route, id, "g", -1, NULL), m->gateway[i]);
        memset(m->stands[i], 0, sizeof(m->stands[i]));
    } else if (n < 40) {
        say(m, i);
    } else if (n < 60) {
        route_load(m->route, m->gateway[i], rng_below(&m->rng, 1000));
    } else if (n < 75) {
        route_remove(m->route, m->gateway[i]);
        m->gateway[i] = NULL;
        assert_null(route_find(m->route, id));
    } else if (n < 90) {
        (void)route_balance(m->route, NULL, 1 + rng_below(&m->rng, 8), m->now);
    } else {
        m->pairs = 1 + rng_below(&m->rng, 5);
        m->processes = 1 + rng_below(&m->rng, 5);
        route_resize(m->route, m->pairs, m->processes, m->now);
    }
}

static void subgroups_places_and_loads_are_those_of_the_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct model m = {.pairs = 2, .processes = 3, .now = 100 * S};
        print_message("seed %llu\n", (unsigned long long)seed);
        rng_seed(&m.rng, seed);
        m.route = route_new(m.pairs, m.processes, GATEWAYS);
        assert_non_null(m.route);
        for (int i = 0; i < 1000; i++) {
            something(&m);
            check(&m);
            if (i % 7 == 0)
                come_to_rest(&m);
        }
        route_free(m.route);
    }
}

static void even_loads_stay_and_uneven_ones_are_spread(void **state)
{
    (void)state;
    struct route *r = route_new(2, 4, 64);
    struct route_gateway *g[32];
    uint8_t id[GATEWAY_ID_SIZE];
    for (size_t i = 0; i < 32; i++) {
        id_of(i, id);
        g[i] = route_add(r, id, "g", 0, NULL);
        route_load(r, g[i], 100);
    }
    assert_int_equal(route_process_load(r, 0), 3200);
    assert_true(route_balance(r, NULL, 64, S) > 16);
    for (uint16_t p = 0; p < 4; p++)
        assert_in_range(route_process_load(r, p), 700, 900);
    assert_int_equal(route_balance(r, NULL, 64, S), 0);
    /* One that does not answer neither gets nor gives. */
    bool busy[THREADS_MAX_SERVICES] = {[3] = true};
    uint64_t kept = route_process_load(r, 3);
    for (size_t i = 0; i < 32; i++) {
        if (route_wanted(g[i]).process == 0)
            route_load(r, g[i], 1000);
    }
    (void)route_balance(r, busy, 64, 1000 * S);
    assert_int_equal(route_process_load(r, 3), kept);
    route_free(r);
}

static void newcomers_go_where_nobody_stands_still(void **state)
{
    (void)state;
    struct route *r = route_new(2, 4, 64);
    bool still[THREADS_MAX_SERVICES] = {[0] = true, [2] = true};
    uint8_t id[GATEWAY_ID_SIZE];
    route_still(r, still);
    for (size_t i = 0; i < 16; i++) {
        id_of(i, id);
        uint16_t at = route_wanted(route_add(r, id, "g", -1, NULL)).process;
        assert_true(at == 1 || at == 3);
    }
    /* Where it is known already it stays; and somewhere it must be when all stand still. */
    id_of(20, id);
    assert_int_equal(route_wanted(route_add(r, id, "g", 2, NULL)).process, 2);
    still[1] = still[3] = true;
    route_still(r, still);
    id_of(21, id);
    assert_int_equal(route_wanted(route_add(r, id, "g", -1, NULL)).process, 0);
    memset(still, 0, sizeof(still));
    route_still(r, still);
    id_of(22, id);
    assert_int_not_equal(route_wanted(route_add(r, id, "g", -1, NULL)).process, 1);
    route_free(r);
}

static void a_full_table_lets_go_of_one_without_sessions_only(void **state)
{
    (void)state;
    struct route *r = route_new(1, 1, 2);
    struct route_evicted gone;
    uint8_t id[GATEWAY_ID_SIZE];
    id_of(0, id);
    route_add(r, id, "a", -1, NULL)->sessions = 1;
    id_of(1, id);
    route_add(r, id, "b", -1, NULL);
    id_of(2, id);
    assert_non_null(route_add(r, id, "c", -1, &gone));
    assert_true(gone.any);
    assert_int_equal(gone.id[0], 2);
    route_find(r, id)->sessions = 1;
    id_of(3, id);
    assert_null(route_add(r, id, "d", -1, &gone));
    assert_false(gone.any);
    route_free(r);
}

static void one_with_two_sessions_waits(void **state)
{
    (void)state;
    struct route *r = route_new(1, 2, 4);
    uint8_t id[GATEWAY_ID_SIZE];
    const uint64_t storage = 7;
    id_of(0, id);
    struct route_gateway *a = route_add(r, id, "a", 0, NULL);
    id_of(1, id);
    struct route_gateway *b = route_add(r, id, "b", 1, NULL);
    a->sessions = b->sessions = 2;
    route_targets(r, a, &storage, 1);
    route_targets(r, b, &storage, 1);
    assert_false(route_settled(r));
    assert_null(route_astray(r));
    a->sessions = b->sessions = 1;
    struct route_gateway *moves = route_astray(r);
    assert_non_null(moves);
    route_move_begin(r, moves);
    assert_null(route_astray(r));
    route_move_end(r, moves, true, route_wanted(moves));
    assert_true(route_settled(r));
    route_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subgroups_places_and_loads_are_those_of_the_model),
        cmocka_unit_test(even_loads_stay_and_uneven_ones_are_spread),
        cmocka_unit_test(newcomers_go_where_nobody_stands_still),
        cmocka_unit_test(a_full_table_lets_go_of_one_without_sessions_only),
        cmocka_unit_test(one_with_two_sessions_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: gateways move between thread pairs and SLA processes while they work, and no counter is
 * lost or counted twice, no control is lost, and nobody waits for a stalled neighbour.
 * Method: the monitor's real threads (two pairs) and real SLA processes (two) over real sockets,
 * with 200 made-up gateways whose counters grow with each poll. The test is the database: it adds
 * up every sample that is written and compares with what each gateway counted. Run under TSan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../folder.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "fleet.h"
#include "server/monitor/monitor_private.h"
#include "server/msg.h"
#include "server/sla.h"
#include "server/store/store.h"

#define GATEWAYS 200u
#define PAIRS 2u
#define PROCESSES 2u
#define PATIENCE_NS (60 * NS_PER_S)
#define BALANCE_NS (200 * NS_PER_MS)

struct ground {
    char dir[100];
    struct server_config config;
    struct threads threads;
    struct monitor *monitor;
    struct monitor_thread of_pair[PAIRS], acceptor;
    struct sla_thread sla[PROCESSES];
    struct fleet fleet;
    pthread_t thread[1 + 2 * PAIRS + PROCESSES];
    struct mailbox *box[1 + 2 * PAIRS + PROCESSES];
    size_t thread_count;
    uint64_t stored[GATEWAYS]; /* sum of all samples */
    size_t moved_said;
    bool resized, viewed;
    json_t *view;
};

static void start(struct ground *g, struct mailbox *box, thread_main *body, void *arg)
{
    g->box[g->thread_count] = box;
    assert_int_equal(pthread_create(&g->thread[g->thread_count++], NULL, body, arg), 0);
}

static void make_threads(struct ground *g)
{
    struct threads *t = &g->threads;
    char name[32];
    t->readers = 1;
    t->set = mailbox_set_new(32);
    t->main = mailbox_new(t->set, "main", 64, 16);
    t->acceptor = mailbox_new(t->set, "acceptor", 2048, 64);
    t->app = mailbox_new(t->set, "app", 8192, 64);
    t->resource = mailbox_new(t->set, "resource", 4096, 16);
    t->store_writer = mailbox_new(t->set, "store.writer", 8192, 64);
    t->store_reader[0] = mailbox_new(t->set, "store.reader[0]", 256, 16);
    for (size_t i = 0; i < PAIRS; i++) {
        snprintf(name, sizeof(name), "inbound[%zu]", i);
        t->inbound[i] = mailbox_new(t->set, name, 1024, 16);
        snprintf(name, sizeof(name), "outbound[%zu]", i);
        t->outbound[i] = mailbox_new(t->set, name, 4096, 16);
    }
    for (size_t i = 0; i < PROCESSES; i++) {
        snprintf(name, sizeof(name), "services[%zu]", i);
        t->services[i] = mailbox_new(t->set, name, 4096, 64);
    }
    t->queued = calloc(2 * GATEWAYS, sizeof(*t->queued));
    t->trail = trail_new(2 * GATEWAYS);
}

static void ground_open(struct ground *g, size_t pairs, size_t processes, uint64_t balance_ns)
{
    char words[256] = "", path[128];
    memset(g, 0, sizeof(*g));
    log_init("test", LOG_LEVEL_ERROR);
    assert_true(folder_make(g->dir, sizeof(g->dir), "moves"));
    server_config_init(&g->config);
    snprintf(g->config.state_dir, sizeof(g->config.state_dir), "%s", g->dir);
    snprintf(g->config.control_listen[0], sizeof(g->config.control_listen[0]), "127.0.0.1:0");
    g->config.max_gateways = 2 * GATEWAYS;
    g->config.period_ns = 300 * NS_PER_MS;
    g->config.lease_ns = 3 * NS_PER_S;
    make_threads(g);
    struct threads *t = &g->threads;
    t->pairs = pairs;
    t->services_count = processes;
    if (monitor_open(&g->config, t, &g->monitor, words, sizeof(words)) < 0)
        fail_msg("%s", words);
    g->monitor->balance_ns = balance_ns;
    g->monitor->stall_ns = 200 * NS_PER_MS;
    g->acceptor = (struct monitor_thread){.monitor = g->monitor};
    start(g, t->acceptor, monitor_acceptor_main, &g->acceptor);
    for (size_t i = 0; i < PAIRS; i++) {
        g->of_pair[i] = (struct monitor_thread){.monitor = g->monitor, .pair = i};
        start(g, t->inbound[i], monitor_inbound_main, &g->of_pair[i]);
    }
    for (size_t i = 0; i < PROCESSES; i++) {
        g->sla[i] = (struct sla_thread){
            .config = &g->config, .threads = t, .index = i,
            .updates = monitor_update_slab(g->monitor, i)};
        start(g, t->services[i], sla_main, &g->sla[i]);
    }
    for (size_t i = 0; i < PAIRS; i++)
        start(g, t->outbound[i], monitor_outbound_main, &g->of_pair[i]);
    snprintf(path, sizeof(path), "%s/control.sock", g->dir);
    fleet_open(&g->fleet, path, g->monitor->local_key, GATEWAYS);
}

/* ---- the store and the app ---- */

static void free_json(void *json)
{
    json_decref(json);
}

static const char *const limit_document =
    "[{\"kind\":\"Agreement\",\"name\":\"cap\",\"version\":1,\"updated_us\":1,\"document\":"
    "{\"kind\":\"Agreement\",\"name\":\"cap\",\"appliesTo\":{\"volume\":\"db\"},\"per\":\"stream\","
    "\"limit\":{\"iops\":1000}}}]";

static void store_turn(struct ground *g)
{
    struct threads *t = &g->threads;
    struct msg m;
    while (mailbox_take(t->store_reader[0], &m)) {
        const struct store_query *q = m.body;
        json_t *rows =
            q->table == STORE_DOCUMENTS ? json_loads(limit_document, 0, NULL) : json_array();
        mailbox_reply(t->store_reader[0], &m, 0, rows, free_json);
        msg_release(&m);
    }
    while (mailbox_take(t->store_writer, &m)) {
        const struct store_batch *b = m.body;
        if (m.kind == MSG_STORE_WRITE)
            mailbox_reply(t->store_writer, &m, 0, NULL, NULL);
        for (size_t i = 0; m.kind == MSG_STORE_APPEND && i < b->sample_count; i++) {
            unsigned index = 0;
            assert_int_equal(sscanf(b->sample[i].gateway, "gw%u", &index), 1);
            assert_true(index < GATEWAYS);
            g->stored[index] += b->sample[i].read_ops;
        }
        for (size_t i = 0; m.kind == MSG_STORE_APPEND && i < b->event_count; i++) {
            g->moved_said += strcmp(b->event[i].kind, "subgroup-moved") == 0;
        }
        msg_release(&m);
    }
    while (mailbox_take(t->app, &m)) {
        if (m.is_reply && m.kind == MSG_VIEW) {
            g->view = json_incref(m.body);
            g->viewed = true;
        }
        msg_release(&m);
    }
    while (mailbox_take(t->resource, &m))
        msg_release(&m);
    while (mailbox_take(t->main, &m)) {
        g->resized = g->resized || m.kind == MSG_ROUTE_RESIZE;
        msg_release(&m);
    }
}

static void turn(struct ground *g)
{
    store_turn(g);
    fleet_turn(&g->fleet, 2);
}

/* With what tells a loss from a machine that was too slow: a session that ended stays away. */
static void waited_in_vain(const struct ground *g, const char *what)
{
    struct monitor_stats s;
    size_t ended = 0;
    monitor_stats(g->monitor, &s);
    for (size_t i = 0; i < g->fleet.count; i++) {
        const struct fleet_gateway *w = &g->fleet.gateway[i];
        ended += w->ended;
        if (w->limit != g->fleet.gateway[0].limit || w->fd < 0)
            print_message("gw%zu: limit %llu, epoch %llu, %llu polls, %s\n", i,
                          (unsigned long long)w->limit, (unsigned long long)w->epoch,
                          (unsigned long long)w->polls, w->fd < 0 ? "ended" : "up");
    }
    fail_msg("waited in vain: %s; %zu of %zu up, %zu sessions ended (%llu silent, %llu slow, %llu "
             "by the server), %llu stalls, %llu reports dropped",
             what, fleet_up(&g->fleet), g->fleet.count, ended, (unsigned long long)s.ended_silent,
             (unsigned long long)s.ended_slow, (unsigned long long)s.ended_by_server,
             (unsigned long long)s.stalls, (unsigned long long)s.reports_dropped);
}

static void until(struct ground *g, bool (*done)(struct ground *g), const char *what)
{
    uint64_t deadline = clock_mono_ns() + PATIENCE_NS;
    while (!done(g)) {
        if (clock_mono_ns() > deadline)
            waited_in_vain(g, what);
        turn(g);
    }
}

static void for_a_while(struct ground *g, uint64_t ns)
{
    uint64_t end = clock_mono_ns() + ns;
    while (clock_mono_ns() < end)
        turn(g);
}

static void ground_close(struct ground *g)
{
    for (size_t i = 0; i < g->thread_count; i++) {
        struct msg stop = {.kind = MSG_STOP}, m;
        uint64_t ticket, deadline = clock_mono_ns() + PATIENCE_NS;
        assert_int_equal(mailbox_ask(g->threads.main, g->box[i], &stop, PATIENCE_NS,
                                     clock_mono_ns(), &ticket),
                         0);
        while (!mailbox_take(g->threads.main, &m)) {
            assert_true(clock_mono_ns() < deadline);
            usleep(500);
        }
        assert_int_equal(m.kind, MSG_STOP);
        pthread_join(g->thread[i], NULL);
    }
    store_turn(g);
    monitor_close(g->monitor);
    mailbox_set_free(g->threads.set);
    fleet_close(&g->fleet);
    free((void *)g->threads.queued);
    trail_free(g->threads.trail);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", g->dir);
    assert_int_equal(system(command), 0);
}

static struct monitor_stats stats(const struct ground *g)
{
    struct monitor_stats s;
    monitor_stats(g->monitor, &s);
    return s;
}

/* ---- what is waited for ---- */

static bool all_up(struct ground *g)
{
    return fleet_up(&g->fleet) == g->fleet.count;
}

static bool all_limited(struct ground *g)
{
    for (size_t i = 0; i < g->fleet.count; i++) {
        if (g->fleet.gateway[i].fd >= 0 && g->fleet.gateway[i].limit != 1000)
            return false;
    }
    return true;
}

/* Also at those whose session ended, none of which should have. */
static bool all_new_limit(struct ground *g)
{
    for (size_t i = 0; i < g->fleet.count; i++) {
        if (g->fleet.gateway[i].limit != 2000)
            return false;
    }
    return true;
}

static bool none_moves(struct ground *g)
{
    return stats(g).moving_now == 0;
}

static bool resized(struct ground *g)
{
    return g->resized;
}

/* Counted at the gateway after its first answer: what was before says only where it stood. */
static bool all_stored(struct ground *g)
{
    for (size_t i = 0; i < g->fleet.count; i++) {
        const struct fleet_gateway *w = &g->fleet.gateway[i];
        assert_true(g->stored[i] <= w->ops - w->first_ops);
        if (g->stored[i] != w->ops - w->first_ops)
            return false;
    }
    return true;
}

static void connect_all(struct ground *g)
{
    size_t here = fleet_up(&g->fleet);
    for (size_t i = 0; i < g->fleet.count; i++) {
        if (g->fleet.gateway[i].fd >= 0)
            continue;
        fleet_connect(&g->fleet, &g->fleet.gateway[i]);
        here++;
        while (fleet_up(&g->fleet) + 32 < here) /* as many handshakes as one host may have */
            turn(g);
    }
    until(g, all_up, "all sessions");
}

static void resize_begin(struct ground *g, size_t pairs, size_t processes)
{
    struct msg m = {.kind = MSG_ROUTE_RESIZE, .arg = {pairs, processes}};
    uint64_t ticket;
    g->resized = false;
    assert_int_equal(mailbox_ask(g->threads.main, g->threads.acceptor, &m, PATIENCE_NS,
                                 clock_mono_ns(), &ticket),
                     0);
}

static void resize(struct ground *g, size_t pairs, size_t processes)
{
    resize_begin(g, pairs, processes);
    until(g, resized, "all gateways to be inside");
}

static void limit_all(struct ground *g, uint64_t iops)
{
    for (size_t i = 0; i < PROCESSES; i++) {
        struct document_change *c = calloc(1, sizeof(*c));
        snprintf(c->kind, sizeof(c->kind), "Agreement");
        snprintf(c->name, sizeof(c->name), "cap");
        c->agreement.version = iops;
        snprintf(c->agreement.name, sizeof(c->agreement.name), "cap");
        snprintf(c->agreement.applies_to.volume, sizeof(c->agreement.applies_to.volume), "db");
        c->agreement.per = AGREEMENT_PER_STREAM;
        c->agreement.weight = 100;
        c->agreement.limits.rate[GATE_IOPS_TOTAL].rate = iops;
        struct msg m = {.kind = MSG_DOCUMENT_CHANGED, .body = c, .body_free = free};
        assert_int_equal(mailbox_post(g->threads.app, g->threads.services[i], &m), 0);
    }
}

static json_t *gateways_of(struct ground *g, size_t process)
{
    struct view_request *v = calloc(1, sizeof(*v));
    v->kind = VIEW_GATEWAYS;
    struct msg m = {.kind = MSG_VIEW, .body = v, .body_free = free};
    uint64_t ticket, deadline = clock_mono_ns() + PATIENCE_NS;
    g->viewed = false;
    assert_int_equal(mailbox_ask(g->threads.app, g->threads.services[process], &m, PATIENCE_NS,
                                 clock_mono_ns(), &ticket),
                     0);
    while (!g->viewed) {
        assert_true(clock_mono_ns() < deadline);
        turn(g);
    }
    return g->view;
}

static void nothing_lost(struct ground *g)
{
    g->fleet.frozen = true;
    until(g, all_stored, "every count to be written down");
    for_a_while(g, 700 * NS_PER_MS); /* and no more than that */
    assert_true(all_stored(g));
    for (size_t i = 0; i < g->fleet.count; i++) {
        assert_int_equal(g->fleet.gateway[i].ended, 0);
        assert_int_equal(g->fleet.gateway[i].epochs_back, 0);
    }
    struct monitor_stats s = stats(g);
    assert_int_equal(s.ended_protocol + s.ended_error + s.ended_silent + s.ended_slow, 0);
}

static int set_up(void **state)
{
    struct ground *g = malloc(sizeof(*g));
    ground_open(g, 1, 1, BALANCE_NS);
    *state = g;
    return 0;
}

static int set_up_two(void **state)
{
    struct ground *g = malloc(sizeof(*g));
    ground_open(g, 2, 2, BALANCE_NS);
    *state = g;
    return 0;
}

/* Nothing moves: who was on the way to a process when it stood still would wait with it. */
static int set_up_settled(void **state)
{
    struct ground *g = malloc(sizeof(*g));
    ground_open(g, 2, 2, 3600 * NS_PER_S);
    *state = g;
    return 0;
}

static int tear_down(void **state)
{
    ground_close(*state);
    free(*state);
    return 0;
}

/* ---- tests ---- */

static void moves_under_load_lose_no_counter_and_no_control(void **state)
{
    struct ground *g = *state;
    connect_all(g);
    until(g, all_limited, "the limit everywhere");
    /* There and back, by other numbers of pairs and processes, with a change under way. */
    resize(g, 2, 2);
    assert_true(stats(g).moves > 0);
    limit_all(g, 1500);
    resize(g, 1, 2);
    resize(g, 2, 1);
    limit_all(g, 2000);
    resize(g, 2, 2);
    resize(g, 1, 1);
    resize(g, 2, 2);
    until(g, all_new_limit, "the newest limit everywhere");
    for_a_while(g, NS_PER_S);
    nothing_lost(g);
    assert_true(all_new_limit(g));
    assert_true(stats(g).moves > 4 * GATEWAYS / 2);
    assert_true(g->moved_said > 0);
    assert_int_equal(stats(g).moving_now, 0);
}

/* All of them are there once, those of one storage together, and no process has hardly any. */
static bool storages_are_whole(struct ground *g)
{
    size_t process_of[FLEET_TARGETS], seen = 0;
    bool whole = stats(g).moving_now == 0 && stats(g).subgroups_now == FLEET_TARGETS - 3;
    memset(process_of, 0xff, sizeof(process_of));
    for (size_t p = 0; whole && p < PROCESSES; p++) {
        json_t *view = gateways_of(g, p), *one;
        size_t i;
        seen += json_array_size(view);
        whole = json_array_size(view) > GATEWAYS / 4;
        json_array_foreach(view, i, one)
        {
            unsigned index = 0;
            sscanf(json_string_value(json_object_get(one, "name")), "gw%u", &index);
            size_t target = index % FLEET_TARGETS;
            whole = whole && (process_of[target] == SIZE_MAX || process_of[target] == p);
            process_of[target] = p;
        }
        json_decref(view);
    }
    for (size_t t = 1; t < 4; t++)
        whole = whole && process_of[t] == process_of[0];
    return whole && seen == GATEWAYS;
}

static void gateways_before_one_storage_meet_at_one_process(void **state)
{
    struct ground *g = *state;
    connect_all(g);
    until(g, all_limited, "the limit everywhere");
    /* Now storage 0 to 3 is one, by gateways that stand before two of it. */
    for (size_t i = 0; i < g->fleet.count; i++) {
        if (i % FLEET_TARGETS < 3)
            g->fleet.gateway[i].also = (unsigned)(i % FLEET_TARGETS + 1) + 1;
    }
    until(g, storages_are_whole, "each storage's gateways to be at one process");
    nothing_lost(g);
}

static bool none_lingers(struct ground *g)
{
    return stats(g).sessions_now == fleet_up(&g->fleet);
}

/* Its end may be read before the move is begun, by whom it leaves, or by whom it comes to. */
static void a_gateway_that_ends_on_its_way_ends_once(void **state)
{
    struct ground *g = *state;
    connect_all(g);
    for (size_t round = 0; round < 8; round++) {
        resize_begin(g, 1 + round % 2, 1 + round % 2);
        for (size_t i = round % 2; i < g->fleet.count; i += 2) {
            fleet_leave(&g->fleet.gateway[i]);
            if (i % 16 == round % 2)
                turn(g);
        }
        until(g, resized, "all gateways to be inside");
        until(g, none_lingers, "as many sessions as gateways");
        connect_all(g);
    }
    until(g, none_moves, "nobody to be on the way");
    assert_true(stats(g).moves > 0);
    assert_int_equal(stats(g).ended_protocol, 0);
}

static atomic_bool held, holding;

/* Runs in the thread that is to stand still. */
static void hold(int signal_number)
{
    (void)signal_number;
    atomic_store(&holding, true);
    while (atomic_load(&held)) {
        struct timespec ts = {.tv_nsec = 5000000};
        nanosleep(&ts, NULL);
    }
    atomic_store(&holding, false);
}

static void a_stalled_process_holds_up_its_own_gateways_only(void **state)
{
    struct ground *g = *state;
    uint64_t before[GATEWAYS];
    bool mine[GATEWAYS] = {false};
    connect_all(g);
    until(g, all_limited, "the limit everywhere");
    /* On a busy machine a process may seem to stand still while they connect, and then all of them
     * go to the other one. */
    resize(g, PAIRS, PROCESSES);
    for_a_while(g, NS_PER_S);
    until(g, none_moves, "all gateways to be in their places");
    json_t *view = gateways_of(g, 1), *one;
    size_t i, of_it = json_array_size(view);
    json_array_foreach(view, i, one)
    {
        unsigned index = 0;
        sscanf(json_string_value(json_object_get(one, "name")), "gw%u", &index);
        mine[index] = true;
    }
    json_decref(view);
    if (of_it == 0 || of_it >= GATEWAYS)
        fail_msg("%zu of %u gateways are at one process", of_it, GATEWAYS);
    struct sigaction sa = {.sa_handler = hold};
    sigaction(SIGUSR1, &sa, NULL);
    atomic_store(&held, true);
    pthread_kill(g->thread[1 + PAIRS + 1], SIGUSR1); /* acceptor, inbounds, services */
    while (!atomic_load(&holding))
        turn(g);
    for (i = 0; i < GATEWAYS; i++)
        before[i] = g->fleet.gateway[i].polls;
    size_t starved = 1;
    uint64_t deadline = clock_mono_ns() + PATIENCE_NS;
    while (starved > 0 && clock_mono_ns() < deadline) {
        for_a_while(g, NS_PER_S / 2);
        starved = 0;
        for (i = 0; i < GATEWAYS; i++) {
            if (mine[i])
                assert_true(g->fleet.gateway[i].polls <= before[i] + 1); /* one was on its way */
            else
                starved += g->fleet.gateway[i].polls < before[i] + 2;
        }
    }
    assert_int_equal(starved, 0);
    atomic_store(&held, false);
    while (atomic_load(&holding))
        turn(g);
    for_a_while(g, NS_PER_S);
    nothing_lost(g);
}

static bool trail_whole(struct ground *g)
{
    bool all = true;
    for (int part = 0; part < TRAIL_COUNT; part++) {
        struct trail_stats s;
        trail_read(g->threads.trail, (enum trail_part)part, &s);
        all = all && s.count > 0;
    }
    for (size_t i = 0; !all && i < g->fleet.count; i++)
        fleet_surge(&g->fleet.gateway[i]);
    return all;
}

/* Each warns before it has answered for the first time: its controls follow from that answer. */
static void a_warning_is_followed_all_the_way(void **state)
{
    struct ground *g = *state;
    struct trail_stats whole, gateway;
    g->fleet.silent = true;
    connect_all(g);
    for (size_t i = 0; i < g->fleet.count; i++)
        fleet_surge(&g->fleet.gateway[i]);
    for_a_while(g, 20 * NS_PER_MS);
    g->fleet.silent = false;
    until(g, all_limited, "all limits");
    until(g, trail_whole, "a warning that was followed to its control");
    trail_read(g->threads.trail, TRAIL_WHOLE, &whole);
    trail_read(g->threads.trail, TRAIL_GATEWAY, &gateway);
    assert_true(whole.p50_ns > 0);
    assert_true(whole.p99_ns >= whole.p50_ns);
    assert_true(gateway.sum_ns > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(moves_under_load_lose_no_counter_and_no_control, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_gateway_that_ends_on_its_way_ends_once, set_up_two,
                                        tear_down),
        cmocka_unit_test_setup_teardown(gateways_before_one_storage_meet_at_one_process,
                                        set_up_two, tear_down),
        cmocka_unit_test_setup_teardown(a_stalled_process_holds_up_its_own_gateways_only,
                                        set_up_settled, tear_down),
        cmocka_unit_test_setup_teardown(a_warning_is_followed_all_the_way, set_up_settled,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

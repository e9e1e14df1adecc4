/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the thread of an SLA process loads before it commands, answers what it is asked, and waits
 * for nobody. Method: the real thread and real mailboxes; this test plays every other thread. Under
 * TSan it also shows that nothing is shared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "server/msg.h"
#include "server/resource/resource.h"
#include "server/services/services.h"
#include "server/sla.h"
#include "server/store/store.h"

#define WAIT_NS (20 * NS_PER_S)

struct stage {
    struct server_config config;
    struct threads threads;
    struct sla_thread setup;
    pthread_t thread;
};

static struct mailbox *box(struct stage *t, const char *name, size_t capacity)
{
    struct mailbox *m = mailbox_new(t->threads.set, name, capacity, capacity / 4);
    assert_non_null(m);
    return m;
}

static struct stage *stage_new(size_t writer_capacity)
{
    struct stage *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    server_config_init(&t->config);
    t->config.period_ns = 100 * NS_PER_MS;
    t->config.lease_ns = NS_PER_S;
    struct threads *th = &t->threads;
    th->set = mailbox_set_new(16);
    th->pairs = th->services_count = th->readers = 1;
    th->main = box(t, "main", 64);
    th->acceptor = box(t, "acceptor", 1024);
    th->app = box(t, "app", 1024);
    th->resource = box(t, "resource", 64);
    th->store_writer = box(t, "store.writer", writer_capacity);
    th->inbound[0] = box(t, "inbound[0]", 1024);
    th->outbound[0] = box(t, "outbound[0]", 1024);
    th->services[0] = box(t, "services[0]", 1024);
    th->store_reader[0] = box(t, "store.reader[0]", 64);
    t->setup = (struct sla_thread){.config = &t->config, .threads = th};
    assert_int_equal(pthread_create(&t->thread, NULL, sla_main, &t->setup), 0);
    return t;
}

/* The next message of @kind at @m; others are let go of. */
static struct msg take(struct mailbox *m, unsigned kind)
{
    uint64_t end = clock_mono_ns() + WAIT_NS;
    struct msg got;
    while (clock_mono_ns() < end) {
        while (mailbox_take(m, &got)) {
            if (got.kind == kind)
                return got;
            msg_release(&got);
        }
        if (mailbox_drained(m))
            continue;
        struct pollfd p = {.fd = mailbox_fd(m), .events = POLLIN};
        poll(&p, 1, 50);
    }
    fail_msg("no %s came", msg_kind_name(kind));
    return got;
}

static bool waiting(struct mailbox *m, unsigned kind)
{
    struct msg got;
    bool found = false;
    while (mailbox_take(m, &got)) {
        found = found || got.kind == kind;
        msg_release(&got);
    }
    return found;
}

static void post(struct stage *t, struct mailbox *from, uint16_t kind, uint64_t arg, uint64_t arg1,
                 void *body)
{
    struct msg m = {
        .kind = kind, .arg = {arg, arg1}, .body = body, .body_free = body ? free : NULL};
    assert_int_equal(mailbox_post(from, t->threads.services[0], &m), 0);
}

static struct msg ask(struct stage *t, uint16_t kind, uint64_t arg, void *body)
{
    struct msg m = {.kind = kind, .arg = {arg}, .body = body, .body_free = body ? free : NULL};
    uint64_t ticket;
    assert_int_equal(
        mailbox_ask(t->threads.app, t->threads.services[0], &m, WAIT_NS, clock_mono_ns(), &ticket),
        0);
    struct msg r;
    do {
        r = take(t->threads.app, kind);
    } while (!r.is_reply);
    return r;
}

static json_t *view(struct stage *t, enum view_kind kind)
{
    struct view_request *v = calloc(1, sizeof(*v));
    v->kind = kind;
    v->histograms = true;
    struct msg r = ask(t, MSG_VIEW, 0, v);
    assert_int_equal(r.status, 0);
    json_t *j = json_incref(r.body);
    msg_release(&r);
    assert_true(json_is_array(j));
    return j;
}

static void json_release(void *j)
{
    json_decref(j);
}

static void answer_load(struct stage *t, const char *documents, int status)
{
    struct mailbox *reader = t->threads.store_reader[0];
    struct msg q = take(reader, MSG_STORE_QUERY);
    const struct store_query *query = q.body;
    json_t *body = json_array();
    if (query->table == STORE_DOCUMENTS && documents != NULL) {
        json_decref(body);
        body = json_loads(documents, 0, NULL);
        assert_non_null(body);
    }
    mailbox_reply(reader, &q, status, body, json_release);
    msg_release(&q);
}

static const char *const documents =
    "[{\"kind\":\"Agreement\",\"name\":\"cap\",\"version\":3,\"updated_us\":1,\"document\":"
    "{\"kind\":\"Agreement\",\"name\":\"cap\",\"appliesTo\":{\"volume\":\"db\"},\"limit\":{"
    "\"iops\":777}}},"
    "{\"kind\":\"Agreement\",\"name\":\"broken\",\"version\":1,\"updated_us\":1,\"document\":"
    "{\"kind\":\"Agreement\",\"name\":\"broken\",\"limit\":{\"iops\":0}}}]";

static void gateway_up(struct stage *t)
{
    struct gateway_hello *h = calloc(1, sizeof(*h));
    *h = (struct gateway_hello){.session = 5, .id = {9}, .boot = {1}};
    snprintf(h->name, sizeof(h->name), "gw1");
    snprintf(h->address, sizeof(h->address), "127.0.0.1");
    post(t, t->threads.inbound[0], MSG_GATEWAY_UP, 5, 0, h);
}

/* One block, so that free frees it whole. */
static void answer_seq(struct stage *t, uint64_t seq)
{
    struct {
        struct report r;
        struct report_stream st;
        struct report_target tg;
    } *b = calloc(1, sizeof(*b));
    b->r = (struct report){.session = 5,
                           .boot = {1},
                           .seq = seq,
                           .mono_ns = clock_mono_ns(),
                           .stream = &b->st,
                           .stream_count = 1,
                           .target = &b->tg,
                           .target_count = 1};
    b->st.has_info = true;
    b->st.connections = 1;
    snprintf(b->st.host, NAME_SIZE, "10.0.0.1");
    snprintf(b->st.volume, NAME_SIZE, "db");
    snprintf(b->st.target, NAME_SIZE, "array1");
    snprintf(b->tg.name, NAME_SIZE, "array1");
    snprintf(b->tg.uri, sizeof(b->tg.uri), "nbd://127.0.0.1:1");
    b->st.op_count = 1;
    b->st.op[0] = (struct report_op){.op = IO_READ,
                                     .counts = {.arrivals = seq * 50, .completions = seq * 50}};
    post(t, t->threads.inbound[0], MSG_REPORT, 5, 0, b);
}

static void answer_poll(struct stage *t)
{
    struct msg m = take(t->threads.outbound[0], MSG_SEND_POLL);
    uint64_t seq = m.arg[1];
    msg_release(&m);
    answer_seq(t, seq);
}

/* Polls are answered until controls come. */
static struct msg take_controls(struct stage *t)
{
    uint64_t end = clock_mono_ns() + WAIT_NS;
    struct msg m;
    while (clock_mono_ns() < end) {
        if (!mailbox_take(t->threads.outbound[0], &m)) {
            mailbox_drained(t->threads.outbound[0]);
            poll(NULL, 0, 5);
            continue;
        }
        if (m.kind == MSG_SEND_CONTROLS)
            return m;
        if (m.kind == MSG_SEND_POLL)
            answer_seq(t, m.arg[1]);
        msg_release(&m);
    }
    fail_msg("no controls came");
    return m;
}

static void stage_end(struct stage *t)
{
    struct msg m = {.kind = MSG_STOP};
    uint64_t ticket;
    assert_int_equal(
        mailbox_ask(t->threads.main, t->threads.services[0], &m, WAIT_NS, clock_mono_ns(), &ticket),
        0);
    struct msg r = take(t->threads.main, MSG_STOP);
    msg_release(&r);
    assert_int_equal(pthread_join(t->thread, NULL), 0);
    mailbox_set_free(t->threads.set);
    free(t);
}

static void load_all(struct stage *t)
{
    for (int i = 0; i < 3; i++)
        answer_load(t, documents, 0);
}

static void it_commands_nothing_until_all_is_loaded_and_asks_again(void **state)
{
    (void)state;
    struct stage *t = stage_new(1024);
    for (int i = 0; i < 3; i++)
        answer_load(t, NULL, WEIR_E_UNAVAILABLE);
    gateway_up(t);
    answer_poll(t);
    answer_poll(t);
    json_t *gateways = view(t, VIEW_GATEWAYS);
    assert_int_equal(json_array_size(gateways), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(gateways, 0), "state")),
                        "admitted");
    json_decref(gateways);
    assert_false(waiting(t->threads.outbound[0], MSG_SEND_CONTROLS));
    load_all(t);
    struct msg m = take_controls(t);
    const struct control_update *u = m.body;
    assert_true(u->full);
    assert_int_equal(u->item_count, 1);
    assert_string_equal(u->item[0].id, "agreement/cap");
    assert_int_equal(u->item[0].limits.rate[GATE_IOPS_TOTAL].rate, 777);
    assert_string_equal(u->item[0].member[0], "10.0.0.1/db");
    msg_release(&m);
    stage_end(t);
}

static void each_view_is_an_array_of_objects_in_the_apis_form(void **state)
{
    (void)state;
    static const struct {
        enum view_kind kind;
        const char *keys[8];
    } views[] = {
        {VIEW_STREAMS,
         {"key", "latency", "control", "counters", "judgedLatencyUs", "verdict", "histograms"}},
        {VIEW_GATEWAYS, {"name", "id", "state", "epoch", "pair", "process", "firstSeen"}},
        {VIEW_TARGETS, {"name", "uri", "gateways", "iops", "latency", "probe", "connectFailures"}},
        {VIEW_AGREEMENTS, {"name", "status"}},
        {VIEW_HOSTS, {"name", "streams", "demandIops", "throttled"}},
        {VIEW_VOLUMES, {"name", "streams", "iops", "heldNow"}},
        {VIEW_STATUS,
         {"gateways", "streams", "throttled", "enforcement", "observe", "agreementsFailing"}},
    };
    struct stage *t = stage_new(1024);
    load_all(t);
    gateway_up(t);
    for (int i = 0; i < 3; i++)
        answer_poll(t);
    for (size_t i = 0; i < sizeof(views) / sizeof(views[0]); i++) {
        json_t *j = view(t, views[i].kind);
        assert_int_equal(json_array_size(j), 1);
        for (int k = 0; k < 8 && views[i].keys[k] != NULL; k++) {
            if (json_object_get(json_array_get(j, 0), views[i].keys[k]) == NULL)
                fail_msg("view %zu has no %s", i, views[i].keys[k]);
        }
        json_decref(j);
    }
    struct msg m = take(t->threads.resource, MSG_TARGET_SEEN);
    assert_string_equal(((const struct target_seen *)m.body)->uri, "nbd://127.0.0.1:1");
    msg_release(&m);
    stage_end(t);
}

static bool is_enforced(struct stage *t)
{
    json_t *status = view(t, VIEW_STATUS);
    bool on = json_is_true(
        json_object_get(json_object_get(json_array_get(status, 0), "enforcement"), "on"));
    json_decref(status);
    return on;
}

static void a_conflict_is_answered_with_words_that_name_both(void **state)
{
    (void)state;
    struct stage *t = stage_new(1024);
    load_all(t);
    gateway_up(t);
    answer_poll(t);
    struct document_change *c = calloc(1, sizeof(*c));
    snprintf(c->kind, sizeof(c->kind), "Agreement");
    snprintf(c->name, sizeof(c->name), "other");
    snprintf(c->agreement.name, NAME_SIZE, "other");
    snprintf(c->agreement.applies_to.volume, NAME_SIZE, "d*");
    struct msg r = ask(t, MSG_DOCUMENT_CHANGED, 0, c);
    assert_int_equal(r.status, WEIR_E_CONFLICT);
    const char *words = json_string_value(json_object_get(r.body, "words"));
    assert_non_null(strstr(words, "other"));
    assert_non_null(strstr(words, "cap"));
    msg_release(&r);
    r = ask(t, MSG_ENFORCEMENT, 0, NULL);
    assert_int_equal(r.status, 0);
    assert_false(is_enforced(t));
    stage_end(t);
}

/* What was asked for at the start, before anything is answered. */
static void take_questions(struct stage *t, struct msg q[3])
{
    for (int i = 0; i < 3; i++)
        q[i] = take(t->threads.store_reader[0], MSG_STORE_QUERY);
}

/* @rows for @table, which are taken over, and nothing for the others. */
static void answer_questions(struct stage *t, struct msg q[3], enum store_table table, json_t *rows)
{
    for (int i = 0; i < 3; i++) {
        const struct store_query *query = q[i].body;
        mailbox_reply(t->threads.store_reader[0], &q[i], 0,
                      query->table == table ? rows : json_array(), json_release);
        msg_release(&q[i]);
    }
}

/* Controls are sent, so all is loaded. */
static void is_loaded(struct stage *t)
{
    gateway_up(t);
    answer_poll(t);
    struct msg m = take_controls(t);
    msg_release(&m);
}

/* The switch is thrown after the settings were read and before they arrive. */
static void a_switch_thrown_while_settings_are_read_stays_thrown(void **state)
{
    (void)state;
    struct stage *t = stage_new(1024);
    struct msg q[3];
    take_questions(t, q);
    struct msg r = ask(t, MSG_ENFORCEMENT, 0, NULL);
    assert_int_equal(r.status, 0);
    answer_questions(t, q, STORE_SETTINGS,
                     json_pack("[{s:s, s:{s:b}}]", "name", "enforcement", "value", "on", 1));
    is_loaded(t);
    assert_false(is_enforced(t));
    stage_end(t);
}

/* A gateway's record was read while it was drained, and arrives after people ended the draining. */
static void a_draining_ended_while_gateways_are_read_stays_ended(void **state)
{
    static const char id[] = "09000000000000000000000000000000";
    (void)state;
    struct stage *t = stage_new(1024);
    struct mailbox *reader = t->threads.store_reader[0];
    struct msg q[3];
    take_questions(t, q);
    struct document_change *c = calloc(1, sizeof(*c));
    snprintf(c->kind, sizeof(c->kind), "Gateway");
    snprintf(c->name, sizeof(c->name), "%s", id);
    c->drain = true;
    struct msg r = ask(t, MSG_DOCUMENT_CHANGED, 0, c);
    msg_release(&r);
    answer_questions(t, q, STORE_GATEWAYS,
                     json_pack("[{s:{s:s, s:s, s:{s:i, s:i}}}]", "gateway", "id", id, "name",
                               "gw1", "drain", "since_us", 77, "deadline_us", 0));
    struct msg again = take(reader, MSG_STORE_QUERY);
    assert_int_equal(((const struct store_query *)again.body)->table, STORE_GATEWAYS);
    mailbox_reply(reader, &again, 0,
                  json_pack("[{s:{s:s, s:s}}]", "gateway", "id", id, "name", "gw1"), json_release);
    msg_release(&again);
    is_loaded(t);
    json_t *gateways = view(t, VIEW_GATEWAYS);
    const json_t *drain = json_object_get(json_array_get(gateways, 0), "drain");
    assert_true(json_is_null(json_object_get(drain, "since")));
    json_decref(gateways);
    stage_end(t);
}

/* The store takes nothing at all: its ring of 4 is full at once. Views and polls go on. */
static void a_store_that_takes_nothing_delays_nobody(void **state)
{
    (void)state;
    struct stage *t = stage_new(4);
    load_all(t);
    gateway_up(t);
    for (int i = 0; i < 20; i++)
        answer_poll(t);
    json_t *gateways = view(t, VIEW_GATEWAYS);
    const json_t *g = json_array_get(gateways, 0);
    assert_true(json_integer_value(json_object_get(g, "polls")) >= 20);
    json_decref(gateways);
    stage_end(t);
}

static void what_happens_is_written_down_and_noticed(void **state)
{
    (void)state;
    struct stage *t = stage_new(1024);
    load_all(t);
    atomic_store(&t->threads.listeners, 1);
    gateway_up(t);
    for (int i = 0; i < 4; i++)
        answer_poll(t);
    size_t samples = 0, events = 0;
    bool record = false;
    uint64_t end = clock_mono_ns() + WAIT_NS;
    while ((samples == 0 || events == 0 || !record) && clock_mono_ns() < end) {
        struct msg m;
        if (!mailbox_take(t->threads.store_writer, &m)) {
            mailbox_drained(t->threads.store_writer);
            poll(NULL, 0, 10);
            continue;
        }
        if (m.kind == MSG_STORE_APPEND) {
            samples += ((const struct store_batch *)m.body)->sample_count;
            events += ((const struct store_batch *)m.body)->event_count;
        } else if (m.kind == MSG_STORE_WRITE) {
            const struct store_write *w = m.body;
            record = w->verb == STORE_GATEWAY_PUT && json_object_get(w->json, "process") != NULL;
            mailbox_reply(t->threads.store_writer, &m, 0, NULL, NULL);
        }
        msg_release(&m);
    }
    assert_true(samples > 0 && events > 0 && record);
    struct msg n = take(t->threads.app, MSG_NOTICE);
    assert_non_null(json_object_get(n.body, "severity"));
    msg_release(&n);
    stage_end(t);
}

/* A batch for the store is sent after the notices of what is in it. */
static void nobody_looks_and_no_notice_is_made(void **state)
{
    (void)state;
    struct stage *t = stage_new(1024);
    load_all(t);
    gateway_up(t);
    answer_poll(t);
    size_t events = 0;
    while (events == 0) {
        struct msg m = take(t->threads.store_writer, MSG_STORE_APPEND);
        events = ((const struct store_batch *)m.body)->event_count;
        msg_release(&m);
    }
    assert_false(waiting(t->threads.app, MSG_NOTICE));
    stage_end(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_commands_nothing_until_all_is_loaded_and_asks_again),
        cmocka_unit_test(each_view_is_an_array_of_objects_in_the_apis_form),
        cmocka_unit_test(a_conflict_is_answered_with_words_that_name_both),
        cmocka_unit_test(a_switch_thrown_while_settings_are_read_stays_thrown),
        cmocka_unit_test(a_draining_ended_while_gateways_are_read_stays_ended),
        cmocka_unit_test(a_store_that_takes_nothing_delays_nobody),
        cmocka_unit_test(what_happens_is_written_down_and_noticed),
        cmocka_unit_test(nobody_looks_and_no_notice_is_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../folder.h"
#include "base/clock.h"
#include "base/err.h"
#include "server/msg.h"
#include "store_fixture.h"

void fixture_init(struct fixture *f)
{
    memset(f, 0, sizeof(*f));
    assert_true(folder_make(f->folder, sizeof(f->folder), "store"));
    f->config.keep_1s_ns = UINT64_C(2) * 3600 * NS_PER_S;
    f->config.keep_10s_ns = UINT64_C(24) * 3600 * NS_PER_S;
    f->config.keep_1min_ns = UINT64_C(14) * 86400 * NS_PER_S;
    f->config.keep_1h_ns = UINT64_C(400) * 86400 * NS_PER_S;
    snprintf(f->config.state_dir, sizeof(f->config.state_dir), "%s/state", f->folder);
}

void fixture_start(struct fixture *f)
{
    char words[512];
    int rc = store_open(&f->config, &f->store, words, sizeof(words));
    if (rc != 0)
        fail_msg("store_open: %s: %s", weir_strerror(rc), words);
    f->threads.set = mailbox_set_new(8);
    f->threads.store_writer = mailbox_new(f->threads.set, "store.writer", 8192, 16);
    f->threads.store_reader[0] = mailbox_new(f->threads.set, "store.reader[0]", 64, 16);
    f->threads.app = mailbox_new(f->threads.set, "app", 64, 16);
    f->threads.readers = 1;
    f->client = mailbox_new(f->threads.set, "client", 4096, 2048);
    f->writer_arg = (struct store_thread){.store = f->store, .threads = &f->threads};
    f->reader_arg = f->writer_arg;
    assert_int_equal(pthread_create(&f->writer, NULL, store_writer_main, &f->writer_arg), 0);
    assert_int_equal(pthread_create(&f->reader, NULL, store_reader_main, &f->reader_arg), 0);
    f->running = true;
}

int fixture_wait(struct fixture *f, uint64_t *ret_ticket, json_t **ret_reply)
{
    uint64_t deadline = clock_mono_ns() + 30 * NS_PER_S;
    while (clock_mono_ns() < deadline) {
        struct msg m;
        if (mailbox_take(f->client, &m)) {
            assert_true(m.is_reply);
            if (ret_ticket != NULL)
                *ret_ticket = m.ticket;
            if (ret_reply != NULL) {
                *ret_reply = m.body;
                m.body = NULL;
            }
            msg_release(&m);
            return m.status;
        }
        if (mailbox_drained(f->client))
            continue;
        struct pollfd p = {.fd = mailbox_fd(f->client), .events = POLLIN};
        poll(&p, 1, 1000);
    }
    fail_msg("no answer within 30 s");
    return WEIR_E_TIMEOUT;
}

static uint64_t ask(struct fixture *f, struct mailbox *to, uint16_t kind, void *body,
                    void (*body_free)(void *))
{
    struct msg m = {.kind = kind, .body = body, .body_free = body_free};
    uint64_t ticket = 0;
    assert_int_equal(mailbox_ask(f->client, to, &m, 60 * NS_PER_S, clock_mono_ns(), &ticket), 0);
    return ticket;
}

void fixture_stop(struct fixture *f)
{
    if (!f->running)
        return;
    ask(f, f->threads.store_reader[0], MSG_STOP, NULL, NULL);
    assert_int_equal(fixture_wait(f, NULL, NULL), 0);
    pthread_join(f->reader, NULL);
    ask(f, f->threads.store_writer, MSG_STOP, NULL, NULL);
    assert_int_equal(fixture_wait(f, NULL, NULL), 0);
    pthread_join(f->writer, NULL);
    store_close(f->store);
    struct msg m;
    while (mailbox_take(f->threads.app, &m))
        msg_release(&m);
    mailbox_set_free(f->threads.set);
    f->running = false;
}

void fixture_fini(struct fixture *f)
{
    fixture_stop(f);
    char command[600];
    snprintf(command, sizeof(command), "rm -rf '%s'", f->folder);
    assert_int_equal(system(command), 0);
}

void fixture_append(struct fixture *f, struct store_batch *b)
{
    assert_non_null(b);
    struct msg m = {.kind = MSG_STORE_APPEND, .body = b, .body_free = store_batch_free};
    while (mailbox_post(f->client, f->threads.store_writer, &m) == WEIR_E_FULL)
        usleep(1000);
}

uint64_t fixture_ask_write(struct fixture *f, struct store_write *w)
{
    return ask(f, f->threads.store_writer, MSG_STORE_WRITE, w, store_write_free);
}

int fixture_write(struct fixture *f, struct store_write *w, json_t **ret_reply)
{
    fixture_ask_write(f, w);
    return fixture_wait(f, NULL, ret_reply);
}

int fixture_query(struct fixture *f, struct store_query *q, json_t **ret_reply)
{
    ask(f, f->threads.store_reader[0], MSG_STORE_QUERY, q, store_query_free);
    return fixture_wait(f, NULL, ret_reply);
}

struct store_write *fixture_document(const char *name, uint64_t expected, int n)
{
    struct store_write *w = store_write_new(STORE_DOCUMENT_PUT);
    assert_non_null(w);
    snprintf(w->kind, sizeof(w->kind), "Agreement");
    snprintf(w->name, sizeof(w->name), "%s", name);
    snprintf(w->actor, sizeof(w->actor), "tester");
    w->version = expected;
    w->wall_us = clock_wall_us();
    w->json = json_pack("{s:s, s:s, s:{s:i}}", "kind", "Agreement", "name", name, "spec", "n", n);
    return w;
}

json_t *fixture_table(struct fixture *f, enum store_table table, const char *name)
{
    struct store_query *q = store_query_new(table);
    json_t *reply = NULL;
    snprintf(q->name, sizeof(q->name), "%s", name);
    q->limit = 10000;
    assert_int_equal(fixture_query(f, q, &reply), 0);
    assert_non_null(reply);
    return reply;
}

json_t *fixture_status(struct fixture *f)
{
    return fixture_table(f, STORE_STATUS, "");
}

void fixture_drained(struct fixture *f)
{
    uint64_t deadline = clock_mono_ns() + 20 * NS_PER_S;
    /* What was posted is seen by the writer before the answer to a write that was posted later. */
    while (clock_mono_ns() < deadline) {
        struct store_write *w = store_write_new(STORE_SETTING_PUT);
        snprintf(w->name, sizeof(w->name), "probe");
        w->json = json_true();
        int rc = fixture_write(f, w, NULL);
        json_t *status = fixture_status(f);
        bool empty = json_integer_value(json_object_get(status, "queued")) == 0;
        json_decref(status);
        if (rc == 0 && empty)
            return;
        usleep(10000);
    }
    fail_msg("rows still wait after 20 s");
}

void fixture_sample(struct sample_record *s, const char *host, int64_t wall_us, uint32_t ios,
                    uint64_t latency_us)
{
    memset(s, 0, sizeof(*s));
    s->wall_us = wall_us;
    s->interval_ms = 1000;
    snprintf(s->gateway, sizeof(s->gateway), "gw1");
    snprintf(s->host, sizeof(s->host), "%s", host);
    snprintf(s->volume, sizeof(s->volume), "db");
    snprintf(s->tenant, sizeof(s->tenant), "acme");
    snprintf(s->target, sizeof(s->target), "array1");
    s->read_ops = ios;
    s->arrivals = ios;
    s->read_bytes = (uint64_t)ios * 4096;
    s->total_us_sum = ios * latency_us;
    s->p50_us = s->p99_us = s->max_us = latency_us;
    s->bucket_count = 1;
    s->bucket[0].index = (uint16_t)hist_index(latency_us * 1000);
    s->bucket[0].count = ios;
}

void fixture_event(struct event_record *e, int64_t wall_us, int n)
{
    memset(e, 0, sizeof(*e));
    e->wall_us = wall_us;
    e->severity = EVENT_WARNING;
    snprintf(e->kind, sizeof(e->kind), "agreement-violated");
    snprintf(e->subject, sizeof(e->subject), "stream/h/v");
    snprintf(e->text, sizeof(e->text), "event %d", n);
}

void fixture_action(struct action_record *a, uint64_t id)
{
    memset(a, 0, sizeof(*a));
    a->id = id;
    a->wall_us = (int64_t)id;
    snprintf(a->verb, sizeof(a->verb), "throttle");
    snprintf(a->decision, sizeof(a->decision), "sent");
    snprintf(a->target, sizeof(a->target), "array1");
    snprintf(a->gateway, sizeof(a->gateway), "gw1");
    snprintf(a->victim, sizeof(a->victim), "10.0.0.7/db");
    snprintf(a->bully, sizeof(a->bully), "10.0.0.9/batch");
    snprintf(a->agreement, sizeof(a->agreement), "gold");
    snprintf(a->reason, sizeof(a->reason), "number %llu", (unsigned long long)id);
    a->enforced = true;
    a->agreement_version = 3;
    a->from_iops = a->from_bytes_s = a->to_bytes_s = UINT64_MAX;
    a->to_iops = 4000;
    a->victim_percentile_ppm = 990000;
    a->harm_share_ppm = 812500;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "monitor_stage.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "../folder.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/rng.h"
#include "server/monitor/monitor_private.h"
#include "server/store/store.h"

static void free_json(void *json)
{
    json_decref(json);
}

void stage_open(struct stage *s, uint32_t heartbeat_ms)
{
    stage_open_patient(s, heartbeat_ms, 100 * NS_PER_MS, 3 * NS_PER_S);
}

void stage_open_patient(struct stage *s, uint32_t heartbeat_ms, uint64_t stall_ns,
                        uint64_t slow_ns)
{
    char words[256] = "";
    memset(s, 0, sizeof(*s));
    log_init("test", LOG_LEVEL_ERROR);
    assert_true(folder_make(s->dir, sizeof(s->dir), "monitor"));
    server_config_init(&s->config);
    snprintf(s->config.state_dir, sizeof(s->config.state_dir), "%s", s->dir);
    snprintf(s->config.control_listen[0], sizeof(s->config.control_listen[0]), "127.0.0.1:0");
    s->config.max_gateways = 8;
    struct threads *t = &s->threads;
    t->pairs = t->services_count = t->readers = 1;
    t->set = mailbox_set_new(16);
    t->main = mailbox_new(t->set, "main", 64, 16);
    t->acceptor = mailbox_new(t->set, "acceptor", 256, 64);
    t->app = mailbox_new(t->set, "app", 256, 16);
    t->resource = mailbox_new(t->set, "resource", 64, 16);
    t->store_writer = mailbox_new(t->set, "store.writer", 256, 16);
    t->store_reader[0] = mailbox_new(t->set, "store.reader[0]", 256, 16);
    t->inbound[0] = mailbox_new(t->set, "inbound[0]", 256, 16);
    t->outbound[0] = mailbox_new(t->set, "outbound[0]", 256, 16);
    t->services[0] = mailbox_new(t->set, "services[0]", 64, 16);
    s->credentials = json_array();
    s->enrolments = json_array();
    if (monitor_open(&s->config, t, &s->monitor, words, sizeof(words)) < 0)
        fail_msg("%s", words);
    s->monitor->heartbeat_ms = heartbeat_ms;
    s->monitor->slow_ns = slow_ns;
    s->monitor->stall_ns = stall_ns;
    s->of_monitor = (struct monitor_thread){.monitor = s->monitor};
    thread_main *const body[3] = {monitor_acceptor_main, monitor_inbound_main,
                                  monitor_outbound_main};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&s->thread[i], NULL, body[i], &s->of_monitor), 0);
}

void stage_close(struct stage *s)
{
    struct mailbox *const box[3] = {s->threads.acceptor, s->threads.inbound[0],
                                    s->threads.outbound[0]};
    for (size_t i = 0; i < 3; i++) {
        struct msg stop = {.kind = MSG_STOP}, m;
        uint64_t ticket, deadline = clock_mono_ns() + STAGE_PATIENCE_NS;
        assert_int_equal(mailbox_ask(s->threads.main, box[i], &stop, STAGE_PATIENCE_NS,
                                     clock_mono_ns(), &ticket),
                         0);
        while (!mailbox_take(s->threads.main, &m)) {
            assert_true(clock_mono_ns() < deadline);
            stage_turn(s);
        }
        assert_true(m.is_reply);
        assert_int_equal(m.status, 0);
        msg_release(&m);
        pthread_join(s->thread[i], NULL);
    }
    for (size_t i = 0; i < s->kept_count; i++)
        msg_release(&s->kept[i]); /* blocks of the monitor's slabs */
    monitor_close(s->monitor);
    mailbox_set_free(s->threads.set);
    json_decref(s->credentials);
    json_decref(s->enrolments);
    char command[192];
    snprintf(command, sizeof(command), "rm -rf '%s'", s->dir);
    assert_int_equal(system(command), 0);
}

/* STORE_ENROLMENT_USE, as the store does it: the token goes, the credential comes. */
static int use_token(struct stage *s, const struct store_write *w)
{
    for (size_t i = 0; i < json_array_size(s->enrolments); i++) {
        const json_t *row = json_array_get(s->enrolments, i);
        if (strcmp(json_string_value(json_object_get(row, "id")), w->name) != 0)
            continue;
        json_array_remove(s->enrolments, i);
        json_array_append(s->credentials, w->json);
        return 0;
    }
    return WEIR_E_NOT_FOUND;
}

static void store_turn(struct stage *s)
{
    struct msg m;
    while (!s->store_mute && mailbox_take(s->threads.store_reader[0], &m)) {
        const struct store_query *q = m.body;
        json_t *rows =
            json_deep_copy(q->table == STORE_CREDENTIALS ? s->credentials : s->enrolments);
        mailbox_reply(s->threads.store_reader[0], &m, 0, rows, free_json);
        msg_release(&m);
    }
    while (mailbox_take(s->threads.store_writer, &m)) {
        if (m.kind == MSG_STORE_WRITE)
            mailbox_reply(s->threads.store_writer, &m, use_token(s, m.body), json_object(),
                          free_json);
        else
            s->events++;
        msg_release(&m);
    }
    while (mailbox_take(s->threads.app, &m))
        msg_release(&m);
}

void stage_turn(struct stage *s)
{
    struct msg m;
    store_turn(s);
    while (mailbox_take(s->threads.services[0], &m)) {
        assert_true(s->kept_count < STAGE_KEPT);
        s->kept[s->kept_count++] = m;
    }
    if (s->pump != NULL)
        s->pump(s->pump_arg);
    else
        usleep(500);
}

static bool take_kept(struct stage *s, unsigned kind, struct msg *ret)
{
    for (size_t i = 0; i < s->kept_count; i++) {
        if (s->kept[i].kind != kind)
            continue;
        *ret = s->kept[i];
        memmove(&s->kept[i], &s->kept[i + 1], (s->kept_count - i - 1) * sizeof(s->kept[0]));
        s->kept_count--;
        return true;
    }
    return false;
}

bool stage_try(struct stage *s, unsigned kind, uint64_t ns, struct msg *ret)
{
    uint64_t deadline = clock_mono_ns() + ns;
    while (!take_kept(s, kind, ret)) {
        if (clock_mono_ns() > deadline)
            return false;
        stage_turn(s);
    }
    return true;
}

struct msg stage_take(struct stage *s, unsigned kind)
{
    struct msg m;
    if (!stage_try(s, kind, STAGE_PATIENCE_NS, &m))
        fail_msg("no %s came", msg_kind_name(kind));
    return m;
}

void stage_until(struct stage *s, bool (*done)(void *arg), void *arg)
{
    uint64_t deadline = clock_mono_ns() + STAGE_PATIENCE_NS;
    while (!done(arg)) {
        if (clock_mono_ns() > deadline)
            fail_msg("waited in vain");
        stage_turn(s);
    }
}

/* The test is the SLA process; it keeps what it cannot post, so it turns until there is room. */
static void post(struct stage *s, unsigned kind, uint64_t session, void *body,
                 void (*body_free)(void *))
{
    struct msg m = {.kind = (uint16_t)kind, .arg = {session}, .body = body, .body_free = body_free};
    while (mailbox_post(s->threads.services[0], s->threads.outbound[0], &m) < 0)
        usleep(100);
}

void stage_poll(struct stage *s, uint64_t session, uint64_t seq, uint64_t acked)
{
    struct msg m = {.kind = MSG_SEND_POLL, .arg = {session, seq, acked}};
    while (mailbox_post(s->threads.services[0], s->threads.outbound[0], &m) < 0)
        usleep(100);
}

void stage_controls(struct stage *s, uint64_t session, struct control_update *u)
{
    post(s, MSG_SEND_CONTROLS, session, u, control_update_free);
}

void stage_end(struct stage *s, uint64_t session, const char *why)
{
    post(s, MSG_SESSION_END, session, strdup(why), free);
}

struct control_update *stage_update(uint64_t epoch, uint32_t lease_ms, bool full, bool planned,
                                    const char *id, const char *member, uint64_t iops)
{
    struct control_update *u = control_update_new(id != NULL, id != NULL);
    assert_non_null(u);
    u->epoch = epoch;
    u->lease_ms = lease_ms;
    u->full = full;
    if (id == NULL)
        return u;
    snprintf(u->item[0].id, sizeof(u->item[0].id), "%s", id);
    u->item[0].planned = planned;
    u->item[0].remove = iops == 0;
    u->item[0].limits.rate[GATE_IOPS_TOTAL].rate = iops;
    control_update_members(u, 0, 1);
    snprintf(u->item[0].member[0], STREAM_KEY_SIZE, "%s", member);
    return u;
}

static void as_hex(const uint8_t *bytes, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++)
        sprintf(out + 2 * i, "%02x", bytes[i]);
}

void stage_token(struct stage *s, char ret_token[AUTH_TOKEN_SIZE])
{
    uint8_t random[40], key[AUTH_KEY_SIZE];
    char id[AUTH_TOKEN_ID_SIZE], hex[2 * AUTH_KEY_SIZE + 1];
    rng_system(random, sizeof(random));
    auth_token_make(random, ret_token, id, key);
    as_hex(key, sizeof(key), hex);
    json_array_append_new(s->enrolments,
                          json_pack("{s:s, s:s, s:I}", "id", id, "key", hex, "expires_us",
                                    (json_int_t)(clock_wall_us() + 3600 * 1000000LL)));
}

struct monitor_stats stage_stats(const struct stage *s)
{
    struct monitor_stats st;
    monitor_stats(s->monitor, &st);
    return st;
}

/* ---- a gateway made by hand
 * ---------------------------------------------------------------------------- */

void raw_open(struct stage *s, struct raw *r)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    *r = (struct raw){.stage = s};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s/control.sock", s->dir);
    r->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(r->fd >= 0);
    assert_int_equal(connect(r->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    text_init(&r->in, 4u * FRAME_MAX);
    memcpy(r->key, s->monitor->local_key, sizeof(r->key));
    r->auth.version = 1;
    rng_system(r->auth.gateway_id, sizeof(r->auth.gateway_id));
    rng_system(r->auth.boot_id, sizeof(r->auth.boot_id));
    rng_system(r->auth.nonce_gateway, sizeof(r->auth.nonce_gateway));
    snprintf(r->auth.key_id, sizeof(r->auth.key_id), "local");
}

void raw_close(struct raw *r)
{
    close(r->fd);
    text_fini(&r->in);
    frame_arena_fini(&r->arena);
}

void raw_send_bytes(struct raw *r, const void *bytes, size_t n)
{
    const char *p = bytes;
    uint64_t deadline = clock_mono_ns() + STAGE_PATIENCE_NS;
    for (size_t sent = 0; sent < n;) {
        ssize_t w = send(r->fd, p + sent, n - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (w < 0 && errno != EAGAIN)
            return; /* the peer left: the test sees it when it reads */
        if (w > 0)
            sent += (size_t)w;
        assert_true(clock_mono_ns() < deadline);
        stage_turn(r->stage);
    }
}

void raw_send(struct raw *r, const Weir__Control__Frame *f)
{
    struct text t;
    text_init(&t, 2 * FRAME_MAX);
    assert_int_equal(frame_append(&t, f), 0);
    raw_send_bytes(r, t.data, t.len);
    text_fini(&t);
}

const Weir__Control__Frame *raw_receive(struct raw *r)
{
    uint64_t deadline = clock_mono_ns() + STAGE_PATIENCE_NS;
    for (;;) {
        int64_t n = frame_peek(r->in.data, r->in.len);
        assert_true(n >= 0);
        if (n > 0) {
            const Weir__Control__Frame *f = NULL;
            if (r->arena.block == NULL) /* not for those that only connect */
                assert_int_equal(frame_arena_init(&r->arena, FRAME_ARENA_SIZE), 0);
            frame_arena_reset(&r->arena);
            assert_int_equal(frame_unpack(&r->arena, r->in.data, (size_t)n, &f), 0);
            text_consume(&r->in, (size_t)n);
            if (f->body_case == WEIR__CONTROL__FRAME__BODY_HEARTBEAT)
                continue;
            return f;
        }
        char bytes[65536];
        ssize_t got = recv(r->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno == ECONNRESET))
            return NULL;
        if (got > 0)
            text_append(&r->in, bytes, (size_t)got);
        if (clock_mono_ns() > deadline)
            fail_msg("nothing came from the server");
        stage_turn(r->stage);
    }
}

void raw_hello(struct raw *r, uint32_t version_min, uint32_t version_max)
{
    Weir__Control__Hello h = WEIR__CONTROL__HELLO__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    h.version_min = version_min;
    h.version_max = version_max;
    h.gateway_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = r->auth.gateway_id};
    h.boot_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = r->auth.boot_id};
    h.nonce = (ProtobufCBinaryData){.len = AUTH_NONCE_SIZE, .data = r->auth.nonce_gateway};
    h.name = (char *)(uintptr_t)"by hand"; /* not escaped, on purpose */
    h.software = (char *)(uintptr_t)"test";
    h.key_id = r->auth.key_id;
    f.body_case = WEIR__CONTROL__FRAME__BODY_HELLO;
    f.hello = &h;
    raw_send(r, &f);
}

void raw_prove(struct raw *r, const Weir__Control__Challenge *c, uint8_t spoil)
{
    uint8_t proof[AUTH_PROOF_SIZE];
    Weir__Control__Proof p = WEIR__CONTROL__PROOF__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    memcpy(r->auth.nonce_server, c->nonce.data, AUTH_NONCE_SIZE);
    auth_prove(&r->auth, r->key, AUTH_GATEWAY, proof);
    proof[7] ^= spoil;
    p.proof = (ProtobufCBinaryData){.len = sizeof(proof), .data = proof};
    f.body_case = WEIR__CONTROL__FRAME__BODY_PROOF;
    f.proof = &p;
    raw_send(r, &f);
}

uint64_t raw_stand(struct raw *r)
{
    raw_hello(r, 1, 1);
    const Weir__Control__Frame *f = raw_receive(r);
    assert_non_null(f);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_CHALLENGE);
    raw_prove(r, f->challenge, 0);
    f = raw_receive(r);
    assert_non_null(f);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_WELCOME);
    uint64_t session = f->welcome->session;
    struct msg m = stage_take(r->stage, MSG_GATEWAY_UP);
    assert_int_equal(m.arg[0], session);
    msg_release(&m);
    return session;
}

void raw_expect_refusal(struct raw *r, const char *code)
{
    const Weir__Control__Frame *f = raw_receive(r);
    assert_non_null(f);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_ERROR);
    assert_string_equal(f->error->code, code);
    assert_true(strlen(f->error->words) > 10);
    assert_null(raw_receive(r));
}

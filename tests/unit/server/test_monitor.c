/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: only who proves a key gets a session, every refusal is named and counted, and a gateway
 * that lies, floods, sleeps or does not read ends its own session and nobody else's.
 * Method: the monitor's real threads and sockets; the test is the SLA process, the store, and
 * gateways made by hand that break one rule each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "monitor_stage.h"
#include "server/monitor/monitor_private.h"
#include "server/monitor/rotation.h"

#define HANDSHAKES_TRIED 70u /* six more than one address may have */

static int set_up(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    stage_open(s, 2000);
    *state = s;
    return 0;
}

static int set_up_quick(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    stage_open(s, 400);
    *state = s;
    return 0;
}

static int set_up_patient(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    stage_open_patient(s, 2000, 100 * NS_PER_MS, 60 * NS_PER_S);
    *state = s;
    return 0;
}

/* What waits for one that does not read is kept, and replaced, until it is ended. */
static int set_up_unstalled(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    stage_open_patient(s, 2000, 3 * NS_PER_S, 3 * NS_PER_S);
    *state = s;
    return 0;
}

static int tear_down(void **state)
{
    stage_close(*state);
    free(*state);
    return 0;
}

static void expect_down(struct stage *s, uint64_t session, const char *why)
{
    struct msg m = stage_take(s, MSG_GATEWAY_DOWN);
    assert_int_equal(m.arg[0], session);
    assert_non_null(strstr(m.body, why));
    msg_release(&m);
}

static bool no_session(void *arg)
{
    return stage_stats(arg).sessions_now == 0;
}

static bool one_session(void *arg)
{
    return stage_stats(arg).sessions_now == 1;
}

static void send_heartbeat(struct raw *r)
{
    Weir__Control__Heartbeat h = WEIR__CONTROL__HEARTBEAT__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    f.body_case = WEIR__CONTROL__FRAME__BODY_HEARTBEAT;
    f.heartbeat = &h;
    raw_send(r, &f);
}

static void a_gateway_that_proves_the_key_gets_a_session(void **state)
{
    struct stage *s = *state;
    struct raw r;
    raw_open(s, &r);
    raw_hello(&r, 1, 9);
    const Weir__Control__Frame *f = raw_receive(&r);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_CHALLENGE);
    assert_int_equal(f->challenge->version, 1);
    memcpy(r.auth.nonce_server, f->challenge->nonce.data, AUTH_NONCE_SIZE);
    assert_true(
        auth_check(&r.auth, r.key, AUTH_SERVER, f->challenge->proof.data, f->challenge->proof.len));
    raw_prove(&r, f->challenge, 0);
    f = raw_receive(&r);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_WELCOME);
    assert_int_equal(f->welcome->heartbeat_ms, 2000);
    assert_string_equal(f->welcome->new_key_id, "");
    struct msg m = stage_take(s, MSG_GATEWAY_UP);
    const struct gateway_hello *h = m.body;
    assert_int_equal(h->session, f->welcome->session);
    assert_memory_equal(h->id, r.auth.gateway_id, sizeof(h->id));
    assert_memory_equal(h->boot, r.auth.boot_id, sizeof(h->boot));
    assert_string_equal(h->name, "by%20hand");
    assert_string_equal(h->key_id, "local");
    char uid[32];
    snprintf(uid, sizeof(uid), "uid:%u", getuid());
    assert_string_equal(h->address, uid);
    uint64_t session = h->session;
    msg_release(&m);
    raw_close(&r);
    expect_down(s, session, "closed");
    stage_until(s, no_session, s);
}

static void secrets_lie_in_files_that_others_cannot_read(void **state)
{
    struct stage *s = *state;
    struct stat st;
    char path[128];
    snprintf(path, sizeof(path), "%s/gateway.key", s->dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    snprintf(path, sizeof(path), "%s/control.sock", s->dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void a_wrong_key_is_refused(void **state)
{
    struct stage *s = *state;
    struct raw r;
    raw_open(s, &r);
    r.key[0] ^= 1;
    raw_hello(&r, 1, 1);
    const Weir__Control__Frame *f = raw_receive(&r);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_CHALLENGE);
    raw_prove(&r, f->challenge, 0);
    raw_expect_refusal(&r, "auth");
    raw_close(&r);
    assert_int_equal(stage_stats(s).refused_auth, 1);
    assert_int_equal(stage_stats(s).sessions, 0);
    for (int i = 0; i < 20000 && s->events == 0; i++)
        stage_turn(s);
    assert_int_equal(s->events, 1);
}

static void a_proof_that_was_overheard_is_worth_nothing(void **state)
{
    struct stage *s = *state;
    struct raw first, second;
    raw_open(s, &first);
    raw_hello(&first, 1, 1);
    const Weir__Control__Frame *f = raw_receive(&first);
    Weir__Control__Challenge overheard = *f->challenge;
    uint8_t nonce[AUTH_NONCE_SIZE];
    memcpy(nonce, f->challenge->nonce.data, sizeof(nonce));
    overheard.nonce.data = nonce;
    /* Everything that was said is said again on another connection, the proof of the first
     * included. */
    raw_open(s, &second);
    second.auth = first.auth;
    raw_hello(&second, 1, 1);
    f = raw_receive(&second);
    assert_memory_not_equal(f->challenge->nonce.data, nonce, sizeof(nonce));
    raw_prove(&second, &overheard, 0);
    raw_expect_refusal(&second, "auth");
    raw_close(&second);
    raw_prove(&first, &overheard, 0);
    f = raw_receive(&first);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_WELCOME);
    raw_close(&first);
}

static void versions_without_one_in_common_are_refused(void **state)
{
    struct raw r;
    raw_open(*state, &r);
    raw_hello(&r, CONTROL_VERSION_MAX + 1, CONTROL_VERSION_MAX + 1);
    raw_expect_refusal(&r, "version");
    raw_close(&r);
    assert_int_equal(stage_stats(*state).refused_version, 1);
}

static void what_is_no_handshake_is_refused_by_name(void **state)
{
    struct stage *s = *state;
    struct raw r;
    const uint8_t http[] = "GET / HTTP/1.1\r\n\r\n", zero[4] = {0}, junk[] = {0, 0, 0, 3, 1, 2, 3};
    const struct {
        const void *bytes;
        size_t size;
        const char *code;
    } wrong[] = {
        {http, sizeof(http) - 1, "too-large"}, {zero, 4, "proto"}, {junk, sizeof(junk), "proto"}};
    for (size_t i = 0; i < 3; i++) {
        raw_open(s, &r);
        raw_send_bytes(&r, wrong[i].bytes, wrong[i].size);
        const Weir__Control__Frame *f = raw_receive(&r);
        assert_non_null(f);
        assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_ERROR);
        assert_string_equal(f->error->code, wrong[i].code);
        assert_null(raw_receive(&r));
        raw_close(&r);
    }
    raw_open(s, &r);
    send_heartbeat(&r);
    raw_expect_refusal(&r, "proto");
    raw_close(&r);
    assert_int_equal(stage_stats(s).refused_protocol, 4);
}

static void an_unknown_key_is_asked_for_once_and_refused(void **state)
{
    struct stage *s = *state;
    struct raw r;
    raw_open(s, &r);
    snprintf(r.auth.key_id, sizeof(r.auth.key_id), "gateway:00112233445566778899aabbccddeeff");
    raw_hello(&r, 1, 1);
    raw_expect_refusal(&r, "auth");
    raw_close(&r);
}

static void a_token_enrols_one_gateway_and_no_second(void **state)
{
    struct stage *s = *state;
    struct raw r, again, other, known;
    char token[AUTH_TOKEN_SIZE], id[AUTH_TOKEN_ID_SIZE], key_id[AUTH_KEY_ID_SIZE];
    uint8_t derived[AUTH_KEY_SIZE];
    stage_token(s, token);
    raw_open(s, &r);
    raw_open(s, &again);
    assert_int_equal(auth_token_parse(token, id, r.key), 0);
    memcpy(again.key, r.key, sizeof(r.key));
    snprintf(r.auth.key_id, sizeof(r.auth.key_id), "token:%s", id);
    snprintf(again.auth.key_id, sizeof(again.auth.key_id), "token:%s", id);
    /* Both get as far as the challenge; the store gives the token to one. */
    raw_hello(&r, 1, 1);
    const Weir__Control__Frame *f = raw_receive(&r);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_CHALLENGE);
    raw_prove(&r, f->challenge, 0);
    raw_hello(&again, 1, 1);
    f = raw_receive(&r);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_WELCOME);
    assert_memory_equal(f->welcome->new_key_id, "gateway:", 8);
    snprintf(key_id, sizeof(key_id), "%s", f->welcome->new_key_id);
    auth_derive(&r.auth, r.key, derived);
    f = raw_receive(&again);
    if (f->body_case == WEIR__CONTROL__FRAME__BODY_CHALLENGE) {
        raw_prove(&again, f->challenge, 0);
        raw_expect_refusal(&again, "auth");
    } else {
        assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_ERROR);
    }
    raw_close(&again);
    /* The credential serves its gateway... */
    raw_open(s, &known);
    memcpy(known.auth.gateway_id, r.auth.gateway_id, AUTH_ID_SIZE);
    memcpy(known.key, derived, sizeof(derived));
    snprintf(known.auth.key_id, sizeof(known.auth.key_id), "%s", key_id);
    struct msg m = stage_take(s, MSG_GATEWAY_UP);
    msg_release(&m);
    raw_stand(&known);
    raw_close(&known);
    /* ...and no other. */
    raw_open(s, &other);
    memcpy(other.key, derived, sizeof(derived));
    snprintf(other.auth.key_id, sizeof(other.auth.key_id), "%s", key_id);
    raw_hello(&other, 1, 1);
    raw_expect_refusal(&other, "auth");
    raw_close(&other);
    raw_close(&r);
    assert_int_equal(stage_stats(s).enrolled, 1);
}

static void keys_that_cannot_be_read_refuse_for_now(void **state)
{
    struct stage *s = *state;
    struct raw r;
    s->store_mute = true;
    raw_open(s, &r);
    snprintf(r.auth.key_id, sizeof(r.auth.key_id), "gateway:00112233445566778899aabbccddeeff");
    raw_hello(&r, 1, 1);
    /* The local key needs no store, and is not kept waiting by those that do. */
    struct raw local;
    raw_open(s, &local);
    raw_stand(&local);
    raw_close(&local);
    const Weir__Control__Frame *f = raw_receive(&r);
    assert_non_null(f);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_ERROR);
    raw_close(&r);
}

static void a_session_ends_by_name_when_the_gateway_breaks_the_protocol(void **state)
{
    struct stage *s = *state;
    const uint8_t large[4] = {0xff, 0, 0, 0}, junk[] = {0, 0, 0, 2, 0xff, 0xff};
    struct raw r, bystander;
    raw_open(s, &bystander);
    raw_stand(&bystander);
    for (int i = 0; i < 3; i++) {
        raw_open(s, &r);
        uint64_t session = raw_stand(&r);
        if (i == 0)
            raw_send_bytes(&r, large, sizeof(large));
        else if (i == 1)
            raw_send_bytes(&r, junk, sizeof(junk));
        else
            raw_hello(&r, 1, 1);
        expect_down(s, session,
                    i == 0   ? "length"
                    : i == 1 ? "breaks the protocol"
                             : "does not send");
        assert_null(raw_receive(&r));
        raw_close(&r);
    }
    assert_int_equal(stage_stats(s).ended_protocol, 3);
    stage_until(s, one_session, s); /* the acceptor lets go last */
    raw_close(&bystander);
    stage_until(s, no_session, s);
}

static void statistics_of_another_boot_end_the_session(void **state)
{
    struct stage *s = *state;
    struct raw r;
    uint8_t boot[AUTH_ID_SIZE] = {9};
    Weir__Control__Statistics st = WEIR__CONTROL__STATISTICS__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    raw_open(s, &r);
    uint64_t session = raw_stand(&r);
    st.seq = 1;
    st.boot_id = (ProtobufCBinaryData){.len = sizeof(boot), .data = boot};
    f.body_case = WEIR__CONTROL__FRAME__BODY_STATISTICS;
    f.statistics = &st;
    raw_send(&r, &f);
    expect_down(s, session, "another boot");
    raw_close(&r);
}

static void a_silent_gateway_is_left_after_three_heartbeats(void **state)
{
    struct stage *s = *state;
    struct raw silent, alive, half_open;
    raw_open(s, &silent);
    raw_open(s, &alive);
    uint64_t session = raw_stand(&silent);
    raw_stand(&alive);
    /* Half a frame, byte by byte, is no sign of life. */
    raw_open(s, &half_open);
    uint64_t dripping = raw_stand(&half_open);
    uint64_t told = 0;
    const uint8_t drip[] = {0, 1, 0, 0};
    for (size_t turn = 0; told < 2; turn++) {
        struct msg m;
        send_heartbeat(&alive);
        if (turn % 8 == 0)
            raw_send_bytes(&half_open, turn < 32 ? drip + turn / 8 : drip, 1);
        if (!stage_try(s, MSG_GATEWAY_DOWN, 10 * NS_PER_MS, &m))
            continue;
        assert_true(m.arg[0] == session || m.arg[0] == dripping);
        assert_non_null(strstr(m.body, "silent"));
        msg_release(&m);
        told++;
        assert_true(turn < 2000);
    }
    stage_until(s, one_session, s); /* the acceptor hears of it last */
    assert_int_equal(stage_stats(s).ended_silent, 2);
    raw_close(&silent);
    raw_close(&half_open);
    raw_close(&alive);
}

static void the_server_sends_heartbeats(void **state)
{
    struct stage *s = *state;
    struct raw r;
    char bytes[64];
    raw_open(s, &r);
    raw_stand(&r);
    for (int i = 0; i < 40000 && recv(r.fd, bytes, sizeof(bytes), MSG_DONTWAIT) <= 0; i++)
        stage_turn(s);
    assert_int_equal(frame_peek(bytes, sizeof(bytes)) > 0, 1);
    raw_close(&r);
}

static void the_services_word_ends_a_session_with_a_farewell(void **state)
{
    struct stage *s = *state;
    struct raw r;
    raw_open(s, &r);
    uint64_t session = raw_stand(&r);
    stage_end(s, session, "this identity is connected already");
    const Weir__Control__Frame *f = raw_receive(&r);
    assert_non_null(f);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_BYE);
    assert_string_equal(f->bye->why, "this identity is connected already");
    assert_null(raw_receive(&r));
    expect_down(s, session, "this identity");
    raw_close(&r);
    stage_until(s, no_session, s);
    /* What is said to a session that is gone is dropped. */
    stage_poll(s, session, 1, 0);
    for (int i = 0; i < 20000 && stage_stats(s).sends_unknown == 0; i++)
        stage_turn(s);
    assert_int_equal(stage_stats(s).sends_unknown, 1);
}

/* A full set of @n controls, all with the same long member. */
static struct control_update *large_update(uint64_t epoch, size_t n)
{
    struct control_update *u = control_update_new(n, 0);
    u->epoch = epoch;
    u->lease_ms = 1000;
    u->full = true;
    for (size_t i = 0; i < n; i++) {
        snprintf(u->item[i].id, sizeof(u->item[i].id), "agreement/%zu", i);
        memset(u->item[i].reason, 'r', 200);
        u->item[i].limits.rate[GATE_IOPS_TOTAL].rate = 1000 + i;
    }
    return u;
}

static void a_large_set_comes_in_parts_and_whole(void **state)
{
    struct stage *s = *state;
    struct raw r;
    const size_t n = 9000;
    raw_open(s, &r);
    uint64_t session = raw_stand(&r);
    stage_controls(s, session, large_update(77, n));
    size_t got = 0, parts = 0;
    bool more = true;
    while (more) {
        const Weir__Control__Frame *f = raw_receive(&r);
        assert_non_null(f);
        assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_SET_CONTROLS);
        assert_int_equal(f->set_controls->epoch, 77);
        assert_int_equal(f->set_controls->session, session);
        assert_int_equal(f->set_controls->full, parts == 0);
        for (size_t i = 0; i < f->set_controls->n_controls; i++, got++)
            assert_int_equal(f->set_controls->controls[i]->rates[0]->rate, 1000 + got);
        more = f->set_controls->more;
        parts++;
    }
    assert_int_equal(got, n);
    assert_true(parts > 1);
    raw_close(&r);
}

static void a_gateway_that_does_not_read_gets_the_newest_word_or_is_ended(void **state)
{
    struct stage *s = *state;
    struct raw slow, other;
    raw_open(s, &slow);
    uint64_t session = raw_stand(&slow);
    raw_open(s, &other);
    uint64_t awake = raw_stand(&other);
    stage_controls(s, session, large_update(1, 5000));
    while (stage_stats(s).bytes_out < 4096) /* the socket's buffers are full */
        stage_turn(s);
    /* Its socket may still take some of them. */
    for (uint64_t i = 0; i < 200 || (i < 4000 && stage_stats(s).polls_coalesced <= 100); i++) {
        stage_controls(s, session, large_update(2 + i, 10));
        stage_poll(s, session, i + 1, i);
        if (i >= 200)
            stage_turn(s);
    }
    /* Nobody else waits for it. */
    stage_poll(s, awake, 5, 4);
    const Weir__Control__Frame *f = raw_receive(&other);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_POLL);
    assert_int_equal(f->poll->seq, 5);
    uint64_t session_down = 0;
    for (int i = 0; i < 20000 && session_down == 0; i++) {
        struct msg m;
        if (!stage_try(s, MSG_GATEWAY_DOWN, NS_PER_MS, &m)) {
            send_heartbeat(&slow); /* it speaks, it only does not listen */
            send_heartbeat(&other);
            continue;
        }
        session_down = m.arg[0];
        assert_non_null(strstr(m.body, "does not read"));
        msg_release(&m);
    }
    assert_int_equal(session_down, session);
    struct monitor_stats st = stage_stats(s);
    assert_int_equal(st.ended_slow, 1);
    assert_true(st.polls_coalesced > 100);
    assert_true(st.controls_coalesced > 1000);
    raw_close(&slow);
    raw_close(&other);
}

static void a_gateway_that_reads_again_is_told_of_and_goes_on(void **state)
{
    struct stage *s = *state;
    struct raw slow;
    raw_open(s, &slow);
    uint64_t session = raw_stand(&slow);
    stage_controls(s, session, large_update(1, 5000));
    struct msg m = stage_take(s, MSG_STALLED);
    assert_int_equal(m.arg[0], session);
    assert_int_equal(m.arg[1], 1);
    /* What is sent meanwhile is not kept for it. */
    stage_controls(s, session, large_update(2, 10));
    for (int i = 0; i < 40000 && stage_stats(s).sends_stalled == 0; i++)
        stage_turn(s);
    assert_int_equal(stage_stats(s).sends_stalled, 1);
    bool more = true;
    while (more) {
        const Weir__Control__Frame *f = raw_receive(&slow);
        assert_non_null(f);
        assert_int_equal(f->set_controls->epoch, 1);
        more = f->set_controls->more;
    }
    m = stage_take(s, MSG_STALLED);
    assert_int_equal(m.arg[1], 0);
    stage_poll(s, session, 9, 0);
    const Weir__Control__Frame *f = raw_receive(&slow);
    assert_non_null(f);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_POLL);
    assert_int_equal(stage_stats(s).stalls, 1);
    raw_close(&slow);
}

static void more_sessions_than_configured_are_refused(void **state)
{
    struct stage *s = *state;
    struct raw r[9];
    for (size_t i = 0; i < 8; i++) {
        raw_open(s, &r[i]);
        raw_stand(&r[i]);
    }
    raw_open(s, &r[8]);
    raw_hello(&r[8], 1, 1);
    const Weir__Control__Frame *f = raw_receive(&r[8]);
    raw_prove(&r[8], f->challenge, 0);
    raw_expect_refusal(&r[8], "full");
    raw_close(&r[8]);
    raw_close(&r[0]);
    struct msg m = stage_take(s, MSG_GATEWAY_DOWN);
    msg_release(&m);
    uint64_t deadline = clock_mono_ns() + STAGE_PATIENCE_NS;
    while (clock_mono_ns() < deadline && stage_stats(s).sessions_now == 8)
        stage_turn(s);
    raw_open(s, &r[0]);
    raw_stand(&r[0]);
    for (size_t i = 0; i < 8; i++)
        raw_close(&r[i]);
    stage_until(s, no_session, s);
}

static bool most_refused(void *arg)
{
    return stage_stats(arg).refused_address >= HANDSHAKES_TRIED - 64;
}

static bool no_handshake(void *arg)
{
    return stage_stats(arg).handshakes_now == 0;
}

static void many_idle_connections_keep_nobody_out_for_long(void **state)
{
    struct stage *s = *state;
    struct raw idle[HANDSHAKES_TRIED], r;
    for (size_t i = 0; i < HANDSHAKES_TRIED; i++)
        raw_open(s, &idle[i]);
    stage_until(s, most_refused, s);
    assert_int_equal(stage_stats(s).refused_address, HANDSHAKES_TRIED - 64);
    for (size_t i = 0; i < HANDSHAKES_TRIED; i++)
        raw_close(&idle[i]);
    stage_until(s, no_handshake, s);
    raw_open(s, &r);
    raw_stand(&r);
    raw_close(&r);
}

static void when_the_services_are_full_statistics_drop_and_life_does_not(void **state)
{
    struct stage *s = *state;
    struct raw r;
    raw_open(s, &r);
    uint64_t session = raw_stand(&r);
    Weir__Control__Statistics st = WEIR__CONTROL__STATISTICS__INIT;
    Weir__Control__ControlsAck ack = WEIR__CONTROL__CONTROLS_ACK__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    struct text t;
    text_init(&t, FRAME_MAX);
    st.boot_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = r.auth.boot_id};
    for (uint64_t i = 1; i <= 500; i++) {
        st.seq = i;
        f.body_case = WEIR__CONTROL__FRAME__BODY_STATISTICS;
        f.statistics = &st;
        assert_int_equal(frame_append(&t, &f), 0);
        ack.epoch = i;
        f.body_case = WEIR__CONTROL__FRAME__BODY_CONTROLS_ACK;
        f.controls_ack = &ack;
        assert_int_equal(frame_append(&t, &f), 0);
    }
    /* Nothing is taken from the SLA services' mailbox (64 places) meanwhile. */
    assert_int_equal(send(r.fd, t.data, t.len, 0), t.len);
    shutdown(r.fd, SHUT_WR);
    for (int i = 0; i < 40000 && stage_stats(s).frames_in < 1000; i++)
        usleep(1000);
    struct monitor_stats stats = stage_stats(s);
    assert_int_equal(stats.frames_in, 1000);
    assert_true(stats.reports_dropped > 400);
    assert_int_equal(stats.reports + stats.reports_dropped, 500);
    /* Then all that must not be lost comes. */
    expect_down(s, session, "closed");
    stage_until(s, no_session, s);
    text_fini(&t);
    raw_close(&r);
}

static void add_answer(struct text *t, struct raw *r, uint64_t seq, bool more)
{
    Weir__Control__Statistics st = WEIR__CONTROL__STATISTICS__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    st.boot_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = r->auth.boot_id};
    st.seq = seq;
    st.more = more;
    f.body_case = WEIR__CONTROL__FRAME__BODY_STATISTICS;
    f.statistics = &st;
    assert_int_equal(frame_append(t, &f), 0);
}

static void add_warning(struct text *t)
{
    Weir__Control__Surge surge = WEIR__CONTROL__SURGE__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    f.body_case = WEIR__CONTROL__FRAME__BODY_SURGE;
    f.surge = &surge;
    assert_int_equal(frame_append(t, &f), 0);
}

static uint64_t handled(const struct stage *s)
{
    struct monitor_stats n = stage_stats(s);
    return n.reports + n.reports_dropped + n.surges + n.surges_dropped;
}

/* Sends it, and waits until inbound has handled so many frames more. */
static void send_and_wait(struct stage *s, struct raw *r, struct text *t, uint64_t frames)
{
    uint64_t wanted = handled(s) + frames;
    raw_send_bytes(r, t->data, t->len);
    text_clear(t);
    for (int i = 0; i < 40000 && handled(s) < wanted; i++)
        usleep(1000);
    assert_int_equal(handled(s), wanted);
}

static void expect_report(struct stage *s, uint64_t seq, bool more)
{
    struct msg m = stage_take(s, MSG_REPORT);
    const struct report *r = m.body;
    assert_int_equal(r->seq, seq);
    assert_int_equal(r->more, more);
    msg_release(&m);
}

static void an_answer_after_a_warning_goes_before_others(void **state)
{
    struct stage *s = *state;
    struct raw r;
    struct text t;
    raw_open(s, &r);
    raw_stand(&r);
    text_init(&t, FRAME_MAX);
    /* Nothing is taken from the SLA services' mailbox meanwhile. The warning comes in the middle of
     * an answer: the rest of that one must not overtake its beginning. */
    add_answer(&t, &r, 1, false);
    add_answer(&t, &r, 2, true);
    add_warning(&t);
    add_answer(&t, &r, 2, false);
    add_answer(&t, &r, 3, false);
    add_answer(&t, &r, 4, true);
    add_answer(&t, &r, 4, false);
    add_answer(&t, &r, 5, false);
    send_and_wait(s, &r, &t, 8);
    expect_report(s, 3, false);
    expect_report(s, 4, true);
    expect_report(s, 4, false);
    expect_report(s, 1, false);
    expect_report(s, 2, true);
    expect_report(s, 2, false);
    expect_report(s, 5, false);
    struct msg m = stage_take(s, MSG_SURGE);
    msg_release(&m);
    text_fini(&t);
    raw_close(&r);
}

static void an_answer_that_lost_a_frame_ends_there(void **state)
{
    struct stage *s = *state;
    struct raw r;
    struct text t;
    raw_open(s, &r);
    raw_stand(&r);
    text_init(&t, FRAME_MAX);
    uint64_t frames = 0;
    for (; frames < 80; frames++) /* there are places for fewer, whatever else waits */
        add_answer(&t, &r, 1 + frames, false);
    add_answer(&t, &r, 100, true);
    send_and_wait(s, &r, &t, frames + 1);
    struct monitor_stats full = stage_stats(s);
    assert_true(full.reports_dropped > 1);
    for (uint64_t i = 0; i < full.reports; i++)
        expect_report(s, 1 + i, false);
    add_answer(&t, &r, 100, false);
    add_answer(&t, &r, 101, false);
    send_and_wait(s, &r, &t, 2);
    expect_report(s, 101, false);
    assert_int_equal(stage_stats(s).reports_dropped, full.reports_dropped + 1);
    text_fini(&t);
    raw_close(&r);
}

/* Ask the acceptor, as the application server does; release the answer. */
static struct msg ask_acceptor(struct stage *s, unsigned kind, const struct rotation_order *o)
{
    struct msg m = {.kind = (uint16_t)kind}, reply;
    uint64_t ticket, deadline = clock_mono_ns() + STAGE_PATIENCE_NS;
    if (o != NULL) {
        struct rotation_order *copy = malloc(sizeof(*copy));
        assert_non_null(copy);
        *copy = *o;
        m.body = copy;
        m.body_free = free;
    }
    assert_int_equal(mailbox_ask(s->threads.main, s->threads.acceptor, &m, STAGE_PATIENCE_NS,
                                 clock_mono_ns(), &ticket),
                     0);
    while (!mailbox_take(s->threads.main, &reply)) {
        assert_true(clock_mono_ns() < deadline);
        stage_turn(s);
    }
    assert_true(reply.is_reply);
    return reply;
}

/* Since when a key is ordered for the gateway of @id, as the acceptor knows it; 0: none is. */
static json_int_t ordered_since(struct stage *s, const char *id)
{
    struct msg m = ask_acceptor(s, MSG_ROTATION_ORDERS, NULL);
    json_int_t since = json_integer_value(json_object_get(m.body, id));
    msg_release(&m);
    return since;
}

static int tell_order(struct stage *s, struct rotation_order o)
{
    memset(o.gateway_id, 0x11, sizeof(o.gateway_id));
    snprintf(o.name, sizeof(o.name), "gw");
    struct msg m = ask_acceptor(s, MSG_ROTATION_ORDERED, &o);
    int status = m.status;
    msg_release(&m);
    return status;
}

/* The first withdrawal was not heard, a new order came, and the second withdrawal, which the store
 * was asked for before that order, is heard behind it. */
static void a_withdrawal_leaves_what_was_ordered_after_it(void **state)
{
    struct stage *s = *state;
    const char *id = "11111111111111111111111111111111";
    uint64_t deadline = clock_mono_ns() + STAGE_PATIENCE_NS;
    char key[2 * AUTH_KEY_SIZE + 1] = "";
    memset(key, '2', sizeof(key) - 1);
    json_t *row = json_pack("{s:s, s:s, s:s, s:i, s:i}", "key_id", "gateway:1", "gateway_id", id,
                            "key", key, "created_us", 1, "ordered_us", 1000);
    json_array_append_new(s->credentials, row);
    struct msg m = {.kind = MSG_KEYS_CHANGED};
    assert_int_equal(mailbox_post(s->threads.main, s->threads.acceptor, &m), 0);
    while (ordered_since(s, id) != 1000)
        assert_true(clock_mono_ns() < deadline);
    s->store_mute = true; /* so that nothing is put right by what is read again */
    assert_int_equal(tell_order(s, (struct rotation_order){.since_us = 2000}), 0);
    assert_int_equal(ordered_since(s, id), 2000);
    assert_int_equal(tell_order(s, (struct rotation_order){.asked_us = 1500, .again = true}),
                     WEIR_E_NOT_FOUND);
    assert_int_equal(ordered_since(s, id), 2000);
    assert_int_equal(tell_order(s, (struct rotation_order){.asked_us = 2000, .again = true}),
                     WEIR_E_NOT_FOUND); /* what the record has no more was there before */
    assert_int_equal(ordered_since(s, id), 2000);
    assert_int_equal(tell_order(s, (struct rotation_order){.asked_us = 2500, .again = true}), 0);
    assert_int_equal(ordered_since(s, id), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_gateway_that_proves_the_key_gets_a_session, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(secrets_lie_in_files_that_others_cannot_read, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_wrong_key_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_proof_that_was_overheard_is_worth_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(versions_without_one_in_common_are_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_no_handshake_is_refused_by_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_unknown_key_is_asked_for_once_and_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_token_enrols_one_gateway_and_no_second, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(keys_that_cannot_be_read_refuse_for_now, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_session_ends_by_name_when_the_gateway_breaks_the_protocol,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(statistics_of_another_boot_end_the_session, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_silent_gateway_is_left_after_three_heartbeats,
                                        set_up_quick, tear_down),
        cmocka_unit_test_setup_teardown(the_server_sends_heartbeats, set_up_quick, tear_down),
        cmocka_unit_test_setup_teardown(the_services_word_ends_a_session_with_a_farewell, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_answer_after_a_warning_goes_before_others, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_answer_that_lost_a_frame_ends_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_withdrawal_leaves_what_was_ordered_after_it, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_large_set_comes_in_parts_and_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_gateway_that_does_not_read_gets_the_newest_word_or_is_ended, set_up_unstalled,
            tear_down),
        cmocka_unit_test_setup_teardown(a_gateway_that_reads_again_is_told_of_and_goes_on,
                                        set_up_patient, tear_down),
        cmocka_unit_test_setup_teardown(more_sessions_than_configured_are_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(many_idle_connections_keep_nobody_out_for_long, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            when_the_services_are_full_statistics_drop_and_life_does_not, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

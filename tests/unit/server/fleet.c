/* SPDX-License-Identifier: Apache-2.0 */
#include "fleet.h"

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

#include "base/clock.h"
#include "base/rng.h"

void fleet_send(struct fleet_gateway *g, const Weir__Control__Frame *frame)
{
    struct text *out = &g->fleet->out;
    text_clear(out);
    assert_int_equal(frame_append(out, frame), 0);
    for (size_t sent = 0; sent < out->len && g->fd >= 0;) {
        ssize_t n = send(g->fd, out->data + sent, out->len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return; /* the server left: seen when it is read */
        sent += (size_t)n;
    }
}

static void hello(struct fleet_gateway *g)
{
    char name[32];
    Weir__Control__Hello h = WEIR__CONTROL__HELLO__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    snprintf(name, sizeof(name), "gw%u", g->index);
    h.version_min = h.version_max = 1;
    h.gateway_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = g->auth.gateway_id};
    h.boot_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = g->auth.boot_id};
    h.nonce = (ProtobufCBinaryData){.len = AUTH_NONCE_SIZE, .data = g->auth.nonce_gateway};
    h.name = name;
    h.software = (char *)(uintptr_t)"fleet";
    h.key_id = g->auth.key_id;
    f.body_case = WEIR__CONTROL__FRAME__BODY_HELLO;
    f.hello = &h;
    fleet_send(g, &f);
}

static void prove(struct fleet_gateway *g, const Weir__Control__Challenge *c)
{
    uint8_t proof[AUTH_PROOF_SIZE];
    Weir__Control__Proof p = WEIR__CONTROL__PROOF__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    memcpy(g->auth.nonce_server, c->nonce.data, AUTH_NONCE_SIZE);
    auth_prove(&g->auth, g->fleet->key, AUTH_GATEWAY, proof);
    p.proof = (ProtobufCBinaryData){.len = sizeof(proof), .data = proof};
    f.body_case = WEIR__CONTROL__FRAME__BODY_PROOF;
    f.proof = &p;
    fleet_send(g, &f);
}

void fleet_connect(struct fleet *f, struct fleet_gateway *g)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", f->socket);
    g->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(g->fd >= 0);
    assert_int_equal(connect(g->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    g->up = false;
    text_clear(&g->in);
    rng_system(g->auth.nonce_gateway, sizeof(g->auth.nonce_gateway));
    hello(g);
}

void fleet_open(struct fleet *f, const char *socket, const uint8_t key[AUTH_KEY_SIZE], size_t n)
{
    *f = (struct fleet){.count = n};
    snprintf(f->socket, sizeof(f->socket), "%s", socket);
    memcpy(f->key, key, sizeof(f->key));
    f->gateway = calloc(n, sizeof(*f->gateway));
    assert_non_null(f->gateway);
    assert_int_equal(frame_arena_init(&f->arena, FRAME_ARENA_SIZE), 0);
    text_init(&f->out, FRAME_MAX);
    for (size_t i = 0; i < n; i++) {
        struct fleet_gateway *g = &f->gateway[i];
        g->fleet = f;
        g->index = (unsigned)i;
        g->fd = -1;
        text_init(&g->in, 4u * FRAME_MAX);
        g->auth.version = 1;
        snprintf(g->auth.key_id, sizeof(g->auth.key_id), "local");
        rng_system(g->auth.gateway_id, sizeof(g->auth.gateway_id));
        rng_system(g->auth.boot_id, sizeof(g->auth.boot_id));
    }
}

void fleet_leave(struct fleet_gateway *g)
{
    if (g->fd >= 0)
        close(g->fd);
    g->fd = -1;
    g->up = false;
}

void fleet_close(struct fleet *f)
{
    for (size_t i = 0; i < f->count; i++) {
        fleet_leave(&f->gateway[i]);
        text_fini(&f->gateway[i].in);
    }
    frame_arena_fini(&f->arena);
    text_fini(&f->out);
    free(f->gateway);
}

static void report(struct fleet_gateway *g, uint64_t seq)
{
    char host[32], target[2][32], uri[2][64];
    Weir__Control__OpStats op = WEIR__CONTROL__OP_STATS__INIT, *ops = &op;
    Weir__Control__StreamInfo info = WEIR__CONTROL__STREAM_INFO__INIT;
    Weir__Control__StreamStats st = WEIR__CONTROL__STREAM_STATS__INIT, *sts = &st;
    Weir__Control__TargetStats t[2], *ts[2] = {&t[0], &t[1]};
    Weir__Control__Statistics s = WEIR__CONTROL__STATISTICS__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    if (!g->fleet->frozen)
        g->ops += 1 + g->index % 7;
    if (!g->first_said)
        g->first_ops = g->ops;
    g->first_said = true;
    unsigned number[2] = {g->index % FLEET_TARGETS, g->also > 0 ? g->also - 1 : 0};
    s.n_targets = g->also > 0 ? 2 : 1;
    for (size_t i = 0; i < s.n_targets; i++) {
        weir__control__target_stats__init(&t[i]);
        snprintf(target[i], sizeof(target[i]), "array%u", number[i]);
        snprintf(uri[i], sizeof(uri[i]), "nbd://storage-%u:10809", number[i]);
        t[i].name = target[i];
        t[i].uri = uri[i];
    }
    snprintf(host, sizeof(host), "host%u", g->index);
    info.host = host;
    info.volume = (char *)(uintptr_t)"db";
    info.target = target[0];
    op.op = WEIR__CONTROL__OP__READ;
    op.arrivals = op.completions = g->ops;
    op.bytes = 4096 * g->ops;
    st.info = &info;
    st.n_ops = 1;
    st.ops = &ops;
    st.connections = 1;
    s.seq = seq;
    s.mono_ns = clock_mono_ns();
    s.epoch = g->epoch;
    s.n_streams = 1;
    s.streams = &sts;
    s.targets = ts;
    s.boot_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = g->auth.boot_id};
    f.body_case = WEIR__CONTROL__FRAME__BODY_STATISTICS;
    f.statistics = &s;
    fleet_send(g, &f);
}

static void controls(struct fleet_gateway *g, const Weir__Control__SetControls *c)
{
    Weir__Control__ControlsAck a = WEIR__CONTROL__CONTROLS_ACK__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    g->epochs_back += c->epoch <= g->epoch;
    g->epoch = c->epoch;
    if (c->full)
        g->limit = 0;
    for (size_t i = 0; i < c->n_controls; i++) {
        const Weir__Control__Control *one = c->controls[i];
        if (strncmp(one->id, "agreement/", 10) == 0)
            g->limit = one->n_rates > 0 ? one->rates[0]->rate : 0;
    }
    a.epoch = c->epoch;
    f.body_case = WEIR__CONTROL__FRAME__BODY_CONTROLS_ACK;
    f.controls_ack = &a;
    fleet_send(g, &f);
}

void fleet_surge(struct fleet_gateway *g)
{
    Weir__Control__Surge s = WEIR__CONTROL__SURGE__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    s.why = (char *)(uintptr_t)"late";
    f.body_case = WEIR__CONTROL__FRAME__BODY_SURGE;
    f.surge = &s;
    fleet_send(g, &f);
}

static void took(struct fleet_gateway *g, const Weir__Control__Frame *f)
{
    if (f->body_case == WEIR__CONTROL__FRAME__BODY_CHALLENGE) {
        prove(g, f->challenge);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_WELCOME) {
        g->up = true;
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_POLL) {
        g->polls++;
        g->last_seq = f->poll->seq;
        if (!g->fleet->silent)
            report(g, f->poll->seq);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_SET_CONTROLS) {
        controls(g, f->set_controls);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_HEARTBEAT) {
        Weir__Control__Heartbeat h = WEIR__CONTROL__HEARTBEAT__INIT;
        Weir__Control__Frame answer = WEIR__CONTROL__FRAME__INIT;
        answer.body_case = WEIR__CONTROL__FRAME__BODY_HEARTBEAT;
        answer.heartbeat = &h;
        fleet_send(g, &answer);
    }
}

static void read_some(struct fleet_gateway *g)
{
    char bytes[16384];
    ssize_t n = recv(g->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        g->ended++;
        fleet_leave(g);
        return;
    }
    g->bytes_in += (uint64_t)n;
    text_append(&g->in, bytes, (size_t)n);
    for (;;) {
        const Weir__Control__Frame *f = NULL;
        int64_t size = frame_peek(g->in.data, g->in.len);
        assert_true(size >= 0);
        if (size == 0)
            return;
        frame_arena_reset(&g->fleet->arena);
        assert_int_equal(frame_unpack(&g->fleet->arena, g->in.data, (size_t)size, &f), 0);
        text_consume(&g->in, (size_t)size);
        took(g, f);
    }
}

void fleet_turn(struct fleet *f, int ms)
{
    struct pollfd *p = calloc(f->count, sizeof(*p));
    assert_non_null(p);
    for (size_t i = 0; i < f->count; i++)
        p[i] = (struct pollfd){.fd = f->gateway[i].deaf ? -1 : f->gateway[i].fd, .events = POLLIN};
    if (poll(p, f->count, ms) > 0) {
        for (size_t i = 0; i < f->count; i++) {
            if (p[i].revents != 0)
                read_some(&f->gateway[i]);
        }
    }
    free(p);
}

size_t fleet_up(const struct fleet *f)
{
    size_t n = 0;
    for (size_t i = 0; i < f->count; i++)
        n += f->gateway[i].up;
    return n;
}

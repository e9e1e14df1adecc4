/* SPDX-License-Identifier: Apache-2.0 */
/* libzmq: one ROUTER socket with one I/O thread; one thread of ours receives, folds and sends.
 * Bounds on its queues are lifted, so that it never drops. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "gw_serve.h"

#define IDENTITY_SIZE 5u

struct zmq_server {
    struct serve *serve;
    void *socket;
    struct calendar *calendar;
    struct frame_arena arena;
    struct text out;
};

static void ask(struct zmq_server *z, uint32_t at, uint64_t now)
{
    uint32_t key = z->serve->gateway[at].key;
    uint8_t identity[IDENTITY_SIZE] = {0, (uint8_t)(key >> 24), (uint8_t)(key >> 16),
                                       (uint8_t)(key >> 8), (uint8_t)key};
    text_clear(&z->out);
    serve_poll_frame(z->serve, at, now, &z->out);
    if (zmq_send(z->socket, identity, sizeof(identity), ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
        (void)zmq_send(z->socket, z->out.data, z->out.len, ZMQ_DONTWAIT);
}

static void ask_later(struct zmq_server *z, uint32_t at, uint64_t now)
{
    if (z->calendar == NULL)
        ask(z, at, now);
    else
        calendar_put(z->calendar, at, serve_due(z->serve, at, now));
}

static void message(struct zmq_server *z, const uint8_t *identity, const void *bytes, size_t n)
{
    const Weir__Control__Frame *f = NULL;
    uint64_t now = clock_mono_ns();
    uint32_t key = (uint32_t)identity[1] << 24 | (uint32_t)identity[2] << 16 |
                   (uint32_t)identity[3] << 8 | identity[4];
    frame_arena_reset(&z->arena);
    if (frame_unpack(&z->arena, bytes, n, &f) < 0)
        return;
    if (f->body_case == WEIR__CONTROL__FRAME__BODY_HELLO) {
        ask_later(z, serve_come(z->serve, key), now);
        return;
    }
    int64_t at = serve_find(z->serve, key);
    if (at >= 0 && serve_frame(z->serve, (uint32_t)at, f, now) == 0 && z->calendar == NULL)
        ask(z, (uint32_t)at, now);
}

/* Everything that is here. */
static void receive(struct zmq_server *z)
{
    zmq_msg_t identity, body;
    zmq_msg_init(&identity);
    zmq_msg_init(&body);
    while (zmq_msg_recv(&identity, z->socket, ZMQ_DONTWAIT) >= 0) {
        int r = zmq_msg_recv(&body, z->socket, ZMQ_DONTWAIT);
        weir_assert(r >= 0);
        if (zmq_msg_size(&identity) == IDENTITY_SIZE)
            message(z, zmq_msg_data(&identity), zmq_msg_data(&body), zmq_msg_size(&body));
    }
    zmq_msg_close(&identity);
    zmq_msg_close(&body);
}

static void due(struct zmq_server *z, uint64_t now)
{
    int64_t at;
    while (z->calendar != NULL && (at = calendar_take(z->calendar, now)) >= 0) {
        ask(z, (uint32_t)at, now);
        calendar_put(z->calendar, (uint32_t)at, serve_due(z->serve, (uint32_t)at, now));
    }
}

int serve_zmq(struct serve *s)
{
    struct zmq_server z = {.serve = s};
    char address[160], at[160];
    size_t size = sizeof(at);
    int none = 0, sockets = (int)s->o.gateways + 64;
    void *context = zmq_ctx_new();
    zmq_ctx_set(context, ZMQ_MAX_SOCKETS, sockets);
    z.socket = zmq_socket(context, ZMQ_ROUTER);
    zmq_setsockopt(z.socket, ZMQ_SNDHWM, &none, sizeof(none));
    zmq_setsockopt(z.socket, ZMQ_RCVHWM, &none, sizeof(none));
    int backlog = 1024;
    zmq_setsockopt(z.socket, ZMQ_BACKLOG, &backlog, sizeof(backlog));
    snprintf(address, sizeof(address), "tcp://%s", s->o.listen);
    if (zmq_bind(z.socket, address) < 0 ||
        zmq_getsockopt(z.socket, ZMQ_LAST_ENDPOINT, at, &size) < 0) {
        fprintf(stderr, "gwserve: %s: %s\n", address, zmq_strerror(errno));
        return 1;
    }
    int r = frame_arena_init(&z.arena, FRAME_ARENA_SIZE);
    weir_assert(r == 0);
    text_init(&z.out, FRAME_MAX);
    if (s->o.period_ms > 0)
        z.calendar = calendar_new(s->o.gateways, s->o.period_ms);
    printf("listening on %s\n", at + strlen("tcp://"));
    fflush(stdout);
    for (;;) {
        zmq_pollitem_t item = {.socket = z.socket, .events = ZMQ_POLLIN};
        (void)zmq_poll(&item, 1, z.calendar != NULL ? 1 : -1);
        receive(&z);
        due(&z, clock_mono_ns());
    }
}

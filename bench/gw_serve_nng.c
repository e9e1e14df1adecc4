/* SPDX-License-Identifier: Apache-2.0 */
/* nng: one REP socket in raw mode, so that any number of requests may be open; nng's own threads
 * move bytes, one thread of ours receives, folds and replies. An answer is a request, the next poll
 * its reply: kept until it is due. */
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "gw_serve.h"

struct nng_server {
    struct serve *serve;
    nng_socket socket;
    struct calendar *calendar;
    struct frame_arena arena;
    struct text out;
    nng_msg **held; /* by place: the request whose reply is due later */
};

/* Takes @m. */
static void ask(struct nng_server *n, uint32_t at, nng_msg *m, uint64_t now)
{
    text_clear(&n->out);
    serve_poll_frame(n->serve, at, now, &n->out);
    nng_msg_clear(m);
    if (nng_msg_append(m, n->out.data, n->out.len) != 0 ||
        nng_sendmsg(n->socket, m, 0) != 0)
        nng_msg_free(m);
}

static void message(struct nng_server *n, nng_msg *m, uint64_t now)
{
    const Weir__Control__Frame *f = NULL;
    uint32_t key = (uint32_t)nng_pipe_id(nng_msg_get_pipe(m));
    frame_arena_reset(&n->arena);
    int64_t at = -1;
    if (frame_unpack(&n->arena, nng_msg_body(m), nng_msg_len(m), &f) == 0) {
        if (f->body_case == WEIR__CONTROL__FRAME__BODY_HELLO)
            at = serve_come(n->serve, key);
        else if ((at = serve_find(n->serve, key)) >= 0)
            (void)serve_frame(n->serve, (uint32_t)at, f, now);
    }
    if (at < 0) {
        nng_msg_free(m);
    } else if (n->calendar == NULL) {
        ask(n, (uint32_t)at, m, now);
    } else {
        weir_assert(n->held[at] == NULL);
        n->held[at] = m;
        calendar_put(n->calendar, (uint32_t)at, serve_due(n->serve, (uint32_t)at, now));
    }
}

static void due(struct nng_server *n, uint64_t now)
{
    int64_t at;
    while (n->calendar != NULL && (at = calendar_take(n->calendar, now)) >= 0) {
        nng_msg *m = n->held[at];
        n->held[at] = NULL;
        if (m != NULL)
            ask(n, (uint32_t)at, m, now);
    }
}

int serve_nng(struct serve *s)
{
    struct nng_server n = {.serve = s};
    char address[160];
    nng_listener listener;
    int port = 0;
    snprintf(address, sizeof(address), "tcp://%s", s->o.listen);
    if (nng_rep0_open_raw(&n.socket) != 0 ||
        nng_listener_create(&listener, n.socket, address) != 0 ||
        nng_listener_start(listener, 0) != 0 ||
        nng_listener_get_int(listener, NNG_OPT_TCP_BOUND_PORT, &port) != 0) {
        fprintf(stderr, "gwserve: nng cannot listen on %s\n", address);
        return 1;
    }
    int r = frame_arena_init(&n.arena, FRAME_ARENA_SIZE);
    n.held = calloc(s->o.gateways, sizeof(*n.held));
    weir_assert(r == 0 && n.held != NULL);
    text_init(&n.out, FRAME_MAX);
    if (s->o.period_ms > 0)
        n.calendar = calendar_new(s->o.gateways, s->o.period_ms);
    nng_socket_set_ms(n.socket, NNG_OPT_RECVTIMEO, n.calendar != NULL ? 1 : -1);
    printf("listening on 127.0.0.1:%d\n", port);
    fflush(stdout);
    for (;;) {
        nng_msg *m = NULL;
        if (nng_recvmsg(n.socket, &m, 0) == 0)
            message(&n, m, clock_mono_ns());
        due(&n, clock_mono_ns());
    }
}

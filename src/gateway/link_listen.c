/* SPDX-License-Identifier: Apache-2.0 */
/* The other way round: the server dials, the gateway listens (docs/protocol.md, "Who dials").
 *
 * Problem. Where a gateway may not open connections outward, the server has to come to it; and then
 * anybody may come, stay silent, or come again and again, and must not keep the server out.
 *
 * Model. Whoever connects is a guest: Hello goes out (behind TLS where that is needed), and its
 * first frame must be a Challenge that proves the key. Guests are seen to side by side; the first
 * that proves itself becomes the link's peer (link_adopt), and the others are closed. So are those
 * that come while a session stands.
 *
 *   FREE --accepted--> SECURING --TLS, and it is the server--> PROVING --Challenge--> the link's
 *            \--no TLS is needed--------------------------------^
 *   any --a broken rule, GUEST_NS, its place is needed--> FREE
 *
 * A newcomer has a place unless only servers that TLS has shown are here: when GUESTS_PER_ADDRESS
 * of its address are here one of those goes, when all places are taken any one; drawn by lot, so
 * that who comes in large numbers pushes out its own kind, and cannot time it so that the server is
 * met. One that TLS has shown to be the server is not drawn. Where there is no TLS to tell the
 * server by, a flood of its own address may meet it: n that come while its proof is on its way
 * leave it its place with (1 - 1/GUESTS_PER_ADDRESS) to the n, so there are many places.
 *
 * Bounds: GUESTS_MAX places (SECURE_MAX with TLS), GUEST_NS each, GUEST_IN_MAX bytes of each.
 *
 * What may fail: accept for want of descriptors: the connection waits in the kernel, and a later
 * one brings the next try. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"

/* Those who come in a rush wait here; a full one costs who comes next, the server too, a second. */
#define LISTEN_BACKLOG 256
/* Few, since to begin TLS takes the thread that carries I/O; the others wait for the next round. */
#define ACCEPT_ROUND 2u
/* Of guests who need no TLS, which cost little: 6 KiB and a descriptor. */
#define GUESTS_MAX 64u
#define GUESTS_PER_ADDRESS 48u
/* Of guests who need it. */
#define SECURE_MAX 16u
#define SECURE_PER_ADDRESS 4u
#define GUEST_NS (5 * NS_PER_S)
/* A Challenge, and what may be sent behind it. */
#define GUEST_IN_MAX 4096u

enum guest_state { GUEST_FREE, GUEST_SECURING, GUEST_PROVING };

struct guest {
    struct link_listen *listen;
    enum guest_state state;
    struct link_peer peer;
    struct reactor_source source;
    struct reactor_timer timer;
    uint8_t in[GUEST_IN_MAX];
    size_t in_size;
};

struct link_listen {
    struct link *link;
    struct reactor_source source;
    struct reactor_work more; /* some may wait of whom no edge tells again */
    struct guest guest[GUESTS_MAX];
};

/* Its connection is closed, or somebody else's now. */
static void guest_release(struct guest *g)
{
    struct link *l = g->listen->link;
    reactor_remove(l->reactor, &g->source);
    reactor_timer_clear(l->reactor, &g->timer);
    sodium_memzero(&g->peer, sizeof(g->peer));
    g->peer.wire.fd = -1;
    g->in_size = 0;
    g->state = GUEST_FREE;
}

static void guest_close(struct guest *g)
{
    reactor_remove(g->listen->link->reactor, &g->source);
    wire_close(&g->peer.wire);
    guest_release(g);
}

static void guest_fail(struct guest *g, const char *why, bool refused)
{
    link_guest_failed(g->listen->link, &g->peer, why, refused);
    guest_close(g);
}

/* It broke the rules: tell it, if that can be told at once, and leave. */
static void guest_refuse(struct guest *g, int code, const char *words)
{
    struct text out;
    text_init(&out, GUEST_IN_MAX);
    if (link_error(&out, code, words) == 0)
        (void)wire_send(&g->peer.wire, out.data, out.len);
    text_fini(&out);
    guest_fail(g, words, false);
}

/* What is sent to a guest is small, and the first in its direction: all of it or nothing. */
static void guest_hello(struct guest *g)
{
    struct text out;
    text_init(&out, GUEST_IN_MAX);
    bool sent = link_hello(g->listen->link, &g->peer, &out) == 0 &&
                wire_send(&g->peer.wire, out.data, out.len) == (ssize_t)out.len;
    text_fini(&out);
    if (sent)
        g->state = GUEST_PROVING;
    else
        guest_fail(g, "it does not take what it is sent", false);
}

static void guest_challenged(struct guest *g, const Weir__Control__Challenge *c)
{
    struct auth_context *auth = &g->peer.auth;
    if (c->version < CONTROL_VERSION_MIN || c->version > CONTROL_VERSION_MAX) {
        guest_refuse(g, WEIR_E_VERSION, "the server chose a version that was not offered");
        return;
    }
    auth->version = c->version;
    memcpy(auth->nonce_server, c->nonce.data, AUTH_NONCE_SIZE);
    if (!auth_check(auth, g->peer.key.key, AUTH_SERVER, c->proof.data, c->proof.len)) {
        guest_refuse(g, WEIR_E_AUTH, "the server does not know our key");
        return;
    }
    /* The link takes the same frame again, out of a copy: this place is free before that. */
    struct link *l = g->listen->link;
    struct link_peer peer = g->peer;
    uint8_t in[GUEST_IN_MAX];
    size_t n = g->in_size;
    memcpy(in, g->in, n);
    guest_release(g);
    if (!link_adopt(l, &peer, in, n))
        wire_close(&peer.wire);
    sodium_memzero(&peer, sizeof(peer));
}

static void guest_frame(struct guest *g, size_t n)
{
    struct link *l = g->listen->link;
    const Weir__Control__Frame *f = NULL;
    char why[2 * FRAME_STRING_MAX];
    frame_arena_reset(&l->arena);
    int r = frame_unpack(&l->arena, g->in, n, &f);
    if (r < 0) {
        guest_refuse(g, r, "the server sent a frame that breaks the protocol");
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_CHALLENGE) {
        guest_challenged(g, f->challenge);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_ERROR) {
        const char *code = f->error->code;
        snprintf(why, sizeof(why), "refused by the server: %s%s%s", code,
                 code[0] != '\0' ? ": " : "", f->error->words);
        guest_fail(g, why, strcmp(code, weir_err_name(WEIR_E_AUTH)) == 0);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_BYE) {
        snprintf(why, sizeof(why), "the server said bye: %s", f->bye->why);
        guest_fail(g, why, false);
    } else {
        guest_refuse(g, WEIR_E_PROTO, "a message that has no place in the handshake");
    }
}

static void guest_read(struct guest *g)
{
    while (g->state == GUEST_PROVING) {
        if (g->in_size == sizeof(g->in)) {
            guest_refuse(g, WEIR_E_TOO_LARGE, "a first frame of more than 4 KiB");
            return;
        }
        ssize_t n = wire_read(&g->peer.wire, g->in + g->in_size, sizeof(g->in) - g->in_size);
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            guest_fail(g, n == 0 ? "closed by the server" : weir_strerror((int)n), false);
            return;
        }
        g->in_size += (size_t)n;
        int64_t whole = frame_peek(g->in, g->in_size);
        if (whole < 0)
            guest_refuse(g, (int)whole, "the server sent a frame of a length that none can have");
        else if (whole > 0)
            guest_frame(g, (size_t)whole);
    }
}

static void guest_secure(struct guest *g)
{
    char words[600] = "";
    int r = link_tls_step(g->listen->link->config, &g->peer, words, sizeof(words));
    if (r < 0)
        guest_fail(g, words, false);
    else if (r > 0)
        guest_hello(g);
}

static void guest_ready(struct reactor_source *s, uint32_t events)
{
    struct guest *g = container_of(s, struct guest, source);
    (void)events;
    if (g->state == GUEST_SECURING)
        guest_secure(g);
    guest_read(g);
}

static void guest_late(struct reactor_timer *t, uint64_t now_ns)
{
    (void)now_ns;
    guest_fail(container_of(t, struct guest, timer), "proved nothing within 5 s", false);
}

static void guest_begin(struct guest *g)
{
    struct link *l = g->listen->link;
    char words[600] = "";
    const char *why = "";
    int r = link_key_choose(l, &g->peer, &why);
    if (r < 0) {
        guest_fail(g, why, false);
        return;
    }
    if (!link_tls_wanted(l->config, &g->peer)) {
        guest_hello(g);
        return;
    }
    r = link_tls_begin(l->config, &g->peer, words, sizeof(words));
    if (r < 0)
        guest_fail(g, words, false);
    else
        guest_secure(g);
}

/* One of those of @address (NULL: of all) gives its place up, drawn by lot. NULL: none may. */
static struct guest *guest_push_out(struct link_listen *n, const char *address)
{
    struct guest *drawn = NULL;
    uint64_t seen = 0;
    for (size_t i = 0; i < GUESTS_MAX; i++) {
        struct guest *g = &n->guest[i];
        bool known = g->state == GUEST_PROVING && g->peer.wire.tls != NULL;
        if (g->state == GUEST_FREE || known ||
            (address != NULL && strcmp(g->peer.from, address) != 0))
            continue;
        if (rng_below(&n->link->rng, ++seen) == 0)
            drawn = g;
    }
    if (drawn != NULL)
        guest_close(drawn);
    return drawn;
}

static struct guest *guest_place(struct link_listen *n, const char *address)
{
    const struct gateway_config *c = n->link->config;
    const struct link_peer stranger = {.adopted = true, .where = &c->server_listen};
    bool secure = link_tls_wanted(c, &stranger);
    size_t places = secure ? SECURE_MAX : GUESTS_MAX, same = 0;
    struct guest *place = NULL;
    for (size_t i = 0; i < places; i++) {
        struct guest *g = &n->guest[i];
        if (g->state == GUEST_FREE)
            place = g;
        else
            same += strcmp(g->peer.from, address) == 0;
    }
    if (same >= (secure ? SECURE_PER_ADDRESS : GUESTS_PER_ADDRESS))
        return guest_push_out(n, address);
    return place != NULL ? place : guest_push_out(n, NULL);
}

static void guest_open(struct link_listen *n, int fd)
{
    struct link *l = n->link;
    char from[ADDR_TEXT_SIZE];
    if (addr_peer_host(fd, from, sizeof(from)) < 0)
        snprintf(from, sizeof(from), "unknown");
    struct guest *g = link_up(l) ? NULL : guest_place(n, from);
    if (g == NULL) {
        close(fd);
        return;
    }
    g->state = GUEST_SECURING;
    g->peer = (struct link_peer){
        .wire = {.fd = fd}, .adopted = true, .where = &l->config->server_listen};
    memcpy(g->peer.from, from, sizeof(from));
    g->source.fd = fd;
    if (reactor_add(l->reactor, &g->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP) < 0) {
        guest_close(g);
        return;
    }
    reactor_timer_set(l->reactor, &g->timer, reactor_now(l->reactor) + GUEST_NS);
    guest_begin(g);
    guest_read(g);
}

void link_listen_settled(struct link_listen *n)
{
    for (size_t i = 0; n != NULL && i < GUESTS_MAX; i++)
        if (n->guest[i].state != GUEST_FREE)
            guest_close(&n->guest[i]);
}

static void listen_some(struct link_listen *n)
{
    for (unsigned i = 0; i < ACCEPT_ROUND; i++) {
        int fd = accept4(n->source.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            guest_open(n, fd);
            continue;
        }
        if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
    reactor_defer(n->link->reactor, &n->more);
}

static void listen_more(struct reactor_work *w)
{
    listen_some(container_of(w, struct link_listen, more));
}

static void listen_ready(struct reactor_source *s, uint32_t events)
{
    (void)events;
    listen_some(container_of(s, struct link_listen, source));
}

int link_listen_new(struct link *l, struct link_listen **ret)
{
    struct link_listen *n = calloc(1, sizeof(*n));
    if (n == NULL)
        return -ENOMEM;
    n->link = l;
    reactor_work_init(&n->more, listen_more);
    for (size_t i = 0; i < GUESTS_MAX; i++) {
        struct guest *g = &n->guest[i];
        g->listen = n;
        g->source = (struct reactor_source){.fd = -1, .ready = guest_ready};
        g->timer.fire = guest_late;
        g->peer.wire.fd = -1;
    }
    n->source.ready = listen_ready;
    n->source.fd = addr_listen(&l->config->server_listen, LISTEN_BACKLOG, 0600);
    int r = n->source.fd;
    if (r >= 0)
        r = reactor_add(l->reactor, &n->source, EPOLLIN);
    if (r < 0) {
        link_listen_free(n);
        return r;
    }
    *ret = n;
    return 0;
}

int link_listen_address(const struct link_listen *n, char *out, size_t size)
{
    return addr_local_text(n->source.fd, out, size);
}

void link_listen_free(struct link_listen *n)
{
    if (n == NULL)
        return;
    link_listen_settled(n);
    reactor_work_cancel(&n->more);
    reactor_remove(n->link->reactor, &n->source);
    if (n->source.fd >= 0)
        close(n->source.fd);
    free(n);
}

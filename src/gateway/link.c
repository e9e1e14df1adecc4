/* SPDX-License-Identifier: Apache-2.0 */
/* The link to the SLA server: one session at a time, dialled by the gateway (docs/protocol.md).
 *
 * Problem. The server must learn what every stream did and say what is to be held, over a
 * connection that may be slow, hostile or gone, from the same thread that carries I/O: nothing here
 * may wait.
 *
 *   IDLE                      no server in the configuration, or retired (another worker has the
 *                             link now): for ever
 *
 *   A connection that a server opened comes to PROVING when it has proved the key (link_listen.c),
 *   from WAITING or in the place of a dial of our own; with no server to dial, WAITING waits for
 *   that alone.
 *
 *   WAITING --time is up--> CONNECTING --connected--> PROVING --Welcome--> ESTABLISHED
 *      ^                        |   \--> SECURING --TLS--^   |                  |
 *      +------------------------+-----------+----------------+------------------+
 *        any failure: close, count it, wait 0.2 s doubling to 10 s, half of it jitter; the next
 *        server of the list is tried then. After a session that was of use (it was polled, or stood
 *        for 5 s) the wait begins again at 0.2 s.
 *
 * Invariants:
 *  1. fd >= 0 exactly in CONNECTING, SECURING, PROVING and ESTABLISHED; link_drop is the only way
 *     out of them.
 *  2. Polls and controls are taken in ESTABLISHED only: both sides have proved the key by then.
 *  3. The handshake ends within 10 s; a server silent for three heartbeats is left.
 *  4. What is buffered is bounded by LINK_IN_MAX and LINK_OUT_MAX; a session that would need more
 *     is dropped.
 *  5. A round reads at most LINK_READ_SIZE and packs at most a few streams; the rest waits for the
 *     next round.
 *  6. After any call that may drop the link the caller looks at the state before it touches the
 *     session.
 *
 * Split: link_identity.c (files), link_tls.c (who the server is), link_stats.c (polls),
 * link_controls.c (controls, lease), link_surge.c, link_drain.c, link_rekey.c. */
#include "gateway/link.h"

#include <config.h> /* the build's; "config.h" would be the gateway's */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "gateway/ledger.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"

#define BACKOFF_FIRST_NS (200 * NS_PER_MS)
#define BACKOFF_MAX_NS (10 * NS_PER_S)
#define BACKOFF_DOUBLINGS 6u
#define HANDSHAKE_NS (10 * NS_PER_S)
#define STEADY_NS (5 * NS_PER_S)
#define SILENT_HEARTBEATS 3u

static const char *const state_names[LINK_STATE_COUNT] = {
#define X(name, label) [LINK_##name] = label,
    LINK_STATE_TABLE(X)
#undef X
};

static const bool state_allowed[LINK_STATE_COUNT][LINK_STATE_COUNT] = {
    [LINK_IDLE] = {[LINK_WAITING] = true},
    [LINK_WAITING] = {[LINK_CONNECTING] = true, [LINK_IDLE] = true},
    [LINK_CONNECTING] = {[LINK_SECURING] = true, [LINK_PROVING] = true, [LINK_WAITING] = true,
                         [LINK_IDLE] = true},
    [LINK_SECURING] = {[LINK_PROVING] = true, [LINK_WAITING] = true, [LINK_IDLE] = true},
    [LINK_PROVING] = {[LINK_ESTABLISHED] = true, [LINK_WAITING] = true, [LINK_IDLE] = true},
    [LINK_ESTABLISHED] = {[LINK_WAITING] = true, [LINK_IDLE] = true},
};

static void link_set_state(struct link *l, enum link_state to)
{
    weir_assert(state_allowed[l->state][to]);
    log_debug("link: %s -> %s", state_names[l->state], state_names[to]);
    l->state = to;
}

bool link_up(const struct link *l)
{
    return l->state == LINK_ESTABLISHED;
}

size_t link_unsent(const struct link *l)
{
    return l->out.len;
}

size_t link_max_slots(const struct gateway_config *config)
{
    return (size_t)config->max_streams + CONFIG_MAX_TARGETS;
}

static bool link_wanted(const struct gateway_config *c)
{
    return c->server_count > 0 || c->server_listen.len > 0;
}

static const char *link_server(const struct link *l)
{
    if (l->peer.adopted)
        return l->peer.from;
    if (l->config->server_count == 0)
        return "a server that dials";
    return l->config->servers[l->server].text;
}

static void link_close(struct link *l)
{
    reactor_remove(l->reactor, &l->source);
    reactor_work_cancel(&l->resume);
    reactor_timer_clear(l->reactor, &l->timer);
    wire_close(&l->peer.wire);
    l->fd = -1;
    text_clear(&l->in);
    text_clear(&l->out);
    frame_arena_reset(&l->arena);
    sodium_memzero(&l->peer.key, sizeof(l->peer.key));
    sodium_memzero(l->derived, sizeof(l->derived));
    link_stats_abort(l->stats);
    link_surge_stop(l->surge);
}

/* Said once, not at each try. */
static void link_log_drop(struct link *l, bool stood)
{
    if (!stood && strcmp(l->last_error, l->logged_error) == 0)
        return;
    snprintf(l->logged_error, sizeof(l->logged_error), "%s", l->last_error);
    log_warning("link to %s: %s; trying again", link_server(l), l->last_error);
}

void link_drop(struct link *l, const char *why)
{
    bool stood = l->state == LINK_ESTABLISHED;
    uint64_t now = reactor_now(l->reactor);
    text_escape(l->last_error, sizeof(l->last_error), why, strlen(why));
    link_log_drop(l, stood);
    link_close(l);
    if (stood && (l->polls > l->polls_before || now - l->established_ns >= STEADY_NS))
        l->failures = 0;
    unsigned doublings = l->failures < BACKOFF_DOUBLINGS ? l->failures : BACKOFF_DOUBLINGS;
    uint64_t wait = BACKOFF_FIRST_NS << doublings;
    if (wait > BACKOFF_MAX_NS)
        wait = BACKOFF_MAX_NS;
    wait = wait / 2 + rng_below(&l->rng, wait / 2);
    l->failures++;
    if (!stood && !l->peer.adopted && l->config->server_count > 0)
        l->server = (l->server + 1) % l->config->server_count;
    l->peer.adopted = false;
    link_set_state(l, LINK_WAITING);
    if (l->config->server_count > 0)
        reactor_timer_set(l->reactor, &l->timer, now + wait);
}

/* Send what waits; false: the link was dropped. */
static bool link_flush(struct link *l)
{
    size_t sent = 0;
    while (sent < l->out.len) {
        ssize_t n = wire_send(&l->peer.wire, l->out.data + sent, l->out.len - sent);
        if (n == -EAGAIN)
            break;
        if (n < 0) {
            link_drop(l, weir_strerror((int)n));
            return false;
        }
        sent += (size_t)n;
    }
    text_consume(&l->out, sent);
    return true;
}

bool link_send(struct link *l, const Weir__Control__Frame *f)
{
    weir_assert(l->fd >= 0);
    int r = frame_append(&l->out, f);
    if (r < 0) {
        link_drop(l, "the server does not read what it is sent");
        return false;
    }
    l->said_ns = reactor_now(l->reactor);
    return link_flush(l);
}

int link_error(struct text *out, int code, const char *words)
{
    Weir__Control__Error e = WEIR__CONTROL__ERROR__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    e.code = (char *)(uintptr_t)weir_err_name(code);
    e.words = (char *)(uintptr_t)words;
    f.body_case = WEIR__CONTROL__FRAME__BODY_ERROR;
    f.error = &e;
    return frame_append(out, &f);
}

/* The peer broke the rules: tell it, once, and leave. */
static void link_refuse(struct link *l, int code, const char *words)
{
    weir_assert(l->fd >= 0);
    if (link_error(&l->out, code, words) < 0)
        link_drop(l, "the server does not read what it is sent");
    else if (link_flush(l))
        link_drop(l, words);
}

int link_hello(struct link *l, struct link_peer *p, struct text *out)
{
    struct auth_context *auth = &p->auth;
    memcpy(auth->gateway_id, l->gateway_id, sizeof(l->gateway_id));
    memcpy(auth->boot_id, l->boot_id, sizeof(l->boot_id));
    rng_system(auth->nonce_gateway, sizeof(auth->nonce_gateway));
    memcpy(auth->key_id, p->key.id, sizeof(auth->key_id));

    Weir__Control__Hello h = WEIR__CONTROL__HELLO__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    h.version_min = CONTROL_VERSION_MIN;
    h.version_max = CONTROL_VERSION_MAX;
    h.gateway_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = auth->gateway_id};
    h.boot_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = auth->boot_id};
    h.nonce = (ProtobufCBinaryData){.len = AUTH_NONCE_SIZE, .data = auth->nonce_gateway};
    h.name = (char *)(uintptr_t)l->config->name;
    h.software = (char *)(uintptr_t)"weir-gateway " WEIR_VERSION;
    h.key_id = auth->key_id;
    h.rekey = true;
    f.body_case = WEIR__CONTROL__FRAME__BODY_HELLO;
    f.hello = &h;
    return frame_append(out, &f);
}

static void link_say_hello(struct link *l)
{
    l->proved = false;
    link_set_state(l, LINK_PROVING);
    if (link_hello(l, &l->peer, &l->out) < 0) {
        link_drop(l, "the server does not read what it is sent");
        return;
    }
    l->said_ns = reactor_now(l->reactor);
    (void)link_flush(l);
}

static void link_secure(struct link *l)
{
    char words[600] = "";
    int r = link_tls_step(l->config, &l->peer, words, sizeof(words));
    if (r < 0)
        link_drop(l, words);
    if (r > 0)
        link_say_hello(l);
}

int link_key_choose(struct link *l, struct link_peer *p, const char **ret_why)
{
    bool avoid = p->adopted && l->doubt ? rng_below(&l->rng, 2) == 0 : l->avoid_next;
    p->key_next = !avoid && link_key_next_load(l->config->state_dir, &p->key) == 0;
    return p->key_next ? 0 : link_key_load(l->config, &p->key, ret_why);
}

static void link_connected(struct link *l)
{
    const char *why = "";
    char words[600] = "";
    int r = addr_connect_result(l->fd);
    if (r < 0) {
        link_drop(l, weir_strerror(r));
        return;
    }
    r = link_key_choose(l, &l->peer, &why);
    if (r < 0) {
        link_drop(l, why);
        return;
    }
    l->peer.auth = (struct auth_context){0};
    if (!link_tls_wanted(l->config, &l->peer)) {
        link_say_hello(l);
        return;
    }
    r = link_tls_begin(l->config, &l->peer, words, sizeof(words));
    if (r < 0) {
        link_drop(l, words);
        return;
    }
    link_set_state(l, LINK_SECURING);
    link_secure(l);
}

static void link_challenged(struct link *l, const Weir__Control__Challenge *c)
{
    if (l->proved) {
        link_refuse(l, WEIR_E_PROTO, "a second challenge");
        return;
    }
    if (c->version < CONTROL_VERSION_MIN || c->version > CONTROL_VERSION_MAX) {
        link_refuse(l, WEIR_E_VERSION, "the server chose a version that was not offered");
        return;
    }
    l->peer.auth.version = c->version;
    memcpy(l->peer.auth.nonce_server, c->nonce.data, AUTH_NONCE_SIZE);
    if (!auth_check(&l->peer.auth, l->peer.key.key, AUTH_SERVER, c->proof.data, c->proof.len)) {
        link_refuse(l, WEIR_E_AUTH, "the server does not know our key");
        return;
    }
    uint8_t proof[AUTH_PROOF_SIZE];
    auth_prove(&l->peer.auth, l->peer.key.key, AUTH_GATEWAY, proof);
    if (l->peer.key.kind == LINK_KEY_TOKEN)
        auth_derive(&l->peer.auth, l->peer.key.key, l->derived);
    Weir__Control__Proof p = WEIR__CONTROL__PROOF__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    p.proof = (ProtobufCBinaryData){.len = sizeof(proof), .data = proof};
    f.body_case = WEIR__CONTROL__FRAME__BODY_PROOF;
    f.proof = &p;
    l->proved = true;
    (void)link_send(l, &f);
}

/* Enrolment: keep the key that both sides derived. False: the link was dropped. */
static bool link_enrolled(struct link *l, const Weir__Control__Welcome *w)
{
    bool enrolling = l->peer.key.kind == LINK_KEY_TOKEN;
    if (enrolling != (w->new_key_id[0] != '\0')) {
        link_refuse(l, WEIR_E_PROTO,
                    "a new key was given that was not asked for, or none that was");
        return false;
    }
    if (!enrolling)
        return true;
    if (strpbrk(w->new_key_id, " \t\r\n") != NULL) {
        link_refuse(l, WEIR_E_PROTO, "the new key's id has blanks");
        return false;
    }
    int r = link_tls_remember(l->config, &l->peer);
    if (r == 0)
        r = link_credential_store(l->config->state_dir, w->new_key_id, l->derived);
    if (r < 0) {
        link_refuse(l, WEIR_E_UNAVAILABLE,
                    "the credential cannot be written into the state folder");
        return false;
    }
    log_info("link: enrolled with %s as %s", link_server(l), w->new_key_id);
    return true;
}

/* The session stands: which key is in force is known. */
static void link_key_settled(struct link *l)
{
    int r = l->peer.key_next ? link_credential_promote(l->config->state_dir) : 0;
    if (r < 0) /* it is tried first again, and promoted then */
        log_warning("link: the new key cannot be renamed: %s", weir_strerror(r));
    else if (l->peer.key_next)
        log_info("link: key %s is in force", l->peer.key.id);
    l->avoid_next = !l->peer.key_next;
    l->doubt = false;
}

static void link_welcomed(struct link *l, const Weir__Control__Welcome *w)
{
    if (!l->proved) {
        link_refuse(l, WEIR_E_PROTO, "a welcome before the proof");
        return;
    }
    if (!link_enrolled(l, w))
        return;
    link_key_settled(l);
    bool confirm = l->peer.key.kind == LINK_KEY_TOKEN && w->key_confirm;
    l->session = w->session;
    l->heartbeat_ns = w->heartbeat_ms * NS_PER_MS;
    l->established_ns = reactor_now(l->reactor);
    l->sessions++;
    l->polls_before = l->polls;
    l->last_error[0] = l->logged_error[0] = '\0';
    sodium_memzero(&l->peer.key, sizeof(l->peer.key));
    link_set_state(l, LINK_ESTABLISHED);
    log_info("link to %s stands (session %llu)", link_server(l), (unsigned long long)l->session);
    link_listen_settled(l->listen);
    link_controls_session(l->controls);
    link_surge_start(l->surge);
    reactor_timer_set(l->reactor, &l->timer, l->established_ns + l->heartbeat_ns);
    if (confirm && link_up(l))
        link_rekey_say(l, w->new_key_id, l->derived, NULL);
    sodium_memzero(l->derived, sizeof(l->derived));
}

static void link_told_error(struct link *l, const char *what, const char *code, const char *words)
{
    char why[2 * FRAME_STRING_MAX];
    snprintf(why, sizeof(why), "%s%s%s%s", what, code, code[0] != '\0' ? ": " : "", words);
    if (l->state == LINK_PROVING && strcmp(code, weir_err_name(WEIR_E_AUTH)) == 0)
        l->avoid_next = l->peer.key_next; /* of two keys the other is tried now */
    link_drop(l, why);
}

static void link_frame_proving(struct link *l, const Weir__Control__Frame *f)
{
    if (f->body_case == WEIR__CONTROL__FRAME__BODY_CHALLENGE)
        link_challenged(l, f->challenge);
    else if (f->body_case == WEIR__CONTROL__FRAME__BODY_WELCOME)
        link_welcomed(l, f->welcome);
    else
        link_refuse(l, WEIR_E_PROTO, "a message that has no place in the handshake");
}

static void link_frame_established(struct link *l, const Weir__Control__Frame *f, const void *raw,
                                   size_t n)
{
    if (f->body_case == WEIR__CONTROL__FRAME__BODY_POLL) {
        l->polls++;
        if (f->poll->drain != NULL)
            link_drain_word(l->drain, f->poll->drain);
        link_stats_poll(l->stats, f->poll);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_SET_CONTROLS) {
        link_controls_set(l->controls, f->set_controls, raw, n);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_REKEY) {
        link_rekey_word(l->rekey, f->rekey);
    } else if (f->body_case != WEIR__CONTROL__FRAME__BODY_HEARTBEAT) {
        link_refuse(l, WEIR_E_PROTO, "a message that a server does not send");
    }
}

static void link_frame(struct link *l, const void *raw, size_t n)
{
    const Weir__Control__Frame *f = NULL;
    frame_arena_reset(&l->arena);
    int r = frame_unpack(&l->arena, raw, n, &f);
    if (r < 0) {
        link_refuse(l, r, "the server sent a frame that breaks the protocol");
        return;
    }
    l->heard_ns = reactor_now(l->reactor);
    if (f->body_case == WEIR__CONTROL__FRAME__BODY_ERROR)
        link_told_error(l, "refused by the server: ", f->error->code, f->error->words);
    else if (f->body_case == WEIR__CONTROL__FRAME__BODY_BYE)
        link_told_error(l, "the server said bye: ", "", f->bye->why);
    else if (l->state == LINK_PROVING)
        link_frame_proving(l, f);
    else
        link_frame_established(l, f, raw, n);
}

/* Handle every whole frame in l->in. False: the link was dropped. */
static bool link_frames(struct link *l)
{
    size_t done = 0;
    while (done < l->in.len) {
        int64_t n = frame_peek(l->in.data + done, l->in.len - done);
        if (n < 0) {
            link_refuse(l, (int)n, "the server sent a frame of a length that none can have");
            return false;
        }
        if (n == 0)
            break;
        link_frame(l, l->in.data + done, (size_t)n);
        if (l->fd < 0)
            return false;
        done += (size_t)n;
    }
    text_consume(&l->in, done);
    return true;
}

/* One read a round (invariant 5). */
static void link_read(struct link *l)
{
    ssize_t n = wire_read(&l->peer.wire, l->scratch, LINK_READ_SIZE);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        link_drop(l, n == 0 ? "closed by the server" : weir_strerror((int)n));
        return;
    }
    text_append(&l->in, l->scratch, (size_t)n);
    if (l->in.failed) {
        link_drop(l, "no memory to receive");
        return;
    }
    if (link_frames(l))
        reactor_defer(l->reactor, &l->resume);
}

static void link_resume(struct reactor_work *w)
{
    struct link *l = container_of(w, struct link, resume);
    if (l->fd >= 0 && l->state != LINK_CONNECTING && l->state != LINK_SECURING)
        link_read(l);
}

static void link_ready(struct reactor_source *s, uint32_t events)
{
    struct link *l = container_of(s, struct link, source);
    if (l->state == LINK_CONNECTING || l->state == LINK_SECURING) {
        if (l->state == LINK_CONNECTING)
            link_connected(l);
        else
            link_secure(l);
        if (l->fd >= 0)
            reactor_defer(l->reactor, &l->resume);
        return;
    }
    if ((events & EPOLLOUT) != 0 && l->out.len > 0 && !link_flush(l))
        return;
    if ((events & EPOLLOUT) != 0)
        link_stats_drained(l->stats);
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0 && l->fd >= 0)
        link_read(l);
}

/* l->peer.wire is connected or on its way. False: the link was dropped. */
static bool link_begin(struct link *l)
{
    l->fd = l->source.fd = l->peer.wire.fd;
    l->heard_ns = reactor_now(l->reactor);
    int r = reactor_add(l->reactor, &l->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    if (r < 0) {
        link_drop(l, weir_strerror(r));
        return false;
    }
    reactor_timer_set(l->reactor, &l->timer, l->heard_ns + HANDSHAKE_NS);
    return true;
}

static void link_dial(struct link *l)
{
    const struct addr *where = &l->config->servers[l->server];
    link_set_state(l, LINK_CONNECTING);
    int fd = addr_connect(where);
    if (fd < 0) {
        link_drop(l, weir_strerror(fd));
        return;
    }
    l->peer = (struct link_peer){.wire = {.fd = fd}, .where = where};
    (void)link_begin(l);
}

bool link_adopt(struct link *l, const struct link_peer *p, const void *in, size_t n)
{
    if (l->state == LINK_ESTABLISHED || (l->state == LINK_PROVING && l->proved))
        return false;
    if (l->state != LINK_WAITING)
        link_drop(l, "a server dialled");
    reactor_timer_clear(l->reactor, &l->timer);
    l->peer = *p;
    l->proved = false;
    link_set_state(l, LINK_CONNECTING);
    link_set_state(l, LINK_PROVING);
    if (!link_begin(l))
        return true;
    text_append(&l->in, in, n);
    if (link_frames(l))
        reactor_defer(l->reactor, &l->resume);
    return true;
}

void link_guest_failed(struct link *l, const struct link_peer *p, const char *why, bool refused)
{
    uint64_t now = reactor_now(l->reactor);
    if (refused && p->wire.tls == NULL)
        l->doubt = true; /* whoever dials may say so */
    else if (refused)
        l->avoid_next = p->key_next; /* of two keys the other is tried now */
    if (link_up(l))
        return;
    text_escape(l->last_error, sizeof(l->last_error), why, strlen(why));
    if (strcmp(l->last_error, l->logged_error) == 0 ||
        (l->guest_logged_ns != 0 && now - l->guest_logged_ns < NS_PER_S))
        return; /* whoever dials may fail as often and in as many ways as he likes */
    l->guest_logged_ns = now;
    snprintf(l->logged_error, sizeof(l->logged_error), "%s", l->last_error);
    log_warning("link to %s, which dialled: %s", p->from, l->last_error);
}

static void link_beat(struct link *l, uint64_t now)
{
    if (now - l->heard_ns > SILENT_HEARTBEATS * l->heartbeat_ns) {
        link_drop(l, "the server is silent");
        return;
    }
    reactor_timer_set(l->reactor, &l->timer, now + l->heartbeat_ns / 2);
    if (now - l->said_ns < l->heartbeat_ns / 2)
        return;
    Weir__Control__Heartbeat h = WEIR__CONTROL__HEARTBEAT__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    h.mono_ns = now;
    f.body_case = WEIR__CONTROL__FRAME__BODY_HEARTBEAT;
    f.heartbeat = &h;
    (void)link_send(l, &f);
}

static void link_timer(struct reactor_timer *t, uint64_t now)
{
    struct link *l = container_of(t, struct link, timer);
    switch (l->state) {
    case LINK_IDLE:
    case LINK_STATE_COUNT:
        weir_assert(l->state == LINK_WAITING); /* no timer runs there */
        break;
    case LINK_WAITING:
        link_dial(l);
        break;
    case LINK_CONNECTING:
        link_drop(l, "no connection within 10 s");
        break;
    case LINK_SECURING:
    case LINK_PROVING:
        link_drop(l, "the handshake took more than 10 s");
        break;
    case LINK_ESTABLISHED:
        link_beat(l, now);
        break;
    }
}

static int link_alloc(struct link *l)
{
    char path[sizeof(l->config->state_dir) + 16];
    snprintf(path, sizeof(path), "%s/controls", l->config->state_dir);
    l->scratch = malloc(LINK_READ_SIZE);
    bool alone = !link_wanted(l->config);
    l->disk = alone ? NULL : link_disk_new(path);
    l->stats = link_stats_new(l);
    l->controls = link_controls_new(l);
    l->surge = link_surge_new(l);
    if (l->scratch == NULL || (l->disk == NULL && !alone) || l->stats == NULL ||
        l->controls == NULL || l->surge == NULL)
        return -ENOMEM;
    return frame_arena_init(&l->arena, FRAME_ARENA_SIZE);
}

int link_new(struct reactor *r, const struct gateway_config *config, struct stream_table *streams,
             struct relay *relay, struct link **ret, const char **ret_why)
{
    struct link *l = calloc(1, sizeof(*l));
    *ret_why = "no memory for the link to the server";
    if (l == NULL)
        return -ENOMEM;
    l->reactor = r;
    l->config = config;
    l->streams = streams;
    l->relay = relay;
    l->fd = l->peer.wire.fd = -1;
    l->source.ready = link_ready;
    l->timer.fire = link_timer;
    reactor_work_init(&l->resume, link_resume);
    text_init(&l->in, LINK_IN_MAX);
    text_init(&l->out, LINK_OUT_MAX);
    uint64_t seed;
    rng_system(&seed, sizeof(seed));
    rng_seed(&l->rng, seed);
    memcpy(l->boot_id, ledger_boot_id(stream_ledger(streams)), sizeof(l->boot_id));
    int e = link_alloc(l);
    if (e == 0 && link_wanted(config))
        e = link_identity_load(config->state_dir, l->gateway_id, ret_why);
    if (e == 0 && link_wanted(config)) {
        l->drain = link_drain_new(l);
        l->rekey = link_rekey_new(l);
        e = l->drain == NULL || l->rekey == NULL ? -ENOMEM : 0;
    }
    if (e == 0 && config->server_listen.len > 0) {
        *ret_why = "the address that the server dials (listen in [server]) cannot be listened on";
        e = link_listen_new(l, &l->listen);
    }
    if (e < 0) {
        link_free(l);
        return e;
    }
    if (link_wanted(config)) {
        if (!link_controls_resume(l->controls))
            link_controls_load(l->controls);
        link_set_state(l, LINK_WAITING);
    }
    if (config->server_count > 0)
        reactor_timer_set(r, &l->timer, reactor_now(r));
    *ret = l;
    return 0;
}

void link_retire(struct link *l)
{
    link_listen_free(l->listen);
    l->listen = NULL;
    if (l->state == LINK_IDLE)
        return;
    link_close(l);
    link_set_state(l, LINK_IDLE);
    link_controls_follow(l->controls);
}

static void link_say_bye(struct link *l)
{
    Weir__Control__Bye b = WEIR__CONTROL__BYE__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    b.why = (char *)(uintptr_t)"the gateway ends";
    f.body_case = WEIR__CONTROL__FRAME__BODY_BYE;
    f.bye = &b;
    (void)link_send(l, &f);
}

void link_free(struct link *l)
{
    if (l == NULL)
        return;
    if (link_up(l))
        link_say_bye(l);
    if (l->stats != NULL && l->surge != NULL)
        link_close(l);
    link_listen_free(l->listen);
    link_surge_free(l->surge);
    link_controls_free(l->controls);
    link_stats_free(l->stats);
    link_rekey_free(l->rekey);
    link_drain_free(l->drain);
    link_disk_free(l->disk);
    if (l->arena.block != NULL)
        frame_arena_fini(&l->arena);
    text_fini(&l->in);
    text_fini(&l->out);
    free(l->scratch);
    free(l);
}

bool link_undrain(struct link *l, bool *ret_was, const char **ret_why)
{
    if (link_up(l)) {
        *ret_why = "the server is connected and says whether the gateway is drained: "
                   "weir gateway undrain NAME";
        return false;
    }
    if (l->state == LINK_IDLE && link_wanted(l->config)) {
        *ret_why = "another worker takes over just now; ask again";
        return false;
    }
    *ret_was = l->drain != NULL && link_drain_end(l->drain);
    return true;
}

void link_status(const struct link *l, struct link_status *ret)
{
    *ret = (struct link_status){
        .configured = link_wanted(l->config),
        .connected = link_up(l),
        .state = state_names[l->state],
        .epoch = link_controls_epoch(l->controls),
        .lease_left_ns = link_controls_lease_left(l->controls, reactor_now(l->reactor)),
        .polls = l->polls,
        .reconnects = l->sessions > 0 ? l->sessions - 1 : 0,
    };
    if (ret->configured)
        snprintf(ret->server, sizeof(ret->server), "%s", link_server(l));
    snprintf(ret->last_error, sizeof(ret->last_error), "%s", l->last_error);
}

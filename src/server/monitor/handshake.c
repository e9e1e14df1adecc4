/* SPDX-License-Identifier: Apache-2.0 */
/* One handshake of a gateway with the server (docs/protocol.md, "Handshake").
 *
 *   FREE -> FIRST --a frame begins, on loopback--> HELLO
 *              \--a TLS record begins--> TLS --it stands--> HELLO
 *   HELLO --Hello--> PROOF --Proof--> session                  known key
 *              \--Hello--> KEYS --keys came--> PROOF           unknown yet: the store is asked
 *                              PROOF --Proof--> ENROL --token taken--> session
 *   FIRST, HELLO, KEYS, PROOF, ENROL --refused--> REFUSED --peer closed, or 1 s--> FREE
 *   any --10 s, or peer closed--> FREE
 *
 * Invariants:
 *  1. At most SESSION_EARLY_MAX bytes are buffered; a longer frame is refused by its length alone.
 *  2. Both nonces are fresh, so a proof that was overheard fits no other handshake.
 *  3. The gateway's proof is judged before anything it says is believed or passed on; a credential
 *     serves the one gateway id that it was made for.
 *  4. A token is taken by the store, in one transaction with the credential that it becomes, before
 *     Welcome is sent: of two gateways that race, one is refused. Until that one is known to have
 *     the credential (rotation.c) it may come with the token again, since Welcome may have been
 *     lost; what an earlier try made is then void.
 *  5. Off loopback nothing but a TLS record begins a handshake. Over TLS both proofs cover the
 *     session (auth.h), the gateway shows a certificate, and a credential that was made over TLS
 *     works with the key of that certificate only.
 *  6. Every refusal has a code, words, a counter and an event. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "server/monitor/acceptor.h"
#include "server/monitor/report.h"
#include "server/msg.h"
#include "server/store/store.h"

#define ENROL_TIMEOUT_NS (8 * NS_PER_S)

static const bool state_allowed[HANDSHAKE_STATE_COUNT][HANDSHAKE_STATE_COUNT] = {
    [HANDSHAKE_FREE] = {[HANDSHAKE_FIRST] = true},
    [HANDSHAKE_FIRST] = {[HANDSHAKE_TLS] = true,
                         [HANDSHAKE_HELLO] = true,
                         [HANDSHAKE_REFUSED] = true,
                         [HANDSHAKE_FREE] = true},
    [HANDSHAKE_TLS] = {[HANDSHAKE_HELLO] = true, [HANDSHAKE_FREE] = true},
    [HANDSHAKE_HELLO] = {[HANDSHAKE_KEYS] = true,
                         [HANDSHAKE_PROOF] = true,
                         [HANDSHAKE_REFUSED] = true,
                         [HANDSHAKE_FREE] = true},
    [HANDSHAKE_KEYS] =
        {[HANDSHAKE_PROOF] = true, [HANDSHAKE_REFUSED] = true, [HANDSHAKE_FREE] = true},
    [HANDSHAKE_PROOF] =
        {[HANDSHAKE_ENROL] = true, [HANDSHAKE_REFUSED] = true, [HANDSHAKE_FREE] = true},
    [HANDSHAKE_ENROL] = {[HANDSHAKE_REFUSED] = true, [HANDSHAKE_FREE] = true},
    [HANDSHAKE_REFUSED] = {[HANDSHAKE_FREE] = true},
};

static void set_state(struct handshake *h, enum handshake_state to)
{
    weir_assert(state_allowed[h->state][to]);
    h->state = to;
}

/* Give the place back; the descriptor is closed or somebody else's now. */
static void release(struct handshake *h)
{
    struct acceptor *a = h->acceptor;
    reactor_timer_clear(a->reactor, &h->timer);
    if (h->ticket != 0)
        mailbox_cancel(a->me, h->ticket);
    h->ticket = 0;
    sodium_memzero(h->key, sizeof(h->key));
    sodium_memzero(h->new_key, sizeof(h->new_key));
    set_state(h, HANDSHAKE_FREE);
    list_remove(&h->link);
    list_push_front(&a->free, &h->link); /* what was used last is in memory already */
    dialler_over(a->dialler, h->dial);
    h->dial = 0;
    monitor_count_down(a->m, handshakes_now);
    acceptor_room(a);
}

void handshake_abandon(struct handshake *h)
{
    reactor_remove(h->acceptor->reactor, &h->source);
    wire_close(&h->wire);
    release(h);
}

/* All of it or nothing: what is sent here is small and the first in its direction. */
static bool send_frame(struct handshake *h, const Weir__Control__Frame *f)
{
    struct text *out = &h->acceptor->out;
    text_clear(out);
    if (frame_append(out, f) < 0)
        return false;
    return wire_send(&h->wire, out->data, out->len) == (ssize_t)out->len;
}

static void count_refusal(struct handshake *h, int code)
{
    struct monitor *m = h->acceptor->m;
    if (code == WEIR_E_AUTH)
        monitor_count(m, refused_auth);
    else if (code == WEIR_E_VERSION)
        monitor_count(m, refused_version);
    else if (code == WEIR_E_FULL)
        monitor_count(m, refused_full);
    else if (code == WEIR_E_UNAVAILABLE)
        monitor_count(m, refused_unavailable);
    else if (code == WEIR_E_REFUSED)
        monitor_count(m, refused_tls);
    else
        monitor_count(m, refused_protocol);
}

static void refuse(struct handshake *h, int code, const char *words)
{
    struct acceptor *a = h->acceptor;
    Weir__Control__Error e = WEIR__CONTROL__ERROR__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    e.code = (char *)(uintptr_t)weir_err_name(code);
    e.words = (char *)(uintptr_t)words;
    f.body_case = WEIR__CONTROL__FRAME__BODY_ERROR;
    f.error = &e;
    count_refusal(h, code);
    char subject[NAME_SIZE + 16], text[384];
    snprintf(subject, sizeof(subject), "gateway/%s", h->name[0] != '\0' ? h->name : "unknown");
    snprintf(text, sizeof(text), "a gateway at %s was refused: %s", h->address, words);
    acceptor_event(a, EVENT_WARNING, "gateway-refused", subject, text);
    if (!send_frame(h, &f)) {
        handshake_abandon(h);
        return;
    }
    shutdown(h->wire.fd, SHUT_WR);
    set_state(h, HANDSHAKE_REFUSED);
    reactor_timer_set(a->reactor, &h->timer, reactor_now(a->reactor) + HANDSHAKE_LINGER_NS);
}

static void challenge(struct handshake *h, const uint8_t key[AUTH_KEY_SIZE], bool enrolling)
{
    uint8_t proof[AUTH_PROOF_SIZE];
    memcpy(h->key, key, sizeof(h->key));
    h->enrolling = enrolling;
    rng_system(h->auth.nonce_server, sizeof(h->auth.nonce_server));
    auth_prove(&h->auth, h->key, AUTH_SERVER, proof);
    Weir__Control__Challenge c = WEIR__CONTROL__CHALLENGE__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    c.version = h->auth.version;
    c.nonce = (ProtobufCBinaryData){.len = AUTH_NONCE_SIZE, .data = h->auth.nonce_server};
    c.proof = (ProtobufCBinaryData){.len = sizeof(proof), .data = proof};
    c.server_name = h->acceptor->m->server_name;
    f.body_case = WEIR__CONTROL__FRAME__BODY_CHALLENGE;
    f.challenge = &c;
    if (!send_frame(h, &f)) {
        handshake_abandon(h);
        return;
    }
    set_state(h, HANDSHAKE_PROOF);
}

/* With @last, a key that is not there now will not come. */
static void look_up(struct handshake *h, bool last)
{
    struct acceptor *a = h->acceptor;
    enum key_class class;
    if (strcmp(h->auth.key_id, "local") == 0) {
        challenge(h, a->m->local_key, false);
        return;
    }
    const struct key_entry *e = keys_find(&a->keys.table, h->auth.key_id, clock_wall_us(), &class);
    if (e != NULL && class == KEY_CREDENTIAL &&
        memcmp(e->gateway_id, h->auth.gateway_id, AUTH_ID_SIZE) != 0) {
        refuse(h, WEIR_E_AUTH,
               "this credential belongs to another gateway; enrol this one with a token");
    } else if (e != NULL && class == KEY_TOKEN && e->used &&
               memcmp(e->gateway_id, h->auth.gateway_id, AUTH_ID_SIZE) != 0) {
        refuse(h, WEIR_E_AUTH, "the enrolment token was used by another gateway; make a new one");
    } else if (e != NULL && h->wire.tls != NULL && e->has_tls_key &&
               memcmp(e->tls_key, h->peer_key, sizeof(e->tls_key)) != 0) {
        refuse(h, WEIR_E_AUTH,
               "the gateway shows another certificate than it enrolled with; enrol it anew");
    } else if (e != NULL) {
        challenge(h, e->key, class == KEY_TOKEN);
    } else if (!last && key_loader_refresh(a)) {
        if (h->state == HANDSHAKE_HELLO)
            set_state(h, HANDSHAKE_KEYS);
    } else if (!a->keys.good) {
        refuse(h, WEIR_E_UNAVAILABLE, "keys cannot be read from the database now; try again");
    } else {
        refuse(h, WEIR_E_AUTH,
               "unknown key: revoked, or the enrolment token was used or is over an hour old");
    }
}

void handshake_keys_loaded(struct handshake *h)
{
    weir_assert(h->state == HANDSHAKE_KEYS);
    look_up(h, true);
}

static void got_hello(struct handshake *h, const Weir__Control__Hello *hello)
{
    report_name(hello->name, h->name);
    report_words(h->software, sizeof(h->software), hello->software);
    if (hello->version_min > CONTROL_VERSION_MAX || hello->version_max < CONTROL_VERSION_MIN) {
        refuse(h, WEIR_E_VERSION, "no protocol version in common; this server speaks version 1");
        return;
    }
    h->auth = (struct auth_context){
        .version =
            hello->version_max < CONTROL_VERSION_MAX ? hello->version_max : CONTROL_VERSION_MAX,
    };
    memcpy(h->auth.gateway_id, hello->gateway_id.data, AUTH_ID_SIZE);
    memcpy(h->auth.boot_id, hello->boot_id.data, AUTH_ID_SIZE);
    memcpy(h->auth.nonce_gateway, hello->nonce.data, AUTH_NONCE_SIZE);
    h->rekey = hello->rekey;
    h->auth.has_channel = h->wire.tls != NULL;
    memcpy(h->auth.channel, h->channel, sizeof(h->channel));
    snprintf(h->auth.key_id, sizeof(h->auth.key_id), "%s", hello->key_id);
    look_up(h, false);
}

static void stand(struct handshake *h)
{
    struct acceptor *a = h->acceptor;
    struct owned_session *s = acceptor_session_new(a, h);
    if (s == NULL) {
        refuse(h, WEIR_E_FULL, "as many gateways are connected as this server is configured for");
        return;
    }
    Weir__Control__Welcome w = WEIR__CONTROL__WELCOME__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    w.session = s->session.id;
    w.heartbeat_ms = a->m->heartbeat_ms;
    w.new_key_id = h->new_key_id;
    w.key_confirm = true;
    f.body_case = WEIR__CONTROL__FRAME__BODY_WELCOME;
    f.welcome = &w;
    if (!send_frame(h, &f)) {
        acceptor_session_forget(a, s);
        handshake_abandon(h);
        return;
    }
    /* It came with the credential, so it has it: the token of its enrolment is done with. */
    if (!h->enrolling && keys_open_token(&a->keys.table, h->auth.gateway_id))
        rotation_enrolled(a->rotations, h->auth.gateway_id, h->auth.key_id);
    reactor_remove(a->reactor, &h->source);
    h->wire = (struct wire){.fd = -1}; /* the session's now */
    s->dial = h->dial;
    dialler_stands(a->dialler, h->dial);
    h->dial = 0;
    release(h);
    acceptor_session_start(a, s);
}

static json_t *enrolment_json(const struct handshake *h)
{
    char id[2 * AUTH_ID_SIZE + 1], key[2 * AUTH_KEY_SIZE + 1];
    char tls_key[2 * AUTH_FINGERPRINT_SIZE + 1] = "";
    if (h->wire.tls != NULL)
        sodium_bin2hex(tls_key, sizeof(tls_key), h->peer_key, sizeof(h->peer_key));
    sodium_bin2hex(id, sizeof(id), h->auth.gateway_id, AUTH_ID_SIZE);
    sodium_bin2hex(key, sizeof(key), h->new_key, AUTH_KEY_SIZE);
    json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s}", "gateway_id", id, "key_id", h->new_key_id,
                          "key", key, "gateway_name", h->name, "tls_key", tls_key);
    sodium_memzero(key, sizeof(key));
    return j;
}

/* Ask the store to take the token and to keep the key that both sides derive. */
static bool enrol(struct handshake *h)
{
    struct acceptor *a = h->acceptor;
    uint8_t random[16];
    char hex[2 * sizeof(random) + 1];
    rng_system(random, sizeof(random));
    sodium_bin2hex(hex, sizeof(hex), random, sizeof(random));
    snprintf(h->new_key_id, sizeof(h->new_key_id), "gateway:%s", hex);
    auth_derive(&h->auth, h->key, h->new_key);
    struct store_write *w = store_write_new(STORE_ENROLMENT_USE);
    if (w == NULL)
        return false;
    w->json = enrolment_json(h);
    w->wall_us = clock_wall_us();
    snprintf(w->name, sizeof(w->name), "%s", h->auth.key_id + strlen("token:"));
    snprintf(w->actor, sizeof(w->actor), "gateway:%.*s", (int)(NAME_SIZE - 9), h->name);
    struct msg m = {
        .kind = MSG_STORE_WRITE,
        .body = w,
        .body_free = store_write_free,
        .tag = (uint64_t)h->number << 32 | (uint64_t)(h - a->handshake),
    };
    if (w->json == NULL || mailbox_ask(a->me, a->m->threads->store_writer, &m, ENROL_TIMEOUT_NS,
                                       clock_mono_ns(), &h->ticket) < 0) {
        store_write_free(w);
        return false;
    }
    return true;
}

static void got_proof(struct handshake *h, const Weir__Control__Proof *p)
{
    if (!auth_check(&h->auth, h->key, AUTH_GATEWAY, p->proof.data, p->proof.len)) {
        refuse(h, WEIR_E_AUTH, "the gateway does not know the key that it named");
    } else if (!h->enrolling) {
        stand(h);
    } else if (enrol(h)) {
        set_state(h, HANDSHAKE_ENROL);
    } else {
        refuse(h, WEIR_E_UNAVAILABLE, "the enrolment cannot be written now; try again");
    }
}

void handshake_enrolled(struct handshake *h, int status)
{
    weir_assert(h->state == HANDSHAKE_ENROL);
    h->ticket = 0;
    if (status == WEIR_E_NOT_FOUND) {
        refuse(h, WEIR_E_AUTH, "the enrolment token was used already or is over; make a new one");
        return;
    }
    if (status < 0) {
        refuse(h, WEIR_E_UNAVAILABLE,
               "the enrolment could not be written; make a new token and try again");
        return;
    }
    struct key_entry e = {0};
    memcpy(e.id, h->new_key_id, sizeof(e.id));
    memcpy(e.key, h->new_key, sizeof(e.key));
    memcpy(e.gateway_id, h->auth.gateway_id, sizeof(e.gateway_id));
    e.has_tls_key = h->wire.tls != NULL;
    memcpy(e.tls_key, h->peer_key, sizeof(e.tls_key));
    (void)keys_add_credential(&h->acceptor->keys.table, &e); /* the load below brings it as well */
    sodium_memzero(&e, sizeof(e));
    /* The gateway may come again, with what it was given, before that load is done. */
    keys_use_token(&h->acceptor->keys.table, h->auth.key_id, h->auth.gateway_id);
    snprintf(h->auth.key_id, sizeof(h->auth.key_id), "%s", h->new_key_id);
    monitor_count(h->acceptor->m, enrolled);
    struct acceptor *a = h->acceptor;
    stand(h);
    key_loader_load(a);
}

static void got_frame(struct handshake *h, const Weir__Control__Frame *f)
{
    if (h->state == HANDSHAKE_HELLO && f->body_case == WEIR__CONTROL__FRAME__BODY_HELLO)
        got_hello(h, f->hello);
    else if (h->state == HANDSHAKE_PROOF && f->body_case == WEIR__CONTROL__FRAME__BODY_PROOF)
        got_proof(h, f->proof);
    else if (f->body_case == WEIR__CONTROL__FRAME__BODY_BYE ||
             f->body_case == WEIR__CONTROL__FRAME__BODY_ERROR) {
        monitor_count(h->acceptor->m, handshake_closed);
        handshake_abandon(h);
    } else
        refuse(h, WEIR_E_PROTO, "a message that has no place in the handshake");
}

/* Handle the whole frames that are here while the handshake waits for one. */
static void take_frames(struct handshake *h)
{
    uint32_t number = h->number;
    while (h->number == number && (h->state == HANDSHAKE_HELLO || h->state == HANDSHAKE_PROOF)) {
        const Weir__Control__Frame *f = NULL;
        int64_t n = frame_peek(h->in, h->in_size);
        if (n == 0 && h->in_size < sizeof(h->in))
            return;
        if (n <= 0 || n > (int64_t)sizeof(h->in)) {
            refuse(h, n == WEIR_E_PROTO ? WEIR_E_PROTO : WEIR_E_TOO_LARGE,
                   "a frame that is no part of a handshake");
            return;
        }
        frame_arena_reset(&h->acceptor->arena);
        int r = frame_unpack(&h->acceptor->arena, h->in, (size_t)n, &f);
        if (r < 0) {
            refuse(h, r, "a frame that breaks the protocol");
            return;
        }
        /* What stays behind the proof becomes the session's early bytes, so it moves up first. */
        memmove(h->in, h->in + n, h->in_size - (size_t)n);
        h->in_size -= (size_t)n;
        got_frame(h, f);
    }
}

/* A length that none of the handshake's frames has is refused before its bytes come. */
static int check_length(const struct handshake *h)
{
    if (h->in_size < FRAME_HEADER_SIZE)
        return 0;
    int64_t whole = frame_peek(h->in, h->in_size);
    if (whole < 0)
        return (int)whole;
    uint32_t length = (uint32_t)h->in[0] << 24 | (uint32_t)h->in[1] << 16 |
                      (uint32_t)h->in[2] << 8 | h->in[3];
    return length > sizeof(h->in) - FRAME_HEADER_SIZE ? WEIR_E_TOO_LARGE : 0;
}

static void discard(struct handshake *h)
{
    uint8_t scratch[4096];
    for (int i = 0; i < 64; i++) {
        ssize_t n = wire_read(&h->wire, scratch, sizeof(scratch));
        if (n == -EAGAIN)
            return;
        if (n <= 0)
            break;
    }
    handshake_abandon(h); /* closed, or talks on and on */
}

/* TLS could not be had: there is nobody whom words would reach. */
static void tls_failed(struct handshake *h, const char *why)
{
    char text[512], clean[200];
    report_words(clean, sizeof(clean), why);
    snprintf(text, sizeof(text), "TLS with a gateway at %s failed: %s", h->address, clean);
    monitor_count(h->acceptor->m, refused_tls);
    acceptor_event(h->acceptor, EVENT_WARNING, "gateway-refused", "gateway/unknown", text);
    handshake_abandon(h);
}

/* False: not yet, or @h is free. */
static bool tls_step(struct handshake *h)
{
    int r = tls_session_handshake(h->wire.tls);
    if (r == 0)
        return false;
    if (r == WEIR_E_CLOSED) {
        monitor_count(h->acceptor->m, handshake_closed);
        handshake_abandon(h);
        return false;
    }
    if (r < 0) {
        tls_failed(h, tls_session_words(h->wire.tls));
        return false;
    }
    if (tls_session_peer_key(h->wire.tls, h->peer_key) < 0 ||
        tls_session_channel(h->wire.tls, h->channel) < 0) {
        tls_failed(h, "no certificate, or no channel to bind the proof to");
        return false;
    }
    set_state(h, HANDSHAKE_HELLO);
    return true;
}

/* The first byte: a frame begins with 0, since none is longer than 1 MiB, a TLS handshake with 22
 * (RFC 8446, section 5.1). False: not yet, or @h is refused or free. */
static bool first_byte(struct handshake *h)
{
    uint8_t byte;
    ssize_t n = recv(h->wire.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        monitor_count(h->acceptor->m, handshake_closed);
        handshake_abandon(h);
        return false;
    }
    if (byte == 22) {
        if (tls_session_new(h->acceptor->m->tls, h->wire.fd, &h->wire.tls) < 0) {
            handshake_abandon(h);
            return false;
        }
        set_state(h, HANDSHAKE_TLS);
        return true;
    }
    if (h->far) {
        refuse(h, WEIR_E_REFUSED, "TLS is required on this address");
        return false;
    }
    set_state(h, HANDSHAKE_HELLO);
    return true;
}

static void ready(struct reactor_source *s, uint32_t events)
{
    struct handshake *h = container_of(s, struct handshake, source);
    (void)events;
    if (h->state == HANDSHAKE_REFUSED) {
        discard(h);
        return;
    }
    if (h->state == HANDSHAKE_FIRST && !first_byte(h))
        return;
    if (h->state == HANDSHAKE_TLS && !tls_step(h))
        return;
    uint32_t number = h->number;
    while (h->number == number && h->state != HANDSHAKE_REFUSED && h->state != HANDSHAKE_FREE) {
        if (h->in_size == sizeof(h->in))
            return; /* behind the proof; the session reads on */
        ssize_t n = wire_read(&h->wire, h->in + h->in_size, sizeof(h->in) - h->in_size);
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            monitor_count(h->acceptor->m, handshake_closed);
            handshake_abandon(h);
            return;
        }
        h->in_size += (size_t)n;
        bool waits = h->state == HANDSHAKE_HELLO || h->state == HANDSHAKE_PROOF;
        int r = waits ? check_length(h) : 0;
        if (r < 0)
            refuse(h, r, "a frame of a length that no handshake has");
        else
            take_frames(h);
    }
}

static void timer(struct reactor_timer *t, uint64_t now)
{
    struct handshake *h = container_of(t, struct handshake, timer);
    (void)now;
    if (h->state != HANDSHAKE_REFUSED)
        monitor_count(h->acceptor->m, handshake_timeouts);
    handshake_abandon(h);
}

void handshake_init(struct handshake *h, struct acceptor *a)
{
    *h = (struct handshake){
        .acceptor = a, .wire = {.fd = -1}, .source = {.ready = ready}, .timer = {.fire = timer}};
    list_init(&h->link);
}

void handshake_begin(struct handshake *h, int fd, const char *address, bool far)
{
    struct acceptor *a = h->acceptor;
    list_remove(&h->link);
    list_push_back(&a->busy, &h->link);
    set_state(h, HANDSHAKE_FIRST);
    h->far = far;
    h->number++;
    h->wire = (struct wire){.fd = fd};
    h->source.fd = fd;
    h->in_size = 0;
    h->name[0] = h->software[0] = h->new_key_id[0] = '\0';
    h->enrolling = false;
    snprintf(h->address, sizeof(h->address), "%s", address);
    monitor_count_add(a->m, handshakes_now, 1);
    reactor_timer_set(a->reactor, &h->timer, reactor_now(a->reactor) + HANDSHAKE_NS);
    if (reactor_add(a->reactor, &h->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP) < 0)
        handshake_abandon(h);
}

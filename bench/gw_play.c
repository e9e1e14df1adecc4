/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: ten thousand gateways over real sockets, on a machine that has the server too, so that
 * each must cost little; and they must behave as real ones do, in health and in fault.
 *
 * Model: one reactor; a gateway is its socket, a few numbers and its counters. Answers are built
 * and sent within the event that brings the poll. Dials are paced (dial_limit handshakes at once,
 * spread over `sources` loopback addresses, since the server counts handshakes by address). One
 * that loses its session dials again after 0.1 to 0.2 s.
 *
 * Faults. Deaf: the socket is no longer read; heartbeats go on, so only what the server sends is
 * stuck. Half-open: a packet filter on the socket drops whatever comes before the kernel could
 * acknowledge it, and nothing is sent: as when the other machine lost its power.
 *
 * Times are of this process's clock: from Surge to the next SetControls; between two polls; from
 * connect to Welcome. */
#include "gw_play.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"

#define INPUT_SIZE (64u * 1024u)
#define PARTIAL_MAX (2u * FRAME_MAX)
#define OUT_MAX (4u * FRAME_MAX)
#define TICK_NS (2 * NS_PER_MS)
/* As a real gateway does: each looks once a heartbeat's half, at a time of its own, whether it has
 * been silent for so long. */
#define BEAT_NS NS_PER_S
#define SWEEP_TURNS 100u
#define HALVES_A_TURN 4u
#define REDIAL_NS (100 * NS_PER_MS)

static void gw_ready(struct reactor_source *s, uint32_t events);

/* ---- going and coming */

static void queue_at(struct gw *g, uint64_t due_ns)
{
    weir_assert(g->state == GW_IDLE);
    g->state = GW_QUEUED;
    g->due_ns = due_ns;
    list_push_back(&g->play->queue, &g->queued);
}

static void gw_close(struct gw *g)
{
    struct play *p = g->play;
    if (g->state == GW_IDLE)
        return;
    if (g->state == GW_QUEUED)
        list_remove(&g->queued);
    else if (g->state == GW_UP)
        p->up--;
    else
        p->dialling--;
    if (g->fd >= 0) {
        reactor_remove(p->reactor, &g->source);
        close(g->fd);
    }
    g->fd = -1;
    text_fini(&g->in);
    text_fini(&g->out);
    text_init(&g->in, PARTIAL_MAX);
    text_init(&g->out, OUT_MAX);
    g->state = GW_IDLE;
    g->deaf = g->half = g->answered = g->owed = false;
    g->surged_ns = g->polled_ns = 0;
}

static void gw_drop(struct gw *g)
{
    struct play *p = g->play;
    if (g->state == GW_UP)
        p->counts.drops++;
    else
        p->counts.dial_failures++;
    gw_close(g);
    if (p->o.redial)
        queue_at(g, reactor_now(p->reactor) + REDIAL_NS + (g->number * 7919u % 100u) * NS_PER_MS);
}

static bool gw_push(struct gw *g, const void *bytes, size_t n)
{
    size_t sent = 0;
    g->said_ns = reactor_now(g->play->reactor);
    while (g->out.len == 0 && sent < n) {
        ssize_t r = send(g->fd, (const char *)bytes + sent, n - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 && errno != EAGAIN) {
            gw_drop(g);
            return false;
        }
        if (r < 0)
            break;
        sent += (size_t)r;
    }
    g->play->counts.bytes_out += n;
    if (sent < n)
        text_append(&g->out, (const char *)bytes + sent, n - sent);
    if (g->out.failed) {
        gw_drop(g);
        return false;
    }
    return true;
}

static void gw_drain(struct gw *g)
{
    ssize_t r = send(g->fd, g->out.data, g->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (r > 0)
        text_consume(&g->out, (size_t)r);
    else if (r < 0 && errno != EAGAIN && errno != EINTR)
        gw_drop(g);
}

/* Begin a message in p->pack; the frame is appended next, then gw_send. */
static struct text *gw_begin(struct play *p)
{
    static const uint8_t room[16];
    text_clear(&p->pack);
    text_append(&p->pack, room, gw_wire_room(p->o.wire));
    return &p->pack;
}

static bool gw_send(struct gw *g)
{
    struct play *p = g->play;
    weir_assert(!p->pack.failed);
    gw_wire_seal(p->o.wire, &p->pack, 0, ++g->request);
    return gw_push(g, p->pack.data, p->pack.len);
}

static bool gw_send_frame(struct gw *g, const Weir__Control__Frame *f)
{
    int r = frame_append(gw_begin(g->play), f);
    weir_assert(r == 0);
    return gw_send(g);
}

/* ---- the handshake */

static void say_hello(struct gw *g)
{
    Weir__Control__Hello h = WEIR__CONTROL__HELLO__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    char name[32];
    snprintf(name, sizeof(name), "played-%u", g->number);
    rng_system(g->nonce, sizeof(g->nonce));
    h.version_min = CONTROL_VERSION_MIN;
    h.version_max = CONTROL_VERSION_MAX;
    h.gateway_id = (ProtobufCBinaryData){.len = sizeof(g->id), .data = g->id};
    h.boot_id = (ProtobufCBinaryData){.len = sizeof(g->stats.boot), .data = g->stats.boot};
    h.nonce = (ProtobufCBinaryData){.len = sizeof(g->nonce), .data = g->nonce};
    h.name = name;
    h.software = (char *)(uintptr_t)"gwload";
    h.key_id = (char *)(uintptr_t)"local";
    f.body_case = WEIR__CONTROL__FRAME__BODY_HELLO;
    f.hello = &h;
    (void)gw_send_frame(g, &f);
}

static void stands(struct gw *g)
{
    struct play *p = g->play;
    weir_assert(g->state != GW_UP);
    g->state = GW_UP;
    p->dialling--;
    p->up++;
    p->counts.sessions++;
    hist_record(&p->dial_to_welcome, reactor_now(p->reactor) - g->dialled_ns);
}

static void challenged(struct gw *g, const Weir__Control__Challenge *c)
{
    struct auth_context a = {.version = c->version, .key_id = "local"};
    uint8_t proof[AUTH_PROOF_SIZE];
    memcpy(a.gateway_id, g->id, sizeof(a.gateway_id));
    memcpy(a.boot_id, g->stats.boot, sizeof(a.boot_id));
    memcpy(a.nonce_gateway, g->nonce, sizeof(a.nonce_gateway));
    memcpy(a.nonce_server, c->nonce.data, sizeof(a.nonce_server));
    if (!auth_check(&a, g->play->o.key, AUTH_SERVER, c->proof.data, c->proof.len)) {
        fprintf(stderr, "gwload: the server does not know the key\n");
        exit(1);
    }
    auth_prove(&a, g->play->o.key, AUTH_GATEWAY, proof);
    Weir__Control__Proof m = WEIR__CONTROL__PROOF__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    m.proof = (ProtobufCBinaryData){.len = sizeof(proof), .data = proof};
    f.body_case = WEIR__CONTROL__FRAME__BODY_PROOF;
    f.proof = &m;
    (void)gw_send_frame(g, &f);
}

/* ---- a session */

static void answer(struct gw *g, uint64_t seq, uint64_t acked)
{
    struct play *p = g->play;
    uint64_t now = reactor_now(p->reactor);
    g->owed = false;
    int r = gw_stats_answer(&g->stats, p->scratch, seq, acked, now, gw_begin(p));
    weir_assert(r == 0);
    if (!gw_send(g))
        return;
    p->counts.answers++;
    if (!g->answered && p->settle_from_ns != 0 && p->settle_left > 0 && --p->settle_left == 0) {
        p->settle_s = (double)(now - p->settle_from_ns) / (double)NS_PER_S;
        p->settle_from_ns = 0;
    }
    g->answered = true;
}

static void polled(struct gw *g, const Weir__Control__Poll *m)
{
    struct play *p = g->play;
    uint64_t now = reactor_now(p->reactor);
    p->counts.polls++;
    if (g->polled_ns != 0)
        hist_record(&p->poll_gap, now - g->polled_ns);
    g->polled_ns = now;
    g->owed_seq = m->seq;
    g->owed_acked = m->acked;
    g->owed = true;
    if (!p->hush)
        answer(g, m->seq, m->acked);
}

static void controlled(struct gw *g, const Weir__Control__SetControls *m)
{
    struct play *p = g->play;
    p->counts.controls++;
    if (g->surged_ns != 0) {
        hist_record(&p->surge_to_control, reactor_now_fresh(p->reactor) - g->surged_ns);
        g->surged_ns = 0;
    }
    if (m->more)
        return;
    g->stats.epoch = m->epoch;
    Weir__Control__ControlsAck a = WEIR__CONTROL__CONTROLS_ACK__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    a.epoch = m->epoch;
    f.body_case = WEIR__CONTROL__FRAME__BODY_CONTROLS_ACK;
    f.controls_ack = &a;
    (void)gw_send_frame(g, &f);
}

static void got_frame(struct gw *g, const Weir__Control__Frame *f)
{
    struct play *p = g->play;
    if (f->body_case == WEIR__CONTROL__FRAME__BODY_POLL) {
        if (g->state != GW_UP)
            stands(g); /* on wires without a handshake */
        polled(g, f->poll);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_SET_CONTROLS) {
        controlled(g, f->set_controls);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_CHALLENGE) {
        challenged(g, f->challenge);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_WELCOME) {
        stands(g);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_ERROR) {
        p->counts.refusals++;
        snprintf(p->last_refusal, sizeof(p->last_refusal), "%s: %s", f->error->code,
                 f->error->words);
        gw_drop(g);
    } else if (f->body_case == WEIR__CONTROL__FRAME__BODY_BYE) {
        p->counts.byes++;
        gw_drop(g);
    }
}

/* Whole messages at the front; returns their bytes, or 0 after the gateway was dropped. */
static size_t take_messages(struct gw *g, const uint8_t *bytes, size_t n)
{
    struct play *p = g->play;
    size_t done = 0;
    while (done < n) {
        const uint8_t *frame = NULL;
        size_t size = 0;
        int64_t whole = gw_wire_peek(p->o.wire, bytes + done, n - done, &frame, &size);
        if (whole == 0)
            break;
        const Weir__Control__Frame *f = NULL;
        frame_arena_reset(&p->arena);
        if (whole < 0 || (size > 0 && frame_unpack(&p->arena, frame, size, &f) < 0)) {
            fprintf(stderr, "gwload: the server sent what is no frame\n");
            exit(1);
        }
        done += (size_t)whole;
        if (f != NULL)
            got_frame(g, f);
        else if (g->state == GW_PROVING)
            say_hello(g); /* ZMTP's READY: libzmq takes no message before it has sent it */
        if (g->fd < 0)
            return 0;
    }
    return done;
}

static void take_bytes(struct gw *g, const uint8_t *bytes, size_t n)
{
    g->play->counts.bytes_in += n;
    if (g->in.len == 0) {
        size_t done = take_messages(g, bytes, n);
        if (g->fd >= 0 && done < n)
            text_append(&g->in, bytes + done, n - done);
        return;
    }
    text_append(&g->in, bytes, n);
    weir_assert(!g->in.failed);
    size_t done = take_messages(g, (const uint8_t *)g->in.data, g->in.len);
    if (g->fd < 0)
        return;
    text_consume(&g->in, done);
    if (g->in.len == 0) {
        text_fini(&g->in);
        text_init(&g->in, PARTIAL_MAX);
    }
}

static void connected(struct gw *g)
{
    struct play *p = g->play;
    uint8_t greeting[128];
    if (addr_connect_result(g->fd) < 0) {
        gw_drop(g);
        return;
    }
    size_t n = gw_wire_greeting(p->o.wire, greeting);
    g->state = n > 0 ? GW_GREETING : GW_PROVING;
    if (n == 0)
        say_hello(g);
    else
        (void)gw_push(g, greeting, n);
}

static bool greeted(struct gw *g)
{
    uint8_t other[128];
    size_t n = gw_wire_greeting_size(g->play->o.wire);
    ssize_t r = recv(g->fd, other, n, MSG_PEEK | MSG_DONTWAIT);
    if (r == 0 || (r < 0 && errno != EAGAIN)) {
        gw_drop(g);
        return false;
    }
    if (r < (ssize_t)n)
        return false;
    r = recv(g->fd, other, n, MSG_DONTWAIT);
    weir_assert(r == (ssize_t)n);
    g->state = GW_PROVING;
    if (g->play->o.wire == GW_WIRE_SP)
        say_hello(g);
    return g->fd >= 0;
}

static void gw_ready(struct reactor_source *s, uint32_t events)
{
    struct gw *g = container_of(s, struct gw, source);
    struct play *p = g->play;
    if (g->half)
        return;
    if (g->state == GW_CONNECTING) {
        connected(g);
        if (g->fd < 0)
            return;
    }
    if ((events & EPOLLOUT) != 0 && g->out.len > 0)
        gw_drain(g);
    if (g->fd < 0 || g->deaf || (events & ~(uint32_t)EPOLLOUT) == 0)
        return;
    if (g->state == GW_GREETING && !greeted(g))
        return;
    for (;;) {
        ssize_t n = recv(g->fd, p->input, INPUT_SIZE, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            gw_drop(g);
            return;
        }
        take_bytes(g, p->input, (size_t)n);
        if (g->fd < 0 || (n < (ssize_t)INPUT_SIZE && (events & (EPOLLRDHUP | EPOLLHUP)) == 0))
            return; /* a short read emptied it; what comes later is another event */
    }
}

/* ---- dialling */

static int dial_tcp(const struct play_options *o, uint32_t number)
{
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr =
        htonl(UINT32_C(127) << 24 | o->source_net << 8 | (1 + number % o->sources));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (bind(fd, (const struct sockaddr *)&from, sizeof(from)) < 0 ||
        (connect(fd, (const struct sockaddr *)&o->server.ss, o->server.len) < 0 &&
         errno != EINPROGRESS)) {
        int e = -errno;
        close(fd);
        return e;
    }
    return fd;
}

static void dial(struct gw *g)
{
    struct play *p = g->play;
    list_remove(&g->queued);
    p->counts.dials++;
    p->dialling++;
    g->state = GW_CONNECTING;
    g->dialled_ns = reactor_now(p->reactor);
    g->fd = addr_is_unix(&p->o.server) ? addr_connect(&p->o.server) : dial_tcp(&p->o, g->number);
    if (g->fd < 0) {
        gw_drop(g);
        return;
    }
    g->source = (struct reactor_source){.fd = g->fd, .ready = gw_ready};
    if (reactor_add(p->reactor, &g->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP) < 0)
        gw_drop(g);
}

static void tick(struct reactor_timer *t, uint64_t now)
{
    struct play *p = container_of(t, struct play, tick);
    list_for_each_safe(it, &p->queue)
    {
        struct gw *g = container_of(it, struct gw, queued);
        if (p->dialling >= p->o.dial_limit)
            break;
        if (g->due_ns <= now)
            dial(g);
    }
    reactor_timer_set(p->reactor, t, now + TICK_NS);
}

static void beat(struct gw *g)
{
    Weir__Control__Heartbeat b = WEIR__CONTROL__HEARTBEAT__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    b.mono_ns = reactor_now(g->play->reactor);
    f.body_case = WEIR__CONTROL__FRAME__BODY_HEARTBEAT;
    f.heartbeat = &b;
    (void)gw_send_frame(g, &f);
}

/* A filter takes the kernel a quarter of a millisecond: five hundred at once would keep all others
 * of this process waiting, which are none of the trouble. */
static void half_some(struct play *p)
{
    static struct sock_filter drop[] = {{.code = BPF_RET | BPF_K, .k = 0}};
    static const struct sock_fprog program = {.len = 1, .filter = drop};
    for (unsigned k = 0; k < HALVES_A_TURN && p->half_next < p->o.gateways; k++) {
        struct gw *g = &p->gw[p->half_next++];
        if (g->state != GW_UP)
            continue;
        g->half = true;
        int r = setsockopt(g->fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
        weir_assert(r == 0);
    }
}

/* A part of the gateways; all have had their turn after SWEEP_TURNS of these. */
static void sweep(struct reactor_timer *t, uint64_t now)
{
    struct play *p = container_of(t, struct play, sweep);
    uint64_t all = p->o.gateways;
    uint64_t from = all * p->swept / SWEEP_TURNS, to = all * (p->swept + 1) / SWEEP_TURNS;
    for (uint64_t i = from; i < to; i++) {
        struct gw *g = &p->gw[i];
        if (g->state == GW_UP && !g->half && p->o.wire == GW_WIRE_WEIR &&
            now - g->said_ns >= BEAT_NS)
            beat(g);
    }
    p->swept = (p->swept + 1) % SWEEP_TURNS;
    half_some(p);
    reactor_timer_set(p->reactor, t, now + BEAT_NS / SWEEP_TURNS);
}

/* The next of the gateways that surge: a stream appeared there, under an agreement with a limit,
 * and must be controlled before the next poll is due. */
static void surge(struct reactor_timer *t, uint64_t now)
{
    struct play *p = container_of(t, struct play, surge);
    struct gw *g = &p->gw[p->surger];
    p->surger = p->surger + 1 < p->o.surgers ? p->surger + 1 : 0;
    reactor_timer_set(p->reactor, t, now + p->o.surge_ns);
    if (g->state != GW_UP || !g->answered || g->deaf || g->half)
        return;
    if (g->surged_ns != 0)
        p->counts.surges_unanswered++;
    bool fresh = gw_stats_surge(&g->stats); /* without room the warning goes all the same */
    Weir__Control__Surge s = WEIR__CONTROL__SURGE__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    s.why = (char *)(uintptr_t)"demand";
    s.mono_ns = now;
    f.body_case = WEIR__CONTROL__FRAME__BODY_SURGE;
    f.surge = &s;
    g->surged_ns = fresh ? reactor_now_fresh(p->reactor) : 0;
    if (gw_send_frame(g, &f))
        p->counts.surges++;
}

/* ---- faults and coming and going, on command */

/* The @n last gateways, never those that surge. */
static uint32_t first_of(const struct play *p, uint32_t n)
{
    uint32_t most = p->o.gateways - p->o.surgers;
    return p->o.gateways - (n < most ? n : most);
}

void play_dial_all(struct play *p)
{
    for (uint32_t i = 0; i < p->o.gateways; i++) {
        if (p->gw[i].state == GW_IDLE)
            queue_at(&p->gw[i], 0);
    }
}

void play_deafen(struct play *p, uint32_t n)
{
    for (uint32_t i = first_of(p, n); i < p->o.gateways; i++)
        p->gw[i].deaf = p->gw[i].state == GW_UP;
}

void play_half(struct play *p, uint32_t n)
{
    p->half_next = first_of(p, n);
}

void play_hush(struct play *p)
{
    p->hush = true;
}

void play_speak(struct play *p)
{
    p->hush = false;
    for (uint32_t i = 0; i < p->o.gateways; i++) {
        struct gw *g = &p->gw[i];
        if (g->owed && g->state == GW_UP)
            answer(g, g->owed_seq, g->owed_acked);
    }
}

void play_heal(struct play *p)
{
    p->half_next = p->o.gateways;
    for (uint32_t i = 0; i < p->o.gateways; i++) {
        struct gw *g = &p->gw[i];
        if (g->half) {
            gw_close(g);
            queue_at(g, 0);
        } else if (g->deaf) {
            g->deaf = false;
            gw_ready(&g->source, EPOLLIN);
        }
    }
}

void play_storm(struct play *p, uint32_t n)
{
    uint32_t hit = 0;
    for (uint32_t i = first_of(p, n); i < p->o.gateways; i++, hit++) {
        gw_close(&p->gw[i]);
        queue_at(&p->gw[i], 0);
    }
    p->settle_from_ns = hit > 0 ? reactor_now_fresh(p->reactor) : 0;
    p->settle_left = hit;
    p->settle_s = -1;
}

void play_leave(struct play *p, uint32_t n)
{
    for (uint32_t i = first_of(p, n); i < p->o.gateways; i++)
        gw_close(&p->gw[i]);
}

void play_flood(struct play *p, uint32_t n, uint32_t frames)
{
    for (uint32_t i = first_of(p, n); i < p->o.gateways; i++) {
        for (uint32_t k = 0; k < frames && p->gw[i].state == GW_UP; k++)
            beat(&p->gw[i]);
    }
}

uint64_t play_ios(const struct play *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->o.gateways; i++) {
        for (uint32_t k = 0; k < p->gw[i].stats.streams; k++)
            n += p->gw[i].stats.stream[k].ios;
    }
    return n;
}

void play_mark(struct play *p)
{
    p->counts = (struct play_counts){0};
    hist_clear(&p->surge_to_control);
    hist_clear(&p->poll_gap);
    hist_clear(&p->dial_to_welcome);
}

/* ---- life */

int play_open(struct play *p, const struct play_options *o)
{
    *p = (struct play){.o = *o, .half_next = o->gateways};
    list_init(&p->queue);
    text_init(&p->pack, 2 * FRAME_MAX);
    p->reactor = reactor_new(o->gateways + 2, 8);
    p->gw = calloc(o->gateways, sizeof(*p->gw));
    p->scratch = gw_scratch_new();
    p->input = malloc(INPUT_SIZE);
    if (p->reactor == NULL || p->gw == NULL || p->scratch == NULL || p->input == NULL ||
        frame_arena_init(&p->arena, FRAME_ARENA_SIZE) < 0)
        return -ENOMEM;
    for (uint32_t i = 0; i < o->gateways; i++) {
        struct gw *g = &p->gw[i];
        *g = (struct gw){.play = p, .fd = -1, .number = o->first + i};
        list_init(&g->queued);
        text_init(&g->in, PARTIAL_MAX);
        text_init(&g->out, OUT_MAX);
        rng_system(g->id, sizeof(g->id));
        if (gw_stats_init(&g->stats, g->number, o->streams, o->active,
                          i < o->surgers ? o->surge_extra : 0) < 0)
            return -ENOMEM;
    }
    p->tick.fire = tick;
    p->sweep.fire = sweep;
    p->surge.fire = surge;
    uint64_t now = reactor_now(p->reactor);
    reactor_timer_set(p->reactor, &p->tick, now);
    reactor_timer_set(p->reactor, &p->sweep, now);
    if (o->surge_ns > 0 && o->surgers > 0)
        reactor_timer_set(p->reactor, &p->surge, now + o->surge_ns);
    return 0;
}

void play_close(struct play *p)
{
    for (uint32_t i = 0; p->gw != NULL && i < p->o.gateways; i++) {
        gw_close(&p->gw[i]);
        gw_stats_fini(&p->gw[i].stats);
    }
    reactor_free(p->reactor);
    frame_arena_fini(&p->arena);
    gw_scratch_free(p->scratch);
    text_fini(&p->pack);
    free(p->gw);
    free(p->input);
}

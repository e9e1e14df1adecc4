/* SPDX-License-Identifier: Apache-2.0 */
/* The outbound thread of a pair: SLA services -> gateways. It only writes.
 *
 * Problem. A gateway that reads slowly, or not at all, must cost neither the SLA services nor the
 * other gateways anything, and what it gets in the end must be the newest word.
 *
 * Model. For each session: bytes that the socket did not take (`unsent`), and what is still to be
 * put into bytes: the newest poll, the controls by id, a heartbeat, a farewell. It is put into
 * bytes at the end of a round, all at once, when nothing is unsent; so what waits is coalesced
 * exactly while the gateway does not read. One send for all frames of a round; a session that keeps
 * up needs no buffer of its own.
 *
 *   OPEN --SESSION_END, slow, overflow--> ENDING (bye) --sent, or 1 s--> DOWN (socket shut) --+
 *     |                                                                                      v
 *     +-----------------inbound's SESSION_SHUT, from any state------------------> SESSION_SHUT to
 *     acceptor
 *
 * Invariants:
 *  1. A half is in use from SESSION_OPEN until SESSION_SHUT was said to the acceptor, which happens
 *     only after inbound has said SESSION_SHUT: inbound always lets go first.
 *  2. What waits is bounded: one poll, one heartbeat, CONTROL_QUEUE_MAX; unsent by what one round
 *     packs.
 *  3. A gateway that leaves something unsent for MONITOR_STALL_NS, or whose queue is at its bound,
 *     is stalled: what waits for it is let go of, nothing more is taken, and the services are told;
 *     they call it unreachable and send all anew when they are told that it reads again. What is
 *     unsent for MONITOR_SLOW_NS ends the session.
 *  4. MOVE takes the half away as it is, in the baton (server/move.h), and brings it elsewhere. Of
 *     one that was stalled since it came the baton says so: what was told of it may have reached
 *     the services after it had left them.
 *  5. Few sessions are looked at in one round for what time asks for (sweep.h says how many):
 *     heartbeats to thousands hold up nobody's poll. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "base/reactor.h"
#include "base/text.h"
#include "control/frame.h"
#include "server/monitor/control_queue.h"
#include "server/monitor/mail.h"
#include "server/monitor/monitor_private.h"
#include "server/monitor/rotation.h"
#include "server/monitor/spare.h"
#include "server/monitor/sweep.h"
#include "server/move.h"
#include "server/msg.h"

#define BYE_NS NS_PER_S
/* Everything one round can pack: the controls with their frames' heads, and a few small frames. */
#define PACK_MAX (CONTROL_QUEUE_MAX + FRAME_MAX + 64u * 1024u)

struct outbound;

enum half_state { HALF_OPEN, HALF_ENDING, HALF_DOWN };

/* One session's writing half, by slot. */
struct half {
    struct outbound *out;
    uint64_t id;
    const struct session *session; /* lent until SESSION_SHUT is said to the acceptor */
    struct reactor_source source;
    struct list all, dirty, owing;
    struct spare *unsent; /* NULL: nothing is */
    uint64_t blocked_ns;  /* since when something is unsent; 0: nothing is */
    uint64_t said_ns, ending_ns;
    uint64_t poll_seq, poll_acked;
    uint64_t warned_poll_ns, warned_controls_ns; /* taken; of an early warning; 0: not */
    struct poll_drain *poll_drain; /* NULL: nothing to say of it */
    struct control_queue controls;
    struct rekey_word *rekey; /* NULL: none waits */
    enum half_state state;
    uint16_t process;
    bool used, poll, beat, bye;
    bool acceptor_owed, inbound_owed, stalled, stall_owed, reads_owed;
    bool let_go; /* it was stalled since it came here */
    char *why; /* from ENDING on; NULL: no memory for words */
};

_Static_assert(sizeof(struct half) <= MOVE_HALF_MAX, "a half fits into the baton");

struct outbound {
    struct monitor *m;
    size_t pair;
    struct mailbox *me;
    struct reactor *reactor;
    struct mail mail;
    struct half *half; /* max_sessions */
    struct spare_pool spares;
    struct slab *waiting; /* controls; the monitor frees it, since they move between pairs */
    struct sweep all;
    struct list dirty, owing;
    struct reactor_work flush;
    struct reactor_timer retry, sweep;
    struct text pack;
    struct move_queue moves; /* batons that could not be handed on yet */
    bool stop;
    struct msg stop_msg;
};

static struct half *find(struct outbound *out, uint64_t id)
{
    struct half *h = &out->half[session_slot(id)];
    return h->used && h->id == id ? h : NULL;
}

static void mark(struct half *h)
{
    if (!list_linked(&h->dirty))
        list_push_back(&h->out->dirty, &h->dirty);
    reactor_defer(h->out->reactor, &h->out->flush);
}

/* ---- what is owed
 * -------------------------------------------------------------------------------------- */

static bool pay_stall(struct half *h)
{
    struct outbound *out = h->out;
    struct mailbox *to = out->m->threads->services[h->process];
    if (h->stall_owed && !mail_post(out->me, to, MSG_STALLED, h->id, 1, NULL, NULL))
        return false;
    h->stall_owed = false;
    if (h->reads_owed && !mail_post(out->me, to, MSG_STALLED, h->id, 0, NULL, NULL))
        return false;
    h->reads_owed = false;
    return true;
}

static bool pay(struct half *h)
{
    struct outbound *out = h->out;
    if (!pay_stall(h))
        return false;
    if (h->inbound_owed) {
        char *why = h->why != NULL ? strdup(h->why) : NULL;
        if (!mail_post(out->me, out->m->threads->inbound[out->pair], MSG_SESSION_SHUT, h->id,
                       SESSION_OUTBOUND, why, free)) {
            free(why);
            return false;
        }
        h->inbound_owed = false;
    }
    if (h->acceptor_owed) {
        if (!mail_post(out->me, out->m->threads->acceptor, MSG_SESSION_SHUT, h->id,
                       SESSION_OUTBOUND, NULL, NULL))
            return false;
        h->acceptor_owed = false;
        sweep_leave(&out->all, &h->all);
        free(h->why);
        h->why = NULL;
        h->used = false;
    }
    return true;
}

static void settle(struct half *h)
{
    struct outbound *out = h->out;
    if (pay(h)) {
        if (list_linked(&h->owing))
            list_remove(&h->owing);
        return;
    }
    monitor_count(out->m, posts_retried);
    if (!list_linked(&h->owing))
        list_push_back(&out->owing, &h->owing);
    if (out->retry.heap_index == 0)
        reactor_timer_set(out->reactor, &out->retry, reactor_now(out->reactor) + MONITOR_RETRY_NS);
}

static void retry_all(struct reactor_timer *t, uint64_t now)
{
    struct outbound *out = container_of(t, struct outbound, retry);
    list_for_each_safe(l, &out->owing) settle(container_of(l, struct half, owing));
    bool all = move_queue_post(&out->moves, out->me, out->m->threads);
    if (!list_empty(&out->owing) || !all)
        reactor_timer_set(out->reactor, t, now + MONITOR_RETRY_NS);
}

/* ---- ending
 * -------------------------------------------------------------------------------------------- */

static size_t unsent_len(const struct half *h)
{
    return h->unsent != NULL ? h->unsent->text.len : 0;
}

static void drop_unsent(struct half *h)
{
    spare_give(&h->out->spares, h->unsent);
    h->unsent = NULL;
    h->blocked_ns = 0;
}

static void drop_poll(struct half *h)
{
    free(h->poll_drain);
    h->poll_drain = NULL;
    h->poll = false;
}

static void note_queued(struct half *h)
{
    _Atomic uint32_t *queued = h->out->m->threads->queued;
    if (queued != NULL)
        atomic_store_explicit(&queued[session_slot(h->id)],
                              (uint32_t)(unsent_len(h) + h->controls.bytes),
                              memory_order_relaxed);
}

static void forget_waiting(struct half *h)
{
    drop_poll(h);
    h->beat = h->bye = false;
    free(h->rekey);
    h->rekey = NULL;
    control_queue_clear(&h->controls);
    drop_unsent(h);
    note_queued(h);
    if (list_linked(&h->dirty))
        list_remove(&h->dirty);
}

/* Invariant 3: it costs what lies in its socket and the rest of one round, no more. */
static void stall(struct half *h)
{
    if (h->stalled || h->state != HALF_OPEN)
        return;
    h->stalled = h->stall_owed = h->let_go = true;
    h->reads_owed = false;
    drop_poll(h);
    h->beat = false;
    control_queue_clear(&h->controls);
    note_queued(h);
    monitor_count(h->out->m, stalls);
    settle(h);
}

/* Nothing more is said. Inbound is told why, and sees the end of the stream. */
static void go_down(struct half *h, const char *why)
{
    if (h->state == HALF_DOWN)
        return;
    if (h->state == HALF_OPEN)
        h->why = strdup(why);
    h->state = HALF_DOWN;
    forget_waiting(h);
    reactor_remove(h->out->reactor, &h->source);
    h->inbound_owed = true;
    settle(h); /* first the reason, then what makes inbound look for it */
    wire_shut(&h->session->wire);
}

static void begin_end(struct half *h, const char *why)
{
    if (h->state != HALF_OPEN)
        return;
    h->state = HALF_ENDING;
    h->why = strdup(why);
    h->ending_ns = reactor_now(h->out->reactor);
    drop_poll(h);
    h->beat = false;
    control_queue_clear(&h->controls);
    h->bye = true;
    mark(h);
}

/* ---- sending
 * ------------------------------------------------------------------------------------------- */

static void pack_frame(struct half *h, const Weir__Control__Frame *f)
{
    struct outbound *out = h->out;
    if (frame_append(&out->pack, f) == 0)
        monitor_count(out->m, frames_out);
}

static void pack_poll(struct half *h)
{
    Weir__Control__Poll p = WEIR__CONTROL__POLL__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    p.seq = h->poll_seq;
    p.acked = h->poll_acked;
    Weir__Control__Drain drain = WEIR__CONTROL__DRAIN__INIT;
    if (h->poll_drain != NULL && h->poll_drain->said) {
        drain.since = h->poll_drain->since;
        drain.bounded = h->poll_drain->bounded;
        drain.left_ms = h->poll_drain->left_ms;
        p.drain = &drain;
    }
    f.body_case = WEIR__CONTROL__FRAME__BODY_POLL;
    f.poll = &p;
    pack_frame(h, &f);
    drop_poll(h);
}

static void pack_rekey(struct half *h)
{
    Weir__Control__Rekey r = WEIR__CONTROL__REKEY__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    r.base_key_id = h->rekey->base_key_id;
    r.key_id = h->rekey->key_id;
    r.exchange = (ProtobufCBinaryData){.len = AUTH_EXCHANGE_SIZE, .data = h->rekey->exchange};
    f.body_case = WEIR__CONTROL__FRAME__BODY_REKEY;
    f.rekey = &r;
    pack_frame(h, &f);
    free(h->rekey);
    h->rekey = NULL;
}

static void pack_beat(struct half *h)
{
    Weir__Control__Heartbeat b = WEIR__CONTROL__HEARTBEAT__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    b.mono_ns = reactor_now(h->out->reactor);
    f.body_case = WEIR__CONTROL__FRAME__BODY_HEARTBEAT;
    f.heartbeat = &b;
    pack_frame(h, &f);
    h->beat = false;
}

static void pack_bye(struct half *h)
{
    Weir__Control__Bye b = WEIR__CONTROL__BYE__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    b.why = h->why != NULL ? h->why : (char *)(uintptr_t)"";
    f.body_case = WEIR__CONTROL__FRAME__BODY_BYE;
    f.bye = &b;
    pack_frame(h, &f);
    h->bye = false;
}

/* Controls go before the poll: its answer then tells of the epoch that they brought. */
static int pack_all(struct half *h)
{
    struct outbound *out = h->out;
    text_clear(&out->pack);
    if (h->controls.any) {
        int frames = control_queue_pack(&h->controls, h->id, &out->pack);
        if (frames < 0)
            return frames;
        monitor_count_add(out->m, frames_out, frames);
    }
    if (h->rekey != NULL)
        pack_rekey(h);
    if (h->poll)
        pack_poll(h);
    if (h->beat && out->pack.len == 0)
        pack_beat(h);
    if (h->bye)
        pack_bye(h);
    h->beat = false;
    return out->pack.failed ? -ENOMEM : 0;
}

/* How many bytes the socket took; negative: an error ended the half. */
static ssize_t push(struct half *h, const char *bytes, size_t n)
{
    size_t sent = 0;
    while (sent < n) {
        ssize_t r = wire_send(&h->session->wire, bytes + sent, n - sent);
        if (r == -EAGAIN)
            break;
        if (r < 0) {
            monitor_count(h->out->m, ended_error);
            go_down(h, weir_strerror((int)r));
            return -1;
        }
        sent += (size_t)r;
    }
    monitor_count_add(h->out->m, bytes_out, sent);
    if (sent > 0)
        h->said_ns = reactor_now(h->out->reactor);
    return (ssize_t)sent;
}

/* True when nothing is unsent any more. */
static bool push_unsent(struct half *h)
{
    if (h->unsent == NULL)
        return true;
    struct text *t = &h->unsent->text;
    ssize_t n = push(h, t->data, t->len);
    if (n < 0)
        return false;
    text_consume(t, (size_t)n);
    note_queued(h);
    if (t->len > 0)
        return false;
    drop_unsent(h);
    if (h->stalled) {
        h->stalled = false;
        h->reads_owed = true;
        settle(h);
    }
    return true;
}

static void keep_unsent(struct half *h, const char *bytes, size_t n)
{
    weir_assert(h->unsent == NULL);
    h->unsent = spare_take(&h->out->spares, PACK_MAX);
    if (h->unsent != NULL)
        text_append(&h->unsent->text, bytes, n);
    h->blocked_ns = reactor_now(h->out->reactor);
    note_queued(h);
    if (h->unsent == NULL || h->unsent->text.failed)
        go_down(h, "no memory to send");
}

static void warned_sent(struct half *h)
{
    struct trail *t = h->out->m->threads->trail;
    uint64_t now = clock_mono_ns();
    if (h->warned_poll_ns != 0) {
        trail_add(t, TRAIL_POLL_SENT, h->warned_poll_ns, now);
        trail_asked(t, session_slot(h->id), now);
    }
    if (h->warned_controls_ns != 0) {
        trail_add(t, TRAIL_CONTROLS_SENT, h->warned_controls_ns, now);
        trail_answered(t, session_slot(h->id), now);
    }
    h->warned_poll_ns = h->warned_controls_ns = 0;
}

/* A poll or controls that an early warning caused. */
static void warned_taken(struct half *h, const struct msg *m)
{
    struct trail *t = h->out->m->threads->trail;
    uint64_t now = clock_mono_ns();
    if (m->kind == MSG_SEND_POLL) {
        trail_add(t, TRAIL_POLL_WAITS, m->posted_ns, now);
        h->warned_poll_ns = now;
    } else {
        trail_add(t, TRAIL_CONTROLS_WAIT, m->posted_ns, now);
        h->warned_controls_ns = now;
    }
}

static void flush(struct half *h)
{
    struct outbound *out = h->out;
    if (h->state == HALF_DOWN || !push_unsent(h))
        return;
    if (pack_all(h) < 0) {
        go_down(h, "no memory to send");
        return;
    }
    ssize_t n = push(h, out->pack.data, out->pack.len);
    if (n < 0)
        return;
    if ((size_t)n < out->pack.len) {
        keep_unsent(h, out->pack.data + n, out->pack.len - (size_t)n);
        return;
    }
    if (h->warned_poll_ns != 0 || h->warned_controls_ns != 0)
        warned_sent(h);
    if (h->state == HALF_ENDING)
        go_down(h, "");
}

static void flush_dirty(struct reactor_work *w)
{
    struct outbound *out = container_of(w, struct outbound, flush);
    for (struct list *l; (l = list_pop_front(&out->dirty)) != NULL;)
        flush(container_of(l, struct half, dirty));
}

static void ready(struct reactor_source *s, uint32_t events)
{
    struct half *h = container_of(s, struct half, source);
    if ((events & (EPOLLERR | EPOLLHUP)) != 0 && h->state == HALF_OPEN)
        return; /* inbound reads the reason */
    if (h->unsent != NULL || h->state == HALF_ENDING)
        mark(h);
}

/* ---- messages
 * ------------------------------------------------------------------------------------------ */

static void session_open(struct outbound *out, const struct session *s)
{
    struct half *h = &out->half[session_slot(s->id)];
    weir_assert(!h->used);
    *h = (struct half){
        .out = out,
        .used = true,
        .id = s->id,
        .session = s,
        .process = s->process,
        .source = {.fd = s->wire.fd, .ready = ready},
        .said_ns = reactor_now(out->reactor),
    };
    list_init(&h->all);
    list_init(&h->dirty);
    list_init(&h->owing);
    sweep_join(&out->all, &h->all);
    int r = reactor_add(out->reactor, &h->source, EPOLLOUT);
    if (r < 0)
        go_down(h, weir_strerror(r));
}

/* Inbound has let go: so do we. */
static void session_shut(struct outbound *out, uint64_t id)
{
    struct half *h = find(out, id);
    weir_assert(h != NULL);
    h->state = HALF_DOWN;
    forget_waiting(h);
    reactor_remove(out->reactor, &h->source);
    wire_shut(&h->session->wire);
    h->inbound_owed = h->stall_owed = h->reads_owed = false;
    h->acceptor_owed = true;
    settle(h);
}

/* Takes @drain, which may be NULL. */
static void send_poll(struct half *h, uint64_t seq, uint64_t acked, struct poll_drain *drain)
{
    if (h->poll)
        monitor_count(h->out->m, polls_coalesced);
    drop_poll(h);
    h->poll = true;
    h->poll_seq = seq;
    h->poll_acked = acked;
    h->poll_drain = drain;
    mark(h);
}

static void send_controls(struct half *h, const struct control_update *u)
{
    size_t replaced = 0;
    int r = control_queue_add(&h->controls, u, h->out->waiting, &replaced);
    monitor_count_add(h->out->m, controls_coalesced, replaced);
    if (r == 0) {
        note_queued(h);
        mark(h);
        return;
    }
    if (r == WEIR_E_FULL && h->blocked_ns != 0) {
        stall(h);
        return;
    }
    monitor_count(h->out->m, ended_overflow);
    begin_end(h, r == WEIR_E_TOO_LARGE ? "a control is larger than a frame"
                                       : "more controls wait to be sent than the bound");
}

/* ---- moves
 * --------------------------------------------------------------------------------------------- */

static void half_free(void *half)
{
    struct half *h = half;
    control_queue_clear(&h->controls);
    spare_free(h->unsent);
    free(h->poll_drain);
    free(h->rekey);
    free(h->why);
}

static void move_out(struct outbound *out, struct move *m)
{
    struct half *h = find(out, m->session);
    weir_assert(h != NULL); /* inbound has not let go of it, so neither have we */
    h->process = m->to_process;
    /* What was said of it to the services that it leaves may have come after the export. */
    m->let_go = h->let_go;
    h->let_go = false;
    m->step = MOVE_WRITING;
    if (m->from_pair == m->to_pair)
        return;
    reactor_remove(out->reactor, &h->source);
    if (list_linked(&h->dirty))
        list_remove(&h->dirty);
    if (list_linked(&h->owing))
        list_remove(&h->owing);
    sweep_leave(&out->all, &h->all);
    h->used = false;
    memcpy(m->writer, h, sizeof(*h));
    m->writer_free = half_free;
    m->step = MOVE_CARRIED;
}

static void move_in(struct outbound *out, struct move *m)
{
    struct half *h = &out->half[session_slot(m->session)];
    weir_assert(!h->used);
    memcpy(h, m->writer, sizeof(*h));
    m->writer_free = NULL;
    weir_assert(h->id == m->session);
    h->out = out;
    h->used = true;
    list_init(&h->all);
    list_init(&h->dirty);
    list_init(&h->owing);
    sweep_join(&out->all, &h->all);
    m->step = MOVE_WRITING;
    if (h->state == HALF_DOWN) {
        h->inbound_owed = true; /* the other inbound may have got it, this one has not */
        settle(h);
        return;
    }
    settle(h);
    int r = reactor_add(out->reactor, &h->source, EPOLLOUT);
    if (r < 0)
        go_down(h, weir_strerror(r));
    else
        mark(h);
}

static void move_take(struct outbound *out, struct move *m)
{
    if (m->step == MOVE_PACKED)
        move_out(out, m);
    else
        move_in(out, m);
    move_queue_put(&out->moves, m);
    if (!move_queue_post(&out->moves, out->me, out->m->threads) && out->retry.heap_index == 0)
        reactor_timer_set(out->reactor, &out->retry, reactor_now(out->reactor) + MONITOR_RETRY_NS);
}

static void message(void *ctx, struct msg *m)
{
    struct outbound *out = ctx;
    if (m->kind == MSG_SESSION_OPEN) {
        session_open(out, m->body);
        m->body = NULL;
        return;
    }
    if (m->kind == MSG_SESSION_SHUT) {
        session_shut(out, m->arg[0]);
        return;
    }
    if (m->kind == MSG_STOP) {
        out->stop = true;
        out->stop_msg = *m;
        return;
    }
    if (m->kind == MSG_MOVE) {
        struct move *move = m->body;
        m->body = NULL;
        move_take(out, move);
        return;
    }
    struct half *h = find(out, m->arg[0]);
    if (h == NULL || h->state != HALF_OPEN) {
        monitor_count(out->m, sends_unknown);
        return;
    }
    if (h->stalled && m->kind != MSG_SESSION_END) {
        monitor_count(out->m, sends_stalled);
        return;
    }
    if (m->tag == TRAIL_TAG)
        warned_taken(h, m);
    if (m->kind == MSG_SEND_POLL) {
        send_poll(h, m->arg[1], m->arg[2], m->body);
        m->body = NULL;
    } else if (m->kind == MSG_SEND_CONTROLS) {
        send_controls(h, m->body);
    } else if (m->kind == MSG_SEND_REKEY) {
        free(h->rekey);
        h->rekey = m->body;
        m->body = NULL;
        mark(h);
    } else {
        weir_assert(m->kind == MSG_SESSION_END);
        monitor_count(out->m, ended_by_server);
        begin_end(h, m->body != NULL ? m->body : "ended by this server");
    }
}

static void look(struct half *h, uint64_t now)
{
    struct monitor *m = h->out->m;
    if (h->state == HALF_ENDING && now - h->ending_ns >= BYE_NS) {
        go_down(h, "");
    } else if (h->state == HALF_OPEN && h->blocked_ns != 0 && now - h->blocked_ns >= m->slow_ns) {
        monitor_count(m, ended_slow);
        go_down(h, "the gateway does not read");
    } else if (h->state == HALF_OPEN && !h->stalled && h->blocked_ns != 0 &&
               now - h->blocked_ns >= m->stall_ns) {
        stall(h);
    } else if (h->state == HALF_OPEN && h->blocked_ns == 0 &&
               now - h->said_ns >= m->heartbeat_ms * NS_PER_MS / 2) {
        h->beat = true;
        mark(h);
    }
}

/* At a few: where an SLA process stands still, thousands are sent heartbeats instead of polls. */
static void sweep(struct reactor_timer *t, uint64_t now)
{
    struct outbound *out = container_of(t, struct outbound, sweep);
    uint64_t every = out->m->heartbeat_ms * NS_PER_MS / 2;
    for (size_t n = sweep_turn(&out->all, every, now); n > 0; n--)
        look(container_of(sweep_next(&out->all), struct half, all), now);
    reactor_timer_set(out->reactor, t, out->all.due_ns);
}

/* ---- the thread
 * ---------------------------------------------------------------------------------------- */

static void outbound_open(struct outbound *out)
{
    size_t n = out->m->max_sessions;
    list_init(&out->dirty);
    list_init(&out->owing);
    out->reactor = reactor_new(n + 2, 4);
    out->half = calloc(n, sizeof(*out->half));
    weir_assert(out->reactor != NULL);
    weir_assert(out->half != NULL);
    text_init(&out->pack, PACK_MAX);
    out->waiting = monitor_slab_of(&out->m->waiting[out->pair], MONITOR_WAITING_BYTES);
    reactor_work_init(&out->flush, flush_dirty);
    out->retry.fire = retry_all;
    out->sweep.fire = sweep;
    int r = mail_open(&out->mail, out->reactor, out->me, message, out);
    weir_assert(r == 0);
    sweep_init(&out->all, reactor_now(out->reactor) + out->m->heartbeat_ms * NS_PER_MS / 2);
    reactor_timer_set(out->reactor, &out->sweep, out->all.due_ns);
}

/* A word of farewell to those who can take it at once. */
static void outbound_close(struct outbound *out)
{
    list_for_each_safe(l, &out->all.members)
    {
        struct half *h = container_of(l, struct half, all);
        if (h->state == HALF_OPEN)
            begin_end(h, "the server ends");
        flush(h);
        half_free(h);
    }
    move_queue_free(&out->moves);
    mail_close(&out->mail);
    reactor_free(out->reactor);
    text_fini(&out->pack);
    spare_pool_fini(&out->spares);
    free(out->half);
}

void *monitor_outbound_main(void *monitor_thread)
{
    struct monitor_thread *t = monitor_thread;
    struct outbound *out = calloc(1, sizeof(*out));
    weir_assert(out != NULL);
    out->m = t->monitor;
    out->pair = t->pair;
    out->me = t->monitor->threads->outbound[t->pair];
    outbound_open(out);
    while (!out->stop) {
        int r = reactor_round(out->reactor, UINT64_MAX);
        weir_assert(r == 0);
    }
    struct msg stop = out->stop_msg;
    struct mailbox *me = out->me;
    outbound_close(out);
    free(out);
    mailbox_reply(me, &stop, 0, NULL, NULL);
    return NULL;
}

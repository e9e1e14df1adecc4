/* SPDX-License-Identifier: Apache-2.0 */
/* The inbound thread of a pair: gateways -> SLA services. It only reads.
 *
 * Problem. Thousands of gateways speak at once, some slowly, some without end, some with bad will;
 * an SLA process may be busy. Neither may hold up the others.
 *
 * Model. Edge-triggered reads into one scratch; only a frame that is not whole yet is kept for its
 * session. A whole frame becomes one message for the SLA process of the session's gateway. What
 * that process has no room for:
 *   statistics, surges   are dropped and counted: statistics are cumulative, the next ones say it
 *   all again. Of an answer in several frames all that follow are dropped with one: one that ends
 *   without its middle would pass for whole;
 *   acknowledgements     are kept, the newest of a session;
 *   up and down          are kept and posted again every 10 ms; reports wait for "up".
 *
 * An early warning goes before statistics, and so does the answer to the poll that it causes:
 * answers of a gateway that warned take the urgent lane, one answer all its frames the same, until
 * URGENT_ANSWERS have gone (the one that was under way, and the one that was asked for).
 *
 * A session's half:
 *
 *   OPEN --end of stream, bad frame, silence, outbound's word--> CLOSING --all said--> free
 *     ^  \--MOVE asked--> LEAVING --all said--> in the baton --> OPEN at another pair
 *     +-----------------------/ refused: it ends meanwhile (CLOSING)
 *
 * In CLOSING it owes, in this order: "down" to the SLA process (if "up" was said), SESSION_SHUT to
 * outbound, SESSION_SHUT to the acceptor. The last one gives the session back; nothing of it is
 * touched afterwards.
 *
 * Invariants:
 *  1. A half is in the table (in use) from SESSION_OPEN until everything it owes is paid; it is
 *     linked into `owing` exactly while it owes.
 *  2. A round reads at most READ_SIZE of a session; those with more to read take turns.
 *  3. What is kept of a session is one incomplete frame and one read. A frame must be whole within
 *     three heartbeats, since only whole frames count as a sign of life.
 *  4. At most FRAMES_PER_SECOND frames of a session are handled in a second; one that sends more is
 *     ended.
 *  5. In LEAVING nothing is read. What is owed is said first, then the baton goes on with the half
 *     in it (server/move.h); where it arrives it says DONE before anything else.
 *  6. A nap (nap.h) is between two rounds only, with nothing left to be read that is known of.
 *  7. Few sessions are looked at for their silence in one round (sweep.h says how many). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/list.h"
#include "base/log.h"
#include "base/reactor.h"
#include "base/text.h"
#include "control/frame.h"
#include "server/mailbox/gauge.h"
#include "server/mailbox/slab.h"
#include "server/monitor/mail.h"
#include "server/monitor/monitor_private.h"
#include "server/monitor/nap.h"
#include "server/monitor/report.h"
#include "server/monitor/rotation.h"
#include "server/monitor/spare.h"
#include "server/monitor/sweep.h"
#include "server/move.h"
#include "server/msg.h"

#define READ_SIZE         (256u * 1024u)
#define PARTIAL_MAX       (FRAME_MAX + FRAME_HEADER_SIZE + READ_SIZE)
#define FRAMES_PER_SECOND 4000u
#define CONFIRMS          1024u /* of keys in one session: one in a rotation */
#define SURGE_LEAST_NS    (5 * NS_PER_MS)
#define URGENT_ANSWERS    2u
#define NAP_SLACK_NS      1000ul
/* What a read costs, in what WORK_BYTES bytes cost. */
#define WORK_READ  64u
#define WORK_BYTES 16u

struct inbound;

/* One session's reading half, by slot. */
struct half {
    struct inbound *in;
    uint64_t id;
    const struct session *session; /* lent until SESSION_SHUT is said to the acceptor */
    struct reactor_source source;
    struct list all, again, owing;
    struct spare *partial; /* NULL: nothing is pending */
    uint64_t heard_ns, surge_ns, window_ns;
    uint32_t window_frames;
    uint32_t confirms; /* of keys, ever */
    uint16_t process;
    uint8_t urgent_answers;      /* that may still go before others */
    bool answering, urgent, cut; /* in the middle of an answer; its lane; its rest is dropped */
    bool used, closing;
    bool ended_there; /* the peer sends no more, or the socket failed: read to the end */
    bool up_owed, down_owed, ack_owed, outbound_owed, acceptor_owed;
    int32_t ack_status;
    uint64_t ack_epoch;
    struct move *leaving, *arrived; /* the baton, to be handed on with this half, or as DONE */
    char *why;                      /* closing; NULL: no memory for words */
    uint64_t early_end;             /* not used: a session that outbound ended before it came */
};

_Static_assert(sizeof(struct half) <= MOVE_HALF_MAX, "a half fits into the baton");

struct inbound {
    struct monitor *m;
    size_t pair;
    struct mailbox *me;
    struct reactor *reactor;
    struct mail mail;
    struct frame_arena arena;
    uint8_t *scratch;
    struct half *half; /* max_sessions */
    struct spare_pool spares;
    struct sweep all;
    struct list again, owing;
    struct reactor_work read_more, let_go;
    struct reactor_timer retry, sweep;
    struct move_queue refused; /* batons that could not be handed back yet */
    struct nap nap;
    uint64_t frames; /* since it last slept */
    bool stop;
    struct msg stop_msg;
};

static struct mailbox *services_of(const struct half *h)
{
    return h->in->m->threads->services[h->process];
}

/* ---- what is owed
 * -------------------------------------------------------------------------------------- */

static void hello_fill(struct gateway_hello *to, const struct session *s)
{
    const struct session_hello *h = &s->hello;
    *to = (struct gateway_hello){.session = s->id, .pair = h->pair, .subgroup = h->subgroup};
    memcpy(to->id, h->id, sizeof(to->id));
    memcpy(to->boot, h->boot, sizeof(to->boot));
    snprintf(to->name, sizeof(to->name), "%s", h->name);
    snprintf(to->software, sizeof(to->software), "%s", h->software);
    snprintf(to->address, sizeof(to->address), "%s", h->address);
    snprintf(to->key_id, sizeof(to->key_id), "%s", h->key_id);
}

/* A block of the slab, as reports are: thousands that come at once leave no heap behind. */
static bool pay_up(struct half *h)
{
    struct inbound *in = h->in;
    struct slab *slab = monitor_slab(in->m, in->pair, h->process);
    struct gateway_hello *hello = slab != NULL ? slab_take(slab, sizeof(*hello)) : NULL;
    if (hello == NULL)
        return false;
    hello_fill(hello, h->session);
    if (mail_post(in->me, services_of(h), MSG_GATEWAY_UP, h->id, 0, hello, slab_give)) {
        h->up_owed = false;
        h->down_owed = true; /* from now on, when it ends */
        return true;
    }
    slab_give(hello);
    return false;
}

static bool pay_ack(struct half *h)
{
    struct msg m = {
        .kind = MSG_CONTROLS_ACK, .status = h->ack_status, .arg = {h->id, h->ack_epoch}};
    if (mailbox_post(h->in->me, services_of(h), &m) < 0)
        return false;
    monitor_count(h->in->m, acks);
    h->ack_owed = false;
    return true;
}

static bool pay_down(struct half *h)
{
    if (!mail_post(h->in->me, services_of(h), MSG_GATEWAY_DOWN, h->id, 0, h->why, free))
        return false;
    h->why = NULL;
    h->down_owed = false;
    return true;
}

static bool pay_outbound(struct half *h)
{
    struct mailbox *to = h->in->m->threads->outbound[h->in->pair];
    if (!mail_post(h->in->me, to, MSG_SESSION_SHUT, h->id, SESSION_INBOUND, NULL, NULL))
        return false;
    h->outbound_owed = false;
    return true;
}

static bool pay_acceptor(struct half *h)
{
    struct mailbox *to = h->in->m->threads->acceptor;
    if (!mail_post(h->in->me, to, MSG_SESSION_SHUT, h->id, SESSION_INBOUND, NULL, NULL))
        return false;
    h->acceptor_owed = false;
    return true;
}

/* Of a half that the baton carries and nobody will take up. */
static void half_free(void *half)
{
    struct half *h = half;
    spare_free(h->partial);
    free(h->why);
}

/* The half goes into the baton, and the baton on. */
static bool pay_leaving(struct half *h)
{
    struct inbound *in = h->in;
    struct move *m = h->leaving;
    m->step = MOVE_FROZEN;
    memcpy(m->reader, h, sizeof(*h));
    m->reader_free = half_free;
    if (!move_post(in->me, in->m->threads, m)) {
        m->reader_free = NULL;
        return false;
    }
    sweep_leave(&in->all, &h->all);
    h->leaving = NULL;
    h->used = false;
    h->early_end = 0;
    return true;
}

static bool pay_arrived(struct half *h)
{
    if (!move_post(h->in->me, h->in->m->threads, h->arrived))
        return false;
    h->arrived = NULL;
    return true;
}

/* Post what is owed, in order, as far as there is room. True when all is paid. */
static bool pay(struct half *h)
{
    if (h->arrived != NULL && !pay_arrived(h))
        return false;
    if (h->up_owed && !pay_up(h))
        return false;
    if (h->ack_owed && !pay_ack(h))
        return false;
    if (h->leaving != NULL)
        return pay_leaving(h);
    if (!h->closing)
        return true;
    return (!h->down_owed || pay_down(h)) && (!h->outbound_owed || pay_outbound(h)) &&
           (!h->acceptor_owed || pay_acceptor(h));
}

static void drop_partial(struct half *h)
{
    spare_give(&h->in->spares, h->partial);
    h->partial = NULL;
}

static void settle(struct half *h)
{
    struct inbound *in = h->in;
    if (!pay(h)) {
        monitor_count(in->m, posts_retried);
        if (!list_linked(&h->owing))
            list_push_back(&in->owing, &h->owing);
        if (in->retry.heap_index == 0)
            reactor_timer_set(in->reactor, &in->retry, reactor_now(in->reactor) + MONITOR_RETRY_NS);
        return;
    }
    if (list_linked(&h->owing))
        list_remove(&h->owing);
    if (!h->closing)
        return;
    sweep_leave(&in->all, &h->all);
    free(h->why);
    h->why = NULL;
    h->used = false;
    h->early_end = 0;
}

static void refuse_move(struct inbound *in, struct move *m)
{
    m->step = MOVE_REFUSED;
    move_queue_put(&in->refused, m);
    if (!move_queue_post(&in->refused, in->me, in->m->threads) && in->retry.heap_index == 0)
        reactor_timer_set(in->reactor, &in->retry, reactor_now(in->reactor) + MONITOR_RETRY_NS);
}

static void retry_all(struct reactor_timer *t, uint64_t now)
{
    struct inbound *in = container_of(t, struct inbound, retry);
    list_for_each_safe(l, &in->owing) settle(container_of(l, struct half, owing));
    bool all = move_queue_post(&in->refused, in->me, in->m->threads);
    if (!list_empty(&in->owing) || !all)
        reactor_timer_set(in->reactor, t, now + MONITOR_RETRY_NS);
}

static void end(struct half *h, const char *why)
{
    if (h->closing)
        return;
    h->closing = true;
    h->outbound_owed = h->acceptor_owed = true;
    /* Whoever never heard of it need not hear of its end. */
    h->up_owed = h->ack_owed = false;
    h->why = strdup(why);
    log_info("monitor: session %llu of gateway %s ends: %s", (unsigned long long)h->id,
             h->session->hello.name, why);
    if (h->leaving != NULL)
        refuse_move(h->in, h->leaving);
    h->leaving = NULL;
    reactor_remove(h->in->reactor, &h->source);
    if (list_linked(&h->again))
        list_remove(&h->again);
    drop_partial(h);
    settle(h);
}

static void end_protocol(struct half *h, const char *why)
{
    monitor_count(h->in->m, ended_protocol);
    end(h, why);
}

/* ---- frames
 * -------------------------------------------------------------------------------------------- */

/* One frame of an answer; the first one may take the lane where there is room. */
static bool post_report(struct half *h, const Weir__Control__Statistics *s, bool first)
{
    struct inbound *in = h->in;
    struct trail *trail = in->m->threads->trail;
    uint64_t now = reactor_now(in->reactor);
    struct slab *slab = monitor_slab(in->m, in->pair, h->process);
    struct report *r = h->up_owed || slab == NULL ? NULL : report_new(s, h->id, slab);
    struct msg m = {.kind = MSG_REPORT, .arg = {h->id}, .body = r, .body_free = report_free};
    if (r == NULL)
        return false;
    m.tag = h->urgent && !s->more ? TRAIL_TAG : 0;
    if (h->urgent && mailbox_post_urgent(in->me, services_of(h), &m) == 0) {
        if (m.tag == TRAIL_TAG) {
            trail_heard(trail, session_slot(h->id), now);
            trail_add(trail, TRAIL_ANSWER_READ, now, m.posted_ns);
        }
        return true;
    }
    m.tag = 0;
    if ((!h->urgent || first) && mailbox_post_bulk(in->me, services_of(h), &m) == 0) {
        h->urgent = false;
        return true;
    }
    report_free(r);
    return false;
}

static void got_statistics(struct half *h, const Weir__Control__Statistics *s)
{
    struct inbound *in = h->in;
    if (memcmp(s->boot_id.data, h->session->hello.boot, GATEWAY_ID_SIZE) != 0) {
        end_protocol(h, "statistics of another boot");
        return;
    }
    bool first = !h->answering;
    h->answering = s->more;
    if (first) {
        h->cut = false;
        h->urgent = h->urgent_answers > 0;
        h->urgent_answers -= h->urgent;
    }
    if (h->cut || !post_report(h, s, first)) {
        h->cut = true;
        monitor_count(in->m, reports_dropped);
        return;
    }
    monitor_count(in->m, reports);
}

static void got_ack(struct half *h, const Weir__Control__ControlsAck *a)
{
    if (h->ack_owed)
        monitor_count(h->in->m, acks_coalesced);
    h->ack_owed = true;
    h->ack_epoch = a->epoch;
    h->ack_status = a->status;
    settle(h);
}

static void got_surge(struct half *h, const Weir__Control__Surge *s)
{
    struct inbound *in = h->in;
    uint64_t now = reactor_now(in->reactor);
    bool early = h->surge_ns != 0 && now - h->surge_ns < SURGE_LEAST_NS;
    struct msg m = {.kind = MSG_SURGE, .arg = {h->id, s->stream}};
    atomic_bool *once = &in->m->surge_waits[session_slot(h->id)];
    if (!early && !h->up_owed && mailbox_post_once(in->me, services_of(h), &m, once) == 0) {
        h->surge_ns = now;
        h->urgent_answers = URGENT_ANSWERS;
        trail_warned(in->m->threads->trail, session_slot(h->id), now);
        trail_add(in->m->threads->trail, TRAIL_WARNING_READ, now, m.posted_ns);
        monitor_count(in->m, surges);
        return;
    }
    monitor_count(in->m, surges_dropped);
}

static void end_by_peer(struct half *h, const char *what, const char *words)
{
    char why[160], clean[120];
    report_words(clean, sizeof(clean), words);
    snprintf(why, sizeof(why), "%s: %s", what, clean);
    monitor_count(h->in->m, ended_peer);
    end(h, why);
}

/* Changes nothing when it is lost: the key that is in force stays. */
static void got_key_confirm(struct half *h, const Weir__Control__KeyConfirm *c)
{
    struct inbound *in = h->in;
    struct key_confirm *k = calloc(1, sizeof(*k));
    if (k == NULL)
        return;
    snprintf(k->key_id, sizeof(k->key_id), "%s", c->key_id);
    k->has_exchange = c->exchange.len > 0;
    if (k->has_exchange)
        memcpy(k->exchange, c->exchange.data, sizeof(k->exchange));
    memcpy(k->proof, c->proof.data, sizeof(k->proof));
    if (!mail_post(in->me, in->m->threads->acceptor, MSG_KEY_CONFIRM, h->id, 0, k, free))
        free(k);
}

static void got_frame(struct half *h, const Weir__Control__Frame *f)
{
    if (f->body_case == WEIR__CONTROL__FRAME__BODY_STATISTICS)
        got_statistics(h, f->statistics);
    else if (f->body_case == WEIR__CONTROL__FRAME__BODY_CONTROLS_ACK)
        got_ack(h, f->controls_ack);
    else if (f->body_case == WEIR__CONTROL__FRAME__BODY_SURGE)
        got_surge(h, f->surge);
    else if (f->body_case == WEIR__CONTROL__FRAME__BODY_BYE)
        end_by_peer(h, "the gateway said bye", f->bye->why);
    else if (f->body_case == WEIR__CONTROL__FRAME__BODY_KEY_CONFIRM && h->confirms++ < CONFIRMS)
        got_key_confirm(h, f->key_confirm);
    else if (f->body_case == WEIR__CONTROL__FRAME__BODY_ERROR)
        end_by_peer(h, "the gateway refused", f->error->words);
    else if (f->body_case != WEIR__CONTROL__FRAME__BODY_HEARTBEAT)
        end_protocol(h, "a message that a gateway does not send");
}

static bool too_many(struct half *h, uint64_t now)
{
    if (now - h->window_ns >= NS_PER_S) {
        h->window_ns = now;
        h->window_frames = 0;
    }
    return ++h->window_frames > FRAMES_PER_SECOND;
}

/* Handle the whole frames at the front of @bytes; returns how many bytes they were. May end the
 * half. */
static size_t take_frames(struct half *h, const uint8_t *bytes, size_t n)
{
    struct inbound *in = h->in;
    size_t done = 0;
    while (done < n && !h->closing) {
        const Weir__Control__Frame *f = NULL;
        int64_t size = frame_peek(bytes + done, n - done);
        if (size == 0)
            break;
        if (size < 0) {
            end_protocol(h, "a frame of a length that none can have");
            break;
        }
        frame_arena_reset(&in->arena);
        int r = frame_unpack(&in->arena, bytes + done, (size_t)size, &f);
        if (r < 0) {
            end_protocol(h, r == WEIR_E_TOO_LARGE ? "a frame that unpacks to more than its bound"
                                                  : "a frame that breaks the protocol");
            break;
        }
        if (too_many(h, reactor_now(in->reactor))) {
            end_protocol(h, "too many frames a second");
            break;
        }
        monitor_count(in->m, frames_in);
        in->frames++;
        h->heard_ns = reactor_now(in->reactor);
        got_frame(h, f);
        done += (size_t)size;
    }
    return done;
}

static void keep_partial(struct half *h, const uint8_t *bytes, size_t n)
{
    h->partial = spare_take(&h->in->spares, PARTIAL_MAX);
    if (h->partial != NULL)
        text_append(&h->partial->text, bytes, n);
    if (h->partial == NULL || h->partial->text.failed)
        end(h, "no memory for a frame");
}

static void take_bytes(struct half *h, const uint8_t *bytes, size_t n)
{
    monitor_count_add(h->in->m, bytes_in, n);
    gauge_add_own(&h->in->m->work[session_slot(h->id)], WORK_READ + n / WORK_BYTES);
    if (h->partial == NULL) {
        size_t done = take_frames(h, bytes, n);
        if (!h->closing && done < n)
            keep_partial(h, bytes + done, n - done);
        return;
    }
    struct text *t = &h->partial->text; /* nobody else's: end() gives it back */
    text_append(t, bytes, n);
    if (t->failed) {
        end(h, "no memory for a frame");
        return;
    }
    size_t done = take_frames(h, (const uint8_t *)t->data, t->len);
    if (h->closing)
        return;
    text_consume(t, done);
    if (t->len == 0)
        drop_partial(h);
}

/* Whether a read of @n bytes left nothing behind. A short one emptied a plain socket, and what
 * comes later makes an edge of its own; an end that came with these bytes does not, and TLS may
 * keep records. */
static bool read_is_all(const struct half *h, size_t n)
{
    return n < READ_SIZE && !h->ended_there && h->session->wire.tls == NULL;
}

/* One read; those that may have more are put behind the others (invariant 2). */
static void read_some(struct half *h)
{
    struct inbound *in = h->in;
    uint64_t id = h->id;
    ssize_t n = wire_read(&h->session->wire, in->scratch, READ_SIZE);
    if (n == -EAGAIN)
        return;
    /* If outbound shut the socket, its reason was posted before: it is in the mailbox now. */
    if (n <= 0)
        mail_turn(&in->mail);
    /* That mail may have ended it, or taken it away: then the end is read where it goes. */
    if (!h->used || h->id != id || h->closing)
        return;
    if (n == 0) {
        monitor_count(in->m, ended_peer);
        end(h, "the gateway closed the connection");
        return;
    }
    if (n < 0) {
        monitor_count(in->m, ended_error);
        end(h, weir_strerror((int)n));
        return;
    }
    take_bytes(h, in->scratch, (size_t)n);
    if (h->closing || read_is_all(h, (size_t)n))
        return;
    if (!list_linked(&h->again))
        list_push_back(&in->again, &h->again);
    reactor_defer(in->reactor, &in->read_more);
}

static void read_again(struct reactor_work *w)
{
    struct inbound *in = container_of(w, struct inbound, read_more);
    struct list batch;
    mailbox_let_go(in->me); /* what the round held does not wait for these */
    list_init(&batch);
    for (struct list *l; (l = list_pop_front(&in->again)) != NULL;)
        list_push_back(&batch, l);
    for (struct list *l; (l = list_pop_front(&batch)) != NULL;)
        read_some(container_of(l, struct half, again));
}

/* One wake for what a round found. */
static void let_go(struct reactor_work *w)
{
    mailbox_let_go(container_of(w, struct inbound, let_go)->me);
}

static void ready(struct reactor_source *s, uint32_t events)
{
    struct half *h = container_of(s, struct half, source);
    struct inbound *in = h->in;
    h->ended_there |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    mailbox_hold(in->me);
    reactor_defer(in->reactor, &in->let_go);
    mailbox_busy(in->me, MSG_REPORT, reactor_now(in->reactor));
    read_some(h);
    mailbox_idle(in->me, reactor_now_fresh(in->reactor));
}

/* ---- sessions
 * ------------------------------------------------------------------------------------------ */

static void session_open(struct inbound *in, const struct session *s)
{
    struct half *h = &in->half[session_slot(s->id)];
    weir_assert(!h->used);
    *h = (struct half){
        .in = in,
        .used = true,
        .id = s->id,
        .session = s,
        .process = s->process,
        .source = {.fd = s->wire.fd, .ready = ready},
        .heard_ns = reactor_now(in->reactor),
        .up_owed = true,
    };
    list_init(&h->again);
    list_init(&h->owing);
    list_init(&h->all);
    sweep_join(&in->all, &h->all);
    trail_forget(in->m->threads->trail, session_slot(h->id));
    log_info("monitor: session %llu of gateway %s (%s) stands", (unsigned long long)h->id,
             s->hello.name, s->hello.address);
    settle(h);
    int r = reactor_add(in->reactor, &h->source, EPOLLIN | EPOLLRDHUP);
    if (r < 0) {
        end(h, weir_strerror(r));
        return;
    }
    if (s->early_size > 0)
        take_bytes(h, s->early, s->early_size);
    /* TLS may have read ahead of the acceptor: no edge tells of that. */
    if (!h->closing && !list_linked(&h->again)) {
        list_push_back(&in->again, &h->again);
        reactor_defer(in->reactor, &in->read_more);
    }
}

/* Outbound found a reason to end it. Its word may come before the baton that brings the half. */
static void session_end(struct inbound *in, uint64_t id, char *why)
{
    struct half *h = &in->half[session_slot(id)];
    if (h->used && h->id == id)
        end(h, why != NULL ? why : "ended by this server");
    else if (!h->used)
        h->early_end = id;
}

/* ---- moves
 * --------------------------------------------------------------------------------------------- */

static void move_out(struct inbound *in, struct move *m)
{
    struct half *h = &in->half[session_slot(m->session)];
    if (!h->used || h->id != m->session || h->closing || h->leaving != NULL) {
        refuse_move(in, m);
        return;
    }
    reactor_remove(in->reactor, &h->source);
    if (list_linked(&h->again))
        list_remove(&h->again);
    /* The baton may overtake what is in the urgent lane: the rest must not pass for the whole. */
    h->cut |= h->answering && h->urgent;
    h->leaving = m;
    settle(h);
}

static void read_soon(struct half *h)
{
    if (!list_linked(&h->again))
        list_push_back(&h->in->again, &h->again);
    reactor_defer(h->in->reactor, &h->in->read_more);
}

static void move_in(struct inbound *in, struct move *m)
{
    struct half *h = &in->half[session_slot(m->session)];
    weir_assert(!h->used);
    bool ended = h->early_end == m->session;
    memcpy(h, m->reader, sizeof(*h));
    m->reader_free = NULL;
    weir_assert(h->id == m->session);
    h->in = in;
    h->process = m->to_process;
    h->leaving = NULL;
    h->heard_ns = reactor_now(in->reactor);
    list_init(&h->again);
    list_init(&h->owing);
    list_init(&h->all);
    sweep_join(&in->all, &h->all);
    m->step = MOVE_DONE;
    h->arrived = m;
    settle(h);
    int r = reactor_add(in->reactor, &h->source, EPOLLIN | EPOLLRDHUP);
    if (r < 0)
        end(h, weir_strerror(r));
    else if (ended)
        end(h, "ended by this server while it moved");
    else
        read_soon(h); /* what came before has no edge any more */
}

static void look(struct half *h, uint64_t now)
{
    uint64_t patience = MONITOR_SILENT_HEARTBEATS * h->in->m->heartbeat_ms * NS_PER_MS;
    if (h->closing || h->leaving != NULL || now - h->heard_ns <= patience)
        return;
    monitor_count(h->in->m, ended_silent);
    end(h, "silent for three heartbeats");
}

/* Of a few, so that the end of a thousand at once holds nobody up. */
static void sweep(struct reactor_timer *t, uint64_t now)
{
    struct inbound *in = container_of(t, struct inbound, sweep);
    uint64_t every = in->m->heartbeat_ms * NS_PER_MS / 2;
    for (size_t n = sweep_turn(&in->all, every, now); n > 0; n--)
        look(container_of(sweep_next(&in->all), struct half, all), now);
    reactor_timer_set(in->reactor, t, in->all.due_ns);
}

static void message(void *ctx, struct msg *m)
{
    struct inbound *in = ctx;
    if (m->kind == MSG_SESSION_OPEN) {
        session_open(in, m->body);
        m->body = NULL;
    } else if (m->kind == MSG_SESSION_SHUT) {
        session_end(in, m->arg[0], m->body);
    } else if (m->kind == MSG_MOVE) {
        struct move *move = m->body;
        m->body = NULL;
        if (move->step == MOVE_ASKED)
            move_out(in, move);
        else
            move_in(in, move);
    } else {
        weir_assert(m->kind == MSG_STOP);
        in->stop = true;
        in->stop_msg = *m;
    }
}

static void inbound_open(struct inbound *in)
{
    size_t n = in->m->max_sessions;
    list_init(&in->again);
    list_init(&in->owing);
    in->reactor = reactor_new(n + 2, 4);
    in->scratch = malloc(READ_SIZE);
    in->half = calloc(n, sizeof(*in->half));
    weir_assert(in->reactor != NULL);
    weir_assert(in->scratch != NULL);
    weir_assert(in->half != NULL);
    int r = frame_arena_init(&in->arena, FRAME_ARENA_SIZE);
    weir_assert(r == 0);
    reactor_work_init(&in->read_more, read_again);
    reactor_work_init(&in->let_go, let_go);
    in->retry.fire = retry_all;
    in->sweep.fire = sweep;
    r = mail_open(&in->mail, in->reactor, in->me, message, in);
    weir_assert(r == 0);
    sweep_init(&in->all, reactor_now(in->reactor) + in->m->heartbeat_ms * NS_PER_MS / 2);
    reactor_timer_set(in->reactor, &in->sweep, in->all.due_ns);
    nap_init(&in->nap, reactor_now(in->reactor));
    (void)prctl(PR_SET_TIMERSLACK, NAP_SLACK_NS); /* of this thread; else 50 us */
}

static void inbound_close(struct inbound *in)
{
    list_for_each(l, &in->all.members)
    {
        struct half *h = container_of(l, struct half, all);
        half_free(h);
        move_free(h->leaving);
        move_free(h->arrived);
    }
    move_queue_free(&in->refused);
    mail_close(&in->mail);
    reactor_free(in->reactor);
    frame_arena_fini(&in->arena);
    spare_pool_fini(&in->spares);
    free(in->scratch);
    free(in->half);
}

/* Where frames come densely: sleep on, unheard, so that they come together. Then a gateway that
 * speaks wakes nobody, and one wake of the SLA process is for many. */
static void nap(struct inbound *in)
{
    struct timespec ts = {0};
    if (!list_empty(&in->again))
        return;
    ts.tv_nsec = (long)nap_next(&in->nap, in->frames, reactor_now(in->reactor));
    in->frames = 0;
    if (ts.tv_nsec > 0)
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

void *monitor_inbound_main(void *monitor_thread)
{
    struct monitor_thread *t = monitor_thread;
    struct inbound *in = calloc(1, sizeof(*in));
    weir_assert(in != NULL);
    in->m = t->monitor;
    in->pair = t->pair;
    in->me = t->monitor->threads->inbound[t->pair];
    inbound_open(in);
    while (!in->stop) {
        nap(in);
        int r = reactor_round(in->reactor, UINT64_MAX);
        weir_assert(r == 0);
    }
    struct msg stop = in->stop_msg;
    struct mailbox *me = in->me;
    inbound_close(in);
    free(in);
    mailbox_reply(me, &stop, 0, NULL, NULL);
    return NULL;
}

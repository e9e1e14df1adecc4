/* SPDX-License-Identifier: Apache-2.0 */
/* The acceptor: takes connections, sees handshakes through, owns every session's descriptor.
 *
 * Problem. Strangers may connect as they like; sessions live in two other threads; a descriptor
 * must not be closed, and its number used again, while either of them may still touch it.
 *
 * Model. Handshakes are a fixed pool (handshake.c). One that stands becomes an owned_session, which
 * is lent to outbound first and to inbound then, so that nothing can be sent to a session that
 * outbound has not heard of. Each half says MSG_SESSION_SHUT when it has let go; after both the
 * descriptor is closed and the slot is free.
 *
 *   made -> told outbound -> told inbound -> one half shut -> both shut: closed
 *
 * Invariants:
 *  1. A slot is free, or holds one owned_session until both halves that were told have shut.
 *  2. Session ids never repeat in this server's life: serial number and slot.
 *  3. At most HANDSHAKES_MAX handshakes, HANDSHAKES_PER_ADDRESS of one address, max_sessions
 *     sessions. While no handshake is free connections stay in the kernel's queue.
 *  4. A mailbox that is full delays the telling (untold, tried again every 10 ms), never this
 *     thread.
 *
 * What may fail: accept for want of descriptors (tried again after 100 ms). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "server/monitor/acceptor.h"
#include "server/msg.h"
#include "server/store/render.h"
#include "server/store/store.h"

#define ACCEPT_RETRY_NS (100 * NS_PER_MS)
#define ACCEPT_ROUND 64u /* connections taken before other events get their turn */
#define EVENTS_PER_SECOND 10u
#define HANDSHAKE_ARENA (256u * 1024u)

/* ---- sessions
 * ------------------------------------------------------------------------------------------ */

static bool hello_keep(struct session_hello *hello, const struct handshake *h)
{
    const char *from[] = {h->name, h->software, h->address, h->auth.key_id};
    const char **to[] = {&hello->name, &hello->software, &hello->address, &hello->key_id};
    size_t size[4], sum = 0;
    for (size_t i = 0; i < 4; i++)
        sum += size[i] = strlen(from[i]) + 1;
    char *at = malloc(sum);
    for (size_t i = 0; at != NULL && i < 4; i++) {
        *to[i] = memcpy(at, from[i], size[i]);
        at += size[i];
    }
    return at != NULL;
}

struct owned_session *acceptor_session_new(struct acceptor *a, const struct handshake *h)
{
    if (a->free_slots == 0)
        return NULL;
    struct owned_session *o = calloc(1, sizeof(*o));
    if (o == NULL)
        return NULL;
    struct monitor *m = a->m;
    struct session *s = &o->session;
    uint32_t slot = a->free_slot[--a->free_slots];
    s->id = ++a->serial << SESSION_SLOT_BITS | slot;
    s->wire = h->wire;
    memcpy(s->hello.id, h->auth.gateway_id, sizeof(s->hello.id));
    memcpy(s->hello.boot, h->auth.boot_id, sizeof(s->hello.boot));
    o->rekey = h->rekey;
    s->early = h->in_size > 0 ? malloc(h->in_size) : NULL;
    if (s->early != NULL)
        memcpy(s->early, h->in, h->in_size);
    s->early_size = h->in_size;
    weir_assert(m->session[slot] == NULL);
    bool named = hello_keep(&s->hello, h);
    if (!named || (s->early == NULL && h->in_size > 0) || !router_session_new(&a->router, o)) {
        a->free_slot[a->free_slots++] = slot;
        free((char *)(uintptr_t)s->hello.name);
        free(s->early);
        free(o);
        return NULL;
    }
    o->key_id = s->hello.key_id;
    m->session[slot] = o;
    return o;
}

void acceptor_session_forget(struct acceptor *a, struct owned_session *o)
{
    uint32_t slot = session_slot(o->session.id);
    weir_assert(a->m->session[slot] == o);
    a->m->session[slot] = NULL;
    a->free_slot[a->free_slots++] = slot;
    router_session_over(&a->router, o);
    free(o->key_changed);
    free((char *)(uintptr_t)o->session.hello.name);
    free(o->session.early);
    free(o);
}

/* Outbound, then inbound. False: a mailbox is full. */
static bool session_tell(struct acceptor *a, struct owned_session *o)
{
    const struct threads *t = a->m->threads;
    const struct session *s = &o->session;
    struct mailbox *to[2] = {
        [SESSION_INBOUND] = t->inbound[s->pair], [SESSION_OUTBOUND] = t->outbound[s->pair]};
    static const enum session_half order[2] = {SESSION_OUTBOUND, SESSION_INBOUND};
    for (size_t i = 0; i < 2; i++) {
        uint8_t bit = (uint8_t)(1u << order[i]);
        if ((o->told & bit) != 0)
            continue;
        if (!mail_post(a->me, to[order[i]], MSG_SESSION_OPEN, s->id, 0, &o->session, NULL))
            return false;
        o->told |= bit;
    }
    return true;
}

void acceptor_session_start(struct acceptor *a, struct owned_session *o)
{
    if (!o->counted) {
        o->counted = true;
        rotation_look(a->rotations);
        monitor_count(a->m, sessions);
        monitor_count_add(a->m, sessions_now, 1);
    }
    if (!router_session_place(&a->router, o))
        return;
    if (a->untold == NULL && session_tell(a, o))
        return;
    struct owned_session **end = &a->untold;
    while (*end != NULL)
        end = &(*end)->next_untold;
    *end = o;
    monitor_count(a->m, posts_retried);
    reactor_timer_set(a->reactor, &a->post_retry, reactor_now(a->reactor) + MONITOR_RETRY_NS);
}

static void post_again(struct reactor_timer *t, uint64_t now)
{
    struct acceptor *a = container_of(t, struct acceptor, post_retry);
    if (!move_queue_post(&a->router.unposted, a->me, a->m->threads))
        reactor_timer_set(a->reactor, t, now + MONITOR_RETRY_NS);
    while (a->untold != NULL) {
        struct owned_session *o = a->untold;
        if (!session_tell(a, o)) {
            reactor_timer_set(a->reactor, t, now + MONITOR_RETRY_NS);
            return;
        }
        a->untold = o->next_untold;
        o->next_untold = NULL;
    }
}

static void session_shut(struct acceptor *a, uint64_t id, enum session_half half)
{
    struct owned_session *o = a->m->session[session_slot(id)];
    weir_assert(o != NULL);
    weir_assert(o->session.id == id);
    uint8_t bit = (uint8_t)(1u << half);
    weir_assert((o->told & bit) != 0);
    weir_assert((o->shut & bit) == 0);
    o->shut |= bit;
    if (o->shut != (1u << SESSION_INBOUND | 1u << SESSION_OUTBOUND))
        return;
    wire_close(&o->session.wire);
    rotation_session_over(a->rotations, id);
    dialler_over(a->dialler, o->dial);
    acceptor_session_forget(a, o);
    monitor_count_down(a->m, sessions_now);
}

void acceptor_sessions_check(struct acceptor *a)
{
    int64_t wall = clock_wall_us();
    for (size_t slot = 0; slot < a->m->max_sessions; slot++) {
        const struct owned_session *o = a->m->session[slot];
        enum key_class class;
        if (o == NULL || o->told == 0 || strncmp(o->key_id, "gateway:", 8) != 0)
            continue;
        if (keys_find(&a->keys.table, o->key_id, wall, &class) != NULL)
            continue;
        char *why = strdup("its credential was revoked");
        struct mailbox *to = router_outbound(&a->router, o);
        if (why == NULL || to == NULL ||
            !mail_post(a->me, to, MSG_SESSION_END, o->session.id, 0, why, free)) {
            free(why);
            reactor_timer_set(a->reactor, &a->keys.retry, reactor_now(a->reactor) + NS_PER_S);
        }
    }
}

/* ---- connections
 * --------------------------------------------------------------------------------------- */

static size_t handshakes_of(const struct acceptor *a, const char *address)
{
    size_t n = 0;
    list_for_each(l, &a->busy)
    {
        const struct handshake *h = container_of(l, struct handshake, link);
        n += strcmp(h->address, address) == 0;
    }
    return n;
}

static void connection(struct acceptor *a, int fd, bool far)
{
    char address[ADDR_TEXT_SIZE];
    monitor_count(a->m, accepted);
    if (addr_peer_host(fd, address, sizeof(address)) < 0)
        snprintf(address, sizeof(address), "unknown");
    if (handshakes_of(a, address) >= HANDSHAKES_PER_ADDRESS) {
        monitor_count(a->m, refused_address);
        close(fd);
        return;
    }
    weir_assert(!list_empty(&a->free));
    handshake_begin(container_of(a->free.next, struct handshake, link), fd, address,
                    far);
}

/* Take what waits at one listener; true when there may be more. */
static bool accept_some(struct acceptor *a, int listener, bool far)
{
    for (unsigned i = 0; i < ACCEPT_ROUND; i++) {
        if (list_empty(&a->free)) {
            a->waiting = true;
            return false;
        }
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            connection(a, fd, far);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return false;
        monitor_count(a->m, accept_failures);
        log_warning("monitor: a connection cannot be accepted: %s", weir_strerror(-errno));
        reactor_timer_set(a->reactor, &a->accept_retry, reactor_now(a->reactor) + ACCEPT_RETRY_NS);
        return false;
    }
    return true;
}

static void accept_all(struct reactor_work *w)
{
    struct acceptor *a = container_of(w, struct acceptor, accept_work);
    bool more = false;
    a->waiting = false;
    for (size_t i = 0; i < a->m->listener_count; i++)
        more |= accept_some(a, a->m->listener[i], a->m->listener_far[i]);
    if (more)
        reactor_defer(a->reactor, &a->accept_work);
}

static void accept_again(struct reactor_timer *t, uint64_t now)
{
    struct acceptor *a = container_of(t, struct acceptor, accept_retry);
    (void)now;
    reactor_defer(a->reactor, &a->accept_work);
}

void acceptor_room(struct acceptor *a)
{
    if (a->waiting && !a->stop)
        reactor_defer(a->reactor, &a->accept_work);
}

static void listener_ready(struct reactor_source *s, uint32_t events)
{
    struct acceptor *a = container_of(s, struct listener, source)->acceptor;
    (void)events;
    reactor_defer(a->reactor, &a->accept_work);
}

/* ---- events
 * -------------------------------------------------------------------------------------------- */

static void free_json(void *json)
{
    json_decref(json);
}

void acceptor_event(struct acceptor *a, enum event_severity severity, const char *kind,
                    const char *subject, const char *words)
{
    uint64_t second = reactor_now(a->reactor) / NS_PER_S;
    if (second != a->event_second) {
        a->event_second = second;
        a->events_in_second = 0;
    }
    if (a->events_in_second++ >= EVENTS_PER_SECOND)
        return; /* the counters have them all */
    int64_t wall = clock_wall_us();
    if (severity == EVENT_INFO)
        log_info("monitor: %s", words);
    else
        log_warning("monitor: %s", words);
    struct event_record e = {.wall_us = wall, .severity = severity};
    snprintf(e.kind, sizeof(e.kind), "%s", kind);
    snprintf(e.subject, sizeof(e.subject), "%s", subject);
    snprintf(e.text, sizeof(e.text), "%s", words);
    struct store_batch *b = store_batch_new(0, 0, 1, 0);
    if (b != NULL) {
        b->event[0] = e;
        if (!mail_post(a->me, a->m->threads->store_writer, MSG_STORE_APPEND, 0, 0, b,
                       store_batch_free))
            store_batch_free(b);
    }
    if (!threads_listened(a->m->threads))
        return;
    json_t *notice = render_event((uint64_t)wall, &e);
    if (notice != NULL &&
        !mail_post(a->me, a->m->threads->app, MSG_NOTICE, 0, 0, notice, free_json))
        json_decref(notice);
}

/* ---- the thread
 * ---------------------------------------------------------------------------------------- */

static void reply_of_store(struct acceptor *a, const struct msg *m)
{
    if (m->kind == MSG_STORE_QUERY) {
        key_loader_reply(a, m);
        return;
    }
    weir_assert(m->kind == MSG_STORE_WRITE);
    if (rotation_reply(a->rotations, m))
        return;
    size_t i = (size_t)(m->tag & UINT32_MAX);
    weir_assert(i < HANDSHAKES_MAX);
    struct handshake *h = &a->handshake[i];
    if (h->state == HANDSHAKE_ENROL && h->number == (uint32_t)(m->tag >> 32))
        handshake_enrolled(h, m->status);
}

static void message(void *ctx, struct msg *m)
{
    struct acceptor *a = ctx;
    if (m->is_reply) {
        reply_of_store(a, m);
    } else if (m->kind == MSG_SESSION_SHUT) {
        session_shut(a, m->arg[0], (enum session_half)m->arg[1]);
    } else if (m->kind == MSG_KEYS_CHANGED) {
        key_loader_load(a);
    } else if (m->kind == MSG_GATEWAYS_FOUND) {
        dialler_found(a->dialler, m->body);
    } else if (m->kind == MSG_DIALS) {
        mailbox_reply(a->me, m, 0, dialler_json(a->dialler), free_json);
    } else if (m->kind == MSG_CONTROL_TLS) {
        /* Handshakes and sessions have references of their own to what they began with. */
        struct tls_creds *old = a->m->tls;
        a->m->tls = m->body;
        m->body = old;
    } else if (m->kind == MSG_GATEWAY_ROTATE) {
        rotation_ask(a->rotations, m);
    } else if (m->kind == MSG_ROTATION_ORDERED) {
        rotation_ordered(a->rotations, m);
    } else if (m->kind == MSG_ROTATION_ORDERS) {
        mailbox_reply(a->me, m, 0, rotation_orders(a->rotations), free_json);
    } else if (m->kind == MSG_KEY_CONFIRM) {
        rotation_confirmed(a->rotations, m->arg[0], m->body);
    } else if (!router_message(&a->router, m)) {
        weir_assert(m->kind == MSG_STOP);
        a->stop = true;
        a->stop_msg = *m;
    }
}

static void each_second(struct reactor_timer *t, uint64_t now)
{
    struct acceptor *a = container_of(t, struct acceptor, second);
    struct msg m;
    while (mailbox_take_expired(a->me, now, &m)) {
        reply_of_store(a, &m);
        msg_release(&m);
    }
    rotation_second(a->rotations);
    reactor_timer_set(a->reactor, t, now + NS_PER_S);
}

static void acceptor_alloc(struct acceptor *a)
{
    size_t n = a->m->max_sessions;
    size_t dials = dialler_places(a->m->config);
    /* Handshakes, dials, listeners, the mailbox; a timer each, and the six besides. */
    a->reactor =
        reactor_new(HANDSHAKES_MAX + dials + MONITOR_LISTENERS_MAX + 2, HANDSHAKES_MAX + dials + 8);
    a->handshake = calloc(HANDSHAKES_MAX, sizeof(*a->handshake));
    a->free_slot = calloc(n, sizeof(*a->free_slot));
    int r = frame_arena_init(&a->arena, HANDSHAKE_ARENA);
    weir_assert(r == 0);
    weir_assert(a->reactor != NULL);
    weir_assert(a->handshake != NULL);
    weir_assert(a->free_slot != NULL);
    for (size_t i = 0; i < n; i++)
        a->free_slot[a->free_slots++] = (uint32_t)(n - 1 - i);
    for (size_t i = 0; i < HANDSHAKES_MAX; i++) {
        handshake_init(&a->handshake[i], a);
        list_push_back(&a->free, &a->handshake[i].link);
    }
}

static void acceptor_open(struct acceptor *a)
{
    list_init(&a->free);
    list_init(&a->busy);
    text_init(&a->out, SESSION_EARLY_MAX);
    acceptor_alloc(a);
    a->accept_retry.fire = accept_again;
    a->post_retry.fire = post_again;
    a->second.fire = each_second;
    reactor_work_init(&a->accept_work, accept_all);
    int r = router_open(&a->router, a);
    if (r == 0)
        r = mail_open(&a->mail, a->reactor, a->me, message, a);
    for (size_t i = 0; r == 0 && i < a->m->listener_count; i++) {
        a->listener[i].acceptor = a;
        a->listener[i].source =
            (struct reactor_source){.fd = a->m->listener[i], .ready = listener_ready};
        r = reactor_add(a->reactor, &a->listener[i].source, EPOLLIN);
    }
    weir_assert(r == 0);
    reactor_timer_set(a->reactor, &a->second, reactor_now(a->reactor) + NS_PER_S);
    reactor_defer(a->reactor, &a->accept_work);
    key_loader_init(a);
    a->rotations = rotation_table_new(a);
    weir_assert(a->rotations != NULL);
    a->dialler = dialler_new(a);
    weir_assert(a->dialler != NULL);
}

static void acceptor_close(struct acceptor *a)
{
    list_for_each_safe(l, &a->busy) handshake_abandon(container_of(l, struct handshake, link));
    key_loader_fini(a);
    dialler_free(a->dialler);
    rotation_table_free(a->rotations);
    router_close(&a->router);
    mail_close(&a->mail);
    reactor_free(a->reactor);
    frame_arena_fini(&a->arena);
    text_fini(&a->out);
    free(a->handshake);
    free(a->free_slot);
}

void *monitor_acceptor_main(void *monitor_thread)
{
    struct monitor_thread *t = monitor_thread;
    struct acceptor *a = calloc(1, sizeof(*a));
    weir_assert(a != NULL);
    a->m = t->monitor;
    a->me = t->monitor->threads->acceptor;
    acceptor_open(a);
    while (!a->stop) {
        int r = reactor_round(a->reactor, UINT64_MAX);
        weir_assert(r == 0);
    }
    struct msg stop = a->stop_msg;
    struct mailbox *me = a->me;
    acceptor_close(a);
    free(a);
    mailbox_reply(me, &stop, 0, NULL, NULL);
    return NULL;
}

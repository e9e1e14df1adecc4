/* SPDX-License-Identifier: Apache-2.0 */
/* TLS of a connection's sides, below relay_side_read and relay_side_send.
 *
 * Above these nothing changes: the pumps read and send the same bytes, and the flags of a side mean
 * what they meant. A read fills the room it is given record by record and takes "nothing more" only
 * from a socket that would block, so that the next edge of epoll is not missed. A send that the
 * socket took in part says that nothing went; the pumps offer the same bytes again, since all they
 * send from are queues, and TLS goes on where it was. So nothing is told as sent that is not in the
 * kernel, and closing loses no more than it does without TLS.
 *
 * A handshake is bounded in time by the timer of the connection (handshake-timeout, connect and all
 * of the negotiation included), in bytes by tls/session.c, in number by max-connections and
 * max-connections-per-host. Its arithmetic takes the reactor's time; so a round does
 * RELAY_HANDSHAKES_ROUND steps of handshakes and leaves the others to the next, and I/O goes on in
 * between. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/log.h"
#include "gateway/relay_conn.h"

/* --- records --- */

size_t relay_side_read_tls(struct relay_side *s, void *to, size_t room)
{
    size_t got = 0;
    while (got < room) {
        ssize_t n = tls_session_read(s->tls, (uint8_t *)to + got, room - got);
        if (n > 0) {
            got += (size_t)n;
            continue;
        }
        s->readable = false;
        if (n != -EAGAIN) {
            s->error = (int)n;
            s->eof = true;
        }
        break;
    }
    return got;
}

/* Where sending stands in @iov. */
struct pieces {
    const struct iovec *iov;
    int count;
    size_t at; /* in the first */
};

static void pieces_take(struct pieces *p, size_t n)
{
    while (n > 0) {
        size_t left = p->iov->iov_len - p->at;
        if (n < left) {
            p->at += n;
            return;
        }
        n -= left;
        p->at = 0;
        p->iov++;
        p->count--;
    }
}

/* What one record can carry of them: in place if one piece is enough, else gathered in @scratch. */
static const uint8_t *pieces_record(const struct pieces *p, uint8_t *scratch, size_t *ret_n)
{
    const uint8_t *first = (const uint8_t *)p->iov->iov_base + p->at;
    size_t n = p->iov->iov_len - p->at;
    if (n >= TLS_RECORD_MAX || p->count == 1) {
        *ret_n = n < TLS_RECORD_MAX ? n : TLS_RECORD_MAX;
        return first;
    }
    memcpy(scratch, first, n);
    for (int i = 1; i < p->count && n < TLS_RECORD_MAX; i++) {
        size_t part = p->iov[i].iov_len;
        if (part > TLS_RECORD_MAX - n)
            part = TLS_RECORD_MAX - n;
        memcpy(scratch + n, p->iov[i].iov_base, part);
        n += part;
    }
    *ret_n = n;
    return scratch;
}

size_t relay_side_send_tls(struct relay_side *s, const struct iovec *iov, int count)
{
    struct pieces p = {.iov = iov, .count = count};
    size_t sent = 0;
    while (p.count > 0) {
        size_t n;
        const uint8_t *record = pieces_record(&p, s->conn->relay->record, &n);
        ssize_t r = tls_session_send(s->tls, record, n);
        if (r > 0) {
            pieces_take(&p, (size_t)r);
            sent += (size_t)r;
            continue;
        }
        s->writable = false;
        if (r != -EAGAIN) {
            if (!s->error)
                s->error = (int)r;
            s->dead = true;
            s->hangup = s->readable = true;
        }
        break;
    }
    return sent;
}

/* --- handshakes --- */

static struct tls_creds *creds_of(struct relay_conn *c, const struct relay_side *s)
{
    struct relay *r = c->relay;
    return s == &c->host ? r->listener_tls[c->listener - r->config->listeners]
                         : r->target_tls[c->listener->target->index];
}

static bool relay_tls_fail(struct relay_conn *c, const struct relay_side *s, const char *words)
{
    bool host = s == &c->host;
    if (!host) {
        c->stats->connect_failures++;
        c->stats->last_error = WEIR_E_AUTH;
    }
    relay_conn_close(c, host ? RELAY_CLOSE_HOST_TLS : RELAY_CLOSE_TARGET_TLS, words);
    return false;
}

/* The host has proved who it is: that is its name from here on. False: @c is gone. */
static bool relay_tls_identify(struct relay_conn *c)
{
    char name[1024];
    ssize_t n = tls_session_peer(c->host.tls, name, sizeof(name));
    if (n < 0)
        return relay_tls_fail(c, &c->host, "the host's certificate names nobody");
    if (n == 0)
        return true; /* it showed none and need not: its address is its name */
    name_escape(name, (size_t)n, c->identity);
    uint32_t same = 0;
    list_for_each(l, &c->relay->live)
    {
        const struct relay_conn *other = container_of(l, struct relay_conn, link);
        same += strcmp(other->identity, c->identity) == 0;
    }
    if (same <= c->relay->config->max_connections_per_host)
        return true;
    relay_conn_close(c, RELAY_CLOSE_HOST_CONNECTION_LIMIT, NULL);
    return false;
}

static bool relay_tls_stands(struct relay_conn *c, struct relay_side *s)
{
    char words[160];
    /* What the session has read ahead no edge will tell of. */
    s->readable = s->writable = true;
    tls_session_describe(s->tls, words, sizeof(words));
    if (s == &c->host && !relay_tls_identify(c))
        return false;
    log_debug("connection %llu: TLS with the %s: %s", (unsigned long long)c->id,
              s == &c->host ? "host" : "target", words);
    return true;
}

/* At most so many steps a round; the rest follow in the next. */
static bool relay_tls_turn(struct relay_conn *c)
{
    struct relay *r = c->relay;
    if (r->handshake_steps == 0)
        reactor_defer(r->reactor, &r->handshake_round); /* which begins the count anew */
    if (r->handshake_steps < RELAY_HANDSHAKES_ROUND) {
        r->handshake_steps++;
        return true;
    }
    reactor_defer(r->reactor, &c->work);
    return false;
}

void relay_handshake_round(struct reactor_work *w)
{
    container_of(w, struct relay, handshake_round)->handshake_steps = 0;
}

int relay_side_secure(struct relay_conn *c, struct relay_side *s)
{
    if (!relay_tls_turn(c))
        return 0;
    if (!s->tls && tls_session_new(creds_of(c, s), s->source.fd, &s->tls) < 0) {
        relay_conn_close(c, RELAY_CLOSE_NO_MEMORY, NULL);
        return -1;
    }
    int r = tls_session_handshake(s->tls);
    if (r == 0)
        return 0;
    if (r < 0) {
        char words[256];
        text_escape(words, sizeof(words), tls_session_words(s->tls),
                    strlen(tls_session_words(s->tls)));
        (void)relay_tls_fail(c, s, words);
        return -1;
    }
    return relay_tls_stands(c, s) ? 1 : -1;
}

/* --- credentials --- */

struct fresh {
    struct tls_creds *listener[CONFIG_MAX_LISTENERS], *target[CONFIG_MAX_TARGETS];
};

static void fresh_drop(struct fresh *f)
{
    for (size_t i = 0; i < CONFIG_MAX_LISTENERS; i++)
        tls_creds_unref(f->listener[i]);
    for (size_t i = 0; i < CONFIG_MAX_TARGETS; i++)
        tls_creds_unref(f->target[i]);
}

static const struct listener_config *listener_like(const struct gateway_config *c, const char *name)
{
    int i = gateway_config_listener(c, name);
    return i < 0 ? NULL : &c->listeners[i];
}

static const struct target_config *target_like(const struct gateway_config *c, const char *name)
{
    int i = gateway_config_target(c, name);
    return i < 0 ? NULL : &c->targets[i];
}

/* What was read with the configuration, in the place of @old, if that is not NULL. */
static int fresh_one(struct tls_creds *read, const char *path, const struct tls_creds *old,
                     struct tls_creds **ret, char *words, size_t size)
{
    weir_assert(read != NULL);
    if (old && !certs_may_replace(tls_creds_validity(old), tls_creds_validity(read), path, words,
                                  size))
        return WEIR_E_REFUSED;
    *ret = tls_creds_ref(read);
    return 0;
}

/* Make what the listeners and targets of @r's configuration need, as @from says it now. */
static int fresh_make(const struct relay *r, const struct gateway_config *from, struct fresh *f,
                      char *words, size_t size)
{
    const struct gateway_config *c = r->config;
    int ret = 0;
    for (size_t i = 0; ret == 0 && i < c->listener_count; i++) {
        const struct listener_config *l = listener_like(from, c->listeners[i].name);
        if (c->listeners[i].tls != TLS_MODE_OFF && l && l->tls != TLS_MODE_OFF)
            ret = fresh_one(l->tls_creds, l->tls_files.certificate, r->listener_tls[i],
                            &f->listener[i], words, size);
    }
    for (size_t i = 0; ret == 0 && i < c->target_count; i++) {
        const struct target_config *t = target_like(from, c->targets[i].name);
        if (c->targets[i].tls_on && t && t->tls_on)
            ret = fresh_one(t->tls_creds, t->tls_files.certificate, r->target_tls[i],
                            &f->target[i], words, size);
    }
    return ret;
}

/* What this gateway shows to whom, and its server, from now on. */
static void note_certs(struct relay *r, const struct gateway_config *from)
{
    const struct gateway_config *c = r->config;
    certs_clear(&r->certs);
    for (size_t i = 0; i < c->listener_count; i++) {
        const struct listener_config *l = listener_like(from, c->listeners[i].name);
        if (l && r->listener_tls[i])
            certs_add(&r->certs, "listener", l->name, l->tls_files.certificate,
                      tls_creds_validity(r->listener_tls[i]));
    }
    for (size_t i = 0; i < c->target_count; i++) {
        const struct target_config *t = target_like(from, c->targets[i].name);
        if (t && r->target_tls[i])
            certs_add(&r->certs, "target", t->name, t->tls_files.certificate,
                      tls_creds_validity(r->target_tls[i]));
    }
    /* The link reads its file at each connection, where the start named it. */
    struct tls_fault fault;
    struct tls_validity v;
    if (c->server_tls.certificate[0] != '\0' &&
        tls_creds_try(TLS_CLIENT, &c->server_tls, &fault, &v) == 0)
        certs_add(&r->certs, "server", "", c->server_tls.certificate, &v);
}

static void put_in_place(struct tls_creds **place, struct tls_creds *fresh)
{
    if (!fresh)
        return;
    tls_creds_unref(*place);
    *place = fresh;
}

int relay_tls_load(struct relay *r, const struct gateway_config *from, char *words, size_t size)
{
    struct fresh f = {0};
    int ret = fresh_make(r, from, &f, words, size);
    if (ret < 0) {
        fresh_drop(&f);
        return ret;
    }
    for (size_t i = 0; i < CONFIG_MAX_LISTENERS; i++)
        put_in_place(&r->listener_tls[i], f.listener[i]);
    for (size_t i = 0; i < CONFIG_MAX_TARGETS; i++)
        put_in_place(&r->target_tls[i], f.target[i]);
    note_certs(r, from);
    return 0;
}

void relay_tls_free(struct relay *r)
{
    for (size_t i = 0; i < CONFIG_MAX_LISTENERS; i++)
        tls_creds_unref(r->listener_tls[i]);
    for (size_t i = 0; i < CONFIG_MAX_TARGETS; i++)
        tls_creds_unref(r->target_tls[i]);
}

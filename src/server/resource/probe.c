/* SPDX-License-Identifier: Apache-2.0 */
/* A probe.
 *
 * Problem: the target may be slow, dead, silent after accepting, or not a target at all, and its
 * name may take long to look up; none of that may hold up the thread that runs all probes.
 * Model: what is said is talk.c's; here is the socket, TLS on it where the URI says nbds, and time.
 * Names are looked up aside (lookup.c) and put into the URI as a number, since the name stays what
 * a certificate must carry.
 *
 *      START -> RESOLVE -> CONNECT -> TALK -> (SECURE -> TALK) -> GOODBYE -> ENDED
 *         \        \          \         \________\_ error, deadline ____/
 *          \_______ \__________\__ error, deadline _________________/
 *
 * Invariants
 *  1. The result is set exactly once, before GOODBYE or ENDED, at PROBE_DEADLINE_NS at the latest.
 *  2. A step reads STEP_BYTES at most, so that a target that talks without end delays no other. */
#include "server/resource/probe.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/addr.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "server/resource/lookup.h"
#include "server/resource/talk.h"
#include "tls/wire.h"

#define READ_SIZE 4096u
/* The protocol bounds a minimum block size to 64 KiB. */
#define BLOCK_MIN_MAX 65536u
/* A look-up has no descriptor: look again so often. */
#define RESOLVE_STEP_NS (20 * NS_PER_MS)
#define URI_MAX         512u
#define STEP_BYTES      (128u * 1024u)

enum probe_state {
    PROBE_START,
    PROBE_RESOLVE,
    PROBE_CONNECT,
    PROBE_TALK,
    PROBE_SECURE,
    PROBE_GOODBYE,
    PROBE_ENDED
};

struct probe {
    enum probe_state state;
    char uri[URI_MAX];
    size_t host_at, host_len; /* in uri, without brackets; host_len 0: a Unix socket */
    struct probe_keys keys;
    bool tls;
    struct talk talk;
    struct wire wire;
    size_t sent; /* of talk.out */
    bool more;   /* a step left off at its bound, or what is here no descriptor will tell of */
    struct rng rng;
    uint64_t deadline_ns, begun_ns, next_ns;
    struct probe_result result;
    bool has_result, result_taken;
    struct lookup *lookup;
    char host[256];
};

struct probe *probe_new(const char *uri, const struct probe_keys *keys, uint64_t now_ns,
                        uint64_t seed)
{
    struct probe *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    snprintf(p->uri, sizeof(p->uri), "%s", uri);
    p->keys = *keys;
    if (p->keys.creds != NULL)
        tls_creds_ref(p->keys.creds);
    p->wire.fd = -1;
    rng_seed(&p->rng, seed);
    p->deadline_ns = now_ns + PROBE_DEADLINE_NS;
    p->next_ns = now_ns;
    return p;
}

static void let_go(struct probe *p)
{
    wire_close(&p->wire);
    talk_fini(&p->talk);
    lookup_drop(p->lookup);
    p->lookup = NULL;
}

void probe_free(struct probe *p)
{
    if (p == NULL)
        return;
    let_go(p);
    tls_creds_unref(p->keys.creds);
    free(p);
}

static void end(struct probe *p)
{
    let_go(p);
    p->state = PROBE_ENDED;
}

/* Words of others go to people's screens: printable only. */
static void copy_words(char *out, size_t size, const char *words)
{
    snprintf(out, size, "%s", words);
    for (char *c = out; *c != '\0'; c++)
        if (!isprint((unsigned char)*c))
            *c = '?';
}

static void fail(struct probe *p, const char *words)
{
    weir_assert(!p->has_result);
    uint64_t connect_us = p->result.connect_us;
    p->result = (struct probe_result){.reachable = false, .connect_us = connect_us};
    copy_words(p->result.error, sizeof(p->result.error), words);
    p->has_result = true;
    end(p);
}

static uint64_t elapsed_us(const struct probe *p, uint64_t now_ns)
{
    uint64_t us = now_ns > p->begun_ns ? (now_ns - p->begun_ns) / NS_PER_US : 0;
    return us > 0 ? us : 1;
}

/* ---- where it is ---- */

/* The host of an authority "[user@]host[:port]", which begins at @at and ends before @end_at. */
static bool cut_host(struct probe *p, size_t at, size_t end_at)
{
    size_t len = end_at - at;
    if (len > 0 && p->uri[at] == '[') {
        char *close_at = memchr(p->uri + at, ']', len);
        at++;
        len = close_at == NULL ? 0 : (size_t)(close_at - (p->uri + at));
    } else {
        char *colon = memchr(p->uri + at, ':', len);
        len = colon == NULL ? len : (size_t)(colon - (p->uri + at));
    }
    if (len == 0 || len >= sizeof(p->host)) {
        fail(p, "the URI names no host");
        return false;
    }
    p->host_at = at;
    p->host_len = len;
    memcpy(p->host, p->uri + at, len);
    p->host[len] = '\0';
    return true;
}

/* What a certificate must name. False: failed with words. */
static bool settle_name(struct probe *p)
{
    struct probe_keys *k = &p->keys;
    if (!p->tls || k->keys_only)
        return true;
    if (k->verify_name[0] == '\0')
        snprintf(k->verify_name, sizeof(k->verify_name), "%s", p->host);
    if (k->verify_name[0] == '\0')
        fail(p, "a socket's path is no name that a certificate could carry: tls-verify-name of its "
                "[target] in server.conf");
    return k->verify_name[0] != '\0';
}

/* Take "nbd[s]://host[:port][/export]" apart. False: it cannot be probed (failed with words). */
static bool find_host(struct probe *p)
{
    p->tls = addr_uri_wants_tls(p->uri);
    bool unix_socket = strncmp(p->uri + p->tls, p->tls ? "bds+unix://" : "nbd+unix://", 11) == 0;
    bool tcp = strncmp(p->uri, p->tls ? "nbds://" : "nbd://", p->tls ? 7 : 6) == 0;
    if (!unix_socket && !tcp) {
        fail(p, "not an NBD URI that the server can use (nbd:// or nbd+unix://, or nbds)");
        return false;
    }
    if (p->tls && p->keys.creds == NULL) {
        fail(p, "it is reached by TLS, for which the server has no keys: tls-ca or tls-psk-file in "
                "[resource] of server.conf");
        return false;
    }
    if (tcp) {
        size_t at = p->tls ? 7 : 6;
        if (!cut_host(p, at, at + strcspn(p->uri + at, "/?#")))
            return false;
    }
    return settle_name(p);
}

static bool is_number(const char *host)
{
    struct in6_addr room;
    return inet_pton(AF_INET, host, &room) == 1 || inet_pton(AF_INET6, host, &room) == 1;
}

static void start_resolve(struct probe *p, uint64_t now_ns)
{
    p->state = PROBE_RESOLVE;
    p->next_ns = now_ns + RESOLVE_STEP_NS;
    p->lookup = lookup_start(p->host);
    if (p->lookup == NULL)
        fail(p, "no thread to look its name up");
}

/* Put a numeric address in the name's place. */
static bool put_address(struct probe *p, const struct addrinfo *found)
{
    char number[64], uri[URI_MAX + 80];
    if (found == NULL || getnameinfo(found->ai_addr, found->ai_addrlen, number, sizeof(number),
                                     NULL, 0, NI_NUMERICHOST) != 0)
        return false;
    bool six = found->ai_family == AF_INET6;
    int n = snprintf(uri, sizeof(uri), "%.*s%s%s%s%s", (int)p->host_at, p->uri, six ? "[" : "",
                     number, six ? "]" : "", p->uri + p->host_at + p->host_len);
    if (n < 0 || (size_t)n >= sizeof(p->uri))
        return false;
    memcpy(p->uri, uri, (size_t)n + 1);
    return true;
}

static void fail_code(struct probe *p, int code)
{
    fail(p, code == WEIR_E_PROTO ? "the TLS session broke" : weir_strerror(code));
}

static void start_connect(struct probe *p, uint64_t now_ns)
{
    struct addr a;
    char export[NBD_STRING_MAX + 1], words[160];
    const char *expected = "";
    if (addr_parse_nbd_uri(p->uri, &a, export, sizeof(export), &expected) < 0) {
        snprintf(words, sizeof(words), "not an NBD URI that the server can use: expected %s",
                 expected);
        fail(p, words);
        return;
    }
    p->begun_ns = now_ns;
    p->state = PROBE_CONNECT;
    talk_init(&p->talk, export, p->tls);
    int fd = addr_connect(&a);
    if (fd < 0)
        fail_code(p, fd);
    else
        p->wire.fd = fd;
}

static void step_resolve(struct probe *p, uint64_t now_ns)
{
    const struct addrinfo *found = NULL;
    if (!lookup_done(p->lookup)) {
        p->next_ns = now_ns + RESOLVE_STEP_NS;
        return;
    }
    int rc = lookup_result(p->lookup, &found);
    if (rc == 0 && put_address(p, found)) {
        lookup_drop(p->lookup);
        p->lookup = NULL;
        start_connect(p, now_ns);
        return;
    }
    char words[160];
    snprintf(words, sizeof(words),
             "the server cannot look up %.64s (%s); only gateways may know this name", p->host,
             rc != 0 ? gai_strerror(rc) : "no usable address");
    fail(p, words);
}

/* ---- what is said ---- */

/* The result stands; the target need not be left in the middle of a word. */
static void say_goodbye(struct probe *p, uint64_t now_ns)
{
    talk_bye(&p->talk);
    p->has_result = true;
    p->state = PROBE_GOODBYE;
    p->deadline_ns = now_ns + PROBE_GOODBYE_NS;
}

/* The export is open and its sizes are known: read a little somewhere. */
static void start_read(struct probe *p, uint64_t now_ns)
{
    struct probe_result *r = &p->result;
    const struct talk *t = &p->talk;
    r->connect_us = elapsed_us(p, now_ns);
    r->reachable = true;
    r->size = t->size;
    r->block_min = t->block_min;
    r->block_preferred = t->block_preferred;
    r->block_max = t->block_max;
    uint64_t align = r->block_min > READ_SIZE ? r->block_min : READ_SIZE, length = align;
    if (align > BLOCK_MIN_MAX) {
        fail(p, "the target's minimum block size is beyond the protocol's 64 KiB");
        return;
    }
    if (r->size < length) /* a small one: what whole blocks it has */
        length = r->block_min > 1 ? r->size / r->block_min * r->block_min : r->size;
    if (length == 0) {
        say_goodbye(p, now_ns);
        return;
    }
    p->begun_ns = now_ns;
    talk_read(&p->talk, rng_below(&p->rng, (r->size - length) / align + 1) * align,
              (uint32_t)length);
}

/* After something was taken: what follows from it. */
static void look(struct probe *p, uint64_t now_ns)
{
    switch (p->talk.state) {
    case TALK_SECURE:
        if (p->wire.tls == NULL)
            p->state = PROBE_SECURE;
        break;
    case TALK_OPEN:
        start_read(p, now_ns);
        break;
    case TALK_DONE:
        p->result.read_us = elapsed_us(p, now_ns);
        say_goodbye(p, now_ns);
        break;
    case TALK_FAILED:
        if (p->has_result)
            end(p); /* no memory for the good-bye */
        else
            fail(p, p->talk.words);
        break;
    case TALK_GREETING:
    case TALK_STARTTLS:
    case TALK_GO:
    case TALK_EXPORT:
    case TALK_READ:
    case TALK_BYE:
        break;
    }
}

/* The connection is over. */
static void ended(struct probe *p, int code)
{
    if (p->state == PROBE_GOODBYE)
        end(p);
    else if (code < 0)
        fail_code(p, code);
    else
        fail(p, p->talk.state == TALK_READ ? "the target closed the connection during the read"
                                           : "the target closed the connection");
}

static void send_out(struct probe *p)
{
    struct text *out = &p->talk.out;
    while (p->sent < out->len) {
        ssize_t n = wire_send(&p->wire, out->data + p->sent, out->len - p->sent);
        if (n == -EAGAIN)
            return;
        if (n < 0) {
            ended(p, (int)n);
            return;
        }
        p->sent += (size_t)n;
    }
    p->sent = 0;
    text_clear(out);
}

static void take_in(struct probe *p, uint64_t now_ns)
{
    uint8_t bytes[16 * 1024];
    size_t taken = 0;
    while ((p->state == PROBE_TALK || p->state == PROBE_GOODBYE) && taken < STEP_BYTES) {
        ssize_t n = wire_read(&p->wire, bytes, sizeof(bytes));
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            ended(p, (int)n);
            return;
        }
        taken += (size_t)n;
        talk_take(&p->talk, bytes, (size_t)n);
        look(p, now_ns);
        if (p->state == PROBE_TALK || p->state == PROBE_GOODBYE)
            send_out(p);
    }
    p->more = p->state != PROBE_ENDED;
}

static void step_secure(struct probe *p)
{
    struct wire *w = &p->wire;
    if (w->tls == NULL && (tls_session_new(p->keys.creds, w->fd, &w->tls) < 0 ||
                           tls_session_expect(w->tls, p->keys.verify_name) < 0)) {
        fail(p, "no memory for TLS, or tls-verify-name is too long");
        return;
    }
    int r = tls_session_handshake(w->tls);
    if (r == 0)
        return;
    if (r < 0) {
        char words[160];
        snprintf(words, sizeof(words), "TLS: %.150s", tls_session_words(w->tls));
        fail(p, words);
        return;
    }
    talk_secured(&p->talk);
    p->state = PROBE_TALK;
    p->more = true; /* what TLS has read ahead no descriptor tells of */
}

static void step_connect(struct probe *p, short revents)
{
    int r = (revents & (POLLOUT | POLLERR | POLLHUP)) != 0 ? addr_connect_result(p->wire.fd) : 1;
    if (r < 0)
        fail_code(p, r);
    else if (r == 0)
        p->state = PROBE_TALK;
}

static void give_up(struct probe *p)
{
    switch (p->state) {
    case PROBE_START:
    case PROBE_CONNECT:
        fail(p, "no connection within 5 s");
        break;
    case PROBE_RESOLVE:
        fail(p, "its name could not be looked up within 5 s");
        break;
    case PROBE_TALK:
    case PROBE_SECURE:
        fail(p, p->talk.state == TALK_READ
                    ? "did not answer a read within 5 s"
                    : "the connection was accepted, but the handshake did not end within 5 s");
        break;
    case PROBE_GOODBYE:
        end(p);
        break;
    case PROBE_ENDED:
        break;
    }
}

void probe_step(struct probe *p, short revents, uint64_t now_ns)
{
    p->more = false;
    switch (p->state) {
    case PROBE_START:
        if (!find_host(p))
            break;
        if (p->host_len > 0 && !is_number(p->host))
            start_resolve(p, now_ns);
        else
            start_connect(p, now_ns);
        break;
    case PROBE_RESOLVE:
        step_resolve(p, now_ns);
        break;
    case PROBE_CONNECT:
        step_connect(p, revents);
        break;
    case PROBE_SECURE:
        step_secure(p);
        break;
    case PROBE_TALK:
    case PROBE_GOODBYE:
        send_out(p);
        if (p->state == PROBE_TALK || p->state == PROBE_GOODBYE)
            take_in(p, now_ns);
        break;
    case PROBE_ENDED:
        break;
    }
    if (now_ns >= p->deadline_ns)
        give_up(p);
}

int probe_fd(const struct probe *p, short *ret_events)
{
    bool handshake = p->state == PROBE_SECURE && p->wire.tls != NULL;
    *ret_events = p->state == PROBE_CONNECT ? POLLOUT : POLLIN;
    if (handshake && tls_session_wants_write(p->wire.tls))
        *ret_events = POLLOUT;
    else if (!handshake && p->talk.out.len > p->sent)
        *ret_events |= POLLOUT;
    return p->wire.fd;
}

uint64_t probe_next_ns(const struct probe *p)
{
    if (p->more)
        return 0;
    if (p->state == PROBE_START || p->state == PROBE_RESOLVE)
        return p->next_ns;
    return p->deadline_ns;
}

bool probe_take_result(struct probe *p, struct probe_result *ret)
{
    if (!p->has_result || p->result_taken)
        return false;
    *ret = p->result;
    p->result_taken = true;
    return true;
}

bool probe_ended(const struct probe *p)
{
    return p->state == PROBE_ENDED;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A probe.
 *
 * Problem: the target may be slow, dead, silent after accepting, or not a target at all, and its
 * name may take long to look up; none of that may hold up the thread that runs all probes.
 * Model: libnbd's asynchronous handle driven by the caller's poll. Names are looked up aside
 * (lookup.c) and put into the URI as a number before libnbd sees it, since libnbd would look them
 * up in place.
 *
 *      START -> RESOLVE -> CONNECT -> READ -> GOODBYE -> ENDED
 *         \        \          \         \_____ error, deadline ____/
 *          \_______ \__________\__ error, deadline ______________/
 *
 * Invariants
 *  1. The result is set exactly once, before GOODBYE or ENDED, at PROBE_DEADLINE_NS at the latest.
 *  2. Only NBD_CMD_READ and NBD_CMD_DISC are ever sent. */
#include "server/resource/probe.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <libnbd.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/assert.h"
#include "base/clock.h"
#include "server/resource/lookup.h"

#define READ_SIZE 4096u
/* The protocol bounds a minimum block size to 64 KiB. */
#define BLOCK_MIN_MAX 65536u
/* A look-up has no descriptor: look again so often. */
#define RESOLVE_STEP_NS (20 * NS_PER_MS)
#define URI_MAX         512u

enum probe_state {
    PROBE_START,
    PROBE_RESOLVE,
    PROBE_CONNECT,
    PROBE_READ,
    PROBE_GOODBYE,
    PROBE_ENDED
};

struct probe {
    enum probe_state state;
    char uri[URI_MAX];
    size_t host_at, host_len; /* in uri, without brackets; host_len 0: a Unix socket */
    struct nbd_handle *nbd;
    struct rng rng;
    uint64_t deadline_ns, begun_ns, next_ns;
    int64_t cookie;
    void *buffer;
    struct probe_result result;
    bool has_result, result_taken;
    struct lookup *lookup;
    char host[256];
};

struct probe *probe_new(const char *uri, uint64_t now_ns, uint64_t seed)
{
    struct probe *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    snprintf(p->uri, sizeof(p->uri), "%s", uri);
    rng_seed(&p->rng, seed);
    p->deadline_ns = now_ns + PROBE_DEADLINE_NS;
    p->next_ns = now_ns;
    return p;
}

static void let_go(struct probe *p)
{
    if (p->nbd != NULL)
        nbd_close(p->nbd);
    p->nbd = NULL;
    free(p->buffer);
    p->buffer = NULL;
    lookup_drop(p->lookup);
    p->lookup = NULL;
}

void probe_free(struct probe *p)
{
    if (p == NULL)
        return;
    let_go(p);
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

static void fail_nbd(struct probe *p)
{
    const char *words = nbd_get_error();
    fail(p, words != NULL ? words : "the connection ended");
}

static uint64_t elapsed_us(const struct probe *p, uint64_t now_ns)
{
    uint64_t us = now_ns > p->begun_ns ? (now_ns - p->begun_ns) / NS_PER_US : 0;
    return us > 0 ? us : 1;
}

/* Find the host in "nbd://[user@]host[:port][/export]". False: not a URI that can be probed (failed
 * with words). */
static bool find_host(struct probe *p)
{
    if (strncmp(p->uri, "nbd+unix://", 11) == 0)
        return true;
    if (strncmp(p->uri, "nbds", 4) == 0) {
        fail(p, "the target is reached by TLS, for which the server has no keys: see the gateways' "
                "view");
        return false;
    }
    if (strncmp(p->uri, "nbd://", 6) != 0) {
        fail(p, "not an NBD URI that the server can use (nbd:// or nbd+unix://)");
        return false;
    }
    size_t at = 6, end_at = at + strcspn(p->uri + at, "/?#");
    char *user = memchr(p->uri + at, '@', end_at - at);
    if (user != NULL)
        at = (size_t)(user + 1 - p->uri);
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

static bool is_number(const char *host)
{
    struct in6_addr room;
    return inet_pton(AF_INET, host, &room) == 1 || inet_pton(AF_INET6, host, &room) == 1;
}

static void start_connect(struct probe *p, uint64_t now_ns)
{
    p->begun_ns = now_ns;
    p->state = PROBE_CONNECT;
    p->nbd = nbd_create();
    if (p->nbd == NULL ||
        nbd_set_uri_allow_transports(p->nbd, LIBNBD_ALLOW_TRANSPORT_TCP |
                                                 LIBNBD_ALLOW_TRANSPORT_UNIX) != 0 ||
        nbd_set_uri_allow_tls(p->nbd, LIBNBD_TLS_DISABLE) != 0 ||
        nbd_set_uri_allow_local_file(p->nbd, false) != 0 ||
        nbd_aio_connect_uri(p->nbd, p->uri) != 0)
        fail_nbd(p);
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

static uint64_t block_size(struct nbd_handle *nbd, int type)
{
    int64_t n = nbd_get_block_size(nbd, type);
    return n > 0 ? (uint64_t)n : 0;
}

static void say_goodbye(struct probe *p, uint64_t now_ns)
{
    p->has_result = true;
    p->state = PROBE_GOODBYE;
    p->deadline_ns = now_ns + PROBE_GOODBYE_NS;
    if (nbd_aio_disconnect(p->nbd, 0) != 0)
        end(p);
}

/* Connected: the sizes are known; read a little somewhere. */
static void start_read(struct probe *p, uint64_t now_ns)
{
    struct probe_result *r = &p->result;
    r->connect_us = elapsed_us(p, now_ns);
    int64_t size = nbd_get_size(p->nbd);
    if (size < 0) {
        fail_nbd(p);
        return;
    }
    r->reachable = true;
    r->size = (uint64_t)size;
    r->block_min = block_size(p->nbd, LIBNBD_SIZE_MINIMUM);
    r->block_preferred = block_size(p->nbd, LIBNBD_SIZE_PREFERRED);
    r->block_max = block_size(p->nbd, LIBNBD_SIZE_MAXIMUM);
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
    uint64_t offset = rng_below(&p->rng, (r->size - length) / align + 1) * align;
    p->buffer = calloc(1, length);
    p->begun_ns = now_ns;
    p->state = PROBE_READ;
    if (p->buffer == NULL) {
        fail(p, "no memory to read into");
        return;
    }
    p->cookie = nbd_aio_pread(p->nbd, p->buffer, length, offset, NBD_NULL_COMPLETION, 0);
    if (p->cookie < 0)
        fail_nbd(p);
}

static void look_connect(struct probe *p, uint64_t now_ns)
{
    if (nbd_aio_is_ready(p->nbd) == 1)
        start_read(p, now_ns);
    else if (nbd_aio_is_dead(p->nbd) == 1 || nbd_aio_is_closed(p->nbd) == 1)
        fail_nbd(p);
}

static void look_read(struct probe *p, uint64_t now_ns)
{
    int rc = nbd_aio_command_completed(p->nbd, (uint64_t)p->cookie);
    if (rc == 1) {
        p->result.read_us = elapsed_us(p, now_ns);
        say_goodbye(p, now_ns);
    } else if (rc < 0) {
        char words[160];
        const char *why = nbd_get_error();
        snprintf(words, sizeof(words), "the read failed: %.120s",
                 why != NULL ? why : "no reason given");
        fail(p, words);
    } else if (nbd_aio_is_dead(p->nbd) == 1 || nbd_aio_is_closed(p->nbd) == 1) {
        fail(p, "the target closed the connection during the read");
    }
}

/* Let libnbd do what its descriptor is ready for. False when it said that something broke. */
static bool notify(struct probe *p, short revents)
{
    unsigned direction = nbd_aio_get_direction(p->nbd);
    if ((revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
        (direction & LIBNBD_AIO_DIRECTION_READ) != 0)
        return nbd_aio_notify_read(p->nbd) == 0;
    if ((revents & (POLLOUT | POLLHUP | POLLERR)) != 0 &&
        (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0)
        return nbd_aio_notify_write(p->nbd) == 0;
    return true;
}

static void step_nbd(struct probe *p, short revents, uint64_t now_ns)
{
    bool sound = revents == 0 || notify(p, revents);
    if (p->state == PROBE_GOODBYE) {
        if (!sound || nbd_aio_is_closed(p->nbd) == 1 || nbd_aio_is_dead(p->nbd) == 1)
            end(p);
    } else if (!sound) {
        fail_nbd(p);
    } else if (p->state == PROBE_CONNECT) {
        look_connect(p, now_ns);
    } else {
        look_read(p, now_ns);
    }
}

/* Whether there is somebody at the other end of the socket. */
static bool is_joined(const struct probe *p)
{
    struct sockaddr_storage peer;
    socklen_t len = sizeof(peer);
    int fd = p->nbd == NULL ? -1 : nbd_aio_get_fd(p->nbd);
    return fd >= 0 && getpeername(fd, (struct sockaddr *)&peer, &len) == 0;
}

static void give_up(struct probe *p)
{
    switch (p->state) {
    case PROBE_START:
    case PROBE_CONNECT:
        fail(p, is_joined(p)
                    ? "the connection was accepted, but the handshake did not end within 5 s"
                    : "no connection within 5 s");
        break;
    case PROBE_RESOLVE:
        fail(p, "its name could not be looked up within 5 s");
        break;
    case PROBE_READ:
        fail(p, "did not answer a read within 5 s");
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
    case PROBE_READ:
    case PROBE_GOODBYE:
        step_nbd(p, revents, now_ns);
        break;
    case PROBE_ENDED:
        break;
    }
    /* libnbd goes as far as it can without waiting. Beside a fast target that may be all the way,
     * with nothing left that the descriptor could wake us for. */
    if (p->state == PROBE_CONNECT)
        look_connect(p, now_ns);
    if (p->state == PROBE_READ)
        look_read(p, now_ns);
    if (now_ns >= p->deadline_ns)
        give_up(p);
}

int probe_fd(const struct probe *p, short *ret_events)
{
    *ret_events = 0;
    if (p->nbd == NULL)
        return -1;
    unsigned direction = nbd_aio_get_direction(p->nbd);
    if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0)
        *ret_events |= POLLIN;
    if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0)
        *ret_events |= POLLOUT;
    return nbd_aio_get_fd(p->nbd);
}

uint64_t probe_next_ns(const struct probe *p)
{
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

/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: fio's nbd engine tops out at 55,000 to 80,000 I/Os a second, far below what a relay
 * passes; a client that is the bottleneck makes all proxies look alike.
 *
 * Model: a closed loop over raw NBD. Each connection keeps `depth` requests of one size in flight
 * at random aligned places. What came is walked in one go, each answer is replaced by a new
 * request, and all new requests leave in one sendmsg. One connection with nothing left to send
 * waits in recv itself; otherwise epoll waits. Latency runs from the time the batch was handed to
 * the kernel to the time the last byte of its answer was read.
 *
 * Invariants:
 *  1. At most `depth` requests of a connection are in flight; cookie - 1 is the slot.
 *  2. A slot's header bytes stay put until its answer came, so that sendmsg may point at them.
 *  3. Counting begins after the warm-up and ends at the deadline; what is in flight then is awaited
 *     and not counted, and each connection ends with DISC.
 *
 * Whatever is not as it should be (an error reply, an unknown cookie, silence for 20 s) ends the
 * run with status 1. Simple replies only: nothing else is asked for. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"
#include "proto/nbd/handshake.h"
#include "proto/nbd/option.h"
#include "proto/nbd/reply.h"
#include "proto/nbd/request.h"
#include "qos/hist.h"

#define LOAD_DEPTH_MAX 256u
#define LOAD_CONNECTIONS_MAX 256u
#define LOAD_SIZE_MAX (32u * 1024u * 1024u)
#define LOAD_INPUT (1024u * 1024u)
#define LOAD_IOV 512u
#define LOAD_SILENCE_S 20

struct load_slot {
    uint64_t sent_ns;
    bool busy, write;
    uint8_t header[NBD_REQUEST_SIZE];
};

struct load_conn {
    int fd;
    bool wants_out;           /* epoll is asked for EPOLLOUT too */
    uint32_t inflight;
    uint32_t answering;       /* cookie of the reply that is passing; 0: a header comes next */
    uint64_t skip;            /* its bytes of data still to come */
    size_t head_len;          /* of a reply header that came in parts */
    uint8_t head[NBD_SIMPLE_REPLY_SIZE];
    size_t out_first, out_count; /* pieces not yet sent, of iov[] */
    struct iovec iov[2 * LOAD_DEPTH_MAX];
    struct load_slot slot[LOAD_DEPTH_MAX];
};

struct load {
    struct addr addr;
    uint32_t depth, connections, read_percent;
    uint64_t size, blocks;
    double seconds, warmup;
    struct rng rng;
    struct load_conn *conn;
    uint8_t *input, *payload;
    int epoll_fd;
    uint64_t from_ns, until_ns;
    bool counting, over;
    uint64_t all;
    struct hist latency;
    struct rusage usage_from, usage_until;
};

static _Noreturn void load_die(const char *what, const char *why)
{
    fprintf(stderr, "nbdload: %s: %s\n", what, why);
    exit(1);
}

/* --- negotiation, blocking --- */

static void load_put(int fd, const void *bytes, size_t n)
{
    if (send(fd, bytes, n, MSG_NOSIGNAL) != (ssize_t)n)
        load_die("negotiation", "the server does not take it");
}

static void load_get(int fd, void *bytes, size_t n)
{
    if (n == 0)
        return; /* recv would wait for what follows */
    ssize_t got = recv(fd, bytes, n, MSG_WAITALL);
    if (got != (ssize_t)n)
        load_die("negotiation", got < 0 ? weir_strerror(-errno) : "the server closed");
}

/* GO on the default export. Returns its size. */
static uint64_t load_negotiate(int fd)
{
    uint8_t bytes[NBD_OPTION_REPLY_SIZE];
    uint16_t flags;
    uint64_t size = 0;
    struct text out;
    load_get(fd, bytes, NBD_GREETING_SIZE);
    if (nbd_greeting_parse(bytes, NBD_GREETING_SIZE, &flags) <= 0)
        load_die("negotiation", "not an NBD server");
    text_init(&out, 4096);
    uint8_t mine[NBD_CLIENT_FLAGS_SIZE];
    text_append(&out, mine,
                nbd_client_flags_build(mine, flags & NBD_HANDSHAKE_FLAGS_KNOWN));
    nbd_option_write_info(&out, NBD_OPT_GO, (struct nbd_bytes){.data = mine, .len = 0}, NULL, 0);
    load_put(fd, out.data, out.len);
    text_fini(&out);
    for (;;) {
        struct nbd_option_reply r;
        struct nbd_rep_info info;
        uint8_t payload[4096];
        load_get(fd, bytes, sizeof(bytes));
        if (nbd_option_reply_parse(bytes, sizeof(bytes), &r) <= 0 || r.length > sizeof(payload))
            load_die("negotiation", "a bad option reply");
        load_get(fd, payload, r.length);
        if (r.type == NBD_REP_ACK)
            break;
        if (nbd_rep_is_error(r.type))
            load_die("negotiation", "the server refused the export");
        if (r.type == NBD_REP_INFO && nbd_rep_info_parse(payload, r.length, &info) == 0 &&
            info.type == NBD_INFO_EXPORT)
            size = info.size;
    }
    return size;
}

static void load_connect(struct load *l, struct load_conn *c)
{
    const struct timeval silence = {.tv_sec = LOAD_SILENCE_S};
    c->fd = addr_connect(&l->addr);
    if (c->fd < 0)
        load_die(l->addr.text, weir_strerror(c->fd));
    struct pollfd wait = {.fd = c->fd, .events = POLLOUT};
    if (poll(&wait, 1, LOAD_SILENCE_S * 1000) <= 0 || addr_connect_result(c->fd) < 0)
        load_die(l->addr.text, "cannot be reached");
    if (fcntl(c->fd, F_SETFL, 0) < 0 ||
        setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof(silence)) < 0)
        load_die("socket", weir_strerror(-errno));
    uint64_t size = load_negotiate(c->fd);
    if (size < l->size)
        load_die("export", "smaller than one request");
    l->blocks = size / l->size;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
        load_die("epoll", weir_strerror(-errno));
}

/* --- requests --- */

static void load_piece(struct load_conn *c, void *base, size_t n)
{
    weir_assert(c->out_first + c->out_count < 2 * LOAD_DEPTH_MAX);
    c->iov[c->out_first + c->out_count++] = (struct iovec){.iov_base = base, .iov_len = n};
}

static void load_ask(struct load *l, struct load_conn *c, uint32_t i, uint64_t now_ns)
{
    struct load_slot *s = &c->slot[i];
    weir_assert(!s->busy);
    s->busy = true;
    s->sent_ns = now_ns;
    s->write = rng_u64(&l->rng) % 100 >= l->read_percent;
    const struct nbd_request q = {
        .type = s->write ? NBD_CMD_WRITE : NBD_CMD_READ,
        .cookie = i + 1,
        .offset = rng_u64(&l->rng) % l->blocks * l->size,
        .length = l->size,
    };
    c->inflight++;
    load_piece(c, s->header, nbd_request_build(s->header, &q, false));
    if (s->write)
        load_piece(c, l->payload, l->size);
}

/* Send what waits, without waiting. */
static void load_send(struct load *l, struct load_conn *c)
{
    while (c->out_count > 0) {
        struct msghdr msg = {
            .msg_iov = c->iov + c->out_first,
            .msg_iovlen = c->out_count < LOAD_IOV ? c->out_count : LOAD_IOV,
        };
        ssize_t n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno != EINTR)
            load_die("send", weir_strerror(-errno));
        for (size_t left = n > 0 ? (size_t)n : 0; left > 0;) {
            struct iovec *v = &c->iov[c->out_first];
            size_t part = left < v->iov_len ? left : v->iov_len;
            v->iov_base = (uint8_t *)v->iov_base + part;
            v->iov_len -= part;
            left -= part;
            if (v->iov_len == 0) {
                c->out_first++;
                c->out_count--;
            }
        }
    }
    /* The pieces of what is in flight always fit when they begin at the front. */
    memmove(c->iov, c->iov + c->out_first, c->out_count * sizeof(c->iov[0]));
    c->out_first = 0;
    bool wants = c->out_count > 0;
    if (wants == c->wants_out)
        return;
    c->wants_out = wants;
    struct epoll_event event = {.events = wants ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, c->fd, &event) < 0)
        load_die("epoll", weir_strerror(-errno));
}

/* --- answers --- */

/* A reply header is here. */
static void load_header(struct load *l, struct load_conn *c, const uint8_t *header)
{
    struct nbd_reply r;
    if (nbd_reply_parse(header, NBD_SIMPLE_REPLY_SIZE, NBD_MODE_SIMPLE, &r) <= 0)
        load_die("reply", "not a simple reply");
    if (r.error != 0)
        load_die("reply", "the server reports an error");
    if (r.cookie == 0 || r.cookie > l->depth || !c->slot[r.cookie - 1].busy)
        load_die("reply", "nobody asked for it");
    c->answering = (uint32_t)r.cookie;
    c->skip = c->slot[r.cookie - 1].write ? 0 : l->size;
}

/* The last byte of a reply is here. */
static void load_answered(struct load *l, struct load_conn *c, uint64_t now_ns)
{
    struct load_slot *s = &c->slot[c->answering - 1];
    s->busy = false;
    c->inflight--;
    l->all++;
    if (l->counting)
        hist_record(&l->latency, now_ns - s->sent_ns);
    if (!l->over)
        load_ask(l, c, c->answering - 1, now_ns);
    c->answering = 0;
}

static void load_walk(struct load *l, struct load_conn *c, const uint8_t *p, size_t n,
                      uint64_t now_ns)
{
    while (n > 0) {
        size_t part;
        if (c->answering) {
            part = n < c->skip ? n : (size_t)c->skip;
            c->skip -= part;
        } else if (c->head_len == 0 && n >= NBD_SIMPLE_REPLY_SIZE) {
            part = NBD_SIMPLE_REPLY_SIZE;
            load_header(l, c, p);
        } else {
            part = NBD_SIMPLE_REPLY_SIZE - c->head_len;
            part = n < part ? n : part;
            memcpy(c->head + c->head_len, p, part);
            c->head_len += part;
            if (c->head_len == NBD_SIMPLE_REPLY_SIZE) {
                c->head_len = 0;
                load_header(l, c, c->head);
            }
        }
        p += part;
        n -= part;
        if (c->answering && c->skip == 0)
            load_answered(l, c, now_ns);
    }
}

static void load_clock(struct load *l, uint64_t now_ns)
{
    if (!l->counting && !l->over && now_ns >= l->from_ns) {
        /* However late it begins, it lasts as long as was asked for. */
        l->counting = true;
        l->until_ns += now_ns - l->from_ns;
        l->from_ns = now_ns;
        getrusage(RUSAGE_SELF, &l->usage_from);
    }
    if (!l->over && now_ns >= l->until_ns) {
        l->over = true;
        l->counting = false;
        l->until_ns = now_ns;
        getrusage(RUSAGE_SELF, &l->usage_until);
    }
}

/* @flags: MSG_DONTWAIT, or 0 to wait for the first byte. */
static void load_receive(struct load *l, struct load_conn *c, int flags)
{
    ssize_t n = recv(c->fd, l->input, LOAD_INPUT, flags);
    if (n < 0 && (errno == EINTR || (errno == EAGAIN && flags)))
        return;
    if (n <= 0)
        load_die("receive", n == 0 ? "the connection was closed" : weir_strerror(-errno));
    uint64_t now = clock_mono_ns();
    load_clock(l, now);
    load_walk(l, c, l->input, (size_t)n, now);
    load_send(l, c);
}

/* --- the run --- */

static bool load_idle(const struct load *l)
{
    for (uint32_t i = 0; i < l->connections; i++)
        if (l->conn[i].inflight > 0)
            return false;
    return true;
}

static void load_run(struct load *l)
{
    struct epoll_event events[64];
    uint64_t now = clock_mono_ns();
    l->from_ns = now + (uint64_t)(l->warmup * 1e9);
    l->until_ns = l->from_ns + (uint64_t)(l->seconds * 1e9);
    for (uint32_t i = 0; i < l->connections; i++) {
        for (uint32_t d = 0; d < l->depth; d++)
            load_ask(l, &l->conn[i], d, now);
        load_send(l, &l->conn[i]);
    }
    while (!l->over || !load_idle(l)) {
        if (l->connections == 1 && l->conn[0].out_count == 0) {
            load_receive(l, &l->conn[0], 0);
            continue;
        }
        int n = epoll_wait(l->epoll_fd, events, 64, LOAD_SILENCE_S * 1000);
        if (n == 0)
            load_die("receive", "silence");
        for (int i = 0; i < n; i++) {
            struct load_conn *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                load_send(l, c);
            if (events[i].events & ~(uint32_t)EPOLLOUT)
                load_receive(l, c, MSG_DONTWAIT);
        }
    }
    const struct nbd_request disc = {.type = NBD_CMD_DISC};
    uint8_t header[NBD_REQUEST_SIZE];
    nbd_request_build(header, &disc, false);
    for (uint32_t i = 0; i < l->connections; i++) {
        load_put(l->conn[i].fd, header, sizeof(header));
        close(l->conn[i].fd);
    }
}

static double load_cpu(const struct load *l)
{
    const struct rusage *a = &l->usage_from, *b = &l->usage_until;
    return (double)(b->ru_utime.tv_sec - a->ru_utime.tv_sec + b->ru_stime.tv_sec -
                    a->ru_stime.tv_sec) +
           (double)(b->ru_utime.tv_usec - a->ru_utime.tv_usec + b->ru_stime.tv_usec -
                    a->ru_stime.tv_usec) /
               1e6;
}

static void load_print(const struct load *l)
{
    double seconds = (double)(l->until_ns - l->from_ns) / 1e9;
    double iops = (double)l->latency.count / seconds;
    printf("{\"iops\": %.1f, \"mib_per_s\": %.2f, \"mean_us\": %.3f, \"p50_us\": %.3f, "
           "\"p99_us\": %.3f, \"max_us\": %.3f, \"seconds\": %.4f, \"ios\": %llu, "
           "\"all_ios\": %llu, \"client_cpu_s\": %.6f}\n",
           iops, iops * (double)l->size / 1048576,
           l->latency.count ? (double)l->latency.sum_ns / (double)l->latency.count / 1e3 : 0.0,
           (double)hist_quantile(&l->latency, 0.5) / 1e3,
           (double)hist_quantile(&l->latency, 0.99) / 1e3, (double)l->latency.max_ns / 1e3,
           seconds, (unsigned long long)l->latency.count, (unsigned long long)l->all, load_cpu(l));
}

static void load_usage(void)
{
    fputs("usage: nbdload [-d DEPTH] [-b BYTES] [-r READ_PERCENT] [-c CONNECTIONS] [-t SECONDS]\n"
          "               [-w WARM_UP_SECONDS] HOST:PORT\n"
          "Random aligned requests in a closed loop; prints one line of JSON.\n",
          stderr);
    exit(2);
}

/* A whole or decimal number from @from to @to. */
static double load_number(const char *text, double from, double to)
{
    char *end;
    double v = strtod(text, &end);
    if (*end != '\0' || end == text || !(v >= from && v <= to)) {
        fprintf(stderr, "nbdload: '%s': expected a number from %.0f to %.0f\n", text, from, to);
        exit(2);
    }
    return v;
}

int main(int argc, char **argv)
{
    static struct load load;
    struct load *l = &load;
    const char *expected;
    l->depth = l->connections = 1;
    l->size = 4096;
    l->read_percent = 100;
    l->seconds = 1;
    l->warmup = 0.1;
    for (int o; (o = getopt(argc, argv, "d:b:r:c:t:w:")) != -1;) {
        switch (o) {
        case 'd':
            l->depth = (uint32_t)load_number(optarg, 1, LOAD_DEPTH_MAX);
            break;
        case 'b':
            l->size = (uint64_t)load_number(optarg, 1, LOAD_SIZE_MAX);
            break;
        case 'r':
            l->read_percent = (uint32_t)load_number(optarg, 0, 100);
            break;
        case 'c':
            l->connections = (uint32_t)load_number(optarg, 1, LOAD_CONNECTIONS_MAX);
            break;
        case 't':
            l->seconds = load_number(optarg, 0.01, 86400);
            break;
        case 'w':
            l->warmup = load_number(optarg, 0, 3600);
            break;
        default:
            load_usage();
        }
    }
    if (optind + 1 != argc)
        load_usage();
    if (addr_parse(argv[optind], 10809, &l->addr, &expected) < 0)
        load_die(argv[optind], expected);
    rng_seed(&l->rng, 1);
    l->conn = calloc(l->connections, sizeof(*l->conn));
    l->input = malloc(LOAD_INPUT);
    l->payload = malloc(l->size);
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!l->conn || !l->input || !l->payload || l->epoll_fd < 0)
        load_die("start", weir_strerror(-errno));
    memset(l->payload, 0xa5, l->size);
    for (uint32_t i = 0; i < l->connections; i++)
        load_connect(l, &l->conn[i]);
    load_run(l);
    load_print(l);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: to see what a proxy costs, the storage behind it must cost almost nothing. nbdkit
 * answers some 60,000 requests a second; a proxy worth measuring passes several times as many.
 *
 * Model: one volume in memory, one blocking thread per connection. A thread reads as much as there
 * is, walks all whole requests in it, and answers them with one sendmsg: headers from a table, data
 * straight from the volume. A write's payload that is not all here yet is read straight into the
 * volume. Connections share the volume without locks, as hosts share a disk.
 *
 * Invariants:
 *  1. Replies leave in the order of requests; none is kept back when the next read could wait.
 *  2. A request beyond the volume is answered with EINVAL; its payload is dropped.
 *  3. What breaks the protocol ends its connection only.
 *
 * A measuring tool for loopback, not a storage server: no TLS, no limit on connections. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/assert.h"
#include "base/err.h"
#include "base/text.h"
#include "proto/nbd/handshake.h"
#include "proto/nbd/option.h"
#include "proto/nbd/reply.h"
#include "proto/nbd/request.h"
#include "proto/nbd/wire.h"

#define RAM_INPUT (512u * 1024u)
#define RAM_REPLIES 500u     /* answered by one sendmsg; two pieces each, IOV_MAX is 1,024 */
#define RAM_OPTION_MAX 4096u /* payload of one option */
#define RAM_REQUEST_MAX (32u * 1024u * 1024u)
#define RAM_FLAGS                                                                              \
    (NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |       \
     NBD_FLAG_CAN_MULTI_CONN)

struct ram {
    uint8_t *data;
    uint64_t size;
    bool offer_structured;
};

/* A structured OFFSET_DATA chunk has 8 bytes of offset behind its header. */
#define RAM_HEAD (NBD_STRUCTURED_REPLY_SIZE + 8u)

struct ram_conn {
    const struct ram *ram;
    int fd;
    bool structured;
    size_t at, end; /* of input: walked to, filled to */
    unsigned replies, pieces;
    struct iovec iov[2 * RAM_REPLIES];
    uint8_t head[RAM_REPLIES][RAM_HEAD];
    uint8_t input[RAM_INPUT];
};

/* --- bytes --- */

/* Read more behind end. False: the peer has gone. */
static bool ram_fill(struct ram_conn *c)
{
    if (c->at > 0) {
        memmove(c->input, c->input + c->at, c->end - c->at);
        c->end -= c->at;
        c->at = 0;
    }
    ssize_t n;
    do
        n = recv(c->fd, c->input + c->end, RAM_INPUT - c->end, 0);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    c->end += (size_t)n;
    return true;
}

static bool ram_send(struct ram_conn *c)
{
    struct msghdr msg = {.msg_iov = c->iov, .msg_iovlen = c->pieces};
    while (msg.msg_iovlen > 0) {
        ssize_t n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        for (size_t left = (size_t)n; left > 0;) {
            size_t part = left < msg.msg_iov->iov_len ? left : msg.msg_iov->iov_len;
            msg.msg_iov->iov_base = (uint8_t *)msg.msg_iov->iov_base + part;
            msg.msg_iov->iov_len -= part;
            left -= part;
            if (msg.msg_iov->iov_len == 0) {
                msg.msg_iov++;
                msg.msg_iovlen--;
            }
        }
    }
    c->replies = c->pieces = 0;
    return true;
}

/* Move @n bytes of payload to @to, or nowhere (NULL). What follows it lands in the input. */
static bool ram_payload(struct ram_conn *c, uint8_t *to, size_t n)
{
    size_t here = c->end - c->at < n ? c->end - c->at : n;
    if (to)
        memcpy(to, c->input + c->at, here);
    c->at += here;
    n -= here;
    if (n > 0 && !ram_send(c))
        return false;
    for (size_t done = here; n > 0;) {
        weir_assert(c->at == c->end);
        c->at = c->end = 0;
        struct iovec iov[2] = {
            {.iov_base = to ? to + done : c->input, .iov_len = to || n < RAM_INPUT ? n : RAM_INPUT},
            {.iov_base = c->input, .iov_len = to ? RAM_INPUT : 0},
        };
        ssize_t got = readv(c->fd, iov, 2);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        size_t part = (size_t)got < n ? (size_t)got : n;
        c->end = (size_t)got - part;
        done += part;
        n -= part;
    }
    return true;
}

/* --- negotiation --- */

static bool ram_say(struct ram_conn *c, struct text *t)
{
    weir_assert(!t->failed);
    c->iov[0] = (struct iovec){.iov_base = t->data, .iov_len = t->len};
    c->pieces = t->len > 0;
    bool sent = ram_send(c);
    text_clear(t);
    return sent;
}

static void ram_answer_info(struct ram_conn *c, struct text *out, uint32_t type)
{
    const struct nbd_rep_info export = {
        .type = NBD_INFO_EXPORT, .size = c->ram->size, .flags = RAM_FLAGS};
    const struct nbd_rep_info blocks = {.type = NBD_INFO_BLOCK_SIZE,
                                        .block_min = 1,
                                        .block_preferred = 4096,
                                        .block_max = RAM_REQUEST_MAX};
    nbd_reply_write_info(out, type, &export);
    nbd_reply_write_info(out, type, &blocks);
    nbd_reply_write_final(out, type, NBD_REP_ACK, "");
}

/* Answer one option. 1: transmission begins, 0: go on, -1: over. */
static int ram_option(struct ram_conn *c, const struct nbd_option *o, bool no_zeroes,
                      struct text *out)
{
    const struct nbd_export_reply export = {.size = c->ram->size, .flags = RAM_FLAGS};
    uint8_t bytes[NBD_EXPORT_REPLY_ZEROES_SIZE];
    switch (o->type) {
    case NBD_OPT_EXPORT_NAME:
        text_append(out, bytes, nbd_export_reply_build(bytes, &export, no_zeroes));
        return 1;
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        ram_answer_info(c, out, o->type);
        return o->type == NBD_OPT_GO;
    case NBD_OPT_STRUCTURED_REPLY:
        c->structured = c->ram->offer_structured;
        nbd_reply_write_final(out, o->type, c->structured ? NBD_REP_ACK : NBD_REP_ERR_UNSUP, "");
        return 0;
    case NBD_OPT_ABORT:
        nbd_reply_write_final(out, o->type, NBD_REP_ACK, "");
        return -1;
    default:
        nbd_reply_write_final(out, o->type, NBD_REP_ERR_UNSUP, "");
        return 0;
    }
}

static bool ram_negotiate(struct ram_conn *c, struct text *out)
{
    uint8_t greeting[NBD_GREETING_SIZE];
    const uint16_t offered = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES;
    uint32_t flags;
    text_append(out, greeting, nbd_greeting_build(greeting, offered));
    if (!ram_say(c, out))
        return false;
    while (c->end < NBD_CLIENT_FLAGS_SIZE)
        if (!ram_fill(c))
            return false;
    int size = nbd_client_flags_parse(c->input, c->end, offered, &flags);
    if (size < 0)
        return false;
    c->at = (size_t)size;
    for (int next = 0; next == 0;) {
        struct nbd_option o;
        size = nbd_option_parse(c->input + c->at, c->end - c->at, &o);
        if (size < 0 || (size > 0 && o.length > RAM_OPTION_MAX))
            return false;
        if (size == 0 || c->end - c->at < (size_t)size + o.length) {
            if (!ram_fill(c))
                return false;
            continue;
        }
        c->at += (size_t)size + o.length;
        next = ram_option(c, &o, (flags & NBD_FLAG_NO_ZEROES) != 0, out);
        if (!ram_say(c, out) || next < 0)
            return false;
    }
    return true;
}

/* --- transmission --- */

static void ram_reply(struct ram_conn *c, const struct nbd_request *q, bool failed)
{
    bool data = q->type == NBD_CMD_READ && !failed;
    bool chunk = data && c->structured;
    uint8_t *head = c->head[c->replies++];
    struct nbd_reply r = {
        .form = chunk ? NBD_FORM_STRUCTURED : NBD_FORM_SIMPLE,
        .error = failed ? EINVAL : 0,
        .cookie = q->cookie,
    };
    if (q->type == NBD_CMD_READ && c->structured && failed) {
        /* A failed read in structured mode may not be simple: error number, empty message. */
        r = (struct nbd_reply){.form = NBD_FORM_STRUCTURED, .flags = NBD_REPLY_FLAG_DONE,
                               .type = NBD_REPLY_TYPE_ERROR, .cookie = q->cookie, .length = 6};
    } else if (chunk) {
        r.flags = NBD_REPLY_FLAG_DONE;
        r.type = NBD_REPLY_TYPE_OFFSET_DATA;
        r.length = q->length + 8;
    }
    size_t size = nbd_reply_build(head, &r);
    if (chunk) {
        wire_put64(head + size, q->offset);
        size += 8;
    } else if (r.form == NBD_FORM_STRUCTURED) {
        wire_put32(head + size, EINVAL);
        wire_put16(head + size + 4, 0);
        size += 6;
    }
    c->iov[c->pieces++] = (struct iovec){.iov_base = head, .iov_len = size};
    if (data)
        c->iov[c->pieces++] =
            (struct iovec){.iov_base = c->ram->data + q->offset, .iov_len = q->length};
}

/* Do one request, the header of which was walked. */
static bool ram_request(struct ram_conn *c, const struct nbd_request *q)
{
    const struct ram *ram = c->ram;
    bool moves = q->type == NBD_CMD_READ || q->type == NBD_CMD_WRITE;
    bool known = moves || q->type == NBD_CMD_FLUSH || q->type == NBD_CMD_TRIM;
    bool outside = q->offset > ram->size || q->length > ram->size - q->offset;
    bool failed = !known || outside || (moves && (q->length == 0 || q->length > RAM_REQUEST_MAX));
    size_t payload = (size_t)nbd_request_payload(q, false);
    if (payload > 0 && !ram_payload(c, failed ? NULL : ram->data + q->offset, payload))
        return false;
    ram_reply(c, q, failed);
    return c->replies < RAM_REPLIES || ram_send(c);
}

static void ram_transmit(struct ram_conn *c)
{
    for (;;) {
        struct nbd_request q;
        int size = nbd_request_parse(c->input + c->at, c->end - c->at, false, &q);
        if (size < 0 || (size > 0 && q.type == NBD_CMD_DISC)) {
            (void)ram_send(c);
            return;
        }
        if (size > 0) {
            c->at += (size_t)size;
            if (!ram_request(c, &q))
                return;
        } else if (!ram_send(c) || !ram_fill(c)) {
            return;
        }
    }
}

static void *ram_conn_run(void *arg)
{
    struct ram_conn *c = arg;
    struct text out;
    text_init(&out, 64 * 1024);
    if (ram_negotiate(c, &out))
        ram_transmit(c);
    text_fini(&out);
    close(c->fd);
    free(c);
    return NULL;
}

/* --- the program --- */

static int ram_die(const char *what, int err)
{
    fprintf(stderr, "ramnbd: %s: %s\n", what, weir_strerror(err));
    return 1;
}

static int ram_serve(const struct ram *ram, int listener)
{
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0)
            return ram_die("accept", -errno);
        const int one = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        struct ram_conn *c = calloc(1, sizeof(*c));
        pthread_t thread;
        if (!c)
            return ram_die("connection", -ENOMEM);
        c->ram = ram;
        c->fd = fd;
        int err = pthread_create(&thread, &detached, ram_conn_run, c);
        if (err != 0)
            return ram_die("thread", -err);
    }
}

int main(int argc, char **argv)
{
    struct ram ram = {.size = 64u << 20};
    struct addr addr;
    const char *listen_on = "127.0.0.1:0", *expected;
    char text[ADDR_TEXT_SIZE];
    for (int o; (o = getopt(argc, argv, "l:m:s")) != -1;) {
        if (o == 'l') {
            listen_on = optarg;
        } else if (o == 'm') {
            ram.size = strtoull(optarg, NULL, 10) << 20;
        } else if (o == 's') {
            ram.offer_structured = true;
        } else {
            fputs("usage: ramnbd [-l HOST:PORT] [-m MIB] [-s (offer structured replies)]\n",
                  stderr);
            return 2;
        }
    }
    if (ram.size == 0 || ram.size > UINT64_C(1) << 40)
        return ram_die("size", WEIR_E_INVALID);
    if (addr_parse(listen_on, 0, &addr, &expected) < 0)
        return ram_die(expected, WEIR_E_INVALID);
    ram.data = mmap(NULL, ram.size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (ram.data == MAP_FAILED)
        return ram_die("memory", -errno);
    /* Pages of zeros that were only read would all be one page, and stay in the cache. */
    memset(ram.data, 0x5a, ram.size);
    int fd = addr_listen(&addr, 256, 0600);
    if (fd < 0)
        return ram_die(listen_on, fd);
    /* addr_listen's socket does not wait; this program has nothing else to do. */
    if (fcntl(fd, F_SETFL, 0) < 0 || addr_local_text(fd, text, sizeof(text)) < 0)
        return ram_die("socket", -errno);
    printf("ramnbd: listening on %s\n", text);
    fflush(stdout);
    return ram_serve(&ram, fd);
}

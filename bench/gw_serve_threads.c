/* SPDX-License-Identifier: Apache-2.0 */
/* The same server with a thread for each connection: blocking reads and writes, no queues, one
 * lock around what is shared. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/rng.h"
#include "control/auth.h"
#include "gw_serve.h"

#define STACK_SIZE (64u * 1024u)
#define ARENA_SIZE (512u * 1024u)
#define INPUT_SIZE (64u * 1024u)

struct connection {
    struct serve *serve;
    int fd;
    uint32_t number;
    struct frame_arena arena;
    struct text in, out;
    size_t used; /* bytes of `in` that the last frame had */
};

static uint8_t local_key[AUTH_KEY_SIZE];

/* Blocks until a whole frame is here; NULL: closed or not a frame. */
static const Weir__Control__Frame *receive(struct connection *c)
{
    const Weir__Control__Frame *f = NULL;
    char bytes[16384];
    text_consume(&c->in, c->used);
    c->used = 0;
    for (;;) {
        int64_t n = frame_peek(c->in.data, c->in.len);
        if (n > 0) {
            frame_arena_reset(&c->arena);
            c->used = (size_t)n;
            return frame_unpack(&c->arena, c->in.data, (size_t)n, &f) < 0 ? NULL : f;
        }
        ssize_t r = n < 0 ? -1 : recv(c->fd, bytes, sizeof(bytes), 0);
        if (r <= 0)
            return NULL;
        text_append(&c->in, bytes, (size_t)r);
        if (c->in.failed)
            return NULL;
    }
}

static bool send_out(struct connection *c)
{
    return send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL) == (ssize_t)c->out.len;
}

static bool send_frame(struct connection *c, const Weir__Control__Frame *f)
{
    text_clear(&c->out);
    return frame_append(&c->out, f) == 0 && send_out(c);
}

static bool handshake(struct connection *c)
{
    const Weir__Control__Frame *f = receive(c);
    if (f == NULL || f->body_case != WEIR__CONTROL__FRAME__BODY_HELLO)
        return false;
    struct auth_context a = {.version = CONTROL_VERSION_MAX, .key_id = "local"};
    uint8_t proof[AUTH_PROOF_SIZE];
    memcpy(a.gateway_id, f->hello->gateway_id.data, AUTH_ID_SIZE);
    memcpy(a.boot_id, f->hello->boot_id.data, AUTH_ID_SIZE);
    memcpy(a.nonce_gateway, f->hello->nonce.data, AUTH_NONCE_SIZE);
    rng_system(a.nonce_server, sizeof(a.nonce_server));
    auth_prove(&a, local_key, AUTH_SERVER, proof);
    Weir__Control__Challenge ch = WEIR__CONTROL__CHALLENGE__INIT;
    Weir__Control__Frame out = WEIR__CONTROL__FRAME__INIT;
    ch.version = a.version;
    ch.nonce = (ProtobufCBinaryData){.len = AUTH_NONCE_SIZE, .data = a.nonce_server};
    ch.proof = (ProtobufCBinaryData){.len = sizeof(proof), .data = proof};
    out.body_case = WEIR__CONTROL__FRAME__BODY_CHALLENGE;
    out.challenge = &ch;
    if (!send_frame(c, &out) || (f = receive(c)) == NULL ||
        f->body_case != WEIR__CONTROL__FRAME__BODY_PROOF ||
        !auth_check(&a, local_key, AUTH_GATEWAY, f->proof->proof.data, f->proof->proof.len))
        return false;
    Weir__Control__Welcome w = WEIR__CONTROL__WELCOME__INIT;
    Weir__Control__Frame welcome = WEIR__CONTROL__FRAME__INIT;
    w.session = c->number;
    w.heartbeat_ms = 2000;
    welcome.body_case = WEIR__CONTROL__FRAME__BODY_WELCOME;
    welcome.welcome = &w;
    return send_frame(c, &welcome);
}

/* Blocks until the next poll is due, then asks. */
static bool ask(struct connection *c, uint32_t at)
{
    uint64_t due = serve_due(c->serve, at, clock_mono_ns());
    struct timespec t = {.tv_sec = (time_t)(due / NS_PER_S), .tv_nsec = (long)(due % NS_PER_S)};
    if (c->serve->o.period_ms > 0)
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    text_clear(&c->out);
    serve_poll_frame(c->serve, at, clock_mono_ns(), &c->out);
    return send_out(c);
}

static void *connection_main(void *arg)
{
    struct connection *c = arg;
    int r = frame_arena_init(&c->arena, ARENA_SIZE);
    weir_assert(r == 0);
    text_init(&c->in, 2 * FRAME_MAX);
    text_init(&c->out, FRAME_MAX);
    if (handshake(c)) {
        uint32_t at = serve_come(c->serve, c->number);
        const Weir__Control__Frame *f;
        bool open = ask(c, at);
        while (open && (f = receive(c)) != NULL) {
            if (serve_frame(c->serve, at, f, clock_mono_ns()) == 0)
                open = ask(c, at);
        }
        serve_gone(c->serve, at);
    }
    close(c->fd);
    frame_arena_fini(&c->arena);
    text_fini(&c->in);
    text_fini(&c->out);
    free(c);
    return NULL;
}

static void key_load(const char *state_dir)
{
    char path[600], *text = NULL;
    size_t n = 0;
    snprintf(path, sizeof(path), "%s/gateway.key", state_dir);
    int r = text_read_file(path, 256, &text, NULL);
    weir_assert(r == 0);
    r = sodium_hex2bin(local_key, sizeof(local_key), text, strlen(text), "\n", &n, NULL);
    weir_assert(r == 0 && n == sizeof(local_key));
    free(text);
}

int serve_threads(struct serve *s)
{
    struct addr a;
    const char *expected = "";
    char at[ADDR_TEXT_SIZE];
    key_load(s->o.state_dir);
    int fd = addr_parse(s->o.listen, 0, &a, &expected) < 0 ? -1 : addr_listen(&a, 1024, 0600);
    if (fd < 0 || addr_local_text(fd, at, sizeof(at)) < 0) {
        fprintf(stderr, "gwserve: %s cannot be listened on\n", s->o.listen);
        return 1;
    }
    printf("listening on %s\n", at);
    fflush(stdout);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    for (uint32_t number = 1;; number++) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        (void)poll(&p, 1, -1);
        int one = 1, client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0)
            continue;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        struct connection *c = calloc(1, sizeof(*c));
        pthread_t thread;
        weir_assert(c != NULL);
        *c = (struct connection){.serve = s, .fd = client, .number = number};
        int e = pthread_create(&thread, &attr, connection_main, c);
        if (e != 0) {
            fprintf(stderr, "gwserve: no further thread: %s\n", strerror(e));
            close(client);
            free(c);
        }
    }
}

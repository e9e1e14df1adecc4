/* SPDX-License-Identifier: Apache-2.0 */
/* The local socket.
 *
 * Problem: people want to see every stream of a gateway, twice a second if they like, without the
 * server; and the reactor that must answer them is the one that moves I/O, so no answer may take it
 * away for long.
 *
 * Model: a client sends one line and gets one line. An answer is made in slices of a few objects,
 * one slice a round of the reactor, so that I/O goes on in between; each object becomes text at
 * once. An answer is therefore no snapshot: streams late in it are a little younger. When it is
 * complete it is sent; while a client has an answer to make or to read, its further requests wait
 * in the socket. Even what is answered with an error waits for the next round, so that no stream of
 * requests, sound or not, is more than one a round.
 *
 *   IDLE --line--> MAKING --complete--> SENDING --all sent--> IDLE
 *
 * Invariants: (1) a client's work is deferred only in MAKING; (2) its timer runs only in SENDING,
 * and is set anew by every byte it takes; (3) input holds at most one request beyond its bound,
 * output at most ANSWER_MAX; (4) what a client saw of streams (local_json.h) is as large as the
 * histograms' used buckets, and goes with it.
 *
 * What may fail: memory (the answer says so), the client (it is closed; nobody else notices). */
#include "gateway/local.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/text.h"
#include "gateway/ledger.h"
#include "gateway/local_json.h"

#define CLIENTS_MAX 16u
#define REQUEST_MAX 4096u
#define ANSWER_MAX (16u * 1024u * 1024u)
#define STALLED_NS (10 * NS_PER_S)
/* Objects a round: a stream costs about 50 us with its histograms, the others far less. */
#define STREAMS_A_SLICE 4u
#define CONTROLS_A_SLICE 32u
#define BACKLOG 16
#define RETRY_NS (100 * NS_PER_MS)

enum client_state { CLIENT_FREE, CLIENT_IDLE, CLIENT_MAKING, CLIENT_SENDING };
enum subject { SUBJECT_STREAMS, SUBJECT_TARGETS, SUBJECT_CONTROLS, SUBJECT_STATUS, SUBJECT_COUNT };

static const char *const subject_names[SUBJECT_COUNT] = {
    [SUBJECT_STREAMS] = "streams",
    [SUBJECT_TARGETS] = "targets",
    [SUBJECT_CONTROLS] = "controls",
    [SUBJECT_STATUS] = "status",
};

struct client {
    struct local *local;
    enum client_state state;
    struct reactor_source source;
    struct reactor_timer stalled;
    struct reactor_work work;
    struct text in, out;
    size_t sent;
    bool ended; /* the client will send no more */
    bool answered; /* MAKING: out is complete: an error, or what was done */
    enum subject subject;
    bool histograms;
    bool undrain;             /* instead of a subject */
    size_t cursor;            /* next slot or control */
    struct local_seen *seen;  /* one a slot, made when streams are first asked for */
    size_t seen_count;
};

struct local {
    struct reactor *reactor;
    const struct gateway_config *config;
    struct stream_table *streams;
    struct relay *relay;
    struct link *link;
    struct reactor_source source;
    struct reactor_timer retry; /* out of descriptors: accept again */
    bool own; /* opened here, not handed over */
    struct meter sum;
    struct client clients[CLIENTS_MAX];
};

static void client_close(struct client *c)
{
    weir_assert(c->state != CLIENT_FREE);
    struct reactor *r = c->local->reactor;
    reactor_timer_clear(r, &c->stalled);
    reactor_work_cancel(&c->work);
    reactor_remove(r, &c->source);
    close(c->source.fd);
    text_fini(&c->in);
    text_fini(&c->out);
    for (size_t i = 0; i < c->seen_count; i++)
        local_seen_fini(&c->seen[i]);
    free(c->seen);
    c->seen = NULL;
    c->seen_count = 0;
    c->state = CLIENT_FREE;
}

/* An answer that is one error; a half-made answer gives way to it. */
static void answer_error(struct client *c, const char *words)
{
    text_clear(&c->out);
    json_t *o = json_pack("{s:s}", "error", words);
    char *line = o ? json_dumps(o, JSON_COMPACT) : NULL;
    text_append_str(&c->out, line ? line : "{\"error\":\"out of memory\"}");
    free(line);
    json_decref(o);
    text_append_str(&c->out, "\n");
}

/* Append one object to a list under way, or anything else; takes @o. */
static void append_json(struct client *c, json_t *o)
{
    char *line = o ? json_dumps(o, JSON_COMPACT) : NULL;
    if (line)
        text_append_str(&c->out, line);
    else
        c->out.failed = true;
    free(line);
    json_decref(o);
}

static void append_item(struct client *c, json_t *o)
{
    if (c->out.len > 0 && c->out.data[c->out.len - 1] != '[')
        text_append_str(&c->out, ",");
    append_json(c, o);
}

/* Each maker of a slice returns whether the answer is complete. */
static bool slice_streams(struct client *c)
{
    struct local *l = c->local;
    uint64_t now = reactor_now_fresh(l->reactor);
    size_t slots = stream_slots(l->streams), made = 0;
    for (; c->cursor < slots && made < STREAMS_A_SLICE; c->cursor++) {
        const struct stream *s = stream_at(l->streams, c->cursor);
        if (!s)
            continue;
        if (c->cursor >= c->seen_count)
            return true; /* came after the request, beyond what was there */
        append_item(c, local_json_stream(s, stream_meter_total(l->streams, s, &l->sum),
                                         stream_connections_total(l->streams, s), l->config,
                                         &c->seen[c->cursor], c->histograms, now));
        made++;
    }
    return c->cursor >= slots;
}

static bool slice_targets(struct client *c)
{
    struct local *l = c->local;
    for (size_t i = 0; i < l->config->target_count; i++) {
        struct target_stats total;
        ledger_target_total(stream_ledger(l->streams), i, &total);
        append_item(c, local_json_target(&l->config->targets[i], &total, l->config->name));
    }
    return true;
}

struct control_walk {
    struct client *client;
    size_t at, end;
};

static void visit_control(void *arg, const struct control *control, const struct gate_rule *first)
{
    struct control_walk *w = arg;
    if (w->at >= w->client->cursor && w->at < w->end)
        append_item(w->client, local_json_control(control, first));
    w->at++;
}

static bool slice_controls(struct client *c)
{
    struct control_walk w = {.client = c, .end = c->cursor + CONTROLS_A_SLICE};
    stream_controls_visit(c->local->streams, visit_control, &w);
    c->cursor = w.end;
    return c->cursor >= w.at;
}

static bool slice_status(struct client *c)
{
    struct local *l = c->local;
    uint64_t streams = 0;
    for (size_t i = 0; i < stream_slots(l->streams); i++)
        streams += stream_at(l->streams, i) != NULL;
    append_json(c, local_json_status(l->config, l->relay, l->link, stream_ledger(l->streams),
                                     streams, reactor_now(l->reactor)));
    return true;
}

static bool make_slice(struct client *c)
{
    switch (c->subject) {
    case SUBJECT_STREAMS:
        return slice_streams(c);
    case SUBJECT_TARGETS:
        return slice_targets(c);
    case SUBJECT_CONTROLS:
        return slice_controls(c);
    case SUBJECT_STATUS:
        return slice_status(c);
    case SUBJECT_COUNT:
        break;
    }
    weir_unreachable("a subject out of its enum");
}

static void client_step(struct client *c);

static void client_send(struct client *c)
{
    weir_assert(c->state == CLIENT_SENDING);
    while (c->sent < c->out.len) {
        ssize_t n = send(c->source.fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            client_close(c);
            return;
        }
        c->sent += (size_t)n;
        reactor_timer_set(c->local->reactor, &c->stalled,
                          reactor_now(c->local->reactor) + STALLED_NS);
    }
    reactor_timer_clear(c->local->reactor, &c->stalled);
    text_fini(&c->out);
    text_init(&c->out, ANSWER_MAX);
    c->state = CLIENT_IDLE;
}

static void begin_sending(struct client *c)
{
    if (c->out.failed)
        answer_error(c, "the answer is larger than 16 MiB, or memory is short");
    c->state = CLIENT_SENDING;
    c->sent = 0;
    reactor_timer_set(c->local->reactor, &c->stalled, reactor_now(c->local->reactor) + STALLED_NS);
    client_send(c);
}

static void client_make(struct reactor_work *w)
{
    struct client *c = container_of(w, struct client, work);
    weir_assert(c->state == CLIENT_MAKING);
    bool complete = c->answered || make_slice(c) || c->out.failed;
    if (!complete) {
        reactor_defer(c->local->reactor, &c->work);
        return;
    }
    if (!c->answered)
        text_append_str(&c->out, c->subject == SUBJECT_STATUS ? "}\n" : "]}\n");
    begin_sending(c);
    if (c->state == CLIENT_IDLE)
        client_step(c);
}

/* {"do": "undrain"}. Static words when it is something else, else NULL. */
static const char *parse_order(struct client *c, json_t *o)
{
    const char *what = json_string_value(json_object_get(o, "do"));
    if (json_object_size(o) != 1 || what == NULL || strcmp(what, "undrain") != 0)
        return "expected {\"do\": \"undrain\"}, alone";
    c->undrain = true;
    return NULL;
}

/* Read {"get": SUBJECT, "histograms": BOOL} or an order. Static words when it is something else,
 * else NULL. */
static const char *parse_request(struct client *c, const char *line, size_t n)
{
    json_error_t error;
    const char *get, *fault = NULL;
    int histograms = 0;
    json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES, &error);
    c->undrain = false;
    if (json_object_get(o, "do")) {
        fault = parse_order(c, o);
    } else if (!o || !json_is_object(o)) {
        fault = "expected one JSON object a line, such as {\"get\":\"streams\"}";
    } else if (json_unpack_ex(o, &error, JSON_STRICT, "{s:s, s?b}", "get", &get, "histograms",
                              &histograms) != 0) {
        fault = "expected {\"get\": \"streams\", \"targets\", \"controls\" or \"status\"}, and "
                "\"histograms\": true or false with streams";
    } else {
        c->subject = SUBJECT_COUNT;
        for (int i = 0; i < SUBJECT_COUNT; i++) {
            if (strcmp(get, subject_names[i]) == 0)
                c->subject = (enum subject)i;
        }
        c->histograms = histograms != 0;
        if (c->subject == SUBJECT_COUNT)
            fault = "unknown subject of \"get\"; known are streams, targets, controls and status";
        else if (histograms && c->subject != SUBJECT_STREAMS)
            fault = "only streams have histograms";
    }
    json_decref(o);
    return fault;
}

/* Make place to remember every slot of now. */
static bool grow_seen(struct client *c)
{
    size_t slots = stream_slots(c->local->streams);
    if (slots <= c->seen_count)
        return true;
    struct local_seen *seen = reallocarray(c->seen, slots, sizeof(*seen));
    if (!seen)
        return false;
    memset(seen + c->seen_count, 0, (slots - c->seen_count) * sizeof(*seen));
    c->seen = seen;
    c->seen_count = slots;
    return true;
}

static void begin_request(struct client *c, const char *line, size_t n)
{
    const char *fault = parse_request(c, line, n);
    bool was = false;
    if (!fault && c->undrain && c->local->link != NULL)
        (void)link_undrain(c->local->link, &was, &fault);
    else if (!fault && !c->undrain && c->subject == SUBJECT_STREAMS && !grow_seen(c))
        fault = "out of memory";
    c->state = CLIENT_MAKING;
    reactor_defer(c->local->reactor, &c->work);
    c->answered = fault != NULL || c->undrain;
    if (fault) {
        answer_error(c, fault);
        return;
    }
    if (c->undrain) {
        text_clear(&c->out);
        text_printf(&c->out, "{\"undrain\":{\"wasDrained\":%s}}\n", was ? "true" : "false");
        return;
    }
    if (c->subject == SUBJECT_STREAMS || c->subject == SUBJECT_CONTROLS)
        stream_refresh(c->local->streams, reactor_now(c->local->reactor));
    text_clear(&c->out);
    text_printf(&c->out, "{\"%s\":%s", subject_names[c->subject],
                c->subject == SUBJECT_STATUS ? "" : "[");
    c->cursor = 0;
}

/* Bytes into c->in, up to one request and its line feed. False: the client is gone. */
static bool client_read(struct client *c)
{
    char chunk[1024];
    while (!c->ended && c->in.len <= REQUEST_MAX) {
        size_t room = REQUEST_MAX + 1 - c->in.len;
        ssize_t n = recv(c->source.fd, chunk, room < sizeof(chunk) ? room : sizeof(chunk), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n < 0)
            return false;
        c->ended = n == 0;
        text_append(&c->in, chunk, (size_t)n);
        if (c->in.failed)
            return false;
    }
    return true;
}

/* Begin the next request, if one is here. */
static void client_step(struct client *c)
{
    weir_assert(c->state == CLIENT_IDLE);
    if (!client_read(c)) {
        client_close(c);
        return;
    }
    char *eol = memchr(c->in.data, '\n', c->in.len);
    if (!eol && c->in.len > REQUEST_MAX) {
        /* What follows cannot be made out any more: say why, then close. */
        answer_error(c, "a request is at most 4096 bytes");
        (void)!send(c->source.fd, c->out.data, c->out.len, MSG_NOSIGNAL);
        client_close(c);
        return;
    }
    if (!eol) {
        if (c->ended)
            client_close(c);
        return;
    }
    size_t n = (size_t)(eol - c->in.data);
    char line[REQUEST_MAX + 1];
    memcpy(line, c->in.data, n);
    text_consume(&c->in, n + 1);
    begin_request(c, line, n);
}

static void client_ready(struct reactor_source *s, uint32_t events)
{
    struct client *c = container_of(s, struct client, source);
    if (events & EPOLLERR) {
        client_close(c);
        return;
    }
    if (c->state == CLIENT_SENDING)
        client_send(c);
    if (c->state == CLIENT_IDLE)
        client_step(c);
    else if (c->state == CLIENT_MAKING && (events & EPOLLHUP))
        client_close(c);
}

static void client_stalled(struct reactor_timer *t, uint64_t now_ns)
{
    (void)now_ns;
    client_close(container_of(t, struct client, stalled));
}

static void client_open(struct local *l, int fd)
{
    struct client *c = NULL;
    for (size_t i = 0; i < CLIENTS_MAX && !c; i++) {
        if (l->clients[i].state == CLIENT_FREE)
            c = &l->clients[i];
    }
    if (!c) {
        static const char words[] = "{\"error\":\"16 clients are connected already\"}\n";
        (void)!send(fd, words, sizeof(words) - 1, MSG_NOSIGNAL);
        close(fd);
        return;
    }
    *c = (struct client){
        .local = l,
        .state = CLIENT_IDLE,
        .source = {.fd = fd, .ready = client_ready},
        .stalled = {.fire = client_stalled},
    };
    reactor_work_init(&c->work, client_make);
    text_init(&c->in, REQUEST_MAX + 1);
    text_init(&c->out, ANSWER_MAX);
    if (reactor_add(l->reactor, &c->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP) < 0) {
        close(fd);
        c->state = CLIENT_FREE;
        return;
    }
    client_step(c);
}

/* At most about a full backlog at once, so that callers without end do not keep the reactor. */
static void local_accept(struct local *l)
{
    for (int i = 0; i <= BACKLOG; i++) {
        int fd = accept4(l->source.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            client_open(l, fd);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            break;
        }
    }
    /* More wait, or a descriptor is missing; no edge will tell again of those that wait. */
    reactor_timer_set(l->reactor, &l->retry, reactor_now(l->reactor) + RETRY_NS);
}

static void local_ready(struct reactor_source *s, uint32_t events)
{
    (void)events;
    local_accept(container_of(s, struct local, source));
}

static void local_retry(struct reactor_timer *t, uint64_t now_ns)
{
    (void)now_ns;
    local_accept(container_of(t, struct local, retry));
}

/* The socket's address, out of the configuration. */
static int local_addr(const struct gateway_config *config, struct addr *ret)
{
    char text[sizeof(config->socket_path) + 32];
    const char *path = config->socket_path;
    snprintf(text, sizeof(text), "unix:%s%s", path[0] ? path : config->state_dir,
             path[0] ? "" : "/gateway.sock");
    return addr_parse(text, 0, ret, NULL) == 0 ? 0 : -ENAMETOOLONG;
}

int local_open(const struct gateway_config *config)
{
    struct addr addr;
    int ret = local_addr(config, &addr);
    return ret < 0 ? ret : addr_listen(&addr, BACKLOG, 0600);
}

void local_unlink(const struct gateway_config *config)
{
    struct addr addr;
    if (local_addr(config, &addr) == 0)
        unlink(((const struct sockaddr_un *)&addr.ss)->sun_path);
}

int local_new(struct reactor *r, const struct gateway_config *config, struct stream_table *streams,
              struct relay *relay, struct link *link, int fd, struct local **ret)
{
    bool own = fd < 0;
    if (own)
        fd = local_open(config);
    if (fd < 0)
        return fd;
    struct local *l = calloc(1, sizeof(*l));
    if (!l) {
        close(fd);
        return -ENOMEM;
    }
    l->reactor = r;
    l->config = config;
    l->streams = streams;
    l->relay = relay;
    l->link = link;
    l->retry.fire = local_retry;
    l->own = own;
    l->source = (struct reactor_source){.fd = fd, .ready = local_ready};
    int result = reactor_add(r, &l->source, EPOLLIN);
    if (result < 0) {
        close(fd);
        free(l);
        return result;
    }
    *ret = l;
    return 0;
}

void local_free(struct local *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
        if (l->clients[i].state != CLIENT_FREE)
            client_close(&l->clients[i]);
    }
    reactor_remove(l->reactor, &l->source);
    reactor_timer_clear(l->reactor, &l->retry);
    close(l->source.fd);
    if (l->own)
        local_unlink(l->config);
    free(l);
}

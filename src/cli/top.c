/* SPDX-License-Identifier: Apache-2.0 */
/* top: streams by how much they do, or suffer, again and again. From the server, or without one
 * from a gateway's local socket (docs/guide/local-socket.md). */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "cli/get.h"
#include "cli/http.h"
#include "cli/output.h"

#define ANSWER_MAX (16u * 1024u * 1024u)
#define ANSWER_MS 10000
#define DEATHS_MAX 1024u
#define SCREEN_MAX (1024u * 1024u)

static const struct table_column local_columns[] = {
    {"STREAM", "key", TABLE_TEXT, false},
    {"TENANT", "tenant", TABLE_TEXT, true},
    {"TARGET", "target", TABLE_TEXT, false},
    {"DEMAND", "demandIops", TABLE_COUNT, false},
    {"IOPS", "iops", TABLE_COUNT, false},
    {"READ", "readIops", TABLE_COUNT, true},
    {"WRITE", "writeIops", TABLE_COUNT, true},
    {"BANDWIDTH", "readBytesPerSecond+writeBytesPerSecond", TABLE_RATE, false},
    {"P50", "latency.total.p50Us", TABLE_LATENCY, true},
    {"P99", "latency.total.p99Us", TABLE_LATENCY, false},
    {"HELD-P99", "latency.held.p99Us", TABLE_LATENCY, false},
    {"TARGET-P99", "latency.target.p99Us", TABLE_LATENCY, false},
    {"INFLIGHT", "inflight", TABLE_COUNT, false},
    {"HELD", "heldNow", TABLE_COUNT, false},
    {"HELD-BY", "heldBy", TABLE_TEXT, false},
    {"WHY", "heldKind", TABLE_TEXT, true},
    {"CREDIT", "burstCreditPercent", TABLE_PERCENT, false},
    {"ERRORS/S", "errorsPerSecond", TABLE_COUNT, true},
};

struct sort_key {
    const char *name, *path;
};

static const struct sort_key sort_keys[] = {
    {"iops", "iops"},
    {"demand", "demandIops"},
    {"p99", "latency.total.p99Us"},
    {"held", "latency.held.p99Us"},
    {"bandwidth", "readBytesPerSecond+writeBytesPerSecond"},
    {"harm", "harmPercent"},
};

struct top {
    struct cli *c;
    const struct sort_key *sort;
    const char *path;    /* of the local socket, or NULL */
    int fd;              /* connected to it, or -1 */
    struct text buffer;  /* what the socket sent */
    struct text deaths;  /* a line about those of the gateway's worker; empty: none */
};

static const struct sort_key *find_sort(const char *name)
{
    for (size_t i = 0; i < sizeof(sort_keys) / sizeof(sort_keys[0]); i++) {
        if (strcmp(sort_keys[i].name, name) == 0)
            return &sort_keys[i];
    }
    return NULL;
}

static enum cli_exit connect_local(struct top *t)
{
    const char *path = t->path;
    char text[ADDR_TEXT_SIZE];
    struct addr a;
    int n = snprintf(text, sizeof(text), "unix:%s", path);
    if (n < 0 || (size_t)n >= sizeof(text) || addr_parse(text, 0, &a, NULL) < 0)
        return cli_fail(CLI_USAGE, "--gateway %s: too long for a socket's path", path);
    t->fd = addr_connect(&a);
    if (t->fd < 0)
        return cli_fail(CLI_UNREACHABLE,
                        "cannot reach the gateway's socket %s: %s\n"
                        "Is weir-gateway running, and may you open its socket (mode 0600)?",
                        path, weir_strerror(t->fd));
    return CLI_OK;
}

static enum cli_exit wait_socket(struct top *t, short events)
{
    struct pollfd p = {.fd = t->fd, .events = events};
    int n = poll(&p, 1, ANSWER_MS);
    if (n < 0 && errno != EINTR)
        return cli_fail(CLI_UNREACHABLE, "the gateway's socket: %s", weir_strerror(-errno));
    return n == 0 ? cli_fail(CLI_UNREACHABLE, "the gateway does not answer within 10 s") : CLI_OK;
}

enum asked { ASKED_OK, ASKED_CLOSED, ASKED_FAILED /* and said why */ };

/* @request: one line of JSON; the answer's line is in the buffer then. */
static enum asked ask_once(struct top *t, const char *request)
{
    size_t sent = 0, length = strlen(request);
    while (sent < length) {
        ssize_t n = send(t->fd, request + sent, length - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return ASKED_CLOSED;
        if (n > 0)
            sent += (size_t)n;
        else if (wait_socket(t, POLLOUT) != CLI_OK)
            return ASKED_FAILED;
    }
    text_clear(&t->buffer);
    char chunk[65536];
    while (t->buffer.len == 0 || t->buffer.data[t->buffer.len - 1] != '\n') {
        ssize_t n = recv(t->fd, chunk, sizeof(chunk), 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return ASKED_CLOSED;
        if (n > 0)
            text_append(&t->buffer, chunk, (size_t)n);
        else if (wait_socket(t, POLLIN) != CLI_OK)
            return ASKED_FAILED;
        if (t->buffer.failed) {
            cli_fail(CLI_UNREACHABLE, "the gateway's answer is larger than 16 MiB");
            return ASKED_FAILED;
        }
    }
    return ASKED_OK;
}

/* A connection ends with the worker that served it: the next one is asked then, once. */
static enum cli_exit ask_local(struct top *t, const char *request)
{
    enum asked asked = ask_once(t, request);
    if (asked == ASKED_CLOSED) {
        close(t->fd);
        t->fd = -1;
        enum cli_exit r = connect_local(t);
        if (r != CLI_OK)
            return r;
        asked = ask_once(t, request);
    }
    if (asked == ASKED_CLOSED)
        return cli_fail(CLI_UNREACHABLE, "the gateway closed its socket");
    return asked == ASKED_OK ? CLI_OK : CLI_UNREACHABLE;
}

/* What the gateway answers to {"get":@what}: the member of that name, of @type, fresh. */
static enum cli_exit get_local(struct top *t, const char *what, json_type type, json_t **ret)
{
    char request[64];
    snprintf(request, sizeof(request), "{\"get\":\"%s\"}\n", what);
    enum cli_exit r = ask_local(t, request);
    if (r != CLI_OK)
        return r;
    json_error_t error;
    json_t *answer = json_loadb(t->buffer.data, t->buffer.len, 0, &error);
    json_t *value = json_object_get(answer, what);
    const char *fault = json_string_value(json_object_get(answer, "error"));
    if (value && json_typeof(value) == type)
        *ret = json_incref(value);
    else
        r = cli_fail(CLI_REFUSED, "the gateway: %s", fault ? fault : "no JSON that is known");
    json_decref(answer);
    return r;
}

static void put_age(struct text *out, json_int_t seconds)
{
    if (seconds < 120)
        text_printf(out, "%" JSON_INTEGER_FORMAT " s", seconds);
    else if (seconds < 2 * 3600)
        text_printf(out, "%" JSON_INTEGER_FORMAT " min", seconds / 60);
    else if (seconds < 2 * 86400)
        text_printf(out, "%" JSON_INTEGER_FORMAT " h", seconds / 3600);
    else
        text_printf(out, "%" JSON_INTEGER_FORMAT " d", seconds / 86400);
}

/* "worker: 2 deaths, last: SIGKILL, 12 s ago", when any died. */
static enum cli_exit fetch_deaths(struct top *t)
{
    json_t *status = NULL;
    enum cli_exit r = get_local(t, "status", JSON_OBJECT, &status);
    if (r != CLI_OK)
        return r;
    json_int_t deaths = json_integer_value(table_value(status, "manager.deaths"));
    json_int_t ago_ms = json_integer_value(table_value(status, "manager.lastDeathAgoMs"));
    const char *reason = json_string_value(table_value(status, "manager.lastDeath"));
    text_clear(&t->deaths);
    if (deaths > 0 && reason) {
        text_printf(&t->deaths, "worker: %" JSON_INTEGER_FORMAT " death%s, last: ", deaths,
                    deaths == 1 ? "" : "s");
        text_append_escaped(&t->deaths, reason);
        text_append_str(&t->deaths, ", ");
        put_age(&t->deaths, ago_ms / 1000);
        text_append_str(&t->deaths, " ago\n");
    }
    json_decref(status);
    return CLI_OK;
}

/* The streams of this moment, as a fresh array. */
static enum cli_exit fetch(struct top *t, json_t **ret)
{
    if (!t->path) {
        struct text query;
        text_init(&query, 8192);
        get_filters(t->c, &query);
        enum cli_exit r = http_list(t->c, "/api/v1/streams", query.data, 0, ret);
        text_fini(&query);
        return r;
    }
    enum cli_exit r = fetch_deaths(t);
    return r == CLI_OK ? get_local(t, "streams", JSON_ARRAY, ret) : r;
}

static double sort_value(const json_t *o, const char *path)
{
    const char *plus = strchr(path, '+');
    char first[64];
    if (!plus)
        return json_number_value(table_value(o, path));
    snprintf(first, sizeof(first), "%.*s", (int)(plus - path), path);
    return json_number_value(table_value(o, first)) +
           json_number_value(table_value(o, plus + 1));
}

struct ranked {
    double value;
    const json_t *stream;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->value != y->value)
        return x->value < y->value ? 1 : -1;
    const char *p = json_string_value(json_object_get(x->stream, "key"));
    const char *q = json_string_value(json_object_get(y->stream, "key"));
    return strcmp(p ? p : "", q ? q : "");
}

/* The largest first, at most @rows. Fresh array. */
static json_t *ranked(const struct top *t, const json_t *items, size_t rows)
{
    size_t n = json_array_size(items), i;
    json_t *stream, *sorted = json_array();
    struct ranked *all = calloc(n ? n : 1, sizeof(*all));
    if (!all)
        return sorted;
    json_array_foreach(items, i, stream)
    {
        all[i] = (struct ranked){.value = sort_value(stream, t->sort->path), .stream = stream};
    }
    qsort(all, n, sizeof(*all), by_rank);
    for (i = 0; i < n && i < rows; i++)
        json_array_append(sorted, (json_t *)(uintptr_t)all[i].stream);
    free(all);
    return sorted;
}

static size_t screen_rows(void)
{
    struct winsize w;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 4)
        return (size_t)w.ws_row - 3;
    return 20;
}

/* Programs that read tables ask for no headers, and get no such line either. */
static bool shows_deaths(const struct top *t)
{
    const struct cli_options *o = &t->c->o;
    return (o->output == OUTPUT_TABLE || o->output == OUTPUT_WIDE) && !o->no_headers;
}

static enum cli_exit show_once(struct top *t, const json_t *items)
{
    const struct kind *k = kind_find("streams");
    json_t *sorted = ranked(t, items, t->c->o.limit ? (size_t)t->c->o.limit : SIZE_MAX);
    enum cli_exit r;
    if (json_array_size(sorted) == 0 && t->c->o.output == OUTPUT_TABLE)
        r = cli_fail(CLI_OK, "no streams");
    else if (t->path)
        r = output_rows(t->c, local_columns, sizeof(local_columns) / sizeof(local_columns[0]),
                        "key", sorted);
    else
        r = output_items(t->c, k, sorted, false);
    if (r == CLI_OK && shows_deaths(t))
        cli_put(&t->deaths);
    json_decref(sorted);
    return r;
}

/* One screen in one write: home, the lines each cleared to their end, then the rest. */
static void show_screen(struct top *t, const json_t *items)
{
    const struct kind *k = kind_find("streams");
    size_t rows = t->c->o.limit ? (size_t)t->c->o.limit : screen_rows() - (t->deaths.len > 0);
    json_t *sorted = ranked(t, items, rows), *stream;
    const struct table_column *columns = t->path ? local_columns : k->columns;
    size_t count = t->path ? sizeof(local_columns) / sizeof(local_columns[0]) : k->column_count;
    struct table *table = table_new(columns, count, output_style(t->c), clock_wall_us());
    struct text body, screen;
    size_t i;
    char now[32];
    if (!table) {
        json_decref(sorted);
        return;
    }
    json_array_foreach(sorted, i, stream) table_add(table, stream);
    text_init(&body, SCREEN_MAX);
    text_init(&screen, 2 * SCREEN_MAX);
    table_print(table, !t->c->o.no_headers, t->c->color, &body);
    clock_format_wall(clock_wall_us(), now, sizeof(now));
    text_append_str(&screen, "\033[H");
    text_printf(&screen, "%.19sZ  %zu streams, by %s  (Ctrl-C ends)\033[K\n\033[K\n", now,
                json_array_size(items), t->sort->name);
    text_append(&body, t->deaths.data, t->deaths.len);
    for (const char *s = body.data; *s != '\0'; s++)
        text_append(&screen, *s == '\n' ? "\033[K\n" : s, *s == '\n' ? 4 : 1);
    text_append_str(&screen, "\033[J");
    cli_put(&screen);
    fflush(stdout);
    text_fini(&body);
    text_fini(&screen);
    table_free(table);
    json_decref(sorted);
}

static void sleep_ns(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
    nanosleep(&ts, NULL);
}

static enum cli_exit run(struct top *t)
{
    uint64_t interval = t->c->o.interval_ns ? t->c->o.interval_ns : 2 * NS_PER_S;
    bool live = t->c->terminal && !t->c->o.once &&
                (t->c->o.output == OUTPUT_TABLE || t->c->o.output == OUTPUT_WIDE);
    json_t *items;
    enum cli_exit r = fetch(t, &items);
    if (r == CLI_OK && t->path && !live) {
        /* The first answer of a gateway is about a stream's whole life: look twice. */
        json_decref(items);
        sleep_ns(t->c->o.interval_ns ? t->c->o.interval_ns : NS_PER_S);
        r = fetch(t, &items);
    }
    if (r != CLI_OK)
        return r;
    if (!live) {
        r = show_once(t, items);
        json_decref(items);
        return r;
    }
    fputs("\033[2J", stdout);
    while (r == CLI_OK && !ferror(stdout)) {
        show_screen(t, items);
        json_decref(items);
        sleep_ns(interval);
        r = fetch(t, &items);
    }
    return r;
}

enum cli_exit cli_top(struct cli *c)
{
    struct top t = {.c = c, .fd = -1};
    t.sort = find_sort(c->o.sort ? c->o.sort : "iops");
    if (!t.sort)
        return cli_fail(CLI_USAGE, "--sort %s: expected iops, demand, p99, held, bandwidth or harm",
                        c->o.sort);
    text_init(&t.buffer, ANSWER_MAX);
    text_init(&t.deaths, DEATHS_MAX);
    enum cli_exit r = CLI_OK;
    if (c->o.gateway) {
        t.path = c->o.gateway;
        c->o.gateway = NULL;
        r = connect_local(&t);
    }
    if (r == CLI_OK)
        r = run(&t);
    if (t.fd >= 0)
        close(t.fd);
    text_fini(&t.buffer);
    text_fini(&t.deaths);
    return r;
}

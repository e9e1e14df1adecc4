/* SPDX-License-Identifier: Apache-2.0 */
/* top: streams by how much they do, or suffer, again and again. From the server, or without one
 * from a gateway's local socket (docs/guide/local-socket.md). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/get.h"
#include "cli/http.h"
#include "cli/output.h"
#include "cli/socket.h"

#define NOTES_MAX 1024u
#define SCREEN_MAX (1024u * 1024u)
/* Between two tries to reach a server that is gone. */
#define AGAIN_FIRST_NS (500 * NS_PER_MS)
#define AGAIN_MOST_NS  (5 * NS_PER_S)

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
    {"WHY", "heldKind", TABLE_TEXT, false},
    {"WAITS", "oldestHeldUs", TABLE_LATENCY, false},
    {"LIMITS", "limits", TABLE_LENGTH, true},
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
    struct socket *socket; /* of a gateway, or NULL: the server is asked */
    struct text notes;     /* lines about its worker's deaths and its draining, or that the server
                            * is gone; empty: none */
    size_t note_lines;
};

static const struct sort_key *find_sort(const char *name)
{
    for (size_t i = 0; i < sizeof(sort_keys) / sizeof(sort_keys[0]); i++) {
        if (strcmp(sort_keys[i].name, name) == 0)
            return &sort_keys[i];
    }
    return NULL;
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

/* "drained: takes no hosts, 3 connections left", when it is. */
static void note_drain(struct top *t, const json_t *status)
{
    const char *state = json_string_value(table_value(status, "drain.state"));
    json_int_t left = json_integer_value(table_value(status, "drain.connectionsLeft"));
    const json_t *ms = table_value(status, "drain.closesIdleInMs");
    if (!state || strcmp(state, "none") == 0)
        return;
    text_printf(&t->notes, "drained: takes no hosts, %" JSON_INTEGER_FORMAT " connection%s left",
                left, left == 1 ? "" : "s");
    if (json_is_integer(ms) && json_integer_value(ms) > 0) {
        text_append_str(&t->notes, ", idle ones are closed in ");
        put_age(&t->notes, (json_integer_value(ms) + 999) / 1000);
    } else if (json_is_integer(ms)) {
        text_append_str(&t->notes, ", idle ones are closed");
    }
    text_append_str(&t->notes, "\n");
    t->note_lines++;
}

/* "worker: 2 deaths, last: SIGKILL, 12 s ago", when any died. */
static enum cli_exit fetch_notes(struct top *t)
{
    json_t *status = NULL;
    enum cli_exit r = socket_ask(t->socket, "{\"get\":\"status\"}\n", "status", &status);
    if (r != CLI_OK)
        return r;
    json_int_t deaths = json_integer_value(table_value(status, "manager.deaths"));
    json_int_t ago_ms = json_integer_value(table_value(status, "manager.lastDeathAgoMs"));
    const char *reason = json_string_value(table_value(status, "manager.lastDeath"));
    text_clear(&t->notes);
    t->note_lines = 0;
    note_drain(t, status);
    if (deaths > 0 && reason) {
        text_printf(&t->notes, "worker: %" JSON_INTEGER_FORMAT " death%s, last: ", deaths,
                    deaths == 1 ? "" : "s");
        text_append_escaped(&t->notes, reason);
        text_append_str(&t->notes, ", ");
        put_age(&t->notes, ago_ms / 1000);
        text_append_str(&t->notes, " ago\n");
        t->note_lines++;
    }
    json_decref(status);
    return CLI_OK;
}

/* The streams of this moment, as a fresh array. */
static enum cli_exit fetch(struct top *t, json_t **ret)
{
    if (!t->socket) {
        struct text query;
        text_init(&query, 8192);
        get_filters(t->c, &query);
        enum cli_exit r = http_list(t->c, "/api/v1/streams", query.data, 0, ret);
        text_fini(&query);
        return r;
    }
    enum cli_exit r = fetch_notes(t);
    if (r == CLI_OK)
        r = socket_ask(t->socket, "{\"get\":\"streams\"}\n", "streams", ret);
    return r;
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
static bool shows_notes(const struct top *t)
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
    else if (t->socket)
        r = output_rows(t->c, local_columns, sizeof(local_columns) / sizeof(local_columns[0]),
                        "key", sorted);
    else
        r = output_items(t->c, k, sorted, false);
    if (r == CLI_OK && shows_notes(t))
        cli_put(&t->notes);
    json_decref(sorted);
    return r;
}

/* One screen in one write: home, the lines each cleared to their end, then the rest. */
static void show_screen(struct top *t, const json_t *items)
{
    const struct kind *k = kind_find("streams");
    size_t rows = t->c->o.limit ? (size_t)t->c->o.limit : screen_rows() - t->note_lines;
    json_t *sorted = ranked(t, items, rows), *stream;
    const struct table_column *columns = t->socket ? local_columns : k->columns;
    size_t count = t->socket ? sizeof(local_columns) / sizeof(local_columns[0]) : k->column_count;
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
    text_append(&body, t->notes.data, t->notes.len);
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

static void note_gone(struct top *t, int64_t since_us)
{
    char at[32];
    clock_format_wall(since_us, at, sizeof(at));
    text_clear(&t->notes);
    text_printf(&t->notes, "the server is gone since %.19sZ; trying again (the rows are of then)\n",
                at);
    t->note_lines = 1;
}

/* The next look. While the server is away the screen goes on showing @shown, and that. */
static enum cli_exit fetch_next(struct top *t, const json_t *shown, json_t **ret)
{
    uint64_t pause = AGAIN_FIRST_NS;
    int64_t since = clock_wall_us();
    enum cli_exit r = fetch(t, ret);
    if (t->socket)
        return r;
    for (; r == CLI_UNREACHABLE && !ferror(stdout); r = fetch(t, ret)) {
        note_gone(t, since);
        show_screen(t, shown);
        sleep_ns(pause);
        pause = 2 * pause < AGAIN_MOST_NS ? 2 * pause : AGAIN_MOST_NS;
    }
    text_clear(&t->notes);
    t->note_lines = 0;
    return r;
}

static enum cli_exit run(struct top *t)
{
    uint64_t interval = t->c->o.interval_ns ? t->c->o.interval_ns : 2 * NS_PER_S;
    bool live = t->c->terminal && !t->c->o.once &&
                (t->c->o.output == OUTPUT_TABLE || t->c->o.output == OUTPUT_WIDE);
    json_t *items, *next;
    enum cli_exit r = fetch(t, &items);
    if (r == CLI_OK && t->socket && !live) {
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
    t->c->again = true;
    for (;;) {
        show_screen(t, items);
        sleep_ns(interval);
        r = fetch_next(t, items, &next);
        json_decref(items);
        if (r != CLI_OK || ferror(stdout))
            break;
        items = next;
    }
    if (r == CLI_OK)
        json_decref(next);
    return r;
}

enum cli_exit cli_top(struct cli *c)
{
    struct top t = {.c = c};
    t.sort = find_sort(c->o.sort ? c->o.sort : "iops");
    if (!t.sort)
        return cli_fail(CLI_USAGE, "--sort %s: expected iops, demand, p99, held, bandwidth or harm",
                        c->o.sort);
    text_init(&t.notes, NOTES_MAX);
    enum cli_exit r = CLI_OK;
    if (c->o.gateway) {
        r = socket_open(c->o.gateway, &t.socket);
        c->o.gateway = NULL;
    }
    if (r == CLI_OK)
        r = run(&t);
    socket_close(t.socket);
    text_fini(&t.notes);
    return r;
}

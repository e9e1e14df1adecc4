/* SPDX-License-Identifier: Apache-2.0 */
/* describe stream, from a gateway's own socket: no server is needed, and what is told is of this
 * moment. The gateway is asked twice, so that rates and latency are those of the time in between.
 *
 * Here alone can be told why an I/O waits right now: which rule lets it wait and for which of its
 * rates, how long it has waited, when it may go at the earliest and when it goes whatever happens
 * (max-hold). */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "cli/describe.h"
#include "cli/get.h"
#include "cli/latency.h"
#include "cli/output.h"
#include "cli/socket.h"

#define DESCRIPTION_MAX (4u * 1024u * 1024u)
#define BAR_WIDTH 20

static void put_us(struct text *out, const json_t *us)
{
    table_format_value(us, TABLE_LATENCY, 0, out);
}

static void put_waiting(struct text *out, const json_t *o)
{
    json_int_t held = json_integer_value(json_object_get(o, "heldNow"));
    if (held == 0) {
        text_append_str(out, "  nothing waits\n");
        return;
    }
    const char *by = json_string_value(json_object_get(o, "heldBy"));
    const char *kind = json_string_value(json_object_get(o, "heldKind"));
    text_printf(out, "  %lld held; the first has waited ", (long long)held);
    put_us(out, json_object_get(o, "oldestHeldUs"));
    text_append_str(out, "\n  because of      ");
    if (by)
        text_append_escaped(out, by);
    else
        text_append_str(out, "those before it");
    text_printf(out, "%s%s\n  it may go in    ", kind ? ", its " : "", kind ? kind : "");
    put_us(out, json_object_get(o, "mayGoInUs"));
    text_append_str(out, " at the earliest\n  it goes in      ");
    put_us(out, json_object_get(o, "goesInUs"));
    text_append_str(out, " whatever the limits say (max-hold)\n");
}

static bool is_bandwidth(const json_t *limit)
{
    const char *kind = json_string_value(json_object_get(limit, "kind"));
    return kind && strncmp(kind, "bandwidth", 9) == 0;
}

static void put_rate(struct text *out, const json_t *limit, const char *name)
{
    const json_t *rate = json_object_get(limit, name);
    table_format_value(rate, is_bandwidth(limit) ? TABLE_RATE : TABLE_EXACT, 0, out);
    if (!is_bandwidth(limit) && json_is_integer(rate))
        text_append_str(out, "/s");
}

static void put_ms(struct text *out, const json_t *ms)
{
    json_t *us = json_integer(json_integer_value(ms) * 1000);
    put_us(out, us);
    json_decref(us);
}

/* "credit  75% [###############     ]  empty in 45s at full speed, full in 15s when idle" */
static void put_credit(struct text *out, const json_t *limit)
{
    char bar[BAR_WIDTH + 1];
    double percent = json_number_value(json_object_get(limit, "creditPercent"));
    int n = (int)(percent * BAR_WIDTH / 100 + 0.5);
    n = n < 0 ? 0 : n > BAR_WIDTH ? BAR_WIDTH : n;
    memset(bar, '#', (size_t)n);
    bar[n] = '\0';
    text_append_str(out, "      burst       ");
    put_rate(out, limit, "burstPerSecond");
    text_append_str(out, " for ");
    put_ms(out, json_object_get(limit, "burstForMs"));
    text_printf(out, "\n      credit      %.0f%% [%-*s]  empty in ", percent, BAR_WIDTH, bar);
    put_ms(out, json_object_get(limit, "emptyInMs"));
    text_append_str(out, " at full speed, full in ");
    put_ms(out, json_object_get(limit, "fullInMs"));
    text_append_str(out, " when idle\n");
}

/* The control of that id among what {"get":"controls"} said, or NULL. */
static const json_t *control_of(const json_t *controls, const char *id)
{
    size_t i;
    json_t *control;
    json_array_foreach(controls, i, control)
    {
        const char *its = json_string_value(json_object_get(control, "id"));
        if (id && its && strcmp(id, its) == 0)
            return control;
    }
    return NULL;
}

/* What the control asks for in the kind of @limit, as {"get":"controls"} names it. */
static const json_t *desired_of(const json_t *control, const json_t *limit)
{
    static const char *const names[][2] = {
        {"iops", "iops"},
        {"iops-read", "iopsRead"},
        {"iops-write", "iopsWrite"},
        {"bandwidth", "bandwidth"},
        {"bandwidth-read", "bandwidthRead"},
        {"bandwidth-write", "bandwidthWrite"},
    };
    const char *kind = json_string_value(json_object_get(limit, "kind"));
    for (size_t i = 0; kind && i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(kind, names[i][0]) == 0)
            return json_object_get(json_object_get(control, "limit"), names[i][1]);
    }
    return NULL;
}

static void put_limits(struct text *out, const json_t *limits, const json_t *controls)
{
    size_t i;
    json_t *l;
    json_array_foreach(limits, i, l)
    {
        const char *id = json_string_value(json_object_get(l, "id"));
        const char *origin = json_string_value(json_object_get(l, "origin"));
        const char *kind = json_string_value(json_object_get(l, "kind"));
        const char *reason = json_string_value(json_object_get(l, "reason"));
        const json_t *desired = desired_of(control_of(controls, id), l);
        text_append_str(out, "  ");
        text_append_escaped(out, id ? id : "?");
        text_printf(out, " (%s)\n      %-11s ", origin ? origin : "?", kind ? kind : "?");
        text_append_str(out, "applied ");
        put_rate(out, l, "perSecond");
        text_append_str(out, ", desired ");
        table_format_value(desired, is_bandwidth(l) ? TABLE_RATE : TABLE_EXACT, 0, out);
        text_append_str(out, json_is_integer(desired) && !is_bandwidth(l) ? "/s\n" : "\n");
        if (json_is_integer(json_object_get(l, "burstPerSecond")))
            put_credit(out, l);
        if (reason && *reason) {
            text_append_str(out, "      because     ");
            text_append_escaped(out, reason);
            text_append_str(out, "\n");
        }
    }
    if (json_array_size(limits) == 0)
        text_append_str(out, "  none covers it\n");
}

static void tell(struct cli *c, const json_t *before, const json_t *o, const json_t *controls)
{
    static const struct describe_line identity[] = {
        {"stream", "key", TABLE_TEXT},      {"host", "host", TABLE_TEXT},
        {"volume", "volume", TABLE_TEXT},   {"size", "size", TABLE_SIZE},
        {"tenant", "tenant", TABLE_TEXT},   {"target", "target", TABLE_TEXT},
        {"gateway", "gateway", TABLE_TEXT}, {"connections", "connections", TABLE_EXACT},
    };
    static const struct describe_line flow[] = {
        {"  demand", "demandIops", TABLE_EXACT},
        {"  served", "iops", TABLE_EXACT},
        {"  reads", "readIops", TABLE_EXACT},
        {"  writes", "writeIops", TABLE_EXACT},
        {"  read/s", "readBytesPerSecond", TABLE_RATE},
        {"  write/s", "writeBytesPerSecond", TABLE_RATE},
        {"  in flight", "inflight", TABLE_EXACT},
        {"  errors/s", "errorsPerSecond", TABLE_EXACT},
        {"  let go late", "maxHoldHits", TABLE_EXACT},
    };
    struct text text, *out = &text;
    text_init(out, DESCRIPTION_MAX);
    describe_lines(out, o, identity, sizeof(identity) / sizeof(identity[0]));
    text_printf(out, "%-16s", "period");
    put_ms(out, json_object_get(o, "periodMs"));
    text_append_str(out, "\n");
    describe_title(out, c, "I/O per second");
    describe_lines(out, o, flow, sizeof(flow) / sizeof(flow[0]));
    describe_title(out, c, "Latency of the period");
    latency_rows(out, c, json_object_get(o, "latency"));
    describe_title(out, c, "How it spreads");
    latency_spread(out, json_object_get(before, "histograms"), json_object_get(o, "histograms"));
    describe_title(out, c, "Latency since the gateway began");
    latency_rows(out, c, json_object_get(o, "latencyEver"));
    describe_title(out, c, "Waiting now");
    put_waiting(out, o);
    describe_title(out, c, "Limits in force");
    put_limits(out, json_object_get(o, "limits"), controls);
    describe_title(out, c, "Counters");
    describe_counters(out, c, json_object_get(o, "counters"));
    if (!text.failed)
        cli_put(out);
    text_fini(out);
}

static const json_t *find(const json_t *streams, const char *key)
{
    size_t i;
    json_t *s;
    json_array_foreach(streams, i, s)
    {
        const char *its = json_string_value(json_object_get(s, "key"));
        if (its && strcmp(its, key) == 0)
            return s;
    }
    return NULL;
}

static enum cli_exit tell_all(struct cli *c, const json_t *before, const json_t *now,
                              const json_t *controls)
{
    enum cli_exit r = CLI_OK;
    for (size_t i = 1; i < c->arg_count; i++) {
        const json_t *o = find(now, c->args[i]);
        if (!o) {
            r = cli_fail(CLI_NOT_FOUND,
                         "the gateway has no stream \"%s\"; `weir top --once --gateway SOCKET` "
                         "lists them",
                         c->args[i]);
            continue;
        }
        if (i > 1)
            printf("\n");
        tell(c, find(before, c->args[i]), o, controls);
    }
    return r;
}

enum cli_exit describe_socket(struct cli *c, const struct kind *k)
{
    static const char request[] = "{\"get\":\"streams\",\"histograms\":true}\n";
    struct socket *s = NULL;
    json_t *before = NULL, *now = NULL, *controls = NULL;
    if (strcmp(k->singular, "stream") != 0)
        return cli_fail(CLI_USAGE, "with --gateway SOCKET only streams are described");
    enum cli_exit r = socket_open(c->o.gateway, &s);
    if (r == CLI_OK)
        r = socket_ask(s, request, "streams", &before);
    if (r == CLI_OK) {
        uint64_t ns = c->o.interval_ns ? c->o.interval_ns : NS_PER_S;
        struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
        nanosleep(&ts, NULL);
        r = socket_ask(s, request, "streams", &now);
    }
    if (r == CLI_OK)
        r = socket_ask(s, "{\"get\":\"controls\"}\n", "controls", &controls);
    if (r == CLI_OK)
        r = tell_all(c, before, now, controls);
    json_decref(before);
    json_decref(now);
    json_decref(controls);
    socket_close(s);
    return r;
}

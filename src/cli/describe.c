/* SPDX-License-Identifier: Apache-2.0 */
/* describe: one object told in full, in sections. A stream's latency is split in three: what Weir
 * held, what the storage took, and both together. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/describe.h"
#include "cli/get.h"
#include "cli/http.h"
#include "cli/latency.h"
#include "cli/output.h"
#include "cli/yaml.h"

#define DESCRIPTION_MAX (4u * 1024u * 1024u)
#define ACTIONS_SHOWN 5u
#define ACTIONS_SEARCHED 500u

static void put_line(struct text *out, const json_t *o, const struct describe_line *l,
                     int64_t now_us)
{
    text_printf(out, "%-16s", l->label);
    table_format_value(table_value(o, l->path), l->format, now_us, out);
    text_append_str(out, "\n");
}

void describe_lines(struct text *out, const json_t *o, const struct describe_line *lines,
                    size_t count)
{
    int64_t now = clock_wall_us();
    for (size_t i = 0; i < count; i++)
        put_line(out, o, &lines[i], now);
}
#define PUT_LINES(out, o, lines) describe_lines(out, o, lines, sizeof(lines) / sizeof((lines)[0]))

void describe_title(struct text *out, const struct cli *c, const char *title)
{
    text_printf(out, "\n%s%s%s\n", c->color ? "\033[1m" : "", title, c->color ? "\033[0m" : "");
}

static void put_rates(struct text *out, const json_t *rates)
{
    const json_t *iops = json_object_get(rates, "iops");
    const json_t *bandwidth = json_object_get(rates, "bandwidth");
    if (!json_is_integer(iops) && !json_is_integer(bandwidth)) {
        text_append_str(out, "unlimited");
        return;
    }
    if (json_is_integer(iops)) {
        table_format_value(iops, TABLE_EXACT, 0, out);
        text_append_str(out, " IOPS");
    }
    if (json_is_integer(bandwidth)) {
        text_append_str(out, json_is_integer(iops) ? ", " : "");
        table_format_value(bandwidth, TABLE_RATE, 0, out);
    }
}

static void put_objective(struct text *out, const json_t *o)
{
    const json_t *objective = json_object_get(o, "objective");
    text_printf(out, "%-16s", "objective");
    if (!json_is_object(objective)) {
        text_append_str(out, "none\n");
        return;
    }
    const json_t *rate = json_object_get(objective, "whileIops");
    double percentile = json_number_value(json_object_get(objective, "percentile"));
    text_append_str(out, percentile > 0 ? "p" : "mean");
    if (percentile > 0)
        text_printf(out, "%.6g", percentile);
    text_append_str(out, " of at most ");
    table_format_value(json_object_get(objective, "latencyUs"), TABLE_LATENCY, 0, out);
    if (json_is_integer(rate)) {
        text_append_str(out, " while at most ");
        table_format_value(rate, TABLE_EXACT, 0, out);
        text_append_str(out, " IOPS are asked for");
    }
    text_append_str(out, "\n");
}

/* The last actions in which the stream was bully or victim. */
static enum cli_exit put_actions(struct cli *c, struct text *out, const char *key)
{
    json_t *items, *a;
    size_t i, shown = 0;
    enum cli_exit r = http_list(c, "/api/v1/actions", "", ACTIONS_SEARCHED, &items);
    if (r != CLI_OK)
        return r;
    describe_title(out, c, "Actions");
    json_array_foreach(items, i, a)
    {
        const char *bully = json_string_value(json_object_get(a, "bully"));
        const char *victim = json_string_value(json_object_get(a, "victim"));
        if (shown == ACTIONS_SHOWN ||
            !((bully && strcmp(bully, key) == 0) || (victim && strcmp(victim, key) == 0)))
            continue;
        shown++;
        text_append_str(out, "  ");
        table_format_value(json_object_get(a, "at"), TABLE_TEXT, 0, out);
        text_append_str(out, "  ");
        table_format_value(json_object_get(a, "verb"), TABLE_TEXT, 0, out);
        text_append_str(out, " (");
        table_format_value(json_object_get(a, "decision"), TABLE_TEXT, 0, out);
        text_append_str(out, "): ");
        table_format_value(json_object_get(a, "reason"), TABLE_TEXT, 0, out);
        text_append_str(out, "\n");
    }
    if (shown == 0)
        text_append_str(out, "  none\n");
    json_decref(items);
    return CLI_OK;
}

void describe_counters(struct text *out, const struct cli *c, const json_t *counters)
{
    static const struct table_column columns[] = {
        {"  OPERATION", "op", TABLE_TEXT, false},  {"ARRIVED", "arrivals", TABLE_EXACT, false},
        {"DONE", "completions", TABLE_EXACT, false}, {"ERRORS", "errors", TABLE_EXACT, false},
        {"BYTES", "bytes", TABLE_EXACT, false},    {"HELD", "held", TABLE_EXACT, false},
        {"DROPPED", "dropped", TABLE_EXACT, false},
    };
    struct table *t = table_new(columns, 7, TABLE_STYLE_NARROW, 0);
    const char *op;
    json_t *values;
    json_object_foreach((json_t *)(uintptr_t)counters, op, values)
    {
        if (!t || json_integer_value(json_object_get(values, "arrivals")) == 0)
            continue;
        json_t *row = json_copy(values);
        char name[64];
        snprintf(name, sizeof(name), "  %s", op);
        json_object_set_new(row, "op", json_string(name));
        table_add(t, row);
        json_decref(row);
    }
    if (t && table_rows(t) > 0)
        table_print(t, true, c->color, out);
    else
        text_append_str(out, "  none yet\n");
    table_free(t);
}

/* What a plan adds for a while. */
static void put_control(struct text *out, const json_t *o)
{
    static const struct describe_line lines[] = {
        {"  since", "control.since", TABLE_TEXT},
        {"  reason", "control.reason", TABLE_TEXT},
    };
    text_printf(out, "%-16s", "  desired");
    put_rates(out, table_value(o, "control.desired"));
    text_printf(out, "\n%-16s", "  applied");
    put_rates(out, table_value(o, "control.applied"));
    text_append_str(out, "\n");
    PUT_LINES(out, o, lines);
}

static void put_rules(struct text *out, const struct cli *c, const json_t *rules)
{
    static const struct table_column columns[] = {
        {"  AGREEMENT", "name", TABLE_TEXT, false}, {"VERSION", "version", TABLE_EXACT, false},
        {"SAYS", "says", TABLE_TEXT, false},        {"WHY", "why", TABLE_TEXT, false},
    };
    struct table *t = table_new(columns, 4, TABLE_STYLE_NARROW, 0);
    size_t i;
    json_t *rule;
    json_array_foreach(rules, i, rule)
    {
        json_t *row = json_copy(rule);
        char name[160];
        const char *agreement = json_string_value(json_object_get(rule, "agreement"));
        snprintf(name, sizeof(name), "  %s", agreement ? agreement : "?");
        json_object_set_new(row, "name", json_string(name));
        if (t)
            table_add(t, row);
        json_decref(row);
    }
    if (t && table_rows(t) > 0)
        table_print(t, true, c->color, out);
    else
        text_append_str(out, "  none selects it\n");
    table_free(t);
}

/* As people write it: "30s" of "PT30S". */
static void put_duration(struct text *out, const char *iso)
{
    char words[32];
    uint64_t ns;
    if (iso && units_parse_duration_ns(iso, &ns, NULL) == 0)
        text_append_str(out, units_format_duration_ns(ns, words, sizeof(words)));
    else
        text_append_str(out, "?");
}

/* One unit of a limit, if it has that: "iops 2000/s, in a burst 4000/s for 30s". */
static void put_limit(struct text *out, const json_t *limit, const char *key, const char *words,
                      bool bytes)
{
    const json_t *rate = json_object_get(limit, key), *burst = json_object_get(limit, "burst");
    const json_t *more = json_object_get(burst, key);
    if (!json_is_integer(rate))
        return;
    text_printf(out, "      %-16s", words);
    table_format_value(rate, bytes ? TABLE_RATE : TABLE_EXACT, 0, out);
    text_append_str(out, bytes ? "" : "/s");
    if (json_is_integer(more)) {
        text_append_str(out, ", in a burst ");
        table_format_value(more, bytes ? TABLE_RATE : TABLE_EXACT, 0, out);
        text_printf(out, "%s for ", bytes ? "" : "/s");
        put_duration(out, json_string_value(json_object_get(burst, "for")));
    }
    text_append_str(out, "\n");
}

/* What holds for good; what a plan adds for a while stands under "Planned on top". */
static void put_limits(struct text *out, const json_t *rules)
{
    static const struct {
        const char *key, *words;
        bool bytes;
    } units[] = {
        {"iops", "iops", false},
        {"iopsRead", "iops-read", false},
        {"iopsWrite", "iops-write", false},
        {"bandwidth", "bandwidth", true},
        {"bandwidthRead", "bandwidth-read", true},
        {"bandwidthWrite", "bandwidth-write", true},
    };
    bool any = false;
    size_t i;
    json_t *rule;
    json_array_foreach(rules, i, rule)
    {
        const char *name = json_string_value(json_object_get(rule, "agreement"));
        const char *says = json_string_value(json_object_get(rule, "says"));
        const json_t *limit = json_object_get(rule, "limit");
        if (!json_is_object(limit) || !name || !says ||
            (strcmp(says, "promise") != 0 && strcmp(says, "limits") != 0))
            continue;
        struct text lines;
        text_init(&lines, 4096);
        for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++)
            put_limit(&lines, limit, units[u].key, units[u].words, units[u].bytes);
        if (json_is_true(json_object_get(rule, "bySize")))
            text_printf(&lines, "      %-16s%s\n", "by size",
                        "so much for each GiB: `weir describe agreement` has it");
        if (lines.len > 0) {
            text_append_str(out, "  ");
            text_append_escaped(out, name);
            text_printf(out, " (agreement, %s)\n%s",
                        json_is_true(json_object_get(rule, "shared")) ? "all its streams together"
                                                                      : "each stream by itself",
                        lines.data);
            any = true;
        }
        text_fini(&lines);
    }
    if (!any)
        text_append_str(out, "  no agreement limits it\n");
}

static enum cli_exit describe_stream(struct cli *c, const json_t *o, struct text *out)
{
    static const struct describe_line identity[] = {
        {"stream", "key", TABLE_TEXT},       {"host", "host", TABLE_TEXT},
        {"volume", "volume", TABLE_TEXT},    {"size", "size", TABLE_SIZE},
        {"tenant", "tenant", TABLE_TEXT},    {"target", "target", TABLE_TEXT},
        {"gateway", "gateway", TABLE_TEXT},  {"connections", "connections", TABLE_EXACT},
    };
    static const struct describe_line promise[] = {
        {"agreement", "agreement", TABLE_TEXT},
        {"version", "agreementVersion", TABLE_EXACT},
        {"verdict", "verdict", TABLE_TEXT},
        {"judged", "judgedLatencyUs", TABLE_LATENCY},
        {"harm to others", "harmPercent", TABLE_PERCENT},
    };
    static const struct describe_line flow[] = {
        {"  demand", "demandIops", TABLE_EXACT},      {"  served", "iops", TABLE_EXACT},
        {"  reads", "readIops", TABLE_EXACT},         {"  writes", "writeIops", TABLE_EXACT},
        {"  read/s", "readBytesPerSecond", TABLE_RATE},
        {"  write/s", "writeBytesPerSecond", TABLE_RATE},
        {"  in flight", "inflight", TABLE_EXACT},
        {"  errors/s", "errorsPerSecond", TABLE_EXACT},
    };
    static const struct describe_line waiting[] = {
        {"  held now", "heldNow", TABLE_EXACT},
        {"  the oldest", "oldestHeldUs", TABLE_LATENCY},
        {"  held by", "heldBy", TABLE_TEXT},
        {"  burst credit", "burstCreditPercent", TABLE_PERCENT},
    };
    PUT_LINES(out, o, identity);
    describe_title(out, c, "Promise");
    put_objective(out, o);
    PUT_LINES(out, o, promise);
    describe_title(out, c, "Agreements, in their order");
    put_rules(out, c, json_object_get(o, "rules"));
    describe_title(out, c, "I/O per second");
    PUT_LINES(out, o, flow);
    describe_title(out, c, "Latency of the last period");
    latency_rows(out, c, json_object_get(o, "latency"));
    if (json_object_get(o, "histograms")) {
        describe_title(out, c, "How it spreads, since the gateway began");
        latency_spread(out, NULL, json_object_get(o, "histograms"));
    }
    describe_title(out, c, "Limits in force");
    put_limits(out, json_object_get(o, "rules"));
    describe_title(out, c, "Planned on top");
    put_control(out, o);
    describe_title(out, c, "Waiting now");
    PUT_LINES(out, o, waiting);
    describe_title(out, c, "Counters");
    describe_counters(out, c, json_object_get(o, "counters"));
    return put_actions(c, out, json_string_value(json_object_get(o, "key")));
}

static enum cli_exit describe_agreement(struct cli *c, const json_t *o, struct text *out)
{
    static const struct describe_line lines[] = {
        {"agreement", "name", TABLE_TEXT},        {"version", "version", TABLE_EXACT},
        {"updated", "updated", TABLE_TEXT},       {"in force since", "status.since", TABLE_TEXT},
        {"asleep", "status.asleep", TABLE_TEXT},  {"verdict", "status.verdict", TABLE_TEXT},
        {"streams", "status.streams", TABLE_EXACT}, {"demand", "status.demandIops", TABLE_EXACT},
        {"served", "status.iops", TABLE_EXACT},   {"latency", "status.latencyUs", TABLE_LATENCY},
        {"windows", "status.windows", TABLE_EXACT},
        {"windows met", "status.windowsMet", TABLE_EXACT},
    };
    static const struct table_column columns[] = {
        {"STREAM", "key", TABLE_TEXT, false},   {"VERDICT", "verdict", TABLE_VERDICT, false},
        {"IOPS", "iops", TABLE_COUNT, false},
        {"P99", "latency.total.p99Us", TABLE_LATENCY, false},
        {"HARM", "harmPercent", TABLE_PERCENT, false},
    };
    PUT_LINES(out, o, lines);
    describe_title(out, c, "Document");
    json_t *people = kind_people_form(o);
    yaml_print(people, out);
    json_decref(people);

    struct text query;
    text_init(&query, 1024);
    text_append_str(&query, "agreement=");
    http_encode(&query, json_string_value(json_object_get(o, "name")));
    json_t *items, *s;
    size_t i;
    enum cli_exit r = http_list(c, "/api/v1/streams", query.data, 0, &items);
    text_fini(&query);
    if (r != CLI_OK)
        return r;
    describe_title(out, c, "Streams");
    struct table *t = table_new(columns, 5, TABLE_STYLE_NARROW, 0);
    json_array_foreach(items, i, s)
    {
        if (t)
            table_add(t, s);
    }
    if (t && table_rows(t) > 0)
        table_print(t, true, c->color, out);
    else
        text_append_str(out, "  none is covered now\n");
    table_free(t);
    json_decref(items);
    return CLI_OK;
}

static enum cli_exit describe_one(struct cli *c, const struct kind *k, const json_t *o)
{
    struct text out;
    text_init(&out, DESCRIPTION_MAX);
    enum cli_exit r = CLI_OK;
    if (strcmp(k->singular, "stream") == 0)
        r = describe_stream(c, o, &out);
    else if (strcmp(k->singular, "agreement") == 0)
        r = describe_agreement(c, o, &out);
    else
        yaml_print(o, &out);
    if (r == CLI_OK && !out.failed)
        cli_put(&out);
    text_fini(&out);
    return r;
}

enum cli_exit cli_describe(struct cli *c)
{
    const struct kind *k;
    json_t *items, *o;
    size_t i;
    enum cli_exit r = get_kind(c->args[0], &k);
    if (r == CLI_OK && c->o.gateway)
        return describe_socket(c, k);
    if (r == CLI_OK)
        r = get_named(c, k, &items);
    if (r != CLI_OK)
        return r;
    json_array_foreach(items, i, o)
    {
        if (i > 0)
            printf("\n");
        if (r == CLI_OK)
            r = describe_one(c, k, o);
    }
    json_decref(items);
    return r;
}

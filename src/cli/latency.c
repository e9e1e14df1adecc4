/* SPDX-License-Identifier: Apache-2.0 */
/* A gateway's histograms have fine buckets (some 4 % wide); for people they are added up into steps
 * of 1, 2 and 5. A fine bucket belongs to the step in which its upper edge lies. */
#include "cli/latency.h"

#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/table.h"

#define BAR_WIDTH 20
#define PARTS 3

static const char *const parts[PARTS] = {"held", "target", "total"};

/* Upper edges, in us. The last has none. */
static const double steps[] = {10,  20,  50,  100, 200, 500, 1e3, 2e3, 5e3, 1e4,
                               2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 1e30};
#define STEPS (sizeof(steps) / sizeof(steps[0]))

static void bar(char out[BAR_WIDTH + 1], double share)
{
    int n = (int)(share * BAR_WIDTH + 0.5);
    n = n < 0 ? 0 : n > BAR_WIDTH ? BAR_WIDTH : n;
    if (n == 0 && share > 0)
        n = 1;
    memset(out, '#', (size_t)n);
    out[n] = '\0';
}

void latency_rows(struct text *out, const struct cli *c, const json_t *latency)
{
    static const struct table_column columns[] = {
        {"  WHERE", "where", TABLE_TEXT, false}, {"MEAN", "meanUs", TABLE_LATENCY, false},
        {"P50", "p50Us", TABLE_LATENCY, false},  {"P99", "p99Us", TABLE_LATENCY, false},
        {"MAX", "maxUs", TABLE_LATENCY, false},  {"SHARE", "share", TABLE_PERCENT, false},
        {"", "bar", TABLE_TEXT, false},
    };
    static const char *const words[PARTS] = {"  held by Weir", "  in the storage", "  total"};
    struct table *t = table_new(columns, sizeof(columns) / sizeof(columns[0]), TABLE_STYLE_NARROW,
                                0);
    double held = json_number_value(table_value(latency, "held.meanUs"));
    double target = json_number_value(table_value(latency, "target.meanUs"));
    const double means[PARTS] = {held, target, held + target};
    for (size_t i = 0; t && i < PARTS; i++) {
        json_t *row = json_deep_copy(json_object_get(latency, parts[i]));
        if (row && means[2] > 0) {
            char text[BAR_WIDTH + 1];
            bar(text, means[i] / means[2]);
            json_object_set_new(row, "share", json_real(100.0 * means[i] / means[2]));
            json_object_set_new(row, "bar", json_string(text));
        }
        if (row) {
            json_object_set_new(row, "where", json_string(words[i]));
            table_add(t, row);
        }
        json_decref(row);
    }
    if (t)
        table_print(t, true, c->color, out);
    table_free(t);
}

/* Add the counts of one histogram, @sign times, to its steps. */
static void add_steps(double into[STEPS], const json_t *histogram, double sign)
{
    double before = 0;
    size_t i;
    json_t *pair;
    json_array_foreach(json_object_get(histogram, "buckets"), i, pair)
    {
        double edge = json_number_value(json_array_get(pair, 0));
        double upto = json_number_value(json_array_get(pair, 1));
        size_t s = 0;
        while (s < STEPS - 1 && edge > steps[s] * 1.0001)
            s++;
        into[s] += sign * (upto - before);
        before = upto;
    }
}

static void put_step(struct text *out, size_t s, const double count[PARTS][STEPS],
                     const double sum[PARTS])
{
    char edge[32];
    if (s < STEPS - 1)
        units_format_latency_us((uint64_t)steps[s], edge, sizeof(edge));
    else
        snprintf(edge, sizeof(edge), "more");
    text_printf(out, "  %-8s", edge);
    for (size_t p = 0; p < PARTS; p++) {
        char text[BAR_WIDTH + 1];
        double share = sum[p] > 0 ? count[p][s] / sum[p] : 0;
        bar(text, share);
        if (share > 0)
            text_printf(out, " %5.1f%% %-*s", 100.0 * share, p + 1 < PARTS ? BAR_WIDTH : 0, text);
        else if (p + 1 < PARTS)
            text_printf(out, " %5s  %-*s", "", BAR_WIDTH, "");
    }
    text_append_str(out, "\n");
}

void latency_spread(struct text *out, const json_t *before, const json_t *after)
{
    static const char *const directions[] = {"read", "write"};
    double count[PARTS][STEPS] = {{0}}, sum[PARTS] = {0};
    size_t first = STEPS, last = 0;
    for (size_t p = 0; p < PARTS; p++) {
        for (size_t d = 0; d < 2; d++) {
            const json_t *a = json_object_get(json_object_get(after, directions[d]), parts[p]);
            const json_t *b = json_object_get(json_object_get(before, directions[d]), parts[p]);
            add_steps(count[p], a, 1);
            add_steps(count[p], b, -1);
        }
        for (size_t s = 0; s < STEPS; s++) {
            sum[p] += count[p][s];
            if (count[p][s] > 0) {
                first = s < first ? s : first;
                last = s > last ? s : last;
            }
        }
    }
    if (first == STEPS) {
        text_append_str(out, "  nothing was done\n");
        return;
    }
    text_printf(out, "  %-8s %-27s %-27s %s\n", "UP TO", "HELD", "TARGET", "TOTAL");
    for (size_t s = first; s <= last; s++)
        put_step(out, s, count, sum);
}

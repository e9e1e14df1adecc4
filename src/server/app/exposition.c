/* SPDX-License-Identifier: Apache-2.0 */
#include "server/app/exposition.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

#define LABEL_VALUE_MAX 256u

/* Three a decade from 50 us to 10 s: what tells a cache from a disk from a queue. */
const uint64_t exposition_edges_us[EXPOSITION_BUCKETS] = {
    50,    100,    200,    500,    1000,    2000,    5000,    10000,    20000,
    50000, 100000, 200000, 500000, 1000000, 2000000, 5000000, 10000000,
};

void exposition_family(struct text *out, const char *family, const char *type, const char *help)
{
    text_printf(out, "# HELP %s %s\n# TYPE %s %s\n", family, help, family, type);
}

static void append_label(struct text *out, const char *name, const char *value, const char *before)
{
    text_append_str(out, before);
    text_append_str(out, name);
    text_append(out, "=\"", 2);
    size_t n = strnlen(value, LABEL_VALUE_MAX);
    while (n > 0 && value[n] != '\0' && ((unsigned char)value[n] & 0xc0) == 0x80)
        n--; /* cut between characters */
    for (size_t i = 0; i < n; i++) {
        if (value[i] == '\\' || value[i] == '"')
            text_append(out, "\\", 1);
        if (value[i] == '\n')
            text_append(out, "\\n", 2);
        else
            text_append(out, &value[i], 1);
    }
    text_append(out, "\"", 1);
}

/* @le may be NULL. */
static void append_labels(struct text *out, const struct label *labels, const char *le)
{
    const char *before = "{";
    for (; labels && labels->name; labels++) {
        append_label(out, labels->name, labels->value, before);
        before = ",";
    }
    if (le) {
        append_label(out, "le", le, before);
        before = ",";
    }
    if (*before == ',')
        text_append(out, "}", 1);
}

void exposition_value(struct text *out, const char *family, const struct label *labels,
                      double value)
{
    weir_assert(isfinite(value));
    text_append_str(out, family);
    append_labels(out, labels, NULL);
    text_printf(out, " %.9g\n", value);
}

void exposition_count(struct text *out, const char *family, const struct label *labels,
                      uint64_t value)
{
    text_append_str(out, family);
    append_labels(out, labels, NULL);
    text_printf(out, " %" PRIu64 "\n", value);
}

void exposition_histogram(struct text *out, const char *family, const struct label *labels,
                          const uint64_t cumulative[EXPOSITION_BUCKETS], uint64_t count,
                          double sum_seconds)
{
    char le[32];
    for (size_t i = 0; i <= EXPOSITION_BUCKETS; i++) {
        bool last = i == EXPOSITION_BUCKETS;
        snprintf(le, sizeof(le), "%.9g", last ? INFINITY : (double)exposition_edges_us[i] / 1e6);
        text_append_str(out, family);
        text_append_str(out, "_bucket");
        append_labels(out, labels, last ? "+Inf" : le);
        text_printf(out, " %" PRIu64 "\n", last ? count : cumulative[i]);
    }
    text_append_str(out, family);
    text_append_str(out, "_sum");
    append_labels(out, labels, NULL);
    text_printf(out, " %.9g\n", sum_seconds);
    text_append_str(out, family);
    text_append_str(out, "_count");
    append_labels(out, labels, NULL);
    text_printf(out, " %" PRIu64 "\n", count);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Selector and limits. A burst is written once for all units, {iops, bandwidth, ..., for}; in the
 * data each rate that has a burst carries its own length, and one that has none carries 0. */
#include "server/model/parts.h"

#include "base/clock.h"

#define PATTERN(name)                                                                              \
    {                                                                                              \
        .key = #name, .type = FIELD_PATTERN, .at = offsetof(struct selector, name),                \
        .expected = MODEL_EXPECT_PATTERN                                                           \
    }

static const struct field selector_fields[] = {
    PATTERN(tenant),
    PATTERN(host),
    PATTERN(volume),
    PATTERN(target),
};

const struct field_table model_selector_table = {.field = selector_fields, .count = 4};

static void check_member(struct field_reader *r, void *object)
{
    const struct selector *s = object;
    if (s->host[0] == '\0' && s->volume[0] == '\0' && s->target[0] == '\0')
        field_error(r, "found no pattern, expected host, volume or target (\"*\" selects all)");
}

const struct field_table model_member_table = {
    .field = selector_fields + 1, .count = 3, .check = check_member};

static int render_pattern(json_t *object, const char *key, const char *pattern)
{
    return pattern[0] == '\0' ? 0 : json_object_set_new(object, key, json_string(pattern));
}

json_t *model_selector_render(const struct selector *s)
{
    json_t *object = json_object();
    if (object == NULL || render_pattern(object, "tenant", s->tenant) != 0 ||
        render_pattern(object, "host", s->host) != 0 ||
        render_pattern(object, "volume", s->volume) != 0 ||
        render_pattern(object, "target", s->target) != 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

#define IOPS_LIMIT(name, kind)                                                                     \
    {                                                                                              \
        .key = name, .type = FIELD_IOPS, .unlimited = true, .min = 1, .max = MODEL_MAX_IOPS,       \
        .at = offsetof(struct gate_limits, rate[kind].rate), .expected = MODEL_EXPECT_IOPS         \
    }
#define BANDWIDTH_LIMIT(name, kind)                                                                \
    {                                                                                              \
        .key = name, .type = FIELD_BANDWIDTH, .unlimited = true, .min = 1,                         \
        .max = MODEL_MAX_BANDWIDTH, .at = offsetof(struct gate_limits, rate[kind].rate),           \
        .expected = MODEL_EXPECT_BANDWIDTH                                                         \
    }

#define IOPS_BURST(name, kind)                                                                     \
    {                                                                                              \
        .key = name, .type = FIELD_IOPS, .min = 1, .max = MODEL_MAX_IOPS,                          \
        .at = offsetof(struct gate_limits, rate[kind].burst_rate), .expected = MODEL_EXPECT_IOPS   \
    }
#define BANDWIDTH_BURST(name, kind)                                                                \
    {                                                                                              \
        .key = name, .type = FIELD_BANDWIDTH, .min = 1, .max = MODEL_MAX_BANDWIDTH,                \
        .at = offsetof(struct gate_limits, rate[kind].burst_rate),                                 \
        .expected = MODEL_EXPECT_BANDWIDTH                                                         \
    }

static const struct field burst_fields[] = {
    IOPS_BURST("iops", GATE_IOPS_TOTAL),
    IOPS_BURST("iopsRead", GATE_IOPS_READ),
    IOPS_BURST("iopsWrite", GATE_IOPS_WRITE),
    BANDWIDTH_BURST("bandwidth", GATE_BYTES_TOTAL),
    BANDWIDTH_BURST("bandwidthRead", GATE_BYTES_READ),
    BANDWIDTH_BURST("bandwidthWrite", GATE_BYTES_WRITE),
    {.key = "for",
     .type = FIELD_DURATION,
     .required = true,
     .min = NS_PER_MS,
     .max = 86400 * (int64_t)NS_PER_S,
     .at = offsetof(struct gate_limits, rate[GATE_IOPS_TOTAL].burst_ns),
     .expected = "how long a burst may last, such as 60s; 1ms to 1d"},
};

/* The keys of limits and bursts, by kind. */
static const char *const kind_keys[GATE_KIND_COUNT] = {
    [GATE_IOPS_READ] = "iopsRead",       [GATE_IOPS_WRITE] = "iopsWrite",
    [GATE_IOPS_TOTAL] = "iops",          [GATE_BYTES_READ] = "bandwidthRead",
    [GATE_BYTES_WRITE] = "bandwidthWrite", [GATE_BYTES_TOTAL] = "bandwidth",
};

/* "for" was read into the IOPS rate; give it to those that burst. */
static void settle_burst(struct field_reader *r, void *object)
{
    struct gate_limits *l = object;
    uint64_t length = l->rate[GATE_IOPS_TOTAL].burst_ns;
    bool any = false;
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        any = any || l->rate[k].burst_rate != 0;
        l->rate[k].burst_ns = l->rate[k].burst_rate != 0 ? length : 0;
    }
    if (!any)
        field_error(r, "found only its length, expected at least one rate such as iops");
}

static const struct field_table burst_table = {
    .field = burst_fields, .count = 7, .check = settle_burst};

static void check_burst(struct field_reader *r, const struct bucket_rate *rate, const char *key)
{
    if (rate->burst_rate == 0 || (rate->rate != 0 && rate->burst_rate > rate->rate))
        return;
    size_t len = field_enter(r, "burst");
    field_enter(r, key);
    if (rate->rate == 0)
        field_error(r, "found a burst without a limit, expected limit.%s beside it", key);
    else
        field_error(r, "found %llu, expected more than the limit of %llu",
                    (unsigned long long)rate->burst_rate, (unsigned long long)rate->rate);
    field_leave(r, len);
}

static void check_limits(struct field_reader *r, void *object)
{
    const struct gate_limits *l = object;
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        check_burst(r, &l->rate[k], kind_keys[k]);
}

static const struct field limits_fields[] = {
    IOPS_LIMIT("iops", GATE_IOPS_TOTAL),
    IOPS_LIMIT("iopsRead", GATE_IOPS_READ),
    IOPS_LIMIT("iopsWrite", GATE_IOPS_WRITE),
    BANDWIDTH_LIMIT("bandwidth", GATE_BYTES_TOTAL),
    BANDWIDTH_LIMIT("bandwidthRead", GATE_BYTES_READ),
    BANDWIDTH_LIMIT("bandwidthWrite", GATE_BYTES_WRITE),
    {.key = "burst",
     .type = FIELD_OBJECT,
     .table = &burst_table,
     .expected = "an object with iops or bandwidth, and for"},
};

const struct field_table model_limits_table = {
    .field = limits_fields, .count = 7, .check = check_limits};

static json_t *render_burst(const struct gate_limits *l)
{
    uint64_t ns = 0;
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        ns = l->rate[k].burst_rate != 0 ? l->rate[k].burst_ns : ns;
    if (ns == 0)
        return json_null();
    json_t *burst = json_pack("{s:o}", "for", field_render_duration(ns));
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        json_object_set_new(burst, kind_keys[k], field_render_number(l->rate[k].burst_rate, 0));
    return burst;
}

json_t *model_limits_render(const struct gate_limits *l)
{
    json_t *limits = json_pack("{s:o}", "burst", render_burst(l));
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        json_object_set_new(limits, kind_keys[k], field_render_number(l->rate[k].rate, 0));
    return limits;
}

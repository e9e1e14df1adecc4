/* SPDX-License-Identifier: Apache-2.0 */
/* Agreements. The objective that holds at a demand is the one with the smallest whileIops that is
 * not below it, so they must ascend and be distinct; only the last may hold at any demand. */
#include "base/clock.h"
#include "base/err.h"
#include "base/units.h"
#include "server/model/model.h"
#include "server/model/parts.h"

#define DAY_NS         (86400 * (int64_t)NS_PER_S)

static const struct field objective_fields[] = {
    {.key = "percentile",
     .type = FIELD_PERCENTILE,
     .required = true,
     .min = 500000,
     .max = 999900,
     .at = offsetof(struct objective, percentile_ppm),
     .expected = "a percentile from 50 to 99.99, or mean"},
    {.key = "latency",
     .type = FIELD_LATENCY,
     .required = true,
     .min = 1,
     .max = MODEL_MAX_LATENCY_US,
     .at = offsetof(struct objective, latency_us),
     .twin = "latencyUs",
     .expected = "a latency such as 5ms, up to 60s"},
    {.key = "latencyUs",
     .type = FIELD_LATENCY_US,
     .min = 1,
     .max = MODEL_MAX_LATENCY_US,
     .at = offsetof(struct objective, latency_us),
     .expected = "microseconds as an integer, 1 to 60000000"},
    {.key = "whileIops",
     .type = FIELD_IOPS,
     .unlimited = true,
     .none = UNITS_UNLIMITED,
     .min = 1,
     .max = MODEL_MAX_IOPS,
     .at = offsetof(struct objective, while_iops),
     .expected = "the demand up to which it holds, I/Os per second, 1 to 1000000000; any demand is "
                 "null or unlimited"},
};

static const struct field_table objective_table = {.field = objective_fields, .count = 4};

#define RESERVED_IOPS(name, member)                                                                \
    {                                                                                              \
        .key = name, .type = FIELD_IOPS, .min = 1, .max = MODEL_MAX_IOPS,                          \
        .at = offsetof(struct agreement, member), .expected = MODEL_EXPECT_IOPS                    \
    }
#define RESERVED_BANDWIDTH(name, member)                                                           \
    {                                                                                              \
        .key = name, .type = FIELD_BANDWIDTH, .min = 1, .max = MODEL_MAX_BANDWIDTH,                \
        .at = offsetof(struct agreement, member), .expected = MODEL_EXPECT_BANDWIDTH               \
    }

static const struct field reservation_fields[] = {
    RESERVED_IOPS("iops", reservation_iops),
    RESERVED_IOPS("iopsRead", reservation_read_iops),
    RESERVED_IOPS("iopsWrite", reservation_write_iops),
    RESERVED_BANDWIDTH("bandwidth", reservation_bytes_s),
    RESERVED_BANDWIDTH("bandwidthRead", reservation_read_bytes_s),
    RESERVED_BANDWIDTH("bandwidthWrite", reservation_write_bytes_s),
};

static const struct field_table reservation_table = {.field = reservation_fields, .count = 6};

static const struct field per_gib_fields[] = {
    RESERVED_IOPS("iops", per_gib.iops),
    RESERVED_IOPS("leastIops", per_gib.least_iops),
    RESERVED_BANDWIDTH("bandwidth", per_gib.bytes_s),
    RESERVED_BANDWIDTH("leastBandwidth", per_gib.least_bytes_s),
};

static void check_least(struct field_reader *r, const char *key, uint64_t at_least, uint64_t each,
                        uint64_t most)
{
    size_t len = field_enter(r, "limitPerGiB");
    field_enter(r, key);
    if (at_least != 0 && each == 0)
        field_error(r, "found a least without a rate, expected one for each GiB beside it");
    else if (at_least != 0 && most != 0 && at_least > most)
        field_error(r, "found %llu, expected not more than the limit, %llu",
                    (unsigned long long)at_least, (unsigned long long)most);
    field_leave(r, len);
}

static const struct field_table per_gib_table = {.field = per_gib_fields, .count = 4};

static const struct field compliance_fields[] = {
    {.key = "target",
     .type = FIELD_PERCENT,
     .min = 1,
     .max = 1000000,
     .at = offsetof(struct agreement, compliance_target_ppm),
     .expected = "a percentage such as 99.9%, above 0"},
    {.key = "window",
     .type = FIELD_DURATION,
     .min = NS_PER_S,
     .max = 3600 * (int64_t)NS_PER_S,
     .at = offsetof(struct agreement, compliance_window_ns),
     .expected = "a duration such as 10s, 1s to 1h"},
    {.key = "over",
     .type = FIELD_DURATION,
     .min = 60 * (int64_t)NS_PER_S,
     .max = 400 * DAY_NS,
     .at = offsetof(struct agreement, compliance_over_ns),
     .expected = "a duration such as 30d, 1m to 400d"},
};

static void check_compliance(struct field_reader *r, void *object)
{
    const struct agreement *a = object;
    if (a->compliance_window_ns > a->compliance_over_ns)
        field_error(r, "found a window longer than the whole period, expected window <= over");
}

static const struct field_table compliance_table = {
    .field = compliance_fields, .count = 3, .check = check_compliance};

static const char *const per_words[] = {"group", "stream", NULL};
_Static_assert(AGREEMENT_PER_GROUP == 0 && AGREEMENT_PER_STREAM == 1,
               "words stand in the order of the enum");
_Static_assert(sizeof(enum agreement_per) == sizeof(int), "the reader stores an int");

static void check_ascending(struct field_reader *r, const struct agreement *a)
{
    for (size_t i = 1; i < a->objective_count; i++)
        if (a->objective[i].while_iops <= a->objective[i - 1].while_iops)
            field_error(r,
                        "objectives[%zu].whileIops: found not more than in objectives[%zu], "
                        "expected distinct values"
                        " in ascending order (any demand last)",
                        i, i - 1);
}

static void check_reserved(struct field_reader *r, const char *key, uint64_t reserved,
                           uint64_t limit)
{
    if (limit == 0 || reserved <= limit)
        return;
    size_t len = field_enter(r, "reservation");
    field_enter(r, key);
    field_error(r, "found %llu, expected not more than limit.%s, %llu",
                (unsigned long long)reserved, key, (unsigned long long)limit);
    field_leave(r, len);
}

/* Reads and writes each within the limit of both, but not together. */
static void check_sum(struct field_reader *r, const char *key, uint64_t reads, uint64_t writes,
                      uint64_t limit)
{
    if (limit == 0 || reads > limit || writes > limit || reads + writes <= limit)
        return;
    size_t len = field_enter(r, "reservation");
    field_error(r, "%sRead and %sWrite: found %llu together, expected not more than limit.%s, %llu",
                key, key, (unsigned long long)(reads + writes), key, (unsigned long long)limit);
    field_leave(r, len);
}

/* The tighter of two limits, where 0 is none. */
static uint64_t least(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static void check_reservations(struct field_reader *r, const struct agreement *a)
{
    const struct bucket_rate *l = a->limits.rate;
    uint64_t iops = l[GATE_IOPS_TOTAL].rate, bytes = l[GATE_BYTES_TOTAL].rate;
    check_reserved(r, "iops", a->reservation_iops, iops);
    check_sum(r, "iops", a->reservation_read_iops, a->reservation_write_iops, iops);
    check_sum(r, "bandwidth", a->reservation_read_bytes_s, a->reservation_write_bytes_s, bytes);
    check_reserved(r, "iopsRead", a->reservation_read_iops, least(l[GATE_IOPS_READ].rate, iops));
    check_reserved(r, "iopsWrite", a->reservation_write_iops,
                   least(l[GATE_IOPS_WRITE].rate, iops));
    check_reserved(r, "bandwidth", a->reservation_bytes_s, bytes);
    check_reserved(r, "bandwidthRead", a->reservation_read_bytes_s,
                   least(l[GATE_BYTES_READ].rate, bytes));
    check_reserved(r, "bandwidthWrite", a->reservation_write_bytes_s,
                   least(l[GATE_BYTES_WRITE].rate, bytes));
}

static void check_agreement(struct field_reader *r, void *object)
{
    const struct agreement *a = object;
    check_ascending(r, a);
    check_reservations(r, a);
    check_least(r, "leastIops", a->per_gib.least_iops, a->per_gib.iops,
                a->limits.rate[GATE_IOPS_TOTAL].rate);
    check_least(r, "leastBandwidth", a->per_gib.least_bytes_s, a->per_gib.bytes_s,
                a->limits.rate[GATE_BYTES_TOTAL].rate);
}

static const struct field agreement_fields[] = {
    {.key = "appliesTo",
     .type = FIELD_OBJECT,
     .required = true,
     .at = offsetof(struct agreement, applies_to),
     .table = &model_selector_table,
     .expected = "who is meant, such as {tenant: acme, volume: db-*}; {} is everybody"},
    {.key = "default",
     .type = FIELD_BOOL,
     .at = offsetof(struct agreement, fallback),
     .expected = "true (only for streams that no other agreement selects) or false"},
    {.key = "per",
     .type = FIELD_WORD,
     .words = per_words,
     .at = offsetof(struct agreement, per),
     .expected = "group or stream"},
    {.key = "objectives",
     .type = FIELD_LIST,
     .at = offsetof(struct agreement, objective),
     .table = &objective_table,
     .stride = sizeof(struct objective),
     .max_items = AGREEMENT_MAX_OBJECTIVES,
     .count_at = offsetof(struct agreement, objective_count),
     .expected = "a list of at most 8 objectives"},
    {.key = "reservation",
     .type = FIELD_OBJECT,
     .table = &reservation_table,
     .expected = "an object"},
    {.key = "limit",
     .type = FIELD_OBJECT,
     .at = offsetof(struct agreement, limits),
     .table = &model_limits_table,
     .expected = "an object"},
    {.key = "limitPerGiB",
     .type = FIELD_OBJECT,
     .table = &per_gib_table,
     .expected = "an object with iops or bandwidth for each GiB"},
    {.key = "weight",
     .type = FIELD_INTEGER,
     .min = 1,
     .max = 10000,
     .at = offsetof(struct agreement, weight),
     .expected = "an integer from 1 to 10000"},
    {.key = "priority",
     .type = FIELD_INTEGER,
     .min = -1000,
     .max = 1000,
     .at = offsetof(struct agreement, priority),
     .expected = "an integer from -1000 to 1000"},
    {.key = "compliance",
     .type = FIELD_OBJECT,
     .table = &compliance_table,
     .expected = "an object"},
    {.key = "schedule",
     .type = FIELD_LIST,
     .at = offsetof(struct agreement, schedule),
     .table = &model_window_table,
     .stride = sizeof(struct week_window),
     .max_items = AGREEMENT_MAX_WINDOWS,
     .count_at = offsetof(struct agreement, schedule_count),
     .expected = "a list of at most 16 windows"},
};

static const struct field_table agreement_table = {
    .field = agreement_fields, .count = 11, .check = check_agreement};

int model_agreement_parse(const json_t *doc, struct agreement *ret, struct text *errors)
{
    struct agreement a = {.weight = AGREEMENT_WEIGHT,
                          .compliance_window_ns = 10 * NS_PER_S,
                          .compliance_over_ns = 30 * (uint64_t)DAY_NS};
    for (size_t i = 0; i < AGREEMENT_MAX_OBJECTIVES; i++)
        a.objective[i].while_iops = UNITS_UNLIMITED;
    int rc = model_document_read(doc, "Agreement", a.name, &agreement_table, &a, errors);
    if (rc != 0)
        return rc;
    /* Unused places are zero, so that equal documents give equal bytes. */
    for (size_t i = a.objective_count; i < AGREEMENT_MAX_OBJECTIVES; i++)
        a.objective[i] = (struct objective){0};
    *ret = a;
    return 0;
}

static json_t *render_objectives(const struct agreement *a)
{
    json_t *list = json_array();
    for (size_t i = 0; i < a->objective_count; i++) {
        const struct objective *o = &a->objective[i];
        json_t *item = json_pack("{s:o, s:I, s:o}", "percentile",
                                 o->percentile_ppm == 0 ? json_string("mean")
                                                        : field_render_percent(o->percentile_ppm),
                                 "latencyUs", (json_int_t)o->latency_us, "whileIops",
                                 field_render_number(o->while_iops, UNITS_UNLIMITED));
        json_array_append_new(list, item);
    }
    return list;
}

static json_t *render_reservation(const struct agreement *a)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "iops",
                     field_render_number(a->reservation_iops, 0), "iopsRead",
                     field_render_number(a->reservation_read_iops, 0), "iopsWrite",
                     field_render_number(a->reservation_write_iops, 0), "bandwidth",
                     field_render_number(a->reservation_bytes_s, 0), "bandwidthRead",
                     field_render_number(a->reservation_read_bytes_s, 0), "bandwidthWrite",
                     field_render_number(a->reservation_write_bytes_s, 0));
}

static json_t *render_per_gib(const struct per_gib *p)
{
    if (p->iops == 0 && p->bytes_s == 0)
        return json_null();
    return json_pack("{s:o, s:o, s:o, s:o}", "iops", field_render_number(p->iops, 0), "leastIops",
                     field_render_number(p->least_iops, 0), "bandwidth",
                     field_render_number(p->bytes_s, 0), "leastBandwidth",
                     field_render_number(p->least_bytes_s, 0));
}

static json_t *render_compliance(const struct agreement *a)
{
    json_t *target = a->compliance_target_ppm == 0 ? json_null()
                                                   : field_render_percent(a->compliance_target_ppm);
    return json_pack("{s:o, s:o, s:o}", "target", target, "window",
                     field_render_duration(a->compliance_window_ns), "over",
                     field_render_duration(a->compliance_over_ns));
}

json_t *model_agreement_render(const struct agreement *a)
{
    json_t *spec = json_pack(
        "{s:o, s:b, s:s, s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:o}", "appliesTo",
        model_selector_render(&a->applies_to), "default", a->fallback, "per", per_words[a->per],
        "objectives", render_objectives(a), "reservation", render_reservation(a), "limit",
        model_limits_render(&a->limits), "limitPerGiB", render_per_gib(&a->per_gib), "weight",
        (json_int_t)a->weight, "priority", (json_int_t)a->priority, "compliance",
        render_compliance(a), "schedule", model_windows_render(a->schedule, a->schedule_count));
    return model_document_render("Agreement", a->name, spec);
}

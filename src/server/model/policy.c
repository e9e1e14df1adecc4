/* SPDX-License-Identifier: Apache-2.0 */
/* Policies: what may be done to whom. Times of day are UTC; a freeze whose `from` is later than its
 * `to` passes midnight, and its days are those it begins on. */
#include <stdio.h>

#include "base/err.h"
#include "server/model/model.h"
#include "server/model/parts.h"

static const struct field floor_fields[] = {
    {.key = "iops",
     .type = FIELD_IOPS,
     .min = 1,
     .max = MODEL_MAX_IOPS,
     .at = offsetof(struct policy, floor_iops),
     .expected = MODEL_EXPECT_IOPS},
    {.key = "bandwidth",
     .type = FIELD_BANDWIDTH,
     .min = 1,
     .max = MODEL_MAX_BANDWIDTH,
     .at = offsetof(struct policy, floor_bytes_s),
     .expected = MODEL_EXPECT_BANDWIDTH},
};

static const struct field_table floor_table = {.field = floor_fields, .count = 2};

/* Bit 0 of day_mask is Monday. */
static const char *const days[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun", NULL};
#define ALL_DAYS 0x7f

struct freeze {
    __typeof__(((struct policy *)NULL)->freeze[0]) f;
};
#define FREEZE_AT(member) offsetof(struct freeze, f.member)

static void check_freeze(struct field_reader *r, void *object)
{
    struct freeze *freeze = object;
    if (freeze->f.from_min == freeze->f.to_min)
        field_error(
            r, "found one time as from and to, expected two (00:00 to 24:00 is the whole day)");
    if (freeze->f.day_mask == 0)
        freeze->f.day_mask = ALL_DAYS;
}

static const struct field freeze_fields[] = {
    {.key = "days",
     .type = FIELD_DAY_MASK,
     .words = days,
     .at = FREEZE_AT(day_mask),
     .expected = "a list of distinct days out of mon, tue, wed, thu, fri, sat, sun"},
    {.key = "from",
     .type = FIELD_MINUTE,
     .required = true,
     .min = 0,
     .max = 1439,
     .at = FREEZE_AT(from_min),
     .expected = "a time of day (UTC) such as 08:00"},
    {.key = "to",
     .type = FIELD_MINUTE,
     .required = true,
     .min = 1,
     .max = 1440,
     .at = FREEZE_AT(to_min),
     .expected = "a time of day (UTC) such as 18:00, up to 24:00"},
};

static const struct field_table freeze_table = {
    .field = freeze_fields, .count = 3, .check = check_freeze};

static const struct field policy_fields[] = {
    {.key = "appliesTo",
     .type = FIELD_OBJECT,
     .required = true,
     .at = offsetof(struct policy, applies_to),
     .table = &model_selector_table,
     .expected = "who is meant, such as {tenant: acme, volume: db-*}; {} is everybody"},
    {.key = "observe",
     .type = FIELD_BOOL,
     .at = offsetof(struct policy, observe),
     .expected = "true or false"},
    {.key = "protect",
     .type = FIELD_BOOL,
     .at = offsetof(struct policy, protect),
     .expected = "true or false"},
    {.key = "floor", .type = FIELD_OBJECT, .table = &floor_table, .expected = "an object"},
    {.key = "maxCut",
     .type = FIELD_PERCENT,
     .min = 1,
     .max = 1000000,
     .at = offsetof(struct policy, max_cut_ppm),
     .expected = "the largest cut in one period as a percentage such as 20%, above 0"},
    {.key = "freeze",
     .type = FIELD_LIST,
     .at = offsetof(struct policy, freeze),
     .table = &freeze_table,
     .stride = sizeof(struct freeze),
     .max_items = POLICY_MAX_FREEZES,
     .count_at = offsetof(struct policy, freeze_count),
     .expected = "a list of at most 16 windows"},
};

static const struct field_table policy_table = {.field = policy_fields, .count = 6};

int model_policy_parse(const json_t *doc, struct policy *ret, struct text *errors)
{
    struct policy p = {.version = 0};
    int rc = model_document_read(doc, "Policy", p.name, &policy_table, &p, errors);
    if (rc == 0)
        *ret = p;
    return rc;
}

static json_t *render_minute(uint32_t minute)
{
    char text[16];
    snprintf(text, sizeof(text), "%02u:%02u", minute / 60 % 100, minute % 60);
    return json_string(text);
}

static json_t *render_freezes(const struct policy *p)
{
    json_t *list = json_array();
    for (size_t i = 0; i < p->freeze_count; i++) {
        json_t *names = json_array();
        for (int day = 0; days[day] != NULL; day++)
            if ((p->freeze[i].day_mask & (1 << day)) != 0)
                json_array_append_new(names, json_string(days[day]));
        json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "days", names, "from",
                                              render_minute(p->freeze[i].from_min), "to",
                                              render_minute(p->freeze[i].to_min)));
    }
    return list;
}

json_t *model_policy_render(const struct policy *p)
{
    json_t *spec =
        json_pack("{s:o, s:b, s:b, s:{s:o, s:o}, s:o, s:o}", "appliesTo",
                  model_selector_render(&p->applies_to), "observe", p->observe, "protect",
                  p->protect, "floor", "iops", field_render_number(p->floor_iops, 0), "bandwidth",
                  field_render_number(p->floor_bytes_s, 0), "maxCut",
                  p->max_cut_ppm == 0 ? json_null() : field_render_percent(p->max_cut_ppm),
                  "freeze", render_freezes(p));
    return model_document_render("Policy", p->name, spec);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Policies: what may be done to whom. */
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

static const char *const collision_words[] = {"priority", "share", NULL};
_Static_assert(COLLISIONS_PRIORITY == 0 && COLLISIONS_SHARE == 1,
               "words stand in the order of the enum");
_Static_assert(sizeof(enum collisions) == sizeof(int), "the reader stores an int");

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
    {.key = "enforce",
     .type = FIELD_BOOL,
     .at = offsetof(struct policy, enforce),
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
    {.key = "collisions",
     .type = FIELD_WORD,
     .words = collision_words,
     .at = offsetof(struct policy, collisions),
     .expected = "priority or share"},
    {.key = "freeze",
     .type = FIELD_LIST,
     .at = offsetof(struct policy, freeze),
     .table = &model_window_table,
     .stride = sizeof(struct week_window),
     .max_items = POLICY_MAX_FREEZES,
     .count_at = offsetof(struct policy, freeze_count),
     .expected = "a list of at most 16 windows"},
};

static void check_policy(struct field_reader *r, void *object)
{
    const struct policy *p = object;
    if (p->observe && p->enforce)
        field_error(r, "found observe and enforce, expected at most one of the two");
}

static const struct field_table policy_table = {
    .field = policy_fields, .count = 8, .check = check_policy};

int model_policy_parse(const json_t *doc, struct policy *ret, struct text *errors)
{
    struct policy p = {.version = 0};
    int rc = model_document_read(doc, "Policy", p.name, &policy_table, &p, errors);
    if (rc == 0)
        *ret = p;
    return rc;
}

json_t *model_policy_render(const struct policy *p)
{
    json_t *max_cut = p->max_cut_ppm == 0 ? json_null() : field_render_percent(p->max_cut_ppm);
    json_t *spec = json_pack(
        "{s:o, s:b, s:b, s:b, s:{s:o, s:o}, s:o, s:s, s:o}", "appliesTo",
        model_selector_render(&p->applies_to), "observe", p->observe, "enforce", p->enforce,
        "protect", p->protect, "floor", "iops", field_render_number(p->floor_iops, 0), "bandwidth",
        field_render_number(p->floor_bytes_s, 0), "maxCut", max_cut, "collisions",
        collision_words[p->collisions], "freeze",
        model_windows_render(p->freeze, p->freeze_count));
    return model_document_render("Policy", p->name, spec);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Tenants: owners of streams, by patterns, and the limits for all of theirs together. */
#include "base/err.h"
#include "server/model/model.h"
#include "server/model/parts.h"

static const struct field tenant_fields[] = {
    {.key = "members",
     .type = FIELD_LIST,
     .at = offsetof(struct tenant, member),
     .table = &model_member_table,
     .stride = sizeof(struct selector),
     .max_items = TENANT_MAX_MEMBERS,
     .count_at = offsetof(struct tenant, member_count),
     .expected = "a list of at most 64 members"},
    {.key = "limit",
     .type = FIELD_OBJECT,
     .at = offsetof(struct tenant, limits),
     .table = &model_limits_table,
     .expected = "an object"},
};

static const struct field_table tenant_table = {.field = tenant_fields, .count = 2};

int model_tenant_parse(const json_t *doc, struct tenant *ret, struct text *errors)
{
    struct tenant t = {.version = 0};
    int rc = model_document_read(doc, "Tenant", t.name, &tenant_table, &t, errors);
    if (rc == 0)
        *ret = t;
    return rc;
}

json_t *model_tenant_render(const struct tenant *t)
{
    json_t *members = json_array();
    for (size_t i = 0; i < t->member_count; i++)
        json_array_append_new(members, model_selector_render(&t->member[i]));
    json_t *spec =
        json_pack("{s:o, s:o}", "members", members, "limit", model_limits_render(&t->limits));
    return model_document_render("Tenant", t->name, spec);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The envelope of a document. Two forms are read: fields beside kind and name, as people write
 * them; and the form that the server gives out, with the fields under spec and beside them what the
 * server knows (version, updated, status), which is ignored, so that `weir get -o yaml | weir apply
 * -f -` works. The two never mix: version beside top-level fields is an unknown key. */
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/name.h"
#include "server/model/model.h"
#include "server/model/parts.h"

static const char *const kinds[] = {"Agreement", "Tenant", "Policy"};
#define EXPECT_KIND "Agreement, Tenant or Policy"
#define EXPECT_NAME                                                                                \
    "a name of letters, digits, '.', '_' and '-' that starts with a letter or digit, 1 to 127 of " \
    "them"

static const char *read_kind(struct field_reader *r, const json_t *doc)
{
    const json_t *value = json_object_get(doc, "kind");
    const char *s = json_string_value(value);
    for (size_t i = 0; s != NULL && i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strcmp(s, kinds[i]) == 0)
            return kinds[i];
    size_t len = field_enter(r, "kind");
    field_error_found(r, value, EXPECT_KIND);
    field_leave(r, len);
    return NULL;
}

static const char *read_name(struct field_reader *r, const json_t *doc)
{
    const json_t *value = json_object_get(doc, "name");
    const char *s = json_string_value(value);
    if (s != NULL && strlen(s) == json_string_length(value) && name_is_plain(s))
        return s;
    size_t len = field_enter(r, "name");
    field_error_found(r, value, EXPECT_NAME);
    field_leave(r, len);
    return NULL;
}

const char *model_kind(const json_t *doc, struct text *errors)
{
    struct field_reader r;
    field_reader_init(&r, errors);
    if (!json_is_object(doc)) {
        field_error_found(&r, doc, "a document: an object with kind and name");
        return NULL;
    }
    const char *kind = read_kind(&r, doc);
    const char *name = read_name(&r, doc);
    return name != NULL ? kind : NULL;
}

int model_document_read(const json_t *doc, const char *kind, char name[NAME_SIZE],
                        const struct field_table *table, void *object, struct text *errors)
{
    static const char *const envelope[] = {"kind", "name", NULL};
    static const char *const given_out[] = {"kind",   "name", "version", "updated",
                                            "status", "spec", NULL};
    static const struct field_table nothing = {.count = 0};
    struct field_reader r;
    field_reader_init(&r, errors);
    if (!json_is_object(doc)) {
        field_error_found(&r, doc, "a document: an object with kind and name");
        return WEIR_E_INVALID;
    }
    const char *found_kind = read_kind(&r, doc);
    if (found_kind != NULL && strcmp(found_kind, kind) != 0)
        field_error(&r, "kind: found \"%s\", expected %s", found_kind, kind);
    const char *found_name = read_name(&r, doc);
    const json_t *spec = json_object_get(doc, "spec");
    if (spec == NULL) {
        field_read_object(&r, table, object, doc, envelope);
    } else {
        field_read_object(&r, &nothing, NULL, doc, given_out);
        size_t len = field_enter(&r, "spec");
        field_read_object(&r, table, object, spec, NULL);
        field_leave(&r, len);
    }
    if (r.error_count > 0)
        return WEIR_E_INVALID;
    weir_assert(found_name != NULL && strlen(found_name) < NAME_SIZE);
    memcpy(name, found_name, strlen(found_name) + 1);
    return 0;
}

json_t *model_document_render(const char *kind, const char *name, json_t *spec)
{
    return json_pack("{s:s, s:s, s:o}", "kind", kind, "name", name, "spec", spec);
}

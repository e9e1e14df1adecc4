/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: no document, however odd, breaks the readers; and what they take they also give out and
 * take again the same.
 * Method: any text as JSON to all three readers; a document that is taken must survive render and
 * parse. */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_code(int rc, const struct text *errors)
{
    weir_assert(rc == 0 || rc == WEIR_E_INVALID);
    weir_assert((rc == 0) == (errors->len == 0));
    weir_assert(!errors->failed);
}

static void try_agreement(const json_t *doc, struct text *errors)
{
    struct agreement a, b;
    text_clear(errors);
    int rc = model_agreement_parse(doc, &a, errors);
    check_code(rc, errors);
    if (rc != 0)
        return;
    json_t *out = model_agreement_render(&a);
    weir_assert(out != NULL);
    weir_assert(model_agreement_parse(out, &b, errors) == 0);
    json_t *again = model_agreement_render(&b);
    weir_assert(json_equal(out, again));
    json_decref(again);
    json_decref(out);
}

static void try_tenant(const json_t *doc, struct text *errors)
{
    struct tenant a, b;
    text_clear(errors);
    int rc = model_tenant_parse(doc, &a, errors);
    check_code(rc, errors);
    if (rc != 0)
        return;
    json_t *out = model_tenant_render(&a);
    weir_assert(out != NULL);
    weir_assert(model_tenant_parse(out, &b, errors) == 0);
    json_t *again = model_tenant_render(&b);
    weir_assert(json_equal(out, again));
    json_decref(again);
    json_decref(out);
}

static void try_policy(const json_t *doc, struct text *errors)
{
    struct policy a, b;
    text_clear(errors);
    int rc = model_policy_parse(doc, &a, errors);
    check_code(rc, errors);
    if (rc != 0)
        return;
    json_t *out = model_policy_render(&a);
    weir_assert(out != NULL);
    weir_assert(model_policy_parse(out, &b, errors) == 0);
    json_t *again = model_policy_render(&b);
    weir_assert(json_equal(out, again));
    json_decref(again);
    json_decref(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text errors;
    json_t *doc = json_loadb((const char *)data, size,
                             JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (doc == NULL)
        return 0;
    text_init(&errors, 1 << 20);
    text_clear(&errors);
    (void)model_kind(doc, &errors);
    try_agreement(doc, &errors);
    try_tenant(doc, &errors);
    try_policy(doc, &errors);
    text_fini(&errors);
    json_decref(doc);
    return 0;
}

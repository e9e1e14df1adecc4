/* SPDX-License-Identifier: Apache-2.0 */
/* Documents: Agreement, Tenant and Policy between JSON and plain data, with errors that name their
 * place. */
#ifndef WEIR_SERVER_MODEL_MODEL_H
#define WEIR_SERVER_MODEL_MODEL_H
#include <jansson.h>

#include "base/text.h"
#include "server/services/agreement.h"

/* Fill @ret from a document in the form users write (docs/guide/documents.md), or in the form the
 * server gives out (fields under "spec"; version, updated and status are ignored there). Every
 * error is appended to @errors as one line "objectives[0].latency: found "5", expected a latency
 * such as 5ms". Unknown keys are refused, a limit of 0 is refused, null or "unlimited" is no limit.
 * ret->version is 0: the store gives it. Bit 0 of a policy's day_mask is Monday. 0 or
 * WEIR_E_INVALID (then @ret is untouched). */
int model_agreement_parse(const json_t *doc, struct agreement *ret, struct text *errors);
int model_tenant_parse(const json_t *doc, struct tenant *ret, struct text *errors);
int model_policy_parse(const json_t *doc, struct policy *ret, struct text *errors);

/* Which kind a document is ("Agreement", ...) and its name; NULL when it is none of ours (errors
 * says why). */
const char *model_kind(const json_t *doc, struct text *errors);

/* The canonical document {"kind","name","spec":{...}}: canonical units (integers; iops, bytes/s,
 * us, ISO 8601 durations), defaults spelled out. Percentages are numbers: dump with
 * JSON_REAL_PRECISION(12), so that 99.9 stays 99.9. New reference, NULL without memory. Parsing it
 * again gives the same data. */
json_t *model_agreement_render(const struct agreement *a);
json_t *model_tenant_render(const struct tenant *t);
json_t *model_policy_render(const struct policy *p);

#endif

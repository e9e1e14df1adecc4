/* SPDX-License-Identifier: Apache-2.0 */
/* What was done and what happened, as people read it: actions and events. Identifiers are texts,
 * since they need more bits than a number of JSON is sure to have. */
#include <stdio.h>

#include "server/view.h"
#include "server/view_private.h"

static json_t *id_text(uint64_t id)
{
    char out[24];
    snprintf(out, sizeof(out), "%llu", (unsigned long long)id);
    return text(out);
}

json_t *view_action(const struct action_record *a)
{
    json_t *j = json_object();
    json_object_set_new(j, "id", id_text(a->id));
    json_object_set_new(j, "at", instant(a->wall_us));
    json_object_set_new(j, "verb", text(a->verb));
    json_object_set_new(j, "enforced", json_boolean(a->enforced));
    json_object_set_new(j, "decision", text(a->decision));
    json_object_set_new(j, "target", text(a->target));
    json_object_set_new(j, "gateway", text(a->gateway));
    json_object_set_new(j, "victim", text_or_null(a->victim));
    json_object_set_new(j, "bully", text(a->bully));
    json_object_set_new(j, "agreement", text_or_null(a->agreement));
    json_object_set_new(j, "agreementVersion",
                        a->agreement_version > 0 ? count(a->agreement_version) : json_null());
    json_object_set_new(j, "policy", text_or_null(a->policy));
    json_object_set_new(j, "from", rates(a->from_iops, a->from_bytes_s));
    json_object_set_new(j, "to", rates(a->to_iops, a->to_bytes_s));
    json_object_set_new(j, "victimLatencyUs", count(a->victim_latency_us));
    json_object_set_new(j, "objectiveUs", count(a->victim_objective_us));
    json_object_set_new(j, "percentile", percent(a->victim_percentile_ppm));
    json_object_set_new(j, "victimIops", count(a->victim_iops));
    json_object_set_new(j, "bullyIops", count(a->bully_iops));
    json_object_set_new(j, "harmPercent", percent(a->harm_share_ppm));
    json_object_set_new(j, "reason", text(a->reason));
    return j;
}

json_t *view_event(const struct event_record *e)
{
    json_t *j = json_object();
    json_object_set_new(j, "id", id_text((uint64_t)e->wall_us));
    json_object_set_new(j, "at", instant(e->wall_us));
    json_object_set_new(j, "severity", text(event_severity_name(e->severity)));
    json_object_set_new(j, "kind", text(e->kind));
    json_object_set_new(j, "subject", text(e->subject));
    json_object_set_new(j, "text", text(e->text));
    return j;
}

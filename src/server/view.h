/* SPDX-License-Identifier: Apache-2.0 */
/* Views of the entity cache, actions and events, in the API's form (docs/openapi.yaml). */
#ifndef WEIR_SERVER_VIEW_H
#define WEIR_SERVER_VIEW_H
#include <jansson.h>

#include "server/services/entity.h"
#include "server/services/record.h"
#include "server/sla.h"

/* Append what @r asks for to @out, an array; false: it is not whole yet. Of all streams or all
 * gateways at most @most a call, from *@at on (NULL: the first), which is then the next: keep it
 * with services_place_set. @process: which SLA process this is. Pure; borrows. */
bool view_render(const struct entities *e, const struct view_request *r, uint64_t process,
                 const _Atomic uint32_t *queued, size_t most, const struct list **at, json_t *out);
json_t *view_action(const struct action_record *a);
json_t *view_event(const struct event_record *e);

#endif

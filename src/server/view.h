/* SPDX-License-Identifier: Apache-2.0 */
/* Views of the entity cache, actions and events, in the API's form (docs/openapi.yaml). */
#ifndef WEIR_SERVER_VIEW_H
#define WEIR_SERVER_VIEW_H
#include <jansson.h>

#include "server/services/entity.h"
#include "server/services/record.h"
#include "server/sla.h"

/* A new array of objects, or NULL: no memory. @process: which SLA process this is. Pure; borrows.
 */
json_t *view_render(const struct entities *e, const struct view_request *r, uint64_t process,
                    const _Atomic uint32_t *queued);
json_t *view_action(const struct action_record *a);
json_t *view_event(const struct event_record *e);

#endif

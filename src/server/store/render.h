/* SPDX-License-Identifier: Apache-2.0 */
/* Records in the API's shapes (docs/guide/api.md). New references; NULL without memory. */
#ifndef WEIR_SERVER_STORE_RENDER_H
#define WEIR_SERVER_STORE_RENDER_H
#include <jansson.h>

#include "server/services/record.h"

/* Without id and at: those are the database's. */
json_t *render_action(const struct action_record *a);
json_t *render_event(uint64_t id, const struct event_record *e);
json_t *render_sample(const struct sample_record *s);
/* RFC 3339. */
json_t *render_wall(int64_t wall_us);
/* "" as null. */
json_t *render_text(const char *s);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What holds for a stream now and why, in sentences with their numbers; pure. */
#ifndef WEIR_SERVER_SERVICES_EXPLAIN_H
#define WEIR_SERVER_SERVICES_EXPLAIN_H
#include "server/services/entity.h"

#define EXPLAIN_SENTENCES 24u
#define EXPLAIN_SIZE 512u

/* At most EXPLAIN_SENTENCES; returns how many. @st is one of @e's own. */
size_t explain_stream(const struct entities *e, const struct entity_stream *st,
                      char ret[EXPLAIN_SENTENCES][EXPLAIN_SIZE]);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Dials the gateways that listen for their server, as server.conf lists them or the network
 * announces them; acceptor's thread. */
#ifndef WEIR_SERVER_MONITOR_DIALLER_H
#define WEIR_SERVER_MONITOR_DIALLER_H
#include <jansson.h>
#include <stddef.h>

#include "server/monitor/monitor_private.h"

struct acceptor;
struct dialler;
struct found_list;

/* How many dials there may be: each takes a source and a timer of the acceptor's reactor. */
size_t dialler_places(const struct server_config *c);

/* Dials begin in the first round. NULL: no memory. With an empty list nothing is ever done. */
struct dialler *dialler_new(struct acceptor *a);
void dialler_free(struct dialler *d);

/* These are announced now, and no others (borrowed). Asserts when they are not looked for. */
void dialler_found(struct dialler *d, const struct found_list *list);

/* Of the handshake of dial @dial (1 ..) came a session. 0: it was not dialled. */
void dialler_stands(struct dialler *d, size_t dial);
/* What was dialled as number @dial is over, as a handshake or as a session: dial again, later each
 * time as long as no session came of it. 0: it was not dialled. */
void dialler_over(struct dialler *d, size_t dial);

/* The API's Dial of each (docs/openapi.yaml). New reference; NULL: no memory. */
json_t *dialler_json(const struct dialler *d);

#endif

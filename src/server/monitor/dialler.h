/* SPDX-License-Identifier: Apache-2.0 */
/* Dials the gateways that listen for their server, as server.conf lists them; acceptor's thread. */
#ifndef WEIR_SERVER_MONITOR_DIALLER_H
#define WEIR_SERVER_MONITOR_DIALLER_H
#include <stddef.h>

#include "server/monitor/monitor_private.h"

struct acceptor;
struct dialler;

/* Dials begin in the first round. NULL: no memory. With an empty list nothing is ever done. */
struct dialler *dialler_new(struct acceptor *a);
void dialler_free(struct dialler *d);

/* What was dialled as number @dial (1 ..) is over, as a handshake or as a session: dial again,
 * later each time as long as no session came of it. 0: it was not dialled. */
void dialler_over(struct dialler *d, size_t dial, bool stood);

#endif

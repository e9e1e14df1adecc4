/* SPDX-License-Identifier: Apache-2.0 */
/* weir-gateway --announce: says on the network where this gateway listens for its server. */
#ifndef WEIR_GATEWAY_ANNOUNCE_H
#define WEIR_GATEWAY_ANNOUNCE_H
#include "gateway/config.h"

/* Becomes avahi-publish-service(1), which keeps the announcement until it ends and waits for the
 * avahi daemon when that is away. Returns only when it cannot: the exit status; why is said. */
int announce_exec(const struct gateway_config *config);

#endif

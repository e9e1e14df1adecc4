/* SPDX-License-Identifier: Apache-2.0 */
/* weir-gateway --upgrade: ask the gateway that runs to go on as the program installed now. */
#ifndef WEIR_GATEWAY_UPGRADE_H
#define WEIR_GATEWAY_UPGRADE_H
#include "gateway/options.h"

/* Find it by its local socket, tell its manager, wait for how it went and print that. The exit
 * status of the program. */
int upgrade_ask(const struct options *o);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The manager: owns the listening sockets and the ledger, and keeps one worker alive. */
#ifndef WEIR_GATEWAY_MANAGER_H
#define WEIR_GATEWAY_MANAGER_H
#include "gateway/config.h"
#include "gateway/options.h"

/* Serve until told to end (SIGTERM, SIGINT). Takes @config. The exit status of the process; in a
 * child it does not return. */
int manager_run(struct options *options, struct gateway_config *config);

/* Open what a gateway of @config listens on: one socket a listener into @ret_listeners, the local
 * one into *@ret_local. 0, or a negative code after saying what is wrong. */
int manager_listen(const struct gateway_config *config, int *ret_listeners, int *ret_local);
/* "listening on" lines on standard output. */
void manager_announce(const struct gateway_config *config, const int *listeners);

#endif

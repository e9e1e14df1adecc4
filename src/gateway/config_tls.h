/* SPDX-License-Identifier: Apache-2.0 */
/* The tls keys of gateway.conf taken together: defaults, contradictions, and the files themselves.
 * Private to config.c and options.c. */
#ifndef WEIR_GATEWAY_CONFIG_TLS_H
#define WEIR_GATEWAY_CONFIG_TLS_H
#include <stddef.h>

#include "gateway/config.h"

/* Complete what the keys left open and read every file once. 0, or an error code with words: which
 * key or file, what was found, what was expected. */
int config_tls_listener(struct listener_config *l, char *words, size_t size);
int config_tls_server(struct gateway_config *c, char *words, size_t size);
int config_tls_target(struct target_config *t, char *words, size_t size);

#endif

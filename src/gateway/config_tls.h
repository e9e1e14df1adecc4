/* SPDX-License-Identifier: Apache-2.0 */
/* The tls keys of gateway.conf taken together: defaults, contradictions, and the files themselves.
 * Private to config.c and options.c. */
#ifndef WEIR_GATEWAY_CONFIG_TLS_H
#define WEIR_GATEWAY_CONFIG_TLS_H
#include <stdbool.h>
#include <stddef.h>

#include "gateway/config.h"

/* What is wrong. */
struct config_fault {
    const char *key;  /* that it is in, of the same section; NULL: something is missing */
    bool of_value;    /* the key's value is what was found; @words say what was expected */
    char words[1200]; /* what was found, what was expected */
};

/* Complete what the keys left open and read every file once. 0, and when its certificates count in
 * *@ret_when; or an error code and the fault. */
int config_tls_listener(struct listener_config *l, struct tls_validity *ret_when,
                        struct config_fault *ret);
int config_tls_server(struct gateway_config *c, struct tls_validity *ret_when,
                      struct config_fault *ret);
int config_tls_target(struct target_config *t, struct tls_validity *ret_when,
                      struct config_fault *ret);

#endif

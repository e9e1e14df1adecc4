/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway's link to the SLA server: dial, authenticate, answer polls, apply controls, warn.
 *
 * Lives in the reactor's thread and never blocks it: packing is bounded to a part of a frame a
 * round. I/O never waits for the link. States and their transitions are drawn in link.c. */
#ifndef WEIR_GATEWAY_LINK_H
#define WEIR_GATEWAY_LINK_H
#include <stdbool.h>
#include <stdint.h>

#include "base/reactor.h"
#include "gateway/config.h"
#include "gateway/relay.h"
#include "gateway/stream.h"

struct link_status {
    bool configured, connected;
    char server[ADDR_TEXT_SIZE];
    const char *state; /* name of the link's state */
    char last_error[128];
    uint64_t epoch;         /* of the controls in force */
    uint64_t lease_left_ns; /* of planned controls */
    uint64_t polls, reconnects;
};

struct link;

/* Reads identity, credential and last agreed controls from config->state_dir (makes the identity on
 * the first start, 0600) and applies the agreed ones at once. With no server configured the link
 * idles. 0 or an error code with words in *@ret_why. */
int link_new(struct reactor *r, const struct gateway_config *config, struct stream_table *streams,
             struct relay *relay, struct link **ret, const char **ret_why);
/* Another worker dials from now on: close without a word. Controls go on: they follow what the
 * other one leaves in the ledger. */
void link_retire(struct link *l);
/* Says bye and closes. */
void link_free(struct link *l);
/* Take hosts again although the server, which is away, had the gateway drained. Kept on disk; a
 * server that returns and still wants it drained drains it anew. *@ret_was: whether it was. False:
 * not now, with static words in *@ret_why. */
bool link_undrain(struct link *l, bool *ret_was, const char **ret_why);
void link_status(const struct link *l, struct link_status *ret);

#endif

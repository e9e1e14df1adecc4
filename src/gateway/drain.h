/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker does about a gateway that is drained: takes no hosts, and after the deadline closes
 * connections that are idle. */
#ifndef WEIR_GATEWAY_DRAIN_H
#define WEIR_GATEWAY_DRAIN_H
#include <stdbool.h>
#include <stdint.h>

#include "base/reactor.h"
#include "gateway/ledger.h"
#include "gateway/relay.h"

struct drain {
    struct reactor *reactor;
    struct ledger *ledger;
    struct relay *relay;
    struct reactor_timer timer;
    uint64_t since; /* of the draining that is carried out; 0: none */
    bool owed;      /* some listener does not listen again yet */
};

/* Begin to look at the ledger, at once and then a few times a second; whoever has the link writes
 * there what the server says. All borrowed objects outlive it. */
void drain_start(struct drain *d, struct reactor *r, struct ledger *ledger, struct relay *relay);
void drain_stop(struct drain *d);

#endif

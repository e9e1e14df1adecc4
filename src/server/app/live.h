/* SPDX-License-Identifier: Apache-2.0 */
/* Server-sent events (WHATWG HTML, section 9.2): one view a second for everybody who listens, and
 * what happens. */
#ifndef WEIR_SERVER_APP_LIVE_H
#define WEIR_SERVER_APP_LIVE_H
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "server/app/exchange.h"

struct app;

/* Listeners at once, and what may wait for one that reads slowly: so many events beside one
 * snapshot of each kind; a longer backlog ends the connection. */
#define LIVE_MAX_CLIENTS 32u
#define LIVE_MAX_BACKLOG 128u
/* Streams in one snapshot; of more the first by key, and `weir top` or the lists show the rest. */
#define LIVE_MAX_STREAMS 2000u

struct live {
    struct list clients;
    size_t count;
    struct exchange exchange; /* the view of this second */
    uint64_t last_sent_ns;
    uint64_t sent, skipped, dropped; /* events; snapshots not queued twice; clients cut off */
};

void live_init(struct app *app);
/* End every client; before the daemon stops. */
void live_end(struct app *app);
/* Once a second: ask for the next view when somebody listens. */
void live_second(struct app *app);
/* An event or action as it happened. Borrows @notice. */
void live_notice(struct app *app, const json_t *notice);

#endif

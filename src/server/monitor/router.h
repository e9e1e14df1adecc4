/* SPDX-License-Identifier: Apache-2.0 */
/* The router: the acceptor's part that gives each session its place and moves gateways about. */
#ifndef WEIR_SERVER_MONITOR_ROUTER_H
#define WEIR_SERVER_MONITOR_ROUTER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reactor.h"
#include "server/monitor/route.h"
#include "server/move.h"
#include "server/threads.h"

/* Gateways that move at once; the others wait their turn. */
#define ROUTER_MOVES_MAX 64u

struct acceptor;
struct owned_session;

struct router {
    struct acceptor *a;
    struct route *table;
    size_t moves;                /* batons that are out */
    struct move_queue unposted;  /* batons that could not be handed on yet */
    struct owned_session *held;  /* sessions of gateways that move, oldest first */
    struct reactor_timer tick;
    uint64_t ticked_ns, balanced_ns;
    uint64_t *work_seen;         /* by slot: monitor.work at the last tick */
    struct mailbox_watch watch[THREADS_MAX_SERVICES];
    bool still[THREADS_MAX_SERVICES]; /* SLA processes that stand still */
    uint64_t looked_ns;
    uint32_t said_group;         /* whose move was said last */
    bool resizing;
    struct msg resize;           /* to be answered when all are where they shall be */
};

/* 0 or -ENOMEM. */
int router_open(struct router *r, struct acceptor *a);
void router_close(struct router *r);

/* A place for the gateway of @o, which counts as one of its sessions until router_session_over.
 * False: there is no room in the table. */
bool router_session_new(struct router *r, struct owned_session *o);
/* Put the place as it is now into @o. False: its gateway moves; it is kept, and given to
 * acceptor_session_start again when that is over. */
bool router_session_place(struct router *r, struct owned_session *o);
void router_session_over(struct router *r, struct owned_session *o);
/* The outbound to which a word for this session goes; NULL: not now, its gateway moves. */
struct mailbox *router_outbound(struct router *r, const struct owned_session *o);

/* Messages of kinds MOVE, GATEWAY_TARGETS, GATEWAY_KNOWN, GATEWAY_GONE, ROUTE_RESIZE; false: of
 * another. */
bool router_message(struct router *r, struct msg *m);

#endif

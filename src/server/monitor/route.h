/* SPDX-License-Identifier: Apache-2.0 */
/* Routing table: which thread pair and which SLA process carry a gateway. Pure.
 *
 * Gateways in front of the same storage (one target URI in common, transitively) form a subgroup;
 * all of a subgroup belong to one place, so that one SLA process sees a whole bottleneck. The table
 * says where each gateway shall be and where it is, and proposes moves; who moves them, and how, is
 * router.c's matter. */
#ifndef WEIR_SERVER_MONITOR_ROUTE_H
#define WEIR_SERVER_MONITOR_ROUTE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "server/services/report.h"

/* Names of storage one gateway may announce: as many targets as it may have. */
#define ROUTE_TARGETS_MAX 256u
/* A subgroup that was moved for its load stays at least so long. */
#define ROUTE_REST_NS (UINT64_C(60) * 1000000000)

struct route_place {
    uint16_t pair, process;
};

struct route; /* the table */
struct route_group;

/* One gateway. Everything is the table's to write, except `user`. */
struct route_gateway {
    uint8_t id[GATEWAY_ID_SIZE];
    char *name; /* route_rename */
    struct route_place place; /* where it is, or from where it moves */
    bool moving;
    uint32_t sessions; /* that stand or are about to */
    uint64_t session;  /* the last of them */
    uint64_t load;
    struct route_group *group;
    void *user;
};

/* @max_gateways bounds the table. NULL: no memory. */
struct route *route_new(size_t pairs, size_t processes, size_t max_gateways);
void route_free(struct route *r);

/* Whether this pair and process belong together: with as many processes as pairs or more, a process
 * belongs to one pair; with fewer, a pair belongs to one process. */
bool route_fits(const struct route *r, struct route_place p);

struct route_gateway *route_find(const struct route *r, const uint8_t id[GATEWAY_ID_SIZE]);
/* Processes (THREADS_MAX_SERVICES of them) that stand still now: newcomers go elsewhere while there
 * is an elsewhere. */
void route_still(struct route *r, const bool *still);

/* The gateway's entry, made when there is none: alone in a subgroup, at the place with least to do,
 * or at process @at (-1: any). NULL: the table is full of gateways with sessions. A gateway without
 * one that had to leave is told in *@ret_evicted (its id, and the process that knows it), which
 * may be NULL. */
struct route_evicted {
    bool any;
    uint8_t id[GATEWAY_ID_SIZE];
    uint16_t process;
};
struct route_gateway *route_add(struct route *r, const uint8_t id[GATEWAY_ID_SIZE],
                                const char *name, int at, struct route_evicted *ret_evicted);
/* Takes a copy; without memory it keeps its name. */
void route_rename(struct route_gateway *g, const char *name);
/* Forget one without sessions that does not move; else nothing. */
void route_remove(struct route *r, struct route_gateway *g);

/* What @g said it is in front of: names as hashes, each once. Joins and parts subgroups. */
void route_targets(struct route *r, struct route_gateway *g, const uint64_t *target, size_t n);

/* The next gateway that is not where its subgroup shall be and does not move yet; NULL: none. Those
 * with more than one session wait. */
struct route_gateway *route_astray(struct route *r);
struct route_place route_wanted(const struct route_gateway *g);
uint32_t route_group_number(const struct route_gateway *g);
size_t route_group_size(const struct route_gateway *g);
void route_move_begin(struct route *r, struct route_gateway *g);
/* @arrived: it is at @at now; else it stayed where it was. */
void route_move_end(struct route *r, struct route_gateway *g, bool arrived, struct route_place at);

/* A gateway's load, in any unit that adds up. */
void route_load(struct route *r, struct route_gateway *g, uint64_t load);
/* Look whether loads lie unevenly, and give subgroups other places until a move would no longer
 * help; returns how many. @busy[process]: one that does not answer now: nothing goes to or from it;
 * may be NULL. @max bounds the moves. */
size_t route_balance(struct route *r, const bool *busy, size_t max, uint64_t now_ns);
/* Other numbers of pairs and processes: subgroups outside get places inside, and all are spread
 * anew. */
void route_resize(struct route *r, size_t pairs, size_t processes, uint64_t now_ns);
/* Whether every gateway is where it shall be. */
bool route_settled(const struct route *r);

/* Totals for views and tests. */
size_t route_gateway_count(const struct route *r);
size_t route_group_count(const struct route *r);
uint64_t route_process_load(const struct route *r, uint16_t process);
/* Add up gateways with sessions by where they are, and subgroups of such by process. */
void route_counts(const struct route *r, uint32_t *pair, uint32_t *process, uint32_t *groups);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* One SLA process: entity service, performance analyzer and policy manager behind one pure face.
 *
 * Takes what gateways say and `now`; puts out polls, controls, samples, actions and events through
 * a sink. No socket, clock, thread or database: the server's thread (server/sla.c) and the
 * simulator drive the same code. One instance belongs to one thread. */
#ifndef WEIR_SERVER_SERVICES_SERVICES_H
#define WEIR_SERVER_SERVICES_SERVICES_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/services/admission.h"
#include "server/services/agreement.h"
#include "server/services/controls.h"
#include "server/services/entity.h"
#include "server/services/record.h"
#include "server/services/report.h"
#include "server/services/share.h"

/* Where results go. Functions must not call back into the services. Only poll and controls must be
 * there; what is NULL hears nothing. Those that return int may say WEIR_E_FULL: the services keep
 * what matters (controls) and count what does not (samples). */
struct services_sink {
    void *ctx;
    int (*poll)(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *p);
    /* Room for an update, as control_update_new; NULL, or from it: the heap. */
    struct control_update *(*update)(void *ctx, size_t items, size_t members);
    /* Takes @u on 0 only. */
    int (*controls)(void *ctx, uint64_t session, uint16_t pair, struct control_update *u);
    void (*session_end)(void *ctx, uint64_t session, uint16_t pair, const char *why);
    void (*sample)(void *ctx, const struct sample_record *s);
    void (*action)(void *ctx, const struct action_record *a);
    void (*event)(void *ctx, const struct event_record *e);
    /* A storage that no other gateway has by this name. */
    void (*target_seen)(void *ctx, const char *gateway, const char *target, const char *uri);
    /* @g said, in a whole report, that it is in front of other targets than before: see
     * services_gateway_targets. */
    void (*targets)(void *ctx, const struct entity_gateway *g);
    /* A gateway's record changed (state, name, address): keep it. */
    void (*gateway)(void *ctx, const struct entity_gateway *g);
    /* To another SLA process, or to this one: services_share there, in the order of the calls.
     * Takes @b on 0 only. NULL: there is never another. */
    int (*share)(void *ctx, struct share_batch *b);
};

/* Documents one process holds at most. */
#define SERVICES_MAX_AGREEMENTS 1000u
#define SERVICES_MAX_TENANTS 1000u
#define SERVICES_MAX_POLICIES 256u
/* The longest time to the end of a draining. */
#define SERVICES_DRAIN_MS_MAX UINT64_C(604800000)

struct services_config {
    uint64_t period_ns;
    uint64_t lease_ns;
    bool observe;
    bool manual_admission; /* one that was never admitted waits for services_gateway_admit */
    uint32_t max_gateways, max_streams;
    uint32_t process;     /* number of this SLA process, and how many there are */
    uint32_t processes;
    uint32_t processes_at_start; /* the same when the server began; 0: there is never another */
    /* What a period or a changed document asks for over all gateways is left to services_step; else
     * it is done before the call returns. */
    bool in_pieces;
    uint64_t first_epoch; /* epochs start here; above all of earlier lives (wall clock, us) */
};

struct services;

struct services *services_new(const struct services_config *c, const struct services_sink *sink);
void services_free(struct services *s);

/* Documents and settings are all here: until it is called no control is sent, so that a gateway
 * never loses what its disk kept of agreements to a server that has not read them yet. */
void services_loaded(struct services *s, uint64_t now_ns, int64_t wall_us);
/* A gateway known from an earlier life of the server: enters the cache as lost. @admitted: it was
 * once. 0, WEIR_E_EXISTS, WEIR_E_FULL. */
int services_gateway_recall(struct services *s, const uint8_t id[GATEWAY_ID_SIZE], const char *name,
                            const char *software, const char *address, int64_t first_seen_us,
                            int64_t last_seen_us, bool admitted, uint64_t now_ns);
/* People admit it (@name or its id), for good: one that is pending now is controlled at once, one
 * that is lost when it returns. 0 (it may be so already), or WEIR_E_NOT_FOUND. */
int services_gateway_admit(struct services *s, const char *name, uint64_t now_ns, int64_t wall_us);
/* An earlier life of the server, or another process, admitted it: so it is here, whether it is here
 * already or will come. Every process is told. 0 or WEIR_E_FULL (no memory). */
int services_gateway_admitted(struct services *s, const uint8_t id[GATEWAY_ID_SIZE],
                              uint64_t now_ns, int64_t wall_us);

/* The gateway of @id (its hex form) shall take no hosts; @since names this draining and is never
 * used twice; 0: it shall. At @deadline_us (wall clock; 0: never) its idle connections are closed.
 * Every process is told, whoever has the gateway. 0 or WEIR_E_FULL (no memory). */
int services_gateway_drain(struct services *s, const char *id, uint64_t since, int64_t deadline_us,
                           uint64_t now_ns, int64_t wall_us);

/* Gateways. A second session that claims a live identity: the newcomer is ended, both are reported.
 */
void services_gateway_up(struct services *s, const struct gateway_hello *h, uint64_t now_ns,
                         int64_t wall_us);
void services_gateway_down(struct services *s, uint64_t session, const char *why, uint64_t now_ns,
                           int64_t wall_us);
void services_report(struct services *s, const struct report *r, uint64_t now_ns, int64_t wall_us);
void services_ack(struct services *s, uint64_t session, uint64_t epoch, int status, uint64_t now_ns,
                  int64_t wall_us);
/* An early warning, of whichever of its streams (it may be one that no answer has told of): the
 * gateway is polled at once, or after the answer that is awaited. One that comes within 50 ms of
 * the last is dropped. */
void services_surge(struct services *s, uint64_t session, uint64_t now_ns, int64_t wall_us);
/* It does not take what is sent to it (what waited was let go of), or does again: all is sent anew,
 * also where the first word was lost. */
void services_stalled(struct services *s, uint64_t session, bool stalled, uint64_t now_ns,
                      int64_t wall_us);
void services_target_health(struct services *s, const struct target_health *h, uint64_t now_ns);

/* A gateway on its way from one SLA process to another: everything known of it. Between export and
 * import it belongs to whoever holds the parcel, in one piece: cumulative counters and what of them
 * was accounted, windows, verdicts, throttles, controls sent and their epoch. */
struct gateway_parcel;
/* NULL: this process does not know it. It is gone from here when this returns. */
struct gateway_parcel *services_gateway_export(struct services *s,
                                               const uint8_t id[GATEWAY_ID_SIZE], uint64_t now_ns,
                                               int64_t wall_us);
/* Takes @p. Agreements, policies and the enforcement switch of this process hold from now on.
 * @pair, @subgroup: what carries it here. */
void services_gateway_import(struct services *s, struct gateway_parcel *p, uint16_t pair,
                             uint32_t subgroup, uint64_t now_ns, int64_t wall_us);
/* When there is nobody left to import it. */
void services_parcel_free(struct gateway_parcel *p);
/* Its subgroup has another number. */
void services_subgroup(struct services *s, const uint8_t id[GATEWAY_ID_SIZE], uint32_t subgroup);
/* Another process has it: drop what was recalled of it here, without a word. Nothing when it has a
 * session here. */
void services_gateway_forget(struct services *s, const uint8_t id[GATEWAY_ID_SIZE]);

/* What another process, or this one, said of limits that span them (coordinator.c); @b is
 * borrowed. */
void services_share(struct services *s, const struct share_batch *b, uint64_t now_ns,
                    int64_t wall_us);
/* So many SLA processes run now. */
void services_processes(struct services *s, uint32_t running);

/* Documents: put replaces by name. 0, or WEIR_E_CONFLICT when two agreements of equal rank select
 * the same stream (words name both; the newcomer is refused), WEIR_E_FULL. Takes effect at once. */
int services_agreement_put(struct services *s, const struct agreement *a, uint64_t now_ns,
                           int64_t wall_us, char *ret_words, size_t size);
/* Whether what @a reserves fits where its streams are now; nothing is changed. */
void services_admission(struct services *s, const struct agreement *a, struct admission *ret,
                        uint64_t now_ns, int64_t wall_us);
/* Say in events that it did not fit: refused, or put all the same by @forced_by (NULL: refused). */
void services_admission_say(struct services *s, const struct agreement *a,
                            const struct admission *found, const char *forced_by);
int services_tenant_put(struct services *s, const struct tenant *t, uint64_t now_ns,
                        int64_t wall_us);
int services_policy_put(struct services *s, const struct policy *p, uint64_t now_ns,
                        int64_t wall_us);
/* @kind "Agreement", "Tenant", "Policy", or "Gateway" (retires it; @name or its id). 0 or
 * WEIR_E_NOT_FOUND. */
int services_document_remove(struct services *s, const char *kind, const char *name,
                             uint64_t now_ns, int64_t wall_us);
/* The one switch: off lifts every planned throttle now and plans none until it is on. */
void services_enforcement(struct services *s, bool on, uint64_t now_ns, int64_t wall_us);
bool services_enforcing(const struct services *s);

/* Do what is due; call at services_next_ns at the latest, and after each message. */
void services_tick(struct services *s, uint64_t now_ns, int64_t wall_us);
uint64_t services_next_ns(const struct services *s);
/* One piece, a millisecond or so, of what a tick or a document began; false: nothing is left of it.
 * Anything may be called between two pieces. Where config.in_pieces. */
bool services_step(struct services *s, uint64_t now_ns, int64_t wall_us);

/* Counts for status and tests. */
struct services_stats {
    uint64_t reports, stale_reports, polls, polls_lost;
    uint64_t controls_sent, controls_kept;   /* kept: the way was full, sent later */
    uint64_t actions, actions_suppressed, events, samples;
    uint64_t streams_refused, counter_faults;
};
void services_stats(const struct services *s, struct services_stats *ret);

/* The entity cache, for views. Borrowed; valid until the next call that is not const. */
const struct entities *services_entities(const struct services *s);
/* The useful parallelism of the storage that gateways call @target, in thousandths, as found before
 * all of them; 0: it is not found here (one gateway finds its own). */
uint64_t services_parallelism_milli(const struct services *s, const char *target);
/* A place in one of the cache's lists (streams, gateways, targets), moved on when what stands there
 * goes, so that a walk may be made in pieces. One at a time; NULL: none. */
void services_place_set(struct services *s, const struct list *at);
const struct list *services_place(const struct services *s);
/* The targets of @g that have a uri, at most @most of them; returns how many. Borrowed likewise. */
size_t services_gateway_targets(const struct entity_gateway *g, const struct entity_target **ret,
                                size_t most);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What the monitor's threads share: fixed before they start, counters aside. */
#ifndef WEIR_SERVER_MONITOR_MONITOR_PRIVATE_H
#define WEIR_SERVER_MONITOR_MONITOR_PRIVATE_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/clock.h"
#include "control/auth.h"
#include "server/monitor/monitor.h"
#include "server/monitor/session.h"

#define MONITOR_LISTENERS_MAX 9u /* eight configured, and the Unix socket */
#define MONITOR_HEARTBEAT_MS 2000u
#define MONITOR_SILENT_HEARTBEATS 3u
/* A gateway that has not taken what waits for it by then is unreachable, and ended. */
#define MONITOR_STALL_NS (2 * NS_PER_S)
#define MONITOR_SLOW_NS (30 * NS_PER_S)
/* How often loads are looked at. */
#define MONITOR_BALANCE_NS (10 * NS_PER_S)
/* Reports on their way from one inbound to one SLA process. Only pages that are used cost. */
#define MONITOR_SLAB_BYTES (64u * 1024u * 1024u)
/* The same of controls that wait to be sent by one outbound, and of updates under way from one SLA
 * process to all outbounds. */
#define MONITOR_WAITING_BYTES (32u * 1024u * 1024u)
#define MONITOR_UPDATE_BYTES (32u * 1024u * 1024u)
/* How often a message that found no room is posted again. */
#define MONITOR_RETRY_NS (10 * NS_PER_MS)

struct slab;
struct route_gateway;

struct monitor_counters {
#define X(name, help) _Atomic uint64_t name;
    MONITOR_COUNTERS_TABLE(X)
#undef X
#define X(name, help) _Atomic uint64_t name##_now;
    MONITOR_GAUGES_TABLE(X)
#undef X
};

/* The acceptor's record of a session; see session.h for who may touch what. */
struct owned_session {
    struct session session;
    uint8_t told; /* bits of enum session_half that got MSG_SESSION_OPEN */
    uint8_t shut; /* and those that said MSG_SESSION_SHUT */
    size_t dial;  /* of dialler.c; 0: the gateway dialled */
    bool counted;
    bool rekey;                    /* the gateway understands Rekey */
    const char *key_id;            /* in force: hello's, or what it was changed to */
    char *key_changed;             /* owned; NULL: it was not */
    struct owned_session *next_untold;
    struct route_gateway *route; /* NULL: not in the table */
};

struct monitor {
    const struct server_config *config;
    const struct threads *threads;
    int listener[MONITOR_LISTENERS_MAX];
    bool listener_far[MONITOR_LISTENERS_MAX]; /* not loopback: TLS or nothing */
    struct tls_creds *tls;
    size_t listener_count;
    char address[ADDR_TEXT_SIZE];
    uint8_t local_key[AUTH_KEY_SIZE];
    char server_name[NAME_SIZE];
    uint32_t heartbeat_ms; /* as told to gateways; tests make it short before the threads start */
    uint64_t slow_ns, stall_ns, balance_ns;
    /* By slot: an early warning waits at an SLA process. Here since it outlives inbound. */
    atomic_bool *surge_waits;
    /* By slot: what inbound had to do with it, in any unit; for the balance. */
    _Atomic uint64_t *work;
    /* By pair and process; made by inbound[pair] at first use, freed when all threads are gone. */
    _Atomic(struct slab *) slab[THREADS_MAX_PAIRS][THREADS_MAX_SERVICES];
    _Atomic(struct slab *) waiting[THREADS_MAX_PAIRS];   /* outbound[pair]'s */
    _Atomic(struct slab *) update[THREADS_MAX_SERVICES]; /* SLA process's */
    size_t max_sessions;
    struct owned_session *
        *session; /* by slot; the acceptor's until it ends, then monitor_close's */
    struct monitor_counters counters;
};

/* The slab at @place, made at first use. Only the thread that owns it; NULL: no memory. */
struct slab *monitor_slab_of(_Atomic(struct slab *) *place, size_t bytes);
/* inbound[pair] only; NULL: no memory. */
struct slab *monitor_slab(struct monitor *m, size_t pair, size_t process);

#define monitor_count(m, name)                                                                     \
    atomic_fetch_add_explicit(&(m)->counters.name, 1, memory_order_relaxed)
#define monitor_count_add(m, name, n)                                                              \
    atomic_fetch_add_explicit(&(m)->counters.name, (uint64_t)(n), memory_order_relaxed)
#define monitor_count_down(m, name)                                                                \
    atomic_fetch_sub_explicit(&(m)->counters.name, 1, memory_order_relaxed)

#endif

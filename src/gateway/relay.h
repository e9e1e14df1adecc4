/* SPDX-License-Identifier: Apache-2.0 */
/* The relay: listeners, and one host connection to one target connection, metered and held.
 *
 * See relay.c for the rules of holding, the life of a connection and what each close is called. */
#ifndef WEIR_GATEWAY_RELAY_H
#define WEIR_GATEWAY_RELAY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reactor.h"
#include "gateway/config.h"
#include "gateway/stream.h"

/* Why a connection was closed: the one truth for counters, logs and documentation. */
#define RELAY_CLOSE_TABLE(X)                                          \
    X(HOST_DISCONNECTED, "host-disconnected", "DISC, or ABORT in negotiation") \
    X(HOST_VANISHED, "host-vanished", "host closed without DISC")    \
    X(HOST_RESET, "host-reset", "host connection failed")            \
    X(HOST_PROTOCOL, "host-protocol", "host broke the protocol")     \
    X(HOST_TLS, "host-tls", "TLS with the host failed, or its certificate or key does not hold") \
    X(HOST_TIMEOUT, "host-timeout", "host took too long in negotiation") \
    X(HOST_SILENT, "host-silent", "host acknowledged nothing for peer-timeout") \
    X(TARGET_UNREACHABLE, "target-unreachable", "connect to the target failed") \
    X(TARGET_TIMEOUT, "target-timeout", "target took too long in negotiation") \
    X(TARGET_CLOSED, "target-closed", "target closed the connection") \
    X(TARGET_RESET, "target-reset", "target connection failed")      \
    X(TARGET_TLS, "target-tls", "TLS with the target failed, or its certificate does not hold") \
    X(TARGET_SILENT, "target-silent", "target acknowledged nothing for peer-timeout") \
    X(TARGET_PROTOCOL, "target-protocol", "target broke the protocol") \
    X(CONNECTION_LIMIT, "connection-limit", "max-connections reached") \
    X(HOST_CONNECTION_LIMIT, "host-connection-limit", "max-connections-per-host reached") \
    X(NO_MEMORY, "no-memory", "a pool is empty")                     \
    X(WORKER_LOST, "worker-lost", "the worker process died with it")   \
    X(DRAINING, "draining", "a host came while the gateway is drained")  \
    X(DRAINED, "drained", "the gateway was drained or upgraded")     \
    X(SHUTDOWN, "shutdown", "the gateway ends")

enum relay_close {
#define X(name, label, words) RELAY_CLOSE_##name,
    RELAY_CLOSE_TABLE(X)
#undef X
    RELAY_CLOSE_COUNT,
};
const char *relay_close_label(enum relay_close c);

struct relay_counts {
    uint64_t accepted, active;
    uint64_t closed[RELAY_CLOSE_COUNT];
    uint64_t hold_full;   /* times that a host was left unread for want of it */
};

struct certs;
struct relay;

/* Opens every listener of @config (0, or -errno with the listener's name in *@ret_where). All
 * borrowed objects outlive the relay. */
int relay_new(struct reactor *r, const struct gateway_config *config, struct stream_table *streams,
              struct relay **ret, const char **ret_where);
/* The same over listening sockets that are open already, one a listener; takes them, leaves the
 * files of Unix sockets to whoever opened them. @listeners NULL: opens its own. */
int relay_new_over(struct reactor *r, const struct gateway_config *config,
                   struct stream_table *streams, const int *listeners, struct relay **ret,
                   const char **ret_where);
/* Open a listener's socket: the descriptor or -errno; and remove its file, if it is a Unix one. */
int relay_listener_open(const struct listener_config *config);
void relay_listener_unlink(const struct listener_config *config);
/* Take no more hosts (others do); those that are here go on. How many of them still negotiate;
 * close these. */
void relay_retire(struct relay *r);
size_t relay_negotiating(const struct relay *r);
void relay_close_negotiating(struct relay *r);
/* Take no hosts until told otherwise (relay_drain.c); those that are here go on. False: a listener
 * could not begin to listen again; call again later. */
bool relay_drain(struct relay *r, bool on);
/* Close the connections on which nothing is under way; how many that were. */
size_t relay_close_idle(struct relay *r);
/* Take no more hosts and no more requests. What the target has still gets its answer, then each
 * connection closes; counts.active falls to 0, unless a target or a host does not do its part. */
void relay_stop(struct relay *r);
/* Close everything at once. */
void relay_free(struct relay *r);
/* Of this worker's bank of the ledger. */
const struct relay_counts *relay_counts(const struct relay *r);
/* Bytes of rings for the payload of held writes beyond each connection's own, now. */
uint64_t relay_hold_memory(const struct relay *r);
/* The address listener @i really got (port 0 resolved). */
int relay_listener_text(const struct relay *r, size_t i, char *out, size_t size);
/* What @from read of certificates and keys for our listeners and targets is in force for
 * connections that begin from now on. All or none: 0, or an error code with words. */
int relay_tls_load(struct relay *r, const struct gateway_config *from, char *words, size_t size);
/* The gateway's own certificates. */
const struct certs *relay_certs(const struct relay *r);
/* Rules changed: look at what is held again in this round. */
void relay_kick(struct relay *r);

#endif

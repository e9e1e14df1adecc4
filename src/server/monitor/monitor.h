/* SPDX-License-Identifier: Apache-2.0 */
/* Performance monitor: acceptor, and pairs of one inbound and one outbound thread, never blocking.
 *
 * The acceptor finishes handshakes (bounded in number and time) and hands each session to a pair.
 * inbound only reads: frames to messages, routed to the SLA process of the gateway's subgroup.
 * outbound only writes, with a bounded queue per gateway in which a newer control replaces the
 * older for the same id. finder, where it is enabled, looks for gateways on the network. */
#ifndef WEIR_SERVER_MONITOR_MONITOR_H
#define WEIR_SERVER_MONITOR_MONITOR_H
#include "server/services/report.h"
#include "server/threads.h"

struct tls_creds;
struct monitor; /* what the monitor's threads share: listening sockets, the routing table */

/* Opens the listening sockets and makes <state_dir>/gateway.key (0600) if absent. 0 or an error
 * code with words. */
int monitor_open(const struct server_config *config, const struct threads *threads,
                 struct monitor **ret, char *ret_words, size_t size);
/* After all threads of the monitor ended. */
void monitor_close(struct monitor *m);
/* The address the first TCP listener really got (the Unix socket's when there is none). */
const char *monitor_address(const struct monitor *m);

/* What the control port proves itself with, read from the files; with @make_as the server's own key
 * pair is made under that name when it is not there. 0 or an error code with words. MSG_CONTROL_TLS
 * gives it to the acceptor, for handshakes to come. */
int monitor_tls_load(const struct server_config *config, const char *make_as,
                     struct tls_creds **ret, char *ret_words, size_t size);

/* SHA-256 of the public key that gateways on other machines know this server by; before the threads
 * run. */
void monitor_fingerprint(const struct monitor *m, uint8_t ret[32]);

struct monitor_thread {
    struct monitor *monitor;
    size_t pair;
};
void *monitor_acceptor_main(void *monitor_thread);
void *monitor_finder_main(void *monitor_thread); /* where HAVE_AVAHI; has threads.finder */
void *monitor_inbound_main(void *monitor_thread);
void *monitor_outbound_main(void *monitor_thread);

/* Body of MSG_GATEWAY_TARGETS (freed with free): what a gateway stands before, by name. */
#define GATEWAY_TARGETS_MAX 256u
struct gateway_targets {
    uint8_t gateway[GATEWAY_ID_SIZE];
    size_t count;
    uint64_t hash[GATEWAY_TARGETS_MAX];
};

/* What the monitor counts: the one truth for struct, names and help of metrics. */
#define MONITOR_COUNTERS_TABLE(X)                                                                  \
    X(accepted, "Connections accepted from gateways")                                              \
    X(accept_failures, "Connections that could not be accepted")                                   \
    X(refused_address, "Connections closed: too many handshakes from one address")                 \
    X(refused_auth, "Handshakes refused: unknown key or wrong proof")                              \
    X(refused_version, "Handshakes refused: no version in common")                                 \
    X(refused_protocol, "Handshakes refused: the peer broke the protocol")                         \
    X(refused_full, "Handshakes refused: as many sessions as configured")                          \
    X(refused_unavailable, "Handshakes refused: keys could not be read or written")                \
    X(refused_tls, "Connections closed: no TLS where it is required, or it failed")                \
    X(handshake_timeouts, "Handshakes that took longer than their bound")                          \
    X(handshake_closed, "Handshakes that the peer left")                                           \
    X(dials, "Connections opened to gateways that listen")                                         \
    X(dial_failures, "Gateways that listen and could not be reached")                              \
    X(found_refused, "Announcements of gateways not taken: no good address, or no room")           \
    X(enrolled, "Gateways that enrolled by token")                                                 \
    X(rotated, "Keys of gateways that were changed for new ones")                                  \
    X(sessions, "Sessions that ever stood")                                                        \
    X(frames_in, "Frames from gateways")                                                           \
    X(bytes_in, "Bytes from gateways")                                                             \
    X(reports, "Statistics handed to the SLA services")                                            \
    X(reports_dropped, "Statistics dropped: the SLA process had no room")                          \
    X(surges, "Early warnings handed to the SLA services")                                         \
    X(surges_dropped, "Early warnings dropped: too many, or no room")                              \
    X(acks, "Acknowledgements handed to the SLA services")                                         \
    X(acks_coalesced, "Acknowledgements replaced by a newer one before they were handed on")       \
    X(posts_retried, "Messages that had to be posted again: the receiver had no room")             \
    X(frames_out, "Frames to gateways")                                                            \
    X(bytes_out, "Bytes to gateways")                                                              \
    X(polls_coalesced, "Polls replaced by a newer one before they were sent")                      \
    X(controls_coalesced, "Controls replaced by a newer one before they were sent")                \
    X(sends_unknown, "Messages for sessions that are gone")                                        \
    X(sends_stalled, "Messages not taken for gateways that do not read")                           \
    X(stalls, "Times a gateway did not read, so that what waited for it was let go of")            \
    X(moves, "Gateways that were moved to another pair or SLA process")                            \
    X(moves_refused, "Moves that were put off: the session was ending")                            \
    X(ended_peer, "Sessions that the gateway ended")                                               \
    X(ended_error, "Sessions that the network ended")                                              \
    X(ended_protocol, "Sessions ended: the gateway broke the protocol")                            \
    X(ended_silent, "Sessions ended: three heartbeats of silence")                                 \
    X(ended_slow, "Sessions ended: the gateway does not read")                                     \
    X(ended_overflow, "Sessions ended: more waited to be sent than the bound")                     \
    X(ended_by_server, "Sessions ended on the SLA services' word")
/* What is now. */
#define MONITOR_GAUGES_TABLE(X)                                                                    \
    X(handshakes, "Handshakes going on")                                                           \
    X(sessions, "Sessions that stand")                                                             \
    X(found, "Gateways announced on the network")                                                 \
    X(moving, "Gateways on their way to another pair or SLA process")                              \
    X(subgroups, "Subgroups of gateways that share storage")

struct slab;

struct monitor_stats {
#define X(name, help) uint64_t name;
    MONITOR_COUNTERS_TABLE(X)
#undef X
#define X(name, help) uint64_t name##_now;
    MONITOR_GAUGES_TABLE(X)
#undef X
};
/* Any thread; figures are of about now. */
void monitor_stats(const struct monitor *m, struct monitor_stats *ret);
/* Where SLA process @process makes updates of controls: asked by main before its thread is there,
 * whose it is from then on. Blocks come back from any thread. NULL: no memory. */
struct slab *monitor_update_slab(struct monitor *m, size_t process);
/* Memory that is kept for reports on their way to SLA processes, in bytes. Any thread. */
size_t monitor_report_bytes(const struct monitor *m);

#endif

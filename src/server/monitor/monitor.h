/* SPDX-License-Identifier: Apache-2.0 */
/* Performance monitor: acceptor, and pairs of one inbound and one outbound thread, never blocking.
 *
 * The acceptor finishes handshakes (bounded in number and time) and hands each session to a pair. inbound
 * only reads: frames to messages, routed to the SLA process of the gateway's subgroup. outbound only writes, with a
 * bounded queue per gateway in which a newer control replaces the older for the same id. */
#ifndef WEIR_SERVER_MONITOR_MONITOR_H
#define WEIR_SERVER_MONITOR_MONITOR_H
#include "server/threads.h"

struct monitor; /* what the monitor's threads share: listening sockets, the routing table */

/* Opens the listening sockets and makes <state_dir>/gateway.key (0600) if absent. 0 or an error code with words. */
int monitor_open(const struct server_config *config, const struct threads *threads, struct monitor **ret,
                 char *ret_words, size_t size);
void monitor_close(struct monitor *m);
/* The address the first TCP listener really got. */
const char *monitor_address(const struct monitor *m);

struct monitor_thread {
    struct monitor *monitor;
    size_t pair;
};
void *monitor_acceptor_main(void *monitor_thread);
void *monitor_inbound_main(void *monitor_thread);
void *monitor_outbound_main(void *monitor_thread);

/* Routing: which SLA process and which pair a gateway's subgroup belongs to (pure, from its id). */
size_t monitor_route_services(const struct monitor *m, const uint8_t gateway_id[16]);
size_t monitor_route_pair(const struct monitor *m, const uint8_t gateway_id[16]);

#endif

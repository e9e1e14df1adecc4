/* SPDX-License-Identifier: Apache-2.0 */
/* Storage resource manager: watches each target itself, beside the gateways' view.
 *
 * Learns targets from MSG_TARGET_SEEN; every probe period, on a connection of its own and within 5
 * s: reachable, size, block sizes, one bounded read's latency. Tells every SLA process
 * (MSG_TARGET_HEALTH) and the store. By TLS where a target's URI says nbds, with the keys of
 * server.conf, which MSG_PROBE_KEYS renews. */
#ifndef WEIR_SERVER_RESOURCE_RESOURCE_H
#define WEIR_SERVER_RESOURCE_RESOURCE_H
#include "server/resource/probe_keys.h"
#include "server/threads.h"

/* At most so many targets are probed; a new one takes the place of one that has been unreachable
 * for RESOURCE_STALE_NS, else it is counted and said once. */
#define RESOURCE_MAX_TARGETS 256u
#define RESOURCE_STALE_NS    (UINT64_C(3600) * 1000000000u)
/* So many probes run at once; the others wait their turn. */
#define RESOURCE_MAX_RUNNING 32u

/* Body of MSG_TARGET_SEEN (freed with free). */
struct target_seen {
    char gateway[128], target[128], uri[512];
};

struct resource_thread {
    const struct server_config *config;
    struct probe_key_set *keys; /* the thread's from then on; NULL: none */
    const struct threads *threads;
};
void *resource_main(void *resource_thread);

#endif

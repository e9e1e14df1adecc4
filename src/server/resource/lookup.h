/* SPDX-License-Identifier: Apache-2.0 */
/* Looking up a host's name without waiting for it: a short-lived thread of its own does nothing
 * else. */
#ifndef WEIR_SERVER_RESOURCE_LOOKUP_H
#define WEIR_SERVER_RESOURCE_LOOKUP_H
#include <netdb.h>
#include <stdbool.h>

struct lookup;

/* @host is copied (at most 255 bytes). NULL: no memory or no thread to be had. */
struct lookup *lookup_start(const char *host);
bool lookup_done(const struct lookup *l);
/* Once done: 0 and a list that lives as long as @l, or an EAI_ code. */
int lookup_result(const struct lookup *l, const struct addrinfo **ret);
/* Let go of it, done or not; what comes later is thrown away. Takes NULL. */
void lookup_drop(struct lookup *l);

#endif

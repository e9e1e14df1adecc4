/* SPDX-License-Identifier: Apache-2.0 */
/* Naps: how long a thread that many wake sleeps on before it looks again; pure.
 *
 * A message that comes alone is handled at once. Where they come so densely that some more would
 * be there a moment later, each of them is worth less than the wake that it costs here, and those
 * that it causes further on: then the thread sleeps NAP_MAX_NS at most, and takes them together.
 * Where as many as a nap is for came together by themselves, there may be more already: no nap. */
#ifndef WEIR_SERVER_MONITOR_NAP_H
#define WEIR_SERVER_MONITOR_NAP_H
#include <stdint.h>

#include "base/clock.h"

/* By how much a message may wait. */
#define NAP_MAX_NS (100 * NS_PER_US)
/* A nap is for so many messages at most; where fewer than NAP_LEAST would come in NAP_MAX_NS there
 * is none: below 20,000 messages a second. */
#define NAP_MESSAGES 32u
#define NAP_LEAST 2u
/* Over how long their density is taken. After silence the first so long is without naps; when it
 * ends, so long may be with them. */
#define NAP_LOOK_NS (2 * NS_PER_MS)

struct nap {
    uint64_t from_ns, messages, ns;
};

/* @now_ns must not go backwards. */
void nap_init(struct nap *n, uint64_t now_ns);
/* How long to sleep now, 0: not at all. @messages: that came since the last call. */
uint64_t nap_next(struct nap *n, uint64_t messages, uint64_t now_ns);

#endif

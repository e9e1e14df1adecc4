/* SPDX-License-Identifier: Apache-2.0 */
/* The coordinator: divides limits that hold over several SLA processes among them; pure.
 *
 * It lives in one of the processes and belongs to its thread. */
#ifndef WEIR_SERVER_SERVICES_COORDINATOR_H
#define WEIR_SERVER_SERVICES_COORDINATOR_H
#include "server/services/share.h"

struct coordinator;

/* @base: SLA processes at the server's start. Who is not heard for three of @period_ns, though it
 * should be, keeps what it has. NULL: no memory. */
struct coordinator *coordinator_new(uint32_t base, uint64_t period_ns);
void coordinator_free(struct coordinator *c);

void coordinator_note(struct coordinator *c, uint32_t from, const struct share_note *n,
                      uint64_t now_ns);
/* Decide on what was noted since. */
void coordinator_run(struct coordinator *c, uint64_t now_ns);

/* What process @to is to be told, at most @max of it; it counts as told. The rest: again. */
size_t coordinator_take(struct coordinator *c, uint32_t to, struct share_grant *ret, size_t max);
/* It could not be told. */
void coordinator_put_back(struct coordinator *c, uint32_t to, const struct share_grant *g,
                          size_t n);
/* Bit i: process i is to be told something. */
uint32_t coordinator_owes(const struct coordinator *c);

/* Claims that are spoken of, and what is in nobody's hand of @key: for tests. */
size_t coordinator_count(const struct coordinator *c);
void coordinator_pool(const struct coordinator *c, struct share_key key,
                      uint32_t ret[GATE_KIND_COUNT]);

#endif

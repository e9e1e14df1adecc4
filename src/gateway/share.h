/* SPDX-License-Identifier: Apache-2.0 */
/* Shares of controls at targets: what the streams that a control names get together.
 *
 * Private to stream.c. A share exists for each pair of control and target that a live stream has.
 * Reactor thread only. */
#ifndef WEIR_GATEWAY_SHARE_H
#define WEIR_GATEWAY_SHARE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "gateway/rule.h"
#include "qos/sched.h"
#include "qos/target.h"

struct share {
    struct list link; /* in group->shares */
    struct rule_group *group;
    struct target *target;
    struct sched_share sched;
};

/* Whether @g owes a stream a share, and rather than @other (which may be NULL): planned before
 * agreed, then the one that came first. */
bool share_rather(const struct rule_group *g, const struct rule_group *other);
/* Let @flow have the share of @g at @target (@g NULL: its own) instead of the one it has, *@at. A
 * share that nobody has any more is freed. For want of memory a flow gets its own. */
void share_move(struct share **at, struct rule_group *g, struct target *target,
                struct sched_flow *flow, uint64_t now_ns);
/* The terms of @g changed. */
void share_group_changed(struct rule_group *g, uint64_t now_ns);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Policy manager: whether a proposed throttle may be, and how far. */
#ifndef WEIR_SERVER_SERVICES_POLICY_H
#define WEIR_SERVER_SERVICES_POLICY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/services/agreement.h"

/* Never throttled below this, whatever the need, unless a policy sets its own floor. */
#define POLICY_FLOOR_IOPS 50u
/* Largest cut in one period when no policy sets one: of a stream with a contract, and of one
 * without. */
#define POLICY_MAX_CUT_PPM 200000u
#define POLICY_MAX_CUT_BARE_PPM 500000u

#define DECISION_TABLE(X)                     \
    X(SENT, "sent")                           \
    X(OBSERVE, "observe")                     \
    X(PROTECTED, "protected")                 \
    X(FLOOR, "floor")                         \
    X(FROZEN, "frozen")                       \
    X(ENFORCEMENT_OFF, "enforcement-off")     \
    X(MAX_CUT, "max-cut")
enum decision {
#define X(name, label) DECISION_##name,
    DECISION_TABLE(X)
#undef X
};
const char *decision_name(enum decision d);

/* A cut somebody wants: the stream, what it gets now and what it shall get. */
struct proposal {
    const char *tenant, *host, *volume, *target;
    double from_iops, to_iops;
    double mean_bytes;           /* of its I/Os, for floors in bytes; 0: unknown */
    bool contract;               /* it has an agreement of its own */
    double entitled_iops;        /* its own reservation or contract: never below */
};

struct ruling {
    enum decision decision;
    bool allowed;                /* send it, with to_iops */
    double to_iops;              /* never above from_iops */
    const struct policy *policy; /* that decided; NULL: built in */
};

/* All policies hold at once; the strictest wins. Order of severity: enforcement off, protected,
 * frozen, observe (by a policy; or @observe, the server's mode, unless a policy says enforce), then
 * floor and largest cut, which change the rate rather than forbid. A cut that the floor leaves
 * nothing of is not allowed. Pure. */
void policy_check(const struct policy *policies, size_t count, bool enforcing, bool observe,
                  const struct proposal *p, int64_t wall_us, struct ruling *ret);

/* The rate below which @p's stream must not be throttled. Pure. */
double policy_floor(const struct policy *policies, size_t count, const struct proposal *p);

/* Whether @wall_us lies in one of the freeze windows. */
bool policy_frozen(const struct policy *p, int64_t wall_us);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Policy manager.
 *
 * Problem: the controller says what would help; people say what may be done to whom. Nothing
 * planned leaves without having passed here, and what is stopped is recorded as stopped, with the
 * rule's name.
 *
 * Model: every policy whose selector matches the stream holds; the strictest of each kind counts.
 * Two kinds of rule: those that forbid (enforcement off, protect, freeze, observe) and those that
 * bound (floor, largest cut). Invariants: (1) a ruling never raises a rate and never goes below the
 * floor, the stream's entitlement or the largest cut; (2) a forbidden proposal carries no rate to
 * send; (3) a ruling depends on its arguments only. */
#include "server/services/policy.h"

#include "base/assert.h"
#include "server/services/state.h"

static const char *const decision_names[] = {
#define X(name, label) [DECISION_##name] = label,
    DECISION_TABLE(X)
#undef X
};

const char *decision_name(enum decision d)
{
    weir_assert((size_t)d < sizeof(decision_names) / sizeof(decision_names[0]));
    return decision_names[d];
}

bool policy_frozen(const struct policy *p, int64_t wall_us)
{
    return week_open(p->freeze, p->freeze_count, wall_us);
}

/* What all matching policies say together; the pointer names the first that says so most strictly.
 */
struct rules {
    const struct policy *protect, *freeze, *observe, *enforce, *floor, *max_cut;
    double floor_iops;
    uint32_t max_cut_ppm;
};

/* In I/Os per second, the larger of the two it may name. */
static double floor_of(const struct policy *q, const struct proposal *p)
{
    double iops = (double)q->floor_iops;
    double bytes = p->mean_bytes > 0 ? (double)q->floor_bytes_s / p->mean_bytes : 0;
    return bytes > iops ? bytes : iops;
}

static void rules_collect(struct rules *r, const struct policy *policies, size_t count,
                          const struct proposal *p, int64_t wall_us)
{
    *r = (struct rules){.max_cut_ppm = UINT32_MAX};
    for (size_t i = 0; i < count; i++) {
        const struct policy *q = &policies[i];
        if (!selector_match(&q->applies_to, p->tenant, p->host, p->volume, p->target))
            continue;
        if (q->protect && r->protect == NULL)
            r->protect = q;
        if (q->observe && r->observe == NULL)
            r->observe = q;
        if (q->enforce && r->enforce == NULL)
            r->enforce = q;
        if (r->freeze == NULL && policy_frozen(q, wall_us))
            r->freeze = q;
        double floor = floor_of(q, p);
        if (floor > r->floor_iops) {
            r->floor = q;
            r->floor_iops = floor;
        }
        if (q->max_cut_ppm != 0 && q->max_cut_ppm < r->max_cut_ppm) {
            r->max_cut = q;
            r->max_cut_ppm = q->max_cut_ppm;
        }
    }
    if (r->max_cut == NULL)
        r->max_cut_ppm = p->contract ? POLICY_MAX_CUT_PPM : POLICY_MAX_CUT_BARE_PPM;
    if (r->max_cut_ppm > 1000000)
        r->max_cut_ppm = 1000000;
    if (r->floor == NULL)
        r->floor_iops = POLICY_FLOOR_IOPS;
}

double policy_floor(const struct policy *policies, size_t count, const struct proposal *p)
{
    struct rules r;
    rules_collect(&r, policies, count, p, 0);
    return p->entitled_iops > r.floor_iops ? p->entitled_iops : r.floor_iops;
}

static void ruling_forbid(struct ruling *ret, enum decision d, const struct policy *by)
{
    ret->decision = d;
    ret->policy = by;
    ret->allowed = false;
}

void policy_check(const struct policy *policies, size_t count, bool enforcing, bool observe,
                  const struct proposal *p, int64_t wall_us, struct ruling *ret)
{
    struct rules r;
    rules_collect(&r, policies, count, p, wall_us);
    weir_assert(p->to_iops <= p->from_iops);
    *ret = (struct ruling){.decision = DECISION_SENT, .allowed = true, .to_iops = p->to_iops};

    /* Bounds first, so that a forbidden proposal is recorded with the rate it would have had. */
    double least = p->from_iops * (1.0 - (double)r.max_cut_ppm / 1e6);
    if (ret->to_iops < least) {
        ret->to_iops = least;
        if (r.max_cut != NULL) {
            ret->decision = DECISION_MAX_CUT;
            ret->policy = r.max_cut;
        }
    }
    double floor = p->entitled_iops > r.floor_iops ? p->entitled_iops : r.floor_iops;
    if (ret->to_iops < floor) {
        ret->to_iops = floor < p->from_iops ? floor : p->from_iops;
        ret->decision = DECISION_FLOOR;
        ret->policy = p->entitled_iops > r.floor_iops ? NULL : r.floor;
    }
    /* Less than one I/O a second is no cut. */
    if (ret->to_iops > p->from_iops - 1.0) {
        ret->to_iops = p->from_iops;
        ret->allowed = false;
    }

    if (!enforcing)
        ruling_forbid(ret, DECISION_ENFORCEMENT_OFF, NULL);
    else if (r.protect != NULL)
        ruling_forbid(ret, DECISION_PROTECTED, r.protect);
    else if (r.freeze != NULL)
        ruling_forbid(ret, DECISION_FROZEN, r.freeze);
    else if (r.observe != NULL)
        ruling_forbid(ret, DECISION_OBSERVE, r.observe);
    else if (observe && r.enforce == NULL)
        ruling_forbid(ret, DECISION_OBSERVE, NULL);
    weir_assert(ret->to_iops <= p->from_iops);
}

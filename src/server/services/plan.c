/* SPDX-License-Identifier: Apache-2.0 */
/* The planner: what each gateway's schedulers owe whom.
 *
 * Problem: a promise holds over all gateways before a storage, and each gateway's scheduler sees
 * only its own I/O. Reservations together may exceed what the storage can do.
 *
 * Model, once a period and anew each time (control.md, sections 4.3 to 4.6): each claim that
 * makes a promise has a *share* at each target where its streams are: reservation (for a promise of
 * latency at least HEADROOM times the demand up to which it holds, since at less no scheduler
 * helps), weight, objective. Before several gateways the share is sent whole to each, with what the
 * others have served for it (batched dmClock), as a planned control that is renewed each period;
 * the bare share is an agreed one, so that a gateway that is left alone goes on with it. A claim
 * over several storages has its reservation divided among them by demand.
 *
 * What a storage can do is the most useful parallelism that its gateways found, in device time a
 * second. When reservations together exceed it they are scaled (allocate.h) by priority, or as a
 * policy for the target says, and an event says so.
 *
 * For each target a plan says the bound of the device's wait: what the tightest promise there
 * leaves after the device's own time. Where only to observe is allowed no share and no plan is
 * sent: a gateway without shares schedules nothing.
 *
 * Invariants: (1) with nothing known of a storage's capacity nothing is scaled; (2) what is sent
 * differs from what was sent last. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/allocate.h"
#include "server/services/state.h"

#define HEADROOM 1.1
#define AIM 0.85
/* p99 over mean of an exponential: the device's own time at p99 when only its mean is known. */
#define TAIL 4.6
#define WAIT_LEAST 0.25 /* of the objective */
#define QUIET_NS UINT64_C(60000000000)
#define WORTH_RESERVE 0.1 /* a reservation that changed by less is not sent anew */

/* --- what promises ask for ------------------------------------------------------------- */

static bool part_speaks(const struct part *p)
{
    return p->promised > 0 && p->claim->agreed != NULL &&
           precedence_speaks(&p->claim->agreed->e.agreement) && p->target != NULL;
}

/* Demand of all parts of the claim. */
static double claim_demand(const struct claim *c)
{
    double sum = 0;
    list_for_each(it, &c->parts)
        sum += container_of(it, struct part, in_claim)->demand[GATE_IOPS_TOTAL];
    return sum;
}

/* The rate that must come first, over all storages. */
static double claim_reserve(const struct claim *c, double demand)
{
    const struct agreement *a = &c->agreed->e.agreement;
    uint64_t parts = a->reservation_read_iops + a->reservation_write_iops;
    double r = (double)(a->reservation_iops > parts ? a->reservation_iops : parts);
    if (a->objective_count == 0)
        return r;
    uint64_t last = a->objective[a->objective_count - 1].while_iops;
    double promised = HEADROOM * (last == UINT64_MAX ? demand : (double)last);
    return promised > r ? promised : r;
}

/* The claim's demand at the storage of @p. */
static double demand_at(const struct claim *c, const struct storage *t)
{
    double sum = 0;
    list_for_each(it, &c->parts) {
        const struct part *p = container_of(it, struct part, in_claim);
        sum += p->target != NULL && p->target->storage == t ? p->demand[GATE_IOPS_TOTAL] : 0;
    }
    return sum;
}

static bool is_first_at(const struct part *p)
{
    list_for_each(it, &p->claim->parts) {
        const struct part *other = container_of(it, struct part, in_claim);
        if (part_speaks(other) && other->target->storage == p->target->storage)
            return other == p;
    }
    return true;
}

/* Device time of one of its I/Os, ns. */
static double io_cost(const struct part *p)
{
    if (p->ios > 0 && p->cost_ns > 0)
        return (double)p->cost_ns / (double)p->ios;
    struct cost_model m = cost_is_set(&p->target->cost) ? p->target->cost : cost_default();
    return (double)m.base_ns[IO_DIR_READ] + (double)m.page_ns[IO_DIR_READ];
}

static uint64_t wait_bound(const struct part *p)
{
    const struct agreement *a = &p->claim->agreed->e.agreement;
    double tightest = INFINITY;
    for (size_t i = 0; i < a->objective_count; i++)
        tightest = fmin(tightest, (double)a->objective[i].latency_us);
    if (!isfinite(tightest))
        return 0;
    double bound = AIM * tightest - TAIL * io_cost(p) / 1e3;
    return (uint64_t)fmax(bound, WAIT_LEAST * tightest);
}

static void claim_ask(struct claim *c)
{
    double demand = claim_demand(c), reserve = claim_reserve(c, demand);
    list_for_each(it, &c->parts) {
        struct part *p = container_of(it, struct part, in_claim);
        p->reserve = p->reserve_fits = 0;
        if (!part_speaks(p))
            continue;
        struct storage *t = p->target->storage;
        double here = demand_at(c, t);
        bool only = here >= demand;
        p->reserve = p->reserve_fits = only ? reserve : reserve * here / demand;
        if (is_first_at(p))
            t->reserved += p->reserve * io_cost(p);
        uint64_t bound = wait_bound(p);
        if (bound > 0 && (t->wait_us == 0 || bound < t->wait_us))
            t->wait_us = bound;
    }
}

/* --- reservations against capacity ----------------------------------------------------- */

static double storage_capacity(const struct storage *t)
{
    uint64_t most = 0;
    list_for_each(it, &t->targets) {
        const struct target *one = container_of(it, struct target, in_storage);
        if (one->e.parallelism_milli > most)
            most = one->e.parallelism_milli;
    }
    return (double)most * 1e6; /* ns of device time a second */
}

static enum collisions collisions_at(const struct services *s, const struct storage *t)
{
    for (size_t i = 0; i < s->e.policy_count; i++) {
        const struct policy *p = &s->policies[i];
        if (p->collisions == COLLISIONS_SHARE &&
            selector_match(&p->applies_to, "", "", "", t->name))
            return COLLISIONS_SHARE;
    }
    return COLLISIONS_PRIORITY;
}

/* Every claim with a share at @t, one entry each; @n: how many there are. */
static size_t claims_at(struct services *s, const struct storage *t, struct allocate_claim *ret,
                        struct part **first)
{
    size_t n = 0;
    list_for_each(it, &s->claims) {
        struct claim *c = container_of(it, struct claim, link);
        list_for_each(at, &c->parts) {
            struct part *p = container_of(at, struct part, in_claim);
            if (!part_speaks(p) || p->target->storage != t || !is_first_at(p))
                continue;
            if (ret != NULL) {
                const struct agreement *a = &c->agreed->e.agreement;
                first[n] = p;
                ret[n] = (struct allocate_claim){
                    .demand = p->reserve * io_cost(p), .reservation = p->reserve * io_cost(p),
                    .limit = INFINITY, .weight = a->weight, .priority = a->priority};
            }
            n++;
        }
    }
    return n;
}

static void scale_at(struct part *first, double factor)
{
    list_for_each(it, &first->claim->parts) {
        struct part *p = container_of(it, struct part, in_claim);
        if (part_speaks(p) && p->target->storage == first->target->storage)
            p->reserve_fits = p->reserve * factor;
    }
}

static void storage_scale(struct services *s, struct storage *t)
{
    size_t n = claims_at(s, t, NULL, NULL);
    struct allocate_claim *c = calloc(n + 1, sizeof(*c));
    struct part **first = calloc(n + 1, sizeof(*first));
    if (c != NULL && first != NULL) {
        claims_at(s, t, c, first);
        t->fits = allocate(c, n, t->capacity, collisions_at(s, t));
        for (size_t i = 0; i < n; i++)
            scale_at(first[i], c[i].reservation > 0 ? c[i].reserved / c[i].reservation : 1.0);
    }
    free(c);
    free(first);
}

static void say_overcommitted(struct services *s, struct storage *t, bool over)
{
    char subject[SUBJECT_SIZE];
    words(subject, sizeof(subject), "target/%s", t->name);
    if (over && !t->overcommitted)
        note_event(s, EVENT_WARNING, "overcommitted", subject,
                   "reservations at %s ask for %.0f %% of what it can do (%.1f of %.1f I/Os at "
                   "once): they are scaled, by %s",
                   t->name, 100.0 * t->reserved / t->capacity, t->reserved / 1e9,
                   t->capacity / 1e9,
                   collisions_at(s, t) == COLLISIONS_SHARE ? "equal shares" : "priority");
    if (!over && t->overcommitted)
        note_event(s, EVENT_INFO, "no-longer-overcommitted", subject,
                   "reservations at %s fit again: %.0f %% of what it can do", t->name,
                   100.0 * t->reserved / t->capacity);
    t->overcommitted = over;
}

static void storage_settle(struct services *s, struct storage *t)
{
    t->capacity = storage_capacity(t);
    t->fits = 1.0;
    bool over = t->capacity > 0 && t->reserved > t->capacity;
    if (over) {
        t->overcommitted_ns = s->now_ns;
        storage_scale(s, t);
    }
    if (over || s->now_ns - t->overcommitted_ns > QUIET_NS)
        say_overcommitted(s, t, over);
    double part = t->capacity > 0 ? t->reserved / t->capacity : 0;
    list_for_each(it, &t->targets) {
        struct target *one = container_of(it, struct target, in_storage);
        one->e.overcommitted = over;
        one->e.reserved_ppm = part < 1000 ? (uint32_t)(part * 1e6) : 1000000000u;
    }
}

/* --- what is sent ---------------------------------------------------------------------- */

static bool spans(const struct part *p)
{
    list_for_each(it, &p->claim->parts) {
        const struct part *other = container_of(it, struct part, in_claim);
        if (other->gateway != p->gateway && part_speaks(other) &&
            other->target->storage == p->target->storage)
            return true;
    }
    return false;
}

static void elsewhere(const struct part *p, struct sched_terms *t)
{
    list_for_each(it, &p->claim->parts) {
        const struct part *other = container_of(it, struct part, in_claim);
        if (other->gateway == p->gateway || !part_speaks(other) ||
            other->target->storage != p->target->storage)
            continue;
        t->elsewhere_cost_ns += other->cost_ns;
        t->elsewhere_ios += other->ios;
        t->elsewhere_bytes += other->bytes;
    }
}

/* What the agreement says, without regard to others. */
static struct sched_terms terms_of(const struct part *p)
{
    const struct agreement *a = &p->claim->agreed->e.agreement;
    const struct objective *o = a->objective_count > 0 ? &a->objective[0] : NULL;
    uint64_t parts = a->reservation_read_bytes_s + a->reservation_write_bytes_s;
    return (struct sched_terms){
        .reserve_iops = (uint64_t)llround(p->reserve),
        .reserve_bytes_s = a->reservation_bytes_s > parts ? a->reservation_bytes_s : parts,
        .weight = a->weight,
        .priority = a->priority,
        .latency_us = o != NULL ? o->latency_us : 0,
        .percentile_ppm = o != NULL ? o->percentile_ppm : 0,
        .while_iops = o != NULL && o->while_iops != UINT64_MAX ? o->while_iops : 0,
    };
}

/* A working reservation follows the demand; it is not sent anew for every wobble. */
static void steady(struct sched_terms *t, const struct sched_terms *was)
{
    double now = (double)t->reserve_iops, then = (double)was->reserve_iops;
    if (was->weight > 0 && then > 0 && fabs(now - then) <= WORTH_RESERVE * then)
        t->reserve_iops = was->reserve_iops;
}

/* Whether nothing that is planned may hold there. */
static bool hands_off(const struct services *s, const struct target *t)
{
    if (!s->e.enforcing)
        return true;
    bool observe = s->e.observe, enforce = false;
    for (size_t i = 0; i < s->e.policy_count; i++) {
        const struct policy *p = &s->policies[i];
        if (!selector_match(&p->applies_to, "", "", "", t->e.name))
            continue;
        if (p->observe)
            return true;
        enforce = enforce || p->enforce;
    }
    return observe && !enforce;
}

static void part_plan(struct services *s, struct part *p)
{
    struct sched_terms share = {.weight = 0}, planned = {.weight = 0};
    if (part_speaks(p) && !hands_off(s, p->target)) {
        share = terms_of(p);
        steady(&share, &p->share);
        bool scaled = p->reserve_fits < p->reserve;
        if (spans(p) || scaled) {
            planned = share;
            if (scaled)
                planned.reserve_iops = (uint64_t)p->reserve_fits;
            elsewhere(p, &planned);
        }
    }
    if (memcmp(&share, &p->share, sizeof(share)) == 0 &&
        memcmp(&planned, &p->planned, sizeof(planned)) == 0)
        return;
    p->share = share;
    p->planned = planned;
    claim_mark(s, p->gateway);
}

static void target_plan(struct services *s, struct target *t)
{
    struct window_plan plan = {.wait_us = hands_off(s, t) ? 0 : t->storage->wait_us};
    if (memcmp(&plan, &t->plan, sizeof(plan)) == 0)
        return;
    t->plan = plan;
    claim_mark(s, t->gateway);
}

void plan_run(struct services *s)
{
    if (!s->loaded)
        return;
    list_for_each(it, &s->storages) {
        struct storage *t = container_of(it, struct storage, link);
        t->reserved = 0;
        t->wait_us = 0;
    }
    list_for_each(it, &s->claims) {
        struct claim *c = container_of(it, struct claim, link);
        if (c->agreed != NULL)
            claim_ask(c);
    }
    list_for_each(it, &s->storages)
        storage_settle(s, container_of(it, struct storage, link));
    list_for_each(it, &s->claims) {
        list_for_each(at, &container_of(it, struct claim, link)->parts)
            part_plan(s, container_of(at, struct part, in_claim));
    }
    list_for_each(it, &s->e.targets)
        target_plan(s, container_of(it, struct target, e.link));
}

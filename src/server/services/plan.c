/* SPDX-License-Identifier: Apache-2.0 */
/* The planner: what each gateway's schedulers owe whom.
 *
 * Problem: a promise holds over all gateways before a storage, and each gateway's scheduler sees
 * only its own I/O. Reservations together may exceed what the storage can do.
 *
 * Model, once a period and anew each time: each claim that makes a promise has a *share* at each
 * target where its streams are: reservation (for a promise of latency at least HEADROOM times the
 * demand up to which it holds, since at less no scheduler helps), weight, objective. Before several
 * gateways the share is sent whole to each, with what the others have served for it (batched
 * dmClock), as a planned control that is renewed each period; the bare share is an agreed one, so
 * that a gateway that is left alone goes on with it. A claim over several storages has its
 * reservation divided among them by demand, also by that which other SLA processes see of it
 * (quota.c).
 *
 * What a storage can do is the most useful parallelism that its gateways found, in device time a
 * second. When reservations together exceed it they are scaled (allocate.h) by priority, or as a
 * policy for the target says, and an event says so.
 *
 * For each target a plan says the bound of the device's wait: what the tightest promise there
 * leaves after the mean service; and its part of the storage's slots (slots.c). Where only to
 * observe is allowed no share and no plan is sent: a gateway without shares schedules nothing.
 *
 * Most claims are at one gateway and one target: what they ask for is summed up when their gateway
 * reports, and the plan itself walks only storages and the claims that are at several places.
 *
 * A plan is made in pieces (period.c), and anything may happen between two of them. What a plan
 * keeps from one to the next: the sums of each storage (storage.plan), which nobody else reads
 * before they are whole; the chain of `firsts` with their leaders and factors. Parts in that chain
 * may not go: who lets one go calls period_broken, and the plan begins anew. A part that came, or
 * began to speak, after it was asked has no leader of this plan, and is told so by `asked`.
 *
 * Invariants: (1) with nothing known of a storage's capacity nothing is scaled; (2) what is sent
 * differs from what was sent last. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/allocate.h"
#include "server/services/state.h"

#define HEADROOM      1.1
#define SIZE_ASSUMED  65536.0 /* bytes of an I/O of which none was seen */
#define AIM           0.85
#define WAIT_LEAST    0.25 /* of the objective */
#define QUIET_NS      UINT64_C(60000000000)
#define WORTH_RESERVE 0.1 /* a reservation that changed by less is not sent anew */

/* --- what promises ask for ------------------------------------------------------------- */

static bool part_speaks(const struct part *p)
{
    return p->promised > 0 && p->claim->agreed != NULL &&
           precedence_speaks(&p->claim->agreed->e.agreement) && p->target != NULL;
}

static void promise_of(const struct agreement *a, double demand, double ret[GATE_KIND_COUNT])
{
    ret[GATE_IOPS_READ] = (double)a->reservation_read_iops;
    ret[GATE_IOPS_WRITE] = (double)a->reservation_write_iops;
    ret[GATE_IOPS_TOTAL] = (double)a->reservation_iops;
    ret[GATE_BYTES_READ] = (double)a->reservation_read_bytes_s;
    ret[GATE_BYTES_WRITE] = (double)a->reservation_write_bytes_s;
    ret[GATE_BYTES_TOTAL] = (double)a->reservation_bytes_s;
    if (a->objective_count == 0)
        return;
    uint64_t last = a->objective[a->objective_count - 1].while_iops;
    double promised = HEADROOM * (last == UINT64_MAX ? demand : (double)last);
    ret[GATE_IOPS_TOTAL] = fmax(ret[GATE_IOPS_TOTAL], promised);
}

/* I/Os a second, whether said so or as bytes. */
static double either(const double promise[GATE_KIND_COUNT], enum gate_kind iops,
                     enum gate_kind bytes, double bytes_per_io)
{
    return fmax(promise[iops], promise[bytes] / (bytes_per_io > 0 ? bytes_per_io : SIZE_ASSUMED));
}

/* All of it: whichever is more, each direction's or that of both together. */
static double promise_iops(const double promise[GATE_KIND_COUNT], double bytes_per_io)
{
    double r = either(promise, GATE_IOPS_READ, GATE_BYTES_READ, bytes_per_io);
    double w = either(promise, GATE_IOPS_WRITE, GATE_BYTES_WRITE, bytes_per_io);
    return fmax(r + w, either(promise, GATE_IOPS_TOTAL, GATE_BYTES_TOTAL, bytes_per_io));
}

double plan_reserve(const struct agreement *a, double demand, double bytes_per_io)
{
    double promise[GATE_KIND_COUNT];
    promise_of(a, demand, promise);
    return promise_iops(promise, bytes_per_io);
}

static double io_bytes(const struct part *p)
{
    uint64_t ios = p->served[GATE_IOPS_TOTAL];
    return ios > 0 ? (double)p->served[GATE_BYTES_TOTAL] / (double)ios : 0;
}

double plan_reserve_dir(const struct part *p, enum io_direction dir)
{
    return dir == IO_DIR_READ ? either(p->promise, GATE_IOPS_READ, GATE_BYTES_READ, io_bytes(p))
                              : either(p->promise, GATE_IOPS_WRITE, GATE_BYTES_WRITE, io_bytes(p));
}

double plan_io_cost(const struct part *p)
{
    if (p->late_ios > 0 && p->late_cost_ns > 0)
        return p->late_cost_ns / p->late_ios;
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
    /* The wait is latency less the mean service, so that the service's own spread is part of it. */
    double bound = AIM * tightest - plan_io_cost(p) / 1e3;
    return (uint64_t)fmax(bound, WAIT_LEAST * tightest);
}

static void tighten(uint64_t *wait_us, uint64_t bound)
{
    if (bound > 0 && (*wait_us == 0 || bound < *wait_us))
        *wait_us = bound;
}

/* Sum up a claim's parts at each storage, and (@ret_demand, unless NULL) the demand of all. */
static void claim_sum(struct services *s, struct claim *c, double ret_demand[GATE_KIND_COUNT])
{
    uint64_t walk = ++s->walk;
    list_for_each(it, &c->parts)
    {
        struct part *p = container_of(it, struct part, in_claim);
        for (int k = 0; ret_demand != NULL && k < GATE_KIND_COUNT; k++)
            ret_demand[k] += p->demand[k];
        if (!part_speaks(p))
            continue;
        struct storage *t = p->target->storage;
        if (t->sum.walk != walk)
            memset(&t->sum, 0, sizeof(t->sum));
        t->sum.walk = walk;
        t->sum.cost_ns += p->cost_ns;
        t->sum.parts++;
        for (int k = 0; k < GATE_KIND_COUNT; k++) {
            t->sum.demand[k] += p->demand[k];
            t->sum.served[k] += p->served[k];
        }
    }
}

/* The part of the claim's reservation of @kind that its demand @here is owed, of @demand at all
 * storages of this process and @others_iops at those of others, which are taken to ask for each
 * kind as we are asked. Where nobody asks for it, as for I/Os; where nobody asks for these, all. */
static double fraction(const double here[GATE_KIND_COUNT], const double demand[GATE_KIND_COUNT],
                       double others_iops, int kind)
{
    double all = demand[GATE_IOPS_TOTAL] + others_iops;
    if (all <= 0)
        return 1;
    if (demand[kind] <= 0 || demand[GATE_IOPS_TOTAL] <= 0)
        return here[GATE_IOPS_TOTAL] / all;
    return here[kind] / demand[kind] * demand[GATE_IOPS_TOTAL] / all;
}

static void part_promise(struct part *p, const double here[GATE_KIND_COUNT],
                         const double demand[GATE_KIND_COUNT], double others_iops)
{
    promise_of(&p->claim->agreed->e.agreement, demand[GATE_IOPS_TOTAL] + others_iops, p->promise);
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        if (p->promise[k] > 0)
            p->promise[k] *= fraction(here, demand, others_iops, k);
    p->reserve = p->reserve_fits = promise_iops(p->promise, io_bytes(p));
}

static void part_promise_none(struct part *p)
{
    p->settled = false;
    p->reserve = p->reserve_fits = 0;
    memset(p->promise, 0, sizeof(p->promise));
}

void plan_claim_ask(struct services *s, struct claim *c)
{
    if (c->agreed == NULL)
        return;
    double demand[GATE_KIND_COUNT] = {0};
    claim_sum(s, c, demand);
    uint64_t counted = ++s->walk;
    list_for_each(it, &c->parts)
    {
        struct part *p = container_of(it, struct part, in_claim);
        if (!part_speaks(p)) {
            part_promise_none(p);
            continue;
        }
        struct storage *t = p->target->storage;
        p->settled = false;
        part_promise(p, t->sum.demand, demand, quota_others_iops(c));
        tighten(&t->plan.wait_us, wait_bound(p));
        t->plan.speaks = true;
        p->asked = s->period.number;
        if (t->counted == counted) {
            p->leader = t->firsts;
            continue;
        }
        t->counted = counted; /* once a storage, by its first part there */
        p->leader = p;
        p->factor = 1;
        t->plan.reserved += p->reserve * plan_io_cost(p);
        p->next_first = t->firsts;
        t->firsts = p;
    }
}

/* A claim that is in one place only: summed up when its gateway reports. */
static void part_ask_alone(struct part *p)
{
    if (!part_speaks(p)) {
        part_promise_none(p);
        return;
    }
    double was[GATE_KIND_COUNT];
    memcpy(was, p->promise, sizeof(was));
    part_promise(p, p->demand, p->demand, quota_others_iops(p->claim));
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        p->settled = p->settled && p->promise[k] == was[k];
    p->target->reserved_alone += p->reserve * plan_io_cost(p);
    tighten(&p->target->wait_alone_us, wait_bound(p));
    p->target->speaks_alone = true;
}

/* --- reservations against capacity ----------------------------------------------------- */

/* While its window is looked for, what was found so far is no ground to scale promises on. */
double plan_capacity(const struct storage *t)
{
    uint64_t most = 0;
    if (t->slots_on && t->useful.rate > 0)
        return t->knee.far ? 0 : (double)t->knee.parallelism_milli * 1e6;
    list_for_each(it, &t->targets)
    {
        const struct target *one = container_of(it, struct target, in_storage);
        if (one->e.parallelism_milli > most)
            most = one->e.parallelism_milli;
    }
    return (double)most * 1e6; /* ns of device time a second */
}

const struct policy *plan_shares_by(const struct policy *policies, size_t count,
                                    const struct storage *t)
{
    for (size_t i = 0; i < count; i++) {
        const struct policy *p = &policies[i];
        if (p->collisions == COLLISIONS_SHARE &&
            selector_match(&p->applies_to, "", "", "", t->name))
            return p;
    }
    return NULL;
}

static enum collisions collisions_at(const struct services *s, const struct storage *t)
{
    bool share = plan_shares_by(s->policies, s->e.policy_count, t) != NULL;
    return share ? COLLISIONS_SHARE : COLLISIONS_PRIORITY;
}

void plan_target_gather(struct target *one)
{
    struct storage *t = one->storage;
    list_for_each(at, &one->gateway->parts)
    {
        struct part *p = container_of(at, struct part, in_gateway);
        if (p->target != one || p->claim->part_count > 1 || !part_speaks(p))
            continue;
        p->factor = 1;
        p->next_first = t->firsts;
        t->firsts = p;
    }
}

struct allocate_claim *plan_ask_room(struct services *s, size_t n)
{
    if (n > s->ask_cap) {
        struct allocate_claim *more = reallocarray(s->ask, n, sizeof(*more));
        if (more == NULL)
            return NULL;
        s->ask = more;
        s->ask_cap = n;
    }
    return s->ask;
}

static void storage_scale(struct services *s, struct storage *t)
{
    size_t n = 0, i = 0;
    for (const struct part *p = t->firsts; p != NULL; p = p->next_first)
        n++;
    struct allocate_claim *c = plan_ask_room(s, n + 1);
    if (c == NULL)
        return; /* not scaled this time */
    for (const struct part *p = t->firsts; p != NULL; p = p->next_first) {
        const struct agreement *a = &p->claim->agreed->e.agreement;
        double ask = p->reserve * plan_io_cost(p);
        c[i++] = (struct allocate_claim){.demand = INFINITY,
                                         .reservation = ask,
                                         .limit = INFINITY,
                                         .priority = a->priority};
    }
    weir_assert(i == n);
    t->fits = allocate_reserve(c, n, t->capacity, collisions_at(s, t));
    i = 0;
    for (struct part *p = t->firsts; p != NULL; p = p->next_first, i++)
        p->factor = c[i].reservation > 0 ? c[i].reserved / c[i].reservation : 1.0;
}

static void say_overcommitted(struct services *s, struct storage *t, bool over)
{
    char subject[SUBJECT_SIZE];
    words(subject, sizeof(subject), "target/%s", t->name);
    if (over && !t->overcommitted)
        note_event(s, EVENT_WARNING, "overcommitted", subject,
                   "reservations at %s ask for %.0f %% of what it can do (%.1f of %.1f I/Os at "
                   "once): they are scaled, by %s",
                   t->name, 100.0 * t->reserved / t->capacity, t->reserved / 1e9, t->capacity / 1e9,
                   collisions_at(s, t) == COLLISIONS_SHARE ? "equal shares" : "priority");
    if (!over && t->overcommitted)
        note_event(s, EVENT_INFO, "no-longer-overcommitted", subject,
                   "reservations at %s fit again: %.0f %% of what it can do", t->name,
                   100.0 * t->reserved / t->capacity);
    t->overcommitted = over;
}

bool plan_storage_open(struct storage *t)
{
    t->reserved = t->plan.reserved;
    t->wait_us = t->plan.wait_us;
    t->speaks = t->plan.speaks;
    t->capacity = plan_capacity(t);
    t->fits = 1.0;
    t->over = t->capacity > 0 && t->reserved > t->capacity;
    return t->over;
}

void plan_storage_close(struct services *s, struct storage *t)
{
    if (t->over) {
        t->overcommitted_ns = s->now_ns;
        storage_scale(s, t);
    }
    if (t->over || s->now_ns - t->overcommitted_ns > QUIET_NS)
        say_overcommitted(s, t, t->over);
    double part = t->capacity > 0 ? t->reserved / t->capacity : 0;
    list_for_each(it, &t->targets)
    {
        struct target *one = container_of(it, struct target, in_storage);
        one->e.overcommitted = t->over;
        one->e.reserved_ppm = part < 1000 ? (uint32_t)(part * 1e6) : 1000000000u;
    }
}

/* --- what is sent ---------------------------------------------------------------------- */

static uint64_t grown(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

/* What others served for the claim at the storage of @p: t->sum is of this claim. Of I/Os and
 * bytes, which count against its reservation, only what was served while it asked for more than is
 * reserved: within that all of it comes first, wherever it is, and demand that moves finds its
 * reservation there and not used up by what was served elsewhere a second ago. */
static void elsewhere(struct part *p, struct sched_terms *t)
{
    const struct storage *at = p->target->storage;
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        uint64_t others = at->sum.served[k] - p->served[k];
        if (p->promise[k] > 0 && at->sum.demand[k] > p->promise[k])
            p->told[k] += grown(others, p->others[k]);
        p->others[k] = others;
    }
    t->elsewhere_cost_ns = at->sum.cost_ns - p->cost_ns;
    t->elsewhere_ios = p->told[GATE_IOPS_TOTAL];
    t->elsewhere_bytes = p->told[GATE_BYTES_TOTAL];
    t->elsewhere_dir_ios[IO_DIR_READ] = p->told[GATE_IOPS_READ];
    t->elsewhere_dir_ios[IO_DIR_WRITE] = p->told[GATE_IOPS_WRITE];
    t->elsewhere_dir_bytes[IO_DIR_READ] = p->told[GATE_BYTES_READ];
    t->elsewhere_dir_bytes[IO_DIR_WRITE] = p->told[GATE_BYTES_WRITE];
}

/* The share's own reservations, by kind as in limits. */
static uint64_t *reserved_at(struct sched_terms *t, int kind)
{
    switch ((enum gate_kind)kind) {
    case GATE_IOPS_READ:
        return &t->reserve_dir_iops[IO_DIR_READ];
    case GATE_IOPS_WRITE:
        return &t->reserve_dir_iops[IO_DIR_WRITE];
    case GATE_IOPS_TOTAL:
        return &t->reserve_iops;
    case GATE_BYTES_READ:
        return &t->reserve_dir_bytes_s[IO_DIR_READ];
    case GATE_BYTES_WRITE:
        return &t->reserve_dir_bytes_s[IO_DIR_WRITE];
    case GATE_BYTES_TOTAL:
        return &t->reserve_bytes_s;
    case GATE_KIND_COUNT:
        break;
    }
    weir_unreachable("a kind out of its enum");
}

/* What the agreement says, without regard to others. */
static struct sched_terms terms_of(const struct part *p)
{
    const struct agreement *a = &p->claim->agreed->e.agreement;
    const struct objective *o = a->objective_count > 0 ? &a->objective[0] : NULL;
    struct sched_terms t = {
        .weight = a->weight,
        .priority = a->priority,
        .latency_us = o != NULL ? o->latency_us : 0,
        .percentile_ppm = o != NULL ? o->percentile_ppm : 0,
        .while_iops = o != NULL && o->while_iops != UINT64_MAX ? o->while_iops : 0,
    };
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        *reserved_at(&t, k) = (uint64_t)llround(p->promise[k]);
    return t;
}

/* A working reservation follows the demand; it is not sent anew for every wobble. */
static void steady(struct sched_terms *t, struct sched_terms *was)
{
    for (int k = 0; was->weight > 0 && k < GATE_KIND_COUNT; k++) {
        double now = (double)*reserved_at(t, k), then = (double)*reserved_at(was, k);
        if (then > 0 && now > 0 && fabs(now - then) <= WORTH_RESERVE * then)
            *reserved_at(t, k) = *reserved_at(was, k);
    }
}

bool plan_hands_off(const struct services *s, const struct target *t)
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

/* @several: the claim is at several places, and t->sum is of it. */
static void part_plan(struct services *s, struct part *p, bool several)
{
    struct sched_terms share = {.weight = 0}, planned = {.weight = 0};
    if (part_speaks(p) && !plan_hands_off(s, p->target)) {
        share = terms_of(p);
        steady(&share, &p->share);
        bool scaled = p->reserve_fits < p->reserve;
        several = several && p->target->storage->sum.parts > 1;
        if (several || scaled)
            planned = share;
        for (int k = 0; scaled && k < GATE_KIND_COUNT; k++)
            *reserved_at(&planned, k) = (uint64_t)(p->promise[k] * p->reserve_fits / p->reserve);
        if (several)
            elsewhere(p, &planned);
    }
    if (sched_terms_same(&share, &p->share) && sched_terms_same(&planned, &p->planned))
        return;
    p->share = share;
    p->planned = planned;
    claim_mark(s, p->gateway);
}

void plan_target(struct services *s, struct target *t)
{
    if (t->planned_ns == 0)
        t->planned_ns = s->now_ns;
    bool off = plan_hands_off(s, t);
    struct window_plan plan = {.wait_us = off ? 0 : t->storage->wait_us,
                               .slots_milli = off ? 0 : t->slots_milli};
    if (plan.slots_milli > 0)
        plan.look = t->plan.look;
    if (window_plan_same(&plan, &t->plan))
        return;
    t->plan = plan;
    claim_mark(s, t->gateway);
}

/* Above so many places a newcomer's share is left to the plan: each would walk over all of them. */
#define NEWCOMER_PARTS 64u

/* A claim of several places came to one more: what the agreement owes it there goes at once, as it
 * would without a server; the next plan settles what each place has of it. Demand that moves from
 * another gateway waits for nothing else. */
static void part_newcomer(struct services *s, struct part *p)
{
    if (!s->loaded || p->claim->part_count > NEWCOMER_PARTS || p->share.weight > 0 ||
        !part_speaks(p) || p->target->storage->over || plan_hands_off(s, p->target))
        return;
    double demand[GATE_KIND_COUNT] = {0};
    claim_sum(s, p->claim, demand);
    part_promise(p, p->target->storage->sum.demand, demand, quota_others_iops(p->claim));
    p->settled = false;
    p->share = terms_of(p);
    claim_mark(s, p->gateway);
}

void plan_gateway(struct services *s, struct gateway *g)
{
    list_for_each(it, &g->targets)
    {
        struct target *t = container_of(it, struct target, link);
        t->reserved_alone = 0;
        t->wait_alone_us = 0;
        t->speaks_alone = false;
    }
    list_for_each(it, &g->parts)
    {
        struct part *p = container_of(it, struct part, in_gateway);
        if (p->claim->agreed == NULL)
            continue;
        if (p->claim->part_count > 1) {
            part_newcomer(s, p);
            continue;
        }
        part_ask_alone(p);
        if (s->loaded && p->target != NULL && !p->target->storage->over) {
            part_plan(s, p, false);
            p->settled = false;
        }
    }
}

void plan_storage_begin(struct storage *t)
{
    t->plan.reserved = 0;
    t->plan.wait_us = 0;
    t->plan.speaks = false;
    t->firsts = NULL;
    list_for_each(it, &t->targets)
    {
        const struct target *one = container_of(it, struct target, in_storage);
        t->plan.reserved += one->reserved_alone;
        tighten(&t->plan.wait_us, one->wait_alone_us);
        t->plan.speaks = t->plan.speaks || one->speaks_alone;
    }
}

/* Most are as they were, and touching no more of each than its few lines here is most of the time
 * that a plan of many saves. */
void plan_target_alone(struct services *s, struct target *one, bool anew)
{
    const struct storage *t = one->storage;
    list_for_each(at, &one->gateway->parts)
    {
        struct part *p = container_of(at, struct part, in_gateway);
        if (p->target != one || p->claim->part_count > 1 || p->claim->agreed == NULL)
            continue;
        double factor = t->over ? p->factor : 1;
        p->reserve_fits = p->reserve * factor;
        if (p->settled && !anew && p->settled_factor == factor)
            continue;
        part_plan(s, p, false);
        p->settled = true;
        p->settled_factor = factor;
    }
}

void plan_claim_shared(struct services *s, struct claim *c)
{
    if (c->agreed == NULL)
        return;
    claim_sum(s, c, NULL);
    list_for_each(at, &c->parts)
    {
        struct part *p = container_of(at, struct part, in_claim);
        if (part_speaks(p) && p->asked == s->period.number)
            p->reserve_fits = p->reserve * p->leader->factor;
        part_plan(s, p, true);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What was promised is kept again, once faults are over.
 *
 * Problem: control may lose its way after a fault and do nothing unsafe: a window that never grows
 * again, a share that is not sent to a gateway that came back, an objective that nobody plans for.
 * Safety rules see none of it. That promises are kept cannot be asked of any world, since most that
 * are drawn ask for more than there is.
 *
 * Model: from what is agreed, the loads and the targets, as they are once faults are over, it is
 * computed which promises can be kept (*fit*); each whole second of each load is held against
 * those, from PERIODS periods on after the last of:
 *
 *   a change (change.c)           and what comes of it: a gateway has applied the first controls of
 *                                 a session, an SLA process has read what is agreed, goes on, or
 *                                 took up a gateway. But no later than SETTLE_NS after the change:
 *                                 who never settles is not excused
 *   a load that begins at the     also one that is on and off: where work comes anew control may
 *   same target                   take as long as after a fault
 *
 * A promise fits where
 *
 *   the target     has no pauses of its own (what it stands still for is nobody's to give), and
 *                  what is promised there, each as much as can be asked for, with the planner's
 *                  headroom, takes no more than FITS of its servers' time
 *   nothing else   bounds the load: no limit of a tenant or of several streams, no limit of its own
 *                  near what is promised; and nobody at the target is only observed, since then
 *                  nothing is scheduled there
 *   latency        the load is an open one (a closed loop asks for all it can get, and is exempt)
 *                  that asks for less than the objective is for, and the objective leaves room for
 *                  the path, its own service and NEIGHBOURS of the longest services there are, at
 *                  its percentile: a service that has begun is not taken back, so less is not in
 *                  control's hands
 *   a reservation  so much arrives, or a closed loop is deep enough to ask for it
 *
 * Two things are excused. What gathered in front of a load while the fault lasted is served first,
 * since nothing is dropped and nothing overtaken, and what is owed is only the headroom above what
 * arrives: the load is held to its objective once that is gone, or would be with the headroom
 * alone; meanwhile it is served what is reserved for it, and no less than what arrives. And where
 * the target itself holds more than DEEP times what it serves at once, its useful parallelism is
 * not found again (qos/window.c, services/useful.c: after a stall or the loss of servers what was
 * believed of it can be several times too much for 20 s and more), and a second outside is counted
 * as missed instead: tests/sim/seeds.c has a bound for how many of all may be. So is one in which
 * more than OVERDUE of what the target served had waited for max-hold.
 *
 * Not to be kept is a promise where open loads ask for FLOOD of the target's servers or more:
 * nothing of theirs is dropped, that no I/O waits longer than max-hold is a promise, too, and comes
 * before windows, so that they fill the target. Where that is what happened (more than OVERDUE of
 * what was served had waited for max-hold) a second outside is *flooded*, and not counted; until
 * then, and where they ask for less, promises are held.
 *
 * Held against: of I/Os no more are late than the percentile lets and chance explains (CHANCE
 * standard deviations, so that a million seconds pass); of a reservation GIVEN is served, less what
 * chance explains. Agreements over several loads, objectives of the mean, and reservations for one
 * direction or in bytes count as promised, but are not held: the unit tests of the planner do. */
#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "sim/private.h"

#define PERIODS    3u
#define SETTLE_NS  (12 * S)
#define FITS       0.7
#define HEADROOM   1.1
#define NEIGHBOURS 3.0
#define CHANCE     5.0
#define DEEP       2.5
#define OVERDUE    0.1
#define FLOOD      0.9
#define GIVEN      0.95
#define LEAST      20u /* arrivals that a second needs to be judged */

/* ---- what fits ------------------------------------------------------------------------------- */

static double service_ns(const struct sim_device *d, bool write, uint64_t bytes)
{
    const struct sim_device_config *c = d->config;
    double pages = ceil((double)bytes / 4096.0);
    double ns = (double)c->base_ns[write] + pages * (double)c->page_ns[write];
    if (write && c->write_amplification > 0)
        ns *= c->write_amplification;
    return ns / d->speed;
}

static double mean_of(const struct sim_load_config *c, double small, double large)
{
    double part = (double)c->large_ppm / 1e6;
    return (1.0 - part) * small + part * large;
}

static double load_bytes(const struct sim_load *l)
{
    return mean_of(l->config, (double)l->config->bytes, (double)l->config->large_bytes);
}

static double load_service_ns(const struct sim_device *d, const struct sim_load *l)
{
    const struct sim_load_config *c = l->config;
    double writes = (double)c->write_ppm / 1e6, ns[2];
    for (int w = 0; w < 2; w++)
        ns[w] = mean_of(c, service_ns(d, w != 0, c->bytes), service_ns(d, w != 0, c->large_bytes));
    return (1.0 - writes) * ns[0] + writes * ns[1];
}

/* The longest service of its I/Os, at a percentile. */
static double load_longest_ns(const struct sim_device *d, const struct sim_load *l, double part)
{
    const struct sim_load_config *c = l->config;
    uint64_t bytes = c->large_ppm > 0 && c->large_bytes > c->bytes ? c->large_bytes : c->bytes;
    double read = service_ns(d, false, bytes), write = service_ns(d, true, bytes);
    double spread = d->config->spread;
    return fmax(read, write) * (1.0 - spread + spread * log(1.0 / part));
}

static bool selects(const struct sim *s, const struct selector *t, const struct sim_load *l)
{
    return sim_selects(t, l->config, s->config->device);
}

/* What is agreed for it alone; NULL: nothing. *@others: something else is agreed, too. */
static const struct agreement *agreed(const struct sim *s, const struct sim_load *l, bool *others)
{
    const struct agreement *ret = NULL;
    *others = false;
    for (size_t i = 0; i < s->config->agreement_count; i++) {
        const struct agreement *a = &s->document[i].agreement;
        if (s->document[i].removed || !selects(s, &a->applies_to, l))
            continue;
        size_t loads = 0;
        for (size_t k = 0; k < s->config->load_count; k++)
            loads += selects(s, &a->applies_to, &s->load[k]);
        if (loads > 1 || ret != NULL || a->schedule_count > 0 || a->fallback)
            *others = true;
        else
            ret = a;
    }
    return ret;
}

static double asked(const struct sim_load *l)
{
    return l->config->kind == SIM_OPEN ? l->config->rate * l->scale : INFINITY;
}

/* I/Os a second that keeping @a for @l may take. */
static double promised(const struct agreement *a, const struct sim_load *l)
{
    double ios = (double)a->reservation_iops, bytes = (double)a->reservation_bytes_s;
    ios = fmax(ios, (double)(a->reservation_read_iops + a->reservation_write_iops));
    bytes = fmax(bytes, (double)(a->reservation_read_bytes_s + a->reservation_write_bytes_s));
    ios = fmax(ios, bytes / load_bytes(l));
    if (a->objective_count > 0)
        ios = fmax(ios, fmin((double)a->objective[a->objective_count - 1].while_iops, asked(l)));
    return HEADROOM * ios;
}

/* Whether all that is promised at @d can be kept. *@longest_ns: of all services there. */
static bool device_fits(const struct sim *s, const struct sim_device *d, double part,
                        double *longest_ns)
{
    double owed = 0;
    *longest_ns = 0;
    if (d->config->gc_bytes > 0)
        return false;
    for (size_t i = 0; i < s->config->load_count; i++) {
        const struct sim_load *l = &s->load[i];
        if (l->config->device != d->index)
            continue;
        for (size_t k = 0; k < s->config->policy_count; k++)
            if (s->config->policy[k].observe && selects(s, &s->config->policy[k].applies_to, l))
                return false;
        *longest_ns = fmax(*longest_ns, load_longest_ns(d, l, part));
        for (size_t k = 0; k < s->config->agreement_count; k++) {
            const struct agreement *a = &s->document[k].agreement;
            if (!s->document[k].removed && selects(s, &a->applies_to, l))
                owed += promised(a, l) * load_service_ns(d, l) / (double)S;
        }
    }
    return owed <= FITS * d->servers;
}

/* Whether a limit of its own leaves @ios. */
static bool limits_leave(const struct agreement *a, const struct sim_load *l, double ios)
{
    for (uint32_t k = 0; k < GATE_KIND_COUNT; k++) {
        double rate = (double)a->limits.rate[k].rate;
        double of = k >= GATE_BYTES_READ ? ios * load_bytes(l) : ios;
        if (rate > 0 && rate < 1.5 * of)
            return false;
    }
    return a->per_gib.iops == 0 && a->per_gib.bytes_s == 0;
}

static bool tenant_is_limited(const struct sim *s, const struct sim_load *l)
{
    for (size_t i = 0; i < s->config->tenant_count; i++)
        if (strcmp(s->config->tenant[i].name, l->config->tenant) == 0)
            return true;
    return false;
}

static void promise_find(const struct sim *s, struct sim_load *l)
{
    const struct sim_load_config *c = l->config;
    const struct sim_device *d = &s->device[c->device];
    struct sim_promise *p = &l->promise;
    bool others;
    const struct agreement *a = agreed(s, l, &others);
    *p = (struct sim_promise){0};
    if (a == NULL || others || c->kind == SIM_TRACE || c->swing > 0 || s->config->observe ||
        tenant_is_limited(s, l))
        return;
    (void)text_copy(p->name, sizeof p->name, a->name);
    const struct objective *o = &a->objective[0];
    double part = a->objective_count > 0 ? 1.0 - (double)o->percentile_ppm / 1e6 : 0.01, longest;
    if (!device_fits(s, d, part, &longest))
        return;
    double near = 2.0 * (double)s->config->path_ns + load_longest_ns(d, l, part);
    if (a->objective_count == 1 && o->percentile_ppm > 0 && c->kind == SIM_OPEN &&
        asked(l) < 0.9 * (double)o->while_iops && limits_leave(a, l, asked(l)) &&
        near + NEIGHBOURS * longest < (double)(o->latency_us * US)) {
        p->late_ns = o->latency_us * US;
        p->late_part = part;
        p->while_ios = o->while_iops;
    }
    double r = (double)a->reservation_iops;
    double cycle_ns = (double)c->think_ns + near + NEIGHBOURS * longest;
    bool asks = c->kind == SIM_OPEN || c->depth * l->scale > r * cycle_ns / (double)S;
    if (r > 0 && asks && limits_leave(a, l, r))
        p->ios = a->reservation_iops;
}

/* ---- what was kept --------------------------------------------------------------------------- */

static uint64_t load_waits_late(const struct sim_load *l)
{
    uint64_t n = 0;
    list_for_each(k, &l->ios)
    {
        const struct sim_io *io = container_of(k, struct sim_io, link);
        if (l->sim->now - io->arrived_ns <= l->promise.late_ns)
            break; /* they are in the order of their arrival */
        n++;
    }
    return n;
}

/* Much of what it was given in the second before went since it had waited for max-hold, whatever
 * the window. */
static bool device_was_forced(const struct sim_device *d)
{
    return (double)d->overdue > OVERDUE * (double)d->heard_served;
}

/* It held far more than it serves at once: its window is not found yet. */
static bool device_was_deep(const struct sim_device *d)
{
    return d->depth_ns > DEEP * d->servers * (double)S;
}

/* Open loads ask for all of it, or more. */
static bool device_is_flooded(const struct sim *s, const struct sim_device *d)
{
    double busy = 0;
    for (size_t i = 0; i < s->config->load_count; i++) {
        const struct sim_load *l = &s->load[i];
        if (l->config->device == d->index && l->config->kind == SIM_OPEN && l->on)
            busy += asked(l) * load_service_ns(d, l) / (double)S;
    }
    return busy >= FLOOD * d->servers;
}

/* What was served at @d in the second before, and of that what went overdue, at all gateways. */
static void device_overdue(struct sim *s, struct sim_device *d)
{
    uint64_t sum = 0;
    d->heard_served = 0;
    for (size_t i = 0; i < s->config->load_count; i++)
        d->heard_served += s->load[i].config->device == d->index ? s->load[i].heard.served : 0;
    for (uint32_t i = 0; i < s->config->gateways; i++)
        if (s->node[i].up)
            sum += sched_account(stream_port(s->node[i].table, d->index)->sched, s->now)->overdue;
    d->overdue = sum > d->overdue_sum ? sum - d->overdue_sum : 0; /* less: a gateway went */
    d->overdue_sum = sum;
}

/* So many I/Os a second are served in any case: what is reserved, and while what gathered in a
 * fault is not gone as much as arrives where there is an objective: what waits may be late then,
 * but not become more. */
static double at_least(const struct sim_load *l, bool behind)
{
    double ios = (double)l->promise.ios;
    return behind && l->promise.late_ns > 0 ? fmax(ios, asked(l)) : ios;
}

/* @behind: what gathered in a fault is not gone: it may be late. */
static void promise_judge(struct sim *s, const struct sim_load *l, bool behind)
{
    const struct sim_promise *p = &l->promise;
    const struct sim_heard *h = &l->heard;
    uint64_t waits = load_waits_late(l), ms = (s->now - s->settled_ns) / MS;
    double served = (double)h->served, due = (served + (double)waits) * p->late_part;
    double want = at_least(l, behind);
    if (behind ? want < LEAST : (p->late_ns == 0 && p->ios == 0) || h->arrived < LEAST)
        return;
    if (behind) /* so much was there to be served */
        want = fmin(want, served + (double)l->outstanding);
    else if (l->config->kind == SIM_OPEN && (double)h->arrived < want)
        want = (double)h->arrived;
    bool late = !behind && p->late_ns > 0 && h->arrived <= p->while_ios &&
                (double)(h->late + waits) > due + CHANCE * sqrt(due) + 2.0;
    bool less = want > 0 && served < GIVEN * want - CHANCE * sqrt(want);
    const struct sim_device *d = &s->device[l->config->device];
    if ((late || less) && device_was_forced(d) && device_is_flooded(s, d)) {
        s->result->promises_flooded++;
        return;
    }
    if ((late || less) && (device_was_forced(d) || device_was_deep(d))) {
        s->result->promises_missed++;
        return;
    }
    s->result->promises_held += !behind;
    if (late)
        check_broken(s,
                     "load %u: %llu of %llu I/Os later than %llu us in the second before, %llu "
                     "more wait so long (agreement %s), %llu ms after it could be kept",
                     l->index, (unsigned long long)h->late, (unsigned long long)h->served,
                     (unsigned long long)(p->late_ns / US), (unsigned long long)waits, p->name,
                     (unsigned long long)ms);
    if (less)
        check_broken(s,
                     "load %u: %llu I/Os in the second before, %llu arrived, %.0f %s (agreement "
                     "%s), %llu ms after they could be served",
                     l->index, (unsigned long long)h->served, (unsigned long long)h->arrived, want,
                     behind ? "owed, with a backlog" : "reserved", p->name,
                     (unsigned long long)ms);
}

/* Whether what gathered before @since is not gone yet. What the planner owes is the headroom above
 * what arrives, so that it may take as long as that needs for it. */
static bool behind(struct sim_load *l, uint64_t since)
{
    const struct sim *s = l->sim;
    uint64_t late = l->promise.late_ns > 0 ? l->promise.late_ns : S;
    if (l->behind_for_ns != since && s->now >= since) {
        double rate = fmin(asked(l), (double)(l->promise.ios + l->promise.while_ios));
        l->behind_for_ns = since;
        double seconds = rate > 0 ? l->outstanding / (rate * (HEADROOM - 1.0)) : 0;
        seconds = fmin(seconds, (double)SIM_SECONDS_MAX);
        l->behind_until_ns = s->now + (uint64_t)(seconds * (double)S);
    }
    uint64_t oldest = s->now;
    if (!list_empty(&l->ios))
        oldest = container_of(l->ios.next, struct sim_io, link)->arrived_ns;
    bool was = l->behind_until_ns > s->now - S;
    if (s->now - oldest <= late / 2 && l->behind_until_ns > s->now)
        l->behind_until_ns = s->now;
    return was;
}

static void second(struct sim *s, const struct event *e)
{
    (void)e;
    uint64_t period = s->config->period_ns > 0 ? s->config->period_ns : S;
    uint64_t excused = s->last_fault_ns + SETTLE_NS;
    uint64_t from = s->settled_ns < excused ? s->settled_ns : excused;
    bool found = s->promises_for_ns == s->last_fault_ns;
    if (s->config->unsettled)
        promises_unsettled(s);
    for (size_t i = 0; i < s->config->device_count; i++) {
        device_account(&s->device[i]);
        device_overdue(s, &s->device[i]);
    }
    for (size_t i = 0; i < s->config->load_count; i++) {
        struct sim_load *l = &s->load[i];
        uint64_t begun = s->device[l->config->device].begun_ns;
        uint64_t since = (from > begun ? from : begun) + PERIODS * period;
        if (found && s->now - S >= since && l->on && l->stream != NULL &&
            s->now - S >= s->config->warmup_ns)
            promise_judge(s, l, behind(l, since));
        if (!found)
            promise_find(s, l);
        l->heard = (struct sim_heard){0};
    }
    for (size_t i = 0; i < s->config->device_count; i++)
        s->device[i].depth_ns = 0;
    s->promises_for_ns = s->last_fault_ns;
    events_add(&s->events, s->now + S, second, NULL, 0);
}

void promises_unsettled(struct sim *s)
{
    s->settled_ns = s->now;
}

void promises_start(struct sim *s)
{
    s->settled_ns = s->now;
    s->promises_for_ns = UINT64_MAX; /* none is found yet */
    if (s->config->promises)
        events_add(&s->events, s->now + S, second, NULL, 0);
}

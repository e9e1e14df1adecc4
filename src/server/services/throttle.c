/* SPDX-License-Identifier: Apache-2.0 */
/* The first controller: cut the bullies of a failing victim, and give back what can be given.
 *
 * Problem. A target's service is shared by streams that were promised something and by others that
 * take what they can. When a promise fails, the others' rates must come down within a few periods;
 * then they should have as much as the promise leaves them, and the promise must not fail again for
 * it. In the manner of SLEDS (Chambliss et al., SRDS 2003) the only lever is a rate limit on the
 * bully at its gateway.
 *
 * Model, per storage, once a period over all its gateways (storage.c):
 *
 *   failing   each bully that is cut goes to base x clamp(0.85/ratio, 0.5, 0.8), where base is what
 * it really gets and ratio is judged latency over promised latency (or promised rate over given
 *             rate). A target in overload does all it can, so its whole load then is its capacity:
 *             TARGET_LOAD of it, less the others' load, shared by what each bully takes, is each
 *             bully's *knee*. When a bully that is throttled already still hurts, its knee is what
 * it has. strained  within tolerance but above the promise: trimmed a little. at ease   below 0.8
 * of every promise (smoothed: up at once, down slowly): a throttle that binds grows by a quarter of
 * its distance to the knee, at most x1.25; at the knee it only creeps, less slowly while the knee
 * is a guess (the overload may have filled only part of the period) and all promises are far from
 * used up. So it comes back to where it failed slowly and stays near: the idea of CUBIC (RFC 9438),
 * with a dead band. calm      nobody was there to protect for CALM_PERIODS, or the limit did not
 * bind for SLACK_PERIODS: lifted.
 *
 * After a cut the target's queue holds what was sent before. A throttle that is not acknowledged is
 * not cut again; in a window that began before the acknowledgement only a victim with more than
 * DRAIN_LATE of its I/Os late counts, since a queue that drains makes fewer late than that.
 *
 * Cuts that do not help are taken back (blame.c). A guessed knee that was passed by a third without
 * harm was none: from there the rate grows fast again.
 *
 * Every change downward passes policy_check. Suppressed proposals are written down when they
 * change, not each period; growth when it adds up to RECORD_STEP.
 *
 * Invariants: (1) brake.rate > 0 exactly when e.throttle.active; (2) no throttle is below the
 * floor, the stream's own reservation or its contract, nor cut by more than policy allows in one
 * period; (3) with enforcement off, and in observe mode, no throttle exists; (4) target.throttles
 * counts its throttled streams. */
#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/policy.h"
#include "server/services/state.h"

#define AIM 0.85
#define CUT_DEEPEST 0.5
#define CUT_LEAST 0.8
#define CUT_FINE 0.9        /* of a throttle that was right until now */
#define FINE_RATIO 1.5
#define TARGET_LOAD 0.85
#define EASE 0.8
#define PRESSURE_MAX 1.5 /* remembered no higher, so that it is soon forgotten */
#define MUCH_EASE 0.5
#define TRIM 0.97
#define STRAINED_PERIODS 2u /* one may be chance */
#define GROW_MAX 1.25
#define GROW_GAP 0.25
#define NEAR_KNEE 0.97
#define CREEP_GUESSED 0.06
#define CREEP_FOUND 0.003
#define WRONG_GUESS 1.35 /* a knee that was passed by so much without harm was none */
#define HOLD_PERIODS 20u
#define FOUND_PERIODS 60u
#define DRAIN_LATE 0.10
#define CALM_PERIODS 5u
#define SLACK_PERIODS 8u
#define SLACK_PART 0.75
#define HELPLESS_PERIODS 3u
#define LAST_RESORT_PERIODS 3u
#define LAST_RESORT_SHARED 10u /* where the window is found for several gateways (slots.c) */
#define LAST_RESORT_SEARCH 20u /* and it is not known yet what window that is */
#define MEMO_PERIODS 10u
#define RECORD_STEP 0.10
#define KNEE_KEPT_NS UINT64_C(600000000000)
#define LARGE_IO_BYTES 131072u

/* --- records
 * ------------------------------------------------------------------------------------------- */

static void record_bully(struct services *s, struct action_record *a, const struct stream *st,
                         const char *verb)
{
    (void)s;
    *a = (struct action_record){.from_iops = UINT64_MAX, .to_iops = UINT64_MAX,
                                .from_bytes_s = UINT64_MAX, .to_bytes_s = UINT64_MAX};
    words(a->verb, sizeof(a->verb), "%s", verb);
    words(a->target, sizeof(a->target), "%s", st->e.target_name);
    words(a->gateway, sizeof(a->gateway), "%s", st->gateway->e.hello.name);
    words(a->bully, sizeof(a->bully), "%s", st->e.key);
    a->bully_iops = st->e.window.iops;
    a->harm_share_ppm = st->e.harm_ppm;
    if (st->brake.rate > 0) {
        a->from_iops = st->e.throttle.iops;
        a->from_bytes_s = st->e.throttle.bytes_s;
    }
}

static void record_victim(struct action_record *a, const struct stream *victim)
{
    const struct agreement *g = &victim->agreed->e.agreement;
    words(a->victim, sizeof(a->victim), "%s", victim->e.key);
    words(a->agreement, sizeof(a->agreement), "%s", g->name);
    a->agreement_version = g->version;
    a->victim_latency_us = victim->e.judged_latency_us;
    a->victim_iops = victim->e.window.iops;
    if (victim->e.objective != NULL) {
        a->victim_objective_us = victim->e.objective->latency_us;
        a->victim_percentile_ppm = victim->e.objective->percentile_ppm;
    }
}

/* "has p99 21.3 ms against 5 ms at 1900 of 4000 IOPS" or "gets 600 of 1000 reserved IOPS". */
static void victim_words(char *out, size_t size, const struct stream *victim)
{
    const struct objective *o = victim->e.objective;
    const struct agreement *g = &victim->agreed->e.agreement;
    unsigned long long iops = victim->e.window.iops;
    if (o == NULL || victim->e.judged_latency_us <= o->latency_us) {
        words(out, size, "gets %llu of %llu reserved IOPS", iops,
              (unsigned long long)g->reservation_iops);
        return;
    }
    char name[24], of[32] = "";
    if (o->percentile_ppm == 0)
        words(name, sizeof(name), "a mean of");
    else
        words(name, sizeof(name), "p%g", (double)o->percentile_ppm / 1e4);
    if (o->while_iops != UINT64_MAX)
        words(of, sizeof(of), " of %llu", (unsigned long long)o->while_iops);
    words(out, size, "has %s %.1f ms against %g ms at %llu%s IOPS", name,
          (double)victim->e.judged_latency_us / 1e3, (double)o->latency_us / 1e3, iops, of);
}

static const char *decision_words(enum decision d)
{
    switch (d) {
    case DECISION_SENT:
    case DECISION_MAX_CUT:
    case DECISION_FLOOR:
        return "it is at its floor already";
    case DECISION_OBSERVE:
        return "observe mode";
    case DECISION_PROTECTED:
        return "the stream is protected";
    case DECISION_FROZEN:
        return "a freeze window is open";
    case DECISION_ENFORCEMENT_OFF:
        return "enforcement is off";
    }
    return "";
}

/* --- changing one throttle
 * -------------------------------------------------------------------------------- */

static bool throttle_set(struct stream *st, double rate)
{
    struct brake *b = &st->brake;
    struct entity_throttle *t = &st->e.throttle;
    weir_assert(rate >= 1.0);
    uint64_t iops = (uint64_t)llround(rate);
    const struct entity_window *w = &st->e.window;
    uint64_t bytes = w->read_bytes_s + w->write_bytes_s;
    uint64_t mean = w->iops > 0 ? bytes / w->iops : 0;
    b->rate = rate;
    if (t->active && t->iops == iops)
        return false;
    t->iops = iops;
    if (mean >= LARGE_IO_BYTES)
        t->bytes_s = (uint64_t)(rate * (double)mean);
    else if (t->bytes_s != UINT64_MAX && mean > 0)
        t->bytes_s = UINT64_MAX;
    b->changed = true;
    st->gateway->throttles_changed = true;
    return true;
}

static void throttle_begin(struct services *s, struct stream *st, double rate)
{
    weir_assert(st->brake.rate == 0 && !st->e.throttle.active);
    throttle_set(st, rate);
    st->e.throttle.active = true;
    st->e.throttle.since_ns = s->now_ns;
    st->e.throttle.since_wall_us = s->wall_us;
    st->brake.slack = 0;
    if (st->storage != NULL)
        st->storage->throttles++;
}

static void throttle_end(struct stream *st)
{
    weir_assert(st->brake.rate > 0 && st->e.throttle.active);
    if (st->storage != NULL) {
        weir_assert(st->storage->throttles > 0);
        st->storage->throttles--;
    }
    st->brake.rate = 0;
    st->brake.recorded = 0;
    st->brake.changed = false;
    /* What is applied stays shown until the gateway says that it is gone. */
    uint64_t iops = st->e.throttle.applied_iops, bytes_s = st->e.throttle.applied_bytes_s;
    st->e.throttle = (struct entity_throttle){.iops = UINT64_MAX, .bytes_s = UINT64_MAX,
                                              .applied_iops = iops, .applied_bytes_s = bytes_s};
    st->gateway->throttles_changed = true;
}

void throttle_lift(struct services *s, struct stream *st, const char *why, const char *decision)
{
    struct action_record a;
    record_bully(s, &a, st, "lift");
    a.enforced = true;
    words(a.decision, sizeof(a.decision), "%s", decision);
    words(a.agreement, sizeof(a.agreement), "%s", st->e.throttle.agreement);
    words(a.victim, sizeof(a.victim), "%s", st->e.throttle.victim);
    words(a.reason, sizeof(a.reason), "lifted the throttle of %s (%llu IOPS) on %s: %s", st->e.key,
          (unsigned long long)st->e.throttle.iops, st->e.target_name, why);
    throttle_end(st);
    note_action(s, &a);
}

void throttle_lift_all(struct services *s, const char *why, const char *decision)
{
    list_for_each(it, &s->e.streams) {
        struct stream *st = container_of(it, struct stream, e.link);
        if (st->brake.rate > 0)
            throttle_lift(s, st, why, decision);
    }
}

void throttle_applied(struct services *s, struct gateway *g, uint64_t epoch)
{
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        struct entity_throttle *t = &st->e.throttle;
        if (st->brake.changed || t->epoch == 0 || t->epoch > epoch)
            continue;
        t->applied_iops = t->iops;
        t->applied_bytes_s = t->bytes_s;
        if (t->active && st->brake.drained_ns == UINT64_MAX)
            st->brake.drained_ns = s->now_ns;
    }
}

/* --- cutting --------------------------------------------------------------------------- */

/* What the bully is entitled to whatever happens: its reservation, its contract. */
static double entitled_iops(const struct stream *st)
{
    if (st->agreed == NULL)
        return 0;
    const struct agreement *a = &st->agreed->e.agreement;
    double contract = (double)analyzer_contract_iops(a);
    if (analyzer_contract_iops(a) == UINT64_MAX)
        contract = (double)a->reservation_iops;
    double mean = stream_mean_bytes(st);
    if (mean > 0)
        contract = fmax(contract, (double)analyzer_contract_bytes_s(a) / mean);
    if (a->per == AGREEMENT_PER_GROUP && st->agreed->unit.iops > 0)
        contract *= (double)st->e.window.iops / (double)st->agreed->unit.iops;
    return contract;
}

static struct proposal proposal_of(const struct stream *st, double from, double to)
{
    return (struct proposal){
        .tenant = st->e.tenant,
        .host = st->e.host,
        .volume = st->e.volume,
        .target = st->e.target_name,
        .mean_bytes = stream_mean_bytes(st),
        .from_iops = from,
        .to_iops = to < from ? to : from,
        .contract = st->agreed != NULL && analyzer_promises(&st->agreed->e.agreement),
        .entitled_iops = entitled_iops(st),
    };
}

static void ask_policy(const struct services *s, const struct proposal *p, struct ruling *ret)
{
    policy_check(s->policies, s->e.policy_count, s->e.enforcing, s->e.observe, p, s->wall_us, ret);
}

/* Written down once for each change of rule or victim. */
static void suppressed(struct services *s, struct stream *st, const struct stream *victim,
                       const struct ruling *r, double base)
{
    struct brake *b = &st->brake;
    const char *policy = r->policy != NULL ? r->policy->name : "";
    const char *decision = decision_name(
        r->decision == DECISION_SENT || r->decision == DECISION_MAX_CUT ? DECISION_FLOOR
                                                                        : r->decision);
    bool same = strcmp(b->memo_decision, decision) == 0 && strcmp(b->memo_policy, policy) == 0 &&
                strcmp(b->memo_victim, victim->e.key) == 0;
    b->memo_age = 0;
    b->memo_from = base;
    b->memo_to = r->to_iops;
    if (same)
        return;
    words(b->memo_decision, sizeof(b->memo_decision), "%s", decision);
    words(b->memo_policy, sizeof(b->memo_policy), "%s", policy);
    words(b->memo_victim, sizeof(b->memo_victim), "%s", victim->e.key);
    struct action_record a;
    record_bully(s, &a, st, b->rate > 0 ? "tighten" : "throttle");
    record_victim(&a, victim);
    a.enforced = false;
    a.to_iops = (uint64_t)llround(r->to_iops);
    words(a.decision, sizeof(a.decision), "%s", decision);
    words(a.policy, sizeof(a.policy), "%s", policy);
    char what[160];
    victim_words(what, sizeof(what), victim);
    words(
        a.reason, sizeof(a.reason),
        "would throttle %s from %.0f to %.0f IOPS on %s, but %s%s%s: victim %s (agreement %s) %s; "
        "the bully did %.0f %% of the load",
        st->e.key, base, r->to_iops, st->e.target_name, decision_words(r->decision),
        policy[0] ? " by policy " : "", policy, victim->e.key, a.agreement, what,
        (double)st->e.harm_ppm / 1e4);
    note_action(s, &a);
}

static void cut(struct services *s, struct stream *st, const struct stream *victim,
                const struct ruling *r, double base)
{
    struct brake *b = &st->brake;
    bool fresh = b->rate == 0;
    struct action_record a;
    record_bully(s, &a, st, fresh ? "throttle" : "tighten");
    record_victim(&a, victim);
    a.enforced = true;
    words(a.decision, sizeof(a.decision), "%s", decision_name(r->decision));
    words(a.policy, sizeof(a.policy), "%s", r->policy != NULL ? r->policy->name : "");
    if (fresh)
        throttle_begin(s, st, r->to_iops);
    else
        throttle_set(st, r->to_iops);
    b->cut_ns = s->now_ns;
    b->drained_ns = UINT64_MAX;
    b->recorded = b->rate;
    b->memo_decision[0] = '\0';
    a.to_iops = st->e.throttle.iops;
    a.to_bytes_s = st->e.throttle.bytes_s;
    char what[160];
    victim_words(what, sizeof(what), victim);
    words(a.reason, sizeof(a.reason),
          "throttled %s from %.0f to %llu IOPS on %s: victim %s (agreement %s) %s; the bully did "
          "%.0f %% of the load",
          st->e.key, base, (unsigned long long)a.to_iops, st->e.target_name, victim->e.key,
          a.agreement, what, (double)st->e.harm_ppm / 1e4);
    struct entity_throttle *t = &st->e.throttle;
    words(t->victim, sizeof(t->victim), "%s", victim->e.key);
    words(t->agreement, sizeof(t->agreement), "%s", a.agreement);
    words(t->reason, sizeof(t->reason), "%s", a.reason);
    note_action(s, &a);
}

/* The largest cut is one period's: windows come unevenly, and the next may be there at once. */
static bool cut_lately(const struct services *s, const struct brake *b)
{
    return b->cut_ns > 0 && s->now_ns - b->cut_ns < s->config.period_ns - s->config.period_ns / 10;
}

/* Whether the last cut has had time to show, as far as @victim's window can tell. */
static bool cut_has_shown(const struct services *s, const struct stream *st,
                          const struct stream *victim)
{
    const struct brake *b = &st->brake;
    if (cut_lately(s, b))
        return false;
    if (b->rate == 0)
        return true;
    if (b->changed || b->drained_ns == UINT64_MAX)
        return false;
    if (victim->gateway->whole_now_ns <= b->drained_ns)
        return false; /* it has not reported since */
    if (st->gateway->window_start_ns >= b->drained_ns &&
        victim->gateway->window_start_ns >= b->drained_ns)
        return true;
    const struct objective *o = victim->e.objective;
    const struct sparse_hist *h = &victim->e.window.hist[METER_TOTAL];
    if (o == NULL || h->count == 0)
        return false;
    return (double)sparse_hist_count_above(h, o->latency_us * 1000) > DRAIN_LATE * (double)h->count;
}

static uint32_t failing_periods(const struct services *s, const struct stream *victim)
{
    const struct agreed *a = victim->agreed;
    bool group = a->e.agreement.per == AGREEMENT_PER_GROUP;
    return analyzer_run_periods(s, group ? &a->unit : &victim->unit, RUN_FAILING);
}

static void knee_learn(struct services *s, struct stream *st, const struct scene *sc, double base)
{
    struct brake *b = &st->brake;
    if (b->knee > 0 && s->now_ns - b->knee_ns > KNEE_KEPT_NS) {
        b->knee = 0;
        b->knee_found = false;
    }
    double knee = base;
    if (b->rate == 0) {
        double others = sc->total - sc->bullies_cost;
        double room = (TARGET_LOAD * sc->total - others) / sc->bullies_cost;
        knee = base * (room > 0 ? room : 0);
        /* A load seen for longer than one period is no guess: the first may be overloaded in part
         * only. */
        bool seen = failing_periods(s, sc->victim) > 1;
        if (b->knee > 0 && b->knee < knee)
            knee = b->knee; /* it was here before */
        else
            b->knee_found = seen;
    } else if (st->gateway->window_start_ns >= b->drained_ns) {
        knee *= TRIM;
        b->knee_found = true;
    } else {
        knee = b->knee; /* the old backlog may have had its part in this */
    }
    b->knee = knee > 1.0 ? knee : 1.0;
    b->learnt = b->knee;
    b->knee_ns = s->now_ns;
}

static double cut_factor(const struct services *s, const struct brake *b, double ratio)
{
    double f = AIM / ratio;
    bool right_so_far = b->rate > 0 && s->now_ns - b->cut_ns > 4 * s->config.period_ns;
    if (right_so_far && ratio < FINE_RATIO)
        return CUT_FINE;
    return f < CUT_DEEPEST ? CUT_DEEPEST : f > CUT_LEAST ? CUT_LEAST : f;
}

/* What came of wanting to cut one bully. */
enum outcome { OUTCOME_CUT, OUTCOME_WAITS, OUTCOME_STOPPED, OUTCOME_AT_FLOOR };

static enum outcome bully_cut(struct services *s, const struct scene *sc, const struct bully *bully)
{
    struct stream *st = bully->st;
    struct brake *b = &st->brake;
    if (!cut_has_shown(s, st, sc->victim))
        return OUTCOME_WAITS;
    double base = (double)st->e.window.iops;
    if (b->rate > 0 && b->rate < base)
        base = b->rate;
    if (base < 1.0)
        return OUTCOME_AT_FLOOR;
    const struct brake was = *b;
    knee_learn(s, st, sc, base);
    double to = base * cut_factor(s, b, sc->ratio);
    if (b->rate == 0 && b->knee * TARGET_LOAD < to)
        to = b->knee * TARGET_LOAD;
    struct proposal p = proposal_of(st, base, to);
    struct ruling r;
    ask_policy(s, &p, &r);
    if (!r.allowed) {
        b->knee = was.knee;
        b->learnt = was.learnt;
        b->knee_ns = was.knee_ns;
        b->knee_found = was.knee_found;
        suppressed(s, st, sc->victim, &r, base);
        return r.to_iops > base - 1.0 ? OUTCOME_AT_FLOOR : OUTCOME_STOPPED;
    }
    cut(s, st, sc->victim, &r, base);
    return OUTCOME_CUT;
}

static void say_short(struct services *s, struct storage *t, const struct scene *sc)
{
    char subject[SUBJECT_SIZE], what[160];
    words(subject, sizeof(subject), "target/%s", t->name);
    victim_words(what, sizeof(what), sc->victim);
    note_event(s, EVENT_WARNING, "capacity-short", subject,
               "%s cannot keep agreement %s and there is nobody left to hold back: %s %s",
               t->name, sc->victim->agreed->e.agreement.name, sc->victim->e.key, what);
}

/* A gateway without a window does not schedule; or not yet, while its first plans are on their
 * way. */
static bool schedules(const struct services *s, const struct target *t)
{
    return t->e.window_milli > 0 || !t->gateway->e.live || t->planned_ns == 0 ||
           s->now_ns - t->planned_ns <= LAST_RESORT_PERIODS * s->config.period_ns;
}

/* Cuts are the last resort where gateways schedule: shares and the window may keep the promise by
 * themselves, a few periods late. */
static bool scheduler_tries(const struct services *s, const struct storage *t,
                            const struct scene *sc)
{
    uint32_t patience = !t->slots_on         ? LAST_RESORT_PERIODS
                        : useful_searches(t) ? LAST_RESORT_SEARCH
                                             : LAST_RESORT_SHARED;
    if (t->throttles > 0 || failing_periods(s, sc->victim) > patience)
        return false;
    list_for_each(it, &t->targets) {
        if (!schedules(s, container_of(it, struct target, in_storage)))
            return false;
    }
    return true;
}

/* Bullies in their order; those who suffer themselves only when nobody else could be cut. */
static void storage_failing(struct services *s, struct storage *t, const struct scene *sc)
{
    bool handled = false;
    if (scheduler_tries(s, t, sc))
        return;
    for (size_t i = 0; i < sc->bully_count; i++) {
        if (sc->bully[i].exempt && handled)
            break;
        if (bully_cut(s, sc, &sc->bully[i]) != OUTCOME_AT_FLOOR)
            handled = true;
    }
    t->helpless = handled ? 0 : t->helpless + sc->whole;
    if (t->helpless >= HELPLESS_PERIODS && !t->short_said) {
        t->short_said = true;
        say_short(s, t, sc);
    }
}

/* --- giving back
 * ---------------------------------------------------------------------------------------------- */

static void record_growth(struct services *s, struct stream *st, double pressure)
{
    struct brake *b = &st->brake;
    if (fabs(b->rate - b->recorded) < RECORD_STEP * b->recorded)
        return;
    struct action_record a;
    bool up = b->rate > b->recorded;
    record_bully(s, &a, st, up ? "release" : "tighten");
    a.enforced = true;
    words(a.decision, sizeof(a.decision), "%s", decision_name(DECISION_SENT));
    words(a.victim, sizeof(a.victim), "%s", up ? "" : st->e.throttle.victim);
    words(a.agreement, sizeof(a.agreement), "%s", st->e.throttle.agreement);
    a.from_iops = (uint64_t)llround(b->recorded);
    a.to_iops = st->e.throttle.iops;
    a.to_bytes_s = st->e.throttle.bytes_s;
    words(a.reason, sizeof(a.reason),
          "%s %s from %llu to %llu IOPS on %s: latency promised to %s (agreement %s) is used to "
          "%.0f %%",
          up ? "released" : "trimmed", st->e.key, (unsigned long long)a.from_iops,
          (unsigned long long)a.to_iops, st->e.target_name, st->e.throttle.victim,
          st->e.throttle.agreement, pressure * 100.0);
    b->recorded = b->rate;
    note_action(s, &a);
}

/* 1 while promises are far from used up, 0 at EASE of one. */
static double headroom(double pressure)
{
    double h = (EASE - pressure) / (EASE - MUCH_EASE);
    return h < 0 ? 0 : h > 1.0 ? 1.0 : h;
}

/* By how much to probe at the knee: nothing for a while after it failed there. Long without
 * failing, a knee is a guess again. */
static double creep(const struct services *s, struct brake *b, double pressure)
{
    uint64_t periods = (s->now_ns - b->knee_ns) / s->config.period_ns;
    if (b->knee_found && periods > FOUND_PERIODS && pressure < MUCH_EASE)
        b->knee_found = false;
    if (b->knee_found && periods < HOLD_PERIODS)
        return 0;
    if (!b->knee_found && b->rate > WRONG_GUESS * b->learnt)
        return GROW_MAX - 1.0;
    return b->knee_found ? CREEP_FOUND : CREEP_GUESSED;
}

static double grown(const struct services *s, struct brake *b, double pressure)
{
    double rate = b->rate, room = headroom(pressure);
    if (rate < NEAR_KNEE * b->knee) {
        double step = (b->knee - rate) * GROW_GAP, most = rate * (GROW_MAX - 1.0);
        return rate + room * (step < most ? step : most);
    }
    rate *= 1.0 + room * creep(s, b, pressure);
    if (b->knee < rate)
        b->knee = rate;
    return rate;
}

static void trim(struct services *s, const struct storage *t, struct stream *st)
{
    struct brake *b = &st->brake;
    struct proposal p = proposal_of(st, b->rate, b->rate * TRIM);
    struct ruling r;
    if (cut_lately(s, b))
        return;
    ask_policy(s, &p, &r);
    if (!r.allowed)
        return;
    if (throttle_set(st, r.to_iops))
        b->cut_ns = s->now_ns;
    if (b->knee > b->rate)
        b->knee = b->rate;
    if (t->strained < STRAINED_PERIODS)
        return;
    b->knee_ns = s->now_ns;
    b->knee_found = true;
}

/* One throttled stream in a period without a failing victim. */
static void throttle_ease(struct services *s, struct storage *t, struct stream *st,
                          const struct scene *sc)
{
    struct brake *b = &st->brake;
    const struct entity_window *w = &st->e.window;
    bool binds = w->held > 0 || st->e.held_now > 0 || (double)w->iops >= SLACK_PART * b->rate;
    b->slack = binds ? 0 : b->slack + sc->whole;
    if (t->calm >= CALM_PERIODS) {
        throttle_lift(s, st, "nobody with a promise has asked for anything within it lately",
                      "sent");
        return;
    }
    if (b->slack >= SLACK_PERIODS) {
        throttle_lift(s, st, "it asks for less than it may have", "sent");
        return;
    }
    bool settled = !b->changed && b->drained_ns != UINT64_MAX &&
                   st->gateway->window_start_ns >= b->drained_ns;
    if (!settled || sc->pressure <= 0)
        return;
    if (t->strained > 0)
        trim(s, t, st);
    else if (t->pressure < EASE && sc->pressure < EASE && binds)
        throttle_set(st, grown(s, b, t->pressure));
    record_growth(s, st, sc->pressure);
}

static void storage_pressure(struct storage *t, const struct scene *sc)
{
    if (sc->pressure > 0) {
        double now = sc->pressure < PRESSURE_MAX ? sc->pressure : PRESSURE_MAX;
        double slow = 0.7 * t->pressure + 0.3 * now;
        t->pressure = now > 1.0 && now > slow ? now : slow;
    }
    t->strained = sc->pressure > 1.0 ? t->strained + sc->whole : 0;
    t->calm = sc->anybody ? 0 : t->calm + sc->whole;
}

static void memo_age(struct stream *st, bool whole)
{
    struct brake *b = &st->brake;
    if (b->memo_decision[0] != '\0' && (b->memo_age += whole) > MEMO_PERIODS)
        b->memo_decision[0] = '\0';
}

static void storage_run(struct services *s, struct storage *t)
{
    struct scene sc;
    scene_look(&sc, t);
    sc.whole = s->now_ns - t->period_ns >= s->config.period_ns - s->config.period_ns / 10;
    t->period_ns = sc.whole ? s->now_ns : t->period_ns;
    storage_pressure(t, &sc);
    bool may_cut = blame_look(s, t, &sc);
    t->was_failing = sc.victim != NULL;
    if (sc.victim != NULL && may_cut) {
        storage_failing(s, t, &sc);
    } else {
        t->helpless = 0;
        t->short_said = false;
    }
    list_for_each(it, &t->streams) {
        struct stream *st = container_of(it, struct stream, in_storage);
        memo_age(st, sc.whole);
        if (st->brake.rate > 0 && sc.victim == NULL)
            throttle_ease(s, t, st, &sc);
    }
}

void throttle_run(struct services *s, struct gateway *g)
{
    if (!s->loaded)
        return; /* nothing could be sent, and not all promises are known */
    list_for_each(it, &g->targets) {
        struct storage *t = container_of(it, struct target, link)->storage;
        if (storage_due(s, t, g))
            storage_run(s, t);
    }
}

/* --- when policies change
 * ----------------------------------------------------------------------------------------- */

static void review(struct services *s, struct stream *st)
{
    struct proposal p = proposal_of(st, st->brake.rate, st->brake.rate);
    struct ruling r;
    ask_policy(s, &p, &r);
    switch (r.decision) {
    case DECISION_ENFORCEMENT_OFF:
    case DECISION_PROTECTED:
    case DECISION_OBSERVE:
        throttle_lift(s, st, decision_words(r.decision), decision_name(r.decision));
        return;
    case DECISION_SENT:
    case DECISION_MAX_CUT:
    case DECISION_FLOOR:
    case DECISION_FROZEN:
        break;
    }
    double floor = policy_floor(s->policies, s->e.policy_count, &p);
    if (st->brake.rate < floor)
        throttle_set(st, floor);
}

void throttle_review_all(struct services *s)
{
    list_for_each(it, &s->e.streams) {
        struct stream *st = container_of(it, struct stream, e.link);
        if (st->brake.rate > 0)
            review(s, st);
    }
}

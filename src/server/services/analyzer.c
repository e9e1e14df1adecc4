/* SPDX-License-Identifier: Apache-2.0 */
/* Performance analyzer: the verdict on each stream and agreement in the period that just ended.
 *
 * Problem: say who gets what was promised, from one second of counts, without calling noise a
 * breach and without being blind to a stream so starved that it hardly speaks.
 *
 * Model. A *unit* is what an agreement's numbers hold for: each stream alone, or all its streams
 * together (their histograms are merged, percentiles are never averaged). Demand is arrivals per
 * second. The objective that applies is the first whose while_iops is not below the demand; above
 * the last the unit is beyond its contract.
 *
 *   met      within the contract, objective and minimum kept
 *   failing  within the contract and not kept; or a minimum asked for and not given, at any demand
 *   exempt   beyond the contract, and served worse than the last objective says
 *   excess   beyond the contract, and served as well all the same
 *   idle     nothing asked;  none: nothing promised, or too little seen to tell
 *
 * Tolerance is 5 % + 3/sqrt(n) for n I/Os. Below FLOOR_OPS in a period the percentile is not
 * judged; the I/Os and those among them that were late add up over THIN_PERIODS that had any, and
 * the promise is called broken when more came late than n(1-q) + 3 sqrt(n(1-q)) + 1, which chance
 * does about once in a thousand. A minimum is asked for when arrivals reach it, or when DEEP I/Os
 * are outstanding on average (Little): a closed loop whose queue is never empty asks for all it can
 * get. Of a minimum of reads, or of writes, that is looked at for these alone.
 *
 * Judged latency is the total (from arrival to reply) unless limits that the stream has agreed to
 * held some of its I/Os in the period: then it is the target's part, since what one's own limit
 * holds is no breach. Held by agreement is told from held by a planned throttle by the control at
 * which the stream waits (held_by). What a planned throttle holds is not judged either, and a
 * stream that it holds asks for more than it gets: it is beyond its contract by definition and
 * never a victim.
 *
 * Compliance windows (agreement.compliance_window) count I/Os late against I/Os that may be late,
 * each against the objective that applied when it was served: exact for percentiles, since q of n
 * are within L when at most n(1-q) are above it. Only periods within the contract count. Where only
 * a minimum is promised, time counts.
 *
 * Warnings bring some tens of looks a second: what is said of many periods in a row counts periods.
 *
 * Invariants: (1) a verdict other than none or idle is given only on a window with a duration; (2)
 * a braked unit is never failing; (3) windows_met <= windows. */
#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/state.h"

#define FLOOR_OPS 20u
#define THIN_PERIODS 10u
#define DEEP 4.0
/* Periods in a row before an event says that an agreement is violated, and that it holds again. */
#define VIOLATED_AFTER 2u
#define RESTORED_AFTER 5u
#define QUIET_AFTER 10u

struct evidence {
    const struct sparse_hist *hist; /* judged latencies */
    uint64_t arrivals, ops;      /* ops: in hist */
    uint64_t demand_iops, iops, bytes_s;
    uint64_t read_iops, write_iops, read_bytes_s, write_bytes_s;
    uint64_t demand_bytes_s;
    uint64_t demand_dir_iops[2], demand_dir_bytes_s[2];
    double outstanding;          /* mean I/Os in progress */
    double outstanding_dir[2];
    uint64_t inflight, duration_ns;
    bool own_held, braked;
};

void analyzer_unit_clear(struct unit *u)
{
    bool violated = u->violated;
    *u = (struct unit){.verdict = VERDICT_NONE, .violated = violated};
}

bool analyzer_promises(const struct agreement *a)
{
    return a->objective_count > 0 || a->reservation_iops > 0 || a->reservation_bytes_s > 0 ||
           a->reservation_read_iops > 0 || a->reservation_write_iops > 0 ||
           a->reservation_read_bytes_s > 0 || a->reservation_write_bytes_s > 0;
}

uint64_t analyzer_contract_bytes_s(const struct agreement *a)
{
    uint64_t parts = a->reservation_read_bytes_s + a->reservation_write_bytes_s;
    return a->reservation_bytes_s > parts ? a->reservation_bytes_s : parts;
}

uint64_t analyzer_contract_iops(const struct agreement *a)
{
    uint64_t parts = a->reservation_read_iops + a->reservation_write_iops;
    uint64_t c = a->reservation_iops > parts ? a->reservation_iops : parts;
    if (a->objective_count > 0 && a->objective[a->objective_count - 1].while_iops > c)
        c = a->objective[a->objective_count - 1].while_iops;
    return c;
}

static double tolerance(uint64_t n)
{
    return 1.05 + 3.0 / sqrt((double)(n > 0 ? n : 1));
}

static double quantile_of(const struct objective *o)
{
    return o->percentile_ppm == 0 ? 0.5 : (double)o->percentile_ppm / 1e6;
}

static uint64_t objective_latency_us(const struct objective *o, const struct sparse_hist *h)
{
    if (h->count == 0)
        return 0;
    uint64_t ns = o->percentile_ppm == 0 ? sparse_hist_mean(h)
                                          : sparse_hist_quantile(h, quantile_of(o));
    return ns / 1000;
}

/* The one that applies, or NULL beyond the last. */
static const struct objective *objective_for(const struct agreement *a, const struct evidence *e)
{
    double slack = tolerance(e->arrivals);
    for (size_t i = 0; i < a->objective_count; i++) {
        const struct objective *o = &a->objective[i];
        if (o->while_iops == UINT64_MAX || (double)e->demand_iops <= (double)o->while_iops * slack)
            return o;
    }
    return NULL;
}

/* --- evidence
 * ----------------------------------------------------------------------------------------- */

static bool held_by_throttle(const struct stream *st)
{
    return strncmp(st->e.held_by, "throttle/", 9) == 0;
}

static bool stream_braked(const struct stream *st)
{
    return st->brake.rate > 0 && st->e.window.held > 0 &&
           (st->e.held_by[0] == '\0' || held_by_throttle(st));
}

static bool stream_own_held(const struct stream *st)
{
    return st->e.window.held > 0 && !stream_braked(st) && !held_by_throttle(st);
}

static const struct sparse_hist *judged_hist(const struct stream *st)
{
    int kind = stream_own_held(st) || stream_braked(st) ? METER_TARGET : METER_TOTAL;
    return &st->e.window.hist[kind];
}

static void evidence_of_stream(struct evidence *e, const struct stream *st)
{
    const struct entity_window *w = &st->e.window;
    const struct sparse_hist *h = judged_hist(st);
    const struct sparse_hist *total = &w->hist[METER_TOTAL];
    *e = (struct evidence){
        .hist = h,
        .arrivals = w->arrivals,
        .ops = h->count,
        .demand_iops = w->demand_iops,
        .iops = w->iops,
        .bytes_s = w->read_bytes_s + w->write_bytes_s,
        .read_iops = w->read_iops,
        .write_iops = w->write_iops,
        .read_bytes_s = w->read_bytes_s,
        .write_bytes_s = w->write_bytes_s,
        .demand_bytes_s = w->demand_dir_bytes_s[0] + w->demand_dir_bytes_s[1],
        .demand_dir_iops = {w->demand_dir_iops[0], w->demand_dir_iops[1]},
        .demand_dir_bytes_s = {w->demand_dir_bytes_s[0], w->demand_dir_bytes_s[1]},
        .outstanding_dir = {w->outstanding[0], w->outstanding[1]},
        .inflight = entity_stream_inflight(&st->e),
        .duration_ns = w->duration_ns,
        .own_held = stream_own_held(st),
        .braked = stream_braked(st),
    };
    if (w->duration_ns > 0)
        e->outstanding = (double)total->sum_ns / (double)w->duration_ns;
}

/* The buckets of a group, between the lowest and the highest of its streams. */
struct group_hist {
    struct hist *sum;
    uint32_t low, high;
};

static void group_add(struct group_hist *g, const struct sparse_hist *h)
{
    if (h->used == 0)
        return;
    uint32_t low = sparse_hist_index(h, 0), high = sparse_hist_index(h, h->used - 1u);
    g->low = low < g->low ? low : g->low;
    g->high = high > g->high ? high : g->high;
    sparse_hist_merge(g->sum, h);
}

/* Into @ret, and @g->sum is all zero again. Without memory @ret is empty: a period not judged. */
static void group_finish(struct group_hist *g, struct sparse_hist *ret)
{
    sparse_hist_take(ret, g->sum, g->low, g->high);
    if (g->low <= g->high)
        memset(&g->sum->bucket[g->low], 0, (g->high - g->low + 1) * sizeof(g->sum->bucket[0]));
    g->sum->count = g->sum->sum_ns = g->sum->max_ns = 0;
}

static void evidence_of_group(struct services *s, struct evidence *e, const struct agreed *a)
{
    struct group_hist sum = {.sum = &s->scratch, .low = HIST_BUCKETS, .high = 0};
    *e = (struct evidence){.hist = &s->group};
    list_for_each(it, &a->streams) {
        const struct stream *st = container_of(it, struct stream, in_agreed);
        if (st->e.window.duration_ns == 0)
            continue;
        struct evidence one;
        evidence_of_stream(&one, st);
        group_add(&sum, one.hist);
        e->arrivals += one.arrivals;
        e->demand_iops += one.demand_iops;
        e->iops += one.iops;
        e->bytes_s += one.bytes_s;
        e->read_iops += one.read_iops;
        e->write_iops += one.write_iops;
        e->read_bytes_s += one.read_bytes_s;
        e->write_bytes_s += one.write_bytes_s;
        e->demand_bytes_s += one.demand_bytes_s;
        for (int d = 0; d < 2; d++) {
            e->demand_dir_iops[d] += one.demand_dir_iops[d];
            e->demand_dir_bytes_s[d] += one.demand_dir_bytes_s[d];
            e->outstanding_dir[d] += one.outstanding_dir[d];
        }
        e->outstanding += one.outstanding;
        e->inflight += one.inflight;
        e->own_held = e->own_held || one.own_held;
        e->braked = e->braked || one.braked;
        if (one.duration_ns > e->duration_ns)
            e->duration_ns = one.duration_ns;
    }
    group_finish(&sum, &s->group);
    e->ops = s->group.count;
}

/* --- the verdict
 * ---------------------------------------------------------------------------------------- */

struct finding {
    enum verdict verdict;
    const struct objective *objective;
    uint64_t latency_us;
    double ratio;
    bool minimum_missed;
};

static double worse(double a, double b)
{
    return a > b ? a : b;
}

/* Promised over given where so much is asked for and less given; else 0. */
static double rate_missed(uint64_t promised, uint64_t demand, bool deep, uint64_t given,
                          double slack)
{
    bool asked = deep || demand >= promised;
    if (promised == 0 || !asked || (double)given * slack >= (double)promised)
        return 0;
    return (double)promised / (double)(given > 0 ? given : 1);
}

/* How far a minimum that is asked for is missed: promised over given; 0: it is not missed. */
static double minimum_missed(const struct agreement *a, const struct evidence *e)
{
    double slack = tolerance(e->arrivals);
    if (e->own_held || e->braked || e->inflight + e->ops == 0)
        return 0;
    const bool deep = e->outstanding >= DEEP;
    const bool reads = e->outstanding_dir[IO_DIR_READ] >= DEEP;
    const bool writes = e->outstanding_dir[IO_DIR_WRITE] >= DEEP;
    const struct {
        uint64_t promised, demand, given;
        bool deep;
    } minimum[] = {
        {a->reservation_iops, e->demand_iops, e->iops, deep},
        {a->reservation_bytes_s, e->demand_bytes_s, e->bytes_s, deep},
        {a->reservation_read_iops, e->demand_dir_iops[IO_DIR_READ], e->read_iops, reads},
        {a->reservation_write_iops, e->demand_dir_iops[IO_DIR_WRITE], e->write_iops, writes},
        {a->reservation_read_bytes_s, e->demand_dir_bytes_s[IO_DIR_READ], e->read_bytes_s, reads},
        {a->reservation_write_bytes_s, e->demand_dir_bytes_s[IO_DIR_WRITE], e->write_bytes_s,
         writes},
    };
    double missed = 0;
    for (size_t i = 0; i < sizeof(minimum) / sizeof(minimum[0]); i++)
        missed = worse(missed, rate_missed(minimum[i].promised, minimum[i].demand,
                                           minimum[i].deep, minimum[i].given, slack));
    return missed;
}

/* Whole periods that are over since; answers come a little early. */
static uint32_t periods_since(const struct services *s, uint64_t since_ns)
{
    uint64_t period = s->config.period_ns;
    return (uint32_t)((s->now_ns - since_ns + period / 10) / period);
}

/* Too few I/Os for a percentile in one period: let them add up. */
static enum verdict judge_thin(const struct services *s, struct unit *u, const struct objective *o,
                               const struct evidence *e)
{
    u->thin_ops += e->ops;
    u->thin_late += sparse_hist_count_above(e->hist, o->latency_us * 1050);
    if (u->thin_ns == 0 || periods_since(s, u->thin_ns) > 0) {
        u->thin_periods++;
        u->thin_ns = s->now_ns;
    }
    double n = (double)u->thin_ops, may = n * (1.0 - quantile_of(o));
    enum verdict v = VERDICT_NONE;
    if ((double)u->thin_late > may + 3.0 * sqrt(may) + 1.0)
        v = VERDICT_FAILING;
    else if (u->thin_ops >= FLOOR_OPS)
        v = VERDICT_MET;
    if (v != VERDICT_NONE || u->thin_periods >= THIN_PERIODS) {
        u->thin_ops = u->thin_late = u->thin_ns = 0;
        u->thin_periods = 0;
    }
    return v;
}

static void judge_latency(const struct services *s, struct unit *u, const struct evidence *e,
                          struct finding *f)
{
    const struct objective *o = f->objective;
    f->latency_us = objective_latency_us(o, e->hist);
    f->ratio = (double)f->latency_us / (double)(o->latency_us > 0 ? o->latency_us : 1);
    if (e->ops < FLOOR_OPS) {
        f->verdict = judge_thin(s, u, o, e);
        if (f->verdict == VERDICT_FAILING)
            f->ratio = worse(worse(f->ratio, u->ratio), 1.2);
        return;
    }
    u->thin_ops = u->thin_late = u->thin_ns = 0;
    u->thin_periods = 0;
    f->verdict = f->ratio > tolerance(e->ops) ? VERDICT_FAILING : VERDICT_MET;
}

static void judge_beyond(const struct agreement *a, const struct evidence *e, struct finding *f)
{
    f->verdict = VERDICT_EXCESS;
    if (a->objective_count == 0 || e->ops == 0)
        return;
    const struct objective *last = &a->objective[a->objective_count - 1];
    f->latency_us = objective_latency_us(last, e->hist);
    if ((double)f->latency_us > (double)last->latency_us * tolerance(e->ops))
        f->verdict = VERDICT_EXEMPT;
}

static struct finding judge(const struct services *s, struct unit *u, const struct agreement *a,
                            const struct evidence *e)
{
    struct finding f = {.verdict = VERDICT_NONE};
    if (e->duration_ns == 0)
        return f;
    if (e->arrivals == 0 && e->ops == 0 && e->inflight == 0) {
        f.verdict = VERDICT_IDLE;
        return f;
    }
    if (!analyzer_promises(a))
        return f;
    double missed = minimum_missed(a, e);
    f.objective = e->braked ? NULL : objective_for(a, e);
    if (f.objective != NULL)
        judge_latency(s, u, e, &f);
    else if (a->objective_count > 0 || e->braked)
        judge_beyond(a, e, &f);
    else
        f.verdict = (double)e->demand_iops >
                            (double)analyzer_contract_iops(a) * tolerance(e->arrivals)
                        ? VERDICT_EXCESS
                        : VERDICT_MET;
    if (missed > 0) {
        f.verdict = VERDICT_FAILING;
        f.ratio = worse(f.ratio, missed);
        f.minimum_missed = true;
    }
    weir_assert(!(e->braked && f.verdict == VERDICT_FAILING));
    return f;
}

/* --- windows of compliance, and events
 * ------------------------------------------------------------------- */

static void compliance_close(const struct services *s, struct agreed *a, struct unit *u)
{
    if (u->window_start_ns == 0) {
        u->window_start_ns = s->now_ns;
        return;
    }
    if (s->now_ns - u->window_start_ns < a->e.agreement.compliance_window_ns)
        return;
    if (u->allowed > 0) {
        a->e.windows++;
        if (u->late <= u->allowed)
            a->e.windows_met++;
    }
    u->window_start_ns = s->now_ns;
    u->late = u->allowed = 0;
}

static void compliance_count(struct services *s, struct agreed *a, struct unit *u,
                             const struct evidence *e, const struct finding *f)
{
    double n = (double)e->ops;
    if (f->objective != NULL && e->ops > 0) {
        double may = n * (1.0 - quantile_of(f->objective));
        bool mean_late = f->latency_us > f->objective->latency_us;
        u->allowed += may;
        if (f->minimum_missed)
            u->late += n;
        else if (f->objective->percentile_ppm == 0)
            u->late += mean_late ? n : 0;
        else
            u->late += (double)sparse_hist_count_above(e->hist, f->objective->latency_us * 1000);
    } else if (f->verdict == VERDICT_MET || f->verdict == VERDICT_FAILING) {
        double periods = (double)e->duration_ns / (double)s->config.period_ns;
        u->allowed += periods; /* only a minimum is promised */
        u->late += f->verdict == VERDICT_FAILING ? 2 * periods : 0;
    }
    compliance_close(s, a, u);
}

static void say_violated(struct services *s, const struct agreed *a, const struct unit *u,
                         const struct stream *worst)
{
    char subject[SUBJECT_SIZE];
    note_stream_subject(worst, subject, sizeof(subject));
    const struct agreement *g = &a->e.agreement;
    if (u->objective != NULL && u->latency_us > u->objective->latency_us)
        note_event(
            s, EVENT_WARNING, "agreement-violated", subject,
            "agreement %s: %s has %.2f ms at percentile %g against %.2f ms promised, at %llu "
            "I/Os per second",
            g->name, worst->e.key, (double)u->latency_us / 1e3,
            (double)u->objective->percentile_ppm / 1e4, (double)u->objective->latency_us / 1e3,
            (unsigned long long)u->demand_iops);
    else
        note_event(s, EVENT_WARNING, "agreement-violated", subject,
                   "agreement %s: %s gets %llu I/Os per second, %.1f times less than reserved",
                   g->name, worst->e.key, (unsigned long long)u->iops, u->ratio);
}

static void say_restored(struct services *s, const struct agreed *a, const struct unit *u,
                         const struct stream *worst, const char *why)
{
    char subject[SUBJECT_SIZE];
    note_stream_subject(worst, subject, sizeof(subject));
    note_event(s, EVENT_INFO, "agreement-restored", subject, "agreement %s: %s %s (%.2f ms)",
               a->e.agreement.name, worst->e.key, why, (double)u->latency_us / 1e3);
}

static enum unit_run run_of(enum verdict v)
{
    switch (v) {
    case VERDICT_FAILING:
        return RUN_FAILING;
    case VERDICT_MET:
        return RUN_MET;
    case VERDICT_NONE:
        return RUN_NONE;
    case VERDICT_EXEMPT:
    case VERDICT_EXCESS:
    case VERDICT_IDLE:
        return RUN_QUIET;
    }
    return RUN_NONE;
}

/* A look that tells nothing ends no run. */
static void unit_runs(const struct services *s, struct unit *u)
{
    enum unit_run run = run_of(u->verdict);
    if (run != RUN_NONE && run != u->run) {
        u->run = run;
        u->run_looks = 0;
        u->run_ns = s->now_ns;
    }
    u->run_looks += run != RUN_NONE;
}

uint32_t analyzer_run_periods(const struct services *s, const struct unit *u, enum unit_run run)
{
    if (u->run != run)
        return 0;
    uint32_t periods = periods_since(s, u->run_ns) + 1;
    return periods < u->run_looks ? periods : u->run_looks;
}

static void unit_events(struct services *s, struct agreed *a, struct unit *u,
                        const struct stream *worst)
{
    if (!u->violated && analyzer_run_periods(s, u, RUN_FAILING) >= VIOLATED_AFTER) {
        u->violated = true;
        say_violated(s, a, u, worst);
    } else if (u->violated && analyzer_run_periods(s, u, RUN_MET) >= RESTORED_AFTER) {
        u->violated = false;
        say_restored(s, a, u, worst, "is back inside");
    } else if (u->violated && analyzer_run_periods(s, u, RUN_QUIET) >= QUIET_AFTER) {
        u->violated = false;
        say_restored(s, a, u, worst, "no longer asks within its contract");
    }
}

static void unit_settle(struct services *s, struct agreed *a, struct unit *u,
                        const struct evidence *e, const struct finding *f,
                        const struct stream *worst)
{
    u->verdict = f->verdict;
    u->objective = f->objective;
    u->latency_us = f->latency_us;
    u->ratio = f->ratio;
    u->demand_iops = e->demand_iops;
    u->iops = e->iops;
    unit_runs(s, u);
    compliance_count(s, a, u, e, f);
    unit_events(s, a, u, worst);
}

/* --- streams and agreements
 * ------------------------------------------------------------------------------- */

static void stream_show(struct services *s, struct stream *st, enum verdict v,
                        const struct objective *o, uint64_t latency_us)
{
    if (st->e.verdict != v)
        st->e.verdict_since_ns = s->now_ns;
    st->e.verdict = v;
    st->e.objective = o;
    st->e.judged_latency_us = latency_us;
}

static void run_stream(struct services *s, struct stream *st)
{
    struct evidence e;
    evidence_of_stream(&e, st);
    struct finding f = judge(s, &st->unit, &st->agreed->e.agreement, &e);
    unit_settle(s, st->agreed, &st->unit, &e, &f, st);
    stream_show(s, st, f.verdict, f.objective, f.latency_us);
}

/* A member of a group: the group's verdict, its own latency. */
static void show_member(struct services *s, struct stream *st)
{
    const struct unit *group = &st->agreed->unit;
    struct evidence e;
    evidence_of_stream(&e, st);
    bool idle = e.arrivals == 0 && e.ops == 0 && e.inflight == 0;
    uint64_t latency =
        group->objective != NULL ? objective_latency_us(group->objective, e.hist) : 0;
    st->unit.latency_us = latency;
    st->unit.demand_iops = e.demand_iops;
    st->unit.iops = e.iops;
    st->unit.objective = group->objective;
    st->unit.verdict = idle ? VERDICT_IDLE : group->verdict;
    st->unit.ratio = group->objective != NULL && group->objective->latency_us > 0
                         ? (double)latency / (double)group->objective->latency_us
                         : group->ratio;
    stream_show(s, st, st->unit.verdict, group->objective, latency);
}

static const struct stream *worst_member(const struct agreed *a)
{
    const struct stream *worst = NULL;
    list_for_each(it, &a->streams) {
        const struct stream *st = container_of(it, struct stream, in_agreed);
        if (worst == NULL || st->unit.ratio > worst->unit.ratio)
            worst = st;
    }
    return worst;
}

static void run_group(struct services *s, struct agreed *a)
{
    struct evidence e;
    evidence_of_group(s, &e, a);
    struct finding f = judge(s, &a->unit, &a->e.agreement, &e);
    /* Members show the group's objective before the worst of them is looked for. */
    a->unit.objective = f.objective;
    a->unit.verdict = f.verdict;
    a->unit.ratio = f.ratio;
    list_for_each(it, &a->streams)
        show_member(s, container_of(it, struct stream, in_agreed));
    const struct stream *worst = worst_member(a);
    weir_assert(worst != NULL);
    unit_settle(s, a, &a->unit, &e, &f, worst);
}

static int severity(enum verdict v)
{
    switch (v) {
    case VERDICT_FAILING:
        return 5;
    case VERDICT_EXEMPT:
        return 4;
    case VERDICT_EXCESS:
        return 3;
    case VERDICT_MET:
        return 2;
    case VERDICT_NONE:
        return 1;
    case VERDICT_IDLE:
        return 0;
    }
    return 0;
}

static void agreement_sum_up(struct agreed *a)
{
    struct entity_agreement *e = &a->e;
    e->iops = e->demand_iops = e->latency_us = 0;
    e->verdict = VERDICT_IDLE;
    e->violated = a->unit.violated;
    list_for_each(it, &a->covered) {
        const struct stream *st = container_of(it, struct cover, in_agreed)->stream;
        e->iops += st->e.window.iops;
        e->demand_iops += st->e.window.demand_iops;
    }
    list_for_each(it, &a->streams) {
        const struct stream *st = container_of(it, struct stream, in_agreed);
        if (st->e.judged_latency_us > e->latency_us)
            e->latency_us = st->e.judged_latency_us;
        if (severity(st->e.verdict) > severity(e->verdict))
            e->verdict = st->e.verdict;
        if (e->agreement.per == AGREEMENT_PER_STREAM && st->unit.violated)
            e->violated = true;
    }
}

static bool spans_gateways(const struct agreed *a)
{
    const struct gateway *first = NULL;
    list_for_each(it, &a->streams) {
        const struct stream *st = container_of(it, struct stream, in_agreed);
        if (first != NULL && st->gateway != first)
            return true;
        first = st->gateway;
    }
    return false;
}

/* Over several gateways, each of which reports once a period, it is judged once a period, so that
 * no window counts twice. */
static void run_agreement(struct services *s, struct agreed *a)
{
    uint64_t period = s->config.period_ns;
    if (s->now_ns - a->judged_ns < period - period / 10 && spans_gateways(a))
        return;
    a->judged_ns = s->now_ns;
    if (a->e.agreement.per == AGREEMENT_PER_GROUP && !list_empty(&a->streams))
        run_group(s, a);
    agreement_sum_up(a);
}

void analyzer_run(struct services *s, struct gateway *g)
{
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        const struct entity_window *w = &st->e.window;
        if (st->agreed == NULL) {
            bool idle = w->arrivals == 0 && w->iops == 0 && entity_stream_inflight(&st->e) == 0;
            stream_show(s, st, idle && w->duration_ns > 0 ? VERDICT_IDLE : VERDICT_NONE, NULL, 0);
        } else if (st->agreed->e.agreement.per == AGREEMENT_PER_STREAM) {
            run_stream(s, st);
        }
    }
    s->mark++;
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        for (size_t i = 0; i < st->cover_count; i++) {
            struct agreed *a = st->cover[i].agreed;
            if (a->mark != s->mark)
                run_agreement(s, a);
            a->mark = s->mark;
        }
    }
}

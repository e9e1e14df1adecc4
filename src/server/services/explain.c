/* SPDX-License-Identifier: Apache-2.0 */
/* Explanations.
 *
 * Order: who promises what, how that fares, which limits hold and how much of each is here, what
 * its target owes it, what is planned against it, what holds I/Os now, what harm it does, and which
 * rules stand between it and the planner. Each sentence speaks of now; what was done before is in
 * the actions. */
#include "server/services/explain.h"

#include <stdarg.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/state.h"

struct page {
    char (*line)[EXPLAIN_SIZE];
    size_t count;
};

static void say(struct page *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(struct page *p, const char *format, ...)
{
    char text[EXPLAIN_SIZE];
    va_list args;
    if (p->count == EXPLAIN_SENTENCES)
        return;
    va_start(args, format);
    vwords(text, sizeof(text), format, args);
    va_end(args);
    words(p->line[p->count++], EXPLAIN_SIZE, "%s", text);
}

static void say_objective(char *out, size_t size, const struct objective *o)
{
    char what[24] = "the mean", demand[48] = "";
    if (o->percentile_ppm != 0)
        words(what, sizeof(what), "p%g", (double)o->percentile_ppm / 1e4);
    if (o->while_iops != UINT64_MAX)
        words(demand, sizeof(demand), " while at most %llu IOPS are asked for",
              (unsigned long long)o->while_iops);
    words(out, size, "%s of at most %g ms%s", what, (double)o->latency_us / 1e3, demand);
}

static void add_rate(char *out, size_t size, uint64_t rate, const char *unit)
{
    size_t at = strlen(out);
    if (rate > 0)
        words(out + at, size - at, "%s%llu %s", at > 0 ? ", " : "", (unsigned long long)rate, unit);
}

/* "Reserved are 4000 IOPS, 1000 IOPS of reads, 1048576 bytes/s of writes."; nothing for nothing. */
static void say_reserved(struct page *p, const char *before, const char *after, uint64_t iops,
                         const uint64_t dir_iops[2], uint64_t bytes_s,
                         const uint64_t dir_bytes_s[2])
{
    char list[256] = "";
    add_rate(list, sizeof(list), iops, "IOPS");
    add_rate(list, sizeof(list), dir_iops[IO_DIR_READ], "IOPS of reads");
    add_rate(list, sizeof(list), dir_iops[IO_DIR_WRITE], "IOPS of writes");
    add_rate(list, sizeof(list), bytes_s, "bytes/s");
    add_rate(list, sizeof(list), dir_bytes_s[IO_DIR_READ], "bytes/s of reads");
    add_rate(list, sizeof(list), dir_bytes_s[IO_DIR_WRITE], "bytes/s of writes");
    if (list[0] != '\0')
        say(p, "%s %s%s.", before, list, after);
}

static void say_promise(struct page *p, const struct stream *st)
{
    if (st->gateway->e.waits) {
        say(p, "Gateway %s waits to be admitted (weir gateway admit %s): nothing is promised.",
            st->gateway->e.hello.name, st->gateway->e.hello.name);
        return;
    }
    if (st->agreed == NULL) {
        say(p, "No agreement selects it: nothing is promised.");
        return;
    }
    const struct agreement *a = &st->agreed->e.agreement;
    char group[64] = "";
    if (a->per == AGREEMENT_PER_GROUP && st->agreed->e.streams > 1)
        words(group, sizeof(group), " with %zu others", st->agreed->e.streams - 1);
    say(p, "Agreement %s (version %llu) makes its promise%s: %s. Weight %u, priority %d.",
        a->name, (unsigned long long)a->version, group,
        a->objective_count > 0 ? "latency by demand" : "no latency", a->weight, a->priority);
    say_reserved(p, "Reserved are", "", a->reservation_iops,
                 (const uint64_t[]){a->reservation_read_iops, a->reservation_write_iops},
                 a->reservation_bytes_s,
                 (const uint64_t[]){a->reservation_read_bytes_s, a->reservation_write_bytes_s});
    for (size_t i = 0; i < a->objective_count; i++) {
        char o[160];
        say_objective(o, sizeof(o), &a->objective[i]);
        say(p, "Promised: %s%s.", o,
            &a->objective[i] == st->e.objective ? "; this one holds now" : "");
    }
}

static const char *verdict_reason(const struct stream *st)
{
    switch (st->e.verdict) {
    case VERDICT_NONE:
        return "nothing is promised, or too little was seen to tell";
    case VERDICT_MET:
        return "it asks for no more than agreed, and has what was promised";
    case VERDICT_FAILING:
        return "it asks for no more than agreed, and does not have what was promised";
    case VERDICT_EXEMPT:
        return "it asks for more than agreed, so that its latency is not owed";
    case VERDICT_EXCESS:
        return "it asks for more than agreed, and is served well all the same";
    case VERDICT_IDLE:
        return "it asks for nothing";
    }
    return "";
}

static void say_verdict(struct page *p, const struct stream *st)
{
    const struct entity_window *w = &st->e.window;
    char judged[96] = "";
    if (st->e.objective != NULL)
        words(judged, sizeof(judged), "; judged latency %.2f of %g ms",
              (double)st->e.judged_latency_us / 1e3, (double)st->e.objective->latency_us / 1e3);
    say(p, "It asks for %llu IOPS and has %llu%s: %s (%s).", (unsigned long long)w->demand_iops,
        (unsigned long long)w->iops, judged, verdict_name(st->e.verdict), verdict_reason(st));
}

static void say_limit(struct page *p, const struct part *part, const struct gate_limits *all)
{
    static const char *const units[GATE_KIND_COUNT] = {"IOPS of reads", "IOPS of writes", "IOPS",
                                                       "B/s of reads", "B/s of writes", "B/s"};
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        uint64_t whole = all->rate[k].rate, here = part->limits.rate[k].rate;
        char share[64] = "";
        if (whole == 0)
            continue;
        if (here != whole)
            words(share, sizeof(share), ", %llu of it at this gateway", (unsigned long long)here);
        say(p, "Limit %s holds what it covers to %llu %s together%s.", part->claim->id,
            (unsigned long long)whole, units[k], share);
    }
}

static void say_limits(struct page *p, const struct stream *st, const struct entities *e)
{
    for (size_t i = 0; i < st->cover_count; i++) {
        if (st->cover[i].part != NULL)
            say_limit(p, st->cover[i].part, &st->cover[i].agreed->e.agreement.limits);
    }
    if (st->tenant_part != NULL && st->tenant >= 0)
        say_limit(p, st->tenant_part, &e->tenants[st->tenant].limits);
}

static const struct part *promise_part(const struct stream *st)
{
    for (size_t i = 0; i < st->cover_count; i++) {
        if (st->cover[i].agreed == st->agreed)
            return st->cover[i].part;
    }
    return NULL;
}

/* Of what its agreement reserves there, as last sent: reports begin to reckon anew, @reserve_fits
 * with them, before the next plan. */
static double part_fits(const struct part *p)
{
    const struct sched_terms *is = &p->planned, *all = &p->share;
    if (is->weight == 0)
        return 1;
    for (int dir = 0; dir < 2; dir++) {
        if (all->reserve_dir_iops[dir] > 0)
            return (double)is->reserve_dir_iops[dir] / (double)all->reserve_dir_iops[dir];
        if (all->reserve_dir_bytes_s[dir] > 0)
            return (double)is->reserve_dir_bytes_s[dir] / (double)all->reserve_dir_bytes_s[dir];
    }
    if (all->reserve_iops > 0)
        return (double)is->reserve_iops / (double)all->reserve_iops;
    return all->reserve_bytes_s > 0 ? (double)is->reserve_bytes_s / (double)all->reserve_bytes_s
                                    : 1;
}

static void say_scaled(struct page *p, const struct part *part, const struct storage *t,
                       const struct policy *shares_by)
{
    double fits = part_fits(part);
    if (fits >= 1)
        return;
    say(p, "Reservations at %s ask for %.0f %% of what it can do: of %.0f IOPS %.0f fit; "
        "collisions are decided by %s%s.",
        t->name, t->capacity > 0 ? 100.0 * t->reserved / t->capacity : 0.0, part->reserve,
        part->reserve * fits, shares_by != NULL ? "equal shares, as says policy " : "priority",
        shares_by != NULL ? shares_by->name : "");
}

static void say_share(struct page *p, const struct stream *st, const struct entities *e)
{
    const struct part *part = promise_part(st);
    const struct storage *t = st->storage;
    if (part == NULL || part->share.weight == 0 || t == NULL)
        return;
    const struct sched_terms *s = part->planned.weight > 0 ? &part->planned : &part->share;
    char owes[NAME_SIZE + 64];
    words(owes, sizeof(owes), "Target %s owes it, with those of its share,", t->name);
    say_reserved(p, owes, " before others", s->reserve_iops, s->reserve_dir_iops,
                 s->reserve_bytes_s, s->reserve_dir_bytes_s);
    say(p, "Of the rest of %s its share has weight %u.", t->name, s->weight);
    say_scaled(p, part, t, plan_shares_by(e->policies, e->policy_count, t));
}

static void say_stopped(struct page *p, const struct brake *b)
{
    char rates[64];
    if (b->memo_decision[0] == '\0')
        return;
    if (b->memo_to > b->memo_from - 1.0)
        words(rates, sizeof(rates), "below its %.0f IOPS", b->memo_from);
    else
        words(rates, sizeof(rates), "from %.0f to %.0f IOPS", b->memo_from, b->memo_to);
    say(p, "A throttle %s for the sake of %s was wanted and did not leave: %s%s%s.", rates,
        b->memo_victim, b->memo_decision, b->memo_policy[0] ? ", by policy " : "",
        b->memo_policy);
}

static void say_throttle(struct page *p, const struct stream *st)
{
    const struct entity_throttle *t = &st->e.throttle;
    if (t->active)
        say(p, "A planned throttle holds it to %llu IOPS, for now: %s.",
            (unsigned long long)t->iops, t->reason);
    say_stopped(p, &st->brake);
    if (st->e.held_now > 0)
        say(p, "%u of its I/Os are held now by %s, the oldest for %.1f ms.", st->e.held_now,
            st->e.held_by[0] ? st->e.held_by : "a limit", (double)st->e.oldest_held_ns / 1e6);
    if (st->e.queued_now > 0)
        say(p, "%u of its I/Os wait for their turn at the target.", st->e.queued_now);
    if (st->e.harm_ppm > 0)
        say(p, "It does %.0f %% of the load that makes another's promise fail.",
            (double)st->e.harm_ppm / 1e4);
}

static void say_policy(struct page *p, const struct policy *q)
{
    if (q->protect)
        say(p, "Policy %s: it is never throttled.", q->name);
    if (q->observe)
        say(p, "Policy %s: what is planned is recorded and not sent.", q->name);
    if (q->enforce)
        say(p, "Policy %s: plans are enforced although the server may only observe.", q->name);
    if (q->floor_iops > 0)
        say(p, "Policy %s: no throttle goes below %llu IOPS.", q->name,
            (unsigned long long)q->floor_iops);
    if (q->max_cut_ppm > 0)
        say(p, "Policy %s: no throttle cuts more than %g %% in a period.", q->name,
            (double)q->max_cut_ppm / 1e4);
    if (q->freeze_count > 0)
        say(p, "Policy %s: no new throttle in %zu windows of the week.", q->name, q->freeze_count);
}

size_t explain_stream(const struct entities *e, const struct entity_stream *entity,
                      char ret[EXPLAIN_SENTENCES][EXPLAIN_SIZE])
{
    const struct stream *st = container_of((uintptr_t)entity, const struct stream, e);
    struct page p = {.line = ret};
    say_promise(&p, st);
    say_verdict(&p, st);
    say_limits(&p, st, e);
    say_share(&p, st, e);
    say_throttle(&p, st);
    if (!e->enforcing)
        say(&p, "Enforcement is switched off: nothing is planned for anybody.");
    else if (e->observe)
        say(&p, "The server observes: what is planned is recorded and not sent, unless a policy "
                "says enforce.");
    for (size_t i = 0; i < e->policy_count; i++) {
        if (selector_match_stream(&e->policies[i].applies_to, st))
            say_policy(&p, &e->policies[i]);
    }
    return p.count;
}

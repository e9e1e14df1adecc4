/* SPDX-License-Identifier: Apache-2.0 */
/* When a stream is worth an early warning:
 *   backlog  its oldest held I/O is older than 250 ms: once, until the backlog is below that again,
 *   so that a
 *            stream that is meant to be held does not warn for ever;
 *   demand   its arrivals in the running second are already 25 % above those of the whole second
 *   before, or were
 *            25 % below when it ended; both by at least 100 I/Os, so that chance is not taken for a
 *            change.
 *   late     of its last 128 answers at least 6 were later than its objective: once, until there
 *            are fewer again;
 *   queued   an I/O has waited for its turn at the target for a quarter of the objective;
 *            likewise.
 *   new      it came within the last second, to a target with a window in force, has an I/O that
 *            waits for its turn, and no share: demand that moves here from another gateway has none
 *            until the server knows of it. Said again each 100 ms while it holds: the server drops
 *            what comes soon after another warning, as of a second volume of a host that moved.
 * One warning a stream and second (`new` beside it), one in 5 ms and gateway (one a look, in fact):
 * a warning only makes the server poll at once, so the next look is soon enough for a second
 * stream. */
#include "gateway/surge.h"

#include "base/clock.h"

#define SURGE_BACKLOG_NS   (250 * NS_PER_MS)
#define SURGE_STREAM_NS    NS_PER_S
#define SURGE_DEMAND_NS    NS_PER_S
#define SURGE_DEMAND_LEAST 100u
#define SURGE_LATE         6u
#define SURGE_NEW_NS       NS_PER_S
#define SURGE_AGAIN_NS     (100 * NS_PER_MS)

static uint64_t stream_arrivals(const struct stream *st)
{
    uint64_t n = 0;
    for (size_t op = 0; op < IO_OP_COUNT; op++)
        n += st->meter->op[op].arrivals;
    return n;
}

static bool moved_up(uint64_t from, uint64_t to)
{
    return to > from + from / 4 && to - from >= SURGE_DEMAND_LEAST;
}

static bool demand_moved(struct surge_watch *w, uint64_t arrivals, uint64_t now)
{
    uint64_t so_far = arrivals - w->at_window;
    bool over = now - w->window_ns >= SURGE_DEMAND_NS;
    bool moved =
        w->has_before && (moved_up(w->before, so_far) || (over && moved_up(so_far, w->before)));
    if (over || moved) {
        /* After a warning the count begins anew: the new level is what is compared with. */
        w->before = so_far;
        w->has_before = over;
        w->window_ns = now;
        w->at_window = arrivals;
    }
    return moved;
}

/* Oldest I/O that waits for its turn at the target, as an age. */
static uint64_t stream_waits(const struct stream *st, uint64_t now)
{
    uint64_t oldest = sched_flow_oldest_ns(&st->turn);
    return oldest < now ? now - oldest : 0;
}

/* "late", "queued" or "" : what its objective says; remembered so that it is told once. */
static const char *objective_why(struct surge_watch *w, const struct stream *st, uint64_t now)
{
    uint64_t objective = st->turn.share->terms.latency_us * NS_PER_US;
    bool late = objective > 0 && sched_flow_late_recent(&st->turn) >= SURGE_LATE;
    bool queued = objective > 0 && stream_waits(st, now) > objective / 4;
    const char *why = late && !w->late ? "late" : queued && !w->queued ? "queued" : "";
    w->late = late;
    w->queued = queued;
    return why;
}

static bool is_new(struct surge_watch *w, const struct stream *st, uint64_t now)
{
    if (now >= w->new_until_ns || now < w->new_again_ns || st->turn.share != &st->turn.own ||
        sched_flow_oldest_ns(&st->turn) >= now)
        return false;
    w->new_again_ns = now + SURGE_AGAIN_NS;
    return true;
}

void surge_known(struct surge_watch *w, const struct stream *st, uint64_t now)
{
    *w = (struct surge_watch){
        .used = true, .index = st->index, .window_ns = now, .at_window = stream_arrivals(st)};
}

const char *surge_why(struct surge_watch *w, const struct stream *st, uint64_t now)
{
    if (!w->used || w->index != st->index) {
        surge_known(w, st, now);
        if (sched_window(st->turn.own.sched) > 0)
            w->new_until_ns = now + SURGE_NEW_NS;
        return is_new(w, st, now) ? "new" : "";
    }
    uint64_t arrivals = stream_arrivals(st);
    uint64_t oldest = gate_flow_oldest_ns(&st->flow);
    bool backlog = oldest < now && now - oldest > SURGE_BACKLOG_NS;
    bool begins = backlog && !w->backlog;
    bool demand = demand_moved(w, arrivals, now);
    if (!backlog)
        w->backlog = false;
    if (w->told_ns != 0 && now - w->told_ns < SURGE_STREAM_NS)
        return "";
    w->backlog = backlog;
    const char *why = objective_why(w, st, now);
    why = begins ? "backlog" : demand ? "demand" : why;
    if (why[0] == '\0')
        return is_new(w, st, now) ? "new" : "";
    w->told_ns = now;
    return why;
}

uint64_t surge_oldest_ns(const struct stream *st, uint64_t now)
{
    uint64_t held = gate_flow_oldest_ns(&st->flow), waits = stream_waits(st, now);
    return held < now && now - held > waits ? now - held : waits;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Surge: the early warning between two polls (control.md section 3, in its simple form).
 *
 * Ten times a second the streams are looked over, SURGE_SLOTS a time. One is told of when
 *   backlog  its oldest held I/O is older than 250 ms: once, until the backlog is below that again,
 *   so that a
 *            stream that is meant to be held does not warn for ever;
 *   demand   its arrivals in the running second are already 25 % above those of the whole second
 *   before, or were
 *            25 % below when it ended; both by at least 100 I/Os, so that chance is not taken for a
 *            change.
 * One warning a stream and second, one in 5 ms and gateway (one a look, in fact): a warning only
 * makes the server poll at once, so the next look is soon enough for a second stream. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"
#include "gateway/stream.h"

#define SURGE_LOOK_NS (100 * NS_PER_MS)
#define SURGE_LEAST_NS (5 * NS_PER_MS)
#define SURGE_BACKLOG_NS (250 * NS_PER_MS)
#define SURGE_STREAM_NS NS_PER_S
#define SURGE_DEMAND_NS NS_PER_S
#define SURGE_DEMAND_LEAST 100u
#define SURGE_SLOTS 1024u

_Static_assert(SURGE_LOOK_NS >= SURGE_LEAST_NS, "one a look is at most one in 5 ms");

struct watch {
    uint32_t index;     /* of the stream this is about */
    bool used, backlog; /* backlog: told of, not yet over */
    bool has_before;
    uint64_t told_ns;
    uint64_t window_ns; /* when the running second began */
    uint64_t at_window; /* arrivals then */
    uint64_t before;    /* arrivals in the second before it */
};

struct link_surge {
    struct link *link;
    struct reactor_timer timer;
    struct watch *watch; /* by slot */
    size_t count, cursor;
};

static void surge_look(struct reactor_timer *t, uint64_t now);

struct link_surge *link_surge_new(struct link *l)
{
    struct link_surge *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NULL;
    s->link = l;
    s->timer.fire = surge_look;
    s->count = link_max_slots(l->config);
    s->watch = calloc(s->count, sizeof(*s->watch));
    if (s->watch == NULL) {
        free(s);
        return NULL;
    }
    return s;
}

void link_surge_free(struct link_surge *s)
{
    if (s == NULL)
        return;
    link_surge_stop(s);
    free(s->watch);
    free(s);
}

void link_surge_start(struct link_surge *s)
{
    for (size_t i = 0; i < s->count; i++)
        s->watch[i].used = false;
    s->cursor = 0;
    reactor_timer_set(s->link->reactor, &s->timer, reactor_now(s->link->reactor) + SURGE_LOOK_NS);
}

void link_surge_stop(struct link_surge *s)
{
    reactor_timer_clear(s->link->reactor, &s->timer);
}

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

static bool demand_moved(struct watch *w, uint64_t arrivals, uint64_t now)
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

/* "" : nothing to tell. */
static const char *surge_why(struct watch *w, const struct stream *st, uint64_t now)
{
    uint64_t arrivals = stream_arrivals(st);
    if (!w->used || w->index != st->index) {
        *w = (struct watch){
            .used = true, .index = st->index, .window_ns = now, .at_window = arrivals};
        return "";
    }
    uint64_t oldest = gate_flow_oldest_ns(&st->flow);
    bool backlog = oldest < now && now - oldest > SURGE_BACKLOG_NS;
    bool begins = backlog && !w->backlog;
    bool demand = demand_moved(w, arrivals, now);
    if (!backlog)
        w->backlog = false;
    if (w->told_ns != 0 && now - w->told_ns < SURGE_STREAM_NS)
        return "";
    w->backlog = backlog;
    return begins ? "backlog" : demand ? "demand" : "";
}

static void surge_tell(struct link_surge *s, const struct stream *st, const char *why, uint64_t now)
{
    Weir__Control__Surge m = WEIR__CONTROL__SURGE__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    m.stream = st->index;
    m.why = (char *)(uintptr_t)why;
    m.mono_ns = now;
    f.body_case = WEIR__CONTROL__FRAME__BODY_SURGE;
    f.surge = &m;
    (void)link_send(s->link, &f);
}

static void surge_look(struct reactor_timer *t, uint64_t now)
{
    struct link_surge *s = container_of(t, struct link_surge, timer);
    size_t slots = stream_slots(s->link->streams);
    weir_assert(slots <= s->count);
    reactor_timer_set(s->link->reactor, &s->timer, now + SURGE_LOOK_NS);
    for (size_t looked = 0; looked < slots && looked < SURGE_SLOTS; looked++) {
        s->cursor = s->cursor + 1 < slots ? s->cursor + 1 : 0;
        const struct stream *st = stream_at(s->link->streams, s->cursor);
        if (st == NULL)
            continue;
        const char *why = surge_why(&s->watch[s->cursor], st, now);
        if (why[0] == '\0')
            continue;
        s->watch[s->cursor].told_ns = now;
        surge_tell(s, st, why, now);
        return; /* one a look; the link may be gone */
    }
}

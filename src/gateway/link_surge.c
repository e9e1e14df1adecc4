/* SPDX-License-Identifier: Apache-2.0 */
/* The early warning between two polls: looks over the streams, SURGE_SLOTS a time, and tells of one
 * (surge.h says of which). */
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"
#include "gateway/stream.h"
#include "gateway/surge.h"

#define SURGE_SLOTS 1024u

struct link_surge {
    struct link *link;
    struct reactor_timer timer;
    struct surge_watch *watch; /* by slot */
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
    uint64_t now = reactor_now(s->link->reactor);
    for (size_t i = 0; i < s->count; i++) {
        const struct stream *st =
            i < stream_slots(s->link->streams) ? stream_at(s->link->streams, i) : NULL;
        s->watch[i].used = false;
        if (st != NULL)
            surge_known(&s->watch[i], st, now);
    }
    s->cursor = 0;
    reactor_timer_set(s->link->reactor, &s->timer, now + SURGE_LOOK_NS);
}

void link_surge_stop(struct link_surge *s)
{
    reactor_timer_clear(s->link->reactor, &s->timer);
}

static void surge_tell(struct link_surge *s, const struct stream *st, const char *why, uint64_t now)
{
    Weir__Control__Surge m = WEIR__CONTROL__SURGE__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    m.stream = st->index;
    m.why = (char *)(uintptr_t)why;
    m.mono_ns = now;
    m.oldest_ns = surge_oldest_ns(st, now);
    m.late = sched_flow_late_recent(&st->turn);
    m.demand_iops = s->watch[s->cursor].before;
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
        surge_tell(s, st, why, now);
        return; /* one a look; the link may be gone */
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The upkeep of gateways: draining one, and how its processes fare.
 *
 * Problem: people take a gateway out of service, and that must hold whatever dies, moves or comes
 * back meanwhile.
 *
 * Model: a draining is a wish with a number, kept in the database and known to every SLA process,
 * by the gateway's id. A gateway says with each whole answer which draining is in force there.
 * While the two differ, each poll says how it shall be. So nothing has to be remembered of what
 * was sent, and it does not matter which of the two was away. Nothing is said before the documents
 * are loaded: until then no wish means that it is not known. One that waits to be admitted is not
 * controlled, and is not drained either. A gateway that is drained is not forgotten however long
 * it is away: what is kept of it says that it shall stay drained.
 *
 *   wish 0,  in force 0: none          wish N, in force other: asked
 *   wish 0,  in force N: ending        wish N, in force N: draining, or drained without connections
 *
 * What is told in events is what gateways say, not what was asked of them. Deaths of workers are
 * told at most once in DEATHS_NS for a gateway, with their number; the end of a certificate in the
 * steps of base/dates.h, and once anew when the server or the gateway's record is. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/dates.h"
#include "base/err.h"
#include "server/services/state.h"

#define DEATHS_NS (UINT64_C(10) * 1000000000)

static int wish_order(const void *wish, const void *id)
{
    return strcmp(((const struct drain_wish *)wish)->id, id);
}

static size_t wish_place(const struct services *s, const char *id, bool *ret_there)
{
    return sorted_place(s->drain, s->drain_count, sizeof(s->drain[0]), id, wish_order, ret_there);
}

static int wish_put(struct services *s, const struct drain_wish *w)
{
    bool there;
    size_t at = wish_place(s, w->id, &there);
    if (!there && s->drain_count == s->drain_cap) {
        size_t cap = s->drain_cap == 0 ? 16 : 2 * s->drain_cap;
        struct drain_wish *more = reallocarray(s->drain, cap, sizeof(*more));
        if (more == NULL)
            return WEIR_E_FULL;
        s->drain = more;
        s->drain_cap = cap;
    }
    if (!there) {
        memmove(&s->drain[at + 1], &s->drain[at], (s->drain_count - at) * sizeof(s->drain[0]));
        s->drain_count++;
    }
    s->drain[at] = *w;
    return 0;
}

static void wish_remove(struct services *s, const char *id)
{
    bool there;
    size_t at = wish_place(s, id, &there);
    if (!there)
        return;
    s->drain_count--;
    memmove(&s->drain[at], &s->drain[at + 1], (s->drain_count - at) * sizeof(s->drain[0]));
}

static void upkeep_wish(const struct services *s, struct gateway *g)
{
    bool there;
    size_t at = wish_place(s, g->e.id_text, &there);
    g->e.drain_since = there ? s->drain[at].since : 0;
    g->e.drain_deadline_us = there ? s->drain[at].deadline_us : 0;
}

bool upkeep_keeps(const struct services *s, struct gateway *g)
{
    upkeep_wish(s, g);
    return g->e.drain_since != 0;
}

void upkeep_forget(struct services *s, const char *id)
{
    wish_remove(s, id);
}

void upkeep_fini(struct services *s)
{
    free(s->drain);
}

void upkeep_poll(struct services *s, struct gateway *g, struct poll_request *p)
{
    upkeep_wish(s, g);
    if (!s->loaded || g->e.waits || !g->e.has_upkeep || g->e.drain_since == g->e.drained.since)
        return;
    int64_t left_us = g->e.drain_deadline_us - s->wall_us;
    p->drain = (struct poll_drain){
        .said = true,
        .since = g->e.drain_since,
        .bounded = g->e.drain_deadline_us != 0,
        .left_ms = g->e.drain_deadline_us == 0 || left_us <= 0 ? 0 : (uint64_t)left_us / 1000,
    };
    if (p->drain.left_ms > SERVICES_DRAIN_MS_MAX)
        p->drain.left_ms = SERVICES_DRAIN_MS_MAX;
}

int services_gateway_drain(struct services *s, const char *id, uint64_t since, int64_t deadline_us,
                           uint64_t now_ns, int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    struct drain_wish w = {.since = since, .deadline_us = deadline_us};
    words(w.id, sizeof(w.id), "%s", id);
    int err = 0;
    if (since != 0)
        err = wish_put(s, &w);
    else
        wish_remove(s, w.id);
    if (err < 0)
        return err;
    list_for_each(it, &s->e.gateways) {
        struct gateway *g = container_of(it, struct gateway, e.link);
        if (strcmp(g->e.id_text, w.id) != 0)
            continue;
        upkeep_wish(s, g);
        gateway_poll_now(s, g);
        return 0;
    }
    return 0; /* it is at another process, or away */
}

static void told_drain(struct services *s, struct gateway *g, const struct report_drain *d)
{
    char subject[SUBJECT_SIZE];
    const struct report_drain *was = &g->e.drained;
    const char *name = g->e.hello.name;
    bool first = !g->e.has_upkeep, changed = !first && d->since != was->since;
    entity_gateway_subject(g, subject, sizeof(subject));
    if (changed && d->since != 0 && was->since == 0)
        note_event(s, EVENT_INFO, "gateway-draining", subject,
                   "gateway %s is drained: it takes no more hosts; %llu connections go on%s", name,
                   (unsigned long long)d->connections,
                   g->e.drain_deadline_us != 0 ? " until the deadline, busy ones beyond it" : "");
    else if (changed && d->since == 0)
        note_event(s, EVENT_INFO, "gateway-undrained", subject,
                   "gateway %s takes hosts again: %s", name,
                   g->e.drain_since != 0 ? "not by this server's word" : "it is no longer drained");
    if (changed || first)
        g->drained_said = first && d->connections == 0;
    if (d->since == 0 || d->connections > 0 || g->drained_said)
        return;
    g->drained_said = true;
    note_event(s, EVENT_INFO, "gateway-drained", subject,
               "gateway %s is drained, and no host is connected any more: it can be stopped", name);
}

static void told_life(struct services *s, struct gateway *g, const struct report_life *l)
{
    bool same = memcmp(g->life_boot, g->e.hello.boot, GATEWAY_ID_SIZE) == 0;
    uint64_t before = same ? g->e.life.deaths : 0;
    memcpy(g->life_boot, g->e.hello.boot, GATEWAY_ID_SIZE);
    if (g->e.has_upkeep && l->deaths > before)
        g->deaths_unsaid += l->deaths - before;
    if (l->deaths > 0)
        g->e.last_death_us = s->wall_us - (int64_t)l->last_death_ms * 1000;
    if (g->deaths_unsaid == 0 || (g->deaths_ns != 0 && s->now_ns - g->deaths_ns < DEATHS_NS))
        return;
    char subject[SUBJECT_SIZE], times[48] = "";
    entity_gateway_subject(g, subject, sizeof(subject));
    if (g->deaths_unsaid > 1)
        words(times, sizeof(times), " %llu times; the last time",
              (unsigned long long)g->deaths_unsaid);
    note_event(s, EVENT_WARNING, "gateway-worker-died", subject,
               "the worker of gateway %s died%s: %s; its connections were closed, and another took "
               "over (%llu deaths since it was started)",
               g->e.hello.name, times, l->last_death[0] != '\0' ? l->last_death : "no reason known",
               (unsigned long long)l->deaths);
    g->deaths_ns = s->now_ns;
    g->deaths_unsaid = 0;
}

/* One that is replaced is looked at anew. What is not over yet is told again as its end nears. */
static void told_certificate(struct services *s, struct gateway *g, const struct report_life *l)
{
    const struct report_life *was = &g->e.life;
    const struct dates d = {.from_s = l->certificate_from_s, .until_s = l->certificate_until_s};
    char subject[SUBJECT_SIZE], when[DATES_TEXT];
    int64_t now_s = s->wall_us / 1000000;
    unsigned step = dates_step(&d, now_s);
    if (was->certificate_until_s != d.until_s || was->certificate_from_s != d.from_s ||
        strcmp(was->certificate, l->certificate) != 0)
        g->certificate_said = 0;
    bool grown = step > g->certificate_said;
    g->certificate_said = step;
    if (!grown)
        return;
    entity_gateway_subject(g, subject, sizeof(subject));
    note_event(s, EVENT_WARNING,
               dates_hold(&d, now_s) ? "gateway-certificate-ends" : "gateway-certificate-invalid",
               subject,
               "gateway %s: the certificate of [%s] in its gateway.conf: %s; put a new one in its "
               "place and reload the gateway",
               g->e.hello.name, l->certificate, dates_words(&d, now_s, when, sizeof(when)));
}

void upkeep_report(struct services *s, struct gateway *g, const struct report *r)
{
    weir_assert(!r->more);
    if (!r->has_upkeep)
        return;
    upkeep_wish(s, g);
    told_drain(s, g, &r->drain);
    told_life(s, g, &r->life);
    told_certificate(s, g, &r->life);
    g->e.drained = r->drain;
    g->e.life = r->life;
    g->e.has_upkeep = true;
}

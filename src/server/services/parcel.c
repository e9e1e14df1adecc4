/* SPDX-License-Identifier: Apache-2.0 */
/* A gateway on its way from one SLA process to another.
 *
 * Problem: when a gateway changes its SLA process no counter may be lost or counted twice, no
 * control forgotten, and no promise judged from nothing.
 *
 * Model: everything known of a gateway hangs on its struct: streams with cumulative counters, what
 * was gathered of the running window, verdict runs, throttles; targets; the controls it was sent.
 * Export takes that struct out of the tables of one process as it is, import puts it into those of
 * another: nothing is copied, so nothing can be copied twice. What refers to documents of a process
 * is found anew there by name.
 *
 * Invariants:
 *  1. Counters: a report is compared with the last one merged, wherever that was. The caller sees
 *     to it that reports reach the exporting process before the export and the importing one after
 *     the import.
 *  2. Epochs only grow for a gateway: import raises this process's epoch to that of the parcel.
 *  3. Its part of limits that span processes travels with it (quota.c), so that it may go on, and
 *     what of all limits may be in force there (settle.c).
 *  4. Controls: what the gateway was sent travels along, so the next dispatch sends exactly the
 *     differences; one that waits for an acknowledgement or a retry goes on waiting.
 *  5. Verdict runs and compliance windows of single streams go on when the same version of the
 *     agreement is in force here. What an agreement judges of a group stays with each process.
 *  6. What people said meanwhile reaches it: documents and the enforcement switch are those of the
 *     importing process, and one that was retired while it travelled, or admitted (admitted.c), is
 *     so on arrival. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/state.h"

static size_t objective_place(const struct agreed *a, const struct objective *o)
{
    return o != NULL ? (size_t)(o - a->e.agreement.objective) : AGREEMENT_MAX_OBJECTIVES;
}

static const struct objective *objective_at(const struct agreed *a, size_t place)
{
    return place < a->e.agreement.objective_count ? &a->e.agreement.objective[place] : NULL;
}

static void promise_keep(struct stream *st)
{
    st->kept.agreement[0] = '\0';
    if (st->agreed == NULL)
        return;
    const struct agreement *a = &st->agreed->e.agreement;
    words(st->kept.agreement, sizeof(st->kept.agreement), "%s", a->name);
    st->kept.version = a->version;
    st->kept.judged_latency_us = st->e.judged_latency_us;
    st->kept.verdict = st->e.verdict;
    st->kept.verdict_since_ns = st->e.verdict_since_ns;
    st->kept.objective = objective_place(st->agreed, st->e.objective);
    st->kept.unit_objective = a->per == AGREEMENT_PER_STREAM
                                  ? objective_place(st->agreed, st->unit.objective)
                                  : AGREEMENT_MAX_OBJECTIVES;
    st->kept.unit = st->unit;
}

static void promise_resume(struct stream *st)
{
    if (st->agreed == NULL || st->kept.agreement[0] == '\0')
        return;
    const struct agreement *a = &st->agreed->e.agreement;
    if (strcmp(a->name, st->kept.agreement) != 0 || a->version != st->kept.version)
        return;
    st->unit = st->kept.unit;
    st->unit.objective = objective_at(st->agreed, st->kept.unit_objective);
    st->e.objective = objective_at(st->agreed, st->kept.objective);
    st->e.judged_latency_us = st->kept.judged_latency_us;
    st->e.verdict = st->kept.verdict;
    st->e.verdict_since_ns = st->kept.verdict_since_ns;
}

struct gateway_parcel *services_gateway_export(struct services *s,
                                               const uint8_t id[GATEWAY_ID_SIZE], uint64_t now_ns,
                                               int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    struct gateway *g = entity_gateway_by_id(s, id);
    if (g == NULL)
        return NULL;
    list_for_each(it, &g->streams) promise_keep(container_of(it, struct stream, in_gateway));
    quota_export(s, g);
    settle_export(g);
    entity_gateway_take_out(s, g);
    g->parcel_epoch = s->epoch;
    return (struct gateway_parcel *)g;
}

/* By routing there is none, but for one recalled from the database. */
static void clear_place(struct services *s, const uint8_t id[GATEWAY_ID_SIZE])
{
    struct gateway *other = entity_gateway_by_id(s, id);
    if (other == NULL)
        return;
    if (other->e.live) {
        s->sink.session_end(s->sink.ctx, other->e.hello.session, other->e.hello.pair,
                            "this gateway came from another SLA process");
        entity_gateway_detach(s, other);
    }
    entity_gateway_free(s, other);
}

static bool said_meanwhile(const struct services *s, const struct gateway *g,
                           enum parcel_order order)
{
    for (size_t i = 0; i < PARCEL_ORDERS; i++) {
        const struct parcel_note *n = &s->order[i];
        if (n->order == order && s->now_ns - n->at_ns < PARCEL_ORDER_NS &&
            (strcmp(n->name, g->e.hello.name) == 0 || strcmp(n->name, g->e.id_text) == 0))
            return true;
    }
    return false;
}

void services_gateway_import(struct services *s, struct gateway_parcel *p, uint16_t pair,
                             uint32_t subgroup, uint64_t now_ns, int64_t wall_us)
{
    struct gateway *g = (struct gateway *)p;
    services_at(s, now_ns, wall_us);
    clear_place(s, g->e.hello.id);
    if (s->e.gateway_count >= s->config.max_gateways)
        services_make_room(s);
    entity_gateway_put_in(s, g);
    quota_import(s, g);
    g->e.hello.pair = pair;
    g->e.hello.subgroup = subgroup;
    g->mark = 0;
    g->generation = s->generation - 1; /* look what differs */
    if (g->parcel_epoch > s->epoch)
        s->epoch = g->parcel_epoch;
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        select_stream(s, st);
        promise_resume(st);
        if (st->brake.rate > 0 && !s->e.enforcing)
            throttle_lift(s, st, "enforcement is switched off", "enforcement-off");
    }
    if (!g->send_full)
        settle_forget(g);
    heap_set(s, g, g->due_ns);
    s->sink.gateway(s->sink.ctx, &g->e); /* which process has it is written down */
    if (said_meanwhile(s, g, PARCEL_RETIRE)) {
        services_retire(s, g, "retired by an administrator");
        return;
    }
    if (g->e.waits && admitted_is(s, g->e.hello.id))
        services_admit(s, g, "admitted by an administrator");
    dispatch_gateway(s, g);
}

void services_parcel_free(struct gateway_parcel *p)
{
    struct gateway *g = (struct gateway *)p;
    if (g == NULL)
        return;
    list_for_each_safe(it, &g->streams)
    {
        struct stream *st = container_of(it, struct stream, in_gateway);
        merge_fini(st);
        free(st);
    }
    list_for_each_safe(it, &g->targets) free(container_of(it, struct target, link));
    settle_forget(g);
    free(g->sent);
    free(g->carried);
    free(g);
}

void services_gateway_forget(struct services *s, const uint8_t id[GATEWAY_ID_SIZE])
{
    struct gateway *g = entity_gateway_by_id(s, id);
    if (g != NULL && !g->e.live)
        entity_gateway_free(s, g);
}

void parcel_order(struct services *s, const char *name, enum parcel_order order)
{
    for (size_t i = 0; i < PARCEL_ORDERS; i++) {
        if (strcmp(s->order[i].name, name) == 0)
            s->order[i].order = PARCEL_NOTHING;
    }
    if (order == PARCEL_NOTHING)
        return;
    struct parcel_note *n = &s->order[s->order_next++ % PARCEL_ORDERS];
    words(n->name, sizeof(n->name), "%s", name);
    n->order = order;
    n->at_ns = s->now_ns;
}

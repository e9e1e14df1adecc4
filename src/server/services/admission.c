/* SPDX-License-Identifier: Apache-2.0 */
/* Admission.
 *
 * Problem: a promise that the storage cannot carry is broken from its first busy hour on, and takes
 * others with it. Who makes it should hear so before, with the numbers, and who holds what; and
 * may do it all the same.
 *
 * Model: at each storage where the agreement would make the promise of some stream, its
 * reservations in device time (the planner's units and margins, plan.c), and those of all others,
 * may together take ADMISSION_SHARE of the most useful parallelism that its gateways found. What a
 * group reserves is divided over storages by demand, or by its streams while they ask for
 * nothing. Streams that the agreement would take over from another one no longer count for that
 * one when its numbers hold for each stream.
 *
 * Invariants: (1) nothing is refused for a storage whose capacity nobody knows, nor where no
 * stream of the agreement is: then there is nothing to reckon with; (2) an agreement that asks no
 * more than it has already is not refused, so that others of its fields can be changed while the
 * storage is overcommitted. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/admission.h"
#include "server/services/state.h"

#define SIZE_ASSUMED 65536.0 /* bytes of an I/O of which none was seen */

static bool goes_before(const struct agreement *a, const struct agreement *b)
{
    if (a->fallback != b->fallback)
        return b->fallback;
    unsigned ra = precedence_rank(&a->applies_to), rb = precedence_rank(&b->applies_to);
    return ra != rb ? ra > rb : strcmp(a->name, b->name) < 0;
}

/* Whether the promise to @st would be this agreement's. */
static bool would_promise(const struct agreement *a, const struct stream *st)
{
    if (st->storage == NULL || !selector_match_stream(&a->applies_to, st))
        return false;
    if (st->agreed == NULL)
        return true;
    const struct agreement *now = &st->agreed->e.agreement;
    return strcmp(now->name, a->name) == 0 || !precedence_speaks(now) || goes_before(a, now);
}

static void sum_stream(struct services *s, const struct agreement *a, const struct stream *st)
{
    struct storage *t = st->storage;
    double demand = (double)st->e.window.demand_iops;
    uint64_t ios = 0, bytes = 0;
    if (t->ask.walk != s->walk)
        memset(&t->ask, 0, sizeof(t->ask));
    t->ask.walk = s->walk;
    for (uint32_t op = 0; op < IO_OP_COUNT; op++) {
        ios += st->e.now.op[op].completions;
        bytes += st->e.now.op[op].bytes;
    }
    t->ask.streams++;
    t->ask.demand += demand;
    t->ask.cost_ns += (double)st->e.cost_served_ns;
    t->ask.ios += (double)ios;
    t->ask.bytes += (double)bytes;
    double size = ios > 0 && bytes > 0 ? (double)bytes / (double)ios : SIZE_ASSUMED;
    if (a->per == AGREEMENT_PER_STREAM)
        t->ask.iops += plan_reserve(a, demand, size);
    if (st->agreed == NULL || st->agreed->e.agreement.per != AGREEMENT_PER_STREAM ||
        strcmp(st->agreed->e.agreement.name, a->name) == 0)
        return;
    for (size_t i = 0; i < st->cover_count; i++) { /* it is no longer that agreement's */
        const struct part *p = st->cover[i].part;
        if (st->cover[i].agreed == st->agreed && p != NULL && p->promised > 0)
            t->ask.taken += p->reserve * plan_io_cost(p) / p->promised;
    }
}

/* What every agreement holds at @t; returns the sum of all but @a's. */
static double holders(struct services *s, const struct storage *t, const struct agreement *a,
                      struct admission_target *ret)
{
    double sum = 0;
    list_for_each(it, &s->e.agreements) {
        struct agreed *one = container_of(it, struct agreed, e.link);
        one->holds = 0;
    }
    list_for_each(it, &s->claims) {
        struct claim *c = container_of(it, struct claim, link);
        double most = 0;
        if (c->agreed == NULL || !precedence_speaks(&c->agreed->e.agreement))
            continue;
        list_for_each(at, &c->parts) { /* each says the whole of it at its storage */
            const struct part *p = container_of(at, struct part, in_claim);
            if (p->target != NULL && p->target->storage == t && p->promised > 0)
                most = fmax(most, p->reserve * plan_io_cost(p));
        }
        c->agreed->holds += most;
    }
    list_for_each(it, &s->e.agreements) {
        const struct agreed *one = container_of(it, struct agreed, e.link);
        double holds = one->holds / 1e9;
        if (strcmp(one->e.agreement.name, a->name) == 0) {
            ret->had = holds;
            continue;
        }
        sum += holds;
        size_t at = ret->holder_count;
        while (at > 0 && ret->holder[at - 1].holds < holds)
            at--;
        if (holds <= 0 || at >= ADMISSION_HOLDERS)
            continue;
        size_t last = ret->holder_count < ADMISSION_HOLDERS ? ret->holder_count++
                                                            : ADMISSION_HOLDERS - 1;
        memmove(&ret->holder[at + 1], &ret->holder[at],
                (last - at) * sizeof(ret->holder[0]));
        ret->holder[at].holds = holds;
        memcpy(ret->holder[at].agreement, one->e.agreement.name, NAME_SIZE);
    }
    return sum;
}

static double cost_of_one(const struct storage *t)
{
    if (t->ask.ios > 0 && t->ask.cost_ns > 0)
        return t->ask.cost_ns / t->ask.ios;
    list_for_each(it, &t->targets) {
        const struct target *one = container_of(it, struct target, in_storage);
        if (cost_is_set(&one->cost))
            return (double)one->cost.base_ns[IO_DIR_READ] + (double)one->cost.page_ns[IO_DIR_READ];
    }
    struct cost_model m = cost_default();
    return (double)m.base_ns[IO_DIR_READ] + (double)m.page_ns[IO_DIR_READ];
}

static void storage_admit(struct services *s, struct storage *t, const struct agreement *a,
                          double demand, size_t streams, struct admission_target *ret)
{
    *ret = (struct admission_target){.capacity = plan_capacity(t) / 1e9};
    memcpy(ret->name, t->name, NAME_SIZE);
    double cost = cost_of_one(t) / 1e9;
    double size = t->ask.ios > 0 && t->ask.bytes > 0 ? t->ask.bytes / t->ask.ios : SIZE_ASSUMED;
    double part = demand > 0 ? t->ask.demand / demand : (double)t->ask.streams / (double)streams;
    double iops =
        a->per == AGREEMENT_PER_STREAM ? t->ask.iops : part * plan_reserve(a, demand, size);
    ret->held = fmax(0, holders(s, t, a, ret) - t->ask.taken / 1e9);
    ret->asked = iops * cost;
    ret->asked_iops = (uint64_t)llround(iops);
    double room = fmax(0, ADMISSION_SHARE * ret->capacity - ret->held);
    ret->largest_iops = (uint64_t)(room / cost);
    ret->fits = ret->capacity <= 0 || ret->asked <= room || ret->asked <= ret->had * 1.001;
}

static void keep(struct admission *all, const struct admission_target *one)
{
    all->refused += !one->fits;
    if (all->count < ADMISSION_TARGETS) {
        all->target[all->count++] = *one;
        return;
    }
    for (size_t i = 0; !one->fits && i < all->count; i++) {
        if (!all->target[i].fits)
            continue;
        all->target[i] = *one;
        return;
    }
}

void services_admission(struct services *s, const struct agreement *a, struct admission *ret,
                        uint64_t now_ns, int64_t wall_us)
{
    double demand = 0;
    size_t streams = 0;
    services_at(s, now_ns, wall_us);
    memset(ret, 0, sizeof(*ret));
    s->walk++;
    list_for_each(it, &s->e.streams) {
        const struct stream *st = container_of(it, struct stream, e.link);
        if (!would_promise(a, st))
            continue;
        sum_stream(s, a, st);
        demand += (double)st->e.window.demand_iops;
        streams++;
    }
    list_for_each(it, &s->storages) {
        struct storage *t = container_of(it, struct storage, link);
        struct admission_target one;
        if (streams == 0 || t->ask.walk != s->walk)
            continue;
        storage_admit(s, t, a, demand, streams, &one);
        if (one.asked > 0)
            keep(ret, &one);
    }
}

void services_admission_say(struct services *s, const struct agreement *a,
                            const struct admission *found, const char *forced_by)
{
    char subject[SUBJECT_SIZE];
    words(subject, sizeof(subject), "agreement/%s", a->name);
    for (size_t i = 0; i < found->count; i++) {
        const struct admission_target *t = &found->target[i];
        if (t->fits)
            continue;
        note_event(s, EVENT_WARNING, forced_by != NULL ? "agreement-forced" : "agreement-refused",
                   subject,
                   "%llu IOPS for agreement %s are %.2f of the %.2f I/Os at once that %s can do; "
                   "%.2f are reserved, and %llu IOPS would fit: %s%s",
                   (unsigned long long)t->asked_iops, a->name, t->asked, t->capacity, t->name,
                   t->held, (unsigned long long)t->largest_iops,
                   forced_by != NULL ? "the risk was taken by " : "refused",
                   forced_by != NULL ? forced_by : "");
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Victims and bullies at one storage, over all its gateways.
 *
 * Model. A victim is a stream within its contract whose verdict is failing, for reasons other than
 * its own limits. A bully is a stream of the same storage with load beyond its contract; a stream
 * without a contract has all its load beyond it. Load is counted in cost units: one for each I/O
 * and one for each 64 KiB, so that large I/Os weigh by their length. Members of the victim's own
 * group are never its bullies: what they do to each other is within one promise.
 *
 * The harm of a bully is its surplus over the target's whole load, so shares never sum to more
 * than 1. Order: those who get more than they were promised (excess, or no contract) by surplus,
 * then those who suffer themselves (exempt) by surplus. */
#include "base/assert.h"
#include "server/services/state.h"

#define COST_BYTES 65536.0
/* Less than this part of the load is nobody's fault. */
#define HARM_MIN_PPM 20000u

double scene_cost(const struct stream *st)
{
    const struct entity_window *w = &st->e.window;
    return (double)w->iops + (double)(w->read_bytes_s + w->write_bytes_s) / COST_BYTES;
}

uint32_t scene_harm_ppm(const struct scene *sc, const struct bully *b)
{
    if (sc->total <= 0)
        return 0;
    double share = b->surplus / sc->total;
    return share >= 1.0 ? 1000000u : (uint32_t)(share * 1e6);
}

double stream_mean_bytes(const struct stream *st)
{
    const struct entity_window *w = &st->e.window;
    return w->iops > 0 ? (double)(w->read_bytes_s + w->write_bytes_s) / (double)w->iops : 0;
}

static bool has_contract(const struct stream *st)
{
    return st->agreed != NULL && analyzer_promises(&st->agreed->e.agreement);
}

static void look_at_promise(struct scene *sc, struct stream *st)
{
    if (!has_contract(st) || st->e.window.duration_ns == 0)
        return;
    switch (st->e.verdict) {
    case VERDICT_FAILING:
        sc->anybody = true;
        if (st->unit.ratio > sc->pressure)
            sc->pressure = st->unit.ratio;
        /* In a group that fails as a whole, those whose own ratio is good are not the victims. */
        if (st->unit.ratio > 1.0 && (sc->victim == NULL || st->unit.ratio > sc->ratio)) {
            sc->victim = st;
            sc->ratio = st->unit.ratio;
        }
        break;
    case VERDICT_MET:
        sc->anybody = true;
        if (st->unit.ratio > sc->pressure)
            sc->pressure = st->unit.ratio;
        break;
    case VERDICT_NONE:
        sc->anybody = true; /* too little seen to tell */
        break;
    case VERDICT_EXEMPT:
    case VERDICT_EXCESS:
    case VERDICT_IDLE:
        break;
    }
}

/* Load beyond the contract. */
static double surplus_of(const struct stream *st)
{
    double cost = scene_cost(st);
    if (!has_contract(st))
        return cost;
    if (st->e.verdict != VERDICT_EXCESS && st->e.verdict != VERDICT_EXEMPT)
        return 0;
    const struct agreement *a = &st->agreed->e.agreement;
    double contract = (double)analyzer_contract_iops(a), iops = (double)st->e.window.iops;
    /* A group's contract is shared out by what each member gets now. */
    double all = a->per == AGREEMENT_PER_GROUP ? (double)st->agreed->unit.iops : iops;
    double within = all > 0 ? contract / all : 0;
    uint64_t bytes_s = st->e.window.read_bytes_s + st->e.window.write_bytes_s;
    if (a->per == AGREEMENT_PER_STREAM && bytes_s > 0 &&
        (double)analyzer_contract_bytes_s(a) / (double)bytes_s > within)
        within = (double)analyzer_contract_bytes_s(a) / (double)bytes_s;
    return all > 0 && within < 1.0 ? cost * (1.0 - within) : 0;
}

static bool goes_before(const struct bully *a, const struct bully *b)
{
    if (a->exempt != b->exempt)
        return b->exempt;
    return a->surplus > b->surplus;
}

static void bully_add(struct scene *sc, const struct bully *b)
{
    size_t at = sc->bully_count;
    while (at > 0 && goes_before(b, &sc->bully[at - 1]))
        at--;
    if (at == SCENE_MAX_BULLIES)
        return;
    size_t last = sc->bully_count < SCENE_MAX_BULLIES ? sc->bully_count++ : SCENE_MAX_BULLIES - 1;
    for (size_t i = last; i > at; i--)
        sc->bully[i] = sc->bully[i - 1];
    sc->bully[at] = *b;
}

void scene_look(struct scene *sc, struct storage *t)
{
    *sc = (struct scene){.victim = NULL};
    list_for_each(it, &t->streams) {
        struct stream *st = container_of(it, struct stream, in_storage);
        st->e.harm_ppm = 0;
        sc->total += scene_cost(st);
        sc->surplus += surplus_of(st);
        look_at_promise(sc, st);
    }
    if (sc->victim == NULL)
        return;
    const struct agreed *own = sc->victim->agreed;
    bool group = own->e.agreement.per == AGREEMENT_PER_GROUP;
    list_for_each(it, &t->streams) {
        struct stream *st = container_of(it, struct stream, in_storage);
        if (st == sc->victim || (group && st->agreed == own) || st->gateway->e.waits)
            continue;
        struct bully b = {.st = st, .surplus = surplus_of(st)};
        b.exempt = has_contract(st) && st->e.verdict == VERDICT_EXEMPT;
        if (b.surplus <= 0 || scene_harm_ppm(sc, &b) < HARM_MIN_PPM)
            continue;
        st->e.harm_ppm = scene_harm_ppm(sc, &b);
        bully_add(sc, &b);
    }
    for (size_t i = 0; i < sc->bully_count; i++)
        sc->bullies_cost += scene_cost(sc->bully[i].st);
    weir_assert(sc->bully_count <= SCENE_MAX_BULLIES);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The problem. Gateways come in any order and say only later, and now and then differently, which
 * storage they stand before. Those that share some must end at one SLA process; all of them shall
 * be spread evenly; and each change is a move that costs something.
 *
 * The model. A bipartite graph of gateways and names of storage; a subgroup is a connected part of
 * it. A gateway that says more than before joins subgroups: the smaller takes the place of the
 * larger. One that says less may part its subgroup: the part is searched again, and what fell off
 * becomes a subgroup of its own, which stays where it is until loads say otherwise.
 *
 * A subgroup has one place, which is where its members shall be (`wanted`); a gateway knows where
 * it is. Those that are elsewhere are in `astray`. Moving them is not done here.
 *
 * Balance. The load of a process is the sum of its subgroups'. While the busiest and the idlest
 * process differ by more than a quarter of the mean, the subgroup of the busiest whose load comes
 * nearest to half the difference, and is less than the difference, changes places: each such step
 * lowers the larger of the two, so it ends. A subgroup that was moved so rests ROUTE_REST_NS.
 *
 * Invariants.
 *  1. Two gateways with a name in common are in one subgroup; a subgroup is connected.
 *  2. Every subgroup's place fits (route_fits).
 *  3. A gateway is in `astray` exactly while it is not where it shall be and does not move.
 *  4. The loads of places are the sums of the loads of the gateways whose subgroup is there. */
#include "server/monitor/route.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/assert.h"
#include "server/threads.h"

/* A gateway that has said nothing yet weighs as much as an idle one. */
#define LOAD_LEAST 1u

struct target;

/* One edge: a gateway says it stands before a target. */
struct edge {
    struct entry *gateway;
    struct target *target;
    struct list in_gateway, in_target;
    bool said; /* by the announcement that is being taken */
};

struct target {
    UT_hash_handle hh;
    uint64_t hash;
    struct list edges;
};

struct entry {
    struct route_gateway g; /* first */
    UT_hash_handle hh;
    struct list edges, in_group, astray, in_all;
    uint64_t visit;
};

struct route_group {
    uint32_t number;
    struct route_place place;
    struct list members, in_all;
    size_t count;
    uint64_t load, moved_ns;
    bool moved;
};

struct route {
    size_t pairs, processes, max_gateways, count, group_count, moving;
    struct entry *by_id;
    struct target *targets;
    struct list groups, astray, all;
    uint64_t load[THREADS_MAX_SERVICES], pair_load[THREADS_MAX_PAIRS];
    bool still[THREADS_MAX_SERVICES]; /* newcomers go elsewhere */
    uint32_t last_group;
    uint64_t visit;
};

static struct entry *entry_of(struct route_gateway *g)
{
    return container_of(g, struct entry, g);
}

struct route *route_new(size_t pairs, size_t processes, size_t max_gateways)
{
    weir_assert(pairs > 0 && pairs <= THREADS_MAX_PAIRS);
    weir_assert(processes > 0 && processes <= THREADS_MAX_SERVICES);
    struct route *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return NULL;
    r->pairs = pairs;
    r->processes = processes;
    r->max_gateways = max_gateways;
    list_init(&r->groups);
    list_init(&r->astray);
    list_init(&r->all);
    return r;
}

/* --- places --------------------------------------------------------------------------------- */

bool route_fits(const struct route *r, struct route_place p)
{
    if (p.pair >= r->pairs || p.process >= r->processes)
        return false;
    return r->processes >= r->pairs ? p.process % r->pairs == p.pair
                                    : p.pair % r->processes == p.process;
}

/* The pair with least to do of those that go with @process. */
static struct route_place place_of(const struct route *r, size_t process)
{
    struct route_place best = {.pair = (uint16_t)(process % r->pairs),
                               .process = (uint16_t)process};
    for (size_t p = process; p < r->pairs; p += r->processes) {
        if (r->pair_load[p] < r->pair_load[best.pair])
            best.pair = (uint16_t)p;
    }
    weir_assert(route_fits(r, best));
    return best;
}

static size_t idlest(const struct route *r, const bool *busy)
{
    size_t best = r->processes;
    for (size_t i = 0; i < r->processes; i++) {
        if ((busy == NULL || !busy[i]) && (best == r->processes || r->load[i] < r->load[best]))
            best = i;
    }
    return best;
}

/* For a newcomer: where all stand still it goes to the idlest of them. */
static size_t newcomers(const struct route *r)
{
    size_t best = idlest(r, r->still);
    return best < r->processes ? best : idlest(r, NULL);
}

void route_still(struct route *r, const bool *still)
{
    memcpy(r->still, still, sizeof(r->still));
}

static void load_add(struct route *r, struct route_place p, uint64_t load)
{
    r->load[p.process] += load;
    r->pair_load[p.pair] += load;
}

static void load_take(struct route *r, struct route_place p, uint64_t load)
{
    weir_assert(r->load[p.process] >= load);
    weir_assert(r->pair_load[p.pair] >= load);
    r->load[p.process] -= load;
    r->pair_load[p.pair] -= load;
}

static bool same_place(struct route_place a, struct route_place b)
{
    return a.pair == b.pair && a.process == b.process;
}

/* Invariant 3. */
static void astray_check(struct route *r, struct entry *e)
{
    bool astray = !e->g.moving && !same_place(e->g.place, e->g.group->place);
    if (astray == list_linked(&e->astray))
        return;
    if (astray)
        list_push_back(&r->astray, &e->astray);
    else
        list_remove(&e->astray);
}

/* --- subgroups ------------------------------------------------------------------------------ */

static struct route_group *group_new(struct route *r, struct route_place place)
{
    struct route_group *group = calloc(1, sizeof(*group));
    if (group == NULL)
        return NULL;
    group->number = ++r->last_group;
    group->place = place;
    list_init(&group->members);
    list_push_back(&r->groups, &group->in_all);
    r->group_count++;
    return group;
}

static void group_put(struct route *r, struct route_group *group, struct entry *e)
{
    e->g.group = group;
    list_push_back(&group->members, &e->in_group);
    group->count++;
    group->load += e->g.load;
    load_add(r, group->place, e->g.load);
    astray_check(r, e);
}

static void group_drop(struct route *r, struct entry *e)
{
    struct route_group *group = e->g.group;
    list_remove(&e->in_group);
    group->count--;
    group->load -= e->g.load;
    load_take(r, group->place, e->g.load);
    e->g.group = NULL;
    if (group->count > 0)
        return;
    list_remove(&group->in_all);
    r->group_count--;
    free(group);
}

static void group_place(struct route *r, struct route_group *group, struct route_place place)
{
    load_take(r, group->place, group->load);
    group->place = place;
    load_add(r, place, group->load);
    list_for_each(l, &group->members) astray_check(r, container_of(l, struct entry, in_group));
}

/* The smaller goes into the larger. */
static void group_join(struct route *r, struct route_group *a, struct route_group *b)
{
    if (a == b)
        return;
    struct route_group *into = a->count >= b->count ? a : b, *from = into == a ? b : a;
    for (size_t n = from->count; n > 0; n--) {
        struct entry *e = container_of(from->members.next, struct entry, in_group);
        group_drop(r, e); /* frees @from with its last */
        group_put(r, into, e);
    }
}

/* All that can be reached from @seed goes into @into; they were in `from`. A list is the queue. */
static void flood(struct route *r, struct entry *seed, struct route_group *into)
{
    uint64_t visit = ++r->visit;
    struct list queue;
    list_init(&queue);
    seed->visit = visit;
    list_remove(&seed->in_all);
    list_push_back(&queue, &seed->in_all);
    for (struct list *l; (l = list_pop_front(&queue)) != NULL;) {
        struct entry *e = container_of(l, struct entry, in_all);
        list_push_back(&r->all, &e->in_all);
        if (e->g.group != into) {
            group_drop(r, e);
            group_put(r, into, e);
        }
        list_for_each(k, &e->edges)
        {
            const struct target *t = container_of(k, struct edge, in_gateway)->target;
            list_for_each(m, &t->edges)
            {
                struct entry *other = container_of(m, struct edge, in_target)->gateway;
                if (other->visit == visit)
                    continue;
                other->visit = visit;
                list_remove(&other->in_all);
                list_push_back(&queue, &other->in_all);
            }
        }
    }
}

/* @g lost an edge: what hangs on each former neighbour and on @g may be apart now. Parts that are
 * cut off become subgroups at the place where they are. No memory: they stay together, which is
 * only less free. */
static void group_part(struct route *r, struct route_group *group)
{
    while (group->count > 1) {
        size_t before = group->count;
        uint32_t number = group->number;
        struct route_group *part = group_new(r, group->place);
        if (part == NULL)
            return;
        struct entry *seed = container_of(group->members.next, struct entry, in_group);
        part->moved_ns = group->moved_ns;
        part->moved = group->moved;
        flood(r, seed, part); /* may free @group */
        if (part->count == before) {
            part->number = number; /* it hangs together still */
            return;
        }
    }
}

/* --- the graph ------------------------------------------------------------------------------ */

static struct target *target_get(struct route *r, uint64_t hash)
{
    struct target *t = NULL;
    HASH_FIND(hh, r->targets, &hash, sizeof(hash), t);
    if (t != NULL)
        return t;
    t = calloc(1, sizeof(*t));
    if (t == NULL)
        return NULL;
    t->hash = hash;
    list_init(&t->edges);
    HASH_ADD(hh, r->targets, hash, sizeof(t->hash), t);
    return t;
}

static void edge_free(struct route *r, struct edge *e)
{
    struct target *t = e->target;
    list_remove(&e->in_gateway);
    list_remove(&e->in_target);
    free(e);
    if (!list_empty(&t->edges))
        return;
    HASH_DELETE(hh, r->targets, t);
    free(t);
}

static struct edge *edge_find(struct entry *e, uint64_t hash)
{
    list_for_each(l, &e->edges)
    {
        struct edge *edge = container_of(l, struct edge, in_gateway);
        if (edge->target->hash == hash)
            return edge;
    }
    return NULL;
}

/* Without memory the edge is missing until the gateway says it again. */
static void edge_add(struct route *r, struct entry *e, uint64_t hash)
{
    struct edge *edge = calloc(1, sizeof(*edge));
    struct target *t = edge != NULL ? target_get(r, hash) : NULL;
    if (t == NULL) {
        free(edge);
        return;
    }
    struct entry *other = list_empty(&t->edges)
                              ? NULL
                              : container_of(t->edges.next, struct edge, in_target)->gateway;
    edge->gateway = e;
    edge->target = t;
    edge->said = true;
    list_push_back(&e->edges, &edge->in_gateway);
    list_push_back(&t->edges, &edge->in_target);
    if (other != NULL)
        group_join(r, other->g.group, e->g.group);
}

void route_targets(struct route *r, struct route_gateway *g, const uint64_t *target, size_t n)
{
    struct entry *e = entry_of(g);
    bool lost = false;
    list_for_each(l, &e->edges) container_of(l, struct edge, in_gateway)->said = false;
    for (size_t i = 0; i < n && i < ROUTE_TARGETS_MAX; i++) {
        struct edge *edge = edge_find(e, target[i]);
        if (edge != NULL)
            edge->said = true;
        else
            edge_add(r, e, target[i]);
    }
    list_for_each_safe(l, &e->edges)
    {
        struct edge *edge = container_of(l, struct edge, in_gateway);
        if (edge->said)
            continue;
        lost = true;
        edge_free(r, edge);
    }
    if (lost)
        group_part(r, g->group);
}

/* --- gateways ------------------------------------------------------------------------------- */

struct route_gateway *route_find(const struct route *r, const uint8_t id[GATEWAY_ID_SIZE])
{
    struct entry *e = NULL;
    HASH_FIND(hh, r->by_id, id, GATEWAY_ID_SIZE, e);
    return e != NULL ? &e->g : NULL;
}

static void entry_free(struct route *r, struct entry *e)
{
    struct route_group *group = e->g.group;
    /* Nobody is reached only through a gateway that stands before one target. */
    bool parts = group->count > 1 && e->edges.next != e->edges.prev;
    list_for_each_safe(l, &e->edges) edge_free(r, container_of(l, struct edge, in_gateway));
    group_drop(r, e);
    list_remove(&e->in_all);
    if (list_linked(&e->astray))
        list_remove(&e->astray);
    HASH_DELETE(hh, r->by_id, e);
    r->count--;
    free(e->g.name);
    free(e);
    if (parts)
        group_part(r, group);
}

/* The one without sessions that has been here longest. */
static bool make_room(struct route *r, struct route_evicted *ret)
{
    list_for_each(l, &r->all)
    {
        struct entry *e = container_of(l, struct entry, in_all);
        if (e->g.sessions > 0 || e->g.moving)
            continue;
        if (ret != NULL) {
            ret->any = true;
            ret->process = e->g.place.process;
            memcpy(ret->id, e->g.id, sizeof(ret->id));
        }
        entry_free(r, e);
        return true;
    }
    return false;
}

struct route_gateway *route_add(struct route *r, const uint8_t id[GATEWAY_ID_SIZE],
                                const char *name, int at, struct route_evicted *ret_evicted)
{
    struct route_gateway *known = route_find(r, id);
    if (ret_evicted != NULL)
        ret_evicted->any = false;
    if (known != NULL)
        return known;
    if (r->count >= r->max_gateways && !make_room(r, ret_evicted))
        return NULL;
    size_t process = at >= 0 && (size_t)at < r->processes ? (size_t)at : newcomers(r);
    struct entry *e = calloc(1, sizeof(*e));
    char *copy = e != NULL ? strdup(name) : NULL;
    struct route_group *group = copy != NULL ? group_new(r, place_of(r, process)) : NULL;
    if (group == NULL) {
        free(copy);
        free(e);
        return NULL;
    }
    memcpy(e->g.id, id, GATEWAY_ID_SIZE);
    e->g.name = copy;
    e->g.place = group->place;
    e->g.load = LOAD_LEAST;
    list_init(&e->edges);
    list_init(&e->astray);
    HASH_ADD(hh, r->by_id, g.id, GATEWAY_ID_SIZE, e);
    list_push_back(&r->all, &e->in_all);
    r->count++;
    group_put(r, group, e);
    return &e->g;
}

void route_rename(struct route_gateway *g, const char *name)
{
    if (strcmp(g->name, name) == 0)
        return;
    char *copy = strdup(name);
    if (copy == NULL)
        return;
    free(g->name);
    g->name = copy;
}

void route_remove(struct route *r, struct route_gateway *g)
{
    if (g->sessions == 0 && !g->moving)
        entry_free(r, entry_of(g));
}

void route_free(struct route *r)
{
    if (r == NULL)
        return;
    while (!list_empty(&r->all))
        entry_free(r, container_of(r->all.next, struct entry, in_all));
    weir_assert(r->group_count == 0);
    free(r);
}

/* --- moves ---------------------------------------------------------------------------------- */

struct route_gateway *route_astray(struct route *r)
{
    list_for_each(l, &r->astray)
    {
        struct entry *e = container_of(l, struct entry, astray);
        if (e->g.sessions <= 1)
            return &e->g;
    }
    return NULL;
}

struct route_place route_wanted(const struct route_gateway *g)
{
    return g->group->place;
}

uint32_t route_group_number(const struct route_gateway *g)
{
    return g->group->number;
}

size_t route_group_size(const struct route_gateway *g)
{
    return g->group->count;
}

void route_move_begin(struct route *r, struct route_gateway *g)
{
    weir_assert(!g->moving);
    g->moving = true;
    r->moving++;
    astray_check(r, entry_of(g));
}

void route_move_end(struct route *r, struct route_gateway *g, bool arrived, struct route_place at)
{
    weir_assert(g->moving);
    weir_assert(r->moving > 0);
    g->moving = false;
    r->moving--;
    if (arrived)
        g->place = at;
    astray_check(r, entry_of(g));
}

bool route_settled(const struct route *r)
{
    return r->moving == 0 && list_empty(&r->astray);
}

/* --- loads ---------------------------------------------------------------------------------- */

void route_load(struct route *r, struct route_gateway *g, uint64_t load)
{
    struct route_group *group = g->group;
    load = load < LOAD_LEAST ? LOAD_LEAST : load > (UINT64_C(1) << 40) ? UINT64_C(1) << 40 : load;
    load_take(r, group->place, g->load);
    group->load = group->load - g->load + load;
    g->load = load;
    load_add(r, group->place, load);
}

/* The subgroup at @process whose load comes nearest to half of @difference and is below it. */
static struct route_group *best_group(const struct route *r, size_t process, uint64_t difference,
                                      uint64_t now_ns, bool anew)
{
    struct route_group *best = NULL;
    uint64_t best_miss = 0;
    list_for_each(l, &r->groups)
    {
        struct route_group *group = container_of(l, struct route_group, in_all);
        bool rests = !anew && group->moved && now_ns - group->moved_ns < ROUTE_REST_NS;
        if (group->place.process != process || group->load >= difference || rests)
            continue;
        uint64_t half = difference / 2;
        uint64_t miss = group->load > half ? group->load - half : half - group->load;
        if (best == NULL || miss < best_miss) {
            best = group;
            best_miss = miss;
        }
    }
    return best;
}

static size_t balance(struct route *r, const bool *busy, size_t max, uint64_t now_ns, bool anew)
{
    size_t moved = 0;
    for (; moved < max && r->processes > 1; moved++) {
        size_t high = r->processes, low = idlest(r, busy);
        uint64_t total = 0;
        for (size_t i = 0; i < r->processes; i++) {
            total += r->load[i];
            if ((busy == NULL || !busy[i]) &&
                (high == r->processes || r->load[i] > r->load[high]))
                high = i;
        }
        if (high == r->processes || low == high)
            break;
        uint64_t difference = r->load[high] - r->load[low];
        if (difference <= total / r->processes / 4)
            break;
        struct route_group *group = best_group(r, high, difference, now_ns, anew);
        if (group == NULL)
            break;
        group->moved = true;
        group->moved_ns = now_ns;
        group_place(r, group, place_of(r, low));
    }
    return moved;
}

size_t route_balance(struct route *r, const bool *busy, size_t max, uint64_t now_ns)
{
    return balance(r, busy, max, now_ns, false);
}

void route_resize(struct route *r, size_t pairs, size_t processes, uint64_t now_ns)
{
    weir_assert(pairs > 0 && pairs <= THREADS_MAX_PAIRS);
    weir_assert(processes > 0 && processes <= THREADS_MAX_SERVICES);
    r->pairs = pairs;
    r->processes = processes;
    list_for_each(l, &r->groups)
    {
        struct route_group *group = container_of(l, struct route_group, in_all);
        if (route_fits(r, group->place))
            continue;
        /* Its process may stay although its pair may not. */
        size_t to = group->place.process < processes ? group->place.process : newcomers(r);
        group_place(r, group, place_of(r, to));
    }
    (void)balance(r, NULL, r->group_count, now_ns, true);
}

size_t route_gateway_count(const struct route *r)
{
    return r->count;
}

size_t route_group_count(const struct route *r)
{
    return r->group_count;
}

uint64_t route_process_load(const struct route *r, uint16_t process)
{
    weir_assert(process < THREADS_MAX_SERVICES);
    return r->load[process];
}

void route_counts(const struct route *r, uint32_t *pair, uint32_t *process, uint32_t *groups)
{
    list_for_each(l, &r->all)
    {
        const struct entry *e = container_of(l, struct entry, in_all);
        pair[e->g.place.pair] += e->g.sessions > 0;
        process[e->g.place.process] += e->g.sessions > 0;
    }
    list_for_each(l, &r->groups)
        groups[container_of(l, struct route_group, in_all)->place.process]++;
}

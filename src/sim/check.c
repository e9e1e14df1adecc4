/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold whatever happens (safety), and what must come true again (liveness).
 *
 * Safety, where it can be broken:
 *   each I/O that goes     it waited no longer than max-hold at the gate and as long for its turn;
 *                          the limits of the controls in force were kept (an account of each
 *                          gateway's limits, kept apart from the gate: see limits below)
 *   each frame             all of its bytes came, and of no other (wire.c)
 *   each set of controls   what all gateways have in force of one limit adds up to no more than
 *                          it: whatever is late or moves, and when the server starts anew; not
 *                          while one is or was away for longer than its part is kept, nor where
 *                          the server began anew and the first to be heard had none in force;
 *                          its epoch is not older than the one in force; no planned limit lies
 *                          below what the stream's agreement reserves, below a policy's floor, or
 *                          on a protected stream; nothing planned at all while observing
 *   each period            the services count no I/O twice: what they have of a stream is never
 *                          more than the stream itself counted; no gateway is at two SLA processes
 *   each second            an SLA process sends the others no more than TALK_MOST messages about
 *                          limits that they share: answers do not breed questions
 * Liveness, at the end, when the last fault is LIVE_NS ago: every gateway is connected and at one
 * SLA process, which knows what is agreed and has admitted it; all that stand before one storage
 * are at the same; all that was asked has been answered or waits no longer than it may, and every
 * gateway has applied the newest controls meant for it. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/name.h"
#include "sim/private.h"

#define LIVE_NS (15 * S)
/* What may go above a limit of many gateways in one second: 10 ms of unused credit, twice. */
#define ACCOUNT_CREDIT 0.02
#define TALK_MOST      200u
/* A gateway that cannot be reached keeps its part for a minute: less, for what is on its way. Then
 * the others have it until it is back, and has been told. */
#define AWAY_NS  (50 * S)
#define TOLD_NS  (60 * S)
/* A lower limit is in force everywhere, whoever was away. */
#define LOWER_NS (90 * S)

void check_broken(struct sim *s, const char *format, ...)
{
    if (s->broken)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(s->broken_words, sizeof s->broken_words, format, args);
    va_end(args);
    s->broken = true;
    s->result->broken_ns = s->now;
}

void check_talk(struct sim_process *p)
{
    struct sim *s = p->sim;
    if (s->now - p->talk_from_ns >= S) {
        p->talk_from_ns = s->now;
        p->talk = 0;
    }
    if (++p->talk > TALK_MOST)
        check_broken(s, "process %u sent the others more than %u messages in a second", p->index,
                     TALK_MOST);
}

/* ---- limits over many gateways --------------------------------------------------------------- */

/* The limit that all streams together pay into; 0: none, or it is not one for all of them. */
static uint64_t account_limit(const struct sim *s, size_t i)
{
    size_t agreements = s->config->agreement_count;
    if (i >= agreements)
        return s->config->tenant[i - agreements].limits.rate[GATE_IOPS_TOTAL].rate;
    const struct agreement *a = &s->document[i].agreement;
    bool counts = !s->document[i].removed && a->per == AGREEMENT_PER_GROUP && !a->fallback &&
                  a->schedule_count == 0 && a->limits.rate[GATE_IOPS_TOTAL].burst_rate == 0;
    return counts ? a->limits.rate[GATE_IOPS_TOTAL].rate : 0;
}

static bool account_covers(const struct sim *s, size_t i, const struct sim_load_config *l)
{
    size_t agreements = s->config->agreement_count;
    if (i >= agreements)
        return strcmp(s->config->tenant[i - agreements].name, l->tenant) == 0;
    return sim_selects(&s->document[i].agreement.applies_to, l, s->config->device);
}

static void accounts_close(struct sim *s)
{
    size_t n = s->config->agreement_count + s->config->tenant_count;
    bool calm = s->account_from_ns > s->last_fault_ns + LIVE_NS && s->server_is_up;
    for (size_t i = 0; i < n; i++) {
        struct sim_account *a = &s->account[i];
        uint64_t limit = account_limit(s, i);
        uint64_t most = limit + (uint64_t)((double)limit * ACCOUNT_CREDIT) + s->config->gateways;
        if (calm && limit > 0 && !a->forced && a->ios > most)
            check_broken(s, "%llu I/Os in a second, over all gateways, under a limit of %llu (%zu)",
                         (unsigned long long)a->ios, (unsigned long long)limit, i);
        *a = (struct sim_account){0};
    }
    s->account_from_ns = s->now;
}

void check_let_go(struct sim *s, const struct sim_io *io)
{
    if (!sim_scheme_is_ours(s))
        return;
    size_t n = s->config->agreement_count + s->config->tenant_count;
    if (s->now - s->account_from_ns >= S)
        accounts_close(s);
    for (size_t i = 0; i < n; i++)
        if (account_covers(s, i, io->load->config)) {
            s->account[i].ios++;
            s->account[i].forced = s->account[i].forced || io->gate.hit_max_hold;
        }
}

/* ---- limits in force over many gateways ------------------------------------------------------ */

static size_t limits_count(const struct sim *s)
{
    return s->config->agreement_count + s->config->tenant_count;
}

static bool is_limit(const struct sim *s, size_t i, const char *id)
{
    size_t agreements = s->config->agreement_count;
    const char *name = i < agreements ? s->document[i].agreement.name
                                      : s->config->tenant[i - agreements].name;
    const char *kind = i < agreements ? "agreement/" : "tenant/";
    size_t n = strlen(kind);
    return strncmp(id, kind, n) == 0 && strcmp(id + n, name) == 0;
}

static bool names(const struct sim *s, size_t i, const struct control_update *u)
{
    for (size_t k = 0; k < u->item_count; k++)
        if (is_limit(s, i, u->item[k].id))
            return true;
    return false;
}

/* A unit for each gateway, since none has nothing, and one for what is rounded at each. */
static void sum_look(struct sim *s, size_t i)
{
    uint64_t limit = account_limit(s, i), sum = 0;
    const struct sim_document *d = i < s->config->agreement_count ? &s->document[i] : NULL;
    if (limit == 0 || s->now < s->sums_from_ns)
        return;
    if (d != NULL && (d->agreement.per_gib.iops > 0 ||
                      (d->changed_ns > 0 && s->now < d->changed_ns + LOWER_NS)))
        return;
    for (uint32_t k = 0; k < s->config->gateways; k++) {
        const struct sim_node *n = &s->node[k];
        if (n->up && s->now - n->there_ns > AWAY_NS)
            return;
        sum += n->up ? n->in_force[i] : 0;
    }
    if (sum > limit + 2 * s->config->gateways)
        check_broken(s, "%llu IOPS are in force at all gateways under a limit of %llu (%zu)",
                     (unsigned long long)sum, (unsigned long long)limit, i);
}

void check_in_force(struct sim_node *n, const struct control_update *u)
{
    struct sim *s = n->sim;
    if (n->in_force == NULL)
        return;
    /* What none of those who were heard has in force may be new, to a server that began anew. */
    for (size_t i = 0; n->first_set && s->life > 1 && i < limits_count(s); i++)
        if (n->in_force[i] == 0 && s->now < s->up_ns + TOLD_NS && u->full && names(s, i, u))
            s->sums_from_ns = s->now + TOLD_NS;
    n->forgot = n->forgot && !u->full;
    if (u->full)
        memset(n->in_force, 0, limits_count(s) * sizeof n->in_force[0]);
    for (size_t k = 0; k < u->item_count; k++) {
        const struct control_item *item = &u->item[k];
        for (size_t i = 0; i < limits_count(s); i++)
            if (is_limit(s, i, item->id))
                n->in_force[i] = item->remove ? 0 : item->limits.rate[GATE_IOPS_TOTAL].rate;
    }
    for (size_t i = 0; i < limits_count(s); i++)
        sum_look(s, i);
}

void check_there(struct sim_node *n)
{
    struct sim *s = n->sim;
    if (s->now - n->there_ns > AWAY_NS)
        s->sums_from_ns = s->now + TOLD_NS;
    n->there_ns = s->now;
}

void check_begins(struct sim_node *n, bool anew)
{
    struct sim *s = n->sim;
    n->there_ns = s->now;
    if (!anew)
        s->up_ns = s->now;
    if (anew && n->in_force != NULL)
        memset(n->in_force, 0, limits_count(s) * sizeof n->in_force[0]);
    n->forgot = n->forgot || (anew && n->boot > 0);
    /* A server that does not know what was in force cannot learn it of this one. */
    if (n->forgot && s->now < s->up_ns + TOLD_NS)
        s->sums_from_ns = s->now + TOLD_NS;
}

/* ---- I/O ------------------------------------------------------------------------------------- */

void check_go(struct sim *s, const struct sim_io *io)
{
    uint64_t bound = s->gateway_config->max_hold_ns;
    uint64_t gate = io->gate.was_held ? io->gate.released_ns - io->gate.submitted_ns : 0;
    uint64_t turn = s->now - io->turn.submitted_ns;
    if (gate > bound + MS)
        check_broken(s, "load %u: held for a limit for %llu ms", io->load->index,
                     (unsigned long long)(gate / MS));
    if (turn > bound + MS)
        check_broken(s, "load %u: waited for its turn for %llu ms", io->load->index,
                     (unsigned long long)(turn / MS));
    /* Only of those that go straight from the gate: what others owe by now says nothing of this. */
    for (uint32_t i = 0; turn == 0 && i < io->stream->flow.cover_count; i++) {
        const struct gate_rule *r = io->stream->flow.cover[i];
        for (uint32_t k = 0; k < GATE_KIND_COUNT; k++) {
            const struct bucket *b = &r->bucket[k];
            /* A debt deeper than the one I/O that made it: more went than the limit lets. */
            __int128 least = -(__int128)(k >= GATE_BYTES_READ ? 8 << 20 : 1) * 1000000000;
            if (b->cfg.rate > 0 && b->state[b->in_force].credit < least && !io->gate.hit_max_hold &&
                s->now - s->last_fault_ns > bound)
                check_broken(s, "load %u: limit %s of %s exceeded", io->load->index,
                             gate_kind_name((enum gate_kind)k), stream_rule_control(r)->id);
        }
    }
}

/* ---- controls -------------------------------------------------------------------------------- */

static void check_throttle(struct sim *s, const struct sim_load_config *l,
                           const struct control_item *item)
{
    uint64_t iops = item->limits.rate[GATE_IOPS_TOTAL].rate;
    for (size_t i = 0; i < s->config->policy_count; i++) {
        const struct policy *p = &s->config->policy[i];
        if (!sim_selects(&p->applies_to, l, s->config->device))
            continue;
        if (p->protect || p->observe)
            check_broken(s, "%s: a planned limit against policy %s", item->id, p->name);
        if (iops > 0 && iops < p->floor_iops)
            check_broken(s, "%s: a planned limit of %llu below the floor of policy %s", item->id,
                         (unsigned long long)iops, p->name);
    }
    for (size_t i = 0; i < s->config->agreement_count; i++) {
        const struct agreement *a = &s->config->agreement[i];
        if (s->document[i].removed || !sim_selects(&a->applies_to, l, s->config->device))
            continue;
        if (iops > 0 && a->per == AGREEMENT_PER_STREAM && iops < a->reservation_iops)
            check_broken(s, "%s: a planned limit of %llu below the reservation of %s", item->id,
                         (unsigned long long)iops, a->name);
    }
}

void check_control(struct sim *s, const struct sim_node *n, const struct control_item *item)
{
    bool limits = false;
    for (uint32_t k = 0; k < GATE_KIND_COUNT; k++)
        limits = limits || item->limits.rate[k].rate > 0;
    if (!item->planned || item->remove || !limits)
        return;
    if (s->config->observe)
        check_broken(s, "%s: a planned limit while observing", item->id);
    for (size_t i = 0; i < s->config->load_count; i++) {
        char key[STREAM_KEY_SIZE];
        const struct sim_load *l = &s->load[i];
        if (l->node != n)
            continue;
        name_stream_key(l->config->host, l->config->volume, key);
        for (size_t m = 0; m < item->member_count; m++)
            if (strcmp(item->member[m], key) == 0)
                check_throttle(s, l->config, item);
    }
}

void check_whole(struct sim *s, const struct message *m)
{
    if (m->came != m->size)
        check_broken(s, "gateway %u: %u of %u bytes of a frame were taken for all of it",
                     m->node->index, m->came, m->size);
}

void check_epoch(struct sim *s, const struct sim_node *n, const struct control_update *u,
                 uint64_t before, uint64_t session)
{
    if (session != n->hello.session)
        check_broken(s, "gateway %u: controls of another session", n->index);
    if (u->epoch < before)
        check_broken(s, "gateway %u: controls of epoch %llu after %llu", n->index,
                     (unsigned long long)u->epoch, (unsigned long long)before);
}

/* ---- counts ---------------------------------------------------------------------------------- */

static void check_counted(struct sim *s, const struct entities *e)
{
    list_for_each(l, &e->streams)
    {
        const struct entity_stream *st = container_of(l, struct entity_stream, link);
        const struct sim_node *n = sim_node_of(s, st->gateway->hello.id);
        if (!n->up || memcmp(st->gateway->hello.boot, n->hello.boot, sizeof n->hello.boot) != 0)
            continue;
        const struct stream *truth = stream_find(n->table, st->key);
        if (truth == NULL || truth->index != st->index)
            continue;
        for (uint32_t op = 0; op < IO_OP_COUNT; op++)
            if (st->now.op[op].arrivals > truth->meter->op[op].arrivals ||
                st->now.op[op].completions > truth->meter->op[op].completions ||
                st->now.op[op].bytes > truth->meter->op[op].bytes)
                check_broken(s, "stream %s: counted more than there was", st->key);
    }
}

/* A gateway belongs to one process, or is on its way between two. */
static void check_places(struct sim *s)
{
    for (uint32_t i = 0; i < s->config->gateways; i++)
        s->node[i].seen = 0;
    for (uint32_t i = 0; i < s->processes; i++) {
        list_for_each(l, &services_entities(s->process[i].services)->gateways)
        {
            const struct entity_gateway *g = container_of(l, struct entity_gateway, link);
            struct sim_node *n = sim_node_of(s, g->hello.id);
            n->seen += g->live;
            if (n->seen > 1)
                check_broken(s, "%s belongs to two SLA processes", g->hello.name);
        }
    }
}

void check_counts(struct sim *s)
{
    bool large = s->config->gateways > SIM_SMALL || s->config->load_count > SIM_SMALL;
    if (!s->server_is_up || (large && s->counted_ns > 0 && s->now < s->counted_ns + S))
        return;
    s->counted_ns = s->now;
    for (uint32_t i = 0; i < s->processes; i++)
        check_counted(s, services_entities(s->process[i].services));
    if (s->processes > 1)
        check_places(s);
}

static void check_planned(struct sim *s, const struct entities *e)
{
    list_for_each(l, &e->gateways)
    {
        const struct entity_gateway *g = container_of(l, struct entity_gateway, link);
        struct sim_node *n = sim_node_of(s, g->hello.id);
        n->seen += g->live;
        if (g->live && g->apply_status != 0)
            check_broken(s, "%s refused its controls: %d", g->hello.name, g->apply_status);
        if (g->live && g->state != GATEWAY_ADMITTED)
            check_broken(s, "%s is %s", g->hello.name, gateway_state_name(g->state));
    }
}

static void check_alive(struct sim *s)
{
    for (uint32_t i = 0; i < s->config->gateways; i++) {
        s->node[i].seen = 0;
        if (s->node[i].up && !s->node[i].partitioned && !s->node[i].connected)
            check_broken(s, "gateway %u did not come back", i);
    }
    for (uint32_t i = 0; i < s->processes; i++) {
        if (!s->process[i].loaded)
            check_broken(s, "SLA process %u does not know what is agreed", i);
        check_planned(s, services_entities(s->process[i].services));
    }
    for (uint32_t i = 0; i < s->config->gateways; i++)
        if (s->node[i].connected && s->node[i].seen == 0)
            check_broken(s, "gateway %u belongs to no SLA process", i);
    if (s->processes > 1)
        moves_check(s);
}

void check_end(struct sim *s)
{
    s->counted_ns = 0;
    check_counts(s);
    for (size_t i = 0; i < s->config->load_count; i++) {
        const struct sim_load *l = &s->load[i];
        list_for_each(k, &l->ios)
        {
            const struct sim_io *io = container_of(k, struct sim_io, link);
            if (io->state != IO_AT_DEVICE &&
                s->now - io->arrived_ns > 2 * s->gateway_config->max_hold_ns + MS)
                check_broken(s, "load %zu: the gateway forgot an I/O", i);
        }
    }
    if (sim_scheme_is_ours(s) && s->server_is_up && s->now - s->last_fault_ns >= LIVE_NS)
        check_alive(s);
}

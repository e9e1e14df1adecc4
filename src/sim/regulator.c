/* SPDX-License-Identifier: Apache-2.0 */
/* Others' ways of control, to compare with, and ours without a server.
 *
 * All see the same gateways; they differ in what is put there instead of the SLA process.
 *
 *   LOCAL   the agreements' shares, given once; each gateway finds its own window
 *   NONE    nothing
 *   STATIC  a fixed limit for each load without objective, as an operator would set it
 *   SLEDS   such limits, set each second at the centre: x 0.8 while any objective is missed, x 1.1
 *           while all are met (Chambliss et al., SRDS'03, in its spirit: distributed leaky buckets,
 *           a central controller, not work-conserving)
 *   PARDA   each gateway adapts a window to its mean latency alone: w <- (1-g) w + g (L/l w + b)
 *           (Gulati et al., FAST'09); inside it, shares by weight
 *   MCLOCK  shares by tags, with a window of fixed depth, divided evenly over the gateways (Gulati
 *           et al., OSDI'10, as one would configure it: without knowing the device)
 *   ORACLE  no way to control but a floor: everything waits in one place, which has no delay and
 *           sees when a server of the target becomes free; whoever has an objective or a
 *           reservation goes first, and no server is idle while anything waits. What is in service
 *           is not interrupted, and what comes is not known before: so nobody who keeps the target
 *           busy can make those who are promised something wait less, unless it chooses shorter
 *           I/Os of the others before longer ones */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/name.h"
#include "sim/private.h"

#define PARDA_GAIN  0.2
#define PARDA_BETA  1.0
#define PARDA_MAX   256.0
#define SLEDS_FLOOR 50u

bool sim_scheme_is_ours(const struct sim *s)
{
    return s->config->scheme == SIM_OURS || s->config->scheme == SIM_NO_SURGE;
}

bool regulator_sets_window(const struct sim *s)
{
    return s->config->scheme == SIM_PARDA || s->config->scheme == SIM_MCLOCK;
}

static struct sched_terms terms_of(const struct agreement *a)
{
    struct sched_terms t = {.reserve_iops = a->reservation_iops,
                            .reserve_bytes_s = a->reservation_bytes_s,
                            .reserve_dir_iops = {a->reservation_read_iops,
                                                 a->reservation_write_iops},
                            .reserve_dir_bytes_s = {a->reservation_read_bytes_s,
                                                    a->reservation_write_bytes_s},
                            .weight = a->weight > 0 ? a->weight : SCHED_WEIGHT_DEFAULT};
    for (size_t i = 0; i < a->objective_count; i++) {
        const struct objective *o = &a->objective[i];
        if (o->while_iops == UINT64_MAX)
            continue;
        uint64_t first = o->while_iops + o->while_iops / 10;
        t.reserve_iops = first > t.reserve_iops ? first : t.reserve_iops;
        t.latency_us = o->latency_us;
        t.percentile_ppm = o->percentile_ppm;
        t.while_iops = o->while_iops;
    }
    return t;
}

struct set {
    struct control control[512];
    char key[512][STREAM_KEY_SIZE];
    const char *member[512];
    size_t count;
};

static void set_add(struct set *set, const struct sim_load *l, const struct sched_terms *t)
{
    weir_assert(set->count < 512);
    size_t i = set->count++;
    name_stream_key(l->config->host, l->config->volume, set->key[i]);
    set->member[i] = set->key[i];
    struct control *c = &set->control[i];
    *c = (struct control){.origin = RULE_AGREED, .members = &set->member[i], .member_count = 1};
    snprintf(c->id, sizeof c->id, "load/%u", l->index);
    if (t != NULL)
        c->share = *t;
    if (l->limit_iops > 0)
        c->limits.rate[GATE_IOPS_TOTAL].rate = l->limit_iops;
}

/* The agreement that the first objective or weight of @l comes from, or NULL. */
static const struct agreement *agreement_of(const struct sim *s, const struct sim_load *l)
{
    for (size_t i = 0; i < s->config->agreement_count; i++)
        if (sim_selects(&s->config->agreement[i].applies_to, l->config, s->config->device))
            return &s->config->agreement[i];
    return NULL;
}

static void node_set(struct sim_node *n)
{
    struct sim *s = n->sim;
    bool shares = s->config->scheme == SIM_LOCAL || regulator_sets_window(s);
    struct set *set = calloc(1, sizeof *set);
    weir_assert(set != NULL);
    for (size_t i = 0; i < s->config->load_count; i++) {
        const struct sim_load *l = &s->load[i];
        const struct agreement *a = agreement_of(s, l);
        if (l->node != n || (!shares && l->limit_iops == 0))
            continue;
        struct sched_terms t = {.weight = SCHED_WEIGHT_DEFAULT};
        if (a != NULL)
            t = terms_of(a);
        set_add(set, l, shares ? &t : NULL);
    }
    int r = stream_controls_apply(n->table, set->control, set->count, true, s->now);
    weir_assert(r == 0);
    free(set);
}

/* Whether the oracle takes its I/O before that of others. */
static bool goes_before(const struct sim_load *l)
{
    const struct agreement *a = agreement_of(l->sim, l);
    return a != NULL &&
           (a->objective_count > 0 || a->reservation_iops > 0 || a->reservation_bytes_s > 0 ||
            a->reservation_read_iops > 0 || a->reservation_write_iops > 0 ||
            a->reservation_read_bytes_s > 0 || a->reservation_write_bytes_s > 0);
}

static void windows_set(struct sim_node *n)
{
    struct sim *s = n->sim;
    uint32_t depth = s->config->fixed_depth > 0 ? s->config->fixed_depth : 32;
    for (uint32_t i = 0; i < s->config->device_count; i++) {
        struct window_plan plan = {.slots_milli = depth * 1000u / s->config->gateways};
        if (s->config->scheme == SIM_PARDA)
            plan.slots_milli = (uint64_t)(n->parda_window * 1000.0);
        else if (plan.slots_milli < 1000)
            plan.slots_milli = 1000; /* at least one each */
        target_plan(stream_port(n->table, i), &plan, s->now);
    }
}

void regulator_answer(struct sim_node *n, uint64_t latency_ns)
{
    n->parda_ios++;
    n->parda_latency_ns += latency_ns;
}

static void parda(struct sim_node *n)
{
    const struct sim_config *c = n->sim->config;
    double goal = 5e6;
    for (size_t i = 0; i < c->load_count; i++)
        if (c->load[i].objective_us > 0)
            goal = 0.5 * (double)c->load[i].objective_us * 1e3;
    if (n->parda_ios == 0)
        return;
    double seen = (double)n->parda_latency_ns / (double)n->parda_ios, w = n->parda_window;
    w = (1 - PARDA_GAIN) * w + PARDA_GAIN * (goal / seen * w + PARDA_BETA);
    n->parda_window = w < 1 ? 1 : w > PARDA_MAX ? PARDA_MAX : w;
    n->parda_ios = n->parda_latency_ns = 0;
}

static void fast(struct sim *s, const struct event *e)
{
    (void)e;
    for (uint32_t i = 0; i < s->config->gateways; i++) {
        if (!s->node[i].up)
            continue;
        parda(&s->node[i]);
        windows_set(&s->node[i]);
        node_run(&s->node[i]);
    }
    events_add(&s->events, s->now + 100 * MS, fast, NULL, 0);
}

static void sleds(struct sim *s)
{
    bool missed = false;
    for (size_t i = 0; i < s->config->load_count; i++) {
        struct sim_load *l = &s->load[i];
        uint64_t objective = l->config->objective_us * US;
        double q = l->config->percentile_ppm > 0 ? (double)l->config->percentile_ppm / 1e6 : 0.99;
        if (objective > 0 && l->seen.count > 20 && hist_quantile(&l->seen, q) > objective)
            missed = true;
    }
    for (size_t i = 0; i < s->config->load_count; i++) {
        struct sim_load *l = &s->load[i];
        uint64_t rate = l->limit_iops > 0 ? l->limit_iops : l->seen.count;
        if (l->config->objective_us == 0 && missed)
            l->limit_iops = rate * 8 / 10 > SLEDS_FLOOR ? rate * 8 / 10 : SLEDS_FLOOR;
        else if (l->config->objective_us == 0 && l->limit_iops > 0)
            l->limit_iops = rate * 11 / 10 + 1;
        hist_clear(&l->seen);
    }
}

static void slow(struct sim *s, const struct event *e)
{
    (void)e;
    sleds(s);
    for (uint32_t i = 0; i < s->config->gateways; i++) {
        if (!s->node[i].up)
            continue;
        node_set(&s->node[i]);
        node_run(&s->node[i]);
    }
    events_add(&s->events, s->now + S, slow, NULL, 0);
}

void regulator_start(struct sim *s)
{
    switch (s->config->scheme) {
    case SIM_OURS:
    case SIM_NO_SURGE:
    case SIM_NONE:
        return;
    case SIM_ORACLE:
        for (size_t i = 0; i < s->config->load_count; i++)
            s->load[i].goes_before = goes_before(&s->load[i]);
        return;
    case SIM_SLEDS:
        events_add(&s->events, s->now + S, slow, NULL, 0);
        return;
    case SIM_STATIC:
        for (size_t i = 0; i < s->config->load_count; i++)
            if (s->load[i].config->objective_us == 0)
                s->load[i].limit_iops = s->config->static_iops;
        break;
    case SIM_PARDA:
    case SIM_MCLOCK:
        events_add(&s->events, s->now + 1, fast, NULL, 0);
        break;
    case SIM_LOCAL:
        break;
    }
    for (uint32_t i = 0; i < s->config->gateways; i++)
        node_set(&s->node[i]);
}

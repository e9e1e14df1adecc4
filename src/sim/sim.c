/* SPDX-License-Identifier: Apache-2.0 */
/* The run: set up, take events in order, sum up. */
#include "sim/sim.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/name.h"
#include "sim/private.h"

/* 2026-11-23 (a Monday) 06:00 UTC. */
#define WALL_0_US INT64_C(1795413600000000)
#define BEGIN_NS  1u

const char *sim_scheme_name(enum sim_scheme s)
{
    switch (s) {
    case SIM_OURS:
        return "weir";
    case SIM_NO_SURGE:
        return "weir-no-surge";
    case SIM_LOCAL:
        return "weir-no-server";
    case SIM_NONE:
        return "none";
    case SIM_STATIC:
        return "static";
    case SIM_SLEDS:
        return "sleds";
    case SIM_PARDA:
        return "parda";
    case SIM_MCLOCK:
        return "mclock";
    case SIM_ORACLE:
        return "oracle";
    }
    return "";
}

int64_t sim_wall_us(const struct sim *s)
{
    return WALL_0_US + (int64_t)(s->now / US) + s->wall_step_us;
}

static bool takes(const char *pattern, const char *name)
{
    return pattern[0] == '\0' || name_match(pattern, name);
}

bool sim_selects(const struct selector *t, const struct sim_load_config *l,
                 const struct sim_device_config *device)
{
    return takes(t->tenant, l->tenant) && takes(t->host, l->host) && takes(t->volume, l->volume) &&
           takes(t->target, device[l->device].name);
}

double sim_exponential(struct sim *s, double mean)
{
    return -mean * log(1.0 - rng_unit(&s->rng));
}

/* ---- the description ------------------------------------------------------------------------- */

static bool load_valid(const struct sim_config *c, const struct sim_load_config *l)
{
    if (l->gateway >= c->gateways || l->device >= c->device_count || l->bytes > 1u << 30)
        return false;
    switch (l->kind) {
    case SIM_OPEN:
        return l->rate > 0 && l->bytes > 0;
    case SIM_CLOSED:
        return l->depth > 0 && l->bytes > 0;
    case SIM_TRACE:
        return l->trace_count > 0;
    }
    return false;
}

static uint32_t processes_of(const struct sim_config *c)
{
    return c->processes > 0 ? c->processes : 1;
}

static bool change_valid(const struct sim_config *c, const struct sim_change *x)
{
    switch (x->kind) {
    case SIM_DEVICE_SPEED:
    case SIM_DEVICE_SERVERS:
    case SIM_DEVICE_STALL:
        return x->index < c->device_count && x->value > 0;
    case SIM_LOAD_MOVE:
        return x->index < c->load_count && x->value >= 0 && x->value < c->gateways;
    case SIM_LOAD_RATE:
        return x->index < c->load_count && x->value >= 0;
    case SIM_GATEWAY_DOWN:
    case SIM_GATEWAY_UP:
    case SIM_PARTITION:
    case SIM_HEAL:
    case SIM_WITHHOLD:
    case SIM_LATE:
        return x->index < c->gateways;
    case SIM_TEAR:
    case SIM_DRIBBLE:
        return x->index < c->gateways && x->value >= 0;
    case SIM_SERVER_DOWN:
    case SIM_SERVER_UP:
    case SIM_CLOCK_STEP:
    case SIM_STORE:
        return true;
    case SIM_AGREEMENT_REMOVE:
        return x->index < c->agreement_count;
    case SIM_AGREEMENT_LIMIT:
        return x->index < c->agreement_count && x->value >= 0;
    case SIM_PROCESS_STALL:
        return x->index < processes_of(c) && x->value > 0;
    case SIM_PROCESSES:
        return x->value > 0 && x->value <= (int64_t)processes_of(c);
    }
    return false;
}

static int config_check(const struct sim_config *c, struct text *why)
{
    if (c->gateways == 0 || c->gateways > SIM_GATEWAYS_MAX || c->device_count == 0 ||
        c->device_count > SIM_DEVICES_MAX || c->processes > SIM_PROCESSES_MAX ||
        c->load_count == 0 || c->load_count > SIM_LOADS_MAX ||
        c->duration_ns < S || c->duration_ns / S > SIM_SECONDS_MAX ||
        (c->interval_ns > 0 && c->duration_ns / c->interval_ns > SIM_SECONDS_MAX)) {
        text_append_str(why, "gateways, targets, loads or seconds: none, or too many\n");
        return WEIR_E_INVALID;
    }
    for (size_t i = 0; i < c->load_count; i++)
        if (!load_valid(c, &c->load[i])) {
            text_printf(why, "load %s/%s: names what does not exist, or asks for nothing\n",
                        c->load[i].host, c->load[i].volume);
            return WEIR_E_INVALID;
        }
    for (size_t i = 0; i < c->change_count; i++)
        if (!change_valid(c, &c->change[i])) {
            text_printf(why, "change %zu: names what does not exist\n", i + 1);
            return WEIR_E_INVALID;
        }
    return 0;
}

/* ---- begin and end --------------------------------------------------------------------------- */

static void config_make(struct sim *s)
{
    const struct sim_config *c = s->config;
    struct gateway_config *g = s->gateway_config;
    gateway_config_init(g);
    g->target_count = c->device_count;
    uint32_t most = 0;
    uint32_t *streams = calloc(c->gateways, sizeof *streams);
    weir_assert(streams != NULL);
    for (size_t i = 0; i < c->load_count; i++) {
        uint32_t n = ++streams[c->load[i].gateway];
        most = n > most ? n : most;
    }
    for (size_t i = 0; i < c->change_count; i++)
        most += c->change[i].kind == SIM_LOAD_MOVE;
    free(streams);
    g->max_streams = most + 1;
    if (c->max_hold_ns > 0)
        g->max_hold_ns = c->max_hold_ns;
    for (size_t i = 0; i < c->device_count; i++) {
        struct target_config *t = &g->targets[i];
        (void)text_copy(t->name, sizeof t->name, c->device[i].name);
        snprintf(t->uri, sizeof t->uri, "nbd://192.0.2.%zu/", i + 1);
        t->index = (uint32_t)i;
    }
}

static int sim_begin(struct sim *s, struct text *why)
{
    const struct sim_config *c = s->config;
    s->now = BEGIN_NS;
    rng_seed(&s->rng, c->seed);
    rng_seed(&s->thread_rng, ~c->seed);
    rng_seed(&s->start_rng, ~c->seed ^ UINT64_C(0x9e3779b97f4a7c15));
    s->processes = s->running = processes_of(c);
    s->store_ns = c->store_ns;
    s->wall_step_us = c->wall_us;
    for (size_t i = 0; i < c->agreement_count; i++)
        s->document[i].agreement = c->agreement[i];
    config_make(s);
    for (uint32_t i = 0; i < c->device_count; i++)
        device_init(s, &s->device[i], &c->device[i], i);
    for (uint32_t i = 0; i < c->load_count; i++)
        load_init(s, &s->load[i], &c->load[i], i);
    for (uint32_t i = 0; i < c->gateways; i++)
        if (node_init(s, &s->node[i], i) < 0 || node_up(&s->node[i]) < 0)
            return -ENOMEM;
    if (sim_scheme_is_ours(s)) {
        int r = server_up(s, why);
        if (r < 0)
            return r;
        for (uint32_t i = 0; i < c->gateways; i++)
            node_session_up(&s->node[i]);
    }
    regulator_start(s);
    promises_start(s);
    for (uint32_t i = 0; i < c->load_count; i++)
        load_start(&s->load[i]);
    changes_start(s);
    s->last_fault_ns = s->now;
    return 0;
}

static void sum_up(struct sim *s)
{
    struct sim_result *r = s->result;
    for (size_t i = 0; i < s->config->load_count; i++) {
        load_second(&s->load[i]);
        r->load[i] = s->load[i].result;
        s->load[i].result.iops = s->load[i].result.p99_us = NULL;
    }
    double ns = (double)(s->now - s->config->warmup_ns);
    for (size_t i = 0; i < s->config->device_count; i++) {
        struct sim_device *d = &s->device[i];
        device_account(d);
        r->device[i] = (struct sim_device_result){
            .served = d->served, .bytes = d->bytes, .busy = ns > 0 ? d->busy_ns / ns : 0};
        if (d->slots_samples > 0) {
            double n = (double)d->slots_samples / s->config->gateways;
            uint64_t ticks = (s->config->duration_ns - s->config->warmup_ns) / TARGET_TICK_NS;
            n = ticks > 0 ? (double)ticks : n;
            r->device[i].slots = d->slots_sum / n;
            r->device[i].parallelism = d->k_sum / (double)d->slots_samples;
        }
    }
    r->ios = s->ios;
    if (s->broken)
        r->broken = strdup(s->broken_words);
}

static void sim_end(struct sim *s)
{
    server_down(s);
    for (uint32_t i = 0; s->node != NULL && i < s->config->gateways; i++)
        if (s->node[i].sim != NULL)
            node_fini(&s->node[i]);
    /* What is on its way belongs to the events. */
    for (struct event e; events_next(&s->events, &e);)
        sim_drop(&e);
    events_fini(&s->events);
    for (size_t i = 0; s->device != NULL && i < s->config->device_count; i++)
        device_free(&s->device[i]);
    for (struct sim_io *io; (io = s->free_io) != NULL;) {
        s->free_io = io->next;
        free(io);
    }
    for (size_t i = 0; s->load != NULL && i < s->config->load_count; i++) {
        free(s->load[i].result.iops);
        free(s->load[i].result.p99_us);
    }
    if (s->gateway_config != NULL)
        gateway_config_fini(s->gateway_config);
    free(s->gateway_config);
    free(s->device);
    free(s->load);
    free(s->node);
    free(s->document);
    free(s->account);
}

static int sim_alloc(struct sim *s)
{
    const struct sim_config *c = s->config;
    struct sim_result *r = s->result;
    s->gateway_config = calloc(1, sizeof *s->gateway_config);
    s->device = calloc(c->device_count, sizeof *s->device);
    s->load = calloc(c->load_count, sizeof *s->load);
    s->node = calloc(c->gateways, sizeof *s->node);
    s->document = calloc(c->agreement_count + 1, sizeof *s->document);
    s->account = calloc(c->agreement_count + c->tenant_count + 1, sizeof *s->account);
    r->load = calloc(c->load_count, sizeof *r->load);
    r->device = calloc(c->device_count, sizeof *r->device);
    r->action = calloc(SIM_ACTIONS_KEPT, sizeof *r->action);
    r->load_count = c->load_count;
    r->device_count = c->device_count;
    bool all = s->gateway_config != NULL && s->device != NULL && s->load != NULL &&
               s->node != NULL && s->document != NULL && s->account != NULL && r->load != NULL &&
               r->device != NULL && r->action != NULL;
    return all ? 0 : -ENOMEM;
}

int sim_run(const struct sim_config *c, struct sim_result *ret, struct text *why)
{
    struct sim s = {.config = c, .result = ret};
    *ret = (struct sim_result){0};
    int r = config_check(c, why);
    if (r < 0)
        return r;
    r = sim_alloc(&s);
    if (r == 0)
        r = sim_begin(&s, why);
    uint64_t end = c->duration_ns;
    struct event e;
    while (r == 0 && !s.broken && events_next(&s.events, &e)) {
        if (e.at_ns > end) {
            s.now = end;
            events_add(&s.events, e.at_ns, e.fire, e.what, e.number);
            break;
        }
        weir_assert(e.at_ns >= s.now);
        s.now = e.at_ns;
        ret->events++;
        e.fire(&s, &e);
    }
    if (r == 0) {
        check_end(&s);
        sum_up(&s);
    }
    sim_end(&s);
    if (r < 0)
        sim_result_fini(ret);
    return r;
}

void sim_result_fini(struct sim_result *r)
{
    for (size_t i = 0; r->load != NULL && i < r->load_count; i++) {
        free(r->load[i].iops);
        free(r->load[i].p99_us);
    }
    free(r->load);
    free(r->device);
    free(r->action);
    free(r->broken);
    *r = (struct sim_result){0};
}

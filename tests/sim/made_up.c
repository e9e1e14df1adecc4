/* SPDX-License-Identifier: Apache-2.0 */
/* Made-up worlds. What each of them draws is drawn in an order that later ones must not change, or
 * all seeds are other worlds: what is added draws from a generator of its own. */
#include "made_up.h"

#include <stdio.h>
#include <string.h>

#include "base/rng.h"

#define S         UINT64_C(1000000000)
#define MS        UINT64_C(1000000)
#define DURATION  (36 * S)
#define CALM_FROM (18 * S)

static uint64_t between(struct rng *r, uint64_t low, uint64_t high)
{
    return low + rng_below(r, high - low + 1);
}

static bool chance(struct rng *r, uint32_t percent)
{
    return rng_below(r, 100) < percent;
}

static void devices(struct made_up *w, struct rng *r)
{
    w->config.device = w->device;
    w->config.device_count = between(r, 1, 3);
    for (size_t i = 0; i < w->config.device_count; i++) {
        struct sim_device_config *d = &w->device[i];
        snprintf(d->name, sizeof d->name, "array%zu", i);
        d->servers = (uint32_t)between(r, 1, 12);
        d->base_ns[0] = between(r, 500, 3000) * 1000;
        d->base_ns[1] = between(r, 500, 3000) * 1000;
        d->page_ns[0] = between(r, 5, 100) * 1000;
        d->page_ns[1] = between(r, 5, 100) * 1000;
        d->spread = rng_unit(r);
        if (chance(r, 30)) {
            d->cache_ppm = (uint32_t)between(r, 1, 900000);
            d->cache_ns = 100000;
        }
        if (chance(r, 20)) {
            d->gc_bytes = between(r, 10, 100) << 20;
            d->gc_ns = between(r, 10, 300) * MS;
        }
    }
}

static void loads(struct made_up *w, struct rng *r)
{
    w->config.load = w->load;
    w->config.load_count = between(r, 1, MADE_UP_LOADS);
    for (size_t i = 0; i < w->config.load_count; i++) {
        struct sim_load_config *l = &w->load[i];
        snprintf(l->host, sizeof l->host, "host%zu", i % 5);
        snprintf(l->volume, sizeof l->volume, "%s-%zu", i % 3 == 0 ? "db" : "bulk", i);
        if (chance(r, 50))
            snprintf(l->tenant, sizeof l->tenant, "acme");
        l->gateway = (uint32_t)rng_below(r, w->config.gateways);
        l->device = (uint32_t)rng_below(r, w->config.device_count);
        l->kind = chance(r, 50) ? SIM_OPEN : SIM_CLOSED;
        l->rate = (double)between(r, 5, 1500);
        l->depth = (uint32_t)between(r, 1, 64);
        l->think_ns = chance(r, 30) ? between(r, 1, 20) * MS : 0;
        l->bytes = 4096u << rng_below(r, 6);
        l->large_bytes = 1u << 20;
        l->large_ppm = chance(r, 20) ? 50000 : 0;
        l->write_ppm = (uint32_t)rng_below(r, 1000000);
        l->start_ns = rng_below(r, 5) * S;
        if (chance(r, 30)) {
            l->on_ns = between(r, 1, 5) * S;
            l->off_ns = between(r, 1, 5) * S;
        }
        l->objective_us = i % 3 == 0 ? 20000 : 0;
        l->percentile_ppm = 990000;
    }
}

static void agreement(struct agreement *a, struct rng *r, size_t i)
{
    *a = (struct agreement){.version = 1,
                            .per = chance(r, 50) ? AGREEMENT_PER_STREAM : AGREEMENT_PER_GROUP,
                            .weight = (uint32_t)between(r, 1, 1000),
                            .compliance_window_ns = 10 * S,
                            .compliance_over_ns = 30 * 86400 * S};
    snprintf(a->name, sizeof a->name, "agreement%zu", i);
    /* Of different volumes, so that none selects what another one does. */
    snprintf(a->applies_to.volume, sizeof a->applies_to.volume, "*-%zu", i);
    if (chance(r, 60)) {
        a->objective[0] =
            (struct objective){990000, between(r, 2, 40) * 1000, between(r, 100, 3000)};
        a->objective_count = 1;
    }
    if (chance(r, 40))
        a->reservation_iops = between(r, 10, 1000);
    if (chance(r, 20))
        a->reservation_bytes_s = between(r, 1, 20) << 20;
    if (chance(r, 20))
        a->reservation_read_iops = between(r, 10, 500);
    if (chance(r, 20))
        a->reservation_write_bytes_s = between(r, 1, 10) << 20;
    if (chance(r, 40)) {
        uint64_t least = a->reservation_iops > 500 ? a->reservation_iops : 500;
        a->limits.rate[GATE_IOPS_TOTAL].rate = least + rng_below(r, 3000);
    }
    if (chance(r, 20))
        a->limits.rate[GATE_BYTES_TOTAL].rate = between(r, 30, 200) << 20;
}

static void documents(struct made_up *w, struct rng *r)
{
    w->config.agreement = w->agreement;
    w->config.agreement_count = rng_below(r, MADE_UP_AGREEMENTS + 1);
    for (size_t i = 0; i < w->config.agreement_count; i++)
        agreement(&w->agreement[i], r, i);
    if (chance(r, 40)) {
        w->config.tenant = &w->tenant;
        w->config.tenant_count = 1;
        snprintf(w->tenant.name, sizeof w->tenant.name, "acme");
        w->tenant.version = 1;
        if (chance(r, 50))
            w->tenant.limits.rate[GATE_IOPS_TOTAL].rate = between(r, 200, 5000);
    }
    w->config.policy = w->policy;
    if (chance(r, 30)) {
        struct policy *p = &w->policy[w->config.policy_count++];
        snprintf(p->name, sizeof p->name, "floors");
        p->version = 1;
        p->floor_iops = between(r, 60, 500);
    }
    if (chance(r, 30)) {
        struct policy *p = &w->policy[w->config.policy_count++];
        snprintf(p->name, sizeof p->name, "hands-off");
        snprintf(p->applies_to.volume, sizeof p->applies_to.volume, "bulk-1*");
        p->version = 1;
        p->protect = chance(r, 50);
        p->observe = !p->protect;
    }
    w->config.observe = chance(r, 10);
}

static void add(struct made_up *w, uint64_t at, enum sim_change_kind kind, uint32_t index,
                int64_t value)
{
    if (w->config.change_count < MADE_UP_CHANGES)
        w->change[w->config.change_count++] =
            (struct sim_change){.at_ns = at, .kind = kind, .index = index, .value = value};
}

/* One fault that begins at @at and is over before CALM_FROM. */
static void fault(struct made_up *w, struct rng *r, uint64_t at)
{
    uint64_t over = at + between(r, 100, 6000) * MS;
    over = over < CALM_FROM ? over : CALM_FROM;
    uint32_t gateway = (uint32_t)rng_below(r, w->config.gateways);
    uint32_t device = (uint32_t)rng_below(r, w->config.device_count);
    uint32_t load = (uint32_t)rng_below(r, w->config.load_count);
    switch (rng_below(r, 9)) {
    case 0:
        add(w, at, SIM_SERVER_DOWN, 0, 0);
        add(w, over, SIM_SERVER_UP, 0, 0);
        break;
    case 1:
        add(w, at, SIM_GATEWAY_DOWN, gateway, 0);
        add(w, over, SIM_GATEWAY_UP, gateway, 0);
        break;
    case 2:
        add(w, at, SIM_PARTITION, gateway, 0);
        add(w, over, SIM_HEAL, gateway, 0);
        break;
    case 3:
        add(w, at, SIM_DEVICE_SPEED, device, 600000);
        add(w, over, SIM_DEVICE_SPEED, device, 1000000);
        break;
    case 4:
        add(w, at, SIM_DEVICE_SERVERS, device, 1);
        add(w, over, SIM_DEVICE_SERVERS, device, w->device[device].servers);
        break;
    case 5:
        add(w, at, SIM_DEVICE_STALL, device, (int64_t)between(r, 10, 3000) * 1000000);
        break;
    case 6:
        add(w, at, SIM_LOAD_MOVE, load, gateway);
        break;
    case 7:
        add(w, at, SIM_CLOCK_STEP, 0, (int64_t)rng_below(r, 20000000) - 10000000);
        break;
    case 8:
        add(w, at, SIM_LOAD_RATE, load, (int64_t)between(r, 0, 3000000));
        break;
    }
}

/* What only the server's inside notices, and what comes of it. */
static void fault_inside(struct made_up *w, struct rng *r, uint64_t at)
{
    uint64_t over = at + between(r, 3500, 7000) * MS;
    uint32_t gateway = (uint32_t)rng_below(r, w->config.gateways);
    uint32_t processes = w->config.processes;
    bool silent;
    switch (rng_below(r, 5)) {
    case 0:
        add(w, at, SIM_PROCESS_STALL, (uint32_t)rng_below(r, processes),
            (int64_t)between(r, 100, 6000) * 1000000);
        break;
    case 1:
        add(w, at, SIM_PROCESSES, 0, (int64_t)between(r, 1, processes));
        break;
    case 2: /* a slow store matters to a server that starts, and to people */
        silent = chance(r, 50);
        add(w, at, SIM_STORE, 0, silent ? -1 : (int64_t)between(r, 500, 5500) * 1000000);
        add(w, at + 500 * MS, SIM_SERVER_DOWN, 0, 0);
        add(w, at + 900 * MS, SIM_SERVER_UP, 0, 0);
        add(w, over, SIM_STORE, 0, (int64_t)w->config.store_ns);
        break;
    case 3:
        add(w, at, SIM_WITHHOLD, gateway, 0);
        add(w, over, SIM_LATE, gateway, 0);
        break;
    case 4:
        if (w->config.agreement_count > 0)
            add(w, at, SIM_AGREEMENT_LIMIT, (uint32_t)rng_below(r, w->config.agreement_count),
                chance(r, 30) ? 0 : (int64_t)between(r, 10000, 14000) / (chance(r, 50) ? 10 : 1));
        break;
    }
}

/* A limit of everybody together, over all gateways and processes, that no reservation exceeds. */
static void everybody(struct made_up *w, struct rng *r)
{
    struct agreement *a = &w->agreement[w->config.agreement_count++];
    uint64_t reserved = 0;
    for (size_t i = 0; i + 1 < w->config.agreement_count; i++)
        reserved += w->agreement[i].reservation_iops + w->agreement[i].reservation_read_iops;
    *a = (struct agreement){.version = 1,
                            .per = AGREEMENT_PER_GROUP,
                            .weight = AGREEMENT_WEIGHT,
                            .compliance_window_ns = 10 * S,
                            .compliance_over_ns = 30 * 86400 * S};
    snprintf(a->name, sizeof a->name, "everybody");
    a->limits.rate[GATE_IOPS_TOTAL].rate = reserved + between(r, 100, 4000);
}

static void inside(struct made_up *w, struct rng *r)
{
    if (chance(r, 40))
        everybody(w, r);
    w->config.processes = chance(r, 50) ? 1 : (uint32_t)between(r, 2, SIM_PROCESSES_MAX);
    w->config.own_targets = w->config.processes > 1 || chance(r, 20);
    /* Gateways before targets of their own, so that they are at different processes. */
    bool apart = w->config.processes > 1 && chance(r, 60);
    for (size_t i = 0; apart && i < w->config.load_count; i++)
        w->load[i].device = w->load[i].gateway % (uint32_t)w->config.device_count;
    w->config.store_ns = chance(r, 50) ? between(r, 1, 2000) * MS : 0;
    w->config.manual_admission = chance(r, 30);
    for (uint64_t n = rng_below(r, 5); n > 0; n--)
        fault_inside(w, r, between(r, 2000, 10000) * MS);
}

/* The longest service there is at a device, nearly. */
static uint64_t longest_us(const struct made_up *w, uint32_t device)
{
    const struct sim_device_config *d = &w->device[device];
    uint64_t most = 0;
    for (size_t i = 0; i < w->config.load_count; i++) {
        const struct sim_load_config *l = &w->load[i];
        uint64_t pages = (l->large_ppm > 0 ? l->large_bytes : l->bytes) / 4096;
        for (int op = 0; op < 2 && l->device == device; op++) {
            uint64_t ns = d->base_ns[op] + pages * d->page_ns[op];
            most = ns > most ? ns : most;
        }
    }
    return (uint64_t)((double)most * (1.0 + 3.6 * d->spread)) / 1000;
}

/* A promise at one device that asks for a part of it only, so that it can be kept (sim/promise.c
 * says whether): most of those that are drawn without regard cannot. */
static void promise(struct made_up *w, struct rng *r, uint32_t device)
{
    struct sim_device_config *d = &w->device[device];
    size_t n = 0;
    while (n < w->config.load_count && n < MADE_UP_AGREEMENTS && w->load[n].device != device)
        n++;
    if (n == w->config.load_count || n == MADE_UP_AGREEMENTS)
        return;
    bool steady = chance(r, 70);
    for (size_t i = 0; i < w->config.load_count && steady; i++)
        if (w->load[i].device == device)
            w->load[i].on_ns = w->load[i].off_ns = 0;
    while (w->config.agreement_count <= n) {
        agreement(&w->agreement[w->config.agreement_count], r, w->config.agreement_count);
        w->config.agreement_count++;
    }
    struct sim_load_config *l = &w->load[n];
    uint64_t pages = l->bytes / 4096;
    uint64_t ns = (d->base_ns[0] + d->base_ns[1] + pages * (d->page_ns[0] + d->page_ns[1])) / 2;
    uint64_t most = d->servers * S / ns;
    l->kind = SIM_OPEN;
    l->rate = (double)(most * between(r, 5, 30)) / 100 + 1;
    l->large_ppm = 0;
    l->tenant[0] = '\0';
    d->gc_bytes = 0;
    struct agreement *a = &w->agreement[n];
    a->limits = (struct gate_limits){0};
    a->reservation_bytes_s = a->reservation_read_iops = a->reservation_write_bytes_s = 0;
    a->reservation_iops = chance(r, 50) ? (uint64_t)l->rate : 0;
    a->objective_count = 0;
    if (a->reservation_iops == 0 || chance(r, 70)) {
        uint64_t us = longest_us(w, device) * between(r, 42, 100) / 10 + 2000;
        a->objective[0] = (struct objective){990000, us, (uint64_t)(l->rate * 1.3) + 1};
        a->objective_count = 1;
    }
}

/* What people may forbid, around the minute that the run is in, and how fast a stream may fall. */
static void rules(struct made_up *w, struct rng *r)
{
    w->config.wall_us = -(int64_t)between(r, 0, 40) * 1000000; /* it begins at 06:00 */
    if (chance(r, 30)) {
        struct policy *p = &w->policy[w->config.policy_count++];
        snprintf(p->name, sizeof p->name, "freeze");
        if (chance(r, 50))
            snprintf(p->applies_to.volume, sizeof p->applies_to.volume, "bulk-*");
        p->version = 1;
        uint32_t from = (uint32_t)between(r, 358, 361);
        p->freeze[0] = (struct week_window){1 << rng_below(r, 2), from, from + 1};
        p->freeze[0].day_mask |= 1; /* of a Monday */
        p->freeze_count = 1;
    }
    if (chance(r, 50)) {
        struct policy *p = &w->policy[w->config.policy_count++];
        snprintf(p->name, sizeof p->name, "slowly");
        if (chance(r, 50))
            snprintf(p->applies_to.host, sizeof p->applies_to.host, "host%u",
                     (unsigned)rng_below(r, 5));
        p->version = 1;
        p->max_cut_ppm = (uint32_t)between(r, 1, 30) * 10000;
    }
}

/* Frames between a gateway and its server that come in pieces, or are torn. */
static void frames(struct made_up *w, struct rng *r)
{
    for (uint64_t n = chance(r, 30) ? between(r, 1, 4) : 0; n > 0; n--) {
        uint64_t at = between(r, 2000, 12000) * MS;
        uint32_t gateway = (uint32_t)rng_below(r, w->config.gateways);
        if (chance(r, 50)) {
            add(w, at, SIM_TEAR, gateway, (int64_t)rng_below(r, 2));
        } else {
            add(w, at, SIM_DRIBBLE, gateway, (int64_t)between(r, 1, 4000) * 1000000);
            add(w, at + between(r, 100, 5000) * MS, SIM_DRIBBLE, gateway, 0);
        }
    }
}

void made_up_world(struct made_up *w, uint64_t seed)
{
    struct rng r, within;
    rng_seed(&r, seed);
    memset(w, 0, sizeof *w);
    w->config = (struct sim_config){
        .seed = rng_u64(&r),
        .duration_ns = DURATION,
        .warmup_ns = 5 * S,
        .gateways = (uint32_t)between(&r, 1, 6),
        .path_ns = 20000,
        .control_ns = between(&r, 100, 20000) * 1000,
        .loss_ppm = chance(&r, 50) ? 100000 : 0,
        .max_hold_ns = 5 * S,
        .promises = true,
    };
    devices(w, &r);
    loads(w, &r);
    documents(w, &r);
    w->config.change = w->change;
    for (uint64_t n = rng_below(&r, 8); n > 0; n--)
        fault(w, &r, between(&r, 2000, 10000) * MS);
    rng_seed(&within, seed ^ UINT64_C(0x2545f491));
    for (uint32_t i = 0; i < w->config.device_count; i++)
        if (chance(&within, 60))
            promise(w, &within, i);
    rules(w, &within);
    rng_seed(&within, seed ^ UINT64_C(0x5bd1e995));
    inside(w, &within);
    rng_seed(&within, seed ^ UINT64_C(0x27d4eb2f));
    frames(w, &within);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* How long a plan takes over many gateways: real services, gateways and streams made up.
 *
 *   plan [GATEWAYS [STREAMS [STORAGES [ROUNDS [PARALLEL]]]]]   1000 100 50 20 10000
 *
 * Every gateway has a stream of each of STREAMS volumes before one of STORAGES targets. A tenth of
 * the streams belong to ten agreements over all gateways with limits and reservations, the rest
 * to one agreement each stream. Reports are merged once, with demand that differs; then the plan
 * (division of limits, reservations against capacity, shares) is made ROUNDS times, and what it
 * would send is counted. PARALLEL is what a storage can do at once: with few, reservations exceed
 * it and are scaled, the dearest case. The first plan is told apart: nothing is settled in it; in
 * the others what stands behind one gateway has not changed. Figures, medians of all rounds:
 * milliseconds of processor time of one plan with what it says to gateways, its part of a core at
 * one a second, and the longest piece in which it was made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/rng.h"
#include "server/services/state.h"

#define GROUPS 10u

struct bench {
    unsigned gateways, streams, storages, rounds, parallel;
    struct services *s;
    struct rng rng;
    uint64_t now_ns, updates, items, longest_ns, pieces;
    enum period_stage longest_stage; /* in which that piece began */
};

static int sink_poll(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *p)
{
    (void)ctx;
    (void)session;
    (void)pair;
    (void)p;
    return 0;
}

static int sink_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    struct bench *b = ctx;
    (void)session;
    (void)pair;
    b->updates++;
    b->items += u->item_count;
    control_update_free(u);
    return 0;
}

static void sink_event(void *ctx, const struct event_record *e)
{
    (void)ctx;
    if (e->severity == EVENT_ERROR)
        fprintf(stderr, "%s: %s\n", e->kind, e->text);
}

static void agree(struct bench *b, const char *name, const char *volume, enum agreement_per per)
{
    struct agreement a = {.weight = 200, .version = 1, .per = per, .reservation_iops = 50,
                          .compliance_window_ns = 10 * NS_PER_S};
    char why[256];
    snprintf(a.name, sizeof(a.name), "%s", name);
    snprintf(a.applies_to.volume, sizeof(a.applies_to.volume), "%s", volume);
    a.limits.rate[GATE_IOPS_TOTAL].rate = per == AGREEMENT_PER_GROUP ? 100000 : 500;
    a.limits.rate[GATE_BYTES_TOTAL].rate = UINT64_C(4) << 30;
    a.objective[0] = (struct objective){990000, 5000, 1000};
    a.objective_count = 1;
    if (services_agreement_put(b->s, &a, b->now_ns, 0, why, sizeof(why)) != 0)
        fprintf(stderr, "%s\n", why);
}

static void begin(struct bench *b)
{
    struct services_config c = {.period_ns = NS_PER_S, .lease_ns = 10 * NS_PER_S,
                                .max_gateways = b->gateways,
                                .max_streams = b->gateways * b->streams, .processes = 1,
                                .in_pieces = true,
                                .first_epoch = 1};
    struct services_sink sink = {.ctx = b, .poll = sink_poll, .controls = sink_controls,
                                 .event = sink_event};
    b->now_ns = 1000 * NS_PER_S;
    rng_seed(&b->rng, 1);
    b->s = services_new(&c, &sink);
    weir_assert(b->s != NULL);
    char name[32];
    for (unsigned i = 0; i < GROUPS; i++) {
        snprintf(name, sizeof(name), "shared%u", i);
        agree(b, name, name, AGREEMENT_PER_GROUP);
    }
    agree(b, "each", "own*", AGREEMENT_PER_STREAM);
    services_loaded(b->s, b->now_ns, 0);
    while (period_step(b->s))
        continue;
}

static void stream_report(struct bench *b, struct report_stream *r, unsigned gateway, unsigned i,
                          uint64_t ios)
{
    *r = (struct report_stream){.index = i, .has_info = true, .connections = 1, .op_count = 1,
                                .size = UINT64_C(1) << 34, .cost_served_ns = ios * 100000};
    snprintf(r->host, sizeof(r->host), "10.%u.%u.1", gateway / 256, gateway % 256);
    if (i < GROUPS)
        snprintf(r->volume, sizeof(r->volume), "shared%u", i);
    else
        snprintf(r->volume, sizeof(r->volume), "own%u", i);
    snprintf(r->target, sizeof(r->target), "array");
    r->op[0] = (struct report_op){.op = IO_READ,
                                  .counts = {.arrivals = ios, .completions = ios,
                                             .bytes = ios * 4096}};
    if (rng_below(&b->rng, 4) == 0) {
        r->held_now = 3;
        snprintf(r->held_by, sizeof(r->held_by), "agreement/shared%u", i);
    }
}

/* The first answer of a gateway and the next, a second later: its demand. */
static void report(struct bench *b, unsigned gateway, uint64_t seq)
{
    struct report r = {.session = gateway + 1, .seq = seq, .mono_ns = b->now_ns,
                       .target_count = 1, .stream_count = b->streams};
    r.boot[0] = 1;
    r.stream = calloc(b->streams, sizeof(*r.stream));
    r.target = calloc(1, sizeof(*r.target));
    weir_assert(r.stream != NULL && r.target != NULL);
    for (unsigned i = 0; i < b->streams; i++)
        stream_report(b, &r.stream[i], gateway, i, seq * (20 + rng_below(&b->rng, 300)));
    snprintf(r.target->name, sizeof(r.target->name), "array");
    snprintf(r.target->uri, sizeof(r.target->uri), "nbd://10.0.0.%u", gateway % b->storages);
    r.target->parallelism_milli = (uint64_t)b->parallel * 1000;
    services_report(b->s, &r, b->now_ns, 0);
    free(r.stream);
    free(r.target);
}

static void hello(struct bench *b, unsigned gateway)
{
    struct gateway_hello h = {.session = gateway + 1};
    memcpy(h.id, &gateway, sizeof(gateway));
    h.boot[0] = 1;
    snprintf(h.name, sizeof(h.name), "gw%u", gateway);
    services_gateway_up(b->s, &h, b->now_ns, 0);
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* One period's work on what was merged last; ns of processor time. */
static uint64_t plan_once(struct bench *b)
{
    uint64_t begin_ns = cpu_ns(), last_ns = begin_ns;
    bool more = true;
    period_ask(b->s, PERIOD_WHOLE);
    while (more) {
        enum period_stage stage = b->s->period.stage;
        more = period_step(b->s);
        uint64_t now_ns = cpu_ns();
        if (now_ns - last_ns > b->longest_ns) {
            b->longest_ns = now_ns - last_ns;
            b->longest_stage = stage;
        }
        b->pieces++;
        last_ns = now_ns;
    }
    return last_ns - begin_ns;
}

static int order(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

int main(int argc, char **argv)
{
    struct bench b = {.gateways = 1000, .streams = 100, .storages = 50, .rounds = 20,
                      .parallel = 10000};
    unsigned *arg[] = {&b.gateways, &b.streams, &b.storages, &b.rounds, &b.parallel};
    for (int i = 1; i < argc && i <= 5; i++)
        *arg[i - 1] = (unsigned)strtoul(argv[i], NULL, 10);
    begin(&b);
    for (unsigned g = 0; g < b.gateways; g++)
        hello(&b, g);
    for (unsigned g = 0; g < b.gateways; g++)
        report(&b, g, 1);
    uint64_t first_ns = plan_once(&b), first_longest_ns = b.longest_ns;
    enum period_stage first_stage = b.longest_stage;
    b.longest_ns = b.pieces = 0;
    uint64_t *ns = calloc(b.rounds + 1, sizeof(*ns));
    weir_assert(ns != NULL);
    for (unsigned round = 0; round < b.rounds; round++)
        ns[round] = plan_once(&b);
    qsort(ns, b.rounds, sizeof(*ns), order);
    double median = (double)ns[b.rounds / 2] / 1e6;
    double worst = b.rounds > 0 ? (double)ns[b.rounds - 1] / 1e6 : 0;
    free(ns);
    printf("%u gateways x %u streams before %u storages\n", b.gateways, b.streams, b.storages);
    printf("first plan %.2f ms, then %.2f ms (worst %.2f) of %u: %.2f %% of a core at one a "
           "second\n",
           (double)first_ns / 1e6, median, worst, b.rounds, median / 10);
    printf("in pieces: longest of the first %.2f ms (stage %d), of the others %.2f ms (stage %d; "
           "%llu a plan)\n",
           (double)first_longest_ns / 1e6, (int)first_stage, (double)b.longest_ns / 1e6,
           (int)b.longest_stage,
           (unsigned long long)(b.rounds > 0 ? b.pieces / b.rounds : 0));
    printf("%llu controls in %llu messages\n", (unsigned long long)b.items,
           (unsigned long long)b.updates);
    services_free(b.s);
    return 0;
}

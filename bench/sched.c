/* SPDX-License-Identifier: Apache-2.0 */
/* What one decision of the scheduler costs: processor time of one I/O from its submission to its
 * answer, at a target where nobody has a share, where nothing waits, and where all waits.
 *
 *   bench-sched [IOS]     2,000,000 by default
 *
 * Time is made up, so that nothing but the decisions is measured: each I/O is submitted, polled for
 * and completed on a clock that moves by a microsecond. Every case is run five times; the median is
 * printed, in nanoseconds an I/O. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "qos/target.h"

#define SHARES_MAX 1000u
#define DEPTH      16u /* of each share, where all waits */
#define ROUNDS     5u

struct bench_case {
    const char *name;
    uint32_t shares; /* 0: one stream without any */
    uint64_t slots_milli;
    bool reserved, waits;
};

struct bench {
    struct target target;
    struct sched_share share[SHARES_MAX];
    struct sched_flow flow[SHARES_MAX];
    struct sched_io io[SHARES_MAX * DEPTH];
    uint64_t now_ns, done;
    struct list running; /* in the order in which they went */
};

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void bench_begin(struct bench *b, const struct bench_case *c)
{
    memset(b, 0, sizeof *b);
    b->now_ns = NS_PER_S;
    list_init(&b->running);
    int r = target_init(&b->target, SHARES_MAX, 10 * NS_PER_S);
    weir_assert(r == 0);
    struct window_plan plan = {.slots_milli = c->slots_milli};
    if (c->slots_milli > 0)
        target_plan(&b->target, &plan, b->now_ns);
    for (uint32_t i = 0; i < (c->shares > 0 ? c->shares : 1); i++) {
        sched_flow_init(b->target.sched, &b->flow[i], b->now_ns);
        if (c->shares == 0)
            continue;
        struct sched_terms t = {.weight = 100 + i % 7 * 50,
                                .reserve_iops = c->reserved && i % 2 == 0 ? 500 : 0};
        sched_share_init(b->target.sched, &b->share[i], &t, b->now_ns);
        sched_flow_join(&b->flow[i], &b->share[i], b->now_ns);
        target_share_add(&b->target, b->now_ns);
    }
}

static void submit(struct bench *b, struct sched_flow *f, struct sched_io *io)
{
    io->op = IO_READ;
    io->bytes = 4096;
    list_init(&io->link);
    list_init(&io->age_link);
    if (sched_submit(b->target.sched, f, io, b->now_ns))
        list_push_back(&b->running, &io->link);
}

/* Answer what went first; what waits may go then. */
static void step(struct bench *b)
{
    struct list *l = list_pop_front(&b->running);
    weir_assert(l != NULL);
    struct sched_io *io = container_of(l, struct sched_io, link);
    struct sched_flow *f = io->flow;
    b->now_ns += 1000;
    target_complete(&b->target, io, 1000, b->now_ns);
    b->done++;
    submit(b, f, io);
    for (struct sched_io *next; (next = sched_poll(b->target.sched, b->now_ns)) != NULL;)
        list_push_back(&b->running, &next->link);
}

static double run(struct bench *b, const struct bench_case *c, uint64_t ios)
{
    bench_begin(b, c);
    uint32_t flows = c->shares > 0 ? c->shares : 1;
    for (uint32_t i = 0; i < flows; i++)
        for (uint32_t k = 0; k < (c->waits ? DEPTH : 1); k++)
            submit(b, &b->flow[i], &b->io[i * DEPTH + k]);
    uint64_t begin = cpu_ns();
    while (b->done < ios)
        step(b);
    double ns = (double)(cpu_ns() - begin) / (double)ios;
    /* Empty it before it is taken down: without a window nothing waits. */
    sched_set_window(b->target.sched, 0, b->now_ns);
    for (struct sched_io *next; (next = sched_poll(b->target.sched, b->now_ns)) != NULL;)
        list_push_back(&b->running, &next->link);
    for (struct list *l; (l = list_pop_front(&b->running)) != NULL;)
        target_complete(&b->target, container_of(l, struct sched_io, link), 0, b->now_ns);
    for (uint32_t i = 0; i < flows; i++) {
        sched_flow_fini(&b->flow[i]);
        if (c->shares > 0)
            sched_share_fini(&b->share[i]);
    }
    target_fini(&b->target);
    return ns;
}

static int order(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"no share, no plan", 0, 0, false, false},
        {"1 share, nothing waits", 1, 64000, true, false},
        {"8 shares, all wait", 8, 8000, true, true},
        {"100 shares, all wait", 100, 16000, true, true},
        {"1000 shares, all wait", 1000, 64000, true, true},
    };
    uint64_t ios = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000000;
    struct bench *b = malloc(sizeof *b);
    weir_assert(b != NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double ns[ROUNDS];
        for (size_t k = 0; k < ROUNDS; k++)
            ns[k] = run(b, &cases[i], ios > 0 ? ios : 1);
        qsort(ns, ROUNDS, sizeof ns[0], order);
        printf("%-24s %7.1f ns an I/O\n", cases[i].name, ns[ROUNDS / 2]);
    }
    free(b);
    return 0;
}

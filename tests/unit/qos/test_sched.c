/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the scheduler keeps its promises: order, bounds, reservations, weights; and nobody gains by
 * hiding or splitting load.
 * Method: storms of random operations whose every step is checked; and a device of k servers with
 * random service times, loaded in closed and open loops on a virtual clock. */
#include <math.h>
#include <string.h>

#include "qos_test.h"

#include "base/list.h"
#include "qos/sched.h"

#define IOS   4096u
#define FLOWS 8u
#define S     UINT64_C(1000000000)
#define MS    UINT64_C(1000000)

struct job {
    struct sched_io io;
    uint32_t flow;
    uint64_t number, done_ns;
    bool used, going;
};

struct loop {
    uint32_t depth;    /* closed loop; 0: open */
    uint64_t every_ns; /* open loop: mean gap */
    uint64_t bytes;
    bool on, writes; /* writes: half of them */
    bool only_writes;
    uint64_t next_ns, served, served_cost, worst_ns, latency_ns;
};

struct lab {
    struct sched *s;
    struct sched_flow flow[FLOWS];
    struct sched_share share[FLOWS];
    bool shared[FLOWS];
    struct loop loop[FLOWS];
    struct job job[IOS];
    struct rng rng;
    uint64_t now, number;
    uint32_t servers;
    uint64_t free_at[64];
    double slow;
};

static void lab_init(struct lab *l, uint32_t servers, uint64_t slots_milli)
{
    memset(l, 0, sizeof *l);
    rng_seed(&l->rng, test_seed());
    l->now = 1000 * S;
    l->servers = servers;
    l->slow = 1;
    l->s = sched_new(2 * FLOWS, 30 * S);
    assert_non_null(l->s);
    const struct cost_model m = {.base_ns = {900000, 900000}, .page_ns = {100000, 100000}};
    sched_set_cost(l->s, &m);
    sched_set_window(l->s, slots_milli, l->now);
    for (uint32_t i = 0; i < FLOWS; i++) {
        sched_flow_init(l->s, &l->flow[i], l->now);
        l->loop[i].bytes = 4096;
    }
}

static void lab_share(struct lab *l, uint32_t share, uint32_t flow, struct sched_terms t)
{
    if (!l->shared[share])
        sched_share_init(l->s, &l->share[share], &t, l->now);
    l->shared[share] = true;
    sched_flow_join(&l->flow[flow], &l->share[share], l->now);
}

static void lab_fini(struct lab *l)
{
    for (uint32_t i = 0; i < IOS; i++) {
        struct job *j = &l->job[i];
        if (j->used && j->going)
            sched_complete(l->s, &j->io, 0, l->now);
        else if (j->used)
            sched_cancel(l->s, &j->io, l->now);
    }
    for (uint32_t i = 0; i < FLOWS; i++)
        sched_flow_fini(&l->flow[i]);
    for (uint32_t i = 0; i < FLOWS; i++)
        if (l->shared[i])
            sched_share_fini(&l->share[i]);
    sched_free(l->s);
}

static struct job *job_new(struct lab *l, uint32_t flow, enum io_op op, uint64_t bytes)
{
    for (uint32_t i = 0; i < IOS; i++) {
        struct job *j = &l->job[(l->number + i) % IOS];
        if (j->used)
            continue;
        *j = (struct job){.flow = flow, .used = true, .number = ++l->number};
        j->io.op = op;
        j->io.bytes = bytes;
        list_init(&j->io.link);
        list_init(&j->io.age_link);
        return j;
    }
    fail_msg("out of jobs");
    return NULL;
}

/* The device: first come, first served, by the server that is free first. */
static void device_take(struct lab *l, struct job *j)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < l->servers; i++)
        if (l->free_at[i] < l->free_at[best])
            best = i;
    uint64_t begin = l->free_at[best] > l->now ? l->free_at[best] : l->now;
    double ns = (double)j->io.cost_ns * (0.5 + rng_unit(&l->rng)) * l->slow;
    j->done_ns = l->free_at[best] = begin + (uint64_t)ns;
    j->going = true;
}

static void lab_poll(struct lab *l)
{
    struct sched_io *io;
    while ((io = sched_poll(l->s, l->now)) != NULL)
        device_take(l, container_of(io, struct job, io));
    if (sched_inflight(l->s) < sched_window(l->s) / 1000)
        assert_int_equal(sched_queued(l->s), 0);
}

static void lab_submit(struct lab *l, uint32_t f)
{
    struct loop *p = &l->loop[f];
    enum io_op op = p->writes && rng_below(&l->rng, 2) ? IO_WRITE : IO_READ;
    op = p->only_writes ? IO_WRITE : op;
    struct job *j = job_new(l, f, op, p->bytes);
    if (sched_submit(l->s, &l->flow[f], &j->io, l->now))
        device_take(l, j);
}

static void lab_fill(struct lab *l, uint32_t f)
{
    struct loop *p = &l->loop[f];
    uint32_t out = l->flow[f].queued + l->flow[f].inflight;
    for (; p->on && p->depth > 0 && out < p->depth; out++)
        lab_submit(l, f);
}

static struct job *lab_next(struct lab *l)
{
    struct job *next = NULL;
    for (uint32_t i = 0; i < IOS; i++) {
        struct job *j = &l->job[i];
        if (j->used && j->going && (next == NULL || j->done_ns < next->done_ns))
            next = j;
    }
    return next;
}

static uint64_t lab_arrival(struct lab *l, uint32_t *ret_flow)
{
    uint64_t at = UINT64_MAX;
    for (uint32_t f = 0; f < FLOWS; f++) {
        struct loop *p = &l->loop[f];
        if (!p->on || p->every_ns == 0)
            continue;
        if (p->next_ns == 0)
            p->next_ns = l->now + p->every_ns;
        if (p->next_ns < at) {
            at = p->next_ns;
            *ret_flow = f;
        }
    }
    return at;
}

static void lab_run(struct lab *l, uint64_t ns)
{
    uint64_t end = l->now + ns;
    for (uint32_t f = 0; f < FLOWS; f++)
        lab_fill(l, f);
    lab_poll(l);
    for (;;) {
        uint32_t f = 0;
        struct job *j = lab_next(l);
        uint64_t arrival = lab_arrival(l, &f), due = sched_next_ns(l->s);
        uint64_t done = j != NULL ? j->done_ns : UINT64_MAX;
        uint64_t at = done < arrival ? done : arrival;
        at = due < at ? due : at;
        if (at > end)
            break;
        l->now = at > l->now ? at : l->now;
        if (at == done) {
            struct loop *p = &l->loop[j->flow];
            uint64_t took = l->now - j->io.submitted_ns;
            f = j->flow;
            p->served++;
            p->served_cost += j->io.cost_ns;
            p->latency_ns += took;
            p->worst_ns = took > p->worst_ns ? took : p->worst_ns;
            sched_complete(l->s, &j->io, took, l->now);
            j->used = false;
            lab_fill(l, f);
        } else if (at == arrival) {
            struct loop *p = &l->loop[f];
            p->next_ns = l->now + 1 + (uint64_t)(2.0 * rng_unit(&l->rng) * (double)p->every_ns);
            lab_submit(l, f);
        }
        lab_poll(l);
    }
    l->now = end;
}

static void lab_clear(struct lab *l)
{
    for (uint32_t f = 0; f < FLOWS; f++)
        l->loop[f].served = l->loop[f].served_cost = l->loop[f].worst_ns = l->loop[f].latency_ns =
            0;
}

/* ---- order and bounds ------------------------------------------------------------------------ */

struct order {
    uint64_t last[FLOWS][2], flush[FLOWS], gone;
};

static void check_goes(struct order *o, struct lab *l, struct job *j)
{
    j->going = true;
    o->gone++;
    if (j->io.op == IO_BLOCK_STATUS)
        return;
    enum io_direction dir = io_op_direction(j->io.op);
    if (dir != IO_DIR_NONE) {
        assert_true(j->number > o->last[j->flow][dir]);
        o->last[j->flow][dir] = j->number;
        return;
    }
    for (uint32_t i = 0; i < IOS; i++) {
        const struct job *w = &l->job[i];
        if (w->used && !w->going && w->flow == j->flow && w->io.op == IO_WRITE)
            assert_true(w->number > j->number);
    }
}

static void storm(struct lab *l, struct order *o)
{
    static const enum io_op ops[] = {IO_READ, IO_WRITE, IO_WRITE, IO_FLUSH, IO_BLOCK_STATUS};
    uint64_t roll = rng_below(&l->rng, 100);
    l->now += rng_below(&l->rng, 300000);
    if (roll < 45) {
        uint32_t f = (uint32_t)rng_below(&l->rng, FLOWS);
        struct job *j = job_new(l, f, ops[rng_below(&l->rng, 5)], rng_below(&l->rng, 200000));
        if (sched_submit(l->s, &l->flow[f], &j->io, l->now))
            check_goes(o, l, j);
    } else if (roll < 90) {
        struct job *j = &l->job[rng_below(&l->rng, IOS)];
        for (uint32_t i = 0; i < IOS && !(j->used && j->going); i++)
            j = &l->job[(uint64_t)(j - l->job + 1) % IOS];
        if (j->used && j->going) {
            sched_complete(l->s, &j->io, 1 + rng_below(&l->rng, 2 * MS), l->now);
            j->used = false;
        }
    } else if (roll < 92) {
        struct job *j = &l->job[rng_below(&l->rng, IOS)];
        if (j->used && !j->going) {
            sched_cancel(l->s, &j->io, l->now);
            j->used = false;
        }
    } else if (roll < 94) {
        sched_set_window(l->s, rng_below(&l->rng, 5) * rng_below(&l->rng, 8000), l->now);
    } else if (roll < 97) {
        uint32_t f = (uint32_t)rng_below(&l->rng, FLOWS), to = (uint32_t)rng_below(&l->rng, FLOWS);
        sched_flow_join(&l->flow[f], to == f ? NULL : &l->share[to], l->now);
    } else {
        struct sched_share *sh = &l->share[rng_below(&l->rng, FLOWS)];
        struct sched_terms t = sh->terms;
        t.weight = 1 + (uint32_t)rng_below(&l->rng, 1000);
        t.reserve_iops = rng_below(&l->rng, 3) * rng_below(&l->rng, 5000);
        t.reserve_bytes_s = rng_below(&l->rng, 3) * rng_below(&l->rng, 50000000);
        for (int d = 0; d < 2; d++) {
            t.reserve_dir_iops[d] = rng_below(&l->rng, 2) * rng_below(&l->rng, 5000);
            t.reserve_dir_bytes_s[d] = rng_below(&l->rng, 2) * rng_below(&l->rng, 50000000);
            t.elsewhere_dir_ios[d] += rng_below(&l->rng, 100);
            t.elsewhere_dir_bytes[d] += rng_below(&l->rng, 1000000);
        }
        t.elsewhere_ios += rng_below(&l->rng, 100);
        t.elsewhere_bytes += rng_below(&l->rng, 1000000);
        t.elsewhere_cost_ns += rng_below(&l->rng, S);
        sched_share_change(sh, &t, l->now);
    }
    struct sched_io *io;
    while ((io = sched_poll(l->s, l->now)) != NULL)
        check_goes(o, l, container_of(io, struct job, io));
    if (sched_window(l->s) == 0)
        assert_int_equal(sched_queued(l->s), 0);
    uint64_t next = sched_next_ns(l->s);
    assert_true(next > l->now || next == UINT64_MAX);
}

static void whatever_happens_order_is_kept_and_nothing_is_lost(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 4000);
    sched_set_max_wait(l->s, 300 * MS);
    struct order o = {.gone = 0};
    for (uint32_t i = 0; i < FLOWS; i++) {
        sched_share_init(l->s, &l->share[i], &(struct sched_terms){.weight = 100}, l->now);
        l->shared[i] = true;
    }
    for (int i = 0; i < 200000; i++) {
        storm(l, &o);
        for (uint32_t k = 0; i % 1000 == 0 && k < IOS; k++)
            if (l->job[k].used && !l->job[k].going && l->job[k].io.queued)
                assert_true(l->now - l->job[k].io.submitted_ns < 300 * MS);
    }
    assert_true(o.gone > 10000);
    lab_fini(l);
    free(l);
}

static void without_a_window_nothing_waits_and_no_tag_moves(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 0);
    lab_share(l, 0, 0, (struct sched_terms){.weight = 300, .reserve_iops = 100});
    uint64_t p = l->share[0].p;
    for (uint32_t i = 0; i < 1000; i++) {
        struct job *j = job_new(l, 0, IO_WRITE, 65536);
        assert_true(sched_submit(l->s, &l->flow[0], &j->io, l->now));
        j->going = true;
    }
    assert_true(l->share[0].p == p);
    assert_int_equal(sched_inflight(l->s), 1000);
    assert_int_equal(sched_next_ns(l->s), UINT64_MAX);
    lab_fini(l);
    free(l);
}

static void a_run_leaves_what_its_ios_would(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    struct sched_counts counts[2];
    uint64_t arrived[2], served[2];
    for (int run = 0; run < 2; run++) {
        struct job *j[100];
        struct sched_run went = {0}, answered = {0};
        lab_init(l, 8, 0);
        struct sched_flow *f = &l->flow[0];
        for (uint32_t i = 0; i < 100; i++) {
            j[i] = job_new(l, 0, IO_READ, 4096 * (1 + i % 3));
            if (run == 0)
                assert_true(sched_submit(l->s, f, &j[i]->io, l->now));
            else
                sched_went(&went, f, &j[i]->io,
                           cost_of(sched_cost(l->s), IO_READ, j[i]->io.bytes), l->now);
        }
        if (run == 1)
            sched_submit_run(l->s, f, &went);
        assert_int_equal(sched_inflight(l->s), 100);
        l->now += 5 * MS;
        for (uint32_t i = 0; i < 60; i++) {
            if (run == 0)
                sched_complete(l->s, &j[i]->io, 5 * MS, l->now);
            else
                sched_answered(&answered, &j[i]->io, l->now);
            j[i]->used = false;
        }
        if (run == 1)
            sched_complete_run(l->s, f, &answered);
        assert_int_equal(sched_inflight(l->s), 40);
        assert_int_equal(f->inflight, 40);
        counts[run] = *sched_account(l->s, l->now);
        arrived[run] = f->cost_arrived_ns;
        served[run] = f->cost_served_ns;
        /* With a window all are as if they had been submitted one by one. */
        sched_set_window(l->s, 50000, l->now);
        for (uint32_t i = 60; i < 100; i++) {
            sched_complete(l->s, &j[i]->io, 5 * MS, l->now);
            j[i]->used = false;
        }
        lab_fini(l);
    }
    assert_memory_equal(&counts[0], &counts[1], sizeof counts[0]);
    assert_true(arrived[0] == arrived[1] && served[0] == served[1] && served[0] > 0);
    free(l);
}

static void one_that_waits_too_long_goes_whatever_the_window_says(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 1, 1000);
    sched_set_max_wait(l->s, 50 * MS);
    for (int i = 0; i < 3; i++)
        lab_submit(l, 0);
    assert_int_equal(sched_queued(l->s), 2);
    assert_int_equal(sched_next_ns(l->s), l->now + 50 * MS);
    l->now += 50 * MS;
    lab_poll(l);
    assert_int_equal(sched_queued(l->s), 0);
    assert_int_equal(sched_inflight(l->s), 3);
    assert_int_equal(sched_account(l->s, l->now)->overdue, 2);
    lab_fini(l);
    free(l);
}

/* ---- shares ---------------------------------------------------------------------------------- */

static double ratio(const struct lab *l, uint32_t a, uint32_t b)
{
    return (double)l->loop[a].served_cost / (double)l->loop[b].served_cost;
}

static void device_time_is_divided_by_weight_whatever_the_sizes(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 10000);
    lab_share(l, 0, 0, (struct sched_terms){.weight = 100});
    lab_share(l, 1, 1, (struct sched_terms){.weight = 300});
    lab_share(l, 2, 2, (struct sched_terms){.weight = 50});
    l->loop[0] = (struct loop){.depth = 32, .bytes = 4096, .on = true};
    l->loop[1] = (struct loop){.depth = 64, .bytes = 65536, .on = true, .writes = true};
    l->loop[2] = (struct loop){.depth = 200, .bytes = 16384, .on = true};
    lab_run(l, S);
    lab_clear(l);
    lab_run(l, 10 * S);
    assert_true(ratio(l, 1, 0) > 2.9);
    assert_true(ratio(l, 1, 0) < 3.1);
    assert_true(ratio(l, 0, 2) > 1.93);
    assert_true(ratio(l, 0, 2) < 2.07);
    lab_fini(l);
    free(l);
}

static void a_reservation_is_kept_beside_bullies(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 10000);
    lab_share(l, 0, 0, (struct sched_terms){.weight = 1, .reserve_iops = 2200});
    l->loop[0] = (struct loop){.every_ns = S / 2000, .bytes = 4096, .on = true};
    for (uint32_t i = 1; i < FLOWS; i++)
        l->loop[i] = (struct loop){.depth = 64, .bytes = 4096u << i % 5, .on = true};
    lab_run(l, S);
    for (int second = 0; second < 10; second++) {
        lab_clear(l);
        lab_run(l, S);
        assert_true(l->loop[0].served >= 1900);
        /* The service takes 1 ms; waiting for a turn and in the device, a few more. */
        assert_true(l->loop[0].latency_ns / l->loop[0].served < 4 * MS);
    }
    lab_fini(l);
    free(l);
}

static void a_reservation_in_bytes_is_kept_in_bytes(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 10000);
    lab_share(l, 0, 0, (struct sched_terms){.weight = 1, .reserve_bytes_s = 65536 * 1500});
    l->loop[0] = (struct loop){.depth = 64, .bytes = 65536, .on = true};
    l->loop[1] = (struct loop){.depth = 64, .bytes = 4096, .on = true};
    lab_run(l, S);
    lab_clear(l);
    lab_run(l, 5 * S);
    assert_true(l->loop[0].served >= 5 * 1490);
    lab_fini(l);
    free(l);
}

/* Flow 0 reads and flow 1 writes, of one share with @t; six bullies beside them. Served in a
 * second. */
static void directed(const struct sched_terms *t, uint64_t bytes, double ret[2])
{
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 10000);
    lab_share(l, 0, 0, *t);
    lab_share(l, 0, 1, *t);
    for (uint32_t i = 0; i < FLOWS; i++)
        l->loop[i] = (struct loop){.depth = 64, .bytes = i < 2 ? bytes : 4096, .on = true};
    l->loop[1].only_writes = true;
    lab_run(l, S);
    lab_clear(l);
    lab_run(l, 5 * S);
    for (int i = 0; i < 2; i++)
        ret[i] = (double)l->loop[i].served / 5;
    lab_fini(l);
    free(l);
}

static void reads_and_writes_have_reservations_of_their_own(void **state)
{
    (void)state;
    double got[2];
    directed(&(struct sched_terms){.weight = 1, .reserve_dir_iops = {1000, 300}}, 4096, got);
    assert_true(got[0] >= 990 && got[0] < 1100);
    assert_true(got[1] >= 297 && got[1] < 400); /* what reads have does not help writes */
    directed(&(struct sched_terms){.weight = 1, .reserve_dir_iops = {0, 1200}}, 4096, got);
    assert_true(got[0] < 100);
    assert_true(got[1] >= 1188);
    /* Of both together, and of reads at least so many of them. */
    directed(&(struct sched_terms){.weight = 1, .reserve_iops = 1500,
                                   .reserve_dir_iops = {1200, 0}},
             4096, got);
    assert_true(got[0] >= 1188);
    assert_true(got[0] + got[1] >= 1485 && got[0] + got[1] < 1800);
    directed(&(struct sched_terms){.weight = 1,
                                   .reserve_dir_bytes_s = {65536 * 700, 65536 * 100}},
             65536, got);
    assert_true(got[0] >= 693 && got[0] < 770);
    assert_true(got[1] >= 99 && got[1] < 170);
}

static void reads_of_one_flow_go_before_its_writes_when_only_reads_are_due(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 1, 1000);
    lab_share(l, 0, 0, (struct sched_terms){.weight = 1, .reserve_dir_iops = {1000, 0}});
    lab_submit(l, 1); /* takes the slot */
    l->loop[0] = (struct loop){.bytes = 4096, .only_writes = true};
    lab_submit(l, 0);
    lab_submit(l, 0);
    assert_int_equal(sched_next_ns(l->s), l->now + 30 * S); /* no write is ever due */
    l->loop[0].only_writes = false;
    lab_submit(l, 0);
    sched_complete(l->s, &lab_next(l)->io, 0, l->now);
    struct sched_io *io = sched_poll(l->s, l->now);
    assert_non_null(io);
    assert_int_equal(io->op, IO_READ);
    assert_int_equal(l->flow[0].reserved_ios, 1);
    sched_complete(l->s, io, 0, l->now);
    io = sched_poll(l->s, l->now);
    assert_non_null(io);
    assert_int_equal(io->op, IO_WRITE);
    assert_int_equal(l->flow[0].reserved_ios, 1); /* by weight */
    sched_complete(l->s, io, 0, l->now);
    while ((io = sched_poll(l->s, l->now)) != NULL)
        sched_complete(l->s, io, 0, l->now);
    memset(l->job, 0, sizeof l->job);
    lab_fini(l);
    free(l);
}

static void a_small_reservation_beside_a_great_one_is_not_ahead_for_ever(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 10000);
    /* 1,000 I/Os of 64 KiB a second are 1,000 times the bytes that are reserved. */
    const struct sched_terms t = {.weight = 1, .reserve_iops = 1000, .reserve_bytes_s = 65536};
    lab_share(l, 0, 0, t);
    l->loop[0] = (struct loop){.depth = 64, .bytes = 65536, .on = true};
    for (uint32_t i = 1; i < FLOWS; i++)
        l->loop[i] = (struct loop){.depth = 64, .bytes = 4096, .on = true};
    lab_run(l, 5 * S);
    const struct sched_tag *tag = &l->share[0].tag[SCHED_TOTAL];
    assert_true(tag->bytes <= l->now + 2 * S);
    assert_true(tag->io <= l->now + 2 * S);
    lab_fini(l);
    free(l);
}

/* Two reservations of more than there is, one of a loop that always waits: when there is enough
 * again it has no claim to the seconds before, and the other is served what it asks for. */
static void what_was_owed_for_long_is_not_made_up_for_at_the_cost_of_others(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 10000);
    lab_share(l, 0, 0, (struct sched_terms){.weight = 100, .reserve_iops = 12000});
    l->loop[0] = (struct loop){.depth = 64, .bytes = 4096, .on = true};
    lab_run(l, 5 * S); /* 8,000 a second: 20,000 are owed */
    struct sched_terms t = l->share[0].terms;
    t.reserve_iops = 4000;
    sched_share_change(&l->share[0], &t, l->now);
    lab_share(l, 1, 1, (struct sched_terms){.weight = 100, .reserve_iops = 4000});
    l->loop[1] = (struct loop){.depth = 4, .bytes = 4096, .on = true};
    lab_clear(l);
    lab_run(l, S);
    /* Four in flight are a third of what the device does: 2, by its depth alone. Of a debt of
     * seconds it is thousands. */
    assert_true(ratio(l, 0, 1) < 3.0);
    lab_fini(l);
    free(l);
}

static void more_than_the_reservation_is_divided_by_weight(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 10000);
    /* 8,000 a second: half by weight would be 4,000 each, which is more than is reserved. */
    lab_share(l, 0, 0, (struct sched_terms){.weight = 100, .reserve_iops = 1000});
    lab_share(l, 1, 1, (struct sched_terms){.weight = 100});
    l->loop[0] = l->loop[1] = (struct loop){.depth = 64, .bytes = 4096, .on = true};
    lab_run(l, S);
    lab_clear(l);
    lab_run(l, 5 * S);
    assert_true(ratio(l, 0, 1) > 0.97);
    assert_true(ratio(l, 0, 1) < 1.03);
    lab_fini(l);
    free(l);
}

static void splitting_the_load_of_a_share_gains_nothing(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 10000);
    lab_share(l, 0, 0, (struct sched_terms){.weight = 100});
    for (uint32_t f = 1; f < FLOWS; f++)
        lab_share(l, 1, f, (struct sched_terms){.weight = 100});
    for (uint32_t f = 0; f < FLOWS; f++)
        l->loop[f] = (struct loop){.depth = 32, .bytes = 4096, .on = true};
    lab_run(l, S);
    lab_clear(l);
    lab_run(l, 5 * S);
    double many = 0;
    for (uint32_t f = 1; f < FLOWS; f++)
        many += (double)l->loop[f].served_cost;
    assert_true(many / (double)l->loop[0].served_cost > 0.97);
    assert_true(many / (double)l->loop[0].served_cost < 1.03);
    lab_fini(l);
    free(l);
}

static void hiding_load_and_coming_back_gains_nothing(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 10000);
    lab_share(l, 0, 0, (struct sched_terms){.weight = 100});
    lab_share(l, 1, 1, (struct sched_terms){.weight = 100});
    l->loop[0] = l->loop[1] = (struct loop){.depth = 64, .bytes = 4096, .on = true};
    uint64_t on = 0, beside = 0;
    for (int i = 0; i < 40; i++) {
        l->loop[1].on = i % 2 == 0;
        lab_run(l, 50 * MS); /* what was asked for before the change is served */
        lab_clear(l);
        lab_run(l, 200 * MS);
        if (i % 2 == 0) {
            beside += l->loop[0].served_cost;
            on += l->loop[1].served_cost;
        }
    }
    assert_true((double)on / (double)beside < 1.03);
    assert_true((double)on / (double)beside > 0.97);
    lab_fini(l);
    free(l);
}

static void what_was_served_elsewhere_counts_against_the_weight(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 10000);
    lab_share(l, 0, 0, (struct sched_terms){.weight = 100});
    lab_share(l, 1, 1, (struct sched_terms){.weight = 100});
    l->loop[0] = l->loop[1] = (struct loop){.depth = 64, .bytes = 4096, .on = true};
    struct sched_terms t = {.weight = 100};
    lab_run(l, S);
    lab_clear(l);
    /* Each second the group is served 2 server-seconds elsewhere; 8 are divided here: 3 and 5. */
    for (int i = 0; i < 20; i++) {
        t.elsewhere_cost_ns += 2 * S;
        sched_share_change(&l->share[0], &t, l->now);
        lab_run(l, S);
    }
    assert_true(ratio(l, 0, 1) > 0.6 * 0.95);
    assert_true(ratio(l, 0, 1) < 0.6 * 1.05);
    lab_fini(l);
    free(l);
}

static void a_heavier_weight_never_gets_less(void **state)
{
    (void)state;
    double last = 0;
    for (uint32_t weight = 50; weight <= 800; weight *= 2) {
        struct lab *l = malloc(sizeof *l);
        lab_init(l, 4, 5000);
        lab_share(l, 0, 0, (struct sched_terms){.weight = weight});
        lab_share(l, 1, 1, (struct sched_terms){.weight = 200});
        l->loop[0] = (struct loop){.depth = 16, .bytes = 16384, .on = true};
        l->loop[1] = (struct loop){.depth = 64, .bytes = 4096, .on = true};
        lab_run(l, 4 * S);
        double got = (double)l->loop[0].served_cost;
        assert_true(got > last);
        last = got;
        lab_fini(l);
        free(l);
    }
}

static void what_a_window_has_beyond_whole_slots_is_kept_on_average(void **state)
{
    (void)state;
    static const uint64_t windows[] = {300, 1500, 2250, 6900};
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        struct lab *l = malloc(sizeof *l);
        lab_init(l, 8, windows[i]);
        l->loop[0] = (struct loop){.depth = 16, .bytes = 4096, .on = true};
        lab_run(l, S);
        uint64_t before = sched_account(l->s, l->now)->busy_ns;
        lab_run(l, 10 * S);
        double mean = (double)(sched_account(l->s, l->now)->busy_ns - before) / 10e9;
        double slots = (double)windows[i] / 1000;
        if (fabs(mean - slots) > 0.02 + 0.01 * slots)
            fail_msg("%.2f slots: %.3f in flight", slots, mean);
        lab_fini(l);
        free(l);
    }
}

static void late_answers_are_counted_and_remembered(void **state)
{
    (void)state;
    struct lab *l = malloc(sizeof *l);
    lab_init(l, 8, 8000);
    lab_share(l, 0, 0, (struct sched_terms){.weight = 100, .latency_us = 1000});
    for (uint32_t i = 0; i < 200; i++) {
        struct job *j = job_new(l, 0, IO_READ, 4096);
        assert_true(sched_submit(l->s, &l->flow[0], &j->io, l->now));
        sched_complete(l->s, &j->io, i % 4 == 0 ? 1000001 : 1000000, l->now);
        j->used = false;
    }
    assert_int_equal(l->flow[0].late, 50);
    assert_int_equal(sched_flow_late_recent(&l->flow[0]), 32);
    lab_fini(l);
    free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_happens_order_is_kept_and_nothing_is_lost),
        cmocka_unit_test(without_a_window_nothing_waits_and_no_tag_moves),
        cmocka_unit_test(a_run_leaves_what_its_ios_would),
        cmocka_unit_test(one_that_waits_too_long_goes_whatever_the_window_says),
        cmocka_unit_test(device_time_is_divided_by_weight_whatever_the_sizes),
        cmocka_unit_test(a_reservation_is_kept_beside_bullies),
        cmocka_unit_test(a_reservation_in_bytes_is_kept_in_bytes),
        cmocka_unit_test(reads_and_writes_have_reservations_of_their_own),
        cmocka_unit_test(reads_of_one_flow_go_before_its_writes_when_only_reads_are_due),
        cmocka_unit_test(a_small_reservation_beside_a_great_one_is_not_ahead_for_ever),
        cmocka_unit_test(what_was_owed_for_long_is_not_made_up_for_at_the_cost_of_others),
        cmocka_unit_test(more_than_the_reservation_is_divided_by_weight),
        cmocka_unit_test(splitting_the_load_of_a_share_gains_nothing),
        cmocka_unit_test(hiding_load_and_coming_back_gains_nothing),
        cmocka_unit_test(what_was_served_elsewhere_counts_against_the_weight),
        cmocka_unit_test(a_heavier_weight_never_gets_less),
        cmocka_unit_test(what_a_window_has_beyond_whole_slots_is_kept_on_average),
        cmocka_unit_test(late_answers_are_counted_and_remembered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

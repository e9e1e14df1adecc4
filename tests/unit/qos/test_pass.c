/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a pass lets go what gate_submit would let go one by one, and pays the same. Method: two
 * gates with the same rules live through the same batches at the same times, one I/O by I/O and one
 * with passes; after each batch what went and every bucket of the two must be the same. Rates,
 * bursts, sizes, times and who is covered by what are random. */
#include "qos_test.h"

#include <string.h>

#include "qos/pass.h"

#define FLOWS 3u
#define RULES 4u
#define IOS   512u
#define BATCHES 40u
#define WORLDS 100

struct one {
    struct gate_io io;
    bool held;
};

struct side {
    struct gate *gate;
    struct gate_rule rule[RULES];
    struct gate_flow flow[FLOWS];
    struct one io[IOS];
    uint32_t held;
};

struct pair {
    struct side plain, passes;
    struct rng rng;
    uint64_t now;
    uint32_t next;
    uint32_t by_pass, by_gate, by_nobody, went_held; /* to see that both ways were gone */
};

static struct gate_limits random_limits(struct rng *r)
{
    struct gate_limits l = {0};
    for (uint32_t k = 0; k < GATE_KIND_COUNT; k++) {
        if (rng_below(r, 3) != 0)
            continue;
        bool bytes = k >= GATE_BYTES_READ;
        uint64_t rate = test_rng_log(r, bytes ? 100000 : 100, bytes ? UINT64_C(1) << 40 : 10000000);
        l.rate[k].rate = rate;
        if (rng_below(r, 2) == 0)
            continue;
        l.rate[k].burst_rate = rate + 1 + rng_below(r, 4 * rate);
        l.rate[k].burst_ns = test_rng_log(r, 1000, 1000000000);
    }
    return l;
}

static void side_init(struct side *s, const struct gate_limits *limits, uint32_t cover[FLOWS])
{
    memset(s, 0, sizeof *s);
    s->gate = gate_new(RULES, UINT64_MAX);
    assert_non_null(s->gate);
    for (uint32_t i = 0; i < RULES; i++)
        gate_rule_init(s->gate, &s->rule[i], &limits[i], 0);
    for (uint32_t f = 0; f < FLOWS; f++) {
        struct gate_rule *rules[RULES];
        size_t n = 0;
        for (uint32_t i = 0; i < RULES; i++)
            if (cover[f] >> i & 1u)
                rules[n++] = &s->rule[i];
        gate_flow_init(s->gate, &s->flow[f]);
        assert_int_equal(gate_flow_cover(s->gate, &s->flow[f], rules, n, 0), 0);
    }
}

static void side_fini(struct side *s, uint64_t now)
{
    for (uint32_t i = 0; i < IOS; i++)
        if (s->io[i].held)
            gate_cancel(s->gate, &s->io[i].io, now);
    for (uint32_t f = 0; f < FLOWS; f++)
        assert_int_equal(gate_flow_cover(s->gate, &s->flow[f], NULL, 0, now), 0);
    for (uint32_t i = 0; i < RULES; i++)
        gate_rule_fini(&s->rule[i]);
    gate_free(s->gate);
}

static void same_buckets(struct pair *p)
{
    for (uint32_t i = 0; i < RULES; i++) {
        gate_rule_refill(&p->plain.rule[i], p->now);
        gate_rule_refill(&p->passes.rule[i], p->now);
        for (uint32_t k = 0; k < GATE_KIND_COUNT; k++) {
            const struct bucket *a = &p->plain.rule[i].bucket[k], *b = &p->passes.rule[i].bucket[k];
            const struct bucket_state *x = &a->state[a->in_force], *y = &b->state[b->in_force];
            assert_true(x->credit == y->credit);
            assert_true(x->burst_credit == y->burst_credit);
            assert_true(x->pace == y->pace);
        }
    }
}

/* What became due goes, on both sides the same. */
static void poll_both(struct pair *p)
{
    for (;;) {
        struct gate_io *a = gate_poll(p->plain.gate, p->now);
        struct gate_io *b = gate_poll(p->passes.gate, p->now);
        assert_int_equal(a == NULL, b == NULL);
        if (a == NULL)
            return;
        struct one *x = container_of(a, struct one, io), *y = container_of(b, struct one, io);
        assert_int_equal(x - p->plain.io, y - p->passes.io);
        x->held = y->held = false;
        p->plain.held--;
        p->went_held++;
    }
}

/* An I/O that neither side holds. */
static uint32_t free_io(struct pair *p)
{
    while (p->plain.io[p->next % IOS].held)
        p->next++;
    return p->next++ % IOS;
}

static void batch(struct pair *p)
{
    uint32_t f = (uint32_t)rng_below(&p->rng, FLOWS), n = 1 + (uint32_t)rng_below(&p->rng, 64);
    uint64_t most = test_rng_log(&p->rng, 512, UINT32_MAX);
    struct pass pass;
    bool open = false, single = false, needless = pass_needless(&p->passes.flow[f]);
    for (uint32_t i = 0; i < n && p->plain.held < IOS - 64; i++) {
        uint32_t at = free_io(p);
        enum io_op op = (enum io_op)rng_below(&p->rng, 2);
        if (rng_below(&p->rng, 40) == 0)
            op = IO_TRIM;
        const struct gate_io io = {.op = op, .bytes = 1 + rng_below(&p->rng, most),
                                   .arrived_ns = p->now};
        p->plain.io[at].io = p->passes.io[at].io = io;
        bool plain = gate_submit(p->plain.gate, &p->plain.flow[f], &p->plain.io[at].io, p->now);
        bool went = op != IO_TRIM && needless;
        p->by_nobody += went;
        if (op != IO_TRIM && !needless && !single) {
            if (!open)
                pass_open(&pass, &p->passes.flow[f], p->now);
            open = true;
            went = pass_take(&pass, (enum io_direction)op, io.bytes);
            single = !went;
            p->by_pass += went;
        }
        if (!went) {
            if (open)
                pass_close(&pass);
            open = false;
            went = gate_submit(p->passes.gate, &p->passes.flow[f], &p->passes.io[at].io, p->now);
            p->by_gate += went;
        }
        assert_int_equal(plain, went);
        p->plain.io[at].held = p->passes.io[at].held = !went;
        p->plain.held += !went;
    }
    if (open)
        pass_close(&pass);
    same_buckets(p);
}

static void world(struct rng *seeds, uint32_t sums[4])
{
    struct pair *p = calloc(1, sizeof *p);
    struct gate_limits limits[RULES];
    uint32_t cover[FLOWS];
    assert_non_null(p);
    rng_seed(&p->rng, rng_u64(seeds));
    for (uint32_t i = 0; i < RULES; i++)
        limits[i] = random_limits(&p->rng);
    for (uint32_t f = 0; f < FLOWS; f++)
        cover[f] = (uint32_t)rng_below(&p->rng, 1u << RULES);
    side_init(&p->plain, limits, cover);
    side_init(&p->passes, limits, cover);
    for (uint32_t i = 0; i < BATCHES; i++) {
        p->now += test_rng_log(&p->rng, 100, 100000000);
        poll_both(p);
        same_buckets(p);
        batch(p);
    }
    sums[0] += p->by_pass;
    sums[1] += p->by_gate;
    sums[2] += p->went_held;
    sums[3] += p->by_nobody;
    side_fini(&p->plain, p->now);
    side_fini(&p->passes, p->now);
    free(p);
}

static void a_pass_lets_go_and_charges_what_the_gate_would(void **state)
{
    (void)state;
    struct rng seeds;
    uint32_t sums[4] = {0};
    rng_seed(&seeds, test_seed());
    for (int i = 0; i < WORLDS; i++)
        world(&seeds, sums);
    print_message("%u went by a pass, %u by the gate, %u after they were held, %u unasked\n",
                  sums[0], sums[1], sums[2], sums[3]);
    assert_true(sums[0] > 1000);
    assert_true(sums[1] > 0);
    assert_true(sums[2] > 100);
    assert_true(sums[3] > 100);
}

static void without_limits_everything_goes(void **state)
{
    (void)state;
    struct gate *g = gate_new(1, UINT64_MAX);
    struct gate_flow f;
    struct pass p;
    gate_flow_init(g, &f);
    assert_true(pass_needless(&f));
    pass_open(&p, &f, 1);
    for (uint32_t i = 0; i < 1024; i++)
        assert_true(pass_take(&p, i % 2 ? IO_DIR_READ : IO_DIR_WRITE, 32 << 20));
    pass_close(&p);
    gate_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pass_lets_go_and_charges_what_the_gate_would),
        cmocka_unit_test(without_limits_everything_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

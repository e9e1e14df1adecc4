/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: whatever happens in whatever order, each I/O leaves the gate exactly once, nothing goes
 * before its time or is forgotten after it, groups share fairly, and every rule of a stack of rules
 * keeps its rate. Method: closed loops of many flows on a virtual clock, polls up to 10 ms late,
 * and storms of submits, cancels, changes and covers; after each round every held head is held
 * against its rules by brute force. */
#include "qos_test.h"

#include "base/err.h"
#include "qos/gate.h"

#define FLOWS 12
#define DEPTH_MAX 64
#define RULES 6

enum where { OUT, HELD, GONE };

struct tracked {
    struct gate_io io;
    enum where where;
    uint64_t done_ns; /* GONE: when the target answers */
};

struct host {
    struct gate_flow flow;
    struct tracked io[DEPTH_MAX];
    uint32_t depth;
    uint64_t size;    /* of its I/Os, at most */
    uint64_t service_ns;
    uint32_t write_percent;
    uint64_t sent, sent_bytes;
};

struct world {
    struct gate *g;
    struct gate_rule rule[RULES];
    struct host host[FLOWS];
    uint32_t hosts;
    struct rng rng;
    uint64_t now;
    uint64_t late_ns;
    uint64_t submitted, left, cancelled;
};

static void world_init(struct world *w, uint64_t seed, uint64_t max_hold_ns)
{
    *w = (struct world){.hosts = FLOWS};
    rng_seed(&w->rng, seed);
    w->g = gate_new(RULES, max_hold_ns);
    assert_non_null(w->g);
    struct gate_limits none = {0};
    for (size_t i = 0; i < RULES; i++)
        gate_rule_init(w->g, &w->rule[i], &none, 0);
    for (size_t i = 0; i < FLOWS; i++) {
        gate_flow_init(w->g, &w->host[i].flow);
        w->host[i].flow.owner = &w->host[i];
        w->host[i].depth = 1;
        w->host[i].size = 4096;
        w->host[i].service_ns = 100000;
    }
}

static void world_fini(struct world *w)
{
    for (size_t h = 0; h < FLOWS; h++)
        for (size_t i = 0; i < DEPTH_MAX; i++)
            if (w->host[h].io[i].where == HELD)
                gate_cancel(w->g, &w->host[h].io[i].io, w->now);
    for (size_t h = 0; h < FLOWS; h++)
        assert_true(gate_flow_idle(&w->host[h].flow));
    for (size_t i = 0; i < RULES; i++)
        gate_rule_fini(&w->rule[i]);
    assert_int_equal(gate_next_ns(w->g), UINT64_MAX);
    gate_free(w->g);
}

static void set_limit(struct world *w, size_t rule, enum gate_kind k, uint64_t rate)
{
    struct gate_limits l = {0};
    for (size_t i = 0; i < GATE_KIND_COUNT; i++)
        l.rate[i] = w->rule[rule].bucket[i].cfg;
    l.rate[k] = (struct bucket_rate){.rate = rate};
    gate_rule_change(&w->rule[rule], &l, w->now);
}

static void cover_by(struct world *w, struct host *h, const size_t *rules, size_t count)
{
    struct gate_rule *cover[RULES];
    for (size_t i = 0; i < count; i++)
        cover[i] = &w->rule[rules[i]];
    assert_int_equal(gate_flow_cover(w->g, &h->flow, cover, count, w->now), 0);
}

static struct tracked *tracked_of(struct gate_io *io)
{
    return container_of(io, struct tracked, io);
}

static void gone(struct world *w, struct tracked *t)
{
    struct host *h = t->io.flow->owner;
    assert_int_not_equal(t->where, GONE); /* once only */
    assert_false(t->io.queued);
    assert_int_equal(t->io.released_ns, w->now);
    t->where = GONE;
    t->done_ns = w->now + h->service_ns;
    h->sent++;
    h->sent_bytes += t->io.bytes;
    w->left++;
}

static void submit(struct world *w, struct host *h, struct tracked *t, enum io_op op)
{
    assert_int_equal(t->where, OUT);
    t->io = (struct gate_io){.op = op, .arrived_ns = w->now};
    t->io.bytes = h->size > 1 ? h->size / 2 + rng_below(&w->rng, h->size / 2 + 1) : 1;
    w->submitted++;
    if (gate_submit(w->g, &h->flow, &t->io, w->now))
        gone(w, t);
    else
        t->where = HELD;
}

static void poll_all(struct world *w)
{
    for (struct gate_io *io; (io = gate_poll(w->g, w->now)) != NULL;) {
        assert_int_equal(tracked_of(io)->where, HELD);
        gone(w, tracked_of(io));
    }
}

/* Whether some bucket that @io would pay into is in debt, without a look into the gate's own
 * mind. */
static bool must_wait(const struct gate_io *io, uint64_t now)
{
    enum io_direction dir = io_op_direction(io->op);
    if (dir == IO_DIR_NONE)
        return false;
    for (size_t i = 0; i < io->flow->cover_count; i++) {
        for (unsigned k = 0; k < GATE_KIND_COUNT; k++) {
            if (k == GATE_IOPS_READ || k == GATE_BYTES_READ ? dir != IO_DIR_READ
                : k == GATE_IOPS_WRITE || k == GATE_BYTES_WRITE ? dir != IO_DIR_WRITE : false)
                continue;
            struct bucket copy = io->flow->cover[i]->bucket[k];
            if (bucket_wait_ns(&copy, now) > 0)
                return true;
        }
    }
    return false;
}

/* After gate_poll said NULL: every head is held for a reason, and the gate wakes before that reason
 * ends. */
static void check_heads(struct world *w)
{
    bool any = false;
    for (size_t h = 0; h < w->hosts; h++) {
        for (unsigned d = 0; d < 2; d++) {
            struct gate_queue *q = &w->host[h].flow.queue[d];
            if (q->length == 0)
                continue;
            any = true;
            const struct gate_io *head = container_of(q->ios.next, struct gate_io, link);
            assert_true(must_wait(head, w->now));
            enum gate_kind k = GATE_KIND_COUNT;
            const struct gate_rule *r = gate_queue_blocked_by(q, &k);
            assert_non_null(r);
            struct bucket copy = r->bucket[k];
            uint64_t wait = bucket_wait_ns(&copy, w->now);
            assert_true(wait > 0);
            assert_true(gate_next_ns(w->g) <= w->now + wait);
        }
    }
    assert_int_equal(gate_next_ns(w->g) == UINT64_MAX, !any);
    assert_true(gate_next_ns(w->g) > w->now);
}

/* One step of all closed loops: to the next answer or wake-up, whichever is first. */
static void step(struct world *w)
{
    uint64_t wake = gate_next_ns(w->g);
    if (w->late_ns > 0 && wake != UINT64_MAX)
        wake += rng_below(&w->rng, w->late_ns + 1);
    uint64_t next = wake;
    for (size_t h = 0; h < w->hosts; h++)
        for (size_t i = 0; i < w->host[h].depth; i++)
            if (w->host[h].io[i].where == GONE && w->host[h].io[i].done_ns < next)
                next = w->host[h].io[i].done_ns;
    if (next > w->now && next != UINT64_MAX)
        w->now = next;
    for (size_t n = 0; n < w->hosts; n++) {
        struct host *h = &w->host[n];
        for (size_t i = 0; i < h->depth; i++) {
            struct tracked *t = &h->io[i];
            if (t->where == GONE && t->done_ns <= w->now)
                t->where = OUT;
            if (t->where == OUT)
                submit(w, h, t, rng_below(&w->rng, 100) < h->write_percent ? IO_WRITE : IO_READ);
        }
    }
    if (w->now >= wake)
        poll_all(w);
}

static void run_until(struct world *w, uint64_t end_ns)
{
    while (w->now < end_ns)
        step(w);
}

static void forget_counts(struct world *w)
{
    for (size_t h = 0; h < FLOWS; h++)
        w->host[h].sent = w->host[h].sent_bytes = 0;
}

/* Jain, Chiu, Hawe 1984: 1 when all are equal, 1/n when one has all. */
static double jain(const struct world *w)
{
    double sum = 0, squares = 0;
    for (size_t h = 0; h < w->hosts; h++) {
        double x = (double)w->host[h].sent;
        sum += x;
        squares += x * x;
    }
    return sum * sum / ((double)w->hosts * squares);
}

static uint64_t total_sent(const struct world *w)
{
    uint64_t n = 0;
    for (size_t h = 0; h < w->hosts; h++)
        n += w->host[h].sent;
    return n;
}

static void assert_share(uint64_t value, double expected, double tolerance)
{
    double off = ((double)value - expected) / expected;
    if (off > tolerance || off < -tolerance)
        fail_msg("%llu is off %.1f by %.3f %%", (unsigned long long)value, expected, off * 100);
}

static void a_group_shares_fairly_between_different_depths_and_sizes(void **state)
{
    (void)state;
    static struct world w;
    uint64_t seed = test_seed();
    static const uint64_t late[] = {0, NS_PER_MS, 10 * NS_PER_MS};
    for (int round = 0; round < 6; round++) {
        world_init(&w, seed + (uint64_t)round, 10 * NS_PER_S);
        w.late_ns = late[round % 3];
        set_limit(&w, 0, GATE_IOPS_TOTAL, 2000);
        for (size_t h = 0; h < FLOWS; h++) {
            /* With late polls one I/O at a time cannot take its share of what a poll lets go at
             * once. */
            w.host[h].depth = round % 3 == 2 ? 8 + (uint32_t)rng_below(&w.rng, 57)
                                             : 1 + (uint32_t)rng_below(&w.rng, 64);
            w.host[h].size = test_rng_log(&w.rng, 512, 1 << 20);
            w.host[h].service_ns = test_rng_log(&w.rng, 20000, 1000000);
            cover_by(&w, &w.host[h], (size_t[]){0}, 1);
        }
        run_until(&w, NS_PER_S);
        forget_counts(&w);
        run_until(&w, 11 * NS_PER_S);
        assert_share(total_sent(&w), 20000, 0.001);
        if (jain(&w) <= 0.99)
            fail_msg("round %d: fairness %.4f", round, jain(&w));
        world_fini(&w);
    }
}

static void reads_and_writes_of_one_flow_share_its_limit(void **state)
{
    (void)state;
    static struct world w;
    world_init(&w, test_seed(), 10 * NS_PER_S);
    w.hosts = 2;
    w.host[0].depth = w.host[1].depth = 32;
    w.host[1].write_percent = 100;
    set_limit(&w, 0, GATE_IOPS_TOTAL, 1000);
    cover_by(&w, &w.host[0], (size_t[]){0}, 1);
    cover_by(&w, &w.host[1], (size_t[]){0}, 1);
    run_until(&w, 10 * NS_PER_S);
    assert_share(w.host[0].sent, 5000, 0.01);
    assert_share(w.host[1].sent, 5000, 0.01);
    world_fini(&w);
}

/* Each stream has a limit of its own, four share a tenant's, all share the target's. */
static void a_stack_of_limits_gives_each_flow_the_tightest(void **state)
{
    (void)state;
    static struct world w;
    for (uint64_t late = 0; late <= 10 * NS_PER_MS; late += 5 * NS_PER_MS) {
        world_init(&w, test_seed(), 10 * NS_PER_S);
        w.late_ns = late;
        w.hosts = 8;
        set_limit(&w, 0, GATE_IOPS_TOTAL, 100);   /* own, of flow 0 */
        set_limit(&w, 1, GATE_IOPS_TOTAL, 50);    /* own, of flow 4 */
        set_limit(&w, 2, GATE_IOPS_TOTAL, 1000);  /* tenant of 0..3 */
        set_limit(&w, 3, GATE_IOPS_TOTAL, 10000); /* target of all: does not bind */
        set_limit(&w, 4, GATE_IOPS_TOTAL, 2000);  /* tenant of 4..7 */
        for (size_t h = 0; h < 8; h++) {
            w.host[h].depth = 16;
            size_t rules[3] = {h < 4 ? 2 : 4, 3, h == 0 ? 0 : 1};
            cover_by(&w, &w.host[h], rules, h % 4 == 0 ? 3 : 2);
        }
        run_until(&w, NS_PER_S);
        forget_counts(&w);
        run_until(&w, 11 * NS_PER_S);
        assert_share(w.host[0].sent, 1000, 0.005);
        assert_share(w.host[4].sent, 500, 0.005);
        for (size_t h = 1; h < 4; h++)
            assert_share(w.host[h].sent, 3000, 0.01);
        for (size_t h = 5; h < 8; h++)
            assert_share(w.host[h].sent, 19500.0 / 3, 0.01);
        world_fini(&w);
    }
}

static void iops_and_bytes_of_one_rule_hold_together(void **state)
{
    (void)state;
    static struct world w;
    world_init(&w, test_seed(), 10 * NS_PER_S);
    w.hosts = 4;
    set_limit(&w, 0, GATE_IOPS_TOTAL, 500);
    set_limit(&w, 0, GATE_BYTES_TOTAL, 10 << 20);
    set_limit(&w, 0, GATE_BYTES_WRITE, 2 << 20);
    for (size_t h = 0; h < 4; h++) {
        w.host[h].depth = 8;
        w.host[h].size = h % 2 ? 65536 : 4096;
        w.host[h].write_percent = h < 2 ? 100 : 0;
        cover_by(&w, &w.host[h], (size_t[]){0}, 1);
    }
    run_until(&w, NS_PER_S);
    forget_counts(&w);
    run_until(&w, 21 * NS_PER_S);
    uint64_t bytes = 0, written = 0;
    for (size_t h = 0; h < 4; h++) {
        bytes += w.host[h].sent_bytes;
        written += h < 2 ? w.host[h].sent_bytes : 0;
        assert_true(w.host[h].sent > 0);
    }
    assert_true((double)total_sent(&w) <= 20 * 500 * 1.001);
    assert_true((double)bytes <= 20 * (10 << 20) * 1.001 + 65536);
    assert_true((double)written <= 20 * (2 << 20) * 1.001 + 65536);
    /* At least one of them is used up, or the gate loses throughput. */
    assert_true((double)total_sent(&w) >= 20 * 500 * 0.995 ||
                (double)bytes >= 20 * (10 << 20) * 0.995);
    world_fini(&w);
}

static void no_flow_starves_beside_large_ios(void **state)
{
    (void)state;
    static struct world w;
    world_init(&w, test_seed(), 10 * NS_PER_S);
    w.hosts = 3;
    set_limit(&w, 0, GATE_BYTES_TOTAL, 64 << 20);
    w.host[0] = (struct host){.depth = 64, .size = 8 << 20, .service_ns = 10000};
    gate_flow_init(w.g, &w.host[0].flow);
    w.host[0].flow.owner = &w.host[0];
    for (size_t h = 0; h < 3; h++)
        cover_by(&w, &w.host[h], (size_t[]){0}, 1);
    run_until(&w, 60 * NS_PER_S);
    /* A turn is an I/O, however large. One at a time is away, being answered, when every other
     * round begins, so it has at least half the turns of one who always has more. */
    assert_true((double)w.host[1].sent >= 0.49 * (double)w.host[0].sent);
    assert_true((double)w.host[2].sent >= 0.49 * (double)w.host[0].sent);
    assert_share(w.host[0].sent, 60.0 * 64 / 6, 0.1); /* 4 to 8 MiB each */
    world_fini(&w);
}

static void a_hundred_changes_under_load_lose_and_duplicate_nothing(void **state)
{
    (void)state;
    static struct world w;
    world_init(&w, test_seed(), 10 * NS_PER_S);
    w.late_ns = NS_PER_MS;
    set_limit(&w, 0, GATE_IOPS_TOTAL, 1000);
    for (size_t h = 0; h < FLOWS; h++) {
        w.host[h].depth = 16;
        w.host[h].write_percent = 30;
        cover_by(&w, &w.host[h], (size_t[]){0}, 1);
    }
    double due = 0;
    uint64_t rate = 1000;
    for (int i = 0; i < 100; i++) {
        uint64_t begin = w.now;
        run_until(&w, w.now + 50 * NS_PER_MS);
        due += (double)rate * (double)(w.now - begin) / 1e9;
        rate = 500 + rng_below(&w.rng, 5000);
        set_limit(&w, 0, GATE_IOPS_TOTAL, rate);
        if (i % 10 == 9)
            set_limit(&w, 1, GATE_BYTES_TOTAL, 1 + rng_below(&w.rng, 1 << 24));
    }
    assert_share(w.left, due, 0.02);
    uint64_t held = 0, in_queues = 0;
    for (size_t h = 0; h < FLOWS; h++) {
        for (size_t i = 0; i < 16; i++)
            held += w.host[h].io[i].where == HELD;
        in_queues += w.host[h].flow.queue[0].length + w.host[h].flow.queue[1].length;
    }
    assert_int_equal(held, in_queues);
    assert_int_equal(w.submitted, w.left + held);
    world_fini(&w);
}

static struct gate_limits random_limits(struct world *w)
{
    struct gate_limits l = {0};
    for (size_t k = 0; k < GATE_KIND_COUNT; k++) {
        if (rng_below(&w->rng, 3) != 0)
            continue;
        l.rate[k].rate = test_rng_log(&w->rng, 1, k < GATE_BYTES_READ ? 5000 : 100 << 20);
        if (rng_below(&w->rng, 3) == 0) {
            l.rate[k].burst_rate = l.rate[k].rate * 3;
            l.rate[k].burst_ns = rng_below(&w->rng, 3 * NS_PER_S);
        }
    }
    return l;
}

static void storm_cover(struct world *w)
{
    size_t rules[RULES], count = 0;
    for (size_t i = 0; i < RULES; i++)
        if (rng_below(&w->rng, 2) == 0)
            rules[count++] = i;
    cover_by(w, &w->host[rng_below(&w->rng, FLOWS)], rules, count);
}

static void storm_act(struct world *w, enum io_op op)
{
    struct host *h = &w->host[rng_below(&w->rng, FLOWS)];
    struct tracked *t = &h->io[rng_below(&w->rng, DEPTH_MAX)];
    switch (t->where) {
    case OUT:
        submit(w, h, t, op);
        break;
    case HELD:
        if (rng_below(&w->rng, 4) != 0)
            break;
        gate_cancel(w->g, &t->io, w->now);
        t->where = OUT;
        w->cancelled++;
        break;
    case GONE:
        t->where = OUT;
        break;
    }
}

static void a_storm_of_everything_keeps_every_io(void **state)
{
    (void)state;
    static struct world w;
    uint64_t seed = test_seed();
    static const uint64_t max_hold[] = {10 * NS_PER_S, 100 * NS_PER_MS, NS_PER_MS};
    for (uint64_t round = 0; round < 30; round++) {
        world_init(&w, seed + round, max_hold[round % 3]);
        for (int i = 0; i < 5000; i++) {
            uint64_t what = rng_below(&w.rng, 100);
            if (what < 2) {
                struct gate_limits l = random_limits(&w);
                gate_rule_change(&w.rule[rng_below(&w.rng, RULES)], &l, w.now);
            } else if (what < 4) {
                storm_cover(&w);
            } else if (what < 80) {
                storm_act(&w, (enum io_op)rng_below(&w.rng, IO_OP_COUNT));
            } else {
                w.now += rng_below(&w.rng, rng_below(&w.rng, 10) == 0 ? NS_PER_S : NS_PER_MS);
                poll_all(&w);
                check_heads(&w);
            }
        }
        uint64_t held = 0;
        for (size_t h = 0; h < FLOWS; h++)
            for (size_t i = 0; i < DEPTH_MAX; i++)
                held += w.host[h].io[i].where == HELD;
        assert_int_equal(w.submitted, w.left + w.cancelled + held);
        /* All that is left goes by max-hold at the latest. */
        w.now += 11 * NS_PER_S;
        poll_all(&w);
        assert_int_equal(w.submitted, w.left + w.cancelled);
        world_fini(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_shares_fairly_between_different_depths_and_sizes),
        cmocka_unit_test(reads_and_writes_of_one_flow_share_its_limit),
        cmocka_unit_test(a_stack_of_limits_gives_each_flow_the_tightest),
        cmocka_unit_test(iops_and_bytes_of_one_rule_hold_together),
        cmocka_unit_test(no_flow_starves_beside_large_ios),
        cmocka_unit_test(a_hundred_changes_under_load_lose_and_duplicate_nothing),
        cmocka_unit_test(a_storm_of_everything_keeps_every_io),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

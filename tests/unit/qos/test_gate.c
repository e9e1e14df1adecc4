/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: each rule of holding, one by one: who waits, for what, who may pass, and who pays.
 * Method: small hand-made scenes on a virtual clock. The storms are in test_gate_storm.c. */
#include "qos_test.h"

#include "base/err.h"
#include "qos/gate.h"

#define S NS_PER_S
#define MS NS_PER_MS

struct scene {
    struct gate *g;
    struct gate_rule a, b;
    struct gate_flow f, f2;
    struct gate_io io[64];
    size_t used;
};

static struct gate_limits one_limit(enum gate_kind k, uint64_t rate)
{
    struct gate_limits l = {0};
    l.rate[k].rate = rate;
    return l;
}

static struct scene *scene_new(const struct gate_limits *a, const struct gate_limits *b)
{
    struct scene *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->g = gate_new(2, 10 * S);
    assert_non_null(s->g);
    struct gate_limits none = {0};
    gate_rule_init(s->g, &s->a, a != NULL ? a : &none, 0);
    gate_rule_init(s->g, &s->b, b != NULL ? b : &none, 0);
    gate_flow_init(s->g, &s->f);
    gate_flow_init(s->g, &s->f2);
    return s;
}

static void scene_free(struct scene *s)
{
    for (size_t i = 0; i < s->used; i++)
        if (s->io[i].queued)
            gate_cancel(s->g, &s->io[i], 0);
    assert_true(gate_flow_idle(&s->f));
    assert_true(gate_flow_idle(&s->f2));
    assert_int_equal(gate_next_ns(s->g), UINT64_MAX);
    gate_rule_fini(&s->a);
    gate_rule_fini(&s->b);
    gate_free(s->g);
    free(s);
}

static void cover(struct scene *s, struct gate_flow *f, struct gate_rule *r1, struct gate_rule *r2)
{
    struct gate_rule *rules[2] = {r1, r2};
    assert_int_equal(gate_flow_cover(s->g, f, rules, r2 != NULL ? 2 : r1 != NULL ? 1 : 0, 0), 0);
}

static struct gate_io *io_of(struct scene *s, enum io_op op, uint64_t bytes, uint64_t now)
{
    assert_true(s->used < sizeof s->io / sizeof s->io[0]);
    struct gate_io *io = &s->io[s->used++];
    *io = (struct gate_io){.op = op, .bytes = bytes, .arrived_ns = now};
    return io;
}

/* Submit; true when it went. */
static bool send_io(struct scene *s, struct gate_flow *f, enum io_op op, uint64_t bytes,
                    uint64_t now)
{
    return gate_submit(s->g, f, io_of(s, op, bytes, now), now);
}

static struct gate_io *last(struct scene *s)
{
    return &s->io[s->used - 1];
}

static void without_a_rule_everything_goes_at_once(void **state)
{
    (void)state;
    struct scene *s = scene_new(NULL, NULL);
    for (unsigned op = 0; op < IO_OP_COUNT; op++) {
        assert_true(send_io(s, &s->f, (enum io_op)op, 1 << 20, op));
        assert_int_equal(last(s)->released_ns, op);
        assert_false(last(s)->was_held);
    }
    /* A rule with no limit in force is as good as none. */
    cover(s, &s->f, &s->a, &s->b);
    for (int i = 0; i < 20; i++)
        assert_true(send_io(s, &s->f, IO_READ, 1 << 20, 0));
    scene_free(s);
}

static void an_io_beyond_the_rate_waits_until_its_time(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 100);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    assert_true(send_io(s, &s->f, IO_READ, 4096, 0));
    assert_false(send_io(s, &s->f, IO_READ, 4096, 0));
    struct gate_io *io = last(s);
    assert_true(io->was_held);
    assert_int_equal(gate_next_ns(s->g), 10 * MS);
    assert_null(gate_poll(s->g, 10 * MS - 1));
    assert_ptr_equal(gate_poll(s->g, 10 * MS), io);
    assert_int_equal(io->released_ns, 10 * MS);
    assert_false(io->queued);
    assert_null(gate_poll(s->g, 10 * MS));
    assert_int_equal(s->a.credit->held_total, 1);
    scene_free(s);
}

static void reads_pass_held_writes(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_WRITE, 1);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    assert_true(send_io(s, &s->f, IO_WRITE, 4096, 0));
    assert_false(send_io(s, &s->f, IO_WRITE, 4096, 0));
    for (int i = 0; i < 10; i++)
        assert_true(send_io(s, &s->f, IO_READ, 4096, 0));
    scene_free(s);
}

static void writes_pass_held_reads_of_the_same_rule(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_READ, 1);
    l.rate[GATE_IOPS_WRITE].rate = 1000;
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    assert_true(send_io(s, &s->f, IO_READ, 4096, 0));
    assert_false(send_io(s, &s->f, IO_READ, 4096, 0));
    assert_true(send_io(s, &s->f, IO_WRITE, 4096, 0));
    assert_false(send_io(s, &s->f, IO_WRITE, 4096, 0));
    struct gate_io *write = last(s);
    assert_int_equal(gate_next_ns(s->g), MS);
    assert_ptr_equal(gate_poll(s->g, MS), write);
    scene_free(s);
}

static void a_flush_keeps_its_place_behind_the_writes_before_it_and_pays_nothing(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 100);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    assert_true(send_io(s, &s->f, IO_FLUSH, 0, 0));
    assert_true(send_io(s, &s->f, IO_WRITE, 4096, 0));
    assert_true(send_io(s, &s->f, IO_FLUSH, 0, 0));
    assert_false(send_io(s, &s->f, IO_WRITE, 4096, 0));
    struct gate_io *write = last(s);
    assert_false(send_io(s, &s->f, IO_FLUSH, 0, 0));
    struct gate_io *flush = last(s);
    assert_false(send_io(s, &s->f, IO_WRITE, 4096, 0));
    struct gate_io *after = last(s);
    assert_ptr_equal(gate_poll(s->g, 10 * MS), write);
    assert_true(gate_next_ns(s->g) <= 10 * MS);
    assert_ptr_equal(gate_poll(s->g, 10 * MS), flush);
    assert_false(flush->hit_max_hold);
    assert_null(gate_poll(s->g, 10 * MS));
    assert_int_equal(gate_next_ns(s->g), 20 * MS);
    assert_ptr_equal(gate_poll(s->g, 20 * MS), after);
    scene_free(s);
}

static void block_status_and_other_commands_are_never_held(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 1);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    assert_true(send_io(s, &s->f, IO_WRITE, 4096, 0));
    assert_false(send_io(s, &s->f, IO_WRITE, 4096, 0));
    assert_true(send_io(s, &s->f, IO_BLOCK_STATUS, 1 << 20, 0));
    assert_true(send_io(s, &s->f, IO_OTHER, 0, 0));
    scene_free(s);
}

/* Seconds until a bucket of bytes is out of debt: what an I/O paid. */
static uint64_t paid(struct gate_rule *r, enum gate_kind k)
{
    return bucket_wait_ns(&r->bucket[k], 0) / NS_PER_S;
}

static void each_operation_is_charged_what_it_costs(void **state)
{
    (void)state;
    static const struct {
        enum io_op op;
        uint64_t bytes, read, write;
    } table[] = {
        {IO_READ, 65536, 65536, 0},
        {IO_CACHE, 65536, 65536, 0},
        {IO_WRITE, 12288, 0, 12288},
        {IO_WRITE_ZEROES, 4096, 0, 4096},
        {IO_WRITE_ZEROES, UINT64_C(4) << 30, 0, 1 << 20},
        {IO_TRIM, UINT64_C(4) << 30, 0, 4096},
        {IO_FLUSH, 0, 0, 0},
        {IO_BLOCK_STATUS, 1 << 30, 0, 0},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct gate_limits l = {0};
        for (unsigned k = 0; k < GATE_KIND_COUNT; k++)
            l.rate[k].rate = 1;
        struct scene *s = scene_new(&l, NULL);
        cover(s, &s->f, &s->a, NULL);
        assert_true(send_io(s, &s->f, table[i].op, table[i].bytes, 0));
        assert_int_equal(paid(&s->a, GATE_BYTES_READ), table[i].read);
        assert_int_equal(paid(&s->a, GATE_BYTES_WRITE), table[i].write);
        assert_int_equal(paid(&s->a, GATE_BYTES_TOTAL), table[i].read + table[i].write);
        assert_int_equal(paid(&s->a, GATE_IOPS_READ), table[i].read > 0);
        assert_int_equal(paid(&s->a, GATE_IOPS_WRITE), table[i].write > 0);
        assert_int_equal(paid(&s->a, GATE_IOPS_TOTAL), table[i].read + table[i].write > 0);
        scene_free(s);
    }
}

static void what_one_rule_lets_and_another_refuses_has_not_paid_the_first(void **state)
{
    (void)state;
    struct gate_limits la = one_limit(GATE_IOPS_TOTAL, 100), lb = one_limit(GATE_IOPS_TOTAL, 1);
    struct scene *s = scene_new(&la, &lb);
    cover(s, &s->f, &s->a, &s->b);
    assert_true(send_io(s, &s->f, IO_READ, 4096, 0));
    assert_false(send_io(s, &s->f, IO_READ, 4096, 0));
    struct gate_io *io = last(s);
    enum gate_kind k;
    assert_ptr_equal(gate_queue_blocked_by(&s->f.queue[IO_DIR_READ], &k), &s->a);
    /* A lets it after 10 ms; B does not. */
    assert_null(gate_poll(s->g, 10 * MS));
    assert_ptr_equal(gate_queue_blocked_by(&s->f.queue[IO_DIR_READ], &k), &s->b);
    assert_int_equal(k, GATE_IOPS_TOTAL);
    assert_int_equal(gate_next_ns(s->g), S);
    assert_int_equal(bucket_wait_ns(&s->a.bucket[GATE_IOPS_TOTAL], 10 * MS), 0);
    /* Another flow under A alone has A's whole credit. */
    cover(s, &s->f2, &s->a, NULL);
    assert_true(send_io(s, &s->f2, IO_READ, 4096, 10 * MS));
    assert_ptr_equal(gate_poll(s->g, S), io);
    assert_int_equal(s->a.credit->held_total, 1);
    assert_int_equal(s->b.credit->held_total, 1);
    scene_free(s);
}

static void flows_parked_at_one_rule_take_turns(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 1000);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    cover(s, &s->f2, &s->a, NULL);
    for (int i = 0; i < 20; i++)
        send_io(s, &s->f, IO_READ, 4096, 0);
    for (int i = 0; i < 6; i++)
        assert_false(send_io(s, &s->f2, IO_READ, 4096, 0));
    for (uint64_t i = 1; i <= 12; i++) {
        struct gate_io *io = gate_poll(s->g, i * MS);
        assert_non_null(io);
        assert_ptr_equal(io->flow, i % 2 ? &s->f : &s->f2);
        assert_null(gate_poll(s->g, i * MS));
    }
    scene_free(s);
}

static void a_newcomer_does_not_go_before_those_who_wait(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 1000);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    cover(s, &s->f2, &s->a, NULL);
    assert_true(send_io(s, &s->f, IO_READ, 4096, 0));
    assert_false(send_io(s, &s->f, IO_READ, 4096, 0));
    struct gate_io *waits = last(s);
    /* The bucket is out of debt, but nobody has polled yet. */
    assert_false(send_io(s, &s->f2, IO_READ, 4096, MS));
    struct gate_io *newcomer = last(s);
    assert_ptr_equal(gate_poll(s->g, MS), waits);
    assert_null(gate_poll(s->g, MS));
    assert_ptr_equal(gate_poll(s->g, 2 * MS), newcomer);
    scene_free(s);
}

static void after_max_hold_an_io_goes_whatever_the_limits_say_and_pays(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_BYTES_TOTAL, 1000);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    cover(s, &s->f2, &s->a, NULL);
    assert_true(send_io(s, &s->f, IO_WRITE, 30000, 0));
    assert_false(send_io(s, &s->f, IO_WRITE, 5000, S));
    struct gate_io *first = last(s);
    assert_false(send_io(s, &s->f2, IO_READ, 1, 2 * S));
    struct gate_io *second = last(s);
    assert_int_equal(gate_next_ns(s->g), 11 * S);
    assert_null(gate_poll(s->g, 11 * S - 1));
    assert_ptr_equal(gate_poll(s->g, 11 * S), first);
    assert_true(first->hit_max_hold);
    assert_null(gate_poll(s->g, 11 * S));
    assert_int_equal(bucket_wait_ns(&s->a.bucket[GATE_BYTES_TOTAL], 11 * S), 24 * S);
    assert_ptr_equal(gate_poll(s->g, 13 * S), second);
    assert_true(second->hit_max_hold);
    scene_free(s);
}

static void ios_that_reach_max_hold_go_in_order_of_age(void **state)
{
    (void)state;
    struct gate_limits la = one_limit(GATE_BYTES_READ, 1), lb = one_limit(GATE_BYTES_WRITE, 1);
    struct scene *s = scene_new(&la, &lb);
    cover(s, &s->f, &s->a, &s->b);
    cover(s, &s->f2, &s->a, &s->b);
    assert_true(send_io(s, &s->f, IO_READ, 1 << 20, 0));
    assert_true(send_io(s, &s->f, IO_WRITE, 1 << 20, 0));
    struct gate_io *order[8];
    for (size_t i = 0; i < 8; i++) {
        struct gate_flow *f = i % 2 ? &s->f : &s->f2;
        assert_false(send_io(s, f, i % 3 ? IO_READ : IO_WRITE, 10, i * S));
        order[i] = last(s);
    }
    for (size_t i = 0; i < 8; i++) {
        assert_null(gate_poll(s->g, (10 + i) * S - 1));
        assert_int_equal(gate_next_ns(s->g), (10 + i) * S);
        assert_ptr_equal(gate_poll(s->g, (10 + i) * S), order[i]);
        assert_true(order[i]->hit_max_hold);
    }
    scene_free(s);
}

static void max_hold_can_be_set_live(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 1);
    l.rate[GATE_BYTES_TOTAL].rate = 1;
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    assert_true(send_io(s, &s->f, IO_READ, 1 << 20, 0));
    assert_false(send_io(s, &s->f, IO_READ, 1 << 20, 0));
    gate_set_max_hold(s->g, 500 * MS);
    /* It may wake earlier for its bucket; it goes at the new bound. */
    assert_null(gate_poll(s->g, 500 * MS - 1));
    assert_ptr_equal(gate_poll(s->g, 500 * MS), last(s));
    scene_free(s);
}

static void a_cancelled_io_has_paid_nothing(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 100);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    assert_true(send_io(s, &s->f, IO_WRITE, 4096, 0));
    assert_false(send_io(s, &s->f, IO_WRITE, 4096, 0));
    struct gate_io *head = last(s);
    assert_false(send_io(s, &s->f, IO_FLUSH, 0, 0));
    struct gate_io *flush = last(s);
    assert_false(send_io(s, &s->f, IO_WRITE, 4096, 0));
    struct gate_io *write = last(s);
    gate_cancel(s->g, head, 0);
    assert_false(head->queued);
    /* Nothing stands before the FLUSH now. */
    assert_ptr_equal(gate_poll(s->g, 0), flush);
    assert_null(gate_poll(s->g, 0));
    assert_int_equal(gate_next_ns(s->g), 10 * MS);
    assert_ptr_equal(gate_poll(s->g, 10 * MS), write);
    scene_free(s);
}

static void raising_a_limit_lets_go_what_it_held(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 1);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    assert_true(send_io(s, &s->f, IO_READ, 4096, 0));
    assert_false(send_io(s, &s->f, IO_READ, 4096, 0));
    assert_int_equal(gate_next_ns(s->g), S);
    struct gate_limits more = one_limit(GATE_IOPS_TOTAL, 1000);
    gate_rule_change(&s->a, &more, 0);
    assert_int_equal(gate_next_ns(s->g), 0);
    assert_null(gate_poll(s->g, 0));
    assert_int_equal(gate_next_ns(s->g), MS);
    assert_ptr_equal(gate_poll(s->g, MS), last(s));
    scene_free(s);
}

static void lifting_a_limit_lets_everything_go(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 1), none = {0};
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    for (int i = 0; i < 10; i++)
        send_io(s, &s->f, i % 2 ? IO_READ : IO_WRITE, 4096, 0);
    gate_rule_change(&s->a, &none, MS);
    int went = 0;
    while (gate_poll(s->g, MS) != NULL)
        went++;
    assert_int_equal(went, 9);
    scene_free(s);
}

static void a_limit_moved_to_another_kind_holds_by_the_new_one(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 1), bytes = one_limit(GATE_BYTES_TOTAL, 4096);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    for (int i = 0; i < 4; i++)
        send_io(s, &s->f, IO_READ, 4096, 0);
    gate_rule_change(&s->a, &bytes, 0);
    assert_non_null(gate_poll(s->g, 0));
    assert_null(gate_poll(s->g, 0));
    assert_int_equal(gate_next_ns(s->g), S);
    enum gate_kind k;
    assert_ptr_equal(gate_queue_blocked_by(&s->f.queue[IO_DIR_READ], &k), &s->a);
    assert_int_equal(k, GATE_BYTES_TOTAL);
    assert_non_null(gate_poll(s->g, S));
    scene_free(s);
}

static void a_new_cover_takes_held_ios_along(void **state)
{
    (void)state;
    struct gate_limits la = one_limit(GATE_IOPS_TOTAL, 1), lb = one_limit(GATE_IOPS_TOTAL, 1000);
    struct scene *s = scene_new(&la, &lb);
    cover(s, &s->f, &s->a, NULL);
    for (int i = 0; i < 4; i++)
        send_io(s, &s->f, IO_READ, 4096, 0);
    cover(s, &s->f, &s->b, NULL);
    assert_non_null(gate_poll(s->g, 0));
    assert_null(gate_poll(s->g, 0));
    assert_ptr_equal(gate_queue_blocked_by(&s->f.queue[IO_DIR_READ], NULL), &s->b);
    assert_int_equal(gate_next_ns(s->g), MS);
    cover(s, &s->f, NULL, NULL);
    assert_non_null(gate_poll(s->g, 0));
    assert_non_null(gate_poll(s->g, 0));
    assert_true(gate_flow_idle(&s->f));
    scene_free(s);
}

static void a_rule_named_twice_is_paid_once_and_too_many_are_refused(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 100);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, &s->a);
    assert_int_equal(s->f.cover_count, 1);
    assert_true(send_io(s, &s->f, IO_READ, 4096, 0));
    assert_int_equal(bucket_wait_ns(&s->a.bucket[GATE_IOPS_TOTAL], 0), 10 * MS);
    struct gate_rule *many[GATE_MAX_COVER + 1];
    for (size_t i = 0; i <= GATE_MAX_COVER; i++)
        many[i] = &s->b;
    assert_int_equal(gate_flow_cover(s->g, &s->f, many, GATE_MAX_COVER + 1, 0), WEIR_E_FULL);
    assert_int_equal(s->f.cover_count, 1);
    assert_ptr_equal(s->f.cover[0], &s->a);
    scene_free(s);
}

static void the_oldest_held_arrival_is_told(void **state)
{
    (void)state;
    struct gate_limits l = one_limit(GATE_IOPS_TOTAL, 1);
    struct scene *s = scene_new(&l, NULL);
    cover(s, &s->f, &s->a, NULL);
    assert_int_equal(gate_flow_oldest_ns(&s->f), UINT64_MAX);
    assert_true(send_io(s, &s->f, IO_READ, 4096, 5));
    assert_int_equal(gate_flow_oldest_ns(&s->f), UINT64_MAX);
    assert_false(send_io(s, &s->f, IO_WRITE, 4096, 7));
    assert_false(send_io(s, &s->f, IO_READ, 4096, 9));
    assert_int_equal(gate_flow_oldest_ns(&s->f), 7);
    scene_free(s);
}

static void kinds_have_the_names_people_write(void **state)
{
    (void)state;
    static const char *const names[GATE_KIND_COUNT] = {
        "iops-read", "iops-write", "iops", "bandwidth-read", "bandwidth-write", "bandwidth"};
    for (unsigned k = 0; k < GATE_KIND_COUNT; k++)
        assert_string_equal(gate_kind_name((enum gate_kind)k), names[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_rule_everything_goes_at_once),
        cmocka_unit_test(an_io_beyond_the_rate_waits_until_its_time),
        cmocka_unit_test(reads_pass_held_writes),
        cmocka_unit_test(writes_pass_held_reads_of_the_same_rule),
        cmocka_unit_test(a_flush_keeps_its_place_behind_the_writes_before_it_and_pays_nothing),
        cmocka_unit_test(block_status_and_other_commands_are_never_held),
        cmocka_unit_test(each_operation_is_charged_what_it_costs),
        cmocka_unit_test(what_one_rule_lets_and_another_refuses_has_not_paid_the_first),
        cmocka_unit_test(flows_parked_at_one_rule_take_turns),
        cmocka_unit_test(a_newcomer_does_not_go_before_those_who_wait),
        cmocka_unit_test(after_max_hold_an_io_goes_whatever_the_limits_say_and_pays),
        cmocka_unit_test(ios_that_reach_max_hold_go_in_order_of_age),
        cmocka_unit_test(max_hold_can_be_set_live),
        cmocka_unit_test(a_cancelled_io_has_paid_nothing),
        cmocka_unit_test(raising_a_limit_lets_go_what_it_held),
        cmocka_unit_test(lifting_a_limit_lets_everything_go),
        cmocka_unit_test(a_limit_moved_to_another_kind_holds_by_the_new_one),
        cmocka_unit_test(a_new_cover_takes_held_ios_along),
        cmocka_unit_test(a_rule_named_twice_is_paid_once_and_too_many_are_refused),
        cmocka_unit_test(the_oldest_held_arrival_is_told),
        cmocka_unit_test(kinds_have_the_names_people_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

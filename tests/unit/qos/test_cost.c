/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a cost grows with size, never overflows, and the model of a device is found from what it
 * answers, also when much of what it answers had to wait.
 * Method: random models and sizes; a made-up device with known base and page, most of whose answers
 * are late. */
#include "qos_test.h"

#include "qos/cost.h"

static void a_cost_grows_with_size_and_keeps_its_bounds(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    for (int i = 0; i < 200000; i++) {
        struct cost_model m = {
            .base_ns = {rng_below(&rng, 1000000000), rng_below(&rng, 1000000)},
            .page_ns = {rng_below(&rng, 1000000), rng_below(&rng, 1000000000)},
        };
        enum io_op op = rng_below(&rng, 2) == 0 ? IO_READ : IO_WRITE;
        uint64_t a = rng_u64(&rng) >> rng_below(&rng, 64), b = rng_u64(&rng) >> rng_below(&rng, 64);
        uint64_t less = a < b ? a : b, more = a < b ? b : a;
        uint64_t cost = cost_of(&m, op, less);
        assert_true(cost >= 1);
        assert_true(cost <= cost_of(&m, op, more));
        assert_true(cost_of(&m, op, more) <= COST_MAX_NS);
    }
    const struct cost_model m = {.base_ns = {100, 200}, .page_ns = {10, 20}};
    assert_int_equal(cost_of(&m, IO_READ, 1), 110);
    assert_int_equal(cost_of(&m, IO_READ, 4096), 110);
    assert_int_equal(cost_of(&m, IO_READ, 4097), 120);
    assert_int_equal(cost_of(&m, IO_WRITE, 65536), 520);
    assert_int_equal(cost_of(&m, IO_TRIM, 65536), 220);
    assert_int_equal(cost_of(&m, IO_FLUSH, 0), 200);
    assert_int_equal(cost_of(&m, IO_BLOCK_STATUS, 65536), 1);
}

/* One round: a tenth of the time nothing waits, else everything does. */
static void answer_round(struct cost_learn *l, struct rng *rng, double slower, bool busy)
{
    for (int i = 0; i < 400; i++) {
        enum io_op op = i % 4 == 0 ? IO_WRITE : IO_READ;
        uint64_t bytes = i % 3 == 0 ? 65536 : 4096;
        double base = op == IO_WRITE ? 300e3 : 150e3, page = op == IO_WRITE ? 20e3 : 10e3;
        double ns = (base + page * (double)(bytes / 4096)) * slower * (0.9 + 0.2 * rng_unit(rng));
        if (busy)
            ns += 2e6 * rng_unit(rng);
        cost_learn_answer(l, op, bytes, (uint64_t)ns);
    }
    cost_learn_round(l);
}

static void a_device_is_found_though_it_is_busy_most_of_the_time(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, test_seed());
    struct cost_learn l;
    cost_learn_init(&l);
    for (int i = 0; i < 40; i++)
        answer_round(&l, &rng, 1.0, i % 6 != 0);
    assert_true(l.any);
    for (int i = 0; i < 2; i++) {
        double base = i == IO_DIR_WRITE ? 300e3 : 150e3, page = i == IO_DIR_WRITE ? 20e3 : 10e3;
        assert_true((double)l.found.base_ns[i] > 0.8 * base);
        assert_true((double)l.found.base_ns[i] < 1.2 * base);
        assert_true((double)l.found.page_ns[i] > 0.8 * page);
        assert_true((double)l.found.page_ns[i] < 1.2 * page);
    }
    /* It becomes slower by 40 %: believed when the rounds that saw it fast are forgotten. */
    for (uint32_t i = 0; i < COST_LEARN_ROUNDS; i++)
        answer_round(&l, &rng, 1.0 / 0.6, false);
    uint64_t cost = cost_of(&l.found, IO_READ, 4096);
    assert_true((double)cost > 160e3 / 0.6 * 0.9);
    assert_true((double)cost < 160e3 / 0.6 * 1.1);
}

static void with_one_size_alone_its_cost_is_found(void **state)
{
    (void)state;
    struct cost_learn l;
    cost_learn_init(&l);
    for (int i = 0; i < 20; i++)
        cost_learn_answer(&l, IO_READ, 4096, 50000);
    assert_true(cost_learn_round(&l));
    uint64_t cost = cost_of(&l.found, IO_READ, 4096);
    assert_in_range(cost, 49000, 51000);
    /* And a direction that nobody saw keeps the default. */
    struct cost_model d = cost_default();
    assert_int_equal(cost_of(&l.found, IO_WRITE, 4096), cost_of(&d, IO_WRITE, 4096));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cost_grows_with_size_and_keeps_its_bounds),
        cmocka_unit_test(a_device_is_found_though_it_is_busy_most_of_the_time),
        cmocka_unit_test(with_one_size_alone_its_cost_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

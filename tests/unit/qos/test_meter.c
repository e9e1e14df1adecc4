/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: counters say what happened, operation by operation, and add up.
 * Method: a random walk of arrivals, completions and drops beside plain sums. */
#include <string.h>

#include "qos_test.h"

#include "qos/meter.h"

static void every_operation_has_a_name_and_a_direction(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum io_direction dir;
    } expected[IO_OP_COUNT] = {
        [IO_READ] = {"read", IO_DIR_READ},
        [IO_WRITE] = {"write", IO_DIR_WRITE},
        [IO_FLUSH] = {"flush", IO_DIR_NONE},
        [IO_TRIM] = {"trim", IO_DIR_WRITE},
        [IO_WRITE_ZEROES] = {"write_zeroes", IO_DIR_WRITE},
        [IO_CACHE] = {"cache", IO_DIR_READ},
        [IO_BLOCK_STATUS] = {"block_status", IO_DIR_NONE},
        [IO_OTHER] = {"other", IO_DIR_NONE},
    };
    for (unsigned op = 0; op < IO_OP_COUNT; op++) {
        assert_string_equal(io_op_name((enum io_op)op), expected[op].name);
        assert_int_equal(io_op_direction((enum io_op)op), expected[op].dir);
    }
    assert_string_equal(meter_hist_name(METER_HELD), "held");
    assert_string_equal(meter_hist_name(METER_TARGET), "target");
    assert_string_equal(meter_hist_name(METER_TOTAL), "total");
}

static void sums_equal_what_was_fed_in(void **state)
{
    (void)state;
    static struct meter m;
    memset(&m, 0, sizeof m);
    struct rng rng;
    rng_seed(&rng, test_seed());
    uint64_t arrived[IO_OP_COUNT] = {0}, done[IO_OP_COUNT] = {0}, dropped[IO_OP_COUNT] = {0};
    uint64_t errors[IO_OP_COUNT] = {0}, bytes[IO_OP_COUNT] = {0}, held[IO_OP_COUNT] = {0};
    for (int i = 0; i < 100000; i++) {
        unsigned op = (unsigned)rng_below(&rng, IO_OP_COUNT);
        uint64_t n = rng_below(&rng, 1u << 20);
        if (rng_below(&rng, 2) == 0 || arrived[op] == done[op] + dropped[op]) {
            meter_arrive(&m, (enum io_op)op, n);
            arrived[op]++;
        } else if (rng_below(&rng, 10) == 0) {
            meter_drop(&m, (enum io_op)op);
            dropped[op]++;
        } else {
            bool error = rng_below(&rng, 20) == 0;
            uint64_t held_ns = rng_below(&rng, 3) == 0 ? 1 + rng_below(&rng, 1000000) : 0;
            meter_complete(&m, (enum io_op)op, n, error, held_ns, 500, 500 + held_ns);
            done[op]++;
            errors[op] += error;
            bytes[op] += io_op_direction((enum io_op)op) == IO_DIR_NONE ? 0 : n;
            held[op] += held_ns > 0;
        }
        assert_int_equal(meter_inflight(&m, (enum io_op)op), arrived[op] - done[op] - dropped[op]);
    }
    uint64_t recorded[2] = {0, 0};
    for (unsigned op = 0; op < IO_OP_COUNT; op++) {
        assert_int_equal(m.op[op].arrivals, arrived[op]);
        assert_int_equal(m.op[op].completions, done[op]);
        assert_int_equal(m.op[op].dropped, dropped[op]);
        assert_int_equal(m.op[op].errors, errors[op]);
        assert_int_equal(m.op[op].bytes, bytes[op]);
        assert_int_equal(m.op[op].held, held[op]);
        enum io_direction dir = io_op_direction((enum io_op)op);
        if (dir != IO_DIR_NONE)
            recorded[dir] += done[op];
    }
    for (unsigned dir = 0; dir < 2; dir++)
        for (unsigned h = 0; h < METER_HIST_COUNT; h++)
            assert_int_equal(m.hist[dir][h].count, recorded[dir]);
}

static void held_target_and_total_go_to_their_own_histograms(void **state)
{
    (void)state;
    static struct meter m;
    memset(&m, 0, sizeof m);
    meter_arrive(&m, IO_WRITE, 4096);
    meter_complete(&m, IO_WRITE, 4096, false, 1000000, 20000, 1020000);
    assert_int_equal(m.hist[IO_DIR_WRITE][METER_HELD].sum_ns, 1000000);
    assert_int_equal(m.hist[IO_DIR_WRITE][METER_TARGET].sum_ns, 20000);
    assert_int_equal(m.hist[IO_DIR_WRITE][METER_TOTAL].sum_ns, 1020000);
    assert_int_equal(m.hist[IO_DIR_READ][METER_TOTAL].count, 0);
    assert_int_equal(m.op[IO_WRITE].held_ns, 1000000);
}

static void a_batch_counts_as_its_ios_would(void **state)
{
    (void)state;
    static struct meter one, many;
    memset(&one, 0, sizeof one);
    memset(&many, 0, sizeof many);
    for (unsigned op = 0; op < IO_OP_COUNT; op++) {
        for (unsigned i = 0; i < 7; i++) {
            meter_arrive(&one, (enum io_op)op, 1000 + i);
            meter_complete(&one, (enum io_op)op, 1000 + i, false, 0, 123456, 234567);
        }
        meter_arrive_many(&many, (enum io_op)op, 7, 7021);
        meter_complete_many(&many, (enum io_op)op, 7, 7021, 123456, 234567);
    }
    memset(&one.undo, 0, sizeof one.undo);
    memset(&many.undo, 0, sizeof many.undo);
    assert_memory_equal(&one, &many, sizeof one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_counts_as_its_ios_would),
        cmocka_unit_test(every_operation_has_a_name_and_a_direction),
        cmocka_unit_test(sums_equal_what_was_fed_in),
        cmocka_unit_test(held_target_and_total_go_to_their_own_histograms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

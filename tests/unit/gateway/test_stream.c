/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a stream is known again when its host returns, the table stays within its bounds, and every
 * stream is covered by exactly the file's limits that name it, through reloads that are all or
 * nothing and keep credit and debts. Method: scenes on a table of a few slots and a virtual clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "stream_stage.h"

/* ---- streams --------------------------------------------------------------------------------- */

static void a_host_that_returns_finds_its_stream_again(void **state)
{
    (void)state;
    struct stream_table *t = stage_table();
    struct stream *s = stage_join(t, "10.0.0.7", "db");
    assert_string_equal(s->key, "10.0.0.7/db");
    assert_int_equal(s->connections, 1);
    assert_ptr_equal(stage_join(t, "10.0.0.7", "db"), s);
    assert_int_equal(s->connections, 2);
    meter_arrive(s->meter, IO_READ, 4096);
    stream_disconnect(t, s, 0);
    stream_disconnect(t, s, 0);
    assert_true(s->live);
    assert_ptr_equal(stream_find(t, "10.0.0.7/db"), s);
    assert_ptr_equal(stage_join(t, "10.0.0.7", "db"), s);
    assert_int_equal(s->meter->op[IO_READ].arrivals, 1);
    assert_null(stream_find(t, "10.0.0.8/db"));
    stream_table_free(t);
}

static void the_same_export_on_two_targets_is_two_streams(void **state)
{
    (void)state;
    struct stream_table *t = stage_table();
    struct stream *a = stream_connect(t, &stage_config.targets[0], "h", "v", "", 1, 0);
    struct stream *b = stream_connect(t, &stage_config.targets[1], "h", "v", "", 1, 0);
    assert_ptr_not_equal(a, b);
    assert_int_not_equal(a->index, b->index);
    assert_int_equal(stage_apply(t, "agreement/x", RULE_AGREED, 100, "h/v"), 0);
    assert_true(stage_covers(a, "agreement/x"));
    assert_true(stage_covers(b, "agreement/x"));
    stream_table_free(t);
}

static void when_full_the_longest_idle_stream_makes_room(void **state)
{
    (void)state;
    struct stream_table *t = stage_table();
    struct stream *s[MAX_STREAMS];
    char host[16];
    for (size_t i = 0; i < MAX_STREAMS; i++) {
        snprintf(host, sizeof host, "h%zu", i);
        s[i] = stage_join(t, host, "v");
    }
    stream_disconnect(t, s[2], 1);
    stream_disconnect(t, s[1], 2);
    /* h2 was idle longer, but came back in between. */
    assert_ptr_equal(stage_join(t, "h2", "v"), s[2]);
    stream_disconnect(t, s[2], 3);
    uint32_t old_index = s[1]->index;
    meter_arrive(s[1]->meter, IO_WRITE, 1);
    struct stream *n = stage_join(t, "new", "v");
    assert_ptr_equal(n, s[1]);
    assert_int_not_equal(n->index, old_index);
    assert_int_equal(n->meter->op[IO_WRITE].arrivals, 0);
    assert_null(stream_find(t, "h1/v"));
    assert_ptr_equal(stream_find(t, "h2/v"), s[2]);
    stream_table_free(t);
}

static void a_stream_that_still_holds_io_is_not_reused(void **state)
{
    (void)state;
    stage_limit(0, "slow", 1)->per_stream = true;
    struct stream_table *t = stage_table_with_limits(1);
    struct stream *s[MAX_STREAMS];
    char host[16];
    for (size_t i = 0; i < MAX_STREAMS; i++) {
        snprintf(host, sizeof host, "h%zu", i);
        s[i] = stage_join(t, host, "v");
    }
    stage_spend(t, s[0], 0);
    struct gate_io io = {.op = IO_READ, .bytes = 1};
    assert_false(gate_submit(stream_gate(t), &s[0]->flow, &io, 0));
    stream_disconnect(t, s[0], 1);
    stream_disconnect(t, s[1], 2);
    assert_ptr_equal(stage_join(t, "new", "v"), s[1]);
    struct stream *other = stage_join(t, "newer", "v");
    assert_string_equal(other->key, "*/*");
    gate_cancel(stream_gate(t), &io, 3);
    assert_ptr_equal(stage_join(t, "newest", "v"), s[0]);
    stream_table_free(t);
}

static void beyond_max_streams_newcomers_share_one_stream_per_target(void **state)
{
    (void)state;
    snprintf(stage_config.targets[1].tenant, NAME_SIZE, "acme");
    struct stream_table *t = stage_table();
    struct stream *s[MAX_STREAMS];
    char host[16];
    for (size_t i = 0; i < MAX_STREAMS; i++) {
        snprintf(host, sizeof host, "h%zu", i);
        s[i] = stage_join(t, host, "v");
    }
    struct stream *a = stage_join(t, "x", "v"), *b = stage_join(t, "y", "w");
    assert_ptr_equal(a, b);
    assert_string_equal(a->host, "*");
    assert_string_equal(a->volume, "*");
    assert_int_equal(a->connections, 2);
    struct stream *c = stream_connect(t, &stage_config.targets[1], "x", "v", "", 1, 0);
    assert_ptr_not_equal(c, a);
    assert_string_equal(c->key, "*/*");
    assert_string_equal(c->tenant, "acme");
    size_t live = 0;
    for (size_t i = 0; i < stream_slots(t); i++)
        live += stream_at(t, i) != NULL;
    assert_int_equal(live, MAX_STREAMS + 2);
    /* Default streams are never given to a newcomer; a slot that falls idle is. */
    stream_disconnect(t, a, 5);
    stream_disconnect(t, a, 5);
    stream_disconnect(t, s[3], 6);
    assert_ptr_equal(stage_join(t, "z", "v"), s[3]);
    assert_ptr_equal(stage_join(t, "z2", "v"), a);
    memset(stage_config.targets[1].tenant, 0, NAME_SIZE);
    stream_table_free(t);
}

/* ---- file limits ----------------------------------------------------------------------------- */

static void a_file_limit_covers_whom_its_patterns_match(void **state)
{
    (void)state;
    snprintf(stage_limit(0, "by-host", 100)->host, NAME_SIZE, "10.0.0.*");
    snprintf(stage_limit(1, "by-volume", 100)->volume, NAME_SIZE, "db-*");
    snprintf(stage_limit(2, "by-tenant", 100)->tenant, NAME_SIZE, "acme");
    snprintf(stage_limit(3, "by-target", 100)->target, NAME_SIZE, "array2");
    stage_limit(4, "everybody", 100);
    struct stream_table *t = stage_table_with_limits(5);
    struct stream *a =
        stream_connect(t, &stage_config.targets[0], "10.0.0.7", "db-1", "acme", 1, 0);
    struct stream *b = stream_connect(t, &stage_config.targets[1], "192.168.1.1", "web", "", 1, 0);
    assert_true(stage_covers(a, "file/by-host"));
    assert_true(stage_covers(a, "file/by-volume"));
    assert_true(stage_covers(a, "file/by-tenant"));
    assert_false(stage_covers(a, "file/by-target"));
    assert_true(stage_covers(a, "file/everybody"));
    assert_int_equal(b->flow.cover_count, 2);
    assert_true(stage_covers(b, "file/by-target"));
    assert_true(stage_covers(b, "file/everybody"));
    /* The tenant is found out later. */
    assert_ptr_equal(
        stream_connect(t, &stage_config.targets[1], "192.168.1.1", "web", "acme", 1, 0), b);
    assert_true(stage_covers(b, "file/by-tenant"));
    stream_table_free(t);
}

static void a_shared_limit_is_one_for_all_and_one_per_stream_is_one_each(void **state)
{
    (void)state;
    stage_limit(0, "shared", 100);
    stage_limit(1, "own", 1000)->per_stream = true;
    struct stream_table *t = stage_table_with_limits(2);
    struct stream *a = stage_join(t, "a", "v"), *b = stage_join(t, "b", "v");
    assert_int_equal(a->flow.cover_count, 2);
    assert_ptr_equal(a->flow.cover[0], b->flow.cover[0]);
    assert_ptr_not_equal(a->flow.cover[1], b->flow.cover[1]);
    assert_ptr_equal(stream_rule_control(a->flow.cover[1]), stream_rule_control(b->flow.cover[1]));
    stage_spend(t, a, 0);
    assert_true(stage_holds(t, b, 0)); /* by what a took of the shared one */
    stream_table_free(t);
}

static void limits_beyond_the_bound_are_left_out_and_counted(void **state)
{
    (void)state;
    char name[16];
    for (size_t i = 0; i < 11; i++) {
        snprintf(name, sizeof name, "l%zu", i);
        stage_limit(i, name, 100)->per_stream = i % 2;
    }
    struct stream_table *t = stage_table_with_limits(11);
    struct stream *a = stage_join(t, "a", "v");
    assert_int_equal(a->flow.cover_count, STREAM_FILE_LIMITS_MAX);
    assert_int_equal(a->limits_left_out, 3);
    stream_table_free(t);
}

static void a_reload_keeps_debts_under_the_same_name(void **state)
{
    (void)state;
    stage_limit(0, "own", 1)->per_stream = true;
    stage_limit(1, "shared", 10);
    stage_limit(2, "goes", 10);
    struct stream_table *t = stage_table_with_limits(3);
    struct stream *a = stage_join(t, "a", "v");
    stage_spend(t, a, 0);
    stage_limit(0, "own", 2)->per_stream = true;
    stage_limit(1, "shared", 20);
    stage_limit(2, "new", 30);
    assert_int_equal(stream_limits_reload(t, stage_limits, 3, 0), 0);
    assert_int_equal(a->flow.cover_count, 3);
    assert_false(stage_covers(a, "file/goes"));
    assert_true(stage_covers(a, "file/new"));
    /* One I/O owed at 2 a second and at 20 a second; nothing to the new one. */
    assert_int_equal(bucket_wait_ns(&a->flow.cover[0]->bucket[GATE_IOPS_TOTAL], 0), 500 * MS);
    assert_int_equal(bucket_wait_ns(&a->flow.cover[1]->bucket[GATE_IOPS_TOTAL], 0), 50 * MS);
    assert_int_equal(bucket_wait_ns(&a->flow.cover[2]->bucket[GATE_IOPS_TOTAL], 0), 0);
    /* From per stream to shared and back. */
    stage_limit(0, "own", 2);
    assert_int_equal(stream_limits_reload(t, stage_limits, 1, 0), 0);
    struct stream *b = stage_join(t, "b", "v");
    assert_ptr_equal(a->flow.cover[0], b->flow.cover[0]);
    stage_limit(0, "own", 2)->per_stream = true;
    assert_int_equal(stream_limits_reload(t, stage_limits, 1, 0), 0);
    assert_ptr_not_equal(a->flow.cover[0], b->flow.cover[0]);
    assert_int_equal(stream_limits_reload(t, NULL, 0, 0), 0);
    assert_int_equal(a->flow.cover_count, 0);
    stream_table_free(t);
}

static void a_reload_with_one_wrong_limit_changes_nothing(void **state)
{
    (void)state;
    stage_limit(0, "a", 10);
    struct stream_table *t = stage_table_with_limits(1);
    struct stream *s = stage_join(t, "h", "v");
    stage_limit(0, "a", 20);
    stage_limit(1, "b", 20)->limits.rate[GATE_IOPS_TOTAL].burst_rate = 5; /* below its base rate */
    assert_int_equal(stream_limits_reload(t, stage_limits, 2, 0), WEIR_E_INVALID);
    stage_limit(1, "a", 30); /* the name twice */
    assert_int_equal(stream_limits_reload(t, stage_limits, 2, 0), WEIR_E_INVALID);
    assert_int_equal(s->flow.cover_count, 1);
    assert_int_equal(s->flow.cover[0]->bucket[GATE_IOPS_TOTAL].cfg.rate, 10);
    stream_table_free(t);
}

static void staged_limits_are_not_in_force_until_they_are_committed(void **state)
{
    (void)state;
    stage_limit(0, "a", 10);
    stage_limit(1, "b", 15);
    struct stream_table *t = stage_table_with_limits(2);
    struct stream *s = stage_join(t, "h", "v");
    stage_limit(0, "a", 20); /* one changes, one goes, one comes */
    stage_limit(1, "c", 30);
    assert_int_equal(stream_limits_stage(t, stage_limits, 2), 0);
    stream_limits_unstage(t);
    assert_int_equal(s->flow.cover_count, 2);
    assert_int_equal(s->flow.cover[0]->bucket[GATE_IOPS_TOTAL].cfg.rate, 10);
    assert_true(stage_covers(s, "file/b"));
    /* A newcomer finds those in force too, and they can be staged again. */
    assert_false(stage_covers(stage_join(t, "h2", "v"), "file/c"));
    assert_int_equal(stream_limits_stage(t, stage_limits, 2), 0);
    stream_limits_commit(t, 0);
    assert_int_equal(s->flow.cover_count, 2);
    assert_int_equal(s->flow.cover[0]->bucket[GATE_IOPS_TOTAL].cfg.rate, 20);
    assert_true(stage_covers(s, "file/c"));
    stream_table_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_host_that_returns_finds_its_stream_again, stage_setup),
        cmocka_unit_test_setup(the_same_export_on_two_targets_is_two_streams, stage_setup),
        cmocka_unit_test_setup(when_full_the_longest_idle_stream_makes_room, stage_setup),
        cmocka_unit_test_setup(a_stream_that_still_holds_io_is_not_reused, stage_setup),
        cmocka_unit_test_setup(beyond_max_streams_newcomers_share_one_stream_per_target,
                               stage_setup),
        cmocka_unit_test_setup(a_file_limit_covers_whom_its_patterns_match, stage_setup),
        cmocka_unit_test_setup(a_shared_limit_is_one_for_all_and_one_per_stream_is_one_each,
                               stage_setup),
        cmocka_unit_test_setup(limits_beyond_the_bound_are_left_out_and_counted, stage_setup),
        cmocka_unit_test_setup(a_reload_keeps_debts_under_the_same_name, stage_setup),
        cmocka_unit_test_setup(a_reload_with_one_wrong_limit_changes_nothing, stage_setup),
        cmocka_unit_test_setup(staged_limits_are_not_in_force_until_they_are_committed,
                               stage_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: every stream is covered by exactly the controls that name it, through changes that are all
 * or nothing and keep credit and debts. Method: scenes on a table of a few slots and a virtual
 * clock; a storm of connects, controls, reloads and I/O against a plain model of who is covered by
 * what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../seed.h"
#include "base/err.h"
#include "base/rng.h"
#include "gateway/ledger.h"
#include "stream_stage.h"

/* ---- controls -------------------------------------------------------------------------------- */

static void the_members_of_a_control_share_one_rule(void **state)
{
    (void)state;
    struct stream_table *t = stage_table();
    struct stream *a = stage_join(t, "a", "v"), *b = stage_join(t, "b", "v"),
                  *c = stage_join(t, "c", "v");
    const char *members[] = {"a/v", "b/v", "a/v"};
    struct control group = stage_control("agreement/g", RULE_AGREED, 10, members, 3);
    assert_int_equal(stream_controls_apply(t, &group, 1, false, 0), 0);
    assert_ptr_equal(a->flow.cover[0], b->flow.cover[0]);
    assert_int_equal(a->flow.cover_count, 1);
    assert_int_equal(c->flow.cover_count, 0);
    stage_spend(t, a, 0);
    assert_true(stage_holds(t, b, 0));
    assert_false(stage_holds(t, c, 0));
    stream_table_free(t);
}

static void a_control_waits_for_a_stream_that_is_not_there_yet(void **state)
{
    (void)state;
    struct stream_table *t = stage_table();
    assert_int_equal(stage_apply(t, "agreement/later", RULE_AGREED, 10, "late/v"), 0);
    struct stream *s = stage_join(t, "late", "v");
    assert_true(stage_covers(s, "agreement/later"));
    stream_table_free(t);
}

static void a_control_survives_its_stream(void **state)
{
    (void)state;
    struct stream_table *t = stage_table();
    struct stream *a = stage_join(t, "a", "v");
    assert_int_equal(stage_apply(t, "agreement/a", RULE_AGREED, 10, "a/v"), 0);
    stage_spend(t, a, 0);
    stream_disconnect(t, a, 0);
    char host[16];
    for (size_t i = 0; i < MAX_STREAMS; i++) {
        snprintf(host, sizeof host, "h%zu", i);
        stream_disconnect(t, stage_join(t, host, "v"), 1);
    }
    assert_null(stream_find(t, "a/v"));
    a = stage_join(t, "a", "v");
    assert_true(stage_covers(a, "agreement/a"));
    assert_true(stage_holds(t, a, 0)); /* it owes what it owed */
    stream_table_free(t);
}

static void a_renewed_control_keeps_its_debt_and_its_held_ios(void **state)
{
    (void)state;
    struct stream_table *t = stage_table();
    struct stream *a = stage_join(t, "a", "v");
    assert_int_equal(stage_apply(t, "throttle/a", RULE_PLANNED, 1, "a/v"), 0);
    stage_spend(t, a, 0);
    struct gate_io io = {.op = IO_READ, .bytes = 1};
    assert_false(gate_submit(stream_gate(t), &a->flow, &io, 0));
    const struct gate_rule *rule = a->flow.cover[0];
    const char *members[] = {"b/v", "a/v"};
    for (uint64_t i = 0; i < 100; i++) {
        struct control c = stage_control("throttle/a", RULE_PLANNED, 1 + i % 2, members, 2);
        assert_int_equal(stream_controls_apply(t, &c, 1, i % 2, 0), 0);
        assert_ptr_equal(a->flow.cover[0], rule);
        assert_null(gate_poll(stream_gate(t), 0));
    }
    assert_int_equal(gate_next_ns(stream_gate(t)), 500 * MS);
    assert_ptr_equal(gate_poll(stream_gate(t), S), &io);
    stream_table_free(t);
}

static void a_full_set_replaces_all_and_a_part_only_what_it_names(void **state)
{
    (void)state;
    stage_limit(0, "stays", 1000);
    struct stream_table *t = stage_table_with_limits(1);
    struct stream *a = stage_join(t, "a", "v");
    const char *members[] = {"a/v"};
    struct control set[3] = {
        stage_control("agreement/1", RULE_AGREED, 10, members, 1),
        stage_control("throttle/2", RULE_PLANNED, 20, members, 1),
        stage_control("throttle/3", RULE_PLANNED, 30, members, 1),
    };
    assert_int_equal(stream_controls_apply(t, set, 3, true, 0), 0);
    assert_int_equal(a->flow.cover_count, 4);
    assert_int_equal(stage_apply(t, "throttle/2", RULE_PLANNED, 0, "a/v"),
                     0); /* no limit: remove */
    assert_false(stage_covers(a, "throttle/2"));
    assert_true(stage_covers(a, "throttle/3"));
    assert_int_equal(stream_controls_apply(t, &set[1], 1, true, 0), 0);
    assert_int_equal(a->flow.cover_count, 2);
    assert_true(stage_covers(a, "throttle/2"));
    assert_true(stage_covers(a, "file/stays"));
    assert_int_equal(stream_controls_apply(t, NULL, 0, true, 0), 0);
    assert_int_equal(a->flow.cover_count, 1);
    stream_table_free(t);
}

static void when_the_lease_ends_planned_controls_go_and_agreed_ones_stay(void **state)
{
    (void)state;
    struct stream_table *t = stage_table();
    struct stream *a = stage_join(t, "a", "v");
    assert_int_equal(stage_apply(t, "agreement/a", RULE_AGREED, 1000, "a/v"), 0);
    assert_int_equal(stage_apply(t, "throttle/a", RULE_PLANNED, 1, "a/v"), 0);
    assert_int_equal(stage_apply(t, "throttle/nobody", RULE_PLANNED, 1, "x/v"), 0);
    stage_spend(t, a, 0);
    struct gate_io io = {.op = IO_READ, .bytes = 1};
    assert_false(gate_submit(stream_gate(t), &a->flow, &io, 0));
    assert_int_equal(stream_controls_expire(t, 2 * MS), 2);
    assert_ptr_equal(gate_poll(stream_gate(t), 2 * MS), &io); /* what held it is gone */
    assert_int_equal(a->flow.cover_count, 1);
    assert_int_equal(stream_controls_expire(t, 2 * MS), 0);
    stream_table_free(t);
}

static void refuse(struct stream_table *t, struct stream *a, const struct control *set, size_t n,
                   int err)
{
    assert_int_equal(stream_controls_apply(t, set, n, true, 0), err);
    assert_int_equal(a->flow.cover_count, 1);
    assert_true(stage_covers(a, "agreement/a"));
    assert_int_equal(a->flow.cover[0]->bucket[GATE_IOPS_TOTAL].cfg.rate, 10);
}

/* A plan with slots for the first target, and one stream's share in it. */
static void plan_target(struct stream_table *t, uint64_t now)
{
    const char *members[] = {"a/v"};
    struct control c[2] = {stage_control("agreement/a", RULE_AGREED, 10, members, 1),
                           stage_control("plan/array1", RULE_PLANNED, 0, NULL, 0)};
    snprintf(c[1].target, sizeof c[1].target, "array1");
    c[1].plan.slots_milli = 4000;
    assert_int_equal(stream_controls_apply(t, c, 2, true, now), 0);
}

/* What the next worker does with what it finds in the ledger. */
static struct stream_table *next_worker(struct ledger *ledger, uint64_t now)
{
    const char *members[] = {"a/v"};
    struct control agreed = stage_control("agreement/a", RULE_AGREED, 10, members, 1);
    struct stream_table *t = stream_table_attach(&stage_config, ledger, now);
    assert_non_null(t);
    assert_int_equal(stream_controls_apply(t, &agreed, 1, true, now), 0);
    stream_undivided_resume(t, now);
    return t;
}

static uint64_t undivided(struct stream_table *t, uint32_t target)
{
    return stream_port(t, target)->undivided_until_ns;
}

static void a_target_that_a_lease_left_undivided_is_so_for_the_next_worker(void **state)
{
    (void)state;
    struct ledger *ledger;
    const char *members[] = {"a/v"};
    struct control agreed = stage_control("agreement/a", RULE_AGREED, 10, members, 1);
    assert_int_equal(ledger_new(&stage_config, &ledger), 0);
    struct stream_table *t = stream_table_attach(&stage_config, ledger, 0);
    plan_target(t, 1 * S);
    stream_undivided_keep(t);
    assert_int_equal(stream_controls_expire(t, 2 * S), 1);
    stream_undivided_keep(t);
    assert_true(undivided(t, 0) == UINT64_MAX && undivided(t, 1) == 0);
    stream_table_free(t);
    /* Nobody who plans has come yet. */
    t = next_worker(ledger, 3 * S);
    assert_true(undivided(t, 0) == UINT64_MAX && undivided(t, 1) == 0);
    /* Somebody comes who does not plan yet, and again the worker dies. */
    assert_int_equal(stream_controls_apply(t, &agreed, 1, true, 4 * S), 0);
    stream_undivided_keep(t);
    stream_table_free(t);
    t = next_worker(ledger, 5 * S);
    assert_true(undivided(t, 0) == 4 * S + TARGET_UNDIVIDED_NS);
    stream_table_free(t);
    t = next_worker(ledger, 60 * S); /* that was long ago */
    assert_true(undivided(t, 0) == 0);
    /* A plan divides it again. */
    plan_target(t, 61 * S);
    stream_undivided_keep(t);
    assert_true(ledger_undivided(ledger, 0) == 0);
    stream_table_free(t);
    ledger_free(ledger);
}

static void a_wrong_control_among_good_ones_changes_nothing(void **state)
{
    (void)state;
    struct stream_table *t = stage_table();
    struct stream *a = stage_join(t, "a", "v");
    assert_int_equal(stage_apply(t, "agreement/a", RULE_AGREED, 10, "a/v"), 0);
    const char *members[] = {"a/v"}, *empty[] = {""};
    char long_key[STREAM_KEY_SIZE + 10];
    memset(long_key, 'x', sizeof long_key);
    long_key[sizeof long_key - 1] = '\0';
    const char *too_long[] = {long_key};
    struct control good = stage_control("agreement/a", RULE_AGREED, 99, members, 1);
    struct control bad[] = {
        stage_control("", RULE_AGREED, 10, members, 1),
        stage_control("file/x", RULE_AGREED, 10, members, 1),
        stage_control("x", RULE_FILE, 10, members, 1),
        stage_control("x", RULE_PLANNED, UINT64_MAX, members, 1),
        stage_control("x", RULE_PLANNED, 10, empty, 1),
        stage_control("x", RULE_PLANNED, 10, too_long, 1),
        stage_control("agreement/a", RULE_PLANNED, 5, members, 1),
        stage_control("agreement/a", RULE_PLANNED, 0, members, 1),
        stage_control("x", RULE_PLANNED, 10, members, 1),
    };
    bad[8].limits.rate[GATE_BYTES_READ].burst_rate = 10;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct control set[2] = {good, bad[i]};
        refuse(t, a, set, 2, WEIR_E_INVALID);
    }
    stream_table_free(t);
}

static void more_than_the_bounds_is_refused_whole(void **state)
{
    (void)state;
    struct stream_table *t = stage_table();
    struct stream *a = stage_join(t, "a", "v");
    assert_int_equal(stage_apply(t, "agreement/a", RULE_AGREED, 10, "a/v"), 0);
    static struct control set[64];
    static char key[64][16];
    static const char *member[64];
    char id[32];
    size_t max = STREAM_CONTROLS_PER_STREAM * MAX_STREAMS;
    for (size_t i = 0; i < 64; i++) {
        snprintf(id, sizeof id, "throttle/%zu", i);
        snprintf(key[i], sizeof key[i], "k%zu/v", i);
        member[i] = key[i];
        set[i] = stage_control(id, RULE_PLANNED, 10, &member[i], 1);
    }
    refuse(t, a, set, max + 1, WEIR_E_FULL);
    refuse(t, a, set, 64, WEIR_E_FULL);
    /* One stream named too often, though it is not there yet. */
    const char *often[] = {"later/v"};
    for (size_t i = 0; i <= STREAM_CONTROLS_MAX; i++) {
        set[i].members = often;
    }
    refuse(t, a, set, STREAM_CONTROLS_MAX + 1, WEIR_E_FULL);
    /* Too many members in one, and in all. */
    set[0].members = member;
    set[0].member_count = MAX_STREAMS + 3;
    refuse(t, a, set, 1, WEIR_E_FULL);
    for (size_t i = 0; i < max; i++) {
        set[i].members = &member[i];
        set[i].member_count = MAX_STREAMS + 1;
    }
    refuse(t, a, set, max, WEIR_E_FULL);
    for (size_t i = 0; i < max; i++)
        set[i].member_count = 1;
    assert_int_equal(stream_controls_apply(t, set, max, true, 0), 0);
    assert_int_equal(a->flow.cover_count, 0);
    stream_table_free(t);
}

struct seen {
    size_t count;
    char ids[256];
    bool rules;
};

static void see(void *arg, const struct control *c, const struct gate_rule *first_rule)
{
    struct seen *s = arg;
    s->count++;
    size_t n = strlen(s->ids);
    snprintf(s->ids + n, sizeof s->ids - n, "%s ", c->id);
    s->rules = s->rules && first_rule != NULL;
    assert_true(c->member_count >= 1);
    assert_non_null(c->members[0]);
}

static void a_visit_shows_file_limits_and_controls(void **state)
{
    (void)state;
    snprintf(stage_limit(0, "x", 10)->volume, NAME_SIZE, "db-*");
    stage_limit(1, "y", 10)->per_stream = true;
    struct stream_table *t = stage_table_with_limits(2);
    assert_int_equal(stage_apply(t, "throttle/a", RULE_PLANNED, 10, "a/v"), 0);
    struct seen s = {.rules = true};
    stream_controls_visit(t, see, &s);
    assert_string_equal(s.ids, "file/x file/y throttle/a ");
    assert_false(s.rules); /* nobody has a rule of y */
    stage_join(t, "a", "v");
    s = (struct seen){.rules = true};
    stream_controls_visit(t, see, &s);
    assert_true(s.rules);
    assert_string_equal(rule_origin_name(RULE_FILE), "file");
    assert_string_equal(rule_origin_name(RULE_AGREED), "agreement");
    assert_string_equal(rule_origin_name(RULE_PLANNED), "planned");
    stream_table_free(t);
}

static void burst_credit_is_seen_as_of_now(void **state)
{
    (void)state;
    struct limit_config *l = stage_limit(0, "bursty", 100);
    l->limits.rate[GATE_IOPS_TOTAL].burst_rate = 200;
    l->limits.rate[GATE_IOPS_TOTAL].burst_ns = S; /* 100 I/Os of credit */
    struct stream_table *t = stage_table_with_limits(1);
    struct stream *a = stage_join(t, "a", "v");
    uint32_t ppm = 0;
    assert_true(stream_burst_ppm(a, &ppm));
    assert_int_equal(ppm, 1000000);
    for (uint64_t i = 0; i < 100; i++)
        stage_spend(t, a, i * 5 * MS);
    assert_true(stream_burst_ppm(a, &ppm));
    assert_true(ppm > 480000 && ppm < 520000);
    stream_refresh(t, 800 * MS);
    assert_true(stream_burst_ppm(a, &ppm));
    assert_true(ppm > 780000 && ppm < 820000);
    stream_refresh(t, 10 * S);
    assert_true(stream_burst_ppm(a, &ppm));
    assert_int_equal(ppm, 1000000);
    assert_int_equal(stream_limits_reload(t, NULL, 0, 10 * S), 0);
    assert_false(stream_burst_ppm(a, &ppm));
    stream_table_free(t);
}

/* ---- storm ----------------------------------------------------------------------------------- */

#define HOSTS 8u
#define IDS   6u
#define IOS   200u

/* What the model knows: which hosts each control names. */
struct model {
    struct stream *stream[HOSTS]; /* while connected */
    bool in_force[IDS];
    bool planned[IDS];
    bool names[IDS][HOSTS];
    struct gate_io io[IOS];
    struct stream *io_stream[IOS];
};

static void key_of_host(size_t h, char key[16])
{
    snprintf(key, 16, "h%zu/v", h);
}

static void storm_controls(struct stream_table *t, struct model *m, struct rng *rng, uint64_t now)
{
    bool full = rng_below(rng, 3) == 0;
    static char key[HOSTS][16];
    static const char *members[IDS][HOSTS];
    struct control set[IDS];
    bool named[IDS] = {false};
    size_t n = 0;
    for (size_t i = 0; i < IDS; i++) {
        if (rng_below(rng, 2) == 0)
            continue;
        named[i] = true;
        size_t count = 0;
        m->planned[i] = rng_below(rng, 2) == 0;
        m->in_force[i] = rng_below(rng, 4) != 0;
        for (size_t h = 0; h < HOSTS; h++) {
            key_of_host(h, key[h]);
            m->names[i][h] = count < MAX_STREAMS + 2 && rng_below(rng, 2) == 0;
            if (m->names[i][h])
                members[i][count++] = key[h];
        }
        char id[32];
        snprintf(id, sizeof id, "control/%zu", i);
        set[n++] = stage_control(id, m->planned[i] ? RULE_PLANNED : RULE_AGREED,
                                 m->in_force[i] ? 1 + rng_below(rng, 1000) : 0, members[i], count);
    }
    assert_int_equal(stream_controls_apply(t, set, n, full, now), 0);
    for (size_t i = 0; full && i < IDS; i++)
        m->in_force[i] = m->in_force[i] && named[i];
}

static void storm_connect(struct stream_table *t, struct model *m, struct rng *rng, uint64_t now)
{
    size_t h = rng_below(rng, HOSTS);
    if (m->stream[h] == NULL) {
        char host[16];
        snprintf(host, sizeof host, "h%zu", h);
        m->stream[h] = stream_connect(t, &stage_config.targets[0], host, "v", "", 1, now);
        return;
    }
    for (size_t i = 0; i < IOS; i++) {
        if (m->io_stream[i] != m->stream[h] || strcmp(m->stream[h]->host, "*") == 0)
            continue;
        gate_cancel(stream_gate(t), &m->io[i], now);
        m->io_stream[i] = NULL;
    }
    stream_disconnect(t, m->stream[h], now);
    m->stream[h] = NULL;
}

static void storm_io(struct stream_table *t, struct model *m, struct rng *rng, uint64_t now)
{
    struct stream *s = m->stream[rng_below(rng, HOSTS)];
    size_t i = rng_below(rng, IOS);
    if (s == NULL || m->io_stream[i] != NULL)
        return;
    m->io[i] = (struct gate_io){.op = rng_below(rng, 2) ? IO_READ : IO_WRITE, .bytes = 4096};
    if (!gate_submit(stream_gate(t), &s->flow, &m->io[i], now))
        m->io_stream[i] = s;
}

static void storm_check(struct stream_table *t, struct model *m)
{
    for (size_t h = 0; h < HOSTS; h++) {
        struct stream *s = m->stream[h];
        if (s == NULL || strcmp(s->host, "*") == 0)
            continue;
        char key[16], id[32];
        key_of_host(h, key);
        assert_string_equal(s->key, key);
        assert_ptr_equal(stream_find(t, key), s);
        uint32_t expected = 1; /* the file's limit per stream */
        for (size_t i = 0; i < IDS; i++) {
            snprintf(id, sizeof id, "control/%zu", i);
            bool names = m->in_force[i] && m->names[i][h];
            assert_int_equal(stage_covers(s, id), names);
            expected += names;
        }
        assert_int_equal(s->flow.cover_count, expected);
    }
}

static void in_a_storm_every_stream_is_covered_by_exactly_what_names_it(void **state)
{
    (void)state;
    static struct model m;
    struct rng rng;
    rng_seed(&rng, test_seed());
    stage_limit(0, "own", 500)->per_stream = true;
    struct stream_table *t = stage_table_with_limits(1);
    uint64_t now = 0;
    for (int round = 0; round < 20000; round++) {
        uint64_t what = rng_below(&rng, 100);
        if (what < 5)
            storm_controls(t, &m, &rng, now);
        else if (what < 15)
            storm_connect(t, &m, &rng, now);
        else if (what < 80)
            storm_io(t, &m, &rng, now);
        else
            now += rng_below(&rng, 5 * MS);
        if (what == 80) {
            for (size_t i = 0; i < IDS; i++)
                m.in_force[i] = m.in_force[i] && !m.planned[i];
            stream_controls_expire(t, now);
        } else if (what == 81) {
            stage_limit(0, "own", 1 + rng_below(&rng, 1000))->per_stream = true;
            assert_int_equal(stream_limits_reload(t, stage_limits, 1, now), 0);
        }
        for (struct gate_io *io; (io = gate_poll(stream_gate(t), now)) != NULL;) {
            size_t i = (size_t)(io - m.io);
            assert_non_null(m.io_stream[i]);
            m.io_stream[i] = NULL;
        }
        storm_check(t, &m);
    }
    for (size_t i = 0; i < IOS; i++)
        if (m.io_stream[i] != NULL)
            gate_cancel(stream_gate(t), &m.io[i], now);
    stream_table_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_members_of_a_control_share_one_rule, stage_setup),
        cmocka_unit_test_setup(a_control_waits_for_a_stream_that_is_not_there_yet, stage_setup),
        cmocka_unit_test_setup(a_control_survives_its_stream, stage_setup),
        cmocka_unit_test_setup(a_renewed_control_keeps_its_debt_and_its_held_ios, stage_setup),
        cmocka_unit_test_setup(a_full_set_replaces_all_and_a_part_only_what_it_names, stage_setup),
        cmocka_unit_test_setup(when_the_lease_ends_planned_controls_go_and_agreed_ones_stay,
                               stage_setup),
        cmocka_unit_test_setup(a_target_that_a_lease_left_undivided_is_so_for_the_next_worker,
                               stage_setup),
        cmocka_unit_test_setup(a_wrong_control_among_good_ones_changes_nothing, stage_setup),
        cmocka_unit_test_setup(more_than_the_bounds_is_refused_whole, stage_setup),
        cmocka_unit_test_setup(a_visit_shows_file_limits_and_controls, stage_setup),
        cmocka_unit_test_setup(burst_credit_is_seen_as_of_now, stage_setup),
        cmocka_unit_test_setup(in_a_storm_every_stream_is_covered_by_exactly_what_names_it,
                               stage_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a stream is known again when its host returns, the table stays within its bounds, and every
 * stream is covered by exactly what names it, through changes that are all or nothing and keep
 * credit and debts. Method: scenes on a table of a few slots and a virtual clock; a storm of
 * connects, controls, reloads and I/O against a plain model of who is covered by what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "gateway/stream.h"

#define MAX_STREAMS 4u
#define S NS_PER_S
#define MS NS_PER_MS

static struct gateway_config config;
static struct limit_config limits[16];

/* Two targets, no limits, four streams. */
static int setup(void **state)
{
    (void)state;
    gateway_config_init(&config);
    config.max_streams = MAX_STREAMS;
    config.max_hold_ns = 10 * S;
    config.target_count = 2;
    for (uint32_t i = 0; i < 2; i++) {
        snprintf(config.targets[i].name, NAME_SIZE, "array%u", i + 1);
        config.targets[i].index = i;
    }
    memset(limits, 0, sizeof limits);
    config.limits = NULL;
    config.limit_count = 0;
    return 0;
}

static struct stream_table *table(void)
{
    struct stream_table *t = stream_table_new(&config, 0);
    assert_non_null(t);
    return t;
}

static struct stream_table *table_with_limits(size_t count)
{
    config.limits = limits;
    config.limit_count = count;
    struct stream_table *t = stream_table_new(&config, 0);
    config.limits = NULL; /* they are copied */
    config.limit_count = 0;
    assert_non_null(t);
    return t;
}

static struct limit_config *limit(size_t i, const char *name, uint64_t iops)
{
    struct limit_config *l = &limits[i];
    memset(l, 0, sizeof *l);
    snprintf(l->name, NAME_SIZE, "%s", name);
    l->limits.rate[GATE_IOPS_TOTAL].rate = iops;
    return l;
}

static struct stream *join(struct stream_table *t, const char *host, const char *volume)
{
    return stream_connect(t, &config.targets[0], host, volume, "", 1 << 20, 0);
}

static struct control control_of(const char *id, enum rule_origin origin, uint64_t iops,
                                 const char *const *members, size_t count)
{
    struct control c = {.origin = origin, .members = members, .member_count = count};
    snprintf(c.id, sizeof c.id, "%s", id);
    c.limits.rate[GATE_IOPS_TOTAL].rate = iops;
    return c;
}

static int apply_one(struct stream_table *t, const char *id, enum rule_origin origin, uint64_t iops,
                     const char *member)
{
    const char *members[1] = {member};
    struct control c = control_of(id, origin, iops, members, 1);
    return stream_controls_apply(t, &c, 1, false, 0);
}

/* Whether a control of this id covers the stream. */
static bool covered(const struct stream *s, const char *id)
{
    for (uint32_t i = 0; i < s->flow.cover_count; i++)
        if (strcmp(stream_rule_control(s->flow.cover[i])->id, id) == 0)
            return true;
    return false;
}

static void spend(struct stream_table *t, struct stream *s, uint64_t now_ns)
{
    struct gate_io io = {.op = IO_READ, .bytes = 4096, .arrived_ns = now_ns};
    assert_true(gate_submit(stream_gate(t), &s->flow, &io, now_ns));
}

static bool held(struct stream_table *t, struct stream *s, uint64_t now_ns)
{
    struct gate_io io = {.op = IO_READ, .bytes = 4096, .arrived_ns = now_ns};
    if (gate_submit(stream_gate(t), &s->flow, &io, now_ns))
        return false;
    gate_cancel(stream_gate(t), &io, now_ns);
    return true;
}

/* ---- streams --------------------------------------------------------------------------------- */

static void a_host_that_returns_finds_its_stream_again(void **state)
{
    (void)state;
    struct stream_table *t = table();
    struct stream *s = join(t, "10.0.0.7", "db");
    assert_string_equal(s->key, "10.0.0.7/db");
    assert_int_equal(s->connections, 1);
    assert_ptr_equal(join(t, "10.0.0.7", "db"), s);
    assert_int_equal(s->connections, 2);
    meter_arrive(s->meter, IO_READ, 4096);
    stream_disconnect(t, s, 0);
    stream_disconnect(t, s, 0);
    assert_true(s->live);
    assert_ptr_equal(stream_find(t, "10.0.0.7/db"), s);
    assert_ptr_equal(join(t, "10.0.0.7", "db"), s);
    assert_int_equal(s->meter->op[IO_READ].arrivals, 1);
    assert_null(stream_find(t, "10.0.0.8/db"));
    stream_table_free(t);
}

static void the_same_export_on_two_targets_is_two_streams(void **state)
{
    (void)state;
    struct stream_table *t = table();
    struct stream *a = stream_connect(t, &config.targets[0], "h", "v", "", 1, 0);
    struct stream *b = stream_connect(t, &config.targets[1], "h", "v", "", 1, 0);
    assert_ptr_not_equal(a, b);
    assert_int_not_equal(a->index, b->index);
    assert_int_equal(apply_one(t, "agreement/x", RULE_AGREED, 100, "h/v"), 0);
    assert_true(covered(a, "agreement/x"));
    assert_true(covered(b, "agreement/x"));
    stream_table_free(t);
}

static void when_full_the_longest_idle_stream_makes_room(void **state)
{
    (void)state;
    struct stream_table *t = table();
    struct stream *s[MAX_STREAMS];
    char host[16];
    for (size_t i = 0; i < MAX_STREAMS; i++) {
        snprintf(host, sizeof host, "h%zu", i);
        s[i] = join(t, host, "v");
    }
    stream_disconnect(t, s[2], 1);
    stream_disconnect(t, s[1], 2);
    /* h2 was idle longer, but came back in between. */
    assert_ptr_equal(join(t, "h2", "v"), s[2]);
    stream_disconnect(t, s[2], 3);
    uint32_t old_index = s[1]->index;
    meter_arrive(s[1]->meter, IO_WRITE, 1);
    struct stream *n = join(t, "new", "v");
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
    limit(0, "slow", 1)->per_stream = true;
    struct stream_table *t = table_with_limits(1);
    struct stream *s[MAX_STREAMS];
    char host[16];
    for (size_t i = 0; i < MAX_STREAMS; i++) {
        snprintf(host, sizeof host, "h%zu", i);
        s[i] = join(t, host, "v");
    }
    spend(t, s[0], 0);
    struct gate_io io = {.op = IO_READ, .bytes = 1};
    assert_false(gate_submit(stream_gate(t), &s[0]->flow, &io, 0));
    stream_disconnect(t, s[0], 1);
    stream_disconnect(t, s[1], 2);
    assert_ptr_equal(join(t, "new", "v"), s[1]);
    struct stream *other = join(t, "newer", "v");
    assert_string_equal(other->key, "*/*");
    gate_cancel(stream_gate(t), &io, 3);
    assert_ptr_equal(join(t, "newest", "v"), s[0]);
    stream_table_free(t);
}

static void beyond_max_streams_newcomers_share_one_stream_per_target(void **state)
{
    (void)state;
    snprintf(config.targets[1].tenant, NAME_SIZE, "acme");
    struct stream_table *t = table();
    struct stream *s[MAX_STREAMS];
    char host[16];
    for (size_t i = 0; i < MAX_STREAMS; i++) {
        snprintf(host, sizeof host, "h%zu", i);
        s[i] = join(t, host, "v");
    }
    struct stream *a = join(t, "x", "v"), *b = join(t, "y", "w");
    assert_ptr_equal(a, b);
    assert_string_equal(a->host, "*");
    assert_string_equal(a->volume, "*");
    assert_int_equal(a->connections, 2);
    struct stream *c = stream_connect(t, &config.targets[1], "x", "v", "", 1, 0);
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
    assert_ptr_equal(join(t, "z", "v"), s[3]);
    assert_ptr_equal(join(t, "z2", "v"), a);
    memset(config.targets[1].tenant, 0, NAME_SIZE);
    stream_table_free(t);
}

/* ---- file limits ----------------------------------------------------------------------------- */

static void a_file_limit_covers_whom_its_patterns_match(void **state)
{
    (void)state;
    snprintf(limit(0, "by-host", 100)->host, NAME_SIZE, "10.0.0.*");
    snprintf(limit(1, "by-volume", 100)->volume, NAME_SIZE, "db-*");
    snprintf(limit(2, "by-tenant", 100)->tenant, NAME_SIZE, "acme");
    snprintf(limit(3, "by-target", 100)->target, NAME_SIZE, "array2");
    limit(4, "everybody", 100);
    struct stream_table *t = table_with_limits(5);
    struct stream *a = stream_connect(t, &config.targets[0], "10.0.0.7", "db-1", "acme", 1, 0);
    struct stream *b = stream_connect(t, &config.targets[1], "192.168.1.1", "web", "", 1, 0);
    assert_true(covered(a, "file/by-host"));
    assert_true(covered(a, "file/by-volume"));
    assert_true(covered(a, "file/by-tenant"));
    assert_false(covered(a, "file/by-target"));
    assert_true(covered(a, "file/everybody"));
    assert_int_equal(b->flow.cover_count, 2);
    assert_true(covered(b, "file/by-target"));
    assert_true(covered(b, "file/everybody"));
    /* The tenant is found out later. */
    assert_ptr_equal(stream_connect(t, &config.targets[1], "192.168.1.1", "web", "acme", 1, 0), b);
    assert_true(covered(b, "file/by-tenant"));
    stream_table_free(t);
}

static void a_shared_limit_is_one_for_all_and_one_per_stream_is_one_each(void **state)
{
    (void)state;
    limit(0, "shared", 100);
    limit(1, "own", 1000)->per_stream = true;
    struct stream_table *t = table_with_limits(2);
    struct stream *a = join(t, "a", "v"), *b = join(t, "b", "v");
    assert_int_equal(a->flow.cover_count, 2);
    assert_ptr_equal(a->flow.cover[0], b->flow.cover[0]);
    assert_ptr_not_equal(a->flow.cover[1], b->flow.cover[1]);
    assert_ptr_equal(stream_rule_control(a->flow.cover[1]), stream_rule_control(b->flow.cover[1]));
    spend(t, a, 0);
    assert_true(held(t, b, 0)); /* by what a took of the shared one */
    stream_table_free(t);
}

static void limits_beyond_the_bound_are_left_out_and_counted(void **state)
{
    (void)state;
    char name[16];
    for (size_t i = 0; i < 11; i++) {
        snprintf(name, sizeof name, "l%zu", i);
        limit(i, name, 100)->per_stream = i % 2;
    }
    struct stream_table *t = table_with_limits(11);
    struct stream *a = join(t, "a", "v");
    assert_int_equal(a->flow.cover_count, STREAM_FILE_LIMITS_MAX);
    assert_int_equal(a->limits_left_out, 3);
    stream_table_free(t);
}

static void a_reload_keeps_debts_under_the_same_name(void **state)
{
    (void)state;
    limit(0, "own", 1)->per_stream = true;
    limit(1, "shared", 10);
    limit(2, "goes", 10);
    struct stream_table *t = table_with_limits(3);
    struct stream *a = join(t, "a", "v");
    spend(t, a, 0);
    limit(0, "own", 2)->per_stream = true;
    limit(1, "shared", 20);
    limit(2, "new", 30);
    assert_int_equal(stream_limits_reload(t, limits, 3, 0), 0);
    assert_int_equal(a->flow.cover_count, 3);
    assert_false(covered(a, "file/goes"));
    assert_true(covered(a, "file/new"));
    /* One I/O owed at 2 a second and at 20 a second; nothing to the new one. */
    assert_int_equal(bucket_wait_ns(&a->flow.cover[0]->bucket[GATE_IOPS_TOTAL], 0), 500 * MS);
    assert_int_equal(bucket_wait_ns(&a->flow.cover[1]->bucket[GATE_IOPS_TOTAL], 0), 50 * MS);
    assert_int_equal(bucket_wait_ns(&a->flow.cover[2]->bucket[GATE_IOPS_TOTAL], 0), 0);
    /* From per stream to shared and back. */
    limit(0, "own", 2);
    assert_int_equal(stream_limits_reload(t, limits, 1, 0), 0);
    struct stream *b = join(t, "b", "v");
    assert_ptr_equal(a->flow.cover[0], b->flow.cover[0]);
    limit(0, "own", 2)->per_stream = true;
    assert_int_equal(stream_limits_reload(t, limits, 1, 0), 0);
    assert_ptr_not_equal(a->flow.cover[0], b->flow.cover[0]);
    assert_int_equal(stream_limits_reload(t, NULL, 0, 0), 0);
    assert_int_equal(a->flow.cover_count, 0);
    stream_table_free(t);
}

static void a_reload_with_one_wrong_limit_changes_nothing(void **state)
{
    (void)state;
    limit(0, "a", 10);
    struct stream_table *t = table_with_limits(1);
    struct stream *s = join(t, "h", "v");
    limit(0, "a", 20);
    limit(1, "b", 20)->limits.rate[GATE_IOPS_TOTAL].burst_rate = 5; /* below its base rate */
    assert_int_equal(stream_limits_reload(t, limits, 2, 0), WEIR_E_INVALID);
    limit(1, "a", 30); /* the name twice */
    assert_int_equal(stream_limits_reload(t, limits, 2, 0), WEIR_E_INVALID);
    assert_int_equal(s->flow.cover_count, 1);
    assert_int_equal(s->flow.cover[0]->bucket[GATE_IOPS_TOTAL].cfg.rate, 10);
    stream_table_free(t);
}

/* ---- controls -------------------------------------------------------------------------------- */

static void the_members_of_a_control_share_one_rule(void **state)
{
    (void)state;
    struct stream_table *t = table();
    struct stream *a = join(t, "a", "v"), *b = join(t, "b", "v"), *c = join(t, "c", "v");
    const char *members[] = {"a/v", "b/v", "a/v"};
    struct control group = control_of("agreement/g", RULE_AGREED, 10, members, 3);
    assert_int_equal(stream_controls_apply(t, &group, 1, false, 0), 0);
    assert_ptr_equal(a->flow.cover[0], b->flow.cover[0]);
    assert_int_equal(a->flow.cover_count, 1);
    assert_int_equal(c->flow.cover_count, 0);
    spend(t, a, 0);
    assert_true(held(t, b, 0));
    assert_false(held(t, c, 0));
    stream_table_free(t);
}

static void a_control_waits_for_a_stream_that_is_not_there_yet(void **state)
{
    (void)state;
    struct stream_table *t = table();
    assert_int_equal(apply_one(t, "agreement/later", RULE_AGREED, 10, "late/v"), 0);
    struct stream *s = join(t, "late", "v");
    assert_true(covered(s, "agreement/later"));
    stream_table_free(t);
}

static void a_control_survives_its_stream(void **state)
{
    (void)state;
    struct stream_table *t = table();
    struct stream *a = join(t, "a", "v");
    assert_int_equal(apply_one(t, "agreement/a", RULE_AGREED, 10, "a/v"), 0);
    spend(t, a, 0);
    stream_disconnect(t, a, 0);
    char host[16];
    for (size_t i = 0; i < MAX_STREAMS; i++) {
        snprintf(host, sizeof host, "h%zu", i);
        stream_disconnect(t, join(t, host, "v"), 1);
    }
    assert_null(stream_find(t, "a/v"));
    a = join(t, "a", "v");
    assert_true(covered(a, "agreement/a"));
    assert_true(held(t, a, 0)); /* it owes what it owed */
    stream_table_free(t);
}

static void a_renewed_control_keeps_its_debt_and_its_held_ios(void **state)
{
    (void)state;
    struct stream_table *t = table();
    struct stream *a = join(t, "a", "v");
    assert_int_equal(apply_one(t, "throttle/a", RULE_PLANNED, 1, "a/v"), 0);
    spend(t, a, 0);
    struct gate_io io = {.op = IO_READ, .bytes = 1};
    assert_false(gate_submit(stream_gate(t), &a->flow, &io, 0));
    const struct gate_rule *rule = a->flow.cover[0];
    const char *members[] = {"b/v", "a/v"};
    for (uint64_t i = 0; i < 100; i++) {
        struct control c = control_of("throttle/a", RULE_PLANNED, 1 + i % 2, members, 2);
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
    limit(0, "stays", 1000);
    struct stream_table *t = table_with_limits(1);
    struct stream *a = join(t, "a", "v");
    const char *members[] = {"a/v"};
    struct control set[3] = {
        control_of("agreement/1", RULE_AGREED, 10, members, 1),
        control_of("throttle/2", RULE_PLANNED, 20, members, 1),
        control_of("throttle/3", RULE_PLANNED, 30, members, 1),
    };
    assert_int_equal(stream_controls_apply(t, set, 3, true, 0), 0);
    assert_int_equal(a->flow.cover_count, 4);
    assert_int_equal(apply_one(t, "throttle/2", RULE_PLANNED, 0, "a/v"), 0); /* no limit: remove */
    assert_false(covered(a, "throttle/2"));
    assert_true(covered(a, "throttle/3"));
    assert_int_equal(stream_controls_apply(t, &set[1], 1, true, 0), 0);
    assert_int_equal(a->flow.cover_count, 2);
    assert_true(covered(a, "throttle/2"));
    assert_true(covered(a, "file/stays"));
    assert_int_equal(stream_controls_apply(t, NULL, 0, true, 0), 0);
    assert_int_equal(a->flow.cover_count, 1);
    stream_table_free(t);
}

static void when_the_lease_ends_planned_controls_go_and_agreed_ones_stay(void **state)
{
    (void)state;
    struct stream_table *t = table();
    struct stream *a = join(t, "a", "v");
    assert_int_equal(apply_one(t, "agreement/a", RULE_AGREED, 1000, "a/v"), 0);
    assert_int_equal(apply_one(t, "throttle/a", RULE_PLANNED, 1, "a/v"), 0);
    assert_int_equal(apply_one(t, "throttle/nobody", RULE_PLANNED, 1, "x/v"), 0);
    spend(t, a, 0);
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
    assert_true(covered(a, "agreement/a"));
    assert_int_equal(a->flow.cover[0]->bucket[GATE_IOPS_TOTAL].cfg.rate, 10);
}

static void a_wrong_control_among_good_ones_changes_nothing(void **state)
{
    (void)state;
    struct stream_table *t = table();
    struct stream *a = join(t, "a", "v");
    assert_int_equal(apply_one(t, "agreement/a", RULE_AGREED, 10, "a/v"), 0);
    const char *members[] = {"a/v"}, *empty[] = {""};
    char long_key[STREAM_KEY_SIZE + 10];
    memset(long_key, 'x', sizeof long_key);
    long_key[sizeof long_key - 1] = '\0';
    const char *too_long[] = {long_key};
    struct control good = control_of("agreement/a", RULE_AGREED, 99, members, 1);
    struct control bad[] = {
        control_of("", RULE_AGREED, 10, members, 1),
        control_of("file/x", RULE_AGREED, 10, members, 1),
        control_of("x", RULE_FILE, 10, members, 1),
        control_of("x", RULE_PLANNED, UINT64_MAX, members, 1),
        control_of("x", RULE_PLANNED, 10, empty, 1),
        control_of("x", RULE_PLANNED, 10, too_long, 1),
        control_of("agreement/a", RULE_PLANNED, 5, members, 1),
        control_of("agreement/a", RULE_PLANNED, 0, members, 1),
        control_of("x", RULE_PLANNED, 10, members, 1),
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
    struct stream_table *t = table();
    struct stream *a = join(t, "a", "v");
    assert_int_equal(apply_one(t, "agreement/a", RULE_AGREED, 10, "a/v"), 0);
    static struct control set[64];
    static char key[64][16];
    static const char *member[64];
    char id[32];
    size_t max = STREAM_CONTROLS_PER_STREAM * MAX_STREAMS;
    for (size_t i = 0; i < 64; i++) {
        snprintf(id, sizeof id, "throttle/%zu", i);
        snprintf(key[i], sizeof key[i], "k%zu/v", i);
        member[i] = key[i];
        set[i] = control_of(id, RULE_PLANNED, 10, &member[i], 1);
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
    snprintf(limit(0, "x", 10)->volume, NAME_SIZE, "db-*");
    limit(1, "y", 10)->per_stream = true;
    struct stream_table *t = table_with_limits(2);
    assert_int_equal(apply_one(t, "throttle/a", RULE_PLANNED, 10, "a/v"), 0);
    struct seen s = {.rules = true};
    stream_controls_visit(t, see, &s);
    assert_string_equal(s.ids, "file/x file/y throttle/a ");
    assert_false(s.rules); /* nobody has a rule of y */
    join(t, "a", "v");
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
    struct limit_config *l = limit(0, "bursty", 100);
    l->limits.rate[GATE_IOPS_TOTAL].burst_rate = 200;
    l->limits.rate[GATE_IOPS_TOTAL].burst_ns = S; /* 100 I/Os of credit */
    struct stream_table *t = table_with_limits(1);
    struct stream *a = join(t, "a", "v");
    uint32_t ppm = 0;
    assert_true(stream_burst_ppm(a, &ppm));
    assert_int_equal(ppm, 1000000);
    for (uint64_t i = 0; i < 100; i++)
        spend(t, a, i * 5 * MS);
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
#define IDS 6u
#define IOS 200u

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
        set[n++] = control_of(id, m->planned[i] ? RULE_PLANNED : RULE_AGREED,
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
        m->stream[h] = stream_connect(t, &config.targets[0], host, "v", "", 1, now);
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
            assert_int_equal(covered(s, id), names);
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
    uint64_t seed;
    rng_system(&seed, sizeof seed);
    if (getenv("WEIR_SEED") != NULL)
        seed = strtoull(getenv("WEIR_SEED"), NULL, 0);
    printf("seed: WEIR_SEED=%llu\n", (unsigned long long)seed);
    rng_seed(&rng, seed);
    limit(0, "own", 500)->per_stream = true;
    struct stream_table *t = table_with_limits(1);
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
            limit(0, "own", 1 + rng_below(&rng, 1000))->per_stream = true;
            assert_int_equal(stream_limits_reload(t, limits, 1, now), 0);
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
        cmocka_unit_test_setup(a_host_that_returns_finds_its_stream_again, setup),
        cmocka_unit_test_setup(the_same_export_on_two_targets_is_two_streams, setup),
        cmocka_unit_test_setup(when_full_the_longest_idle_stream_makes_room, setup),
        cmocka_unit_test_setup(a_stream_that_still_holds_io_is_not_reused, setup),
        cmocka_unit_test_setup(beyond_max_streams_newcomers_share_one_stream_per_target, setup),
        cmocka_unit_test_setup(a_file_limit_covers_whom_its_patterns_match, setup),
        cmocka_unit_test_setup(a_shared_limit_is_one_for_all_and_one_per_stream_is_one_each, setup),
        cmocka_unit_test_setup(limits_beyond_the_bound_are_left_out_and_counted, setup),
        cmocka_unit_test_setup(a_reload_keeps_debts_under_the_same_name, setup),
        cmocka_unit_test_setup(a_reload_with_one_wrong_limit_changes_nothing, setup),
        cmocka_unit_test_setup(the_members_of_a_control_share_one_rule, setup),
        cmocka_unit_test_setup(a_control_waits_for_a_stream_that_is_not_there_yet, setup),
        cmocka_unit_test_setup(a_control_survives_its_stream, setup),
        cmocka_unit_test_setup(a_renewed_control_keeps_its_debt_and_its_held_ios, setup),
        cmocka_unit_test_setup(a_full_set_replaces_all_and_a_part_only_what_it_names, setup),
        cmocka_unit_test_setup(when_the_lease_ends_planned_controls_go_and_agreed_ones_stay, setup),
        cmocka_unit_test_setup(a_wrong_control_among_good_ones_changes_nothing, setup),
        cmocka_unit_test_setup(more_than_the_bounds_is_refused_whole, setup),
        cmocka_unit_test_setup(a_visit_shows_file_limits_and_controls, setup),
        cmocka_unit_test_setup(burst_credit_is_seen_as_of_now, setup),
        cmocka_unit_test_setup(in_a_storm_every_stream_is_covered_by_exactly_what_names_it, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

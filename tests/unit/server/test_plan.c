/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: shares say what agreements owe, whole at every gateway with what the others served, scaled
 * when reservations exceed what a storage can do; where only to observe is allowed none is sent.
 * Method: the world of world.h with two gateways before one device; controls are caught on their
 * way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "server/services/explain.h"
#include "world.h"

struct caught {
    char id[2 * NAME_SIZE];
    uint64_t session;
    struct sched_terms share;
    struct window_plan plan;
    size_t members;
    bool planned;
};

struct stage {
    struct world w;
    int gateway[2];
    struct services_sink world_sink;
    struct caught caught[128];
    size_t count;
};

static struct stage *stage;

static struct caught *caught_at(uint64_t session, const char *id)
{
    for (size_t i = 0; i < stage->count; i++) {
        if (stage->caught[i].session == session && strcmp(stage->caught[i].id, id) == 0)
            return &stage->caught[i];
    }
    return NULL;
}

static void catch(uint64_t session, const struct control_item *item)
{
    struct caught *c = caught_at(session, item->id);
    if (c == NULL) {
        assert_true(stage->count < 128);
        c = &stage->caught[stage->count++];
    }
    *c = (struct caught){.session = session, .members = item->remove ? 0 : item->member_count,
                         .planned = item->planned};
    memcpy(c->id, item->id, sizeof(c->id));
    if (item->remove)
        return;
    c->share = item->share;
    c->plan = item->plan;
}

static int sink_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    for (size_t i = 0; i < u->item_count; i++)
        catch(session, &u->item[i]);
    return stage->world_sink.controls(ctx, session, pair, u);
}

static void stage_begin(bool observe)
{
    stage = calloc(1, sizeof(*stage));
    struct world *w = &stage->w;
    world_init(w, 5, observe);
    services_free(w->services);
    struct services_config c = {.period_ns = S, .lease_ns = 10 * S, .observe = observe,
                                .max_gateways = 4, .max_streams = 16, .processes = 1,
                                .first_epoch = 5};
    stage->world_sink = world_sink(w);
    struct services_sink sink = stage->world_sink;
    sink.controls = sink_controls;
    w->services = services_new(&c, &sink);
    services_loaded(w->services, w->now, world_wall(w));
    stage->gateway[0] = world_add_gateway(w, "gw1", 0);
    stage->gateway[1] = world_add_gateway(w, "gw2", 0);
    world_gateway_up(w, stage->gateway[0], true);
    world_gateway_up(w, stage->gateway[1], true);
}

static void stage_end(void)
{
    world_fini(&stage->w);
    free(stage);
}

static struct agreement reserving(const char *name, const char *volume, uint64_t iops,
                                  int32_t priority)
{
    struct agreement a = {.weight = 300, .version = 1, .reservation_iops = iops,
                          .priority = priority, .compliance_window_ns = 10 * S};
    snprintf(a.name, NAME_SIZE, "%s", name);
    snprintf(a.applies_to.volume, NAME_SIZE, "%s", volume);
    return a;
}

static void put(const struct agreement *a)
{
    char why[512];
    if (services_agreement_put(stage->w.services, a, stage->w.now, world_wall(&stage->w), why,
                               sizeof(why)) != 0)
        fail_msg("%s", why);
}

static int open_stream(int gateway, const char *host, const char *volume, double rate)
{
    int st = world_add_stream(&stage->w, stage->gateway[gateway], host, volume);
    world_open_loop(&stage->w, st, rate);
    return st;
}

static const struct caught *seen(int gateway, const char *id)
{
    return caught_at(stage->w.gateway[stage->gateway[gateway]].hello.session, id);
}

static void a_share_says_what_the_agreement_owes(void **state)
{
    (void)state;
    stage_begin(false);
    struct agreement a = reserving("gold", "db", 500, 7);
    a.objective[0] = (struct objective){990000, 5000, 1000};
    a.objective_count = 1;
    put(&a);
    open_stream(0, "10.0.0.1", "db", 100);
    world_run(&stage->w, 5);
    const struct caught *c = seen(0, "share/gold@array1");
    assert_non_null(c);
    assert_false(c->planned);
    assert_int_equal(c->members, 1);
    assert_int_equal(c->share.weight, 300);
    assert_int_equal(c->share.priority, 7);
    assert_int_equal(c->share.reserve_iops, 1100); /* a tenth above the promise of latency */
    assert_int_equal(c->share.latency_us, 5000);
    assert_int_equal(c->share.percentile_ppm, 990000);
    assert_null(seen(0, "plan/gold@array1")); /* one gateway, and nothing is scaled */
    assert_null(seen(1, "share/gold@array1"));
    const struct caught *plan = seen(0, "target/array1");
    assert_non_null(plan);
    assert_in_range(plan->plan.wait_us, 5000 / 4, 5000 * 85 / 100);
    uint64_t updates = stage->w.updates;
    world_run(&stage->w, 3);
    assert_true(stage->w.updates <= updates + 2); /* the lease is renewed, no more */
    stage_end();
}

static void over_two_gateways_it_is_whole_with_what_the_other_served(void **state)
{
    (void)state;
    stage_begin(false);
    struct agreement a = reserving("gold", "db", 500, 0);
    put(&a);
    int here = open_stream(0, "10.0.0.1", "db", 300);
    int there = open_stream(1, "10.0.0.2", "db", 500);
    world_run(&stage->w, 8);
    const struct caught *c = seen(0, "plan/gold@array1"), *d = seen(1, "plan/gold@array1");
    assert_non_null(c);
    assert_non_null(d);
    assert_true(c->planned);
    assert_int_equal(c->share.reserve_iops, 500);
    assert_int_equal(d->share.reserve_iops, 500);
    uint64_t by_there = world_ios(&stage->w, there), by_here = world_ios(&stage->w, here);
    assert_true(c->share.elsewhere_ios > 500 * 4 && c->share.elsewhere_ios <= by_there);
    assert_true(d->share.elsewhere_ios > 300 * 4 && d->share.elsewhere_ios <= by_here);
    uint64_t before = c->share.elsewhere_ios;
    world_run(&stage->w, 2);
    assert_true(seen(0, "plan/gold@array1")->share.elsewhere_ios > before + 500);
    stage_end();
}

/* Demand that moves waits for no plan: an early warning has its gateway asked, and the answer that
 * tells of the stream brings the share. */
static void a_claim_at_one_more_gateway_has_its_share_at_once(void **state)
{
    (void)state;
    stage_begin(false);
    struct agreement a = reserving("gold", "db", 500, 0);
    put(&a);
    open_stream(0, "10.0.0.1", "db", 300);
    world_run(&stage->w, 5);
    uint64_t plans = 0;
    open_stream(1, "10.0.0.1", "db", 300);
    for (int i = 0; i < 20 && seen(1, "share/gold@array1") == NULL; i++) {
        world_run_ns(&stage->w, 10 * MS);
        services_surge(stage->w.services, stage->w.gateway[stage->gateway[1]].hello.session,
                       stage->w.now, world_wall(&stage->w));
        plans += seen(1, "plan/gold@array1") != NULL;
    }
    const struct caught *c = seen(1, "share/gold@array1");
    assert_non_null(c);
    assert_int_equal(c->share.reserve_iops, 500);
    assert_int_equal(c->members, 1);
    assert_int_equal(plans, 0);
    world_run(&stage->w, 3);
    assert_non_null(seen(1, "plan/gold@array1"));
    stage_end();
}

static void within_the_reservation_what_the_other_served_takes_nothing_from_it(void **state)
{
    (void)state;
    stage_begin(false);
    struct agreement a = reserving("gold", "db", 500, 0);
    put(&a);
    open_stream(0, "10.0.0.1", "db", 100);
    open_stream(1, "10.0.0.2", "db", 300);
    world_run(&stage->w, 8);
    const struct caught *c = seen(0, "plan/gold@array1");
    assert_non_null(c);
    assert_int_equal(c->share.reserve_iops, 500);
    assert_int_equal(c->share.elsewhere_ios, 0);
    stage_end();
}

/* Whether a sentence about stream @st says this. */
static bool explained(int st, const char *what)
{
    char line[EXPLAIN_SENTENCES][EXPLAIN_SIZE];
    const struct entities *e = services_entities(stage->w.services);
    size_t n = explain_stream(e, world_entity(&stage->w, st), line);
    for (size_t i = 0; i < n; i++)
        if (strstr(line[i], what) != NULL)
            return true;
    return false;
}

static void reservations_beyond_the_storage_are_scaled_by_priority_and_said(void **state)
{
    (void)state;
    stage_begin(false);
    stage->w.parallelism_milli = 1000; /* one I/O at once: of 100 us, 10,000 a second */
    struct agreement dear = reserving("dear", "db", 6000, 10);
    struct agreement cheap = reserving("cheap", "batch", 6000, 0);
    put(&dear);
    put(&cheap);
    int db = open_stream(0, "10.0.0.1", "db", 100);
    int batch = open_stream(1, "10.0.0.2", "batch", 100);
    world_run(&stage->w, 6);
    assert_int_equal(world_count_events(&stage->w, "overcommitted"), 1);
    assert_true(explained(batch, "fit; collisions are decided by priority."));
    assert_false(explained(db, "collisions")); /* it loses nothing */
    assert_null(seen(0, "plan/dear@array1")); /* has all of it */
    const struct caught *c = seen(1, "plan/cheap@array1");
    assert_non_null(c);
    assert_in_range(c->share.reserve_iops, 3900, 4000); /* what is left */
    struct policy share = {.name = "fair", .version = 1, .collisions = COLLISIONS_SHARE};
    services_policy_put(stage->w.services, &share, stage->w.now, world_wall(&stage->w));
    world_run(&stage->w, 3);
    assert_in_range(seen(0, "plan/dear@array1")->share.reserve_iops, 4900, 5000);
    assert_in_range(seen(1, "plan/cheap@array1")->share.reserve_iops, 4900, 5000);
    assert_true(explained(db, "fit; collisions are decided by equal shares, as says policy fair."));
    assert_int_equal(world_count_events(&stage->w, "overcommitted"), 1);
    stage_end();
}

static void each_kind_of_reservation_is_sent_as_itself_and_scaled_with_the_others(void **state)
{
    (void)state;
    stage_begin(false);
    stage->w.parallelism_milli = 1000; /* one I/O at once: of 100 us, 10,000 a second */
    struct agreement a = reserving("gold", "db", 2000, 0);
    a.reservation_read_iops = 1500;
    a.reservation_write_iops = 200;
    a.reservation_bytes_s = 9 << 20;
    a.reservation_read_bytes_s = 8 << 20;
    a.reservation_write_bytes_s = 1 << 20;
    put(&a);
    open_stream(0, "10.0.0.1", "db", 100);
    world_run(&stage->w, 5);
    const struct sched_terms *t = &seen(0, "share/gold@array1")->share;
    assert_int_equal(t->reserve_iops, 2000); /* whatever its parts ask for */
    assert_int_equal(t->reserve_dir_iops[IO_DIR_READ], 1500);
    assert_int_equal(t->reserve_dir_iops[IO_DIR_WRITE], 200);
    assert_int_equal(t->reserve_bytes_s, 9 << 20);
    assert_int_equal(t->reserve_dir_bytes_s[IO_DIR_READ], 8 << 20);
    assert_int_equal(t->reserve_dir_bytes_s[IO_DIR_WRITE], 1 << 20);
    assert_null(seen(0, "plan/gold@array1"));
    /* Twice what the storage can do, half of it writes. */
    a.version = 2;
    a.reservation_iops = 0;
    a.reservation_bytes_s = a.reservation_read_bytes_s = a.reservation_write_bytes_s = 0;
    a.reservation_read_iops = a.reservation_write_iops = 10000;
    put(&a);
    world_run(&stage->w, 3);
    t = &seen(0, "plan/gold@array1")->share;
    assert_int_equal(t->reserve_iops, 0);
    assert_in_range(t->reserve_dir_iops[IO_DIR_READ], 4900, 5100);
    assert_in_range(t->reserve_dir_iops[IO_DIR_WRITE], 4900, 5100);
    /* Bytes alone: 4 KiB a read are 20,000 a second. */
    a.version = 3;
    a.reservation_read_iops = a.reservation_write_iops = 0;
    a.reservation_bytes_s = UINT64_C(4096) * 20000;
    put(&a);
    world_run(&stage->w, 3);
    t = &seen(0, "plan/gold@array1")->share;
    assert_int_equal(t->reserve_dir_iops[IO_DIR_READ], 0);
    assert_in_range(t->reserve_bytes_s, UINT64_C(4096) * 9800, UINT64_C(4096) * 10200);
    stage_end();
}

static void reads_reserved_over_two_gateways_count_what_was_read_there(void **state)
{
    (void)state;
    stage_begin(false);
    struct agreement a = reserving("gold", "db", 0, 0);
    a.reservation_read_iops = 500;
    a.reservation_write_iops = 1000;
    put(&a);
    open_stream(0, "10.0.0.1", "db", 300);
    int there = open_stream(1, "10.0.0.2", "db", 700); /* a quarter of them writes */
    world_run(&stage->w, 8);
    const struct caught *c = seen(0, "plan/gold@array1");
    assert_non_null(c);
    assert_int_equal(c->share.reserve_dir_iops[IO_DIR_READ], 500);
    assert_int_equal(c->share.reserve_dir_iops[IO_DIR_WRITE], 1000);
    uint64_t by_there = world_ios(&stage->w, there);
    assert_in_range(c->share.elsewhere_dir_ios[IO_DIR_READ], by_there / 3, by_there);
    assert_int_equal(c->share.elsewhere_dir_ios[IO_DIR_WRITE], 0); /* within what is reserved */
    assert_int_equal(c->share.elsewhere_ios, 0);
    stage_end();
}

static void observing_sends_no_share(void **state)
{
    (void)state;
    stage_begin(true);
    struct agreement a = reserving("gold", "db", 500, 0);
    put(&a);
    open_stream(0, "10.0.0.1", "db", 100);
    open_stream(1, "10.0.0.2", "db", 100);
    world_run(&stage->w, 5);
    assert_null(seen(0, "share/gold@array1"));
    assert_int_equal(stage->w.planned_controls, 0);
    struct policy p = {.name = "on", .version = 1, .enforce = true};
    snprintf(p.applies_to.target, NAME_SIZE, "array1");
    services_policy_put(stage->w.services, &p, stage->w.now, world_wall(&stage->w));
    world_run(&stage->w, 3);
    assert_non_null(seen(0, "share/gold@array1"));
    services_enforcement(stage->w.services, false, stage->w.now, world_wall(&stage->w));
    world_run(&stage->w, 3);
    assert_int_equal(seen(0, "share/gold@array1")->share.weight, 0); /* removed */
    assert_int_equal(seen(0, "plan/gold@array1")->share.weight, 0);
    stage_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_share_says_what_the_agreement_owes),
        cmocka_unit_test(a_claim_at_one_more_gateway_has_its_share_at_once),
        cmocka_unit_test(over_two_gateways_it_is_whole_with_what_the_other_served),
        cmocka_unit_test(within_the_reservation_what_the_other_served_takes_nothing_from_it),
        cmocka_unit_test(reservations_beyond_the_storage_are_scaled_by_priority_and_said),
        cmocka_unit_test(each_kind_of_reservation_is_sent_as_itself_and_scaled_with_the_others),
        cmocka_unit_test(reads_reserved_over_two_gateways_count_what_was_read_there),
        cmocka_unit_test(observing_sends_no_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

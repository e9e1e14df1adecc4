/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: which agreements hold for a stream, in what order, is as the guide says, whatever the order
 * of arrival; all limits that cover an I/O are sent; schedules, defaults and sizes are followed.
 * Method: agreements put into services over a small world, and what entities, controls and events
 * say afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "server/services/agreement_match.h"
#include "server/services/precedence.h"
#include "world.h"

struct sent_control {
    char id[2 * NAME_SIZE];
    uint64_t iops;
    size_t members;
};

struct scene {
    struct world w;
    int gateway, stream;
    struct services_sink world_sink;
    struct sent_control sent[64];
    size_t sent_count;
};

static struct scene *scene;

static void sent_put(const struct control_item *item)
{
    size_t i = 0;
    while (i < scene->sent_count && strcmp(scene->sent[i].id, item->id) != 0)
        i++;
    if (i == scene->sent_count) {
        assert_true(scene->sent_count < 64);
        scene->sent_count++;
    }
    snprintf(scene->sent[i].id, sizeof(scene->sent[i].id), "%s", item->id);
    scene->sent[i].iops = item->remove ? 0 : item->limits.rate[GATE_IOPS_TOTAL].rate;
    scene->sent[i].members = item->member_count;
}

static int sink_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    if (u->full)
        scene->sent_count = 0;
    for (size_t i = 0; i < u->item_count; i++)
        sent_put(&u->item[i]);
    return scene->world_sink.controls(ctx, session, pair, u);
}

/* Of a control in force; 0: none. */
static uint64_t sent_iops(const char *id)
{
    for (size_t i = 0; i < scene->sent_count; i++) {
        if (strcmp(scene->sent[i].id, id) == 0)
            return scene->sent[i].iops;
    }
    return 0;
}

/* One gateway, one stream 10.0.0.1/db of 1 GiB at array1, and services that show their controls. */
static int setup(void **state)
{
    (void)state;
    scene = calloc(1, sizeof(*scene));
    struct world *w = &scene->w;
    world_init(w, 3, false);
    services_free(w->services);
    struct services_config c = {.period_ns = S,
                                .lease_ns = 10 * S,
                                .max_gateways = 4,
                                .max_streams = 16,
                                .processes = 1,
                                .first_epoch = 5};
    scene->world_sink = world_sink(w);
    struct services_sink sink = scene->world_sink;
    sink.controls = sink_controls;
    w->services = services_new(&c, &sink);
    services_loaded(w->services, w->now, world_wall(w));
    scene->gateway = world_add_gateway(w, "gw1", 0);
    scene->stream = world_add_stream(w, scene->gateway, "10.0.0.1", "db");
    world_gateway_up(w, scene->gateway, true);
    world_open_loop(w, scene->stream, 100);
    world_run(w, 3);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_fini(&scene->w);
    free(scene);
    return 0;
}

static struct agreement named(const char *name, const char *host, const char *volume)
{
    struct agreement a = {.weight = AGREEMENT_WEIGHT, .version = 1,
                          .compliance_window_ns = 10 * S};
    snprintf(a.name, NAME_SIZE, "%s", name);
    snprintf(a.applies_to.host, NAME_SIZE, "%s", host);
    snprintf(a.applies_to.volume, NAME_SIZE, "%s", volume);
    return a;
}

static struct agreement limited(const char *name, const char *host, const char *volume,
                                uint64_t iops)
{
    struct agreement a = named(name, host, volume);
    a.limits.rate[GATE_IOPS_TOTAL].rate = iops;
    return a;
}

static struct agreement promising(struct agreement a, uint64_t latency_us)
{
    a.objective[0] = (struct objective){990000, latency_us, 4000};
    a.objective_count = 1;
    return a;
}

static int put_words(const struct agreement *a, char *why, size_t size)
{
    return services_agreement_put(scene->w.services, a, scene->w.now, world_wall(&scene->w), why,
                                  size);
}

static void put(struct agreement a)
{
    char why[512];
    if (put_words(&a, why, sizeof(why)) != 0)
        fail_msg("%s", why);
}

static const char *promise_of_stream(void)
{
    const struct agreement *a = world_entity(&scene->w, scene->stream)->agreement;
    return a != NULL ? a->name : "";
}

static size_t rows_of_stream(struct precedence_row *rows, size_t max)
{
    size_t n;
    const struct entities *e = services_entities(scene->w.services);
    precedence_of(&e->agreements, world_entity(&scene->w, scene->stream), rows, max, &n);
    return n;
}

static void an_io_pays_into_every_agreement_that_covers_it(void **state)
{
    (void)state;
    put(limited("all", "", "", 5000));
    put(limited("hosts", "10.*", "", 3000));
    put(limited("volume", "", "db", 2000));
    put(limited("other", "", "web", 10));
    world_run(&scene->w, 2);
    assert_int_equal(sent_iops("agreement/all"), 5000);
    assert_int_equal(sent_iops("agreement/hosts"), 3000);
    assert_int_equal(sent_iops("agreement/volume"), 2000);
    assert_int_equal(sent_iops("agreement/other"), 0);
}

static void limits_alone_take_no_promise_away(void **state)
{
    (void)state;
    put(promising(named("gold", "", "db"), 5000));
    put(limited("cap", "10.0.0.1", "db", 2000));
    assert_string_equal(promise_of_stream(), "gold");
    put(promising(limited("cap", "10.0.0.1", "db", 2000), 9000));
    assert_string_equal(promise_of_stream(), "cap");
    struct precedence_row rows[8];
    assert_int_equal(rows_of_stream(rows, 8), 2);
    assert_string_equal(rows[0].agreement->agreement.name, "cap");
    assert_int_equal(rows[0].says, PRECEDENCE_PROMISE);
    assert_int_equal(rows[1].says, PRECEDENCE_LIMITS);
}

static void a_default_holds_only_where_nothing_else_does(void **state)
{
    (void)state;
    struct agreement fallback = limited("everybody-else", "", "", 50);
    fallback.fallback = true;
    fallback.per = AGREEMENT_PER_STREAM;
    put(fallback);
    world_run(&scene->w, 2);
    assert_int_equal(sent_iops("agreement/everybody-else/10.0.0.1/db"), 50);
    put(limited("volume", "", "d*", 2000)); /* less specific fields could not matter */
    world_run(&scene->w, 2);
    assert_int_equal(sent_iops("agreement/everybody-else/10.0.0.1/db"), 0);
    assert_int_equal(sent_iops("agreement/volume"), 2000);
    struct precedence_row rows[8];
    assert_int_equal(rows_of_stream(rows, 8), 2);
    assert_int_equal(rows[1].says, PRECEDENCE_DEFAULT_YIELDS);
    services_document_remove(scene->w.services, "Agreement", "volume", scene->w.now,
                             world_wall(&scene->w));
    world_run(&scene->w, 2);
    assert_int_equal(sent_iops("agreement/everybody-else/10.0.0.1/db"), 50);
}

static void an_agreement_holds_only_in_its_schedule(void **state)
{
    (void)state;
    struct agreement day = limited("day", "", "db", 700), night = limited("night", "", "db", 900);
    /* The world begins on a Monday at 06:00. */
    day.schedule[0] = (struct week_window){.day_mask = 0x7f, .from_min = 6 * 60 + 2,
                                           .to_min = 6 * 60 + 4};
    day.schedule_count = 1;
    night.schedule[0] = (struct week_window){.day_mask = 0x7f, .from_min = 6 * 60 + 4,
                                             .to_min = 6 * 60 + 2};
    night.schedule_count = 1;
    put(day);
    put(night); /* names the same fields, but never at the same time */
    while (world_wall(&scene->w) < WORLD_WALL0 + 110 * 1000000)
        world_run(&scene->w, 1);
    assert_int_equal(sent_iops("agreement/night"), 900);
    assert_int_equal(sent_iops("agreement/day"), 0);
    world_run(&scene->w, 30);
    assert_int_equal(sent_iops("agreement/night"), 0);
    assert_int_equal(sent_iops("agreement/day"), 700);
    world_run(&scene->w, 110);
    assert_int_equal(sent_iops("agreement/night"), 900);
    assert_int_equal(sent_iops("agreement/day"), 0);
    assert_true(world_count_events(&scene->w, "agreement-asleep") >= 2);
    night.schedule[0].to_min = 6 * 60 + 3;
    char why[512];
    assert_int_equal(put_words(&night, why, sizeof(why)), WEIR_E_CONFLICT);
}

static void a_limit_grows_with_the_size_of_what_it_covers(void **state)
{
    (void)state;
    struct agreement a = limited("sized", "", "*", 1500);
    a.per_gib = (struct per_gib){.iops = 600, .least_iops = 100};
    put(a);
    world_run(&scene->w, 2);
    assert_int_equal(sent_iops("agreement/sized"), 600); /* 1 GiB */
    /* Another host of the same volume adds nothing, another volume does. */
    int same = world_add_stream(&scene->w, scene->gateway, "10.0.0.2", "db");
    world_open_loop(&scene->w, same, 10);
    world_run(&scene->w, 3);
    assert_int_equal(sent_iops("agreement/sized"), 600);
    int other = world_add_stream(&scene->w, scene->gateway, "10.0.0.2", "db2");
    world_open_loop(&scene->w, other, 10);
    world_run(&scene->w, 3);
    assert_int_equal(sent_iops("agreement/sized"), 1200);
    other = world_add_stream(&scene->w, scene->gateway, "10.0.0.2", "db3");
    world_open_loop(&scene->w, other, 10);
    world_run(&scene->w, 3);
    assert_int_equal(sent_iops("agreement/sized"), 1500); /* the limit stays above */
}

static void a_limit_follows_a_volume_that_changes_its_size(void **state)
{
    (void)state;
    struct agreement a = limited("sized", "", "*", 5000);
    a.per_gib = (struct per_gib){.iops = 600, .least_iops = 100};
    put(a);
    world_run(&scene->w, 2);
    assert_int_equal(sent_iops("agreement/sized"), 600);
    scene->w.stream[scene->stream].size = UINT64_C(3) << 30;
    world_run(&scene->w, 2);
    assert_int_equal(sent_iops("agreement/sized"), 1800);
    scene->w.stream[scene->stream].size = UINT64_C(2) << 30;
    world_run(&scene->w, 2);
    assert_int_equal(sent_iops("agreement/sized"), 1200);
}

static void a_change_begins_a_new_count_and_says_what_the_old_came_to(void **state)
{
    (void)state;
    struct agreement a = promising(named("gold", "", "db"), 50000);
    a.compliance_window_ns = 2 * S;
    put(a);
    world_run(&scene->w, 12);
    const struct entities *e = services_entities(scene->w.services);
    const struct entity_agreement *live =
        container_of(e->agreements.next, struct entity_agreement, link);
    assert_true(live->windows >= 4);
    assert_int_equal(live->windows, live->windows_met);
    a.version = 2;
    a.objective[0].latency_us = 40000;
    put(a);
    assert_int_equal(live->windows, 0);
    assert_int_equal(world_count_events(&scene->w, "agreement-changed"), 1);
    const char *text = scene->w.event[scene->w.events - 1].text;
    assert_non_null(strstr(text, "version 2 holds"));
    assert_non_null(strstr(text, "under version 1"));
    world_run(&scene->w, 10);
    assert_true(live->windows >= 3);
}

static void a_reservation_above_the_limit_that_covers_it_is_refused_with_both_names(void **state)
{
    (void)state;
    char why[512];
    struct agreement narrow = named("narrow", "10.0.0.1", "db");
    narrow.reservation_iops = 3000;
    put(limited("wide", "", "d*", 2000));
    assert_int_equal(put_words(&narrow, why, sizeof(why)), WEIR_E_CONFLICT);
    assert_non_null(strstr(why, "narrow"));
    assert_non_null(strstr(why, "wide"));
    narrow.reservation_iops = 2000;
    put(narrow);
    struct agreement wide = limited("wide", "", "d*", 1000); /* and the other way round */
    assert_int_equal(put_words(&wide, why, sizeof(why)), WEIR_E_CONFLICT);
    struct agreement apart = limited("apart", "", "web*", 1); /* covers none of its streams */
    put(apart);
    struct agreement each = limited("each", "", "", 10); /* a limit of each says nothing of all */
    each.per = AGREEMENT_PER_STREAM;
    put(each);
}

static void more_than_may_cover_a_stream_are_left_out_and_said(void **state)
{
    (void)state;
    static const char *const names[4] = {"v", "h", "hv", "t"};
    put(limited(names[0], "", "db", 11));
    put(limited(names[1], "10.*", "", 12));
    put(limited(names[2], "10.*", "db", 13));
    struct agreement t = limited(names[3], "", "", 14);
    snprintf(t.applies_to.target, NAME_SIZE, "array1");
    put(t);
    struct agreement vt = limited("vt", "", "db", 15);
    snprintf(vt.applies_to.target, NAME_SIZE, "array1");
    put(vt);
    assert_int_equal(world_count_events(&scene->w, "agreement-left-out"), 0);
    put(limited("all", "", "", 16));
    assert_int_equal(world_count_events(&scene->w, "agreement-left-out"), 1);
    world_run(&scene->w, 2);
    assert_int_equal(sent_iops("agreement/all"), 0);
    assert_int_equal(sent_iops("agreement/t"), 14);
    struct precedence_row rows[8];
    assert_int_equal(rows_of_stream(rows, 8), 6);
    assert_int_equal(rows[5].says, PRECEDENCE_TOO_MANY);
}

#define TEST(f) {#f, f, setup, teardown, NULL}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_io_pays_into_every_agreement_that_covers_it),
        TEST(limits_alone_take_no_promise_away),
        TEST(a_default_holds_only_where_nothing_else_does),
        TEST(an_agreement_holds_only_in_its_schedule),
        TEST(a_limit_grows_with_the_size_of_what_it_covers),
        TEST(a_limit_follows_a_volume_that_changes_its_size),
        TEST(a_change_begins_a_new_count_and_says_what_the_old_came_to),
        TEST(a_reservation_above_the_limit_that_covers_it_is_refused_with_both_names),
        TEST(more_than_may_cover_a_stream_are_left_out_and_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

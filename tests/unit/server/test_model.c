/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: documents mean what people wrote, everything wrong is told with its place, and what the
 * server gives out reads back as the same data.
 * Method: tables of documents and expected words; a property test that parses random valid
 * documents, renders them and parses again (the seed is printed; give it as WEIR_SEED to
 * replay). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/units.h"
#include "server/model/model.h"

static json_t *load(const char *text)
{
    json_error_t error;
    /* Quotes are tiresome in C: single ones stand for them. */
    char *copy = strdup(text);
    for (char *c = copy; *c != '\0'; c++)
        if (*c == '\'')
            *c = '"';
    json_t *doc = json_loads(copy, JSON_REJECT_DUPLICATES, &error);
    if (doc == NULL)
        fail_msg("%s at %d in %s", error.text, error.position, copy);
    free(copy);
    return doc;
}

static struct agreement agreement(const char *text)
{
    struct agreement a;
    struct text errors;
    json_t *doc = load(text);
    text_init(&errors, 1 << 16);
    if (model_agreement_parse(doc, &a, &errors) != 0)
        fail_msg("%s", errors.data);
    assert_int_equal(errors.len, 0);
    json_decref(doc);
    text_fini(&errors);
    return a;
}

/* Parse what must be refused, and look for each line of @expected ('\n' between) in the errors. */
static void refused(const char *text, const char *expected)
{
    json_t *doc = load(text);
    struct text errors;
    union {
        struct agreement a;
        struct tenant t;
        struct policy p;
    } ret;
    text_init(&errors, 1 << 16);
    const char *kind = json_string_value(json_object_get(doc, "kind"));
    memset(&ret, 0x5a, sizeof(ret));
    int rc = kind != NULL && strcmp(kind, "Tenant") == 0 ? model_tenant_parse(doc, &ret.t, &errors)
             : kind != NULL && strcmp(kind, "Policy") == 0
                 ? model_policy_parse(doc, &ret.p, &errors)
                 : model_agreement_parse(doc, &ret.a, &errors);
    assert_int_equal(rc, WEIR_E_INVALID);
    for (size_t i = 0; i < sizeof(ret); i++)
        assert_int_equal(((unsigned char *)&ret)[i], 0x5a); /* untouched */
    size_t lines = 0, found = 0;
    char *copy = strdup(expected), *rest = copy, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (strstr(errors.data, line) == NULL)
            fail_msg("\"%s\" is not in:\n%s", line, errors.data);
        found++;
    }
    for (const char *c = errors.data; *c != '\0'; c++)
        lines += *c == '\n';
    if (lines != found)
        fail_msg("%zu errors instead of %zu:\n%s", lines, found, errors.data);
    free(copy);
    json_decref(doc);
    text_fini(&errors);
}

#define GOLD                                                                                       \
    "{'kind':'Agreement','name':'oltp-gold','appliesTo':{'tenant':'acme','volume':'db-*'},"        \
    "'objectives':[{'percentile':99,'latency':'5ms','whileIops':4000},"                            \
    "{'percentile':99.9,'latencyUs':20000,'whileIops':10000},{'percentile':'mean','latency':'1s'}" \
    "],"                                                                                           \
    "'reservation':{'iops':4000},"                                                                 \
    "'limit':{'iops':12000,'bandwidth':'400MiB/"                                                   \
    "s','iopsWrite':'unlimited','burst':{'iops':20000,'for':'60s'}},"                              \
    "'weight':200,'compliance':{'target':'99.9%','window':'10s','over':'30d'}}"

static void an_agreement_in_peoples_units_is_understood(void **state)
{
    (void)state;
    struct agreement a = agreement(GOLD);
    assert_string_equal(a.name, "oltp-gold");
    assert_string_equal(a.applies_to.tenant, "acme");
    assert_string_equal(a.applies_to.volume, "db-*");
    assert_string_equal(a.applies_to.host, "");
    assert_int_equal(a.per, AGREEMENT_PER_GROUP);
    assert_int_equal(a.objective_count, 3);
    assert_int_equal(a.objective[0].percentile_ppm, 990000);
    assert_int_equal(a.objective[0].latency_us, 5000);
    assert_int_equal(a.objective[0].while_iops, 4000);
    assert_int_equal(a.objective[1].percentile_ppm, 999000);
    assert_int_equal(a.objective[1].latency_us, 20000);
    assert_int_equal(a.objective[2].percentile_ppm, 0);
    assert_int_equal(a.objective[2].while_iops, UNITS_UNLIMITED);
    assert_int_equal(a.reservation_iops, 4000);
    assert_int_equal(a.reservation_bytes_s, 0);
    assert_int_equal(a.limits.rate[GATE_IOPS_TOTAL].rate, 12000);
    assert_int_equal(a.limits.rate[GATE_IOPS_TOTAL].burst_rate, 20000);
    assert_int_equal(a.limits.rate[GATE_IOPS_TOTAL].burst_ns, 60 * NS_PER_S);
    assert_int_equal(a.limits.rate[GATE_BYTES_TOTAL].rate, 400u << 20);
    assert_int_equal(a.limits.rate[GATE_BYTES_TOTAL].burst_ns, 0);
    assert_int_equal(a.limits.rate[GATE_IOPS_WRITE].rate, 0);
    assert_int_equal(a.weight, 200);
    assert_int_equal(a.compliance_target_ppm, 999000);
    assert_int_equal(a.compliance_window_ns, 10 * NS_PER_S);
    assert_int_equal(a.compliance_over_ns, 30 * 86400 * NS_PER_S);
}

static void what_is_left_out_has_its_default(void **state)
{
    (void)state;
    struct agreement a =
        agreement("{'kind':'Agreement','name':'x','appliesTo':{},'limit':null,'weight':null}");
    assert_int_equal(a.weight, 100);
    assert_int_equal(a.priority, 0);
    assert_int_equal(a.objective_count, 0);
    assert_int_equal(a.compliance_target_ppm, 0);
    assert_int_equal(a.compliance_window_ns, 10 * NS_PER_S);
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        assert_int_equal(a.limits.rate[k].rate, 0);
}

static void what_the_server_gives_out_is_taken_back(void **state)
{
    (void)state;
    struct agreement a = agreement(GOLD), b;
    json_t *doc = model_agreement_render(&a);
    json_object_set_new(doc, "version", json_integer(7));
    json_object_set_new(doc, "updated", json_string("2026-11-23T06:37:06.123Z"));
    json_object_set_new(doc, "status", json_pack("{s:s}", "verdict", "met"));
    struct text errors;
    text_init(&errors, 1 << 16);
    assert_int_equal(model_agreement_parse(doc, &b, &errors), 0);
    assert_memory_equal(&a, &b, sizeof(a));
    const json_t *spec = json_object_get(doc, "spec");
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(spec, "limit"), "bandwidth")),
        400 << 20);
    assert_true(json_is_null(json_object_get(json_object_get(spec, "limit"), "iopsRead")));
    assert_true(json_is_null(json_object_get(json_object_get(spec, "reservation"), "bandwidth")));
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(spec, "compliance"), "over")), "P30D");
    json_decref(doc);
    text_fini(&errors);
}

#define FULL                                                                                       \
    "{'kind':'Agreement','name':'x','appliesTo':{'target':'array1'},'default':true,"               \
    "'per':'stream','reservation':{'iopsRead':5,'iopsWrite':6,'bandwidthRead':'1MiB/s',"           \
    "'bandwidthWrite':'2MiB/s'},'limit':{'iopsRead':10,'bandwidthWrite':'9MiB/s',"                 \
    "'burst':{'iopsRead':20,'bandwidthWrite':'10MiB/s','for':'3s'}},"                              \
    "'limitPerGiB':{'iops':3,'leastIops':100,'bandwidth':'1MiB/s','leastBandwidth':'2MiB/s'},"     \
    "'schedule':[{'days':['mon','sun'],'from':'22:00','to':'06:00'}]}"

static void every_part_of_an_agreement_goes_in_and_comes_out_the_same(void **state)
{
    (void)state;
    struct agreement a = agreement(FULL), b;
    assert_true(a.fallback);
    assert_int_equal(a.reservation_read_iops, 5);
    assert_int_equal(a.reservation_write_iops, 6);
    assert_int_equal(a.reservation_read_bytes_s, 1 << 20);
    assert_int_equal(a.reservation_write_bytes_s, 2 << 20);
    assert_int_equal(a.limits.rate[GATE_IOPS_READ].burst_rate, 20);
    assert_int_equal(a.limits.rate[GATE_IOPS_READ].burst_ns, 3 * NS_PER_S);
    assert_int_equal(a.limits.rate[GATE_BYTES_WRITE].burst_rate, 10 << 20);
    assert_int_equal(a.limits.rate[GATE_IOPS_TOTAL].burst_ns, 0);
    assert_int_equal(a.per_gib.iops, 3);
    assert_int_equal(a.per_gib.least_bytes_s, 2 << 20);
    assert_int_equal(a.schedule_count, 1);
    assert_int_equal(a.schedule[0].day_mask, 0x41);
    assert_int_equal(a.schedule[0].from_min, 22 * 60);
    struct text errors;
    text_init(&errors, 1 << 16);
    json_t *doc = model_agreement_render(&a);
    assert_int_equal(model_agreement_parse(doc, &b, &errors), 0);
    assert_memory_equal(&a, &b, sizeof(a));
    json_decref(doc);
    text_fini(&errors);
}

#define A(rest) "{'kind':'Agreement','name':'x','appliesTo':{}," rest "}"
#define T(rest) "{'kind':'Tenant','name':'x'," rest "}"
#define P(rest) "{'kind':'Policy','name':'x','appliesTo':{}," rest "}"

static const struct {
    const char *doc, *errors;
} wrong[] = {
    {A("'objectives':[{'percentile':99,'latency':'5'}]"),
     "objectives[0].latency: found \"5\", expected a latency such as 5ms"},
    {A("'objectives':[{'percentile':99,'latency':5}]"),
     "objectives[0].latency: found 5, expected a latency"},
    {A("'objectives':[{'percentile':99,'latency':'0ms'}]"), "objectives[0].latency: found \"0ms\""},
    {A("'objectives':[{'percentile':99}]"),
     "objectives[0].latency: found nothing, expected a latency"},
    {A("'objectives':[{'percentile':99,'latency':null}]"),
     "objectives[0].latency: found null, expected a latency"},
    {A("'objectives':[{'percentile':99,'latency':'1ms','latencyUs':5}]"),
     "objectives[0].latency: given beside \"latencyUs\""},
    {A("'objectives':[{'percentile':99,'latencyUs':0}]"),
     "objectives[0].latencyUs: found 0, expected microseconds"},
    {A("'objectives':[{'percentile':49.9,'latency':'1ms'}]"),
     "objectives[0].percentile: found 49.9, expected a perc"},
    {A("'objectives':[{'percentile':100,'latency':'1ms'}]"),
     "objectives[0].percentile: found 100, expected a perc"},
    {A("'objectives':[{'percentile':'median','latency':'1ms'}]"),
     "objectives[0].percentile: found \"median\""},
    {A("'objectives':[{'percentile':99,'latency':'1ms','whileIops':0}]"),
     "objectives[0].whileIops: found 0"},
    {A("'objectives':[{'percentile':99,'latency':'1ms','whileIops':9},"
       "{'percentile':99,'latency':'1ms','whileIops':9}]"),
     "objectives[1].whileIops: found not more than"},
    {A("'objectives':[{'percentile':99,'latency':'1ms'},{'percentile':99,'latency':'1ms','"
       "whileIops':9}]"),
     "objectives[1].whileIops: found not more than"},
    {A("'objectives':{}"), "objectives: found an object, expected a list of at most 8"},
    {A("'objectives':[1,2,3,4,5,6,7,8,9]"),
     "objectives: found a list of 9, expected a list of at most 8"},
    {A("'objectives':['fast']"), "objectives[0]: found \"fast\", expected an object"},
    {A("'limit':{'iops':0}"),
     "limit.iops: found 0, expected I/Os per second, 1 to 1000000000; no such value is null"},
    {A("'limit':{'iops':-5}"), "limit.iops: found -5"},
    {A("'limit':{'iops':1.5}"), "limit.iops: found 1.5"},
    {A("'limit':{'iops':'4k'}"), "limit.iops: found \"4k\""},
    {A("'limit':{'iops':1000000001}"), "limit.iops: found 1000000001"},
    {A("'limit':{'bandwidth':'400M'}"),
     "limit.bandwidth: found \"400M\", expected bytes per second such as 400MiB/s"},
    {A("'limit':{'bandwidth':0}"), "limit.bandwidth: found 0"},
    {A("'limit':{'iosp':5}"), "limit: unknown key \"iosp\"; known here: iops, iopsRead, iopsWrite"},
    {A("'limit':5"), "limit: found 5, expected an object"},
    {A("'limit':{'iops':10,'burst':{'iops':10,'for':'1s'}}"),
     "limit.burst.iops: found 10, expected more than the limit"},
    {A("'limit':{'burst':{'iops':10,'for':'1s'}}"),
     "limit.burst.iops: found a burst without a limit"},
    {A("'limit':{'iops':10,'burst':{'iops':20}}"),
     "limit.burst.for: found nothing, expected how long"},
    {A("'limit':{'iops':10,'burst':{'for':'1s'}}"),
     "limit.burst: found only its length"},
    {A("'limit':{'bandwidthRead':10,'burst':{'iopsRead':10,'for':'1s'}}"),
     "limit.burst.iopsRead: found a burst without a limit"},
    {A("'limitPerGiB':{'iops':0}"), "limitPerGiB.iops: found 0"},
    {A("'limitPerGiB':{'leastIops':5}"), "limitPerGiB.leastIops: found a least without a rate"},
    {A("'limitPerGiB':{'iops':3,'leastIops':100},'limit':{'iops':50}"),
     "limitPerGiB.leastIops: found 100, expected not more than the limit, 50"},
    {A("'default':'yes'"), "default: found \"yes\", expected true"},
    {A("'schedule':[{'from':'08:00'}]"), "schedule[0].to: found nothing"},
    {A("'schedule':{'from':'08:00','to':'18:00'}"), "schedule: found an object, expected a list"},
    {A("'reservation':{'iopsRead':20},'limit':{'iops':10}"),
     "reservation.iopsRead: found 20, expected not more than limit.iopsRead, 10"},
    {A("'reservation':{'iops':20},'limit':{'iops':10}"),
     "reservation.iops: found 20, expected not more than limit.iops, 10"},
    {A("'reservation':{'bandwidth':'2MiB/s'},'limit':{'bandwidth':'1MiB/s'}"),
     "reservation.bandwidth: found 2097152"},
    {A("'reservation':{'iops':'unlimited'}"), "reservation.iops: found \"unlimited\""},
    {A("'weight':0"), "weight: found 0, expected an integer from 1 to 10000"},
    {A("'weight':'200'"), "weight: found \"200\""},
    {A("'priority':1001"), "priority: found 1001, expected an integer from -1000 to 1000"},
    {A("'per':'volume'"), "per: found \"volume\", expected group or stream"},
    {A("'compliance':{'target':0}"), "compliance.target: found 0, expected a percentage"},
    {A("'compliance':{'target':'101%'}"), "compliance.target: found \"101%\""},
    {A("'compliance':{'window':'1h','over':'1m'}"),
     "compliance: found a window longer than the whole period"},
    {A("'compliance':{'window':10}"),
     "compliance.window: found 10, expected a duration such as 10s"},
    {A("'version':3"), "unknown key \"version\"; known here: appliesTo, default, per"},
    {A("'spec':{}"), "unknown key \"appliesTo\"\nspec.appliesTo: found nothing"},
    {"{'kind':'Agreement','name':'x'}", "appliesTo: found nothing, expected who is meant"},
    {"{'kind':'Agreement','name':'x','appliesTo':{'volume':''}}",
     "appliesTo.volume: found \"\", expected a name"},
    {"{'kind':'Agreement','name':'x','appliesTo':{'volume':'a/b'}}",
     "appliesTo.volume: found \"a/b\""},
    {"{'kind':'Agreement','name':'x','appliesTo':{'volume':'a['}}",
     "appliesTo.volume: found \"a[\""},
    {"{'kind':'Agreement','name':'x','spec':{'appliesTo':{},'weight':0}}", "spec.weight: found 0"},
    {"{'kind':'Agreement','name':'x','spec':{'appliesTo':{}},'extra':1}",
     "unknown key \"extra\"; known here: kind, name, version"},
    {"{'kind':'Agreement','name':'-x','appliesTo':{}}",
     "name: found \"-x\", expected a name of letters"},
    {"{'kind':'Agreement','appliesTo':{}}", "name: found nothing"},
    {"{'kind':'Agrement','name':'x','appliesTo':{}}",
     "kind: found \"Agrement\", expected Agreement, Tenant or Policy"},
    {"{'name':'x','appliesTo':{}}", "kind: found nothing, expected Agreement, Tenant or Policy"},
    {"['Agreement']", "found a list, expected a document"},
    {T("'members':[{}]"), "members[0]: found no pattern, expected host, volume or target"},
    {T("'members':[{'tenant':'a'}]"),
     "members[0]: unknown key \"tenant\"; known here: host, volume, target"},
    {T("'members':'all'"), "members: found \"all\", expected a list of at most 64"},
    {T("'limit':{'bandwidthRead':'0'}"), "limit.bandwidthRead: found \"0\""},
    {P("'observe':'yes'"), "observe: found \"yes\", expected true or false"},
    {P("'observe':true,'enforce':true"), "found observe and enforce, expected at most one"},
    {P("'collisions':'both'"), "collisions: found \"both\", expected priority or share"},
    {P("'maxCut':0"), "maxCut: found 0, expected the largest cut"},
    {P("'floor':{'iops':0}"), "floor.iops: found 0"},
    {P("'freeze':[{'from':'8:00','to':'25:00'}]"),
     "freeze[0].from: found \"8:00\"\nfreeze[0].to: found \"25:00\""},
    {P("'freeze':[{'from':'18:00','to':'18:00'}]"), "freeze[0]: found one time as from and to"},
    {P("'freeze':[{'days':['mon','mon'],'from':'08:00','to':'18:00'}]"),
     "freeze[0].days: found a list, expected a list"},
    {P("'freeze':[{'days':['Monday'],'from':'08:00','to':'18:00'}]"),
     "freeze[0].days: found a list"},
};

static void what_is_wrong_is_told_with_place_found_and_expected(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        refused(wrong[i].doc, wrong[i].errors);
}

static void all_errors_are_told_at_once(void **state)
{
    (void)state;
    refused("{'kind':'Agreement','name':'a "
            "b','appliesTo':{'tenant':5,'hots':'x'},'weight':0,'limit':{'iops':0},'prio':1,"
            "'objectives':[{'percentile':99,'latency':'5'},{'latency':'1ms'}]}",
            "name: found \"a b\"\nappliesTo: unknown key \"hots\"\nappliesTo.tenant: found "
            "5\nweight: found 0\n"
            "limit.iops: found 0\nunknown key \"prio\"\nobjectives[0].latency: found \"5\"\n"
            "objectives[1].percentile: found nothing");
}

static void a_flood_of_errors_is_cut_short(void **state)
{
    (void)state;
    json_t *doc = load("{'kind':'Agreement','name':'x','appliesTo':{}}");
    for (int i = 0; i < 5000; i++) {
        char key[400];
        memset(key, 'k', sizeof(key));
        snprintf(key + 350, 40, "%d", i);
        json_object_set_new(doc, key, json_null());
    }
    struct text errors;
    struct agreement a;
    text_init(&errors, 1 << 16);
    assert_int_equal(model_agreement_parse(doc, &a, &errors), WEIR_E_INVALID);
    assert_false(errors.failed);
    assert_non_null(strstr(errors.data, "there are more errors than these"));
    json_decref(doc);
    text_fini(&errors);
}

static void tenants_and_policies_are_understood_and_given_out_the_same(void **state)
{
    (void)state;
    struct tenant t, t2;
    struct policy p, p2;
    struct text errors;
    text_init(&errors, 1 << 16);
    json_t *doc = load(
        T("'members':[{'host':'10.0.0.*'},{'volume':'db-[ab]','target':'*'}],'limit':{'iops':5}"));
    assert_int_equal(model_tenant_parse(doc, &t, &errors), 0);
    json_decref(doc);
    assert_int_equal(t.member_count, 2);
    assert_string_equal(t.member[1].volume, "db-[ab]");
    assert_int_equal(t.limits.rate[GATE_IOPS_TOTAL].rate, 5);
    doc = model_tenant_render(&t);
    assert_int_equal(model_tenant_parse(doc, &t2, &errors), 0);
    assert_memory_equal(&t, &t2, sizeof(t));
    json_decref(doc);
    doc = load(P("'protect':true,'floor':{'bandwidth':'1MiB/s'},'maxCut':'12.5%',"
                 "'freeze':[{'days':['mon','sun'],'from':'08:00','to':'18:30'},{'from':'22:00','to'"
                 ":'06:00'}]"));
    assert_int_equal(model_policy_parse(doc, &p, &errors), 0);
    json_decref(doc);
    assert_true(p.protect);
    assert_false(p.observe);
    assert_int_equal(p.floor_bytes_s, 1 << 20);
    assert_int_equal(p.max_cut_ppm, 125000);
    assert_int_equal(p.freeze_count, 2);
    assert_int_equal(p.freeze[0].day_mask, 1 | 1 << 6);
    assert_int_equal(p.freeze[0].to_min, 18 * 60 + 30);
    assert_int_equal(p.freeze[1].day_mask, 0x7f);
    assert_int_equal(p.freeze[1].from_min, 22 * 60); /* over midnight */
    assert_int_equal(p.freeze[1].to_min, 6 * 60);
    doc = model_policy_render(&p);
    assert_int_equal(model_policy_parse(doc, &p2, &errors), 0);
    assert_memory_equal(&p, &p2, sizeof(p));
    json_decref(doc);
    assert_int_equal(errors.len, 0);
    text_fini(&errors);
}

static void a_kind_is_known_by_its_name(void **state)
{
    (void)state;
    struct text errors;
    text_init(&errors, 1 << 16);
    json_t *doc = load("{'kind':'Policy','name':'p'}");
    assert_string_equal(model_kind(doc, &errors), "Policy");
    json_object_del(doc, "name");
    assert_null(model_kind(doc, &errors));
    assert_null(model_kind(NULL, &errors));
    assert_non_null(strstr(errors.data, "name: found nothing"));
    json_decref(doc);
    text_fini(&errors);
}

/* --- property: parse(render(x)) = x --- */

static void random_pattern(struct rng *r, char out[NAME_SIZE])
{
    static const char letters[] = "abcxyz0189.-_*?%:";
    size_t n = rng_below(r, 4) == 0 ? 0 : 1 + rng_below(r, NAME_SIZE - 1);
    for (size_t i = 0; i < n; i++)
        out[i] = letters[rng_below(r, sizeof(letters) - 1)];
    out[n] = '\0';
}

static uint64_t maybe(struct rng *r, uint64_t max)
{
    return rng_below(r, 3) == 0 ? 0 : 1 + rng_below(r, rng_below(r, 2) ? max : 1000);
}

static void random_limits(struct rng *r, struct gate_limits *l)
{
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        l->rate[k].rate = maybe(r, k < GATE_BYTES_READ ? 1000000000 - 1000 : 1000000000000 - 1000);
    uint64_t ns = (1 + rng_below(r, 86400000)) * NS_PER_MS;
    for (int k = GATE_IOPS_TOTAL; k <= GATE_BYTES_TOTAL; k += GATE_BYTES_TOTAL - GATE_IOPS_TOTAL) {
        if (l->rate[k].rate == 0 || rng_below(r, 2) == 0)
            continue;
        l->rate[k].burst_rate = l->rate[k].rate + 1 + rng_below(r, 1000);
        l->rate[k].burst_ns = ns;
    }
}

static void random_agreement(struct rng *r, struct agreement *a)
{
    memset(a, 0, sizeof(*a));
    snprintf(a->name, sizeof(a->name), "a%llu", (unsigned long long)rng_u64(r));
    random_pattern(r, a->applies_to.tenant);
    random_pattern(r, a->applies_to.host);
    random_pattern(r, a->applies_to.volume);
    random_pattern(r, a->applies_to.target);
    a->per = rng_below(r, 2) ? AGREEMENT_PER_GROUP : AGREEMENT_PER_STREAM;
    a->objective_count = rng_below(r, AGREEMENT_MAX_OBJECTIVES + 1);
    uint64_t at = 0;
    for (size_t i = 0; i < a->objective_count; i++) {
        struct objective *o = &a->objective[i];
        o->percentile_ppm = rng_below(r, 5) == 0 ? 0 : (uint32_t)(500000 + rng_below(r, 499901));
        o->latency_us = 1 + rng_below(r, 60000000);
        at += 1 + rng_below(r, 100000);
        o->while_iops = i + 1 == a->objective_count && rng_below(r, 2) ? UNITS_UNLIMITED : at;
    }
    random_limits(r, &a->limits);
    uint64_t iops = a->limits.rate[GATE_IOPS_TOTAL].rate,
             bytes = a->limits.rate[GATE_BYTES_TOTAL].rate;
    a->reservation_iops = maybe(r, iops != 0 ? iops : 1000000000);
    a->reservation_bytes_s = maybe(r, bytes != 0 ? bytes : 1000000000000);
    if (iops != 0 && a->reservation_iops > iops)
        a->reservation_iops = iops;
    if (bytes != 0 && a->reservation_bytes_s > bytes)
        a->reservation_bytes_s = bytes;
    a->weight = (uint32_t)(1 + rng_below(r, 10000));
    a->priority = (int32_t)rng_below(r, 2001) - 1000;
    a->compliance_target_ppm = (uint32_t)rng_below(r, 1000001);
    a->compliance_window_ns = (1000 + rng_below(r, 59000)) * NS_PER_MS;
    a->compliance_over_ns = (60 + rng_below(r, 400 * 86400 - 60)) * NS_PER_S;
}

static void rendering_and_parsing_again_gives_the_same_data(void **state)
{
    (void)state;
    const char *given = getenv("WEIR_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : clock_mono_ns();
    struct rng r;
    struct text errors;
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_seed(&r, seed);
    text_init(&errors, 1 << 16);
    for (int i = 0; i < 3000; i++) {
        struct agreement a, b;
        random_agreement(&r, &a);
        json_t *doc = model_agreement_render(&a);
        char *dump = json_dumps(doc, JSON_REAL_PRECISION(12));
        json_t *again = json_loads(dump, 0, NULL);
        if (model_agreement_parse(again, &b, &errors) != 0)
            fail_msg("%s\n%s", errors.data, dump);
        if (memcmp(&a, &b, sizeof(a)) != 0)
            fail_msg("not the same after: %s", dump);
        json_t *second = model_agreement_render(&b);
        assert_true(json_equal(second, doc));
        json_decref(second);
        json_decref(again);
        json_decref(doc);
        free(dump);
    }
    text_fini(&errors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_agreement_in_peoples_units_is_understood),
        cmocka_unit_test(what_is_left_out_has_its_default),
        cmocka_unit_test(what_the_server_gives_out_is_taken_back),
        cmocka_unit_test(every_part_of_an_agreement_goes_in_and_comes_out_the_same),
        cmocka_unit_test(what_is_wrong_is_told_with_place_found_and_expected),
        cmocka_unit_test(all_errors_are_told_at_once),
        cmocka_unit_test(a_flood_of_errors_is_cut_short),
        cmocka_unit_test(tenants_and_policies_are_understood_and_given_out_the_same),
        cmocka_unit_test(a_kind_is_known_by_its_name),
        cmocka_unit_test(rendering_and_parsing_again_gives_the_same_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a scenario says what it means, every error in it is told with its place, and traces of each
 * format are read for what they are.
 * Method: documents as text, one good, one wrong key or value at a time; lines as the three formats
 * have them, and junk between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sim/scenario.h"
#include "sim/trace.h"

static int read_text(const char *text, struct scenario *s, char *words, size_t size)
{
    json_error_t error;
    json_t *doc = json_loads(text, 0, &error);
    struct text errors;
    assert_non_null(doc);
    text_init(&errors, 65536);
    int r = scenario_read(s, &doc, 1, "", &errors);
    snprintf(words, size, "%.*s", (int)errors.len, errors.len > 0 ? errors.data : "");
    text_fini(&errors);
    json_decref(doc);
    return r;
}

static void a_scenario_is_read_with_its_units(void **state)
{
    (void)state;
    struct scenario s;
    char words[4096];
    int r = read_text(
        "{\"kind\": \"Scenario\", \"duration\": \"30s\", \"gateways\": 2, \"targets\": [{\"name\": "
        "\"a\","
        "\"servers\": 4, \"read\": \"1ms\", \"bandwidth\": \"4096kB/s\", \"spread\": \"10%\"}],"
        "\"loads\": [{\"host\": \"h\", \"volume\": \"v\", \"gateway\": 2, \"rate\": 100, \"size\": "
        "\"8KiB\","
        "\"writes\": \"25%\", \"from\": \"2s\"}],"
        "\"changes\": [{\"at\": \"9s\", \"target\": \"a\", \"speed\": \"60%\"},"
        "{\"at\": \"10s\", \"load\": \"h/v\", \"gateway\": 1}, {\"at\": \"11s\", \"state\": "
        "\"down\"}]}",
        &s, words, sizeof words);
    if (r != 0)
        fail_msg("%s", words);
    assert_int_equal(s.config.duration_ns, 30000000000);
    assert_int_equal(s.device[0].base_ns[0], 1000000);
    assert_int_equal(s.device[0].page_ns[0], 1000000);
    assert_int_equal(s.load[0].gateway, 1);
    assert_int_equal(s.load[0].bytes, 8192);
    assert_int_equal(s.load[0].write_ppm, 250000);
    assert_int_equal(s.load[0].start_ns, 2000000000);
    assert_int_equal(s.change[0].kind, SIM_DEVICE_SPEED);
    assert_int_equal(s.change[0].value, 600000);
    assert_int_equal(s.change[1].kind, SIM_LOAD_MOVE);
    assert_int_equal(s.change[1].value, 0);
    assert_int_equal(s.change[2].kind, SIM_SERVER_DOWN);
    scenario_fini(&s);
}

#define TARGET "\"targets\": [{\"name\": \"a\"}]"
#define LOAD   "\"loads\": [{\"host\": \"h\", \"volume\": \"v\", \"depth\": 4}]"

static void what_is_wrong_is_told_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *place;
    } cases[] = {
        {"{\"kind\": \"Scenario\", " LOAD "}", "targets: "},
        {"{\"kind\": \"Scenario\", " TARGET "}", "loads: "},
        {"{\"kind\": \"Scenario\", \"durations\": \"5s\", " TARGET ", " LOAD "}", "durations: "},
        {"{\"kind\": \"Scenario\", \"duration\": \"5\", " TARGET ", " LOAD "}", "duration: "},
        {"{\"kind\": \"Scenario\", \"targets\": [{\"servers\": 4}], " LOAD "}",
         "targets[0].name: "},
        {"{\"kind\": \"Scenario\", \"targets\": [7], " LOAD "}", "targets[0]: "},
        {"{\"kind\": \"Scenario\", " TARGET ", \"loads\": [{\"host\": \"h\", \"volume\": \"v\"}]}",
         "loads[0].rate: "},
        {"{\"kind\": \"Scenario\", " TARGET
         ", \"loads\": [{\"host\": \"h\", \"volume\": \"v\", \"rate\": 1,"
         "\"depth\": 2}]}",
         "loads[0].rate: "},
        {"{\"kind\": \"Scenario\", " TARGET
         ", \"loads\": [{\"host\": \"h\", \"volume\": \"v\", \"rate\": 0}]}",
         "loads[0].rate: "},
        {"{\"kind\": \"Scenario\", " TARGET
         ", \"loads\": [{\"host\": \"h\", \"volume\": \"v\", \"rate\": 1,"
         "\"target\": \"b\"}]}",
         "loads[0].target: "},
        {"{\"kind\": \"Scenario\", " TARGET ", \"loads\": [{\"host\": \"h\", \"volume\": \"v\","
         "\"trace\": \"/nonexistent\"}]}",
         "loads[0].trace: "},
        {"{\"kind\": \"Scenario\", " TARGET ", " LOAD ", \"changes\": [{\"at\": \"1s\"}]}",
         "changes[0].at: "},
        {"{\"kind\": \"Scenario\", " TARGET ", " LOAD ", \"changes\": [{\"at\": \"1s\","
         "\"load\": \"x/y\", \"rate\": 2}]}",
         "changes[0].load: "},
        {"{\"kind\": \"Agreement\", \"name\": \"x\"}", "expected one document of kind Scenario"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct scenario s;
        char words[4096];
        assert_true(read_text(cases[i].text, &s, words, sizeof words) < 0);
        if (strstr(words, cases[i].place) == NULL)
            fail_msg("case %zu: \"%s\" where \"%s\" was expected", i, words, cases[i].place);
    }
}

static void check_trace(const char *format, const char *text)
{
    struct sim_trace_io *io = NULL;
    size_t n = 0;
    char why[256] = "";
    int r = trace_parse(text, strlen(text), format, 2.0, &io, &n, why, sizeof why);
    if (r != 0)
        fail_msg("%s: %s", format, why);
    assert_int_equal(n, 2);
    assert_int_equal(io[0].at_ns, 0);
    assert_in_range(io[1].at_ns, 499990000, 500010000); /* a second later, at twice the speed */
    assert_false(io[0].write);
    assert_true(io[1].write);
    assert_int_equal(io[0].bytes, 8192);
    assert_int_equal(io[1].bytes, 4096);
    free(io);
}

static void traces_of_each_format_are_read_in_order_of_time(void **state)
{
    (void)state;
    check_trace("msr", "128166372003061629,hm,1,Read,383496192,8192,151\n"
                       "junk\n128166372013061629,hm,1,Write,310378496,4096,3045\r\n");
    check_trace("blkparse", "  8,0  1  7  2.000000000  1234  Q  WS 4096 + 8 [fio]\n"
                            "  8,0  1  8  2.100000000  1234  C  WS 4096 + 8 [0]\n"
                            "  8,0  1  5  1.000000000  1234  Q   R 2048 + 16 [fio]\n"
                            "CPU1 (sda):\n");
    check_trace("cloudphysics", "time,op,lbn,size\n10.0,R,1234,8192\n11.0,2A,5678,4096\n");
}

static void a_file_without_io_is_refused(void **state)
{
    (void)state;
    struct sim_trace_io *io = NULL;
    size_t n = 0;
    char why[256] = "";
    assert_true(trace_parse("a,b\n", 4, "msr", 1, &io, &n, why, sizeof why) < 0);
    assert_non_null(strstr(why, "no I/O"));
    assert_true(trace_parse("a,b\n", 4, "vscsi", 1, &io, &n, why, sizeof why) < 0);
    assert_non_null(strstr(why, "traceFormat"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_scenario_is_read_with_its_units),
        cmocka_unit_test(what_is_wrong_is_told_with_its_place),
        cmocka_unit_test(traces_of_each_format_are_read_in_order_of_time),
        cmocka_unit_test(a_file_without_io_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

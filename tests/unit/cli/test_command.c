/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: options mean the same in every spelling, only where they belong; help and completion name
 * all. Method: command lines as people type them. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "cli/command.h"

/* Complaints are expected here and would clutter the log. */
static int silence(void **state)
{
    (void)state;
    int fd = open("/dev/null", O_WRONLY);
    dup2(fd, STDERR_FILENO);
    close(fd);
    return 0;
}

static enum cli_exit parse(struct cli *c, enum cli_verb verb, const char *a, const char *b,
                           const char *d, const char *e)
{
    char *argv[] = {(char *)a, (char *)b, (char *)d, (char *)e};
    int argc = 0;
    while (argc < 4 && argv[argc])
        argc++;
    *c = (struct cli){0};
    return command_parse(c, verb, argc, argv);
}

static void options_are_read_in_every_spelling(void **state)
{
    (void)state;
    struct cli c;
    assert_int_equal(parse(&c, VERB_GET, "streams", "-o", "json", NULL), CLI_OK);
    assert_int_equal(c.o.output, OUTPUT_JSON);
    assert_string_equal(c.args[0], "streams");
    assert_int_equal(parse(&c, VERB_GET, "-oyaml", "streams", "a/b", NULL), CLI_OK);
    assert_int_equal(c.o.output, OUTPUT_YAML);
    assert_int_equal(c.arg_count, 2);
    assert_int_equal(parse(&c, VERB_GET, "--output=csv", "--no-headers", "streams", NULL), CLI_OK);
    assert_int_equal(c.o.output, OUTPUT_CSV);
    assert_true(c.o.no_headers);
    assert_int_equal(parse(&c, VERB_APPLY, "-f", "a", "-f", "-"), CLI_OK);
    assert_int_equal(c.o.file_count, 2);
    assert_string_equal(c.o.files[1], "-");
    assert_int_equal(parse(&c, VERB_TOP, "-i", "500ms", "-n", "7"), CLI_OK);
    assert_true(c.o.interval_ns == 500 * NS_PER_MS);
    assert_int_equal(c.o.limit, 7);
    assert_int_equal(parse(&c, VERB_GET, "events", "--", "--odd", NULL), CLI_OK);
    assert_string_equal(c.args[1], "--odd");
}

static void wrong_command_lines_are_refused(void **state)
{
    (void)state;
    struct cli c;
    assert_int_equal(parse(&c, VERB_GET, NULL, NULL, NULL, NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_GET, "streams", "--bogus", NULL, NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_GET, "streams", "--follow", NULL, NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_GET, "streams", "-o", NULL, NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_GET, "streams", "-o", "xml", NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_GET, "streams", "--no-headers=yes", NULL, NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_TOP, "extra", NULL, NULL, NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_TOP, "-n", "0", NULL, NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_TOP, "-n", "1x", NULL, NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_TOP, "-i", "5", NULL, NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_ENFORCEMENT, "on", "off", NULL, NULL), CLI_USAGE);
    assert_int_equal(parse(&c, VERB_DESCRIBE, "stream", NULL, NULL, NULL), CLI_USAGE);
}

static void help_asked_for_needs_no_arguments(void **state)
{
    (void)state;
    struct cli c;
    assert_int_equal(parse(&c, VERB_DESCRIBE, "--help", NULL, NULL, NULL), CLI_OK);
    assert_true(c.o.help);
}

static void help_and_completion_name_every_verb(void **state)
{
    (void)state;
    struct text help, completion, one;
    text_init(&help, 100000);
    text_init(&completion, 100000);
    text_init(&one, 100000);
    command_help(&help);
    command_completion(&completion);
    for (int i = 0; i < VERB_COUNT; i++) {
        const struct command *k = command_at((enum cli_verb)i);
        char line[64];
        assert_int_equal(command_find(k->name), i);
        assert_non_null(k->run);
        snprintf(line, sizeof(line), "\n  %-12s ", k->name);
        assert_non_null(strstr(help.data, line));
        snprintf(line, sizeof(line), "\n    %s) words=", k->name);
        assert_non_null(strstr(completion.data, line));
        text_clear(&one);
        command_help_verb(&one, (enum cli_verb)i);
        assert_non_null(strstr(one.data, k->summary));
        assert_non_null(strstr(one.data, "--help"));
    }
    assert_int_equal(command_find("no-such"), VERB_COUNT);
    text_fini(&help);
    text_fini(&completion);
    text_fini(&one);
}

static void verbs_name_the_kinds_that_they_take_and_no_others(void **state)
{
    (void)state;
    static const struct {
        enum cli_verb verb;
        const char *kinds;
    } verbs[] = {
        {VERB_WATCH, "\nKinds: streams, agreements, actions, events\n"},
        {VERB_DELETE, "\nKinds: gateways, agreements, tenants, policies\n"},
        {VERB_GET, "\nKinds: streams, gateways, targets, dials, agreements, tenants, policies, "
                   "hosts, volumes, actions, events, audit\n"},
    };
    struct text help;
    text_init(&help, 100000);
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        text_clear(&help);
        command_help_verb(&help, verbs[i].verb);
        assert_non_null(strstr(help.data, verbs[i].kinds));
    }
    text_clear(&help);
    command_completion(&help);
    assert_non_null(strstr(help.data, "watch) words='streams agreements actions events' "));
    text_fini(&help);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(options_are_read_in_every_spelling, silence, NULL),
        cmocka_unit_test(wrong_command_lines_are_refused),
        cmocka_unit_test(help_asked_for_needs_no_arguments),
        cmocka_unit_test(help_and_completion_name_every_verb),
        cmocka_unit_test(verbs_name_the_kinds_that_they_take_and_no_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

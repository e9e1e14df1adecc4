/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: whoever breaks the protocol or exceeds a bound is named, and the other peer hears nothing.
 * Method: one honest peer and one that is not (negotiate_play.h), again byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "negotiate_play.h"

/* --- hostile hosts ------------------------------------------------------------------------- */

static void names_that_overrun_are_answered_here(void **state)
{
    struct play *p = *state;
    static const char overrun[] = "\x00\x00\x00\x09"
                                  "disk\x00\x00";
    static const char nul[] = "\x00\x00\x00\x05"
                              "di\x00sk\x00\x00";

    open_with(p, 3);
    put_option(p, NBD_OPT_GO, overrun, sizeof overrun - 1);
    answered_here(p, NBD_OPT_GO, NBD_REP_ERR_INVALID, "export name overruns the option");
    put_option(p, NBD_OPT_INFO, NULL, 0);
    answered_here(p, NBD_OPT_INFO, NBD_REP_ERR_INVALID, "export name overruns the option");
    put_option(p, NBD_OPT_SET_META_CONTEXT, "\xff\xff\xff\xff", 4);
    answered_here(p, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID,
                  "export name overruns the option");
    put_option(p, NBD_OPT_GO, nul, sizeof nul - 1);
    answered_here(p, NBD_OPT_GO, NBD_REP_ERR_INVALID, "export name holds a NUL");
    go_to_the_end(p, "disk", "disk");
}

static void the_longest_name_passes_and_a_longer_one_does_not(void **state)
{
    struct play *p = *state;
    static char name[NBD_STRING_MAX + 2];

    memset(name, 'n', NBD_STRING_MAX + 1);
    open_with(p, 3);
    put_go(p, NBD_OPT_GO, name);
    answered_here(p, NBD_OPT_GO, NBD_REP_ERR_TOO_BIG, "export name too long");
    name[NBD_STRING_MAX] = '\0';
    go_to_the_end(p, name, name);
    assert_string_equal(negotiate_result(p->n)->export_name, name);
}

static void an_unlawful_export_name_ends_the_connection(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    put_option(p, NBD_OPT_EXPORT_NAME, "a\0b", 3);
    host_says(p);
    assert_int_equal(p->state, NEGOTIATE_ENDED);
    assert_string_equal(negotiate_reason(p->n), "host asked for an export by an unlawful name");
    assert_quiet(p);
}

static void a_bad_option_magic_is_the_hosts_fault(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    say(p, true, "GET / HTTP/1.1\r\n", 16);
    assert_failed(p, true, "host sent a bad option magic");
    assert_quiet(p);
}

static void an_option_beyond_64_kib_is_refused_at_its_header(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    put_option_header(p, NBD_OPT_GO, (64u << 10) + 1);
    host_says(p);
    assert_failed(p, true, "host sent an option of more than 64 KiB");
    assert_quiet(p);
}

static void an_option_of_64_kib_passes(void **state)
{
    struct play *p = *state;
    static char payload[64 << 10];

    open_with(p, 3);
    put_option(p, NBD_OPT_LIST, payload, sizeof payload);
    host_says(p);
    put_option(p, NBD_OPT_LIST, payload, sizeof payload);
    target_hears(p);
    put_option(p, 99, payload, sizeof payload);
    say(p, true, p->scratch.data, p->scratch.len);
    text_clear(&p->scratch);
    put_final(p, NBD_OPT_LIST, NBD_REP_ERR_INVALID, "");
    target_says(p);
    put_final(p, NBD_OPT_LIST, NBD_REP_ERR_INVALID, "");
    put_final(p, 99, NBD_REP_ERR_UNSUP, "option not known here");
    host_hears(p);
}

static void a_host_may_ask_1024_times_and_not_once_more(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    for (int i = 0; i < 1024; i++) {
        put_option(p, 77, NULL, 0);
        answered_here(p, 77, NBD_REP_ERR_UNSUP, "option not known here");
    }
    put_option(p, 77, NULL, 0);
    host_says(p);
    assert_failed(p, true, "host sent more than 1024 options");
    assert_quiet(p);
}

static void pipelined_options_are_answered_one_after_the_other(void **state)
{
    struct play *p = *state;
    size_t left;

    open_with(p, 3);
    put_option(p, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    left = p->scratch.len;
    put_option(p, 99, "?", 1);
    put_go(p, NBD_OPT_INFO, "disk");
    put_go(p, NBD_OPT_GO, "disk");
    left = p->scratch.len - left;
    host_says(p);
    put_option(p, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    target_hears(p);
    assert_int_equal(p->from_host.len, left);
    put_final(p, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "");
    target_says(p);
    put_go(p, NBD_OPT_INFO, "disk");
    target_hears(p);
    put_info(p, NBD_OPT_INFO, &EXPORT);
    put_final(p, NBD_OPT_INFO, NBD_REP_ACK, "");
    target_says(p);
    put_go(p, NBD_OPT_GO, "disk");
    target_hears(p);
    put_info(p, NBD_OPT_GO, &EXPORT);
    put_final(p, NBD_OPT_GO, NBD_REP_ACK, "");
    target_says(p);
    assert_int_equal(p->state, NEGOTIATE_DONE);
    put_final(p, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "");
    put_final(p, 99, NBD_REP_ERR_UNSUP, "option not known here");
    put_info(p, NBD_OPT_INFO, &EXPORT);
    put_final(p, NBD_OPT_INFO, NBD_REP_ACK, "");
    put_info(p, NBD_OPT_GO, &EXPORT);
    put_final(p, NBD_OPT_GO, NBD_REP_ACK, "");
    host_hears(p);
}

static void a_host_that_speaks_before_the_greeting_waits(void **state)
{
    struct play *p = *state;

    put_flags(p, 3);
    put_go(p, NBD_OPT_GO, "disk");
    host_says(p);
    assert_quiet(p);
    put_greeting(p, 3);
    target_says(p);
    put_greeting(p, 3);
    host_hears(p);
    put_flags(p, 3);
    put_go(p, NBD_OPT_GO, "disk");
    target_hears(p);
}

/* --- confused targets ---------------------------------------------------------------------- */

static void ask(struct play *p, uint32_t option)
{
    open_with(p, 3);
    if (nbd_opt_interim_reply(option) == NBD_REP_INFO)
        put_go(p, option, "disk");
    else if (nbd_opt_interim_reply(option) == NBD_REP_META_CONTEXT)
        put_meta(p, option, "disk");
    else
        put_option(p, option, NULL, 0);
    host_says(p);
    drain(&p->to_target, &p->all_to_target);
}

static void an_answer_to_another_option_is_refused(void **state)
{
    struct play *p = *state;

    ask(p, NBD_OPT_GO);
    put_final(p, NBD_OPT_INFO, NBD_REP_ACK, "");
    target_says(p);
    assert_failed(p, false, "target answered another option than it was asked");
    assert_quiet(p);
}

static void a_bad_reply_magic_is_the_targets_fault(void **state)
{
    struct play *p = *state;

    ask(p, NBD_OPT_GO);
    say(p, false, "\x67\x44\x66\x98\0\0\0\0", 8);
    assert_failed(p, false, "target sent a bad option reply magic");
}

static void a_reply_beyond_64_kib_is_refused_at_its_header(void **state)
{
    struct play *p = *state;

    ask(p, NBD_OPT_LIST);
    put_reply_header(p, NBD_OPT_LIST, NBD_REP_SERVER, (64u << 10) + 1);
    target_says(p);
    assert_failed(p, false, "target sent an option reply of more than 64 KiB");
}

static void an_answer_without_end_is_refused(void **state)
{
    struct play *p = *state;
    static char description[60 << 10];

    memset(description, 'd', sizeof description - 1);
    ask(p, NBD_OPT_LIST);
    for (int i = 0; i < 300 && p->state == NEGOTIATE_RUNNING; i++) {
        put_server(p, "disk", description);
        target_says(p);
    }
    assert_failed(p, false, "target sent more than 16 MiB in answer to one option");
}

static void endless_small_replies_are_refused(void **state)
{
    struct play *p = *state;

    ask(p, NBD_OPT_LIST);
    for (int i = 0; i < 4000; i++) {
        for (int k = 0; k < 5; k++)
            put_server(p, "", "");
        target_says(p);
        if (p->state != NEGOTIATE_RUNNING)
            break;
    }
    assert_failed(p, false, "target sent more than 16384 replies to one option");
}

static void go_needs_the_exports_size(void **state)
{
    struct play *p = *state;

    ask(p, NBD_OPT_GO);
    put_info(p, NBD_OPT_GO, &BLOCKS);
    put_final(p, NBD_OPT_GO, NBD_REP_ACK, "");
    target_says(p);
    assert_failed(p, false, "target acknowledged GO without telling the export's size");
}

static void an_acknowledgement_carries_nothing(void **state)
{
    struct play *p = *state;

    ask(p, NBD_OPT_STRUCTURED_REPLY);
    nbd_reply_write(&p->scratch, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "x", 1);
    target_says(p);
    assert_failed(p, false, "target sent an acknowledgement with data");
}

static void every_option_refuses_the_replies_of_others(void **state)
{
    static const uint32_t options[] = {NBD_OPT_LIST,
                                       NBD_OPT_INFO,
                                       NBD_OPT_GO,
                                       NBD_OPT_STRUCTURED_REPLY,
                                       NBD_OPT_LIST_META_CONTEXT,
                                       NBD_OPT_SET_META_CONTEXT,
                                       NBD_OPT_EXTENDED_HEADERS};
    static const uint32_t replies[] = {0, NBD_REP_SERVER, NBD_REP_INFO, NBD_REP_META_CONTEXT,
                                       5, 0x7fffffff};

    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        for (size_t k = 0; k < sizeof replies / sizeof replies[0]; k++) {
            struct play *p;

            if (replies[k] != 0 && nbd_opt_interim_reply(options[i]) == replies[k])
                continue;
            setup_open(state);
            p = *state;
            ask(p, options[i]);
            nbd_reply_write(&p->scratch, options[i], replies[k], "\0\0\0\0\0\0\0\0", 8);
            target_says(p);
            assert_failed(p, false, "target sent a reply that the option cannot have");
            assert_quiet(p);
            teardown(state);
        }
    }
}

static void replies_whose_lengths_do_not_add_up_are_refused(void **state)
{
    static const struct {
        uint32_t option, reply;
        const char *payload;
        size_t n;
        const char *reason;
    } cases[] = {
        {NBD_OPT_LIST, NBD_REP_SERVER, "\0\0\0\5disk", 8,
         "target listed an export whose name overruns the reply"},
        {NBD_OPT_LIST, NBD_REP_SERVER, "\0\0", 2,
         "target listed an export whose name overruns the reply"},
        {NBD_OPT_GO, NBD_REP_INFO, "\0", 1, "target sent information of a wrong length"},
        {NBD_OPT_GO, NBD_REP_INFO, "\0\0\0\0\0\0\0\0\0\1\0", 11,
         "target sent information of a wrong length"},
        {NBD_OPT_INFO, NBD_REP_INFO, "\0\3\0\0\0\1\0\0\0\1", 10,
         "target sent information of a wrong length"},
        {NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0", 3,
         "target sent a metadata context without a number"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct play *p;

        setup_open(state);
        p = *state;
        ask(p, cases[i].option);
        nbd_reply_write(&p->scratch, cases[i].option, cases[i].reply, cases[i].payload, cases[i].n);
        target_says(p);
        assert_failed(p, false, cases[i].reason);
        teardown(state);
    }
}

static void an_output_that_is_full_ends_the_negotiation(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    text_fini(&p->to_host);
    text_init(&p->to_host, 10);
    put_option(p, 99, NULL, 0);
    text_append(&p->from_host, p->scratch.data, p->scratch.len);
    text_clear(&p->scratch);
    step(p);
    assert_failed(p, false, "an answer did not fit into the buffer for it");
    negotiate_free(p->n);
    p->n = negotiate_new(&p->target);
    p->tape.len = 0;
    p->turn_count = 0;
    text_clear(&p->all_to_host);
    text_clear(&p->all_to_target);
    text_clear(&p->from_host);
    p->to_host.failed = false;
    text_clear(&p->to_host);
    p->state = NEGOTIATE_RUNNING;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names_that_overrun_are_answered_here, setup_open, teardown),
        cmocka_unit_test_setup_teardown(the_longest_name_passes_and_a_longer_one_does_not,
                                        setup_open, teardown),
        cmocka_unit_test_setup_teardown(an_unlawful_export_name_ends_the_connection, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_bad_option_magic_is_the_hosts_fault, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_option_beyond_64_kib_is_refused_at_its_header,
                                        setup_open, teardown),
        cmocka_unit_test_setup_teardown(an_option_of_64_kib_passes, setup_open, teardown),
        cmocka_unit_test_setup_teardown(a_host_may_ask_1024_times_and_not_once_more, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(pipelined_options_are_answered_one_after_the_other,
                                        setup_open, teardown),
        cmocka_unit_test_setup_teardown(a_host_that_speaks_before_the_greeting_waits, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_answer_to_another_option_is_refused, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_bad_reply_magic_is_the_targets_fault, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_reply_beyond_64_kib_is_refused_at_its_header, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_answer_without_end_is_refused, setup_open, teardown),
        cmocka_unit_test_setup_teardown(endless_small_replies_are_refused, setup_open, teardown),
        cmocka_unit_test_setup_teardown(go_needs_the_exports_size, setup_open, teardown),
        cmocka_unit_test_setup_teardown(an_acknowledgement_carries_nothing, setup_open, teardown),
        cmocka_unit_test(every_option_refuses_the_replies_of_others),
        cmocka_unit_test(replies_whose_lengths_do_not_add_up_are_refused),
        cmocka_unit_test_setup_teardown(an_output_that_is_full_ends_the_negotiation, setup_open,
                                        teardown),
    };
    return cmocka_run_group_tests_name("negotiate, hostile", tests, NULL, NULL);
}

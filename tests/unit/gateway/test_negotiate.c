/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: host and target agree through the gateway as they would without it, and names are held to
 * the offered volumes. Method: each test plays both peers (negotiate_play.h), and every
 * conversation is played again one byte at a time. Random conversations with random cuts do the
 * same under a printed seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "negotiate_play.h"

/* --- greeting and flags -------------------------------------------------------------------- */

static void a_greeting_passes_with_the_flags_we_know(void **state)
{
    struct play *p = *state;

    put_greeting(p, 0xfffe);
    target_says(p);
    put_greeting(p, NBD_FLAG_NO_ZEROES);
    host_hears(p);
    assert_int_equal(p->state, NEGOTIATE_RUNNING);
}

static void an_old_style_target_is_refused_by_name(void **state)
{
    struct play *p = *state;
    static const uint8_t old[NBD_OLDSTYLE_SIZE] = "NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53";

    say(p, false, old, sizeof old);
    assert_failed(p, false, "target speaks the old-style handshake");
    assert_quiet(p);
}

static void a_target_that_is_no_nbd_server_is_named(void **state)
{
    struct play *p = *state;

    say(p, false, "220 mail.example ESMTP\r\n", 24);
    assert_failed(p, false, "target does not greet as an NBD server");
}

static void a_host_may_not_set_flags_that_were_not_offered(void **state)
{
    struct play *p = *state;

    put_greeting(p, NBD_FLAG_FIXED_NEWSTYLE);
    target_says(p);
    put_flags(p, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    host_says(p);
    assert_failed(p, true, "host set a client flag that was not offered");
    assert_int_equal(p->to_target.len, 0);
}

static void a_target_that_speaks_out_of_turn_is_named(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    say(p, false, "x", 1);
    assert_failed(p, false, "target spoke out of turn");
}

/* --- entering transmission ----------------------------------------------------------------- */

static void go_ends_in_transmission_with_all_that_was_told(void **state)
{
    struct play *p = *state;
    const struct negotiate_result *r;

    open_with(p, 3);
    go_to_the_end(p, "disk", "disk");
    r = negotiate_result(p->n);
    assert_int_equal(r->mode, NBD_MODE_SIMPLE);
    assert_null(r->volume);
    assert_string_equal(r->export_name, "disk");
    assert_int_equal(r->size, 1 << 30);
    assert_int_equal(r->transmission_flags, 0x5ed);
    assert_int_equal(r->block_min, 512);
    assert_int_equal(r->block_preferred, 4096);
    assert_int_equal(r->block_max, 1 << 25);
}

static void bytes_behind_the_end_belong_to_transmission(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    put_go(p, NBD_OPT_GO, "disk");
    text_append(&p->scratch, "request", 7);
    host_says(p);
    put_info(p, NBD_OPT_GO, &EXPORT);
    put_final(p, NBD_OPT_GO, NBD_REP_ACK, "");
    text_append(&p->scratch, "reply", 5);
    target_says(p);
    assert_int_equal(p->state, NEGOTIATE_DONE);
    assert_int_equal(p->from_host.len, 7);
    assert_memory_equal(p->from_host.data, "request", 7);
    assert_int_equal(p->from_target.len, 5);
    assert_memory_equal(p->from_target.data, "reply", 5);
}

static void export_name_to_the_end(struct play *p, uint32_t flags, size_t reply_size)
{
    struct nbd_export_reply reply = {.size = 12345678, .flags = 0x41};
    uint8_t b[NBD_EXPORT_REPLY_ZEROES_SIZE];

    open_with(p, flags);
    put_option(p, NBD_OPT_EXPORT_NAME, "disk", 4);
    host_says(p);
    put_option(p, NBD_OPT_EXPORT_NAME, "disk", 4);
    target_hears(p);
    assert_int_equal(nbd_export_reply_build(b, &reply, (flags & NBD_FLAG_NO_ZEROES) != 0),
                     reply_size);
    say(p, false, b, reply_size - 1);
    assert_int_equal(p->state, NEGOTIATE_RUNNING);
    assert_quiet(p);
    say(p, false, b + reply_size - 1, 1);
    assert_int_equal(p->state, NEGOTIATE_DONE);
    text_append(&p->scratch, b, reply_size);
    host_hears(p);
    assert_int_equal(negotiate_result(p->n)->size, 12345678);
    assert_int_equal(negotiate_result(p->n)->transmission_flags, 0x41);
    assert_string_equal(negotiate_result(p->n)->export_name, "disk");
    assert_int_equal(negotiate_result(p->n)->block_min, 0);
}

static void export_name_ends_in_transmission_with_zeroes(void **state)
{
    export_name_to_the_end(*state, NBD_FLAG_FIXED_NEWSTYLE, 134);
}

static void export_name_ends_in_transmission_without_zeroes(void **state)
{
    export_name_to_the_end(*state, 3, 10);
}

static void export_name_serves_a_host_that_knows_no_options(void **state)
{
    export_name_to_the_end(*state, 0, 134);
}

/* --- modes --------------------------------------------------------------------------------- */

static void structured_replies_are_agreed_by_the_target(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    bare_option(p, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "");
    go_to_the_end(p, "", "");
    assert_int_equal(negotiate_result(p->n)->mode, NBD_MODE_STRUCTURED);
}

static void structured_replies_refused_stay_simple(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    bare_option(p, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_POLICY, "not today");
    go_to_the_end(p, "", "");
    assert_int_equal(negotiate_result(p->n)->mode, NBD_MODE_SIMPLE);
}

static void extended_headers_take_precedence_in_either_order(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    bare_option(p, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "");
    bare_option(p, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK, "");
    bare_option(p, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD, "");
    bare_option(p, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "");
    go_to_the_end(p, "", "");
    assert_int_equal(negotiate_result(p->n)->mode, NBD_MODE_EXTENDED);
}

static void extended_headers_refused_leave_structured_replies(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    bare_option(p, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_UNSUP, "");
    bare_option(p, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "");
    go_to_the_end(p, "", "");
    assert_int_equal(negotiate_result(p->n)->mode, NBD_MODE_STRUCTURED);
}

/* --- what the target refuses --------------------------------------------------------------- */

static void every_error_of_the_target_passes_with_its_words(void **state)
{
    struct play *p = *state;
    static const uint32_t options[] = {NBD_OPT_LIST, NBD_OPT_STRUCTURED_REPLY,
                                       NBD_OPT_EXTENDED_HEADERS};

    open_with(p, 3);
    for (uint32_t e = NBD_REP_ERR_UNSUP; e <= NBD_REP_ERR_EXT_HEADER_REQD + 1; e++) {
        for (size_t i = 0; i < 3; i++)
            bare_option(p, options[i], e, "words of the target's own");
        put_go(p, NBD_OPT_GO, "no such");
        host_says(p);
        put_go(p, NBD_OPT_GO, "no such");
        target_hears(p);
        put_info(p, NBD_OPT_GO, &BLOCKS);
        put_final(p, NBD_OPT_GO, e, "export unknown: no such");
        target_says(p);
        put_info(p, NBD_OPT_GO, &BLOCKS);
        put_final(p, NBD_OPT_GO, e, "export unknown: no such");
        host_hears(p);
        assert_int_equal(p->state, NEGOTIATE_RUNNING);
    }
    go_to_the_end(p, "disk", "disk");
    assert_int_equal(negotiate_result(p->n)->block_min, 512);
}

static void a_refused_go_leaves_nothing_to_the_next(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    put_go(p, NBD_OPT_GO, "first");
    host_says(p);
    put_info(p, NBD_OPT_GO, &EXPORT);
    put_info(p, NBD_OPT_GO, &BLOCKS);
    put_final(p, NBD_OPT_GO, NBD_REP_ERR_POLICY, "");
    target_says(p);
    put_go(p, NBD_OPT_GO, "second");
    host_says(p);
    put_info(p, NBD_OPT_GO, &(struct nbd_rep_info){.type = NBD_INFO_EXPORT, .size = 7, .flags = 3});
    put_final(p, NBD_OPT_GO, NBD_REP_ACK, "");
    target_says(p);
    assert_int_equal(p->state, NEGOTIATE_DONE);
    assert_string_equal(negotiate_result(p->n)->export_name, "second");
    assert_int_equal(negotiate_result(p->n)->size, 7);
    assert_int_equal(negotiate_result(p->n)->block_max, 0);
}

/* --- options answered here ----------------------------------------------------------------- */

static void unknown_options_never_reach_the_target(void **state)
{
    struct play *p = *state;
    static const uint32_t unknown[] = {0, 4, 12, 1000, UINT32_MAX};

    open_with(p, 3);
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        put_option(p, unknown[i], "payload to be skipped", i * 5);
        answered_here(p, unknown[i], NBD_REP_ERR_UNSUP, "option not known here");
    }
    go_to_the_end(p, "disk", "disk");
}

static void tls_is_never_asked_of_the_target(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    put_option(p, NBD_OPT_STARTTLS, NULL, 0);
    answered_here(p, NBD_OPT_STARTTLS, NBD_REP_ERR_UNSUP, "TLS is not offered here");
    put_option(p, NBD_OPT_STARTTLS, "data", 4);
    answered_here(p, NBD_OPT_STARTTLS, NBD_REP_ERR_UNSUP, "TLS is not offered here");
}

static void abort_is_acknowledged_and_told_to_the_target(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    put_option(p, NBD_OPT_ABORT, "ignored", 7);
    host_says(p);
    assert_int_equal(p->state, NEGOTIATE_ENDED);
    assert_string_equal(negotiate_reason(p->n), "host ended the negotiation");
    assert_false(negotiate_host_at_fault(p->n));
    put_option(p, NBD_OPT_ABORT, NULL, 0);
    target_hears(p);
    put_final(p, NBD_OPT_ABORT, NBD_REP_ACK, "");
    host_hears(p);
}

/* --- names without volumes ----------------------------------------------------------------- */

static void the_empty_name_becomes_the_default_export(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    go_to_the_end(p, "", "main");
    assert_string_equal(negotiate_result(p->n)->export_name, "");
}

static void another_name_passes_beside_a_default_export(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    go_to_the_end(p, "other", "other");
    assert_string_equal(negotiate_result(p->n)->export_name, "other");
}

static void the_default_export_is_asked_by_every_option_with_a_name(void **state)
{
    struct play *p = *state;
    static const uint32_t metas[] = {NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT};

    open_with(p, 3);
    for (size_t i = 0; i < 2; i++) {
        put_meta(p, metas[i], "");
        host_says(p);
        put_meta(p, metas[i], "main");
        target_hears(p);
        put_final(p, metas[i], NBD_REP_ACK, "");
        target_says(p);
        put_final(p, metas[i], NBD_REP_ACK, "");
        host_hears(p);
    }
    put_option(p, NBD_OPT_EXPORT_NAME, NULL, 0);
    host_says(p);
    put_option(p, NBD_OPT_EXPORT_NAME, "main", 4);
    target_hears(p);
}

static void without_volumes_a_list_passes_unchanged(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    put_option(p, NBD_OPT_LIST, NULL, 0);
    host_says(p);
    put_option(p, NBD_OPT_LIST, NULL, 0);
    target_hears(p);
    for (int again = 0; again < 2; again++) {
        put_server(p, "", "the default");
        put_server(p, "disk", "");
        put_final(p, NBD_OPT_LIST, NBD_REP_ACK, "");
        if (again == 0)
            target_says(p);
        else
            host_hears(p);
    }
}

static void information_passes_in_every_kind(void **state)
{
    struct play *p = *state;
    static const struct nbd_rep_info odd = {.type = 0x7777};

    open_with(p, 3);
    put_go(p, NBD_OPT_INFO, "disk");
    host_says(p);
    put_go(p, NBD_OPT_INFO, "disk");
    target_hears(p);
    for (int again = 0; again < 2; again++) {
        put_info(p, NBD_OPT_INFO, &EXPORT);
        put_name(p, NBD_OPT_INFO, "canonical");
        put_info(p, NBD_OPT_INFO,
                 &(struct nbd_rep_info){.type = NBD_INFO_DESCRIPTION, .text = str("fast")});
        put_info(p, NBD_OPT_INFO, &BLOCKS);
        put_info(p, NBD_OPT_INFO, &odd);
        put_final(p, NBD_OPT_INFO, NBD_REP_ACK, "");
        if (again == 0)
            target_says(p);
        else
            host_hears(p);
    }
    assert_int_equal(p->state, NEGOTIATE_RUNNING);
    put_go(p, NBD_OPT_GO, "disk");
    host_says(p);
    put_info(p, NBD_OPT_GO, &EXPORT);
    put_final(p, NBD_OPT_GO, NBD_REP_ACK, "");
    target_says(p);
    assert_int_equal(negotiate_result(p->n)->block_max, 0);
}

/* --- names with volumes -------------------------------------------------------------------- */

static void a_volume_is_asked_for_by_the_targets_name(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    go_to_the_end(p, "beta", "lun-2");
    assert_ptr_equal(negotiate_result(p->n)->volume, &p->volumes[1]);
    assert_string_equal(negotiate_result(p->n)->export_name, "beta");
}

static void export_name_is_translated_too(void **state)
{
    struct play *p = *state;
    uint8_t b[NBD_EXPORT_REPLY_SIZE];

    open_with(p, 3);
    put_option(p, NBD_OPT_EXPORT_NAME, "alpha", 5);
    host_says(p);
    put_option(p, NBD_OPT_EXPORT_NAME, "lun-1", 5);
    target_hears(p);
    nbd_export_reply_build(b, &(struct nbd_export_reply){.size = 1}, true);
    say(p, false, b, sizeof b);
    assert_int_equal(p->state, NEGOTIATE_DONE);
    assert_ptr_equal(negotiate_result(p->n)->volume, &p->volumes[0]);
}

static void a_name_that_is_not_offered_is_unknown_in_every_option(void **state)
{
    struct play *p = *state;
    static const char *const names[] = {"lun-1", "", "alphabet", "alph", "Alpha"};
    static const uint32_t options[] = {NBD_OPT_INFO, NBD_OPT_GO, NBD_OPT_LIST_META_CONTEXT,
                                       NBD_OPT_SET_META_CONTEXT};

    open_with(p, 3);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (size_t k = 0; k < 4; k++) {
            if (nbd_opt_interim_reply(options[k]) == NBD_REP_INFO)
                put_go(p, options[k], names[i]);
            else
                put_meta(p, options[k], names[i]);
            answered_here(p, options[k], NBD_REP_ERR_UNKNOWN, "export not offered here");
        }
    }
    go_to_the_end(p, "gamma", "lun-2");
    assert_ptr_equal(negotiate_result(p->n)->volume, &p->volumes[2]);
}

static void export_name_of_what_is_not_offered_ends_the_connection(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    put_option(p, NBD_OPT_EXPORT_NAME, "lun-1", 5);
    host_says(p);
    assert_int_equal(p->state, NEGOTIATE_ENDED);
    assert_string_equal(negotiate_reason(p->n), "host asked for an export that is not offered");
    assert_quiet(p);
}

static void the_targets_name_for_a_volume_does_not_come_back(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    put_go(p, NBD_OPT_INFO, "gamma");
    host_says(p);
    put_go(p, NBD_OPT_INFO, "lun-2");
    target_hears(p);
    put_name(p, NBD_OPT_INFO, "lun-2");
    put_info(p, NBD_OPT_INFO, &EXPORT);
    put_final(p, NBD_OPT_INFO, NBD_REP_ACK, "");
    target_says(p);
    put_name(p, NBD_OPT_INFO, "gamma");
    put_info(p, NBD_OPT_INFO, &EXPORT);
    put_final(p, NBD_OPT_INFO, NBD_REP_ACK, "");
    host_hears(p);
}

static void meta_contexts_of_a_volume_are_asked_and_told(void **state)
{
    struct play *p = *state;
    struct nbd_rep_meta meta = {.id = 5, .name = str("base:allocation")};
    static const uint32_t metas[] = {NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT};

    open_with(p, 3);
    for (size_t i = 0; i < 2; i++) {
        put_meta(p, metas[i], "alpha");
        host_says(p);
        put_meta(p, metas[i], "lun-1");
        target_hears(p);
        for (int again = 0; again < 2; again++) {
            nbd_reply_write_meta(&p->scratch, metas[i], &meta);
            put_final(p, metas[i], NBD_REP_ACK, "");
            if (again == 0)
                target_says(p);
            else
                host_hears(p);
        }
    }
}

static void what_follows_a_name_is_the_targets_to_judge(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    nbd_option_write_named(&p->scratch, NBD_OPT_GO, str("alpha"), str("\xff\xff nonsense"));
    host_says(p);
    nbd_option_write_named(&p->scratch, NBD_OPT_GO, str("lun-1"), str("\xff\xff nonsense"));
    target_hears(p);
    put_final(p, NBD_OPT_GO, NBD_REP_ERR_INVALID, "its own words");
    target_says(p);
    put_final(p, NBD_OPT_GO, NBD_REP_ERR_INVALID, "its own words");
    host_hears(p);
}

static void a_list_shows_the_volumes_and_nothing_else(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    put_option(p, NBD_OPT_LIST, NULL, 0);
    host_says(p);
    put_option(p, NBD_OPT_LIST, NULL, 0);
    target_hears(p);
    put_server(p, "secret", "not ours");
    put_server(p, "lun-2", "shared by two");
    put_server(p, "lun-2", "said again");
    put_final(p, NBD_OPT_LIST, NBD_REP_ACK, "");
    target_says(p);
    put_server(p, "beta", "shared by two");
    put_server(p, "gamma", "shared by two");
    put_server(p, "alpha", "");
    put_final(p, NBD_OPT_LIST, NBD_REP_ACK, "");
    host_hears(p);
}

static void a_second_list_is_as_whole_as_the_first(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    for (int i = 0; i < 3; i++) {
        put_option(p, NBD_OPT_LIST, NULL, 0);
        host_says(p);
        put_option(p, NBD_OPT_LIST, NULL, 0);
        target_hears(p);
        put_server(p, "lun-1", "");
        put_final(p, NBD_OPT_LIST, NBD_REP_ACK, "");
        target_says(p);
        put_server(p, "alpha", "");
        put_server(p, "beta", "");
        put_server(p, "gamma", "");
        put_final(p, NBD_OPT_LIST, NBD_REP_ACK, "");
        host_hears(p);
    }
}

static void a_list_that_the_target_refuses_is_refused(void **state)
{
    struct play *p = *state;

    open_with(p, 3);
    bare_option(p, NBD_OPT_LIST, NBD_REP_ERR_POLICY, "listing is off");
}

/* --- chance -------------------------------------------------------------------------------- */

static void random_round(struct play *p, struct rng *rng)
{
    static const char *const names[] = {"", "alpha", "beta", "lun-1", "other"};
    uint32_t option = (uint32_t)rng_below(rng, 13);
    const char *name = names[rng_below(rng, 5)];

    if (option == NBD_OPT_ABORT || option == NBD_OPT_EXPORT_NAME)
        option = NBD_OPT_LIST;
    if (nbd_opt_interim_reply(option) == NBD_REP_INFO)
        put_go(p, option, name);
    else if (nbd_opt_interim_reply(option) == NBD_REP_META_CONTEXT)
        put_meta(p, option, name);
    else
        put_option(p, option, "xyz", (size_t)rng_below(rng, 4));
    host_says(p);
    if (p->to_target.len == 0)
        return;
    drain(&p->to_target, &p->all_to_target);
    for (uint64_t i = rng_below(rng, 3); i > 0; i--) {
        if (nbd_opt_interim_reply(option) == NBD_REP_INFO)
            put_info(p, option, rng_below(rng, 2) == 0 ? &EXPORT : &BLOCKS);
        else if (nbd_opt_interim_reply(option) == NBD_REP_SERVER)
            put_server(p, names[rng_below(rng, 5)], "described");
    }
    if (option == NBD_OPT_GO || rng_below(rng, 3) == 0)
        put_final(p, option, NBD_REP_ERR_BIT | (uint32_t)(1 + rng_below(rng, 12)), "refused");
    else
        put_final(p, option, NBD_REP_ACK, "");
    target_says(p);
}

static void random_conversations_do_not_depend_on_their_cuts(void **state)
{
    uint64_t seed = 20260104;
    struct rng rng;

    printf("seed %llu\n", (unsigned long long)seed);
    rng_seed(&rng, seed);
    for (int i = 0; i < 300; i++) {
        struct play *p;

        play_new(state, (size_t)rng_below(&rng, 4), rng_below(&rng, 2) == 0 ? "" : "main");
        p = *state;
        open_with(p, 3);
        for (uint64_t k = rng_below(&rng, 12); k > 0; k--) {
            random_round(p, &rng);
            assert_int_equal(p->state, NEGOTIATE_RUNNING);
        }
        drain(&p->to_host, &p->all_to_host);
        drain(&p->to_target, &p->all_to_target);
        for (int again = 0; again < 5; again++)
            play_again(p, &rng);
        teardown(state);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_greeting_passes_with_the_flags_we_know, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_old_style_target_is_refused_by_name, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_target_that_is_no_nbd_server_is_named, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_host_may_not_set_flags_that_were_not_offered, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_target_that_speaks_out_of_turn_is_named, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(go_ends_in_transmission_with_all_that_was_told, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(bytes_behind_the_end_belong_to_transmission, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(export_name_ends_in_transmission_with_zeroes, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(export_name_ends_in_transmission_without_zeroes, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(export_name_serves_a_host_that_knows_no_options, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(structured_replies_are_agreed_by_the_target, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(structured_replies_refused_stay_simple, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(extended_headers_take_precedence_in_either_order,
                                        setup_open, teardown),
        cmocka_unit_test_setup_teardown(extended_headers_refused_leave_structured_replies,
                                        setup_open, teardown),
        cmocka_unit_test_setup_teardown(every_error_of_the_target_passes_with_its_words, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_refused_go_leaves_nothing_to_the_next, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(unknown_options_never_reach_the_target, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(tls_is_never_asked_of_the_target, setup_open, teardown),
        cmocka_unit_test_setup_teardown(abort_is_acknowledged_and_told_to_the_target, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_empty_name_becomes_the_default_export,
                                        setup_default_export, teardown),
        cmocka_unit_test_setup_teardown(another_name_passes_beside_a_default_export,
                                        setup_default_export, teardown),
        cmocka_unit_test_setup_teardown(the_default_export_is_asked_by_every_option_with_a_name,
                                        setup_default_export, teardown),
        cmocka_unit_test_setup_teardown(without_volumes_a_list_passes_unchanged, setup_open,
                                        teardown),
        cmocka_unit_test_setup_teardown(information_passes_in_every_kind, setup_open, teardown),
        cmocka_unit_test_setup_teardown(a_volume_is_asked_for_by_the_targets_name, setup_volumes,
                                        teardown),
        cmocka_unit_test_setup_teardown(export_name_is_translated_too, setup_volumes, teardown),
        cmocka_unit_test_setup_teardown(a_name_that_is_not_offered_is_unknown_in_every_option,
                                        setup_volumes, teardown),
        cmocka_unit_test_setup_teardown(export_name_of_what_is_not_offered_ends_the_connection,
                                        setup_volumes, teardown),
        cmocka_unit_test_setup_teardown(the_targets_name_for_a_volume_does_not_come_back,
                                        setup_volumes, teardown),
        cmocka_unit_test_setup_teardown(meta_contexts_of_a_volume_are_asked_and_told, setup_volumes,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_follows_a_name_is_the_targets_to_judge, setup_volumes,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_list_shows_the_volumes_and_nothing_else, setup_volumes,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_second_list_is_as_whole_as_the_first, setup_volumes,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_list_that_the_target_refuses_is_refused, setup_volumes,
                                        teardown),
        cmocka_unit_test(random_conversations_do_not_depend_on_their_cuts),
    };
    return cmocka_run_group_tests_name("negotiate", tests, NULL, NULL);
}

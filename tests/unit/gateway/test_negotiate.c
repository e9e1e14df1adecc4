/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: host and target agree through the gateway as they would without it; names are held to the
 * offered volumes; whoever breaks the protocol is named.
 * Method: each test plays both peers with the codec's builders. Every conversation is recorded, and when
 * a test ends it is played again one byte at a time: outputs, state, reason and result must be the same.
 * Random conversations with random cuts do the same under a printed seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "base/text.h"
#include "gateway/negotiate.h"
#include "proto/nbd/handshake.h"
#include "proto/nbd/option.h"

#define TURNS_MAX 4096
#define ROOM (64u << 20)

struct turn {
    bool host;
    size_t from, to; /* of play.tape */
};

struct play {
    struct target_config target;
    struct volume_config volumes[3];
    struct volume_config *volume_list[3];
    struct negotiation *n;
    struct text from_host, to_target, from_target, to_host;
    struct text tape, all_to_target, all_to_host; /* everything, for the second playing */
    struct turn turns[TURNS_MAX];
    size_t turn_count;
    struct text scratch;
    enum negotiate_state state;
};

/* --- the stage ----------------------------------------------------------------------------- */

static void wires_init(struct play *p)
{
    text_init(&p->from_host, ROOM);
    text_init(&p->to_target, ROOM);
    text_init(&p->from_target, ROOM);
    text_init(&p->to_host, ROOM);
}

static void wires_fini(struct play *p)
{
    text_fini(&p->from_host);
    text_fini(&p->to_target);
    text_fini(&p->from_target);
    text_fini(&p->to_host);
}

static void play_new(void **state, size_t volume_count, const char *default_export)
{
    struct play *p = calloc(1, sizeof *p);
    static const char *const ours[] = {"alpha", "beta", "gamma"};
    static const char *const theirs[] = {"lun-1", "lun-2", "lun-2"};

    assert_non_null(p);
    for (size_t i = 0; i < 3; i++) {
        strcpy(p->volumes[i].name, ours[i]);
        strcpy(p->volumes[i].export_name, theirs[i]);
        p->volume_list[i] = &p->volumes[i];
    }
    p->target.volumes = p->volume_list;
    p->target.volume_count = volume_count;
    strcpy(p->target.export_name, default_export);
    wires_init(p);
    text_init(&p->tape, ROOM);
    text_init(&p->all_to_target, ROOM);
    text_init(&p->all_to_host, ROOM);
    text_init(&p->scratch, ROOM);
    p->n = negotiate_new(&p->target);
    assert_non_null(p->n);
    *state = p;
}

static int setup_open(void **state)
{
    play_new(state, 0, "");
    return 0;
}

static int setup_default_export(void **state)
{
    play_new(state, 0, "main");
    return 0;
}

static int setup_volumes(void **state)
{
    play_new(state, 3, "");
    return 0;
}

static void step(struct play *p)
{
    p->state = negotiate_step(p->n, &p->from_host, &p->to_target, &p->from_target, &p->to_host);
}

static void say(struct play *p, bool host, const void *bytes, size_t n)
{
    assert_true(p->turn_count < TURNS_MAX);
    p->turns[p->turn_count++] = (struct turn){.host = host, .from = p->tape.len, .to = p->tape.len + n};
    text_append(&p->tape, bytes, n);
    text_append(host ? &p->from_host : &p->from_target, bytes, n);
    step(p);
}

/* What has been written by the other peer is in p->scratch. */
static void host_says(struct play *p)
{
    say(p, true, p->scratch.data, p->scratch.len);
    text_clear(&p->scratch);
}

static void target_says(struct play *p)
{
    say(p, false, p->scratch.data, p->scratch.len);
    text_clear(&p->scratch);
}

static void drain(struct text *from, struct text *all)
{
    text_append(all, from->data, from->len);
    text_clear(from);
}

/* The host has been sent exactly what is in scratch; forget both. */
static void host_hears(struct play *p)
{
    assert_int_equal(p->to_host.len, p->scratch.len);
    assert_memory_equal(p->to_host.data, p->scratch.data, p->scratch.len);
    text_clear(&p->scratch);
    drain(&p->to_host, &p->all_to_host);
}

static void target_hears(struct play *p)
{
    assert_int_equal(p->to_target.len, p->scratch.len);
    assert_memory_equal(p->to_target.data, p->scratch.data, p->scratch.len);
    text_clear(&p->scratch);
    drain(&p->to_target, &p->all_to_target);
}

static void assert_quiet(struct play *p)
{
    assert_int_equal(p->to_host.len, 0);
    assert_int_equal(p->to_target.len, 0);
}

static void assert_failed(struct play *p, bool host, const char *reason)
{
    assert_int_equal(p->state, NEGOTIATE_FAILED);
    assert_string_equal(negotiate_reason(p->n), reason);
    assert_int_equal(negotiate_host_at_fault(p->n), host);
}

/* Play all turns again in pieces that @rng chooses, or byte by byte without it. */
static void play_again(struct play *p, struct rng *rng)
{
    struct play q = {.target = p->target};

    wires_init(&q);
    q.n = negotiate_new(&p->target);
    q.state = NEGOTIATE_RUNNING;
    for (size_t i = 0; i < p->turn_count; i++) {
        struct turn t = p->turns[i];

        while (t.from < t.to) {
            size_t piece = rng ? 1 + (size_t)rng_below(rng, t.to - t.from) : 1;

            text_append(t.host ? &q.from_host : &q.from_target, p->tape.data + t.from, piece);
            step(&q);
            t.from += piece;
        }
    }
    assert_int_equal(q.state, p->state);
    assert_int_equal(q.to_host.len, p->all_to_host.len);
    assert_memory_equal(q.to_host.data, p->all_to_host.data, q.to_host.len);
    assert_int_equal(q.to_target.len, p->all_to_target.len);
    assert_memory_equal(q.to_target.data, p->all_to_target.data, q.to_target.len);
    assert_string_equal(negotiate_reason(q.n), negotiate_reason(p->n));
    assert_int_equal(negotiate_host_at_fault(q.n), negotiate_host_at_fault(p->n));
    if (q.state == NEGOTIATE_DONE) {
        const struct negotiate_result *a = negotiate_result(p->n), *b = negotiate_result(q.n);

        assert_int_equal(a->mode, b->mode);
        assert_ptr_equal(a->volume, b->volume);
        assert_string_equal(a->export_name, b->export_name);
        assert_int_equal(a->size, b->size);
        assert_int_equal(a->transmission_flags, b->transmission_flags);
        assert_int_equal(a->block_max, b->block_max);
        assert_int_equal(q.from_host.len, p->from_host.len);
        assert_int_equal(q.from_target.len, p->from_target.len);
    }
    negotiate_free(q.n);
    wires_fini(&q);
}

static int teardown(void **state)
{
    struct play *p = *state;

    drain(&p->to_host, &p->all_to_host);
    drain(&p->to_target, &p->all_to_target);
    if (p->tape.len < (1 << 20))
        play_again(p, NULL);
    negotiate_free(p->n);
    wires_fini(p);
    text_fini(&p->tape);
    text_fini(&p->all_to_target);
    text_fini(&p->all_to_host);
    text_fini(&p->scratch);
    free(p);
    return 0;
}

/* --- the lines ----------------------------------------------------------------------------- */

static struct nbd_bytes str(const char *s)
{
    return (struct nbd_bytes){.data = (const uint8_t *)s, .len = strlen(s)};
}

static const uint16_t INFOS[] = {NBD_INFO_NAME, NBD_INFO_BLOCK_SIZE};
static const struct nbd_rep_info EXPORT = {.type = NBD_INFO_EXPORT, .size = 1 << 30, .flags = 0x5ed};
static const struct nbd_rep_info BLOCKS = {.type = NBD_INFO_BLOCK_SIZE,
                                           .block_min = 512,
                                           .block_preferred = 4096,
                                           .block_max = 1 << 25};

static void put_greeting(struct play *p, uint16_t flags)
{
    uint8_t b[NBD_GREETING_SIZE];

    text_append(&p->scratch, b, nbd_greeting_build(b, flags));
}

static void put_flags(struct play *p, uint32_t flags)
{
    uint8_t b[NBD_CLIENT_FLAGS_SIZE];

    text_append(&p->scratch, b, nbd_client_flags_build(b, flags));
}

static void put_option(struct play *p, uint32_t type, const void *payload, size_t n)
{
    nbd_option_write(&p->scratch, type, payload, n);
}

static void put_go(struct play *p, uint32_t type, const char *name)
{
    nbd_option_write_info(&p->scratch, type, str(name), INFOS, 2);
}

static void put_meta(struct play *p, uint32_t type, const char *name)
{
    struct nbd_bytes query = str("base:allocation");

    nbd_option_write_meta(&p->scratch, type, str(name), &query, 1);
}

static void put_final(struct play *p, uint32_t option, uint32_t type, const char *words)
{
    nbd_reply_write_final(&p->scratch, option, type, words);
}

static void put_info(struct play *p, uint32_t option, const struct nbd_rep_info *info)
{
    nbd_reply_write_info(&p->scratch, option, info);
}

static void put_name(struct play *p, uint32_t option, const char *name)
{
    put_info(p, option, &(struct nbd_rep_info){.type = NBD_INFO_NAME, .text = str(name)});
}

static void put_server(struct play *p, const char *name, const char *description)
{
    nbd_reply_write_server(&p->scratch, NBD_OPT_LIST, str(name), str(description));
}

/* Greeting and flags, until options may begin. */
static void open_with(struct play *p, uint32_t flags)
{
    put_greeting(p, 3);
    target_says(p);
    put_greeting(p, 3);
    host_hears(p);
    put_flags(p, flags);
    host_says(p);
    put_flags(p, flags);
    target_hears(p);
    assert_int_equal(p->state, NEGOTIATE_RUNNING);
}

static void go_to_the_end(struct play *p, const char *ours, const char *theirs)
{
    put_go(p, NBD_OPT_GO, ours);
    host_says(p);
    put_go(p, NBD_OPT_GO, theirs);
    target_hears(p);
    put_info(p, NBD_OPT_GO, &EXPORT);
    put_info(p, NBD_OPT_GO, &BLOCKS);
    put_final(p, NBD_OPT_GO, NBD_REP_ACK, "");
    target_says(p);
    assert_int_equal(p->state, NEGOTIATE_DONE);
    put_info(p, NBD_OPT_GO, &EXPORT);
    put_info(p, NBD_OPT_GO, &BLOCKS);
    put_final(p, NBD_OPT_GO, NBD_REP_ACK, "");
    host_hears(p);
}

/* @n bytes of an option header that promises more. */
static void put_option_header(struct play *p, uint32_t type, uint32_t length)
{
    uint8_t b[NBD_OPTION_SIZE];

    nbd_option_build(b, &(struct nbd_option){.type = type, .length = length});
    text_append(&p->scratch, b, sizeof b);
}

static void put_reply_header(struct play *p, uint32_t option, uint32_t type, uint32_t length)
{
    uint8_t b[NBD_OPTION_REPLY_SIZE];

    nbd_option_reply_build(b, &(struct nbd_option_reply){option, type, length});
    text_append(&p->scratch, b, sizeof b);
}

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

static void bare_option(struct play *p, uint32_t option, uint32_t reply, const char *words)
{
    put_option(p, option, NULL, 0);
    host_says(p);
    put_option(p, option, NULL, 0);
    target_hears(p);
    put_final(p, option, reply, words);
    target_says(p);
    put_final(p, option, reply, words);
    host_hears(p);
    assert_int_equal(p->state, NEGOTIATE_RUNNING);
}

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

static void answered_here(struct play *p, uint32_t option, uint32_t error, const char *words)
{
    host_says(p);
    assert_int_equal(p->to_target.len, 0);
    put_final(p, option, error, words);
    host_hears(p);
    assert_int_equal(p->state, NEGOTIATE_RUNNING);
}

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
    static const uint32_t options[] = {NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_GO,
                                       NBD_OPT_STRUCTURED_REPLY, NBD_OPT_LIST_META_CONTEXT,
                                       NBD_OPT_SET_META_CONTEXT, NBD_OPT_EXTENDED_HEADERS};
    static const uint32_t replies[] = {0, NBD_REP_SERVER, NBD_REP_INFO, NBD_REP_META_CONTEXT, 5,
                                       0x7fffffff};

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

#define OPEN(f) cmocka_unit_test_setup_teardown(f, setup_open, teardown)
#define DEFAULT(f) cmocka_unit_test_setup_teardown(f, setup_default_export, teardown)
#define VOLUMES(f) cmocka_unit_test_setup_teardown(f, setup_volumes, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        OPEN(a_greeting_passes_with_the_flags_we_know),
        OPEN(an_old_style_target_is_refused_by_name),
        OPEN(a_target_that_is_no_nbd_server_is_named),
        OPEN(a_host_may_not_set_flags_that_were_not_offered),
        OPEN(a_target_that_speaks_out_of_turn_is_named),
        OPEN(go_ends_in_transmission_with_all_that_was_told),
        OPEN(bytes_behind_the_end_belong_to_transmission),
        OPEN(export_name_ends_in_transmission_with_zeroes),
        OPEN(export_name_ends_in_transmission_without_zeroes),
        OPEN(export_name_serves_a_host_that_knows_no_options),
        OPEN(structured_replies_are_agreed_by_the_target),
        OPEN(structured_replies_refused_stay_simple),
        OPEN(extended_headers_take_precedence_in_either_order),
        OPEN(extended_headers_refused_leave_structured_replies),
        OPEN(every_error_of_the_target_passes_with_its_words),
        OPEN(a_refused_go_leaves_nothing_to_the_next),
        OPEN(unknown_options_never_reach_the_target),
        OPEN(tls_is_never_asked_of_the_target),
        OPEN(abort_is_acknowledged_and_told_to_the_target),
        DEFAULT(the_empty_name_becomes_the_default_export),
        DEFAULT(another_name_passes_beside_a_default_export),
        DEFAULT(the_default_export_is_asked_by_every_option_with_a_name),
        OPEN(without_volumes_a_list_passes_unchanged),
        OPEN(information_passes_in_every_kind),
        VOLUMES(a_volume_is_asked_for_by_the_targets_name),
        VOLUMES(export_name_is_translated_too),
        VOLUMES(a_name_that_is_not_offered_is_unknown_in_every_option),
        VOLUMES(export_name_of_what_is_not_offered_ends_the_connection),
        VOLUMES(the_targets_name_for_a_volume_does_not_come_back),
        VOLUMES(meta_contexts_of_a_volume_are_asked_and_told),
        VOLUMES(what_follows_a_name_is_the_targets_to_judge),
        VOLUMES(a_list_shows_the_volumes_and_nothing_else),
        VOLUMES(a_second_list_is_as_whole_as_the_first),
        VOLUMES(a_list_that_the_target_refuses_is_refused),
        OPEN(names_that_overrun_are_answered_here),
        OPEN(the_longest_name_passes_and_a_longer_one_does_not),
        OPEN(an_unlawful_export_name_ends_the_connection),
        OPEN(a_bad_option_magic_is_the_hosts_fault),
        OPEN(an_option_beyond_64_kib_is_refused_at_its_header),
        OPEN(an_option_of_64_kib_passes),
        OPEN(a_host_may_ask_1024_times_and_not_once_more),
        OPEN(pipelined_options_are_answered_one_after_the_other),
        OPEN(a_host_that_speaks_before_the_greeting_waits),
        OPEN(an_answer_to_another_option_is_refused),
        OPEN(a_bad_reply_magic_is_the_targets_fault),
        OPEN(a_reply_beyond_64_kib_is_refused_at_its_header),
        OPEN(an_answer_without_end_is_refused),
        OPEN(endless_small_replies_are_refused),
        OPEN(go_needs_the_exports_size),
        OPEN(an_acknowledgement_carries_nothing),
        cmocka_unit_test(every_option_refuses_the_replies_of_others),
        cmocka_unit_test(replies_whose_lengths_do_not_add_up_are_refused),
        OPEN(an_output_that_is_full_ends_the_negotiation),
        cmocka_unit_test(random_conversations_do_not_depend_on_their_cuts),
    };
    return cmocka_run_group_tests_name("negotiate", tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a probe says what the NBD document lets it say, and believes nothing that makes no sense.
 * Method: a target's bytes by hand, in one piece and byte by byte; what is asked is parsed by the
 * codec. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "proto/nbd/handshake.h"
#include "proto/nbd/reply.h"
#include "proto/nbd/request.h"
#include "server/resource/talk.h"

#define FLAGS (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)

static void greet(struct text *said, uint16_t flags)
{
    uint8_t greeting[NBD_GREETING_SIZE];
    text_append(said, (const char *)greeting, nbd_greeting_build(greeting, flags));
}

static void tell_export(struct text *said, uint64_t size)
{
    struct nbd_rep_info i = {.type = NBD_INFO_EXPORT, .size = size, .flags = NBD_FLAG_HAS_FLAGS};
    nbd_reply_write_info(said, NBD_OPT_GO, &i);
    i = (struct nbd_rep_info){.type = NBD_INFO_BLOCK_SIZE,
                              .block_min = 512,
                              .block_preferred = 4096,
                              .block_max = 1 << 20};
    nbd_reply_write_info(said, NBD_OPT_GO, &i);
    nbd_reply_write_final(said, NBD_OPT_GO, NBD_REP_ACK, "");
}

static void answer_read(struct text *said, uint32_t error, uint64_t cookie, size_t length)
{
    uint8_t header[NBD_REPLY_MAX_SIZE];
    char zeroes[512] = "";
    const struct nbd_reply r = {
        .form = NBD_FORM_SIMPLE, .error = error, .is_error = error != 0, .cookie = cookie,
        .done = true};
    text_append(said, (const char *)header, nbd_reply_build(header, &r));
    text_append(said, zeroes, length);
}

/* What was said, taken in pieces of @piece. */
static void take(struct talk *t, struct text *said, size_t piece)
{
    for (size_t at = 0; at < said->len; at += piece)
        talk_take(t, (const uint8_t *)said->data + at,
                  said->len - at < piece ? said->len - at : piece);
    text_clear(said);
}

/* The option at the front of what is asked, after @skip bytes. */
static struct nbd_option asked(struct talk *t, size_t skip)
{
    struct nbd_option o = {.type = 0};
    assert_int_equal(
        nbd_option_parse((const uint8_t *)t->out.data + skip, t->out.len - skip, &o),
        NBD_OPTION_SIZE);
    assert_int_equal(t->out.len, skip + NBD_OPTION_SIZE + o.length);
    text_clear(&t->out);
    return o;
}

static struct nbd_request requested(struct talk *t)
{
    struct nbd_request r = {.type = 0};
    assert_int_equal(t->out.len, NBD_REQUEST_SIZE);
    assert_int_equal(
        nbd_request_parse((const uint8_t *)t->out.data, t->out.len, false, &r), NBD_REQUEST_SIZE);
    text_clear(&t->out);
    return r;
}

static void a_whole_talk(size_t piece, bool tls)
{
    struct talk *t = malloc(sizeof(*t));
    struct text said;
    assert_non_null(t);
    text_init(&said, 1 << 20);
    talk_init(t, "lun-7", tls);
    greet(&said, FLAGS);
    take(t, &said, piece);
    if (tls) {
        assert_int_equal(asked(t, NBD_CLIENT_FLAGS_SIZE).type, NBD_OPT_STARTTLS);
        nbd_reply_write_final(&said, NBD_OPT_STARTTLS, NBD_REP_ACK, "");
        take(t, &said, piece);
        assert_int_equal(t->state, TALK_SECURE);
        assert_int_equal(t->out.len, 0);
        talk_secured(t);
    }
    struct nbd_option o = asked(t, tls ? 0 : NBD_CLIENT_FLAGS_SIZE);
    assert_int_equal(o.type, NBD_OPT_GO);
    assert_int_equal(o.length, 4 + 5 + 2 + 2); /* the name, and one fact that is wanted */
    tell_export(&said, 1 << 20);
    take(t, &said, piece);
    assert_int_equal(t->state, TALK_OPEN);
    assert_int_equal(t->size, 1 << 20);
    assert_int_equal(t->block_min, 512);
    assert_int_equal(t->block_preferred, 4096);
    assert_int_equal(t->block_max, 1 << 20);
    talk_read(t, 4096, 512);
    struct nbd_request r = requested(t);
    assert_int_equal(r.type, NBD_CMD_READ);
    assert_int_equal(r.offset, 4096);
    assert_int_equal(r.length, 512);
    answer_read(&said, 0, r.cookie, 512);
    take(t, &said, piece);
    assert_int_equal(t->state, TALK_DONE);
    talk_bye(t);
    assert_int_equal(requested(t).type, NBD_CMD_DISC);
    text_fini(&said);
    talk_fini(t);
    free(t);
}

static void a_target_is_asked_for_its_sizes_and_a_little_data(void **state)
{
    (void)state;
    a_whole_talk(SIZE_MAX / 2, false);
    a_whole_talk(1, false);
    a_whole_talk(7, true);
    a_whole_talk(SIZE_MAX / 2, true);
}

static void one_that_knows_no_go_is_asked_in_the_old_way(void **state)
{
    (void)state;
    for (unsigned flags = 0; flags <= FLAGS; flags++) {
        struct talk *t = malloc(sizeof(*t));
        struct text said;
        uint8_t reply[NBD_EXPORT_REPLY_ZEROES_SIZE] = {0};
        const struct nbd_export_reply e = {.size = 4096, .flags = NBD_FLAG_HAS_FLAGS};
        assert_non_null(t);
        text_init(&said, 1 << 20);
        talk_init(t, "x", false);
        greet(&said, (uint16_t)flags);
        take(t, &said, 1);
        struct nbd_option o = asked(t, NBD_CLIENT_FLAGS_SIZE);
        if ((flags & NBD_FLAG_FIXED_NEWSTYLE) != 0) {
            assert_int_equal(o.type, NBD_OPT_GO);
            nbd_reply_write_final(&said, NBD_OPT_GO, NBD_REP_ERR_UNSUP, "");
            take(t, &said, 1);
            o = asked(t, 0);
        }
        assert_int_equal(o.type, NBD_OPT_EXPORT_NAME);
        assert_int_equal(o.length, 1);
        text_append(&said, (const char *)reply,
                    nbd_export_reply_build(reply, &e, (flags & NBD_FLAG_NO_ZEROES) != 0));
        take(t, &said, 1);
        assert_int_equal(t->state, TALK_OPEN);
        assert_int_equal(t->size, 4096);
        text_fini(&said);
        talk_fini(t);
        free(t);
    }
}

/* A talk that has come as far as @state. */
static struct talk *talk_in(enum talk_state state)
{
    struct talk *t = malloc(sizeof(*t));
    struct text said;
    assert_non_null(t);
    text_init(&said, 1 << 20);
    talk_init(t, "", state == TALK_STARTTLS || state == TALK_SECURE);
    greet(&said, FLAGS);
    take(t, &said, state == TALK_GREETING ? SIZE_MAX / 2 : 1);
    if (state == TALK_SECURE)
        nbd_reply_write_final(&said, NBD_OPT_STARTTLS, NBD_REP_ACK, "");
    if (state >= TALK_OPEN)
        tell_export(&said, 4096);
    take(t, &said, 1);
    if (state == TALK_READ)
        talk_read(t, 0, 512);
    text_fini(&said);
    assert_int_equal(t->state, state);
    return t;
}

static void fails_with(enum talk_state state, struct text *said, const char *words)
{
    struct talk *t = talk_in(state);
    take(t, said, SIZE_MAX / 2);
    assert_int_equal(t->state, TALK_FAILED);
    if (strstr(t->words, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", t->words, words);
    talk_take(t, (const uint8_t *)"more", 4); /* which nobody listens to */
    assert_int_equal(t->state, TALK_FAILED);
    talk_fini(t);
    free(t);
}

static void what_makes_no_sense_fails_with_words(void **state)
{
    (void)state;
    struct text s;
    text_init(&s, 1 << 20);
    nbd_reply_write_final(&s, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, "no such lun");
    fails_with(TALK_GO, &s, "it does not open the export: ERR_UNKNOWN: no such lun");
    nbd_reply_write_final(&s, NBD_OPT_GO, NBD_REP_ERR_TLS_REQD, "");
    fails_with(TALK_GO, &s, "it demands TLS");
    nbd_reply_write_final(&s, NBD_OPT_GO, NBD_REP_ACK, "");
    fails_with(TALK_GO, &s, "something else");
    nbd_reply_write_final(&s, NBD_OPT_LIST, NBD_REP_ACK, "");
    fails_with(TALK_GO, &s, "makes no sense");
    for (unsigned i = 0; i <= TALK_INFOS_MAX; i++) {
        const struct nbd_rep_info info = {.type = NBD_INFO_EXPORT, .size = 1};
        nbd_reply_write_info(&s, NBD_OPT_GO, &info);
    }
    fails_with(TALK_GO, &s, "makes no sense");
    nbd_reply_write_final(&s, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY, "");
    fails_with(TALK_STARTTLS, &s, "it does not agree to TLS: ERR_POLICY");
    text_append_str(&s, "x");
    fails_with(TALK_SECURE, &s, "in the clear");
    text_append_str(&s, "x");
    fails_with(TALK_OPEN, &s, "nobody asked");
    answer_read(&s, 5, UINT64_C(0x77656972), 0);
    fails_with(TALK_READ, &s, "NBD error 5");
    answer_read(&s, 0, 1, 512);
    fails_with(TALK_READ, &s, "makes no sense");
    answer_read(&s, 0, UINT64_C(0x77656972), 512);
    text_append_str(&s, "x");
    fails_with(TALK_READ, &s, "nobody asked");
    text_fini(&s);
}

static void what_is_no_nbd_is_told_so_at_once(void **state)
{
    (void)state;
    static const char *const c[][2] = {
        {"SSH-2.0-OpenSSH_9.2p1", "does not speak NBD"},
        {"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53", "old style"},
    };
    for (size_t i = 0; i < 2; i++) {
        struct talk *t = malloc(sizeof(*t));
        uint8_t bytes[NBD_OLDSTYLE_SIZE] = {0};
        assert_non_null(t);
        memcpy(bytes, c[i][0], 16);
        talk_init(t, "", false);
        talk_take(t, bytes, sizeof(bytes));
        assert_int_equal(t->state, TALK_FAILED);
        assert_non_null(strstr(t->words, c[i][1]));
        talk_fini(t);
        free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_target_is_asked_for_its_sizes_and_a_little_data),
        cmocka_unit_test(one_that_knows_no_go_is_asked_in_the_old_way),
        cmocka_unit_test(what_makes_no_sense_fails_with_words),
        cmocka_unit_test(what_is_no_nbd_is_told_so_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

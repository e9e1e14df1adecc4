/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: every option and every option reply goes out and comes back unchanged, and no payload whose
 * lengths do not add up is accepted.
 * Method: bytes by hand for the layouts, builders against parsers, every cut of a payload, hostile
 * lengths, and random round trips. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"
#include "proto/nbd/option.h"

static struct nbd_bytes str(const char *s)
{
    return (struct nbd_bytes){.data = (const uint8_t *)s, .len = strlen(s)};
}

static void assert_bytes(struct nbd_bytes b, const char *want)
{
    assert_int_equal(b.len, strlen(want));
    assert_memory_equal(b.data, want, b.len);
}

/* The payload of the one message in @t, whose header must be @type and exact. */
static struct nbd_bytes option_payload(const struct text *t, uint32_t type)
{
    struct nbd_option o;

    assert_false(t->failed);
    assert_int_equal(nbd_option_parse((const uint8_t *)t->data, t->len, &o), NBD_OPTION_SIZE);
    assert_int_equal(o.type, type);
    assert_int_equal(o.length, t->len - NBD_OPTION_SIZE);
    return (struct nbd_bytes){.data = (const uint8_t *)t->data + NBD_OPTION_SIZE, .len = o.length};
}

static struct nbd_bytes reply_payload(const struct text *t, uint32_t option, uint32_t type)
{
    struct nbd_option_reply r;

    assert_false(t->failed);
    assert_int_equal(nbd_option_reply_parse((const uint8_t *)t->data, t->len, &r),
                     NBD_OPTION_REPLY_SIZE);
    assert_int_equal(r.option, option);
    assert_int_equal(r.type, type);
    assert_int_equal(r.length, t->len - NBD_OPTION_REPLY_SIZE);
    return (struct nbd_bytes){.data = (const uint8_t *)t->data + NBD_OPTION_REPLY_SIZE,
                              .len = r.length};
}

static void an_option_header_is_laid_out_as_the_document_says(void **state)
{
    struct text t;

    (void)state;
    text_init(&t, 4096);
    nbd_option_write(&t, NBD_OPT_EXPORT_NAME, "disk", 4);
    assert_int_equal(t.len, 20);
    assert_memory_equal(t.data, "IHAVEOPT\0\0\0\1\0\0\0\4disk", 20);
    text_fini(&t);
}

static void an_option_reply_header_is_laid_out_as_the_document_says(void **state)
{
    struct text t;

    (void)state;
    text_init(&t, 4096);
    nbd_reply_write_final(&t, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, "no");
    assert_int_equal(t.len, 22);
    assert_memory_equal(t.data, "\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\7\x80\0\0\6\0\0\0\2no", 22);
    text_fini(&t);
}

static void every_shorter_header_asks_for_more_and_a_bad_magic_is_refused(void **state)
{
    uint8_t option[NBD_OPTION_SIZE], reply[NBD_OPTION_REPLY_SIZE];
    struct nbd_option o;
    struct nbd_option_reply r;

    (void)state;
    nbd_option_build(option, &(struct nbd_option){.type = 7, .length = UINT32_MAX});
    nbd_option_reply_build(reply, &(struct nbd_option_reply){.option = 7, .type = 1});
    for (size_t n = 0; n < sizeof option; n++)
        assert_int_equal(nbd_option_parse(option, n, &o), 0);
    for (size_t n = 0; n < sizeof reply; n++)
        assert_int_equal(nbd_option_reply_parse(reply, n, &r), 0);
    for (size_t i = 0; i < 8; i++) {
        option[i] ^= 0x80;
        reply[i] ^= 0x80;
        assert_int_equal(nbd_option_parse(option, 7, &o), 0);
        assert_int_equal(nbd_option_parse(option, 8, &o), WEIR_E_PROTO);
        assert_int_equal(nbd_option_reply_parse(reply, 8, &r), WEIR_E_PROTO);
        option[i] ^= 0x80;
        reply[i] ^= 0x80;
    }
    assert_int_equal(nbd_option_parse(option, sizeof option, &o), NBD_OPTION_SIZE);
    assert_int_equal(o.length, UINT32_MAX);
}

static void every_option_of_the_document_has_its_number_name_and_replies(void **state)
{
    static const struct {
        uint32_t number;
        const char *name;
        uint32_t interim;
    } want[] = {
        {1, "EXPORT_NAME", NBD_REP_NOTHING},
        {2, "ABORT", NBD_REP_NOTHING},
        {3, "LIST", NBD_REP_SERVER},
        {5, "STARTTLS", NBD_REP_NOTHING},
        {6, "INFO", NBD_REP_INFO},
        {7, "GO", NBD_REP_INFO},
        {8, "STRUCTURED_REPLY", NBD_REP_NOTHING},
        {9, "LIST_META_CONTEXT", NBD_REP_META_CONTEXT},
        {10, "SET_META_CONTEXT", NBD_REP_META_CONTEXT},
        {11, "EXTENDED_HEADERS", NBD_REP_NOTHING},
    };
    static const uint32_t unknown[] = {0, 4, 12, 99, UINT32_MAX};

    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        assert_true(nbd_opt_known(want[i].number));
        assert_string_equal(nbd_opt_name(want[i].number), want[i].name);
        assert_int_equal(nbd_opt_interim_reply(want[i].number), want[i].interim);
    }
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        assert_false(nbd_opt_known(unknown[i]));
        assert_null(nbd_opt_name(unknown[i]));
        assert_int_equal(nbd_opt_interim_reply(unknown[i]), NBD_REP_NOTHING);
    }
}

static void every_reply_type_has_its_name_and_errors_have_bit_31(void **state)
{
    static const char *const errors[] = {"ERR_UNSUP",          "ERR_POLICY",          "ERR_INVALID",
                                         "ERR_PLATFORM",       "ERR_TLS_REQD",        "ERR_UNKNOWN",
                                         "ERR_SHUTDOWN",       "ERR_BLOCK_SIZE_REQD", "ERR_TOO_BIG",
                                         "ERR_EXT_HEADER_REQD"};
    static const char *const others[] = {"ACK", "SERVER", "INFO", "META_CONTEXT"};

    (void)state;
    for (uint32_t i = 0; i < 10; i++) {
        assert_string_equal(nbd_rep_name(0x80000001u + i), errors[i]);
        assert_true(nbd_rep_is_error(0x80000001u + i));
    }
    for (uint32_t i = 0; i < 4; i++) {
        assert_string_equal(nbd_rep_name(1 + i), others[i]);
        assert_false(nbd_rep_is_error(1 + i));
    }
    assert_null(nbd_rep_name(0));
    assert_null(nbd_rep_name(5));
    assert_null(nbd_rep_name(0x8000000bu));
    assert_true(nbd_rep_is_error(0xffffffffu));
}

static void strings_of_the_protocol_are_bounded_and_hold_no_nul(void **state)
{
    static uint8_t long_one[NBD_STRING_MAX + 1];

    (void)state;
    memset(long_one, 'x', sizeof long_one);
    assert_true(nbd_string_ok((struct nbd_bytes){0}));
    assert_true(nbd_string_ok((struct nbd_bytes){.data = long_one, .len = NBD_STRING_MAX}));
    assert_false(nbd_string_ok((struct nbd_bytes){.data = long_one, .len = NBD_STRING_MAX + 1}));
    long_one[NBD_STRING_MAX - 1] = '\0';
    assert_false(nbd_string_ok((struct nbd_bytes){.data = long_one, .len = NBD_STRING_MAX}));
}

static void info_and_go_carry_a_name_and_what_is_asked(void **state)
{
    static const uint16_t infos[] = {NBD_INFO_NAME, NBD_INFO_BLOCK_SIZE, 0xbeef};
    struct nbd_info_request r;
    struct nbd_bytes p;
    struct text t;

    (void)state;
    text_init(&t, 4096);
    nbd_option_write_info(&t, NBD_OPT_GO, str("disk"), infos, 3);
    p = option_payload(&t, NBD_OPT_GO);
    assert_int_equal(p.len, 16);
    assert_memory_equal(p.data, "\0\0\0\4disk\0\3\0\1\0\3\xbe\xef", 16);
    assert_int_equal(nbd_info_request_parse(p.data, p.len, &r), 0);
    assert_bytes(r.name, "disk");
    assert_int_equal(r.count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(nbd_info_request_at(&r, i), infos[i]);
    for (size_t n = 0; n < p.len; n++)
        assert_int_equal(nbd_info_request_parse(p.data, n, &r), WEIR_E_PROTO);
    text_append(&t, "x", 1);
    assert_int_equal(nbd_info_request_parse((const uint8_t *)t.data + 16, 17, &r), WEIR_E_PROTO);
    text_fini(&t);
}

static void an_empty_name_and_no_questions_are_lawful(void **state)
{
    struct nbd_info_request r;
    struct nbd_bytes p;
    struct text t;

    (void)state;
    text_init(&t, 4096);
    nbd_option_write_info(&t, NBD_OPT_INFO, str(""), NULL, 0);
    p = option_payload(&t, NBD_OPT_INFO);
    assert_int_equal(nbd_info_request_parse(p.data, p.len, &r), 0);
    assert_int_equal(r.name.len, 0);
    assert_int_equal(r.count, 0);
    text_fini(&t);
}

static void meta_context_options_carry_queries(void **state)
{
    struct nbd_bytes queries[] = {str("base:allocation"), str(""), str("qemu:")};
    struct nbd_meta_request r;
    struct nbd_bytes p, q;
    struct text t;

    (void)state;
    text_init(&t, 4096);
    nbd_option_write_meta(&t, NBD_OPT_SET_META_CONTEXT, str("disk"), queries, 3);
    p = option_payload(&t, NBD_OPT_SET_META_CONTEXT);
    assert_int_equal(nbd_meta_request_parse(p.data, p.len, &r), 0);
    assert_bytes(r.name, "disk");
    assert_int_equal(r.count, 3);
    assert_true(nbd_meta_request_next(&r.queries, &q));
    assert_bytes(q, "base:allocation");
    assert_true(nbd_meta_request_next(&r.queries, &q));
    assert_bytes(q, "");
    assert_true(nbd_meta_request_next(&r.queries, &q));
    assert_bytes(q, "qemu:");
    assert_false(nbd_meta_request_next(&r.queries, &q));
    for (size_t n = 0; n < p.len; n++)
        assert_int_equal(nbd_meta_request_parse(p.data, n, &r), WEIR_E_PROTO);
    text_append(&t, "x", 1);
    assert_int_equal(nbd_meta_request_parse((const uint8_t *)t.data + 16, p.len + 1, &r),
                     WEIR_E_PROTO);
    text_fini(&t);
}

static void hostile_lengths_inside_a_payload_are_refused(void **state)
{
    static const uint8_t huge_name[] = {0xff, 0xff, 0xff, 0xff, 'a', 0, 0};
    static const uint8_t name_to_the_end[] = {0, 0, 0, 3, 'a', 0, 0};
    static const uint8_t name_past_the_end[] = {0, 0, 0, 4, 'a', 0, 0};
    static const uint8_t many_infos[] = {0, 0, 0, 1, 'a', 0xff, 0xff};
    static const uint8_t many_queries[] = {0, 0, 0, 1, 'a', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0};
    static const uint8_t huge_query[] = {0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 'x'};
    struct nbd_bytes name, rest;
    struct nbd_info_request i;
    struct nbd_meta_request m;
    struct nbd_rep_server s;

    (void)state;
    assert_int_equal(nbd_info_request_parse(huge_name, sizeof huge_name, &i), WEIR_E_PROTO);
    assert_int_equal(nbd_meta_request_parse(huge_name, sizeof huge_name, &m), WEIR_E_PROTO);
    assert_int_equal(nbd_rep_server_parse(huge_name, sizeof huge_name, &s), WEIR_E_PROTO);
    assert_int_equal(nbd_name_prefix_parse(huge_name, sizeof huge_name, &name, &rest),
                     WEIR_E_PROTO);
    assert_int_equal(nbd_name_prefix_parse(name_past_the_end, 7, &name, &rest), WEIR_E_PROTO);
    assert_int_equal(nbd_name_prefix_parse(name_to_the_end, 7, &name, &rest), 0);
    assert_int_equal(rest.len, 0);
    assert_int_equal(nbd_info_request_parse(name_to_the_end, 7, &i), WEIR_E_PROTO);
    assert_int_equal(nbd_info_request_parse(many_infos, sizeof many_infos, &i), WEIR_E_PROTO);
    assert_int_equal(nbd_meta_request_parse(many_queries, sizeof many_queries, &m), WEIR_E_PROTO);
    assert_int_equal(nbd_meta_request_parse(huge_query, sizeof huge_query, &m), WEIR_E_PROTO);
    assert_int_equal(nbd_info_request_parse(NULL, 0, &i), WEIR_E_PROTO);
    assert_int_equal(nbd_meta_request_parse(NULL, 0, &m), WEIR_E_PROTO);
    assert_int_equal(nbd_rep_server_parse(NULL, 0, &s), WEIR_E_PROTO);
}

static void a_server_reply_carries_name_and_description(void **state)
{
    struct nbd_rep_server s;
    struct nbd_bytes p;
    struct text t;

    (void)state;
    text_init(&t, 4096);
    nbd_reply_write_server(&t, NBD_OPT_LIST, str("disk"), str("the first"));
    p = reply_payload(&t, NBD_OPT_LIST, NBD_REP_SERVER);
    assert_int_equal(nbd_rep_server_parse(p.data, p.len, &s), 0);
    assert_bytes(s.name, "disk");
    assert_bytes(s.description, "the first");
    for (size_t n = 0; n < 8; n++)
        assert_int_equal(nbd_rep_server_parse(p.data, n, &s), WEIR_E_PROTO);
    assert_int_equal(nbd_rep_server_parse(p.data, 8, &s), 0);
    assert_int_equal(s.description.len, 0);
    text_fini(&t);
}

static void every_kind_of_information_comes_back(void **state)
{
    struct nbd_rep_info in[] = {
        {.type = NBD_INFO_EXPORT, .size = 1ull << 40, .flags = 0x5ed},
        {.type = NBD_INFO_NAME, .text = str("disk")},
        {.type = NBD_INFO_DESCRIPTION, .text = str("")},
        {.type = NBD_INFO_BLOCK_SIZE,
         .block_min = 1,
         .block_preferred = 4096,
         .block_max = 0xffffffff},
        {.type = 77, .text = str("something new")},
    };
    struct nbd_rep_info out;
    struct nbd_bytes p;
    struct text t;

    (void)state;
    text_init(&t, 4096);
    for (size_t i = 0; i < sizeof in / sizeof in[0]; i++) {
        text_clear(&t);
        nbd_reply_write_info(&t, NBD_OPT_GO, &in[i]);
        p = reply_payload(&t, NBD_OPT_GO, NBD_REP_INFO);
        assert_int_equal(nbd_rep_info_parse(p.data, p.len, &out), 0);
        assert_int_equal(out.type, in[i].type);
        assert_int_equal(out.size, in[i].size);
        assert_int_equal(out.flags, in[i].flags);
        assert_int_equal(out.block_min, in[i].block_min);
        assert_int_equal(out.block_preferred, in[i].block_preferred);
        assert_int_equal(out.block_max, in[i].block_max);
        if (in[i].type != NBD_INFO_EXPORT && in[i].type != NBD_INFO_BLOCK_SIZE) {
            assert_int_equal(out.text.len, in[i].text.len);
            assert_memory_equal(out.text.data, in[i].text.data, out.text.len);
        }
    }
    text_fini(&t);
}

static void information_of_a_fixed_length_keeps_to_it(void **state)
{
    uint8_t bytes[32] = {0};
    struct nbd_rep_info info;

    (void)state;
    for (size_t n = 0; n < sizeof bytes; n++) {
        bytes[1] = NBD_INFO_EXPORT;
        assert_int_equal(nbd_rep_info_parse(bytes, n, &info), n == 12 ? 0 : WEIR_E_PROTO);
        bytes[1] = NBD_INFO_BLOCK_SIZE;
        assert_int_equal(nbd_rep_info_parse(bytes, n, &info), n == 14 ? 0 : WEIR_E_PROTO);
        bytes[1] = NBD_INFO_NAME;
        assert_int_equal(nbd_rep_info_parse(bytes, n, &info), n >= 2 ? 0 : WEIR_E_PROTO);
    }
}

static void a_metadata_context_carries_number_and_name(void **state)
{
    struct nbd_rep_meta in = {.id = 0xcafe, .name = str("base:allocation")}, out;
    struct nbd_bytes p;
    struct text t;

    (void)state;
    text_init(&t, 4096);
    nbd_reply_write_meta(&t, NBD_OPT_LIST_META_CONTEXT, &in);
    p = reply_payload(&t, NBD_OPT_LIST_META_CONTEXT, NBD_REP_META_CONTEXT);
    assert_int_equal(nbd_rep_meta_parse(p.data, p.len, &out), 0);
    assert_int_equal(out.id, in.id);
    assert_bytes(out.name, "base:allocation");
    for (size_t n = 0; n < 4; n++)
        assert_int_equal(nbd_rep_meta_parse(p.data, n, &out), WEIR_E_PROTO);
    assert_int_equal(nbd_rep_meta_parse(p.data, 4, &out), 0);
    text_fini(&t);
}

static void renaming_keeps_what_follows_the_name(void **state)
{
    struct nbd_bytes p, name, rest;
    struct text t;

    (void)state;
    text_init(&t, 4096);
    nbd_option_write_named(&t, NBD_OPT_SET_META_CONTEXT, str("longer name"), str("\1\2garbage"));
    p = option_payload(&t, NBD_OPT_SET_META_CONTEXT);
    assert_int_equal(nbd_name_prefix_parse(p.data, p.len, &name, &rest), 0);
    assert_bytes(name, "longer name");
    assert_bytes(rest, "\1\2garbage");
    text_clear(&t);
    nbd_option_write_named(&t, NBD_OPT_EXPORT_NAME, str("bare"), (struct nbd_bytes){0});
    assert_bytes(option_payload(&t, NBD_OPT_EXPORT_NAME), "bare");
    text_fini(&t);
}

static void options_without_payload_and_every_final_reply_are_bare(void **state)
{
    static const uint32_t options[] = {NBD_OPT_ABORT, NBD_OPT_LIST, NBD_OPT_STARTTLS,
                                       NBD_OPT_STRUCTURED_REPLY, NBD_OPT_EXTENDED_HEADERS};
    struct text t;

    (void)state;
    text_init(&t, 4096);
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        text_clear(&t);
        nbd_option_write(&t, options[i], NULL, 0);
        assert_int_equal(option_payload(&t, options[i]).len, 0);
        text_clear(&t);
        nbd_reply_write_final(&t, options[i], NBD_REP_ACK, "");
        assert_int_equal(reply_payload(&t, options[i], NBD_REP_ACK).len, 0);
        for (uint32_t e = NBD_REP_ERR_UNSUP; e <= NBD_REP_ERR_EXT_HEADER_REQD; e++) {
            text_clear(&t);
            nbd_reply_write_final(&t, options[i], e, "words");
            assert_bytes(reply_payload(&t, options[i], e), "words");
        }
    }
    text_fini(&t);
}

static struct nbd_bytes random_string(struct rng *rng, uint8_t *room, size_t max)
{
    struct nbd_bytes b = {.data = room, .len = (size_t)rng_below(rng, max + 1)};

    for (size_t i = 0; i < b.len; i++)
        room[i] = (uint8_t)rng_u64(rng);
    return b;
}

static void random_requests_come_back_as_they_went(void **state)
{
    uint64_t seed = 20260103;
    struct rng rng;
    struct text t;

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    rng_seed(&rng, seed);
    text_init(&t, 1 << 16);
    for (int round = 0; round < 3000; round++) {
        uint8_t name_room[64], query_room[8][32];
        struct nbd_bytes name = random_string(&rng, name_room, sizeof name_room), p, q, queries[8];
        size_t count = (size_t)rng_below(&rng, 9);
        uint16_t infos[8];
        struct nbd_info_request i;
        struct nbd_meta_request m;

        for (size_t k = 0; k < count; k++) {
            queries[k] = random_string(&rng, query_room[k], sizeof query_room[k]);
            infos[k] = (uint16_t)rng_u64(&rng);
        }
        text_clear(&t);
        nbd_option_write_info(&t, NBD_OPT_INFO, name, infos, count);
        p = option_payload(&t, NBD_OPT_INFO);
        assert_int_equal(nbd_info_request_parse(p.data, p.len, &i), 0);
        assert_int_equal(i.count, count);
        assert_int_equal(i.name.len, name.len);
        for (size_t k = 0; k < count; k++)
            assert_int_equal(nbd_info_request_at(&i, k), infos[k]);
        text_clear(&t);
        nbd_option_write_meta(&t, NBD_OPT_LIST_META_CONTEXT, name, queries, count);
        p = option_payload(&t, NBD_OPT_LIST_META_CONTEXT);
        assert_int_equal(nbd_meta_request_parse(p.data, p.len, &m), 0);
        assert_int_equal(m.count, count);
        for (size_t k = 0; k < count; k++) {
            assert_true(nbd_meta_request_next(&m.queries, &q));
            assert_int_equal(q.len, queries[k].len);
            assert_memory_equal(q.data, queries[k].data, q.len);
        }
    }
    text_fini(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_option_header_is_laid_out_as_the_document_says),
        cmocka_unit_test(an_option_reply_header_is_laid_out_as_the_document_says),
        cmocka_unit_test(every_shorter_header_asks_for_more_and_a_bad_magic_is_refused),
        cmocka_unit_test(every_option_of_the_document_has_its_number_name_and_replies),
        cmocka_unit_test(every_reply_type_has_its_name_and_errors_have_bit_31),
        cmocka_unit_test(strings_of_the_protocol_are_bounded_and_hold_no_nul),
        cmocka_unit_test(info_and_go_carry_a_name_and_what_is_asked),
        cmocka_unit_test(an_empty_name_and_no_questions_are_lawful),
        cmocka_unit_test(meta_context_options_carry_queries),
        cmocka_unit_test(hostile_lengths_inside_a_payload_are_refused),
        cmocka_unit_test(a_server_reply_carries_name_and_description),
        cmocka_unit_test(every_kind_of_information_comes_back),
        cmocka_unit_test(information_of_a_fixed_length_keeps_to_it),
        cmocka_unit_test(a_metadata_context_carries_number_and_name),
        cmocka_unit_test(renaming_keeps_what_follows_the_name),
        cmocka_unit_test(options_without_payload_and_every_final_reply_are_bare),
        cmocka_unit_test(random_requests_come_back_as_they_went),
    };
    return cmocka_run_group_tests_name("nbd option", tests, NULL, NULL);
}

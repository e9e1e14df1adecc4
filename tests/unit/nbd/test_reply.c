/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: reply headers of all three forms are told apart by mode, and no chunk gets past with a
 * length that its type cannot have. Method: bytes by hand, every cut, the lawful lengths of
 * "Structured reply types" tried at and next to their edges, random round trips. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/rng.h"
#include "proto/nbd/reply.h"

static const uint8_t SIMPLE[NBD_SIMPLE_REPLY_SIZE] = {
    0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
};
static const uint8_t STRUCTURED[NBD_STRUCTURED_REPLY_SIZE] = {
    0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 1, 0, 8,
};
static const uint8_t EXTENDED[NBD_EXTENDED_REPLY_SIZE] = {
    0x6e, 0x8a, 0x27, 0x8c, 0, 0, 0, 6, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
    1,    2,    3,    4,    5, 6, 7, 8, 0,    0,    0,    0,    0,    0,    0,    40,
};

static void a_simple_reply_is_the_last_word(void **state)
{
    struct nbd_reply r;

    (void)state;
    assert_int_equal(nbd_reply_parse(SIMPLE, sizeof SIMPLE, NBD_MODE_SIMPLE, &r), 16);
    assert_int_equal(r.form, NBD_FORM_SIMPLE);
    assert_int_equal(r.error, 28);
    assert_int_equal(r.cookie, 0x1122334455667788u);
    assert_int_equal(r.length, 0);
    assert_true(r.done);
    assert_true(r.is_error);
}

static void a_structured_chunk_says_its_length_and_whether_more_follows(void **state)
{
    struct nbd_reply r;

    (void)state;
    assert_int_equal(nbd_reply_parse(STRUCTURED, sizeof STRUCTURED, NBD_MODE_STRUCTURED, &r), 20);
    assert_int_equal(r.form, NBD_FORM_STRUCTURED);
    assert_int_equal(r.type, NBD_REPLY_TYPE_OFFSET_DATA);
    assert_int_equal(r.cookie, 0x1122334455667788u);
    assert_int_equal(r.length, 65544);
    assert_true(r.done);
    assert_false(r.is_error);
}

static void an_extended_chunk_echoes_the_offset(void **state)
{
    struct nbd_reply r;

    (void)state;
    assert_int_equal(nbd_reply_parse(EXTENDED, sizeof EXTENDED, NBD_MODE_EXTENDED, &r), 32);
    assert_int_equal(r.form, NBD_FORM_EXTENDED);
    assert_int_equal(r.type, NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
    assert_int_equal(r.offset, 0x0102030405060708u);
    assert_int_equal(r.length, 40);
    assert_false(r.done);
}

static void every_mode_has_its_forms_and_no_other(void **state)
{
    static const struct {
        const uint8_t *bytes;
        int size[3]; /* by mode; 0: forbidden */
    } cases[] = {
        {SIMPLE, {16, 16, 0}},
        {STRUCTURED, {0, 20, 0}},
        {EXTENDED, {0, 0, 32}},
    };
    struct nbd_reply r;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        for (int mode = 0; mode < 3; mode++) {
            int want = cases[i].size[mode];

            assert_int_equal(nbd_reply_parse(cases[i].bytes, 4, (enum nbd_reply_mode)mode, &r),
                             want == 0 ? WEIR_E_PROTO : 0);
            if (want != 0)
                assert_int_equal(
                    nbd_reply_parse(cases[i].bytes, (size_t)want, (enum nbd_reply_mode)mode, &r),
                    want);
        }
    }
}

static void every_shorter_header_asks_for_more_and_writes_nothing(void **state)
{
    struct nbd_reply untouched, r;

    (void)state;
    memset(&untouched, 0xa5, sizeof untouched);
    r = untouched;
    for (size_t n = 0; n < sizeof SIMPLE; n++)
        assert_int_equal(nbd_reply_parse(SIMPLE, n, NBD_MODE_STRUCTURED, &r), 0);
    for (size_t n = 0; n < sizeof STRUCTURED; n++)
        assert_int_equal(nbd_reply_parse(STRUCTURED, n, NBD_MODE_STRUCTURED, &r), 0);
    for (size_t n = 0; n < sizeof EXTENDED; n++)
        assert_int_equal(nbd_reply_parse(EXTENDED, n, NBD_MODE_EXTENDED, &r), 0);
    assert_memory_equal(&r, &untouched, sizeof r);
}

static int parse_chunk(enum nbd_reply_form form, uint16_t type, uint64_t length)
{
    struct nbd_reply in = {.form = form, .type = type, .length = length}, out;
    uint8_t bytes[NBD_REPLY_MAX_SIZE];
    size_t size = nbd_reply_build(bytes, &in);

    return nbd_reply_parse(
        bytes, size, form == NBD_FORM_EXTENDED ? NBD_MODE_EXTENDED : NBD_MODE_STRUCTURED, &out);
}

static void every_chunk_type_keeps_to_its_lawful_lengths(void **state)
{
    static const struct {
        uint16_t type;
        uint64_t length;
        bool lawful;
    } cases[] = {
        {NBD_REPLY_TYPE_NONE, 0, true},
        {NBD_REPLY_TYPE_NONE, 1, false},
        {NBD_REPLY_TYPE_OFFSET_DATA, 0, false},
        {NBD_REPLY_TYPE_OFFSET_DATA, 8, false},
        {NBD_REPLY_TYPE_OFFSET_DATA, 9, true},
        {NBD_REPLY_TYPE_OFFSET_DATA, UINT32_MAX, true},
        {NBD_REPLY_TYPE_OFFSET_HOLE, 0, false},
        {NBD_REPLY_TYPE_OFFSET_HOLE, 11, false},
        {NBD_REPLY_TYPE_OFFSET_HOLE, 12, true},
        {NBD_REPLY_TYPE_OFFSET_HOLE, 13, false},
        {3, 0, true},
        {4, 12345, true},
        {NBD_REPLY_TYPE_BLOCK_STATUS, 0, false},
        {NBD_REPLY_TYPE_BLOCK_STATUS, 4, false},
        {NBD_REPLY_TYPE_BLOCK_STATUS, 8, false},
        {NBD_REPLY_TYPE_BLOCK_STATUS, 11, false},
        {NBD_REPLY_TYPE_BLOCK_STATUS, 12, true},
        {NBD_REPLY_TYPE_BLOCK_STATUS, 16, false},
        {NBD_REPLY_TYPE_BLOCK_STATUS, 20, true},
        {NBD_REPLY_TYPE_BLOCK_STATUS, 4 + 8 * (1u << 20), true},
        {NBD_REPLY_TYPE_BLOCK_STATUS_EXT, 8, false},
        {NBD_REPLY_TYPE_BLOCK_STATUS_EXT, 24, true},
        {NBD_REPLY_TYPE_BLOCK_STATUS_EXT, 32, false},
        {NBD_REPLY_TYPE_BLOCK_STATUS_EXT, 40, true},
        {7, 0, true},
        {0x7fff, UINT32_MAX, true},
        {0x8000, 5, false},
        {0x8000, 6, true},
        {NBD_REPLY_TYPE_ERROR, 0, false},
        {NBD_REPLY_TYPE_ERROR, 5, false},
        {NBD_REPLY_TYPE_ERROR, 6, true},
        {NBD_REPLY_TYPE_ERROR, 6 + 65535, true},
        {NBD_REPLY_TYPE_ERROR, 6 + 65536, false},
        {NBD_REPLY_TYPE_ERROR_OFFSET, 13, false},
        {NBD_REPLY_TYPE_ERROR_OFFSET, 14, true},
        {NBD_REPLY_TYPE_ERROR_OFFSET, 14 + 65535, true},
        {NBD_REPLY_TYPE_ERROR_OFFSET, 14 + 65536, false},
        {0x8003, 5, false},
        {0xffff, 6, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int structured = parse_chunk(NBD_FORM_STRUCTURED, cases[i].type, cases[i].length);
        int extended = parse_chunk(NBD_FORM_EXTENDED, cases[i].type, cases[i].length);

        if (structured != (cases[i].lawful ? 20 : WEIR_E_PROTO))
            fail_msg("type %#x length %llu: %d", cases[i].type, (unsigned long long)cases[i].length,
                     structured);
        assert_int_equal(extended, cases[i].lawful ? 32 : WEIR_E_PROTO);
    }
}

static void an_extended_payload_beyond_32_bits_is_refused(void **state)
{
    static const uint16_t types[] = {NBD_REPLY_TYPE_OFFSET_DATA, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, 9,
                                     NBD_REPLY_TYPE_ERROR, 0x8009};

    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        assert_int_equal(parse_chunk(NBD_FORM_EXTENDED, types[i], (1ull << 32) + 8), WEIR_E_PROTO);
        assert_int_equal(parse_chunk(NBD_FORM_EXTENDED, types[i], UINT64_MAX), WEIR_E_PROTO);
    }
}

static void bit_15_makes_an_error_chunk(void **state)
{
    struct nbd_reply in = {.form = NBD_FORM_STRUCTURED, .length = 32}, out;
    uint8_t bytes[NBD_REPLY_MAX_SIZE];

    (void)state;
    for (uint32_t type = 8; type <= 0xffff; type++) {
        in.type = (uint16_t)type;
        nbd_reply_build(bytes, &in);
        assert_int_equal(nbd_reply_parse(bytes, sizeof bytes, NBD_MODE_STRUCTURED, &out), 20);
        assert_int_equal(out.is_error, type >= 0x8000);
    }
}

static void the_error_number_is_the_first_word_of_an_error_chunk(void **state)
{
    static const uint8_t payload[] = {0x00, 0x00, 0x00, 0x4b, 0x00, 0x00};

    (void)state;
    assert_int_equal(nbd_reply_chunk_error(payload), 75);
}

static void a_new_cookie_changes_the_cookie_alone(void **state)
{
    static const struct {
        const uint8_t *bytes;
        size_t size;
    } cases[] = {
        {SIMPLE, sizeof SIMPLE}, {STRUCTURED, sizeof STRUCTURED}, {EXTENDED, sizeof EXTENDED}};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        uint8_t header[NBD_REPLY_MAX_SIZE];

        memcpy(header, cases[i].bytes, cases[i].size);
        nbd_reply_set_cookie(header, 7);
        assert_memory_not_equal(header, cases[i].bytes, cases[i].size);
        nbd_reply_set_cookie(header, 0x1122334455667788u);
        assert_memory_equal(header, cases[i].bytes, cases[i].size);
    }
}

static void what_is_built_is_read_back(void **state)
{
    uint64_t seed = 20260102;
    struct rng rng;

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    rng_seed(&rng, seed);
    for (int i = 0; i < 20000; i++) {
        enum nbd_reply_form form = (enum nbd_reply_form)rng_below(&rng, 3);
        struct nbd_reply in = {.form = form, .cookie = rng_u64(&rng)}, out;
        uint8_t bytes[NBD_REPLY_MAX_SIZE];
        size_t size;

        if (form == NBD_FORM_SIMPLE) {
            in.error = (uint32_t)rng_below(&rng, 3);
        } else {
            in.flags = (uint16_t)rng_below(&rng, 4);
            in.type = (uint16_t)(0x8003 + rng_below(&rng, 9));
            in.length = 6 + rng_below(&rng, 1u << 30);
            in.offset = form == NBD_FORM_EXTENDED ? rng_u64(&rng) : 0;
        }
        size = nbd_reply_build(bytes, &in);
        assert_int_equal(
            nbd_reply_parse(bytes, size,
                            form == NBD_FORM_EXTENDED ? NBD_MODE_EXTENDED : NBD_MODE_STRUCTURED,
                            &out),
            (int)size);
        assert_int_equal(out.form, in.form);
        assert_int_equal(out.flags, in.flags);
        assert_int_equal(out.type, in.type);
        assert_int_equal(out.error, in.error);
        assert_int_equal(out.cookie, in.cookie);
        assert_int_equal(out.offset, in.offset);
        assert_int_equal(out.length, in.length);
        assert_int_equal(out.done,
                         form == NBD_FORM_SIMPLE || (in.flags & NBD_REPLY_FLAG_DONE) != 0);
        assert_int_equal(out.is_error, form != NBD_FORM_SIMPLE || in.error != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_simple_reply_is_the_last_word),
        cmocka_unit_test(a_structured_chunk_says_its_length_and_whether_more_follows),
        cmocka_unit_test(an_extended_chunk_echoes_the_offset),
        cmocka_unit_test(every_mode_has_its_forms_and_no_other),
        cmocka_unit_test(every_shorter_header_asks_for_more_and_writes_nothing),
        cmocka_unit_test(every_chunk_type_keeps_to_its_lawful_lengths),
        cmocka_unit_test(an_extended_payload_beyond_32_bits_is_refused),
        cmocka_unit_test(bit_15_makes_an_error_chunk),
        cmocka_unit_test(the_error_number_is_the_first_word_of_an_error_chunk),
        cmocka_unit_test(a_new_cookie_changes_the_cookie_alone),
        cmocka_unit_test(what_is_built_is_read_back),
    };
    return cmocka_run_group_tests_name("nbd reply", tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a request header means the same after any way through the codec, and nothing but a wrong
 * magic or missing bytes stops it. Method: bytes written by hand from the document's layout, every
 * cut of them, and random round trips. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/rng.h"
#include "proto/nbd/request.h"

static const uint8_t COMPACT[NBD_REQUEST_SIZE] = {
    0x25, 0x60, 0x95, 0x13, 0x00, 0x21, 0x00, 0x01, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66,
    0x77, 0x88, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0xfe, 0xdc, 0xba, 0x98,
};
static const uint8_t EXTENDED[NBD_REQUEST_EXT_SIZE] = {
    0x21, 0xe4, 0x1c, 0x71, 0x00, 0x21, 0x00, 0x06, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x00, 0x00, 0x00, 0x05, 0xfe, 0xdc, 0xba, 0x98,
};

static void a_compact_header_is_read_field_by_field(void **state)
{
    struct nbd_request r;

    (void)state;
    assert_int_equal(nbd_request_parse(COMPACT, sizeof COMPACT, false, &r), 28);
    assert_int_equal(r.flags, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_PAYLOAD_LEN);
    assert_int_equal(r.type, NBD_CMD_WRITE);
    assert_int_equal(r.cookie, 0x1122334455667788u);
    assert_int_equal(r.offset, 0x0102030405060708u);
    assert_int_equal(r.length, 0xfedcba98u);
}

static void an_extended_header_has_a_length_of_64_bits(void **state)
{
    struct nbd_request r;

    (void)state;
    assert_int_equal(nbd_request_parse(EXTENDED, sizeof EXTENDED, true, &r), 32);
    assert_int_equal(r.type, NBD_CMD_WRITE_ZEROES);
    assert_int_equal(r.cookie, 0x1122334455667788u);
    assert_int_equal(r.length, 0x5fedcba98u);
}

static void every_shorter_header_asks_for_more_and_writes_nothing(void **state)
{
    struct nbd_request untouched, r;

    (void)state;
    memset(&untouched, 0xa5, sizeof untouched);
    for (size_t n = 0; n < sizeof COMPACT; n++) {
        r = untouched;
        assert_int_equal(nbd_request_parse(COMPACT, n, false, &r), 0);
        assert_memory_equal(&r, &untouched, sizeof r);
    }
    for (size_t n = 0; n < sizeof EXTENDED; n++) {
        r = untouched;
        assert_int_equal(nbd_request_parse(EXTENDED, n, true, &r), 0);
        assert_memory_equal(&r, &untouched, sizeof r);
    }
}

static void a_wrong_magic_is_told_after_four_bytes(void **state)
{
    struct nbd_request r;

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        uint8_t bad[NBD_REQUEST_SIZE];

        memcpy(bad, COMPACT, sizeof bad);
        bad[i] ^= 0x01;
        assert_int_equal(nbd_request_parse(bad, 3, false, &r), 0);
        assert_int_equal(nbd_request_parse(bad, 4, false, &r), WEIR_E_PROTO);
        assert_int_equal(nbd_request_parse(bad, sizeof bad, false, &r), WEIR_E_PROTO);
    }
}

static void the_form_that_was_not_negotiated_is_refused(void **state)
{
    struct nbd_request r;

    (void)state;
    assert_int_equal(nbd_request_parse(COMPACT, sizeof COMPACT, true, &r), WEIR_E_PROTO);
    assert_int_equal(nbd_request_parse(EXTENDED, sizeof EXTENDED, false, &r), WEIR_E_PROTO);
}

static void only_a_write_carries_data_in_the_compact_form(void **state)
{
    (void)state;
    for (uint16_t type = 0; type < 32; type++) {
        struct nbd_request r = {.type = type, .flags = 0xffff, .length = 4096};

        assert_int_equal(nbd_request_payload(&r, false), type == NBD_CMD_WRITE ? 4096 : 0);
        assert_int_equal(nbd_request_payload(&r, true), 4096);
        r.flags = (uint16_t)~NBD_CMD_FLAG_PAYLOAD_LEN;
        assert_int_equal(nbd_request_payload(&r, true), type == NBD_CMD_WRITE ? 4096 : 0);
    }
}

static void an_empty_write_carries_nothing(void **state)
{
    struct nbd_request r = {.type = NBD_CMD_WRITE, .flags = NBD_CMD_FLAG_PAYLOAD_LEN};

    (void)state;
    assert_int_equal(nbd_request_payload(&r, false), 0);
    assert_int_equal(nbd_request_payload(&r, true), 0);
}

static void a_new_cookie_changes_the_cookie_alone(void **state)
{
    struct nbd_request before, after;
    uint8_t header[NBD_REQUEST_EXT_SIZE];

    (void)state;
    for (int extended = 0; extended < 2; extended++) {
        size_t size = extended ? sizeof EXTENDED : sizeof COMPACT;

        memcpy(header, extended ? EXTENDED : COMPACT, size);
        assert_true(nbd_request_parse(header, size, extended != 0, &before) > 0);
        nbd_request_set_cookie(header, 0xdeadbeef00c0ffee);
        assert_true(nbd_request_parse(header, size, extended != 0, &after) > 0);
        assert_int_equal(after.cookie, 0xdeadbeef00c0ffee);
        nbd_request_set_cookie(header, before.cookie);
        assert_memory_equal(header, extended ? EXTENDED : COMPACT, size);
    }
}

static void what_is_built_is_read_back(void **state)
{
    uint64_t seed = 20260101;
    struct rng rng;

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    rng_seed(&rng, seed);
    for (int i = 0; i < 20000; i++) {
        bool extended = rng_below(&rng, 2) == 1;
        struct nbd_request in, out;
        uint8_t bytes[NBD_REQUEST_EXT_SIZE];
        size_t size;

        memset(&in, 0, sizeof in);
        memset(&out, 0, sizeof out);
        in.flags = (uint16_t)rng_u64(&rng);
        in.type = (uint16_t)rng_below(&rng, 12);
        in.cookie = rng_u64(&rng);
        in.offset = rng_u64(&rng);
        in.length = extended ? rng_u64(&rng) : (uint32_t)rng_u64(&rng);
        size = nbd_request_build(bytes, &in, extended);
        assert_int_equal(size, extended ? NBD_REQUEST_EXT_SIZE : NBD_REQUEST_SIZE);
        assert_int_equal(nbd_request_parse(bytes, size, extended, &out), (int)size);
        assert_int_equal(in.flags, out.flags);
        assert_int_equal(in.type, out.type);
        assert_int_equal(in.cookie, out.cookie);
        assert_int_equal(in.offset, out.offset);
        assert_int_equal(in.length, out.length);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_compact_header_is_read_field_by_field),
        cmocka_unit_test(an_extended_header_has_a_length_of_64_bits),
        cmocka_unit_test(every_shorter_header_asks_for_more_and_writes_nothing),
        cmocka_unit_test(a_wrong_magic_is_told_after_four_bytes),
        cmocka_unit_test(the_form_that_was_not_negotiated_is_refused),
        cmocka_unit_test(only_a_write_carries_data_in_the_compact_form),
        cmocka_unit_test(an_empty_write_carries_nothing),
        cmocka_unit_test(a_new_cookie_changes_the_cookie_alone),
        cmocka_unit_test(what_is_built_is_read_back),
    };
    return cmocka_run_group_tests_name("nbd request", tests, NULL, NULL);
}

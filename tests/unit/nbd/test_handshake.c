/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: greeting, client flags and EXPORT_NAME's reply are read as the document draws them; an
 * old-style server is told from a stranger.
 * Method: bytes by hand, every cut of them, every flag. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "proto/nbd/handshake.h"

static const uint8_t OLDSTYLE[16] = {
    'N', 'B', 'D', 'M', 'A', 'G', 'I', 'C', 0x00, 0x00, 0x42, 0x02, 0x81, 0x86, 0x12, 0x53,
};

static void a_greeting_is_read_as_it_was_built(void **state)
{
    uint8_t bytes[NBD_GREETING_SIZE];
    uint16_t flags = 0;

    (void)state;
    assert_int_equal(nbd_greeting_build(bytes, 0x8003), 18);
    assert_memory_equal(bytes, "NBDMAGICIHAVEOPT\x80\x03", 18);
    for (size_t n = 0; n < sizeof bytes; n++)
        assert_int_equal(nbd_greeting_parse(bytes, n, &flags), 0);
    assert_int_equal(flags, 0);
    assert_int_equal(nbd_greeting_parse(bytes, sizeof bytes, &flags), 18);
    assert_int_equal(flags, 0x8003);
}

static void an_old_style_server_is_called_by_its_name(void **state)
{
    uint16_t flags;

    (void)state;
    assert_int_equal(nbd_greeting_parse(OLDSTYLE, 15, &flags), 0);
    assert_int_equal(nbd_greeting_parse(OLDSTYLE, 16, &flags), WEIR_E_VERSION);
}

static void a_stranger_is_refused_at_the_first_wrong_magic(void **state)
{
    static const char ssh[] = "SSH-2.0-OpenSSH_9.2p1 Debian";
    uint8_t bytes[NBD_GREETING_SIZE];
    uint16_t flags;

    (void)state;
    assert_int_equal(nbd_greeting_parse((const uint8_t *)ssh, 7, &flags), 0);
    assert_int_equal(nbd_greeting_parse((const uint8_t *)ssh, 8, &flags), WEIR_E_PROTO);
    nbd_greeting_build(bytes, 3);
    bytes[15] ^= 1;
    assert_int_equal(nbd_greeting_parse(bytes, 15, &flags), 0);
    assert_int_equal(nbd_greeting_parse(bytes, 16, &flags), WEIR_E_PROTO);
}

static void client_flags_pass_only_if_offered(void **state)
{
    uint8_t bytes[NBD_CLIENT_FLAGS_SIZE];
    uint32_t flags = 0;

    (void)state;
    nbd_client_flags_build(bytes, 3);
    assert_int_equal(nbd_client_flags_parse(bytes, 3, 3, &flags), 0);
    assert_int_equal(nbd_client_flags_parse(bytes, 4, 3, &flags), 4);
    assert_int_equal(flags, 3);
    assert_int_equal(nbd_client_flags_parse(bytes, 4, 1, &flags), WEIR_E_PROTO);
    assert_int_equal(nbd_client_flags_parse(bytes, 4, 0, &flags), WEIR_E_PROTO);
    nbd_client_flags_build(bytes, NBD_FLAG_FIXED_NEWSTYLE);
    assert_int_equal(nbd_client_flags_parse(bytes, 4, 0, &flags), 4);
    for (unsigned bit = 2; bit < 32; bit++) {
        nbd_client_flags_build(bytes, 1u << bit);
        assert_int_equal(nbd_client_flags_parse(bytes, 4, 0xffff, &flags), WEIR_E_PROTO);
    }
}

static void the_reply_to_export_name_comes_with_and_without_zeroes(void **state)
{
    struct nbd_export_reply in = {.size = 0x0102030405060708, .flags = 0x05ed}, out;
    uint8_t bytes[NBD_EXPORT_REPLY_ZEROES_SIZE];

    (void)state;
    for (int no_zeroes = 0; no_zeroes < 2; no_zeroes++) {
        size_t size = no_zeroes ? 10 : 134;

        memset(bytes, 0xff, sizeof bytes);
        memset(&out, 0, sizeof out);
        assert_int_equal(nbd_export_reply_build(bytes, &in, no_zeroes != 0), size);
        for (size_t n = 0; n < size; n++)
            assert_int_equal(nbd_export_reply_parse(bytes, n, no_zeroes != 0, &out), 0);
        assert_int_equal(out.size, 0);
        assert_int_equal(nbd_export_reply_parse(bytes, size, no_zeroes != 0, &out), (int)size);
        assert_int_equal(out.size, in.size);
        assert_int_equal(out.flags, in.flags);
        for (size_t i = 10; i < sizeof bytes; i++)
            assert_int_equal(bytes[i], no_zeroes ? 0xff : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_greeting_is_read_as_it_was_built),
        cmocka_unit_test(an_old_style_server_is_called_by_its_name),
        cmocka_unit_test(a_stranger_is_refused_at_the_first_wrong_magic),
        cmocka_unit_test(client_flags_pass_only_if_offered),
        cmocka_unit_test(the_reply_to_export_name_comes_with_and_without_zeroes),
    };
    return cmocka_run_group_tests_name("nbd handshake", tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: of what is announced only what a gateway can be dialled at is taken, each address once. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/monitor/found.h"

static bool taken(const char *host, uint16_t port, const char *expected)
{
    unsigned char bytes[16];
    char out[ADDR_TEXT_SIZE] = "untouched";
    int family = strchr(host, ':') != NULL ? AF_INET6 : AF_INET;
    assert_int_equal(inet_pton(family, host, bytes), 1);
    bool ok = found_address(family, bytes, port, out, sizeof(out));
    assert_string_equal(out, ok ? expected : "untouched");
    struct addr a;
    const char *words;
    if (ok)
        assert_int_equal(addr_parse(out, 1, &a, &words), 0);
    return ok;
}

static void addresses_of_one_host_are_taken(void **state)
{
    (void)state;
    assert_true(taken("10.1.2.3", 7401, "10.1.2.3:7401"));
    assert_true(taken("127.0.0.1", 1, "127.0.0.1:1"));
    assert_true(taken("223.255.255.255", 65535, "223.255.255.255:65535"));
    assert_true(taken("2001:db8::7", 7401, "[2001:db8::7]:7401"));
    assert_true(taken("::1", 7401, "[::1]:7401"));
    assert_true(taken("169.253.1.1", 80, "169.253.1.1:80"));
}

static void addresses_that_no_gateway_has_are_passed_over(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "0.0.0.0", "0.1.2.3",  "169.254.169.254", "224.0.0.251", "255.255.255.255", "240.0.0.1",
        "::",      "ff02::fb", "fe80::1",         "febf::1",     "::ffff:10.0.0.1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(taken(bad[i], 7401, ""));
    assert_false(taken("10.1.2.3", 0, ""));
    char out[8] = "as was";
    assert_false(found_address(AF_UNIX, "xxxx", 1, out, sizeof(out)));
    assert_false(found_address(AF_INET, "\x0a\x01\x02\x03", 7401, out, sizeof(out))); /* no room */
    assert_string_equal(out, "as was");
}

static void an_address_stands_in_the_list_once(void **state)
{
    (void)state;
    struct found_list *l = calloc(1, sizeof(*l) + FOUND_MAX * sizeof(l->item[0]));
    struct found f = {.name = "a"};
    assert_non_null(l);
    for (size_t i = 0; i < 2 * FOUND_MAX; i++) {
        snprintf(f.address, sizeof(f.address), "10.0.0.1:%zu", i / 2 + 1);
        found_add(l, &f);
    }
    assert_int_equal(l->count, FOUND_MAX);
    assert_string_equal(l->item[FOUND_MAX - 1].address, f.address);
    free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_of_one_host_are_taken),
        cmocka_unit_test(addresses_that_no_gateway_has_are_passed_over),
        cmocka_unit_test(an_address_stands_in_the_list_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: headers are read as their documents say, and the guards against foreign pages cannot be
 * talked round. Method: tables of values that must and must not pass. */
#include "server/app/header.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "server/app/when.h"

static void an_accept_takes_what_it_lists(void **state)
{
    (void)state;
    static const char json[] = "application/json";
    assert_true(header_accepts(NULL, json));
    assert_true(header_accepts("*/*", json));
    assert_true(header_accepts("text/html, application/*;q=0.5", json));
    assert_true(header_accepts("Application/JSON", json));
    assert_true(header_accepts("text/html;q=0.9,application/json;q=0.001", json));
    assert_false(header_accepts("text/html", json));
    assert_false(header_accepts("application/json;q=0", json));
    assert_false(header_accepts("application/json; q=0.000, text/plain", json));
    assert_false(header_accepts("application/jsonx", json));
    assert_false(header_accepts("app/*", json));
}

static void only_json_in_utf8_is_json(void **state)
{
    (void)state;
    assert_true(header_is_json("application/json"));
    assert_true(header_is_json("Application/Json ; Charset=UTF-8"));
    assert_false(header_is_json(NULL));
    assert_false(header_is_json("text/plain"));
    assert_false(header_is_json("application/jsonp"));
    assert_false(header_is_json("application/json; charset=latin1"));
    /* What a page can send without asking first (a "simple" request). */
    assert_false(header_is_json("application/x-www-form-urlencoded"));
}

static void entity_tags_match_strongly_or_weakly(void **state)
{
    (void)state;
    assert_true(header_tag_matches("*", "\"3\"", false));
    assert_true(header_tag_matches(" \"3\" ", "\"3\"", false));
    assert_true(header_tag_matches("\"1\", \"3\"", "\"3\"", false));
    assert_true(header_tag_matches("\"a,b\",\"3\"", "\"3\"", false));
    assert_false(header_tag_matches("W/\"3\"", "\"3\"", false));
    assert_true(header_tag_matches("W/\"3\"", "\"3\"", true));
    assert_false(header_tag_matches("\"33\"", "\"3\"", true));
    assert_false(header_tag_matches("3", "\"3\"", true));
    assert_false(header_tag_matches("", "\"3\"", true));
    assert_false(header_tag_matches("\"unclosed", "\"3\"", true));
}

static void only_loopback_names_with_our_port_are_ours(void **state)
{
    (void)state;
    assert_true(header_host_is_local("127.0.0.1:7480", 7480, false));
    assert_true(header_host_is_local("LocalHost:7480", 7480, false));
    assert_true(header_host_is_local("127.8.9.10:7480", 7480, false));
    assert_true(header_host_is_local("[::1]:7480", 7480, false));
    assert_true(header_host_is_local("localhost", 80, false));
    static const char *const foreign[] = {
        "evil.example:7480",
        "localhost.evil.example:7480",
        "127.0.0.1.evil.example:7480",
        "localhost:7481",
        "localhost",
        "localhost:",
        "localhost:7480x",
        "[::2]:7480",
        "[::1:7480",
        "",
        ":7480",
        "127.0.0.1@evil:7480",
        "0127.0.0.1:7480",
        "2130706433:7480",
        "localhost:999999999999",
    };
    for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
        if (header_host_is_local(foreign[i], 7480, false))
            fail_msg("taken for our own: %s", foreign[i]);
    }
    assert_false(header_host_is_local(NULL, 7480, false));
}

static void only_our_own_origin_may_write(void **state)
{
    (void)state;
    assert_true(header_origin_is_own("http://127.0.0.1:7480", "127.0.0.1:7480", 7480, false));
    assert_false(header_origin_is_own("https://127.0.0.1:7480", "127.0.0.1:7480", 7480, false));
    assert_false(header_origin_is_own("null", "127.0.0.1:7480", 7480, false));
    assert_false(header_origin_is_own("http://evil.example:7480", "127.0.0.1:7480", 7480, false));
    assert_false(header_origin_is_own("http://127.0.0.1:3000", "127.0.0.1:7480", 7480, false));
    assert_false(header_origin_is_own("http://127.0.0.1:7480/path", "127.0.0.1:7480", 7480, false));
    /* In clear the request's own name counts for nothing: it may have led a browser here. */
    assert_false(header_origin_is_own("http://evil.example", "evil.example", 7480, false));
}

static void over_tls_the_origin_is_local_or_what_the_request_is_for(void **state)
{
    (void)state;
    assert_true(header_host_is_local("localhost", 443, true));
    assert_false(header_host_is_local("localhost", 80, true));
    assert_true(header_origin_is_own("https://localhost", NULL, 443, true));
    assert_true(header_origin_is_own("https://Weir.example:7480", "weir.example:7480", 7480, true));
    assert_false(header_origin_is_own("http://weir.example:7480", "weir.example:7480", 7480, true));
    assert_false(header_origin_is_own("https://evil.example", "weir.example", 443, true));
    assert_false(header_origin_is_own("https://weir.example", NULL, 443, true));
    assert_false(header_origin_is_own("https://", "", 443, false));
}

static void a_password_is_taken_for_a_token_whatever_the_name(void **state)
{
    char token[16];
    (void)state;
    assert_true(header_basic("Basic YWRtaW46dG9rZW4=", token, sizeof(token))); /* admin:token */
    assert_string_equal(token, "token");
    assert_true(header_basic("basic OnRva2Vu", token, sizeof(token))); /* :token */
    assert_string_equal(token, "token");
    assert_true(header_basic("Basic bjo0NTY3ODkwMTIzNDU2Nzg=", token, sizeof(token)));
    static const char *const bad[] = {
        NULL, "", "Basic", "Basic ", "Bearer dG9rZW4=",
        "Basic dG9rZW4=",                     /* no colon */
        "Basic YTo=",                         /* no password */
        "Basic YTphIGI=",                     /* a:a b */
        "Basic YTphAGI=",                     /* a:a, NUL, b */
        "Basic YTp0b2tlbg",                   /* not padded */
        "Basic YTp0b2tlbg== ",                /* more behind it */
        "Basic YTp*",                         /* not base64 */
        "Basic bjo0NTY3ODkwMTIzNDU2Nzg5MA==", /* of 16 bytes: too long */
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(header_basic(bad[i], token, sizeof(token)));
}

static void a_bearer_is_one_token(void **state)
{
    (void)state;
    assert_string_equal(header_bearer("Bearer abc-_.~+/="), "abc-_.~+/=");
    assert_string_equal(header_bearer("bearer   x"), "x");
    assert_null(header_bearer(NULL));
    assert_null(header_bearer("Basic abc"));
    assert_null(header_bearer("Bearer "));
    assert_null(header_bearer("Bearer a b"));
    assert_null(header_bearer("Bearer a\x01"));
}

static void instants_are_read_with_zone_and_fraction(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t us;
    } good[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2026-11-23T06:37:06.123Z", INT64_C(1795415826123000)},
        {"2026-11-23T07:37:06.123+01:00", INT64_C(1795415826123000)},
        {"2000-02-29t23:59:60z", INT64_C(951868800000000)},
        {"1999-12-31T19:00:00.0000019-05:00", INT64_C(946684800000001)},
    };
    static const char *const bad[] = {
        "",
        "2026",
        "2026-11-23",
        "2026-11-23T06:37:06",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T06:37:06.Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+01:00",
        "2026-11-23T06:37:06Zx",
        "99999-01-01T00:00:00Z",
    };
    int64_t us;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(when_parse(good[i].text, &us), 0);
        if (us != good[i].us)
            fail_msg("%s: %lld", good[i].text, (long long)us);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (when_parse(bad[i], &us) != WEIR_E_INVALID)
            fail_msg("taken: %s", bad[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_accept_takes_what_it_lists),
        cmocka_unit_test(only_json_in_utf8_is_json),
        cmocka_unit_test(entity_tags_match_strongly_or_weakly),
        cmocka_unit_test(only_loopback_names_with_our_port_are_ours),
        cmocka_unit_test(over_tls_the_origin_is_local_or_what_the_request_is_for),
        cmocka_unit_test(a_password_is_taken_for_a_token_whatever_the_name),
        cmocka_unit_test(only_our_own_origin_may_write),
        cmocka_unit_test(a_bearer_is_one_token),
        cmocka_unit_test(instants_are_read_with_zone_and_fraction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: kinds are found by all their names, and every object's path keeps hostile names inside it.
 * Method: known names; both forms of a document. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "cli/kind.h"

static void kinds_are_found_by_every_name(void **state)
{
    (void)state;
    for (size_t i = 0; kind_at(i); i++) {
        const struct kind *k = kind_at(i);
        assert_ptr_equal(kind_find(k->plural), k);
        assert_ptr_equal(kind_find(k->singular), k);
        if (k->alias)
            assert_ptr_equal(kind_find(k->alias), k);
        if (k->document)
            assert_ptr_equal(kind_of_document(k->document), k);
        assert_true(k->column_count > 0);
    }
    assert_ptr_equal(kind_find("Agreement"), kind_find("agreements"));
    assert_null(kind_find("nothing"));
    assert_null(kind_of_document("agreement"));
    assert_null(kind_of_document("Stream"));
}

static void check_path(const char *kind, const char *name, const char *expected)
{
    struct text path;
    text_init(&path, 1000);
    int r = kind_path(kind_find(kind), name, &path);
    assert_int_equal(r, expected ? 0 : WEIR_E_INVALID);
    if (expected)
        assert_string_equal(path.data, expected);
    text_fini(&path);
}

static void names_are_encoded_into_paths(void **state)
{
    (void)state;
    check_path("agreements", "oltp-gold", "/api/v1/agreements/oltp-gold");
    check_path("agreements", "../tokens?x#y", NULL);
    check_path("agreements", "..?x#y", "/api/v1/agreements/..%3Fx%23y");
    check_path("streams", "10.0.0.7/db", "/api/v1/streams/10.0.0.7/db");
    check_path("streams", "fd00::1/a%2Fb", "/api/v1/streams/fd00%3A%3A1/a%252Fb");
    check_path("streams", "db", NULL);
    check_path("streams", "/db", NULL);
    check_path("streams", "a/", NULL);
    check_path("streams", "a/b/c", NULL);
    check_path("gateways", "a/b", NULL);
    check_path("gateways", "", NULL);
}

static void documents_of_the_server_become_those_of_people(void **state)
{
    (void)state;
    json_t *served = json_loads("{\"kind\":\"Agreement\",\"name\":\"g\",\"version\":3,\"updated\":"
                                "\"x\",\"spec\":{\"appliesTo\":"
                                "{\"host\":null},\"reservation\":{\"iops\":null},\"limit\":{"
                                "\"iops\":5,\"iopsRead\":null},\"objectives\":[]},"
                                "\"status\":{\"verdict\":\"met\"}}",
                                0, NULL);
    json_t *expected =
        json_loads("{\"kind\":\"Agreement\",\"name\":\"g\",\"appliesTo\":{},\"limit\":"
                   "{\"iops\":5}}",
                   0, NULL);
    json_t *people = kind_people_form(served);
    assert_true(json_equal(people, expected));
    json_t *again = kind_people_form(people);
    assert_true(json_equal(again, expected));
    json_decref(again);
    json_decref(people);
    json_decref(expected);
    json_decref(served);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_are_found_by_every_name),
        cmocka_unit_test(names_are_encoded_into_paths),
        cmocka_unit_test(documents_of_the_server_become_those_of_people),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

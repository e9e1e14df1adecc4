/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: YAML is read as the core schema says, bounded, with lines in its errors; what is printed
 * reads back as the same value and cannot steer a terminal. Method: documents against JSON; random
 * values there and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../seed.h"
#include "base/err.h"
#include "base/rng.h"
#include "cli/yaml.h"

/* The documents of @yaml as one JSON array in text. Caller frees. */
static char *parse(const char *yaml, int expected, struct text *error)
{
    struct yaml_document *all = NULL;
    size_t count = 0;
    text_clear(error);
    int r = yaml_parse("f.yaml", yaml, strlen(yaml), &all, &count, error);
    if (r != expected)
        fail_msg("\"%.60s\" gave %d: %s", yaml, r, error->data);
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append(list, all[i].value);
    char *s = json_dumps(list, JSON_COMPACT | JSON_REAL_PRECISION(15));
    json_decref(list);
    yaml_free(all, count);
    return s;
}

static void documents_become_json(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *json;
    } cases[] = {
        {"", "[]"},
        {"---\n---\n", "[]"},
        {"# nothing\n", "[]"},
        {"a: 1\n---\nb: [x, {c: d}]\n", "[{\"a\":1},{\"b\":[\"x\",{\"c\":\"d\"}]}]"},
        {"{\"a\": \"b\", \"c\": [1, 2.5, true, null]}", "[{\"a\":\"b\",\"c\":[1,2.5,true,null]}]"},
        {"a: ~\nb:\nc: null\nd: ''\n", "[{\"a\":null,\"b\":null,\"c\":null,\"d\":\"\"}]"},
        {"a: 5ms\nb: 400MiB/s\nc: 99.9%\nd: 08:00\n",
         "[{\"a\":\"5ms\",\"b\":\"400MiB/s\",\"c\":\"99.9%\",\"d\":\"08:00\"}]"},
        {"a: '12'\nb: \"true\"\nc: yes\nd: -7\ne: 0x10\nf: 1e3\n",
         "[{\"a\":\"12\",\"b\":\"true\",\"c\":\"yes\",\"d\":-7,\"e\":\"0x10\",\"f\":1000.0}]"},
        {"a: 99999999999999999999\n", "[{\"a\":\"99999999999999999999\"}]"},
        {"a: |\n  two\n  lines\n", "[{\"a\":\"two\\nlines\\n\"}]"},
        {"list:\n  - a\n  - b: 1\n    c: 2\n", "[{\"list\":[\"a\",{\"b\":1,\"c\":2}]}]"},
        {"1: x\n", "[{\"1\":\"x\"}]"},
    };
    struct text error;
    text_init(&error, 10000);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *s = parse(cases[i].yaml, 0, &error);
        assert_string_equal(s, cases[i].json);
        free(s);
    }
    text_fini(&error);
}

static void what_is_wrong_is_refused_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *yaml;
        int code;
        const char *words;
    } cases[] = {
        {"a: 1\nb: [1,\n", WEIR_E_PARSE, "f.yaml:"},
        {"a: 1\na: 2\n", WEIR_E_PARSE, "f.yaml:2: this key stands"},
        {"a: &x 1\nb: *x\n", WEIR_E_PARSE, "f.yaml:1: anchors"},
        {"a: 1\nb: *x\n", WEIR_E_PARSE, "f.yaml:2: anchors"},
        {"a: 1\nb: !!str 2\n", WEIR_E_PARSE, "f.yaml:2: tags"},
        {"a: !secret {b: c}\n", WEIR_E_PARSE, "f.yaml:1: tags"},
        {"a: 1\n[1, 2]: x\n", WEIR_E_PARSE, "f.yaml:2:"},
        {"a: 1\n\tb: 2\n", WEIR_E_PARSE, "f.yaml:1: "},
        {"a: 'open\n", WEIR_E_PARSE, "f.yaml:"},
        {"- a\nb: c\n", WEIR_E_PARSE, "f.yaml:2:"},
        {"a: b\nc: \xc0\xaf\n", WEIR_E_PARSE, "f.yaml:2: not UTF-8"},
        {"a: \xed\xa0\x80\n", WEIR_E_PARSE, "f.yaml:1: not UTF-8"},
        {"a: \xe2\x82", WEIR_E_PARSE, "f.yaml:1: not UTF-8"},
        {"%\xc0\xdf\xcf: 0\n", WEIR_E_PARSE, "f.yaml:1: not UTF-8"},
    };
    struct text error;
    text_init(&error, 10000);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        free(parse(cases[i].yaml, cases[i].code, &error));
        if (!strstr(error.data, cases[i].words))
            fail_msg("\"%s\" gave \"%s\"", cases[i].yaml, error.data);
    }
    text_fini(&error);
}

static void depth_and_size_are_bounded(void **state)
{
    (void)state;
    struct text yaml, error;
    text_init(&yaml, YAML_BYTES_MAX + 10);
    text_init(&error, 10000);
    for (unsigned i = 0; i < YAML_DEPTH_MAX; i++)
        text_append_str(&yaml, "[");
    for (unsigned i = 0; i < YAML_DEPTH_MAX; i++)
        text_append_str(&yaml, "]");
    free(parse(yaml.data, 0, &error));
    text_clear(&yaml);
    for (unsigned i = 0; i <= YAML_DEPTH_MAX; i++)
        text_append_str(&yaml, "[");
    for (unsigned i = 0; i <= YAML_DEPTH_MAX; i++)
        text_append_str(&yaml, "]");
    free(parse(yaml.data, WEIR_E_TOO_LARGE, &error));
    assert_non_null(strstr(error.data, "32 levels"));

    text_clear(&yaml);
    for (unsigned i = 0; i <= YAML_DOCUMENTS_MAX; i++)
        text_append_str(&yaml, "--- 1\n");
    free(parse(yaml.data, WEIR_E_TOO_LARGE, &error));
    text_clear(&yaml);
    while (yaml.len <= YAML_BYTES_MAX)
        text_append_str(&yaml, "#######\n");
    free(parse(yaml.data, WEIR_E_TOO_LARGE, &error));
    assert_non_null(strstr(error.data, "4 MiB"));
    text_fini(&yaml);
    text_fini(&error);
}

static json_t *random_text(struct rng *r)
{
    static const char *const pieces[] = {
        "a",
        "Z",
        " ",
        ":",
        "#",
        "-",
        "'",
        "\"",
        "\\",
        "\n",
        "\t",
        "0",
        "yes",
        "~",
        "null",
        "1.5",
        "[",
        "}",
        "%",
        "\xc3\xbc",
        "&x",
        "\x1b[2J",
        "*",
        "!",
        "5ms",
        "|",
        ">",
        "@",
        "`",
        "\xe2\x80\xae",
        "\xf0\x9f\x90\x9f",
        "\x7f",
        "\xc2\x85",
        ",",
    };
    struct text t;
    text_init(&t, 1000);
    for (uint64_t n = rng_below(r, 6); n > 0; n--)
        text_append_str(&t, pieces[rng_below(r, sizeof(pieces) / sizeof(pieces[0]))]);
    json_t *v = json_string(t.data);
    assert_non_null(v);
    text_fini(&t);
    return v;
}

static json_t *random_value(struct rng *r, unsigned depth)
{
    switch (rng_below(r, depth > 0 ? 8 : 6)) {
    case 0:
        return json_null();
    case 1:
        return json_boolean(rng_below(r, 2));
    case 2:
        return json_integer((json_int_t)(rng_u64(r) >> rng_below(r, 64)));
    case 3:
        return json_real((double)rng_below(r, 1000000) / 1000);
    case 4:
    case 5:
        return random_text(r);
    case 6: {
        json_t *a = json_array();
        for (uint64_t n = rng_below(r, 4); n > 0; n--)
            json_array_append_new(a, random_value(r, depth - 1));
        return a;
    }
    default: {
        json_t *o = json_object();
        for (uint64_t n = rng_below(r, 4); n > 0; n--) {
            json_t *key = random_text(r);
            json_object_set_new(o, json_string_value(key), random_value(r, depth - 1));
            json_decref(key);
        }
        return o;
    }
    }
}

static void what_is_printed_reads_back_and_is_harmless(void **state)
{
    (void)state;
    struct rng r;
    rng_seed(&r, test_seed());
    struct text yaml, error;
    text_init(&yaml, 1000000);
    text_init(&error, 10000);
    for (int i = 0; i < 20000; i++) {
        json_t *v = random_value(&r, 4);
        text_clear(&yaml);
        yaml_print(v, &yaml);
        for (const char *s = yaml.data; *s != '\0'; s++)
            assert_true((unsigned char)*s >= 0x20 || *s == '\n');
        assert_null(strstr(yaml.data, "\xe2\x80\xae"));
        assert_null(strstr(yaml.data, "\xc2\x85"));
        struct yaml_document *all = NULL;
        size_t count = 0;
        text_clear(&error);
        if (yaml_parse("p", yaml.data, yaml.len, &all, &count, &error) != 0)
            fail_msg("%s in:\n%s", error.data, yaml.data);
        /* A document that is null says nothing and is left out. */
        if (json_is_null(v)) {
            assert_int_equal(count, 0);
        } else {
            assert_int_equal(count, 1);
            if (!json_equal(all[0].value, v))
                fail_msg("%s is not %s:\n%s", json_dumps(all[0].value, JSON_ENCODE_ANY),
                         json_dumps(v, JSON_ENCODE_ANY), yaml.data);
        }
        yaml_free(all, count);
        json_decref(v);
    }
    text_fini(&yaml);
    text_fini(&error);
}

static void printing_is_what_people_write(void **state)
{
    (void)state;
    json_t *v =
        json_loads("{\"kind\":\"Agreement\",\"name\":\"oltp-gold\",\"appliesTo\":{\"volume\":"
                   "\"db-*\"},\"objectives\":[{\"percentile\":99,\"latencyUs\":5000}],"
                   "\"over\":\"P30D\",\"empty\":{},\"none\":[],\"day\":\"08:00\"}",
                   0, NULL);
    struct text out;
    text_init(&out, 10000);
    yaml_print(v, &out);
    assert_string_equal(out.data, "kind: Agreement\n"
                                  "name: oltp-gold\n"
                                  "appliesTo:\n"
                                  "  volume: \"db-*\"\n"
                                  "objectives:\n"
                                  "  - percentile: 99\n"
                                  "    latencyUs: 5000\n"
                                  "over: P30D\n"
                                  "empty: {}\n"
                                  "none: []\n"
                                  "day: \"08:00\"\n");
    text_fini(&out);
    json_decref(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_become_json),
        cmocka_unit_test(what_is_wrong_is_refused_with_its_line),
        cmocka_unit_test(depth_and_size_are_bounded),
        cmocka_unit_test(what_is_printed_reads_back_and_is_harmless),
        cmocka_unit_test(printing_is_what_people_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

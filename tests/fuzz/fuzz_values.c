/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: no value of a setting or an option, no name and no token crashes its parser; a parser that
 * refuses says what it expected; and what a formatter writes its parser takes.
 * Method: the input is the text that each of them is given. Host names are not resolved. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/addr.h"
#include "base/assert.h"
#include "base/name.h"
#include "base/text.h"
#include "base/units.h"
#include "control/auth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_units(const char *s)
{
    int (*const parsers[])(const char *, uint64_t *, const char **) = {
        units_parse_iops,       units_parse_bandwidth,   units_parse_size,
        units_parse_latency_us, units_parse_duration_ns,
    };
    for (size_t i = 0; i < sizeof(parsers) / sizeof(parsers[0]); i++) {
        uint64_t v = 0;
        const char *expected = NULL;
        int r = parsers[i](s, &v, &expected);
        weir_assert(r == 0 || (expected && *expected));
    }
    uint64_t iops, ns;
    char text[64];
    if (units_parse_iops(s, &iops, NULL) == 0)
        weir_assert(iops == UNITS_UNLIMITED || (iops >= 1 && iops <= 1000000000));
    if (units_parse_duration_ns(s, &ns, NULL) == 0) {
        uint64_t back;
        units_format_duration_iso(ns, text, sizeof(text));
        weir_assert(units_parse_duration_ns(text, &back, NULL) == 0);
    }
    uint32_t ppm;
    int on;
    if (units_parse_percent_ppm(s, &ppm, NULL) == 0)
        weir_assert(ppm <= 1000000);
    if (units_parse_bool(s, &on, NULL) == 0)
        weir_assert(on == 0 || on == 1);
}

static void try_addresses(const char *s)
{
    struct addr a;
    const char *expected = NULL;
    char export[4097];
    if (addr_parse(s, 10809, &a, &expected) != 0)
        weir_assert(expected && *expected);
    else
        weir_assert(a.len <= sizeof(a.ss));
    expected = NULL;
    if (addr_parse_nbd_uri(s, &a, export, sizeof(export), &expected) != 0)
        weir_assert(expected && *expected);
    else
        weir_assert(memchr(export, '\0', sizeof(export)) != NULL);
}

static void try_names(const char *s, size_t n)
{
    char out[NAME_SIZE], again[NAME_SIZE], key[STREAM_KEY_SIZE], id[AUTH_TOKEN_ID_SIZE];
    uint8_t secret[AUTH_KEY_SIZE];
    name_escape(s, n, out);
    weir_assert(*out && memchr(out, '\0', sizeof(out)));
    weir_assert(!strpbrk(out, "/\"\\<>&"));
    name_escape(s, n, again);
    weir_assert(strcmp(out, again) == 0);
    name_stream_key(out, again, key);
    weir_assert(strchr(key, '/') == strrchr(key, '/'));
    if (name_is_plain(s) && strlen(s) == n)
        weir_assert(strcmp(s, out) == 0);
    (void)name_match(s, "a-name");
    (void)name_match("a*[b-d]?", s);
    (void)auth_token_parse(s, id, secret);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *s = malloc(size + 1);
    weir_assert(s != NULL);
    memcpy(s, data, size);
    s[size] = '\0';
    try_units(s);
    try_addresses(s);
    try_names(s, size);
    free(s);
    return 0;
}

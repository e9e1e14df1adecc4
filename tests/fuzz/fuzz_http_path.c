/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: no request target and no header, however odd, leads a parser out of its bounds.
 * Method: the input is a target up to its first line break and a header's value behind it. What the
 * target gives must be text inside its buffer; a route that is found must have the names of its
 * path. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/app/access.h"
#include "server/app/header.h"
#include "server/app/routes.h"
#include "server/app/uri.h"
#include "server/app/when.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const struct uri *u, const char *text)
{
    weir_assert(text >= u->buffer);
    weir_assert(text + strlen(text) < u->buffer + sizeof(u->buffer));
    for (const char *p = text; *p != '\0'; p++)
        weir_assert((unsigned char)*p >= 0x20 && *p != 0x7f);
}

static void try_target(const char *raw)
{
    struct uri u;
    const char *words = NULL, *names[2] = {NULL, NULL};
    char allow[64];
    int r = uri_parse(&u, raw, &words);
    weir_assert(r == 0 || r == WEIR_E_INVALID || r == WEIR_E_TOO_LARGE);
    weir_assert((r == 0) == (words == NULL));
    if (r < 0)
        return;
    weir_assert(u.segment_count >= 1 && u.segment_count <= URI_MAX_SEGMENTS);
    weir_assert(u.param_count <= URI_MAX_PARAMS);
    for (size_t i = 0; i < u.segment_count; i++)
        check_text(&u, u.segment[i]);
    for (size_t i = 0; i < u.param_count; i++) {
        check_text(&u, u.param[i].name);
        check_text(&u, u.param[i].value);
    }
    const struct route *route = routes_find("GET", &u, names, allow, sizeof(allow));
    if (!route)
        return;
    weir_assert(!strchr(route->path, '{') || names[0] != NULL);
    (void)uri_unknown_param(&u, route->query);
}

static void try_header(const char *value)
{
    int64_t us;
    (void)header_accepts(value, "application/json");
    (void)header_is_json(value);
    (void)header_bearer(value);
    if (header_tag_matches(value, "\"3\"", false))
        weir_assert(header_tag_matches(value, "\"3\"", true));
    if (header_origin_is_own(value, NULL, 7480, false))
        weir_assert(header_host_is_local(value + strlen("http://"), 7480, false));
    if (header_origin_is_own(value, NULL, 443, true))
        weir_assert(header_host_is_local(value + strlen("https://"), 443, true));
    char token[ACCESS_SECRET_SIZE];
    if (header_basic(value, token, sizeof(token)))
        weir_assert(strlen(token) > 0);
    if (when_parse(value, &us) == 0)
        weir_assert(us >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    char *value = strchr(text, '\n');
    if (value)
        *value++ = '\0';
    try_target(text);
    if (value)
        try_header(value);
    free(text);
    return 0;
}

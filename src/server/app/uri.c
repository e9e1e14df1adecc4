/* SPDX-License-Identifier: Apache-2.0 */
/* Request targets.
 *
 * Problem: names out of a URL become keys of look-ups, words in answers and lines in the audit.
 * Decoding them twice, or splitting after decoding, would let "%2F" turn one name into two.
 *
 * Model: split the raw text first (RFC 3986 section 2.4), decode each part once, in place, and
 * refuse what no name of ours can have: a broken triple, control characters, NUL, text that is not
 * UTF-8.
 *
 * Invariants: (1) nothing is written outside buffer; (2) every string is terminated and valid
 * UTF-8; (3) counts are within the bounds of uri.h. */
#include "server/app/uri.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/text.h"

/* Length of the UTF-8 sequence at @p (RFC 3629 section 4), or 0. */
static size_t utf8_length(const unsigned char *p)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xc2 && p[0] <= 0xdf   ? 2
               : (p[0] & 0xf0) == 0xe0        ? 3
               : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4
                                              : 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

static bool is_clean(const char *s)
{
    for (const unsigned char *p = (const unsigned char *)s; *p != '\0';) {
        size_t n = utf8_length(p);
        if (n == 0 || *p < 0x20 || *p == 0x7f)
            return false;
        p += n;
    }
    return true;
}

/* Decode @s in place. */
static bool decode(char *s)
{
    char *out = s;
    for (const char *p = s; *p != '\0'; p++) {
        if (*p != '%') {
            *out++ = *p;
            continue;
        }
        int high = text_hex_value(p[1]), low = high < 0 ? -1 : text_hex_value(p[2]);
        if (low < 0 || (high == 0 && low == 0))
            return false;
        *out++ = (char)(high << 4 | low);
        p += 2;
    }
    *out = '\0';
    return is_clean(s);
}

static int parse_path(struct uri *u, char *path, const char **ret_words)
{
    for (char *p = path; p != NULL;) {
        char *slash = strchr(p, '/');
        if (slash)
            *slash = '\0';
        if (u->segment_count == URI_MAX_SEGMENTS) {
            *ret_words = "the path has too many segments";
            return WEIR_E_INVALID;
        }
        if (!decode(p)) {
            *ret_words = "the path is not percent-encoded UTF-8 without control characters";
            return WEIR_E_INVALID;
        }
        u->segment[u->segment_count++] = p;
        p = slash ? slash + 1 : NULL;
    }
    return 0;
}

static int parse_query(struct uri *u, char *query, const char **ret_words)
{
    for (char *p = query; p != NULL;) {
        char *end = strchr(p, '&');
        if (end)
            *end = '\0';
        char *equals = strchr(p, '=');
        if (equals)
            *equals = '\0';
        char *value = equals ? equals + 1 : p + strlen(p);
        if (*p != '\0' || equals) {
            if (u->param_count == URI_MAX_PARAMS) {
                *ret_words = "too many query parameters";
                return WEIR_E_INVALID;
            }
            if (!decode(p) || !decode(value)) {
                *ret_words = "the query is not percent-encoded UTF-8 without control characters";
                return WEIR_E_INVALID;
            }
            u->param[u->param_count++] = (struct uri_param){.name = p, .value = value};
        }
        p = end ? end + 1 : NULL;
    }
    return 0;
}

int uri_parse(struct uri *u, const char *raw, const char **ret_words)
{
    u->segment_count = u->param_count = 0;
    size_t n = strnlen(raw, URI_MAX + 1);
    if (n > URI_MAX) {
        *ret_words = "the request target is longer than 4096 bytes";
        return WEIR_E_TOO_LARGE;
    }
    if (raw[0] != '/') {
        *ret_words = "the request target does not begin with /";
        return WEIR_E_INVALID;
    }
    memcpy(u->buffer, raw, n + 1);
    weir_assert(u->buffer[n] == '\0');
    char *query = strchr(u->buffer, '?');
    if (query)
        *query++ = '\0';
    int r = parse_path(u, u->buffer + 1, ret_words);
    return r == 0 && query ? parse_query(u, query, ret_words) : r;
}

const char *uri_param(const struct uri *u, const char *name)
{
    for (size_t i = 0; i < u->param_count; i++) {
        if (strcmp(u->param[i].name, name) == 0)
            return u->param[i].value;
    }
    return NULL;
}

static bool list_has(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; n > 0 && *p != '\0';) {
        size_t length = strcspn(p, ",");
        if (length == n && memcmp(p, name, n) == 0)
            return true;
        p += length + (p[length] == ',');
    }
    return false;
}

const char *uri_unknown_param(const struct uri *u, const char *known)
{
    for (size_t i = 0; i < u->param_count; i++) {
        if (!list_has(known, u->param[i].name) ||
            uri_param(u, u->param[i].name) != u->param[i].value)
            return u->param[i].name;
    }
    return NULL;
}

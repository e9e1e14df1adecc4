/* SPDX-License-Identifier: Apache-2.0 */
/* Names from outside.
 *
 * Problem: hosts choose export names of up to 4096 arbitrary bytes, and these become parts of
 * stream keys, labels, log lines and pages. Two different names must stay two (else one host could
 * hide in another's stream), and no name may carry a meaning of its own to any place that shows it.
 *
 * Model: %XX escaping, which can be undone, for whatever fits. What does not fit keeps a prefix and
 * gets "~" and a hash of all its bytes. A short name that looks like such a result is hashed as
 * well, so a name of the one form never equals one of the other.
 *
 * Invariants: (1) the result is NUL-terminated, not empty, below NAME_SIZE, of plain characters and
 * whole %XX triples; (2) equal bytes give equal results; (3) two names that are escaped in full are
 * equal only when their bytes are ("default" and the empty name aside); (4) shortened ones are
 * equal only when their hash is. */
#include "base/name.h"

#include <sodium.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

#define HASH_TAIL 9u /* "~" and eight digits */

static bool is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

bool name_is_plain(const char *s)
{
    if (!is_alnum(s[0]))
        return false;
    size_t n = 1;
    for (; s[n] != '\0'; n++) {
        if (n + 1 >= NAME_SIZE || !(is_alnum(s[n]) || s[n] == '.' || s[n] == '_' || s[n] == '-'))
            return false;
    }
    return true;
}

static bool passes(unsigned char c)
{
    return c > 0x20 && c < 0x7f && !strchr("%/\"\\<>&", c);
}

/* Whether @out reads like a shortened name: long enough, and ends in "~" and eight hex digits. */
static bool looks_shortened(const char *out, size_t len)
{
    if (len < NAME_SIZE - 3 || out[len - HASH_TAIL] != '~')
        return false;
    return strspn(out + len - HASH_TAIL + 1, "0123456789abcdef") == HASH_TAIL - 1;
}

void name_escape(const void *bytes, size_t n, char out[NAME_SIZE])
{
    static const char digits[] = "0123456789ABCDEF";
    const unsigned char *p = bytes;
    size_t len = 0, cut = 0, i = 0;
    for (; i < n; i++) {
        size_t need = passes(p[i]) ? 1 : 3;
        if (len + need >= NAME_SIZE)
            break;
        if (need == 1) {
            out[len++] = (char)p[i];
        } else {
            out[len++] = '%';
            out[len++] = digits[p[i] >> 4];
            out[len++] = digits[p[i] & 15];
        }
        if (len + HASH_TAIL < NAME_SIZE)
            cut = len;
    }
    out[len] = '\0';
    if (n == 0)
        memcpy(out, "default", sizeof("default"));
    if (i == n && !looks_shortened(out, len))
        return;

    /* Unkeyed and the same in every program: gateway and server must agree on names. */
    unsigned char hash[crypto_generichash_BYTES_MIN];
    int r = crypto_generichash(hash, sizeof(hash), p, n, NULL, 0);
    weir_assert(r == 0);
    weir_assert(cut + HASH_TAIL < NAME_SIZE);
    snprintf(out + cut, NAME_SIZE - cut, "~%02x%02x%02x%02x", hash[0], hash[1], hash[2], hash[3]);
}

void name_stream_key(const char *host, const char *volume, char out[STREAM_KEY_SIZE])
{
    int n = snprintf(out, STREAM_KEY_SIZE, "%s/%s", host, volume);
    weir_assert(n > 0 && (size_t)n < STREAM_KEY_SIZE);
}

/* Match one character against the class that begins behind '[' at @p. Returns what follows the
 * class, or NULL when it is not closed (then '[' is an ordinary character). */
static const char *match_class(const char *p, char c, bool *ret_match)
{
    bool negate = *p == '!' || *p == '^';
    if (negate)
        p++;
    bool match = false;
    for (const char *first = p; *p != '\0' && (*p != ']' || p == first); p++) {
        if (p[1] == '-' && p[2] != ']' && p[2] != '\0') {
            match |= (unsigned char)c >= (unsigned char)p[0] &&
                     (unsigned char)c <= (unsigned char)p[2];
            p += 2;
        } else {
            match |= c == *p;
        }
    }
    if (*p != ']')
        return NULL;
    *ret_match = match != negate;
    return p + 1;
}

/* Match the one pattern element at @p (not '*') against @c; what follows it, or NULL: no match. */
static const char *match_one(const char *p, char c)
{
    if (*p == '?')
        return p + 1;
    if (*p == '[') {
        bool match = false;
        const char *next = match_class(p + 1, c, &match);
        if (next)
            return match ? next : NULL;
    }
    if (*p == '\\' && p[1] != '\0')
        p++;
    return *p == c ? p + 1 : NULL;
}

/* Only the last '*' is ever tried again, so the cost is at most length times length. */
bool name_match(const char *pattern, const char *name)
{
    if (!pattern)
        return true;
    const char *star = NULL, *star_name = NULL;
    while (*name != '\0') {
        if (*pattern == '*') {
            star = ++pattern;
            star_name = name;
            continue;
        }
        const char *next = *pattern == '\0' ? NULL : match_one(pattern, *name);
        if (next) {
            pattern = next;
            name++;
        } else if (star) {
            pattern = star;
            name = ++star_name;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

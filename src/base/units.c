/* SPDX-License-Identifier: Apache-2.0 */
/* Quantities in and out.
 *
 * Model: a quantity is a decimal number (at most 19 digits in front of the point, 9 behind it), an
 * optional space, and a unit out of a table. The product is exact in 128 bits and rounded to the
 * nearest whole canonical unit; what rounds to nothing, or does not fit 64 bits, is refused. Units
 * are case-sensitive: "M" and "m" differ by nine orders of magnitude, so nothing is guessed. */
#include "base/units.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"

#define FRACTION_DIGITS 9u
#define FRACTION_SCALE UINT64_C(1000000000)
#define KIB UINT64_C(1024)
#define KB UINT64_C(1000)

/* whole + fraction / FRACTION_SCALE */
struct decimal {
    uint64_t whole, fraction;
    bool has_point;
};

struct unit {
    const char *name;
    uint64_t scale;
};

static const struct unit size_units[] = {
    {"B", 1},
    {"KiB", KIB},
    {"MiB", KIB *KIB},
    {"GiB", KIB *KIB *KIB},
    {"TiB", KIB *KIB *KIB *KIB},
    {"kB", KB},
    {"MB", KB *KB},
    {"GB", KB *KB *KB},
    {"TB", KB *KB *KB *KB},
    {NULL, 0},
};

static const struct unit latency_units[] = {
    {"us", 1},
    {"ms", 1000},
    {"s", 1000000},
    {NULL, 0},
};

static const struct unit duration_units[] = {
    {"ns", 1},
    {"us", NS_PER_US},
    {"ms", NS_PER_MS},
    {"s", NS_PER_S},
    {"m", 60 * NS_PER_S},
    {"h", 3600 * NS_PER_S},
    {"d", 86400 * NS_PER_S},
    {NULL, 0},
};

static int refuse(const char **ret_expected, const char *words)
{
    if (ret_expected)
        *ret_expected = words;
    return WEIR_E_INVALID;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Read a number at *@p and move behind it. */
static bool take_decimal(const char **p, struct decimal *ret)
{
    struct decimal d = {0};
    const char *s = *p;
    unsigned digits = 0;
    if (!is_digit(*s))
        return false;
    for (; is_digit(*s); s++) {
        if (++digits > 19)
            return false;
        d.whole = d.whole * 10 + (uint64_t)(*s - '0');
    }
    if (*s == '.') {
        d.has_point = true;
        s++;
        if (!is_digit(*s))
            return false;
        uint64_t place = FRACTION_SCALE / 10;
        for (unsigned n = 0; is_digit(*s); s++) {
            if (++n > FRACTION_DIGITS)
                return false;
            d.fraction += (uint64_t)(*s - '0') * place;
            place /= 10;
        }
    }
    *p = s;
    *ret = d;
    return true;
}

/* @d times @scale, to the nearest. False: too large, or not zero but rounds to it. */
static bool decimal_scale(const struct decimal *d, uint64_t scale, uint64_t *ret)
{
    unsigned __int128 v = (unsigned __int128)d->whole * FRACTION_SCALE + d->fraction;
    bool zero = v == 0;
    v = v * scale;
    v = (v + FRACTION_SCALE / 2) / FRACTION_SCALE;
    /* UNITS_UNLIMITED is no number. */
    if (v >= UINT64_MAX || (v == 0 && !zero))
        return false;
    *ret = (uint64_t)v;
    return true;
}

/* The unit that @s is exactly, or NULL. */
static const struct unit *unit_named(const struct unit *table, const char *s, size_t n)
{
    for (; table->name; table++) {
        if (strlen(table->name) == n && memcmp(table->name, s, n) == 0)
            return table;
    }
    return NULL;
}

/* The whole of @text: a number and a unit of @table, then @suffix ("/s") when it is not NULL and a
 * unit is given. Without unit the scale is @bare (0: refused). */
static bool parse_quantity(const char *text, const struct unit *table, const char *suffix,
                           uint64_t bare, uint64_t *ret)
{
    struct decimal d;
    if (!take_decimal(&text, &d))
        return false;
    if (*text == '\0')
        return bare != 0 && !d.has_point && decimal_scale(&d, bare, ret);
    if (*text == ' ')
        text++;
    size_t n = strlen(text);
    if (suffix) {
        size_t tail = strlen(suffix);
        if (n < tail || strcmp(text + n - tail, suffix) != 0)
            return false;
        n -= tail;
    }
    const struct unit *u = unit_named(table, text, n);
    return u && decimal_scale(&d, u->scale, ret);
}

int units_parse_iops(const char *text, uint64_t *ret, const char **ret_expected)
{
    static const char expected[] =
        "whole I/Os per second from 1 to 1000000000, such as 4000, or \"unlimited\"";
    struct decimal d;
    uint64_t v;
    if (strcmp(text, "unlimited") == 0) {
        *ret = UNITS_UNLIMITED;
        return 0;
    }
    if (!take_decimal(&text, &d) || d.has_point || (*text != '\0' && strcmp(text, "/s") != 0))
        return refuse(ret_expected, expected);
    if (!decimal_scale(&d, 1, &v) || v < 1 || v > 1000000000)
        return refuse(ret_expected, expected);
    *ret = v;
    return 0;
}

int units_parse_bandwidth(const char *text, uint64_t *ret, const char **ret_expected)
{
    uint64_t v;
    if (strcmp(text, "unlimited") == 0) {
        *ret = UNITS_UNLIMITED;
        return 0;
    }
    if (!parse_quantity(text, size_units, "/s", 1, &v) || v < 1)
        return refuse(ret_expected, "bytes per second above 0, such as 400MiB/s, 50MB/s or "
                                    "1048576, or \"unlimited\"");
    *ret = v;
    return 0;
}

int units_parse_size(const char *text, uint64_t *ret, const char **ret_expected)
{
    uint64_t v;
    if (!parse_quantity(text, size_units, NULL, 1, &v))
        return refuse(ret_expected, "a size such as 4KiB, 10MB or 512 (KiB MiB GiB TiB are binary, "
                                    "kB MB GB TB decimal)");
    *ret = v;
    return 0;
}

int units_parse_latency_us(const char *text, uint64_t *ret, const char **ret_expected)
{
    uint64_t v;
    if (!parse_quantity(text, latency_units, NULL, 0, &v) || v == 0)
        return refuse(ret_expected, "a time above 0 with its unit, such as 800us, 5ms or 1.5s");
    *ret = v;
    return 0;
}

/* ISO 8601 (2004) 4.4.3.2, without years and months, whose length varies: P[nW][nD][T[nH][nM][nS]],
 * a fraction only in the seconds. */
static bool parse_iso_duration(const char *s, uint64_t *ret)
{
    static const struct {
        char letter;
        bool in_time;
        uint64_t scale;
    } parts[] = {
        {'W', false, 7 * 86400 * NS_PER_S}, {'D', false, 86400 * NS_PER_S},
        {'H', true, 3600 * NS_PER_S},       {'M', true, 60 * NS_PER_S},
        {'S', true, NS_PER_S},
    };
    if (*s++ != 'P')
        return false;
    uint64_t sum = 0;
    bool in_time = false, any = false;
    size_t next = 0;
    while (*s != '\0') {
        if (*s == 'T') {
            if (in_time || s[1] == '\0')
                return false;
            in_time = true;
            s++;
        }
        struct decimal d;
        uint64_t v;
        if (!take_decimal(&s, &d))
            return false;
        while (next < 5 && (parts[next].letter != *s || parts[next].in_time != in_time))
            next++;
        if (next == 5 || (d.has_point && *s != 'S') || !decimal_scale(&d, parts[next].scale, &v))
            return false;
        if (__builtin_add_overflow(sum, v, &sum))
            return false;
        next++;
        s++;
        any = true;
    }
    *ret = sum;
    return any && sum < UINT64_MAX;
}

int units_parse_duration_ns(const char *text, uint64_t *ret, const char **ret_expected)
{
    uint64_t v;
    bool ok = text[0] == 'P' ? parse_iso_duration(text, &v)
                             : parse_quantity(text, duration_units, NULL, 0, &v);
    if (!ok || v == 0)
        return refuse(ret_expected, "a duration above 0 with its unit, such as 250ms, 10s, 5m, 2h, "
                                    "30d or PT10S");
    *ret = v;
    return 0;
}

int units_parse_percent_ppm(const char *text, uint32_t *ret, const char **ret_expected)
{
    static const char expected[] = "a percentage from 0 to 100, such as 99.9% or 99.9";
    struct decimal d;
    uint64_t v;
    if (!take_decimal(&text, &d))
        return refuse(ret_expected, expected);
    if (*text == ' ' && text[1] == '%')
        text++;
    if (*text == '%')
        text++;
    if (*text != '\0' || !decimal_scale(&d, 10000, &v) || v > 1000000)
        return refuse(ret_expected, expected);
    *ret = (uint32_t)v;
    return 0;
}

int units_parse_bool(const char *text, int *ret, const char **ret_expected)
{
    static const struct {
        const char *word;
        int value;
    } words[] = {{"on", 1},  {"off", 0},  {"yes", 1},
                 {"no", 0},  {"true", 1}, {"false", 0}};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(text, words[i].word) == 0) {
            *ret = words[i].value;
            return 0;
        }
    }
    return refuse(ret_expected, "on or off (also yes/no, true/false)");
}

char *units_format_count(uint64_t n, char *out, size_t size)
{
    static const char suffix[] = "kMGTPE";
    if (n == UNITS_UNLIMITED) {
        snprintf(out, size, "unlimited");
        return out;
    }
    if (n < 1000) {
        snprintf(out, size, "%llu", (unsigned long long)n);
        return out;
    }
    double v = (double)n / 1000;
    size_t i = 0;
    while (v >= 999.95 && suffix[i + 1] != '\0') {
        v /= 1000;
        i++;
    }
    snprintf(out, size, v < 99.95 ? "%.1f%c" : "%.0f%c", v, suffix[i]);
    return out;
}

/* Exact in the largest binary unit that divides, else with three digits. */
static void format_bytes(uint64_t bytes, const char *suffix, char *out, size_t size)
{
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    unsigned i = 0;
    uint64_t scale = 1;
    while (i < 4 && bytes / scale >= KIB) {
        scale *= KIB;
        i++;
    }
    if (bytes % scale == 0) {
        snprintf(out, size, "%llu%s%s", (unsigned long long)(bytes / scale), names[i], suffix);
        return;
    }
    double v = (double)bytes / (double)scale;
    int places = v < 9.995 ? 2 : v < 99.95 ? 1 : 0;
    snprintf(out, size, "%.*f%s%s", places, v, names[i], suffix);
}

char *units_format_bandwidth(uint64_t bytes_s, char *out, size_t size)
{
    if (bytes_s == UNITS_UNLIMITED)
        snprintf(out, size, "unlimited");
    else
        format_bytes(bytes_s, "/s", out, size);
    return out;
}

char *units_format_size(uint64_t bytes, char *out, size_t size)
{
    format_bytes(bytes, "", out, size);
    return out;
}

char *units_format_latency_us(uint64_t us, char *out, size_t size)
{
    if (us < 1000) {
        snprintf(out, size, "%lluus", (unsigned long long)us);
        return out;
    }
    bool seconds = us >= 999500;
    double v = (double)us / (seconds ? 1e6 : 1e3);
    int places = v < 9.995 ? 2 : v < 99.95 ? 1 : 0;
    snprintf(out, size, "%.*f%s", places, v, seconds ? "s" : "ms");
    return out;
}

/* Always exact: the largest unit that divides. */
char *units_format_duration_ns(uint64_t ns, char *out, size_t size)
{
    const struct unit *best = &duration_units[0];
    if (ns == 0)
        best = &duration_units[3];
    for (const struct unit *u = duration_units; u->name && ns != 0; u++) {
        if (ns % u->scale == 0)
            best = u;
    }
    snprintf(out, size, "%llu%s", (unsigned long long)(ns / best->scale), best->name);
    return out;
}

char *units_format_duration_iso(uint64_t ns, char *out, size_t size)
{
    char buf[64];
    size_t n = 0;
    uint64_t seconds = ns / NS_PER_S, rest = ns % NS_PER_S;
    uint64_t days = seconds / 86400, hours = seconds / 3600 % 24, minutes = seconds / 60 % 60;
    seconds %= 60;

    buf[n++] = 'P';
    if (days > 0)
        n += (size_t)snprintf(buf + n, sizeof(buf) - n, "%lluD", (unsigned long long)days);
    bool last = seconds > 0 || rest > 0 || ns == 0;
    if (hours > 0 || minutes > 0 || last)
        buf[n++] = 'T';
    if (hours > 0)
        n += (size_t)snprintf(buf + n, sizeof(buf) - n, "%lluH", (unsigned long long)hours);
    if (minutes > 0)
        n += (size_t)snprintf(buf + n, sizeof(buf) - n, "%lluM", (unsigned long long)minutes);
    if (last)
        n += (size_t)snprintf(buf + n, sizeof(buf) - n, "%llu", (unsigned long long)seconds);
    if (rest > 0) {
        n += (size_t)snprintf(buf + n, sizeof(buf) - n, ".%09llu", (unsigned long long)rest);
        while (buf[n - 1] == '0')
            n--;
    }
    if (last)
        buf[n++] = 'S';
    weir_assert(n < sizeof(buf));
    buf[n] = '\0';
    snprintf(out, size, "%s", buf);
    return out;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of documents.
 *
 * Problem: people write documents by hand, and rivals' silently ignored misspellings cost them
 * their limits. So every key must be known, every value must have its type, unit and range, and all
 * that is wrong is told at once.
 * Model: a struct is described by a table of fields; one function walks table and JSON together.
 * Values land in the struct by offset, in the canonical unit.
 *
 * Invariants
 *  1. Nothing is written for a value that was refused.
 *  2. The walk is as deep as the tables are, whatever the document's own depth; lists are read up
 *     to their bound.
 *  3. Every error has the path of its value; at most FIELD_MAX_ERRORS are told, each of bounded
 *     length. */
#include "server/model/field.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/name.h"
#include "base/units.h"

void field_reader_init(struct field_reader *r, struct text *errors)
{
    *r = (struct field_reader){.errors = errors};
}

static void path_append(struct field_reader *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A path that does not fit ends where the room does. */
static void path_append(struct field_reader *r, const char *format, ...)
{
    weir_assert(r->path_len < sizeof(r->path));
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(r->path + r->path_len, sizeof(r->path) - r->path_len, format, ap);
    va_end(ap);
    weir_assert(n >= 0);
    size_t len = r->path_len + (size_t)n;
    r->path_len = len < sizeof(r->path) ? len : sizeof(r->path) - 1;
}

size_t field_enter(struct field_reader *r, const char *key)
{
    size_t len = r->path_len;
    path_append(r, "%s%s", len > 0 ? "." : "", key);
    return len;
}

void field_leave(struct field_reader *r, size_t len)
{
    weir_assert(len <= r->path_len);
    r->path_len = len;
    r->path[len] = '\0';
}

/* Counts an error; false when it is beyond those that are told. */
static bool error_begin(struct field_reader *r)
{
    r->error_count++;
    if (r->error_count == FIELD_MAX_ERRORS + 1)
        text_append_str(r->errors, "there are more errors than these\n");
    return r->error_count <= FIELD_MAX_ERRORS;
}

void field_error(struct field_reader *r, const char *format, ...)
{
    if (!error_begin(r))
        return;
    char words[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(words, sizeof(words), format, ap);
    va_end(ap);
    if (r->path_len > 0)
        text_printf(r->errors, "%s: ", r->path);
    text_printf(r->errors, "%s\n", words);
}

/* Text from outside, quoted, printable and short. */
static void quote(const char *s, char *out, size_t size)
{
    size_t n = 0;
    weir_assert(size > 8);
    out[n++] = '"';
    for (; *s != '\0' && n + 6 < size; s++)
        out[n++] = (*s >= ' ' && *s <= '~') ? *s : '?';
    if (*s != '\0') {
        memcpy(out + n, "...", 3);
        n += 3;
    }
    out[n++] = '"';
    out[n] = '\0';
}

static void describe(const json_t *value, char *out, size_t size)
{
    if (value == NULL) {
        snprintf(out, size, "nothing");
        return;
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        snprintf(out, size, "an object");
        break;
    case JSON_ARRAY:
        snprintf(out, size, "a list");
        break;
    case JSON_STRING:
        quote(json_string_value(value), out, size);
        break;
    case JSON_INTEGER:
        snprintf(out, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        snprintf(out, size, "%.12g", json_real_value(value));
        break;
    case JSON_TRUE:
        snprintf(out, size, "true");
        break;
    case JSON_FALSE:
        snprintf(out, size, "false");
        break;
    case JSON_NULL:
        snprintf(out, size, "null");
        break;
    }
}

void field_error_found(struct field_reader *r, const json_t *value, const char *expected)
{
    char found[72];
    describe(value, found, sizeof(found));
    field_error(r, "found %s, expected %s", found, expected);
}

/* The text of a string value without NUL inside, else NULL. */
static const char *text_of(const json_t *value)
{
    const char *s = json_string_value(value);
    return s != NULL && strlen(s) == json_string_length(value) ? s : NULL;
}

/* Patterns are matched against escaped names: printable ASCII without what name_escape changes, '%'
 * aside. */
static bool pattern_is_valid(const char *s)
{
    size_t len = strlen(s);
    if (len == 0 || len >= NAME_SIZE)
        return false;
    bool open = false;
    for (; *s != '\0'; s++) {
        if (*s <= ' ' || *s > '~' || strchr("/\"\\<>&", *s) != NULL)
            return false;
        if (*s == '[')
            open = true;
        else if (*s == ']')
            open = false;
    }
    return !open;
}

static bool read_pattern(const json_t *value, char *at)
{
    const char *s = text_of(value);
    if (s == NULL || !pattern_is_valid(s))
        return false;
    memcpy(at, s, strlen(s) + 1);
    return true;
}

static bool in_range(const struct field *f, uint64_t n)
{
    return n <= INT64_MAX && (int64_t)n >= f->min && (int64_t)n <= f->max;
}

/* The 64-bit quantities: an integer in the canonical unit, or text with its unit. */
static bool read_quantity(const struct field *f, const json_t *value, uint64_t *at)
{
    const char *s = text_of(value);
    uint64_t n = 0;
    if (s != NULL) {
        int rc = WEIR_E_INVALID;
        if (f->type == FIELD_IOPS)
            rc = units_parse_iops(s, &n, NULL);
        else if (f->type == FIELD_BANDWIDTH)
            rc = units_parse_bandwidth(s, &n, NULL);
        else if (f->type == FIELD_LATENCY)
            rc = units_parse_latency_us(s, &n, NULL);
        else if (f->type == FIELD_DURATION)
            rc = units_parse_duration_ns(s, &n, NULL);
        if (rc != 0)
            return false;
        if (n == UNITS_UNLIMITED) {
            *at = f->none;
            return f->unlimited;
        }
    } else if (json_is_integer(value) && f->type != FIELD_LATENCY && f->type != FIELD_DURATION) {
        if (json_integer_value(value) < 0)
            return false;
        n = (uint64_t)json_integer_value(value);
    } else {
        return false;
    }
    if (!in_range(f, n))
        return false;
    *at = n;
    return true;
}

static bool read_percent(const struct field *f, const json_t *value, uint32_t *at)
{
    const char *s = text_of(value);
    uint32_t ppm = 0;
    if (s != NULL && f->type == FIELD_PERCENTILE && strcmp(s, "mean") == 0) {
        *at = 0;
        return true;
    }
    if (s != NULL) {
        if (units_parse_percent_ppm(s, &ppm, NULL) != 0)
            return false;
    } else if (json_is_number(value)) {
        double percent = json_number_value(value);
        if (!(percent >= 0 && percent <= 100))
            return false;
        ppm = (uint32_t)lround(percent * 10000);
    } else {
        return false;
    }
    if (!in_range(f, ppm))
        return false;
    *at = ppm;
    return true;
}

static bool read_integer(const struct field *f, const json_t *value, int32_t *at)
{
    if (!json_is_integer(value))
        return false;
    json_int_t n = json_integer_value(value);
    if (n < f->min || n > f->max)
        return false;
    *at = (int32_t)n;
    return true;
}

static bool word_index(const struct field *f, const json_t *value, int *ret)
{
    const char *s = text_of(value);
    for (int i = 0; s != NULL && f->words[i] != NULL; i++) {
        if (strcmp(s, f->words[i]) == 0) {
            *ret = i;
            return true;
        }
    }
    return false;
}

static bool read_mask(const struct field *f, const json_t *value, int32_t *at)
{
    if (!json_is_array(value) || json_array_size(value) == 0)
        return false;
    int32_t mask = 0;
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item)
    {
        int bit;
        if (!word_index(f, item, &bit) || (mask & (1 << bit)) != 0)
            return false;
        mask |= 1 << bit;
    }
    *at = mask;
    return true;
}

/* "HH:MM", 00:00 to 24:00. */
static bool read_minute(const struct field *f, const json_t *value, uint32_t *at)
{
    const char *s = text_of(value);
    if (s == NULL || strlen(s) != 5 || s[2] != ':')
        return false;
    for (int i = 0; i < 5; i++)
        if (i != 2 && (s[i] < '0' || s[i] > '9'))
            return false;
    int hour = (s[0] - '0') * 10 + (s[1] - '0');
    int minute = (s[3] - '0') * 10 + (s[4] - '0');
    int of_day = hour * 60 + minute;
    if (minute > 59 || of_day < f->min || of_day > f->max)
        return false;
    *at = (uint32_t)of_day;
    return true;
}

static void read_list(struct field_reader *r, const struct field *f, const json_t *value,
                      char *object)
{
    size_t n = json_array_size(value);
    if (!json_is_array(value) || n > f->max_items) {
        if (json_is_array(value))
            field_error(r, "found a list of %zu, expected %s", n, f->expected);
        else
            field_error_found(r, value, f->expected);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        size_t len = r->path_len;
        path_append(r, "[%zu]", i);
        field_read_object(r, f->table, object + f->at + i * f->stride, json_array_get(value, i),
                          NULL);
        field_leave(r, len);
    }
    memcpy(object + f->count_at, &n, sizeof(n));
}

/* One scalar; false when it is not what the field takes. */
static bool read_scalar(const struct field *f, const json_t *value, void *at)
{
    int word;
    switch (f->type) {
    case FIELD_PATTERN:
        return read_pattern(value, at);
    case FIELD_IOPS:
    case FIELD_BANDWIDTH:
    case FIELD_LATENCY:
    case FIELD_LATENCY_US:
    case FIELD_DURATION:
        return read_quantity(f, value, at);
    case FIELD_PERCENT:
    case FIELD_PERCENTILE:
        return read_percent(f, value, at);
    case FIELD_INTEGER:
        return read_integer(f, value, at);
    case FIELD_BOOL:
        if (!json_is_boolean(value))
            return false;
        *(bool *)at = json_is_true(value);
        return true;
    case FIELD_WORD:
        if (!word_index(f, value, &word))
            return false;
        memcpy(at, &word, sizeof(word));
        return true;
    case FIELD_DAY_MASK:
        return read_mask(f, value, at);
    case FIELD_MINUTE:
        return read_minute(f, value, at);
    case FIELD_OBJECT:
    case FIELD_LIST:
        break;
    }
    weir_assert(false);
    return false;
}

static bool holds_none(const struct field *f)
{
    return f->type == FIELD_IOPS || f->type == FIELD_BANDWIDTH;
}

static void read_field(struct field_reader *r, const struct field *f, char *object,
                       const json_t *all)
{
    const json_t *value = json_object_get(all, f->key);
    bool twin = f->twin != NULL && json_object_get(all, f->twin) != NULL;
    if (value == NULL && !(f->required && !twin))
        return;
    size_t len = field_enter(r, f->key);
    if (value == NULL || (json_is_null(value) && f->required)) {
        field_error_found(r, value, f->expected);
    } else if (twin) {
        field_error(r, "given beside \"%s\"; expected only one of the two", f->twin);
    } else if (json_is_null(value)) {
        if (holds_none(f))
            memcpy(object + f->at, &f->none, sizeof(f->none));
    } else if (f->type == FIELD_OBJECT) {
        field_read_object(r, f->table, object + f->at, value, NULL);
    } else if (f->type == FIELD_LIST) {
        read_list(r, f, value, object);
    } else if (!read_scalar(f, value, object + f->at)) {
        field_error_found(r, value, f->expected);
    }
    field_leave(r, len);
}

static bool key_known(const struct field_table *table, const char *const *also, const char *key)
{
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->field[i].key, key) == 0)
            return true;
    for (; also != NULL && *also != NULL; also++)
        if (strcmp(*also, key) == 0)
            return true;
    return false;
}

static void refuse_unknown(struct field_reader *r, const struct field_table *table,
                           const char *const *also, const json_t *value)
{
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)(uintptr_t)value, key, item)
    {
        if (key_known(table, also, key))
            continue;
        char shown[72], known[256] = "";
        quote(key, shown, sizeof(shown));
        for (size_t i = 0; i < table->count; i++) {
            size_t used = strlen(known);
            snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "",
                     table->field[i].key);
        }
        for (const char *const *a = also; table->count == 0 && a != NULL && *a != NULL; a++) {
            size_t used = strlen(known);
            snprintf(known + used, sizeof(known) - used, "%s%s", a != also ? ", " : "", *a);
        }
        field_error(r, "unknown key %s; known here: %s", shown, known);
    }
}

void field_read_object(struct field_reader *r, const struct field_table *table, void *object,
                       const json_t *value, const char *const *also)
{
    if (!json_is_object(value)) {
        field_error_found(r, value, "an object");
        return;
    }
    unsigned before = r->error_count;
    refuse_unknown(r, table, also, value);
    for (size_t i = 0; i < table->count; i++)
        read_field(r, &table->field[i], object, value);
    if (table->check != NULL && r->error_count == before)
        table->check(r, object);
}

json_t *field_render_number(uint64_t n, uint64_t none)
{
    return n == none ? json_null() : json_integer((json_int_t)n);
}

json_t *field_render_percent(uint32_t ppm)
{
    weir_assert(ppm <= 1000000);
    return ppm % 10000 == 0 ? json_integer(ppm / 10000) : json_real(ppm / 10000.0);
}

json_t *field_render_duration(uint64_t ns)
{
    char text[48];
    return json_string(units_format_duration_iso(ns, text, sizeof(text)));
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/units.h"

#define CELL_MAX 4096u
#define COLUMNS_MAX 32u
#define PATH_MAX_BYTES 128u

struct table {
    const struct table_column *columns[COLUMNS_MAX]; /* those that are shown */
    size_t column_count;
    enum table_style style;
    int64_t now_us;
    char **cells; /* rows x columns */
    size_t rows, cap;
};

struct table *table_new(const struct table_column *columns, size_t count, enum table_style style,
                        int64_t now_us)
{
    struct table *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->style = style;
    t->now_us = now_us;
    for (size_t i = 0; i < count; i++) {
        if (columns[i].wide && style == TABLE_STYLE_NARROW)
            continue;
        weir_assert(t->column_count < COLUMNS_MAX);
        t->columns[t->column_count++] = &columns[i];
    }
    return t;
}

void table_free(struct table *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->rows * t->column_count; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t);
}

size_t table_rows(const struct table *t)
{
    return t->rows;
}

static const json_t *value_at(const json_t *object, const char *path, size_t n)
{
    while (n > 0 && object) {
        char key[PATH_MAX_BYTES];
        const char *dot = memchr(path, '.', n);
        size_t len = dot ? (size_t)(dot - path) : n;
        if (len >= sizeof(key))
            return NULL;
        memcpy(key, path, len);
        key[len] = '\0';
        object = json_object_get(object, key);
        n -= dot ? len + 1 : len;
        path += dot ? len + 1 : len;
    }
    return object;
}

const json_t *table_value(const json_t *object, const char *path)
{
    return value_at(object, path, strlen(path));
}

/* The value of a column, as a fresh reference or NULL. */
static json_t *column_value(const json_t *object, const char *path)
{
    const char *plus = strchr(path, '+');
    if (!plus)
        return json_incref((json_t *)(uintptr_t)value_at(object, path, strlen(path)));
    const json_t *a = value_at(object, path, (size_t)(plus - path));
    const json_t *b = value_at(object, plus + 1, strlen(plus + 1));
    if (!json_is_number(a) || !json_is_number(b))
        return NULL;
    return json_integer((json_int_t)(json_number_value(a) + json_number_value(b)));
}

static void format_age(const char *s, int64_t now_us, struct text *out)
{
    int64_t at = clock_parse_wall_s(s);
    if (at == INT64_MIN) {
        text_append_escaped(out, s);
        return;
    }
    int64_t age = now_us / 1000000 - at;
    if (age < 0)
        age = 0;
    if (age < 120)
        text_printf(out, "%llds", (long long)age);
    else if (age < 2 * 3600)
        text_printf(out, "%lldm", (long long)age / 60);
    else if (age < 2 * 86400)
        text_printf(out, "%lldh", (long long)age / 3600);
    else
        text_printf(out, "%lldd", (long long)age / 86400);
}

static void format_list(const json_t *v, struct text *out)
{
    size_t i;
    json_t *item;
    json_array_foreach(v, i, item)
    {
        text_append_str(out, i ? "," : "");
        if (json_is_string(item))
            text_append_escaped(out, json_string_value(item));
    }
}

static void format_number(double v, enum table_format format, struct text *out)
{
    char s[64];
    uint64_t n = v < 0 ? 0 : v >= 1.8e19 ? UINT64_MAX - 1 : (uint64_t)(v + 0.5);
    switch (format) {
    case TABLE_COUNT:
        text_append_str(out, units_format_count(n, s, sizeof(s)));
        break;
    case TABLE_LATENCY:
        text_append_str(out, units_format_latency_us(n, s, sizeof(s)));
        break;
    case TABLE_RATE:
        text_append_str(out, units_format_bandwidth(n, s, sizeof(s)));
        break;
    case TABLE_SIZE:
        text_append_str(out, units_format_size(n, s, sizeof(s)));
        break;
    case TABLE_PERCENT:
        text_printf(out, "%.*f%%", v < 99.95 && v > 0 ? 1 : 0, v);
        break;
    case TABLE_TEXT:
    case TABLE_VERDICT:
    case TABLE_EXACT:
    case TABLE_AGE:
    case TABLE_LENGTH:
    case TABLE_LIST:
        text_printf(out, "%.15g", v);
        break;
    }
}

void table_format_value(const json_t *v, enum table_format format, int64_t now_us, struct text *out)
{
    if (!v || json_is_null(v))
        text_append_str(out, "-");
    else if (json_is_boolean(v))
        text_append_str(out, json_is_true(v) ? "yes" : "no");
    else if (json_is_string(v) && format == TABLE_AGE)
        format_age(json_string_value(v), now_us, out);
    else if (json_is_string(v))
        text_append_escaped(out, json_string_value(v));
    else if (json_is_array(v) && format == TABLE_LENGTH)
        text_printf(out, "%zu", json_array_size(v));
    else if (json_is_array(v))
        format_list(v, out);
    else if (json_is_integer(v) && format == TABLE_EXACT)
        text_printf(out, "%lld", (long long)json_integer_value(v));
    else if (json_is_number(v))
        format_number(json_number_value(v), format, out);
    else
        text_append_str(out, "?");
}

/* RFC 4180: quoted when needed. Control characters are escaped all the same: a CSV may be looked at
 * in a terminal, and no value of ours needs them. */
static void format_csv(const json_t *v, enum table_format format, struct text *out)
{
    struct text plain;
    text_init(&plain, CELL_MAX);
    if (json_is_integer(v))
        text_printf(&plain, "%lld", (long long)json_integer_value(v));
    else if (json_is_boolean(v))
        text_append_str(&plain, json_is_true(v) ? "true" : "false");
    else if (v && !json_is_null(v))
        table_format_value(v, format == TABLE_LENGTH ? format : TABLE_TEXT, 0, &plain);
    if (!plain.data[strcspn(plain.data, "\",")]) {
        text_append(out, plain.data, plain.len);
    } else {
        text_append_str(out, "\"");
        for (const char *s = plain.data; *s != '\0'; s++)
            text_append(out, *s == '"' ? "\"\"" : s, *s == '"' ? 2 : 1);
        text_append_str(out, "\"");
    }
    text_fini(&plain);
}

void table_add(struct table *t, const json_t *object)
{
    size_t n = t->column_count;
    if (t->rows == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 64;
        char **cells = reallocarray(t->cells, cap * n, sizeof(*cells));
        if (!cells)
            return;
        t->cells = cells;
        t->cap = cap;
    }
    for (size_t i = 0; i < n; i++) {
        struct text cell;
        text_init(&cell, CELL_MAX);
        json_t *v = column_value(object, t->columns[i]->path);
        if (t->style == TABLE_STYLE_CSV)
            format_csv(v, t->columns[i]->format, &cell);
        else
            table_format_value(v, t->columns[i]->format, t->now_us, &cell);
        json_decref(v);
        t->cells[t->rows * n + i] = strdup(cell.data);
        text_fini(&cell);
    }
    t->rows++;
}

/* Columns on the screen: one a character. */
static size_t display_width(const char *s)
{
    size_t n = 0;
    for (; *s != '\0'; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static bool aligns_right(enum table_format f)
{
    return f != TABLE_TEXT && f != TABLE_VERDICT && f != TABLE_LIST && f != TABLE_AGE;
}

static const char *color_of(const char *verdict)
{
    static const struct {
        const char *word, *color;
    } colors[] = {
        {"met", "\033[32m"},     {"failing", "\033[1;31m"}, {"excess", "\033[33m"},
        {"exempt", "\033[33m"},  {"lost", "\033[1;31m"},    {"admitted", "\033[32m"},
        {"draining", "\033[33m"}, {"drained", "\033[33m"},  {"asked", "\033[33m"},
        {"error", "\033[1;31m"}, {"warning", "\033[33m"},   {"sent", "\033[1m"},
    };
    for (size_t i = 0; i < sizeof(colors) / sizeof(colors[0]); i++) {
        if (strcmp(colors[i].word, verdict) == 0)
            return colors[i].color;
    }
    return NULL;
}

static void print_cell(const struct table *t, size_t column, const char *s, size_t width,
                       bool color, struct text *out)
{
    size_t pad = width - display_width(s);
    bool last = column + 1 == t->column_count;
    const char *tint = color && t->columns[column]->format == TABLE_VERDICT ? color_of(s) : NULL;
    text_append_str(out, column ? "  " : "");
    if (aligns_right(t->columns[column]->format))
        text_printf(out, "%*s", (int)pad, "");
    text_append_str(out, tint ? tint : "");
    text_append_str(out, s);
    text_append_str(out, tint ? "\033[0m" : "");
    if (!aligns_right(t->columns[column]->format) && !last)
        text_printf(out, "%*s", (int)pad, "");
}

static const char *cell_at(const struct table *t, size_t row, size_t column)
{
    const char *s = t->cells[row * t->column_count + column];
    return s ? s : "";
}

static void print_csv(const struct table *t, bool headers, struct text *out)
{
    for (size_t c = 0; headers && c < t->column_count; c++)
        text_printf(out, "%s%s", c ? "," : "", t->columns[c]->path);
    text_append_str(out, headers ? "\r\n" : "");
    for (size_t r = 0; r < t->rows; r++) {
        for (size_t c = 0; c < t->column_count; c++)
            text_printf(out, "%s%s", c ? "," : "", cell_at(t, r, c));
        text_append_str(out, "\r\n");
    }
}

void table_print(const struct table *t, bool headers, bool color, struct text *out)
{
    if (t->style == TABLE_STYLE_CSV) {
        print_csv(t, headers, out);
        return;
    }
    size_t width[COLUMNS_MAX] = {0};
    for (size_t c = 0; c < t->column_count; c++) {
        width[c] = headers ? strlen(t->columns[c]->header) : 0;
        for (size_t r = 0; r < t->rows; r++) {
            size_t w = display_width(cell_at(t, r, c));
            width[c] = w > width[c] ? w : width[c];
        }
    }
    for (size_t c = 0; headers && c < t->column_count; c++)
        print_cell(t, c, t->columns[c]->header, width[c], false, out);
    text_append_str(out, headers ? "\n" : "");
    for (size_t r = 0; r < t->rows; r++) {
        for (size_t c = 0; c < t->column_count; c++)
            print_cell(t, c, cell_at(t, r, c), width[c], color, out);
        text_append_str(out, "\n");
    }
}

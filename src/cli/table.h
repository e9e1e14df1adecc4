/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of JSON objects as an aligned table or as CSV. */
#ifndef WEIR_CLI_TABLE_H
#define WEIR_CLI_TABLE_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

/* How a value is shown to people. CSV has canonical values whatever the format. */
enum table_format {
    TABLE_TEXT,
    TABLE_VERDICT, /* text with a colour */
    TABLE_COUNT,   /* 12.3k */
    TABLE_EXACT,   /* 12345 */
    TABLE_LATENCY, /* of microseconds */
    TABLE_RATE,    /* of bytes per second */
    TABLE_SIZE,
    TABLE_PERCENT,
    TABLE_AGE,     /* of an instant: 5m */
    TABLE_LENGTH,  /* of an array */
    TABLE_LIST,    /* of text, with commas */
};

struct table_column {
    const char *header;
    /* "latency.total.p99Us"; two with "+" are added up. */
    const char *path;
    enum table_format format;
    bool wide; /* only shown in wide tables and CSV */
};

enum table_style { TABLE_STYLE_NARROW, TABLE_STYLE_WIDE, TABLE_STYLE_CSV };

struct table;

/* @columns are borrowed. NULL: no memory. */
struct table *table_new(const struct table_column *columns, size_t count, enum table_style style,
                        int64_t now_us);
void table_free(struct table *t);
/* One object; what is not there or null shows as "-" (CSV: nothing). */
void table_add(struct table *t, const json_t *object);
size_t table_rows(const struct table *t);
void table_print(const struct table *t, bool headers, bool color, struct text *out);

/* The value at a path, or NULL. */
const json_t *table_value(const json_t *object, const char *path);
/* One value for people, as a table would show it. */
void table_format_value(const json_t *value, enum table_format format, int64_t now_us,
                        struct text *out);

#endif

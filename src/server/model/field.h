/* SPDX-License-Identifier: Apache-2.0 */
/* Field reader: walks JSON objects by tables and says every error with its path, what was found and
 * expected. */
#ifndef WEIR_SERVER_MODEL_FIELD_H
#define WEIR_SERVER_MODEL_FIELD_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

/* So many errors of one document are told; the rest are only counted. */
#define FIELD_MAX_ERRORS 64u

/* What a value is, and how it lies in the struct. */
enum field_type {
    FIELD_PATTERN,    /* char[NAME_SIZE] */
    FIELD_IOPS,       /* uint64_t */
    FIELD_BANDWIDTH,  /* uint64_t, bytes/s */
    FIELD_LATENCY,    /* uint64_t, us; text with its unit */
    FIELD_LATENCY_US, /* uint64_t, us; an integer */
    FIELD_DURATION,   /* uint64_t, ns */
    FIELD_PERCENT,    /* uint32_t, ppm */
    FIELD_PERCENTILE, /* uint32_t, ppm; "mean" is 0 */
    FIELD_INTEGER,    /* int32_t or uint32_t */
    FIELD_BOOL,       /* bool */
    FIELD_WORD,       /* an enum: the index in words */
    FIELD_DAY_MASK,   /* int32_t: bits by index in words; a list of words */
    FIELD_MINUTE,     /* uint32_t: "18:30" as minutes of the day */
    FIELD_OBJECT,     /* a struct, by table */
    FIELD_LIST,       /* an array of structs, by table */
};

struct field_table;

struct field {
    const char *key;
    enum field_type type;
    bool required;            /* must be there and not null (its twin will do) */
    bool unlimited;           /* "unlimited" is said as null is: stores none */
    size_t at;                /* offset in the struct */
    int64_t min, max;         /* of the stored number, inclusive */
    uint64_t none;            /* what null stores, in the 64-bit types */
    const char *expected;     /* ends "expected ..." */
    const char *twin;         /* another key for the same place: only one may be given */
    const char *const *words; /* NULL-terminated */
    const struct field_table *table;
    size_t stride, max_items, count_at; /* of a list */
};

struct field_reader;

struct field_table {
    const struct field *field;
    size_t count;
    /* Looks at a whole struct once all its fields were right; may settle values. */
    void (*check)(struct field_reader *r, void *object);
};

struct field_reader {
    struct text *errors;
    unsigned error_count;
    size_t path_len;
    char path[192];
};

void field_reader_init(struct field_reader *r, struct text *errors);

/* Read @value into @object by @table. Keys in @also (NULL-terminated, may be NULL) are somebody
 * else's. What is not given is left as it is. Errors are in the reader. */
void field_read_object(struct field_reader *r, const struct field_table *table, void *object,
                       const json_t *value, const char *const *also);

/* Go into a key, and back to the length that was returned. */
size_t field_enter(struct field_reader *r, const char *key);
void field_leave(struct field_reader *r, size_t len);

/* "PATH: found FOUND, expected EXPECTED"; a NULL @value was not there at all. */
void field_error_found(struct field_reader *r, const json_t *value, const char *expected);
/* "PATH: WORDS". */
void field_error(struct field_reader *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* For rendering: null where @n is @none, else the integer; percentages as 99 or 99.9. New
 * references. */
json_t *field_render_number(uint64_t n, uint64_t none);
json_t *field_render_percent(uint32_t ppm);
json_t *field_render_duration(uint64_t ns);

#endif

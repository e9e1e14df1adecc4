/* SPDX-License-Identifier: Apache-2.0 */
/* From when until when certificates count, when that is worth a word, and in which words. Pure. */
#ifndef WEIR_BASE_DATES_H
#define WEIR_BASE_DATES_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Seconds since 1970 in which certificates count; all 0: there are none. */
struct dates {
    int64_t from_s, until_s; /* counts at from_s, no longer at until_s */
};

#define DATES_WARN_S (30 * INT64_C(86400)) /* so long before the end it is told first */
#define DATES_TEXT 160u

bool dates_any(const struct dates *d);
/* There are none, or they count at @now_s. */
bool dates_hold(const struct dates *d, int64_t now_s);

/* How much of its life is over, as far as people are to hear of it: grows from 0 (more than
 * DATES_WARN_S is left, or there are none) at 30, 14, 7, 3, 1 and 0 days before the end; one
 * that does not count yet has the step of one that is over. Say a word when it has grown. */
unsigned dates_step(const struct dates *d, int64_t now_s);

/* "it ended on 2026-01-02 03:04:05 UTC, 12 days ago", "it begins to count on ..., in 3 hours", "it
 * ends on ..., in 9 days". With @out of DATES_TEXT; returns @out. */
const char *dates_words(const struct dates *d, int64_t now_s, char *out, size_t size);

#endif

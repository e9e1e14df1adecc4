/* SPDX-License-Identifier: Apache-2.0 */
/* Windows of the week (UTC), and whether one of them is open; pure. */
#ifndef WEIR_SERVER_SERVICES_WEEK_H
#define WEIR_SERVER_SERVICES_WEEK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bit 0 of day_mask is Monday. A window whose end is before its start runs past midnight and
 * belongs to the day it starts. */
struct week_window {
    int32_t day_mask;
    uint32_t from_min, to_min; /* minutes of the day; to_min up to 1440 */
};

/* Whether one of them is open at @wall_us. */
bool week_open(const struct week_window *w, size_t count, int64_t wall_us);
/* Whether the two sets are ever open at once; an empty set is always open. */
bool week_meet(const struct week_window *a, size_t na, const struct week_window *b, size_t nb);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What views are made of: canonical numbers, texts and times as JSON; and the views that have a
 * file of their own. Each json_t is new, or NULL: no memory. Pure; borrows. */
#ifndef WEIR_SERVER_VIEW_PRIVATE_H
#define WEIR_SERVER_VIEW_PRIVATE_H
#include <jansson.h>
#include <stdint.h>

#include "base/clock.h"
#include "server/services/entity.h"
#include "server/sla.h"

static inline json_t *count(uint64_t n)
{
    return json_integer(n > (uint64_t)INT64_MAX ? INT64_MAX : (json_int_t)n);
}

static inline json_t *count_or_null(uint64_t n)
{
    return n == UINT64_MAX ? json_null() : count(n);
}

/* What cannot be text is shown as such, never left out. */
static inline json_t *text(const char *s)
{
    json_t *j = json_string(s);
    return j != NULL ? j : json_string("?");
}

static inline json_t *text_or_null(const char *s)
{
    return s[0] != '\0' ? text(s) : json_null();
}

static inline json_t *instant(int64_t wall_us)
{
    char out[40];
    clock_format_wall(wall_us, out, sizeof(out));
    return text(out);
}

static inline json_t *percent(double ppm)
{
    return json_real(ppm / 1e4);
}

static inline json_t *rates(uint64_t iops, uint64_t bytes_s)
{
    return json_pack("{s:o, s:o}", "iops", count_or_null(iops), "bandwidth",
                     count_or_null(bytes_s));
}

static inline json_t *latency_part(uint64_t mean, uint64_t p50, uint64_t p99, uint64_t max)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "meanUs", count(mean), "p50Us", count(p50), "p99Us",
                     count(p99), "maxUs", count(max));
}

/* One object for a target, whatever the number of gateways before it. */
void view_targets(const struct entities *e, const struct view_request *r, json_t *out);

#endif

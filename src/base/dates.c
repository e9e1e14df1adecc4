/* SPDX-License-Identifier: Apache-2.0 */
#include "base/dates.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/assert.h"

#define DAY_S INT64_C(86400)

bool dates_any(const struct dates *d)
{
    return d->from_s != 0 || d->until_s != 0;
}

bool dates_hold(const struct dates *d, int64_t now_s)
{
    return !dates_any(d) || (now_s >= d->from_s && now_s < d->until_s);
}

unsigned dates_step(const struct dates *d, int64_t now_s)
{
    static const int64_t left[] = {30 * DAY_S, 14 * DAY_S, 7 * DAY_S, 3 * DAY_S, DAY_S, 0};
    _Static_assert(DATES_WARN_S == 30 * DAY_S, "the first word is the first step");
    const unsigned last = sizeof(left) / sizeof(left[0]);
    unsigned step = 0;
    if (!dates_any(d))
        return 0;
    if (now_s < d->from_s)
        return last;
    while (step < last && now_s >= d->until_s - left[step])
        step++;
    return step;
}

/* "3 days": in the largest unit of which there are two. */
static void span_words(int64_t seconds, char *out, size_t size)
{
    static const struct {
        int64_t s;
        const char *unit;
    } units[] = {{DAY_S, "days"}, {3600, "hours"}, {60, "minutes"}, {1, "seconds"}};
    size_t i = 0;
    while (i + 1 < sizeof(units) / sizeof(units[0]) && seconds < 2 * units[i].s)
        i++;
    snprintf(out, size, "%" PRId64 " %s", seconds / units[i].s, units[i].unit);
}

const char *dates_words(const struct dates *d, int64_t now_s, char *out, size_t size)
{
    bool early = now_s < d->from_s, over = !early && now_s >= d->until_s;
    int64_t when = early ? d->from_s : d->until_s;
    char date[64] = "a time that has no date", span[48];
    struct tm tm;
    time_t t = (time_t)when;
    weir_assert(size >= DATES_TEXT);
    if (gmtime_r(&t, &tm) != NULL)
        (void)strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S UTC", &tm);
    span_words(over ? now_s - when : when - now_s, span, sizeof(span));
    snprintf(out, size, "it %s on %s, %s%s%s",
             early  ? "begins to count"
             : over ? "ended"
                    : "ends",
             date, over ? "" : "in ", span, over ? " ago" : "");
    return out;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

#include "base/assert.h"

uint64_t clock_mono_ns(void)
{
    struct timespec ts;
    int r = clock_gettime(CLOCK_MONOTONIC, &ts);
    weir_assert(r == 0);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

int64_t clock_wall_us(void)
{
    struct timespec ts;
    int r = clock_gettime(CLOCK_REALTIME, &ts);
    weir_assert(r == 0);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

void clock_format_wall(int64_t wall_us, char *text, size_t size)
{
    weir_assert(size >= 32);
    int64_t seconds = wall_us / 1000000;
    int64_t rest_us = wall_us % 1000000;
    if (rest_us < 0) {
        seconds--;
        rest_us += 1000000;
    }

    time_t t = (time_t)seconds;
    struct tm tm;
    /* RFC 3339 has four digits for the year; what lies outside is no time of ours. */
    if (!gmtime_r(&t, &tm) || tm.tm_year < -1900 || tm.tm_year > 9999 - 1900) {
        snprintf(text, size, "%s", seconds < 0 ? "0000-01-01T00:00:00.000Z"
                                                : "9999-12-31T23:59:59.999Z");
        return;
    }
    size_t n = strftime(text, size, "%Y-%m-%dT%H:%M:%S", &tm);
    /* strftime pads %Y with nothing; years below 1000 need their zeroes. */
    if (tm.tm_year < 1000 - 1900)
        n = (size_t)snprintf(text, size, "%04d-%02d-%02dT%02d:%02d:%02d", tm.tm_year + 1900,
                             tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
    weir_assert(n > 0 && n < size);
    snprintf(text + n, size - n, ".%03dZ", (int)(rest_us / 1000));
}

int64_t clock_parse_wall_s(const char *text)
{
    struct tm tm = {0};
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (rest == NULL || (*rest != 'Z' && *rest != '.'))
        return INT64_MIN;
    return (int64_t)timegm(&tm);
}

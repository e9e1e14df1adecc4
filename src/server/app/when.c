/* SPDX-License-Identifier: Apache-2.0 */
#include "server/app/when.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/err.h"

/* @digits digits at *@p as a number within [@low, @high]; moves *@p behind them. */
static bool number(const char **p, int digits, int low, int high, int *ret)
{
    int n = 0;
    for (int i = 0; i < digits; i++) {
        char c = (*p)[i];
        if (c < '0' || c > '9')
            return false;
        n = n * 10 + (c - '0');
    }
    *p += digits;
    *ret = n;
    return n >= low && n <= high;
}

static bool literal(const char **p, const char *any)
{
    if (**p == '\0' || !strchr(any, **p))
        return false;
    ++*p;
    return true;
}

static int days_of_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

/* Days from 1970-01-01 in the proleptic Gregorian calendar (H. Hinnant, "chrono-Compatible
 * Low-Level Date Algorithms", days_from_civil). */
static int64_t days_since_epoch(int year, int month, int day)
{
    int y = month <= 2 ? year - 1 : year;
    int era = y / 400, of_era = y - era * 400;
    int of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return (int64_t)era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static bool fraction(const char **p, int64_t *ret_us)
{
    int64_t us = 0, unit = 100000;
    *ret_us = 0;
    if (**p != '.')
        return true;
    const char *first = ++*p;
    for (; **p >= '0' && **p <= '9'; ++*p) {
        us += (**p - '0') * unit;
        unit /= 10;
    }
    *ret_us = us;
    return *p > first && *p - first <= 12;
}

static bool offset(const char **p, int *ret_minutes)
{
    *ret_minutes = 0;
    if (literal(p, "Zz"))
        return true;
    int sign = **p == '-' ? -1 : 1, hours, minutes;
    if (!literal(p, "+-") || !number(p, 2, 0, 23, &hours) || !literal(p, ":") ||
        !number(p, 2, 0, 59, &minutes))
        return false;
    *ret_minutes = sign * (hours * 60 + minutes);
    return true;
}

int when_parse(const char *text, int64_t *ret_us)
{
    const char *p = text;
    int year, month, day, hour, minute, second, zone;
    int64_t us;
    if (!number(&p, 4, 1970, 9999, &year) || !literal(&p, "-") || !number(&p, 2, 1, 12, &month) ||
        !literal(&p, "-") || !number(&p, 2, 1, days_of_month(year, month), &day) ||
        !literal(&p, "Tt "))
        return WEIR_E_INVALID;
    if (!number(&p, 2, 0, 23, &hour) || !literal(&p, ":") || !number(&p, 2, 0, 59, &minute) ||
        !literal(&p, ":") || !number(&p, 2, 0, 60, &second))
        return WEIR_E_INVALID;
    if (!fraction(&p, &us) || !offset(&p, &zone) || *p != '\0')
        return WEIR_E_INVALID;
    int64_t s =
        ((days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - zone) * 60 + second;
    if (s < 0)
        return WEIR_E_INVALID;
    *ret_us = s * 1000000 + us;
    return 0;
}

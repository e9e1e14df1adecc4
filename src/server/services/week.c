/* SPDX-License-Identifier: Apache-2.0 */
#include "server/services/week.h"

#define US_PER_MIN INT64_C(60000000)
#define MIN_PER_DAY INT64_C(1440)
#define DAYS 7

/* @day 0 is Monday. */
static bool open_at(const struct week_window *w, size_t count, int64_t day, int64_t minute)
{
    int64_t yesterday = (day + DAYS - 1) % DAYS;
    for (size_t i = 0; i < count; i++) {
        int64_t from = w[i].from_min, to = w[i].to_min;
        bool today = (w[i].day_mask >> day) & 1;
        bool since_yesterday = (w[i].day_mask >> yesterday) & 1;
        if (from < to) {
            if (today && minute >= from && minute < to)
                return true;
        } else if ((today && minute >= from) || (since_yesterday && minute < to)) {
            return true;
        }
    }
    return false;
}

bool week_open(const struct week_window *w, size_t count, int64_t wall_us)
{
    int64_t minutes = wall_us / US_PER_MIN;
    if (wall_us % US_PER_MIN < 0)
        minutes--;
    int64_t day = minutes / MIN_PER_DAY;
    if (minutes % MIN_PER_DAY < 0)
        day--;
    int64_t minute = minutes - day * MIN_PER_DAY;
    /* 1970-01-01 was a Thursday: weekday 3 when Monday is 0. */
    return open_at(w, count, ((day + 3) % DAYS + DAYS) % DAYS, minute);
}

bool week_meet(const struct week_window *a, size_t na, const struct week_window *b, size_t nb)
{
    if (na == 0 || nb == 0)
        return true;
    for (int64_t day = 0; day < DAYS; day++) {
        for (int64_t minute = 0; minute < MIN_PER_DAY; minute++) {
            if (open_at(a, na, day, minute) && open_at(b, nb, day, minute))
                return true;
        }
    }
    return false;
}

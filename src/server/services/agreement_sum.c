/* SPDX-License-Identifier: Apache-2.0 */
/* Reservations against the limits they share.
 *
 * Problem: each of several reservations may fit through a limit which all of them together do not.
 * Such promises cannot be kept however idle the storage is.
 *
 * Model: promises do not nest, so what is reserved by agreements that surely lie within a limit
 * adds up: a rate promised to one is not there for another. A promise to each stream counts as one
 * stream's, the least that it can mean. With schedules the sum is looked at at each minute of the
 * week at which one of them begins, since it only grows there.
 *
 * Invariants: (1) the answer and its words do not depend on the order of agreements; (2) nothing is
 * said of patterns that cannot be compared for sure (agreement_match.h). Cost: agreements times
 * beginnings, of which a week has 10,080 at most. What may fail: memory. */
#include "server/services/agreement_sum.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/services/agreement_match.h"

#define US_PER_MIN INT64_C(60000000)
#define MIN_PER_DAY 1440u
#define MIN_PER_WEEK (7u * MIN_PER_DAY)
#define THURSDAY 3u /* the epoch was one */

static const char *const units[GATE_KIND_COUNT] = {
    [GATE_IOPS_READ] = "reads a second",    [GATE_IOPS_WRITE] = "writes a second",
    [GATE_IOPS_TOTAL] = "I/Os a second",    [GATE_BYTES_READ] = "bytes read a second",
    [GATE_BYTES_WRITE] = "bytes written a second", [GATE_BYTES_TOTAL] = "bytes a second",
};

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Of one kind, or of both directions together. */
static uint64_t reserved(const struct agreement *a, enum gate_kind kind)
{
    switch (kind) {
    case GATE_IOPS_READ:
        return a->reservation_read_iops;
    case GATE_IOPS_WRITE:
        return a->reservation_write_iops;
    case GATE_IOPS_TOTAL:
        return larger(a->reservation_iops, a->reservation_read_iops + a->reservation_write_iops);
    case GATE_BYTES_READ:
        return a->reservation_read_bytes_s;
    case GATE_BYTES_WRITE:
        return a->reservation_write_bytes_s;
    case GATE_BYTES_TOTAL:
        return larger(a->reservation_bytes_s,
                      a->reservation_read_bytes_s + a->reservation_write_bytes_s);
    case GATE_KIND_COUNT:
        break;
    }
    return 0;
}

/* @minute of the week that begins where time does. */
static bool open_at(const struct week_window *w, size_t n, uint32_t minute)
{
    return n == 0 || week_open(w, n, (int64_t)minute * US_PER_MIN);
}

struct members {
    const struct agreement **of;
    size_t n;
    const struct week_window *schedule; /* of the limit */
    size_t schedule_count;
};

/* How many of them reserve something of @kind at @minute, and how much together. */
static size_t sum_at(const struct members *m, enum gate_kind kind, uint32_t minute, uint64_t *ret)
{
    size_t n = 0;
    *ret = 0;
    for (size_t i = 0; i < m->n; i++) {
        uint64_t r = reserved(m->of[i], kind);
        if (r == 0 || !open_at(m->of[i]->schedule, m->of[i]->schedule_count, minute))
            continue;
        *ret += r;
        n++;
    }
    return n;
}

static bool exceeded_at(const struct members *m, enum gate_kind kind, uint32_t minute,
                        uint64_t most)
{
    uint64_t sum;
    return open_at(m->schedule, m->schedule_count, minute) && sum_at(m, kind, minute, &sum) > 1 &&
           sum > most;
}

/* @tried: a bit for each minute of the week that was looked at before. */
static bool exceeded_where_begins(const struct members *m, enum gate_kind kind, uint64_t most,
                                  const struct week_window *w, size_t n, uint8_t *tried,
                                  uint32_t *ret_minute)
{
    for (size_t i = 0; i < n; i++) {
        for (uint32_t day = 0; day < 7; day++) {
            uint32_t minute =
                ((day + 7 - THURSDAY) % 7 * MIN_PER_DAY + w[i].from_min) % MIN_PER_WEEK;
            uint8_t bit = (uint8_t)(1u << minute % 8);
            if (((uint32_t)w[i].day_mask >> day & 1) == 0 || (tried[minute / 8] & bit) != 0)
                continue;
            tried[minute / 8] |= bit;
            if (!exceeded_at(m, kind, minute, most))
                continue;
            *ret_minute = minute;
            return true;
        }
    }
    return false;
}

/* When the sum is above @most; false: never. */
static bool exceeded(const struct members *m, enum gate_kind kind, uint64_t most,
                     uint32_t *ret_minute)
{
    uint64_t all = 0;
    uint8_t tried[MIN_PER_WEEK / 8] = {0};
    bool scheduled = m->schedule_count > 0;
    for (size_t i = 0; i < m->n; i++) {
        all += reserved(m->of[i], kind);
        scheduled = scheduled || m->of[i]->schedule_count > 0;
    }
    *ret_minute = 0;
    if (most == 0 || all <= most)
        return false;
    if (!scheduled)
        return exceeded_at(m, kind, 0, most);
    if (exceeded_where_begins(m, kind, most, m->schedule, m->schedule_count, tried, ret_minute))
        return true;
    if (exceeded_at(m, kind, 0, most)) /* those that are always open */
        return true;
    for (size_t i = 0; i < m->n; i++) {
        const struct agreement *a = m->of[i];
        if (exceeded_where_begins(m, kind, most, a->schedule, a->schedule_count, tried, ret_minute))
            return true;
    }
    return false;
}

static int by_name(const void *a, const void *b)
{
    const struct agreement *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static void say(const struct members *m, enum gate_kind kind, uint32_t minute, const char *what,
                const char *name, uint64_t most, struct text *ret)
{
    uint64_t sum;
    size_t n = sum_at(m, kind, minute, &sum);
    text_printf(ret,
                "%zu agreements together reserve %llu %s, and %s %s, which covers all their "
                "streams, lets %llu through: raise that limit or lower a reservation\n",
                n, (unsigned long long)sum, units[kind], what, name, (unsigned long long)most);
    for (size_t i = 0; i < m->n; i++) {
        const struct agreement *a = m->of[i];
        if (reserved(a, kind) > 0 && open_at(a->schedule, a->schedule_count, minute))
            text_printf(ret, "agreement %s reserves %llu %s\n", a->name,
                        (unsigned long long)reserved(a, kind), units[kind]);
    }
}

static bool beyond(struct members *m, const struct gate_limits *l, const char *what,
                   const char *name, struct text *ret)
{
    uint32_t minute;
    qsort(m->of, m->n, sizeof(const struct agreement *), by_name);
    for (int k = 0; k < GATE_KIND_COUNT; k++) {
        uint64_t most = l->rate[k].rate;
        if (!exceeded(m, (enum gate_kind)k, most, &minute))
            continue;
        say(m, (enum gate_kind)k, minute, what, name, most, ret);
        return true;
    }
    return false;
}

int agreement_sum_beyond(const struct agreement *wide, const struct agreement *const *all,
                         size_t n, struct text *ret)
{
    if (wide->per == AGREEMENT_PER_STREAM)
        return 0; /* its limit is each stream's, which has one promise */
    struct members m = {.schedule = wide->schedule, .schedule_count = wide->schedule_count};
    m.of = calloc(n + 1, sizeof(*m.of));
    if (m.of == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(all[i]->name, wide->name) == 0 || agreement_includes(wide, all[i]))
            m.of[m.n++] = all[i];
    }
    bool found = m.n > 1 && beyond(&m, &wide->limits, "agreement", wide->name, ret);
    free(m.of);
    return found;
}

int agreement_sum_beyond_tenant(const struct tenant *t, const struct agreement *const *all,
                                size_t n, struct text *ret)
{
    struct members m = {.schedule = NULL};
    m.of = calloc(n + 1, sizeof(*m.of));
    if (m.of == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        if (agreement_of_tenant(all[i], t))
            m.of[m.n++] = all[i];
    }
    bool found = m.n > 1 && beyond(&m, &t->limits, "tenant", t->name, ret);
    free(m.of);
    return found;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Overlap of agreements.
 *
 * Problem: of the agreements that select a stream the most specific counts, and specific means
 * which fields its selector names. Two that name the same fields and both select a stream leave
 * nothing to choose by. That must be refused when the second is applied, not found out when the
 * first stream comes.
 *
 * Model: a stream picks its host, volume, tenant and target independently, so two selectors meet
 * exactly when for each named field some name matches both patterns. A pattern is a sequence of
 * elements, each a set of characters or '*'; two patterns meet when their product automaton reaches
 * its end. All steps go forward in one of the two patterns, so one sweep over the table of pairs is
 * enough.
 *
 * A reservation is held against the limits of all that surely cover it: wider agreements, and the
 * tenant to which its streams belong. Where only some of its streams are covered nothing is
 * refused, and the tightest limit holds.
 *
 * Invariants: (1) agreement_patterns_meet is symmetric; (2) it is true whenever name_match takes
 * one name for both. It may be true without such a name only where no allowed name has the
 * character. */
#include "server/services/agreement_match.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

/* One element: any run of characters, or one character out of a set. */
struct element {
    bool star;
    uint64_t set[4];
};

static void set_add(struct element *e, unsigned char c)
{
    e->set[c >> 6] |= UINT64_C(1) << (c & 63);
}

/* The class behind '[' at @p into @e; what follows it, or NULL when it is not closed. The same
 * reading as name_match. */
static const char *class_parse(const char *p, struct element *e)
{
    bool negate = *p == '!' || *p == '^';
    if (negate)
        p++;
    for (const char *first = p; *p != '\0' && (*p != ']' || p == first); p++) {
        if (p[1] == '-' && p[2] != ']' && p[2] != '\0') {
            for (unsigned c = (unsigned char)p[0]; c <= (unsigned char)p[2]; c++)
                set_add(e, (unsigned char)c);
            p += 2;
        } else {
            set_add(e, (unsigned char)*p);
        }
    }
    if (*p != ']')
        return NULL;
    for (size_t i = 0; negate && i < 4; i++)
        e->set[i] = ~e->set[i];
    return p + 1;
}

static const char *element_parse(const char *p, struct element *ret)
{
    *ret = (struct element){.star = *p == '*'};
    if (*p == '*')
        return p + 1;
    if (*p == '?') {
        memset(ret->set, 0xff, sizeof(ret->set));
        return p + 1;
    }
    if (*p == '[') {
        const char *next = class_parse(p + 1, ret);
        if (next)
            return next;
        *ret = (struct element){.star = false};
    }
    if (*p == '\\' && p[1] != '\0')
        p++;
    set_add(ret, (unsigned char)*p);
    return p + 1;
}

static size_t pattern_parse(const char *pattern, struct element out[NAME_SIZE])
{
    size_t n = 0;
    while (*pattern != '\0') {
        weir_assert(n < NAME_SIZE);
        pattern = element_parse(pattern, &out[n++]);
    }
    return n;
}

static bool sets_meet(const struct element *a, const struct element *b)
{
    for (size_t i = 0; i < 4; i++) {
        if (a->set[i] & b->set[i])
            return true;
    }
    return false;
}

bool agreement_patterns_meet(const char *a, const char *b)
{
    struct element ea[NAME_SIZE], eb[NAME_SIZE];
    weir_assert(strlen(a) < NAME_SIZE);
    weir_assert(strlen(b) < NAME_SIZE);
    size_t na = pattern_parse(a, ea), nb = pattern_parse(b, eb);

    /* here[j]: the pair (i, j) is reached; next: (i + 1, j). */
    bool here[NAME_SIZE + 1] = {true}, next[NAME_SIZE + 1];
    for (size_t i = 0; i <= na; i++) {
        memset(next, 0, sizeof(next));
        for (size_t j = 0; j <= nb; j++) {
            if (!here[j])
                continue;
            bool star_a = i < na && ea[i].star, star_b = j < nb && eb[j].star;
            if (star_a)
                next[j] = true; /* the star takes nothing more */
            if (star_b || (star_a && j < nb))
                here[j + 1] = true;
            if (star_b && i < na)
                next[j] = true; /* b's star takes what a asks for */
            if (!star_a && !star_b && i < na && j < nb && sets_meet(&ea[i], &eb[j]))
                next[j + 1] = true;
        }
        if (i < na)
            memcpy(here, next, sizeof(here));
    }
    return here[nb];
}

static bool fields_meet(const char *a, const char *b)
{
    return a[0] == '\0' || agreement_patterns_meet(a, b);
}

bool agreement_conflicts(const struct agreement *a, const struct agreement *b)
{
    const struct selector *x = &a->applies_to, *y = &b->applies_to;
    if (strcmp(a->name, b->name) == 0 || a->fallback != b->fallback)
        return false;
    if ((x->tenant[0] == '\0') != (y->tenant[0] == '\0') ||
        (x->host[0] == '\0') != (y->host[0] == '\0') ||
        (x->volume[0] == '\0') != (y->volume[0] == '\0') ||
        (x->target[0] == '\0') != (y->target[0] == '\0'))
        return false;
    return fields_meet(x->tenant, y->tenant) && fields_meet(x->host, y->host) &&
           fields_meet(x->volume, y->volume) && fields_meet(x->target, y->target) &&
           week_meet(a->schedule, a->schedule_count, b->schedule, b->schedule_count);
}

/* Whether @wide surely selects all that @narrow does: never true when it does not. */
static bool field_includes(const char *wide, const char *narrow)
{
    if (wide[0] == '\0' || strcmp(wide, "*") == 0 || strcmp(wide, narrow) == 0)
        return true;
    return narrow[0] != '\0' && strpbrk(narrow, "*?[\\") == NULL && name_match(wide, narrow);
}

static bool includes(const struct selector *wide, const struct selector *narrow)
{
    return field_includes(wide->tenant, narrow->tenant) &&
           field_includes(wide->host, narrow->host) &&
           field_includes(wide->volume, narrow->volume) &&
           field_includes(wide->target, narrow->target);
}

bool agreement_includes(const struct agreement *wide, const struct agreement *narrow)
{
    return wide->fallback == narrow->fallback && includes(&wide->applies_to, &narrow->applies_to);
}

static bool above(uint64_t reserved, const struct gate_limits *l, enum gate_kind kind)
{
    uint64_t most = l->rate[kind].rate;
    return most != 0 && reserved > most;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Whether @a reserves more than @l lets through: of one direction, or of both together. */
static bool reserves_above(const struct agreement *a, const struct gate_limits *l)
{
    uint64_t iops = a->reservation_read_iops + a->reservation_write_iops;
    uint64_t bytes = a->reservation_read_bytes_s + a->reservation_write_bytes_s;
    return above(larger(a->reservation_iops, iops), l, GATE_IOPS_TOTAL) ||
           above(a->reservation_read_iops, l, GATE_IOPS_READ) ||
           above(a->reservation_write_iops, l, GATE_IOPS_WRITE) ||
           above(larger(a->reservation_bytes_s, bytes), l, GATE_BYTES_TOTAL) ||
           above(a->reservation_read_bytes_s, l, GATE_BYTES_READ) ||
           above(a->reservation_write_bytes_s, l, GATE_BYTES_WRITE);
}

/* @wide covers @narrow: everything that is promised there must fit through here. A promise to a
 * whole group against a limit of each stream says nothing. */
static bool leaves_no_room(const struct agreement *wide, const struct agreement *narrow)
{
    if (wide->per == AGREEMENT_PER_STREAM && narrow->per == AGREEMENT_PER_GROUP)
        return false;
    if (!agreement_includes(wide, narrow) ||
        !week_meet(wide->schedule, wide->schedule_count, narrow->schedule, narrow->schedule_count))
        return false;
    return reserves_above(narrow, &wide->limits);
}

/* Streams may be told to be another tenant's by their gateway, or by an earlier document: then
 * members mean what they do not do, and are refused. */
bool agreement_of_tenant(const struct agreement *a, const struct tenant *t)
{
    struct selector of = a->applies_to;
    if (of.tenant[0] != '\0')
        return strcmp(of.tenant, t->name) == 0;
    for (size_t i = 0; i < t->member_count; i++) {
        struct selector member = t->member[i];
        member.tenant[0] = '\0';
        if (includes(&member, &of))
            return true;
    }
    return false;
}

bool agreement_beyond_tenant(const struct agreement *a, const struct tenant *t, char *ret_words,
                             size_t size)
{
    if (!agreement_of_tenant(a, t) || !reserves_above(a, &t->limits))
        return false;
    snprintf(ret_words, size,
             "agreement %s reserves more than the limit of tenant %s, to which all its streams "
             "belong, lets through: raise that limit or lower the reservation",
             a->name, t->name);
    return true;
}

bool agreement_contradicts(const struct agreement *a, const struct agreement *b)
{
    return strcmp(a->name, b->name) != 0 && (leaves_no_room(a, b) || leaves_no_room(b, a));
}

bool agreement_clashes(const struct agreement *a, const struct agreement *b, char *ret_words,
                       size_t size)
{
    if (agreement_conflicts(a, b)) {
        snprintf(ret_words, size,
                 "agreements %s and %s have the same rank and can select the same stream: neither "
                 "is more specific; make one of them so, or their patterns or schedules disjoint",
                 a->name, b->name);
        return true;
    }
    if (!agreement_contradicts(a, b))
        return false;
    bool by_b = strcmp(a->name, b->name) != 0 && leaves_no_room(b, a);
    snprintf(ret_words, size,
             "agreement %s reserves more than agreement %s, which covers all its streams, lets "
             "through: raise that limit or lower the reservation",
             by_b ? a->name : b->name, by_b ? b->name : a->name);
    return true;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Documents, and which of them a stream falls under.
 *
 * Problem: several agreements may select one stream, and documents and streams come in any order.
 *
 * Model: an agreement's rank is the set of fields its selector names, read as a number: volume 8,
 * host 4, tenant 2, target 1. So a stream (host and volume) comes before a volume, that before a
 * host, a tenant, a target, and the agreement for all; of two that name the same fields neither
 * wins, and the newcomer is refused when some stream could fall under both (agreement_match.h). A
 * stream's tenant is what its gateway was configured to say, else the first tenant document that
 * counts it a member.
 *
 * Invariants: (1) a stream is linked to the highest ranking agreement that selects it, and to no
 * other; the result does not depend on the order of arrival; (2) an agreement is replaced in place,
 * so pointers to it stay valid while its name exists; (3) whatever changes what controls are made
 * of raises s->generation. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/services/agreement_match.h"
#include "server/services/state.h"

static bool pattern_match(const char *pattern, const char *name)
{
    return pattern[0] == '\0' || name_match(pattern, name);
}

bool selector_match(const struct selector *sel, const char *tenant, const char *host,
                    const char *volume, const char *target)
{
    return pattern_match(sel->tenant, tenant) && pattern_match(sel->host, host) &&
           pattern_match(sel->volume, volume) && pattern_match(sel->target, target);
}

bool selector_match_stream(const struct selector *sel, const struct stream *st)
{
    return selector_match(sel, st->e.tenant, st->e.host, st->e.volume, st->e.target_name);
}

uint32_t selector_rank(const struct selector *sel)
{
    return (sel->volume[0] ? 8u : 0u) | (sel->host[0] ? 4u : 0u) | (sel->tenant[0] ? 2u : 0u) |
           (sel->target[0] ? 1u : 0u);
}

/* --- one stream
 * --------------------------------------------------------------------------------------- */

static void stream_link(struct services *s, struct stream *st, struct agreed *a)
{
    if (st->agreed == a)
        return;
    if (st->agreed != NULL) {
        list_remove(&st->in_agreed);
        st->agreed->e.streams--;
    }
    st->agreed = a;
    st->e.agreement = a != NULL ? &a->e.agreement : NULL;
    st->e.objective = NULL;
    st->e.judged_latency_us = 0;
    st->e.verdict = VERDICT_NONE;
    analyzer_unit_clear(&st->unit);
    if (a != NULL) {
        list_push_back(&a->streams, &st->in_agreed);
        a->e.streams++;
    }
    s->generation++;
}

static bool ranks_above(const struct agreed *a, const struct agreed *b)
{
    uint32_t ra = selector_rank(&a->e.agreement.applies_to);
    uint32_t rb = selector_rank(&b->e.agreement.applies_to);
    /* Equal rank was refused when it was put; what came in all the same is settled by name. */
    return ra != rb ? ra > rb : strcmp(a->e.agreement.name, b->e.agreement.name) < 0;
}

static void stream_find_agreement(struct services *s, struct stream *st)
{
    struct agreed *best = NULL;
    list_for_each(it, &s->e.agreements) {
        struct agreed *a = container_of(it, struct agreed, e.link);
        if (selector_match_stream(&a->e.agreement.applies_to, st) &&
            (best == NULL || ranks_above(a, best)))
            best = a;
    }
    stream_link(s, st, best);
}

static bool tenant_counts(const struct tenant *t, const struct stream *st)
{
    for (size_t i = 0; i < t->member_count; i++) {
        if (selector_match(&t->member[i], "", st->e.host, st->e.volume, st->e.target_name))
            return true;
    }
    return false;
}

static void stream_find_tenant(struct services *s, struct stream *st)
{
    int32_t found = -1;
    for (size_t i = 0; i < s->e.tenant_count && found < 0; i++) {
        if (st->tenant_reported[0] ? strcmp(s->tenants[i].name, st->tenant_reported) == 0
                                   : tenant_counts(&s->tenants[i], st))
            found = (int32_t)i;
    }
    if (found != st->tenant)
        s->generation++;
    st->tenant = found;
    if (st->tenant_reported[0])
        memcpy(st->e.tenant, st->tenant_reported, NAME_SIZE);
    else if (found >= 0)
        memcpy(st->e.tenant, s->tenants[found].name, NAME_SIZE);
    else
        memset(st->e.tenant, 0, NAME_SIZE);
}

void select_stream(struct services *s, struct stream *st)
{
    stream_find_tenant(s, st);
    stream_find_agreement(s, st);
    s->generation++;
}

void select_stream_drop(struct services *s, struct stream *st)
{
    stream_link(s, st, NULL);
    st->tenant = -1;
}

/* --- agreements
 * --------------------------------------------------------------------------------------- */

static struct agreed *agreement_find(struct services *s, const char *name)
{
    list_for_each(it, &s->e.agreements) {
        struct agreed *a = container_of(it, struct agreed, e.link);
        if (strcmp(a->e.agreement.name, name) == 0)
            return a;
    }
    return NULL;
}

static int agreement_check(struct services *s, const struct agreement *a, char *ret_words,
                           size_t size)
{
    list_for_each(it, &s->e.agreements) {
        struct agreed *other = container_of(it, struct agreed, e.link);
        if (!agreement_conflicts(a, &other->e.agreement))
            continue;
        words(
            ret_words, size,
            "agreements %s and %s name the same fields and can select the same stream: neither is "
            "more specific; make one of them so, or their patterns disjoint",
            a->name, other->e.agreement.name);
        return WEIR_E_CONFLICT;
    }
    return 0;
}

static struct agreed *agreement_new(struct services *s)
{
    if (s->e.agreement_count >= SERVICES_MAX_AGREEMENTS)
        return NULL;
    struct agreed *a = calloc(1, sizeof(*a));
    if (a == NULL)
        return NULL;
    list_init(&a->streams);
    analyzer_unit_clear(&a->unit);
    list_push_back(&s->e.agreements, &a->e.link);
    s->e.agreement_count++;
    return a;
}

int select_agreement_put(struct services *s, const struct agreement *a, char *ret_words,
                         size_t size)
{
    weir_assert(a->objective_count <= AGREEMENT_MAX_OBJECTIVES);
    if (size > 0)
        ret_words[0] = '\0';
    int err = agreement_check(s, a, ret_words, size);
    if (err < 0)
        return err;
    struct agreed *into = agreement_find(s, a->name);
    if (into == NULL) {
        into = agreement_new(s);
        if (into == NULL) {
            words(ret_words, size, "no room for agreement %s: %u are the bound", a->name,
                  SERVICES_MAX_AGREEMENTS);
            return WEIR_E_FULL;
        }
    }
    into->e.agreement = *a;
    into->e.verdict = VERDICT_NONE;
    analyzer_unit_clear(&into->unit);
    list_for_each_safe(it, &s->e.streams) {
        struct stream *st = container_of(it, struct stream, e.link);
        if (st->agreed == into) {
            st->e.objective = NULL;
            st->e.verdict = VERDICT_NONE;
            analyzer_unit_clear(&st->unit);
            stream_find_agreement(s, st);
        } else if (selector_match_stream(&a->applies_to, st) &&
                   (st->agreed == NULL || ranks_above(into, st->agreed))) {
            stream_link(s, st, into);
        }
    }
    s->generation++;
    return 0;
}

int select_agreement_remove(struct services *s, const char *name)
{
    struct agreed *a = agreement_find(s, name);
    if (a == NULL)
        return WEIR_E_NOT_FOUND;
    list_remove(&a->e.link);
    s->e.agreement_count--;
    while (!list_empty(&a->streams)) {
        struct stream *st = container_of(a->streams.next, struct stream, in_agreed);
        stream_find_agreement(s, st);
        weir_assert(st->agreed != a);
    }
    free(a);
    s->generation++;
    return 0;
}

/* --- tenants and policies: sorted by name, so that "the first" does not depend on the order of
 * arrival - */

static void all_streams_anew(struct services *s)
{
    list_for_each(it, &s->e.streams)
        select_stream(s, container_of(it, struct stream, e.link));
}

/* Room for one more of @size bytes. */
static int array_grow(void **array, size_t *cap, size_t count, size_t size)
{
    if (count < *cap)
        return 0;
    size_t want = *cap == 0 ? 8 : 2 * *cap;
    void *bigger = reallocarray(*array, want, size);
    if (bigger == NULL)
        return -ENOMEM;
    *array = bigger;
    *cap = want;
    return 0;
}

int select_tenant_put(struct services *s, const struct tenant *t)
{
    weir_assert(t->member_count <= TENANT_MAX_MEMBERS);
    size_t n = s->e.tenant_count, at = 0;
    while (at < n && strcmp(s->tenants[at].name, t->name) < 0)
        at++;
    if (at == n || strcmp(s->tenants[at].name, t->name) != 0) {
        void *array = s->tenants, *walks = s->tenancies;
        size_t walks_cap = s->tenants_cap;
        if (n >= SERVICES_MAX_TENANTS)
            return WEIR_E_FULL;
        if (array_grow(&walks, &walks_cap, n, sizeof(*s->tenancies)) < 0)
            return WEIR_E_FULL;
        s->tenancies = walks;
        int err = array_grow(&array, &s->tenants_cap, n, sizeof(*s->tenants));
        s->tenants = array;
        if (err < 0)
            return WEIR_E_FULL;
        memmove(&s->tenants[at + 1], &s->tenants[at], (n - at) * sizeof(*s->tenants));
        s->e.tenant_count++;
    }
    s->tenants[at] = *t;
    memset(s->tenancies, 0, s->e.tenant_count * sizeof(*s->tenancies));
    s->e.tenants = s->tenants;
    all_streams_anew(s);
    s->generation++;
    return 0;
}

int select_tenant_remove(struct services *s, const char *name)
{
    for (size_t i = 0; i < s->e.tenant_count; i++) {
        if (strcmp(s->tenants[i].name, name) != 0)
            continue;
        s->e.tenant_count--;
        memmove(&s->tenants[i], &s->tenants[i + 1],
                (s->e.tenant_count - i) * sizeof(*s->tenants));
        memset(s->tenancies, 0, s->e.tenant_count * sizeof(*s->tenancies));
        all_streams_anew(s);
        s->generation++;
        return 0;
    }
    return WEIR_E_NOT_FOUND;
}

int select_policy_put(struct services *s, const struct policy *p)
{
    weir_assert(p->freeze_count <= POLICY_MAX_FREEZES);
    size_t n = s->e.policy_count, at = 0;
    while (at < n && strcmp(s->policies[at].name, p->name) < 0)
        at++;
    if (at == n || strcmp(s->policies[at].name, p->name) != 0) {
        void *array = s->policies;
        if (n >= SERVICES_MAX_POLICIES)
            return WEIR_E_FULL;
        int err = array_grow(&array, &s->policies_cap, n, sizeof(*s->policies));
        s->policies = array;
        if (err < 0)
            return WEIR_E_FULL;
        memmove(&s->policies[at + 1], &s->policies[at], (n - at) * sizeof(*s->policies));
        s->e.policy_count++;
    }
    s->policies[at] = *p;
    s->e.policies = s->policies;
    return 0;
}

int select_policy_remove(struct services *s, const char *name)
{
    for (size_t i = 0; i < s->e.policy_count; i++) {
        if (strcmp(s->policies[i].name, name) != 0)
            continue;
        s->e.policy_count--;
        memmove(&s->policies[i], &s->policies[i + 1],
                (s->e.policy_count - i) * sizeof(*s->policies));
        return 0;
    }
    return WEIR_E_NOT_FOUND;
}

void select_free(struct services *s)
{
    while (!list_empty(&s->e.agreements)) {
        struct agreed *a = container_of(list_pop_front(&s->e.agreements), struct agreed, e.link);
        weir_assert(list_empty(&a->streams));
        free(a);
    }
    free(s->tenants);
    free(s->tenancies);
    free(s->policies);
}

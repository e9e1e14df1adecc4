/* SPDX-License-Identifier: Apache-2.0 */
/* Documents, and which of them a stream falls under.
 *
 * Problem: several agreements may select one stream, and documents and streams come in any order.
 *
 * Model: precedence.h says which of them cover a stream and which one makes its promise. Of two
 * that name the same fields neither wins, and the newcomer is refused when some stream could fall
 * under both; likewise one that reserves more than a wider one lets through (agreement_match.h). A
 * stream's tenant is what its gateway was configured to say, else the first tenant document that
 * counts it a member. An agreement outside its schedule is as if it were not there.
 *
 * Invariants: (1) a stream is linked to exactly the agreements that precedence_of says; the result
 * does not depend on the order of arrival; (2) an agreement is replaced in place,
 * so pointers to it stay valid while its name exists; (3) whatever changes what controls are made
 * of raises s->generation, or touches the gateway whose controls alone it concerns. */
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

/* --- one stream
 * --------------------------------------------------------------------------------------- */

static void promise_link(struct services *s, struct stream *st, struct agreed *a)
{
    if (st->agreed == a)
        return;
    if (st->agreed != NULL)
        list_remove(&st->in_agreed);
    st->agreed = a;
    st->e.agreement = a != NULL ? &a->e.agreement : NULL;
    st->e.objective = NULL;
    st->e.judged_latency_us = 0;
    st->e.verdict = VERDICT_NONE;
    analyzer_unit_clear(&st->unit);
    if (a != NULL)
        list_push_back(&a->streams, &st->in_agreed);
    gateway_touch(s, st->gateway);
}

static bool covers_same(const struct stream *st, const struct precedence_row *rows, size_t n)
{
    if (st->cover_count != n)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (&st->cover[i].agreed->e != rows[i].agreement)
            return false;
    }
    return true;
}

static void covers_leave(struct stream *st)
{
    for (size_t i = 0; i < st->cover_count; i++) {
        list_remove(&st->cover[i].in_agreed);
        st->cover[i].agreed->e.streams--;
    }
    st->cover_count = 0;
}

static void covers_drop(struct services *s, struct stream *st)
{
    covers_leave(st);
    claim_unlink(s, st);
}

static void covers_link(struct services *s, struct stream *st, const struct precedence_row *rows,
                        size_t n)
{
    struct part *was[STREAM_PARTS];
    if (covers_same(st, rows, n))
        return;
    claim_parts_take(st, was);
    covers_leave(st);
    for (size_t i = 0; i < n; i++) {
        struct cover *c = &st->cover[i];
        c->stream = st;
        c->agreed = (struct agreed *)(uintptr_t)rows[i].agreement;
        list_push_back(&c->agreed->covered, &c->in_agreed);
        c->agreed->e.streams++;
    }
    st->cover_count = (uint32_t)n;
    claim_relink(s, st, was);
}

static void say_left_out(struct services *s, struct stream *st, const struct agreement *a)
{
    char subject[SUBJECT_SIZE];
    if (st->left_out_said)
        return;
    st->left_out_said = true;
    note_stream_subject(st, subject, sizeof(subject));
    note_event(s, EVENT_ERROR, "agreement-left-out", subject,
               "agreement %s does not hold for %s: %u more specific ones cover it, as many as may",
               a->name, st->e.key, PRECEDENCE_MAX_COVER);
}

static void stream_find_agreement(struct services *s, struct stream *st)
{
    struct precedence_row rows[PRECEDENCE_MAX_COVER + 1];
    size_t n, covering;
    covering = precedence_of(&s->e.agreements, &st->e, rows, PRECEDENCE_MAX_COVER + 1, &n);
    if (st->gateway->e.waits)
        covering = n = 0; /* nobody admitted it: it takes no share of anything */
    covers_link(s, st, rows, covering);
    struct agreed *promise = NULL;
    for (size_t i = 0; i < covering; i++) {
        if (rows[i].says == PRECEDENCE_PROMISE)
            promise = st->cover[i].agreed;
    }
    promise_link(s, st, promise);
    if (n > covering && rows[covering].says == PRECEDENCE_TOO_MANY)
        say_left_out(s, st, &rows[covering].agreement->agreement);
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
    int32_t holds = st->gateway->e.waits ? -1 : found; /* limits of the tenant; the name is shown */
    if (holds != st->tenant)
        gateway_touch(s, st->gateway);
    st->tenant = holds;
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
    claim_link(s, st); /* tenant or target may be new though covers are not */
}

void select_stream_drop(struct services *s, struct stream *st)
{
    promise_link(s, st, NULL);
    covers_drop(s, st);
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
        if (agreement_clashes(a, &other->e.agreement, ret_words, size))
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
    list_init(&a->covered);
    analyzer_unit_clear(&a->unit);
    list_push_back(&s->e.agreements, &a->e.link);
    s->e.agreement_count++;
    return a;
}

static bool covered_by(const struct stream *st, const struct agreed *a)
{
    for (size_t i = 0; i < st->cover_count; i++) {
        if (st->cover[i].agreed == a)
            return true;
    }
    return false;
}

/* Find anew for every stream that @a covers or might. A verdict given by older numbers of it is
 * void. */
static void agreement_settle(struct services *s, struct agreed *a)
{
    list_for_each_safe(it, &s->e.streams) {
        struct stream *st = container_of(it, struct stream, e.link);
        if (covered_by(st, a))
            claim_link(s, st); /* its numbers, or whom they hold for, may have changed */
        if (st->agreed == a) {
            st->e.objective = NULL;
            st->e.verdict = VERDICT_NONE;
            analyzer_unit_clear(&st->unit);
        }
        if (covered_by(st, a) || selector_match_stream(&a->e.agreement.applies_to, st))
            stream_find_agreement(s, st);
    }
    s->generation++;
}

static bool agreement_asleep(const struct services *s, const struct agreement *a)
{
    return a->schedule_count > 0 && !week_open(a->schedule, a->schedule_count, s->wall_us);
}

/* Compliance is counted by version: what the old one came to is written down. */
static void say_changed(struct services *s, const struct agreed *old, const struct agreement *new)
{
    char subject[SUBJECT_SIZE];
    const struct agreement *a = &old->e.agreement;
    if (a->version == new->version)
        return;
    words(subject, sizeof(subject), "agreement/%s", a->name);
    note_event(s, EVENT_INFO, "agreement-changed", subject,
               "agreement %s: version %llu holds from now on; %llu of %llu windows were met under "
               "version %llu",
               a->name, (unsigned long long)new->version, (unsigned long long)old->e.windows_met,
               (unsigned long long)old->e.windows, (unsigned long long)a->version);
}

int select_agreement_put(struct services *s, const struct agreement *a, char *ret_words,
                         size_t size)
{
    weir_assert(a->objective_count <= AGREEMENT_MAX_OBJECTIVES);
    weir_assert(a->schedule_count <= AGREEMENT_MAX_WINDOWS);
    if (size > 0)
        ret_words[0] = '\0';
    int err = agreement_check(s, a, ret_words, size);
    if (err < 0)
        return err;
    struct agreed *into = agreement_find(s, a->name);
    if (into != NULL) {
        say_changed(s, into, a);
    } else {
        into = agreement_new(s);
        if (into == NULL) {
            words(ret_words, size, "no room for agreement %s: %u are the bound", a->name,
                  SERVICES_MAX_AGREEMENTS);
            return WEIR_E_FULL;
        }
    }
    into->e.agreement = *a;
    into->e.asleep = agreement_asleep(s, a);
    into->e.since_wall_us = s->wall_us;
    into->e.verdict = VERDICT_NONE;
    into->e.windows = into->e.windows_met = 0;
    analyzer_unit_clear(&into->unit);
    agreement_settle(s, into);
    return 0;
}

int select_agreement_remove(struct services *s, const char *name)
{
    struct agreed *a = agreement_find(s, name);
    if (a == NULL)
        return WEIR_E_NOT_FOUND;
    list_remove(&a->e.link);
    s->e.agreement_count--;
    agreement_settle(s, a);
    weir_assert(list_empty(&a->streams) && list_empty(&a->covered));
    free(a);
    s->generation++;
    return 0;
}

void select_schedules(struct services *s)
{
    int64_t minute = s->wall_us / 60000000;
    if (minute == s->schedules_min)
        return;
    s->schedules_min = minute;
    list_for_each(it, &s->e.agreements) {
        struct agreed *a = container_of(it, struct agreed, e.link);
        bool asleep = agreement_asleep(s, &a->e.agreement);
        if (asleep == a->e.asleep)
            continue;
        char subject[SUBJECT_SIZE];
        words(subject, sizeof(subject), "agreement/%s", a->e.agreement.name);
        note_event(s, EVENT_INFO, asleep ? "agreement-asleep" : "agreement-awake", subject,
                   "agreement %s (version %llu) %s by its schedule", a->e.agreement.name,
                   (unsigned long long)a->e.agreement.version, asleep ? "ends" : "begins");
        a->e.asleep = asleep;
        agreement_settle(s, a);
    }
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
        void *array = s->tenants;
        if (n >= SERVICES_MAX_TENANTS)
            return WEIR_E_FULL;
        int err = array_grow(&array, &s->tenants_cap, n, sizeof(*s->tenants));
        s->tenants = array;
        if (err < 0)
            return WEIR_E_FULL;
        memmove(&s->tenants[at + 1], &s->tenants[at], (n - at) * sizeof(*s->tenants));
        s->e.tenant_count++;
    }
    s->tenants[at] = *t;
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
        weir_assert(list_empty(&a->streams) && list_empty(&a->covered));
        free(a);
    }
    free(s->tenants);
    free(s->policies);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Order of precedence.
 *
 * Model: every agreement that selects the stream gets a place: awake before asleep, agreements
 * before defaults, then by rank, then by name (two of equal rank are refused when they are put;
 * what came in all the same is settled so). Rows are kept sorted by insertion; the order does not
 * depend on the order of arrival. */
#include "server/services/precedence.h"

#include <string.h>

#include "base/assert.h"
#include "server/services/state.h"

static const struct {
    const char *name, *words;
} says[] = {
#define X(name, label, words) [PRECEDENCE_##name] = {label, words},
    PRECEDENCE_TABLE(X)
#undef X
};

const char *precedence_name(enum precedence p)
{
    weir_assert((size_t)p < sizeof(says) / sizeof(says[0]));
    return says[p].name;
}

const char *precedence_words(enum precedence p)
{
    weir_assert((size_t)p < sizeof(says) / sizeof(says[0]));
    return says[p].words;
}

unsigned precedence_rank(const struct selector *sel)
{
    return (sel->volume[0] ? 8u : 0u) | (sel->host[0] ? 4u : 0u) | (sel->tenant[0] ? 2u : 0u) |
           (sel->target[0] ? 1u : 0u);
}

bool precedence_speaks(const struct agreement *a)
{
    return analyzer_promises(a) || a->weight != AGREEMENT_WEIGHT || a->priority != 0;
}

static bool goes_before(const struct entity_agreement *x, const struct entity_agreement *y)
{
    const struct agreement *a = &x->agreement, *b = &y->agreement;
    if (x->asleep != y->asleep)
        return y->asleep;
    if (a->fallback != b->fallback)
        return b->fallback;
    unsigned ra = precedence_rank(&a->applies_to), rb = precedence_rank(&b->applies_to);
    return ra != rb ? ra > rb : strcmp(a->name, b->name) < 0;
}

static void row_insert(struct precedence_row *rows, size_t max, size_t *n,
                       const struct entity_agreement *a)
{
    size_t at = *n;
    while (at > 0 && goes_before(a, rows[at - 1].agreement))
        at--;
    if (at >= max)
        return;
    size_t last = *n < max ? (*n)++ : max - 1;
    memmove(&rows[at + 1], &rows[at], (last - at) * sizeof(*rows));
    rows[at] = (struct precedence_row){.agreement = a};
}

static void rows_settle(struct precedence_row *rows, size_t covering, size_t n)
{
    size_t promise = 0;
    while (promise < covering && !precedence_speaks(&rows[promise].agreement->agreement))
        promise++;
    if (promise == covering)
        promise = 0;
    bool first_is_default = n > 0 && rows[0].agreement->agreement.fallback;
    for (size_t i = 0; i < n; i++) {
        if (i < covering)
            rows[i].says = i == promise ? PRECEDENCE_PROMISE : PRECEDENCE_LIMITS;
        else if (rows[i].agreement->asleep)
            rows[i].says = PRECEDENCE_ASLEEP;
        else if (rows[i].agreement->agreement.fallback && !first_is_default)
            rows[i].says = PRECEDENCE_DEFAULT_YIELDS;
        else
            rows[i].says = PRECEDENCE_TOO_MANY;
    }
}

size_t precedence_of(const struct list *agreements, const struct entity_stream *st,
                     struct precedence_row *rows, size_t max, size_t *ret_count)
{
    size_t n = 0, covering = 0;
    weir_assert(max >= PRECEDENCE_MAX_COVER);
    list_for_each(it, agreements) {
        const struct entity_agreement *a = container_of(it, struct entity_agreement, link);
        if (selector_match(&a->agreement.applies_to, st->tenant, st->host, st->volume,
                           st->target_name))
            row_insert(rows, max, &n, a);
    }
    while (covering < n && covering < PRECEDENCE_MAX_COVER && !rows[covering].agreement->asleep &&
           rows[covering].agreement->agreement.fallback == rows[0].agreement->agreement.fallback)
        covering++;
    rows_settle(rows, covering, n);
    *ret_count = n;
    return covering;
}

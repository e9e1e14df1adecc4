/* SPDX-License-Identifier: Apache-2.0 */
/* Whether two agreements can stand beside each other; pure. */
#ifndef WEIR_SERVER_SERVICES_AGREEMENT_MATCH_H
#define WEIR_SERVER_SERVICES_AGREEMENT_MATCH_H
#include <stdbool.h>
#include <stddef.h>

#include "server/services/agreement.h"

/* Whether some name matches both patterns (*, ?, [..], \x as in name_match). Never false for two
 * that overlap. Cost: length times length. */
bool agreement_patterns_meet(const char *a, const char *b);

/* Whether @a and @b have the same rank (name the same fields; both default or neither), patterns
 * that can select one stream, and schedules that are ever open at once. Two of the same name are
 * one agreement and never conflict. */
bool agreement_conflicts(const struct agreement *a, const struct agreement *b);

/* Whether @wide surely covers every stream that @narrow does; never true when it does not. */
bool agreement_includes(const struct agreement *wide, const struct agreement *narrow);
/* Whether all that @a selects counts to @t: it names the tenant, or names none and selects nothing
 * but what one of the tenant's members does. */
bool agreement_of_tenant(const struct agreement *a, const struct tenant *t);

/* Whether one reserves more than the other, which surely covers all its streams, lets through. */
bool agreement_contradicts(const struct agreement *a, const struct agreement *b);

/* Either of the two, with both names in @words. */
bool agreement_clashes(const struct agreement *a, const struct agreement *b, char *ret_words,
                       size_t size);

/* Whether @a reserves more than the limits of @t let through, and all its streams count to @t; with
 * both names in @words. */
bool agreement_beyond_tenant(const struct agreement *a, const struct tenant *t, char *ret_words,
                             size_t size);

#endif

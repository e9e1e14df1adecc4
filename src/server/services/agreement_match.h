/* SPDX-License-Identifier: Apache-2.0 */
/* Whether two agreements would claim the same streams with the same right; pure. */
#ifndef WEIR_SERVER_SERVICES_AGREEMENT_MATCH_H
#define WEIR_SERVER_SERVICES_AGREEMENT_MATCH_H
#include <stdbool.h>

#include "server/services/agreement.h"

/* Whether some name matches both patterns (*, ?, [..], \x as in name_match). Never false for two
 * that overlap. Cost: length times length. */
bool agreement_patterns_meet(const char *a, const char *b);

/* Whether @a and @b have the same rank (name the same fields) and patterns that can select one
 * stream. Two of the same name are one agreement and never conflict. */
bool agreement_conflicts(const struct agreement *a, const struct agreement *b);

#endif

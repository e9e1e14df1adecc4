/* SPDX-License-Identifier: Apache-2.0 */
/* Whether reservations together fit through a limit that all of them must pass; pure. */
#ifndef WEIR_SERVER_SERVICES_AGREEMENT_SUM_H
#define WEIR_SERVER_SERVICES_AGREEMENT_SUM_H
#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"
#include "server/services/agreement.h"

/* Of @all (@n, in any order, each name once): whether those that @wide surely covers, and its own,
 * reserve more at some time than it lets through. Then @ret says so in one line, and in one more
 * for each of them, by name. One alone is agreement_contradicts' business. 1: they do, 0, or
 * -ENOMEM. */
int agreement_sum_beyond(const struct agreement *wide, const struct agreement *const *all,
                          size_t n, struct text *ret);

/* The same of those all of whose streams belong to @t, against its limits. */
int agreement_sum_beyond_tenant(const struct tenant *t, const struct agreement *const *all,
                                size_t n, struct text *ret);

#endif

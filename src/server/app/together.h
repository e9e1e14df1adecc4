/* SPDX-License-Identifier: Apache-2.0 */
/* A new document beside all stored ones: whether reservations together fit through their limits. */
#ifndef WEIR_SERVER_APP_TOGETHER_H
#define WEIR_SERVER_APP_TOGETHER_H
#include <jansson.h>

#include "base/text.h"
#include "server/services/agreement.h"

/* @agreements, @tenants: rows as stored. 0: @put fits, or WEIR_E_CONFLICT: @ret says what does not,
 * first in one line, then in one for each reservation. -ENOMEM. Only limits that @put has part in
 * are looked at. */
int together_agreement(const struct agreement *put, const json_t *agreements,
                       const json_t *tenants, struct text *ret);
int together_tenant(const struct tenant *put, const json_t *agreements, struct text *ret);

#endif

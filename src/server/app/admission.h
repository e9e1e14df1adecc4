/* SPDX-License-Identifier: Apache-2.0 */
/* Asking every SLA process whether an agreement's reservation fits, and saying that it does not. */
#ifndef WEIR_SERVER_APP_ADMISSION_H
#define WEIR_SERVER_APP_ADMISSION_H
#include <stdbool.h>

struct agreement;
struct request;

/* Go on with @next when all have answered, or cannot. @quiet: no event; @forced_by: who puts it
 * whatever is found, NULL: nobody. */
void admission_ask(struct request *r, const struct agreement *a, bool quiet, const char *forced_by,
                   void (*next)(struct request *r));
/* In @next: whether it fits, as far as anybody said. False: answered 409, with the numbers of each
 * target and who holds what. */
bool admission_granted(struct request *r, const struct agreement *a, bool forced);

#endif

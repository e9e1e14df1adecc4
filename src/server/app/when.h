/* SPDX-License-Identifier: Apache-2.0 */
/* Instants as people send them: RFC 3339 text to microseconds; pure. */
#ifndef WEIR_SERVER_APP_WHEN_H
#define WEIR_SERVER_APP_WHEN_H
#include <stdint.h>

/* "2026-11-23T06:37:06Z", "2026-11-23T06:37:06.123456+01:00" (RFC 3339 section 5.6; years 1970 to
 * 9999, finer than microseconds is cut) -> microseconds since 1970 UTC. 0 or WEIR_E_INVALID. */
int when_parse(const char *text, int64_t *ret_us);

#endif

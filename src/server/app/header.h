/* SPDX-License-Identifier: Apache-2.0 */
/* Request headers as far as Weir reads them: Accept, Content-Type, entity tags, Host, Origin,
 * bearer; pure. */
#ifndef WEIR_SERVER_APP_HEADER_H
#define WEIR_SERVER_APP_HEADER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether an Accept (RFC 9110 section 12.5.1) takes @type; NULL takes all. Ranges of weight 0 do
 * not count. */
bool header_accepts(const char *accept, const char *type);

/* "application/json", with UTF-8 as the only charset. */
bool header_is_json(const char *content_type);

/* Whether a list of entity tags (RFC 9110 section 13.1) is "*" or holds @tag, with its quotes.
 * @weak: a tag marked W/ counts too (If-None-Match), else it does not (If-Match). */
bool header_tag_matches(const char *list, const char *tag, bool weak);

/* Whether a Host names loopback ("localhost", 127.0.0.0/8, [::1]) and @port, which may be left out
 * where it is the one of the scheme. */
bool header_host_is_local(const char *host, uint16_t port, bool tls);

/* Whether an Origin is "http://" and such a Host; with @tls "https://" and such a Host or @host,
 * what the request itself is for (NULL: nothing). */
bool header_origin_is_own(const char *origin, const char *host, uint16_t port, bool tls);

/* The token of "Bearer TOKEN" (RFC 6750 section 2.1), or NULL. */
const char *header_bearer(const char *authorization);

/* The password of "Basic BASE64" (RFC 7617 section 2), whatever the user's name is, as a token of
 * less than @size bytes in @ret. */
bool header_basic(const char *authorization, char *ret, size_t size);

#endif

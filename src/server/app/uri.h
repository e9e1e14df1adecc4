/* SPDX-License-Identifier: Apache-2.0 */
/* Request targets: the path in decoded segments and the query in decoded pairs, all bounded; pure.
 */
#ifndef WEIR_SERVER_APP_URI_H
#define WEIR_SERVER_APP_URI_H
#include <stddef.h>

#define URI_MAX          4096u
#define URI_MAX_SEGMENTS 8u
#define URI_MAX_PARAMS   16u

struct uri_param {
    const char *name, *value;
};

/* Strings point into buffer; the struct must not be moved. */
struct uri {
    const char *segment[URI_MAX_SEGMENTS];
    size_t segment_count; /* of "/": one, empty */
    struct uri_param param[URI_MAX_PARAMS];
    size_t param_count;
    char buffer[URI_MAX + 2];
};

/* Take apart an origin-form target (RFC 9112 section 3.2.1) as it came on the wire. What is decoded
 * must be UTF-8 without control characters; '+' stays '+'. 0, WEIR_E_TOO_LARGE or WEIR_E_INVALID
 * with words. */
int uri_parse(struct uri *u, const char *raw, const char **ret_words);

/* The value of parameter @name, or NULL. */
const char *uri_param(const struct uri *u, const char *name);

/* The first parameter that is not in @known ("limit,cursor"), or that stands twice; NULL: all is
 * well. */
const char *uri_unknown_param(const struct uri *u, const char *known);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The server's API over HTTP: one call and its JSON answer, or a stream of server-sent events.
 *
 * Every failure is told on standard error where it happens, with what to do next, and comes back as
 * the exit code to end with. Bounds: 5 s to connect, 30 s a call, 64 MiB an answer, 1 MiB an event.
 * */
#ifndef WEIR_CLI_HTTP_H
#define WEIR_CLI_HTTP_H
#include <jansson.h>
#include <stdbool.h>

#include "cli/cli.h"

struct http_answer {
    long status;
    json_t *json; /* NULL when the answer has no body */
};

/* @path begins with "/api/v1"; @body (borrowed) may be NULL. CLI_OK for every 2xx, with *@ret
 * filled (caller: json_decref). */
enum cli_exit http_call(struct cli *c, const char *method, const char *path, const json_t *body,
                        struct http_answer *ret);
/* The same, and 404 is silent: for those who have better words. */
enum cli_exit http_find(struct cli *c, const char *path, struct http_answer *ret);
/* Every page of a list as one array, at most @max items (0: 100,000). @query: "a=b&c=d" or "". */
enum cli_exit http_list(struct cli *c, const char *path, const char *query, size_t max,
                        json_t **ret_items);

/* Read server-sent events until @on_event says false. A server that ends once events have come is
 * tried again, said once, every 0.5 s to 5 s; one that refuses, or cannot be reached at first, is
 * not. */
typedef bool http_on_event(void *arg, const char *event, const json_t *data);
enum cli_exit http_events(struct cli *c, const char *path, http_on_event *on_event, void *arg);

/* Append @s percent-encoded as one part of a path or query (RFC 3986, 2.3). */
void http_encode(struct text *out, const char *s);
/* The server's address in force. */
const char *http_server(struct cli *c);
/* Try @token instead of the one found; for login. */
enum cli_exit http_use_token(struct cli *c, const char *token);
void http_close(struct cli *c);

#endif

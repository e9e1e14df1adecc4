/* SPDX-License-Identifier: Apache-2.0 */
/* Application server: HTTP, the API, server-sent events, metrics and the dashboard, on one thread.
 */
#ifndef WEIR_SERVER_APP_APP_H
#define WEIR_SERVER_APP_APP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "server/threads.h"

struct app;
struct tls_creds;
/* One of the server's own counters for /metrics; words are static. */
struct app_figure {
    const char *name, *help; /* "weir_monitor_frames_in_total" */
    bool gauge;
    uint64_t value;
};
#define APP_MAX_FIGURES 64u
/* Opens the HTTP socket and makes <state_dir>/admin.token (0600) on the first start. 0 or an error
 * code with words. */
int app_open(const struct server_config *config, struct threads *threads, struct app **ret,
             char *ret_words, size_t size);
void app_close(struct app *a);
/* "http://127.0.0.1:7480" or "https://...", as really bound. */
const char *app_address(const struct app *a);
/* Where /metrics gets figures that this folder knows nothing of: @read fills at most
 * APP_MAX_FIGURES and says how many; called by the app's thread. Before app_main runs. */
void app_set_figures(struct app *a, size_t (*read)(const void *ctx, struct app_figure *ret),
                     const void *ctx);
/* What enrolment tokens carry, so that a gateway knows this server again; before app_main. */
void app_set_fingerprint(struct app *a, const uint8_t fingerprint[32]);
/* Certificate and key of [http], read from their files; *@ret is NULL where none are configured. 0,
 * or an error code with words. */
int app_tls_load(const struct server_config *config, struct tls_creds **ret, char *ret_words,
                 size_t size);
/* Body of MSG_HTTP_KEYS: what holds for connections and enrolment tokens to come. Takes @tls (NULL
 * where there is none), unless it returns NULL for want of memory. */
struct app_keys {
    struct tls_creds *tls;
    uint8_t fingerprint[32];
};
struct app_keys *app_keys_new(struct tls_creds *tls, const uint8_t fingerprint[32],
                              void (**ret_free)(void *));
/* Thread body; @app. A handler that needs another thread asks by mailbox and is suspended. */
void *app_main(void *app);

/* One line a route, "GET /api/v1/streams viewer": what the server really serves. */
void app_print_routes(FILE *out);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What the application server holds; private to app/. One thread owns all of it. */
#ifndef WEIR_SERVER_APP_APP_STATE_H
#define WEIR_SERVER_APP_APP_STATE_H
#include <microhttpd.h>

#include "base/clock.h"
#include "base/list.h"
#include "server/app/access.h"
#include "server/app/app.h"
#include "server/app/exchange.h"
#include "server/app/live.h"
#include "server/threads.h"
#include "tls/creds.h"

/* Bounds of the listener: connections in all, of one address, and how long one may take to say what
 * it wants. */
#define APP_MAX_CONNECTIONS 256u
#define APP_MAX_PER_ADDRESS 64u
#define APP_IDLE_SECONDS    10u
/* A first request line and headers; and a later request or a body, however it trickles in. */
#define APP_HEADER_NS  (10 * NS_PER_S)
#define APP_REQUEST_NS (30 * NS_PER_S)
#define APP_BODY_MAX (1024u * 1024u)
/* Of a refused body, read so that the client hears why. */
#define APP_DRAIN_MAX (8u * 1024 * 1024)

/* How long another thread may take to answer. */
#define APP_VIEW_NS  (3 * NS_PER_S)
#define APP_QUERY_NS (10 * NS_PER_S)
#define APP_WRITE_NS (15 * NS_PER_S)
#define APP_ROTATE_NS (35 * NS_PER_S) /* beyond the acceptor's own bound */

/* A TCP connection, from accept to close. */
struct app_connection {
    struct list link;
    int fd;
    uint64_t waiting_since_ns; /* for a whole request; 0: one is being answered */
    bool served;               /* had a request before */
    struct tls_creds *tls;     /* what its session began with; NULL: in clear */
};

struct app {
    const struct server_config *config;
    struct threads *threads; /* only `listeners` is written */
    struct MHD_Daemon *daemon;
    int listen_fd, epoll_fd;
    uint16_t port;
    struct tls_creds *tls; /* for connections that come; NULL: in clear */
    char address[192];
    uint64_t now_ns, next_second_ns;
    int64_t started_wall_us;
    size_t next_reader;
    struct exchange_table exchanges;
    struct access access;
    struct live live;
    struct list connections;    /* struct app_connection */
    struct list requests;       /* struct request, all */
    struct list writers;        /* struct request that wait to change documents */
    struct request *writing;    /* the one that does */
    uint64_t requests_total[6]; /* by hundreds of the status */
    size_t (*figures_read)(const void *ctx, struct app_figure *ret); /* NULL: none */
    const void *figures_ctx;
    uint8_t fingerprint[32]; /* of the server's key for the control port */
    bool stopping;
};

#endif

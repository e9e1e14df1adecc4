/* SPDX-License-Identifier: Apache-2.0 */
/* The app thread.
 *
 * Problem: HTTP clients and the other threads both want this thread's attention, and neither may
 * wait for the other.
 *
 * Model: microhttpd runs without threads of its own and shows one epoll descriptor; it and the
 * mailbox's descriptor hang in one epoll set. A round: wait for either, or for microhttpd's own
 * time-out, or for the next second; take what the mailbox holds (bounded a round); let microhttpd
 * run; each second expire tickets, reap slow connections and publish live views.
 *
 * Invariants: (1) all that is in struct app is touched by this thread only, once app_main runs; (2)
 * nothing here blocks except epoll_wait; (3) at MSG_STOP every suspended connection is answered and
 * resumed before the daemon stops, and the reply to STOP is the last message.
 *
 * What may fail: at app_open an address in use or off loopback, a token file others may read. Later
 * nothing that ends the thread. */
#include "server/app/app.h"

#include <errno.h>
#include <gnutls/abstract.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "server/app/app_state.h"
#include "server/app/http.h"
#include "server/msg.h"
#include "server/store/store.h"

#define DEFAULT_PORT   7480u
#define LISTEN_BACKLOG 128
/* Request line, headers and microhttpd's own of one connection: 256 x 32 KiB in all. */
#define CONNECTION_MEMORY (32u * 1024)
/* Messages taken in one round, before clients have their turn. */
#define ROUND_MESSAGES 256u
/* Rounds given to answers on their way when the server ends, 10 ms each. */
#define LAST_ROUNDS 50u

static int open_listener(struct app *a, char *ret_words, size_t size)
{
    struct addr addr;
    const char *expected, *listen = a->config->http_listen;
    char local[ADDR_TEXT_SIZE];
    int r = addr_parse(listen, DEFAULT_PORT, &addr, &expected);
    if (r < 0) {
        snprintf(ret_words, size, "http listen: found \"%s\", expected %s", listen, expected);
        return r;
    }
    if (addr_is_unix(&addr) || (!a->tls && !addr_is_local(&addr))) {
        snprintf(ret_words, size,
                 "http listen: %s is not a loopback address; beyond loopback HTTP needs "
                 "tls-certificate and tls-key",
                 listen);
        return WEIR_E_REFUSED;
    }
    a->listen_fd = addr_listen(&addr, LISTEN_BACKLOG, 0);
    if (a->listen_fd < 0) {
        snprintf(ret_words, size, "http listen: %s: %s", listen, weir_strerror(a->listen_fd));
        return a->listen_fd;
    }
    r = addr_local_text(a->listen_fd, local, sizeof(local));
    const char *colon = r == 0 ? strrchr(local, ':') : NULL;
    if (!colon) {
        snprintf(ret_words, size, "http listen: %s has no port", listen);
        return WEIR_E_INVALID;
    }
    a->port = (uint16_t)strtoul(colon + 1, NULL, 10);
    snprintf(a->address, sizeof(a->address), "%s://%s", a->tls ? "https" : "http", local);
    return 0;
}

static void on_daemon_log(void *cls, const char *format, va_list args)
{
    char line[512];
    (void)cls;
    vsnprintf(line, sizeof(line), format, args);
    line[strcspn(line, "\n")] = '\0';
    log_debug("http: %s", line);
}

/* microhttpd wants credentials of its own for TLS; these are none. Every connection is given what
 * is in force when it comes (http_on_connection), or fails. */
static int on_nothing(gnutls_session_t session, const gnutls_datum_t *names, int names_n,
                      const gnutls_pk_algorithm_t *kinds, int kinds_n, gnutls_pcert_st **certs,
                      unsigned *certs_n, gnutls_privkey_t *key)
{
    (void)session, (void)names, (void)names_n, (void)kinds, (void)kinds_n, (void)certs;
    (void)certs_n, (void)key;
    return -1;
}

static int start_daemon(struct app *a, char *ret_words, size_t size)
{
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    const struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)(intptr_t)on_nothing},
        {MHD_OPTION_END, 0, NULL},
    };
    a->daemon = MHD_start_daemon(
        a->tls ? flags | MHD_USE_TLS : flags, 0, NULL, NULL, http_on_access, a,
        MHD_OPTION_EXTERNAL_LOGGER, on_daemon_log, a, MHD_OPTION_ARRAY, a->tls ? tls : tls + 1,
        MHD_OPTION_LISTEN_SOCKET, (MHD_socket)a->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
        APP_MAX_CONNECTIONS, MHD_OPTION_PER_IP_CONNECTION_LIMIT, APP_MAX_PER_ADDRESS,
        MHD_OPTION_CONNECTION_TIMEOUT, APP_IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_URI_LOG_CALLBACK,
        http_on_uri, a, MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, a,
        MHD_OPTION_NOTIFY_CONNECTION, http_on_connection, a, MHD_OPTION_END);
    if (!a->daemon) {
        bool lacks = a->tls && MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES;
        snprintf(ret_words, size, "the HTTP daemon cannot start%s",
                 lacks ? ": this libmicrohttpd was built without TLS" : "");
        return WEIR_E_UNAVAILABLE;
    }
    a->listen_fd = -1; /* microhttpd closes it */
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(a->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct epoll_event event = {.events = EPOLLIN};
    a->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!info || a->epoll_fd < 0 ||
        epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, info->epoll_fd, &event) < 0 ||
        epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, mailbox_fd(a->threads->app), &event) < 0) {
        snprintf(ret_words, size, "epoll: %s", weir_strerror(-errno));
        return WEIR_E_UNAVAILABLE;
    }
    return 0;
}

static void on_tokens(struct exchange *x)
{
    struct access *access = container_of(x, struct access, exchange);
    if (x->answer[0].status == 0 && json_is_array(x->answer[0].json))
        access_load(access, x->answer[0].json);
    exchange_clear(x);
}

int app_tls_load(const struct server_config *config, struct tls_creds **ret, char *ret_words,
                 size_t size)
{
    struct tls_files f = {.peer = TLS_PEER_NONE};
    *ret = NULL;
    if (config->http_certificate[0] == '\0')
        return 0;
    snprintf(f.certificate, sizeof(f.certificate), "%s", config->http_certificate);
    snprintf(f.key, sizeof(f.key), "%s", config->http_key);
    return tls_creds_new(TLS_SERVER, &f, ret, ret_words, size);
}

static void keys_free(void *body)
{
    struct app_keys *k = body;
    tls_creds_unref(k->tls);
    free(k);
}

struct app_keys *app_keys_new(struct tls_creds *tls, const uint8_t fingerprint[32],
                              void (**ret_free)(void *))
{
    struct app_keys *k = calloc(1, sizeof(*k));
    *ret_free = keys_free;
    if (!k)
        return NULL;
    k->tls = tls;
    memcpy(k->fingerprint, fingerprint, sizeof(k->fingerprint));
    return k;
}

/* Connections that stand keep what they began with. */
static void take_keys(struct app *a, struct app_keys *k)
{
    struct tls_creds *old = a->tls;
    weir_assert((old == NULL) == (k->tls == NULL)); /* main lets neither come nor go */
    a->tls = k->tls;
    k->tls = old;
    app_set_fingerprint(a, k->fingerprint);
}

int app_open(const struct server_config *config, struct threads *threads, struct app **ret,
             char *ret_words, size_t size)
{
    struct app *a = calloc(1, sizeof(*a));
    if (!a) {
        snprintf(ret_words, size, "no memory");
        return -ENOMEM;
    }
    a->config = config;
    a->threads = threads;
    a->listen_fd = a->epoll_fd = -1;
    a->now_ns = clock_mono_ns();
    a->started_wall_us = clock_wall_us();
    a->exchanges.self = threads->app;
    list_init(&a->connections);
    list_init(&a->requests);
    list_init(&a->writers);
    live_init(a);
    exchange_init(&a->access.exchange, &a->exchanges, on_tokens);
    int r = app_tls_load(config, &a->tls, ret_words, size);
    if (r == 0)
        r = open_listener(a, ret_words, size);
    if (r == 0)
        r = access_open(&a->access, config->state_dir, ret_words, size);
    if (r == 0)
        r = start_daemon(a, ret_words, size);
    if (r < 0) {
        app_close(a);
        return r;
    }
    *ret = a;
    return 0;
}

void app_close(struct app *a)
{
    if (!a)
        return;
    if (a->daemon)
        MHD_stop_daemon(a->daemon);
    weir_assert(a->live.count == 0);
    weir_assert(list_empty(&a->requests));
    exchange_fini(&a->live.exchange);
    access_close(&a->access);
    tls_creds_unref(a->tls);
    if (a->listen_fd >= 0)
        close(a->listen_fd);
    if (a->epoll_fd >= 0)
        close(a->epoll_fd);
    free(a);
}

const char *app_address(const struct app *a)
{
    return a->address;
}

void app_set_figures(struct app *a, size_t (*read)(const void *ctx, struct app_figure *ret),
                     const void *ctx)
{
    a->figures_read = read;
    a->figures_ctx = ctx;
}

void app_set_fingerprint(struct app *a, const uint8_t fingerprint[32])
{
    memcpy(a->fingerprint, fingerprint, sizeof(a->fingerprint));
}

/* One function per message. */
static bool handle(struct app *a, struct msg *m)
{
    if (m->is_reply) {
        exchange_take(&a->exchanges, m);
        return true;
    }
    switch (m->kind) {
    case MSG_NOTICE:
        live_notice(a, m->body);
        return true;
    case MSG_HTTP_KEYS:
        take_keys(a, m->body);
        return true;
    case MSG_STOP:
        return false;
    default:
        weir_assert(!"a message that nobody sends here");
        return true;
    }
}

/* False at MSG_STOP, which is then in @ret_stop. */
static bool take_messages(struct app *a, struct msg *ret_stop)
{
    struct mailbox *box = a->threads->app;
    struct msg m;
    for (size_t i = 0; i < ROUND_MESSAGES; i++) {
        if (!mailbox_take(box, &m)) {
            if (!mailbox_drained(box))
                return true;
            continue;
        }
        mailbox_busy(box, m.kind, a->now_ns);
        bool go_on = handle(a, &m);
        a->now_ns = clock_mono_ns();
        mailbox_idle(box, a->now_ns);
        if (!go_on) {
            *ret_stop = m;
            return false;
        }
        msg_release(&m);
    }
    return true; /* the descriptor is still readable: the rest is taken in the next round */
}

static void load_tokens(struct app *a)
{
    struct exchange *x = &a->access.exchange;
    struct msg m = {.kind = MSG_STORE_QUERY,
                    .body = store_query_new(STORE_TOKENS),
                    .body_free = store_query_free};
    if (x->waiting > 0)
        return;
    exchange_clear(x);
    exchange_ask(x, a->threads->store_reader[0], m, APP_QUERY_NS, a->now_ns);
}

static void every_second(struct app *a)
{
    struct msg m;
    while (mailbox_take_expired(a->threads->app, a->now_ns, &m))
        exchange_take(&a->exchanges, &m);
    http_reap(a);
    if (!a->access.loaded)
        load_tokens(a);
    live_second(a);
    a->next_second_ns = a->now_ns + NS_PER_S;
}

static int wait_ms(const struct app *a)
{
    uint64_t left_ns = a->next_second_ns > a->now_ns ? a->next_second_ns - a->now_ns : 0;
    uint64_t ms = (left_ns + NS_PER_MS - 1) / NS_PER_MS;
    MHD_UNSIGNED_LONG_LONG daemon_ms;
    if (MHD_get_timeout(a->daemon, &daemon_ms) == MHD_YES && daemon_ms < ms)
        ms = daemon_ms;
    return (int)ms;
}

static void run_daemon(struct app *a)
{
    uint64_t before_ns = clock_mono_ns();
    mailbox_busy(a->threads->app, MSG_NONE, before_ns);
    MHD_run(a->daemon);
    a->now_ns = clock_mono_ns();
    mailbox_idle(a->threads->app, a->now_ns);
}

/* Say to everybody that waits that the server ends, and let the answers leave. */
static void finish(struct app *a)
{
    a->stopping = true;
    http_abandon_all(a);
    live_end(a);
    exchange_fini(&a->access.exchange);
    for (size_t i = 0; i < LAST_ROUNDS && !list_empty(&a->requests); i++) {
        MHD_run(a->daemon);
        struct epoll_event event;
        (void)epoll_wait(a->epoll_fd, &event, 1, 10);
    }
    MHD_stop_daemon(a->daemon);
    a->daemon = NULL;
}

void *app_main(void *app)
{
    struct app *a = app;
    struct msg stop;
    struct epoll_event events[2];
    for (;;) {
        int n = epoll_wait(a->epoll_fd, events, 2, wait_ms(a));
        weir_assert(n >= 0 || errno == EINTR);
        a->now_ns = clock_mono_ns();
        if (!take_messages(a, &stop))
            break;
        run_daemon(a);
        if (a->now_ns >= a->next_second_ns)
            every_second(a);
    }
    finish(a);
    mailbox_reply(a->threads->app, &stop, 0, NULL, NULL);
    msg_release(&stop);
    return NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a request.
 *
 * Problem: one thread serves every client, and most answers need other threads. A handler that
 * waited would stop all of them; a client that sends nothing, or never reads, must cost nobody
 * else.
 *
 * Model: microhttpd calls on_access several times for one request: first with the headers, then
 * with parts of the body, then once more when it is whole. Everything that can be refused by the
 * headers is refused in the first call; the body that comes with it is read and thrown away, within
 * a bound, since closing on a client that still writes would make it lose the answer. A handler
 * that has asked other threads returns without an answer; then the connection is suspended
 * (microhttpd does not look at its socket), and the last reply resumes it. The states are drawn in
 * http.h.
 *
 * Invariants: (1) a request is answered exactly once; (2) it is suspended only while an exchange of
 * its own is under way or it waits for its turn to write, and both end by themselves (tickets
 * expire); (3) at most one request changes documents at a time; (4) a body of more than
 * APP_BODY_MAX is never held in memory.
 *
 * What may fail: memory (the connection is closed), any other thread (503 with the reason). */
#include "server/app/http.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "server/app/app_state.h"
#include "server/app/header.h"
#include "server/app/routes.h"
#include "server/app/views.h"
#include "server/app/writer.h"
#include "server/msg.h"

/* Views are asked again at most so often and so long because gateways move. */
#define ROUNDS_MAX 16u
#define ROUNDS_NS NS_PER_S

static bool ask_again(struct request *r)
{
    struct exchange *x = &r->exchange;
    uint64_t now = clock_mono_ns();
    if (!views_moved(x, r->app))
        return false;
    if (r->rounds == 0)
        r->round_ns = now;
    if (r->rounds == ROUNDS_MAX || now - r->round_ns > ROUNDS_NS)
        return false;
    r->rounds++;
    json_t *kept = views_keep(x, r->app);
    exchange_clear(x);
    x->earlier = kept;
    r->route->handler(r);
    return true;
}

static void go_on(struct request *r, void (*next)(struct request *r))
{
    if (!ask_again(r))
        next(r);
}

static void on_exchange_done(struct exchange *x)
{
    struct request *r = container_of(x, struct request, exchange);
    void (*next)(struct request *) = r->next;
    weir_assert(next != NULL);
    r->next = NULL;
    go_on(r, next);
}

void *http_on_uri(void *cls, const char *uri, struct MHD_Connection *connection)
{
    struct app *app = cls;
    struct request *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->app = app;
    r->connection = connection;
    r->uri_status = uri_parse(&r->uri, uri, &r->uri_words);
    exchange_init(&r->exchange, &app->exchanges, on_exchange_done);
    text_init(&r->body, APP_BODY_MAX);
    list_init(&r->writer_link);
    list_push_back(&app->requests, &r->link);
    return r;
}

static struct app_connection *connection_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

void http_on_completed(void *cls, struct MHD_Connection *connection, void **request,
                       enum MHD_RequestTerminationCode why)
{
    struct app *app = cls;
    struct request *r = *request;
    (void)why;
    struct app_connection *c = connection_of(connection);
    if (c) {
        c->waiting_since_ns = app->now_ns;
        c->served = true;
    }
    if (!r)
        return;
    *request = NULL;
    writer_leave(r);
    exchange_fini(&r->exchange);
    if (r->work)
        r->work_free(r->work);
    if (r->response)
        MHD_destroy_response(r->response);
    text_fini(&r->body);
    list_remove(&r->link);
    free(r);
}

/* The credentials in force now are this connection's until its end. Without them its handshake
 * fails (on_nothing in app.c). */
static void dress(struct app *app, struct MHD_Connection *connection, struct app_connection *c)
{
    const union MHD_ConnectionInfo *info =
        app->tls ? MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION) : NULL;
    if (info && tls_creds_dress(app->tls, info->tls_session) == 0)
        c->tls = tls_creds_ref(app->tls);
}

void http_on_connection(void *cls, struct MHD_Connection *connection, void **context,
                        enum MHD_ConnectionNotificationCode code)
{
    struct app *app = cls;
    struct app_connection *c = *context;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (c) {
            list_remove(&c->link);
            tls_creds_unref(c->tls);
        }
        free(c);
        *context = NULL;
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    c = calloc(1, sizeof(*c));
    if (!c || !info) {
        free(c); /* it still has microhttpd's own time-out */
        return;
    }
    c->fd = info->connect_fd;
    c->waiting_since_ns = app->now_ns;
    list_push_back(&app->connections, &c->link);
    *context = c;
    dress(app, connection, c);
}

void http_reap(struct app *app)
{
    list_for_each(it, &app->connections)
    {
        struct app_connection *c = container_of(it, struct app_connection, link);
        uint64_t limit = c->served ? APP_REQUEST_NS : APP_HEADER_NS;
        if (c->waiting_since_ns != 0 && app->now_ns > c->waiting_since_ns + limit)
            shutdown(c->fd, SHUT_RDWR); /* microhttpd sees the end and closes */
    }
}

const char *http_request_header(const struct request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

static bool peer_is_loopback(const struct request *r)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (!info || !info->client_addr)
        return false;
    const struct sockaddr *sa = info->client_addr;
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)sa;
        return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    }
    if (sa->sa_family != AF_INET6)
        return false;
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
}

/* Through TLS a token may come as a password, which a browser asks for by itself and sends for the
 * page's live view too. Only to read: a browser would send it along with other sites' requests. */
static bool may_be_basic(const struct request *r)
{
    return r->app->tls && strcmp(r->route->method, "GET") == 0;
}

static void refuse_unknown(struct request *r, unsigned status, const char *words)
{
    http_set_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "%s realm=\"weir\"",
                    may_be_basic(r) ? "Basic" : "Bearer");
    http_problem(r, status, "%s", words);
}

/* The token of the request's Authorization, or NULL. @room is for one that has to be decoded. */
static const char *token_of(const struct request *r, const char *authorization,
                            char room[ACCESS_SECRET_SIZE])
{
    if (may_be_basic(r) && header_basic(authorization, room, ACCESS_SECRET_SIZE))
        return room;
    return header_bearer(authorization);
}

/* Who asks, and may they: the decisions of the head of docs/openapi.yaml. Answers when not. */
static bool authorise(struct request *r, bool reads)
{
    struct app *app = r->app;
    enum role needed = r->route->role;
    const char *origin = http_request_header(r, MHD_HTTP_HEADER_ORIGIN);
    const char *authorization = http_request_header(r, MHD_HTTP_HEADER_AUTHORIZATION);
    const char *host = http_request_header(r, MHD_HTTP_HEADER_HOST);
    bool tls = app->tls != NULL;
    char room[ACCESS_SECRET_SIZE];
    if (needed == ROLE_NONE)
        return true;
    if (origin && !header_origin_is_own(origin, host, app->port, tls)) {
        http_problem(r, MHD_HTTP_FORBIDDEN, "the Origin is not this server's own");
        return false;
    }
    if (authorization) {
        const char *token = token_of(r, authorization, room), *name = "";
        int s = token ? access_check(&app->access, token, clock_wall_us(), &r->role, &name)
                      : WEIR_E_AUTH;
        sodium_memzero(room, sizeof(room));
        if (s == WEIR_E_UNAVAILABLE) {
            http_problem_status(r, s, "the list of tokens");
            return false;
        }
        if (s < 0) {
            refuse_unknown(r, MHD_HTTP_UNAUTHORIZED, "the token is wrong, expired or revoked");
            return false;
        }
        (void)text_copy(r->actor, sizeof(r->actor), name);
    } else if (reads && needed == ROLE_VIEWER && peer_is_loopback(r) &&
               header_host_is_local(host, app->port, tls)) {
        r->role = ROLE_VIEWER;
    } else {
        refuse_unknown(
            r, MHD_HTTP_UNAUTHORIZED,
            reads && needed == ROLE_VIEWER
                ? "a token is needed: the request is not for a loopback name of this server"
                : "a token is needed: see admin.token in the server's state folder");
        return false;
    }
    if (r->role >= needed)
        return true;
    http_problem(r, MHD_HTTP_FORBIDDEN, "role %s is needed, the token's is %s", role_name(needed),
                 role_name(r->role));
    return false;
}

/* Whether the body that the headers announce is one this route takes. */
static bool check_body(struct request *r)
{
    const char *length = http_request_header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
    bool announced = (length && strtoull(length, NULL, 10) > 0) ||
                     http_request_header(r, MHD_HTTP_HEADER_TRANSFER_ENCODING);
    if (r->route->body == BODY_NONE) {
        if (announced)
            http_problem(r, MHD_HTTP_BAD_REQUEST, "this call takes no body");
        return !announced;
    }
    const char *type = http_request_header(r, MHD_HTTP_HEADER_CONTENT_TYPE);
    if ((announced || type) && !header_is_json(type)) {
        http_problem(r, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE,
                     "the body must be application/json in UTF-8");
        return false;
    }
    if (length && strtoull(length, NULL, 10) > APP_BODY_MAX) {
        http_problem(r, MHD_HTTP_CONTENT_TOO_LARGE, "the body is larger than 1 MiB");
        return false;
    }
    return true;
}

/* All that the headers can decide. Leaves the request answered when it is refused. */
static void check_headers(struct request *r, const char *method)
{
    char allow[64];
    if (r->uri_status < 0) {
        http_problem(
            r, r->uri_status == WEIR_E_TOO_LARGE ? MHD_HTTP_URI_TOO_LONG : MHD_HTTP_BAD_REQUEST,
            "%s", r->uri_words);
        return;
    }
    r->route = routes_find(method, &r->uri, r->name, allow, sizeof(allow));
    if (!r->route) {
        if (allow[0] != '\0') {
            http_set_header(r, MHD_HTTP_HEADER_ALLOW, "%s", allow);
            http_problem(r, MHD_HTTP_METHOD_NOT_ALLOWED, "this path takes %s", allow);
        } else {
            http_problem(r, MHD_HTTP_NOT_FOUND, "there is no such path; see /api/v1/openapi.yaml");
        }
        return;
    }
    if (!authorise(r, strcmp(r->route->method, "GET") == 0))
        return;
    const char *unknown = uri_unknown_param(&r->uri, r->route->query);
    if (unknown) {
        http_problem(r, MHD_HTTP_BAD_REQUEST,
                     "query parameter \"%s\" is unknown here or given twice; known: %s", unknown,
                     r->route->query[0] ? r->route->query : "none");
        return;
    }
    if (r->route->produces &&
        !header_accepts(http_request_header(r, MHD_HTTP_HEADER_ACCEPT), r->route->produces)) {
        http_problem(r, MHD_HTTP_NOT_ACCEPTABLE, "this path gives %s", r->route->produces);
        return;
    }
    (void)check_body(r);
}

static enum MHD_Result send_answer(struct request *r)
{
    weir_assert(r->phase == REQUEST_ANSWERED);
    weir_assert(r->response != NULL);
    r->phase = REQUEST_SENT;
    return MHD_queue_response(r->connection, r->status, r->response);
}

/* Throw away what a refused client still sends. False: it is too much. */
static bool drain_body(struct request *r, size_t *data_size)
{
    r->drained += *data_size;
    *data_size = 0;
    return r->drained <= APP_DRAIN_MAX;
}

static void take_body(struct request *r, const char *data, size_t n)
{
    if (!r->body_too_large && r->body.len + n <= APP_BODY_MAX) {
        text_append(&r->body, data, n);
        return;
    }
    r->body_too_large = true;
    text_fini(&r->body);
    text_init(&r->body, 0);
}

/* The request is whole: let its handler work. */
static void run_handler(struct request *r)
{
    struct app_connection *c = connection_of(r->connection);
    if (c)
        c->waiting_since_ns = 0;
    r->phase = REQUEST_RUNNING;
    if (r->body_too_large)
        http_problem(r, MHD_HTTP_CONTENT_TOO_LARGE, "the body is larger than 1 MiB");
    else if (r->app->stopping)
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the server ends");
    else
        r->route->handler(r);
    if (r->phase == REQUEST_ANSWERED)
        return;
    weir_assert(r->next != NULL);
    r->phase = REQUEST_SUSPENDED;
    MHD_suspend_connection(r->connection);
}

enum MHD_Result http_on_access(void *cls, struct MHD_Connection *connection, const char *url,
                               const char *method, const char *version, const char *data,
                               size_t *data_size, void **request)
{
    struct request *r = *request;
    (void)cls, (void)connection, (void)url, (void)version;
    if (!r)
        return MHD_NO;
    switch (r->phase) {
    case REQUEST_NEW:
        check_headers(r, method);
        r->phase = r->phase == REQUEST_ANSWERED ? REQUEST_DRAINING : REQUEST_READING;
        return MHD_YES;
    case REQUEST_DRAINING:
        if (*data_size > 0)
            return drain_body(r, data_size) ? MHD_YES : MHD_NO;
        r->phase = REQUEST_ANSWERED;
        return send_answer(r);
    case REQUEST_READING:
        if (*data_size > 0) {
            take_body(r, data, *data_size);
            *data_size = 0;
            return MHD_YES;
        }
        run_handler(r);
        return r->phase == REQUEST_ANSWERED ? send_answer(r) : MHD_YES;
    case REQUEST_ANSWERED:
        return send_answer(r);
    case REQUEST_RUNNING:
    case REQUEST_SUSPENDED:
    case REQUEST_SENT:
        break;
    }
    return MHD_NO; /* microhttpd never calls in these */
}

void http_abandon_all(struct app *app)
{
    list_for_each_safe(it, &app->requests)
    {
        struct request *r = container_of(it, struct request, link);
        if (r->phase != REQUEST_SUSPENDED)
            continue;
        exchange_fini(&r->exchange);
        r->next = NULL;
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the server ends");
    }
}

void http_ask_view(struct request *r, int view_kind, const char *name, bool histograms)
{
    views_ask(&r->exchange, r->app, (enum view_kind)view_kind, name, histograms);
}

void http_ask_store(struct request *r, struct store_query *query)
{
    struct app *app = r->app;
    struct msg m = {.kind = MSG_STORE_QUERY, .body = query, .body_free = store_query_free};
    struct mailbox *reader = app->threads->store_reader[app->next_reader++ % app->threads->readers];
    exchange_ask(&r->exchange, reader, m, APP_QUERY_NS, app->now_ns);
}

void http_ask_write(struct request *r, struct store_write *write)
{
    struct app *app = r->app;
    struct msg m = {.kind = MSG_STORE_WRITE, .body = write, .body_free = store_write_free};
    if (write) {
        (void)text_copy(write->actor, sizeof(write->actor), r->actor);
        if (write->wall_us == 0)
            write->wall_us = clock_wall_us();
    }
    exchange_ask(&r->exchange, app->threads->store_writer, m, APP_WRITE_NS, app->now_ns);
}

void http_wait(struct request *r, void (*next)(struct request *r))
{
    weir_assert(r->next == NULL);
    if (r->exchange.waiting == 0)
        go_on(r, next);
    else
        r->next = next;
}

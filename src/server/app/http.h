/* SPDX-License-Identifier: Apache-2.0 */
/* One HTTP request from its first line to its answer, and the ways to answer it. */
#ifndef WEIR_SERVER_APP_HTTP_H
#define WEIR_SERVER_APP_HTTP_H
#include <jansson.h>
#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/text.h"
#include "server/app/access.h"
#include "server/app/exchange.h"
#include "server/app/uri.h"
#include "server/store/store.h"

#define HTTP_MAX_HEADERS    6u
#define HTTP_MAX_PATH_NAMES 2u
/* 99.9 leaves as 99.9: twelve digits are more than any figure here is good for. */
#define HTTP_JSON_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(12))

struct app;
struct route;

/*  NEW --refused by its headers--> DRAINING --body is in--> SENT
 *  READING --whole--> RUNNING --asked others--> SUSPENDED --all answered--> RUNNING ... -->
 * ANSWERED --> SENT  */
enum request_phase {
    REQUEST_NEW,
    REQUEST_READING,
    REQUEST_DRAINING,
    REQUEST_RUNNING,
    REQUEST_SUSPENDED,
    REQUEST_ANSWERED,
    REQUEST_SENT,
};

struct http_header {
    const char *name; /* static */
    char value[160];
};

struct request {
    struct app *app;
    struct MHD_Connection *connection;
    struct list link;
    enum request_phase phase;
    struct uri uri;
    int uri_status; /* of uri_parse, and its words */
    const char *uri_words;
    const struct route *route;
    const char *name[HTTP_MAX_PATH_NAMES]; /* the {..} of the path */
    enum role role;                        /* of the caller */
    char actor[NAME_SIZE];                 /* its token's name; "" without */
    struct text body;
    bool body_too_large;
    size_t drained;             /* bytes of a body that nobody wants */
    struct exchange exchange;
    void (*next)(struct request *r); /* goes on when all is answered */
    unsigned rounds;                 /* in which its first questions were asked again */
    uint64_t round_ns;               /* when the first was over */
    struct list writer_link;         /* in app->writers while it waits its turn */
    void *work;                      /* the handler's own, freed with work_free */
    void (*work_free)(void *work);
    unsigned status;
    struct MHD_Response *response;
    struct http_header header[HTTP_MAX_HEADERS];
    size_t header_count;
};

/* microhttpd's callbacks; cls is the app. */
void *http_on_uri(void *cls, const char *uri, struct MHD_Connection *connection);
enum MHD_Result http_on_access(void *cls, struct MHD_Connection *connection, const char *url,
                               const char *method, const char *version, const char *data,
                               size_t *data_size, void **request);
void http_on_completed(void *cls, struct MHD_Connection *connection, void **request,
                       enum MHD_RequestTerminationCode why);
void http_on_connection(void *cls, struct MHD_Connection *connection, void **context,
                        enum MHD_ConnectionNotificationCode code);

/* Close connections that have not said what they want in their time. Once a second. */
void http_reap(struct app *app);
/* Answer 503 to every request that waits for another thread: the server ends. */
void http_abandon_all(struct app *app);

/* What the client sent. */
const char *http_request_header(const struct request *r, const char *name);
/* A count within [1, @max] of query parameter @name; @otherwise without it. False: answered 400. */
bool http_param_count(struct request *r, const char *name, uint32_t max, uint32_t otherwise,
                      uint32_t *ret);
/* An instant of query parameter @name; 0 without it. False: answered 400. */
bool http_param_instant(struct request *r, const char *name, int64_t *ret_us);
/* "true" or "false"; false without it. False: answered 400. */
bool http_param_bool(struct request *r, const char *name, bool *ret);
/* The body as a JSON object (NULL: it was empty), depth and size bounded. New reference. False:
 * answered. */
bool http_body(struct request *r, json_t **ret);

/* Ask others; then http_wait for all of them. Answers lie in r->exchange in the order of asking. */
void http_ask_view(struct request *r, int view_kind, const char *name, bool histograms);
void http_ask_store(struct request *r, struct store_query *query);
void http_ask_write(struct request *r, struct store_write *write);
/* Go on with @next once every question is answered (at once when none is open). When there were
 * views among them and a gateway moved meanwhile the handler of the route is called again first, so
 * one that asks for views must ask for them before it does anything else. */
void http_wait(struct request *r, void (*next)(struct request *r));

/* Answer. Each may be called once; bodies are taken. */
void http_answer_json(struct request *r, unsigned status, json_t *body);
/* @data of malloc, freed by it. */
void http_answer_bytes(struct request *r, unsigned status, const char *type, char *data,
                       size_t size);
/* @data lives for ever. */
void http_answer_static(struct request *r, unsigned status, const char *type, const void *data,
                        size_t size);
void http_answer_empty(struct request *r, unsigned status);
void http_answer_response(struct request *r, unsigned status, struct MHD_Response *response);
/* A header of the answer, before it is given. */
void http_set_header(struct request *r, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* RFC 9457. */
void http_problem(struct request *r, unsigned status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* With errors[]: the lines of @lines. */
void http_problem_lines(struct request *r, unsigned status, const char *detail, const char *lines);
/* The same, with one more member; takes @value. */
void http_problem_members(struct request *r, unsigned status, const char *detail, const char *lines,
                          const char *key, json_t *value);
/* The problem that an error of another thread is to the caller (503, 504, 404 ...). @what: "the
 * database". */
void http_problem_status(struct request *r, int status, const char *what);
/* The same of an answer that failed or is not what it should be, with the words it brought. */
void http_problem_answer(struct request *r, const struct exchange_answer *a, const char *what);

#endif

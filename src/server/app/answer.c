/* SPDX-License-Identifier: Apache-2.0 */
/* Answers: JSON, bytes, problems, and the headers that go with all of them. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/app/app_state.h"
#include "server/app/http.h"
#include "server/app/writer.h"

void http_set_header(struct request *r, const char *name, const char *format, ...)
{
    weir_assert(r->header_count < HTTP_MAX_HEADERS);
    struct http_header *h = &r->header[r->header_count];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(h->value, sizeof(h->value), format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(h->value))
        return; /* better none than half of one */
    h->name = name;
    r->header_count++;
}

static void add_headers(struct request *r, struct MHD_Response *response)
{
    bool has_cache_control = false;
    for (size_t i = 0; i < r->header_count; i++) {
        MHD_add_response_header(response, r->header[i].name, r->header[i].value);
        has_cache_control |= strcmp(r->header[i].name, MHD_HTTP_HEADER_CACHE_CONTROL) == 0;
    }
    if (!has_cache_control)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, "Content-Security-Policy",
                            "default-src 'self'; object-src 'none'; base-uri 'none'; "
                            "form-action 'none'; frame-ancestors 'none'");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    MHD_add_response_header(response, "Cross-Origin-Resource-Policy", "same-origin");
}

void http_answer_response(struct request *r, unsigned status, struct MHD_Response *response)
{
    weir_assert(r->phase != REQUEST_ANSWERED && r->phase != REQUEST_SENT);
    weir_assert(r->response == NULL);
    weir_assert(status >= 100 && status < 600);
    if (!response) { /* no memory: the shortest answer there is */
        status = MHD_HTTP_SERVICE_UNAVAILABLE;
        response = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
        weir_assert(response != NULL);
    }
    add_headers(r, response);
    bool suspended = r->phase == REQUEST_SUSPENDED;
    r->status = status;
    r->response = response;
    r->phase = REQUEST_ANSWERED;
    r->app->requests_total[status / 100]++;
    if (suspended)
        MHD_resume_connection(r->connection);
    writer_leave(r);
}

void http_answer_bytes(struct request *r, unsigned status, const char *type, char *data,
                       size_t size)
{
    http_set_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "%s", type);
    struct MHD_Response *response = NULL;
    if (data)
        response = MHD_create_response_from_buffer_with_free_callback(size, data, free);
    if (!response)
        free(data);
    http_answer_response(r, status, response);
}

void http_answer_static(struct request *r, unsigned status, const char *type, const void *data,
                        size_t size)
{
    http_set_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "%s", type);
    /* microhttpd takes a pointer that is not const and does not write to it. */
    void *bytes = (void *)(uintptr_t)data;
    http_answer_response(r, status,
                         MHD_create_response_from_buffer(size, bytes, MHD_RESPMEM_PERSISTENT));
}

void http_answer_empty(struct request *r, unsigned status)
{
    http_answer_response(r, status,
                         MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT));
}

static void answer_json(struct request *r, unsigned status, const char *type, json_t *body)
{
    char *data = body ? json_dumps(body, HTTP_JSON_FLAGS) : NULL;
    json_decref(body);
    http_answer_bytes(r, status, type, data, data ? strlen(data) : 0);
}

void http_answer_json(struct request *r, unsigned status, json_t *body)
{
    answer_json(r, status, "application/json", body);
}

/* The names of problems are words of the API: "urn:weir:problem:NAME". */
static const struct problem_kind {
    unsigned status;
    const char *name, *title;
} problem_kinds[] = {
    {400, "bad-request", "The request is malformed"},
    {401, "unauthorized", "A token is needed"},
    {403, "forbidden", "Not allowed"},
    {404, "not-found", "Not found"},
    {405, "method-not-allowed", "The path does not take this method"},
    {406, "not-acceptable", "Nothing that Accept allows"},
    {409, "conflict", "In conflict with what is there"},
    {412, "precondition-failed", "Changed by somebody else meanwhile"},
    {413, "too-large", "Larger than its bound"},
    {414, "uri-too-long", "The request target is too long"},
    {415, "not-json", "The body is not JSON"},
    {422, "invalid", "The document is not valid"},
    {500, "internal", "An error of the server"},
    {503, "unavailable", "Not available now"},
    {504, "timeout", "Another part of the server did not answer in time"},
};

static const struct problem_kind *problem_kind(unsigned status)
{
    for (size_t i = 0; i < sizeof(problem_kinds) / sizeof(problem_kinds[0]); i++) {
        if (problem_kinds[i].status == status)
            return &problem_kinds[i];
    }
    weir_assert(!"a status that no problem has");
    return NULL;
}

static json_t *lines_to_array(const char *lines)
{
    json_t *array = json_array();
    for (const char *p = lines; *p != '\0';) {
        size_t n = strcspn(p, "\n");
        if (n > 0)
            json_array_append_new(array, json_stringn_nocheck(p, n));
        p += n + (p[n] == '\n');
    }
    return array;
}

static void answer_problem(struct request *r, unsigned status, const char *detail,
                           const char *lines, const char *key, json_t *value)
{
    const struct problem_kind *kind = problem_kind(status);
    char type[64];
    snprintf(type, sizeof(type), "urn:weir:problem:%s", kind->name);
    json_t *body =
        json_pack("{s:s, s:s, s:i}", "type", type, "title", kind->title, "status", (int)status);
    json_t *words = json_string(detail); /* NULL when not UTF-8 */
    if (body && words)
        json_object_set_new(body, "detail", words);
    if (body && lines)
        json_object_set_new(body, "errors", lines_to_array(lines));
    if (body && key)
        json_object_set(body, key, value);
    json_decref(value);
    if (status == MHD_HTTP_SERVICE_UNAVAILABLE)
        http_set_header(r, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    answer_json(r, status, "application/problem+json", body);
}

void http_problem(struct request *r, unsigned status, const char *format, ...)
{
    char detail[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof(detail), format, args);
    va_end(args);
    answer_problem(r, status, detail, NULL, NULL, NULL);
}

void http_problem_lines(struct request *r, unsigned status, const char *detail, const char *lines)
{
    answer_problem(r, status, detail, lines, NULL, NULL);
}

void http_problem_members(struct request *r, unsigned status, const char *detail, const char *lines,
                          const char *key, json_t *value)
{
    answer_problem(r, status, detail, lines, key, value);
}

void http_problem_status(struct request *r, int status, const char *what)
{
    weir_assert(status < 0);
    if (status == WEIR_E_NOT_FOUND)
        http_problem(r, MHD_HTTP_NOT_FOUND, "%s: not found", what);
    else if (status == WEIR_E_TIMEOUT)
        http_problem(r, MHD_HTTP_GATEWAY_TIMEOUT, "%s did not answer in time", what);
    else
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "%s: %s", what, weir_strerror(status));
}

void http_problem_answer(struct request *r, const struct exchange_answer *a, const char *what)
{
    const char *words = json_string_value(json_object_get(a->json, "words"));
    if (a->status == WEIR_E_UNAVAILABLE && words)
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "%s: %s", what, words);
    else
        http_problem_status(r, a->status < 0 ? a->status : WEIR_E_UNAVAILABLE, what);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What the client sent, checked: query parameters and the JSON body. */
#include <string.h>

#include "server/app/app_state.h"
#include "server/app/http.h"
#include "server/app/when.h"

/* Documents of ours are at most six deep. */
#define BODY_MAX_DEPTH 16u

bool http_param_count(struct request *r, const char *name, uint32_t max, uint32_t otherwise,
                      uint32_t *ret)
{
    const char *text = uri_param(&r->uri, name);
    *ret = otherwise;
    if (!text)
        return true;
    uint64_t n = 0;
    size_t digits = strspn(text, "0123456789");
    for (size_t i = 0; i < digits && digits <= 9; i++)
        n = n * 10 + (uint64_t)(text[i] - '0');
    if (digits == 0 || digits > 9 || text[digits] != '\0' || n < 1 || n > max) {
        http_problem(r, MHD_HTTP_BAD_REQUEST, "%s: found \"%s\", expected a number from 1 to %u",
                     name, text, max);
        return false;
    }
    *ret = (uint32_t)n;
    return true;
}

bool http_param_instant(struct request *r, const char *name, int64_t *ret_us)
{
    const char *text = uri_param(&r->uri, name);
    *ret_us = 0;
    if (!text || when_parse(text, ret_us) == 0)
        return true;
    http_problem(r, MHD_HTTP_BAD_REQUEST,
                 "%s: found \"%s\", expected an instant such as 2026-11-23T06:37:06Z", name, text);
    return false;
}

bool http_param_bool(struct request *r, const char *name, bool *ret)
{
    const char *text = uri_param(&r->uri, name);
    *ret = text && strcmp(text, "true") == 0;
    if (!text || *ret || strcmp(text, "false") == 0)
        return true;
    http_problem(r, MHD_HTTP_BAD_REQUEST, "%s: found \"%s\", expected true or false", name, text);
    return false;
}

/* Whether brackets nest deeper than the bound, seen before the parser recurses. */
static bool is_too_deep(const char *p, size_t n)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (p[i] == '\\')
                i++;
            else if (p[i] == '"')
                in_string = false;
        } else if (p[i] == '"') {
            in_string = true;
        } else if (p[i] == '{' || p[i] == '[') {
            if (++depth > BODY_MAX_DEPTH)
                return true;
        } else if ((p[i] == '}' || p[i] == ']') && depth > 0) {
            depth--;
        }
    }
    return false;
}

bool http_body(struct request *r, json_t **ret)
{
    json_error_t error;
    *ret = NULL;
    if (r->body.failed) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory for the body");
        return false;
    }
    if (r->body.len == 0)
        return true;
    if (is_too_deep(r->body.data, r->body.len)) {
        http_problem(r, MHD_HTTP_BAD_REQUEST, "the body nests deeper than %u", BODY_MAX_DEPTH);
        return false;
    }
    json_t *body = json_loadb(r->body.data, r->body.len, JSON_REJECT_DUPLICATES, &error);
    if (!body) {
        http_problem(r, MHD_HTTP_BAD_REQUEST, "the body is not JSON: line %d, column %d: %s",
                     error.line, error.column, error.text);
        return false;
    }
    if (!json_is_object(body)) {
        json_decref(body);
        http_problem(r, MHD_HTTP_BAD_REQUEST, "the body must be one JSON object");
        return false;
    }
    *ret = body;
    return true;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "cli/credential.h"

#define CONNECT_MS 5000L
#define CALL_MS 30000L
#define BODY_MAX (64u * 1024u * 1024u)
#define EVENT_MAX (16u * 1024u * 1024u)
#define ITEMS_MAX 100000u
#define PAGE 1000u
/* Between two tries to have a stream of events again. */
#define AGAIN_FIRST_US 500000u
#define AGAIN_MOST_US 5000000u

struct http {
    CURL *curl;
    char *server;
    char *ca; /* NULL: whom the system trusts */
    struct credential credential;
    char error[CURL_ERROR_SIZE];
};

/* 127.0.0.0/8, ::1 and localhost: where a token may travel in clear. */
static bool is_loopback(const char *url)
{
    bool loopback = false;
    char *host = NULL;
    CURLU *u = curl_url();
    if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK)
        loopback = strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
                   (strncmp(host, "127.", 4) == 0 && host[strspn(host, "0123456789.")] == '\0');
    curl_free(host);
    curl_url_cleanup(u);
    return loopback;
}

static enum cli_exit http_open(struct cli *c)
{
    if (c->http)
        return CLI_OK;
    const char *server = c->o.server ? c->o.server : getenv("WEIR_SERVER");
    if (!server || *server == '\0')
        server = "http://127.0.0.1:7480";
    bool https = strncmp(server, "https://", 8) == 0;
    if (!https && strncmp(server, "http://", 7) != 0)
        return cli_fail(CLI_USAGE, "the server \"%s\" is no address; expected "
                                   "http://HOST:PORT or https://HOST:PORT", server);
    struct http *h = calloc(1, sizeof(*h));
    if (!h || curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        free(h);
        return cli_fail(CLI_DIFFERENT, "out of memory");
    }
    c->http = h;
    h->curl = curl_easy_init();
    h->server = strdup(server);
    if (!h->curl || !h->server)
        return cli_fail(CLI_DIFFERENT, "out of memory");
    size_t n = strlen(h->server);
    while (n > 0 && h->server[n - 1] == '/')
        h->server[--n] = '\0';
    if (https && credential_ca(c, &h->ca) != CLI_OK)
        return CLI_USAGE;
    bool local = is_loopback(h->server);
    enum cli_exit r = credential_find(c, h->server, local, &h->credential);
    if (r != CLI_OK)
        return r;
    if (h->credential.token && !https && !local)
        return cli_fail(CLI_USAGE, "a token would travel to %s in clear; use https://, or a tunnel "
                                   "to the server's loopback address", h->server);
    return CLI_OK;
}

void http_close(struct cli *c)
{
    struct http *h = c->http;
    if (!h)
        return;
    curl_easy_cleanup(h->curl);
    free(h->server);
    free(h->ca);
    credential_fini(&h->credential);
    free(h);
    c->http = NULL;
    curl_global_cleanup();
}

const char *http_server(struct cli *c)
{
    return c->http ? c->http->server : "";
}

enum cli_exit http_use_token(struct cli *c, const char *token)
{
    enum cli_exit r = http_open(c);
    if (r != CLI_OK)
        return r;
    credential_fini(&c->http->credential);
    c->http->credential.token = strdup(token);
    return c->http->credential.token ? CLI_OK : cli_fail(CLI_DIFFERENT, "out of memory");
}

void http_encode(struct text *out, const char *s)
{
    static const char unreserved[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                     "0123456789-._~";
    for (; *s != '\0'; s++) {
        if (strchr(unreserved, *s))
            text_append(out, s, 1);
        else
            text_printf(out, "%%%02X", (unsigned char)*s);
    }
}

static size_t take_body(char *data, size_t size, size_t n, void *arg)
{
    struct text *body = arg;
    text_append(body, data, size * n);
    return body->failed ? 0 : size * n;
}

/* The request without its body's sink. The lists are the caller's to free when the call is over. */
static enum cli_exit prepare(struct cli *c, const char *method, const char *path, const char *body,
                             struct curl_slist **ret_headers)
{
    enum cli_exit r = http_open(c);
    if (r != CLI_OK)
        return r;
    struct http *h = c->http;
    struct text url, header;
    text_init(&url, 16384);
    text_init(&header, 1024);
    text_printf(&url, "%s%s", h->server, path);
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json");
    if (h->credential.token) {
        text_printf(&header, "Authorization: Bearer %s", h->credential.token);
        list = curl_slist_append(list, header.data);
    }
    curl_easy_reset(h->curl);
    curl_easy_setopt(h->curl, CURLOPT_URL, url.data);
    curl_easy_setopt(h->curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(h->curl, CURLOPT_USERAGENT, "weir");
    curl_easy_setopt(h->curl, CURLOPT_PROXY, "");
    curl_easy_setopt(h->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h->curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (h->ca) {
        curl_easy_setopt(h->curl, CURLOPT_CAINFO, h->ca);
        curl_easy_setopt(h->curl, CURLOPT_CAPATH, NULL); /* these and nobody else */
    }
    curl_easy_setopt(h->curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(h->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h->curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(h->curl, CURLOPT_ERRORBUFFER, h->error);
    if (body) {
        curl_easy_setopt(h->curl, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(h->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
    }
    h->error[0] = '\0';
    bool failed = url.failed || header.failed || !list;
    text_fini(&url);
    text_fini(&header);
    *ret_headers = list;
    return failed ? cli_fail(CLI_USAGE, "the address is too long") : CLI_OK;
}

static enum cli_exit tell_unreachable(struct cli *c, CURLcode code)
{
    const struct http *h = c->http;
    bool believed = code != CURLE_PEER_FAILED_VERIFICATION && code != CURLE_SSL_CACERT_BADFILE;
    /* What trying again does not mend ends those that would. */
    enum cli_exit as = c->again ? CLI_REFUSED : CLI_UNREACHABLE;
    if (c->again && believed && code != CURLE_WRITE_ERROR)
        return CLI_UNREACHABLE;
    if (code == CURLE_WRITE_ERROR)
        return cli_fail(as, "the answer of %s is larger than its bound", h->server);
    if (!believed)
        return cli_fail(as,
                        "the server at %s is not believed: %s\n"
                        "--ca or WEIR_CA names a file with who signs its certificate.",
                        h->server, h->error[0] ? h->error : curl_easy_strerror(code));
    return cli_fail(CLI_UNREACHABLE,
                    "cannot reach the server at %s: %s\n"
                    "Is weir-server running there? --server or WEIR_SERVER names another.",
                    h->server, h->error[0] ? h->error : curl_easy_strerror(code));
}

/* It begins or ends (503), or a proxy before it says that it does not answer (RFC 9110, 15.6). */
static bool is_away(long status)
{
    return status == 502 || status == 503 || status == 504;
}

/* RFC 9457: detail, then one line each of errors, then what to do. */
static enum cli_exit tell_problem(struct cli *c, long status, const json_t *problem)
{
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    const char *title = json_string_value(json_object_get(problem, "title"));
    enum cli_exit code = status == 401 || status == 403 ? CLI_UNAUTHORISED
                         : status == 404                ? CLI_NOT_FOUND
                                                        : CLI_REFUSED;
    if (c->again && is_away(status))
        return CLI_UNREACHABLE;
    if (detail || title)
        cli_fail(code, "%s", detail ? detail : title);
    else
        cli_fail(code, "the server answered %ld", status);
    size_t i;
    json_t *line;
    json_array_foreach(json_object_get(problem, "errors"), i, line)
    {
        if (json_is_string(line))
            cli_fail(code, "  %s", json_string_value(line));
    }
    if (status == 401)
        cli_fail(code, "%s `weir login` stores a token, --token-file and WEIR_TOKEN name one.",
                 c->http->credential.token ? "The token was not accepted." : "None was found.");
    else if (status == 403)
        cli_fail(code, "the token's role is not enough; ask an admin for one that is");
    else if (status == 503)
        cli_fail(code, "try again in a few seconds");
    return code;
}

/* Read the body as JSON into @ret. */
static enum cli_exit take_answer(struct cli *c, const struct text *body, struct http_answer *ret)
{
    json_error_t error;
    *ret = (struct http_answer){0};
    curl_easy_getinfo(c->http->curl, CURLINFO_RESPONSE_CODE, &ret->status);
    if (body->len > 0)
        ret->json = json_loadb(body->data, body->len, JSON_REJECT_DUPLICATES, &error);
    if (body->len > 0 && !ret->json && ret->status / 100 == 2 && c->again)
        return CLI_UNREACHABLE; /* it did before: a proxy speaks for it */
    if (body->len > 0 && !ret->json && ret->status / 100 == 2)
        return cli_fail(CLI_REFUSED, "%s does not answer in JSON (%s); is that a weir-server?",
                        c->http->server, error.text);
    return CLI_OK;
}

static enum cli_exit call(struct cli *c, const char *method, const char *path, const json_t *body,
                          bool silent_404, struct http_answer *ret)
{
    struct curl_slist *headers = NULL;
    char *sent = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct text received;
    text_init(&received, BODY_MAX);
    enum cli_exit r = prepare(c, method, path, sent, &headers);
    if (r == CLI_OK) {
        CURL *curl = c->http->curl;
        curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, CALL_MS);
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, &received);
        CURLcode code = curl_easy_perform(curl);
        r = code == CURLE_OK ? take_answer(c, &received, ret) : tell_unreachable(c, code);
        if (r == CLI_OK && ret->status / 100 != 2) {
            if (ret->status == 404 && silent_404)
                r = CLI_NOT_FOUND;
            else
                r = tell_problem(c, ret->status, ret->json);
            json_decref(ret->json);
            ret->json = NULL;
        }
    }
    curl_slist_free_all(headers);
    text_fini(&received);
    free(sent);
    return r;
}

enum cli_exit http_call(struct cli *c, const char *method, const char *path, const json_t *body,
                        struct http_answer *ret)
{
    return call(c, method, path, body, false, ret);
}

enum cli_exit http_find(struct cli *c, const char *path, struct http_answer *ret)
{
    return call(c, "GET", path, NULL, true, ret);
}

/* Move the items of a page to @items. */
static void take_items(json_t *page, json_t *items, size_t max)
{
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(page, "items"), i, item)
    {
        if (json_array_size(items) < max)
            json_array_append(items, item);
    }
}

enum cli_exit http_list(struct cli *c, const char *path, const char *query, size_t max,
                        json_t **ret_items)
{
    /* Histories go back by id, all else forward by cursor. */
    bool history = strcmp(path, "/api/v1/actions") == 0 || strcmp(path, "/api/v1/events") == 0 ||
                   strcmp(path, "/api/v1/audit") == 0;
    if (max == 0 || max > ITEMS_MAX)
        max = ITEMS_MAX;
    json_t *items = json_array();
    struct text url, next;
    text_init(&url, 16384);
    text_init(&next, 4096);
    enum cli_exit r = CLI_OK;
    do {
        size_t left = max - json_array_size(items);
        struct http_answer a;
        text_clear(&url);
        text_printf(&url, "%s?limit=%zu%s%s%s", path, left < PAGE ? left : PAGE,
                    *query ? "&" : "", query, next.data);
        r = call(c, "GET", url.data, NULL, false, &a);
        if (r != CLI_OK)
            break;
        size_t before = json_array_size(items);
        take_items(a.json, items, max);
        const char *cursor = json_string_value(json_object_get(a.json, "next"));
        text_clear(&next);
        /* A page without items ends the list whatever it says of the next. */
        if (cursor && json_array_size(items) > before) {
            text_append_str(&next, history ? "&before=" : "&cursor=");
            http_encode(&next, cursor);
        }
        json_decref(a.json);
    } while (next.len > 0 && json_array_size(items) < max);
    text_fini(&url);
    text_fini(&next);
    if (r == CLI_OK)
        *ret_items = items;
    else
        json_decref(items);
    return r;
}

/* Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html, 9.2.5. */
struct event_reader {
    struct text line_buffer, data;
    char event[64];
    http_on_event *on_event;
    void *arg;
    bool stopped;
    bool came; /* an event did, on this connection */
};

static void end_event(struct event_reader *e)
{
    if (e->data.len > 0) {
        json_error_t error;
        json_t *data = json_loadb(e->data.data, e->data.len, 0, &error);
        e->came = e->came || data;
        if (data && !e->on_event(e->arg, e->event[0] ? e->event : "message", data))
            e->stopped = true;
        json_decref(data);
    }
    text_clear(&e->data);
    e->event[0] = '\0';
}

static void take_line(struct event_reader *e, const char *line)
{
    if (*line == '\0') {
        end_event(e);
        return;
    }
    const char *colon = strchr(line, ':');
    size_t n = colon ? (size_t)(colon - line) : strlen(line);
    const char *value = colon ? colon + 1 + (colon[1] == ' ') : "";
    if (n == 4 && memcmp(line, "data", 4) == 0) {
        if (e->data.len > 0)
            text_append_str(&e->data, "\n");
        text_append_str(&e->data, value);
    } else if (n == 5 && memcmp(line, "event", 5) == 0) {
        snprintf(e->event, sizeof(e->event), "%s", value);
    }
}

static size_t take_events(char *data, size_t size, size_t n, void *arg)
{
    struct event_reader *e = arg;
    n *= size;
    for (size_t done = 0; done < n && !e->stopped;) {
        char *eol = memchr(data + done, '\n', n - done);
        size_t len = eol ? (size_t)(eol - data) - done : n - done;
        text_append(&e->line_buffer, data + done, len);
        done += len + (eol ? 1 : 0);
        if (e->line_buffer.failed || e->data.failed)
            return 0;
        if (!eol)
            break;
        size_t end = e->line_buffer.len;
        if (end > 0 && e->line_buffer.data[end - 1] == '\r')
            e->line_buffer.data[end - 1] = '\0';
        take_line(e, e->line_buffer.data);
        text_clear(&e->line_buffer);
    }
    return e->stopped ? 0 : n;
}

/* One connection's events. @again: it stood before, so that the server's absence is no news. */
static enum cli_exit events_once(struct cli *c, const char *path, struct event_reader *reader,
                                 bool again)
{
    struct curl_slist *headers = NULL;
    enum cli_exit r = prepare(c, "GET", path, NULL, &headers);
    if (r == CLI_OK) {
        struct event_reader e = *reader;
        text_init(&e.line_buffer, EVENT_MAX);
        text_init(&e.data, EVENT_MAX);
        CURL *curl = c->http->curl;
        long status = 0;
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_events);
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, &e);
        /* The server sends something each second, if only a comment. */
        curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, 60L);
        CURLcode code = curl_easy_perform(curl);
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
        again = again || e.came;
        if (e.stopped)
            r = CLI_OK;
        else if (again && (code != CURLE_OK || status == 200 || is_away(status)))
            r = CLI_UNREACHABLE; /* the caller says so */
        else if (code == CURLE_OK && status == 200)
            r = cli_fail(CLI_UNREACHABLE, "the server ended the stream");
        else if (code == CURLE_OK)
            r = tell_problem(c, status, NULL);
        else
            r = tell_unreachable(c, code);
        text_fini(&e.line_buffer);
        text_fini(&e.data);
        reader->stopped = e.stopped;
        reader->came = e.came;
    }
    curl_slist_free_all(headers);
    return r;
}

enum cli_exit http_events(struct cli *c, const char *path, http_on_event *on_event, void *arg)
{
    struct event_reader e = {.on_event = on_event, .arg = arg};
    useconds_t pause_us = AGAIN_FIRST_US;
    bool stood = false, said = false;
    for (;;) {
        e.came = false;
        enum cli_exit r = events_once(c, path, &e, stood);
        if (e.came) {
            stood = true;
            said = false;
            pause_us = AGAIN_FIRST_US;
        }
        if (r != CLI_UNREACHABLE || !stood || ferror(stdout))
            return r;
        if (!said)
            cli_fail(r, "the server at %s is gone; trying again (what happens meanwhile is not "
                        "shown here)", c->http->server);
        said = true;
        usleep(pause_us);
        pause_us = pause_us * 2 < AGAIN_MOST_US ? pause_us * 2 : AGAIN_MOST_US;
    }
}

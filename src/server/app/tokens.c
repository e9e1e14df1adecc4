/* SPDX-License-Identifier: Apache-2.0 */
/* API tokens and enrolment tokens: made, listed without their secrets, revoked. For administrators.
 */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"
#include "base/units.h"
#include "control/auth.h"
#include "server/app/app_state.h"
#include "server/app/http.h"
#include "server/app/routes.h"
#include "server/app/views.h"
#include "server/msg.h"

#define ENROLMENT_MAX_NS (3600 * NS_PER_S)
/* Ten years; without an expiry a token has none. */
#define TOKEN_MAX_NS (3650 * UINT64_C(86400) * NS_PER_S)

struct tokens_work {
    char secret[ACCESS_SECRET_SIZE > AUTH_TOKEN_SIZE ? ACCESS_SECRET_SIZE : AUTH_TOKEN_SIZE];
    char id[32], name[NAME_SIZE];
    enum role role;
    int64_t created_us, expires_us;
};

static void work_free(void *work)
{
    sodium_memzero(work, sizeof(struct tokens_work));
    free(work);
}

static struct tokens_work *work_new(struct request *r)
{
    struct tokens_work *w = calloc(1, sizeof(*w));
    if (!w) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
        return NULL;
    }
    w->created_us = clock_wall_us();
    r->work = w;
    r->work_free = work_free;
    return w;
}

static json_t *instant(int64_t wall_us)
{
    char at[40];
    if (wall_us == 0)
        return json_null();
    clock_format_wall(wall_us, at, sizeof(at));
    return json_string(at);
}

static json_t *token_json(const char *id, const char *name, const char *role, int64_t created_us,
                          int64_t expires_us)
{
    return json_pack("{s:s, s:s, s:s, s:o, s:o}", "id", id, "name", name, "role", role, "created",
                     instant(created_us), "expires", instant(expires_us));
}

static json_t *row_json(const json_t *row)
{
    return token_json(views_text(row, "id"), views_text(row, "name"), views_text(row, "role"),
                      views_count(row, "created_us"), views_count(row, "expires_us"));
}

/* The store's tokens, or NULL: answered. Borrowed. */
static json_t *rows_of(struct request *r)
{
    const struct exchange_answer *a = &r->exchange.answer[0];
    if (a->status == 0 && json_is_array(a->json))
        return a->json;
    http_problem_answer(r, a, "the database");
    return NULL;
}

static const char *key_id(const json_t *item, char *scratch)
{
    (void)scratch;
    return views_text(item, "id");
}

static void list_ready(struct request *r)
{
    json_t *rows = rows_of(r), *row;
    size_t i;
    if (!rows)
        return;
    json_t *items = json_array();
    json_array_foreach(rows, i, row) json_array_append_new(items, row_json(row));
    views_answer_page(r, items, key_id);
}

void tokens_list(struct request *r)
{
    http_ask_store(r, store_query_new(STORE_TOKENS));
    http_wait(r, list_ready);
}

static void get_ready(struct request *r)
{
    json_t *rows = rows_of(r), *row;
    size_t i;
    if (!rows)
        return;
    json_array_foreach(rows, i, row)
    {
        if (strcmp(views_text(row, "id"), r->name[0]) == 0) {
            http_answer_json(r, MHD_HTTP_OK, row_json(row));
            return;
        }
    }
    http_problem(r, MHD_HTTP_NOT_FOUND, "there is no token %s", r->name[0]);
}

void tokens_get(struct request *r)
{
    http_ask_store(r, store_query_new(STORE_TOKENS));
    http_wait(r, get_ready);
}

/* A text field of @body of at most @size; missing is an error when @required. */
static bool take_text(const json_t *body, const char *field, bool required, char *out, size_t size,
                      struct text *errors)
{
    const json_t *value = json_object_get(body, field);
    const char *text = json_string_value(value);
    out[0] = '\0';
    if (!value && !required)
        return true;
    if (text && json_string_length(value) == strlen(text) && text_copy(out, size, text) == 0)
        return true;
    text_printf(errors, "%s: expected text of at most %zu bytes\n", field, size - 1);
    return false;
}

static void refuse_unknown_fields(json_t *body, const char *const *known, struct text *errors)
{
    const char *field;
    json_t *value;
    json_object_foreach(body, field, value)
    {
        bool found = false;
        for (const char *const *k = known; *k && !found; k++)
            found = strcmp(*k, field) == 0;
        if (!found)
            text_printf(errors, "%.100s: unknown here\n", field);
    }
}

/* expiresIn into nanoseconds; 0 without it. */
static void take_expiry(const json_t *body, uint64_t max_ns, uint64_t *ret_ns, struct text *errors)
{
    char text[32];
    const char *expected;
    *ret_ns = 0;
    if (!take_text(body, "expiresIn", false, text, sizeof(text), errors) || text[0] == '\0')
        return;
    if (units_parse_duration_ns(text, ret_ns, &expected) < 0)
        text_printf(errors, "expiresIn: found \"%s\", expected %s\n", text, expected);
    else if (*ret_ns > max_ns)
        text_printf(errors, "expiresIn: found \"%s\", longer than is allowed here\n", text);
}

static void made_known(struct request *r)
{
    const struct tokens_work *w = r->work;
    const struct exchange_answer *a = &r->exchange.answer[0];
    if (a->status == 0 && json_is_array(a->json))
        access_load(&r->app->access, a->json);
    json_t *body = token_json(w->id, w->name, role_name(w->role), w->created_us, w->expires_us);
    if (body)
        json_object_set_new(body, "token", json_string(w->secret));
    http_set_header(r, MHD_HTTP_HEADER_LOCATION, "/api/v1/tokens/%s", w->id);
    http_answer_json(r, MHD_HTTP_CREATED, body);
}

static void made(struct request *r)
{
    if (r->exchange.answer[0].status < 0) {
        http_problem_answer(r, &r->exchange.answer[0], "the database");
        return;
    }
    exchange_clear(&r->exchange);
    http_ask_store(r, store_query_new(STORE_TOKENS));
    http_wait(r, made_known);
}

static bool take_token(json_t *body, struct tokens_work *w, struct text *errors)
{
    static const char *const known[] = {"name", "role", "expiresIn", NULL};
    char role[16];
    uint64_t expires_ns;
    refuse_unknown_fields(body, known, errors);
    if (take_text(body, "name", true, w->name, sizeof(w->name), errors) && !name_is_plain(w->name))
        text_append_str(
            errors, "name: expected letters, digits, '.', '_' and '-', a letter or digit first\n");
    if (take_text(body, "role", true, role, sizeof(role), errors) && role_parse(role, &w->role) < 0)
        text_printf(errors, "role: found \"%s\", expected viewer, operator or admin\n", role);
    take_expiry(body, TOKEN_MAX_NS, &expires_ns, errors);

    if (expires_ns != 0)
        w->expires_us = w->created_us + (int64_t)(expires_ns / NS_PER_US);
    return errors->len == 0;
}

/* A body of ours into @w by @take. False: answered. */
static bool take_body(struct request *r, struct tokens_work *w,
                      bool (*take)(json_t *body, struct tokens_work *w, struct text *errors))
{
    json_t *body;
    struct text errors;
    if (!http_body(r, &body))
        return false;
    if (!body)
        body = json_object();
    text_init(&errors, 16384);
    bool good = take(body, w, &errors);
    json_decref(body);
    if (!good)
        http_problem_lines(r, MHD_HTTP_UNPROCESSABLE_CONTENT,
                           "the request is not valid; see errors", errors.data);
    text_fini(&errors);
    return good;
}

void tokens_make(struct request *r)
{
    struct tokens_work *w = work_new(r);
    char hash[2 * ACCESS_HASH_SIZE + 1];
    if (!w || !take_body(r, w, take_token))
        return;
    if (r->app->access.count >= ACCESS_MAX_TOKENS) {
        http_problem(r, MHD_HTTP_CONFLICT, "there are %u tokens already; revoke some",
                     ACCESS_MAX_TOKENS);
        return;
    }
    access_make(w->secret, w->id, hash);
    struct store_write *write = store_write_new(STORE_TOKEN_PUT);
    if (write) {
        (void)text_copy(write->name, sizeof(write->name), w->id);
        write->json = json_pack("{s:s, s:s, s:s, s:I}", "name", w->name, "role", role_name(w->role),
                                "hash", hash, "expires_us", (json_int_t)w->expires_us);
    }
    http_ask_write(r, write);
    http_wait(r, made);
}

static void revoked_known(struct request *r)
{
    const struct exchange_answer *a = &r->exchange.answer[0];
    if (a->status == 0 && json_is_array(a->json))
        access_load(&r->app->access, a->json);
    http_answer_empty(r, MHD_HTTP_NO_CONTENT);
}

static void revoked(struct request *r)
{
    int s = r->exchange.answer[0].status;
    if (s == WEIR_E_NOT_FOUND) {
        http_problem(r, MHD_HTTP_NOT_FOUND, "there is no token %s", r->name[0]);
        return;
    }
    if (s < 0) {
        http_problem_answer(r, &r->exchange.answer[0], "the database");
        return;
    }
    access_forget(&r->app->access, r->name[0]);
    exchange_clear(&r->exchange);
    http_ask_store(r, store_query_new(STORE_TOKENS));
    http_wait(r, revoked_known);
}

void tokens_revoke(struct request *r)
{
    struct store_write *write = store_write_new(STORE_TOKEN_DELETE);
    if (write && text_copy(write->name, sizeof(write->name), r->name[0]) < 0) {
        store_write_free(write);
        http_problem(r, MHD_HTTP_NOT_FOUND, "no token has so long an id");
        return;
    }
    http_ask_write(r, write);
    http_wait(r, revoked);
}

static void enrolment_made(struct request *r)
{
    const struct tokens_work *w = r->work;
    struct app *app = r->app;
    if (r->exchange.answer[0].status < 0) {
        http_problem_answer(r, &r->exchange.answer[0], "the database");
        return;
    }
    /* The acceptor reads them again by itself when it meets an unknown one; this only makes it
     * sooner. */
    struct msg m = {.kind = MSG_KEYS_CHANGED};
    (void)mailbox_post(app->threads->app, app->threads->acceptor, &m);
    http_answer_json(r, MHD_HTTP_CREATED,
                     json_pack("{s:s, s:s, s:o}", "id", w->id, "token", w->secret, "expires",
                               instant(w->expires_us)));
}

static bool take_enrolment(json_t *body, struct tokens_work *w, struct text *errors)
{
    static const char *const known[] = {"expiresIn", NULL};
    uint64_t expires_ns;
    refuse_unknown_fields(body, known, errors);
    take_expiry(body, ENROLMENT_MAX_NS, &expires_ns, errors);
    if (expires_ns == 0)
        expires_ns = ENROLMENT_MAX_NS;
    w->expires_us = w->created_us + (int64_t)(expires_ns / NS_PER_US);
    return errors->len == 0;
}

void tokens_enrol(struct request *r)
{
    struct tokens_work *w = work_new(r);
    uint8_t random[40], key[AUTH_KEY_SIZE];
    char key_hex[2 * AUTH_KEY_SIZE + 1];
    if (!w || !take_body(r, w, take_enrolment))
        return;
    rng_system(random, sizeof(random));
    auth_token_make(random, w->secret, w->id, key);
    auth_token_bind(w->secret, r->app->fingerprint);
    sodium_bin2hex(key_hex, sizeof(key_hex), key, sizeof(key));
    struct store_write *write = store_write_new(STORE_ENROLMENT_PUT);
    if (write) {
        (void)text_copy(write->name, sizeof(write->name), w->id);
        write->json =
            json_pack("{s:s, s:I}", "key", key_hex, "expires_us", (json_int_t)w->expires_us);
    }
    sodium_memzero(random, sizeof(random));
    sodium_memzero(key, sizeof(key));
    sodium_memzero(key_hex, sizeof(key_hex));
    http_ask_write(r, write);
    http_wait(r, enrolment_made);
}

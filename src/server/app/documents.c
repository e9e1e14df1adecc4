/* SPDX-License-Identifier: Apache-2.0 */
/* Agreements, tenants and policies over HTTP.
 *
 * Problem: a promise that was answered "200" must be in the database and in force, must not
 * contradict another one, and must not undo what somebody else changed meanwhile.
 *
 * Model: one request at a time changes documents (app/writer.h). It reads what is stored, holds the
 * client's conditions and the overlap rule against it, writes, and tells every SLA process; only
 * their answers answer the client:
 *
 *   PUT: body valid -> turn -> stored documents -> conditions -> overlap -> (unchanged: answer)
 *        -> agreements: ADMISSION by every process -> (dry run: answer)
 *        -> STORE_WRITE committed -> DOCUMENT_CHANGED answered by every process -> 200 or 201
 *
 * Invariants: (1) no answer of success before the commit; (2) the version that was checked is the
 * version that is replaced (the store compares it again); (3) two agreements that
 * agreement_clashes or agreement_beyond_tenant names are never both stored, nor any that together
 * reserve more than a limit they share (agreement_sum.h).
 *
 * What may fail: the store (503, nothing changed); an SLA process that does not answer after the
 * commit: the document stands, the client gets 200 with Weir-Incomplete, and the process reads it
 * from the store when it starts anew. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "server/app/admission.h"
#include "server/app/app_state.h"
#include "server/app/header.h"
#include "server/app/http.h"
#include "server/app/routes.h"
#include "server/app/together.h"
#include "server/app/views.h"
#include "server/app/writer.h"
#include "server/model/model.h"
#include "server/msg.h"
#include "server/services/agreement_match.h"
#include "server/services/services.h"

#define ERRORS_MAX 65536u

enum document_class { CLASS_AGREEMENT, CLASS_TENANT, CLASS_POLICY };

static const struct document_kind {
    const char *plural, *kind, *word;
    enum document_class class;
    size_t max; /* an SLA process holds no more */
} document_kinds[] = {
    {"agreements", "Agreement", "agreement", CLASS_AGREEMENT, SERVICES_MAX_AGREEMENTS},
    {"tenants", "Tenant", "tenant", CLASS_TENANT, SERVICES_MAX_TENANTS},
    {"policies", "Policy", "policy", CLASS_POLICY, SERVICES_MAX_POLICIES},
};

struct documents_work {
    const struct document_kind *kind;
    struct document_change change;
    json_t *canonical;
    uint64_t version; /* stored now; 0: none */
    bool dry_run, force, had_conditions;
    int64_t updated_us;
    const char *result;
};

static void work_free(void *work)
{
    struct documents_work *w = work;
    json_decref(w->canonical);
    free(w);
}

static const struct document_kind *kind_of(const struct request *r)
{
    weir_assert(r->uri.segment_count >= 3);
    for (size_t i = 0; i < sizeof(document_kinds) / sizeof(document_kinds[0]); i++) {
        if (strcmp(r->uri.segment[2], document_kinds[i].plural) == 0)
            return &document_kinds[i];
    }
    weir_assert(!"a document route of no kind");
    return NULL;
}

static struct documents_work *work_new(struct request *r)
{
    struct documents_work *w = calloc(1, sizeof(*w));
    if (!w) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
        return NULL;
    }
    w->kind = kind_of(r);
    r->work = w;
    r->work_free = work_free;
    return w;
}

static void ask_stored(struct request *r, const char *kind, const char *name)
{
    struct store_query *q = store_query_new(STORE_DOCUMENTS);
    if (q) {
        (void)text_copy(q->kind, sizeof(q->kind), kind);
        (void)text_copy(q->name, sizeof(q->name), name);
    }
    http_ask_store(r, q);
}

/* The answer of the store to the ask_stored of this number, or NULL: answered. Borrowed. */
static json_t *stored_rows(struct request *r, size_t at)
{
    const struct exchange_answer *a = &r->exchange.answer[at];
    if (a->status == 0 && json_is_array(a->json))
        return a->json;
    http_problem_answer(r, a, "the database");
    return NULL;
}

static const json_t *row_of(const json_t *rows, const char *name)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        if (strcmp(views_text(row, "name"), name) == 0)
            return row;
    }
    return NULL;
}

static uint64_t row_version(const json_t *row)
{
    return row ? (uint64_t)views_count(row, "version") : 0;
}

/* The API's Document. @status may be NULL. */
static json_t *document(const char *kind, const char *name, uint64_t version, int64_t updated_us,
                        const json_t *canonical, json_t *status)
{
    char at[40];
    json_t *updated = json_null();
    if (updated_us != 0) {
        clock_format_wall(updated_us, at, sizeof(at));
        updated = json_string(at);
    }
    json_t *d = json_pack("{s:s, s:s, s:I, s:o, s:O}", "kind", kind, "name", name, "version",
                          (json_int_t)version, "updated", updated, "spec",
                          json_object_get(canonical, "spec"));
    if (d && status)
        json_object_set(d, "status", status);
    return d;
}

static json_t *row_document(const struct document_kind *kind, const json_t *row,
                            const json_t *statuses)
{
    const char *name = views_text(row, "name");
    const json_t *live = statuses ? row_of(statuses, name) : NULL;
    json_t *status = kind->class != CLASS_AGREEMENT ? NULL
                     : live                         ? json_object_get(live, "status")
                                                    : json_null();
    return document(kind->kind, name, row_version(row), views_count(row, "updated_us"),
                    json_object_get(row, "document"), status);
}

/* How agreements fare, from the answers behind the store's. New reference, NULL for other kinds. */
static json_t *live_statuses(struct request *r, const struct document_kind *kind)
{
    if (kind->class != CLASS_AGREEMENT)
        return NULL;
    json_t *items = views_gather(&r->exchange, r->app, 1, NULL);
    json_t *joined = views_join_agreements(items);
    json_decref(items);
    return joined;
}

static void list_ready(struct request *r)
{
    const struct document_kind *kind = kind_of(r);
    json_t *rows = stored_rows(r, 0), *row, *items;
    size_t i;
    if (!rows)
        return;
    json_t *statuses = live_statuses(r, kind);
    items = json_array();
    json_array_foreach(rows, i, row)
        json_array_append_new(items, row_document(kind, row, statuses));
    json_decref(statuses);
    views_answer_page(r, items, views_key_name);
}

void documents_list(struct request *r)
{
    const struct document_kind *kind = kind_of(r);
    ask_stored(r, kind->kind, "");
    if (kind->class == CLASS_AGREEMENT)
        http_ask_view(r, VIEW_AGREEMENTS, "", false);
    http_wait(r, list_ready);
}

static void tag_make(uint64_t version, char out[32])
{
    snprintf(out, 32, "\"%" PRIu64 "\"", version);
}

static void not_found(struct request *r, const struct document_kind *kind)
{
    http_problem(r, MHD_HTTP_NOT_FOUND, "there is no %s %s", kind->word, r->name[0]);
}

static void get_ready(struct request *r)
{
    const struct document_kind *kind = kind_of(r);
    const json_t *rows = stored_rows(r, 0);
    if (!rows)
        return;
    const json_t *row = row_of(rows, r->name[0]);
    if (!row) {
        not_found(r, kind);
        return;
    }
    char tag[32];
    tag_make(row_version(row), tag);
    http_set_header(r, MHD_HTTP_HEADER_ETAG, "%s", tag);
    const char *known = http_request_header(r, MHD_HTTP_HEADER_IF_NONE_MATCH);
    /* An agreement's status changes while its version does not. */
    if (known && kind->class != CLASS_AGREEMENT && header_tag_matches(known, tag, true)) {
        http_answer_empty(r, MHD_HTTP_NOT_MODIFIED);
        return;
    }
    json_t *statuses = live_statuses(r, kind);
    http_answer_json(r, MHD_HTTP_OK, row_document(kind, row, statuses));
    json_decref(statuses);
}

void documents_get(struct request *r)
{
    const struct document_kind *kind = kind_of(r);
    if (!name_is_plain(r->name[0])) {
        not_found(r, kind);
        return;
    }
    ask_stored(r, kind->kind, r->name[0]);
    if (kind->class == CLASS_AGREEMENT)
        http_ask_view(r, VIEW_AGREEMENTS, r->name[0], false);
    http_wait(r, get_ready);
}

static int parse_into(struct documents_work *w, const json_t *doc, struct text *errors)
{
    switch (w->kind->class) {
    case CLASS_AGREEMENT:
        return model_agreement_parse(doc, &w->change.agreement, errors);
    case CLASS_TENANT:
        return model_tenant_parse(doc, &w->change.tenant, errors);
    case CLASS_POLICY:
        return model_policy_parse(doc, &w->change.policy, errors);
    }
    weir_assert(!"a document of no kind");
    return WEIR_E_INVALID;
}

static json_t *render(const struct documents_work *w)
{
    switch (w->kind->class) {
    case CLASS_AGREEMENT:
        return model_agreement_render(&w->change.agreement);
    case CLASS_TENANT:
        return model_tenant_render(&w->change.tenant);
    case CLASS_POLICY:
        return model_policy_render(&w->change.policy);
    }
    weir_assert(!"a document of no kind");
    return NULL;
}

/* The body as a document of this path's kind and name. False: answered. */
static bool take_document(struct request *r, struct documents_work *w)
{
    json_t *body;
    if (!http_body(r, &body))
        return false;
    if (!body) {
        http_problem(r, MHD_HTTP_BAD_REQUEST, "the body is empty, expected a document");
        return false;
    }
    const char *name = json_string_value(json_object_get(body, "name"));
    struct text errors;
    text_init(&errors, ERRORS_MAX);
    if (name && strcmp(name, r->name[0]) != 0)
        text_printf(&errors, "name: found \"%s\", expected %s as in the path\n", name, r->name[0]);
    int s = parse_into(w, body, &errors);
    json_decref(body);
    bool good = s == 0 && errors.len == 0;
    if (good) {
        w->canonical = render(w);
        (void)text_copy(w->change.kind, sizeof(w->change.kind), w->kind->kind);
        (void)text_copy(w->change.name, sizeof(w->change.name), r->name[0]);
        if (!w->canonical)
            http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
    } else {
        http_problem_lines(r, MHD_HTTP_UNPROCESSABLE_CONTENT,
                           "the document is not valid; see errors", errors.data);
    }
    text_fini(&errors);
    return good && w->canonical;
}

/* Hold If-Match and If-None-Match against the stored version. False: answered 412. */
static bool conditions_hold(struct request *r, struct documents_work *w)
{
    const char *match = http_request_header(r, MHD_HTTP_HEADER_IF_MATCH);
    const char *none = http_request_header(r, MHD_HTTP_HEADER_IF_NONE_MATCH);
    char tag[32];
    tag_make(w->version, tag);
    w->had_conditions = match || none;
    if (match && (w->version == 0 || !header_tag_matches(match, tag, false))) {
        if (w->version == 0)
            http_problem(r, MHD_HTTP_PRECONDITION_FAILED, "there is no %s %s any more",
                         w->kind->word, r->name[0]);
        else
            http_problem(r, MHD_HTTP_PRECONDITION_FAILED,
                         "%s %s has version %" PRIu64 " now: read it again and decide anew",
                         w->kind->word, r->name[0], w->version);
        return false;
    }
    if (none && w->version != 0 && header_tag_matches(none, tag, true)) {
        http_problem(r, MHD_HTTP_PRECONDITION_FAILED, "%s %s exists already (version %" PRIu64 ")",
                     w->kind->word, r->name[0], w->version);
        return false;
    }
    return true;
}

/* What is stored must be in force, so no more is stored than can be. False: answered 409. */
static bool room_for(struct request *r, const struct documents_work *w, const json_t *rows)
{
    if (w->version != 0 || json_array_size(rows) < w->kind->max)
        return true;
    http_problem(r, MHD_HTTP_CONFLICT, "there are %zu %s already, as many as can be in force",
                 json_array_size(rows), w->kind->plural);
    return false;
}

/* Documents of the other kind that a new one must agree with: tenants for an agreement, and the
 * other way. NULL: there is no such kind. */
static const char *opposite_kind(const struct document_kind *kind)
{
    switch (kind->class) {
    case CLASS_AGREEMENT:
        return "Tenant";
    case CLASS_TENANT:
        return "Agreement";
    case CLASS_POLICY:
        break;
    }
    return NULL;
}

/* Room to read a stored document into. */
union stored {
    struct agreement agreement;
    struct tenant tenant;
};

/* Whether the new document contradicts the stored @doc, of its own kind or (@opposite) the other.
 * One that this version cannot read is not in force either. */
static bool clashes(const struct documents_work *w, const json_t *doc, bool opposite,
                    union stored *room, struct text *errors, char *ret_words, size_t size)
{
    bool put_agreement = w->kind->class == CLASS_AGREEMENT;
    if (put_agreement && opposite)
        return model_tenant_parse(doc, &room->tenant, errors) == 0 &&
               agreement_beyond_tenant(&w->change.agreement, &room->tenant, ret_words, size);
    if (!put_agreement && !opposite)
        return false;
    if (model_agreement_parse(doc, &room->agreement, errors) < 0)
        return false;
    return put_agreement
               ? agreement_clashes(&w->change.agreement, &room->agreement, ret_words, size)
               : agreement_beyond_tenant(&room->agreement, &w->change.tenant, ret_words, size);
}

static bool rows_clash(const struct documents_work *w, const json_t *rows, bool opposite,
                       union stored *room, char *ret_words, size_t size)
{
    size_t i;
    json_t *row;
    struct text errors;
    bool clash = false;
    text_init(&errors, ERRORS_MAX);
    json_array_foreach(rows, i, row)
    {
        clash = clash || clashes(w, json_object_get(row, "document"), opposite, room, &errors,
                                 ret_words, size);
    }
    text_fini(&errors);
    return clash;
}

/* Reservations that fit one by one must fit together. False: answered. */
static bool sums_fit(struct request *r, const struct documents_work *w, const json_t *rows,
                     const json_t *others)
{
    struct text found;
    text_init(&found, ERRORS_MAX);
    int err = w->kind->class == CLASS_AGREEMENT
                  ? together_agreement(&w->change.agreement, rows, others, &found)
                  : together_tenant(&w->change.tenant, others, &found);
    char *lines = found.len > 0 ? strchr(found.data, '\n') : NULL;
    if (lines != NULL) {
        *lines++ = '\0';
        http_problem_lines(r, MHD_HTTP_CONFLICT, found.data, lines);
    } else if (err < 0) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
    }
    text_fini(&found);
    return err == 0;
}

/* Hold a new document against all stored ones. False: answered. */
static bool overlap_free(struct request *r, const struct documents_work *w, const json_t *rows)
{
    char words[512] = "";
    if (opposite_kind(w->kind) == NULL)
        return true;
    const json_t *others = stored_rows(r, 1);
    if (!others)
        return false;
    union stored *room = malloc(sizeof(*room));
    if (!room) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
        return false;
    }
    bool clash = rows_clash(w, rows, false, room, words, sizeof(words)) ||
                 rows_clash(w, others, true, room, words, sizeof(words));
    free(room);
    if (clash)
        http_problem(r, MHD_HTTP_CONFLICT, "%s", words);
    return !clash;
}

static void answer_document(struct request *r, struct documents_work *w, unsigned status)
{
    char tag[32];
    json_t *live = w->kind->class == CLASS_AGREEMENT ? json_null() : NULL;
    json_t *d =
        document(w->kind->kind, w->change.name, w->version, w->updated_us, w->canonical, live);
    if (d)
        json_object_set_new(d, "result", json_string(w->result));
    if (w->version != 0) {
        tag_make(w->version, tag);
        http_set_header(r, MHD_HTTP_HEADER_ETAG, "%s", tag);
    }
    if (status == MHD_HTTP_CREATED)
        http_set_header(r, MHD_HTTP_HEADER_LOCATION, "/api/v1/%s/%s", w->kind->plural,
                        w->change.name);
    http_answer_json(r, status, d);
}

/* Every SLA process has said what it thinks of a change. */
static void note_services(struct request *r)
{
    size_t failed = 0;
    for (size_t i = 0; i < r->exchange.count; i++)
        failed += r->exchange.answer[i].status < 0;
    if (failed > 0)
        http_set_header(r, "Weir-Incomplete", "%zu", failed);
}

static void put_known(struct request *r)
{
    struct documents_work *w = r->work;
    note_services(r);
    answer_document(r, w, strcmp(w->result, "created") == 0 ? MHD_HTTP_CREATED : MHD_HTTP_OK);
}

static void delete_known(struct request *r)
{
    note_services(r);
    http_answer_empty(r, MHD_HTTP_NO_CONTENT);
}

static void tell_services(struct request *r, struct documents_work *w,
                          void (*next)(struct request *))
{
    exchange_clear(&r->exchange);
    for (size_t i = 0; i < r->app->threads->services_count; i++) {
        struct document_change *copy = malloc(sizeof(*copy));
        if (copy)
            *copy = w->change;
        struct msg m = {.kind = MSG_DOCUMENT_CHANGED, .body = copy, .body_free = free};
        exchange_ask(&r->exchange, r->app->threads->services[i], m, APP_VIEW_NS, r->app->now_ns);
    }
    http_wait(r, next);
}

/* What the store said to a write. False: answered. */
static bool committed(struct request *r, struct documents_work *w)
{
    const struct exchange_answer *a = &r->exchange.answer[0];
    if (a->status == 0)
        return true;
    if (a->status == WEIR_E_CONFLICT)
        http_problem(r, w->had_conditions ? MHD_HTTP_PRECONDITION_FAILED : MHD_HTTP_CONFLICT,
                     "%s %s was changed by somebody else meanwhile", w->kind->word, r->name[0]);
    else
        http_problem_answer(r, a, a->status == WEIR_E_NOT_FOUND ? r->name[0] : "the database");
    return false;
}

static void set_version(struct documents_work *w, uint64_t version)
{
    w->version = version;
    switch (w->kind->class) {
    case CLASS_AGREEMENT:
        w->change.agreement.version = version;
        return;
    case CLASS_TENANT:
        w->change.tenant.version = version;
        return;
    case CLASS_POLICY:
        w->change.policy.version = version;
        return;
    }
}

static void put_committed(struct request *r)
{
    struct documents_work *w = r->work;
    if (!committed(r, w))
        return;
    set_version(w, (uint64_t)views_count(r->exchange.answer[0].json, "version"));
    tell_services(r, w, put_known);
}

static struct store_write *write_new(const struct documents_work *w, enum store_verb verb)
{
    struct store_write *write = store_write_new(verb);
    if (!write)
        return NULL;
    (void)text_copy(write->kind, sizeof(write->kind), w->kind->kind);
    (void)text_copy(write->name, sizeof(write->name), w->change.name);
    write->version = w->version;
    write->wall_us = w->updated_us;
    if (verb == STORE_DOCUMENT_PUT) {
        write->version = w->version == 0 ? UINT64_MAX : w->version;
        write->json = json_deep_copy(w->canonical); /* the writer's own, on its thread */
        write->forced = w->force;
    }
    return write;
}

static void put_write(struct request *r)
{
    struct documents_work *w = r->work;
    if (w->dry_run) {
        answer_document(r, w, MHD_HTTP_OK);
        return;
    }
    exchange_clear(&r->exchange);
    w->updated_us = clock_wall_us();
    http_ask_write(r, write_new(w, STORE_DOCUMENT_PUT));
    http_wait(r, put_committed);
}

static void put_admitted(struct request *r)
{
    const struct documents_work *w = r->work;
    if (admission_granted(r, &w->change.agreement, w->force))
        put_write(r);
}

static void put_checked(struct request *r)
{
    struct documents_work *w = r->work;
    const json_t *rows = stored_rows(r, 0);
    if (!rows)
        return;
    const json_t *row = row_of(rows, w->change.name);
    w->version = row_version(row);
    w->updated_us = row ? views_count(row, "updated_us") : 0;
    if (!conditions_hold(r, w) || !room_for(r, w, rows) || !overlap_free(r, w, rows))
        return;
    bool same = row && json_equal(json_object_get(row, "document"), w->canonical);
    /* One that is stored already stays, whatever sums an older version let in. */
    if (!same && opposite_kind(w->kind) != NULL &&
        !sums_fit(r, w, rows, r->exchange.answer[1].json))
        return;
    w->result = same         ? "unchanged"
                : w->dry_run ? (row ? "would-update" : "would-create")
                             : (row ? "updated" : "created");
    if (same)
        answer_document(r, w, MHD_HTTP_OK);
    else if (w->kind->class == CLASS_AGREEMENT)
        admission_ask(r, &w->change.agreement, w->dry_run, w->force ? r->actor : NULL,
                      put_admitted);
    else
        put_write(r);
}

static void put_turn(struct request *r)
{
    const struct documents_work *w = r->work;
    ask_stored(r, w->kind->kind, ""); /* all: any may overlap, and they are counted */
    if (opposite_kind(w->kind) != NULL)
        ask_stored(r, opposite_kind(w->kind), "");
    http_wait(r, put_checked);
}

void documents_put(struct request *r)
{
    struct documents_work *w = work_new(r);
    if (!w || !http_param_bool(r, "dryRun", &w->dry_run) ||
        !http_param_bool(r, "force", &w->force) || !take_document(r, w))
        return;
    writer_enter(r, put_turn);
}

static void delete_committed(struct request *r)
{
    struct documents_work *w = r->work;
    if (!committed(r, w))
        return;
    w->change.remove = true;
    tell_services(r, w, delete_known);
}

static void delete_checked(struct request *r)
{
    struct documents_work *w = r->work;
    const json_t *rows = stored_rows(r, 0);
    if (!rows)
        return;
    w->version = row_version(row_of(rows, w->change.name));
    if (!conditions_hold(r, w))
        return;
    if (w->version == 0) {
        not_found(r, w->kind);
        return;
    }
    exchange_clear(&r->exchange);
    http_ask_write(r, write_new(w, STORE_DOCUMENT_DELETE));
    http_wait(r, delete_committed);
}

static void delete_turn(struct request *r)
{
    const struct documents_work *w = r->work;
    ask_stored(r, w->kind->kind, w->change.name);
    http_wait(r, delete_checked);
}

void documents_delete(struct request *r)
{
    struct documents_work *w = work_new(r);
    if (!w)
        return;
    if (!name_is_plain(r->name[0])) {
        not_found(r, w->kind);
        return;
    }
    (void)text_copy(w->change.kind, sizeof(w->change.kind), w->kind->kind);
    (void)text_copy(w->change.name, sizeof(w->change.name), r->name[0]);
    writer_enter(r, delete_turn);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What the database remembers: samples, probes, actions, events and the audit, a bounded page at a
 * time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/text.h"
#include "base/units.h"
#include "server/app/app_state.h"
#include "server/app/http.h"
#include "server/app/routes.h"
#include "server/app/views.h"

#define SAMPLES_MAX   10000u
#define SAMPLES_LIMIT 3600u
#define ROWS_MAX      1000u
#define ROWS_LIMIT    100u

/* A query with the parameters that all of history shares; NULL: answered. */
static struct store_query *query_new(struct request *r, enum store_table table, uint32_t max,
                                     uint32_t otherwise)
{
    int64_t from, to;
    uint32_t limit;
    if (!http_param_instant(r, "from", &from) || !http_param_instant(r, "to", &to) ||
        !http_param_count(r, "limit", max, otherwise, &limit))
        return NULL;
    if (from != 0 && to != 0 && from > to) {
        http_problem(r, MHD_HTTP_BAD_REQUEST, "from is after to");
        return NULL;
    }
    struct store_query *q = store_query_new(table);
    if (!q) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
        return NULL;
    }
    q->from_us = from;
    q->to_us = to;
    q->limit = limit;
    return q;
}

/* The one answer of the store, or NULL: answered. Borrowed. */
static json_t *rows_of(struct request *r)
{
    const struct exchange_answer *a = &r->exchange.answer[0];
    if (a->status == 0 && json_is_array(a->json))
        return a->json;
    http_problem_answer(r, a, "the database");
    return NULL;
}

/* The roll-up that a step picks, as the store has them (store.h). */
static uint32_t kept_step_ms(uint32_t step_ms)
{
    return step_ms < 10000 ? 1000 : step_ms < 60000 ? 10000 : step_ms < 3600000 ? 60000 : 3600000;
}

struct history_work {
    uint32_t step_ms;
};

static void samples_ready(struct request *r)
{
    const struct history_work *w = r->work;
    json_t *rows = rows_of(r);
    if (rows)
        http_answer_json(r, MHD_HTTP_OK,
                         json_pack("{s:O, s:I}", "items", rows, "stepMs", (json_int_t)w->step_ms));
}

void history_stream(struct request *r)
{
    const char *step = uri_param(&r->uri, "step"), *expected;
    uint64_t step_ns = NS_PER_S;
    if (step && units_parse_duration_ns(step, &step_ns, &expected) < 0) {
        http_problem(r, MHD_HTTP_BAD_REQUEST, "step: found \"%s\", expected %s", step, expected);
        return;
    }
    struct store_query *q = query_new(r, STORE_SAMPLES, SAMPLES_MAX, SAMPLES_LIMIT);
    if (!q)
        return;
    uint64_t step_ms = step_ns / NS_PER_MS;
    q->step_ms = kept_step_ms(step_ms > 3600000 ? 3600000 : (uint32_t)step_ms);
    int n = snprintf(q->name, sizeof(q->name), "%s/%s", r->name[0], r->name[1]);
    struct history_work *w = malloc(sizeof(*w));
    if (!w || n < 0 || (size_t)n >= sizeof(q->name)) {
        http_problem(r, MHD_HTTP_NOT_FOUND, "no stream has so long a name");
        store_query_free(q);
        free(w);
        return;
    }
    w->step_ms = q->step_ms;
    r->work = w;
    r->work_free = free;
    http_ask_store(r, q);
    http_wait(r, samples_ready);
}

static void probes_ready(struct request *r)
{
    json_t *rows = rows_of(r);
    if (rows)
        http_answer_json(r, MHD_HTTP_OK, json_pack("{s:O}", "items", rows));
}

void history_target(struct request *r)
{
    struct store_query *q = query_new(r, STORE_TARGET_HISTORY, SAMPLES_MAX, SAMPLES_LIMIT);
    if (!q)
        return;
    if (text_copy(q->name, sizeof(q->name), r->name[0]) < 0) {
        store_query_free(q);
        http_problem(r, MHD_HTTP_NOT_FOUND, "no target has so long a name");
        return;
    }
    http_ask_store(r, q);
    http_wait(r, probes_ready);
}

static void rows_ready(struct request *r)
{
    uint32_t limit;
    json_t *rows = rows_of(r);
    if (!rows || !http_param_count(r, "limit", ROWS_MAX, ROWS_LIMIT, &limit))
        return;
    size_t n = json_array_size(rows);
    const char *next = n == limit ? views_text(json_array_get(rows, n - 1), "id") : NULL;
    http_answer_json(r, MHD_HTTP_OK, json_pack("{s:O, s:s?}", "items", rows, "next", next));
}

static void rows_get(struct request *r, enum store_table table)
{
    const char *before = uri_param(&r->uri, "before");
    size_t n = before ? strlen(before) : 0;
    if (before && (n == 0 || n > 18 || strspn(before, "0123456789") != n)) {
        http_problem(r, MHD_HTTP_BAD_REQUEST, "before: found \"%s\", expected the id of a row",
                     before);
        return;
    }
    struct store_query *q = query_new(r, table, ROWS_MAX, ROWS_LIMIT);
    if (!q)
        return;
    q->before_id = before ? strtoull(before, NULL, 10) : 0;
    http_ask_store(r, q);
    http_wait(r, rows_ready);
}

void history_actions(struct request *r)
{
    rows_get(r, STORE_ACTIONS);
}

void history_events(struct request *r)
{
    rows_get(r, STORE_EVENTS);
}

void history_audit(struct request *r)
{
    rows_get(r, STORE_AUDIT);
}

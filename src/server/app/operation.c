/* SPDX-License-Identifier: Apache-2.0 */
/* Running the server: the enforcement switch, status, thread map, liveness and readiness. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/text.h"
#include "config.h"
#include "server/app/app_state.h"
#include "server/app/http.h"
#include "server/app/routes.h"
#include "server/app/views.h"
#include "server/msg.h"

#define SETTING "enforcement"

static void ask_setting(struct request *r)
{
    struct store_query *q = store_query_new(STORE_SETTINGS);
    if (q)
        (void)text_copy(q->name, sizeof(q->name), SETTING);
    http_ask_store(r, q);
}

/* On until somebody turned it off. */
static bool setting_is_on(const json_t *rows)
{
    const json_t *value = json_object_get(json_array_get(rows, 0), "value");
    return !json_is_false(json_object_get(value, "on"));
}

static void enforcement_ready(struct request *r)
{
    const struct exchange_answer *a = &r->exchange.answer[0];
    if (a->status < 0)
        http_problem_answer(r, a, "the database");
    else
        http_answer_json(r, MHD_HTTP_OK, json_pack("{s:b}", "on", setting_is_on(a->json)));
}

void operation_enforcement_get(struct request *r)
{
    ask_setting(r);
    http_wait(r, enforcement_ready);
}

struct enforcement_work {
    bool on;
};

static void enforcement_known(struct request *r)
{
    const struct enforcement_work *w = r->work;
    size_t failed = 0;
    for (size_t i = 0; i < r->exchange.count; i++)
        failed += r->exchange.answer[i].status < 0;
    if (failed > 0)
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE,
                     "stored, but %zu of the SLA processes did not confirm; try again", failed);
    else
        http_answer_json(r, MHD_HTTP_OK, json_pack("{s:b}", "on", w->on));
}

static void enforcement_stored(struct request *r)
{
    const struct enforcement_work *w = r->work;
    struct app *app = r->app;
    if (r->exchange.answer[0].status < 0) {
        http_problem_answer(r, &r->exchange.answer[0], "the database");
        return;
    }
    exchange_clear(&r->exchange);
    for (size_t i = 0; i < app->threads->services_count; i++) {
        struct msg m = {.kind = MSG_ENFORCEMENT, .arg = {w->on}};
        exchange_ask(&r->exchange, app->threads->services[i], m, APP_VIEW_NS, app->now_ns);
    }
    http_wait(r, enforcement_known);
}

void operation_enforcement_put(struct request *r)
{
    json_t *body;
    if (!http_body(r, &body))
        return;
    const json_t *on = json_object_get(body, "on");
    struct enforcement_work *w = malloc(sizeof(*w));
    if (!w || !json_is_boolean(on) || json_object_size(body) != 1) {
        http_problem(r, MHD_HTTP_UNPROCESSABLE_CONTENT,
                     "expected {\"on\": true} or {\"on\": false}");
        json_decref(body);
        free(w);
        return;
    }
    w->on = json_is_true(on);
    json_decref(body);
    r->work = w;
    r->work_free = free;
    struct store_write *write = store_write_new(STORE_SETTING_PUT);
    if (write) {
        (void)text_copy(write->name, sizeof(write->name), SETTING);
        write->json = json_pack("{s:b}", "on", w->on);
    }
    http_ask_write(r, write);
    http_wait(r, enforcement_stored);
}

static json_t *us(uint64_t ns)
{
    return json_integer((json_int_t)(ns / NS_PER_US));
}

static json_t *number(uint64_t n)
{
    return json_integer((json_int_t)n);
}

/* What a thread of a pair, or an SLA process, carries. */
static void add_load(json_t *j, const struct threads *t, uint16_t id)
{
    const struct threads_load *load = NULL;
    bool services = false;
    for (size_t i = 0; i < THREADS_MAX_PAIRS && load == NULL; i++) {
        if ((t->inbound[i] != NULL && mailbox_id(t->inbound[i]) == id) ||
            (t->outbound[i] != NULL && mailbox_id(t->outbound[i]) == id))
            load = &t->of_pair[i];
    }
    for (size_t i = 0; i < THREADS_MAX_SERVICES && load == NULL; i++) {
        services = t->services[i] != NULL && mailbox_id(t->services[i]) == id;
        if (services)
            load = &t->of_services[i];
    }
    json_object_set_new(j, "gateways", load == NULL ? json_null() : number(load->gateways));
    json_object_set_new(j, "subgroups", !services ? json_null() : number(load->subgroups));
}

static json_t *thread_json(const struct mailbox_stats *s, uint64_t now_ns)
{
    json_t *busy = s->busy_since_ns == 0         ? json_null()
                   : now_ns > s->busy_since_ns ? us(now_ns - s->busy_since_ns)
                                               : json_integer(0);
    const char *longest = s->busy_ns_max > 0 ? msg_kind_name(s->busy_kind_max) : NULL;
    return json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s?, s:o, s:o, "
        "s:o, s:o, s:o, s:o}",
        "name", s->name, "capacity", number(s->capacity), "depth", number(s->depth), "depthMax",
        number(s->depth_max), "urgentDepthMax", number(s->urgent_depth_max), "posted",
        number(s->posted), "urgent", number(s->urgent), "coalesced", number(s->coalesced),
        "refused", number(s->refused), "taken", number(s->taken), "replies", number(s->replies),
        "expired", number(s->expired), "ticketsOut", number(s->tickets_out), "wakes",
        number(s->wakes), "longestKind", longest, "longestUs", us(s->busy_ns_max), "busyNowUs",
        busy, "waitP50Us", us(s->wait_p50_ns), "waitP99Us", us(s->wait_p99_ns), "waitMaxUs",
        us(s->latency_ns_max), "busyTotalUs", us(s->busy_ns_total));
}

/* Each part of the way of early warnings, and the whole of it. */
static json_t *warnings_json(const struct trail *t)
{
    json_t *all = json_array();
    for (int part = 0; part < TRAIL_COUNT; part++) {
        struct trail_stats s;
        trail_read(t, (enum trail_part)part, &s);
        json_array_append_new(all, json_pack("{s:s, s:o, s:o, s:o, s:o}", "part",
                                             trail_name((enum trail_part)part), "count",
                                             number(s.count), "p50Us", us(s.p50_ns), "p99Us",
                                             us(s.p99_ns), "maxUs", us(s.max_ns)));
    }
    return all;
}

void operation_threads(struct request *r)
{
    const struct mailbox_set *set = r->app->threads->set;
    json_t *items = json_array();
    uint64_t now_ns = clock_mono_ns();
    for (size_t i = 0; i < mailbox_set_count(set); i++) {
        struct mailbox_stats s;
        mailbox_stats(set, i, &s);
        if (!s.owned)
            continue; /* room for a thread that the settings do not ask for */
        json_t *thread = thread_json(&s, now_ns);
        add_load(thread, r->app->threads, s.id);
        json_array_append_new(items, thread);
    }
    http_answer_json(r, MHD_HTTP_OK, json_pack("{s:o, s:o}", "items", items, "warnings",
                                              warnings_json(r->app->threads->trail)));
}

static void polls_ready(struct request *r)
{
    size_t failed;
    json_t *parts = views_gather(&r->exchange, r->app, 0, &failed);
    if (views_usable(r, failed))
        http_answer_json(r, MHD_HTTP_OK, json_pack("{s:O}", "items", parts));
    json_decref(parts);
}

void operation_polls(struct request *r)
{
    http_ask_view(r, VIEW_POLLS, "", false);
    http_wait(r, polls_ready);
}

/* StoreStatus without what is for those who debug the store. New reference. */
static json_t *store_json(const struct exchange_answer *a)
{
    if (a->status < 0 || !json_is_object(a->json))
        return json_pack("{s:b, s:s, s:i, s:i}", "ok", false, "error",
                         weir_strerror(a->status < 0 ? a->status : WEIR_E_UNAVAILABLE), "queued", 0,
                         "dropped", 0);
    json_t *copy = json_copy(a->json);
    json_object_del(copy, "detail");
    return copy;
}

/* A field added up over what each SLA process says of its own part. */
static json_int_t sum_field(const json_t *parts, const char *field)
{
    json_int_t sum = 0;
    size_t i;
    json_t *part;
    json_array_foreach(parts, i, part) sum += views_count(part, field);
    return sum;
}

static json_int_t count_failing(const json_t *agreements)
{
    json_int_t n = 0;
    size_t i;
    json_t *item;
    json_array_foreach(agreements, i, item) n +=
        strcmp(views_text(json_object_get(item, "status"), "verdict"), "failing") == 0;
    return n;
}

static json_t *instant(int64_t wall_us)
{
    char at[40];
    clock_format_wall(wall_us, at, sizeof(at));
    return json_string(at);
}

static void status_ready(struct request *r)
{
    struct app *app = r->app;
    const struct exchange *x = &r->exchange;
    size_t n = x->processes, failed;
    json_t *parts = views_gather(x, app, 2, &failed);
    json_t *target_items = views_gather(x, app, 2 + n, NULL);
    json_t *targets = views_join_targets(target_items);
    json_t *agreement_items = views_gather(x, app, 2 + 2 * n, NULL);
    json_t *agreements = views_join_agreements(agreement_items);
    if (views_usable(r, failed)) {
        bool on = x->answer[1].status < 0 || setting_is_on(x->answer[1].json);
        json_t *body = json_pack(
            "{s:s, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:b}, s:b, s:o}", "version",
            WEIR_VERSION, "now", instant(clock_wall_us()), "started", instant(app->started_wall_us),
            "gateways", sum_field(parts, "gateways"), "gatewaysLost",
            sum_field(parts, "gatewaysLost"), "targets", (json_int_t)json_array_size(targets),
            "streams", sum_field(parts, "streams"), "throttled", sum_field(parts, "throttled"),
            "agreements", (json_int_t)json_array_size(agreements), "agreementsFailing",
            count_failing(agreements), "enforcement", "on", on, "observe", app->config->observe,
            "store", store_json(&x->answer[0]));
        http_answer_json(r, MHD_HTTP_OK, body);
    }
    json_decref(parts);
    json_decref(target_items);
    json_decref(targets);
    json_decref(agreement_items);
    json_decref(agreements);
}

void operation_status(struct request *r)
{
    http_ask_store(r, store_query_new(STORE_STATUS));
    ask_setting(r);
    http_ask_view(r, VIEW_STATUS, "", false);
    http_ask_view(r, VIEW_TARGETS, "", false);
    http_ask_view(r, VIEW_AGREEMENTS, "", false);
    http_wait(r, status_ready);
}

void operation_health(struct request *r)
{
    http_answer_static(r, MHD_HTTP_OK, "text/plain; charset=utf-8", "ok\n", 3);
}

static void ready_known(struct request *r)
{
    const struct exchange *x = &r->exchange;
    size_t failed;
    json_decref(views_gather(x, r->app, 1, &failed));
    bool store = x->answer[0].status == 0 && json_is_true(json_object_get(x->answer[0].json, "ok"));
    if (store && failed == 0 && r->app->access.loaded)
        http_answer_static(r, MHD_HTTP_OK, "text/plain; charset=utf-8", "ready\n", 6);
    else
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE,
                     "database: %s; SLA processes without an answer: %zu; tokens %s",
                     store ? "answers" : "does not answer", failed,
                     r->app->access.loaded ? "read" : "not read yet");
}

void operation_ready(struct request *r)
{
    http_ask_store(r, store_query_new(STORE_STATUS));
    http_ask_view(r, VIEW_STATUS, "", false);
    http_wait(r, ready_known);
}

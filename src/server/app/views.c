/* SPDX-License-Identifier: Apache-2.0 */
/* Views.
 *
 * Problem: each SLA process knows its own gateways only, and a client wants one list. A process
 * that does not answer must not take away what the others know.
 *
 * Model: every view is asked of every process and put together here. What one process left out is
 * said in the header Weir-Incomplete; only when none answered is it an error. Lists are ordered by
 * key, and the cursor is the last key given, so that a page after a change neither repeats nor
 * skips what stayed.
 *
 * A gateway on its way from one process to another (server/move.h) is at none, and one that arrives
 * while they answer may be at two. So when one moved while views were asked they are asked again,
 * for a bounded time (http.c), and what earlier rounds showed is kept: a gateway is missing from
 * one round or another, not from all. */
#include "server/app/views.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/text.h"
#include "server/app/app_state.h"
#include "server/app/http.h"
#include "server/app/routes.h"
#include "server/msg.h"

#define VIEWS_MAX_LIMIT 10000u
#define VIEWS_LIMIT     1000u

json_int_t views_count(const json_t *item, const char *field)
{
    return json_integer_value(json_object_get(item, field));
}

const char *views_text(const json_t *item, const char *field)
{
    const char *text = json_string_value(json_object_get(item, field));
    return text ? text : "";
}

void views_ask(struct exchange *x, struct app *app, enum view_kind kind, const char *name,
               bool histograms)
{
    if (x->processes == 0)
        x->processes = app->threads->services_count;
    if (x->views == 0)
        x->moves_ended = atomic_load(&app->threads->moves_ended);
    weir_assert(x->views < EXCHANGE_VIEWS_MAX);
    x->view_first[x->views++] = x->count;
    for (size_t i = 0; i < x->processes; i++) {
        struct view_request *v = calloc(1, sizeof(*v));
        struct msg m = {.kind = MSG_VIEW, .body = v, .body_free = free};
        if (v) {
            v->kind = kind;
            v->histograms = histograms;
            (void)text_copy(v->name, sizeof(v->name), name);
        }
        exchange_ask(x, app->threads->services[i], m, APP_VIEW_NS, app->now_ns);
    }
}

/* By which the same row is known in another answer; NULL: by nothing. */
static const char *identity(const json_t *item, char scratch[2 * STREAM_KEY_SIZE])
{
    const char *id = views_text(item, "id"), *key = views_text(item, "key");
    if (id[0] != '\0')
        return id;
    if (key[0] == '\0')
        return NULL;
    snprintf(scratch, 2 * STREAM_KEY_SIZE, "%s %s", key, views_text(item, "gateway"));
    return scratch;
}

/* Those of @from that @into does not have yet. */
static void add_unseen(json_t *into, json_t *seen, const json_t *from)
{
    char scratch[2 * STREAM_KEY_SIZE];
    size_t i;
    json_t *item;
    json_array_foreach(from, i, item)
    {
        const char *id = identity(item, scratch);
        if (id != NULL && json_object_get(seen, id) != NULL)
            continue;
        if (id != NULL)
            json_object_set_new(seen, id, json_true());
        json_array_append(into, item);
    }
}

/* Takes @all. What has no identity is of the last round only. */
static json_t *join_rounds(json_t *all, const json_t *earlier)
{
    char scratch[2 * STREAM_KEY_SIZE];
    json_t *joined = json_array(), *seen = json_object();
    add_unseen(joined, seen, all);
    const json_t *first = json_array_get(earlier, 0);
    if (first != NULL && identity(first, scratch) != NULL)
        add_unseen(joined, seen, earlier);
    json_decref(seen);
    json_decref(all);
    return joined;
}

static const char *round_key(size_t first, char out[24])
{
    snprintf(out, 24, "%zu", first);
    return out;
}

json_t *views_keep(const struct exchange *x, const struct app *app)
{
    json_t *kept = json_object();
    char key[24];
    for (size_t i = 0; i < x->views; i++)
        json_object_set_new(kept, round_key(x->view_first[i], key),
                            views_gather(x, app, x->view_first[i], NULL));
    return kept;
}

bool views_moved(const struct exchange *x, const struct app *app)
{
    return x->views > 0 && atomic_load(&app->threads->moves_begun) != x->moves_ended;
}

json_t *views_gather(const struct exchange *x, const struct app *app, size_t first,
                     size_t *ret_failed)
{
    json_t *all = json_array();
    size_t failed = 0;
    (void)app;
    for (size_t i = first; i < first + x->processes; i++) {
        weir_assert(i < x->count);
        const struct exchange_answer *a = &x->answer[i];
        if (a->status == 0 && json_is_array(a->json))
            json_array_extend(all, a->json);
        else
            failed++;
    }
    if (ret_failed)
        *ret_failed = failed;
    if (x->earlier != NULL) {
        char key[24];
        all = join_rounds(all, json_object_get(x->earlier, round_key(first, key)));
    }
    return all;
}

bool views_usable(struct request *r, size_t failed)
{
    if (failed == r->exchange.processes) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no SLA process answers");
        return false;
    }
    if (failed > 0)
        http_set_header(r, "Weir-Incomplete", "%zu", failed);
    return true;
}

static json_t *find_name(const json_t *items, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(items, i, item)
    {
        if (strcmp(views_text(item, "name"), name) == 0)
            return item;
    }
    return NULL;
}

static void add_counts(json_t *into, const json_t *from, const char *const *fields)
{
    for (; *fields; fields++)
        json_object_set_new(into, *fields,
                            json_integer(views_count(into, *fields) + views_count(from, *fields)));
}

static json_int_t total_p99(const json_t *target)
{
    return views_count(json_object_get(json_object_get(target, "latency"), "total"), "p99Us");
}

static void join_target(json_t *into, const json_t *from)
{
    static const char *const sums[] = {
        "connections", "connects", "connectFailures", "inflight", "errors", "iops", NULL};
    add_counts(into, from, sums);
    json_array_extend(json_object_get(into, "gateways"), json_object_get(from, "gateways"));
    /* Percentiles do not add up; the worse one is the honest one of the two. */
    if (total_p99(from) > total_p99(into))
        json_object_set(into, "latency", json_object_get(from, "latency"));
    if (!json_is_object(json_object_get(into, "probe")))
        json_object_set(into, "probe", json_object_get(from, "probe"));
}

json_t *views_join_targets(const json_t *items)
{
    json_t *joined = json_array();
    size_t i;
    json_t *item;
    json_array_foreach(items, i, item)
    {
        json_t *there = find_name(joined, views_text(item, "name"));
        if (there)
            join_target(there, item);
        else
            json_array_append_new(joined, json_deep_copy(item));
    }
    return joined;
}

/* The later in this list outweighs. */
static int verdict_weight(const char *verdict)
{
    static const char *const order[] = {"none", "idle", "met", "excess", "exempt", "failing"};
    for (int i = 0; i < 6; i++) {
        if (strcmp(order[i], verdict) == 0)
            return i;
    }
    return -1;
}

static void join_status(json_t *into, const json_t *from)
{
    static const char *const sums[] = {"streams", "iops",       "demandIops",
                                       "windows", "windowsMet", NULL};
    add_counts(into, from, sums);
    if (views_count(from, "latencyUs") > views_count(into, "latencyUs"))
        json_object_set(into, "latencyUs", json_object_get(from, "latencyUs"));
    if (verdict_weight(views_text(from, "verdict")) > verdict_weight(views_text(into, "verdict")))
        json_object_set(into, "verdict", json_object_get(from, "verdict"));
}

json_t *views_join_agreements(const json_t *items)
{
    json_t *joined = json_array();
    size_t i;
    json_t *item;
    json_array_foreach(items, i, item)
    {
        const json_t *status = json_object_get(item, "status");
        json_t *there = find_name(joined, views_text(item, "name"));
        if (!json_is_object(status))
            continue;
        if (there)
            join_status(json_object_get(there, "status"), status);
        else
            json_array_append_new(joined,
                                  json_pack("{s:O, s:o}", "name", json_object_get(item, "name"),
                                            "status", json_deep_copy(status)));
    }
    return joined;
}

const char *views_key_name(const json_t *item, char *scratch)
{
    (void)scratch;
    return views_text(item, "name");
}

static const char *key_stream(const json_t *item, char *scratch)
{
    snprintf(scratch, 512, "%s %s", views_text(item, "key"), views_text(item, "gateway"));
    return scratch;
}

struct keyed {
    char *key;
    json_t *item;
};

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const struct keyed *)a)->key, ((const struct keyed *)b)->key);
}

static struct keyed *sort_items(const json_t *items, views_key *key)
{
    size_t n = json_array_size(items), i;
    struct keyed *sorted = calloc(n + 1, sizeof(*sorted));
    json_t *item;
    char scratch[512];
    if (!sorted)
        return NULL;
    json_array_foreach(items, i, item)
    {
        sorted[i] = (struct keyed){.key = strdup(key(item, scratch)), .item = item};
        if (!sorted[i].key) {
            while (i > 0)
                free(sorted[--i].key);
            free(sorted);
            return NULL;
        }
    }
    qsort(sorted, n, sizeof(*sorted), compare_keys);
    return sorted;
}

void views_answer_page(struct request *r, json_t *items, views_key *key)
{
    uint32_t limit;
    const char *cursor = uri_param(&r->uri, "cursor");
    size_t n = json_array_size(items), i = 0;
    if (!http_param_count(r, "limit", VIEWS_MAX_LIMIT, VIEWS_LIMIT, &limit)) {
        json_decref(items);
        return;
    }
    struct keyed *sorted = sort_items(items, key);
    json_t *page = json_array();
    for (; sorted && i < n && json_array_size(page) < limit; i++) {
        if (!cursor || strcmp(sorted[i].key, cursor) > 0)
            json_array_append(page, sorted[i].item);
    }
    const char *next = sorted && i < n ? sorted[i - 1].key : NULL;
    json_t *body = json_pack("{s:o, s:s?}", "items", page, "next", next);
    for (i = 0; sorted && i < n; i++)
        free(sorted[i].key);
    if (!sorted) {
        json_decref(body);
        body = NULL; /* answered as out of memory */
    }
    free(sorted);
    json_decref(items);
    http_answer_json(r, MHD_HTTP_OK, body);
}

static bool filters_hold(const struct request *r, const json_t *stream)
{
    static const char *const fields[] = {"host",    "volume",    "tenant", "target",
                                         "gateway", "agreement", "verdict"};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        const char *wanted = uri_param(&r->uri, fields[i]);
        if (wanted && strcmp(views_text(stream, fields[i]), wanted) != 0)
            return false;
    }
    return true;
}

static void streams_ready(struct request *r)
{
    size_t failed, i;
    json_t *all = views_gather(&r->exchange, r->app, 0, &failed), *chosen = json_array(), *item;
    json_array_foreach(all, i, item)
    {
        if (filters_hold(r, item))
            json_array_append(chosen, item);
    }
    json_decref(all);
    if (views_usable(r, failed))
        views_answer_page(r, chosen, key_stream);
    else
        json_decref(chosen);
}

void views_streams(struct request *r)
{
    bool histograms;
    if (!http_param_bool(r, "histograms", &histograms))
        return;
    http_ask_view(r, VIEW_STREAMS, "", histograms);
    http_wait(r, streams_ready);
}

static void stream_ready(struct request *r)
{
    size_t failed, i;
    json_t *all = views_gather(&r->exchange, r->app, 0, &failed), *item, *best = NULL;
    const char *gateway = uri_param(&r->uri, "gateway");
    json_array_foreach(all, i, item)
    {
        if (strcmp(views_text(item, "host"), r->name[0]) != 0 ||
            strcmp(views_text(item, "volume"), r->name[1]) != 0 ||
            (gateway && strcmp(views_text(item, "gateway"), gateway) != 0))
            continue;
        if (!best || views_count(item, "iops") > views_count(best, "iops"))
            best = item;
    }
    if (views_usable(r, failed)) {
        if (best)
            http_answer_json(r, MHD_HTTP_OK, json_incref(best));
        else
            http_problem(r, MHD_HTTP_NOT_FOUND, "there is no stream %s/%s", r->name[0], r->name[1]);
    }
    json_decref(all);
}

void views_stream(struct request *r)
{
    bool histograms;
    char key[STREAM_KEY_SIZE];
    if (!http_param_bool(r, "histograms", &histograms))
        return;
    int n = snprintf(key, sizeof(key), "%s/%s", r->name[0], r->name[1]);
    if (n < 0 || (size_t)n >= sizeof(key)) {
        http_problem(r, MHD_HTTP_NOT_FOUND, "no stream has so long a name");
        return;
    }
    http_ask_view(r, VIEW_STREAMS, key, histograms);
    http_wait(r, stream_ready);
}

static void named_ready(struct request *r, json_t *items, const char *what, size_t failed)
{
    if (views_usable(r, failed)) {
        json_t *item = find_name(items, r->name[0]);
        if (item)
            http_answer_json(r, MHD_HTTP_OK, json_incref(item));
        else
            http_problem(r, MHD_HTTP_NOT_FOUND, "there is no %s %s", what, r->name[0]);
    }
    json_decref(items);
}

/* Asked behind the views: which gateways get a new key when they next connect. */
static void ask_orders(struct request *r)
{
    struct msg m = {.kind = MSG_ROTATION_ORDERS};
    exchange_ask(&r->exchange, r->app->threads->acceptor, m, APP_VIEW_NS, r->app->now_ns);
}

/* The rows of a view are shared with earlier rounds: told in copies. Takes @items. */
static json_t *with_orders(const struct request *r, json_t *items)
{
    const struct exchange_answer *a = &r->exchange.answer[r->exchange.count - 1];
    json_t *told = json_array(), *item;
    size_t i;
    json_array_foreach(items, i, item)
    {
        json_t *copy = json_copy(item);
        json_int_t since = a->status == 0 ? views_count(a->json, views_text(item, "id")) : 0;
        char at[40];
        clock_format_wall(since, at, sizeof(at));
        json_object_set_new(copy, "keyOrdered", since != 0 ? json_string(at) : json_null());
        json_array_append_new(told, copy);
    }
    json_decref(items);
    return told;
}

static void gateways_ready(struct request *r)
{
    size_t failed;
    json_t *items = with_orders(r, views_gather(&r->exchange, r->app, 0, &failed));
    if (views_usable(r, failed))
        views_answer_page(r, items, views_key_name);
    else
        json_decref(items);
}

void views_gateways(struct request *r)
{
    http_ask_view(r, VIEW_GATEWAYS, "", false);
    ask_orders(r);
    http_wait(r, gateways_ready);
}

static void gateway_ready(struct request *r)
{
    size_t failed;
    json_t *items = with_orders(r, views_gather(&r->exchange, r->app, 0, &failed));
    named_ready(r, items, "gateway", failed);
}

void views_gateway(struct request *r)
{
    http_ask_view(r, VIEW_GATEWAYS, "", false);
    ask_orders(r);
    http_wait(r, gateway_ready);
}

static const char *key_address(const json_t *item, char *scratch)
{
    (void)scratch;
    return views_text(item, "address");
}

static void dials_ready(struct request *r)
{
    const struct exchange_answer *a = &r->exchange.answer[0];
    if (a->status < 0)
        http_problem_answer(r, a, "the acceptor");
    else
        views_answer_page(r, json_incref(a->json), key_address);
}

void views_dials(struct request *r)
{
    struct msg m = {.kind = MSG_DIALS};
    exchange_ask(&r->exchange, r->app->threads->acceptor, m, APP_VIEW_NS, r->app->now_ns);
    http_wait(r, dials_ready);
}

static json_t *joined_targets(struct request *r, size_t *ret_failed)
{
    json_t *items = views_gather(&r->exchange, r->app, 0, ret_failed);
    json_t *joined = views_join_targets(items);
    json_decref(items);
    return joined;
}

static void targets_ready(struct request *r)
{
    size_t failed;
    json_t *joined = joined_targets(r, &failed);
    if (views_usable(r, failed))
        views_answer_page(r, joined, views_key_name);
    else
        json_decref(joined);
}

void views_targets(struct request *r)
{
    http_ask_view(r, VIEW_TARGETS, "", false);
    http_wait(r, targets_ready);
}

static void target_ready(struct request *r)
{
    size_t failed;
    json_t *joined = joined_targets(r, &failed);
    named_ready(r, joined, "target", failed);
}

void views_target(struct request *r)
{
    http_ask_view(r, VIEW_TARGETS, "", false);
    http_wait(r, target_ready);
}

static json_t *joined_sums(const json_t *items)
{
    static const char *const sums[] = {"streams",
                                       "demandIops",
                                       "iops",
                                       "readIops",
                                       "writeIops",
                                       "readBytesPerSecond",
                                       "writeBytesPerSecond",
                                       "errorsPerSecond",
                                       "inflight",
                                       "heldNow",
                                       "throttled",
                                       NULL};
    json_t *by_name = json_object(), *joined = json_array(), *item;
    const char *name;
    size_t i;
    json_array_foreach(items, i, item)
    {
        json_t *there = json_object_get(by_name, views_text(item, "name"));
        if (there)
            add_counts(there, item, sums);
        else
            json_object_set_new(by_name, views_text(item, "name"), json_deep_copy(item));
    }
    json_object_foreach(by_name, name, item) json_array_append(joined, item);
    json_decref(by_name);
    return joined;
}

static void sums_ready(struct request *r)
{
    size_t failed;
    json_t *items = views_gather(&r->exchange, r->app, 0, &failed);
    if (views_usable(r, failed))
        views_answer_page(r, joined_sums(items), views_key_name);
    json_decref(items);
}

void views_hosts(struct request *r)
{
    http_ask_view(r, VIEW_HOSTS, "", false);
    http_wait(r, sums_ready);
}

void views_volumes(struct request *r)
{
    http_ask_view(r, VIEW_VOLUMES, "", false);
    http_wait(r, sums_ready);
}

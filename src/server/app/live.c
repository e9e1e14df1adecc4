/* SPDX-License-Identifier: Apache-2.0 */
/* Live views.
 *
 * Problem: many browsers want the same picture each second, some of them read slowly or not at all,
 * and none may cost the SLA processes or the other clients anything.
 *
 * Model: each second, if anybody listens, one exchange asks every SLA process for its streams and
 * agreements. What comes is rendered once into a chunk that all clients share by count. A client is
 * a queue of chunks; when it is empty the connection is suspended, when something is put in it is
 * resumed. Of snapshots a client has at most one waiting: a slow reader sees fewer pictures, never
 * older ones.
 *
 * Invariants: (1) a chunk lives exactly as long as somebody holds it; (2) a client's queue has at
 * most LIVE_MAX_BACKLOG chunks, else it is cut off; (3) suspended implies an empty queue; (4) count
 * is the length of clients.
 *
 * What may fail: a client whose socket takes nothing for APP_IDLE_SECONDS is closed by microhttpd.
 */
#include "server/app/live.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/text.h"
#include "server/app/app_state.h"
#include "server/app/http.h"
#include "server/app/routes.h"
#include "server/app/views.h"
#include "server/mailbox/gauge.h"

#define CHUNK_MAX     (64u * 1024 * 1024)
#define KEEP_ALIVE_NS (10 * NS_PER_S)

enum chunk_kind { CHUNK_EVENT, CHUNK_STREAMS, CHUNK_AGREEMENTS, CHUNK_KIND_COUNT };

struct chunk {
    size_t holders;
    enum chunk_kind kind;
    struct text text;
};

struct live_client {
    struct list link;
    struct app *app;
    struct MHD_Connection *connection;
    struct chunk *queue[LIVE_MAX_BACKLOG];
    size_t head, length, offset; /* offset: sent of the head */
    size_t waiting[CHUNK_KIND_COUNT];
    bool suspended, ended;
};

static void chunk_release(struct chunk *c)
{
    weir_assert(c->holders > 0);
    if (--c->holders > 0)
        return;
    text_fini(&c->text);
    free(c);
}

/* "event: NAME" and @json as data, held once by the caller; NULL: no memory. */
static struct chunk *chunk_new(enum chunk_kind kind, const char *event, const json_t *json)
{
    struct chunk *c = calloc(1, sizeof(*c));
    char *data = json ? json_dumps(json, HTTP_JSON_FLAGS) : NULL;
    if (!c || (json && !data)) {
        free(c);
        free(data);
        return NULL;
    }
    c->holders = 1;
    c->kind = kind;
    text_init(&c->text, CHUNK_MAX);
    if (json) {
        text_append_str(&c->text, "event: ");
        text_append_str(&c->text, event);
        text_append_str(&c->text, "\ndata: ");
        text_append_str(&c->text, data); /* compact JSON has no line break */
        text_append_str(&c->text, "\n\n");
    } else {
        text_append_str(&c->text, event);
    }
    free(data);
    if (!c->text.failed)
        return c;
    chunk_release(c);
    return NULL;
}

static void client_wake(struct live_client *l)
{
    if (!l->suspended)
        return;
    l->suspended = false;
    MHD_resume_connection(l->connection);
}

static void client_put(struct live_client *l, struct chunk *c)
{
    struct live *live = &l->app->live;
    if (l->ended)
        return;
    if (c->kind != CHUNK_EVENT && l->waiting[c->kind] > 0) {
        live->skipped++;
        return;
    }
    if (l->length == LIVE_MAX_BACKLOG) {
        l->ended = true;
        live->dropped++;
        return;
    }
    l->queue[(l->head + l->length++) % LIVE_MAX_BACKLOG] = c;
    l->waiting[c->kind]++;
    c->holders++;
    live->sent++;
    client_wake(l);
}

static void client_pop(struct live_client *l)
{
    weir_assert(l->length > 0);
    struct chunk *c = l->queue[l->head];
    weir_assert(l->waiting[c->kind] > 0);
    l->waiting[c->kind]--;
    l->head = (l->head + 1) % LIVE_MAX_BACKLOG;
    l->length--;
    l->offset = 0;
    chunk_release(c);
}

/* microhttpd wants up to @max bytes. */
static ssize_t client_read(void *cls, uint64_t pos, char *out, size_t max)
{
    struct live_client *l = cls;
    (void)pos;
    if (l->ended)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (l->length == 0) {
        l->suspended = true;
        MHD_suspend_connection(l->connection);
        return 0;
    }
    struct chunk *c = l->queue[l->head];
    size_t left = c->text.len - l->offset, n = left < max ? left : max;
    memcpy(out, c->text.data + l->offset, n);
    l->offset += n;
    if (n == left)
        client_pop(l);
    return (ssize_t)n;
}

/* Told to those who would else make notices for nobody. */
static void count_listeners(struct app *app, int change)
{
    app->live.count += (size_t)change;
    gauge_write(&app->threads->listeners, app->live.count);
}

static void client_free(void *cls)
{
    struct live_client *l = cls;
    while (l->length > 0)
        client_pop(l);
    list_remove(&l->link);
    weir_assert(l->app->live.count > 0);
    count_listeners(l->app, -1);
    free(l);
}

/* Give @c to everybody, and let go of it. */
static void publish(struct app *app, struct chunk *c)
{
    if (!c)
        return;
    list_for_each(it, &app->live.clients) client_put(container_of(it, struct live_client, link), c);
    app->live.last_sent_ns = app->now_ns;
    chunk_release(c);
}

static int compare_streams(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    return strcmp(views_text(x, "key"), views_text(y, "key"));
}

/* By key, at most LIVE_MAX_STREAMS. Takes @streams. */
static json_t *bounded_streams(json_t *streams)
{
    size_t n = json_array_size(streams), i;
    json_t **sorted = calloc(n + 1, sizeof(json_t *)), *item, *few = json_array();
    if (sorted) {
        json_array_foreach(streams, i, item) sorted[i] = item;
        qsort(sorted, n, sizeof(json_t *), compare_streams);
        for (i = 0; i < n && i < LIVE_MAX_STREAMS; i++)
            json_array_append(few, sorted[i]);
    }
    free(sorted);
    json_decref(streams);
    return few;
}

static void on_view(struct exchange *x)
{
    struct live *live = container_of(x, struct live, exchange);
    struct app *app = container_of(live, struct app, live);
    size_t n = x->processes, failed;
    json_t *streams = views_gather(x, app, 0, &failed), *agreements = views_gather(x, app, n, NULL);
    if (failed < n && !app->stopping) {
        streams = bounded_streams(streams);
        json_t *joined = views_join_agreements(agreements);
        publish(app, chunk_new(CHUNK_STREAMS, "streams", streams));
        publish(app, chunk_new(CHUNK_AGREEMENTS, "agreements", joined));
        json_decref(joined);
    }
    json_decref(streams);
    json_decref(agreements);
    exchange_clear(x);
}

void live_init(struct app *app)
{
    list_init(&app->live.clients);
    exchange_init(&app->live.exchange, &app->exchanges, on_view);
}

static void ask_view(struct app *app)
{
    struct exchange *x = &app->live.exchange;
    if (x->waiting > 0 || app->stopping)
        return;
    exchange_clear(x);
    views_ask(x, app, VIEW_STREAMS, "", false);
    views_ask(x, app, VIEW_AGREEMENTS, "", false);
}

void live_second(struct app *app)
{
    if (app->live.count == 0)
        return;
    if (app->now_ns - app->live.last_sent_ns > KEEP_ALIVE_NS)
        publish(app, chunk_new(CHUNK_EVENT, ": still here\n\n", NULL));
    ask_view(app);
}

void live_notice(struct app *app, const json_t *notice)
{
    if (app->live.count == 0)
        return;
    const char *event = json_object_get(notice, "verb") ? "action" : "event";
    publish(app, chunk_new(CHUNK_EVENT, event, notice));
}

void live_end(struct app *app)
{
    list_for_each(it, &app->live.clients)
    {
        struct live_client *l = container_of(it, struct live_client, link);
        l->ended = true;
        client_wake(l);
    }
    exchange_fini(&app->live.exchange);
}

void live_stream(struct request *r)
{
    struct app *app = r->app;
    if (app->live.count >= LIVE_MAX_CLIENTS) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "%u clients listen already",
                     LIVE_MAX_CLIENTS);
        return;
    }
    struct live_client *l = calloc(1, sizeof(*l));
    struct chunk *hello = chunk_new(CHUNK_EVENT, "retry: 2000\n\n", NULL);
    struct MHD_Response *response = NULL;
    if (l && hello)
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 64 * 1024, client_read, l,
                                                     client_free);
    if (!response) {
        free(l);
        if (hello)
            chunk_release(hello);
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
        return;
    }
    l->app = app;
    l->connection = r->connection;
    list_push_back(&app->live.clients, &l->link);
    count_listeners(app, 1);
    client_put(l, hello);
    chunk_release(hello);
    http_set_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
    http_answer_response(r, MHD_HTTP_OK, response);
    ask_view(app);
}

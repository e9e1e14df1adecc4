/* SPDX-License-Identifier: Apache-2.0 */
/* Retiring a gateway: its credentials end, the store forgets it, and then the SLA processes do,
 * which ends its session. In this order: what an SLA process still had to write of it is undone by
 * its own deletion, and a gateway that dials at once finds its credential gone. One that holds the
 * local key (of the server's state folder) is discovered anew.
 *
 * Admitting one goes the same way: the store has it first, so that it holds over a restart whatever
 * comes between; then the SLA process that knows the gateway begins to control it. So does draining
 * one, which every SLA process is told: the gateway may come to any of them. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/text.h"
#include "base/units.h"
#include "server/app/app_state.h"
#include "server/app/http.h"
#include "server/app/routes.h"
#include "server/app/views.h"
#include "server/monitor/rotation.h"
#include "server/msg.h"
#include "server/services/services.h"
#include "server/sla.h"

static void forgotten(struct request *r)
{
    size_t silent = 0;
    for (size_t i = 0; i < r->exchange.count; i++) {
        int s = r->exchange.answer[i].status;
        silent += s < 0 && s != WEIR_E_NOT_FOUND; /* all but one never knew it */
    }
    if (silent > 0)
        http_set_header(r, "Weir-Incomplete", "%zu", silent);
    http_answer_empty(r, MHD_HTTP_NO_CONTENT);
}

static void stored(struct request *r)
{
    struct app *app = r->app;
    const struct document_change *change = r->work;
    for (size_t i = 0; i < r->exchange.count; i++) {
        int s = r->exchange.answer[i].status;
        if (s < 0 && s != WEIR_E_NOT_FOUND) {
            http_problem_answer(r, &r->exchange.answer[i], "the database");
            return;
        }
    }
    struct msg m = {.kind = MSG_KEYS_CHANGED};
    if (change->remove)
        (void)mailbox_post(app->threads->app, app->threads->acceptor, &m);
    exchange_clear(&r->exchange);
    for (size_t i = 0; i < app->threads->services_count; i++) {
        struct document_change *copy = malloc(sizeof(*copy));
        if (copy)
            *copy = *change;
        struct msg told = {.kind = MSG_DOCUMENT_CHANGED, .body = copy, .body_free = free};
        exchange_ask(&r->exchange, app->threads->services[i], told, APP_VIEW_NS, app->now_ns);
    }
    http_wait(r, forgotten);
}

/* What the SLA processes are told once the store has forgotten it. False: answered. */
static bool change_make(struct request *r, const char *id, bool remove)
{
    struct document_change *change = calloc(1, sizeof(*change));
    if (!change) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
        return false;
    }
    change->remove = remove;
    (void)text_copy(change->kind, sizeof(change->kind), "Gateway");
    (void)text_copy(change->name, sizeof(change->name), id);
    r->work = change;
    r->work_free = free;
    return true;
}

struct found {
    const char *id, *name; /* NULL: none */
    size_t waiting, named; /* of this name, known now */
};

static void look_at(const json_t *gateway, const char *wanted, struct found *f)
{
    const char *id = views_text(gateway, "id"), *name = views_text(gateway, "name");
    bool waits = json_is_string(json_object_get(gateway, "advice"));
    if (strcmp(name, wanted) != 0)
        return;
    if (f->id == NULL || (waits && f->waiting == 0)) {
        f->id = id;
        f->name = name;
    }
    f->waiting += waits;
    f->named++;
}

static bool look_at_id(const json_t *gateway, const char *wanted, struct found *f)
{
    const char *id = views_text(gateway, "id");
    if (strcmp(id, wanted) != 0)
        return false;
    *f = (struct found){.id = id, .name = views_text(gateway, "name")};
    return true;
}

/* The gateway of this id, whoever else calls itself so; else of this name, first one that waits to
 * be admitted. Of those known now, else of those stored. */
static struct found find(const json_t *known, const json_t *stored, const char *wanted)
{
    size_t i;
    json_t *item;
    struct found f = {.id = NULL};
    json_array_foreach(known, i, item)
    {
        if (look_at_id(item, wanted, &f))
            return f;
    }
    json_array_foreach(stored, i, item)
    {
        if (look_at_id(json_object_get(item, "gateway"), wanted, &f))
            return f;
    }
    json_array_foreach(known, i, item)
    {
        look_at(item, wanted, &f);
    }
    json_array_foreach(stored, i, item)
    {
        if (f.id == NULL)
            look_at(json_object_get(item, "gateway"), wanted, &f);
    }
    return f;
}

static void retire_known(struct request *r)
{
    const struct exchange *x = &r->exchange;
    char id_copy[64];
    if (x->answer[0].status < 0) {
        http_problem_answer(r, &x->answer[0], "the database");
        return;
    }
    json_t *known = views_gather(x, r->app, 1, NULL);
    const char *id = find(known, x->answer[0].json, r->name[0]).id;
    bool found = id && text_copy(id_copy, sizeof(id_copy), id) == 0;
    json_decref(known);
    if (!found) {
        http_problem(r, MHD_HTTP_NOT_FOUND, "there is no gateway %s", r->name[0]);
        return;
    }
    if (!change_make(r, id_copy, true))
        return;
    exchange_clear(&r->exchange);
    struct store_write *write = store_write_new(STORE_GATEWAY_RETIRE);
    if (write)
        (void)text_copy(write->name, sizeof(write->name), id_copy);
    http_ask_write(r, write);
    http_wait(r, stored);
}

void gateways_retire(struct request *r)
{
    http_ask_store(r, store_query_new(STORE_GATEWAYS));
    http_ask_view(r, VIEW_GATEWAYS, "", false);
    http_wait(r, retire_known);
}

/* For one the store has no record of yet: it is not written while it waits. */
static json_t *first_record(const char *id, const char *name)
{
    return json_pack("{s:s, s:s, s:s, s:b}", "id", id, "name", name, "state", "pending", "admitted",
                     1);
}

static void ask_admit(struct request *r, const char *id, const char *name)
{
    struct store_write *write = store_write_new(STORE_GATEWAY_ADMIT);
    if (write) {
        (void)text_copy(write->name, sizeof(write->name), id);
        write->json = first_record(id, name);
    }
    http_ask_write(r, write);
}

static void admit_known(struct request *r)
{
    const struct exchange *x = &r->exchange;
    char id_copy[64], name[NAME_SIZE];
    if (x->answer[0].status < 0) {
        http_problem_answer(r, &x->answer[0], "the database");
        return;
    }
    json_t *known = views_gather(x, r->app, 1, NULL);
    const struct found f = find(known, x->answer[0].json, r->name[0]);
    bool good = f.id && text_copy(id_copy, sizeof(id_copy), f.id) == 0 &&
                text_copy(name, sizeof(name), f.name) == 0;
    json_decref(known);
    if (f.waiting > 1) {
        http_problem(r, MHD_HTTP_CONFLICT,
                     "%zu gateways that wait call themselves %s: name the one you mean by its id",
                     f.waiting, r->name[0]);
        return;
    }
    if (!good) {
        http_problem(r, MHD_HTTP_NOT_FOUND, "there is no gateway %s", r->name[0]);
        return;
    }
    if (!change_make(r, id_copy, false))
        return;
    exchange_clear(&r->exchange);
    ask_admit(r, id_copy, name);
    http_wait(r, stored);
}

void gateways_admit(struct request *r)
{
    http_ask_store(r, store_query_new(STORE_GATEWAYS));
    http_ask_view(r, VIEW_GATEWAYS, "", false);
    http_wait(r, admit_known);
}

static json_t *drain_json(const struct document_change *change)
{
    if (change->drain_since == 0)
        return json_null();
    return json_pack("{s:I, s:I}", "since_us", (json_int_t)change->drain_since, "deadline_us",
                     (json_int_t)change->drain_deadline_us);
}

static void ask_drain(struct request *r, const struct document_change *change, const char *name)
{
    bool on = change->drain_since != 0;
    struct store_write *write = store_write_new(on ? STORE_GATEWAY_DRAIN : STORE_GATEWAY_UNDRAIN);
    if (write) {
        (void)text_copy(write->name, sizeof(write->name), change->name);
        /* The record for one that has none yet: it waits to be admitted, or its own is on its way
         * and says more. */
        write->json = json_pack("{s:s, s:s, s:s, s:b, s:o}", "id", change->name, "name", name,
                                "state", "pending", "admitted", 0, "drain", drain_json(change));
    }
    http_ask_write(r, write);
}

static void drain_known(struct request *r)
{
    const struct exchange *x = &r->exchange;
    struct document_change *change = r->work;
    char name[NAME_SIZE];
    if (x->answer[0].status < 0) {
        http_problem_answer(r, &x->answer[0], "the database");
        return;
    }
    json_t *known = views_gather(x, r->app, 1, NULL);
    const struct found f = find(known, x->answer[0].json, r->name[0]);
    bool good = f.id && text_copy(change->name, sizeof(change->name), f.id) == 0 &&
                text_copy(name, sizeof(name), f.name) == 0;
    json_decref(known);
    if (f.named > 1) {
        http_problem(r, MHD_HTTP_CONFLICT,
                     "%zu gateways call themselves %s: name the one you mean by its id", f.named,
                     r->name[0]);
        return;
    }
    if (!good) {
        http_problem(r, MHD_HTTP_NOT_FOUND, "there is no gateway %s", r->name[0]);
        return;
    }
    exchange_clear(&r->exchange);
    ask_drain(r, change, name);
    http_wait(r, stored);
}

static void drain(struct request *r)
{
    http_ask_store(r, store_query_new(STORE_GATEWAYS));
    http_ask_view(r, VIEW_GATEWAYS, "", false);
    http_wait(r, drain_known);
}

/* {"within": "5m"}, or nothing. The end of the draining in wall time, 0: none. */
static bool take_within(json_t *body, int64_t now_us, int64_t *ret_us, struct text *errors)
{
    const char *field, *expected, *text;
    json_t *value;
    uint64_t ns;
    *ret_us = 0;
    json_object_foreach(body, field, value)
    {
        if (strcmp(field, "within") != 0) {
            text_printf(errors, "%.100s: unknown here\n", field);
            continue;
        }
        text = json_string_value(value);
        if (text == NULL)
            text_append_str(errors, "within: expected a duration such as \"5m\"\n");
        else if (units_parse_duration_ns(text, &ns, &expected) < 0)
            text_printf(errors, "within: found \"%.100s\", expected %s\n", text, expected);
        else if (ns / NS_PER_MS > SERVICES_DRAIN_MS_MAX)
            text_printf(errors, "within: found \"%.100s\", expected at most 7d\n", text);
        else
            *ret_us = now_us + (int64_t)(ns / NS_PER_US);
    }
    return errors->len == 0;
}

void gateways_drain(struct request *r)
{
    json_t *body;
    struct text errors;
    int64_t now_us = clock_wall_us(), deadline_us = 0;
    if (!http_body(r, &body))
        return;
    text_init(&errors, 16384);
    bool good = !body || take_within(body, now_us, &deadline_us, &errors);
    json_decref(body);
    if (!good)
        http_problem_lines(r, MHD_HTTP_UNPROCESSABLE_CONTENT,
                           "the request is not valid; see errors", errors.data);
    text_fini(&errors);
    if (!good || !change_make(r, "", false))
        return;
    struct document_change *change = r->work;
    change->drain = true;
    change->drain_since = (uint64_t)now_us;
    change->drain_deadline_us = deadline_us;
    drain(r);
}

void gateways_undrain(struct request *r)
{
    if (!change_make(r, "", false))
        return;
    ((struct document_change *)r->work)->drain = true;
    drain(r);
}

/* ---- rotation: done now, or ordered for when the gateway next connects ---- */

static void ordered(struct request *r)
{
    const struct rotation_order *order = r->work;
    char at[40];
    /* The store has it, whatever the acceptor says; it reads its keys again. */
    clock_format_wall(order->since_us, at, sizeof(at));
    http_answer_json(r, MHD_HTTP_ACCEPTED, json_pack("{s:s}", "ordered", at));
}

/* The acceptor, of what the store has now. */
static void order_tell(struct request *r, void (*then)(struct request *r))
{
    const struct app *app = r->app;
    const struct rotation_order *order = r->work;
    struct rotation_order *copy = malloc(sizeof(*copy));
    if (copy == NULL) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
        return;
    }
    *copy = *order;
    struct msg m = {.kind = MSG_ROTATION_ORDERED, .body = copy, .body_free = free};
    exchange_clear(&r->exchange);
    exchange_ask(&r->exchange, app->threads->acceptor, m, APP_VIEW_NS, app->now_ns);
    http_wait(r, then);
}

static void order_stored(struct request *r)
{
    struct rotation_order *order = r->work;
    const struct exchange_answer *a = &r->exchange.answer[0];
    if (a->status == WEIR_E_NOT_FOUND) {
        http_problem(r, MHD_HTTP_CONFLICT,
                     "gateway %s has no credential of its own that could be changed", r->name[0]);
        return;
    }
    if (a->status < 0) {
        http_problem_answer(r, a, "the database");
        return;
    }
    order->since_us = views_count(a->json, "since_us");
    order_tell(r, ordered);
}

static void order(struct request *r)
{
    const struct rotation_order *order = r->work;
    char id[2 * AUTH_ID_SIZE + 1];
    struct store_write *write = store_write_new(STORE_GATEWAY_REKEY);
    sodium_bin2hex(id, sizeof(id), order->gateway_id, AUTH_ID_SIZE);
    if (write) {
        (void)text_copy(write->name, sizeof(write->name), id);
        write->json = json_pack("{s:s, s:s, s:s, s:b, s:{s:I}}", "id", id, "name", order->name,
                                "state", "pending", "admitted", 0, "rekey", "since_us",
                                (json_int_t)clock_wall_us());
    }
    exchange_clear(&r->exchange);
    http_ask_write(r, write);
    http_wait(r, order_stored);
}

static void rotated(struct request *r)
{
    int s = r->exchange.answer[0].status;
    if (s == 0)
        http_answer_empty(r, MHD_HTTP_NO_CONTENT);
    else if (s == WEIR_E_NOT_FOUND || s == WEIR_E_FULL)
        order(r); /* it is away, or went meanwhile; or many others are being changed */
    else if (s == WEIR_E_INVALID)
        http_problem(r, MHD_HTTP_CONFLICT,
                     "gateway %s has no credential of its own: it proves the server's local key",
                     r->name[0]);
    else if (s == WEIR_E_VERSION)
        http_problem(r, MHD_HTTP_CONFLICT,
                     "the software of gateway %s cannot change its key: upgrade it, or enrol it "
                     "anew",
                     r->name[0]);
    else if (s == WEIR_E_CONFLICT)
        http_problem(r, MHD_HTTP_CONFLICT, "the key of gateway %s is being changed", r->name[0]);
    else
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE,
                     "the key of gateway %s was not changed: %s; it is good as before", r->name[0],
                     weir_strerror(s));
}

static bool id_read(const char *hex, uint8_t ret[AUTH_ID_SIZE])
{
    size_t n = 0;
    return strlen(hex) == 2 * AUTH_ID_SIZE &&
           sodium_hex2bin(ret, AUTH_ID_SIZE, hex, 2 * AUTH_ID_SIZE, NULL, &n, NULL) == 0 &&
           n == AUTH_ID_SIZE;
}

/* Whom the request means, into r->work. NULL: answered. */
static struct rotation_order *order_make(struct request *r)
{
    const struct exchange_answer *kept = &r->exchange.answer[0];
    struct rotation_order *order = calloc(1, sizeof(*order));
    if (order == NULL) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
        return NULL;
    }
    r->work = order;
    r->work_free = free;
    json_t *known = views_gather(&r->exchange, r->app, 1, NULL);
    const struct found f = find(known, kept->status == 0 ? kept->json : NULL, r->name[0]);
    bool good = f.id && id_read(f.id, order->gateway_id) &&
                text_copy(order->name, sizeof(order->name), f.name) == 0;
    json_decref(known);
    if (!good && kept->status < 0)
        http_problem_answer(r, kept, "the database");
    else if (!good)
        http_problem(r, MHD_HTTP_NOT_FOUND, "there is no gateway %s", r->name[0]);
    else if (f.named > 1)
        http_problem(r, MHD_HTTP_CONFLICT,
                     "%zu gateways call themselves %s: name the one you mean by its id", f.named,
                     r->name[0]);
    return good && f.named <= 1 ? order : NULL;
}

static void rotate_known(struct request *r)
{
    const struct app *app = r->app;
    struct msg m = {.kind = MSG_GATEWAY_ROTATE};
    const struct rotation_order *order = order_make(r);
    if (order == NULL)
        return;
    memcpy(m.arg, order->gateway_id, sizeof(order->gateway_id));
    exchange_clear(&r->exchange);
    exchange_ask(&r->exchange, app->threads->acceptor, m, APP_ROTATE_NS, app->now_ns);
    http_wait(r, rotated);
}

void gateways_rotate(struct request *r)
{
    http_ask_store(r, store_query_new(STORE_GATEWAYS));
    http_ask_view(r, VIEW_GATEWAYS, "", false);
    http_wait(r, rotate_known);
}

static void not_ordered(struct request *r)
{
    http_problem(r, MHD_HTTP_NOT_FOUND,
                 "no new key is ordered for gateway %s: it has it already, or none ever was",
                 r->name[0]);
}

static void withdrawn(struct request *r)
{
    int s = r->exchange.answer[0].status;
    if (s == 0)
        http_answer_empty(r, MHD_HTTP_NO_CONTENT);
    else if (s == WEIR_E_NOT_FOUND)
        not_ordered(r);
    else /* it goes by what it knows until it reads its keys again: asked again, it hears of it */
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE,
                     "the order is out of the record, but who carries it out did not hear of it "
                     "(%s): ask again",
                     weir_strerror(s));
}

static void withdrawal_stored(struct request *r)
{
    const struct exchange_answer *a = &r->exchange.answer[0];
    struct rotation_order *order = r->work;
    order->again = a->status == WEIR_E_NOT_FOUND;
    if (a->status < 0 && !order->again)
        http_problem_answer(r, a, "the database");
    else
        order_tell(r, withdrawn);
}

static void unrotate_known(struct request *r)
{
    struct rotation_order *order = order_make(r);
    if (order == NULL)
        return;
    order->asked_us = clock_wall_us(); /* before it is posted, as an order's time is */
    struct store_write *write = store_write_new(STORE_GATEWAY_UNREKEY);
    if (write)
        sodium_bin2hex(write->name, sizeof(write->name), order->gateway_id, AUTH_ID_SIZE);
    exchange_clear(&r->exchange);
    http_ask_write(r, write);
    http_wait(r, withdrawal_stored);
}

void gateways_unrotate(struct request *r)
{
    http_ask_store(r, store_query_new(STORE_GATEWAYS));
    http_ask_view(r, VIEW_GATEWAYS, "", false);
    http_wait(r, unrotate_known);
}

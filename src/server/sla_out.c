/* SPDX-License-Identifier: Apache-2.0 */
#include "server/sla_out.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/addr.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "server/mailbox/gauge.h"
#include "server/mailbox/slab.h"
#include "server/monitor/monitor.h"
#include "server/msg.h"
#include "server/resource/resource.h"
#include "server/store/store.h"
#include "server/view.h"

#define FLUSH_NS (200 * NS_PER_MS)
#define WRITES_OUT 32u
#define WRITE_TIMEOUT_NS (30 * NS_PER_S)

int sla_out_init(struct sla_out *o, const struct sla_thread *setup)
{
    *o = (struct sla_out){.setup = setup, .box = setup->threads->services[setup->index]};
    o->sample = calloc(SLA_OUT_SAMPLES, sizeof(*o->sample));
    o->action = calloc(SLA_OUT_ACTIONS, sizeof(*o->action));
    o->event = calloc(SLA_OUT_EVENTS, sizeof(*o->event));
    o->write = calloc(SLA_OUT_WRITES, sizeof(*o->write));
    return o->sample && o->action && o->event && o->write ? 0 : -ENOMEM;
}

void sla_out_fini(struct sla_out *o)
{
    for (; o->writes > 0; o->writes--)
        store_write_free(o->write[o->write_first++ % SLA_OUT_WRITES]);
    free(o->sample);
    free(o->action);
    free(o->event);
    free(o->write);
}

/* --- to gateways
 * -------------------------------------------------------------------------------------------- */

static struct mailbox *outbound(const struct sla_out *o, uint16_t pair)
{
    weir_assert(pair < THREADS_MAX_PAIRS);
    weir_assert(o->setup->threads->outbound[pair] != NULL);
    return o->setup->threads->outbound[pair];
}

static bool warned(const struct sla_out *o, uint64_t session)
{
    return o->warned_session != 0 && o->warned_session == session;
}

static int out_poll(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *p)
{
    struct sla_out *o = ctx;
    struct msg m = {.kind = MSG_SEND_POLL, .arg = {session, p->seq, p->acked}};
    struct poll_drain *drain = p->drain.said ? malloc(sizeof(*drain)) : NULL;
    if (drain != NULL) { /* else the next poll says it */
        *drain = p->drain;
        m.body = drain;
        m.body_free = free;
    }
    m.tag = warned(o, session) ? TRAIL_TAG : 0;
    int r = mailbox_post(o->box, outbound(o, pair), &m);
    if (r < 0)
        free(drain);
    else if (m.tag == TRAIL_TAG && !o->warned_answer)
        trail_add(o->setup->threads->trail, TRAIL_WARNING_DECIDED, o->warned_ns, m.posted_ns);
    return r;
}

/* From this process's slab; NULL: it is used up, and the heap serves. */
static struct control_update *out_update(void *ctx, size_t items, size_t members)
{
    struct sla_out *o = ctx;
    void *block = o->setup->updates != NULL
                      ? slab_take(o->setup->updates, control_update_size(items, members))
                      : NULL;
    return block != NULL ? control_update_place(block, items, members, slab_give) : NULL;
}

static int out_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    struct sla_out *o = ctx;
    struct msg m = {.kind = MSG_SEND_CONTROLS, .arg = {session}, .body = u,
                    .body_free = control_update_free};
    m.tag = warned(o, session) && o->warned_answer ? TRAIL_TAG : 0;
    int r = mailbox_post(o->box, outbound(o, pair), &m);
    if (r == 0 && m.tag == TRAIL_TAG)
        trail_add(o->setup->threads->trail, TRAIL_ANSWER_DECIDED, o->warned_ns, m.posted_ns);
    return r;
}

static void out_session_end(void *ctx, uint64_t session, uint16_t pair, const char *why)
{
    struct sla_out *o = ctx;
    char *body = strdup(why);
    struct msg m = {.kind = MSG_SESSION_END, .arg = {session}, .body = body, .body_free = free};
    /* When it is lost the session goes on as one nobody polls, and its heartbeats end it. */
    if (mailbox_post(o->box, outbound(o, pair), &m) < 0)
        free(body);
}

static int out_share(void *ctx, struct share_batch *b)
{
    struct sla_out *o = ctx;
    weir_assert(b->to < THREADS_MAX_SERVICES);
    struct msg m = {.kind = MSG_SUBGROUP_SHARE, .body = b, .body_free = free};
    return mailbox_post(o->box, o->setup->threads->services[b->to], &m);
}

/* --- to the store and the application server
 * ------------------------------------------------------------------ */

static void out_sample(void *ctx, const struct sample_record *s)
{
    struct sla_out *o = ctx;
    if (o->samples == SLA_OUT_SAMPLES) {
        o->samples_dropped++;
        return;
    }
    o->sample[o->samples++] = *s;
}

static void json_release(void *json)
{
    json_decref(json);
}

/* arg[0]: 1 an action, 0 an event. */
static void notice(struct sla_out *o, json_t *j, uint64_t is_action)
{
    struct msg m = {.kind = MSG_NOTICE, .arg = {is_action}, .body = j, .body_free = json_release};
    if (j != NULL && mailbox_post_bulk(o->box, o->setup->threads->app, &m) < 0) {
        json_decref(j);
        o->notices_dropped++;
    }
}

static void out_action(void *ctx, const struct action_record *a)
{
    struct sla_out *o = ctx;
    if (threads_listened(o->setup->threads))
        notice(o, view_action(a), 1);
    if (o->actions == SLA_OUT_ACTIONS)
        o->actions_dropped++;
    else
        o->action[o->actions++] = *a;
}

static void out_event(void *ctx, const struct event_record *e)
{
    struct sla_out *o = ctx;
    if (threads_listened(o->setup->threads))
        notice(o, view_event(e), 0);
    if (o->events == SLA_OUT_EVENTS)
        o->events_dropped++;
    else
        o->event[o->events++] = *e;
}

static void send_batch(struct sla_out *o)
{
    if (o->samples + o->actions + o->events == 0)
        return;
    struct store_batch *b = store_batch_new(o->samples, o->actions, o->events, 0);
    if (b == NULL)
        return;
    if (o->samples > 0)
        memcpy(b->sample, o->sample, o->samples * sizeof(*o->sample));
    if (o->actions > 0)
        memcpy(b->action, o->action, o->actions * sizeof(*o->action));
    if (o->events > 0)
        memcpy(b->event, o->event, o->events * sizeof(*o->event));
    struct msg m = {.kind = MSG_STORE_APPEND, .body = b, .body_free = store_batch_free};
    if (mailbox_post(o->box, o->setup->threads->store_writer, &m) < 0) {
        store_batch_free(b); /* all of it is still here */
        return;
    }
    o->samples = o->actions = o->events = 0;
}

/* --- records of gateways
 * ------------------------------------------------------------------------------------------ */

static json_t *gateway_json(const struct sla_out *o, const struct entity_gateway *g)
{
    return json_pack("{s:s, s:s, s:s, s:s*, s:s*, s:I, s:I, s:I, s:I, s:b}", "id", g->id_text,
                     "name", g->hello.name, "state", gateway_state_name(g->state), "software",
                     g->hello.software, "address", g->hello.address, "first_seen_us",
                     (json_int_t)g->first_seen_us, "last_seen_us", (json_int_t)g->last_seen_us,
                     "process", (json_int_t)o->setup->index, "processes",
                     (json_int_t)o->setup->threads->services_count, "admitted",
                     g->admitted);
}

static void text_field(char *out, size_t size, const json_t *row, const char *key)
{
    const char *s = json_string_value(json_object_get(row, key));
    if (s == NULL || text_copy(out, size, s) < 0)
        out[0] = '\0';
}

bool gateway_record_read(const json_t *row, struct gateway_record *ret)
{
    row = json_object_get(row, "gateway"); /* beside what the store adds */
    const char *id = json_string_value(json_object_get(row, "id"));
    const char *state = json_string_value(json_object_get(row, "state"));
    if (id == NULL || !gateway_id_read(id, ret->id))
        return false;
    if (state != NULL && strcmp(state, gateway_state_name(GATEWAY_RETIRED)) == 0)
        return false;
    text_field(ret->name, sizeof(ret->name), row, "name");
    text_field(ret->software, sizeof(ret->software), row, "software");
    text_field(ret->address, sizeof(ret->address), row, "address");
    ret->first_seen_us = json_integer_value(json_object_get(row, "first_seen_us"));
    ret->last_seen_us = json_integer_value(json_object_get(row, "last_seen_us"));
    ret->process = (uint64_t)json_integer_value(json_object_get(row, "process"));
    ret->processes = (uint64_t)json_integer_value(json_object_get(row, "processes"));
    /* Records of before there was the choice are of gateways that were controlled. */
    text_field(ret->id_text, sizeof(ret->id_text), row, "id");
    const json_t *drain = json_object_get(row, "drain");
    json_int_t since = json_integer_value(json_object_get(drain, "since_us"));
    ret->drain_since = since > 0 ? (uint64_t)since : 0;
    ret->drain_deadline_us = json_integer_value(json_object_get(drain, "deadline_us"));
    ret->admitted = !json_is_false(json_object_get(row, "admitted"));
    return ret->name[0] != '\0';
}

static void say_gone(struct sla_out *o, const struct entity_gateway *g)
{
    struct msg m = {.kind = MSG_GATEWAY_GONE};
    memcpy(m.arg, g->hello.id, GATEWAY_ID_SIZE);
    /* When it is lost the table keeps one entry more until it needs the room. */
    (void)mailbox_post(o->box, o->setup->threads->acceptor, &m);
}

static void out_gateway(void *ctx, const struct entity_gateway *g)
{
    struct sla_out *o = ctx;
    bool gone = g->state == GATEWAY_RETIRED;
    if (gone)
        say_gone(o, g);
    if (g->state == GATEWAY_DISCOVERED || g->state == GATEWAY_PENDING)
        return; /* not worth a write until it is controlled */
    struct store_write *w = store_write_new(gone ? STORE_GATEWAY_DELETE : STORE_GATEWAY_PUT);
    if (w == NULL || o->writes == SLA_OUT_WRITES) {
        store_write_free(w);
        o->writes_dropped++;
        return;
    }
    text_copy(w->kind, sizeof(w->kind), "Gateway");
    text_copy(w->name, sizeof(w->name), g->id_text);
    text_copy(w->actor, sizeof(w->actor), "services");
    w->wall_us = clock_wall_us();
    w->json = gone ? NULL : gateway_json(o, g);
    o->write[(o->write_first + o->writes++) % SLA_OUT_WRITES] = w;
}

static void send_writes(struct sla_out *o, uint64_t now_ns)
{
    while (o->writes > 0 && o->writes_out < WRITES_OUT) {
        struct store_write *w = o->write[o->write_first % SLA_OUT_WRITES];
        struct msg m = {.kind = MSG_STORE_WRITE, .body = w, .body_free = store_write_free};
        uint64_t ticket;
        if (mailbox_ask(o->box, o->setup->threads->store_writer, &m, WRITE_TIMEOUT_NS, now_ns,
                        &ticket) < 0)
            return;
        o->write_first = (o->write_first + 1) % SLA_OUT_WRITES;
        o->writes--;
        o->writes_out++;
    }
}

void sla_out_written(struct sla_out *o, int status)
{
    weir_assert(o->writes_out > 0);
    o->writes_out--;
    if (status != 0 && status != WEIR_E_NOT_FOUND)
        o->writes_dropped++;
}

/* --- targets --------------------------------------------------------------------------- */

static bool target_post(struct sla_out *o, const char *gateway, const char *target, const char *uri)
{
    struct target_seen *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return false;
    text_copy(t->gateway, sizeof(t->gateway), gateway);
    text_copy(t->target, sizeof(t->target), target);
    text_copy(t->uri, sizeof(t->uri), uri);
    struct msg m = {.kind = MSG_TARGET_SEEN, .body = t, .body_free = free};
    if (mailbox_post(o->box, o->setup->threads->resource, &m) == 0)
        return true;
    free(t);
    return false;
}

static void out_target_seen(void *ctx, const char *gateway, const char *target, const char *uri)
{
    struct sla_out *o = ctx;
    if (!target_post(o, gateway, target, uri))
        o->targets_owed = true;
}

/* FNV-1a: storage is the same where its URI leads to the same place, as in services/storage.c. */
static uint64_t uri_hash(const char *uri)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (uri = addr_uri_place(uri); *uri != '\0'; uri++)
        h = (h ^ (uint8_t)*uri) * UINT64_C(0x100000001b3);
    return h;
}

static bool targets_post(struct sla_out *o, const struct entity_gateway *g)
{
    struct gateway_targets *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return false;
    memcpy(t->gateway, g->hello.id, sizeof(t->gateway));
    const struct entity_target *target[GATEWAY_TARGETS_MAX];
    t->count = services_gateway_targets(g, target, GATEWAY_TARGETS_MAX);
    for (size_t i = 0; i < t->count; i++)
        t->hash[i] = uri_hash(target[i]->uri);
    struct msg m = {.kind = MSG_GATEWAY_TARGETS, .body = t, .body_free = free};
    if (mailbox_post(o->box, o->setup->threads->acceptor, &m) == 0)
        return true;
    free(t);
    return false;
}

static void out_targets(void *ctx, const struct entity_gateway *g)
{
    struct sla_out *o = ctx;
    if (!targets_post(o, g))
        o->storage_owed = true;
}

/* All of them again: which one was not said is not kept. */
static void send_storage(struct sla_out *o)
{
    if (!o->storage_owed)
        return;
    o->storage_owed = false;
    const struct entities *e = services_entities(o->services);
    list_for_each(it, &e->gateways) {
        if (!targets_post(o, container_of(it, struct entity_gateway, link)))
            o->storage_owed = true;
    }
}

static void send_targets(struct sla_out *o, uint64_t now_ns)
{
    if (!o->targets_owed || now_ns - o->targets_ns < NS_PER_S)
        return;
    o->targets_ns = now_ns;
    o->targets_owed = false;
    const struct entities *e = services_entities(o->services);
    list_for_each(it, &e->targets) {
        const struct entity_target *t = container_of(it, struct entity_target, link);
        if (!target_post(o, t->gateway->hello.name, t->name, t->uri))
            o->targets_owed = true;
    }
}

/* --- all together ---------------------------------------------------------------------- */

struct services_sink sla_out_sink(struct sla_out *o)
{
    return (struct services_sink){
        .ctx = o,
        .poll = out_poll,
        .update = out_update,
        .controls = out_controls,
        .session_end = out_session_end,
        .sample = out_sample,
        .action = out_action,
        .event = out_event,
        .target_seen = out_target_seen,
        .targets = out_targets,
        .gateway = out_gateway,
        .share = out_share,
    };
}

static void say_dropped(struct sla_out *o, uint64_t now_ns)
{
    uint64_t all = o->samples_dropped + o->actions_dropped + o->events_dropped + o->writes_dropped;
    if (all == o->dropped_said || now_ns - o->said_ns < 60 * NS_PER_S)
        return;
    log_warning(
        "SLA process %zu gave up %llu samples, %llu actions, %llu events and %llu records of "
        "gateways since its start: the store did not take them",
        o->setup->index, (unsigned long long)o->samples_dropped,
        (unsigned long long)o->actions_dropped, (unsigned long long)o->events_dropped,
        (unsigned long long)o->writes_dropped);
    o->dropped_said = all;
    o->said_ns = now_ns;
}

void sla_out_flush(struct sla_out *o, uint64_t now_ns, bool now)
{
    bool half_full = o->samples >= SLA_OUT_SAMPLES / 2;
    send_writes(o, now_ns);
    send_targets(o, now_ns);
    if (now_ns - o->storage_ns >= NS_PER_S) {
        o->storage_ns = now_ns;
        send_storage(o);
    }
    if (!now && !half_full && now_ns < o->flush_ns)
        return;
    o->flush_ns = now_ns + FLUSH_NS;
    send_batch(o);
    say_dropped(o, now_ns);
}

uint64_t sla_out_next_ns(const struct sla_out *o)
{
    bool owed = o->samples + o->actions + o->events > 0 || o->targets_owed;
    return owed ? o->flush_ns : UINT64_MAX;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* An SLA process.
 *
 * Problem: drive the pure services/ from messages and time, and bring what they put out to other
 * threads, none of which may be waited for.
 *
 * Model: a loop around one mailbox. Each round: take messages for ROUND_NS, tick the services, do
 * one piece of what a period or a document asks for over all gateways (services_step), send what
 * has gathered, then sleep until a message or the next due time, unless a piece is left. The
 * mailbox hands out what is urgent first, so an early warning waits for what is being handled and,
 * between rounds, for a tick and a piece: a few milliseconds, however many statistics lie there and
 * however large the plan. Views that people ask for are rendered in pieces as well, in the order
 * in which they came. What goes out:
 *
 *   polls, controls, ends of sessions   to outbound of the gateway's pair, at once; a full ring is
 *                                       told to the services, which keep controls and send again
 *   samples, actions, events            one batch a flush to the store's writer; kept, bounded,
 *                                       while its ring is full; what does not fit is dropped and
 *                                       counted, samples long before the rest
 *   actions, events                     while anybody looks at live views, to the application
 *                                       server as well; dropped when three quarters of its ring
 *                                       are full
 *   records of gateways                 to the store's writer, WRITES_OUT at once at most, the rest
 *                                       in a bounded queue
 *   targets seen                        to the resource manager; said again each second until they
 *                                       went
 *
 * Start: documents, settings and gateways are asked of a store reader. Until all three are here,
 * gateways are polled and shown, but no control is sent (services_loaded). An answer that fails or
 * times out is asked again after a second; a document that changes before the documents are here
 * makes them asked again.
 *
 * What may fail: memory (the process cannot go on and says so), rings (above), a reader (asked
 * again). */
#include "server/sla.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "server/model/model.h"
#include "server/move.h"
#include "server/msg.h"
#include "server/resource/resource.h"
#include "server/services/services.h"
#include "server/sla_out.h"
#include "server/store/store.h"
#include "server/view.h"

#define ROUND_MESSAGES 256u
#define ROUND_NS (1 * NS_PER_MS)
/* Of one view in one piece; a stream with its histograms is as much as several without. */
#define VIEW_MOST 32u
#define VIEW_MOST_HISTOGRAMS 4u
#define MOVE_RETRY_NS (10 * NS_PER_MS)
#define ASK_TIMEOUT_NS (5 * NS_PER_S)
/* Streams one process holds; see services/state.h for what one costs. */
#define SLA_MAX_STREAMS 16384u
#define LOAD_ROWS 10000u

/* What is loaded at the start, in this order of tags. */
enum load { LOAD_DOCUMENTS, LOAD_SETTINGS, LOAD_GATEWAYS, LOAD_COUNT };
enum load_state { LOAD_WANTED, LOAD_ASKED, LOAD_DONE };

/* A view that was asked for. As many at most as the askers have tickets. */
struct view_job {
    struct view_job *next;
    struct msg m;
    json_t *out;
};

struct sla {
    const struct sla_thread *setup;
    struct mailbox *box;
    struct services *services;
    struct sla_out out;
    enum load_state load[LOAD_COUNT];
    bool load_again[LOAD_COUNT]; /* changed by people while it was read */
    bool switched;        /* enforcement was said by people: newer than what is read */
    uint64_t load_at_ns;  /* not before */
    uint64_t load_tries;
    bool loaded;
    bool stopping;
    struct move_queue moves;   /* batons that could not be handed on yet */
    struct move_queue arrived; /* and those that came before the documents */
    struct view_job *view, **view_end; /* the first is being rendered */
    struct msg stop;
};

/* --- loading --------------------------------------------------------------------------- */

static void load_document(struct sla *s, const json_t *row, uint64_t now_ns, int64_t wall_us)
{
    const json_t *doc = json_object_get(row, "document");
    const char *name = json_string_value(json_object_get(row, "name"));
    const char *kind = json_string_value(json_object_get(row, "kind"));
    uint64_t version = (uint64_t)json_integer_value(json_object_get(row, "version"));
    if (doc == NULL || kind == NULL)
        return;
    struct text errors;
    text_init(&errors, 4096);
    char why[512] = "";
    int err = 0;
    if (strcmp(kind, "Agreement") == 0) {
        struct agreement a;
        err = model_agreement_parse(doc, &a, &errors);
        a.version = version;
        if (err == 0)
            err = services_agreement_put(s->services, &a, now_ns, wall_us, why, sizeof(why));
    } else if (strcmp(kind, "Tenant") == 0) {
        struct tenant *t = calloc(1, sizeof(*t)); /* 33 KiB */
        err = t != NULL ? model_tenant_parse(doc, t, &errors) : WEIR_E_FULL;
        if (err == 0) {
            t->version = version;
            err = services_tenant_put(s->services, t, now_ns, wall_us);
        }
        free(t);
    } else if (strcmp(kind, "Policy") == 0) {
        struct policy p;
        err = model_policy_parse(doc, &p, &errors);
        p.version = version;
        if (err == 0)
            err = services_policy_put(s->services, &p, now_ns, wall_us);
    }
    for (size_t i = 0; i < errors.len; i++)
        errors.data[i] = errors.data[i] == '\n' ? ';' : errors.data[i];
    if (err < 0)
        log_error("%s %s is stored but not in force: %s %s%s", kind, name != NULL ? name : "?",
                  weir_strerror(err), why, errors.len > 0 ? errors.data : "");
    text_fini(&errors);
}

static void load_setting(struct sla *s, const json_t *row, uint64_t now_ns, int64_t wall_us)
{
    const char *name = json_string_value(json_object_get(row, "name"));
    const json_t *on = json_object_get(json_object_get(row, "value"), "on");
    if (!s->switched && name != NULL && strcmp(name, "enforcement") == 0 && json_is_boolean(on))
        services_enforcement(s->services, json_is_true(on), now_ns, wall_us);
}

static void load_gateway(struct sla *s, const json_t *row, uint64_t now_ns)
{
    struct gateway_record g;
    if (!gateway_record_read(row, &g))
        return;
    if (g.drain_since != 0 &&
        services_gateway_drain(s->services, g.id_text, g.drain_since, g.drain_deadline_us, now_ns,
                               clock_wall_us()) < 0)
        log_error("no memory to keep gateway %s drained", g.name);
    /* Whose ever it was: it may come here, and may have come before this row. */
    if (g.admitted && services_gateway_admitted(s->services, g.id, now_ns, clock_wall_us()) < 0)
        log_error("no memory to know that gateway %s was admitted", g.name);
    /* Another process's; one of a process that is no more falls to one that is. */
    if (g.process % s->setup->threads->services_count != s->setup->index)
        return;
    if (services_gateway_recall(s->services, g.id, g.name, g.software, g.address, g.first_seen_us,
                                g.last_seen_us, g.admitted, now_ns) < 0)
        return;
    /* The router sends it here when it comes, or has us forget it: it is at another's already. */
    struct msg m = {.kind = MSG_GATEWAY_KNOWN};
    memcpy(m.arg, g.id, sizeof(g.id));
    if (mailbox_post(s->box, s->setup->threads->acceptor, &m) < 0)
        services_gateway_forget(s->services, g.id);
}

static void load_reply(struct sla *s, const struct msg *m, uint64_t now_ns, int64_t wall_us)
{
    weir_assert(m->tag < LOAD_COUNT);
    enum load what = (enum load)m->tag;
    json_t *body = m->body;
    bool again = s->load_again[what];
    if (m->status != 0 || body == NULL || again) {
        s->load[what] = LOAD_WANTED;
        s->load_again[what] = false;
        s->load_at_ns = again ? now_ns : now_ns + NS_PER_S;
        if (!again && s->load_tries++ % 30 == 0)
            log_warning("the store does not say yet what is agreed (%s); it is asked again",
                        weir_strerror(m->status));
        return;
    }
    s->load[what] = LOAD_DONE;
    size_t i;
    json_t *row;
    switch (what) {
    case LOAD_DOCUMENTS:
        json_array_foreach(body, i, row)
            load_document(s, row, now_ns, wall_us);
        break;
    case LOAD_SETTINGS:
        json_array_foreach(body, i, row)
            load_setting(s, row, now_ns, wall_us);
        break;
    case LOAD_GATEWAYS:
        json_array_foreach(body, i, row)
            load_gateway(s, row, now_ns);
        break;
    case LOAD_COUNT:
        break;
    }
}

static void load_ask(struct sla *s, enum load what, uint64_t now_ns)
{
    static const enum store_table tables[LOAD_COUNT] = {
        [LOAD_DOCUMENTS] = STORE_DOCUMENTS,
        [LOAD_SETTINGS] = STORE_SETTINGS,
        [LOAD_GATEWAYS] = STORE_GATEWAYS,
    };
    const struct threads *t = s->setup->threads;
    struct store_query *q = store_query_new(tables[what]);
    if (q == NULL)
        return;
    q->limit = LOAD_ROWS;
    q->now_us = clock_wall_us();
    struct msg m = {.kind = MSG_STORE_QUERY, .tag = what, .body = q, .body_free = store_query_free};
    uint64_t ticket;
    if (mailbox_ask(s->box, t->store_reader[s->setup->index % t->readers], &m, ASK_TIMEOUT_NS,
                    now_ns, &ticket) == 0)
        s->load[what] = LOAD_ASKED;
    else
        store_query_free(q);
}

static void load_drive(struct sla *s, uint64_t now_ns, int64_t wall_us)
{
    if (s->loaded || now_ns < s->load_at_ns)
        return;
    bool all = true;
    for (int i = 0; i < LOAD_COUNT; i++) {
        if (s->load[i] == LOAD_WANTED)
            load_ask(s, (enum load)i, now_ns);
        all = all && s->load[i] == LOAD_DONE;
    }
    if (all) {
        s->loaded = true;
        services_loaded(s->services, now_ns, wall_us);
    } else {
        s->load_at_ns = now_ns + NS_PER_MS;
    }
}

/* --- messages -------------------------------------------------------------------------- */

static void json_release(void *json)
{
    json_decref(json);
}

static void on_view(struct sla *s, struct msg *m)
{
    struct view_job *v = calloc(1, sizeof(*v));
    json_t *out = v != NULL ? json_array() : NULL;
    if (out == NULL) {
        free(v);
        mailbox_reply(s->box, m, WEIR_E_UNAVAILABLE, NULL, NULL);
        return;
    }
    v->m = *m;
    v->out = out;
    m->body = NULL;
    *s->view_end = v;
    s->view_end = &v->next;
}

static void view_done(struct sla *s, struct view_job *v)
{
    s->view = v->next;
    if (s->view == NULL)
        s->view_end = &s->view;
    services_place_set(s->services, NULL);
    mailbox_reply(s->box, &v->m, 0, v->out, json_release);
    msg_release(&v->m);
    free(v);
}

/* A piece of the view that was asked for first; false: none is left. */
static bool view_step(struct sla *s)
{
    struct view_job *v = s->view;
    if (v == NULL)
        return false;
    const struct view_request *r = v->m.body;
    const struct list *at = services_place(s->services);
    bool whole = !mailbox_wanted(s->box, &v->m) || /* nobody waits any more */
                 view_render(services_entities(s->services), r, s->setup->index,
                             s->setup->threads->queued,
                             r->histograms ? VIEW_MOST_HISTOGRAMS : VIEW_MOST, &at, v->out);
    if (whole)
        view_done(s, v);
    else
        services_place_set(s->services, at);
    return s->view != NULL;
}

static bool views_drive(struct sla *s)
{
    uint64_t begin_ns = clock_mono_ns(), now_ns = begin_ns;
    if (s->view == NULL)
        return false;
    mailbox_busy(s->box, MSG_VIEW, begin_ns);
    bool left = true;
    while (left && now_ns - begin_ns < ROUND_NS) {
        left = view_step(s);
        now_ns = clock_mono_ns();
    }
    return left;
}

static int document_apply(struct sla *s, const struct document_change *c, uint64_t now_ns,
                          int64_t wall_us, char *why, size_t size)
{
    if (c->remove)
        return services_document_remove(s->services, c->kind, c->name, now_ns, wall_us);
    if (c->drain)
        return services_gateway_drain(s->services, c->name, c->drain_since, c->drain_deadline_us,
                                      now_ns, wall_us);
    if (strcmp(c->kind, "Gateway") == 0)
        return services_gateway_admit(s->services, c->name, now_ns, wall_us);
    if (strcmp(c->kind, "Agreement") == 0)
        return services_agreement_put(s->services, &c->agreement, now_ns, wall_us, why, size);
    if (strcmp(c->kind, "Tenant") == 0)
        return services_tenant_put(s->services, &c->tenant, now_ns, wall_us);
    if (strcmp(c->kind, "Policy") == 0)
        return services_policy_put(s->services, &c->policy, now_ns, wall_us);
    return WEIR_E_INVALID;
}

static void on_document(struct sla *s, const struct msg *m, uint64_t now_ns, int64_t wall_us)
{
    char why[512] = "";
    int err = document_apply(s, m->body, now_ns, wall_us, why, sizeof(why));
    /* A draining or retirement is of the gateways' records, all else of the documents. */
    const struct document_change *c = m->body;
    enum load what = strcmp(c->kind, "Gateway") == 0 ? LOAD_GATEWAYS : LOAD_DOCUMENTS;
    if (s->load[what] == LOAD_ASKED)
        s->load_again[what] = true;
    json_t *body = NULL;
    if (err < 0)
        body = json_pack("{s:s}", "words", why[0] != '\0' ? why : weir_strerror(err));
    mailbox_reply(s->box, m, err, body, body != NULL ? json_release : NULL);
}

static json_t *admission_target_json(const struct admission_target *t)
{
    json_t *holders = json_array();
    for (size_t i = 0; i < t->holder_count; i++)
        json_array_append_new(holders, json_pack("{s:s, s:f}", "agreement", t->holder[i].agreement,
                                                 "holds", t->holder[i].holds));
    return json_pack("{s:s, s:f, s:f, s:f, s:I, s:I, s:b, s:o}", "target", t->name, "capacity",
                     t->capacity, "reserved", t->held, "asked", t->asked, "askedIops",
                     (json_int_t)t->asked_iops, "largestIops", (json_int_t)t->largest_iops, "fits",
                     (int)t->fits, "holders", holders);
}

static void on_admission(struct sla *s, const struct msg *m, uint64_t now_ns, int64_t wall_us)
{
    const struct admission_request *ask = m->body;
    struct admission *found = malloc(sizeof(*found));
    json_t *targets = json_array(), *body = NULL;
    if (found != NULL && targets != NULL) {
        services_admission(s->services, &ask->agreement, found, now_ns, wall_us);
        if (!ask->quiet)
            services_admission_say(s->services, &ask->agreement, found,
                                   ask->forced_by[0] != '\0' ? ask->forced_by : NULL);
        for (size_t i = 0; i < found->count; i++)
            json_array_append_new(targets, admission_target_json(&found->target[i]));
        body = json_pack("{s:I, s:O}", "refused", (json_int_t)found->refused, "targets", targets);
    }
    json_decref(targets);
    free(found);
    mailbox_reply(s->box, m, body != NULL ? 0 : WEIR_E_UNAVAILABLE, body,
                  body != NULL ? json_release : NULL);
}

static void on_reply(struct sla *s, const struct msg *m, uint64_t now_ns, int64_t wall_us)
{
    switch (m->kind) {
    case MSG_STORE_QUERY:
        load_reply(s, m, now_ns, wall_us);
        break;
    case MSG_STORE_WRITE:
        sla_out_written(&s->out, m->status);
        break;
    default:
        weir_assert(!"a reply that was never asked for");
    }
}

static void move_import(struct sla *s, struct move *m, uint64_t now_ns, int64_t wall_us)
{
    if (m->parcel != NULL) {
        services_gateway_import(s->services, m->parcel, m->to_pair, m->subgroup, now_ns, wall_us);
        if (m->let_go) /* one that does not read yet is said to once it does */
            services_stalled(s->services, m->session, false, now_ns, wall_us);
    }
    m->parcel = NULL;
    m->step = MOVE_UNPACKED;
    move_queue_put(&s->moves, m);
}

/* server/move.h: the baton is here to let a gateway go, or to bring it. */
static void on_move(struct sla *s, struct move *m, uint64_t now_ns, int64_t wall_us)
{
    bool leaves = m->step == MOVE_FROZEN || m->step == MOVE_ASKED;
    if (leaves) {
        m->parcel = services_gateway_export(s->services, m->gateway, now_ns, wall_us);
        m->parcel_free = services_parcel_free;
        m->step = MOVE_PACKED;
        move_queue_put(&s->moves, m);
    } else if (s->loaded) {
        move_import(s, m, now_ns, wall_us);
    } else {
        move_queue_put(&s->arrived, m); /* what is agreed is not known yet */
    }
    (void)move_queue_post(&s->moves, s->box, s->setup->threads);
}

static void moves_drive(struct sla *s, uint64_t now_ns, int64_t wall_us)
{
    while (s->loaded && s->arrived.first != NULL) {
        struct move *m = s->arrived.first;
        s->arrived.first = m->next;
        move_import(s, m, now_ns, wall_us);
    }
    (void)move_queue_post(&s->moves, s->box, s->setup->threads);
}

static void on_warning(struct sla *s, const struct msg *m, uint64_t now_ns)
{
    bool answer = m->kind == MSG_REPORT;
    trail_add(s->setup->threads->trail, answer ? TRAIL_ANSWER_WAITS : TRAIL_WARNING_WAITS,
              m->posted_ns, now_ns);
    s->out.warned_session = m->arg[0];
    s->out.warned_ns = now_ns;
    s->out.warned_answer = answer;
}

static void on_message(struct sla *s, struct msg *m, uint64_t now_ns, int64_t wall_us)
{
    struct services *sv = s->services;
    switch (m->kind) {
    case MSG_STOP:
        s->stopping = true; /* what lies in the box is answered first */
        s->stop = *m;
        break;
    case MSG_MOVE: {
        struct move *move = m->body;
        m->body = NULL;
        on_move(s, move, now_ns, wall_us);
        break;
    }
    case MSG_STALLED:
        services_stalled(sv, m->arg[0], m->arg[1] != 0, now_ns, wall_us);
        break;
    case MSG_GATEWAY_FORGET:
        services_gateway_forget(sv, (const uint8_t *)m->arg);
        break;
    case MSG_GATEWAY_SUBGROUP:
        services_subgroup(sv, (const uint8_t *)m->arg, (uint32_t)m->arg[2]);
        break;
    case MSG_SUBGROUP_SHARE:
        services_share(sv, m->body, now_ns, wall_us);
        break;
    case MSG_GATEWAY_UP:
        services_gateway_up(sv, m->body, now_ns, wall_us);
        break;
    case MSG_GATEWAY_DOWN:
        services_gateway_down(sv, m->arg[0], m->body != NULL ? m->body : "its session ended",
                              now_ns, wall_us);
        break;
    case MSG_REPORT:
        if (m->tag == TRAIL_TAG)
            on_warning(s, m, now_ns);
        services_report(sv, m->body, now_ns, wall_us);
        s->out.warned_session = 0;
        break;
    case MSG_CONTROLS_ACK:
        services_ack(sv, m->arg[0], m->arg[1], m->status, now_ns, wall_us);
        break;
    case MSG_SURGE:
        on_warning(s, m, now_ns);
        services_surge(sv, m->arg[0], now_ns, wall_us);
        s->out.warned_session = 0;
        break;
    case MSG_TARGET_HEALTH:
        services_target_health(sv, m->body, now_ns);
        break;
    case MSG_VIEW:
        on_view(s, m);
        break;
    case MSG_DOCUMENT_CHANGED:
        on_document(s, m, now_ns, wall_us);
        break;
    case MSG_ADMISSION:
        on_admission(s, m, now_ns, wall_us);
        break;
    case MSG_ENFORCEMENT:
        s->switched = true;
        services_enforcement(sv, m->arg[0] != 0, now_ns, wall_us);
        mailbox_reply(s->box, m, 0, NULL, NULL);
        break;
    default:
        weir_assert(!"a message that no thread sends to an SLA process");
    }
}

static bool handle_some(struct sla *s)
{
    struct msg m;
    bool more = true;
    uint64_t begin_ns = 0, now_ns = 0;
    for (unsigned n = 0; n < ROUND_MESSAGES && now_ns - begin_ns < ROUND_NS; n++) {
        more = mailbox_take(s->box, &m);
        if (!more)
            break;
        now_ns = clock_mono_ns();
        begin_ns = n == 0 ? now_ns : begin_ns;
        int64_t wall_us = clock_wall_us();
        mailbox_busy(s->box, m.kind, now_ns); /* ends what was before */
        if (m.is_reply)
            on_reply(s, &m, now_ns, wall_us);
        else
            on_message(s, &m, now_ns, wall_us);
        msg_release(&m);
    }
    mailbox_idle(s->box, clock_mono_ns());
    return more;
}

/* --- the loop -------------------------------------------------------------------------- */

static void expire_tickets(struct sla *s, uint64_t now_ns, int64_t wall_us)
{
    struct msg m;
    while (mailbox_take_expired(s->box, now_ns, &m))
        on_reply(s, &m, now_ns, wall_us);
}

static void wait_for_work(struct sla *s, uint64_t now_ns)
{
    if (mailbox_drained(s->box))
        return;
    uint64_t due = services_next_ns(s->services);
    uint64_t out = sla_out_next_ns(&s->out);
    uint64_t at = due < out ? due : out;
    if (!s->loaded && s->load_at_ns < at)
        at = s->load_at_ns;
    uint64_t last = s->moves.first != NULL ? MOVE_RETRY_NS : NS_PER_S; /* tickets expire */
    if (at > now_ns + last)
        at = now_ns + last;
    uint64_t wait = at > now_ns ? at - now_ns : 0;
    struct timespec ts = {.tv_sec = (time_t)(wait / NS_PER_S), .tv_nsec = (long)(wait % NS_PER_S)};
    struct pollfd p = {.fd = mailbox_fd(s->box), .events = POLLIN};
    ppoll(&p, 1, &ts, NULL);
}

static void round_once(struct sla *s, uint64_t *expired_ns)
{
    services_processes(s->services, (uint32_t)s->setup->threads->services_count);
    bool more = handle_some(s);
    if (s->stopping && !more)
        return;
    uint64_t now_ns = clock_mono_ns();
    int64_t wall_us = clock_wall_us();
    mailbox_busy(s->box, MSG_PERIOD, now_ns);
    if (now_ns - *expired_ns >= NS_PER_S) {
        *expired_ns = now_ns;
        expire_tickets(s, now_ns, wall_us);
    }
    load_drive(s, now_ns, wall_us);
    moves_drive(s, now_ns, wall_us);
    services_tick(s->services, now_ns, wall_us);
    bool left = services_step(s->services, now_ns, wall_us);
    sla_out_flush(&s->out, now_ns, false);
    left = views_drive(s) || left;
    mailbox_idle(s->box, clock_mono_ns());
    if (!more && !left)
        wait_for_work(s, clock_mono_ns());
}

static int sla_init(struct sla *s, const struct sla_thread *setup)
{
    const struct server_config *c = setup->config;
    *s = (struct sla){.setup = setup, .box = setup->threads->services[setup->index]};
    s->view_end = &s->view;
    int err = sla_out_init(&s->out, setup);
    if (err < 0)
        return err;
    struct services_config config = {
        .period_ns = c->period_ns,
        .lease_ns = c->lease_ns,
        .observe = c->observe,
        .manual_admission = c->manual_admission,
        .max_gateways = c->max_gateways,
        .max_streams = SLA_MAX_STREAMS,
        .in_pieces = true,
        .process = (uint32_t)setup->index,
        .processes = (uint32_t)setup->threads->services_count,
        .processes_at_start = (uint32_t)setup->threads->services_at_start,
        .first_epoch = (uint64_t)clock_wall_us(),
    };
    struct services_sink sink = sla_out_sink(&s->out);
    s->services = services_new(&config, &sink);
    s->out.services = s->services;
    return s->services != NULL ? 0 : WEIR_E_FULL;
}

void *sla_main(void *sla_thread)
{
    const struct sla_thread *setup = sla_thread;
    struct sla *s = calloc(1, sizeof(*s));
    int err = s != NULL ? sla_init(s, setup) : WEIR_E_FULL;
    if (err < 0) {
        log_error("SLA process %zu has no memory to start with", setup->index);
        abort();
    }
    uint64_t expired_ns = clock_mono_ns();
    while (!s->stopping)
        round_once(s, &expired_ns);
    struct msg stop = s->stop;
    struct mailbox *box = s->box;
    while (handle_some(s) || view_step(s))
        continue;
    sla_out_flush(&s->out, clock_mono_ns(), true);
    move_queue_free(&s->moves);
    move_queue_free(&s->arrived);
    services_free(s->services);
    sla_out_fini(&s->out);
    free(s);
    mailbox_reply(box, &stop, 0, NULL, NULL);
    return NULL;
}

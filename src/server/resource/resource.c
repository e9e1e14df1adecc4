/* SPDX-License-Identifier: Apache-2.0 */
/* The storage resource manager's thread.
 *
 * Problem: the gateways see targets through the hosts' load; somebody must look at the storage
 * itself, steadily, with little load of its own, and must not be held up by a target that hangs.
 * Model: one thread, one poll(2) over its mailbox and all running probes. Each target is probed
 * every probe period, the targets spread over it; first as soon as it is heard of.
 *
 * Invariants
 *  1. A target has at most one probe running; at most RESOURCE_MAX_RUNNING run at once.
 *  2. Nothing here waits but poll: a probe is a state machine (probe.c), posting to a full mailbox
 *     drops the news (the next probe brings it again) and is never repeated in place.
 *  3. An event is raised only when reachability changes; a target that was never reached raises one
 *     with its first failed probe.
 *
 * What may fail: memory for a probe (the target is tried again next period). */
#include "server/resource/resource.h"

#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "server/msg.h"
#include "server/resource/probe.h"
#include "server/store/store.h"

struct target {
    bool used;
    char name[NAME_SIZE], uri[512];
    struct probe *probe;         /* NULL: none runs */
    uint64_t due_ns, reached_ns; /* reached_ns: when it was seen or heard of last */
    uint64_t probes, failures;
    bool known, reachable;
};

struct resource {
    const struct server_config *config;
    const struct threads *threads;
    struct mailbox *self;
    struct target target[RESOURCE_MAX_TARGETS];
    struct probe_key_set *keys;
    size_t running, turn;
    uint64_t turned_away;
    struct rng rng;
    bool stopping;
    struct msg stop;
};

static void json_free_body(void *json)
{
    json_decref(json);
}

static void post(struct resource *r, struct mailbox *to, struct msg *m)
{
    if (to == NULL || mailbox_post(r->self, to, m) != 0)
        msg_release(m);
}

static void show_event(struct resource *r, const struct event_record *e)
{
    char at[32], id[24];
    if (!threads_listened(r->threads))
        return;
    clock_format_wall(e->wall_us, at, sizeof(at));
    snprintf(id, sizeof(id), "%lld", (long long)e->wall_us);
    struct msg m = {.kind = MSG_NOTICE,
                    .body = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "id", id, "at", at,
                                      "severity", event_severity_name(e->severity), "kind", e->kind,
                                      "subject", e->subject, "text", e->text),
                    .body_free = json_free_body};
    if (m.body != NULL)
        post(r, r->threads->app, &m);
}

/* To the store: what was found, and the event if there is one. */
static void record(struct resource *r, const struct target_health *h, const struct event_record *e)
{
    struct store_batch *b = store_batch_new(0, 0, e != NULL, h != NULL);
    if (b == NULL)
        return;
    if (h != NULL)
        b->health[0] = *h;
    if (e != NULL)
        b->event[0] = *e;
    struct msg m = {.kind = MSG_STORE_APPEND, .body = b, .body_free = store_batch_free};
    post(r, r->threads->store_writer, &m);
    if (e != NULL)
        show_event(r, e);
}

static void tell_services(struct resource *r, const struct target_health *h)
{
    for (size_t i = 0; i < r->threads->services_count; i++) {
        struct target_health *copy = malloc(sizeof(*copy));
        if (copy == NULL)
            return;
        *copy = *h;
        struct msg m = {.kind = MSG_TARGET_HEALTH, .body = copy, .body_free = free};
        post(r, r->threads->services[i], &m);
    }
}

static void fill_event(struct event_record *e, const struct target_health *h)
{
    *e = (struct event_record){.wall_us = h->wall_us,
                               .severity = h->reachable ? EVENT_INFO : EVENT_ERROR};
    snprintf(e->kind, sizeof(e->kind), "%s",
             h->reachable ? "target-reachable" : "target-unreachable");
    snprintf(e->subject, sizeof(e->subject), "target/%s", h->target);
    if (h->reachable)
        snprintf(e->text, sizeof(e->text),
                 "the server's own probe reaches it again; a read took %llu us",
                 (unsigned long long)h->probe_latency_us);
    else
        snprintf(e->text, sizeof(e->text), "the server's own probe does not reach it: %s",
                 h->error);
}

static void take_result(struct resource *r, struct target *t, const struct probe_result *p,
                        uint64_t now_ns)
{
    bool changed = t->known ? t->reachable != p->reachable : !p->reachable;
    t->probes++;
    t->failures += !p->reachable;
    t->known = true;
    t->reachable = p->reachable;
    if (p->reachable)
        t->reached_ns = now_ns;
    struct target_health h = {
        .reachable = p->reachable,
        .wall_us = clock_wall_us(),
        .size = p->size,
        .block_min = p->block_min,
        .block_preferred = p->block_preferred,
        .block_max = p->block_max,
        .probe_latency_us = p->read_us,
        .connect_latency_us = p->connect_us,
        .probes = t->probes,
        .failures = t->failures,
    };
    struct event_record e;
    memcpy(h.target, t->name, sizeof(h.target));
    memcpy(h.uri, t->uri, sizeof(h.uri));
    memcpy(h.error, p->error, sizeof(h.error));
    tell_services(r, &h);
    if (changed)
        fill_event(&e, &h);
    record(r, &h, changed ? &e : NULL);
}

/* A place for a new target: a free one, or that of one long unreachable; NULL when there is
 * none. */
static struct target *find_place(struct resource *r, uint64_t now_ns)
{
    struct target *oldest = NULL;
    for (size_t i = 0; i < RESOURCE_MAX_TARGETS; i++) {
        struct target *t = &r->target[i];
        if (!t->used)
            return t;
        bool stale = t->known && !t->reachable && t->probe == NULL &&
                     now_ns - t->reached_ns >= RESOURCE_STALE_NS;
        if (stale && (oldest == NULL || t->reached_ns < oldest->reached_ns))
            oldest = t;
    }
    return oldest;
}

static void turn_away(struct resource *r, const struct target_seen *seen)
{
    if (r->turned_away++ > 0)
        return;
    struct event_record e = {
        .wall_us = clock_wall_us(), .severity = EVENT_WARNING, .kind = "targets-not-probed"};
    snprintf(e.subject, sizeof(e.subject), "target/%s", seen->target);
    snprintf(e.text, sizeof(e.text), "more than %u targets: this one and later ones are not probed",
             RESOURCE_MAX_TARGETS);
    log_warning("resource: %s", e.text);
    record(r, NULL, &e);
}

static void see(struct resource *r, const struct target_seen *seen, uint64_t now_ns)
{
    for (size_t i = 0; i < RESOURCE_MAX_TARGETS; i++) {
        struct target *t = &r->target[i];
        if (t->used && strcmp(t->name, seen->target) == 0 && strcmp(t->uri, seen->uri) == 0) {
            t->reached_ns = now_ns;
            return;
        }
    }
    struct target *t = find_place(r, now_ns);
    if (t == NULL) {
        turn_away(r, seen);
        return;
    }
    weir_assert(t->probe == NULL);
    *t = (struct target){.used = true, .due_ns = now_ns, .reached_ns = now_ns};
    snprintf(t->name, sizeof(t->name), "%s", seen->target);
    snprintf(t->uri, sizeof(t->uri), "%s", seen->uri);
}

static void handle(struct resource *r, struct msg *m)
{
    weir_assert(!m->is_reply);
    switch (m->kind) {
    case MSG_TARGET_SEEN:
        weir_assert(m->body != NULL);
        see(r, m->body, clock_mono_ns());
        break;
    case MSG_PROBE_KEYS:
        probe_keys_free(r->keys);
        r->keys = m->body;
        m->body = NULL;
        break;
    case MSG_STOP:
        r->stopping = true;
        r->stop = *m;
        m->body = NULL;
        break;
    default:
        weir_assert(false);
    }
}

static void look_at(struct resource *r, struct target *t, uint64_t now_ns)
{
    struct probe_result result;
    if (probe_take_result(t->probe, &result))
        take_result(r, t, &result, now_ns);
    if (!probe_ended(t->probe))
        return;
    probe_free(t->probe);
    t->probe = NULL;
    r->running--;
}

static void start_probe(struct resource *r, struct target *t, uint64_t now_ns)
{
    uint64_t period = r->config->probe_period_ns;
    bool first = t->probes == 0;
    const struct probe_keys keys = probe_keys_of(r->keys, t->name);
    t->probe = probe_new(t->uri, &keys, now_ns, rng_u64(&r->rng));
    /* The second comes at a random place of the period, the others a period after the one
     * before. */
    t->due_ns = now_ns + (first ? period / 2 + rng_below(&r->rng, period / 2 + 1) : period);
    if (t->probe == NULL)
        return;
    r->running++;
    probe_step(t->probe, 0, now_ns);
    look_at(r, t, now_ns);
}

/* In turn, so that the first of the table do not take all places when there are many. */
static void start_due(struct resource *r, uint64_t now_ns)
{
    for (size_t i = 0; i < RESOURCE_MAX_TARGETS && r->running < RESOURCE_MAX_RUNNING; i++) {
        struct target *t = &r->target[(r->turn + i) % RESOURCE_MAX_TARGETS];
        if (!t->used || t->probe != NULL || t->due_ns > now_ns)
            continue;
        start_probe(r, t, now_ns);
        if (r->running == RESOURCE_MAX_RUNNING)
            r->turn = (size_t)(t - r->target) + 1;
    }
}

static int timeout_ms(const struct resource *r, uint64_t now_ns)
{
    uint64_t at = now_ns + NS_PER_S;
    for (size_t i = 0; i < RESOURCE_MAX_TARGETS; i++) {
        const struct target *t = &r->target[i];
        if (!t->used)
            continue;
        uint64_t next = t->probe != NULL                    ? probe_next_ns(t->probe)
                        : r->running < RESOURCE_MAX_RUNNING ? t->due_ns
                                                            : UINT64_MAX;
        at = next < at ? next : at;
    }
    return at <= now_ns ? 0 : (int)((at - now_ns) / NS_PER_MS + 1);
}

/* One round: wait for the mailbox and all probes' descriptors, then let the probes go on. */
static void run_probes(struct resource *r)
{
    struct pollfd p[1 + RESOURCE_MAX_RUNNING];
    struct target *of[1 + RESOURCE_MAX_RUNNING];
    nfds_t n = 1;
    p[0] = (struct pollfd){.fd = mailbox_fd(r->self), .events = POLLIN};
    for (size_t i = 0; i < RESOURCE_MAX_TARGETS; i++) {
        if (r->target[i].probe == NULL)
            continue;
        weir_assert(n <= RESOURCE_MAX_RUNNING);
        of[n] = &r->target[i];
        p[n] = (struct pollfd){.revents = 0};
        p[n].fd = probe_fd(r->target[i].probe, &p[n].events);
        n++;
    }
    int ready = poll(p, n, timeout_ms(r, clock_mono_ns()));
    uint64_t now = clock_mono_ns();
    mailbox_busy(r->self, MSG_TARGET_HEALTH, now);
    for (nfds_t i = 1; i < n; i++) {
        short revents = ready > 0 ? p[i].revents : 0;
        if (revents != 0 || now >= probe_next_ns(of[i]->probe))
            probe_step(of[i]->probe, revents, now);
        look_at(r, of[i], now);
    }
    start_due(r, now);
    mailbox_idle(r->self, clock_mono_ns());
}

static void take(struct resource *r)
{
    struct msg m;
    while (!r->stopping && mailbox_take(r->self, &m)) {
        mailbox_busy(r->self, m.kind, clock_mono_ns());
        handle(r, &m);
        msg_release(&m);
        mailbox_idle(r->self, clock_mono_ns());
    }
}

static void let_go(struct resource *r)
{
    for (size_t i = 0; i < RESOURCE_MAX_TARGETS; i++)
        probe_free(r->target[i].probe);
    probe_keys_free(r->keys);
}

void *resource_main(void *resource_thread)
{
    const struct resource_thread *arg = resource_thread;
    /* 180 KiB of the thread's stack, so that it cannot fail. */
    struct resource r = {
        .config = arg->config, .threads = arg->threads, .self = arg->threads->resource,
        .keys = arg->keys};
    uint64_t seed;
    rng_system(&seed, sizeof(seed));
    rng_seed(&r.rng, seed);
    while (!r.stopping) {
        take(&r);
        if (!r.stopping && !mailbox_drained(r.self))
            run_probes(&r);
    }
    let_go(&r);
    mailbox_reply(r.self, &r.stop, 0, NULL, NULL);
    return NULL;
}

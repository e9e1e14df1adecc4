/* SPDX-License-Identifier: Apache-2.0 */
/* One SLA process: what happens on each message and at each due time.
 *
 * Problem: keep agreements over many gateways with nothing but messages and `now`.
 *
 * Model. Each gateway is polled once a period, at a phase of the period made from its id, so that
 * polls of many spread evenly; a new session and an early warning (SURGE) are polled at once. A
 * whole answer drives everything for that gateway in one go: merge (merge.c), verdicts
 * (analyzer.c), throttles (throttle.c), controls (dispatch.c), samples (note.c). So a breach is
 * answered within the message that shows it. A poll not answered when the next is due is lost; the
 * next answer covers both.
 *
 * Observe mode (of the server, or by policy for some streams) and "enforcement off" concern what is
 * planned, that is throttles. Limits that people wrote into agreements and tenants hold in any
 * mode.
 *
 * Two sessions may claim one identity. When the boot id is the same it is one process that dials
 * anew, and the newcomer stays. Otherwise, while the old session was heard within two periods, the
 * newcomer is ended; if it was silent longer, the newcomer stays (a gateway started anew whose old
 * connection is not known to be dead). Either way it is said.
 *
 * Invariants: (1) no function here recurses or calls back into the caller; (2) all walks are
 * bounded by the bounds in state.h; (3) equal calls with equal times give equal results. */
#include "server/services/services.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/services/state.h"

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)
/* Answers missed in a row before a gateway with a session counts as lost. */
#define LOST_AFTER_POLLS 5u
/* A lost gateway takes no share of limits after so long, and is forgotten after so long. */
#define LOST_STALE_NS (60 * NS_PER_S)
#define LOST_RETIRE_NS (86400 * NS_PER_S)
/* Sooner after the last one a warning is dropped: what so short a window shows is chance, and to
 * divide by it does harm. */
#define SURGE_GAP_NS (50 * NS_PER_MS)
#define REFUSED_PERIODS 5u
/* Epochs above this are nonsense from outside: they would leave no room to count on. */
#define EPOCH_MAX (UINT64_MAX / 2)
/* Polls of one tick where work is done in pieces: those above are due still. */
#define TICK_GATEWAYS 32u
#define SHARE_RETRY_NS (10 * NS_PER_MS)

void services_at(struct services *s, uint64_t now_ns, int64_t wall_us)
{
    if (now_ns > s->now_ns)
        s->now_ns = now_ns; /* never back, whatever the caller's clock does */
    s->wall_us = wall_us;
}

struct services *services_new(const struct services_config *c, const struct services_sink *sink)
{
    weir_assert(c->period_ns >= NS_PER_MS);
    weir_assert(c->lease_ns >= 2 * c->period_ns);
    weir_assert(c->max_gateways > 0 && c->max_streams > 0);
    struct services *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NULL;
    s->config = *c;
    sink_set(s, sink);
    s->epoch = c->first_epoch;
    s->generation = 1;
    s->e.enforcing = true;
    s->e.observe = c->observe;
    list_init(&s->e.gateways);
    list_init(&s->e.targets);
    list_init(&s->e.streams);
    list_init(&s->e.agreements);
    list_init(&s->claims);
    list_init(&s->spanning);
    list_init(&s->dirty);
    list_init(&s->storages);
    list_init(&s->changed);
    s->heap = calloc((size_t)c->max_gateways + 1, sizeof(*s->heap));
    if (s->heap == NULL || table_init(&s->by_id, c->max_gateways) < 0 ||
        table_init(&s->by_session, c->max_gateways) < 0 ||
        table_init(&s->by_index, c->max_streams) < 0 ||
        table_init(&s->by_key, c->max_streams) < 0 ||
        table_init(&s->by_claim, c->max_streams) < 0 || quota_init(s) < 0) {
        services_free(s);
        return NULL;
    }
    return s;
}

void services_free(struct services *s)
{
    if (s == NULL)
        return;
    list_for_each(it, &s->e.streams) {
        struct stream *st = container_of(it, struct stream, e.link);
        st->brake.rate = 0; /* nothing is recorded any more */
        if (st->storage != NULL)
            st->storage->throttles = 0;
    }
    list_for_each_safe(it, &s->e.gateways)
        entity_gateway_free(s, container_of(it, struct gateway, e.link));
    weir_assert(s->e.stream_count == 0 && s->e.target_count == 0);
    select_free(s);
    upkeep_fini(s);
    admitted_fini(s);
    claim_fini(s);
    dispatch_fini(s);
    free(s->ask);
    quota_fini(s);
    table_fini(&s->by_id);
    table_fini(&s->by_session);
    table_fini(&s->by_index);
    table_fini(&s->by_key);
    sparse_hist_fini(&s->group);
    free(s->heap);
    free(s);
}

/* --- polls ----------------------------------------------------------------------------- */

/* The next time after @now at the gateway's own phase, at least half a period away. */
static uint64_t next_phase(const struct services *s, const struct gateway *g)
{
    uint64_t period = s->config.period_ns;
    uint64_t from = s->now_ns + period / 2;
    uint64_t base = from - from % period + g->phase_ns;
    return base >= from ? base : base + period;
}

void gateway_poll(struct services *s, struct gateway *g)
{
    struct poll_request p = {.seq = g->e.poll_seq + 1, .acked = g->ask_all ? 0 : g->e.acked_seq};
    upkeep_poll(s, g, &p);
    if (s->sink.poll(s->sink.ctx, g->e.hello.session, g->e.hello.pair, &p) < 0)
        return; /* the way is full; at the next period again */
    g->e.poll_seq++;
    g->e.poll_sent_ns = s->now_ns;
    g->e.polls++;
    s->e.polls++;
    s->stats.polls++;
    g->outstanding = true;
    g->ask_all = false;
}

void gateway_touch(struct services *s, struct gateway *g)
{
    g->generation = 0;
    s->touched++;
}

void gateway_poll_now(struct services *s, struct gateway *g)
{
    if (!g->e.live || g->outstanding)
        return;
    gateway_poll(s, g);
    heap_set(s, g, next_phase(s, g));
}

static void gateway_lost(struct services *s, struct gateway *g, const char *why)
{
    if (g->e.state == GATEWAY_LOST)
        return;
    g->lost_ns = s->now_ns;
    g->stale_counted = false;
    entity_gateway_set_state(s, g, GATEWAY_LOST, why);
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        merge_window_end(st);
        st->e.verdict = VERDICT_NONE;
        st->e.harm_ppm = 0;
        if (st->agreed != NULL)
            st->agreed->unit.verdict = st->agreed->e.verdict = VERDICT_NONE;
    }
}

/* Throttles end at the gateway with their lease, so they end here too. */
static void lease_over(struct services *s, struct gateway *g)
{
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        if (st->brake.rate > 0)
            throttle_lift(s, st, "its gateway was lost for longer than the lease", "sent");
    }
}

static void surge_poll(struct services *s, struct gateway *g)
{
    g->surge_owed = false;
    g->surged = true;
    gateway_poll_now(s, g);
}

static void poll_due(struct services *s, struct gateway *g)
{
    if (g->e.state == GATEWAY_UNREACHABLE) { /* it has enough to read */
        heap_set(s, g, next_phase(s, g));
        return;
    }
    if (g->outstanding) {
        g->e.polls_lost++;
        s->e.polls_lost++;
        s->stats.polls_lost++;
        g->unanswered++;
        if (g->unanswered >= LOST_AFTER_POLLS)
            gateway_lost(s, g, "it no longer answers");
    }
    gateway_poll(s, g);
    dispatch_gateway(s, g);
    heap_set(s, g, next_phase(s, g));
}

void services_retire(struct services *s, struct gateway *g, const char *why)
{
    if (g->e.live)
        s->sink.session_end(s->sink.ctx, g->e.hello.session, g->e.hello.pair, why);
    admitted_remove(s, g->e.hello.id);
    entity_gateway_set_state(s, g, GATEWAY_RETIRED, why);
    entity_gateway_free(s, g);
}

/* A gateway without a session: its lease, its share of limits, its end. */
static void lost_due(struct services *s, struct gateway *g)
{
    uint64_t lost = s->now_ns - g->lost_ns;
    if (lost >= LOST_RETIRE_NS && upkeep_keeps(s, g)) {
        heap_set(s, g, s->now_ns + LOST_RETIRE_NS);
        return;
    }
    if (lost >= LOST_RETIRE_NS) {
        services_retire(s, g, "it was lost for a day");
        return;
    }
    if (lost >= s->config.lease_ns)
        lease_over(s, g);
    if (lost >= LOST_STALE_NS && !g->stale_counted) {
        g->stale_counted = true;
        settle_heard(s, g); /* it is waited for no longer */
        claim_gateway_changed(s, g);
        claim_split_dirty(s, g); /* its part goes to the others */
        gateway_touch(s, g);
    }
    uint64_t next = lost < s->config.lease_ns ? s->config.lease_ns
                    : lost < LOST_STALE_NS    ? LOST_STALE_NS
                                              : LOST_RETIRE_NS;
    heap_set(s, g, g->lost_ns + next);
}

void services_tick(struct services *s, uint64_t now_ns, int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    select_schedules(s);
    /* Each entry moves at least half a period away, so this ends. */
    size_t most = s->config.in_pieces ? TICK_GATEWAYS : SIZE_MAX;
    for (size_t n = 0; n < most && s->heap_count > 0 && s->heap[1]->due_ns <= s->now_ns; n++) {
        struct gateway *g = s->heap[1];
        if (g->e.live)
            poll_due(s, g);
        else
            lost_due(s, g);
    }
    if (s->now_ns >= s->plan_ns && s->period.stage == PERIOD_RESTS) {
        s->plan_ns = s->now_ns + s->config.period_ns;
        period_ask(s, PERIOD_WHOLE);
    }
    quota_flush(s);
}

bool services_step(struct services *s, uint64_t now_ns, int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    return period_step(s);
}

uint64_t services_next_ns(const struct services *s)
{
    uint64_t due = s->heap_count > 0 ? s->heap[1]->due_ns : UINT64_MAX;
    uint64_t retry = s->share_owed ? s->now_ns + SHARE_RETRY_NS : UINT64_MAX;
    return due < retry ? due : retry;
}

/* --- gateways -------------------------------------------------------------------------- */

static void say_conflict(struct services *s, const struct gateway *g, const struct gateway_hello *h,
                         const char *what)
{
    char subject[SUBJECT_SIZE];
    entity_gateway_subject(g, subject, sizeof(subject));
    note_event(s, EVENT_ERROR, "gateway-identity-conflict", subject,
               "%s at %s and %s at %s both claim gateway id %s: %s", g->e.hello.name,
               g->e.hello.address, h->name, h->address, g->e.id_text, what);
}

/* Whether the newcomer may have the identity; the old session is over then. */
static bool identity_settle(struct services *s, struct gateway *g, const struct gateway_hello *h)
{
    if (memcmp(g->e.hello.boot, h->boot, GATEWAY_ID_SIZE) == 0) {
        s->sink.session_end(s->sink.ctx, g->e.hello.session, g->e.hello.pair,
                            "the gateway opened a new session");
    } else if (s->now_ns - g->e.last_seen_ns > 2 * s->config.period_ns) {
        say_conflict(s, g, h, "the older session was silent and is ended");
        s->sink.session_end(
            s->sink.ctx, g->e.hello.session, g->e.hello.pair,
            "another session claims this gateway's identity, and this one is silent");
    } else {
        say_conflict(s, g, h, "the newcomer is ended");
        s->sink.session_end(s->sink.ctx, h->session, h->pair,
                            "another session with this gateway's identity is alive");
        return false;
    }
    entity_gateway_detach(s, g);
    return true;
}

/* Room for one more by forgetting the gateway that was lost longest. */
void services_make_room(struct services *s)
{
    struct gateway *oldest = NULL;
    list_for_each(it, &s->e.gateways) {
        struct gateway *g = container_of(it, struct gateway, e.link);
        if (!g->e.live && (oldest == NULL || g->lost_ns < oldest->lost_ns))
            oldest = g;
    }
    if (oldest != NULL)
        services_retire(s, oldest, "room was needed for a new one");
}

static struct gateway *gateway_discover(struct services *s, const struct gateway_hello *h)
{
    if (s->e.gateway_count >= s->config.max_gateways)
        services_make_room(s);
    struct gateway *g = entity_gateway_new(s, h);
    if (g != NULL) {
        g->e.admitted = admitted_is(s, h->id);
        g->e.waits = g->e.waits && !g->e.admitted;
        settle_recalled(s, g);
        return g;
    }
    if (!s->gateways_full_said)
        note_event(s, EVENT_ERROR, "gateways-full", "server",
                   "gateway %s (%s) is refused: %u gateways are the bound of one process", h->name,
                   h->address, s->config.max_gateways);
    s->gateways_full_said = true;
    s->sink.session_end(s->sink.ctx, h->session, h->pair, "no room for another gateway");
    return NULL;
}

void services_gateway_up(struct services *s, const struct gateway_hello *h, uint64_t now_ns,
                         int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    struct gateway *g = entity_gateway_by_id(s, h->id);
    if (g != NULL && g->e.live && !identity_settle(s, g, h))
        return;
    if (g == NULL)
        g = gateway_discover(s, h);
    if (g == NULL)
        return;
    bool fresh = g->e.state == GATEWAY_DISCOVERED;
    if (g->e.state == GATEWAY_LOST && s->now_ns - g->lost_ns >= s->config.lease_ns)
        lease_over(s, g);
    entity_gateway_attach(s, g, h);
    if (fresh)
        entity_gateway_set_state(s, g, GATEWAY_PENDING,
                                 g->e.waits ? "it proved its key, and waits to be admitted"
                                            : "it proved its key");
    gateway_poll(s, g);
    heap_set(s, g, next_phase(s, g));
}

void services_gateway_down(struct services *s, uint64_t session, const char *why, uint64_t now_ns,
                           int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    struct gateway *g = entity_gateway_by_session(s, session);
    if (g == NULL || !g->e.live)
        return; /* one that was refused, or has been followed by another */
    entity_gateway_detach(s, g);
    gateway_lost(s, g, why);
    heap_set(s, g, s->now_ns + s->config.lease_ns);
}

int services_gateway_recall(struct services *s, const uint8_t id[GATEWAY_ID_SIZE], const char *name,
                            const char *software, const char *address, int64_t first_seen_us,
                            int64_t last_seen_us, bool admitted, uint64_t now_ns)
{
    services_at(s, now_ns, s->wall_us);
    if (entity_gateway_by_id(s, id) != NULL)
        return WEIR_E_EXISTS;
    struct gateway_hello h = {.session = 0};
    memcpy(h.id, id, GATEWAY_ID_SIZE);
    words(h.name, sizeof(h.name), "%s", name);
    words(h.software, sizeof(h.software), "%s", software);
    words(h.address, sizeof(h.address), "%s", address);
    struct gateway *g = entity_gateway_new(s, &h);
    if (g == NULL)
        return WEIR_E_FULL;
    g->e.state = GATEWAY_LOST;
    g->e.admitted = admitted;
    g->e.waits = s->config.manual_admission && !admitted;
    g->e.first_seen_us = first_seen_us;
    g->e.last_seen_us = last_seen_us;
    g->lost_ns = s->now_ns;
    settle_recalled(s, g);
    heap_set(s, g, s->now_ns + LOST_STALE_NS);
    return 0;
}

/* The gateway says which controls are in force; ours may have been lost, or be older than those of
 * an earlier life. */
static void reconcile_epoch(struct services *s, struct gateway *g, uint64_t epoch)
{
    if (epoch > EPOCH_MAX) {
        g->e.counter_faults++;
        return;
    }
    if (epoch > s->epoch) {
        s->epoch = epoch;
        g->send_full = true;
    } else if (epoch == g->e.epoch_desired && epoch > g->e.epoch_applied) {
        g->e.epoch_applied = epoch;
        throttle_applied(s, g, epoch);
        (void)settle_applied(s, g);
    } else if (epoch < g->e.epoch_applied) {
        g->e.epoch_applied = epoch;
        g->send_full = true;
    }
}

static void whole_report_state(struct services *s, struct gateway *g)
{
    if (g->e.state == GATEWAY_ADMITTED || g->e.state == GATEWAY_UNREACHABLE)
        return;
    if (g->e.waits) {
        if (g->e.state == GATEWAY_LOST)
            entity_gateway_set_state(s, g, GATEWAY_PENDING,
                                     "it returned, and waits to be admitted");
        return;
    }
    g->e.admitted = true;
    entity_gateway_set_state(s, g, GATEWAY_ADMITTED, "its first whole report is in");
    g->send_full = true;
}

void services_report(struct services *s, const struct report *r, uint64_t now_ns, int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    struct gateway *g = entity_gateway_by_session(s, r->session);
    if (g == NULL || !g->e.live) {
        s->e.stale_reports++;
        s->stats.stale_reports++;
        return;
    }
    g->e.last_seen_ns = s->now_ns;
    g->e.last_seen_us = wall_us;
    if (merge_report(s, g, r) != MERGE_WHOLE)
        return;
    whole_report_state(s, g);
    settle_heard(s, g);
    upkeep_report(s, g, r);
    if (g->targets_changed)
        s->sink.targets(s->sink.ctx, &g->e);
    g->targets_changed = false;
    reconcile_epoch(s, g, r->epoch);
    claim_gather(s, g);
    if (g->surged)
        claim_resplit(s, g);
    plan_gateway(s, g);
    slots_gather(g);
    if (g->surged)
        slots_resplit(s, g);
    g->surged = false;
    analyzer_run(s, g);
    throttle_run(s, g);
    dispatch_gateway(s, g);
    dispatch_changed(s, CHANGED_AT_ONCE);
    note_samples(s, g);
    if (g->surge_owed && !g->outstanding)
        surge_poll(s, g);
}

void services_ack(struct services *s, uint64_t session, uint64_t epoch, int status, uint64_t now_ns,
                  int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    struct gateway *g = entity_gateway_by_session(s, session);
    if (g == NULL || !g->e.live || epoch > g->e.epoch_desired)
        return;
    g->e.apply_status = status;
    if (status != 0) {
        char subject[SUBJECT_SIZE];
        entity_gateway_subject(g, subject, sizeof(subject));
        note_event(s, EVENT_ERROR, "control-refused", subject,
                   "gateway %s refused controls of epoch %llu: %s; all of them are sent again",
                   g->e.hello.name, (unsigned long long)epoch, weir_strerror(status));
        g->send_full = true;
        g->retry_ns = s->now_ns + REFUSED_PERIODS * s->config.period_ns;
        settle_refused(g);
        return;
    }
    if (epoch > g->e.epoch_applied)
        g->e.epoch_applied = epoch;
    throttle_applied(s, g, epoch);
    bool more = settle_applied(s, g);
    quota_applied(s, g);
    if (more)
        dispatch_changed(s, CHANGED_AT_ONCE);
}

void services_surge(struct services *s, uint64_t session, uint64_t now_ns, int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    struct gateway *g = entity_gateway_by_session(s, session);
    if (g == NULL || !g->e.live || s->now_ns - g->surge_ns < SURGE_GAP_NS)
        return;
    g->surge_ns = s->now_ns;
    if (g->outstanding)
        g->surge_owed = true; /* what is on its way may be of before */
    else
        surge_poll(s, g);
}

void services_stalled(struct services *s, uint64_t session, bool stalled, uint64_t now_ns,
                      int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    struct gateway *g = entity_gateway_by_session(s, session);
    if (g == NULL || !g->e.live)
        return;
    if (stalled && g->e.state == GATEWAY_ADMITTED)
        entity_gateway_set_state(s, g, GATEWAY_UNREACHABLE, "its queue is full or too old");
    if (stalled)
        return;
    /* What waited for it was let go of, also where it was on its way here when it stopped. */
    g->send_full = true;
    if (g->e.state != GATEWAY_UNREACHABLE)
        return;
    entity_gateway_set_state(s, g, GATEWAY_ADMITTED, "it reads again");
    g->unanswered = 0;
    gateway_poll(s, g);
    dispatch_gateway(s, g);
    heap_set(s, g, next_phase(s, g));
}

void services_subgroup(struct services *s, const uint8_t id[GATEWAY_ID_SIZE], uint32_t subgroup)
{
    struct gateway *g = entity_gateway_by_id(s, id);
    if (g != NULL)
        g->e.hello.subgroup = subgroup;
}

static void storage_health(const struct storage *at, const struct target_health *h)
{
    list_for_each(it, &at->targets) {
        struct entity_target *t = &container_of(it, struct target, in_storage)->e;
        if (strcmp(t->name, h->target) != 0 || strcmp(t->uri, h->uri) != 0)
            continue;
        t->health = *h; /* whoever probes says when it changes */
        t->has_health = true;
    }
}

void services_target_health(struct services *s, const struct target_health *h, uint64_t now_ns)
{
    services_at(s, now_ns, s->wall_us);
    list_for_each(it, &s->storages) {
        const struct storage *at = container_of(it, struct storage, link);
        if (storage_leads_to(at, h->uri))
            storage_health(at, h);
    }
}

/* --- documents and settings
 * ------------------------------------------------------------------------------------- */

void services_loaded(struct services *s, uint64_t now_ns, int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    s->loaded = true;
    settle_loaded(s);
    period_ask(s, PERIOD_TELL);
}

int services_agreement_put(struct services *s, const struct agreement *a, uint64_t now_ns,
                           int64_t wall_us, char *ret_words, size_t size)
{
    services_at(s, now_ns, wall_us);
    int err = select_agreement_put(s, a, ret_words, size);
    if (err < 0)
        return err;
    throttle_review_all(s); /* it may promise something to one that is throttled */
    s->generation++; /* all shares are looked at anew */
    period_ask(s, PERIOD_PLAN);
    return 0;
}

int services_tenant_put(struct services *s, const struct tenant *t, uint64_t now_ns,
                        int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    int err = select_tenant_put(s, t);
    if (err < 0)
        return err;
    throttle_review_all(s); /* policies and agreements may select by tenant */
    period_ask(s, PERIOD_TELL);
    return 0;
}

int services_policy_put(struct services *s, const struct policy *p, uint64_t now_ns,
                        int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    int err = select_policy_put(s, p);
    if (err < 0)
        return err;
    throttle_review_all(s);
    s->generation++; /* all shares are looked at anew */
    period_ask(s, PERIOD_PLAN);
    return 0;
}

static struct gateway *gateway_named(struct services *s, const char *name)
{
    struct gateway *named = NULL;
    list_for_each(it, &s->e.gateways) {
        struct gateway *g = container_of(it, struct gateway, e.link);
        if (strcmp(g->e.id_text, name) == 0)
            return g; /* whoever else calls itself so */
        if (named == NULL && strcmp(g->e.hello.name, name) == 0)
            named = g;
    }
    return named;
}

static int gateway_remove(struct services *s, const char *name)
{
    struct gateway *g = gateway_named(s, name);
    parcel_order(s, name, g == NULL ? PARCEL_RETIRE : PARCEL_NOTHING);
    upkeep_forget(s, g == NULL ? name : g->e.id_text);
    uint8_t id[GATEWAY_ID_SIZE];
    if (g == NULL && gateway_id_read(name, id))
        admitted_remove(s, id);
    if (g == NULL)
        return WEIR_E_NOT_FOUND;
    services_retire(s, g, "retired by an administrator");
    return 0;
}

void services_admit(struct services *s, struct gateway *g, const char *who)
{
    if (g->e.admitted)
        return;
    g->e.admitted = true;
    g->e.waits = false;
    list_for_each(it, &g->streams) /* what is agreed holds for them from now on */
        select_stream(s, container_of(it, struct stream, in_gateway));
    if (g->e.state == GATEWAY_PENDING && g->whole_known) {
        entity_gateway_set_state(s, g, GATEWAY_ADMITTED, who);
        g->send_full = true;
        return;
    }
    char subject[SUBJECT_SIZE];
    entity_gateway_subject(g, subject, sizeof(subject));
    note_event(s, EVENT_INFO, "gateway-admitted", subject,
               "gateway %s is %s: it is controlled as soon as it reports", g->e.hello.name, who);
    s->sink.gateway(s->sink.ctx, &g->e);
}

int services_gateway_admit(struct services *s, const char *name, uint64_t now_ns, int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    struct gateway *g = gateway_named(s, name);
    uint8_t id[GATEWAY_ID_SIZE];
    bool known = g != NULL || gateway_id_read(name, id);
    int err = known ? admitted_put(s, g != NULL ? g->e.hello.id : id) : 0;
    parcel_order(s, name, PARCEL_NOTHING);
    if (err < 0 || g == NULL)
        return err < 0 ? err : WEIR_E_NOT_FOUND;
    if (g->e.admitted)
        return 0;
    services_admit(s, g, "admitted by an administrator");
    throttle_review_all(s);
    period_ask(s, PERIOD_PLAN);
    return 0;
}

int services_gateway_admitted(struct services *s, const uint8_t id[GATEWAY_ID_SIZE],
                              uint64_t now_ns, int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    int err = admitted_put(s, id);
    struct gateway *g = entity_gateway_by_id(s, id);
    if (g != NULL && g->e.waits)
        services_admit(s, g, "admitted, as it was before the server started");
    return err;
}

int services_document_remove(struct services *s, const char *kind, const char *name,
                             uint64_t now_ns, int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    int err = WEIR_E_NOT_FOUND;
    if (strcmp(kind, "Agreement") == 0)
        err = select_agreement_remove(s, name);
    else if (strcmp(kind, "Tenant") == 0)
        err = select_tenant_remove(s, name);
    else if (strcmp(kind, "Policy") == 0)
        err = select_policy_remove(s, name);
    else if (strcmp(kind, "Gateway") == 0)
        err = gateway_remove(s, name);
    if (err < 0)
        return err;
    throttle_review_all(s);
    s->generation++; /* all shares are looked at anew */
    period_ask(s, PERIOD_PLAN);
    return 0;
}

void services_enforcement(struct services *s, bool on, uint64_t now_ns, int64_t wall_us)
{
    services_at(s, now_ns, wall_us);
    if (s->e.enforcing == on)
        return;
    s->e.enforcing = on;
    if (s->config.process == 0) /* one voice for all processes */
        note_event(
            s, EVENT_WARNING, on ? "enforcement-on" : "enforcement-off", "server",
            on ? "throttles are planned again where promises fail"
               : "all planned throttles are lifted and none is planned; limits of agreements hold");
    if (!on)
        throttle_lift_all(s, "enforcement was switched off", "enforcement-off");
    s->generation++; /* all shares are looked at anew */
    period_ask(s, PERIOD_PLAN);
}

bool services_enforcing(const struct services *s)
{
    return s->e.enforcing;
}

const struct entities *services_entities(const struct services *s)
{
    return &s->e;
}

void services_place_set(struct services *s, const struct list *at)
{
    s->place = at;
}

const struct list *services_place(const struct services *s)
{
    return s->place;
}

void services_stats(const struct services *s, struct services_stats *ret)
{
    *ret = s->stats;
}

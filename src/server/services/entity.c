/* SPDX-License-Identifier: Apache-2.0 */
/* Entity service: gateways, targets and streams in memory.
 *
 * Problem: gateways appear, vanish, start anew, change address and come back, while others read
 * what is known of them. Everything here is found by an identity that survives that: a gateway by
 * its id (16 bytes made at its first start), a stream by gateway and host/volume. The index that a
 * gateway gives a stream is valid for one boot only and never used as an identity.
 *
 * The life of a gateway (only along the arrows; entity_gateway_set_state asserts it):
 *
 *                 session            first whole report
 *   DISCOVERED ------------> PENDING ------------------> ADMITTED <---------+
 *        |                      |                          |   |            | first whole
 *        +----------------------+-------- session gone ----+   |            | report of a
 *                               v      or silent               | retired    | new session
 *                             LOST ----------------------------|------------+
 *                               |   lost for a day, retired    v   by people
 *                               +-------------------------> RETIRED (freed)
 *
 *   LOST --whole report of one that waits for people--> PENDING --admitted by people--> ADMITTED
 *   ADMITTED --does not read--> UNREACHABLE --reads again--> ADMITTED; else as ADMITTED
 *
 * Nothing is sent to one that is unreachable; when it reads again it gets all its controls anew.
 *
 * A gateway that proved its key needs nobody's leave: it is admitted by its first whole report. Not
 * so with manual admission: one that was never admitted `waits`. It stays PENDING after its first
 * whole report, and goes back from LOST to PENDING, until people admit it; an agreement, a tenant's
 * limits or a throttle never touch its streams meanwhile (select.c, bullies.c). Once admitted is
 * admitted for good: kept with its record, until it is retired. One that is recalled from the
 * database enters as LOST.
 *
 * Invariants: (1) each live session belongs to one gateway and each gateway has at most one; (2) a
 * mapped stream is in the table of indices, and no two streams of one gateway have one index; (3)
 * counts in struct entities equal the lengths of their lists. */
#include "server/services/entity.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/services/state.h"

static const char *const state_names[] = {
#define X(name, label) [GATEWAY_##name] = label,
    GATEWAY_STATE_TABLE(X)
#undef X
};

static const char *const verdict_names[] = {
#define X(name, label) [VERDICT_##name] = label,
    VERDICT_TABLE(X)
#undef X
};

const char *gateway_state_name(enum gateway_state s)
{
    weir_assert((size_t)s < sizeof(state_names) / sizeof(state_names[0]));
    return state_names[s];
}

const char *verdict_name(enum verdict v)
{
    weir_assert((size_t)v < sizeof(verdict_names) / sizeof(verdict_names[0]));
    return verdict_names[v];
}

uint64_t entity_stream_inflight(const struct entity_stream *st)
{
    uint64_t n = 0;
    for (int op = 0; op < IO_OP_COUNT; op++) {
        const struct meter_op *m = &st->now.op[op];
        /* Outside counters: never trusted to add up. */
        if (m->arrivals > m->completions && m->arrivals - m->completions > m->dropped)
            n += m->arrivals - m->completions - m->dropped;
    }
    return n;
}

/* --- gateways
 * ----------------------------------------------------------------------------------------- */

static uint64_t id_hash(const uint8_t id[GATEWAY_ID_SIZE])
{
    return hash_bytes(HASH_SEED, id, GATEWAY_ID_SIZE);
}

/* Ids that differ in few bits are spread over all: the last steps of MurmurHash3. */
static uint64_t spread(uint64_t h)
{
    h ^= h >> 33;
    h *= UINT64_C(0xff51afd7ed558ccd);
    h ^= h >> 33;
    h *= UINT64_C(0xc4ceb9fe1a85ec53);
    return h ^ (h >> 33);
}

static uint64_t session_hash(uint64_t session)
{
    return hash_bytes(HASH_SEED, &session, sizeof(session));
}

struct gateway *entity_gateway_by_id(struct services *s, const uint8_t id[GATEWAY_ID_SIZE])
{
    struct list *slot = table_slot(&s->by_id, id_hash(id));
    list_for_each(it, slot) {
        struct gateway *g = container_of(it, struct gateway, in_id);
        if (memcmp(g->e.hello.id, id, GATEWAY_ID_SIZE) == 0)
            return g;
    }
    return NULL;
}

struct gateway *entity_gateway_by_session(struct services *s, uint64_t session)
{
    struct list *slot = table_slot(&s->by_session, session_hash(session));
    list_for_each(it, slot) {
        struct gateway *g = container_of(it, struct gateway, in_session);
        if (g->e.hello.session == session)
            return g;
    }
    return NULL;
}

bool gateway_id_read(const char *hex, uint8_t ret_id[GATEWAY_ID_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    if (strlen(hex) != 2 * GATEWAY_ID_SIZE)
        return false;
    for (size_t i = 0; i < GATEWAY_ID_SIZE; i++) {
        const char *high = strchr(digits, hex[2 * i]), *low = strchr(digits, hex[2 * i + 1]);
        if (high == NULL || low == NULL)
            return false;
        ret_id[i] = (uint8_t)((high - digits) << 4 | (low - digits));
    }
    return true;
}

struct gateway *entity_gateway_new(struct services *s, const struct gateway_hello *h)
{
    weir_assert(entity_gateway_by_id(s, h->id) == NULL);
    if (s->e.gateway_count >= s->config.max_gateways)
        return NULL;
    struct gateway *g = calloc(1, sizeof(*g));
    if (g == NULL)
        return NULL;
    g->e.hello = *h;
    for (size_t i = 0; i < GATEWAY_ID_SIZE; i++)
        words(g->e.id_text + 2 * i, 3, "%02x", h->id[i]);
    g->e.state = GATEWAY_DISCOVERED;
    g->e.waits = s->config.manual_admission;
    g->e.first_seen_us = g->e.last_seen_us = s->wall_us;
    g->e.last_seen_ns = s->now_ns;
    list_init(&g->streams);
    list_init(&g->targets);
    list_init(&g->parts);
    list_init(&g->in_changed);
    list_init(&g->in_session);
    list_push_back(table_slot(&s->by_id, id_hash(h->id)), &g->in_id);
    list_push_back(&s->e.gateways, &g->e.link);
    s->e.gateway_count++;
    g->phase_ns = spread(id_hash(h->id)) % s->config.period_ns;
    return g;
}

static void target_free(struct services *s, struct target *t)
{
    storage_leave(s, t);
    list_remove(&t->link);
    period_leaves(s, &t->e.link);
    list_remove(&t->e.link);
    weir_assert(s->e.target_count > 0);
    s->e.target_count--;
    t->gateway->target_count--;
    free(t);
}

void entity_gateway_free(struct services *s, struct gateway *g)
{
    list_for_each_safe(it, &g->streams)
        entity_stream_free(s, container_of(it, struct stream, in_gateway));
    list_for_each_safe(it, &g->targets)
        target_free(s, container_of(it, struct target, link));
    weir_assert(g->e.stream_count == 0 && g->target_count == 0);
    weir_assert(list_empty(&g->parts));
    period_leaves(s, &g->in_changed);
    list_remove(&g->in_changed);
    heap_remove(s, g);
    list_remove(&g->in_session);
    list_remove(&g->in_id);
    period_leaves(s, &g->e.link);
    list_remove(&g->e.link);
    weir_assert(s->e.gateway_count > 0);
    s->e.gateway_count--;
    settle_heard(s, g);
    settle_forget(g);
    dispatch_forget(g);
    free(g);
}

/* --- from one cache to another
 * -------------------------------------------------------------------------------- */

void entity_gateway_take_out(struct services *s, struct gateway *g)
{
    settle_heard(s, g);
    claim_gateway_changed(s, g); /* its parts go to the others */
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        select_stream_drop(s, st);
        storage_take(st, NULL);
        list_remove(&st->in_index);
        list_remove(&st->in_key);
        period_leaves(s, &st->e.link);
        list_remove(&st->e.link);
        s->e.stream_count--;
    }
    list_for_each(it, &g->targets) {
        struct target *t = container_of(it, struct target, link);
        storage_leave(s, t);
        period_leaves(s, &t->e.link);
        list_remove(&t->e.link);
        s->e.target_count--;
    }
    weir_assert(list_empty(&g->parts));
    heap_remove(s, g);
    period_leaves(s, &g->in_changed);
    list_remove(&g->in_changed);
    list_remove(&g->in_session);
    list_remove(&g->in_id);
    period_leaves(s, &g->e.link);
    list_remove(&g->e.link);
    s->e.gateway_count--;
    s->touched++;
}

static uint64_t index_hash(const struct gateway *g, uint32_t index);
static uint64_t key_hash(const struct gateway *g, const char *key);

void entity_gateway_put_in(struct services *s, struct gateway *g)
{
    weir_assert(entity_gateway_by_id(s, g->e.hello.id) == NULL);
    weir_assert(s->e.gateway_count < s->config.max_gateways);
    list_push_back(table_slot(&s->by_id, id_hash(g->e.hello.id)), &g->in_id);
    list_push_back(&s->e.gateways, &g->e.link);
    s->e.gateway_count++;
    if (!g->whole_known)
        settle_recalled(s, g);
    if (g->e.live)
        list_push_back(table_slot(&s->by_session, session_hash(g->e.hello.session)),
                       &g->in_session);
    list_for_each(it, &g->targets) {
        struct target *t = container_of(it, struct target, link);
        bool joined = storage_join(s, t);
        weir_assert(joined); /* some hundred bytes: as good as at the start */
        list_push_back(&s->e.targets, &t->e.link);
        s->e.target_count++;
    }
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        storage_take(st, st->target);
        list_push_back(table_slot(&s->by_key, key_hash(g, st->e.key)), &st->in_key);
        if (st->mapped)
            list_push_back(table_slot(&s->by_index, index_hash(g, st->e.index)), &st->in_index);
        list_push_back(&s->e.streams, &st->e.link);
        s->e.stream_count++; /* the sum over all processes stays within the sum of their bounds */
    }
    gateway_touch(s, g);
}

void entity_gateway_subject(const struct gateway *g, char *out, size_t size)
{
    words(out, size, "gateway/%s", g->e.hello.name);
}

static bool state_may_follow(enum gateway_state from, enum gateway_state to)
{
    switch (from) {
    case GATEWAY_DISCOVERED:
        return to == GATEWAY_PENDING || to == GATEWAY_LOST || to == GATEWAY_RETIRED;
    case GATEWAY_PENDING:
        return to == GATEWAY_ADMITTED || to == GATEWAY_LOST || to == GATEWAY_RETIRED;
    case GATEWAY_ADMITTED:
        return to == GATEWAY_UNREACHABLE || to == GATEWAY_LOST || to == GATEWAY_RETIRED;
    case GATEWAY_UNREACHABLE:
        return to == GATEWAY_ADMITTED || to == GATEWAY_LOST || to == GATEWAY_RETIRED;
    case GATEWAY_LOST:
        return to == GATEWAY_ADMITTED || to == GATEWAY_PENDING || to == GATEWAY_RETIRED;
    case GATEWAY_RETIRED:
        return false;
    }
    return false;
}

void entity_gateway_set_state(struct services *s, struct gateway *g, enum gateway_state to,
                              const char *why)
{
    enum gateway_state from = g->e.state;
    weir_assert(state_may_follow(from, to));
    g->e.state = to;
    char subject[SUBJECT_SIZE];
    entity_gateway_subject(g, subject, sizeof(subject));
    const char *name = g->e.hello.name, *address = g->e.hello.address;
    switch (to) {
    case GATEWAY_DISCOVERED:
        break;
    case GATEWAY_PENDING:
        note_event(s, EVENT_INFO, from == GATEWAY_LOST ? "gateway-returned" : "gateway-discovered",
                   subject, "gateway %s (%s, %s) appeared: %s", name, address,
                   g->e.hello.software, why);
        break;
    case GATEWAY_ADMITTED:
        note_event(s, EVENT_INFO,
                   from == GATEWAY_LOST          ? "gateway-returned"
                   : from == GATEWAY_UNREACHABLE ? "gateway-reachable"
                                                 : "gateway-admitted",
                   subject, "gateway %s (%s) is controlled: %s", name, address, why);
        break;
    case GATEWAY_UNREACHABLE:
        note_event(s, EVENT_WARNING, "gateway-unreachable", subject,
                   "gateway %s (%s) does not take what is sent to it: %s", name, address, why);
        break;
    case GATEWAY_LOST:
        note_event(s, EVENT_WARNING, "gateway-lost", subject, "gateway %s (%s) is lost: %s", name,
                   address, why);
        break;
    case GATEWAY_RETIRED:
        note_event(s, EVENT_INFO, "gateway-retired", subject, "gateway %s is forgotten: %s", name,
                   why);
        break;
    }
    claim_gateway_changed(s, g);
    gateway_touch(s, g);
    s->sink.gateway(s->sink.ctx, &g->e);
}

void entity_gateway_attach(struct services *s, struct gateway *g, const struct gateway_hello *h)
{
    weir_assert(!g->e.live);
    bool rebooted = memcmp(g->e.hello.boot, h->boot, GATEWAY_ID_SIZE) != 0;
    g->e.hello = *h;
    g->e.live = true;
    g->e.last_seen_us = s->wall_us;
    g->e.last_seen_ns = s->now_ns;
    list_remove(&g->in_session);
    list_push_back(table_slot(&s->by_session, session_hash(h->session)), &g->in_session);
    g->outstanding = g->surge_owed = false;
    g->unanswered = 0;
    g->gather_seq = 0;
    g->ask_all = true;
    g->send_full = true;
    settle_forget(g);
    g->retry_ns = 0;
    g->e.acked_seq = 0;
    if (!rebooted && g->whole_known)
        return;
    g->baseline = true;
    g->whole_known = false;
    g->refused_streams = false;
    g->e.epoch_applied = 0;
    list_for_each(it, &g->targets) { /* this boot may have other storage */
        struct target *t = container_of(it, struct target, link);
        t->e.uri[0] = '\0';
        t->planned_ns = 0;
    }
    g->targets_changed = true;
    list_for_each(it, &g->streams) {
        struct stream *st = container_of(it, struct stream, in_gateway);
        st->mapped = false;
        list_remove(&st->in_index);
        merge_forget(st);
    }
}

void entity_gateway_detach(struct services *s, struct gateway *g)
{
    weir_assert(g->e.live);
    g->e.live = false;
    g->lost_ns = s->now_ns;
    g->stale_counted = false;
    g->gather_seq = 0;
    list_remove(&g->in_session);
    dispatch_forget(g);
}

bool entity_gateway_holds(const struct gateway *g)
{
    return g->e.state == GATEWAY_ADMITTED || g->e.state == GATEWAY_UNREACHABLE ||
           (g->e.state == GATEWAY_LOST && !g->stale_counted);
}

/* --- targets
 * ------------------------------------------------------------------------------------------ */

struct target *entity_target_get(struct services *s, struct gateway *g, const char *name)
{
    list_for_each(it, &g->targets) {
        struct target *t = container_of(it, struct target, link);
        if (strcmp(t->e.name, name) == 0)
            return t;
    }
    if (g->target_count >= TARGETS_PER_GATEWAY)
        return NULL;
    struct target *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return NULL;
    words(t->e.name, sizeof(t->e.name), "%s", name);
    t->e.gateway = &g->e;
    t->gateway = g;
    list_init(&t->in_storage);
    if (!storage_join(s, t)) {
        free(t);
        return NULL;
    }
    list_push_back(&g->targets, &t->link);
    list_push_back(&s->e.targets, &t->e.link);
    g->target_count++;
    s->e.target_count++;
    return t;
}

size_t services_gateway_targets(const struct entity_gateway *e, const struct entity_target **ret,
                                size_t most)
{
    const struct gateway *g = container_of(e, struct gateway, e);
    size_t n = 0;
    for (const struct list *it = g->targets.next; it != &g->targets && n < most; it = it->next) {
        const struct target *t = container_of(it, const struct target, link);
        if (t->e.uri[0] != '\0')
            ret[n++] = &t->e;
    }
    return n;
}

/* --- streams
 * ------------------------------------------------------------------------------------------ */

static uint64_t index_hash(const struct gateway *g, uint32_t index)
{
    return hash_bytes(id_hash(g->e.hello.id), &index, sizeof(index));
}

static uint64_t key_hash(const struct gateway *g, const char *key)
{
    return hash_bytes(id_hash(g->e.hello.id), key, strlen(key));
}

struct stream *entity_stream_find(struct services *s, const struct gateway *g, uint32_t index)
{
    list_for_each(it, table_slot(&s->by_index, index_hash(g, index))) {
        struct stream *st = container_of(it, struct stream, in_index);
        if (st->gateway == g && st->e.index == index)
            return st;
    }
    return NULL;
}

static struct stream *stream_by_key(struct services *s, const struct gateway *g, const char *key)
{
    list_for_each(it, table_slot(&s->by_key, key_hash(g, key))) {
        struct stream *st = container_of(it, struct stream, in_key);
        if (st->gateway == g && strcmp(st->e.key, key) == 0)
            return st;
    }
    return NULL;
}

void entity_name_take(char out[NAME_SIZE], const char *in, bool may_be_empty)
{
    size_t n = strnlen(in, NAME_SIZE);
    bool plain = n < NAME_SIZE;
    for (size_t i = 0; i < n && plain; i++)
        plain = in[i] > ' ' && in[i] < 0x7f && strchr("/\"\\<>&", in[i]) == NULL;
    if (plain && (n > 0 || may_be_empty)) {
        memcpy(out, in, n);
        memset(out + n, 0, NAME_SIZE - n);
    } else {
        name_escape(in, n, out);
    }
}

static struct stream *stream_new(struct services *s, struct gateway *g, const char *key)
{
    if (s->e.stream_count >= s->config.max_streams) {
        s->stats.streams_refused++;
        g->refused_streams = true;
        if (!s->streams_full_said)
            note_event(s, EVENT_ERROR, "streams-full", "server",
                       "no room for stream %s: %zu streams are the bound of one process; it is "
                       "neither shown nor controlled",
                       key, (size_t)s->config.max_streams);
        s->streams_full_said = true;
        return NULL;
    }
    struct stream *st = calloc(1, sizeof(*st));
    if (st == NULL) {
        s->stats.streams_refused++;
        g->refused_streams = true;
        return NULL;
    }
    st->gateway = g;
    st->e.gateway = &g->e;
    st->tenant = -1;
    st->baseline = g->refused_streams;
    st->e.throttle.iops = st->e.throttle.bytes_s = UINT64_MAX;
    st->e.throttle.applied_iops = st->e.throttle.applied_bytes_s = UINT64_MAX;
    words(st->e.key, sizeof(st->e.key), "%s", key);
    list_init(&st->in_index);
    list_init(&st->in_storage);
    list_init(&st->in_agreed);
    analyzer_unit_clear(&st->unit);
    list_push_back(table_slot(&s->by_key, key_hash(g, key)), &st->in_key);
    list_push_back(&g->streams, &st->in_gateway);
    list_push_back(&s->e.streams, &st->e.link);
    g->e.stream_count++;
    s->e.stream_count++;
    return st;
}

static void stream_set_target(struct services *s, struct stream *st, const char *name)
{
    struct target *t = entity_target_get(s, st->gateway, name);
    words(st->e.target_name, sizeof(st->e.target_name), "%s", name);
    if (t == st->target)
        return;
    st->target = t;
    st->e.target = t != NULL ? &t->e : NULL;
    storage_take(st, t);
}

static void stream_map_index(struct services *s, struct stream *st, uint32_t index)
{
    if (st->mapped && st->e.index == index)
        return;
    struct stream *other = entity_stream_find(s, st->gateway, index);
    if (other != NULL) { /* the gateway gave its index to another */
        list_remove(&other->in_index);
        other->mapped = false;
        merge_forget(other);
    }
    if (st->mapped)
        merge_forget(st);
    list_remove(&st->in_index);
    st->e.index = index;
    st->mapped = true;
    list_push_back(table_slot(&s->by_index, index_hash(st->gateway, index)), &st->in_index);
}

struct stream *entity_stream_map(struct services *s, struct gateway *g,
                                 const struct report_stream *r)
{
    char host[NAME_SIZE], volume[NAME_SIZE], tenant[NAME_SIZE], target[NAME_SIZE];
    char key[STREAM_KEY_SIZE];
    entity_name_take(host, r->host, false);
    entity_name_take(volume, r->volume, false);
    entity_name_take(tenant, r->tenant, true);
    entity_name_take(target, r->target, false);
    name_stream_key(host, volume, key);
    struct stream *st = stream_by_key(s, g, key);
    bool fresh = st == NULL;
    if (fresh) {
        st = stream_new(s, g, key);
        if (st == NULL)
            return NULL;
        memcpy(st->e.host, host, NAME_SIZE);
        memcpy(st->e.volume, volume, NAME_SIZE);
    }
    stream_map_index(s, st, r->index);
    bool resized = st->e.size != r->size;
    st->e.size = r->size;
    bool moved = fresh || strcmp(st->e.target_name, target) != 0 ||
                 strcmp(st->tenant_reported, tenant) != 0;
    if (!moved && resized)
        claim_link(s, st); /* limits may grow with it: they are divided anew */
    if (!moved)
        return st;
    memcpy(st->tenant_reported, tenant, NAME_SIZE);
    stream_set_target(s, st, target);
    select_stream(s, st);
    return st;
}

void entity_stream_free(struct services *s, struct stream *st)
{
    if (st->brake.rate > 0)
        throttle_lift(s, st, "the stream is gone", "sent");
    select_stream_drop(s, st);
    list_remove(&st->in_index);
    list_remove(&st->in_key);
    storage_take(st, NULL);
    list_remove(&st->in_gateway);
    period_leaves(s, &st->e.link);
    list_remove(&st->e.link);
    weir_assert(st->gateway->e.stream_count > 0 && s->e.stream_count > 0);
    st->gateway->e.stream_count--;
    s->e.stream_count--;
    gateway_touch(s, st->gateway);
    merge_fini(st);
    free(st);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The stream table.
 *
 * Problem: know each stream again when its host reconnects, with its counters, its limits and its
 * debts, in memory that is bounded at start, whoever connects; and have each stream covered by
 * exactly the limits and controls that name it, also by controls that came before the stream did.
 *
 * Model: max_streams slots, found by a chained hash of "host/volume" (and the target, since two
 * targets may have an export of one name), plus one slot a target for its default stream. A slot
 * without connections waits in `idle`, longest idle first, until its host returns or a newcomer
 * needs it. Rules live in the rule book (rule.c); stream_cover.c decides whom they cover.
 *
 *        newcomer                    last connection gone
 *   FREE ---------> LIVE, connected ----------------------> LIVE, idle ---> reused, under a
 *                        ^                                     |            new index
 *                        +------------- host returns ----------+
 *
 * Invariants:
 *   1. A live slot, the default ones aside, is in the hash exactly once, and in `idle` exactly when
 *      it has no connection.
 *   2. flow.cover holds the file limits that match, in the order of the file, then the controls
 *      that name the key, each once: at most STREAM_FILE_LIMITS_MAX + STREAM_CONTROLS_MAX ==
 *      GATE_MAX_COVER.
 *   3. A stream has one rule_own for each limit per stream that covers it, as long as it lives in
 *      the slot.
 *   4. No two streams of one boot have the same index.
 *
 * Meters, credit and who each slot belongs to lie in the ledger, where the next worker finds them
 * if this one dies; what is here is made anew from it (table_restore).
 *
 * Memory at start: (max_streams + targets) x about 1 KiB + the ledger + the gate's heap + the rule
 * book's pools. Controls take memory when they are applied, never an I/O. */
#include "gateway/stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "gateway/ledger.h"
#include "gateway/rule.h"
#include "gateway/stream_private.h"

static struct slot *slot_of(struct stream *s)
{
    return container_of(s, struct slot, stream);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void table_restore(struct stream_table *t, uint64_t now_ns);

struct stream_table *stream_table_attach(const struct gateway_config *config,
                                         struct ledger *ledger, uint64_t now_ns)
{
    weir_assert(config->target_count <= CONFIG_MAX_TARGETS);
    struct stream_table *t = calloc(1, sizeof *t);
    if (t == NULL)
        return NULL;
    size_t max = config->max_streams, spare = config->target_count;
    weir_assert(ledger_slots(ledger) == max + spare);
    t->config = config;
    t->ledger = ledger;
    t->max_streams = max;
    t->slot_count = max + spare;
    list_init(&t->idle);
    list_init(&t->vacant);
    size_t buckets = 64;
    while (buckets < 2 * t->slot_count)
        buckets *= 2;
    t->hash_mask = buckets - 1;
    t->hash = calloc(buckets, sizeof(struct slot *));
    t->slots = calloc(t->slot_count + 1, sizeof t->slots[0]);
    t->gate = gate_new(rule_book_rules_max(max, spare), config->max_hold_ns);
    int err = 0;
    for (size_t i = 0; err == 0 && i < config->target_count; i++)
        err = target_init(&t->port[i], t->slot_count, config->max_hold_ns);
    if (err != 0 || t->hash == NULL || t->slots == NULL || t->gate == NULL ||
        !rule_book_init(&t->book, t->gate, ledger, max, spare) ||
        stream_limits_reload(t, config->limits, config->limit_count, now_ns) != 0) {
        stream_table_free(t);
        return NULL;
    }
    bool entered = table_enter(t);
    table_restore(t, now_ns);
    table_leave(t, entered);
    return t;
}

struct stream_table *stream_table_new(const struct gateway_config *config, uint64_t now_ns)
{
    struct ledger *ledger;
    if (ledger_new(config, &ledger) < 0)
        return NULL;
    struct stream_table *t = stream_table_attach(config, ledger, now_ns);
    if (t == NULL)
        ledger_free(ledger);
    else
        t->ledger_is_own = true;
    return t;
}

struct ledger *stream_ledger(struct stream_table *t)
{
    return t->ledger;
}

void stream_table_free(struct stream_table *t)
{
    if (t == NULL)
        return;
    bool entered = table_enter(t);
    for (size_t i = 0; t->slots != NULL && i < t->slot_count; i++) {
        if (!t->slots[i].stream.live)
            continue;
        weir_assert(gate_flow_idle(&t->slots[i].stream.flow));
        slot_uncover(t, &t->slots[i], 0);
    }
    rule_book_fini(&t->book);
    table_leave(t, entered);
    for (size_t i = 0; i < CONFIG_MAX_TARGETS; i++)
        target_fini(&t->port[i]);
    gate_free(t->gate);
    free(t->slots);
    free(t->hash);
    if (t->ledger_is_own)
        ledger_free(t->ledger);
    free(t);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static void slot_hash_in(struct stream_table *t, struct slot *s)
{
    struct slot **bucket = &t->hash[s->key_hash & t->hash_mask];
    s->hash_next = *bucket;
    *bucket = s;
}

static void slot_hash_out(struct stream_table *t, struct slot *s)
{
    struct slot **at = &t->hash[s->key_hash & t->hash_mask];
    while (*at != s)
        at = &(*at)->hash_next;
    *at = s->hash_next;
}

static struct slot *slot_find(struct stream_table *t, const char *key,
                              const struct target_config *target)
{
    uint64_t hash = rule_hash(key);
    struct slot *s = t->hash[hash & t->hash_mask];
    for (; s != NULL; s = s->hash_next)
        if (s->key_hash == hash && (target == NULL || s->stream.target == target) &&
            strcmp(s->stream.key, key) == 0)
            return s;
    return NULL;
}

static size_t slot_index(const struct stream_table *t, const struct slot *s)
{
    return (size_t)(s - t->slots);
}

/* A slot for a newcomer: a fresh one, else the longest idle that holds nothing; NULL: all are
 * busy. */
static struct slot *slot_take(struct stream_table *t, uint64_t now_ns)
{
    struct list *vacant = list_pop_front(&t->vacant);
    if (vacant != NULL)
        return container_of(vacant, struct slot, idle_link);
    if (t->used < t->max_streams)
        return &t->slots[t->used++];
    list_for_each (l, &t->idle) {
        struct slot *s = container_of(l, struct slot, idle_link);
        weir_assert(s->stream.connections == 0);
        if (!gate_flow_idle(&s->stream.flow) ||
            s->stream.turn.queued + s->stream.turn.inflight > 0 ||
            ledger_connections_other(t->ledger, slot_index(t, s)) > 0)
            continue;
        list_remove(&s->idle_link);
        slot_hash_out(t, s);
        slot_uncover(t, s, now_ns);
        ledger_stream_end(t->ledger, slot_index(t, s));
        return s;
    }
    return NULL;
}

static void name_copy(char dst[NAME_SIZE], const char *src)
{
    size_t n = strnlen(src, NAME_SIZE);
    weir_assert(n < NAME_SIZE);
    memcpy(dst, src, n + 1);
}

/* Make @s, empty, what the ledger says of it. */
static void slot_fill(struct stream_table *t, struct slot *s, const struct target_config *target,
                      uint64_t now_ns)
{
    const struct ledger_stream *from = ledger_stream(t->ledger, slot_index(t, s));
    memset(s, 0, sizeof *s);
    list_init(&s->idle_link);
    struct stream *st = &s->stream;
    st->index = from->index;
    st->live = true;
    st->target = target;
    st->size = from->size;
    st->created_ns = from->created_ns;
    st->last_io_ns = now_ns;
    st->meter = ledger_meter(t->ledger, slot_index(t, s));
    name_copy(st->host, from->host);
    name_copy(st->volume, from->volume);
    name_copy(st->tenant, ledger_stream_tenant(from));
    name_stream_key(st->host, st->volume, st->key);
    s->key_hash = rule_hash(st->key);
    s->is_default = slot_index(t, s) >= t->max_streams;
    slot_hash_in(t, s);
    gate_flow_init(t->gate, &st->flow);
    st->flow.owner = st;
    st->port = &t->port[target->index];
    sched_flow_init(st->port->sched, &st->turn, now_ns);
    slot_cover(t, s, now_ns);
}

static void slot_begin(struct stream_table *t, struct slot *s, const struct target_config *target,
                       const char *host, const char *volume, const char *tenant, uint64_t now_ns)
{
    ledger_stream_begin(t->ledger, slot_index(t, s), host, volume, target->name, tenant, now_ns);
    slot_fill(t, s, target, now_ns);
}

static const struct target_config *table_target(const struct stream_table *t, const char *name)
{
    int i = gateway_config_target(t->config, name);
    return i < 0 ? NULL : &t->config->targets[i];
}

/* The streams of the workers before this one, each in its slot. */
static void table_restore(struct stream_table *t, uint64_t now_ns)
{
    for (size_t i = 0; i < t->max_streams; i++)
        if (ledger_stream(t->ledger, i)->ever_used)
            t->used = i + 1;
    for (size_t i = 0; i < t->slot_count; i++) {
        struct slot *s = &t->slots[i];
        const struct ledger_stream *from = ledger_stream(t->ledger, i);
        const struct target_config *target = from->live ? table_target(t, from->target) : NULL;
        list_init(&s->idle_link);
        if (from->live && target == NULL)
            ledger_stream_end(t->ledger, i);
        if (target != NULL)
            slot_fill(t, s, target, now_ns);
        if (i < t->used)
            list_push_back(target != NULL ? &t->idle : &t->vacant, &s->idle_link);
    }
}

/* The stream that newcomers share when every slot is busy. */
static struct slot *slot_default(struct stream_table *t, const struct target_config *target,
                                 uint64_t now_ns)
{
    weir_assert(target->index < t->config->target_count);
    struct slot *s = &t->slots[t->max_streams + target->index];
    if (s->stream.live)
        return s;
    slot_begin(t, s, target, "*", "*", target->tenant, now_ns);
    return s;
}

static struct stream *table_connect(struct stream_table *t, const struct target_config *target,
                                    const char *host, const char *volume, const char *tenant,
                                    uint64_t size, uint64_t now_ns)
{
    char key[STREAM_KEY_SIZE];
    name_stream_key(host, volume, key);
    struct slot *s = slot_find(t, key, target);
    if (s == NULL) {
        s = slot_take(t, now_ns);
        if (s != NULL)
            slot_begin(t, s, target, host, volume, tenant, now_ns);
        else
            s = slot_default(t, target, now_ns);
    }
    struct stream *st = &s->stream;
    struct ledger_stream *ls = ledger_stream(t->ledger, slot_index(t, s));
    list_remove(&s->idle_link);
    st->connections++;
    ls->connections[ledger_bank(t->ledger)] = st->connections;
    if (s->is_default)
        return st;
    st->size = ls->size = size;
    if (strcmp(st->tenant, tenant) != 0) {
        name_copy(st->tenant, tenant);
        ledger_stream_set_tenant(t->ledger, slot_index(t, s), tenant);
        slot_cover(t, s, now_ns);
    }
    return st;
}

struct stream *stream_connect(struct stream_table *t, const struct target_config *target,
                              const char *host, const char *volume, const char *tenant,
                              uint64_t size, uint64_t now_ns)
{
    bool entered = table_enter(t);
    struct stream *s = table_connect(t, target, host, volume, tenant, size, now_ns);
    table_leave(t, entered);
    return s;
}

void stream_disconnect(struct stream_table *t, struct stream *s, uint64_t now_ns)
{
    (void)now_ns;
    weir_assert(s->live);
    weir_assert(s->connections > 0);
    s->connections--;
    ledger_stream(t->ledger, slot_index(t, slot_of(s)))->connections[ledger_bank(t->ledger)] =
        s->connections;
    if (s->connections == 0 && !slot_of(s)->is_default)
        list_push_back(&t->idle, &slot_of(s)->idle_link);
}

size_t stream_slots(const struct stream_table *t)
{
    return t->slot_count;
}

struct stream *stream_at(struct stream_table *t, size_t slot)
{
    weir_assert(slot < t->slot_count);
    return t->slots[slot].stream.live ? &t->slots[slot].stream : NULL;
}

struct stream *stream_find(struct stream_table *t, const char *key)
{
    struct slot *s = slot_find(t, key, NULL);
    return s != NULL ? &s->stream : NULL;
}

const struct meter *stream_meter_total(struct stream_table *t, const struct stream *s,
                                       struct meter *scratch)
{
    const struct meter *other =
        ledger_meter_other(t->ledger, slot_index(t, slot_of((struct stream *)(uintptr_t)s)));
    if (other == NULL)
        return s->meter;
    memcpy(scratch, s->meter, sizeof *scratch);
    meter_merge(scratch, other);
    return scratch;
}

void stream_ops_total(struct stream_table *t, const struct stream *s,
                      struct meter_op ret[IO_OP_COUNT])
{
    const struct meter *other =
        ledger_meter_other(t->ledger, slot_index(t, slot_of((struct stream *)(uintptr_t)s)));
    memcpy(ret, s->meter->op, sizeof s->meter->op);
    if (other != NULL)
        meter_merge_ops(ret, other);
}

uint32_t stream_connections_total(struct stream_table *t, const struct stream *s)
{
    size_t at = slot_index(t, slot_of((struct stream *)(uintptr_t)s));
    return s->connections + ledger_connections_other(t->ledger, at);
}

struct gate *stream_gate(struct stream_table *t)
{
    return t->gate;
}

struct target_stats *stream_target_stats(struct stream_table *t, uint32_t target_index)
{
    weir_assert(target_index < t->config->target_count);
    return ledger_target(t->ledger, target_index);
}

struct target *stream_port(struct stream_table *t, uint32_t target_index)
{
    weir_assert(target_index < t->config->target_count);
    return &t->port[target_index];
}

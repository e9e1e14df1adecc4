/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: each stream is covered by exactly the limits and controls that name it, also by controls
 * that came before the stream did; and what is in force changes as a whole, between two I/Os.
 *
 * Model: the rule book (rule.c) stages a change. Here it is committed, and every stream's cover is
 * put together anew in its slot (`next`) and given to the gate in one step; only then does the book
 * let go of rules that nobody is covered by any more. A change of controls alone keeps the file's
 * part of each cover as it stands and finds the streams by their keys: one look-up a member, not
 * one a stream and control.
 *
 * Invariants: 2 and 3 of stream.c; and no rule is freed while a cover holds it.
 *
 * What may fail: staging, for want of room (the book says so and nothing has changed). A commit
 * cannot. */
#include <assert.h>
#include <string.h>

#include "base/assert.h"
#include "gateway/share.h"
#include "gateway/stream_private.h"

static_assert(STREAM_FILE_LIMITS_MAX + STREAM_CONTROLS_MAX == GATE_MAX_COVER, "invariant 2");

const char *rule_origin_name(enum rule_origin o)
{
    switch (o) {
    case RULE_FILE:
        return "file";
    case RULE_AGREED:
        return "agreement";
    case RULE_PLANNED:
        return "planned";
    }
    weir_assert(!"an origin out of its enum");
    return "";
}

/* ---- one stream ------------------------------------------------------------------------------ */

static struct rule_own *slot_own_of(const struct slot *s, const struct rule_group *g)
{
    for (uint32_t i = 0; i < s->own_count; i++)
        if (s->own[i]->group == g)
            return s->own[i];
    return NULL;
}

/* The file limits that match, as the beginning of the cover. Keeps the rules of limits per stream
 * that still match, makes those that are new; those that match no longer are left in @ret_left for
 * after the cover. */
static void slot_cover_file(struct stream_table *t, struct slot *s, struct rule_own **ret_left,
                            uint32_t *ret_left_count, uint64_t now_ns)
{
    struct rule_own *own[STREAM_FILE_LIMITS_MAX];
    uint32_t own_count = 0;
    s->next_count = 0;
    s->next_share = NULL;
    s->stream.limits_left_out = 0;
    list_for_each (l, &t->book.groups) {
        struct rule_group *g = container_of(l, struct rule_group, link);
        if (g->limit == NULL)
            break;
        if (g->change == RULE_DEAD || !rule_group_matches(g, &s->stream))
            continue;
        if (s->next_count == STREAM_FILE_LIMITS_MAX) {
            s->stream.limits_left_out++;
            continue;
        }
        if (!g->limit->per_stream) {
            s->next[s->next_count++] = &g->rule;
            continue;
        }
        struct rule_own *o = slot_own_of(s, g);
        if (o == NULL)
            o = rule_own_new(&t->book, g, s->stream.index, now_ns);
        weir_assert(o != NULL); /* the pool holds old and new ones of every slot */
        own[own_count++] = o;
        s->next[s->next_count++] = &o->rule;
    }
    *ret_left_count = 0;
    for (uint32_t i = 0; i < s->own_count; i++) {
        bool kept = false;
        for (uint32_t j = 0; j < own_count; j++)
            kept = kept || own[j] == s->own[i];
        if (!kept)
            ret_left[(*ret_left_count)++] = s->own[i];
    }
    memcpy(s->own, own, own_count * sizeof own[0]);
    s->own_count = own_count;
}

/* What a control says of a stream that it names. */
static void slot_cover_add(struct slot *s, struct rule_group *g)
{
    struct gate_rule *r = &g->rule;
    if (share_rather(g, s->next_share))
        s->next_share = g;
    if (r->in_force == 0)
        return;
    for (uint32_t i = 0; i < s->next_count; i++)
        if (s->next[i] == r)
            return;
    weir_assert(s->next_count < GATE_MAX_COVER);
    s->next[s->next_count++] = r;
}

static void slot_cover_commit(struct stream_table *t, struct slot *s, uint64_t now_ns)
{
    struct gate_flow *f = &s->stream.flow;
    share_move(&s->share, s->next_share, s->stream.port, &s->stream.turn, now_ns);
    if (f->cover_count == s->next_count &&
        memcmp(f->cover, s->next, s->next_count * sizeof s->next[0]) == 0)
        return;
    int r = gate_flow_cover(t->gate, f, s->next, s->next_count, now_ns);
    weir_assert(r == 0);
}

static bool group_names(const struct rule_group *g, uint64_t hash, const char *key)
{
    for (size_t i = 0; i < g->control.member_count; i++)
        if (g->member_hash[i] == hash && strcmp(g->members[i], key) == 0)
            return true;
    return false;
}

void slot_cover(struct stream_table *t, struct slot *s, uint64_t now_ns)
{
    struct rule_own *left[STREAM_FILE_LIMITS_MAX];
    uint32_t left_count;
    slot_cover_file(t, s, left, &left_count, now_ns);
    list_for_each (l, &t->book.groups) {
        struct rule_group *g = container_of(l, struct rule_group, link);
        if (g->limit == NULL && group_names(g, s->key_hash, s->stream.key))
            slot_cover_add(s, g);
    }
    slot_cover_commit(t, s, now_ns);
    for (uint32_t i = 0; i < left_count; i++)
        rule_own_free(&t->book, left[i]);
}

void slot_uncover(struct stream_table *t, struct slot *s, uint64_t now_ns)
{
    s->next_count = 0;
    s->next_share = NULL;
    slot_cover_commit(t, s, now_ns);
    for (uint32_t i = 0; i < s->own_count; i++)
        rule_own_free(&t->book, s->own[i]);
    s->own_count = 0;
    sched_flow_fini(&s->stream.turn);
}

/* ---- all streams ----------------------------------------------------------------------------- */

/* Add the controls to every cover that is being put together: one look-up for each member. */
static void table_cover_controls(struct stream_table *t)
{
    list_for_each (l, &t->book.groups) {
        struct rule_group *g = container_of(l, struct rule_group, link);
        if (g->limit != NULL || g->change == RULE_DEAD)
            continue;
        for (size_t i = 0; i < g->control.member_count; i++) {
            struct slot *s = t->hash[g->member_hash[i] & t->hash_mask];
            for (; s != NULL; s = s->hash_next)
                if (s->key_hash == g->member_hash[i] && strcmp(s->stream.key, g->members[i]) == 0)
                    slot_cover_add(s, g);
        }
    }
}

/* The file's part of a cover as it stands: everything before the first rule of a control. */
static void slot_cover_keep_file(struct slot *s)
{
    const struct gate_flow *f = &s->stream.flow;
    s->next_count = 0;
    s->next_share = NULL;
    for (uint32_t i = 0; i < f->cover_count; i++) {
        const struct rule_group *g = f->cover[i]->owner;
        if (g->limit != NULL)
            s->next[s->next_count++] = f->cover[i];
    }
}

/* After a commit of the book: cover every stream anew, then let the dead go. */
static void table_cover_all(struct stream_table *t, bool limits_changed, uint64_t now_ns)
{
    for (size_t i = 0; i < t->slot_count; i++) {
        if (!t->slots[i].stream.live)
            continue;
        if (limits_changed)
            slot_cover(t, &t->slots[i], now_ns);
        else
            slot_cover_keep_file(&t->slots[i]);
    }
    if (!limits_changed) {
        table_cover_controls(t);
        for (size_t i = 0; i < t->slot_count; i++)
            if (t->slots[i].stream.live)
                slot_cover_commit(t, &t->slots[i], now_ns);
    }
    rule_book_sweep(&t->book);
}

/* The plan of each target that has one; the others have none, or it @expired. */
static void table_plan(struct stream_table *t, bool expired, uint64_t now_ns)
{
    for (size_t i = 0; i < t->config->target_count; i++) {
        const struct window_plan *plan = NULL;
        list_for_each (l, &t->book.groups) {
            const struct rule_group *g = container_of(l, struct rule_group, link);
            if (strcmp(g->control.target, t->config->targets[i].name) == 0)
                plan = &g->control.plan;
        }
        if (plan == NULL && expired)
            target_plan_expire(&t->port[i], now_ns);
        else
            target_plan(&t->port[i], plan, now_ns);
    }
}

/* ---- changes --------------------------------------------------------------------------------- */

/* What was staged comes into force. */
static void table_commit(struct stream_table *t, bool limits_changed, uint64_t now_ns)
{
    bool entered = table_enter(t);
    rule_book_commit(&t->book, now_ns);
    table_cover_all(t, limits_changed, now_ns);
    table_leave(t, entered);
}

int stream_controls_apply(struct stream_table *t, const struct control *controls, size_t count,
                          bool full, uint64_t now_ns)
{
    int r = rule_book_stage_controls(&t->book, controls, count, full);
    if (r != 0)
        return r;
    table_commit(t, false, now_ns);
    table_plan(t, false, now_ns);
    return 0;
}

size_t stream_controls_expire(struct stream_table *t, uint64_t now_ns)
{
    size_t count = rule_book_stage_expiry(&t->book);
    if (count == 0)
        return 0;
    table_commit(t, false, now_ns);
    table_plan(t, true, now_ns);
    return count;
}

void stream_undivided_keep(struct stream_table *t)
{
    for (size_t i = 0; i < t->config->target_count; i++)
        ledger_undivided_set(t->ledger, i, t->port[i].undivided_until_ns);
}

void stream_undivided_resume(struct stream_table *t, uint64_t now_ns)
{
    for (size_t i = 0; i < t->config->target_count; i++)
        target_undivided(&t->port[i], ledger_undivided(t->ledger, i), now_ns);
}

int stream_limits_stage(struct stream_table *t, const struct limit_config *limits, size_t count)
{
    return rule_book_stage_limits(&t->book, limits, count);
}

void stream_limits_commit(struct stream_table *t, uint64_t now_ns)
{
    table_commit(t, true, now_ns);
}

void stream_limits_unstage(struct stream_table *t)
{
    rule_book_unstage(&t->book);
}

int stream_limits_reload(struct stream_table *t, const struct limit_config *limits, size_t count,
                         uint64_t now_ns)
{
    int r = stream_limits_stage(t, limits, count);
    if (r == 0)
        stream_limits_commit(t, now_ns);
    return r;
}

/* ---- what is shown --------------------------------------------------------------------------- */

void stream_refresh(struct stream_table *t, uint64_t now_ns)
{
    bool entered = table_enter(t);
    list_for_each (l, &t->book.groups) {
        struct rule_group *g = container_of(l, struct rule_group, link);
        gate_rule_refill(&g->rule, now_ns);
        list_for_each (o, &g->owns)
            gate_rule_refill(&container_of(o, struct rule_own, link)->rule, now_ns);
    }
    table_leave(t, entered);
}

const char *stream_share_id(const struct stream *s)
{
    const struct slot *slot = container_of(s, struct slot, stream);
    return slot->share != NULL ? slot->share->group->control.id : "";
}

const struct control *stream_rule_control(const struct gate_rule *rule)
{
    const struct rule_group *g = rule->owner;
    weir_assert(g != NULL);
    return &g->control;
}

bool stream_burst_ppm(const struct stream *s, uint32_t *ret_ppm)
{
    bool found = false;
    uint32_t least = 1000000;
    for (uint32_t i = 0; i < s->flow.cover_count; i++) {
        for (uint32_t k = 0; k < GATE_KIND_COUNT; k++) {
            const struct bucket *b = &s->flow.cover[i]->bucket[k];
            if (b->cfg.burst_rate == 0)
                continue;
            found = true;
            uint32_t ppm = bucket_burst_ppm(b);
            if (ppm < least)
                least = ppm;
        }
    }
    if (found)
        *ret_ppm = least;
    return found;
}

void stream_controls_visit(struct stream_table *t, control_visit *visit, void *arg)
{
    list_for_each (l, &t->book.groups) {
        struct rule_group *g = container_of(l, struct rule_group, link);
        const struct gate_rule *first = &g->rule;
        if (g->limit != NULL && g->limit->per_stream) {
            first = NULL;
            if (!list_empty(&g->owns))
                first = &container_of(g->owns.next, struct rule_own, link)->rule;
        }
        visit(arg, &g->control, first);
    }
}

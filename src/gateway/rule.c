/* SPDX-License-Identifier: Apache-2.0 */
/* The rule book.
 *
 * Problem: controls arrive by the hundred, every second, while I/Os are held by the ones before; a
 * bad one among them must leave all as it was; and a control that keeps its name must keep its
 * credit and its debts, or each renewal would be a burst.
 *
 * Model: three steps. *Stage* reads and copies everything that was asked for, next to what is in
 * force: a new id becomes a FRESH group, a known one gets a `staged` twin, one that goes is marked
 * DEAD. Only here may something fail, and then all marks are taken back. *Commit* gives fresh
 * groups a rule in the gate, and has changed ones adopt their twins (gate_rule_change keeps the
 * buckets' state). Then the owner of the streams covers them anew. *Sweep* frees the dead, by now
 * parked at by nobody.
 *
 * Invariants:
 *   1. Between calls of the owner every group STANDS.
 *   2. An id is in by_id once. File limits have ids "file/NAME", which no control may take.
 *   3. control_count and member_count count groups of origin AGREED and PLANNED that are not FRESH.
 *   4. The credit of a rule lies in the ledger, in a cell found by the control's id, so that it
 *      outlives this process; only when no cell is free, in the rule itself.
 *   5. No stream is named by more than STREAM_CONTROLS_MAX controls, whether it exists or not.
 *
 * Bounds: controls, members of one, members of all (rule_book_init); memory outside the I/O
 * path. */
#include "gateway/rule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "gateway/ledger.h"
#include "gateway/share.h"

#define FILE_PREFIX "file/"

static struct rule_group *group_of(struct list *l)
{
    return container_of(l, struct rule_group, link);
}

/* FNV-1a. Chains are bounded by the book's own bounds, so a hostile choice of names costs
 * little. */
uint64_t rule_hash(const char *text)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++)
        h = (h ^ *p) * UINT64_C(1099511628211);
    return h;
}

/* ---- life ------------------------------------------------------------------------------------ */

size_t rule_book_rules_max(size_t max_streams, size_t spare)
{
    return 2 * STREAM_CONTROLS_PER_STREAM * max_streams /* old and new at once */
           + 2 * CONFIG_MAX_LIMITS                       /* likewise */
           + 2 * STREAM_FILE_LIMITS_MAX * (max_streams + spare);
}

bool rule_book_init(struct rule_book *b, struct gate *gate, struct ledger *ledger,
                    size_t max_streams, size_t spare)
{
    *b = (struct rule_book){
        .gate = gate,
        .ledger = ledger,
        .control_max = STREAM_CONTROLS_PER_STREAM * max_streams,
        .member_max = STREAM_MEMBERS_PER_STREAM * max_streams,
        .members_per_control_max = max_streams + spare,
        .own_max = 2 * STREAM_FILE_LIMITS_MAX * (max_streams + spare),
    };
    list_init(&b->groups);
    list_init(&b->own_free);
    size_t buckets = 1024;
    while (buckets < b->control_max)
        buckets *= 2;
    b->by_id_mask = buckets - 1;
    b->by_id = calloc(buckets, sizeof(struct rule_group *));
    /* Untouched parts of the pool cost address space only. */
    b->own_pool = calloc(b->own_max, sizeof b->own_pool[0]);
    if (b->by_id != NULL && b->own_pool != NULL)
        return true;
    rule_book_fini(b);
    return false;
}

static void group_free(struct rule_group *g)
{
    if (g == NULL)
        return;
    free(g->members);
    free(g->member_text);
    free(g->member_hash);
    free(g->limit);
    free(g);
}

void rule_book_fini(struct rule_book *b)
{
    for (struct list *l; b->groups.next != NULL && (l = list_pop_front(&b->groups)) != NULL;) {
        struct rule_group *g = group_of(l);
        while (!list_empty(&g->owns))
            rule_own_free(b, container_of(g->owns.next, struct rule_own, link));
        gate_rule_fini(&g->rule);
        ledger_cell_give(b->ledger, g->cell);
        group_free(g);
    }
    free(b->by_id);
    free(b->own_pool);
    *b = (struct rule_book){.gate = NULL};
}

/* ---- ids ------------------------------------------------------------------------------------- */

static struct rule_group **book_bucket(struct rule_book *b, const char *id)
{
    return &b->by_id[rule_hash(id) & b->by_id_mask];
}

static struct rule_group *book_find(struct rule_book *b, const char *id)
{
    struct rule_group *g = *book_bucket(b, id);
    while (g != NULL && strcmp(g->control.id, id) != 0)
        g = g->by_id_next;
    return g;
}

static void book_link(struct rule_book *b, struct rule_group *g)
{
    struct rule_group **bucket = book_bucket(b, g->control.id);
    g->by_id_next = *bucket;
    *bucket = g;
}

static void book_unlink(struct rule_book *b, struct rule_group *g)
{
    struct rule_group **at = book_bucket(b, g->control.id);
    while (*at != g)
        at = &(*at)->by_id_next;
    *at = g->by_id_next;
    list_remove(&g->link);
}

/* File limits stand before controls; each kind in the order it came. */
static void book_append(struct rule_book *b, struct rule_group *g)
{
    struct list *at = &b->groups;
    if (g->limit != NULL) {
        at = b->groups.next;
        while (at != &b->groups && group_of(at)->limit != NULL)
            at = at->next;
    }
    list_insert_before(at, &g->link);
    book_link(b, g);
}

/* ---- checks ---------------------------------------------------------------------------------- */

static bool limits_in_force(const struct gate_limits *l)
{
    for (size_t k = 0; k < GATE_KIND_COUNT; k++)
        if (l->rate[k].rate > 0)
            return true;
    return false;
}

bool stream_control_agreed(const struct control *c)
{
    return c->origin == RULE_AGREED && limits_in_force(&c->limits);
}

bool stream_control_says(const struct control *c)
{
    return limits_in_force(&c->limits) || c->share.weight > 0 || c->target[0] != '\0';
}

static bool limits_valid(const struct gate_limits *l)
{
    for (size_t k = 0; k < GATE_KIND_COUNT; k++) {
        const struct bucket_rate *r = &l->rate[k];
        if (r->rate > BUCKET_RATE_MAX || r->burst_rate > BUCKET_RATE_MAX)
            return false;
        if (r->burst_ns > BUCKET_BURST_NS_MAX)
            return false;
        if (r->burst_rate > 0 && (r->rate == 0 || r->burst_rate <= r->rate))
            return false;
    }
    return true;
}

static int control_check(const struct rule_book *b, const struct control *c)
{
    if (c->origin != RULE_AGREED && c->origin != RULE_PLANNED)
        return WEIR_E_INVALID;
    if (c->id[0] == '\0' || memchr(c->id, '\0', sizeof c->id) == NULL)
        return WEIR_E_INVALID;
    if (memchr(c->reason, '\0', sizeof c->reason) == NULL)
        return WEIR_E_INVALID;
    if (strncmp(c->id, FILE_PREFIX, strlen(FILE_PREFIX)) == 0 || !limits_valid(&c->limits))
        return WEIR_E_INVALID;
    if (c->member_count > b->members_per_control_max)
        return WEIR_E_FULL;
    for (size_t i = 0; i < c->member_count; i++) {
        const char *m = c->members[i];
        if (m == NULL || m[0] == '\0' || strnlen(m, STREAM_KEY_SIZE) == STREAM_KEY_SIZE)
            return WEIR_E_INVALID;
    }
    return 0;
}

/* ---- groups ---------------------------------------------------------------------------------- */

static bool group_copy_members(struct rule_group *g, const char *const *members, size_t count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += strlen(members[i]) + 1;
    g->members = calloc(count + 1, sizeof(char *));
    g->member_text = malloc(bytes + 1);
    g->member_hash = calloc(count + 1, sizeof(uint64_t));
    if (g->members == NULL || g->member_text == NULL || g->member_hash == NULL)
        return false;
    char *at = g->member_text;
    for (size_t i = 0; i < count; i++) {
        size_t n = strlen(members[i]) + 1;
        memcpy(at, members[i], n);
        g->members[i] = at;
        g->member_hash[i] = rule_hash(at);
        at += n;
    }
    g->control.members = (const char *const *)g->members;
    g->control.member_count = count;
    return true;
}

/* A copy of @c that stands on its own, FRESH. NULL: no memory. */
static struct rule_group *group_new(const struct control *c)
{
    struct rule_group *g = calloc(1, sizeof *g);
    if (g == NULL)
        return NULL;
    g->control = *c;
    g->change = RULE_FRESH;
    list_init(&g->link);
    list_init(&g->owns);
    list_init(&g->shares);
    if (group_copy_members(g, c->members, c->member_count))
        return g;
    group_free(g);
    return NULL;
}

static const char *pattern_text(const char *pattern)
{
    return pattern[0] != '\0' ? pattern : "*";
}

static struct rule_group *group_new_of_limit(const struct limit_config *l)
{
    char member[STREAM_KEY_SIZE];
    struct control c = {.origin = RULE_FILE, .member_count = 1, .limits = l->limits};
    c.members = (const char *const[]){member};
    snprintf(member, sizeof member, "%s/%s", pattern_text(l->host), pattern_text(l->volume));
    snprintf(c.id, sizeof c.id, FILE_PREFIX "%s", l->name);
    snprintf(c.reason, sizeof c.reason, "limit %.127s of the gateway's file", l->name);
    struct rule_group *g = group_new(&c);
    if (g == NULL)
        return NULL;
    g->limit = malloc(sizeof *g->limit);
    if (g->limit == NULL) {
        group_free(g);
        return NULL;
    }
    *g->limit = *l;
    return g;
}

/* Take over what the staged twin says; the rule, its owns and the place in the book stay. */
static void group_adopt(struct rule_group *g, uint64_t now_ns)
{
    struct rule_group *s = g->staged;
    bool changed = memcmp(&g->control.limits, &s->control.limits, sizeof s->control.limits) != 0;
    free(g->members);
    free(g->member_text);
    free(g->member_hash);
    free(g->limit);
    g->control = s->control;
    g->members = s->members;
    g->member_text = s->member_text;
    g->member_hash = s->member_hash;
    g->limit = s->limit;
    g->staged = NULL;
    g->change = RULE_STANDS;
    free(s);
    share_group_changed(g, now_ns);
    if (!changed)
        return;
    gate_rule_change(&g->rule, &g->control.limits, now_ns);
    list_for_each (l, &g->owns)
        gate_rule_change(&container_of(l, struct rule_own, link)->rule, &g->control.limits, now_ns);
}

/* ---- stage ----------------------------------------------------------------------------------- */

void rule_book_unstage(struct rule_book *b)
{
    list_for_each_safe (l, &b->groups) {
        struct rule_group *g = group_of(l);
        if (g->change == RULE_FRESH) {
            book_unlink(b, g);
            group_free(g);
            continue;
        }
        group_free(g->staged);
        g->staged = NULL;
        g->change = RULE_STANDS;
    }
}

/* Put @fresh beside what is in force. Takes it, also on error. */
static int book_stage(struct rule_book *b, struct rule_group *fresh)
{
    if (fresh == NULL)
        return WEIR_E_FULL;
    struct rule_group *old = book_find(b, fresh->control.id);
    if (old == NULL) {
        book_append(b, fresh);
        return 0;
    }
    if (old->change == RULE_FRESH || old->staged != NULL) {
        group_free(fresh);
        return WEIR_E_INVALID; /* named twice */
    }
    old->change = RULE_CHANGED;
    old->staged = fresh;
    return 0;
}

/* What a group will be once the stage is committed; NULL: gone. */
static const struct rule_group *group_next(const struct rule_group *g)
{
    if (g->change == RULE_DEAD)
        return NULL;
    return g->change == RULE_CHANGED ? g->staged : g;
}

struct named {
    uint64_t hash;
    const char *key;
    const struct rule_group *group;
};

static int named_compare(const void *va, const void *vb)
{
    const struct named *a = va, *b = vb;
    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    int order = strcmp(a->key, b->key);
    if (order != 0)
        return order;
    return a->group == b->group ? 0 : a->group < b->group ? -1 : 1;
}

/* Whether no stream is named by more than STREAM_CONTROLS_MAX different controls of the next
 * state. */
static bool named_within_bound(struct named *named, size_t count)
{
    qsort(named, count, sizeof named[0], named_compare);
    uint32_t run = 0;
    for (size_t i = 0; i < count; i++) {
        bool same_key = i > 0 && strcmp(named[i].key, named[i - 1].key) == 0;
        if (!same_key)
            run = 1;
        else if (named[i].group != named[i - 1].group)
            run++;
        if (run > STREAM_CONTROLS_MAX)
            return false;
    }
    return true;
}

/* Check the bounds of the next state as a whole. */
static int book_check_next(struct rule_book *b)
{
    size_t controls = 0, members = 0;
    list_for_each (l, &b->groups) {
        const struct rule_group *g = group_next(group_of(l));
        if (g == NULL || g->limit != NULL)
            continue;
        controls++;
        members += g->control.member_count;
    }
    if (controls > b->control_max || members > b->member_max)
        return WEIR_E_FULL;
    struct named *named = calloc(members + 1, sizeof named[0]);
    if (named == NULL)
        return WEIR_E_FULL;
    size_t n = 0;
    list_for_each (l, &b->groups) {
        const struct rule_group *g = group_next(group_of(l));
        if (g == NULL || g->limit != NULL)
            continue;
        for (size_t i = 0; i < g->control.member_count; i++)
            named[n++] = (struct named){g->member_hash[i], g->members[i], g};
    }
    weir_assert(n == members);
    bool ok = named_within_bound(named, n);
    free(named);
    return ok ? 0 : WEIR_E_FULL;
}

static int book_stage_control(struct rule_book *b, const struct control *c)
{
    int r = control_check(b, c);
    if (r != 0)
        return r;
    if (stream_control_says(c))
        return book_stage(b, group_new(c));
    struct rule_group *old = book_find(b, c->id);
    if (old == NULL)
        return 0;
    if (old->change == RULE_FRESH || old->change == RULE_CHANGED)
        return WEIR_E_INVALID; /* named twice */
    old->change = RULE_DEAD;
    return 0;
}

int rule_book_stage_controls(struct rule_book *b, const struct control *controls, size_t count,
                             bool full)
{
    if (count > 2 * b->control_max)
        return WEIR_E_FULL;
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = book_stage_control(b, &controls[i]);
    list_for_each (l, &b->groups) {
        struct rule_group *g = group_of(l);
        if (full && g->limit == NULL && g->change == RULE_STANDS)
            g->change = RULE_DEAD;
    }
    if (r == 0)
        r = book_check_next(b);
    if (r != 0)
        rule_book_unstage(b);
    return r;
}

int rule_book_stage_limits(struct rule_book *b, const struct limit_config *limits, size_t count)
{
    if (count > CONFIG_MAX_LIMITS)
        return WEIR_E_FULL;
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        const struct limit_config *l = &limits[i];
        if (!limits_valid(&l->limits) || !limits_in_force(&l->limits))
            r = WEIR_E_INVALID;
        else
            r = book_stage(b, group_new_of_limit(l));
    }
    list_for_each (l, &b->groups) {
        struct rule_group *g = group_of(l);
        if (g->limit != NULL && g->change == RULE_STANDS)
            g->change = RULE_DEAD;
    }
    if (r != 0)
        rule_book_unstage(b);
    return r;
}

size_t rule_book_stage_expiry(struct rule_book *b)
{
    size_t count = 0;
    list_for_each (l, &b->groups) {
        struct rule_group *g = group_of(l);
        if (g->control.origin != RULE_PLANNED)
            continue;
        g->change = RULE_DEAD;
        count++;
    }
    return count;
}

/* ---- commit and sweep ------------------------------------------------------------------------ */

static struct gate_credit *cell_credit(struct ledger_cell *c)
{
    return c != NULL ? &c->credit : NULL;
}

void rule_book_commit(struct rule_book *b, uint64_t now_ns)
{
    b->control_count = b->member_count = 0;
    list_for_each_safe (l, &b->groups) {
        struct rule_group *g = group_of(l);
        switch (g->change) {
        case RULE_STANDS:
        case RULE_DEAD:
            break;
        case RULE_FRESH:
            g->cell = ledger_cell_take(b->ledger, g->control.id, 0);
            gate_rule_adopt(b->gate, &g->rule, &g->control.limits, cell_credit(g->cell), now_ns);
            g->rule.owner = g;
            g->change = RULE_STANDS;
            break;
        case RULE_CHANGED:
            group_adopt(g, now_ns);
            break;
        }
        if (g->change == RULE_STANDS && g->limit == NULL) {
            b->control_count++;
            b->member_count += g->control.member_count;
        }
    }
}

void rule_book_sweep(struct rule_book *b)
{
    list_for_each_safe (l, &b->groups) {
        struct rule_group *g = group_of(l);
        if (g->change != RULE_DEAD)
            continue;
        weir_assert(list_empty(&g->owns));
        weir_assert(list_empty(&g->shares));
        gate_rule_fini(&g->rule);
        ledger_cell_give(b->ledger, g->cell);
        book_unlink(b, g);
        group_free(g);
    }
}

/* ---- rules of streams ------------------------------------------------------------------------ */

static bool pattern_matches(const char *pattern, const char *name)
{
    return pattern[0] == '\0' || name_match(pattern, name);
}

bool rule_group_matches(const struct rule_group *g, const struct stream *s)
{
    const struct limit_config *l = g->limit;
    weir_assert(l != NULL);
    return pattern_matches(l->host, s->host) && pattern_matches(l->volume, s->volume) &&
           pattern_matches(l->tenant, s->tenant) && pattern_matches(l->target, s->target->name);
}

struct rule_own *rule_own_new(struct rule_book *b, struct rule_group *g, uint32_t index,
                              uint64_t now_ns)
{
    struct rule_own *own = NULL;
    struct list *l = list_pop_front(&b->own_free);
    if (l != NULL)
        own = container_of(l, struct rule_own, link);
    else if (b->own_used < b->own_max)
        own = &b->own_pool[b->own_used++];
    if (own == NULL)
        return NULL;
    own->group = g;
    list_push_back(&g->owns, &own->link);
    own->cell = ledger_cell_take(b->ledger, g->control.id, index + 1);
    gate_rule_adopt(b->gate, &own->rule, &g->control.limits, cell_credit(own->cell), now_ns);
    own->rule.owner = g;
    return own;
}

void rule_own_free(struct rule_book *b, struct rule_own *own)
{
    gate_rule_fini(&own->rule);
    ledger_cell_give(b->ledger, own->cell);
    own->cell = NULL;
    list_remove(&own->link);
    own->group = NULL;
    list_push_back(&b->own_free, &own->link);
}

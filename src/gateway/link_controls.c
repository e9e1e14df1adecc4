/* SPDX-License-Identifier: Apache-2.0 */
/* Controls from the server: in force together or not at all, in order, and for as long as they may
 * be.
 *
 * Problem. The gateway holds I/O on the server's word. A late, repeated or torn word must not bring
 * back what was lifted, and without a server planned throttles must end while agreed limits go on.
 *
 * Model (docs/protocol.md). A *set* is one or more SetControls frames, all but the last with
 * `more`. It is kept in its wire form until it is whole, then unpacked and applied in one step.
 * Each set has an epoch:
 *   greater than the one in force          applied
 *   the same, without controls, not full   renewal of the lease
 *   the same and full                      applied: an epoch names one state, so this repeats it
 *   the first full set of a session        applied, whatever its epoch: the server may have begun
 *   anew
 *   anything else                          refused (conflict)
 * A set with lease_ms > 0 lets planned controls live for that long from now; 0 leaves the lease as
 * it is. When the lease ends they are dropped. A planned control while no lease runs is refused.
 *
 * What is agreed is written to <state_dir>/controls whenever it changed, by link_disk's thread, and
 * read at start: "WEIRCTL1", BLAKE2b-256 of what follows, then SetControls frames as on the wire.
 *
 * Invariants:
 *  1. stream_controls_apply is called with a whole set, checked as a whole; it is all or nothing
 *     itself.
 *  2. Within a set a later control of an id replaces an earlier one.
 *  3. The lease timer is armed exactly while lease_until != 0.
 *  4. Memory: SET_MAX bytes of frames, the arena they are unpacked into, one array of struct
 *     control. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "base/log.h"
#include "gateway/ledger.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"
#include "gateway/relay.h"
#include "gateway/stream.h"

#define SET_MAX (4u * FRAME_MAX)
#define SET_FRAMES_MAX 64u
#define FILE_MAGIC "WEIRCTL1"
#define FILE_MAGIC_SIZE 8u
#define FILE_HASH_SIZE 32u
#define FILE_HEAD_SIZE (FILE_MAGIC_SIZE + FILE_HASH_SIZE)
#define FILE_MAX (SET_MAX + FILE_HEAD_SIZE)
#define PATH_SIZE 576u
#define FOLLOW_NS (100 * NS_PER_MS)

_Static_assert(FRAME_RATE_KINDS == GATE_KIND_COUNT, "the wire knows the same limits");
_Static_assert(FRAME_WEIGHT_MAX == SCHED_WEIGHT_MAX, "the wire knows the same weights");

struct link_controls {
    struct link *link;
    struct reactor_timer lease;
    struct reactor_timer follow; /* armed while another worker writes the ledger */
    bool following;
    uint64_t generation;  /* of the ledger's controls that are in force */
    uint64_t lease_until; /* 0: no lease runs */
    uint64_t epoch;
    bool first;      /* no full set was applied in this session yet */
    struct text set; /* frames of the set that is being received */
    size_t set_frames;
    struct frame_arena arena;
    uint8_t written[FILE_HASH_SIZE]; /* of what the file holds, or will */
    bool has_written;
};

/* A whole set, unpacked. */
struct set {
    struct control *control;
    size_t count, capacity;
    uint64_t epoch;
    uint32_t lease_ms;
    bool full, planned;
};

static void controls_keep(struct link_controls *c);

static void controls_lease_over(struct reactor_timer *t, uint64_t now)
{
    struct link_controls *c = container_of(t, struct link_controls, lease);
    struct ledger *ledger = stream_ledger(c->link->streams);
    c->lease_until = 0;
    if (c->following && ledger_lease(ledger) > now) {
        c->lease_until = ledger_lease(ledger);
        reactor_timer_set(c->link->reactor, t, c->lease_until);
        return;
    }
    size_t n = stream_controls_expire(c->link->streams, now);
    if (!c->following)
        ledger_lease_set(ledger, 0);
    if (n > 0) {
        if (!c->following) {
            /* Before the new number of the controls is seen by who follows. */
            stream_undivided_keep(c->link->streams);
            controls_keep(c);
        }
        log_warning("link: the lease ended; %zu planned controls are lifted", n);
        relay_kick(c->link->relay);
    }
}

struct link_controls *link_controls_new(struct link *l)
{
    struct link_controls *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->link = l;
    c->lease.fire = controls_lease_over;
    c->first = true;
    text_init(&c->set, SET_MAX);
    if (frame_arena_init(&c->arena, FRAME_ARENA_SIZE) < 0) {
        free(c);
        return NULL;
    }
    return c;
}

void link_controls_free(struct link_controls *c)
{
    if (c == NULL)
        return;
    reactor_timer_clear(c->link->reactor, &c->lease);
    reactor_timer_clear(c->link->reactor, &c->follow);
    frame_arena_fini(&c->arena);
    text_fini(&c->set);
    free(c);
}

static void controls_drop_set(struct link_controls *c)
{
    text_clear(&c->set);
    c->set_frames = 0;
}

void link_controls_session(struct link_controls *c)
{
    c->first = true;
    controls_drop_set(c);
}

uint64_t link_controls_epoch(const struct link_controls *c)
{
    return c->epoch;
}

bool link_controls_first(const struct link_controls *c)
{
    return c->first;
}

uint64_t link_controls_lease_left(const struct link_controls *c, uint64_t now_ns)
{
    return c->lease_until > now_ns ? c->lease_until - now_ns : 0;
}

/* ---- from the wire's form
 * ------------------------------------------------------------------------------ */

static struct sched_terms share_from_wire(const Weir__Control__Share *in)
{
    return (struct sched_terms){
        .reserve_iops = in->reserve_iops,
        .reserve_bytes_s = in->reserve_bytes_s,
        .weight = in->weight,
        .priority = in->priority,
        .latency_us = in->latency_us,
        .percentile_ppm = in->percentile_ppm,
        .while_iops = in->while_iops,
        .credit_us = in->credit_us,
        .elsewhere_cost_ns = in->elsewhere_cost_ns,
        .elsewhere_ios = in->elsewhere_ios,
        .elsewhere_bytes = in->elsewhere_bytes,
        .reserve_dir_iops = {in->reserve_read_iops, in->reserve_write_iops},
        .reserve_dir_bytes_s = {in->reserve_read_bytes_s, in->reserve_write_bytes_s},
        .elsewhere_dir_ios = {in->elsewhere_read_ios, in->elsewhere_write_ios},
        .elsewhere_dir_bytes = {in->elsewhere_read_bytes, in->elsewhere_write_bytes},
    };
}

static int plan_from_wire(struct control *out, const Weir__Control__TargetPlan *in)
{
    out->plan = (struct window_plan){
        .slots_milli = in->slots_milli,
        .wait_us = in->wait_us,
        .cost = {.base_ns = {in->read_base_ns, in->write_base_ns},
                 .page_ns = {in->read_page_ns, in->write_page_ns}},
        .observe = in->observe,
        .look = {.id = in->look_id,
                 .ms = in->look_ms,
                 .after_ms = in->look_after_ms,
                 .slots_milli = in->look_slots_milli,
                 .all = in->look_all},
    };
    return text_copy(out->target, sizeof(out->target), in->target);
}

static int control_from_wire(struct control *out, const Weir__Control__Control *in)
{
    *out = (struct control){
        .origin = in->planned ? RULE_PLANNED : RULE_AGREED,
        .members = (const char *const *)in->members,
        .member_count = in->n_members,
    };
    if (text_copy(out->id, sizeof(out->id), in->id) < 0)
        return WEIR_E_INVALID;
    if (in->share != NULL)
        out->share = share_from_wire(in->share);
    if (in->plan != NULL && plan_from_wire(out, in->plan) < 0)
        return WEIR_E_INVALID;
    /* Cut between characters, not inside of one: it is shown as JSON. */
    text_escape(out->reason, sizeof(out->reason), in->reason, strlen(in->reason));
    for (size_t i = 0; i < in->n_rates; i++) {
        const Weir__Control__Rate *r = in->rates[i];
        out->limits.rate[r->kind] = (struct bucket_rate){
            .rate = r->rate,
            .burst_rate = r->burst_rate,
            .burst_ns = (uint64_t)r->burst_ms * NS_PER_MS,
        };
    }
    return 0;
}

static int set_reserve(struct set *s, size_t more)
{
    if (s->count + more <= s->capacity)
        return 0;
    size_t capacity = s->count + more;
    struct control *p = realloc(s->control, capacity * sizeof(*p));
    if (p == NULL)
        return -ENOMEM;
    s->control = p;
    s->capacity = capacity;
    return 0;
}

static int set_add_frame(struct set *s, const Weir__Control__SetControls *f)
{
    if (f->full) {
        s->count = 0; /* replaces all that came before it */
        s->full = true;
        s->planned = false;
    }
    s->epoch = f->epoch;
    if (f->lease_ms > 0)
        s->lease_ms = f->lease_ms;
    int r = set_reserve(s, f->n_controls);
    for (size_t i = 0; r == 0 && i < f->n_controls; i++) {
        r = control_from_wire(&s->control[s->count], f->controls[i]);
        s->planned = s->planned || f->controls[i]->planned;
        s->count++;
    }
    return r;
}

struct place {
    const struct control *control;
    size_t at;
};

static int place_order(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    int c = strcmp(x->control->id, y->control->id);
    return c != 0 ? c : x->at < y->at ? -1 : 1;
}

/* Invariant 2; and in a full set a removal removes nothing that is left. Keeps the order. */
static int set_tidy(struct set *s)
{
    if (s->count == 0)
        return 0;
    struct place *by_id = malloc(s->count * sizeof(*by_id));
    bool *drop = calloc(s->count, sizeof(*drop));
    int r = by_id != NULL && drop != NULL ? 0 : -ENOMEM;
    if (r == 0) {
        for (size_t i = 0; i < s->count; i++)
            by_id[i] = (struct place){.control = &s->control[i], .at = i};
        qsort(by_id, s->count, sizeof(*by_id), place_order);
        for (size_t i = 0; i + 1 < s->count; i++)
            drop[by_id[i].at] = strcmp(by_id[i].control->id, by_id[i + 1].control->id) == 0;
        size_t kept = 0;
        for (size_t i = 0; i < s->count; i++) {
            if (drop[i] || (s->full && !stream_control_says(&s->control[i])))
                continue;
            if (kept != i)
                s->control[kept] = s->control[i];
            kept++;
        }
        s->count = kept;
    }
    free(by_id);
    free(drop);
    return r;
}

/* Unpack frames one behind the other into @s; strings live in c->arena. */
static int set_unpack(struct link_controls *c, struct set *s, const char *bytes, size_t n)
{
    frame_arena_reset(&c->arena);
    for (size_t at = 0; at < n;) {
        const Weir__Control__Frame *f = NULL;
        int64_t size = frame_peek(bytes + at, n - at);
        if (size <= 0)
            return WEIR_E_PROTO;
        int r = frame_unpack(&c->arena, bytes + at, (size_t)size, &f);
        if (r == 0 && f->body_case != WEIR__CONTROL__FRAME__BODY_SET_CONTROLS)
            r = WEIR_E_PROTO;
        if (r == 0)
            r = set_add_frame(s, f->set_controls);
        if (r < 0)
            return r;
        at += (size_t)size;
    }
    return set_tidy(s);
}

/* ---- the copy on disk
 * ---------------------------------------------------------------------------------- */

struct saving {
    struct text *out;
    bool planned; /* these too */
    bool failed;
};

static void save_share(const struct sched_terms *t, Weir__Control__Share *s)
{
    weir__control__share__init(s);
    s->reserve_iops = t->reserve_iops;
    s->reserve_bytes_s = t->reserve_bytes_s;
    s->reserve_read_iops = t->reserve_dir_iops[IO_DIR_READ];
    s->reserve_write_iops = t->reserve_dir_iops[IO_DIR_WRITE];
    s->reserve_read_bytes_s = t->reserve_dir_bytes_s[IO_DIR_READ];
    s->reserve_write_bytes_s = t->reserve_dir_bytes_s[IO_DIR_WRITE];
    s->weight = t->weight;
    s->priority = t->priority;
    s->latency_us = t->latency_us;
    s->percentile_ppm = t->percentile_ppm;
    s->while_iops = t->while_iops;
    s->credit_us = t->credit_us; /* what was served elsewhere means nothing to another life */
}

static void save_plan(const struct control *c, Weir__Control__TargetPlan *p)
{
    const struct window_plan *from = &c->plan;
    weir__control__target_plan__init(p);
    p->target = (char *)(uintptr_t)c->target;
    p->slots_milli = from->slots_milli;
    p->wait_us = from->wait_us;
    p->read_base_ns = from->cost.base_ns[0];
    p->write_base_ns = from->cost.base_ns[1];
    p->read_page_ns = from->cost.page_ns[0];
    p->write_page_ns = from->cost.page_ns[1];
    p->observe = from->observe;
}

static void save_control(void *arg, const struct control *c, const struct gate_rule *first_rule)
{
    struct saving *s = arg;
    (void)first_rule;
    bool wanted = c->origin == RULE_AGREED || (c->origin == RULE_PLANNED && s->planned);
    if (!wanted || s->failed)
        return;
    Weir__Control__Rate rate[GATE_KIND_COUNT], *rate_ptr[GATE_KIND_COUNT];
    Weir__Control__Control control = WEIR__CONTROL__CONTROL__INIT, *one = &control;
    Weir__Control__SetControls set = WEIR__CONTROL__SET_CONTROLS__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    for (uint32_t k = 0; k < GATE_KIND_COUNT; k++) {
        const struct bucket_rate *from = &c->limits.rate[k];
        if (from->rate == 0)
            continue;
        Weir__Control__Rate *r = &rate[control.n_rates];
        weir__control__rate__init(r);
        r->kind = k;
        r->rate = from->rate;
        r->burst_rate = from->burst_rate;
        r->burst_ms = from->burst_ns / NS_PER_MS;
        rate_ptr[control.n_rates++] = r;
    }
    control.id = (char *)(uintptr_t)c->id;
    control.planned = c->origin == RULE_PLANNED;
    control.reason = (char *)(uintptr_t)c->reason;
    control.n_members = c->member_count;
    control.members = (char **)(uintptr_t)c->members;
    control.rates = rate_ptr;
    Weir__Control__Share share;
    if (c->share.weight > 0) {
        save_share(&c->share, &share);
        control.share = &share;
    }
    Weir__Control__TargetPlan plan;
    if (c->target[0] != '\0' && s->planned) {
        save_plan(c, &plan);
        control.plan = &plan;
    }
    set.epoch = 1; /* the file's epoch means nothing: a session's first full set is always taken */
    set.n_controls = 1;
    set.controls = &one;
    f.body_case = WEIR__CONTROL__FRAME__BODY_SET_CONTROLS;
    f.set_controls = &set;
    s->failed = frame_append(s->out, &f) < 0;
}

static void hash_frames(const char *bytes, size_t n, uint8_t ret[FILE_HASH_SIZE])
{
    int r = crypto_generichash(ret, FILE_HASH_SIZE, (const unsigned char *)bytes, n, NULL, 0);
    weir_assert(r == 0);
}

/* Hand what is agreed to the disk's thread, if it is not what lies there. */
static void controls_save(struct link_controls *c)
{
    uint8_t head[FILE_HEAD_SIZE] = {0}, hash[FILE_HASH_SIZE];
    struct text file;
    text_init(&file, FILE_MAX);
    text_append(&file, head, sizeof(head));
    struct saving s = {.out = &file};
    stream_controls_visit(c->link->streams, save_control, &s);
    if (s.failed || file.failed) {
        log_warning("link: the agreed controls are too many to be kept on disk");
        text_fini(&file);
        return;
    }
    hash_frames(file.data + FILE_HEAD_SIZE, file.len - FILE_HEAD_SIZE, hash);
    if (c->has_written && memcmp(hash, c->written, sizeof(hash)) == 0) {
        text_fini(&file);
        return;
    }
    memcpy(file.data, FILE_MAGIC, FILE_MAGIC_SIZE);
    memcpy(file.data + FILE_MAGIC_SIZE, hash, sizeof(hash));
    memcpy(c->written, hash, sizeof(hash));
    c->has_written = true;
    link_disk_put(c->link->disk, file.data, file.len); /* takes the bytes */
}

/* Leave all that is in force to the next worker, should this one die. */
static void controls_keep(struct link_controls *c)
{
    struct text all;
    text_init(&all, LEDGER_CONTROLS_MAX);
    struct saving s = {.out = &all, .planned = true};
    stream_controls_visit(c->link->streams, save_control, &s);
    size_t n = s.failed || all.failed ? LEDGER_CONTROLS_MAX + 1u : all.len;
    if (ledger_controls_put(stream_ledger(c->link->streams), all.data, n, c->epoch) < 0)
        log_warning("link: the controls are too many to outlive the worker");
    text_fini(&all);
}

bool link_controls_resume(struct link_controls *c)
{
    struct ledger *ledger = stream_ledger(c->link->streams);
    const void *bytes;
    size_t n;
    uint64_t epoch, now = reactor_now_fresh(c->link->reactor);
    if (!ledger_controls_get(ledger, &bytes, &n, &epoch, &c->generation))
        return false;
    struct set s = {0};
    int r = set_unpack(c, &s, bytes, n);
    if (r == 0)
        r = stream_controls_apply(c->link->streams, s.control, s.count, true, now);
    size_t count = s.count;
    free(s.control);
    if (r < 0) {
        log_error("link: the controls that the last worker left cannot be used: %s",
                  weir_strerror(r));
        return false;
    }
    c->epoch = epoch;
    stream_undivided_resume(c->link->streams, now);
    uint64_t lease = ledger_lease(ledger);
    c->lease_until = lease > now ? lease : now;
    reactor_timer_set(c->link->reactor, &c->lease, c->lease_until);
    log_info("link: %zu controls of the %s worker are in force", count,
             c->following ? "other" : "last");
    relay_kick(c->link->relay);
    return true;
}

static void controls_look(struct reactor_timer *t, uint64_t now)
{
    struct link_controls *c = container_of(t, struct link_controls, follow);
    const void *bytes;
    size_t n;
    uint64_t epoch, generation;
    reactor_timer_set(c->link->reactor, t, now + FOLLOW_NS);
    if (ledger_controls_get(stream_ledger(c->link->streams), &bytes, &n, &epoch, &generation) &&
        generation != c->generation)
        (void)link_controls_resume(c);
}

void link_controls_follow(struct link_controls *c)
{
    const void *bytes;
    size_t n;
    uint64_t epoch;
    c->following = true;
    c->follow.fire = controls_look;
    (void)ledger_controls_get(stream_ledger(c->link->streams), &bytes, &n, &epoch,
                              &c->generation);
    controls_look(&c->follow, reactor_now(c->link->reactor));
}

static int load_file(struct link_controls *c, const char *bytes, size_t n, size_t *ret_count)
{
    uint8_t hash[FILE_HASH_SIZE];
    if (n < FILE_HEAD_SIZE || memcmp(bytes, FILE_MAGIC, FILE_MAGIC_SIZE) != 0)
        return WEIR_E_PARSE;
    hash_frames(bytes + FILE_HEAD_SIZE, n - FILE_HEAD_SIZE, hash);
    if (memcmp(hash, bytes + FILE_MAGIC_SIZE, sizeof(hash)) != 0)
        return WEIR_E_PARSE;
    struct set s = {0};
    int r = set_unpack(c, &s, bytes + FILE_HEAD_SIZE, n - FILE_HEAD_SIZE);
    if (r == 0 && s.planned)
        r = WEIR_E_PARSE;
    if (r == 0)
        r = stream_controls_apply(c->link->streams, s.control, s.count, true,
                                  reactor_now(c->link->reactor));
    *ret_count = s.count;
    free(s.control);
    if (r < 0)
        return r;
    memcpy(c->written, hash, sizeof(hash));
    c->has_written = true;
    return 0;
}

void link_controls_load(struct link_controls *c)
{
    char path[PATH_SIZE], aside[PATH_SIZE + 16];
    char *bytes = NULL;
    size_t n = 0, count = 0;
    snprintf(path, sizeof(path), "%s/controls", c->link->config->state_dir);
    int r = text_read_file(path, FILE_MAX, &bytes, &n);
    if (r == -ENOENT)
        return;
    if (r == 0)
        r = load_file(c, bytes, n, &count);
    free(bytes);
    if (r == 0) {
        if (count > 0)
            log_info("link: %zu agreed controls of the last life are in force", count);
        relay_kick(c->link->relay);
        return;
    }
    snprintf(aside, sizeof(aside), "%s.damaged", path);
    int moved = rename(path, aside) < 0 ? -errno : 0;
    log_error("link: %s cannot be used (%s); %s", path, weir_strerror(r),
              moved == 0 ? "set aside as controls.damaged" : "and not be moved away either");
}

/* ---- applying
 * ------------------------------------------------------------------------------------------ */

static void controls_ack(struct link_controls *c, uint64_t epoch, int status, const char *words)
{
    Weir__Control__ControlsAck a = WEIR__CONTROL__CONTROLS_ACK__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    a.epoch = epoch;
    a.status = status;
    a.words = (char *)(uintptr_t)words;
    f.body_case = WEIR__CONTROL__FRAME__BODY_CONTROLS_ACK;
    f.controls_ack = &a;
    (void)link_send(c->link, &f);
}

static bool epoch_fits(const struct link_controls *c, const struct set *s)
{
    if (s->epoch > c->epoch || (s->full && c->first))
        return true;
    return s->epoch == c->epoch && (s->full || s->count == 0);
}

static void controls_renew(struct link_controls *c, uint32_t lease_ms, uint64_t now)
{
    if (lease_ms == 0)
        return;
    c->lease_until = now + lease_ms * NS_PER_MS;
    ledger_lease_set(stream_ledger(c->link->streams), c->lease_until);
    reactor_timer_set(c->link->reactor, &c->lease, c->lease_until);
}

static int controls_apply(struct link_controls *c, const struct set *s, const char **ret_words)
{
    uint64_t now = reactor_now(c->link->reactor);
    if (!epoch_fits(c, s)) {
        *ret_words = "older than the controls in force";
        return WEIR_E_CONFLICT;
    }
    if (s->planned && s->lease_ms == 0 && c->lease_until == 0) {
        *ret_words = "a planned control without a lease";
        return WEIR_E_INVALID;
    }
    if (s->count > 0 || s->full) {
        int r = stream_controls_apply(c->link->streams, s->control, s->count, s->full, now);
        if (r < 0) {
            *ret_words = weir_strerror(r);
            return r;
        }
        stream_undivided_keep(c->link->streams);
        relay_kick(c->link->relay);
    }
    c->epoch = s->epoch;
    if (s->full)
        c->first = false;
    controls_renew(c, s->lease_ms, now);
    return 0;
}

static void controls_whole(struct link_controls *c, uint64_t epoch, const char *bytes, size_t n)
{
    struct set s = {0};
    const char *words = "";
    uint64_t kept = c->epoch;
    int r = set_unpack(c, &s, bytes, n);
    if (r < 0)
        words = weir_strerror(r);
    else
        r = controls_apply(c, &s, &words);
    bool changed = r == 0 && (s.count > 0 || s.full);
    free(s.control);
    if (changed || kept != c->epoch)
        controls_keep(c);
    if (changed)
        controls_save(c);
    if (r < 0)
        log_warning("link: controls of epoch %llu refused: %s", (unsigned long long)epoch, words);
    controls_ack(c, epoch, r, words);
}

void link_controls_set(struct link_controls *c, const Weir__Control__SetControls *s,
                       const void *raw, size_t n)
{
    uint64_t epoch = s->epoch;
    if (s->session != 0 && s->session != c->link->session) {
        log_warning("link: controls of session %llu are ignored, this is %llu",
                    (unsigned long long)s->session, (unsigned long long)c->link->session);
        return;
    }
    if (!s->more && c->set_frames == 0) {
        controls_whole(c, epoch, raw, n);
        return;
    }
    if (c->set_frames == SET_FRAMES_MAX || c->set.max - c->set.len < n) {
        controls_drop_set(c);
        link_drop(c->link, "a set of controls beyond its bound");
        return;
    }
    text_append(&c->set, raw, n);
    c->set_frames++;
    if (c->set.failed) {
        controls_drop_set(c);
        link_drop(c->link, "no memory for a set of controls");
        return;
    }
    if (s->more)
        return;
    controls_whole(c, epoch, c->set.data, c->set.len);
    controls_drop_set(c);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Each control is packed once, when it comes, into the bytes of field 4 of SetControls; what waits
 * is thus bounded in exact bytes and needs no second copy. A frame is put together from those
 * bytes: protobuf lets the fields of a message stand in any order, so a SetControls without
 * controls, packed by protobuf-c, followed by the fields of the controls is a SetControls (Protocol
 * Buffers, "Encoding").
 *
 * Memory. What waits lies in blocks of the slab that the adding thread owns, and goes back to it
 * from whichever thread packs or clears the queue, which may be another after a move; so a control
 * costs no allocation. Where the slab is used up, by many gateways that do not read, a block is
 * allocated.
 *
 * By id a control is found in a trie of hashes, whose nodes are the controls themselves: each step
 * takes two bits of the hash, and where they are used up the walk goes on along one branch. Nothing
 * is ever taken out of it alone: a newer control takes the older's place, and all go together.
 *
 * Invariants: order of arrival is kept, a replaced control goes to the end with its newcomer; bytes
 * is the sum of all that wait; a full update forgets what waited before it. */
#include "server/monitor/control_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "control/frame.h"
#include "server/mailbox/slab.h"

/* A frame is closed when it is beyond this; one control alone may be larger. */
#define PART_SIZE (512u * 1024u)
#define TAG_SET_CONTROLS (7u << 3 | 2u) /* of Frame */
#define TAG_CONTROLS (4u << 3 | 2u)     /* of SetControls */
#define PART_HEAD_MAX 64u               /* epoch, lease, full, more, session and their tags */

_Static_assert(FRAME_RATE_KINDS == GATE_KIND_COUNT, "the wire knows the same limits");

#define BRANCHES 4u
#define BRANCH_BITS 2u

struct queued_control {
    struct queued_control *branch[BRANCHES];
    struct queued_control *prev, *next;
    size_t size;
    bool allocated; /* not of a slab */
    char id[2 * NAME_SIZE];
    uint8_t bytes[];
};

static size_t varint_put(uint8_t *out, uint64_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        out[n++] = (uint8_t)(v | 0x80);
    out[n++] = (uint8_t)v;
    return n;
}

static void *block_take(struct slab *slab, size_t size, bool *ret_allocated)
{
    void *block = slab != NULL ? slab_take(slab, size) : NULL;
    *ret_allocated = block == NULL;
    return block != NULL ? block : malloc(size);
}

static void block_give(void *block, bool allocated)
{
    if (allocated)
        free(block);
    else
        slab_give(block);
}

/* FNV-1a (RFC 9923). */
static uint64_t id_hash(const char *id)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *id != '\0'; id++)
        h = (h ^ (uint8_t)*id) * UINT64_C(0x100000001b3);
    return h;
}

/* Where the control of @id hangs in the trie, or would. */
static struct queued_control **place_of(struct control_queue *q, const char *id)
{
    struct queued_control **at = &q->by_id;
    for (uint64_t h = id_hash(id); *at != NULL && strcmp((*at)->id, id) != 0; h <<= BRANCH_BITS)
        at = &(*at)->branch[h >> (64 - BRANCH_BITS)];
    return at;
}

static void leave_order(struct control_queue *q, struct queued_control *c)
{
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        q->first = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    else
        q->last = c->prev;
    weir_assert(q->bytes >= c->size);
    q->bytes -= c->size;
    q->count--;
}

void control_queue_clear(struct control_queue *q)
{
    while (q->first != NULL) {
        struct queued_control *c = q->first;
        leave_order(q, c);
        block_give(c, c->allocated);
    }
    weir_assert(q->bytes == 0);
    *q = (struct control_queue){0};
}

static void append_control(struct control_queue *q, struct queued_control *c)
{
    c->prev = q->last;
    c->next = NULL;
    if (q->last != NULL)
        q->last->next = c;
    else
        q->first = c;
    q->last = c;
    q->bytes += c->size;
    q->count++;
}

/* Takes @c; true: an older one gave way to it. */
static bool put_control(struct control_queue *q, struct queued_control *c)
{
    struct queued_control **at = place_of(q, c->id), *old = *at;
    if (old != NULL) {
        memcpy(c->branch, old->branch, sizeof(c->branch));
        leave_order(q, old);
        block_give(old, old->allocated);
    }
    *at = c;
    append_control(q, c);
    return old != NULL;
}

static size_t rates_of(const struct control_item *item, Weir__Control__Rate *rate,
                       Weir__Control__Rate **ptr)
{
    size_t n = 0;
    for (uint32_t k = 0; k < GATE_KIND_COUNT && !item->remove; k++) {
        const struct bucket_rate *from = &item->limits.rate[k];
        if (from->rate == 0 || from->rate > FRAME_RATE_MAX)
            continue; /* no limit of this kind */
        Weir__Control__Rate *r = &rate[n];
        weir__control__rate__init(r);
        r->kind = k;
        r->rate = from->rate;
        uint64_t burst_ms = from->burst_ns / NS_PER_MS;
        if (from->burst_rate > from->rate && burst_ms > 0) {
            r->burst_rate = from->burst_rate < FRAME_RATE_MAX ? from->burst_rate : FRAME_RATE_MAX;
            r->burst_ms = burst_ms < FRAME_BURST_MS_MAX ? burst_ms : FRAME_BURST_MS_MAX;
        }
        ptr[n++] = r;
    }
    return n;
}

static void share_of(const struct control_item *item, Weir__Control__Share *s)
{
    const struct sched_terms *t = &item->share;
    weir__control__share__init(s);
    s->reserve_iops = t->reserve_iops;
    s->reserve_bytes_s = t->reserve_bytes_s;
    s->weight = t->weight < FRAME_WEIGHT_MAX ? t->weight : FRAME_WEIGHT_MAX;
    s->priority = t->priority;
    s->latency_us = t->latency_us;
    s->percentile_ppm = t->percentile_ppm;
    s->while_iops = t->while_iops;
    s->credit_us = t->credit_us;
    s->elsewhere_cost_ns = t->elsewhere_cost_ns;
    s->elsewhere_ios = t->elsewhere_ios;
    s->elsewhere_bytes = t->elsewhere_bytes;
    s->reserve_read_iops = t->reserve_dir_iops[IO_DIR_READ];
    s->reserve_write_iops = t->reserve_dir_iops[IO_DIR_WRITE];
    s->reserve_read_bytes_s = t->reserve_dir_bytes_s[IO_DIR_READ];
    s->reserve_write_bytes_s = t->reserve_dir_bytes_s[IO_DIR_WRITE];
    s->elsewhere_read_ios = t->elsewhere_dir_ios[IO_DIR_READ];
    s->elsewhere_write_ios = t->elsewhere_dir_ios[IO_DIR_WRITE];
    s->elsewhere_read_bytes = t->elsewhere_dir_bytes[IO_DIR_READ];
    s->elsewhere_write_bytes = t->elsewhere_dir_bytes[IO_DIR_WRITE];
}

static void plan_of(const struct control_item *item, Weir__Control__TargetPlan *p)
{
    const struct window_plan *from = &item->plan;
    weir__control__target_plan__init(p);
    p->target = (char *)(uintptr_t)item->target;
    p->slots_milli = from->slots_milli;
    p->wait_us = from->wait_us;
    p->read_base_ns = from->cost.base_ns[IO_DIR_READ];
    p->read_page_ns = from->cost.page_ns[IO_DIR_READ];
    p->write_base_ns = from->cost.base_ns[IO_DIR_WRITE];
    p->write_page_ns = from->cost.page_ns[IO_DIR_WRITE];
    p->observe = from->observe;
    p->look_id = from->look.id;
    p->look_ms = from->look.ms;
    p->look_slots_milli = from->look.slots_milli;
    p->look_all = from->look.all;
    p->look_after_ms = from->look.after_ms;
}

/* One control as field 4 of SetControls. */
static int control_pack(const struct control_item *item, char **members, struct slab *slab,
                        struct queued_control **ret)
{
    Weir__Control__Rate rate[GATE_KIND_COUNT], *rate_ptr[GATE_KIND_COUNT];
    Weir__Control__Control c = WEIR__CONTROL__CONTROL__INIT;
    c.id = (char *)(uintptr_t)item->id;
    c.planned = item->planned;
    c.reason = (char *)(uintptr_t)item->reason;
    c.rates = rate_ptr;
    c.n_rates = rates_of(item, rate, rate_ptr);
    Weir__Control__Share share;
    Weir__Control__TargetPlan plan;
    if (!item->remove && item->share.weight > 0) {
        share_of(item, &share);
        c.share = &share;
    }
    if (!item->remove && item->target[0] != '\0') {
        plan_of(item, &plan);
        c.plan = &plan;
    }
    c.members = members;
    c.n_members = item->remove ? 0 : item->member_count;
    for (size_t i = 0; i < c.n_members; i++)
        members[i] = item->member[i];
    size_t body = weir__control__control__get_packed_size(&c);
    if (body > FRAME_MAX - PART_HEAD_MAX || c.n_members > FRAME_MEMBERS_MAX)
        return WEIR_E_TOO_LARGE;
    uint8_t head[16] = {TAG_CONTROLS};
    size_t head_size = 1 + varint_put(head + 1, body);
    bool allocated;
    struct queued_control *q = block_take(slab, sizeof(*q) + head_size + body, &allocated);
    if (q == NULL)
        return -ENOMEM;
    *q = (struct queued_control){.allocated = allocated, .size = head_size + body};
    memcpy(q->id, item->id, sizeof(q->id));
    memcpy(q->bytes, head, head_size);
    size_t packed = weir__control__control__pack(&c, q->bytes + head_size);
    weir_assert(packed == body);
    *ret = q;
    return 0;
}

static int add_items(struct control_queue *q, const struct control_update *u, char **members,
                     struct slab *slab, size_t *ret_replaced)
{
    for (size_t i = 0; i < u->item_count; i++) {
        struct queued_control *c = NULL;
        int r = control_pack(&u->item[i], members, slab, &c);
        if (r < 0)
            return r;
        *ret_replaced += put_control(q, c);
        if (q->bytes > CONTROL_QUEUE_MAX)
            return WEIR_E_FULL;
    }
    return 0;
}

int control_queue_add(struct control_queue *q, const struct control_update *u, struct slab *slab,
                      size_t *ret_replaced)
{
    size_t most = u->item_count > 0; /* a renewal alone needs no memory */
    bool allocated = false;
    for (size_t i = 0; i < u->item_count; i++)
        most = u->item[i].member_count > most ? u->item[i].member_count : most;
    char **members = most > 0 ? block_take(slab, most * sizeof(*members), &allocated) : NULL;
    if (members == NULL && most > 0)
        return -ENOMEM;
    if (u->full) {
        *ret_replaced += q->count;
        uint32_t lease = q->lease_ms;
        control_queue_clear(q);
        q->full = true;
        q->lease_ms = lease;
    }
    q->any = true;
    q->epoch = u->epoch;
    if (u->lease_ms > 0)
        q->lease_ms = u->lease_ms < FRAME_LEASE_MS_MAX ? u->lease_ms : FRAME_LEASE_MS_MAX;
    int r = add_items(q, u, members, slab, ret_replaced);
    block_give(members, allocated);
    return r;
}

/* How many of the controls from @c on go into one frame, and their bytes. */
static size_t part_measure(const struct queued_control *c, size_t *ret_bytes)
{
    size_t n = 0, bytes = 0;
    for (; c != NULL && n < FRAME_CONTROLS_MAX; c = c->next, n++) {
        if (n > 0 && bytes + c->size > PART_SIZE)
            break;
        bytes += c->size;
    }
    *ret_bytes = bytes;
    return n;
}

static void part_head(const struct control_queue *q, uint64_t session, bool first, bool more,
                      size_t bytes, struct text *out)
{
    Weir__Control__SetControls s = WEIR__CONTROL__SET_CONTROLS__INIT;
    uint8_t fields[PART_HEAD_MAX], frame[16];
    s.epoch = q->epoch;
    s.lease_ms = q->lease_ms;
    s.full = q->full && first;
    s.more = more;
    s.session = session;
    size_t fields_size = weir__control__set_controls__get_packed_size(&s);
    weir_assert(fields_size <= sizeof(fields));
    weir__control__set_controls__pack(&s, fields);
    size_t frame_size = 0;
    frame[frame_size++] = TAG_SET_CONTROLS;
    frame_size += varint_put(frame + frame_size, fields_size + bytes);
    size_t length = frame_size + fields_size + bytes;
    weir_assert(length <= FRAME_MAX);
    const uint8_t header[FRAME_HEADER_SIZE] = {(uint8_t)(length >> 24), (uint8_t)(length >> 16),
                                               (uint8_t)(length >> 8), (uint8_t)length};
    text_append(out, header, sizeof(header));
    text_append(out, frame, frame_size);
    text_append(out, fields, fields_size);
}

int control_queue_pack(struct control_queue *q, uint64_t session, struct text *out)
{
    weir_assert(q->any);
    const struct queued_control *c = q->first;
    size_t left = q->count;
    int frames = 0;
    do {
        size_t bytes, n = part_measure(c, &bytes);
        left -= n;
        part_head(q, session, frames == 0, left > 0, bytes, out);
        for (; n > 0; n--, c = c->next)
            text_append(out, c->bytes, c->size);
        frames++;
    } while (left > 0);
    control_queue_clear(q);
    return out->failed ? -ENOMEM : frames;
}

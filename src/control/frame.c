/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: a 4-byte big-endian length, then one packed protobuf Frame.
 *
 * Problem. Both ends must take bytes from a peer that may be hostile without a malloc per field,
 * without unbounded memory, and without each consumer checking lengths and ranges again.
 *
 * Model. frame_peek looks at the length alone, before anything is buffered for it. frame_unpack
 * lets protobuf-c work in a bump arena and then walks the result once (the frame_valid_* functions,
 * one a message).
 *
 * Invariants:
 *  1. No frame makes us take memory: the arena's block is all there is, a frame that does not fit
 *     is refused.
 *  2. What frame_unpack returns has a body, enums inside their tables, byte fields of their exact
 *     size, strings of at most FRAME_STRING_MAX bytes, arrays that belong together of one length,
 *     no repeated key
 *     (operation, histogram, kind of rate) and numbers inside the ranges of docs/protocol.md.
 *  3. free is nothing: the arena is reset as a whole, so the result may be kept exactly until then.
 *  4. The schema has no recursive message: depth is bounded by it. */
#include "control/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "control/auth.h"

#define ARENA_ALIGN 16u

static void *arena_alloc(void *arena, size_t size)
{
    struct frame_arena *a = arena;
    size_t left = a->size - a->used;
    if (size > left) {
        a->refused = true;
        return NULL;
    }
    void *p = a->block + a->used;
    size_t padded = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    a->used += padded < left ? padded : left;
    return p;
}

static void arena_free(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

int frame_arena_init(struct frame_arena *a, size_t size)
{
    weir_assert(size > 0);
    uint8_t *block = malloc(size);
    if (block == NULL)
        return -ENOMEM;
    *a = (struct frame_arena){
        .block = block,
        .size = size,
        .allocator = {.alloc = arena_alloc, .free = arena_free, .allocator_data = a},
    };
    return 0;
}

void frame_arena_fini(struct frame_arena *a)
{
    free(a->block);
    *a = (struct frame_arena){0};
}

void frame_arena_reset(struct frame_arena *a)
{
    a->used = 0;
    a->refused = false;
}

static uint32_t load_be32(const void *bytes)
{
    const uint8_t *p = bytes;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

int64_t frame_peek(const void *bytes, size_t n)
{
    if (n < FRAME_HEADER_SIZE)
        return 0;
    uint32_t length = load_be32(bytes);
    if (length == 0)
        return WEIR_E_PROTO;
    if (length > FRAME_MAX)
        return WEIR_E_TOO_LARGE;
    return n - FRAME_HEADER_SIZE < length ? 0 : (int64_t)length + FRAME_HEADER_SIZE;
}

static bool valid_string(const char *s)
{
    return s != NULL && strnlen(s, FRAME_STRING_MAX + 1u) <= FRAME_STRING_MAX;
}

static bool valid_bytes(const ProtobufCBinaryData *b, size_t size)
{
    return b->len == size && b->data != NULL;
}

static bool valid_hello(const Weir__Control__Hello *h)
{
    return h->version_min >= 1 && h->version_min <= h->version_max &&
           valid_bytes(&h->gateway_id, AUTH_ID_SIZE) && valid_bytes(&h->boot_id, AUTH_ID_SIZE) &&
           valid_bytes(&h->nonce, AUTH_NONCE_SIZE) && valid_string(h->name) && h->name[0] != '\0' &&
           valid_string(h->software) && valid_string(h->key_id) &&
           strlen(h->key_id) < AUTH_KEY_ID_SIZE;
}

static bool valid_challenge(const Weir__Control__Challenge *c)
{
    return c->version >= 1 && valid_bytes(&c->nonce, AUTH_NONCE_SIZE) &&
           valid_bytes(&c->proof, AUTH_PROOF_SIZE) && valid_string(c->server_name);
}

static bool valid_welcome(const Weir__Control__Welcome *w)
{
    return w->session != 0 && w->heartbeat_ms >= FRAME_HEARTBEAT_MS_MIN &&
           w->heartbeat_ms <= FRAME_HEARTBEAT_MS_MAX && valid_string(w->new_key_id) &&
           strlen(w->new_key_id) < AUTH_KEY_ID_SIZE;
}

static bool valid_ops(const Weir__Control__StreamStats *s)
{
    uint32_t seen = 0;
    for (size_t i = 0; i < s->n_ops; i++) {
        int op = (int)s->ops[i]->op;
        if (op < WEIR__CONTROL__OP__READ || op > WEIR__CONTROL__OP__OTHER)
            return false;
        if ((seen & 1u << op) != 0)
            return false;
        seen |= 1u << op;
    }
    return true;
}

static bool valid_hist(const Weir__Control__HistStats *h)
{
    int kind = (int)h->kind;
    if (kind < WEIR__CONTROL__HIST_KIND__HELD || kind > WEIR__CONTROL__HIST_KIND__TOTAL)
        return false;
    if (h->n_index != h->n_count)
        return false;
    for (size_t i = 0; i < h->n_index; i++) {
        if (h->index[i] >= FRAME_HIST_BUCKETS)
            return false;
        if (i > 0 && h->index[i] <= h->index[i - 1])
            return false;
    }
    return true;
}

static bool valid_hists(const Weir__Control__StreamStats *s)
{
    uint32_t seen = 0;
    for (size_t i = 0; i < s->n_hists; i++) {
        if (!valid_hist(s->hists[i]))
            return false;
        uint32_t bit = 1u << ((uint32_t)s->hists[i]->kind * 2 + (s->hists[i]->write ? 1 : 0));
        if ((seen & bit) != 0)
            return false;
        seen |= bit;
    }
    return true;
}

static bool valid_stream(const Weir__Control__StreamStats *s)
{
    const Weir__Control__StreamInfo *i = s->info;
    if (i != NULL && (!valid_string(i->host) || !valid_string(i->volume) ||
                      !valid_string(i->tenant) || !valid_string(i->target)))
        return false;
    return valid_ops(s) && valid_hists(s) && valid_string(s->held_by) && valid_string(s->share) &&
           s->burst_ppm <= 1000001;
}

static bool valid_model(uint64_t read_base, uint64_t read_page, uint64_t write_base,
                        uint64_t write_page)
{
    return read_base <= FRAME_COST_NS_MAX && read_page <= FRAME_COST_NS_MAX &&
           write_base <= FRAME_COST_NS_MAX && write_page <= FRAME_COST_NS_MAX;
}

static bool valid_target(const Weir__Control__TargetStats *t)
{
    return valid_string(t->name) && valid_string(t->uri) && valid_string(t->last_error) &&
           t->window_milli <= FRAME_SLOTS_MILLI_MAX &&
           t->parallelism_milli <= FRAME_SLOTS_MILLI_MAX &&
           valid_model(t->read_base_ns, t->read_page_ns, t->write_base_ns, t->write_page_ns);
}

static bool valid_key_id(const char *id)
{
    return valid_string(id) && id[0] != '\0' && strlen(id) < AUTH_KEY_ID_SIZE &&
           strpbrk(id, " \t\r\n") == NULL;
}

static bool valid_rekey(const Weir__Control__Rekey *r)
{
    return valid_key_id(r->base_key_id) && valid_key_id(r->key_id) &&
           valid_bytes(&r->exchange, AUTH_EXCHANGE_SIZE);
}

static bool valid_key_confirm(const Weir__Control__KeyConfirm *c)
{
    return valid_key_id(c->key_id) && valid_bytes(&c->proof, AUTH_PROOF_SIZE) &&
           (c->exchange.len == 0 || valid_bytes(&c->exchange, AUTH_EXCHANGE_SIZE));
}

static bool valid_date(int64_t s)
{
    return s >= 0 && s <= FRAME_DATE_MAX_S;
}

static bool valid_life(const Weir__Control__GatewayLife *l)
{
    return valid_string(l->last_death) && valid_string(l->last_upgrade) && l->hangs <= l->deaths &&
           valid_string(l->certificate) && valid_date(l->certificate_from_s) &&
           valid_date(l->certificate_until_s);
}

static bool valid_poll(const Weir__Control__Poll *p)
{
    return p->seq != 0 && p->acked < p->seq &&
           (p->drain == NULL || p->drain->left_ms <= FRAME_DRAIN_MS_MAX);
}

static bool valid_rates(Weir__Control__Rate *const *rate, size_t n)
{
    uint32_t seen = 0;
    for (size_t i = 0; i < n; i++) {
        const Weir__Control__Rate *r = rate[i];
        if (r->kind >= FRAME_RATE_KINDS || (seen & 1u << r->kind) != 0)
            return false;
        seen |= 1u << r->kind;
        if (r->rate == 0 || r->rate > FRAME_RATE_MAX || r->burst_rate > FRAME_RATE_MAX)
            return false;
        if (r->burst_rate != 0 && (r->burst_rate <= r->rate || r->burst_ms == 0))
            return false;
        if (r->burst_ms > FRAME_BURST_MS_MAX)
            return false;
    }
    return true;
}

static bool valid_limits(const Weir__Control__Statistics *s)
{
    if (s->n_limits > FRAME_LIMITS_MAX)
        return false;
    for (size_t i = 0; i < s->n_limits; i++) {
        const Weir__Control__LimitInForce *l = s->limits[i];
        if (!valid_string(l->id) || !valid_rates(l->rates, l->n_rates))
            return false;
    }
    return true;
}

static bool valid_statistics(const Weir__Control__Statistics *s)
{
    if (s->life != NULL && !valid_life(s->life))
        return false;
    if (s->seq == 0 || s->base_seq >= s->seq || !valid_bytes(&s->boot_id, AUTH_ID_SIZE))
        return false;
    if (s->n_streams > FRAME_STREAMS_MAX || s->n_targets > FRAME_TARGETS_MAX)
        return false;
    for (size_t i = 0; i < s->n_streams; i++) {
        if (!valid_stream(s->streams[i]))
            return false;
    }
    for (size_t i = 0; i < s->n_targets; i++) {
        if (!valid_target(s->targets[i]))
            return false;
    }
    return valid_limits(s);
}

static bool valid_reserved(const Weir__Control__Share *s)
{
    const uint64_t rate[] = {s->reserve_iops,         s->reserve_bytes_s,
                             s->reserve_read_iops,    s->reserve_write_iops,
                             s->reserve_read_bytes_s, s->reserve_write_bytes_s};
    for (size_t i = 0; i < sizeof rate / sizeof rate[0]; i++)
        if (rate[i] > FRAME_RATE_MAX)
            return false;
    return true;
}

static bool valid_share(const Weir__Control__Share *s)
{
    return s->weight >= 1 && s->weight <= FRAME_WEIGHT_MAX && valid_reserved(s) &&
           s->while_iops <= FRAME_RATE_MAX &&
           s->latency_us <= FRAME_TIME_US_MAX && s->credit_us <= FRAME_TIME_US_MAX &&
           s->percentile_ppm < 1000000;
}

static bool valid_plan(const Weir__Control__TargetPlan *p)
{
    return valid_string(p->target) && p->target[0] != '\0' &&
           p->slots_milli <= FRAME_SLOTS_MILLI_MAX && p->wait_us <= FRAME_TIME_US_MAX &&
           p->look_slots_milli <= FRAME_SLOTS_MILLI_MAX && p->look_ms <= FRAME_LOOK_MS_MAX &&
           p->look_after_ms <= FRAME_LOOK_MS_MAX &&
           valid_model(p->read_base_ns, p->read_page_ns, p->write_base_ns, p->write_page_ns);
}

static bool valid_set_controls(const Weir__Control__SetControls *s)
{
    if (s->epoch == 0 || s->lease_ms > FRAME_LEASE_MS_MAX || s->n_controls > FRAME_CONTROLS_MAX)
        return false;
    for (size_t i = 0; i < s->n_controls; i++) {
        const Weir__Control__Control *c = s->controls[i];
        if (!valid_string(c->id) || c->id[0] == '\0' || !valid_string(c->reason) ||
            !valid_rates(c->rates, c->n_rates))
            return false;
        if (c->n_members > FRAME_MEMBERS_MAX || (c->share != NULL && !valid_share(c->share)) ||
            (c->plan != NULL && !valid_plan(c->plan)))
            return false;
        for (size_t m = 0; m < c->n_members; m++) {
            if (!valid_string(c->members[m]))
                return false;
        }
    }
    return true;
}

/* Invariant 2, one case a message. */
static bool frame_valid(const Weir__Control__Frame *f)
{
    switch (f->body_case) {
    case WEIR__CONTROL__FRAME__BODY__NOT_SET:
        return false;
    case WEIR__CONTROL__FRAME__BODY_HELLO:
        return valid_hello(f->hello);
    case WEIR__CONTROL__FRAME__BODY_CHALLENGE:
        return valid_challenge(f->challenge);
    case WEIR__CONTROL__FRAME__BODY_PROOF:
        return valid_bytes(&f->proof->proof, AUTH_PROOF_SIZE);
    case WEIR__CONTROL__FRAME__BODY_WELCOME:
        return valid_welcome(f->welcome);
    case WEIR__CONTROL__FRAME__BODY_POLL:
        return valid_poll(f->poll);
    case WEIR__CONTROL__FRAME__BODY_STATISTICS:
        return valid_statistics(f->statistics);
    case WEIR__CONTROL__FRAME__BODY_SET_CONTROLS:
        return valid_set_controls(f->set_controls);
    case WEIR__CONTROL__FRAME__BODY_CONTROLS_ACK:
        return f->controls_ack->status <= 0 && valid_string(f->controls_ack->words);
    case WEIR__CONTROL__FRAME__BODY_SURGE:
        return valid_string(f->surge->why);
    case WEIR__CONTROL__FRAME__BODY_HEARTBEAT:
        return true;
    case WEIR__CONTROL__FRAME__BODY_ERROR:
        return valid_string(f->error->code) && valid_string(f->error->words);
    case WEIR__CONTROL__FRAME__BODY_BYE:
        return valid_string(f->bye->why);
    case WEIR__CONTROL__FRAME__BODY_REKEY:
        return valid_rekey(f->rekey);
    case WEIR__CONTROL__FRAME__BODY_KEY_CONFIRM:
        return valid_key_confirm(f->key_confirm);
    case _WEIR__CONTROL__FRAME__BODY__CASE_IS_INT_SIZE:
        return false;
    }
    return false;
}

int frame_unpack(struct frame_arena *a, const void *bytes, size_t n,
                 const Weir__Control__Frame **ret)
{
    int64_t whole = frame_peek(bytes, n);
    if (whole < 0)
        return (int)whole;
    if (whole == 0 || (size_t)whole != n)
        return WEIR_E_PROTO;
    const uint8_t *p = (const uint8_t *)bytes + FRAME_HEADER_SIZE;
    Weir__Control__Frame *f = weir__control__frame__unpack(&a->allocator, n - FRAME_HEADER_SIZE, p);
    if (f == NULL)
        return a->refused ? WEIR_E_TOO_LARGE : WEIR_E_PROTO;
    if (!frame_valid(f))
        return WEIR_E_PROTO;
    *ret = f;
    return 0;
}

struct text_sink {
    ProtobufCBuffer base;
    struct text *out;
};

static void sink_append(ProtobufCBuffer *b, size_t n, const uint8_t *bytes)
{
    struct text_sink *s = (struct text_sink *)(void *)b;
    text_append(s->out, bytes, n);
}

int frame_append(struct text *out, const Weir__Control__Frame *frame)
{
    weir_assert(frame->body_case != WEIR__CONTROL__FRAME__BODY__NOT_SET);
    size_t size = weir__control__frame__get_packed_size(frame);
    weir_assert(size > 0);
    if (size > FRAME_MAX || out->max - out->len < size + FRAME_HEADER_SIZE)
        return WEIR_E_TOO_LARGE;
    weir_assert(!out->failed);
    size_t before = out->len;
    const uint8_t header[FRAME_HEADER_SIZE] = {(uint8_t)(size >> 24), (uint8_t)(size >> 16),
                                               (uint8_t)(size >> 8), (uint8_t)size};
    struct text_sink sink = {.base = {.append = sink_append}, .out = out};
    text_append(out, header, sizeof(header));
    weir__control__frame__pack_to_buffer(frame, &sink.base);
    if (out->failed) {
        out->failed = false;
        out->len = before;
        return -ENOMEM;
    }
    weir_assert(out->len - before == size + FRAME_HEADER_SIZE);
    return 0;
}

const char *frame_body_name(Weir__Control__Frame__BodyCase body)
{
    switch (body) {
    case WEIR__CONTROL__FRAME__BODY__NOT_SET:
        return "none";
    case WEIR__CONTROL__FRAME__BODY_HELLO:
        return "hello";
    case WEIR__CONTROL__FRAME__BODY_CHALLENGE:
        return "challenge";
    case WEIR__CONTROL__FRAME__BODY_PROOF:
        return "proof";
    case WEIR__CONTROL__FRAME__BODY_WELCOME:
        return "welcome";
    case WEIR__CONTROL__FRAME__BODY_POLL:
        return "poll";
    case WEIR__CONTROL__FRAME__BODY_STATISTICS:
        return "statistics";
    case WEIR__CONTROL__FRAME__BODY_SET_CONTROLS:
        return "set-controls";
    case WEIR__CONTROL__FRAME__BODY_CONTROLS_ACK:
        return "controls-ack";
    case WEIR__CONTROL__FRAME__BODY_SURGE:
        return "surge";
    case WEIR__CONTROL__FRAME__BODY_HEARTBEAT:
        return "heartbeat";
    case WEIR__CONTROL__FRAME__BODY_ERROR:
        return "error";
    case WEIR__CONTROL__FRAME__BODY_BYE:
        return "bye";
    case WEIR__CONTROL__FRAME__BODY_REKEY:
        return "rekey";
    case WEIR__CONTROL__FRAME__BODY_KEY_CONFIRM:
        return "key-confirm";
    case _WEIR__CONTROL__FRAME__BODY__CASE_IS_INT_SIZE:
        return "none";
    }
    return "none";
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: almost every request goes to the target at once, byte for byte as it came, and must cost
 * no copy; a few are held, must not keep the later ones back, and join the same byte stream when
 * let go.
 *
 * Model: three sources of bytes, each strictly first in, first out: the input buffer itself, a ring
 * of headers of requests that were held and let go, and a ring of held write payload. What the
 * target gets is a weave of the three, written down as runs (kind, length). A run of SKIP drops
 * input bytes that went to a ring. Neighbours of one kind merge, so with nothing held there is a
 * single run, and sending is one write of one piece.
 *
 * The hold ring can be a ring because the gate lets the writes of one flow go in the order in which
 * they came, and so the writes of one connection too.
 *
 * Invariants:
 *  1. start + (INPUT and SKIP bytes in the weave) == parsed.
 *  2. hold_head <= hold_released <= hold_tail <= hold_head + hold_size; bytes up to
 *     hold_released are in the weave, those behind it still held.
 *  3. The first run is never SKIP: skips at the front are carried out at once.
 *  4. pending == INPUT, HEADER and HOLD bytes in the weave. */
#include "gateway/relay_out.h"

#include <string.h>

#include "base/assert.h"

/* Moving so few bytes to the front of the input is cheaper than a colder cache. */
#define RELAY_INPUT_MOVE_FREE 64u
/* So many bytes left over are taken to where the next read goes: a header's part as a rule. */
#define RELAY_INPUT_MOVE_MAX 4096u

_Static_assert((RELAY_HOLD_SIZE & (RELAY_HOLD_SIZE - 1)) == 0, "ring places are masks");
_Static_assert((RELAY_HEADER_SIZE & (RELAY_HEADER_SIZE - 1)) == 0, "ring places are masks");
_Static_assert((RELAY_RUNS & (RELAY_RUNS - 1)) == 0, "ring places are masks");

void relay_input_init(struct relay_input *in)
{
    in->data = in->own;
    in->start = in->parsed = in->end = 0;
}

/* Replace the place of the bytes from start to end. */
static void relay_input_move(struct relay_input *in, uint8_t *to)
{
    size_t start = in->start;
    weir_assert(start <= in->parsed);
    weir_assert(in->parsed <= in->end);
    memcpy(to, in->data + start, in->end - start);
    in->data = to;
    in->start = 0;
    in->parsed -= start;
    in->end -= start;
}

void relay_input_borrow(struct relay_input *in, uint8_t *lent)
{
    weir_assert(in->data == in->own);
    if (in->start == in->parsed && in->end - in->parsed <= RELAY_INPUT_MOVE_MAX)
        relay_input_move(in, lent);
}

void relay_input_keep(struct relay_input *in)
{
    if (in->data != in->own)
        relay_input_move(in, in->own);
}

size_t relay_input_room(struct relay_input *in)
{
    weir_assert(in->start <= in->parsed);
    weir_assert(in->parsed <= in->end);
    if (in->start == in->parsed && in->start > 0) {
        size_t left = in->end - in->parsed;
        /* A full buffer is only moved when that frees half of it, so that a slow trickle of parsed
         * bytes does not move the whole again and again. */
        bool full = in->end == RELAY_INPUT_SIZE;
        if (left <= RELAY_INPUT_MOVE_FREE || (full && left <= RELAY_INPUT_SIZE / 2)) {
            memmove(in->data, in->data + in->parsed, left);
            in->start = in->parsed = 0;
            in->end = left;
        }
    }
    return RELAY_INPUT_SIZE - in->end;
}

void relay_out_init(struct relay_out *o, struct relay_input *input, uint8_t *hold, uint8_t *header,
                    struct relay_run *runs)
{
    *o = (struct relay_out){
        .input = input,
        .hold = hold,
        .hold_size = RELAY_HOLD_SIZE,
        .header = header,
        .runs = runs,
    };
}

static void relay_out_push(struct relay_out *o, enum relay_run_kind kind, size_t n)
{
    if (n == 0)
        return;
    weir_assert(n <= RELAY_HOLD_MAX);
    if (kind != RELAY_RUN_SKIP)
        o->pending += n;
    if (o->run_head != o->run_tail) {
        struct relay_run *last = &o->runs[(o->run_tail - 1) & (RELAY_RUNS - 1)];
        if (last->kind == kind) {
            last->len += (uint32_t)n;
            return;
        }
    } else if (kind == RELAY_RUN_SKIP) {
        o->input->start += n;
        return;
    }
    weir_assert(o->run_tail - o->run_head < RELAY_RUNS);
    struct relay_run *run = &o->runs[o->run_tail++ & (RELAY_RUNS - 1)];
    *run = (struct relay_run){.kind = kind, .len = (uint32_t)n};
}

void relay_out_pass_new(struct relay_out *o, size_t n)
{
    relay_out_push(o, RELAY_RUN_INPUT, n);
}

void relay_out_skip(struct relay_out *o, size_t n)
{
    weir_assert(n <= o->input->end - o->input->parsed);
    o->input->parsed += n;
    relay_out_push(o, RELAY_RUN_SKIP, n);
}

/* Copy into a ring of @size bytes at count @at. */
static void relay_ring_put(uint8_t *ring, size_t size, uint64_t at, const uint8_t *from, size_t n)
{
    size_t place = (size_t)at & (size - 1);
    size_t first = n < size - place ? n : size - place;
    memcpy(ring + place, from, first);
    memcpy(ring, from + first, n - first);
}

void relay_out_hold(struct relay_out *o, size_t n)
{
    weir_assert(n <= relay_out_hold_room(o));
    weir_assert(n <= o->input->end - o->input->parsed);
    relay_ring_put(o->hold, o->hold_size, o->hold_tail, o->input->data + o->input->parsed, n);
    o->hold_tail += n;
    relay_out_skip(o, n);
}

size_t relay_out_hold_room(const struct relay_out *o)
{
    return o->hold_size - relay_out_hold_used(o);
}

size_t relay_out_hold_used(const struct relay_out *o)
{
    return (size_t)(o->hold_tail - o->hold_head);
}

void relay_out_hold_move(struct relay_out *o, uint8_t *ring, size_t size)
{
    size_t used = relay_out_hold_used(o), place = (size_t)o->hold_head & (o->hold_size - 1);
    weir_assert((size & (size - 1)) == 0);
    weir_assert(used <= size);
    size_t first = used < o->hold_size - place ? used : o->hold_size - place;
    relay_ring_put(ring, size, o->hold_head, o->hold + place, first);
    relay_ring_put(ring, size, o->hold_head + first, o->hold, used - first);
    o->hold = ring;
    o->hold_size = size;
}

void relay_out_release(struct relay_out *o, const uint8_t *header, size_t header_size, size_t n)
{
    weir_assert(relay_out_ready(o));
    weir_assert(header_size <= NBD_REQUEST_EXT_SIZE);
    weir_assert(n <= o->hold_tail - o->hold_released);
    relay_ring_put(o->header, RELAY_HEADER_SIZE, o->header_tail, header, header_size);
    o->header_tail += header_size;
    relay_out_push(o, RELAY_RUN_HEADER, header_size);
    o->hold_released += n;
    relay_out_push(o, RELAY_RUN_HOLD, n);
}

/* Pieces of a ring run: one, or two where it wraps. */
static int relay_ring_pieces(uint8_t *ring, size_t size, uint64_t at, size_t n, struct iovec *iov)
{
    size_t place = (size_t)at & (size - 1);
    size_t first = n < size - place ? n : size - place;
    iov[0] = (struct iovec){.iov_base = ring + place, .iov_len = first};
    if (first == n)
        return 1;
    iov[1] = (struct iovec){.iov_base = ring, .iov_len = n - first};
    return 2;
}

int relay_out_gather(const struct relay_out *o, struct iovec *iov, size_t *ret_bytes)
{
    size_t input = o->input->start, bytes = 0;
    uint64_t header = o->header_head, hold = o->hold_head;
    int count = 0;
    for (uint32_t i = o->run_head; i != o->run_tail && count < (int)RELAY_OUT_IOV - 1; i++) {
        const struct relay_run *run = &o->runs[i & (RELAY_RUNS - 1)];
        switch (run->kind) {
        case RELAY_RUN_INPUT:
            iov[count++] = (struct iovec){.iov_base = o->input->data + input, .iov_len = run->len};
            input += run->len;
            break;
        case RELAY_RUN_SKIP:
            input += run->len;
            continue;
        case RELAY_RUN_HEADER:
            count += relay_ring_pieces(o->header, RELAY_HEADER_SIZE, header, run->len, iov + count);
            header += run->len;
            break;
        case RELAY_RUN_HOLD:
            count += relay_ring_pieces(o->hold, o->hold_size, hold, run->len, iov + count);
            hold += run->len;
            break;
        }
        bytes += run->len;
    }
    *ret_bytes = bytes;
    return count;
}

/* Take @n bytes off the source that @kind names. */
static void relay_out_take(struct relay_out *o, enum relay_run_kind kind, size_t n)
{
    switch (kind) {
    case RELAY_RUN_INPUT:
    case RELAY_RUN_SKIP:
        o->input->start += n;
        weir_assert(o->input->start <= o->input->parsed);
        break;
    case RELAY_RUN_HEADER:
        o->header_head += n;
        weir_assert(o->header_head <= o->header_tail);
        break;
    case RELAY_RUN_HOLD:
        o->hold_head += n;
        weir_assert(o->hold_head <= o->hold_released);
        break;
    }
}

void relay_out_sent(struct relay_out *o, size_t n)
{
    weir_assert(n <= o->pending);
    o->pending -= n;
    while (o->run_head != o->run_tail) {
        struct relay_run *run = &o->runs[o->run_head & (RELAY_RUNS - 1)];
        bool skip = run->kind == RELAY_RUN_SKIP;
        if (!skip && n == 0)
            break;
        size_t part = skip || run->len <= n ? run->len : n;
        relay_out_take(o, run->kind, part);
        if (!skip)
            n -= part;
        run->len -= (uint32_t)part;
        if (run->len > 0)
            break;
        o->run_head++;
    }
    weir_assert(n == 0);
}

size_t relay_out_plain(const struct relay_out *o)
{
    const struct relay_run *run = &o->runs[o->run_head & (RELAY_RUNS - 1)];
    return o->run_tail - o->run_head == 1 && run->kind == RELAY_RUN_INPUT ? run->len : 0;
}

void relay_out_unsent(struct relay_out *o, const uint8_t *data, size_t n)
{
    struct relay_input *in = o->input;
    size_t left = in->end - in->start;
    weir_assert(o->run_head == o->run_tail);
    weir_assert(in->data == in->own);
    weir_assert(in->start == in->parsed);
    weir_assert(n <= RELAY_INPUT_SIZE - left);
    memmove(in->own + n, in->own + in->start, left);
    memcpy(in->own, data, n);
    in->start = 0;
    in->parsed = n;
    in->end = n + left;
    relay_out_push(o, RELAY_RUN_INPUT, n);
}

void relay_out_discard(struct relay_out *o)
{
    relay_out_sent(o, o->pending);
    weir_assert(o->run_head == o->run_tail);
}

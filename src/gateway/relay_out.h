/* SPDX-License-Identifier: Apache-2.0 */
/* What goes from one host to its target: three byte queues woven into one, without copying the
 * first.
 *
 * Bytes that need not wait are sent straight out of the buffer they were read into; only what is
 * held is ever copied. See relay_out.c. Owner thread only; never allocates. */
#ifndef WEIR_GATEWAY_RELAY_OUT_H
#define WEIR_GATEWAY_RELAY_OUT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/assert.h"
#include "proto/nbd/request.h"

/* Bytes read from a host and not yet sent or held: 64 writes of 4 KiB with their headers fit. */
#define RELAY_INPUT_SIZE (320u * 1024u)
/* Each a power of two. */
#define RELAY_HOLD_SIZE (256u * 1024u)  /* payload of held writes, to begin with */
#define RELAY_HOLD_MAX (64u * 1024u * 1024u) /* and at most */
#define RELAY_HEADER_SIZE (32u * 1024u) /* headers of requests let go after being held */
#define RELAY_RUNS 4096u                /* runs of bytes of one kind, in order */
#define RELAY_RUNS_SPARE 8u             /* one request needs at most: input, header, held, skip */
#define RELAY_OUT_IOV 64u               /* pieces handed to one writev */

enum relay_run_kind {
    RELAY_RUN_INPUT,  /* straight from the input buffer */
    RELAY_RUN_SKIP,   /* input that was taken elsewhere (held): drop in passing */
    RELAY_RUN_HEADER, /* from the header ring */
    RELAY_RUN_HOLD,   /* from the hold ring */
};

struct relay_run {
    enum relay_run_kind kind;
    uint32_t len;
};

/* A linear buffer: [start, parsed) is in the weave, [parsed, end) not yet looked at. */
struct relay_input {
    uint8_t *data; /* own, or RELAY_INPUT_SIZE bytes lent for one read and its sending */
    size_t start, parsed, end;
    uint8_t own[RELAY_INPUT_SIZE];
};

struct relay_out {
    struct relay_input *input; /* borrowed: read by the owner */
    uint8_t *hold, *header;    /* borrowed rings */
    size_t hold_size;          /* a power of two */
    struct relay_run *runs;    /* borrowed, RELAY_RUNS */
    uint32_t run_head, run_tail;
    /* Ring positions count bytes for ever; the place is the count modulo the size. */
    uint64_t hold_head, hold_released, hold_tail;
    uint64_t header_head, header_tail;
    size_t pending; /* bytes to send */
};

void relay_input_init(struct relay_input *in);
/* Go on in @lent instead, if what is left is little and none of it in the weave. */
void relay_input_borrow(struct relay_input *in, uint8_t *lent);
/* Take what is left along from what was lent. */
void relay_input_keep(struct relay_input *in);
/* Room behind end; moves what is left to the front first when that is cheap. */
size_t relay_input_room(struct relay_input *in);

/* Borrows all; @hold, @header, @runs have the sizes above. */
void relay_out_init(struct relay_out *o, struct relay_input *input, uint8_t *hold, uint8_t *header,
                    struct relay_run *runs);

/* Whether one more request of any kind can be woven in (runs and header ring have room). */
static inline bool relay_out_ready(const struct relay_out *o)
{
    return RELAY_RUNS - (o->run_tail - o->run_head) >= RELAY_RUNS_SPARE &&
           RELAY_HEADER_SIZE - (o->header_tail - o->header_head) >= NBD_REQUEST_EXT_SIZE;
}

/* Begin a run of @n bytes of input; for relay_out_pass. */
void relay_out_pass_new(struct relay_out *o, size_t n);
/* The next @n unparsed input bytes go to the target in place. Inline: once or twice an I/O. */
static inline void relay_out_pass(struct relay_out *o, size_t n)
{
    struct relay_run *last = &o->runs[(o->run_tail - 1) & (RELAY_RUNS - 1)];
    weir_assert(n <= o->input->end - o->input->parsed);
    o->input->parsed += n;
    if (o->run_head == o->run_tail || last->kind != RELAY_RUN_INPUT) {
        relay_out_pass_new(o, n);
        return;
    }
    last->len += (uint32_t)n;
    o->pending += n;
}
/* The next @n unparsed input bytes were taken elsewhere. */
void relay_out_skip(struct relay_out *o, size_t n);
/* Copy the next @n unparsed input bytes to the hold ring (room asserted) and skip them. */
void relay_out_hold(struct relay_out *o, size_t n);
size_t relay_out_hold_room(const struct relay_out *o);
/* Held bytes, let go or not. */
size_t relay_out_hold_used(const struct relay_out *o);
/* Go on with another hold ring of @size bytes, a power of two that what is held fits. */
void relay_out_hold_move(struct relay_out *o, uint8_t *ring, size_t size);

/* Let go: a held request's header, then the oldest @n held bytes. */
void relay_out_release(struct relay_out *o, const uint8_t *header, size_t header_size, size_t n);

/* The pieces to send next, at most RELAY_OUT_IOV; returns their number and total in *@ret_bytes. */
int relay_out_gather(const struct relay_out *o, struct iovec *iov, size_t *ret_bytes);
/* The bytes to send when they are one piece of the input, else 0. */
size_t relay_out_plain(const struct relay_out *o);
/* @n of the gathered bytes were sent. */
void relay_out_sent(struct relay_out *o, size_t n);
/* The last @n bytes said to be sent, input all of them and now at @data, were not. Only with
 * nothing else to send, and the input kept. */
void relay_out_unsent(struct relay_out *o, const uint8_t *data, size_t n);
/* Forget everything that waits to be sent (the target takes no more). */
void relay_out_discard(struct relay_out *o);

#endif

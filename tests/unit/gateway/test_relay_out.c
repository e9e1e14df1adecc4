/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what the weave hands to the target is, byte for byte, what was passed and released, in that
 * order, however it is cut; nothing held leaks out early and nothing skipped gets in.
 * Method: a plain byte queue of everything due stands beside the weave. Random requests are passed,
 * held (payload to the ring) and released in their order, sent in random cuts, and each gathered
 * piece is compared with the queue. Ring ends and the input's move to the front are crossed many
 * times over, and the ring of held payload is exchanged for larger and smaller ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rng.h"
#include "gateway/relay_out.h"

#define QUEUE_SIZE (4u * 1024u * 1024u)
#define HELD_MAX 64u

struct held {
    uint8_t header[NBD_REQUEST_SIZE];
    size_t payload;
};

struct world {
    struct relay_input input;
    uint8_t hold[RELAY_HOLD_SIZE], header[RELAY_HEADER_SIZE];
    uint8_t *other_hold; /* of another size, or NULL: `hold` is in use */
    struct relay_run runs[RELAY_RUNS];
    struct relay_out out;
    struct rng rng;
    uint8_t due[QUEUE_SIZE]; /* the model: bytes that the target must get next */
    size_t due_start, due_end;
    struct held held[HELD_MAX]; /* a ring, oldest first */
    uint8_t held_payload[QUEUE_SIZE];
    size_t held_start, held_end; /* in held_payload */
    unsigned held_first, held_count;
    size_t bytes;
};

static struct world *world_new(uint64_t seed)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    rng_seed(&w->rng, seed);
    relay_input_init(&w->input);
    relay_out_init(&w->out, &w->input, w->hold, w->header, w->runs);
    return w;
}

static void world_due(struct world *w, const void *bytes, size_t n)
{
    if (w->due_end + n > QUEUE_SIZE) {
        memmove(w->due, w->due + w->due_start, w->due_end - w->due_start);
        w->due_end -= w->due_start;
        w->due_start = 0;
    }
    assert_true(w->due_end + n <= QUEUE_SIZE);
    memcpy(w->due + w->due_end, bytes, n);
    w->due_end += n;
}

/* As if so many random bytes had been read from the host. */
static bool world_read(struct world *w, size_t n)
{
    if (relay_input_room(&w->input) < n)
        return false;
    for (size_t i = 0; i < n; i++)
        w->input.data[w->input.end + i] = (uint8_t)rng_u64(&w->rng);
    w->input.end += n;
    return true;
}

static void world_pass(struct world *w, size_t n)
{
    if (!relay_out_ready(&w->out) || !world_read(w, n))
        return;
    world_due(w, w->input.data + w->input.parsed, n);
    relay_out_pass(&w->out, n);
}

static void world_hold(struct world *w, size_t payload)
{
    if (!relay_out_ready(&w->out) || w->held_count == HELD_MAX ||
        relay_out_hold_room(&w->out) < payload || !world_read(w, NBD_REQUEST_SIZE + payload))
        return;
    struct held *h = &w->held[(w->held_first + w->held_count++) % HELD_MAX];
    h->payload = payload;
    memcpy(h->header, w->input.data + w->input.parsed, sizeof(h->header));
    relay_out_skip(&w->out, sizeof(h->header));
    if (w->held_end + payload > QUEUE_SIZE) {
        memmove(w->held_payload, w->held_payload + w->held_start, w->held_end - w->held_start);
        w->held_end -= w->held_start;
        w->held_start = 0;
    }
    memcpy(w->held_payload + w->held_end, w->input.data + w->input.parsed, payload);
    w->held_end += payload;
    while (payload > 0) {
        size_t n = 1 + rng_below(&w->rng, payload);
        relay_out_hold(&w->out, n);
        payload -= n;
    }
}

static void world_release(struct world *w)
{
    if (w->held_count == 0 || !relay_out_ready(&w->out))
        return;
    const struct held *h = &w->held[w->held_first++ % HELD_MAX];
    w->held_count--;
    relay_out_release(&w->out, h->header, sizeof(h->header), h->payload);
    world_due(w, h->header, sizeof(h->header));
    world_due(w, w->held_payload + w->held_start, h->payload);
    w->held_start += h->payload;
}

/* Another ring for held payload, if what is held fits. */
static void world_move(struct world *w)
{
    size_t size = (size_t)RELAY_HOLD_SIZE / 4 << rng_below(&w->rng, 6);
    if (relay_out_hold_used(&w->out) > size)
        return;
    uint8_t *ring = malloc(size), *old = w->other_hold;
    assert_non_null(ring);
    relay_out_hold_move(&w->out, ring, size);
    w->other_hold = ring;
    free(old);
    memset(w->hold, 0xEE, sizeof(w->hold));
}

static void world_send(struct world *w, bool all)
{
    struct iovec iov[RELAY_OUT_IOV];
    size_t bytes, at = w->due_start;
    int count = relay_out_gather(&w->out, iov, &bytes);
    assert_true(count <= (int)RELAY_OUT_IOV);
    assert_true(bytes <= w->out.pending);
    assert_int_equal(count == 0, w->out.pending == 0);
    for (int i = 0; i < count; i++) {
        assert_true(at + iov[i].iov_len <= w->due_end);
        assert_memory_equal(iov[i].iov_base, w->due + at, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    assert_int_equal(at - w->due_start, bytes);
    size_t n = all ? bytes : rng_below(&w->rng, bytes + 1);
    relay_out_sent(&w->out, n);
    w->due_start += n;
    w->bytes += n;
    assert_int_equal(w->out.pending, w->due_end - w->due_start);
}

static void random_requests_reach_the_target_in_order_and_whole(void **state)
{
    (void)state;
    uint64_t seed = (uint64_t)getpid() ^ clock_mono_ns();
    print_message("seed %llu\n", (unsigned long long)seed);
    struct world *w = world_new(seed);
    for (int step = 0; step < 60000; step++) {
        switch (rng_below(&w->rng, 8)) {
        case 0:
        case 1:
            world_pass(w, NBD_REQUEST_SIZE);
            break;
        case 2:
            world_pass(w, 1 + rng_below(&w->rng, 20000));
            break;
        case 3:
            world_hold(w, 0);
            break;
        case 4:
            world_hold(w, 1 + rng_below(&w->rng, 10000));
            break;
        case 5:
        case 6:
            world_release(w);
            break;
        default:
            world_send(w, rng_below(&w->rng, 4) == 0);
        }
        if (rng_below(&w->rng, 50) == 0)
            world_move(w);
    }
    while (w->held_count > 0 || w->out.pending > 0) {
        world_release(w);
        world_send(w, true);
    }
    assert_int_equal(w->due_start, w->due_end);
    assert_true(w->bytes > 8 * RELAY_HOLD_SIZE);
    assert_int_equal(relay_out_hold_used(&w->out), 0);
    assert_int_equal(w->input.start, w->input.end);
    free(w->other_hold);
    free(w);
}

static void with_nothing_held_everything_is_one_piece_in_place(void **state)
{
    (void)state;
    struct world *w = world_new(1);
    for (int i = 0; i < 1000; i++)
        world_pass(w, NBD_REQUEST_SIZE);
    struct iovec iov[RELAY_OUT_IOV];
    size_t bytes;
    assert_int_equal(relay_out_gather(&w->out, iov, &bytes), 1);
    assert_ptr_equal(iov[0].iov_base, w->input.data);
    assert_int_equal(bytes, 1000 * NBD_REQUEST_SIZE);
    free(w);
}

static void released_headers_stop_at_the_bound_and_go_on_after_sending(void **state)
{
    (void)state;
    struct world *w = world_new(2);
    const uint8_t header[NBD_REQUEST_EXT_SIZE] = {0};
    unsigned released = 0;
    while (relay_out_ready(&w->out)) {
        relay_out_release(&w->out, header, sizeof(header), 0);
        released++;
    }
    assert_true(released >= 1000);
    relay_out_sent(&w->out, sizeof(header));
    assert_true(relay_out_ready(&w->out));
    relay_out_discard(&w->out);
    assert_int_equal(w->out.pending, 0);
    free(w);
}

static void a_held_request_between_two_others_takes_no_room_from_the_input(void **state)
{
    (void)state;
    struct world *w = world_new(3);
    world_pass(w, 100);
    world_hold(w, 1000);
    world_pass(w, 100);
    world_send(w, true);
    assert_int_equal(w->out.pending, 0);
    assert_int_equal(relay_input_room(&w->input), RELAY_INPUT_SIZE);
    assert_int_equal(relay_out_hold_room(&w->out), RELAY_HOLD_SIZE - 1000);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_requests_reach_the_target_in_order_and_whole),
        cmocka_unit_test(with_nothing_held_everything_is_one_piece_in_place),
        cmocka_unit_test(released_headers_stop_at_the_bound_and_go_on_after_sending),
        cmocka_unit_test(a_held_request_between_two_others_takes_no_room_from_the_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a frame goes over the wire and back unchanged; whatever a hostile peer sends is refused by
 * name, in bounded memory, and nothing out of range reaches a consumer.
 * Method: every message there and back; each rule of docs/protocol.md broken once; every truncation
 * and single-byte change of a large frame; an arena too small. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "control/auth.h"
#include "control/frame.h"

static struct frame_arena arena;
static uint8_t bytes16[AUTH_ID_SIZE], bytes32[AUTH_NONCE_SIZE];

static int set_up(void **state)
{
    (void)state;
    return frame_arena_init(&arena, FRAME_ARENA_SIZE);
}

static int tear_down(void **state)
{
    (void)state;
    frame_arena_fini(&arena);
    return 0;
}

static ProtobufCBinaryData bytes_of(uint8_t *p, size_t n)
{
    return (ProtobufCBinaryData){.len = n, .data = p};
}

/* Pack @f and unpack it; the result of unpacking. */
static int there_and_back(const Weir__Control__Frame *f, const Weir__Control__Frame **ret)
{
    struct text t;
    text_init(&t, 2 * FRAME_MAX);
    int r = frame_append(&t, f);
    assert_int_equal(r, 0);
    assert_int_equal(frame_peek(t.data, t.len), t.len);
    for (size_t n = 0; n < t.len; n++)
        assert_int_equal(frame_peek(t.data, n), 0);
    frame_arena_reset(&arena);
    r = frame_unpack(&arena, t.data, t.len, ret);
    text_fini(&t);
    return r;
}

static Weir__Control__Hello good_hello(void)
{
    Weir__Control__Hello h = WEIR__CONTROL__HELLO__INIT;
    h.version_min = 1;
    h.version_max = 3;
    h.gateway_id = bytes_of(bytes16, sizeof(bytes16));
    h.boot_id = bytes_of(bytes16, sizeof(bytes16));
    h.nonce = bytes_of(bytes32, sizeof(bytes32));
    h.name = (char *)(uintptr_t)"gw1";
    h.key_id = (char *)(uintptr_t)"local";
    return h;
}

static int try_hello(Weir__Control__Hello *h, const Weir__Control__Frame **ret)
{
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    f.body_case = WEIR__CONTROL__FRAME__BODY_HELLO;
    f.hello = h;
    return there_and_back(&f, ret);
}

static void a_hello_arrives_as_it_was_said(void **state)
{
    (void)state;
    Weir__Control__Hello h = good_hello();
    const Weir__Control__Frame *f = NULL;
    assert_int_equal(try_hello(&h, &f), 0);
    assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_HELLO);
    assert_int_equal(f->hello->version_max, 3);
    assert_string_equal(f->hello->name, "gw1");
    assert_string_equal(f->hello->software, "");
    assert_memory_equal(f->hello->nonce.data, bytes32, sizeof(bytes32));
}

static void a_hello_that_breaks_a_rule_is_refused(void **state)
{
    (void)state;
    const Weir__Control__Frame *f = NULL;
    char long_name[FRAME_STRING_MAX + 2];
    memset(long_name, 'a', sizeof(long_name));
    long_name[sizeof(long_name) - 1] = '\0';
    for (int rule = 0; rule < 9; rule++) {
        Weir__Control__Hello h = good_hello();
        switch (rule) {
        case 0:
            h.version_min = 0;
            break;
        case 1:
            h.version_min = 4;
            break;
        case 2:
            h.gateway_id.len = 15;
            break;
        case 3:
            h.boot_id.len = 0;
            break;
        case 4:
            h.nonce = bytes_of((uint8_t *)long_name, 33);
            break;
        case 5:
            h.name = (char *)(uintptr_t)"";
            break;
        case 6:
            h.name = long_name;
            break;
        case 7:
            h.software = long_name;
            break;
        case 8:
            h.key_id = long_name + FRAME_STRING_MAX + 1 - AUTH_KEY_ID_SIZE;
            break;
        }
        assert_int_equal(try_hello(&h, &f), WEIR_E_PROTO);
    }
    Weir__Control__Hello longest = good_hello();
    long_name[FRAME_STRING_MAX] = '\0';
    longest.name = long_name;
    longest.key_id = long_name + FRAME_STRING_MAX - AUTH_KEY_ID_SIZE + 1;
    assert_int_equal(try_hello(&longest, &f), 0);
}

/* One stream with an operation and a histogram, in places that the caller may bend. */
struct stats {
    Weir__Control__Frame frame;
    Weir__Control__Statistics s;
    Weir__Control__StreamStats stream, *streams[FRAME_STREAMS_MAX + 1];
    Weir__Control__OpStats op[2], *ops[2];
    Weir__Control__HistStats hist[2], *hists[2];
    Weir__Control__LimitInForce limit, *limits[FRAME_LIMITS_MAX + 1];
    Weir__Control__Rate rate[2], *rates[2];
    uint32_t index[3];
    uint64_t count[3];
};

static void stats_make(struct stats *t)
{
    weir__control__frame__init(&t->frame);
    weir__control__statistics__init(&t->s);
    weir__control__stream_stats__init(&t->stream);
    for (int i = 0; i < 2; i++) {
        weir__control__op_stats__init(&t->op[i]);
        weir__control__hist_stats__init(&t->hist[i]);
        t->ops[i] = &t->op[i];
        t->hists[i] = &t->hist[i];
        t->op[i].op = i == 0 ? WEIR__CONTROL__OP__READ : WEIR__CONTROL__OP__OTHER;
        t->hist[i].kind = WEIR__CONTROL__HIST_KIND__TOTAL;
        t->hist[i].write = i == 1;
        t->hist[i].n_index = t->hist[i].n_count = 3;
        t->hist[i].index = t->index;
        t->hist[i].count = t->count;
    }
    t->index[0] = 0, t->index[1] = 7, t->index[2] = FRAME_HIST_BUCKETS - 1;
    t->count[0] = 1, t->count[1] = UINT64_MAX, t->count[2] = 3;
    for (size_t i = 0; i <= FRAME_STREAMS_MAX; i++)
        t->streams[i] = &t->stream;
    t->stream.n_ops = 2;
    t->stream.ops = t->ops;
    t->stream.n_hists = 2;
    t->stream.hists = t->hists;
    t->stream.burst_ppm = 1000001;
    weir__control__limit_in_force__init(&t->limit);
    for (uint32_t i = 0; i < 2; i++) {
        weir__control__rate__init(&t->rate[i]);
        t->rate[i].kind = i;
        t->rate[i].rate = FRAME_RATE_MAX;
        t->rates[i] = &t->rate[i];
    }
    t->limit.id = (char *)(uintptr_t)"agreement/cap";
    t->limit.n_rates = 2;
    t->limit.rates = t->rates;
    for (size_t i = 0; i <= FRAME_LIMITS_MAX; i++)
        t->limits[i] = &t->limit;
    t->s.n_limits = 1;
    t->s.limits = t->limits;
    t->s.seq = 5;
    t->s.base_seq = 4;
    t->s.boot_id = bytes_of(bytes16, sizeof(bytes16));
    t->s.n_streams = 1;
    t->s.streams = t->streams;
    t->frame.body_case = WEIR__CONTROL__FRAME__BODY_STATISTICS;
    t->frame.statistics = &t->s;
}

static void statistics_arrive_bucket_by_bucket(void **state)
{
    (void)state;
    struct stats t;
    const Weir__Control__Frame *f = NULL;
    stats_make(&t);
    assert_int_equal(there_and_back(&t.frame, &f), 0);
    const Weir__Control__HistStats *h = f->statistics->streams[0]->hists[1];
    assert_true(h->write);
    assert_int_equal(h->n_index, 3);
    assert_memory_equal(h->index, t.index, sizeof(t.index));
    assert_memory_equal(h->count, t.count, sizeof(t.count));
}

static void statistics_that_break_a_rule_are_refused(void **state)
{
    (void)state;
    char long_text[FRAME_STRING_MAX + 2];
    memset(long_text, 'b', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    for (int rule = 0; rule < 17; rule++) {
        struct stats t;
        const Weir__Control__Frame *f = NULL;
        stats_make(&t);
        switch (rule) {
        case 0:
            t.s.seq = t.s.base_seq = 0;
            break;
        case 1:
            t.s.base_seq = 5;
            break;
        case 2:
            t.s.boot_id.len = 8;
            break;
        case 3:
            t.op[1].op = (Weir__Control__Op)8;
            break;
        case 4:
            t.op[1].op = (Weir__Control__Op)-1;
            break;
        case 5:
            t.op[1].op = t.op[0].op;
            break;
        case 6:
            t.hist[0].kind = (Weir__Control__HistKind)3;
            break;
        case 7:
            t.hist[1].write = false;
            break;
        case 8:
            t.hist[0].n_count = 2;
            break;
        case 9:
            t.index[2] = FRAME_HIST_BUCKETS;
            break;
        case 10:
            t.index[1] = 0;
            break;
        case 11:
            t.stream.held_by = long_text;
            break;
        case 12:
            t.s.n_streams = FRAME_STREAMS_MAX + 1;
            break;
        case 13:
            t.s.n_limits = FRAME_LIMITS_MAX + 1;
            break;
        case 14:
            t.limit.id = long_text;
            break;
        case 15:
            t.rate[1].kind = 0;
            break;
        case 16:
            t.rate[1].rate = 0;
            break;
        }
        assert_int_equal(there_and_back(&t.frame, &f), WEIR_E_PROTO);
    }
}

static void controls_that_break_a_rule_are_refused(void **state)
{
    (void)state;
    for (int rule = 0; rule < 17; rule++) {
        const Weir__Control__Frame *f = NULL;
        Weir__Control__Frame frame = WEIR__CONTROL__FRAME__INIT;
        Weir__Control__SetControls s = WEIR__CONTROL__SET_CONTROLS__INIT;
        Weir__Control__Control c = WEIR__CONTROL__CONTROL__INIT, *cp = &c;
        Weir__Control__Rate r[2] = {WEIR__CONTROL__RATE__INIT, WEIR__CONTROL__RATE__INIT},
                            *rp[2] = {r, r + 1};
        s.epoch = 9;
        s.lease_ms = 10000;
        s.n_controls = 1;
        s.controls = &cp;
        c.id = (char *)(uintptr_t)"agreement/x";
        c.n_rates = 2;
        c.rates = rp;
        r[0].kind = 2, r[0].rate = 100, r[0].burst_rate = 200, r[0].burst_ms = 1000;
        r[1].kind = 5, r[1].rate = FRAME_RATE_MAX;
        Weir__Control__Share share = WEIR__CONTROL__SHARE__INIT;
        Weir__Control__TargetPlan plan = WEIR__CONTROL__TARGET_PLAN__INIT;
        share.weight = 1;
        plan.target = (char *)(uintptr_t)"disk";
        c.share = &share;
        c.plan = &plan;
        frame.body_case = WEIR__CONTROL__FRAME__BODY_SET_CONTROLS;
        frame.set_controls = &s;
        switch (rule) {
        case 0:
            s.epoch = 0;
            break;
        case 1:
            s.lease_ms = FRAME_LEASE_MS_MAX + 1;
            break;
        case 2:
            c.id = (char *)(uintptr_t)"";
            break;
        case 3:
            r[1].kind = FRAME_RATE_KINDS;
            break;
        case 4:
            r[1].kind = 2;
            break;
        case 5:
            r[1].rate = 0;
            break;
        case 6:
            r[1].rate = FRAME_RATE_MAX + 1;
            break;
        case 7:
            r[0].burst_rate = 100;
            break;
        case 8:
            r[0].burst_ms = 0;
            break;
        case 9:
            r[0].burst_ms = FRAME_BURST_MS_MAX + 1;
            break;
        case 10:
            break;
        case 11:
            share.weight = 0;
            break;
        case 12:
            share.percentile_ppm = 1000000;
            break;
        case 13:
            share.latency_us = FRAME_TIME_US_MAX + 1;
            break;
        case 14:
            plan.target = (char *)(uintptr_t)"";
            break;
        case 15:
            plan.slots_milli = FRAME_SLOTS_MILLI_MAX + 1;
            break;
        case 16:
            plan.write_page_ns = FRAME_COST_NS_MAX + 1;
            break;
        }
        assert_int_equal(there_and_back(&frame, &f), rule == 10 ? 0 : WEIR_E_PROTO);
    }
}

static void lengths_that_no_frame_has_are_refused_before_their_bytes_come(void **state)
{
    (void)state;
    const uint8_t none[] = {0, 0, 0, 0}, large[] = {0, 16, 0, 1}, largest[] = {0, 16, 0, 0};
    assert_int_equal(frame_peek(none, 4), WEIR_E_PROTO);
    assert_int_equal(frame_peek(large, 4), WEIR_E_TOO_LARGE);
    assert_int_equal(frame_peek(largest, 4), 0);
}

static void a_frame_needs_a_body(void **state)
{
    (void)state;
    const uint8_t unknown_field[] = {0, 0, 0, 2, 0x78, 0};
    const Weir__Control__Frame *f = NULL;
    frame_arena_reset(&arena);
    assert_int_equal(frame_unpack(&arena, unknown_field, sizeof(unknown_field), &f), WEIR_E_PROTO);
}

static void a_frame_that_needs_more_than_the_arena_is_refused(void **state)
{
    (void)state;
    struct frame_arena small;
    struct stats t;
    struct text packed;
    const Weir__Control__Frame *f = NULL;
    stats_make(&t);
    t.s.n_streams = 100;
    text_init(&packed, FRAME_MAX);
    assert_int_equal(frame_append(&packed, &t.frame), 0);
    assert_int_equal(frame_arena_init(&small, 4096), 0);
    assert_int_equal(frame_unpack(&small, packed.data, packed.len, &f), WEIR_E_TOO_LARGE);
    assert_true(small.used <= small.size);
    /* It is good again for a frame that fits. */
    Weir__Control__Frame beat = WEIR__CONTROL__FRAME__INIT;
    Weir__Control__Heartbeat h = WEIR__CONTROL__HEARTBEAT__INIT;
    beat.body_case = WEIR__CONTROL__FRAME__BODY_HEARTBEAT;
    beat.heartbeat = &h;
    text_clear(&packed);
    assert_int_equal(frame_append(&packed, &beat), 0);
    frame_arena_reset(&small);
    assert_int_equal(frame_unpack(&small, packed.data, packed.len, &f), 0);
    frame_arena_fini(&small);
    text_fini(&packed);
}

static void no_truncation_or_changed_byte_does_harm(void **state)
{
    (void)state;
    struct stats t;
    struct text packed;
    stats_make(&t);
    text_init(&packed, FRAME_MAX);
    assert_int_equal(frame_append(&packed, &t.frame), 0);
    size_t taken = 0;
    for (size_t i = FRAME_HEADER_SIZE; i < packed.len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            const Weir__Control__Frame *f = NULL;
            packed.data[i] = (char)(packed.data[i] ^ (1 << bit));
            frame_arena_reset(&arena);
            int r = frame_unpack(&arena, packed.data, packed.len, &f);
            assert_true(r == 0 || r == WEIR_E_PROTO || r == WEIR_E_TOO_LARGE);
            taken += r == 0;
            packed.data[i] = (char)(packed.data[i] ^ (1 << bit));
        }
    }
    assert_true(taken > 0); /* a changed count is a count */
    for (size_t n = 1; n < packed.len - FRAME_HEADER_SIZE; n++) {
        const Weir__Control__Frame *f = NULL;
        packed.data[2] = (char)(n >> 8);
        packed.data[3] = (char)n;
        frame_arena_reset(&arena);
        (void)frame_unpack(&arena, packed.data, n + FRAME_HEADER_SIZE, &f);
        assert_int_equal(frame_unpack(&arena, packed.data, n + FRAME_HEADER_SIZE - 1, &f),
                         WEIR_E_PROTO);
    }
    text_fini(&packed);
}

static void what_does_not_fit_is_not_half_appended(void **state)
{
    (void)state;
    struct stats t;
    struct text out;
    stats_make(&t);
    text_init(&out, 40);
    text_append_str(&out, "before");
    assert_int_equal(frame_append(&out, &t.frame), WEIR_E_TOO_LARGE);
    assert_string_equal(out.data, "before");
    assert_false(out.failed);
    text_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hello_arrives_as_it_was_said),
        cmocka_unit_test(a_hello_that_breaks_a_rule_is_refused),
        cmocka_unit_test(statistics_arrive_bucket_by_bucket),
        cmocka_unit_test(statistics_that_break_a_rule_are_refused),
        cmocka_unit_test(controls_that_break_a_rule_are_refused),
        cmocka_unit_test(lengths_that_no_frame_has_are_refused_before_their_bytes_come),
        cmocka_unit_test(a_frame_needs_a_body),
        cmocka_unit_test(a_frame_that_needs_more_than_the_arena_is_refused),
        cmocka_unit_test(no_truncation_or_changed_byte_does_harm),
        cmocka_unit_test(what_does_not_fit_is_not_half_appended),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

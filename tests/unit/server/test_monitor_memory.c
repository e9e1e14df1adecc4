/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: in a steady state neither inbound nor outbound takes memory for a message, whole or in
 * pieces, in either direction.
 * Method: the monitor's real threads and sockets; every allocation of the program's own code goes
 * through a counter (ld --wrap) that looks which thread asks. A round is everything that goes to
 * and fro in ordinary times. After rounds that may fill pools and scratch space, further rounds
 * must not count a single one. That the counter counts is shown by what a session costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "monitor_stage.h"

#define GATEWAYS 8u
#define STREAMS 16u
#define ROUNDS_FIRST 20u
#define ROUNDS 50u
enum { INBOUND = 1, OUTBOUND = 2 }; /* stage.thread[] */

static _Atomic(const struct stage *) watched;
static _Atomic uint64_t taken[3];

static void count(void)
{
    const struct stage *s = atomic_load(&watched);
    for (size_t i = INBOUND; s != NULL && i <= OUTBOUND; i++) {
        if (pthread_equal(pthread_self(), s->thread[i]))
            atomic_fetch_add(&taken[i], 1);
    }
}

/* What ld --wrap binds names to. */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);

void *__wrap_malloc(size_t n)
{
    count();
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    count();
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    count();
    return __real_realloc(p, n);
}

char *__wrap_strdup(const char *s)
{
    count();
    return __real_strdup(s);
}

/* A frame of statistics with STREAMS streams. */
static void statistics(struct raw *r, uint64_t seq, struct text *out)
{
    static uint32_t index[] = {300, 303, 306};
    static uint64_t counts[] = {5, 7, 9};
    Weir__Control__StreamStats stream[STREAMS], *streams[STREAMS];
    Weir__Control__OpStats op = WEIR__CONTROL__OP_STATS__INIT, *ops = &op;
    Weir__Control__HistStats hist = WEIR__CONTROL__HIST_STATS__INIT, *hists = &hist;
    Weir__Control__Statistics st = WEIR__CONTROL__STATISTICS__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    op.arrivals = op.completions = 21;
    hist.index = index;
    hist.count = counts;
    hist.n_index = hist.n_count = 3;
    for (uint32_t i = 0; i < STREAMS; i++) {
        weir__control__stream_stats__init(&stream[i]);
        stream[i].index = i;
        stream[i].ops = &ops;
        stream[i].hists = &hists;
        stream[i].n_ops = stream[i].n_hists = 1;
        streams[i] = &stream[i];
    }
    st.seq = seq;
    st.boot_id = (ProtobufCBinaryData){.len = AUTH_ID_SIZE, .data = r->auth.boot_id};
    st.streams = streams;
    st.n_streams = STREAMS;
    f.body_case = WEIR__CONTROL__FRAME__BODY_STATISTICS;
    f.statistics = &st;
    text_clear(out);
    assert_int_equal(frame_append(out, &f), 0);
}

static uint64_t bytes_in(const struct stage *s)
{
    return stage_stats(s).bytes_in;
}

struct awaited {
    struct stage *stage;
    uint64_t bytes;
};

static bool half_is_in(void *awaited)
{
    const struct awaited *a = awaited;
    return bytes_in(a->stage) >= a->bytes;
}

static void say_small(struct raw *r, uint64_t epoch)
{
    Weir__Control__ControlsAck ack = WEIR__CONTROL__CONTROLS_ACK__INIT;
    Weir__Control__Heartbeat beat = WEIR__CONTROL__HEARTBEAT__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    ack.epoch = epoch;
    f.body_case = WEIR__CONTROL__FRAME__BODY_CONTROLS_ACK;
    f.controls_ack = &ack;
    raw_send(r, &f);
    f.body_case = WEIR__CONTROL__FRAME__BODY_HEARTBEAT;
    f.heartbeat = &beat;
    raw_send(r, &f);
}

static void expect(struct raw *r, Weir__Control__Frame__BodyCase body)
{
    const Weir__Control__Frame *f = raw_receive(r);
    assert_non_null(f);
    assert_int_equal(f->body_case, body);
}

/* One gateway: a renewal and a poll go out, an answer comes back, every other time in two pieces
 * that are read apart, then what is small. */
static void exchange(struct stage *s, struct raw *r, uint64_t session, uint64_t seq)
{
    struct text frame;
    text_init(&frame, FRAME_MAX);
    stage_controls(s, session, stage_update(seq, 1000, false, false, NULL, NULL, 0));
    stage_poll(s, session, seq, seq - 1);
    expect(r, WEIR__CONTROL__FRAME__BODY_SET_CONTROLS);
    expect(r, WEIR__CONTROL__FRAME__BODY_POLL);
    statistics(r, seq, &frame);
    size_t first = seq % 2 == 0 ? frame.len / 2 : frame.len;
    struct awaited a = {.stage = s, .bytes = bytes_in(s) + first};
    raw_send_bytes(r, frame.data, first);
    stage_until(s, half_is_in, &a);
    raw_send_bytes(r, frame.data + first, frame.len - first);
    struct msg m = stage_take(s, MSG_REPORT);
    assert_int_equal(((const struct report *)m.body)->stream_count, STREAMS);
    msg_release(&m);
    say_small(r, seq);
    m = stage_take(s, MSG_CONTROLS_ACK);
    msg_release(&m);
    text_fini(&frame);
}

static void a_message_takes_no_memory_in_either_direction(void **state)
{
    struct stage *s = *state;
    struct raw gateway[GATEWAYS];
    uint64_t session[GATEWAYS], before[3] = {0};
    atomic_store(&watched, s);
    for (size_t i = 0; i < GATEWAYS; i++) {
        raw_open(s, &gateway[i]);
        session[i] = raw_stand(&gateway[i]);
    }
    for (uint64_t seq = 1; seq <= ROUNDS_FIRST + ROUNDS; seq++) {
        if (seq == ROUNDS_FIRST + 1) {
            for (size_t t = INBOUND; t <= OUTBOUND; t++) {
                before[t] = atomic_load(&taken[t]);
                assert_true(before[t] > 0); /* so the counter sees both */
            }
        }
        for (size_t i = 0; i < GATEWAYS; i++)
            exchange(s, &gateway[i], session[i], seq);
    }
    for (size_t t = INBOUND; t <= OUTBOUND; t++)
        assert_int_equal(atomic_load(&taken[t]) - before[t], 0);
    atomic_store(&watched, NULL);
    assert_int_equal(stage_stats(s).reports, (uint64_t)GATEWAYS * (ROUNDS_FIRST + ROUNDS));
    for (size_t i = 0; i < GATEWAYS; i++)
        raw_close(&gateway[i]);
}

static int set_up(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    stage_open(s, 5000);
    *state = s;
    return 0;
}

static int tear_down(void **state)
{
    atomic_store(&watched, NULL);
    stage_close(*state);
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_message_takes_no_memory_in_either_direction, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

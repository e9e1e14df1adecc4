/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: in a steady state nobody takes memory for a message: neither inbound nor outbound, whole or
 * in pieces, in either direction, nor the SLA services between them, from the answer to a poll to
 * the controls that follow from it.
 * Method: every allocation of the program's own code goes through a counter (ld --wrap) that looks
 * which thread asks. The monitor's real threads and sockets: a round is everything that goes to and
 * fro in ordinary times, controls that wait and are replaced with it. The services as the SLA
 * process drives them, with its slab: a limit and a promise over gateways whose demand changes, so
 * that each period has new controls. After rounds that may fill pools and scratch space, further
 * rounds must not count a single one. That the counter counts is shown by what a session, or a
 * gateway, costs. */
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
#include "server/mailbox/slab.h"
#include "server/services/services.h"

#define GATEWAYS 8u
#define STREAMS 16u
#define ROUNDS_FIRST 20u
#define ROUNDS 50u
#define CONTROLS 6u
#define MEMBERS 4u
enum { INBOUND = 1, OUTBOUND = 2 }; /* stage.thread[] */

static _Atomic(const struct stage *) watched;
static _Atomic uint64_t taken[3];
static _Thread_local bool in_services;
static _Thread_local uint64_t by_services;

static void count(void)
{
    by_services += in_services;
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
void *__real_reallocarray(void *p, size_t n, size_t size);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
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

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
    count();
    return __real_reallocarray(p, n, size);
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

/* Limits on some groups of streams, of which @seq says the numbers. */
static struct control_update *some_controls(uint64_t seq)
{
    struct control_update *u = control_update_new(CONTROLS, CONTROLS * MEMBERS);
    assert_non_null(u);
    u->epoch = seq;
    u->lease_ms = 1000;
    for (size_t i = 0; i < CONTROLS; i++) {
        snprintf(u->item[i].id, sizeof(u->item[i].id), "agreement/of-%zu", i);
        u->item[i].limits.rate[GATE_IOPS_TOTAL].rate = 1000 + seq;
        control_update_members(u, i, MEMBERS);
        for (size_t m = 0; m < MEMBERS; m++)
            snprintf(u->item[i].member[m], STREAM_KEY_SIZE, "host%zu/volume%zu", i, m);
    }
    return u;
}

/* The set of @epoch came, be it after others, or together with them. */
static void expect_controls(struct raw *r, uint64_t epoch)
{
    const Weir__Control__Frame *f;
    do {
        f = raw_receive(r);
        assert_non_null(f);
        assert_int_equal(f->body_case, WEIR__CONTROL__FRAME__BODY_SET_CONTROLS);
        assert_int_equal(f->set_controls->n_controls, CONTROLS);
        assert_int_equal(f->set_controls->controls[0]->n_members, MEMBERS);
    } while (f->set_controls->epoch < epoch);
}

/* One gateway: new controls, newer ones and a poll go out, an answer comes back, every other time
 * in two pieces that are read apart, then what is small. */
static void exchange(struct stage *s, struct raw *r, uint64_t session, uint64_t seq)
{
    struct text frame;
    text_init(&frame, FRAME_MAX);
    stage_controls(s, session, some_controls(2 * seq - 1));
    stage_controls(s, session, some_controls(2 * seq));
    stage_poll(s, session, seq, seq - 1);
    expect_controls(r, 2 * seq);
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
    say_small(r, 2 * seq);
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

/* ---- the services
 * ------------------------------------------------------------------------------------------ */

#define PLACES 3u
#define PLACE_STREAMS 4u

struct place {
    struct services *services;
    struct slab *slab;
    uint64_t now_ns, seq[PLACES], epoch[PLACES], ios[PLACES];
    size_t controls;
};

static int on_poll(void *ctx, uint64_t session, uint16_t pair, const struct poll_request *p)
{
    struct place *t = ctx;
    (void)pair;
    t->seq[session - 1] = p->seq;
    return 0;
}

static struct control_update *on_update(void *ctx, size_t items, size_t members)
{
    struct place *t = ctx;
    void *block = slab_take(t->slab, control_update_size(items, members));
    return block != NULL ? control_update_place(block, items, members, slab_give) : NULL;
}

static int on_controls(void *ctx, uint64_t session, uint16_t pair, struct control_update *u)
{
    struct place *t = ctx;
    (void)pair;
    t->epoch[session - 1] = u->epoch;
    t->controls += u->item_count;
    control_update_free(u);
    return 0;
}

static void place_report(struct place *t, unsigned g, uint64_t ios)
{
    struct report_stream stream[PLACE_STREAMS];
    struct report_target target;
    memset(&target, 0, sizeof(target));
    struct report r = {.session = g + 1, .seq = t->seq[g], .mono_ns = t->now_ns,
                       .epoch = t->epoch[g], .target_count = 1, .stream_count = PLACE_STREAMS,
                       .stream = stream, .target = &target};
    r.boot[0] = (uint8_t)(g + 1);
    t->ios[g] += ios;
    for (unsigned i = 0; i < PLACE_STREAMS; i++) {
        stream[i] = (struct report_stream){.index = i, .has_info = true, .connections = 1,
                                           .op_count = 1, .cost_served_ns = t->ios[g] * 100000};
        snprintf(stream[i].host, sizeof(stream[i].host), "host%u", g);
        snprintf(stream[i].volume, sizeof(stream[i].volume), "volume%u", i);
        snprintf(stream[i].target, sizeof(stream[i].target), "array");
        stream[i].op[0] = (struct report_op){.op = IO_READ,
                                             .counts = {.arrivals = t->ios[g],
                                                        .completions = t->ios[g],
                                                        .bytes = t->ios[g] * 4096}};
    }
    snprintf(target.name, sizeof(target.name), "array");
    snprintf(target.uri, sizeof(target.uri), "nbd://10.0.0.1");
    target.parallelism_milli = 1000;
    target.busy_ns = target.full_ns = t->now_ns;
    services_report(t->services, &r, t->now_ns, 0);
}

/* A period: the demand of each gateway is another each time. */
static void place_period(struct place *t, uint64_t number)
{
    in_services = true;
    for (unsigned step = 0; step < 10; step++) {
        t->now_ns += NS_PER_S / 10;
        services_tick(t->services, t->now_ns, 0);
        for (unsigned g = 0; g < PLACES; g++) {
            if (t->seq[g] == 0)
                continue;
            place_report(t, g, 100 + 400 * ((number + g) % PLACES));
            t->seq[g] = 0;
            services_ack(t->services, g + 1, t->epoch[g], 0, t->now_ns, 0);
        }
    }
    in_services = false;
}

static void place_agree(struct place *t)
{
    struct agreement a = {.weight = 200, .version = 1, .per = AGREEMENT_PER_GROUP,
                          .reservation_iops = 500, .compliance_window_ns = 10 * NS_PER_S};
    char why[256];
    snprintf(a.name, sizeof(a.name), "group");
    snprintf(a.applies_to.volume, sizeof(a.applies_to.volume), "*");
    a.limits.rate[GATE_IOPS_TOTAL].rate = 2000;
    a.objective[0] = (struct objective){990000, 5000, 1000};
    a.objective_count = 1;
    assert_int_equal(services_agreement_put(t->services, &a, t->now_ns, 0, why, sizeof(why)), 0);
}

static void a_period_with_new_controls_takes_no_memory(void **state)
{
    (void)state;
    struct place t = {.now_ns = 1000 * NS_PER_S, .slab = slab_new(1u << 20)};
    const struct services_config c = {.period_ns = NS_PER_S, .lease_ns = 10 * NS_PER_S,
                                      .max_gateways = 8, .max_streams = 64, .processes = 1,
                                      .first_epoch = 1};
    const struct services_sink sink = {.ctx = &t, .poll = on_poll, .update = on_update,
                                       .controls = on_controls};
    assert_non_null(t.slab);
    t.services = services_new(&c, &sink);
    assert_non_null(t.services);
    place_agree(&t);
    services_loaded(t.services, t.now_ns, 0);
    for (unsigned g = 0; g < PLACES; g++) {
        struct gateway_hello h = {.session = g + 1};
        h.id[0] = h.boot[0] = (uint8_t)(g + 1);
        snprintf(h.name, sizeof(h.name), "gw%u", g);
        services_gateway_up(t.services, &h, t.now_ns, 0);
    }
    for (uint64_t i = 0; i < ROUNDS_FIRST; i++)
        place_period(&t, i);
    uint64_t before = by_services;
    size_t controls = t.controls;
    assert_true(before > 0); /* so the counter sees them */
    for (uint64_t i = 0; i < ROUNDS; i++)
        place_period(&t, i);
    assert_int_equal(by_services - before, 0);
    assert_true(t.controls - controls >= (size_t)ROUNDS * PLACES); /* and limits moved */
    services_free(t.services);
    assert_int_equal(slab_used(t.slab), 0);
    slab_free(t.slab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_period_with_new_controls_takes_no_memory),
        cmocka_unit_test_setup_teardown(a_message_takes_no_memory_in_either_direction, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

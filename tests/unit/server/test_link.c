/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what the gateway counted is what the server ends up knowing, whatever polls, answers and
 * connections are lost; controls are in force in the order of their epochs, and for as long as they
 * may be. Method: the gateway's link, with real streams and a real reactor, against the monitor's
 * threads over a Unix socket. The test is the SLA process: it keeps a model by the rules of
 * docs/protocol.md, loses answers and cuts sessions at random (the seed is printed; WEIR_SEED
 * repeats it), and compares bucket by bucket in the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "gateway/link.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"
#include "gateway/relay.h"
#include "gateway/stream.h"
#include "monitor_stage.h"

#define STREAMS 40u

/* One gateway's inside, run in the test's thread. */
struct gateway {
    struct gateway_config config;
    struct reactor *reactor;
    struct stream_table *streams;
    struct relay *relay;
    struct link *link;
};

struct bed {
    struct stage stage;
    struct gateway g;
    char state_dir[96];
    uint64_t session;
};

static void gateway_turn(void *arg)
{
    struct gateway *g = arg;
    assert_int_equal(reactor_round(g->reactor, NS_PER_MS / 2), 0);
}

static void gateway_start(struct bed *b, const char *token)
{
    struct gateway *g = &b->g;
    struct gateway_config *c = &g->config;
    const char *expected, *why = "";
    char text[160];
    gateway_config_init(c);
    snprintf(c->name, sizeof(c->name), "gw1");
    snprintf(c->state_dir, sizeof(c->state_dir), "%s", b->state_dir);
    snprintf(c->key_file, sizeof(c->key_file), "%s/gateway.key", b->stage.dir);
    snprintf(c->token, sizeof(c->token), "%s", token);
    snprintf(text, sizeof(text), "unix:%s/control.sock", b->stage.dir);
    assert_int_equal(addr_parse(text, 0, &c->servers[0], &expected), 0);
    c->server_count = 1;
    c->max_streams = STREAMS + 8;
    c->target_count = 1;
    snprintf(c->targets[0].name, sizeof(c->targets[0].name), "array1");
    snprintf(c->targets[0].uri, sizeof(c->targets[0].uri), "nbd://127.0.0.1:10809");
    g->reactor = reactor_new(64, 64);
    assert_non_null(g->reactor);
    g->streams = stream_table_new(c, reactor_now(g->reactor));
    assert_non_null(g->streams);
    assert_int_equal(relay_new(g->reactor, c, g->streams, &g->relay, &why), 0);
    if (link_new(g->reactor, c, g->streams, g->relay, &g->link, &why) < 0)
        fail_msg("%s", why);
    b->stage.pump = gateway_turn;
    b->stage.pump_arg = g;
}

static void gateway_stop(struct bed *b)
{
    struct gateway *g = &b->g;
    link_free(g->link);
    relay_free(g->relay);
    stream_table_free(g->streams);
    reactor_free(g->reactor);
    gateway_config_fini(&g->config);
    b->stage.pump = NULL;
    memset(g, 0, sizeof(*g));
}

/* The next session; its hello is checked and given back. */
static struct gateway_hello expect_up(struct bed *b)
{
    struct msg m = stage_take(&b->stage, MSG_GATEWAY_UP);
    struct gateway_hello h = *(struct gateway_hello *)m.body;
    assert_string_equal(h.name, "gw1");
    assert_int_equal(strncmp(h.software, "weir-gateway ", 13), 0);
    msg_release(&m);
    b->session = h.session;
    return h;
}

static void expect_down(struct bed *b)
{
    struct msg m = stage_take(&b->stage, MSG_GATEWAY_DOWN);
    assert_int_equal(m.arg[0], b->session);
    msg_release(&m);
}

static int expect_ack(struct bed *b, uint64_t epoch)
{
    struct msg m = stage_take(&b->stage, MSG_CONTROLS_ACK);
    assert_int_equal(m.arg[1], epoch);
    int status = m.status;
    msg_release(&m);
    return status;
}

static int set_up(void **state)
{
    struct bed *b = calloc(1, sizeof(*b));
    stage_open(&b->stage, 1000);
    snprintf(b->state_dir, sizeof(b->state_dir), "%s/gateway", b->stage.dir);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bed *b = *state;
    if (b->g.link != NULL)
        gateway_stop(b);
    stage_close(&b->stage);
    free(b);
    return 0;
}

/* ---- identity
 * ------------------------------------------------------------------------------------------ */

static void a_gateway_keeps_its_identity_and_changes_its_boot(void **state)
{
    struct bed *b = *state;
    char path[160];
    struct stat st;
    gateway_start(b, "");
    struct gateway_hello first = expect_up(b);
    struct link_status status;
    for (int i = 0; i < 20000; i++) {
        link_status(b->g.link, &status);
        if (status.connected)
            break;
        stage_turn(&b->stage);
    }
    assert_true(status.connected);
    assert_string_equal(status.state, "established");
    snprintf(path, sizeof(path), "%s/identity", b->state_dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(st.st_size, 33);
    gateway_stop(b);
    expect_down(b);
    gateway_start(b, "");
    struct gateway_hello second = expect_up(b);
    assert_memory_equal(first.id, second.id, sizeof(first.id));
    assert_memory_not_equal(first.boot, second.boot, sizeof(first.boot));
    assert_int_not_equal(first.session, second.session);
}

static void a_session_that_ends_is_dialled_again_with_the_same_boot(void **state)
{
    struct bed *b = *state;
    gateway_start(b, "");
    struct gateway_hello first = expect_up(b);
    stage_end(&b->stage, b->session, "come again");
    expect_down(b);
    struct link_status status;
    link_status(b->g.link, &status);
    struct gateway_hello second = expect_up(b);
    assert_memory_equal(first.id, second.id, sizeof(first.id));
    assert_memory_equal(first.boot, second.boot, sizeof(first.boot));
    assert_int_not_equal(first.session, second.session);
}

static void an_identity_that_is_damaged_is_not_replaced(void **state)
{
    struct bed *b = *state;
    char path[160];
    const char *why = "";
    gateway_start(b, "");
    expect_up(b);
    gateway_stop(b);
    snprintf(path, sizeof(path), "%s/identity", b->state_dir);
    assert_int_equal(text_write_file_atomic(path, "no hex\n", 7, 0600), 0);
    struct link *l = NULL;
    struct gateway_config c;
    gateway_config_init(&c);
    snprintf(c.state_dir, sizeof(c.state_dir), "%s", b->state_dir);
    c.server_count = 1;
    struct reactor *r = reactor_new(8, 8);
    struct stream_table *t = stream_table_new(&c, 0);
    assert_int_equal(link_new(r, &c, t, NULL, &l, &why), WEIR_E_PARSE);
    assert_non_null(strstr(why, "identity"));
    stream_table_free(t);
    reactor_free(r);
    gateway_config_fini(&c);
}

static void a_token_becomes_a_credential_that_lasts(void **state)
{
    struct bed *b = *state;
    char token[AUTH_TOKEN_SIZE], path[160];
    struct stat st;
    stage_token(&b->stage, token);
    gateway_start(b, token);
    struct gateway_hello first = expect_up(b);
    assert_int_equal(strncmp(first.key_id, "gateway:", 8), 0);
    snprintf(path, sizeof(path), "%s/credential", b->state_dir);
    for (int i = 0; i < 20000 && stat(path, &st) < 0; i++)
        stage_turn(&b->stage);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    gateway_stop(b);
    expect_down(b);
    gateway_start(b, token); /* used up, and not needed any more */
    struct gateway_hello second = expect_up(b);
    assert_string_equal(first.key_id, second.key_id);
}

/* ---- statistics
 * ---------------------------------------------------------------------------------------- */

/* What the server knows of one gateway's boot: whole values, by index. */
struct model {
    struct {
        bool has_info;
        struct meter_op op[IO_OP_COUNT];
        uint64_t bucket[2][METER_HIST_COUNT][HIST_BUCKETS];
        uint64_t sum_ns[2][METER_HIST_COUNT];
        char host[NAME_SIZE];
    } stream[STREAMS + 1];
    uint64_t acked;
};

static void model_take(struct model *m, const struct report *r)
{
    for (size_t i = 0; i < r->stream_count; i++) {
        const struct report_stream *s = &r->stream[i];
        assert_true(s->index <= STREAMS);
        assert_true(s->has_info || m->stream[s->index].has_info);
        if (s->has_info) {
            m->stream[s->index].has_info = true;
            memcpy(m->stream[s->index].host, s->host, NAME_SIZE);
            assert_string_equal(s->target, "array1");
        }
        for (size_t o = 0; o < s->op_count; o++)
            m->stream[s->index].op[s->op[o].op] = s->op[o].counts;
        for (size_t h = 0; h < s->hist_count; h++) {
            const struct report_hist *from = &s->hist[h];
            for (size_t k = 0; k < from->bucket_count; k++)
                m->stream[s->index].bucket[from->direction][from->kind][from->bucket[k].index] =
                    from->bucket[k].count;
            m->stream[s->index].sum_ns[from->direction][from->kind] = from->sum_ns;
        }
    }
}

/* Poll and take the whole answer; with @lose it is thrown away as if it had not come. */
static void poll_once(struct bed *b, struct model *m, uint64_t seq, bool lose)
{
    stage_poll(&b->stage, b->session, seq, m->acked);
    bool more = true;
    while (more) {
        struct msg msg = stage_take(&b->stage, MSG_REPORT);
        const struct report *r = msg.body;
        if (r->seq == seq) {
            assert_true(r->base == m->acked || r->base == 0);
            more = r->more;
            if (!lose)
                model_take(m, r);
        }
        msg_release(&msg);
    }
    if (!lose)
        m->acked = seq;
}

static void some_io(struct rng *rng, struct stream *s)
{
    static const enum io_op ops[] = {IO_READ, IO_WRITE, IO_FLUSH, IO_TRIM};
    for (uint64_t n = rng_below(rng, 40); n > 0; n--) {
        enum io_op op = ops[rng_below(rng, 4)];
        uint64_t held = rng_below(rng, 3) == 0 ? rng_below(rng, 1000000) : 0;
        uint64_t target = 1 + rng_below(rng, UINT64_C(1) << rng_below(rng, 37));
        meter_arrive(s->meter, op, 4096);
        meter_complete(s->meter, op, 4096, rng_below(rng, 50) == 0, held, target, held + target);
    }
}

static void model_compare(const struct model *m, struct stream_table *t)
{
    size_t compared = 0;
    for (size_t slot = 0; slot < stream_slots(t); slot++) {
        const struct stream *s = stream_at(t, slot);
        if (s == NULL)
            continue;
        assert_true(s->index <= STREAMS);
        assert_true(m->stream[s->index].has_info);
        assert_string_equal(m->stream[s->index].host, s->host);
        assert_memory_equal(m->stream[s->index].op, s->meter->op, sizeof(s->meter->op));
        for (unsigned d = 0; d < 2; d++) {
            for (unsigned k = 0; k < METER_HIST_COUNT; k++) {
                const struct hist *h = &s->meter->hist[d][k];
                assert_memory_equal(m->stream[s->index].bucket[d][k], h->bucket, sizeof(h->bucket));
                assert_int_equal(m->stream[s->index].sum_ns[d][k], h->sum_ns);
            }
        }
        compared++;
    }
    assert_int_equal(compared, STREAMS);
}

static void a_lost_poll_loses_no_counts(void **state)
{
    struct bed *b = *state;
    struct model *m = calloc(1, sizeof(*m));
    struct stream *s[STREAMS];
    struct rng rng;
    const char *given = getenv("WEIR_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)clock_wall_us();
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_seed(&rng, seed);
    gateway_start(b, "");
    expect_up(b);
    uint64_t now = clock_mono_ns();
    for (size_t i = 0; i < STREAMS; i++) {
        char host[NAME_SIZE];
        snprintf(host, sizeof(host), "10.0.0.%zu", i);
        s[i] = stream_connect(b->g.streams, &b->g.config.targets[0], host, "db", "", 1 << 30, now);
    }
    for (uint64_t seq = 1; seq <= 120; seq++) {
        for (size_t i = 0; i < STREAMS; i++) {
            if (rng_below(&rng, 3) == 0)
                some_io(&rng, s[i]);
        }
        switch (rng_below(&rng, 10)) {
        case 0: /* the session goes, in the middle of an answer perhaps */
            stage_poll(&b->stage, b->session, seq, m->acked);
            stage_end(&b->stage, b->session, "cut");
            expect_down(b);
            expect_up(b);
            break;
        case 1: /* the server lost what it knew: it says so, and is told everything */
            m->acked = 0;
            poll_once(b, m, seq, false);
            break;
        case 2:
        case 3:
        case 4:
            poll_once(b, m, seq, true);
            break;
        default:
            poll_once(b, m, seq, false);
            break;
        }
    }
    poll_once(b, m, 1000, false);
    model_compare(m, b->g.streams);
    free(m);
}

static void an_answer_says_only_what_changed(void **state)
{
    struct bed *b = *state;
    struct stream *s[3];
    gateway_start(b, "");
    expect_up(b);
    for (size_t i = 0; i < 3; i++) {
        const char *const host[] = {"a", "b", "c"};
        s[i] = stream_connect(b->g.streams, &b->g.config.targets[0], host[i], "db", "", 1,
                              clock_mono_ns());
        meter_arrive(s[i]->meter, IO_READ, 4096);
        meter_complete(s[i]->meter, IO_READ, 4096, false, 0, 100000, 100000);
    }
    stage_poll(&b->stage, b->session, 1, 0);
    struct msg msg = stage_take(&b->stage, MSG_REPORT);
    const struct report *r = msg.body;
    assert_int_equal(r->stream_count, 3);
    assert_int_equal(r->base, 0);
    assert_int_equal(r->target_count, 1);
    assert_string_equal(r->target[0].name, "array1");
    assert_true(r->stream[0].has_info);
    msg_release(&msg);
    meter_arrive(s[1]->meter, IO_READ, 4096);
    meter_complete(s[1]->meter, IO_READ, 4096, false, 0, 100000, 3000000);
    stage_poll(&b->stage, b->session, 2, 1);
    msg = stage_take(&b->stage, MSG_REPORT);
    r = msg.body;
    assert_int_equal(r->base, 1);
    assert_int_equal(r->stream_count, 1);
    assert_int_equal(r->stream[0].index, s[1]->index);
    assert_false(r->stream[0].has_info);
    assert_int_equal(r->stream[0].op[0].counts.completions, 2);
    /* One bucket each of held, target and total changed. */
    assert_int_equal(r->stream[0].hist_count, 3);
    for (size_t h = 0; h < 3; h++)
        assert_int_equal(r->stream[0].hist[h].bucket_count, 1);
    msg_release(&msg);
    /* An acknowledgement that this gateway cannot know is as good as none: everything again. */
    stage_poll(&b->stage, b->session, 9, 7);
    msg = stage_take(&b->stage, MSG_REPORT);
    r = msg.body;
    assert_int_equal(r->base, 0);
    assert_int_equal(r->stream_count, 3);
    assert_true(r->stream[2].has_info);
    msg_release(&msg);
}

/* ---- controls
 * ------------------------------------------------------------------------------------------ */

struct in_force {
    size_t agreed, planned;
    uint64_t iops; /* of the last one */
};

static void count_control(void *arg, const struct control *c, const struct gate_rule *first)
{
    struct in_force *f = arg;
    (void)first;
    f->agreed += c->origin == RULE_AGREED;
    f->planned += c->origin == RULE_PLANNED;
    f->iops = c->limits.rate[GATE_IOPS_TOTAL].rate;
}

static struct in_force in_force(struct bed *b)
{
    struct in_force f = {0};
    stream_controls_visit(b->g.streams, count_control, &f);
    return f;
}

static int controls(struct bed *b, struct control_update *u)
{
    uint64_t epoch = u->epoch;
    stage_controls(&b->stage, b->session, u);
    return expect_ack(b, epoch);
}

static void epochs_in_the_wrong_order_are_refused(void **state)
{
    struct bed *b = *state;
    gateway_start(b, "");
    expect_up(b);
    assert_int_equal(controls(b, stage_update(50, 60000, true, false, "agreement/a", "h/v", 100)),
                     0);
    assert_int_equal(in_force(b).iops, 100);
    /* Older. */
    assert_int_equal(controls(b, stage_update(49, 60000, true, false, "agreement/a", "h/v", 200)),
                     WEIR_E_CONFLICT);
    assert_int_equal(controls(b, stage_update(49, 60000, false, false, "agreement/b", "h/v", 200)),
                     WEIR_E_CONFLICT);
    /* The same epoch names the same state: it may be repeated in full or renewed, not changed in
     * part. */
    assert_int_equal(controls(b, stage_update(50, 60000, false, false, "agreement/b", "h/v", 200)),
                     WEIR_E_CONFLICT);
    assert_int_equal(controls(b, stage_update(50, 60000, true, false, "agreement/a", "h/v", 100)),
                     0);
    assert_int_equal(controls(b, stage_update(50, 60000, false, false, NULL, NULL, 0)), 0);
    assert_int_equal(in_force(b).agreed, 1);
    assert_int_equal(in_force(b).iops, 100);
    /* Newer: adds, changes, removes. */
    assert_int_equal(controls(b, stage_update(51, 0, false, false, "agreement/b", "h/v", 300)), 0);
    assert_int_equal(in_force(b).agreed, 2);
    assert_int_equal(controls(b, stage_update(52, 0, false, false, "agreement/b", "h/v", 0)), 0);
    assert_int_equal(in_force(b).agreed, 1);
    struct link_status status;
    link_status(b->g.link, &status);
    assert_int_equal(status.epoch, 52);
}

static void a_new_session_may_begin_at_any_epoch(void **state)
{
    struct bed *b = *state;
    gateway_start(b, "");
    expect_up(b);
    assert_int_equal(controls(b, stage_update(1000, 0, true, false, "agreement/a", "h/v", 100)), 0);
    stage_end(&b->stage, b->session, "a new server takes over");
    expect_down(b);
    assert_int_equal(in_force(b).agreed, 1);
    expect_up(b);
    assert_int_equal(controls(b, stage_update(5, 0, false, false, "agreement/b", "h/v", 1)),
                     WEIR_E_CONFLICT);
    assert_int_equal(controls(b, stage_update(5, 0, true, false, "agreement/a", "h/v", 200)), 0);
    assert_int_equal(in_force(b).iops, 200);
    assert_int_equal(controls(b, stage_update(4, 0, true, false, "agreement/a", "h/v", 300)),
                     WEIR_E_CONFLICT);
}

/* The limits told by the answer to poll @seq; -1: it does not tell. */
static int told(struct bed *b, uint64_t seq, struct report_limit ret[2])
{
    int n = -1;
    stage_poll(&b->stage, b->session, seq, 0);
    for (bool more = true; more;) {
        struct msg msg = stage_take(&b->stage, MSG_REPORT);
        const struct report *r = msg.body;
        more = r->more;
        if (r->limits_said && n < 0)
            n = 0;
        for (size_t i = 0; i < r->limit_count; i++) {
            assert_true(n < 2);
            ret[n++] = r->limit[i];
        }
        msg_release(&msg);
    }
    return n;
}

/* What a server that begins anew must know before it gives others more. */
static void limits_in_force_are_told_until_a_sessions_first_full_set(void **state)
{
    struct bed *b = *state;
    struct report_limit limit[2];
    gateway_start(b, "");
    expect_up(b);
    assert_int_equal(told(b, 1, limit), 0);
    assert_int_equal(controls(b, stage_update(9, 60000, true, false, "agreement/a", "h/v", 100)),
                     0);
    assert_int_equal(controls(b, stage_update(10, 60000, false, true, "throttle/h/v", "h/v", 10)),
                     0);
    assert_int_equal(told(b, 2, limit), -1);
    stage_end(&b->stage, b->session, "a new server takes over");
    expect_down(b);
    expect_up(b);
    for (uint64_t seq = 1; seq <= 2; seq++) {
        assert_int_equal(told(b, seq, limit), 1);
        assert_string_equal(limit[0].id, "agreement/a");
        assert_int_equal(limit[0].rate[GATE_IOPS_TOTAL], 100);
        assert_int_equal(limit[0].rate[GATE_BYTES_TOTAL], 0);
    }
    assert_int_equal(controls(b, stage_update(5, 0, true, false, "agreement/a", "h/v", 200)), 0);
    assert_int_equal(told(b, 3, limit), -1);
}

/* A frame that was kept on its way and comes in the next session would be that session's first full
 * set, whatever its epoch. */
static void controls_of_another_session_are_ignored(void **state)
{
    struct bed *b = *state;
    gateway_start(b, "");
    expect_up(b);
    assert_int_equal(controls(b, stage_update(7, 0, true, false, "agreement/a", "h/v", 100)), 0);
    uint64_t before = b->session;
    stage_end(&b->stage, b->session, "a new server takes over");
    expect_down(b);
    expect_up(b);
    Weir__Control__SetControls late = WEIR__CONTROL__SET_CONTROLS__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    struct text raw;
    late.epoch = 6;
    late.full = true;
    f.body_case = WEIR__CONTROL__FRAME__BODY_SET_CONTROLS;
    f.set_controls = &late;
    for (int own = 0; own < 2; own++) {
        late.session = own ? b->session : before;
        text_init(&raw, 4096);
        assert_int_equal(frame_append(&raw, &f), 0);
        link_controls_set(b->g.link->controls, &late, raw.data, raw.len);
        text_fini(&raw);
        assert_int_equal(in_force(b).agreed, own ? 0 : 1);
    }
    assert_int_equal(expect_ack(b, 6), 0); /* of the second; the first was not answered */
}

static bool lease_over(void *arg)
{
    return in_force(arg).planned == 0;
}

static void planned_controls_end_with_their_lease_and_agreed_ones_stay(void **state)
{
    struct bed *b = *state;
    gateway_start(b, "");
    expect_up(b);
    assert_int_equal(controls(b, stage_update(1, 0, true, false, "agreement/a", "h/v", 100)), 0);
    /* Nothing is planned without a lease. */
    assert_int_equal(controls(b, stage_update(2, 0, false, true, "throttle/h/v", "h/v", 10)),
                     WEIR_E_INVALID);
    uint64_t begin = clock_mono_ns();
    assert_int_equal(controls(b, stage_update(3, 400, false, true, "throttle/h/v", "h/v", 10)), 0);
    assert_int_equal(in_force(b).planned, 1);
    /* The server goes; the lease runs on. */
    stage_end(&b->stage, b->session, "gone");
    expect_down(b);
    stage_until(&b->stage, lease_over, b);
    assert_true(clock_mono_ns() - begin >= 400 * NS_PER_MS);
    assert_int_equal(in_force(b).agreed, 1);
}

static void a_renewal_keeps_planned_controls(void **state)
{
    struct bed *b = *state;
    gateway_start(b, "");
    expect_up(b);
    assert_int_equal(controls(b, stage_update(1, 2000, true, true, "throttle/h/v", "h/v", 10)), 0);
    uint64_t begin = clock_mono_ns();
    while (clock_mono_ns() - begin < 3000 * NS_PER_MS) {
        assert_int_equal(controls(b, stage_update(1, 2000, false, true, NULL, NULL, 0)), 0);
        assert_int_equal(in_force(b).planned, 1);
        for (int i = 0; i < 50; i++)
            stage_turn(&b->stage);
    }
}

static bool file_there(void *arg)
{
    return access(arg, R_OK) == 0;
}

static void agreed_controls_survive_the_gateway_and_need_no_server(void **state)
{
    struct bed *b = *state;
    char path[160], aside[160];
    struct stat st;
    snprintf(path, sizeof(path), "%s/controls", b->state_dir);
    snprintf(aside, sizeof(aside), "%s/controls.damaged", b->state_dir);
    gateway_start(b, "");
    expect_up(b);
    assert_int_equal(controls(b, stage_update(1, 60000, true, false, "agreement/a", "h/v", 123)),
                     0);
    assert_int_equal(controls(b, stage_update(2, 60000, false, true, "throttle/h/v", "h/v", 10)),
                     0);
    stage_until(&b->stage, file_there, path);
    gateway_stop(b); /* writes what still waits */
    expect_down(b);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    gateway_start(b, "");
    assert_int_equal(in_force(b).agreed, 1);
    assert_int_equal(in_force(b).planned, 0);
    assert_int_equal(in_force(b).iops, 123);
    gateway_stop(b);
    /* Damaged: said, set aside, and the gateway starts. */
    char *bytes = NULL;
    size_t n = 0;
    assert_int_equal(text_read_file(path, 1 << 20, &bytes, &n), 0);
    bytes[n - 1] ^= 1;
    assert_int_equal(text_write_file_atomic(path, bytes, n, 0600), 0);
    free(bytes);
    gateway_start(b, "");
    assert_int_equal(in_force(b).agreed, 0);
    assert_int_equal(access(aside, R_OK), 0);
    assert_int_equal(access(path, R_OK), -1);
}

static void a_set_in_parts_is_in_force_at_once(void **state)
{
    struct bed *b = *state;
    const size_t n = 150; /* of at most 4 for each of 48 streams */
    gateway_start(b, "");
    expect_up(b);
    struct control_update *u = control_update_new(n, 4 * n);
    u->epoch = 9;
    u->full = true;
    for (size_t i = 0; i < n; i++) {
        snprintf(u->item[i].id, sizeof(u->item[i].id), "agreement/%0200zu", i);
        memset(u->item[i].reason, 'x', 255);
        u->item[i].limits.rate[GATE_IOPS_TOTAL].rate = 1000 + i;
        /* Members that are no streams here make the set longer than a frame's part. */
        control_update_members(u, i, 4);
        for (size_t m = 0; m < 4; m++)
            snprintf(u->item[i].member[m], STREAM_KEY_SIZE, "host-%0100zu/volume-%0100zu", i, m);
    }
    stage_controls(&b->stage, b->session, u);
    assert_int_equal(expect_ack(b, 9), 0);
    assert_int_equal(in_force(b).agreed, n);
}

/* ---- surge
 * --------------------------------------------------------------------------------------------- */

static void a_jump_of_demand_is_told_between_polls(void **state)
{
    struct bed *b = *state;
    gateway_start(b, "");
    expect_up(b);
    struct stream *s =
        stream_connect(b->g.streams, &b->g.config.targets[0], "h", "v", "", 1, clock_mono_ns());
    struct msg m;
    uint64_t begin = clock_mono_ns();
    for (int i = 0; clock_mono_ns() - begin < 2500 * NS_PER_MS; i++) {
        if (i % 4 == 0)
            meter_arrive(s->meter, IO_READ, 4096);
        stage_turn(&b->stage);
    }
    while (stage_try(&b->stage, MSG_SURGE, 0, &m))
        msg_release(
            &m); /* the first second is no second to compare with, but a slow machine stutters */
    /* Where the machine stutters so, the jump is no jump beside what came at once before it. */
    bool told = false;
    for (int round = 0; round < 20 && !told; round++) {
        for (int i = 0; i < 20000 << (round < 4 ? round : 4); i++)
            meter_arrive(s->meter, IO_READ, 4096);
        told = stage_try(&b->stage, MSG_SURGE, NS_PER_S, &m);
    }
    assert_true(told);
    assert_int_equal(m.arg[0], b->session);
    assert_int_equal(m.arg[1], s->index);
    msg_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_gateway_keeps_its_identity_and_changes_its_boot, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_session_that_ends_is_dialled_again_with_the_same_boot,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_identity_that_is_damaged_is_not_replaced, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_token_becomes_a_credential_that_lasts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_lost_poll_loses_no_counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_answer_says_only_what_changed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(epochs_in_the_wrong_order_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(limits_in_force_are_told_until_a_sessions_first_full_set,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_new_session_may_begin_at_any_epoch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(controls_of_another_session_are_ignored, set_up, tear_down),
        cmocka_unit_test_setup_teardown(planned_controls_end_with_their_lease_and_agreed_ones_stay,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_renewal_keeps_planned_controls, set_up, tear_down),
        cmocka_unit_test_setup_teardown(agreed_controls_survive_the_gateway_and_need_no_server,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_set_in_parts_is_in_force_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_jump_of_demand_is_told_between_polls, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

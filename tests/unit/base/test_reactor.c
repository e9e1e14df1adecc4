/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: events, timers, deferred work and wakes reach exactly those who still ask for them, in the
 * order that reactor.h promises.
 * Method: real pipes, sockets and threads, every test with epoll and with io_uring (skipped where
 * the system has none), each also looking before it sleeps; timers are due in the past or a moment
 * ahead, never measured. The random test keeps a plain model of the armed timers beside the heap
 * and prints its seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/reactor.h"
#include "base/rng.h"

static bool with_uring;
static uint64_t look_ns;

static struct reactor *reactor_made(size_t max_sources, size_t max_timers)
{
    struct reactor *r = reactor_new(max_sources, max_timers);
    assert_non_null(r);
    if (with_uring)
        assert_int_equal(reactor_use_uring(r), 0);
    reactor_look(r, look_ns);
    return r;
}

struct probe {
    struct reactor *reactor;
    struct reactor_source source;
    struct reactor_timer timer;
    struct reactor_work work;
    struct probe *other; /* removed, or deferred, by the first to run */
    unsigned ready, fired, ran;
    uint64_t order;
    uint64_t *clock; /* counts callbacks, to tell their order */
    bool again;
    int write_fd;
};

static void on_ready(struct reactor_source *s, uint32_t events)
{
    struct probe *p = container_of(s, struct probe, source);
    assert_true(events & EPOLLIN);
    p->ready++;
    if (p->other)
        reactor_remove(p->reactor, &p->other->source);
}

static void on_fire(struct reactor_timer *t, uint64_t now_ns)
{
    struct probe *p = container_of(t, struct probe, timer);
    assert_true(t->at_ns <= now_ns);
    assert_int_equal(t->heap_index, 0);
    p->fired++;
    if (p->clock)
        p->order = ++*p->clock;
    if (p->again)
        reactor_timer_set(p->reactor, t, 0);
}

static void on_run(struct reactor_work *w)
{
    struct probe *p = container_of(w, struct probe, work);
    p->ran++;
    if (p->clock)
        p->order = ++*p->clock;
    if (p->again)
        reactor_defer(p->reactor, w);
    if (p->other)
        reactor_work_cancel(&p->other->work);
}

static void probe_init(struct probe *p, struct reactor *r)
{
    *p = (struct probe){.reactor = r, .write_fd = -1};
    p->source.fd = -1;
    p->source.ready = on_ready;
    p->timer.fire = on_fire;
    reactor_work_init(&p->work, on_run);
}

static void probe_pipe(struct probe *p)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    p->source.fd = fds[0];
    p->write_fd = fds[1];
}

static void probe_poke(struct probe *p)
{
    assert_int_equal(write(p->write_fd, "x", 1), 1);
}

static void probe_fini(struct probe *p)
{
    close(p->source.fd);
    close(p->write_fd);
}

static void readiness_is_told_once_until_it_changes(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(4, 4);
    struct probe p;
    probe_init(&p, r);
    probe_pipe(&p);
    assert_int_equal(reactor_add(r, &p.source, EPOLLIN), 0);
    probe_poke(&p);
    assert_int_equal(reactor_round(r, 0), 0);
    assert_int_equal(p.ready, 1);
    assert_int_equal(reactor_round(r, 0), 0);
    assert_int_equal(p.ready, 1);
    probe_poke(&p);
    assert_int_equal(reactor_round(r, 0), 0);
    assert_int_equal(p.ready, 2);
    reactor_remove(r, &p.source);
    probe_poke(&p);
    assert_int_equal(reactor_round(r, 0), 0);
    assert_int_equal(p.ready, 2);
    probe_fini(&p);
    reactor_free(r);
}

/* By the processor's clock, not the wall's. */
static uint64_t thread_cpu_ns(void)
{
    struct timespec ts;
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts), 0);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void only_the_round_after_an_event_looks_before_it_sleeps(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(4, 4);
    struct probe p;
    probe_init(&p, r);
    probe_pipe(&p);
    reactor_look(r, NS_PER_S);
    assert_int_equal(reactor_add(r, &p.source, EPOLLIN), 0);
    probe_poke(&p);
    assert_int_equal(reactor_round(r, NS_PER_S), 0);
    assert_int_equal(p.ready, 1);
    uint64_t began = clock_mono_ns(), cpu = thread_cpu_ns();
    assert_int_equal(reactor_round(r, 100 * NS_PER_MS), 0); /* looks all the while */
    assert_true(clock_mono_ns() - began >= 100 * NS_PER_MS);
    assert_true(thread_cpu_ns() - cpu > NS_PER_MS);
    cpu = thread_cpu_ns();
    assert_int_equal(reactor_round(r, 400 * NS_PER_MS), 0);
    assert_true(thread_cpu_ns() - cpu < 200 * NS_PER_MS);
    assert_int_equal(p.ready, 1);
    reactor_remove(r, &p.source);
    probe_fini(&p);
    reactor_free(r);
}

static void a_source_removed_in_a_batch_gets_no_event_of_it(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(4, 4);
    struct probe p[2];
    for (int i = 0; i < 2; i++) {
        probe_init(&p[i], r);
        probe_pipe(&p[i]);
        assert_int_equal(reactor_add(r, &p[i].source, EPOLLIN), 0);
    }
    p[0].other = &p[1];
    p[1].other = &p[0];
    probe_poke(&p[0]);
    probe_poke(&p[1]);
    assert_int_equal(reactor_round(r, 0), 0);
    assert_int_equal(p[0].ready + p[1].ready, 1);
    reactor_remove(r, &p[0].source);
    reactor_remove(r, &p[1].source);
    probe_fini(&p[0]);
    probe_fini(&p[1]);
    reactor_free(r);
}

/* Removes the other source and puts a third in its slot, within one batch. */
struct replacer {
    struct probe p;
    struct probe *victim, *heir;
};

static void on_ready_replace(struct reactor_source *s, uint32_t events)
{
    struct probe *p = container_of(s, struct probe, source);
    struct replacer *x = container_of(p, struct replacer, p);
    (void)events;
    p->ready++;
    uint32_t slot = x->victim->source.slot;
    if (slot == 0)
        return;
    reactor_remove(p->reactor, &x->victim->source);
    assert_int_equal(reactor_add(p->reactor, &x->heir->source, EPOLLIN), 0);
    assert_int_equal(x->heir->source.slot, slot);
}

static void an_event_of_a_removed_source_does_not_reach_its_heir(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(4, 4);
    struct replacer a, b;
    struct probe heir;
    probe_init(&a.p, r);
    probe_init(&b.p, r);
    probe_init(&heir, r);
    probe_pipe(&a.p);
    probe_pipe(&b.p);
    probe_pipe(&heir);
    a.p.source.ready = b.p.source.ready = on_ready_replace;
    a.victim = &b.p;
    b.victim = &a.p;
    a.heir = b.heir = &heir;
    assert_int_equal(reactor_add(r, &a.p.source, EPOLLIN), 0);
    assert_int_equal(reactor_add(r, &b.p.source, EPOLLIN), 0);
    probe_poke(&a.p);
    probe_poke(&b.p);
    assert_int_equal(reactor_round(r, 0), 0);
    assert_int_equal(a.p.ready + b.p.ready, 1);
    assert_int_equal(heir.ready, 0);
    probe_poke(&heir);
    assert_int_equal(reactor_round(r, 0), 0);
    assert_int_equal(heir.ready, 1);
    reactor_free(r);
    probe_fini(&a.p);
    probe_fini(&b.p);
    probe_fini(&heir);
}

static void sources_are_bounded_and_their_places_come_back(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(2, 0);
    struct probe p[3];
    for (int i = 0; i < 3; i++) {
        probe_init(&p[i], r);
        probe_pipe(&p[i]);
    }
    for (int turn = 0; turn < 100; turn++) {
        assert_int_equal(reactor_add(r, &p[0].source, EPOLLIN), 0);
        assert_int_equal(reactor_add(r, &p[1].source, EPOLLIN), 0);
        assert_int_equal(reactor_add(r, &p[2].source, EPOLLIN), WEIR_E_FULL);
        reactor_remove(r, &p[0].source);
        reactor_remove(r, &p[1].source);
    }
    for (int i = 0; i < 3; i++)
        probe_fini(&p[i]);
    reactor_free(r);
}

static void timers_fire_in_order_of_time_whatever_the_order_of_arming(void **state)
{
    (void)state;
    enum { COUNT = 200, STEPS = 20000 };
    uint64_t seed = (uint64_t)getpid() ^ clock_mono_ns(), clock = 0;
    print_message("seed %llu\n", (unsigned long long)seed);
    struct rng rng;
    rng_seed(&rng, seed);
    struct reactor *r = reactor_made(1, COUNT);
    static struct probe p[COUNT];
    bool armed[COUNT] = {false};
    for (int i = 0; i < COUNT; i++) {
        probe_init(&p[i], r);
        p[i].clock = &clock;
    }
    for (int step = 0; step < STEPS; step++) {
        uint64_t i = rng_below(&rng, COUNT);
        armed[i] = rng_below(&rng, 3) > 0;
        if (armed[i])
            reactor_timer_set(r, &p[i].timer, 1 + rng_below(&rng, 500));
        else
            reactor_timer_clear(r, &p[i].timer);
        assert_int_equal(p[i].timer.heap_index != 0, armed[i]);
    }
    assert_int_equal(reactor_round(r, 0), 0);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(p[i].fired, armed[i]);
        for (int k = 0; k < COUNT; k++) {
            if (armed[i] && armed[k] && p[i].timer.at_ns < p[k].timer.at_ns)
                assert_true(p[i].order < p[k].order);
        }
    }
    reactor_free(r);
}

static void a_timer_that_is_always_due_does_not_keep_the_round_going(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(1, 2);
    struct probe p;
    probe_init(&p, r);
    p.again = true;
    reactor_timer_set(r, &p.timer, 0);
    assert_int_equal(reactor_round(r, UINT64_MAX), 0);
    assert_int_equal(reactor_round(r, UINT64_MAX), 0);
    assert_int_equal(p.fired, 2);
    reactor_free(r);
}

static void a_timer_ahead_ends_a_wait_without_end(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(1, 1);
    struct probe p;
    probe_init(&p, r);
    uint64_t at = reactor_now_fresh(r) + 3 * NS_PER_MS;
    reactor_timer_set(r, &p.timer, at);
    while (p.fired == 0)
        assert_int_equal(reactor_round(r, UINT64_MAX), 0);
    assert_true(reactor_now(r) >= at);
    reactor_free(r);
}

static void work_runs_once_a_round_however_often_it_is_put_off(void **state)
{
    (void)state;
    uint64_t clock = 0;
    struct reactor *r = reactor_made(1, 1);
    struct probe a, b;
    probe_init(&a, r);
    probe_init(&b, r);
    a.clock = b.clock = &clock;
    reactor_defer(r, &a.work);
    reactor_defer(r, &b.work);
    reactor_defer(r, &a.work);
    assert_int_equal(reactor_round(r, UINT64_MAX), 0);
    assert_int_equal(a.ran, 1);
    assert_int_equal(b.ran, 1);
    assert_true(a.order < b.order);
    assert_int_equal(reactor_round(r, 0), 0);
    assert_int_equal(a.ran, 1);
    reactor_free(r);
}

static void work_put_off_while_it_runs_waits_for_the_next_round(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(1, 1);
    struct probe a;
    probe_init(&a, r);
    a.again = true;
    reactor_defer(r, &a.work);
    for (unsigned i = 1; i <= 5; i++) {
        assert_int_equal(reactor_round(r, UINT64_MAX), 0);
        assert_int_equal(a.ran, i);
    }
    reactor_work_cancel(&a.work);
    assert_int_equal(reactor_round(r, 0), 0);
    assert_int_equal(a.ran, 5);
    reactor_free(r);
}

static void work_cancelled_by_earlier_work_of_the_same_round_does_not_run(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(1, 1);
    struct probe a, b;
    probe_init(&a, r);
    probe_init(&b, r);
    a.other = &b;
    reactor_defer(r, &a.work);
    reactor_defer(r, &b.work);
    assert_int_equal(reactor_round(r, 0), 0);
    assert_int_equal(a.ran, 1);
    assert_int_equal(b.ran, 0);
    reactor_free(r);
}

struct waker {
    struct reactor *reactor;
    _Atomic unsigned said;
    unsigned heard, wakes;
    unsigned total;
};

static void *wake_often(void *arg)
{
    struct waker *w = arg;
    for (unsigned i = 0; i < w->total; i++) {
        w->said++;
        reactor_wake(w->reactor);
    }
    return NULL;
}

static void on_wake(void *arg)
{
    struct waker *w = arg;
    w->wakes++;
    w->heard = w->said;
    if (w->heard == w->total)
        reactor_stop(w->reactor);
}

static void no_wake_from_another_thread_is_lost(void **state)
{
    (void)state;
    struct waker w = {.reactor = reactor_made(1, 1), .total = 100000};
    pthread_t thread;
    reactor_on_wake(w.reactor, on_wake, &w);
    assert_int_equal(pthread_create(&thread, NULL, wake_often, &w), 0);
    assert_int_equal(reactor_run(w.reactor), 0);
    pthread_join(thread, NULL);
    assert_int_equal(w.heard, w.total);
    assert_true(w.wakes <= w.total);
    reactor_free(w.reactor);
}

static void wakes_before_the_wait_are_one(void **state)
{
    (void)state;
    struct waker w = {.reactor = reactor_made(1, 1), .total = 50};
    reactor_on_wake(w.reactor, on_wake, &w);
    wake_often(&w);
    assert_int_equal(reactor_run(w.reactor), 0);
    assert_int_equal(w.wakes, 1);
    reactor_free(w.reactor);
}

/* A socket that sends, and its peer. */
struct sender {
    struct reactor_source source;
    int peer;
    unsigned ready;
    const void *unsent;
    size_t unsent_of;
    int unsent_ret;
};

static void on_sender_ready(struct reactor_source *s, uint32_t events)
{
    (void)events;
    container_of(s, struct sender, source)->ready++;
}

static void on_unsent(struct reactor_source *s, const void *data, size_t n, int ret)
{
    struct sender *x = container_of(s, struct sender, source);
    assert_null(x->unsent);
    assert_false(s->sending);
    x->unsent = data;
    x->unsent_of = n;
    x->unsent_ret = ret;
}

static void sender_init(struct sender *x, struct reactor *r)
{
    int fds[2];
    *x = (struct sender){.source.ready = on_sender_ready, .source.unsent = on_unsent};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    x->source.fd = fds[0];
    x->peer = fds[1];
    assert_int_equal(reactor_add(r, &x->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP), 0);
}

static void sender_fini(struct sender *x, struct reactor *r)
{
    reactor_remove(r, &x->source);
    close(x->source.fd);
    close(x->peer);
}

static void a_send_put_off_goes_before_the_next_wait(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(4, 4);
    struct sender x;
    char got[8];
    sender_init(&x, r);
    if (!with_uring) {
        assert_false(reactor_send(r, &x.source, "abc", 3));
        assert_false(reactor_sending(r));
        reactor_flush(r);
    } else {
        assert_true(reactor_send(r, &x.source, "abc", 3));
        assert_true(reactor_sending(r));
        assert_false(reactor_send(r, &x.source, "def", 3));
        assert_int_equal(read(x.peer, got, sizeof(got)), -1);
        assert_int_equal(errno, EAGAIN);
        assert_int_equal(reactor_round(r, 0), 0);
        assert_false(reactor_sending(r));
        assert_int_equal(read(x.peer, got, sizeof(got)), 3);
        assert_memory_equal(got, "abc", 3);
        assert_true(reactor_send(r, &x.source, "def", 3));
        reactor_flush(r);
        assert_int_equal(read(x.peer, got, sizeof(got)), 3);
        assert_memory_equal(got, "def", 3);
        assert_null(x.unsent);
    }
    sender_fini(&x, r);
    reactor_free(r);
}

/* Take all there is of @x's peer; returns how much, and holds it to be what @data says. */
static size_t sender_taken(struct sender *x, const uint8_t *data, size_t at)
{
    static uint8_t got[65536];
    size_t all = 0;
    for (ssize_t n; (n = read(x->peer, got, sizeof(got))) > 0; all += (size_t)n)
        assert_memory_equal(got, data + at + all, (size_t)n);
    return all;
}

static void what_the_socket_does_not_take_comes_back(void **state)
{
    (void)state;
    enum { SIZE = 8 * 1024 * 1024 };
    struct reactor *r = reactor_made(4, 4);
    struct sender x;
    uint8_t *data = malloc(SIZE);
    assert_non_null(data);
    for (size_t i = 0; i < SIZE; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 24);
    sender_init(&x, r);
    if (with_uring) {
        assert_true(reactor_send(r, &x.source, data, SIZE));
        assert_int_equal(reactor_round(r, 0), 0);
        assert_ptr_equal(x.unsent, data);
        assert_int_equal(x.unsent_of, SIZE);
        assert_true(x.unsent_ret > 0);
        size_t sent = (size_t)x.unsent_ret;
        assert_true(sent < SIZE);
        /* A full socket: nothing goes. */
        x.unsent = NULL;
        assert_true(reactor_send(r, &x.source, data + sent, SIZE - sent));
        reactor_flush(r);
        assert_ptr_equal(x.unsent, data + sent);
        assert_int_equal(x.unsent_ret, -EAGAIN);
        x.unsent = NULL;
        unsigned before = x.ready;
        assert_int_equal(sender_taken(&x, data, 0), sent);
        assert_int_equal(reactor_round(r, 0), 0);
        assert_true(x.ready > before); /* there is room again */
        assert_true(reactor_send(r, &x.source, data + sent, 1000));
        reactor_flush(r);
        assert_null(x.unsent);
        assert_int_equal(sender_taken(&x, data, sent), 1000);
        /* A peer that has gone. */
        close(x.peer);
        x.peer = -1;
        assert_true(reactor_send(r, &x.source, data, 10));
        reactor_flush(r);
        assert_int_equal(x.unsent_ret, -EPIPE);
    }
    sender_fini(&x, r);
    free(data);
    reactor_free(r);
}

static void many_sends_go_in_order_and_a_removed_source_still_sends(void **state)
{
    (void)state;
    enum { COUNT = 40 };
    struct reactor *r = reactor_made(COUNT, 4);
    struct sender x[COUNT];
    char got[8];
    for (int i = 0; i < COUNT; i++)
        sender_init(&x[i], r);
    for (int i = 0; with_uring && i < COUNT; i++) {
        assert_true(reactor_send(r, &x[i].source, "12345", 5));
        if (i % 3)
            continue;
        /* Its owner closes it: the bytes go, then the stream ends, without another round. */
        reactor_remove(r, &x[i].source);
        close(x[i].source.fd);
        assert_int_equal(read(x[i].peer, got, sizeof(got)), 5);
        assert_int_equal(read(x[i].peer, got, sizeof(got)), 0);
        assert_int_equal(close(x[i].peer), 0);
        sender_init(&x[i], r);
        assert_true(reactor_send(r, &x[i].source, "12345", 5));
    }
    assert_int_equal(reactor_round(r, 0), 0);
    for (int i = 0; i < COUNT; i++) {
        if (with_uring)
            assert_int_equal(read(x[i].peer, got, sizeof(got)), 5);
        assert_null(x[i].unsent);
        sender_fini(&x[i], r);
    }
    reactor_free(r);
}

static void a_removed_source_is_let_go_of_though_an_event_is_on_its_way(void **state)
{
    (void)state;
    struct reactor *r = reactor_made(4, 4);
    for (int i = 0; i < 100; i++) {
        struct sender x;
        char got;
        sender_init(&x, r);
        assert_int_equal(reactor_round(r, 0), 0);
        unsigned before = x.ready;
        assert_int_equal(write(x.peer, "x", 1), 1);
        if (i % 2)
            assert_int_equal(reactor_round(r, 0), 0);
        assert_int_equal(x.ready, before + (unsigned)i % 2);
        assert_int_equal(read(x.source.fd, &got, 1), 1);
        reactor_remove(r, &x.source);
        close(x.source.fd);
        assert_int_equal(read(x.peer, &got, 1), 0); /* the end, not EAGAIN */
        assert_int_equal(reactor_round(r, 0), 0);
        assert_int_equal(x.ready, before + (unsigned)i % 2);
        close(x.peer);
    }
    reactor_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readiness_is_told_once_until_it_changes),
        cmocka_unit_test(only_the_round_after_an_event_looks_before_it_sleeps),
        cmocka_unit_test(a_source_removed_in_a_batch_gets_no_event_of_it),
        cmocka_unit_test(an_event_of_a_removed_source_does_not_reach_its_heir),
        cmocka_unit_test(sources_are_bounded_and_their_places_come_back),
        cmocka_unit_test(timers_fire_in_order_of_time_whatever_the_order_of_arming),
        cmocka_unit_test(a_timer_that_is_always_due_does_not_keep_the_round_going),
        cmocka_unit_test(a_timer_ahead_ends_a_wait_without_end),
        cmocka_unit_test(work_runs_once_a_round_however_often_it_is_put_off),
        cmocka_unit_test(work_put_off_while_it_runs_waits_for_the_next_round),
        cmocka_unit_test(work_cancelled_by_earlier_work_of_the_same_round_does_not_run),
        cmocka_unit_test(no_wake_from_another_thread_is_lost),
        cmocka_unit_test(wakes_before_the_wait_are_one),
        cmocka_unit_test(a_send_put_off_goes_before_the_next_wait),
        cmocka_unit_test(what_the_socket_does_not_take_comes_back),
        cmocka_unit_test(many_sends_go_in_order_and_a_removed_source_still_sends),
        cmocka_unit_test(a_removed_source_is_let_go_of_though_an_event_is_on_its_way),
    };
    int failed = cmocka_run_group_tests_name("epoll", tests, NULL, NULL);
    look_ns = 200 * NS_PER_US;
    failed += cmocka_run_group_tests_name("epoll, looking", tests, NULL, NULL);
    look_ns = 0;
    struct reactor *r = reactor_new(1, 1);
    int ret = reactor_use_uring(r);
    reactor_free(r);
    if (ret < 0) {
        print_message("no io_uring here: %s\n", strerror(-ret));
        return failed;
    }
    with_uring = true;
    failed += cmocka_run_group_tests_name("io_uring", tests, NULL, NULL);
    look_ns = 200 * NS_PER_US;
    return failed + cmocka_run_group_tests_name("io_uring, looking", tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the mailbox's promises (mailbox.h) hold, one thread and many.
 * Method: small rings driven by hand to each bound; then producers, a responder and an asker at
 * full speed with counts and checksums that must balance. Run under TSan too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "server/mailbox/mailbox.h"

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void a_post_moves_the_body_and_a_full_ring_leaves_it(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *a = mailbox_new(set, "a", 4, 0);
    struct mailbox *b = mailbox_new(set, "b", 4, 0);
    for (int i = 0; i < 4; i++) {
        struct msg m = {.kind = 7, .body = malloc(1), .body_free = free};
        assert_int_equal(mailbox_post(a, b, &m), 0);
        assert_null(m.body);
    }
    struct msg m = {.kind = 7, .body = malloc(1), .body_free = free};
    assert_int_equal(mailbox_post(a, b, &m), WEIR_E_FULL);
    assert_non_null(m.body);
    msg_release(&m);
    struct mailbox_stats st;
    mailbox_stats(set, 1, &st);
    assert_int_equal(st.depth, 4);
    assert_int_equal(st.refused, 1);
    assert_true(mailbox_take(b, &m));
    assert_int_equal(m.from, mailbox_id(a));
    msg_release(&m);
    struct msg again = {.kind = 8};
    assert_int_equal(mailbox_post(a, b, &again), 0);
    mailbox_set_free(set); /* bodies left in the ring are freed: the leak checker watches */
}

static void wakes_are_coalesced_and_none_is_lost(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *a = mailbox_new(set, "a", 8, 0);
    struct mailbox *b = mailbox_new(set, "b", 8, 0);
    struct msg m = {.kind = 1};
    assert_false(readable(mailbox_fd(b)));
    mailbox_post(a, b, &m);
    mailbox_post(a, b, &m);
    assert_true(readable(mailbox_fd(b)));
    assert_true(mailbox_take(b, &m));
    assert_true(mailbox_take(b, &m));
    assert_false(mailbox_take(b, &m));
    assert_false(mailbox_drained(b));
    assert_false(readable(mailbox_fd(b)));
    mailbox_post(a, b, &m);
    assert_true(mailbox_drained(b)); /* came before the owner slept: take again */
    assert_true(mailbox_take(b, &m));
    assert_false(mailbox_drained(b));
    mailbox_set_free(set);
}

static void wakes_that_are_held_come_as_one_and_urgent_ones_at_once(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(3);
    struct mailbox *a = mailbox_new(set, "a", 64, 0);
    struct mailbox *b = mailbox_new(set, "b", 64, 0);
    struct mailbox *c = mailbox_new(set, "c", 64, 0);
    struct msg m = {.kind = 1};
    mailbox_hold(a);
    mailbox_post(a, b, &m);
    mailbox_post(a, b, &m);
    mailbox_post(a, c, &m);
    assert_false(readable(mailbox_fd(b)));
    mailbox_post_urgent(a, c, &m);
    assert_true(readable(mailbox_fd(c)));
    assert_false(readable(mailbox_fd(b)));
    mailbox_let_go(a);
    assert_true(readable(mailbox_fd(b)));
    while (mailbox_take(b, &m))
        continue;
    assert_false(mailbox_drained(b));
    mailbox_post(a, b, &m); /* not held any more */
    assert_true(readable(mailbox_fd(b)));
    while (mailbox_take(b, &m))
        continue;
    assert_false(mailbox_drained(b));
    mailbox_hold(a); /* a long batch lets go by itself, and holds on */
    for (unsigned i = 0; i < MAILBOX_HOLD_POSTS; i++) {
        assert_false(readable(mailbox_fd(b)));
        mailbox_post(a, b, &m);
    }
    assert_true(readable(mailbox_fd(b)));
    while (mailbox_take(b, &m))
        continue;
    assert_false(mailbox_drained(b));
    mailbox_post(a, b, &m);
    assert_false(readable(mailbox_fd(b)));
    mailbox_let_go(a);
    struct mailbox_stats st;
    mailbox_stats(set, 1, &st);
    assert_int_equal(st.wakes, 4);
    mailbox_set_free(set);
}

static void a_reply_finds_room_even_when_requests_fill_the_ring(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *a = mailbox_new(set, "a", 4, 2);
    struct mailbox *b = mailbox_new(set, "b", 8, 0);
    uint64_t t1, t2, t3;
    struct msg q = {.kind = 3, .tag = 11};
    assert_int_equal(mailbox_ask(a, b, &q, NS_PER_S, 0, &t1), 0);
    q = (struct msg){.kind = 3, .tag = 12};
    assert_int_equal(mailbox_ask(a, b, &q, NS_PER_S, 0, &t2), 0);
    q = (struct msg){.kind = 3};
    assert_int_equal(mailbox_ask(a, b, &q, NS_PER_S, 0, &t3), WEIR_E_FULL); /* tickets are out */
    struct msg flood = {.kind = 9};
    for (int i = 0; i < 4; i++)
        assert_int_equal(mailbox_post(b, a, &flood), 0);
    assert_int_equal(mailbox_post(b, a, &flood), WEIR_E_FULL);
    for (int i = 0; i < 2; i++)
        assert_int_equal(mailbox_post_urgent(b, a, &flood), 0);
    assert_int_equal(mailbox_post_urgent(b, a, &flood), WEIR_E_FULL);
    struct msg got;
    while (mailbox_take(b, &got))
        mailbox_reply(b, &got, 0, malloc(1), free);
    int replies = 0;
    while (mailbox_take(a, &got)) {
        if (got.is_reply) {
            assert_int_equal(got.tag, 11 + replies);
            replies++;
        }
        msg_release(&got);
    }
    assert_int_equal(replies, 2);
    mailbox_set_free(set);
}

static void an_expired_ticket_comes_back_once_and_its_late_reply_is_dropped(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *a = mailbox_new(set, "a", 4, 1);
    struct mailbox *b = mailbox_new(set, "b", 4, 0);
    struct msg q = {.kind = 5, .tag = 42};
    struct msg got, late;
    uint64_t t;
    assert_int_equal(mailbox_ask(a, b, &q, 10, 100, &t), 0);
    assert_false(mailbox_take_expired(a, 109, &got));
    assert_true(mailbox_take_expired(a, 110, &got));
    assert_int_equal(got.status, WEIR_E_TIMEOUT);
    assert_int_equal(got.kind, 5);
    assert_int_equal(got.tag, 42);
    assert_false(mailbox_take_expired(a, 200, &got));
    /* The place stays taken until the late answer came: no answer can overrun the ring. */
    q = (struct msg){.kind = 5};
    assert_int_equal(mailbox_ask(a, b, &q, 10, 200, &t), WEIR_E_FULL);
    assert_true(mailbox_take(b, &late));
    mailbox_reply(b, &late, 0, malloc(1), free);
    assert_false(mailbox_take(a, &got));
    assert_int_equal(mailbox_ask(a, b, &q, 10, 200, &t), 0);
    mailbox_cancel(a, t);
    assert_false(mailbox_take_expired(a, 1000, &got));
    assert_true(mailbox_take(b, &late));
    mailbox_reply(b, &late, 0, NULL, NULL);
    assert_false(mailbox_take(a, &got));
    mailbox_set_free(set);
}

static void the_thread_map_names_the_longest_message(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(1);
    struct mailbox *a = mailbox_new(set, "a", 4, 0);
    mailbox_busy(a, 3, 100);
    mailbox_idle(a, 400);
    mailbox_busy(a, 4, 500);
    mailbox_idle(a, 600);
    struct mailbox_stats st;
    mailbox_stats(set, 0, &st);
    assert_int_equal(st.busy_ns_max, 300);
    assert_int_equal(st.busy_kind_max, 3);
    assert_int_equal(st.busy_ns_total, 400);
    assert_int_equal(st.busy_since_ns, 0);
    mailbox_set_free(set);
}

static void an_owner_that_takes_nothing_stands_still(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *a = mailbox_new(set, "a", 4, 0);
    struct mailbox *b = mailbox_new(set, "b", 8, 0);
    struct mailbox_watch w = {0};
    struct msg got, m = {.kind = 1};
    assert_int_equal(mailbox_still_ns(b, &w, 1000), 0); /* nothing waits */
    assert_int_equal(mailbox_post(a, b, &m), 0);
    assert_int_equal(mailbox_still_ns(b, &w, 2000), 0); /* since now, as far as is known */
    assert_int_equal(mailbox_post_urgent(a, b, &m), 0);
    assert_int_equal(mailbox_still_ns(b, &w, 2700), 700);
    assert_true(mailbox_take(b, &got));
    assert_int_equal(mailbox_still_ns(b, &w, 2800), 0);
    assert_int_equal(mailbox_still_ns(b, &w, 2900), 100);
    assert_true(mailbox_take(b, &got));
    assert_int_equal(mailbox_still_ns(b, &w, 3000), 0);
    mailbox_busy(b, 1, 3000); /* or handles one for long */
    assert_int_equal(mailbox_still_ns(b, &w, 3400), 400);
    mailbox_idle(b, 3500);
    assert_int_equal(mailbox_still_ns(b, &w, 3600), 0);
    mailbox_set_free(set);
}

static void urgent_messages_go_first_but_do_not_starve_the_rest(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *a = mailbox_new(set, "a", 4, 0);
    struct mailbox *b = mailbox_new(set, "b", 1024, 0);
    for (uint64_t i = 0; i < 3; i++) {
        struct msg m = {.kind = 1, .arg = {i}};
        assert_int_equal(mailbox_post(a, b, &m), 0);
    }
    for (uint64_t i = 0; i < 2 * MAILBOX_URGENT_RUN; i++) {
        struct msg m = {.kind = 2, .arg = {i}};
        assert_int_equal(mailbox_post_urgent(a, b, &m), 0);
    }
    uint64_t urgent = 0, others = 0, run = 0;
    struct msg got;
    while (mailbox_take(b, &got)) {
        if (got.kind == 2) {
            assert_int_equal(got.arg[0], urgent++);
            run++;
            assert_true(run <= MAILBOX_URGENT_RUN || others == 3);
        } else {
            assert_int_equal(run, others < 2 ? MAILBOX_URGENT_RUN : 0);
            assert_int_equal(got.arg[0], others++);
            run = 0;
        }
    }
    assert_int_equal(urgent, 2 * MAILBOX_URGENT_RUN);
    assert_int_equal(others, 3);
    mailbox_set_free(set);
}

static void what_can_be_said_again_leaves_room_for_what_cannot(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *a = mailbox_new(set, "a", 4, 0);
    struct mailbox *b = mailbox_new(set, "b", 16, 0);
    struct msg m = {.kind = 1}, got;
    for (int round = 0; round < 5; round++) { /* at every place in the lap */
        int bulk = 0, posted = 0;
        while (mailbox_post_bulk(a, b, &m) == 0)
            bulk++;
        assert_int_equal(bulk, 12);
        while (mailbox_post(a, b, &m) == 0)
            posted++;
        assert_int_equal(posted, 4);
        for (int i = 0; i < 16; i++)
            assert_true(mailbox_take(b, &got));
        assert_int_equal(mailbox_post(a, b, &m), 0); /* shift by one */
        assert_true(mailbox_take(b, &got));
        assert_false(mailbox_take(b, &got));
    }
    mailbox_set_free(set);
}

static void one_that_waits_already_is_not_posted_again(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *a = mailbox_new(set, "a", 4, 0);
    struct mailbox *b = mailbox_new(set, "b", 4, 0);
    atomic_bool once = false, other = false;
    struct msg m = {.kind = 1}, got;
    assert_int_equal(mailbox_post_once(a, b, &m, &once), 0);
    assert_int_equal(mailbox_post_once(a, b, &m, &once), WEIR_E_EXISTS);
    assert_int_equal(mailbox_post_once(a, b, &m, &other), 0);
    assert_true(mailbox_take(b, &got)); /* taken: what comes now is news */
    assert_int_equal(mailbox_post_once(a, b, &m, &once), 0);
    atomic_bool refused = false;
    assert_int_equal(mailbox_post_once(a, b, &m, &refused), WEIR_E_FULL);
    assert_false(refused);
    struct mailbox_stats st;
    mailbox_stats(set, 1, &st);
    assert_int_equal(st.coalesced, 1);
    assert_int_equal(st.urgent, 3);
    mailbox_set_free(set);
}

static void a_responder_sees_that_nobody_waits_any_more(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *a = mailbox_new(set, "a", 4, 2);
    struct mailbox *b = mailbox_new(set, "b", 4, 0);
    struct msg q = {.kind = 5}, first, second, got;
    uint64_t t1, t2;
    assert_int_equal(mailbox_ask(a, b, &q, 10, 100, &t1), 0);
    q = (struct msg){.kind = 5};
    assert_int_equal(mailbox_ask(a, b, &q, 10, 100, &t2), 0);
    assert_true(mailbox_take(b, &first));
    assert_true(mailbox_take(b, &second));
    assert_true(mailbox_wanted(b, &first) && mailbox_wanted(b, &second));
    mailbox_cancel(a, t1);
    assert_false(mailbox_wanted(b, &first));
    assert_true(mailbox_take_expired(a, 200, &got));
    assert_int_equal(got.ticket, t2);
    assert_false(mailbox_wanted(b, &second));
    mailbox_reply(b, &first, 0, NULL, NULL);
    mailbox_reply(b, &second, 0, NULL, NULL);
    assert_false(mailbox_take(a, &got));
    q = (struct msg){.kind = 5};
    assert_int_equal(mailbox_ask(a, b, &q, 10, 100, &t1), 0);
    assert_true(mailbox_take(b, &second));
    assert_true(mailbox_wanted(b, &second));
    assert_false(mailbox_wanted(b, &first)); /* the same place, an earlier use */
    mailbox_set_free(set);
}

static void waits_are_told_as_quantiles(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *a = mailbox_new(set, "a", 4, 0);
    struct mailbox *b = mailbox_new(set, "b", 256, 0);
    struct msg m = {.kind = 1}, got;
    for (int i = 0; i < 200; i++)
        assert_int_equal(mailbox_post(a, b, &m), 0);
    for (int i = 0; i < 200; i++) {
        assert_true(mailbox_take(b, &got));
        mailbox_busy(b, 1, got.posted_ns + (i < 190 ? 1000 : 5000000));
    }
    mailbox_idle(b, got.posted_ns + 5000001);
    struct mailbox_stats st;
    mailbox_stats(set, 1, &st);
    assert_true(st.wait_p50_ns > 1000 && st.wait_p50_ns <= 1250);
    assert_true(st.wait_p99_ns > 5000000 && st.wait_p99_ns <= 6250000);
    assert_int_equal(st.latency_ns_max, 5000000);
    mailbox_set_free(set);
}

#define PRODUCERS 4
#define PER_PRODUCER 50000u

struct producer {
    struct mailbox *self, *to;
    uint64_t index;
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (uint64_t i = 0; i < PER_PRODUCER;) {
        struct msg m = {.kind = 1, .arg = {p->index, i}};
        if (mailbox_post(p->self, p->to, &m) == 0)
            i++;
        else
            sched_yield();
    }
    return NULL;
}

static void wait_for_mail(struct mailbox *m)
{
    if (mailbox_drained(m))
        return;
    struct pollfd p = {.fd = mailbox_fd(m), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 30000), 1); /* a lost wake-up would hang here */
}

static void many_producers_keep_their_order_and_lose_nothing(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(PRODUCERS + 1);
    struct mailbox *sink = mailbox_new(set, "sink", 256, 0);
    struct producer p[PRODUCERS];
    pthread_t thread[PRODUCERS];
    for (uint64_t i = 0; i < PRODUCERS; i++)
        p[i] = (struct producer){mailbox_new(set, "producer", 2, 0), sink, i};
    for (int i = 0; i < PRODUCERS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, produce, &p[i]), 0);
    uint64_t next[PRODUCERS] = {0};
    for (uint64_t got = 0; got < PRODUCERS * (uint64_t)PER_PRODUCER;) {
        struct msg m;
        if (!mailbox_take(sink, &m)) {
            wait_for_mail(sink);
            continue;
        }
        assert_int_equal(m.arg[1], next[m.arg[0]]);
        next[m.arg[0]]++;
        got++;
    }
    for (int i = 0; i < PRODUCERS; i++)
        pthread_join(thread[i], NULL);
    mailbox_set_free(set);
}

#define QUESTIONS 50000u

static void *respond(void *arg)
{
    struct mailbox *m = arg;
    for (uint64_t answered = 0; answered < QUESTIONS;) {
        struct msg q;
        if (!mailbox_take(m, &q)) {
            wait_for_mail(m);
            continue;
        }
        mailbox_reply(m, &q, (int)(q.tag % 7), NULL, NULL);
        answered++;
    }
    return NULL;
}

static void each_of_many_questions_gets_its_own_answer(void **state)
{
    (void)state;
    struct mailbox_set *set = mailbox_set_new(2);
    struct mailbox *asker = mailbox_new(set, "asker", 128, 64);
    struct mailbox *responder = mailbox_new(set, "responder", 32, 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, respond, responder), 0);
    uint64_t asked = 0, answered = 0, tags = 0;
    while (answered < QUESTIONS) {
        struct msg q = {.kind = 2, .tag = asked};
        uint64_t ticket;
        if (asked < QUESTIONS &&
            mailbox_ask(asker, responder, &q, 60 * NS_PER_S, clock_mono_ns(), &ticket) == 0) {
            asked++;
            continue;
        }
        struct msg got;
        if (!mailbox_take(asker, &got)) {
            if (asked == QUESTIONS || answered + 64 <= asked)
                wait_for_mail(asker);
            continue;
        }
        assert_true(got.is_reply);
        assert_int_equal(got.status, got.tag % 7);
        tags += got.tag;
        answered++;
    }
    assert_int_equal(tags, (uint64_t)QUESTIONS * (QUESTIONS - 1) / 2);
    pthread_join(thread, NULL);
    struct mailbox_stats st;
    mailbox_stats(set, 0, &st);
    assert_int_equal(st.tickets_out, 0);
    mailbox_set_free(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_post_moves_the_body_and_a_full_ring_leaves_it),
        cmocka_unit_test(wakes_are_coalesced_and_none_is_lost),
        cmocka_unit_test(wakes_that_are_held_come_as_one_and_urgent_ones_at_once),
        cmocka_unit_test(a_reply_finds_room_even_when_requests_fill_the_ring),
        cmocka_unit_test(an_expired_ticket_comes_back_once_and_its_late_reply_is_dropped),
        cmocka_unit_test(the_thread_map_names_the_longest_message),
        cmocka_unit_test(an_owner_that_takes_nothing_stands_still),
        cmocka_unit_test(urgent_messages_go_first_but_do_not_starve_the_rest),
        cmocka_unit_test(what_can_be_said_again_leaves_room_for_what_cannot),
        cmocka_unit_test(one_that_waits_already_is_not_posted_again),
        cmocka_unit_test(a_responder_sees_that_nobody_waits_any_more),
        cmocka_unit_test(waits_are_told_as_quantiles),
        cmocka_unit_test(many_producers_keep_their_order_and_lose_nothing),
        cmocka_unit_test(each_of_many_questions_gets_its_own_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

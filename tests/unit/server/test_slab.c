/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a slab lends each byte to one holder at a time, keeps its bound, and takes back from any
 * thread. Method: by hand to each bound; then two threads that check and return what an owner lends
 * as fast as it can. Run under TSan too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "server/mailbox/mailbox.h"
#include "server/mailbox/slab.h"

static void blocks_come_back_and_the_newest_is_lent_first(void **state)
{
    (void)state;
    struct slab *s = slab_new(64 * 1024);
    void *a = slab_take(s, 100), *b = slab_take(s, 900);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal((uintptr_t)a % 16, 0);
    assert_int_equal(slab_used(s), 2048);
    slab_give(a);
    slab_give(b);
    slab_give(NULL);
    assert_int_equal(slab_used(s), 0);
    assert_ptr_equal(slab_take(s, 1), b);
    slab_free(s);
}

static void the_bound_holds_and_larger_blocks_are_cut_for_smaller(void **state)
{
    (void)state;
    struct slab *s = slab_new(64 * 1024);
    void *big[4];
    for (int i = 0; i < 4; i++)
        assert_non_null(big[i] = slab_take(s, 16000));
    assert_null(slab_take(s, 1));
    assert_null(slab_take(s, 17000)); /* never: more than a quarter */
    slab_give(big[2]);
    void *small[17];
    for (int i = 0; i < 16; i++) {
        assert_non_null(small[i] = slab_take(s, 900));
        memset(small[i], i, 900);
    }
    assert_null(slab_take(s, 900));
    for (int i = 0; i < 16; i++)
        assert_int_equal(*(unsigned char *)small[i], i);
    assert_int_equal(slab_used(s), 64 * 1024);
    slab_free(s);
}

#define LOANS 40000u

static void *give_back(void *arg)
{
    struct mailbox *me = arg;
    for (uint32_t got = 0; got < LOANS;) {
        struct msg m;
        if (!mailbox_take(me, &m)) {
            sched_yield();
            continue;
        }
        unsigned char *p = m.body;
        for (size_t i = 0; i < m.arg[0]; i++)
            assert_int_equal(p[i], (unsigned char)m.arg[1]);
        msg_release(&m);
        got++;
    }
    return NULL;
}

static void what_is_lent_is_nobody_elses(void **state)
{
    (void)state;
    struct slab *s = slab_new(256 * 1024);
    struct mailbox_set *set = mailbox_set_new(3);
    struct mailbox *owner = mailbox_new(set, "owner", 2, 0), *to[2];
    pthread_t thread[2];
    for (int i = 0; i < 2; i++) {
        to[i] = mailbox_new(set, "borrower", 64, 0);
        assert_int_equal(pthread_create(&thread[i], NULL, give_back, to[i]), 0);
    }
    for (uint32_t i = 0; i < 2 * LOANS;) {
        size_t n = 1 + i * 977u % 5000u;
        void *block = slab_take(s, n);
        if (block == NULL) {
            sched_yield();
            continue;
        }
        memset(block, (int)(i & 0xff), n);
        struct msg m = {.kind = 1, .arg = {n, i & 0xff}, .body = block, .body_free = slab_give};
        while (mailbox_post(owner, to[i % 2], &m) < 0)
            sched_yield();
        i++;
    }
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(slab_used(s), 0);
    mailbox_set_free(set);
    slab_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_back_and_the_newest_is_lent_first),
        cmocka_unit_test(the_bound_holds_and_larger_blocks_are_cut_for_smaller),
        cmocka_unit_test(what_is_lent_is_nobody_elses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

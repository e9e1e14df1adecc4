/* SPDX-License-Identifier: Apache-2.0 */
/* The acceptor's keys come from the store by question and answer; nobody waits for them.
 *
 * One load is two questions (credentials, tokens). Handshakes that name a key not in the table are
 * parked while a load is on its way. A load is begun at start, when somebody says MSG_KEYS_CHANGED,
 * when an unknown key is named (at most once a second, so that strangers cannot keep the store
 * busy), and a second after one that failed. What was known before a failed load stays known. After
 * a good one, sessions whose credential is gone are ended; not after one that was overtaken, since
 * it may not know the newest enrolment. */
#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "server/monitor/acceptor.h"
#include "server/msg.h"
#include "server/store/store.h"

#define LOAD_TIMEOUT_NS (8 * NS_PER_S)
#define LOAD_LEAST_NS NS_PER_S
#define KEYS_MAX 10000u /* rows that the store gives at most */

static void load_retry(struct reactor_timer *t, uint64_t now)
{
    (void)now;
    key_loader_load(container_of(t, struct acceptor, keys.retry));
}

void key_loader_init(struct acceptor *a)
{
    keys_init(&a->keys.table);
    a->keys.retry.fire = load_retry;
    key_loader_load(a);
}

void key_loader_fini(struct acceptor *a)
{
    reactor_timer_clear(a->reactor, &a->keys.retry);
    keys_fini(&a->keys.table);
}

static bool ask(struct acceptor *a, enum store_table table, enum key_class class)
{
    struct store_query *q = store_query_new(table);
    if (q == NULL)
        return false;
    q->limit = KEYS_MAX;
    q->now_us = clock_wall_us();
    struct msg m = {
        .kind = MSG_STORE_QUERY, .body = q, .body_free = store_query_free, .tag = class};
    uint64_t ticket;
    if (mailbox_ask(a->me, a->m->threads->store_reader[0], &m, LOAD_TIMEOUT_NS, clock_mono_ns(),
                    &ticket) < 0) {
        store_query_free(q);
        return false;
    }
    a->keys.asked++;
    return true;
}

static void load_over(struct acceptor *a)
{
    struct key_loader *k = &a->keys;
    k->good = !k->failed;
    if (k->again) {
        key_loader_load(a);
        return;
    }
    if (!k->good)
        reactor_timer_set(a->reactor, &k->retry, reactor_now(a->reactor) + LOAD_LEAST_NS);
    else
        acceptor_sessions_check(a);
    rotation_look(a->rotations);
    list_for_each_safe(l, &a->busy)
    {
        struct handshake *h = container_of(l, struct handshake, link);
        if (h->state == HANDSHAKE_KEYS)
            handshake_keys_loaded(h);
    }
}

void key_loader_load(struct acceptor *a)
{
    struct key_loader *k = &a->keys;
    if (k->asked > 0) {
        k->again = true;
        return;
    }
    reactor_timer_clear(a->reactor, &k->retry);
    k->again = k->withdrawn = false;
    k->began_ns = reactor_now(a->reactor);
    bool first = ask(a, STORE_CREDENTIALS, KEY_CREDENTIAL);
    bool second = ask(a, STORE_ENROLMENTS, KEY_TOKEN);
    k->failed = !first || !second;
    if (k->asked == 0)
        load_over(a);
}

bool key_loader_refresh(struct acceptor *a)
{
    struct key_loader *k = &a->keys;
    if (k->asked > 0)
        return true;
    if (!k->good || reactor_now(a->reactor) - k->began_ns < LOAD_LEAST_NS)
        return false;
    key_loader_load(a);
    return k->asked > 0;
}

void key_loader_reply(struct acceptor *a, const struct msg *m)
{
    struct key_loader *k = &a->keys;
    size_t bad = 0;
    int r = m->status;
    bool stale = k->withdrawn && m->tag == KEY_CREDENTIAL; /* the load that follows has it right */
    if (r == 0 && !stale)
        r = keys_replace(&k->table, (enum key_class)m->tag, m->body, &bad);
    if (bad > 0)
        log_warning("monitor: %zu keys of gateways in the store make no sense and are left out",
                    bad);
    if (r < 0) {
        if (k->good || k->began_ns == 0)
            log_warning("monitor: the keys of gateways cannot be read: %s", weir_strerror(r));
        k->failed = true;
    }
    weir_assert(k->asked > 0);
    if (--k->asked == 0)
        load_over(a);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanges.
 *
 * Problem: an HTTP request needs answers of several threads, none of which may be waited for; and
 * the request may be gone when they come.
 *
 * Model: a table of slots. The tag of each question says slot, generation and index; the reply
 * finds its exchange by them. A slot that was given to another meanwhile has another generation, so
 * a late reply finds nobody and its body is freed with the message.
 *
 * Invariants: (1) waiting <= count; (2) in_slot exactly while table->slot[slot] is this exchange;
 * (3) done is called once for each time that waiting falls to 0 by a reply. */
#include "server/app/exchange.h"

#include "base/assert.h"
#include "base/err.h"
#include "server/msg.h"

static uint64_t tag_make(const struct exchange *x, size_t index)
{
    return (uint64_t)x->generation << 32 | (uint64_t)x->slot << 16 | index;
}

void exchange_init(struct exchange *x, struct exchange_table *t, void (*done)(struct exchange *x))
{
    x->table = t;
    x->done = done;
    x->in_slot = false;
    x->count = x->waiting = x->processes = x->views = 0;
    x->earlier = NULL;
}

static void slot_release(struct exchange *x)
{
    if (!x->in_slot)
        return;
    weir_assert(x->table->slot[x->slot] == x);
    x->table->slot[x->slot] = NULL;
    x->in_slot = false;
}

static bool slot_take(struct exchange *x)
{
    for (uint32_t i = 0; i < EXCHANGE_MAX; i++) {
        if (x->table->slot[i])
            continue;
        x->table->slot[i] = x;
        x->slot = i;
        x->generation = ++x->table->generation;
        x->in_slot = true;
        return true;
    }
    return false;
}

static void answers_drop(struct exchange *x)
{
    for (size_t i = 0; i < x->count; i++)
        json_decref(x->answer[i].json);
    json_decref(x->earlier);
    x->earlier = NULL;
    x->count = x->processes = x->views = 0;
}

void exchange_fini(struct exchange *x)
{
    if (!x->table)
        return;
    answers_drop(x);
    slot_release(x);
    x->waiting = 0;
}

void exchange_clear(struct exchange *x)
{
    weir_assert(x->waiting == 0);
    answers_drop(x);
}

void exchange_ask(struct exchange *x, struct mailbox *to, struct msg m, uint64_t timeout_ns,
                  uint64_t now_ns)
{
    weir_assert(x->count < EXCHANGE_MAX_ANSWERS);
    size_t i = x->count++;
    x->answer[i] = (struct exchange_answer){.status = WEIR_E_FULL};
    uint64_t ticket;
    if (!x->in_slot && !slot_take(x)) {
        msg_release(&m);
        return;
    }
    m.tag = tag_make(x, i);
    int r = m.body == NULL && m.body_free != NULL
                ? WEIR_E_FULL /* the caller had no memory for it */
                : mailbox_ask(x->table->self, to, &m, timeout_ns, now_ns, &ticket);
    if (r < 0) {
        x->answer[i].status = r;
        msg_release(&m);
        return;
    }
    x->waiting++;
    weir_assert(x->waiting <= x->count);
}

void exchange_take(struct exchange_table *t, struct msg *reply)
{
    weir_assert(reply->is_reply);
    uint64_t slot = reply->tag >> 16 & 0xffff, index = reply->tag & 0xffff;
    weir_assert(slot < EXCHANGE_MAX);
    struct exchange *x = t->slot[slot];
    if (!x || x->generation != reply->tag >> 32)
        return;
    weir_assert(index < x->count);
    weir_assert(x->waiting > 0);
    struct exchange_answer *a = &x->answer[index];
    a->status = reply->status;
    if (reply->kind == MSG_VIEW || reply->kind == MSG_ADMISSION || reply->kind == MSG_STORE_QUERY ||
        reply->kind == MSG_STORE_WRITE || reply->kind == MSG_DIALS ||
        reply->kind == MSG_ROTATION_ORDERS) {
        a->json = reply->body;
        reply->body = NULL;
    }
    if (--x->waiting == 0) {
        slot_release(x);
        x->done(x);
    }
}

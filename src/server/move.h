/* SPDX-License-Identifier: Apache-2.0 */
/* The move of a gateway from one thread pair and SLA process to another: a baton that is handed on.
 *
 * One message, MSG_MOVE, goes round all who know the gateway; each lets go of its part, or takes it
 * up, when the baton reaches it, and hands it on. Nobody waits for it.
 *
 *   ASKED ----> inbound[from]: reads no more of it, says what it owes, puts its half in
 *   FROZEN ---> services[from]: everything inbound ever said of it was handled; exports it
 *   PACKED ---> outbound[from]: everything these services ever sent to it is queued; puts its half
 *               in, with what is unsent (skipped when the pair stays)
 *   CARRIED --> outbound[to]: takes the half up, sends on
 *   WRITING --> services[to]: imports it; from here on these services send
 *   UNPACKED -> inbound[to]: takes the half up, reads on
 *   DONE -----> acceptor: the table says where it is now
 *
 *   REFUSED --> acceptor: inbound[from] no longer has it, or it is ending; nothing was changed
 *
 * A gateway without a session: ASKED -> services[from], PACKED -> services[to], UNPACKED ->
 * acceptor.
 *
 * Invariants.
 *  1. Each of the parts (reading half, what services know, writing half) is at one thread or in the
 *     baton, never twice, and there is one baton for a gateway.
 *  2. Nothing is overtaken. A mailbox keeps the order of each sender, so the baton comes behind
 *     all that its sender posted before: inbound's reports before the export, the services' polls
 *     and controls before the writing half leaves, the import before the first report that
 *     inbound[to] reads. That holds within a lane; an answer in several frames that has begun in
 *     the urgent one may be overtaken, and its rest is dropped (inbound.c).
 *  3. Nothing is lost: what the gateway sends meanwhile waits in its socket; what is to be sent to
 *     it waits in the writing half or, decided later, is found as a difference by services[to].
 *  4. The two halves of a session are never touched by two threads: who puts one in has removed the
 *     descriptor from its epoll before, and the mailboxes' release and acquire order the rest.
 *  5. A thread that is stopped delays the gateways that move through it, and nobody else.
 *  6. Epochs of controls grow along the way, so that an acknowledgement of before the move is told
 *     from one of after it, whichever process gets it. */
#ifndef WEIR_SERVER_MOVE_H
#define WEIR_SERVER_MOVE_H
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "server/msg.h"
#include "server/services/report.h"
#include "server/threads.h"

enum move_step {
    MOVE_ASKED,
    MOVE_FROZEN,
    MOVE_PACKED,
    MOVE_CARRIED,
    MOVE_WRITING,
    MOVE_UNPACKED,
    MOVE_DONE,
    MOVE_REFUSED,
};

#define MOVE_HALF_MAX 512u

struct gateway_parcel;

/* Body of MSG_MOVE. */
struct move {
    enum move_step step;
    uint8_t gateway[GATEWAY_ID_SIZE];
    uint64_t session; /* 0: it has none */
    uint16_t from_pair, from_process, to_pair, to_process;
    uint32_t subgroup;
    uint64_t began_ns;
    bool let_go; /* what waited for it was: services[to] send all anew */
    struct move *next; /* of whoever holds it while the next has no room */
    struct gateway_parcel *parcel;
    void (*parcel_free)(struct gateway_parcel *p);
    void (*reader_free)(void *half), (*writer_free)(void *half); /* NULL: not in here */
    _Alignas(16) unsigned char reader[MOVE_HALF_MAX];
    _Alignas(16) unsigned char writer[MOVE_HALF_MAX];
};

static inline void move_free(void *move)
{
    struct move *m = move;
    if (m == NULL)
        return;
    if (m->reader_free != NULL)
        m->reader_free(m->reader);
    if (m->writer_free != NULL)
        m->writer_free(m->writer);
    if (m->parcel != NULL)
        m->parcel_free(m->parcel);
    free(m);
}

/* Who gets it at this step. */
static inline struct mailbox *move_holder(const struct threads *t, const struct move *m)
{
    switch (m->step) {
    case MOVE_ASKED:
        return m->session != 0 ? t->inbound[m->from_pair] : t->services[m->from_process];
    case MOVE_FROZEN:
        return t->services[m->from_process];
    case MOVE_PACKED:
        return m->session != 0 ? t->outbound[m->from_pair] : t->services[m->to_process];
    case MOVE_CARRIED:
        return t->outbound[m->to_pair];
    case MOVE_WRITING:
        return t->services[m->to_process];
    case MOVE_UNPACKED:
        return m->session != 0 ? t->inbound[m->to_pair] : t->acceptor;
    case MOVE_DONE:
    case MOVE_REFUSED:
        return t->acceptor;
    }
    return t->acceptor;
}

/* Hand the baton on; false: no room, it is still the caller's. */
static inline bool move_post(struct mailbox *from, const struct threads *t, struct move *m)
{
    struct msg msg = {.kind = MSG_MOVE, .body = m, .body_free = move_free};
    return mailbox_post(from, move_holder(t, m), &msg) == 0;
}

/* Those that could not be handed on, oldest first. */
struct move_queue {
    struct move *first, **last;
};

static inline void move_queue_put(struct move_queue *q, struct move *m)
{
    m->next = NULL;
    if (q->first == NULL)
        q->last = &q->first;
    *q->last = m;
    q->last = &m->next;
}

/* Hand on what can be; true when none is left. */
static inline bool move_queue_post(struct move_queue *q, struct mailbox *from,
                                   const struct threads *t)
{
    while (q->first != NULL) {
        struct move *m = q->first, *next = m->next;
        if (!move_post(from, t, m)) /* it may be somebody else's from here on */
            return false;
        q->first = next;
    }
    return true;
}

static inline void move_queue_free(struct move_queue *q)
{
    while (q->first != NULL) {
        struct move *m = q->first;
        q->first = m->next;
        move_free(m);
    }
}

#endif

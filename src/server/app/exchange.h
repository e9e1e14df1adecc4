/* SPDX-License-Identifier: Apache-2.0 */
/* An exchange: questions put to other threads by mailbox, and what to do once all are answered. */
#ifndef WEIR_SERVER_APP_EXCHANGE_H
#define WEIR_SERVER_APP_EXCHANGE_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/mailbox/mailbox.h"

/* The most that is asked at once: four views of every SLA process, and the store twice. */
#define EXCHANGE_MAX_ANSWERS 66u
#define EXCHANGE_VIEWS_MAX 4u
/* Exchanges that can be under way: one a connection, and the server's own. */
#define EXCHANGE_MAX 272u

struct exchange;

/* All exchanges of the app thread, by slot. */
struct exchange_table {
    struct exchange *slot[EXCHANGE_MAX];
    uint32_t generation;
    struct mailbox *self;
};

struct exchange_answer {
    int status;
    json_t *json; /* owned; NULL with most errors */
};

/* Embedded in its owner; app thread only. */
struct exchange {
    struct exchange_table *table;
    void (*done)(struct exchange *x);
    uint32_t slot, generation;
    bool in_slot;
    size_t count, waiting;
    /* SLA processes that each view is asked of; their number may grow meanwhile. */
    size_t processes;
    /* Views in it, each by its first answer; how many moves had ended before the first was asked;
     * what earlier rounds of the same questions gave, by first answer (NULL: none). */
    size_t views, view_first[EXCHANGE_VIEWS_MAX];
    uint64_t moves_ended;
    json_t *earlier;
    struct exchange_answer answer[EXCHANGE_MAX_ANSWERS];
};

void exchange_init(struct exchange *x, struct exchange_table *t, void (*done)(struct exchange *x));
/* Lets go of answers; those still under way are dropped when they come. */
void exchange_fini(struct exchange *x);
/* Drop the answers before the next round of questions. Nothing may be under way. */
void exchange_clear(struct exchange *x);

/* Post @m to @to and wait for its reply, at most @timeout_ns. Takes the body in every case. What
 * could not be posted is answered at once with its error; then `done` is not called for it: look at
 * `waiting`. The answer's index is the order of asking. */
void exchange_ask(struct exchange *x, struct mailbox *to, struct msg m, uint64_t timeout_ns,
                  uint64_t now_ns);

/* Take a reply (or an expired ticket) out of the mailbox; calls `done` when it was the last. */
void exchange_take(struct exchange_table *t, struct msg *reply);

#endif

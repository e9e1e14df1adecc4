/* SPDX-License-Identifier: Apache-2.0 */
/* A thread's mailbox inside its reactor: messages are handed out between events, a bounded number a
 * round. */
#ifndef WEIR_SERVER_MONITOR_MAIL_H
#define WEIR_SERVER_MONITOR_MAIL_H
#include <stdbool.h>

#include "base/reactor.h"
#include "server/mailbox/mailbox.h"

struct mail {
    struct reactor *reactor;
    struct mailbox *box;
    struct reactor_source source;
    struct reactor_work work;
    /* Whoever takes m->body sets it to NULL; the rest is released afterwards. */
    void (*handle)(void *ctx, struct msg *m);
    void *ctx;
};

/* 0 or an error code of reactor_add. What lies in the box already is handed out in the first
 * round. */
int mail_open(struct mail *m, struct reactor *r, struct mailbox *box,
              void (*handle)(void *ctx, struct msg *m), void *ctx);
void mail_close(struct mail *m);
/* Hand out what lies in the box now, at most as much as in one round. */
void mail_turn(struct mail *m);

/* Post without a reply; true when taken. On false @body is still the caller's. */
bool mail_post(struct mailbox *from, struct mailbox *to, uint16_t kind, uint64_t arg0,
               uint64_t arg1, void *body, void (*body_free)(void *));

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "server/monitor/mail.h"

#include <sys/epoll.h>

#include "base/clock.h"
#include "base/list.h"

/* Messages handled before sockets and timers get their turn again. */
#define MAIL_ROUND 256u

void mail_turn(struct mail *m)
{
    struct msg msg;
    bool more = true;
    for (unsigned i = 0; i < MAIL_ROUND; i++) {
        more = mailbox_take(m->box, &msg);
        if (!more)
            break;
        mailbox_busy(m->box, msg.kind, clock_mono_ns()); /* ends what was before */
        m->handle(m->ctx, &msg);
        msg_release(&msg);
    }
    mailbox_idle(m->box, clock_mono_ns());
    if (more || mailbox_drained(m->box))
        reactor_defer(m->reactor, &m->work);
}

static void mail_run(struct reactor_work *w)
{
    mail_turn(container_of(w, struct mail, work));
}

static void mail_ready(struct reactor_source *s, uint32_t events)
{
    struct mail *m = container_of(s, struct mail, source);
    (void)events;
    reactor_defer(m->reactor, &m->work);
}

int mail_open(struct mail *m, struct reactor *r, struct mailbox *box,
              void (*handle)(void *ctx, struct msg *m), void *ctx)
{
    *m = (struct mail){
        .reactor = r,
        .box = box,
        .source = {.fd = mailbox_fd(box), .ready = mail_ready},
        .handle = handle,
        .ctx = ctx,
    };
    reactor_work_init(&m->work, mail_run);
    int e = reactor_add(r, &m->source, EPOLLIN);
    if (e == 0)
        reactor_defer(r, &m->work);
    return e;
}

void mail_close(struct mail *m)
{
    reactor_remove(m->reactor, &m->source);
    reactor_work_cancel(&m->work);
}

bool mail_post(struct mailbox *from, struct mailbox *to, uint16_t kind, uint64_t arg0,
               uint64_t arg1, void *body, void (*body_free)(void *))
{
    struct msg m = {.kind = kind, .arg = {arg0, arg1}, .body = body, .body_free = body_free};
    return mailbox_post(from, to, &m) == 0;
}

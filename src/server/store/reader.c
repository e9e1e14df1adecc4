/* SPDX-License-Identifier: Apache-2.0 */
/* A reader: answers questions from a connection of its own, one at a time, each bounded to 2 s.
 *
 * It sees what was committed before the question came, since every query starts a new snapshot.
 * When the database was deleted, replaced or broken, it lets go of its connection and opens the one
 * that is there now with the next question; meanwhile the answer is WEIR_E_UNAVAILABLE. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "server/msg.h"
#include "server/store/render.h"
#include "server/store/store_inside.h"

struct reader {
    struct store *store;
    struct mailbox *self;
    struct store_backend *backend;
    bool stopped;
};

static void json_free_body(void *json)
{
    json_decref(json);
}

static void let_go(struct reader *r)
{
    if (r->backend == NULL)
        return;
    if (r->backend->ops->damaged(r->backend))
        atomic_store_explicit(&r->store->suspect, true, memory_order_relaxed);
    r->backend->ops->close(r->backend);
    r->backend = NULL;
}

static int make_sure(struct reader *r)
{
    char words[256];
    if (r->backend != NULL && !r->backend->ops->intact(r->backend))
        let_go(r);
    if (r->backend != NULL)
        return 0;
    int rc =
        sqlite_backend_open(r->store->folder, STORE_ACCESS_READ, &r->backend, words, sizeof(words));
    if (rc == WEIR_E_PARSE)
        atomic_store_explicit(&r->store->suspect, true, memory_order_relaxed);
    return rc == 0 ? 0 : WEIR_E_UNAVAILABLE;
}

static json_t *count(const _Atomic uint64_t *n)
{
    return json_integer((json_int_t)atomic_load_explicit(n, memory_order_relaxed));
}

/* What the writer knows, beside what the database says (which may be nothing now). */
static json_t *add_figures(struct store *s, json_t *status)
{
    struct store_figures *f = &s->figures;
    const char *error = atomic_load_explicit(&f->last_error, memory_order_relaxed);
    if (status == NULL)
        status = json_pack("{s:{}}", "detail");
    json_t *detail = json_object_get(status, "detail");
    json_object_set_new(status, "ok", json_boolean(error[0] == '\0'));
    json_object_set_new(status, "error", render_text(error));
    json_object_set_new(status, "queued", count(&f->pending_rows));
    uint64_t dropped = atomic_load_explicit(&f->dropped_bulk, memory_order_relaxed) +
                       atomic_load_explicit(&f->dropped_kept, memory_order_relaxed) +
                       atomic_load_explicit(&f->refused_rows, memory_order_relaxed);
    json_object_set_new(status, "dropped", json_integer((json_int_t)dropped));
    json_object_set_new(detail, "queuedBytes", count(&f->pending_bytes));
    json_object_set_new(detail, "droppedKept", count(&f->dropped_kept));
    json_object_set_new(detail, "refused", count(&f->refused_rows));
    json_object_set_new(detail, "writesWaiting", count(&f->writes_waiting));
    json_object_set_new(detail, "commits", count(&f->commits));
    json_object_set_new(detail, "reopened", count(&f->reopened));
    int64_t last = atomic_load_explicit(&f->last_commit_us, memory_order_relaxed);
    json_object_set_new(detail, "lastCommit", last == 0 ? json_null() : render_wall(last));
    return status;
}

static void answer(struct reader *r, struct msg *m)
{
    const struct store_query *q = m->body;
    json_t *reply = NULL;
    weir_assert(q != NULL);
    if (!mailbox_wanted(r->self, m)) { /* the asker gave up: spare the database */
        mailbox_reply(r->self, m, WEIR_E_TIMEOUT, NULL, NULL);
        return;
    }
    int rc = make_sure(r);
    if (rc == 0)
        rc = r->backend->ops->query(r->backend, q, &reply);
    if (q->table == STORE_STATUS) { /* answered even without a database */
        reply = add_figures(r->store, reply);
        rc = 0;
    }
    mailbox_reply(r->self, m, rc, reply, json_free_body);
}

static void handle(struct reader *r, struct msg *m)
{
    weir_assert(!m->is_reply);
    switch (m->kind) {
    case MSG_STORE_QUERY:
        answer(r, m);
        break;
    case MSG_STOP:
        let_go(r);
        r->stopped = true;
        mailbox_reply(r->self, m, 0, NULL, NULL);
        break;
    default:
        weir_assert(false);
    }
}

void *store_reader_main(void *store_thread)
{
    const struct store_thread *t = store_thread;
    weir_assert(t->index < t->threads->readers);
    struct reader r = {.store = t->store, .self = t->threads->store_reader[t->index]};
    while (!r.stopped) {
        struct msg m;
        while (!r.stopped && mailbox_take(r.self, &m)) {
            mailbox_busy(r.self, m.kind, clock_mono_ns());
            handle(&r, &m);
            msg_release(&m);
            mailbox_idle(r.self, clock_mono_ns());
        }
        if (r.stopped || mailbox_drained(r.self))
            continue;
        struct pollfd p = {.fd = mailbox_fd(r.self), .events = POLLIN};
        poll(&p, 1, -1);
    }
    return NULL;
}

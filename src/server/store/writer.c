/* SPDX-License-Identifier: Apache-2.0 */
/* The writer: the one thread that writes to the database.
 *
 * Problem: a commit that survives a crash costs a sync, many threads want to write, none may wait,
 * and the database may be locked, full or gone for a while.
 * Model: group commit. All that waits in the mailbox is taken: rows to append go to the pending
 * queues, writes to the list of those to be answered. Then one transaction takes the writes and the
 * kept rows, another the samples, and what came meanwhile waits for the next round. A transaction
 * that fails is rolled back and nothing is taken out of the queues; it is tried again after a pause
 * that grows to a second. Each half (state, samples) by itself:
 *
 *      WORKS --transaction fails--> TROUBLE --pause over, intact, transaction succeeds--> WORKS
 *                                      \-----pause over, not intact: reopen--> WORKS
 *
 * Invariants
 *  1. A write is answered with success only after its COMMIT returned. One that was answered
 *     WEIR_E_UNAVAILABLE is out of the list before that, so it is never committed later.
 *  2. Rows leave the pending queues only by a commit that held them, by their bound (counted as
 *     dropped), or because the database refuses the row itself (counted as refused): a bad row
 *     holds up no other.
 *  3. No call sits in SQLite's lock for more than its busy time-out (50 ms), and one round makes at
 *     most four such calls; the mailbox is drained between rounds. So the writer is never away for
 *     long, whatever the database does.
 *  4. Roll-up and ageing run only when nothing waits, one slice after another for at most
 *     MAINTAIN_NS.
 *
 * What may fail: memory for a row (counted as dropped); the database in every way. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "server/msg.h"
#include "server/store/pending.h"
#include "server/store/render.h"
#include "server/store/store_inside.h"

/* Bounds of one round and of one transaction. */
#define TAKE_MAX     1024
#define GROUP_WRITES 256
#define GROUP_KEPT   2048
#define GROUP_BULK   4096
/* Writes that may wait; more are answered at once. */
#define WRITES_MAX 1024
/* A write is committed or answered in so long. */
#define WRITE_WAIT_NS     (5 * NS_PER_S)
#define RETRY_MIN_NS      (50 * NS_PER_MS)
#define RETRY_MAX_NS      (1 * NS_PER_S)
#define MAINTAIN_EVERY_NS (1 * NS_PER_S)
#define MAINTAIN_NS       (10 * NS_PER_MS)
/* How often an idle writer looks whether its files are still there. */
#define LOOK_EVERY_NS (1 * NS_PER_S)
/* How long MSG_STOP may try to drain. */
#define STOP_WAIT_NS (5 * NS_PER_S)
/* Trouble shorter than this is nobody's news. */
#define TROUBLE_NS (1 * NS_PER_S)

struct waiting_write {
    struct list link;
    struct msg m;
    uint64_t deadline_ns;
    /* Of the transaction under way. */
    int status;
    json_t *reply;
};

/* How one half of the database fares. */
struct half {
    uint64_t retry_at_ns, pause_ns; /* 0: working */
    uint64_t since_ns;              /* of the trouble */
    bool told;
    const char *words; /* static; "" : none */
};

struct writer {
    struct store *store;
    const struct threads *threads;
    struct mailbox *self;
    struct store_backend *backend; /* NULL: gone */
    struct pending pending;
    struct list writes; /* struct waiting_write */
    size_t write_count;
    struct half half[STORE_PART_COUNT];
    bool aside;
    uint64_t maintain_at_ns, look_at_ns;
    bool stopping;
    struct msg stop;
    uint64_t stop_deadline_ns;
};

static void json_free_body(void *json)
{
    json_decref(json);
}

static void show_figures(struct writer *w)
{
    struct store_figures *f = &w->store->figures;
    atomic_store_explicit(&f->pending_rows, pending_rows(&w->pending), memory_order_relaxed);
    atomic_store_explicit(&f->pending_bytes, w->pending.bytes, memory_order_relaxed);
    atomic_store_explicit(&f->dropped_bulk, w->pending.dropped_bulk, memory_order_relaxed);
    atomic_store_explicit(&f->dropped_kept, w->pending.dropped_kept, memory_order_relaxed);
    atomic_store_explicit(&f->writes_waiting, w->write_count, memory_order_relaxed);
}

/* An event of our own: into the queue, and to the live views. */
static void tell(struct writer *w, enum event_severity severity, const char *kind,
                 const char *words)
{
    struct event_record e = {.wall_us = clock_wall_us(), .severity = severity};
    snprintf(e.kind, sizeof(e.kind), "%s", kind);
    snprintf(e.subject, sizeof(e.subject), "store/%s", "database");
    snprintf(e.text, sizeof(e.text), "%s", words);
    pending_add_event(&w->pending, &e);
    if (w->threads->app == NULL || !threads_listened(w->threads))
        return;
    struct msg m = {.kind = MSG_NOTICE,
                    .body = render_event((uint64_t)e.wall_us, &e),
                    .body_free = json_free_body};
    if (mailbox_post(w->self, w->threads->app, &m) != 0)
        msg_release(&m); /* the event itself is kept */
}

static const char *half_name(enum store_part part)
{
    return part == STORE_PART_STATE ? "state" : "samples";
}

static bool troubled(const struct writer *w)
{
    return w->half[STORE_PART_STATE].since_ns != 0 || w->half[STORE_PART_SAMPLES].since_ns != 0;
}

static void show_error(struct writer *w)
{
    const char *words = w->half[STORE_PART_STATE].since_ns != 0 ? w->half[STORE_PART_STATE].words
                        : w->half[STORE_PART_SAMPLES].since_ns != 0
                            ? w->half[STORE_PART_SAMPLES].words
                            : "";
    atomic_store_explicit(&w->store->figures.last_error, words, memory_order_relaxed);
}

static void trouble(struct writer *w, enum store_part part, const char *words)
{
    uint64_t now = clock_mono_ns();
    struct half *h = &w->half[part];
    h->words = words[0] != '\0' ? words : "it cannot be used now";
    if (h->since_ns == 0)
        h->since_ns = now;
    h->pause_ns = h->pause_ns == 0 ? RETRY_MIN_NS : h->pause_ns * 2;
    if (h->pause_ns > RETRY_MAX_NS)
        h->pause_ns = RETRY_MAX_NS;
    h->retry_at_ns = now + h->pause_ns;
    show_error(w);
    if (h->told || now - h->since_ns < TROUBLE_NS)
        return;
    char text[256];
    snprintf(text, sizeof(text),
             "the %s database cannot be written: %s; control goes on, rows wait in memory",
             half_name(part), h->words);
    log_error("store: %s", text);
    tell(w, EVENT_ERROR, "store-unavailable", text);
    h->told = true;
}

static void works(struct writer *w, enum store_part part)
{
    struct half *h = &w->half[part];
    struct store_figures *f = &w->store->figures;
    atomic_fetch_add_explicit(&f->commits, 1, memory_order_relaxed);
    atomic_store_explicit(&f->last_commit_us, clock_wall_us(), memory_order_relaxed);
    if (h->since_ns == 0)
        return;
    struct half was = *h;
    *h = (struct half){.words = ""};
    show_error(w);
    if (!was.told)
        return;
    char text[192];
    snprintf(text, sizeof(text),
             "the %s database works again after %llu s; rows dropped since start: %llu",
             half_name(part), (unsigned long long)((clock_mono_ns() - was.since_ns) / NS_PER_S),
             (unsigned long long)(w->pending.dropped_bulk + w->pending.dropped_kept));
    log_info("store: %s", text);
    tell(w, EVENT_INFO, "store-available", text);
}

static void tell_aside(struct writer *w, const char *words)
{
    log_error("store: %s", words);
    tell(w, EVENT_ERROR, "store-samples-damaged", words);
    w->aside = true; /* that samples.db is new is said thereby */
}

/* Samples that were found damaged do not come back; what waits goes into a new file. */
static void let_go(struct writer *w)
{
    char words[sizeof(w->store->aside)];
    if (w->backend == NULL)
        return;
    bool damaged = w->backend->ops->damaged(w->backend);
    w->backend->ops->close(w->backend);
    w->backend = NULL;
    if (!damaged)
        return;
    if (sqlite_samples_set_aside(w->store->folder, words, sizeof(words)) == 0)
        tell_aside(w, words);
    else
        log_error("store: %s", words);
}

/* A connection to what is there now. False: there is none to be had; trouble is noted for @part. */
static bool make_sure(struct writer *w, enum store_part part)
{
    char words[sizeof(w->store->aside)], aside[sizeof(w->store->aside)];
    if (w->backend != NULL && !w->backend->ops->intact(w->backend))
        let_go(w);
    if (w->backend != NULL)
        return true;
    int rc = sqlite_backend_open_anew(w->store->folder, &w->backend, words, aside, sizeof(words));
    if (aside[0] != '\0')
        tell_aside(w, aside);
    if (rc != 0) {
        trouble(w, part, "it cannot be opened");
        return false;
    }
    atomic_fetch_add_explicit(&w->store->figures.reopened, 1, memory_order_relaxed);
    if (w->backend->ops->fresh(w->backend) && !w->aside) {
        static const char text[] =
            "the database was gone and has been made anew; what it held is lost";
        log_error("store: %s", text);
        tell(w, EVENT_ERROR, "store-recreated", text);
    }
    w->aside = false;
    return true;
}

/* Take a write out of the list and answer it. */
static void answer(struct writer *w, struct waiting_write *ww, int status, json_t *reply)
{
    list_remove(&ww->link);
    weir_assert(w->write_count > 0);
    w->write_count--;
    mailbox_reply(w->self, &ww->m, status, reply, json_free_body);
    msg_release(&ww->m);
    free(ww);
}

static void forget_outcomes(struct writer *w)
{
    list_for_each(l, &w->writes)
    {
        struct waiting_write *ww = container_of(l, struct waiting_write, link);
        json_decref(ww->reply);
        ww->reply = NULL;
    }
}

/* A row's own fault is counted and passed by; only the database's fault ends the transaction. */
static int row_outcome(struct writer *w, int rc)
{
    if (rc != 0 && rc != WEIR_E_UNAVAILABLE) {
        atomic_fetch_add_explicit(&w->store->figures.refused_rows, 1, memory_order_relaxed);
        return 0;
    }
    return rc;
}

static int put_writes(struct writer *w, size_t *ret_count)
{
    list_for_each(l, &w->writes)
    {
        struct waiting_write *ww = container_of(l, struct waiting_write, link);
        if (*ret_count == GROUP_WRITES)
            return 0;
        weir_assert(ww->reply == NULL);
        ww->status = w->backend->ops->write(w->backend, ww->m.body, &ww->reply);
        if (ww->status == WEIR_E_UNAVAILABLE)
            return WEIR_E_UNAVAILABLE;
        (*ret_count)++;
    }
    return 0;
}

static int put_kept(struct writer *w, size_t *ret_count)
{
    list_for_each(l, &w->pending.kept)
    {
        const struct pending_row *row = container_of(l, struct pending_row, link);
        if (*ret_count == GROUP_KEPT)
            return 0;
        int rc = row->kind == PENDING_ACTION
                     ? w->backend->ops->action(w->backend, pending_action(row))
                     : w->backend->ops->event(w->backend, pending_event(row));
        rc = row_outcome(w, rc);
        if (rc != 0)
            return rc;
        (*ret_count)++;
    }
    return 0;
}

static int put_bulk(struct writer *w, size_t *ret_count)
{
    struct sample_record sample;
    list_for_each(l, &w->pending.bulk)
    {
        const struct pending_row *row = container_of(l, struct pending_row, link);
        int rc;
        if (*ret_count == GROUP_BULK)
            return 0;
        if (row->kind == PENDING_SAMPLE) {
            pending_sample(row, &sample);
            rc = w->backend->ops->sample(w->backend, &sample);
        } else {
            rc = w->backend->ops->health(w->backend, pending_health(row));
        }
        rc = row_outcome(w, rc);
        if (rc != 0)
            return rc;
        (*ret_count)++;
    }
    return 0;
}

static void give_up(struct writer *w, enum store_part part)
{
    const struct store_backend_ops *ops = w->backend->ops;
    const char *words = ops->last_error(w->backend);
    ops->rollback(w->backend, part);
    trouble(w, part, words);
}

/* Writes, actions and events: one transaction. */
static void flush_state(struct writer *w)
{
    const struct store_backend_ops *ops = w->backend->ops;
    size_t writes = 0, kept = 0;
    int rc = ops->begin(w->backend, STORE_PART_STATE);
    if (rc == 0)
        rc = put_writes(w, &writes);
    if (rc == 0)
        rc = put_kept(w, &kept);
    if (rc == 0)
        rc = ops->commit(w->backend, STORE_PART_STATE);
    if (rc != 0) {
        forget_outcomes(w);
        give_up(w, STORE_PART_STATE);
        return;
    }
    for (; writes > 0; writes--) {
        struct waiting_write *ww = container_of(w->writes.next, struct waiting_write, link);
        json_t *reply = ww->reply;
        ww->reply = NULL;
        answer(w, ww, ww->status, reply);
    }
    pending_done_kept(&w->pending, kept);
    works(w, STORE_PART_STATE);
}

static void flush_bulk(struct writer *w)
{
    const struct store_backend_ops *ops = w->backend->ops;
    size_t rows = 0;
    int rc = ops->begin(w->backend, STORE_PART_SAMPLES);
    if (rc == 0)
        rc = put_bulk(w, &rows);
    if (rc == 0)
        rc = ops->commit(w->backend, STORE_PART_SAMPLES);
    if (rc != 0) {
        give_up(w, STORE_PART_SAMPLES);
        return;
    }
    pending_done_bulk(&w->pending, rows);
    works(w, STORE_PART_SAMPLES);
}

static bool half_waits(const struct writer *w, enum store_part part)
{
    return part == STORE_PART_STATE ? w->write_count > 0 || w->pending.kept_rows > 0
                                    : w->pending.bulk_rows > 0;
}

static bool something_waits(const struct writer *w)
{
    return half_waits(w, STORE_PART_STATE) || half_waits(w, STORE_PART_SAMPLES);
}

/* Each half is tried whatever the other meets: they are two files. */
static void flush(struct writer *w)
{
    if (half_waits(w, STORE_PART_STATE) &&
        clock_mono_ns() >= w->half[STORE_PART_STATE].retry_at_ns && make_sure(w, STORE_PART_STATE))
        flush_state(w);
    if (half_waits(w, STORE_PART_SAMPLES) &&
        clock_mono_ns() >= w->half[STORE_PART_SAMPLES].retry_at_ns &&
        make_sure(w, STORE_PART_SAMPLES))
        flush_bulk(w);
}

/* Those that waited too long are answered now, and so are out before any later commit. */
static void expire_writes(struct writer *w, uint64_t now_ns, bool all)
{
    list_for_each_safe(l, &w->writes)
    {
        struct waiting_write *ww = container_of(l, struct waiting_write, link);
        if (!all && ww->deadline_ns > now_ns)
            continue;
        const char *words =
            atomic_load_explicit(&w->store->figures.last_error, memory_order_relaxed);
        answer(w, ww, WEIR_E_UNAVAILABLE, json_pack("{s:s}", "words", words));
    }
}

static void maintain(struct writer *w, uint64_t now_ns)
{
    bool more = true;
    if (now_ns < w->maintain_at_ns || troubled(w) || something_waits(w) || w->stopping ||
        !make_sure(w, STORE_PART_SAMPLES))
        return;
    mailbox_busy(w->self, MSG_NONE, now_ns);
    while (more && clock_mono_ns() - now_ns < MAINTAIN_NS) {
        more = false;
        if (w->backend->ops->maintain(w->backend, &w->store->ages, clock_wall_us(), &more) != 0)
            break; /* nothing is lost by doing it later */
    }
    uint64_t end_ns = clock_mono_ns();
    mailbox_idle(w->self, end_ns);
    w->maintain_at_ns = end_ns + (more ? 2 * MAINTAIN_NS : MAINTAIN_EVERY_NS);
}

static void take_write(struct writer *w, struct msg *m)
{
    weir_assert(m->body != NULL);
    struct waiting_write *ww = w->write_count < WRITES_MAX ? calloc(1, sizeof(*ww)) : NULL;
    if (ww == NULL) {
        mailbox_reply(w->self, m, WEIR_E_UNAVAILABLE,
                      json_pack("{s:s}", "words", "too many writes wait"), json_free_body);
        return;
    }
    ww->m = *m;
    ww->deadline_ns = clock_mono_ns() + WRITE_WAIT_NS;
    m->body = NULL;
    list_push_back(&w->writes, &ww->link);
    w->write_count++;
}

static void handle(struct writer *w, struct msg *m)
{
    weir_assert(!m->is_reply);
    switch (m->kind) {
    case MSG_STORE_APPEND:
        weir_assert(m->body != NULL);
        pending_add(&w->pending, m->body);
        break;
    case MSG_STORE_WRITE:
        take_write(w, m);
        break;
    case MSG_STOP:
        w->stopping = true;
        w->stop = *m;
        w->stop_deadline_ns = clock_mono_ns() + STOP_WAIT_NS;
        m->body = NULL;
        break;
    default:
        weir_assert(false);
    }
}

/* True when the mailbox was emptied. */
static bool take(struct writer *w)
{
    struct msg m;
    for (int i = 0; i < TAKE_MAX; i++) {
        if (!mailbox_take(w->self, &m))
            return true;
        mailbox_busy(w->self, m.kind, clock_mono_ns());
        handle(w, &m);
        msg_release(&m);
        mailbox_idle(w->self, clock_mono_ns());
    }
    return false;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t next_wake_ns(const struct writer *w)
{
    uint64_t at = w->look_at_ns;
    for (enum store_part part = STORE_PART_STATE; part < STORE_PART_COUNT; part++)
        if (half_waits(w, part))
            at = earlier(at, w->half[part].retry_at_ns); /* 0: now */
    if (!troubled(w) && !something_waits(w))
        at = earlier(at, w->maintain_at_ns);
    if (w->write_count > 0)
        at = earlier(at, container_of(w->writes.next, struct waiting_write, link)->deadline_ns);
    return w->stopping ? earlier(at, w->stop_deadline_ns) : at;
}

static void wait(struct writer *w)
{
    uint64_t now = clock_mono_ns(), at = next_wake_ns(w);
    if (at <= now || mailbox_drained(w->self))
        return;
    struct pollfd p = {.fd = mailbox_fd(w->self), .events = POLLIN};
    uint64_t ms = (at - now) / NS_PER_MS + 1;
    poll(&p, 1, ms > 1000 ? 1000 : (int)ms);
}

/* A reader has met damage. Our own connection may not see it (it has what it needs in memory): look
 * at all of it, and open it once more. */
static void look_for_damage(struct writer *w)
{
    char words[256];
    if (!atomic_exchange_explicit(&w->store->suspect, false, memory_order_relaxed) ||
        !make_sure(w, STORE_PART_SAMPLES))
        return;
    (void)sqlite_backend_check(w->backend, words, sizeof(words));
    let_go(w);
    (void)make_sure(w, STORE_PART_SAMPLES);
}

/* An idle writer notices too when its database is deleted, and when a troubled one works again. */
static void look(struct writer *w, uint64_t now_ns)
{
    if (now_ns < w->look_at_ns)
        return;
    w->look_at_ns = now_ns + LOOK_EVERY_NS;
    look_for_damage(w);
    for (enum store_part part = STORE_PART_STATE; part < STORE_PART_COUNT; part++) {
        if (half_waits(w, part) || now_ns < w->half[part].retry_at_ns || !make_sure(w, part) ||
            w->half[part].since_ns == 0)
            continue;
        const struct store_backend_ops *ops = w->backend->ops;
        if (ops->begin(w->backend, part) == 0 && ops->commit(w->backend, part) == 0)
            works(w, part);
        else
            give_up(w, part);
    }
}

static bool may_end(const struct writer *w, uint64_t now_ns)
{
    return w->stopping && (!something_waits(w) || now_ns >= w->stop_deadline_ns);
}

void *store_writer_main(void *store_thread)
{
    const struct store_thread *t = store_thread;
    struct writer w = {.store = t->store,
                       .threads = t->threads,
                       .self = t->threads->store_writer,
                       .backend = t->store->writer,
                       .half = {{.words = ""}, {.words = ""}}};
    t->store->writer = NULL;
    list_init(&w.writes);
    pending_init(&w.pending, PENDING_MAX_BYTES, PENDING_MAX_ROWS);
    if (w.store->aside[0] != '\0')
        tell_aside(&w, w.store->aside);
    w.aside = false;
    for (;;) {
        bool empty = take(&w);
        show_figures(&w); /* before a write is answered: what came before it counts as queued */
        mailbox_busy(w.self, MSG_STORE_WRITE, clock_mono_ns());
        flush(&w);
        expire_writes(&w, clock_mono_ns(), false);
        mailbox_idle(w.self, clock_mono_ns());
        look(&w, clock_mono_ns());
        maintain(&w, clock_mono_ns());
        show_figures(&w);
        if (empty && may_end(&w, clock_mono_ns()))
            break;
        if (empty)
            wait(&w);
    }
    expire_writes(&w, 0, true);
    if (pending_rows(&w.pending) > 0)
        log_error("store: ended with %zu rows that the database did not take",
                  pending_rows(&w.pending));
    pending_fini(&w.pending);
    let_go(&w);
    mailbox_reply(w.self, &w.stop, 0, NULL, NULL);
    return NULL;
}

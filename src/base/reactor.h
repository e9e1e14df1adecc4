/* SPDX-License-Identifier: Apache-2.0 */
/* One thread's event loop: edge-triggered readiness (epoll, or io_uring), timers, work put off to
 * the end of a round, and sends carried out together.
 *
 * Every function is for the owning thread only, except reactor_wake. Sources and timers are
 * embedded in their owners and must be removed before they are freed; removing one inside a
 * callback is safe, and no event of the same batch reaches it afterwards.
 *
 * A round: wait -> sources ready -> timers due -> deferred work (once each) -> wait. */
#ifndef WEIR_BASE_REACTOR_H
#define WEIR_BASE_REACTOR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

struct reactor;

struct reactor_source {
    int fd;        /* owner's; not closed by the reactor */
    uint32_t slot; /* reactor's; 0 when not added */
    void (*ready)(struct reactor_source *s, uint32_t epoll_events);
    /* For those who use reactor_send: of @n bytes at @data, less than all were sent. @ret is how
     * many, or -errno. Called in a flush or at the beginning of a round, before any ready(). */
    void (*unsent)(struct reactor_source *s, const void *data, size_t n, int ret);
    bool sending; /* reactor's: a send is put off */
};

struct reactor_timer {
    void (*fire)(struct reactor_timer *t, uint64_t now_ns);
    uint64_t at_ns;
    size_t heap_index; /* reactor's; 0 when not armed */
};

struct reactor_work {
    void (*run)(struct reactor_work *w);
    struct list link; /* reactor's; init with reactor_work_init */
};

/* @max_sources bounds sources and @max_timers armed timers; memory is taken here. NULL: no memory
 * or descriptors. */
struct reactor *reactor_new(size_t max_sources, size_t max_timers);
void reactor_free(struct reactor *r);

/* Use io_uring instead of epoll: before anything is added, in the thread that runs the loop. 0, or
 * -errno when the system lacks or forbids it; then all stays as it was. */
int reactor_use_uring(struct reactor *r);

/* After a round that had something to do, look for more for up to @look_ns before sleeping: the
 * next event is taken some 10 us sooner, and the processor is busy meanwhile. 0 (at first):
 * sleep. */
void reactor_look(struct reactor *r, uint64_t look_ns);

/* Watch s->fd with @epoll_events (EPOLLIN | EPOLLOUT ...; EPOLLET is added). 0, -errno,
 * WEIR_E_FULL. */
int reactor_add(struct reactor *r, struct reactor_source *s, uint32_t epoll_events);
void reactor_remove(struct reactor *r, struct reactor_source *s);

/* Arm or move @t (t->fire set by the owner). Asserts when more than max_timers are armed. */
void reactor_timer_set(struct reactor *r, struct reactor_timer *t, uint64_t at_ns);
void reactor_timer_clear(struct reactor *r, struct reactor_timer *t);

/* Put off a send of all @n bytes (no waiting, no signal) to the end of the round, when it costs no
 * system call of its own; @data stays untouched until then (see reactor_sending). Unless
 * s->unsent is called, all of it was sent. False, and nothing done: without io_uring, or when a
 * send of @s is put off already. */
bool reactor_send(struct reactor *r, struct reactor_source *s, const void *data, size_t n);
/* Whether sends are put off. */
bool reactor_sending(const struct reactor *r);
/* Carry out now what was put off. */
void reactor_flush(struct reactor *r);

void reactor_work_init(struct reactor_work *w, void (*run)(struct reactor_work *w));
/* Run @w once at the end of this round; again only if deferred again. Idempotent. */
void reactor_defer(struct reactor *r, struct reactor_work *w);
void reactor_work_cancel(struct reactor_work *w);
/* Whether the work that runs is the only one of its round (those cancelled since count as well). */
bool reactor_alone(const struct reactor *r);

/* The monotonic time sampled after the last wait; reactor_now_fresh samples anew. */
uint64_t reactor_now(const struct reactor *r);
uint64_t reactor_now_fresh(struct reactor *r);

/* Wake the loop from any thread (eventfd, coalesced). @on_wake is called in the owning thread. */
void reactor_on_wake(struct reactor *r, void (*on_wake)(void *arg), void *arg);
void reactor_wake(struct reactor *r);

/* One round, waiting at most @timeout_ns (UINT64_MAX: for ever, timers aside). 0 or -errno. */
int reactor_round(struct reactor *r, uint64_t timeout_ns);
/* Rounds until reactor_stop (which any callback of this thread may call). */
int reactor_run(struct reactor *r);
void reactor_stop(struct reactor *r);

#endif

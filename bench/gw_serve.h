/* SPDX-License-Identifier: Apache-2.0 */
/* What every server of the comparison does with an answer, and when it polls: one truth for the
 * four forms (gw_serve_pair.c, _threads.c, _zmq.c, _nng.c). */
#ifndef WEIR_BENCH_GW_SERVE_H
#define WEIR_BENCH_GW_SERVE_H
#include <pthread.h>
#include <stdint.h>

#include "base/text.h"
#include "control/frame.h"
#include "qos/hist.h"
#include "server/services/report.h"

struct serve_gateway {
    bool used, waiting; /* waiting: a poll is out */
    uint32_t key, phase_ms;
    uint64_t seq, acked, polled_ns, due_ns;
    uint64_t arrivals, bytes, histogram; /* sums over all that was reported */
};

struct serve_options {
    const char *listen, *state_dir;
    uint32_t gateways, period_ms, pairs, processes;
};

struct serve {
    struct serve_options o;
    pthread_mutex_t lock; /* of all below; never held while anything waits */
    struct serve_gateway *gateway;
    uint32_t *due_order; /* indices by phase, for the forms that poll from one thread */
    struct hist round_trip;
    uint64_t answers, bytes;
    const struct monitor *monitor; /* NULL: another form */
};

/* 0 or -ENOMEM. */
int serve_init(struct serve *s, const struct serve_options *o);

/* A gateway appeared under @key (whatever the transport knows it by): its place. Asserts that there
 * is room. */
uint32_t serve_come(struct serve *s, uint32_t key);
/* -1: nobody of that key. */
int64_t serve_find(struct serve *s, uint32_t key);
void serve_gone(struct serve *s, uint32_t at);

/* An answer: the frame becomes a struct report, every counter and bucket of it is folded in. The
 * monitor's inbound thread does the first half in the pair form. 0, or an error: not an answer. */
int serve_frame(struct serve *s, uint32_t at, const Weir__Control__Frame *f, uint64_t now_ns);
void serve_report(struct serve *s, uint32_t at, const struct report *r, uint64_t now_ns);

/* When the next poll of @at is due: at once, or at its phase of the period. */
uint64_t serve_due(struct serve *s, uint32_t at, uint64_t now_ns);
/* The poll that is due now; counts its beginning. */
void serve_poll(struct serve *s, uint32_t at, uint64_t now_ns, uint64_t *ret_seq,
                uint64_t *ret_acked);
/* As a frame, appended. */
void serve_poll_frame(struct serve *s, uint32_t at, uint64_t now_ns, struct text *out);

/* A calendar of who is due, of one millisecond a slot and one period round; single thread. */
struct calendar;
struct calendar *calendar_new(uint32_t gateways, uint32_t period_ms);
void calendar_put(struct calendar *c, uint32_t at, uint64_t due_ns);
/* The next that is due by @now_ns, or -1. */
int64_t calendar_take(struct calendar *c, uint64_t now_ns);

/* Each runs until the process ends; prints "listening on ADDRESS" when it is ready. */
int serve_pair(struct serve *s);
int serve_threads(struct serve *s);
int serve_zmq(struct serve *s);
int serve_nng(struct serve *s);

#endif

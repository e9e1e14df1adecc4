/* SPDX-License-Identifier: Apache-2.0 */
/* The way of an early warning: how long each part of it takes, from the warning's read to the
 * control that answers it on the wire.
 *
 *   read -> mailbox -> SLA process -> mailbox -> outbound --poll--> gateway --answer--> read ->
 *   mailbox -> SLA process -> mailbox -> outbound --controls-->
 *
 * A message on that way has tag TRAIL_TAG. Times are those that messages carry anyway and a look at
 * the clock where a warning passes; what is not on the way costs nothing. A warning that needs no
 * control has no end, and one that comes before the last one ended takes its place. Any thread may
 * add; readers get figures of about now. Every function takes NULL, which keeps nothing. */
#ifndef WEIR_SERVER_MAILBOX_TRAIL_H
#define WEIR_SERVER_MAILBOX_TRAIL_H
#include <stddef.h>
#include <stdint.h>

#define TRAIL_TAG 1u

/* From what to what. */
#define TRAIL_TABLE(X)                                                                             \
    X(WARNING_READ, "warning-read")         /* inbound woke: its mail is posted */                 \
    X(WARNING_WAITS, "warning-waits")       /* until the SLA process takes it */                   \
    X(WARNING_DECIDED, "warning-decided")   /* and has posted the poll */                          \
    X(POLL_WAITS, "poll-waits")             /* until outbound takes it */                          \
    X(POLL_SENT, "poll-sent")               /* and has it on the wire */                           \
    X(GATEWAY, "gateway")                   /* until inbound wakes with the answer */              \
    X(ANSWER_READ, "answer-read")           /* and has posted it */                                \
    X(ANSWER_WAITS, "answer-waits")         /* until the SLA process takes it */                   \
    X(ANSWER_DECIDED, "answer-decided")     /* and has posted the controls */                      \
    X(CONTROLS_WAIT, "controls-wait")       /* until outbound takes them */                        \
    X(CONTROLS_SENT, "controls-sent")       /* and has them on the wire */                         \
    X(WHOLE, "whole")                       /* from the first to the last */

enum trail_part {
#define X(name, label) TRAIL_##name,
    TRAIL_TABLE(X)
#undef X
    TRAIL_COUNT
};
const char *trail_name(enum trail_part part);

struct trail;

/* @slots: of sessions. NULL: no memory. */
struct trail *trail_new(size_t slots);
void trail_free(struct trail *t);

void trail_add(struct trail *t, enum trail_part part, uint64_t from_ns, uint64_t to_ns);
/* The session in @slot is another's: what it began is over. */
void trail_forget(struct trail *t, size_t slot);
/* A warning was read at @now_ns; its controls are on the wire. */
void trail_warned(struct trail *t, size_t slot, uint64_t now_ns);
void trail_answered(struct trail *t, size_t slot, uint64_t now_ns);
/* The poll is on the wire at @now_ns; inbound woke with its answer. */
void trail_asked(struct trail *t, size_t slot, uint64_t now_ns);
void trail_heard(struct trail *t, size_t slot, uint64_t now_ns);

struct trail_stats {
    uint64_t count, sum_ns, p50_ns, p99_ns, max_ns;
};
void trail_read(const struct trail *t, enum trail_part part, struct trail_stats *ret);
/* How many took at most @edge_ns, to a quarter of an octave. */
uint64_t trail_below(const struct trail *t, enum trail_part part, uint64_t edge_ns);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Many gateways played by one thread: dialling, handshake, polls, controls, surges, faults. */
#ifndef WEIR_BENCH_GW_PLAY_H
#define WEIR_BENCH_GW_PLAY_H
#include <stdint.h>

#include "base/addr.h"
#include "base/list.h"
#include "base/reactor.h"
#include "base/text.h"
#include "control/auth.h"
#include "control/frame.h"
#include "gw_stats.h"
#include "gw_wire.h"
#include "qos/hist.h"

/*   IDLE -> QUEUED -> CONNECTING -> GREETING -> PROVING -> UP
 *   any but IDLE -> QUEUED (dropped, dialled again) or IDLE (dropped for good) */
enum gw_state { GW_IDLE, GW_QUEUED, GW_CONNECTING, GW_GREETING, GW_PROVING, GW_UP };

struct gw {
    struct reactor_source source;
    struct list queued;
    struct play *play;
    int fd;
    enum gw_state state;
    bool deaf, half, proved, answered; /* answered: a poll, in this session */
    bool owed;                         /* an answer, while all hush */
    uint64_t owed_seq, owed_acked;
    uint32_t number, request;          /* request: of an SP message */
    uint64_t due_ns, dialled_ns, said_ns, polled_ns, surged_ns;
    uint8_t id[AUTH_ID_SIZE], nonce[AUTH_NONCE_SIZE];
    struct text in, out;
    struct gw_stats stats;
};

struct play_counts {
    uint64_t polls, answers, bytes_out, bytes_in, controls, surges, surges_unanswered;
    uint64_t dials, dial_failures, drops, refusals, byes, sessions;
};

struct play_options {
    struct addr server;
    enum gw_wire wire;
    uint8_t key[AUTH_KEY_SIZE];
    uint32_t gateways, first, streams, active, surgers, surge_extra, sources, source_net;
    uint32_t dial_limit; /* handshakes at once */
    uint64_t surge_ns;   /* between two surges; 0: none */
    bool redial;
};

struct play {
    struct play_options o;
    bool hush;
    struct reactor *reactor;
    struct reactor_timer tick, sweep, surge;
    struct gw *gw;
    struct list queue;
    uint32_t dialling, up, surger;
    uint32_t swept;     /* turns of the sweep */
    uint32_t half_next; /* the next that becomes half-open; behind the last: none */
    struct frame_arena arena;
    struct gw_scratch *scratch;
    struct text pack;
    uint8_t *input;
    struct play_counts counts;
    struct hist surge_to_control, poll_gap, dial_to_welcome;
    uint64_t settle_from_ns; /* of the last storm; 0: none is on */
    uint32_t settle_left;
    double settle_s;
    char last_refusal[160];
};

/* 0 or an error code. */
int play_open(struct play *p, const struct play_options *o);
void play_close(struct play *p);
/* Put all that are idle into the queue of those to be dialled. */
void play_dial_all(struct play *p);
/* The last @n gateways stop reading; or become half-open, a few every 10 ms: nothing of theirs
 * reaches the server, and what comes for them is dropped unacknowledged. */
void play_deafen(struct play *p, uint32_t n);
void play_half(struct play *p, uint32_t n);
/* No poll is answered, until all that is owed is answered at once: so that many can connect to a
 * server that would else be busy with the first of them. */
void play_hush(struct play *p);
void play_speak(struct play *p);
/* Those read again; those that were half-open dial anew. */
void play_heal(struct play *p);
/* The last @n gateways lose their connection and dial again, all at once. */
void play_storm(struct play *p, uint32_t n);
/* Drop the last @n for good / dial them again. */
void play_leave(struct play *p, uint32_t n);
/* @n of them send so many heartbeats each, at once. */
void play_flood(struct play *p, uint32_t n, uint32_t frames);
/* I/Os that all gateways together have counted since they booted. */
uint64_t play_ios(const struct play *p);
/* Counts and histograms begin anew. */
void play_mark(struct play *p);

#endif

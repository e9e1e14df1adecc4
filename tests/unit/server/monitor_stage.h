/* SPDX-License-Identifier: Apache-2.0 */
/* The monitor's three threads on real sockets, with the test in the place of SLA services, store
 * and app. */
#ifndef WEIR_TESTS_MONITOR_STAGE_H
#define WEIR_TESTS_MONITOR_STAGE_H
#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "control/auth.h"
#include "control/frame.h"
#include "server/monitor/monitor.h"
#include "server/msg.h"
#include "server/services/controls.h"
#include "server/services/report.h"
#include "server/threads.h"

#define STAGE_KEPT 4096u
/* A bound on polling loops, never a measurement. */
#define STAGE_PATIENCE_NS (20 * NS_PER_S)

struct stage {
    char dir[80];
    struct server_config config;
    struct threads threads;
    struct monitor *monitor;
    struct monitor_thread of_monitor;
    pthread_t thread[3];
    struct msg kept[STAGE_KEPT]; /* what the SLA services got and nobody asked for yet */
    size_t kept_count;
    json_t *credentials, *enrolments; /* what the store holds */
    bool store_mute;                  /* the store does not answer */
    unsigned events;                  /* told to the store */
    void (*pump)(void *arg);          /* the other side, run in the test's thread */
    void *pump_arg;
};

void stage_open(struct stage *s, uint32_t heartbeat_ms);
/* A gateway that does not read is told of after @stall_ns, and ended after @slow_ns. */
void stage_open_patient(struct stage *s, uint32_t heartbeat_ms, uint64_t stall_ns,
                        uint64_t slow_ns);
void stage_close(struct stage *s);

/* One turn: the store's questions, the SLA services' messages, the other side. */
void stage_turn(struct stage *s);
/* Turns until a message of @kind came to the SLA services; it must. Release it with msg_release. */
struct msg stage_take(struct stage *s, unsigned kind);
/* The same, but gives up after @ns: false. */
bool stage_try(struct stage *s, unsigned kind, uint64_t ns, struct msg *ret);
/* Turns until @done says so; it must. */
void stage_until(struct stage *s, bool (*done)(void *arg), void *arg);

void stage_poll(struct stage *s, uint64_t session, uint64_t seq, uint64_t acked);
/* Takes @u. */
void stage_controls(struct stage *s, uint64_t session, struct control_update *u);
void stage_end(struct stage *s, uint64_t session, const char *why);
/* One control of one member: IOPS limit, 0: removed. */
struct control_update *stage_update(uint64_t epoch, uint32_t lease_ms, bool full, bool planned,
                                    const char *id, const char *member, uint64_t iops);
/* Make an enrolment token that the store knows. */
void stage_token(struct stage *s, char ret_token[AUTH_TOKEN_SIZE]);
struct monitor_stats stage_stats(const struct stage *s);

/* ---- a gateway made by hand ---- */
struct raw {
    struct stage *stage;
    int fd;
    struct text in;
    struct frame_arena arena;
    struct auth_context auth;
    uint8_t key[AUTH_KEY_SIZE];
};
void raw_open(struct stage *s, struct raw *r);
void raw_close(struct raw *r);
void raw_send_bytes(struct raw *r, const void *bytes, size_t n);
void raw_send(struct raw *r, const Weir__Control__Frame *f);
/* The next frame that is no heartbeat, or NULL at the end of the stream. Valid until the next
 * call. */
const Weir__Control__Frame *raw_receive(struct raw *r);
void raw_hello(struct raw *r, uint32_t version_min, uint32_t version_max);
/* Answer a challenge; @spoil is mixed into the proof. */
void raw_prove(struct raw *r, const Weir__Control__Challenge *c, uint8_t spoil);
/* All of a handshake that must go well; returns the session as the SLA services heard of it. */
uint64_t raw_stand(struct raw *r);
/* The next frame must be an Error of @code, and the end of the stream behind it. */
void raw_expect_refusal(struct raw *r, const char *code);

#endif

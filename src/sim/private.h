/* SPDX-License-Identifier: Apache-2.0 */
/* One simulation from inside: private to sim/.
 *
 * sim.c        the run: begin, events, end
 * device.c     targets
 * load.c       hosts
 * node.c       gateways: the way of an I/O
 * node_link.c  gateways: their side of the control protocol
 * server.c     the SLA process and the network to it
 * change.c     what is done to all of them while it runs
 * regulator.c  others' ways of control, to compare with
 * check.c      what must hold at every event */
#ifndef WEIR_SIM_PRIVATE_H
#define WEIR_SIM_PRIVATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/rng.h"
#include "gateway/config.h"
#include "gateway/stream.h"
#include "gateway/surge.h"
#include "qos/gate.h"
#include "qos/sched.h"
#include "server/services/services.h"
#include "sim/events.h"
#include "sim/sim.h"

#define S  UINT64_C(1000000000)
#define MS UINT64_C(1000000)
#define US UINT64_C(1000)
/* Silence after which a session is over. */
#define SIM_SILENCE_NS (3 * S)
#define SIM_RETRY_NS   (500 * MS)

struct sim_node;
struct sim_load;

enum sim_io_state { IO_AT_GATE, IO_AT_TURN, IO_AT_DEVICE };

struct sim_io {
    struct gate_io gate;
    struct sched_io turn;
    struct list link; /* load->ios */
    struct sim_load *load;
    struct sim_node *node;
    struct stream *stream;
    struct sim_device *device;
    struct sim_io *next; /* in the device's queue, or free */
    enum sim_io_state state;
    bool orphan; /* its gateway is gone: nobody waits for the answer */
    uint64_t arrived_ns, generation;
};

struct sim_device {
    struct sim *sim;
    const struct sim_device_config *config;
    uint32_t index, servers, busy;
    double speed;
    struct sim_io *first, *last; /* waiting */
    uint64_t stalled_until_ns, written, accounted_ns;
    double busy_ns; /* after the warm-up */
    uint64_t served, bytes;
    double slots_sum, k_sum;
    uint64_t slots_samples;
};

struct sim_load {
    struct sim *sim;
    const struct sim_load_config *config;
    uint32_t index, outstanding;
    struct sim_node *node;
    struct stream *stream; /* NULL: not connected */
    struct list ios;
    uint64_t generation; /* arrivals of earlier lives are dropped */
    bool on;
    double scale; /* of rate or depth */
    size_t trace_at;
    uint64_t trace_base_ns;
    struct sim_load_result result;
    struct hist second; /* judged latency of the running second */
    uint64_t second_at;
    uint64_t limit_iops;  /* of a baseline; 0: none */
    uint64_t seen_served; /* by a baseline */
    struct hist seen;
};

/* Messages in flight to or from a gateway carry its session; another session's are void. */
struct sim_node {
    struct sim *sim;
    uint32_t index;
    bool up, connected, partitioned;
    uint64_t boot; /* grows with each life */
    struct stream_table *table;
    uint64_t wake_ns; /* an event is set for then; UINT64_MAX: none */
    bool ticking;
    struct gateway_hello hello;
    uint64_t heard_ns;
    uint64_t epoch, lease_until_ns;
    bool first_set;
    struct surge_watch *watch; /* by slot */
    size_t watch_count, cursor;
    uint64_t controls_applied;
    uint64_t last_to_ns, last_from_ns; /* the newest message each way arrives then */
    double parda_window;
    uint64_t parda_ios, parda_latency_ns;
};

struct sim {
    const struct sim_config *config;
    struct gateway_config *gateway_config;
    uint64_t now;
    struct events events;
    struct rng rng;
    struct sim_device *device;
    struct sim_load *load;
    struct sim_node *node;
    struct services *services; /* NULL: the server is down */
    uint64_t next_session, service_ns;
    int64_t wall_step_us;
    uint64_t tick_ns; /* an event is set for then */
    struct sim_io *free_io;
    struct sim_result *result;
    uint64_t ios, last_fault_ns;
    bool *agreement_removed;
    bool broken;
    char broken_words[512];
};

/* ---- sim.c */
bool sim_scheme_is_ours(const struct sim *s);
/* Free what an event that never comes would have. */
void sim_drop(const struct event *e);
int64_t sim_wall_us(const struct sim *s);
double sim_exponential(struct sim *s, double mean);

/* ---- device.c */
void device_init(struct sim *s, struct sim_device *d, const struct sim_device_config *c,
                 uint32_t index);
void device_take(struct sim_device *d, struct sim_io *io);
void device_account(struct sim_device *d);
void device_kick(struct sim_device *d);
/* Whether @e is about an I/O that the target has. */
bool device_holds(const struct event *e);
/* Free what waits. */
void device_free(struct sim_device *d);
void device_stall(struct sim_device *d, uint64_t ns);

/* ---- load.c */
void load_init(struct sim *s, struct sim_load *l, const struct sim_load_config *c, uint32_t index);
void load_start(struct sim_load *l);
/* The gateway answered. */
void load_done(struct sim_load *l, struct sim_io *io, uint64_t held_ns);
/* The gateway is gone with what it had in hand. */
void load_lost(struct sim_load *l);
/* Through the gateway it belongs to, if that is up. */
void load_connect(struct sim_load *l);
void load_fill(struct sim_load *l);
void load_second(struct sim_load *l);

/* ---- node.c */
int node_init(struct sim *s, struct sim_node *n, uint32_t index);
void node_fini(struct sim_node *n);
int node_up(struct sim_node *n);
void node_down(struct sim_node *n);
void node_submit(struct sim_node *n, struct sim_io *io);
void node_answer(struct sim_node *n, struct sim_io *io);
void node_cancel(struct sim_io *io);
/* Let go what may go. */
void node_run(struct sim_node *n);
struct sim_io *sim_io_new(struct sim *s);
void sim_io_free(struct sim *s, struct sim_io *io);

/* ---- node_link.c */
void node_session_up(struct sim_node *n);
/* Try until it stands. */
void node_reconnect(struct sim_node *n);
void node_session_down(struct sim_node *n, bool tell);
void node_polled(struct sim_node *n, uint64_t seq);
void node_controls(struct sim_node *n, struct control_update *u);
void node_lease(struct sim_node *n);
void node_look(struct sim_node *n);

/* ---- server.c */
int server_up(struct sim *s, struct text *why);
void server_down(struct sim *s);
void server_tick_set(struct sim *s);
/* A message of @n on its way; @body is the message's. */
void server_report(struct sim_node *n, struct report *r);
void server_ack(struct sim_node *n, uint64_t epoch, int status);
void server_surge(struct sim_node *n, uint32_t stream);
void server_session(struct sim_node *n, bool up);
void sim_report_free(struct report *r);

/* ---- change.c */
void changes_start(struct sim *s);

/* ---- regulator.c */
void regulator_start(struct sim *s);
bool regulator_sets_window(const struct sim *s);
void regulator_answer(struct sim_node *n, uint64_t latency_ns);

/* ---- check.c */
void check_broken(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void check_go(struct sim *s, const struct sim_io *io);
void check_control(struct sim *s, const struct sim_node *n, const struct control_item *item);
void check_epoch(struct sim *s, const struct sim_node *n, const struct control_update *u,
                 uint64_t before);
void check_counts(struct sim *s);
void check_end(struct sim *s);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* One simulation from inside: private to sim/.
 *
 * sim.c        the run: begin, events, end
 * device.c     targets
 * load.c       hosts
 * node.c       gateways: the way of an I/O
 * node_link.c  gateways: their side of the control protocol
 * server.c     the network between gateways and server
 * wire.c       its bytes: frames whole, in pieces, torn
 * process.c    SLA processes: messages, time, life
 * store.c      what they read from the store, and documents that change
 * moves.c      the acceptor: which process has which gateway, and moves between them
 * change.c     what is done to all of them while it runs
 * regulator.c  others' ways of control, to compare with
 * check.c      what must hold at every event
 * obey.c       what policies let be done
 * promise.c    what must be kept again once faults are over */
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
#include "server/monitor/route.h"
#include "server/services/services.h"
#include "sim/events.h"
#include "sim/sim.h"

#define S  UINT64_C(1000000000)
#define MS UINT64_C(1000000)
#define US UINT64_C(1000)
/* Silence after which a session is over. */
#define SIM_SILENCE_NS (3 * S)
#define SIM_RETRY_NS   (500 * MS)

/* A world of more gateways or loads is looked over once a second, not at every event. */
#define SIM_SMALL 256u

/* As server/sla.c has it: an answer of the store that does not come is asked for again. */
#define SIM_ASK_TIMEOUT_NS (5 * S)
#define SIM_ASK_AGAIN_NS   (1 * S)

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

/* First in, first out. */
struct sim_queue {
    struct sim_io *first, *last;
};

struct sim_device {
    struct sim *sim;
    const struct sim_device_config *config;
    uint32_t index, servers, busy;
    double speed;
    struct sim_queue queue, before; /* waiting; before them, where an oracle says who that is */
    uint64_t stalled_until_ns, written, accounted_ns;
    double busy_ns; /* after the warm-up */
    uint64_t served, bytes;
    double slots_sum, k_sum;
    uint64_t slots_samples;
    uint32_t waiting;
    double depth_ns;   /* of the running second: I/Os that it held, over time */
    uint64_t overdue, overdue_sum, heard_served; /* of that second; promise.c */
    uint64_t begun_ns; /* a load began to work here */
};

/* What a load was promised and can be given, as far as promise.c can tell; 0: nothing. */
struct sim_promise {
    uint64_t late_ns;  /* no more than late_part of its I/O later than this, */
    double late_part;
    uint64_t while_ios; /* in seconds with no more arrivals than these */
    uint64_t ios;      /* so many a second, if so many arrive */
    char name[NAME_SIZE];
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
    struct sim_promise promise;
    struct sim_heard {
        uint64_t arrived, served, late;
    } heard;                  /* in the running second */
    uint64_t behind_for_ns, behind_until_ns; /* promise.c: what gathered in a fault is not gone */
    double leash, cut_from; /* obey.c: the throttle it is under, 0: none; before its last cuts */
    uint64_t cut_ns;
    uint64_t limit_iops;  /* of a baseline; 0: none */
    uint64_t seen_served; /* by a baseline */
    bool goes_before;     /* SIM_ORACLE: all others at the target */
    struct hist seen;
};

enum message_kind {
    TO_POLL, /* server to gateway */
    TO_CONTROL,
    FROM_REPORT, /* gateway to server */
    FROM_ACK,
    FROM_SURGE,
    FROM_UP,
    FROM_DOWN,
    PROCESS_SHARE, /* to an SLA process: from another, */
    PROCESS_EXPORT, /* from the acceptor (moves.c), */
    PROCESS_IMPORT,
    PROCESS_FORGET,
    PROCESS_SUBGROUP,
    PROCESS_LOADED, /* from the store, */
    PROCESS_DOCUMENT, /* from people */
};

/* Messages in flight to or from a gateway carry its session; another session's are void. */
struct message {
    enum message_kind kind;
    struct sim_node *node; /* NULL: of no gateway */
    uint64_t session, number;
    int status;
    void *body;
    struct gateway_hello hello;
    uint64_t life;          /* of the server, when it was sent within it */
    uint32_t process, from; /* whom it is for; who sent it */
    bool late;              /* it was kept on its way, and comes whatever session stands now */
    uint64_t frame, rest_ns; /* wire.c: its number; when its second piece comes */
    uint32_t size, came;     /* bytes */
    bool torn;               /* the connection breaks in its middle */
    struct message *next;   /* of whoever holds it */
};

struct message_queue {
    struct message *first, *last;
};

enum sim_load_state { LOAD_WANTED, LOAD_ASKED, LOAD_DONE };
enum sim_load_what { LOAD_DOCUMENTS, LOAD_GATEWAYS, LOAD_COUNT };

/* An SLA process: what server/sla.c drives. */
struct sim_process {
    struct sim *sim;
    uint32_t index;
    struct services *services; /* NULL: the server is down */
    uint64_t tick_ns;          /* an event is set for then */
    uint64_t still_until_ns;   /* it stands still */
    struct message_queue inbox; /* what waits for it meanwhile */
    struct message_queue arrived; /* batons that came before what is agreed */
    enum sim_load_state load[LOAD_COUNT];
    uint64_t asked[LOAD_COUNT]; /* number of the last question */
    bool again[LOAD_COUNT];     /* changed by people while it was read */
    bool loaded;
    uint64_t talk_from_ns; /* the second in which messages to others are counted */
    uint32_t talk;
};

/* An agreement as the store has it. */
struct sim_document {
    bool removed;
    uint64_t changed_ns; /* 0: never */
    struct agreement agreement;
};

/* I/Os that went in the running second under one limit of many gateways. */
struct sim_account {
    uint64_t ios;
    bool forced; /* some had waited for max-hold, and went whatever the limit */
};

/* One direction of a gateway's connection: what came of a frame. */
struct sim_wire {
    uint64_t session;
    bool broken; /* in it: what was sent behind that comes no more */
    struct text in;
};

/* What the store has of a gateway. */
struct sim_record {
    bool known, admitted;
    uint32_t process;
    int64_t first_seen_us, last_seen_us;
};

struct sim_node {
    struct sim *sim;
    uint32_t index;
    bool up, connected, partitioned;
    struct sim_record record;
    struct message_queue held;     /* came while it moves between processes */
    struct message_queue withheld; /* late frames: kept on their way */
    bool withhold_next;            /* from the next session's first controls on */
    uint64_t withheld_session;     /* what this session sends and gets is withheld; 0: none */
    uint64_t before;               /* targets (a bit each) that it stands before */
    uint32_t seen;                 /* by check.c */
    uint64_t boot; /* grows with each life */
    struct stream_table *table;
    uint64_t wake_ns; /* an event is set for then; UINT64_MAX: none */
    bool ticking;
    struct gateway_hello hello;
    uint64_t heard_ns;
    uint64_t epoch, lease_until_ns;
    uint64_t *in_force; /* check.c: IOPS of each limit of many gateways; 0: none */
    uint64_t there_ns;  /* check.c: the server reached it, or was not there itself */
    bool forgot;        /* check.c: it began anew, without what was in force, and was not told */
    bool first_set;
    struct surge_watch *watch; /* by slot */
    size_t watch_count, cursor;
    uint64_t controls_applied;
    uint64_t last_to_ns, last_from_ns; /* the newest message each way arrives then */
    struct sim_wire wire[2];           /* to the server, to the gateway */
    bool tear[2];                      /* the next frame is torn */
    uint64_t dribble_ns;               /* frames come in two pieces, so far apart; 0: whole */
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
    struct sim_process process[SIM_PROCESSES_MAX];
    uint32_t processes, running; /* made; that have gateways */
    bool server_is_up;
    uint64_t life; /* of the server */
    struct route *route;
    uint64_t moving;
    struct rng thread_rng; /* of what threads of the server do */
    struct rng start_rng;  /* of what they tell each other after a start, and else nothing */
    uint64_t thread_ns[SIM_PROCESSES_MAX][SIM_PROCESSES_MAX]; /* last message between them */
    uint64_t store_ns;                                        /* an answer takes so long */
    struct sim_document *document;
    struct sim_account *account; /* check.c: of agreements, then of tenants */
    uint64_t account_from_ns;
    uint64_t sums_from_ns; /* check.c: no sum is looked at before */
    uint64_t up_ns;        /* check.c: since then the server is up */
    uint64_t counted_ns;                  /* check.c: last look at everything */
    uint64_t settled_ns, promises_for_ns; /* promise.c; for the last fault at that time */
    uint64_t next_session, frames;
    int64_t wall_step_us;
    struct sim_io *free_io;
    struct sim_result *result;
    uint64_t ios, last_fault_ns;
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
/* @session: the one that they were sent in. */
void node_controls(struct sim_node *n, struct control_update *u, uint64_t session);
void node_lease(struct sim_node *n);
void node_look(struct sim_node *n);

/* ---- server.c */
/* A message of @n on its way; @body is the message's. */
void server_report(struct sim_node *n, struct report *r);
void server_ack(struct sim_node *n, uint64_t epoch, int status);
void server_surge(struct sim_node *n, uint32_t stream);
void server_session(struct sim_node *n, bool up);
void server_poll(struct sim_node *n, uint64_t seq);
void server_controls(struct sim_node *n, struct control_update *u);
/* The session ends; from the first controls of the next one on, what that sends and gets stays on
 * its way. */
void server_withhold(struct sim_node *n);
/* It comes now, whatever session stands. */
void server_late(struct sim_node *n, uint64_t within_ns);
/* All of @m is there. Takes it. */
void server_deliver(struct message *m);
void message_free(struct message *m);
void message_put(struct message_queue *q, struct message *m);
struct message *message_take(struct message_queue *q);
/* Within the server, from one thread to another, after a moment. Takes a copy of @m. */
void server_post(struct sim *s, const struct message *m, uint64_t delay_ns);
uint64_t server_hop_ns(struct rng *r);

/* ---- wire.c */
void wire_init(struct sim_node *n);
void wire_fini(struct sim_node *n);
/* The first byte of @m comes at @at. Takes @m. When its last one comes. */
uint64_t wire_send(struct sim_node *n, struct message *m, uint64_t at);
/* Whether @e is about a message on its way. */
bool wire_holds(const struct event *e);

/* ---- process.c */
int server_up(struct sim *s, struct text *why);
void server_down(struct sim *s);
/* Takes @m. */
void process_take(struct sim_process *p, struct message *m);
void process_stand_still(struct sim_process *p, uint64_t ns);
struct sim_node *sim_node_of(struct sim *s, const uint8_t id[GATEWAY_ID_SIZE]);

/* ---- store.c */
void store_record(struct sim_node *n, const struct sim_process *p, const struct entity_gateway *g);
/* Everything at once; words in @why. */
int store_read(struct sim_process *p, struct text *why);
void store_ask(struct sim_process *p, enum sim_load_what what);
/* An answer, or a document that people changed. */
void store_answered(struct sim_process *p, const struct message *m);
void store_changed(struct sim_process *p, const struct message *m);
/* People change one; it goes to the store first. */
void store_agreement_change(struct sim *s, uint32_t index, uint64_t limit_iops, bool removed);
/* Whether @e is about a document on its way, to be freed. */
bool store_holds(const struct event *e);

/* ---- moves.c */
void moves_start(struct sim *s);
void moves_session(struct sim_node *n, bool up);
struct sim_process *moves_process(struct sim_node *n);
bool moves_moving(const struct sim_node *n);
void moves_targets(struct sim_node *n, const struct entity_gateway *g);
void moves_known(struct sim_node *n, uint32_t process);
void moves_landed(struct sim_node *n, uint32_t process);
void moves_processes(struct sim *s, uint32_t running);
/* Everybody is where the table says, and those before one storage are together. */
void moves_check(struct sim *s);

/* ---- change.c */
void changes_start(struct sim *s);

/* ---- regulator.c */
void regulator_start(struct sim *s);
bool regulator_sets_window(const struct sim *s);
void regulator_answer(struct sim_node *n, uint64_t latency_ns);

/* ---- check.c */
void check_broken(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* It leaves the gate, for its turn; it goes to its target. */
void check_let_go(struct sim *s, const struct sim_io *io);
void check_go(struct sim *s, const struct sim_io *io);
void check_control(struct sim *s, const struct sim_node *n, const struct control_item *item);
/* Process @p sends another one something about a limit. */
void check_talk(struct sim_process *p);
/* @m is handled. */
void check_whole(struct sim *s, const struct message *m);
/* @u is in force; a message of the server came to @n; @n begins (@anew), or the server does. */
void check_in_force(struct sim_node *n, const struct control_update *u);
void check_there(struct sim_node *n);
void check_begins(struct sim_node *n, bool anew);
void check_epoch(struct sim *s, const struct sim_node *n, const struct control_update *u,
                 uint64_t before, uint64_t session);
void check_counts(struct sim *s);
void check_end(struct sim *s);

/* ---- obey.c */
/* After each thing that @p did. */
void obey_look(const struct sim_process *p);

/* ---- promise.c */
void promises_start(struct sim *s);
/* Something changed of itself because of a fault: what is promised may take its time from now. */
void promises_unsettled(struct sim *s);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of one gateway: who does I/O to what, metered, held, and scheduled; and the rules that
 * cover them.
 *
 * A stream is one host's I/O to one volume. It lives on when its connections are gone, so that a
 * host that reconnects finds its counters and limits again. At most max_streams exist; further
 * hosts share one default stream per target (host "*", volume "*"). A stream without connection may
 * be reused for a newcomer, the longest idle first, when the table is full. All of it belongs to
 * the reactor thread. */
#ifndef WEIR_GATEWAY_STREAM_H
#define WEIR_GATEWAY_STREAM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/name.h"
#include "gateway/config.h"
#include "qos/gate.h"
#include "qos/meter.h"
#include "qos/sched.h"
#include "qos/target.h"
#include "qos/window.h"

/* So many [limit X] and so many controls may cover one stream; together GATE_MAX_COVER. */
#define STREAM_FILE_LIMITS_MAX 8u
#define STREAM_CONTROLS_MAX 8u
/* Controls in force: so many for each stream of max_streams; members of all of them together. */
#define STREAM_CONTROLS_PER_STREAM 4u
#define STREAM_MEMBERS_PER_STREAM 16u

struct stream {
    uint32_t index;           /* stable within this boot, never given to another stream */
    bool live;                /* the slot is in use */
    char host[NAME_SIZE];     /* escaped */
    char volume[NAME_SIZE];   /* escaped */
    char tenant[NAME_SIZE];   /* "" : none */
    char key[STREAM_KEY_SIZE];
    const struct target_config *target;
    uint64_t size;            /* of the volume, bytes */
    uint32_t connections;     /* now */
    uint64_t created_ns, last_io_ns;
    struct meter *meter;      /* in the ledger; this worker's part: see stream_meter_total */
    struct gate_flow flow;    /* limits; flow.owner is the stream */
    struct sched_flow turn;   /* its turn at the target, behind the limits */
    struct target *port;      /* that target */
    uint32_t limits_left_out; /* [limit X] that match but are beyond STREAM_FILE_LIMITS_MAX */
};

/* Counters of a target as the gateway sees it. */
struct target_stats {
    uint64_t connections;      /* now */
    uint64_t connects, connect_failures, disconnects; /* ever */
    uint64_t inflight;         /* dispatched, not answered */
    uint64_t errors;           /* replies with an error */
    int last_error;            /* of the last failed connect, -errno; 0: none */
};

/* Where a control comes from; decides how long it lives. */
enum rule_origin {
    RULE_FILE,    /* [limit X] of gateway.conf: as long as the file says so */
    RULE_AGREED,  /* what agreements say: kept on disk, goes on without a server */
    RULE_PLANNED, /* what planning added: ends with its lease */
};
const char *rule_origin_name(enum rule_origin o); /* "file", "agreement", "planned" */

/* One control as the server (or the file) states it. */
struct control {
    char id[2 * NAME_SIZE];    /* "agreement/oltp-gold", "throttle/host/vol", "file/X" */
    enum rule_origin origin;
    const char *const *members; /* stream keys that pay into it, borrowed; of a file: patterns */
    size_t member_count;
    struct gate_limits limits;
    struct sched_terms share;  /* weight 0: none */
    char target[NAME_SIZE];    /* "" : no plan; else of this target of the configuration */
    struct window_plan plan;
    char reason[256];          /* shown to people */
};

/* Whether it says anything at all: a limit, a share or a plan; one that does not is a removal. */
bool stream_control_says(const struct control *c);
/* Whether it limits anything and was agreed: such go on without the server, and it is told of them
 * when it is back. */
bool stream_control_agreed(const struct control *c);

struct ledger;
struct stream_table;

/* @config is borrowed for life. Memory for max_streams streams is taken here; what counts lies in a
 * ledger of its own. NULL: no memory. */
struct stream_table *stream_table_new(const struct gateway_config *config, uint64_t now_ns);
/* The same over @ledger (borrowed): the streams in it are there again, and rules that come back
 * find their credit. */
struct stream_table *stream_table_attach(const struct gateway_config *config,
                                         struct ledger *ledger, uint64_t now_ns);
struct ledger *stream_ledger(struct stream_table *t);
void stream_table_free(struct stream_table *t);

/* The stream of @host (escaped) on @volume (escaped) of @target; created when new, covered by all
 * rules that name it. Never NULL. Adds one connection; stream_disconnect takes it away. */
struct stream *stream_connect(struct stream_table *t, const struct target_config *target,
                              const char *host, const char *volume, const char *tenant,
                              uint64_t size, uint64_t now_ns);
void stream_disconnect(struct stream_table *t, struct stream *s, uint64_t now_ns);

/* Live streams by position: 0 <= i < stream_count; NULL for a slot that is free. */
size_t stream_slots(const struct stream_table *t);
struct stream *stream_at(struct stream_table *t, size_t slot);
struct stream *stream_find(struct stream_table *t, const char *key);

/* All that was ever counted of @s, by this worker and by those before it: @s->meter itself, or
 * @scratch with the sum of both banks. */
const struct meter *stream_meter_total(struct stream_table *t, const struct stream *s,
                                       struct meter *scratch);
/* The same, operations only. */
void stream_ops_total(struct stream_table *t, const struct stream *s,
                      struct meter_op ret[IO_OP_COUNT]);
/* Connections of all workers. */
uint32_t stream_connections_total(struct stream_table *t, const struct stream *s);

struct gate *stream_gate(struct stream_table *t);
/* This worker's, to count in. */
struct target_stats *stream_target_stats(struct stream_table *t, uint32_t target_index);
/* Scheduler and window of a target. */
struct target *stream_port(struct stream_table *t, uint32_t target_index);
/* Id of the control whose share @s has; "" : none. */
const char *stream_share_id(const struct stream *s);

/* Replace all controls of origin AGREED and PLANNED (@full), or add, change and (those that say
 * nothing) remove the named ones. All or nothing: 0, WEIR_E_FULL or WEIR_E_INVALID. */
int stream_controls_apply(struct stream_table *t, const struct control *controls, size_t count,
                          bool full, uint64_t now_ns);
/* Drop every RULE_PLANNED control: its lease has ended. Returns how many. */
size_t stream_controls_expire(struct stream_table *t, uint64_t now_ns);
/* Which targets are undivided since a lease ended (target_plan_expire): keep it in the ledger,
 * after each change of controls by who has the link; or take what is kept, after controls were
 * taken over from another worker. */
void stream_undivided_keep(struct stream_table *t);
void stream_undivided_resume(struct stream_table *t, uint64_t now_ns);
/* Replace the limits of the file (those that keep their name keep their credit and debts), in two
 * steps: stage them, then commit or unstage them before anything else is asked of @t. Only staging
 * may fail, and then nothing is staged: 0, WEIR_E_FULL or WEIR_E_INVALID. @limits is copied. */
int stream_limits_stage(struct stream_table *t, const struct limit_config *limits, size_t count);
void stream_limits_commit(struct stream_table *t, uint64_t now_ns);
void stream_limits_unstage(struct stream_table *t);
/* Both steps. */
int stream_limits_reload(struct stream_table *t, const struct limit_config *limits, size_t count,
                         uint64_t now_ns);
/* Bring burst credit that people see up to @now_ns; call before a visit or stream_burst_ppm. */
void stream_refresh(struct stream_table *t, uint64_t now_ns);
/* The control that a rule of this table belongs to (of gate_queue_blocked_by, say). */
const struct control *stream_rule_control(const struct gate_rule *rule);
/* Least burst credit among the rules that cover @s, in parts per million; false: none declares a
 * burst. */
bool stream_burst_ppm(const struct stream *s, uint32_t *ret_ppm);
/* Walk the controls in force. @first_rule is NULL for a limit per stream that no stream matches. */
typedef void control_visit(void *arg, const struct control *c, const struct gate_rule *first_rule);
void stream_controls_visit(struct stream_table *t, control_visit *visit, void *arg);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Three SLA processes with real services and six played gateways on a virtual clock, and late or
 * full queues between all. */
#ifndef WEIR_TESTS_UNIT_SERVER_QUOTA_FLEET_H
#define WEIR_TESTS_UNIT_SERVER_QUOTA_FLEET_H
#include "base/rng.h"
#include "server/services/state.h"

#define S         UINT64_C(1000000000)
#define MS        UINT64_C(1000000)
#define PROCESSES 3u
#define GATEWAYS  6u
#define QUEUE     4096u
#define LIMIT     3000u
#define AGREEMENT "agreement/cap"
#define TENANT    "tenant/acme"

struct letter { /* to a gateway */
    uint64_t at_ns, session, seq;
    struct control_update *update; /* NULL: a poll */
};

struct post { /* between processes */
    uint64_t at_ns;
    struct share_batch *batch;
};

struct played {
    struct gateway_hello hello;
    int process; /* -1: under way */
    int to;
    bool up;
    struct gateway_parcel *parcel;
    uint64_t land_ns, epoch, count, demand, cap, tenant; /* the last two in force; 0: none */
    uint64_t rate[2][GATE_KIND_COUNT]; /* all that is in force of the two */
    bool held;
    bool first; /* no full set came in this session */
    bool deaf;  /* what is ordered does not arrive */
    bool mute;  /* it answers no poll */
    bool refuses; /* the next order that changes something about the agreement's limit */
    uint32_t orders; /* that changed something about the agreement's limit, or repeated it */
    struct letter letter[QUEUE];
    size_t head, letters;
};

struct process {
    struct quota_fleet *fleet;
    uint32_t index;
    struct services *services;
    uint64_t stalled_until_ns;
};

struct quota_fleet {
    struct rng rng;
    uint64_t now, limit, sessions;
    struct process process[PROCESSES];
    struct played gateway[GATEWAYS];
    struct post post[PROCESSES][PROCESSES][QUEUE];
    size_t first[PROCESSES][PROCESSES], posts[PROCESSES][PROCESSES];
    uint32_t full_ppm; /* how often there is no room */
    uint32_t lost_ppm; /* how often an acknowledgement is lost */
    bool moves, tell;  /* gateways move; they say which limits are in force */
};

/* A fleet whose chances come from @seed, with LIMIT in force and no gateway up; @full_ppm is how
 * often a queue has no room. Asserts rather than fails, as all here do. */
struct quota_fleet *fleet_new(uint64_t seed, uint32_t full_ppm);
void fleet_free(struct quota_fleet *f);
int64_t fleet_wall(const struct quota_fleet *f);

/* Ten milliseconds go by, what is due is delivered, and all tokens are counted. */
void fleet_step(struct quota_fleet *f);
void fleet_run(struct quota_fleet *f, uint64_t seconds);
/* Nothing goes wrong any longer, for long enough that all is quiet. */
void fleet_settle(struct quota_fleet *f);
/* One random thing happens: demand, a move, a stand-still, a cut, a return, other limits. */
void fleet_something(struct quota_fleet *f);

void fleet_gateway_up(struct quota_fleet *f, struct played *g);
/* The server starts anew and knows of all gateways, none of which is connected. */
void fleet_restart(struct quota_fleet *f);
/* @g leaves for process @to and arrives there later. */
void fleet_depart(struct quota_fleet *f, struct played *g, int to);
/* Hold back, or let go of, what is on its way between two processes. */
void fleet_hold_posts(struct quota_fleet *f, size_t from, size_t to, bool hold);

/* Fails unless the tokens of @id, wherever they are, are as many as there must be. */
void fleet_check_tokens(const struct quota_fleet *f, const char *id);
/* The sum that all gateways hold in force, of the agreement or of the tenant. */
uint64_t fleet_in_force(const struct quota_fleet *f, bool tenant);
struct share_key fleet_key(const char *id);
bool fleet_same_key(struct share_key a, struct share_key b);
/* NULL: the process has none. */
const struct quota *fleet_quota(const struct process *p, const char *id);

#endif

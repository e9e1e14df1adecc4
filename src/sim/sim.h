/* SPDX-License-Identifier: Apache-2.0 */
/* The simulator: gateways, hosts, targets, a network and a server on a virtual clock.
 *
 * It runs what production runs: qos/ and the gateway's streams, rules and shares; server/services/
 * with all it decides. Only sockets, threads, disks and the device are made up. A run is decided by
 * its description and its seed, to the last event. Nothing here is shared: one process holds as
 * many simulations, and each as many gateways, as memory allows. */
#ifndef WEIR_SIM_SIM_H
#define WEIR_SIM_SIM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"
#include "base/text.h"
#include "qos/hist.h"
#include "server/services/agreement.h"
#include "server/services/record.h"

#define SIM_DEVICES_MAX  64u
#define SIM_GATEWAYS_MAX 10000u
#define SIM_LOADS_MAX    100000u
#define SIM_SECONDS_MAX  604800u
#define SIM_PROCESSES_MAX 4u
/* The store answers nothing. */
#define SIM_STORE_SILENT UINT64_MAX

/* A target: first come, first served, before so many servers. */
struct sim_device_config {
    char name[NAME_SIZE];
    uint32_t servers;
    uint64_t base_ns[2], page_ns[2]; /* read, write: mean service of one I/O */
    double spread;                   /* 0..1: the part of a service that is exponential */
    uint32_t cache_ppm;              /* reads answered by a cache, in cache_ns */
    uint64_t cache_ns;
    double write_amplification; /* writes take so many times their service; 0: 1 */
    uint64_t gc_bytes, gc_ns;   /* after so many bytes written it stands still; 0: never */
};

enum sim_load_kind { SIM_OPEN, SIM_CLOSED, SIM_TRACE };

/* One I/O of a trace. */
struct sim_trace_io {
    uint64_t at_ns, bytes;
    bool write;
};

/* Who does I/O: one stream. */
struct sim_load_config {
    char host[NAME_SIZE], volume[NAME_SIZE], tenant[NAME_SIZE];
    uint32_t gateway, device;
    enum sim_load_kind kind;
    double rate;                 /* open: arrivals a second */
    uint32_t depth;              /* closed: outstanding at once */
    uint64_t think_ns;           /* closed: mean pause after an answer */
    uint64_t bytes, large_bytes; /* sizes; a part is large */
    uint32_t large_ppm, write_ppm;
    uint64_t start_ns, stop_ns;       /* 0: from the beginning; to the end */
    uint64_t on_ns, off_ns;           /* alternately, from start_ns; 0: always on */
    double swing;                     /* open, 0..1: rate moves by so much, as a sine */
    uint64_t swing_ns;                /* of that length */
    const struct sim_trace_io *trace; /* borrowed; repeated from its beginning when it ends */
    size_t trace_count;
    uint64_t objective_us; /* what its results are judged by; 0: nothing */
    uint32_t percentile_ppm;
};

/* Whether @t selects @l, whose target is one of @device: found here for all of the simulator, and
 * not by what the services use, so that a fault there shows. */
bool sim_selects(const struct selector *t, const struct sim_load_config *l,
                 const struct sim_device_config *device);

enum sim_change_kind {
    SIM_DEVICE_SPEED,   /* value: new speed in ppm of the configured */
    SIM_DEVICE_SERVERS, /* value: servers in service */
    SIM_DEVICE_STALL,   /* value: nanoseconds in which nothing is begun or ended */
    SIM_LOAD_MOVE,      /* value: the gateway it goes through from now on */
    SIM_LOAD_RATE,      /* value: ppm of its configured rate or depth */
    SIM_SERVER_DOWN,
    SIM_SERVER_UP,
    SIM_GATEWAY_DOWN, /* a crash: its I/O in hand is lost, its hosts come back */
    SIM_GATEWAY_UP,
    SIM_PARTITION, /* gateway @index and the server do not hear each other */
    SIM_HEAL,
    SIM_CLOCK_STEP,       /* value: the server's wall clock jumps by so many us */
    SIM_AGREEMENT_REMOVE, /* index: in sim_config.agreement */
    SIM_AGREEMENT_LIMIT,  /* a new version with a limit of value IOPS; 0: without */
    SIM_STORE,            /* value: nanoseconds that an answer takes; < 0: none comes */
    SIM_PROCESS_STALL,    /* SLA process @index stands still for value nanoseconds */
    SIM_PROCESSES,        /* value: so many SLA processes have gateways from now on */
    SIM_WITHHOLD, /* gateway @index dials anew, and of that session all from the first controls on
                     stays on its way, */
    SIM_LATE,     /* and comes now, whatever session stands, unless it came with the next */
    SIM_TEAR,     /* the connection of gateway @index breaks in the middle of the next frame to it;
                     value 1: from it */
    SIM_DRIBBLE,  /* each frame to and from it comes in two pieces, value ns apart or less; 0: no */
};

struct sim_change {
    uint64_t at_ns;
    enum sim_change_kind kind;
    uint32_t index;
    int64_t value;
};

/* How gateways and server control; all but OURS are baselines of others' design. */
enum sim_scheme {
    SIM_OURS,
    SIM_NO_SURGE, /* ours without early warnings */
    SIM_LOCAL,    /* ours without server: shares given once, each gateway finds its window */
    SIM_NONE,     /* no control */
    SIM_STATIC,   /* loads without objective have a fixed limit */
    SIM_SLEDS,    /* they have a limit that falls and rises with the objectives of the others */
    SIM_PARDA,    /* a window for each gateway from latency alone */
    SIM_MCLOCK,   /* tags as ours, with a window of fixed depth, divided evenly */
    SIM_ORACLE,   /* who is promised something goes first at the target itself: a floor, no way */
};
const char *sim_scheme_name(enum sim_scheme s);

struct sim_config {
    uint64_t seed, duration_ns, warmup_ns; /* results are counted from the end of the warm-up */
    enum sim_scheme scheme;
    uint32_t gateways;
    const struct sim_device_config *device;
    size_t device_count;
    const struct sim_load_config *load;
    size_t load_count;
    const struct sim_change *change;
    size_t change_count;
    const struct agreement *agreement;
    size_t agreement_count;
    const struct tenant *tenant;
    size_t tenant_count;
    const struct policy *policy;
    size_t policy_count;
    bool observe;
    uint64_t period_ns, lease_ns; /* 0: 1 s, 10 s */
    uint64_t path_ns;             /* gateway to target, one way */
    uint64_t control_ns;          /* gateway to server, one way, and as much again at random */
    uint32_t loss_ppm;            /* of polls, reports and surges */
    uint64_t static_iops;         /* SIM_STATIC: limit of each load without objective */
    uint32_t fixed_depth;         /* SIM_MCLOCK: in flight at a device; 0: 32 */
    uint64_t max_hold_ns;         /* 0: 10 s */
    uint64_t interval_ns;         /* of results over time; 0: 1 s */
    uint32_t processes;           /* SLA processes; 0: 1 */
    uint64_t store_ns;            /* an answer of the store takes; 0: none is waited for */
    bool manual_admission; /* gateways wait for people, who admitted all in an earlier life */
    bool promises; /* hold that what can be kept is kept again after faults (promise.c) */
    size_t policies_unsaid; /* so many of the last nobody is told: to see that obey.c notices */
    size_t agreements_unsaid; /* the same of these: to see that promise.c notices, */
    bool unsettled;           /* also where in every second something settles */
    int64_t wall_us;        /* added to the time of day at which it begins */
    bool keeps_half;        /* what came of a torn frame is kept: to see that wire.c notices */
    bool own_targets; /* a gateway stands before the targets of its loads; else before all */
};

/* What one load saw. */
struct sim_load_result {
    uint64_t arrivals, served, failed, bytes; /* after the warm-up; failed: lost with a gateway */
    struct hist latency;                      /* as the host saw it */
    struct hist judged;                       /* less what limits held */
    uint64_t interval_ns;          /* a second, or as configured */
    uint32_t seconds;              /* so many intervals */
    uint32_t *iops, *p99_us;       /* of each interval of the whole run */
    uint32_t windows, windows_met; /* intervals with enough answers; those inside the objective */
};

struct sim_device_result {
    uint64_t served, bytes;    /* after the warm-up */
    double busy;               /* mean busy servers after the warm-up */
    double slots, parallelism; /* means over gateways and time: windows, k as found by who sets
                                  these */
};

struct sim_result {
    struct sim_load_result *load;
    size_t load_count;
    struct sim_device_result *device;
    size_t device_count;
    uint64_t events, ios, polls, controls, surges, actions, actions_enforced;
    uint64_t moves, late_frames, torn_frames, store_asked_again;
    uint64_t cuts;                   /* of throttles (obey.c) */
    uint64_t promises_held;          /* seconds of loads that promise.c held to a promise, */
    uint64_t promises_missed;        /* and that were outside with the window not found; */
    uint64_t promises_flooded;       /* or while open loads asked for more than there is */
    struct action_record *action; /* the first SIM_ACTIONS_KEPT */
    size_t action_count;
    char *broken; /* what a checker found, first of all; NULL: nothing */
    uint64_t broken_ns;
};
#define SIM_ACTIONS_KEPT 1000u

/* Run to the end, or to the first broken rule. 0, -ENOMEM, WEIR_E_INVALID (words in @why: the
 * description names what does not exist, or an agreement is refused). */
int sim_run(const struct sim_config *c, struct sim_result *ret, struct text *why);
void sim_result_fini(struct sim_result *r);

#endif

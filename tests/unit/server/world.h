/* SPDX-License-Identifier: Apache-2.0 */
/* A small world on a virtual clock for tests of the services: devices with queues, streams,
 * gateways. */
#ifndef WEIR_TESTS_UNIT_SERVER_WORLD_H
#define WEIR_TESTS_UNIT_SERVER_WORLD_H
#include "base/rng.h"
#include "qos/bucket.h"
#include "qos/meter.h"
#include "server/services/services.h"

#define WORLD_GATEWAYS 4u
#define WORLD_STREAMS 16u
#define WORLD_SERVERS 64u
#define WORLD_RECORDS 8192u
#define S UINT64_C(1000000000)
#define MS UINT64_C(1000000)
/* 2026-11-23 (a Monday) 06:00 UTC. */
#define WORLD_WALL0 INT64_C(1795413600000000)

/* First come, first served, before @servers; service is fixed + exponential. */
struct world_device {
    uint32_t servers;
    double fixed_ns, random_ns;
    uint64_t free_at[WORLD_SERVERS];
};

struct world_io {
    uint64_t arrived_ns, released_ns, done_ns;
    int stream;
    bool held, write;
};

struct world_stream {
    int gateway;
    char host[NAME_SIZE], volume[NAME_SIZE], key[STREAM_KEY_SIZE];
    bool running;
    uint32_t depth;             /* closed loop with so many outstanding; 0: open loop */
    double rate;                /* open loop: arrivals a second */
    uint64_t bytes, size;       /* of an I/O; of the volume */
    uint32_t outstanding;
    uint64_t generation;        /* arrivals of earlier runs are dropped */
    struct world_io *waiting[4096]; /* held, in order: a ring */
    uint32_t waiting_first, waiting_count;
    bool release_set;
    struct bucket bucket;
    bool limited;
    uint64_t limit_iops;        /* by the throttle in force; UINT64_MAX: none */
    struct bucket agreed_bucket;
    bool agreed; /* a limit of an agreement or tenant covers it (as its own bucket) */
    uint64_t agreed_iops;
    char agreed_id[2 * NAME_SIZE];
    char held_by[2 * NAME_SIZE];
    struct meter meter;
    struct hist truth;          /* total latency since world_truth_clear */
};

struct world_gateway {
    struct gateway_hello hello;
    int device;
    bool up, mute;              /* mute: does not answer polls */
    uint64_t epoch, polls;
    int refuse;                 /* answer controls with this status */
    bool duplicate;             /* send every report twice */
};

struct world {
    struct services *services;
    struct rng rng;
    uint64_t now;
    struct world_device device[2];
    struct world_gateway gateway[WORLD_GATEWAYS];
    size_t gateways;
    struct world_stream stream[WORLD_STREAMS];
    size_t streams;
    struct world_event *heap;
    size_t heap_count, heap_cap;
    uint64_t order;
    struct action_record *action;
    size_t actions;
    struct event_record *event;
    size_t events;
    uint64_t samples, sample_reads, planned_controls, full_updates, ended, updates;
    uint64_t parallelism_milli; /* as gateways report it; 0: they do not know */
    uint64_t window_milli;      /* likewise; 0: they schedule nothing */
    bool controls_full;         /* the sink says WEIR_E_FULL */
};

/* @seed is printed by the caller. Period 1 s, lease 10 s. Loaded. */
struct services_sink world_sink(struct world *w);
void world_init(struct world *w, uint64_t seed, bool observe);
/* The same with manual admission. */
void world_init_manual(struct world *w, uint64_t seed);
void world_fini(struct world *w);
int world_add_gateway(struct world *w, const char *name, int device);
/* The gateway gets a session; a new boot when @reboot. */
void world_gateway_up(struct world *w, int gateway, bool reboot);
void world_gateway_down(struct world *w, int gateway);
int world_add_stream(struct world *w, int gateway, const char *host, const char *volume);
void world_open_loop(struct world *w, int stream, double rate);
void world_closed_loop(struct world *w, int stream, uint32_t depth, uint64_t bytes);
void world_stop(struct world *w, int stream);
void world_run(struct world *w, uint64_t seconds);
void world_run_ns(struct world *w, uint64_t ns);
void world_truth_clear(struct world *w);
/* p99 of total latency in us since the last clear, as the host saw it; and its I/Os. */
double world_p99_us(const struct world *w, int stream);
uint64_t world_ios(const struct world *w, int stream);
const struct entity_stream *world_entity(const struct world *w, int stream);
/* Actions on a stream's key with this verb ("" any), enforced or not. */
size_t world_count_actions(const struct world *w, const char *bully, const char *verb,
                           bool enforced);
size_t world_count_events(const struct world *w, const char *kind);
/* An agreement "name" for one volume: p99 <= latency_us while <= iops. */
void world_agree(struct world *w, const char *name, const char *volume, uint64_t latency_us,
                 uint64_t iops);
int64_t world_wall(const struct world *w);
/* Build the report the gateway would send now. Free with world_report_free. */
struct report *world_report(const struct world *w, int gateway, uint64_t seq);
void world_report_free(struct report *r);

#endif

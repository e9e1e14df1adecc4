/* SPDX-License-Identifier: Apache-2.0 */
/* An SLA process: the thread that drives services/ with messages and time, and renders views of its
 * cache. */
#ifndef WEIR_SERVER_SLA_H
#define WEIR_SERVER_SLA_H
#include <jansson.h>

#include "server/services/agreement.h"
#include "server/threads.h"

/* Body of MSG_VIEW (freed with free). The reply is a json_t array of objects in the API's form
 * (docs/openapi.yaml). */
enum view_kind {
    VIEW_STREAMS,
    VIEW_GATEWAYS,
    VIEW_TARGETS,
    VIEW_AGREEMENTS,
    VIEW_HOSTS,
    VIEW_VOLUMES,
    VIEW_TENANTS,
    VIEW_STATUS,
    VIEW_POLLS
};
struct view_request {
    enum view_kind kind;
    char name[STREAM_KEY_SIZE]; /* "" : all */
    bool histograms;            /* streams: whole distributions too */
};

/* Body of MSG_DOCUMENT_CHANGED (freed with free): committed already. remove: only kind and name
 * count. Kind "Gateway" (name: its id): retire it when remove, change its draining when drain,
 * else admit it. */
struct document_change {
    char kind[32], name[NAME_SIZE];
    bool remove, drain;
    uint64_t drain_since;      /* 0: it is taken back */
    int64_t drain_deadline_us; /* 0: none */
    union {
        struct agreement agreement;
        struct tenant tenant;
        struct policy policy;
    };
};

/* Body of MSG_ADMISSION (freed with free). Reply: {"refused": N, "targets": [...]}, as
 * services/admission.h has them. */
struct admission_request {
    struct agreement agreement;
    bool quiet;                 /* asked only: no event */
    char forced_by[NAME_SIZE];  /* who puts it whatever is found; "": nobody */
};

struct slab;

struct sla_thread {
    const struct server_config *config;
    const struct threads *threads;
    struct slab *updates; /* of controls under way, its own; outlives all threads; NULL: the heap */
    size_t index;
};
/* Loads documents and settings from the store first (two-step), then serves. */
void *sla_main(void *sla_thread);

#endif

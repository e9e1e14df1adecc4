/* SPDX-License-Identifier: Apache-2.0 */
/* The way out of an SLA process: the services' sink, turned into messages to other threads. */
#ifndef WEIR_SERVER_SLA_OUT_H
#define WEIR_SERVER_SLA_OUT_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/services/services.h"
#include "server/sla.h"

/* Kept while the store's writer has no room; above, dropped and counted. */
#define SLA_OUT_SAMPLES 4096u
#define SLA_OUT_ACTIONS 1024u
#define SLA_OUT_EVENTS 1024u
#define SLA_OUT_WRITES 16384u

struct store_write;

struct sla_out {
    const struct sla_thread *setup;
    struct mailbox *box;
    const struct services *services; /* for what must be said again */
    /* The early warning that is handled now, or the answer to one: what goes to its gateway is
     * measured. 0: none. */
    uint64_t warned_session, warned_ns;
    bool warned_answer;
    struct sample_record *sample;
    struct action_record *action;
    struct event_record *event;
    size_t samples, actions, events;
    struct store_write **write;      /* ring of records of gateways to be written */
    size_t write_first, writes, writes_out;
    bool targets_owed;               /* some target could not be said */
    bool storage_owed;               /* nor to the router */
    uint64_t storage_ns;
    uint64_t flush_ns, targets_ns, said_ns;
    uint64_t samples_dropped, actions_dropped, events_dropped, writes_dropped, notices_dropped;
    uint64_t dropped_said;
};

int sla_out_init(struct sla_out *o, const struct sla_thread *setup);
void sla_out_fini(struct sla_out *o);
struct services_sink sla_out_sink(struct sla_out *o);
/* Send what has gathered, when it is time or @now. */
void sla_out_flush(struct sla_out *o, uint64_t now_ns, bool now);
uint64_t sla_out_next_ns(const struct sla_out *o);
/* A record of a gateway was written, or not. */
void sla_out_written(struct sla_out *o, int status);

/* A gateway as kept in the database. */
struct gateway_record {
    uint8_t id[GATEWAY_ID_SIZE];
    char id_text[2 * GATEWAY_ID_SIZE + 1];
    char name[NAME_SIZE], software[64], address[160];
    int64_t first_seen_us, last_seen_us;
    uint64_t process, processes;
    bool admitted;
    uint64_t drain_since; /* 0: not drained */
    int64_t drain_deadline_us;
};
bool gateway_record_read(const json_t *row, struct gateway_record *ret);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger: what of a gateway outlives its worker process, in one piece of shared memory.
 *
 * Counters, credit, controls with their lease, and how the manager and its workers fare. The
 * manager makes it and takes its memory; a worker writes one *bank* of what is counted, so that two
 * workers (one that ends, one that begins) never write the same word; who reads adds both banks up.
 * Every function is for the process's main thread. See ledger.c for what each part may be trusted
 * to hold after a worker was killed. */
#ifndef WEIR_GATEWAY_LEDGER_H
#define WEIR_GATEWAY_LEDGER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"
#include "gateway/config.h"
#include "gateway/ledger_share.h"
#include "gateway/relay.h"
#include "gateway/stream.h"
#include "qos/gate.h"
#include "qos/meter.h"

#define LEDGER_BANKS 2u
#define LEDGER_BOOT_ID_SIZE 16u
#define LEDGER_REASON_SIZE 160u
/* Controls in their wire form. */
#define LEDGER_CONTROLS_MAX (5u * 1024u * 1024u)

/* Who a slot belongs to. Written while !live only, tenant and size aside. */
struct ledger_stream {
    uint32_t live;
    uint32_t index;      /* of the stream, never given twice */
    uint32_t ever_used;  /* its meters may be other than zero */
    uint32_t tenant_now; /* of tenant[] */
    uint32_t connections[LEDGER_BANKS];
    uint64_t size, created_ns;
    char host[NAME_SIZE], volume[NAME_SIZE], target[NAME_SIZE];
    char tenant[2][NAME_SIZE];
};

struct ledger_target {
    char name[NAME_SIZE];
    uint64_t undivided_until; /* see ledger_undivided */
    struct target_stats stats[LEDGER_BANKS];
};

/* The credit of one rule, found again by the rule's name. */
struct ledger_cell {
    char id[2 * NAME_SIZE];
    uint32_t owner;              /* index + 1 of the stream whose own rule it is; 0: none */
    uint32_t used[LEDGER_BANKS]; /* by a rule of that bank's worker */
    struct gate_credit credit;
};

/* How the manager and its workers fare. Written by the manager, but heartbeat. */
struct ledger_life {
    uint32_t manager_pid, worker_pid;
    uint64_t heartbeat[LEDGER_BANKS]; /* grows while the worker of that bank goes round */
    uint64_t started_ns;              /* the first worker of this ledger */
    uint64_t worker_started_ns;
    uint64_t deaths, hangs, upgrades, upgrades_failed;
    uint64_t last_death_ns;
    char last_reason[LEDGER_REASON_SIZE];  /* of the last death; "": none yet */
    char last_upgrade[LEDGER_REASON_SIZE]; /* how the last one went; "": none yet */
};

struct ledger;

/* Memory for @config in a memfd that a child may inherit; a new boot id. 0 or -errno. */
int ledger_new(const struct gateway_config *config, struct ledger **ret);
/* The ledger of another process, from its descriptor (taken). WEIR_E_VERSION: made by a program or
 * a configuration that lays it out in another way. */
int ledger_open(const struct gateway_config *config, int fd, struct ledger **ret);
void ledger_free(struct ledger *l);
int ledger_fd(const struct ledger *l);

/* The worker of @bank is dead, whatever of: what it left half done is put right, what it had in
 * flight counted as dropped, its connections as closed. The manager's; may be repeated. */
void ledger_repair_bank(struct ledger *l, uint32_t bank);
/* This process counts in @bank from now on. */
void ledger_take_bank(struct ledger *l, uint32_t bank);
uint32_t ledger_bank(const struct ledger *l);

struct ledger_share *ledger_share(struct ledger *l);
const uint8_t *ledger_boot_id(const struct ledger *l);
struct ledger_life *ledger_life(struct ledger *l);

size_t ledger_slots(const struct ledger *l);
struct ledger_stream *ledger_stream(struct ledger *l, size_t slot);
/* This bank's meter of a slot. */
struct meter *ledger_meter(struct ledger *l, size_t slot);
/* The other bank's; NULL when nothing was ever counted there. */
const struct meter *ledger_meter_other(struct ledger *l, size_t slot);
/* Give a slot that is not live to a stream: meters at zero, a new index; live when it returns. */
void ledger_stream_begin(struct ledger *l, size_t slot, const char *host, const char *volume,
                         const char *target, const char *tenant, uint64_t now_ns);
void ledger_stream_end(struct ledger *l, size_t slot);
void ledger_stream_set_tenant(struct ledger *l, size_t slot, const char *tenant);
const char *ledger_stream_tenant(const struct ledger_stream *s);
/* Connections of the other bank's worker. */
uint32_t ledger_connections_other(struct ledger *l, size_t slot);

/* This bank's counters of a target, and those of both banks. */
struct target_stats *ledger_target(struct ledger *l, size_t index);
void ledger_target_total(struct ledger *l, size_t index, struct target_stats *ret);
struct relay_counts *ledger_counts(struct ledger *l);
void ledger_counts_total(struct ledger *l, struct relay_counts *ret);

/* Credit for the rule @id (and @owner); as it was left, or all zero. NULL: the cells are all in use
 * (the rule then keeps its credit in its own memory). */
struct ledger_cell *ledger_cell_take(struct ledger *l, const char *id, uint32_t owner);
/* The rule is gone for good. Takes NULL. */
void ledger_cell_give(struct ledger *l, struct ledger_cell *c);
/* Free what no rule of either bank has taken: its rule is no more. */
void ledger_cells_sweep(struct ledger *l);

/* Keep @n bytes that describe all controls in force, at @epoch. WEIR_E_FULL: too many; what was
 * kept before is then forgotten. */
int ledger_controls_put(struct ledger *l, const void *bytes, size_t n, uint64_t epoch);
/* What was kept, valid until the next put; false: nothing. *@ret_generation grows with each put. */
bool ledger_controls_get(struct ledger *l, const void **ret, size_t *ret_n, uint64_t *ret_epoch,
                         uint64_t *ret_generation);
/* When planned controls end; 0: no lease runs. */
void ledger_lease_set(struct ledger *l, uint64_t until_ns);
uint64_t ledger_lease(const struct ledger *l);
/* Till when a target's shares are divided by nobody (struct target), for the next worker. */
void ledger_undivided_set(struct ledger *l, size_t target, uint64_t until_ns);
uint64_t ledger_undivided(const struct ledger *l, size_t target);

/* Whether the gateway takes hosts: @since 0 does; else which draining is in force, and when idle
 * connections are closed (0: never). Set by the worker that has the link; read by both. */
void ledger_drain_set(struct ledger *l, uint64_t since, uint64_t deadline_ns);
uint64_t ledger_drain(const struct ledger *l, uint64_t *ret_deadline_ns);
/* Whether it was ever set, by any worker. */
bool ledger_drain_known(const struct ledger *l);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The manager's inside, shared by manager*.c only. */
#ifndef WEIR_GATEWAY_MANAGER_PRIVATE_H
#define WEIR_GATEWAY_MANAGER_PRIVATE_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/rng.h"
#include "gateway/config.h"
#include "gateway/ledger.h"
#include "gateway/manager.h"
#include "gateway/options.h"
#include "gateway/worker.h"

#define MANAGER_PROGRAM_SIZE 1024u

enum life {
    LIFE_NONE,
    LIFE_PREPARING, /* of the new program; has said nothing, or stands by */
    LIFE_STARTING,
    LIFE_RUNNING,
    LIFE_RETIRING, /* another serves; its last connections end */
    LIFE_STOPPING,
};

/* A worker; there is at most one for each bank of the ledger. */
struct child {
    enum life life;
    pid_t pid;
    int control; /* -1: none */
    uint32_t bank;
    uint64_t started_ns, beat;
    unsigned silent; /* looks without a new heartbeat */
    bool hung;       /* and killed for it */
};

/* See manager_upgrade.c. */
enum upgrade { UPGRADE_NONE, UPGRADE_PREPARING, UPGRADE_RETIRING, UPGRADE_STARTING };

struct manager {
    struct options *options;
    struct gateway_config *config;
    struct ledger *ledger;
    int listeners[CONFIG_MAX_LISTENERS];
    int local, signals;
    char program[MANAGER_PROGRAM_SIZE]; /* what an upgrade starts */
    struct child child[LEDGER_BANKS];
    uint32_t serving; /* the bank of the worker that takes hosts, or will */
    enum upgrade upgrade;
    uint64_t upgrade_by, upgrade_began;
    struct rng rng;
    unsigned failures;   /* in a row, of workers that did not live long */
    uint64_t start_at;   /* when the next worker is to be started; 0: now */
    uint64_t look_at, watchdog_at, watchdog_ns;
    uint64_t stop_by;    /* when STOPPING turns into SIGKILL */
    bool ready;          /* the first worker was */
    bool ending;
    int status;
};

/* manager.c */
void manager_tell(struct child *c, enum worker_word word);
/* A pair of sockets: the manager's end, and the worker's. 0 or -errno. */
int manager_pair(int *ret_here, int *ret_there);
/* Why a worker died, in words. */
void manager_reason(const struct manager *m, const struct child *c, int status,
                    char out[LEDGER_REASON_SIZE]);

/* manager_upgrade.c */
/* Asked to go on as the program that is installed now. */
void manager_upgrade_begin(struct manager *m);
/* @word came from @c. */
void manager_upgrade_hear(struct manager *m, struct child *c, unsigned char word);
/* @c, what is remembered of it, died, with @reason. True: that was a matter of the upgrade
 * alone. */
bool manager_upgrade_died(struct manager *m, const struct child *c, const char *reason);
/* The worker that will serve is the upgrade's matter now: none is to be started beside it. */
bool manager_upgrade_bears(const struct manager *m);
/* Time has passed. */
void manager_upgrade_due(struct manager *m, uint64_t now_ns);

#endif

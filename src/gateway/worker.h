/* SPDX-License-Identifier: Apache-2.0 */
/* The worker: the process that carries I/O; from a configuration, a ledger and open sockets to the
 * end of its service. */
#ifndef WEIR_GATEWAY_WORKER_H
#define WEIR_GATEWAY_WORKER_H
#include "gateway/config.h"
#include "gateway/ledger.h"
#include "gateway/options.h"

/* One byte each, over a SOCK_SEQPACKET pair between manager and worker. */
enum worker_word {
    WORKER_PREPARED = 'P', /* worker, standing by: will serve when told to go */
    WORKER_GO = 'G',       /* manager: the worker before takes no more hosts */
    WORKER_READY = 'R',  /* worker: hosts can connect */
    WORKER_RETIRE = 'T', /* manager: another takes over; worker: done, no more hosts here */
    WORKER_STOP = 'S',   /* manager: end; what targets have is still answered. Twice: at once */
    WORKER_RELOAD = 'H', /* manager: read the file again */
};

struct worker_start {
    struct options *options;
    struct gateway_config *config;
    struct ledger *ledger;   /* with its bank taken */
    const int *listeners;    /* open sockets, one a listener of the configuration; taken */
    int local;               /* of the local socket; taken */
    int control;             /* to the manager; -1: there is none, signals say what to do */
    bool stand_by;           /* begin with WORKER_PREPARED, wait for WORKER_GO */
};

/* Serve until told to end. The exit status of the process. */
int worker_run(const struct worker_start *start);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The server as one whole: what main.c opens and closes, stages.c starts and ends as threads, and
 * reload.c renews at SIGHUP. Main thread only. */
#ifndef WEIR_SERVER_DAEMON_H
#define WEIR_SERVER_DAEMON_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dates.h"
#include "server/app/app.h"
#include "server/monitor/monitor.h"
#include "server/resource/resource.h"
#include "server/sla.h"
#include "server/store/store.h"
#include "server/threads.h"

#define THREADS_MAX (6 + 2 * THREADS_MAX_PAIRS + THREADS_MAX_SERVICES + THREADS_MAX_READERS)

/* In this order they are stopped: those that bring work in first. */
enum rank { RANK_FINDER, RANK_ACCEPTOR, RANK_IN, RANK_RESOURCE, RANK_SLA, RANK_OUT, RANK_APP,
            RANK_READER, RANK_WRITER, RANK_COUNT };

struct running {
    pthread_t thread;
    struct mailbox *box;
    enum rank rank;
    bool stopped;
};

/* Of [control] or [http], where one is named. */
struct server_certificate {
    struct dates dates;
    unsigned said;            /* the step (base/dates.h) that was told */
    _Atomic int64_t until_s;  /* for the page of metrics; 0: none is named */
};

struct server {
    struct server_config config;
    struct threads threads;
    struct store *store;
    struct monitor *monitor;
    struct app *app;
    struct store_thread writer, reader[THREADS_MAX_READERS];
    struct monitor_thread acceptor, finder, pair[THREADS_MAX_PAIRS];
    bool finder_left; /* it did not end, and need not */
    struct sla_thread sla[THREADS_MAX_SERVICES];
    struct resource_thread resource;
    struct probe_key_set *probe_keys; /* until the thread of probes has them */
    struct running running[THREADS_MAX];
    size_t running_count;
    size_t pairs_started, sla_started;
    bool resizing; /* the router moves gateways to where the settings now say */
    const char *config_path;
    uint64_t stuck_said_ns;
    uint8_t fingerprint[32]; /* of the control port's key */
    struct server_certificate control_certificate, http_certificate;
    uint64_t certificates_looked_ns;
};

/* --- stages.c --- */

/* For as many pairs and SLA processes as may ever run: pages of those that do not stay unused.
 * -ENOMEM: close all that is there. */
int stages_make_mailboxes(struct server *s);
/* Start every thread; the parts are open. Negative errno: some may run; stages_stop. */
int stages_start(struct server *s);
/* Start the pairs and SLA processes that the settings name and that do not run yet. */
int stages_start_pairs(struct server *s);
/* End all of them. False: one did not end, and still uses the parts. May take 10 s a thread. */
bool stages_stop(struct server *s);
/* Name those that have been busy too long. */
void stages_watch(struct server *s, uint64_t now_ns);

/* --- certificates.c --- */

/* These are in force from now on; all 0: none is named. NULL: the one of before still is. */
void certificates_note(struct server *s, const struct dates *control, const struct dates *http);
/* Log what ends soon. */
void certificates_watch(struct server *s, uint64_t now_ns);
/* One that does not count shall not take the place of one that does: 0, or WEIR_E_REFUSED and
 * why. */
int certificates_may_replace(const struct server *s, const struct dates *control,
                             const struct dates *http, struct text *errors);

/* --- reload.c --- */

/* Read the file and the keys again. What is wrong is logged, and nothing has changed. */
void reload(struct server *s);
/* Take what the threads say to main. */
void reload_hear(struct server *s);

#endif

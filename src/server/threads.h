/* SPDX-License-Identifier: Apache-2.0 */
/* The thread map: who runs in the server, each with its mailbox. Made before any thread; later only
 * the numbers of pairs and SLA processes that run change, by main. */
#ifndef WEIR_SERVER_THREADS_H
#define WEIR_SERVER_THREADS_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"
#include "server/mailbox/gauge.h"
#include "server/mailbox/mailbox.h"
#include "server/mailbox/trail.h"
#include "tls/creds.h"

#define THREADS_MAX_PAIRS 16u
#define THREADS_MAX_SERVICES 16u
#define THREADS_MAX_READERS 8u

/* Where gateways are, for views: written by the acceptor. */
struct threads_load {
    _Atomic uint32_t gateways, subgroups;
};

struct threads {
    struct mailbox_set *set;
    struct mailbox *main, *acceptor, *app, *resource, *store_writer;
    struct mailbox *finder; /* NULL: gateways are not looked for on the network */
    struct mailbox *inbound[THREADS_MAX_PAIRS], *outbound[THREADS_MAX_PAIRS];
    struct mailbox *services[THREADS_MAX_SERVICES];
    struct mailbox *store_reader[THREADS_MAX_READERS];
    /* What runs: mailboxes may be there for more. Views and changes of documents go to the first
     * services_count. */
    _Atomic size_t pairs, services_count;
    size_t services_at_start; /* never changed */
    size_t readers;
    struct threads_load of_pair[THREADS_MAX_PAIRS], of_services[THREADS_MAX_SERVICES];
    /* Moves of gateways (move.h): counted before the baton goes out, and after it came back. While
     * they differ a gateway may be at no SLA process. Written by the acceptor. */
    _Atomic uint64_t moves_begun, moves_ended;
    struct trail *trail; /* of early warnings; NULL: not kept */
    /* By session slot: bytes that wait to be sent; written by outbound. NULL: not kept. */
    _Atomic uint32_t *queued;
    _Atomic uint64_t listeners; /* to live views; written by the application server */
};

/* Whether anybody looks at live views: thousands of gateways that are lost or come at once make as
 * many notices, which are for nobody else. */
static inline bool threads_listened(const struct threads *t)
{
    return gauge_read(&t->listeners) > 0;
}

/* How the server's own probes speak TLS with targets. */
#define PROBE_TLS_MAX 33u
struct probe_tls {
    char target[NAME_SIZE]; /* "": of [resource], for all that have no section of their own */
    struct tls_files files; /* "" in a target's own: as in [resource] */
};

struct conf;
struct text;

/* Settings of the server, from server.conf and options; borrowed by every thread, never changed. */
struct server_config {
    char control_listen[8][160];   /* default "127.0.0.1:7400"; and unix:<state_dir>/control.sock */
    size_t control_listen_count;
    char gateways[64][160];        /* gateways that listen: this server dials them */
    size_t gateway_count;
    bool dns_sd;                   /* dial gateways that DNS-SD finds, too; default no */
    /* Of the control port; "": a key pair of the server's own, <state_dir>/tls.pem. With a CA,
     * gateways on other machines must show a certificate that it signed. */
    char control_certificate[512], control_key[512], control_ca[512];
    char http_listen[160];         /* default "127.0.0.1:7480" */
    char http_certificate[512], http_key[512]; /* "": HTTP in clear, on loopback only */
    char state_dir[512]; /* default /var/lib/weir: state.db samples.db admin.token gateway.key */
    uint32_t pairs;                /* default auto: one a processor, 1 below four */
    uint32_t sla_processes;        /* default auto: as many as pairs, two at least */
    bool pin;                      /* threads of a pair stay on one processor; default no */
    uint32_t readers;              /* default 2 */
    uint64_t period_ns;            /* default 1 s */
    uint64_t lease_ns;             /* of planned controls; default 10 s */
    struct probe_tls probe_tls[PROBE_TLS_MAX]; /* the first: of [resource] */
    size_t probe_tls_count;                    /* at least 1 */
    uint64_t probe_period_ns;      /* of the resource manager; default 10 s */
    uint32_t max_gateways;         /* default 10,000 */
    bool sandbox;                  /* base/sandbox.h; default yes */
    uint64_t credential_age_ns;    /* then a gateway's key is changed; default 90 d */
    bool manual_admission;         /* a gateway unknown so far is admitted by people */
    bool observe;                  /* start in observe mode: analyse, enforce nothing */
    uint32_t log_level;
    uint64_t keep_1s_ns, keep_10s_ns, keep_1min_ns,
        keep_1h_ns; /* ages of samples: 2 h, 24 h, 14 d, 400 d */
    /* By server_config_check: of the certificates named in [control] and [http], and what is not
     * wrong but will not do: those that do not count now, by file and line. */
    struct dates control_dates, http_dates;
    char warnings[8192];
    struct conf *file; /* where keys stand, for the words of server_config_check; NULL after it */
};

/* 0 in pairs and sla_processes means auto until server_config_check, which puts numbers there. */
void server_config_init(struct server_config *c);

/* As gateway_config_load: every error is appended, "file:line: ...". What is loaded well is checked
 * next, or forgotten: its file is kept until then. */
int server_config_load(struct server_config *c, const char *path, struct text *errors);
int server_config_check(struct server_config *c, struct text *errors);
/* Read every file of certificates and keys that is named, as those who need them will; told with
 * the lines of the keys while the file is kept. Fills dates and warnings. Part of
 * server_config_check. */
int server_config_try_files(struct server_config *c, struct text *errors);
void server_config_forget(struct server_config *c);

/* Each thread is one function of this shape; @arg is its own setup made by main. It runs until
 * MSG_STOP, answers that, and returns. */
typedef void *thread_main(void *arg);

#endif

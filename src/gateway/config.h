/* SPDX-License-Identifier: Apache-2.0 */
/* What the gateway was told to do: listeners, targets, volumes, limits, server; from a file or
 * options. */
#ifndef WEIR_GATEWAY_CONFIG_H
#define WEIR_GATEWAY_CONFIG_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/name.h"
#include "base/text.h"
#include "qos/gate.h"
#include "tls/creds.h"

#define CONFIG_MAX_LISTENERS 64u
#define CONFIG_MAX_TARGETS 64u
#define CONFIG_MAX_VOLUMES 4096u
#define CONFIG_MAX_LIMITS 4096u
#define CONFIG_MAX_SERVERS 8u
/* tls-client-certificate was not given: required if there is a tls-client-ca, else none. */
#define CONFIG_PEER_UNSET TLS_PEER_PINNED

struct target_config;

enum tls_mode {
    TLS_MODE_OFF,
    TLS_MODE_ALLOW,   /* a host may begin it, or not (NBD protocol: SELECTIVETLS) */
    TLS_MODE_REQUIRE, /* a host without it gets nothing (FORCEDTLS) */
};

struct volume_config {
    char name[NAME_SIZE];           /* what hosts ask for, and its name all over Weir */
    char export_name[4097];         /* what the target is asked for; same as name unless set */
    char tenant[NAME_SIZE];         /* "" : none */
    struct target_config *target;
};

struct target_config {
    char name[NAME_SIZE];
    char uri[512];                  /* nbd://host:port/export; nbds where tls is on */
    struct addr addr;
    char export_name[4097];         /* of the URI; asked for when a host asks for "" and no volume
                                     * is configured */
    char tenant[NAME_SIZE];         /* for streams whose volume names none; "" : none */
    struct volume_config **volumes; /* those on this target; none: any export name passes */
    size_t volume_count;
    uint32_t index;                 /* position in gateway_config.targets */
    bool tls_on;                    /* nbds://, or tls = require */
    struct tls_files tls_files;
    struct tls_creds *tls_creds;    /* as the files were when this was read; NULL: no TLS */
};

struct listener_config {
    char name[NAME_SIZE];
    struct addr addr;
    unsigned unix_mode;             /* default 0660 */
    struct target_config *target;
    enum tls_mode tls;
    struct tls_files tls_files;     /* peer: CONFIG_PEER_UNSET until checked */
    struct tls_creds *tls_creds;    /* as the files were when this was read; NULL: no TLS */
};

/* [limit X]: a limit from the gateway's own file, in force with or without a server. */
struct limit_config {
    char name[NAME_SIZE];
    /* Patterns; "": any. */
    char host[NAME_SIZE], volume[NAME_SIZE], tenant[NAME_SIZE], target[NAME_SIZE];
    bool per_stream;                /* each matching stream has its own; else (default)
                                     * all share one */
    struct gate_limits limits;
};

/* How the data path waits and sends. */
enum config_engine {
    CONFIG_ENGINE_AUTO,  /* io_uring where the system has it, else epoll */
    CONFIG_ENGINE_URING, /* io_uring, or do not start */
    CONFIG_ENGINE_EPOLL,
    CONFIG_ENGINE_COUNT,
};
const char *config_engine_name(enum config_engine e); /* as in gateway.conf */

struct gateway_config {
    char name[NAME_SIZE];           /* default: the machine's host name */
    struct listener_config listeners[CONFIG_MAX_LISTENERS];
    size_t listener_count;
    struct target_config targets[CONFIG_MAX_TARGETS];
    size_t target_count;
    struct volume_config *volumes;
    size_t volume_count;
    struct limit_config *limits;
    size_t limit_count;
    struct addr servers[CONFIG_MAX_SERVERS];
    size_t server_count;
    struct addr server_listen;      /* where a server dials this gateway; len 0: nowhere */
    char state_dir[512];            /* identity, credential, last controls; default
                                     * /var/lib/weir-gateway */
    char socket_path[512];          /* local socket, 0600; default <state_dir>/gateway.sock */
    char key_file[512];             /* local key of the server, or "" */
    bool server_tls_on;             /* also to a server on loopback; elsewhere it always is */
    struct tls_files server_tls;    /* "" of the certificate: <state_dir>/tls.pem */
    char server_fingerprint[80];    /* "sha256:...", or "" */
    char token[256];                /* enrolment token, or "" */
    uint32_t max_streams;           /* default 512; beyond: one shared default stream a target */
    uint32_t max_connections;       /* default 1024 */
    uint32_t max_connections_per_host; /* default 512 */
    uint64_t hold_memory;           /* bytes for the payload of held writes; default 256 MiB */
    uint64_t peer_timeout_ns;       /* default 60 s */
    uint64_t handshake_timeout_ns;  /* default 10 s */
    uint64_t max_hold_ns;           /* default 10 s */
    uint64_t worker_timeout_ns;     /* default 5 s: a worker silent for so long is replaced */
    uint64_t drain_timeout_ns;      /* default 30 s: connections of a worker that retires */
    uint32_t log_level;             /* enum log_level */
    uint32_t io_engine;             /* enum config_engine; default auto */
    uint64_t busy_poll_ns;          /* default 0: reactor_look */
    bool sandbox;                   /* base/sandbox.h; default yes */
    /* What is not wrong but will not do: certificates that do not count now, by file and line. */
    struct text warnings;
};

/* Defaults only. */
void gateway_config_init(struct gateway_config *c);
void gateway_config_fini(struct gateway_config *c);

/* Which of c->listeners, or c->targets, has the name; -1: none. */
int gateway_config_listener(const struct gateway_config *c, const char *name);
int gateway_config_target(const struct gateway_config *c, const char *name);

/* Read gateway.conf (and its drop-ins) into @c, initialised before. Every error found is appended
 * to @errors as "file:line: ...". 0, or WEIR_E_PARSE / -errno. */
int gateway_config_load(struct gateway_config *c, const char *path, struct text *errors);

/* After file and options: cross-checks (a listener names a target, names are unique, off-loopback
 * server without TLS is refused). */
int gateway_config_check(struct gateway_config *c, struct text *errors);

#endif

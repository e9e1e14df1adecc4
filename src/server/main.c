/* SPDX-License-Identifier: Apache-2.0 */
/* weir-server: options, the thread map, start and orderly end.
 *
 * Order of start: store (migrated, so that everything after may ask it), monitor and HTTP sockets
 * (so that a port in use is said before anything runs), then the threads. Order of end: those that
 * bring work in first, the store's writer last, so that what was decided is written down. Each
 * stage gets MSG_STOP and answers it; a thread that does not answer in 10 s is named, and the
 * process ends all the same: all that was confirmed is on disk already. The finder has 2 s, and is
 * left inside D-Bus. */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/sandbox.h"
#include "base/text.h"
#include "config.h"
#include "server/app/app.h"
#include "server/monitor/monitor.h"
#include "server/msg.h"
#include "server/resource/resource.h"
#include "server/sla.h"
#include "server/store/store.h"
#include "server/threads.h"
#include "tls/identity.h"

#if HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#define STOP_TIMEOUT_NS (10 * NS_PER_S)
/* The finder has nothing to put in order, and may be waiting inside D-Bus. */
#define FINDER_STOP_NS (2 * NS_PER_S)
/* A thread that spends longer than this on one message is named in the log, once a minute. */
#define STUCK_NS (5 * NS_PER_S)
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
};

struct options {
    const char *config_path;
    bool check_only;
};

static void usage(FILE *out)
{
    fputs("Usage: weir-server [options]\n"
          "The SLA server: keeps agreements, polls gateways, throttles bullies.\n\n"
          "  -c, --config FILE      settings (default /etc/weir/server.conf when it exists)\n"
          "      --check-config     read and check the settings, then end\n"
          "      --state-dir DIR    databases, keys and tokens (default /var/lib/weir)\n"
          "      --listen ADDRESS   for gateways (default 127.0.0.1:7400; may be repeated)\n"
          "      --http ADDRESS     for people (default 127.0.0.1:7480)\n"
          "      --observe          analyse and record, enforce nothing\n"
          "      --log-level LEVEL  error, warning, info or debug\n"
          "      --no-sandbox       keep all system calls, for debugging\n"
          "      --print-routes     list the routes of the API, then end\n"
          "      --version, --help\n",
          out);
}

enum {
    OPT_CHECK = 256,
    OPT_STATE,
    OPT_LISTEN,
    OPT_HTTP,
    OPT_OBSERVE,
    OPT_LEVEL,
    OPT_ROUTES,
    OPT_NO_SANDBOX,
    OPT_VERSION,
    OPT_HELP
};

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"check-config", no_argument, NULL, OPT_CHECK},
    {"state-dir", required_argument, NULL, OPT_STATE},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"http", required_argument, NULL, OPT_HTTP},
    {"observe", no_argument, NULL, OPT_OBSERVE},
    {"log-level", required_argument, NULL, OPT_LEVEL},
    {"print-routes", no_argument, NULL, OPT_ROUTES},
    {"no-sandbox", no_argument, NULL, OPT_NO_SANDBOX},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int option_text(char *field, size_t size, const char *name, struct text *errors)
{
    if (text_copy(field, size, optarg) == 0)
        return 0;
    text_printf(errors, "--%s: longer than %zu bytes\n", name, size - 1);
    return WEIR_E_INVALID;
}

/* One option onto the configuration. 0, an error (said in @errors), or 1: done, exit well. */
static int apply_option(struct server_config *c, int option, size_t *listens, struct text *errors)
{
    enum log_level level;
    switch (option) {
    case OPT_STATE:
        return option_text(c->state_dir, sizeof(c->state_dir), "state-dir", errors);
    case OPT_LISTEN:
        if (*listens >= sizeof(c->control_listen) / sizeof(c->control_listen[0])) {
            text_append_str(errors, "--listen: at most 8\n");
            return WEIR_E_INVALID;
        }
        c->control_listen_count = *listens + 1;
        return option_text(c->control_listen[(*listens)++], sizeof(c->control_listen[0]), "listen",
                           errors);
    case OPT_HTTP:
        return option_text(c->http_listen, sizeof(c->http_listen), "http", errors);
    case OPT_OBSERVE:
        c->observe = true;
        return 0;
    case OPT_LEVEL:
        if (log_level_parse(optarg, &level) == 0) {
            c->log_level = level;
            return 0;
        }
        text_printf(errors, "--log-level: found \"%s\", expected error, warning, info or debug\n",
                    optarg);
        return WEIR_E_INVALID;
    case OPT_NO_SANDBOX:
        c->sandbox = false;
        return 0;
    case OPT_ROUTES:
        app_print_routes(stdout);
        return 1;
    case OPT_VERSION:
        puts("weir-server " WEIR_VERSION);
        return 1;
    case OPT_HELP:
        usage(stdout);
        return 1;
    default: /* 'c' and --check-config were read in the first pass */
        return 0;
    }
}

/* The file first, then the options over it. */
static int read_settings(int argc, char **argv, struct server_config *c, struct options *o,
                         struct text *errors)
{
    int option;
    while ((option = getopt_long(argc, argv, "c:", long_options, NULL)) != -1) {
        if (option == '?')
            return WEIR_E_INVALID;
        if (option == 'c')
            o->config_path = optarg;
        if (option == OPT_CHECK)
            o->check_only = true;
    }
    if (optind < argc) {
        text_printf(errors, "\"%s\": no such argument; see weir-server --help\n", argv[optind]);
        return WEIR_E_INVALID;
    }
    int r = 0;
    if (o->config_path == NULL && access("/etc/weir/server.conf", R_OK) == 0)
        o->config_path = "/etc/weir/server.conf";
    if (o->config_path != NULL)
        r = server_config_load(c, o->config_path, errors);
    if (r < 0 && errors->len == 0)
        text_printf(errors, "%s: %s\n", o->config_path, weir_strerror(r));
    size_t listens = 0;
    optind = 1;
    while ((option = getopt_long(argc, argv, "c:", long_options, NULL)) != -1) {
        int s = apply_option(c, option, &listens, errors);
        if (s != 0) {
            server_config_forget(c);
            return s;
        }
    }
    return r < 0 ? r : server_config_check(c, errors);
}

/* Capacities: a mailbox holds a burst of one period from everyone who writes to it; the memory is
 * capacity x 104 bytes each, all of it together below 16 MiB at the defaults. Those of outbound
 * and services hold a whole second's polls or answers of ten thousand gateways; more would only be
 * older answers that the next ones say again. */
static struct mailbox *box(struct server *s, const char *name, size_t index, bool numbered,
                           size_t capacity, size_t tickets)
{
    char full[48]; /* cut to what the map shows by mailbox_new */
    if (numbered)
        snprintf(full, sizeof(full), "%s[%zu]", name, index);
    else
        snprintf(full, sizeof(full), "%s", name);
    return mailbox_new(s->threads.set, full, capacity, tickets);
}

/* For as many pairs and SLA processes as may ever run: pages of those that do not stay unused. */
static int make_mailboxes(struct server *s)
{
    struct threads *t = &s->threads;
    t->queued = calloc(s->config.max_gateways, sizeof(*t->queued));
    t->pairs = s->config.pairs;
    t->services_count = t->services_at_start = s->config.sla_processes;
    t->readers = s->config.readers;
    t->set = mailbox_set_new(THREADS_MAX + 1);
    if (t->set == NULL)
        return -ENOMEM;
    t->trail = trail_new(s->config.max_gateways);
    bool ok = t->trail != NULL && t->queued != NULL;
    ok = ok && (t->main = box(s, "main", 0, false, 256, 128)) != NULL;
    ok = ok && (t->acceptor = box(s, "acceptor", 0, false, 2048, 1024)) != NULL;
#if HAVE_AVAHI
    if (s->config.dns_sd)
        ok = ok && (t->finder = box(s, "finder", 0, false, 16, 2)) != NULL;
#endif
    ok = ok && (t->app = box(s, "app", 0, false, 8192, 2048)) != NULL;
    ok = ok && (t->resource = box(s, "resource", 0, false, 1024, 64)) != NULL;
    ok = ok && (t->store_writer = box(s, "store.writer", 0, false, 8192, 64)) != NULL;
    for (size_t i = 0; ok && i < THREADS_MAX_PAIRS; i++) {
        ok = (t->inbound[i] = box(s, "inbound", i, true, 4096, 64)) != NULL;
        ok = ok && (t->outbound[i] = box(s, "outbound", i, true, 16384, 64)) != NULL;
    }
    for (size_t i = 0; ok && i < THREADS_MAX_SERVICES; i++)
        ok = (t->services[i] = box(s, "services", i, true, 16384, 256)) != NULL;
    for (size_t i = 0; ok && i < t->readers; i++)
        ok = (t->store_reader[i] = box(s, "store.reader", i, true, 1024, 64)) != NULL;
    return ok ? 0 : -ENOMEM;
}

static int start(struct server *s, enum rank rank, struct mailbox *box, thread_main *body,
                 void *arg)
{
    struct running *r = &s->running[s->running_count];
    r->box = box;
    r->rank = rank;
    struct mailbox_stats st;
    mailbox_stats(s->threads.set, mailbox_id(box), &st);
    int e = pthread_create(&r->thread, NULL, body, arg);
    if (e != 0)
        return -e;
    st.name[15] = '\0'; /* what the kernel shows */
    pthread_setname_np(r->thread, st.name);
    s->running_count++;
    return 0;
}

/* @thread was started last; keep it on the processor of its pair. */
static void pin(struct server *s, size_t pair)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t set;
    if (!s->config.pin || cpus < 1)
        return;
    CPU_ZERO(&set);
    CPU_SET(pair % (size_t)cpus, &set);
    int e = pthread_setaffinity_np(s->running[s->running_count - 1].thread, sizeof(set), &set);
    if (e != 0)
        log_warning("a thread of pair %zu cannot be pinned: %s", pair, weir_strerror(-e));
}

/* Those that are not there yet. */
static int start_pairs(struct server *s)
{
    struct threads *t = &s->threads;
    int r = 0;
    for (size_t i = s->pairs_started; r == 0 && i < s->config.pairs; i++) {
        s->pair[i] = (struct monitor_thread){.monitor = s->monitor, .pair = i};
        r = start(s, RANK_OUT, t->outbound[i], monitor_outbound_main, &s->pair[i]);
        if (r == 0)
            pin(s, i);
        if (r == 0)
            r = start(s, RANK_IN, t->inbound[i], monitor_inbound_main, &s->pair[i]);
        if (r == 0)
            pin(s, i);
        s->pairs_started += r == 0;
    }
    for (size_t i = s->sla_started; r == 0 && i < s->config.sla_processes; i++) {
        s->sla[i] = (struct sla_thread){.config = &s->config, .threads = t, .index = i};
        r = start(s, RANK_SLA, t->services[i], sla_main, &s->sla[i]);
        if (r == 0)
            pin(s, i % s->config.pairs);
        s->sla_started += r == 0;
    }
    /* Those that are no longer needed stay, and answer that they have nothing. */
    t->pairs = s->pairs_started;
    t->services_count = s->sla_started;
    return r;
}

static int start_threads(struct server *s)
{
    struct threads *t = &s->threads;
    s->acceptor = (struct monitor_thread){.monitor = s->monitor};
    int r = start(s, RANK_ACCEPTOR, t->acceptor, monitor_acceptor_main, &s->acceptor);
#if HAVE_AVAHI
    s->finder = s->acceptor;
    if (r == 0 && t->finder != NULL)
        r = start(s, RANK_FINDER, t->finder, monitor_finder_main, &s->finder);
#endif
    s->resource = (struct resource_thread){
        .config = &s->config, .threads = t, .keys = s->probe_keys};
    r = r < 0 ? r : start(s, RANK_RESOURCE, t->resource, resource_main, &s->resource);
    if (r == 0)
        s->probe_keys = NULL; /* the thread's */
    r = r < 0 ? r : start_pairs(s);
    r = r < 0 ? r : start(s, RANK_APP, t->app, app_main, s->app);
    for (size_t i = 0; r == 0 && i < t->readers; i++) {
        s->reader[i] = (struct store_thread){.store = s->store, .threads = t, .index = i};
        r = start(s, RANK_READER, t->store_reader[i], store_reader_main, &s->reader[i]);
    }
    s->writer = (struct store_thread){.store = s->store, .threads = t};
    return r < 0 ? r : start(s, RANK_WRITER, t->store_writer, store_writer_main, &s->writer);
}

static bool wait_stopped(struct server *s, struct running *r, uint64_t ticket, uint64_t deadline)
{
    struct mailbox *me = s->threads.main;
    while (clock_mono_ns() < deadline) {
        struct msg m;
        while (mailbox_take(me, &m)) {
            bool mine = m.is_reply && m.ticket == ticket;
            msg_release(&m);
            if (mine) {
                pthread_join(r->thread, NULL);
                return true;
            }
        }
        if (!mailbox_drained(me)) {
            struct pollfd p = {.fd = mailbox_fd(me), .events = POLLIN};
            poll(&p, 1, 100);
        }
    }
    return false;
}

static bool stop_thread(struct server *s, struct running *r)
{
    struct msg m = {.kind = MSG_STOP};
    uint64_t ticket = 0;
    bool finder = r->rank == RANK_FINDER;
    uint64_t deadline = clock_mono_ns() + (finder ? FINDER_STOP_NS : STOP_TIMEOUT_NS);
    while (mailbox_ask(s->threads.main, r->box, &m, STOP_TIMEOUT_NS, clock_mono_ns(), &ticket) <
               0 &&
           clock_mono_ns() < deadline)
        usleep(1000); /* main has nothing else to do at the end */
    if (ticket != 0 && wait_stopped(s, r, ticket, deadline)) {
        r->stopped = true;
        return true;
    }
    if (finder) {
        log_warning("D-Bus does not answer the finder, which is left behind");
        s->finder_left = true;
        return true;
    }
    struct mailbox_stats st;
    mailbox_stats(s->threads.set, mailbox_id(r->box), &st);
    log_error("thread %s did not end within 10 s", st.name);
    return false;
}

/* One after the other: each may still post to those that end after it. */
static bool stop_threads(struct server *s)
{
    bool all = true;
    for (int rank = 0; rank < RANK_COUNT; rank++) {
        for (size_t i = 0; i < s->running_count; i++) {
            if (s->running[i].rank == (enum rank)rank)
                all = stop_thread(s, &s->running[i]) && all;
        }
    }
    return all;
}

static void watch_threads(struct server *s, uint64_t now_ns)
{
    if (now_ns - s->stuck_said_ns < 60 * NS_PER_S && s->stuck_said_ns != 0)
        return;
    for (size_t i = 0; i < mailbox_set_count(s->threads.set); i++) {
        struct mailbox_stats st;
        mailbox_stats(s->threads.set, i, &st);
        if (st.busy_since_ns == 0 || st.busy_since_ns + STUCK_NS > now_ns)
            continue;
        log_warning("thread %s has been busy with one message for %llu s; %zu wait", st.name,
                    (unsigned long long)((now_ns - st.busy_since_ns) / NS_PER_S), st.depth);
        s->stuck_said_ns = now_ns;
    }
}

static void tell_systemd(const char *state)
{
#if HAVE_SYSTEMD
    sd_notify(0, state);
#else
    (void)state;
#endif
}

/* The router answers when every gateway is where the settings say. */
static void hear(struct server *s)
{
    struct msg m;
    while (mailbox_take(s->threads.main, &m)) {
        if (m.kind == MSG_ROUTE_RESIZE && m.is_reply) {
            s->resizing = false;
            log_info("all gateways are at %u pairs and %u SLA processes", s->config.pairs,
                     s->config.sla_processes);
        }
        msg_release(&m);
    }
    (void)mailbox_drained(s->threads.main); /* it is owned: shown among the threads */
}

/* Gateways go to @pairs and @processes, which run. */
static void resize(struct server *s)
{
    struct msg m = {.kind = MSG_ROUTE_RESIZE, .arg = {s->config.pairs, s->config.sla_processes}};
    uint64_t ticket;
    if (mailbox_ask(s->threads.main, s->threads.acceptor, &m, UINT64_MAX / 2, clock_mono_ns(),
                    &ticket) < 0) {
        log_warning("SIGHUP: the acceptor has no time; say it again");
        return;
    }
    s->resizing = true;
}

/* ---- certificates, while it runs
 * ------------------------------------------------------------------------- */

static void control_keys_free(void *creds)
{
    tls_creds_unref(creds);
}

struct server_keys {
    struct tls_creds *control, *http; /* http: NULL where HTTP is in clear */
    struct probe_key_set *probe;
};

/* Read and check all of them. */
static int keys_load(const struct server *s, const struct server_config *c,
                     struct server_keys *ret, struct text *errors)
{
    char words[1200] = "";
    *ret = (struct server_keys){0};
    if ((c->http_certificate[0] == '\0') != (s->config.http_certificate[0] == '\0')) {
        text_append_str(errors, "[http] tls-certificate: HTTP changes to TLS, or back, at a start "
                                "only");
        return WEIR_E_REFUSED;
    }
    int r = monitor_tls_load(c, NULL, &ret->control, words, sizeof(words));
    if (r == 0)
        r = app_tls_load(c, &ret->http, words, sizeof(words));
    if (r == 0)
        r = probe_keys_load(c, &ret->probe, words, sizeof(words));
    if (r == 0)
        return 0;
    text_append_str(errors, words);
    tls_creds_unref(ret->control);
    tls_creds_unref(ret->http);
    return r;
}

/* Connections and handshakes to come have the new ones; those that stand keep what they have. */
static void keys_give(struct server *s, const struct server_keys *k)
{
    uint8_t fingerprint[32];
    char text[TLS_FINGERPRINT_TEXT];
    void (*keys_free)(void *);
    bool has = tls_creds_fingerprint(k->control, fingerprint);
    weir_assert(has);
    if (memcmp(fingerprint, s->fingerprint, sizeof(fingerprint)) != 0) {
        tls_fingerprint_format(fingerprint, text);
        log_warning("SIGHUP: gateways on other machines know this server by %s from now on; those "
                    "that go by the key of before, and have no tls-ca, must be told or enrol anew",
                    text);
        memcpy(s->fingerprint, fingerprint, sizeof(fingerprint));
    }
    struct app_keys *keys = app_keys_new(k->http, fingerprint, &keys_free);
    struct msg control = {
        .kind = MSG_CONTROL_TLS, .body = k->control, .body_free = control_keys_free};
    struct msg http = {.kind = MSG_HTTP_KEYS, .body = keys, .body_free = keys_free};
    struct msg probe = {
        .kind = MSG_PROBE_KEYS, .body = k->probe, .body_free = probe_keys_free};
    bool gone = mailbox_post(s->threads.main, s->threads.acceptor, &control) == 0;
    gone = keys != NULL && mailbox_post(s->threads.main, s->threads.app, &http) == 0 && gone;
    gone = mailbox_post(s->threads.main, s->threads.resource, &probe) == 0 && gone;
    if (keys == NULL)
        tls_creds_unref(k->http);
    if (!gone) {
        log_error("SIGHUP: not every certificate is in force: a thread has no room; say it again");
        msg_release(&control);
        msg_release(&http);
        msg_release(&probe);
    }
}

/* Threads as the settings now say; gateways move to them. */
static void reload_threads(struct server *s, const struct server_config *c)
{
    uint32_t pairs = s->config.pairs, processes = s->config.sla_processes;
    if (s->resizing) {
        log_warning("SIGHUP: gateways still move for the last one; numbers of threads again later");
        return;
    }
    log_info("SIGHUP: %u pairs and %u SLA processes (%u and %u before); other settings are read at "
             "start only, certificates were read again",
             c->pairs, c->sla_processes, pairs, processes);
    s->config.pairs = c->pairs;
    s->config.sla_processes = c->sla_processes;
    s->config.pin = c->pin;
    int r = start_pairs(s);
    if (r < 0) {
        log_error("SIGHUP: cannot start a thread: %s", weir_strerror(r));
        s->config.pairs = pairs;
        s->config.sla_processes = processes;
    } else {
        resize(s);
    }
}

/* All or nothing: a file with an error changes nothing. */
static void reload(struct server *s)
{
    struct server_config c;
    struct text errors;
    struct server_keys keys;
    int r = 0;
    text_init(&errors, 1 << 20);
    server_config_init(&c);
    if (s->config_path != NULL) {
        r = server_config_load(&c, s->config_path, &errors);
        /* Of the start, where an option may have named it; the server's own keys lie in it. */
        memcpy(c.state_dir, s->config.state_dir, sizeof(c.state_dir));
        if (r == 0)
            r = server_config_check(&c, &errors);
    } else {
        c = s->config; /* options alone: there are still certificates */
    }
    if (r == 0)
        r = keys_load(s, &c, &keys, &errors);
    if (r < 0) {
        log_error("SIGHUP: nothing is changed: %s", errors.len > 0 ? errors.data : "cannot read");
    } else {
        keys_give(s, &keys);
        if (s->config_path != NULL)
            reload_threads(s, &c);
    }
    text_fini(&errors);
}

/* Until SIGTERM or SIGINT. */
static void serve(struct server *s, int signals)
{
    for (;;) {
        struct pollfd p = {.fd = signals, .events = POLLIN};
        int n = poll(&p, 1, 1000);
        watch_threads(s, clock_mono_ns());
        hear(s);
        tell_systemd("WATCHDOG=1");
        struct signalfd_siginfo info;
        if (n != 1 || read(signals, &info, sizeof(info)) != sizeof(info))
            continue;
        if (info.ssi_signo == SIGHUP) {
            reload(s);
            continue;
        }
        log_info("signal %u: ending", info.ssi_signo);
        return;
    }
}

static int block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC);
}

static void raise_descriptors(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
        l.rlim_cur = l.rlim_max;
        setrlimit(RLIMIT_NOFILE, &l);
    }
}

_Static_assert(sizeof(struct monitor_stats) / sizeof(uint64_t) <= APP_MAX_FIGURES,
               "the page of metrics has room for all of them");

/* The performance monitor's counters as /metrics names them. */
static size_t monitor_figures(const void *monitor, struct app_figure *ret)
{
    struct monitor_stats stats;
    size_t n = 0;
    monitor_stats(monitor, &stats);
#define X(counter, words)                                                                          \
    ret[n++] = (struct app_figure){.name = "weir_monitor_" #counter "_total", .help = words,       \
                                   .value = stats.counter};
#define G(counter, words)                                                                          \
    ret[n++] = (struct app_figure){.name = "weir_monitor_" #counter "_now", .help = words,         \
                                   .gauge = true, .value = stats.counter##_now};
    MONITOR_COUNTERS_TABLE(X)
    MONITOR_GAUGES_TABLE(G)
#undef G
#undef X
    return n;
}

static int open_parts(struct server *s)
{
    char words[512] = "";
    int r = make_mailboxes(s);
    if (r == 0)
        r = store_open(&s->config, &s->store, words, sizeof(words));
    if (r == 0)
        r = probe_keys_load(&s->config, &s->probe_keys, words, sizeof(words));
    if (r == 0)
        r = monitor_open(&s->config, &s->threads, &s->monitor, words, sizeof(words));
    if (r == 0)
        r = app_open(&s->config, &s->threads, &s->app, words, sizeof(words));
    if (r == 0) {
        monitor_fingerprint(s->monitor, s->fingerprint);
        app_set_fingerprint(s->app, s->fingerprint);
        char text[TLS_FINGERPRINT_TEXT];
        tls_fingerprint_format(s->fingerprint, text);
        log_info("gateways on other machines know this server by %s", text);
    }
    if (r == 0)
        app_set_figures(s->app, monitor_figures, s->monitor);
    if (r < 0)
        log_error("cannot start: %s", words[0] != '\0' ? words : weir_strerror(r));
    return r;
}

static void close_parts(struct server *s)
{
    if (s->app != NULL)
        app_close(s->app);
    if (s->monitor != NULL)
        monitor_close(s->monitor);
    if (s->store != NULL)
        store_close(s->store);
    probe_keys_free(s->probe_keys);
    mailbox_set_free(s->threads.set);
    free(s->threads.queued);
    trail_free(s->threads.trail);
}

/* Everything is open and every thread runs. A kernel that has no filter still has a server. */
static void give_up(void)
{
    char words[160];
    if (sandbox_enter(SANDBOX_SERVER, words, sizeof(words)) < 0)
        log_warning("no sandbox: %s", words);
    else
        log_debug("%s", sandbox_is_built() ? "in the sandbox" : "a sanitizer: no sandbox");
}

static int run(struct server *s)
{
    int signals = block_signals();
    raise_descriptors();
    if (signals < 0 || open_parts(s) < 0) {
        close_parts(s);
        return EXIT_FAILURE;
    }
    int r = start_threads(s);
    if (r < 0) {
        log_error("cannot start a thread: %s", weir_strerror(r));
    } else {
        if (s->config.sandbox)
            give_up();
        printf("weir-server: control on %s\n", monitor_address(s->monitor));
        printf("weir-server: http on %s\n", app_address(s->app));
        fflush(stdout);
        tell_systemd("READY=1");
        serve(s, signals);
        tell_systemd("STOPPING=1");
    }
    bool clean = stop_threads(s);
    /* A thread still uses what would be freed. */
    if (!clean || s->finder_left)
        _exit(clean && r == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
    close_parts(s);
    close(signals);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct server *s = calloc(1, sizeof(*s));
    struct text errors;
    struct options o = {0};
    if (s == NULL)
        return EXIT_FAILURE;
    text_init(&errors, 1 << 20);
    server_config_init(&s->config);
    int r = read_settings(argc, argv, &s->config, &o, &errors);
    int code = r == 1 ? EXIT_SUCCESS : EXIT_FAILURE;
    if (r < 0) {
        fprintf(stderr, "%s", errors.len > 0 ? errors.data : "");
        fprintf(stderr, "weir-server: not started: the settings are wrong\n");
        code = 2;
    } else if (r == 0 && o.check_only) {
        puts("weir-server: the settings are right");
        code = EXIT_SUCCESS;
    } else if (r == 0) {
        log_init("weir-server", (enum log_level)s->config.log_level);
        s->config_path = o.config_path;
        code = run(s);
    }
    text_fini(&errors);
    free(s);
    return code;
}

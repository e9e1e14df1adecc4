/* SPDX-License-Identifier: Apache-2.0 */
/* weir-server: its parts, their order, and the life of the process.
 *
 * Order of start: store (migrated, so that everything after may ask it), monitor and HTTP sockets
 * (so that a port in use is said before anything runs), then the threads (stages.c). Then the main
 * thread only hears signals, watches the others, and reads settings again (reload.c). */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/sandbox.h"
#include "base/text.h"
#include "config.h"
#include "server/daemon.h"
#include "server/options.h"
#include "tls/identity.h"

#if HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

static void tell_systemd(const char *state)
{
#if HAVE_SYSTEMD
    sd_notify(0, state);
#else
    (void)state;
#endif
}

/* Until SIGTERM or SIGINT. */
static void serve(struct server *s, int signals)
{
    for (;;) {
        struct pollfd p = {.fd = signals, .events = POLLIN};
        int n = poll(&p, 1, 1000);
        stages_watch(s, clock_mono_ns());
        certificates_watch(s, clock_mono_ns());
        reload_hear(s);
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

_Static_assert(sizeof(struct monitor_stats) / sizeof(uint64_t) + 2 <= APP_MAX_FIGURES,
               "the page of metrics has room for all of them");

/* When it ends: one figure, or none where nothing names a certificate. */
static size_t certificate_figure(const struct server_certificate *c, const char *name,
                                 const char *help, struct app_figure *ret)
{
    int64_t until_s = atomic_load(&c->until_s);
    if (until_s == 0)
        return 0;
    *ret = (struct app_figure){
        .name = name, .help = help, .gauge = true, .value = (uint64_t)until_s};
    return 1;
}

/* The performance monitor's counters as /metrics names them, and when certificates end. */
static size_t figures(const void *server, struct app_figure *ret)
{
    const struct server *s = server;
    struct monitor_stats stats;
    size_t n = 0;
    monitor_stats(s->monitor, &stats);
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
    n += certificate_figure(&s->control_certificate,
                            "weir_control_certificate_expiry_timestamp_seconds",
                            "When the certificate that [control] names ends, since 1970.", &ret[n]);
    n += certificate_figure(&s->http_certificate, "weir_http_certificate_expiry_timestamp_seconds",
                            "When the certificate that [http] names ends, since 1970.", &ret[n]);
    return n;
}

static int open_parts(struct server *s)
{
    char words[512] = "";
    int r = stages_make_mailboxes(s);
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
        app_set_figures(s->app, figures, s);
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
    int r = stages_start(s);
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
    bool clean = stages_stop(s);
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
    struct server_options o = {0};
    if (s == NULL)
        return EXIT_FAILURE;
    text_init(&errors, 1 << 20);
    server_config_init(&s->config);
    int r = server_options_read(argc, argv, &s->config, &o, &errors);
    int code = r == 1 ? EXIT_SUCCESS : EXIT_FAILURE;
    if (r < 0) {
        fprintf(stderr, "%s", errors.len > 0 ? errors.data : "");
        fprintf(stderr, "weir-server: not started: the settings are wrong\n");
        code = 2;
    } else if (r == 0 && o.check_only) {
        fputs(s->config.warnings, stderr);
        puts("weir-server: the settings are right");
        code = EXIT_SUCCESS;
    } else if (r == 0) {
        log_init("weir-server", (enum log_level)s->config.log_level);
        s->config_path = o.config_path;
        log_lines(LOG_LEVEL_WARNING, s->config.warnings);
        certificates_note(s, &s->config.control_dates, &s->config.http_dates);
        code = run(s);
    }
    text_fini(&errors);
    free(s);
    return code;
}

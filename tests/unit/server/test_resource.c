/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the storage resource manager tells the truth about real targets, and one that hangs holds
 * up no other.
 * Method: its thread with real mailboxes, against nbdkit (skipped where it is not installed), a
 * listener that accepts and never answers, and URIs that cannot work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../folder.h"
#include "base/clock.h"
#include "base/err.h"
#include "server/msg.h"
#include "server/resource/probe.h"
#include "server/resource/resource.h"
#include "server/store/store.h"

struct world {
    char folder[256];
    struct server_config config;
    struct threads threads;
    struct mailbox *client;
    struct resource_thread arg;
    pthread_t thread;
    pid_t nbdkit;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_true(folder_make(w->folder, sizeof(w->folder), "resource"));
    w->config.probe_period_ns = 100 * NS_PER_MS;
    w->threads.set = mailbox_set_new(8);
    w->threads.resource = mailbox_new(w->threads.set, "resource", 1024, 16);
    w->threads.services[0] = mailbox_new(w->threads.set, "services[0]", 4096, 16);
    w->threads.services[1] = mailbox_new(w->threads.set, "services[1]", 4096, 16);
    w->threads.services_count = 2;
    w->threads.store_writer = mailbox_new(w->threads.set, "store.writer", 4096, 16);
    w->threads.app = mailbox_new(w->threads.set, "app", 4096, 16);
    atomic_init(&w->threads.listeners, 1);
    w->client = mailbox_new(w->threads.set, "client", 64, 16);
    w->arg = (struct resource_thread){.config = &w->config, .threads = &w->threads};
    assert_int_equal(pthread_create(&w->thread, NULL, resource_main, &w->arg), 0);
    *state = w;
    return 0;
}

static void empty(struct mailbox *m)
{
    struct msg x;
    while (mailbox_take(m, &x))
        msg_release(&x);
}

static void end_nbdkit(struct world *w)
{
    if (w->nbdkit <= 0)
        return;
    kill(w->nbdkit, SIGTERM);
    waitpid(w->nbdkit, NULL, 0);
    w->nbdkit = 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    struct msg m = {.kind = MSG_STOP};
    uint64_t ticket;
    assert_int_equal(
        mailbox_ask(w->client, w->threads.resource, &m, 30 * NS_PER_S, clock_mono_ns(), &ticket),
        0);
    pthread_join(w->thread, NULL);
    end_nbdkit(w);
    for (size_t i = 0; i < mailbox_set_count(w->threads.set); i++)
        empty(mailbox_set_at(w->threads.set, i));
    mailbox_set_free(w->threads.set);
    char command[300];
    snprintf(command, sizeof(command), "rm -rf '%s'", w->folder);
    assert_int_equal(system(command), 0);
    free(w);
    return 0;
}

static void need_nbdkit(void)
{
    if (system("nbdkit --version >/dev/null 2>&1") != 0)
        skip();
}

/* Whether somebody listens at @path: a bound socket has a path before it takes connections. */
static bool listens(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_true(strlen(path) < sizeof(a.sun_path));
    memcpy(a.sun_path, path, strlen(path) + 1);
    int r = connect(fd, (const struct sockaddr *)&a, sizeof(a));
    close(fd);
    return r == 0;
}

/* nbdkit on the Unix socket "sock" of the folder, with further arguments (NULL-terminated). */
static void start_nbdkit(struct world *w, const char *const *more)
{
    char path[300];
    const char *args[20] = {"nbdkit", "-f", "--exit-with-parent", "-U", path};
    snprintf(path, sizeof(path), "%s/sock", w->folder);
    unlink(path);
    size_t n = 5;
    for (; *more != NULL; more++)
        args[n++] = *more;
    w->nbdkit = fork();
    assert_true(w->nbdkit >= 0);
    if (w->nbdkit == 0) {
        execvp(args[0], (char *const *)(uintptr_t)args);
        _exit(127);
    }
    int tries = 0;
    while (!listens(path)) {
        assert_true(++tries < 1000);
        usleep(10000);
    }
}

static void unix_uri(struct world *w, char uri[512])
{
    snprintf(uri, 512, "nbd+unix:///?socket=%s/sock", w->folder);
}

static void see(struct world *w, const char *name, const char *uri)
{
    struct target_seen *s = calloc(1, sizeof(*s));
    snprintf(s->gateway, sizeof(s->gateway), "gw1");
    snprintf(s->target, sizeof(s->target), "%s", name);
    snprintf(s->uri, sizeof(s->uri), "%s", uri);
    struct msg m = {.kind = MSG_TARGET_SEEN, .body = s, .body_free = free};
    assert_int_equal(mailbox_post(w->client, w->threads.resource, &m), 0);
}

/* The next message at a mailbox, waited for at most 20 s. */
static struct msg next(struct mailbox *m)
{
    struct msg x;
    uint64_t deadline = clock_mono_ns() + 20 * NS_PER_S;
    while (clock_mono_ns() < deadline) {
        if (mailbox_take(m, &x))
            return x;
        if (mailbox_drained(m))
            continue;
        struct pollfd p = {.fd = mailbox_fd(m), .events = POLLIN};
        poll(&p, 1, 1000);
    }
    fail_msg("no message within 20 s");
    return x;
}

/* The next health of @name that SLA process @i hears of. */
static struct target_health health_of(struct world *w, size_t i, const char *name)
{
    for (;;) {
        struct msg m = next(w->threads.services[i]);
        assert_int_equal(m.kind, MSG_TARGET_HEALTH);
        struct target_health h = *(struct target_health *)m.body;
        msg_release(&m);
        if (strcmp(h.target, name) == 0)
            return h;
    }
}

/* The next event in the store's mailbox; health rows before it are counted. */
static struct event_record next_event(struct world *w, size_t *ret_healths)
{
    size_t healths = 0;
    for (;;) {
        struct msg m = next(w->threads.store_writer);
        assert_int_equal(m.kind, MSG_STORE_APPEND);
        struct store_batch *b = m.body;
        struct event_record e = {.wall_us = 0};
        bool found = b->event_count > 0;
        healths += b->health_count;
        if (found)
            e = b->event[0];
        msg_release(&m);
        if (found) {
            *ret_healths = healths;
            return e;
        }
    }
}

static void a_real_target_is_measured_and_every_process_told(void **state)
{
    struct world *w = *state;
    char uri[512];
    need_nbdkit();
    start_nbdkit(w, (const char *const[]){"--filter=blocksize-policy", "memory", "64M",
                                          "blocksize-minimum=512", "blocksize-preferred=4096",
                                          "blocksize-maximum=1M", NULL});
    unix_uri(w, uri);
    see(w, "array1", uri);
    for (size_t i = 0; i < 2; i++) {
        struct target_health h = health_of(w, i, "array1");
        assert_string_equal(h.error, "");
        assert_true(h.reachable);
        assert_string_equal(h.uri, uri);
        assert_int_equal(h.size, 64 << 20);
        assert_int_equal(h.block_min, 512);
        assert_int_equal(h.block_preferred, 4096);
        assert_int_equal(h.block_max, 1 << 20);
        assert_true(h.probe_latency_us > 0);
        assert_true(h.connect_latency_us > 0);
        assert_int_equal(h.probes, 1);
        assert_int_equal(h.failures, 0);
    }
    /* Again and again, on the period. */
    assert_int_equal(health_of(w, 0, "array1").probes, 2);
    assert_int_equal(health_of(w, 0, "array1").probes, 3);
}

static void targets_of_odd_sizes_are_read_within_their_bounds(void **state)
{
    struct world *w = *state;
    static const char *const sizes[] = {"0", "1", "513", "4095", "4097", "65536"};
    char uri[512];
    need_nbdkit();
    unix_uri(w, uri);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char name[32];
        snprintf(name, sizeof(name), "size-%s", sizes[i]);
        start_nbdkit(w, (const char *const[]){"memory", sizes[i], NULL});
        see(w, name, uri);
        struct target_health h = health_of(w, 0, name);
        assert_string_equal(h.error, "");
        assert_true(h.reachable);
        assert_int_equal(h.size, strtoull(sizes[i], NULL, 10));
        assert_int_equal(h.probe_latency_us > 0, i > 0);
        end_nbdkit(w);
    }
}

static void a_probe_only_reads(void **state)
{
    struct world *w = *state;
    char uri[512], log[300], command[700];
    need_nbdkit();
    snprintf(log, sizeof(log), "logfile=%s/log", w->folder);
    start_nbdkit(w, (const char *const[]){"--filter=log", "memory", "1M", log, NULL});
    unix_uri(w, uri);
    see(w, "array1", uri);
    while (health_of(w, 0, "array1").probes < 5)
        ;
    end_nbdkit(w);
    snprintf(command, sizeof(command), "grep -q ' Read ' '%s/log'", w->folder);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command), "grep -E -q ' (Write|Trim|Zero|Flush|Cache) ' '%s/log'",
             w->folder);
    assert_int_not_equal(system(command), 0);
}

static int listen_on_loopback(uint16_t *ret_port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    *ret_port = ntohs(a.sin_port);
    return fd;
}

static void a_target_that_never_answers_holds_up_no_other(void **state)
{
    struct world *w = *state;
    char good[512], hole[64];
    uint16_t port;
    need_nbdkit();
    start_nbdkit(w, (const char *const[]){"memory", "1M", NULL});
    unix_uri(w, good);
    int fd = listen_on_loopback(&port); /* the kernel accepts; nobody ever speaks */
    snprintf(hole, sizeof(hole), "nbd://127.0.0.1:%u", port);
    see(w, "hole", hole);
    see(w, "array1", good);
    uint64_t good_probes = 0;
    struct target_health h = {.probes = 0};
    do { /* all that process 0 hears until the hole is given up */
        struct msg m = next(w->threads.services[0]);
        h = *(struct target_health *)m.body;
        msg_release(&m);
        if (strcmp(h.target, "array1") == 0) {
            assert_true(h.reachable);
            good_probes = h.probes;
        }
    } while (strcmp(h.target, "hole") != 0);
    assert_false(h.reachable);
    assert_non_null(strstr(h.error, "handshake did not end"));
    assert_int_equal(h.probe_latency_us, 0);
    assert_true(good_probes >= 5);
    close(fd);
}

static void reachability_that_changes_is_told_once_each_time(void **state)
{
    struct world *w = *state;
    char uri[512];
    size_t healths;
    need_nbdkit();
    const char *const args[] = {"memory", "1M", NULL};
    start_nbdkit(w, args);
    unix_uri(w, uri);
    see(w, "array1", uri);
    while (health_of(w, 0, "array1").probes < 3)
        ;
    end_nbdkit(w);
    struct event_record e = next_event(w, &healths);
    assert_string_equal(e.kind, "target-unreachable");
    assert_string_equal(e.subject, "target/array1");
    assert_int_equal(e.severity, EVENT_ERROR);
    assert_true(healths >= 3);
    for (struct target_health h = health_of(w, 0, "array1"); h.failures < 3;)
        h = health_of(w, 0, "array1");
    start_nbdkit(w, args);
    e = next_event(w, &healths);
    assert_string_equal(e.kind, "target-reachable");
    assert_int_equal(e.severity, EVENT_INFO);
    assert_true(healths >= 3); /* failures between, and no event */
    struct msg notice = next(w->threads.app);
    assert_int_equal(notice.kind, MSG_NOTICE);
    assert_string_equal(json_string_value(json_object_get(notice.body, "kind")),
                        "target-unreachable");
    msg_release(&notice);
}

static void an_unusable_uri_is_said_to_be_so(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *uri, *words;
    } c[] = {
        {"nbds://127.0.0.1/", "it is reached by TLS, for which the server has no keys"},
        {"nbds+unix:///?socket=/no/such/socket", "for which the server has no keys"},
        {"http://127.0.0.1/", "not an NBD URI"},
        {"nbd+vsock://1/", "not an NBD URI"},
        {"nbd:///export", "names no host"},
        {"nbd://[::1/", "names no host"},
        {"nbd://storage.invalid/", "storage.invalid"},
        {"nbd+unix:///?socket=/no/such/socket", "No such file"},
        {"", "not an NBD URI"},
    };
    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        char name[16];
        snprintf(name, sizeof(name), "t%zu", i);
        see(w, name, c[i].uri);
        struct target_health h = health_of(w, 0, name);
        assert_false(h.reachable);
        /* A machine without a resolver may need all of the 5 s to say so. */
        if (strstr(h.error, c[i].words) == NULL &&
            strstr(h.error, "could not be looked up") == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", c[i].uri, h.error, c[i].words);
    }
}

static void a_name_is_looked_up_and_a_closed_port_is_refused(void **state)
{
    struct world *w = *state;
    char uri[64];
    uint16_t port;
    int fd = listen_on_loopback(&port);
    close(fd);
    snprintf(uri, sizeof(uri), "nbd://localhost:%u/", port);
    see(w, "closed", uri);
    struct target_health h = health_of(w, 0, "closed");
    assert_false(h.reachable);
    assert_null(strstr(h.error, "look"));
    assert_true(strlen(h.error) > 0);
}

/* The probe's calls of recv come here too. A patient one waits for what the peer is about to send,
 * as if the peer were always faster: then a probe is through the whole handshake within one step,
 * and the descriptor has nothing more to say. */
static _Atomic bool patient;

ssize_t recv(int fd, void *buffer, size_t size, int flags)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (patient)
        poll(&p, 1, 2000);
    return recvfrom(fd, buffer, size, flags, NULL, NULL);
}

static void start_nbdkit_tcp(struct world *w, char uri[512])
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    close(fd);
    char port[16];
    snprintf(port, sizeof(port), "%u", (unsigned)ntohs(a.sin_port));
    snprintf(uri, 512, "nbd://127.0.0.1:%s", port);
    w->nbdkit = fork();
    assert_true(w->nbdkit >= 0);
    if (w->nbdkit == 0) {
        execlp("nbdkit", "nbdkit", "-f", "--exit-with-parent", "-i", "127.0.0.1", "-p", port,
               "memory", "64M", NULL);
        _exit(127);
    }
    int r = -1;
    for (int i = 0; i < 1000 && r != 0; i++) {
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        r = connect(fd, (struct sockaddr *)&a, len);
        close(fd);
        usleep(10000);
    }
    assert_int_equal(r, 0);
}

static void a_target_that_is_ready_at_once_is_seen_to_be_ready(void **state)
{
    struct world *w = *state;
    char uri[512];
    need_nbdkit();
    start_nbdkit_tcp(w, uri);
    const struct probe_keys none = {.creds = NULL};
    struct probe *p = probe_new(uri, &none, clock_mono_ns(), 1);
    struct probe_result r = {.reachable = false};
    assert_non_null(p);
    patient = true;
    probe_step(p, 0, clock_mono_ns());
    probe_step(p, POLLOUT, clock_mono_ns());
    probe_step(p, POLLIN, clock_mono_ns());
    patient = false;
    while (!probe_take_result(p, &r)) {
        struct pollfd fd = {.fd = -1};
        fd.fd = probe_fd(p, &fd.events);
        assert_true(poll(&fd, 1, 10000) >= 0);
        probe_step(p, fd.revents, fd.revents != 0 ? clock_mono_ns() : UINT64_MAX);
    }
    probe_free(p);
    assert_string_equal(r.error, "");
    assert_true(r.reachable);
}

static void targets_beyond_the_bound_are_said_once(void **state)
{
    struct world *w = *state;
    size_t healths, told = 0, first_failures = 0;
    for (unsigned i = 0; i < RESOURCE_MAX_TARGETS + 10; i++) {
        char name[32];
        snprintf(name, sizeof(name), "t%u", i);
        see(w, name, "nbd+unix:///?socket=/no/such/socket");
    }
    while (first_failures < RESOURCE_MAX_TARGETS || told == 0) {
        struct event_record e = next_event(w, &healths);
        told += strcmp(e.kind, "targets-not-probed") == 0;
        first_failures += strcmp(e.kind, "target-unreachable") == 0;
    }
    assert_int_equal(told, 1);
    assert_int_equal(first_failures, RESOURCE_MAX_TARGETS);
}

#define T(a_test_name) cmocka_unit_test_setup_teardown(a_test_name, setup, teardown)

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        T(a_real_target_is_measured_and_every_process_told),
        T(targets_of_odd_sizes_are_read_within_their_bounds),
        T(a_probe_only_reads),
        T(a_target_that_never_answers_holds_up_no_other),
        T(reachability_that_changes_is_told_once_each_time),
        T(an_unusable_uri_is_said_to_be_so),
        T(a_name_is_looked_up_and_a_closed_port_is_refused),
        T(a_target_that_is_ready_at_once_is_seen_to_be_ready),
        T(targets_beyond_the_bound_are_said_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

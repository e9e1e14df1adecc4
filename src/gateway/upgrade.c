/* SPDX-License-Identifier: Apache-2.0 */
/* The running gateway is found by its local socket (of --socket, of --state-dir, or of --config);
 * the answer to {"get":"status"} names its manager, which is sent SIGUSR2. Then the same question
 * is asked until upgrades or upgradesFailed has grown, or WAIT_NS is over. Between two workers the
 * socket may not answer for a moment; that is no failure. */
#include "gateway/upgrade.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/text.h"

#define WAIT_NS (45 * NS_PER_S)
#define ASK_EVERY_US 50000u
#define ANSWER_MAX (256u * 1024u)

struct running {
    long manager;
    long long upgrades, failed;
    char last[256];
};

static int socket_find(const struct options *o, char *ret, size_t size)
{
    if (o->socket_path)
        return text_copy(ret, size, o->socket_path);
    if (o->state_dir || !o->config) {
        int n = snprintf(ret, size, "%s/gateway.sock",
                         o->state_dir ? o->state_dir : GATEWAY_STATE_DIR);
        return n > 0 && (size_t)n < size ? 0 : WEIR_E_INVALID;
    }
    struct text errors;
    text_init(&errors, OPTIONS_ERRORS_MAX);
    struct gateway_config *c = options_config(o, &errors);
    if (!c)
        fprintf(stderr, "weir-gateway: %s", errors.data);
    text_fini(&errors);
    if (!c)
        return WEIR_E_INVALID;
    int n = c->socket_path[0] ? snprintf(ret, size, "%s", c->socket_path)
                              : snprintf(ret, size, "%s/gateway.sock", c->state_dir);
    options_config_free(c);
    return n > 0 && (size_t)n < size ? 0 : WEIR_E_INVALID;
}

static int socket_dial(const char *path)
{
    char text[640];
    struct addr a;
    const char *expected;
    const struct timeval patience = {.tv_sec = 5};
    snprintf(text, sizeof(text), "unix:%s", path);
    if (addr_parse(text, 0, &a, &expected) < 0)
        return -ENAMETOOLONG;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (const struct sockaddr *)&a.ss, a.len) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

/* One answer, a line. NULL: none came. */
static json_t *socket_ask(int fd)
{
    static const char question[] = "{\"get\":\"status\"}\n";
    struct text answer;
    char chunk[4096];
    text_init(&answer, ANSWER_MAX);
    if (send(fd, question, sizeof(question) - 1, MSG_NOSIGNAL) == (ssize_t)sizeof(question) - 1) {
        ssize_t n;
        while ((n = recv(fd, chunk, sizeof(chunk), 0)) > 0) {
            text_append(&answer, chunk, (size_t)n);
            if (answer.failed || chunk[n - 1] == '\n')
                break;
        }
    }
    json_error_t error;
    json_t *j = answer.failed ? NULL : json_loadb(answer.data, answer.len, 0, &error);
    text_fini(&answer);
    return j;
}

static int running_ask(const char *path, struct running *ret)
{
    int fd = socket_dial(path);
    if (fd < 0)
        return fd;
    json_t *j = socket_ask(fd);
    close(fd);
    const json_t *m = json_object_get(json_object_get(j, "status"), "manager");
    const char *last = json_string_value(json_object_get(m, "lastUpgrade"));
    int err = m ? 0 : -EAGAIN;
    ret->manager = (long)json_integer_value(json_object_get(m, "pid"));
    ret->upgrades = json_integer_value(json_object_get(m, "upgrades"));
    ret->failed = json_integer_value(json_object_get(m, "upgradesFailed"));
    snprintf(ret->last, sizeof(ret->last), "%s", last ? last : "");
    json_decref(j);
    return err;
}

static int upgrade_wait(const char *path, const struct running *before)
{
    struct running now;
    uint64_t until = clock_mono_ns() + WAIT_NS;
    while (clock_mono_ns() < until) {
        usleep(ASK_EVERY_US);
        if (running_ask(path, &now) < 0)
            continue;
        if (now.upgrades > before->upgrades) {
            printf("weir-gateway: upgrade %s\n", now.last);
            return 0;
        }
        if (now.failed > before->failed) {
            fprintf(stderr, "weir-gateway: upgrade %s; its log says more\n", now.last);
            return 1;
        }
    }
    fputs("weir-gateway: the gateway did not say how the upgrade went; see its log\n", stderr);
    return 1;
}

int upgrade_ask(const struct options *o)
{
    char path[600];
    struct running before;
    if (socket_find(o, path, sizeof(path)) < 0)
        return 2;
    int err = running_ask(path, &before);
    if (err < 0) {
        fprintf(stderr,
                "weir-gateway: no gateway answers on %s: %s. Name it with --config, --state-dir or "
                "--socket\n",
                path, weir_strerror(err));
        return 1;
    }
    if (before.manager <= 1) {
        fputs("weir-gateway: that gateway runs as a single process and cannot be upgraded in "
              "passing; restart it\n",
              stderr);
        return 1;
    }
    if (kill((pid_t)before.manager, SIGUSR2) < 0) {
        fprintf(stderr, "weir-gateway: process %ld: %s\n", before.manager, weir_strerror(-errno));
        return 1;
    }
    return upgrade_wait(path, &before);
}

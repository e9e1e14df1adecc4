/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/socket.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/err.h"
#include "base/text.h"

#define ANSWER_MAX (16u * 1024u * 1024u)
#define ANSWER_MS 10000

struct socket {
    const char *path;   /* borrowed */
    int fd;             /* connected to it, or -1 */
    struct text buffer; /* what came */
};

static enum cli_exit connect_to(const char *path, int *ret_fd)
{
    char text[ADDR_TEXT_SIZE];
    struct addr a;
    int n = snprintf(text, sizeof(text), "unix:%s", path);
    if (n < 0 || (size_t)n >= sizeof(text) || addr_parse(text, 0, &a, NULL) < 0)
        return cli_fail(CLI_USAGE, "--gateway %s: expected the absolute path of a socket", path);
    int fd = addr_connect(&a);
    if (fd < 0)
        return cli_fail(CLI_UNREACHABLE,
                        "cannot reach the gateway's socket %s: %s\n"
                        "Is weir-gateway running, and may you open its socket (mode 0600)?",
                        path, weir_strerror(fd));
    *ret_fd = fd;
    return CLI_OK;
}

enum cli_exit socket_open(const char *path, struct socket **ret)
{
    int fd;
    enum cli_exit r = connect_to(path, &fd);
    if (r != CLI_OK)
        return r;
    struct socket *s = calloc(1, sizeof(*s));
    if (!s) {
        close(fd);
        return cli_fail(CLI_UNREACHABLE, "not enough memory");
    }
    s->path = path;
    s->fd = fd;
    text_init(&s->buffer, ANSWER_MAX);
    *ret = s;
    return CLI_OK;
}

void socket_close(struct socket *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    text_fini(&s->buffer);
    free(s);
}

static enum cli_exit wait_for(struct socket *s, short events)
{
    struct pollfd p = {.fd = s->fd, .events = events};
    int n = poll(&p, 1, ANSWER_MS);
    if (n < 0 && errno != EINTR)
        return cli_fail(CLI_UNREACHABLE, "the gateway's socket: %s", weir_strerror(-errno));
    return n == 0 ? cli_fail(CLI_UNREACHABLE, "the gateway does not answer within 10 s") : CLI_OK;
}

enum asked { ASKED_OK, ASKED_CLOSED, ASKED_FAILED /* and said why */ };

static enum asked exchange_once(struct socket *s, const char *request)
{
    size_t sent = 0, size = strlen(request);
    while (sent < size) {
        ssize_t n = send(s->fd, request + sent, size - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return ASKED_CLOSED;
        if (n > 0)
            sent += (size_t)n;
        else if (wait_for(s, POLLOUT) != CLI_OK)
            return ASKED_FAILED;
    }
    text_clear(&s->buffer);
    char chunk[65536];
    while (s->buffer.len == 0 || s->buffer.data[s->buffer.len - 1] != '\n') {
        ssize_t n = recv(s->fd, chunk, sizeof(chunk), 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return ASKED_CLOSED;
        if (n > 0)
            text_append(&s->buffer, chunk, (size_t)n);
        else if (wait_for(s, POLLIN) != CLI_OK)
            return ASKED_FAILED;
        if (s->buffer.failed) {
            cli_fail(CLI_UNREACHABLE, "the gateway's answer is larger than 16 MiB");
            return ASKED_FAILED;
        }
    }
    return ASKED_OK;
}

static enum cli_exit exchange(struct socket *s, const char *request)
{
    enum asked asked = exchange_once(s, request);
    if (asked == ASKED_CLOSED) {
        close(s->fd);
        s->fd = -1;
        enum cli_exit r = connect_to(s->path, &s->fd);
        if (r != CLI_OK)
            return r;
        asked = exchange_once(s, request);
    }
    if (asked == ASKED_CLOSED)
        return cli_fail(CLI_UNREACHABLE, "the gateway closed its socket");
    return asked == ASKED_OK ? CLI_OK : CLI_UNREACHABLE;
}

enum cli_exit socket_ask(struct socket *s, const char *request, const char *name, json_t **ret)
{
    enum cli_exit r = exchange(s, request);
    if (r != CLI_OK)
        return r;
    json_error_t error;
    json_t *answer = json_loadb(s->buffer.data, s->buffer.len, 0, &error);
    json_t *member = json_object_get(answer, name);
    const char *fault = json_string_value(json_object_get(answer, "error"));
    if (member)
        *ret = json_incref(member);
    else
        r = cli_fail(CLI_REFUSED, "the gateway: %s", fault ? fault : "no JSON that is known");
    json_decref(answer);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: whatever is sent to a gateway's local socket, the gateway lives and each whole line has at
 * most one answer, which is one line of JSON.
 * Method: a real local socket with its reactor and streams in this process; the input is what one
 * client sends, cut where its first byte says, before it reads. */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../unit/folder.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/text.h"
#include "gateway/local.h"

#define ANSWERS_MAX (16u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct stage {
    struct reactor *reactor;
    struct gateway_config config;
    struct stream_table *streams;
    struct relay *relay;
    struct local *local;
};

static struct stage *stage_new(void)
{
    struct stage *s = calloc(1, sizeof(*s));
    char folder[80];
    const char *where;
    weir_assert(s != NULL);
    log_init("fuzz", LOG_LEVEL_ERROR);
    weir_assert(folder_make(folder, sizeof(folder), "fuzz-local"));
    gateway_config_init(&s->config);
    s->config.max_streams = 4;
    snprintf(s->config.socket_path, sizeof(s->config.socket_path), "%s/s", folder);
    s->config.target_count = 1;
    snprintf(s->config.targets[0].name, sizeof(s->config.targets[0].name), "t");
    s->reactor = reactor_new(64, 64);
    weir_assert(s->reactor != NULL);
    s->streams = stream_table_new(&s->config, reactor_now_fresh(s->reactor));
    weir_assert(s->streams != NULL);
    weir_assert(relay_new(s->reactor, &s->config, s->streams, &s->relay, &where) == 0);
    weir_assert(stream_connect(s->streams, &s->config.targets[0], "a-host", "a-volume", "", 4096,
                               reactor_now(s->reactor)) != NULL);
    weir_assert(local_new(s->reactor, &s->config, s->streams, s->relay, NULL, -1, &s->local) == 0);
    return s;
}

static void answers(const struct text *out, size_t lines)
{
    size_t found = 0;
    for (const char *p = out->data, *end; p && (end = strchr(p, '\n')); p = end + 1, found++) {
        json_t *o = json_loadb(p, (size_t)(end - p), 0, NULL);
        weir_assert(json_is_object(o));
        json_decref(o);
    }
    /* One more for a line that is too long to be read to its end. */
    weir_assert(found <= lines + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct stage *s;
    if (size < 1)
        return 0;
    if (!s)
        s = stage_new();
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    memcpy(at.sun_path, s->config.socket_path, strnlen(s->config.socket_path, 107));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    weir_assert(connect(fd, (const void *)&at, sizeof(at)) == 0);
    struct text out;
    size_t piece = data[0] ? data[0] : size, lines = 0;
    text_init(&out, ANSWERS_MAX);
    for (size_t i = 1; i < size; i++)
        lines += data[i] == '\n';
    for (size_t i = 1; i < size; i += piece) {
        size_t n = piece < size - i ? piece : size - i;
        (void)!send(fd, data + i, n, MSG_NOSIGNAL);
        weir_assert(reactor_round(s->reactor, 0) == 0);
    }
    (void)shutdown(fd, SHUT_WR);
    char buffer[65536];
    for (int i = 0; i < 1000; i++) {
        weir_assert(reactor_round(s->reactor, 0) == 0);
        ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
        if (n == 0)
            break;
        if (n > 0)
            text_append(&out, buffer, (size_t)n);
    }
    weir_assert(!out.failed);
    answers(&out, lines);
    text_fini(&out);
    close(fd);
    for (int i = 0; i < 3; i++)
        weir_assert(reactor_round(s->reactor, 0) == 0);
    return 0;
}

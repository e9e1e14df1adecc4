/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: no host and no target, whatever they say and in whatever order, brings the data path down,
 * and none leaves a request, a connection or memory behind.
 * Method: a real relay with its reactor, listeners, gate and streams in this process; the input is
 * a play for two: pieces of bytes that the host or the target sends, and what else they may do
 * (stop reading, close their half), step by step, with rounds of the reactor in between. Both then
 * close, and the books must balance. For libFuzzer and, persistent, for AFL++. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../unit/folder.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "gateway/relay.h"

#define LISTENERS 2 /* any export; two volumes with limits */
#define ROUNDS_MAX 10000
#define LONG_HOLD (600 * NS_PER_S)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum act {
    HOST_SENDS,
    HOST_SENDS_TOO,
    TARGET_SENDS,
    TARGET_SENDS_TOO,
    HELD_GO,
    HOST_ENDS,
    TARGET_ENDS,
    READING, /* by the length: who reads and who does not */
};

struct play {
    struct reactor *reactor;
    struct gateway_config config;
    struct stream_table *streams;
    struct relay *relay;
    struct sockaddr_un at[LISTENERS], target_at;
    int target_listener;
    int host, target; /* -1: not there */
    bool host_reads, target_reads;
};

static void path_of(struct sockaddr_un *a, const char *folder, const char *name)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(a->sun_path, sizeof(a->sun_path), "%s/%s", folder, name);
    weir_assert(n > 0 && (size_t)n < sizeof(a->sun_path));
}

static void configure(struct play *p)
{
    char text[2048], path[64];
    struct text errors;
    int n = snprintf(text, sizeof(text),
                     "[gateway]\nmax-hold = 600s\nhold-memory = 2MiB\nmax-streams = 16\n"
                     "handshake-timeout = 600s\n"
                     "[listener any]\naddress = unix:%s\ntarget = any\n"
                     "[listener two]\naddress = unix:%s\ntarget = two\n"
                     "[target any]\nuri = nbd+unix:///main?socket=%s\n"
                     "[target two]\nuri = nbd+unix:///?socket=%s\n"
                     "[volume alpha]\ntarget = two\nexport = lun-1\n"
                     "[volume beta]\ntarget = two\nexport = lun-2\n"
                     "[limit one]\nvolume = alpha\niops-write = 1\niops-read = 1\n"
                     "[limit held]\nvolume = held*\nbandwidth-write = 1KiB/s\n",
                     p->at[0].sun_path, p->at[1].sun_path, p->target_at.sun_path,
                     p->target_at.sun_path);
    weir_assert(n > 0 && (size_t)n < sizeof(text));
    int fd = memfd_create("relay.conf", MFD_CLOEXEC);
    weir_assert(write(fd, text, (size_t)n) == n);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    text_init(&errors, 65536);
    gateway_config_init(&p->config);
    int r = gateway_config_load(&p->config, path, &errors);
    if (r == 0)
        r = gateway_config_check(&p->config, &errors);
    if (r != 0)
        fputs(errors.data, stderr);
    weir_assert(r == 0);
    text_fini(&errors);
    close(fd);
}

static struct play *play_new(void)
{
    struct play *p = calloc(1, sizeof(*p));
    char folder[80];
    const char *where = "";
    weir_assert(p != NULL);
    log_init("fuzz", LOG_LEVEL_ERROR);
    weir_assert(folder_make(folder, sizeof(folder), "fuzz-relay"));
    path_of(&p->at[0], folder, "any");
    path_of(&p->at[1], folder, "two");
    path_of(&p->target_at, folder, "target");
    configure(p);
    p->target_listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    weir_assert(bind(p->target_listener, (void *)&p->target_at, sizeof(p->target_at)) == 0);
    weir_assert(listen(p->target_listener, 8) == 0);
    p->reactor = reactor_new(64, 64);
    weir_assert(p->reactor != NULL);
    p->streams = stream_table_new(&p->config, reactor_now_fresh(p->reactor));
    weir_assert(p->streams != NULL);
    weir_assert(relay_new(p->reactor, &p->config, p->streams, &p->relay, &where) == 0);
    return p;
}

static void rounds(struct play *p, int n)
{
    for (int i = 0; i < n; i++)
        weir_assert(reactor_round(p->reactor, 0) == 0);
}

static void take_in(int fd)
{
    char buffer[65536];
    while (fd >= 0 && recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
        ;
}

/* Let the relay work, and the peers read what it has for them. */
static void go_on(struct play *p)
{
    rounds(p, 2);
    if (p->target < 0) {
        p->target = accept4(p->target_listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        rounds(p, 1);
    }
    if (p->host_reads)
        take_in(p->host);
    if (p->target_reads)
        take_in(p->target);
    rounds(p, 1);
}

static void say(int fd, const uint8_t *bytes, size_t n)
{
    /* What does not go at once is lost: a peer may send what it likes. */
    if (fd >= 0)
        (void)!send(fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void shut(int fd)
{
    if (fd >= 0)
        (void)shutdown(fd, SHUT_WR);
}

/* One act; returns how many bytes of its piece it took. */
static size_t act(struct play *p, uint8_t what, const uint8_t *piece, size_t n)
{
    switch ((enum act)(what & 7)) {
    case HOST_SENDS:
    case HOST_SENDS_TOO:
        say(p->host, piece, n);
        return n;
    case TARGET_SENDS:
    case TARGET_SENDS_TOO:
        say(p->target, piece, n);
        return n;
    case HELD_GO:
        gate_set_max_hold(stream_gate(p->streams), 1);
        relay_kick(p->relay);
        rounds(p, 2);
        gate_set_max_hold(stream_gate(p->streams), LONG_HOLD);
        return 0;
    case HOST_ENDS:
        shut(p->host);
        return 0;
    case TARGET_ENDS:
        shut(p->target);
        return 0;
    case READING:
        p->host_reads = (what & 8) == 0;
        p->target_reads = (what & 16) == 0;
        return 0;
    }
    return 0;
}

static void books_balance(struct play *p)
{
    const struct relay_counts *c = relay_counts(p->relay);
    uint64_t closed = 0;
    for (int i = 0; i < RELAY_CLOSE_COUNT; i++)
        closed += c->closed[i];
    weir_assert(c->accepted == closed);
    weir_assert(relay_hold_memory(p->relay) == 0);
    for (uint32_t t = 0; t < LISTENERS; t++) {
        const struct target_stats *s = stream_target_stats(p->streams, t);
        weir_assert(s->inflight == 0);
        weir_assert(s->connections == 0);
    }
    for (size_t i = 0; i < stream_slots(p->streams); i++) {
        const struct stream *s = stream_at(p->streams, i);
        if (!s)
            continue;
        weir_assert(s->connections == 0);
        weir_assert(s->flow.queue[0].length == 0);
        weir_assert(s->flow.queue[1].length == 0);
        for (int op = 0; op < IO_OP_COUNT; op++)
            weir_assert(meter_inflight(s->meter, (enum io_op)op) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct play *p;
    if (size < 4)
        return 0;
    if (!p)
        p = play_new();
    const struct sockaddr_un *at = &p->at[data[0] & 1];
    p->host = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    p->target = -1;
    p->host_reads = p->target_reads = true;
    weir_assert(connect(p->host, (const void *)at, sizeof(*at)) == 0);
    go_on(p);
    for (size_t i = 1; i + 3 <= size;) {
        size_t n = (size_t)data[i + 1] | (size_t)data[i + 2] << 8, left = size - i - 3;
        i += 3 + act(p, data[i], data + i + 3, n < left ? n : left);
        go_on(p);
    }
    close(p->host);
    if (p->target >= 0)
        close(p->target);
    for (int i = 0; relay_counts(p->relay)->active > 0; i++) {
        weir_assert(i < ROUNDS_MAX);
        rounds(p, 1);
        int late = accept4(p->target_listener, NULL, NULL, SOCK_CLOEXEC);
        if (late >= 0)
            close(late);
    }
    books_balance(p);
    return 0;
}

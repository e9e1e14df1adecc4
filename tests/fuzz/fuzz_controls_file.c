/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the file of agreed controls in a gateway's state folder, whatever is in it, is taken whole
 * or set aside; the gateway goes on.
 * Method: the input is put behind a head with the right hash (or, with a first byte of 0, is the
 * whole file), so that the frames in it are reached. A gateway reads GATEWAY_INPUTS such files one
 * after the other, since its two threads and 32 MiB take most of the time; its controls are taken
 * away in between, but for the last, with which it is freed. */
#include <fcntl.h>
#include <sodium.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../unit/folder.h"
#include "base/addr.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/reactor.h"
#include "gateway/link.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"
#include "gateway/relay.h"
#include "gateway/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAGIC      "WEIRCTL1" /* as link_controls.c has it */
#define MAGIC_SIZE 8u
#define HASH_SIZE  32u

static void put(const char *path, const uint8_t *data, size_t size, bool bare)
{
    uint8_t hash[HASH_SIZE];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    weir_assert(fd >= 0);
    if (!bare) {
        weir_assert(crypto_generichash(hash, sizeof(hash), data, size, NULL, 0) == 0);
        weir_assert(write(fd, MAGIC, MAGIC_SIZE) == (ssize_t)MAGIC_SIZE);
        weir_assert(write(fd, hash, sizeof(hash)) == (ssize_t)sizeof(hash));
    }
    weir_assert(size == 0 || write(fd, data, size) == (ssize_t)size);
    close(fd);
}

static void config_make(struct gateway_config *c, const char *folder)
{
    const char *expected;
    char text[192];
    gateway_config_init(c);
    snprintf(c->name, sizeof(c->name), "gw1");
    snprintf(c->state_dir, sizeof(c->state_dir), "%s", folder);
    snprintf(c->key_file, sizeof(c->key_file), "%s/gateway.key", folder);
    snprintf(text, sizeof(text), "unix:%s/nobody.sock", folder);
    weir_assert(addr_parse(text, 0, &c->servers[0], &expected) == 0);
    c->server_count = 1;
    c->max_streams = 8;
    c->target_count = 1;
    snprintf(c->targets[0].name, sizeof(c->targets[0].name), "array1");
    snprintf(c->targets[0].uri, sizeof(c->targets[0].uri), "nbd://127.0.0.1:10809");
}

#define GATEWAY_INPUTS 1000u

struct gateway {
    char folder[128], path[160];
    struct gateway_config config;
    struct reactor *reactor;
    struct stream_table *streams;
    struct relay *relay;
    struct link *link;
    unsigned inputs;
};

static void gateway_make(struct gateway *g)
{
    const char *why = "";
    g->inputs = 0;
    g->reactor = reactor_new(64, 64);
    weir_assert(g->reactor != NULL);
    g->streams = stream_table_new(&g->config, reactor_now(g->reactor));
    weir_assert(g->streams != NULL);
    weir_assert(relay_new(g->reactor, &g->config, g->streams, &g->relay, &why) == 0);
    weir_assert(link_new(g->reactor, &g->config, g->streams, g->relay, &g->link, &why) == 0);
}

static void gateway_free(struct gateway *g)
{
    link_free(g->link);
    relay_free(g->relay);
    stream_table_free(g->streams);
    reactor_free(g->reactor);
    g->reactor = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct gateway *g;
    if (size < 1)
        return 0;
    if (g == NULL) {
        log_init("fuzz", LOG_LEVEL_ERROR);
        weir_assert(sodium_init() >= 0);
        g = calloc(1, sizeof(*g));
        weir_assert(g != NULL);
        weir_assert(folder_make(g->folder, sizeof(g->folder), "fuzz-controls"));
        snprintf(g->path, sizeof(g->path), "%s/controls", g->folder);
        config_make(&g->config, g->folder);
    }
    if (g->reactor == NULL)
        gateway_make(g);
    put(g->path, data + 1, size - 1, data[0] == 0);
    link_controls_load(g->link->controls);
    (void)unlink(g->path);
    if (++g->inputs == GATEWAY_INPUTS)
        gateway_free(g);
    else
        weir_assert(stream_controls_apply(g->streams, NULL, 0, true, reactor_now(g->reactor)) == 0);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a damaged file in a gateway's state folder costs the file and nothing else.
 * Method: the first byte says which file the rest is: the identity, a credential, the server's
 * local key, or a token; 0xdd, which draining is in force. What is loaded must hold to its form. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../unit/folder.h"
#include "base/assert.h"
#include "gateway/link_identity.h"
#include "gateway/link_parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"identity", "credential", "gateway.key"};

static void put(const char *folder, const char *name, const uint8_t *bytes, size_t n)
{
    char path[192];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    weir_assert(fd >= 0);
    weir_assert(write(fd, bytes, n) == (ssize_t)n);
    close(fd);
}

static void drop(const char *folder, const char *name)
{
    char path[192];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    (void)unlink(path);
}

static void drain(const uint8_t *data, size_t size)
{
    char text[64];
    size_t n = size < sizeof(text) - 1 ? size : sizeof(text) - 1;
    uint64_t since = 0;
    memcpy(text, data, n);
    text[n] = '\0';
    int r = link_drain_parse(text, &since);
    weir_assert(r == 0 || since == 0);
    weir_assert(since < UINT64_C(1000000000000000000));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char folder[128];
    static struct gateway_config *config;
    const char *why = NULL;
    if (size < 1)
        return 0;
    if (!config) {
        weir_assert(folder_make(folder, sizeof(folder), "fuzz-link"));
        config = calloc(1, sizeof(*config));
        weir_assert(config != NULL);
        gateway_config_init(config);
        snprintf(config->state_dir, sizeof(config->state_dir), "%s", folder);
        snprintf(config->key_file, sizeof(config->key_file), "%s/gateway.key", folder);
    }
    if (data[0] == 0xdd) {
        drain(data + 1, size - 1);
        return 0;
    }
    size_t which = data[0] % 4;
    config->token[0] = '\0';
    if (which < 3) {
        put(folder, names[which], data + 1, size - 1);
    } else {
        size_t n = size - 1 < sizeof(config->token) - 1 ? size - 1 : sizeof(config->token) - 1;
        memcpy(config->token, data + 1, n);
        config->token[n] = '\0';
    }
    uint8_t id[AUTH_ID_SIZE];
    struct link_key key;
    if (which == 0) {
        int r = link_identity_load(folder, id, &why);
        weir_assert(r == 0 || (why && *why));
    } else {
        int r = link_key_load(config, &key, &why);
        weir_assert(r == 0 || (why && *why));
        weir_assert(r != 0 || memchr(key.id, '\0', sizeof(key.id)));
    }
    if (which < 3)
        drop(folder, names[which]);
    return 0;
}

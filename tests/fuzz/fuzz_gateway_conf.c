/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: no gateway.conf crashes the reader, and one that is accepted holds to its bounds.
 * Method: the input is the file. Host names are not resolved: only numbers are addresses here. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "gateway/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_accepted(const struct gateway_config *c)
{
    weir_assert(c->listener_count <= CONFIG_MAX_LISTENERS && c->listener_count > 0);
    weir_assert(c->target_count <= CONFIG_MAX_TARGETS);
    weir_assert(c->volume_count <= CONFIG_MAX_VOLUMES);
    weir_assert(c->limit_count <= CONFIG_MAX_LIMITS);
    weir_assert(c->server_count <= CONFIG_MAX_SERVERS);
    weir_assert(name_is_plain(c->name));
    weir_assert(c->max_streams >= 1 && c->max_hold_ns > 0);
    size_t volumes = 0;
    for (size_t i = 0; i < c->target_count; i++) {
        weir_assert(name_is_plain(c->targets[i].name));
        volumes += c->targets[i].volume_count;
    }
    weir_assert(volumes == c->volume_count);
    for (size_t i = 0; i < c->limit_count; i++) {
        uint64_t any = 0;
        for (int k = 0; k < GATE_KIND_COUNT; k++)
            any |= c->limits[i].limits.rate[k].rate;
        weir_assert(any != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("gateway.conf", MFD_CLOEXEC);
    weir_assert(fd >= 0);
    weir_assert(write(fd, data, size) == (ssize_t)size);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    struct gateway_config *c = calloc(1, sizeof(*c));
    struct text errors;
    weir_assert(c != NULL);
    text_init(&errors, 1024 * 1024);
    gateway_config_init(c);
    int r = gateway_config_load(c, path, &errors);
    weir_assert((r != 0) == (errors.len > 0));
    if (r == 0 && gateway_config_check(c, &errors) == 0)
        check_accepted(c);
    gateway_config_fini(c);
    free(c);
    text_fini(&errors);
    close(fd);
    return 0;
}

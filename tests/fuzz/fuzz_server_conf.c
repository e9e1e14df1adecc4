/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: no server.conf crashes the reader, and whatever is refused is refused with words.
 * Method: the input is the file. Host names are not resolved: only numbers are addresses here. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/text.h"
#include "server/threads.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct text errors;
    int fd = memfd_create("server.conf", MFD_CLOEXEC);
    weir_assert(fd >= 0);
    weir_assert(write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    struct server_config *c = calloc(1, sizeof(*c));
    weir_assert(c != NULL);
    text_init(&errors, 1024 * 1024);
    server_config_init(c);
    int r = server_config_load(c, path, &errors);
    weir_assert((r != 0) == (errors.len > 0));
    if (r == 0) {
        r = server_config_check(c, &errors);
        weir_assert((r != 0) == (errors.len > 0));
    }
    free(c);
    text_fini(&errors);
    close(fd);
    return 0;
}

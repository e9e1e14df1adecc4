/* SPDX-License-Identifier: Apache-2.0 */
/* A host's side of transmission: the first byte's lowest bit chooses the form, then requests with
 * their payloads follow. Whatever is parsed must build to the very bytes it came from. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "proto/nbd/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool extended;

    if (size < 1)
        return 0;
    extended = (data[0] & 1) != 0;
    data++;
    size--;
    while (size > 0) {
        struct nbd_request r, changed;
        uint8_t built[NBD_REQUEST_EXT_SIZE];
        uint64_t payload;
        int n = nbd_request_parse(data, size, extended, &r);

        weir_assert(n == 0 || n == WEIR_E_PROTO || n == (extended ? 32 : 28));
        if (n <= 0)
            return 0;
        weir_assert(nbd_request_build(built, &r, extended) == (size_t)n);
        weir_assert(memcmp(built, data, (size_t)n) == 0);
        nbd_request_set_cookie(built, ~r.cookie);
        weir_assert(nbd_request_parse(built, (size_t)n, extended, &changed) == n);
        weir_assert(changed.cookie == ~r.cookie && changed.length == r.length);
        data += n;
        size -= (size_t)n;
        payload = nbd_request_payload(&r, extended);
        weir_assert(payload == 0 || payload == r.length);
        if (payload > size)
            return 0;
        data += payload;
        size -= (size_t)payload;
    }
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A target's side of transmission: the first byte chooses the mode, then replies with their
 * payloads follow. Whatever is parsed is of a form that the mode allows, and builds to the very
 * bytes it came from. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "proto/nbd/reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_form(const struct nbd_reply *r, enum nbd_reply_mode mode)
{
    switch (r->form) {
    case NBD_FORM_SIMPLE:
        weir_assert(mode != NBD_MODE_EXTENDED);
        weir_assert(r->done && r->length == 0);
        weir_assert(r->is_error == (r->error != 0));
        break;
    case NBD_FORM_STRUCTURED:
        weir_assert(mode == NBD_MODE_STRUCTURED);
        break;
    case NBD_FORM_EXTENDED:
        weir_assert(mode == NBD_MODE_EXTENDED);
        break;
    }
    weir_assert(r->length <= UINT32_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum nbd_reply_mode mode;

    if (size < 1)
        return 0;
    mode = (enum nbd_reply_mode)(data[0] % 3);
    data++;
    size--;
    while (size > 0) {
        struct nbd_reply r;
        uint8_t built[NBD_REPLY_MAX_SIZE];
        int n = nbd_reply_parse(data, size, mode, &r);

        weir_assert(n == 0 || n == WEIR_E_PROTO || n == 16 || n == 20 || n == 32);
        if (n <= 0)
            return 0;
        check_form(&r, mode);
        weir_assert(nbd_reply_build(built, &r) == (size_t)n);
        weir_assert(memcmp(built, data, (size_t)n) == 0);
        data += n;
        size -= (size_t)n;
        if (r.length > size)
            return 0;
        if (r.form != NBD_FORM_SIMPLE && r.is_error)
            (void)nbd_reply_chunk_error(data);
        data += r.length;
        size -= (size_t)r.length;
    }
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "server/monitor/nap.h"

#include <stdbool.h>

#include "base/assert.h"

_Static_assert(NAP_LEAST > 0 && NAP_LEAST <= NAP_MESSAGES, "a nap is for some");

void nap_init(struct nap *n, uint64_t now_ns)
{
    *n = (struct nap){.from_ns = now_ns};
}

uint64_t nap_next(struct nap *n, uint64_t messages, uint64_t now_ns)
{
    weir_assert(now_ns >= n->from_ns);
    uint64_t took = now_ns - n->from_ns;
    n->messages += messages;
    bool full = messages >= NAP_MESSAGES;
    if (took < NAP_LOOK_NS)
        return full ? 0 : n->ns;
    uint64_t each = n->messages > 0 ? took / n->messages : NAP_MAX_NS;
    n->ns = each > NAP_MAX_NS / NAP_LEAST ? 0 : each * NAP_MESSAGES;
    if (n->ns > NAP_MAX_NS)
        n->ns = NAP_MAX_NS;
    n->from_ns = now_ns;
    n->messages = 0;
    return full ? 0 : n->ns;
}

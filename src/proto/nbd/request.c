/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: a gateway between host and target must know where each request ends, and may change
 * nothing in it but its cookie.
 *
 * Model ("Request message" of the NBD protocol document, and the same section of its extension
 * "EXTENDED_HEADERS"). Both forms share their first 24 bytes and differ in the width of the length:
 *
 *     0     4      6     8        16       24
 *     magic flags  type  cookie   offset   length (4 bytes compact, 8 extended)
 *
 * Invariants:
 *  1. The form is fixed by negotiation; the other form's magic is an error, never a hint.
 *  2. No length is judged here: whether 4 GiB of payload is welcome is the relay's policy, and
 *     whether a range lies inside the export is the target's.
 *  3. Types and flags nobody knows yet pass: they do not change the framing, except by
 *     PAYLOAD_LEN, which exists in the extended form alone.
 *  4. WRITE carries a payload in both forms. In the extended form it must also say PAYLOAD_LEN, but
 *     a server reads the data of a WRITE that forgot to say so (QEMU: "The client is
 *     noncompliant"), and so do we, or the two would disagree about where the next request begins.
 *
 * Reading is inline, in the header: it is done once an I/O.
 *
 * What may fail: a wrong magic, which leaves no way to find the next request. */
#include "proto/nbd/request.h"

#include "base/assert.h"
#include "proto/nbd/wire.h"

_Static_assert(NBD_REQUEST_AT_LENGTH + sizeof(uint32_t) == NBD_REQUEST_SIZE, "compact header");
_Static_assert(NBD_REQUEST_AT_LENGTH + sizeof(uint64_t) == NBD_REQUEST_EXT_SIZE, "extended header");
_Static_assert(NBD_REQUEST_AT_OFFSET == NBD_REQUEST_AT_COOKIE + sizeof(uint64_t),
               "the cookie has 64 bits");

size_t nbd_request_build(uint8_t *out, const struct nbd_request *r, bool extended)
{
    weir_assert(extended || r->length <= UINT32_MAX);
    wire_put32(out + NBD_REQUEST_AT_MAGIC, extended ? NBD_REQUEST_EXT_MAGIC : NBD_REQUEST_MAGIC);
    wire_put16(out + NBD_REQUEST_AT_FLAGS, r->flags);
    wire_put16(out + NBD_REQUEST_AT_TYPE, r->type);
    wire_put64(out + NBD_REQUEST_AT_COOKIE, r->cookie);
    wire_put64(out + NBD_REQUEST_AT_OFFSET, r->offset);
    if (extended) {
        wire_put64(out + NBD_REQUEST_AT_LENGTH, r->length);
        return NBD_REQUEST_EXT_SIZE;
    }
    wire_put32(out + NBD_REQUEST_AT_LENGTH, (uint32_t)r->length);
    return NBD_REQUEST_SIZE;
}

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
 *
 * What may fail: a wrong magic, which leaves no way to find the next request. */
#include "proto/nbd/request.h"

#include "base/assert.h"
#include "base/err.h"
#include "proto/nbd/wire.h"

#define REQUEST_MAGIC     0x25609513u
#define REQUEST_EXT_MAGIC 0x21e41c71u

enum {
    AT_MAGIC = 0,
    AT_FLAGS = 4,
    AT_TYPE = 6,
    AT_COOKIE = 8,
    AT_OFFSET = 16,
    AT_LENGTH = 24,
};

_Static_assert(AT_LENGTH + sizeof(uint32_t) == NBD_REQUEST_SIZE, "compact header");
_Static_assert(AT_LENGTH + sizeof(uint64_t) == NBD_REQUEST_EXT_SIZE, "extended header");
_Static_assert(AT_OFFSET == AT_COOKIE + sizeof(uint64_t), "the cookie has 64 bits");

int nbd_request_parse(const uint8_t *p, size_t n, bool extended, struct nbd_request *ret)
{
    size_t size = extended ? NBD_REQUEST_EXT_SIZE : NBD_REQUEST_SIZE;
    uint32_t magic = extended ? REQUEST_EXT_MAGIC : REQUEST_MAGIC;

    weir_assert(ret != NULL);
    /* A wrong magic is told as soon as it is there, so that a peer that speaks something else and
     * then waits is not waited for. */
    if (n >= sizeof(uint32_t) && wire_get32(p + AT_MAGIC) != magic)
        return WEIR_E_PROTO;
    if (n < size)
        return 0;
    *ret = (struct nbd_request){
        .flags = wire_get16(p + AT_FLAGS),
        .type = wire_get16(p + AT_TYPE),
        .cookie = wire_get64(p + AT_COOKIE),
        .offset = wire_get64(p + AT_OFFSET),
        .length = extended ? wire_get64(p + AT_LENGTH) : wire_get32(p + AT_LENGTH),
    };
    return (int)size;
}

/* WRITE carries a payload in both forms. In the extended form it must also say PAYLOAD_LEN, but a
 * server reads the data of a WRITE that forgot to say so (QEMU: "The client is noncompliant"), and
 * so do we, or the two would disagree about where the next request begins. */
uint64_t nbd_request_payload(const struct nbd_request *r, bool extended)
{
    if (r->type == NBD_CMD_WRITE)
        return r->length;
    if (extended && (r->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0)
        return r->length;
    return 0;
}

size_t nbd_request_build(uint8_t *out, const struct nbd_request *r, bool extended)
{
    weir_assert(extended || r->length <= UINT32_MAX);
    wire_put32(out + AT_MAGIC, extended ? REQUEST_EXT_MAGIC : REQUEST_MAGIC);
    wire_put16(out + AT_FLAGS, r->flags);
    wire_put16(out + AT_TYPE, r->type);
    wire_put64(out + AT_COOKIE, r->cookie);
    wire_put64(out + AT_OFFSET, r->offset);
    if (extended) {
        wire_put64(out + AT_LENGTH, r->length);
        return NBD_REQUEST_EXT_SIZE;
    }
    wire_put32(out + AT_LENGTH, (uint32_t)r->length);
    return NBD_REQUEST_SIZE;
}

void nbd_request_set_cookie(uint8_t *header, uint64_t cookie)
{
    wire_put64(header + AT_COOKIE, cookie);
}

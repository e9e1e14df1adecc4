/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: both peers begin with a few fixed messages, and one of them has an ancestor with the
 * same first eight bytes.
 *
 * Model ("Oldstyle negotiation", "Newstyle negotiation" of the NBD protocol document):
 *
 *     server: NBDMAGIC IHAVEOPT flags16                 newstyle
 *     server: NBDMAGIC 0x00420281861253 size64 ...      old-style, 152 bytes, no way to say no
 *     client: flags32
 *     ... options ...
 *     server: size64 flags16 [124 zero bytes]           only after EXPORT_NAME
 *
 * Invariants:
 *  1. A wrong byte is told at the first whole magic that has it: a peer that speaks something
 *     else may never send more.
 *  2. "The server MUST drop the TCP connection if the client sets an unknown flag, or a flag
 *     that does not match something advertised by the server" ("Client flags"). One exception:
 *     many clients set FIXED_NEWSTYLE against servers that did not offer it, and it changes no
 *     byte. */
#include "proto/nbd/handshake.h"

#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "proto/nbd/wire.h"

#define INIT_PASSWD   0x4e42444d41474943u /* "NBDMAGIC" */
#define OPTS_MAGIC    0x49484156454f5054u /* "IHAVEOPT" */
#define CLISERV_MAGIC 0x00420281861253u
#define ZEROES        124u

_Static_assert(8 + 8 + 2 == NBD_GREETING_SIZE, "two magics and the handshake flags");
_Static_assert(8 + 2 == NBD_EXPORT_REPLY_SIZE, "size and transmission flags");
_Static_assert(NBD_EXPORT_REPLY_SIZE + ZEROES == NBD_EXPORT_REPLY_ZEROES_SIZE, "with padding");
_Static_assert(8 + 8 + 8 + 4 + ZEROES == NBD_OLDSTYLE_SIZE, "old-style");

int nbd_greeting_parse(const uint8_t *p, size_t n, uint16_t *ret_flags)
{
    weir_assert(ret_flags != NULL);
    if (n >= 8 && wire_get64(p) != INIT_PASSWD)
        return WEIR_E_PROTO;
    if (n >= 16 && wire_get64(p + 8) == CLISERV_MAGIC)
        return WEIR_E_VERSION;
    if (n >= 16 && wire_get64(p + 8) != OPTS_MAGIC)
        return WEIR_E_PROTO;
    if (n < NBD_GREETING_SIZE)
        return 0;
    *ret_flags = wire_get16(p + 16);
    return NBD_GREETING_SIZE;
}

size_t nbd_greeting_build(uint8_t *out, uint16_t flags)
{
    wire_put64(out, INIT_PASSWD);
    wire_put64(out + 8, OPTS_MAGIC);
    wire_put16(out + 16, flags);
    return NBD_GREETING_SIZE;
}

int nbd_client_flags_parse(const uint8_t *p, size_t n, uint16_t offered, uint32_t *ret_flags)
{
    uint32_t flags;
    uint32_t lawful = (offered & NBD_HANDSHAKE_FLAGS_KNOWN) | NBD_FLAG_FIXED_NEWSTYLE;

    weir_assert(ret_flags != NULL);
    if (n < NBD_CLIENT_FLAGS_SIZE)
        return 0;
    flags = wire_get32(p);
    if ((flags & ~lawful) != 0)
        return WEIR_E_PROTO;
    *ret_flags = flags;
    return NBD_CLIENT_FLAGS_SIZE;
}

size_t nbd_client_flags_build(uint8_t *out, uint32_t flags)
{
    wire_put32(out, flags);
    return NBD_CLIENT_FLAGS_SIZE;
}

int nbd_export_reply_parse(const uint8_t *p, size_t n, bool no_zeroes, struct nbd_export_reply *ret)
{
    size_t size = no_zeroes ? NBD_EXPORT_REPLY_SIZE : NBD_EXPORT_REPLY_ZEROES_SIZE;

    weir_assert(ret != NULL);
    if (n < size)
        return 0;
    *ret = (struct nbd_export_reply){
        .size = wire_get64(p),
        .flags = wire_get16(p + 8),
    };
    return (int)size;
}

size_t nbd_export_reply_build(uint8_t *out, const struct nbd_export_reply *r, bool no_zeroes)
{
    wire_put64(out, r->size);
    wire_put16(out + 8, r->flags);
    if (no_zeroes)
        return NBD_EXPORT_REPLY_SIZE;
    memset(out + NBD_EXPORT_REPLY_SIZE, 0, ZEROES);
    return NBD_EXPORT_REPLY_ZEROES_SIZE;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* NBD before and behind option haggling: greeting, client flags and EXPORT_NAME's reply, in and out
 * of bytes.
 *
 * Sans-I/O and stateless. Source: the NBD protocol document, "Newstyle negotiation", "Fixed
 * newstyle negotiation", "Handshake flags", "Client flags", "Transmission flags". */
#ifndef WEIR_PROTO_NBD_HANDSHAKE_H
#define WEIR_PROTO_NBD_HANDSHAKE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_GREETING_SIZE     18u
#define NBD_CLIENT_FLAGS_SIZE 4u
/* EXPORT_NAME's reply, and with the 124 zero bytes that NO_ZEROES takes away. */
#define NBD_EXPORT_REPLY_SIZE        10u
#define NBD_EXPORT_REPLY_ZEROES_SIZE 134u
/* What an old-style server sends at once; known here only to be refused. */
#define NBD_OLDSTYLE_SIZE 152u

/* Handshake flags (16 bits, server) and client flags (32 bits) agree bit for bit. */
#define NBD_FLAG_FIXED_NEWSTYLE   0x0001u
#define NBD_FLAG_NO_ZEROES        0x0002u
#define NBD_HANDSHAKE_FLAGS_KNOWN (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)

/* Transmission flags: what an export can do. */
#define NBD_FLAG_HAS_FLAGS            0x0001u
#define NBD_FLAG_READ_ONLY            0x0002u
#define NBD_FLAG_SEND_FLUSH           0x0004u
#define NBD_FLAG_SEND_FUA             0x0008u
#define NBD_FLAG_ROTATIONAL           0x0010u
#define NBD_FLAG_SEND_TRIM            0x0020u
#define NBD_FLAG_SEND_WRITE_ZEROES    0x0040u
#define NBD_FLAG_SEND_DF              0x0080u
#define NBD_FLAG_CAN_MULTI_CONN       0x0100u
#define NBD_FLAG_SEND_RESIZE          0x0200u
#define NBD_FLAG_SEND_CACHE           0x0400u
#define NBD_FLAG_SEND_FAST_ZERO       0x0800u
#define NBD_FLAG_BLOCK_STATUS_PAYLOAD 0x1000u

/* Size and transmission flags of the export entered by EXPORT_NAME. */
struct nbd_export_reply {
    uint64_t size;
    uint16_t flags;
};

/* The server's greeting at @p. Returns its size, 0 when @n is too short, WEIR_E_VERSION when an
 * old-style server speaks, WEIR_E_PROTO when it is no NBD at all. */
int nbd_greeting_parse(const uint8_t *p, size_t n, uint16_t *ret_flags);
size_t nbd_greeting_build(uint8_t *out, uint16_t flags);

/* The client's flags at @p. Returns their size, 0 when @n is too short, or WEIR_E_PROTO when a flag
 * is set that the document does not know or that @offered (the greeting's) does not offer. */
int nbd_client_flags_parse(const uint8_t *p, size_t n, uint16_t offered, uint32_t *ret_flags);
size_t nbd_client_flags_build(uint8_t *out, uint32_t flags);

/* EXPORT_NAME's reply at @p. Returns its size (10 or 134, by @no_zeroes) or 0 when @n is too short.
 * The reserved bytes are not looked at. */
int nbd_export_reply_parse(const uint8_t *p, size_t n, bool no_zeroes,
                           struct nbd_export_reply *ret);
size_t nbd_export_reply_build(uint8_t *out, const struct nbd_export_reply *r, bool no_zeroes);

#endif

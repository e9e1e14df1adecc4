/* SPDX-License-Identifier: Apache-2.0 */
/* NBD transmission, host to target: request headers, compact and extended, in and out of bytes.
 *
 * Sans-I/O and stateless. Source: the NBD protocol document ("doc/proto.md" of the
 * NetworkBlockDevice project), "Request message" and "Extended headers". All integers are
 * big-endian on the wire. */
#ifndef WEIR_PROTO_NBD_REQUEST_H
#define WEIR_PROTO_NBD_REQUEST_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/nbd/wire.h"

#define NBD_REQUEST_SIZE     28u
#define NBD_REQUEST_EXT_SIZE 32u

#define NBD_REQUEST_MAGIC     0x25609513u
#define NBD_REQUEST_EXT_MAGIC 0x21e41c71u

/* Where its parts lie. */
enum {
    NBD_REQUEST_AT_MAGIC = 0,
    NBD_REQUEST_AT_FLAGS = 4,
    NBD_REQUEST_AT_TYPE = 6,
    NBD_REQUEST_AT_COOKIE = 8,
    NBD_REQUEST_AT_OFFSET = 16,
    NBD_REQUEST_AT_LENGTH = 24,
};

enum nbd_cmd {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
    NBD_CMD_RESIZE = 8, /* an experimental extension: passed on, never charged */
};

#define NBD_CMD_FLAG_FUA         0x0001u
#define NBD_CMD_FLAG_NO_HOLE     0x0002u
#define NBD_CMD_FLAG_DF          0x0004u
#define NBD_CMD_FLAG_REQ_ONE     0x0008u
#define NBD_CMD_FLAG_FAST_ZERO   0x0010u
#define NBD_CMD_FLAG_PAYLOAD_LEN 0x0020u

struct nbd_request {
    uint16_t flags;
    uint16_t type; /* enum nbd_cmd, or a value nobody knows yet */
    uint64_t cookie;
    uint64_t offset;
    uint64_t length; /* 32 bits in the compact form */
};

/* Parse the header at @p. Returns its size (28 or 32), 0 when @n is too short, or WEIR_E_PROTO when
 * the magic is wrong. @ret is untouched unless the return is positive. */
__attribute__((always_inline)) static inline int
nbd_request_parse(const uint8_t *p, size_t n, bool extended, struct nbd_request *ret)
{
    size_t size = extended ? NBD_REQUEST_EXT_SIZE : NBD_REQUEST_SIZE;
    uint32_t magic = extended ? NBD_REQUEST_EXT_MAGIC : NBD_REQUEST_MAGIC;
    /* A wrong magic is told as soon as it is there, so that a peer that speaks something else and
     * then waits is not waited for. */
    if (n >= sizeof(uint32_t) && wire_get32(p + NBD_REQUEST_AT_MAGIC) != magic)
        return WEIR_E_PROTO;
    if (n < size)
        return 0;
    const uint8_t *length = p + NBD_REQUEST_AT_LENGTH;
    *ret = (struct nbd_request){
        .flags = wire_get16(p + NBD_REQUEST_AT_FLAGS),
        .type = wire_get16(p + NBD_REQUEST_AT_TYPE),
        .cookie = wire_get64(p + NBD_REQUEST_AT_COOKIE),
        .offset = wire_get64(p + NBD_REQUEST_AT_OFFSET),
        .length = extended ? wire_get64(length) : wire_get32(length),
    };
    return (int)size;
}

/* Bytes of payload that follow the header: WRITE in both forms, and any command with PAYLOAD_LEN in
 * the extended form. */
static inline uint64_t nbd_request_payload(const struct nbd_request *r, bool extended)
{
    bool carries = r->type == NBD_CMD_WRITE ||
                   (extended && (r->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0);
    return carries ? r->length : 0;
}

/* Write the header (28 or 32 bytes) to @out; returns its size. */
size_t nbd_request_build(uint8_t *out, const struct nbd_request *r, bool extended);

/* Overwrite the cookie of a header in place (same offset in both forms). */
static inline void nbd_request_set_cookie(uint8_t *header, uint64_t cookie)
{
    wire_put64(header + NBD_REQUEST_AT_COOKIE, cookie);
}

#endif

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

#define NBD_REQUEST_SIZE     28u
#define NBD_REQUEST_EXT_SIZE 32u

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
int nbd_request_parse(const uint8_t *p, size_t n, bool extended, struct nbd_request *ret);

/* Bytes of payload that follow the header: WRITE in both forms, and any command with PAYLOAD_LEN in
 * the extended form. */
uint64_t nbd_request_payload(const struct nbd_request *r, bool extended);

/* Write the header (28 or 32 bytes) to @out; returns its size. */
size_t nbd_request_build(uint8_t *out, const struct nbd_request *r, bool extended);

/* Overwrite the cookie of a header in place (same offset in both forms). */
void nbd_request_set_cookie(uint8_t *header, uint64_t cookie);

#endif

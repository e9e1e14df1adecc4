/* SPDX-License-Identifier: Apache-2.0 */
/* NBD transmission, target to host: simple, structured and extended reply headers, in and out of
 * bytes.
 *
 * Sans-I/O and stateless. Source: the NBD protocol document, "Simple reply message", "Structured
 * reply chunk message", "Extended reply chunk message". */
#ifndef WEIR_PROTO_NBD_REPLY_H
#define WEIR_PROTO_NBD_REPLY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/nbd/wire.h"

#define NBD_SIMPLE_REPLY_SIZE     16u
#define NBD_STRUCTURED_REPLY_SIZE 20u
#define NBD_EXTENDED_REPLY_SIZE   32u
#define NBD_REPLY_MAX_SIZE        NBD_EXTENDED_REPLY_SIZE

/* What was agreed in negotiation; decides which reply forms are lawful. */
enum nbd_reply_mode {
    NBD_MODE_SIMPLE,     /* simple replies only */
    NBD_MODE_STRUCTURED, /* structured; simple lawful for anything but a successful READ */
    NBD_MODE_EXTENDED,   /* extended only */
};

enum nbd_reply_form { NBD_FORM_SIMPLE, NBD_FORM_STRUCTURED, NBD_FORM_EXTENDED };

#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_REPLY_AT_COOKIE    8u /* in every form */

#define NBD_REPLY_FLAG_DONE 0x0001u

#define NBD_REPLY_TYPE_NONE             0u
#define NBD_REPLY_TYPE_OFFSET_DATA      1u
#define NBD_REPLY_TYPE_OFFSET_HOLE      2u
#define NBD_REPLY_TYPE_BLOCK_STATUS     5u
#define NBD_REPLY_TYPE_BLOCK_STATUS_EXT 6u
#define NBD_REPLY_TYPE_ERROR            0x8001u
#define NBD_REPLY_TYPE_ERROR_OFFSET     0x8002u

struct nbd_reply {
    enum nbd_reply_form form;
    uint16_t flags; /* structured, extended */
    uint16_t type;  /* structured, extended */
    uint32_t error; /* simple: the header's; chunks: 0, see nbd_reply_chunk_error */
    uint64_t cookie;
    uint64_t offset; /* extended: the request's offset, echoed */
    uint64_t length; /* payload that follows a chunk header. Simple: 0; a READ's data follows when
                      * error is 0, as long as the request said, which only the caller knows */
    bool done;       /* the last word on this request: simple, or FLAG_DONE */
    bool is_error;   /* simple with error, or an error chunk type (bit 15) */
};

/* Parse the header at @p. Returns its size, 0 when @n is too short, or WEIR_E_PROTO: wrong magic, a
 * form that @mode forbids, or a length that the chunk type cannot have. */
int nbd_reply_parse_any(const uint8_t *p, size_t n, enum nbd_reply_mode mode,
                        struct nbd_reply *ret);
/* The same. Inline for what comes most: a simple reply without an error. */
static inline int nbd_reply_parse(const uint8_t *p, size_t n, enum nbd_reply_mode mode,
                                  struct nbd_reply *ret)
{
    if (n < NBD_SIMPLE_REPLY_SIZE || mode == NBD_MODE_EXTENDED ||
        wire_get64(p) != (uint64_t)NBD_SIMPLE_REPLY_MAGIC << 32)
        return nbd_reply_parse_any(p, n, mode, ret);
    *ret = (struct nbd_reply){
        .form = NBD_FORM_SIMPLE,
        .cookie = wire_get64(p + NBD_REPLY_AT_COOKIE),
        .done = true,
    };
    return NBD_SIMPLE_REPLY_SIZE;
}

/* The NBD error number at the start of an error chunk's payload (at least 4 bytes). */
uint32_t nbd_reply_chunk_error(const uint8_t *payload);

size_t nbd_reply_build(uint8_t *out, const struct nbd_reply *r);

/* Overwrite the cookie of a header in place. */
static inline void nbd_reply_set_cookie(uint8_t *header, uint64_t cookie)
{
    wire_put64(header + NBD_REPLY_AT_COOKIE, cookie);
}

#endif

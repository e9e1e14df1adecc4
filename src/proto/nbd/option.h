/* SPDX-License-Identifier: Apache-2.0 */
/* NBD option haggling, both ways: option requests and option replies with their payloads, in and
 * out of bytes.
 *
 * Sans-I/O and stateless. What is parsed borrows the caller's bytes; what is built is appended to a
 * struct text. Source: the NBD protocol document, "Fixed newstyle negotiation", "Option types",
 * "Option reply types", and its extension "EXTENDED_HEADERS". */
#ifndef WEIR_PROTO_NBD_OPTION_H
#define WEIR_PROTO_NBD_OPTION_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

#define NBD_OPTION_SIZE       16u
#define NBD_OPTION_REPLY_SIZE 20u
/* "Conventions": a string MUST be no longer than this, and holds no NUL. */
#define NBD_STRING_MAX 4096u

/* One table for numbers, names and what a target may answer besides ACK and errors. */
#define NBD_OPT_TABLE(X)                                                                           \
    X(EXPORT_NAME, 1, NBD_REP_NOTHING)                                                             \
    X(ABORT, 2, NBD_REP_NOTHING)                                                                   \
    X(LIST, 3, NBD_REP_SERVER)                                                                     \
    X(STARTTLS, 5, NBD_REP_NOTHING)                                                                \
    X(INFO, 6, NBD_REP_INFO)                                                                       \
    X(GO, 7, NBD_REP_INFO)                                                                         \
    X(STRUCTURED_REPLY, 8, NBD_REP_NOTHING)                                                        \
    X(LIST_META_CONTEXT, 9, NBD_REP_META_CONTEXT)                                                  \
    X(SET_META_CONTEXT, 10, NBD_REP_META_CONTEXT)                                                  \
    X(EXTENDED_HEADERS, 11, NBD_REP_NOTHING)

enum nbd_opt {
#define X(name, number, interim) NBD_OPT_##name = number,
    NBD_OPT_TABLE(X)
#undef X
};

#define NBD_REP_NOTHING             0u
#define NBD_REP_ACK                 1u
#define NBD_REP_SERVER              2u
#define NBD_REP_INFO                3u
#define NBD_REP_META_CONTEXT        4u
#define NBD_REP_ERR_BIT             0x80000000u
#define NBD_REP_ERR_UNSUP           (NBD_REP_ERR_BIT | 1u)
#define NBD_REP_ERR_POLICY          (NBD_REP_ERR_BIT | 2u)
#define NBD_REP_ERR_INVALID         (NBD_REP_ERR_BIT | 3u)
#define NBD_REP_ERR_PLATFORM        (NBD_REP_ERR_BIT | 4u)
#define NBD_REP_ERR_TLS_REQD        (NBD_REP_ERR_BIT | 5u)
#define NBD_REP_ERR_UNKNOWN         (NBD_REP_ERR_BIT | 6u)
#define NBD_REP_ERR_SHUTDOWN        (NBD_REP_ERR_BIT | 7u)
#define NBD_REP_ERR_BLOCK_SIZE_REQD (NBD_REP_ERR_BIT | 8u)
#define NBD_REP_ERR_TOO_BIG         (NBD_REP_ERR_BIT | 9u)
#define NBD_REP_ERR_EXT_HEADER_REQD (NBD_REP_ERR_BIT | 10u)

#define NBD_INFO_EXPORT      0u
#define NBD_INFO_NAME        1u
#define NBD_INFO_DESCRIPTION 2u
#define NBD_INFO_BLOCK_SIZE  3u

/* Bytes that somebody else owns; not NUL-terminated. */
struct nbd_bytes {
    const uint8_t *data;
    size_t len;
};

/* Header of an option request; @length bytes of payload follow. */
struct nbd_option {
    uint32_t type; /* enum nbd_opt, or a value nobody knows yet */
    uint32_t length;
};

/* Header of an option reply; @length bytes of payload follow. */
struct nbd_option_reply {
    uint32_t option;
    uint32_t type; /* NBD_REP_* */
    uint32_t length;
};

/* Payload of INFO and GO. */
struct nbd_info_request {
    struct nbd_bytes name;
    uint16_t count;
    const uint8_t *infos; /* @count times 16 bits, see nbd_info_request_at */
};

/* Payload of LIST_META_CONTEXT and SET_META_CONTEXT. */
struct nbd_meta_request {
    struct nbd_bytes name;
    uint32_t count;
    struct nbd_bytes queries; /* @count times 32 bits of length and the string */
};

/* Payload of REP_SERVER. */
struct nbd_rep_server {
    struct nbd_bytes name, description;
};

/* Payload of REP_INFO. */
struct nbd_rep_info {
    uint16_t type;                                  /* NBD_INFO_* */
    uint64_t size;                                  /* EXPORT */
    uint16_t flags;                                 /* EXPORT */
    uint32_t block_min, block_preferred, block_max; /* BLOCK_SIZE */
    struct nbd_bytes text;                          /* NAME, DESCRIPTION; of others, all of it */
};

/* Payload of REP_META_CONTEXT. */
struct nbd_rep_meta {
    uint32_t id;
    struct nbd_bytes name;
};

/* "GO"; NULL for an option that nobody knows. */
const char *nbd_opt_name(uint32_t type);
bool nbd_opt_known(uint32_t type);
/* The one reply type that may come before the final reply to @type; NBD_REP_NOTHING: none. */
uint32_t nbd_opt_interim_reply(uint32_t type);
/* "ERR_UNSUP"; NULL for a reply type that nobody knows. */
const char *nbd_rep_name(uint32_t type);
static inline bool nbd_rep_is_error(uint32_t type)
{
    return (type & NBD_REP_ERR_BIT) != 0;
}
/* Lawful as a string of the protocol: short enough and without NUL. */
bool nbd_string_ok(struct nbd_bytes s);

/* Headers. Parse: the size, 0 when @n is too short, or WEIR_E_PROTO on a wrong magic. */
int nbd_option_parse(const uint8_t *p, size_t n, struct nbd_option *ret);
int nbd_option_reply_parse(const uint8_t *p, size_t n, struct nbd_option_reply *ret);
size_t nbd_option_build(uint8_t *out, const struct nbd_option *o);
size_t nbd_option_reply_build(uint8_t *out, const struct nbd_option_reply *r);

/* Payloads: @p holds the whole of it, @n bytes. 0, or WEIR_E_PROTO when the lengths inside do not
 * make up exactly @n. */
int nbd_info_request_parse(const uint8_t *p, size_t n, struct nbd_info_request *ret);
uint16_t nbd_info_request_at(const struct nbd_info_request *r, size_t i);
int nbd_meta_request_parse(const uint8_t *p, size_t n, struct nbd_meta_request *ret);
/* Walk the queries: takes one off the front of @queries. False: none left. */
bool nbd_meta_request_next(struct nbd_bytes *queries, struct nbd_bytes *ret);
int nbd_rep_server_parse(const uint8_t *p, size_t n, struct nbd_rep_server *ret);
int nbd_rep_info_parse(const uint8_t *p, size_t n, struct nbd_rep_info *ret);
int nbd_rep_meta_parse(const uint8_t *p, size_t n, struct nbd_rep_meta *ret);

/* The name at the front of an INFO, GO or meta context payload, whatever follows it (@ret_rest):
 * for those who rename and leave the judging to the target. 0 or WEIR_E_PROTO. */
int nbd_name_prefix_parse(const uint8_t *p, size_t n, struct nbd_bytes *ret_name,
                          struct nbd_bytes *ret_rest);

/* Whole messages, header and payload, appended to @out. Ready for any option and reply type. */
void nbd_option_write(struct text *out, uint32_t type, const void *payload, size_t n);
/* EXPORT_NAME carries the bare name; INFO, GO and meta context options a counted one before @rest.
 */
void nbd_option_write_named(struct text *out, uint32_t type, struct nbd_bytes name,
                            struct nbd_bytes rest);
void nbd_option_write_info(struct text *out, uint32_t type, struct nbd_bytes name,
                           const uint16_t *infos, size_t count);
void nbd_option_write_meta(struct text *out, uint32_t type, struct nbd_bytes name,
                           const struct nbd_bytes *queries, size_t count);
void nbd_reply_write(struct text *out, uint32_t option, uint32_t type, const void *payload,
                     size_t n);
void nbd_reply_write_server(struct text *out, uint32_t option, struct nbd_bytes name,
                            struct nbd_bytes description);
void nbd_reply_write_info(struct text *out, uint32_t option, const struct nbd_rep_info *info);
void nbd_reply_write_meta(struct text *out, uint32_t option, const struct nbd_rep_meta *meta);
/* ACK, or an error with words for people (may be ""). */
void nbd_reply_write_final(struct text *out, uint32_t option, uint32_t type, const char *words);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: option haggling is the only part of NBD whose messages nest counted fields inside
 * counted fields, and it is spoken with strangers.
 *
 * Model ("Fixed newstyle negotiation" of the NBD protocol document): a header with a length, then a
 * payload whose own lengths must add up to exactly that.
 *
 *     option:  IHAVEOPT              option32 length32         payload
 *     reply:   0x0003e889045565a9    option32 type32 length32  payload
 *
 * Invariants:
 *  1. A length from the wire is compared with what is left before it is used, and never added to
 *     anything first: no sum can wrap.
 *  2. Payload parsers accept a payload that is made up to its last byte and nothing else; where
 *     more is tolerated (nbd_name_prefix_parse) the name says so.
 *  3. Types nobody knows have headers like all others, so they can be skipped or passed.
 *
 * What may fail: a wrong magic, lengths that do not add up, fixed lengths that are not kept
 * ("NBD_INFO_EXPORT: length MUST be 12", "NBD_INFO_BLOCK_SIZE: length MUST be 14"). */
#include "proto/nbd/option.h"

#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "proto/nbd/wire.h"

#define OPTION_MAGIC       0x49484156454f5054u /* "IHAVEOPT" */
#define OPTION_REPLY_MAGIC 0x0003e889045565a9u
#define INFO_EXPORT_SIZE   12u
#define INFO_BLOCK_SIZE    14u

_Static_assert(8 + 4 + 4 == NBD_OPTION_SIZE, "option header");
_Static_assert(8 + 4 + 4 + 4 == NBD_OPTION_REPLY_SIZE, "option reply header");
_Static_assert(2 + 8 + 2 == INFO_EXPORT_SIZE, "information on the export");
_Static_assert(2 + 3 * 4 == INFO_BLOCK_SIZE, "information on block sizes");

#define REP_TABLE(X)                                                                               \
    X(ACK)                                                                                         \
    X(SERVER)                                                                                      \
    X(INFO)                                                                                        \
    X(META_CONTEXT)                                                                                \
    X(ERR_UNSUP)                                                                                   \
    X(ERR_POLICY)                                                                                  \
    X(ERR_INVALID)                                                                                 \
    X(ERR_PLATFORM)                                                                                \
    X(ERR_TLS_REQD)                                                                                \
    X(ERR_UNKNOWN)                                                                                 \
    X(ERR_SHUTDOWN)                                                                                \
    X(ERR_BLOCK_SIZE_REQD)                                                                         \
    X(ERR_TOO_BIG)                                                                                 \
    X(ERR_EXT_HEADER_REQD)

const char *nbd_opt_name(uint32_t type)
{
    switch (type) {
#define X(name, number, interim)                                                                   \
    case number:                                                                                   \
        return #name;
        NBD_OPT_TABLE(X)
#undef X
    default:
        return NULL;
    }
}

bool nbd_opt_known(uint32_t type)
{
    return nbd_opt_name(type) != NULL;
}

uint32_t nbd_opt_interim_reply(uint32_t type)
{
    switch (type) {
#define X(name, number, interim)                                                                   \
    case number:                                                                                   \
        return interim;
        NBD_OPT_TABLE(X)
#undef X
    default:
        return NBD_REP_NOTHING;
    }
}

const char *nbd_rep_name(uint32_t type)
{
    switch (type) {
#define X(name)                                                                                    \
    case NBD_REP_##name:                                                                           \
        return #name;
        REP_TABLE(X)
#undef X
    default:
        return NULL;
    }
}

bool nbd_string_ok(struct nbd_bytes s)
{
    return s.len <= NBD_STRING_MAX && (s.len == 0 || memchr(s.data, '\0', s.len) == NULL);
}

/* --- headers ------------------------------------------------------------------------------- */

int nbd_option_parse(const uint8_t *p, size_t n, struct nbd_option *ret)
{
    weir_assert(ret != NULL);
    if (n >= 8 && wire_get64(p) != OPTION_MAGIC)
        return WEIR_E_PROTO;
    if (n < NBD_OPTION_SIZE)
        return 0;
    *ret = (struct nbd_option){
        .type = wire_get32(p + 8),
        .length = wire_get32(p + 12),
    };
    return NBD_OPTION_SIZE;
}

int nbd_option_reply_parse(const uint8_t *p, size_t n, struct nbd_option_reply *ret)
{
    weir_assert(ret != NULL);
    if (n >= 8 && wire_get64(p) != OPTION_REPLY_MAGIC)
        return WEIR_E_PROTO;
    if (n < NBD_OPTION_REPLY_SIZE)
        return 0;
    *ret = (struct nbd_option_reply){
        .option = wire_get32(p + 8),
        .type = wire_get32(p + 12),
        .length = wire_get32(p + 16),
    };
    return NBD_OPTION_REPLY_SIZE;
}

size_t nbd_option_build(uint8_t *out, const struct nbd_option *o)
{
    wire_put64(out, OPTION_MAGIC);
    wire_put32(out + 8, o->type);
    wire_put32(out + 12, o->length);
    return NBD_OPTION_SIZE;
}

size_t nbd_option_reply_build(uint8_t *out, const struct nbd_option_reply *r)
{
    wire_put64(out, OPTION_REPLY_MAGIC);
    wire_put32(out + 8, r->option);
    wire_put32(out + 12, r->type);
    wire_put32(out + 16, r->length);
    return NBD_OPTION_REPLY_SIZE;
}

/* --- payloads, in -------------------------------------------------------------------------- */

/* Take a 32-bit length and as many bytes off the front of @from. */
static bool take_counted(struct nbd_bytes *from, struct nbd_bytes *ret)
{
    size_t len;

    if (from->len < 4)
        return false;
    len = wire_get32(from->data);
    if (len > from->len - 4)
        return false;
    *ret = (struct nbd_bytes){.data = from->data + 4, .len = len};
    from->data += 4 + len;
    from->len -= 4 + len;
    return true;
}

int nbd_name_prefix_parse(const uint8_t *p, size_t n, struct nbd_bytes *ret_name,
                          struct nbd_bytes *ret_rest)
{
    struct nbd_bytes rest = {.data = p, .len = n}, name;

    if (!take_counted(&rest, &name))
        return WEIR_E_PROTO;
    *ret_name = name;
    *ret_rest = rest;
    return 0;
}

int nbd_info_request_parse(const uint8_t *p, size_t n, struct nbd_info_request *ret)
{
    struct nbd_bytes rest = {.data = p, .len = n}, name;
    uint16_t count;

    if (!take_counted(&rest, &name) || rest.len < 2)
        return WEIR_E_PROTO;
    count = wire_get16(rest.data);
    if (rest.len - 2 != 2 * (size_t)count)
        return WEIR_E_PROTO;
    *ret = (struct nbd_info_request){.name = name, .count = count, .infos = rest.data + 2};
    return 0;
}

uint16_t nbd_info_request_at(const struct nbd_info_request *r, size_t i)
{
    weir_assert(i < r->count);
    return wire_get16(r->infos + 2 * i);
}

bool nbd_meta_request_next(struct nbd_bytes *queries, struct nbd_bytes *ret)
{
    return take_counted(queries, ret);
}

int nbd_meta_request_parse(const uint8_t *p, size_t n, struct nbd_meta_request *ret)
{
    struct nbd_bytes rest = {.data = p, .len = n}, name, walk, query;
    uint32_t count;

    if (!take_counted(&rest, &name) || rest.len < 4)
        return WEIR_E_PROTO;
    count = wire_get32(rest.data);
    rest.data += 4;
    rest.len -= 4;
    walk = rest;
    /* Each query takes at least 4 bytes, so a huge count ends with the payload. */
    for (uint32_t i = 0; i < count; i++) {
        if (!take_counted(&walk, &query))
            return WEIR_E_PROTO;
    }
    if (walk.len != 0)
        return WEIR_E_PROTO;
    *ret = (struct nbd_meta_request){.name = name, .count = count, .queries = rest};
    return 0;
}

int nbd_rep_server_parse(const uint8_t *p, size_t n, struct nbd_rep_server *ret)
{
    struct nbd_bytes rest = {.data = p, .len = n}, name;

    if (!take_counted(&rest, &name))
        return WEIR_E_PROTO;
    *ret = (struct nbd_rep_server){.name = name, .description = rest};
    return 0;
}

int nbd_rep_info_parse(const uint8_t *p, size_t n, struct nbd_rep_info *ret)
{
    struct nbd_rep_info info;

    if (n < 2)
        return WEIR_E_PROTO;
    info = (struct nbd_rep_info){
        .type = wire_get16(p),
        .text = {.data = p + 2, .len = n - 2},
    };
    if (info.type == NBD_INFO_EXPORT) {
        if (n != INFO_EXPORT_SIZE)
            return WEIR_E_PROTO;
        info.size = wire_get64(p + 2);
        info.flags = wire_get16(p + 10);
    } else if (info.type == NBD_INFO_BLOCK_SIZE) {
        if (n != INFO_BLOCK_SIZE)
            return WEIR_E_PROTO;
        info.block_min = wire_get32(p + 2);
        info.block_preferred = wire_get32(p + 6);
        info.block_max = wire_get32(p + 10);
    }
    *ret = info;
    return 0;
}

int nbd_rep_meta_parse(const uint8_t *p, size_t n, struct nbd_rep_meta *ret)
{
    if (n < 4)
        return WEIR_E_PROTO;
    *ret = (struct nbd_rep_meta){
        .id = wire_get32(p),
        .name = {.data = p + 4, .len = n - 4},
    };
    return 0;
}

/* --- messages, out ------------------------------------------------------------------------- */

static void append_header(struct text *out, uint32_t type, size_t length)
{
    uint8_t header[NBD_OPTION_SIZE];

    weir_assert(length <= UINT32_MAX);
    nbd_option_build(header, &(struct nbd_option){.type = type, .length = (uint32_t)length});
    text_append(out, header, sizeof header);
}

static void append_reply_header(struct text *out, uint32_t option, uint32_t type, size_t length)
{
    uint8_t header[NBD_OPTION_REPLY_SIZE];

    weir_assert(length <= UINT32_MAX);
    nbd_option_reply_build(header, &(struct nbd_option_reply){
                                       .option = option, .type = type, .length = (uint32_t)length});
    text_append(out, header, sizeof header);
}

static void append_bytes(struct text *out, struct nbd_bytes b)
{
    if (b.len > 0)
        text_append(out, b.data, b.len);
}

static void append16(struct text *out, uint16_t v)
{
    uint8_t b[2];

    wire_put16(b, v);
    text_append(out, b, sizeof b);
}

static void append32(struct text *out, uint32_t v)
{
    uint8_t b[4];

    wire_put32(b, v);
    text_append(out, b, sizeof b);
}

static void append64(struct text *out, uint64_t v)
{
    uint8_t b[8];

    wire_put64(b, v);
    text_append(out, b, sizeof b);
}

static void append_counted(struct text *out, struct nbd_bytes b)
{
    weir_assert(b.len <= UINT32_MAX);
    append32(out, (uint32_t)b.len);
    append_bytes(out, b);
}

void nbd_option_write(struct text *out, uint32_t type, const void *payload, size_t n)
{
    append_header(out, type, n);
    append_bytes(out, (struct nbd_bytes){.data = payload, .len = n});
}

void nbd_option_write_named(struct text *out, uint32_t type, struct nbd_bytes name,
                            struct nbd_bytes rest)
{
    if (type == NBD_OPT_EXPORT_NAME) {
        weir_assert(rest.len == 0);
        nbd_option_write(out, type, name.data, name.len);
        return;
    }
    append_header(out, type, 4 + name.len + rest.len);
    append_counted(out, name);
    append_bytes(out, rest);
}

void nbd_option_write_info(struct text *out, uint32_t type, struct nbd_bytes name,
                           const uint16_t *infos, size_t count)
{
    weir_assert(count <= UINT16_MAX);
    append_header(out, type, 4 + name.len + 2 + 2 * count);
    append_counted(out, name);
    append16(out, (uint16_t)count);
    for (size_t i = 0; i < count; i++)
        append16(out, infos[i]);
}

void nbd_option_write_meta(struct text *out, uint32_t type, struct nbd_bytes name,
                           const struct nbd_bytes *queries, size_t count)
{
    size_t length = 4 + name.len + 4;

    weir_assert(count <= UINT32_MAX);
    for (size_t i = 0; i < count; i++)
        length += 4 + queries[i].len;
    append_header(out, type, length);
    append_counted(out, name);
    append32(out, (uint32_t)count);
    for (size_t i = 0; i < count; i++)
        append_counted(out, queries[i]);
}

void nbd_reply_write(struct text *out, uint32_t option, uint32_t type, const void *payload,
                     size_t n)
{
    append_reply_header(out, option, type, n);
    append_bytes(out, (struct nbd_bytes){.data = payload, .len = n});
}

void nbd_reply_write_server(struct text *out, uint32_t option, struct nbd_bytes name,
                            struct nbd_bytes description)
{
    append_reply_header(out, option, NBD_REP_SERVER, 4 + name.len + description.len);
    append_counted(out, name);
    append_bytes(out, description);
}

void nbd_reply_write_info(struct text *out, uint32_t option, const struct nbd_rep_info *info)
{
    switch (info->type) {
    case NBD_INFO_EXPORT:
        append_reply_header(out, option, NBD_REP_INFO, INFO_EXPORT_SIZE);
        append16(out, info->type);
        append64(out, info->size);
        append16(out, info->flags);
        break;
    case NBD_INFO_BLOCK_SIZE:
        append_reply_header(out, option, NBD_REP_INFO, INFO_BLOCK_SIZE);
        append16(out, info->type);
        append32(out, info->block_min);
        append32(out, info->block_preferred);
        append32(out, info->block_max);
        break;
    default:
        append_reply_header(out, option, NBD_REP_INFO, 2 + info->text.len);
        append16(out, info->type);
        append_bytes(out, info->text);
        break;
    }
}

void nbd_reply_write_meta(struct text *out, uint32_t option, const struct nbd_rep_meta *meta)
{
    append_reply_header(out, option, NBD_REP_META_CONTEXT, 4 + meta->name.len);
    append32(out, meta->id);
    append_bytes(out, meta->name);
}

void nbd_reply_write_final(struct text *out, uint32_t option, uint32_t type, const char *words)
{
    weir_assert(type == NBD_REP_ACK || nbd_rep_is_error(type));
    weir_assert(type != NBD_REP_ACK || words[0] == '\0');
    nbd_reply_write(out, option, type, words, strlen(words));
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: a gateway must cut the target's stream into replies, whatever mixture of forms was
 * negotiated, and must stop a target whose stream can no longer be cut.
 *
 * Model ("Simple reply message", "Structured reply chunk message" and, in the extension
 * "EXTENDED_HEADERS", "Extended reply chunk message" of the NBD protocol document):
 *
 *     0     4     6     8       16
 *     magic error       cookie                      simple, 16 bytes
 *     magic flags type  cookie  length              structured, 20 bytes
 *     magic flags type  cookie  offset  length      extended, 32 bytes
 *
 * Invariants:
 *  1. The magic decides the form, and the mode decides which forms may be there. A form that was
 *     not negotiated is an error: the host would read its header at the wrong width.
 *  2. Each chunk type of "Structured reply types" has a set of lawful payload lengths, held in
 *     one table (CHUNK_TABLE). A length outside of it is an error here, before a byte of it is
 *     believed.
 *  3. A type that nobody knows passes; with bit 15 it must be long enough to be an error chunk,
 *     since every error chunk begins with an error and a message length.
 *  4. An extended payload fits in 32 bits: the document lets the reader refuse more, and nothing
 *     that exists needs more.
 *
 * What may fail: an unknown magic, a form not negotiated, an unlawful length. */
#include "proto/nbd/reply.h"

#include "base/assert.h"
#include "base/err.h"
#include "proto/nbd/wire.h"

#define SIMPLE_MAGIC     NBD_SIMPLE_REPLY_MAGIC
#define STRUCTURED_MAGIC 0x668e33efu
#define EXTENDED_MAGIC   0x6e8a278cu

enum {
    AT_MAGIC = 0,
    AT_ERROR = 4,
    AT_FLAGS = 4,
    AT_TYPE = 6,
    AT_COOKIE = NBD_REPLY_AT_COOKIE,
    AT_LENGTH = 16,
    AT_EXT_OFFSET = 16,
    AT_EXT_LENGTH = 24,
};

_Static_assert(AT_COOKIE + sizeof(uint64_t) == NBD_SIMPLE_REPLY_SIZE, "simple header");
_Static_assert(AT_LENGTH + sizeof(uint32_t) == NBD_STRUCTURED_REPLY_SIZE, "structured header");
_Static_assert(AT_EXT_LENGTH + sizeof(uint64_t) == NBD_EXTENDED_REPLY_SIZE, "extended header");

#define TYPE_ERROR_BIT 0x8000u
/* Error number (4 bytes) and message length (2 bytes): the beginning of every error chunk. */
#define ERROR_HEAD  6u
#define MESSAGE_MAX UINT16_MAX

/* Lawful payload lengths of the known types: from, to, and the step between two lawful ones. */
#define CHUNK_TABLE(X)                                                                             \
    X(NBD_REPLY_TYPE_NONE, 0, 0, 1)                                                                \
    X(NBD_REPLY_TYPE_OFFSET_DATA, 9, UINT32_MAX, 1)                                                \
    X(NBD_REPLY_TYPE_OFFSET_HOLE, 12, 12, 1)                                                       \
    X(NBD_REPLY_TYPE_BLOCK_STATUS, 12, UINT32_MAX, 8)                                              \
    X(NBD_REPLY_TYPE_BLOCK_STATUS_EXT, 24, UINT32_MAX, 16)                                         \
    X(NBD_REPLY_TYPE_ERROR, ERROR_HEAD, ERROR_HEAD + MESSAGE_MAX, 1)                               \
    X(NBD_REPLY_TYPE_ERROR_OFFSET, ERROR_HEAD + 8, ERROR_HEAD + 8 + MESSAGE_MAX, 1)

static bool length_is_lawful(uint16_t type, uint64_t length)
{
    static const struct {
        uint16_t type;
        uint64_t from, to, step;
    } known[] = {
#define X(type_, from_, to_, step_) {.type = type_, .from = from_, .to = to_, .step = step_},
        CHUNK_TABLE(X)
#undef X
    };

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].type == type)
            return length >= known[i].from && length <= known[i].to &&
                   (length - known[i].from) % known[i].step == 0;
    }
    if ((type & TYPE_ERROR_BIT) != 0 && length < ERROR_HEAD)
        return false;
    return length <= UINT32_MAX;
}

/* The form that @magic names, if @mode allows it. */
static bool form_of(uint32_t magic, enum nbd_reply_mode mode, enum nbd_reply_form *ret)
{
    switch (magic) {
    case SIMPLE_MAGIC:
        *ret = NBD_FORM_SIMPLE;
        return mode != NBD_MODE_EXTENDED;
    case STRUCTURED_MAGIC:
        *ret = NBD_FORM_STRUCTURED;
        return mode == NBD_MODE_STRUCTURED;
    case EXTENDED_MAGIC:
        *ret = NBD_FORM_EXTENDED;
        return mode == NBD_MODE_EXTENDED;
    default:
        return false;
    }
}

static size_t form_size(enum nbd_reply_form form)
{
    switch (form) {
    case NBD_FORM_SIMPLE:
        return NBD_SIMPLE_REPLY_SIZE;
    case NBD_FORM_STRUCTURED:
        return NBD_STRUCTURED_REPLY_SIZE;
    case NBD_FORM_EXTENDED:
        return NBD_EXTENDED_REPLY_SIZE;
    }
    weir_assert_failed(__FILE__, __LINE__, "form is one of enum nbd_reply_form");
}

static struct nbd_reply parse_simple(const uint8_t *p)
{
    uint32_t error = wire_get32(p + AT_ERROR);

    return (struct nbd_reply){
        .form = NBD_FORM_SIMPLE,
        .error = error,
        .cookie = wire_get64(p + AT_COOKIE),
        .done = true,
        .is_error = error != 0,
    };
}

static struct nbd_reply parse_chunk(const uint8_t *p, enum nbd_reply_form form)
{
    bool extended = form == NBD_FORM_EXTENDED;
    uint16_t flags = wire_get16(p + AT_FLAGS);
    uint16_t type = wire_get16(p + AT_TYPE);

    return (struct nbd_reply){
        .form = form,
        .flags = flags,
        .type = type,
        .cookie = wire_get64(p + AT_COOKIE),
        .offset = extended ? wire_get64(p + AT_EXT_OFFSET) : 0,
        .length = extended ? wire_get64(p + AT_EXT_LENGTH) : wire_get32(p + AT_LENGTH),
        .done = (flags & NBD_REPLY_FLAG_DONE) != 0,
        .is_error = (type & TYPE_ERROR_BIT) != 0,
    };
}

int nbd_reply_parse_any(const uint8_t *p, size_t n, enum nbd_reply_mode mode,
                        struct nbd_reply *ret)
{
    enum nbd_reply_form form;
    struct nbd_reply r;

    weir_assert(ret != NULL);
    if (n < sizeof(uint32_t))
        return 0;
    if (!form_of(wire_get32(p + AT_MAGIC), mode, &form))
        return WEIR_E_PROTO;
    if (n < form_size(form))
        return 0;
    if (form == NBD_FORM_SIMPLE) {
        *ret = parse_simple(p);
        return NBD_SIMPLE_REPLY_SIZE;
    }
    r = parse_chunk(p, form);
    if (!length_is_lawful(r.type, r.length))
        return WEIR_E_PROTO;
    *ret = r;
    return (int)form_size(form);
}

uint32_t nbd_reply_chunk_error(const uint8_t *payload)
{
    return wire_get32(payload);
}

size_t nbd_reply_build(uint8_t *out, const struct nbd_reply *r)
{
    switch (r->form) {
    case NBD_FORM_SIMPLE:
        wire_put32(out + AT_MAGIC, SIMPLE_MAGIC);
        wire_put32(out + AT_ERROR, r->error);
        break;
    case NBD_FORM_STRUCTURED:
        weir_assert(r->length <= UINT32_MAX);
        wire_put32(out + AT_MAGIC, STRUCTURED_MAGIC);
        wire_put16(out + AT_FLAGS, r->flags);
        wire_put16(out + AT_TYPE, r->type);
        wire_put32(out + AT_LENGTH, (uint32_t)r->length);
        break;
    case NBD_FORM_EXTENDED:
        wire_put32(out + AT_MAGIC, EXTENDED_MAGIC);
        wire_put16(out + AT_FLAGS, r->flags);
        wire_put16(out + AT_TYPE, r->type);
        wire_put64(out + AT_EXT_OFFSET, r->offset);
        wire_put64(out + AT_EXT_LENGTH, r->length);
        break;
    }
    wire_put64(out + AT_COOKIE, r->cookie);
    return form_size(r->form);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: a probe speaks to storage that somebody else runs, perhaps through TLS by a name and
 * keys of its own, and must neither believe it nor wait for it.
 *
 * Model: pieces of known size are gathered in a buffer of TALK_PIECE_MAX and taken one by one; what
 * a read answers is counted and thrown away as it comes.
 *
 *   GREETING -> GO ----------> OPEN -> READ -> DONE -> BYE
 *      |  \      \__ EXPORT __/ \______________________/
 *      |   \________/
 *      STARTTLS -> SECURE -> GO                    any -> FAILED
 *
 * Invariants
 *  1. Nothing is taken after SECURE until TLS stands: a byte in the clear behind the agreement is
 *     somebody else's, and fails.
 *  2. A state is left forward only; FAILED and BYE are left never. */
#include "server/resource/talk.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "proto/nbd/handshake.h"
#include "proto/nbd/reply.h"
#include "proto/nbd/request.h"

#define READ_COOKIE UINT64_C(0x77656972) /* "weir" */
#define OUT_MAX     (4 * NBD_STRING_MAX)

void talk_init(struct talk *t, const char *export, bool tls)
{
    size_t n = strlen(export);
    weir_assert(n < sizeof(t->export));
    *t = (struct talk){.state = TALK_GREETING, .tls = tls};
    memcpy(t->export, export, n + 1);
    text_init(&t->out, OUT_MAX);
}

void talk_fini(struct talk *t)
{
    text_fini(&t->out);
}

__attribute__((format(printf, 2, 3))) static void fail(struct talk *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(t->words, sizeof(t->words), format, args);
    va_end(args);
    t->state = TALK_FAILED;
}

/* ---- negotiation ---- */

static struct nbd_bytes export_name(const struct talk *t)
{
    return (struct nbd_bytes){.data = (const uint8_t *)t->export, .len = strlen(t->export)};
}

static void ask_go(struct talk *t)
{
    static const uint16_t infos[] = {NBD_INFO_BLOCK_SIZE};
    nbd_option_write_info(&t->out, NBD_OPT_GO, export_name(t), infos, 1);
    t->state = TALK_GO;
}

static void ask_export(struct talk *t)
{
    nbd_option_write_named(&t->out, NBD_OPT_EXPORT_NAME, export_name(t), (struct nbd_bytes){0});
    t->state = TALK_EXPORT;
}

static size_t take_greeting(struct talk *t)
{
    uint16_t flags = 0;
    uint8_t mine[NBD_CLIENT_FLAGS_SIZE];
    int n = nbd_greeting_parse(t->in, t->in_len, &flags);
    if (n < 0)
        fail(t, "%s", n == WEIR_E_VERSION ? "it speaks the old style of NBD only"
                                          : "what listens there does not speak NBD");
    if (n <= 0)
        return 0;
    bool fixed = (flags & NBD_FLAG_FIXED_NEWSTYLE) != 0;
    t->no_zeroes = (flags & NBD_FLAG_NO_ZEROES) != 0;
    text_append(&t->out, (const char *)mine,
                nbd_client_flags_build(mine, flags & NBD_HANDSHAKE_FLAGS_KNOWN));
    if (t->tls && !fixed) {
        fail(t, "it is too old to speak TLS");
    } else if (t->tls) {
        nbd_option_write(&t->out, NBD_OPT_STARTTLS, NULL, 0);
        t->state = TALK_STARTTLS;
    } else if (fixed) {
        ask_go(t);
    } else {
        ask_export(t);
    }
    return (size_t)n;
}

/* "ERR_UNKNOWN: words of the target". */
static void refuse(struct talk *t, const char *what, const struct nbd_option_reply *r,
                   const uint8_t *payload)
{
    const char *name = nbd_rep_name(r->type);
    char words[100];
    size_t n = r->length < sizeof(words) - 1 ? r->length : sizeof(words) - 1;
    memcpy(words, payload, n);
    words[n] = '\0';
    fail(t, "%s: %s%s%s", what, name != NULL ? name : "an error that nobody knows",
         n > 0 ? ": " : "", words);
}

static void take_tls_reply(struct talk *t, const struct nbd_option_reply *r,
                           const uint8_t *payload)
{
    if (r->type == NBD_REP_ACK && r->length == 0)
        t->state = TALK_SECURE;
    else if (nbd_rep_is_error(r->type))
        refuse(t, "it does not agree to TLS", r, payload);
    else
        fail(t, "it answers the question for TLS with something else");
}

static void take_info(struct talk *t, const uint8_t *payload, size_t n)
{
    struct nbd_rep_info i = {.type = 0};
    if (nbd_rep_info_parse(payload, n, &i) < 0 || ++t->infos > TALK_INFOS_MAX) {
        fail(t, "what it tells of the export makes no sense");
    } else if (i.type == NBD_INFO_EXPORT) {
        t->has_export = true;
        t->size = i.size;
    } else if (i.type == NBD_INFO_BLOCK_SIZE) {
        t->block_min = i.block_min;
        t->block_preferred = i.block_preferred;
        t->block_max = i.block_max;
    }
}

static void take_go_reply(struct talk *t, const struct nbd_option_reply *r, const uint8_t *payload)
{
    if (r->type == NBD_REP_INFO)
        take_info(t, payload, r->length);
    else if (r->type == NBD_REP_ACK && t->has_export)
        t->state = TALK_OPEN;
    else if (r->type == NBD_REP_ERR_UNSUP)
        ask_export(t);
    else if (r->type == NBD_REP_ERR_TLS_REQD)
        fail(t, "it demands TLS: tls-ca or tls-psk-file of its [target] in server.conf has the "
                "server use it");
    else if (nbd_rep_is_error(r->type))
        refuse(t, "it does not open the export", r, payload);
    else
        fail(t, "it answers the question for the export with something else");
}

static size_t take_option_reply(struct talk *t)
{
    struct nbd_option_reply r = {.length = 0};
    uint32_t asked = t->state == TALK_STARTTLS ? NBD_OPT_STARTTLS : NBD_OPT_GO;
    int n = nbd_option_reply_parse(t->in, t->in_len, &r);
    if (n < 0 || (n > 0 && (r.option != asked || r.length > TALK_PIECE_MAX - (size_t)n))) {
        fail(t, "its answer in negotiation makes no sense");
        return 0;
    }
    if (n == 0 || t->in_len - (size_t)n < r.length)
        return 0;
    if (t->state == TALK_STARTTLS)
        take_tls_reply(t, &r, t->in + n);
    else
        take_go_reply(t, &r, t->in + n);
    return (size_t)n + r.length;
}

static size_t take_export(struct talk *t)
{
    struct nbd_export_reply r;
    int n = nbd_export_reply_parse(t->in, t->in_len, t->no_zeroes, &r);
    if (n <= 0)
        return 0;
    t->size = r.size;
    t->state = TALK_OPEN;
    return (size_t)n;
}

/* ---- transmission ---- */

static size_t take_read_reply(struct talk *t)
{
    struct nbd_reply r;
    int n = nbd_reply_parse(t->in, t->in_len, NBD_MODE_SIMPLE, &r);
    if (n < 0 || (n > 0 && r.cookie != READ_COOKIE))
        fail(t, "its answer to a read makes no sense");
    else if (n > 0 && r.error != 0)
        fail(t, "the read failed: NBD error %u", r.error);
    return n > 0 && t->state == TALK_READ ? (size_t)n : 0;
}

/* Whether @n bytes of the read's data were all that came. */
static size_t take_data(struct talk *t, size_t n)
{
    size_t taken = n < t->read_left ? n : (size_t)t->read_left;
    t->read_left -= taken;
    if (t->read_left == 0)
        t->state = TALK_DONE;
    return taken;
}

/* One piece off the front of what is gathered. 0: it is not whole, or nothing is waited for. */
static size_t take_piece(struct talk *t)
{
    size_t n;
    switch (t->state) {
    case TALK_GREETING:
        return take_greeting(t);
    case TALK_STARTTLS:
    case TALK_GO:
        return take_option_reply(t);
    case TALK_EXPORT:
        return take_export(t);
    case TALK_READ:
        if (t->in_data)
            return take_data(t, t->in_len);
        n = take_read_reply(t);
        t->in_data = n > 0;
        return n;
    case TALK_SECURE:
        fail(t, "it says something in the clear behind its agreement to TLS");
        return 0;
    case TALK_OPEN:
    case TALK_DONE:
        fail(t, "it says something that nobody asked");
        return 0;
    case TALK_BYE:
    case TALK_FAILED:
        return t->in_len;
    }
    return 0;
}

static void take_gathered(struct talk *t)
{
    while (t->in_len > 0) {
        size_t n = take_piece(t);
        if (n == 0)
            break;
        weir_assert(n <= t->in_len);
        t->in_len -= n;
        memmove(t->in, t->in + n, t->in_len);
    }
    if (t->state == TALK_FAILED)
        t->in_len = 0;
    if (t->out.failed && t->state != TALK_FAILED)
        fail(t, "no memory to ask it");
}

void talk_take(struct talk *t, const uint8_t *bytes, size_t n)
{
    while (n > 0) {
        size_t room = sizeof(t->in) - t->in_len, part = n < room ? n : room;
        weir_assert(part > 0); /* a piece that fills it has been taken, or refused */
        memcpy(t->in + t->in_len, bytes, part);
        t->in_len += part;
        bytes += part;
        n -= part;
        take_gathered(t);
    }
}

void talk_secured(struct talk *t)
{
    weir_assert(t->state == TALK_SECURE);
    weir_assert(t->in_len == 0);
    ask_go(t);
}

void talk_read(struct talk *t, uint64_t offset, uint32_t length)
{
    uint8_t header[NBD_REQUEST_EXT_SIZE];
    weir_assert(t->state == TALK_OPEN);
    weir_assert(length > 0);
    const struct nbd_request r = {
        .type = NBD_CMD_READ, .cookie = READ_COOKIE, .offset = offset, .length = length};
    text_append(&t->out, (const char *)header, nbd_request_build(header, &r, false));
    t->read_left = length;
    t->state = TALK_READ;
}

void talk_bye(struct talk *t)
{
    uint8_t header[NBD_REQUEST_EXT_SIZE];
    weir_assert(t->state == TALK_OPEN || t->state == TALK_DONE);
    const struct nbd_request r = {.type = NBD_CMD_DISC};
    text_append(&t->out, (const char *)header, nbd_request_build(header, &r, false));
    t->state = TALK_BYE;
}

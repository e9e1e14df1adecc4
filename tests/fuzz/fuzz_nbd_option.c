/* SPDX-License-Identifier: Apache-2.0 */
/* Both sides of option haggling: the first byte chooses host (a stream of options) or target (a
 * stream of option replies). A payload that a parser accepts must build to the very bytes it came
 * from. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/text.h"
#include "proto/nbd/handshake.h"
#include "proto/nbd/option.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define QUERIES_MAX 64u
#define INFOS_MAX   64u

static void same(const struct text *built, const uint8_t *message, size_t n)
{
    weir_assert(!built->failed);
    weir_assert(built->len == n);
    weir_assert(memcmp(built->data, message, n) == 0);
}

static void inside(struct nbd_bytes b, const uint8_t *p, size_t n)
{
    weir_assert(b.len == 0 || (b.data >= p && b.data + b.len <= p + n));
    (void)nbd_string_ok(b);
}

static void try_info_request(struct text *t, uint32_t type, const uint8_t *message, size_t n)
{
    const uint8_t *p = message + NBD_OPTION_SIZE;
    struct nbd_info_request r;
    uint16_t infos[INFOS_MAX];

    if (nbd_info_request_parse(p, n - NBD_OPTION_SIZE, &r) < 0)
        return;
    inside(r.name, p, n - NBD_OPTION_SIZE);
    if (r.count > INFOS_MAX)
        return;
    for (size_t i = 0; i < r.count; i++)
        infos[i] = nbd_info_request_at(&r, i);
    nbd_option_write_info(t, type, r.name, infos, r.count);
    same(t, message, n);
}

static void try_meta_request(struct text *t, uint32_t type, const uint8_t *message, size_t n)
{
    const uint8_t *p = message + NBD_OPTION_SIZE;
    struct nbd_meta_request r;
    struct nbd_bytes queries[QUERIES_MAX];

    if (nbd_meta_request_parse(p, n - NBD_OPTION_SIZE, &r) < 0)
        return;
    inside(r.name, p, n - NBD_OPTION_SIZE);
    if (r.count > QUERIES_MAX)
        return;
    for (uint32_t i = 0; i < r.count; i++) {
        weir_assert(nbd_meta_request_next(&r.queries, &queries[i]));
        inside(queries[i], p, n - NBD_OPTION_SIZE);
    }
    weir_assert(r.queries.len == 0);
    nbd_option_write_meta(t, type, r.name, queries, r.count);
    same(t, message, n);
}

static void try_named(struct text *t, uint32_t type, const uint8_t *message, size_t n)
{
    const uint8_t *p = message + NBD_OPTION_SIZE;
    struct nbd_bytes name, rest;

    if (type == NBD_OPT_EXPORT_NAME ||
        nbd_name_prefix_parse(p, n - NBD_OPTION_SIZE, &name, &rest) < 0)
        return;
    inside(name, p, n - NBD_OPTION_SIZE);
    inside(rest, p, n - NBD_OPTION_SIZE);
    nbd_option_write_named(t, type, name, rest);
    same(t, message, n);
}

/* Returns the size of the message at @p, or 0. */
static size_t try_option(struct text *t, const uint8_t *p, size_t n)
{
    struct nbd_option o;
    int size = nbd_option_parse(p, n, &o);

    weir_assert(size == 0 || size == WEIR_E_PROTO || size == NBD_OPTION_SIZE);
    if (size <= 0 || o.length > n - (size_t)size)
        return 0;
    n = (size_t)size + o.length;
    weir_assert(nbd_opt_known(o.type) == (nbd_opt_name(o.type) != NULL));
    nbd_option_write(t, o.type, p + size, o.length);
    same(t, p, n);
    text_clear(t);
    try_info_request(t, o.type, p, n);
    text_clear(t);
    try_meta_request(t, o.type, p, n);
    text_clear(t);
    try_named(t, o.type, p, n);
    text_clear(t);
    return n;
}

static void try_payloads(struct text *t, const struct nbd_option_reply *r, const uint8_t *message,
                         size_t n)
{
    const uint8_t *p = message + NBD_OPTION_REPLY_SIZE;
    struct nbd_rep_server server;
    struct nbd_rep_info info;
    struct nbd_rep_meta meta;

    text_clear(t);
    if (r->type == NBD_REP_SERVER && nbd_rep_server_parse(p, r->length, &server) == 0) {
        inside(server.name, p, r->length);
        inside(server.description, p, r->length);
        nbd_reply_write_server(t, r->option, server.name, server.description);
        same(t, message, n);
    } else if (r->type == NBD_REP_INFO && nbd_rep_info_parse(p, r->length, &info) == 0) {
        inside(info.text, p, r->length);
        nbd_reply_write_info(t, r->option, &info);
        same(t, message, n);
    } else if (r->type == NBD_REP_META_CONTEXT && nbd_rep_meta_parse(p, r->length, &meta) == 0) {
        inside(meta.name, p, r->length);
        nbd_reply_write_meta(t, r->option, &meta);
        same(t, message, n);
    }
    text_clear(t);
}

static size_t try_reply(struct text *t, const uint8_t *p, size_t n)
{
    struct nbd_option_reply r;
    int size = nbd_option_reply_parse(p, n, &r);

    weir_assert(size == 0 || size == WEIR_E_PROTO || size == NBD_OPTION_REPLY_SIZE);
    if (size <= 0 || r.length > n - (size_t)size)
        return 0;
    n = (size_t)size + r.length;
    (void)nbd_rep_name(r.type);
    nbd_reply_write(t, r.option, r.type, p + size, r.length);
    same(t, p, n);
    try_payloads(t, &r, p, n);
    return n;
}

static size_t skip_greeting(const uint8_t *p, size_t n)
{
    uint8_t built[NBD_GREETING_SIZE];
    uint16_t flags;
    int size = nbd_greeting_parse(p, n, &flags);

    if (size <= 0)
        return 0;
    nbd_greeting_build(built, flags);
    weir_assert(memcmp(built, p, sizeof built) == 0);
    return (size_t)size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text t;
    size_t taken;
    uint32_t flags;
    bool host;

    if (size < 1)
        return 0;
    host = (data[0] & 1) == 0;
    data++;
    size--;
    text_init(&t, 1 << 24);
    taken = skip_greeting(data, size);
    if (taken == 0 && nbd_client_flags_parse(data, size, 3, &flags) > 0)
        taken = NBD_CLIENT_FLAGS_SIZE;
    do {
        data += taken;
        size -= taken;
        taken = host ? try_option(&t, data, size) : try_reply(&t, data, size);
    } while (taken > 0);
    text_fini(&t);
    return 0;
}

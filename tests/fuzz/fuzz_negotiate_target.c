/* SPDX-License-Identifier: Apache-2.0 */
/* Any target against an honest host. The first byte sets the stage, the host's list of options and
 * (bit 5) whether the target is asked for TLS, the second how the target's bytes are cut. However
 * wild the target: the host is never blamed, and hears only well-formed messages that answer what
 * it asked. */
#include "negotiate_stage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(struct stage *s, uint32_t option)
{
    static const uint16_t infos[] = {NBD_INFO_NAME, NBD_INFO_BLOCK_SIZE};
    struct nbd_bytes name = {.data = (const uint8_t *)"alpha", .len = 5};
    struct nbd_bytes query = {.data = (const uint8_t *)"base:allocation", .len = 15};

    if (option == NBD_OPT_EXPORT_NAME)
        nbd_option_write_named(&s->from_host, option, name, (struct nbd_bytes){0});
    else if (nbd_opt_interim_reply(option) == NBD_REP_INFO)
        nbd_option_write_info(&s->from_host, option, name, infos, 2);
    else if (nbd_opt_interim_reply(option) == NBD_REP_META_CONTEXT)
        nbd_option_write_meta(&s->from_host, option, name, &query, 1);
    else
        nbd_option_write(&s->from_host, option, NULL, 0);
}

/* Bits 2 to 4 of @choice: which options the host asks, in order. Returns the last. */
static uint32_t host_script(struct stage *s, uint8_t choice)
{
    static const uint32_t scripts[8][5] = {
        {NBD_OPT_GO},
        {NBD_OPT_EXPORT_NAME},
        {NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_GO},
        {NBD_OPT_STRUCTURED_REPLY, NBD_OPT_SET_META_CONTEXT, NBD_OPT_GO},
        {NBD_OPT_EXTENDED_HEADERS, NBD_OPT_LIST_META_CONTEXT, NBD_OPT_INFO, NBD_OPT_GO},
        {NBD_OPT_STARTTLS, NBD_OPT_LIST, NBD_OPT_LIST, NBD_OPT_ABORT},
        {NBD_OPT_INFO, NBD_OPT_GO, NBD_OPT_GO, NBD_OPT_EXPORT_NAME},
        {NBD_OPT_STRUCTURED_REPLY, NBD_OPT_EXTENDED_HEADERS, NBD_OPT_GO, NBD_OPT_ABORT},
    };
    const uint32_t *script = scripts[(choice >> 2) & 7];
    uint8_t flags[NBD_CLIENT_FLAGS_SIZE];
    uint32_t last = 0;

    nbd_client_flags_build(flags, NBD_FLAG_FIXED_NEWSTYLE);
    text_append(&s->from_host, flags, sizeof flags);
    for (size_t i = 0; i < 5 && script[i] != 0; i++) {
        last = script[i];
        ask(s, last);
    }
    return last;
}

static void check_reply(const struct stage *s, const struct nbd_option_reply *r, const uint8_t *p)
{
    struct nbd_rep_server server;
    struct nbd_rep_info info;
    struct nbd_rep_meta meta;

    weir_assert(nbd_opt_known(r->option));
    if (nbd_rep_is_error(r->type))
        return;
    weir_assert(r->type == NBD_REP_ACK || r->type == nbd_opt_interim_reply(r->option));
    if (r->type == NBD_REP_SERVER) {
        weir_assert(nbd_rep_server_parse(p, r->length, &server) == 0);
        weir_assert(s->target.volume_count == 0 ||
                    (server.name.len >= 4 && (memcmp(server.name.data, "alpha", 5) == 0 ||
                                              memcmp(server.name.data, "beta", 4) == 0)));
    } else if (r->type == NBD_REP_INFO) {
        weir_assert(nbd_rep_info_parse(p, r->length, &info) == 0);
        weir_assert(s->target.volume_count == 0 || info.type != NBD_INFO_NAME ||
                    (info.text.len == 5 && memcmp(info.text.data, "alpha", 5) == 0));
    } else if (r->type == NBD_REP_META_CONTEXT) {
        weir_assert(nbd_rep_meta_parse(p, r->length, &meta) == 0);
    }
}

/* All that the host heard is greeting, replies and perhaps EXPORT_NAME's reply at the end, which
 * must then have been the last that was asked. */
static void check_heard(const struct stage *s, uint32_t last)
{
    const uint8_t *p = (const uint8_t *)s->to_host.data;
    size_t n = s->to_host.len;
    uint16_t flags;
    int size;

    if (n == 0)
        return;
    size = nbd_greeting_parse(p, n, &flags);
    weir_assert(size == NBD_GREETING_SIZE);
    weir_assert((flags & ~NBD_HANDSHAKE_FLAGS_KNOWN) == 0);
    p += size;
    n -= (size_t)size;
    if (s->state == NEGOTIATE_DONE && last == NBD_OPT_EXPORT_NAME && s->from_host.len == 0) {
        weir_assert(n >= NBD_EXPORT_REPLY_ZEROES_SIZE);
        n -= NBD_EXPORT_REPLY_ZEROES_SIZE;
    }
    while (n > 0) {
        struct nbd_option_reply r;

        size = nbd_option_reply_parse(p, n, &r);
        weir_assert(size == NBD_OPTION_REPLY_SIZE && r.length <= n - (size_t)size);
        check_reply(s, &r, p + size);
        p += (size_t)size + r.length;
        n -= (size_t)size + r.length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stage *s;
    size_t piece;
    uint32_t last;

    if (size < 2)
        return 0;
    s = stage_new(data[0]);
    s->target.tls_on = (data[0] & 0x20) != 0;
    last = host_script(s, data[0]);
    piece = data[1] == 0 ? size : data[1];
    data += 2;
    size -= 2;
    while (size > 0 && s->state == NEGOTIATE_RUNNING) {
        size_t n = piece < size ? piece : size;

        text_append(&s->from_target, data, n);
        data += n;
        size -= n;
        stage_step(s);
        if (s->state == NEGOTIATE_TARGET_TLS) {
            weir_assert(s->from_target.len == 0);
            weir_assert(!negotiate_secured(s->n));
            stage_step(s);
        }
        text_clear(&s->to_target);
    }
    weir_assert(!negotiate_host_at_fault(s->n));
    check_heard(s, last);
    stage_free(s);
    return 0;
}

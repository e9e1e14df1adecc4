/* SPDX-License-Identifier: Apache-2.0 */
/* Any host against an honest target. The first byte sets the stage (bits 2 and 3: whether TLS is
 * off, allowed or required), the second how the host's bytes are cut. TLS itself is not played: its
 * bytes would go elsewhere. However wild the host: the target is never blamed, hears only options
 * of the document and never STARTTLS, and with volumes no export but theirs. */
#include "negotiate_stage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The honest target's side of one connection, and what the host has done about TLS. */
struct side {
    enum tls_mode mode;
    bool secured, greeted;
    uint32_t flags;
};

static void check_name(const struct stage *s, struct nbd_bytes name)
{
    weir_assert(nbd_string_ok(name));
    if (s->target.volume_count == 0)
        return;
    weir_assert(name.len == 5);
    weir_assert(memcmp(name.data, "lun-1", 5) == 0 || memcmp(name.data, "lun-2", 5) == 0);
}

static void check_option(const struct stage *s, const struct nbd_option *o, const uint8_t *payload)
{
    struct nbd_bytes name = {.data = payload, .len = o->length}, rest;

    weir_assert(nbd_opt_known(o->type));
    weir_assert(o->type != NBD_OPT_STARTTLS);
    if (o->type == NBD_OPT_EXPORT_NAME) {
        check_name(s, name);
    } else if (nbd_opt_interim_reply(o->type) == NBD_REP_INFO ||
               nbd_opt_interim_reply(o->type) == NBD_REP_META_CONTEXT) {
        weir_assert(nbd_name_prefix_parse(payload, o->length, &name, &rest) == 0);
        check_name(s, name);
    }
}

/* Answer as an honest target would; an odd length in the option earns an error. */
static void answer(struct stage *s, const struct nbd_option *o, bool no_zeroes)
{
    struct nbd_rep_info export = {.type = NBD_INFO_EXPORT, .size = 1 << 20, .flags = 1};
    uint8_t reply[NBD_EXPORT_REPLY_ZEROES_SIZE];

    if (o->type == NBD_OPT_ABORT)
        return;
    if (o->type == NBD_OPT_EXPORT_NAME) {
        text_append(
            &s->from_target, reply,
            nbd_export_reply_build(reply, &(struct nbd_export_reply){.size = 1}, no_zeroes));
        return;
    }
    if (nbd_opt_interim_reply(o->type) == NBD_REP_INFO)
        nbd_reply_write_info(&s->from_target, o->type, &export);
    if (o->type == NBD_OPT_LIST)
        nbd_reply_write_server(&s->from_target, o->type,
                               (struct nbd_bytes){.data = (const uint8_t *)"lun-2", .len = 5},
                               (struct nbd_bytes){0});
    nbd_reply_write_final(&s->from_target, o->type,
                          (o->length & 1) != 0 ? NBD_REP_ERR_INVALID : NBD_REP_ACK, "");
}

/* Take what the target hears, one message at most is there beside the flags. */
static void be_target(struct stage *s, struct side *side)
{
    struct nbd_option o;
    int size;

    if (!side->greeted) {
        size = nbd_client_flags_parse((const uint8_t *)s->to_target.data, s->to_target.len, 3,
                                      &side->flags);
        weir_assert(size >= 0);
        if (size == 0)
            return;
        side->greeted = true;
        text_consume(&s->to_target, (size_t)size);
    }
    size = nbd_option_parse((const uint8_t *)s->to_target.data, s->to_target.len, &o);
    weir_assert(size >= 0);
    if (size == 0)
        return;
    weir_assert(s->to_target.len == (size_t)size + o.length);
    /* Where TLS is required, a host without it reaches nothing. */
    weir_assert(side->mode != TLS_MODE_REQUIRE || side->secured || o.type == NBD_OPT_ABORT);
    check_option(s, &o, (const uint8_t *)s->to_target.data + size);
    answer(s, &o, (side->flags & NBD_FLAG_NO_ZEROES) != 0);
    text_clear(&s->to_target);
}

/* The host's TLS stands: nothing of it in the clear may be left, and a target that heard it is new.
 */
static void secure(struct stage *s, struct side *side)
{
    uint8_t greeting[NBD_GREETING_SIZE];

    weir_assert(side->mode != TLS_MODE_OFF);
    weir_assert(!side->secured);
    weir_assert(s->from_host.len == 0);
    side->secured = true;
    if (negotiate_secured(s->n)) {
        side->greeted = false;
        text_clear(&s->to_target);
        text_clear(&s->from_target);
        text_append(&s->from_target, greeting, nbd_greeting_build(greeting, 3));
    }
    stage_step(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stage *s;
    uint8_t greeting[NBD_GREETING_SIZE];
    struct side side = {0};
    size_t piece;

    if (size < 2)
        return 0;
    s = stage_new(data[0]);
    side.mode = (enum tls_mode)((data[0] >> 2 & 3) % 3);
    negotiate_offer_tls(s->n, side.mode);
    piece = data[1] == 0 ? size : data[1];
    data += 2;
    size -= 2;
    text_append(&s->from_target, greeting, nbd_greeting_build(greeting, 3));
    while (size > 0 && s->state == NEGOTIATE_RUNNING) {
        size_t n = piece < size ? piece : size;

        text_append(&s->from_host, data, n);
        data += n;
        size -= n;
        stage_step(s);
        while (s->to_target.len > 0) {
            be_target(s, &side);
            stage_step(s);
        }
        if (s->state == NEGOTIATE_HOST_TLS)
            secure(s, &side);
        while (s->to_target.len > 0) {
            be_target(s, &side);
            stage_step(s);
        }
    }
    weir_assert(s->state != NEGOTIATE_FAILED || negotiate_host_at_fault(s->n));
    stage_free(s);
    return 0;
}

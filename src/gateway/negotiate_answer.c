/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: a host must be told what the target said, and a confused or hostile target must be named
 * here, not by a host that blames the gateway.
 *
 * Model, in PHASE_ANSWER and PHASE_EXPORT_REPLY: one whole reply of the target is checked and
 * passed on, byte for byte but for names of volumes (invariants 2, 4 and 8 of negotiate.c); what
 * transmission needs to know is noted on the way. */
#include <string.h>

#include "gateway/negotiate_private.h"
#include "proto/nbd/handshake.h"

/* Bounds; negotiate.h says them to others. */
#define REPLY_PAYLOAD_MAX  (64u << 10)
#define ANSWER_REPLIES_MAX (16u << 10)
#define ANSWER_BYTES_MAX   (16u << 20)

static bool pass_reply(const struct negotiation *n, const struct wires *w, uint32_t type,
                       struct nbd_bytes payload)
{
    nbd_reply_write(w->to_host, n->pending.option, type, payload.data, payload.len);
    return true;
}

/* One export that the target lists: told under the name of each volume that it serves. */
static bool take_server(struct negotiation *n, const struct wires *w, struct nbd_bytes payload)
{
    const struct target_config *target = n->target;
    struct nbd_rep_server server;

    if (nbd_rep_server_parse(payload.data, payload.len, &server) < 0)
        return fail_target(n, "target listed an export whose name overruns the reply");
    if (target->volume_count == 0)
        return pass_reply(n, w, NBD_REP_SERVER, payload);
    if (server.description.len > NBD_STRING_MAX)
        server.description.len = 0;
    for (size_t i = 0; i < target->volume_count; i++) {
        const struct volume_config *v = target->volumes[i];

        if (n->listed[i] || !bytes_equal(server.name, bytes_of_string(v->export_name)))
            continue;
        n->listed[i] = true;
        nbd_reply_write_server(w->to_host, n->pending.option, bytes_of_string(v->name),
                               server.description);
    }
    return true;
}

static void list_the_rest(struct negotiation *n, const struct wires *w)
{
    for (size_t i = 0; i < n->target->volume_count; i++) {
        if (!n->listed[i])
            nbd_reply_write_server(w->to_host, NBD_OPT_LIST,
                                   bytes_of_string(n->target->volumes[i]->name),
                                   (struct nbd_bytes){0});
    }
}

static bool take_info(struct negotiation *n, const struct wires *w, struct nbd_bytes payload)
{
    struct negotiate_result *r = &n->result;
    struct nbd_rep_info info;

    if (nbd_rep_info_parse(payload.data, payload.len, &info) < 0)
        return fail_target(n, "target sent information of a wrong length");
    if (info.type == NBD_INFO_EXPORT)
        n->pending.has_export = true;
    if (n->pending.option == NBD_OPT_GO && info.type == NBD_INFO_EXPORT) {
        r->size = info.size;
        r->transmission_flags = info.flags;
    }
    if (n->pending.option == NBD_OPT_GO && info.type == NBD_INFO_BLOCK_SIZE) {
        r->block_min = info.block_min;
        r->block_preferred = info.block_preferred;
        r->block_max = info.block_max;
    }
    if (n->pending.volume != NULL && info.type == NBD_INFO_NAME) {
        info.text = bytes_of_string(n->pending.volume->name);
        nbd_reply_write_info(w->to_host, n->pending.option, &info);
        return true;
    }
    return pass_reply(n, w, NBD_REP_INFO, payload);
}

static bool take_meta(struct negotiation *n, const struct wires *w, struct nbd_bytes payload)
{
    struct nbd_rep_meta meta;

    if (nbd_rep_meta_parse(payload.data, payload.len, &meta) < 0)
        return fail_target(n, "target sent a metadata context without a number");
    return pass_reply(n, w, NBD_REP_META_CONTEXT, payload);
}

static bool take_ack(struct negotiation *n, const struct wires *w, struct nbd_bytes payload)
{
    struct negotiate_result *r = &n->result;
    uint32_t option = n->pending.option;

    if (payload.len > 0)
        return fail_target(n, "target sent an acknowledgement with data");
    if (option == NBD_OPT_GO && !n->pending.has_export)
        return fail_target(n, "target acknowledged GO without telling the export's size");
    if (option == NBD_OPT_LIST)
        list_the_rest(n, w);
    /* Extended headers take precedence over structured replies, in either order. */
    if (option == NBD_OPT_EXTENDED_HEADERS)
        r->mode = NBD_MODE_EXTENDED;
    if (option == NBD_OPT_STRUCTURED_REPLY && r->mode == NBD_MODE_SIMPLE)
        r->mode = NBD_MODE_STRUCTURED;
    pass_reply(n, w, NBD_REP_ACK, payload);
    phase_set(n, option == NBD_OPT_GO ? PHASE_DONE : PHASE_OPTION);
    return true;
}

static bool take_reply(struct negotiation *n, const struct wires *w, uint32_t type,
                       struct nbd_bytes payload)
{
    if (nbd_rep_is_error(type)) {
        pass_reply(n, w, type, payload);
        phase_set(n, PHASE_OPTION);
        return true;
    }
    if (type == NBD_REP_ACK)
        return take_ack(n, w, payload);
    if (type != nbd_opt_interim_reply(n->pending.option))
        return fail_target(n, "target sent a reply that the option cannot have");
    if (type == NBD_REP_SERVER)
        return take_server(n, w, payload);
    if (type == NBD_REP_INFO)
        return take_info(n, w, payload);
    /* NBD_REP_NOTHING is 0, and a target may well send a 0. */
    if (type == NBD_REP_META_CONTEXT)
        return take_meta(n, w, payload);
    return fail_target(n, "target sent a reply that the option cannot have");
}

bool step_answer(struct negotiation *n, const struct wires *w)
{
    struct nbd_option_reply r;
    struct nbd_bytes payload;
    int size = nbd_option_reply_parse(bytes_of(w->from_target), w->from_target->len, &r);

    if (size < 0)
        return fail_target(n, "target sent a bad option reply magic");
    if (size == 0)
        return false;
    if (r.option != n->pending.option)
        return fail_target(n, "target answered another option than it was asked");
    if (r.length > REPLY_PAYLOAD_MAX)
        return fail_target(n, "target sent an option reply of more than 64 KiB");
    if (n->pending.replies == ANSWER_REPLIES_MAX)
        return fail_target(n, "target sent more than 16384 replies to one option");
    if (n->pending.bytes + (size_t)size + r.length > ANSWER_BYTES_MAX)
        return fail_target(n, "target sent more than 16 MiB in answer to one option");
    if (w->from_target->len - (size_t)size < r.length)
        return false;
    n->pending.replies++;
    n->pending.bytes += (size_t)size + r.length;
    payload = (struct nbd_bytes){.data = bytes_of(w->from_target) + size, .len = r.length};
    take_reply(n, w, r.type, payload);
    text_consume(w->from_target, (size_t)size + r.length);
    return true;
}

bool step_export_reply(struct negotiation *n, const struct wires *w)
{
    bool no_zeroes = (n->client_flags & NBD_FLAG_NO_ZEROES) != 0;
    struct nbd_export_reply reply;
    int size =
        nbd_export_reply_parse(bytes_of(w->from_target), w->from_target->len, no_zeroes, &reply);

    if (size == 0)
        return false;
    n->result.size = reply.size;
    n->result.transmission_flags = reply.flags;
    text_append(w->to_host, w->from_target->data, (size_t)size);
    text_consume(w->from_target, (size_t)size);
    phase_set(n, PHASE_DONE);
    return true;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: host and target must agree as if nobody stood between them, and yet the gateway must
 * know afterwards how the stream is framed, must keep hosts to the volumes it offers, and must not
 * let either peer agree to something that it cannot read.
 *
 * Model ("Fixed newstyle negotiation" of the NBD protocol document). The gateway reads whole
 * messages of one side and writes whole messages to the other:
 *
 *     GREETING --target's greeting--> CLIENT_FLAGS --host's flags--> OPTION
 *                                                               \--> ASKING (a target with TLS)
 *     ASKING ---ACK of STARTTLS--> TARGET_TLS --secured--> OPTION
 *
 *     OPTION --STARTTLS----------> HOST_TLS ---secured--> OPTION, or GREETING of a new connection
 *     OPTION --answered here----------------------------------------> OPTION
 *     OPTION --forwarded--> ANSWER --final reply, but ACK of GO-----> OPTION
 *                           ANSWER --ACK of GO----------------------> DONE
 *     OPTION --EXPORT_NAME--> EXPORT_REPLY --size and flags---------> DONE
 *     OPTION --ABORT, or EXPORT_NAME of what cannot be had----------> ENDED
 *     any    --a broken rule, an exceeded bound---------------------> FAILED
 *
 * Invariants:
 *  1. One option at a time is under way; what a host sends early stays in its buffer.
 *  2. What the target answers is passed on byte for byte, its errors and their words included,
 *     but for names of volumes. An option is forwarded byte for byte but for the export's name.
 *  3. Only options of our own table reach the target: an acknowledged unknown one could change
 *     the framing of all that follows. A host's STARTTLS never does: the gateway could not read
 *     what comes after. It asks for its own TLS before anything of a host is passed on.
 *  4. Every reply is checked before it is passed on: it names the option under way, its type may
 *     come before that option's end, and its payload has the lengths of that type. So a confused
 *     target is named here and not by a host that blames the gateway.
 *  5. In ANSWER and EXPORT_REPLY alone may the target speak.
 *  6. What was said before TLS counts for nothing after it, since anybody may have said it (NBD
 *     protocol, NBD_OPT_STARTTLS: "the server MUST discard"; CVE-2021-3716): a byte that came in
 *     the clear behind STARTTLS or its acknowledgement ends the connection, the agreed framing
 *     falls back to simple replies, and a target that heard an option of that time is connected to
 *     anew.
 *  7. Where TLS is required, a host without it learns nothing and reaches nothing.
 *  8. Where volumes are configured no other name passes, in any option that carries one, and no
 *     name of the target's comes back in LIST or INFO.
 *
 * LIST with volumes: once the target has acknowledged, every offered volume has been listed exactly
 * once: those that the target listed in its order and with its descriptions, then the rest, since
 * many targets accept more names than they list (nbdkit lists "" alone and takes any).
 *
 * What may fail: either peer breaks the protocol, exceeds a bound, or an output is full (FAILED).
 * What a target refuses is no failure: the host hears it and may go on. */
#include "gateway/negotiate.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "proto/nbd/handshake.h"
#include "proto/nbd/option.h"

/* Bounds; negotiate.h says them to others. */
#define OPTION_PAYLOAD_MAX (64u << 10)
#define REPLY_PAYLOAD_MAX  (64u << 10)
#define OPTIONS_MAX        1024u
#define ANSWER_REPLIES_MAX (16u << 10)
#define ANSWER_BYTES_MAX   (16u << 20)

_Static_assert(sizeof((struct negotiate_result *)0)->export_name == NBD_STRING_MAX + 1,
               "the longest export name and its NUL");
_Static_assert(NBD_STRING_MAX + NBD_OPTION_SIZE < OPTION_PAYLOAD_MAX, "a name fits in an option");

#define PHASE_TABLE(X)                                                                             \
    X(GREETING)                                                                                    \
    X(CLIENT_FLAGS)                                                                                \
    X(ASKING)                                                                                      \
    X(TARGET_TLS)                                                                                  \
    X(OPTION)                                                                                      \
    X(HOST_TLS)                                                                                    \
    X(ANSWER)                                                                                      \
    X(EXPORT_REPLY)                                                                                \
    X(DONE)                                                                                        \
    X(ENDED)                                                                                       \
    X(FAILED)

enum phase {
#define X(name) PHASE_##name,
    PHASE_TABLE(X)
#undef X
};

/* The option that the target is answering. */
struct pending {
    uint32_t option;
    const struct volume_config *volume; /* whose export it names; NULL: none, or names pass */
    bool has_export;                    /* REP_INFO with NBD_INFO_EXPORT came */
    uint32_t replies;
    size_t bytes;
};

struct negotiation {
    const struct target_config *target;
    enum phase phase;
    enum tls_mode host_tls;
    bool secured;     /* the host speaks through TLS */
    bool told;        /* the target has heard an option of the host */
    bool again;       /* the greeting is of a second connection to the target */
    uint16_t offered; /* handshake flags that the host was offered */
    uint32_t client_flags;
    uint32_t options; /* that the host has sent */
    struct pending pending;
    bool *listed; /* one a volume: told in the LIST under way */
    struct negotiate_result result;
    const char *reason;
    bool host_at_fault;
};

/* The buffers of one call of negotiate_step. */
struct wires {
    struct text *from_host, *to_target, *from_target, *to_host;
};

/* --- states -------------------------------------------------------------------------------- */

static bool phase_may_follow(enum phase from, enum phase to)
{
    switch (from) {
    case PHASE_GREETING: /* the last two: of a second connection */
        return to == PHASE_CLIENT_FLAGS || to == PHASE_FAILED || to == PHASE_ASKING ||
               to == PHASE_OPTION;
    case PHASE_CLIENT_FLAGS:
        return to == PHASE_OPTION || to == PHASE_ASKING || to == PHASE_FAILED;
    case PHASE_ASKING:
        return to == PHASE_TARGET_TLS || to == PHASE_FAILED;
    case PHASE_TARGET_TLS:
        return to == PHASE_OPTION || to == PHASE_FAILED;
    case PHASE_OPTION:
        return to == PHASE_ANSWER || to == PHASE_EXPORT_REPLY || to == PHASE_HOST_TLS ||
               to == PHASE_ENDED || to == PHASE_FAILED;
    case PHASE_HOST_TLS:
        return to == PHASE_OPTION || to == PHASE_GREETING || to == PHASE_FAILED;
    case PHASE_ANSWER:
        return to == PHASE_OPTION || to == PHASE_DONE || to == PHASE_FAILED;
    case PHASE_EXPORT_REPLY:
        return to == PHASE_DONE || to == PHASE_FAILED;
    case PHASE_DONE: /* an output may be full yet */
        return to == PHASE_FAILED;
    case PHASE_ENDED:
        return to == PHASE_FAILED;
    case PHASE_FAILED:
        return false;
    }
    return false;
}

static void phase_set(struct negotiation *n, enum phase to)
{
    weir_assert(phase_may_follow(n->phase, to));
    n->phase = to;
}

/* Both return true: the phase has changed. */
static bool fail_host(struct negotiation *n, const char *reason)
{
    n->reason = reason;
    n->host_at_fault = true;
    phase_set(n, PHASE_FAILED);
    return true;
}

static bool fail_target(struct negotiation *n, const char *reason)
{
    n->reason = reason;
    n->host_at_fault = false;
    phase_set(n, PHASE_FAILED);
    return true;
}

static bool end(struct negotiation *n, const char *reason)
{
    n->reason = reason;
    phase_set(n, PHASE_ENDED);
    return true;
}

static const uint8_t *bytes_of(const struct text *t)
{
    return (const uint8_t *)t->data;
}

static struct nbd_bytes bytes_of_string(const char *s)
{
    return (struct nbd_bytes){.data = (const uint8_t *)s, .len = strlen(s)};
}

static bool bytes_equal(struct nbd_bytes a, struct nbd_bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* --- before the options -------------------------------------------------------------------- */

static bool tell_flags(struct negotiation *n, const struct wires *w)
{
    uint8_t flags[NBD_CLIENT_FLAGS_SIZE];

    text_append(w->to_target, flags, nbd_client_flags_build(flags, n->client_flags));
    if (n->target->tls_on)
        nbd_option_write(w->to_target, NBD_OPT_STARTTLS, NULL, 0);
    phase_set(n, n->target->tls_on ? PHASE_ASKING : PHASE_OPTION);
    return true;
}

static bool step_greeting(struct negotiation *n, const struct wires *w)
{
    uint8_t greeting[NBD_GREETING_SIZE];
    uint16_t flags;
    int size = nbd_greeting_parse(bytes_of(w->from_target), w->from_target->len, &flags);

    if (size == WEIR_E_VERSION)
        return fail_target(n, "target speaks the old-style handshake");
    if (size < 0)
        return fail_target(n, "target does not greet as an NBD server");
    if (size == 0)
        return false;
    text_consume(w->from_target, (size_t)size);
    if (n->again) {
        if ((flags & n->offered) != n->offered)
            return fail_target(n, "target offers less to a second connection than to the first");
        return tell_flags(n, w);
    }
    /* A flag that the document does not know yet may change what follows. */
    n->offered = flags & NBD_HANDSHAKE_FLAGS_KNOWN;
    text_append(w->to_host, greeting, nbd_greeting_build(greeting, n->offered));
    phase_set(n, PHASE_CLIENT_FLAGS);
    return true;
}

static bool step_client_flags(struct negotiation *n, const struct wires *w)
{
    int size = nbd_client_flags_parse(bytes_of(w->from_host), w->from_host->len, n->offered,
                                      &n->client_flags);

    if (size < 0)
        return fail_host(n, "host set a client flag that was not offered");
    if (size == 0)
        return false;
    text_consume(w->from_host, (size_t)size);
    return tell_flags(n, w);
}

/* The target's answer to our own STARTTLS. */
static bool step_asking(struct negotiation *n, const struct wires *w)
{
    struct nbd_option_reply r;
    int size = nbd_option_reply_parse(bytes_of(w->from_target), w->from_target->len, &r);

    if (size < 0)
        return fail_target(n, "target sent a bad option reply magic");
    if (size == 0)
        return false;
    if (r.option != NBD_OPT_STARTTLS)
        return fail_target(n, "target answered another option than it was asked");
    if (r.type != NBD_REP_ACK)
        return fail_target(n, "target does not offer TLS");
    if (r.length > 0)
        return fail_target(n, "target sent an acknowledgement with data");
    text_consume(w->from_target, (size_t)size);
    if (w->from_target->len > 0)
        return fail_target(n, "target sent bytes in the clear where TLS begins");
    phase_set(n, PHASE_TARGET_TLS);
    return true;
}

/* --- options, host to target --------------------------------------------------------------- */

/* Find the volume that the host calls @name. */
static const struct volume_config *volume_by_name(const struct target_config *target,
                                                  struct nbd_bytes name)
{
    for (size_t i = 0; i < target->volume_count; i++) {
        if (bytes_equal(name, bytes_of_string(target->volumes[i]->name)))
            return target->volumes[i];
    }
    return NULL;
}

/* What the target calls the export that the host calls @name. False: no such volume is offered. */
static bool translate(struct negotiation *n, struct nbd_bytes name, struct nbd_bytes *ret)
{
    const struct target_config *target = n->target;

    n->pending.volume = NULL;
    if (target->volume_count == 0) {
        *ret = name.len == 0 ? bytes_of_string(target->export_name) : name;
        return true;
    }
    n->pending.volume = volume_by_name(target, name);
    if (n->pending.volume == NULL)
        return false;
    *ret = bytes_of_string(n->pending.volume->export_name);
    return true;
}

/* What transmission will be told, should this option lead there. */
static void result_begin(struct negotiation *n, struct nbd_bytes name)
{
    struct negotiate_result *r = &n->result;

    weir_assert(name.len <= NBD_STRING_MAX);
    *r = (struct negotiate_result){.mode = r->mode, .volume = n->pending.volume};
    if (name.len > 0)
        memcpy(r->export_name, name.data, name.len);
    r->export_name[name.len] = '\0';
}

static bool answer_here(const struct negotiation *n, const struct wires *w, uint32_t error,
                        const char *words)
{
    nbd_reply_write_final(w->to_host, n->pending.option, error, words);
    return true;
}

/* "If the server is unwilling to allow the export, it MUST terminate the session." */
static bool take_export_name(struct negotiation *n, const struct wires *w, struct nbd_bytes name)
{
    struct nbd_bytes theirs;

    if (!nbd_string_ok(name))
        return end(n, "host asked for an export by an unlawful name");
    if (!translate(n, name, &theirs))
        return end(n, "host asked for an export that is not offered");
    result_begin(n, name);
    nbd_option_write_named(w->to_target, NBD_OPT_EXPORT_NAME, theirs, (struct nbd_bytes){0});
    phase_set(n, PHASE_EXPORT_REPLY);
    return true;
}

/* INFO, GO and the meta context options: a counted name, then what is the target's to judge. */
static bool take_named(struct negotiation *n, const struct wires *w, struct nbd_bytes payload)
{
    struct nbd_bytes name, rest, theirs;

    if (nbd_name_prefix_parse(payload.data, payload.len, &name, &rest) < 0)
        return answer_here(n, w, NBD_REP_ERR_INVALID, "export name overruns the option");
    if (name.len > NBD_STRING_MAX)
        return answer_here(n, w, NBD_REP_ERR_TOO_BIG, "export name too long");
    if (!nbd_string_ok(name))
        return answer_here(n, w, NBD_REP_ERR_INVALID, "export name holds a NUL");
    if (!translate(n, name, &theirs))
        return answer_here(n, w, NBD_REP_ERR_UNKNOWN, "export not offered here");
    if (n->pending.option == NBD_OPT_GO)
        result_begin(n, name);
    nbd_option_write_named(w->to_target, n->pending.option, theirs, rest);
    n->told = true;
    phase_set(n, PHASE_ANSWER);
    return true;
}

static bool take_plain(struct negotiation *n, const struct wires *w, struct nbd_bytes payload)
{
    nbd_option_write(w->to_target, n->pending.option, payload.data, payload.len);
    n->told = true;
    phase_set(n, PHASE_ANSWER);
    return true;
}

/* The target hears of the end, and the host of its acknowledgement, which "MUST" come: waiting for
 * a target that only closes ("Previous versions of this document were unclear") would tell less. */
static bool take_abort(struct negotiation *n, const struct wires *w)
{
    nbd_option_write(w->to_target, NBD_OPT_ABORT, NULL, 0);
    nbd_reply_write_final(w->to_host, NBD_OPT_ABORT, NBD_REP_ACK, "");
    return end(n, "host ended the negotiation");
}

static bool take_list(struct negotiation *n, const struct wires *w, struct nbd_bytes payload)
{
    if (n->target->volume_count > 0)
        memset(n->listed, 0, n->target->volume_count * sizeof n->listed[0]);
    return take_plain(n, w, payload);
}

static bool take_starttls(struct negotiation *n, const struct wires *w, struct nbd_bytes payload)
{
    if (n->host_tls == TLS_MODE_OFF)
        return answer_here(n, w, NBD_REP_ERR_UNSUP, "TLS is not offered here");
    if (payload.len > 0)
        return answer_here(n, w, NBD_REP_ERR_INVALID, "STARTTLS has no data");
    if (n->secured)
        return answer_here(n, w, NBD_REP_ERR_INVALID, "TLS was begun before");
    answer_here(n, w, NBD_REP_ACK, "");
    phase_set(n, PHASE_HOST_TLS);
    return true;
}

/* What a host may ask without TLS where it is required: to begin it, or to go. */
static bool take_insecure(struct negotiation *n, const struct wires *w)
{
    if (n->pending.option == NBD_OPT_EXPORT_NAME)
        return end(n, "host asked for an export without TLS, which is required");
    return answer_here(n, w, NBD_REP_ERR_TLS_REQD, "TLS is required here: begin with STARTTLS");
}

static bool take_option(struct negotiation *n, const struct wires *w, struct nbd_bytes payload)
{
    if (n->host_tls == TLS_MODE_REQUIRE && !n->secured && n->pending.option != NBD_OPT_STARTTLS &&
        n->pending.option != NBD_OPT_ABORT)
        return take_insecure(n, w);
    if (!nbd_opt_known(n->pending.option))
        return answer_here(n, w, NBD_REP_ERR_UNSUP, "option not known here");
    switch ((enum nbd_opt)n->pending.option) {
    case NBD_OPT_EXPORT_NAME:
        return take_export_name(n, w, payload);
    case NBD_OPT_ABORT:
        return take_abort(n, w);
    case NBD_OPT_LIST:
        return take_list(n, w, payload);
    case NBD_OPT_STARTTLS:
        return take_starttls(n, w, payload);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return take_named(n, w, payload);
    case NBD_OPT_STRUCTURED_REPLY:
    case NBD_OPT_EXTENDED_HEADERS:
        return take_plain(n, w, payload);
    }
    weir_assert_failed(__FILE__, __LINE__, "a known option is one of enum nbd_opt");
}

static bool step_option(struct negotiation *n, const struct wires *w)
{
    struct nbd_option o;
    struct nbd_bytes payload;
    int size = nbd_option_parse(bytes_of(w->from_host), w->from_host->len, &o);

    if (size < 0)
        return fail_host(n, "host sent a bad option magic");
    if (size == 0)
        return false;
    if (o.length > OPTION_PAYLOAD_MAX)
        return fail_host(n, "host sent an option of more than 64 KiB");
    if (n->options == OPTIONS_MAX)
        return fail_host(n, "host sent more than 1024 options");
    if (w->from_host->len - (size_t)size < o.length)
        return false;
    n->options++;
    n->pending = (struct pending){.option = o.type};
    payload = (struct nbd_bytes){.data = bytes_of(w->from_host) + size, .len = o.length};
    take_option(n, w, payload);
    text_consume(w->from_host, (size_t)size + o.length);
    if (n->phase == PHASE_HOST_TLS && w->from_host->len > 0)
        return fail_host(n, "host sent bytes in the clear where TLS begins");
    return true;
}

/* --- answers, target to host --------------------------------------------------------------- */

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

static bool step_answer(struct negotiation *n, const struct wires *w)
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

static bool step_export_reply(struct negotiation *n, const struct wires *w)
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

/* --- from outside -------------------------------------------------------------------------- */

struct negotiation *negotiate_new(const struct target_config *target)
{
    struct negotiation *n;

    weir_assert(target != NULL);
    n = calloc(1, sizeof *n);
    if (n == NULL)
        return NULL;
    n->target = target;
    n->phase = PHASE_GREETING;
    n->result.mode = NBD_MODE_SIMPLE;
    n->reason = "";
    if (target->volume_count > 0) {
        n->listed = calloc(target->volume_count, sizeof n->listed[0]);
        if (n->listed == NULL) {
            free(n);
            return NULL;
        }
    }
    return n;
}

void negotiate_free(struct negotiation *n)
{
    if (n == NULL)
        return;
    free(n->listed);
    free(n);
}

void negotiate_offer_tls(struct negotiation *n, enum tls_mode host)
{
    weir_assert(n->phase == PHASE_GREETING);
    n->host_tls = host;
}

bool negotiate_secured(struct negotiation *n)
{
    if (n->phase == PHASE_TARGET_TLS) {
        phase_set(n, PHASE_OPTION);
        return false;
    }
    weir_assert(n->phase == PHASE_HOST_TLS);
    n->secured = true;
    n->result = (struct negotiate_result){.mode = NBD_MODE_SIMPLE};
    n->pending = (struct pending){0};
    n->again = n->told;
    n->told = false;
    phase_set(n, n->again ? PHASE_GREETING : PHASE_OPTION);
    return n->again;
}

/* One message, or none when bytes are missing: then false. */
static bool step_once(struct negotiation *n, const struct wires *w)
{
    switch (n->phase) {
    case PHASE_GREETING:
        return step_greeting(n, w);
    case PHASE_ASKING:
        return step_asking(n, w);
    case PHASE_CLIENT_FLAGS:
    case PHASE_OPTION:
        if (w->from_target->len > 0)
            return fail_target(n, "target spoke out of turn");
        return n->phase == PHASE_OPTION ? step_option(n, w) : step_client_flags(n, w);
    case PHASE_ANSWER:
        return step_answer(n, w);
    case PHASE_EXPORT_REPLY:
        return step_export_reply(n, w);
    case PHASE_TARGET_TLS:
    case PHASE_HOST_TLS:
    case PHASE_DONE:
    case PHASE_ENDED:
    case PHASE_FAILED:
        return false;
    }
    return false;
}

enum negotiate_state negotiate_step(struct negotiation *n, struct text *from_host,
                                    struct text *to_target, struct text *from_target,
                                    struct text *to_host)
{
    struct wires w = {.from_host = from_host,
                      .to_target = to_target,
                      .from_target = from_target,
                      .to_host = to_host};

    while (step_once(n, &w))
        ;
    if (n->phase != PHASE_FAILED && (to_host->failed || to_target->failed))
        fail_target(n, "an answer did not fit into the buffer for it");
    switch (n->phase) {
    case PHASE_GREETING:
    case PHASE_CLIENT_FLAGS:
    case PHASE_ASKING:
    case PHASE_OPTION:
    case PHASE_ANSWER:
    case PHASE_EXPORT_REPLY:
        return NEGOTIATE_RUNNING;
    case PHASE_HOST_TLS:
        return NEGOTIATE_HOST_TLS;
    case PHASE_TARGET_TLS:
        return NEGOTIATE_TARGET_TLS;
    case PHASE_DONE:
        return NEGOTIATE_DONE;
    case PHASE_ENDED:
        return NEGOTIATE_ENDED;
    case PHASE_FAILED:
        return NEGOTIATE_FAILED;
    }
    return NEGOTIATE_FAILED;
}

const struct negotiate_result *negotiate_result(const struct negotiation *n)
{
    weir_assert(n->phase == PHASE_DONE);
    return &n->result;
}

const char *negotiate_reason(const struct negotiation *n)
{
    return n->reason;
}

bool negotiate_host_at_fault(const struct negotiation *n)
{
    return n->phase == PHASE_FAILED && n->host_at_fault;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: a host may ask anything, in any order and form, and only what the gateway can answer for
 * may reach the target, under the target's own names.
 *
 * Model, in PHASE_OPTION: one whole option is taken, and answered here, forwarded, or the end of
 * the negotiation. Invariants 3, 6, 7 and 8 of negotiate.c are kept here; a payload is looked at no
 * further than its export name, since the rest is the target's to judge. */
#include <string.h>

#include "base/assert.h"
#include "gateway/negotiate_private.h"

/* Bounds; negotiate.h says them to others. */
#define OPTION_PAYLOAD_MAX (64u << 10)
#define OPTIONS_MAX        1024u

_Static_assert(sizeof((struct negotiate_result *)0)->export_name == NBD_STRING_MAX + 1,
               "the longest export name and its NUL");
_Static_assert(NBD_STRING_MAX + NBD_OPTION_SIZE < OPTION_PAYLOAD_MAX, "a name fits in an option");

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

bool step_option(struct negotiation *n, const struct wires *w)
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

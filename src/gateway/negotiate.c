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
 * Its course is here; what hosts ask is taken in negotiate_option.c, what targets answer in
 * negotiate_answer.c.
 *
 * What may fail: either peer breaks the protocol, exceeds a bound, or an output is full (FAILED).
 * What a target refuses is no failure: the host hears it and may go on. */
#include "gateway/negotiate.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "gateway/negotiate_private.h"
#include "proto/nbd/handshake.h"
#include "proto/nbd/option.h"

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

void phase_set(struct negotiation *n, enum phase to)
{
    weir_assert(phase_may_follow(n->phase, to));
    n->phase = to;
}

bool fail_host(struct negotiation *n, const char *reason)
{
    n->reason = reason;
    n->host_at_fault = true;
    phase_set(n, PHASE_FAILED);
    return true;
}

bool fail_target(struct negotiation *n, const char *reason)
{
    n->reason = reason;
    n->host_at_fault = false;
    phase_set(n, PHASE_FAILED);
    return true;
}

bool end(struct negotiation *n, const char *reason)
{
    n->reason = reason;
    phase_set(n, PHASE_ENDED);
    return true;
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

bool negotiate_awaits_target(const struct negotiation *n)
{
    switch (n->phase) {
    case PHASE_GREETING:
    case PHASE_ASKING:
    case PHASE_TARGET_TLS:
    case PHASE_ANSWER:
    case PHASE_EXPORT_REPLY:
        return true;
    case PHASE_CLIENT_FLAGS:
    case PHASE_OPTION:
    case PHASE_HOST_TLS:
    case PHASE_DONE:
    case PHASE_ENDED:
    case PHASE_FAILED:
        return false;
    }
    return false;
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

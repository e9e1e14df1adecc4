/* SPDX-License-Identifier: Apache-2.0 */
/* Fixed-newstyle negotiation relayed between one host and one target, sans-I/O.
 *
 * Bytes of both peers go in, bytes for both come out; no socket, no clock. Each known option is
 * forwarded and its answer relayed, one option at a time; unknown ones are answered ERR_UNSUP here;
 * STARTTLS is answered here and never forwarded: each side has a TLS of its own, which the caller
 * does when he is told to, or none. Export names are checked against the volumes that
 * the listener offers and renamed to the target's; LIST shows only what is offered. Bounds: an
 * option carries at most 64 KiB, a host may send 1,024 options (`qemu-nbd --list` asks three an
 * export), a target's single option reply carries 64 KiB, its whole answer to one option 16,384
 * replies and 16 MiB. */
#ifndef WEIR_GATEWAY_NEGOTIATE_H
#define WEIR_GATEWAY_NEGOTIATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "gateway/config.h"
#include "proto/nbd/reply.h"

enum negotiate_state {
    NEGOTIATE_RUNNING,    /* give more bytes */
    NEGOTIATE_HOST_TLS,   /* send what is for the host, then do TLS with it: negotiate_secured */
    NEGOTIATE_TARGET_TLS, /* the same with the target */
    NEGOTIATE_DONE,       /* transmission begins; bytes left over belong to it */
    NEGOTIATE_ENDED,      /* the host sent ABORT, or the option was fatal: flush, then close */
    NEGOTIATE_FAILED,     /* a peer broke the protocol: close; see reason */
};

/* What transmission needs to know. Valid once DONE. */
struct negotiate_result {
    enum nbd_reply_mode mode;
    const struct volume_config *volume; /* NULL: none configured on this target, any name passes */
    char export_name[4097]; /* as the host said it, NUL-terminated */
    uint64_t size;          /* bytes, as the target said */
    uint16_t transmission_flags;
    uint32_t block_min, block_preferred, block_max; /* 0: target did not say */
};

struct negotiation;

/* @target's volumes are borrowed. NULL: no memory. */
struct negotiation *negotiate_new(const struct target_config *target);
void negotiate_free(struct negotiation *n);

/* What hosts may have by STARTTLS (enum tls_mode of config.h); before the first step. Off is the
 * default. Whether the target is asked for TLS is said in its target_config. */
void negotiate_offer_tls(struct negotiation *n, enum tls_mode host);

/* The TLS that HOST_TLS or TARGET_TLS asked for stands: all the bytes that step is given of that
 * peer from now on came through it. True: the target has heard what the host said before TLS
 * and what must be forgotten: close it, connect to it anew, drop what was for it and of it. */
bool negotiate_secured(struct negotiation *n);

/* Consume what can be of @from_host and @from_target (text_consume), append to @to_host and
 * @to_target. Call again whenever bytes have arrived. Outputs are bounded by the bounds above. */
enum negotiate_state negotiate_step(struct negotiation *n, struct text *from_host,
                                    struct text *to_target, struct text *from_target,
                                    struct text *to_host);

/* Whether it is the target's turn to say something, and not the host's. */
bool negotiate_awaits_target(const struct negotiation *n);

const struct negotiate_result *negotiate_result(const struct negotiation *n);

/* Static words for FAILED or ENDED: "host sent a bad option magic". */
const char *negotiate_reason(const struct negotiation *n);
/* Whether the host (true) or the target (false) is to blame for FAILED. */
bool negotiate_host_at_fault(const struct negotiation *n);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What a probe and its target say to each other, in NBD; sans-I/O: bytes in, bytes and states out.
 *
 * A hostile target may say anything: it costs no more than the memory of this struct, and ends in
 * TALK_FAILED with words for people. Only negotiation, NBD_CMD_READ and NBD_CMD_DISC are ever
 * said. Source: the NBD protocol document, "Newstyle negotiation" and "Transmission phase". */
#ifndef WEIR_SERVER_RESOURCE_TALK_H
#define WEIR_SERVER_RESOURCE_TALK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "proto/nbd/option.h"

/* The longest that a target may say in one piece: an option's reply, with words for people. */
#define TALK_PIECE_MAX (2 * NBD_STRING_MAX)
/* A target that tells more than so many facts of an export tells them for something else. */
#define TALK_INFOS_MAX 64u

enum talk_state {
    TALK_GREETING, /* its first words are waited for */
    TALK_STARTTLS, /* it is asked for TLS */
    TALK_SECURE,   /* it agreed: the owner does the handshake, then talk_secured */
    TALK_GO,       /* it is asked for the export */
    TALK_EXPORT,   /* the same in the old way */
    TALK_OPEN,     /* size and block sizes are known: talk_read or talk_bye */
    TALK_READ,     /* it is asked to read */
    TALK_DONE,     /* it did: talk_bye */
    TALK_BYE,      /* nothing more is said or listened to */
    TALK_FAILED,   /* words say why */
};

struct talk {
    enum talk_state state;
    bool tls;                        /* ask for it first */
    bool no_zeroes;
    char export[NBD_STRING_MAX + 1];
    struct text out;                 /* to be sent; the owner takes it and clears it */
    uint8_t in[TALK_PIECE_MAX];      /* a piece that is not whole yet */
    size_t in_len;
    unsigned infos;
    bool has_export, in_data; /* in_data: the head of the read's answer has been taken */
    uint64_t size;
    uint32_t block_min, block_preferred, block_max; /* 0: it said none */
    uint64_t read_left;                             /* bytes of the answer still to come */
    char words[160];
};

/* @export at most NBD_STRING_MAX bytes (asserted). Free with talk_fini. */
void talk_init(struct talk *t, const char *export, bool tls);
void talk_fini(struct talk *t);
/* Take what the target said, all of it. */
void talk_take(struct talk *t, const uint8_t *bytes, size_t n);
/* In TALK_SECURE: TLS stands, and what was said before is forgotten. */
void talk_secured(struct talk *t);
/* In TALK_OPEN. @length > 0. */
void talk_read(struct talk *t, uint64_t offset, uint32_t length);
/* In TALK_OPEN and TALK_DONE. */
void talk_bye(struct talk *t);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A session that stands: made by the acceptor, read by its two halves, freed by the acceptor.
 *
 * Body of MSG_SESSION_OPEN, lent to both halves until each has said MSG_SESSION_SHUT to the
 * acceptor (arg[0] session, arg[1] SESSION_INBOUND or SESSION_OUTBOUND). Nothing in it changes
 * meanwhile, the inside of the wire aside: inbound alone reads from it, outbound alone sends. */
#ifndef WEIR_SERVER_MONITOR_SESSION_H
#define WEIR_SERVER_MONITOR_SESSION_H
#include <stddef.h>
#include <stdint.h>

#include "server/services/report.h"
#include "tls/wire.h"

/* A handshake's messages are small; more than this is not one. */
#define SESSION_EARLY_MAX 4096u

/* Ids carry the slot, so that each half finds its own place at once; the rest never repeats. */
#define SESSION_SLOT_BITS 20u
#define SESSION_SLOTS_MAX (1u << SESSION_SLOT_BITS)

enum session_half { SESSION_INBOUND, SESSION_OUTBOUND };

/* What the gateway said of itself, as struct gateway_hello, in no more memory than it takes: there
 * may be ten thousand. */
struct session_hello {
    uint8_t id[GATEWAY_ID_SIZE], boot[GATEWAY_ID_SIZE];
    const char *name, *software, *address, *key_id; /* in one block, behind name */
    uint16_t pair;
    uint32_t subgroup;
};

struct session {
    uint64_t id;
    struct wire wire;
    uint16_t pair, process; /* at the start; the table moves it later */
    struct session_hello hello;
    size_t early_size; /* bytes that came behind the handshake, for inbound */
    uint8_t *early;    /* NULL: none */
};

static inline uint32_t session_slot(uint64_t id)
{
    return (uint32_t)(id & (SESSION_SLOTS_MAX - 1u));
}

#endif

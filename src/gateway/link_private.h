/* SPDX-License-Identifier: Apache-2.0 */
/* The link's inside, shared by link*.c only. */
#ifndef WEIR_GATEWAY_LINK_PRIVATE_H
#define WEIR_GATEWAY_LINK_PRIVATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/reactor.h"
#include "base/rng.h"
#include "base/text.h"
#include "control/auth.h"
#include "control/frame.h"
#include "gateway/config.h"
#include "gateway/link.h"
#include "gateway/link_disk.h"
#include "gateway/link_identity.h"
#include "gateway/relay.h"
#include "gateway/stream.h"
#include "tls/wire.h"

#define LINK_STATE_TABLE(X)                                                                        \
    X(IDLE, "idle")       /* no server is configured */                                            \
    X(WAITING, "waiting") /* until the next try */                                                 \
    X(CONNECTING, "connecting")                                                                    \
    X(SECURING, "securing") /* TLS handshake */                                                    \
    X(PROVING, "proving") /* both sides prove the key */                                           \
    X(ESTABLISHED, "established")

enum link_state {
#define X(name, label) LINK_##name,
    LINK_STATE_TABLE(X)
#undef X
        LINK_STATE_COUNT,
};

/* Received and not yet handled: one frame, and one read more. */
#define LINK_READ_SIZE (64u * 1024u)
#define LINK_IN_MAX (FRAME_MAX + FRAME_HEADER_SIZE + LINK_READ_SIZE)
/* Unsent: packing pauses above LINK_OUT_PAUSE; one frame, and what else is said, fits on top. */
#define LINK_OUT_PAUSE (256u * 1024u)
#define LINK_OUT_MAX (LINK_OUT_PAUSE + FRAME_MAX + 64u * 1024u)

struct link_stats;
struct link_controls;
struct link_surge;
struct link_listen;
struct link_drain;
struct link_rekey;

struct link {
    struct reactor *reactor;
    const struct gateway_config *config;
    struct stream_table *streams;
    struct relay *relay;

    enum link_state state;
    uint8_t gateway_id[AUTH_ID_SIZE], boot_id[AUTH_ID_SIZE];
    struct rng rng;
    size_t server;     /* in config->servers: the one dialled */
    bool adopted;      /* this session's connection came in; peer says from where */
    char peer[ADDR_TEXT_SIZE];
    unsigned failures; /* in a row, for the back-off */
    uint64_t established_ns, began_ns; /* began: of the connection */

    int fd; /* -1: none */
    struct wire wire; /* over it */
    uint8_t server_key[AUTH_FINGERPRINT_SIZE]; /* what the server showed, with TLS */
    struct reactor_source source;
    struct reactor_timer timer; /* the state's: next try, time-out of the handshake, heartbeat */
    struct reactor_work resume; /* more is waiting to be read */
    struct text in, out;
    uint8_t *scratch; /* LINK_READ_SIZE */
    struct frame_arena arena;
    uint64_t heard_ns, said_ns;

    struct link_key key; /* of this session */
    bool key_next;       /* it is the next one, of which nobody knows yet whether it is in force */
    bool avoid_next;     /* it was refused: the other is tried first */
    struct auth_context auth;
    bool proved; /* our proof is out, the welcome is awaited */
    uint8_t derived[AUTH_KEY_SIZE];
    uint64_t session, heartbeat_ns;

    struct link_disk *disk;
    struct link_stats *stats;
    struct link_controls *controls;
    struct link_surge *surge;
    struct link_rekey *rekey; /* NULL: no server */
    struct link_drain *drain; /* NULL: no server */
    struct link_listen *listen; /* NULL: the server does not dial */

    uint64_t polls, polls_before, sessions; /* ever; ever when this session began */
    char last_error[128], logged_error[128];
};

/* link.c: for the other parts. */
/* Append @f to what is to be sent and try to send it; a link that cannot take it is dropped (then
 * false, and nothing of the session may be touched). */
bool link_send(struct link *l, const Weir__Control__Frame *f);
/* A connection that a server opened: taken as the link's, or closed. */
void link_adopt(struct link *l, int fd);
/* Bytes accepted and not yet sent. */
size_t link_unsent(const struct link *l);
/* End the session, with words for people, and try again later. */
void link_drop(struct link *l, const char *why);
bool link_up(const struct link *l);

#endif

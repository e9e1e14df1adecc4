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

/* Who may be the server, on one connection, from its beginning to the session's end. */
struct link_peer {
    struct wire wire;
    bool adopted;             /* it dialled; from says from where */
    const struct addr *where; /* that was dialled, or that it came to */
    char from[ADDR_TEXT_SIZE];
    uint8_t server_key[AUTH_FINGERPRINT_SIZE]; /* what it showed, with TLS */
    struct link_key key;
    bool key_next; /* key is the next one, of which nobody knows yet whether it is in force */
    struct auth_context auth;
};

struct link {
    struct reactor *reactor;
    const struct gateway_config *config;
    struct stream_table *streams;
    struct relay *relay;

    enum link_state state;
    uint8_t gateway_id[AUTH_ID_SIZE], boot_id[AUTH_ID_SIZE];
    struct rng rng;
    size_t server;     /* in config->servers: the one dialled */
    unsigned failures; /* in a row, for the back-off */
    uint64_t established_ns;

    int fd; /* -1: none */
    struct link_peer peer; /* over it */
    struct reactor_source source;
    struct reactor_timer timer; /* the state's: next try, time-out of the handshake, heartbeat */
    struct reactor_work resume; /* more is waiting to be read */
    struct text in, out;
    uint8_t *scratch; /* LINK_READ_SIZE */
    struct frame_arena arena;
    uint64_t heard_ns, said_ns;

    bool avoid_next; /* the next key was refused: the other is tried first */
    bool doubt;      /* so said a guest that nobody knew: guests get either of the two, by lot */
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
    uint64_t guest_logged_ns;
};

/* link.c: for the other parts. */
/* Append @f to what is to be sent and try to send it; a link that cannot take it is dropped (then
 * false, and nothing of the session may be touched). */
bool link_send(struct link *l, const Weir__Control__Frame *f);
/* The key for a new connection; to @p. 0, or an error code with words. */
int link_key_choose(struct link *l, struct link_peer *p, const char **ret_why);
/* Begin the handshake of @p: append Hello to @out. 0, or an error code. */
int link_hello(struct link *l, struct link_peer *p, struct text *out);
/* Append Error. */
int link_error(struct text *out, int code, const char *words);
/* Who dialled has proved the key, by the frame at the front of the @n bytes at @in: it is the
 * link's now, and @p->wire with it. False: another server has it. */
bool link_adopt(struct link *l, const struct link_peer *p, const void *in, size_t n);
/* Who dialled was left. @refused: it said that it does not know our key. */
void link_guest_failed(struct link *l, const struct link_peer *p, const char *why, bool refused);
/* Bytes accepted and not yet sent. */
size_t link_unsent(const struct link *l);
/* End the session, with words for people, and try again later. */
void link_drop(struct link *l, const char *why);
bool link_up(const struct link *l);

#endif

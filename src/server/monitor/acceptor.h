/* SPDX-License-Identifier: Apache-2.0 */
/* The acceptor's inside, shared by acceptor.c, handshake.c and key_loader.c: all of one thread. */
#ifndef WEIR_SERVER_MONITOR_ACCEPTOR_H
#define WEIR_SERVER_MONITOR_ACCEPTOR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/reactor.h"
#include "base/text.h"
#include "control/frame.h"
#include "server/monitor/dialler.h"
#include "server/monitor/keys.h"
#include "server/monitor/mail.h"
#include "server/monitor/monitor_private.h"
#include "server/monitor/rotation.h"
#include "server/monitor/router.h"
#include "server/services/record.h"

/* Handshakes at once; further connections wait in the kernel's queue. */
#define HANDSHAKES_MAX 256u
#define HANDSHAKES_PER_ADDRESS 64u
#define HANDSHAKE_NS (10 * NS_PER_S)
/* After a refusal the peer may read the words for so long. */
#define HANDSHAKE_LINGER_NS NS_PER_S

#define HANDSHAKE_STATE_TABLE(X)                                                                   \
    X(FREE, "free")                                                                                \
    X(FIRST, "first")     /* waits for a byte, which tells TLS from a frame */                     \
    X(TLS, "tls")         /* TLS handshake */                                                      \
    X(HELLO, "hello")     /* waits for Hello */                                                    \
    X(KEYS, "keys")       /* Hello names a key that is being looked up */                          \
    X(PROOF, "proof")     /* Challenge is out */                                                   \
    X(ENROL, "enrol")     /* the store takes the token */                                          \
    X(REFUSED, "refused") /* Error is out; the peer may read it */

enum handshake_state {
#define X(name, label) HANDSHAKE_##name,
    HANDSHAKE_STATE_TABLE(X)
#undef X
        HANDSHAKE_STATE_COUNT,
};

struct acceptor;

struct handshake {
    struct acceptor *acceptor;
    enum handshake_state state;
    struct list link; /* acceptor.free or acceptor.busy */
    uint32_t number;  /* grows with each use: replies to an earlier use are told apart */
    struct wire wire;
    size_t dial; /* of dialler.c, when this server dialled; 0: it did not */
    struct reactor_source source;
    struct reactor_timer timer;
    uint8_t in[SESSION_EARLY_MAX];
    size_t in_size;
    bool far; /* came over a listener that takes TLS only */
    uint8_t channel[AUTH_CHANNEL_SIZE], peer_key[AUTH_FINGERPRINT_SIZE]; /* with TLS */
    struct auth_context auth;
    uint8_t key[AUTH_KEY_SIZE];
    bool enrolling;
    bool rekey; /* Hello said so */
    uint8_t new_key[AUTH_KEY_SIZE];
    char new_key_id[AUTH_KEY_ID_SIZE];
    uint64_t ticket; /* HANDSHAKE_ENROL */
    char address[ADDR_TEXT_SIZE], name[NAME_SIZE], software[64];
};

struct key_loader {
    struct key_table table;
    unsigned asked; /* answers that are still to come */
    bool again;     /* asked to load while loading */
    bool withdrawn; /* an order was, while loading: it may stand in what comes */
    bool good;      /* the last load gave both tables */
    bool failed;    /* one of the answers of this load was bad */
    uint64_t began_ns;
    struct reactor_timer retry;
};

struct acceptor {
    struct monitor *m;
    struct mailbox *me;
    struct reactor *reactor;
    struct mail mail;
    struct listener {
        struct reactor_source source;
        struct acceptor *acceptor;
    } listener[MONITOR_LISTENERS_MAX];
    struct reactor_timer accept_retry, second, post_retry;
    struct handshake *handshake; /* HANDSHAKES_MAX */
    struct list free, busy;
    bool waiting; /* connections may wait in the kernel for a free handshake */
    struct reactor_work accept_work;
    struct key_loader keys;
    struct dialler *dialler;
    struct rotation_table *rotations;
    struct router router;
    struct frame_arena arena;
    struct text out;     /* scratch for one frame */
    uint32_t *free_slot; /* stack of session slots */
    size_t free_slots;
    uint64_t serial;              /* of sessions */
    struct owned_session *untold; /* whose halves could not all be told yet */
    uint64_t event_second;
    unsigned events_in_second;
    bool stop;
    struct msg stop_msg;
};

/* handshake.c */
void handshake_init(struct handshake *h, struct acceptor *a);
/* Takes @fd; @far: only TLS will do. */
void handshake_begin(struct handshake *h, int fd, const char *address, bool far);
/* Keys were loaded: go on with one that waits for them. */
void handshake_keys_loaded(struct handshake *h);
void handshake_enrolled(struct handshake *h, int status);
/* Close and give back, without words. */
void handshake_abandon(struct handshake *h);

/* key_loader.c */
void key_loader_init(struct acceptor *a);
void key_loader_fini(struct acceptor *a);
/* Read both tables again (two-step); loads that are asked for meanwhile follow it. */
void key_loader_load(struct acceptor *a);
/* Whether waiting can help a key that is not in the table: a load is on its way, or begins now. */
bool key_loader_refresh(struct acceptor *a);
void key_loader_reply(struct acceptor *a, const struct msg *m);

/* acceptor.c */
/* The handshake stands: @fd, what was read behind it and what Hello said become a session; takes
 * the handshake's wire. 0 or WEIR_E_FULL, -ENOMEM. The id is known before Welcome is sent. */
struct owned_session *acceptor_session_new(struct acceptor *a, const struct handshake *h);
void acceptor_session_start(struct acceptor *a, struct owned_session *s);
void acceptor_session_forget(struct acceptor *a, struct owned_session *s);
/* Keys were read anew: sessions whose credential is gone are ended. */
void acceptor_sessions_check(struct acceptor *a);
/* A handshake became free. */
void acceptor_room(struct acceptor *a);
/* Tell people what happened to a gateway: event in the store, notice to the app; at most 10 a
 * second. */
void acceptor_event(struct acceptor *a, enum event_severity severity, const char *kind,
                    const char *subject, const char *words);

#endif

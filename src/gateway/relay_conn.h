/* SPDX-License-Identifier: Apache-2.0 */
/* One relayed connection and its owner, the relay: private to relay*.c.
 *
 * relay.c        listeners, pool, the gate's timer, counters
 * relay_conn.c   the life of a connection: states, connect, negotiation, close
 * relay_host.c   transmission, host to target: requests
 * relay_batch.h  what is counted once a batch
 * relay_hold.c   memory for the payload of held writes
 * relay_target.c transmission, target to host: replies
 * relay_out.c    the bytes to the target
 * relay_peer.c   peers that are gone without a word
 * relay_tls.c    both sides' TLS, where they have it */
#ifndef WEIR_GATEWAY_RELAY_CONN_H
#define WEIR_GATEWAY_RELAY_CONN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/name.h"
#include "base/reactor.h"
#include "base/text.h"
#include "gateway/certs.h"
#include "gateway/config.h"
#include "gateway/ledger_share.h"
#include "gateway/negotiate.h"
#include "gateway/relay.h"
#include "gateway/relay_out.h"
#include "gateway/stream.h"
#include "proto/nbd/request.h"
#include "tls/session.h"

/* Where all connections read to, for as long as what was read is not yet sent: four reads at once,
 * from the front again and again, so that it stays in the processor's cache. */
#define RELAY_LENT_SIZE (4u * RELAY_REPLY_SIZE)
/* Requests of one connection that the target has not answered; beyond it the host is not read. */
#define RELAY_SLOTS 1024u
/* Replies on their way to a host that does not read; beyond it the target is not read. */
#define RELAY_REPLY_SIZE (320u * 1024u)
/* So many bytes of replies are sent at once when no other connection has something to do: what
 * putting off saves is nothing beside a copy of this size, and the host begins sooner. */
#define RELAY_REPLY_AT_ONCE (32u * 1024u)
/* Negotiation: unconsumed bytes kept of either peer (one option is at most 64 KiB), and answers not
 * yet sent (LIST names CONFIG_MAX_VOLUMES at once; with more than IN_MAX waiting nothing is
 * read). */
#define RELAY_NEGOTIATE_IN_MAX (128u * 1024u)
#define RELAY_NEGOTIATE_OUT_MAX (1024u * 1024u)
/* A connection that ends may wait so long for the next byte of its target. */
#define RELAY_DRAIN_NS (UINT64_C(30) * 1000 * 1000 * 1000)
/* Replies to a host that has gone are taken off the target's hands up to so many bytes. */
#define RELAY_SINK_BYTES (64u * 1024u * 1024u)
/* Steps of TLS handshakes in one round, so that I/O gets its turn between them. */
#define RELAY_HANDSHAKES_ROUND 4u
/* Reads of one side in one turn, so that a fast connection lets the others have theirs. */
#define RELAY_TURN 4
/* Connections ended are kept warm up to here; beyond it their memory goes back. */
#define RELAY_POOL_WARM 32u

/* See the drawing in relay_conn.c. */
#define RELAY_STATE_TABLE(X) \
    X(CONNECTING)            \
    X(NEGOTIATING)           \
    X(TRANSMITTING)          \
    X(DRAINING)              \
    X(CLOSED)

enum relay_state {
#define X(name) RELAY_##name,
    RELAY_STATE_TABLE(X)
#undef X
    RELAY_STATE_COUNT,
};

enum relay_slot_state {
    RELAY_SLOT_FREE,
    RELAY_SLOT_HELD,       /* in the gate: for a limit */
    RELAY_SLOT_QUEUED,     /* in the scheduler: for its turn at the target */
    RELAY_SLOT_RELEASED,   /* let go, waits for its place on the wire */
    RELAY_SLOT_DISPATCHED, /* in the weave or with the target */
};

/* One request between its header's arrival and the target's last word on it. */
struct relay_slot {
    uint64_t host_cookie, cookie; /* the host's, and ours on the wire */
    uint64_t length; /* as requested: what a simple reply to READ carries */
    uint64_t dispatched_ns;
    uint8_t state;           /* enum relay_slot_state */
    uint8_t header_size;     /* of a held request */
    bool error;              /* an error chunk has passed */
    uint16_t cmd;            /* enum nbd_cmd, or a value nobody knows */
    struct gate_io io;       /* of which only the front matters to what is not held */
    _Alignas(64) struct sched_io turn; /* its turn at the target */
    /* What only a held request has. */
    struct relay_conn *conn;
    struct list link;        /* conn->released, when RELEASED */
    uint32_t held_bytes;     /* of payload in the hold ring */
    uint8_t header[NBD_REQUEST_EXT_SIZE];
};
/* Whole cache lines, of which a request that is not held touches two: the first, and the first of
 * its turn. */
_Static_assert(sizeof(struct relay_slot) == 5 * 64, "slots are cut to cache lines");
_Static_assert(offsetof(struct relay_slot, io.released_ns) <= 64, "the first line");
_Static_assert(offsetof(struct sched_io, link) <= 64, "the first line of a turn");

/* What the next bytes of the host are. */
enum relay_host_mode {
    RELAY_HOST_HEADER,  /* a request header */
    RELAY_HOST_PASS,    /* payload of a dispatched request: straight through */
    RELAY_HOST_HOLD,    /* payload of a held write: to the hold ring (room is reserved) */
    RELAY_HOST_BLOCKED, /* payload of a held request that the hold ring cannot take: wait */
    RELAY_HOST_DISC,    /* DISC: wait until everything before it is dispatched */
    RELAY_HOST_END,     /* nothing more is taken from the host */
};

/* One socket of a connection. The flags are what epoll said and reads and writes have not yet
 * undone. */
struct relay_side {
    struct reactor_source source;
    struct relay_conn *conn;
    bool open;     /* source.fd is ours */
    bool readable, writable;
    bool hangup;   /* EPOLLRDHUP, HUP or ERR was seen: read to the end */
    bool eof;      /* nothing more comes */
    bool dead;     /* nothing more can be sent */
    int error;     /* -errno of a failed read or send */
    struct tls_session *tls; /* NULL: in the clear */
};

/* Everything of a negotiation; gone when transmission begins. */
struct relay_talk {
    struct negotiation *negotiation;
    struct text from_host, to_host, from_target, to_target;
    bool done, ended; /* flush what is left, then transmit or close */
    struct relay_side *securing; /* the side whose TLS handshake is under way, or NULL */
};

struct relay_conn {
    struct relay *relay;
    struct list link;   /* relay->live, or relay->warm */
    uint64_t id;        /* for the log */
    enum relay_state state;
    struct relay_side host, target;
    struct reactor_timer timer; /* negotiation, then draining */
    struct reactor_work work;
    const struct listener_config *listener;
    char host_name[NAME_SIZE]; /* escaped */
    uint64_t host_hash;
    char identity[NAME_SIZE];  /* escaped: what the host's certificate or key says; "": nothing */
    bool counted;              /* in target_stats.connections */
    struct relay_talk talk;

    /* Transmission. */
    struct stream *stream;
    struct target_stats *stats;
    enum nbd_reply_mode mode;
    bool extended;
    enum relay_host_mode host_mode;
    uint64_t payload_left;          /* PASS, HOLD, BLOCKED */
    struct relay_slot *payload_slot; /* HOLD, BLOCKED */
    struct relay_slot *passing;     /* PASS: whose payload, unless it is answered already */
    struct list released;
    uint32_t undispatched;          /* slots HELD, QUEUED or RELEASED */
    uint32_t outstanding;           /* slots DISPATCHED */
    uint32_t next_cookie;
    enum relay_close ending;        /* in DRAINING: the reason that began it */
    uint32_t incomplete;            /* 1: the host went in the middle of a dispatched payload */
    uint64_t sunk;                  /* bytes of replies for a host that has gone */
    bool disc_ahead;                /* the host has closed, but DISC is among what it sent */
    uint64_t target_heard_ns;
    struct relay_out out;
    uint8_t *hold_more;             /* a larger ring while `hold` does not suffice, or NULL */

    uint64_t reply_left;            /* payload of the reply that is passing */
    size_t reply_start, reply_parsed, reply_end; /* in reply */
    uint8_t *reply;                 /* reply_own, or lent while relay_target_pump runs */

    uint32_t slot_high, slot_free;  /* slots ever used; entries of free_slots */
    uint16_t free_slots[RELAY_SLOTS];
    _Alignas(64) struct relay_slot slots[RELAY_SLOTS];
    struct relay_run runs[RELAY_RUNS];
    uint8_t header[RELAY_HEADER_SIZE];
    struct relay_input input;
    uint8_t hold[RELAY_HOLD_SIZE];
    uint8_t reply_own[RELAY_REPLY_SIZE];
};

struct relay_listener {
    struct reactor_source source;
    struct relay *relay;
    const struct listener_config *config;
    struct reactor_work work;   /* accept more in the next round */
    struct reactor_timer retry; /* out of descriptors: try again */
    bool listening;
    bool own; /* opened here, not handed over */
    bool paused; /* does not listen; out of the reactor */
    bool said;   /* that it cannot listen again */
};

struct relay {
    struct reactor *reactor;
    const struct gateway_config *config;
    struct stream_table *streams;
    struct gate *gate;
    struct relay_listener listeners[CONFIG_MAX_LISTENERS];
    size_t listener_count;
    struct list live, warm;
    uint32_t warm_count;
    bool draining; /* takes no hosts */
    uint64_t next_id;
    struct reactor_timer gate_timer;
    struct reactor_timer tick_timer; /* of targets whose window is on */
    struct reactor_work kick;
    struct relay_counts *counts; /* in the ledger */
    struct ledger_share *share;  /* around the gate, with bank */
    uint32_t bank;
    struct reactor_timer peer_timer; /* look at some connections' peers: relay_peer.c */
    uint64_t hold_memory;            /* relay_hold.c */
    struct tls_creds *listener_tls[CONFIG_MAX_LISTENERS], *target_tls[CONFIG_MAX_TARGETS];
    struct reactor_work handshake_round;
    unsigned handshake_steps;        /* in this round */
    uint8_t record[TLS_RECORD_MAX];  /* scratch: what goes out in one record */
    size_t lent_used; /* bytes in front that wait to be sent */
    _Alignas(64) uint8_t lent[RELAY_LENT_SIZE];
    struct certs certs;
};

_Static_assert(RELAY_INPUT_SIZE == RELAY_REPLY_SIZE, "both read to what relay_lend lends");

/* --- relay.c --- */

/* Give back @c, closed before. */
void relay_conn_put(struct relay *r, struct relay_conn *c);
/* RELAY_REPLY_SIZE bytes to read to until the end of this turn of one connection. May send what
 * others put off, or this one. */
uint8_t *relay_lend(struct relay *r);
/* The first @n bytes of what was lent last wait to be sent. */
void relay_lent(struct relay *r, size_t n);
/* Set the gate's timer to when it or a scheduler next has something. After each submit, poll or
 * cancel. */
void relay_gate_rearm(struct relay *r);
/* Let go what the scheduler of @port has a slot for. */
void relay_turns_run(struct relay *r, struct target *port, uint64_t now_ns);

/* Listen, and hear of hosts; the socket may be one that listens already. 0 or -errno. */
int relay_listener_watch(struct relay_listener *l);
/* Hear of none any more. */
void relay_listener_forget(struct relay_listener *l);
/* Those that wait in its queue, as draining. */
void relay_listener_refuse_all(struct relay_listener *l);

/* --- relay_drain.c --- */

/* Whether its socket can cease to listen and do so again. */
bool relay_listener_pausable(const struct listener_config *config);

/* --- relay_conn.c --- */

/* Take over the accepted @fd of @host (escaped): connect to the target. */
void relay_conn_start(struct relay *r, struct relay_conn *c, const struct listener_config *l,
                      int fd, const char *host, uint64_t host_hash);
/* End @c now: count and log @why with @detail (or NULL). @c is gone afterwards. */
void relay_conn_close(struct relay_conn *c, enum relay_close why, const char *detail);
/* The gateway ends: drop what was not dispatched, wait for the answers to the rest, then close. */
void relay_conn_stop(struct relay_conn *c);
/* TRANSMITTING to DRAINING. */
void relay_conn_drain(struct relay_conn *c, enum relay_close why);

/* What it is called that @s, of a host, has ended. */
enum relay_close relay_close_of_host(const struct relay_side *s);

/* Read into @to at most @room bytes, keeping the side's flags. Returns the bytes, 0 when nothing
 * came. */
size_t relay_side_read(struct relay_side *s, void *to, size_t room);
/* Send pieces, keeping the side's flags. Returns the bytes, 0 when nothing went. */
size_t relay_side_send(struct relay_side *s, const struct iovec *iov, int count);

/* Put off a send of all @n bytes, which were lent, to the end of this round. False: send it now. */
bool relay_side_put_off(struct relay_side *s, const uint8_t *data, size_t n);

/* The host as streams know it: who it proved to be, else its address. */
static inline const char *relay_conn_host(const struct relay_conn *c)
{
    return c->identity[0] != '\0' ? c->identity : c->host_name;
}

/* --- relay_tls.c --- */

/* As relay_side_read and relay_side_send, of a side that has TLS. */
size_t relay_side_read_tls(struct relay_side *s, void *to, size_t room);
size_t relay_side_send_tls(struct relay_side *s, const struct iovec *iov, int count);
/* Begin or go on with the handshake. 1: it stands; 0: later; -1: @c is gone. */
int relay_side_secure(struct relay_conn *c, struct relay_side *s);
void relay_handshake_round(struct reactor_work *w);
void relay_tls_free(struct relay *r);

/* --- relay_host.c; a pump returns false when the connection was closed --- */

/* Read, take apart, hold or weave, send. *@ret_progress is set when something moved. */
bool relay_host_pump(struct relay_conn *c, uint64_t now_ns, bool *ret_progress);
/* The gate lets @s go: to the wire, or to wait for its turn at the target. */
void relay_host_pass_gate(struct relay_slot *s, uint64_t now_ns);
/* It is the turn of @s. */
void relay_host_release(struct relay_slot *s);
/* Nothing more comes from the host: drop what was not dispatched. */
void relay_host_forget(struct relay_conn *c);
/* Drop every slot, whatever its state. */
void relay_slots_drop(struct relay_conn *c);
void relay_slot_put(struct relay_conn *c, struct relay_slot *s);
/* As relay_slot_put of one that is answered, but for the count of what is in flight. */
static inline void relay_slot_answered(struct relay_conn *c, struct relay_slot *s)
{
    weir_assert(s->state == RELAY_SLOT_DISPATCHED);
    weir_assert(c->outstanding > 0);
    weir_assert(c->slot_free < RELAY_SLOTS);
    c->outstanding--;
    s->state = RELAY_SLOT_FREE;
    if (c->passing == s)
        c->passing = NULL;
    c->free_slots[c->slot_free++] = (uint16_t)s->cookie;
}

/* --- relay_hold.c --- */

/* Have room in the hold ring for @n bytes more. False: not now. */
bool relay_hold_room(struct relay_conn *c, uint64_t n);
/* Back to the connection's own ring once the larger one is empty. */
void relay_hold_shrink(struct relay_conn *c);
void relay_hold_free(struct relay_conn *c);

/* --- relay_peer.c --- */

void relay_peer_start(struct relay *r);
void relay_peer_stop(struct relay *r);

/* --- relay_target.c --- */

bool relay_target_pump(struct relay_conn *c, uint64_t now_ns, bool *ret_progress);
/* The last @n bytes put off for the host, at @data, were not sent. */
void relay_target_unsent(struct relay_conn *c, const uint8_t *data, size_t n);

#endif

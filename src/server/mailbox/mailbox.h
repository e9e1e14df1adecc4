/* SPDX-License-Identifier: Apache-2.0 */
/* Two-step mailboxes: post a request and go on; the reply comes to the asker's own mailbox.
 *
 * Each thread of the server owns exactly one mailbox: bounded, preallocated, many producers and one
 * consumer. Step one, mailbox_post, moves a message in and returns at once, with a ticket when a
 * reply is wanted (mailbox_ask). Step two, mailbox_reply, puts the answer into the asker's mailbox
 * under the same ticket. Nobody ever waits in either step: a mailbox that is full pushes back
 * (WEIR_E_FULL) and the sender keeps, coalesces or counts. A ticket that is not answered in its
 * time comes back as a reply with status WEIR_E_TIMEOUT; an answer that comes later is dropped and
 * its body freed.
 *
 * A mailbox has three lanes, each a ring of its own: replies (as many places as there are tickets,
 * so mailbox_reply cannot find it full), urgent, and the rest. They are taken in that order, but
 * after MAILBOX_URGENT_RUN urgent messages one of the rest has its turn. Order is kept within a
 * lane for each sender; between lanes there is none. */
#ifndef WEIR_SERVER_MAILBOX_MAILBOX_H
#define WEIR_SERVER_MAILBOX_MAILBOX_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One message, moved by value. The body belongs to whoever holds the message: who takes it sets
 * body to NULL; what is left when the handler returns is freed with body_free. */
struct msg {
    uint16_t kind;      /* enum msg_kind (msg.h) */
    uint16_t from;      /* mailbox id of the sender; filled by post */
    bool is_reply;
    int32_t status;     /* replies: 0 or an error code */
    uint64_t ticket;    /* 0: no reply wanted. In a reply: the asker's ticket */
    uint64_t posted_ns; /* filled by post */
    uint64_t tag;       /* of a request: the asker's own word, handed back in the reply */
    uint64_t arg[3];    /* small arguments; the meaning is the kind's */
    void *body;
    void (*body_free)(void *body);
    atomic_bool *once;  /* set by mailbox_post_once */
};

struct mailbox;
struct mailbox_set; /* all mailboxes of one server: the thread map */

/* Urgent messages taken in a row while others wait. */
#define MAILBOX_URGENT_RUN 16u

/* @max_mailboxes <= 256. */
struct mailbox_set *mailbox_set_new(size_t max_mailboxes);
void mailbox_set_free(struct mailbox_set *set);
/* Let go of all messages that nobody will take any more. After all owners ended. */
void mailbox_set_drain(struct mailbox_set *set);

/* Make a mailbox before its threads start. @name ("inbound[0]") is copied; @capacity is a power of
 * two, the places for requests; an eighth of it again (two at least) are places for urgent ones.
 * @tickets bounds the replies waited for at once (< 65,536). */
struct mailbox *mailbox_new(struct mailbox_set *set, const char *name, size_t capacity,
                            size_t tickets);
uint16_t mailbox_id(const struct mailbox *m);

/* The eventfd that becomes readable when something is there for an owner that sleeps. For the
 * owner's epoll (edge-triggered or level). */
int mailbox_fd(const struct mailbox *m);

/* Put the waking of those whom @m posts to off until mailbox_let_go, so that a batch of messages
 * costs each receiver one wake; what is urgent, and replies, wake at once, and after
 * MAILBOX_HOLD_POSTS messages the others do. Owner only; let go before waiting or working long. */
#define MAILBOX_HOLD_POSTS 32u
void mailbox_hold(struct mailbox *m);
void mailbox_let_go(struct mailbox *m);

/* Step one. @from is the posting thread's own mailbox. Takes the body on success only. 0 or
 * WEIR_E_FULL. */
int mailbox_post(struct mailbox *from, struct mailbox *to, struct msg *m);

/* The same for what can be said again later, such as statistics: pushed back already when a quarter
 * of the places is left, so that what must not be lost still finds one. */
int mailbox_post_bulk(struct mailbox *from, struct mailbox *to, struct msg *m);

/* The same in the urgent lane. */
int mailbox_post_urgent(struct mailbox *from, struct mailbox *to, struct msg *m);

/* The same in the urgent lane, and coalesced: while one that was posted with this @once waits, the
 * newcomer is dropped (WEIR_E_EXISTS): what it would say is being said. *@once is false at first,
 * belongs to the sender, and must live as long as the mailbox. */
int mailbox_post_once(struct mailbox *from, struct mailbox *to, struct msg *m, atomic_bool *once);

/* Step one with a reply wanted within @timeout_ns. On 0, *@ret_ticket names the reply. WEIR_E_FULL
 * when @to is full or all tickets of @from are out. */
int mailbox_ask(struct mailbox *from, struct mailbox *to, struct msg *m, uint64_t timeout_ns,
                uint64_t now_ns, uint64_t *ret_ticket);

/* Step two: answer @request (which wanted a reply; a request that did not is ignored and the body
 * freed) with @status and @body. Never fails; takes the body. Called by the thread that owns @self.
 */
void mailbox_reply(struct mailbox *self, const struct msg *request, int status, void *body,
                   void (*body_free)(void *));

/* Whether the asker still waits for the answer to @request: neither expired nor cancelled, as far
 * as is known now. Worth asking before long work; the reply is due all the same. Any thread. */
bool mailbox_wanted(const struct mailbox *self, const struct msg *request);

/* Forget a ticket: its reply, if it comes, is dropped. Owner only. */
void mailbox_cancel(struct mailbox *m, uint64_t ticket);

/* Take the next message; false when there is none. Owner only. Replies of expired or cancelled
 * tickets are dropped here and never seen. Call mailbox_drained once it said false, then wait on
 * the fd. */
bool mailbox_take(struct mailbox *m, struct msg *ret);
/* Clear the eventfd; true when something came meanwhile and take must be tried again. */
bool mailbox_drained(struct mailbox *m);
/* The next ticket that has expired at @now_ns, as the reply it will not get (kind and tag as asked,
 * status WEIR_E_TIMEOUT). Owner only; call about once a second. */
bool mailbox_take_expired(struct mailbox *m, uint64_t now_ns, struct msg *ret);
/* Free the body of a handled message. */
void msg_release(struct msg *m);

/* Say before and after a message (or another unit of work) is handled: for the thread map's
 * "longest time on one message" and the time messages wait. mailbox_busy while busy ends what was
 * begun before and begins anew, so that a batch needs one look at the clock a message. Owner
 * only. */
void mailbox_busy(struct mailbox *m, uint16_t kind, uint64_t now_ns);
void mailbox_idle(struct mailbox *m, uint64_t now_ns);

struct mailbox_stats {
    char name[32];
    uint16_t id;
    bool owned;              /* some thread has looked into it: it runs, or did */
    size_t capacity, depth, depth_max; /* of requests that are not urgent */
    size_t urgent_depth, urgent_depth_max;
    uint64_t posted, refused, taken, replies, expired;
    uint64_t urgent, coalesced; /* posted as such; dropped because one waited */
    uint64_t wakes;             /* writes to the eventfd */
    uint64_t tickets_out;
    uint64_t busy_ns_max;    /* longest time on one message since start */
    uint16_t busy_kind_max;  /* and its kind */
    uint64_t busy_since_ns;  /* 0: waiting now */
    uint64_t latency_ns_max; /* longest time a message lay in the ring */
    uint64_t wait_p50_ns, wait_p99_ns; /* since start, to a quarter of an octave */
    uint64_t busy_ns_total;
};
size_t mailbox_set_count(const struct mailbox_set *set);
/* Readable from any thread; figures are of about now. */
void mailbox_stats(const struct mailbox_set *set, size_t i, struct mailbox_stats *ret);
struct mailbox *mailbox_set_at(const struct mailbox_set *set, size_t i);
/* Since when the owner of @m handles one message; 0: it does not. Any thread. */
uint64_t mailbox_busy_since(const struct mailbox *m);
/* For how long its owner stands still: handles one message, or has taken nothing although something
 * waits, as far as looks with the same @w (all 0 at first) tell. 0: it does not. Any thread. */
struct mailbox_watch {
    uint64_t taken, since_ns;
};
uint64_t mailbox_still_ns(const struct mailbox *m, struct mailbox_watch *w, uint64_t now_ns);

#endif

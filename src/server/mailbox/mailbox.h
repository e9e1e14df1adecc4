/* SPDX-License-Identifier: Apache-2.0 */
/* Two-step mailboxes: post a request and go on; the reply comes to the asker's own mailbox.
 *
 * Each thread of the server owns exactly one mailbox: a bounded ring with many producers and one
 * consumer. Step one, mailbox_post, moves a message in and returns at once, with a ticket when a
 * reply is wanted. Step two, mailbox_reply, puts the answer into the asker's mailbox under the same
 * ticket. Nobody ever waits in either step: a full ring is WEIR_E_FULL and the sender keeps,
 * coalesces or counts. A ticket that is not answered in its time comes back as a reply with status
 * WEIR_E_TIMEOUT; an answer that comes later is dropped and its body freed.
 *
 * Replies have room kept for them: a ticket is only given while the asker's ring has a place to
 * spare for its answer, so mailbox_reply cannot find the ring full. */
#ifndef WEIR_SERVER_MAILBOX_MAILBOX_H
#define WEIR_SERVER_MAILBOX_MAILBOX_H
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
    uint64_t arg[2];    /* small arguments; the meaning is the kind's */
    void *body;
    void (*body_free)(void *body);
};

struct mailbox;
struct mailbox_set; /* all mailboxes of one server: the thread map */

/* @max_mailboxes <= 256. */
struct mailbox_set *mailbox_set_new(size_t max_mailboxes);
void mailbox_set_free(struct mailbox_set *set);

/* Make a mailbox before its threads start. @name ("inbound[0]") is copied; @capacity is a power of
 * two;
 * @tickets bounds the replies waited for at once (<= capacity / 2). */
struct mailbox *mailbox_new(struct mailbox_set *set, const char *name, size_t capacity,
                            size_t tickets);
uint16_t mailbox_id(const struct mailbox *m);

/* The eventfd that becomes readable when the mailbox turns from empty to not empty. For the owner's
 * epoll (edge-triggered or level). */
int mailbox_fd(const struct mailbox *m);

/* Step one. @from is the posting thread's own mailbox. Takes the body on success only. 0 or
 * WEIR_E_FULL. */
int mailbox_post(struct mailbox *from, struct mailbox *to, struct msg *m);

/* Step one with a reply wanted within @timeout_ns. On 0, *@ret_ticket names the reply. WEIR_E_FULL
 * when
 * @to is full or all tickets of @from are out. */
int mailbox_ask(struct mailbox *from, struct mailbox *to, struct msg *m, uint64_t timeout_ns,
                uint64_t now_ns, uint64_t *ret_ticket);

/* Step two: answer @request (which wanted a reply; a request that did not is ignored and the body
 * freed) with @status and @body. Never fails; takes the body. Called by the thread that owns @self.
 */
void mailbox_reply(struct mailbox *self, const struct msg *request, int status, void *body,
                   void (*body_free)(void *));

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
 * "longest time on one message". Owner only. */
void mailbox_busy(struct mailbox *m, uint16_t kind, uint64_t now_ns);
void mailbox_idle(struct mailbox *m, uint64_t now_ns);

struct mailbox_stats {
    char name[32];
    uint16_t id;
    size_t capacity, depth, depth_max;
    uint64_t posted, refused, taken, replies, expired;
    uint64_t tickets_out;
    uint64_t busy_ns_max;    /* longest time on one message since start */
    uint16_t busy_kind_max;  /* and its kind */
    uint64_t busy_since_ns;  /* 0: waiting now */
    uint64_t latency_ns_max; /* longest time a message lay in the ring */
    uint64_t busy_ns_total;
};
size_t mailbox_set_count(const struct mailbox_set *set);
/* Readable from any thread; figures are of about now. */
void mailbox_stats(const struct mailbox_set *set, size_t i, struct mailbox_stats *ret);
struct mailbox *mailbox_set_at(const struct mailbox_set *set, size_t i);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* New keys for gateways that have one: the acceptor's. See rotation.c for the steps. */
#ifndef WEIR_SERVER_MONITOR_ROTATION_H
#define WEIR_SERVER_MONITOR_ROTATION_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/name.h"
#include "control/auth.h"
#include "server/mailbox/mailbox.h"

struct acceptor;

/* Body of MSG_SEND_REKEY. */
struct rekey_word {
    char base_key_id[AUTH_KEY_ID_SIZE], key_id[AUTH_KEY_ID_SIZE];
    uint8_t exchange[AUTH_EXCHANGE_SIZE];
};

/* Body of MSG_KEY_CONFIRM, arg[0] the session. */
struct key_confirm {
    char key_id[AUTH_KEY_ID_SIZE];
    bool has_exchange;
    uint8_t exchange[AUTH_EXCHANGE_SIZE], proof[AUTH_PROOF_SIZE];
};

/* Body of MSG_ROTATION_ORDERED. */
struct rotation_order {
    uint8_t gateway_id[AUTH_ID_SIZE];
    int64_t since_us; /* 0: withdrawn */
    int64_t asked_us; /* withdrawn: when that was asked; one ordered since then stands */
    bool again;       /* withdrawn in the record already: nothing is said where it is not known */
    char name[NAME_SIZE];
};

/* Rotations at once; further ones are told WEIR_E_FULL, or wait for the next look. */
#define ROTATIONS_MAX 64u

struct rotation_table;

struct rotation_table *rotation_table_new(struct acceptor *a);
void rotation_table_free(struct rotation_table *t);
/* MSG_GATEWAY_ROTATE: the reply comes when the new key is in force or it is given up.
 * WEIR_E_NOT_FOUND: the gateway is away, or went. */
void rotation_ask(struct rotation_table *t, const struct msg *m);
/* MSG_ROTATION_ORDERED: it is carried out when the gateway stands. Reply 0, or WEIR_E_NOT_FOUND for
 * what is withdrawn `again` and was not known here, be it that only a newer order is; the keys are
 * read again, in case none of it is known here yet. */
void rotation_ordered(struct rotation_table *t, const struct msg *m);
/* The body of the reply to MSG_ROTATION_ORDERS; new, or NULL: no memory. */
json_t *rotation_orders(const struct rotation_table *t);
/* A session stands, or keys were read anew: see soon whether something is due. */
void rotation_look(struct rotation_table *t);
void rotation_confirmed(struct rotation_table *t, uint64_t session, const struct key_confirm *c);
/* A gateway came back with a credential while the token of its enrolment is still open: close
 * it. */
void rotation_enrolled(struct rotation_table *t, const uint8_t gateway_id[AUTH_ID_SIZE],
                       const char *key_id);
void rotation_session_over(struct rotation_table *t, uint64_t session);
/* The store's answer to a write of ours, by its tag. False: it is not ours. */
bool rotation_reply(struct rotation_table *t, const struct msg *m);
/* Once a second: give up what takes too long, begin what is ordered, or due by age. */
void rotation_second(struct rotation_table *t);

#endif

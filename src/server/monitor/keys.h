/* SPDX-License-Identifier: Apache-2.0 */
/* Keys that gateways may prove, as the store last told them; the acceptor's own. Pure. */
#ifndef WEIR_SERVER_MONITOR_KEYS_H
#define WEIR_SERVER_MONITOR_KEYS_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/auth.h"

enum key_class {
    KEY_CREDENTIAL, /* belongs to one gateway */
    KEY_TOKEN,      /* enrols one gateway, once */
    KEY_CLASS_COUNT,
};

struct key_entry {
    char id[AUTH_KEY_ID_SIZE]; /* as in Hello: "gateway:HEX" or "token:ID" */
    uint8_t key[AUTH_KEY_SIZE];
    uint8_t gateway_id[AUTH_ID_SIZE]; /* credentials */
    bool has_tls_key;                 /* credentials: was made over TLS, by who has the key with */
    uint8_t tls_key[AUTH_FINGERPRINT_SIZE]; /* this fingerprint */
    int64_t expires_us;               /* tokens; 0: never */
    int64_t made_us;                  /* credentials; 0: not known */
    int64_t ordered_us; /* credentials: when a new one was ordered in its place; 0: none was */
    bool used;                        /* tokens: by gateway_id, which may not have heard of it */
};

struct key_table {
    struct key_entry *entry[KEY_CLASS_COUNT]; /* sorted by id */
    size_t count[KEY_CLASS_COUNT];
};

void keys_init(struct key_table *t);
void keys_fini(struct key_table *t);

/* Take over the rows of STORE_CREDENTIALS or STORE_ENROLMENTS; rows that make no sense are left out
 * and counted in *@ret_bad. 0, or an error code and the table is as before. */
int keys_replace(struct key_table *t, enum key_class class, const json_t *rows, size_t *ret_bad);

/* Add one credential, at once, before the store tells it again. 0 or -ENOMEM. */
int keys_add_credential(struct key_table *t, const struct key_entry *e);

/* Of the credentials of @gateway_id only @key_id is left, at once, before the store says so. */
void keys_keep_one(struct key_table *t, const uint8_t gateway_id[AUTH_ID_SIZE], const char *key_id);

/* A new key is ordered for @gateway_id since @since_us, at once, before the store says so. True:
 * one was ordered before. */
bool keys_order(struct key_table *t, const uint8_t gateway_id[AUTH_ID_SIZE], int64_t since_us);
/* What was ordered before @asked_us is ordered no more. True: there was one. */
bool keys_withdraw(struct key_table *t, const uint8_t gateway_id[AUTH_ID_SIZE], int64_t asked_us);

/* @gateway_id used the token @id, at once, before the store tells it. */
void keys_use_token(struct key_table *t, const char *id, const uint8_t gateway_id[AUTH_ID_SIZE]);

/* Whether a token is open that @gateway_id used. */
bool keys_open_token(const struct key_table *t, const uint8_t gateway_id[AUTH_ID_SIZE]);

/* By the id of Hello; NULL when unknown or expired. Valid until the table changes. */
const struct key_entry *keys_find(const struct key_table *t, const char *id, int64_t now_wall_us,
                                  enum key_class *ret_class);

#endif

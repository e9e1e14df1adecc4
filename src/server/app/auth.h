/* SPDX-License-Identifier: Apache-2.0 */
/* Who may do what: bearer tokens, their roles, and the administrator's file. */
#ifndef WEIR_SERVER_APP_AUTH_H
#define WEIR_SERVER_APP_AUTH_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"
#include "server/app/exchange.h"

#define AUTH_HASH_SIZE   32u
#define AUTH_MAX_TOKENS  1000u
#define AUTH_SECRET_SIZE 80u

/* Each may all that those before it may. */
#define ROLE_TABLE(X)                                                                              \
    X(NONE, "public")                                                                              \
    X(VIEWER, "viewer")                                                                            \
    X(OPERATOR, "operator")                                                                        \
    X(ADMIN, "admin")
enum role {
#define X(name, label) ROLE_##name,
    ROLE_TABLE(X)
#undef X
};
const char *role_name(enum role role);
/* "viewer", "operator" or "admin"; 0 or WEIR_E_INVALID. */
int role_parse(const char *text, enum role *ret);

struct auth_token {
    char id[32], name[NAME_SIZE];
    enum role role;
    uint8_t hash[AUTH_HASH_SIZE];
    int64_t expires_us; /* 0: never */
};

struct auth {
    uint8_t admin_hash[AUTH_HASH_SIZE];
    struct auth_token *token; /* AUTH_MAX_TOKENS; as the store has them */
    size_t count;
    bool loaded;
    struct exchange exchange;
};

/* Read <state_dir>/admin.token, or make it (0600). 0 or an error code with words. */
int auth_open(struct auth *a, const char *state_dir, char *ret_words, size_t size);
void auth_close(struct auth *a);

/* Take over what STORE_TOKENS answered. Rows that are not tokens are left out. */
void auth_load(struct auth *a, const json_t *rows);

/* Whose token @secret is: its role and name. 0, WEIR_E_AUTH, or WEIR_E_UNAVAILABLE while the
 * store's tokens are not read. Every known hash is compared, in constant time. */
int auth_check(const struct auth *a, const char *secret, int64_t wall_us, enum role *ret_role,
               const char **ret_name);

/* Make a token: its secret, its id and the hash in hex. */
void auth_make(char ret_secret[AUTH_SECRET_SIZE], char ret_id[32],
               char ret_hash_hex[2 * AUTH_HASH_SIZE + 1]);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Who this gateway is and which key it proves: small files in the state folder. */
#ifndef WEIR_GATEWAY_LINK_IDENTITY_H
#define WEIR_GATEWAY_LINK_IDENTITY_H
#include <stddef.h>
#include <stdint.h>

#include "control/auth.h"
#include "gateway/config.h"

enum link_key_kind {
    LINK_KEY_CREDENTIAL, /* <state_dir>/credential, from an earlier enrolment */
    LINK_KEY_TOKEN,      /* config->token: enrol */
    LINK_KEY_LOCAL,      /* the server's own gateway.key, on the same machine */
};

struct link_key {
    enum link_key_kind kind;
    char id[AUTH_KEY_ID_SIZE];
    uint8_t key[AUTH_KEY_SIZE];
};

/* Where the server leaves its local key when nothing else is configured. */
#define LINK_LOCAL_KEY_PATH "/var/lib/weir/gateway.key"
/* In the state folder: a key that may be in force (link_rekey.c). */
#define LINK_NEXT_FILE "credential.next"

/* Read <state_dir>/identity, or make it (0600, atomically; the folder too, 0700). 0 or an error
 * code with words in *@ret_why. */
int link_identity_load(const char *state_dir, uint8_t ret_id[AUTH_ID_SIZE], const char **ret_why);

/* The key to use now: credential, else token, else local key. Read anew at each try, so that a key
 * that comes later is found. 0, or an error code with words in *@ret_why. */
int link_key_load(const struct gateway_config *config, struct link_key *ret, const char **ret_why);

/* The key of credential.next, of a gateway that has a credential. 0, -ENOENT, or an error code. */
int link_key_next_load(const char *state_dir, struct link_key *ret);
/* The next key is the credential from now on. 0 or -errno. */
int link_credential_promote(const char *state_dir);
/* What a credential's file holds, from malloc; NULL: no memory. */
char *link_credential_line(const char *key_id, const uint8_t key[AUTH_KEY_SIZE], size_t *ret_n);

/* Keep a credential (0600, atomically). Once in a gateway's life, hence not through link_disk. 0 or
 * -errno. */
int link_credential_store(const char *state_dir, const char *key_id,
                          const uint8_t key[AUTH_KEY_SIZE]);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Mutual proof of a shared key, and the keys that enrolment derives; pure.
 *
 * proof(side) = HMAC-SHA-512/256(key, side || version || gateway_id || boot_id || nonce_g ||
 * nonce_s || key_id), and of the TLS session around it, if there is one; enrolled key =
 * HMAC-SHA-512/256(token key, "weir gateway key" || gateway_id || nonce_g || nonce_s). Nothing
 * secret travels; an eavesdropper learns no key, a replay fails on the nonces, or on the TLS
 * session (RFC 9266): whoever relays the handshake from one session to another proves nothing. What
 * follows is plaintext without TLS: hence on loopback and Unix sockets only. libsodium crypto_auth
 * (HMAC, RFC 2104). */
#ifndef WEIR_CONTROL_AUTH_H
#define WEIR_CONTROL_AUTH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUTH_KEY_SIZE 32u
#define AUTH_NONCE_SIZE 32u
#define AUTH_PROOF_SIZE 32u
#define AUTH_ID_SIZE 16u
#define AUTH_KEY_ID_SIZE 80u
#define AUTH_CHANNEL_SIZE 32u
#define AUTH_FINGERPRINT_SIZE 32u
#define AUTH_EXCHANGE_SIZE 32u

enum auth_side { AUTH_GATEWAY, AUTH_SERVER };

struct auth_context {
    uint32_t version;
    uint8_t gateway_id[AUTH_ID_SIZE], boot_id[AUTH_ID_SIZE];
    uint8_t nonce_gateway[AUTH_NONCE_SIZE], nonce_server[AUTH_NONCE_SIZE];
    char key_id[AUTH_KEY_ID_SIZE];
    bool has_channel; /* TLS is underneath: */
    uint8_t channel[AUTH_CHANNEL_SIZE]; /* tls-exporter of this session */
};

void auth_prove(const struct auth_context *c, const uint8_t key[AUTH_KEY_SIZE], enum auth_side side,
                uint8_t ret_proof[AUTH_PROOF_SIZE]);
/* Constant time. */
bool auth_check(const struct auth_context *c, const uint8_t key[AUTH_KEY_SIZE], enum auth_side side,
                const uint8_t *proof, size_t proof_size);
void auth_derive(const struct auth_context *c, const uint8_t token_key[AUTH_KEY_SIZE],
                 uint8_t ret_key[AUTH_KEY_SIZE]);

/* A new key in the place of one that is known (docs/protocol.md, "Rotation"). Each side makes a
 * secret and what it tells of it (X25519, RFC 7748); the key comes of both, of the old key and of
 * who and what it is for, so that neither the old key nor what was overheard suffices. @secret:
 * 32 random bytes; what is told of it goes to @ret_exchange. */
void auth_exchange_make(const uint8_t secret[AUTH_EXCHANGE_SIZE],
                        uint8_t ret_exchange[AUTH_EXCHANGE_SIZE]);
struct auth_rekey {
    uint8_t gateway_id[AUTH_ID_SIZE];
    char key_id[AUTH_KEY_ID_SIZE]; /* the new one's */
    uint8_t server[AUTH_EXCHANGE_SIZE], gateway[AUTH_EXCHANGE_SIZE]; /* what each told */
};
/* @secret is that of @side. 0, or WEIR_E_AUTH: what the other side told is worth nothing. */
int auth_rekey(const struct auth_rekey *r, enum auth_side side,
               const uint8_t secret[AUTH_EXCHANGE_SIZE], const uint8_t old_key[AUTH_KEY_SIZE],
               uint8_t ret_key[AUTH_KEY_SIZE]);
/* That the gateway has @key, as KeyConfirm says it in @session. */
void auth_confirm(const uint8_t key[AUTH_KEY_SIZE], const uint8_t gateway_id[AUTH_ID_SIZE],
                  uint64_t session, const char *key_id, uint8_t ret_proof[AUTH_PROOF_SIZE]);

/* Enrolment tokens: "weir1.<id, 16 hex>.<secret, 43 base64url>", and behind another dot, in 43
 * more, SHA-256 of the public key of the server that made it, which a gateway on another machine
 * knows it by. The key is BLAKE2b-256 of the
 * secret; the server stores that key only, never the token. */
#define AUTH_TOKEN_SIZE 112u
#define AUTH_TOKEN_ID_SIZE 17u
/* Make one from 8 random id bytes and 32 random secret bytes that the caller got from
 * rng_system. */
void auth_token_make(const uint8_t random[40], char ret_token[AUTH_TOKEN_SIZE],
                     char ret_id[AUTH_TOKEN_ID_SIZE], uint8_t ret_key[AUTH_KEY_SIZE]);
/* Add the server's fingerprint. */
void auth_token_bind(char token[AUTH_TOKEN_SIZE], const uint8_t fingerprint[AUTH_FINGERPRINT_SIZE]);
/* The fingerprint in @token. False: it has none, or is no token. */
bool auth_token_fingerprint(const char *token, uint8_t ret[AUTH_FINGERPRINT_SIZE]);
/* With or without a fingerprint. 0 or WEIR_E_PARSE. */
int auth_token_parse(const char *token, char ret_id[AUTH_TOKEN_ID_SIZE],
                     uint8_t ret_key[AUTH_KEY_SIZE]);

#endif

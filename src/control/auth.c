/* SPDX-License-Identifier: Apache-2.0 */
/* Mutual proof of a shared key, and the keys that enrolment derives.
 *
 * Model. Every field before the key's id has a fixed size and the id's length is said before it, so
 * no two different contexts give the same bytes. The first byte names the side, so a proof cannot
 * be sent back to its maker. Both nonces are inside, so each side contributes freshness: a proof
 * replayed on another connection is a proof over another nonce. The derived key is bound to the
 * gateway that enrolled and to that one handshake. Keys and proofs are compared in constant time
 * (sodium_memcmp). */
#include "control/auth.h"

#include <sodium.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"

_Static_assert(crypto_auth_KEYBYTES == AUTH_KEY_SIZE, "size of a key");
_Static_assert(crypto_auth_BYTES == AUTH_PROOF_SIZE, "size of a proof");

#define TOKEN_PREFIX "weir1."
#define TOKEN_PREFIX_SIZE 6u
#define TOKEN_SECRET_SIZE 32u
#define TOKEN_SECRET_TEXT 43u /* base64url of 32 bytes without padding */
#define TOKEN_TEXT (TOKEN_PREFIX_SIZE + 16u + 1u + TOKEN_SECRET_TEXT)
#define TOKEN_BOUND_TEXT (TOKEN_TEXT + 1u + TOKEN_SECRET_TEXT)

_Static_assert(TOKEN_BOUND_TEXT < AUTH_TOKEN_SIZE, "a token fits its place");
_Static_assert(AUTH_FINGERPRINT_SIZE == TOKEN_SECRET_SIZE, "both take 43 characters");

static const char channel_purpose[] = "tls-exporter";

struct writer {
    uint8_t bytes[1 + 4 + 2 * AUTH_ID_SIZE + 2 * AUTH_NONCE_SIZE + 1 + AUTH_KEY_ID_SIZE +
                  sizeof(channel_purpose) + AUTH_CHANNEL_SIZE];
    size_t n;
};

static void put(struct writer *w, const void *bytes, size_t n)
{
    weir_assert(n <= sizeof(w->bytes) - w->n);
    memcpy(w->bytes + w->n, bytes, n);
    w->n += n;
}

static void put_byte(struct writer *w, uint8_t b)
{
    put(w, &b, 1);
}

void auth_prove(const struct auth_context *c, const uint8_t key[AUTH_KEY_SIZE], enum auth_side side,
                uint8_t ret_proof[AUTH_PROOF_SIZE])
{
    size_t id_size = strnlen(c->key_id, sizeof(c->key_id));
    weir_assert(id_size < sizeof(c->key_id));
    struct writer w = {.n = 0};
    put_byte(&w, side == AUTH_GATEWAY ? 'G' : 'S');
    for (unsigned shift = 32; shift > 0; shift -= 8)
        put_byte(&w, (uint8_t)(c->version >> (shift - 8)));
    put(&w, c->gateway_id, sizeof(c->gateway_id));
    put(&w, c->boot_id, sizeof(c->boot_id));
    put(&w, c->nonce_gateway, sizeof(c->nonce_gateway));
    put(&w, c->nonce_server, sizeof(c->nonce_server));
    put_byte(&w, (uint8_t)id_size);
    put(&w, c->key_id, id_size);
    if (c->has_channel) {
        put(&w, channel_purpose, sizeof(channel_purpose) - 1);
        put(&w, c->channel, sizeof(c->channel));
    }
    crypto_auth(ret_proof, w.bytes, w.n, key);
}

bool auth_check(const struct auth_context *c, const uint8_t key[AUTH_KEY_SIZE], enum auth_side side,
                const uint8_t *proof, size_t proof_size)
{
    uint8_t expected[AUTH_PROOF_SIZE];
    if (proof_size != sizeof(expected))
        return false;
    auth_prove(c, key, side, expected);
    bool same = sodium_memcmp(expected, proof, sizeof(expected)) == 0;
    sodium_memzero(expected, sizeof(expected));
    return same;
}

void auth_derive(const struct auth_context *c, const uint8_t token_key[AUTH_KEY_SIZE],
                 uint8_t ret_key[AUTH_KEY_SIZE])
{
    static const char purpose[] = "weir gateway key";
    struct writer w = {.n = 0};
    put(&w, purpose, sizeof(purpose) - 1);
    put(&w, c->gateway_id, sizeof(c->gateway_id));
    put(&w, c->nonce_gateway, sizeof(c->nonce_gateway));
    put(&w, c->nonce_server, sizeof(c->nonce_server));
    crypto_auth(ret_key, w.bytes, w.n, token_key);
}

void auth_exchange_make(const uint8_t secret[AUTH_EXCHANGE_SIZE],
                        uint8_t ret_exchange[AUTH_EXCHANGE_SIZE])
{
    int r = crypto_scalarmult_base(ret_exchange, secret);
    weir_assert(r == 0);
}

static void put_key_id(struct writer *w, const char *key_id)
{
    size_t n = strnlen(key_id, AUTH_KEY_ID_SIZE);
    weir_assert(n < AUTH_KEY_ID_SIZE);
    put_byte(w, (uint8_t)n);
    put(w, key_id, n);
}

int auth_rekey(const struct auth_rekey *r, enum auth_side side,
               const uint8_t secret[AUTH_EXCHANGE_SIZE], const uint8_t old_key[AUTH_KEY_SIZE],
               uint8_t ret_key[AUTH_KEY_SIZE])
{
    static const char purpose[] = "weir gateway rekey";
    uint8_t shared[crypto_scalarmult_BYTES];
    /* Refuses points of small order, whose product anybody knows. */
    if (crypto_scalarmult(shared, secret, side == AUTH_SERVER ? r->gateway : r->server) != 0)
        return WEIR_E_AUTH;
    struct writer w = {.n = 0};
    put(&w, purpose, sizeof(purpose) - 1);
    put(&w, r->gateway_id, sizeof(r->gateway_id));
    put(&w, r->server, sizeof(r->server));
    put(&w, r->gateway, sizeof(r->gateway));
    put_key_id(&w, r->key_id);
    put(&w, shared, sizeof(shared));
    crypto_auth(ret_key, w.bytes, w.n, old_key);
    sodium_memzero(shared, sizeof(shared));
    sodium_memzero(&w, sizeof(w));
    return 0;
}

void auth_confirm(const uint8_t key[AUTH_KEY_SIZE], const uint8_t gateway_id[AUTH_ID_SIZE],
                  uint64_t session, const char *key_id, uint8_t ret_proof[AUTH_PROOF_SIZE])
{
    static const char purpose[] = "weir key confirm";
    struct writer w = {.n = 0};
    put(&w, purpose, sizeof(purpose) - 1);
    put(&w, gateway_id, AUTH_ID_SIZE);
    for (int shift = 56; shift >= 0; shift -= 8)
        put_byte(&w, (uint8_t)(session >> shift));
    put_key_id(&w, key_id);
    crypto_auth(ret_proof, w.bytes, w.n, key);
}

static void token_key(const uint8_t secret[TOKEN_SECRET_SIZE], uint8_t ret_key[AUTH_KEY_SIZE])
{
    int r = crypto_generichash(ret_key, AUTH_KEY_SIZE, secret, TOKEN_SECRET_SIZE, NULL, 0);
    weir_assert(r == 0);
}

void auth_token_make(const uint8_t random[40], char ret_token[AUTH_TOKEN_SIZE],
                     char ret_id[AUTH_TOKEN_ID_SIZE], uint8_t ret_key[AUTH_KEY_SIZE])
{
    const uint8_t *secret = random + 8;
    sodium_bin2hex(ret_id, AUTH_TOKEN_ID_SIZE, random, 8);
    memcpy(ret_token, TOKEN_PREFIX, TOKEN_PREFIX_SIZE);
    memcpy(ret_token + TOKEN_PREFIX_SIZE, ret_id, 16);
    ret_token[TOKEN_PREFIX_SIZE + 16] = '.';
    sodium_bin2base64(ret_token + TOKEN_PREFIX_SIZE + 17, TOKEN_SECRET_TEXT + 1, secret,
                      TOKEN_SECRET_SIZE, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    token_key(secret, ret_key);
    weir_assert(strlen(ret_token) == TOKEN_TEXT);
}

void auth_token_bind(char token[AUTH_TOKEN_SIZE], const uint8_t fingerprint[AUTH_FINGERPRINT_SIZE])
{
    weir_assert(strlen(token) == TOKEN_TEXT);
    token[TOKEN_TEXT] = '.';
    sodium_bin2base64(token + TOKEN_TEXT + 1, TOKEN_SECRET_TEXT + 1, fingerprint,
                      AUTH_FINGERPRINT_SIZE, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
}

bool auth_token_fingerprint(const char *token, uint8_t ret[AUTH_FINGERPRINT_SIZE])
{
    size_t n = 0;
    const char *end = NULL;
    if (strnlen(token, AUTH_TOKEN_SIZE) != TOKEN_BOUND_TEXT || token[TOKEN_TEXT] != '.')
        return false;
    return sodium_base642bin(ret, AUTH_FINGERPRINT_SIZE, token + TOKEN_TEXT + 1, TOKEN_SECRET_TEXT,
                             NULL, &n, &end, sodium_base64_VARIANT_URLSAFE_NO_PADDING) == 0 &&
           n == AUTH_FINGERPRINT_SIZE && *end == '\0';
}

int auth_token_parse(const char *token, char ret_id[AUTH_TOKEN_ID_SIZE],
                     uint8_t ret_key[AUTH_KEY_SIZE])
{
    uint8_t fingerprint[AUTH_FINGERPRINT_SIZE];
    if (strnlen(token, AUTH_TOKEN_SIZE) != TOKEN_TEXT &&
        !auth_token_fingerprint(token, fingerprint))
        return WEIR_E_PARSE;
    if (memcmp(token, TOKEN_PREFIX, TOKEN_PREFIX_SIZE) != 0)
        return WEIR_E_PARSE;
    const char *id = token + TOKEN_PREFIX_SIZE;
    if (strspn(id, "0123456789abcdef") != 16 || id[16] != '.')
        return WEIR_E_PARSE;
    uint8_t secret[TOKEN_SECRET_SIZE];
    size_t n = 0;
    const char *end = NULL;
    if (sodium_base642bin(secret, sizeof(secret), id + 17, TOKEN_SECRET_TEXT, NULL, &n, &end,
                          sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0 ||
        n != sizeof(secret) || end != id + 17 + TOKEN_SECRET_TEXT)
        return WEIR_E_PARSE;
    memcpy(ret_id, id, 16);
    ret_id[16] = '\0';
    token_key(secret, ret_key);
    sodium_memzero(secret, sizeof(secret));
    return 0;
}

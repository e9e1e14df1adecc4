/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: only who knows the key, for this handshake and this side, makes a proof that is taken;
 * tokens are read exactly; keys derived by enrolment are bound to their gateway.
 * Method: a known answer from an independent implementation (Python's hmac and hashlib), then every
 * byte of the context changed in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "control/auth.h"

static struct auth_context context(void)
{
    struct auth_context c = {.version = 1, .key_id = "local"};
    for (size_t i = 0; i < AUTH_ID_SIZE; i++) {
        c.gateway_id[i] = (uint8_t)i;
        c.boot_id[i] = (uint8_t)(16 + i);
    }
    for (size_t i = 0; i < AUTH_NONCE_SIZE; i++) {
        c.nonce_gateway[i] = (uint8_t)(32 + i);
        c.nonce_server[i] = (uint8_t)(64 + i);
    }
    return c;
}

static void some_key(uint8_t key[AUTH_KEY_SIZE])
{
    for (size_t i = 0; i < AUTH_KEY_SIZE; i++)
        key[i] = (uint8_t)(200 - i);
}

static void as_hex(const uint8_t *bytes, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++)
        sprintf(out + 2 * i, "%02x", bytes[i]);
}

static void proofs_are_what_another_implementation_makes(void **state)
{
    (void)state;
    struct auth_context c = context();
    uint8_t key[AUTH_KEY_SIZE], out[AUTH_PROOF_SIZE];
    char hex[2 * AUTH_PROOF_SIZE + 1];
    some_key(key);
    auth_prove(&c, key, AUTH_GATEWAY, out);
    as_hex(out, sizeof(out), hex);
    assert_string_equal(hex, "0802fc8a975f76a48878ed1822c0936991f70f34df8f2884fc6b6bcb813dbb4f");
    auth_prove(&c, key, AUTH_SERVER, out);
    as_hex(out, sizeof(out), hex);
    assert_string_equal(hex, "4aebd0bfcfb511148225a66b0b2427e27223c5dbebf9d4253c8c0949d46ea9e9");
    auth_derive(&c, key, out);
    as_hex(out, sizeof(out), hex);
    assert_string_equal(hex, "fe7d54111cc6fc95a2014971f52cbc06686ac021d19b16429239242b46e8beb0");
}

static void a_proof_fits_only_its_side(void **state)
{
    (void)state;
    struct auth_context c = context();
    uint8_t key[AUTH_KEY_SIZE], proof[AUTH_PROOF_SIZE];
    some_key(key);
    auth_prove(&c, key, AUTH_SERVER, proof);
    assert_true(auth_check(&c, key, AUTH_SERVER, proof, sizeof(proof)));
    assert_false(auth_check(&c, key, AUTH_GATEWAY, proof, sizeof(proof)));
    assert_false(auth_check(&c, key, AUTH_SERVER, proof, sizeof(proof) - 1));
    assert_false(auth_check(&c, key, AUTH_SERVER, proof, 0));
}

static void a_proof_fits_no_other_handshake(void **state)
{
    (void)state;
    uint8_t key[AUTH_KEY_SIZE], proof[AUTH_PROOF_SIZE];
    struct auth_context c = context();
    some_key(key);
    auth_prove(&c, key, AUTH_GATEWAY, proof);
    struct {
        size_t at, size;
    } fields[] = {
        {offsetof(struct auth_context, version), sizeof(c.version)},
        {offsetof(struct auth_context, gateway_id), sizeof(c.gateway_id)},
        {offsetof(struct auth_context, boot_id), sizeof(c.boot_id)},
        {offsetof(struct auth_context, nonce_gateway), sizeof(c.nonce_gateway)},
        {offsetof(struct auth_context, nonce_server), sizeof(c.nonce_server)},
        {offsetof(struct auth_context, key_id), 5},
    };
    for (size_t f = 0; f < sizeof(fields) / sizeof(fields[0]); f++) {
        for (size_t i = 0; i < fields[f].size; i++) {
            struct auth_context other = context();
            ((uint8_t *)&other)[fields[f].at + i] ^= 1;
            assert_false(auth_check(&other, key, AUTH_GATEWAY, proof, sizeof(proof)));
        }
    }
    for (size_t i = 0; i < sizeof(key); i++) {
        key[i] ^= 0x80;
        assert_false(auth_check(&c, key, AUTH_GATEWAY, proof, sizeof(proof)));
        key[i] ^= 0x80;
    }
    assert_true(auth_check(&c, key, AUTH_GATEWAY, proof, sizeof(proof)));
}

static void a_token_is_read_as_it_was_made(void **state)
{
    (void)state;
    uint8_t random[40], made[AUTH_KEY_SIZE], read[AUTH_KEY_SIZE];
    char token[AUTH_TOKEN_SIZE], id[AUTH_TOKEN_ID_SIZE], again[AUTH_TOKEN_ID_SIZE], hex[65];
    for (size_t i = 0; i < sizeof(random); i++)
        random[i] = (uint8_t)(3 * i);
    auth_token_make(random, token, id, made);
    assert_string_equal(token,
                        "weir1.000306090c0f1215.GBseISQnKi0wMzY5PD9CRUhLTlFUV1pdYGNmaWxvcnU");
    as_hex(made, sizeof(made), hex);
    assert_string_equal(hex, "0b296a22d990f97afaae4ea0b99dfe5e533161603a97d6da50684d59227e83b9");
    assert_int_equal(auth_token_parse(token, again, read), 0);
    assert_string_equal(id, again);
    assert_memory_equal(made, read, sizeof(made));
}

static void a_token_with_a_fingerprint_gives_both_and_only_whole(void **state)
{
    (void)state;
    uint8_t random[40], made[AUTH_KEY_SIZE], read[AUTH_KEY_SIZE], print[AUTH_FINGERPRINT_SIZE],
        got[AUTH_FINGERPRINT_SIZE];
    char token[AUTH_TOKEN_SIZE], id[AUTH_TOKEN_ID_SIZE], again[AUTH_TOKEN_ID_SIZE];
    memset(random, 0x5c, sizeof(random));
    memset(print, 0xe7, sizeof(print));
    auth_token_make(random, token, id, made);
    assert_false(auth_token_fingerprint(token, got));
    auth_token_bind(token, print);
    assert_int_equal(auth_token_parse(token, again, read), 0);
    assert_string_equal(id, again);
    assert_memory_equal(made, read, sizeof(made));
    assert_true(auth_token_fingerprint(token, got));
    assert_memory_equal(print, got, sizeof(print));
    for (size_t n = strlen(token) - 1; n > strlen("weir1.") + 17 + 43; n--) {
        token[n] = '\0';
        assert_int_equal(auth_token_parse(token, again, read), WEIR_E_PARSE);
        assert_false(auth_token_fingerprint(token, got));
    }
}

static void a_proof_fits_its_own_tls_session_only(void **state)
{
    (void)state;
    struct auth_context c = {.version = 1, .key_id = "local"};
    uint8_t key[AUTH_KEY_SIZE] = {1}, proof[AUTH_PROOF_SIZE];
    auth_prove(&c, key, AUTH_GATEWAY, proof);
    c.has_channel = true;
    assert_false(auth_check(&c, key, AUTH_GATEWAY, proof, sizeof(proof)));
    auth_prove(&c, key, AUTH_GATEWAY, proof);
    assert_true(auth_check(&c, key, AUTH_GATEWAY, proof, sizeof(proof)));
    c.channel[31] ^= 1;
    assert_false(auth_check(&c, key, AUTH_GATEWAY, proof, sizeof(proof)));
}

static void what_is_no_token_is_refused(void **state)
{
    (void)state;
    uint8_t random[40] = {1}, key[AUTH_KEY_SIZE];
    char token[AUTH_TOKEN_SIZE], id[AUTH_TOKEN_ID_SIZE], bad[2 * AUTH_TOKEN_SIZE];
    auth_token_make(random, token, id, key);
    const char *const wrong[] = {"", "weir1.", "weir2.0102", "x"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(auth_token_parse(wrong[i], id, key), WEIR_E_PARSE);
    for (size_t cut = 0; cut < strlen(token); cut++) {
        snprintf(bad, sizeof(bad), "%.*s", (int)cut, token);
        assert_int_equal(auth_token_parse(bad, id, key), WEIR_E_PARSE);
    }
    snprintf(bad, sizeof(bad), "%sA", token);
    assert_int_equal(auth_token_parse(bad, id, key), WEIR_E_PARSE);
    for (size_t i = 0; i < strlen(token); i++) {
        snprintf(bad, sizeof(bad), "%s", token);
        bad[i] = '!';
        assert_int_equal(auth_token_parse(bad, id, key), WEIR_E_PARSE);
    }
    /* The last character carries two bits that must be 0: no second spelling of a token. */
    snprintf(bad, sizeof(bad), "%s", token);
    bad[strlen(bad) - 1] = 'B';
    assert_int_equal(auth_token_parse(bad, id, key), WEIR_E_PARSE);
}

/* Made with tests/lib/controlwire.py, which has its own X25519 and hmac. */
static void both_sides_make_the_same_new_key_and_nobody_else(void **state)
{
    (void)state;
    uint8_t one[32], two[32], old[32], mine[32], theirs[32], proof[32], other[32];
    struct auth_rekey r = {.key_id = "gateway:new"};
    memset(one, 1, sizeof(one));
    memset(two, 2, sizeof(two));
    memset(old, 3, sizeof(old));
    memset(r.gateway_id, 4, sizeof(r.gateway_id));
    auth_exchange_make(one, r.server);
    auth_exchange_make(two, r.gateway);
    assert_int_equal(auth_rekey(&r, AUTH_SERVER, one, old, mine), 0);
    assert_int_equal(auth_rekey(&r, AUTH_GATEWAY, two, old, theirs), 0);
    assert_memory_equal(mine, theirs, 32);
    char hex[65];
    for (size_t i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", mine[i]);
    assert_string_equal(hex, "1e663077be1f84d262fd563c4a420582d124c331bf1006e8b231347dab101ea5");
    auth_confirm(mine, r.gateway_id, 7, r.key_id, proof);
    for (size_t i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", proof[i]);
    assert_string_equal(hex, "95cb96f45877d5953ddfc51af610167b798695a09647be40cd68bd6f010f6511");
    auth_confirm(mine, r.gateway_id, 8, r.key_id, other);
    assert_memory_not_equal(proof, other, 32);
    old[0] ^= 1; /* who overheard everything but has not the old key */
    assert_int_equal(auth_rekey(&r, AUTH_SERVER, one, old, other), 0);
    assert_memory_not_equal(mine, other, 32);
    old[0] ^= 1;
    uint8_t stranger[32]; /* who has the old key but neither secret */
    memset(stranger, 5, sizeof(stranger));
    assert_int_equal(auth_rekey(&r, AUTH_SERVER, stranger, old, other), 0);
    assert_memory_not_equal(mine, other, 32);
    memset(r.gateway, 0, sizeof(r.gateway));
    assert_int_equal(auth_rekey(&r, AUTH_SERVER, one, old, other), WEIR_E_AUTH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(proofs_are_what_another_implementation_makes),
        cmocka_unit_test(a_proof_fits_only_its_side),
        cmocka_unit_test(a_proof_fits_no_other_handshake),
        cmocka_unit_test(a_token_is_read_as_it_was_made),
        cmocka_unit_test(a_token_with_a_fingerprint_gives_both_and_only_whole),
        cmocka_unit_test(a_proof_fits_its_own_tls_session_only),
        cmocka_unit_test(what_is_no_token_is_refused),
        cmocka_unit_test(both_sides_make_the_same_new_key_and_nobody_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens.
 *
 * Problem: whoever reads the database must not be able to act as its users, and the first
 * administrator needs a way in before any token exists.
 *
 * Model: a token is 32 random bytes behind a prefix that says what it is. Only its BLAKE2b hash is
 * kept; with so much chance in it a plain hash cannot be searched, so no slow one is needed. The
 * administrator's token lies in a file of the state folder that only the server's user can read:
 * who can read that file owns the server already.
 *
 * Invariants: (1) no secret is in the store, in a log or in memory beyond the request that made it;
 * (2) a check costs the same whichever token it was. */
#include "server/app/access.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"

#define ADMIN_PREFIX "weira_"
#define TOKEN_PREFIX "weirt_"
#define SECRET_BYTES 32u

const char *role_name(enum role role)
{
    static const char *const names[] = {
#define X(name, label) label,
        ROLE_TABLE(X)
#undef X
    };
    weir_assert((size_t)role < sizeof(names) / sizeof(names[0]));
    return names[role];
}

int role_parse(const char *text, enum role *ret)
{
    for (enum role r = ROLE_VIEWER; r <= ROLE_ADMIN; r++) {
        if (strcmp(text, role_name(r)) == 0) {
            *ret = r;
            return 0;
        }
    }
    return WEIR_E_INVALID;
}

static void hash_secret(const char *secret, uint8_t out[ACCESS_HASH_SIZE])
{
    int r = crypto_generichash(out, ACCESS_HASH_SIZE, (const unsigned char *)secret, strlen(secret),
                               NULL, 0);
    weir_assert(r == 0);
}

static void secret_make(const char *prefix, char out[ACCESS_SECRET_SIZE])
{
    uint8_t random[SECRET_BYTES];
    char text[sodium_base64_ENCODED_LEN(SECRET_BYTES, sodium_base64_VARIANT_URLSAFE_NO_PADDING)];
    rng_system(random, sizeof(random));
    sodium_bin2base64(text, sizeof(text), random, sizeof(random),
                      sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    int n = snprintf(out, ACCESS_SECRET_SIZE, "%s%s", prefix, text);
    weir_assert(n > 0 && n < (int)ACCESS_SECRET_SIZE);
    sodium_memzero(random, sizeof(random));
    sodium_memzero(text, sizeof(text));
}

void access_make(char ret_secret[ACCESS_SECRET_SIZE], char ret_id[32],
                 char ret_hash_hex[2 * ACCESS_HASH_SIZE + 1])
{
    uint8_t id[8], hash[ACCESS_HASH_SIZE];
    rng_system(id, sizeof(id));
    sodium_bin2hex(ret_id, 32, id, sizeof(id));
    secret_make(TOKEN_PREFIX, ret_secret);
    hash_secret(ret_secret, hash);
    sodium_bin2hex(ret_hash_hex, 2 * ACCESS_HASH_SIZE + 1, hash, sizeof(hash));
}

static int admin_make(struct access *a, const char *path, char *ret_words, size_t size)
{
    char line[ACCESS_SECRET_SIZE + 1];
    secret_make(ADMIN_PREFIX, line);
    hash_secret(line, a->admin_hash);
    size_t n = strlen(line);
    line[n] = '\n';
    int r = text_write_file_atomic(path, line, n + 1, 0600);
    sodium_memzero(line, sizeof(line));
    if (r < 0)
        snprintf(ret_words, size, "%s: cannot be written: %s", path, weir_strerror(r));
    return r;
}

static int admin_read(struct access *a, const char *path, char *ret_words, size_t size)
{
    char *data;
    size_t n;
    int r = text_read_file(path, 4096, &data, &n);
    if (r < 0) {
        snprintf(ret_words, size, "%s: cannot be read: %s", path, weir_strerror(r));
        return r;
    }
    n = strcspn(data, "\r\n");
    bool good =
        n >= sizeof(ADMIN_PREFIX) - 1 + SECRET_BYTES && data[n + strspn(data + n, "\r\n")] == '\0';
    data[n] = '\0';
    if (good)
        hash_secret(data, a->admin_hash);
    else
        snprintf(ret_words, size, "%s: holds no token; remove it and a new one is made", path);
    sodium_memzero(data, n);
    free(data);
    return good ? 0 : WEIR_E_INVALID;
}

int access_open(struct access *a, const char *state_dir, char *ret_words, size_t size)
{
    char path[600];
    snprintf(path, sizeof(path), "%s/admin.token", state_dir);
    if (sodium_init() < 0) {
        snprintf(ret_words, size, "libsodium cannot start");
        return WEIR_E_UNAVAILABLE;
    }
    a->token = calloc(ACCESS_MAX_TOKENS, sizeof(*a->token));
    if (!a->token) {
        snprintf(ret_words, size, "no memory");
        return -ENOMEM;
    }
    struct stat st;
    if (stat(path, &st) != 0) {
        if (errno != ENOENT) {
            snprintf(ret_words, size, "%s: %s", path, weir_strerror(-errno));
            return -errno;
        }
        return admin_make(a, path, ret_words, size);
    }
    if (st.st_mode & 077) {
        snprintf(ret_words, size, "%s: others may read it (mode %03o); it must be 0600", path,
                 (unsigned)(st.st_mode & 0777));
        return WEIR_E_REFUSED;
    }
    return admin_read(a, path, ret_words, size);
}

void access_close(struct access *a)
{
    exchange_fini(&a->exchange);
    free(a->token);
    a->token = NULL;
}

static bool token_from_row(const json_t *row, struct access_token *t)
{
    const char *id = json_string_value(json_object_get(row, "id"));
    const char *name = json_string_value(json_object_get(row, "name"));
    const char *role = json_string_value(json_object_get(row, "role"));
    const char *hash = json_string_value(json_object_get(row, "hash"));
    size_t n;
    memset(t, 0, sizeof(*t));
    if (!id || !name || !role || !hash || text_copy(t->id, sizeof(t->id), id) < 0 ||
        text_copy(t->name, sizeof(t->name), name) < 0 || role_parse(role, &t->role) < 0)
        return false;
    t->expires_us = json_integer_value(json_object_get(row, "expires_us"));
    return sodium_hex2bin(t->hash, sizeof(t->hash), hash, strlen(hash), NULL, &n, NULL) == 0 &&
           n == sizeof(t->hash);
}

void access_load(struct access *a, const json_t *rows)
{
    size_t i;
    json_t *row;
    a->count = 0;
    json_array_foreach(rows, i, row)
    {
        if (a->count < ACCESS_MAX_TOKENS && token_from_row(row, &a->token[a->count]))
            a->count++;
    }
    a->loaded = true;
}

void access_forget(struct access *a, const char *id)
{
    for (size_t i = 0; i < a->count; i++) {
        if (strcmp(a->token[i].id, id) == 0)
            a->token[i--] = a->token[--a->count];
    }
}

int access_check(const struct access *a, const char *secret, int64_t wall_us, enum role *ret_role,
                 const char **ret_name)
{
    uint8_t hash[ACCESS_HASH_SIZE];
    hash_secret(secret, hash);
    const struct access_token *found = NULL;
    bool admin = sodium_memcmp(hash, a->admin_hash, sizeof(hash)) == 0;
    for (size_t i = 0; i < a->count; i++) {
        if (sodium_memcmp(hash, a->token[i].hash, sizeof(hash)) == 0)
            found = &a->token[i];
    }
    if (admin) {
        *ret_role = ROLE_ADMIN;
        *ret_name = "admin";
        return 0;
    }
    if (!found)
        return a->loaded ? WEIR_E_AUTH : WEIR_E_UNAVAILABLE;
    if (found->expires_us != 0 && found->expires_us <= wall_us)
        return WEIR_E_AUTH;
    *ret_role = found->role;
    *ret_name = found->name;
    return 0;
}

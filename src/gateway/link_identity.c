/* SPDX-License-Identifier: Apache-2.0 */
/* Files, all of mode 0600 and written whole or not at all:
 *   identity    32 hex digits: the gateway's id for ever
 *   credential  "KEY_ID HEXKEY": what enrolment gave, or a rotation
 *   credential.next  the same, of a rotation that may have been carried out (link_rekey.c)
 * and the server's gateway.key (64 hex digits), read where the server left it. A file that is there
 * but cannot be understood is an error that is said, never silently replaced: an identity made anew
 * would be another gateway, whose history and controls start at nothing. */
#include "gateway/link_identity.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"

#define FILE_MAX 512u
#define PATH_SIZE (512u + 32u)

static void state_path(const char *state_dir, const char *name, char out[PATH_SIZE])
{
    int n = snprintf(out, PATH_SIZE, "%s/%s", state_dir, name);
    weir_assert(n > 0);
    weir_assert((size_t)n < PATH_SIZE);
}

/* Exactly @size bytes as hex digits, blanks at the end aside. */
static int parse_hex(const char *text, uint8_t *ret, size_t size)
{
    size_t n = 0;
    const char *end = NULL;
    if (sodium_hex2bin(ret, size, text, strlen(text), NULL, &n, &end) != 0 || n != size)
        return WEIR_E_PARSE;
    return end[strspn(end, " \t\r\n")] == '\0' ? 0 : WEIR_E_PARSE;
}

static int make_identity(const char *state_dir, const char *path, uint8_t ret_id[AUTH_ID_SIZE])
{
    uint8_t id[AUTH_ID_SIZE];
    char text[2 * AUTH_ID_SIZE + 2];
    if (mkdir(state_dir, 0700) < 0 && errno != EEXIST)
        return -errno;
    rng_system(id, sizeof(id));
    sodium_bin2hex(text, sizeof(text), id, sizeof(id));
    text[sizeof(text) - 2] = '\n';
    text[sizeof(text) - 1] = '\0';
    int r = text_write_file_atomic(path, text, strlen(text), 0600);
    if (r == 0)
        memcpy(ret_id, id, sizeof(id));
    return r;
}

int link_identity_load(const char *state_dir, uint8_t ret_id[AUTH_ID_SIZE], const char **ret_why)
{
    char path[PATH_SIZE];
    char *text = NULL;
    state_path(state_dir, "identity", path);
    int r = text_read_file(path, FILE_MAX, &text, NULL);
    if (r == -ENOENT || r == -ENOTDIR) {
        r = make_identity(state_dir, path, ret_id);
        if (r < 0)
            *ret_why =
                "the identity cannot be written into the state folder (--state-dir names another)";
        return r;
    }
    if (r < 0) {
        *ret_why = "the file \"identity\" in the state folder cannot be read";
        return r;
    }
    r = parse_hex(text, ret_id, AUTH_ID_SIZE);
    if (r < 0)
        *ret_why = "the file \"identity\" in the state folder is damaged; expected 32 hex digits";
    free(text);
    return r;
}

static int parse_credential(char *text, struct link_key *ret)
{
    char *blank = strchr(text, ' ');
    if (blank == NULL)
        return WEIR_E_PARSE;
    *blank = '\0';
    int r = text_copy(ret->id, sizeof(ret->id), text);
    if (r < 0 || ret->id[0] == '\0')
        return WEIR_E_PARSE;
    return parse_hex(blank + 1, ret->key, sizeof(ret->key));
}

/* -ENOENT when there is none. */
static int load_key_file(const char *state_dir, const char *name, struct link_key *ret)
{
    char path[PATH_SIZE];
    char *text = NULL;
    size_t n = 0;
    state_path(state_dir, name, path);
    int r = text_read_file(path, FILE_MAX, &text, &n);
    if (r == -ENOENT || r == -ENOTDIR)
        return -ENOENT;
    if (r == 0)
        r = parse_credential(text, ret);
    if (r == 0)
        ret->kind = LINK_KEY_CREDENTIAL;
    if (text != NULL)
        sodium_memzero(text, n); /* parsing put a NUL before the key */
    free(text);
    return r;
}

static int load_credential(const char *state_dir, struct link_key *ret, const char **ret_why)
{
    int r = load_key_file(state_dir, "credential", ret);
    if (r < 0 && r != -ENOENT)
        *ret_why =
            "the file \"credential\" in the state folder cannot be read; remove it and enrol anew";
    return r;
}

int link_key_next_load(const char *state_dir, struct link_key *ret)
{
    struct link_key other;
    int r = load_key_file(state_dir, "credential", &other);
    sodium_memzero(&other, sizeof(other));
    /* Without a credential people want it enrolled anew. A damaged one is not in our way. */
    return r == -ENOENT ? r : load_key_file(state_dir, LINK_NEXT_FILE, ret);
}

int link_credential_promote(const char *state_dir)
{
    char from[PATH_SIZE], to[PATH_SIZE];
    state_path(state_dir, LINK_NEXT_FILE, from);
    state_path(state_dir, "credential", to);
    return rename(from, to) < 0 ? -errno : 0;
}

static int load_token(const char *token, struct link_key *ret, const char **ret_why)
{
    char id[AUTH_TOKEN_ID_SIZE];
    int r = auth_token_parse(token, id, ret->key);
    if (r < 0) {
        *ret_why = "the enrolment token is not one: expected \"weir1.ID.SECRET\"";
        return r;
    }
    snprintf(ret->id, sizeof(ret->id), "token:%s", id);
    ret->kind = LINK_KEY_TOKEN;
    return 0;
}

static int load_local(const char *path, struct link_key *ret, const char **ret_why)
{
    char *text = NULL;
    int r = text_read_file(path, FILE_MAX, &text, NULL);
    if (r == 0)
        r = parse_hex(text, ret->key, sizeof(ret->key));
    if (r < 0)
        *ret_why =
            "the server's local key cannot be read (key-file, or gateway.key in its state folder)";
    if (text != NULL)
        sodium_memzero(text, strlen(text));
    free(text);
    snprintf(ret->id, sizeof(ret->id), "local");
    ret->kind = LINK_KEY_LOCAL;
    return r;
}

int link_key_load(const struct gateway_config *config, struct link_key *ret, const char **ret_why)
{
    *ret = (struct link_key){.kind = LINK_KEY_LOCAL};
    int r = load_credential(config->state_dir, ret, ret_why);
    if (r != -ENOENT)
        return r;
    if (config->token[0] != '\0')
        return load_token(config->token, ret, ret_why);
    return load_local(config->key_file[0] != '\0' ? config->key_file : LINK_LOCAL_KEY_PATH, ret,
                      ret_why);
}

char *link_credential_line(const char *key_id, const uint8_t key[AUTH_KEY_SIZE], size_t *ret_n)
{
    char hex[2 * AUTH_KEY_SIZE + 1], *line = NULL;
    sodium_bin2hex(hex, sizeof(hex), key, AUTH_KEY_SIZE);
    int n = asprintf(&line, "%s %s\n", key_id, hex);
    sodium_memzero(hex, sizeof(hex));
    if (n < 0)
        return NULL;
    *ret_n = (size_t)n;
    return line;
}

int link_credential_store(const char *state_dir, const char *key_id,
                          const uint8_t key[AUTH_KEY_SIZE])
{
    char path[PATH_SIZE];
    size_t n = 0;
    char *line = link_credential_line(key_id, key, &n);
    if (line == NULL)
        return -ENOMEM;
    state_path(state_dir, "credential", path);
    int r = text_write_file_atomic(path, line, n, 0600);
    sodium_memzero(line, n);
    free(line);
    state_path(state_dir, LINK_NEXT_FILE, path);
    if (r == 0) /* of an earlier enrolment */
        (void)unlink(path);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* TLS of the link: who the server is, and who this gateway is to it.
 *
 * Both sides show a certificate. The gateway's is its own (<state_dir>/tls.pem, made when first
 * needed) unless the configuration names one. The server is believed if
 *   a) tls-ca is configured: an authority of it signed the certificate, which names tls-verify-name
 *      or the host that was dialled;
 *   b) tls-fingerprint is configured: it is that of the server's key;
 *   c) the gateway enrols: the token carries the fingerprint;
 *   d) the gateway has enrolled: <state_dir>/server.fingerprint says whom with.
 * Who dialled changes nothing of this: the gateway begins TLS as the client also on a connection
 * that a server opened to it, so that the server is known before anything is said to it.
 * With none of them there is no way to know the server and nothing is said to it. Behind TLS both
 * sides prove the shared key as without it, over this very session (control/auth.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/text.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"
#include "tls/identity.h"

#define PATH_SIZE (512u + 32u)
#define FINGERPRINT_FILE "server.fingerprint"

bool link_tls_wanted(const struct gateway_config *c, const struct link_peer *p)
{
    return c->server_tls_on || !addr_is_local(p->where);
}

/* "host:port" or "[host]:port" without what is not the name. */
static void host_of(const struct addr *a, char *out, size_t size)
{
    bool bracketed = a->text[0] == '[';
    const char *from = a->text + bracketed;
    snprintf(out, size, "%.*s", (int)strcspn(from, bracketed ? "]" : ":"), from);
}

static int creds(const struct gateway_config *c, const struct link_peer *p, struct tls_creds **ret,
                 char *words, size_t size)
{
    struct tls_files f = c->server_tls;
    f.only_tls13 = f.shared = true;
    f.peer = f.ca[0] != '\0' ? TLS_PEER_REQUIRED : TLS_PEER_PINNED;
    /* Where a server dials, the configuration has the name. */
    if (f.peer == TLS_PEER_REQUIRED && f.verify_name[0] == '\0' && !p->adopted)
        host_of(p->where, f.verify_name, sizeof(f.verify_name));
    if (f.certificate[0] == '\0') {
        int n = snprintf(f.certificate, sizeof(f.certificate), "%s/tls.pem", c->state_dir);
        if (n < 0 || (size_t)n >= sizeof(f.certificate)) {
            snprintf(words, size, "the state folder's path is too long");
            return WEIR_E_TOO_LARGE;
        }
        int r = tls_identity_ensure(f.certificate, c->name, words, size);
        if (r < 0)
            return r;
    }
    return tls_creds_new(TLS_CLIENT, &f, ret, words, size);
}

int link_tls_begin(const struct gateway_config *c, struct link_peer *p, char *words, size_t size)
{
    struct tls_creds *mine = NULL;
    int r = creds(c, p, &mine, words, size);
    if (r < 0)
        return r;
    r = tls_session_new(mine, p->wire.fd, &p->wire.tls);
    tls_creds_unref(mine); /* the session has its own */
    if (r < 0)
        snprintf(words, size, "no memory for TLS");
    return r;
}

static void path_of_fingerprint(const struct gateway_config *c, char out[PATH_SIZE])
{
    snprintf(out, PATH_SIZE, "%s/" FINGERPRINT_FILE, c->state_dir);
}

/* The fingerprint that the server must have. */
static int fingerprint_wanted(const struct gateway_config *c, const struct link_peer *p,
                              uint8_t ret[AUTH_FINGERPRINT_SIZE], char *words, size_t size)
{
    char path[PATH_SIZE];
    char *text = NULL;
    if (c->server_fingerprint[0] != '\0')
        return tls_fingerprint_parse(c->server_fingerprint, ret);
    if (p->key.kind == LINK_KEY_TOKEN && auth_token_fingerprint(c->token, ret))
        return 0;
    path_of_fingerprint(c, path);
    int r = text_read_file(path, 256, &text, NULL);
    if (r == 0)
        r = tls_fingerprint_parse(text, ret);
    free(text);
    if (r < 0)
        snprintf(words, size,
                 "no way to know the server: expected tls-ca or tls-fingerprint in [server], a "
                 "token with a fingerprint, or %s",
                 path);
    return r;
}

int link_tls_step(const struct gateway_config *c, struct link_peer *p, char *words, size_t size)
{
    uint8_t wanted[AUTH_FINGERPRINT_SIZE];
    int r = tls_session_handshake(p->wire.tls);
    if (r == 0)
        return 0;
    if (r < 0) {
        snprintf(words, size, "TLS: %s", tls_session_words(p->wire.tls));
        return r;
    }
    r = tls_session_peer_key(p->wire.tls, p->server_key);
    if (r < 0) {
        snprintf(words, size, "the server shows no certificate");
        return r;
    }
    if (c->server_tls.ca[0] == '\0') {
        r = fingerprint_wanted(c, p, wanted, words, size);
        if (r < 0)
            return r;
        if (memcmp(wanted, p->server_key, sizeof(wanted)) != 0) {
            snprintf(words, size, "another server answers: its key is not the one expected");
            return WEIR_E_AUTH;
        }
    }
    r = tls_session_channel(p->wire.tls, p->auth.channel);
    if (r < 0)
        snprintf(words, size, "TLS has no channel to bind the proof to");
    p->auth.has_channel = r == 0;
    return r < 0 ? r : 1;
}

int link_tls_remember(const struct gateway_config *c, const struct link_peer *p)
{
    char path[PATH_SIZE], line[TLS_FINGERPRINT_TEXT + 1];
    if (p->wire.tls == NULL)
        return 0;
    path_of_fingerprint(c, path);
    tls_fingerprint_format(p->server_key, line);
    line[TLS_FINGERPRINT_TEXT - 1] = '\n';
    return text_write_file_atomic(path, line, TLS_FINGERPRINT_TEXT, 0600);
}

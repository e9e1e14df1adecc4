/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/config_tls.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"

static int fault(struct config_fault *ret, const char *key, const char *what)
{
    ret->key = key;
    ret->of_value = false;
    snprintf(ret->words, sizeof(ret->words), "%s", what);
    return WEIR_E_INVALID;
}

/* The first key that only TLS has a use for; @ca is what that of an authority is called. */
static const char *any_key(const struct tls_files *f, const char *ca)
{
    return f->certificate[0] != '\0'    ? "tls-certificate"
           : f->key[0] != '\0'          ? "tls-key"
           : f->ca[0] != '\0'           ? ca
           : f->psk[0] != '\0'          ? "tls-psk-file"
           : f->psk_identity[0] != '\0' ? "tls-psk-identity"
           : f->verify_name[0] != '\0'  ? "tls-verify-name"
                                        : NULL;
}

static bool is_half(const struct tls_files *f)
{
    return (f->certificate[0] == '\0') != (f->key[0] == '\0');
}

static int fault_half(struct config_fault *ret, const struct tls_files *f)
{
    return fault(ret, f->key[0] == '\0' ? "tls-certificate" : "tls-key",
                 "one of tls-certificate and tls-key; expected both");
}

static int fault_of_file(const struct tls_fault *wrong, const struct tls_files *f, const char *ca,
                         struct config_fault *ret)
{
    const char *value;
    ret->key = tls_file_key(wrong->file, f, ca, &value);
    ret->of_value = ret->key != NULL && (wrong->file != TLS_FILE_CA || f->ca[0] != '\0');
    snprintf(ret->words, sizeof(ret->words), "%s (%s)", wrong->expected, wrong->found);
    if (!ret->of_value)
        snprintf(ret->words, sizeof(ret->words), "%s; expected %s", wrong->found, wrong->expected);
    return WEIR_E_INVALID;
}

/* Read them into *@place. @ca is what the key of an authority is called. */
static int read_files(enum tls_side side, const struct tls_files *f, const char *ca,
                      struct tls_creds **place, struct tls_validity *ret_when,
                      struct config_fault *ret)
{
    struct tls_fault wrong;
    struct tls_creds *read = NULL;
    if (tls_creds_load(side, f, &read, &wrong) < 0)
        return fault_of_file(&wrong, f, ca, ret);
    *ret_when = *tls_creds_validity(read);
    tls_creds_unref(*place);
    *place = read;
    return 0;
}

int config_tls_listener(struct listener_config *l, struct tls_validity *ret_when,
                        struct config_fault *ret)
{
    struct tls_files *f = &l->tls_files;
    bool peer_set = f->peer != CONFIG_PEER_UNSET;
    *ret_when = (struct tls_validity){0};
    if (l->tls == TLS_MODE_OFF) {
        const char *key = any_key(f, "tls-client-ca");
        if (key != NULL || peer_set)
            return fault(ret, key != NULL ? key : "tls-client-certificate",
                         "tls keys without TLS; expected tls = allow or tls = require");
        return 0;
    }
    if (f->certificate[0] == '\0' && f->psk[0] == '\0')
        return fault(ret, "tls",
                     "TLS without a secret; expected tls-certificate and tls-key, or "
                     "tls-psk-file");
    if (is_half(f))
        return fault_half(ret, f);
    if (f->ca[0] != '\0' && f->certificate[0] == '\0')
        return fault(ret, "tls-client-ca",
                     "tls-client-ca without tls-certificate; a server that "
                     "asks for certificates shows one");
    if (peer_set && f->peer != TLS_PEER_NONE && f->ca[0] == '\0')
        return fault(ret, "tls-client-certificate",
                     "tls-client-certificate without tls-client-ca, which says whose "
                     "certificates count");
    if (f->ca[0] != '\0' && f->peer == TLS_PEER_NONE)
        return fault(ret, "tls-client-certificate",
                     "tls-client-ca with tls-client-certificate = none; expected "
                     "optional or required");
    if (!peer_set)
        f->peer = f->ca[0] != '\0' ? TLS_PEER_REQUIRED : TLS_PEER_NONE;
    return read_files(TLS_SERVER, f, "tls-client-ca", &l->tls_creds, ret_when, ret);
}

/* "[::1]:10809" and "host:10809" without what is not the name. */
static void name_of_address(const struct addr *a, char *out, size_t size)
{
    const char *from = a->text;
    size_t n;
    if (*from == '[') {
        from++;
        n = strcspn(from, "]");
    } else {
        n = strcspn(from, ":");
    }
    snprintf(out, size, "%.*s", (int)n, from);
}

/* "nbd://..." with tls = require is nbds://..., for all who only see the URI: the server's probes,
 * people. */
static int uri_say_tls(struct target_config *t, struct config_fault *ret)
{
    size_t n = strlen(t->uri);
    if (addr_uri_wants_tls(t->uri))
        return 0;
    if (n + 1 >= sizeof(t->uri))
        return fault(ret, "uri", "a uri that is too long");
    memmove(t->uri + 4, t->uri + 3, n + 1 - 3);
    t->uri[3] = 's';
    return 0;
}

int config_tls_target(struct target_config *t, struct tls_validity *ret_when,
                      struct config_fault *ret)
{
    struct tls_files *f = &t->tls_files;
    *ret_when = (struct tls_validity){0};
    if (!t->tls_on) {
        const char *key = any_key(f, "tls-ca");
        if (addr_uri_wants_tls(t->uri))
            return fault(ret, "tls", "tls = off with an nbds uri; expected one or the other");
        if (key != NULL)
            return fault(ret, key, "tls keys without TLS; expected tls = require or an nbds uri");
        return 0;
    }
    bool keys_only = f->psk[0] != '\0' && f->ca[0] == '\0' && f->certificate[0] == '\0';
    if (is_half(f))
        return fault_half(ret, f);
    if (f->psk_identity[0] != '\0' && f->psk[0] == '\0')
        return fault(ret, "tls-psk-identity", "tls-psk-identity without tls-psk-file");
    if (f->verify_name[0] == '\0' && !keys_only && addr_is_unix(&t->addr))
        return fault(ret, "uri",
                     "no tls-verify-name; a socket's path is no name that a "
                     "certificate could carry");
    if (f->verify_name[0] == '\0' && !keys_only)
        name_of_address(&t->addr, f->verify_name, sizeof(f->verify_name));
    f->peer = TLS_PEER_REQUIRED;
    if (uri_say_tls(t, ret) < 0)
        return WEIR_E_INVALID;
    return read_files(TLS_CLIENT, f, "tls-ca", &t->tls_creds, ret_when, ret);
}

int config_tls_server(struct gateway_config *c, struct tls_validity *ret_when,
                      struct config_fault *ret)
{
    struct tls_files *f = &c->server_tls;
    *ret_when = (struct tls_validity){0};
    if (is_half(f))
        return fault_half(ret, f);
    if (f->ca[0] != '\0' && c->server_fingerprint[0] != '\0')
        return fault(ret, "tls-fingerprint",
                     "tls-ca and tls-fingerprint; expected one way to know the server");
    if (f->verify_name[0] != '\0' && f->ca[0] == '\0')
        return fault(ret, "tls-verify-name", "tls-verify-name without tls-ca");
    bool dialled_tls =
        c->server_listen.len > 0 && (c->server_tls_on || !addr_is_local(&c->server_listen));
    if (dialled_tls && f->ca[0] != '\0' && f->verify_name[0] == '\0')
        return fault(ret, "listen",
                     "listen and tls-ca without tls-verify-name; expected the name "
                     "in the certificate of the server that dials");
    f->only_tls13 = f->shared = true;
    f->peer = f->ca[0] != '\0' ? TLS_PEER_REQUIRED : TLS_PEER_PINNED;
    /* The gateway's own key pair is made later, in the state folder; what is named must be good. */
    struct tls_fault wrong;
    bool named = f->certificate[0] != '\0' || f->ca[0] != '\0';
    bool good = !named || tls_creds_try(TLS_CLIENT, f, &wrong, ret_when) == 0;
    return good ? 0 : fault_of_file(&wrong, f, "tls-ca", ret);
}

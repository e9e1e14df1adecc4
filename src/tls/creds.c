/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials.
 *
 * Ciphers: what GnuTLS calls NORMAL, TLS 1.3 and 1.2 alone (1.3 alone where both ends are ours).
 * Key exchange always has forward secrecy: of the pre-shared-key kinds only those with
 * Diffie-Hellman (RFC 8446, 2.2; RFC 5489) are offered. With keys alone configured no certificate
 * is offered or taken at all.
 *
 * What may fail: a file that cannot be read or is something else, a key that does not fit its
 * certificate, a certificate that is not for this side of TLS: a peer that looks would refuse it,
 * and no time mends it. Each is told with the file's name and what was expected. */
#include "tls/creds.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/text.h"
#include "tls/creds_private.h"

#define CHAIN_MAX 16u

static int fail(struct tls_fault *fault, int code, enum tls_file file, const char *found,
                const char *expected)
{
    fault->file = file;
    fault->expected = expected;
    snprintf(fault->found, sizeof(fault->found), "%s", found);
    return code;
}

static int read_file(enum tls_file file, const char *path, const char *expected,
                     struct tls_fault *fault, char **ret, size_t *ret_n)
{
    int r = text_read_file(path, TLS_FILE_MAX, ret, ret_n);
    return r < 0 ? fail(fault, r, file, weir_strerror(r), expected) : 0;
}

static void wipe(char *data, size_t n)
{
    if (data != NULL)
        sodium_memzero(data, n);
    free(data);
}

/* --- what a certificate is for, and when --- */

/* Add what one purpose is called. */
static void add_purpose(char *list, size_t size, const char *oid)
{
    size_t n = strlen(list);
    snprintf(list + n, size - n, "%s%s", n > 0 ? ", " : "",
             strcmp(oid, GNUTLS_KP_TLS_WWW_CLIENT) == 0   ? "TLS client"
             : strcmp(oid, GNUTLS_KP_TLS_WWW_SERVER) == 0 ? "TLS server"
                                                          : oid);
}

/* RFC 5280, 4.2.1.3 and 4.2.1.12: what is not said is not restricted. */
static int check_purpose(enum tls_side side, gnutls_x509_crt_t crt, struct tls_fault *w)
{
    const char *wanted = side == TLS_SERVER ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT;
    char list[96] = "", found[160], oid[64];
    unsigned usage;
    if (gnutls_x509_crt_get_key_usage(crt, &usage, NULL) >= 0 &&
        (usage & GNUTLS_KEY_DIGITAL_SIGNATURE) == 0)
        return fail(w, WEIR_E_INVALID, TLS_FILE_CERTIFICATE, "its key may not sign",
                    "a certificate with the key usage digitalSignature, or without any");
    if (gnutls_x509_crt_check_key_purpose(crt, wanted, 0) != 0)
        return 0;
    for (unsigned i = 0; strlen(list) + sizeof(oid) < sizeof(list); i++) {
        size_t n = sizeof(oid);
        if (gnutls_x509_crt_get_key_purpose_oid(crt, i, oid, &n, NULL) < 0)
            break;
        add_purpose(list, sizeof(list), oid);
    }
    snprintf(found, sizeof(found), "it is for %s alone", list[0] != '\0' ? list : "something else");
    return fail(w, WEIR_E_INVALID, TLS_FILE_CERTIFICATE, found,
                side == TLS_SERVER ? "a certificate for a TLS server (extended key usage "
                                     "serverAuth, or none)"
                                   : "a certificate for a TLS client (extended key usage "
                                     "clientAuth, or none)");
}

static struct dates dates_of(gnutls_x509_crt_t crt)
{
    int64_t from = (int64_t)gnutls_x509_crt_get_activation_time(crt);
    int64_t until = (int64_t)gnutls_x509_crt_get_expiration_time(crt);
    return (struct dates){.from_s = from > 0 ? from : 0, .until_s = until > 1 ? until : 1};
}

/* The certificate's own facts: when it counts, the fingerprint of its key. */
static int note_own(struct tls_creds *c, const gnutls_datum_t *pem, struct tls_fault *w)
{
    gnutls_x509_crt_t chain[CHAIN_MAX];
    unsigned n = CHAIN_MAX;
    int e = gnutls_x509_crt_list_import(chain, &n, pem, GNUTLS_X509_FMT_PEM, 0);
    if (e < 0)
        return fail(w, WEIR_E_PARSE, TLS_FILE_CERTIFICATE, gnutls_strerror(e),
                    "a certificate in PEM form, at most 16 in its chain");
    size_t size = sizeof(c->fingerprint);
    struct dates *own = &c->validity.own;
    *own = dates_of(chain[0]);
    e = gnutls_x509_crt_get_key_id(chain[0], GNUTLS_KEYID_USE_SHA256, c->fingerprint, &size);
    int r = e < 0 ? fail(w, WEIR_E_PARSE, TLS_FILE_CERTIFICATE, gnutls_strerror(e),
                         "a certificate with a public key")
                  : check_purpose(c->side, chain[0], w);
    for (unsigned i = 0; i < n; i++) {
        struct dates d = dates_of(chain[i]);
        own->from_s = d.from_s > own->from_s ? d.from_s : own->from_s;
        own->until_s = d.until_s < own->until_s ? d.until_s : own->until_s;
        gnutls_x509_crt_deinit(chain[i]);
    }
    c->has_own = r == 0;
    return r;
}

/* When any of the trusted certificates counts. One that cannot be read has been refused before. */
static void note_trust(struct tls_creds *c, const gnutls_datum_t *pem)
{
    gnutls_x509_crt_t *list = NULL;
    unsigned n = 0;
    struct dates *ca = &c->validity.ca;
    if (gnutls_x509_crt_list_import2(&list, &n, pem, GNUTLS_X509_FMT_PEM, 0) < 0)
        return;
    for (unsigned i = 0; i < n; i++) {
        struct dates d = dates_of(list[i]);
        ca->from_s = i == 0 || d.from_s < ca->from_s ? d.from_s : ca->from_s;
        ca->until_s = i == 0 || d.until_s > ca->until_s ? d.until_s : ca->until_s;
        gnutls_x509_crt_deinit(list[i]);
    }
    gnutls_free(list);
}

static int load_own(struct tls_creds *c, const struct tls_files *f, struct tls_fault *w)
{
    char *certificate = NULL, *key = NULL;
    size_t certificate_n = 0, key_n = 0;
    const char *key_path = f->key[0] != '\0' ? f->key : f->certificate;
    int r = read_file(TLS_FILE_CERTIFICATE, f->certificate, "a certificate in PEM form", w,
                      &certificate, &certificate_n);
    if (r == 0)
        r = read_file(TLS_FILE_KEY, key_path, "the certificate's private key in PEM form", w, &key,
                      &key_n);
    gnutls_datum_t cert_pem = {(unsigned char *)certificate, (unsigned)certificate_n};
    gnutls_datum_t key_pem = {(unsigned char *)key, (unsigned)key_n};
    if (r == 0)
        r = note_own(c, &cert_pem, w);
    if (r == 0) {
        int e = gnutls_certificate_set_x509_key_mem2(c->certificate, &cert_pem, &key_pem,
                                                     GNUTLS_X509_FMT_PEM, NULL, 0);
        if (e < 0)
            r = fail(w, WEIR_E_PARSE, TLS_FILE_KEY, gnutls_strerror(e),
                     "the private key, in PEM form and without a password, of the certificate");
    }
    free(certificate);
    wipe(key, key_n);
    return r;
}

static int load_trust(struct tls_creds *c, const struct tls_files *f, struct tls_fault *w)
{
    if (f->ca[0] == '\0') {
        if (c->side == TLS_SERVER || c->peer == TLS_PEER_PINNED)
            return 0;
        int n = gnutls_certificate_set_x509_system_trust(c->certificate);
        return n > 0 ? 0
                     : fail(w, WEIR_E_NOT_FOUND, TLS_FILE_CA,
                            "no trusted certificates in this system",
                            "some, or a file that names whom to trust");
    }
    char *pem = NULL;
    size_t size = 0;
    static const char expected[] = "trusted certificates in PEM form";
    int r = read_file(TLS_FILE_CA, f->ca, expected, w, &pem, &size);
    if (r < 0)
        return r;
    gnutls_datum_t datum = {.data = (unsigned char *)pem, .size = (unsigned)size};
    int n = gnutls_certificate_set_x509_trust_mem(c->certificate, &datum, GNUTLS_X509_FMT_PEM);
    if (n > 0)
        note_trust(c, &datum);
    free(pem);
    if (n <= 0)
        return fail(w, WEIR_E_PARSE, TLS_FILE_CA,
                    n < 0 ? gnutls_strerror(n) : "no certificate in it", expected);
    return 0;
}

/* GnuTLS asks for the key of an identity. 0: here it is; 1: unknown, and GnuTLS goes on with a
 * random one, so that a stranger cannot tell which identities there are. */
static int psk_ask(gnutls_session_t session, const char *name, gnutls_datum_t *ret_key)
{
    const struct tls_creds *c = NULL;
    gnutls_psk_server_credentials_t psk = NULL;
    if (gnutls_credentials_get(session, GNUTLS_CRD_PSK, (void **)&psk) < 0)
        return -1;
    c = gnutls_session_get_ptr(session) == NULL
            ? NULL
            : *(const struct tls_creds *const *)gnutls_session_get_ptr(session);
    weir_assert(c != NULL);
    const struct psk_entry *e = psk_find(&c->psk, name, strlen(name));
    if (e == NULL)
        return 1;
    ret_key->data = gnutls_malloc(e->key_size);
    if (ret_key->data == NULL)
        return -1;
    memcpy(ret_key->data, e->key, e->key_size);
    ret_key->size = (unsigned)e->key_size;
    return 0;
}

static int psk_client(struct tls_creds *c, const struct tls_files *f, const struct psk_table *t,
                      struct tls_fault *w)
{
    const struct psk_entry *e = f->psk_identity[0] != '\0'
                                    ? psk_find(t, f->psk_identity, strlen(f->psk_identity))
                                    : &t->entry[0];
    if (e == NULL)
        return fail(w, WEIR_E_NOT_FOUND, TLS_FILE_PSK_IDENTITY,
                    "the identity that is configured is not in it",
                    "an identity that has a line in tls-psk-file");
    gnutls_datum_t key = {(unsigned char *)(uintptr_t)e->key, (unsigned)e->key_size};
    if (gnutls_psk_allocate_client_credentials(&c->psk_client) < 0)
        return -ENOMEM;
    if (gnutls_psk_set_client_credentials(c->psk_client, e->name, &key, GNUTLS_PSK_KEY_RAW) < 0)
        return -ENOMEM;
    return 0;
}

static int load_psk(struct tls_creds *c, const struct tls_files *f, struct tls_fault *w)
{
    char *data = NULL, found[64];
    size_t n = 0, line = 0;
    const char *expected = "";
    struct psk_table t = {0};
    int r = read_file(TLS_FILE_PSK, f->psk, "lines IDENTITY:HEXKEY", w, &data, &n);
    if (r < 0)
        return r;
    r = psk_parse(data, n, &t, &line, &expected);
    wipe(data, n);
    if (r < 0) {
        snprintf(found, sizeof(found), "line %zu", line);
        return fail(w, r, TLS_FILE_PSK, found, expected);
    }
    if (c->side == TLS_CLIENT) {
        r = psk_client(c, f, &t, w);
        psk_free(&t);
        return r;
    }
    c->psk = t;
    if (gnutls_psk_allocate_server_credentials(&c->psk_server) < 0)
        return -ENOMEM;
    gnutls_psk_set_server_credentials_function(c->psk_server, psk_ask);
    return 0;
}

static int set_priority(struct tls_creds *c, const struct tls_files *f)
{
    char text[160];
    /* Keys of shared sessions are never renewed, so they have the cipher that needs it never (RFC
     * 8446, section 5.5). */
    snprintf(text, sizeof(text), "NORMAL:-VERS-ALL:+VERS-TLS1.3%s%s%s%s",
             f->only_tls13 ? "" : ":+VERS-TLS1.2",
             f->shared ? ":-CIPHER-ALL:+CHACHA20-POLY1305" : "", c->x509 ? ":-RSA" : ":-KX-ALL",
             f->psk[0] != '\0' ? ":+ECDHE-PSK:+DHE-PSK" : "");
    return gnutls_priority_init(&c->priority, text, NULL) < 0 ? -ENOMEM : 0;
}

static int load(struct tls_creds *c, const struct tls_files *f, struct tls_fault *w)
{
    bool keys_only = f->psk[0] != '\0' && f->certificate[0] == '\0' && f->ca[0] == '\0';
    c->x509 = !keys_only;
    int r = set_priority(c, f);
    if (r == 0 && gnutls_certificate_allocate_credentials(&c->certificate) < 0)
        r = -ENOMEM;
    if (r == 0 && f->certificate[0] != '\0')
        r = load_own(c, f, w);
    if (r == 0 && c->x509)
        r = load_trust(c, f, w);
    if (r == 0 && f->psk[0] != '\0')
        r = load_psk(c, f, w);
    return r;
}

int tls_creds_load(enum tls_side side, const struct tls_files *files, struct tls_creds **ret,
                   struct tls_fault *fault)
{
    struct tls_creds *c = calloc(1, sizeof(*c));
    fail(fault, 0, TLS_FILE_NONE, "no memory for TLS credentials", "some");
    if (c == NULL)
        return -ENOMEM;
    c->references = 1;
    c->side = side;
    c->peer = files->peer;
    c->shared = files->shared;
    snprintf(c->verify_name, sizeof(c->verify_name), "%s", files->verify_name);
    int r = load(c, files, fault);
    if (r < 0) {
        tls_creds_unref(c);
        return r;
    }
    *ret = c;
    return 0;
}

const char *tls_file_key(enum tls_file file, const struct tls_files *f, const char *ca,
                         const char **ret_value)
{
    *ret_value = "";
    switch (file) {
    case TLS_FILE_NONE:
        return NULL;
    case TLS_FILE_CERTIFICATE:
        *ret_value = f->certificate;
        return "tls-certificate";
    case TLS_FILE_KEY:
        *ret_value = f->key;
        return "tls-key";
    case TLS_FILE_CA:
        *ret_value = f->ca;
        return ca;
    case TLS_FILE_PSK:
        *ret_value = f->psk;
        return "tls-psk-file";
    case TLS_FILE_PSK_IDENTITY:
        *ret_value = f->psk_identity;
        return "tls-psk-identity";
    }
    weir_unreachable("no such file");
}

/* The file that is to be looked at. */
static const char *path_of(const struct tls_files *f, enum tls_file file)
{
    const char *value;
    if (file == TLS_FILE_PSK_IDENTITY)
        return f->psk;
    if (file == TLS_FILE_KEY && f->key[0] == '\0')
        return f->certificate;
    (void)tls_file_key(file, f, "", &value);
    return value;
}

int tls_creds_new(enum tls_side side, const struct tls_files *files, struct tls_creds **ret,
                  char *words, size_t size)
{
    struct tls_fault fault;
    int r = tls_creds_load(side, files, ret, &fault);
    if (r < 0) {
        const char *path = path_of(files, fault.file);
        snprintf(words, size, "%s%s%s; expected %s", path, path[0] != '\0' ? ": " : "", fault.found,
                 fault.expected);
    }
    return r;
}

int tls_creds_try(enum tls_side side, const struct tls_files *files, struct tls_fault *ret_fault,
                  struct tls_validity *ret)
{
    struct tls_creds *c = NULL;
    int r = tls_creds_load(side, files, &c, ret_fault);
    if (r == 0) {
        *ret = c->validity;
        tls_creds_unref(c);
    }
    return r;
}

struct tls_creds *tls_creds_ref(struct tls_creds *c)
{
    weir_assert(c->references > 0);
    c->references++;
    return c;
}

void tls_creds_unref(struct tls_creds *c)
{
    if (c == NULL)
        return;
    weir_assert(c->references > 0);
    if (--c->references > 0)
        return;
    if (c->certificate != NULL)
        gnutls_certificate_free_credentials(c->certificate);
    if (c->psk_server != NULL)
        gnutls_psk_free_server_credentials(c->psk_server);
    if (c->psk_client != NULL)
        gnutls_psk_free_client_credentials(c->psk_client);
    if (c->priority != NULL)
        gnutls_priority_deinit(c->priority);
    psk_free(&c->psk);
    free(c);
}

const struct tls_validity *tls_creds_validity(const struct tls_creds *c)
{
    return &c->validity;
}

bool tls_creds_fingerprint(const struct tls_creds *c, uint8_t ret[TLS_FINGERPRINT_SIZE])
{
    if (c->has_own)
        memcpy(ret, c->fingerprint, sizeof(c->fingerprint));
    return c->has_own;
}

int tls_creds_dress(const struct tls_creds *c, void *gnutls_session)
{
    gnutls_session_t session = gnutls_session;
    bool good = session != NULL && gnutls_priority_set(session, c->priority) == 0 &&
                gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, c->certificate) == 0;
    return good ? 0 : WEIR_E_INVALID;
}

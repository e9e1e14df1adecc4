/* SPDX-License-Identifier: Apache-2.0 */
/* A TLS session.
 *
 * Problem. The socket is edge-triggered and never waited for, and reads of the record layer come in
 * threes (header, rest, next header): three system calls where one would do.
 *
 * Model. Reads go through a buffer that takes what the socket has; GnuTLS takes its records from
 * there. Only an empty buffer and a socket that would block make a read say -EAGAIN, so that the
 * owner may wait for an edge then. Writes go straight to the socket, a record a call; a record that
 * the socket took in part stays in GnuTLS and is gone on with by the next call.
 *
 * Two threads (tls_files.shared): GnuTLS lets one thread receive while another sends, "care must
 * be taken during key updates" (manual, "Thread safety"). So on such sessions this end never
 * updates its keys, and a peer that asks for it ends the session (hook below); both ends of them
 * are ours. errno carries what the socket said, since that is each thread's own.
 *
 * Bounds: a handshake's messages 64 KiB, the read buffer 32 KiB, one record under way, ASIDE_MAX
 * messages of TLS's own in a row. How long a handshake takes is the owner's to bound. Renegotiation
 * (TLS 1.2) is refused: what came before it would have another meaning after it. */
#include "tls/session.h"

#include <errno.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/assert.h"
#include "base/err.h"
#include "tls/creds_private.h"

#define READ_BUFFER (32u * 1024u)
#define HANDSHAKE_BYTES_MAX (64u * 1024u)
#define WORDS_SIZE 256u
/* Messages of TLS's own in a row, such as session tickets, beyond which a peer says nothing. */
#define ASIDE_MAX 64

struct tls_session {
    struct tls_creds *creds; /* first: psk_ask of creds.c finds it here */
    gnutls_session_t tls;
    int fd;
    bool stands, failed;
    bool dry;             /* the socket said that nothing more is here; reader's */
    size_t unsent;        /* of the record under way; 0: none */
    uint32_t start, end;  /* in buffer: not yet given to GnuTLS */
    char verify_name[TLS_NAME_SIZE]; /* client: what the server's certificate must name; "": any */
    char words[WORDS_SIZE];
    uint8_t buffer[READ_BUFFER];
};

_Static_assert(offsetof(struct tls_session, creds) == 0, "psk_ask looks there");

/* ---- the socket ---- */

static ssize_t pull(gnutls_transport_ptr_t p, void *to, size_t room)
{
    struct tls_session *s = p;
    if (s->start == s->end) {
        ssize_t n = recv(s->fd, s->buffer, sizeof(s->buffer), MSG_DONTWAIT);
        s->dry = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
        if (n <= 0)
            return n;
        s->start = 0;
        s->end = (uint32_t)n;
    }
    size_t n = s->end - s->start;
    if (n > room)
        n = room;
    memcpy(to, s->buffer + s->start, n);
    s->start += (uint32_t)n;
    return (ssize_t)n;
}

static ssize_t push(gnutls_transport_ptr_t p, const void *bytes, size_t n)
{
    struct tls_session *s = p;
    return send(s->fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int pull_timeout(gnutls_transport_ptr_t p, unsigned ms)
{
    (void)p;
    (void)ms;
    return 1; /* ask; pull never waits */
}

/* ---- the peer ---- */

static int refuse_peer(struct tls_session *s, const char *words)
{
    snprintf(s->words, sizeof(s->words), "%s", words);
    return GNUTLS_E_CERTIFICATE_ERROR;
}

static int judge_chain(struct tls_session *s)
{
    const struct tls_creds *c = s->creds;
    const char *purpose =
        c->side == TLS_SERVER ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER;
    gnutls_typed_vdata_st data[2] = {
        {.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)(uintptr_t)purpose},
        {.type = GNUTLS_DT_DNS_HOSTNAME, .data = (unsigned char *)s->verify_name},
    };
    unsigned status = 0;
    bool named = c->side == TLS_CLIENT && s->verify_name[0] != '\0';
    int e = gnutls_certificate_verify_peers(s->tls, data, named ? 2 : 1, &status);
    if (e < 0)
        return refuse_peer(s, gnutls_strerror(e));
    if (status == 0)
        return 0;
    gnutls_datum_t words = {0};
    if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &words, 0) < 0)
        return refuse_peer(s, "the peer's certificate does not hold");
    snprintf(s->words, sizeof(s->words), "%.*s", (int)words.size, (const char *)words.data);
    gnutls_free(words.data);
    return GNUTLS_E_CERTIFICATE_ERROR;
}

/* GnuTLS has the peer's certificate, or knows that none comes. */
static int judge(gnutls_session_t tls)
{
    struct tls_session *s = gnutls_session_get_ptr(tls);
    unsigned n = 0;
    bool shown = gnutls_certificate_get_peers(tls, &n) != NULL && n > 0;
    switch (s->creds->peer) {
    case TLS_PEER_NONE:
        return s->creds->side == TLS_SERVER ? 0 : judge_chain(s);
    case TLS_PEER_OPTIONAL:
        return shown ? judge_chain(s) : 0;
    case TLS_PEER_REQUIRED:
        return shown ? judge_chain(s) : refuse_peer(s, "the peer shows no certificate");
    case TLS_PEER_PINNED:
        return shown ? 0 : refuse_peer(s, "the peer shows no certificate");
    }
    return refuse_peer(s, "the peer shows no certificate");
}

/* A key update would change what the sending thread uses in the receiving one. */
static int refuse_update(gnutls_session_t tls, unsigned type, unsigned when, unsigned incoming,
                         const gnutls_datum_t *msg)
{
    (void)tls;
    (void)type;
    (void)when;
    (void)msg;
    return incoming ? GNUTLS_E_UNEXPECTED_HANDSHAKE_PACKET : 0;
}

/* ---- life ---- */

static gnutls_certificate_request_t request_of(enum tls_peer_check peer)
{
    if (peer == TLS_PEER_NONE)
        return GNUTLS_CERT_IGNORE;
    /* Required too is judged by us, with words that say what is missing. */
    return GNUTLS_CERT_REQUEST;
}

static bool is_address(const char *name)
{
    return strchr(name, ':') != NULL || name[strspn(name, "0123456789.")] == '\0';
}

int tls_session_expect(struct tls_session *s, const char *name)
{
    if (s->creds->side != TLS_CLIENT)
        return 0;
    size_t n = strlen(name);
    if (n >= sizeof(s->verify_name))
        return WEIR_E_INVALID;
    memcpy(s->verify_name, name, n + 1);
    /* An address is never sent as a name (RFC 6066, section 3). */
    if (n > 0 && !is_address(name) &&
        gnutls_server_name_set(s->tls, GNUTLS_NAME_DNS, name, n) < 0)
        return -ENOMEM;
    return 0;
}

static int set_up(struct tls_session *s)
{
    struct tls_creds *c = s->creds;
    gnutls_session_t tls = s->tls;
    if (gnutls_priority_set(tls, c->priority) < 0)
        return -ENOMEM;
    if (c->x509 && gnutls_credentials_set(tls, GNUTLS_CRD_CERTIFICATE, c->certificate) < 0)
        return -ENOMEM;
    if (c->psk_server != NULL && gnutls_credentials_set(tls, GNUTLS_CRD_PSK, c->psk_server) < 0)
        return -ENOMEM;
    if (c->psk_client != NULL && gnutls_credentials_set(tls, GNUTLS_CRD_PSK, c->psk_client) < 0)
        return -ENOMEM;
    if (tls_session_expect(s, c->verify_name) < 0)
        return -ENOMEM;
    if (c->side == TLS_SERVER)
        gnutls_certificate_server_set_request(tls, request_of(c->peer));
    gnutls_session_set_verify_function(tls, judge);
    gnutls_session_set_ptr(tls, s);
    gnutls_handshake_set_max_packet_length(tls, HANDSHAKE_BYTES_MAX);
    gnutls_handshake_set_timeout(tls, 0);
    gnutls_transport_set_ptr(tls, s);
    gnutls_transport_set_pull_function(tls, pull);
    gnutls_transport_set_push_function(tls, push);
    gnutls_transport_set_pull_timeout_function(tls, pull_timeout);
    if (c->shared)
        gnutls_handshake_set_hook_function(tls, GNUTLS_HANDSHAKE_KEY_UPDATE, GNUTLS_HOOK_PRE,
                                           refuse_update);
    return 0;
}

int tls_session_new(struct tls_creds *c, int fd, struct tls_session **ret)
{
    struct tls_session *s = malloc(sizeof(*s));
    if (s == NULL)
        return -ENOMEM;
    memset(s, 0, offsetof(struct tls_session, buffer));
    s->fd = fd;
    s->creds = tls_creds_ref(c);
    unsigned flags = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS |
                     (c->side == TLS_SERVER ? GNUTLS_SERVER : GNUTLS_CLIENT) |
                     (c->shared ? GNUTLS_NO_AUTO_REKEY : 0u);
    if (gnutls_init(&s->tls, flags) < 0 || set_up(s) < 0) {
        tls_session_free(s);
        return -ENOMEM;
    }
    *ret = s;
    return 0;
}

void tls_session_free(struct tls_session *s)
{
    if (s == NULL)
        return;
    if (s->tls != NULL) {
        if (s->stands && !s->failed && s->unsent == 0)
            (void)gnutls_bye(s->tls, GNUTLS_SHUT_WR);
        gnutls_deinit(s->tls);
    }
    tls_creds_unref(s->creds);
    free(s);
}

/* ---- handshake ---- */

/* Whether what the handshake agreed to is what was configured. */
static int settle(struct tls_session *s)
{
    gnutls_credentials_type_t type = gnutls_auth_get_type(s->tls);
    if (type == GNUTLS_CRD_CERTIFICATE && s->creds->x509) {
        s->stands = true;
        return 1;
    }
    if (type == GNUTLS_CRD_PSK && (s->creds->psk_server != NULL || s->creds->psk_client != NULL)) {
        s->stands = true;
        return 1;
    }
    snprintf(s->words, sizeof(s->words), "the peer proved itself in no way that is configured");
    s->failed = true;
    return WEIR_E_AUTH;
}

static int handshake_failed(struct tls_session *s, int e)
{
    s->failed = true;
    if (s->words[0] == '\0' && (e == GNUTLS_E_FATAL_ALERT_RECEIVED ||
                                e == GNUTLS_E_WARNING_ALERT_RECEIVED)) {
        const char *name = gnutls_alert_get_name(gnutls_alert_get(s->tls));
        snprintf(s->words, sizeof(s->words), "the peer refused: %s", name ? name : "no reason");
    } else if (s->words[0] == '\0') {
        snprintf(s->words, sizeof(s->words), "%s", gnutls_strerror(e));
    }
    (void)gnutls_alert_send_appropriate(s->tls, e);
    if (e == GNUTLS_E_PREMATURE_TERMINATION)
        return WEIR_E_CLOSED;
    return e == GNUTLS_E_CERTIFICATE_ERROR || e == GNUTLS_E_CERTIFICATE_REQUIRED ? WEIR_E_AUTH
                                                                                : WEIR_E_PROTO;
}

int tls_session_handshake(struct tls_session *s)
{
    weir_assert(!s->stands);
    if (s->failed)
        return WEIR_E_PROTO;
    /* Warning alerts do not end a handshake; so many of them are no handshake. */
    for (int i = 0; i < 8; i++) {
        int e = gnutls_handshake(s->tls);
        if (e == GNUTLS_E_SUCCESS)
            return settle(s);
        if (e == GNUTLS_E_AGAIN)
            return 0;
        if (e != GNUTLS_E_INTERRUPTED && (gnutls_error_is_fatal(e) != 0))
            return handshake_failed(s, e);
    }
    return handshake_failed(s, GNUTLS_E_UNEXPECTED_PACKET);
}

bool tls_session_wants_write(const struct tls_session *s)
{
    return gnutls_record_get_direction(s->tls) == 1;
}

const char *tls_session_words(const struct tls_session *s)
{
    return s->words;
}

/* ---- records ---- */

ssize_t tls_session_read(struct tls_session *s, void *to, size_t room)
{
    weir_assert(s->stands);
    weir_assert(room > 0);
    s->dry = false;
    for (int i = 0; i < ASIDE_MAX; i++) {
        ssize_t n = gnutls_record_recv(s->tls, to, room);
        if (n >= 0)
            return n;
        if (n == GNUTLS_E_AGAIN && s->dry)
            return -EAGAIN;
        /* Also without a dry socket, when a message of TLS's own was all that came. GnuTLS bounds
         * some of those, but takes session tickets as fast and as long as they come. */
        if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
            continue;
        if (n == GNUTLS_E_PREMATURE_TERMINATION)
            return 0; /* NBD and the control protocol say themselves where they end */
        s->failed = true;
        return n == GNUTLS_E_PULL_ERROR ? -ECONNRESET : WEIR_E_PROTO;
    }
    s->failed = true;
    return WEIR_E_PROTO;
}

ssize_t tls_session_send(struct tls_session *s, const void *bytes, size_t n)
{
    weir_assert(s->stands);
    weir_assert(n > 0);
    weir_assert(n >= s->unsent);
    for (;;) {
        ssize_t sent;
        if (s->unsent > 0) {
            sent = gnutls_record_send(s->tls, NULL, 0);
        } else {
            size_t record = n < TLS_RECORD_MAX ? n : TLS_RECORD_MAX;
            sent = gnutls_record_send(s->tls, bytes, record);
            if (sent == GNUTLS_E_AGAIN || sent == GNUTLS_E_INTERRUPTED)
                s->unsent = record;
        }
        if (sent > 0) {
            weir_assert(s->unsent == 0 || (size_t)sent == s->unsent);
            s->unsent = 0;
            return sent;
        }
        if (sent == GNUTLS_E_AGAIN)
            return -EAGAIN;
        if (sent == GNUTLS_E_INTERRUPTED)
            continue;
        return sent == GNUTLS_E_PUSH_ERROR ? -EPIPE : WEIR_E_PROTO;
    }
}

/* ---- who it is ---- */

static int peer_certificate(const struct tls_session *s, gnutls_x509_crt_t *ret)
{
    unsigned n = 0;
    const gnutls_datum_t *list = gnutls_certificate_get_peers(s->tls, &n);
    if (list == NULL || n == 0)
        return WEIR_E_NOT_FOUND;
    if (gnutls_x509_crt_init(ret) < 0)
        return -ENOMEM;
    if (gnutls_x509_crt_import(*ret, &list[0], GNUTLS_X509_FMT_DER) < 0) {
        gnutls_x509_crt_deinit(*ret);
        return WEIR_E_PARSE;
    }
    return 0;
}

static ssize_t name_of(gnutls_x509_crt_t crt, char *name, size_t size)
{
    size_t n = size;
    if (gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &n) >= 0 &&
        n > 0)
        return (ssize_t)n;
    for (unsigned i = 0; i < 64; i++) {
        n = size;
        int type = gnutls_x509_crt_get_subject_alt_name(crt, i, name, &n, NULL);
        if (type == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
            break;
        if ((type == GNUTLS_SAN_DNSNAME || type == GNUTLS_SAN_URI ||
             type == GNUTLS_SAN_RFC822NAME) &&
            n > 0)
            return (ssize_t)n;
    }
    return WEIR_E_NOT_FOUND;
}

ssize_t tls_session_peer(const struct tls_session *s, char *name, size_t size)
{
    weir_assert(s->stands);
    if (gnutls_auth_get_type(s->tls) == GNUTLS_CRD_PSK) {
        const char *identity = gnutls_psk_server_get_username(s->tls);
        size_t n = identity != NULL ? strnlen(identity, size) : 0;
        if (n > 0)
            memcpy(name, identity, n);
        return (ssize_t)n;
    }
    gnutls_x509_crt_t crt;
    int r = peer_certificate(s, &crt);
    if (r < 0)
        return r == WEIR_E_NOT_FOUND ? 0 : r;
    ssize_t n = name_of(crt, name, size);
    gnutls_x509_crt_deinit(crt);
    return n;
}

int tls_session_peer_key(const struct tls_session *s, uint8_t ret[TLS_FINGERPRINT_SIZE])
{
    gnutls_x509_crt_t crt;
    size_t n = TLS_FINGERPRINT_SIZE;
    weir_assert(s->stands);
    int r = peer_certificate(s, &crt);
    if (r < 0)
        return r;
    r = gnutls_x509_crt_get_key_id(crt, GNUTLS_KEYID_USE_SHA256, ret, &n);
    gnutls_x509_crt_deinit(crt);
    return r < 0 || n != TLS_FINGERPRINT_SIZE ? WEIR_E_NOT_FOUND : 0;
}

int tls_session_channel(const struct tls_session *s, uint8_t ret[32])
{
    gnutls_datum_t cb = {0};
    weir_assert(s->stands);
    if (gnutls_session_channel_binding(s->tls, GNUTLS_CB_TLS_EXPORTER, &cb) < 0)
        return WEIR_E_UNAVAILABLE;
    int r = cb.size == 32 ? 0 : WEIR_E_UNAVAILABLE;
    if (r == 0)
        memcpy(ret, cb.data, 32);
    gnutls_free(cb.data);
    return r;
}

void tls_session_describe(const struct tls_session *s, char *out, size_t size)
{
    char *words = gnutls_session_get_desc(s->tls);
    snprintf(out, size, "%s", words != NULL ? words : "TLS");
    gnutls_free(words);
}

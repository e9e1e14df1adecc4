/* SPDX-License-Identifier: Apache-2.0 */
/* One TLS session over a non-blocking socket: handshake, read, send; never waits.
 *
 * The descriptor stays its owner's and must outlive the session. One thread at a time; with
 * tls_files.shared one may read while another sends (see session.c). */
#ifndef WEIR_TLS_SESSION_H
#define WEIR_TLS_SESSION_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tls/creds.h"

/* The most one call of tls_session_send takes: what a record carries (RFC 8446, 5.1). */
#define TLS_RECORD_MAX 16384u

struct tls_session;

/* Takes a reference of @c, whose side decides who greets. 0 or -ENOMEM. */
int tls_session_new(struct tls_creds *c, int fd, struct tls_session **ret);
/* Before the handshake, of a client: what the server's certificate must name, in the place of the
 * credentials' verify_name, for those that have one set for several servers. 0 or -ENOMEM, or
 * WEIR_E_INVALID: it is too long. */
int tls_session_expect(struct tls_session *s, const char *name);
/* Tells the peer, if it can be told at once. NULL is fine. */
void tls_session_free(struct tls_session *s);

/* Go on with the handshake. 1: it stands; 0: the socket must become readable, or writable if
 * tls_session_wants_write(); WEIR_E_AUTH: the peer could not be authenticated; WEIR_E_PROTO,
 * WEIR_E_CLOSED, -errno: it failed otherwise. After a failure tls_session_words() says why. */
int tls_session_handshake(struct tls_session *s);
bool tls_session_wants_write(const struct tls_session *s);
const char *tls_session_words(const struct tls_session *s);

/* Bytes read (> 0); 0: the peer has ended; -EAGAIN: nothing more is here, neither in the socket nor
 * in the session (so an edge-triggered wait may follow); WEIR_E_PROTO, -errno: it failed. */
ssize_t tls_session_read(struct tls_session *s, void *to, size_t room);

/* Bytes sent (1 .. TLS_RECORD_MAX), or -EAGAIN, WEIR_E_PROTO, -errno. After -EAGAIN a record is
 * under way: the next call must offer the same bytes at its front, and at least as many. */
ssize_t tls_session_send(struct tls_session *s, const void *bytes, size_t n);

/* Who the peer is: the subject's common name, else the first alternative name (DNS, URI, mail) of
 * its certificate, or the identity of its pre-shared key. Returns the length, 0 when it showed
 * nothing, WEIR_E_NOT_FOUND when what it showed has no name. Not terminated, not escaped. */
ssize_t tls_session_peer(const struct tls_session *s, char *name, size_t size);
/* SHA-256 of the public key in the peer's certificate. 0 or WEIR_E_NOT_FOUND. */
int tls_session_peer_key(const struct tls_session *s, uint8_t ret[TLS_FINGERPRINT_SIZE]);
/* What both ends of this session know and nobody else (RFC 9266, tls-exporter). 0 or an error. */
int tls_session_channel(const struct tls_session *s, uint8_t ret[32]);
/* "TLS1.3, ECDHE-..., AES-256-GCM": for logs. */
void tls_session_describe(const struct tls_session *s, char *out, size_t size);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A key pair with a certificate that only names it, made at a program's first start; fingerprints.
 *
 * Whoever knows the fingerprint of the key needs no authority to know its owner again. */
#ifndef WEIR_TLS_IDENTITY_H
#define WEIR_TLS_IDENTITY_H
#include <stddef.h>
#include <stdint.h>

#include "tls/creds.h"

/* "sha256:" and 64 hex digits, with the NUL. */
#define TLS_FINGERPRINT_TEXT (7u + 2u * TLS_FINGERPRINT_SIZE + 1u)

/* Make @path (0600: private key, then certificate, ECDSA P-256) if it is not there. @name becomes
 * the certificate's common name. 0, or an error code with words. */
int tls_identity_ensure(const char *path, const char *name, char *words, size_t size);

void tls_fingerprint_format(const uint8_t f[TLS_FINGERPRINT_SIZE], char out[TLS_FINGERPRINT_TEXT]);
/* Blanks at the end are fine. 0 or WEIR_E_PARSE. */
int tls_fingerprint_parse(const char *text, uint8_t ret[TLS_FINGERPRINT_SIZE]);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of credentials, for creds.c and session.c. */
#ifndef WEIR_TLS_CREDS_PRIVATE_H
#define WEIR_TLS_CREDS_PRIVATE_H
#include <gnutls/gnutls.h>

#include "tls/creds.h"

struct tls_creds {
    unsigned references;
    enum tls_side side;
    enum tls_peer_check peer;
    bool shared;
    bool x509; /* can judge or show certificates */
    gnutls_certificate_credentials_t certificate;
    gnutls_psk_server_credentials_t psk_server;
    gnutls_psk_client_credentials_t psk_client;
    gnutls_priority_t priority;
    struct psk_table psk; /* server */
    char verify_name[TLS_NAME_SIZE];
    struct tls_validity validity;
    bool has_own;
    uint8_t fingerprint[TLS_FINGERPRINT_SIZE];
};

#endif

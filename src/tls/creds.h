/* SPDX-License-Identifier: Apache-2.0 */
/* What one side of a TLS session proves itself with and believes its peer by, read from files.
 *
 * Immutable once made and counted: sessions hold what they began with, and a reload puts a new one
 * in its owner's place. The count is not atomic: take and give references in one thread. Reading is
 * safe in any (GnuTLS manual, "Thread safety"). */
#ifndef WEIR_TLS_CREDS_H
#define WEIR_TLS_CREDS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dates.h"
#include "tls/psk.h"

#define TLS_PATH_SIZE        512u
#define TLS_NAME_SIZE        256u
#define TLS_FINGERPRINT_SIZE 32u /* SHA-256 of a public key (SubjectPublicKeyInfo) */
/* A certificate chain, a key, trusted certificates: no file of them is larger. */
#define TLS_FILE_MAX (1024u * 1024u)

enum tls_side { TLS_SERVER, TLS_CLIENT };

enum tls_peer_check {
    TLS_PEER_NONE,     /* server: ask for no certificate */
    TLS_PEER_OPTIONAL, /* server: ask; what is shown must hold */
    TLS_PEER_REQUIRED, /* must be shown, and hold */
    TLS_PEER_PINNED,   /* must be shown; its key is judged by the owner after the handshake */
};

/* What to load; "" is: none. */
struct tls_files {
    char certificate[TLS_PATH_SIZE];  /* PEM, the chain, own first */
    char key[TLS_PATH_SIZE];          /* PEM; may be the same file */
    char ca[TLS_PATH_SIZE];           /* PEM, whom to trust; client: "" is the system's trust */
    char psk[TLS_PATH_SIZE];          /* see psk.h */
    char psk_identity[PSK_NAME_SIZE]; /* client: which of psk to use */
    char verify_name[TLS_NAME_SIZE];  /* client: what the server's certificate must name */
    enum tls_peer_check peer;
    bool only_tls13;
    bool shared; /* one thread reads while another writes: see session.c */
};

/* When the certificates of one side's files count. */
struct tls_validity {
    struct dates own; /* of the whole chain: the latest begin, the earliest end */
    struct dates ca;  /* of tls-ca and the like: from the first begin to the last end in it */
};

struct tls_creds;

/* Which of them is at fault. */
enum tls_file {
    TLS_FILE_NONE, /* the environment is: no memory */
    TLS_FILE_CERTIFICATE,
    TLS_FILE_KEY, /* also one that is another certificate's */
    TLS_FILE_CA,  /* with no name where it is the system's trust */
    TLS_FILE_PSK,
    TLS_FILE_PSK_IDENTITY, /* is not in the file */
};

struct tls_fault {
    enum tls_file file;
    char found[160];      /* in words: "No such file or directory" */
    const char *expected; /* "a certificate in PEM form" */
};

/* Read and check everything: that key and certificate belong together, and that the certificate may
 * be used for this side. Not that it is in date: time heals one that does not count yet, and who
 * shows an ended one still speaks to peers that do not mind, so it is told and not refused
 * (tls_creds_validity). 0, or an error code with words in @words: which file, what is wrong with
 * it, what was expected. */
int tls_creds_new(enum tls_side side, const struct tls_files *files, struct tls_creds **ret,
                  char *words, size_t size);
/* The same for whoever can say where each file is named. */
int tls_creds_load(enum tls_side side, const struct tls_files *files, struct tls_creds **ret,
                   struct tls_fault *ret_fault);
/* And for who only wants to know. */
int tls_creds_try(enum tls_side side, const struct tls_files *files, struct tls_fault *ret_fault,
                  struct tls_validity *ret);
/* What daemon files call it, in *@ret_value what it says there; @ca is what the key of an authority
 * is called. NULL: no file is at fault. */
const char *tls_file_key(enum tls_file file, const struct tls_files *f, const char *ca,
                         const char **ret_value);
struct tls_creds *tls_creds_ref(struct tls_creds *c);
/* NULL is fine. */
void tls_creds_unref(struct tls_creds *c);

const struct tls_validity *tls_creds_validity(const struct tls_creds *c);
/* Of the own certificate's public key. False: there is none. */
bool tls_creds_fingerprint(const struct tls_creds *c, uint8_t ret[TLS_FINGERPRINT_SIZE]);

/* Give a session that another library made (a gnutls_session_t, before its handshake) these
 * credentials, which must outlive it. 0 or WEIR_E_INVALID. */
int tls_creds_dress(const struct tls_creds *c, void *gnutls_session);

#endif

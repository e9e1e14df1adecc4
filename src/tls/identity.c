/* SPDX-License-Identifier: Apache-2.0 */
#include "tls/identity.h"

#include <errno.h>
#include <gnutls/x509.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"

#define FINGERPRINT_PREFIX "sha256:"
#define DAY_S 86400

static int fill(gnutls_x509_crt_t crt, gnutls_x509_privkey_t key, const char *name)
{
    uint8_t serial[16];
    int64_t now_s = clock_wall_us() / 1000000;
    rng_system(serial, sizeof(serial));
    serial[0] &= 0x7f; /* a serial number is positive (RFC 5280, 4.1.2.2) */
    serial[0] |= 0x01;
    int e = gnutls_x509_crt_set_version(crt, 3);
    if (e >= 0)
        e = gnutls_x509_crt_set_serial(crt, serial, sizeof(serial));
    if (e >= 0)
        e = gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                          (unsigned)strnlen(name, 64));
    /* Clocks differ by a day at most; the key, not a date, says how long it is good. */
    if (e >= 0)
        e = gnutls_x509_crt_set_activation_time(crt, (time_t)(now_s - DAY_S));
    if (e >= 0)
        e = gnutls_x509_crt_set_expiration_time(crt, GNUTLS_X509_NO_WELL_DEFINED_EXPIRATION);
    if (e >= 0)
        e = gnutls_x509_crt_set_key(crt, key);
    if (e >= 0)
        e = gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE);
    if (e >= 0)
        e = gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0);
    return e;
}

static int make(const char *path, const char *name)
{
    gnutls_x509_privkey_t key = NULL;
    gnutls_x509_crt_t crt = NULL;
    gnutls_datum_t key_pem = {0}, crt_pem = {0};
    int r = WEIR_E_UNAVAILABLE;
    if (gnutls_x509_privkey_init(&key) >= 0 && gnutls_x509_crt_init(&crt) >= 0 &&
        gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                     GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0) >= 0 &&
        fill(crt, key, name) >= 0 &&
        gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &key_pem) >= 0 &&
        gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &crt_pem) >= 0) {
        struct text t;
        text_init(&t, TLS_FILE_MAX);
        text_append(&t, key_pem.data, key_pem.size);
        text_append(&t, crt_pem.data, crt_pem.size);
        r = t.failed ? -ENOMEM : text_write_file_atomic(path, t.data, t.len, 0600);
        if (t.data != NULL)
            sodium_memzero(t.data, t.len);
        text_fini(&t);
    }
    if (key_pem.data != NULL)
        sodium_memzero(key_pem.data, key_pem.size);
    gnutls_free(key_pem.data);
    gnutls_free(crt_pem.data);
    if (crt != NULL)
        gnutls_x509_crt_deinit(crt);
    if (key != NULL)
        gnutls_x509_privkey_deinit(key);
    return r;
}

int tls_identity_ensure(const char *path, const char *name, char *words, size_t size)
{
    if (access(path, F_OK) == 0)
        return 0;
    int r = errno == ENOENT ? make(path, name) : -errno;
    if (r < 0)
        snprintf(words, size, "%s cannot be made: %s; expected a folder that can be written", path,
                 weir_strerror(r));
    return r;
}

void tls_fingerprint_format(const uint8_t f[TLS_FINGERPRINT_SIZE], char out[TLS_FINGERPRINT_TEXT])
{
    memcpy(out, FINGERPRINT_PREFIX, sizeof(FINGERPRINT_PREFIX) - 1);
    sodium_bin2hex(out + sizeof(FINGERPRINT_PREFIX) - 1, 2 * TLS_FINGERPRINT_SIZE + 1, f,
                   TLS_FINGERPRINT_SIZE);
}

int tls_fingerprint_parse(const char *text, uint8_t ret[TLS_FINGERPRINT_SIZE])
{
    uint8_t f[TLS_FINGERPRINT_SIZE];
    size_t n = 0;
    const char *end = NULL;
    if (strncmp(text, FINGERPRINT_PREFIX, sizeof(FINGERPRINT_PREFIX) - 1) != 0)
        return WEIR_E_PARSE;
    const char *hex = text + sizeof(FINGERPRINT_PREFIX) - 1;
    if (sodium_hex2bin(f, sizeof(f), hex, strlen(hex), NULL, &n, &end) != 0 || n != sizeof(f) ||
        end[strspn(end, " \t\r\n")] != '\0')
        return WEIR_E_PARSE;
    memcpy(ret, f, sizeof(f));
    return 0;
}

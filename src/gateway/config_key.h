/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of gateway.conf: one table that reads, bounds and lists them. Private to config.c. */
#ifndef WEIR_GATEWAY_CONFIG_KEY_H
#define WEIR_GATEWAY_CONFIG_KEY_H
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "gateway/config.h"

enum config_section {
    SECTION_GATEWAY,
    SECTION_SERVER,
    SECTION_LISTENER,
    SECTION_TARGET,
    SECTION_VOLUME,
    SECTION_LIMIT,
    SECTION_COUNT,
};

enum config_value {
    VALUE_NAME,      /* plain name */
    VALUE_TEXT,      /* any text of at most size - 1 bytes */
    VALUE_CERT_NAME, /* what a certificate may be for: a host's name or an IP address */
    VALUE_PATH,      /* absolute */
    VALUE_TOKEN,     /* file whose first line is the token */
    VALUE_ADDRESS,   /* struct addr */
    VALUE_SERVER,    /* next of gateway_config.servers */
    VALUE_SERVER_LISTEN,
    VALUE_URI,       /* target_config.uri, addr and export_name */
    VALUE_TARGET,    /* struct target_config * */
    VALUE_MODE,      /* octal */
    VALUE_COUNT,     /* uint32_t in min..max */
    VALUE_DURATION,  /* uint64_t of ns in min..max */
    VALUE_SIZE,      /* uint64_t of bytes in min..max */
    VALUE_LEVEL,     /* uint32_t, enum log_level */
    VALUE_ENGINE,    /* uint32_t, enum config_engine */
    VALUE_SCOPE,     /* bool: per stream */
    VALUE_IOPS,      /* uint64_t, 0: unlimited */
    VALUE_BANDWIDTH, /* the same */
    VALUE_BURST_FOR, /* both burst_ns of a limit */
    VALUE_TLS_MODE,  /* enum tls_mode: off, allow, require */
    VALUE_TLS_ON,    /* bool: off, require */
    VALUE_FINGERPRINT, /* "sha256:..." */
    VALUE_YES,       /* bool: yes, no */
    VALUE_PEER,      /* enum tls_peer_check: none, optional, required */
};

struct config_key {
    enum config_section section;
    const char *key;
    enum config_value type;
    size_t offset, size;
    uint64_t min, max;
};

/* The key of that name, or NULL. */
const struct config_key *config_key_find(enum config_section section, const char *name);
/* Append "name, state-dir, ..." to an empty @out. */
void config_key_list(enum config_section section, struct text *out);

/* Read one value into @object (of the key's section; for [gateway] and [server] it is @c). 0, or
 * WEIR_E_INVALID with what was expected in @words. */
int config_key_read(struct gateway_config *c, void *object, const struct config_key *k,
                    const char *value, char *words, size_t size);

#endif

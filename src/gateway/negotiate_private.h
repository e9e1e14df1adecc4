/* SPDX-License-Identifier: Apache-2.0 */
/* What a negotiation is made of, for its own three parts: its course (negotiate.c), what hosts ask
 * (negotiate_option.c), what targets answer (negotiate_answer.c). */
#ifndef WEIR_GATEWAY_NEGOTIATE_PRIVATE_H
#define WEIR_GATEWAY_NEGOTIATE_PRIVATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/text.h"
#include "gateway/config.h"
#include "gateway/negotiate.h"
#include "proto/nbd/option.h"

#define PHASE_TABLE(X)                                                                             \
    X(GREETING)                                                                                    \
    X(CLIENT_FLAGS)                                                                                \
    X(ASKING)                                                                                      \
    X(TARGET_TLS)                                                                                  \
    X(OPTION)                                                                                      \
    X(HOST_TLS)                                                                                    \
    X(ANSWER)                                                                                      \
    X(EXPORT_REPLY)                                                                                \
    X(DONE)                                                                                        \
    X(ENDED)                                                                                       \
    X(FAILED)

enum phase {
#define X(name) PHASE_##name,
    PHASE_TABLE(X)
#undef X
};

/* The option that the target is answering. */
struct pending {
    uint32_t option;
    const struct volume_config *volume; /* whose export it names; NULL: none, or names pass */
    bool has_export;                    /* REP_INFO with NBD_INFO_EXPORT came */
    uint32_t replies;
    size_t bytes;
};

struct negotiation {
    const struct target_config *target;
    enum phase phase;
    enum tls_mode host_tls;
    bool secured;     /* the host speaks through TLS */
    bool told;        /* the target has heard an option of the host */
    bool again;       /* the greeting is of a second connection to the target */
    uint16_t offered; /* handshake flags that the host was offered */
    uint32_t client_flags;
    uint32_t options; /* that the host has sent */
    struct pending pending;
    bool *listed; /* one a volume: told in the LIST under way */
    struct negotiate_result result;
    const char *reason;
    bool host_at_fault;
};

/* The buffers of one call of negotiate_step. */
struct wires {
    struct text *from_host, *to_target, *from_target, *to_host;
};

/* To @to, which may follow (asserted). */
void phase_set(struct negotiation *n, enum phase to);
/* Each returns true: the phase has changed. @reason is static. */
bool fail_host(struct negotiation *n, const char *reason);
bool fail_target(struct negotiation *n, const char *reason);
bool end(struct negotiation *n, const char *reason);

/* One message in OPTION, ANSWER or EXPORT_REPLY. False: bytes are missing. */
bool step_option(struct negotiation *n, const struct wires *w);
bool step_answer(struct negotiation *n, const struct wires *w);
bool step_export_reply(struct negotiation *n, const struct wires *w);

static inline const uint8_t *bytes_of(const struct text *t)
{
    return (const uint8_t *)t->data;
}

static inline struct nbd_bytes bytes_of_string(const char *s)
{
    return (struct nbd_bytes){.data = (const uint8_t *)s, .len = strlen(s)};
}

static inline bool bytes_equal(struct nbd_bytes a, struct nbd_bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

#endif

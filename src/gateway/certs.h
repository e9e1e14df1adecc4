/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway's own certificates as they are in force: until when they count, told in time.
 *
 * A part of the relay, in the reactor's thread. Words go to the log at once and then with each step
 * of base/dates.h, looked for once an hour; the server hears of the one that ends first. */
#ifndef WEIR_GATEWAY_CERTS_H
#define WEIR_GATEWAY_CERTS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dates.h"
#include "base/reactor.h"
#include "gateway/config.h"

#define CERTS_MAX (CONFIG_MAX_LISTENERS + CONFIG_MAX_TARGETS + 1u)
#define CERTS_WHERE_SIZE (16u + NAME_SIZE)

struct certs_one {
    char where[CERTS_WHERE_SIZE]; /* "listener db", as its section is called */
    char path[TLS_PATH_SIZE];
    struct dates dates;
    unsigned said; /* the step that was told */
};

struct certs {
    struct reactor *reactor; /* NULL: nobody looks */
    struct reactor_timer timer;
    size_t count;
    struct certs_one one[CERTS_MAX];
};

/* Look now and every hour until certs_stop. */
void certs_start(struct certs *c, struct reactor *r);
void certs_stop(struct certs *c);

/* What is in force changes: forget all, then add what is in force now. Without a certificate of its
 * own (NULL is fine) a side adds nothing. What does not count now was told by whoever read the
 * configuration, with its line. */
void certs_clear(struct certs *c);
void certs_add(struct certs *c, const char *kind, const char *name, const char *path,
               const struct tls_validity *v);
/* The one that ends first; NULL: there is none. */
const struct certs_one *certs_first(const struct certs *c);

/* Whether @fresh may take the place of @old: no, if that counts and this does not. Then words. */
bool certs_may_replace(const struct tls_validity *old, const struct tls_validity *fresh,
                       const char *path, char *words, size_t size);
/* What @fresh read for the listeners and targets of @c, and from which files, is @c's from now on,
 * for workers to come; @fresh has what @c had. False: it may not, by the rule above, and nothing is
 * changed. Then words. */
bool certs_take(struct gateway_config *c, struct gateway_config *fresh, char *words, size_t size);

#endif

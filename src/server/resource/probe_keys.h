/* SPDX-License-Identifier: Apache-2.0 */
/* What the server's probes prove themselves with and believe targets by: read from the files that
 * server.conf names, all or none. */
#ifndef WEIR_SERVER_RESOURCE_PROBE_KEYS_H
#define WEIR_SERVER_RESOURCE_PROBE_KEYS_H
#include <stddef.h>

#include "server/resource/probe.h"
#include "server/threads.h"

struct probe_key_set;

/* What section @i of c->probe_tls says, and where it is silent what [resource] says; without a name
 * to verify, which is the session's, since one set is for many targets. */
struct tls_files probe_keys_files(const struct server_config *c, size_t i);

/* Read them. 0 with a new set, or an error code with words. The set and what is taken from it
 * belong to one thread at a time (tls/creds.h). */
int probe_keys_load(const struct server_config *c, struct probe_key_set **ret, char *words,
                    size_t size);
void probe_keys_free(void *set);

/* Those of @target: its own, else those of [resource]. NULL is a set without any. */
struct probe_keys probe_keys_of(const struct probe_key_set *set, const char *target);

#endif

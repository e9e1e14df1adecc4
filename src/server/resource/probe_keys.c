/* SPDX-License-Identifier: Apache-2.0 */
#include "server/resource/probe_keys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

struct probe_key_set {
    size_t count;
    struct {
        char target[NAME_SIZE];
        struct probe_keys keys;
    } of[PROBE_TLS_MAX];
};

static void fill(char *own, size_t size, const char *general)
{
    if (own[0] == '\0')
        snprintf(own, size, "%s", general);
}

struct tls_files probe_keys_files(const struct server_config *c, size_t i)
{
    struct tls_files f = c->probe_tls[i].files;
    const struct tls_files *general = &c->probe_tls[0].files;
    if (f.certificate[0] == '\0' && f.key[0] == '\0') {
        fill(f.certificate, sizeof(f.certificate), general->certificate);
        fill(f.key, sizeof(f.key), general->key);
    }
    if (f.psk[0] == '\0' && f.psk_identity[0] == '\0')
        fill(f.psk_identity, sizeof(f.psk_identity), general->psk_identity);
    fill(f.psk, sizeof(f.psk), general->psk);
    fill(f.ca, sizeof(f.ca), general->ca);
    f.verify_name[0] = '\0';
    f.peer = TLS_PEER_REQUIRED;
    return f;
}

static int load_one(const struct server_config *c, size_t i, struct probe_keys *ret, char *words,
                    size_t size)
{
    struct tls_files f = probe_keys_files(c, i);
    bool by_name = f.ca[0] != '\0' || f.certificate[0] != '\0';
    snprintf(ret->verify_name, sizeof(ret->verify_name), "%s", c->probe_tls[i].files.verify_name);
    if (!by_name && f.psk[0] == '\0')
        return 0;
    ret->keys_only = !by_name;
    return tls_creds_new(TLS_CLIENT, &f, &ret->creds, words, size);
}

int probe_keys_load(const struct server_config *c, struct probe_key_set **ret, char *words,
                    size_t size)
{
    struct probe_key_set *set = calloc(1, sizeof(*set));
    int r = set == NULL ? -ENOMEM : 0;
    for (size_t i = 0; r == 0 && i < c->probe_tls_count; i++) {
        memcpy(set->of[i].target, c->probe_tls[i].target, sizeof(set->of[i].target));
        set->count++;
        r = load_one(c, i, &set->of[i].keys, words, size);
    }
    if (r < 0)
        probe_keys_free(set);
    else
        *ret = set;
    return r;
}

void probe_keys_free(void *set)
{
    struct probe_key_set *s = set;
    if (s == NULL)
        return;
    for (size_t i = 0; i < s->count; i++)
        tls_creds_unref(s->of[i].keys.creds);
    free(s);
}

struct probe_keys probe_keys_of(const struct probe_key_set *set, const char *target)
{
    if (set == NULL)
        return (struct probe_keys){.creds = NULL};
    for (size_t i = 1; i < set->count; i++)
        if (strcmp(set->of[i].target, target) == 0)
            return set->of[i].keys;
    return set->of[0].keys;
}

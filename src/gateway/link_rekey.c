/* SPDX-License-Identifier: Apache-2.0 */
/* A new key in the place of the gateway's credential, within a session (docs/protocol.md,
 * "Rotation").
 *
 *   IDLE --Rekey--> WRITING --the key is on disk: KeyConfirm--> IDLE
 *                      \--another Rekey, or the session's end--> IDLE
 *
 * Problem: the server changes the key in its database in one moment, this side in a file in
 * another, and either may die between any two steps. A gateway that is left with a key that the
 * server no longer has is locked out.
 *
 * Model: two files. "credential" is in force; "credential.next" may be, and nobody here knows until
 * it is used. So the next key is tried first, and the other when the server refuses it; the next
 * becomes the credential (a rename) when a session stands on it, or when the server names it as the
 * one that it replaces. It is dropped never, only replaced by a newer one, which the server sends
 * only when it knows which key is in force. KeyConfirm goes out after the file is written and
 * synced, never before; the write is a thread's (link_disk.c), so no I/O waits for it.
 *
 * Invariant: whichever key the server has is in one of the two files. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/rng.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"

#define LOOK_NS (20 * NS_PER_MS)

struct link_rekey {
    struct link *link;
    struct link_disk *disk; /* of credential.next; NULL: never needed yet */
    struct reactor_timer timer;
    uint64_t session; /* WRITING: which one to confirm in */
    struct auth_rekey exchange;
    uint8_t key[AUTH_KEY_SIZE];
};

static void rekey_forget(struct link_rekey *k)
{
    reactor_timer_clear(k->link->reactor, &k->timer);
    sodium_memzero(k->key, sizeof(k->key));
    k->session = 0;
}

void link_rekey_say(struct link *l, const char *key_id, const uint8_t key[AUTH_KEY_SIZE],
                    const uint8_t *exchange)
{
    uint8_t proof[AUTH_PROOF_SIZE];
    Weir__Control__KeyConfirm c = WEIR__CONTROL__KEY_CONFIRM__INIT;
    Weir__Control__Frame f = WEIR__CONTROL__FRAME__INIT;
    auth_confirm(key, l->gateway_id, l->session, key_id, proof);
    c.key_id = (char *)(uintptr_t)key_id;
    c.proof = (ProtobufCBinaryData){.len = sizeof(proof), .data = proof};
    if (exchange != NULL)
        c.exchange = (ProtobufCBinaryData){.len = AUTH_EXCHANGE_SIZE,
                                           .data = (uint8_t *)(uintptr_t)exchange};
    f.body_case = WEIR__CONTROL__FRAME__BODY_KEY_CONFIRM;
    f.key_confirm = &c;
    (void)link_send(l, &f);
}

static void rekey_look(struct reactor_timer *t, uint64_t now_ns)
{
    struct link_rekey *k = container_of(t, struct link_rekey, timer);
    struct link *l = k->link;
    if (!link_up(l) || l->session != k->session) {
        rekey_forget(k);
        return;
    }
    if (!link_disk_idle(k->disk)) { /* a disk that is full is tried again, and we wait */
        reactor_timer_set(l->reactor, t, now_ns + LOOK_NS);
        return;
    }
    log_info("link: the new key %s is written; telling the server", k->exchange.key_id);
    link_rekey_say(l, k->exchange.key_id, k->key, k->exchange.gateway);
    l->avoid_next = false;
    rekey_forget(k);
}

/* The key in force into @ret: the server says which it is. 0 or an error code. */
static int rekey_base(struct link *l, const char *id, struct link_key *ret)
{
    const char *why = "";
    int r = link_key_next_load(l->config->state_dir, ret);
    if (r == 0 && strcmp(ret->id, id) == 0)
        return link_credential_promote(l->config->state_dir);
    r = link_key_load(l->config, ret, &why);
    if (r < 0)
        return r;
    return ret->kind == LINK_KEY_CREDENTIAL && strcmp(ret->id, id) == 0 ? 0 : WEIR_E_NOT_FOUND;
}

static int rekey_begin(struct link_rekey *k, const Weir__Control__Rekey *r)
{
    struct link *l = k->link;
    struct link_key base = {.id = ""};
    uint8_t secret[AUTH_EXCHANGE_SIZE];
    int err = rekey_base(l, r->base_key_id, &base);
    if (err < 0)
        return err;
    if (k->disk == NULL) {
        char path[sizeof(l->config->state_dir) + 24];
        snprintf(path, sizeof(path), "%s/" LINK_NEXT_FILE, l->config->state_dir);
        k->disk = link_disk_new(path);
        if (k->disk == NULL)
            return -ENOMEM;
    }
    memcpy(k->exchange.gateway_id, l->gateway_id, sizeof(k->exchange.gateway_id));
    snprintf(k->exchange.key_id, sizeof(k->exchange.key_id), "%s", r->key_id);
    memcpy(k->exchange.server, r->exchange.data, sizeof(k->exchange.server));
    rng_system(secret, sizeof(secret));
    auth_exchange_make(secret, k->exchange.gateway);
    err = auth_rekey(&k->exchange, AUTH_GATEWAY, secret, base.key, k->key);
    sodium_memzero(secret, sizeof(secret));
    sodium_memzero(&base, sizeof(base));
    if (err < 0)
        return err;
    size_t n = 0;
    char *line = link_credential_line(r->key_id, k->key, &n);
    if (line == NULL)
        return -ENOMEM;
    link_disk_put(k->disk, line, n);
    return 0;
}

void link_rekey_word(struct link_rekey *k, const Weir__Control__Rekey *r)
{
    rekey_forget(k);
    int err = rekey_begin(k, r);
    if (err < 0) { /* the server gives it up after a while, and the key in force stays */
        log_warning("link: the key cannot be changed: %s", weir_strerror(err));
        return;
    }
    k->session = k->link->session;
    reactor_timer_set(k->link->reactor, &k->timer, reactor_now(k->link->reactor) + LOOK_NS);
}

struct link_rekey *link_rekey_new(struct link *l)
{
    struct link_rekey *k = calloc(1, sizeof(*k));
    if (k == NULL)
        return NULL;
    k->link = l;
    k->timer.fire = rekey_look;
    return k;
}

void link_rekey_free(struct link_rekey *k)
{
    if (k == NULL)
        return;
    rekey_forget(k);
    link_disk_free(k->disk);
    free(k);
}

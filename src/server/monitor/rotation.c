/* SPDX-License-Identifier: Apache-2.0 */
/* Rotation of a gateway's key within its session (docs/protocol.md, "Rotation").
 *
 *   FREE --asked, or old enough--> CHECKING --the store has the old key--> TOLD (Rekey is out)
 *   TOLD --KeyConfirm, right--> SWAPPING --the store has changed it--> FREE
 *   TOLD --the session ends--> FREE
 *   any --30 s, or a no--> FREE
 *
 * Problem: the key changes here and at the gateway, and either side, or the store, may die or be
 * slow between any two steps. In the end the gateway must have a key that the store has.
 *
 * Model: the gateway has the new key on its disk, beside the old, before it confirms; the store
 * puts the new in the place of the old in one transaction, after that. So at each moment the
 * gateway has whichever key the store has (gateway/link_rekey.c), and nothing needs to be kept
 * here: what was not swapped never was.
 *
 * The one danger is an old swap whose outcome is not known (the store answered too late) when the
 * next rotation begins: the gateway would give up the key of the first for that of the second. So a
 * rotation begins with a write, CHECKING, that asks whether the old key is still there. The store
 * carries out the writes of one thread in their order, so whatever was swapped before is seen.
 *
 * The same check closes the token of the gateway's enrolment: from then on the credential is known
 * to be at the gateway, and no other try of that enrolment can be.
 *
 * Orders. A gateway that is away gets its new key when it next stands. The order lies in the store,
 * in the gateway's record (store.h, STORE_GATEWAY_REKEY), and comes with its credentials when they
 * are read; it ends in the savepoint that writes a credential. So it holds over the death of
 * anyone, is carried out once, whether the gateway came before the order was here, while keys were
 * read, or after, and a rotation that fails is tried again at the next look. Retiring the gateway
 * ends it with the record, and people may withdraw it, which what was begun for it by then does not
 * notice; there is one a gateway, so they are as many as credentials at most. A withdrawal may be
 * heard here behind an order that came after it: it says when it was asked, and what was ordered
 * since stands. Both times are of the thread whose writes the store carries out in their order, so
 * they tell what the record has.
 *
 * Bounds: ROTATIONS_MAX at once, ROTATION_NS each; by age at most BY_AGE a look. */
#include "server/monitor/rotation.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/rng.h"
#include "server/monitor/acceptor.h"
#include "server/msg.h"
#include "server/store/store.h"

#define ROTATION_NS      (30 * NS_PER_S)
#define STORE_TIMEOUT_NS (20 * NS_PER_S)
#define LOOK_SECONDS     5u
#define BY_AGE           16u

enum rotation_state { ROTATION_FREE, ROTATION_CHECKING, ROTATION_TOLD, ROTATION_SWAPPING };

struct rotation {
    enum rotation_state state;
    uint32_t number; /* grows with each use: late answers are told apart */
    bool asked;      /* asker waits for a reply */
    bool close_only; /* CHECKING is all that is wanted */
    int64_t ordered_us; /* 0: it was not */
    struct msg asker;
    uint64_t session, began_ns, ticket;
    char name[NAME_SIZE], old_id[AUTH_KEY_ID_SIZE];
    uint8_t old_key[AUTH_KEY_SIZE], new_key[AUTH_KEY_SIZE], secret[AUTH_EXCHANGE_SIZE];
    struct auth_rekey exchange;
    bool has_tls_key;
    uint8_t tls_key[AUTH_FINGERPRINT_SIZE];
};

struct rotation_table {
    struct acceptor *acceptor;
    unsigned seconds;
    bool look;
    struct rotation rotation[ROTATIONS_MAX];
};

struct rotation_table *rotation_table_new(struct acceptor *a)
{
    struct rotation_table *t = calloc(1, sizeof(*t));
    if (t != NULL)
        t->acceptor = a;
    return t;
}

void rotation_table_free(struct rotation_table *t)
{
    if (t == NULL)
        return;
    sodium_memzero(t, sizeof(*t));
    free(t);
}

/* ---- one rotation's beginning and end
 * -------------------------------------------------------------- */

static struct rotation *rotation_of(struct rotation_table *t, const uint8_t id[AUTH_ID_SIZE])
{
    for (size_t i = 0; i < ROTATIONS_MAX; i++) {
        struct rotation *r = &t->rotation[i];
        if (r->state != ROTATION_FREE && memcmp(r->exchange.gateway_id, id, AUTH_ID_SIZE) == 0)
            return r;
    }
    return NULL;
}

static struct rotation *rotation_free_one(struct rotation_table *t)
{
    for (size_t i = 0; i < ROTATIONS_MAX; i++)
        if (t->rotation[i].state == ROTATION_FREE)
            return &t->rotation[i];
    return NULL;
}

static void rotation_end(struct rotation_table *t, struct rotation *r, int status)
{
    struct acceptor *a = t->acceptor;
    if (r->asked)
        mailbox_reply(a->me, &r->asker, status, NULL, NULL);
    if (r->ticket != 0)
        mailbox_cancel(a->me, r->ticket);
    if (status < 0 && !r->close_only) {
        char subject[NAME_SIZE + 16], words[384];
        snprintf(subject, sizeof(subject), "gateway/%s", r->name);
        snprintf(words, sizeof(words), "the key %s of gateway %s could not be changed: %s",
                 r->old_id, r->name,
                 status == WEIR_E_NOT_FOUND ? "it went away" : weir_strerror(status));
        acceptor_event(a, EVENT_WARNING, "gateway-key-kept", subject, words);
    }
    uint32_t number = r->number;
    sodium_memzero(r, sizeof(*r));
    r->number = number + 1;
}

/* Have the store write; the answer finds @r by its tag. */
static bool rotation_write(struct rotation_table *t, struct rotation *r, enum store_verb verb,
                           const char *name, json_t *json)
{
    struct acceptor *a = t->acceptor;
    struct store_write *w = store_write_new(verb);
    if (w == NULL || json == NULL) {
        store_write_free(w);
        json_decref(json);
        return false;
    }
    w->json = json;
    w->wall_us = clock_wall_us();
    snprintf(w->name, sizeof(w->name), "%s", name);
    snprintf(w->actor, sizeof(w->actor), "gateway:%.*s", (int)(NAME_SIZE - 9), r->name);
    struct msg m = {
        .kind = MSG_STORE_WRITE,
        .body = w,
        .body_free = store_write_free,
        .tag = (uint64_t)r->number << 32 | HANDSHAKES_MAX | (uint64_t)(r - t->rotation),
    };
    _Static_assert((HANDSHAKES_MAX & (HANDSHAKES_MAX - 1)) == 0 && ROTATIONS_MAX <= HANDSHAKES_MAX,
                   "tags of handshakes are below, and ours above");
    if (mailbox_ask(a->me, a->m->threads->store_writer, &m, STORE_TIMEOUT_NS, clock_mono_ns(),
                    &r->ticket) < 0) {
        store_write_free(w);
        return false;
    }
    return true;
}

static json_t *gateway_json(const struct rotation *r)
{
    char id[2 * AUTH_ID_SIZE + 1];
    sodium_bin2hex(id, sizeof(id), r->exchange.gateway_id, AUTH_ID_SIZE);
    return json_pack("{s:s, s:s}", "gateway_id", id, "gateway_name", r->name);
}

/* CHECKING for the credential @key_id of @gateway_id. */
static struct rotation *rotation_check(struct rotation_table *t, const char *name,
                                       const uint8_t gateway_id[AUTH_ID_SIZE], const char *key_id)
{
    struct rotation *r = rotation_free_one(t);
    if (r == NULL)
        return NULL;
    memcpy(r->exchange.gateway_id, gateway_id, AUTH_ID_SIZE);
    snprintf(r->name, sizeof(r->name), "%s", name);
    snprintf(r->old_id, sizeof(r->old_id), "%s", key_id);
    r->began_ns = reactor_now(t->acceptor->reactor);
    r->state = ROTATION_CHECKING;
    if (rotation_write(t, r, STORE_CREDENTIAL_CONFIRM, key_id, gateway_json(r)))
        return r;
    r->close_only = true; /* nothing was begun that people wait for */
    rotation_end(t, r, WEIR_E_UNAVAILABLE);
    return NULL;
}

/* ---- sessions
 * -------------------------------------------------------------------------------------- */

static struct owned_session *session_find(const struct acceptor *a, uint64_t id)
{
    size_t slot = session_slot(id);
    struct owned_session *o = slot < a->m->max_sessions ? a->m->session[slot] : NULL;
    return o != NULL && o->session.id == id && o->told != 0 && o->shut == 0 ? o : NULL;
}

static struct owned_session *session_of(const struct acceptor *a, const uint8_t id[AUTH_ID_SIZE])
{
    for (size_t slot = 0; slot < a->m->max_sessions; slot++) {
        struct owned_session *o = a->m->session[slot];
        if (o != NULL && memcmp(o->session.hello.id, id, AUTH_ID_SIZE) == 0 &&
            session_find(a, o->session.id) == o)
            return o;
    }
    return NULL;
}

/* Begin for the gateway of @o. 0, or why not. */
static int rotation_begin(struct rotation_table *t, struct owned_session *o,
                          struct rotation **ret)
{
    struct acceptor *a = t->acceptor;
    const struct session_hello *hello = &o->session.hello;
    enum key_class class;
    const struct key_entry *e =
        keys_find(&a->keys.table, o->key_id, clock_wall_us(), &class);
    if (e == NULL || class != KEY_CREDENTIAL)
        return WEIR_E_INVALID;
    if (!o->rekey)
        return WEIR_E_VERSION;
    if (rotation_of(t, hello->id) != NULL)
        return WEIR_E_CONFLICT;
    struct rotation *r = rotation_check(t, hello->name, hello->id, o->key_id);
    if (r == NULL)
        return WEIR_E_FULL;
    r->session = o->session.id;
    r->ordered_us = e->ordered_us;
    memcpy(r->old_key, e->key, sizeof(r->old_key));
    r->has_tls_key = e->has_tls_key;
    memcpy(r->tls_key, e->tls_key, sizeof(r->tls_key));
    *ret = r;
    return 0;
}

void rotation_ask(struct rotation_table *t, const struct msg *m)
{
    struct acceptor *a = t->acceptor;
    struct owned_session *o = session_of(a, (const uint8_t *)m->arg);
    struct rotation *r = o != NULL ? rotation_of(t, o->session.hello.id) : NULL;
    if (r != NULL && (r->asked || r->close_only))
        r = NULL;
    int err = o == NULL ? WEIR_E_NOT_FOUND : 0;
    if (err == 0 && r == NULL) /* else one is under way that nobody waits for: it will do */
        err = rotation_begin(t, o, &r);
    if (err < 0) {
        mailbox_reply(a->me, m, err, NULL, NULL);
        return;
    }
    r->asked = true;
    r->asker = *m;
}

/* The store has the old key: tell the gateway. */
static void rotation_tell(struct rotation_table *t, struct rotation *r)
{
    struct acceptor *a = t->acceptor;
    struct owned_session *o = session_find(a, r->session);
    struct mailbox *to = o != NULL ? router_outbound(&a->router, o) : NULL;
    struct rekey_word *word = calloc(1, sizeof(*word));
    if (to == NULL || word == NULL) {
        free(word);
        rotation_end(t, r, o == NULL ? WEIR_E_NOT_FOUND : WEIR_E_UNAVAILABLE);
        return;
    }
    uint8_t random[16];
    char hex[2 * sizeof(random) + 1];
    rng_system(random, sizeof(random));
    sodium_bin2hex(hex, sizeof(hex), random, sizeof(random));
    snprintf(r->exchange.key_id, sizeof(r->exchange.key_id), "gateway:%s", hex);
    rng_system(r->secret, sizeof(r->secret));
    auth_exchange_make(r->secret, r->exchange.server);
    snprintf(word->base_key_id, sizeof(word->base_key_id), "%s", r->old_id);
    snprintf(word->key_id, sizeof(word->key_id), "%s", r->exchange.key_id);
    memcpy(word->exchange, r->exchange.server, sizeof(word->exchange));
    if (!mail_post(a->me, to, MSG_SEND_REKEY, r->session, 0, word, free)) {
        free(word);
        rotation_end(t, r, WEIR_E_UNAVAILABLE);
        return;
    }
    r->state = ROTATION_TOLD;
}

static json_t *swap_json(const struct rotation *r)
{
    char key[2 * AUTH_KEY_SIZE + 1], tls_key[2 * AUTH_FINGERPRINT_SIZE + 1] = "";
    json_t *j = gateway_json(r);
    sodium_bin2hex(key, sizeof(key), r->new_key, AUTH_KEY_SIZE);
    if (r->has_tls_key)
        sodium_bin2hex(tls_key, sizeof(tls_key), r->tls_key, sizeof(r->tls_key));
    json_object_set_new(j, "key", json_string(key));
    json_object_set_new(j, "tls_key", json_string(tls_key));
    json_object_set_new(j, "old_key_id", json_string(r->old_id));
    sodium_memzero(key, sizeof(key));
    return j;
}

static bool proof_right(const struct key_confirm *c, const uint8_t key[AUTH_KEY_SIZE],
                        const uint8_t gateway_id[AUTH_ID_SIZE], uint64_t session)
{
    uint8_t proof[AUTH_PROOF_SIZE];
    auth_confirm(key, gateway_id, session, c->key_id, proof);
    return sodium_memcmp(proof, c->proof, sizeof(proof)) == 0;
}

static void rotation_swap(struct rotation_table *t, struct rotation *r,
                          const struct key_confirm *c)
{
    memcpy(r->exchange.gateway, c->exchange, sizeof(r->exchange.gateway));
    int err = auth_rekey(&r->exchange, AUTH_SERVER, r->secret, r->old_key, r->new_key);
    if (err == 0 && !proof_right(c, r->new_key, r->exchange.gateway_id, r->session))
        err = WEIR_E_AUTH;
    if (err == 0 &&
        !rotation_write(t, r, STORE_CREDENTIAL_ROTATE, r->exchange.key_id, swap_json(r)))
        err = WEIR_E_UNAVAILABLE;
    if (err < 0)
        rotation_end(t, r, err);
    else
        r->state = ROTATION_SWAPPING;
}

void rotation_enrolled(struct rotation_table *t, const uint8_t gateway_id[AUTH_ID_SIZE],
                       const char *key_id)
{
    if (rotation_of(t, gateway_id) != NULL)
        return;
    struct rotation *r = rotation_check(t, "", gateway_id, key_id);
    if (r != NULL)
        r->close_only = true;
}

void rotation_confirmed(struct rotation_table *t, uint64_t session, const struct key_confirm *c)
{
    struct acceptor *a = t->acceptor;
    struct owned_session *o = session_find(a, session);
    if (o == NULL)
        return;
    struct rotation *r = rotation_of(t, o->session.hello.id);
    if (r != NULL && r->state == ROTATION_TOLD && r->session == session && c->has_exchange &&
        strcmp(c->key_id, r->exchange.key_id) == 0) {
        rotation_swap(t, r, c);
        return;
    }
    enum key_class class;
    const struct key_entry *e = keys_find(&a->keys.table, o->key_id, clock_wall_us(), &class);
    if (c->has_exchange || e == NULL || class != KEY_CREDENTIAL ||
        strcmp(c->key_id, o->key_id) != 0 ||
        !proof_right(c, e->key, o->session.hello.id, session))
        return; /* late, or nonsense: it changes nothing */
    rotation_enrolled(t, o->session.hello.id, o->key_id);
}

void rotation_session_over(struct rotation_table *t, uint64_t session)
{
    for (size_t i = 0; i < ROTATIONS_MAX; i++)
        if (t->rotation[i].state == ROTATION_TOLD && t->rotation[i].session == session)
            rotation_end(t, &t->rotation[i], WEIR_E_NOT_FOUND);
}

/* ---- answers of the store, and time
 * ---------------------------------------------------------------- */

/* Without memory the session keeps the old name, is ended when keys are next looked through, and
 * comes back with the new key. */
static void key_now(struct owned_session *o, const char *key_id)
{
    char *copy = strdup(key_id);
    if (copy == NULL)
        return;
    free(o->key_changed);
    o->key_id = o->key_changed = copy;
}

static void rotation_swapped(struct rotation_table *t, struct rotation *r)
{
    struct acceptor *a = t->acceptor;
    struct key_entry e = {.has_tls_key = r->has_tls_key, .made_us = clock_wall_us()};
    memcpy(e.id, r->exchange.key_id, sizeof(e.id));
    memcpy(e.key, r->new_key, sizeof(e.key));
    memcpy(e.gateway_id, r->exchange.gateway_id, sizeof(e.gateway_id));
    memcpy(e.tls_key, r->tls_key, sizeof(e.tls_key));
    /* The load below says the same; the old key is void from now on. */
    if (keys_add_credential(&a->keys.table, &e) == 0)
        keys_keep_one(&a->keys.table, e.gateway_id, e.id);
    sodium_memzero(&e, sizeof(e));
    struct owned_session *o = session_of(a, r->exchange.gateway_id);
    if (o != NULL && strcmp(o->key_id, r->old_id) == 0)
        key_now(o, r->exchange.key_id);
    monitor_count(a->m, rotated);
    char subject[NAME_SIZE + 16], words[384], at[40] = "";
    if (r->ordered_us != 0)
        clock_format_wall(r->ordered_us, at, sizeof(at));
    snprintf(subject, sizeof(subject), "gateway/%s", r->name);
    snprintf(words, sizeof(words), "gateway %s has a new key, %s in the place of %s%s%s", r->name,
             r->exchange.key_id, r->old_id, r->ordered_us != 0 ? ", as ordered at " : "", at);
    acceptor_event(a, EVENT_INFO, "gateway-key-changed", subject, words);
    rotation_end(t, r, 0);
    key_loader_load(a);
}

bool rotation_reply(struct rotation_table *t, const struct msg *m)
{
    size_t low = (size_t)(m->tag & UINT32_MAX);
    if ((low & HANDSHAKES_MAX) == 0)
        return false;
    size_t i = low & (HANDSHAKES_MAX - 1);
    weir_assert(i < ROTATIONS_MAX);
    struct rotation *r = &t->rotation[i];
    if (r->state == ROTATION_FREE || r->number != (uint32_t)(m->tag >> 32))
        return true; /* given up; see the essay */
    r->ticket = 0;
    if (m->status < 0) {
        rotation_end(t, r, m->status);
    } else if (r->state == ROTATION_SWAPPING) {
        rotation_swapped(t, r);
    } else if (r->close_only) {
        rotation_end(t, r, 0);
        key_loader_load(t->acceptor);
    } else {
        rotation_tell(t, r);
    }
    return true;
}

/* ---- orders, and age
 * ---------------------------------------------------------------------------------- */

void rotation_look(struct rotation_table *t)
{
    if (t != NULL)
        t->look = true;
}

void rotation_ordered(struct rotation_table *t, const struct msg *m)
{
    struct acceptor *a = t->acceptor;
    const struct rotation_order *o = m->body;
    char subject[NAME_SIZE + 16], words[384];
    /* What is being read now may be of before the order; the load below says it again. Of before a
     * withdrawal it is not taken: the order would be carried out all the same. */
    a->keys.withdrawn = a->keys.withdrawn || o->since_us == 0;
    bool known = o->since_us != 0
                     ? keys_order(&a->keys.table, o->gateway_id, o->since_us)
                     : keys_withdraw(&a->keys.table, o->gateway_id, o->asked_us);
    key_loader_load(a);
    if (o->again && !known) {
        mailbox_reply(a->me, m, WEIR_E_NOT_FOUND, NULL, NULL);
        return;
    }
    snprintf(subject, sizeof(subject), "gateway/%s", o->name);
    snprintf(words, sizeof(words),
             o->since_us != 0 ? "a new key is ordered for gateway %s, for when it next connects"
                              : "the new key that was ordered for gateway %s is ordered no more",
             o->name);
    acceptor_event(a, EVENT_INFO,
                   o->since_us != 0 ? "gateway-key-ordered" : "gateway-key-order-withdrawn",
                   subject, words);
    rotation_look(t);
    mailbox_reply(a->me, m, 0, NULL, NULL);
}

json_t *rotation_orders(const struct rotation_table *t)
{
    const struct key_table *k = &t->acceptor->keys.table;
    json_t *all = json_object();
    for (size_t i = 0; i < k->count[KEY_CREDENTIAL]; i++) {
        const struct key_entry *e = &k->entry[KEY_CREDENTIAL][i];
        char id[2 * AUTH_ID_SIZE + 1];
        if (e->ordered_us == 0)
            continue;
        sodium_bin2hex(id, sizeof(id), e->gateway_id, AUTH_ID_SIZE);
        json_object_set_new(all, id, json_integer((json_int_t)e->ordered_us));
    }
    return all;
}

static bool due(const struct key_entry *e, bool by_age, int64_t wall_us, int64_t age_us)
{
    return e->ordered_us != 0 || (by_age && e->made_us > 0 && wall_us - e->made_us >= age_us);
}

/* What is ordered, and, at one look in LOOK_SECONDS, what is due @by_age. */
static void rotate_due(struct rotation_table *t, bool by_age)
{
    struct acceptor *a = t->acceptor;
    int64_t wall = clock_wall_us();
    int64_t age_us = (int64_t)(a->m->config->credential_age_ns / NS_PER_US);
    unsigned begun = 0;
    for (size_t slot = 0; slot < a->m->max_sessions && begun < BY_AGE; slot++) {
        struct owned_session *o = a->m->session[slot];
        enum key_class class;
        if (o == NULL || !o->rekey || session_find(a, o->session.id) != o)
            continue;
        const struct key_entry *e = keys_find(&a->keys.table, o->key_id, wall, &class);
        if (e == NULL || class != KEY_CREDENTIAL || !due(e, by_age, wall, age_us))
            continue;
        struct rotation *r;
        int err = rotation_begin(t, o, &r);
        begun += err == 0;
        t->look |= err == WEIR_E_CONFLICT && e->ordered_us != 0; /* soon again */
    }
}

void rotation_second(struct rotation_table *t)
{
    uint64_t now = reactor_now(t->acceptor->reactor);
    for (size_t i = 0; i < ROTATIONS_MAX; i++) {
        struct rotation *r = &t->rotation[i];
        if (r->state != ROTATION_FREE && now - r->began_ns >= ROTATION_NS)
            rotation_end(t, r, WEIR_E_TIMEOUT);
    }
    bool by_age = t->seconds++ % LOOK_SECONDS == 0;
    if (!by_age && !t->look)
        return;
    t->look = false;
    rotate_due(t, by_age);
}

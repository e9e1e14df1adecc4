/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/certs.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"

#define LOOK_NS (3600 * NS_PER_S)

static int64_t wall_s(void)
{
    return clock_wall_us() / 1000000;
}

static void look(struct certs *c)
{
    int64_t now_s = wall_s();
    char words[DATES_TEXT];
    for (size_t i = 0; i < c->count; i++) {
        struct certs_one *one = &c->one[i];
        unsigned step = dates_step(&one->dates, now_s);
        if (step > one->said)
            log_warning("[%s] certificate %s: %s; put a new one in its place and reload",
                        one->where, one->path,
                        dates_words(&one->dates, now_s, words, sizeof(words)));
        one->said = step;
    }
}

static void fire(struct reactor_timer *t, uint64_t now_ns)
{
    struct certs *c = container_of(t, struct certs, timer);
    look(c);
    reactor_timer_set(c->reactor, t, now_ns + LOOK_NS);
}

void certs_start(struct certs *c, struct reactor *r)
{
    c->reactor = r;
    c->timer.fire = fire;
    fire(&c->timer, reactor_now(r));
}

void certs_stop(struct certs *c)
{
    if (c->reactor != NULL)
        reactor_timer_clear(c->reactor, &c->timer);
    c->reactor = NULL;
}

void certs_clear(struct certs *c)
{
    c->count = 0;
    if (c->reactor != NULL) /* those to come are looked at soon */
        reactor_timer_set(c->reactor, &c->timer, reactor_now(c->reactor));
}

void certs_add(struct certs *c, const char *kind, const char *name, const char *path,
               const struct tls_validity *v)
{
    int64_t now_s = wall_s();
    if (v == NULL || !dates_any(&v->own))
        return;
    weir_assert(c->count < CERTS_MAX);
    struct certs_one *one = &c->one[c->count++];
    snprintf(one->where, sizeof(one->where), "%s%s%s", kind, name[0] != '\0' ? " " : "", name);
    snprintf(one->path, sizeof(one->path), "%s", path);
    one->dates = v->own;
    one->said = dates_hold(&v->own, now_s) ? 0 : dates_step(&v->own, now_s);
}

const struct certs_one *certs_first(const struct certs *c)
{
    const struct certs_one *first = NULL;
    for (size_t i = 0; i < c->count; i++)
        if (first == NULL || c->one[i].dates.until_s < first->dates.until_s)
            first = &c->one[i];
    return first;
}

bool certs_may_replace(const struct tls_validity *old, const struct tls_validity *fresh,
                       const char *path, char *words, size_t size)
{
    int64_t now_s = wall_s();
    char text[DATES_TEXT];
    if (!dates_hold(&old->own, now_s) || dates_hold(&fresh->own, now_s))
        return true;
    snprintf(words, size, "%s: %s; expected a certificate that is in date, as the one in force is",
             path, dates_words(&fresh->own, now_s, text, sizeof(text)));
    return false;
}

/* What one listener or target of the configuration in force holds, or of one read again. */
struct held {
    struct tls_creds **creds;
    struct tls_files *files;
};

static bool may_take(struct held old, struct held fresh, char *words, size_t size)
{
    return *old.creds == NULL || *fresh.creds == NULL ||
           certs_may_replace(tls_creds_validity(*old.creds), tls_creds_validity(*fresh.creds),
                             fresh.files->certificate, words, size);
}

static void swap(struct held a, struct held b)
{
    struct tls_creds *creds = *a.creds;
    struct tls_files files = *a.files;
    if (creds == NULL || *b.creds == NULL)
        return;
    *a.creds = *b.creds;
    *a.files = *b.files;
    *b.creds = creds;
    *b.files = files;
}

/* Look whether it may be taken, or take it. */
static bool look_or_take(struct held old, struct held fresh, bool take, char *words, size_t size)
{
    if (!take)
        return may_take(old, fresh, words, size);
    swap(old, fresh);
    return true;
}

static struct held of_listener(struct gateway_config *c, int i)
{
    return (struct held){&c->listeners[i].tls_creds, &c->listeners[i].tls_files};
}

static struct held of_target(struct gateway_config *c, int i)
{
    return (struct held){&c->targets[i].tls_creds, &c->targets[i].tls_files};
}

static bool each(struct gateway_config *c, struct gateway_config *fresh, bool take, char *words,
                 size_t size)
{
    bool may = true;
    for (int i = 0; may && i < (int)c->listener_count; i++) {
        int at = gateway_config_listener(fresh, c->listeners[i].name);
        if (at >= 0)
            may = look_or_take(of_listener(c, i), of_listener(fresh, at), take, words, size);
    }
    for (int i = 0; may && i < (int)c->target_count; i++) {
        int at = gateway_config_target(fresh, c->targets[i].name);
        if (at >= 0)
            may = look_or_take(of_target(c, i), of_target(fresh, at), take, words, size);
    }
    return may;
}

bool certs_take(struct gateway_config *c, struct gateway_config *fresh, char *words, size_t size)
{
    return each(c, fresh, false, words, size) && each(c, fresh, true, words, size);
}

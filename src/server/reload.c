/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: numbers of threads and certificates change while promises are kept; a file with a
 * mistake must change nothing.
 *
 * Model: at SIGHUP the file and all keys it names are read and checked whole; only then is anything
 * given to the threads, each through its mailbox. More threads are started before gateways move to
 * them; fewer are left by their gateways and stay. The router answers when all have moved; until
 * then another change of numbers is refused. */
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "config.h"
#include "server/daemon.h"
#include "server/msg.h"
#include "tls/identity.h"

void reload_hear(struct server *s)
{
    struct msg m;
    while (mailbox_take(s->threads.main, &m)) {
        if (m.kind == MSG_ROUTE_RESIZE && m.is_reply) {
            s->resizing = false;
            log_info("all gateways are at %u pairs and %u SLA processes", s->config.pairs,
                     s->config.sla_processes);
        }
        msg_release(&m);
    }
    (void)mailbox_drained(s->threads.main); /* it is owned: shown among the threads */
}

/* Gateways go to @pairs and @processes, which run. */
static void resize(struct server *s)
{
    struct msg m = {.kind = MSG_ROUTE_RESIZE, .arg = {s->config.pairs, s->config.sla_processes}};
    uint64_t ticket;
    if (mailbox_ask(s->threads.main, s->threads.acceptor, &m, UINT64_MAX / 2, clock_mono_ns(),
                    &ticket) < 0) {
        log_warning("SIGHUP: the acceptor has no time; say it again");
        return;
    }
    s->resizing = true;
}
/* --- certificates --- */

static void control_keys_free(void *creds)
{
    tls_creds_unref(creds);
}

struct server_keys {
    struct tls_creds *control, *http; /* http: NULL where HTTP is in clear */
    struct probe_key_set *probe;
};

/* Read and check all of them. */
static int keys_load(const struct server *s, const struct server_config *c,
                     struct server_keys *ret, struct text *errors)
{
    char words[1200] = "";
    *ret = (struct server_keys){0};
    if ((c->http_certificate[0] == '\0') != (s->config.http_certificate[0] == '\0')) {
        text_append_str(errors, "[http] tls-certificate: HTTP changes to TLS, or back, at a start "
                                "only");
        return WEIR_E_REFUSED;
    }
    int r = monitor_tls_load(c, NULL, &ret->control, words, sizeof(words));
    if (r == 0)
        r = app_tls_load(c, &ret->http, words, sizeof(words));
    if (r == 0)
        r = probe_keys_load(c, &ret->probe, words, sizeof(words));
    if (r == 0)
        return 0;
    text_append_str(errors, words);
    tls_creds_unref(ret->control);
    tls_creds_unref(ret->http);
    return r;
}

/* Whether these may take the place of those in force; else they are gone. */
static int keys_judge(const struct server *s, struct server_keys *k, const struct server_config *c,
                      struct text *errors)
{
    int r = certificates_may_replace(s, &c->control_dates, &c->http_dates, errors);
    if (r == 0)
        return 0;
    tls_creds_unref(k->control);
    tls_creds_unref(k->http);
    probe_keys_free(k->probe);
    return r;
}

/* The control port's key is another one from now on. */
static void fingerprint_change(struct server *s, const uint8_t fingerprint[32])
{
    char text[TLS_FINGERPRINT_TEXT];
    if (memcmp(fingerprint, s->fingerprint, sizeof(s->fingerprint)) == 0)
        return;
    tls_fingerprint_format(fingerprint, text);
    log_warning("SIGHUP: gateways on other machines know this server by %s from now on; those that "
                "go by the key of before, and have no tls-ca, must be told or enrol anew",
                text);
    memcpy(s->fingerprint, fingerprint, sizeof(s->fingerprint));
}

/* Connections and handshakes to come have the new ones; those that stand keep what they have. What
 * @c says of their dates holds for what went. The control port goes first: only once its key is on
 * its way do tokens (the app's) name it. */
static void keys_give(struct server *s, const struct server_keys *k, const struct server_config *c)
{
    uint8_t fingerprint[32];
    void (*keys_free)(void *);
    bool has = tls_creds_fingerprint(k->control, fingerprint);
    weir_assert(has);
    struct msg control = {
        .kind = MSG_CONTROL_TLS, .body = k->control, .body_free = control_keys_free};
    bool control_gone = mailbox_post(s->threads.main, s->threads.acceptor, &control) == 0;
    if (control_gone)
        fingerprint_change(s, fingerprint);
    struct app_keys *keys = app_keys_new(k->http, s->fingerprint, &keys_free);
    struct msg http = {.kind = MSG_HTTP_KEYS, .body = keys, .body_free = keys_free};
    struct msg probe = {
        .kind = MSG_PROBE_KEYS, .body = k->probe, .body_free = probe_keys_free};
    bool http_gone = keys != NULL && mailbox_post(s->threads.main, s->threads.app, &http) == 0;
    bool probe_gone = mailbox_post(s->threads.main, s->threads.resource, &probe) == 0;
    certificates_note(s, control_gone ? &c->control_dates : NULL,
                      http_gone ? &c->http_dates : NULL);
    if (keys == NULL)
        tls_creds_unref(k->http);
    if (!control_gone || !http_gone || !probe_gone) {
        log_error("SIGHUP: not every certificate is in force: a thread has no room; say it again");
        msg_release(&control);
        msg_release(&http);
        msg_release(&probe);
    }
}

/* Threads as the settings now say; gateways move to them. */
static void reload_threads(struct server *s, const struct server_config *c)
{
    uint32_t pairs = s->config.pairs, processes = s->config.sla_processes;
    if (s->resizing) {
        log_warning("SIGHUP: gateways still move for the last one; numbers of threads again later");
        return;
    }
    log_info("SIGHUP: %u pairs and %u SLA processes (%u and %u before); other settings are read at "
             "start only, certificates were read again",
             c->pairs, c->sla_processes, pairs, processes);
    s->config.pairs = c->pairs;
    s->config.sla_processes = c->sla_processes;
    int r = stages_start_pairs(s);
    if (r < 0) {
        log_error("SIGHUP: cannot start a thread: %s", weir_strerror(r));
        s->config.pairs = pairs;
        s->config.sla_processes = processes;
    } else {
        resize(s);
    }
}

void reload(struct server *s)
{
    struct server_config c;
    struct text errors;
    struct server_keys keys;
    int r = 0;
    text_init(&errors, 1 << 20);
    server_config_init(&c);
    if (s->config_path != NULL) {
        r = server_config_load(&c, s->config_path, &errors);
        /* Of the start, where an option may have named it; the server's own keys lie in it. */
        memcpy(c.state_dir, s->config.state_dir, sizeof(c.state_dir));
        if (r == 0)
            r = server_config_check(&c, &errors);
    } else {
        c = s->config; /* options alone: there are still certificates */
    }
    if (r == 0)
        r = keys_load(s, &c, &keys, &errors);
    if (r == 0)
        r = keys_judge(s, &keys, &c, &errors);
    if (r < 0) {
        log_error("SIGHUP: nothing is changed: %s", errors.len > 0 ? errors.data : "cannot read");
    } else {
        log_lines(LOG_LEVEL_WARNING, c.warnings);
        keys_give(s, &keys, &c);
        if (s->config_path != NULL)
            reload_threads(s, &c);
    }
    text_fini(&errors);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The files of certificates and keys that server.conf names, read once for a word on what is wrong
 * with them where their names stand. Whoever needs them reads them again; one that goes bad between
 * is told then, without its line. */
#include <stdio.h>

#include "base/clock.h"
#include "base/conf.h"
#include "base/dates.h"
#include "base/text.h"
#include "server/resource/probe_keys.h"
#include "server/threads.h"

struct place {
    const char *kind, *name; /* of the section */
    const char *ca;          /* what the key of an authority is called there */
    const char *general;     /* the section that says what this one does not; NULL: none */
};

/* With the line, where a file says it. */
static void tell(const struct server_config *c, const struct place *p, const struct tls_files *f,
                 const struct tls_fault *wrong, struct text *errors)
{
    const char *value, *key = tls_file_key(wrong->file, f, p->ca, &value);
    const struct conf_entry *e = NULL;
    char words[320];
    if (key != NULL && c->file != NULL)
        e = conf_find(c->file, p->kind, p->name, key);
    if (e == NULL && key != NULL && c->file != NULL && p->general != NULL)
        e = conf_find(c->file, p->general, "", key);
    if (e != NULL) {
        snprintf(words, sizeof(words), "%s (%s)", wrong->expected, wrong->found);
        conf_error(errors, e, words);
        return;
    }
    text_printf(errors, "[%s%s%s]", p->kind, p->name[0] != '\0' ? " " : "", p->name);
    if (key != NULL && value[0] != '\0')
        text_printf(errors, " %s: found \"%s\", expected %s (%s)\n", key, value, wrong->expected,
                    wrong->found);
    else
        text_printf(errors, ": %s; expected %s\n", wrong->found, wrong->expected);
}

/* What is not wrong but will not do, where a file says it. */
static void warn(const struct server_config *c, const struct place *p, const char *key,
                 const struct dates *d, struct text *warnings)
{
    int64_t now_s = clock_wall_us() / 1000000;
    char when[DATES_TEXT], words[DATES_TEXT + 48];
    const struct conf_entry *e =
        c->file != NULL ? conf_find(c->file, p->kind, p->name, key) : NULL;
    if (e == NULL || dates_hold(d, now_s))
        return;
    snprintf(words, sizeof(words), "a certificate that is in date (%s)",
             dates_words(d, now_s, when, sizeof(when)));
    conf_error(warnings, e, words);
}

static int try_files(const struct server_config *c, enum tls_side side, const struct place *p,
                     const struct tls_files *f, struct dates *ret_own, struct text *warnings,
                     struct text *errors)
{
    struct tls_fault wrong;
    struct tls_validity v = {0};
    int r = tls_creds_try(side, f, &wrong, &v);
    if (r < 0)
        tell(c, p, f, &wrong, errors);
    warn(c, p, "tls-certificate", &v.own, warnings);
    warn(c, p, p->ca, &v.ca, warnings);
    *ret_own = v.own;
    return r;
}

static int try_listener(const struct server_config *c, const char *section, const char *certificate,
                        const char *key, const char *ca, struct dates *ret_own,
                        struct text *warnings, struct text *errors)
{
    const struct place place = {.kind = section, .name = "", .ca = "tls-client-ca"};
    struct tls_files f = {.peer = TLS_PEER_NONE};
    snprintf(f.certificate, sizeof(f.certificate), "%s", certificate);
    snprintf(f.key, sizeof(f.key), "%s", key);
    snprintf(f.ca, sizeof(f.ca), "%s", ca);
    *ret_own = (struct dates){0};
    /* The server's own pair is made later, in the state folder. */
    bool named = certificate[0] != '\0' || ca[0] != '\0';
    return named ? try_files(c, TLS_SERVER, &place, &f, ret_own, warnings, errors) : 0;
}

int server_config_try_files(struct server_config *c, struct text *errors)
{
    struct text warnings;
    struct dates unused;
    text_init(&warnings, sizeof(c->warnings) - 1);
    int r = try_listener(c, "control", c->control_certificate, c->control_key, c->control_ca,
                         &c->control_dates, &warnings, errors);
    int next = try_listener(c, "http", c->http_certificate, c->http_key, "", &c->http_dates,
                            &warnings, errors);
    r = r < 0 ? r : next;
    for (size_t i = 0; i < c->probe_tls_count; i++) {
        const struct tls_files f = probe_keys_files(c, i);
        const struct place place = {.kind = i == 0 ? "resource" : "target",
                                    .name = c->probe_tls[i].target,
                                    .ca = "tls-ca",
                                    .general = i == 0 ? NULL : "resource"};
        if (f.ca[0] == '\0' && f.certificate[0] == '\0' && f.psk[0] == '\0')
            continue;
        next = try_files(c, TLS_CLIENT, &place, &f, &unused, &warnings, errors);
        r = r < 0 ? r : next;
        if (i == 0 && next < 0)
            break; /* all others would say it again */
    }
    snprintf(c->warnings, sizeof(c->warnings), "%s", warnings.data != NULL ? warnings.data : "");
    text_fini(&warnings);
    return r;
}

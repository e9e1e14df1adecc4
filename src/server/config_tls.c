/* SPDX-License-Identifier: Apache-2.0 */
/* The files of certificates and keys that server.conf names, read once for a word on what is wrong
 * with them where their names stand. Whoever needs them reads them again; one that goes bad between
 * is told then, without its line. */
#include <stdio.h>

#include "base/assert.h"
#include "base/conf.h"
#include "base/text.h"
#include "server/resource/probe_keys.h"
#include "server/threads.h"

struct place {
    const char *kind, *name; /* of the section */
    const char *ca;          /* what the key of an authority is called there */
    const char *general;     /* the section that says what this one does not; NULL: none */
};

/* The key that names a file, and in *@ret_value what it says. NULL: no file is at fault. */
static const char *key_of(enum tls_file file, const struct tls_files *f, const struct place *p,
                          const char **ret_value)
{
    *ret_value = "";
    switch (file) {
    case TLS_FILE_NONE:
        return NULL;
    case TLS_FILE_CERTIFICATE:
        *ret_value = f->certificate;
        return "tls-certificate";
    case TLS_FILE_KEY:
        *ret_value = f->key;
        return "tls-key";
    case TLS_FILE_CA:
        *ret_value = f->ca;
        return p->ca;
    case TLS_FILE_PSK:
        *ret_value = f->psk;
        return "tls-psk-file";
    case TLS_FILE_PSK_IDENTITY:
        *ret_value = f->psk_identity;
        return "tls-psk-identity";
    }
    weir_unreachable("no such file");
}

/* With the line, where a file says it. */
static void tell(const struct server_config *c, const struct place *p, const struct tls_files *f,
                 const struct tls_fault *wrong, struct text *errors)
{
    const char *value, *key = key_of(wrong->file, f, p, &value);
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

static int try_files(const struct server_config *c, enum tls_side side, const struct place *p,
                     const struct tls_files *f, struct text *errors)
{
    struct tls_fault wrong;
    int r = tls_creds_try(side, f, &wrong);
    if (r < 0)
        tell(c, p, f, &wrong, errors);
    return r;
}

static int try_listener(const struct server_config *c, const char *section, const char *certificate,
                        const char *key, const char *ca, struct text *errors)
{
    const struct place place = {.kind = section, .name = "", .ca = "tls-client-ca"};
    struct tls_files f = {.peer = TLS_PEER_NONE};
    snprintf(f.certificate, sizeof(f.certificate), "%s", certificate);
    snprintf(f.key, sizeof(f.key), "%s", key);
    snprintf(f.ca, sizeof(f.ca), "%s", ca);
    /* The server's own pair is made later, in the state folder. */
    bool named = certificate[0] != '\0' || ca[0] != '\0';
    return named ? try_files(c, TLS_SERVER, &place, &f, errors) : 0;
}

int server_config_try_files(const struct server_config *c, struct text *errors)
{
    int r =
        try_listener(c, "control", c->control_certificate, c->control_key, c->control_ca, errors);
    int next = try_listener(c, "http", c->http_certificate, c->http_key, "", errors);
    r = r < 0 ? r : next;
    for (size_t i = 0; i < c->probe_tls_count; i++) {
        const struct tls_files f = probe_keys_files(c, i);
        const struct place place = {.kind = i == 0 ? "resource" : "target",
                                    .name = c->probe_tls[i].target,
                                    .ca = "tls-ca",
                                    .general = i == 0 ? NULL : "resource"};
        if (f.ca[0] == '\0' && f.certificate[0] == '\0' && f.psk[0] == '\0')
            continue;
        next = try_files(c, TLS_CLIENT, &place, &f, errors);
        r = r < 0 ? r : next;
        if (i == 0 && next < 0)
            break; /* all others would say it again */
    }
    return r;
}

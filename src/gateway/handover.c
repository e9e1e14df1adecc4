/* SPDX-License-Identifier: Apache-2.0 */
/* Over exec only descriptors and the environment remain. So one variable names them: lines of
 * KEY=VALUE, the first being role=ROLE, then numbers, then a line for each listener,
 *
 *   listener=FD NAME ADDRESS
 *
 * and for each certificate that listeners and targets show, from when until when it counts,
 *
 *   dates=listener NAME FROM UNTIL
 *   dates=target NAME FROM UNTIL
 *
 * The new image knows its listeners by name and by the address as written; another set of them is
 * refused, since a listener cannot be opened or closed in passing. So is a certificate out of date
 * in the place of one in date, as at a SIGHUP. The worker says no to that, and the old image goes
 * on; a manager that has become the new image has nobody to go back to. */
#include "gateway/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/text.h"
#include "gateway/certs.h"

#define VARIABLE "WEIR_GATEWAY_HANDOVER"
#define HANDOVER_MAX (64u * 1024u)

static int on_exec(int fd, bool keep)
{
    if (fd < 0)
        return 0;
    return fcntl(fd, F_SETFD, keep ? 0 : FD_CLOEXEC) < 0 ? -errno : 0;
}

static int all_on_exec(const struct handover *h, size_t listeners, bool keep)
{
    int ret = on_exec(h->ledger, keep);
    if (ret == 0)
        ret = on_exec(h->local, keep);
    if (ret == 0)
        ret = on_exec(h->control, keep);
    for (size_t i = 0; ret == 0 && i < LEDGER_BANKS; i++)
        ret = on_exec(h->child[i].control, keep);
    for (size_t i = 0; ret == 0 && i < listeners; i++)
        ret = on_exec(h->listeners[i], keep);
    return ret;
}

static void give_dates(struct text *t, const char *of, const char *name,
                       const struct tls_creds *creds)
{
    const struct dates *d = creds ? &tls_creds_validity(creds)->own : NULL;
    if (d && dates_any(d))
        text_printf(t, "dates=%s %s %lld %lld\n", of, name, (long long)d->from_s,
                    (long long)d->until_s);
}

int handover_give(const struct handover *h, const struct gateway_config *config)
{
    struct text t;
    text_init(&t, HANDOVER_MAX);
    text_printf(&t, "role=%d\nmanager=%ld\nledger=%d\nlocal=%d\ncontrol=%d\nbank=%u\nstop=%llu\n",
                (int)h->role, (long)h->manager, h->ledger, h->local, h->control, h->bank,
                (unsigned long long)h->stop_by_ns);
    for (size_t i = 0; i < LEDGER_BANKS; i++)
        text_printf(&t, "child=%zu %ld %d %llu %d\n", i, (long)h->child[i].pid,
                    h->child[i].control, (unsigned long long)h->child[i].started_ns,
                    (int)h->child[i].retiring);
    for (size_t i = 0; i < config->listener_count; i++)
        text_printf(&t, "listener=%d %s %s\n", h->listeners[i], config->listeners[i].name,
                    config->listeners[i].addr.text);
    for (size_t i = 0; i < config->listener_count; i++)
        give_dates(&t, "listener", config->listeners[i].name, config->listeners[i].tls_creds);
    for (size_t i = 0; i < config->target_count; i++)
        give_dates(&t, "target", config->targets[i].name, config->targets[i].tls_creds);
    int ret = t.failed ? -ENOMEM : 0;
    if (ret == 0)
        ret = setenv(VARIABLE, t.data, 1) < 0 ? -errno : 0;
    if (ret == 0)
        ret = all_on_exec(h, config->listener_count, true);
    text_fini(&t);
    return ret;
}

void handover_keep(const struct handover *h, const struct gateway_config *config)
{
    (void)unsetenv(VARIABLE);
    (void)all_on_exec(h, config->listener_count, false);
}

enum handover_role handover_role(void)
{
    const char *s = getenv(VARIABLE);
    int role;
    if (!s || sscanf(s, "role=%d", &role) != 1)
        return HANDOVER_NONE;
    return role == HANDOVER_WORKER    ? HANDOVER_WORKER
           : role == HANDOVER_MANAGER ? HANDOVER_MANAGER
                                      : HANDOVER_NONE;
}

static int take_listener(struct handover *h, const struct gateway_config *config, const char *line,
                         char why[HANDOVER_WHY])
{
    int fd, at = 0;
    char name[NAME_SIZE];
    if (sscanf(line, "listener=%d %127s %n", &fd, name, &at) != 2 || at == 0)
        return WEIR_E_PARSE;
    int i = gateway_config_listener(config, name);
    if (i < 0) {
        snprintf(why, HANDOVER_WHY,
                 "listener %s is gone from the configuration; that takes a restart", name);
        return WEIR_E_CONFLICT;
    }
    if (strcmp(config->listeners[i].addr.text, line + at) != 0) {
        snprintf(why, HANDOVER_WHY, "listener %s has another address now; that takes a restart",
                 name);
        return WEIR_E_CONFLICT;
    }
    h->listeners[i] = fd;
    return 0;
}

/* Whether what this image read for a listener or target may take the place of what the old one
 * shows. One that is gone, or does without TLS now, is not for this line to judge. */
static int judge_dates(const struct handover *h, const struct gateway_config *config,
                       const char *line, char why[HANDOVER_WHY])
{
    char of[16], name[NAME_SIZE];
    long long from, until;
    if (sscanf(line, "dates=%15s %127s %lld %lld", of, name, &from, &until) != 4)
        return WEIR_E_PARSE;
    bool listener = strcmp(of, "listener") == 0;
    int i = listener ? gateway_config_listener(config, name) : gateway_config_target(config, name);
    if (i < 0 || h->role != HANDOVER_WORKER)
        return 0;
    const struct tls_creds *creds =
        listener ? config->listeners[i].tls_creds : config->targets[i].tls_creds;
    const struct tls_files *files =
        listener ? &config->listeners[i].tls_files : &config->targets[i].tls_files;
    const struct tls_validity old = {.own = {.from_s = from, .until_s = until}};
    if (!creds || certs_may_replace(&old, tls_creds_validity(creds), files->certificate, why,
                                    HANDOVER_WHY))
        return 0;
    return WEIR_E_REFUSED;
}

static int take_line(struct handover *h, const struct gateway_config *config, const char *line,
                     char why[HANDOVER_WHY])
{
    unsigned long long stop, started;
    long pid;
    size_t i;
    int control, retiring;
    if (strncmp(line, "listener=", 9) == 0)
        return take_listener(h, config, line, why);
    if (strncmp(line, "dates=", 6) == 0)
        return judge_dates(h, config, line, why);
    if (sscanf(line, "manager=%ld", &pid) == 1)
        h->manager = (pid_t)pid;
    else if (sscanf(line, "stop=%llu", &stop) == 1)
        h->stop_by_ns = stop;
    else if (sscanf(line, "child=%zu %ld %d %llu %d", &i, &pid, &control, &started, &retiring) ==
                 5 &&
             i < LEDGER_BANKS)
        h->child[i] = (struct handover_child){
            .pid = (pid_t)pid,
            .control = control,
            .started_ns = started,
            .retiring = retiring != 0,
        };
    else if (sscanf(line, "ledger=%d", &h->ledger) != 1 &&
             sscanf(line, "local=%d", &h->local) != 1 &&
             sscanf(line, "control=%d", &h->control) != 1 &&
             sscanf(line, "bank=%u", &h->bank) != 1 && strncmp(line, "role=", 5) != 0)
        return WEIR_E_PARSE;
    return 0;
}

int handover_take(struct handover *ret, const struct gateway_config *config, char why[HANDOVER_WHY])
{
    const char *given = getenv(VARIABLE);
    *ret = (struct handover){.role = handover_role(), .ledger = -1, .local = -1, .control = -1};
    memset(ret->listeners, 0xff, sizeof(ret->listeners)); /* all -1 */
    snprintf(why, HANDOVER_WHY, "what the old program handed over cannot be read");
    char *lines = given ? strdup(given) : NULL, *rest = NULL;
    if (!lines)
        return -ENOMEM;
    int err = 0;
    for (char *l = strtok_r(lines, "\n", &rest); l && err == 0; l = strtok_r(NULL, "\n", &rest))
        err = take_line(ret, config, l, why);
    free(lines);
    (void)unsetenv(VARIABLE);
    if (err == 0 && (ret->ledger < 0 || ret->bank >= LEDGER_BANKS))
        err = WEIR_E_PARSE;
    for (size_t i = 0; err == 0 && i < config->listener_count; i++)
        if (ret->listeners[i] < 0) {
            snprintf(why, HANDOVER_WHY,
                     "listener %s is new in the configuration; that takes a restart",
                     config->listeners[i].name);
            err = WEIR_E_CONFLICT;
        }
    return err < 0 ? err : all_on_exec(ret, config->listener_count, false);
}

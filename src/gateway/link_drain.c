/* SPDX-License-Identifier: Apache-2.0 */
/* Draining by the server's word, or its end by that of people on this machine.
 *
 * A poll says how it shall be when that is not how it is; the word goes into the ledger, where each
 * worker finds it (drain.c), and into the file "drain" of the state folder: the number of the
 * draining in force, 0 for none. So a gateway that was drained and is started anew, by people or
 * with its machine, stays drained until somebody says otherwise.
 *
 * While the server is there it says how it shall be, again and again, so people's word counts only
 * while it is away. When it returns and wants the draining still, the gateway is drained again:
 * what the server keeps is what was agreed, and people were told so (docs/guide/maintenance.md).
 *
 * The file is read once in a ledger's life; after that the ledger is what counts. A file that
 * cannot be understood is said and taken as 0: the server says within a second how it shall be, and
 * without one it is better to serve. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "gateway/ledger.h"
#include "gateway/link_parts.h"
#include "gateway/link_private.h"

#define FILE_MAX 64u

struct link_drain {
    struct link *link;
    struct link_disk *disk;
};

int link_drain_parse(const char *text, uint64_t *ret_since)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 18 || strcmp(text + digits, "\n") != 0)
        return WEIR_E_PARSE;
    *ret_since = strtoull(text, NULL, 10);
    return 0;
}

static void drain_load(struct link_drain *d, const char *path)
{
    struct ledger *ledger = stream_ledger(d->link->streams);
    uint64_t since = 0;
    char *text = NULL;
    if (ledger_drain_known(ledger))
        return;
    int r = text_read_file(path, FILE_MAX, &text, NULL);
    if (r == 0)
        r = link_drain_parse(text, &since);
    free(text);
    if (r < 0 && r != -ENOENT && r != -ENOTDIR)
        log_warning("%s cannot be read: %s; hosts are taken", path, weir_strerror(r));
    ledger_drain_set(ledger, since, 0);
}

struct link_drain *link_drain_new(struct link *l)
{
    char path[sizeof(l->config->state_dir) + 16];
    struct link_drain *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return NULL;
    snprintf(path, sizeof(path), "%s/drain", l->config->state_dir);
    d->link = l;
    d->disk = link_disk_new(path);
    if (d->disk == NULL) {
        free(d);
        return NULL;
    }
    drain_load(d, path);
    return d;
}

void link_drain_free(struct link_drain *d)
{
    if (d == NULL)
        return;
    link_disk_free(d->disk);
    free(d);
}

static void drain_keep(struct link_drain *d, uint64_t since)
{
    char *line = NULL;
    int n = asprintf(&line, "%llu\n", (unsigned long long)since);
    if (n > 0)
        link_disk_put(d->disk, line, (size_t)n);
}

void link_drain_word(struct link_drain *d, const Weir__Control__Drain *word)
{
    struct ledger *ledger = stream_ledger(d->link->streams);
    uint64_t deadline = 0;
    if (word->since == ledger_drain(ledger, &deadline))
        return; /* it crossed our answer */
    deadline = 0;
    if (word->since != 0 && word->bounded)
        deadline = reactor_now(d->link->reactor) + word->left_ms * NS_PER_MS;
    ledger_drain_set(ledger, word->since, deadline);
    (void)relay_drain(d->link->relay, word->since != 0); /* before we answer that it is so */
    drain_keep(d, word->since);
}

bool link_drain_end(struct link_drain *d)
{
    struct ledger *ledger = stream_ledger(d->link->streams);
    uint64_t deadline;
    uint64_t since = ledger_drain(ledger, &deadline);
    if (since == 0)
        return false;
    log_warning("draining %llu is ended by word of the local socket, the server being away",
                (unsigned long long)since);
    ledger_drain_set(ledger, 0, 0);
    (void)relay_drain(d->link->relay, false); /* what cannot listen yet is tried again (drain.c) */
    drain_keep(d, 0);
    return true;
}

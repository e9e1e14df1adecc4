/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite behind the store: two files, so that what is kept with care (state.db, synced at every
 * commit) does not wait for what is kept in bulk (samples.db, synced at checkpoints; a power cut
 * may cost its last seconds, a crash of the program costs nothing). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/store/sqlite_backend.h"
#include "server/store/sqlite_schema.h"

static void sqlite_close(struct store_backend *b)
{
    struct sqlite_backend *s = (struct sqlite_backend *)b;
    for (size_t i = 0; i < STORE_PART_COUNT; i++)
        sqlite_db_close(&s->db[i]);
    free(s);
}

static int sqlite_begin(struct store_backend *b, enum store_part part)
{
    return sqlite_db_exec(&((struct sqlite_backend *)b)->db[part], "BEGIN IMMEDIATE");
}

static int sqlite_commit(struct store_backend *b, enum store_part part)
{
    return sqlite_db_exec(&((struct sqlite_backend *)b)->db[part], "COMMIT");
}

static void sqlite_rollback(struct store_backend *b, enum store_part part)
{
    struct sqlite_db *d = &((struct sqlite_backend *)b)->db[part];
    /* Some errors have rolled back already. */
    if (sqlite3_get_autocommit(d->handle) == 0)
        sqlite3_exec(d->handle, "ROLLBACK", NULL, NULL, NULL);
}

static bool sqlite_intact(struct store_backend *b)
{
    struct sqlite_backend *s = (struct sqlite_backend *)b;
    for (size_t i = 0; i < STORE_PART_COUNT; i++)
        if (!sqlite_db_intact(&s->db[i]))
            return false;
    return true;
}

static bool sqlite_fresh(const struct store_backend *b)
{
    const struct sqlite_backend *s = (const struct sqlite_backend *)b;
    return s->db[STORE_PART_STATE].fresh || s->db[STORE_PART_SAMPLES].fresh;
}

static const char *sqlite_last_error(const struct store_backend *b)
{
    const struct sqlite_backend *s = (const struct sqlite_backend *)b;
    const char *words = sqlite_db_words(&s->db[STORE_PART_STATE]);
    return words[0] != '\0' ? words : sqlite_db_words(&s->db[STORE_PART_SAMPLES]);
}

static const struct store_backend_ops sqlite_ops = {
    .close = sqlite_close,
    .begin = sqlite_begin,
    .commit = sqlite_commit,
    .rollback = sqlite_rollback,
    .write = sqlite_write,
    .action = sqlite_action,
    .event = sqlite_event,
    .sample = sqlite_sample,
    .health = sqlite_health,
    .maintain = sqlite_maintain,
    .query = sqlite_query,
    .intact = sqlite_intact,
    .fresh = sqlite_fresh,
    .damaged = sqlite_samples_damaged,
    .last_error = sqlite_last_error,
};

static int backend_open(const char *folder, enum store_access access, struct store_backend **ret,
                        bool *ret_damaged, char *ret_words, size_t size)
{
    *ret_damaged = false;
    ret_words[0] = '\0';
    int rc = access == STORE_ACCESS_WRITE ? store_folder_make(folder) : 0;
    if (rc != 0) {
        snprintf(ret_words, size, "%s: %s", folder, weir_strerror(rc));
        return rc;
    }
    struct sqlite_backend *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return -ENOMEM;
    s->base.ops = &sqlite_ops;
    rc = sqlite_db_open(&s->db[STORE_PART_STATE], folder, "state.db", access, "FULL",
                        sqlite_state_migration, SQLITE_STATE_VERSION, ret_words, size);
    if (rc == 0)
        rc = sqlite_db_open(&s->db[STORE_PART_SAMPLES], folder, "samples.db", access, "NORMAL",
                            sqlite_samples_migration, SQLITE_SAMPLES_VERSION, ret_words, size);
    if (rc != 0) {
        *ret_damaged = s->db[STORE_PART_SAMPLES].damaged;
        sqlite_close(&s->base);
        return rc;
    }
    *ret = &s->base;
    return 0;
}

int sqlite_backend_open(const char *folder, enum store_access access, struct store_backend **ret,
                        char *ret_words, size_t size)
{
    bool damaged;
    int rc = backend_open(folder, access, ret, &damaged, ret_words, size);
    return rc != 0 && damaged ? WEIR_E_PARSE : rc;
}

int sqlite_backend_open_anew(const char *folder, struct store_backend **ret, char *ret_words,
                             char *ret_aside, size_t size)
{
    bool damaged;
    ret_aside[0] = '\0';
    int rc = backend_open(folder, STORE_ACCESS_WRITE, ret, &damaged, ret_words, size);
    if (rc == 0 || !damaged)
        return rc;
    if (sqlite_samples_set_aside(folder, ret_aside, size) < 0) {
        snprintf(ret_words, size, "%s", ret_aside);
        ret_aside[0] = '\0';
        return rc;
    }
    return backend_open(folder, STORE_ACCESS_WRITE, ret, &damaged, ret_words, size);
}

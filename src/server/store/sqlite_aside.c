/* SPDX-License-Identifier: Apache-2.0 */
/* Samples can be done without; agreements cannot.
 *
 * Problem: a disk or a careless copy damages a database. A server that will not start for want of
 * its history keeps no promise at all; one that starts without its agreements keeps none either,
 * and says nothing.
 * Model: damage is what SQLite calls so (SQLITE_CORRUPT, SQLITE_NOTADB): when a file is opened,
 * when all of it is looked at before the start (files up to CHECK_BYTES), or when the writer or a
 * reader meets it later. A damaged samples.db is renamed to samples.db.damaged-TIME, a new one is
 * begun, and that is said; a damaged state.db stops the start. A newer schema or somebody else's
 * database is no damage: nothing is moved, the start stops.
 *
 * Invariants
 *  1. The log (-wal) goes before its database: one that stayed would be played into the new one.
 *  2. Of earlier damaged files none is kept, so that a bad disk is not filled by them.
 *  3. Only the writer's side does this, with its own connection closed. Readers see another file at
 *     the path and open that. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "server/store/sqlite_backend.h"

#define SAMPLES "samples.db"
#define DAMAGED SAMPLES ".damaged-"
/* To look at all of a file of this size takes about a second; larger ones are left to their use. */
#define CHECK_BYTES (256u * 1024u * 1024u)

static void remove_earlier(const char *folder)
{
    DIR *d = opendir(folder);
    const struct dirent *e;
    while (d != NULL && (e = readdir(d)) != NULL)
        if (strncmp(e->d_name, DAMAGED, sizeof(DAMAGED) - 1) == 0)
            unlinkat(dirfd(d), e->d_name, 0);
    if (d != NULL)
        closedir(d);
}

static int move(const char *from, const char *to)
{
    return rename(from, to) == 0 || errno == ENOENT ? 0 : -errno;
}

int sqlite_samples_set_aside(const char *folder, char *ret_words, size_t size)
{
    char path[600], wal[640], shm[640], to[640], to_wal[680], when[32];
    time_t now = (time_t)(clock_wall_us() / 1000000);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &tm);
    snprintf(path, sizeof(path), "%s/" SAMPLES, folder);
    snprintf(wal, sizeof(wal), "%s-wal", path);
    snprintf(shm, sizeof(shm), "%s-shm", path);
    snprintf(to, sizeof(to), "%s/" DAMAGED "%s", folder, when);
    snprintf(to_wal, sizeof(to_wal), "%s-wal", to);
    remove_earlier(folder);
    int rc = move(wal, to_wal);
    if (rc == 0)
        rc = move(path, to);
    if (rc == 0)
        unlink(shm);
    if (rc == 0)
        snprintf(ret_words, size,
                 "the samples database was damaged: it is " DAMAGED "%s in the state folder now, a "
                 "new one was begun, history before this is lost",
                 when);
    else
        snprintf(ret_words, size, "%s is damaged and cannot be renamed: %s", path,
                 weir_strerror(rc));
    return rc;
}

/* 0, or WEIR_E_UNAVAILABLE and @d is marked when it is damaged. */
static int check(struct sqlite_db *d)
{
    struct stat st;
    sqlite3_stmt *stmt = NULL;
    if (stat(d->path, &st) != 0 || st.st_size > (off_t)CHECK_BYTES)
        return 0;
    int rc = sqlite3_prepare_v2(d->handle, "PRAGMA quick_check(1)", -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    const unsigned char *found = rc == SQLITE_ROW ? sqlite3_column_text(stmt, 0) : NULL;
    if (found != NULL && strcmp((const char *)found, "ok") != 0)
        rc = SQLITE_CORRUPT;
    sqlite3_finalize(stmt);
    return rc == SQLITE_ROW ? 0 : sqlite_db_error(d, rc);
}

bool sqlite_samples_damaged(const struct store_backend *b)
{
    const struct sqlite_db *d = &((const struct sqlite_backend *)b)->db[STORE_PART_SAMPLES];
    struct stat st;
    /* What somebody has put in its place meanwhile is not what was found damaged. */
    return d->damaged && d->id.known && stat(d->path, &st) == 0 && st.st_dev == d->id.dev &&
           st.st_ino == d->id.ino;
}

int sqlite_backend_check(struct store_backend *b, char *ret_words, size_t size)
{
    struct sqlite_backend *s = (struct sqlite_backend *)b;
    for (size_t i = 0; i < STORE_PART_COUNT; i++) {
        struct sqlite_db *d = &s->db[i];
        int rc = check(d);
        if (rc == 0)
            continue;
        snprintf(ret_words, size, "%s: %s" SQLITE_DB_DAMAGED, d->path, sqlite_db_words(d));
        return rc;
    }
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One database file.
 *
 * Problem: the file can be locked by another program, full, on a failing disk, deleted or replaced
 * while we have it open; none of these may stop a thread for long, and none may make things worse.
 * Model: a connection is opened, used, and given up as a whole. A short busy time-out turns locks
 * into an error that the caller retries. A deleted or replaced file is noticed by its inode.
 *
 * Invariants
 *  1. Files are created by us with mode 0600 before SQLite sees them; -wal and -shm take their mode
 *     from the file.
 *  2. A connection to a file that is no longer at its path never writes there again: it is closed
 *     without a checkpoint, because SQLite would remove "PATH-wal" by name, which may be another
 *     database's by then ("How To Corrupt An SQLite Database File", sections 2.4 and 4.2). The -wal
 *     and -shm that were ours (by inode) are removed, so that the next database does not start with
 *     a stranger's log.
 *  3. Readers never checkpoint and never remove anything.
 *  4. Migrations run in one transaction each, in order, and only forward; a database newer than
 *     this program is refused. */
#include "server/store/sqlite_db.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"

/* How many virtual machine steps lie between two looks at the deadline: some 10 us. */
#define PROGRESS_STEPS 2000

int sqlite_db_error(struct sqlite_db *d, int rc)
{
    weir_assert(rc != SQLITE_OK && rc != SQLITE_ROW && rc != SQLITE_DONE);
    if (d->handle != NULL && (sqlite3_errcode(d->handle) & 0xff) == (rc & 0xff))
        rc = sqlite3_extended_errcode(d->handle);
    switch (rc & 0xff) {
    case SQLITE_INTERRUPT:
        d->last_rc = rc;
        return WEIR_E_TIMEOUT;
    case SQLITE_CONSTRAINT:
        return WEIR_E_EXISTS;
    case SQLITE_TOOBIG:
    case SQLITE_RANGE:
        return WEIR_E_TOO_LARGE;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_FULL:
    case SQLITE_NOMEM:
        break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        d->damaged = true;
        d->broken = true;
        break;
    default: /* the machine's or the file's fault; start anew with it */
        d->broken = true;
        break;
    }
    d->last_rc = rc;
    return WEIR_E_UNAVAILABLE;
}

const char *sqlite_db_words(const struct sqlite_db *d)
{
    return d->last_rc == SQLITE_OK ? "" : sqlite3_errstr(d->last_rc);
}

static int file_id(const char *path, struct sqlite_file_id *ret)
{
    struct stat st;
    *ret = (struct sqlite_file_id){.known = false};
    if (stat(path, &st) != 0)
        return -errno;
    *ret = (struct sqlite_file_id){.known = true, .dev = st.st_dev, .ino = st.st_ino};
    return 0;
}

static bool same_file(const struct sqlite_file_id *a, const struct sqlite_file_id *b)
{
    return a->known && b->known && a->dev == b->dev && a->ino == b->ino;
}

static void side_path(const struct sqlite_db *d, const char *suffix, char *out, size_t size)
{
    int n = snprintf(out, size, "%s%s", d->path, suffix);
    weir_assert(n > 0 && (size_t)n < size);
}

static void learn_side_files(struct sqlite_db *d)
{
    char path[600];
    side_path(d, "-wal", path, sizeof(path));
    file_id(path, &d->wal_id);
    side_path(d, "-shm", path, sizeof(path));
    file_id(path, &d->shm_id);
}

bool sqlite_db_intact(struct sqlite_db *d)
{
    struct sqlite_file_id now;
    if (d->handle == NULL || d->broken || file_id(d->path, &now) != 0 || !same_file(&now, &d->id))
        return false;
    if (!d->wal_id.known || !d->shm_id.known)
        learn_side_files(d);
    return true;
}

static void remove_if_ours(const struct sqlite_db *d, const char *suffix,
                           const struct sqlite_file_id *ours)
{
    char path[600];
    struct sqlite_file_id now;
    side_path(d, suffix, path, sizeof(path));
    if (file_id(path, &now) == 0 && same_file(&now, ours))
        unlink(path);
}

void sqlite_db_close(struct sqlite_db *d)
{
    if (d->handle == NULL)
        return;
    struct sqlite_file_id now;
    bool there = file_id(d->path, &now) == 0 && same_file(&now, &d->id);
    bool reader = sqlite3_db_readonly(d->handle, "main") == 1;
    for (size_t i = 0; i < d->cached_count; i++)
        sqlite3_finalize(d->cached[i].stmt);
    d->cached_count = 0;
    /* What is damaged stays as it was found. */
    if (!there || reader || d->damaged)
        sqlite3_db_config(d->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)NULL);
    int rc = sqlite3_close(d->handle);
    weir_assert(rc == SQLITE_OK);
    d->handle = NULL;
    if (!there && !reader) {
        remove_if_ours(d, "-wal", &d->wal_id);
        remove_if_ours(d, "-shm", &d->shm_id);
    }
}

int sqlite_db_exec(struct sqlite_db *d, const char *sql)
{
    int rc = sqlite3_exec(d->handle, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : sqlite_db_error(d, rc);
}

sqlite3_stmt *sqlite_db_statement(struct sqlite_db *d, const char *sql)
{
    for (size_t i = 0; i < d->cached_count; i++) {
        if (d->cached[i].sql == sql) {
            sqlite3_reset(d->cached[i].stmt);
            sqlite3_clear_bindings(d->cached[i].stmt);
            return d->cached[i].stmt;
        }
    }
    weir_assert(d->cached_count < SQLITE_DB_MAX_STATEMENTS);
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v3(d->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL);
    if (rc != SQLITE_OK) {
        sqlite_db_error(d, rc);
        return NULL;
    }
    weir_assert(stmt != NULL);
    d->cached[d->cached_count].sql = sql;
    d->cached[d->cached_count].stmt = stmt;
    d->cached_count++;
    return stmt;
}

int sqlite_db_step(struct sqlite_db *d, sqlite3_stmt *stmt)
{
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        return 1;
    if (rc == SQLITE_DONE)
        return 0;
    int code = sqlite_db_error(d, rc);
    sqlite3_reset(stmt);
    return code;
}

int sqlite_db_run(struct sqlite_db *d, sqlite3_stmt *stmt)
{
    int rc = sqlite_db_step(d, stmt);
    weir_assert(rc != 1);
    sqlite3_reset(stmt);
    return rc;
}

int sqlite_db_number(struct sqlite_db *d, sqlite3_stmt *stmt, int64_t *ret)
{
    int rc = sqlite_db_step(d, stmt);
    if (rc == 1) {
        if (sqlite3_column_type(stmt, 0) == SQLITE_NULL)
            rc = 0;
        else
            *ret = sqlite3_column_int64(stmt, 0);
    }
    sqlite3_reset(stmt);
    return rc;
}

static int look_at_deadline(void *arg)
{
    const struct sqlite_db *d = arg;
    return d->deadline_ns != 0 && clock_mono_ns() > d->deadline_ns;
}

void sqlite_db_deadline(struct sqlite_db *d, uint64_t deadline_ns)
{
    d->deadline_ns = deadline_ns;
    if (deadline_ns != 0)
        sqlite3_progress_handler(d->handle, PROGRESS_STEPS, look_at_deadline, d);
    else
        sqlite3_progress_handler(d->handle, 0, NULL, NULL);
}

void sqlite_db_bind_text(sqlite3_stmt *stmt, int at, const char *text)
{
    int rc = text == NULL ? sqlite3_bind_null(stmt, at)
                          : sqlite3_bind_text(stmt, at, text, -1, SQLITE_STATIC);
    weir_assert(rc == SQLITE_OK);
}

void sqlite_db_bind_number(sqlite3_stmt *stmt, int at, uint64_t n)
{
    int rc = n > INT64_MAX ? sqlite3_bind_null(stmt, at) : sqlite3_bind_int64(stmt, at, (int64_t)n);
    weir_assert(rc == SQLITE_OK);
}

const char *sqlite_db_text(sqlite3_stmt *stmt, int column)
{
    const unsigned char *text = sqlite3_column_text(stmt, column);
    return text == NULL ? "" : (const char *)text;
}

uint64_t sqlite_db_column(sqlite3_stmt *stmt, int column)
{
    int64_t n = sqlite3_column_int64(stmt, column);
    return n < 0 ? 0 : (uint64_t)n;
}

/* The version of the schema; 0: none. */
static int read_version(struct sqlite_db *d, int64_t *ret)
{
    static const char exists[] =
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_version'";
    static const char version[] = "SELECT max(version) FROM schema_version";
    int64_t there = 0;
    *ret = 0;
    sqlite3_stmt *stmt = sqlite_db_statement(d, exists);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    int rc = sqlite_db_number(d, stmt, &there);
    if (rc != 1)
        return rc;
    stmt = sqlite_db_statement(d, version);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    rc = sqlite_db_number(d, stmt, ret);
    return rc < 0 ? rc : 0;
}

static int migrate_one(struct sqlite_db *d, int version)
{
    static const char insert[] = "INSERT INTO schema_version(version, applied_us) VALUES(?, ?)";
    int rc = sqlite_db_exec(d, "BEGIN IMMEDIATE");
    if (rc == 0)
        rc = sqlite_db_exec(d, d->migration[version - 1]);
    if (rc == 0) {
        sqlite3_stmt *stmt = sqlite_db_statement(d, insert);
        rc = WEIR_E_UNAVAILABLE;
        if (stmt != NULL) {
            sqlite_db_bind_number(stmt, 1, (uint64_t)version);
            sqlite_db_bind_number(stmt, 2, (uint64_t)clock_wall_us());
            rc = sqlite_db_run(d, stmt);
        }
    }
    if (rc == 0)
        rc = sqlite_db_exec(d, "COMMIT");
    if (rc != 0 && sqlite3_get_autocommit(d->handle) == 0)
        sqlite3_exec(d->handle, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

/* Tables without a schema of ours, or another program's mark. */
static int read_strange(struct sqlite_db *d, int64_t *ret)
{
    static const char sql[] = "SELECT (SELECT count(*) FROM sqlite_schema) +"
                              " (SELECT application_id != 0 FROM pragma_application_id)";
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    int rc = sqlite_db_number(d, stmt, ret);
    return rc < 0 ? rc : 0;
}

static int migrate(struct sqlite_db *d, enum store_access access, char *words, size_t size)
{
    int64_t version = 0, strange = 0;
    int rc = read_version(d, &version);
    if (rc == 0 && version == 0)
        rc = read_strange(d, &strange);
    if (rc != 0)
        return rc;
    if (strange != 0) {
        snprintf(words, size, "%s: another program's database", d->path);
        return WEIR_E_REFUSED;
    }
    if (version > d->version) {
        snprintf(words, size, "%s: made by a newer Weir (schema %lld, known here: %d)", d->path,
                 (long long)version, d->version);
        return WEIR_E_VERSION;
    }
    d->fresh = version == 0;
    if (access == STORE_ACCESS_READ)
        return version == d->version ? 0 : WEIR_E_UNAVAILABLE; /* the writer will migrate it */
    for (int next = (int)version + 1; next <= d->version && rc == 0; next++)
        rc = migrate_one(d, next);
    return rc;
}

/* Ours alone, before SQLite opens it. */
static int make_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    struct stat st;
    int rc = fstat(fd, &st) == 0 ? 0 : -errno;
    if (rc == 0 && !S_ISREG(st.st_mode))
        rc = -EINVAL;
    if (rc == 0 && (st.st_mode & 077) != 0 && fchmod(fd, 0600) != 0)
        rc = -errno;
    close(fd);
    return rc;
}

static int set_up(struct sqlite_db *d, enum store_access access, const char *sync)
{
    char sql[96];
    sqlite3_extended_result_codes(d->handle, 1);
    sqlite3_busy_timeout(d->handle, SQLITE_DB_BUSY_MS);
    sqlite3_db_config(d->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    sqlite3_db_config(d->handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, (int *)NULL);
    if (access == STORE_ACCESS_READ)
        return sqlite_db_exec(d, "PRAGMA query_only = ON");
    int rc = sqlite_db_exec(d, "PRAGMA journal_mode = WAL");
    snprintf(sql, sizeof(sql), "PRAGMA synchronous = %s", sync);
    if (rc == 0)
        rc = sqlite_db_exec(d, sql);
    /* A log that grew while a reader was slow is cut back to this. */
    return rc != 0 ? rc : sqlite_db_exec(d, "PRAGMA journal_size_limit = 67108864");
}

int sqlite_db_open(struct sqlite_db *d, const char *folder, const char *name,
                   enum store_access access, const char *sync, const char *const *migration,
                   int version, char *ret_words, size_t size)
{
    *d = (struct sqlite_db){.migration = migration, .version = version};
    ret_words[0] = '\0';
    int n = snprintf(d->path, sizeof(d->path), "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof(d->path))
        return WEIR_E_TOO_LARGE;
    int rc = access == STORE_ACCESS_WRITE ? make_file(d->path) : 0;
    if (rc != 0) {
        snprintf(ret_words, size, "%s: %s", d->path, weir_strerror(rc));
        return rc;
    }
    int flags = (access == STORE_ACCESS_WRITE ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY) |
                SQLITE_OPEN_NOMUTEX;
    file_id(d->path, &d->id);
    int opened = sqlite3_open_v2(d->path, &d->handle, flags, NULL);
    rc = opened == SQLITE_OK ? set_up(d, access, sync) : sqlite_db_error(d, opened);
    if (rc == 0)
        rc = migrate(d, access, ret_words, size);
    if (rc == 0) {
        learn_side_files(d);
        return 0;
    }
    if (ret_words[0] == '\0')
        snprintf(ret_words, size, "%s: %s%s", d->path, sqlite_db_words(d),
                 d->damaged ? SQLITE_DB_DAMAGED : "");
    return rc;
}

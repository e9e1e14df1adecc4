/* SPDX-License-Identifier: Apache-2.0 */
/* One SQLite database file of ours: open, migrate, statements, errors, and whether the file is
 * still there. */
#ifndef WEIR_SERVER_STORE_SQLITE_DB_H
#define WEIR_SERVER_STORE_SQLITE_DB_H
#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "server/store/backend.h"

/* The longest that one call sits waiting for somebody else's lock. */
#define SQLITE_DB_BUSY_MS        50
#define SQLITE_DB_MAX_STATEMENTS 64u

struct sqlite_file_id {
    bool known;
    dev_t dev;
    ino_t ino;
};

struct sqlite_db {
    sqlite3 *handle;
    const char *const *migration; /* SQL of version 1, 2, ... */
    int version;                  /* how many there are */
    char path[576];
    struct sqlite_file_id id, wal_id, shm_id;
    bool fresh;  /* the file was made, or had no schema */
    bool damaged; /* SQLite found it so, or found that it is no database */
    bool broken; /* an error after which the connection is not to be trusted */
    int last_rc; /* extended code of the last failure, or SQLITE_OK */
    struct {
        const char *sql; /* compared by address: literals only */
        sqlite3_stmt *stmt;
    } cached[SQLITE_DB_MAX_STATEMENTS];
    size_t cached_count;
    uint64_t deadline_ns; /* of a query; 0: none */
};

/* What to do about damage, for the end of a sentence. */
#define SQLITE_DB_DAMAGED                                                                          \
    "; restore it from a copy, or move it away with its -wal and -shm, and an empty one is made"

/* @sync: "FULL" or "NORMAL". 0 or an error with words. sqlite_db_close is right after either. */
int sqlite_db_open(struct sqlite_db *d, const char *folder, const char *name,
                   enum store_access access, const char *sync, const char *const *migration,
                   int version, char *ret_words, size_t size);
void sqlite_db_close(struct sqlite_db *d);
bool sqlite_db_intact(struct sqlite_db *d);

/* Remember a failure and turn it into our code. */
int sqlite_db_error(struct sqlite_db *d, int rc);
const char *sqlite_db_words(const struct sqlite_db *d);

int sqlite_db_exec(struct sqlite_db *d, const char *sql);
/* A statement of the cache, reset and without bindings; NULL when it cannot be made
 * (sqlite_db_error said). Owned by the cache; done with it: sqlite_db_done. */
sqlite3_stmt *sqlite_db_statement(struct sqlite_db *d, const char *sql);
/* One row: 1, no more: 0, or an error code. */
int sqlite_db_step(struct sqlite_db *d, sqlite3_stmt *stmt);
/* Run a statement that gives no rows, and reset it. 0 or an error code. */
int sqlite_db_run(struct sqlite_db *d, sqlite3_stmt *stmt);
/* The first column of the first row: 1, 0 when there is none (then @ret is untouched) or it is
 * NULL, or an error code. */
int sqlite_db_number(struct sqlite_db *d, sqlite3_stmt *stmt, int64_t *ret);

/* Queries end at @deadline_ns (monotonic) with WEIR_E_TIMEOUT; 0: no bound. */
void sqlite_db_deadline(struct sqlite_db *d, uint64_t deadline_ns);

/* Text that lives until the statement has run; NULL and numbers beyond int64 as NULL. */
void sqlite_db_bind_text(sqlite3_stmt *stmt, int at, const char *text);
void sqlite_db_bind_number(sqlite3_stmt *stmt, int at, uint64_t n);
const char *sqlite_db_text(sqlite3_stmt *stmt, int column);
uint64_t sqlite_db_column(sqlite3_stmt *stmt, int column);

#endif

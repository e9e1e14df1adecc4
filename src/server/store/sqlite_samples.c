/* SPDX-License-Identifier: Apache-2.0 */
/* samples.db: what streams did, period by period, and what the resource manager's probes found. */
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/store/blob.h"
#include "server/store/sqlite_backend.h"

static uint64_t capped(uint64_t n)
{
    return n > INT64_MAX ? INT64_MAX : n;
}

void sqlite_sample_bind(sqlite3_stmt *stmt, int at, const struct sample_record *s)
{
    const uint64_t number[SQLITE_SAMPLE_NUMBERS] = {
        s->interval_ms,   s->read_ops,      s->write_ops,   s->other_ops, s->errors,
        s->arrivals,      s->read_bytes,    s->write_bytes, s->held_ops,  s->held_us_sum,
        s->target_us_sum, s->total_us_sum,  s->p50_us,      s->p99_us,    s->max_us,
        s->held_p99_us,   s->target_p99_us, s->inflight,    s->held_now,
    };
    for (int i = 0; i < SQLITE_SAMPLE_NUMBERS; i++)
        sqlite_db_bind_number(stmt, at + i, capped(number[i]));
}

void sqlite_sample_column(sqlite3_stmt *stmt, int at, struct sample_record *s)
{
    uint64_t *const number[SQLITE_SAMPLE_NUMBERS] = {
        NULL,
        &s->read_ops,
        &s->write_ops,
        &s->other_ops,
        &s->errors,
        &s->arrivals,
        &s->read_bytes,
        &s->write_bytes,
        &s->held_ops,
        &s->held_us_sum,
        &s->target_us_sum,
        &s->total_us_sum,
        &s->p50_us,
        &s->p99_us,
        &s->max_us,
        &s->held_p99_us,
        &s->target_p99_us,
        NULL,
        NULL,
    };
    for (int i = 0; i < SQLITE_SAMPLE_NUMBERS; i++)
        if (number[i] != NULL)
            *number[i] = sqlite_db_column(stmt, at + i);
    s->interval_ms = (uint32_t)sqlite_db_column(stmt, at);
    s->inflight = (uint32_t)sqlite_db_column(stmt, at + 17);
    s->held_now = (uint32_t)sqlite_db_column(stmt, at + 18);
}

static void bind_series(sqlite3_stmt *stmt, const struct sample_record *s)
{
    sqlite_db_bind_text(stmt, 1, s->host);
    sqlite_db_bind_text(stmt, 2, s->volume);
    sqlite_db_bind_text(stmt, 3, s->gateway);
    sqlite_db_bind_text(stmt, 4, s->tenant);
    sqlite_db_bind_text(stmt, 5, s->target);
}

/* The number of a stream's series, made when it is new. */
static int series_id(struct sqlite_db *d, const struct sample_record *s, int64_t *ret_id)
{
    static const char find[] = "SELECT id FROM series WHERE host = ? AND volume = ? AND gateway = "
                               "? AND tenant = ? AND target = ?";
    static const char make[] =
        "INSERT INTO series(host, volume, gateway, tenant, target) VALUES(?, ?, ?, ?, ?)";
    sqlite3_stmt *stmt = sqlite_db_statement(d, find);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    bind_series(stmt, s);
    int rc = sqlite_db_number(d, stmt, ret_id);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    stmt = sqlite_db_statement(d, make);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    bind_series(stmt, s);
    rc = sqlite_db_run(d, stmt);
    *ret_id = sqlite3_last_insert_rowid(d->handle);
    return rc;
}

int sqlite_sample(struct store_backend *b, const struct sample_record *s)
{
    static const char sql[] =
        "INSERT OR REPLACE INTO samples_1s(wall_us, series, " SQLITE_SAMPLE_COLUMNS ", hist)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    struct sqlite_db *d = sqlite_samples(b);
    uint8_t blob[BLOB_SAMPLE_MAX];
    int64_t series = 0;
    int rc = series_id(d, s, &series);
    if (rc != 0)
        return rc;
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    size_t n = blob_from_sample(s, blob);
    sqlite3_bind_int64(stmt, 1, s->wall_us);
    sqlite3_bind_int64(stmt, 2, series);
    sqlite_sample_bind(stmt, 3, s);
    sqlite3_bind_blob(stmt, 3 + SQLITE_SAMPLE_NUMBERS, blob, (int)n, SQLITE_STATIC);
    rc = sqlite_db_run(d, stmt);
    return rc == 0 ? sqlite_rollup_late(d, series, s) : rc;
}

/* Two gateways may call two targets by one name; their probes then share the history. */
int sqlite_health(struct store_backend *b, const struct target_health *h)
{
    static const char sql[] =
        "INSERT OR REPLACE INTO target_probes(target, wall_us, uri, reachable, size, block_min, "
        "block_preferred,"
        " block_max, latency_us, connect_us, error) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    struct sqlite_db *d = sqlite_samples(b);
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, h->target);
    sqlite3_bind_int64(stmt, 2, h->wall_us);
    sqlite_db_bind_text(stmt, 3, h->uri);
    sqlite3_bind_int(stmt, 4, h->reachable);
    sqlite_db_bind_number(stmt, 5, h->size);
    sqlite_db_bind_number(stmt, 6, h->block_min);
    sqlite_db_bind_number(stmt, 7, h->block_preferred);
    sqlite_db_bind_number(stmt, 8, h->block_max);
    sqlite_db_bind_number(stmt, 9, h->probe_latency_us);
    sqlite_db_bind_number(stmt, 10, h->connect_latency_us);
    sqlite_db_bind_text(stmt, 11, h->error);
    return sqlite_db_run(d, stmt);
}

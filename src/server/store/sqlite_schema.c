/* SPDX-License-Identifier: Apache-2.0 */
/* The schemas.
 *
 * Times are microseconds since 1970 (wall). Samples lie by time, so that a period's rows are
 * appended together, rolled up together and aged together; a second index finds one stream's
 * history. The names of a stream's five parts are kept once, in series. A row of a roll-up stands
 * at the end of its window, as a sample stands at the end of its period. rollup.done_us: all
 * windows of that level that end at or before it are made; aged_us: the rows below it up to then
 * have been aged out. */
#include "server/store/sqlite_schema.h"

/* clang-format off */
#define VERSION_TABLE \
    "CREATE TABLE schema_version(version INTEGER PRIMARY KEY, applied_us INTEGER NOT NULL) STRICT;"

const char *const sqlite_state_migration[SQLITE_STATE_VERSION] = {
    VERSION_TABLE
    "CREATE TABLE documents(kind TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,"
    " updated_us INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY(kind, name))"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE document_history(kind TEXT NOT NULL, name TEXT NOT NULL,"
    " version INTEGER NOT NULL, updated_us INTEGER NOT NULL, actor TEXT NOT NULL, json TEXT,"
    " PRIMARY KEY(kind, name, version)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE tokens(id TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL,"
    " hash TEXT NOT NULL, created_us INTEGER NOT NULL, expires_us INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE enrolments(id TEXT PRIMARY KEY, key TEXT NOT NULL, created_us INTEGER NOT NULL,"
    " expires_us INTEGER NOT NULL, used_us INTEGER, used_by TEXT) STRICT, WITHOUT ROWID;"
    "CREATE TABLE credentials(key_id TEXT PRIMARY KEY, key TEXT NOT NULL,"
    " gateway_id TEXT NOT NULL, gateway_name TEXT NOT NULL, created_us INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE gateways(id TEXT PRIMARY KEY, updated_us INTEGER NOT NULL, json TEXT NOT NULL)"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE settings(name TEXT PRIMARY KEY, updated_us INTEGER NOT NULL,"
    " json TEXT NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE audit(seq INTEGER PRIMARY KEY AUTOINCREMENT, wall_us INTEGER NOT NULL,"
    " actor TEXT NOT NULL, verb TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,"
    " version INTEGER, detail TEXT) STRICT;"
    "CREATE INDEX audit_by_time ON audit(wall_us);"
    "CREATE TABLE actions(seq INTEGER PRIMARY KEY AUTOINCREMENT, id INTEGER NOT NULL UNIQUE,"
    " wall_us INTEGER NOT NULL, victim TEXT NOT NULL, bully TEXT NOT NULL, json TEXT NOT NULL)"
    " STRICT;"
    "CREATE INDEX actions_by_time ON actions(wall_us);"
    "CREATE TABLE events(seq INTEGER PRIMARY KEY AUTOINCREMENT, wall_us INTEGER NOT NULL,"
    " severity INTEGER NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL)"
    " STRICT;"
    "CREATE INDEX events_by_time ON events(wall_us);",
    /* 2: the public key that the gateway showed when it enrolled over TLS. */
    "ALTER TABLE credentials ADD COLUMN tls_key TEXT NOT NULL DEFAULT '';",
};

#define SAMPLE_TABLE(name) \
    "CREATE TABLE " name "(wall_us INTEGER NOT NULL, series INTEGER NOT NULL," \
    " interval_ms INTEGER NOT NULL, read_ops INTEGER NOT NULL, write_ops INTEGER NOT NULL," \
    " other_ops INTEGER NOT NULL, errors INTEGER NOT NULL, arrivals INTEGER NOT NULL," \
    " read_bytes INTEGER NOT NULL, write_bytes INTEGER NOT NULL, held_ops INTEGER NOT NULL," \
    " held_us_sum INTEGER NOT NULL, target_us_sum INTEGER NOT NULL," \
    " total_us_sum INTEGER NOT NULL, p50_us INTEGER NOT NULL, p99_us INTEGER NOT NULL," \
    " max_us INTEGER NOT NULL, held_p99_us INTEGER NOT NULL, target_p99_us INTEGER NOT NULL," \
    " inflight INTEGER NOT NULL, held_now INTEGER NOT NULL, hist BLOB NOT NULL," \
    " PRIMARY KEY(wall_us, series)) STRICT, WITHOUT ROWID;" \
    "CREATE INDEX " name "_by_series ON " name "(series, wall_us);"

const char *const sqlite_samples_migration[SQLITE_SAMPLES_VERSION] = {
    VERSION_TABLE
    "CREATE TABLE series(id INTEGER PRIMARY KEY, host TEXT NOT NULL, volume TEXT NOT NULL,"
    " gateway TEXT NOT NULL, tenant TEXT NOT NULL, target TEXT NOT NULL,"
    " UNIQUE(host, volume, gateway, tenant, target)) STRICT;"
    SAMPLE_TABLE("samples_1s")
    SAMPLE_TABLE("samples_10s")
    SAMPLE_TABLE("samples_1min")
    SAMPLE_TABLE("samples_1h")
    "CREATE TABLE rollup(level INTEGER PRIMARY KEY, done_us INTEGER NOT NULL,"
    " aged_us INTEGER NOT NULL) STRICT;"
    "CREATE TABLE target_probes(target TEXT NOT NULL, wall_us INTEGER NOT NULL,"
    " uri TEXT NOT NULL, reachable INTEGER NOT NULL, size INTEGER, block_min INTEGER,"
    " block_preferred INTEGER, block_max INTEGER, latency_us INTEGER, connect_us INTEGER,"
    " error TEXT NOT NULL, PRIMARY KEY(target, wall_us)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX target_probes_by_time ON target_probes(wall_us);",
};

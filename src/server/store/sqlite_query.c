/* SPDX-License-Identifier: Apache-2.0 */
/* What readers ask, and the replies as JSON. Every query has a limit of rows, runs on a connection
 * of its own that cannot write, and is interrupted after STORE_QUERY_NS, so that no snapshot is
 * held for long (a WAL grows while one is). Pages go by sequence number, newest first; the ids that
 * people see are those of actions (their own) and of events and audit rows (their sequence). */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "server/store/render.h"
#include "server/store/sqlite_backend.h"

#define QUERY_MAX_ROWS  10000u
#define QUERY_PAGE_ROWS 100u
#define COUNT_MAX       1000000

static int64_t limit_of(const struct store_query *q, uint32_t none)
{
    uint32_t n = q->limit == 0 ? none : q->limit;
    return n > QUERY_MAX_ROWS ? QUERY_MAX_ROWS : n;
}

/* Text that may not be UTF-8 (nobody should have written such) still gives a string. */
static json_t *text(sqlite3_stmt *stmt, int column)
{
    json_t *s = json_string(sqlite_db_text(stmt, column));
    return s != NULL ? s : json_string("(not UTF-8)");
}

static json_t *text_or_null(sqlite3_stmt *stmt, int column)
{
    return sqlite_db_text(stmt, column)[0] == '\0' ? json_null() : text(stmt, column);
}

static json_t *number(sqlite3_stmt *stmt, int column)
{
    return sqlite3_column_type(stmt, column) == SQLITE_NULL
               ? json_null()
               : json_integer(sqlite3_column_int64(stmt, column));
}

static json_t *value(sqlite3_stmt *stmt, int column)
{
    json_t *json = json_loads(sqlite_db_text(stmt, column), JSON_DECODE_ANY, NULL);
    return json != NULL ? json : json_null();
}

static json_t *id_text(uint64_t id)
{
    char s[24];
    snprintf(s, sizeof(s), "%llu", (unsigned long long)id);
    return json_string(s);
}

/* Give @row every row of a statement and collect what it makes. */
static int collect(struct sqlite_db *d, sqlite3_stmt *stmt, json_t *(*row)(sqlite3_stmt *stmt),
                   json_t **ret)
{
    json_t *list = json_array();
    int rc;
    while ((rc = sqlite_db_step(d, stmt)) == 1)
        if (json_array_append_new(list, row(stmt)) != 0)
            break;
    sqlite3_reset(stmt);
    if (rc == 0) {
        *ret = list;
        return 0;
    }
    json_decref(list);
    return rc < 0 ? rc : WEIR_E_UNAVAILABLE;
}

static json_t *document_row(sqlite3_stmt *stmt)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "kind", text(stmt, 0), "name", text(stmt, 1),
                     "version", number(stmt, 2), "updated_us", number(stmt, 3), "document",
                     value(stmt, 4));
}

static json_t *token_row(sqlite3_stmt *stmt)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "id", text(stmt, 0), "name", text(stmt, 1),
                     "role", text(stmt, 2), "hash", text(stmt, 3), "created_us", number(stmt, 4),
                     "expires_us", number(stmt, 5));
}

static json_t *enrolment_row(sqlite3_stmt *stmt)
{
    json_t *j = json_pack("{s:o, s:o, s:o}", "id", text(stmt, 0), "key", text(stmt, 1),
                          "expires_us", number(stmt, 2));
    if (sqlite3_column_type(stmt, 3) != SQLITE_NULL)
        json_object_set_new(j, "used_by", text(stmt, 3));
    return j;
}

static json_t *credential_row(sqlite3_stmt *stmt)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "key_id", text(stmt, 0), "key",
                     text(stmt, 1), "gateway_id", text(stmt, 2), "gateway_name", text(stmt, 3),
                     "created_us", number(stmt, 4), "tls_key", text(stmt, 5), "ordered_us",
                     number(stmt, 6));
}

static json_t *gateway_row(sqlite3_stmt *stmt)
{
    return json_pack("{s:o, s:o, s:o}", "id", text(stmt, 0), "updated_us", number(stmt, 1),
                     "gateway", value(stmt, 2));
}

static json_t *setting_row(sqlite3_stmt *stmt)
{
    return json_pack("{s:o, s:o, s:o}", "name", text(stmt, 0), "updated_us", number(stmt, 1),
                     "value", value(stmt, 2));
}

static json_t *action_row(sqlite3_stmt *stmt)
{
    json_t *action = value(stmt, 2);
    json_object_set_new(action, "id", id_text(sqlite_db_column(stmt, 0)));
    json_object_set_new(action, "at", render_wall(sqlite3_column_int64(stmt, 1)));
    return action;
}

static json_t *event_row(sqlite3_stmt *stmt)
{
    struct event_record e = {.wall_us = sqlite3_column_int64(stmt, 1)};
    int severity = sqlite3_column_int(stmt, 2);
    e.severity = severity == EVENT_INFO      ? EVENT_INFO
                 : severity == EVENT_WARNING ? EVENT_WARNING
                                             : EVENT_ERROR;
    json_t *event = render_event(sqlite_db_column(stmt, 0), &e);
    json_object_set_new(event, "kind", text(stmt, 3));
    json_object_set_new(event, "subject", text(stmt, 4));
    json_object_set_new(event, "text", text(stmt, 5));
    return event;
}

static json_t *audit_row(sqlite3_stmt *stmt)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "id", id_text(sqlite_db_column(stmt, 0)),
                     "at", render_wall(sqlite3_column_int64(stmt, 1)), "actor", text(stmt, 2),
                     "verb", text(stmt, 3), "subject", text(stmt, 4), "version", number(stmt, 5));
}

static json_t *probe_row(sqlite3_stmt *stmt)
{
    return json_pack("{s:o, s:b, s:o, s:o, s:o, s:o}", "at",
                     render_wall(sqlite3_column_int64(stmt, 0)), "reachable",
                     sqlite3_column_int(stmt, 1), "size", number(stmt, 2), "latencyUs",
                     number(stmt, 3), "connectUs", number(stmt, 4), "error", text_or_null(stmt, 5));
}

static void copy_name(char name[NAME_SIZE], sqlite3_stmt *stmt, int column)
{
    snprintf(name, NAME_SIZE, "%s", sqlite_db_text(stmt, column));
}

static json_t *sample_row(sqlite3_stmt *stmt)
{
    struct sample_record s = {.wall_us = sqlite3_column_int64(stmt, 0)};
    copy_name(s.host, stmt, 1);
    copy_name(s.volume, stmt, 2);
    copy_name(s.gateway, stmt, 3);
    sqlite_sample_column(stmt, 4, &s);
    return render_sample(&s);
}

/* Tables that are small: kind and name "" select all. */
static int query_named(struct sqlite_db *d, const struct store_query *q, const char *sql,
                       const char *key, json_t *(*row)(sqlite3_stmt *stmt), json_t **ret)
{
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, key);
    sqlite3_bind_int64(stmt, 2, limit_of(q, QUERY_MAX_ROWS));
    if (sqlite3_bind_parameter_count(stmt) > 2)
        sqlite_db_bind_text(stmt, 3, q->kind);
    return collect(d, stmt, row, ret);
}

static int query_enrolments(struct sqlite_db *d, const struct store_query *q, json_t **ret)
{
    static const char sql[] =
        "SELECT id, key, expires_us, substr(used_by, 1, 32) FROM enrolments WHERE key != ''"
        " AND expires_us > ?1 ORDER BY id LIMIT ?2";
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, q->now_us != 0 ? q->now_us : clock_wall_us());
    sqlite3_bind_int64(stmt, 2, limit_of(q, QUERY_MAX_ROWS));
    return collect(d, stmt, enrolment_row, ret);
}

static int64_t open_end(int64_t to_us)
{
    return to_us == 0 ? INT64_MAX : to_us;
}

static int query_log(struct sqlite_db *d, const struct store_query *q, const char *sql,
                     json_t *(*row)(sqlite3_stmt *stmt), json_t **ret)
{
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    bool bounded = q->before_id != 0 && q->before_id <= INT64_MAX;
    sqlite3_bind_int64(stmt, 1, bounded ? (int64_t)q->before_id : INT64_MAX);
    sqlite3_bind_int64(stmt, 2, q->from_us);
    sqlite3_bind_int64(stmt, 3, open_end(q->to_us));
    sqlite_db_bind_text(stmt, 4, q->name);
    sqlite3_bind_int64(stmt, 5, limit_of(q, QUERY_PAGE_ROWS));
    return collect(d, stmt, row, ret);
}

/* Collected newest first; handed out oldest first. */
static void reverse(json_t *list)
{
    size_t n = json_array_size(list);
    for (size_t i = 0; i + 1 < n - i; i++) {
        json_t *a = json_incref(json_array_get(list, i)),
               *b = json_incref(json_array_get(list, n - 1 - i));
        json_array_set_new(list, i, b);
        json_array_set_new(list, n - 1 - i, a);
    }
}

/* History in order of time; from an open beginning, the newest rows of it. */
static int query_history(struct sqlite_db *d, const struct store_query *q, const char *const sql[2],
                         const char *key, const char *second, json_t *(*row)(sqlite3_stmt *stmt),
                         json_t **ret)
{
    bool newest = q->from_us == 0;
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql[newest]);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, key);
    sqlite3_bind_int64(stmt, 2, q->from_us);
    sqlite3_bind_int64(stmt, 3, open_end(q->to_us));
    sqlite3_bind_int64(stmt, 4, limit_of(q, QUERY_PAGE_ROWS));
    if (second != NULL)
        sqlite_db_bind_text(stmt, 5, second);
    int rc = collect(d, stmt, row, ret);
    if (rc == 0 && newest)
        reverse(*ret);
    return rc;
}

static int query_target_history(struct sqlite_db *d, const struct store_query *q, json_t **ret)
{
#define PROBES                                                                                     \
    "SELECT wall_us, reachable, size, latency_us, connect_us, error FROM target_probes"            \
    " WHERE target = ?1 AND wall_us >= ?2 AND wall_us <= ?3 ORDER BY wall_us"
    static const char *const sql[2] = {PROBES " LIMIT ?4", PROBES " DESC LIMIT ?4"};
    return query_history(d, q, sql, q->name, NULL, probe_row, ret);
}

static unsigned level_of(uint32_t step_ms)
{
    unsigned level = STORE_LEVELS - 1;
    while (level > 0 && (int64_t)step_ms * 1000 < sqlite_level_us[level])
        level--;
    return level;
}

static int query_samples(struct sqlite_db *d, const struct store_query *q, json_t **ret)
{
#define COLUMNS(table) "SELECT t.wall_us, s.host, s.volume, s.gateway, " SQLITE_SAMPLE_COLUMNS
#define ONE(table, order)                                                                          \
    COLUMNS(table)                                                                                 \
    " FROM series AS s JOIN " table " AS t ON t.series = s.id"                                     \
    " WHERE s.host = ?1 AND s.volume = ?5 AND t.wall_us >= ?2 AND t.wall_us <= ?3 ORDER BY "       \
    "t.wall_us" order " LIMIT ?4"
#define ALL(table, order)                                                                          \
    COLUMNS(table)                                                                                 \
    " FROM " table " AS t JOIN series AS s ON s.id = t.series"                                     \
    " WHERE ?1 = '' AND t.wall_us >= ?2 AND t.wall_us <= ?3 ORDER BY t.wall_us" order              \
    ", t.series" order " LIMIT ?4"
#define BOTH(form, table)                                                                          \
    {                                                                                              \
        form(table, ""), form(table, " DESC")                                                      \
    }
    static const char *const one[STORE_LEVELS][2] = {
        BOTH(ONE, "samples_1s"), BOTH(ONE, "samples_10s"), BOTH(ONE, "samples_1min"),
        BOTH(ONE, "samples_1h")};
    static const char *const all[STORE_LEVELS][2] = {
        BOTH(ALL, "samples_1s"), BOTH(ALL, "samples_10s"), BOTH(ALL, "samples_1min"),
        BOTH(ALL, "samples_1h")};
    unsigned level = level_of(q->step_ms);
    if (q->name[0] == '\0')
        return query_history(d, q, all[level], "", NULL, sample_row, ret);
    char host[STREAM_KEY_SIZE];
    snprintf(host, sizeof(host), "%s", q->name);
    char *slash = strchr(host, '/'); /* escaped names have none */
    if (slash == NULL) {
        *ret = json_array();
        return 0;
    }
    *slash = '\0';
    return query_history(d, q, one[level], host, slash + 1, sample_row, ret);
}

static json_int_t file_bytes(const char *path)
{
    char wal[600];
    struct stat st;
    json_int_t bytes = stat(path, &st) == 0 ? st.st_size : 0;
    snprintf(wal, sizeof(wal), "%s-wal", path);
    return bytes + (stat(wal, &st) == 0 ? st.st_size : 0);
}

/* Rows, counted no further than COUNT_MAX: a count walks the table. */
static int count_rows(struct sqlite_db *d, json_t *rows, const char *table)
{
    char sql[128];
    sqlite3_stmt *stmt = NULL;
    int64_t n = 0;
    snprintf(sql, sizeof(sql), "SELECT count(*) FROM (SELECT 1 FROM %s LIMIT %d)", table,
             COUNT_MAX);
    int rc = sqlite3_prepare_v2(d->handle, sql, -1, &stmt, NULL);
    rc = rc == SQLITE_OK ? sqlite_db_number(d, stmt, &n) : sqlite_db_error(d, rc);
    sqlite3_finalize(stmt);
    return rc < 0 ? rc : json_object_set_new(rows, table, json_integer(n));
}

static int query_status(struct sqlite_backend *s, json_t **ret)
{
    static const char *const state[] = {"documents", "document_history", "tokens", "credentials",
                                        "gateways",  "actions",          "events", "audit"};
    static const char *const samples[] = {"series",       "samples_1s", "samples_10s",
                                          "samples_1min", "samples_1h", "target_probes"};
    struct sqlite_db *d = s->db;
    json_t *rows = json_object();
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof(state) / sizeof(state[0]); i++)
        rc = count_rows(&d[STORE_PART_STATE], rows, state[i]);
    for (size_t i = 0; rc == 0 && i < sizeof(samples) / sizeof(samples[0]); i++)
        rc = count_rows(&d[STORE_PART_SAMPLES], rows, samples[i]);
    if (rc != 0) {
        json_decref(rows);
        return rc;
    }
    *ret = json_pack("{s:I, s:I, s:{s:s, s:{s:i, s:i}, s:o}}", "stateBytes",
                     file_bytes(d[STORE_PART_STATE].path), "samplesBytes",
                     file_bytes(d[STORE_PART_SAMPLES].path), "detail", "backend", "sqlite",
                     "schema", "state", d[STORE_PART_STATE].version, "samples",
                     d[STORE_PART_SAMPLES].version, "rows", rows);
    return 0;
}

static int run_query(struct sqlite_backend *s, const struct store_query *q, json_t **ret)
{
    static const char documents[] = "SELECT kind, name, version, updated_us, json FROM documents"
                                    " WHERE (?1 = '' OR name = ?1) AND (?3 = '' OR kind = ?3)"
                                    " ORDER BY kind, name LIMIT ?2";
    static const char tokens[] = "SELECT id, name, role, hash, created_us, expires_us FROM tokens"
                                 " WHERE ?1 = '' OR id = ?1 ORDER BY created_us, id LIMIT ?2";
    static const char credentials[] =
        "SELECT key_id, key, gateway_id, gateway_name, created_us, tls_key, coalesce((SELECT"
        " json_extract(json, '$.rekey.since_us') FROM gateways WHERE id = gateway_id), 0)"
        " FROM credentials WHERE ?1 = '' OR key_id = ?1 ORDER BY key_id LIMIT ?2";
    static const char gateways[] = "SELECT id, updated_us, json FROM gateways"
                                   " WHERE ?1 = '' OR id = ?1 ORDER BY id LIMIT ?2";
    static const char settings[] = "SELECT name, updated_us, json FROM settings"
                                   " WHERE ?1 = '' OR name = ?1 ORDER BY name LIMIT ?2";
    static const char actions[] =
        "SELECT id, wall_us, json FROM actions WHERE id < ?1 AND wall_us >= ?2 AND wall_us <= ?3"
        " AND (?4 = '' OR victim = ?4 OR bully = ?4) ORDER BY id DESC LIMIT ?5";
    static const char events[] = "SELECT seq, wall_us, severity, kind, subject, text FROM events"
                                 " WHERE seq < ?1 AND wall_us >= ?2 AND wall_us <= ?3 AND (?4 = '' "
                                 "OR subject = ?4) ORDER BY seq DESC LIMIT ?5";
    static const char audits[] =
        "SELECT seq, wall_us, actor, verb, lower(kind) || '/' || name, version FROM audit"
        " WHERE seq < ?1 AND wall_us >= ?2 AND wall_us <= ?3 AND (?4 = '' OR name = ?4) ORDER BY "
        "seq DESC LIMIT ?5";
    struct sqlite_db *state = &s->db[STORE_PART_STATE], *samples = &s->db[STORE_PART_SAMPLES];
    switch (q->table) {
    case STORE_DOCUMENTS:
        return query_named(state, q, documents, q->name, document_row, ret);
    case STORE_TOKENS:
        return query_named(state, q, tokens, q->name, token_row, ret);
    case STORE_ENROLMENTS:
        return query_enrolments(state, q, ret);
    case STORE_CREDENTIALS:
        return query_named(state, q, credentials, q->name, credential_row, ret);
    case STORE_GATEWAYS:
        return query_named(state, q, gateways, q->name, gateway_row, ret);
    case STORE_SETTINGS:
        return query_named(state, q, settings, q->name, setting_row, ret);
    case STORE_SAMPLES:
        return query_samples(samples, q, ret);
    case STORE_ACTIONS:
        return query_log(state, q, actions, action_row, ret);
    case STORE_EVENTS:
        return query_log(state, q, events, event_row, ret);
    case STORE_AUDIT:
        return query_log(state, q, audits, audit_row, ret);
    case STORE_TARGET_HISTORY:
        return query_target_history(samples, q, ret);
    case STORE_STATUS:
        return query_status(s, ret);
    }
    weir_assert(false);
    return WEIR_E_INVALID;
}

int sqlite_query(struct store_backend *b, const struct store_query *q, json_t **ret)
{
    struct sqlite_backend *s = (struct sqlite_backend *)b;
    uint64_t deadline = clock_mono_ns() + STORE_QUERY_NS;
    for (size_t i = 0; i < STORE_PART_COUNT; i++)
        sqlite_db_deadline(&s->db[i], deadline);
    int rc = run_query(s, q, ret);
    for (size_t i = 0; i < STORE_PART_COUNT; i++)
        sqlite_db_deadline(&s->db[i], 0);
    return rc;
}

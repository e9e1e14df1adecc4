/* SPDX-License-Identifier: Apache-2.0 */
/* state.db: documents with their history, tokens, enrolments, credentials, gateways, settings,
 * audit, actions, events.
 *
 * Invariants
 *  1. A write and its audit row are one savepoint: both or neither, whatever the group's other
 *     writes do.
 *  2. A document's version only grows, over deletion and making anew as well (the history
 *     remembers), so that an ETag never means two contents.
 *  3. An enrolment is used by one UPDATE that wants it unused, or used by the same gateway, which
 *     nobody has seen with its credential yet; credential and use are one savepoint. So is a
 *     credential that follows another.
 *  4. No secret goes into the audit: of tokens, enrolments and credentials only names.
 *  5. A new key that is ordered for a gateway stands in its record until a credential is written
 *     for it, in that very savepoint, or the order is withdrawn: it is neither lost nor carried out
 *     twice. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/store/render.h"
#include "server/store/sqlite_backend.h"

/* Versions of one document that are kept. */
#define HISTORY_KEEP 1000
/* A document or record as stored: far above what our kinds can need. */
#define JSON_MAX   ((size_t)1 << 20)
#define DUMP_FLAGS (JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_REAL_PRECISION(12))

static const char *verb_name(enum store_verb verb)
{
    switch (verb) {
    case STORE_DOCUMENT_PUT:
        return "document-put";
    case STORE_DOCUMENT_DELETE:
        return "document-delete";
    case STORE_TOKEN_PUT:
        return "token-put";
    case STORE_TOKEN_DELETE:
        return "token-delete";
    case STORE_ENROLMENT_PUT:
        return "enrolment-put";
    case STORE_ENROLMENT_USE:
        return "enrolment-use";
    case STORE_CREDENTIAL_CONFIRM:
        return "credential-confirm";
    case STORE_CREDENTIAL_ROTATE:
        return "credential-rotate";
    case STORE_CREDENTIAL_DELETE:
        return "credential-delete";
    case STORE_GATEWAY_PUT:
        return "gateway-put";
    case STORE_GATEWAY_DELETE:
        return "gateway-delete";
    case STORE_GATEWAY_RETIRE:
        return "gateway-retire";
    case STORE_GATEWAY_ADMIT:
        return "gateway-admit";
    case STORE_GATEWAY_DRAIN:
        return "gateway-drain";
    case STORE_GATEWAY_UNDRAIN:
        return "gateway-undrain";
    case STORE_GATEWAY_REKEY:
        return "gateway-rotate";
    case STORE_GATEWAY_UNREKEY:
        return "gateway-unrotate";
    case STORE_SETTING_PUT:
        return "setting-put";
    }
    return "unknown";
}

/* What the audit calls the thing: the document's kind, or ours. */
static const char *subject_kind(const struct store_write *w)
{
    switch (w->verb) {
    case STORE_DOCUMENT_PUT:
    case STORE_DOCUMENT_DELETE:
        return w->kind;
    case STORE_TOKEN_PUT:
    case STORE_TOKEN_DELETE:
        return "token";
    case STORE_ENROLMENT_PUT:
    case STORE_ENROLMENT_USE:
        return "enrolment";
    case STORE_CREDENTIAL_CONFIRM:
    case STORE_CREDENTIAL_ROTATE:
    case STORE_CREDENTIAL_DELETE:
        return "credential";
    case STORE_GATEWAY_PUT:
    case STORE_GATEWAY_RETIRE:
    case STORE_GATEWAY_DELETE:
    case STORE_GATEWAY_ADMIT:
    case STORE_GATEWAY_DRAIN:
    case STORE_GATEWAY_UNDRAIN:
    case STORE_GATEWAY_REKEY:
    case STORE_GATEWAY_UNREKEY:
        return "gateway";
    case STORE_SETTING_PUT:
        return "setting";
    }
    return "unknown";
}

static char *dump(const json_t *json, int *ret_code)
{
    char *text = json == NULL ? NULL : json_dumps(json, DUMP_FLAGS);
    *ret_code = 0;
    if (text == NULL) {
        *ret_code = WEIR_E_INVALID;
    } else if (strlen(text) > JSON_MAX) {
        *ret_code = WEIR_E_TOO_LARGE;
        free(text);
        text = NULL;
    }
    return text;
}

/* A member that must be there as text; NULL when it is not. */
static const char *member(const struct store_write *w, const char *key)
{
    return json_string_value(json_object_get(w->json, key));
}

static uint64_t member_number(const struct store_write *w, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(w->json, key));
    return n < 0 ? 0 : (uint64_t)n;
}

static int audit(struct sqlite_db *d, const struct store_write *w, uint64_t version,
                 const char *detail)
{
    static const char sql[] = "INSERT INTO audit(wall_us, actor, verb, kind, name, version, detail)"
                              " VALUES(?, ?, ?, ?, ?, ?, ?)";
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, w->wall_us);
    sqlite_db_bind_text(stmt, 2, w->actor);
    sqlite_db_bind_text(stmt, 3, w->forced ? "document-put-forced" : verb_name(w->verb));
    sqlite_db_bind_text(stmt, 4, subject_kind(w));
    sqlite_db_bind_text(stmt, 5, w->name);
    if (version != 0)
        sqlite_db_bind_number(stmt, 6, version);
    sqlite_db_bind_text(stmt, 7, detail);
    return sqlite_db_run(d, stmt);
}

/* Current version (0: not there now) and the highest that ever was. */
static int document_versions(struct sqlite_db *d, const struct store_write *w, int64_t *ret_current,
                             int64_t *ret_last)
{
    static const char current[] = "SELECT version FROM documents WHERE kind = ? AND name = ?";
    static const char last[] =
        "SELECT max(version) FROM document_history WHERE kind = ? AND name = ?";
    *ret_current = 0;
    *ret_last = 0;
    sqlite3_stmt *stmt = sqlite_db_statement(d, current);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, w->kind);
    sqlite_db_bind_text(stmt, 2, w->name);
    int rc = sqlite_db_number(d, stmt, ret_current);
    if (rc < 0)
        return rc;
    stmt = sqlite_db_statement(d, last);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, w->kind);
    sqlite_db_bind_text(stmt, 2, w->name);
    rc = sqlite_db_number(d, stmt, ret_last);
    return rc < 0 ? rc : 0;
}

/* @json NULL: the version in which it was deleted. */
static int remember_version(struct sqlite_db *d, const struct store_write *w, int64_t version,
                            const char *json)
{
    static const char insert[] =
        "INSERT INTO document_history(kind, name, version, updated_us, actor, json)"
        " VALUES(?, ?, ?, ?, ?, ?)";
    static const char forget[] =
        "DELETE FROM document_history WHERE kind = ? AND name = ? AND version <= ?";
    sqlite3_stmt *stmt = sqlite_db_statement(d, insert);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, w->kind);
    sqlite_db_bind_text(stmt, 2, w->name);
    sqlite3_bind_int64(stmt, 3, version);
    sqlite3_bind_int64(stmt, 4, w->wall_us);
    sqlite_db_bind_text(stmt, 5, w->actor);
    sqlite_db_bind_text(stmt, 6, json);
    int rc = sqlite_db_run(d, stmt);
    if (rc != 0)
        return rc;
    stmt = sqlite_db_statement(d, forget);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, w->kind);
    sqlite_db_bind_text(stmt, 2, w->name);
    sqlite3_bind_int64(stmt, 3, version - HISTORY_KEEP);
    return sqlite_db_run(d, stmt);
}

/* 0 when the asker's expectation holds: any, must be new, or this very version. */
static int check_expected(const struct store_write *w, int64_t current, json_t **ret_reply)
{
    bool holds = w->version == 0 || (w->version == UINT64_MAX && current == 0) ||
                 w->version == (uint64_t)current;
    if (holds)
        return 0;
    *ret_reply = json_pack("{s:I}", "version", (json_int_t)current);
    return WEIR_E_CONFLICT;
}

static int document_put(struct sqlite_db *d, const struct store_write *w, json_t **ret_reply)
{
    static const char sql[] =
        "INSERT OR REPLACE INTO documents(kind, name, version, updated_us, json)"
        " VALUES(?, ?, ?, ?, ?)";
    int64_t current, last;
    int rc = document_versions(d, w, &current, &last);
    if (rc == 0)
        rc = check_expected(w, current, ret_reply);
    if (rc != 0)
        return rc;
    char *json = dump(w->json, &rc);
    if (json == NULL)
        return rc;
    int64_t version = (last > current ? last : current) + 1;
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    rc = WEIR_E_UNAVAILABLE;
    if (stmt != NULL) {
        sqlite_db_bind_text(stmt, 1, w->kind);
        sqlite_db_bind_text(stmt, 2, w->name);
        sqlite3_bind_int64(stmt, 3, version);
        sqlite3_bind_int64(stmt, 4, w->wall_us);
        sqlite_db_bind_text(stmt, 5, json);
        rc = sqlite_db_run(d, stmt);
    }
    if (rc == 0)
        rc = remember_version(d, w, version, json);
    if (rc == 0)
        rc = audit(d, w, (uint64_t)version, json);
    if (rc == 0)
        *ret_reply =
            json_pack("{s:I, s:b}", "version", (json_int_t)version, "created", current == 0);
    free(json);
    return rc;
}

static int document_delete(struct sqlite_db *d, const struct store_write *w, json_t **ret_reply)
{
    static const char sql[] = "DELETE FROM documents WHERE kind = ? AND name = ?";
    int64_t current, last;
    int rc = document_versions(d, w, &current, &last);
    if (rc == 0 && current == 0)
        rc = WEIR_E_NOT_FOUND;
    if (rc == 0)
        rc = check_expected(w, current, ret_reply);
    if (rc != 0)
        return rc;
    int64_t version = (last > current ? last : current) + 1;
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, w->kind);
    sqlite_db_bind_text(stmt, 2, w->name);
    rc = sqlite_db_run(d, stmt);
    if (rc == 0)
        rc = remember_version(d, w, version, NULL);
    if (rc == 0)
        rc = audit(d, w, (uint64_t)version, NULL);
    if (rc == 0)
        *ret_reply = json_pack("{s:I, s:b}", "version", (json_int_t)version, "created", 0);
    return rc;
}

/* Whether the statement changed a row. */
static int run_changed(struct sqlite_db *d, sqlite3_stmt *stmt)
{
    int rc = sqlite_db_run(d, stmt);
    if (rc == 0 && sqlite3_changes(d->handle) == 0)
        rc = WEIR_E_NOT_FOUND;
    return rc;
}

static int token_put(struct sqlite_db *d, const struct store_write *w)
{
    static const char sql[] =
        "INSERT OR REPLACE INTO tokens(id, name, role, hash, created_us, expires_us)"
        " VALUES(?, ?, ?, ?, ?, ?)";
    if (member(w, "name") == NULL || member(w, "role") == NULL || member(w, "hash") == NULL)
        return WEIR_E_INVALID;
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, w->name);
    sqlite_db_bind_text(stmt, 2, member(w, "name"));
    sqlite_db_bind_text(stmt, 3, member(w, "role"));
    sqlite_db_bind_text(stmt, 4, member(w, "hash"));
    sqlite3_bind_int64(stmt, 5, w->wall_us);
    sqlite_db_bind_number(stmt, 6, member_number(w, "expires_us"));
    int rc = sqlite_db_run(d, stmt);
    char detail[2 * NAME_SIZE];
    snprintf(detail, sizeof(detail), "%.120s, role %.32s", member(w, "name"), member(w, "role"));
    return rc == 0 ? audit(d, w, 0, detail) : rc;
}

static int enrolment_put(struct sqlite_db *d, const struct store_write *w)
{
    static const char sql[] =
        "INSERT INTO enrolments(id, key, created_us, expires_us) VALUES(?, ?, ?, ?)";
    if (member(w, "key") == NULL)
        return WEIR_E_INVALID;
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, w->name);
    sqlite_db_bind_text(stmt, 2, member(w, "key"));
    sqlite3_bind_int64(stmt, 3, w->wall_us);
    sqlite_db_bind_number(stmt, 4, member_number(w, "expires_us"));
    int rc = sqlite_db_run(d, stmt);
    return rc == 0 ? audit(d, w, 0, NULL) : rc;
}

static int run_two(struct sqlite_db *d, const char *sql, const char *first, const char *second)
{
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, first);
    if (second != NULL)
        sqlite_db_bind_text(stmt, 2, second);
    return sqlite_db_run(d, stmt);
}

static const char order_end[] = "UPDATE gateways SET json = json_remove(json, '$.rekey')"
                                " WHERE id = ?1 AND json_extract(json, '$.rekey') IS NOT NULL";

/* What was ordered for a gateway that has a new key now. */
static int order_done(struct sqlite_db *d, const char *gateway)
{
    return run_two(d, order_end, gateway, NULL);
}

static int credential_insert(struct sqlite_db *d, const struct store_write *w, const char *key_id)
{
    static const char insert[] =
        "INSERT INTO credentials(key_id, key, gateway_id, gateway_name, created_us, tls_key)"
        " VALUES(?, ?, ?, ?, ?, ?)";
    const char *name = member(w, "gateway_name"), *tls_key = member(w, "tls_key");
    sqlite3_stmt *stmt = sqlite_db_statement(d, insert);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, key_id);
    sqlite_db_bind_text(stmt, 2, member(w, "key"));
    sqlite_db_bind_text(stmt, 3, member(w, "gateway_id"));
    sqlite_db_bind_text(stmt, 4, name != NULL ? name : "");
    sqlite3_bind_int64(stmt, 5, w->wall_us);
    sqlite_db_bind_text(stmt, 6, tls_key != NULL ? tls_key : "");
    int rc = sqlite_db_run(d, stmt);
    return rc == 0 ? order_done(d, member(w, "gateway_id")) : rc;
}

/* The gateway has the credential @key_id: nothing else of it is left, and its tokens are closed. */
static int credential_only(struct sqlite_db *d, const struct store_write *w, const char *key_id)
{
    static const char there[] =
        "UPDATE credentials SET key_id = key_id WHERE key_id = ?1 AND gateway_id = ?2";
    static const char others[] = "DELETE FROM credentials WHERE gateway_id = ?1 AND key_id != ?2";
    static const char tokens[] =
        "UPDATE enrolments SET key = '' WHERE key != '' AND substr(used_by, 1, 32) = ?1";
    const char *gateway = member(w, "gateway_id");
    sqlite3_stmt *stmt = sqlite_db_statement(d, there);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, key_id);
    sqlite_db_bind_text(stmt, 2, gateway);
    int rc = run_changed(d, stmt);
    if (rc == 0)
        rc = run_two(d, others, gateway, key_id);
    return rc == 0 ? run_two(d, tokens, gateway, NULL) : rc;
}

static int credential_confirm(struct sqlite_db *d, const struct store_write *w)
{
    if (member(w, "gateway_id") == NULL)
        return WEIR_E_INVALID;
    int rc = credential_only(d, w, w->name);
    return rc == 0 ? audit(d, w, 0, NULL) : rc;
}

static int credential_rotate(struct sqlite_db *d, const struct store_write *w)
{
    const char *old = member(w, "old_key_id"), *name = member(w, "gateway_name");
    if (old == NULL || member(w, "gateway_id") == NULL || member(w, "key") == NULL)
        return WEIR_E_INVALID;
    int rc = credential_only(d, w, old); /* only who is there can be followed */
    if (rc == 0)
        rc = credential_insert(d, w, w->name);
    if (rc == 0)
        rc = credential_only(d, w, w->name);
    char detail[3 * NAME_SIZE];
    snprintf(detail, sizeof(detail), "gateway %.120s (%.64s), in the place of %.80s",
             name != NULL ? name : "", member(w, "gateway_id"), old);
    return rc == 0 ? audit(d, w, 0, detail) : rc;
}

static int enrolment_use(struct sqlite_db *d, const struct store_write *w)
{
    /* The key stays until it is known that the gateway has the credential. */
    static const char use[] = "UPDATE enrolments SET used_us = ?1, used_by = ?2 WHERE id = ?3"
                              " AND key != '' AND expires_us > ?1"
                              " AND (used_us IS NULL OR used_by = ?2)";
    static const char earlier[] =
        "DELETE FROM credentials WHERE gateway_id = ?1"
        " AND created_us >= (SELECT created_us FROM enrolments WHERE id = ?2)";
    if (member(w, "gateway_id") == NULL || member(w, "key_id") == NULL || member(w, "key") == NULL)
        return WEIR_E_INVALID;
    const char *name = member(w, "gateway_name"), *tls_key = member(w, "tls_key");
    char who[256];
    snprintf(who, sizeof(who), "%.64s %.128s", member(w, "gateway_id"), tls_key ? tls_key : "");
    sqlite3_stmt *stmt = sqlite_db_statement(d, use);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, w->wall_us);
    sqlite_db_bind_text(stmt, 2, who);
    sqlite_db_bind_text(stmt, 3, w->name);
    int rc = run_changed(d, stmt);
    if (rc == 0)
        rc = run_two(d, earlier, member(w, "gateway_id"), w->name);
    if (rc == 0)
        rc = credential_insert(d, w, member(w, "key_id"));
    char detail[3 * NAME_SIZE];
    snprintf(detail, sizeof(detail), "gateway %.120s (%.64s), credential %.80s",
             name != NULL ? name : "", member(w, "gateway_id"), member(w, "key_id"));
    return rc == 0 ? audit(d, w, 0, detail) : rc;
}

/* Tables of one JSON value by name. */
static int value_put(struct sqlite_db *d, const struct store_write *w, const char *sql, bool show)
{
    int rc;
    char *json = dump(w->json, &rc);
    if (json == NULL)
        return rc;
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    rc = WEIR_E_UNAVAILABLE;
    if (stmt != NULL) {
        sqlite_db_bind_text(stmt, 1, w->name);
        sqlite3_bind_int64(stmt, 2, w->wall_us);
        sqlite_db_bind_text(stmt, 3, json);
        rc = sqlite_db_run(d, stmt);
    }
    if (rc == 0)
        rc = audit(d, w, 0, show ? json : NULL);
    free(json);
    return rc;
}

/* Only what has a credential can get a new one: so an order that comes behind a retirement does not
 * bring the record back. */
static int gateway_rekey(struct sqlite_db *d, const struct store_write *w, json_t **ret_reply)
{
    static const char credential[] = "SELECT count(*) FROM credentials WHERE gateway_id = ?";
    static const char put[] =
        "INSERT INTO gateways(id, updated_us, json) VALUES(?, ?, ?) ON CONFLICT(id) DO UPDATE SET "
        "updated_us = excluded.updated_us, json = json_set(json, '$.rekey', "
        "json(coalesce(json_extract(json, '$.rekey'), json_extract(excluded.json, '$.rekey'))))";
    static const char since[] =
        "SELECT json_extract(json, '$.rekey.since_us') FROM gateways WHERE id = ?";
    int64_t n = 0;
    sqlite3_stmt *stmt = sqlite_db_statement(d, credential);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, w->name);
    int rc = sqlite_db_number(d, stmt, &n);
    if (rc >= 0 && n == 0)
        return WEIR_E_NOT_FOUND;
    if (rc >= 0)
        rc = value_put(d, w, put, true);
    if (rc != 0)
        return rc;
    stmt = sqlite_db_statement(d, since);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, w->name);
    rc = sqlite_db_number(d, stmt, &n);
    if (rc >= 0)
        *ret_reply = json_pack("{s:I}", "since_us", (json_int_t)n);
    return rc < 0 ? rc : 0;
}

/* What @sql does to the row of this name; WEIR_E_NOT_FOUND: to none. */
static int row_change(struct sqlite_db *d, const struct store_write *w, const char *sql)
{
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_text(stmt, 1, w->name);
    int rc = run_changed(d, stmt);
    return rc == 0 ? audit(d, w, 0, NULL) : rc;
}

/* By the gateway's id, so that a key that it was given a moment ago goes too; a rotation or an
 * enrolment of it that is under way then finds nothing to follow. */
static int gateway_retire(struct sqlite_db *d, const struct store_write *w)
{
    static const char *const sql[] = {
        "DELETE FROM gateways WHERE id = ?1",
        "DELETE FROM credentials WHERE gateway_id = ?1",
        "UPDATE enrolments SET key = '' WHERE key != '' AND substr(used_by, 1, 32) = ?1",
    };
    int changed[3] = {0}, rc = 0;
    for (size_t i = 0; rc == 0 && i < 3; i++) {
        rc = run_two(d, sql[i], w->name, NULL);
        changed[i] = sqlite3_changes(d->handle);
    }
    if (rc == 0 && changed[0] + changed[1] + changed[2] == 0)
        return WEIR_E_NOT_FOUND;
    char detail[64];
    snprintf(detail, sizeof(detail), "credentials: %d", changed[1]);
    return rc == 0 ? audit(d, w, 0, detail) : rc;
}

static int write_one(struct sqlite_db *d, const struct store_write *w, json_t **ret_reply)
{
    static const char token_delete[] = "DELETE FROM tokens WHERE id = ?";
    static const char credential_delete[] = "DELETE FROM credentials WHERE key_id = ?";
    static const char gateway_put[] =
        "INSERT INTO gateways(id, updated_us, json) VALUES(?, ?, ?) ON CONFLICT(id) DO UPDATE SET "
        "updated_us = excluded.updated_us, json = json_patch(CASE WHEN json_extract(json, "
        "'$.admitted') THEN json_set(excluded.json, '$.admitted', json('true')) ELSE "
        "excluded.json END, json_object('drain', json_extract(json, '$.drain'), 'rekey', "
        "json_extract(json, '$.rekey')))";
    static const char gateway_delete[] = "DELETE FROM gateways WHERE id = ?";
    static const char gateway_admit[] =
        "INSERT INTO gateways(id, updated_us, json) VALUES(?, ?, ?) ON CONFLICT(id) DO UPDATE SET "
        "updated_us = excluded.updated_us, json = json_set(json, '$.admitted', json('true'))";
    static const char gateway_drain[] =
        "INSERT INTO gateways(id, updated_us, json) VALUES(?, ?, ?) ON CONFLICT(id) DO UPDATE SET "
        "updated_us = excluded.updated_us, "
        "json = json_set(json, '$.drain', json_extract(excluded.json, '$.drain'))";
    static const char setting_put[] =
        "INSERT OR REPLACE INTO settings(name, updated_us, json) VALUES(?, ?, ?)";
    switch (w->verb) {
    case STORE_DOCUMENT_PUT:
        return document_put(d, w, ret_reply);
    case STORE_DOCUMENT_DELETE:
        return document_delete(d, w, ret_reply);
    case STORE_TOKEN_PUT:
        return token_put(d, w);
    case STORE_TOKEN_DELETE:
        return row_change(d, w, token_delete);
    case STORE_ENROLMENT_PUT:
        return enrolment_put(d, w);
    case STORE_ENROLMENT_USE:
        return enrolment_use(d, w);
    case STORE_CREDENTIAL_CONFIRM:
        return credential_confirm(d, w);
    case STORE_CREDENTIAL_ROTATE:
        return credential_rotate(d, w);
    case STORE_CREDENTIAL_DELETE:
        return row_change(d, w, credential_delete);
    case STORE_GATEWAY_PUT:
        return value_put(d, w, gateway_put, false);
    case STORE_GATEWAY_DELETE:
        return row_change(d, w, gateway_delete);
    case STORE_GATEWAY_RETIRE:
        return gateway_retire(d, w);
    case STORE_GATEWAY_ADMIT:
        return value_put(d, w, gateway_admit, false);
    case STORE_GATEWAY_DRAIN:
    case STORE_GATEWAY_UNDRAIN:
        return value_put(d, w, gateway_drain, true);
    case STORE_GATEWAY_REKEY:
        return gateway_rekey(d, w, ret_reply);
    case STORE_GATEWAY_UNREKEY:
        return row_change(d, w, order_end);
    case STORE_SETTING_PUT:
        return value_put(d, w, setting_put, true);
    }
    weir_assert(false);
    return WEIR_E_INVALID;
}

int sqlite_write(struct store_backend *b, const struct store_write *w, json_t **ret_reply)
{
    struct sqlite_db *d = sqlite_state(b);
    *ret_reply = NULL;
    int rc = sqlite_db_exec(d, "SAVEPOINT one");
    if (rc != 0)
        return rc;
    rc = write_one(d, w, ret_reply);
    if (rc == WEIR_E_UNAVAILABLE)
        return rc; /* the whole transaction goes */
    int ended = sqlite_db_exec(d, rc == 0 ? "RELEASE one" : "ROLLBACK TO one; RELEASE one");
    if (ended != 0)
        return ended;
    if (rc == 0 && *ret_reply == NULL)
        *ret_reply = json_object();
    return rc;
}

/* An id that is taken by the very same action was stored before a doubt; one taken by another gives
 * way by 1 us. */
static int action_id(struct sqlite_db *d, const struct action_record *a, const char *json,
                     uint64_t *ret_id)
{
    static const char sql[] = "SELECT json = ?2 FROM actions WHERE id = ?1";
    for (uint64_t id = a->id; id < a->id + 10000; id++) {
        sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
        if (stmt == NULL)
            return WEIR_E_UNAVAILABLE;
        int64_t same = 0;
        sqlite_db_bind_number(stmt, 1, id);
        sqlite_db_bind_text(stmt, 2, json);
        int rc = sqlite_db_number(d, stmt, &same);
        if (rc < 0)
            return rc;
        if (rc == 1 && same)
            return WEIR_E_EXISTS;
        if (rc == 0) {
            *ret_id = id;
            return 0;
        }
    }
    return WEIR_E_FULL;
}

static int action_insert(struct sqlite_db *d, const struct action_record *a, const char *json)
{
    static const char sql[] =
        "INSERT INTO actions(id, wall_us, victim, bully, json) VALUES(?, ?, ?, ?, ?)";
    uint64_t id = 0;
    int rc = action_id(d, a, json, &id);
    if (rc == WEIR_E_EXISTS)
        return 0;
    if (rc != 0)
        return rc;
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite_db_bind_number(stmt, 1, id);
    sqlite3_bind_int64(stmt, 2, a->wall_us);
    sqlite_db_bind_text(stmt, 3, a->victim);
    sqlite_db_bind_text(stmt, 4, a->bully);
    sqlite_db_bind_text(stmt, 5, json);
    return sqlite_db_run(d, stmt);
}

int sqlite_action(struct store_backend *b, const struct action_record *a)
{
    json_t *object = render_action(a);
    int rc = WEIR_E_INVALID; /* not UTF-8, or no memory */
    char *json = object == NULL ? NULL : dump(object, &rc);
    json_decref(object);
    if (json == NULL)
        return rc;
    rc = action_insert(sqlite_state(b), a, json);
    free(json);
    return rc;
}

int sqlite_event(struct store_backend *b, const struct event_record *e)
{
    static const char sql[] =
        "INSERT INTO events(wall_us, severity, kind, subject, text) VALUES(?, ?, ?, ?, ?)";
    sqlite3_stmt *stmt = sqlite_db_statement(sqlite_state(b), sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, e->wall_us);
    sqlite3_bind_int(stmt, 2, (int)e->severity);
    sqlite_db_bind_text(stmt, 3, e->kind);
    sqlite_db_bind_text(stmt, 4, e->subject);
    sqlite_db_bind_text(stmt, 5, e->text);
    return sqlite_db_run(sqlite_state(b), stmt);
}

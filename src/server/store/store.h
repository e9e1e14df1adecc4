/* SPDX-License-Identifier: Apache-2.0 */
/* Database manager: the only place that touches the database; one writer thread and readers, by
 * mailbox.
 *
 * Writers send MSG_STORE_APPEND (samples, events, actions; group commit; kept in bounded memory
 * while the database is locked, full or gone, oldest samples dropped and counted first) and
 * MSG_STORE_WRITE (documents, tokens, keys, gateways; answered only after the commit).
 * MSG_STORE_QUERY goes to any reader. Behind it: SQLite, state.db (synchronous=FULL) and samples.db
 * (NORMAL), both WAL. */
#ifndef WEIR_SERVER_STORE_STORE_H
#define WEIR_SERVER_STORE_STORE_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/services/record.h"
#include "server/threads.h"

/* Body of MSG_STORE_APPEND; one block, freed with store_batch_free. store_batch_new zeroes the
 * arrays and sets the counts to their sizes; a sender that fills fewer lowers the counts before it
 * posts. NULL: no memory. */
struct store_batch {
    struct sample_record *sample;
    size_t sample_count;
    struct action_record *action;
    size_t action_count;
    struct event_record *event;
    size_t event_count;
    struct target_health *health;
    size_t health_count;
};
struct store_batch *store_batch_new(size_t samples, size_t actions, size_t events, size_t healths);
void store_batch_free(void *batch);

/* Body of MSG_STORE_WRITE. Every write adds its audit row in the same transaction. */
enum store_verb {
    /* kind, name, json; version: expected (If-Match), 0: any, UINT64_MAX: must be new */
    STORE_DOCUMENT_PUT,
    STORE_DOCUMENT_DELETE, /* kind, name, version */
    /* name: id; json: {"role","hash","name","expires_us"} (API tokens, hashed) */
    STORE_TOKEN_PUT,
    STORE_TOKEN_DELETE, /* name: id */
    /* name: id; json: {"key" (hex), "expires_us"} */
    STORE_ENROLMENT_PUT,
    /* name: id; json: {"gateway_id","key_id","key","gateway_name","tls_key"}: takes the token and
     * makes the credential in one transaction. The same gateway (and TLS key) may do so again,
     * which voids what it made before, until STORE_CREDENTIAL_CONFIRM; WEIR_E_NOT_FOUND when
     * another used it, expired or unknown */
    STORE_ENROLMENT_USE,
    /* name: key_id; json: {"gateway_id","gateway_name"}: the gateway has this credential. Its
     * others go, and its tokens are closed. WEIR_E_NOT_FOUND: it is not there. */
    STORE_CREDENTIAL_CONFIRM,
    /* name: new key_id; json: {"gateway_id","gateway_name","key","tls_key","old_key_id"}: the new
     * one in the place of all others of the gateway; WEIR_E_NOT_FOUND when the old is not
     * there. */
    STORE_CREDENTIAL_ROTATE,
    STORE_CREDENTIAL_DELETE, /* name: key_id */
    /* name: id hex; json: the gateway's record (state, names, first and last seen) */
    STORE_GATEWAY_PUT,
    STORE_GATEWAY_DELETE,
    /* name: id hex: the record, every credential of the gateway, whatever was made a moment ago,
     * and what is left of the tokens that it used; WEIR_E_NOT_FOUND when there was nothing. */
    STORE_GATEWAY_RETIRE,
    /* name: id hex; json: the record for when there is none yet. "admitted" is true from now on,
     * whatever is put, until it is deleted. */
    STORE_GATEWAY_ADMIT,
    /* The same with "drain": {"since_us", "deadline_us" (0: none)} of the record, which stays
     * whatever is put until the next of these two. */
    STORE_GATEWAY_DRAIN,
    STORE_GATEWAY_UNDRAIN,
    /* name: id hex; json: the record for when there is none yet, with "rekey": {"since_us"}: a new
     * key is ordered. One a gateway: an earlier order stays as it is. It stays whatever is put, and
     * goes with the next credential that the gateway gets, and with the record. Reply:
     * {"since_us"}; WEIR_E_NOT_FOUND: the gateway has no credential. */
    STORE_GATEWAY_REKEY,
    /* name: id hex: that order is withdrawn; WEIR_E_NOT_FOUND: none stands. */
    STORE_GATEWAY_UNREKEY,
    STORE_SETTING_PUT, /* name; json: any ("enforcement": {"on": true}) */
};
struct store_write {
    enum store_verb verb;
    char kind[32];
    char name[2 * NAME_SIZE];
    uint64_t version;
    json_t *json;          /* owned */
    char actor[NAME_SIZE]; /* for the audit: token's name, or "gateway:..." */
    bool forced;           /* a document put although it was refused; for the audit */
    int64_t wall_us;
};
/* Reply: status 0 with {"version": n, "created": bool}, or WEIR_E_CONFLICT ({"version": current}),
 * WEIR_E_NOT_FOUND, WEIR_E_UNAVAILABLE ({"words": why}). */
struct store_write *store_write_new(enum store_verb verb);
void store_write_free(void *write);

/* Body of MSG_STORE_QUERY. Reply: status 0 and a json_t array (STORE_STATUS: an object), or an
 * error code (WEIR_E_UNAVAILABLE, WEIR_E_TIMEOUT: longer than 2 s). Samples, actions, events, audit
 * and target history come exactly as docs/openapi.yaml has them: Sample, Action, Event, Audit,
 * ProbeSample. */
enum store_table {
    /* kind ("" all), name ("" all): [{"kind","name","version","updated_us","document":{...}}] */
    STORE_DOCUMENTS,
    STORE_TOKENS,      /* [{"id","name","role","hash","created_us","expires_us"}] */
    /* open and not expired: [{"id","key","expires_us","used_by" (a gateway's id)}] */
    STORE_ENROLMENTS,
    /* [{"key_id","key","gateway_id","gateway_name","created_us","tls_key","ordered_us" (0:
     * no new one is ordered)}] */
    STORE_CREDENTIALS,
    STORE_GATEWAYS,    /* [{"id","updated_us","gateway": as put}] */
    STORE_SETTINGS,    /* name ("" all): [{"name","updated_us","value": as put}] */
    /* name: stream key ("" all); from_us, to_us; rows oldest first; with from_us 0 the newest
     * `limit` of them. step_ms picks the roll-up: below 10 s, below 1 min, below 1 h, 1 h */
    STORE_SAMPLES,
    /* Newest first; "id" of the last as before_id gives the next page. name: of the victim or bully
     * ("" all) */
    STORE_ACTIONS,
    STORE_EVENTS, /* newest first, paged the same way; name: subject ("" all) */
    STORE_AUDIT,  /* newest first, paged the same way */
    /* name: target: the resource manager's probes; order and limit as for samples */
    STORE_TARGET_HISTORY,
    /* StoreStatus, and beside it "detail": {"backend","schema":{},"rows":{},"commits","lastCommit",
     * "reopened","queuedBytes","droppedKept","refused","writesWaiting"} */
    STORE_STATUS,
};
struct store_query {
    enum store_table table;
    char kind[32];
    char name[STREAM_KEY_SIZE];
    int64_t from_us, to_us; /* 0: open */
    uint32_t step_ms;
    uint64_t before_id;
    /* At most 10,000; 0: 100 for samples, actions, events, audit and target history, else all. */
    uint32_t limit;
    int64_t now_us; /* for expiry of enrolments; 0: the reader's own clock */
};
struct store_query *store_query_new(enum store_table table);
void store_query_free(void *query);

/* Opened before the threads start; makes the folder (0700) and files (0600), migrates. 0 or an
 * error code with words. */
struct store;
int store_open(const struct server_config *config, struct store **ret, char *ret_words,
               size_t size);
void store_close(struct store *s);

/* Thread bodies. */
struct store_thread {
    struct store *store;
    const struct threads *threads;
    size_t index; /* of a reader */
};
void *store_writer_main(void *store_thread);
void *store_reader_main(void *store_thread);

#endif

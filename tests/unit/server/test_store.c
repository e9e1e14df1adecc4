/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the database manager as its askers see it: confirmed means committed, nobody waits for
 * anybody, and what is bad about the database stays the database's.
 * Method: real writer and reader threads over real mailboxes and files; a second SQLite connection
 * plays the other program that locks or deletes. Bounds on time are generous; only orders and
 * counts are asserted. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "server/msg.h"
#include "store_fixture.h"

static int setup(void **state)
{
    struct fixture *f = malloc(sizeof(*f));
    fixture_init(f);
    fixture_start(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture_fini(*state);
    free(*state);
    return 0;
}

static json_int_t number(const json_t *object, const char *key)
{
    const json_t *n = json_object_get(object, key);
    assert_true(json_is_integer(n));
    return json_integer_value(n);
}

static const char *word(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    assert_non_null(s);
    return s;
}

static void put(struct fixture *f, const char *name, uint64_t expected, int status,
                json_int_t version)
{
    json_t *reply = NULL;
    assert_int_equal(fixture_write(f, fixture_document(name, expected, 1), &reply), status);
    assert_int_equal(number(reply, "version"), version);
    json_decref(reply);
}

static struct store_write *removal(const char *name, uint64_t expected)
{
    struct store_write *w = fixture_document(name, expected, 0);
    w->verb = STORE_DOCUMENT_DELETE;
    json_decref(w->json);
    w->json = NULL;
    return w;
}

static void a_document_is_changed_only_by_who_knows_its_version(void **state)
{
    struct fixture *f = *state;
    put(f, "gold", UINT64_MAX, 0, 1);
    put(f, "gold", UINT64_MAX, WEIR_E_CONFLICT, 1);
    put(f, "gold", 7, WEIR_E_CONFLICT, 1);
    put(f, "gold", 1, 0, 2);
    put(f, "gold", 1, WEIR_E_CONFLICT, 2);
    put(f, "gold", 0, 0, 3);
    put(f, "silver", 3, WEIR_E_CONFLICT, 0);
    json_t *all = fixture_table(f, STORE_DOCUMENTS, "");
    assert_int_equal(json_array_size(all), 1);
    const json_t *one = json_array_get(all, 0);
    assert_string_equal(word(one, "kind"), "Agreement");
    assert_int_equal(number(one, "version"), 3);
    assert_int_equal(number(json_object_get(json_object_get(one, "document"), "spec"), "n"), 1);
    json_decref(all);
}

static void a_version_is_never_given_twice_even_over_deletion(void **state)
{
    struct fixture *f = *state;
    put(f, "gold", 0, 0, 1);
    put(f, "gold", 0, 0, 2);
    assert_int_equal(fixture_write(f, removal("gold", 1), NULL), WEIR_E_CONFLICT);
    assert_int_equal(fixture_write(f, removal("gold", 2), NULL), 0);
    assert_int_equal(fixture_write(f, removal("gold", 0), NULL), WEIR_E_NOT_FOUND);
    put(f, "gold", UINT64_MAX, 0, 4);
}

static void every_write_leaves_an_audit_row_and_a_refused_one_none(void **state)
{
    struct fixture *f = *state;
    put(f, "gold", 0, 0, 1);
    put(f, "gold", 9, WEIR_E_CONFLICT, 1);
    assert_int_equal(fixture_write(f, removal("gold", 0), NULL), 0);
    json_t *audit = fixture_table(f, STORE_AUDIT, "");
    assert_int_equal(json_array_size(audit), 2);
    const json_t *newest = json_array_get(audit, 0);
    assert_string_equal(word(newest, "verb"), "document-delete");
    assert_string_equal(word(newest, "subject"), "agreement/gold");
    assert_string_equal(word(newest, "actor"), "tester");
    assert_int_equal(number(newest, "version"), 2);
    json_decref(audit);
}

static struct store_write *named(enum store_verb verb, const char *name, json_t *json)
{
    struct store_write *w = store_write_new(verb);
    snprintf(w->name, sizeof(w->name), "%s", name);
    snprintf(w->actor, sizeof(w->actor), "tester");
    w->json = json;
    w->wall_us = clock_wall_us();
    return w;
}

#define GW_A "0123456789abcdef0123456789abcdef"
#define GW_B "fedcba9876543210fedcba9876543210"

static void an_enrolment_token_works_for_one_gateway_and_not_beyond_its_time(void **state)
{
    struct fixture *f = *state;
    int64_t now = clock_wall_us();
    json_t *later =
        json_pack("{s:s, s:I}", "key", "aa", "expires_us", (json_int_t)(now + 3600000000));
    json_t *over = json_pack("{s:s, s:I}", "key", "bb", "expires_us", (json_int_t)(now - 1));
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_PUT, "t1", later), NULL), 0);
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_PUT, "t2", over), NULL), 0);
    json_t *open = fixture_table(f, STORE_ENROLMENTS, "");
    assert_int_equal(json_array_size(open), 1);
    assert_string_equal(word(json_array_get(open, 0), "key"), "aa");
    json_decref(open);
    json_t *use = json_pack("{s:s, s:s, s:s, s:s}", "gateway_id", GW_A, "key_id", "k1", "key",
                            "cc", "gateway_name", "gw1");
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t2", json_deep_copy(use)), NULL),
                     WEIR_E_NOT_FOUND);
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t1", json_deep_copy(use)), NULL),
                     0);
    json_object_set_new(use, "key_id", json_string("k2"));
    json_t *other = json_deep_copy(use);
    json_object_set_new(other, "gateway_id", json_string(GW_B));
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t1", other), NULL),
                     WEIR_E_NOT_FOUND);
    json_t *elsewhere = json_deep_copy(use); /* so it says; with another TLS key */
    json_object_set_new(elsewhere, "tls_key", json_string("ee"));
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t1", elsewhere), NULL),
                     WEIR_E_NOT_FOUND);
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t1", json_deep_copy(use)), NULL),
                     0); /* it did not hear of k1 */
    assert_int_equal(
        fixture_write(f, named(STORE_ENROLMENT_USE, "none", json_deep_copy(use)), NULL),
        WEIR_E_NOT_FOUND);
    json_t *keys = fixture_table(f, STORE_CREDENTIALS, "");
    assert_int_equal(json_array_size(keys), 1);
    assert_string_equal(word(json_array_get(keys, 0), "gateway_name"), "gw1");
    assert_string_equal(word(json_array_get(keys, 0), "key_id"), "k2");
    json_decref(keys);
    assert_int_equal(
        fixture_write(f, named(STORE_CREDENTIAL_CONFIRM, "k1", json_deep_copy(use)), NULL),
        WEIR_E_NOT_FOUND);
    assert_int_equal(
        fixture_write(f, named(STORE_CREDENTIAL_CONFIRM, "k2", json_deep_copy(use)), NULL), 0);
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t1", use), NULL),
                     WEIR_E_NOT_FOUND); /* it has k2 */
    assert_int_equal(fixture_write(f, named(STORE_CREDENTIAL_DELETE, "k2", NULL), NULL), 0);
    assert_int_equal(fixture_write(f, named(STORE_CREDENTIAL_DELETE, "k2", NULL), NULL),
                     WEIR_E_NOT_FOUND);
}

static void a_credential_is_followed_by_another_if_it_is_still_there(void **state)
{
    struct fixture *f = *state;
    json_int_t later = clock_wall_us() + 3600000000;
    json_t *token = json_pack("{s:s, s:I}", "key", "aa", "expires_us", later);
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_PUT, "t1", token), NULL), 0);
    json_t *use = json_pack("{s:s, s:s, s:s}", "gateway_id", GW_A, "key_id", "k1", "key", "cc");
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t1", use), NULL), 0);
    json_t *swap = json_pack("{s:s, s:s, s:s, s:s}", "gateway_id", GW_A, "gateway_name", "gw1",
                             "key", "dd", "old_key_id", "k0");
    assert_int_equal(
        fixture_write(f, named(STORE_CREDENTIAL_ROTATE, "k2", json_deep_copy(swap)), NULL),
        WEIR_E_NOT_FOUND);
    json_object_set_new(swap, "old_key_id", json_string("k1"));
    assert_int_equal(
        fixture_write(f, named(STORE_CREDENTIAL_ROTATE, "k2", json_deep_copy(swap)), NULL), 0);
    assert_int_equal(fixture_write(f, named(STORE_CREDENTIAL_ROTATE, "k3", swap), NULL),
                     WEIR_E_NOT_FOUND);
    json_t *keys = fixture_table(f, STORE_CREDENTIALS, "");
    assert_int_equal(json_array_size(keys), 1);
    assert_string_equal(word(json_array_get(keys, 0), "key_id"), "k2");
    assert_string_equal(word(json_array_get(keys, 0), "key"), "dd");
    json_decref(keys);
    json_t *open = fixture_table(f, STORE_ENROLMENTS, "");
    assert_int_equal(json_array_size(open), 0);
    json_decref(open);
}

static json_int_t ordered_of(struct fixture *f, const char *key_id)
{
    json_t *keys = fixture_table(f, STORE_CREDENTIALS, key_id);
    assert_int_equal(json_array_size(keys), 1);
    json_int_t us = json_integer_value(json_object_get(json_array_get(keys, 0), "ordered_us"));
    json_decref(keys);
    return us;
}

static int order(struct fixture *f, const char *id, json_int_t since, json_t **ret)
{
    json_t *record = json_pack("{s:s, s:s, s:{s:I}}", "id", id, "name", "gw1", "rekey", "since_us",
                               since);
    return fixture_write(f, named(STORE_GATEWAY_REKEY, id, record), ret);
}

static void a_new_key_is_ordered_once_and_the_order_ends_with_the_next_credential(void **state)
{
    struct fixture *f = *state;
    json_int_t later = clock_wall_us() + 3600000000;
    json_t *token = json_pack("{s:s, s:I}", "key", "aa", "expires_us", later), *reply = NULL;
    assert_int_equal(order(f, GW_A, 7, NULL), WEIR_E_NOT_FOUND); /* it has no key to change */
    json_t *records = fixture_table(f, STORE_GATEWAYS, "");
    assert_int_equal(json_array_size(records), 0);
    json_decref(records);
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_PUT, "t1", token), NULL), 0);
    json_t *use = json_pack("{s:s, s:s, s:s}", "gateway_id", GW_A, "key_id", "k1", "key", "cc");
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t1", use), NULL), 0);
    assert_int_equal(ordered_of(f, "k1"), 0);
    assert_int_equal(order(f, GW_A, 7, NULL), 0);
    assert_int_equal(order(f, GW_A, 9, &reply), 0);
    assert_int_equal(json_integer_value(json_object_get(reply, "since_us")), 7);
    json_decref(reply);
    json_t *put = json_pack("{s:s, s:s}", "id", GW_A, "name", "gw1"); /* it came, and was seen */
    assert_int_equal(fixture_write(f, named(STORE_GATEWAY_PUT, GW_A, put), NULL), 0);
    assert_int_equal(ordered_of(f, "k1"), 7);
    json_t *swap = json_pack("{s:s, s:s, s:s, s:s}", "gateway_id", GW_A, "gateway_name", "gw1",
                             "key", "dd", "old_key_id", "k0");
    assert_int_equal(
        fixture_write(f, named(STORE_CREDENTIAL_ROTATE, "k2", json_deep_copy(swap)), NULL),
        WEIR_E_NOT_FOUND);
    assert_int_equal(ordered_of(f, "k1"), 7); /* that wrote nothing */
    json_object_set_new(swap, "old_key_id", json_string("k1"));
    assert_int_equal(fixture_write(f, named(STORE_CREDENTIAL_ROTATE, "k2", swap), NULL), 0);
    assert_int_equal(ordered_of(f, "k2"), 0);
    assert_int_equal(order(f, GW_A, 11, NULL), 0);
    assert_int_equal(ordered_of(f, "k2"), 11);
    assert_int_equal(fixture_write(f, named(STORE_GATEWAY_UNREKEY, GW_A, NULL), NULL), 0);
    assert_int_equal(ordered_of(f, "k2"), 0);
    assert_int_equal(fixture_write(f, named(STORE_GATEWAY_UNREKEY, GW_A, NULL), NULL),
                     WEIR_E_NOT_FOUND);
    assert_int_equal(order(f, GW_A, 12, NULL), 0);
    assert_int_equal(ordered_of(f, "k2"), 12);
    assert_int_equal(fixture_write(f, named(STORE_GATEWAY_RETIRE, GW_A, NULL), NULL), 0);
    assert_int_equal(order(f, GW_A, 13, NULL), WEIR_E_NOT_FOUND);
}

static void one_that_is_retired_keeps_no_key_that_it_was_given_a_moment_ago(void **state)
{
    struct fixture *f = *state;
    json_int_t later = clock_wall_us() + 3600000000;
    json_t *token = json_pack("{s:s, s:I}", "key", "aa", "expires_us", later);
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_PUT, "t1", token), NULL), 0);
    json_t *use = json_pack("{s:s, s:s, s:s}", "gateway_id", GW_A, "key_id", "k1", "key", "cc");
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t1", json_deep_copy(use)), NULL),
                     0);
    json_t *swap = json_pack("{s:s, s:s, s:s, s:s}", "gateway_id", GW_A, "gateway_name", "gw1",
                             "key", "dd", "old_key_id", "k1");
    /* A rotation that nobody who retires could have heard of, before it; one after it. */
    assert_int_equal(
        fixture_write(f, named(STORE_CREDENTIAL_ROTATE, "k2", json_deep_copy(swap)), NULL), 0);
    assert_int_equal(fixture_write(f, named(STORE_GATEWAY_RETIRE, GW_A, NULL), NULL), 0);
    json_object_set_new(swap, "old_key_id", json_string("k2"));
    assert_int_equal(fixture_write(f, named(STORE_CREDENTIAL_ROTATE, "k3", swap), NULL),
                     WEIR_E_NOT_FOUND);
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t1", use), NULL),
                     WEIR_E_NOT_FOUND); /* with the token it once used */
    json_t *keys = fixture_table(f, STORE_CREDENTIALS, "");
    assert_int_equal(json_array_size(keys), 0);
    json_decref(keys);
    assert_int_equal(fixture_write(f, named(STORE_GATEWAY_RETIRE, GW_B, NULL), NULL),
                     WEIR_E_NOT_FOUND);
}

static void a_used_enrolment_whose_credential_cannot_be_made_stays_unused(void **state)
{
    struct fixture *f = *state;
    json_int_t later = clock_wall_us() + 3600000000;
    for (int i = 0; i < 2; i++) {
        char id[8];
        snprintf(id, sizeof(id), "t%d", i);
        json_t *token = json_pack("{s:s, s:I}", "key", "aa", "expires_us", later);
        assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_PUT, id, token), NULL), 0);
    }
    json_t *use = json_pack("{s:s, s:s, s:s}", "gateway_id", GW_A, "key_id", "same", "key", "cc");
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t0", json_deep_copy(use)), NULL),
                     0);
    json_object_set_new(use, "gateway_id", json_string(GW_B));
    assert_int_equal(fixture_write(f, named(STORE_ENROLMENT_USE, "t1", use), NULL), WEIR_E_EXISTS);
    json_t *open = fixture_table(f, STORE_ENROLMENTS, "");
    assert_int_equal(json_array_size(open), 2);
    assert_string_equal(word(json_array_get(open, 0), "used_by"), GW_A);
    assert_string_equal(word(json_array_get(open, 1), "id"), "t1");
    assert_null(json_object_get(json_array_get(open, 1), "used_by"));
    json_decref(open);
}

/* Of the one gateway that is there, "gw1". */
static bool gateway_admitted(struct fixture *f)
{
    json_t *rows = fixture_table(f, STORE_GATEWAYS, "");
    assert_int_equal(json_array_size(rows), 1);
    const json_t *record = json_object_get(json_array_get(rows, 0), "gateway");
    assert_string_equal(word(record, "name"), "gw1");
    bool admitted = json_is_true(json_object_get(record, "admitted"));
    json_decref(rows);
    return admitted;
}

static int64_t gateway_drain_since(struct fixture *f)
{
    json_t *rows = fixture_table(f, STORE_GATEWAYS, "");
    const json_t *record = json_object_get(json_array_get(rows, 0), "gateway");
    int64_t since =
        json_integer_value(json_object_get(json_object_get(record, "drain"), "since_us"));
    json_decref(rows);
    return since;
}

static void tokens_settings_and_gateways_come_back_as_put(void **state)
{
    struct fixture *f = *state;
    json_t *token = json_pack("{s:s, s:s, s:s, s:i}", "name", "ci", "role", "viewer", "hash", "h",
                              "expires_us", 0);
    assert_int_equal(fixture_write(f, named(STORE_TOKEN_PUT, "id1", token), NULL), 0);
    assert_int_equal(fixture_write(f, named(STORE_TOKEN_PUT, "id2", json_object()), NULL),
                     WEIR_E_INVALID);
    assert_int_equal(
        fixture_write(f, named(STORE_SETTING_PUT, "enforcement", json_pack("{s:b}", "on", 1)),
                      NULL),
        0);
    assert_int_equal(
        fixture_write(f, named(STORE_GATEWAY_PUT, "00ff", json_pack("{s:s}", "name", "gw1")), NULL),
        0);
    json_t *rows = fixture_table(f, STORE_TOKENS, "");
    assert_int_equal(json_array_size(rows), 1);
    assert_string_equal(word(json_array_get(rows, 0), "role"), "viewer");
    json_decref(rows);
    rows = fixture_table(f, STORE_SETTINGS, "enforcement");
    assert_int_equal(json_array_size(rows), 1);
    assert_true(
        json_is_true(json_object_get(json_object_get(json_array_get(rows, 0), "value"), "on")));
    json_decref(rows);
    rows = fixture_table(f, STORE_GATEWAYS, "");
    assert_int_equal(json_array_size(rows), 1);
    assert_string_equal(word(json_object_get(json_array_get(rows, 0), "gateway"), "name"), "gw1");
    json_decref(rows);
    assert_false(gateway_admitted(f));
    assert_int_equal(
        fixture_write(f, named(STORE_GATEWAY_ADMIT, "00ff", json_pack("{s:s}", "name", "x")), NULL),
        0);
    assert_true(gateway_admitted(f));
    assert_int_equal(fixture_write(f,
                                   named(STORE_GATEWAY_PUT, "00ff",
                                         json_pack("{s:s, s:b}", "name", "gw1", "admitted", 0)),
                                   NULL),
                     0);
    assert_true(gateway_admitted(f)); /* said before the admission, written after it */
    assert_int_equal(gateway_drain_since(f), 0);
    json_t *drained = json_pack("{s:s, s:{s:i, s:i}}", "name", "x", "drain", "since_us", 77,
                                "deadline_us", 0);
    assert_int_equal(fixture_write(f, named(STORE_GATEWAY_DRAIN, "00ff", drained), NULL), 0);
    assert_int_equal(gateway_drain_since(f), 77);
    assert_int_equal(fixture_write(f,
                                   named(STORE_GATEWAY_PUT, "00ff",
                                         json_pack("{s:s, s:b}", "name", "gw1", "admitted", 0)),
                                   NULL),
                     0);
    assert_int_equal(gateway_drain_since(f), 77); /* services write what they know, not this */
    assert_true(gateway_admitted(f));
    json_t *undrained = json_pack("{s:s, s:n}", "name", "x", "drain");
    assert_int_equal(fixture_write(f, named(STORE_GATEWAY_UNDRAIN, "00ff", undrained), NULL), 0);
    assert_int_equal(gateway_drain_since(f), 0);
    assert_true(gateway_admitted(f));
    assert_int_equal(fixture_write(f, named(STORE_TOKEN_DELETE, "id1", NULL), NULL), 0);
    assert_int_equal(fixture_write(f, named(STORE_GATEWAY_DELETE, "00ff", NULL), NULL), 0);
    rows = fixture_table(f, STORE_TOKENS, "");
    assert_int_equal(json_array_size(rows), 0);
    json_decref(rows);
}

static void everything_is_there_again_after_a_restart(void **state)
{
    struct fixture *f = *state;
    struct store_batch *b = store_batch_new(2, 1, 1, 1);
    fixture_sample(&b->sample[0], "10.0.0.7", clock_wall_us() - 2000000, 100, 900);
    fixture_sample(&b->sample[1], "10.0.0.7", clock_wall_us() - 1000000, 200, 900);
    fixture_action(&b->action[0], (uint64_t)clock_wall_us());
    fixture_event(&b->event[0], clock_wall_us(), 1);
    snprintf(b->health[0].target, sizeof(b->health[0].target), "array1");
    b->health[0] = (struct target_health){.target = "array1",
                                          .uri = "nbd://h",
                                          .reachable = true,
                                          .size = 1 << 20,
                                          .wall_us = clock_wall_us(),
                                          .probe_latency_us = 210,
                                          .connect_latency_us = 900};
    fixture_append(f, b);
    put(f, "gold", 0, 0, 1);
    fixture_stop(f); /* drains */
    fixture_start(f);
    json_t *rows = fixture_table(f, STORE_SAMPLES, "10.0.0.7/db");
    assert_int_equal(json_array_size(rows), 2);
    assert_int_equal(number(json_array_get(rows, 0), "iops"), 100);
    assert_int_equal(number(json_array_get(rows, 1), "iops"), 200);
    assert_string_equal(word(json_array_get(rows, 1), "stream"), "10.0.0.7/db");
    json_decref(rows);
    rows = fixture_table(f, STORE_ACTIONS, "10.0.0.9/batch");
    assert_int_equal(json_array_size(rows), 1);
    assert_int_equal(number(json_object_get(json_array_get(rows, 0), "to"), "iops"), 4000);
    assert_true(
        json_is_null(json_object_get(json_object_get(json_array_get(rows, 0), "from"), "iops")));
    json_decref(rows);
    rows = fixture_table(f, STORE_EVENTS, "");
    assert_int_equal(json_array_size(rows), 1);
    assert_string_equal(word(json_array_get(rows, 0), "severity"), "warning");
    json_decref(rows);
    rows = fixture_table(f, STORE_TARGET_HISTORY, "array1");
    assert_int_equal(json_array_size(rows), 1);
    assert_int_equal(number(json_array_get(rows, 0), "latencyUs"), 210);
    json_decref(rows);
    rows = fixture_table(f, STORE_DOCUMENTS, "gold");
    assert_int_equal(json_array_size(rows), 1);
    json_decref(rows);
}

static void pages_of_events_and_actions_meet_without_gap_or_overlap(void **state)
{
    struct fixture *f = *state;
    struct store_batch *b = store_batch_new(0, 250, 250, 0);
    int64_t now = clock_wall_us();
    for (int i = 0; i < 250; i++) {
        fixture_event(&b->event[i], now + i, i);
        /* Two processes may choose one id: both actions are kept. */
        fixture_action(&b->action[i], (uint64_t)(now + i / 2));
        snprintf(b->action[i].reason, sizeof(b->action[i].reason), "reason %d", i);
    }
    fixture_append(f, b);
    fixture_drained(f);
    const enum store_table tables[] = {STORE_EVENTS, STORE_ACTIONS};
    for (int t = 0; t < 2; t++) {
        uint64_t before = 0, seen = 0, last = UINT64_MAX;
        for (;;) {
            struct store_query *q = store_query_new(tables[t]);
            json_t *page = NULL;
            q->limit = 40;
            q->before_id = before;
            assert_int_equal(fixture_query(f, q, &page), 0);
            size_t n = json_array_size(page);
            for (size_t i = 0; i < n; i++) {
                before = strtoull(word(json_array_get(page, i), "id"), NULL, 10);
                assert_true(before < last);
                last = before;
            }
            seen += n;
            json_decref(page);
            if (n < 40)
                break;
        }
        assert_int_equal(seen, 250);
    }
}

static sqlite3 *lock_by_another(struct fixture *f, const char *name)
{
    char path[600];
    sqlite3 *other = NULL;
    snprintf(path, sizeof(path), "%s/%s", f->config.state_dir, name);
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    sqlite3_busy_timeout(other, 10000);
    assert_int_equal(sqlite3_exec(other, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
    return other;
}

static void unlock(sqlite3 *other)
{
    assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(other), SQLITE_OK);
}

static void a_locked_database_loses_nothing_and_keeps_nobody_waiting(void **state)
{
    struct fixture *f = *state;
    put(f, "gold", 0, 0, 1);
    sqlite3 *state_lock = lock_by_another(f, "state.db"),
            *samples_lock = lock_by_another(f, "samples.db");
    int64_t base = clock_wall_us() - 100000000;
    uint64_t begun = clock_mono_ns(), ticket = fixture_ask_write(f, fixture_document("gold", 1, 2));
    int sent = 0;
    /* Trouble is said after one second; the write that waits is answered after five at most. */
    while (clock_mono_ns() - begun < 2 * NS_PER_S) {
        struct store_batch *b = store_batch_new(10, 0, 1, 0);
        for (int i = 0; i < 10; i++)
            fixture_sample(&b->sample[i], "h", base + (sent * 10 + i) * 1000, 1, 900);
        fixture_event(&b->event[0], base, sent);
        struct msg m = {.kind = MSG_STORE_APPEND, .body = b, .body_free = store_batch_free};
        /* Never full: the writer takes what comes, whatever the database does. */
        assert_int_equal(mailbox_post(f->client, f->threads.store_writer, &m), 0);
        sent++;
        usleep(10000); /* not more rows than one query reads in its time under a sanitizer */
    }
    /* Readers go on meanwhile, and say what is wrong. */
    json_t *status = fixture_status(f);
    while (!json_is_false(json_object_get(status, "ok"))) {
        assert_true(clock_mono_ns() - begun < 5 * NS_PER_S);
        json_decref(status);
        usleep(10000);
        status = fixture_status(f);
    }
    assert_true(number(status, "queued") > 0);
    json_decref(status);
    json_t *rows = fixture_table(f, STORE_DOCUMENTS, "gold");
    assert_int_equal(number(json_array_get(rows, 0), "version"), 1);
    json_decref(rows);
    unlock(state_lock);
    unlock(samples_lock);
    uint64_t answered = 0;
    json_t *reply = NULL;
    assert_int_equal(fixture_wait(f, &answered, &reply), 0);
    assert_int_equal(answered, ticket);
    assert_int_equal(number(reply, "version"), 2);
    json_decref(reply);
    fixture_drained(f);
    rows = fixture_table(f, STORE_SAMPLES, "h/db");
    assert_int_equal(json_array_size(rows), sent * 10 < 10000 ? sent * 10 : 10000);
    json_decref(rows);
    rows = fixture_table(f, STORE_EVENTS, "stream/h/v");
    assert_int_equal(json_array_size(rows), sent);
    json_decref(rows);
    status = fixture_status(f);
    assert_true(json_is_true(json_object_get(status, "ok")));
    assert_int_equal(number(status, "dropped"), 0);
    json_decref(status);
    /* The trouble itself is on record. */
    rows = fixture_table(f, STORE_EVENTS, "store/database");
    assert_true(json_array_size(rows) >= 2);
    json_decref(rows);
    struct mailbox_stats stats;
    mailbox_stats(f->threads.set, mailbox_id(f->threads.store_writer), &stats);
    assert_true(stats.busy_ns_max < 5 * NS_PER_S);
}

static void a_write_that_cannot_be_committed_is_answered_and_then_never_happens(void **state)
{
    struct fixture *f = *state;
    sqlite3 *lock = lock_by_another(f, "state.db");
    json_t *reply = NULL;
    assert_int_equal(fixture_write(f, fixture_document("gold", 0, 1), &reply), WEIR_E_UNAVAILABLE);
    assert_non_null(strstr(word(reply, "words"), "lock"));
    json_decref(reply);
    unlock(lock);
    put(f, "silver", 0, 0, 1);
    json_t *rows = fixture_table(f, STORE_DOCUMENTS, "gold");
    assert_int_equal(json_array_size(rows), 0);
    json_decref(rows);
}

static void remove_file(struct fixture *f, const char *name)
{
    char path[600];
    snprintf(path, sizeof(path), "%s/%s", f->config.state_dir, name);
    assert_int_equal(unlink(path), 0);
}

static void a_deleted_database_is_made_anew_and_said_so(void **state)
{
    struct fixture *f = *state;
    put(f, "gold", 0, 0, 1);
    remove_file(f, "state.db");
    put(f, "silver", 0, 0, 1);
    json_t *rows = fixture_table(f, STORE_DOCUMENTS, "");
    assert_int_equal(json_array_size(rows), 1);
    assert_string_equal(word(json_array_get(rows, 0), "name"), "silver");
    json_decref(rows);
    fixture_drained(f);
    rows = fixture_table(f, STORE_EVENTS, "store/database");
    assert_int_equal(json_array_size(rows), 1);
    assert_string_equal(word(json_array_get(rows, 0), "kind"), "store-recreated");
    json_decref(rows);
    fixture_stop(f);
    fixture_start(f);
    rows = fixture_table(f, STORE_DOCUMENTS, "");
    assert_int_equal(json_array_size(rows), 1);
    json_decref(rows);
}

static void a_deleted_folder_is_made_anew(void **state)
{
    struct fixture *f = *state;
    put(f, "gold", 0, 0, 1);
    char command[700];
    snprintf(command, sizeof(command), "rm -r '%s'", f->config.state_dir);
    assert_int_equal(system(command), 0);
    put(f, "silver", 0, 0, 1);
    json_t *rows = fixture_table(f, STORE_DOCUMENTS, "silver");
    assert_int_equal(json_array_size(rows), 1);
    json_decref(rows);
}

static void files_are_for_their_owner_alone(void **state)
{
    struct fixture *f = *state;
    put(f, "gold", 0, 0, 1);
    const char *const names[] = {"",
                                 "/state.db",
                                 "/state.db-wal",
                                 "/state.db-shm",
                                 "/samples.db",
                                 "/samples.db-wal",
                                 "/store.lock"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[600];
        struct stat st;
        snprintf(path, sizeof(path), "%s%s", f->config.state_dir, names[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, i == 0 ? 0700 : 0600);
    }
}

static void a_second_server_on_the_same_folder_is_refused_with_words(void **state)
{
    struct fixture *f = *state;
    struct store *second = NULL;
    char words[300];
    assert_int_equal(store_open(&f->config, &second, words, sizeof(words)), WEIR_E_EXISTS);
    assert_non_null(strstr(words, "another weir-server"));
}

static void many_writes_at_once_are_each_answered_with_their_own_version(void **state)
{
    struct fixture *f = *state;
    uint64_t tickets[500];
    bool seen[501] = {false};
    for (int i = 0; i < 500; i++)
        tickets[i] = fixture_ask_write(f, fixture_document("busy", 0, i));
    for (int i = 0; i < 500; i++) {
        uint64_t ticket = 0;
        json_t *reply = NULL;
        assert_int_equal(fixture_wait(f, &ticket, &reply), 0);
        assert_int_equal(ticket, tickets[i]); /* in order */
        json_int_t version = number(reply, "version");
        assert_in_range(version, 1, 500);
        assert_false(seen[version]);
        seen[version] = true;
        json_decref(reply);
    }
    json_t *status = fixture_status(f);
    /* Group commit: far fewer commits than writes. */
    assert_true(number(json_object_get(status, "detail"), "commits") < 500);
    json_decref(status);
}

#define T(a_test_name) cmocka_unit_test_setup_teardown(a_test_name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_document_is_changed_only_by_who_knows_its_version),
        T(a_version_is_never_given_twice_even_over_deletion),
        T(every_write_leaves_an_audit_row_and_a_refused_one_none),
        T(an_enrolment_token_works_for_one_gateway_and_not_beyond_its_time),
        T(a_credential_is_followed_by_another_if_it_is_still_there),
        T(a_new_key_is_ordered_once_and_the_order_ends_with_the_next_credential),
        T(one_that_is_retired_keeps_no_key_that_it_was_given_a_moment_ago),
        T(a_used_enrolment_whose_credential_cannot_be_made_stays_unused),
        T(tokens_settings_and_gateways_come_back_as_put),
        T(everything_is_there_again_after_a_restart),
        T(pages_of_events_and_actions_meet_without_gap_or_overlap),
        T(a_locked_database_loses_nothing_and_keeps_nobody_waiting),
        T(a_write_that_cannot_be_committed_is_answered_and_then_never_happens),
        T(a_deleted_database_is_made_anew_and_said_so),
        T(a_deleted_folder_is_made_anew),
        T(files_are_for_their_owner_alone),
        T(a_second_server_on_the_same_folder_is_refused_with_words),
        T(many_writes_at_once_are_each_answered_with_their_own_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: roll-ups say what all their I/Os together say, nothing is aged out before it is rolled up,
 * late rows count, and a database of every earlier version is read.
 * Method: the SQLite backend driven directly with a made-up clock; sums and histograms are made a
 * second time by the test from what it put in, and compared. Random numbers from a printed seed
 * (WEIR_SEED to replay). */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"
#include "server/store/backend.h"
#include "server/store/sqlite_schema.h"
#include "store_fixture.h"

#define SECOND INT64_C(1000000)
#define HOUR   (3600 * SECOND)
#define DAY    (24 * HOUR)
/* 2026-11-23T06:00:00Z, the start of an hour. */
#define T0 INT64_C(1795413600000000)

struct bench {
    struct fixture f;
    struct store_backend *b;
    struct store_ages ages;
    struct rng rng;
};

static int setup(void **state)
{
    struct bench *t = calloc(1, sizeof(*t));
    char words[300];
    fixture_init(&t->f);
    t->ages = (struct store_ages){.keep_us = {2 * HOUR, DAY, 14 * DAY, 400 * DAY}};
    int rc =
        sqlite_backend_open(t->f.config.state_dir, STORE_ACCESS_WRITE, &t->b, words, sizeof(words));
    if (rc != 0)
        fail_msg("%s", words);
    const char *given = getenv("WEIR_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : clock_mono_ns();
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_seed(&t->rng, seed);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct bench *t = *state;
    t->b->ops->close(t->b);
    fixture_fini(&t->f);
    free(t);
    return 0;
}

static void put(struct bench *t, const struct sample_record *s, size_t n)
{
    assert_int_equal(t->b->ops->begin(t->b, STORE_PART_SAMPLES), 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(t->b->ops->sample(t->b, &s[i]), 0);
    assert_int_equal(t->b->ops->commit(t->b, STORE_PART_SAMPLES), 0);
}

/* All that is due at @now. */
static void maintain(struct bench *t, int64_t now)
{
    bool more = true;
    for (int i = 0; more; i++) {
        more = false;
        assert_true(i < 100000);
        assert_int_equal(t->b->ops->maintain(t->b, &t->ages, now, &more), 0);
    }
}

static json_t *history(struct bench *t, const char *key, uint32_t step_ms, int64_t from, int64_t to)
{
    struct store_query q = {
        .table = STORE_SAMPLES, .step_ms = step_ms, .from_us = from, .to_us = to, .limit = 10000};
    json_t *rows = NULL;
    snprintf(q.name, sizeof(q.name), "%s", key);
    assert_int_equal(t->b->ops->query(t->b, &q, &rows), 0);
    return rows;
}

static size_t rows_of(struct bench *t, const char *table)
{
    struct store_query q = {.table = STORE_STATUS};
    json_t *status = NULL;
    assert_int_equal(t->b->ops->query(t->b, &q, &status), 0);
    json_t *n = json_object_get(json_object_get(json_object_get(status, "detail"), "rows"), table);
    assert_true(json_is_integer(n));
    size_t rows = (size_t)json_integer_value(n);
    json_decref(status);
    return rows;
}

/* A sample whose I/Os fall into a few buckets anywhere up to 50 ms. */
static void random_sample(struct bench *t, struct sample_record *s, const char *host,
                          int64_t wall_us)
{
    struct hist *h = calloc(1, sizeof(*h));
    uint32_t ios = (uint32_t)rng_below(&t->rng, 60);
    fixture_sample(s, host, wall_us, ios, 1);
    uint64_t scale = 1 + rng_below(&t->rng, 50000000);
    for (uint32_t i = 0; i < ios; i++)
        hist_record(h, rng_below(&t->rng, scale));
    s->bucket_count = 0;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        if (h->bucket[i] == 0)
            continue;
        s->bucket[s->bucket_count].index = (uint16_t)i;
        s->bucket[s->bucket_count++].count = (uint32_t)h->bucket[i];
    }
    s->max_us = h->max_ns / 1000;
    s->total_us_sum = h->sum_ns / 1000;
    s->write_ops = rng_below(&t->rng, 10);
    s->held_p99_us = rng_below(&t->rng, 1000);
    s->errors = rng_below(&t->rng, 3);
    s->inflight = (uint32_t)rng_below(&t->rng, 32);
    free(h);
}

static json_int_t number(const json_t *row, const char *key)
{
    const json_t *n = json_object_get(row, key);
    assert_true(json_is_integer(n));
    return json_integer_value(n);
}

/* One row against the samples that end in (end - width, end]. */
static void check_row(const json_t *row, const struct sample_record *s, size_t n, const char *host,
                      int64_t end, int64_t width)
{
    struct hist *h = calloc(1, sizeof(*h));
    uint64_t reads = 0, writes = 0, errors = 0, ms = 0, max = 0, held_p99 = 0, inflight = 0;
    char at[32];
    for (size_t i = 0; i < n; i++) {
        if (strcmp(s[i].host, host) != 0 || s[i].wall_us <= end - width || s[i].wall_us > end)
            continue;
        for (uint32_t k = 0; k < s[i].bucket_count; k++) {
            h->bucket[s[i].bucket[k].index] += s[i].bucket[k].count;
            h->count += s[i].bucket[k].count;
        }
        reads += s[i].read_ops;
        writes += s[i].write_ops;
        errors += s[i].errors;
        ms += s[i].interval_ms;
        max = s[i].max_us > max ? s[i].max_us : max;
        held_p99 = s[i].held_p99_us > held_p99 ? s[i].held_p99_us : held_p99;
        inflight = s[i].inflight;
    }
    h->max_ns = max * 1000;
    clock_format_wall(end, at, sizeof(at));
    assert_string_equal(json_string_value(json_object_get(row, "at")), at);
    assert_int_equal(number(row, "p50Us"), hist_quantile(h, 0.5) / 1000);
    assert_int_equal(number(row, "p99Us"), hist_quantile(h, 0.99) / 1000);
    assert_int_equal(number(row, "maxUs"), max);
    assert_int_equal(number(row, "heldP99Us"), held_p99);
    assert_int_equal(number(row, "errors"), errors);
    assert_int_equal(number(row, "inflight"), inflight);
    assert_int_equal(number(row, "readIops"),
                     (json_int_t)((double)reads * 1000 / (double)ms + 0.5));
    assert_int_equal(number(row, "iops"),
                     (json_int_t)((double)(reads + writes) * 1000 / (double)ms + 0.5));
    free(h);
}

static void check_level(struct bench *t, const struct sample_record *s, size_t n, const char *host,
                        int64_t width, int64_t from, int64_t to)
{
    char key[64];
    snprintf(key, sizeof(key), "%s/db", host);
    json_t *rows = history(t, key, (uint32_t)(width / 1000), from + 1, to);
    assert_int_equal(json_array_size(rows), (to - from) / width);
    for (size_t i = 0; i < json_array_size(rows); i++)
        check_row(json_array_get(rows, i), s, n, host, from + (int64_t)(i + 1) * width, width);
    json_decref(rows);
}

#define HOSTS   3
#define SECONDS 7200

static struct sample_record *two_hours(struct bench *t, int64_t from)
{
    struct sample_record *s = calloc(HOSTS * SECONDS, sizeof(*s));
    for (size_t i = 0; i < SECONDS; i++) {
        for (size_t h = 0; h < HOSTS; h++) {
            char host[16];
            snprintf(host, sizeof(host), "h%zu", h);
            random_sample(t, &s[i * HOSTS + h], host, from + (int64_t)(i + 1) * SECOND);
        }
    }
    return s;
}

static void a_rolled_up_percentile_is_that_of_all_its_ios(void **state)
{
    struct bench *t = *state;
    struct sample_record *s = two_hours(t, T0);
    const size_t n = HOSTS * SECONDS;
    /* Come in and rolled up minute by minute, as in life. */
    for (size_t i = 0; i < n; i += HOSTS * 60) {
        put(t, s + i, HOSTS * 60);
        maintain(t, s[i + HOSTS * 60 - 1].wall_us);
    }
    maintain(t, T0 + 2 * HOUR + 60 * SECOND);
    for (int h = 0; h < HOSTS; h++) {
        char host[16];
        snprintf(host, sizeof(host), "h%d", h);
        check_level(t, s, n, host, 10 * SECOND, T0, T0 + 2 * HOUR);
        check_level(t, s, n, host, 60 * SECOND, T0, T0 + 2 * HOUR);
        check_level(t, s, n, host, HOUR, T0, T0 + 2 * HOUR);
    }
    free(s);
}

static void a_window_is_not_rolled_up_before_it_is_over(void **state)
{
    struct bench *t = *state;
    struct sample_record s;
    fixture_sample(&s, "h", T0 + SECOND, 10, 900);
    put(t, &s, 1);
    maintain(t, T0 + 10 * SECOND);
    assert_int_equal(rows_of(t, "samples_10s"), 0);
    maintain(t, T0 + 26 * SECOND);
    assert_int_equal(rows_of(t, "samples_10s"), 1);
    assert_int_equal(rows_of(t, "samples_1min"), 0);
}

static void rows_age_out_only_after_they_were_rolled_up(void **state)
{
    struct bench *t = *state;
    struct sample_record *s = two_hours(t, T0);
    put(t, s, HOSTS * SECONDS);
    /* A day later at once: everything of the first level is too old, and none of it is rolled up
     * yet. */
    maintain(t, T0 + 23 * HOUR);
    assert_int_equal(rows_of(t, "samples_1s"), 0);
    assert_int_equal(rows_of(t, "samples_10s"), HOSTS * SECONDS / 10);
    check_level(t, s, HOSTS * SECONDS, "h0", 10 * SECOND, T0, T0 + 2 * HOUR);
    maintain(t, T0 + 13 * DAY);
    assert_int_equal(rows_of(t, "samples_10s"), 0);
    check_level(t, s, HOSTS * SECONDS, "h1", 60 * SECOND, T0, T0 + 2 * HOUR);
    maintain(t, T0 + 300 * DAY);
    assert_int_equal(rows_of(t, "samples_1min"), 0);
    check_level(t, s, HOSTS * SECONDS, "h2", HOUR, T0, T0 + 2 * HOUR);
    assert_int_equal(rows_of(t, "series"), HOSTS);
    maintain(t, T0 + 401 * DAY);
    maintain(t, T0 + 401 * DAY);
    assert_int_equal(rows_of(t, "samples_1h"), 0);
    assert_int_equal(rows_of(t, "series"), 0); /* names that nobody uses go too */
    free(s);
}

static void a_late_sample_counts_in_every_level(void **state)
{
    struct bench *t = *state;
    struct sample_record *s = two_hours(t, T0);
    const size_t n = HOSTS * SECONDS, late = HOSTS * 1000 + 1;
    struct sample_record kept = s[late];
    /* Without it first; everything is rolled up. */
    s[late].host[0] = 'x';
    put(t, s, n);
    maintain(t, T0 + 2 * HOUR + 60 * SECOND);
    s[late] = kept;
    put(t, &kept, 1);
    maintain(t, T0 + 2 * HOUR + 61 * SECOND);
    check_level(t, s, n, "h1", 10 * SECOND, T0, T0 + 2 * HOUR);
    check_level(t, s, n, "h1", 60 * SECOND, T0, T0 + 2 * HOUR);
    check_level(t, s, n, "h1", HOUR, T0, T0 + 2 * HOUR);
    free(s);
}

static void a_late_sample_of_a_window_whose_rows_have_gone_is_added_to_it(void **state)
{
    struct bench *t = *state;
    struct sample_record *s = two_hours(t, T0);
    const size_t n = HOSTS * SECONDS, late = HOSTS * 1000 + 1;
    struct sample_record kept = s[late];
    s[late].host[0] = 'x';
    put(t, s, n);
    maintain(t, T0 + 13 * DAY); /* only minutes and hours are left */
    kept.inflight =
        s[HOSTS * SECONDS - HOSTS + 1].inflight; /* the last to be added speaks for "now" */
    put(t, &kept, 1);
    maintain(t, T0 + 13 * DAY);
    struct sample_record *all = calloc(n, sizeof(*all));
    memcpy(all, s, n * sizeof(*all));
    all[late] = kept;
    json_t *rows = history(t, "h1/db", 3600000, T0 + 1, T0 + 2 * HOUR);
    assert_int_equal(json_array_size(rows), 2);
    check_row(json_array_get(rows, 0), all, n, "h1", T0 + HOUR, HOUR);
    json_decref(rows);
    free(all);
    free(s);
}

static void a_clock_that_was_years_ahead_stops_no_roll_up(void **state)
{
    struct bench *t = *state;
    struct sample_record *s = two_hours(t, T0);
    struct sample_record ahead;
    fixture_sample(&ahead, "h0", T0 + 1000 * DAY, 10, 900);
    put(t, &ahead, 1);
    maintain(t, T0 + 1000 * DAY + HOUR);
    put(t, s, HOSTS * SECONDS);
    maintain(t, T0 + 2 * HOUR + 60 * SECOND);
    check_level(t, s, HOSTS * SECONDS, "h0", 10 * SECOND, T0, T0 + 2 * HOUR);
    check_level(t, s, HOSTS * SECONDS, "h0", HOUR, T0, T0 + 2 * HOUR);
    free(s);
}

static void an_open_beginning_gives_the_newest_rows_in_order_of_time(void **state)
{
    struct bench *t = *state;
    struct sample_record s[50];
    for (int i = 0; i < 50; i++)
        fixture_sample(&s[i], i % 2 ? "a" : "b", T0 + i * SECOND, (uint32_t)i, 900);
    put(t, s, 50);
    struct store_query q = {.table = STORE_SAMPLES, .limit = 5, .step_ms = 1000};
    json_t *rows = NULL;
    assert_int_equal(t->b->ops->query(t->b, &q, &rows), 0);
    assert_int_equal(json_array_size(rows), 5);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(number(json_array_get(rows, i), "iops"), 45 + (json_int_t)i);
    json_decref(rows);
    snprintf(q.name, sizeof(q.name), "a/db");
    q.from_us = T0;
    assert_int_equal(t->b->ops->query(t->b, &q, &rows), 0);
    assert_int_equal(json_array_size(rows), 5);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(number(json_array_get(rows, i), "iops"), 1 + 2 * (json_int_t)i);
    json_decref(rows);
    snprintf(q.name, sizeof(q.name), "no-slash");
    assert_int_equal(t->b->ops->query(t->b, &q, &rows), 0);
    assert_int_equal(json_array_size(rows), 0);
    json_decref(rows);
}

static void events_actions_and_probes_age_out(void **state)
{
    struct bench *t = *state;
    struct target_health h = {.target = "array1", .uri = "nbd://h"};
    assert_int_equal(t->b->ops->begin(t->b, STORE_PART_STATE), 0);
    assert_int_equal(t->b->ops->begin(t->b, STORE_PART_SAMPLES), 0);
    for (int i = 0; i < 1200; i++) {
        struct event_record e;
        struct action_record a;
        fixture_event(&e, T0 + i * SECOND, i);
        fixture_action(&a, (uint64_t)(T0 + i * SECOND));
        h.wall_us = T0 + i * SECOND;
        assert_int_equal(t->b->ops->event(t->b, &e), 0);
        assert_int_equal(t->b->ops->action(t->b, &a), 0);
        assert_int_equal(t->b->ops->health(t->b, &h), 0);
    }
    assert_int_equal(t->b->ops->commit(t->b, STORE_PART_STATE), 0);
    assert_int_equal(t->b->ops->commit(t->b, STORE_PART_SAMPLES), 0);
    maintain(t, T0 + DAY);
    assert_int_equal(rows_of(t, "events"), 1200);
    assert_int_equal(rows_of(t, "target_probes"), 1200);
    maintain(t, T0 + 400 * DAY + 1000 * SECOND);
    assert_int_equal(rows_of(t, "events"), 200);
    assert_int_equal(rows_of(t, "actions"), 200);
    assert_int_equal(rows_of(t, "target_probes"), 0);
}

/* --- versions --- */

static void load_dump(struct fixture *f, const char *dump, const char *name)
{
    char path[600], *sql = NULL;
    size_t len = 0;
    sqlite3 *db = NULL;
    assert_int_equal(store_folder_make(f->config.state_dir), 0);
    snprintf(path, sizeof(path), "%s/%s", TEST_DATA, dump);
    assert_int_equal(text_read_file(path, 1 << 20, &sql, &len), 0);
    snprintf(path, sizeof(path), "%s/%s", f->config.state_dir, name);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    char *words = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &words) != SQLITE_OK)
        fail_msg("%s: %s", dump, words);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    free(sql);
}

static int64_t schema_version(struct fixture *f, const char *name)
{
    char path[600];
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    snprintf(path, sizeof(path), "%s/%s", f->config.state_dir, name);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(db, "SELECT max(version) FROM schema_version", -1, &stmt, NULL),
        SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    int64_t version = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return version;
}

static void a_database_of_version_1_is_migrated_and_keeps_what_it_holds(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    load_dump(&f, "store_state_v1.sql", "state.db");
    load_dump(&f, "store_samples_v1.sql", "samples.db");
    f.config.keep_1s_ns = f.config.keep_10s_ns = f.config.keep_1min_ns = f.config.keep_1h_ns =
        UINT64_MAX / 4;
    fixture_start(&f);
    static const struct {
        enum store_table table;
        const char *name;
        size_t rows;
    } c[] = {
        {STORE_DOCUMENTS, "gold", 1},        {STORE_TOKENS, "", 1},
        {STORE_CREDENTIALS, "", 1},          {STORE_GATEWAYS, "", 1},
        {STORE_SETTINGS, "enforcement", 1},  {STORE_ACTIONS, "", 1},
        {STORE_EVENTS, "stream/h/v", 1},     {STORE_AUDIT, "gold", 2},
        {STORE_TARGET_HISTORY, "array1", 1}, {STORE_SAMPLES, "10.0.0.7/db", 2},
    };
    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        json_t *rows = fixture_table(&f, c[i].table, c[i].name);
        assert_int_equal(json_array_size(rows), c[i].rows);
        json_decref(rows);
    }
    json_t *reply = NULL;
    assert_int_equal(fixture_write(&f, fixture_document("gold", 2, 9), &reply), 0);
    assert_int_equal(number(reply, "version"), 3);
    json_decref(reply);
    fixture_stop(&f);
    assert_int_equal(schema_version(&f, "state.db"), SQLITE_STATE_VERSION);
    assert_int_equal(schema_version(&f, "samples.db"), SQLITE_SAMPLES_VERSION);
    fixture_fini(&f);
}

static void a_database_of_a_newer_weir_is_refused_with_words(void **state)
{
    (void)state;
    struct fixture f;
    struct store *s = NULL;
    char words[400];
    fixture_init(&f);
    fixture_start(&f);
    fixture_stop(&f);
    char path[600];
    sqlite3 *db = NULL;
    snprintf(path, sizeof(path), "%s/state.db", f.config.state_dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db, "INSERT INTO schema_version VALUES(999, 0)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(store_open(&f.config, &s, words, sizeof(words)), WEIR_E_VERSION);
    assert_non_null(strstr(words, "made by a newer Weir"));
    fixture_fini(&f);
}

static void a_file_that_is_no_database_is_refused_with_words(void **state)
{
    (void)state;
    struct fixture f;
    struct store *s = NULL;
    char words[400], path[600], junk[8192];
    fixture_init(&f);
    assert_int_equal(store_folder_make(f.config.state_dir), 0);
    memset(junk, 'j', sizeof(junk));
    snprintf(path, sizeof(path), "%s/state.db", f.config.state_dir);
    assert_int_equal(text_write_file_atomic(path, junk, sizeof(junk), 0600), 0);
    assert_int_equal(store_open(&f.config, &s, words, sizeof(words)), WEIR_E_UNAVAILABLE);
    assert_non_null(strstr(words, "move it away")); /* what to do */
    assert_non_null(strstr(words, "state.db"));
    assert_non_null(strstr(words, "not a database"));
    fixture_fini(&f);
}

#define T(a_test_name) cmocka_unit_test_setup_teardown(a_test_name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_rolled_up_percentile_is_that_of_all_its_ios),
        T(a_window_is_not_rolled_up_before_it_is_over),
        T(rows_age_out_only_after_they_were_rolled_up),
        T(a_late_sample_counts_in_every_level),
        T(a_late_sample_of_a_window_whose_rows_have_gone_is_added_to_it),
        T(a_clock_that_was_years_ahead_stops_no_roll_up),
        T(an_open_beginning_gives_the_newest_rows_in_order_of_time),
        T(events_actions_and_probes_age_out),
        cmocka_unit_test(a_database_of_version_1_is_migrated_and_keeps_what_it_holds),
        cmocka_unit_test(a_database_of_a_newer_weir_is_refused_with_words),
        cmocka_unit_test(a_file_that_is_no_database_is_refused_with_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

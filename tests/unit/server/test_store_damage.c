/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: damage to the samples costs the samples and nothing else, damage to the state stops the
 * start, and what is no damage is not touched.
 * Method: a real store is filled and stopped, its files are overwritten, cut and replaced on disk,
 * and it is started again; or they are overwritten while it runs, under a writer that has what it
 * needs in memory. */
#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "store_fixture.h"

#define ROWS 400

static void path_of(const struct fixture *f, const char *name, char *out, size_t size)
{
    snprintf(out, size, "%s/%s", f->config.state_dir, name);
}

/* How many files are called *.damaged-*, logs aside. */
static unsigned damaged_files(const struct fixture *f)
{
    unsigned n = 0;
    DIR *d = opendir(f->config.state_dir);
    const struct dirent *e;
    assert_non_null(d);
    while ((e = readdir(d)) != NULL)
        n += strncmp(e->d_name, "samples.db.damaged-", 19) == 0 && !strstr(e->d_name, "-wal");
    closedir(d);
    return n;
}

static void fill(struct fixture *f)
{
    int64_t now = clock_wall_us();
    struct store_batch *b = store_batch_new(ROWS, 0, 0, 0);
    assert_non_null(b);
    for (unsigned i = 0; i < ROWS; i++)
        fixture_sample(&b->sample[i], "host", now - 1000000 * (int64_t)(ROWS - i), 1000, 200 + i);
    fixture_append(f, b);
    assert_int_equal(fixture_write(f, fixture_document("gold", 0, 1), NULL), 0);
    fixture_drained(f);
}

static size_t rows_of(struct fixture *f, enum store_table table, const char *name)
{
    json_t *rows = fixture_table(f, table, name);
    size_t n = json_array_size(rows);
    json_decref(rows);
    return n;
}

/* How often the log of events has @kind. */
static unsigned events(struct fixture *f, const char *kind)
{
    unsigned n = 0;
    fixture_drained(f);
    json_t *rows = fixture_table(f, STORE_EVENTS, "store/database");
    for (size_t i = 0; i < json_array_size(rows); i++)
        n += strcmp(json_string_value(json_object_get(json_array_get(rows, i), "kind")), kind) == 0;
    json_decref(rows);
    return n;
}

/* Overwrite what lies behind the first @from bytes, a page in @each; or cut it off there (0). */
static void damage(const struct fixture *f, const char *name, off_t from, unsigned each)
{
    char path[600], junk[4096];
    struct stat st;
    path_of(f, name, path, sizeof(path));
    memset(junk, 0x5a, sizeof(junk));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size > from);
    if (each == 0)
        assert_int_equal(ftruncate(fd, from), 0);
    for (off_t at = from; each > 0 && at < st.st_size; at += each * (off_t)sizeof(junk))
        assert_int_equal(pwrite(fd, junk, sizeof(junk), at), sizeof(junk));
    close(fd);
}

static int setup(void **state)
{
    static struct fixture f;
    fixture_init(&f);
    fixture_start(&f);
    fill(&f);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    fixture_fini(*state);
    return 0;
}

/* Agreements are there, the samples are gone, that is told, and new ones are kept. */
static void check_begun_anew(struct fixture *f)
{
    assert_int_equal(rows_of(f, STORE_DOCUMENTS, "gold"), 1);
    assert_int_equal(rows_of(f, STORE_SAMPLES, ""), 0);
    assert_int_equal(events(f, "store-samples-damaged"), 1);
    assert_int_equal(events(f, "store-recreated"), 0);
    assert_int_equal(damaged_files(f), 1);
    struct store_batch *b = store_batch_new(1, 0, 0, 0);
    fixture_sample(&b->sample[0], "host", clock_wall_us(), 10, 300);
    fixture_append(f, b);
    fixture_drained(f);
    assert_int_equal(rows_of(f, STORE_SAMPLES, ""), 1);
}

static void samples_whose_pages_are_overwritten_are_set_aside_at_the_start(void **state)
{
    struct fixture *f = *state;
    fixture_stop(f);
    damage(f, "samples.db", 4096, 2);
    fixture_start(f);
    check_begun_anew(f);
}

static void samples_that_are_cut_short_are_set_aside_at_the_start(void **state)
{
    struct fixture *f = *state;
    fixture_stop(f);
    damage(f, "samples.db", 3 * 4096 + 100, 0);
    fixture_start(f);
    check_begun_anew(f);
}

static void samples_that_are_no_database_are_set_aside_and_one_such_file_is_kept(void **state)
{
    struct fixture *f = *state;
    fixture_stop(f);
    damage(f, "samples.db", 0, 2);
    char old[600];
    path_of(f, "samples.db.damaged-20200101T000000Z", old, sizeof(old));
    int fd = open(old, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    fixture_start(f);
    check_begun_anew(f);
    assert_int_equal(access(old, F_OK), -1);
    fixture_stop(f);
    fixture_start(f);
    assert_int_equal(events(f, "store-samples-damaged"), 1);
    assert_int_equal(rows_of(f, STORE_SAMPLES, ""), 1);
}

static void damage_that_a_reader_meets_while_it_runs_is_set_aside_too(void **state)
{
    struct fixture *f = *state;
    fixture_stop(f);
    fixture_start(f);
    damage(f, "samples.db", 4096, 1);
    uint64_t end = clock_mono_ns() + 30 * NS_PER_S;
    while (fixture_query(f, store_query_new(STORE_SAMPLES), NULL) != 0 || damaged_files(f) == 0) {
        assert_true(clock_mono_ns() < end);
        usleep(20000);
    }
    check_begun_anew(f);
}

static void refuse(struct fixture *f, int code, const char *name, const char *words)
{
    char text[800];
    assert_int_equal(store_open(&f->config, &f->store, text, sizeof(text)), code);
    if (strstr(text, name) == NULL || strstr(text, words) == NULL)
        fail_msg("\"%s\" lacks \"%s\" or \"%s\"", text, name, words);
    f->store = NULL;
    assert_int_equal(damaged_files(f), 0);
}

static void a_state_that_is_damaged_stops_the_start_and_stays_where_it_is(void **state)
{
    struct fixture *f = *state;
    fixture_stop(f);
    damage(f, "state.db", 4096, 2);
    refuse(f, WEIR_E_UNAVAILABLE, "state.db", "restore it from a copy");
    refuse(f, WEIR_E_UNAVAILABLE, "state.db", "malformed");
}

static void change(const struct fixture *f, const char *sql)
{
    char path[600];
    sqlite3 *db = NULL;
    path_of(f, "samples.db", path, sizeof(path));
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void samples_of_a_newer_weir_or_of_another_program_are_no_damage(void **state)
{
    struct fixture *f = *state;
    char path[600];
    fixture_stop(f);
    change(f, "INSERT INTO schema_version VALUES(999, 0)");
    refuse(f, WEIR_E_VERSION, "samples.db", "made by a newer Weir");
    path_of(f, "samples.db", path, sizeof(path));
    assert_int_equal(unlink(path), 0);
    change(f, "PRAGMA application_id = 77; PRAGMA user_version = 1");
    refuse(f, WEIR_E_REFUSED, "samples.db", "another program's database");
    assert_int_equal(unlink(path), 0);
    change(f, "CREATE TABLE theirs(x)");
    refuse(f, WEIR_E_REFUSED, "samples.db", "another program's database");
    assert_int_equal(unlink(path), 0);
    fixture_start(f);
    assert_int_equal(rows_of(f, STORE_DOCUMENTS, "gold"), 1);
}

#define T(a_test_name) cmocka_unit_test_setup_teardown(a_test_name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(samples_whose_pages_are_overwritten_are_set_aside_at_the_start),
        T(samples_that_are_cut_short_are_set_aside_at_the_start),
        T(samples_that_are_no_database_are_set_aside_and_one_such_file_is_kept),
        T(damage_that_a_reader_meets_while_it_runs_is_set_aside_too),
        T(a_state_that_is_damaged_stops_the_start_and_stays_where_it_is),
        T(samples_of_a_newer_weir_or_of_another_program_are_no_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

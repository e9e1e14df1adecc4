/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what was confirmed is there after kill -9 at any moment, and after the disk was full.
 * Method: a child process runs the whole store and writes documents as fast as it can, telling each
 * confirmed version through a pipe; the parent kills it at random moments, again and again over the
 * same files, then looks for every confirmed version and checks the databases' integrity. The full
 * disk is a file size limit that is lifted later. */
#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "store_fixture.h"

#define ROUNDS   25
#define NAMES    7
#define PARALLEL 20

struct confirmed {
    uint32_t name;
    uint32_t version;
};

/* The child: PARALLEL writes under way, samples and events between them, until killed. */
static _Noreturn void write_for_ever(struct fixture *f, int pipe_fd)
{
    uint64_t ticket_of[PARALLEL];
    uint32_t name_of[PARALLEL], next_name = 0;
    fixture_start(f);
    for (int i = 0; i < PARALLEL; i++)
        ticket_of[i] = 0;
    for (;;) {
        for (int i = 0; i < PARALLEL; i++) {
            if (ticket_of[i] != 0)
                continue;
            char name[16];
            name_of[i] = next_name++ % NAMES;
            snprintf(name, sizeof(name), "doc%u", name_of[i]);
            ticket_of[i] = fixture_ask_write(f, fixture_document(name, 0, i));
        }
        struct store_batch *b = store_batch_new(20, 1, 1, 0);
        for (int i = 0; i < 20; i++)
            fixture_sample(&b->sample[i], "h", clock_wall_us() + i, 10, 900);
        fixture_action(&b->action[0], (uint64_t)clock_wall_us());
        fixture_event(&b->event[0], clock_wall_us(), 1);
        fixture_append(f, b);
        uint64_t ticket = 0;
        json_t *reply = NULL;
        if (fixture_wait(f, &ticket, &reply) != 0)
            _exit(3);
        for (int i = 0; i < PARALLEL; i++) {
            if (ticket_of[i] != ticket)
                continue;
            struct confirmed c = {
                .name = name_of[i],
                .version = (uint32_t)json_integer_value(json_object_get(reply, "version"))};
            if (write(pipe_fd, &c, sizeof(c)) != sizeof(c))
                _exit(4);
            ticket_of[i] = 0;
        }
        json_decref(reply);
    }
}

static size_t run_and_kill(struct fixture *f, struct rng *r, struct confirmed *confirmed,
                           size_t max)
{
    int fds[2];
    size_t n = 0;
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(fds[0]);
        write_for_ever(f, fds[1]);
    }
    close(fds[1]);
    /* Not before the first confirmation, so that each round has done something; then at any
     * moment. */
    bool killed = false;
    while (n < max) {
        ssize_t got = read(fds[0], &confirmed[n], sizeof(confirmed[n]));
        if (got != sizeof(confirmed[n]))
            break;
        n++;
        if (!killed) {
            usleep((useconds_t)rng_below(r, 60000));
            kill(child, SIGKILL);
            killed = true;
        }
    }
    close(fds[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
    assert_true(n > 0);
    return n;
}

static void check_integrity(struct fixture *f, const char *name)
{
    char path[600];
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    snprintf(path, sizeof(path), "%s/%s", f->config.state_dir, name);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(stmt, 0), "ok");
    sqlite3_finalize(stmt);
    sqlite3_close(db);
}

static bool has_version(sqlite3_stmt *stmt, const struct confirmed *c)
{
    char name[16];
    snprintf(name, sizeof(name), "doc%u", c->name);
    sqlite3_reset(stmt);
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int(stmt, 2, (int)c->version);
    return sqlite3_step(stmt) == SQLITE_ROW;
}

static void nothing_confirmed_is_lost_by_kill_9(void **state)
{
    (void)state;
    struct fixture f;
    struct rng r;
    const char *given = getenv("WEIR_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : clock_mono_ns();
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_seed(&r, seed);
    fixture_init(&f);
    const size_t max = 200000;
    struct confirmed *confirmed = calloc(max, sizeof(*confirmed));
    size_t n = 0;
    for (int round = 0; round < ROUNDS; round++) {
        n += run_and_kill(&f, &r, confirmed + n, max - n);
        check_integrity(&f, "state.db");
        check_integrity(&f, "samples.db");
    }
    print_message("%zu confirmed writes in %d lives\n", n, ROUNDS);
    char path[600];
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    snprintf(path, sizeof(path), "%s/state.db", f.config.state_dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    /* The last HISTORY_KEEP versions are kept; older ones are behind the current one. */
    assert_int_equal(
        sqlite3_prepare_v2(db,
                           "SELECT 1 FROM documents WHERE kind = 'Agreement' AND name = ?1"
                           " AND version >= ?2 AND (version >= ?2 + 1000 OR EXISTS (SELECT 1 FROM"
                           " document_history AS h WHERE h.kind = 'Agreement' AND h.name = ?1"
                           " AND h.version = ?2))",
                           -1, &stmt, NULL),
        SQLITE_OK);
    for (size_t i = 0; i < n; i++)
        if (!has_version(stmt, &confirmed[i]))
            fail_msg("doc%u version %u was confirmed and is gone", confirmed[i].name,
                     confirmed[i].version);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    /* And it is still a store: it opens, and versions go on. */
    fixture_start(&f);
    json_t *rows = fixture_table(&f, STORE_DOCUMENTS, "");
    assert_int_equal(json_array_size(rows), NAMES);
    json_decref(rows);
    free(confirmed);
    fixture_fini(&f);
}

static struct store_write *large_document(int i)
{
    char name[16], *filler = calloc(1, 200001);
    snprintf(name, sizeof(name), "big%d", i);
    struct store_write *w = fixture_document(name, 0, i);
    memset(filler, 'f', 200000);
    json_object_set_new(w->json, "filler", json_string(filler));
    free(filler);
    return w;
}

static void
a_full_disk_loses_nothing_that_was_confirmed_and_what_waits_is_written_later(void **state)
{
    (void)state;
    struct fixture f;
    struct rlimit before, small;
    fixture_init(&f);
    fixture_start(&f);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 3 << 20;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int ok = 0;
    while (ok < 200 && fixture_write(&f, large_document(ok), NULL) == 0)
        ok++;
    assert_in_range(ok, 1, 199);
    /* A document did not fit, and small rows might where it did not. From now on nothing does. */
    small.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    struct store_batch *b = store_batch_new(100, 0, 50, 0);
    for (int i = 0; i < 100; i++)
        fixture_sample(&b->sample[i], "h", clock_wall_us() + i, 10, 900);
    for (int i = 0; i < 50; i++)
        fixture_event(&b->event[i], clock_wall_us(), i);
    fixture_append(&f, b);
    bool fails = false;
    for (int i = 0; i < 600 && !fails; i++) { /* a minute */
        usleep(100000);
        json_t *status = fixture_status(&f);
        fails = json_is_false(json_object_get(status, "ok"));
        json_decref(status);
    }
    assert_true(fails);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    fixture_drained(&f);
    json_t *rows = fixture_table(&f, STORE_DOCUMENTS, "");
    size_t there = json_array_size(rows);
    json_decref(rows);
    assert_int_equal(there, ok); /* all that was confirmed, and not the one that was not */
    rows = fixture_table(&f, STORE_EVENTS, "stream/h/v");
    assert_int_equal(json_array_size(rows), 50);
    json_decref(rows);
    rows = fixture_table(&f, STORE_SAMPLES, "h/db");
    assert_int_equal(json_array_size(rows), 100);
    json_decref(rows);
    fixture_stop(&f);
    check_integrity(&f, "state.db");
    check_integrity(&f, "samples.db");
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_confirmed_is_lost_by_kill_9),
        cmocka_unit_test(
            a_full_disk_loses_nothing_that_was_confirmed_and_what_waits_is_written_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Roll-up and ageing, in slices.
 *
 * Problem: samples of a second are too many to keep, and an average of percentiles is a lie.
 * Model: each level's rows are made from the level below: counts and sums are added, histograms are
 * merged and the percentiles are taken anew from the merged histogram, so that p99 of an hour is
 * the p99 of all its I/Os (within the bucket's width). Of latency held and latency in the target
 * only percentiles are kept: their greatest is taken, an upper bound. A window (end - width, end]
 * is made once it has been over for a grace time, stream by stream; how far a level has come is
 * rollup.done_us. One call does one slice of at most SQLITE_SLICE series or rows, so that the
 * writer is never away for long.
 *
 * Invariants
 *  1. Making a window again gives the same rows (INSERT OR REPLACE from the rows below).
 *  2. Rows are aged out only below the next level's done_us: nothing leaves before it has been
 *     rolled up.
 *  3. A row that comes late (the clock stepped back) takes done_us back to before its window. If
 *     rows of that window have been aged out already (aged_us), it is merged into the rows above
 *     instead. Lateness costs work, not truth.
 *  4. A window at work is abandoned when done_us is taken back below it: sqlite_rollup starts again
 *     from done_us. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/store/blob.h"
#include "server/store/sqlite_backend.h"

#define SECOND_US INT64_C(1000000)
#define DAY_US    (86400 * SECOND_US)
/* Rows may be so late without being "late". */
#define GRACE_US (15 * SECOND_US)
/* Actions, events and audit rows: kept as long as hourly samples, and at most so many. */
#define LOG_KEEP_ROWS 1000000

const int64_t sqlite_level_us[STORE_LEVELS] = {0, 10 * SECOND_US, 60 * SECOND_US, 3600 * SECOND_US};

static int64_t floor_to(int64_t us, int64_t width)
{
    int64_t rest = us % width;
    return us - (rest < 0 ? rest + width : rest);
}

/* The end of the window that a row at @us belongs to: it stands at the end of its own period. */
static int64_t window_end(int64_t us, int64_t width)
{
    return floor_to(us - 1, width) + width;
}

/* How far a level has come, and up to where the rows below it have been aged out. */
struct progress {
    int64_t done_us, aged_us;
};

static int get_progress(struct sqlite_db *d, unsigned level, struct progress *ret)
{
    static const char sql[] = "SELECT done_us, aged_us FROM rollup WHERE level = ?";
    *ret = (struct progress){.done_us = INT64_MIN, .aged_us = INT64_MIN};
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int(stmt, 1, (int)level);
    int rc = sqlite_db_step(d, stmt);
    if (rc == 1)
        *ret = (struct progress){.done_us = sqlite3_column_int64(stmt, 0),
                                 .aged_us = sqlite3_column_int64(stmt, 1)};
    sqlite3_reset(stmt);
    return rc < 0 ? rc : 0;
}

static int set_progress(struct sqlite_db *d, unsigned level, const struct progress *p)
{
    static const char sql[] =
        "INSERT OR REPLACE INTO rollup(level, done_us, aged_us) VALUES(?, ?, ?)";
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int(stmt, 1, (int)level);
    sqlite3_bind_int64(stmt, 2, p->done_us);
    sqlite3_bind_int64(stmt, 3, p->aged_us);
    return sqlite_db_run(d, stmt);
}

static int set_done(struct sqlite_db *d, unsigned level, int64_t us)
{
    struct progress p;
    int rc = get_progress(d, level, &p);
    p.done_us = us;
    return rc == 0 ? set_progress(d, level, &p) : rc;
}

/* The earliest row behind @after of the level below; 1, 0 when there is none. */
static int first_below(struct sqlite_db *d, unsigned level, int64_t after, int64_t *ret_us)
{
    static const char *const sql[STORE_LEVELS] = {
        NULL,
        "SELECT min(wall_us) FROM samples_1s WHERE wall_us > ?",
        "SELECT min(wall_us) FROM samples_10s WHERE wall_us > ?",
        "SELECT min(wall_us) FROM samples_1min WHERE wall_us > ?",
    };
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql[level]);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, after);
    return sqlite_db_number(d, stmt, ret_us);
}

/* Everything of one series in one window, added up. */
struct sum {
    struct sample_record s;
    struct hist hist;
    uint64_t interval_ms;
    int rows;
};

static void sum_add(struct sum *sum, const struct sample_record *s)
{
    struct sample_record *t = &sum->s;
    sum->interval_ms += s->interval_ms;
    t->read_ops += s->read_ops;
    t->write_ops += s->write_ops;
    t->other_ops += s->other_ops;
    t->errors += s->errors;
    t->arrivals += s->arrivals;
    t->read_bytes += s->read_bytes;
    t->write_bytes += s->write_bytes;
    t->held_ops += s->held_ops;
    t->held_us_sum += s->held_us_sum;
    t->target_us_sum += s->target_us_sum;
    t->total_us_sum += s->total_us_sum;
    t->max_us = s->max_us > t->max_us ? s->max_us : t->max_us;
    t->held_p99_us = s->held_p99_us > t->held_p99_us ? s->held_p99_us : t->held_p99_us;
    t->target_p99_us = s->target_p99_us > t->target_p99_us ? s->target_p99_us : t->target_p99_us;
    /* What is, not what was: the last one holds. */
    t->inflight = s->inflight;
    t->held_now = s->held_now;
    sum->rows++;
}

static void sum_settle(struct sum *sum)
{
    sum->s.interval_ms = sum->interval_ms > UINT32_MAX ? UINT32_MAX : (uint32_t)sum->interval_ms;
    sum->hist.max_ns = sum->s.max_us * 1000;
    sum->s.p50_us = hist_quantile(&sum->hist, 0.5) / 1000;
    sum->s.p99_us = hist_quantile(&sum->hist, 0.99) / 1000;
}

/* Add the row that a statement stands at: the columns, then the histogram. */
static int sum_row(struct sqlite_db *d, sqlite3_stmt *stmt, struct sum *sum)
{
    struct sample_record s;
    sqlite_sample_column(stmt, 0, &s);
    sum_add(sum, &s);
    const void *blob = sqlite3_column_blob(stmt, SQLITE_SAMPLE_NUMBERS);
    int n = sqlite3_column_bytes(stmt, SQLITE_SAMPLE_NUMBERS);
    if (blob != NULL && blob_merge(&sum->hist, blob, (size_t)n) == 0)
        return 0;
    d->broken = true; /* not what we wrote */
    return WEIR_E_UNAVAILABLE;
}

static int sum_window(struct sqlite_db *d, unsigned level, int64_t series, int64_t end,
                      struct sum *sum)
{
#define SELECT_FROM(table)                                                                         \
    "SELECT " SQLITE_SAMPLE_COLUMNS ", hist FROM " table                                           \
    " WHERE series = ? AND wall_us > ? AND wall_us <= ? ORDER BY wall_us"
    static const char *const sql[STORE_LEVELS] = {
        NULL, SELECT_FROM("samples_1s"), SELECT_FROM("samples_10s"), SELECT_FROM("samples_1min")};
    memset(sum, 0, sizeof(*sum));
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql[level]);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, series);
    sqlite3_bind_int64(stmt, 2, end - sqlite_level_us[level]);
    sqlite3_bind_int64(stmt, 3, end);
    int rc;
    while ((rc = sqlite_db_step(d, stmt)) == 1) {
        rc = sum_row(d, stmt, sum);
        if (rc != 0)
            break;
    }
    sqlite3_reset(stmt);
    return rc;
}

static int put_sum(struct sqlite_db *d, unsigned level, int64_t series, int64_t end,
                   const struct sum *sum)
{
#define INSERT_INTO(table)                                                                         \
    "INSERT OR REPLACE INTO " table "(wall_us, series, " SQLITE_SAMPLE_COLUMNS ", hist)"           \
    " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    static const char *const sql[STORE_LEVELS] = {
        NULL, INSERT_INTO("samples_10s"), INSERT_INTO("samples_1min"), INSERT_INTO("samples_1h")};
    uint8_t blob[BLOB_MAX];
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql[level]);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    size_t n = blob_from_hist(&sum->hist, blob);
    sqlite3_bind_int64(stmt, 1, end);
    sqlite3_bind_int64(stmt, 2, series);
    sqlite_sample_bind(stmt, 3, &sum->s);
    sqlite3_bind_blob(stmt, 3 + SQLITE_SAMPLE_NUMBERS, blob, (int)n, SQLITE_STATIC);
    return sqlite_db_run(d, stmt);
}

/* A row below @level came or changed at @wall_us. If its window is made already: have it made
 * again. 1: nothing is left to do; 0: the window cannot be made again, since rows of it have been
 * aged out. */
static int make_again(struct sqlite_db *d, unsigned level, int64_t wall_us)
{
    struct progress p;
    if (level >= STORE_LEVELS)
        return 1;
    int rc = get_progress(d, level, &p);
    if (rc != 0)
        return rc;
    int64_t start = window_end(wall_us, sqlite_level_us[level]) - sqlite_level_us[level];
    if (wall_us > p.done_us)
        return 1;
    if (start < p.aged_us)
        return 0;
    rc = set_done(d, level, start);
    return rc < 0 ? rc : 1;
}

/* The row of a window as it stands, as a sum of one; rows 0: there is none. */
static int get_sum(struct sqlite_db *d, unsigned level, int64_t series, int64_t end,
                   struct sum *sum)
{
#define SELECT_ONE(table)                                                                          \
    "SELECT " SQLITE_SAMPLE_COLUMNS ", hist FROM " table " WHERE wall_us = ? AND series = ?"
    static const char *const sql[STORE_LEVELS] = {
        NULL, SELECT_ONE("samples_10s"), SELECT_ONE("samples_1min"), SELECT_ONE("samples_1h")};
    memset(sum, 0, sizeof(*sum));
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql[level]);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, end);
    sqlite3_bind_int64(stmt, 2, series);
    int rc = sqlite_db_step(d, stmt);
    if (rc == 1)
        rc = sum_row(d, stmt, sum);
    sqlite3_reset(stmt);
    return rc;
}

static int merge_late(struct sqlite_db *d, unsigned level, int64_t series,
                      const struct sample_record *s)
{
    int64_t end = window_end(s->wall_us, sqlite_level_us[level]);
    struct sum *sum = malloc(sizeof(*sum));
    if (sum == NULL)
        return WEIR_E_UNAVAILABLE;
    int rc = get_sum(d, level, series, end, sum);
    if (rc == 0) {
        sum_add(sum, s);
        for (uint32_t i = 0; i < s->bucket_count; i++) {
            sum->hist.bucket[s->bucket[i].index] += s->bucket[i].count;
            sum->hist.count += s->bucket[i].count;
        }
        sum_settle(sum);
        rc = put_sum(d, level, series, end, sum);
    }
    free(sum);
    return rc;
}

int sqlite_rollup_late(struct sqlite_db *d, int64_t series, const struct sample_record *s)
{
    for (unsigned level = 1; level < STORE_LEVELS; level++) {
        int rc = make_again(d, level, s->wall_us);
        if (rc != 0)
            return rc < 0 ? rc : 0;
        rc = merge_late(d, level, series, s);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* Up to SQLITE_SLICE series of the window at work; *@ret_last: it is done. */
static int roll_series(struct sqlite_db *d, unsigned level, struct sqlite_rollup *at,
                       struct sum *sum, bool *ret_last)
{
    static const char sql[] = "SELECT id FROM series WHERE id > ? ORDER BY id LIMIT 1";
    *ret_last = false;
    for (int i = 0; i < SQLITE_SLICE; i++) {
        int64_t series = 0;
        sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
        if (stmt == NULL)
            return WEIR_E_UNAVAILABLE;
        sqlite3_bind_int64(stmt, 1, at->series);
        int rc = sqlite_db_number(d, stmt, &series);
        if (rc == 0)
            *ret_last = true;
        if (rc != 1)
            return rc;
        rc = sum_window(d, level, series, at->window_end_us, sum);
        if (rc == 0 && sum->rows > 0) {
            sum_settle(sum);
            rc = put_sum(d, level, series, at->window_end_us, sum);
            if (rc == 0)
                rc = make_again(d, level + 1, at->window_end_us);
        }
        if (rc < 0)
            return rc;
        at->series = series;
    }
    return 0;
}

/* Choose the window to work at. 1 when there is one. */
static int choose_window(struct sqlite_db *d, unsigned level, struct sqlite_rollup *at,
                         int64_t now_us)
{
    int64_t width = sqlite_level_us[level], limit = floor_to(now_us - GRACE_US, width), first = 0;
    struct progress p, below;
    int rc = get_progress(d, level, &p);
    if (rc != 0)
        return rc;
    int64_t done = p.done_us;
    if (level > 1) { /* the level below must have come so far */
        rc = get_progress(d, level - 1, &below);
        if (rc != 0 || below.done_us == INT64_MIN)
            return rc;
        limit = floor_to(below.done_us, width) < limit ? floor_to(below.done_us, width) : limit;
    }
    if (at->window_end_us != 0 && at->window_end_us - width >= done && at->window_end_us <= limit)
        return 1;
    *at = (struct sqlite_rollup){.window_end_us = 0};
    rc = first_below(d, level, done, &first);
    if (rc < 0)
        return rc;
    int64_t end = window_end(first, width);
    if (rc == 1 && end <= limit) {
        at->window_end_us = end;
        return 1;
    }
    /* Nothing there up to the limit: that is done too. */
    return limit > done ? set_done(d, level, limit) : 0;
}

static int roll_up(struct sqlite_backend *s, unsigned level, int64_t now_us, bool *ret_more)
{
    struct sqlite_db *d = &s->db[STORE_PART_SAMPLES];
    struct sqlite_rollup *at = &s->rollup[level];
    int rc = choose_window(d, level, at, now_us);
    if (rc != 1)
        return rc;
    struct sum *sum = malloc(sizeof(*sum));
    if (sum == NULL)
        return WEIR_E_UNAVAILABLE;
    bool last = false;
    rc = roll_series(d, level, at, sum, &last);
    free(sum);
    if (rc != 0)
        return rc;
    if (last) {
        rc = set_done(d, level, at->window_end_us);
        *at = (struct sqlite_rollup){.window_end_us = 0};
    }
    *ret_more = true;
    return rc;
}

/* Delete the oldest rows before @before, about SQLITE_SLICE of them: @find gives the time of the
 * row that far in. */
static int age_table(struct sqlite_db *d, const char *find, const char *remove, int64_t before,
                     bool *ret_more, int64_t *ret_cut)
{
    int64_t cut = before - 1;
    sqlite3_stmt *stmt = sqlite_db_statement(d, find);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, before);
    sqlite3_bind_int(stmt, 2, SQLITE_SLICE);
    int rc = sqlite_db_number(d, stmt, &cut);
    if (rc < 0)
        return rc;
    if (rc == 1)
        *ret_more = true;
    stmt = sqlite_db_statement(d, remove);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, cut);
    *ret_cut = cut;
    return sqlite_db_run(d, stmt);
}

#define FIND_IN(table)                                                                             \
    "SELECT wall_us FROM " table " WHERE wall_us < ? ORDER BY wall_us LIMIT 1 OFFSET ?"
#define REMOVE_FROM(table) "DELETE FROM " table " WHERE wall_us <= ?"

static int age_samples(struct sqlite_db *d, unsigned level, const struct store_ages *ages,
                       int64_t now_us, bool *ret_more)
{
    static const char *const find[STORE_LEVELS] = {FIND_IN("samples_1s"), FIND_IN("samples_10s"),
                                                   FIND_IN("samples_1min"), FIND_IN("samples_1h")};
    static const char *const remove[STORE_LEVELS] = {
        REMOVE_FROM("samples_1s"), REMOVE_FROM("samples_10s"), REMOVE_FROM("samples_1min"),
        REMOVE_FROM("samples_1h")};
    int64_t before = now_us - ages->keep_us[level], cut;
    struct progress next;
    if (level + 1 == STORE_LEVELS)
        return age_table(d, find[level], remove[level], before, ret_more, &cut);
    int rc = get_progress(d, level + 1, &next);
    if (rc != 0 || next.done_us == INT64_MIN)
        return rc;
    before = next.done_us < before ? next.done_us : before;
    rc = age_table(d, find[level], remove[level], before, ret_more, &cut);
    if (rc != 0 || sqlite3_changes(d->handle) == 0 || cut <= next.aged_us)
        return rc;
    next.aged_us = cut;
    return set_progress(d, level + 1, &next);
}

/* Names that no row uses any more, a stretch of numbers at a time. */
static int age_series(struct sqlite_backend *s)
{
    static const char last[] = "SELECT max(id) FROM series";
    static const char sql[] =
        "DELETE FROM series WHERE id > ?1 AND id <= ?1 + ?2"
        " AND NOT EXISTS (SELECT 1 FROM samples_1s AS a WHERE a.series = series.id)"
        " AND NOT EXISTS (SELECT 1 FROM samples_10s AS a WHERE a.series = series.id)"
        " AND NOT EXISTS (SELECT 1 FROM samples_1min AS a WHERE a.series = series.id)"
        " AND NOT EXISTS (SELECT 1 FROM samples_1h AS a WHERE a.series = series.id)";
    struct sqlite_db *d = &s->db[STORE_PART_SAMPLES];
    int64_t max = 0;
    sqlite3_stmt *stmt = sqlite_db_statement(d, last);
    int rc = stmt == NULL ? WEIR_E_UNAVAILABLE : sqlite_db_number(d, stmt, &max);
    if (rc < 0)
        return rc;
    if (s->series_at >= max)
        s->series_at = 0;
    stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, s->series_at);
    sqlite3_bind_int(stmt, 2, SQLITE_SLICE);
    s->series_at += SQLITE_SLICE;
    return sqlite_db_run(d, stmt);
}

static int age_probes(struct sqlite_db *d, const struct store_ages *ages, int64_t now_us,
                      bool *ret_more)
{
    static const char find[] = FIND_IN("target_probes");
    static const char remove[] = REMOVE_FROM("target_probes");
    int64_t cut;
    return age_table(d, find, remove, now_us - ages->keep_us[2], ret_more, &cut);
}

/* Tables of state.db that grow by themselves: by age, and by number. */
static int age_log(struct sqlite_db *d, unsigned which, const struct store_ages *ages,
                   int64_t now_us, bool *ret_more)
{
    static const char *const find[] = {FIND_IN("actions"), FIND_IN("events"), FIND_IN("audit")};
    static const char *const remove[] = {REMOVE_FROM("actions"), REMOVE_FROM("events"),
                                         REMOVE_FROM("audit")};
#define TRIM(table)                                                                                \
    "DELETE FROM " table " WHERE seq <= (SELECT max(seq) FROM " table ") - ?1 AND"                 \
    " seq < (SELECT min(seq) FROM " table ") + ?2"
    static const char *const trim[] = {TRIM("actions"), TRIM("events"), TRIM("audit")};
    int64_t cut;
    int rc = age_table(d, find[which], remove[which], now_us - ages->keep_us[3], ret_more, &cut);
    if (rc != 0)
        return rc;
    sqlite3_stmt *stmt = sqlite_db_statement(d, trim[which]);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, LOG_KEEP_ROWS);
    sqlite3_bind_int64(stmt, 2, SQLITE_SLICE);
    return sqlite_db_run(d, stmt);
}

static int age_enrolments(struct sqlite_db *d, int64_t now_us)
{
    static const char sql[] = "DELETE FROM enrolments WHERE expires_us < ?";
    sqlite3_stmt *stmt = sqlite_db_statement(d, sql);
    if (stmt == NULL)
        return WEIR_E_UNAVAILABLE;
    sqlite3_bind_int64(stmt, 1, now_us - DAY_US);
    return sqlite_db_run(d, stmt);
}

/* The turns of a round: each call does one, as one transaction. */
enum turn {
    TURN_ROLL_10S,
    TURN_ROLL_1MIN,
    TURN_ROLL_1H,
    TURN_AGE_1S,
    TURN_AGE_10S,
    TURN_AGE_1MIN,
    TURN_AGE_1H,
    TURN_PROBES,
    TURN_SERIES,
    TURN_ACTIONS,
    TURN_EVENTS,
    TURN_AUDIT,
    TURN_ENROLMENTS,
    TURN_COUNT,
};

static enum store_part turn_part(enum turn turn)
{
    return turn >= TURN_ACTIONS ? STORE_PART_STATE : STORE_PART_SAMPLES;
}

static int take_turn(struct sqlite_backend *s, enum turn turn, const struct store_ages *ages,
                     int64_t now_us, bool *ret_more)
{
    struct sqlite_db *d = &s->db[turn_part(turn)];
    switch (turn) {
    case TURN_ROLL_10S:
    case TURN_ROLL_1MIN:
    case TURN_ROLL_1H:
        return roll_up(s, 1 + (unsigned)(turn - TURN_ROLL_10S), now_us, ret_more);
    case TURN_AGE_1S:
    case TURN_AGE_10S:
    case TURN_AGE_1MIN:
    case TURN_AGE_1H:
        return age_samples(d, (unsigned)(turn - TURN_AGE_1S), ages, now_us, ret_more);
    case TURN_PROBES:
        return age_probes(d, ages, now_us, ret_more);
    case TURN_SERIES:
        return age_series(s);
    case TURN_ACTIONS:
    case TURN_EVENTS:
    case TURN_AUDIT:
        return age_log(d, (unsigned)(turn - TURN_ACTIONS), ages, now_us, ret_more);
    case TURN_ENROLMENTS:
        return age_enrolments(d, now_us);
    case TURN_COUNT:
        break;
    }
    weir_assert(false);
    return 0;
}

int sqlite_maintain(struct store_backend *b, const struct store_ages *ages, int64_t now_us,
                    bool *ret_more)
{
    struct sqlite_backend *s = (struct sqlite_backend *)b;
    enum turn turn = (enum turn)s->maintain_turn;
    enum store_part part = turn_part(turn);
    bool again = false;
    int rc = b->ops->begin(b, part);
    if (rc == 0)
        rc = take_turn(s, turn, ages, now_us, &again);
    if (rc == 0)
        rc = b->ops->commit(b, part);
    if (rc != 0) {
        b->ops->rollback(b, part);
        s->rollup[turn <= TURN_ROLL_1H ? turn + 1u : 1u] =
            (struct sqlite_rollup){.window_end_us = 0};
        return rc;
    }
    if (!again)
        s->maintain_turn = (s->maintain_turn + 1) % TURN_COUNT;
    *ret_more = again || s->maintain_turn != 0;
    return 0;
}

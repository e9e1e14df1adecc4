/* SPDX-License-Identifier: Apache-2.0 */
/* The SQLite backend's inside, shared by its files: state, samples, roll-up, queries. */
#ifndef WEIR_SERVER_STORE_SQLITE_BACKEND_H
#define WEIR_SERVER_STORE_SQLITE_BACKEND_H
#include "server/store/backend.h"
#include "server/store/sqlite_db.h"

/* Rows or series that one slice of roll-up or ageing touches. */
#define SQLITE_SLICE 500

struct sqlite_rollup {
    int64_t window_end_us; /* the window at work; 0: none */
    int64_t series;        /* done up to this one */
};

struct sqlite_backend {
    struct store_backend base;
    struct sqlite_db db[STORE_PART_COUNT];
    struct sqlite_rollup rollup[STORE_LEVELS]; /* [0] unused */
    unsigned maintain_turn;
    int64_t series_at;
};

static inline struct sqlite_db *sqlite_state(struct store_backend *b)
{
    return &((struct sqlite_backend *)b)->db[STORE_PART_STATE];
}

static inline struct sqlite_db *sqlite_samples(struct store_backend *b)
{
    return &((struct sqlite_backend *)b)->db[STORE_PART_SAMPLES];
}

/* sqlite_state.c */
int sqlite_write(struct store_backend *b, const struct store_write *w, json_t **ret_reply);
int sqlite_action(struct store_backend *b, const struct action_record *a);
int sqlite_event(struct store_backend *b, const struct event_record *e);

/* sqlite_samples.c */
int sqlite_sample(struct store_backend *b, const struct sample_record *s);
int sqlite_health(struct store_backend *b, const struct target_health *h);
/* Columns of a sample in every table of them, from interval_ms on, and how they lie in the
 * record. */
#define SQLITE_SAMPLE_COLUMNS                                                                      \
    "interval_ms, read_ops, write_ops, other_ops, errors, arrivals, read_bytes, write_bytes,"      \
    " held_ops, held_us_sum, target_us_sum, total_us_sum, p50_us, p99_us, max_us, held_p99_us,"    \
    " target_p99_us, inflight, held_now"
#define SQLITE_SAMPLE_NUMBERS 19
void sqlite_sample_bind(sqlite3_stmt *stmt, int at, const struct sample_record *s);
void sqlite_sample_column(sqlite3_stmt *stmt, int at, struct sample_record *s);

/* sqlite_rollup.c */
extern const int64_t sqlite_level_us[STORE_LEVELS]; /* width of a window; [0]: 0, as reported */
int sqlite_maintain(struct store_backend *b, const struct store_ages *ages, int64_t now_us,
                    bool *ret_more);
/* To be called with every sample stored: one of a window that is rolled up already is late, and
 * counts there too. */
int sqlite_rollup_late(struct sqlite_db *d, int64_t series, const struct sample_record *s);

/* sqlite_aside.c */
bool sqlite_samples_damaged(const struct store_backend *b);

/* sqlite_query.c */
int sqlite_query(struct store_backend *b, const struct store_query *q, json_t **ret);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What the database manager asks of a database; SQLite stands behind it, PostgreSQL can.
 *
 * A backend is one thread's own: the writer's may do all of it, a reader's only query. Return
 * values: 0; WEIR_E_UNAVAILABLE when the database cannot now (locked, full, gone, broken: roll
 * back, keep, try again, reopen when it is not intact); anything else is about the row itself and
 * will not get better by trying again. */
#ifndef WEIR_SERVER_STORE_BACKEND_H
#define WEIR_SERVER_STORE_BACKEND_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/store/store.h"

/* What is kept with care, and what is kept in bulk: each has transactions of its own. */
enum store_part { STORE_PART_STATE, STORE_PART_SAMPLES, STORE_PART_COUNT };

/* Roll-ups of samples: as reported (a period, 1 s), 10 s, 1 min, 1 h. */
#define STORE_LEVELS 4u

/* How long things are kept. */
struct store_ages {
    int64_t keep_us[STORE_LEVELS];
};

enum store_access { STORE_ACCESS_WRITE, STORE_ACCESS_READ };

struct store_backend {
    const struct store_backend_ops *ops;
};

struct store_backend_ops {
    void (*close)(struct store_backend *b);

    /* Transactions of the writer. write, action and event want STATE begun; sample and health want
     * SAMPLES. */
    int (*begin)(struct store_backend *b, enum store_part part);
    int (*commit)(struct store_backend *b, enum store_part part);
    void (*rollback)(struct store_backend *b, enum store_part part);

    /* One write with its audit row, whole or not at all. On every outcome *@ret_reply may be a new
     * object. */
    int (*write)(struct store_backend *b, const struct store_write *w, json_t **ret_reply);
    int (*action)(struct store_backend *b, const struct action_record *a);
    int (*event)(struct store_backend *b, const struct event_record *e);
    int (*sample)(struct store_backend *b, const struct sample_record *s);
    int (*health)(struct store_backend *b, const struct target_health *h);

    /* One slice of roll-up and ageing, in transactions of its own; *@ret_more: call again soon. */
    int (*maintain)(struct store_backend *b, const struct store_ages *ages, int64_t now_us,
                    bool *ret_more);

    /* Any reader; ends by itself after STORE_QUERY_NS (WEIR_E_TIMEOUT). */
    int (*query)(struct store_backend *b, const struct store_query *q, json_t **ret);

    /* Whether what was opened is still there (not deleted, not replaced, not broken). */
    bool (*intact)(struct store_backend *b);
    /* Whether opening it had to make a database anew. */
    bool (*fresh)(const struct store_backend *b);
    /* Whether the samples were found damaged: close it, then sqlite_samples_set_aside. */
    bool (*damaged)(const struct store_backend *b);
    /* Words for the last failure. Static text. */
    const char *(*last_error)(const struct store_backend *b);
};

#define STORE_QUERY_NS (UINT64_C(2) * 1000000000u)

/* Make the folder and those above it, 0700; one that is there keeps its mode: it is the
 * administrator's. */
int store_folder_make(const char *folder);

/* 0, or an error with words; WEIR_E_PARSE: the samples are damaged. Folder and files are made
 * (0700, 0600) and migrated when @access is WRITE. */
int sqlite_backend_open(const char *folder, enum store_access access, struct store_backend **ret,
                        char *ret_words, size_t size);
/* The same for the writer; where the samples turn out to be damaged they are set aside and begun
 * anew, and *@ret_aside (of @size, else "") says so. */
int sqlite_backend_open_anew(const char *folder, struct store_backend **ret, char *ret_words,
                             char *ret_aside, size_t size);
/* Look at all of what was opened, in about a second. 0, or an error with words when it is
 * damaged. */
int sqlite_backend_check(struct store_backend *b, char *ret_words, size_t size);
/* With no connection of the writer open. 0 or -errno; words for people in either case. */
int sqlite_samples_set_aside(const char *folder, char *ret_words, size_t size);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A real store for tests: a folder of its own, a writer and a reader thread, and a client with its
 * own mailbox. */
#ifndef WEIR_TESTS_STORE_FIXTURE_H
#define WEIR_TESTS_STORE_FIXTURE_H
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>

#include "server/store/store.h"
#include "server/threads.h"

struct fixture {
    char folder[256];
    struct server_config config;
    struct threads threads;
    struct mailbox *client;
    struct store *store;
    struct store_thread writer_arg, reader_arg;
    pthread_t writer, reader;
    bool running;
};

/* Folder and settings only. */
void fixture_init(struct fixture *f);
/* Open the store and start its threads. Asserts. */
void fixture_start(struct fixture *f);
/* Stop and join them, close the store; the folder stays. */
void fixture_stop(struct fixture *f);
/* Stop if running, and remove the folder. */
void fixture_fini(struct fixture *f);

/* Post without reply. */
void fixture_append(struct fixture *f, struct store_batch *b);
/* Ask and wait for the answer (at most 30 s): its status; *@ret_reply (may be NULL) gets the
 * body. */
int fixture_write(struct fixture *f, struct store_write *w, json_t **ret_reply);
int fixture_query(struct fixture *f, struct store_query *q, json_t **ret_reply);
/* Ask only; fixture_wait gives the next reply. */
uint64_t fixture_ask_write(struct fixture *f, struct store_write *w);
int fixture_wait(struct fixture *f, uint64_t *ret_ticket, json_t **ret_reply);

struct store_write *fixture_document(const char *name, uint64_t expected, int n);
/* The whole table, with limit; asserts success. */
json_t *fixture_table(struct fixture *f, enum store_table table, const char *name);
json_t *fixture_status(struct fixture *f);
/* Poll (20 s at most) until STORE_STATUS says that nothing is queued. */
void fixture_drained(struct fixture *f);

/* A sample of made-up numbers with @ios I/Os of about @latency_us. */
void fixture_sample(struct sample_record *s, const char *host, int64_t wall_us, uint32_t ios,
                    uint64_t latency_us);
void fixture_event(struct event_record *e, int64_t wall_us, int n);
void fixture_action(struct action_record *a, uint64_t id);

#endif

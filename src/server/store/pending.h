/* SPDX-License-Identifier: Apache-2.0 */
/* Rows that wait for the database, in bounded memory: samples are dropped first, oldest first, and
 * counted. */
#ifndef WEIR_SERVER_STORE_PENDING_H
#define WEIR_SERVER_STORE_PENDING_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "server/store/store.h"

/* The bounds of the writer: 64 MiB hold about 200,000 samples as they are packed here. */
#define PENDING_MAX_BYTES ((size_t)64 << 20)
#define PENDING_MAX_ROWS  ((size_t)200000)

enum pending_kind { PENDING_SAMPLE, PENDING_HEALTH, PENDING_ACTION, PENDING_EVENT };

struct pending_row {
    struct list link;
    enum pending_kind kind;
    size_t size; /* of all of it */
    _Alignas(8) unsigned char data[];
};

struct pending {
    struct list bulk; /* samples and probes, oldest first */
    struct list kept; /* actions and events */
    size_t bulk_rows, kept_rows, bytes;
    size_t max_bytes, max_rows;
    uint64_t dropped_bulk, dropped_kept; /* for want of room (or of memory) */
};

void pending_init(struct pending *p, size_t max_bytes, size_t max_rows);
void pending_fini(struct pending *p);

/* Copy all rows of @b in, then drop what is too much. */
void pending_add(struct pending *p, const struct store_batch *b);
void pending_add_event(struct pending *p, const struct event_record *e);

/* The records in a row. A sample is unpacked into @ret. */
void pending_sample(const struct pending_row *row, struct sample_record *ret);
const struct target_health *pending_health(const struct pending_row *row);
const struct action_record *pending_action(const struct pending_row *row);
const struct event_record *pending_event(const struct pending_row *row);

/* Take the @n oldest rows of a list out: they are stored. */
void pending_done_bulk(struct pending *p, size_t n);
void pending_done_kept(struct pending *p, size_t n);
size_t pending_rows(const struct pending *p);

#endif

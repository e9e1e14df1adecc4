/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of the store's messages: made by the askers, freed by whoever holds them last. */
#include <stdlib.h>

#include "base/assert.h"
#include "server/store/store.h"

/* So many rows of a kind in one batch: the whole stays below 2 GiB, and no sum here can
 * overflow. */
#define BATCH_MAX_ROWS 1000000u

static size_t aligned(size_t n)
{
    size_t to = _Alignof(max_align_t);
    return (n + to - 1) / to * to;
}

struct store_batch *store_batch_new(size_t samples, size_t actions, size_t events, size_t healths)
{
    weir_assert(samples <= BATCH_MAX_ROWS && actions <= BATCH_MAX_ROWS);
    weir_assert(events <= BATCH_MAX_ROWS && healths <= BATCH_MAX_ROWS);
    size_t sample_at = aligned(sizeof(struct store_batch));
    size_t action_at = sample_at + aligned(samples * sizeof(struct sample_record));
    size_t event_at = action_at + aligned(actions * sizeof(struct action_record));
    size_t health_at = event_at + aligned(events * sizeof(struct event_record));
    char *block = calloc(1, health_at + healths * sizeof(struct target_health));
    if (block == NULL)
        return NULL;
    struct store_batch *b = (struct store_batch *)(void *)block;
    *b = (struct store_batch){
        .sample = (struct sample_record *)(void *)(block + sample_at),
        .sample_count = samples,
        .action = (struct action_record *)(void *)(block + action_at),
        .action_count = actions,
        .event = (struct event_record *)(void *)(block + event_at),
        .event_count = events,
        .health = (struct target_health *)(void *)(block + health_at),
        .health_count = healths,
    };
    return b;
}

void store_batch_free(void *batch)
{
    free(batch);
}

struct store_write *store_write_new(enum store_verb verb)
{
    struct store_write *w = calloc(1, sizeof(*w));
    if (w != NULL)
        w->verb = verb;
    return w;
}

void store_write_free(void *write)
{
    struct store_write *w = write;
    if (w == NULL)
        return;
    json_decref(w->json);
    free(w);
}

struct store_query *store_query_new(enum store_table table)
{
    struct store_query *q = calloc(1, sizeof(*q));
    if (q != NULL)
        q->table = table;
    return q;
}

void store_query_free(void *query)
{
    free(query);
}

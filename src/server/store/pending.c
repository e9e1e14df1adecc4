/* SPDX-License-Identifier: Apache-2.0 */
/* What waits for the database.
 *
 * Problem: while the database is locked, full or gone, the server goes on producing rows, and
 * memory is finite. A sample_record is 1.5 KB, most of it room that is not used; a second of a
 * thousand streams would be 1.5 MB.
 * Model: two queues, oldest first. Samples are packed (numbers as they are, names without their
 * padding, the histogram as the blob that will be stored): about 300 bytes each. Actions and events
 * are few and lie as they are.
 *
 * Invariants
 *  1. bytes is the sum of the rows' sizes; rows and bytes are within their bounds whenever a
 *     function returns.
 *  2. While a sample waits, no action or event is dropped.
 *  3. Every row that is given here is taken out by pending_done_* or counted in dropped_*: none
 *     vanishes. */
#include "server/store/pending.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "server/store/blob.h"

/* The numbers of a sample that lie between its names and its histogram. */
#define NUMBERS_AT   offsetof(struct sample_record, read_ops)
#define NUMBERS_SIZE (offsetof(struct sample_record, bucket) - NUMBERS_AT)
#define SAMPLE_NAMES 5u

struct packed_sample {
    int64_t wall_us;
    uint32_t interval_ms;
    uint16_t blob_size;
    unsigned char numbers[NUMBERS_SIZE];
    char rest[]; /* names, each with its NUL, then the blob */
};

#define PACKED_MAX (sizeof(struct packed_sample) + SAMPLE_NAMES * NAME_SIZE + BLOB_SAMPLE_MAX)

void pending_init(struct pending *p, size_t max_bytes, size_t max_rows)
{
    *p = (struct pending){.max_bytes = max_bytes, .max_rows = max_rows};
    list_init(&p->bulk);
    list_init(&p->kept);
}

size_t pending_rows(const struct pending *p)
{
    return p->bulk_rows + p->kept_rows;
}

static bool is_bulk(enum pending_kind kind)
{
    return kind == PENDING_SAMPLE || kind == PENDING_HEALTH;
}

static bool pop_bulk(struct pending *p)
{
    struct list *l = list_pop_front(&p->bulk);
    if (l == NULL)
        return false;
    struct pending_row *row = container_of(l, struct pending_row, link);
    weir_assert(p->bulk_rows > 0 && p->bytes >= row->size);
    p->bulk_rows--;
    p->bytes -= row->size;
    free(row);
    return true;
}

static bool pop_kept(struct pending *p)
{
    struct list *l = list_pop_front(&p->kept);
    if (l == NULL)
        return false;
    struct pending_row *row = container_of(l, struct pending_row, link);
    weir_assert(p->kept_rows > 0 && p->bytes >= row->size);
    p->kept_rows--;
    p->bytes -= row->size;
    free(row);
    return true;
}

void pending_fini(struct pending *p)
{
    while (pop_bulk(p) || pop_kept(p))
        ;
    weir_assert(p->bytes == 0);
}

static void trim(struct pending *p)
{
    while (p->bytes > p->max_bytes || pending_rows(p) > p->max_rows) {
        if (pop_bulk(p))
            p->dropped_bulk++;
        else if (pop_kept(p))
            p->dropped_kept++;
    }
}

static void add(struct pending *p, enum pending_kind kind, const void *data, size_t n)
{
    size_t size = sizeof(struct pending_row) + n;
    struct pending_row *row = malloc(size);
    if (row == NULL) {
        if (is_bulk(kind))
            p->dropped_bulk++;
        else
            p->dropped_kept++;
        return;
    }
    row->kind = kind;
    row->size = size;
    memcpy(row->data, data, n);
    if (is_bulk(kind)) {
        list_push_back(&p->bulk, &row->link);
        p->bulk_rows++;
    } else {
        list_push_back(&p->kept, &row->link);
        p->kept_rows++;
    }
    p->bytes += size;
    trim(p);
}

static size_t put_name(char *out, const char name[NAME_SIZE])
{
    size_t len = strnlen(name, NAME_SIZE - 1);
    memcpy(out, name, len);
    out[len] = '\0';
    return len + 1;
}

static size_t pack(const struct sample_record *s, struct packed_sample *out)
{
    size_t len = 0;
    out->wall_us = s->wall_us;
    out->interval_ms = s->interval_ms;
    memcpy(out->numbers, (const char *)s + NUMBERS_AT, NUMBERS_SIZE);
    len += put_name(out->rest + len, s->gateway);
    len += put_name(out->rest + len, s->host);
    len += put_name(out->rest + len, s->volume);
    len += put_name(out->rest + len, s->tenant);
    len += put_name(out->rest + len, s->target);
    size_t blob = blob_from_sample(s, (uint8_t *)out->rest + len);
    out->blob_size = (uint16_t)blob;
    return offsetof(struct packed_sample, rest) + len + blob;
}

static size_t get_name(const char *in, char name[NAME_SIZE])
{
    size_t len = strlen(in) + 1;
    weir_assert(len <= NAME_SIZE);
    memcpy(name, in, len);
    return len;
}

void pending_sample(const struct pending_row *row, struct sample_record *ret)
{
    weir_assert(row->kind == PENDING_SAMPLE);
    const struct packed_sample *in = (const void *)row->data;
    size_t len = 0;
    ret->wall_us = in->wall_us;
    ret->interval_ms = in->interval_ms;
    memcpy((char *)ret + NUMBERS_AT, in->numbers, NUMBERS_SIZE);
    len += get_name(in->rest + len, ret->gateway);
    len += get_name(in->rest + len, ret->host);
    len += get_name(in->rest + len, ret->volume);
    len += get_name(in->rest + len, ret->tenant);
    len += get_name(in->rest + len, ret->target);
    int rc = blob_to_sample(ret, in->rest + len, in->blob_size);
    weir_assert(rc == 0);
}

const struct target_health *pending_health(const struct pending_row *row)
{
    weir_assert(row->kind == PENDING_HEALTH);
    return (const void *)row->data;
}

const struct action_record *pending_action(const struct pending_row *row)
{
    weir_assert(row->kind == PENDING_ACTION);
    return (const void *)row->data;
}

const struct event_record *pending_event(const struct pending_row *row)
{
    weir_assert(row->kind == PENDING_EVENT);
    return (const void *)row->data;
}

void pending_add(struct pending *p, const struct store_batch *b)
{
    _Alignas(struct packed_sample) char room[PACKED_MAX];
    for (size_t i = 0; i < b->sample_count; i++) {
        size_t n = pack(&b->sample[i], (struct packed_sample *)(void *)room);
        add(p, PENDING_SAMPLE, room, n);
    }
    for (size_t i = 0; i < b->health_count; i++)
        add(p, PENDING_HEALTH, &b->health[i], sizeof(b->health[i]));
    for (size_t i = 0; i < b->action_count; i++)
        add(p, PENDING_ACTION, &b->action[i], sizeof(b->action[i]));
    for (size_t i = 0; i < b->event_count; i++)
        add(p, PENDING_EVENT, &b->event[i], sizeof(b->event[i]));
}

void pending_add_event(struct pending *p, const struct event_record *e)
{
    add(p, PENDING_EVENT, e, sizeof(*e));
}

void pending_done_bulk(struct pending *p, size_t n)
{
    for (; n > 0; n--) {
        bool popped = pop_bulk(p);
        weir_assert(popped);
    }
}

void pending_done_kept(struct pending *p, size_t n)
{
    for (; n > 0; n--) {
        bool popped = pop_kept(p);
        weir_assert(popped);
    }
}

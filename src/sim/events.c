/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/events.h"

#include <stdlib.h>

#include "base/assert.h"

void events_fini(struct events *q)
{
    free(q->heap);
    *q = (struct events){0};
}

static bool sooner(const struct event *a, const struct event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

void events_add(struct events *q, uint64_t at_ns, void (*fire)(struct sim *, const struct event *),
                void *what, uint64_t number)
{
    if (q->count + 1 >= q->capacity) {
        q->capacity = q->capacity == 0 ? 1024 : 2 * q->capacity;
        q->heap = reallocarray(q->heap, q->capacity, sizeof q->heap[0]);
        weir_assert(q->heap != NULL);
    }
    struct event e = {
        .at_ns = at_ns, .order = q->order++, .fire = fire, .what = what, .number = number};
    size_t i = ++q->count;
    for (; i > 1 && sooner(&e, &q->heap[i / 2]); i /= 2)
        q->heap[i] = q->heap[i / 2];
    q->heap[i] = e;
}

bool events_next(struct events *q, struct event *ret)
{
    if (q->count == 0)
        return false;
    *ret = q->heap[1];
    struct event last = q->heap[q->count--];
    size_t i = 1;
    for (size_t c; (c = 2 * i) <= q->count; i = c) {
        if (c < q->count && sooner(&q->heap[c + 1], &q->heap[c]))
            c++;
        if (!sooner(&q->heap[c], &last))
            break;
        q->heap[i] = q->heap[c];
    }
    q->heap[i] = last;
    return true;
}

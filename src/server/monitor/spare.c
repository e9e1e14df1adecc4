/* SPDX-License-Identifier: Apache-2.0 */
#include "server/monitor/spare.h"

#include <stdlib.h>

/* Sixteen of 64 KiB: a MiB a thread at most. */
#define SPARES_MAX 16u
#define SPARE_BYTES (64u * 1024u)

struct spare *spare_take(struct spare_pool *p, size_t max)
{
    struct spare *s = p->first;
    if (s != NULL) {
        p->first = s->next;
        p->count--;
        s->text.max = max;
        return s;
    }
    s = malloc(sizeof(*s));
    if (s != NULL)
        text_init(&s->text, max);
    return s;
}

void spare_give(struct spare_pool *p, struct spare *s)
{
    if (s == NULL)
        return;
    if (p->count == SPARES_MAX || s->text.cap > SPARE_BYTES || s->text.failed) {
        spare_free(s);
        return;
    }
    text_clear(&s->text);
    s->next = p->first;
    p->first = s;
    p->count++;
}

void spare_free(struct spare *s)
{
    if (s == NULL)
        return;
    text_fini(&s->text);
    free(s);
}

void spare_pool_fini(struct spare_pool *p)
{
    while (p->first != NULL) {
        struct spare *s = p->first;
        p->first = s->next;
        spare_free(s);
    }
    p->count = 0;
}

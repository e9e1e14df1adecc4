/* SPDX-License-Identifier: Apache-2.0 */
/* Whom people admitted, where that is asked for.
 *
 * Problem: a gateway may connect before the database has said that it was admitted long ago, may
 * come to another process than the one that had it, and may be on its way between two when people
 * admit it. It must not wait for people a second time.
 *
 * Model: each process keeps the ids of all that were admitted, sorted: 16 bytes for each record of
 * the database. A gateway that waits is looked up when it enters this process, and an id that is
 * added looks for its gateway, so that the order of the two does not matter. The database answers
 * by id, so loading appends. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "server/services/state.h"

static int id_order(const void *item, const void *id)
{
    return memcmp(item, id, GATEWAY_ID_SIZE);
}

static size_t place(const struct services *s, const uint8_t id[GATEWAY_ID_SIZE], bool *ret_there)
{
    return sorted_place(s->admitted, s->admitted_count, sizeof(s->admitted[0]), id, id_order,
                        ret_there);
}

bool admitted_is(const struct services *s, const uint8_t id[GATEWAY_ID_SIZE])
{
    bool there;
    (void)place(s, id, &there);
    return there;
}

int admitted_put(struct services *s, const uint8_t id[GATEWAY_ID_SIZE])
{
    bool there;
    size_t at = place(s, id, &there);
    if (there || !s->config.manual_admission)
        return 0;
    if (s->admitted_count == s->admitted_cap) {
        size_t cap = s->admitted_cap == 0 ? 64 : 2 * s->admitted_cap;
        uint8_t(*more)[GATEWAY_ID_SIZE] = reallocarray(s->admitted, cap, sizeof(*more));
        if (more == NULL)
            return WEIR_E_FULL;
        s->admitted = more;
        s->admitted_cap = cap;
    }
    memmove(s->admitted[at + 1], s->admitted[at], (s->admitted_count - at) * GATEWAY_ID_SIZE);
    memcpy(s->admitted[at], id, GATEWAY_ID_SIZE);
    s->admitted_count++;
    return 0;
}

void admitted_remove(struct services *s, const uint8_t id[GATEWAY_ID_SIZE])
{
    bool there;
    size_t at = place(s, id, &there);
    if (!there)
        return;
    s->admitted_count--;
    memmove(s->admitted[at], s->admitted[at + 1], (s->admitted_count - at) * GATEWAY_ID_SIZE);
}

void admitted_fini(struct services *s)
{
    free(s->admitted);
}

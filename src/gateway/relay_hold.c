/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for the payload of held writes.
 *
 * Problem: max-hold counts from the gate, and only what has been read has come to the gate. When
 * the ring of held payload is full the host is not read, and what it sent behind waits without
 * being counted: with deep queues of large writes under a low limit, one max-hold after the other.
 *
 * Model: each connection has a ring of 256 KiB, which nearly always suffices. Where it does not,
 * the ring is exchanged for one twice as large, and so on up to RELAY_HOLD_MAX, as long as all that
 * was taken so is within hold-memory of the configuration. Once empty it is given back.
 *
 * What that promises: a host whose unanswered writes on a connection come to at most 64 MiB waits
 * max-hold for none of them longer, counted from when it reached the gateway, as long as
 * hold-memory lasts. Beyond, a host is left unread until the write at the front may go, which
 * takes max-hold at most: what it could not send yet waits so long for each ring-full before it.
 * How often that happened is counted (hold_full).
 *
 * Invariants:
 *  1. relay.hold_memory is the sum of the sizes of all hold_more, and at most hold-memory.
 *  2. A ring is changed only between payloads or before one: in HOLD mode the room is reserved.
 *
 * Memory: hold-memory, and for the time of one copy the ring that is being left.
 * What may fail: mmap; then it is as if hold-memory were used up. */
#include <sys/mman.h>

#include "base/assert.h"
#include "gateway/relay_conn.h"

static uint64_t relay_hold_size(const struct relay_conn *c)
{
    return c->hold_more ? c->out.hold_size : 0;
}

void relay_hold_free(struct relay_conn *c)
{
    uint64_t size = relay_hold_size(c);
    if (size == 0)
        return;
    weir_assert(c->relay->hold_memory >= size);
    c->relay->hold_memory -= size;
    munmap(c->hold_more, size);
    c->hold_more = NULL;
}

void relay_hold_shrink(struct relay_conn *c)
{
    weir_assert(c->hold_more != NULL);
    if (relay_out_hold_used(&c->out) > 0 || c->host_mode == RELAY_HOST_HOLD)
        return;
    relay_hold_free(c);
    relay_out_hold_move(&c->out, c->hold, RELAY_HOLD_SIZE);
}

bool relay_hold_room(struct relay_conn *c, uint64_t n)
{
    if (n <= relay_out_hold_room(&c->out))
        return true;
    struct relay *r = c->relay;
    uint64_t now = relay_hold_size(c), used = relay_out_hold_used(&c->out), size = c->out.hold_size;
    if (n > RELAY_HOLD_MAX - used)
        return false;
    while (size < used + n)
        size *= 2;
    if (r->hold_memory - now + size > r->config->hold_memory)
        return false;
    void *ring = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ring == MAP_FAILED)
        return false;
    void *left = c->hold_more;
    relay_out_hold_move(&c->out, ring, size);
    if (left)
        munmap(left, now);
    c->hold_more = ring;
    r->hold_memory += size - now;
    return true;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* While an upgrade has two workers alive: one at a time touches what both charge.
 *
 * The buckets of rules are the only words of the ledger that two workers write. With one worker
 * alive ledger_enter is a load and a branch. */
#ifndef WEIR_GATEWAY_LEDGER_SHARE_H
#define WEIR_GATEWAY_LEDGER_SHARE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ledger_share {
    _Atomic uint32_t both;  /* the manager's: two workers may be alive */
    _Atomic uint32_t owner; /* of the lock: bank + 1; 0: free. Freed by the manager when it died */
};

/* Wait for the lock; bounded by the other's holding it: microseconds, or until its manager has
 * found it dead or hanging. */
void ledger_lock(struct ledger_share *s, uint32_t bank);

/* Returns what ledger_leave is to be given. Not to be nested. */
static inline bool ledger_enter(struct ledger_share *s, uint32_t bank)
{
    if (__builtin_expect(atomic_load_explicit(&s->both, memory_order_relaxed) == 0, 1))
        return false;
    ledger_lock(s, bank);
    return true;
}

static inline void ledger_leave(struct ledger_share *s, bool entered)
{
    if (entered)
        atomic_store_explicit(&s->owner, 0, memory_order_release);
}

#endif

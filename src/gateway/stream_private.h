/* SPDX-License-Identifier: Apache-2.0 */
/* What the stream table is made of, for its own two parts: who the streams are (stream.c) and which
 * rules cover them (stream_cover.c). All of it belongs to the reactor thread. */
#ifndef WEIR_GATEWAY_STREAM_PRIVATE_H
#define WEIR_GATEWAY_STREAM_PRIVATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "gateway/ledger.h"
#include "gateway/rule.h"
#include "gateway/stream.h"

struct slot {
    struct stream stream; /* first: a stream is its slot */
    bool is_default;
    uint64_t key_hash;
    struct slot *hash_next;
    struct list idle_link;
    struct rule_own *own[STREAM_FILE_LIMITS_MAX];
    uint32_t own_count;
    struct share *share;                    /* it has; NULL: its own */
    struct gate_rule *next[GATE_MAX_COVER]; /* cover being put together */
    uint32_t next_count;
    struct rule_group *next_share;
};

struct stream_table {
    const struct gateway_config *config;
    struct ledger *ledger;
    bool ledger_is_own;
    struct gate *gate;
    struct rule_book book;
    struct slot *slots; /* max_streams, then one a target */
    size_t slot_count, max_streams;
    size_t used;        /* slots [0, used) have been live */
    struct list vacant; /* of those, the ones without a stream */
    struct slot **hash;
    size_t hash_mask;
    struct list idle;
    struct target port[CONFIG_MAX_TARGETS];
};

/* Around everything that takes, gives or touches credit; see ledger_share.h. */
static inline bool table_enter(struct stream_table *t)
{
    return ledger_enter(ledger_share(t->ledger), ledger_bank(t->ledger));
}

static inline void table_leave(struct stream_table *t, bool entered)
{
    ledger_leave(ledger_share(t->ledger), entered);
}

/* Cover one stream, new or renamed, by everything that names it. Within table_enter. */
void slot_cover(struct stream_table *t, struct slot *s, uint64_t now_ns);
/* Nothing covers it any more, and it has no turn at its target. Within table_enter. */
void slot_uncover(struct stream_table *t, struct slot *s, uint64_t now_ns);

#endif

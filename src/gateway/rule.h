/* SPDX-License-Identifier: Apache-2.0 */
/* The rule book: every control and file limit in force, changed in three steps (stage, commit,
 * sweep).
 *
 * Private to stream.c, which owns the streams that rules cover. Reactor thread only. */
#ifndef WEIR_GATEWAY_RULE_H
#define WEIR_GATEWAY_RULE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "gateway/config.h"
#include "gateway/stream.h"
#include "qos/gate.h"

struct ledger;
struct ledger_cell;

enum rule_change {
    RULE_STANDS,  /* in force, untouched */
    RULE_FRESH,   /* staged, not yet in force */
    RULE_CHANGED, /* in force; `staged` holds what it becomes */
    RULE_DEAD,    /* to be taken away */
};

/* One control with its rule; or, of a limit per stream, the head of its rules. */
struct rule_group {
    struct list link;       /* in rule_book.groups */
    struct list owns;       /* struct rule_own of a limit per stream */
    struct list shares;     /* struct share of a control that owes one, by target (share.h) */
    struct rule_group *by_id_next;
    struct rule_group *staged;
    enum rule_change change;
    struct control control; /* members point into member_text */
    char **members;
    char *member_text;
    uint64_t *member_hash;
    struct limit_config *limit; /* of a file limit, else NULL */
    struct gate_rule rule;      /* covers nobody in a limit per stream */
    struct ledger_cell *cell;   /* where the rule's credit lies; NULL: in the rule */
};

/* The rule that one stream has of a limit per stream. */
struct rule_own {
    struct gate_rule rule;
    struct ledger_cell *cell;
    struct rule_group *group;
    struct list link; /* in rule_group.owns, or in rule_book.own_free */
};

struct rule_book {
    struct gate *gate;
    struct ledger *ledger;
    struct list groups; /* file limits first, in order; then controls, oldest first */
    size_t control_count, member_count;
    size_t control_max, member_max, members_per_control_max;
    struct rule_group **by_id;
    size_t by_id_mask;
    struct rule_own *own_pool;
    size_t own_used, own_max;
    struct list own_free;
};

uint64_t rule_hash(const char *text);

/* How many rules a book for @max_streams streams (and @spare default ones) may have in its gate. */
size_t rule_book_rules_max(size_t max_streams, size_t spare);
/* False: no memory. */
bool rule_book_init(struct rule_book *b, struct gate *gate, struct ledger *ledger,
                    size_t max_streams, size_t spare);
/* Nothing may be covered any more. */
void rule_book_fini(struct rule_book *b);

/* Stage: check everything, take all memory, change nothing that is in force. On an error nothing is
 * staged: WEIR_E_FULL or WEIR_E_INVALID. */
int rule_book_stage_controls(struct rule_book *b, const struct control *controls, size_t count,
                             bool full);
int rule_book_stage_limits(struct rule_book *b, const struct limit_config *limits, size_t count);
size_t rule_book_stage_expiry(struct rule_book *b);
/* Forget what is staged, instead of committing it. */
void rule_book_unstage(struct rule_book *b);
/* Commit: staged limits are in force. The caller then covers its streams anew, by groups not
 * RULE_DEAD. */
void rule_book_commit(struct rule_book *b, uint64_t now_ns);
/* Sweep: what is dead is freed. */
void rule_book_sweep(struct rule_book *b);

/* Whether a file limit covers a stream. */
bool rule_group_matches(const struct rule_group *g, const struct stream *s);
/* The own rule, of a limit per stream, of the stream with @index; NULL when the pool is empty. */
struct rule_own *rule_own_new(struct rule_book *b, struct rule_group *g, uint32_t index,
                              uint64_t now_ns);
void rule_own_free(struct rule_book *b, struct rule_own *own);

#endif

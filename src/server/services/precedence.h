/* SPDX-License-Identifier: Apache-2.0 */
/* Which agreements cover a stream, what each of them has to say there, and why; pure.
 *
 * Limits of all that cover it hold. Its promise (objectives and reservation), weight and priority
 * come from one: the most specific that says any of these, else the most specific. Agreements that
 * are defaults cover only streams that no other covers. */
#ifndef WEIR_SERVER_SERVICES_PRECEDENCE_H
#define WEIR_SERVER_SERVICES_PRECEDENCE_H
#include <stdbool.h>
#include <stddef.h>

#include "server/services/entity.h"

/* So many may cover one stream; beyond, the least specific are left out, and that is said. A
 * gateway takes 8 controls for a stream: these, its tenant's, a throttle and one to spare. */
#define PRECEDENCE_MAX_COVER 5u

#define PRECEDENCE_TABLE(X)                                                                    \
    X(PROMISE, "promise", "its promise, weight and limits hold")                               \
    X(LIMITS, "limits", "only its limits hold: a more specific agreement makes the promise")   \
    X(DEFAULT_YIELDS, "yields", "it is a default, and another agreement covers the stream")    \
    X(ASLEEP, "asleep", "it is outside its schedule")                                          \
    X(TOO_MANY, "left-out", "more specific ones are as many as may cover one stream")
enum precedence {
#define X(name, label, words) PRECEDENCE_##name,
    PRECEDENCE_TABLE(X)
#undef X
};
const char *precedence_name(enum precedence p);
const char *precedence_words(enum precedence p);

struct precedence_row {
    const struct entity_agreement *agreement;
    enum precedence says;
};

/* Specificity; higher wins: volume 8, host 4, tenant 2, target 1. */
unsigned precedence_rank(const struct selector *sel);

/* Whether it says more than limits. */
bool precedence_speaks(const struct agreement *a);

/* All agreements of @list that select the stream, in order: those that cover it, most specific
 * first, then those that do not. Returns how many cover it (at most PRECEDENCE_MAX_COVER);
 * *@ret_count, at most @max, are in @rows. What does not fit is left out, from the end. */
size_t precedence_of(const struct list *agreements, const struct entity_stream *st,
                     struct precedence_row *rows, size_t max, size_t *ret_count);

#endif

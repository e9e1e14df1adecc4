/* SPDX-License-Identifier: Apache-2.0 */
/* A table of a few streams over two targets, and hosts, limits and controls for it; for tests of
 * gateway/stream. */
#ifndef WEIR_TESTS_UNIT_GATEWAY_STREAM_STAGE_H
#define WEIR_TESTS_UNIT_GATEWAY_STREAM_STAGE_H
#include "base/clock.h"
#include "gateway/stream.h"

#define MAX_STREAMS 4u
#define S           NS_PER_S
#define MS          NS_PER_MS

/* Of the table that is made next; stage_setup() resets them. */
extern struct gateway_config stage_config;
extern struct limit_config stage_limits[16];

/* Two targets, no limits, four streams. */
int stage_setup(void **state);
/* A table without limits, or with the first @count of stage_limits; the caller frees it. */
struct stream_table *stage_table(void);
struct stream_table *stage_table_with_limits(size_t count);
/* Limit number @i, made anew; the caller adds whom it is for. */
struct limit_config *stage_limit(size_t i, const char *name, uint64_t iops);

/* A connection of @host to @volume of the first target. */
struct stream *stage_join(struct stream_table *t, const char *host, const char *volume);
struct control stage_control(const char *id, enum rule_origin origin, uint64_t iops,
                             const char *const *members, size_t count);
/* One control for one member, beside those in force. */
int stage_apply(struct stream_table *t, const char *id, enum rule_origin origin, uint64_t iops,
                const char *member);
/* Whether a control of this id covers the stream. */
bool stage_covers(const struct stream *s, const char *id);
/* A read that must go at once. */
void stage_spend(struct stream_table *t, struct stream *s, uint64_t now_ns);
/* Whether a read would have to wait; it is taken back. */
bool stage_holds(struct stream_table *t, struct stream *s, uint64_t now_ns);

#endif

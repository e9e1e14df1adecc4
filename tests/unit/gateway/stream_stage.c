/* SPDX-License-Identifier: Apache-2.0 */
#include "stream_stage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct gateway_config stage_config;
struct limit_config stage_limits[16];

/* Two targets, no stage_limits, four streams. */
int stage_setup(void **state)
{
    (void)state;
    gateway_config_init(&stage_config);
    stage_config.max_streams = MAX_STREAMS;
    stage_config.max_hold_ns = 10 * S;
    stage_config.target_count = 2;
    for (uint32_t i = 0; i < 2; i++) {
        snprintf(stage_config.targets[i].name, NAME_SIZE, "array%u", i + 1);
        stage_config.targets[i].index = i;
    }
    memset(stage_limits, 0, sizeof stage_limits);
    stage_config.limits = NULL;
    stage_config.limit_count = 0;
    return 0;
}

struct stream_table *stage_table(void)
{
    struct stream_table *t = stream_table_new(&stage_config, 0);
    assert_non_null(t);
    return t;
}

struct stream_table *stage_table_with_limits(size_t count)
{
    stage_config.limits = stage_limits;
    stage_config.limit_count = count;
    struct stream_table *t = stream_table_new(&stage_config, 0);
    stage_config.limits = NULL; /* they are copied */
    stage_config.limit_count = 0;
    assert_non_null(t);
    return t;
}

struct limit_config *stage_limit(size_t i, const char *name, uint64_t iops)
{
    struct limit_config *l = &stage_limits[i];
    memset(l, 0, sizeof *l);
    snprintf(l->name, NAME_SIZE, "%s", name);
    l->limits.rate[GATE_IOPS_TOTAL].rate = iops;
    return l;
}

struct stream *stage_join(struct stream_table *t, const char *host, const char *volume)
{
    return stream_connect(t, &stage_config.targets[0], host, volume, "", 1 << 20, 0);
}

struct control stage_control(const char *id, enum rule_origin origin, uint64_t iops,
                             const char *const *members, size_t count)
{
    struct control c = {.origin = origin, .members = members, .member_count = count};
    snprintf(c.id, sizeof c.id, "%s", id);
    c.limits.rate[GATE_IOPS_TOTAL].rate = iops;
    return c;
}

int stage_apply(struct stream_table *t, const char *id, enum rule_origin origin, uint64_t iops,
                const char *member)
{
    const char *members[1] = {member};
    struct control c = stage_control(id, origin, iops, members, 1);
    return stream_controls_apply(t, &c, 1, false, 0);
}

bool stage_covers(const struct stream *s, const char *id)
{
    for (uint32_t i = 0; i < s->flow.cover_count; i++)
        if (strcmp(stream_rule_control(s->flow.cover[i])->id, id) == 0)
            return true;
    return false;
}

void stage_spend(struct stream_table *t, struct stream *s, uint64_t now_ns)
{
    struct gate_io io = {.op = IO_READ, .bytes = 4096, .arrived_ns = now_ns};
    assert_true(gate_submit(stream_gate(t), &s->flow, &io, now_ns));
}

bool stage_holds(struct stream_table *t, struct stream *s, uint64_t now_ns)
{
    struct gate_io io = {.op = IO_READ, .bytes = 4096, .arrived_ns = now_ns};
    if (gate_submit(stream_gate(t), &s->flow, &io, now_ns))
        return false;
    gate_cancel(stream_gate(t), &io, now_ns);
    return true;
}

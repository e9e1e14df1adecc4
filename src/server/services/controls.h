/* SPDX-License-Identifier: Apache-2.0 */
/* What the SLA services tell a gateway: polls and controls, as plain data. */
#ifndef WEIR_SERVER_SERVICES_CONTROLS_H
#define WEIR_SERVER_SERVICES_CONTROLS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"
#include "qos/gate.h"
#include "qos/sched.h"
#include "qos/window.h"

/* How it shall be with taking hosts, when that is not how it is (said). */
struct poll_drain {
    bool said, bounded;
    uint64_t since, left_ms;
};

struct poll_request {
    uint64_t seq, acked;
    struct poll_drain drain;
};

struct control_item {
    char id[2 * NAME_SIZE]; /* "agreement/NAME", "agreement/NAME/STREAM", "tenant/NAME",
                               "throttle/STREAM", "share/...", "target/NAME" */
    bool planned;
    bool remove;
    char (*member)[STREAM_KEY_SIZE];
    size_t member_count;
    struct gate_limits limits;
    struct sched_terms share;                   /* weight 0: none */
    char target[NAME_SIZE];                     /* "" : no plan; else of this target */
    struct window_plan plan;
    char reason[256];
};

/* Made by the services, owned by the message; freed with control_update_free. One block. */
struct control_update {
    uint64_t epoch;
    uint32_t lease_ms;
    bool full;
    struct control_item *item;
    size_t item_count;
    char (*member)[STREAM_KEY_SIZE]; /* those not given to an item yet */
    size_t member_room;
    void (*give)(void *block);
};

/* Items that are all zero, with room for so many members in all of them; NULL: no memory. */
struct control_update *control_update_new(size_t items, size_t members);
/* The same in @block, aligned as by malloc, of control_update_size bytes; @give takes it back, from
 * whichever thread frees the update. */
size_t control_update_size(size_t items, size_t members);
struct control_update *control_update_place(void *block, size_t items, size_t members,
                                            void (*give)(void *block));
/* Give item @i, which has none, @n members, all "". */
void control_update_members(struct control_update *u, size_t i, size_t n);
void control_update_free(void *update);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of the control protocol: length, then one protobuf Frame; sans-I/O.
 *
 * See docs/protocol.md and control.proto. A frame is 1 byte to FRAME_MAX; anything else ends the
 * session. */
#ifndef WEIR_CONTROL_FRAME_H
#define WEIR_CONTROL_FRAME_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "control.pb-c.h"

#define FRAME_HEADER_SIZE 4u
/* The end of the year 9999: no certificate says a later one (RFC 5280, 4.1.2.5). */
#define FRAME_DATE_MAX_S INT64_C(253402300799)
#define FRAME_MAX (1024u * 1024u)
#define CONTROL_VERSION_MIN 1u
#define CONTROL_VERSION_MAX 1u

/* What a frame may say, checked by frame_unpack so that consumers need not. */
#define FRAME_STRING_MAX 511u    /* bytes of any string */
#define FRAME_STREAMS_MAX 1024u  /* streams in one frame of statistics */
#define FRAME_TARGETS_MAX 64u    /* targets in one frame of statistics */
#define FRAME_LIMITS_MAX 1024u   /* limits in force in one frame of statistics */
#define FRAME_CONTROLS_MAX 8192u /* controls in one frame */
#define FRAME_MEMBERS_MAX 16384u /* members of one control */
#define FRAME_HIST_BUCKETS 1601u /* as HIST_BUCKETS of qos/hist.h (asserted where both are known) */
#define FRAME_RATE_KINDS 6u      /* as GATE_KIND_COUNT of qos/gate.h */
#define FRAME_LEASE_MS_MAX 3600000u /* an hour */
#define FRAME_DRAIN_MS_MAX 604800000u /* a week */
#define FRAME_HEARTBEAT_MS_MIN 50u
#define FRAME_HEARTBEAT_MS_MAX 60000u
#define FRAME_RATE_MAX                                                                             \
    (UINT64_C(1) << 50)              /* per second: far beyond any device, far below overflow */
#define FRAME_BURST_MS_MAX 86400000u /* a day */
#define FRAME_WEIGHT_MAX 100000u     /* as SCHED_WEIGHT_MAX of qos/sched.h */
#define FRAME_TIME_US_MAX UINT64_C(3600000000) /* of objectives, credits and bounds: an hour */
#define FRAME_COST_NS_MAX UINT64_C(1000000000) /* of one page or I/O: a second */
#define FRAME_SLOTS_MILLI_MAX UINT64_C(1000000000)
#define FRAME_LOOK_MS_MAX 1000u /* as WINDOW_LOOK_MS_MAX of qos/window.h */

/* Room for any frame that Weir itself makes: a packed bucket of 3 bytes becomes 12, an operation of
 * 10 bytes becomes 96; sixteen times the largest frame covers both. */
#define FRAME_ARENA_SIZE (16u * FRAME_MAX)

/* A bump arena that protobuf-c unpacks into: one block taken at init, reset per frame, no malloc
 * per message. A frame that needs more than @size is refused (WEIR_E_TOO_LARGE). Not thread-safe.
 * Must not be moved after init: the allocator points back at it. */
struct frame_arena {
    uint8_t *block;
    size_t size, used;
    bool refused; /* something did not fit since the last reset */
    ProtobufCAllocator allocator;
};

/* 0 or -ENOMEM. */
int frame_arena_init(struct frame_arena *a, size_t size);
void frame_arena_fini(struct frame_arena *a);
void frame_arena_reset(struct frame_arena *a);

/* Look at @n bytes: returns the size of the whole frame at the front with its header (> 4), 0 when
 * more bytes are needed, WEIR_E_TOO_LARGE or WEIR_E_PROTO for a length that no frame can have. */
int64_t frame_peek(const void *bytes, size_t n);

/* Unpack the frame at @bytes (whole, header included) into @a. The result lives until the arena is
 * reset. 0, WEIR_E_PROTO (not a Frame, no body, or an enum, size, length or number out of range;
 * docs/protocol.md lists them), WEIR_E_TOO_LARGE. */
int frame_unpack(struct frame_arena *a, const void *bytes, size_t n,
                 const Weir__Control__Frame **ret);

/* Append header and packed @frame to @out; on failure @out is as before. 0, WEIR_E_TOO_LARGE,
 * -ENOMEM. */
int frame_append(struct text *out, const Weir__Control__Frame *frame);

/* "hello", "poll" ...: for logs and refusals. */
const char *frame_body_name(Weir__Control__Frame__BodyCase body);

#endif

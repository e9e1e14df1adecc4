/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of the control protocol: length, then one protobuf Frame; sans-I/O.
 *
 * See docs/protocol.md and control.proto. A frame is 1 byte to FRAME_MAX; anything else ends the session. */
#ifndef WEIR_CONTROL_FRAME_H
#define WEIR_CONTROL_FRAME_H
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "control.pb-c.h"

#define FRAME_HEADER_SIZE 4u
#define FRAME_MAX (1024u * 1024u)
#define CONTROL_VERSION_MIN 1u
#define CONTROL_VERSION_MAX 1u

/* A bump arena that protobuf-c unpacks into: one block taken at init, reset per frame, no malloc per
 * message. A frame that needs more than @size is refused (WEIR_E_TOO_LARGE). Not thread-safe. */
struct frame_arena {
    uint8_t *block;
    size_t size, used;
    ProtobufCAllocator allocator;
};

int frame_arena_init(struct frame_arena *a, size_t size);
void frame_arena_fini(struct frame_arena *a);
void frame_arena_reset(struct frame_arena *a);

/* Look at @n bytes: returns the size of the whole frame at the front with its header (> 4), 0 when more
 * bytes are needed, WEIR_E_TOO_LARGE or WEIR_E_PROTO for a length that no frame can have. */
int64_t frame_peek(const void *bytes, size_t n);

/* Unpack the frame at @bytes (whole, header included) into @a. The result lives until the arena is reset.
 * 0, WEIR_E_PROTO (not a Frame, no body, or an enum or size out of range), WEIR_E_TOO_LARGE. */
int frame_unpack(struct frame_arena *a, const void *bytes, size_t n, const Weir__Control__Frame **ret);

/* Append header and packed @frame to @out. 0, WEIR_E_TOO_LARGE, -ENOMEM. */
int frame_append(struct text *out, const Weir__Control__Frame *frame);

#endif

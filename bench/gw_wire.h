/* SPDX-License-Identifier: Apache-2.0 */
/* One frame of the control protocol inside three wires: Weir's own, ZMTP 3.0 (libzmq) and SP over
 * TCP (nng); pure.
 *
 * So that one and the same load meets every server: what differs is the server. On Weir's wire the
 * gateway proves its key; on the others there is none, and Hello is its first message. */
#ifndef WEIR_BENCH_GW_WIRE_H
#define WEIR_BENCH_GW_WIRE_H
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

enum gw_wire { GW_WIRE_WEIR, GW_WIRE_ZMTP, GW_WIRE_SP, GW_WIRE_COUNT };

/* -1: no such name. */
int gw_wire_parse(const char *name);

/* What a peer says first, before any message; "" on Weir's wire. At most 128 bytes. */
size_t gw_wire_greeting(enum gw_wire w, uint8_t out[128]);
/* How many bytes the server's own greeting has. */
size_t gw_wire_greeting_size(enum gw_wire w);

/* Room before a frame for what wraps it: text_append of so many bytes, then the frame, then
 * gw_wire_seal with the place where the room begins. @request: number of an SP request. */
size_t gw_wire_room(enum gw_wire w);
void gw_wire_seal(enum gw_wire w, struct text *out, size_t at, uint32_t request);

/* Bytes of the whole message at the front of @bytes, 0: more are needed, negative: not this wire.
 * *@ret_frame and *@ret_size: the frame inside; size 0: a command of the wire, to be skipped. */
int64_t gw_wire_peek(enum gw_wire w, const uint8_t *bytes, size_t n, const uint8_t **ret_frame,
                     size_t *ret_size);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* ZMTP 3.0 (rfc.zeromq.org/spec/23): greeting of 64 bytes with the NULL mechanism, a READY command
 * each way, then frames: flags, length in 1 or 8 bytes, body. SP over TCP (nanomsg,
 * sp-tcp-mapping): 8 bytes of greeting, then messages behind 8 bytes of length; a request of REQ
 * begins with 4 bytes of request id, which the reply brings back. */
#include "gw_wire.h"

#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "control/frame.h"

#define ZMTP_GREETING 64u
#define ZMTP_LONG 0x02u
#define ZMTP_COMMAND 0x04u
#define SP_GREETING 8u
#define SP_REQ 0x30u
#define SP_HEADER 8u
#define SP_ID 4u
#define MESSAGE_MAX (2u * FRAME_MAX)

int gw_wire_parse(const char *name)
{
    static const char *const names[GW_WIRE_COUNT] = {"weir", "zmtp", "sp"};
    for (int i = 0; i < GW_WIRE_COUNT; i++) {
        if (strcmp(names[i], name) == 0)
            return i;
    }
    return -1;
}

static size_t zmtp_greeting(uint8_t out[128])
{
    static const uint8_t ready[] = {
        ZMTP_COMMAND, 41, 5,   'R', 'E', 'A', 'D', 'Y', 11,  'S', 'o', 'c', 'k', 'e', 't',
        '-',          'T', 'y', 'p', 'e', 0,   0,   0,   6,   'D', 'E', 'A', 'L', 'E', 'R',
        8,            'I', 'd', 'e', 'n', 't', 'i', 't', 'y', 0,   0,   0,   0};
    _Static_assert(sizeof(ready) == 43, "flags, length and 41 bytes");
    memset(out, 0, ZMTP_GREETING);
    out[0] = 0xFF;
    out[9] = 0x7F;
    out[10] = 3;
    memcpy(out + 12, "NULL", 4);
    memcpy(out + ZMTP_GREETING, ready, sizeof(ready));
    return ZMTP_GREETING + sizeof(ready);
}

size_t gw_wire_greeting(enum gw_wire w, uint8_t out[128])
{
    static const uint8_t sp[SP_GREETING] = {0, 'S', 'P', 0, 0, SP_REQ, 0, 0};
    switch (w) {
    case GW_WIRE_ZMTP:
        return zmtp_greeting(out);
    case GW_WIRE_SP:
        memcpy(out, sp, sizeof(sp));
        return sizeof(sp);
    case GW_WIRE_WEIR:
    case GW_WIRE_COUNT:
        break;
    }
    return 0;
}

size_t gw_wire_greeting_size(enum gw_wire w)
{
    return w == GW_WIRE_ZMTP ? ZMTP_GREETING : w == GW_WIRE_SP ? SP_GREETING : 0;
}

size_t gw_wire_room(enum gw_wire w)
{
    return w == GW_WIRE_ZMTP ? 9 : w == GW_WIRE_SP ? SP_HEADER + SP_ID : 0;
}

static void put_be64(uint8_t *out, uint64_t n)
{
    for (unsigned i = 0; i < 8; i++)
        out[i] = (uint8_t)(n >> (56 - 8 * i));
}

static uint64_t get_be64(const uint8_t *in)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < 8; i++)
        n = n << 8 | in[i];
    return n;
}

void gw_wire_seal(enum gw_wire w, struct text *out, size_t at, uint32_t request)
{
    uint8_t *room = (uint8_t *)out->data + at;
    weir_assert(out->len >= at + gw_wire_room(w));
    if (w == GW_WIRE_ZMTP) {
        room[0] = ZMTP_LONG;
        put_be64(room + 1, out->len - at - 9);
    } else if (w == GW_WIRE_SP) {
        put_be64(room, out->len - at - SP_HEADER);
        request |= UINT32_C(1) << 31;
        for (unsigned i = 0; i < SP_ID; i++)
            room[SP_HEADER + i] = (uint8_t)(request >> (24 - 8 * i));
    }
}

static int64_t zmtp_peek(const uint8_t *bytes, size_t n, const uint8_t **ret_frame,
                         size_t *ret_size)
{
    if (n < 2)
        return 0;
    size_t head = (bytes[0] & ZMTP_LONG) != 0 ? 9 : 2;
    if (n < head)
        return 0;
    uint64_t size = head == 9 ? get_be64(bytes + 1) : bytes[1];
    if (size > MESSAGE_MAX)
        return WEIR_E_PROTO;
    if (n < head + size)
        return 0;
    *ret_frame = bytes + head;
    *ret_size = (bytes[0] & ZMTP_COMMAND) != 0 ? 0 : (size_t)size;
    return (int64_t)(head + size);
}

static int64_t sp_peek(const uint8_t *bytes, size_t n, const uint8_t **ret_frame, size_t *ret_size)
{
    if (n < SP_HEADER)
        return 0;
    uint64_t size = get_be64(bytes);
    if (size < SP_ID || size > MESSAGE_MAX)
        return WEIR_E_PROTO;
    if (n < SP_HEADER + size)
        return 0;
    *ret_frame = bytes + SP_HEADER + SP_ID;
    *ret_size = (size_t)size - SP_ID;
    return (int64_t)(SP_HEADER + size);
}

int64_t gw_wire_peek(enum gw_wire w, const uint8_t *bytes, size_t n, const uint8_t **ret_frame,
                     size_t *ret_size)
{
    if (w == GW_WIRE_ZMTP)
        return zmtp_peek(bytes, n, ret_frame, ret_size);
    if (w == GW_WIRE_SP)
        return sp_peek(bytes, n, ret_frame, ret_size);
    int64_t size = frame_peek(bytes, n);
    *ret_frame = bytes;
    *ret_size = size > 0 ? (size_t)size : 0;
    return size;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes between a gateway and its server: frames that come whole, in pieces, or break off.
 *
 * Problem: who reads a connection must take no frame before its last byte is there, and drop what
 * came of one when the connection breaks. Half a set of controls that is applied, or the rest of
 * one that is read as the beginning of another, would be worse than none.
 *
 * Model: a connection for each session, of two directions. What comes of one is gathered and cut
 * into frames as gateway/link.c does it, by control/frame.h. The body of a frame is its number
 * again and again, as long as what it says, so that one put together from two is seen. It comes
 *
 *   whole    as a rule;
 *   in two   while frames dribble (SIM_DRIBBLE): cut anywhere, also in its length; the rest comes
 *            up to so much later, and before any other frame;
 *   torn     (SIM_TEAR): cut likewise, and then the connection breaks. What came is never read.
 *
 * A connection of which a piece is lost in a partition breaks as well, since bytes are not left
 * out; and what was sent behind a break does not come.
 *
 * Invariants, checked: (1) where a frame's last byte came, that frame is what is read, whole, and
 * nothing is left (check_broken); (2) only such a message is handled (check_whole). */
#include <string.h>

#include "base/assert.h"
#include "control/frame.h"
#include "sim/private.h"

#define UNITS_MAX 64u /* of a body */

static bool is_to_gateway(const struct message *m)
{
    return m->kind == TO_POLL || m->kind == TO_CONTROL;
}

static size_t units_of(const struct message *m)
{
    size_t n = 1;
    if (m->kind == TO_CONTROL)
        n += ((const struct control_update *)m->body)->item_count;
    else if (m->kind == FROM_REPORT)
        n += ((const struct report *)m->body)->stream_count;
    return n < UNITS_MAX ? n : UNITS_MAX;
}

static void write_frame(char *out, const struct message *m)
{
    uint32_t body = m->size - FRAME_HEADER_SIZE;
    for (uint32_t i = 0; i < FRAME_HEADER_SIZE; i++)
        out[i] = (char)(body >> 8 * (FRAME_HEADER_SIZE - 1 - i));
    for (uint32_t i = 0; i < body; i += sizeof m->frame)
        memcpy(out + FRAME_HEADER_SIZE + i, &m->frame, sizeof m->frame);
}

/* What was read is @m, and all that there was. */
static bool is_frame(const struct text *in, const struct message *m)
{
    char frame[FRAME_HEADER_SIZE + UNITS_MAX * sizeof m->frame];
    write_frame(frame, m);
    return frame_peek(in->data, in->len) == (int64_t)m->size && in->len == m->size &&
           memcmp(in->data, frame, m->size) == 0;
}

/* That of @m; what came of an earlier one is dropped. */
static struct sim_wire *connection(const struct message *m)
{
    struct sim_wire *w = &m->node->wire[is_to_gateway(m)];
    if (w->session == m->session)
        return w;
    w->session = m->session;
    w->broken = false;
    if (!m->node->sim->config->keeps_half)
        text_clear(&w->in);
    return w;
}

/* @bytes more of @m came. True: its last one did. */
static bool gather(struct sim_wire *w, struct message *m, uint32_t bytes)
{
    struct sim *s = m->node->sim;
    char frame[FRAME_HEADER_SIZE + UNITS_MAX * sizeof m->frame];
    write_frame(frame, m);
    text_append(&w->in, frame + m->came, bytes);
    weir_assert(!w->in.failed);
    m->came += bytes;
    if (m->came < m->size)
        return false;
    if (!is_frame(&w->in, m))
        check_broken(s, "gateway %u: a frame was put together from two, at %s", m->node->index,
                     is_to_gateway(m) ? "the gateway" : "the server");
    text_consume(&w->in, m->size < w->in.len ? m->size : w->in.len);
    return true;
}

/* The connection breaks, and @m with it. */
static void break_off(struct sim_wire *w, struct message *m, bool stands)
{
    w->broken = true;
    if (stands)
        node_session_down(m->node, true);
    message_free(m);
}

static void piece(struct sim *s, const struct event *e)
{
    struct message *m = e->what;
    struct sim_node *n = m->node;
    struct sim_wire *w = connection(m);
    uint32_t bytes = (uint32_t)e->number;
    bool stands = n->up && n->connected && n->hello.session == m->session;
    if (w->broken || (is_to_gateway(m) && !stands)) {
        message_free(m);
    } else if (n->partitioned && bytes == m->size) {
        message_free(m); /* as if it had not been sent */
    } else if (n->partitioned) {
        break_off(w, m, stands);
    } else if (gather(w, m, bytes)) {
        server_deliver(m);
    } else if (m->torn) {
        s->result->torn_frames++;
        break_off(w, m, stands);
    } else {
        events_add(&s->events, m->rest_ns, piece, m, m->size - m->came);
    }
}

uint64_t wire_send(struct sim_node *n, struct message *m, uint64_t at)
{
    struct sim *s = n->sim;
    bool *tear = &n->tear[is_to_gateway(m)];
    m->frame = ++s->frames;
    m->size = (uint32_t)(FRAME_HEADER_SIZE + units_of(m) * sizeof m->frame);
    m->torn = *tear;
    uint32_t first = m->size;
    if (m->torn || n->dribble_ns > 0)
        first = 1 + (uint32_t)rng_below(&s->thread_rng, m->size - 1);
    if (first < m->size)
        m->rest_ns = at + 1 + (n->dribble_ns > 0 ? rng_below(&s->thread_rng, n->dribble_ns) : 0);
    *tear = false;
    events_add(&s->events, at, piece, m, first);
    return m->rest_ns > at ? m->rest_ns : at;
}

bool wire_holds(const struct event *e)
{
    return e->fire == piece;
}

void wire_init(struct sim_node *n)
{
    for (int way = 0; way < 2; way++)
        text_init(&n->wire[way].in, 2 * (FRAME_HEADER_SIZE + UNITS_MAX * sizeof(uint64_t)));
}

void wire_fini(struct sim_node *n)
{
    for (int way = 0; way < 2; way++)
        text_fini(&n->wire[way].in);
}

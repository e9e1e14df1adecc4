/* SPDX-License-Identifier: Apache-2.0 */
/* Cost model, and finding it.
 *
 * Problem: shares must be divided in device time, not in I/Os, and the wait before a device must be
 * told from its service; but nobody knows a device's service times beforehand.
 *
 * Model: two points of a line. For each direction I/Os are put into two classes by size; a round's
 * mean latency of a class is an upper bound of its service time, tight when little waits. The least
 * of the last rounds is taken (as BBR takes the least round trip), so that a busy second does not
 * make everything look dearer, and a device that became slower is believed after that many rounds.
 * The line through both classes gives base and page; with one class only the slope is that of the
 * default model, as far as the mean allows.
 *
 * Invariants: costs are at least 1 and at most COST_MAX_NS; base_ns and page_ns are never both 0 in
 * what was found. */
#include "qos/cost.h"

#include <string.h>

#include "base/assert.h"

#define LEARN_SMALL_BYTES 16384u
#define PAGES_MAX (UINT64_C(1) << 24) /* times 2^36 ns overflows nothing */
#define LEARN_LEAST       8u /* answers that a class needs in a round to count */

struct cost_model cost_default(void)
{
    return (struct cost_model){.base_ns = {92000, 92000}, .page_ns = {8192, 8192}};
}

bool cost_is_set(const struct cost_model *m)
{
    return (m->base_ns[0] | m->base_ns[1] | m->page_ns[0] | m->page_ns[1]) != 0;
}

static uint64_t pages_of(uint64_t bytes)
{
    return bytes / COST_PAGE + (bytes % COST_PAGE != 0);
}

uint64_t cost_of(const struct cost_model *m, enum io_op op, uint64_t bytes)
{
    enum io_direction dir = io_op_direction(op);
    if (dir == IO_DIR_NONE)
        return op == IO_FLUSH && m->base_ns[IO_DIR_WRITE] > 0 ? m->base_ns[IO_DIR_WRITE] : 1;
    uint64_t pages = op == IO_TRIM ? 1 : pages_of(bytes);
    pages = pages < PAGES_MAX ? pages : PAGES_MAX;
    uint64_t cost = m->base_ns[dir] + pages * m->page_ns[dir];
    return cost < 1 ? 1 : cost > COST_MAX_NS ? COST_MAX_NS : cost;
}

void cost_learn_init(struct cost_learn *l)
{
    memset(l, 0, sizeof(*l));
    l->found = cost_default();
}

void cost_learn_answer(struct cost_learn *l, enum io_op op, uint64_t bytes, uint64_t latency_ns)
{
    if (op != IO_READ && op != IO_WRITE)
        return;
    struct cost_learn_class *c =
        &l->of[op == IO_WRITE ? IO_DIR_WRITE : IO_DIR_READ][bytes > LEARN_SMALL_BYTES];
    c->ios++;
    c->pages += pages_of(bytes);
    c->latency_ns += latency_ns;
}

/* The least mean latency of the remembered rounds, and the pages it belongs to. False: none. */
static bool class_least(const struct cost_learn_class *c, double *ret_pages, double *ret_ns)
{
    bool any = false;
    for (uint32_t i = 0; i < COST_LEARN_ROUNDS; i++) {
        if (c->round[i].pages == 0)
            continue;
        double ns = (double)c->round[i].latency_ns, pages = (double)c->round[i].pages / 16.0;
        if (any && ns >= *ret_ns)
            continue;
        any = true;
        *ret_ns = ns;
        *ret_pages = pages;
    }
    return any;
}

static void line_of(struct cost_learn *l, uint32_t dir)
{
    const struct cost_model d = cost_default();
    double p0 = 0, t0 = 0, p1 = 0, t1 = 0;
    bool small = class_least(&l->of[dir][0], &p0, &t0);
    bool large = class_least(&l->of[dir][1], &p1, &t1);
    double page = (double)d.page_ns[dir];
    if (!small && !large)
        return;
    if (small && large && p1 > p0 + 1 && t1 > t0)
        page = (t1 - t0) / (p1 - p0);
    double p = small ? p0 : p1, t = small ? t0 : t1;
    if (p * page > 0.9 * t)
        page = 0.9 * t / p;
    double base = t - p * page;
    l->found.base_ns[dir] = base > 1 ? (uint64_t)base : 1;
    l->found.page_ns[dir] = (uint64_t)page;
    l->any = true;
}

bool cost_learn_round(struct cost_learn *l)
{
    const struct cost_model before = l->found;
    for (uint32_t dir = 0; dir < 2; dir++) {
        for (uint32_t k = 0; k < COST_LEARN_CLASSES; k++) {
            struct cost_learn_class *c = &l->of[dir][k];
            bool counts = c->ios >= LEARN_LEAST;
            /* Mean pages in sixteenths, so that means between whole pages keep their place. */
            c->round[l->at].pages = counts ? 16 * c->pages / c->ios : 0;
            c->round[l->at].latency_ns = counts ? c->latency_ns / c->ios : 0;
            c->ios = c->pages = c->latency_ns = 0;
        }
        line_of(l, dir);
    }
    l->at = (l->at + 1) % COST_LEARN_ROUNDS;
    return memcmp(&before, &l->found, sizeof(before)) != 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever bytes come, a frame is refused, or is one that every consumer may trust and that can be
 * said again.
 *
 * Goal: no crash, no unbounded memory, and what frame_unpack lets through keeps the promises of
 * frame.h. Method: the input is taken as a stream of frames, and once more as the body of one
 * frame. Each that unpacks is walked (strings end, arrays are as long as they say), turned into the
 * server's plain form if it is statistics, packed again, and unpacked again to the same bytes. */
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "control/frame.h"
#include "server/mailbox/slab.h"
#include "server/monitor/report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ARENA (2u << 20)

static void walk_report(const Weir__Control__Statistics *s)
{
    struct slab *slab = slab_new(64u << 20);
    weir_assert(slab != NULL);
    struct report *r = report_new(s, 1, slab);
    weir_assert(r != NULL);
    for (size_t i = 0; i < r->stream_count; i++) {
        const struct report_stream *st = &r->stream[i];
        weir_assert(strlen(st->held_by) < sizeof(st->held_by));
        if (st->has_info)
            weir_assert(st->host[0] != '\0');
        for (size_t h = 0; h < st->hist_count; h++) {
            for (size_t b = 0; b < st->hist[h].bucket_count; b++)
                weir_assert(st->hist[h].bucket[b].index < HIST_BUCKETS);
        }
    }
    report_free(r);
    slab_free(slab);
}

static void walk_controls(const Weir__Control__SetControls *s)
{
    size_t bytes = 0;
    for (size_t i = 0; i < s->n_controls; i++) {
        bytes += strlen(s->controls[i]->id);
        for (size_t m = 0; m < s->controls[i]->n_members; m++)
            bytes += strlen(s->controls[i]->members[m]);
        for (size_t k = 0; k < s->controls[i]->n_rates; k++)
            weir_assert(s->controls[i]->rates[k]->rate > 0);
    }
    weir_assert(bytes <= FRAME_MAX);
}

static void one_frame(const uint8_t *bytes, size_t n)
{
    struct frame_arena a, b;
    const Weir__Control__Frame *f, *g;
    struct text once, twice;
    int r = frame_arena_init(&a, ARENA);
    weir_assert(r == 0);
    if (frame_unpack(&a, bytes, n, &f) == 0) {
        weir_assert(a.used <= a.size);
        if (f->body_case == WEIR__CONTROL__FRAME__BODY_STATISTICS)
            walk_report(f->statistics);
        if (f->body_case == WEIR__CONTROL__FRAME__BODY_SET_CONTROLS)
            walk_controls(f->set_controls);
        text_init(&once, 2 * FRAME_MAX);
        text_init(&twice, 2 * FRAME_MAX);
        r = frame_arena_init(&b, 4 * ARENA);
        weir_assert(r == 0);
        if (frame_append(&once, f) == 0) {
            r = frame_unpack(&b, once.data, once.len, &g);
            weir_assert(r == 0);
            r = frame_append(&twice, g);
            weir_assert(r == 0);
            weir_assert(once.len == twice.len);
            weir_assert(memcmp(once.data, twice.data, once.len) == 0);
        }
        frame_arena_fini(&b);
        text_fini(&once);
        text_fini(&twice);
    }
    frame_arena_fini(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        int64_t n = frame_peek(data + at, size - at);
        if (n <= 0)
            break;
        one_frame(data + at, (size_t)n);
        at += (size_t)n;
    }
    if (size == 0 || size > FRAME_MAX)
        return 0;
    struct text whole;
    text_init(&whole, FRAME_MAX + FRAME_HEADER_SIZE);
    const uint8_t header[FRAME_HEADER_SIZE] = {(uint8_t)(size >> 24), (uint8_t)(size >> 16),
                                               (uint8_t)(size >> 8), (uint8_t)size};
    text_append(&whole, header, sizeof(header));
    text_append(&whole, data, size);
    weir_assert(!whole.failed);
    one_frame((const uint8_t *)whole.data, whole.len);
    text_fini(&whole);
    return 0;
}

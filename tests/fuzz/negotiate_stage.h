/* SPDX-License-Identifier: Apache-2.0 */
/* What both fuzz targets of the negotiation share: a target's settings and the four buffers. */
#ifndef WEIR_TESTS_FUZZ_NEGOTIATE_STAGE_H
#define WEIR_TESTS_FUZZ_NEGOTIATE_STAGE_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/text.h"
#include "gateway/negotiate.h"
#include "proto/nbd/handshake.h"
#include "proto/nbd/option.h"

struct stage {
    struct target_config target;
    struct volume_config volumes[2];
    struct volume_config *list[2];
    struct negotiation *n;
    struct text from_host, to_target, from_target, to_host;
    enum negotiate_state state;
};

/* Bit 0 of @choice: with volumes; bit 1: with a default export. */
static inline struct stage *stage_new(uint8_t choice)
{
    struct stage *s = calloc(1, sizeof *s);

    weir_assert(s != NULL);
    strcpy(s->volumes[0].name, "alpha");
    strcpy(s->volumes[0].export_name, "lun-1");
    strcpy(s->volumes[1].name, "beta");
    strcpy(s->volumes[1].export_name, "lun-2");
    s->list[0] = &s->volumes[0];
    s->list[1] = &s->volumes[1];
    s->target.volumes = s->list;
    s->target.volume_count = (choice & 1) != 0 ? 2 : 0;
    if ((choice & 2) != 0)
        strcpy(s->target.export_name, "main");
    text_init(&s->from_host, 1 << 24);
    text_init(&s->to_target, 1 << 24);
    text_init(&s->from_target, 1 << 24);
    text_init(&s->to_host, 1 << 24);
    s->n = negotiate_new(&s->target);
    weir_assert(s->n != NULL);
    s->state = NEGOTIATE_RUNNING;
    return s;
}

static inline void stage_step(struct stage *s)
{
    s->state = negotiate_step(s->n, &s->from_host, &s->to_target, &s->from_target, &s->to_host);
    weir_assert(s->state != NEGOTIATE_FAILED || negotiate_reason(s->n)[0] != '\0');
    weir_assert(s->state != NEGOTIATE_ENDED || negotiate_reason(s->n)[0] != '\0');
    if (s->state == NEGOTIATE_DONE) {
        const struct negotiate_result *r = negotiate_result(s->n);

        weir_assert(memchr(r->export_name, '\0', sizeof r->export_name) != NULL);
        weir_assert((r->volume != NULL) == (s->target.volume_count > 0));
        weir_assert(r->volume == NULL || strcmp(r->volume->name, r->export_name) == 0);
    }
}

static inline void stage_free(struct stage *s)
{
    negotiate_free(s->n);
    text_fini(&s->from_host);
    text_fini(&s->to_target);
    text_fini(&s->from_target);
    text_fini(&s->to_host);
    free(s);
}

#endif

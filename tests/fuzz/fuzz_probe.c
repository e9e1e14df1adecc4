/* SPDX-License-Identifier: Apache-2.0 */
/* What a target says to the server's probe: the first byte says whether TLS is asked for and in
 * what pieces the rest comes; TLS itself is taken for done when both agree to it. Whatever comes,
 * the talk goes forward or fails with words, asks for nothing but what a probe asks for, and keeps
 * its bounds. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "proto/nbd/request.h"
#include "server/resource/talk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The owner's part; what is asked is read off and thrown away. */
static void act(struct talk *t)
{
    struct nbd_request r;
    enum talk_state before = t->state;
    if (t->state == TALK_SECURE)
        talk_secured(t);
    else if (t->state == TALK_OPEN && t->size >= 512)
        talk_read(t, 0, 512);
    else if (t->state == TALK_OPEN || t->state == TALK_DONE)
        talk_bye(t);
    if ((before == TALK_OPEN || before == TALK_DONE) && !t->out.failed) {
        const uint8_t *last = (const uint8_t *)t->out.data + t->out.len - NBD_REQUEST_SIZE;
        weir_assert(t->out.len >= NBD_REQUEST_SIZE);
        weir_assert(nbd_request_parse(last, NBD_REQUEST_SIZE, false, &r) == NBD_REQUEST_SIZE);
        weir_assert(r.type == (t->state == TALK_BYE ? NBD_CMD_DISC : NBD_CMD_READ));
    }
    text_clear(&t->out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct talk *t = malloc(sizeof(*t));
    weir_assert(t != NULL);
    size_t piece = (data[0] >> 1) == 0 ? size : data[0] >> 1;
    talk_init(t, "export", (data[0] & 1) != 0);
    for (size_t at = 1; at < size && t->state != TALK_FAILED; at += piece) {
        enum talk_state before = t->state;
        talk_take(t, data + at, size - at < piece ? size - at : piece);
        weir_assert(t->state >= before);
        weir_assert(t->in_len < sizeof(t->in));
        weir_assert((t->state == TALK_FAILED) == (t->words[0] != '\0'));
        act(t);
        weir_assert(t->state == TALK_FAILED || t->state >= before);
    }
    talk_fini(t);
    free(t);
    return 0;
}

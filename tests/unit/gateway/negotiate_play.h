/* SPDX-License-Identifier: Apache-2.0 */
/* A stage for the relayed negotiation: both peers' lines, and a recording of all turns.
 *
 * teardown() plays the recording again one byte at a time: outputs, state, reason and result
 * must be the same. */
#ifndef WEIR_TESTS_NEGOTIATE_PLAY_H
#define WEIR_TESTS_NEGOTIATE_PLAY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rng.h"
#include "base/text.h"
#include "gateway/negotiate.h"
#include "proto/nbd/handshake.h"
#include "proto/nbd/option.h"

#define TURNS_MAX 4096
#define ROOM      (64u << 20)

struct turn {
    bool host;
    size_t from, to; /* of play.tape */
};

struct play {
    struct target_config target;
    struct volume_config volumes[3];
    struct volume_config *volume_list[3];
    struct negotiation *n;
    struct text from_host, to_target, from_target, to_host;
    struct text tape, all_to_target, all_to_host; /* everything, for the second playing */
    struct turn turns[TURNS_MAX];
    size_t turn_count;
    struct text scratch;
    enum negotiate_state state;
};

extern const struct nbd_rep_info EXPORT, BLOCKS;

void play_new(void **state, size_t volume_count, const char *default_export);
int setup_open(void **state);
int setup_default_export(void **state);
int setup_volumes(void **state);
void step(struct play *p);
void say(struct play *p, bool host, const void *bytes, size_t n);
void host_says(struct play *p);
void target_says(struct play *p);
void drain(struct text *from, struct text *all);
void host_hears(struct play *p);
void target_hears(struct play *p);
void assert_quiet(struct play *p);
void assert_failed(struct play *p, bool host, const char *reason);
void play_again(struct play *p, struct rng *rng);
int teardown(void **state);
struct nbd_bytes str(const char *s);
void put_greeting(struct play *p, uint16_t flags);
void put_flags(struct play *p, uint32_t flags);
void put_option(struct play *p, uint32_t type, const void *payload, size_t n);
void put_go(struct play *p, uint32_t type, const char *name);
void put_meta(struct play *p, uint32_t type, const char *name);
void put_final(struct play *p, uint32_t option, uint32_t type, const char *words);
void put_info(struct play *p, uint32_t option, const struct nbd_rep_info *info);
void put_name(struct play *p, uint32_t option, const char *name);
void put_server(struct play *p, const char *name, const char *description);
void open_with(struct play *p, uint32_t flags);
void go_to_the_end(struct play *p, const char *ours, const char *theirs);
void put_option_header(struct play *p, uint32_t type, uint32_t length);
void put_reply_header(struct play *p, uint32_t option, uint32_t type, uint32_t length);
void bare_option(struct play *p, uint32_t option, uint32_t reply, const char *words);
void answered_here(struct play *p, uint32_t option, uint32_t error, const char *words);

#endif

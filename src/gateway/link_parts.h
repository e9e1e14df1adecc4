/* SPDX-License-Identifier: Apache-2.0 */
/* The link's parts beside the session itself: statistics, controls, surge. Used by link*.c only. */
#ifndef WEIR_GATEWAY_LINK_PARTS_H
#define WEIR_GATEWAY_LINK_PARTS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/auth.h"
#include "control/frame.h"
#include "gateway/link.h"

/* Slots that the stream table can have: max_streams, and a default stream for each target. */
size_t link_max_slots(const struct gateway_config *config);

/* ---- TLS (link_tls.c): how the server is known when it is not on this machine. */
struct link_peer;
/* Whether it is needed where @p is. */
bool link_tls_wanted(const struct gateway_config *c, const struct link_peer *p);
/* Begin; p->key is loaded. 0, or an error code with words. */
int link_tls_begin(const struct gateway_config *c, struct link_peer *p, char *words, size_t size);
/* Go on. 1: it stands, the server is the one, and p->auth has its channel; 0: later; an error code
 * with words. */
int link_tls_step(const struct gateway_config *c, struct link_peer *p, char *words, size_t size);
/* Enrolled: know this server again. 0 or -errno. */
int link_tls_remember(const struct gateway_config *c, const struct link_peer *p);

/* ---- statistics (link_stats.c): what answers polls, from whole readings of the streams'
 * meters. */
struct link_stats;
struct link_stats *link_stats_new(struct link *l);
void link_stats_free(struct link_stats *s);
/* A poll came: answer it, bounded per round; the newest of those that wait is answered next. */
void link_stats_poll(struct link_stats *s, const Weir__Control__Poll *p);
/* What was to be sent has gone: go on if packing paused for it. */
void link_stats_drained(struct link_stats *s);
/* The session ended: what was sent in part is void. */
void link_stats_abort(struct link_stats *s);

/* ---- controls (link_controls.c): epochs, lease, the copy on disk. */
struct link_controls;
struct link_controls *link_controls_new(struct link *l);
void link_controls_free(struct link_controls *c);
/* Apply what an earlier life left in <state_dir>/controls. A damaged file is set aside and said. */
void link_controls_load(struct link_controls *c);
/* Instead: apply what the worker before this one left in the ledger, with what is left of its
 * lease. False: there was none. */
bool link_controls_resume(struct link_controls *c);
/* From now on another worker writes the ledger: apply what it leaves there, ten times a second. */
void link_controls_follow(struct link_controls *c);
/* A new session: the first full set is taken whatever its epoch. */
void link_controls_session(struct link_controls *c);
/* @raw: the frame as it came, @n bytes; @s is it unpacked. Applies, and sends the
 * acknowledgement. */
void link_controls_set(struct link_controls *c, const Weir__Control__SetControls *s,
                       const void *raw, size_t n);
uint64_t link_controls_epoch(const struct link_controls *c);
/* No full set was applied in this session yet: the server does not know what is in force. */
bool link_controls_first(const struct link_controls *c);
/* Of planned controls; 0: none runs. */
uint64_t link_controls_lease_left(const struct link_controls *c, uint64_t now_ns);

/* ---- surge (link_surge.c): the early warning between two polls. */
struct link_surge;
struct link_surge *link_surge_new(struct link *l);
void link_surge_free(struct link_surge *s);
void link_surge_start(struct link_surge *s);
void link_surge_stop(struct link_surge *s);

/* ---- draining (link_drain.c) */
struct link_drain;
/* Reads what an earlier life kept, once in a ledger's life. NULL: no memory. */
struct link_drain *link_drain_new(struct link *l);
void link_drain_free(struct link_drain *d);
void link_drain_word(struct link_drain *d, const Weir__Control__Drain *word);
/* By word of people on this machine. Returns whether it was drained. */
bool link_drain_end(struct link_drain *d);
/* The file's content, with its NUL. 0 or WEIR_E_PARSE. */
int link_drain_parse(const char *text, uint64_t *ret_since);

/* ---- rotation (link_rekey.c) */
struct link_rekey;
/* NULL: no memory. */
struct link_rekey *link_rekey_new(struct link *l);
void link_rekey_free(struct link_rekey *k);
void link_rekey_word(struct link_rekey *k, const Weir__Control__Rekey *r);
/* KeyConfirm; @exchange NULL: after an enrolment. */
void link_rekey_say(struct link *l, const char *key_id, const uint8_t key[AUTH_KEY_SIZE],
                    const uint8_t *exchange);

/* ---- the other way round (link_listen.c). 0 or -errno. */
struct link_listen;
int link_listen_new(struct link *l, struct link_listen **ret);
void link_listen_free(struct link_listen *n);
/* A session stands: whoever else is here goes. NULL is fine. */
void link_listen_settled(struct link_listen *n);
int link_listen_address(const struct link_listen *n, char *out, size_t size);

#endif

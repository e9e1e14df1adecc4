/* SPDX-License-Identifier: Apache-2.0 */
/* Views of every SLA process asked, put together, ordered and paged. */
#ifndef WEIR_SERVER_APP_VIEWS_H
#define WEIR_SERVER_APP_VIEWS_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "server/app/exchange.h"
#include "server/sla.h"

struct app;
struct request;

/* Put the question to every SLA process: threads->services_count answers. @name "": all. */
void views_ask(struct exchange *x, struct app *app, enum view_kind kind, const char *name,
               bool histograms);

/* The answers [first, first + services_count) in one new array; *@ret_failed (may be NULL) counts
 * the processes that gave none. Gateways and streams of exchange.earlier that are missing are
 * added, each stands there once. */
json_t *views_gather(const struct exchange *x, const struct app *app, size_t first,
                     size_t *ret_failed);

/* What views_gather gives for each view of @x, for exchange.earlier of another round. NULL: no
 * memory. */
json_t *views_keep(const struct exchange *x, const struct app *app);
/* Whether a gateway moved while the views of @x were asked for: then it may be in none of the
 * answers, or in two. */
bool views_moved(const struct exchange *x, const struct app *app);

/* Join items of one name that came from several processes. New references. */
json_t *views_join_targets(const json_t *items);
json_t *views_join_agreements(const json_t *items);

/* 503 when no process answered; else marks a partial answer with Weir-Incomplete. False: answered.
 */
bool views_usable(struct request *r, size_t failed);

/* Sort an array by @key (of an item; borrowed or in @scratch of 512 bytes) and answer the page that
 * limit and cursor ask for. Takes @items. */
typedef const char *views_key(const json_t *item, char *scratch);
void views_answer_page(struct request *r, json_t *items, views_key *key);
views_key views_key_name;

/* json_object_get and its value; 0 or "" when it is none. */
json_int_t views_count(const json_t *item, const char *field);
const char *views_text(const json_t *item, const char *field);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Finding objects, for the verbs that begin with that. */
#ifndef WEIR_CLI_GET_H
#define WEIR_CLI_GET_H
#include <jansson.h>

#include "base/text.h"
#include "cli/cli.h"
#include "cli/kind.h"

/* The kind of that name; tells which are known when there is none. */
enum cli_exit get_kind(const char *name, const struct kind **ret);
/* One object by name, fresh reference. */
enum cli_exit get_one(struct cli *c, const struct kind *k, const char *name, json_t **ret);
/* All that the arguments behind the kind name, as a fresh array. */
enum cli_exit get_named(struct cli *c, const struct kind *k, json_t **ret);
/* Append the filter options of streams as a query. */
void get_filters(const struct cli *c, struct text *query);
/* Print what comes over the live stream, line by line. */
enum cli_exit watch_kind(struct cli *c, const struct kind *k);

#endif

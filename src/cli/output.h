/* SPDX-License-Identifier: Apache-2.0 */
/* Objects to standard output in the format that was asked for. */
#ifndef WEIR_CLI_OUTPUT_H
#define WEIR_CLI_OUTPUT_H
#include <jansson.h>

#include "cli/cli.h"
#include "cli/kind.h"

/* @items: an array (borrowed); @one: it was asked for by name, so JSON and YAML show it bare. */
enum cli_exit output_items(struct cli *c, const struct kind *k, const json_t *items, bool one);
/* The same for things that are no kind: @columns for tables, @id for names. */
enum cli_exit output_rows(struct cli *c, const struct table_column *columns, size_t count,
                          const char *id, const json_t *items);
/* JSON to standard output, safe for terminals. */
enum cli_exit output_json(const json_t *value, bool one_line);
/* Which table style the options ask for. */
enum table_style output_style(const struct cli *c);

#endif

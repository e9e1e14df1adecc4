/* SPDX-License-Identifier: Apache-2.0 */
/* What describing has in common, whoever was asked. */
#ifndef WEIR_CLI_DESCRIBE_H
#define WEIR_CLI_DESCRIBE_H
#include <jansson.h>

#include "base/text.h"
#include "cli/cli.h"
#include "cli/kind.h"
#include "cli/table.h"

struct describe_line {
    const char *label, *path;
    enum table_format format;
};

void describe_title(struct text *out, const struct cli *c, const char *title);
/* One line each: label and value. */
void describe_lines(struct text *out, const json_t *o, const struct describe_line *lines,
                    size_t count);
/* A stream's "counters", by operation. */
void describe_counters(struct text *out, const struct cli *c, const json_t *counters);

/* `describe stream NAME... --gateway SOCKET`: the gateway itself is asked. */
enum cli_exit describe_socket(struct cli *c, const struct kind *k);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Latency told apart: what Weir held, what the storage took, and both, as figures and as bars. */
#ifndef WEIR_CLI_LATENCY_H
#define WEIR_CLI_LATENCY_H
#include <jansson.h>

#include "base/text.h"
#include "cli/cli.h"

/* The three rows of @latency ({"held": {"meanUs", ...}, "target", "total"}), each with a bar for
 * its part of the mean. */
void latency_rows(struct text *out, const struct cli *c, const json_t *latency);

/* How the I/Os that were done between two readings of a stream's "histograms" spread over time.
 * @before may be NULL: since the stream began. */
void latency_spread(struct text *out, const json_t *before, const json_t *after);

#endif

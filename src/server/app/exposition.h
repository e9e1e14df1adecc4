/* SPDX-License-Identifier: Apache-2.0 */
/* Prometheus text exposition (version 0.0.4): families, labels and values, escaped; pure. */
#ifndef WEIR_SERVER_APP_EXPOSITION_H
#define WEIR_SERVER_APP_EXPOSITION_H
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

#define EXPOSITION_BUCKETS 17u

struct label {
    const char *name, *value; /* name NULL ends a list */
};

/* "# HELP" and "# TYPE" of @family; once, before its values. */
void exposition_family(struct text *out, const char *family, const char *type, const char *help);

/* One value. Values of labels are escaped and cut at 256 bytes. */
void exposition_value(struct text *out, const char *family, const struct label *labels,
                      double value);
void exposition_count(struct text *out, const char *family, const struct label *labels,
                      uint64_t value);

/* The upper edges of exported histograms in microseconds, ascending. */
extern const uint64_t exposition_edges_us[EXPOSITION_BUCKETS];
/* One classic histogram: @cumulative[i] values at or below edge i, of @count in all. */
void exposition_histogram(struct text *out, const char *family, const struct label *labels,
                          const uint64_t cumulative[EXPOSITION_BUCKETS], uint64_t count,
                          double sum_seconds);

#endif

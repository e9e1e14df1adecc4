/* SPDX-License-Identifier: Apache-2.0 */
/* Sparse histograms as stored: a format byte, then pairs of varints (index step, count), index
 * ascending. */
#ifndef WEIR_SERVER_STORE_BLOB_H
#define WEIR_SERVER_STORE_BLOB_H
#include <stddef.h>
#include <stdint.h>

#include "qos/hist.h"
#include "server/services/record.h"

/* Index steps take at most 2 bytes (HIST_BUCKETS < 2^14), counts at most 10. */
#define BLOB_MAX        (1u + HIST_BUCKETS * 12u)
#define BLOB_SAMPLE_MAX (1u + SAMPLE_MAX_BUCKETS * 12u)

/* Both write at most the maximum above and return the length. */
size_t blob_from_sample(const struct sample_record *s, uint8_t out[BLOB_SAMPLE_MAX]);
size_t blob_from_hist(const struct hist *h, uint8_t out[BLOB_MAX]);

/* Add a blob's counts into @into (count and buckets; sum and max are the caller's). 0, or
 * WEIR_E_PARSE when it is not one of ours (then @into may hold a part). */
int blob_merge(struct hist *into, const void *bytes, size_t n);
/* Put a blob back into @s. 0, WEIR_E_PARSE, or WEIR_E_TOO_LARGE. */
int blob_to_sample(struct sample_record *s, const void *bytes, size_t n);

#endif

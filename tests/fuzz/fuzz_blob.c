/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: whatever stands in a database where a histogram should, reading it stays within bounds, and
 * what is taken for one is one: written again and read again it is the same. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "server/store/blob.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void as_hist(const uint8_t *data, size_t size)
{
    static struct hist first, second;
    static uint8_t again[BLOB_MAX];
    memset(&first, 0, sizeof(first));
    memset(&second, 0, sizeof(second));
    if (blob_merge(&first, data, size) != 0)
        return;
    size_t n = blob_from_hist(&first, again);
    weir_assert(n <= sizeof(again));
    weir_assert(blob_merge(&second, again, n) == 0);
    weir_assert(memcmp(&first, &second, sizeof(first)) == 0);
}

static void as_sample(const uint8_t *data, size_t size)
{
    static struct sample_record first, second;
    static uint8_t again[BLOB_SAMPLE_MAX];
    memset(&first, 0, sizeof(first));
    memset(&second, 0, sizeof(second));
    if (blob_to_sample(&first, data, size) != 0)
        return;
    size_t n = blob_from_sample(&first, again);
    weir_assert(n <= sizeof(again));
    weir_assert(blob_to_sample(&second, again, n) == 0);
    weir_assert(memcmp(&first, &second, sizeof(first)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    as_hist(data, size);
    as_sample(data, size);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "server/store/blob.h"

#include "base/assert.h"
#include "base/err.h"

#define BLOB_FORMAT 1u

_Static_assert(HIST_BUCKETS < 1u << 14, "an index step fits two varint bytes");

static size_t varint_put(uint64_t n, uint8_t *out)
{
    size_t len = 0;
    for (; n >= 0x80; n >>= 7)
        out[len++] = (uint8_t)(n | 0x80);
    out[len++] = (uint8_t)n;
    return len;
}

/* Bytes used, 0 when cut short or longer than 64 bits. */
static size_t varint_get(const uint8_t *in, size_t size, uint64_t *ret)
{
    uint64_t n = 0;
    for (size_t i = 0; i < size && i < 10; i++) {
        n |= (uint64_t)(in[i] & 0x7f) << (7 * i);
        if ((in[i] & 0x80) == 0) {
            *ret = n;
            return i + 1;
        }
    }
    return 0;
}

size_t blob_from_sample(const struct sample_record *s, uint8_t out[BLOB_SAMPLE_MAX])
{
    weir_assert(s->bucket_count <= SAMPLE_MAX_BUCKETS);
    size_t len = 0;
    uint32_t last = 0;
    out[len++] = BLOB_FORMAT;
    for (uint32_t i = 0; i < s->bucket_count; i++) {
        uint32_t index = s->bucket[i].index;
        weir_assert(index >= last && index < HIST_BUCKETS);
        len += varint_put(index - last, out + len);
        len += varint_put(s->bucket[i].count, out + len);
        last = index;
    }
    return len;
}

size_t blob_from_hist(const struct hist *h, uint8_t out[BLOB_MAX])
{
    size_t len = 0;
    uint32_t last = 0;
    out[len++] = BLOB_FORMAT;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        if (h->bucket[i] == 0)
            continue;
        len += varint_put(i - last, out + len);
        len += varint_put(h->bucket[i], out + len);
        last = i;
    }
    return len;
}

/* The next pair at *@at; 1, 0 at the end, or WEIR_E_PARSE. */
static int pair_next(const uint8_t *in, size_t n, size_t *at, uint64_t *index, uint64_t *count)
{
    if (*at == n)
        return 0;
    uint64_t step;
    size_t used = varint_get(in + *at, n - *at, &step);
    if (used == 0 || step >= HIST_BUCKETS || *index + step >= HIST_BUCKETS)
        return WEIR_E_PARSE;
    *at += used;
    *index += step;
    used = varint_get(in + *at, n - *at, count);
    if (used == 0)
        return WEIR_E_PARSE;
    *at += used;
    return 1;
}

int blob_merge(struct hist *into, const void *bytes, size_t n)
{
    const uint8_t *in = bytes;
    if (n == 0 || in[0] != BLOB_FORMAT)
        return WEIR_E_PARSE;
    size_t at = 1;
    uint64_t index = 0, count = 0;
    int rc;
    while ((rc = pair_next(in, n, &at, &index, &count)) == 1) {
        into->bucket[index] += count;
        into->count += count;
    }
    return rc;
}

int blob_to_sample(struct sample_record *s, const void *bytes, size_t n)
{
    const uint8_t *in = bytes;
    if (n == 0 || in[0] != BLOB_FORMAT)
        return WEIR_E_PARSE;
    size_t at = 1;
    uint64_t index = 0, count = 0;
    int rc;
    s->bucket_count = 0;
    while ((rc = pair_next(in, n, &at, &index, &count)) == 1) {
        if (s->bucket_count == SAMPLE_MAX_BUCKETS || count > UINT32_MAX)
            return WEIR_E_TOO_LARGE;
        s->bucket[s->bucket_count].index = (uint16_t)index;
        s->bucket[s->bucket_count].count = (uint32_t)count;
        s->bucket_count++;
    }
    return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Quantities as people write them, in and out: rates, sizes, latencies, durations, percentages. */
#ifndef WEIR_BASE_UNITS_H
#define WEIR_BASE_UNITS_H
#include <stddef.h>
#include <stdint.h>

/* "No limit": written `unlimited` or null, never 0. */
#define UNITS_UNLIMITED UINT64_MAX

/* Each parser takes the whole of @text, or returns WEIR_E_INVALID and points *@ret_expected (may be
 * NULL) at static words for what was expected. Binary: KiB MiB GiB TiB; decimal: kB MB GB TB; a
 * bare K, M or G is refused. Zero is refused where it would mean "none". Pure, any thread. */

/* "4000", "4k" is refused, "4000/s", "unlimited" -> I/Os per second, 1..1e9. */
int units_parse_iops(const char *text, uint64_t *ret, const char **ret_expected);
/* "400MiB/s", "50MB/s", "1048576B/s", "1048576", "unlimited" -> bytes per second, >= 1. */
int units_parse_bandwidth(const char *text, uint64_t *ret, const char **ret_expected);
/* "4KiB", "256 KiB", "512" -> bytes, >= 0. */
int units_parse_size(const char *text, uint64_t *ret, const char **ret_expected);
/* "5ms", "800us", "1.5s" -> microseconds, > 0. A bare number is refused. */
int units_parse_latency_us(const char *text, uint64_t *ret, const char **ret_expected);
/* "10s", "5m", "2h", "30d", "250ms", "PT10S" (ISO 8601) -> nanoseconds, > 0. */
int units_parse_duration_ns(const char *text, uint64_t *ret, const char **ret_expected);
/* "99.9%" or "99.9" -> parts per million, 0..1000000. */
int units_parse_percent_ppm(const char *text, uint32_t *ret, const char **ret_expected);
/* "on/off, yes/no, true/false" -> 1/0. */
int units_parse_bool(const char *text, int *ret, const char **ret_expected);

/* Formatters write at most @size bytes, terminated, and return @out. */
char *units_format_count(uint64_t n, char *out, size_t size);           /* 950, 12.3k, 1.2M */
char *units_format_bandwidth(uint64_t bytes_s, char *out, size_t size); /* 400MiB/s, unlimited */
char *units_format_size(uint64_t bytes, char *out, size_t size);        /* 4KiB */
char *units_format_latency_us(uint64_t us, char *out, size_t size);     /* 812us, 5.25ms, 1.20s */
char *units_format_duration_ns(uint64_t ns, char *out, size_t size);    /* 10s, 5m, 30d */
char *units_format_duration_iso(uint64_t ns, char *out, size_t size);   /* PT10S, P30D */

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The two clocks: monotonic for every decision, wall for what people read. */
#ifndef WEIR_BASE_CLOCK_H
#define WEIR_BASE_CLOCK_H
#include <stddef.h>
#include <stdint.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

/* CLOCK_MONOTONIC in ns. Any thread. Never called from qos/, proto/, control/ or services/. */
uint64_t clock_mono_ns(void);

/* Between two looks at something that another processor changes soon. */
static inline void clock_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Wall clock: microseconds since 1970-01-01 UTC. Any thread. */
int64_t clock_wall_us(void);

/* "2026-11-23T06:37:06.123Z" (RFC 3339, milliseconds, UTC) into @text of at least 32 bytes. Pure.
 * */
void clock_format_wall(int64_t wall_us, char *text, size_t size);
/* Whole seconds since 1970 of such a text, a fraction left out; INT64_MIN: it is none. Pure. */
int64_t clock_parse_wall_s(const char *text);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Assertions that are always on: a failed one is a bug of ours, and ends the process. */
#ifndef WEIR_BASE_ASSERT_H
#define WEIR_BASE_ASSERT_H

/* Print file, line and condition to stderr, then abort. Any thread. */
_Noreturn void weir_assert_failed(const char *file, int line, const char *condition);

/* One condition each; never for what a peer, a file or the machine can cause. */
#define weir_assert(cond) \
    ((cond) ? (void)0 : weir_assert_failed(__FILE__, __LINE__, #cond))

/* A place that no path of ours leads to. */
#define weir_unreachable(words) weir_assert_failed(__FILE__, __LINE__, words)

#endif

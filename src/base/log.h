/* SPDX-License-Identifier: Apache-2.0 */
/* Logging: one line per event on stderr, levelled, with a bound on how many lines a second. */
#ifndef WEIR_BASE_LOG_H
#define WEIR_BASE_LOG_H
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Set up once in main, before threads and once standard error is what it shall be (again when that
 * changes). @program is borrowed for ever. Under systemd (JOURNAL_STREAM set) lines carry the <N>
 * priority prefix, else a time stamp. */
void log_init(const char *program, enum log_level max);

/* Another bound, and nothing else: what log_init opened stays open, which other threads may be
 * writing to. Any thread. */
void log_set_level(enum log_level max);

/* Parse "error", "warning", "info", "debug". 0 or WEIR_E_INVALID. */
int log_level_parse(const char *text, enum log_level *ret_level);

/* Write one line. At most 200 lines a second; those above are counted, and the count is printed
 * when the second is over. Never waits: what standard error does not take at once is dropped and
 * counted, and the next line says so. Control characters in the text are escaped. Any thread; one
 * system call a line. Libraries never log: the owner of an error logs it once. */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One log line for each line of @lines; NULL is none. */
void log_lines(enum log_level level, const char *lines);

/* Lines that standard error did not take, since the program began. Any thread. */
uint64_t log_dropped(void);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Logging.
 *
 * Problem: a storm of events must not fill a disk or stall a thread behind a slow terminal reader.
 * Model: one 64-bit atomic holds the second and the number of lines in it; a line beyond the bound
 * is only counted. The first line of a later second that finds lines left out says how many.
 * Invariants: (1) at most LINES_PER_SECOND lines and one notice a second; (2) every line is one
 * write(2) of at most LINE_MAX_BYTES; (3) no control character of outside text reaches the file.
 *
 * The one place in Weir with mutable state at file scope: standard error is one per process too. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/text.h"

#define LINES_PER_SECOND 200u
#define LINE_MAX_BYTES 4096u

static const char *_Atomic log_program = "weir";
static atomic_int log_max = LOG_LEVEL_INFO;
static atomic_bool log_journal;
/* Upper half: second; lower half: lines asked for in it. */
static _Atomic uint64_t log_window;

static const struct {
    const char *name;
    int priority; /* syslog's, for sd-daemon(3) prefixes */
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", 3},
    [LOG_LEVEL_WARNING] = {"warning", 4},
    [LOG_LEVEL_INFO] = {"info", 6},
    [LOG_LEVEL_DEBUG] = {"debug", 7},
};

void log_init(const char *program, enum log_level max)
{
    weir_assert(max <= LOG_LEVEL_DEBUG);
    atomic_store(&log_program, program);
    atomic_store(&log_max, (int)max);
    atomic_store(&log_journal, getenv("JOURNAL_STREAM") != NULL);
}

int log_level_parse(const char *text, enum log_level *ret_level)
{
    for (int i = LOG_LEVEL_ERROR; i <= LOG_LEVEL_DEBUG; i++) {
        if (strcmp(levels[i].name, text) == 0) {
            *ret_level = (enum log_level)i;
            return 0;
        }
    }
    return WEIR_E_INVALID;
}

/* Whether a line may be written now; *@ret_left_out: lines of an earlier second that were not. */
static bool admit(uint32_t *ret_left_out)
{
    uint32_t second = (uint32_t)(clock_mono_ns() / NS_PER_S);
    uint64_t old = atomic_load(&log_window);
    uint64_t new;
    do {
        uint32_t lines = (uint32_t)old;
        bool same = (uint32_t)(old >> 32) == second;
        new = ((uint64_t)second << 32) | (same ? lines + (lines < UINT32_MAX) : 1u);
        *ret_left_out = !same && lines > LINES_PER_SECOND ? lines - LINES_PER_SECOND : 0;
    } while (!atomic_compare_exchange_weak(&log_window, &old, new));
    return (uint32_t)new <= LINES_PER_SECOND;
}

static void put_line(enum log_level level, const char *words, size_t n)
{
    char line[LINE_MAX_BYTES];
    size_t used;
    if (atomic_load(&log_journal)) {
        used = (size_t)snprintf(line, sizeof(line), "<%d>", levels[level].priority);
    } else {
        char stamp[32];
        clock_format_wall(clock_wall_us(), stamp, sizeof(stamp));
        used = (size_t)snprintf(line, sizeof(line), "%s %.64s %s: ", stamp,
                                atomic_load(&log_program), levels[level].name);
    }
    weir_assert(used + 1 < sizeof(line));
    used += text_escape(line + used, sizeof(line) - used - 1, words, n);
    line[used++] = '\n';
    /* Nobody is left to tell when standard error fails. */
    ssize_t done = write(STDERR_FILENO, line, used);
    (void)done;
}

void log_write(enum log_level level, const char *format, ...)
{
    weir_assert(level <= LOG_LEVEL_DEBUG);
    uint32_t left_out;
    if ((int)level > atomic_load(&log_max) || !admit(&left_out))
        return;
    char words[2048];
    if (left_out > 0) {
        int n = snprintf(words, sizeof(words), "%u more lines were left out", left_out);
        put_line(LOG_LEVEL_WARNING, words, (size_t)n);
    }

    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(words, sizeof(words), format, ap);
    va_end(ap);
    if (n >= 0)
        put_line(level, words, (size_t)n < sizeof(words) ? (size_t)n : sizeof(words) - 1);
}

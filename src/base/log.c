/* SPDX-License-Identifier: Apache-2.0 */
/* Logging.
 *
 * Problem: a storm of events must not fill a disk or stall a thread behind a slow terminal reader.
 * Model: one 64-bit atomic holds the second and the number of lines in it; a line beyond the bound
 * is only counted. The first line of a later second that finds lines left out says how many.
 *
 * Standard error may be a pipe or a socket whose reader has stopped. A reactor must not wait for
 * it, so a line that does not go at once is dropped and counted, and the next one that goes says
 * so. Standard error itself cannot be made non-blocking: its description is shared with whoever
 * started us. log_init opens a description of our own; for a socket, which cannot be opened again,
 * each send says that it will not wait; what allows neither is asked first whether it takes a line
 * (a pipe that says so takes PIPE_BUF bytes, which is what a line may have).
 *
 * Invariants: (1) at most LINES_PER_SECOND lines and one notice a second; (2) every line is one
 * write of at most LINE_MAX_BYTES; (3) no control character of outside text reaches the file;
 * (4) no call here waits for a reader.
 *
 * The one place in Weir with mutable state at file scope: standard error is one per process too. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/text.h"

#define LINES_PER_SECOND 200u
#define LINE_MAX_BYTES 4096u
_Static_assert(LINE_MAX_BYTES <= PIPE_BUF, "a line goes to a pipe whole or not at all");

/* How a line is written without waiting. */
enum log_way {
    LOG_ASK,   /* poll, then write */
    LOG_WRITE, /* a regular file, or a description of our own that does not block */
    LOG_SEND,  /* a socket */
};

static const char *_Atomic log_program = "weir";
static atomic_int log_max = LOG_LEVEL_INFO;
static atomic_bool log_journal;
/* Upper half: second; lower half: lines asked for in it. */
static _Atomic uint64_t log_window;
static atomic_int log_fd = STDERR_FILENO;
static atomic_int log_way = LOG_ASK;
static _Atomic uint64_t log_lost;       /* lines that standard error did not take, ever */
static _Atomic uint64_t log_lost_told;  /* of which so many were told of */
static atomic_bool log_torn;            /* a line was cut off: begin the next on its own */

static const struct {
    const char *name;
    int priority; /* syslog's, for sd-daemon(3) prefixes */
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", 3},
    [LOG_LEVEL_WARNING] = {"warning", 4},
    [LOG_LEVEL_INFO] = {"info", 6},
    [LOG_LEVEL_DEBUG] = {"debug", 7},
};

/* Find the way to write to what standard error is now. */
static void choose_way(void)
{
    struct stat st;
    int old = atomic_load(&log_fd), fd = STDERR_FILENO;
    enum log_way way = LOG_ASK;
    if (fstat(STDERR_FILENO, &st) < 0 || S_ISREG(st.st_mode)) {
        way = LOG_WRITE;
    } else if (S_ISSOCK(st.st_mode)) {
        way = LOG_SEND;
    } else {
        int own = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (own >= 0) {
            fd = own;
            way = LOG_WRITE;
        }
    }
    atomic_store(&log_way, (int)way);
    atomic_store(&log_fd, fd);
    if (old != STDERR_FILENO)
        close(old);
}

void log_init(const char *program, enum log_level max)
{
    weir_assert(max <= LOG_LEVEL_DEBUG);
    choose_way();
    atomic_store(&log_program, program);
    atomic_store(&log_max, (int)max);
    atomic_store(&log_journal, getenv("JOURNAL_STREAM") != NULL);
}

void log_set_level(enum log_level max)
{
    weir_assert(max <= LOG_LEVEL_DEBUG);
    atomic_store(&log_max, (int)max);
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

/* Write @n bytes without waiting. Returns what was taken, or -errno. */
static ssize_t put_bytes(const char *bytes, size_t n)
{
    int fd = atomic_load(&log_fd);
    ssize_t done;
    do {
        switch ((enum log_way)atomic_load(&log_way)) {
        case LOG_ASK: {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            if (poll(&p, 1, 0) == 0)
                return -EAGAIN;
            done = write(fd, bytes, n);
            break;
        }
        case LOG_WRITE:
            done = write(fd, bytes, n);
            break;
        case LOG_SEND:
            done = send(fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);
            break;
        default:
            weir_unreachable("no such way");
        }
    } while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : done;
}

/* False: it was dropped, and counted. */
static bool put_line(enum log_level level, const char *words, size_t n)
{
    char line[LINE_MAX_BYTES];
    size_t used = 0;
    bool torn = atomic_exchange(&log_torn, false);
    if (torn)
        line[used++] = '\n';
    if (atomic_load(&log_journal)) {
        used += (size_t)snprintf(line + used, sizeof(line) - used, "<%d>", levels[level].priority);
    } else {
        char stamp[32];
        clock_format_wall(clock_wall_us(), stamp, sizeof(stamp));
        used += (size_t)snprintf(line + used, sizeof(line) - used, "%s %.64s %s: ", stamp,
                                 atomic_load(&log_program), levels[level].name);
    }
    weir_assert(used + 1 < sizeof(line));
    used += text_escape(line + used, sizeof(line) - used - 1, words, n);
    line[used++] = '\n';
    ssize_t done = put_bytes(line, used);
    if (done == (ssize_t)used)
        return true;
    /* Nobody is left to tell when standard error fails; when it is full, it will be told later. */
    if (done > 0 || torn)
        atomic_store(&log_torn, true);
    atomic_fetch_add(&log_lost, 1);
    return false;
}

uint64_t log_dropped(void)
{
    return atomic_load(&log_lost);
}

/* Say how many lines standard error did not take since this was last said. */
static void tell_lost(void)
{
    uint64_t lost = atomic_load(&log_lost), told = atomic_load(&log_lost_told);
    if (lost == told || !atomic_compare_exchange_strong(&log_lost_told, &told, lost))
        return;
    char words[96];
    int n = snprintf(words, sizeof(words),
                     "%llu lines were lost: standard error took no more",
                     (unsigned long long)(lost - told));
    if (put_line(LOG_LEVEL_WARNING, words, (size_t)n))
        return;
    /* The notice is no line of anybody's: it is told of with the rest. */
    atomic_fetch_sub(&log_lost, 1);
    atomic_fetch_sub(&log_lost_told, lost - told);
}

void log_write(enum log_level level, const char *format, ...)
{
    weir_assert(level <= LOG_LEVEL_DEBUG);
    uint32_t left_out;
    if ((int)level > atomic_load(&log_max) || !admit(&left_out))
        return;
    tell_lost();
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

void log_lines(enum log_level level, const char *lines)
{
    while (lines != NULL && *lines != '\0') {
        size_t n = strcspn(lines, "\n");
        if (n > 0)
            log_write(level, "%.*s", (int)n, lines);
        lines += n + (lines[n] == '\n');
    }
}

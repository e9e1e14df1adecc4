/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/text.h"

#define LINE_MAX_  512u
#define FIELDS_MAX 12u
#define FILE_MAX   ((size_t)2 << 30)
#define BYTES_MAX  (UINT64_C(1) << 30)

/* Cut @line at @separators into fields. */
static size_t fields(char *line, const char *separators, char *out[FIELDS_MAX])
{
    size_t n = 0;
    char *save = NULL;
    for (char *f = strtok_r(line, separators, &save); f != NULL && n < FIELDS_MAX;
         f = strtok_r(NULL, separators, &save))
        out[n++] = f;
    return n;
}

static bool whole(const char *s, uint64_t *ret)
{
    char *end;
    unsigned long long v = strtoull(s, &end, 10);
    *ret = v;
    return s[0] >= '0' && s[0] <= '9' && (*end == '\0' || *end == '\r');
}

/* Each: one line into one I/O, times in 100 ns as a double for the whole file. False: no I/O. */
static bool line_msr(char *line, double *ret_at, struct sim_trace_io *io)
{
    char *f[FIELDS_MAX];
    uint64_t at, bytes;
    if (fields(line, ",", f) < 6 || !whole(f[0], &at) || !whole(f[5], &bytes))
        return false;
    if (strcmp(f[3], "Read") != 0 && strcmp(f[3], "Write") != 0)
        return false;
    io->write = f[3][0] == 'W';
    io->bytes = bytes;
    *ret_at = (double)at * 100.0;
    return true;
}

/* "8,0 1 5 0.000012 512 Q R 2048 + 8 [fio]" */
static bool line_blkparse(char *line, double *ret_at, struct sim_trace_io *io)
{
    char *f[FIELDS_MAX];
    uint64_t sectors;
    if (fields(line, " \t", f) < 10 || strcmp(f[5], "Q") != 0 || strcmp(f[8], "+") != 0)
        return false;
    if (!whole(f[9], &sectors) || sectors == 0)
        return false;
    io->write = strchr(f[6], 'W') != NULL;
    if (!io->write && strchr(f[6], 'R') == NULL)
        return false;
    io->bytes = sectors * 512;
    *ret_at = strtod(f[3], NULL) * 1e9;
    return true;
}

static bool line_cloudphysics(char *line, double *ret_at, struct sim_trace_io *io)
{
    char *f[FIELDS_MAX], *end;
    if (fields(line, ", \t", f) < 4 || !whole(f[3], &io->bytes) || io->bytes == 0)
        return false;
    *ret_at = strtod(f[0], &end) * 1e9;
    if (end == f[0] || *end != '\0')
        return false;
    io->write =
        f[1][0] == 'W' || f[1][0] == 'w' || strcmp(f[1], "2A") == 0 || strcmp(f[1], "2a") == 0;
    return io->write || f[1][0] == 'R' || f[1][0] == 'r' || strcmp(f[1], "28") == 0;
}

static int order(const void *a, const void *b)
{
    const struct sim_trace_io *x = a, *y = b;
    return x->at_ns < y->at_ns ? -1 : x->at_ns > y->at_ns;
}

struct growing {
    struct sim_trace_io *io;
    double *at;
    size_t count, capacity;
};

static int grow(struct growing *g)
{
    if (g->count < g->capacity)
        return 0;
    if (g->count >= TRACE_IOS_MAX)
        return WEIR_E_TOO_LARGE;
    size_t capacity = g->capacity == 0 ? 4096 : 2 * g->capacity;
    struct sim_trace_io *io = reallocarray(g->io, capacity, sizeof *io);
    if (io == NULL)
        return WEIR_E_TOO_LARGE;
    g->io = io;
    double *at = reallocarray(g->at, capacity, sizeof *at);
    if (at == NULL)
        return WEIR_E_TOO_LARGE;
    g->at = at;
    g->capacity = capacity;
    return 0;
}

static int finish(struct growing *g, double speed)
{
    double first = g->at[0];
    for (size_t i = 1; i < g->count; i++)
        first = g->at[i] < first ? g->at[i] : first;
    for (size_t i = 0; i < g->count; i++) {
        double ns = (g->at[i] - first) / speed;
        g->io[i].at_ns = ns < 6e17 ? (uint64_t)ns : UINT64_C(600000000000000000);
    }
    qsort(g->io, g->count, sizeof *g->io, order);
    return 0;
}

int trace_parse(const char *text, size_t size, const char *format, double speed,
                struct sim_trace_io **ret, size_t *ret_count, char *why, size_t why_size)
{
    bool (*line_of)(char *, double *, struct sim_trace_io *) = NULL;
    if (strcmp(format, "msr") == 0)
        line_of = line_msr;
    else if (strcmp(format, "blkparse") == 0)
        line_of = line_blkparse;
    else if (strcmp(format, "cloudphysics") == 0)
        line_of = line_cloudphysics;
    if (line_of == NULL) {
        snprintf(why, why_size, "traceFormat %.40s: expected msr, blkparse or cloudphysics",
                 format);
        return WEIR_E_INVALID;
    }
    struct growing g = {0};
    int r = 0;
    for (size_t at = 0; r == 0 && at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t n = end != NULL ? (size_t)(end - text) - at : size - at;
        char line[LINE_MAX_];
        if (n < sizeof line && memchr(text + at, '\0', n) == NULL) {
            memcpy(line, text + at, n);
            line[n] = '\0';
            r = grow(&g);
            if (r == 0 && line_of(line, &g.at[g.count], &g.io[g.count])) {
                uint64_t *bytes = &g.io[g.count].bytes;
                *bytes = *bytes < BYTES_MAX ? *bytes : BYTES_MAX;
                g.count++;
            }
        }
        at += n + 1;
    }
    if (r == 0 && g.count == 0) {
        snprintf(why, why_size, "no I/O in it that could be read as %s", format);
        r = WEIR_E_INVALID;
    } else if (r != 0) {
        snprintf(why, why_size, "more than %u I/Os", TRACE_IOS_MAX);
    }
    if (r == 0)
        r = finish(&g, speed);
    free(g.at);
    if (r != 0) {
        free(g.io);
        return r;
    }
    *ret = g.io;
    *ret_count = g.count;
    return 0;
}

int trace_read(const char *folder, const char *file, const char *format, double speed,
               struct sim_trace_io **ret, size_t *ret_count, char *why, size_t why_size)
{
    char path[1024], *data = NULL;
    size_t size = 0;
    snprintf(path, sizeof path, "%s%s%s", file[0] == '/' ? "" : folder,
             file[0] == '/' || folder[0] == '\0' ? "" : "/", file);
    int r = text_read_file(path, FILE_MAX, &data, &size);
    if (r < 0) {
        snprintf(why, why_size, "%.200s: %s", path, weir_strerror(r));
        return r;
    }
    r = trace_parse(data, size, format, speed, ret, ret_count, why, why_size);
    free(data);
    return r;
}

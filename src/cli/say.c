/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

void cli_put(const struct text *out)
{
    fwrite(out->data, 1, out->len, stdout);
}

enum cli_exit cli_fail(enum cli_exit code, const char *format, ...)
{
    char words[8192];
    va_list ap;
    va_start(ap, format);
    vsnprintf(words, sizeof(words), format, ap);
    va_end(ap);
    /* Lines of ours stay lines; what came from outside has none that matter. */
    fflush(stdout);
    for (char *line = words, *next; line; line = next) {
        char shown[2 * sizeof(words)];
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        text_escape(shown, sizeof(shown), line, strlen(line));
        fprintf(stderr, "weir: %s\n", shown);
    }
    return code;
}

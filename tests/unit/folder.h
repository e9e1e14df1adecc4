/* SPDX-License-Identifier: Apache-2.0 */
/* A fresh folder for a test, under TMPDIR or else /tmp. */
#ifndef WEIR_TESTS_FOLDER_H
#define WEIR_TESTS_FOLDER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

/* Make it and put its path into @out. False: it could not be made, or its path is too long. */
static inline bool folder_make(char *out, size_t size, const char *name)
{
    const char *tmp = getenv("TMPDIR");
    int n = snprintf(out, size, "%s/weir-%s-XXXXXX", tmp && *tmp ? tmp : "/tmp", name);
    return n > 0 && (size_t)n < size && mkdtemp(out);
}

#endif

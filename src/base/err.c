/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

const char *weir_strerror(int code)
{
    if (code == 0)
        return "success";
    switch (code) {
#define X(name, number, words) \
    case WEIR_E_##name:        \
        return words;
        WEIR_ERR_TABLE(X)
#undef X
    default: {
        /* Static text in glibc, so safe from any thread. */
        const char *words = strerrordesc_np(code < 0 ? -code : code);
        return words ? words : "unknown error";
    }
    }
}

/* Names in the table are capitals; people and labels read small letters and dashes. */
const char *weir_err_name(int code)
{
    static const struct {
        int code;
        const char *name;
    } names[] = {
        {WEIR_E_PROTO, "proto"},
        {WEIR_E_VERSION, "version"},
        {WEIR_E_AUTH, "auth"},
        {WEIR_E_TOO_LARGE, "too-large"},
        {WEIR_E_PARSE, "parse"},
        {WEIR_E_INVALID, "invalid"},
        {WEIR_E_NOT_FOUND, "not-found"},
        {WEIR_E_EXISTS, "exists"},
        {WEIR_E_CONFLICT, "conflict"},
        {WEIR_E_CLOSED, "closed"},
        {WEIR_E_TIMEOUT, "timeout"},
        {WEIR_E_FULL, "full"},
        {WEIR_E_UNAVAILABLE, "unavailable"},
        {WEIR_E_REFUSED, "refused"},
    };
#define X(name, number, words) +1
    _Static_assert(sizeof(names) / sizeof(names[0]) == (0 WEIR_ERR_TABLE(X)),
                   "every code of the table has a name");
#undef X

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].code == code)
            return names[i].name;
    }
    return code == 0 ? "ok" : "errno";
}

void weir_assert_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, condition);
    fflush(stderr);
    abort();
}

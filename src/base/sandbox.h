/* SPDX-License-Identifier: Apache-2.0 */
/* What a daemon gives up once it runs: system calls it has no use for, new privileges, core dumps.
 *
 * Not in builds with a sanitizer, whose run-time needs more than the program does. */
#ifndef WEIR_BASE_SANDBOX_H
#define WEIR_BASE_SANDBOX_H
#include <stdbool.h>
#include <stddef.h>

enum sandbox_role {
    SANDBOX_GATEWAY,   /* relays: no program is ever started */
    SANDBOX_SUPERVISOR, /* starts and watches programs of ours */
    SANDBOX_SERVER,
};

/* Take it all from every thread of this process, those to come included. For good. 0, or an error
 * code with words when the kernel does not do it (nothing is taken then but new privileges and core
 * dumps). */
int sandbox_enter(enum sandbox_role role, char *words, size_t size);
/* False in builds with a sanitizer: sandbox_enter does nothing there. */
bool sandbox_is_built(void);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What a gateway process does to itself before it serves: where state goes, descriptors, timers,
 * words to the service manager. All of it happens here, in the manager before any worker starts
 * (setup_process) and in each worker before it takes its first connection (setup_worker). */
#ifndef WEIR_GATEWAY_SETUP_H
#define WEIR_GATEWAY_SETUP_H
#include <stdint.h>
#include <sys/types.h>

#include "base/sandbox.h"
#include "gateway/config.h"
#include "gateway/options.h"

/* Settle where state and the local socket go (changes @c), raise the bound on descriptors, make
 * timers exact. 0, or a negative code after saying what is wrong. */
int setup_process(struct gateway_config *c, const struct options *o);
/* In a worker that @manager started: end when it ends, keep out of the terminal's signals. */
int setup_worker(pid_t manager);

/* Everything is open: give up what @role does not need. A kernel that has no filter still has a
 * gateway, and a warning. */
void setup_sandbox(enum sandbox_role role);
/* In a manager that an upgrade started: the filter came along over exec, and another with each
 * upgrade would be one more for every call; take what did not come. */
void setup_sandbox_resume(void);

/* Tell the service manager, if there is one: "READY=1", "STOPPING=1", "WATCHDOG=1". */
void setup_notify(const char *state);
/* How often it wants to hear "WATCHDOG=1", halved; 0: it does not. */
uint64_t setup_watchdog_ns(void);

#endif

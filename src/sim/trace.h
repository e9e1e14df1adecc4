/* SPDX-License-Identifier: Apache-2.0 */
/* Block traces from files, as loads replay them. */
#ifndef WEIR_SIM_TRACE_H
#define WEIR_SIM_TRACE_H
#include <stddef.h>

#include "sim/sim.h"

#define TRACE_IOS_MAX 20000000u

/* @file, relative to @folder unless it begins with a slash. @format:
 *   "msr"        MSR Cambridge CSV: Timestamp (100 ns), Hostname, Disk, Type, Offset, Size, ...
 *   "blkparse"   text of blkparse's default form; lines of action Q count
 *   "cloudphysics"  CSV: time in seconds, R or W (or op code 28/2A hex), logical block, bytes
 * Times count from the first I/O and are divided by @speed. Lines that are no I/O are passed over;
 * a file with none is refused. 0 with a fresh array, ascending; or a code with @why. */
int trace_read(const char *folder, const char *file, const char *format, double speed,
               struct sim_trace_io **ret, size_t *ret_count, char *why, size_t why_size);
/* The same from text. */
int trace_parse(const char *text, size_t size, const char *format, double speed,
                struct sim_trace_io **ret, size_t *ret_count, char *why, size_t why_size);

#endif

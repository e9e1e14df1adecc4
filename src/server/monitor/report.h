/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics from the wire's form into plain data of one block; pure. */
#ifndef WEIR_SERVER_MONITOR_REPORT_H
#define WEIR_SERVER_MONITOR_REPORT_H
#include <stddef.h>
#include <stdint.h>

#include "control/frame.h"
#include "server/services/report.h"

/* A name from a gateway, which should have escaped it: kept as it is when it is in escaped form and
 * fits, else escaped here. */
void report_name(const char *name, char out[NAME_SIZE]);

/* Printable ASCII of @s, cut to @size; all else becomes '?'. */
void report_words(char *out, size_t size, const char *s);

/* @s passed frame_unpack. A block of @slab, given back with report_free from any thread. NULL: the
 * slab's bound is reached. Without a slab: from malloc, given back with free. */
struct slab;
struct report *report_new(const Weir__Control__Statistics *s, uint64_t session, struct slab *slab);
void report_free(void *report);

#endif

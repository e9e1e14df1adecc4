/* SPDX-License-Identifier: Apache-2.0 */
/* A thread that writes one small file, so that an fsync never keeps I/O waiting. */
#ifndef WEIR_GATEWAY_LINK_DISK_H
#define WEIR_GATEWAY_LINK_DISK_H
#include <stdbool.h>
#include <stddef.h>

struct link_disk;

/* @path is copied. Starts the thread (all signals blocked in it). NULL: no memory or no thread. */
struct link_disk *link_disk_new(const char *path);
/* Writes what still waits, once, then ends the thread. */
void link_disk_free(struct link_disk *d);

/* Hand over the file's new content (from malloc; taken). What was not begun yet is replaced: only
 * the newest matters. Returns at once. What cannot be written is tried again every few seconds. */
void link_disk_put(struct link_disk *d, void *bytes, size_t n);

/* Whether everything handed over is written and synced. */
bool link_disk_idle(struct link_disk *d);

/* Of the last write: 0 or -errno. */
int link_disk_error(struct link_disk *d);

#endif
